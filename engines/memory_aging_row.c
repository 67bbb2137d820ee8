/*
 * The row of memory health (ENGINES.md E1, Appendix A): one survey over all folded memories, then
 * one function per column. Nothing here changes the cache.
 */
#include "core/cleanup.h"
#include "core/jsonw.h"
#include "core/limits.h"
#include "engines/memory_aging.h"
#include "engines/memory_picks.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define TREND_MIN     8     /* retrievals in two weeks before a trend is named */
#define TREND_Z       1.645 /* one-sided 5 % */
#define EXPOSURE_MIN  10    /* user messages in each week before they count as exposure */
#define DRIFT_MIN     5     /* memories in use before drift is named */
#define COSINE_UNIT   1e9   /* cosines are summed as integers: their order must not matter */
#define RISK_R        0.7   /* at risk below this ... */
#define RISK_VALUE    0.3   /* ... when worth at least this ... */
#define RISK_GRACE_US (72 * US_PER_HOUR) /* ... and older than this */
#define FRESH_R       0.9  /* idle no longer than its stability, by the definition of S */
#define VALID_R       0.02 /* a row is out of date when a listed R has moved this far */
#define VALID_MAX_US  (6 * US_PER_HOUR)
#define CONFIDENCE_N0 20.0

/* What one pass over the entries finds. */
struct survey {
    struct memory_picks stale;
    struct memory_picks fresh;
    struct memory_picks risk;
    uint64_t histogram[10];
    uint64_t never_accessed;
    uint64_t accesses; /* of tracked memories, ever */
    uint64_t lapses;
    int128 age_us;   /* summed over tracked and forgotten memories */
    uint64_t in_use; /* memories with a vector that were accessed in the window */
    int64_t cosines; /* summed over them, in COSINE_UNIT */
};

struct retrieval_trend {
    uint64_t a; /* retrievals of this week */
    uint64_t b; /* and of the one before */
    double z;   /* valid from TREND_MIN retrievals on */
};

static double memory_value(const struct mem_rec *m, uint32_t n)
{
    double used = n / (n + 3.0);
    double importance = m->importance == UINT32_MAX ? 0 : m->importance / 1e6;

    return fmax(importance, used);
}

static int64_t at_least_zero(int64_t us)
{
    return us > 0 ? us : 0;
}

static double hours(int64_t us)
{
    return (double)at_least_zero(us) / (double)US_PER_HOUR;
}

static int64_t cosine_with_interest(const struct memory_aging *s, const struct mem_rec *m,
                                    double interest_norm)
{
    int64_t dot = 0;
    for (size_t i = 0; i < m->n_vector; i++)
        dot += (int64_t)m->vector[i].weight * s->interest[m->vector[i].bucket];
    return llround((double)dot / (sqrt(m->norm2) * interest_norm) * COSINE_UNIT);
}

static double interest_norm(const struct memory_aging *s)
{
    int64_t norm2 = 0;
    for (size_t i = 0; i < AGING_DIMS; i++)
        norm2 += (int64_t)s->interest[i] * s->interest[i];
    return sqrt((double)norm2);
}

static void survey_memory(const struct retention *retention, const struct key_log *log,
                          size_t index, struct survey *found)
{
    const struct mem_rec *m = &log->memories[index];
    const struct fsrs_state *fsrs = &retention->at[index].fsrs;
    double r = m->pinned ? 1 : retention->at[index].r;
    double value = memory_value(m, fsrs->reps);
    int64_t age_us = at_least_zero(log->as_of_us - m->created_us);

    found->age_us += age_us;
    found->never_accessed += fsrs->reps == 0;
    found->accesses += fsrs->reps;
    found->lapses += fsrs->lapses;
    found->histogram[r >= 1 ? 9 : (size_t)(r * 10)]++;
    if (r < FRESH_R)
        memory_picks_offer(&found->stale, log, (struct memory_pick){index, r, r, value});
    else
        memory_picks_offer(&found->fresh, log, (struct memory_pick){index, -r, r, value});
    if (value >= RISK_VALUE && r < RISK_R && age_us > RISK_GRACE_US)
        memory_picks_offer(&found->risk, log,
                           (struct memory_pick){index, -value * (1 - r), r, value});
}

static void survey_memories(const struct memory_aging *s, const struct retention *retention,
                            const struct key_log *log, struct survey *found)
{
    double norm = interest_norm(s);

    *found = (struct survey){
        .stale.max = AGING_LIST_MAX,
        .fresh.max = AGING_LIST_MAX,
        .risk.max = AGING_RISK_MAX,
    };
    for (size_t i = 0; i < retention->n; i++) {
        const struct mem_rec *m = &log->memories[i];
        assert(retention->at[i].id == m->id);
        survey_memory(retention, log, i, found);
        if (retention->at[i].in_window > 0 && m->norm2 > 0 && norm > 0) {
            found->in_use++;
            found->cosines += cosine_with_interest(s, m, norm);
        }
    }
}

