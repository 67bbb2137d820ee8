/* server/redis_sync.c - the part of redis_writer.h that finds out what was missed. */
#include "server/redis_link.h"
#include "server/redis_sql.h"
#include "server/redis_writer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYNC_KEYS     500           /* of one step */
#define LIVE_US       US_PER_MINUTE /* the keys of a whole cache are put aside */
#define PROCESSOR_TTL "10"
#define MARKER_TTL    "60"

void redis_writer_sync_begin(struct redis_writer *w)
{
    w->sync_wanted = false;
    w->sync = SYNC_SCAN;
    w->cursor = 0;
    w->sync_keys = 0;
}

static enum status take_scanned(void *ctx, struct str key)
{
    struct redis_writer *w = ctx;
    size_t prefix = strlen(w->cfg->redis.prefix);
    struct redis_owner o;
    if (key.len <= prefix || memcmp(key.ptr, w->cfg->redis.prefix, prefix) != 0)
        return STATUS_OK;
    const struct str name = {key.ptr + prefix, key.len - prefix};
    /* PostgreSQL cannot be asked for what is no text, and has no such key. */
    if (!str_is_text(name) || !redis_key_parse(name, &o))
        return STATUS_OK;
    w->sync_keys++;
    return redis_add_key(w, name);
}

/* What SCAN would read as a wildcard is taken as it stands. */
static enum status scan_pattern(const char *prefix, struct buf *out)
{
    enum status st = STATUS_OK;
    for (const char *c = prefix; *c && !st; c++)
        st = buf_printf(out, "%s%c", strchr("*?[]\\", *c) ? "\\" : "", *c);
    return st ? st : buf_append_str(out, STR("*"));
}

static enum status scan_step(struct redis_writer *w, struct error *err)
{
    CLEANUP(buf_deinit) struct buf pattern;
    buf_init(&pattern, 1024);
    enum status st = scan_pattern(w->cfg->redis.prefix, &pattern);
    if (st)
        return error_set(err, st, "could not write a pattern");
    st = redis_link_scan(w->link, &w->cursor, (struct str){pattern.data, pattern.len}, SYNC_KEYS,
                         take_scanned, w, err);
    if (st) {
        redis_drop_link(w);
        return st;
    }
    if (w->cursor)
        return STATUS_OK;
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = redis_ask_within(w, LIVE_US, w->live_sql.data, 0, NULL, &res, err);
    if (!st)
        w->sync = SYNC_LIVE;
    return st;
}

static enum status live_step(struct redis_writer *w, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    CLEANUP(PQclearp) PGresult *closed = NULL;
    char sql[48];
    snprintf(sql, sizeof(sql), "FETCH %d FROM live", SYNC_KEYS);
    enum status st = redis_ask(w, sql, 0, NULL, &res, err);
    if (st)
        return st;
    int n = PQntuples(res);
    for (int i = 0; i < n && !st; i++)
        st =
            redis_add_owner(w, &(struct redis_owner){redis_cell(res, i, 0), redis_cell(res, i, 1)});
    if (st)
        return error_set(err, st, "could not keep the keys of the cache");
    w->sync_keys += (uint64_t)n;
    if (n > 0)
        return STATUS_OK;
    st = redis_ask(w, "CLOSE live", 0, NULL, &closed, err);
    if (!st) {
        w->sync = SYNC_IDLE;
        w->syncs++;
    }
    return st;
}

enum status redis_writer_sync_step(struct redis_writer *w, struct error *err)
{
    if (w->sync == SYNC_IDLE)
        return STATUS_OK;
    return w->sync == SYNC_SCAN ? scan_step(w, err) : live_step(w, err);
}

/* ---- each second ---- */

static enum status look_at_characters(struct redis_writer *w, struct error *err)
{
    const char *const since[] = {w->characters_seen};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = redis_ask(w, redis_sql_characters, 1, since, &res, err);
    if (st)
        return st;
    int n = PQntuples(res);
    for (int i = 0; i < n && !st; i++)
        st = redis_add_owner(w, &(struct redis_owner){STR_NULL, redis_cell(res, i, 0)});
    if (st)
        return error_set(err, st, "could not keep the bots whose character changed");
    if (n)
        snprintf(w->characters_seen, sizeof(w->characters_seen), "%s", PQgetvalue(res, n - 1, 1));
    return STATUS_OK;
}

struct tick {
    const struct redis_writer *w;
    bool found; /* the marker is ours */
    bool refused;
};

