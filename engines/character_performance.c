/*
 * Character performance (ENGINES.md E2): how well a bot does by its own metrics, over the last day,
 * week and month; whether it gets better or worse, stays itself, and what stands out.
 *
 * The sums are the bot key's (metrics.h): there is nothing to keep beside them, so this engine's
 * state is empty and all it does is to add up hours at emission.
 */
#include "core/clock.h"
#include "engines/character_performance_row.h"
#include "engines/engine.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static uint32_t performance_weight(const struct key_log *log, enum record_kind kind, size_t index)
{
    (void)log, (void)index;
    return kind == RECORD_METRIC;
}

/* An alarm, or the first point of an hour: hourly anomalies open and close with the hour before. */
static bool performance_urgent(const void *state, const struct key_log *log, enum record_kind kind,
                               size_t index, bool removed)
{
    (void)state, (void)index, (void)removed;
    return kind == RECORD_METRIC && log->metrics->urgent;
}

/* ---- counting ---- */

static void add_bucket(struct pf_sum *to, const struct metric_bucket *b)
{
    to->n += b->n;
    to->sum += b->sum;
    to->sum2 += b->sum2;
}

static struct pf_sum sum_of(const struct metrics *m, enum metric metric, int32_t from, int32_t to)
{
    struct pf_sum sum = {0};
    const struct metric_stream *s = metrics_stream(m, (uint64_t)metric);
    if (s) {
        struct metric_bucket b = metric_sum(s, from, to);
        add_bucket(&sum, &b);
    }
    return sum;
}

static struct pf_step step_of(const struct metrics *m, int32_t from, int32_t to)
{
    struct pf_step step;
    step.quality[USER_ENGAGEMENT] = sum_of(m, METRIC_ENGAGEMENT, from, to);
    step.quality[USER_SATISFACTION] = sum_of(m, METRIC_SATISFACTION, from, to);
    step.quality[USER_COHERENCE] = sum_of(m, METRIC_COHERENCE, from, to);
    struct pf_sum flow = sum_of(m, METRIC_NATURAL_FLOW, from, to);
    struct pf_sum relevance = sum_of(m, METRIC_TOPIC_RELEVANCE, from, to);
    step.quality[USER_FLOW] =
        (struct pf_sum){flow.n + relevance.n, flow.sum + relevance.sum, flow.sum2 + relevance.sum2};
    return step;
}

/* Complete hours of a day's window, complete days of a longer one. */
static void count_steps(const struct metrics *m, struct pf_counts *c)
{
    int32_t now = metric_hour(c->as_of_us);
    int32_t first = now - c->window_hours;
    int32_t length = c->window_hours == 24 ? 1 : 24;
    int32_t start = first + (24 - first % 24) % 24;
    if (length == 1)
        start = first;
    for (int32_t at = start; at + length <= now; at += length) {
        assert(c->n_steps < PF_STEPS_MAX);
        c->steps[c->n_steps++] = step_of(m, at, at + length);
    }
}

static int compare_users(const void *a, const void *b)
{
    const struct user_day *const *x = a, *const *y = b;
    return ((*x)->user > (*y)->user) - ((*x)->user < (*y)->user);
}

/* One user's days, one behind the other. */
static void count_user(const struct user_day *const *days, size_t n, struct pf_counts *c)
{
    c->users++;
    for (int k = 0; k < USER_METRICS; k++) {
        int64_t count = 0, sum = 0;
        for (size_t i = 0; i < n; i++) {
            count += days[i]->n[k];
            sum += days[i]->sum[k];
        }
        if (count == 0)
            continue;
        c->balanced_n[k]++;
        c->balanced_sum[k] += (int128)sum * 1000 / count;
    }
}

static bool has_points(const struct user_day *u)
{
    bool any = false;
    for (int k = 0; k < USER_METRICS; k++)
        any |= u->n[k] > 0;
    return any;
}

