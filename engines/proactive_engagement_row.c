#include "engines/proactive_engagement_row.h"

#include "core/cleanup.h"
#include "engines/tables.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TIMING_GAPS_MIN 5
#define UNUSUAL_P       1 /* silence longer than this share of own gaps, 1/5, is unusual */
#define UNUSUAL_Q       5
#define TIMING_MIN_US   (6 * US_PER_HOUR)
#define TIMING_MAX_US   (14 * US_PER_DAY)
#define TIMING_SHARE    0.8 /* of the busiest hour of that day */
#define STREAK_MAX      2   /* so many attempts without an answer: none is suggested */
#define RECEPTIVITY_MIN 20  /* user messages, unless an attempt was resolved */
#define PRIOR_MIN       20  /* attempts or bot messages of all users before their rate counts */
#define PRIOR_OWN_MIN   10  /* bot messages of this key before their rate counts */
#define CONFIDENCE_N0   10.0
#define HOURS_OF_DAY    24
#define TOPICS_MAX      8
#define REASONS_MAX     3
#define POSITIVE_MIN    0.2 /* mean valence */
#define FREQUENT_MIN    8   /* user messages */
#define RECENT_US       (3 * US_PER_DAY)
#define HALF_LIFE_DAYS  14.0
#define QUESTION_US     (14 * US_PER_DAY) /* an unresolved question is worth coming back to */
#define ASKED_FACTOR    1.5
#define RISK_VALUE      0.3 /* E1's limits of memories at risk */
#define RISK_R          0.7
#define RISK_GRACE_US   (72 * US_PER_HOUR)
#define LOST_R          0.3     /* below this reminding is not the point any more */
#define FSRS_DAYS_MAX   36500.0 /* keeps times far from the ends of their range */
#define OPPORTUNITIES   5
#define CANDIDATES_MAX  (SEGMENT_CLUSTERS_MAX + EO_FADING_MAX + 2)

const struct eo_params eo_defaults = {.quiet_from = 22, .quiet_to = 8, .assume_utc = true};

/* What several columns need, worked out once. */
struct view {
    const struct eo_counts *c;
    const struct eo_params *params;
    double activity[HOURS_OF_WEEK];
    double law[EPOCH_GAP_BINS];
    bool has_gap;   /* the silence that is unusual for this user is known */
    bool own_gap;   /* from own return gaps, not from the law */
    int64_t gap_us; /* that silence */
    bool has_p0;
    double p0; /* reply rate to expect before any attempt was resolved */
    const char *p0_source;
};

static double hours(int64_t us)
{
    return (double)us / (double)US_PER_HOUR;
}

static int64_t ceil_hour(int64_t t_us)
{
    return -time_floor_us(-t_us, US_PER_HOUR);
}

/* ---- the parts ---- */

static void find_gap(struct view *v)
{
    const struct eo_counts *c = v->c;
    if (c->n_gaps < TIMING_GAPS_MIN)
        return;
    struct waiting gaps[EO_GAPS_MAX + 1];
    size_t n = c->n_gaps;
    memcpy(gaps, c->gaps, n * sizeof(gaps[0]));
    gaps[n++] = (struct waiting){c->open_us, true};
    v->own_gap = kernel_survival_time(gaps, n, UNUSUAL_P, UNUSUAL_Q, &v->gap_us);
    /* Too many gaps were cut short by now: what is usual after such a message decides. */
    if (!v->own_gap)
        v->gap_us = gap_quantile_us(v->law, RECORD_SESSION_GAP_US,
                                    1.0 - (double)UNUSUAL_P / (double)UNUSUAL_Q);
    v->has_gap = true;
}

static double rate(uint32_t k, uint32_t n)
{
    return k < n ? (double)k / (double)n : 1.0;
}

/* The bot's attempts, else its messages to this user (drawn to those to all), else those to all. */
static void find_p0(struct view *v)
{
    const struct eo_counts *c = v->c;
    uint32_t resolved = 0, decided = 0;
    double attempts = 0, messages = 0;
    if (c->epoch) {
        resolved = c->epoch->v[EPOCH_OUTREACH_RESOLVED];
        decided = c->epoch->v[EPOCH_REPLIES_DECIDED];
    }
    bool has_attempts = resolved >= PRIOR_MIN * EPOCH_SCALE;
    bool has_messages = decided >= PRIOR_MIN * EPOCH_SCALE;
    if (has_attempts)
        attempts = rate(c->epoch->v[EPOCH_OUTREACH_REPLIED], resolved);
    if (has_messages)
        messages = rate(c->epoch->v[EPOCH_REPLIES], decided);
    v->has_p0 = true;
    if (has_attempts) {
        v->p0 = attempts;
        v->p0_source = "outreach_of_bot";
    } else if (c->decided >= PRIOR_OWN_MIN) {
        v->p0 = has_messages ? kernel_posterior(c->answered, c->decided, messages)
                             : rate(c->answered, c->decided);
        v->p0_source = "replies_of_user";
    } else if (has_messages) {
        v->p0 = messages;
        v->p0_source = "replies_of_bot";
    } else {
        v->has_p0 = false;
    }
}

