/*
 * Memory aging (ENGINES.md E1 with A2): how stale each memory is, which ones are about to be
 * forgotten although they matter, whether retrieval grows or fades, and how far the memories in use
 * have drifted from what the user talks about now.
 *
 * What the accesses of a memory add up to is the key's (retention.h). Windows end at full hours
 * (ENGINES.md 1.3); the sums over user messages keep their own edges, which only move forward, at
 * emission.
 */
#include "engines/memory_aging.h"

#include <assert.h>

static enum status aging_init(void *state, struct error *err)
{
    struct memory_aging *s = state;

    (void)err;
    for (int i = 0; i < EDGES; i++)
        s->edge_us[i] = INT64_MIN;
    return STATUS_OK;
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

static enum status aging_insert(void *state, const struct key_log *log, enum record_kind kind,
                                size_t index, struct error *err)
{
    (void)err;
    if (kind == RECORD_MESSAGE)
        message_count(state, &log->messages[index], 1);
    return STATUS_OK;
}

static void aging_retract(void *state, const struct key_log *log, enum record_kind kind,
                          size_t index)
{
    if (kind == RECORD_MESSAGE)
        message_count(state, &log->messages[index], -1);
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
    const struct retention *retention;

    enum status st = retention_of(log, &retention, err);
    if (st)
        return st;
    edges_advance(s, log, time_floor_us(log->as_of_us, US_PER_HOUR));
    return aging_row(s, retention, log, row, err);
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
            .recent_us = US_PER_DAY,
        },
    .state_size = sizeof(struct memory_aging),
    .init = aging_init,
    .insert = aging_insert,
    .retract = aging_retract,
    .weight = aging_weight,
    .urgent = aging_urgent,
    .emit = aging_emit,
};
