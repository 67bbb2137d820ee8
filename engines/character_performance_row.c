#include "engines/character_performance_row.h"

#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/character_performance_anomaly.h"
#include "engines/tables.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MIN      5  /* before an average is named, and for a day or hour to count */
#define DAYS_MIN        5  /* before a trend is */
#define HOURS_MIN       12 /* the same in the window of a day */
#define TREND_TOTAL_MIN 0.05
#define PCI_METRIC_MIN  10
#define PCI_TRAITS_MIN  50
#define PCI_VECTORS_MIN 50
#define CONFIDENCE_N0   100.0

/* What the columns share. */
struct findings {
    const struct pf_counts *c;
    struct pf_sum coherence;
    enum user_metric coherence_source; /* USER_COHERENCE or USER_FLOW */
    size_t n_quality;
    double quality[PF_STEPS_MAX];
    struct trend trend;
    bool has_trend;
    const char *pci_method; /* NULL: none applies */
    double pci;
};

struct pf_trait *pf_trait(struct pf_counts *c, struct str name)
{
    for (size_t i = 0; i < c->n_traits; i++)
        if (str_equal(name, (struct str){c->traits[i].name, c->traits[i].name_len}))
            return &c->traits[i];
    if (c->n_traits + 1 >= PF_TRAITS || name.len == 0 || name.len > TRAIT_NAME_BYTES)
        return &c->traits[PF_TRAITS - 1];
    struct pf_trait *added = &c->traits[c->n_traits++];
    memcpy(added->name, name.ptr, name.len);
    added->name_len = name.len;
    return added;
}

static double mean_of(const struct pf_sum *s)
{
    return (double)s->sum / (double)s->n / METRIC_SCALE;
}

static double deviation_of(const struct pf_sum *s)
{
    int128 n = (int128)s->n;
    int128 top = n * s->sum2 - s->sum * s->sum;
    double variance = (double)top / ((double)s->n * (double)(s->n - 1));
    return sqrt(fmax(0.0, variance)) / METRIC_SCALE;
}

/* ---- averages ---- */

static void choose_coherence(struct findings *f)
{
    const struct pf_sum *own = &f->c->scores[METRIC_COHERENCE];
    const struct pf_sum *flow = &f->c->scores[METRIC_NATURAL_FLOW];
    const struct pf_sum *relevance = &f->c->scores[METRIC_TOPIC_RELEVANCE];
    struct pf_sum both = {flow->n + relevance->n, flow->sum + relevance->sum,
                          flow->sum2 + relevance->sum2};
    bool use_own = own->n >= POINTS_MIN || both.n < POINTS_MIN;
    f->coherence = use_own ? *own : both;
    f->coherence_source = use_own ? USER_COHERENCE : USER_FLOW;
}

static enum status put_average(struct row *row, size_t column, const struct pf_sum *s)
{
    if (s->n < POINTS_MIN)
        return row_set_null(row, column, "insufficient_data: have %llu, need %d",
                            (unsigned long long)s->n, POINTS_MIN);
    row_set_float(row, column, mean_of(s));
    return STATUS_OK;
}

static enum status put_averages(const struct findings *f, struct row *row)
{
    enum status st = put_average(row, PF_ENGAGEMENT_SCORE_AVG, &f->c->scores[METRIC_ENGAGEMENT]);
    st = st ? st : put_average(row, PF_SATISFACTION_SCORE_AVG, &f->c->scores[METRIC_SATISFACTION]);
    return st ? st : put_average(row, PF_COHERENCE_SCORE_AVG, &f->coherence);
}

/* ---- trend ---- */

static void find_quality(struct findings *f)
{
    const enum user_metric parts[] = {USER_ENGAGEMENT, USER_SATISFACTION, f->coherence_source};
    for (size_t i = 0; i < f->c->n_steps; i++) {
        uint64_t n = 0;
        double sum = 0.0;
        int available = 0;
        for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++) {
            const struct pf_sum *s = &f->c->steps[i].quality[parts[k]];
            if (s->n == 0)
                continue;
            n += s->n;
            sum += mean_of(s);
            available++;
        }
        if (n >= POINTS_MIN)
            f->quality[f->n_quality++] = sum / available;
    }
}

