/*
 * One request: names in order, a few at a time, each lot between two watermarks.
 *
 * Whoever has rows in the source or in the cache is visited, so that keys the source knows nothing
 * of any more are swept. Up to UNCONFIRMED chunks are handed on before what is durable is waited
 * for and the cursor moves.
 */
#include "server/rebuild_internal.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/pg_array.h"
#include "engines/engine.h"
#include "state/fault.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_FIRST    16
#define NAMES_MAX      256
#define ROWS_FEW       2000  /* in a chunk: more names next time */
#define ROWS_MANY      20000 /* fewer */
#define CHUNK_BYTES    (64u << 20)
#define RECORDED_BYTES (16u << 20)
#define UNCONFIRMED    32
#define POLL_US        2000
#define SETTLE_US      5000

/* What is to be rebuilt, in order of names; of a bot with every way that rows spell it. */
struct name {
    char *name;
    char *spelling;
};

struct work {
    struct rebuild *r;
    const struct rebuild_request *q;
    bool bots;
    struct name *queue;
    size_t n, cap;
    /* Names of the source and of the cache that come next; NULL: to be fetched. */
    char *source_next, *sink_next;
    bool source_ended, sink_ended;
    size_t take; /* names of a chunk */
    uint64_t sessions;
    /* Handed on, not confirmed. */
    size_t chunks;
    lsn_t end_lsn;
    char *last;
    uint64_t keys, rows;
    bool unseen; /* the chunk was read too early */
    char *note;
    size_t note_size;
};

/* ---- names ---- */

static void forget_names(struct work *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(w->queue[i].name);
        free(w->queue[i].spelling);
    }
    w->n -= n;
    if (w->n)
        memmove(w->queue, w->queue + n, w->n * sizeof(*w->queue));
}

static enum status push_name(struct work *w, const char *name, const char *spelling,
                             struct error *err)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        struct name *grown = reallocarray(w->queue, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not keep %zu names", cap);
        w->queue = grown;
        w->cap = cap;
    }
    struct name n = {strdup(name), strdup(spelling)};
    if (!n.name || !n.spelling) {
        free(n.name);
        free(n.spelling);
        return error_set(err, STATUS_NOMEM, "could not keep a name");
    }
    w->queue[w->n++] = n;
    return STATUS_OK;
}

/* "SELECT user_id, bot_name FROM" all tables of users' rows, or of the bots'. */
static enum status append_cache_keys(bool bots, struct buf *sql)
{
    enum status st = STATUS_OK;
    bool first = true;
    for (int t = 0; t < TABLE_COUNT && !st; t++) {
        if (tables[t].by_window != bots ||
            (t > 0 && strcmp(tables[t].name, tables[t - 1].name) == 0))
            continue;
        st = buf_printf(sql, "%sSELECT %s AS user_id, bot_name FROM %s", first ? "" : " UNION ",
                        bots ? "''" : "user_id", tables[t].name);
        first = false;
    }
    return st;
}

static enum status list_cache(struct work *w, const char *after, struct error *err)
{
    const char *column = w->bots ? "bot_name" : "user_id";
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 64 << 10);
    enum status st = buf_printf(&sql,
                                "DECLARE warmpath_keys NO SCROLL CURSOR WITH HOLD FOR "
                                "SELECT %s COLLATE \"C\" FROM (",
                                column);
    st = st ? st : append_cache_keys(w->bots, &sql);
    st = st ? st : buf_printf(&sql, ") s WHERE %s COLLATE \"C\" > ", column);
    st = st ? st : pg_quote_literal(&sql, after);
    st = st ? st : buf_append_str(&sql, STR(" GROUP BY 1 ORDER BY 1"));
    st = st ? st : buf_append(&sql, "", 1);
    if (st)
        return error_set(err, st, "could not write the list of cache rows");
    return pg_exec(w->r->sink, sql.data, "could not list the cache rows", err);
}

static enum status next_of_source(struct work *w, struct error *err)
{
    struct str name;
    enum status st = rebuild_rows_name(w->r->source, &name, err);
    w->source_ended = st == STATUS_END;
    if (st)
        return st == STATUS_END ? STATUS_OK : st;
    w->source_next = strndup(name.ptr, name.len);
    return w->source_next ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not keep a name");
}

static enum status next_of_cache(struct work *w, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(w->r->sink, "FETCH 1 FROM warmpath_keys", 0, NULL,
                              "could not list the cache rows", &res, err);
    if (st)
        return st;
    w->sink_ended = PQntuples(res) == 0;
    if (w->sink_ended)
        return STATUS_OK;
    w->sink_next = strdup(PQgetvalue(res, 0, 0));
    return w->sink_next ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not keep a name");
}

