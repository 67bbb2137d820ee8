/*
 * Proactive engagement (ENGINES.md E7 with A5): when the user is likely to come back, when the bot
 * may write first, and how that went so far.
 *
 * The engine keeps nothing of its own: a row needs one pass over the messages of the key and one
 * over its attempts, both bounded; a trace needs the newest 270 user messages.
 */
#include "engines/dialogue.h"
#include "engines/engine.h"
#include "engines/memory_picks.h"
#include "engines/proactive_engagement_row.h"
#include "engines/topics.h"

#include <assert.h>
#include <string.h>

static bool is_user(const struct msg_rec *m)
{
    return !(m->flags & MSG_BOT);
}

/* The user message before record `index`, or NULL. */
static const struct msg_rec *user_before(const struct key_log *log, size_t index)
{
    while (index-- > 0)
        if (is_user(&log->messages[index]))
            return &log->messages[index];
    return NULL;
}

/* ---- the gap law ---- */

/* Gaps between the user's messages up to record `last`, newest first, and the context after it. */
static void take_history(const struct key_log *log, size_t last, struct eo_counts *out)
{
    const struct msg_rec *next = NULL;
    uint32_t weight = GAP_NOW;
    for (size_t i = last + 1; i-- > 0 && weight > 0;) {
        const struct msg_rec *m = &log->messages[i];
        if (!is_user(m))
            continue;
        if (!next) {
            out->gap_context = gap_context(m->t_us, GAP_NONE);
        } else {
            int64_t gap_us = next->t_us - m->t_us;
            if (weight == GAP_NOW)
                out->gap_context = gap_context(next->t_us, gap_us);
            gap_history_add(&out->history, gap_us, weight);
            weight = gap_fade(weight);
        }
        next = m;
    }
}

/* ---- messages ---- */

/* When a record of time t leaves the window: the first full hour H with t < H - 30 d. */
static int64_t expiry_us(int64_t t_us)
{
    return time_floor_us(t_us + RECORD_WINDOW_US, US_PER_HOUR) + US_PER_HOUR;
}

/* The first attempt later than from_us, or INT64_MAX. */
static int64_t attempt_after(const struct key_log *log, int64_t from_us)
{
    for (size_t i = 0; i < log->n_outreach; i++)
        if (log->outreach[i].op == OUTREACH_SENT && log->outreach[i].t_us > from_us)
            return log->outreach[i].t_us;
    return INT64_MAX;
}

static void add_return_gap(const struct key_log *log, int64_t from_us, int64_t to_us,
                           struct eo_counts *out)
{
    if (attempt_after(log, from_us) <= to_us)
        return;
    if (out->n_gaps == EO_GAPS_MAX)
        memmove(out->gaps, out->gaps + 1, --out->n_gaps * sizeof(out->gaps[0]));
    out->gaps[out->n_gaps++] = (struct waiting){to_us - from_us, false};
}

static void count_user_message(const struct key_log *log, size_t index, bool new_run,
                               struct eo_counts *out)
{
    const struct msg_rec *m = &log->messages[index];
    if (out->n_user > 0 && new_run)
        add_return_gap(log, out->last_user_us, m->t_us, out);
    out->n_user++;
    out->n_emotion += (m->flags & MSG_HAS_EMOTION) != 0;
    out->last_user_us = m->t_us;
    out->hours[kernel_hour_of_week(m->t_us)]++;
}

static void count_messages(const struct key_log *log, struct eo_counts *out)
{
    bool new_run = false; /* a run has ended since the last user message */
    for (size_t i = 0; i < log->n_messages; i++) {
        const struct msg_rec *m = &log->messages[i];
        if (i > 0 && m->t_us - m[-1].t_us >= RECORD_SESSION_GAP_US)
            new_run = true;
        if (!is_user(m))
            continue;
        count_user_message(log, i, new_run, out);
        new_run = false;
    }
    if (log->n_messages > 0) {
        int64_t end_us = log->messages[log->n_messages - 1].t_us + RECORD_SESSION_GAP_US;
        out->next_expiry_us = expiry_us(log->messages[0].t_us);
        out->run_end_us = end_us > log->as_of_us ? end_us : INT64_MAX;
    }
    if (out->n_user == 0)
        return;
    if (log->as_of_us > out->last_user_us)
        out->open_us = log->as_of_us - out->last_user_us;
}

