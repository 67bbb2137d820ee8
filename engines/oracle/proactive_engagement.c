/*
 * The naive twin of proactive engagement: every question is asked of all messages and all attempts
 * again.
 */
#include "engines/oracle/topics.h"
#include "engines/oracle/view.h"
#include "engines/proactive_engagement_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    int64_t last_us = t->at[t->n - 1];
    out->open_us = v->as_of_us > last_us ? v->as_of_us - last_us : 0;
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

/* ---- topics ---- */

/* The last message of segment `segment` that the user wrote, or n. */
static size_t last_of_user(const struct oracle_view *v, const struct oracle_topic *places,
                           size_t segment)
{
    size_t last = v->n_messages;
    for (size_t i = 0; i < v->n_messages; i++)
        if (places[i].segment == segment && from_user(v->messages[i]))
            last = i;
    return last;
}

static bool is_waiting(const struct oracle_view *v, const struct oracle_topic *places, size_t last)
{
    size_t end = last;
    for (size_t i = last + 1; i < v->n_messages; i++) {
        if (places[i].run != places[last].run)
            continue;
        if (!from_user(v->messages[i]))
            return false;
        end = i;
    }
    return v->messages[last]->u.message.flags & MSG_QUESTION &&
           (end + 1 < v->n_messages || v->as_of_us - v->messages[end]->t_us >= 60 * US_PER_MINUTE);
}

static void sum_topic(const struct oracle_view *v, const struct oracle_topic *places, size_t topic,
                      struct eo_topic *ret)
{
    size_t newest = 0;
    for (size_t i = 0; i < v->n_messages; i++) {
        const struct msg_rec *m = &v->messages[i]->u.message;
        if (places[i].topic != topic)
            continue;
        newest = places[i].segment;
        ret->last_us = v->messages[i]->t_us;
        if (!from_user(v->messages[i]))
            continue;
        ret->n++;
        if (m->flags & MSG_HAS_EMOTION) {
            ret->n_valence++;
            ret->valence_sum += m->valence;
        }
    }
    size_t last = last_of_user(v, places, newest);
    ret->asked = is_waiting(v, places, last);
    ret->asked_us = v->messages[last]->t_us;
    ret->asked_id = v->messages[last]->id;
}

static enum status count_topics(const struct oracle_view *v, struct eo_counts *out)
{
    struct oracle_topic *places = calloc(v->n_messages + 1, sizeof(*places));
    if (!places)
        return STATUS_NOMEM;
    enum status st = oracle_topics(v, places);
    for (size_t i = 0; i < v->n_messages && !st; i++) {
        if (places[i].topic != places[i].segment ||
            (i > 0 && places[i - 1].segment == places[i].segment))
            continue;
        struct eo_topic *t = &out->topics[out->n_topics++];
        t->label_len = places[i].label_len;
        memcpy(t->label, places[i].label, t->label_len);
        sum_topic(v, places, places[i].topic, t);
    }
    free(places);
    return st;
}

/* ---- memories at risk ---- */

struct risk {
    size_t memory; /* SIZE_MAX: none */
    double value;
    double r;
    struct fsrs_state fsrs;
};

static bool name_before(struct str a, struct str b)
{
    int order = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return order < 0 || (order == 0 && a.len < b.len);
}

static bool riskier(const struct oracle_view *v, const struct risk *a, const struct risk *b)
{
    double x = a->value * (1 - a->r), y = b->value * (1 - b->r);
    if (x != y)
        return x > y;
    return name_before(v->memories[a->memory]->u.memory.name,
                       v->memories[b->memory]->u.memory.name);
}