/* ---- columns ---- */

static void write_topic(struct jsonw *w, const struct key_log *log, const struct mem_rec *m)
{
    char text[MEMORY_TOPIC_BYTES];
    struct str topic = memory_topic(log, m, text);
    if (topic.len == 0)
        return;
    jsonw_key(w, "topic");
    jsonw_string(w, topic);
}

static void write_memory(struct jsonw *w, const struct retention *retention,
                         const struct key_log *log, const struct memory_pick *p)
{
    const struct mem_rec *m = &log->memories[p->index];
    const struct fsrs_state *fsrs = &retention->at[p->index].fsrs;

    jsonw_object_begin(w);
    jsonw_key(w, "R");
    jsonw_number(w, p->r);
    jsonw_key(w, "age_h");
    jsonw_number(w, hours(log->as_of_us - m->created_us));
    jsonw_key(w, "idle_h");
    jsonw_number(w, hours(log->as_of_us - fsrs->last_us));
    jsonw_key(w, "memory_id");
    jsonw_string(w, (struct str){m->name, m->name_len});
    jsonw_key(w, "n");
    jsonw_int(w, fsrs->reps);
    jsonw_key(w, "n_spaced");
    jsonw_int(w, fsrs->spaced);
    jsonw_key(w, "staleness");
    jsonw_number(w, 1 - p->r);
    write_topic(w, log, m);
    jsonw_key(w, "type");
    jsonw_string(w, (struct str){m->type, m->type_len});
    jsonw_object_end(w);
}

static void write_list(struct jsonw *w, const char *key, const struct retention *retention,
                       const struct key_log *log, const struct memory_picks *list, size_t max)
{
    jsonw_key(w, key);
    jsonw_array_begin(w);
    for (size_t i = 0; i < list->n && i < max; i++)
        write_memory(w, retention, log, &list->items[i]);
    jsonw_array_end(w);
}

static void write_forgotten(struct jsonw *w, const struct key_log *log, int128 age_us)
{
    if (log->forgotten_n == 0)
        return;
    jsonw_key(w, "forgotten");
    jsonw_object_begin(w);
    jsonw_key(w, "avg_age_h");
    jsonw_number(w, (double)age_us / (double)log->forgotten_n / (double)US_PER_HOUR);
    jsonw_key(w, "n");
    jsonw_int(w, (int64_t)log->forgotten_n);
    jsonw_object_end(w);
}

/* Forgotten memories are kept to the second, and as a sum: only their sum can be held above 0. */
static int128 forgotten_age_us(const struct key_log *log)
{
    int128 sum =
        (int128)log->forgotten_n * log->as_of_us - (int128)log->forgotten_created_s * US_PER_SECOND;
    return sum > 0 ? sum : 0;
}

static double drift_of(const struct survey *found)
{
    return 1 - (double)found->cosines / COSINE_UNIT / (double)found->in_use;
}

static void write_snapshot(struct jsonw *w, const struct retention *retention,
                           const struct key_log *log, const struct survey *found, size_t list_max)
{
    jsonw_object_begin(w);
    jsonw_key(w, "drift");
    if (found->in_use >= DRIFT_MIN)
        jsonw_number(w, drift_of(found));
    else
        jsonw_null(w);
    write_forgotten(w, log, forgotten_age_us(log));
    write_list(w, "fresh", retention, log, &found->fresh, list_max);
    jsonw_key(w, "hist_R");
    jsonw_array_begin(w);
    for (size_t i = 0; i < 10; i++)
        jsonw_int(w, (int64_t)found->histogram[i]);
    jsonw_array_end(w);
    jsonw_key(w, "never_accessed");
    jsonw_int(w, (int64_t)found->never_accessed);
    write_list(w, "stale", retention, log, &found->stale, list_max);
    jsonw_key(w, "total");
    jsonw_int(w, (int64_t)(log->n_memories + log->forgotten_n));
    jsonw_key(w, "tracked");
    jsonw_int(w, (int64_t)log->n_memories);
    jsonw_key(w, "v");
    jsonw_int(w, 1);
    jsonw_object_end(w);
}

/* Ids and types full of control characters grow sixfold when escaped: ten such items can pass the
 * bound by a few bytes. Both lists then get shorter, one item at a time, until the column fits. */
static enum status emit_snapshot(const struct retention *retention, const struct key_log *log,
                                 struct survey *found, struct row *row)
{
    CLEANUP(buf_deinit) struct buf json;
    enum status st = STATUS_LIMIT;