static bool is_quiet(const struct eo_params *p, int64_t hour_us)
{
    unsigned hour = kernel_hour_of_week(hour_us) % HOURS_OF_DAY;
    return p->quiet_from <= p->quiet_to ? hour >= p->quiet_from && hour < p->quiet_to
                                        : hour >= p->quiet_from || hour < p->quiet_to;
}

/* The first hour from start_us on, of a day, that is not quiet and nearly as busy as the busiest
 * such hour. False when all hours are quiet. */
static bool find_hour(const struct view *v, int64_t start_us, int64_t *ret_us)
{
    double most = 0;
    for (int i = 0; i < HOURS_OF_DAY; i++) {
        int64_t at_us = start_us + i * US_PER_HOUR;
        double a = v->activity[kernel_hour_of_week(at_us)];
        if (!is_quiet(v->params, at_us) && a > most)
            most = a;
    }
    for (int i = 0; i < HOURS_OF_DAY; i++) {
        int64_t at_us = start_us + i * US_PER_HOUR;
        if (!is_quiet(v->params, at_us) &&
            v->activity[kernel_hour_of_week(at_us)] >= TIMING_SHARE * most) {
            *ret_us = at_us;
            return true;
        }
    }
    return false;
}

/* ---- columns ---- */

static enum status no_timing(struct row *row, const char *why)
{
    enum status st = row_set_null(row, EO_OPTIMAL_TIMING_HOURS, "%s", why);
    return st ? st : row_set_null(row, EO_NEXT_CONTACT_AT, "%s", why);
}

static enum status write_timing(const struct view *v, struct row *row)
{
    const struct eo_counts *c = v->c;
    if (c->consent.opted_out)
        return no_timing(row, "opted_out");
    if (!v->params->assume_utc)
        return no_timing(row, "no_time_zone: quiet hours cannot be kept");
    if (c->streak >= STREAK_MAX)
        return no_timing(row, "unanswered: the last attempts were not answered");
    if (!v->has_gap) {
        char why[64];
        snprintf(why, sizeof(why), "insufficient_data: have %zu, need %d", c->n_gaps,
                 TIMING_GAPS_MIN);
        return no_timing(row, why);
    }
    int64_t gap_us = v->gap_us > TIMING_MIN_US ? v->gap_us : TIMING_MIN_US;
    int64_t at_us = c->last_user_us + gap_us;
    int64_t now_us = time_floor_us(c->as_of_us, US_PER_HOUR);
    if (at_us < now_us)
        at_us = now_us; /* the moment has passed: the next good hour from now on */
    if (!find_hour(v, ceil_hour(at_us), &at_us) || at_us - c->last_user_us > TIMING_MAX_US)
        return no_timing(row, "too_long: more than 14 days");
    row_set_float(row, EO_OPTIMAL_TIMING_HOURS, hours(at_us - c->last_user_us));
    row_set_time(row, EO_NEXT_CONTACT_AT, at_us);
    return STATUS_OK;
}

static enum status write_receptivity(const struct view *v, struct row *row)
{
    const struct eo_counts *c = v->c;
    if (c->consent.opted_out) {
        row_set_float(row, EO_RECEPTIVITY_SCORE, 0);
        return row_add_detail(row, "receptivity", STR("\"opted_out\""));
    }
    if (c->n_user < RECEPTIVITY_MIN && c->resolved == 0)
        return row_set_null(row, EO_RECEPTIVITY_SCORE, "insufficient_data: have %u, need %d",
                            c->n_user, RECEPTIVITY_MIN);
    if (!v->has_p0)
        return row_set_null(row, EO_RECEPTIVITY_SCORE,
                            "insufficient_data: have %u, need %d decided bot messages", c->decided,
                            PRIOR_OWN_MIN);
    double most = 0;
    for (size_t h = 0; h < HOURS_OF_WEEK; h++)
        most = fmax(most, v->activity[h]);
    double p = kernel_posterior(c->replied, c->resolved, v->p0);
    double now = v->activity[kernel_hour_of_week(c->as_of_us)];
    row_set_float(row, EO_RECEPTIVITY_SCORE, p * sqrt(now / most) * ldexp(1.0, -(int)c->streak));
    return STATUS_OK;
}

