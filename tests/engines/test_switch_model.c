/*
 * Goal: the formula of switch_model.h is what it says, and a bot's threshold follows its scores.
 * Method: the same numbers in floating point, and a distribution small enough for pencil and paper.
 */
#include "engines/epoch.h"
#include "engines/switch_model.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_logarithms_are_linear_between_powers_of_two(void **state)
{
    (void)state;
    assert_int_equal(log2_q8(1), 0);
    assert_int_equal(log2_q8(2), 256);
    assert_int_equal(log2_q8(3), 384);
    assert_int_equal(log2_q8(65536), 16 * 256);
    for (uint32_t x = 1; x < 5000; x++)
        assert_true(log2_q8(x + 1) >= log2_q8(x));
}

static void test_cosines_go_towards_zero(void **state)
{
    (void)state;
    assert_int_equal(cosine_q8(3, 9, 1), 256);
    assert_int_equal(cosine_q8(-1, 3, 3), -85); /* -256 / 3 = -85.3 */
    assert_int_equal(cosine_q8(1, 3, 3), 85);
    assert_int_equal(cosine_q8(0, 0, 5), 0);
    /* The largest norms that a session has. */
    assert_int_equal(
        cosine_q8(INT64_C(32) * 127 * 16256, 32 * 127 * 127, (uint64_t)32 * 16256 * 16256), 256);
}

static double in_floating_point(const struct switch_input *in)
{
    double z = 0;
    const int32_t *w = in->embedding ? switch_weights_embedding : switch_weights_text;
    const int8_t *edges = in->embedding ? switch_edges_embedding : switch_edges_text;
    for (size_t i = 0; i < (in->embedding ? SWITCH_FEATURES : SWITCH_TEXT_FEATURES); i++)
        z += w[i] / 65536.0 * in->x[i] / SWITCH_ONE;
    for (size_t i = 0; i < 2 * RECORD_EDGES; i++)
        z += edges[256 * i + in->edge[i]] / 64.0;
    return 1 / (1 + exp(-fmax(-8, fmin(8, z))));
}

static void test_probabilities_are_those_of_the_logistic(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        struct switch_input in = {.embedding = round % 2};
        for (size_t i = 0; i < SWITCH_FEATURES; i++) {
            seed = seed * 1664525u + 1013904223u;
            in.x[i] = (int32_t)(seed >> 24) * (round % 7);
        }
        for (size_t i = 0; i < sizeof(in.edge); i++)
            in.edge[i] = (uint8_t)(seed >> (8 * i));
        uint32_t p = switch_probability(&in);
        assert_true(p < SWITCH_CERTAIN);
        /* The table is linear between sixteenths: off by at most 5e-5. */
        assert_true(fabs(p / 65536.0 - in_floating_point(&in)) < 1e-4);
    }
}

static void test_the_threshold_is_the_one_with_the_best_expected_f1(void **state)
{
    (void)state;
    struct switch_threshold shipped = switch_threshold(NULL);
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    /*
     * 240 messages score 6.5/64 = .1016 and 60 score 48.5/64 = .7578: 69.84 boundaries expected.
     * From .75 on: F1 = 2 x 45.47 / (60 + 69.84) = .70; all of them: 139.7 / 369.8 = .38.
     */
    e->v[EPOCH_SWITCH_TEXT + 6] = 240 * EPOCH_SCALE;
    e->v[EPOCH_SWITCH_TEXT + 48] = 60 * EPOCH_SCALE;
    assert_int_equal(switch_threshold(e->v + EPOCH_SWITCH_TEXT).text, 48 * 1024);
    assert_int_equal(switch_threshold(e->v + EPOCH_SWITCH_TEXT).embedding, shipped.embedding);
    e->v[EPOCH_SWITCH_TEXT + 6] = 0;
    e->v[EPOCH_SWITCH_TEXT + 30] = 240 * EPOCH_SCALE;
    /* 2 x 159.8 / (300 + 159.8) = .70 > 2 x 45.47 / (60 + 159.8) = .41 */
    assert_int_equal(switch_threshold(e->v + EPOCH_SWITCH_TEXT).text, 30 * 1024);
    e->v[EPOCH_SWITCH_TEXT + 30] = 0; /* 60 messages are too few to say */
    assert_int_equal(switch_threshold(e->v + EPOCH_SWITCH_TEXT).text, shipped.text);
    free(e);
}

static void test_scores_are_counted_in_64_cells(void **state)
{
    (void)state;
    assert_int_equal(switch_cell(0, false), EPOCH_SWITCH_TEXT);
    assert_int_equal(switch_cell(65535, false), EPOCH_SWITCH_TEXT_END);
    assert_int_equal(switch_cell(1024, true), EPOCH_SWITCH_EMBEDDING + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logarithms_are_linear_between_powers_of_two),
        cmocka_unit_test(test_cosines_go_towards_zero),
        cmocka_unit_test(test_probabilities_are_those_of_the_logistic),
        cmocka_unit_test(test_the_threshold_is_the_one_with_the_best_expected_f1),
        cmocka_unit_test(test_scores_are_counted_in_64_cells),
    };
    return cmocka_run_group_tests_name("engines/switch_model", tests, NULL, NULL);
}
