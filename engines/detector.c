#include "engines/detector.h"

#include "core/clock.h"
#include "engines/codec.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/*
 * The shipped parameters. docs/QUALITY.md says what they come from and what half or double of each
 * does; bench/quality/vary_detector.py computes it.
 */
#define MICRO     1e6
#define FAST      0.1   /* weight of a new slot in the recent mean: about the last 10 slots */
#define MIDDLE    0.03  /* ... in the mean that it is compared with: 33 slots */
#define SLOW      0.005 /* ... in what is usual: 200 slots */
#define NOW       0.05  /* ... in how far the recent slots are from the usual level */
#define RUN       24    /* slots that shape compares: two hours */
#define YOUNG     200   /* slots without alarms: what is usual is still being learned */
#define SMOOTH    0.3   /* weight of a new slot in the score */
#define THRESHOLD 4.8   /* four sides, each at a rank of about one in sixteen */
#define HOLD      72    /* quiet slots that end an episode */
#define RANKS_MAX 4096  /* counts are halved here: what was odd long ago fades */
#define FADE      (1.0 / 4000.0) /* of class counts, a slot */
#define TINY      1e-9

_Static_assert(HOLD <= UINT8_MAX && RANKS_MAX <= UINT16_MAX, "the fields that hold them");

void detector_init(struct detector *d)
{
    memset(d, 0, sizeof(*d));
    d->newest_us = INT64_MIN;
}

double detector_score(const struct detector *d)
{
    return d->slots > YOUNG ? d->odd / (d->odd + THRESHOLD) : 0.0;
}

bool detector_alarm(const struct detector *d)
{
    return d->alarm;
}

/* Four bins an octave, from 2^-10 to 2^10, without a logarithm. x is at least 0. */
static unsigned bin_of(double x)
{
    int exponent = 0;
    double mantissa = frexp(x, &exponent);
    if (x <= 0.0 || exponent < -9)
        return 0;
    unsigned bin = (unsigned)(exponent + 9) * 4 + (unsigned)((mantissa - 0.5) * 8.0);
    return bin < DETECTOR_BINS ? bin : DETECTOR_BINS - 1;
}

/* -log10 of the share of earlier slots that were at least as odd; then counts this one. */
static double rank_of(struct detector *d, unsigned side, double odd)
{
    unsigned bin = bin_of(odd);
    uint16_t *counts = d->ranks[side];
    uint32_t above = 0;
    for (unsigned i = bin; i < DETECTOR_BINS; i++)
        above += counts[i];
    double p = ((double)above + 1.0) / ((double)d->rank_totals[side] + 1.0);
    counts[bin]++;
    if (++d->rank_totals[side] == RANKS_MAX) {
        d->rank_totals[side] = 0;
        for (unsigned i = 0; i < DETECTOR_BINS; i++) {
            counts[i] /= 2;
            d->rank_totals[side] += counts[i];
        }
    }
    return -log10(p);
}

static double ratio(double x, double usual)
{
    return fabs(x) / (usual + TINY);
}

/* The slot mean `back` slots ago, 0 = the newest. */
static double history_at(const struct detector *d, uint64_t back)
{
    return d->history[(d->slots - 1 - back) % DETECTOR_HISTORY];
}

static double run_distance(const struct detector *d, uint64_t back, double give_up)
{
    double sum = 0.0;
    for (uint64_t i = 0; i < RUN && sum < give_up; i++) {
        double gap = history_at(d, i) - history_at(d, back + i);
        sum += gap * gap;
    }
    return sum;
}

/*
 * Distance of the last RUN slots to the second nearest of the runs before: the nearest may be
 * a single odd stretch that happened to come twice.
 */
static double judge_shape(struct detector *d)
{
    uint64_t n = d->slots < DETECTOR_HISTORY ? d->slots : DETECTOR_HISTORY;
    if (n < UINT64_C(3) * RUN)
        return 0.0;
    double best = INFINITY, second = INFINITY;
    for (uint64_t back = RUN; back + RUN <= n; back++) {
        double sum = run_distance(d, back, second);
        if (sum < best) {
            second = best;
            best = sum;
        } else if (sum < second) {
            second = sum;
        }
    }
    double distance = sqrt(second / RUN);
    double odd = ratio(distance, d->distance);
    d->distance += SLOW * (distance - d->distance);
    return odd;
}

