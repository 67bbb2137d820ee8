#include "engines/memory_behavior_row.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/kernels.h"
#include "engines/tables.h"

#include <assert.h>
#include <math.h>

#define ACCESSES_MIN       20 /* before a curve is fitted or a score given */
#define PRIOR_D            0.5
#define SPACING_EVENTS_MIN 5
#define CONFIDENCE_N0      50.0
#define VALID_MAX_US       (6 * US_PER_HOUR)
#define SMOOTHING_S        (INT64_C(24) * 3600)
#define REUSE_S            (INT64_C(24) * 3600)
#define HOUR_S             3600.0

/*
 * One lag for each bin: its geometric middle. The first bin begins at 0 and has none; at 1/4 h the
 * human law lag^-1/2 has its mean over that bin. The last one is taken to end at twice its start.
 */
static const double lags_h[RETENTION_LAGS] = {
    0.25,
    2.4494897427831781, /* sqrt(1 * 6), and so on */
    12,
    33.941125496954278,
    67.882250993908556,
    135.76450198781711,
    271.52900397563423,
    543.05800795126845,
    1086.1160159025369,
};

/* FSRS-6: days of stability after a creation of grade 3, and the exponent of its curve. */
#define FSRS_S0_DAYS 2.3065
#define FSRS_D       0.1542

struct curve {
    uint32_t accesses;
    double exposure_h[RETENTION_LAGS];
    bool fitted;
    struct power_fit fit;
};

int64_t mb_expiry_us(int64_t t_us)
{
    return time_floor_us(t_us + RECORD_WINDOW_US, US_PER_HOUR) + US_PER_HOUR;
}

void mb_consolidate(struct mb_counts *c, uint32_t spaced, double r)
{
    if (spaced == 0)
        c->n_new++;
    else if (spaced < MB_CONSOLIDATED)
        c->n_consolidating++;
    else
        c->n_consolidated++;
    c->n_lapsed += spaced > 0 && r < MB_LAPSED_R;
}

static struct curve curve_of(const struct gap_counts *gaps)
{
    struct curve c = {0};
    for (size_t i = 0; i < RETENTION_LAGS; i++) {
        c.accesses += gaps->events[i];
        c.exposure_h[i] = (double)gaps->exposure_s[i] / HOUR_S;
    }
    c.fitted = c.accesses >= ACCESSES_MIN &&
               kernel_power_fit(lags_h, gaps->events, c.exposure_h, RETENTION_LAGS, &c.fit);
    return c;
}

static void key_number(struct jsonw *w, const char *key, bool known, double value)
{
    jsonw_key(w, key);
    if (known)
        jsonw_number(w, value);
    else
        jsonw_null(w);
}

