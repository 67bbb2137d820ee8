/* pipeline/id_set.h - a small set of key ids, sorted. */
#pragma once

#include "core/cleanup.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_set {
    uint64_t *ids;
    size_t n;
    size_t cap;
};

void id_set_deinit(struct id_set *s);
MUST_CHECK enum status id_set_add(struct id_set *s, uint64_t id, struct error *err);
bool id_set_has(const struct id_set *s, uint64_t id);
