#include "server/load_window.h"

#include <stdlib.h>

#include "core/hash.h"
#include "engines/kernels.h"

#define WINDOW_BYTES  ((size_t)16 << 20)
#define WINDOW_EVENTS ((size_t)100000)

enum status load_window_init(struct load_window *w, struct error *err)
{
    *w = (struct load_window){.next = 0};
    buf_init(&w->bytes, WINDOW_BYTES + LIMIT_EVENT_BYTES);
    return event_arena_new(&w->arena, err);
}

void load_window_deinit(struct load_window *w)
{
    buf_deinit(&w->bytes);
    free(w->items);
    event_arena_free(w->arena);
}

static enum status grow(struct load_window *w, struct error *err)
{
    if (w->n < w->cap)
        return STATUS_OK;
    size_t cap = w->cap ? 2 * w->cap : 1024;
    struct load_item *items = realloc(w->items, cap * sizeof(*items));
    if (!items)
        return error_set(err, STATUS_NOMEM, "could not gather rows of the snapshot");
    w->items = items;
    w->cap = cap;
    return STATUS_OK;
}

enum status load_window_put(struct load_window *w, const struct event *e, struct error *err)
{
    int32_t day = kernel_day(e->at_us);
    bool full = w->bytes.len >= WINDOW_BYTES || w->n == WINDOW_EVENTS;
    if (w->n > 0 && (full || day != w->day))
        return STATUS_AGAIN;
    enum status st = grow(w, err);
    size_t offset = w->bytes.len;
    if (!st)
        st = event_encode(e, &w->bytes, err);
    if (st)
        return st;
    w->day = day;
    w->items[w->n++] = (struct load_item){
        .key = hash64(e->bot_name) ^ hash64_mix(hash64(e->user_id)),
        .offset = offset,
        .len = w->bytes.len - offset,
    };
    return STATUS_OK;
}

/* Offsets grow in the order of put. */
static int compare(const void *a, const void *b)
{
    const struct load_item *x = a;
    const struct load_item *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->offset < y->offset ? -1 : 1;
}

enum status load_window_take(struct load_window *w, struct event *ret, struct error *err)
{
    if (w->next == w->n) {
        w->n = 0;
        w->next = 0;
        buf_reset(&w->bytes);
        return STATUS_END;
    }
    if (w->next == 0)
        qsort(w->items, w->n, sizeof(*w->items), compare);
    const struct load_item *item = &w->items[w->next++];
    event_arena_reset(w->arena);
    return event_decode((struct str){w->bytes.data + item->offset, item->len}, w->arena, ret, err);
}