static enum status count_users(const struct metrics *m, struct pf_counts *c)
{
    int32_t first = metric_first_day(c->as_of_us, c->window_hours);
    int32_t last = kernel_day(c->as_of_us);
    c->users_known = c->window_hours <= METRIC_USER_WINDOW && m->user_days_full < first;
    if (!c->users_known)
        return STATUS_OK;
    const struct user_day **days = malloc((m->n_user_days + 1) * sizeof(struct user_day *));
    if (!days)
        return STATUS_NOMEM;
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_user_days; i++) {
        const struct user_day *u = &m->user_days[i];
        if (u->day >= first && u->day <= last && has_points(u))
            days[n++] = u;
    }
    qsort(days, n, sizeof(struct user_day *), compare_users);
    for (size_t from = 0, to = 0; from < n; from = to) {
        while (to < n && days[to]->user == days[from]->user)
            to++;
        count_user(days + from, to - from, c);
    }
    free(days);
    return STATUS_OK;
}

static void count_latencies(const struct metrics *m, struct pf_counts *c)
{
    int32_t first = metric_first_day(c->as_of_us, c->window_hours);
    int32_t last = kernel_day(c->as_of_us);
    for (uint32_t i = 0; i < m->n_latencies; i++) {
        const struct latency_day *l = &m->latencies[i];
        if (l->day < first || l->day > last)
            continue;
        for (int k = 0; k < METRIC_LATENCIES; k++)
            for (size_t b = 0; b < HIST_BUCKETS; b++)
                c->latencies[k][b] += l->count[k][b];
    }
}

static void count_streams(const struct metrics *m, struct pf_counts *c)
{
    int32_t now = metric_hour(c->as_of_us);
    for (uint32_t i = 0; i < m->n_streams; i++) {
        const struct metric_stream *s = &m->streams[i];
        struct pf_stream *to = &c->streams[c->n_streams++];
        to->id = s->id;
        to->metric = s->metric;
        to->name_len = s->name_len;
        memcpy(to->name, s->name, sizeof(to->name));
        to->detector = s->detector;
        for (uint32_t k = 0; k < s->n_buckets; k++) {
            const struct metric_bucket *b = &s->buckets[k];
            if (b->hour >= now - PF_HOURS && b->hour <= now && b->n > 0)
                to->hours[to->n_hours++] = (struct pf_hour){b->hour, b->n, b->sum};
        }
    }
}

/* ---- how the bot speaks ---- */

static void count_definition(const struct metrics *m, struct pf_counts *c)
{
    c->has_character = m->has_character;
    if (!m->has_character)
        return;
    c->character_version = m->character.version;
    for (size_t i = 0; i < m->character.n_traits; i++) {
        const struct character_trait *t = &m->character.traits[i];
        pf_trait(c, (struct str){t->name, t->name_len})->defined += t->weight;
    }
}

static void count_folded(const struct metrics *m, struct pf_counts *c)
{
    const struct voice *v = &m->voice;
    struct pf_trait *by_index[VOICE_TRAITS + 1];
    int32_t now = metric_hour(c->as_of_us);
    for (uint32_t i = 0; i < v->n_names; i++)
        by_index[i] = pf_trait(c, (struct str){v->names[i].text, v->names[i].len});
    for (uint32_t i = v->n_names; i <= VOICE_TRAITS; i++)
        by_index[i] = &c->traits[PF_TRAITS - 1];
    for (uint32_t h = 0; h < v->n_hours && v->hours[h].hour <= now; h++)
        for (size_t i = 0; i <= VOICE_TRAITS; i++) {
            by_index[i]->all += v->hours[h].traits[i];
            by_index[i]->recent += v->hours[h].hour >= now - 24 ? v->hours[h].traits[i] : 0;
        }
    int32_t first = metric_first_day(c->as_of_us, c->window_hours);
    for (uint32_t d = 0; d < v->n_days && v->days[d].day <= kernel_day(c->as_of_us); d++) {
        bool inside = v->days[d].day >= first;
        c->vectors += inside ? v->days[d].n : 0;
        for (size_t i = 0; i < VOICE_DIMS; i++) {
            c->centroid[i] += v->days[d].sum[i];
            c->direction[i] += inside ? v->days[d].sum[i] : 0;
        }
    }
}

