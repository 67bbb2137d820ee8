/*
 * The naive twin of proactive engagement: every question is asked of all messages and all attempts
 * again.
 */
#include "engines/oracle/view.h"
#include "engines/proactive_engagement_row.h"

#include <stdlib.h>

static bool from_user(const struct feature *f)
{
    return !(f->u.message.flags & MSG_BOT);
}

static bool is_attempt(const struct feature *f)
{
    return f->op == OUTREACH_SENT;
}

/* The user's messages, in order of time. */
struct times {
    int64_t *at;
    size_t n;
};

static enum status take_times(const struct oracle_view *v, struct times *t)
{
    t->at = calloc(v->n_messages + 1, sizeof(*t->at));
    if (!t->at)
        return STATUS_NOMEM;
    for (size_t i = 0; i < v->n_messages; i++)
        if (from_user(v->messages[i]))
            t->at[t->n++] = v->messages[i]->t_us;
    return STATUS_OK;
}

/* ---- return gaps ---- */

static bool attempt_between(const struct oracle_view *v, int64_t after_us, int64_t until_us)
{
    for (size_t i = 0; i < v->n_outreach; i++)
        if (is_attempt(v->outreach[i]) && v->outreach[i]->t_us > after_us &&
            v->outreach[i]->t_us <= until_us)
            return true;
    return false;
}

/* Nobody wrote for an hour at some time between the two. */
static bool pause_between(const struct oracle_view *v, int64_t from_us, int64_t to_us)
{
    for (size_t i = 1; i < v->n_messages; i++)
        if (v->messages[i - 1]->t_us >= from_us && v->messages[i]->t_us <= to_us &&
            v->messages[i]->t_us - v->messages[i - 1]->t_us >= 60 * US_PER_MINUTE)
            return true;
    return false;
}

static enum status count_gaps(const struct oracle_view *v, const struct times *t,
                              struct eo_counts *out)
{
    struct waiting *all = calloc(t->n + 1, sizeof(*all));
    if (!all)
        return STATUS_NOMEM;
    size_t n = 0;
    for (size_t i = 1; i < t->n; i++)
        if (pause_between(v, t->at[i - 1], t->at[i]) && !attempt_between(v, t->at[i - 1], t->at[i]))
            all[n++].us = t->at[i] - t->at[i - 1];
    size_t skip = n > EO_GAPS_MAX ? n - EO_GAPS_MAX : 0;
    for (size_t i = skip; i < n; i++)
        out->gaps[out->n_gaps++] = all[i];
    free(all);
    if (t->n == 0)
        return STATUS_OK;
    int64_t end_us = v->as_of_us;
    for (size_t i = 0; i < v->n_outreach; i++)
        if (is_attempt(v->outreach[i]) && v->outreach[i]->t_us > t->at[t->n - 1] &&
            v->outreach[i]->t_us < end_us)
            end_us = v->outreach[i]->t_us;
    if (end_us > t->at[t->n - 1])
        out->open_us = end_us - t->at[t->n - 1];
    return STATUS_OK;
}

/* ---- the gap law ---- */

static void count_history(const struct times *t, struct eo_counts *out)
{
    for (size_t i = 1; i < t->n; i++) {
        uint32_t weight = GAP_NOW;
        for (size_t later = i + 1; later < t->n; later++)
            weight = gap_fade(weight);
        gap_history_add(&out->history, t->at[i] - t->at[i - 1], weight);
    }
    if (t->n == 1)
        out->gap_context = gap_context(t->at[0], GAP_NONE);
    else if (t->n > 1)
        out->gap_context = gap_context(t->at[t->n - 1], t->at[t->n - 1] - t->at[t->n - 2]);
}

/* ---- messages of the bot ---- */

static void count_answers(const struct oracle_view *v, struct eo_counts *out)
{
    for (size_t i = 0; i < v->n_messages; i++) {
        if (from_user(v->messages[i]))
            continue;
        int64_t end_us = v->messages[i]->t_us + EO_REPLY_US;
        bool answered = false;
        /* Messages of one moment are in the order of their ids. */
        for (size_t j = i + 1; j < v->n_messages; j++)
            answered |= from_user(v->messages[j]) && v->messages[j]->t_us <= end_us;
        out->answered += answered;
        out->decided += answered || end_us < v->as_of_us;
        if (!answered && end_us >= v->as_of_us && end_us < out->next_outcome_us)
            out->next_outcome_us = end_us;
    }
}