static void write_bins(struct jsonw *w, const struct gap_counts *gaps, const struct curve *c)
{
    jsonw_key(w, "bins");
    jsonw_array_begin(w);
    for (size_t i = 0; i < RETENTION_LAGS; i++) {
        double exposure_h = c->exposure_h[i];
        jsonw_object_begin(w);
        jsonw_key(w, "E");
        jsonw_int(w, gaps->events[i]);
        key_number(w, "X_h", true, exposure_h);
        key_number(w, "lag_h", true, lags_h[i]);
        key_number(w, "rate", exposure_h > 0, gaps->events[i] / exposure_h);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

static void write_spacing(struct jsonw *w, const struct gap_counts *gaps)
{
    struct rate_ratio ratio;
    bool enough = gaps->after_events[GAP_AFTER_SPACED] >= SPACING_EVENTS_MIN &&
                  gaps->after_events[GAP_AFTER_MASSED] >= SPACING_EVENTS_MIN;

    jsonw_key(w, "spacing_effect");
    if (!enough || !kernel_rate_ratio(gaps->after_events[GAP_AFTER_SPACED],
                                      gaps->after_exposure_s[GAP_AFTER_SPACED],
                                      gaps->after_events[GAP_AFTER_MASSED],
                                      gaps->after_exposure_s[GAP_AFTER_MASSED], &ratio)) {
        jsonw_null(w);
        return;
    }
    jsonw_object_begin(w);
    jsonw_key(w, "ci95");
    jsonw_array_begin(w);
    jsonw_number(w, ratio.low);
    jsonw_number(w, ratio.high);
    jsonw_array_end(w);
    key_number(w, "ratio", true, ratio.ratio);
    jsonw_object_end(w);
}

static void write_curve(struct jsonw *w, const struct mb_counts *counts, const struct curve *c)
{
    /* A need that does not fall never halves. */
    bool falls = c->fitted && c->fit.d > POWER_D_MIN;

    jsonw_object_begin(w);
    key_number(w, "a_per_h", c->fitted, c->fit.a);
    jsonw_key(w, "accesses");
    jsonw_int(w, c->accesses);
    write_bins(w, &counts->gaps, c);
    key_number(w, "d", true, c->fitted ? c->fit.d : PRIOR_D);
    key_number(w, "half_rate_h", falls, falls ? pow(2, 1 / c->fit.d) : 0);
    jsonw_key(w, "model");
    jsonw_string(w, STR("power_need"));
    key_number(w, "r2", c->fitted && c->fit.has_r2, c->fit.r2);
    write_spacing(w, &counts->gaps);
    jsonw_key(w, "stability_model");
    jsonw_object_begin(w);
    key_number(w, "S0_days", true, FSRS_S0_DAYS);
    key_number(w, "d", true, FSRS_D);
    jsonw_key(w, "model");
    jsonw_string(w, STR("fsrs-6"));
    jsonw_object_end(w);
    jsonw_key(w, "status");
    jsonw_string(w, c->fitted ? STR("fitted") : STR("prior"));
    jsonw_object_end(w);
}

static void write_memory(struct jsonw *w, const struct mb_counts *c, const struct mb_memory *m,
                         bool low)
{
    jsonw_object_begin(w);
    key_number(w, "R", true, m->r);
    jsonw_key(w, "last_access");
    jsonw_time(w, m->fsrs.last_us);
    jsonw_key(w, "memory_id");
    jsonw_string(w, (struct str){m->name, m->name_len});
    jsonw_key(w, "n_spaced");
    jsonw_int(w, m->fsrs.spaced);
    if (low) {
        double idle_h = (double)(c->as_of_us - m->fsrs.last_us) / (double)US_PER_HOUR;
        key_number(w, "overdue_h", true,
                   fmax(0, idle_h - 24 * fsrs_days_until(&m->fsrs, MB_LOW_R)));
    }
    key_number(w, "stability_days", true, fmin(m->fsrs.stability_days, MB_STABILITY_MAX));
    if (m->topic_len > 0) {
        jsonw_key(w, "topic");
        jsonw_string(w, (struct str){m->topic, m->topic_len});
    }
    jsonw_object_end(w);
}

static void write_consolidation(struct jsonw *w, const struct mb_counts *c)
{
    jsonw_object_begin(w);
    jsonw_key(w, "consolidated");
    jsonw_int(w, (int64_t)c->n_consolidated);
    jsonw_key(w, "consolidating");
    jsonw_int(w, (int64_t)c->n_consolidating);
    jsonw_key(w, "lapsed");
    jsonw_int(w, (int64_t)c->n_lapsed);
    jsonw_key(w, "new");
    jsonw_int(w, (int64_t)c->n_new);
    jsonw_object_end(w);
}

/* ---- columns ---- */

static enum status set_json(struct row *row, size_t column, const struct jsonw *w)
{
    enum status st = jsonw_status(w);
    return st ? st : row_set_json(row, column, (struct str){w->out->data, w->out->len});
}

static enum status set_curve(const struct mb_counts *counts, const struct curve *c, struct row *row)
{
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, LIMIT_JSON_BYTES);
    jsonw_init(&w, &json);
    write_curve(&w, counts, c);
    return set_json(row, MB_FORGETTING_CURVE_PARAMS, &w);
}

/* Ten of the longest items are 6,500 bytes. */
static enum status set_list(const struct mb_counts *c, size_t column, struct row *row)
{
    bool low = column == MB_LOW_RETENTION_MEMORIES;
    const struct mb_memory *list = low ? c->low : c->high;
    size_t n = low ? c->n_low : c->n_high;

    if (c->accesses == 0)
        return row_set_null(row, column, "no_access_signal");
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, LIMIT_JSON_BYTES);
    jsonw_init(&w, &json);
    jsonw_array_begin(&w);
    for (size_t i = 0; i < n; i++)
        write_memory(&w, c, &list[i], low);
    jsonw_array_end(&w);
    return set_json(row, column, &w);
}

