#include "engines/klog.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_FROM         24 /* records from which searching all of them costs more than a hash table */
#define DIALOGUE_KEPT_MIN  16 /* messages */
#define RETENTION_KEPT_MIN 32 /* memories and accesses */

int64_t klog_horizon_us(int64_t as_of_us)
{
    return time_floor_us(as_of_us, US_PER_HOUR) - RECORD_WINDOW_US;
}

void klog_settle(struct key *k)
{
    int64_t first = k->first_left_us;
    if (k->log.n_messages && k->log.messages[0].t_us < first)
        first = k->log.messages[0].t_us;
    k->log.first_seen_us = first == INT64_MAX ? 0 : first;
    int64_t horizon = klog_horizon_us(k->log.as_of_us);
    if (k->message_cut_us < horizon)
        k->message_cut_us = INT64_MIN;
    if (k->access_cut_us < horizon)
        k->access_cut_us = INT64_MIN;
    k->log.truncated = k->message_cut_us != INT64_MIN || k->access_cut_us != INT64_MIN;
}

/* ---- ids ---- */

static uint32_t id_slot(const struct id_index *x, uint64_t id)
{
    return (uint32_t)hash64_mix(id) & (x->cap - 1);
}

static void id_put(struct id_index *x, uint64_t id, int64_t t_us)
{
    uint32_t slot = id_slot(x, id);
    while (x->entries[slot].id)
        slot = (slot + 1) & (x->cap - 1);
    x->entries[slot] = (struct id_entry){id, t_us};
    x->n++;
}

static const struct id_entry *id_find(const struct id_index *x, uint64_t id)
{
    for (uint32_t slot = id_slot(x, id); x->entries[slot].id; slot = (slot + 1) & (x->cap - 1))
        if (x->entries[slot].id == id)
            return &x->entries[slot];
    return NULL;
}

/* Closes the gap behind a removed entry, so that no probe ends too early. */
static void id_remove(struct id_index *x, uint64_t id)
{
    if (x->cap == 0)
        return;
    const struct id_entry *found = id_find(x, id);
    assert(found);
    uint32_t mask = x->cap - 1;
    uint32_t hole = (uint32_t)(found - x->entries);
    for (uint32_t slot = (hole + 1) & mask; x->entries[slot].id; slot = (slot + 1) & mask) {
        uint32_t home = id_slot(x, x->entries[slot].id);
        if (((slot - home) & mask) >= ((slot - hole) & mask)) {
            x->entries[hole] = x->entries[slot];
            hole = slot;
        }
    }
    x->entries[hole] = (struct id_entry){0};
    x->n--;
}

static enum status id_resize(struct id_index *x, uint32_t cap)
{
    struct id_entry *old = x->entries;
    struct id_index grown = {calloc(cap, sizeof(*grown.entries)), 0, cap};
    if (!grown.entries)
        return STATUS_NOMEM;
    for (uint32_t i = 0; i < x->cap; i++)
        if (old[i].id)
            id_put(&grown, old[i].id, old[i].t_us);
    free(old);
    *x = grown;
    return STATUS_OK;
}

/* ---- finding ---- */

static bool is_before(int64_t t_a, uint64_t id_a, int64_t t_b, uint64_t id_b)
{
    return t_a < t_b || (t_a == t_b && id_a < id_b);
}

