#include "engines/switch_model.h"

#include "engines/epoch.h"
#include "engines/kernels.h"

#include <assert.h>
#include <math.h>

#define LOGIT_MAX      (8 << 16) /* the sigmoid table covers -8 .. 8 */
#define LOGIT_STEP     (1 << 12)
#define THRESHOLD_TEXT 18350 /* .28 */
#define THRESHOLD_EMB  21627 /* .33 */
#define SCORES_MIN     200   /* messages of a bot, before its own threshold is believed */

int32_t log2_q8(uint32_t x)
{
    assert(x > 0);
    int bit = 31 - __builtin_clz(x);
    return 256 * bit + (int32_t)(((uint64_t)x << 8) >> bit) - 256;
}

static uint64_t root(uint64_t x)
{
    uint64_t r = (uint64_t)sqrt((double)x);
    while (r * r > x)
        r--;
    while ((r + 1) * (r + 1) <= x)
        r++;
    return r;
}

int32_t cosine_q8(int64_t dot, uint64_t norm2_a, uint64_t norm2_b)
{
    uint64_t product = root(norm2_a * norm2_b);
    return product ? (int32_t)(dot * SWITCH_ONE / (int64_t)product) : 0;
}

uint32_t switch_probability(const struct switch_input *in)
{
    const int32_t *weights = in->embedding ? switch_weights_embedding : switch_weights_text;
    const int8_t *edges = in->embedding ? switch_edges_embedding : switch_edges_text;
    size_t n = in->embedding ? SWITCH_FEATURES : SWITCH_TEXT_FEATURES;
    int64_t z = 0;
    for (size_t i = 0; i < n; i++)
        z += (int64_t)weights[i] * in->x[i];
    z >>= 8;
    for (size_t i = 0; i < sizeof(in->edge); i++)
        z += (int64_t)edges[i * 256 + in->edge[i]] * 1024;
    z = z < -LOGIT_MAX ? -LOGIT_MAX : z >= LOGIT_MAX ? LOGIT_MAX - 1 : z;
    uint32_t at = (uint32_t)(z + LOGIT_MAX);
    const uint16_t *s = &switch_sigmoid[at / LOGIT_STEP];
    return s[0] + (uint32_t)(s[1] - s[0]) * (at % LOGIT_STEP) / LOGIT_STEP;
}

unsigned switch_cell(uint32_t p, bool embedding)
{
    unsigned first = embedding ? EPOCH_SWITCH_EMBEDDING : EPOCH_SWITCH_TEXT;
    return first + p / (SWITCH_CERTAIN / EPOCH_SCORES);
}

/*
 * Scores of a bot say how dense its boundaries are: with p calibrated, predicting from t on has an
 * expected F1 of 2 sum(p >= t) / (n(p >= t) + sum(p)).
 */
static uint32_t best_threshold(const uint32_t scores[EPOCH_SCORES], uint32_t shipped)
{
    const uint64_t step = SWITCH_CERTAIN / EPOCH_SCORES;
    uint64_t n = 0, expected = 0;
    for (size_t i = 0; i < EPOCH_SCORES; i++) {
        n += scores[i];
        expected += scores[i] * (i * step + step / 2);
    }
    if (n < (uint64_t)SCORES_MIN * EPOCH_SCALE)
        return shipped;
    uint64_t above = 0, hits = 0, best_hits = 0, best_size = 1;
    size_t best = EPOCH_SCORES - 1;
    for (size_t i = EPOCH_SCORES; i-- > 1;) {
        above += scores[i];
        hits += scores[i] * (i * step + step / 2);
        uint64_t size = above * SWITCH_CERTAIN + expected;
        if ((int128)hits * best_size > (int128)best_hits * size) {
            best = i;
            best_hits = hits;
            best_size = size;
        }
    }
    return (uint32_t)(best * step);
}

struct switch_threshold switch_threshold(const uint32_t *scores)
{
    struct switch_threshold t = {THRESHOLD_TEXT, THRESHOLD_EMB};
    if (scores) {
        t.text = best_threshold(scores, t.text);
        t.embedding = best_threshold(scores + EPOCH_SCORES, t.embedding);
    }
    return t;
}
