#include "engines/personality_profile_row.h"

#include "core/cleanup.h"
#include "core/jsonw.h"
#include "engines/record.h"
#include "engines/tables.h"
#include "engines/text.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIDENCE_N0       50.0
#define DECIDED_MIN         10
#define LISTED_MAX          8
#define LISTED_MIN          5 /* messages that show a trait before it is listed */
#define SUGGESTIONS_MAX     5
#define SUGGESTION_MIN      15
#define EMOTIONS_MAX        5
#define HISTORY_DAYS        30
#define TREND_DAYS_MIN      5
#define TREND_DAY_SHOWN_MIN 3 /* traits shown on a day before its shares mean something */
#define HALF_LIFE_DAYS      14
#define VALID_US            (6 * US_PER_HOUR)

_Static_assert(HISTORY_DAYS <= TREND_POINTS_MAX, "a trend takes all days");
_Static_assert(HISTORY_DAYS <= PP_DAYS, "a day has a counter of its own");

struct str pp_surface_name(enum pp_surface trait)
{
    static const char *const names[PP_SURFACE] = {[PP_INQUISITIVE] = "inquisitive",
                                                  [PP_EXPRESSIVE] = "expressive",
                                                  [PP_ELABORATE] = "elaborate",
                                                  [PP_BRIEF] = "brief",
                                                  [PP_WARM] = "warm",
                                                  [PP_SUBDUED] = "subdued"};
    return str_from(names[trait]);
}

/* What several columns need. */
struct profile {
    const struct pp_counts *c;
    double base;                           /* positive replies of all decided messages */
    struct pp_trait by_weight[LISTED_MAX]; /* the listed ones, most frequent first */
    struct pp_trait by_name[LISTED_MAX];   /* the same */
    size_t n;
    int32_t first_day; /* of the history; it ends with T's */
    size_t n_days;
};

static double share(uint64_t k, uint64_t n)
{
    return n ? (double)k / (double)n : 0.0;
}

static size_t day_slot(int32_t day)
{
    return (uint32_t)day % PP_DAYS;
}

static int compare_names(const void *a, const void *b)
{
    const struct pp_trait *x = a, *y = b;
    size_t n = x->name.len < y->name.len ? x->name.len : y->name.len;
    int order = memcmp(x->name.ptr, y->name.ptr, n);
    return order ? order : (x->name.len > y->name.len) - (x->name.len < y->name.len);
}

static int compare_weights(const void *a, const void *b)
{
    const struct pp_trait *x = a, *y = b;
    if (x->sums->weight != y->sums->weight)
        return x->sums->weight < y->sums->weight ? 1 : -1;
    return compare_names(a, b);
}

static void choose_traits(struct profile *p)
{
    struct pp_trait traits[PP_TRAITS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < p->c->n_traits; i++)
        if (p->c->traits[i].sums->n >= LISTED_MIN)
            traits[n++] = p->c->traits[i];
    qsort(traits, n, sizeof(*traits), compare_weights);
    p->n = n < LISTED_MAX ? n : LISTED_MAX;
    memcpy(p->by_weight, traits, p->n * sizeof(*traits));
    memcpy(p->by_name, traits, p->n * sizeof(*traits));
    qsort(p->by_name, p->n, sizeof(*p->by_name), compare_names);
}

/* The history begins with the first bot message among the last days. */
static void choose_days(struct profile *p)
{
    int32_t last = kernel_day(p->c->as_of_us);
    p->first_day = last - HISTORY_DAYS + 1;
    while (p->first_day < last && p->c->all.day_n[day_slot(p->first_day)] == 0)
        p->first_day++;
    p->n_days = (size_t)(last - p->first_day) + 1;
}

static double effectiveness(const struct profile *p, const struct pp_sums *s)
{
    return kernel_posterior(s->k_pos, s->n, p->base);
}

static void write_number(struct jsonw *w, const char *key, double v)
{
    jsonw_key(w, key);
    jsonw_number(w, v);
}

static void write_count(struct jsonw *w, const char *key, int64_t v)
{
    jsonw_key(w, key);
    jsonw_int(w, v);
}

/* ---- dominant_traits ---- */

/* The share of the weight of all traits, each day counting half of the one HALF_LIFE_DAYS after it.
 */