static enum status write_facts(const struct view *v, struct row *row)
{
    const struct eo_counts *c = v->c;
    enum status st = STATUS_OK;
    if (c->n_user == 0) {
        st = row_set_null(row, EO_LAST_ENGAGEMENT_GAP_HOURS, "insufficient_data: have 0, need 1");
        st = st ? st
                : row_set_null(row, EO_LAST_USER_MESSAGE_AT, "insufficient_data: have 0, need 1");
    } else {
        int64_t silence_us = c->as_of_us - c->last_user_us;
        row_set_float(row, EO_LAST_ENGAGEMENT_GAP_HOURS, hours(silence_us > 0 ? silence_us : 0));
        row_set_time(row, EO_LAST_USER_MESSAGE_AT, c->last_user_us);
    }
    if (st)
        return st;
    if (c->resolved == 0)
        return row_set_null(row, EO_PROACTIVE_SUCCESS_RATE,
                            "insufficient_data: have 0, need 1 resolved attempt");
    row_set_float(row, EO_PROACTIVE_SUCCESS_RATE, rate(c->replied, c->resolved));
    return STATUS_OK;
}

/* ---- topics ---- */

static double age_days(const struct eo_counts *c, int64_t since_us)
{
    int64_t age_us = c->as_of_us - since_us;
    return age_us > 0 ? (double)age_us / (double)US_PER_DAY : 0.0;
}

static double mean_valence(const struct eo_topic *t)
{
    return t->n_valence ? (double)t->valence_sum / (127.0 * (double)t->n_valence) : 0.0;
}

static bool is_open_question(const struct eo_counts *c, const struct eo_topic *t)
{
    return t->asked && c->as_of_us - t->asked_us < QUESTION_US;
}

/* Likes it, spoke of it lately, speaks of it often, and is waiting for an answer. */
static double topic_score(const struct eo_counts *c, const struct eo_topic *t)
{
    double liked = 0.5 + 0.5 * fmax(0.0, mean_valence(t));
    double fresh = exp2(-age_days(c, t->last_us) / HALF_LIFE_DAYS);
    double often = (double)t->n / ((double)t->n + 3.0);
    return liked * fresh * often * (is_open_question(c, t) ? ASKED_FACTOR : 1.0);
}

struct scored {
    const struct eo_topic *topic;
    double score;
};

/* The best first; of equals the one that began first. */
static size_t rank_topics(const struct eo_counts *c, struct scored best[TOPICS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_topics; i++) {
        struct scored s = {&c->topics[i], topic_score(c, &c->topics[i])};
        if (s.topic->label_len == 0)
            continue;
        size_t at = n;
        while (at > 0 && best[at - 1].score < s.score)
            at--;
        if (at == TOPICS_MAX)
            continue;
        n += n < TOPICS_MAX;
        memmove(&best[at + 1], &best[at], (n - at - 1) * sizeof(s));
        best[at] = s;
    }
    return n;
}

static void write_reasons(const struct eo_counts *c, const struct eo_topic *t, struct jsonw *w)
{
    const struct {
        bool holds;
        const char *name;
    } reasons[] = {{is_open_question(c, t), "unresolved_question"},
                   {mean_valence(t) >= POSITIVE_MIN, "positive_valence"},
                   {c->as_of_us - t->last_us < RECENT_US, "recent"},
                   {t->n >= FREQUENT_MIN, "frequent"}};
    size_t n = 0;
    jsonw_array_begin(w);
    for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]) && n < REASONS_MAX; i++) {
        if (!reasons[i].holds)
            continue;
        jsonw_string(w, str_from(reasons[i].name));
        n++;
    }
    jsonw_array_end(w);
}

