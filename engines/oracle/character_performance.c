/*
 * The naive twin of engines/character_performance.c: every sum of every window by a loop over every
 * point and every bot message. Shares only the formulas that turn counts into a row.
 */
#include "core/clock.h"
#include "engines/character_performance_row.h"
#include "engines/oracle/live.h"
#include "engines/oracle/view.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct world {
    const struct oracle_view *v;
    const struct points *points;
    struct pf_counts *c;
    int64_t hour_us; /* T rounded down */
};

static bool is_live(const struct world *w, const struct point *p)
{
    return point_is_live(p, w->v->as_of_us);
}

static void add(struct pf_sum *s, const struct point *p)
{
    s->n++;
    s->sum += p->value;
    s->sum2 += (int128)p->value * p->value;
}

/* ---- sums of windows, days and hours ---- */

static void sum_scores(struct world *w)
{
    int64_t from_us = w->hour_us - w->c->window_hours * US_PER_HOUR;
    for (size_t i = 0; i < w->points->n; i++) {
        const struct point *p = &w->points->all[i];
        if (is_live(w, p) && p->metric <= METRIC_QUALITY && p->t_us >= from_us &&
            p->t_us < w->hour_us + US_PER_HOUR)
            add(&w->c->scores[p->metric], p);
    }
}

static void sum_step(struct world *w, int64_t from_us, int64_t to_us)
{
    struct pf_step *step = &w->c->steps[w->c->n_steps++];
    for (size_t i = 0; i < w->points->n; i++) {
        const struct point *p = &w->points->all[i];
        if (!is_live(w, p) || p->t_us < from_us || p->t_us >= to_us)
            continue;
        if (p->metric == METRIC_ENGAGEMENT)
            add(&step->quality[USER_ENGAGEMENT], p);
        if (p->metric == METRIC_SATISFACTION)
            add(&step->quality[USER_SATISFACTION], p);
        if (p->metric == METRIC_COHERENCE)
            add(&step->quality[USER_COHERENCE], p);
        if (p->metric == METRIC_NATURAL_FLOW || p->metric == METRIC_TOPIC_RELEVANCE)
            add(&step->quality[USER_FLOW], p);
    }
}

static void sum_steps(struct world *w)
{
    int64_t from_us = w->hour_us - w->c->window_hours * US_PER_HOUR;
    if (w->c->window_hours == 24) {
        for (int64_t t = from_us; t < w->hour_us; t += US_PER_HOUR)
            sum_step(w, t, t + US_PER_HOUR);
        return;
    }
    int64_t day_us = time_floor_us(from_us + US_PER_DAY - 1, US_PER_DAY);
    for (; day_us + US_PER_DAY <= w->hour_us; day_us += US_PER_DAY)
        sum_step(w, day_us, day_us + US_PER_DAY);
}

static void sum_hours(const struct world *w, uint64_t stream, struct pf_stream *to)
{
    struct pf_hour hours[168 + 1] = {0};
    int64_t first_us = w->hour_us - 168 * US_PER_HOUR;
    for (size_t i = 0; i < w->points->n; i++) {
        const struct point *p = &w->points->all[i];
        if (!is_live(w, p) || p->stream != stream || p->t_us < first_us ||
            p->t_us >= w->hour_us + US_PER_HOUR)
            continue;
        struct pf_hour *h = &hours[(p->t_us - first_us) / US_PER_HOUR];
        h->n++;
        h->sum += p->value;
    }
    for (size_t i = 0; i <= 168; i++) {
        hours[i].hour = (int32_t)(first_us / US_PER_HOUR + (int64_t)i);
        if (hours[i].n)
            to->hours[to->n_hours++] = hours[i];
    }
}

static void sum_streams(struct world *w)
{
    for (size_t s = 0; s < w->points->n_streams; s++) {
        /* By id: the streams stand in order of appearance. */
        const struct point_stream *from = NULL;
        for (size_t i = 0; i < w->points->n_streams; i++) {
            const struct point_stream *o = &w->points->streams[i];
            bool behind = w->c->n_streams == 0 || o->id > w->c->streams[w->c->n_streams - 1].id;
            if (behind && (!from || o->id < from->id))
                from = o;
        }
        assert(from);
        struct pf_stream *to = &w->c->streams[w->c->n_streams++];
        to->id = from->id;
        to->metric = from->metric;
        to->name_len = from->name_len;
        memcpy(to->name, from->name, sizeof(to->name));
        to->detector = &from->detector;
        sum_hours(w, from->id, to);
    }
}

/* ---- by days that the window touches ---- */

static bool in_days(const struct world *w, int64_t t_us)
{
    int64_t from_us = time_floor_us(w->hour_us - w->c->window_hours * US_PER_HOUR, US_PER_DAY);
    return t_us >= from_us && t_us < time_floor_us(w->v->as_of_us, US_PER_DAY) + US_PER_DAY;
}

static int user_metric_of(enum metric metric)
{
    switch (metric) {
    case METRIC_ENGAGEMENT:
        return USER_ENGAGEMENT;
    case METRIC_SATISFACTION:
        return USER_SATISFACTION;
    case METRIC_COHERENCE:
        return USER_COHERENCE;
    case METRIC_NATURAL_FLOW:
    case METRIC_TOPIC_RELEVANCE:
        return USER_FLOW;
    case METRIC_EMOTIONAL_RESONANCE:
    case METRIC_AUTHENTICITY:
    case METRIC_QUALITY:
    case METRIC_REACTION:
    case METRIC_RESPONSE_TIME:
    case METRIC_SEARCH_TIME:
    case METRIC_ANALYSIS_TIME:
    case METRIC_OTHER:
    case METRIC_COUNT:
        break;
    }
    return -1;
}

