/* pipeline/heap.h - a binary min-heap of (due time, key id), for the timers of a worker. */
#pragma once

#include "pipeline/id_set.h"

#include <stddef.h>
#include <stdint.h>

struct heap_item {
    int64_t due_us;
    uint64_t key_id;
};

struct heap {
    struct heap_item *items;
    size_t n;
    size_t cap;
};

void heap_deinit(struct heap *h);
MUST_CHECK enum status heap_push(struct heap *h, struct heap_item item);
/* The heap must not be empty. */
struct heap_item heap_top(const struct heap *h);
void heap_pop(struct heap *h);
void heap_drop_keys(struct heap *h, const struct id_set *keys);
/* Brings every item forward by so much; the order stays. */
void heap_advance(struct heap *h, int64_t us);
