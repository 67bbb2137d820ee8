/*
 * pipeline/outbox.h - rows that are due but not yet handed to the sink: (key, table) in order, no
 * payload. Each pair stands in it at most once, so its size is bounded by the keys.
 */
#pragma once

#include "pipeline/id_set.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct outbox_item {
    uint64_t key_id;
    uint32_t table;
};

struct outbox {
    struct outbox_item *ring;
    size_t first;
    size_t n;
    size_t cap; /* a power of two */
};

void outbox_deinit(struct outbox *o);
MUST_CHECK enum status outbox_push(struct outbox *o, struct outbox_item item);
bool outbox_pop(struct outbox *o, struct outbox_item *ret);
void outbox_drop_keys(struct outbox *o, const struct id_set *keys);