/* The lesser of both into the queue. */
static enum status merge_next(struct work *w, bool *ret_more, struct error *err)
{
    enum status st = w->source_next || w->source_ended ? STATUS_OK : next_of_source(w, err);
    if (!st && !w->sink_next && !w->sink_ended)
        st = next_of_cache(w, err);
    *ret_more = !st && (w->source_next || w->sink_next);
    if (!*ret_more)
        return st;
    int d = !w->source_next ? 1 : !w->sink_next ? -1 : strcmp(w->source_next, w->sink_next);
    const char *name = d <= 0 ? w->source_next : w->sink_next;
    st = push_name(w, name, name, err);
    if (d <= 0)
        free(TAKE(w->source_next));
    if (d >= 0)
        free(TAKE(w->sink_next));
    return st;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->name, ((const struct name *)b)->name);
}

/* All bots at once: there are few, and rows may spell one in several ways. */
static enum status list_bots(struct work *w, const char *after, struct error *err)
{
    struct str raw;
    enum status st = STATUS_OK;
    while (!st && !(st = rebuild_rows_name(w->r->source, &raw, err))) {
        char normal[LIMIT_ID_BYTES + 1];
        char spelling[4 * LIMIT_ID_BYTES];
        size_t len = event_bot_name(raw, normal);
        normal[len] = '\0';
        if (len == 0 || raw.len >= sizeof(spelling) || strcmp(normal, after) <= 0)
            continue;
        memcpy(spelling, raw.ptr, raw.len);
        spelling[raw.len] = '\0';
        st = push_name(w, normal, spelling, err);
    }
    if (st == STATUS_END)
        st = STATUS_OK;
    while (!st && !w->sink_ended) {
        st = next_of_cache(w, err);
        if (!st && w->sink_next)
            st = push_name(w, w->sink_next, w->sink_next, err);
        free(TAKE(w->sink_next));
    }
    w->source_ended = true;
    if (w->n)
        qsort(w->queue, w->n, sizeof(*w->queue), compare_names);
    return st;
}

/* Stands the queue behind `after`. */
static enum status start_names(struct work *w, const char *after, struct error *err)
{
    forget_names(w, w->n);
    w->source_ended = w->sink_ended = false;
    if (w->q->user_id) {
        w->source_ended = w->sink_ended = true;
        return *after ? STATUS_OK : push_name(w, w->q->user_id, w->q->user_id, err);
    }
    PQclear(pg_run(w->r->sink, "CLOSE ALL", 0, NULL)); /* what an earlier attempt has left */
    enum status st = rebuild_rows_list(w->r->source, w->bots, w->bots ? "" : after, err);
    st = st ? st : list_cache(w, after, err);
    return st || !w->bots ? st : list_bots(w, after, err);
}

static enum status fill_names(struct work *w, struct error *err)
{
    bool more = true;
    enum status st = STATUS_OK;
    while (!st && more && !w->bots && w->n < w->take &&
           !(w->source_ended && w->sink_ended && !w->source_next && !w->sink_next))
        st = merge_next(w, &more, err);
    return st;
}

/* The first n of the queue, with all further spellings of the last. */
static size_t lot(const struct work *w)
{
    size_t n = w->take < w->n ? w->take : w->n;
    while (n > 0 && n < w->n && strcmp(w->queue[n].name, w->queue[n - 1].name) == 0)
        n++;
    return n;
}

/* ---- a chunk ---- */

static enum status new_chunk(const struct work *w, size_t n, size_t bytes_max,
                             struct rebuild_chunk **ret, struct error *err)
{
    struct rebuild_chunk_config cfg = {
        .bots = w->bots,
        .only_bot = w->q->bot_name ? str_from(w->q->bot_name) : STR_NULL,
        .bytes_max = bytes_max,
    };
    CLEANUP(rebuild_chunk_freep) struct rebuild_chunk *c = NULL;
    enum status st = rebuild_chunk_new(&cfg, &c, err);
    for (size_t i = 0; i < n && !st; i++)
        st = rebuild_chunk_name(c, str_from(w->queue[i].name));
    if (!st)
        *ret = TAKE(c);
    return st;
}

static enum status name_array(const struct work *w, size_t n, bool spellings, struct pg_array *a,
                              struct error *err)
{
    pg_array_begin(a);
    for (size_t i = 0; i < n; i++)
        pg_array_text(a, str_from(spellings ? w->queue[i].spelling : w->queue[i].name));
    enum status st = pg_array_end(a);
    return st ? error_set(err, st, "could not write a list of names") : STATUS_OK;
}

