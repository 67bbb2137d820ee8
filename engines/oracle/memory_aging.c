/*
 * The naive twin of engines/memory_aging.c: for every memory a loop over every access, all lists by
 * sorting everything, all windows by comparing every time. Shares only the FSRS formulas.
 */
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/jsonw.h"
#include "engines/fsrs.h"
#include "engines/oracle/view.h"
#include "engines/tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 int128;

struct aged {
    const struct feature *f;
    bool pinned;
    struct fsrs_state fsrs;
    bool used; /* accessed inside the window */
    double r;
    double value;
    double risk;
    double cosine; /* with the user's interest, valid when has_cosine */
    bool has_cosine;
};

struct list {
    const struct aged *items[10];
    size_t n;
};

struct aging {
    const struct oracle_view *view;
    struct aged *all;
    size_t n;
    struct list stale;
    struct list fresh;
    struct list at_risk;
    int64_t accesses;
    bool any_miss;
    int64_t a;
    int64_t b;
    double z;
    int64_t with_cosine;
    double drift;
};

static int64_t hour_of(const struct oracle_view *v)
{
    return time_floor_us(v->as_of_us, US_PER_HOUR);
}

static double hours_since(const struct oracle_view *v, int64_t t_us)
{
    return v->as_of_us > t_us ? (double)(v->as_of_us - t_us) / 3.6e9 : 0;
}

static bool memory_known(const struct oracle_view *v, uint64_t memory)
{
    for (size_t i = 0; i < v->n_memories; i++)
        if (v->memories[i]->u.memory.memory == memory)
            return true;
    return false;
}

static void fold(const struct oracle_view *v, size_t index, struct aged *m)
{
    const struct feature *from = v->origins[index];
    struct mem_rec origin = {
        .created_us = from->t_us,
        .importance = from->u.memory.importance,
        .grade = from->u.memory.grade,
    };

    fsrs_start(&m->fsrs, &origin);
    for (size_t i = 0; i < v->n_accesses; i++) {
        const struct feature *f = v->accesses[i];
        if (f->u.memory.memory != m->f->u.memory.memory)
            continue;
        struct access_rec a = {.t_us = f->t_us, .grade = f->u.memory.grade};
        fsrs_fold(&m->fsrs, &origin, &a);
        if (i >= v->n_folded)
            m->used = true;
    }
}

static void interest_of(const struct oracle_view *v, int64_t interest[256])
{
    for (size_t i = 0; i < v->n_messages; i++) {
        const struct feature *f = v->messages[i];
        if (f->u.message.flags & MSG_BOT || f->t_us < hour_of(v) - 7 * US_PER_DAY)
            continue;
        for (size_t k = 0; k < f->u.message.n_vector; k++)
            interest[f->u.message.vector[k].bucket] += f->u.message.vector[k].weight;
    }
}

static void find_cosine(struct aged *m, const int64_t interest[256])
{
    int64_t squares = 0;
    int64_t dot = 0;
    for (int i = 0; i < 256; i++)
        squares += interest[i] * interest[i];
    for (size_t i = 0; i < m->f->u.memory.n_vector; i++)
        dot += m->f->u.memory.vector[i].weight * interest[m->f->u.memory.vector[i].bucket];
    m->has_cosine = m->used && squares > 0 && m->f->u.memory.norm2 > 0;
    if (m->has_cosine)
        m->cosine = (double)dot / (sqrt(m->f->u.memory.norm2) * sqrt((double)squares));
}

static void weigh(struct aged *m, const struct oracle_view *v)
{
    double n = m->fsrs.reps;

    m->r = m->pinned ? 1 : fsrs_retention(&m->fsrs, v->as_of_us);
    m->value = n / (n + 3);
    if (m->f->u.memory.importance != UINT32_MAX && m->f->u.memory.importance / 1e6 > m->value)
        m->value = m->f->u.memory.importance / 1e6;
    m->risk = m->value * (1 - m->r);
}

/* ---- lists ---- */

