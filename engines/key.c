#include "engines/key.h"

#include "core/clock.h"
#include "engines/fsrs.h"
#include "engines/klog.h"
#include "engines/params.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_LABELS (sizeof(((struct mem_rec *)NULL)->labels) / sizeof(label_ref))

/* ---- life ---- */

enum status key_new(struct str user_id, struct str bot_name, struct key **ret, struct error *err)
{
    uint32_t n_states = 0;
    while (engine_at(n_states))
        n_states++;
    size_t names_at = sizeof(struct key) + n_states * sizeof(void *);
    size_t bytes = names_at + user_id.len + bot_name.len;
    struct key *k = calloc(1, bytes);
    if (!k)
        return error_set(err, STATUS_NOMEM, "could not allocate a key");
    char *names = (char *)k + names_at;
    if (user_id.len)
        memcpy(names, user_id.ptr, user_id.len);
    if (bot_name.len)
        memcpy(names + user_id.len, bot_name.ptr, bot_name.len);
    k->log.user_id = (struct str){names, user_id.len};
    k->log.bot_name = (struct str){names + user_id.len, bot_name.len};
    k->scope = user_id.len == 0 ? ENGINE_BOT : ENGINE_USER;
    k->first_left_us = INT64_MAX;
    k->message_cut_us = INT64_MIN;
    k->access_cut_us = INT64_MIN;
    k->bytes = (uint32_t)bytes;
    k->n_states = n_states;
    *ret = k;
    return STATUS_OK;
}

void key_free(struct key *k)
{
    if (!k)
        return;
    for (size_t i = 0; i < k->n_states; i++) {
        if (k->states[i] && engine_at(i)->fini)
            engine_at(i)->fini(k->states[i]);
        free(k->states[i]);
    }
    dialogue_free(k->log.dialogue);
    retention_free(k->log.retention);
    metrics_free(k->metrics);
    arena_deinit(&k->arena);
    free(k->embeddings);
    free(k->messages);
    free(k->accesses);
    free(k->memories);
    free(k->outreach);
    free(k->marks);
    free(k->message_ids.entries);
    free(k->access_ids.entries);
    free(k);
}

void key_set_epochs(struct key *k, const struct epoch_list *epochs)
{
    k->log.epochs = epochs;
}

const struct key_log *key_log(const struct key *k)
{
    return &k->log;
}

size_t key_bytes(const struct key *k)
{
    size_t n = k->bytes + arena_bytes(&k->arena) + dialogue_bytes(k->log.dialogue) +
               retention_bytes(k->log.retention) + metrics_bytes(k->metrics);
    n += k->messages_cap * sizeof(*k->messages) + k->accesses_cap * sizeof(*k->accesses);
    n += k->memories_cap * sizeof(*k->memories) + k->marks_cap * sizeof(*k->marks);
    n += k->embeddings_cap * sizeof(*k->embeddings);
    n += k->outreach_cap * sizeof(*k->outreach);
    n += (k->message_ids.cap + k->access_ids.cap) * sizeof(*k->message_ids.entries);
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (k->states[i])
            n += ops->state_size + (ops->heap_bytes ? ops->heap_bytes(k->states[i]) : 0);
    }
    return n;
}

/* ---- what a change means to the tables ---- */

/* Called after an insertion, and before a removal: the record is in the log both times. */
static void note(const struct key *k, enum record_kind kind, size_t index, bool removed,
                 struct key_change *change)
{
    uint32_t weights[TABLE_COUNT] = {0};
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (ops->scope != k->scope || !(ops->kinds & 1u << kind) || klog_is_suppressed(k, ops))
            continue;
        uint32_t weight = ops->weight ? ops->weight(&k->log, kind, index) : 0;
        bool urgent =
            k->states[i] && ops->urgent && ops->urgent(k->states[i], &k->log, kind, index, removed);
        for (enum table_id t = ops->table; t < TABLE_COUNT && engine_fills(ops, t); t++) {
            if (weight > weights[t])
                weights[t] = weight;
            change->urgent[t] |= urgent;
            change->withdrawn[t] |= urgent && (removed || kind == RECORD_PRIVACY);
            if (urgent || ops->row_kinds & 1u << kind)
                change->touched[t] = true;
            else if (key_has_row(k, t))
                change->context[t] = true;
        }
    }
    for (size_t t = 0; t < TABLE_COUNT; t++)
        change->weight[t] += weights[t];
}

static bool has_record(const struct key *k, uint32_t kinds)
{
    return (kinds & 1u << RECORD_MESSAGE && k->log.n_messages) ||
           (kinds & 1u << RECORD_MEMORY && k->log.n_memories) ||
           (kinds & 1u << RECORD_ACCESS && k->log.n_accesses) ||
           (kinds & 1u << RECORD_METRIC && k->metrics && k->metrics->n_points);
}