/* Keys that the cache has rows of are rebuilt even if the source has none. */
static enum status add_cache_keys(struct work *w, const char *names, struct rebuild_chunk *c,
                                  struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 64 << 10);
    enum status st = buf_append_str(&sql, STR("SELECT user_id, bot_name FROM ("));
    st = st ? st : append_cache_keys(w->bots, &sql);
    st = st ? st
            : buf_printf(&sql, ") s WHERE %s = ANY($1::text[])", w->bots ? "bot_name" : "user_id");
    st = st ? st : buf_append(&sql, "", 1);
    if (st)
        return error_set(err, st, "could not write the list of cache rows");
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = pg_query(w->r->sink, sql.data, 1, &names, "could not list the cache rows", &res, err);
    for (int i = 0; !st && i < PQntuples(res); i++) {
        const char *bot = PQgetvalue(res, i, 1);
        if (!w->q->bot_name || strcmp(bot, w->q->bot_name) == 0)
            st = rebuild_chunk_key(c, str_from(PQgetvalue(res, i, 0)), str_from(bot));
        if (st)
            return error_set(err, st, "could not keep the keys of a chunk");
    }
    return st;
}

static enum status read_chunk(struct work *w, size_t n, struct rebuild_chunk *c, struct error *err)
{
    struct pg_array a;
    pg_array_init(&a, 16 << 20);
    enum status st = name_array(w, n, false, &a, err);
    st = st ? st : add_cache_keys(w, a.buf.data, c, err);
    st = st ? st : name_array(w, n, true, &a, err);
    st = st ? st : rebuild_rows_read(w->r->source, w->bots, a.buf.data, c, err);
    pg_array_deinit(&a);
    return st;
}

static uint32_t tables_of(const char *engine)
{
    const struct engine_ops *ops = engine ? engine_find(engine) : NULL;
    uint32_t mask = 0;
    for (int t = 0; t < TABLE_COUNT; t++)
        if (!ops || engine_fills(ops, (enum table_id)t))
            mask |= 1u << t;
    return mask;
}

/* INVALID: the rows have to be read again. AGAIN: the stream began anew. */
static enum status await(struct work *w, struct error *err)
{
    for (;;) {
        uint64_t keys = 0;
        lsn_t end = 0;
        switch (rebuild_feed_outcome(w->r->cfg.feed, &end, &keys)) {
        case REBUILD_WAITING:
            break;
        case REBUILD_HANDED_ON:
            w->end_lsn = end;
            w->keys += keys;
            return STATUS_OK;
        case REBUILD_OVERFLOW:
            return error_set(err, STATUS_LIMIT, "too much was written meanwhile");
        case REBUILD_UNSEEN:
            w->unseen = true;
            return error_set(err, STATUS_INVALID, "the rows are older than the low watermark");
        case REBUILD_LOST:
            return STATUS_AGAIN;
        }
        if (rebuild_nap(w->r, POLL_US))
            return STATUS_END;
    }
}

/* LIMIT: too much for one chunk. AGAIN: the stream began anew. */
static enum status between_watermarks(struct work *w, size_t n, struct rebuild_chunk **rows,
                                      const char *token, struct error *err)
{
    struct rebuild *r = w->r;
    enum status st = rebuild_rows_watermark(r->source, REBUILD_LOW, token, err);
    /* Long enough, mostly, for all to be seen that is in the log (rebuild_feed.h). */
    st = st ? st : rebuild_nap(r, SETTLE_US);
    st = st ? st : read_chunk(w, n, *rows, err);
    if (!st && FAULT_POINT("rebuild_read"))
        st = error_set(err, STATUS_IO, "fault point rebuild_read");
    if (st)
        return st;
    w->rows += rebuild_chunk_rows(*rows);
    rebuild_feed_give(r->cfg.feed, TAKE(*rows));
    st = rebuild_rows_watermark(r->source, REBUILD_HIGH, token, err);
    return st ? st : await(w, err);
}

static enum status try_chunk(struct work *w, size_t n, struct error *err)
{
    struct rebuild *r = w->r;
    char token[REBUILD_TOKEN_BYTES];
    (void)snprintf(token, sizeof(token), "%016" PRIx64 "-%" PRIu64, r->nonce, ++r->token);
    CLEANUP(rebuild_chunk_freep) struct rebuild_chunk *rows = NULL;
    CLEANUP(rebuild_chunk_freep) struct rebuild_chunk *recorded = NULL;
    enum status st = new_chunk(w, n, CHUNK_BYTES, &rows, err);
    st = st ? st : new_chunk(w, n, RECORDED_BYTES, &recorded, err);
    if (st)
        return st;
    struct rebuild_open open = {
        .token = token,
        .recorded = TAKE(recorded),
        .types = rebuild_rows_types(r->source),
        .tables = tables_of(w->q->engine),
    };
    uint64_t rows_before = w->rows;
    w->unseen = false;
    rebuild_feed_open(r->cfg.feed, &open);
    st = between_watermarks(w, n, &rows, token, err);
    rebuild_feed_close(r->cfg.feed);
    uint64_t read = w->rows - rows_before;
    if (st)
        w->rows = rows_before;
    else if (read > ROWS_MANY && w->take > 1)
        w->take /= 2;
    else if (read < ROWS_FEW && w->take < NAMES_MAX)
        w->take *= 2;
    return st;
}

