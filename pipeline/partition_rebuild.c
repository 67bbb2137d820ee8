/*
 * Keys that are made again from the source tables (ingest/rebuild_feed.h).
 *
 * Between BEGIN and END the key's rows come in order of time, as they would have arrived, and then
 * what the stream has brought since they were read. They go into a new key, the shadow, and nowhere
 * else: they teach nothing, since they have taught, and the live key is what readers, triggers and
 * timers know. END puts the shadow in the live key's place. The journal cannot say that, so the
 * key's page goes with the same commit, as it is then, and stands for every entry before it. A
 * crash in between leaves the old key: the chunk is then read and sent again.
 *
 * Why a new key and not a copy of the live one: what accesses and messages did that have left the
 * window is folded into the state and cannot be taken out of it. A key that is fed the whole
 * history in order of time is what the oracle computes.
 */
#include "pipeline/partition_internal.h"

#include <stdlib.h>

#include "core/counters.h"
#include "pipeline/route.h"
#include "state/fault.h"

void partition_drop_shadow(struct partition *p)
{
    struct shadow *s = &p->shadow;
    if (!s->key)
        return;
    key_free(s->key);
    s->key = NULL;
    s->bot->n_keys--;
    partition_release_bot(p, s->bot);
}

static enum status begin(struct partition *p, const struct frame_event *f, struct error *err)
{
    /* One that is still open belongs to a chunk that was given up. */
    partition_drop_shadow(p);
    struct rebuild_event mark;
    enum status st = frame_mark_decode(f->bytes, &mark, err);
    if (!st && route_home(mark.user_id, mark.bot_name) != f->partition)
        return error_set(err, STATUS_PROTOCOL, "a rebuilt key is not at home in partition %u",
                         f->partition);
    /* Of a user that was forgotten there is nothing to make but what has come since. */
    if (!st && partition_is_forgotten(p, mark.user_id, mark.bot_name, INT64_MIN) &&
        !partition_has_key(p, mark.user_id, mark.bot_name))
        return STATUS_OK;
    struct shadow s = {.types = mark.types};
    if (!st)
        st = key_new(mark.user_id, mark.bot_name, &s.key, err);
    if (!st)
        st = partition_hold_bot(p, mark.bot_name, &s.bot, err);
    if (st) {
        key_free(s.key);
        return st;
    }
    s.bot->n_keys++;
    key_set_epochs(s.key, &s.bot->epochs);
    p->shadow = s;
    return STATUS_OK;
}

/* Whether the event changes this key, a user's or the bot's own. */
static bool concerns(const struct key_log *log, const struct event *e)
{
    uint32_t scope = 1u << (log->user_id.len ? ENGINE_USER : ENGINE_BOT);
    return feature_wanted(e->type) && !feature_ignored(e) && engine_scopes(e) & scope &&
           str_equal(e->bot_name, log->bot_name) &&
           (log->user_id.len == 0 || str_equal(e->user_id, log->user_id));
}

static enum status row(struct partition *p, const struct frame_event *f, struct error *err)
{
    struct shadow *s = &p->shadow;
    if (!s->key)
        return STATUS_OK; /* the rest of a key whose beginning came before a restart */
    struct event e;
    event_arena_reset(p->arena);
    enum status st = event_decode(f->bytes, p->arena, &e, err);
    if (st || !concerns(key_log(s->key), &e) ||
        partition_is_forgotten(p, e.user_id, e.bot_name, e.at_us))
        return st;
    struct feature feature;
    feature_extract(&e, f->source, f->pos.lsn, &s->bot->epochs, &feature);
    if (key_log(s->key)->user_id.len == 0)
        feature_for_bot(&feature, e.user_id);
    /* A deletion has no time of its own, and T never goes back. */
    int64_t as_of_us = e.at_us < p->as_of_us ? e.at_us : p->as_of_us;
    struct key_change ignored;
    struct error why = {0};
    st = key_apply(s->key, &feature, as_of_us, &ignored, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return STATUS_OK; /* a dead letter when it came for the first time */
    return st ? error_set(err, st, "%s", why.text) : STATUS_OK;
}

/* Whether PostgreSQL may hold a row: of a key that this state has never seen, one may be left. */
static bool may_have_row(const struct held_key *h, enum table_id table)
{
    const struct trigger_state *s = &h->trigger[table];
    bool of_bot = key_log(h->key)->user_id.len == 0;
    return key_has_row(h->key, table) || s->flushed_us || s->first_us ||
           (h->commit_us == 0 && tables[table].by_window == of_bot);
}

/* All rows of the key: those of the engines asked for at once, the others when they are old enough.
 */
static enum status make_due(struct partition *p, struct held_key *h, uint32_t at_once,
                            int64_t now_us, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t t = 0; t < TABLE_COUNT && !st; t++) {
        struct trigger_state *s = &h->trigger[t];
        if (!may_have_row(h, (enum table_id)t))
            continue;
        if (at_once & 1u << t)
            st = partition_flush(p, h, (enum table_id)t, FLUSH_REBUILD, now_us, err);
        else
            trigger_note_context(s, now_us);
    }
    keymap_track_dirty(&p->keys, h);
    return st ? st : partition_schedule(p, h, now_us, err);
}

