/*
 * What a key that was made anew from its source takes over from the key that it replaces (key.h).
 *
 * A record of the inbox is turned back into the feature that it came from, so that it enters by the
 * rules that held when it came; only what was folded into a memory must be copied.
 */
#include "engines/key.h"

#include "core/event.h"
#include "engines/klog.h"

#include <assert.h>
#include <string.h>

static struct feature feature_of(enum event_type type, uint8_t op, uint64_t id, int64_t t_us,
                                 uint64_t ver)
{
    return (struct feature){
        .type = type,
        .op = op,
        .source = SOURCE_INBOX,
        .id = id,
        .t_us = t_us,
        .ver = ver,
    };
}

static enum status apply(struct key *k, const struct feature *f, struct error *err)
{
    struct key_change ignored;
    enum status st = key_apply(k, f, 0, &ignored, err);
    /* More of them in the future than a key holds: those that came first have stayed. */
    return st == STATUS_INVALID || st == STATUS_LIMIT ? STATUS_OK : st;
}

/* ---- deletions and pins ---- */

static enum status carry_inbox_mark(struct key *k, const struct mark *m, struct error *err)
{
    struct feature f;
    if (m->kind == MARK_MESSAGE) {
        f = feature_of(EVENT_MESSAGE_DELETED, 0, m->id, m->t_us, m->ver);
    } else {
        uint8_t op = m->kind == MARK_PIN ? MEMORY_PIN : MEMORY_DELETE;
        f = feature_of(EVENT_MEMORY, op, m->id, m->t_us, m->ver);
        f.u.memory.memory = m->id;
    }
    return apply(k, &f, err);
}

/* A deletion by the source holds while the source has not got the thing again. */
static enum status carry_mark(struct key *k, const struct mark *m, struct error *err)
{
    if (m->source == SOURCE_INBOX)
        return carry_inbox_mark(k, m, err);
    bool back = m->kind == MARK_MESSAGE ? klog_find_message(k, m->id) != NULL
                                        : klog_find_memory(k, m->id) != NULL;
    if (m->kind == MARK_PIN || back)
        return STATUS_OK;
    return klog_set_mark(k, m, err);
}

/* A memory does not know who pinned it: one of the source is pinned if the source says so. */
static enum status carry_pin(struct key *k, const struct mem_rec *from, struct error *err)
{
    const struct mem_rec *live = klog_find_memory(k, from->id);
    if (!from->pinned || !live || live->pinned)
        return STATUS_OK;
    struct feature f = feature_of(EVENT_MEMORY, MEMORY_PIN, from->id, from->created_us, from->ver);
    f.u.memory.memory = from->id;
    return apply(k, &f, err);
}

/* ---- records of the inbox ---- */

static enum status carry_message(struct key *k, const struct key *from, const struct msg_rec *m,
                                 struct error *err)
{
    struct feature f = feature_of(EVENT_MESSAGE, MESSAGE_INSERT, m->id, m->t_us, m->ver);
    f.u.message = *m;
    memset(f.u.message.labels, 0, sizeof(f.u.message.labels));
    f.u.message.embedding = 0;
    for (size_t i = 0; i < RECORD_LABELS && m->labels[i]; i++)
        f.labels[f.n_labels++] = key_log_label(&from->log, m->labels[i]);
    for (size_t i = 0; i < msg_trait_count(m); i++) {
        f.traits[f.n_traits++] = key_log_label(&from->log, m->traits.name[i]);
        f.u.message.traits.name[i] = 0;
    }
    if (m->embedding)
        f.embedding = from->embeddings[m->embedding - 1];
    return apply(k, &f, err);
}

static enum status carry_memory(struct key *k, const struct key *from, const struct mem_rec *m,
                                struct error *err)
{
    struct feature f = feature_of(EVENT_MEMORY, MEMORY_CREATE, m->id, m->created_us, m->ver);
    f.u.memory.memory = m->id;
    f.u.memory.name = (struct str){m->name, m->name_len};
    f.u.memory.type = (struct str){m->type, m->type_len};
    f.u.memory.importance = m->importance;
    f.u.memory.score = UINT32_MAX;
    f.u.memory.grade = m->grade;
    f.u.memory.n_vector = m->n_vector;
    f.u.memory.norm2 = m->norm2;
    memcpy(f.u.memory.vector, m->vector, sizeof(f.u.memory.vector));
    for (size_t i = 0; i < sizeof(m->labels) / sizeof(m->labels[0]) && m->labels[i]; i++)
        f.labels[f.n_labels++] = key_log_label(&from->log, m->labels[i]);
    enum status st = apply(k, &f, err);
    struct mem_rec *made = (struct mem_rec *)(uintptr_t)klog_find_memory(k, m->id);
    /* Engines are told of nothing: they are made again from the log at the end. */
    if (!st && made && made->source == SOURCE_INBOX && made->base.reps == 0)
        made->base = m->base;
    return st;
}

