#include "server/redis_writer.h"

#include "core/log.h"
#include "core/pg_array.h"
#include "server/redis_link.h"
#include "server/redis_sql.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define PENDING_MAX   ((size_t)50000)
#define SYNC_KEYS     500 /* of one step */
#define SEND_BYTES    ((size_t)1 << 20)
#define VALUE_BYTES   ((size_t)8 << 20) /* both arrays of a query, and a key in Redis */
#define ANSWER_US     (10 * US_PER_SECOND)
#define LIVE_US       US_PER_MINUTE /* the keys of a whole cache are put aside */
#define REDIS_US      (3 * US_PER_SECOND)
#define PROCESSOR_TTL "10"
#define MARKER_TTL    "60"

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
static void drop_pg(struct redis_writer *w)
{
    PQfinish(TAKE(w->conn));
    w->sync_wanted |= w->sync != SYNC_IDLE;
    w->sync = SYNC_IDLE;
}

static void drop_redis(struct redis_writer *w)
{
    if (w->link)
        w->former_id = redis_link_id(w->link);
    redis_link_close(TAKE(w->link));
    w->sync_wanted |= w->sync != SYNC_IDLE;
    w->sync = SYNC_IDLE;
}

void redis_writer_deinit(struct redis_writer *w)
{
    drop_pg(w);
    drop_redis(w);
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
static enum status add_key(struct redis_writer *w, struct str key)
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
static enum status add_owner(struct redis_writer *w, const struct redis_owner *o)
{
    CLEANUP(buf_deinit) struct buf key;
    buf_init(&key, 4096);
    enum status st = redis_key_print(o, &key);
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return STATUS_OK;
    if (!st)
        st = add_key(w, (struct str){key.data, key.len});
    if (st || !o->user.ptr)
        return st;
    return add_owner(w, &(struct redis_owner){STR_NULL, o->bot});
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
        st = add_owner(w, &o);
    json_decref(root);
    return st;
}

/* A fence of another writer is none of ours, and no key either. */
static enum status take_handed_over(struct redis_writer *w, struct str key)
{
    struct redis_owner o;
    return redis_key_parse(key, &o) ? add_key(w, key) : STATUS_OK;
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
        drop_pg(w);
        return st;
    }
    return take_notifications(w, err);
}

/* ---- asking PostgreSQL ---- */

static enum status ask_within(struct redis_writer *w, int64_t timeout_us, const char *sql, int n,
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
        drop_pg(w);
        return st;
    }
    *ret = TAKE(last);
    return STATUS_OK;
}

static enum status ask(struct redis_writer *w, const char *sql, int n, const char *const *params,
                       PGresult **ret, struct error *err)
{
    return ask_within(w, ANSWER_US, sql, n, params, ret, err);
}

/* ---- writing ---- */

struct batch {
    struct redis_writer *w;
    struct redis_key *keys[REDIS_BATCH_KEYS];
    size_t n;
    struct pg_array users, bots, own; /* own: bots whose own keys are asked for */
    PGresult *values[2];              /* of users, of bots */
    struct buf name;                  /* scratch: a key in Redis */
    char ttl[24];
    /* what was sent and not answered yet, in order */
    struct {
        int result, row;
        bool set;
    } sent[REDIS_BATCH_KEYS];
    size_t n_sent;
    bool refused[REDIS_BATCH_KEYS]; /* by their place in sent */
    struct error refusal;           /* the first one */
    size_t n_refused;
};

static void batch_init(struct batch *b, struct redis_writer *w)
{
    *b = (struct batch){.w = w};
    pg_array_init(&b->users, VALUE_BYTES);
    pg_array_init(&b->bots, VALUE_BYTES);
    pg_array_init(&b->own, VALUE_BYTES);
    buf_init(&b->name, VALUE_BYTES);
    snprintf(b->ttl, sizeof(b->ttl), "%" PRId64, w->cfg->redis.ttl_us / US_PER_SECOND);
}

static void batch_deinit(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->keys[i]);
    PQclear(b->values[0]);
    PQclear(b->values[1]);
    pg_array_deinit(&b->users);
    pg_array_deinit(&b->bots);
    pg_array_deinit(&b->own);
    buf_deinit(&b->name);
}