static void count_message(const struct key_log *log, const struct msg_rec *msg, struct pf_counts *c)
{
    int32_t now = metric_hour(c->as_of_us), hour = metric_hour(msg->t_us);
    size_t n = hour <= now ? msg_trait_count(msg) : 0;
    for (size_t i = 0; i < n; i++) {
        struct pf_trait *t = pf_trait(c, key_log_label(log, msg->traits.name[i]));
        t->all++;
        t->recent += hour >= now - 24;
    }
    int32_t day = kernel_day(msg->t_us);
    if (msg->n_vector == 0 || day > kernel_day(c->as_of_us))
        return;
    bool inside = day >= metric_first_day(c->as_of_us, c->window_hours);
    c->vectors += inside;
    for (size_t i = 0; i < msg->n_vector; i++) {
        int32_t part = voice_direction(msg->vector[i].weight, msg->norm2);
        c->centroid[msg->vector[i].bucket] += part;
        c->direction[msg->vector[i].bucket] += inside ? part : 0;
    }
}

static enum status count_all(const struct key_log *log, int window_hours, struct pf_counts *c)
{
    const struct metrics *m = log->metrics;
    c->as_of_us = log->as_of_us;
    c->window_hours = window_hours;
    if (!m)
        return STATUS_OK;
    int32_t now = metric_hour(c->as_of_us);
    for (int k = 0; k < METRIC_AVERAGED; k++)
        c->scores[k] = sum_of(m, (enum metric)k, now - window_hours, now + 1);
    count_steps(m, c);
    count_latencies(m, c);
    count_streams(m, c);
    count_definition(m, c);
    count_folded(m, c);
    for (size_t i = 0; i < log->n_messages; i++)
        count_message(log, &log->messages[i], c);
    return count_users(m, c);
}

static enum status performance_emit(void *state, const struct key_log *log, struct row *row,
                                    struct error *err)
{
    (void)state;
    struct pf_counts *c = calloc(1, sizeof(*c));
    if (!c || count_all(log, row->window_hours, c)) {
        free(c);
        return error_set(err, STATUS_NOMEM, "could not allocate the counts of a row");
    }
    enum status st = pf_row(c, row, err);
    free(c);
    return st;
}

/* What the streaming detectors said when the event had not come yet: the oddest of its streams. */
static enum status performance_trace(void *state, const struct key_log *log,
                                     const struct feature *f, struct str id, struct jsonw *w,
                                     struct error *err)
{
    (void)state, (void)err;
    if (f->type != EVENT_METRIC)
        return STATUS_END;
    bool alarm = false;
    double score = 0.0;
    for (size_t i = 0; log->metrics && i < f->u.metric.n_values; i++) {
        const struct metric_stream *s = metrics_stream(log->metrics, f->u.metric.values[i].stream);
        if (!s)
            continue;
        alarm |= detector_alarm(s->detector);
        score = fmax(score, detector_score(s->detector));
    }
    jsonw_object_begin(w);
    jsonw_key(w, "anomaly");
    jsonw_bool(w, alarm);
    jsonw_key(w, "id");
    jsonw_string(w, id);
    jsonw_key(w, "score");
    jsonw_number(w, score);
    jsonw_object_end(w);
    return STATUS_OK;
}

extern const struct engine_ops engine_character_performance;

const struct engine_ops engine_character_performance = {
    .name = "character_performance",
    .version = 1,
    .scope = ENGINE_BOT,
    .table = TABLE_PERFORMANCE_24H,
    .n_tables = 3,
    .kinds = 1u << RECORD_MESSAGE | 1u << RECORD_METRIC,
    .row_kinds = 1u << RECORD_METRIC,
    .trigger =
        {
            .count = 50,
            .max_age_us = 60 * US_PER_SECOND,
            .idle_us = 2 * US_PER_SECOND,
            .min_interval_us = 2 * US_PER_SECOND,
            .refresh_us = 210 * US_PER_SECOND,
            .refresh_jitter_us = 30 * US_PER_SECOND,
            .warm_us = 30 * US_PER_DAY,
            .recent_us = US_PER_DAY,
        },
    .weight = performance_weight,
    .urgent = performance_urgent,
    .emit = performance_emit,
    .trace_phase = TRACE_BEFORE,
    .trace = performance_trace,
};
