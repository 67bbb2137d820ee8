#include "server/redis_writer.h"

#include "server/redis_link.h"
#include "server/redis_sql.h"
#include "server/redis_writer_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PENDING_MAX ((size_t)50000)
#define REDIS_US    (3 * US_PER_SECOND)

/* ---- life ---- */

static enum status build_sql(struct redis_writer *w)
{
    enum status st = redis_sql_users(&w->users_sql);
    if (!st)
        st = redis_sql_bots(&w->bots_sql);
    return st ? st : redis_sql_live(&w->live_sql);
}

enum status redis_writer_init(struct redis_writer *w, const struct config *cfg, const char *name,
                              const struct pg_wait *wait, struct error *err)
{
    uint64_t random = 0;
    *w = (struct redis_writer){.cfg = cfg, .name = name, .wait = wait};
    redis_keys_init(&w->pending, PENDING_MAX);
    buf_init(&w->users_sql, 64u << 10);
    buf_init(&w->bots_sql, 64u << 10);
    buf_init(&w->live_sql, 64u << 10);
    snprintf(w->characters_seen, sizeof(w->characters_seen), "-infinity");
    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        random = (uint64_t)clock_wall_us(&clock_real);
    snprintf(w->nonce, sizeof(w->nonce), "%016" PRIx64, random);
    enum status st = redis_address_parse(cfg->redis.url, &w->address, err);
    if (st)
        return st;
    st = build_sql(w);
    return st ? error_set(err, st, "could not write the queries of the Redis layer") : STATUS_OK;
}

/* What is under way when a connection goes is not done. */
void redis_drop_pg(struct redis_writer *w)
{
    PQfinish(TAKE(w->conn));
    w->sync_wanted |= w->sync != SYNC_IDLE;
    w->sync = SYNC_IDLE;
}

void redis_drop_link(struct redis_writer *w)
{
    if (w->link)
        w->former_id = redis_link_id(w->link);
    redis_link_close(TAKE(w->link));
    w->sync_wanted |= w->sync != SYNC_IDLE;
    w->sync = SYNC_IDLE;
}

void redis_writer_deinit(struct redis_writer *w)
{
    redis_drop_pg(w);
    redis_drop_link(w);
    redis_keys_deinit(&w->pending);
    buf_deinit(&w->users_sql);
    buf_deinit(&w->bots_sql);
    buf_deinit(&w->live_sql);
}

enum status redis_writer_connect_pg(struct redis_writer *w, struct error *err)
{
    if (w->conn)
        return STATUS_OK;
    const struct pg_options o = {
        .conninfo = w->cfg->sink_conninfo,
        .application_name = w->name,
        .setup = "SET timezone = 'UTC'; SET statement_timeout = '60s'; LISTEN strategic_cache;"
                 " LISTEN strategic_redis",
        .wait = w->wait,
    };
    enum status st = pg_open(&o, &w->conn, err);
    w->sync_wanted |= !st;
    return st;
}

enum status redis_writer_connect_redis(struct redis_writer *w, struct error *err)
{
    if (w->link)
        return STATUS_OK;
    const struct redis_link_config c = {
        .address = w->address,
        .password = w->cfg->redis.password,
        .name = "warmpath",
        .timeout_us = REDIS_US,
        .wait = w->wait,
    };
    struct redis_link *link = NULL;
    enum status st = redis_link_open(&c, &link, err);
    if (st)
        return st;
    if (w->former_id)
        st = redis_link_end(link, w->former_id, err);
    if (st && st != STATUS_REFUSED) {
        redis_link_close(link);
        return st;
    }
    w->link = link;
    w->former_id = 0; /* ended, gone, or not to be ended by us: then its values go by their TTL */
    const char *run_id = redis_link_run_id(w->link);
    w->sync_wanted |= !*run_id || strcmp(run_id, w->run_id) != 0;
    snprintf(w->run_id, sizeof(w->run_id), "%s", run_id);
    return STATUS_OK;
}

/* ---- the set ---- */

/* Beyond its bound the set forgets, and a sync finds everything. */
enum status redis_add_key(struct redis_writer *w, struct str key)
{
    enum status st = redis_keys_add(&w->pending, key);
    if (st != STATUS_LIMIT)
        return st;
    redis_keys_clear(&w->pending);
    w->sync_wanted = true;
    return STATUS_OK;
}