static uint8_t class_of(double z)
{
    static const double ends[DETECTOR_CLASSES - 1] = {-2.0, -1.0, -0.4, 0.0, 0.4, 1.0, 2.0};
    uint8_t class = 0;
    while (class < DETECTOR_CLASSES - 1 && z >= ends[class])
        class ++;
    return class;
}

/* Relative entropy of the classes of the last slots against those of all slots before this one. */
static double judge_mix(struct detector *d, double z)
{
    uint8_t class = class_of(z);
    d->recent[(d->slots - 1) % DETECTOR_RECENT] = class;
    uint64_t n = d->slots < DETECTOR_RECENT ? d->slots : DETECTOR_RECENT;
    double now[DETECTOR_CLASSES] = {0}, total = 0.0, entropy = 0.0;
    for (uint64_t i = 0; i < n; i++)
        now[d->recent[i]] += 1.0 / (double)n;
    for (int i = 0; i < DETECTOR_CLASSES; i++)
        total += d->classes[i] + 0.5;
    for (int i = 0; i < DETECTOR_CLASSES; i++)
        if (now[i] > 0.0)
            entropy += now[i] * log(now[i] * total / (d->classes[i] + 0.5));
    for (int i = 0; i < DETECTOR_CLASSES; i++)
        d->classes[i] -= FADE * d->classes[i];
    d->classes[class] += 1.0;
    return fmax(0.0, entropy);
}

/* Feeds the next slot mean; returns the sum of -log10(rank) over the sides. */
static double judge(struct detector *d, double x)
{
    if (d->slots == 1)
        d->origin = d->previous = d->fast = d->middle = d->slow = x;
    double away = fabs(x - d->slow), step = fabs(x - d->previous);
    d->fast += FAST * (x - d->fast);
    d->middle += MIDDLE * (x - d->middle);
    d->deviation_now += NOW * (away - d->deviation_now);
    /* Relative to the first value, so that a float holds the small changes of a large number. */
    d->history[(d->slots - 1) % DETECTOR_HISTORY] = (float)(x - d->origin);

    double spread = (d->deviation_now + 1e-3 * d->deviation + TINY) / (d->deviation + TINY);
    double sum = rank_of(d, 0, ratio(d->fast - d->middle, d->step));
    sum += rank_of(d, 1, fabs(log(spread)));
    sum += rank_of(d, 2, judge_shape(d));
    sum += rank_of(d, 3, judge_mix(d, (x - d->slow) / (d->deviation + TINY)));

    double rate = fmax(SLOW, 1.0 / (double)d->slots); /* a plain mean at first */
    d->slow += rate * (x - d->slow);
    d->deviation += rate * (away - d->deviation);
    d->step += rate * (step - d->step);
    d->previous = x;
    return sum;
}

static void open_episode(struct detector *d, double level)
{
    if (d->n_episodes == DETECTOR_EPISODES) {
        memmove(d->episodes, d->episodes + 1, (DETECTOR_EPISODES - 1) * sizeof(*d->episodes));
        d->n_episodes--;
    }
    d->episodes[d->n_episodes++] =
        (struct detector_episode){.start_us = d->rising_us, .level = level, .open = true};
    d->alarm = true;
}

static void close_slot(struct detector *d, int64_t slot, double x, uint32_t n)
{
    d->slots++;
    double level = d->slow, before = d->odd;
    d->odd += SMOOTH * (judge(d, x) - d->odd);
    if (before < THRESHOLD / 2.0)
        d->rising_us = slot * DETECTOR_SLOT_US;
    double score = detector_score(d);
    struct detector_episode *e = d->n_episodes ? &d->episodes[d->n_episodes - 1] : NULL;
    bool is_open = e && e->open;
    if (score < 0.5) {
        if (is_open && ++d->quiet == HOLD)
            e->open = false;
        return;
    }
    if (!is_open) {
        open_episode(d, level);
        e = &d->episodes[d->n_episodes - 1];
    }
    d->quiet = 0;
    e->end_us = (slot + 1) * DETECTOR_SLOT_US;
    e->n = e->n > UINT32_MAX - n ? UINT32_MAX : e->n + n;
    if (score > e->peak) {
        e->peak = score;
        e->value = x;
    }
}

static void close_first(struct detector *d)
{
    if (d->open[0].n)
        close_slot(d, d->first_slot, (double)d->open[0].sum / (double)d->open[0].n / MICRO,
                   d->open[0].n);
    d->open[0] = d->open[1];
    memset(&d->open[1], 0, sizeof(d->open[1]));
    d->first_slot++;
}