/* ---- attempts ---- */

static bool in_time(int64_t sent_us, int64_t at_us)
{
    return at_us >= sent_us && at_us <= sent_us + 24 * US_PER_HOUR;
}

static const struct feature *attempt_of(const struct oracle_view *v, const struct feature *answer)
{
    const struct feature *before = NULL;
    for (size_t i = 0; i < v->n_outreach; i++)
        if (is_attempt(v->outreach[i]) && v->outreach[i]->t_us <= answer->t_us)
            before = v->outreach[i];
    for (size_t i = 0; i < v->n_outreach; i++)
        if (is_attempt(v->outreach[i]) && v->outreach[i]->id == answer->id)
            before = v->outreach[i];
    return before;
}

static bool is_answered(const struct oracle_view *v, const struct feature *sent)
{
    for (size_t i = 0; i < v->n_messages; i++)
        if (from_user(v->messages[i]) && v->messages[i]->t_us != sent->t_us &&
            in_time(sent->t_us, v->messages[i]->t_us))
            return true;
    for (size_t i = 0; i < v->n_answers; i++)
        if (v->answers[i]->t_us != sent->t_us && in_time(sent->t_us, v->answers[i]->t_us))
            return true;
    for (size_t i = 0; i < v->n_outreach; i++)
        if (!is_attempt(v->outreach[i]) && in_time(sent->t_us, v->outreach[i]->t_us) &&
            attempt_of(v, v->outreach[i]) == sent)
            return true;
    return false;
}

static void count_attempts(const struct oracle_view *v, struct eo_counts *out)
{
    for (size_t i = 0; i < v->n_outreach; i++) {
        const struct feature *sent = v->outreach[i];
        if (!is_attempt(sent))
            continue;
        int64_t over_us = sent->t_us + 24 * US_PER_HOUR + 1;
        if (is_answered(v, sent)) {
            out->resolved++;
            out->replied++;
            out->streak = 0;
        } else if (over_us <= v->as_of_us) {
            out->resolved++;
            out->streak++;
        } else if (over_us < out->next_outcome_us) {
            out->next_outcome_us = over_us;
        }
    }
}

/* ---- all of it ---- */

static void count_messages(const struct oracle_view *v, struct eo_counts *out)
{
    for (size_t i = 0; i < v->n_messages; i++) {
        const struct feature *f = v->messages[i];
        if (!from_user(f))
            continue;
        out->n_user++;
        out->n_emotion += (f->u.message.flags & MSG_HAS_EMOTION) != 0;
        out->last_user_us = f->t_us;
        out->hours[kernel_hour_of_week(f->t_us)]++;
    }
    if (v->n_messages == 0)
        return;
    int64_t hour_us = v->as_of_us - v->as_of_us % US_PER_HOUR;
    while (v->messages[0]->t_us >= hour_us - 30 * US_PER_DAY)
        hour_us += US_PER_HOUR;
    out->next_expiry_us = hour_us;
}

static enum status emit(const struct oracle_view *v, struct row *row, struct error *err)
{
    struct eo_counts out = {.as_of_us = v->as_of_us,
                            .truncated = v->truncated,
                            .first_seen_us = v->first_seen_us,
                            .consent = v->consent,
                            .epoch = epoch_at(v->epochs, kernel_day(v->as_of_us)),
                            .next_expiry_us = INT64_MAX,
                            .next_outcome_us = INT64_MAX};
    struct times t = {0};
    enum status st = take_times(v, &t);
    if (!st)
        st = count_gaps(v, &t, &out);
    if (st) {
        free(t.at);
        return error_set(err, st, "could not allocate the oracle's messages");
    }
    count_messages(v, &out);
    count_history(&t, &out);
    count_answers(v, &out);
    count_attempts(v, &out);
    free(t.at);
    return eo_write(&out, &eo_defaults, row, err);
}

extern const struct oracle_ops oracle_proactive_engagement;
const struct oracle_ops oracle_proactive_engagement = {
    .engine = "proactive_engagement",
    .emit = emit,
};
