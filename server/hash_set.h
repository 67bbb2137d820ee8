/* server/hash_set.h - a set of 64-bit hashes: grows by adding, is sorted when it is searched. Zero
 * it to begin with; hash_set_deinit() frees it. */
#pragma once

#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash_set {
    uint64_t *items;
    size_t n, cap;
    bool sorted;
};
void hash_set_deinit(struct hash_set *set);
/* NOMEM. The same hash may be added again. */
MUST_CHECK enum status hash_set_add(struct hash_set *set, uint64_t hash, struct error *err);
bool hash_set_has(struct hash_set *set, uint64_t hash);