/* After a record entered the log for the first time. Whether an engine has a state does not count:
 * emission makes one for keys without a record that justifies a row. */
static void learn(struct key *k, enum record_kind kind, size_t index, struct key_change *change)
{
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (k->states[i] && ops->learn && ops->kinds & 1u << kind && has_record(k, ops->row_kinds))
            ops->learn(k->states[i], &k->log, kind, index, &change->delta);
    }
}

/* ---- time and bounds ---- */

static void message_leaves(struct key *k)
{
    if (k->log.messages[0].t_us < k->first_left_us)
        k->first_left_us = k->log.messages[0].t_us;
    klog_fold_reply(k, 0);
    klog_remove_message(k, 0);
}

/* The oldest access leaves for good: its memory remembers what it did (fsrs.h). */
static enum status access_leaves(struct key *k, struct error *err)
{
    struct access_rec a = k->log.accesses[0];
    klog_remove_access(k, 0);
    const struct mem_rec *m = klog_find_memory(k, a.memory);
    if (!m)
        return STATUS_OK;
    struct mem_rec folded = *m;
    fsrs_fold(&folded.base, m, &a);
    for (size_t i = 0; i < MEMORY_LABELS; i++)
        arena_retain(&k->arena, folded.labels[i]);
    return klog_change_memory(k, (size_t)(m - k->log.memories), &folded, err);
}

/* What a bot's key has no room for stays in its sums (voice.h). */
static enum status messages_cap(struct key *k, struct error *err)
{
    while (k->log.n_messages > LIMIT_MESSAGES) {
        if (k->scope == ENGINE_BOT) {
            enum status st = klog_open_metrics(k, err);
            if (!st && voice_add(&k->metrics->voice, &k->log, &k->log.messages[0]))
                st = error_set(err, STATUS_NOMEM, "could not add up the messages of a bot");
            if (st)
                return st;
        }
        k->message_cut_us = k->log.messages[0].t_us;
        message_leaves(k);
    }
    return STATUS_OK;
}

static enum status accesses_cap(struct key *k, struct error *err)
{
    enum status st = STATUS_OK;
    while (!st && k->log.n_accesses > LIMIT_ACCESSES) {
        k->access_cut_us = k->log.accesses[0].t_us;
        st = access_leaves(k, err);
    }
    return st;
}

static enum status expire(struct key *k, int64_t horizon, struct error *err)
{
    enum status st = STATUS_OK;
    while (k->messages_all && k->log.messages[0].t_us < horizon)
        message_leaves(k);
    while (!st && k->accesses_all && k->log.accesses[0].t_us < horizon)
        st = access_leaves(k, err);
    while (k->outreach_all && k->outreach[0].t_us < horizon + RECORD_WINDOW_US - RECORD_OUTREACH_US)
        klog_remove_outreach(k, 0);
    /* A deleted message this old cannot come back: it would be late. Memories have no horizon. */
    for (size_t i = k->n_marks; i-- > 0;)
        if (k->marks[i].kind == MARK_MESSAGE && k->marks[i].t_us < horizon)
            klog_clear_mark(k, MARK_MESSAGE, k->marks[i].id);
    if (k->metrics)
        metrics_expire(k->metrics, k->log.as_of_us);
    return st;
}

static enum status show_future(struct key *k, struct error *err)
{
    int64_t last = k->log.as_of_us + FUTURE_SLACK_US;
    enum status st = STATUS_OK;
    while (!st && k->log.n_messages < k->messages_all &&
           k->log.messages[k->log.n_messages].t_us <= last) {
        st = klog_show_message(k, err);
        st = st ? st : messages_cap(k, err);
    }
    while (!st && k->log.n_accesses < k->accesses_all &&
           k->log.accesses[k->log.n_accesses].t_us <= last) {
        st = klog_show_access(k, err);
        st = st ? st : accesses_cap(k, err);
    }
    while (!st && k->log.n_outreach < k->outreach_all &&
           k->outreach[k->log.n_outreach].t_us <= last)
        st = klog_show_outreach(k, err);
    return st;
}

enum status key_advance(struct key *k, int64_t as_of_us, struct error *err)
{
    if (as_of_us <= k->log.as_of_us)
        return STATUS_OK;
    int64_t before = klog_horizon_us(k->log.as_of_us);
    int64_t horizon = klog_horizon_us(as_of_us);
    k->log.as_of_us = as_of_us;
    enum status st = horizon > before ? expire(k, horizon, err) : STATUS_OK;
    if (!st)
        st = show_future(k, err);
    klog_settle(k);
    return st;
}

/* ---- messages ---- */

static enum status too_far_ahead(struct error *err)
{
    return error_set(err, STATUS_INVALID, "at: more than 7 days after the newest event seen");
}

