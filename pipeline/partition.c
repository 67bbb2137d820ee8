#include "pipeline/partition.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/counters.h"
#include "core/hash.h"
#include "pipeline/partition_internal.h"
#include "pipeline/route.h"
#include "state/fault.h"

/* ---- the sink that is closed ---- */

static size_t closed_room(void *ctx)
{
    (void)ctx;
    return 0;
}

static enum status closed_submit(void *ctx, struct sink_item *items, size_t n)
{
    (void)ctx;
    (void)items;
    (void)n;
    return STATUS_AGAIN;
}

static size_t closed_poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    (void)ctx;
    (void)worker;
    (void)out;
    (void)max;
    return 0;
}

const struct sink_port sink_port_closed = {closed_room, closed_submit, closed_poll, NULL};

static void note_change(struct held_key *h, const struct key_change *change, int64_t now_us)
{
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        if (change->touched[t])
            trigger_note(&h->trigger[t], change->weight[t], change->urgent[t], now_us);
        else if (change->context[t])
            trigger_note_context(&h->trigger[t], now_us);
        if (change->withdrawn[t])
            trigger_withdraw(&h->trigger[t]);
    }
}

/* A row says up to which LSN it shows the source; ids of the inbox are none. */
static void note_lsn(struct held_key *h, enum source source, uint64_t lsn)
{
    if (source == SOURCE_POSTGRES)
        h->lsn = lsn;
}

/* A key that begins has seen whatever was asked of it before: rows that an earlier state has left,
 * and that were invalidated when this one did not know the key, are valid again with its own. */
static void note_commit(struct held_key *h, int64_t commit_us)
{
    for (size_t t = 0; t < TABLE_COUNT && h->commit_us == 0; t++)
        h->trigger[t].cleared_us = commit_us;
    h->commit_us = commit_us;
}

/* ---- life ---- */

/* One unfolded journal entry: applies it unless the key's page contains it. */
static enum status recover_entry(void *ctx, uint64_t jseq, struct str bytes, struct error *err)
{
    struct partition *p = ctx;
    struct entry e;
    enum status st = entry_decode(bytes, &e, err);
    if (st || e.kind == ENTRY_BLANK)
        return st;
    struct held_key *h = keymap_find(&p->keys, e.key_id);
    if (!h) {
        struct store_page page;
        st = e.kind == ENTRY_KEY ? store_load_page(p->cfg.store, e.key_id, &page, NULL) : STATUS_OK;
        if (st == STATUS_END) {
            CLEANUP(key_freep) struct key *key = NULL;
            st = key_new(e.user_id, e.bot_name, &key, err);
            if (!st)
                st = partition_add_key(p, e.key_id, e.partition, TAKE(key), &h, err);
        } else if (!st) {
            st = partition_load_key(p, e.key_id, &h, err);
        }
        if (st)
            return st;
    }
    if (jseq <= h->jseq)
        return STATUS_OK;
    h->jseq = jseq;
    struct key_change change;
    switch (e.kind) {
    case ENTRY_KEY:
    case ENTRY_BLANK:
        break;
    case ENTRY_APPLY:
        st = key_apply(h->key, &e.feature, e.as_of_us, &change, err);
        if (st)
            return st;
        if (jseq > h->bot->stored_jseq)
            st = partition_teach(p, h->bot, &change.delta, err);
        if (st)
            return st;
        note_commit(h, e.commit_us);
        note_lsn(h, (enum source)e.feature.source, e.lsn);
        note_change(h, &change, e.now_us);
        partition_note_active(h, e.feature.t_us, e.now_us);
        break;
    case ENTRY_FLUSH:
        trigger_flush(&h->trigger[e.table], e.now_us);
        h->trigger[e.table].payload_hash = 0; /* the row may have been sent: SENT will say */
        break;
    case ENTRY_SENT:
        h->trigger[e.table].outbox = false;
        h->trigger[e.table].payload_hash = e.payload_hash;
        partition_note_times(h, e.table,
                             &(struct row_times){e.valid_us, e.visit_from_us, e.visit_until_us});
        break;
    case ENTRY_REQUEST:
        partition_note_request(p, h, e.op, e.token_us, e.now_us);
        break;
    }
    keymap_use(&p->keys, h);
    keymap_track_dirty(&p->keys, h);
    return STATUS_OK;
}

