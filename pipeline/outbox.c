#include "pipeline/outbox.h"

#include <stdlib.h>

void outbox_deinit(struct outbox *o)
{
    free(o->ring);
    *o = (struct outbox){0};
}

enum status outbox_push(struct outbox *o, struct outbox_item item)
{
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 64;
        struct outbox_item *ring = malloc(cap * sizeof(*ring));
        if (!ring)
            return STATUS_NOMEM;
        for (size_t i = 0; i < o->n; i++)
            ring[i] = o->ring[(o->first + i) & (o->cap - 1)];
        free(o->ring);
        *o = (struct outbox){ring, 0, o->n, cap};
    }
    o->ring[(o->first + o->n++) & (o->cap - 1)] = item;
    return STATUS_OK;
}

bool outbox_pop(struct outbox *o, struct outbox_item *ret)
{
    if (o->n == 0)
        return false;
    *ret = o->ring[o->first];
    o->first = (o->first + 1) & (o->cap - 1);
    o->n--;
    return true;
}

void outbox_drop_keys(struct outbox *o, const struct id_set *keys)
{
    struct outbox_item item;
    for (size_t left = o->n; left > 0; left--) {
        (void)outbox_pop(o, &item);
        if (!id_set_has(keys, item.key_id))
            o->ring[(o->first + o->n++) & (o->cap - 1)] = item; /* into the room just made */
    }
}
