#include "engines/retention.h"

#include "core/clock.h"
#include "core/hash.h"
#include "core/status.h"
#include "engines/kernels.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_S INT64_C(3600)
const int64_t retention_lag_edges_s[RETENTION_LAGS - 1] = {
    1 * HOUR_S,  6 * HOUR_S,   24 * HOUR_S,  48 * HOUR_S,
    96 * HOUR_S, 192 * HOUR_S, 384 * HOUR_S, 768 * HOUR_S,
};

enum status retention_new(struct retention **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret ? STATUS_OK : STATUS_NOMEM;
}

void retention_free(struct retention *r)
{
    if (r)
        free(r->at);
    free(r);
}

size_t retention_bytes(const struct retention *r)
{
    return r ? sizeof(*r) + r->cap * sizeof(*r->at) : 0;
}

static void gap_change(struct gap_counts *c, enum gap_opener opener, int64_t gap_us, bool closed,
                       int sign)
{
    int64_t gap_s = gap_us > 0 ? gap_us / US_PER_SECOND : 0;
    uint32_t event = closed ? (uint32_t)sign : 0;
    size_t bin =
        kernel_gap_expose(retention_lag_edges_s, RETENTION_LAGS, gap_s, sign, c->exposure_s);
    c->events[bin] += event;
    if (opener == GAP_AFTER_CREATION)
        return;
    c->after_events[opener] += event;
    c->after_exposure_s[opener] += sign * gap_s;
}

void gap_count(struct gap_counts *c, enum gap_opener opener, int64_t gap_us, bool closed)
{
    gap_change(c, opener, gap_us, closed, 1);
}

/* ---- one memory ---- */

/* The state before the first access in the window. */
static struct fsrs_state state_at_start(const struct mem_rec *m)
{
    struct fsrs_state s = m->base;
    if (s.reps == 0)
        fsrs_start(&s, m);
    return s;
}

enum gap_opener gap_opener_of(const struct fsrs_state *s)
{
    return s->reps == 0 ? GAP_AFTER_CREATION : s->last_spaced ? GAP_AFTER_SPACED : GAP_AFTER_MASSED;
}

static void entry_start(struct retained *e, const struct mem_rec *m)
{
    *e = (struct retained){.id = m->id, .fsrs = state_at_start(m)};
}

static void entry_fold(struct retained *e, const struct mem_rec *m, const struct access_rec *a)
{
    e->r_before = fsrs_retention(&e->fsrs, a->t_us);
    fsrs_fold(&e->fsrs, m, a);
    e->newest_us = a->t_us;
    e->newest_id = a->id;
    e->in_window++;
}

static bool is_older(int64_t t_us, uint64_t id, int64_t than_us, uint64_t than_id)
{
    return t_us < than_us || (t_us == than_us && id < than_id);
}

/* ---- keeping up with the log ---- */

static bool make_room(struct retention *r, size_t n)
{
    if (n <= r->cap)
        return true;
    size_t cap = r->cap < 8 ? 8 : r->cap + r->cap / 2;
    cap = cap < n ? n : cap;
    struct retained *grown = reallocarray(r->at, cap, sizeof(*grown));
    if (!grown)
        return false;
    r->at = grown;
    r->cap = cap;
    return true;
}

/*
 * The oldest access leaves. Most often it leaves for good: then its memory comes back with a base
 * that contains it, and what was folded from the old base stands, less one access in the window.
 */
static void oldest_leaves(struct retention *r, const struct retained *e, const struct mem_rec *m,
                          const struct access_rec *a)
{
    if (e->stale || !r->counted)
        return;
    struct fsrs_state before = state_at_start(m);
    gap_change(&r->closed, gap_opener_of(&before), a->t_us - before.last_us, true, -1);
    r->leaving = (struct leaving){.set = true, .memory = m->id, .base = m->base, .entry = *e};
    fsrs_fold(&r->leaving.base, m, a);
    r->leaving.entry.in_window--;
    r->leaving.any_stale = r->any_stale;
}

static bool has_left(const struct retention *r, const struct mem_rec *m)
{
    const struct fsrs_state *x = &r->leaving.base;
    const struct fsrs_state *y = &m->base;
    return r->leaving.set && r->leaving.memory == m->id && x->reps == y->reps &&
           x->last_us == y->last_us && x->difficulty == y->difficulty &&
           x->stability_days == y->stability_days && x->lapses == y->lapses &&
           x->spaced == y->spaced && x->last_spaced == y->last_spaced;
}