static enum status do_chunk(struct work *w, size_t n, struct error *err)
{
    enum status st = try_chunk(w, n, err);
    while (st == STATUS_INVALID && w->unseen)
        st = try_chunk(w, n, err);
    return st;
}

/* ---- the cursor ---- */

/* Waits until everything handed on is durable, and moves the cursor behind it. */
static enum status confirm(struct work *w, bool phase_done, struct error *err)
{
    struct rebuild *r = w->r;
    while (w->chunks > 0 && r->cfg.durable(r->cfg.ctx) < w->end_lsn) {
        if (rebuild_feed_sessions(r->cfg.feed) != w->sessions)
            return STATUS_AGAIN;
        if (rebuild_nap(r, POLL_US))
            return STATUS_END;
    }
    if (rebuild_feed_sessions(r->cfg.feed) != w->sessions)
        return STATUS_AGAIN;
    if (FAULT_POINT("rebuild_before_cursor"))
        return error_set(err, STATUS_IO, "fault point rebuild_before_cursor");
    char keys[24];
    char rows[24];
    (void)snprintf(keys, sizeof(keys), "%" PRIu64, w->keys);
    (void)snprintf(rows, sizeof(rows), "%" PRIu64, w->rows);
    const char *params[] = {w->q->id, phase_done ? NULL : w->last, keys, rows,
                            phase_done || w->bots ? "t" : "f"};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query_within(
        r->sink,
        "UPDATE strategic_rebuild SET cursor = $2, keys_done = keys_done + "
        "$3::bigint, rows_read = rows_read + $4::bigint, users_done = "
        "$5::bool WHERE id = $1::bigint",
        5, params, REBUILD_ANSWER_US, "could not store how far a rebuild is", &res, err);
    w->chunks = 0;
    w->keys = 0;
    w->rows = 0;
    return st;
}

static enum status note_handed_on(struct work *w, size_t n, struct error *err)
{
    free(w->last);
    w->last = strdup(w->queue[n - 1].name);
    if (!w->last)
        return error_set(err, STATUS_NOMEM, "could not keep a name");
    forget_names(w, n);
    return ++w->chunks < UNCONFIRMED ? STATUS_OK : confirm(w, false, err);
}

/* One name is too much for a chunk: it stays as it is. */
static enum status skip_name(struct work *w, size_t n, const struct error *why, struct error *err)
{
    log_write(LOG_WARN, "rebuild", "%s left as it is: %s id=%s", w->bots ? "a bot" : "a user",
              why->text, w->q->id);
    if (!*w->note)
        (void)snprintf(w->note, w->note_size, "%s \"%.100s\" was left as it is: %.200s",
                       w->bots ? "bot" : "user", w->queue[0].name, why->text);
    return note_handed_on(w, n, err);
}

static enum status run_phase(struct work *w, const char *after, struct error *err)
{
    w->take = NAMES_FIRST;
    w->sessions = rebuild_feed_sessions(w->r->cfg.feed);
    enum status st = start_names(w, after, err);
    while (!st) {
        st = fill_names(w, err);
        if (st || w->n == 0)
            break;
        size_t n = lot(w);
        struct error why = {.code = STATUS_OK};
        st = do_chunk(w, n, &why);
        if (st == STATUS_LIMIT && w->take > 1) {
            w->take = w->take / 2;
            st = STATUS_OK;
        } else if (st == STATUS_LIMIT) {
            st = skip_name(w, n, &why, err);
        } else if (st) {
            if (err)
                *err = why;
        } else {
            st = note_handed_on(w, n, err);
        }
    }
    return st ? st : confirm(w, true, err);
}

enum status rebuild_work(struct rebuild *r, const struct rebuild_request *q, char *note,
                         size_t note_size, struct error *err)
{
    struct work w = {.r = r, .q = q, .note = note, .note_size = note_size};
    const char *cursor = q->cursor ? q->cursor : "";
    enum status st = q->users_done ? STATUS_OK : run_phase(&w, cursor, err);
    if (!st && !q->user_id) {
        w.bots = true;
        st = run_phase(&w, q->users_done ? cursor : "", err);
    }
    forget_names(&w, w.n);
    free(w.queue);
    free(w.source_next);
    free(w.sink_next);
    free(w.last);
    return st;
}