static enum status take_batch(struct batch *b)
{
    pg_array_begin(&b->users);
    pg_array_begin(&b->bots);
    pg_array_begin(&b->own);
    while (b->n < REDIS_BATCH_KEYS) {
        struct redis_key *key = redis_keys_take(&b->w->pending);
        struct redis_owner o;
        if (!key)
            break;
        b->keys[b->n++] = key;
        if (!redis_key_parse((struct str){key->text, key->len}, &o))
            continue;
        if (o.user.ptr)
            pg_array_text(&b->users, o.user);
        pg_array_text(o.user.ptr ? &b->bots : &b->own, o.bot);
    }
    enum status st = pg_array_end(&b->users);
    if (!st)
        st = pg_array_end(&b->bots);
    return st ? st : pg_array_end(&b->own);
}

static enum status read_batch(struct batch *b, struct error *err)
{
    const char *const users[] = {b->users.buf.data, b->bots.buf.data};
    const char *const own[] = {b->own.buf.data};
    enum status st = STATUS_OK;
    if (b->users.n)
        st = ask(b->w, b->w->users_sql.data, 2, users, &b->values[0], err);
    if (!st && b->own.n)
        st = ask(b->w, b->w->bots_sql.data, 1, own, &b->values[1], err);
    return st;
}

static struct str cell(const PGresult *res, int row, int column)
{
    if (PQgetisnull(res, row, column))
        return STR_NULL;
    return (struct str){PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column)};
}

static enum status put_name(struct redis_writer *w, const struct redis_owner *o, struct buf *out)
{
    buf_reset(out);
    enum status st = buf_append_str(out, str_from(w->cfg->redis.prefix));
    return st ? st : redis_key_print(o, out);
}

static void take_written(void *ctx, size_t i, const struct redis_answer *a)
{
    struct batch *b = ctx;
    if (a->kind != REDIS_ERROR) {
        *(b->sent[i].set ? &b->w->sets : &b->w->dels) += b->sent[i].set ? 1 : (uint64_t)a->number;
        return;
    }
    b->w->errors++;
    b->refused[i] = true;
    if (b->n_refused++ == 0)
        error_set(&b->refusal, STATUS_REFUSED, "Redis did not take a value: %.*s",
                  (int)str_cut(a->text, 120).len, a->text.ptr);
}

static enum status add_command(struct batch *b, int result, int row, bool set, struct error *err)
{
    const PGresult *res = b->values[result];
    const struct redis_owner o = {cell(res, row, 0), cell(res, row, 1)};
    enum status st = put_name(b->w, &o, &b->name);
    const struct str name = {b->name.data, b->name.len};
    const struct str set_args[] = {STR("SET"), name, cell(res, row, 2), STR("EX"),
                                   str_from(b->ttl)};
    const struct str del_args[] = {STR("DEL"), name};
    if (!st)
        st = redis_link_add(b->w->link, set ? set_args : del_args, set ? 5 : 2);
    if (st)
        return error_set(err, st, "could not build a command for Redis");
    b->sent[b->n_sent].result = result;
    b->sent[b->n_sent].row = row;
    b->sent[b->n_sent++].set = set;
    return STATUS_OK;
}

/* What Redis did not take must not leave the value from before. */
static enum status delete_refused(struct batch *b, struct error *err)
{
    const size_t n = b->n_sent;
    enum status st = STATUS_OK;
    if (b->n_refused == 0)
        return STATUS_OK;
    struct batch again = {.w = b->w, .values = {b->values[0], b->values[1]}};
    buf_init(&again.name, VALUE_BYTES);
    for (size_t i = 0; i < n && !st; i++)
        if (b->refused[i])
            st = add_command(&again, b->sent[i].result, b->sent[i].row, false, err);
    if (!st)
        st = redis_link_exchange(b->w->link, take_written, &again, err);
    if (!st && again.n_refused)
        st = error_set(err, STATUS_IO, "%s", again.refusal.text);
    buf_deinit(&again.name);
    return st;
}

/* Sends what was added; n_refused of all batches stays. */
static enum status flush(struct batch *b, struct error *err)
{
    size_t before = b->n_refused;
    enum status st = redis_link_exchange(b->w->link, take_written, b, err);
    if (!st && b->n_refused > before)
        st = delete_refused(b, err);
    memset(b->refused, 0, sizeof(b->refused));
    b->n_sent = 0;
    return st;
}

/* Deletions first: a value that is wrong is worse than one that is old. */
static enum status send_batch(struct batch *b, struct error *err)
{
    enum status st = STATUS_OK;
    for (int set = 0; set < 2; set++)
        for (int result = 0; result < 2; result++)
            for (int row = 0; row < PQntuples(b->values[result]) && !st; row++) {
                if (PQgetisnull(b->values[result], row, 2) == (set != 0))
                    continue;
                st = add_command(b, result, row, set, err);
                if (!st && redis_link_unsent(b->w->link) > SEND_BYTES)
                    st = flush(b, err);
            }
    return st ? st : flush(b, err);
}

