/*
 * engines/vector.h - arithmetic on the 256-d signed feature vectors, in integers.
 *
 * Sparse vectors are what records keep (sorted by bucket); centroids are dense sums of them, so
 * that adding and subtracting are exact and order-free. Cosines are compared as integers
 * (ENGINES.md E4, "exact test without floats"); a double appears only for display.
 */
#pragma once

#include "engines/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VECTOR_DIMS 256

/* centroid += factor * v; factor -1 is the exact mirror of +1. */
void vector_add(int32_t centroid[VECTOR_DIMS], const struct vector_entry *v, size_t n,
                int32_t factor);
int64_t vector_dot(const int32_t centroid[VECTOR_DIMS], const struct vector_entry *v, size_t n);
int64_t vector_dot_sparse(const struct vector_entry *a, size_t n_a, const struct vector_entry *b,
                          size_t n_b);
int64_t vector_dot_dense(const int32_t a[VECTOR_DIMS], const int32_t b[VECTOR_DIMS]);
uint64_t vector_norm2(const int32_t centroid[VECTOR_DIMS]);
uint32_t vector_norm2_sparse(const struct vector_entry *v, size_t n);

/*
 * cos < p/q for p, q in 1..10^4, exactly, from a dot product and both squared norms. A zero norm
 * counts as cosine 0. Bounds: |dot| and the norms below 2^48, which 2048 messages cannot reach.
 */
bool cosine_below(int64_t dot, uint64_t norm2_a, uint64_t norm2_b, uint32_t p, uint32_t q);
/* Sign of cos(v, a) - cos(v, b) for the same v, exactly; the norms are those of a and b. */
int cosine_compare(int64_t dot_a, uint64_t norm2_a, int64_t dot_b, uint64_t norm2_b);
/* In -1..1; 0 when a norm is 0. */
double cosine(int64_t dot, uint64_t norm2_a, uint64_t norm2_b);
