#include "engines/epoch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/cleanup.h"

void epoch_learn(struct epoch_delta *d, unsigned cell, uint16_t count)
{
    if (d->n < EPOCH_DELTA_MAX && count > 0 && cell < EPOCH_CELLS) {
        d->at[d->n].cell = (uint16_t)cell;
        d->at[d->n++].count = count;
    }
}

/* ---- old epochs ---- */

struct epoch_packed {
    uint32_t scores[2 * EPOCH_SCORES]; /* also among the bytes */
    uint32_t n_frequent;
    uint16_t frequent[EPOCH_FREQUENT]; /* the buckets */
    uint32_t len;
    uint8_t bytes[]; /* of epoch_cells_encode() */
};

static_assert(EPOCH_SWITCH_EMBEDDING_END + 1 - EPOCH_SWITCH_TEXT == 2 * EPOCH_SCORES,
              "the scores of both kinds are neighbours");
static_assert(EPOCH_DF_BUCKETS <= UINT16_MAX + 1, "a bucket fits 16 bits");

struct epoch_slots {
    size_t next; /* the one to be used again first */
    bool used[EPOCH_DENSE];
    struct epoch at[EPOCH_DENSE];
};

static size_t packed_bytes(const struct epoch_packed *p)
{
    return sizeof(*p) + p->len;
}

/* NULL when there is no memory. */
static struct epoch_packed *pack(const struct epoch *e)
{
    struct buf cells;
    buf_init(&cells, 16 + EPOCH_CELLS * (size_t)8);
    struct epoch_packed *p = NULL;
    if (!epoch_cells_encode(e->v, &cells))
        p = malloc(sizeof(*p) + cells.len);
    if (p) {
        memcpy(p->scores, e->v + EPOCH_SWITCH_TEXT, sizeof(p->scores));
        p->n_frequent = 0;
        for (uint32_t b = 0; b < EPOCH_DF_BUCKETS; b++)
            if (e->frequent[b / 64] >> (b % 64) & 1)
                p->frequent[p->n_frequent++] = (uint16_t)b;
        p->len = (uint32_t)cells.len;
        memcpy(p->bytes, cells.data, cells.len);
    }
    buf_deinit(&cells);
    return p;
}

static void unpack(const struct epoch_packed *p, int32_t day, struct epoch *e)
{
    *e = (struct epoch){.day = day, .n_frequent = p->n_frequent};
    for (uint32_t i = 0; i < p->n_frequent; i++)
        e->frequent[p->frequent[i] / 64] |= UINT64_C(1) << (p->frequent[i] % 64);
    struct reader r = reader_of(p->bytes, p->len);
    struct error err;
    enum status st = epoch_cells_decode(&r, e->v, &err);
    assert(!st); /* our own bytes */
    (void)st;
}

/* Days are never rewritten, so a slot of a day is right for as long as the list exists. */
static const struct epoch *unpacked(struct epoch_slots *s, const struct epoch_entry *entry)
{
    for (size_t i = 0; i < EPOCH_DENSE; i++)
        if (s->used[i] && s->at[i].day == entry->day) {
            s->next = (i + 1) % EPOCH_DENSE;
            return &s->at[i];
        }
    struct epoch *e = &s->at[s->next];
    s->used[s->next] = true;
    s->next = (s->next + 1) % EPOCH_DENSE;
    unpack(entry->packed, entry->day, e);
    return e;
}

/* ---- the list ---- */

static const struct epoch_entry *entry_at(const struct epoch_list *l, int32_t day)
{
    for (size_t i = l ? l->n : 0; i-- > 0;)
        if (l->at[i].day <= day)
            return &l->at[i];
    return NULL;
}

const struct epoch *epoch_at(const struct epoch_list *l, int32_t day)
{
    const struct epoch_entry *entry = entry_at(l, day);
    if (!entry)
        return NULL;
    return entry->dense ? entry->dense : unpacked(l->slots, entry);
}

