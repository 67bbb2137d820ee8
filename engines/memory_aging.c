/*
 * Memory aging (ENGINES.md E1 with A2): how stale each memory is, which ones are about to be
 * forgotten although they matter, whether retrieval grows or fades, and how far the memories in use
 * have drifted from what the user talks about now.
 *
 * The cache: one entry per memory record, at the record's own index, with the fold of its accesses.
 * An access that is younger than all others of its memory is folded on at once; everything else
 * marks the entry stale, and the next emission folds all stale entries again in one pass over the
 * access log. Both ways run the same operations in the same order, so they agree bit for bit.
 *
 * Windows end at full hours (ENGINES.md 1.3). The sums over user messages keep their own edges,
 * which only move forward, at emission.
 */
#include "engines/memory_aging.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static enum status aging_init(void *state, struct error *err)
{
    struct memory_aging *s = state;

    (void)err;
    for (int i = 0; i < EDGES; i++)
        s->edge_us[i] = INT64_MIN;
    return STATUS_OK;
}

static void aging_fini(void *state)
{
    struct memory_aging *s = state;

    free(s->entries);
    *s = (struct memory_aging){0};
}

static size_t aging_heap_bytes(const void *state)
{
    const struct memory_aging *s = state;

    return s->cap * sizeof(*s->entries);
}

/* ---- user messages: exposure and interest ---- */

static void interest_add(struct memory_aging *s, const struct msg_rec *m, int sign)
{
    for (size_t i = 0; i < m->n_vector; i++)
        s->interest[m->vector[i].bucket] += sign * m->vector[i].weight;
}

static void message_count(struct memory_aging *s, const struct msg_rec *m, int sign)
{
    if (m->flags & MSG_BOT)
        return;
    for (int i = 0; i < EDGES; i++)
        if (m->t_us >= s->edge_us[i])
            s->user_messages[i] += sign;
    if (m->t_us >= s->edge_us[EDGE_WEEK])
        interest_add(s, m, sign);
}

static void edges_advance(struct memory_aging *s, const struct key_log *log, int64_t hour_us)
{
    for (int e = 0; e < EDGES; e++) {
        int64_t edge_us = hour_us - (e + 1) * AGING_WEEK_US;
        if (edge_us <= s->edge_us[e])
            continue;
        size_t from = s->edge_us[e] == INT64_MIN ? 0 : key_log_message_at(log, s->edge_us[e]);
        for (size_t i = from; i < log->n_messages && log->messages[i].t_us < edge_us; i++) {
            if (log->messages[i].flags & MSG_BOT)
                continue;
            s->user_messages[e]--;
            if (e == EDGE_WEEK)
                interest_add(s, &log->messages[i], -1);
        }
        s->edge_us[e] = edge_us;
    }
}

/* ---- memories and their accesses ---- */

static void entry_mark_stale(struct memory_aging *s, struct aging_entry *e)
{
    e->stale = true;
    s->any_stale = true;
}

struct aging_entry *aging_entry(const struct memory_aging *s, const struct key_log *log,
                                const struct access_rec *a)
{
    const struct mem_rec *m = key_log_memory(log, a->memory);
    if (!m)
        return NULL;
    size_t index = (size_t)(m - log->memories);
    /* While a page is read back, accesses may come before their memory: its entry starts stale. */
    return index < s->n && s->entries[index].id == m->id ? &s->entries[index] : NULL;
}

static enum status entry_open(struct memory_aging *s, const struct key_log *log, size_t index,
                              struct error *err)
{
    assert(index <= s->n);

    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        struct aging_entry *grown = realloc(s->entries, cap * sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not allocate %zu memory entries", cap);
        s->entries = grown;
        s->cap = cap;
    }
    memmove(&s->entries[index + 1], &s->entries[index], (s->n - index) * sizeof(*s->entries));
    s->n++;
    s->entries[index] = (struct aging_entry){.id = log->memories[index].id};
    entry_mark_stale(s, &s->entries[index]);
    return STATUS_OK;
}

static void entry_close(struct memory_aging *s, const struct key_log *log, size_t index)
{
    assert(index < s->n);
    assert(s->entries[index].id == log->memories[index].id);

    memmove(&s->entries[index], &s->entries[index + 1], (s->n - index - 1) * sizeof(*s->entries));
    s->n--;
}

static void entry_fold(struct aging_entry *e, const struct mem_rec *m, const struct access_rec *a)
{
    fsrs_fold(&e->fsrs, m, a);
    e->newest_us = a->t_us;
    e->newest_id = a->id;
    e->in_window++;
}

