#include "pipeline/heap.h"

#include <assert.h>
#include <stdlib.h>

void heap_deinit(struct heap *h)
{
    free(h->items);
    *h = (struct heap){0};
}

enum status heap_push(struct heap *h, struct heap_item item)
{
    if (h->n == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 64;
        struct heap_item *items = realloc(h->items, cap * sizeof(*items));
        if (!items)
            return STATUS_NOMEM;
        h->items = items;
        h->cap = cap;
    }
    size_t i = h->n++;
    for (; i > 0 && item.due_us < h->items[(i - 1) / 2].due_us; i = (i - 1) / 2)
        h->items[i] = h->items[(i - 1) / 2];
    h->items[i] = item;
    return STATUS_OK;
}

struct heap_item heap_top(const struct heap *h)
{
    assert(h->n > 0);
    return h->items[0];
}

void heap_pop(struct heap *h)
{
    assert(h->n > 0);
    struct heap_item last = h->items[--h->n];
    size_t i = 0;
    for (size_t child = 1; child < h->n; child = 2 * i + 1) {
        if (child + 1 < h->n && h->items[child + 1].due_us < h->items[child].due_us)
            child++;
        if (last.due_us <= h->items[child].due_us)
            break;
        h->items[i] = h->items[child];
        i = child;
    }
    h->items[i] = last;
}

void heap_drop_keys(struct heap *h, const struct id_set *keys)
{
    struct heap kept = {h->items, 0, h->cap};
    /* What is pushed goes no further than what has been read. */
    for (size_t i = 0; i < h->n; i++)
        if (!id_set_has(keys, h->items[i].key_id))
            (void)!heap_push(&kept, h->items[i]);
    h->n = kept.n;
}

void heap_advance(struct heap *h, int64_t us)
{
    for (size_t i = 0; i < h->n; i++)
        h->items[i].due_us -= us;
}
