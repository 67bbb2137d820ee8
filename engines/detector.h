/*
 * engines/detector.h - finds anomalies in one stream of numbers, point by point (ENGINES.md A3).
 *
 * The mean of each closed 5-minute slot is looked at from four sides: where the recent mean moves
 * (momentum), how wide it swings (spread), whether the last two hours ran like this before (shape:
 * distance to the second nearest of the earlier runs) and whether the last slots are of the usual
 * mixture (mix: relative entropy of their classes). Each side keeps a histogram of how odd this
 * stream has been so far, so that a value is judged by its rank among the stream's own, whatever
 * its unit or distribution. The sum of -log10(rank), smoothed, is the score; one shipped threshold
 * raises the alarm, once an episode. It takes more than one slot, and more than one side: a single
 * odd slot, however large, passes.
 *
 * Slots: points of a slot are averaged in integers (10^-6), so their order inside the slot does not
 * matter. A slot closes when the stream's newest point is DETECTOR_LATENESS_US past its end; closed
 * slots are judged in time order, empty ones are skipped at no cost. A point of a closed slot is
 * counted in late and not applied: that is why state depends on the order of arrival across slots,
 * and why it is durable and not rebuilt.
 *
 * Nothing here allocates, reads a clock or fails; no number becomes NaN or infinite. Points that
 * are not finite are counted in refused; larger than DETECTOR_VALUE_MAX are taken as that.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"
#include "engines/kernels.h"

#include <stdbool.h>
#include <stdint.h>

#define DETECTOR_SLOT_US     (INT64_C(300) * 1000000)
#define DETECTOR_LATENESS_US DETECTOR_SLOT_US
#define DETECTOR_VALUE_MAX   1e12
#define DETECTOR_EPISODES    16
#define DETECTOR_BYTES_MAX   4096 /* of a struct detector, and of its encoding */

/* One run of odd slots: from where the score rose towards the alarm to the last odd one. */
struct detector_episode {
    int64_t start_us; /* start of the slot that took the score past half way to the threshold */
    int64_t end_us;   /* end of the last slot so far */
    double peak;      /* the highest score in it, 0..1 */
    double value;     /* the slot mean that had it */
    double level;     /* what was usual before: the slow mean at the start of the episode */
    uint32_t n;       /* points in its odd slots */
    bool open;        /* may still grow */
};

#define DETECTOR_SIDES   4
#define DETECTOR_BINS    80
#define DETECTOR_HISTORY 512 /* closed slots that shape looks back on */
#define DETECTOR_RECENT  52  /* ... and that mix compares with all before */
#define DETECTOR_CLASSES 8   /* of a slot mean, by its distance from the usual level */

/* Fixed size, no pointers; embed it, but read no more than the fields that have a comment. */
struct detector {
    int64_t newest_us;
    int64_t first_slot;
    struct {
        int128 sum;
        uint32_t n;
    } open[2];
    uint64_t late;    /* points that came after their slot had closed */
    uint64_t refused; /* points that were no finite number, or at no time that can be written */
    uint64_t slots;   /* slots judged so far */
    double origin, previous, fast, middle, slow;
    double deviation, deviation_now, step, distance;
    double classes[DETECTOR_CLASSES];
    double odd;
    int64_t rising_us;
    float history[DETECTOR_HISTORY];
    uint16_t ranks[DETECTOR_SIDES][DETECTOR_BINS];
    uint32_t rank_totals[DETECTOR_SIDES];
    uint8_t recent[DETECTOR_RECENT];
    uint8_t quiet;
    bool alarm;
    uint8_t n_episodes;
    struct detector_episode
        episodes[DETECTOR_EPISODES]; /* oldest first; at most the last is open */
};
_Static_assert(sizeof(struct detector) <= DETECTOR_BYTES_MAX, "A3: at most 4 KB a stream");

void detector_init(struct detector *d);
void detector_point(struct detector *d, int64_t t_us, double value);

/* 0..1 of the slot that closed last, 0.5 at the threshold; 0 while the stream is too young. */
double detector_score(const struct detector *d);
/* Whether the last point closed a slot that opened an episode. */
bool detector_alarm(const struct detector *d);

/* Appends at most DETECTOR_BYTES_MAX bytes, which must fit under the ceiling of out. */
MUST_CHECK enum status detector_encode(const struct detector *d, struct buf *out);
/* Foreign bytes: anything that detector_encode() cannot have written gives CORRUPT. */
MUST_CHECK enum status detector_decode(struct detector *d, struct reader *in, struct error *err);
