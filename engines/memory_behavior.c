/*
 * Memory behavior (ENGINES.md E5 with A2): at which lags memories are needed again, how well they
 * are retained, and how far they are consolidated.
 *
 * Everything that accesses add up to is the key's (retention.h); the engine itself keeps nothing.
 * An emission visits each memory once: its open gap, its stage, its place in a list.
 */
#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/engine.h"
#include "engines/memory_behavior_row.h"
#include "engines/memory_picks.h"

#include <assert.h>
#include <string.h>

struct survey {
    struct memory_picks high;
    struct memory_picks low;
};

static void survey_memory(const struct retained *e, const struct key_log *log, size_t index,
                          struct survey *found, struct mb_counts *c)
{
    const struct mem_rec *m = &log->memories[index];
    const struct fsrs_state *s = &e->fsrs;
    double r = m->pinned ? 1 : e->r;

    c->accesses += s->reps;
    c->lapses += s->lapses;
    gap_count(&c->gaps, gap_opener_of(s), log->as_of_us - s->last_us, false);
    mb_consolidate(c, s->spaced, r);
    if (s->spaced >= MB_HIGH_SPACED && r >= MB_LOW_R)
        memory_picks_offer(&found->high, log, (struct memory_pick){index, -r, r, 0});
    if (s->reps > 0 && r < MB_LOW_R)
        memory_picks_offer(&found->low, log, (struct memory_pick){index, r, r, 0});
}

static size_t describe(const struct memory_picks *list, const struct key_log *log,
                       const struct retention *retention, struct mb_memory *ret)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct mem_rec *m = &log->memories[list->items[i].index];
        char text[MEMORY_TOPIC_BYTES];
        struct str topic = memory_topic(log, m, text);
        ret[i] = (struct mb_memory){
            .name_len = m->name_len,
            .topic_len = topic.len,
            .r = list->items[i].r,
            .fsrs = retention->at[list->items[i].index].fsrs,
        };
        memcpy(ret[i].name, m->name, m->name_len);
        memcpy(ret[i].topic, topic.ptr, topic.len);
    }
    return list->n;
}

static void count(const struct retention *retention, const struct key_log *log, struct mb_counts *c)
{
    struct survey found = {.high.max = MB_LIST_MAX, .low.max = MB_LIST_MAX};

    *c = (struct mb_counts){
        .as_of_us = log->as_of_us,
        .gaps = retention->closed,
        .next_expiry_us = log->n_accesses ? mb_expiry_us(log->accesses[0].t_us) : INT64_MAX,
    };
    for (size_t i = 0; i < retention->n; i++)
        survey_memory(&retention->at[i], log, i, &found, c);
    c->n_high = describe(&found.high, log, retention, c->high);
    c->n_low = describe(&found.low, log, retention, c->low);
    int64_t high_us = memory_picks_change_us(&found.high, log, retention, MB_FADE_R);
    int64_t low_us = memory_picks_change_us(&found.low, log, retention, MB_FADE_R);
    c->next_fade_us = high_us < low_us ? high_us : low_us;
}

static enum status behavior_emit(void *state, const struct key_log *log, struct row *row,
                                 struct error *err)
{
    const struct retention *retention;
    struct mb_counts counts;

    (void)state;
    enum status st = retention_of(log, &retention, err);
    if (st)
        return st;
    count(retention, log, &counts);
    return mb_write(&counts, row, err);
}

/* A memory that comes or goes changes exposure and lists, but only accesses hurry. */
static uint32_t behavior_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)log;
    (void)index;
    return kind == RECORD_ACCESS;
}

static bool behavior_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                            size_t index, bool removed)
{
    (void)state;
    (void)log;
    (void)index;
    return kind == RECORD_MEMORY && removed;
}

/* What the model expects of an access, from the accesses before it. */
static enum status behavior_trace(void *state, const struct key_log *log, const struct feature *f,
                                  struct str id, struct jsonw *w, struct error *err)
{
    double p;

    (void)state;
    (void)err;
    if (f->type != EVENT_MEMORY || f->op != MEMORY_ACCESS ||
        !retention_before(log, f->u.memory.memory, f->t_us, f->id, &p))
        return STATUS_END;
    jsonw_object_begin(w);
    jsonw_key(w, "id");
    jsonw_string(w, id);
    jsonw_key(w, "p_recall");
    jsonw_double(w, p);
    jsonw_object_end(w);
    return STATUS_OK;
}

extern const struct engine_ops engine_memory_behavior;

const struct engine_ops engine_memory_behavior = {
    .name = "memory_behavior",
    .version = 1,
    .table = TABLE_MEMORY_BEHAVIOR,
    .kinds = 1u << RECORD_MEMORY | 1u << RECORD_ACCESS,
    .row_kinds = 1u << RECORD_MEMORY,
    .trigger =
        {
            .count = 50,
            .max_age_us = 240 * US_PER_SECOND,
            .min_interval_us = 2 * US_PER_SECOND,
            .refresh_us = 210 * US_PER_SECOND,
            .refresh_jitter_us = 30 * US_PER_SECOND,
            .warm_us = 30 * US_PER_MINUTE,
            .recent_us = US_PER_DAY,
        },
    .weight = behavior_weight,
    .urgent = behavior_urgent,
    .emit = behavior_emit,
    .trace_phase = TRACE_BEFORE,
    .trace = behavior_trace,
};