/* From the newest message back, so that the next user message is known. */
static void count_answers(const struct key_log *log, struct eo_counts *out)
{
    int64_t user_us = INT64_MAX;
    for (size_t i = log->n_messages; i-- > 0;) {
        const struct msg_rec *m = &log->messages[i];
        int64_t decided_us = m->t_us + EO_REPLY_US;
        if (is_user(m)) {
            user_us = m->t_us;
        } else if (user_us <= decided_us) {
            out->answered++;
            out->decided++;
        } else if (decided_us < log->as_of_us) {
            out->decided++;
        } else if (decided_us < out->next_outcome_us) {
            out->next_outcome_us = decided_us;
        }
    }
}

/* ---- attempts ---- */

static bool user_wrote_within(const struct key_log *log, int64_t from_us)
{
    for (size_t i = key_log_message_at(log, from_us + 1);
         i < log->n_messages && log->messages[i].t_us - from_us <= RECORD_REPLY_US; i++)
        if (is_user(&log->messages[i]))
            return true;
    return false;
}

/* The attempt that an answer is about: the one with its id, else the newest one before it. */
static const struct outreach_rec *attempt_of(const struct key_log *log,
                                             const struct outreach_rec *answer)
{
    const struct outreach_rec *newest = NULL;
    for (size_t i = 0; i < log->n_outreach; i++) {
        const struct outreach_rec *o = &log->outreach[i];
        if (o->op == OUTREACH_SENT && o->id == answer->id)
            return o;
        if (o->op == OUTREACH_SENT && o->t_us <= answer->t_us)
            newest = o;
    }
    return newest;
}

static bool is_answered(const struct key_log *log, const struct outreach_rec *sent)
{
    if (sent->replied || user_wrote_within(log, sent->t_us))
        return true;
    for (size_t i = 0; i < log->n_outreach; i++) {
        const struct outreach_rec *o = &log->outreach[i];
        if (o->op == OUTREACH_REPLIED && o->t_us >= sent->t_us &&
            o->t_us - sent->t_us <= RECORD_REPLY_US && attempt_of(log, o) == sent)
            return true;
    }
    return false;
}

static void count_attempts(const struct key_log *log, struct eo_counts *out)
{
    bool in_a_row = true;
    for (size_t i = log->n_outreach; i-- > 0;) {
        const struct outreach_rec *o = &log->outreach[i];
        if (o->op != OUTREACH_SENT)
            continue;
        int64_t resolved_us = o->t_us + RECORD_REPLY_US + 1;
        bool answered = is_answered(log, o);
        if (!answered && log->as_of_us < resolved_us) {
            if (resolved_us < out->next_outcome_us)
                out->next_outcome_us = resolved_us;
            continue;
        }
        out->resolved++;
        out->replied += answered;
        in_a_row &= !answered;
        out->streak += in_a_row;
    }
}

/* ---- topics ---- */

/* The run that record `index` lies in: is it over, and did the bot say anything behind it? */
static bool is_left_alone(const struct key_log *log, size_t index)
{
    for (size_t i = index + 1; i < log->n_messages; i++) {
        const struct msg_rec *m = &log->messages[i];
        if (m->t_us - m[-1].t_us >= RECORD_SESSION_GAP_US)
            return true;
        if (!is_user(m))
            return false;
    }
    return log->as_of_us - log->messages[log->n_messages - 1].t_us >= RECORD_SESSION_GAP_US;
}

static void look_for_question(const struct key_log *log, size_t first, size_t n,
                              struct eo_topic *topic)
{
    size_t last = first + n;
    while (last-- > first && !is_user(&log->messages[last]))
        ;
    const struct msg_rec *m = &log->messages[last];
    topic->asked = m->flags & MSG_QUESTION && is_left_alone(log, last);
    topic->asked_us = m->t_us;
    topic->asked_id = m->id;
}

/* Segments in time order, so that the last one of a topic has the last word. */
static void add_segment(const struct key_log *log, const struct topics *t, size_t i,
                        struct eo_topic *topic)
{
    const struct segment *s = t->segments[i];
    topic->n += s->n_user;
    topic->n_valence += s->n_valence;
    topic->valence_sum += s->valence_sum;
    topic->last_us = log->messages[t->starts[i] + s->n - 1].t_us;
    look_for_question(log, t->starts[i], s->n, topic);
}