static enum status write_topics(const struct view *v, struct buf *json, struct row *row)
{
    const struct eo_counts *c = v->c;
    if (c->consent.opted_out)
        return row_set_null(row, EO_SUGGESTED_TOPICS, "opted_out");
    struct scored best[TOPICS_MAX];
    size_t n = rank_topics(c, best);
    struct jsonw w;
    buf_reset(json);
    jsonw_init(&w, json);
    jsonw_array_begin(&w);
    for (size_t i = 0; i < n; i++) {
        const struct eo_topic *t = best[i].topic;
        jsonw_object_begin(&w);
        jsonw_key(&w, "last_discussed");
        jsonw_time(&w, t->last_us);
        jsonw_key(&w, "n");
        jsonw_int(&w, t->n);
        jsonw_key(&w, "reasons");
        write_reasons(c, t, &w);
        jsonw_key(&w, "score");
        jsonw_number(&w, best[i].score);
        jsonw_key(&w, "topic");
        jsonw_string(&w, (struct str){t->label, t->label_len});
        jsonw_object_end(&w);
    }
    jsonw_array_end(&w);
    enum status st = jsonw_status(&w);
    return st ? st : row_set_json(row, EO_SUGGESTED_TOPICS, (struct str){json->data, json->len});
}

/* ---- opportunities ---- */

struct opportunity {
    const char *type;
    struct str topic;
    struct str ref;
    uint64_t message; /* ref of a message: only the hash of its id is known */
    int64_t since_us;
    int64_t until_us;
    double strength;
};

struct opportunities {
    size_t n;
    struct opportunity at[CANDIDATES_MAX];
    int64_t next_us; /* the next one begins or ends */
};

static void offer(struct opportunities *list, const struct eo_counts *c, struct opportunity o)
{
    int64_t change_us = c->as_of_us < o.since_us ? o.since_us : o.until_us;
    if (change_us > c->as_of_us && change_us < list->next_us)
        list->next_us = change_us;
    if (c->as_of_us < o.since_us || c->as_of_us >= o.until_us)
        return;
    size_t at = list->n++;
    for (; at > 0 && list->at[at - 1].strength < o.strength; at--)
        list->at[at] = list->at[at - 1];
    list->at[at] = o;
}

/* Share of the user's own gaps that were shorter than the silence now. */
static void offer_silence(const struct view *v, struct opportunities *list)
{
    const struct eo_counts *c = v->c;
    if (!v->has_gap || c->n_user == 0)
        return;
    uint32_t shorter = 0;
    for (size_t i = 0; i < c->n_gaps; i++)
        shorter += c->gaps[i].us < c->as_of_us - c->last_user_us;
    int64_t gap_us = v->gap_us > TIMING_MIN_US ? v->gap_us : TIMING_MIN_US;
    offer(list, c,
          (struct opportunity){.type = "long_silence",
                               .since_us = c->last_user_us + gap_us,
                               .until_us = c->last_user_us + TIMING_MAX_US,
                               .strength = rate(shorter, (uint32_t)c->n_gaps)});
}

static void offer_anniversary(const struct eo_counts *c, struct opportunities *list)
{
    static const struct {
        int days;
        double strength;
    } marks[] = {{7, 0.4}, {30, 0.6}, {100, 0.8}, {365, 1.0}};
    if (c->first_seen_us == 0)
        return;
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        int64_t since_us = c->first_seen_us + marks[i].days * US_PER_DAY;
        offer(list, c,
              (struct opportunity){.type = "anniversary",
                                   .since_us = since_us,
                                   .until_us = since_us + US_PER_DAY,
                                   .strength = marks[i].strength});
    }
}

static void offer_questions(const struct eo_counts *c, struct opportunities *list)
{
    for (size_t i = 0; i < c->n_topics; i++) {
        const struct eo_topic *t = &c->topics[i];
        if (t->asked)
            offer(
                list, c,
                (struct opportunity){.type = "unresolved_question",
                                     .topic = {t->label, t->label_len},
                                     .message = t->asked_id,
                                     .since_us = t->asked_us,
                                     .until_us = t->asked_us + QUESTION_US,
                                     .strength = exp2(-age_days(c, t->asked_us) / HALF_LIFE_DAYS)});
    }
}

bool eo_is_fading(int64_t age_us, uint32_t importance, uint32_t accesses, double r,
                  double *ret_value)
{
    double used = (double)accesses / ((double)accesses + 3.0);
    double importance_given = importance == UINT32_MAX ? 0.0 : (double)importance / 1e6;
    *ret_value = fmax(importance_given, used);
    return *ret_value >= RISK_VALUE && r < RISK_R && age_us > RISK_GRACE_US;
}

static int64_t fades_to(const struct fsrs_state *s, double r)
{
    double days = fmin(fsrs_days_until(s, r), FSRS_DAYS_MAX);
    return s->last_us + (int64_t)(days * (double)US_PER_DAY);
}

