/* tests/sim/sim_cache.c - the cache tables behind one sink for each process: what
 * migrations/postgres and state/sink_sql.c make PostgreSQL do, by hand. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engines/tables.h"
#include "pipeline/route.h"

#define ROWS_MAX  512
#define QUEUE_MAX 2048
#define BATCH     100

struct stored {
    uint32_t table;
    struct row row; /* key, values and versions */
};

struct sim_cache {
    uint64_t epoch;
    struct stored rows[ROWS_MAX];
    size_t n;
};

struct queued {
    struct sink_item item;
    bool answered;
    struct sink_result result;
};

struct sim_sink {
    struct sim_cache *cache;
    uint64_t epoch;
    struct queued queue[QUEUE_MAX]; /* in order; answered ones stay until they are polled */
    size_t n;
};

struct sim_cache *sim_cache_new(void)
{
    struct sim_cache *c = calloc(1, sizeof(*c));
    assert(c);
    return c;
}

void sim_cache_free(struct sim_cache *c)
{
    for (size_t i = 0; i < c->n; i++)
        row_deinit(&c->rows[i].row);
    free(c);
}

uint64_t sim_cache_take_over(struct sim_cache *c)
{
    return ++c->epoch;
}

/* ---- tables ---- */

static bool same_key(const struct row *a, const struct row *b)
{
    return str_equal(row_user(a), row_user(b)) && str_equal(row_bot(a), row_bot(b)) &&
           a->window_hours == b->window_hours;
}

static struct stored *find(struct sim_cache *c, uint32_t table, const struct row *row)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].table == table && same_key(&c->rows[i].row, row))
            return &c->rows[i];
    return NULL;
}

/* The guard of every statement: rows only get newer. */
static bool is_newer(const struct row *stored, const struct row *row)
{
    return stored->row_version < row->row_version ||
           (stored->row_version == row->row_version && stored->as_of_us < row->as_of_us);
}

static void take_row(struct stored *s, struct sink_item *item)
{
    row_deinit(&s->row);
    s->row = item->row;
    s->table = item->table;
    item->row = (struct row){0};
}

static enum sink_outcome apply(struct sim_cache *c, struct sink_item *item)
{
    struct stored *s = find(c, item->table, &item->row);
    if (item->remove) {
        if (s && is_newer(&s->row, &item->row)) {
            row_deinit(&s->row);
            *s = c->rows[--c->n];
        }
        return SINK_WRITTEN;
    }
    if (item->touch) {
        if (!s)
            return SINK_MISSING;
        if (is_newer(&s->row, &item->row)) {
            s->row.as_of_us = item->row.as_of_us;
            s->row.row_version = item->row.row_version;
            s->row.valid_until_us = item->row.valid_until_us;
        }
        return SINK_TOUCHED;
    }
    if (s && !is_newer(&s->row, &item->row))
        return SINK_WRITTEN;
    if (!s) {
        assert(c->n < ROWS_MAX);
        s = &c->rows[c->n++];
        *s = (struct stored){0};
    }
    take_row(s, item);
    return SINK_WRITTEN;
}

/* ---- the sink of a process ---- */

struct sim_sink *sim_sink_new(struct sim_cache *c, uint64_t epoch)
{
    struct sim_sink *s = calloc(1, sizeof(*s));
    assert(s);
    s->cache = c;
    s->epoch = epoch;
    return s;
}

void sim_sink_free(struct sim_sink *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++)
        row_deinit(&s->queue[i].item.row);
    free(s);
}

static size_t room(void *ctx)
{
    return QUEUE_MAX - ((struct sim_sink *)ctx)->n;
}

static enum status submit(void *ctx, struct sink_item *items, size_t n)
{
    struct sim_sink *s = ctx;
    if (n > QUEUE_MAX - s->n)
        return STATUS_AGAIN;
    for (size_t i = 0; i < n; i++) {
        if (items[i].row.row_version >> 40 != s->epoch)
            sim_fail("a row with version %" PRIu64 " from a process of epoch %" PRIu64,
                     items[i].row.row_version, s->epoch);
        s->queue[s->n++] = (struct queued){.item = items[i]};
        items[i].row = (struct row){0};
    }
    return STATUS_OK;
}

static size_t poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    struct sim_sink *s = ctx;
    size_t n = 0;
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct queued *q = &s->queue[i];
        if (q->answered && q->item.worker == worker && n < max) {
            out[n++] = q->result;
            row_deinit(&q->item.row);
        } else {
            s->queue[kept++] = *q;
        }
    }
    s->n = kept;
    return n;
}