const uint32_t *epoch_switch_scores(const struct epoch_list *l, int32_t day)
{
    const struct epoch_entry *entry = entry_at(l, day);
    if (!entry)
        return NULL;
    return entry->dense ? entry->dense->v + EPOCH_SWITCH_TEXT : entry->packed->scores;
}

static void entry_free(struct epoch_entry *entry)
{
    free(entry->dense);
    free(entry->packed);
}

/* Epochs that no record of the window can ask for any more. */
static void drop_old(struct epoch_list *l)
{
    int64_t first = (int64_t)l->at[l->n - 1].day - EPOCH_KEPT_DAYS;
    size_t n = 0;
    while (n + 1 < l->n && l->at[n + 1].day <= first)
        entry_free(&l->at[n++]);
    memmove(l->at, l->at + n, (l->n - n) * sizeof(*l->at));
    l->n -= n;
}

static void rank_words(struct epoch *e)
{
    const uint32_t *df = &e->v[EPOCH_DF];
    e->n_frequent = 0;
    memset(e->frequent, 0, sizeof(e->frequent));
    if (e->v[EPOCH_MESSAGES] < EPOCH_FREQUENT_MESSAGES * EPOCH_SCALE)
        return;
    while (e->n_frequent < EPOCH_FREQUENT) {
        uint32_t best = 0, most = 0;
        for (uint32_t b = 0; b < EPOCH_DF_BUCKETS; b++)
            if (df[b] > most && !(e->frequent[b / 64] >> (b % 64) & 1)) {
                best = b;
                most = df[b];
            }
        if (most == 0)
            return;
        e->frequent[best / 64] |= UINT64_C(1) << (best % 64);
        e->n_frequent++;
    }
}

/* Room for one entry more, and for reading packed ones if there will be any. */
static enum status make_room(struct epoch_list *l)
{
    struct epoch_entry *at = realloc(l->at, (l->n + 1) * sizeof(*at));
    if (!at)
        return STATUS_NOMEM;
    l->at = at;
    if (l->n >= EPOCH_DENSE && !l->slots)
        l->slots = calloc(1, sizeof(*l->slots));
    return l->n >= EPOCH_DENSE && !l->slots ? STATUS_NOMEM : STATUS_OK;
}

/* The entry that e makes one of the old: e itself, the oldest dense one, or none. */
static enum status pack_oldest(struct epoch_list *l, struct epoch_entry *added)
{
    if (l->n < EPOCH_DENSE)
        return STATUS_OK;
    struct epoch_entry *oldest = &l->at[l->n - EPOCH_DENSE];
    if (added->day < oldest->day)
        oldest = added;
    oldest->packed = pack(oldest->dense);
    if (!oldest->packed)
        return STATUS_NOMEM;
    free(TAKE(oldest->dense));
    return STATUS_OK;
}

enum status epoch_list_add(struct epoch_list *l, struct epoch *e)
{
    size_t i = l->n;
    while (i > 0 && l->at[i - 1].day >= e->day)
        i--;
    if (i < l->n && l->at[i].day == e->day) {
        free(e);
        return STATUS_OK;
    }
    rank_words(e);
    struct epoch_entry added = {.day = e->day, .dense = e};
    if (make_room(l) || pack_oldest(l, &added)) {
        free(e);
        return STATUS_NOMEM;
    }
    memmove(l->at + i + 1, l->at + i, (l->n - i) * sizeof(*l->at));
    l->at[i] = added;
    l->n++;
    l->generation++;
    if (!l->keeps_all)
        drop_old(l);
    return STATUS_OK;
}

size_t epoch_list_bytes(const struct epoch_list *l)
{
    size_t n = l->n * sizeof(*l->at) + (l->slots ? sizeof(*l->slots) : 0);
    for (size_t i = 0; i < l->n; i++)
        n += l->at[i].dense ? sizeof(struct epoch) : packed_bytes(l->at[i].packed);
    return n;
}