enum status partition_note_replaced(struct partition *p, const struct held_key *h, int64_t now_us,
                                    struct error *err)
{
    if (p->n_replaced == p->cap_replaced) {
        size_t cap = p->cap_replaced ? p->cap_replaced * 2 : 64;
        uint64_t *grown = reallocarray(p->replaced, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not keep %zu rebuilt keys", cap);
        p->replaced = grown;
        p->cap_replaced = cap;
    }
    p->replaced[p->n_replaced++] = h->id;
    p->replaced_us = now_us;
    p->n_events += REBUILT_WEIGHT;
    return STATUS_OK;
}

/* The shadow takes the place of the key in h. */
static enum status replace(struct partition *p, struct held_key *h, struct error *err)
{
    struct shadow *s = &p->shadow;
    enum status st = key_advance(h->key, p->as_of_us, err);
    st = st ? st : key_carry(&s->key, h->key, s->types, err);
    if (st)
        return st;
    struct key *old = h->key;
    h->key = s->key; /* borrows from the same bot */
    s->key = old;
    partition_drop_shadow(p);
    keymap_use(&p->keys, h);
    return STATUS_OK;
}

static enum status end(struct partition *p, const struct frame_event *f, int64_t now_us,
                       struct error *err)
{
    struct rebuild_event mark;
    enum status st = frame_mark_decode(f->bytes, &mark, err);
    const struct key_log *log = p->shadow.key ? key_log(p->shadow.key) : NULL;
    if (st || !log || !str_equal(log->user_id, mark.user_id) ||
        !str_equal(log->bot_name, mark.bot_name))
        return st;
    struct held_key *h = NULL;
    st = partition_get_key(p, f->partition, mark.user_id, mark.bot_name, &h, err);
    st = st ? st : replace(p, h, err);
    st = st ? st : partition_note_replaced(p, h, now_us, err);
    if (st)
        return st;
    if (f->pos.lsn > h->lsn)
        h->lsn = f->pos.lsn;
    log = key_log(h->key);
    if (log->n_messages > 0)
        partition_note_active(h, log->messages[log->n_messages - 1].t_us, now_us);
    COUNTER_ADD(keys_rebuilt, 1);
    st = make_due(p, h, mark.tables, now_us, err);
    if (h->commit_us == 0)
        h->commit_us = f->commit_us;
    if (!st && FAULT_POINT("rebuild_replaced"))
        st = error_set(err, STATUS_IO, "fault point rebuild_replaced");
    return st;
}

enum status partition_rebuild(struct partition *p, const struct frame_event *f, int64_t now_us,
                              struct error *err)
{
    if (f->as_of_us > p->as_of_us)
        p->as_of_us = f->as_of_us;
    switch (f->step) {
    case REBUILD_BEGIN:
        return begin(p, f, err);
    case REBUILD_ROW:
        return row(p, f, err);
    case REBUILD_END:
        return end(p, f, now_us, err);
    case REBUILD_NONE:
        break;
    }
    return error_set(err, STATUS_PROTOCOL, "no step of a rebuilt key");
}