static enum status too_many_ahead(struct error *err)
{
    return error_set(err, STATUS_INVALID, "at: more than %d records of this key lie in the future",
                     LIMIT_FUTURE_RECORDS);
}

static bool is_future(const struct key *k, int64_t t_us)
{
    return t_us > k->log.as_of_us + FUTURE_SLACK_US;
}

/* ENGINES.md 1.2: a deletion holds against the other source, and PostgreSQL's copy of a record
 * against the inbox's. */
static bool is_overruled(const struct mark *tombstone, const uint8_t *live_source, uint8_t source)
{
    if (tombstone && tombstone->source != source)
        return true;
    return live_source && *live_source == SOURCE_POSTGRES && source == SOURCE_INBOX;
}

static enum status intern_labels(struct key *k, const struct feature *f, label_ref *labels,
                                 size_t max, struct error *err)
{
    size_t n = f->n_labels < max ? f->n_labels : max;
    for (size_t i = 0; i < n; i++) {
        if (arena_intern(&k->arena, f->labels[i], &labels[i])) {
            while (i-- > 0)
                arena_release(&k->arena, labels[i]);
            return error_set(err, STATUS_NOMEM, "could not allocate labels of a key");
        }
    }
    return STATUS_OK;
}

static enum status intern_traits(struct key *k, const struct feature *f, struct msg_rec *m,
                                 struct error *err)
{
    for (size_t i = 0; i < f->n_traits; i++)
        if (arena_intern(&k->arena, f->traits[i], &m->traits.name[i])) {
            klog_release_message(k, m);
            return error_set(err, STATUS_NOMEM, "could not allocate traits of a key");
        }
    return STATUS_OK;
}

/* The text features of `from` with everything else as in m; takes references of its own. */
static void keep_text(struct key *k, const struct msg_rec *from, struct msg_rec *m)
{
    const uint16_t own = MSG_BOT | MSG_HAS_EMOTION;
    m->flags = (uint16_t)((m->flags & own) | (from->flags & ~own));
    m->words = from->words;
    m->chars = from->chars;
    m->n_vector = from->n_vector;
    m->norm2 = from->norm2;
    memcpy(m->edge, from->edge, sizeof(m->edge));
    memcpy(m->vector, from->vector, sizeof(m->vector));
    m->common = from->common;
    if (!((m->flags | from->flags) & MSG_BOT))
        memcpy(m->marks, from->marks, sizeof(m->marks));
    memcpy(m->labels, from->labels, sizeof(m->labels));
    for (size_t i = 0; i < RECORD_LABELS; i++)
        arena_retain(&k->arena, m->labels[i]);
}

/* Document frequencies, of new messages of either side; a bot's own key would count them twice. */
static void learn_tokens(const struct key *k, const struct feature *f, struct epoch_delta *delta)
{
    if (k->scope != ENGINE_USER || f->n_df == 0)
        return;
    epoch_learn(delta, EPOCH_MESSAGES, 1);
    for (size_t i = 0; i < f->n_df; i++)
        epoch_learn(delta, EPOCH_DF + f->df[i], 1);
}

static enum status put_message(struct key *k, const struct feature *f, const struct msg_rec *m,
                               bool is_new, struct key_change *ret, struct error *err)
{
    size_t index = 0;
    enum status st = klog_insert_message(k, m, &index, err);
    if (st)
        return st;
    if (index < k->log.n_messages)
        note(k, RECORD_MESSAGE, index, false, ret);
    if (index < k->log.n_messages && is_new) {
        st = klog_open_shared(k, err);
        if (st)
            return st;
        learn_tokens(k, f, &ret->delta);
        learn(k, RECORD_MESSAGE, index, ret);
        klog_close_shared(k);
    }
    return messages_cap(k, err);
}

/* The bot's own key holds the bot's messages: one that an edit made a user's leaves. */
static void remove_message(struct key *k, uint64_t id, struct key_change *ret)
{
    const struct msg_rec *live = klog_find_message(k, id);
    if (!live)
        return;
    size_t index = (size_t)(live - k->log.messages);
    if (index < k->log.n_messages)
        note(k, RECORD_MESSAGE, index, true, ret);
    klog_remove_message(k, index);
    ret->applied = true;
}

/* That of an edit, or of the text that it leaves as it is. Nobody asks for those of a bot's key. */
static enum status keep_embedding(struct key *k, const struct feature *f,
                                  const struct msg_rec *live, struct msg_rec *m, struct error *err)
{
    struct embedding e = f->embedding;
    if (f->content_unchanged && !e.model && live->embedding)
        e = k->embeddings[live->embedding - 1];
    if (!e.model || k->scope != ENGINE_USER)
        return STATUS_OK;
    return klog_keep_embedding(k, &e, &m->embedding, err);
}

