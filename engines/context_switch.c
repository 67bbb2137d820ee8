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
#include "engines/context_switch_row.h"
#include "engines/dialogue.h"
#include "engines/engine.h"
#include "engines/topics.h"

#include <string.h>

#define LEARN_BLOCK 8 /* messages */

/* ---- rows ---- */

/* The newest segments that the user took part in, oldest first. */
static void collect_topics(const struct dialogue_session *sessions, size_t n, struct topics *t)
{
    t->n = 0;
    for (size_t i = n; i-- > 0;) {
        for (size_t j = sessions[i].n_segments; j-- > 0 && t->n < SEGMENT_CLUSTERED_MAX;) {
            const struct segment *s = &sessions[i].segments[j];
            if (s->n_user == 0)
                continue;
            t->segments[t->n] = s;
            t->starts[t->n++] = sessions[i].first + s->first;
        }
    }
    for (size_t i = 0; i < t->n / 2; i++) {
        size_t k = t->n - 1 - i, start = t->starts[i];
        const struct segment *s = t->segments[i];
        t->segments[i] = t->segments[k];
        t->starts[i] = t->starts[k];
        t->segments[k] = s;
        t->starts[k] = start;
    }
}

/* Numbers topics in order of their first segment; topic[] is by collected segment. */
static enum status name_topics(const struct key_log *log, struct topics *t, uint8_t *topic,
                               struct cs_counts *out)
{
    uint8_t number[SEGMENT_CLUSTERS_MAX];
    uint8_t next = 0;
    memset(number, CS_OTHER, sizeof(number));
    segment_cluster(t->segments, t->n, t->cluster);
    for (size_t i = 0; i < t->n; i++) {
        size_t c = t->cluster[i];
        topic[i] = c == SEGMENT_OTHER ? CS_OTHER : number[c];
        if (c == SEGMENT_OTHER || number[c] != CS_OTHER)
            continue;
        topic[i] = number[c] = next;
        if (topics_label(log, t, c, out->labels[next].text, &out->labels[next].len))
            return STATUS_NOMEM;
        next++;
    }
    return STATUS_OK;
}

static struct cs_segment describe(const struct key_log *log, const struct dialogue_session *d,
                                  size_t i, uint8_t topic)
{
    const struct segment *s = &d->segments[i];
    const struct msg_rec *first = &log->messages[d->first + s->first];
    bool last = i + 1 == d->n_segments;
    int64_t end_us = first[s->n - 1].t_us;
    return (struct cs_segment){.topic = topic,
                               .ends_session = last,
                               .messages = s->n,
                               .n_valence = s->n_valence,
                               .valence_sum = s->valence_sum,
                               .start_us = first->t_us,
                               .end_us = end_us,
                               .until_us = last ? end_us : first[s->n].t_us};
}

/* Where the walk over all segments stands. */
struct tour {
    const struct topics *topics;
    const uint8_t *topic;
    size_t at;    /* in topics */
    size_t older; /* segments before the recent ones */
    uint8_t last; /* topic of the segment before */
};

static void count_session(const struct key_log *log, const struct dialogue_session *d,
                          struct tour *tour, struct cs_counts *out)
{
    const struct topics *t = tour->topics;
    int64_t span_us = log->messages[d->first + d->n - 1].t_us - log->messages[d->first].t_us;
    out->active_us += span_us < US_PER_MINUTE ? US_PER_MINUTE : span_us;
    for (size_t i = 0; i < d->n_segments; i++) {
        bool known = tour->at < t->n && t->segments[tour->at] == &d->segments[i];
        uint8_t topic = known ? tour->topic[tour->at++] : CS_OTHER;
        bool both = tour->last != CS_OTHER && topic != CS_OTHER;
        struct cs_segment s = describe(log, d, i, topic);
        cs_segment(out, &s);
        if (i > 0 && both && topic != tour->last)
            out->edges[tour->last][topic]++;
        if (i == 0 && both && !d->continues) {
            out->returns++;
            out->moved += topic != tour->last;
        }
        tour->last = topic;
        if (tour->older > 0)
            tour->older--;
        else
            out->recent[out->n_recent++] = s;
    }
}

static void count_messages(const struct key_log *log, struct cs_counts *out)
{
    for (size_t i = 0; i < log->n_messages; i++) {
        const struct msg_rec *m = &log->messages[i];
        out->embedded = out->embedded || m->embedding;
        if (m->flags & MSG_BOT)
            continue;
        out->n_user++;
        out->n_text += m->chars > 0;
        out->emotional = out->emotional || m->flags & MSG_HAS_EMOTION;
    }
    if (log->n_messages == 0)
        return;
    out->next_expiry_us =
        time_floor_us(log->messages[0].t_us + RECORD_WINDOW_US, US_PER_HOUR) + US_PER_HOUR;
    int64_t close_us = log->messages[log->n_messages - 1].t_us + RECORD_SESSION_GAP_US;
    out->session_open = close_us > log->as_of_us;
    if (out->session_open)
        out->session_close_us = close_us;
}

static enum status count_topics(const struct key_log *log, struct cs_counts *out, struct error *err)
{
    const struct dialogue_session *sessions;
    size_t n;
    enum status st = dialogue_sessions(log, &sessions, &n, err);
    if (st)
        return st;
    struct topics topics;
    uint8_t topic[SEGMENT_CLUSTERED_MAX];
    collect_topics(sessions, n, &topics);
    if (name_topics(log, &topics, topic, out))
        return error_set(err, STATUS_NOMEM, "could not allocate topic labels");
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += sessions[i].n_segments;
    struct tour tour = {.topics = &topics,
                        .topic = topic,
                        .older = total > CS_RECENT_MAX ? total - CS_RECENT_MAX : 0,
                        .last = CS_OTHER};
    for (size_t i = 0; i < n; i++)
        count_session(log, &sessions[i], &tour, out);
    for (size_t i = 0; i < out->n_recent / 2; i++) {
        struct cs_segment s = out->recent[i];
        out->recent[i] = out->recent[out->n_recent - 1 - i];
        out->recent[out->n_recent - 1 - i] = s;
    }
    return STATUS_OK;
}

static enum status cs_emit(void *state, const struct key_log *log, struct row *row,
                           struct error *err)
{
    (void)state;
    struct cs_counts counts = {.as_of_us = log->as_of_us,
                               .truncated = log->truncated,
                               .next_expiry_us = INT64_MAX,
                               .session_close_us = INT64_MAX};
    count_messages(log, &counts);
    enum status st = count_topics(log, &counts, err);
    return st ? st : cs_write(&counts, row, err);
}

/* ---- what the bot learns ---- */

static void cs_learn(void *state, const struct key_log *log, enum record_kind kind, size_t index,
                     struct epoch_delta *delta)
{
    (void)state;
    if (kind == RECORD_MESSAGE && index + 1 == log->n_messages)
        dialogue_learn(log, LEARN_BLOCK, delta);
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

/* Five user messages make a row due, and what was deleted must not be shown any longer. */
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
                .warm_us = 30 * US_PER_MINUTE,
                .recent_us = US_PER_DAY},
    .weight = cs_weight,
    .urgent = cs_urgent,
    .emit = cs_emit,
    .learn = cs_learn,
    .trace_phase = TRACE_AFTER,
    .trace = cs_trace,
    .trace_final = cs_trace_final,
};