static int by_id(const struct aged *x, const struct aged *y)
{
    struct str a = x->f->u.memory.name;
    struct str b = y->f->u.memory.name;
    for (size_t i = 0; i < a.len && i < b.len; i++)
        if (a.ptr[i] != b.ptr[i])
            return (unsigned char)a.ptr[i] < (unsigned char)b.ptr[i] ? -1 : 1;
    if (a.len != b.len)
        return a.len < b.len ? -1 : 1;
    return x->f->u.memory.memory < y->f->u.memory.memory ? -1 : 1;
}

static int by_r_rising(const void *a, const void *b)
{
    const struct aged *x = a;
    const struct aged *y = b;
    return x->r < y->r ? -1 : x->r > y->r ? 1 : by_id(x, y);
}

static int by_r_falling(const void *a, const void *b)
{
    const struct aged *x = a;
    const struct aged *y = b;
    return x->r > y->r ? -1 : x->r < y->r ? 1 : by_id(x, y);
}

static int by_risk_falling(const void *a, const void *b)
{
    const struct aged *x = a;
    const struct aged *y = b;
    return x->risk > y->risk ? -1 : x->risk < y->risk ? 1 : by_id(x, y);
}

static bool is_stale(const struct aged *m, const struct oracle_view *v)
{
    (void)v;
    return m->r < 0.9;
}

static bool is_fresh(const struct aged *m, const struct oracle_view *v)
{
    (void)v;
    return m->r >= 0.9;
}

static bool is_at_risk(const struct aged *m, const struct oracle_view *v)
{
    return m->value >= 0.3 && m->r < 0.7 && v->as_of_us - m->f->t_us > 72 * US_PER_HOUR;
}

/* A sorted copy of everything, then the first max that belong. */
static enum status select_list(const struct aging *g, struct aged *copy,
                               int (*order)(const void *, const void *),
                               bool (*belongs)(const struct aged *, const struct oracle_view *),
                               size_t max, struct list *ret)
{
    memcpy(copy, g->all, g->n * sizeof(*copy));
    qsort(copy, g->n, sizeof(*copy), order);
    ret->n = 0;
    for (size_t i = 0; i < g->n && ret->n < max; i++) {
        if (!belongs(&copy[i], g->view))
            continue;
        for (size_t k = 0; k < g->n; k++)
            if (g->all[k].f == copy[i].f)
                ret->items[ret->n] = &g->all[k];
        ret->n++;
    }
    return STATUS_OK;
}

static enum status select_lists(struct aging *g)
{
    struct aged *copy = calloc(g->n + 1, sizeof(*copy));
    if (!copy)
        return STATUS_NOMEM;
    enum status st = select_list(g, copy, by_r_rising, is_stale, 5, &g->stale);
    if (!st)
        st = select_list(g, copy, by_r_falling, is_fresh, 5, &g->fresh);
    if (!st)
        st = select_list(g, copy, by_risk_falling, is_at_risk, 10, &g->at_risk);
    free(copy);
    return st;
}

/* ---- numbers over all ---- */

static void find_trend(struct aging *g)
{
    const struct oracle_view *v = g->view;
    int64_t week = hour_of(v) - 7 * US_PER_DAY;
    int64_t fortnight = hour_of(v) - 14 * US_PER_DAY;

    for (size_t i = v->n_folded; i < v->n_accesses; i++) {
        const struct feature *f = v->accesses[i];
        if (!memory_known(v, f->u.memory.memory))
            continue;
        g->a += f->t_us >= week;
        g->b += f->t_us >= fortnight && f->t_us < week;
    }
    double ea = 0;
    double eb = 0;
    for (size_t i = 0; i < v->n_messages; i++) {
        const struct feature *f = v->messages[i];
        if (f->u.message.flags & MSG_BOT)
            continue;
        ea += f->t_us >= week;
        eb += f->t_us >= fortnight && f->t_us < week;
    }
    double p = ea >= 10 && eb >= 10 ? ea / (ea + eb) : 0.5;
    double n = (double)(g->a + g->b);
    g->z = n >= 8 ? ((double)g->a - n * p) / sqrt(n * p * (1 - p)) : 0;
}

static void find_drift(struct aging *g)
{
    int64_t sum = 0;
    for (size_t i = 0; i < g->n; i++) {
        if (!g->all[i].has_cosine)
            continue;
        g->with_cosine++;
        sum += llround(g->all[i].cosine * 1e9);
    }
    if (g->with_cosine)
        g->drift = 1 - (double)sum / 1e9 / (double)g->with_cosine;
}