static enum status set_score(const struct mb_counts *counts, const struct curve *c, struct row *row)
{
    double score;

    if (counts->accesses == 0)
        return row_set_null(row, MB_RECALL_SIMULATION_SCORE, "no_access_signal");
    if (c->accesses < ACCESSES_MIN)
        return row_set_null(row, MB_RECALL_SIMULATION_SCORE, "insufficient_data: have %u, need %d",
                            c->accesses, ACCESSES_MIN);
    if (!kernel_recency_score(lags_h, counts->gaps.events, c->exposure_h, RETENTION_LAGS, &score))
        return row_set_null(row, MB_RECALL_SIMULATION_SCORE, "no_time_between_accesses");
    row_set_float(row, MB_RECALL_SIMULATION_SCORE, score);
    return STATUS_OK;
}

static enum status set_consolidation(const struct mb_counts *c, struct row *row)
{
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, LIMIT_JSON_BYTES);
    jsonw_init(&w, &json);
    write_consolidation(&w, c);
    return set_json(row, MB_CONSOLIDATION, &w);
}

static enum status set_details(const struct mb_counts *counts, const struct curve *c,
                               struct row *row)
{
    /* Without a single miss nothing was measured about recall (ENGINES.md A2). */
    enum status st = row_add_detail(row, "recall",
                                    counts->lapses ? STR("\"recall_probability\"")
                                                   : STR("\"retention_of_access_history\""));
    if (st || c->accesses < ACCESSES_MIN)
        return st;
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, 64);
    jsonw_init(&w, &json);
    jsonw_number(&w, 1 - kernel_survival(retention_lag_edges_s, RETENTION_LAGS, counts->gaps.events,
                                         counts->gaps.exposure_s, SMOOTHING_S, REUSE_S));
    st = jsonw_status(&w);
    return st ? st : row_add_detail(row, "reuse_24h", (struct str){json.data, json.len});
}

static int64_t valid_until(const struct mb_counts *c)
{
    int64_t at_us = c->as_of_us + VALID_MAX_US;
    at_us = c->next_expiry_us < at_us ? c->next_expiry_us : at_us;
    return c->next_fade_us < at_us ? c->next_fade_us : at_us;
}

enum status mb_write(const struct mb_counts *counts, struct row *row, struct error *err)
{
    assert(row->table == &tables[TABLE_MEMORY_BEHAVIOR]);

    struct curve c = curve_of(&counts->gaps);
    enum status st = set_curve(counts, &c, row);
    if (!st)
        st = set_list(counts, MB_HIGH_RETENTION_MEMORIES, row);
    if (!st)
        st = set_list(counts, MB_LOW_RETENTION_MEMORIES, row);
    if (!st)
        st = set_score(counts, &c, row);
    if (!st)
        st = set_consolidation(counts, row);
    if (!st)
        st = set_details(counts, &c, row);
    if (st)
        return error_set(err, st, "could not build the memory behavior row");

    if (!c.fitted)
        row->state_flags |= ROW_PRIOR_ONLY;
    if (counts->accesses == 0)
        row->state_flags |= ROW_NO_ACCESS_SIGNAL;
    row->confidence = kernel_confidence(c.accesses, CONFIDENCE_N0, 1, 1);
    int64_t until_us = valid_until(counts);
    if (row->valid_until_us == 0 || until_us < row->valid_until_us)
        row->valid_until_us = until_us;
    return STATUS_OK;
}