static void offer_fading(const struct eo_counts *c, struct opportunities *list)
{
    for (size_t i = 0; i < c->n_fading; i++) {
        const struct eo_fading *f = &c->fading[i];
        int64_t since_us = fades_to(&f->fsrs, RISK_R);
        offer(list, c,
              (struct opportunity){.type = "fading_memory",
                                   .topic = {f->topic, f->topic_len},
                                   .ref = {f->name, f->name_len},
                                   .since_us = since_us < c->as_of_us ? since_us : c->as_of_us,
                                   .until_us = fades_to(&f->fsrs, LOST_R),
                                   .strength = f->value * (1.0 - f->r)});
    }
}

static void write_opportunity(const struct opportunity *o, struct jsonw *w)
{
    char hash[17];
    jsonw_object_begin(w);
    if (o->message || o->ref.len) {
        snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)o->message);
        jsonw_key(w, "ref");
        jsonw_string(w, o->message ? str_from(hash) : o->ref);
    }
    jsonw_key(w, "since");
    jsonw_time(w, o->since_us);
    jsonw_key(w, "strength");
    jsonw_number(w, o->strength);
    if (o->topic.len) {
        jsonw_key(w, "topic");
        jsonw_string(w, o->topic);
    }
    jsonw_key(w, "type");
    jsonw_string(w, str_from(o->type));
    jsonw_key(w, "valid_until");
    jsonw_time(w, o->until_us);
    jsonw_object_end(w);
}

static enum status write_opportunities(const struct view *v, struct buf *json, struct row *row)
{
    if (v->c->consent.opted_out)
        return row_set_null(row, EO_OPPORTUNITIES, "opted_out");
    struct opportunities list = {.next_us = INT64_MAX};
    offer_silence(v, &list);
    offer_questions(v->c, &list);
    offer_fading(v->c, &list);
    offer_anniversary(v->c, &list);
    struct jsonw w;
    buf_reset(json);
    jsonw_init(&w, json);
    jsonw_array_begin(&w);
    for (size_t i = 0; i < list.n && i < OPPORTUNITIES; i++)
        write_opportunity(&list.at[i], &w);
    jsonw_array_end(&w);
    if (list.next_us < INT64_MAX && (!row->valid_until_us || list.next_us < row->valid_until_us))
        row->valid_until_us = list.next_us;
    enum status st = jsonw_status(&w);
    return st ? st : row_set_json(row, EO_OPPORTUNITIES, (struct str){json->data, json->len});
}

/* ---- details ---- */

static void write_cdf(const double law[EPOCH_GAP_BINS], struct jsonw *w)
{
    struct gap_point points[GAP_POINTS];
    gap_points(law, points);
    jsonw_array_begin(w);
    for (size_t i = 0; i < GAP_POINTS; i++) {
        jsonw_array_begin(w);
        jsonw_number(w, points[i].seconds);
        jsonw_number(w, points[i].cdf);
        jsonw_array_end(w);
    }
    jsonw_array_end(w);
}

static void write_outcomes(const struct eo_counts *c, struct jsonw *w)
{
    jsonw_object_begin(w);
    jsonw_key(w, "ci95");
    jsonw_array_begin(w);
    jsonw_number(w, kernel_wilson_low(c->replied, c->resolved));
    jsonw_number(w, kernel_wilson_high(c->replied, c->resolved));
    jsonw_array_end(w);
    jsonw_key(w, "replied");
    jsonw_int(w, c->replied);
    jsonw_key(w, "resolved");
    jsonw_int(w, c->resolved);
    jsonw_key(w, "unanswered_in_a_row");
    jsonw_int(w, c->streak);
    jsonw_object_end(w);
}

static void write_prior(const struct view *v, struct jsonw *w)
{
    jsonw_object_begin(w);
    jsonw_key(w, "p0");
    jsonw_number(w, v->p0);
    jsonw_key(w, "source");
    jsonw_string(w, str_from(v->p0_source));
    jsonw_object_end(w);
}

static void write_return_gaps(const struct view *v, struct jsonw *w)
{
    jsonw_object_begin(w);
    jsonw_key(w, "n");
    jsonw_int(w, (int64_t)v->c->n_gaps);
    jsonw_key(w, "source");
    if (v->has_gap)
        jsonw_string(w, v->own_gap ? STR("own_gaps") : STR("gap_law"));
    else
        jsonw_null(w);
    jsonw_key(w, "unusual_h");
    if (v->has_gap)
        jsonw_number(w, hours(v->gap_us));
    else
        jsonw_null(w);
    jsonw_object_end(w);
}

