#include "ingest/stream.h"

#include "core/counters.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/metrics.h"
#include "ingest/dead_letter.h"
#include "ingest/pgoutput.h"
#include "ingest/relation.h"
#include "ingest/request.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEAD_LETTER_LOG_US (10 * US_PER_SECOND)
#define BLOCKED_LOG_US     US_PER_MINUTE

/* Positions of one row differ in their last 8 bits. */
_Static_assert(MAPPING_COUNTERS_MAX *MAPPING_EVENTS_MAX +
                       2 * (MAPPING_TABLES_MAX - MAPPING_COUNTERS_MAX) <=
                   256,
               "the events of a row have positions of their own");

/* What the receiver has not taken yet. */
enum pending {
    PENDING_NONE,
    PENDING_ROW,
    PENDING_TRUNCATE,
    PENDING_COMMIT,
    PENDING_REBUILD,
    PENDING_REQUEST
};

/* What the mappings cannot go past. */
struct blocked {
    bool now;        /* that is why something is pending */
    lsn_t final_lsn; /* of the transaction; INVALID once it has been handed on */
    struct error why;
    struct log_limit log_limit;
};

struct stream {
    const struct mapping_set *mappings;
    const struct receiver_ops *receiver;
    struct rebuild_feed *rebuild; /* borrowed, or NULL */
    struct pgoutput_decoder *decoder;
    struct relation_cache *relations;
    struct event_arena *arena;
    struct buf dead_letter; /* bytes of the dead letter in events[0] */
    struct log_limit log_limit;
    struct feedback feedback;
    struct heartbeat heartbeat;
    struct blocked blocked;
    /* The relation id of each mapping, once seen; 0 = not yet. Outlives sessions: a table that is
     * renamed keeps its id. */
    uint32_t relation_ids[MAPPING_TABLES_MAX];

    /* The open transaction; feedback.in_transaction says whether there is one. */
    lsn_t final_lsn; /* kept afterwards: commit records only come in order */
    int64_t commit_us;
    uint64_t row_index; /* of the next row change */
    bool skip;

    enum pending pending;
    struct pgoutput_message message; /* the one that is pending */
    size_t next_binding; /* PENDING_ROW: the mapping of the row that comes after events */
    struct event events[MAPPING_EVENTS_MAX];
    size_t n_events;
    size_t next_event;
    struct position position; /* of events[next_event] */
    uint32_t next_truncated;
};

enum status stream_new(const struct mapping_set *mappings, const struct receiver_ops *receiver,
                       struct stream **ret, struct error *err)
{
    CLEANUP(stream_freep) struct stream *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate the stream");
    s->mappings = mappings;
    s->receiver = receiver;
    buf_init(&s->dead_letter, LIMIT_DEAD_LETTER_BYTES);
    enum status st = pgoutput_decoder_new(&s->decoder, err);
    if (!st)
        st = relation_cache_new(&s->relations, err);
    if (!st)
        st = event_arena_new(&s->arena, err);
    if (st)
        return st;
    *ret = TAKE(s);
    return STATUS_OK;
}

void stream_free(struct stream *s)
{
    if (!s)
        return;
    buf_deinit(&s->dead_letter);
    if (s->arena)
        event_arena_free(s->arena);
    relation_cache_free(s->relations);
    pgoutput_decoder_free(s->decoder);
    free(s);
}

void stream_start(struct stream *s, lsn_t start, int64_t now_us)
{
    relation_cache_clear(s->relations);
    feedback_start(&s->feedback, start, now_us);
    s->final_lsn = LSN_INVALID;
    s->pending = PENDING_NONE;
    s->blocked.now = false;
    if (s->rebuild)
        rebuild_feed_session(s->rebuild);
}

void stream_set_rebuild(struct stream *s, struct rebuild_feed *f)
{
    s->rebuild = f;
}

bool stream_is_blocked(const struct stream *s)
{
    return s->blocked.now;
}

const struct error *stream_blocked_by(const struct stream *s)
{
    return s->blocked.final_lsn != LSN_INVALID ? &s->blocked.why : NULL;
}

