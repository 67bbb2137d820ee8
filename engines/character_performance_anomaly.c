#include "engines/character_performance_anomaly.h"

#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_MAX     16
#define HOUR_N_MIN    5  /* points before the mean of an hour is looked at */
#define HISTORY_HOURS 24 /* such hours before anything is called odd */
#define Z_FACTOR      0.6745
#define Z_MIN         3.5
#define SIGMA_FACTOR  1.4826 /* of the deviation behind a median absolute one */
#define CUSUM_SLACK   0.5    /* in deviations */
#define CUSUM_ALARM   5.0
#define SILENCE_GAPS  6 /* this many usual gaps without a point are a silence */
/* Parts of a stream's scale: 1 for scores, the size of its median for anything else. */
#define SPIKE_MIN 0.10
#define SHIFT_MIN 0.05
#define MAD_MIN   0.01

enum method { METHOD_CUSUM, METHOD_MAD, METHOD_SILENCE, METHOD_STREAMING };

struct anomaly {
    const struct pf_stream *stream;
    enum method method;
    const char *type;
    int64_t start_us;
    int64_t end_us;
    bool open; /* end_us is not the end */
    double value;
    double median;
    double strength; /* z, cusum in deviations, or the detector's score */
    int64_t n;
};

struct anomalies {
    const struct pf_counts *c;
    size_t n;
    struct anomaly items[SHOWN_MAX];
};

/* The hours of one stream with enough points, and what is usual among them. */
struct hourly {
    size_t n;
    const struct pf_hour *hours[PF_HOURS + 1];
    double means[PF_HOURS + 1];
    double median;
    double mad;
    double scale;
};

/* ---- the list ---- */

static bool is_newer(const struct anomaly *a, const struct anomaly *b)
{
    if (a->start_us != b->start_us)
        return a->start_us > b->start_us;
    if (a->stream->id != b->stream->id)
        return a->stream->id < b->stream->id;
    return a->method < b->method;
}

static void offer(struct anomalies *list, const struct anomaly *a)
{
    int64_t hour = metric_hour(list->c->as_of_us);
    if (!a->open && a->end_us <= (hour - list->c->window_hours) * US_PER_HOUR)
        return;
    size_t at = list->n;
    while (at > 0 && is_newer(a, &list->items[at - 1]))
        at--;
    if (at == SHOWN_MAX)
        return;
    size_t last = list->n < SHOWN_MAX ? list->n++ : SHOWN_MAX - 1;
    memmove(&list->items[at + 1], &list->items[at], (last - at) * sizeof(*a));
    list->items[at] = *a;
}

/* ---- what is usual ---- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare_doubles);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2.0;
}

static double mean_of(const struct pf_hour *h)
{
    return (double)h->sum / h->n / METRIC_SCALE;
}

static void find_usual(const struct pf_stream *s, struct hourly *h)
{
    double sorted[PF_HOURS + 1];
    h->n = 0;
    for (size_t i = 0; i < s->n_hours; i++) {
        if (s->hours[i].n < HOUR_N_MIN)
            continue;
        h->hours[h->n] = &s->hours[i];
        h->means[h->n] = sorted[h->n] = mean_of(&s->hours[i]);
        h->n++;
    }
    if (h->n < HISTORY_HOURS)
        return;
    h->median = median_of(sorted, h->n);
    for (size_t i = 0; i < h->n; i++)
        sorted[i] = fabs(h->means[i] - h->median);
    h->scale = metric_is_score(s->metric) ? 1.0 : fmax(fabs(h->median), 1e-6);
    h->mad = fmax(median_of(sorted, h->n), MAD_MIN * h->scale);
}

/* Scores matter when they fall, latencies when they rise, other numbers both ways. */
static bool matters(enum metric metric, int direction)
{
    if (metric_is_score(metric))
        return direction < 0;
    return metric_is_latency(metric) ? direction > 0 : true;
}

static const char *type_of(enum metric metric, bool shift)
{
    if (metric_is_score(metric))
        return shift ? "quality_shift" : "quality_drop";
    if (metric_is_latency(metric))
        return "latency_spike";
    return shift ? "metric_shift" : "metric_spike";
}

static int64_t start_of(const struct pf_hour *h)
{
    return h->hour * US_PER_HOUR;
}

static bool is_running(const struct anomalies *list, const struct pf_hour *h)
{
    return h->hour == metric_hour(list->c->as_of_us);
}

/* ---- hours far from the median ---- */