static enum status age_all(struct aging *g)
{
    const struct oracle_view *v = g->view;
    int64_t interest[256] = {0};

    g->all = calloc(v->n_memories + 1, sizeof(*g->all));
    if (!g->all)
        return STATUS_NOMEM;
    g->n = v->n_memories;
    interest_of(v, interest);
    for (size_t i = 0; i < g->n; i++) {
        struct aged *m = &g->all[i];
        m->f = v->memories[i];
        m->pinned = v->pinned[i];
        fold(v, i, m);
        weigh(m, v);
        find_cosine(m, interest);
        g->accesses += m->fsrs.reps;
        g->any_miss |= m->fsrs.lapses > 0;
    }
    find_trend(g);
    find_drift(g);
    return select_lists(g);
}

/* ---- the row ---- */

static void put_number(struct jsonw *w, const char *key, double value)
{
    jsonw_key(w, key);
    jsonw_number(w, value);
}

static void put_int(struct jsonw *w, const char *key, int64_t value)
{
    jsonw_key(w, key);
    jsonw_int(w, value);
}

static void put_string(struct jsonw *w, const char *key, struct str value)
{
    jsonw_key(w, key);
    jsonw_string(w, value);
}

static void put_topic(struct jsonw *w, const struct feature *f)
{
    char text[128] = "";
    for (size_t i = 0; i < f->n_labels && i < 3; i++) {
        size_t used = strlen(text);
        (void)snprintf(text + used, sizeof(text) - used, "%s" STR_FMT, used ? " " : "",
                       STR_ARGS(f->labels[i]));
    }
    if (text[0])
        put_string(w, "topic", str_cut(str_from(text), 64));
}

static void put_item(struct jsonw *w, const struct oracle_view *v, const struct aged *m)
{
    jsonw_object_begin(w);
    put_number(w, "R", m->r);
    put_number(w, "age_h", hours_since(v, m->f->t_us));
    put_number(w, "idle_h", hours_since(v, m->fsrs.last_us));
    put_string(w, "memory_id", m->f->u.memory.name);
    put_int(w, "n", m->fsrs.reps);
    put_int(w, "n_spaced", m->fsrs.spaced);
    put_number(w, "staleness", 1 - m->r);
    put_topic(w, m->f);
    put_string(w, "type", str_cut(m->f->u.memory.type, 32));
    jsonw_object_end(w);
}

/* Forgotten memories are known as a count and a sum only; a sum in the future counts as 0. */
static int128 forgotten_age_us(const struct oracle_view *v)
{
    int128 seen = (int128)v->as_of_us * (int128)v->forgotten_n;
    int128 born = (int128)v->forgotten_created_s * 1000000;
    return seen < born ? 0 : seen - born;
}

static void put_snapshot(struct jsonw *w, const struct aging *g)
{
    const struct oracle_view *v = g->view;
    int64_t never = 0;
    int64_t histogram[10] = {0};

    for (size_t i = 0; i < g->n; i++) {
        never += g->all[i].fsrs.reps == 0;
        for (int k = 0; k < 10; k++)
            histogram[k] += (int)(g->all[i].r * 10) == k || (k == 9 && g->all[i].r >= 1);
    }
    jsonw_object_begin(w);
    jsonw_key(w, "drift");
    if (g->with_cosine >= 5)
        jsonw_number(w, g->drift);
    else
        jsonw_null(w);
    if (v->forgotten_n > 0) {
        jsonw_key(w, "forgotten");
        jsonw_object_begin(w);
        put_number(w, "avg_age_h", (double)forgotten_age_us(v) / (double)v->forgotten_n / 3.6e9);
        put_int(w, "n", (int64_t)v->forgotten_n);
        jsonw_object_end(w);
    }
    jsonw_key(w, "fresh");
    jsonw_array_begin(w);
    for (size_t i = 0; i < g->fresh.n; i++)
        put_item(w, v, g->fresh.items[i]);
    jsonw_array_end(w);
    jsonw_key(w, "hist_R");
    jsonw_array_begin(w);
    for (int k = 0; k < 10; k++)
        jsonw_int(w, histogram[k]);
    jsonw_array_end(w);
    put_int(w, "never_accessed", never);
    jsonw_key(w, "stale");
    jsonw_array_begin(w);
    for (size_t i = 0; i < g->stale.n; i++)
        put_item(w, v, g->stale.items[i]);
    jsonw_array_end(w);
    put_int(w, "total", (int64_t)(g->n + v->forgotten_n));
    put_int(w, "tracked", (int64_t)g->n);
    put_int(w, "v", 1);
    jsonw_object_end(w);
}

