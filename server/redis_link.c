#include "server/redis_link.h"

#include <assert.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARGS_MAX     8
#define RUN_ID_BYTES 48

struct redis_link {
    redisContext *redis; /* non-blocking: who waits is await() */
    struct redis_link_config cfg;
    size_t unsent;
    size_t expected; /* answers to what was added */
    char run_id[RUN_ID_BYTES];
    int64_t id;
};

bool redis_link_built(void)
{
    return true;
}

void redis_link_close(struct redis_link *l)
{
    if (!l)
        return;
    if (l->redis)
        redisFree(l->redis);
    free(l);
}
CLEANUP_FREEP(struct redis_link, redis_link_close);

const char *redis_link_run_id(const struct redis_link *l)
{
    return l->run_id;
}

int64_t redis_link_id(const struct redis_link *l)
{
    return l->id;
}

size_t redis_link_unsent(const struct redis_link *l)
{
    return l->unsent;
}

/* One line of text of the library or the server. */
static enum status fail(struct error *err, enum status st, const char *what, const char *why)
{
    char line[160];
    pg_error_line(why, line, sizeof(line));
    return error_set(err, st, "%s Redis: %s", what, line);
}

/* ---- sending and receiving ---- */

static enum status await(const struct redis_link *l, bool write, int64_t deadline_us,
                         struct error *err)
{
    const struct pg_wait *wait = l->cfg.wait;
    for (;;) {
        struct pg_ready ready = {0};
        int64_t left_us = deadline_us - clock_mono_us(wait->clock);
        if (left_us <= 0)
            return fail(err, STATUS_IO, "no answer from", "the time is up");
        enum status st = pg_poll(l->redis->fd, true, write, left_us, wait, &ready, err);
        if (st)
            return st;
        if (ready.woken && wait->wake_stops)
            return error_set(err, STATUS_END, "stopped while waiting for Redis");
        if (ready.readable || ready.writable)
            return STATUS_OK;
    }
}

static enum status next_reply(struct redis_link *l, int64_t deadline_us, redisReply **ret,
                              struct error *err)
{
    for (;;) {
        void *reply = NULL;
        int done = 0;
        if (redisGetReplyFromReader(l->redis, &reply) != REDIS_OK)
            return fail(err, STATUS_IO, "could not read from", l->redis->errstr);
        if (reply) {
            *ret = reply;
            return STATUS_OK;
        }
        if (redisBufferWrite(l->redis, &done) != REDIS_OK)
            return fail(err, STATUS_IO, "could not write to", l->redis->errstr);
        enum status st = await(l, !done, deadline_us, err);
        if (st)
            return st;
        /* A socket that is only writable has nothing to read: the library sees EAGAIN. */
        if (redisBufferRead(l->redis) != REDIS_OK)
            return fail(err, STATUS_IO, "lost the connection to", l->redis->errstr);
    }
}

enum status redis_link_add(struct redis_link *l, const struct str *args, size_t n)
{
    const char *texts[ARGS_MAX];
    size_t lens[ARGS_MAX];
    assert(n <= ARGS_MAX);
    for (size_t i = 0; i < n; i++) {
        texts[i] = args[i].ptr ? args[i].ptr : "";
        lens[i] = args[i].len;
        l->unsent += args[i].len + 16;
    }
    if (redisAppendCommandArgv(l->redis, (int)n, texts, lens) != REDIS_OK)
        return STATUS_NOMEM;
    l->expected++;
    return STATUS_OK;
}

static struct redis_answer answer_of(const redisReply *r)
{
    struct redis_answer a = {.kind = REDIS_LIST};
    if (r->type == REDIS_REPLY_NIL)
        a.kind = REDIS_NOTHING;
    if (r->type == REDIS_REPLY_INTEGER)
        a = (struct redis_answer){.kind = REDIS_NUMBER, .number = r->integer};
    if (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS)
        a = (struct redis_answer){.kind = REDIS_TEXT, .text = {r->str, r->len}};
    if (r->type == REDIS_REPLY_ERROR)
        a = (struct redis_answer){.kind = REDIS_ERROR, .text = {r->str, r->len}};
    return a;
}

enum status redis_link_exchange(struct redis_link *l, redis_answer_fn *fn, void *ctx,
                                struct error *err)
{
    int64_t deadline_us = clock_mono_us(l->cfg.wait->clock) + l->cfg.timeout_us;
    size_t n = l->expected;
    l->expected = l->unsent = 0;
    for (size_t i = 0; i < n; i++) {
        redisReply *reply = NULL;
        enum status st = next_reply(l, deadline_us, &reply, err);
        if (st)
            return st;
        struct redis_answer a = answer_of(reply);
        fn(ctx, i, &a);
        freeReplyObject(reply);
    }
    return STATUS_OK;
}

/* One command and its answer, which the caller frees; NULL: *st says what is wrong. An error of the
 * server is REFUSED, or IO when it passes by itself. */
static redisReply *ask(struct redis_link *l, const struct str *args, size_t n, enum status *st,
                       struct error *err)
{
    int64_t deadline_us = clock_mono_us(l->cfg.wait->clock) + l->cfg.timeout_us;
    redisReply *reply = NULL;
    *st = redis_link_add(l, args, n);
    if (*st)
        error_set(err, *st, "could not build a command for Redis");
    l->expected = l->unsent = 0;
    if (!*st)
        *st = next_reply(l, deadline_us, &reply, err);
    if (!reply || reply->type != REDIS_REPLY_ERROR)
        return reply;
    bool passes = strncmp(reply->str, "LOADING", 7) == 0 || strncmp(reply->str, "BUSY", 4) == 0;
    *st = fail(err, passes ? STATUS_IO : STATUS_REFUSED, "refused by", reply->str);
    freeReplyObject(reply);
    return NULL;
}