/* Number of the slot that t lies in, towards minus infinity. */
static int64_t slot_of(int64_t t_us)
{
    return t_us / DETECTOR_SLOT_US - (t_us % DETECTOR_SLOT_US < 0);
}

void detector_point(struct detector *d, int64_t t_us, double value)
{
    if (!isfinite(value) || t_us < TIME_MIN_US || t_us > TIME_MAX_US) {
        d->refused++;
        return;
    }
    int64_t slot = slot_of(t_us);
    bool first = d->newest_us == INT64_MIN;
    if (first || t_us > d->newest_us) {
        /* Lateness is one slot: the newest slot and the one before it are open. */
        int64_t first_open = slot - 1;
        d->newest_us = t_us;
        d->alarm = false;
        for (int i = 0; i < 2 && !first && d->first_slot < first_open; i++)
            close_first(d);
        d->first_slot = first_open;
    }
    if (slot < d->first_slot) {
        d->late++;
        return;
    }
    unsigned i = (unsigned)(slot - d->first_slot);
    assert(i < 2);
    if (d->open[i].n == UINT32_MAX)
        return;
    d->open[i].sum += llrint(fmax(-DETECTOR_VALUE_MAX, fmin(DETECTOR_VALUE_MAX, value)) * MICRO);
    d->open[i].n++;
}

/* ---- durable bytes */

#define FORMAT     1
#define NUMBER_MAX (4.0 * DETECTOR_VALUE_MAX) /* distances of numbers included */

/* The numbers that describe the stream, for encode and decode alike: first those of any sign. */
#define NUMBERS (10 + DETECTOR_CLASSES)
#define SIGNED  5
static void numbers_of(struct detector *d, double *ret[NUMBERS])
{
    double *all[] = {&d->origin,    &d->previous,      &d->fast, &d->middle,   &d->slow,
                     &d->deviation, &d->deviation_now, &d->step, &d->distance, &d->odd};
    memcpy(ret, all, sizeof(all));
    for (int i = 0; i < DETECTOR_CLASSES; i++)
        ret[10 + i] = &d->classes[i];
}

static uint64_t history_count(const struct detector *d)
{
    return d->slots < DETECTOR_HISTORY ? d->slots : DETECTOR_HISTORY;
}

static void put_history(struct writer *w, const struct detector *d)
{
    for (int i = 0; i < DETECTOR_RECENT; i++)
        put_u8(w, d->recent[i]);
    for (uint64_t i = 0; i < history_count(d); i++) {
        uint32_t bits = 0;
        memcpy(&bits, &d->history[i], sizeof(bits));
        for (int shift = 0; shift < 32; shift += 8)
            put_u8(w, (uint8_t)(bits >> shift));
    }
}

static void get_history(struct detector *d, struct reader *in)
{
    for (int i = 0; i < DETECTOR_RECENT; i++) {
        d->recent[i] = reader_u8(in);
        in->bad |= d->recent[i] >= DETECTOR_CLASSES;
    }
    for (uint64_t i = 0; i < history_count(d); i++) {
        uint32_t bits = reader_u8(in);
        for (int shift = 8; shift < 32; shift += 8)
            bits |= (uint32_t)reader_u8(in) << shift;
        memcpy(&d->history[i], &bits, sizeof(bits));
        in->bad |= !(fabsf(d->history[i]) <= (float)NUMBER_MAX);
    }
}

static void put_episodes(struct writer *w, const struct detector *d)
{
    put_u8(w, d->n_episodes);
    for (int i = 0; i < d->n_episodes; i++) {
        const struct detector_episode *e = &d->episodes[i];
        put_svarint(w, e->start_us);
        put_svarint(w, e->end_us);
        put_double(w, e->peak);
        put_double(w, e->value);
        put_double(w, e->level);
        put_varint(w, e->n);
        put_u8(w, e->open);
    }
}