struct feedback *stream_feedback(struct stream *s)
{
    return &s->feedback;
}

struct heartbeat *stream_heartbeat(struct stream *s)
{
    return &s->heartbeat;
}

bool stream_is_pending(const struct stream *s)
{
    return s->pending != PENDING_NONE;
}

/* Of the one in events[0]. */
static void log_dead_letter(struct stream *s)
{
    int held =
        log_limit_pass(&s->log_limit, (long long)clock_mono_us(&clock_real), DEAD_LETTER_LOG_US);
    if (held >= 0)
        log_write(LOG_WARN, "ingest",
                  "a change cannot be used and is kept as a dead letter table=\"" STR_FMT "\" "
                  "position=" LSN_FMT "/%" PRIu64 " more_before=%d",
                  STR_ARGS(s->events[0].u.dead_letter.where), LSN_ARGS(s->position.lsn),
                  s->position.seq, held);
}

/* Fills events[0]; the reason is copied since err belongs to the caller. */
static enum status make_dead_letter(struct stream *s, const struct relation *rel,
                                    const char *reason, struct error *err)
{
    struct str bytes = {s->dead_letter.data, s->dead_letter.len};
    enum status st = dead_letter_event(rel, reason, s->position, s->commit_us, bytes, s->arena,
                                       &s->events[0], err);
    if (st)
        return st;
    s->n_events = 1;
    s->next_event = 0;

    log_dead_letter(s);
    return STATUS_OK;
}

static enum status offer_events(struct stream *s, struct error *err)
{
    while (s->next_event < s->n_events) {
        enum status st = s->receiver->event(s->receiver->ctx, &s->events[s->next_event],
                                            s->position, s->commit_us, err);
        if (st)
            return st;
        metric_add(METRIC_EVENTS_RECEIVED, METRIC_SOURCE_POSTGRES,
                   event_type_name(s->events[s->next_event].type), 1);
        s->next_event++;
        s->position.seq++;
    }
    return STATUS_OK;
}

static enum row_change row_change_of(enum pgoutput_kind kind)
{
    if (kind == PGOUTPUT_INSERT)
        return CHANGE_INSERT;
    return kind == PGOUTPUT_UPDATE ? CHANGE_UPDATE : CHANGE_DELETE;
}

/* The events of one mapping of the row that is pending, or a dead letter in their place. */
static enum status map_row(struct stream *s, const struct relation_entry *e,
                           const struct mapping_binding *b, struct error *err)
{
    const struct pgoutput_message *m = &s->message;
    const struct tuple *old_tuple = m->u.change.old_kind ? &m->u.change.old_tuple : NULL;
    const struct tuple *new_tuple = m->kind == PGOUTPUT_DELETE ? NULL : &m->u.change.new_tuple;
    struct error why = {.code = STATUS_OK};
    event_arena_reset(s->arena);
    s->n_events = 0;
    s->next_event = 0;
    enum status st = mapping_apply(b, row_change_of(m->kind), old_tuple, new_tuple, s->arena,
                                   s->events, &s->n_events, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT) {
        event_arena_reset(s->arena);
        buf_reset(&s->dead_letter);
        st = dead_letter_render(&e->relation, old_tuple, new_tuple, &s->dead_letter);
        if (st)
            return error_set(err, st, "could not render a dead letter");
        return make_dead_letter(s, &e->relation, why.text, err);
    }
    if (st)
        return error_set(err, st, "%s", why.text);
    /* The row is gone since its transaction committed; the row itself does not know. */
    for (size_t i = 0; i < s->n_events; i++)
        if (s->events[i].type == EVENT_MEMORY && s->events[i].u.memory.op == MEMORY_DELETE &&
            s->events[i].at_us == 0)
            s->events[i].at_us = s->commit_us;
    return STATUS_OK;
}

/*
 * Nothing is read on until the mappings have changed. What was handed on before stays; the
 * transaction is not committed, so that a restart reads it again.
 */