static void write_hours(const struct view *v, struct jsonw *w)
{
    jsonw_object_begin(w);
    jsonw_key(w, "assume_utc");
    jsonw_bool(w, v->params->assume_utc);
    jsonw_key(w, "quiet");
    jsonw_array_begin(w);
    jsonw_int(w, v->params->quiet_from);
    jsonw_int(w, v->params->quiet_to);
    jsonw_array_end(w);
    jsonw_object_end(w);
}

static enum status add_detail(struct row *row, const char *key, const struct jsonw *w)
{
    enum status st = jsonw_status(w);
    return st ? st : row_add_detail(row, key, (struct str){w->out->data, w->out->len});
}

static enum status write_details(const struct view *v, struct buf *json, struct row *row)
{
    struct jsonw w;
    enum status st = STATUS_OK;
    if (v->c->n_user > 0) {
        buf_reset(json);
        jsonw_init(&w, json);
        write_cdf(v->law, &w);
        st = add_detail(row, "gap_cdf", &w);
    }
    if (!st && v->c->resolved > 0) {
        buf_reset(json);
        jsonw_init(&w, json);
        write_outcomes(v->c, &w);
        st = add_detail(row, "outreach", &w);
    }
    if (!st && v->has_p0) {
        buf_reset(json);
        jsonw_init(&w, json);
        write_prior(v, &w);
        st = add_detail(row, "prior", &w);
    }
    buf_reset(json);
    jsonw_init(&w, json);
    write_return_gaps(v, &w);
    st = st ? st : add_detail(row, "return_gaps", &w);
    buf_reset(json);
    jsonw_init(&w, json);
    write_hours(v, &w);
    return st ? st : add_detail(row, "hours", &w);
}

/* Activity is looked up by the hour, so nothing holds longer than this one. */
static void set_validity(const struct eo_counts *c, struct row *row)
{
    int64_t until_us = time_floor_us(c->as_of_us, US_PER_HOUR) + US_PER_HOUR;
    const int64_t moments[] = {c->next_expiry_us, c->next_outcome_us, c->run_end_us};
    for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++)
        until_us = moments[i] < until_us ? moments[i] : until_us;
    if (row->valid_until_us == 0 || until_us < row->valid_until_us)
        row->valid_until_us = until_us;
}

enum status eo_write(const struct eo_counts *c, const struct eo_params *params, struct row *row,
                     struct error *err)
{
    assert(row->table == &tables[TABLE_ENGAGEMENT_OPPORTUNITIES]);
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_JSON_BYTES);
    struct view v = {.c = c, .params = params};
    kernel_activity(c->hours, c->epoch ? &c->epoch->v[EPOCH_HOW] : NULL, v.activity);
    gap_law(&c->history, c->gap_context, c->epoch, v.law);
    find_gap(&v);
    find_p0(&v);
    enum status st = write_timing(&v, row);
    st = st ? st : write_receptivity(&v, row);
    st = st ? st : write_facts(&v, row);
    st = st ? st : write_topics(&v, &json, row);
    st = st ? st : write_opportunities(&v, &json, row);
    st = st ? st : write_details(&v, &json, row);
    if (st)
        return error_set(err, st, "could not write engagement: %s", status_name(st));
    row->state_flags |= ROW_LEXICAL | ROW_NO_TZ;
    if (c->n_emotion == 0)
        row->state_flags |= ROW_NO_EMOTION;
    if (c->resolved == 0)
        row->state_flags |= ROW_PRIOR_ONLY;
    row->confidence = kernel_confidence(c->n_gaps, CONFIDENCE_N0, 1, 1);
    set_validity(c, row);
    if (c->n_user > 0) {
        struct gap_visit visit = gap_next_visit(v.law, v.activity, c->last_user_us, c->as_of_us);
        row->visit_from_us = visit.from_us;
        row->visit_until_us = visit.until_us;
    }
    return STATUS_OK;
}

void eo_write_trace(const struct eo_counts *c, struct str id, struct jsonw *w)
{
    double law[EPOCH_GAP_BINS];
    gap_law(&c->history, c->gap_context, c->epoch, law);
    jsonw_object_begin(w);
    jsonw_key(w, "gap_cdf");
    write_cdf(law, w);
    jsonw_key(w, "id");
    jsonw_string(w, id);
    jsonw_object_end(w);
}