static enum status recover_due(void *ctx, uint64_t key_id, int64_t due_us, struct error *err)
{
    struct partition *p = ctx;
    enum status st = STATUS_OK;
    if (due_us == PAGE_DUE_OUTBOX) {
        /* Which table is found out when the key is loaded for it. */
        for (uint32_t t = 0; t < TABLE_COUNT && !st; t++)
            st = outbox_push(&p->outbox, (struct outbox_item){key_id, t});
    }
    if (!st)
        st = heap_push(&p->timers, (struct heap_item){due_us, key_id});
    return st ? error_set(err, st, "could not restore the timers") : STATUS_OK;
}

/* Timers of the keys in memory, and the rows that were on their way when the process ended. Keys
 * that are paged out wait in the heap with their stored due time. */
static enum status recover_schedule(struct partition *p, int64_t now_us, struct error *err)
{
    for (struct held_key *h = p->keys.oldest; h; h = h->newer) {
        for (size_t t = 0; t < TABLE_COUNT; t++) {
            h->queued[t] = false;
            if (!h->trigger[t].outbox)
                continue;
            h->reason[t] = FLUSH_STOP;
            enum status st = partition_queue_row(p, h, (enum table_id)t, err);
            if (st)
                return st;
        }
        enum status st = partition_schedule(p, h, now_us, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

/* The wall clock when the journal ended, or now, whichever is later. */
static int64_t recovered_tick(const struct partition *p, int64_t now_us)
{
    int64_t tick_us = now_us;
    for (const struct held_key *h = p->keys.oldest; h; h = h->newer)
        for (size_t t = 0; t < TABLE_COUNT; t++) {
            const struct trigger_state *s = &h->trigger[t];
            int64_t us = s->last_us > s->flushed_us ? s->last_us : s->flushed_us;
            tick_us = us > tick_us ? us : tick_us;
        }
    return tick_us;
}

enum status partition_open(const struct partition_config *cfg, int64_t now_us,
                           struct partition **ret, struct error *err)
{
    CLEANUP(partition_closep) struct partition *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, STATUS_NOMEM, "could not allocate a worker");
    p->cfg = *cfg;
    buf_init(&p->entries, (size_t)LIMIT_JOURNAL_BYTES);
    buf_init(&p->scratch, LIMIT_KEY_BYTES);
    buf_init(&p->new_epoch_bytes, SIZE_MAX / 2);
    enum status st = event_arena_new(&p->arena, err);
    if (!st && (keymap_init(&p->keys) || botmap_init(&p->bots)))
        st = error_set(err, STATUS_NOMEM, "could not allocate a worker");
    if (st)
        return st;
    for (int s = 0; s < SOURCE_COUNT; s++)
        for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++)
            p->applied[s][i] = *store_applied(cfg->store, (enum source)s, i);
    p->covered[SOURCE_POSTGRES] = store_covered(cfg->store);
    p->covered[SOURCE_INBOX] = store_covered_inbox(cfg->store);
    memcpy(p->covered_durable, p->covered, sizeof(p->covered_durable));
    p->as_of_us = store_as_of(cfg->store);
    p->day = *store_day(cfg->store);
    p->next_key_id = store_next_key_id(cfg->store);
    p->tick_us = INT64_MAX;
    st = partition_erase_open(p, err);
    if (!st)
        st = store_each_due(cfg->store, recover_due, p, err);
    if (!st)
        st = store_replay(cfg->store, recover_entry, p, err);
    p->jseq = store_jseq(cfg->store);
    if (!st)
        st = recover_schedule(p, now_us, err);
    if (st)
        return st;
    p->tick_us = recovered_tick(p, now_us);
    *ret = TAKE(p);
    return STATUS_OK;
}

void partition_close(struct partition *p)
{
    if (!p)
        return;
    partition_drop_shadow(p);
    partition_erase_close(p);
    keymap_deinit(&p->keys);
    botmap_deinit(&p->bots);
    heap_deinit(&p->timers);
    outbox_deinit(&p->outbox);
    buf_deinit(&p->entries);
    buf_deinit(&p->scratch);
    buf_deinit(&p->new_epoch_bytes);
    free(p->new_epochs);
    for (size_t i = 0; i < p->n_dead_letters; i++)
        free(p->dead_letters[i].text);
    free(p->dead_letters);
    free(p->fold_ids);
    free(p->replaced);
    free(p->inbox_keys);
    event_arena_free(p->arena);
    free(p);
}

/* ---- events ---- */

/* Content that cannot be used: out of play, with the event as its bytes. */
static enum status refuse_event(struct partition *p, const struct frame_event *f,
                                const struct event *e, const char *reason, struct error *err)
{
    struct buf text;
    buf_init(&text, LIMIT_EVENT_BYTES);
    struct str bytes = f->bytes;
    if (e && event_to_json(e, &text, NULL) == STATUS_OK)
        bytes = (struct str){text.data, text.len};
    enum status st = partition_dead_letter(p, f->source, f->pos, f->commit_us, STR("worker"),
                                           str_from(reason), bytes, err);
    buf_deinit(&text);
    return st;
}

static enum status trace(struct partition *p, struct held_key *h, enum trace_phase phase,
                         const struct feature *f, struct str id, int64_t as_of_us,
                         struct error *err)
{
    if (!p->cfg.trace)
        return STATUS_OK;
    buf_reset(&p->scratch);
    enum status st = key_trace(h->key, p->cfg.trace, phase, f, id, as_of_us, &p->scratch, err);
    if (!st)
        p->cfg.trace_line(p->cfg.trace_ctx, (struct str){p->scratch.data, p->scratch.len});
    return st == STATUS_END ? STATUS_OK : st;
}

enum status partition_trace_final(struct partition *p, uint32_t partition, struct str user_id,
                                  struct str bot_name, struct str id, struct buf *out,
                                  struct error *err)
{
    struct held_key *h = NULL;
    enum status st = partition_get_key(p, partition, user_id, bot_name, &h, err);
    return st ? st : key_trace_final(h->key, p->cfg.trace, hash64(id), id, p->as_of_us, out, err);
}

static enum record_kind kind_of(const struct feature *f)
{
    switch (f->type) {
    case EVENT_MEMORY:
        return f->op == MEMORY_ACCESS ? RECORD_ACCESS : RECORD_MEMORY;
    case EVENT_METRIC:
    case EVENT_CHARACTER: /* what a bot says is compared with it */
        return RECORD_METRIC;
    case EVENT_OUTREACH:
        return RECORD_OUTREACH;
    case EVENT_PRIVACY:
        return RECORD_PRIVACY;
    case EVENT_MESSAGE:
    case EVENT_MESSAGE_DELETED:
    case EVENT_DEAD_LETTER:
    case EVENT_REQUEST:
        break;
    }
    return RECORD_MESSAGE;
}

/* To the key of (user, bot), or to the bot's own (empty user_id). */
static enum status apply_to_held(struct partition *p, const struct frame_event *f,
                                 const struct event *e, struct held_key *h, int64_t now_us,
                                 struct error *err)
{
    struct str user_id = key_log(h->key)->user_id;
    struct entry entry = {
        .kind = ENTRY_APPLY,
        .key_id = h->id,
        .now_us = now_us,
        .as_of_us = f->as_of_us,
        .commit_us = f->commit_us,
        .lsn = f->pos.lsn,
    };
    feature_extract(e, f->source, f->pos.lsn, key_log(h->key)->epochs, &entry.feature);
    if (user_id.len == 0)
        feature_for_bot(&entry.feature, e->user_id);
    enum status st = trace(p, h, TRACE_BEFORE, &entry.feature, e->id, f->as_of_us, err);
    if (st)
        return st;
    struct key_change change;
    struct error why = {0};
    st = key_apply(h->key, &entry.feature, f->as_of_us, &change, &why);
    /* A message that the bot's key has no use for is its user's all the same: the user's key says
     * what is wrong with an event of both. */
    bool second = user_id.len == 0 && engine_scopes(e) & 1u << ENGINE_USER;
    if ((st == STATUS_INVALID || st == STATUS_LIMIT) && second)
        return STATUS_OK;
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return refuse_event(p, f, e, why.text, err);
    if (st)
        return error_set(err, st, "%s", why.text);
    if (change.late && !second)
        COUNTER_ADD(events_late, 1);
    p->read[user_id.len == 0 ? ENGINE_BOT : ENGINE_USER][kind_of(&entry.feature)]++;
    st = trace(p, h, TRACE_AFTER, &entry.feature, e->id, f->as_of_us, err);
    if (st)
        return st;
    st = partition_teach(p, h->bot, &change.delta, err);
    if (st)
        return st;
    if (f->source == SOURCE_INBOX)
        st = partition_note_inbox(p, h, err);
    /* Journaled even when nothing changed: the step must be repeated exactly. */
    st = st ? st : partition_journal(p, &entry, h, err);
    if (st)
        return st;
    note_commit(h, f->commit_us);
    note_lsn(h, f->source, f->pos.lsn);
    note_change(h, &change, now_us);
    partition_note_active(h, entry.feature.t_us, now_us);
    keymap_use(&p->keys, h);
    keymap_track_dirty(&p->keys, h);
    return partition_schedule(p, h, now_us, err);
}

struct application {
    struct partition *p;
    const struct frame_event *f;
    const struct event *e;
    int64_t now_us;
};

static enum status apply_to_one(void *ctx, struct held_key *h, struct error *err)
{
    const struct application *a = ctx;
    return apply_to_held(a->p, a->f, a->e, h, a->now_us, err);
}

static enum status apply_to_key(struct partition *p, const struct frame_event *f,
                                const struct event *e, struct str user_id, int64_t now_us,
                                struct error *err)
{
    if (user_id.len && e->bot_name.len == 0) { /* what a user wishes of every bot */
        struct application a = {p, f, e, now_us};
        struct held_key *wishes = NULL; /* with it they are kept for keys that do not exist yet */
        enum status st = partition_get_key(p, f->partition, user_id, STR(""), &wishes, err);
        return st ? st : partition_each_of_user(p, user_id, apply_to_one, &a, err);
    }
    struct held_key *h = NULL;
    enum status st = partition_get_key(p, f->partition, user_id, e->bot_name, &h, err);
    return st ? st : apply_to_held(p, f, e, h, now_us, err);
}

static bool is_deletion(const struct event *e)
{
    return e->type == EVENT_MESSAGE_DELETED ||
           (e->type == EVENT_MEMORY && e->u.memory.op == MEMORY_DELETE);
}

/* A late copy of what a user said who was forgotten since, or a deletion of it, which has no time
 * of its own: as long as the user has not come back, nothing is there to delete. */
static bool is_forgotten(struct partition *p, const struct event *e)
{
    struct str user = e->type == EVENT_METRIC ? metric_user(e) : e->user_id;
    if (p->tombs.n == 0 || user.len == 0)
        return false;
    if (is_deletion(e))
        return partition_is_forgotten(p, user, e->bot_name, INT64_MIN) &&
               !partition_has_key(p, user, e->bot_name);
    return partition_is_forgotten(p, user, e->bot_name, e->at_us);
}

/* To each key that the event changes and that lives in this partition: often one, two when a bot's
 * message meets its user's home. */
static enum status apply_feature(struct partition *p, const struct frame_event *f,
                                 const struct event *e, int64_t now_us, struct error *err)
{
    if (feature_ignored(e)) {
        COUNTER_ADD(metrics_ignored, 1);
        return STATUS_OK;
    }
    if (is_forgotten(p, e)) {
        COUNTER_ADD(events_forgotten, 1);
        return STATUS_OK;
    }
    uint32_t scopes = engine_scopes(e);
    enum status st = STATUS_OK;
    if (scopes & 1u << ENGINE_USER && route_home(e->user_id, e->bot_name) == f->partition)
        st = apply_to_key(p, f, e, e->user_id, now_us, err);
    if (!st && scopes & 1u << ENGINE_BOT && route_home(STR_NULL, e->bot_name) == f->partition)
        st = apply_to_key(p, f, e, STR(""), now_us, err);
    if (!st && e->type == EVENT_CHARACTER)
        st = partition_character(p, e, now_us, err);
    return st;
}

/* Rule 2 of DESIGN.md section 2: OK = apply it, END = seen before, AGAIN = something is missing: an
 * event, or the epochs of its day. */
static enum status check_turn(const struct partition *p, const struct frame_event *f)
{
    uint64_t applied = p->applied[f->source][f->partition].pseq;
    if (f->pseq <= applied)
        return STATUS_END;
    bool in_turn = f->pseq == applied + 1 && p->day.closed == p->day.opened;
    return in_turn ? STATUS_OK : STATUS_AGAIN;
}

static void note_applied(struct partition *p, const struct frame_event *f)
{
    struct store_applied *a = &p->applied[f->source][f->partition];
    assert(position_compare(f->pos, a->pos) > 0);
    a->pos = f->pos;
    a->pseq = f->pseq;
    p->n_events++;
    COUNTER_ADD(events_applied, 1);
}

enum status partition_apply(struct partition *p, const struct frame_event *f, const struct event *e,
                            int64_t now_us, struct error *err)
{
    assert(f->partition % p->cfg.workers == p->cfg.worker);
    enum status st = check_turn(p, f);
    if (st)
        return st == STATUS_END ? STATUS_OK : st;
    if (f->as_of_us > p->as_of_us)
        p->as_of_us = f->as_of_us;
    if (e->type == EVENT_DEAD_LETTER)
        st = partition_dead_letter(p, f->source, f->pos, f->commit_us, e->u.dead_letter.where,
                                   e->u.dead_letter.reason, e->u.dead_letter.bytes, err);
    else if (e->type == EVENT_REQUEST)
        st = partition_request(p, e, now_us, err);
    else if (e->type == EVENT_PRIVACY && e->u.privacy.op == PRIVACY_ERASE)
        st = partition_erase(p, f, e, now_us, err);
    else if (feature_wanted(e->type))
        st = apply_feature(p, f, e, now_us, err);
    if (st)
        return st;
    note_applied(p, f);
    /* At once: until it is durable, memory and pages say different things of the user. */
    if (!p->erasing)
        return STATUS_OK;
    if (FAULT_POINT("erase_applied"))
        return error_set(err, STATUS_IO, "fault point erase_applied");
    st = partition_commit(p, now_us, err);
    if (!st && FAULT_POINT("erase_committed"))
        st = error_set(err, STATUS_IO, "fault point erase_committed");
    return st;
}

enum status partition_event(struct partition *p, const struct frame_event *f, int64_t now_us,
                            struct error *err)
{
    if (f->partition % p->cfg.workers != p->cfg.worker)
        return error_set(err, STATUS_PROTOCOL, "an event of partition %u reached worker %u of %u",
                         f->partition, p->cfg.worker, p->cfg.workers);
    enum status st = check_turn(p, f);
    if (st)
        return st == STATUS_END ? STATUS_OK : st;
    if (f->step != REBUILD_NONE) {
        st = partition_rebuild(p, f, now_us, err);
        if (!st)
            note_applied(p, f);
        return st;
    }
    struct event e;
    struct error why = {0};
    event_arena_reset(p->arena);
    st = event_decode(f->bytes, p->arena, &e, &why);
    if (st == STATUS_NOMEM)
        return error_set(err, st, "%s", why.text);
    if (st) {
        st = refuse_event(p, f, NULL, why.text, err);
        if (!st)
            note_applied(p, f);
        return st;
    }
    p->catching_up = now_us - f->commit_us > p->cfg.catch_up_lag_us;
    return partition_apply(p, f, &e, now_us, err);
}

void partition_covered(struct partition *p, const uint64_t covered[SOURCE_COUNT], int64_t as_of_us)
{
    if (as_of_us > p->as_of_us)
        p->as_of_us = as_of_us;
    for (int s = 0; s < SOURCE_COUNT; s++) {
        if (covered[s] <= p->covered[s])
            continue;
        p->covered[s] = covered[s];
        p->lazy = true;
    }
}

/* ---- timers ---- */

static void count_flush(enum flush_reason reason)
{
    switch (reason) {
    case FLUSH_COUNT:
        COUNTER_ADD(flush_count, 1);
        break;
    case FLUSH_AGE:
        COUNTER_ADD(flush_age, 1);
        break;
    case FLUSH_IDLE:
        COUNTER_ADD(flush_idle, 1);
        break;
    case FLUSH_PREDICATE:
        COUNTER_ADD(flush_predicate, 1);
        break;
    case FLUSH_CHARACTER:
        COUNTER_ADD(flush_character, 1);
        break;
    case FLUSH_RETRACTION:
        COUNTER_ADD(flush_retraction, 1);
        break;
    case FLUSH_REFRESH:
        COUNTER_ADD(flush_refresh, 1);
        break;
    case FLUSH_REBUILD:
        COUNTER_ADD(flush_rebuild, 1);
        break;
    case FLUSH_TOUCH:
        COUNTER_ADD(flush_touch, 1);
        break;
    case FLUSH_RECOMPUTE:
        COUNTER_ADD(flush_recompute, 1);
        break;
    case FLUSH_INVALIDATE:
        COUNTER_ADD(flush_invalidate, 1);
        break;
    case FLUSH_WAKE:
        COUNTER_ADD(flush_wake, 1);
        break;
    case FLUSH_VALIDITY:
        COUNTER_ADD(flush_validity, 1);
        break;
    case FLUSH_VISIT:
        COUNTER_ADD(flush_visit, 1);
        break;
    case FLUSH_STOP:
    case FLUSH_NONE:
    case FLUSH_REASONS:
        COUNTER_ADD(flush_stop, 1);
        break;
    }
}

enum status partition_flush(struct partition *p, struct held_key *h, enum table_id table,
                            enum flush_reason reason, int64_t now_us, struct error *err)
{
    struct entry e = {
        .kind = ENTRY_FLUSH,
        .key_id = h->id,
        .now_us = now_us,
        .table = table,
        .reason = reason,
    };
    enum status st = partition_journal(p, &e, h, err);
    if (st)
        return st;
    trigger_flush(&h->trigger[table], now_us);
    if (reason >= FLUSH_RECOMPUTE) /* an answer may have come since the request */
        h->trigger[table].payload_hash = 0;
    h->reason[table] = reason;
    count_flush(reason);
    keymap_track_dirty(&p->keys, h);
    p->n_events++; /* a fired trigger is worth a commit, like an event */
    return partition_queue_row(p, h, table, err);
}

/* Timers stand at times of the wall clock. When that is set back they go back with it: otherwise
 * each would wait for so much longer. */
static void follow_clock(struct partition *p, int64_t now_us)
{
    int64_t back_us = p->tick_us - now_us;
    if (back_us < CLOCK_SLACK_US) {
        p->tick_us = back_us > 0 ? p->tick_us : now_us;
        return;
    }
    p->tick_us = now_us;
    heap_advance(&p->timers, back_us);
    for (struct held_key *h = p->keys.oldest; h; h = h->newer) {
        if (h->scheduled_us != TRIGGER_NEVER)
            h->scheduled_us -= back_us;
        for (size_t t = 0; t < TABLE_COUNT; t++)
            trigger_set_back(&h->trigger[t], now_us);
    }
}

enum status partition_tick(struct partition *p, int64_t now_us, struct error *err)
{
    follow_clock(p, now_us);
    enum status st = partition_take_results(p, now_us, err);
    if (!st)
        st = partition_erase_tick(p, err);
    while (!st && p->timers.n > 0 && heap_top(&p->timers).due_us <= now_us) {
        struct heap_item item = heap_top(&p->timers);
        heap_pop(&p->timers);
        struct held_key *h = keymap_find(&p->keys, item.key_id);
        if (h && h->scheduled_us != item.due_us)
            continue; /* superseded by an earlier entry */
        if (!h)
            st = partition_load_key(p, item.key_id, &h, err);
        if (st)
            return st;
        h->scheduled_us = TRIGGER_NEVER;
        enum table_id table = 0;
        struct trigger_due due = partition_due(p, h, now_us, &table);
        while (!st && due.at_us <= now_us) {
            st = partition_flush(p, h, table, due.reason, now_us, err);
            due = partition_due(p, h, now_us, &table);
        }
        if (!st)
            st = partition_schedule(p, h, now_us, err);
    }
    return st;
}

enum status partition_flush_all(struct partition *p, int64_t now_us, struct error *err)
{
    for (struct held_key *h = p->keys.dirty_first; h; h = h->dirty_after)
        for (size_t t = 0; t < TABLE_COUNT; t++) {
            if (h->trigger[t].first_us == 0)
                continue;
            enum status st = partition_flush(p, h, (enum table_id)t, FLUSH_STOP, now_us, err);
            if (st)
                return st;
        }
    return STATUS_OK;
}

/* ---- views ---- */

/* Processing time since which the oldest change waits to be shown. */
static int64_t oldest_waiting(const struct held_key *h)
{
    int64_t oldest = INT64_MAX;
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        const struct trigger_state *s = &h->trigger[t];
        int64_t since = s->first_us ? s->first_us : s->outbox ? s->flushed_us : INT64_MAX;
        if (since < oldest)
            oldest = since;
    }
    return oldest;
}

