#include "engines/embedding.h"

#include "core/hash.h"

#include <math.h>
#include <string.h>

#define SUMS_A_VALUE 4

static void project(const float *x, uint32_t dims, uint64_t seed, double sums[RECORD_EMBEDDING])
{
    for (uint32_t i = 0; i < dims; i++) {
        uint64_t bits = hash64_mix(seed + i);
        for (unsigned k = 0; k < SUMS_A_VALUE; k++, bits >>= 7)
            sums[bits % RECORD_EMBEDDING] += bits & RECORD_EMBEDDING ? -(double)x[i] : (double)x[i];
    }
}

void embedding_take(const struct event_message *e, struct embedding *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (!e->embedding || e->embedding_dims == 0)
        return;
    double sums[RECORD_EMBEDDING] = {0};
    uint64_t seed = hash64_mix(hash64(e->embedding_model) ^ e->embedding_dims);
    if (e->embedding_dims > RECORD_EMBEDDING)
        project(e->embedding, e->embedding_dims, seed, sums);
    for (uint32_t i = 0; e->embedding_dims <= RECORD_EMBEDDING && i < e->embedding_dims; i++)
        sums[i] = e->embedding[i];
    double most = 0;
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        most = fmax(most, fabs(sums[i]));
    if (!(most > 0) || !isfinite(most))
        return;
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        ret->v[i] = (int8_t)rint(127 * (sums[i] / most));
    ret->model = (uint32_t)(seed >> 32) | 1;
}