static void collect_segments(const struct dialogue_session *sessions, size_t n, struct topics *t)
{
    size_t total = 0, seen = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sessions[i].n_segments; j++)
            total += sessions[i].segments[j].n_user > 0;
    size_t skip = total > SEGMENT_CLUSTERED_MAX ? total - SEGMENT_CLUSTERED_MAX : 0;
    t->n = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < sessions[i].n_segments; j++) {
            const struct segment *s = &sessions[i].segments[j];
            if (s->n_user == 0 || seen++ < skip)
                continue;
            t->segments[t->n] = s;
            t->starts[t->n++] = sessions[i].first + s->first;
        }
    }
}

static enum status count_topics(const struct key_log *log, struct eo_counts *out, struct error *err)
{
    const struct dialogue_session *sessions;
    size_t n;
    enum status st = dialogue_sessions(log, &sessions, &n, err);
    if (st)
        return st;
    struct topics t;
    collect_segments(sessions, n, &t);
    segment_cluster(t.segments, t.n, t.cluster);
    size_t place[SEGMENT_CLUSTERS_MAX]; /* of a cluster in topics[], by its first segment */
    memset(place, 0xFF, sizeof(place));
    for (size_t i = 0; i < t.n; i++) {
        size_t c = t.cluster[i];
        if (c == SEGMENT_OTHER)
            continue;
        if (place[c] == SIZE_MAX) {
            place[c] = out->n_topics++;
            struct eo_topic *topic = &out->topics[place[c]];
            if (topics_label(log, &t, c, topic->label, &topic->label_len))
                return error_set(err, STATUS_NOMEM, "could not allocate topic labels");
        }
        add_segment(log, &t, i, &out->topics[place[c]]);
    }
    return STATUS_OK;
}

/* ---- memories at risk ---- */

static void describe_memory(const struct key_log *log, const struct retention *retention,
                            const struct memory_pick *p, struct eo_fading *ret)
{
    const struct mem_rec *m = &log->memories[p->index];
    char text[MEMORY_TOPIC_BYTES];
    struct str topic = memory_topic(log, m, text);
    *ret = (struct eo_fading){.name_len = m->name_len,
                              .topic_len = topic.len,
                              .value = p->value,
                              .r = p->r,
                              .fsrs = retention->at[p->index].fsrs};
    memcpy(ret->name, m->name, m->name_len);
    if (topic.len)
        memcpy(ret->topic, topic.ptr, topic.len);
}

static enum status count_fading(const struct key_log *log, struct eo_counts *out, struct error *err)
{
    const struct retention *retention;
    enum status st = retention_of(log, &retention, err);
    if (st)
        return st;
    struct memory_picks picks = {.max = EO_FADING_MAX};
    bool accessed = false;
    for (size_t i = 0; i < log->n_memories; i++) {
        const struct mem_rec *m = &log->memories[i];
        const struct retained *kept = &retention->at[i];
        double value = 0, r = m->pinned ? 1.0 : kept->r;
        accessed |= kept->fsrs.reps > 0;
        if (eo_is_fading(log->as_of_us - m->created_us, m->importance, kept->fsrs.reps, r, &value))
            memory_picks_offer(&picks, log, (struct memory_pick){i, -value * (1 - r), r, value});
    }
    /* Without any access nothing is inferred from age alone. */
    for (size_t i = 0; accessed && i < picks.n; i++)
        describe_memory(log, retention, &picks.items[i], &out->fading[out->n_fading++]);
    return STATUS_OK;
}

/* ---- learning ---- */

static void learn_gap(const struct key_log *log, size_t index, struct epoch_delta *delta)
{
    const struct msg_rec *m = &log->messages[index];
    const struct msg_rec *from = user_before(log, index);
    if (!from)
        return;
    const struct msg_rec *before = user_before(log, (size_t)(from - log->messages));
    unsigned context = gap_context(from->t_us, before ? from->t_us - before->t_us : GAP_NONE);
    epoch_learn(delta, EPOCH_GAPS + context * EPOCH_GAP_BINS + gap_length(m->t_us - from->t_us), 1);
}

/* The first user message after attempts decides them: answered in time, or not. An attempt that the
 * next one followed a day later is left to that one. */
static void learn_outcomes(const struct key_log *log, size_t index, struct epoch_delta *delta)
{
    const struct msg_rec *m = &log->messages[index];
    const struct msg_rec *from = user_before(log, index);
    int64_t since_us = from ? from->t_us : INT64_MIN;
    int64_t next_us = m->t_us;
    for (size_t i = log->n_outreach; i-- > 0 && log->outreach[i].t_us >= since_us;) {
        const struct outreach_rec *o = &log->outreach[i];
        if (o->op != OUTREACH_SENT || o->t_us >= m->t_us)
            continue;
        if (next_us - o->t_us > RECORD_REPLY_US && next_us != m->t_us)
            return;
        epoch_learn(delta, EPOCH_OUTREACH_RESOLVED, 1);
        epoch_learn(delta, EPOCH_OUTREACH_REPLIED, m->t_us - o->t_us <= RECORD_REPLY_US);
        next_us = o->t_us;
    }
}