struct partition_view partition_view(const struct partition *p)
{
    struct partition_view v = {
        .uncommitted = p->n_events,
        .lazy = p->lazy || p->n_entries > 0 || p->n_dead_letters > 0,
        .queued = p->outbox.n > 0,
        .in_flight = p->in_flight > 0,
        .next_us = p->timers.n > 0 ? heap_top(&p->timers).due_us : TRIGGER_NEVER,
        .as_of_us = p->as_of_us,
        .caught_up_us = p->as_of_us,
        .keys = p->keys.n,
        .key_bytes = partition_bytes(p),
        .journal_bytes = store_journal_bytes(p->cfg.store),
        .day = p->day,
    };
    memcpy(v.covered_durable, p->covered_durable, sizeof(v.covered_durable));
    if (p->keys.dirty_first) {
        int64_t since = oldest_waiting(p->keys.dirty_first);
        if (since < v.caught_up_us)
            v.caught_up_us = since;
    }
    return v;
}

struct partition_figures partition_figures(const struct partition *p)
{
    struct partition_figures f = {.letters = store_dead_letters(p->cfg.store)};
    memcpy(f.read, p->read, sizeof(f.read));
    return f;
}

struct store_applied partition_applied(const struct partition *p, enum source source,
                                       uint32_t partition)
{
    assert(partition < LIMIT_PARTITIONS);
    return p->applied[source][partition];
}
