#include "engines/gap_law.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#define GAP_PRIOR   40.0  /* gaps that the context's row counts for */
#define EPOCH_PRIOR 100.0 /* gaps that the coarser estimate counts for */
#define LEARNED     24    /* lengths up to 24,433 s: what an epoch can tell */
#define GAP_DECAY   62915 /* 0.96 in 1/65536 */

unsigned gap_length(int64_t gap_us)
{
    unsigned low = 0, high = EPOCH_GAP_BINS - 1;
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (gap_us > gap_edges_us[mid + 1])
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

unsigned gap_context(int64_t t_us, int64_t previous_us)
{
    unsigned class = previous_us < 0                    ? 4
                     : previous_us < 2 * US_PER_MINUTE  ? 0
                     : previous_us < 20 * US_PER_MINUTE ? 1
                     : previous_us < US_PER_DAY         ? 2
                                                        : 3;
    int64_t hour = (t_us - time_floor_us(t_us, US_PER_DAY)) / US_PER_HOUR;
    return class * GAP_BLOCKS + (unsigned)(hour / 4);
}

uint32_t gap_fade(uint32_t weight)
{
    return (uint32_t)((uint64_t)weight * GAP_DECAY >> 16);
}

void gap_history_add(struct gap_history *h, int64_t gap_us, uint32_t weight)
{
    unsigned at = gap_length(gap_us);
    h->weight[at] += 2 * (uint64_t)weight;
    h->weight[at > 0 ? at - 1 : at] += weight;
    h->weight[at < EPOCH_GAP_BINS - 1 ? at + 1 : at] += weight;
}

/* ---- the prior of a context ---- */

static void take_shipped(unsigned context, double ret[EPOCH_GAP_BINS])
{
    double sum = 0;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        sum += gap_prior[context][b];
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        ret[b] = gap_prior[context][b] / sum;
}

/* share = (count + EPOCH_PRIOR * share) / (n + EPOCH_PRIOR) */
static void learn_row(const uint64_t counts[LEARNED], double share[LEARNED])
{
    double n = 0;
    for (size_t b = 0; b < LEARNED; b++)
        n += (double)counts[b] / EPOCH_SCALE;
    for (size_t b = 0; b < LEARNED; b++)
        share[b] = ((double)counts[b] / EPOCH_SCALE + EPOCH_PRIOR * share[b]) / (n + EPOCH_PRIOR);
}

static void learn_epoch(const struct epoch *e, unsigned context, double law[EPOCH_GAP_BINS])
{
    uint64_t row[LEARNED], class[LEARNED] = {0};
    const uint32_t *cells = &e->v[EPOCH_GAPS];
    size_t at = context, first = at - at % GAP_BLOCKS;
    for (size_t b = 0; b < LEARNED; b++) {
        row[b] = cells[at * EPOCH_GAP_BINS + b];
        for (size_t c = first; c < first + GAP_BLOCKS; c++)
            class[b] += cells[c * EPOCH_GAP_BINS + b];
    }
    double share[LEARNED], mass = 0;
    for (size_t b = 0; b < LEARNED; b++)
        mass += law[b];
    for (size_t b = 0; b < LEARNED; b++)
        share[b] = law[b] / mass;
    learn_row(class, share);
    learn_row(row, share);
    for (size_t b = 0; b < LEARNED; b++)
        law[b] = share[b] * mass;
}

void gap_law(const struct gap_history *h, unsigned context, const struct epoch *epoch,
             double ret[EPOCH_GAP_BINS])
{
    assert(context < GAP_CONTEXTS);
    take_shipped(context, ret);
    if (epoch)
        learn_epoch(epoch, context, ret);
    uint64_t own = 0;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        own += h->weight[b];
    double n = (double)own / (double)GAP_UNIT + GAP_PRIOR;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        ret[b] = ((double)h->weight[b] / (double)GAP_UNIT + GAP_PRIOR * ret[b]) / n;
}

/* ---- reading it ---- */

/* A run of lengths that is shown as one. */
struct part {
    unsigned end; /* the edge above it */
    double p;
    double width; /* on the logarithmic scale */
};

static double evenness(double p, double width)
{
    return p * log(p / width);
}

/* What is lost when two neighbours are shown with one density. */
static double merging_loss(const struct part *a, const struct part *b)
{
    return evenness(a->p, a->width) + evenness(b->p, b->width) -
           evenness(a->p + b->p, a->width + b->width);
}

void gap_points(const double law[EPOCH_GAP_BINS], struct gap_point ret[GAP_POINTS])
{
    struct part parts[EPOCH_GAP_BINS];
    size_t n = EPOCH_GAP_BINS;
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b++) {
        /* The outer lengths reach to half a second and to 400 days. */
        double low = b == 0 ? 0.5e6 : (double)gap_edges_us[b];
        double high =
            b + 1 == EPOCH_GAP_BINS ? 400.0 * (double)US_PER_DAY : (double)gap_edges_us[b + 1];
        parts[b] = (struct part){b + 1, law[b], log(high / low)};
    }
    while (n > GAP_POINTS + 1) {
        size_t best = 0;
        double least = INFINITY;
        for (size_t i = 0; i + 1 < n; i++) {
            double loss = merging_loss(&parts[i], &parts[i + 1]);
            if (loss < least) {
                least = loss;
                best = i;
            }
        }
        parts[best].end = parts[best + 1].end;
        parts[best].p += parts[best + 1].p;
        parts[best].width += parts[best + 1].width;
        n--;
        memmove(&parts[best + 1], &parts[best + 2], (n - best - 1) * sizeof(parts[0]));
    }
    double sum = 0;
    for (size_t i = 0; i < GAP_POINTS; i++) {
        sum += parts[i].p;
        ret[i] = (struct gap_point){(double)gap_edges_us[parts[i].end] / 1e6, fmin(sum, 1.0)};
    }
}

