/*
 * Context switches (ENGINES.md E4, A1): topics in time, how long they last, when the next one
 * comes.
 *
 * All of it follows from the dialogue, which the key keeps for several engines: there is no state
 * of its own, and emission costs one pass over the segments. What a message teaches the bot's
 * thresholds is learned in blocks of a session, so that keys which keep no walk between messages
 * have to work it out only now and then.
 */
#include "core/clock.h"
#include "engines/dialogue.h"
#include "engines/engine.h"

#include <assert.h>

#define LEARN_BLOCK 8 /* messages */

static enum status cs_insert(void *state, const struct key_log *log, enum record_kind kind,
                             size_t index, struct error *err)
{
    (void)state;
    (void)log;
    (void)kind;
    (void)index;
    (void)err;
    return STATUS_OK;
}

static void cs_retract(void *state, const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)state;
    (void)log;
    (void)kind;
    (void)index;
}

static enum status cs_emit(void *state, const struct key_log *log, struct row *row,
                           struct error *err)
{
    (void)state;
    (void)log;
    (void)row;
    (void)err;
    return STATUS_OK;
}

/* ---- traces ---- */

static size_t find_message(const struct key_log *log, const struct feature *f)
{
    size_t i = key_log_message_at(log, f->t_us);
    while (i < log->n_messages && log->messages[i].t_us == f->t_us && log->messages[i].id != f->id)
        i++;
    bool found = i < log->n_messages && log->messages[i].id == f->id;
    return found ? i : log->n_messages;
}

static enum status write_line(const struct dialogue_switch *s, struct str id, struct jsonw *w)
{
    jsonw_object_begin(w);
    jsonw_key(w, "boundary");
    jsonw_bool(w, s->opens);
    jsonw_key(w, "id");
    jsonw_string(w, id);
    jsonw_key(w, "p_switch");
    jsonw_number(w, s->p / (double)SWITCH_CERTAIN);
    jsonw_object_end(w);
    return STATUS_OK;
}

static enum status cs_trace(void *state, const struct key_log *log, const struct feature *f,
                            struct str id, struct jsonw *w, struct error *err)
{
    (void)state;
    if (f->type != EVENT_MESSAGE)
        return STATUS_END;
    size_t index = find_message(log, f);
    if (index == log->n_messages)
        return STATUS_END;
    struct dialogue_switch s;
    enum status st = dialogue_switch(log, index, &s, err);
    return st ? st : write_line(&s, id, w);
}

static enum status cs_trace_final(const struct key_log *log, size_t index, struct str id,
                                  struct jsonw *w, struct error *err)
{
    struct dialogue_switch s;
    enum status st = dialogue_switch_final(log, index, &s, err);
    return st ? st : write_line(&s, id, w);
}

/* Five messages of either side make a row due; so does what was deleted. */
static uint32_t cs_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)kind;
    return log->messages[index].flags & MSG_BOT ? 0 : 1;
}

static bool cs_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                      size_t index, bool removed)
{
    (void)state;
    (void)log;
    (void)kind;
    (void)index;
    return removed;
}

extern const struct engine_ops engine_context_switch;
const struct engine_ops engine_context_switch = {
    .name = "context_switch",
    .version = 1,
    .table = TABLE_CONVERSATION_PATTERNS,
    .uses_epochs = false, /* the dialogue does, and is made anew by the key */
    .kinds = 1u << RECORD_MESSAGE,
    .row_kinds = 1u << RECORD_MESSAGE,
    .trigger = {.count = 5,
                .max_age_us = 30 * US_PER_SECOND,
                .idle_us = 2 * US_PER_SECOND,
                .min_interval_us = US_PER_SECOND,
                .refresh_us = 210 * US_PER_SECOND,
                .refresh_jitter_us = 30 * US_PER_SECOND,
                .warm_us = 30 * US_PER_MINUTE},
    .insert = cs_insert,
    .retract = cs_retract,
    .weight = cs_weight,
    .urgent = cs_urgent,
    .emit = cs_emit,
    .trace_phase = TRACE_AFTER,
    .trace = cs_trace,
    .trace_final = cs_trace_final,
};