    buf_init(&json, LIMIT_JSON_BYTES);
    for (size_t max = AGING_LIST_MAX + 1; max-- > 0 && st == STATUS_LIMIT;) {
        struct jsonw w;
        buf_reset(&json);
        jsonw_init(&w, &json);
        write_snapshot(&w, retention, log, found, max);
        st = jsonw_status(&w);
        found->stale.n = found->stale.n < max ? found->stale.n : max;
        found->fresh.n = found->fresh.n < max ? found->fresh.n : max;
    }
    return st ? st : row_set_json(row, MH_MEMORY_SNAPSHOT, (struct str){json.data, json.len});
}

static void write_risk(struct jsonw *w, const struct retention *retention,
                       const struct key_log *log, const struct memory_pick *p)
{
    const struct mem_rec *m = &log->memories[p->index];
    const struct fsrs_state *fsrs = &retention->at[p->index].fsrs;
    double idle_h = hours(log->as_of_us - fsrs->last_us);

    jsonw_object_begin(w);
    jsonw_key(w, "R");
    jsonw_number(w, p->r);
    jsonw_key(w, "idle_h");
    jsonw_number(w, idle_h);
    jsonw_key(w, "memory_id");
    jsonw_string(w, (struct str){m->name, m->name_len});
    jsonw_key(w, "review_in_h");
    jsonw_number(w, 24 * fsrs_days_until(fsrs, 0.5) - idle_h);
    jsonw_key(w, "risk");
    jsonw_number(w, p->value * (1 - p->r));
    write_topic(w, log, m);
    jsonw_key(w, "value");
    jsonw_number(w, p->value);
    jsonw_object_end(w);
}

static enum status emit_risk(const struct retention *retention, const struct key_log *log,
                             struct survey *found, struct row *row)
{
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;

    buf_init(&json, LIMIT_JSON_BYTES); /* ten of the longest items are 6000 bytes */
    if (found->accesses == 0) {
        found->risk.n = 0;
        return row_set_null(row, MH_FORGETTING_RISK_MEMORIES, "no_access_signal");
    }
    jsonw_init(&w, &json);
    jsonw_array_begin(&w);
    for (size_t i = 0; i < found->risk.n; i++)
        write_risk(&w, retention, log, &found->risk.items[i]);
    jsonw_array_end(&w);
    enum status st = jsonw_status(&w);
    return st ? st
              : row_set_json(row, MH_FORGETTING_RISK_MEMORIES, (struct str){json.data, json.len});
}

/* Accesses of memories that are not known do not count, but there are none as a rule. */
static uint64_t count_known(const struct key_log *log, size_t from, size_t to, bool all_known)
{
    if (all_known)
        return to - from;
    uint64_t n = 0;
    for (size_t i = from; i < to; i++)
        n += key_log_memory(log, log->accesses[i].memory) != NULL;
    return n;
}

static struct retrieval_trend find_trend(const struct memory_aging *s,
                                         const struct retention *retention,
                                         const struct key_log *log)
{
    size_t week = key_log_access_at(log, s->edge_us[EDGE_WEEK]);
    size_t fortnight = key_log_access_at(log, s->edge_us[EDGE_FORTNIGHT]);
    bool all_known = retention->known == log->n_accesses;
    struct retrieval_trend t = {
        .a = count_known(log, week, log->n_accesses, all_known),
        .b = count_known(log, fortnight, week, all_known),
    };

    double n = (double)(t.a + t.b);
    double this_week = (double)s->user_messages[EDGE_WEEK];
    double last_week = (double)s->user_messages[EDGE_FORTNIGHT] - this_week;
    double p0 = 0.5;
    if (this_week >= EXPOSURE_MIN && last_week >= EXPOSURE_MIN)
        p0 = this_week / (this_week + last_week);
    if (n >= TREND_MIN)
        t.z = ((double)t.a - n * p0) / sqrt(n * p0 * (1 - p0));
    return t;
}

static enum status emit_trend(const struct retrieval_trend *t, const struct survey *found,
                              struct row *row)
{
    uint64_t n = t->a + t->b;

    if (found->accesses == 0)
        return row_set_null(row, MH_RETRIEVAL_FREQUENCY_TREND, "no_access_signal");
    if (n < TREND_MIN)
        return row_set_null(row, MH_RETRIEVAL_FREQUENCY_TREND,
                            "insufficient_data: have %llu, need %d", (unsigned long long)n,
                            TREND_MIN);
    return row_set_text(row, MH_RETRIEVAL_FREQUENCY_TREND,
                        t->z >= TREND_Z    ? STR("increasing")
                        : t->z <= -TREND_Z ? STR("declining")
                                           : STR("stable"));
}

static enum status emit_age_and_drift(const struct key_log *log, const struct survey *found,
                                      struct row *row)
{
    uint64_t n = log->n_memories + log->forgotten_n;
    enum status st = STATUS_OK;