static double z_of(const struct hourly *h, size_t i)
{
    return Z_FACTOR * (h->means[i] - h->median) / h->mad;
}

/* 1 or -1 when hour i is far above or below the others. */
static int spike_at(const struct pf_stream *s, const struct hourly *h, size_t i)
{
    double z = z_of(h, i);
    int direction = z > 0 ? 1 : -1;
    bool far = fabs(z) > Z_MIN && fabs(h->means[i] - h->median) >= SPIKE_MIN * h->scale;
    return far && matters(s->metric, direction) ? direction : 0;
}

static void look_for_spikes(struct anomalies *list, const struct pf_stream *s,
                            const struct hourly *h)
{
    for (size_t first = 0, next = 0; first < h->n; first = next) {
        int direction = spike_at(s, h, first);
        size_t worst = first;
        next = first + 1;
        if (!direction)
            continue;
        while (next < h->n && h->hours[next]->hour == h->hours[next - 1]->hour + 1 &&
               spike_at(s, h, next) == direction) {
            if (fabs(z_of(h, next)) > fabs(z_of(h, worst)))
                worst = next;
            next++;
        }
        struct anomaly a = {.stream = s,
                            .method = METHOD_MAD,
                            .type = type_of(s->metric, false),
                            .start_us = start_of(h->hours[first]),
                            .end_us = start_of(h->hours[next - 1]) + US_PER_HOUR,
                            .open = is_running(list, h->hours[next - 1]),
                            .value = h->means[worst],
                            .median = h->median,
                            .strength = z_of(h, worst),
                            .n = h->hours[worst]->n};
        offer(list, &a);
    }
}

/* ---- a level that moved ---- */

/* From the hour where the sum left zero to the one where it was largest: the shift itself. */
static void offer_shift(struct anomalies *list, const struct pf_stream *s, const struct hourly *h,
                        size_t first, size_t peak, double strength)
{
    int128 sum = 0;
    int64_t n = 0;
    for (size_t i = first; i <= peak; i++) {
        sum += h->hours[i]->sum;
        n += h->hours[i]->n;
    }
    double value = (double)sum / (double)n / METRIC_SCALE;
    if (strength <= CUSUM_ALARM || fabs(value - h->median) < SHIFT_MIN * h->scale)
        return;
    struct anomaly a = {.stream = s,
                        .method = METHOD_CUSUM,
                        .type = type_of(s->metric, true),
                        .start_us = start_of(h->hours[first]),
                        .end_us = start_of(h->hours[peak]) + US_PER_HOUR,
                        .open = is_running(list, h->hours[peak]),
                        .value = value,
                        .median = h->median,
                        .strength = strength,
                        .n = n};
    offer(list, &a);
}

static void look_for_shifts(struct anomalies *list, const struct pf_stream *s,
                            const struct hourly *h, int direction)
{
    double sigma = SIGMA_FACTOR * h->mad, sum = 0.0, largest = 0.0;
    size_t first = 0, peak = 0;
    for (size_t i = 0; i < h->n; i++) {
        double before = sum;
        sum += direction * (h->means[i] - h->median) / sigma - CUSUM_SLACK;
        if (sum <= 0.0) {
            if (before > 0.0)
                offer_shift(list, s, h, first, peak, largest);
            sum = 0.0;
            continue;
        }
        if (before <= 0.0) {
            first = i;
            largest = 0.0;
        }
        if (sum > largest) {
            largest = sum;
            peak = i;
        }
    }
    if (sum > 0.0)
        offer_shift(list, s, h, first, peak, largest);
}

/* ---- hours without points ---- */