/* Whether the record that is replaced said something that the new one does not say: its text, an
 * emotion or traits that others see. What an application adds later (it analyses emotions on the
 * side) takes nothing back. */
static bool takes_back(const struct msg_rec *old, const struct msg_rec *new)
{
    const uint16_t added = MSG_HAS_EMOTION;
    if ((old->flags & ~added) != (new->flags & ~added) || old->words != new->words ||
        old->chars != new->chars || old->common != new->common || old->n_vector != new->n_vector ||
        memcmp(old->edge, new->edge, sizeof(old->edge)) != 0 ||
        memcmp(old->vector, new->vector, sizeof(old->vector)) != 0 ||
        memcmp(old->labels, new->labels, sizeof(old->labels)) != 0)
        return true;
    if (old->flags & MSG_HAS_EMOTION &&
        (!(new->flags &MSG_HAS_EMOTION) || old->emotion != new->emotion ||
         old->valence != new->valence))
        return true;
    if (old->flags & MSG_BOT)
        return msg_trait_count(old) > 0 &&
               memcmp(&old->traits, &new->traits, sizeof(old->traits)) != 0;
    return memcmp(old->marks, new->marks, sizeof(old->marks)) != 0;
}

static enum status apply_message(struct key *k, const struct feature *f, struct key_change *ret,
                                 struct error *err)
{
    const struct msg_rec *live = klog_find_message(k, f->id);
    if (k->scope == ENGINE_BOT && !(f->u.message.flags & MSG_BOT)) {
        remove_message(k, f->id, ret);
        return STATUS_OK;
    }
    if (is_overruled(klog_find_mark(k, MARK_MESSAGE, f->id), live ? &live->source : NULL,
                     f->source))
        return STATUS_OK;
    bool late = f->t_us < klog_horizon_us(k->log.as_of_us) || f->t_us <= k->message_cut_us;
    ret->late = late;
    if (!live && (late || f->content_unchanged)) {
        /* Dropped by age or cap, it was seen all the same. */
        return STATUS_OK;
    }
    if (is_future(k, f->t_us) && !(live && is_future(k, live->t_us)) &&
        k->messages_all - k->log.n_messages >= LIMIT_FUTURE_RECORDS)
        return too_many_ahead(err);

    struct msg_rec m = f->u.message;
    enum status st = STATUS_OK;
    if (f->content_unchanged)
        keep_text(k, live, &m);
    else
        st = intern_labels(k, f, m.labels, RECORD_LABELS, err);
    bool profiled = !k->log.consents[CONSENT_PROFILING].opted_out;
    if (!profiled)
        msg_forget_profile(&m);
    if (profiled)
        st = st ? st : intern_traits(k, f, &m, err);
    st = st ? st : keep_embedding(k, f, live, &m, err);
    if (st)
        return st;
    ret->applied = true;
    /* One that was deleted and comes again taught what it could the first time. */
    bool is_new = !live && !klog_find_mark(k, MARK_MESSAGE, f->id);
    if (live) {
        size_t index = (size_t)(live - k->log.messages);
        if (index < k->log.n_messages && (late || takes_back(live, &m)))
            note(k, RECORD_MESSAGE, index, true, ret);
        if (!late) /* an edit counts once */
            memset(ret->weight, 0, sizeof(ret->weight));
        klog_remove_message(k, index);
    }
    klog_clear_mark(k, MARK_MESSAGE, f->id);
    if (!late)
        return put_message(k, f, &m, is_new, ret, err);
    klog_release_message(k, &m);
    return STATUS_OK;
}

static enum status apply_message_deleted(struct key *k, const struct feature *f,
                                         struct key_change *ret, struct error *err)
{
    const struct mark *old = klog_find_mark(k, MARK_MESSAGE, f->id);
    if (is_overruled(old, NULL, f->source))
        return STATUS_OK;
    /* A deletion stays as long as its message could come back, whatever its own clock says. */
    int64_t t_us = k->log.as_of_us;
    remove_message(k, f->id, ret);
    ret->applied = true;
    struct mark m = {f->id, f->ver, t_us, MARK_MESSAGE, f->source};
    return klog_set_mark(k, &m, err);
}

/* ---- memories ---- */