void epoch_list_deinit(struct epoch_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        entry_free(&l->at[i]);
    free(l->at);
    free(l->slots);
    *l = (struct epoch_list){0};
}

/* ---- words ---- */

uint32_t epoch_idf_milli(const struct epoch *e, uint64_t token_hash)
{
    if (!e)
        return 1000;
    double n = e->v[EPOCH_MESSAGES] / (double)EPOCH_SCALE;
    double df = e->v[EPOCH_DF + token_hash % EPOCH_DF_BUCKETS] / (double)EPOCH_SCALE;
    return df >= n ? 0 : (uint32_t)floor(1000.0 * log((n + 1) / (df + 1)) + 0.5);
}

static uint32_t saturate(uint64_t v)
{
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

void epoch_sums_add(struct epoch_sums *s, const struct epoch_delta *d)
{
    for (uint32_t i = 0; i < d->n; i++)
        s->v[d->at[i].cell] = saturate((uint64_t)s->v[d->at[i].cell] + d->at[i].count);
}

void epoch_sums_merge(struct epoch_sums *into, const struct epoch_sums *from)
{
    for (size_t i = 0; i < EPOCH_CELLS; i++)
        into->v[i] = saturate((uint64_t)into->v[i] + from->v[i]);
}

bool epoch_sums_empty(const struct epoch_sums *s)
{
    for (size_t i = 0; i < EPOCH_CELLS; i++)
        if (s->v[i])
            return false;
    return true;
}

enum status epoch_close(const struct epoch *before, const struct epoch_sums *sums, int32_t day,
                        struct epoch **ret)
{
    struct epoch *e = malloc(sizeof(*e));
    if (!e)
        return STATUS_NOMEM;
    *e = (struct epoch){.day = day};
    for (size_t i = 0; i < EPOCH_CELLS; i++) {
        uint32_t v = before ? before->v[i] : 0;
        v -= v / EPOCH_DAYS + (v % EPOCH_DAYS > 0);
        e->v[i] = saturate(v + (uint64_t)sums->v[i] * EPOCH_SCALE);
    }
    *ret = e;
    return STATUS_OK;
}

enum status epoch_cells_encode(const uint32_t v[EPOCH_CELLS], struct buf *out)
{
    uint64_t n = 0;
    for (size_t i = 0; i < EPOCH_CELLS; i++)
        n += v[i] > 0;
    enum status st = buf_put_u8(out, EPOCH_FORMAT);
    st = st ? st : buf_put_varint(out, n);
    size_t last = 0;
    for (size_t i = 0; i < EPOCH_CELLS && !st; i++) {
        if (v[i] == 0)
            continue;
        st = buf_put_varint(out, i - last);
        st = st ? st : buf_put_varint(out, v[i]);
        last = i;
    }
    return st;
}

enum status epoch_cells_decode(struct reader *r, uint32_t v[EPOCH_CELLS], struct error *err)
{
    memset(v, 0, EPOCH_CELLS * sizeof(v[0]));
    uint8_t format = reader_u8(r);
    uint64_t n = reader_varint(r);
    uint64_t cell = 0;
    if (format != EPOCH_FORMAT || n > EPOCH_CELLS)
        r->bad = true;
    for (uint64_t i = 0; i < n && !r->bad; i++) {
        uint64_t step = reader_varint(r);
        uint64_t value = reader_varint(r);
        if (step >= EPOCH_CELLS || (i > 0 && step == 0) || cell + step >= EPOCH_CELLS ||
            value == 0 || value > UINT32_MAX) {
            r->bad = true;
            break;
        }
        cell += step;
        v[cell] = (uint32_t)value;
    }
    return r->bad ? error_set(err, STATUS_CORRUPT, "the sums of an epoch are cut short or invalid")
                  : STATUS_OK;
}