static void put_risk(struct jsonw *w, const struct aging *g)
{
    jsonw_array_begin(w);
    for (size_t i = 0; i < g->at_risk.n; i++) {
        const struct aged *m = g->at_risk.items[i];
        double idle_h = hours_since(g->view, m->fsrs.last_us);
        jsonw_object_begin(w);
        put_number(w, "R", m->r);
        put_number(w, "idle_h", idle_h);
        put_string(w, "memory_id", m->f->u.memory.name);
        put_number(w, "review_in_h", fsrs_days_until(&m->fsrs, 0.5) * 24 - idle_h);
        put_number(w, "risk", m->risk);
        put_topic(w, m->f);
        put_number(w, "value", m->value);
        jsonw_object_end(w);
    }
    jsonw_array_end(w);
}

/* Writes without a bound first; while that is too long, both kinds of list lose their last item. */
static enum status set_json(struct aging *g, struct row *row, size_t column,
                            void (*put)(struct jsonw *, const struct aging *))
{
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, 1u << 20);
    struct list *lists[2] = {&g->stale, &g->fresh};
    size_t n_lists = 2;
    if (column == MH_FORGETTING_RISK_MEMORIES) {
        lists[0] = &g->at_risk;
        n_lists = 1;
    }
    for (size_t max = 10; max > 0; max--) {
        struct jsonw w;
        for (size_t i = 0; i < n_lists; i++)
            lists[i]->n = lists[i]->n < max ? lists[i]->n : max;
        buf_reset(&json);
        jsonw_init(&w, &json);
        put(&w, g);
        if (jsonw_status(&w))
            return jsonw_status(&w);
        if (json.len <= LIMIT_JSON_BYTES)
            return row_set_json(row, column, (struct str){json.data, json.len});
    }
    return STATUS_LIMIT;
}

static enum status set_trend_and_risk(struct aging *g, struct row *row)
{
    if (g->accesses == 0) {
        g->at_risk.n = 0;
        enum status st = row_set_null(row, MH_RETRIEVAL_FREQUENCY_TREND, "no_access_signal");
        return st ? st : row_set_null(row, MH_FORGETTING_RISK_MEMORIES, "no_access_signal");
    }
    enum status st;
    if (g->a + g->b < 8)
        st = row_set_null(row, MH_RETRIEVAL_FREQUENCY_TREND, "insufficient_data: have %d, need 8",
                          (int)(g->a + g->b));
    else
        st = row_set_text(row, MH_RETRIEVAL_FREQUENCY_TREND,
                          str_from(g->z >= 1.645    ? "increasing"
                                   : g->z <= -1.645 ? "declining"
                                                    : "stable"));
    return st ? st : set_json(g, row, MH_FORGETTING_RISK_MEMORIES, put_risk);
}

static enum status set_age_and_drift(const struct aging *g, struct row *row)
{
    const struct oracle_view *v = g->view;
    double n = (double)(g->n + v->forgotten_n);
    int128 age_us = forgotten_age_us(v);
    for (size_t i = 0; i < g->n; i++)
        if (g->all[i].f->t_us < v->as_of_us)
            age_us += v->as_of_us - g->all[i].f->t_us;

    enum status st = STATUS_OK;
    if (n > 0)
        row_set_float(row, MH_AVG_MEMORY_AGE_HOURS, (double)age_us / n / 3.6e9);
    else
        st = row_set_null(row, MH_AVG_MEMORY_AGE_HOURS, "insufficient_data: have 0, need 1");
    if (st)
        return st;
    if (g->with_cosine < 5)
        return row_set_null(row, MH_TOPIC_RELEVANCE_DRIFT, "insufficient_data: have %d, need 5",
                            (int)g->with_cosine);
    row_set_float(row, MH_TOPIC_RELEVANCE_DRIFT, g->drift);
    return STATUS_OK;
}