/* The memory that nobody has touched for longest, counting creation and accesses as touches. */
static size_t least_touched(const struct key *k)
{
    int64_t touched[LIMIT_MEMORIES + 1];
    assert(k->log.n_memories <= LIMIT_MEMORIES + 1);
    for (size_t i = 0; i < k->log.n_memories; i++) {
        const struct mem_rec *m = &k->log.memories[i];
        bool folded = m->base.reps > 0 && m->base.last_us > m->created_us;
        touched[i] = folded ? m->base.last_us : m->created_us;
    }
    for (size_t i = 0; i < k->log.n_accesses; i++) {
        const struct mem_rec *m = klog_find_memory(k, k->log.accesses[i].memory);
        size_t at = m ? (size_t)(m - k->log.memories) : 0;
        if (m && k->log.accesses[i].t_us > touched[at])
            touched[at] = k->log.accesses[i].t_us;
    }
    size_t least = 0;
    for (size_t i = 1; i < k->log.n_memories; i++)
        if (touched[i] < touched[least])
            least = i;
    return least;
}

static void remove_accesses_of(struct key *k, uint64_t memory, struct key_change *ret)
{
    for (size_t i = k->accesses_all; i-- > 0;) {
        if (k->log.accesses[i].memory != memory)
            continue;
        if (ret && i < k->log.n_accesses)
            note(k, RECORD_ACCESS, i, true, ret);
        klog_remove_access(k, i);
    }
}

static void memories_cap(struct key *k)
{
    while (k->log.n_memories > LIMIT_MEMORIES) {
        size_t index = least_touched(k);
        const struct mem_rec *m = &k->log.memories[index];
        k->log.forgotten_n++;
        k->log.forgotten_created_s += time_floor_us(m->created_us, US_PER_SECOND) / US_PER_SECOND;
        remove_accesses_of(k, m->id, NULL);
        klog_remove_memory(k, index);
    }
}

static enum status apply_create(struct key *k, const struct feature *f, struct key_change *ret,
                                struct error *err)
{
    uint64_t id = f->u.memory.memory;
    const struct mem_rec *live = klog_find_memory(k, id);
    if (is_overruled(klog_find_mark(k, MARK_MEMORY, id), live ? &live->source : NULL, f->source))
        return STATUS_OK;
    struct mem_rec m = {
        .id = id,
        .created_us = f->t_us,
        .ver = f->ver,
        .importance = f->u.memory.importance,
        .pinned = live ? live->pinned : klog_find_mark(k, MARK_PIN, id) != NULL,
        .grade = f->u.memory.grade,
        .name_len = (uint8_t)f->u.memory.name.len,
        .type_len = (uint8_t)f->u.memory.type.len,
        .n_vector = f->u.memory.n_vector,
        .source = f->source,
        .norm2 = f->u.memory.norm2,
    };
    if (live)
        m.base = live->base; /* fsrs.h: what was folded stays folded */
    if (m.name_len)
        memcpy(m.name, f->u.memory.name.ptr, m.name_len);
    if (m.type_len)
        memcpy(m.type, f->u.memory.type.ptr, m.type_len);
    memcpy(m.vector, f->u.memory.vector, sizeof(m.vector));
    enum status st = intern_labels(k, f, m.labels, MEMORY_LABELS, err);
    if (st)
        return st;
    ret->applied = true;
    klog_clear_mark(k, MARK_MEMORY, id);
    klog_clear_mark(k, MARK_PIN, id);
    size_t index = live ? (size_t)(live - k->log.memories) : 0;
    st = live ? klog_change_memory(k, index, &m, err) : klog_insert_memory(k, &m, &index, err);
    if (st)
        return st;
    note(k, RECORD_MEMORY, index, false, ret);
    memories_cap(k);
    return STATUS_OK;
}

static enum status apply_access(struct key *k, const struct feature *f, struct key_change *ret,
                                struct error *err)
{
    const struct access_rec *live = klog_find_access(k, f->id);
    if (is_overruled(NULL, live ? &live->source : NULL, f->source))
        return STATUS_OK;
    bool late = f->t_us < klog_horizon_us(k->log.as_of_us) || f->t_us <= k->access_cut_us;
    ret->late = late;
    if (!live && late)
        return STATUS_OK;
    if (is_future(k, f->t_us) && !(live && is_future(k, live->t_us)) &&
        k->accesses_all - k->log.n_accesses >= LIMIT_FUTURE_RECORDS)
        return too_many_ahead(err);
    ret->applied = true;
    bool is_new = live == NULL;
    if (live) {
        size_t index = (size_t)(live - k->log.accesses);
        if (late && index < k->log.n_accesses)
            note(k, RECORD_ACCESS, index, true, ret);
        klog_remove_access(k, index);
    }
    if (late)
        return STATUS_OK;
    struct access_rec a = {
        .t_us = f->t_us,
        .id = f->id,
        .memory = f->u.memory.memory,
        .score = f->u.memory.score,
        .grade = f->u.memory.grade,
        .has_signal = f->u.memory.has_signal,
        .source = f->source,
    };
    size_t index = 0;
    enum status st = klog_insert_access(k, &a, &index, err);
    if (st)
        return st;
    if (index < k->log.n_accesses)
        note(k, RECORD_ACCESS, index, false, ret);
    if (index < k->log.n_accesses && is_new)
        learn(k, RECORD_ACCESS, index, ret);
    return accesses_cap(k, err);
}

