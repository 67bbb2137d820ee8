/* server/redis_batch.c - the part of redis_writer.h that reads keys and writes their values. */
#include "server/redis_link.h"
#include "server/redis_writer_internal.h"
#include "state/fault.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEND_BYTES ((size_t)1 << 20)

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
    pg_array_init(&b->users, REDIS_VALUE_BYTES);
    pg_array_init(&b->bots, REDIS_VALUE_BYTES);
    pg_array_init(&b->own, REDIS_VALUE_BYTES);
    buf_init(&b->name, REDIS_VALUE_BYTES);
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
        st = redis_ask(b->w, b->w->users_sql.data, 2, users, &b->values[0], err);
    if (!st && b->own.n)
        st = redis_ask(b->w, b->w->bots_sql.data, 1, own, &b->values[1], err);
    return st;
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
    const struct redis_owner o = {redis_cell(res, row, 0), redis_cell(res, row, 1)};
    enum status st = put_name(b->w, &o, &b->name);
    const struct str name = {b->name.data, b->name.len};
    const struct str set_args[] = {STR("SET"), name, redis_cell(res, row, 2), STR("EX"),
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
    buf_init(&again.name, REDIS_VALUE_BYTES);
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
    if (FAULT_POINT("redis_before_write"))
        return error_set(err, STATUS_IO, "the batch was lost");
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
    if (!st && clock_mono_us(&clock_real) - read_us > 2 * REDIS_ANSWER_US)
        st = error_set(err, STATUS_IO, "reading the cache took too long");
    else if (!st) {
        st = send_batch(&b, err);
        if (st)
            redis_drop_link(w);
    }
    for (size_t i = 0; i < b.n && st; i++)
        if (redis_add_key(w, (struct str){b.keys[i]->text, b.keys[i]->len}))
            w->sync_wanted = true;
    if (!st && b.n_refused) {
        w->sync_wanted = true;
        st = error_set(err, STATUS_REFUSED, "%s", b.refusal.text);
    }
    batch_deinit(&b);
    return st;
}