enum status detector_encode(const struct detector *d, struct buf *out)
{
    struct writer w;
    enum status st = codec_begin(out, DETECTOR_BYTES_MAX, &w);
    if (st)
        return st;
    struct detector copy = *d; /* numbers_of() lends writable places */
    double *numbers[NUMBERS];
    numbers_of(&copy, numbers);
    put_u8(&w, FORMAT);
    put_svarint(&w, d->newest_us);
    put_svarint(&w, d->first_slot);
    for (int i = 0; i < 2; i++) {
        put_u64(&w, (uint64_t)d->open[i].sum);
        put_u64(&w, (uint64_t)(d->open[i].sum >> 64));
        put_varint(&w, d->open[i].n);
    }
    put_varint(&w, d->late);
    put_varint(&w, d->refused);
    put_varint(&w, d->slots);
    for (int i = 0; i < NUMBERS; i++)
        put_double(&w, *numbers[i]);
    for (int i = 0; i < DETECTOR_SIDES; i++)
        for (int j = 0; j < DETECTOR_BINS; j++)
            put_varint(&w, d->ranks[i][j]);
    put_history(&w, d);
    put_svarint(&w, d->rising_us);
    put_u8(&w, d->alarm);
    put_u8(&w, d->quiet);
    put_episodes(&w, d);
    codec_end(out, &w);
    return STATUS_OK;
}

static double get_number(struct reader *in)
{
    double v = reader_double(in);
    in->bad |= !(fabs(v) <= NUMBER_MAX);
    return in->bad ? 0.0 : v;
}

static int64_t get_time(struct reader *in)
{
    int64_t v = reader_svarint(in);
    in->bad |= v < TIME_MIN_US - DETECTOR_SLOT_US || v > TIME_MAX_US + DETECTOR_SLOT_US;
    return in->bad ? 0 : v;
}

static void get_open_slots(struct detector *d, struct reader *in)
{
    for (int i = 0; i < 2; i++) {
        uint64_t low = reader_u64(in), high = reader_u64(in);
        d->open[i].n = (uint32_t)reader_varint_max(in, UINT32_MAX);
        d->open[i].sum = (int128)(int64_t)high * ((int128)1 << 64) + (int128)low;
        int128 bound = (int128)d->open[i].n * (int64_t)(DETECTOR_VALUE_MAX * MICRO);
        in->bad |= d->open[i].sum > bound || d->open[i].sum < -bound;
    }
}

static void get_ranks(struct detector *d, struct reader *in)
{
    for (int i = 0; i < DETECTOR_SIDES; i++) {
        for (int j = 0; j < DETECTOR_BINS; j++) {
            d->ranks[i][j] = (uint16_t)reader_varint_max(in, RANKS_MAX);
            d->rank_totals[i] += d->ranks[i][j];
        }
        in->bad |= d->rank_totals[i] >= RANKS_MAX;
    }
}

static void get_episodes(struct detector *d, struct reader *in)
{
    d->n_episodes = (uint8_t)reader_varint_max(in, DETECTOR_EPISODES);
    for (uint32_t i = 0; i < d->n_episodes; i++) {
        struct detector_episode *e = &d->episodes[i];
        e->start_us = get_time(in);
        e->end_us = get_time(in);
        e->peak = get_number(in);
        e->value = get_number(in);
        e->level = get_number(in);
        e->n = (uint32_t)reader_varint_max(in, UINT32_MAX);
        e->open = reader_u8(in) != 0;
        in->bad |= e->end_us <= e->start_us || e->peak < 0.0 || e->peak > 1.0;
        in->bad |= e->open && i + 1 < d->n_episodes;
    }
}

enum status detector_decode(struct detector *d, struct reader *in, struct error *err)
{
    detector_init(d);
    in->bad |= reader_u8(in) != FORMAT;
    int64_t newest = reader_svarint(in), first = reader_svarint(in);
    get_open_slots(d, in);
    d->late = reader_varint(in);
    d->refused = reader_varint(in);
    d->slots = reader_varint(in);
    double *numbers[NUMBERS];
    numbers_of(d, numbers);
    for (int i = 0; i < NUMBERS; i++) {
        *numbers[i] = get_number(in);
        in->bad |= i >= SIGNED && *numbers[i] < 0.0;
    }
    get_ranks(d, in);
    get_history(d, in);
    d->rising_us = get_time(in);
    d->alarm = reader_u8(in) != 0;
    d->quiet = (uint8_t)reader_varint_max(in, HOLD);
    get_episodes(d, in);
    if (newest == INT64_MIN)
        in->bad |= first != 0 || d->slots != 0;
    else
        in->bad |= newest < TIME_MIN_US || newest > TIME_MAX_US || first != slot_of(newest) - 1;
    d->newest_us = newest;
    d->first_slot = first;
    if (in->bad) {
        detector_init(d);
        return error_set(err, STATUS_CORRUPT, "the state of an anomaly detector is damaged");
    }
    return STATUS_OK;
}