static enum status apply_memory_deleted(struct key *k, const struct feature *f,
                                        struct key_change *ret, struct error *err)
{
    uint64_t id = f->u.memory.memory;
    const struct mark *old = klog_find_mark(k, MARK_MEMORY, id);
    if (is_overruled(old, NULL, f->source))
        return STATUS_OK;
    remove_accesses_of(k, id, ret);
    const struct mem_rec *live = klog_find_memory(k, id);
    if (live) {
        size_t index = (size_t)(live - k->log.memories);
        note(k, RECORD_MEMORY, index, true, ret);
        klog_remove_memory(k, index);
    }
    klog_clear_mark(k, MARK_PIN, id);
    ret->applied = true;
    struct mark m = {id, f->ver, k->log.as_of_us, MARK_MEMORY, f->source};
    return klog_set_mark(k, &m, err);
}

static enum status apply_pin(struct key *k, const struct feature *f, struct key_change *ret,
                             struct error *err)
{
    uint64_t id = f->u.memory.memory;
    if (is_overruled(klog_find_mark(k, MARK_MEMORY, id), NULL, f->source))
        return STATUS_OK;
    const struct mem_rec *live = klog_find_memory(k, id);
    if (live && live->pinned)
        return STATUS_OK;
    ret->applied = true;
    if (!live) {
        struct mark m = {id, f->ver, f->t_us, MARK_PIN, f->source};
        return klog_set_mark(k, &m, err);
    }
    struct mem_rec m = *live;
    size_t index = (size_t)(live - k->log.memories);
    m.pinned = 1;
    for (size_t i = 0; i < MEMORY_LABELS; i++)
        arena_retain(&k->arena, m.labels[i]);
    enum status st = klog_change_memory(k, index, &m, err);
    if (!st)
        note(k, RECORD_MEMORY, index, false, ret);
    return st;
}

static enum status apply_memory(struct key *k, const struct feature *f, struct key_change *ret,
                                struct error *err)
{
    switch (f->op) {
    case MEMORY_CREATE:
        return apply_create(k, f, ret, err);
    case MEMORY_ACCESS:
        return apply_access(k, f, ret, err);
    case MEMORY_DELETE:
        return apply_memory_deleted(k, f, ret, err);
    default:
        assert(f->op == MEMORY_PIN);
        return apply_pin(k, f, ret, err);
    }
}

/* ---- outreach and consent ---- */

static enum status put_outreach(struct key *k, const struct outreach_rec *o, bool is_new,
                                struct key_change *ret, struct error *err)
{
    size_t index = 0;
    enum status st = klog_insert_outreach(k, o, &index, err);
    if (st)
        return st;
    bool visible = index < k->log.n_outreach;
    if (visible)
        note(k, RECORD_OUTREACH, index, false, ret);
    if (visible && is_new)
        learn(k, RECORD_OUTREACH, index, ret);
    if (k->outreach_all > RECORD_OUTREACH_MAX)
        klog_remove_outreach(k, 0);
    return STATUS_OK;
}

/* The rows that a profile is in; it goes, or comes back, at once. */
static void note_profile(const struct key *k, struct key_change *change)
{
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        for (enum table_id t = ops->table; t < TABLE_COUNT && engine_fills(ops, t); t++)
            if (ops->profiles && ops->scope == k->scope && has_record(k, ops->row_kinds))
                change->touched[t] = change->urgent[t] = change->withdrawn[t] = true;
    }
}

static void set_consent(struct key *k, const struct feature *f, enum consent_scope scope,
                        bool opted_out, struct key_change *ret)
{
    struct consent *c = &k->log.consents[scope];
    bool newer = !c->given || f->t_us > c->t_us || (f->t_us == c->t_us && f->ver > c->ver);
    bool tied = c->given && f->t_us == c->t_us && f->ver == c->ver;
    if (!newer && !(tied && opted_out && !c->opted_out))
        return;
    bool changed = c->opted_out != opted_out;
    *c = (struct consent){true, opted_out, f->t_us, f->ver};
    ret->applied = true;
    if (scope == CONSENT_PROACTIVE)
        note(k, RECORD_PRIVACY, 0, false, ret);
    else if (changed)
        note_profile(k, ret);
    if (scope == CONSENT_PROFILING && opted_out)
        klog_forget_profile(k);
}