static void memory_insert(struct retention *r, const struct key_log *log, size_t index)
{
    const struct mem_rec *m = &log->memories[index];
    if (!make_room(r, r->n + 1)) {
        r->started = false;
        return;
    }
    struct retained *e = &r->at[index];
    memmove(e + 1, e, (r->n - index) * sizeof(*e));
    r->n++;
    if (has_left(r, m)) {
        *e = r->leaving.entry;
        r->any_stale = r->leaving.any_stale;
        r->counted = true;
        return;
    }
    entry_start(e, m);
    for (size_t i = 0; i < log->n_accesses; i++)
        if (log->accesses[i].memory == m->id)
            entry_fold(e, m, &log->accesses[i]);
    if (e->in_window)
        r->counted = false;
}

static void memory_retract(struct retention *r, const struct key_log *log, size_t index)
{
    struct retained *e = &r->at[index];
    assert(index < r->n && e->id == log->memories[index].id);
    if (e->in_window)
        r->counted = false;
    memmove(e, e + 1, (r->n - index - 1) * sizeof(*e));
    r->n--;
}

/* NULL when the memory is not known. */
static struct retained *entry_of(const struct retention *r, const struct key_log *log,
                                 const struct access_rec *a)
{
    const struct mem_rec *m = key_log_memory(log, a->memory);
    return m ? &r->at[m - log->memories] : NULL;
}

static void mark_stale(struct retention *r, struct retained *e)
{
    e->stale = true;
    r->any_stale = true;
    r->counted = false;
}

static void access_insert(struct retention *r, const struct key_log *log,
                          const struct access_rec *a)
{
    struct retained *e = entry_of(r, log, a);
    if (!e || e->stale)
        return;
    if (e->in_window && !is_older(e->newest_us, e->newest_id, a->t_us, a->id)) {
        mark_stale(r, e);
        return;
    }
    if (r->counted)
        gap_count(&r->closed, gap_opener_of(&e->fsrs), a->t_us - e->fsrs.last_us, true);
    entry_fold(e, &log->memories[e - r->at], a);
}

void retention_insert(struct retention *r, const struct key_log *log, enum record_kind kind,
                      size_t index)
{
    if (!r->started)
        return;
    r->aged = false;
    if (kind == RECORD_MEMORY)
        memory_insert(r, log, index);
    else if (kind == RECORD_ACCESS)
        access_insert(r, log, &log->accesses[index]);
    r->leaving.set = false;
}

void retention_retract(struct retention *r, const struct key_log *log, enum record_kind kind,
                       size_t index)
{
    if (!r->started)
        return;
    r->aged = false;
    if (kind == RECORD_MEMORY) {
        memory_retract(r, log, index);
    } else if (kind == RECORD_ACCESS) {
        const struct access_rec *a = &log->accesses[index];
        struct retained *e = entry_of(r, log, a);
        r->leaving.set = false;
        if (e && index == 0)
            oldest_leaves(r, e, &log->memories[e - r->at], a);
        if (e)
            mark_stale(r, e);
    }
}

/* ---- one pass over the accesses ---- */

/* Memory id -> index, for as long as a pass takes: thousands of binary searches over large records
 * would be most of its time. */
#define SLOTS (4 * LIMIT_MEMORIES)
struct slots {
    uint16_t at[SLOTS]; /* index + 1; 0 = empty */
};
_Static_assert((SLOTS & (SLOTS - 1)) == 0 && LIMIT_MEMORIES + 1 < UINT16_MAX, "slots hold indexes");

static void slots_fill(struct slots *x, const struct retention *r)
{
    memset(x->at, 0, sizeof(x->at));
    for (size_t i = 0; i < r->n; i++) {
        size_t at = hash64_mix(r->at[i].id) & (SLOTS - 1);
        while (x->at[at])
            at = (at + 1) & (SLOTS - 1);
        x->at[at] = (uint16_t)(i + 1);
    }
}

/* r->n when there is none. */
static size_t slots_find(const struct slots *x, const struct retention *r, uint64_t memory)
{
    for (size_t at = hash64_mix(memory) & (SLOTS - 1); x->at[at]; at = (at + 1) & (SLOTS - 1))
        if (r->at[x->at[at] - 1].id == memory)
            return x->at[at] - 1u;
    return r->n;
}