static enum status put_trend(struct findings *f, struct row *row)
{
    size_t needed = f->c->window_hours == 24 ? HOURS_MIN : DAYS_MIN;
    find_quality(f);
    if (f->n_quality < needed)
        return row_set_null(row, PF_QUALITY_TREND, "insufficient_data: have %zu, need %zu",
                            f->n_quality, needed);
    f->trend = kernel_trend(f->quality, f->n_quality);
    f->has_trend = true;
    double total = f->trend.slope * (double)(f->n_quality - 1);
    bool up = f->trend.z >= TREND_Z && total >= TREND_TOTAL_MIN;
    bool down = f->trend.z <= -TREND_Z && total <= -TREND_TOTAL_MIN;
    return row_set_text(row, PF_QUALITY_TREND,
                        up     ? STR("improving")
                        : down ? STR("declining")
                               : STR("stable"));
}

/* ---- personality consistency ---- */

static int compare_traits(const void *a, const void *b)
{
    const struct pf_trait *x = a, *y = b;
    size_t shorter = x->name_len < y->name_len ? x->name_len : y->name_len;
    int order = memcmp(x->name, y->name, shorter);
    return order ? order : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

/* 1 - sqrt(JSD) of the last day's traits against what they should be, or were. Sorted by name: a
 * sum of doubles has an order. */
static bool find_by_traits(struct findings *f)
{
    struct pf_trait sorted[PF_TRAITS];
    double recent[PF_TRAITS], reference[PF_TRAITS];
    uint64_t n_recent = 0, n_all = 0, defined = 0;
    memcpy(sorted, f->c->traits, sizeof(sorted));
    qsort(sorted, f->c->n_traits, sizeof(*sorted), compare_traits);
    for (size_t i = 0; i < PF_TRAITS; i++) {
        n_recent += sorted[i].recent;
        n_all += sorted[i].all;
        defined += sorted[i].defined;
    }
    if (n_recent < PCI_TRAITS_MIN || (defined == 0 && n_all < PCI_TRAITS_MIN))
        return false;
    for (size_t i = 0; i < PF_TRAITS; i++) {
        recent[i] = sorted[i].recent;
        reference[i] = defined ? sorted[i].defined : sorted[i].all;
    }
    f->pci = 1.0 - sqrt(kernel_divergence(recent, reference, PF_TRAITS));
    f->pci_method = defined ? "traits_definition" : "traits_history";
    return true;
}

static bool find_by_vectors(struct findings *f)
{
    int128 dot = 0, norm2 = 0;
    for (size_t i = 0; i < VOICE_DIMS; i++) {
        dot += (int128)f->c->direction[i] * f->c->centroid[i];
        norm2 += (int128)f->c->centroid[i] * f->c->centroid[i];
    }
    if (f->c->vectors < PCI_VECTORS_MIN || norm2 == 0)
        return false;
    double mean = (double)dot / sqrt((double)norm2) / VOICE_UNIT / (double)f->c->vectors;
    f->pci = fmin(1.0, fmax(0.0, mean));
    f->pci_method = "vectors";
    return true;
}

static enum status put_consistency(struct findings *f, struct row *row)
{
    const struct pf_sum *measured = &f->c->scores[METRIC_AUTHENTICITY];
    if (measured->n >= PCI_METRIC_MIN) {
        f->pci = mean_of(measured);
        f->pci_method = "metric";
    } else if (!find_by_traits(f) && !find_by_vectors(f)) {
        return row_set_null(row, PF_PERSONALITY_CONSISTENCY_INDEX,
                            "insufficient_data: have %llu points and %u messages, need %d or %d",
                            (unsigned long long)measured->n, f->c->vectors, PCI_METRIC_MIN,
                            PCI_VECTORS_MIN);
    }
    row_set_float(row, PF_PERSONALITY_CONSISTENCY_INDEX, f->pci);
    return STATUS_OK;
}

/* ---- details ---- */

/* The averaged metrics in the order of their names. */
static const enum metric by_name[METRIC_AVERAGED] = {
    METRIC_AUTHENTICITY, METRIC_COHERENCE, METRIC_EMOTIONAL_RESONANCE, METRIC_ENGAGEMENT,
    METRIC_NATURAL_FLOW, METRIC_QUALITY,   METRIC_SATISFACTION,        METRIC_TOPIC_RELEVANCE};

static void write_n(struct jsonw *w, const struct findings *f)
{
    jsonw_object_begin(w);
    for (size_t i = 0; i < METRIC_AVERAGED; i++) {
        uint64_t n = f->c->scores[by_name[i]].n;
        if (n == 0)
            continue;
        jsonw_key(w, metric_name(by_name[i]));
        jsonw_int(w, (int64_t)n);
    }
    jsonw_object_end(w);
}

static void write_sd(struct jsonw *w, const struct findings *f)
{
    jsonw_object_begin(w);
    for (size_t i = 0; i < METRIC_AVERAGED; i++) {
        const struct pf_sum *s = &f->c->scores[by_name[i]];
        if (s->n < POINTS_MIN)
            continue;
        jsonw_key(w, metric_name(by_name[i]));
        jsonw_number(w, deviation_of(s));
    }
    jsonw_object_end(w);
}

static void write_balanced(struct jsonw *w, const struct findings *f)
{
    const struct {
        const char *name;
        enum user_metric metric;
    } parts[] = {{"coherence", f->coherence_source},
                 {"engagement", USER_ENGAGEMENT},
                 {"satisfaction", USER_SATISFACTION}};
    if (!f->c->users_known || f->c->users == 0) {
        jsonw_null(w);
        return;
    }
    jsonw_object_begin(w);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        uint32_t n = f->c->balanced_n[parts[i].metric];
        if (n == 0)
            continue;
        jsonw_key(w, parts[i].name);
        jsonw_number(w, (double)f->c->balanced_sum[parts[i].metric] / n / 1e9);
    }
    jsonw_object_end(w);
}