static struct risk study(const struct oracle_view *v, size_t index)
{
    const struct feature *from = v->origins[index];
    struct mem_rec origin = {.created_us = from->t_us,
                             .importance = from->u.memory.importance,
                             .grade = from->u.memory.grade};
    struct risk k = {.memory = SIZE_MAX};
    fsrs_start(&k.fsrs, &origin);
    for (size_t i = 0; i < v->n_accesses; i++) {
        const struct feature *f = v->accesses[i];
        struct access_rec a = {.t_us = f->t_us, .grade = f->u.memory.grade};
        if (f->u.memory.memory == v->memories[index]->u.memory.memory)
            fsrs_fold(&k.fsrs, &origin, &a);
    }
    k.r = v->pinned[index] ? 1.0 : fsrs_retention(&k.fsrs, v->as_of_us);
    if (eo_is_fading(v->as_of_us - v->memories[index]->t_us,
                     v->memories[index]->u.memory.importance, k.fsrs.reps, k.r, &k.value))
        k.memory = index;
    return k;
}

static void show_risk(const struct oracle_view *v, const struct risk *k, struct eo_counts *out)
{
    const struct feature *f = v->memories[k->memory];
    struct eo_fading *ret = &out->fading[out->n_fading++];
    char topic[128] = "";
    for (size_t i = 0; i < f->n_labels && i < 3; i++) {
        size_t used = strlen(topic);
        (void)snprintf(topic + used, sizeof(topic) - used, "%s" STR_FMT, used ? " " : "",
                       STR_ARGS(f->labels[i]));
    }
    struct str cut = str_cut(str_from(topic), LIMIT_LABEL_BYTES);
    *ret = (struct eo_fading){.name_len = f->u.memory.name.len,
                              .topic_len = cut.len,
                              .value = k->value,
                              .r = k->r,
                              .fsrs = k->fsrs};
    memcpy(ret->name, f->u.memory.name.ptr, ret->name_len);
    memcpy(ret->topic, cut.ptr, cut.len);
}

static void count_fading(const struct oracle_view *v, struct eo_counts *out)
{
    struct risk best[EO_FADING_MAX] = {{.memory = SIZE_MAX}, {.memory = SIZE_MAX}};
    bool accessed = false;
    for (size_t i = 0; i < v->n_memories; i++) {
        struct risk k = study(v, i);
        accessed |= k.fsrs.reps > 0;
        if (k.memory == SIZE_MAX)
            continue;
        if (best[0].memory == SIZE_MAX || riskier(v, &k, &best[0])) {
            best[1] = best[0];
            best[0] = k;
        } else if (best[1].memory == SIZE_MAX || riskier(v, &k, &best[1])) {
            best[1] = k;
        }
    }
    for (size_t i = 0; accessed && i < EO_FADING_MAX; i++)
        if (best[i].memory != SIZE_MAX)
            show_risk(v, &best[i], out);
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
    int64_t end_us = v->messages[v->n_messages - 1]->t_us + 60 * US_PER_MINUTE;
    if (end_us > v->as_of_us)
        out->run_end_us = end_us;
}

static enum status emit(const struct oracle_view *v, struct row *row, struct error *err)
{
    struct eo_counts out = {.as_of_us = v->as_of_us,
                            .truncated = v->truncated,
                            .first_seen_us = v->first_seen_us,
                            .consent = v->consents[CONSENT_PROACTIVE],
                            .epoch = epoch_at(v->epochs, kernel_day(v->as_of_us)),
                            .next_expiry_us = INT64_MAX,
                            .next_outcome_us = INT64_MAX,
                            .run_end_us = INT64_MAX};
    struct times t = {0};
    enum status st = take_times(v, &t);
    if (!st)
        st = count_gaps(v, &t, &out);
    st = st ? st : count_topics(v, &out);
    if (st) {
        free(t.at);
        return error_set(err, st, "could not allocate the oracle's messages");
    }
    count_messages(v, &out);
    count_history(&t, &out);
    count_answers(v, &out);
    count_attempts(v, &out);
    count_fading(v, &out);
    free(t.at);
    return eo_write(&out, &eo_defaults, row, err);
}

extern const struct oracle_ops oracle_proactive_engagement;
const struct oracle_ops oracle_proactive_engagement = {
    .engine = "proactive_engagement",
    .emit = emit,
};