/* How far the gaps of a memory have been followed. */
struct cursor {
    int64_t last_us;
    enum gap_opener opener;
};

static void cursor_step(struct cursor *c, int64_t t_us, struct gap_counts *counts)
{
    int64_t gap_us = t_us > c->last_us ? t_us - c->last_us : 0;
    gap_count(counts, c->opener, gap_us, true);
    c->last_us += gap_us;
    c->opener = gap_us >= FSRS_SPACED_US ? GAP_AFTER_SPACED : GAP_AFTER_MASSED;
}

static void restart_stale(struct retention *r, const struct key_log *log)
{
    for (size_t i = 0; i < r->n; i++) {
        if (!r->at[i].stale)
            continue;
        entry_start(&r->at[i], &log->memories[i]);
        r->at[i].stale = true;
    }
}

static void pass(struct retention *r, const struct key_log *log)
{
    struct slots slots;
    struct cursor cursors[LIMIT_MEMORIES + 1];

    assert(r->n == log->n_memories && r->n <= LIMIT_MEMORIES + 1);
    restart_stale(r, log);
    for (size_t i = 0; i < r->n; i++) {
        const struct mem_rec *m = &log->memories[i];
        cursors[i] = (struct cursor){m->base.reps ? m->base.last_us : m->created_us,
                                     gap_opener_of(&m->base)};
    }
    slots_fill(&slots, r);
    r->closed = (struct gap_counts){0};
    for (size_t i = 0; i < log->n_accesses; i++) {
        const struct access_rec *a = &log->accesses[i];
        size_t at = slots_find(&slots, r, a->memory);
        if (at == r->n)
            continue;
        if (r->at[at].stale)
            entry_fold(&r->at[at], &log->memories[at], a);
        cursor_step(&cursors[at], a->t_us, &r->closed);
    }
    for (size_t i = 0; i < r->n; i++)
        r->at[i].stale = false;
    r->any_stale = false;
    r->counted = true;
}

static enum status start(struct retention *r, const struct key_log *log, struct error *err)
{
    if (!make_room(r, log->n_memories))
        return error_set(err, STATUS_NOMEM, "could not allocate the folds of %zu memories",
                         log->n_memories);
    r->n = log->n_memories;
    for (size_t i = 0; i < r->n; i++)
        r->at[i] = (struct retained){.id = log->memories[i].id, .stale = true};
    r->any_stale = true;
    r->counted = false;
    r->aged = false;
    r->started = true;
    return STATUS_OK;
}

static void age(struct retention *r, int64_t as_of_us)
{
    r->known = 0;
    for (size_t i = 0; i < r->n; i++) {
        r->at[i].r = fsrs_retention(&r->at[i].fsrs, as_of_us);
        r->known += r->at[i].in_window;
    }
    r->aged = true;
    r->aged_us = as_of_us;
}

enum status retention_of(const struct key_log *log, const struct retention **ret, struct error *err)
{
    struct retention *r = log->retention;
    enum status st = r->started ? STATUS_OK : start(r, log, err);
    if (st)
        return st;
    if (r->any_stale || !r->counted)
        pass(r, log);
    if (!r->aged || r->aged_us != log->as_of_us)
        age(r, log->as_of_us);
    *ret = r;
    return STATUS_OK;
}

/* ---- before an access ---- */

bool retention_before(const struct key_log *log, uint64_t memory, int64_t t_us, uint64_t id,
                      double *ret)
{
    const struct mem_rec *m = key_log_memory(log, memory);
    if (!m || (m->base.reps > 0 && t_us <= m->base.last_us))
        return false;
    const struct retention *r = log->retention;
    const struct retained *e = r && r->started ? &r->at[m - log->memories] : NULL;
    if (e && !e->stale && e->in_window && e->newest_us == t_us && e->newest_id == id) {
        *ret = e->r_before;
        return true;
    }
    struct fsrs_state s = state_at_start(m);
    if (e && !e->stale && (!e->in_window || is_older(e->newest_us, e->newest_id, t_us, id))) {
        s = e->fsrs;
    } else {
        for (size_t i = 0; i < log->n_accesses; i++) {
            const struct access_rec *a = &log->accesses[i];
            if (a->memory == memory && is_older(a->t_us, a->id, t_us, id))
                fsrs_fold(&s, m, a);
        }
    }
    *ret = fsrs_retention(&s, t_us);
    return true;
}