static double recent_frequency(const struct profile *p, const struct pp_sums *s)
{
    int32_t last = kernel_day(p->c->as_of_us);
    double own = 0.0, all = 0.0;
    /* Just before midnight the newest messages may be of the next day. */
    for (int32_t age = -1; age < PP_DAYS - 1; age++) {
        double factor = age < 0 ? 1.0 : exp2(-(double)age / HALF_LIFE_DAYS);
        own += factor * (double)s->day_weight[day_slot(last - age)];
        all += factor * (double)p->c->all.day_weight[day_slot(last - age)];
    }
    return all > 0.0 ? own / all : 0.0;
}

static void write_trait(struct jsonw *w, const struct profile *p, const struct pp_trait *t)
{
    const struct pp_sums *s = t->sums;
    jsonw_object_begin(w);
    jsonw_key(w, "ci95");
    jsonw_array_begin(w);
    jsonw_number(w, kernel_wilson_low(s->k_pos, s->n));
    jsonw_number(w, kernel_wilson_high(s->k_pos, s->n));
    jsonw_array_end(w);
    write_number(w, "effectiveness", effectiveness(p, s));
    write_number(w, "frequency", share(s->weight, p->c->all.weight));
    write_count(w, "n", s->n);
    write_number(w, "recent_frequency", recent_frequency(p, s));
    jsonw_key(w, "source");
    jsonw_string(w, p->c->surface ? STR("surface") : STR("metadata"));
    jsonw_key(w, "trait");
    jsonw_string(w, t->name);
    write_number(w, "uplift", effectiveness(p, s) - p->base);
    jsonw_object_end(w);
}

static void write_dominant(struct jsonw *w, const struct profile *p)
{
    jsonw_array_begin(w);
    for (size_t i = 0; i < p->n; i++)
        write_trait(w, p, &p->by_weight[i]);
    jsonw_array_end(w);
}

/* ---- user_response_patterns ---- */

static int compare_labels(const void *a, const void *b)
{
    return strcmp(text_emotion_name(*(const int *)a), text_emotion_name(*(const int *)b));
}

/* The most frequent labels of the replies; of equals, the one with the smaller id. */
static void write_emotions(struct jsonw *w, const struct pp_sums *s)
{
    int labels[EMOTIONS_MAX];
    size_t n = 0;
    bool taken[PP_EMOTIONS] = {false};
    while (n < EMOTIONS_MAX) {
        int best = -1;
        for (int i = 0; i < PP_EMOTIONS; i++)
            if (s->emotions[i] && !taken[i] && (best < 0 || s->emotions[i] > s->emotions[best]))
                best = i;
        if (best < 0)
            break;
        taken[best] = true;
        labels[n++] = best;
    }
    qsort(labels, n, sizeof(*labels), compare_labels);
    jsonw_key(w, "emotions");
    jsonw_object_begin(w);
    for (size_t i = 0; i < n; i++)
        write_number(w, text_emotion_name(labels[i]), share(s->emotions[labels[i]], s->n_emotion));
    jsonw_object_end(w);
}

static void write_responses(struct jsonw *w, const struct profile *p)
{
    jsonw_object_begin(w);
    for (size_t i = 0; i < p->n; i++) {
        const struct pp_sums *s = p->by_name[i].sums;
        jsonw_key_str(w, p->by_name[i].name);
        jsonw_object_begin(w);
        write_emotions(w, s);
        jsonw_key(w, "median_reply_s");
        if (s->k_reply)
            jsonw_int(w, hist_quantile(&s->latency_s, 50));
        else
            jsonw_null(w);
        write_count(w, "n", s->n);
        write_number(w, "positive_rate", share(s->k_pos, s->n));
        write_number(w, "reply_rate", share(s->k_reply, s->n));
        jsonw_key(w, "words_mean");
        if (s->k_reply)
            jsonw_number(w, kernel_mean(s->k_reply, s->words));
        else
            jsonw_null(w);
        jsonw_object_end(w);
    }
    jsonw_object_end(w);
}

/* ---- adaptation_suggestions ---- */

struct suggestion {
    struct pp_trait trait;
    double effectiveness;
    double distance; /* from the base */
    bool more;
};

static int compare_suggestions(const void *a, const void *b)
{
    const struct suggestion *x = a, *y = b;
    if (x->distance > y->distance || x->distance < y->distance)
        return x->distance < y->distance ? 1 : -1;
    return compare_names(&x->trait, &y->trait);
}