static void access_insert(struct memory_aging *s, const struct key_log *log,
                          const struct access_rec *a)
{
    struct aging_entry *e = aging_entry(s, log, a);
    if (!e || e->stale)
        return;
    bool youngest = e->in_window == 0 || a->t_us > e->newest_us ||
                    (a->t_us == e->newest_us && a->id > e->newest_id);
    if (youngest)
        entry_fold(e, &log->memories[e - s->entries], a);
    else
        entry_mark_stale(s, e);
}

static void entries_refresh(struct memory_aging *s, const struct key_log *log)
{
    if (!s->any_stale)
        return;
    for (size_t i = 0; i < s->n; i++) {
        struct aging_entry *e = &s->entries[i];
        if (!e->stale)
            continue;
        const struct mem_rec *m = &log->memories[i];
        e->fsrs = m->base;
        if (m->base.reps == 0)
            fsrs_start(&e->fsrs, m);
        e->in_window = 0;
    }
    for (size_t i = 0; i < log->n_accesses; i++) {
        struct aging_entry *e = aging_entry(s, log, &log->accesses[i]);
        if (e && e->stale)
            entry_fold(e, &log->memories[e - s->entries], &log->accesses[i]);
    }
    for (size_t i = 0; i < s->n; i++)
        s->entries[i].stale = false;
    s->any_stale = false;
}

static enum status aging_insert(void *state, const struct key_log *log, enum record_kind kind,
                                size_t index, struct error *err)
{
    struct memory_aging *s = state;

    switch (kind) {
    case RECORD_MESSAGE:
        message_count(s, &log->messages[index], 1);
        return STATUS_OK;
    case RECORD_MEMORY:
        return entry_open(s, log, index, err);
    case RECORD_ACCESS:
        access_insert(s, log, &log->accesses[index]);
        return STATUS_OK;
    case RECORD_OUTREACH:
    case RECORD_METRIC:
    case RECORD_PRIVACY:
    case RECORD_KINDS:
        break;
    }
    assert(!"a kind it did not ask for");
    return STATUS_OK;
}

static void aging_retract(void *state, const struct key_log *log, enum record_kind kind,
                          size_t index)
{
    struct memory_aging *s = state;

    if (kind == RECORD_MESSAGE) {
        message_count(s, &log->messages[index], -1);
    } else if (kind == RECORD_MEMORY) {
        entry_close(s, log, index);
    } else {
        assert(kind == RECORD_ACCESS);
        struct aging_entry *e = aging_entry(s, log, &log->accesses[index]);
        if (e)
            entry_mark_stale(s, e);
    }
}

static uint32_t aging_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)log;
    (void)index;
    return kind != RECORD_MESSAGE;
}

static bool aging_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                         size_t index, bool removed)
{
    (void)state;
    return kind == RECORD_MEMORY && (removed || log->memories[index].pinned);
}

static enum status aging_emit(void *state, const struct key_log *log, struct row *row,
                              struct error *err)
{
    struct memory_aging *s = state;

    assert(s->n == log->n_memories);

    edges_advance(s, log, time_floor_us(log->as_of_us, US_PER_HOUR));
    entries_refresh(s, log);
    return aging_row(s, log, row, err);
}

extern const struct engine_ops engine_memory_aging;

const struct engine_ops engine_memory_aging = {
    .name = "memory_aging",
    .version = 1,
    .table = TABLE_MEMORY_HEALTH,
    .kinds = 1u << RECORD_MESSAGE | 1u << RECORD_MEMORY | 1u << RECORD_ACCESS,
    .row_kinds = 1u << RECORD_MEMORY,
    .trigger =
        {
            .count = 20,
            .max_age_us = 60 * US_PER_SECOND,
            .idle_us = 2 * US_PER_SECOND,
            .min_interval_us = 2 * US_PER_SECOND,
            .refresh_us = 210 * US_PER_SECOND,
            .refresh_jitter_us = 30 * US_PER_SECOND,
            .warm_us = 30 * US_PER_MINUTE,
        },
    .state_size = sizeof(struct memory_aging),
    .init = aging_init,
    .fini = aging_fini,
    .insert = aging_insert,
    .retract = aging_retract,
    .weight = aging_weight,
    .urgent = aging_urgent,
    .emit = aging_emit,
    .heap_bytes = aging_heap_bytes,
};