static enum status set_details(const struct aging *g, struct row *row)
{
    CLEANUP(buf_deinit) struct buf json;
    struct jsonw w;
    buf_init(&json, 64);
    jsonw_init(&w, &json);
    jsonw_number(&w, g->z);
    enum status st = jsonw_status(&w);
    if (!st && g->a + g->b >= 8)
        st = row_add_detail(row, "z", (struct str){json.data, json.len});
    char text[24];
    int len = snprintf(text, sizeof(text), "%d", (int)g->a);
    if (!st)
        st = row_add_detail(row, "a", (struct str){text, (size_t)len});
    len = snprintf(text, sizeof(text), "%d", (int)g->b);
    if (!st)
        st = row_add_detail(row, "b", (struct str){text, (size_t)len});
    if (!st)
        st = row_add_detail(
            row, "recall",
            str_from(g->any_miss ? "\"recall_probability\"" : "\"retention_of_access_history\""));
    return st ? st : row_add_detail(row, "stability_model", STR("\"fsrs-6\""));
}

static void earlier(int64_t *at_us, int64_t t_us)
{
    *at_us = t_us < *at_us ? t_us : *at_us;
}

static void earlier_by_list(int64_t *at_us, const struct oracle_view *v, const struct list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        const struct aged *m = list->items[i];
        if (m->pinned || m->r <= 0.02)
            continue;
        int64_t idle_us = v->as_of_us > m->fsrs.last_us ? v->as_of_us - m->fsrs.last_us : 0;
        double days = fsrs_days_until(&m->fsrs, m->r - 0.02) - (double)idle_us / 86400e6;
        if (days < 1)
            earlier(at_us, v->as_of_us + (int64_t)(days * 86400e6));
    }
}

static int64_t valid_until(const struct aging *g)
{
    const struct oracle_view *v = g->view;
    int64_t at_us = v->as_of_us + 6 * US_PER_HOUR;

    for (size_t i = v->n_folded; i < v->n_accesses; i++)
        for (int days = 7; days <= 30; days += days == 7 ? 7 : 16) {
            int64_t leaves_us =
                time_floor_us(v->accesses[i]->t_us + days * US_PER_DAY, US_PER_HOUR) + US_PER_HOUR;
            if (leaves_us > hour_of(v))
                earlier(&at_us, leaves_us);
        }
    for (size_t i = 0; i < v->n_messages; i++)
        for (int days = 7; days <= 14; days += 7) {
            if (v->messages[i]->u.message.flags & MSG_BOT)
                continue;
            int64_t leaves_us =
                time_floor_us(v->messages[i]->t_us + days * US_PER_DAY, US_PER_HOUR) + US_PER_HOUR;
            if (leaves_us > hour_of(v))
                earlier(&at_us, leaves_us);
        }
    earlier_by_list(&at_us, v, &g->stale);
    earlier_by_list(&at_us, v, &g->fresh);
    earlier_by_list(&at_us, v, &g->at_risk);
    return at_us;
}

static enum status naive_emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct aging g = {.view = view};

    enum status st = age_all(&g);
    if (!st)
        st = set_json(&g, row, MH_MEMORY_SNAPSHOT, put_snapshot);
    if (!st)
        st = set_age_and_drift(&g, row);
    if (!st)
        st = set_trend_and_risk(&g, row);
    if (!st)
        st = set_details(&g, row);
    if (!st) {
        row->state_flags |= ROW_LEXICAL | (g.accesses ? 0u : ROW_NO_ACCESS_SIGNAL);
        row->confidence = (double)g.accesses / ((double)g.accesses + 20);
        int64_t until_us = valid_until(&g);
        if (row->valid_until_us == 0 || until_us < row->valid_until_us)
            row->valid_until_us = until_us;
    }
    free(g.all);
    return st ? error_set(err, st, "could not recompute the memory health row") : STATUS_OK;
}

extern const struct oracle_ops oracle_memory_aging;

const struct oracle_ops oracle_memory_aging = {
    .engine = "memory_aging",
    .emit = naive_emit,
};