static void write_trend(struct jsonw *w, const struct findings *f)
{
    bool by_hour = f->c->window_hours == 24;
    jsonw_object_begin(w);
    jsonw_key(w, "S");
    jsonw_int(w, f->trend.s);
    jsonw_key(w, by_hour ? "hours" : "days");
    jsonw_int(w, (int64_t)f->n_quality);
    jsonw_key(w, "slope_per_day");
    jsonw_number(w, by_hour ? f->trend.slope * 24.0 : f->trend.slope);
    jsonw_key(w, "z");
    jsonw_number(w, f->trend.z);
    jsonw_object_end(w);
}

static uint64_t latency_total(const uint32_t counts[HIST_BUCKETS])
{
    uint64_t n = 0;
    for (size_t b = 0; b < HIST_BUCKETS; b++)
        n += counts[b];
    return n;
}

static void write_latency(struct jsonw *w, const uint32_t counts[HIST_BUCKETS])
{
    static const struct {
        const char *name;
        unsigned percent;
    } ranks[] = {{"p50", 50}, {"p95", 95}, {"p99", 99}};
    uint64_t n = latency_total(counts);
    jsonw_object_begin(w);
    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        uint64_t rank = (n * ranks[i].percent + 99) / 100, seen = counts[0];
        size_t b = 0;
        while (seen < rank)
            seen += counts[++b];
        jsonw_key(w, ranks[i].name);
        jsonw_int(w, hist_value(b));
    }
    jsonw_object_end(w);
}

struct detail {
    struct row *row;
    struct buf json;
    struct jsonw w;
};

static struct jsonw *detail_begin(struct detail *d)
{
    buf_reset(&d->json);
    jsonw_init(&d->w, &d->json);
    return &d->w;
}

