#include "core/metrics.h"

#include "core/buf.h"
#include "core/hash.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* From half a millisecond to a minute: a durable answer takes milliseconds, a row that waits for
 * its trigger seconds. */
const int64_t metric_bounds_us[METRIC_BUCKETS] = {500,     1000,    2500,     5000,    10000,
                                                  25000,   50000,   100000,   250000,  500000,
                                                  1000000, 2500000, 10000000, 60000000};

static const struct metric_family families[METRIC_IDS] = {
#define X(id, name, kind, a, b, help) [id] = {name, help, {a, b}, kind},
    METRICS(X)
#undef X
};

/* Labels and their hash are written before the set is published and never change. On cache lines of
 * its own, so that threads which count different things do not wait for each other. */
struct set {
    _Alignas(64) uint64_t hash;
    char labels[2][METRIC_LABEL_BYTES];
    _Alignas(64) _Atomic uint64_t count; /* a gauge's value, as the bits of a double */
    _Atomic uint64_t sum_us;
    _Atomic uint64_t buckets[METRIC_BUCKETS + 1];
};

static struct family_sets {
    _Atomic uint32_t n;                     /* published */
    struct set sets[LIMIT_METRIC_SETS + 1]; /* the last one is "other" */
} all[METRIC_IDS];
static pthread_mutex_t growing = PTHREAD_MUTEX_INITIALIZER;

const struct metric_family *metric_family(enum metric_id m)
{
    assert(m < METRIC_IDS);
    return &families[m];
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* What is kept of a label: as much as fits of the text it begins with. */
static struct str label_of(const char *value)
{
    struct str s = str_from(value ? value : "");
    s.len = str_text_prefix(s);
    return str_cut(s, METRIC_LABEL_BYTES - 1);
}

/* Two sets with one hash would be counted as one: with 64 bits and a few hundred sets that does not
 * happen by chance, and who could make it happen does not choose labels. */
static uint64_t hash_of(struct str a, struct str b)
{
    return hash64_mix(hash64(a)) ^ hash64(b);
}

static struct set *find(struct family_sets *f, uint64_t hash)
{
    uint32_t n = atomic_load_explicit(&f->n, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++)
        if (f->sets[i].hash == hash)
            return &f->sets[i];
    return NULL;
}

static struct set *append(enum metric_id m, struct str a, struct str b)
{
    struct family_sets *f = &all[m];
    uint32_t n = atomic_load_explicit(&f->n, memory_order_relaxed);
    struct set *s = &f->sets[n];
    s->hash = hash_of(a, b);
    memcpy(s->labels[0], a.ptr, a.len); /* the rest is zero: a set is written once */
    memcpy(s->labels[1], b.ptr, b.len);
    if (families[m].kind == METRIC_GAUGE)
        atomic_store_explicit(&s->count, bits_of(NAN), memory_order_relaxed);
    atomic_store_explicit(&f->n, n + 1, memory_order_release);
    return s;
}

static struct set *insert(enum metric_id m, struct str a, struct str b)
{
    struct family_sets *f = &all[m];
    pthread_mutex_lock(&growing);
    struct set *s = find(f, hash_of(a, b)); /* somebody else was faster? */
    if (!s && atomic_load_explicit(&f->n, memory_order_relaxed) >= LIMIT_METRIC_SETS) {
        a = families[m].labels[0] ? STR("other") : a;
        b = families[m].labels[1] ? STR("other") : b;
        s = find(f, hash_of(a, b));
    }
    if (!s)
        s = append(m, a, b);
    pthread_mutex_unlock(&growing);
    return s;
}

static struct set *set_of(enum metric_id m, enum metric_kind kind, const char *a, const char *b)
{
    assert(m < METRIC_IDS && families[m].kind == kind);
    assert(!a == !families[m].labels[0]);
    assert(!b == !families[m].labels[1]);
    /* As they are: what label_of() changes is not found so, and settled by insert(). */
    struct set *s = find(&all[m], hash_of(str_from(a ? a : ""), str_from(b ? b : "")));
    return s ? s : insert(m, label_of(a), label_of(b));
}

void metric_add(enum metric_id m, const char *a, const char *b, uint64_t n)
{
    struct set *s = set_of(m, METRIC_COUNTER, a, b);
    atomic_fetch_add_explicit(&s->count, n, memory_order_relaxed);
}

void metric_follow(enum metric_id m, const char *a, const char *b, uint64_t total)
{
    struct set *s = set_of(m, METRIC_COUNTER, a, b);
    atomic_store_explicit(&s->count, total, memory_order_relaxed);
}

void metric_set(enum metric_id m, const char *a, const char *b, double value)
{
    struct set *s = set_of(m, METRIC_GAUGE, a, b);
    atomic_store_explicit(&s->count, bits_of(value), memory_order_relaxed);
}

void metric_observe(enum metric_id m, const char *a, const char *b, int64_t us)
{
    struct set *s = set_of(m, METRIC_HISTOGRAM, a, b);
    uint64_t duration = us < 0 ? 0 : (uint64_t)us; /* a wall clock was set back */
    size_t i = 0;
    while (i < METRIC_BUCKETS && duration > (uint64_t)metric_bounds_us[i])
        i++;
    atomic_fetch_add_explicit(&s->sum_us, duration, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->buckets[i], 1, memory_order_relaxed);
}

static struct metric_sample sample_of(enum metric_id m, const struct set *s)
{
    struct metric_sample out = {.labels = {s->labels[0], s->labels[1]}};
    uint64_t bits = atomic_load_explicit(&s->count, memory_order_relaxed);
    if (families[m].kind == METRIC_GAUGE) {
        memcpy(&out.value, &bits, sizeof(bits));
        return out;
    }
    out.count = bits;
    if (families[m].kind == METRIC_COUNTER)
        return out;
    out.sum_us = atomic_load_explicit(&s->sum_us, memory_order_relaxed);
    for (size_t i = 0; i <= METRIC_BUCKETS; i++) {
        out.buckets[i] = atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
        out.count += out.buckets[i]; /* so that they agree, whatever is added meanwhile */
    }
    return out;
}

void metric_each(enum metric_id m, void (*fn)(void *ctx, const struct metric_sample *sample),
                 void *ctx)
{
    assert(m < METRIC_IDS);
    uint32_t n = atomic_load_explicit(&all[m].n, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++) {
        struct metric_sample sample = sample_of(m, &all[m].sets[i]);
        if (families[m].kind != METRIC_GAUGE || !isnan(sample.value))
            fn(ctx, &sample);
    }
}

static void add_up(void *ctx, const struct metric_sample *sample)
{
    *(uint64_t *)ctx += sample->count;
}

uint64_t metric_total(enum metric_id m)
{
    uint64_t total = 0;
    metric_each(m, add_up, &total);
    return total;
}
