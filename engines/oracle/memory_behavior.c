/*
 * The naive twin of engines/memory_behavior.c: for every memory a loop over every access and every
 * bin, lists by picking the best of all again and again. Shares only the FSRS formulas and the
 * formulas that turn counts into a row (memory_behavior_row.h).
 */
#include "core/clock.h"
#include "engines/memory_behavior_row.h"
#include "engines/oracle/view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct studied {
    const struct feature *f;
    struct fsrs_state fsrs;
    double r;
    bool pinned;
    bool listed;
};

/* Adds a gap: each bin gets what of the gap lies in it. */
static void add_gap(struct mb_counts *c, const bool *after_spaced, int64_t from_us, int64_t to_us,
                    bool closed)
{
    static const int64_t hours[] = {0, 1, 6, 24, 48, 96, 192, 384, 768, INT64_MAX / 3600};
    int64_t gap_s = to_us > from_us ? (to_us - from_us) / 1000000 : 0;

    for (size_t i = 0; i < 9; i++) {
        int64_t low_s = hours[i] * 3600;
        int64_t high_s = hours[i + 1] * 3600;
        if (gap_s < low_s)
            continue;
        c->gaps.exposure_s[i] += (gap_s < high_s ? gap_s : high_s) - low_s;
        if (closed && gap_s < high_s)
            c->gaps.events[i]++;
    }
    if (!after_spaced)
        return;
    c->gaps.after_events[*after_spaced] += closed;
    c->gaps.after_exposure_s[*after_spaced] += gap_s;
}

static void study(const struct oracle_view *v, size_t index, struct studied *m, struct mb_counts *c)
{
    const struct feature *from = v->origins[index];
    struct mem_rec origin = {
        .created_us = from->t_us,
        .importance = from->u.memory.importance,
        .grade = from->u.memory.grade,
    };
    int64_t last_us = from->t_us;
    bool spaced = false;
    bool accessed = false;

    m->f = v->memories[index];
    m->pinned = v->pinned[index];
    fsrs_start(&m->fsrs, &origin);
    for (size_t i = 0; i < v->n_accesses; i++) {
        const struct feature *f = v->accesses[i];
        if (f->u.memory.memory != m->f->u.memory.memory)
            continue;
        if (i >= v->n_folded)
            add_gap(c, accessed ? &spaced : NULL, last_us, f->t_us, true);
        spaced = f->t_us - last_us >= 6 * US_PER_HOUR;
        accessed = true;
        if (f->t_us > last_us)
            last_us = f->t_us;
        struct access_rec a = {.t_us = f->t_us, .grade = f->u.memory.grade};
        fsrs_fold(&m->fsrs, &origin, &a);
    }
    add_gap(c, accessed ? &spaced : NULL, last_us, v->as_of_us, false);
    m->r = m->pinned ? 1 : fsrs_retention(&m->fsrs, v->as_of_us);
    c->accesses += m->fsrs.reps;
    c->lapses += m->fsrs.lapses;
    c->n_new += m->fsrs.spaced == 0;
    c->n_consolidating += m->fsrs.spaced == 1 || m->fsrs.spaced == 2;
    c->n_consolidated += m->fsrs.spaced >= 3;
    c->n_lapsed += m->fsrs.spaced >= 1 && m->r < 0.3;
}

/* ---- lists ---- */

static bool id_before(const struct studied *x, const struct studied *y)
{
    struct str a = x->f->u.memory.name;
    struct str b = y->f->u.memory.name;
    for (size_t i = 0; i < a.len && i < b.len; i++)
        if (a.ptr[i] != b.ptr[i])
            return (unsigned char)a.ptr[i] < (unsigned char)b.ptr[i];
    return a.len != b.len ? a.len < b.len : x->f->u.memory.memory < y->f->u.memory.memory;
}

static bool belongs(const struct studied *m, bool low)
{
    return low ? m->fsrs.reps >= 1 && m->r < 0.5 : m->fsrs.spaced >= 2 && m->r >= 0.5;
}

static bool comes_before(const struct studied *x, const struct studied *y, bool low)
{
    if (x->r != y->r)
        return low ? x->r < y->r : x->r > y->r;
    return id_before(x, y);
}

static void describe(const struct oracle_view *v, const struct studied *m, struct mb_memory *ret,
                     int64_t *fade_us)
{
    char topic[128] = "";
    for (size_t i = 0; i < m->f->n_labels && i < 3; i++) {
        size_t used = strlen(topic);
        (void)snprintf(topic + used, sizeof(topic) - used, "%s" STR_FMT, used ? " " : "",
                       STR_ARGS(m->f->labels[i]));
    }
    struct str cut = str_cut(str_from(topic), 64);
    struct str name = m->f->u.memory.name;
    *ret =
        (struct mb_memory){.name_len = name.len, .topic_len = cut.len, .r = m->r, .fsrs = m->fsrs};
    memcpy(ret->name, name.ptr, name.len);
    memcpy(ret->topic, cut.ptr, cut.len);
    if (m->pinned || m->r <= 0.02)
        return;
    int64_t idle_us = v->as_of_us > m->fsrs.last_us ? v->as_of_us - m->fsrs.last_us : 0;
    double days = fsrs_days_until(&m->fsrs, m->r - 0.02) - (double)idle_us / 86400e6;
    int64_t at_us = days < 1 ? v->as_of_us + (int64_t)(days * 86400e6) : INT64_MAX;
    *fade_us = at_us < *fade_us ? at_us : *fade_us;
}

static size_t make_list(const struct oracle_view *v, struct studied *all, bool low,
                        struct mb_memory *list, int64_t *fade_us)
{
    for (size_t i = 0; i < v->n_memories; i++)
        all[i].listed = false;
    for (size_t n = 0;; n++) {
        struct studied *best = NULL;
        for (size_t i = 0; i < v->n_memories; i++)
            if (!all[i].listed && belongs(&all[i], low) &&
                (!best || comes_before(&all[i], best, low)))
                best = &all[i];
        if (!best || n == 10)
            return n;
        best->listed = true;
        describe(v, best, &list[n], fade_us);
    }
}

static enum status naive_emit(const struct oracle_view *view, struct row *row, struct error *err)
{
    struct mb_counts c = {
        .as_of_us = view->as_of_us, .next_expiry_us = INT64_MAX, .next_fade_us = INT64_MAX};
    struct studied *all = calloc(view->n_memories + 1, sizeof(*all));
    if (!all)
        return error_set(err, STATUS_NOMEM, "could not recompute the memory behavior row");

    for (size_t i = 0; i < view->n_memories; i++)
        study(view, i, &all[i], &c);
    c.n_high = make_list(view, all, false, c.high, &c.next_fade_us);
    c.n_low = make_list(view, all, true, c.low, &c.next_fade_us);
    for (size_t i = view->n_folded; i < view->n_accesses; i++) {
        int64_t hour_us = 3600 * US_PER_SECOND;
        int64_t leaves_us = view->accesses[i]->t_us + 720 * hour_us;
        leaves_us = time_floor_us(leaves_us, hour_us) + hour_us;
        c.next_expiry_us = leaves_us < c.next_expiry_us ? leaves_us : c.next_expiry_us;
    }
    free(all);
    return mb_write(&c, row, err);
}

extern const struct oracle_ops oracle_memory_behavior;

const struct oracle_ops oracle_memory_behavior = {
    .engine = "memory_behavior",
    .emit = naive_emit,
};