static enum status block(struct stream *s, const struct error *why)
{
    struct blocked *b = &s->blocked;
    if (b->final_lsn == LSN_INVALID || strcmp(b->why.text, why->text) != 0)
        b->log_limit = (struct log_limit){0};
    b->now = true;
    b->final_lsn = s->final_lsn;
    b->why = *why;
    if (log_limit_pass(&b->log_limit, (long long)clock_mono_us(&clock_real), BLOCKED_LOG_US) >= 0)
        log_write(LOG_ERROR, "ingest",
                  "stopped reading; nothing is lost, the slot keeps what follows; mend "
                  "source.tables in the configuration, which is read again when it changes "
                  "error=\"%s\" transaction=" LSN_FMT,
                  why->text, LSN_ARGS(b->final_lsn));
    return STATUS_AGAIN;
}

static void pass_blocked(struct stream *s)
{
    if (s->blocked.final_lsn == LSN_INVALID || s->final_lsn < s->blocked.final_lsn)
        return;
    log_write(LOG_INFO, "ingest", "reading again transaction=" LSN_FMT,
              LSN_ARGS(s->blocked.final_lsn));
    s->blocked.final_lsn = LSN_INVALID;
}

/* A mapped table that has got a name the mappings do not know; NULL = none. */
static const struct mapping *renamed_from(const struct stream *s, uint32_t id)
{
    for (size_t i = 0; i < s->mappings->n; i++)
        if (s->relation_ids[i] == id)
            return &s->mappings->tables[i];
    return NULL;
}

/* INVALID: the table is mapped, but cannot be read. */
static enum status bind_relation(struct stream *s, struct relation_entry *e, struct error *why)
{
    const struct relation *rel = &e->relation;
    const struct mapping *m = mapping_find(s->mappings, str_from(rel->schema), str_from(rel->name));
    const struct mapping *before = renamed_from(s, rel->id);
    enum status st = relation_bind(e, s->mappings, why);
    if (m)
        s->relation_ids[m - s->mappings->tables] = rel->id;
    else if (before)
        st = error_set(why, STATUS_INVALID,
                       "table \"%.100s.%.100s\" is now called \"%.100s.%.100s\", which is not "
                       "mapped: map that name, or take the old one out to ignore its rows",
                       before->schema, before->table, rel->schema, rel->name);
    e->unreadable = st != STATUS_OK;
    return st;
}

void stream_remap(struct stream *s, const struct mapping_set *mappings)
{
    assert(s->pending == PENDING_NONE || s->blocked.now);
    uint32_t ids[MAPPING_TABLES_MAX] = {0};
    for (size_t i = 0; i < s->mappings->n; i++) {
        const struct mapping *old = &s->mappings->tables[i];
        const struct mapping *m =
            mapping_find(mappings, str_from(old->schema), str_from(old->table));
        if (m && s->relation_ids[i])
            ids[m - mappings->tables] = s->relation_ids[i];
    }
    memcpy(s->relation_ids, ids, sizeof(ids));
    s->mappings = mappings;
    for (size_t i = 0; i < relation_cache_count(s->relations); i++) {
        struct error why; /* said when a row of it comes */
        (void)bind_relation(s, relation_cache_at(s->relations, i), &why);
    }
}

/* A change of a table that could not be bound: why not, or OK when it can be by now. */
static enum status block_unreadable(struct stream *s, struct relation_entry *e)
{
    struct error why;
    return bind_relation(s, e, &why) == STATUS_OK ? STATUS_OK : block(s, &why);
}

/* Each mapping of the table gives its own events, one mapping after the other. */
static enum status offer_row(struct stream *s, struct error *err)
{
    struct relation_entry *e = relation_cache_find(s->relations, s->message.u.change.relation_id);
    assert(e);
    enum status st = e->unreadable ? block_unreadable(s, e) : offer_events(s, err);
    while (!st && s->next_binding < e->n_bindings) {
        st = map_row(s, e, &e->bindings[s->next_binding++], err);
        for (size_t i = 0; s->rebuild && !st && i < s->n_events; i++)
            rebuild_feed_record(s->rebuild, &s->events[i]);
        if (!st)
            st = offer_events(s, err);
    }
    return st;
}