static void take_tick(void *ctx, size_t i, const struct redis_answer *a)
{
    struct tick *t = ctx;
    t->refused |= a->kind == REDIS_ERROR;
    if (i == 0)
        t->found = a->kind == REDIS_TEXT && str_equal(a->text, str_from(t->w->nonce));
}

static enum status exchange_tick(struct redis_writer *w, struct str progress, struct tick *t,
                                 struct error *err)
{
    CLEANUP(buf_deinit) struct buf marker;
    CLEANUP(buf_deinit) struct buf processor;
    buf_init(&marker, 1024);
    buf_init(&processor, 1024);
    enum status st = redis_full_name(w, STR("marker"), &marker);
    if (!st)
        st = redis_full_name(w, STR("processor"), &processor);
    const struct str key = {marker.data, marker.len};
    const struct str get[] = {STR("GET"), key};
    const struct str mark[] = {STR("SET"), key, str_from(w->nonce), STR("EX"), STR(MARKER_TTL)};
    const struct str set[] = {
        STR("SET"), {processor.data, processor.len}, progress, STR("EX"), STR(PROCESSOR_TTL)};
    if (!st)
        st = redis_link_add(w->link, get, 2);
    if (!st)
        st = redis_link_add(w->link, mark, 5);
    if (!st && progress.ptr)
        st = redis_link_add(w->link, set, 5);
    if (st)
        return error_set(err, st, "could not build a command for Redis");
    return redis_link_exchange(w->link, take_tick, t, err);
}

enum status redis_writer_tick(struct redis_writer *w, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    struct tick t = {.w = w};
    enum status st = look_at_characters(w, err);
    if (!st)
        st = redis_ask(w, redis_sql_processor, 0, NULL, &res, err);
    if (st)
        return st;
    struct str progress = PQntuples(res) ? redis_cell(res, 0, 0) : STR_NULL;
    st = exchange_tick(w, progress, &t, err);
    if (st) {
        redis_drop_link(w);
        return st;
    }
    /* Somebody has emptied it, or restored what it once was. */
    w->sync_wanted |= !t.found;
    return t.refused ? error_set(err, STATUS_REFUSED, "Redis refuses to be written to") : STATUS_OK;
}

/* ---- the fence ---- */

enum status redis_writer_fence(struct redis_writer *w, struct error *err)
{
    const char *const nonce[] = {w->nonce};
    CLEANUP(PQclearp) PGresult *res = NULL;
    int64_t deadline_us = clock_mono_us(&clock_real) + REDIS_ANSWER_US;
    w->fenced = false;
    /* Notifications come in the order of their commits. */
    enum status st = redis_ask(w, "SELECT pg_notify('strategic_redis', $1)", 1, nonce, &res, err);
    while (!st) {
        st = redis_writer_hear(w, err);
        if (st || w->fenced)
            return st;
        st = pg_wait_socket(w->conn, true, false, deadline_us, w->wait, err);
        if (st)
            redis_drop_pg(w);
    }
    return st;
}

static void take_deleted(void *ctx, size_t i, const struct redis_answer *a)
{
    (void)i;
    *(bool *)ctx |= a->kind == REDIS_ERROR;
}

static enum status delete_keys(struct redis_writer *w, struct pg_array *names, struct error *err)
{
    CLEANUP(buf_deinit) struct buf name;
    enum status st = STATUS_OK;
    bool refused = false;
    buf_init(&name, REDIS_VALUE_BYTES);
    pg_array_begin(names);
    for (struct redis_key *key; !st && (key = redis_keys_take(&w->pending)); free(key)) {
        buf_reset(&name);
        st = redis_full_name(w, (struct str){key->text, key->len}, &name);
        const struct str del[] = {STR("DEL"), {name.data, name.len}};
        if (!st)
            st = redis_link_add(w->link, del, 2);
        pg_array_text(names, (struct str){key->text, key->len});
    }
    if (!st)
        st = pg_array_end(names);
    if (st)
        return error_set(err, st, "could not build a command for Redis");
    st = redis_link_exchange(w->link, take_deleted, &refused, err);
    if (!st && refused)
        st = error_set(err, STATUS_REFUSED, "Redis refuses to remove a value");
    return st;
}

enum status redis_writer_hand_over(struct redis_writer *w, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    struct pg_array names;
    pg_array_init(&names, REDIS_VALUE_BYTES);
    enum status st = delete_keys(w, &names, err);
    const char *const params[] = {names.buf.data};
    if (!st && names.n)
        st = redis_ask(w, "SELECT pg_notify('strategic_redis', k) FROM unnest($1::text[]) AS n (k)",
                       1, params, &res, err);
    pg_array_deinit(&names);
    return st;
}