/* Share of length b beyond from_us. */
static double share_beyond(const double law[EPOCH_GAP_BINS], size_t b, int64_t from_us)
{
    if (from_us <= gap_edges_us[b])
        return law[b];
    if (from_us >= gap_edges_us[b + 1])
        return 0;
    double low = (double)gap_edges_us[b], high = (double)gap_edges_us[b + 1];
    return law[b] * log(high / (double)from_us) / log(high / low);
}

int64_t gap_quantile_us(const double law[EPOCH_GAP_BINS], int64_t from_us, double at)
{
    double total = 0, sum = 0;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        total += share_beyond(law, b, from_us);
    if (total <= 0)
        return from_us;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++) {
        double p = share_beyond(law, b, from_us);
        if (p > 0 && sum + p >= at * total) {
            double low = (double)(from_us > gap_edges_us[b] ? from_us : gap_edges_us[b]);
            double high = (double)gap_edges_us[b + 1];
            return (int64_t)(low * pow(high / low, (at * total - sum) / p));
        }
        sum += p;
    }
    return gap_edges_us[EPOCH_GAP_BINS];
}

/* Share of the law that lies beyond a silence. */
static double silence_beyond(const double law[EPOCH_GAP_BINS], int64_t us)
{
    double share = 0;
    for (size_t b = 0; b < EPOCH_GAP_BINS; b++)
        share += share_beyond(law, b, us);
    return share;
}

double gap_return(const double law[EPOCH_GAP_BINS], const double activity[HOURS_OF_WEEK],
                  int64_t last_us, int64_t t_us)
{
    double before = silence_beyond(law, t_us - last_us);
    if (before <= 0)
        return 0;
    double stays = silence_beyond(law, t_us + GAP_VISIT_STEP_US - last_us) / before;
    /* The hazard is as many times the usual one as the hour is busier than the average hour. */
    return 1 - pow(stays, activity[kernel_hour_of_week(t_us)] * HOURS_OF_WEEK);
}

struct gap_visit gap_next_visit(const double law[EPOCH_GAP_BINS],
                                const double activity[HOURS_OF_WEEK], int64_t last_us,
                                int64_t now_us)
{
    int64_t end_us = last_us + GAP_VISIT_HORIZON_US;
    int64_t t_us = now_us > last_us ? now_us : last_us + 1;
    while (t_us < end_us && gap_return(law, activity, last_us, t_us) < GAP_LIKELY)
        t_us += GAP_VISIT_STEP_US;
    struct gap_visit visit = {t_us, t_us};
    while (visit.until_us < end_us &&
           gap_return(law, activity, last_us, visit.until_us) >= GAP_LIKELY)
        visit.until_us += GAP_VISIT_STEP_US;
    return visit;
}