static enum status truncate_letter(struct stream *s, const struct relation *rel, struct error *err)
{
    /* A server lists each table once; the events of one change share 8 bits of the position. */
    if ((s->position.seq & 0xFF) >= MAPPING_TABLES_MAX)
        return error_set(err, STATUS_PROTOCOL, "TRUNCATE lists a table more than once");
    event_arena_reset(s->arena);
    buf_reset(&s->dead_letter);
    return make_dead_letter(s, rel,
                            "the table was truncated: its messages are still counted; delete "
                            "rows with DELETE, or run `warmpath rebuild`",
                            err);
}

/* Read on only when the request is stored: a crash before that reads the TRUNCATE again. */
static enum status truncate_rebuild(struct stream *s, const struct relation *rel, struct error *err)
{
    char reason[160];
    if (!s->rebuild)
        return truncate_letter(s, rel, err);
    snprintf(reason, sizeof(reason), "table \"%.63s.%.63s\" was truncated", rel->schema, rel->name);
    return rebuild_feed_request(s->rebuild, reason);
}

/* One mapped table of a TRUNCATE: which rows it took away is not said. */
static enum status truncate_table(struct stream *s, const struct relation_entry *e,
                                  struct error *err)
{
    const struct relation *rel = &e->relation;
    enum on_truncate policy = TRUNCATE_DEAD_LETTER;
    struct error why;
    for (size_t i = 0; i < e->n_bindings; i++)
        if (e->bindings[i].mapping->on_truncate > policy)
            policy = e->bindings[i].mapping->on_truncate;
    switch (policy) {
    case TRUNCATE_DEAD_LETTER:
        return truncate_letter(s, rel, err);
    case TRUNCATE_IGNORE:
        log_write(LOG_INFO, "ingest",
                  "a table was truncated and its rows go on counting, as on_truncate says "
                  "table=\"%s.%s\"",
                  rel->schema, rel->name);
        return STATUS_OK;
    case TRUNCATE_REBUILD:
        return truncate_rebuild(s, rel, err);
    case TRUNCATE_STOP:
        (void)error_set(&why, STATUS_REFUSED,
                        "table \"%.120s.%.120s\" was truncated, and its on_truncate is stop: set "
                        "it to ignore (its rows go on counting), dead_letter or rebuild to go on; "
                        "it may be set back to stop afterwards",
                        rel->schema, rel->name);
        return block(s, &why);
    }
    return STATUS_OK;
}

static enum status offer_truncate(struct stream *s, struct error *err)
{
    enum status st = offer_events(s, err);
    while (!st && s->next_truncated < s->message.u.truncate.n) {
        uint32_t id = s->message.u.truncate.relation_ids[s->next_truncated];
        struct relation_entry *e = relation_cache_find(s->relations, id);
        if (!e)
            return error_set(err, STATUS_PROTOCOL, "TRUNCATE of the undescribed relation %u", id);
        st = e->unreadable ? block_unreadable(s, e) : STATUS_OK;
        if (!st && e->n_bindings > 0)
            st = truncate_table(s, e, err);
        if (st)
            return st;
        s->next_truncated++;
        st = offer_events(s, err);
    }
    return st;
}

/* What rebuilds keys, one step after the other, all at positions of the high watermark. */
static enum status offer_rebuild(struct stream *s, struct error *err)
{
    struct rebuild_event e;
    while (rebuild_feed_next(s->rebuild, &e)) {
        enum status st = s->receiver->rebuild(s->receiver->ctx, &e, s->position, s->commit_us, err);
        if (st)
            return st;
        rebuild_feed_taken(s->rebuild);
        s->position.seq++;
    }
    return STATUS_OK;
}

static enum status offer_commit(struct stream *s, struct error *err)
{
    lsn_t end_lsn = s->message.u.commit.end_lsn;
    if (!s->skip) {
        enum status st = s->receiver->commit(s->receiver->ctx, end_lsn, s->commit_us, err);
        if (st)
            return st;
        s->feedback.committed = end_lsn;
        if (s->rebuild)
            rebuild_feed_committed(s->rebuild, end_lsn);
    }
    pass_blocked(s);
    s->feedback.in_transaction = false;
    COUNTER_ADD(transactions_received, 1);
    metric_set(METRIC_SOURCE_LAST_EVENT, METRIC_SOURCE_POSTGRES, NULL, (double)s->commit_us / 1e6);
    return STATUS_OK;
}