struct sink_port sim_sink_port(struct sim_sink *s)
{
    return (struct sink_port){room, submit, poll, s};
}

bool sim_sink_idle(const struct sim_sink *s)
{
    return s->n == 0;
}

static struct row copy_of(const struct row *r)
{
    struct row c = *r;
    buf_init(&c.text, LIMIT_ROW_BYTES);
    sim_must(buf_append(&c.text, r->text.data, r->text.len), NULL);
    return c;
}

/* Without an answer it was committed all the same, and is sent again. */
static void apply_one(struct sim_sink *s, struct queued *q, bool answer)
{
    struct sink_item item = q->item;
    item.row = copy_of(&q->item.row);
    q->result = (struct sink_result){.key_id = item.key_id,
                                     .worker = item.worker,
                                     .table = item.table,
                                     .row_version = item.row.row_version,
                                     .payload_hash = item.payload_hash};
    q->result.outcome = apply(s->cache, &item);
    q->answered = answer;
    row_deinit(&item.row);
}

enum status sim_sink_step(struct sim_sink *s, struct sim_random *r, bool faults)
{
    size_t from = 0;
    while (from < s->n && s->queue[from].answered)
        from++;
    if (from == s->n)
        return STATUS_OK;
    if (s->cache->epoch != s->epoch)
        return STATUS_FENCED;
    if (faults && sim_chance(r, 1, 10))
        return STATUS_OK; /* rolled back: all of it stays in the queue */
    bool answer = !(faults && sim_chance(r, 1, 20));
    for (size_t i = from; i < s->n && i < from + BATCH; i++)
        if (!s->queue[i].answered)
            apply_one(s, &s->queue[i], answer);
    return STATUS_OK;
}

/* ---- what must hold ---- */

void sim_cache_check_durable(const struct sim_cache *c, const lsn_t applied[LIMIT_PARTITIONS])
{
    for (size_t i = 0; i < c->n; i++) {
        const struct row *row = &c->rows[i].row;
        lsn_t durable = applied[route_home(row_user(row), row_bot(row))];
        if (row->source_lsn > durable)
            sim_fail("a row of \"" STR_FMT "\" shows " LSN_FMT ", but only " LSN_FMT " is durable",
                     STR_ARGS(row_user(row)), LSN_ARGS(row->source_lsn), LSN_ARGS(durable));
    }
}

static void compare(const struct stored *s, const struct row *expected)
{
    struct buf a;
    struct buf b;
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    sim_must(row_to_json(&s->row, &a), NULL);
    sim_must(row_to_json(expected, &b), NULL);
    if (a.len != b.len || memcmp(a.data, b.data, a.len) != 0)
        sim_fail("the row is\n%.*s\nbut should be\n%.*s", (int)a.len, a.data, (int)b.len, b.data);
    buf_deinit(&a);
    buf_deinit(&b);
}

static size_t check_key(struct sim_cache *c, struct oracle *o, struct str user, struct str bot,
                        int64_t as_of_us)
{
    size_t n = 0;
    for (uint32_t t = 0; t < TABLE_COUNT; t++) {
        struct error err = {0};
        struct row probe;
        row_init(&probe, &tables[t]);
        sim_must(row_set_key(&probe, user, bot), NULL);
        struct stored *s = find(c, t, &probe);
        row_deinit(&probe);
        struct row expected;
        row_init(&expected, &tables[t]);
        int64_t at_us = s ? s->row.as_of_us : as_of_us;
        enum status st = oracle_row(o, (enum table_id)t, user, bot, at_us, &expected, &err);
        if (st != STATUS_END)
            sim_must(st, &err);
        if (!s && !st)
            sim_fail("no row of \"" STR_FMT "\" and " STR_FMT " in %s", STR_ARGS(user),
                     STR_ARGS(bot), tables[t].name);
        if (s && st)
            sim_fail("a row of \"" STR_FMT "\" and " STR_FMT " in %s that should be gone",
                     STR_ARGS(user), STR_ARGS(bot), tables[t].name);
        if (s)
            compare(s, &expected);
        n += s != NULL;
        row_deinit(&expected);
    }
    return n;
}

size_t sim_cache_check_rows(struct sim_cache *c, struct oracle *o, int64_t as_of_us)
{
    size_t n = 0;
    for (size_t i = 0; i < oracle_key_count(o); i++) {
        struct str user;
        struct str bot;
        oracle_key_at(o, i, &user, &bot);
        n += check_key(c, o, user, bot, as_of_us);
    }
    if (n != c->n)
        sim_fail("%zu rows, of which %zu have a key", c->n, n);
    return n;
}
