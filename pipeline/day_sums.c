#include "pipeline/day_sums.h"

#include <stdlib.h>
#include <string.h>

void day_sums_deinit(struct day_sums *d)
{
    for (size_t i = 0; i < d->n; i++)
        free(d->bots[i].sums);
    free(d->bots);
    *d = (struct day_sums){0};
}

static int compare(struct str a, struct str b)
{
    int c = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

/* First bot whose name is not before this one. */
static size_t position(const struct day_sums *d, struct str bot)
{
    size_t lo = 0;
    size_t hi = d->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare(d->bots[mid].name, bot) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static enum status insert(struct day_sums *d, size_t at, struct str bot)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 16;
        struct day_bot *bots = realloc(d->bots, cap * sizeof(*bots));
        if (!bots)
            return STATUS_NOMEM;
        d->bots = bots;
        d->cap = cap;
    }
    /* The name lies behind the sums. */
    struct epoch_sums *sums = calloc(1, sizeof(*sums) + bot.len);
    if (!sums)
        return STATUS_NOMEM;
    char *name = (char *)(sums + 1);
    if (bot.len)
        memcpy(name, bot.ptr, bot.len);
    memmove(&d->bots[at + 1], &d->bots[at], (d->n - at) * sizeof(*d->bots));
    d->bots[at] = (struct day_bot){{name, bot.len}, sums};
    d->n++;
    return STATUS_OK;
}

enum status day_sums_add(struct day_sums *d, struct str bot, struct str bytes, struct error *err)
{
    struct epoch_sums part;
    struct reader r = reader_of(bytes.ptr, bytes.len);
    enum status st = epoch_cells_decode(&r, part.v, err);
    if (!st && reader_left(&r) > 0)
        st = error_set(err, STATUS_CORRUPT, "the sums of a bot have bytes left over");
    if (st)
        return st;
    size_t at = position(d, bot);
    if (at == d->n || !str_equal(d->bots[at].name, bot))
        st = insert(d, at, bot);
    if (st)
        return error_set(err, st, "could not add up what %zu bots have learned", d->n + 1);
    epoch_sums_merge(d->bots[at].sums, &part);
    return STATUS_OK;
}

int32_t day_unfinished(const int32_t *opened, const int32_t *closed, size_t n)
{
    int32_t least = INT32_MAX;
    int32_t newest = 0;
    for (size_t i = 0; i < n; i++) {
        least = opened[i] < least ? opened[i] : least;
        newest = closed[i] > newest ? closed[i] : newest;
    }
    return newest > least ? newest : 0;
}