static void eo_learn(void *state, const struct key_log *log, enum record_kind kind, size_t index,
                     struct epoch_delta *delta)
{
    (void)state;
    if (kind != RECORD_MESSAGE || !is_user(&log->messages[index]))
        return;
    learn_gap(log, index, delta);
    learn_outcomes(log, index, delta);
}

/* ---- the engine ---- */

static struct eo_counts empty_counts(const struct key_log *log)
{
    return (struct eo_counts){.as_of_us = log->as_of_us,
                              .truncated = log->truncated,
                              .first_seen_us = log->first_seen_us,
                              .consent = log->consents[CONSENT_PROACTIVE],
                              .epoch = epoch_at(log->epochs, kernel_day(log->as_of_us)),
                              .next_expiry_us = INT64_MAX,
                              .next_outcome_us = INT64_MAX,
                              .run_end_us = INT64_MAX};
}

static enum status eo_emit(void *state, const struct key_log *log, struct row *row,
                           struct error *err)
{
    (void)state;
    struct eo_counts counts = empty_counts(log);
    count_messages(log, &counts);
    count_answers(log, &counts);
    count_attempts(log, &counts);
    if (log->n_messages > 0)
        take_history(log, log->n_messages - 1, &counts);
    enum status st = count_topics(log, &counts, err);
    st = st ? st : count_fading(log, &counts, err);
    return st ? st : eo_write(&counts, &eo_defaults, row, err);
}

/* Late messages too: the law after this message, with what came before it. */
static enum status eo_trace(void *state, const struct key_log *log, const struct feature *f,
                            struct str id, struct jsonw *w, struct error *err)
{
    (void)state;
    (void)err;
    if (f->type != EVENT_MESSAGE)
        return STATUS_END;
    size_t i = key_log_message_at(log, f->t_us);
    while (i < log->n_messages && log->messages[i].t_us == f->t_us && log->messages[i].id != f->id)
        i++;
    bool found = i < log->n_messages && log->messages[i].id == f->id;
    if (!found || !is_user(&log->messages[i]))
        return STATUS_END;
    struct eo_counts counts = empty_counts(log);
    counts.epoch = epoch_at(log->epochs, kernel_day(f->t_us));
    take_history(log, i, &counts);
    eo_write_trace(&counts, id, w);
    return STATUS_OK;
}

/* Five user messages make a row due; what the bot says is shown with them, or when it is quiet. */
static uint32_t eo_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    if (kind == RECORD_MESSAGE)
        return is_user(&log->messages[index]);
    return kind == RECORD_OUTREACH || kind == RECORD_PRIVACY;
}

/* An attempt, its answer or a change of mind must be known before the next attempt is made. */
static bool eo_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                      size_t index, bool removed)
{
    (void)state;
    (void)log;
    (void)index;
    return kind == RECORD_OUTREACH || kind == RECORD_PRIVACY || (removed && kind != RECORD_ACCESS);
}

extern const struct engine_ops engine_proactive_engagement;
const struct engine_ops engine_proactive_engagement = {
    .name = "proactive_engagement",
    .version = 1,
    .scope = ENGINE_USER,
    .table = TABLE_ENGAGEMENT_OPPORTUNITIES,
    .kinds = 1u << RECORD_MESSAGE | 1u << RECORD_MEMORY | 1u << RECORD_ACCESS |
             1u << RECORD_OUTREACH | 1u << RECORD_PRIVACY,
    .row_kinds = 1u << RECORD_MESSAGE,
    .trigger = {.count = 5,
                .max_age_us = 120 * US_PER_SECOND,
                .idle_us = 2 * US_PER_SECOND,
                .min_interval_us = 2 * US_PER_SECOND,
                .refresh_us = 210 * US_PER_SECOND,
                .refresh_jitter_us = 30 * US_PER_SECOND,
                .warm_us = 30 * US_PER_MINUTE,
                .recent_us = US_PER_DAY},
    .weight = eo_weight,
    .urgent = eo_urgent,
    .emit = eo_emit,
    .learn = eo_learn,
    .trace_phase = TRACE_AFTER,
    .trace = eo_trace,
};
