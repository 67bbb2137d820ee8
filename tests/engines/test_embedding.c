/*
 * Goal: embeddings of any size become 64 bytes that keep their directions, and of different models
 * or sizes are told apart.
 * Method: small ones by hand; large random ones by their cosines.
 */
#include "engines/embedding.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct embedding take(const float *x, uint32_t dims, const char *model)
{
    struct event_message m = {
        .embedding = x, .embedding_dims = dims, .embedding_model = str_from(model)};
    struct embedding e;
    embedding_take(&m, &e);
    return e;
}

static double cosine_of(const struct embedding *a, const struct embedding *b)
{
    double dot = 0, n = 0, m = 0;
    for (size_t i = 0; i < RECORD_EMBEDDING; i++) {
        dot += a->v[i] * b->v[i];
        n += a->v[i] * a->v[i];
        m += b->v[i] * b->v[i];
    }
    return dot / sqrt(n * m);
}

static void test_small_ones_are_scaled_to_127(void **state)
{
    (void)state;
    const float x[] = {0.5F, -1.0F, 0.25F};
    struct embedding e = take(x, 3, "m");
    assert_int_not_equal(e.model, 0);
    assert_int_equal(e.v[0], 64); /* 63.5, half to even */
    assert_int_equal(e.v[1], -127);
    assert_int_equal(e.v[2], 32); /* 31.75 */
    assert_int_equal(e.v[3], 0);
}

static void test_nothing_and_zeros_are_none(void **state)
{
    (void)state;
    const float zeros[100] = {0};
    assert_int_equal(take(NULL, 0, "m").model, 0);
    assert_int_equal(take(zeros, 3, "m").model, 0);
    assert_int_equal(take(zeros, 100, "m").model, 0);
}

static void test_models_and_sizes_are_told_apart(void **state)
{
    (void)state;
    const float x[] = {1, 2, 3};
    assert_int_not_equal(take(x, 3, "m").model, take(x, 3, "n").model);
    assert_int_not_equal(take(x, 3, "m").model, take(x, 2, "m").model);
    assert_int_equal(take(x, 3, "m").model, take(x, 3, "m").model);
}

static void test_large_ones_keep_their_directions(void **state)
{
    (void)state;
    enum { DIMS = 1536 };
    static float a[DIMS], near[DIMS], far[DIMS];
    uint32_t seed = 7;
    for (size_t i = 0; i < DIMS; i++) {
        float r[3];
        for (size_t k = 0; k < 3; k++) {
            seed = seed * 1664525u + 1013904223u;
            r[k] = (float)(seed >> 8) / (float)(1 << 23) - 1;
        }
        a[i] = r[0];
        near[i] = r[0] + 0.3F * r[1]; /* cosine .96 */
        far[i] = r[2];
    }
    struct embedding e = take(a, DIMS, "m"), n = take(near, DIMS, "m"), f = take(far, DIMS, "m");
    assert_true(cosine_of(&e, &n) > 0.85);
    assert_true(fabs(cosine_of(&e, &f)) < 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_ones_are_scaled_to_127),
        cmocka_unit_test(test_nothing_and_zeros_are_none),
        cmocka_unit_test(test_models_and_sizes_are_told_apart),
        cmocka_unit_test(test_large_ones_keep_their_directions),
    };
    return cmocka_run_group_tests_name("engines/embedding", tests, NULL, NULL);
}
