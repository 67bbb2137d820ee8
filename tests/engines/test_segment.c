/*
 * Goal: a session is cut into topics, and topics are recognised again, as ENGINES.md E4 says.
 * Method: hand-made messages of one vector entry per token, all of weight 16.
 */
#include "engines/segment.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum token { DOG, LEG, LIMP, VET, OK, RUST, BORROW, CHECKER, LOOP, SLEEP, SALT, PASTA };

static struct msg_rec message(size_t n, const enum token *tokens)
{
    struct msg_rec m = {.n_vector = (uint8_t)n};
    for (size_t i = 0; i < n; i++) {
        m.vector[i].bucket = (uint8_t)tokens[i];
        m.vector[i].weight = 16;
    }
    m.norm2 = (uint32_t)(n * 16 * 16);
    if (n >= 3)
        m.flags |= MSG_INFORMATIVE;
    return m;
}
#define SAY(...) \
    message(sizeof((enum token[]){__VA_ARGS__}) / sizeof(enum token), (enum token[]){__VA_ARGS__})

static struct msg_rec bot(struct msg_rec m)
{
    m.flags |= MSG_BOT;
    return m;
}

static struct msg_rec feeling(struct msg_rec m, int8_t valence)
{
    m.flags |= MSG_HAS_EMOTION;
    m.valence = valence;
    return m;
}

static void test_the_golden_dialogue_has_three_topics_and_returns_to_the_first(void **state)
{
    (void)state;
    const struct msg_rec r[] = {
        SAY(DOG, LEG, LIMP),        SAY(DOG, LEG, VET),      SAY(OK),
        SAY(RUST, BORROW, CHECKER), SAY(RUST, BORROW, LOOP), SAY(DOG, LEG, SLEEP)};
    struct segment s[6];
    assert_int_equal(segment_session(r, 6, s), 3);
    assert_int_equal(s[0].first, 0);
    assert_int_equal(s[1].first, 3);
    assert_int_equal(s[2].first, 5);
    assert_int_equal(s[0].n_user, 3);
    const struct segment *list[] = {&s[0], &s[1], &s[2]};
    uint8_t cluster[3];
    segment_cluster(list, 3, cluster);
    assert_int_equal(cluster[0], cluster[2]);
    assert_int_not_equal(cluster[0], cluster[1]);
}

static void test_one_message_aside_is_merged_back(void **state)
{
    (void)state;
    const struct msg_rec r[] = {SAY(DOG, LEG, LIMP), SAY(RUST, BORROW, LOOP), SAY(OK),
                                SAY(DOG, LEG, VET), SAY(DOG, LEG, SLEEP)};
    struct segment s[5];
    assert_int_equal(segment_session(r, 5, s), 1);
    /* Up to the aside alone it counts as a switch. */
    assert_int_equal(segment_session(r, 3, s), 2);
}

static void test_a_return_that_fits_the_aside_better_does_not_merge(void **state)
{
    (void)state;
    const struct msg_rec r[] = {SAY(DOG, LEG, LIMP), SAY(RUST, BORROW, LOOP),
                                SAY(DOG, RUST, BORROW)};
    struct segment s[3];
    assert_int_equal(segment_session(r, 3, s), 2);
    assert_int_equal(s[1].n, 2);
}

static void test_bots_and_short_messages_never_open_a_topic(void **state)
{
    (void)state;
    const struct msg_rec r[] = {SAY(DOG, LEG, LIMP), bot(SAY(RUST, BORROW, CHECKER)),
                                SAY(SALT, PASTA), SAY(DOG, LEG, VET)};
    struct segment s[4];
    assert_int_equal(segment_session(r, 4, s), 1);
    assert_int_equal(s[0].n, 4);
    assert_int_equal(s[0].n_user, 3);
}