/* Only what the interval sets apart from the base is suggested. */
static size_t find_suggestions(const struct profile *p, struct suggestion ret[PP_TRAITS_MAX])
{
    size_t n = 0;
    for (size_t i = 0; i < p->c->n_traits; i++) {
        const struct pp_sums *s = p->c->traits[i].sums;
        if (s->n < SUGGESTION_MIN)
            continue;
        bool more = kernel_wilson_low(s->k_pos, s->n) > p->base;
        if (!more && kernel_wilson_high(s->k_pos, s->n) >= p->base)
            continue;
        double e = effectiveness(p, s);
        ret[n++] = (struct suggestion){p->c->traits[i], e, fabs(e - p->base), more};
    }
    qsort(ret, n, sizeof(*ret), compare_suggestions);
    return n < SUGGESTIONS_MAX ? n : SUGGESTIONS_MAX;
}

static void write_suggestions(struct jsonw *w, const struct profile *p)
{
    struct suggestion found[PP_TRAITS_MAX];
    size_t n = find_suggestions(p, found);
    jsonw_array_begin(w);
    for (size_t i = 0; i < n; i++) {
        const struct pp_sums *s = found[i].trait.sums;
        jsonw_object_begin(w);
        jsonw_key(w, "action");
        jsonw_string(w, found[i].more ? STR("more") : STR("less"));
        write_number(w, "confidence", kernel_confidence(s->n, CONFIDENCE_N0, s->n, s->n));
        jsonw_key(w, "evidence");
        jsonw_object_begin(w);
        write_number(w, "base", p->base);
        write_number(w, "eff", found[i].effectiveness);
        write_count(w, "n", s->n);
        jsonw_object_end(w);
        jsonw_key(w, "trait");
        jsonw_string(w, found[i].trait.name);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

/* ---- trait_evolution_history ---- */

static double day_share(const struct profile *p, const struct pp_sums *s, int32_t day)
{
    return share(s->day_weight[day_slot(day)], p->c->all.day_weight[day_slot(day)]);
}

static void write_days(struct jsonw *w, const struct profile *p)
{
    jsonw_key(w, "days");
    jsonw_array_begin(w);
    for (size_t i = 0; i < p->n_days; i++) {
        char text[40];
        time_format(((int64_t)p->first_day + (int64_t)i) * US_PER_DAY, 0, text);
        jsonw_string(w, (struct str){text, strlen("2026-01-01")});
    }
    jsonw_array_end(w);
}

static void write_shares(struct jsonw *w, const struct profile *p)
{
    jsonw_key(w, "traits");
    jsonw_object_begin(w);
    for (size_t i = 0; i < p->n; i++) {
        jsonw_key_str(w, p->by_name[i].name);
        jsonw_array_begin(w);
        for (size_t d = 0; d < p->n_days; d++) {
            int32_t day = p->first_day + (int32_t)d;
            if (p->c->all.day_n[day_slot(day)])
                jsonw_number(w, day_share(p, p->by_name[i].sums, day));
            else
                jsonw_null(w);
        }
        jsonw_array_end(w);
    }
    jsonw_object_end(w);
}

static void write_trend(struct jsonw *w, const struct profile *p, const struct pp_sums *s)
{
    double shares[HISTORY_DAYS];
    size_t n = 0;
    for (size_t d = 0; d < p->n_days; d++) {
        int32_t day = p->first_day + (int32_t)d;
        if (p->c->all.day_shown[day_slot(day)] >= TREND_DAY_SHOWN_MIN)
            shares[n++] = day_share(p, s, day);
    }
    if (n < TREND_DAYS_MIN) {
        jsonw_null(w);
        return;
    }
    double z = kernel_trend(shares, n).z;
    jsonw_string(w, z >= TREND_Z ? STR("rising") : z <= -TREND_Z ? STR("falling") : STR("flat"));
}

static void write_history(struct jsonw *w, const struct profile *p)
{
    jsonw_object_begin(w);
    write_days(w, p);
    write_shares(w, p);
    jsonw_key(w, "trend");
    jsonw_object_begin(w);
    for (size_t i = 0; i < p->n; i++) {
        jsonw_key_str(w, p->by_name[i].name);
        write_trend(w, p, p->by_name[i].sums);
    }
    jsonw_object_end(w);
    jsonw_object_end(w);
}

/* ---- details ---- */

static void write_n(struct jsonw *w, const struct profile *p)
{
    const struct pp_totals *all = &p->c->all;
    jsonw_object_begin(w);
    write_count(w, "answered", all->k_reply);
    write_count(w, "covered", all->n_covered);
    write_count(w, "decided", all->n);
    write_count(w, "other", all->n_other);
    write_count(w, "pending", p->c->n_pending);
    write_count(w, "positive", all->k_pos);
    jsonw_object_end(w);
}

static void write_constants(struct jsonw *w, const struct profile *p)
{
    (void)p;
    jsonw_object_begin(w);
    write_count(w, "half_life_days", HALF_LIFE_DAYS);
    write_count(w, "listed_from_n", LISTED_MIN);
    write_count(w, "reply_within_s", PP_OUTCOME_US / US_PER_SECOND);
    write_count(w, "suggested_from_n", SUGGESTION_MIN);
    jsonw_object_end(w);
}

/* Replies may depend on what a trait comes with: hints to test, not effects. */
static void write_correlational(struct jsonw *w, const struct profile *p)
{
    (void)p;
    jsonw_array_begin(w);
    jsonw_string(w, STR("adaptation_suggestions"));
    jsonw_string(w, STR("dominant_traits"));
    jsonw_array_end(w);
}

typedef void writer_fn(struct jsonw *w, const struct profile *p);

static enum status render(writer_fn *write, const struct profile *p, struct buf *json)
{
    struct jsonw w;
    buf_reset(json);
    jsonw_init(&w, json);
    write(&w, p);
    return jsonw_status(&w);
}

static enum status add_detail(struct row *row, const char *key, writer_fn *write,
                              const struct profile *p, struct buf *json)
{
    enum status st = render(write, p, json);
    return st ? st : row_add_detail(row, key, (struct str){json->data, json->len});
}

static enum status write_details(struct row *row, const struct profile *p, struct buf *json)
{
    enum status st = add_detail(row, "n", write_n, p, json);
    if (!st)
        st = add_detail(row, "constants", write_constants, p, json);
    if (!st && p->c->all.n >= DECIDED_MIN)
        st = add_detail(row, "correlational", write_correlational, p, json);
    return st;
}

static enum status write_columns(struct row *row, const struct profile *p, struct buf *json)
{
    static const struct {
        size_t column;
        writer_fn *write;
    } columns[] = {{PP_DOMINANT_TRAITS, write_dominant},
                   {PP_USER_RESPONSE_PATTERNS, write_responses},
                   {PP_ADAPTATION_SUGGESTIONS, write_suggestions},
                   {PP_TRAIT_EVOLUTION_HISTORY, write_history}};
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < sizeof(columns) / sizeof(columns[0]); i++) {
        if (p->c->all.n < DECIDED_MIN) {
            st = row_set_null(row, columns[i].column, "insufficient_data: have %u, need %d",
                              p->c->all.n, DECIDED_MIN);
            continue;
        }
        st = render(columns[i].write, p, json);
        if (!st)
            st = row_set_json(row, columns[i].column, (struct str){json->data, json->len});
    }
    return st;
}

static void set_validity(const struct pp_counts *c, struct row *row)
{
    /* At midnight every day of the history and of the half-life moves by one. */
    int64_t midnight_us = ((int64_t)kernel_day(c->as_of_us) + 1) * US_PER_DAY;
    int64_t until = c->as_of_us + VALID_US;
    int64_t expiry_us = INT64_MAX; /* the first full hour H with t < H - 30 d */
    if (c->oldest_us != INT64_MAX)
        expiry_us = time_floor_us(c->oldest_us + RECORD_WINDOW_US, US_PER_HOUR) + US_PER_HOUR;
    const int64_t moments[] = {midnight_us, expiry_us, c->next_outcome_us};
    for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++)
        until = moments[i] < until ? moments[i] : until;
    if (row->valid_until_us == 0 || until < row->valid_until_us)
        row->valid_until_us = until;
}

enum status pp_write(const struct pp_counts *c, struct row *row, struct error *err)
{
    assert(row->table == &tables[TABLE_PERSONALITY_PROFILES]);
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_JSON_BYTES);
    struct profile p = {.c = c, .base = share(c->all.k_pos, c->all.n)};
    choose_traits(&p);
    choose_days(&p);
    enum status st = write_columns(row, &p, &json);
    st = st ? st : write_details(row, &p, &json);
    if (st)
        return error_set(err, st, "could not write a personality profile: %s", status_name(st));
    row->state_flags |= ROW_NO_TZ;
    if (c->surface)
        row->state_flags |= ROW_SURFACE_TRAITS;
    if (c->all.n_emotion == 0)
        row->state_flags |= ROW_NO_EMOTION;
    if (c->truncated)
        row->state_flags |= ROW_TRUNCATED;
    row->confidence = kernel_confidence(c->all.n, CONFIDENCE_N0, c->all.n_covered, c->all.n);
    set_validity(c, row);
    return STATUS_OK;
}
