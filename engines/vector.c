#include "engines/vector.h"

#include <assert.h>
#include <math.h>

__extension__ typedef __int128 wide;

void vector_add(int32_t centroid[VECTOR_DIMS], const struct vector_entry *v, size_t n,
                int32_t factor)
{
    for (size_t i = 0; i < n; i++)
        centroid[v[i].bucket] += factor * v[i].weight;
}

int64_t vector_dot(const int32_t centroid[VECTOR_DIMS], const struct vector_entry *v, size_t n)
{
    int64_t dot = 0;
    for (size_t i = 0; i < n; i++)
        dot += (int64_t)centroid[v[i].bucket] * v[i].weight;
    return dot;
}

int64_t vector_dot_sparse(const struct vector_entry *a, size_t n_a, const struct vector_entry *b,
                          size_t n_b)
{
    int64_t dot = 0;
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        if (a[i].bucket == b[j].bucket)
            dot += (int64_t)a[i++].weight * b[j++].weight;
        else if (a[i].bucket < b[j].bucket)
            i++;
        else
            j++;
    }
    return dot;
}

int64_t vector_dot_dense(const int32_t a[VECTOR_DIMS], const int32_t b[VECTOR_DIMS])
{
    int64_t dot = 0;
    for (size_t i = 0; i < VECTOR_DIMS; i++)
        dot += (int64_t)a[i] * b[i];
    return dot;
}

uint64_t vector_norm2(const int32_t centroid[VECTOR_DIMS])
{
    return (uint64_t)vector_dot_dense(centroid, centroid);
}

uint32_t vector_norm2_sparse(const struct vector_entry *v, size_t n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (uint32_t)(v[i].weight * v[i].weight);
    return sum;
}

bool cosine_below(int64_t dot, uint64_t norm2_a, uint64_t norm2_b, uint32_t p, uint32_t q)
{
    assert(p > 0 && p <= 10000);
    assert(q > 0 && q <= 10000);
    if (dot <= 0 || norm2_a == 0 || norm2_b == 0)
        return true;
    /* dot / sqrt(a b) < p / q, both sides positive, so squaring keeps the order. */
    return (wide)dot * dot * q * q < (wide)norm2_a * (wide)norm2_b * p * p;
}

/* sign(dot) * dot^2 * norm2: grows with the cosine when norm2 is that of the other vector. */
static wide signed_square(int64_t dot, uint64_t norm2)
{
    wide square = (wide)dot * dot * (wide)norm2;
    return dot < 0 ? -square : square;
}

int cosine_compare(int64_t dot_a, uint64_t norm2_a, int64_t dot_b, uint64_t norm2_b)
{
    if (norm2_a == 0)
        dot_a = 0, norm2_a = 1;
    if (norm2_b == 0)
        dot_b = 0, norm2_b = 1;
    wide a = signed_square(dot_a, norm2_b);
    wide b = signed_square(dot_b, norm2_a);
    return a < b ? -1 : a > b;
}

double cosine(int64_t dot, uint64_t norm2_a, uint64_t norm2_b)
{
    if (norm2_a == 0 || norm2_b == 0)
        return 0;
    double c = (double)dot / (sqrt((double)norm2_a) * sqrt((double)norm2_b));
    return c > 1 ? 1 : c < -1 ? -1 : c;
}