enum status redis_writer_write(struct redis_writer *w, struct error *err)
{
    struct batch b;
    batch_init(&b, w);
    int64_t read_us = clock_mono_us(&clock_real);
    enum status st = take_batch(&b);
    if (st)
        error_set(err, st, "could not keep a batch of keys");
    if (!st)
        st = read_batch(&b, err);
    /* A process that was stopped in between must not write what was read before. */
    if (!st && clock_mono_us(&clock_real) - read_us > 2 * ANSWER_US)
        st = error_set(err, STATUS_IO, "reading the cache took too long");
    else if (!st) {
        st = send_batch(&b, err);
        if (st)
            drop_redis(w);
    }
    for (size_t i = 0; i < b.n && st; i++)
        if (add_key(w, (struct str){b.keys[i]->text, b.keys[i]->len}))
            w->sync_wanted = true;
    if (!st && b.n_refused) {
        w->sync_wanted = true;
        st = error_set(err, STATUS_REFUSED, "%s", b.refusal.text);
    }
    batch_deinit(&b);
    return st;
}

/* ---- sync ---- */

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
    return add_key(w, name);
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
        drop_redis(w);
        return st;
    }
    if (w->cursor)
        return STATUS_OK;
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = ask_within(w, LIVE_US, w->live_sql.data, 0, NULL, &res, err);
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
    enum status st = ask(w, sql, 0, NULL, &res, err);
    if (st)
        return st;
    int n = PQntuples(res);
    for (int i = 0; i < n && !st; i++)
        st = add_owner(w, &(struct redis_owner){cell(res, i, 0), cell(res, i, 1)});
    if (st)
        return error_set(err, st, "could not keep the keys of the cache");
    w->sync_keys += (uint64_t)n;
    if (n > 0)
        return STATUS_OK;
    st = ask(w, "CLOSE live", 0, NULL, &closed, err);
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
    enum status st = ask(w, redis_sql_characters, 1, since, &res, err);
    if (st)
        return st;
    int n = PQntuples(res);
    for (int i = 0; i < n && !st; i++)
        st = add_owner(w, &(struct redis_owner){STR_NULL, cell(res, i, 0)});
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

/* prefix + name */
static enum status full_name(const struct redis_writer *w, struct str name, struct buf *out)
{
    enum status st = buf_append_str(out, str_from(w->cfg->redis.prefix));
    return st ? st : buf_append_str(out, name);
}

static enum status exchange_tick(struct redis_writer *w, struct str progress, struct tick *t,
                                 struct error *err)
{
    CLEANUP(buf_deinit) struct buf marker;
    CLEANUP(buf_deinit) struct buf processor;
    buf_init(&marker, 1024);
    buf_init(&processor, 1024);
    enum status st = full_name(w, STR("marker"), &marker);
    if (!st)
        st = full_name(w, STR("processor"), &processor);
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
        st = ask(w, redis_sql_processor, 0, NULL, &res, err);
    if (st)
        return st;
    struct str progress = PQntuples(res) ? cell(res, 0, 0) : STR_NULL;
    st = exchange_tick(w, progress, &t, err);
    if (st) {
        drop_redis(w);
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
    int64_t deadline_us = clock_mono_us(&clock_real) + ANSWER_US;
    w->fenced = false;
    /* Notifications come in the order of their commits. */
    enum status st = ask(w, "SELECT pg_notify('strategic_redis', $1)", 1, nonce, &res, err);
    while (!st) {
        st = redis_writer_hear(w, err);
        if (st || w->fenced)
            return st;
        st = pg_wait_socket(w->conn, true, false, deadline_us, w->wait, err);
        if (st)
            drop_pg(w);
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
    buf_init(&name, VALUE_BYTES);
    pg_array_begin(names);
    for (struct redis_key *key; !st && (key = redis_keys_take(&w->pending)); free(key)) {
        buf_reset(&name);
        st = full_name(w, (struct str){key->text, key->len}, &name);
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
    pg_array_init(&names, VALUE_BYTES);
    enum status st = delete_keys(w, &names, err);
    const char *const params[] = {names.buf.data};
    if (!st && names.n)
        st = ask(w, "SELECT pg_notify('strategic_redis', k) FROM unnest($1::text[]) AS n (k)", 1,
                 params, &res, err);
    pg_array_deinit(&names);
    return st;
}