/* Only what is no older than the messages is taken: the answers to it are all in the log then. */
static enum status apply_outreach(struct key *k, const struct feature *f, struct key_change *ret,
                                  struct error *err)
{
    if (f->op == OUTREACH_OPTED_OUT) {
        set_consent(k, f, CONSENT_PROACTIVE, true, ret);
        return STATUS_OK;
    }
    const struct outreach_rec *live = klog_find_outreach(k, f->id, f->op);
    if (is_overruled(NULL, live ? &live->source : NULL, f->source))
        return STATUS_OK;
    ret->late = f->t_us < klog_horizon_us(k->log.as_of_us) || f->t_us <= k->message_cut_us;
    if (ret->late)
        return STATUS_OK;
    ret->applied = true;
    bool is_new = live == NULL;
    if (live)
        klog_remove_outreach(k, (size_t)(live - k->outreach));
    struct outreach_rec o = {
        .t_us = f->t_us, .id = f->id, .ver = f->ver, .op = f->op, .source = f->source};
    return put_outreach(k, &o, is_new, ret, err);
}

/* An erasure is not a matter of one key: the pipeline's. */
static enum status apply_privacy(struct key *k, const struct feature *f, struct key_change *ret)
{
    for (enum consent_scope s = 0; s < CONSENT_SCOPES && f->op != PRIVACY_ERASE; s++)
        if (f->u.privacy.scopes >> s & 1)
            set_consent(k, f, s, f->op == PRIVACY_OPTOUT, ret);
    return STATUS_OK;
}

/* ---- metrics of a bot ---- */

static enum status refuse_metric(const struct metric_feature *f, struct error *err)
{
    enum metric metric = f->values[f->refused - 1].metric;
    if (metric_is_score(metric))
        return error_set(err, STATUS_INVALID, "fields: %s is a score and must be within 0..1",
                         metric_name(metric));
    return error_set(err, STATUS_INVALID, "fields: number %u is beyond 10^12 or not finite",
                     f->refused);
}

static enum status apply_metric(struct key *k, const struct feature *f, struct key_change *ret,
                                struct error *err)
{
    if (f->u.metric.refused)
        return refuse_metric(&f->u.metric, err);
    struct metrics_change change;
    enum status st = klog_open_metrics(k, err);
    if (st)
        return st;
    if (metrics_apply(k->metrics, &f->u.metric, f->t_us, k->log.as_of_us, &change))
        return error_set(err, STATUS_NOMEM, "could not allocate sums of metrics");
    ret->applied = change.n > 0;
    ret->late = change.late;
    if (!change.applied)
        return STATUS_OK;
    st = klog_metric_entered(k, err);
    if (!st)
        note(k, RECORD_METRIC, 0, false, ret);
    return st;
}

static enum status apply_character(struct key *k, const struct feature *f, struct key_change *ret,
                                   struct error *err)
{
    enum status st = klog_open_metrics(k, err);
    if (st)
        return st;
    ret->applied = true;
    if (!metrics_character(k->metrics, &f->u.character, f->t_us))
        return STATUS_OK;
    /* Also without a row: the sink enters the change for all users of the bot. */
    for (enum table_id t = 0; t < TABLE_COUNT; t++)
        if (tables[t].by_window)
            ret->touched[t] = ret->urgent[t] = ret->withdrawn[t] = true;
    return STATUS_OK;
}

enum status key_apply(struct key *k, const struct feature *f, int64_t as_of_us,
                      struct key_change *ret, struct error *err)
{
    assert(feature_wanted(f->type));
    *ret = (struct key_change){0};
    enum status st = klog_follow_epochs(k, err);
    st = st ? st : key_advance(k, as_of_us, err);
    if (st)
        return st;
    bool removal =
        f->type == EVENT_MESSAGE_DELETED || (f->type == EVENT_MEMORY && f->op == MEMORY_DELETE);
    if (!removal && f->t_us > k->log.as_of_us + LIMIT_FUTURE_US)
        return too_far_ahead(err);
    if (f->type == EVENT_MESSAGE)
        st = apply_message(k, f, ret, err);
    else if (f->type == EVENT_MESSAGE_DELETED)
        st = apply_message_deleted(k, f, ret, err);
    else if (f->type == EVENT_OUTREACH)
        st = apply_outreach(k, f, ret, err);
    else if (f->type == EVENT_PRIVACY)
        st = apply_privacy(k, f, ret);
    else if (f->type == EVENT_METRIC)
        st = apply_metric(k, f, ret, err);
    else if (f->type == EVENT_CHARACTER)
        st = apply_character(k, f, ret, err);
    else
        st = apply_memory(k, f, ret, err);
    klog_settle(k);
    return st;
}

/* ---- rows ---- */

static uint32_t table_kinds(const struct key *k, enum table_id table, bool for_row)
{
    uint32_t kinds = 0;
    for (size_t i = 0; engine_at(i); i++)
        if (engine_fills(engine_at(i), table) && !(for_row && klog_is_suppressed(k, engine_at(i))))
            kinds |= for_row ? engine_at(i)->row_kinds : engine_at(i)->kinds;
    return kinds;
}