enum status stream_retry(struct stream *s, struct error *err)
{
    enum status st = STATUS_OK;
    s->blocked.now = false;
    switch (s->pending) {
    case PENDING_NONE:
        break;
    case PENDING_ROW:
        st = offer_row(s, err);
        break;
    case PENDING_TRUNCATE:
        st = offer_truncate(s, err);
        break;
    case PENDING_COMMIT:
        st = offer_commit(s, err);
        break;
    case PENDING_REBUILD:
        st = offer_rebuild(s, err);
        break;
    case PENDING_REQUEST:
        st = offer_events(s, err);
        break;
    }
    if (st != STATUS_AGAIN)
        s->pending = PENDING_NONE;
    s->feedback.outstanding = s->pending != PENDING_NONE;
    return st;
}

static enum status take_begin(struct stream *s, const struct pgoutput_message *m, struct error *err)
{
    lsn_t final_lsn = m->u.begin.final_lsn;
    if (s->feedback.in_transaction)
        return error_set(err, STATUS_PROTOCOL, "BEGIN inside a transaction at " LSN_FMT,
                         LSN_ARGS(final_lsn));
    if (final_lsn <= s->final_lsn)
        return error_set(err, STATUS_PROTOCOL,
                         "transactions out of commit order: " LSN_FMT " after " LSN_FMT,
                         LSN_ARGS(final_lsn), LSN_ARGS(s->final_lsn));
    s->final_lsn = final_lsn;
    s->commit_us = m->u.begin.commit_us;
    s->row_index = 0;
    /* Stored is an end LSN: the commit record that starts below it ends at or before it. */
    s->skip = final_lsn < s->feedback.start;
    s->feedback.in_transaction = true;
    if (s->rebuild)
        rebuild_feed_transaction(s->rebuild, m->u.begin.xid);
    return STATUS_OK;
}

static enum status take_commit(struct stream *s, const struct pgoutput_message *m,
                               struct error *err)
{
    if (!s->feedback.in_transaction || m->u.commit.commit_lsn != s->final_lsn)
        return error_set(err, STATUS_PROTOCOL, "COMMIT at " LSN_FMT " without its BEGIN",
                         LSN_ARGS(m->u.commit.commit_lsn));
    s->pending = PENDING_COMMIT;
    return STATUS_OK;
}

static enum status take_relation(struct stream *s, const struct relation *rel, struct error *err)
{
    enum relation_change change = RELATION_SAME;
    struct relation_entry *e = NULL;
    enum status st = relation_cache_put(s->relations, rel, &change, &e, err);
    if (st || change == RELATION_SAME)
        return st;
    /* One that cannot be read is no harm until a row of it comes that is not durable yet. */
    struct error why;
    st = bind_relation(s, e, &why);
    if (change == RELATION_CHANGED && (st || e->n_bindings > 0))
        log_write(LOG_INFO, "ingest", "table changed table=\"%s.%s\" columns=%u", rel->schema,
                  rel->name, rel->n_columns);
    return STATUS_OK;
}

static enum status take_change(struct stream *s, const struct pgoutput_message *m,
                               struct error *err)
{
    if (!s->feedback.in_transaction)
        return error_set(err, STATUS_PROTOCOL, "a row change outside a transaction");
    s->position = (struct position){s->final_lsn, s->row_index++ << 8};
    if (m->kind == PGOUTPUT_TRUNCATE) {
        s->n_events = 0;
        s->next_event = 0;
        s->next_truncated = 0;
        s->pending = s->skip ? PENDING_NONE : PENDING_TRUNCATE;
        if (s->rebuild)
            rebuild_feed_lost(s->rebuild);
        return STATUS_OK;
    }