static enum status detail_end(struct detail *d, const char *key)
{
    enum status st = jsonw_status(&d->w);
    return st ? st : row_add_detail(d->row, key, (struct str){d->json.data, d->json.len});
}

static enum status put_latency(struct detail *d, const struct findings *f)
{
    for (int k = 0; k < METRIC_LATENCIES; k++) {
        const uint32_t *counts = f->c->latencies[k];
        if (latency_total(counts) == 0)
            continue;
        write_latency(detail_begin(d), counts);
        enum status st = detail_end(d, "latency_ms");
        if (st)
            return st;
        jsonw_string(detail_begin(d), str_from(metric_name(METRIC_RESPONSE_TIME + k)));
        return detail_end(d, "latency_source");
    }
    return STATUS_OK;
}

static enum status put_sources(struct detail *d, const struct findings *f)
{
    enum status st = STATUS_OK;
    if (f->coherence.n >= POINTS_MIN) {
        jsonw_string(detail_begin(d), f->coherence_source == USER_COHERENCE
                                          ? STR("coherence_score")
                                          : STR("natural_flow+topic_relevance"));
        st = detail_end(d, "coherence_source");
    }
    if (!st && f->pci_method) {
        jsonw_string(detail_begin(d), str_from(f->pci_method));
        st = detail_end(d, "pci_method");
    }
    if (!st && f->c->has_character) {
        jsonw_int(detail_begin(d), f->c->character_version);
        st = detail_end(d, "character_version");
    }
    return st;
}

static enum status put_details(const struct findings *f, struct row *row)
{
    struct detail d = {.row = row};
    buf_init(&d.json, LIMIT_DETAILS_BYTES);
    write_n(detail_begin(&d), f);
    enum status st = detail_end(&d, "n");
    if (!st) {
        write_sd(detail_begin(&d), f);
        st = detail_end(&d, "sd");
    }
    if (!st) {
        write_balanced(detail_begin(&d), f);
        st = detail_end(&d, "user_balanced");
    }
    if (!st && f->c->users_known) {
        jsonw_int(detail_begin(&d), f->c->users);
        st = detail_end(&d, "users");
    }
    if (!st && f->has_trend) {
        write_trend(detail_begin(&d), f);
        st = detail_end(&d, "trend");
    }
    st = st ? st : put_latency(&d, f);
    st = st ? st : put_sources(&d, f);
    buf_deinit(&d.json);
    return st;
}

/* ---- the row ---- */

static void put_confidence(const struct findings *f, struct row *row)
{
    uint64_t n = 0;
    for (size_t i = 0; i < METRIC_AVERAGED; i++)
        n += f->c->scores[i].n;
    uint64_t covered = (f->c->scores[METRIC_ENGAGEMENT].n >= POINTS_MIN) +
                       (f->c->scores[METRIC_SATISFACTION].n >= POINTS_MIN) +
                       (f->coherence.n >= POINTS_MIN);
    row->confidence = kernel_confidence(n, CONFIDENCE_N0, covered, 3);
}

enum status pf_row(const struct pf_counts *c, struct row *row, struct error *err)
{
    struct findings f = {.c = c};
    choose_coherence(&f);
    enum status st = put_averages(&f, row);
    st = st ? st : put_trend(&f, row);
    st = st ? st : put_consistency(&f, row);
    st = st ? st : pf_put_anomalies(c, row);
    st = st ? st : put_details(&f, row);
    if (st)
        return error_set(err, st, "could not build the character performance row");
    row->state_flags |= ROW_NO_TZ;
    if (f.pci_method && strcmp(f.pci_method, "vectors") == 0)
        row->state_flags |= ROW_LEXICAL;
    put_confidence(&f, row);
    /* Every window moves on with the hour. */
    int64_t until_us = time_floor_us(c->as_of_us, US_PER_HOUR) + US_PER_HOUR;
    if (row->valid_until_us == 0 || until_us < row->valid_until_us)
        row->valid_until_us = until_us;
    return STATUS_OK;
}