static enum status carry_access(struct key *k, const struct access_rec *a, struct error *err)
{
    struct feature f = feature_of(EVENT_MEMORY, MEMORY_ACCESS, a->id, a->t_us, 0);
    f.u.memory.memory = a->memory;
    f.u.memory.score = a->score;
    f.u.memory.importance = UINT32_MAX;
    f.u.memory.grade = a->grade;
    f.u.memory.has_signal = a->has_signal;
    return apply(k, &f, err);
}

static enum status carry_outreach(struct key *k, const struct outreach_rec *o, struct error *err)
{
    struct feature f = feature_of(EVENT_OUTREACH, o->op, o->id, o->t_us, o->ver);
    enum status st = apply(k, &f, err);
    struct outreach_rec *made =
        (struct outreach_rec *)(uintptr_t)klog_find_outreach(k, o->id, o->op);
    if (!st && made && made->source == SOURCE_INBOX)
        made->replied |= o->replied;
    return st;
}

static enum status carry_records(struct key *k, const struct key *from, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < from->n_marks && !st; i++)
        st = carry_mark(k, &from->marks[i], err);
    for (size_t i = 0; i < from->log.n_memories && !st; i++) {
        const struct mem_rec *m = &from->log.memories[i];
        if (m->source != SOURCE_INBOX)
            continue;
        st = carry_memory(k, from, m, err);
        st = st ? st : carry_pin(k, m, err);
    }
    for (size_t i = 0; i < from->messages_all && !st; i++)
        if (from->log.messages[i].source == SOURCE_INBOX)
            st = carry_message(k, from, &from->log.messages[i], err);
    for (size_t i = 0; i < from->accesses_all && !st; i++)
        if (from->log.accesses[i].source == SOURCE_INBOX)
            st = carry_access(k, &from->log.accesses[i], err);
    for (size_t i = 0; i < from->outreach_all && !st; i++)
        if (from->outreach[i].source == SOURCE_INBOX)
            st = carry_outreach(k, &from->outreach[i], err);
    return st;
}

/* ---- what has no source of its own ---- */

static void carry_consent(struct key *k, const struct key *from)
{
    for (size_t s = 0; s < CONSENT_SCOPES; s++) {
        const struct consent *old = &from->log.consents[s];
        struct consent *c = &k->log.consents[s];
        if (old->given &&
            (!c->given || old->t_us > c->t_us || (old->t_us == c->t_us && old->ver > c->ver)))
            *c = *old;
    }
    if (k->log.consents[CONSENT_PROFILING].opted_out)
        klog_forget_profile(k);
}

/* The sums over messages in it belong to the messages, which have come anew. */
static enum status carry_metrics(struct key *k, struct key *from, uint32_t types, struct error *err)
{
    if (!from->metrics)
        return STATUS_OK;
    enum status st = klog_open_metrics(k, err);
    if (st)
        return st;
    if (!(types & 1u << EVENT_METRIC)) {
        struct metrics *old = from->metrics;
        struct voice voice = old->voice;
        old->voice = k->metrics->voice;
        k->metrics->voice = voice;
        bool has = k->metrics->has_character;
        if (types & 1u << EVENT_CHARACTER) {
            old->has_character = has;
            old->character_us = k->metrics->character_us;
            old->character = k->metrics->character;
        }
        from->metrics = k->metrics;
        from->log.metrics = from->metrics;
        k->metrics = old;
        k->log.metrics = old;
    } else if (!(types & 1u << EVENT_CHARACTER) && from->metrics->has_character) {
        k->metrics->has_character = true;
        k->metrics->character_us = from->metrics->character_us;
        k->metrics->character = from->metrics->character;
    }
    return STATUS_OK;
}

/* Engines' states are a cache of the log: made again from all that is in it now. */
static enum status reopen(struct key **k, struct error *err)
{
    CLEANUP(buf_deinit) struct buf page;
    buf_init(&page, LIMIT_KEY_BYTES);
    enum status st = key_encode(*k, &page);
    if (st)
        return error_set(err, st, "could not encode a key that was rebuilt");
    struct key *made = NULL;
    st = key_decode((struct str){page.data, page.len}, &made, err);
    if (st)
        return st;
    key_set_epochs(made, (*k)->log.epochs);
    key_free(*k);
    *k = made;
    return STATUS_OK;
}

enum status key_carry(struct key **k, struct key *from, uint32_t types, struct error *err)
{
    enum status st = key_advance(*k, from->log.as_of_us, err);
    st = st ? st : carry_records(*k, from, err);
    if (st)
        return st;
    carry_consent(*k, from);
    st = (*k)->scope == ENGINE_BOT ? carry_metrics(*k, from, types, err) : STATUS_OK;
    return st ? st : reopen(k, err);
}