static bool counts_for_user(const struct world *w, const struct point *p)
{
    return is_live(w, p) && p->user && user_metric_of(p->metric) >= 0 && in_days(w, p->t_us);
}

static void sum_user(struct world *w, uint64_t user)
{
    int64_t n[USER_METRICS] = {0}, sum[USER_METRICS] = {0};
    for (size_t i = 0; i < w->points->n; i++) {
        const struct point *p = &w->points->all[i];
        if (!counts_for_user(w, p) || p->user != user)
            continue;
        n[user_metric_of(p->metric)]++;
        sum[user_metric_of(p->metric)] += p->value;
    }
    w->c->users++;
    for (int k = 0; k < USER_METRICS; k++)
        if (n[k]) {
            w->c->balanced_n[k]++;
            w->c->balanced_sum[k] += (int128)sum[k] * 1000 / n[k];
        }
}

static int compare_users(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static enum status sum_users(struct world *w)
{
    w->c->users_known = w->c->window_hours <= 168;
    if (!w->c->users_known)
        return STATUS_OK;
    uint64_t *users = calloc(w->points->n + 1, sizeof(*users));
    if (!users)
        return STATUS_NOMEM;
    size_t n = 0;
    for (size_t i = 0; i < w->points->n; i++)
        if (counts_for_user(w, &w->points->all[i]))
            users[n++] = w->points->all[i].user;
    qsort(users, n, sizeof(*users), compare_users);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || users[i] != users[i - 1])
            sum_user(w, users[i]);
    free(users);
    return STATUS_OK;
}

static void sum_latencies(struct world *w)
{
    for (size_t i = 0; i < w->points->n; i++) {
        const struct point *p = &w->points->all[i];
        /* Whole days: the first one's points stay until the day has left the 30 days. */
        bool kept =
            p->counted && p->t_us >= time_floor_us(w->hour_us - 30 * US_PER_DAY, US_PER_DAY);
        if (!kept || p->metric < METRIC_RESPONSE_TIME || p->metric > METRIC_ANALYSIS_TIME ||
            !in_days(w, p->t_us))
            continue;
        double ms = floor((double)p->value / 1e6 + 0.5);
        ms = ms < 0 ? 0 : ms > 65535 ? 65535 : ms;
        w->c->latencies[p->metric - METRIC_RESPONSE_TIME][hist_bucket((uint32_t)ms)]++;
    }
}

/* ---- how the bot speaks ---- */

static void add_trait(struct world *w, struct pf_trait *t, int64_t t_us)
{
    if (t_us >= w->hour_us + US_PER_HOUR)
        return;
    t->all++;
    t->recent += t_us >= w->hour_us - 24 * US_PER_HOUR;
}

static void sum_vector(struct world *w, const struct feature *f)
{
    const struct msg_rec *m = &f->u.message;
    if (m->n_vector == 0 || f->t_us >= time_floor_us(w->v->as_of_us, US_PER_DAY) + US_PER_DAY)
        return;
    bool inside = in_days(w, f->t_us);
    w->c->vectors += inside;
    for (size_t i = 0; i < m->n_vector; i++) {
        double part = m->vector[i].weight * (double)VOICE_UNIT / sqrt(m->norm2);
        w->c->centroid[m->vector[i].bucket] += lround(part);
        w->c->direction[m->vector[i].bucket] += inside ? lround(part) : 0;
    }
}

static void add_traits(struct world *w, const struct feature *f)
{
    for (size_t k = 0; k < f->n_traits; k++)
        if (f->t_us < w->hour_us + US_PER_HOUR)
            add_trait(w, pf_trait(w->c, f->traits[k]), f->t_us);
}

/* Traits stay for 30 days of hours, vectors until the day that this begins in is over. */
static void sum_folded(struct world *w)
{
    int64_t horizon_us = w->hour_us - 30 * US_PER_DAY;
    for (size_t i = 0; i < w->v->folded->n; i++) {
        const struct feature *f = &w->v->folded->items[i].f;
        if (f->t_us >= horizon_us)
            add_traits(w, f);
        if (f->t_us >= time_floor_us(horizon_us, US_PER_DAY))
            sum_vector(w, f);
    }
}

static void sum_traits(struct world *w)
{
    const struct points *p = w->points;
    w->c->has_character = p->has_character;
    w->c->character_version = p->has_character ? p->character.version : 0;
    for (size_t i = 0; p->has_character && i < p->character.n_traits; i++) {
        const struct character_trait *t = &p->character.traits[i];
        pf_trait(w->c, (struct str){t->name, t->name_len})->defined += t->weight;
    }
    sum_folded(w);
    for (size_t i = 0; i < w->v->n_messages; i++) {
        const struct feature *f = w->v->messages[i];
        add_traits(w, f);
        sum_vector(w, f);
    }
}

static enum status naive_emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct world w = {.v = view,
                      .points = view->points,
                      .c = calloc(1, sizeof(*w.c)),
                      .hour_us = time_floor_us(view->as_of_us, US_PER_HOUR)};
    if (!w.c)
        return error_set(err, STATUS_NOMEM, "could not allocate the counts of a row");
    w.c->as_of_us = view->as_of_us;
    w.c->window_hours = row->window_hours;
    sum_scores(&w);
    sum_steps(&w);
    sum_streams(&w);
    sum_latencies(&w);
    sum_traits(&w);
    enum status st = STATUS_OK;
    if (sum_users(&w))
        st = error_set(err, STATUS_NOMEM, "could not allocate the users of a bot");
    st = st ? st : pf_row(w.c, row, err);
    free(w.c);
    return st;
}

extern const struct oracle_ops oracle_character_performance;

const struct oracle_ops oracle_character_performance = {
    .engine = "character_performance",
    .emit = naive_emit,
};