static void test_a_bot_weighs_half_in_the_centroid(void **state)
{
    (void)state;
    const struct msg_rec r[] = {SAY(DOG, LEG, LIMP), bot(SAY(RUST, BORROW, CHECKER))};
    struct segment s[2];
    assert_int_equal(segment_session(r, 2, s), 1);
    assert_int_equal(s[0].n_vector, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(s[0].weight[i], s[0].bucket[i] < OK ? 32 : 16);
    assert_int_equal(s[0].norm2, 3 * 32 * 32 + 3 * 16 * 16);
}

static void test_small_talk_before_the_first_topic_belongs_to_it(void **state)
{
    (void)state;
    const struct msg_rec r[] = {bot(SAY(SALT, PASTA, LOOP)), SAY(OK), SAY(DOG, LEG, LIMP)};
    struct segment s[3];
    assert_int_equal(segment_session(r, 3, s), 1);
    assert_int_equal(s[0].n, 3);
}

static void test_a_session_of_bots_has_no_topic(void **state)
{
    (void)state;
    const struct msg_rec r[] = {bot(SAY(DOG, LEG, LIMP)), bot(SAY(RUST, BORROW, LOOP))};
    struct segment s[2];
    assert_int_equal(segment_session(r, 2, s), 0);
}

static void test_valence_is_summed_over_user_messages_with_an_emotion(void **state)
{
    (void)state;
    const struct msg_rec r[] = {feeling(SAY(DOG, LEG, LIMP), -100), SAY(OK),
                                bot(feeling(SAY(DOG, LEG, VET), 100)), feeling(SAY(OK), 30)};
    struct segment s[4];
    assert_int_equal(segment_session(r, 4, s), 1);
    assert_int_equal(s[0].n_valence, 2);
    assert_int_equal(s[0].valence_sum, -70);
}

static void test_the_threshold_is_exact(void **state)
{
    (void)state;
    /* |v|^2 = 100^2 and |c|^2 = 4 * 100^2: cos = 10/100 stays, 9/100 opens a topic. */
    struct msg_rec first = {.flags = MSG_INFORMATIVE, .n_vector = 1, .norm2 = 10000};
    first.vector[0].bucket = 0;
    first.vector[0].weight = 100;
    struct msg_rec second = {.flags = MSG_INFORMATIVE, .n_vector = 2, .norm2 = 10000};
    second.vector[0].bucket = 0;
    second.vector[0].weight = 10;
    second.vector[1].bucket = 1;
    second.vector[1].weight = 99; /* norm2 says 10^4: the test is on the cosine's own terms */
    struct msg_rec r[] = {first, second};
    struct segment s[2];
    assert_int_equal(segment_session(r, 2, s), 1);
    r[1].vector[0].weight = 9;
    assert_int_equal(segment_session(r, 2, s), 2);
}

static void test_a_segment_keeps_its_32_largest_entries(void **state)
{
    (void)state;
    struct msg_rec r[2] = {{.n_vector = RECORD_VECTOR}, {.n_vector = RECORD_VECTOR}};
    for (size_t i = 0; i < RECORD_VECTOR; i++) {
        /* Buckets 100..131 at 16 and 0..31 at 15, but for a negative one that is larger. */
        r[0].vector[i] = (struct vector_entry){.bucket = (uint8_t)(100 + i), .weight = 16};
        r[1].vector[i] = (struct vector_entry){.bucket = (uint8_t)i, .weight = 15};
    }
    r[1].vector[7].weight = -17;
    struct segment s[2];
    assert_int_equal(segment_session(r, 2, s), 1);
    assert_int_equal(s[0].n_vector, RECORD_VECTOR);
    assert_int_equal(s[0].bucket[0], 7);
    assert_int_equal(s[0].weight[0], -34);
    /* Of the equal ones the highest bucket had to go. */
    for (size_t i = 1; i < RECORD_VECTOR; i++)
        assert_int_equal(s[0].bucket[i], 99 + i);
    assert_int_equal(s[0].norm2, 34 * 34 + 31 * 32 * 32);
}

static void test_a_33rd_topic_replaces_the_smallest_and_oldest(void **state)
{
    (void)state;
    struct segment s[40];
    const struct segment *list[40];
    uint8_t cluster[40];
    for (size_t i = 0; i < 40; i++) {
        /* 0..31 start a topic each, 32 repeats topic 0, 33 is new and pushes topic 1 out. */
        uint8_t topic = i < 32 ? (uint8_t)i : i == 32 ? 0 : 200;
        s[i] = (struct segment){.n_vector = 1, .bucket = {topic}, .weight = {20}, .norm2 = 400};
        list[i] = &s[i];
    }
    segment_cluster(list, 34, cluster);
    assert_int_equal(cluster[32], cluster[0]);
    assert_int_equal(cluster[1], SEGMENT_OTHER);
    assert_int_not_equal(cluster[33], SEGMENT_OTHER);
    for (size_t i = 2; i < 32; i++)
        assert_int_not_equal(cluster[i], SEGMENT_OTHER);
}

static void test_a_segment_without_a_vector_has_no_topic(void **state)
{
    (void)state;
    struct segment s = {.n = 1, .n_user = 1};
    const struct segment *list[] = {&s};
    uint8_t cluster[1];
    segment_cluster(list, 1, cluster);
    assert_int_equal(cluster[0], SEGMENT_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_golden_dialogue_has_three_topics_and_returns_to_the_first),
        cmocka_unit_test(test_one_message_aside_is_merged_back),
        cmocka_unit_test(test_a_return_that_fits_the_aside_better_does_not_merge),
        cmocka_unit_test(test_bots_and_short_messages_never_open_a_topic),
        cmocka_unit_test(test_a_bot_weighs_half_in_the_centroid),
        cmocka_unit_test(test_small_talk_before_the_first_topic_belongs_to_it),
        cmocka_unit_test(test_a_session_of_bots_has_no_topic),
        cmocka_unit_test(test_valence_is_summed_over_user_messages_with_an_emotion),
        cmocka_unit_test(test_the_threshold_is_exact),
        cmocka_unit_test(test_a_segment_keeps_its_32_largest_entries),
        cmocka_unit_test(test_a_33rd_topic_replaces_the_smallest_and_oldest),
        cmocka_unit_test(test_a_segment_without_a_vector_has_no_topic),
    };
    return cmocka_run_group_tests_name("engines/segment", tests, NULL, NULL);
}