size_t klog_message_position(const struct key *k, int64_t t_us, uint64_t id)
{
    const struct msg_rec *m = k->log.messages;
    size_t low = 0, high = k->messages_all;
    if (high > 0 && is_before(m[high - 1].t_us, m[high - 1].id, t_us, id))
        return high; /* in order: nearly always */
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (is_before(m[mid].t_us, m[mid].id, t_us, id))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

size_t klog_access_position(const struct key *k, int64_t t_us, uint64_t id)
{
    const struct access_rec *a = k->log.accesses;
    size_t low = 0, high = k->accesses_all;
    if (high > 0 && is_before(a[high - 1].t_us, a[high - 1].id, t_us, id))
        return high;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (is_before(a[mid].t_us, a[mid].id, t_us, id))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

size_t klog_memory_position(const struct key *k, uint64_t id)
{
    size_t low = 0, high = k->log.n_memories;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (k->log.memories[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct msg_rec *klog_find_message(const struct key *k, uint64_t id)
{
    const struct msg_rec *m = k->log.messages;
    if (k->message_ids.cap == 0) {
        for (size_t i = k->messages_all; i-- > 0;)
            if (m[i].id == id)
                return &m[i];
        return NULL;
    }
    const struct id_entry *e = id_find(&k->message_ids, id);
    if (!e)
        return NULL;
    m += klog_message_position(k, e->t_us, id);
    assert(m->id == id);
    return m;
}

const struct access_rec *klog_find_access(const struct key *k, uint64_t id)
{
    const struct access_rec *a = k->log.accesses;
    if (k->access_ids.cap == 0) {
        for (size_t i = k->accesses_all; i-- > 0;)
            if (a[i].id == id)
                return &a[i];
        return NULL;
    }
    const struct id_entry *e = id_find(&k->access_ids, id);
    if (!e)
        return NULL;
    a += klog_access_position(k, e->t_us, id);
    assert(a->id == id);
    return a;
}

const struct mem_rec *klog_find_memory(const struct key *k, uint64_t id)
{
    return key_log_memory(&k->log, id);
}

const struct mem_rec *key_log_memory(const struct key_log *log, uint64_t id)
{
    size_t low = 0, high = log->n_memories;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (log->memories[mid].id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < log->n_memories && log->memories[low].id == id ? &log->memories[low] : NULL;
}

size_t key_log_message_at(const struct key_log *log, int64_t t_us)
{
    size_t low = 0, high = log->n_messages;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (log->messages[mid].t_us < t_us)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

size_t key_log_access_at(const struct key_log *log, int64_t t_us)
{
    size_t low = 0, high = log->n_accesses;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (log->accesses[mid].t_us < t_us)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct str key_log_label(const struct key_log *log, label_ref ref)
{
    _Static_assert(offsetof(struct key, log) == 0, "the log is the head of its key");
    return arena_get(&((const struct key *)(const void *)log)->arena, ref);
}

/* ---- telling the engines ---- */

/* Puts the log in again, record by record, for one engine. */
static enum status replay_log(struct key *k, const struct engine_ops *ops, void *state,
                              struct error *err)
{
    struct key_log *log = &k->log;
    size_t n_messages = log->n_messages, n_accesses = log->n_accesses, n_memories = log->n_memories;
    size_t n_outreach = log->n_outreach;
    enum status st = STATUS_OK;
    log->n_messages = log->n_accesses = log->n_memories = log->n_outreach = 0;
    while (log->n_memories < n_memories) {
        log->n_memories++;
        if (!st && ops->kinds & 1u << RECORD_MEMORY)
            st = ops->insert(state, log, RECORD_MEMORY, log->n_memories - 1, err);
    }
    while (log->n_messages < n_messages) {
        log->n_messages++;
        if (!st && ops->kinds & 1u << RECORD_MESSAGE)
            st = ops->insert(state, log, RECORD_MESSAGE, log->n_messages - 1, err);
    }
    while (log->n_accesses < n_accesses) {
        log->n_accesses++;
        if (!st && ops->kinds & 1u << RECORD_ACCESS)
            st = ops->insert(state, log, RECORD_ACCESS, log->n_accesses - 1, err);
    }
    while (log->n_outreach < n_outreach) {
        log->n_outreach++;
        if (!st && ops->kinds & 1u << RECORD_OUTREACH)
            st = ops->insert(state, log, RECORD_OUTREACH, log->n_outreach - 1, err);
    }
    return st;
}

bool klog_is_suppressed(const struct key *k, const struct engine_ops *ops)
{
    return ops->profiles && k->log.consents[CONSENT_PROFILING].opted_out;
}

void klog_forget_profile(struct key *k)
{
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (!ops->profiles || !k->states[i])
            continue;
        if (ops->fini)
            ops->fini(k->states[i]);
        free(TAKE(k->states[i]));
    }
    for (size_t i = 0; i < k->messages_all; i++) {
        struct msg_rec *m = &k->messages[k->messages_head + i];
        for (size_t t = msg_trait_count(m); t-- > 0;)
            arena_release(&k->arena, m->traits.name[t]);
        msg_forget_profile(m);
    }
}

enum status klog_start_engine(struct key *k, size_t engine, struct error *err)
{
    const struct engine_ops *ops = engine_at(engine);
    if (k->states[engine] || klog_is_suppressed(k, ops))
        return STATUS_OK;
    void *state = calloc(1, ops->state_size ? ops->state_size : 1);
    if (!state)
        return error_set(err, STATUS_NOMEM, "could not allocate the state of an engine");
    k->states[engine] = state;
    enum status st = ops->init ? ops->init(state, err) : STATUS_OK;
    return st || !ops->insert ? st : replay_log(k, ops, state, err);
}

enum status klog_open_shared(struct key *k, struct error *err)
{
    if (!k->log.dialogue && dialogue_new(&k->log.dialogue))
        return error_set(err, STATUS_NOMEM, "could not allocate the dialogue of a key");
    if (!k->log.retention && retention_new(&k->log.retention))
        return error_set(err, STATUS_NOMEM, "could not allocate the retention of a key");
    return STATUS_OK;
}

void klog_close_shared(struct key *k)
{
    if (k->log.n_messages < DIALOGUE_KEPT_MIN)
        dialogue_free(TAKE(k->log.dialogue));
    if (k->log.n_memories + k->log.n_accesses < RETENTION_KEPT_MIN)
        retention_free(TAKE(k->log.retention));
}

enum status klog_follow_epochs(struct key *k, struct error *err)
{
    uint64_t generation = k->log.epochs ? k->log.epochs->generation : 0;
    if (generation == k->epoch_generation)
        return STATUS_OK;
    k->epoch_generation = generation;
    if (k->log.dialogue)
        dialogue_void(k->log.dialogue);
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (!ops->uses_epochs || !k->states[i])
            continue;
        if (ops->fini)
            ops->fini(k->states[i]);
        free(TAKE(k->states[i]));
        enum status st = klog_start_engine(k, i, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status engines_insert(struct key *k, enum record_kind kind, size_t index,
                                  struct error *err)
{
    enum status st = STATUS_OK;
    if (kind == RECORD_MESSAGE && k->log.dialogue)
        dialogue_insert(k->log.dialogue, &k->log, index);
    if (k->log.retention)
        retention_insert(k->log.retention, &k->log, kind, index);
    for (size_t i = 0; !st && i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (k->states[i] && ops->insert && ops->kinds & 1u << kind)
            st = ops->insert(k->states[i], &k->log, kind, index, err);
        else if (!k->states[i] && ops->row_kinds & 1u << kind && ops->scope == k->scope)
            st = klog_start_engine(k, i, err);
    }
    return st;
}

static void engines_retract(struct key *k, enum record_kind kind, size_t index)
{
    if (kind == RECORD_MESSAGE && k->log.dialogue)
        dialogue_retract(k->log.dialogue, &k->log, index);
    if (k->log.retention)
        retention_retract(k->log.retention, &k->log, kind, index);
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (k->states[i] && ops->retract && ops->kinds & 1u << kind)
            ops->retract(k->states[i], &k->log, kind, index);
    }
}

enum status klog_open_metrics(struct key *k, struct error *err)
{
    if (!k->metrics && metrics_new(&k->metrics))
        return error_set(err, STATUS_NOMEM, "could not allocate the metrics of a bot");
    k->log.metrics = k->metrics;
    return STATUS_OK;
}

enum status klog_metric_entered(struct key *k, struct error *err)
{
    return engines_insert(k, RECORD_METRIC, 0, err);
}

/* ---- room ---- */

static void *grow_array(void *items, uint32_t cap, size_t size)
{
    return reallocarray(items, cap, size);
}

static uint32_t next_cap(uint32_t cap)
{
    /* Gently, once it is worth it: a hundred records with room for forty more is memory lost. */
    return cap < 4 ? 4 : cap < 16 ? cap + cap / 2 : cap + cap / 4;
}

/* Moves the records to the front of their allocation, or into a larger one when it is full: a
 * quarter of slack at the front makes moving them cheap enough (amortised, four records a pop). */
static enum status messages_room(struct key *k)
{
    if (k->messages_head + k->messages_all < k->messages_cap)
        return STATUS_OK;
    if (k->messages_head > 0 && k->messages_head >= k->messages_cap / 8) {
        memmove(k->messages, k->messages + k->messages_head,
                k->messages_all * sizeof(*k->messages));
        k->messages_head = 0;
    } else {
        uint32_t cap = next_cap(k->messages_cap);
        struct msg_rec *grown = grow_array(k->messages, cap, sizeof(*grown));
        if (!grown)
            return STATUS_NOMEM;
        k->messages = grown;
        k->messages_cap = cap;
    }
    k->log.messages = k->messages + k->messages_head;
    return STATUS_OK;
}

static enum status accesses_room(struct key *k)
{
    if (k->accesses_head + k->accesses_all < k->accesses_cap)
        return STATUS_OK;
    if (k->accesses_head > 0 && k->accesses_head >= k->accesses_cap / 8) {
        memmove(k->accesses, k->accesses + k->accesses_head,
                k->accesses_all * sizeof(*k->accesses));
        k->accesses_head = 0;
    } else {
        uint32_t cap = next_cap(k->accesses_cap);
        struct access_rec *grown = grow_array(k->accesses, cap, sizeof(*grown));
        if (!grown)
            return STATUS_NOMEM;
        k->accesses = grown;
        k->accesses_cap = cap;
    }
    k->log.accesses = k->accesses + k->accesses_head;
    return STATUS_OK;
}

static enum status memories_room(struct key *k)
{
    if (k->log.n_memories < k->memories_cap)
        return STATUS_OK;
    uint32_t cap = next_cap(k->memories_cap);
    struct mem_rec *grown = grow_array(k->memories, cap, sizeof(*grown));
    if (!grown)
        return STATUS_NOMEM;
    k->memories = grown;
    k->memories_cap = cap;
    k->log.memories = grown;
    return STATUS_OK;
}

static enum status ids_room(struct id_index *x, size_t records)
{
    if (x->cap == 0 && records < INDEX_FROM)
        return STATUS_OK;
    return x->cap && x->n * 3 < x->cap * 2 ? STATUS_OK : id_resize(x, x->cap ? x->cap * 2 : 64);
}

/* Once the table exists, it holds every record. */
static enum status message_ids_room(struct key *k)
{
    bool first = k->message_ids.cap == 0;
    enum status st = ids_room(&k->message_ids, k->messages_all);
    if (!st && first && k->message_ids.cap)
        for (size_t i = 0; i < k->messages_all; i++)
            id_put(&k->message_ids, k->log.messages[i].id, k->log.messages[i].t_us);
    return st;
}

static enum status access_ids_room(struct key *k)
{
    bool first = k->access_ids.cap == 0;
    enum status st = ids_room(&k->access_ids, k->accesses_all);
    if (!st && first && k->access_ids.cap)
        for (size_t i = 0; i < k->accesses_all; i++)
            id_put(&k->access_ids, k->log.accesses[i].id, k->log.accesses[i].t_us);
    return st;
}

static enum status no_room(struct error *err)
{
    return error_set(err, STATUS_NOMEM, "could not allocate records of a key");
}

/* ---- in and out ---- */

enum status klog_insert_message(struct key *k, const struct msg_rec *m, size_t *ret_index,
                                struct error *err)
{
    if (messages_room(k) || message_ids_room(k))
        return no_room(err);
    size_t at = klog_message_position(k, m->t_us, m->id);
    struct msg_rec *records = k->messages + k->messages_head;
    memmove(records + at + 1, records + at, (k->messages_all - at) * sizeof(*records));
    records[at] = *m;
    k->messages_all++;
    if (k->message_ids.cap)
        id_put(&k->message_ids, m->id, m->t_us);
    *ret_index = at;
    if (m->t_us > k->log.as_of_us + FUTURE_SLACK_US)
        return STATUS_OK;
    k->log.n_messages++;
    return engines_insert(k, RECORD_MESSAGE, at, err);
}

enum status klog_insert_access(struct key *k, const struct access_rec *a, size_t *ret_index,
                               struct error *err)
{
    if (accesses_room(k) || access_ids_room(k))
        return no_room(err);
    size_t at = klog_access_position(k, a->t_us, a->id);
    struct access_rec *records = k->accesses + k->accesses_head;
    memmove(records + at + 1, records + at, (k->accesses_all - at) * sizeof(*records));
    records[at] = *a;
    k->accesses_all++;
    if (k->access_ids.cap)
        id_put(&k->access_ids, a->id, a->t_us);
    *ret_index = at;
    if (a->t_us > k->log.as_of_us + FUTURE_SLACK_US)
        return STATUS_OK;
    k->log.n_accesses++;
    return engines_insert(k, RECORD_ACCESS, at, err);
}

enum status klog_insert_memory(struct key *k, const struct mem_rec *m, size_t *ret_index,
                               struct error *err)
{
    if (memories_room(k))
        return no_room(err);
    size_t at = klog_memory_position(k, m->id);
    memmove(k->memories + at + 1, k->memories + at,
            (k->log.n_memories - at) * sizeof(*k->memories));
    k->memories[at] = *m;
    k->log.n_memories++;
    *ret_index = at;
    return engines_insert(k, RECORD_MEMORY, at, err);
}

enum status klog_keep_embedding(struct key *k, const struct embedding *e, uint16_t *ret_slot,
                                struct error *err)
{
    uint32_t slot = k->embeddings_free;
    while (slot < k->embeddings_cap && k->embeddings[slot].model)
        slot++;
    if (slot == k->embeddings_cap) {
        uint32_t cap = slot + slot / 4 + 4;
        assert(cap < UINT16_MAX);
        struct embedding *grown = realloc(k->embeddings, cap * sizeof(*grown));
        if (!grown)
            return no_room(err);
        memset(grown + slot, 0, (cap - slot) * sizeof(*grown));
        k->log.embeddings = k->embeddings = grown;
        k->embeddings_cap = cap;
    }
    k->embeddings[slot] = *e;
    k->embeddings_free = slot + 1;
    *ret_slot = (uint16_t)(slot + 1);
    return STATUS_OK;
}

void klog_release_message(struct key *k, const struct msg_rec *m)
{
    for (size_t i = 0; i < RECORD_LABELS; i++)
        arena_release(&k->arena, m->labels[i]);
    for (size_t i = msg_trait_count(m); i-- > 0;)
        arena_release(&k->arena, m->traits.name[i]);
    if (m->embedding == 0)
        return;
    k->embeddings[m->embedding - 1].model = 0;
    if (k->embeddings_free >= m->embedding)
        k->embeddings_free = m->embedding - 1u;
}

void klog_remove_message(struct key *k, size_t index)
{
    assert(index < k->messages_all);
    struct msg_rec *records = k->messages + k->messages_head;
    if (index < k->log.n_messages) {
        engines_retract(k, RECORD_MESSAGE, index);
        k->log.n_messages--;
    }
    klog_release_message(k, &records[index]);
    id_remove(&k->message_ids, records[index].id);
    k->messages_all--;
    if (index == 0) {
        k->messages_head++;
        k->log.messages = k->messages + k->messages_head;
    } else {
        memmove(records + index, records + index + 1, (k->messages_all - index) * sizeof(*records));
    }
}

void klog_remove_access(struct key *k, size_t index)
{
    assert(index < k->accesses_all);
    struct access_rec *records = k->accesses + k->accesses_head;
    if (index < k->log.n_accesses) {
        engines_retract(k, RECORD_ACCESS, index);
        k->log.n_accesses--;
    }
    id_remove(&k->access_ids, records[index].id);
    k->accesses_all--;
    if (index == 0) {
        k->accesses_head++;
        k->log.accesses = k->accesses + k->accesses_head;
    } else {
        memmove(records + index, records + index + 1, (k->accesses_all - index) * sizeof(*records));
    }
}

static void release_memory_labels(struct key *k, const struct mem_rec *m)
{
    for (size_t i = 0; i < sizeof(m->labels) / sizeof(m->labels[0]); i++)
        arena_release(&k->arena, m->labels[i]);
}

void klog_remove_memory(struct key *k, size_t index)
{
    assert(index < k->log.n_memories);
    engines_retract(k, RECORD_MEMORY, index);
    release_memory_labels(k, &k->memories[index]);
    k->log.n_memories--;
    memmove(k->memories + index, k->memories + index + 1,
            (k->log.n_memories - index) * sizeof(*k->memories));
}

enum status klog_change_memory(struct key *k, size_t index, const struct mem_rec *m,
                               struct error *err)
{
    assert(k->memories[index].id == m->id);
    engines_retract(k, RECORD_MEMORY, index);
    release_memory_labels(k, &k->memories[index]);
    k->memories[index] = *m;
    return engines_insert(k, RECORD_MEMORY, index, err);
}

enum status klog_show_message(struct key *k, struct error *err)
{
    assert(k->log.n_messages < k->messages_all);
    k->log.n_messages++;
    return engines_insert(k, RECORD_MESSAGE, k->log.n_messages - 1, err);
}

enum status klog_show_access(struct key *k, struct error *err)
{
    assert(k->log.n_accesses < k->accesses_all);
    k->log.n_accesses++;
    return engines_insert(k, RECORD_ACCESS, k->log.n_accesses - 1, err);
}

/* ---- outreach ---- */

/* Position of (t, id, op), counting future records. */
static size_t outreach_position(const struct key *k, const struct outreach_rec *o)
{
    size_t at = k->outreach_all;
    while (at > 0) {
        const struct outreach_rec *before = &k->outreach[at - 1];
        if (is_before(before->t_us, before->id, o->t_us, o->id) ||
            (before->t_us == o->t_us && before->id == o->id && before->op < o->op))
            break;
        at--;
    }
    return at;
}

const struct outreach_rec *klog_find_outreach(const struct key *k, uint64_t id, uint8_t op)
{
    for (size_t i = k->outreach_all; i-- > 0;)
        if (k->outreach[i].id == id && k->outreach[i].op == op)
            return &k->outreach[i];
    return NULL;
}

enum status klog_insert_outreach(struct key *k, const struct outreach_rec *o, size_t *ret_index,
                                 struct error *err)
{
    if (k->outreach_all == k->outreach_cap) {
        uint32_t cap = next_cap(k->outreach_cap);
        struct outreach_rec *grown = grow_array(k->outreach, cap, sizeof(*grown));
        if (!grown)
            return no_room(err);
        k->outreach = grown;
        k->outreach_cap = cap;
        k->log.outreach = grown;
    }
    size_t at = outreach_position(k, o);
    memmove(k->outreach + at + 1, k->outreach + at, (k->outreach_all - at) * sizeof(*o));
    k->outreach[at] = *o;
    k->outreach_all++;
    *ret_index = at;
    if (o->t_us > k->log.as_of_us + FUTURE_SLACK_US)
        return STATUS_OK;
    k->log.n_outreach++;
    return engines_insert(k, RECORD_OUTREACH, at, err);
}

void klog_remove_outreach(struct key *k, size_t index)
{
    assert(index < k->outreach_all);
    if (index < k->log.n_outreach) {
        engines_retract(k, RECORD_OUTREACH, index);
        k->log.n_outreach--;
    }
    k->outreach_all--;
    memmove(k->outreach + index, k->outreach + index + 1,
            (k->outreach_all - index) * sizeof(*k->outreach));
}

enum status klog_show_outreach(struct key *k, struct error *err)
{
    assert(k->log.n_outreach < k->outreach_all);
    k->log.n_outreach++;
    return engines_insert(k, RECORD_OUTREACH, k->log.n_outreach - 1, err);
}

void klog_fold_reply(struct key *k, size_t index)
{
    const struct msg_rec *m = &k->log.messages[index];
    if (m->flags & MSG_BOT)
        return;
    for (size_t i = 0; i < k->outreach_all; i++) {
        struct outreach_rec *o = &k->outreach[i];
        if (o->op == OUTREACH_SENT && m->t_us > o->t_us && m->t_us - o->t_us <= RECORD_REPLY_US)
            o->replied = true;
    }
}

/* ---- marks ---- */

static size_t mark_position(const struct key *k, enum mark_kind kind, uint64_t id)
{
    size_t low = 0, high = k->n_marks;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct mark *m = &k->marks[mid];
        if (m->kind < kind || (m->kind == kind && m->id < id))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct mark *klog_find_mark(const struct key *k, enum mark_kind kind, uint64_t id)
{
    size_t at = mark_position(k, kind, id);
    bool found = at < k->n_marks && k->marks[at].kind == kind && k->marks[at].id == id;
    return found ? &k->marks[at] : NULL;
}

static void remove_mark_at(struct key *k, size_t at)
{
    k->n_marks--;
    memmove(k->marks + at, k->marks + at + 1, (k->n_marks - at) * sizeof(*k->marks));
}

void klog_clear_mark(struct key *k, enum mark_kind kind, uint64_t id)
{
    const struct mark *m = klog_find_mark(k, kind, id);
    if (m)
        remove_mark_at(k, (size_t)(m - k->marks));
}

enum status klog_set_mark(struct key *k, const struct mark *m, struct error *err)
{
    struct mark *old = klog_find_mark(k, m->kind, m->id);
    if (old) {
        *old = *m;
        return STATUS_OK;
    }
    if (k->n_marks == LIMIT_TOMBSTONES) {
        /* The one with the smallest ver goes, though it may be the new one. */
        size_t oldest = 0;
        for (size_t i = 1; i < k->n_marks; i++)
            if (k->marks[i].ver < k->marks[oldest].ver)
                oldest = i;
        if (m->ver < k->marks[oldest].ver)
            return STATUS_OK;
        remove_mark_at(k, oldest);
    }
    if (k->n_marks == k->marks_cap) {
        uint32_t cap = next_cap(k->marks_cap);
        struct mark *grown = grow_array(k->marks, cap, sizeof(*grown));
        if (!grown)
            return no_room(err);
        k->marks = grown;
        k->marks_cap = cap;
    }
    size_t at = mark_position(k, m->kind, m->id);
    memmove(k->marks + at + 1, k->marks + at, (k->n_marks - at) * sizeof(*k->marks));
    k->marks[at] = *m;
    k->n_marks++;
    return STATUS_OK;
}