    if (n > 0)
        row_set_float(row, MH_AVG_MEMORY_AGE_HOURS,
                      (double)(found->age_us + forgotten_age_us(log)) / (double)n /
                          (double)US_PER_HOUR);
    else
        st = row_set_null(row, MH_AVG_MEMORY_AGE_HOURS, "insufficient_data: have 0, need 1");
    if (st)
        return st;
    if (found->in_use < DRIFT_MIN)
        return row_set_null(row, MH_TOPIC_RELEVANCE_DRIFT, "insufficient_data: have %llu, need %d",
                            (unsigned long long)found->in_use, DRIFT_MIN);
    row_set_float(row, MH_TOPIC_RELEVANCE_DRIFT, drift_of(found));
    return STATUS_OK;
}

static enum status add_detail_number(struct row *row, const char *key, double value)
{
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;

    buf_init(&json, 64);
    jsonw_init(&w, &json);
    jsonw_number(&w, value);
    enum status st = jsonw_status(&w);
    return st ? st : row_add_detail(row, key, (struct str){json.data, json.len});
}

static enum status emit_details(const struct retrieval_trend *t, const struct survey *found,
                                struct row *row)
{
    enum status st = add_detail_number(row, "a", (double)t->a);
    if (!st)
        st = add_detail_number(row, "b", (double)t->b);
    if (!st && t->a + t->b >= TREND_MIN)
        st = add_detail_number(row, "z", t->z);
    /* Without a single miss nothing was measured about recall: R then only describes a memory with
     * this access history (ENGINES.md A2). */
    if (!st)
        st = row_add_detail(row, "recall",
                            found->lapses ? STR("\"recall_probability\"")
                                          : STR("\"retention_of_access_history\""));
    return st ? st : row_add_detail(row, "stability_model", STR("\"fsrs-6\""));
}

static void sooner(int64_t *at_us, int64_t candidate_us)
{
    if (candidate_us < *at_us)
        *at_us = candidate_us;
}

/* A window's edge passes its oldest record at the first full hour later than the access by the
 * window's length. */
static int64_t valid_until(const struct retention *retention, const struct key_log *log,
                           const struct survey *found)
{
    static const int64_t windows_us[] = {AGING_WEEK_US, 2 * AGING_WEEK_US, RECORD_WINDOW_US};
    int64_t at_us = log->as_of_us + VALID_MAX_US;
    int64_t hour_us = time_floor_us(log->as_of_us, US_PER_HOUR);

    for (size_t i = 0; i < sizeof(windows_us) / sizeof(windows_us[0]); i++) {
        size_t oldest = key_log_access_at(log, hour_us - windows_us[i]);
        if (oldest < log->n_accesses)
            sooner(&at_us, time_floor_us(log->accesses[oldest].t_us + windows_us[i], US_PER_HOUR) +
                               US_PER_HOUR);
    }
    /* Exposure and interest count user messages of one and two weeks. */
    for (size_t i = 0; i < 2; i++) {
        size_t oldest = key_log_message_at(log, hour_us - windows_us[i]);
        while (oldest < log->n_messages && log->messages[oldest].flags & MSG_BOT)
            oldest++;
        if (oldest < log->n_messages)
            sooner(&at_us, time_floor_us(log->messages[oldest].t_us + windows_us[i], US_PER_HOUR) +
                               US_PER_HOUR);
    }
    sooner(&at_us, memory_picks_change_us(&found->stale, log, retention, VALID_R));
    sooner(&at_us, memory_picks_change_us(&found->fresh, log, retention, VALID_R));
    sooner(&at_us, memory_picks_change_us(&found->risk, log, retention, VALID_R));
    return at_us;
}

enum status aging_row(const struct memory_aging *s, const struct retention *retention,
                      const struct key_log *log, struct row *row, struct error *err)
{
    struct survey found;

    assert(row->table == &tables[TABLE_MEMORY_HEALTH]);

    survey_memories(s, retention, log, &found);
    struct retrieval_trend t = find_trend(s, retention, log);

    enum status st = emit_snapshot(retention, log, &found, row);
    if (!st)
        st = emit_age_and_drift(log, &found, row);
    if (!st)
        st = emit_trend(&t, &found, row);
    if (!st)
        st = emit_risk(retention, log, &found, row);
    if (!st)
        st = emit_details(&t, &found, row);
    if (st)
        return error_set(err, st, "could not build the memory health row");

    row->state_flags |= ROW_LEXICAL;
    if (found.accesses == 0)
        row->state_flags |= ROW_NO_ACCESS_SIGNAL;
    double n = (double)found.accesses;
    row->confidence = rint(n / (n + CONFIDENCE_N0) * 1000) / 1000;
    int64_t until_us = valid_until(retention, log, &found);
    if (row->valid_until_us == 0 || until_us < row->valid_until_us)
        row->valid_until_us = until_us;
    return STATUS_OK;
}