/* The same when only success matters. */
static enum status order(struct redis_link *l, const struct str *args, size_t n, struct error *err)
{
    enum status st = STATUS_OK;
    freeReplyObject(ask(l, args, n, &st, err));
    return st;
}

/* ---- connecting ---- */

static enum status authenticate(struct redis_link *l, struct error *err)
{
    const struct redis_address *a = &l->cfg.address;
    struct str args[3] = {STR("AUTH"), str_from(a->user), str_from(l->cfg.password)};
    if (!a->user[0] && !l->cfg.password[0])
        return STATUS_OK;
    if (a->user[0])
        return order(l, args, 3, err);
    args[1] = args[2];
    return order(l, args, 2, err);
}

static enum status choose_database(struct redis_link *l, struct error *err)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", l->cfg.address.database);
    const struct str args[2] = {STR("SELECT"), str_from(number)};
    return l->cfg.address.database ? order(l, args, 2, err) : STATUS_OK;
}

static void read_run_id(struct redis_link *l, const redisReply *info)
{
    const char *line = info->type == REDIS_REPLY_STRING ? strstr(info->str, "run_id:") : NULL;
    if (line)
        snprintf(l->run_id, sizeof(l->run_id), "%.*s", (int)strcspn(line + 7, "\r\n"), line + 7);
}

/* What a user with few rights may not ask stays unknown. The first question also finds out whether
 * a password is missing, or the server still loads its data. */
static enum status introduce(struct redis_link *l, struct error *err)
{
    const struct str ping[1] = {STR("PING")};
    const struct str name[3] = {STR("CLIENT"), STR("SETNAME"), str_from(l->cfg.name)};
    const struct str id[2] = {STR("CLIENT"), STR("ID")};
    const struct str info[2] = {STR("INFO"), STR("server")};
    enum status st = order(l, ping, 1, err);
    if (st)
        return st;
    st = order(l, name, 3, err);
    if (st && st != STATUS_REFUSED)
        return st;
    redisReply *reply = ask(l, id, 2, &st, err);
    if (reply && reply->type == REDIS_REPLY_INTEGER)
        l->id = reply->integer;
    freeReplyObject(reply);
    if (st && st != STATUS_REFUSED)
        return st;
    reply = ask(l, info, 2, &st, err);
    if (reply)
        read_run_id(l, reply);
    freeReplyObject(reply);
    return st == STATUS_REFUSED ? STATUS_OK : st;
}

enum status redis_link_open(const struct redis_link_config *c, struct redis_link **ret,
                            struct error *err)
{
    CLEANUP(redis_link_closep) struct redis_link *l = calloc(1, sizeof(*l));
    if (!l)
        return error_set(err, STATUS_NOMEM, "could not allocate a connection to Redis");
    l->cfg = *c;
    l->redis = c->address.host[0] ? redisConnectNonBlock(c->address.host, c->address.port)
                                  : redisConnectUnixNonBlock(c->address.path);
    if (!l->redis)
        return error_set(err, STATUS_NOMEM, "could not allocate a connection to Redis");
    if (l->redis->err)
        return fail(err, STATUS_IO, "could not connect to", l->redis->errstr);
    enum status st = authenticate(l, err);
    if (!st)
        st = choose_database(l, err);
    if (!st)
        st = introduce(l, err);
    if (!st)
        *ret = TAKE(l);
    return st;
}

enum status redis_link_end(struct redis_link *l, int64_t id, struct error *err)
{
    char number[24];
    snprintf(number, sizeof(number), "%" PRId64, id);
    const struct str args[4] = {STR("CLIENT"), STR("KILL"), STR("ID"), str_from(number)};
    return order(l, args, 4, err);
}

/* ---- looking around ---- */

enum status redis_link_scan(struct redis_link *l, uint64_t *cursor, struct str pattern,
                            size_t count, redis_scan_fn *fn, void *ctx, struct error *err)
{
    char at[24], many[24];
    snprintf(at, sizeof(at), "%" PRIu64, *cursor);
    snprintf(many, sizeof(many), "%zu", count);
    const struct str args[6] = {STR("SCAN"), str_from(at), STR("MATCH"),
                                pattern,     STR("COUNT"), str_from(many)};
    enum status st = STATUS_OK;
    redisReply *reply = ask(l, args, 6, &st, err);
    if (!reply)
        return st;
    bool good = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
                reply->element[0]->type == REDIS_REPLY_STRING &&
                reply->element[1]->type == REDIS_REPLY_ARRAY;
    if (!good) {
        freeReplyObject(reply);
        return fail(err, STATUS_IO, "cannot use the answer of", "SCAN gave no list of keys");
    }
    const redisReply *keys = reply->element[1];
    for (size_t i = 0; i < keys->elements && !st; i++)
        if (keys->element[i]->type == REDIS_REPLY_STRING)
            st = fn(ctx, (struct str){keys->element[i]->str, keys->element[i]->len});
    *cursor = strtoull(reply->element[0]->str, NULL, 10);
    freeReplyObject(reply);
    return st ? error_set(err, st, "could not keep the keys of Redis") : STATUS_OK;
}