static int compare_hours(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The gap that 95 % are no longer than: a pause of every night is usual. */
static int32_t usual_gap(const struct pf_stream *s)
{
    int32_t gaps[PF_HOURS];
    size_t n = s->n_hours - 1;
    for (size_t i = 0; i < n; i++)
        gaps[i] = s->hours[i + 1].hour - s->hours[i].hour;
    qsort(gaps, n, sizeof(*gaps), compare_hours);
    return gaps[(n * 95 + 99) / 100 - 1];
}

static void look_for_silences(struct anomalies *list, const struct pf_stream *s)
{
    if (s->n_hours < HISTORY_HOURS)
        return;
    int32_t usual = usual_gap(s);
    for (size_t i = 0; i < s->n_hours; i++) {
        bool open = i + 1 == s->n_hours;
        int32_t until = open ? metric_hour(list->c->as_of_us) : s->hours[i + 1].hour;
        int32_t gap = until - s->hours[i].hour;
        if (gap <= SILENCE_GAPS * usual)
            continue;
        struct anomaly a = {.stream = s,
                            .method = METHOD_SILENCE,
                            .type = "metric_silence",
                            .start_us = start_of(&s->hours[i]) + US_PER_HOUR,
                            .end_us = until * US_PER_HOUR,
                            .open = open,
                            .value = gap,
                            .median = usual,
                            .n = (int64_t)s->n_hours - 1};
        offer(list, &a);
    }
}

/* ---- what the streaming detector found ---- */

static void take_episodes(struct anomalies *list, const struct pf_stream *s)
{
    for (uint32_t i = 0; i < s->detector->n_episodes; i++) {
        const struct detector_episode *e = &s->detector->episodes[i];
        if (e->start_us > list->c->as_of_us)
            continue;
        bool rises_well = metric_is_score(s->metric) && e->value > e->level;
        struct anomaly a = {.stream = s,
                            .method = METHOD_STREAMING,
                            .type = type_of(s->metric, rises_well),
                            .start_us = e->start_us,
                            .end_us = e->end_us,
                            .open = e->open,
                            .value = e->value,
                            .median = e->level,
                            .strength = e->peak,
                            .n = e->n};
        offer(list, &a);
    }
}

/* ---- the column ---- */

static void write_strength(struct jsonw *w, const struct anomaly *a, enum method method,
                           const char *key)
{
    if (a->method != method)
        return;
    jsonw_key(w, key);
    jsonw_number(w, a->strength);
}

static void write_anomaly(struct jsonw *w, const struct anomaly *a)
{
    static const char *const methods[] = {[METHOD_CUSUM] = "cusum",
                                          [METHOD_MAD] = "mad",
                                          [METHOD_SILENCE] = "silence",
                                          [METHOD_STREAMING] = "streaming"};
    struct str name = {a->stream->name, a->stream->name_len};
    if (a->stream->metric != METRIC_OTHER)
        name = str_from(metric_name(a->stream->metric));
    jsonw_object_begin(w);
    write_strength(w, a, METHOD_CUSUM, "cusum");
    jsonw_key(w, "end");
    if (a->open)
        jsonw_null(w);
    else
        jsonw_time(w, a->end_us);
    jsonw_key(w, "median");
    jsonw_number(w, a->median);
    jsonw_key(w, "method");
    jsonw_string(w, str_from(methods[a->method]));
    jsonw_key(w, "metric");
    jsonw_string(w, name);
    jsonw_key(w, "n");
    jsonw_int(w, a->n);
    write_strength(w, a, METHOD_STREAMING, "score");
    jsonw_key(w, "start");
    jsonw_time(w, a->start_us);
    jsonw_key(w, "type");
    jsonw_string(w, str_from(a->type));
    jsonw_key(w, "value");
    jsonw_number(w, a->value);
    write_strength(w, a, METHOD_MAD, "z");
    jsonw_object_end(w);
}

enum status pf_put_anomalies(const struct pf_counts *c, struct row *row)
{
    struct anomalies list = {.c = c};
    size_t history = 0;
    for (size_t i = 0; i < c->n_streams; i++) {
        const struct pf_stream *s = &c->streams[i];
        struct hourly h;
        find_usual(s, &h);
        if (h.n > history)
            history = h.n;
        if (h.n >= HISTORY_HOURS) {
            look_for_spikes(&list, s, &h);
            for (int direction = -1; direction <= 1; direction += 2)
                if (matters(s->metric, direction))
                    look_for_shifts(&list, s, &h, direction);
        }
        look_for_silences(&list, s);
        take_episodes(&list, s);
    }
    if (list.n == 0 && history < HISTORY_HOURS)
        return row_set_null(row, PF_RECENT_ANOMALIES, "insufficient_data: have %zu, need %d",
                            history, HISTORY_HOURS);
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, LIMIT_JSON_BYTES); /* 16 of the longest items are 4 KiB */
    jsonw_init(&w, &json);
    jsonw_array_begin(&w);
    for (size_t i = 0; i < list.n; i++)
        write_anomaly(&w, &list.items[i]);
    jsonw_array_end(&w);
    enum status st = jsonw_status(&w);
    return st ? st : row_set_json(row, PF_RECENT_ANOMALIES, (struct str){json.data, json.len});
}
