#include "engines/detector.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define MICRO     1e6
#define FAST      0.1   /* weight of a new slot in the recent mean: about 20 slots */
#define SLOW      0.005 /* ... and in the usual one: about 400 slots */
#define YOUNG     288   /* slots without alarms */
#define THRESHOLD 5.0   /* sum over the sides of -log10(rank) */
#define HOLD      72    /* quiet slots that end an episode */
#define RANKS_MAX 4096  /* counts are halved here: old behaviour fades */
#define TINY      1e-9

void detector_init(struct detector *d)
{
    memset(d, 0, sizeof(*d));
    d->newest_us = INT64_MIN;
}

double detector_score(const struct detector *d)
{
    return d->score;
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

static double judge(struct detector *d, double x)
{
    if (d->slots == 1) {
        d->previous = d->fast = d->slow = x;
        return 0.0;
    }
    double step = fabs(x - d->previous), off = fabs(x - d->slow);
    d->fast += FAST * (x - d->fast);
    double shift = fabs(d->fast - d->slow);
    double sum = rank_of(d, 0, ratio(off, d->deviation)) + rank_of(d, 1, ratio(step, d->step)) +
                 rank_of(d, 2, ratio(shift, d->deviation));
    d->slow += SLOW * (x - d->slow);
    d->deviation += SLOW * (off - d->deviation);
    d->step += SLOW * (step - d->step);
    d->previous = x;
    return d->slots > YOUNG ? sum : 0.0;
}

static void open_episode(struct detector *d, int64_t slot, double level)
{
    if (d->n_episodes == DETECTOR_EPISODES) {
        memmove(d->episodes, d->episodes + 1, (DETECTOR_EPISODES - 1) * sizeof(*d->episodes));
        d->n_episodes--;
    }
    d->episodes[d->n_episodes++] = (struct detector_episode){
        .start_us = slot * DETECTOR_SLOT_US, .level = level, .open = true};
    d->alarm = true;
}

static void close_slot(struct detector *d, int64_t slot, double x, uint32_t n)
{
    d->slots++;
    double level = d->slow, sum = judge(d, x);
    d->score = sum / (sum + THRESHOLD);
    struct detector_episode *e = d->n_episodes ? &d->episodes[d->n_episodes - 1] : NULL;
    bool is_open = e && e->open;
    if (d->score < 0.5) {
        if (is_open && ++d->quiet == HOLD)
            e->open = false;
        return;
    }
    if (!is_open) {
        open_episode(d, slot, level);
        e = &d->episodes[d->n_episodes - 1];
    }
    d->quiet = 0;
    e->end_us = (slot + 1) * DETECTOR_SLOT_US;
    e->n = e->n > UINT32_MAX - n ? UINT32_MAX : e->n + n;
    if (d->score > e->peak) {
        e->peak = d->score;
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

#define FORMAT 1

/* The numbers that describe the stream, for encode and decode alike. */
#define NUMBERS 7
static void numbers_of(struct detector *d, double *ret[NUMBERS])
{
    double *all[NUMBERS] = {&d->previous,  &d->step,  &d->fast, &d->slow,
                            &d->deviation, &d->shift, &d->score};
    memcpy(ret, all, sizeof(all));
}

static enum status put_episode(const struct detector_episode *e, struct buf *out)
{
    enum status st = buf_put_svarint(out, e->start_us);
    st = st ? st : buf_put_svarint(out, e->end_us);
    st = st ? st : buf_put_double(out, e->peak);
    st = st ? st : buf_put_double(out, e->value);
    st = st ? st : buf_put_double(out, e->level);
    st = st ? st : buf_put_varint(out, e->n);
    return st ? st : buf_put_u8(out, e->open);
}

enum status detector_encode(const struct detector *d, struct buf *out)
{
    struct detector copy = *d; /* numbers_of() lends writable places */
    double *numbers[NUMBERS];
    numbers_of(&copy, numbers);
    enum status st = buf_put_u8(out, FORMAT);
    st = st ? st : buf_put_svarint(out, d->newest_us);
    st = st ? st : buf_put_svarint(out, d->first_slot);
    for (int i = 0; i < 2; i++) {
        st = st ? st : buf_put_u64(out, (uint64_t)d->open[i].sum);
        st = st ? st : buf_put_u64(out, (uint64_t)(d->open[i].sum >> 64));
        st = st ? st : buf_put_varint(out, d->open[i].n);
    }
    st = st ? st : buf_put_varint(out, d->late);
    st = st ? st : buf_put_varint(out, d->refused);
    st = st ? st : buf_put_varint(out, d->slots);
    for (int i = 0; i < NUMBERS; i++)
        st = st ? st : buf_put_double(out, *numbers[i]);
    for (int i = 0; i < DETECTOR_SIDES; i++)
        for (int j = 0; j < DETECTOR_BINS; j++)
            st = st ? st : buf_put_varint(out, d->ranks[i][j]);
    st = st ? st : buf_put_u8(out, d->alarm);
    st = st ? st : buf_put_varint(out, d->quiet);
    st = st ? st : buf_put_varint(out, d->n_episodes);
    for (uint32_t i = 0; i < d->n_episodes; i++)
        st = st ? st : put_episode(&d->episodes[i], out);
    return st;
}

static uint64_t get_max(struct reader *in, uint64_t max)
{
    uint64_t v = reader_varint(in);
    in->bad |= v > max;
    return in->bad ? 0 : v;
}

static double get_number(struct reader *in)
{
    double v = reader_double(in);
    in->bad |= !(fabs(v) <= 2.0 * DETECTOR_VALUE_MAX);
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
        d->open[i].n = (uint32_t)get_max(in, UINT32_MAX);
        d->open[i].sum = (int128)(int64_t)high * ((int128)1 << 64) + (int128)low;
        int128 bound = (int128)d->open[i].n * (int64_t)(DETECTOR_VALUE_MAX * MICRO);
        in->bad |= d->open[i].sum > bound || d->open[i].sum < -bound;
    }
}

static void get_ranks(struct detector *d, struct reader *in)
{
    for (int i = 0; i < DETECTOR_SIDES; i++) {
        for (int j = 0; j < DETECTOR_BINS; j++) {
            d->ranks[i][j] = (uint16_t)get_max(in, RANKS_MAX);
            d->rank_totals[i] += d->ranks[i][j];
        }
        in->bad |= d->rank_totals[i] >= RANKS_MAX;
    }
}

static void get_episodes(struct detector *d, struct reader *in)
{
    d->n_episodes = (uint32_t)get_max(in, DETECTOR_EPISODES);
    for (uint32_t i = 0; i < d->n_episodes; i++) {
        struct detector_episode *e = &d->episodes[i];
        e->start_us = get_time(in);
        e->end_us = get_time(in);
        e->peak = get_number(in);
        e->value = get_number(in);
        e->level = get_number(in);
        e->n = (uint32_t)get_max(in, UINT32_MAX);
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
    for (int i = 0; i < NUMBERS; i++)
        *numbers[i] = get_number(in);
    get_ranks(d, in);
    d->alarm = reader_u8(in) != 0;
    d->quiet = (uint32_t)get_max(in, HOLD);
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