    COUNTER_ADD(changes_received, 1);
    uint32_t id = m->u.change.relation_id;
    const struct relation_entry *e = relation_cache_find(s->relations, id);
    if (!e)
        return error_set(err, STATUS_PROTOCOL, "a row of the undescribed relation %u", id);
    if (e->n_bindings == 0 && !e->unreadable)
        return STATUS_OK;
    if (s->skip) {
        COUNTER_ADD(events_skipped, 1);
        return STATUS_OK;
    }
    s->n_events = 0;
    s->next_event = 0;
    s->next_binding = 0;
    s->pending = PENDING_ROW;
    return STATUS_OK;
}

/* A request has a place among the changes of its transaction. Everybody who may log in can emit
 * one: what cannot be read is kept as a dead letter. */
static enum status take_request(struct stream *s, struct str content, struct error *err)
{
    struct error why = {.code = STATUS_OK};
    s->position = (struct position){s->final_lsn, s->row_index++ << 8};
    event_arena_reset(s->arena);
    s->n_events = 1;
    s->next_event = 0;
    enum status st =
        request_event(content, s->position, s->commit_us, s->arena, &s->events[0], &why);
    if (st == STATUS_INVALID) {
        event_arena_reset(s->arena);
        st = dead_letter_event_of(REQUEST_PLACE, why.text, s->position, s->commit_us,
                                  str_cut(content, LIMIT_DEAD_LETTER_BYTES), s->arena,
                                  &s->events[0], &why);
        if (!st)
            log_dead_letter(s);
    }
    if (st)
        return error_set(err, st, "%s", why.text);
    s->pending = PENDING_REQUEST;
    return STATUS_OK;
}

/* A logical message is no data: outside transactions it even survives a rollback. Inside one it may
 * be a request, or a watermark of ours, which is alone in its transaction. */
static enum status take_logical_message(struct stream *s, const struct pgoutput_message *m,
                                        struct error *err)
{
    if (!s->feedback.in_transaction || s->skip || !m->u.message.transactional)
        return STATUS_OK;
    if (str_equal(m->u.message.prefix, STR(REQUEST_PREFIX)))
        return take_request(s, m->u.message.content, err);
    heartbeat_came(&s->heartbeat, m->u.message.prefix, m->u.message.content, s->final_lsn);
    if (!s->rebuild || !rebuild_feed_message(s->rebuild, m->u.message.prefix, m->u.message.content))
        return STATUS_OK;
    s->position = (struct position){s->final_lsn, s->row_index << 8};
    s->pending = PENDING_REBUILD;
    return STATUS_OK;
}

static enum status take_message(struct stream *s, struct error *err)
{
    const struct pgoutput_message *m = &s->message;
    switch (m->kind) {
    case PGOUTPUT_BEGIN:
        return take_begin(s, m, err);
    case PGOUTPUT_COMMIT:
        return take_commit(s, m, err);
    case PGOUTPUT_RELATION:
        return take_relation(s, &m->u.relation, err);
    case PGOUTPUT_INSERT:
    case PGOUTPUT_UPDATE:
    case PGOUTPUT_DELETE:
    case PGOUTPUT_TRUNCATE:
        return take_change(s, m, err);
    case PGOUTPUT_MESSAGE:
        return take_logical_message(s, m, err);
    case PGOUTPUT_ORIGIN:
    case PGOUTPUT_TYPE:
        return STATUS_OK;
    }
    return error_set(err, STATUS_PROTOCOL, "unknown kind of message");
}

enum status stream_put(struct stream *s, struct str bytes, struct error *err)
{
    assert(s->pending == PENDING_NONE);
    struct replication_frame frame;
    enum status st = replication_frame_decode(bytes, &frame, err);
    if (st)
        return st;
    struct feedback *f = &s->feedback;
    if (frame.wal_end > f->received)
        f->received = frame.wal_end;
    if (frame.keepalive) {
        f->reply_requested |= frame.reply_requested;
        if (feedback_may_idle(f, frame.wal_end)) {
            s->receiver->idle(s->receiver->ctx, frame.wal_end, frame.server_us);
            f->idle = frame.wal_end;
        }
        return STATUS_OK;
    }
    st = pgoutput_decode(s->decoder, frame.payload, &s->message, err);
    if (!st)
        st = take_message(s, err);
    return st ? st : stream_retry(s, err);
}