/* A user's value means something only beside its bot's. A key that has no name here is none of
 * ours. */
enum status redis_add_owner(struct redis_writer *w, const struct redis_owner *o)
{
    CLEANUP(buf_deinit) struct buf key;
    buf_init(&key, 4096);
    enum status st = redis_key_print(o, &key);
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return STATUS_OK;
    if (!st)
        st = redis_add_key(w, (struct str){key.data, key.len});
    if (st || !o->user.ptr)
        return st;
    return redis_add_owner(w, &(struct redis_owner){STR_NULL, o->bot});
}

static struct str member(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_string(value) ? (struct str){json_string_value(value), json_string_length(value)}
                                 : STR_NULL;
}

static enum status take_announcement(struct redis_writer *w, const char *payload)
{
    json_t *root = json_loads(payload, JSON_REJECT_DUPLICATES, NULL);
    const struct redis_owner o = {member(root, "user_id"), member(root, "bot_name")};
    enum status st = STATUS_OK;
    /* All bots of a user, or nothing that can be read. */
    if (!o.bot.ptr)
        w->sync_wanted = true;
    else
        st = redis_add_owner(w, &o);
    json_decref(root);
    return st;
}

/* A fence of another writer is none of ours, and no key either. */
static enum status take_handed_over(struct redis_writer *w, struct str key)
{
    struct redis_owner o;
    return redis_key_parse(key, &o) ? redis_add_key(w, key) : STATUS_OK;
}

static enum status take_notifications(struct redis_writer *w, struct error *err)
{
    enum status st = STATUS_OK;
    PGnotify *n;
    while (!st && (n = PQnotifies(w->conn))) {
        if (strcmp(n->relname, "strategic_cache") == 0)
            st = take_announcement(w, n->extra);
        else if (strcmp(n->extra, w->nonce) == 0)
            w->fenced = true;
        else
            st = take_handed_over(w, str_from(n->extra));
        PQfreemem(n);
    }
    return st ? error_set(err, st, "could not keep an announcement") : STATUS_OK;
}

enum status redis_writer_hear(struct redis_writer *w, struct error *err)
{
    if (!PQconsumeInput(w->conn) || PQstatus(w->conn) == CONNECTION_BAD) {
        enum status st = pg_error(err, w->conn, NULL, "lost the connection to PostgreSQL");
        redis_drop_pg(w);
        return st;
    }
    return take_notifications(w, err);
}

/* ---- asking PostgreSQL ---- */

enum status redis_ask_within(struct redis_writer *w, int64_t timeout_us, const char *sql, int n,
                             const char *const *params, PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *last = NULL;
    enum status st = STATUS_OK;
    int64_t deadline_us = clock_mono_us(&clock_real) + timeout_us;
    if (PQsetnonblocking(w->conn, 1) ||
        !PQsendQueryParams(w->conn, sql, n, NULL, params, NULL, NULL, 0))
        st = pg_error(err, w->conn, NULL, "could not ask PostgreSQL");
    while (!st) {
        PGresult *res = NULL;
        st = pg_next_result(w->conn, deadline_us, w->wait, &res, err);
        if (st || !res)
            break;
        PQclear(last);
        last = res;
    }
    if (!st && !pg_succeeded(last))
        st = pg_error(err, w->conn, last, "could not read the cache");
    if (st) {
        redis_drop_pg(w);
        return st;
    }
    *ret = TAKE(last);
    return STATUS_OK;
}

enum status redis_ask(struct redis_writer *w, const char *sql, int n, const char *const *params,
                      PGresult **ret, struct error *err)
{
    return redis_ask_within(w, REDIS_ANSWER_US, sql, n, params, ret, err);
}

struct str redis_cell(const PGresult *res, int row, int column)
{
    if (PQgetisnull(res, row, column))
        return STR_NULL;
    return (struct str){PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column)};
}

enum status redis_full_name(const struct redis_writer *w, struct str name, struct buf *out)
{
    enum status st = buf_append_str(out, str_from(w->cfg->redis.prefix));
    return st ? st : buf_append_str(out, name);
}
