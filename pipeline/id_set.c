#include "pipeline/id_set.h"

#include <stdlib.h>
#include <string.h>

void id_set_deinit(struct id_set *s)
{
    free(s->ids);
    *s = (struct id_set){0};
}

/* Of the first that is not below id. */
static size_t position(const struct id_set *s, uint64_t id)
{
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (s->ids[mid] < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool id_set_has(const struct id_set *s, uint64_t id)
{
    size_t at = position(s, id);
    return at < s->n && s->ids[at] == id;
}

enum status id_set_add(struct id_set *s, uint64_t id, struct error *err)
{
    size_t at = position(s, id);
    if (at < s->n && s->ids[at] == id)
        return STATUS_OK;
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        uint64_t *ids = reallocarray(s->ids, cap, sizeof(*ids));
        if (!ids)
            return error_set(err, STATUS_NOMEM, "could not keep %zu ids of keys", cap);
        s->ids = ids;
        s->cap = cap;
    }
    memmove(s->ids + at + 1, s->ids + at, (s->n - at) * sizeof(*s->ids));
    s->ids[at] = id;
    s->n++;
    return STATUS_OK;
}