bool key_has_row(const struct key *k, enum table_id table)
{
    if (tables[table].by_window != (k->scope == ENGINE_BOT))
        return false;
    return has_record(k, table_kinds(k, table, true));
}

/* Accesses of unknown memories are in nobody's row. */
static enum status count_events(const struct key *k, uint32_t kinds, int64_t *ret,
                                struct error *err)
{
    size_t n = 0;
    if (kinds & 1u << RECORD_MESSAGE)
        n += k->log.n_messages;
    if (kinds & 1u << RECORD_MEMORY)
        n += k->log.n_memories;
    if (kinds & 1u << RECORD_ACCESS && k->log.n_accesses) {
        const struct retention *known;
        enum status st = retention_of(&k->log, &known, err);
        if (st)
            return st;
        n += known->known;
    }
    if (kinds & 1u << RECORD_OUTREACH)
        n += k->log.n_outreach;
    if (kinds & 1u << RECORD_METRIC && k->metrics)
        n += k->metrics->n_points;
    *ret = (int64_t)n;
    return STATUS_OK;
}

enum status key_emit(struct key *k, enum table_id table, int64_t as_of_us, struct row *row,
                     struct error *err)
{
    assert(row->table == &tables[table]);
    enum status st = klog_follow_epochs(k, err);
    st = st ? st : key_advance(k, as_of_us, err);
    st = st ? st : klog_open_shared(k, err);
    if (st)
        return st;
    if (row_set_key(row, k->log.user_id, k->log.bot_name))
        return error_set(err, STATUS_NOMEM, "could not build a row");
    row->as_of_us = k->log.as_of_us;
    st = count_events(k, table_kinds(k, table, false), &row->event_count, err);
    if (st)
        return st;
    if (k->log.truncated)
        row->state_flags |= ROW_TRUNCATED;
    /* Something younger than what the cap pushed out has left: the pushed-out ones should return.
     */
    if (k->message_cut_us != INT64_MIN && k->log.n_messages < LIMIT_MESSAGES)
        row->state_flags |= ROW_REBUILD;

    bool refused = false;
    for (size_t i = 0; i < k->n_states; i++) {
        const struct engine_ops *ops = engine_at(i);
        if (ops->scope != k->scope || !engine_fills(ops, table))
            continue;
        row->engine_version += ops->version;
        if (klog_is_suppressed(k, ops)) {
            refused = true;
            continue;
        }
        st = klog_start_engine(k, i, err);
        if (!st)
            st = ops->emit(k->states[i], &k->log, row, err);
        if (st)
            return st;
    }
    klog_close_shared(k);
    if (engine_add_params(row) || table_explain_nulls(row, refused) || row_finish(row))
        return error_set(err, STATUS_NOMEM, "could not build a row of \"%s\"", row->table->name);
    return STATUS_OK;
}

/* ---- traces ---- */

enum status key_trace(struct key *k, const struct engine_ops *ops, enum trace_phase phase,
                      const struct feature *f, struct str id, int64_t as_of_us, struct buf *out,
                      struct error *err)
{
    if (!ops->trace || ops->trace_phase != phase || ops->scope != k->scope)
        return STATUS_END;
    enum status st = klog_follow_epochs(k, err);
    st = st ? st : key_advance(k, as_of_us, err);
    st = st ? st : klog_open_shared(k, err);
    if (st)
        return st;
    void *state = NULL;
    for (size_t i = 0; i < k->n_states; i++)
        if (engine_at(i) == ops)
            state = k->states[i];
    struct jsonw w;
    jsonw_init(&w, out);
    st = ops->trace(state, &k->log, f, id, &w, err);
    if (!st && jsonw_status(&w))
        st = error_set(err, jsonw_status(&w), "could not write a trace line");
    return st;
}

enum status key_trace_final(struct key *k, const struct engine_ops *ops, uint64_t id_hash,
                            struct str id, int64_t as_of_us, struct buf *out, struct error *err)
{
    if (!ops->trace_final || ops->scope != k->scope)
        return STATUS_END;
    enum status st = klog_follow_epochs(k, err);
    st = st ? st : key_advance(k, as_of_us, err);
    st = st ? st : klog_open_shared(k, err);
    if (st)
        return st;
    const struct msg_rec *m = klog_find_message(k, id_hash);
    if (!m || m >= k->log.messages + k->log.n_messages)
        return STATUS_END;
    struct jsonw w;
    jsonw_init(&w, out);
    st = ops->trace_final(&k->log, (size_t)(m - k->log.messages), id, &w, err);
    if (!st && jsonw_status(&w))
        st = error_set(err, jsonw_status(&w), "could not write a trace line");
    return st;
}
