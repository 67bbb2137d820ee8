/*
 * Goal: a session is cut into topics where the scores say so, and topics are recognised again.
 * Method: hand-made messages of one vector entry per token, all of weight 16; thresholds that are
 * set by the scores themselves, since what the weights are is not the matter here.
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
    m.words = (uint16_t)n;
    m.chars = (uint16_t)(5 * n);
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

#define NEVER  ((struct switch_threshold){SWITCH_CERTAIN, SWITCH_CERTAIN})
#define ALWAYS ((struct switch_threshold){0, 0})
#define COUNT  16

/* Walks over n records, 15 s apart; returns the number of segments. */
static size_t walk(struct msg_rec *r, size_t n, struct switch_threshold t, struct segmenter *w,
                   struct segment s[COUNT])
{
    struct key_log log = {.messages = r, .n_messages = n};
    for (size_t i = 0; i < n; i++)
        r[i].t_us = (int64_t)i * 15000000;
    segmenter_start(w, t);
    for (size_t i = 0; i < n; i++)
        segmenter_add(w, &log, 0);
    segmenter_segments(w, &log, 0, s);
    return w->n_starts;
}

/* Opens at record i and nowhere before it: no other score may be as large. */
static struct switch_threshold at_record(struct msg_rec *r, size_t n, size_t i)
{
    struct segmenter w;
    struct segment s[COUNT];
    walk(r, n, NEVER, &w, s);
    return (struct switch_threshold){w.p[i], SWITCH_CERTAIN};
}

static void test_a_new_subject_scores_higher_than_more_of_the_old_one(void **state)
{
    (void)state;
    struct msg_rec more[] = {SAY(DOG, LEG, LIMP), SAY(DOG, LEG, VET), SAY(DOG, LEG, SLEEP)};
    struct msg_rec other[] = {SAY(DOG, LEG, LIMP), SAY(DOG, LEG, VET), SAY(RUST, BORROW, LOOP)};
    struct segmenter w, v;
    struct segment s[COUNT];
    walk(more, 3, NEVER, &w, s);
    walk(other, 3, NEVER, &v, s);
    assert_int_equal(w.p[0], 0);
    assert_int_equal(w.p[1], v.p[1]);
    assert_true(v.p[2] > w.p[2]);
}

static void test_the_first_segment_opens_with_the_session_whatever_the_threshold(void **state)
{
    (void)state;
    struct msg_rec r[] = {bot(SAY(DOG, LEG, LIMP)), SAY(RUST, BORROW, LOOP)};
    struct segmenter w;
    struct segment s[COUNT];
    assert_int_equal(walk(r, 2, NEVER, &w, s), 1);
    assert_int_equal(s[0].n, 2);
    assert_int_equal(s[0].n_user, 1);
    assert_int_equal(walk(r, 2, ALWAYS, &w, s), 2);
    assert_int_equal(s[0].n_user, 0);
    assert_int_equal(s[1].first, 1);
}

static void test_a_bot_opens_a_topic_as_a_user_does(void **state)
{
    (void)state;
    struct msg_rec r[] = {SAY(DOG, LEG, LIMP), SAY(DOG, LEG, VET), bot(SAY(RUST, BORROW, CHECKER))};
    struct segmenter w;
    struct segment s[COUNT];
    assert_int_equal(walk(r, 3, at_record(r, 3, 2), &w, s), 2);
    assert_int_equal(s[1].first, 2);
    assert_int_equal(s[1].n_user, 0);
}

static void test_a_message_without_a_token_opens_nothing(void **state)
{
    (void)state;
    struct msg_rec r[] = {SAY(DOG, LEG, LIMP), {.chars = 3}};
    struct segmenter w;
    struct segment s[COUNT];
    walk(r, 2, NEVER, &w, s);
    assert_int_equal(w.p[1], 0);
}

static void test_one_message_aside_is_merged_back(void **state)
{
    (void)state;
    struct msg_rec r[] = {SAY(DOG, LEG, LIMP), SAY(DOG, LEG, LIMP), SAY(RUST, BORROW, LOOP),
                          SAY(DOG, LEG, VET)};
    struct segmenter w;
    struct segment s[COUNT];
    struct switch_threshold t = at_record(r, 4, 2);
    assert_true(w.p[2] >= w.p[1]);
    assert_int_equal(walk(r, 3, t, &w, s), 2);
    assert_true(w.opened);
    /* cos(v, old) = 2/3: the aside returns, and counts among the old segment's records. */
    assert_int_equal(walk(r, 4, t, &w, s), 1);
    assert_int_equal(s[0].n, 4);
    /* Nearer to the aside than to what was before it: both stay. */
    r[3] = SAY(DOG, RUST, BORROW);
    assert_true(walk(r, 4, t, &w, s) >= 2);
    assert_int_equal(s[1].first, 2);
}

static void test_a_bot_weighs_half_in_the_centroid(void **state)
{
    (void)state;
    struct msg_rec r[] = {SAY(DOG, LEG, LIMP), bot(SAY(RUST, BORROW, CHECKER))};
    struct segmenter w;
    struct segment s[COUNT];
    assert_int_equal(walk(r, 2, NEVER, &w, s), 1);
    assert_int_equal(s[0].n_vector, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(s[0].weight[i], s[0].bucket[i] < OK ? 32 : 16);
    assert_int_equal(s[0].norm2, 3 * 32 * 32 + 3 * 16 * 16);
}

static void test_valence_is_summed_over_user_messages_with_an_emotion(void **state)
{
    (void)state;
    struct msg_rec r[] = {feeling(SAY(DOG, LEG, LIMP), -100), SAY(OK),
                          bot(feeling(SAY(DOG, LEG, VET), 100)), feeling(SAY(OK), 30)};
    struct segmenter w;
    struct segment s[COUNT];
    assert_int_equal(walk(r, 4, NEVER, &w, s), 1);
    assert_int_equal(s[0].n_valence, 2);
    assert_int_equal(s[0].valence_sum, -70);
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
    struct segmenter w;
    struct segment s[COUNT];
    assert_int_equal(walk(r, 2, NEVER, &w, s), 1);
    assert_int_equal(s[0].n_vector, RECORD_VECTOR);
    assert_int_equal(s[0].bucket[0], 7);
    assert_int_equal(s[0].weight[0], -34);
    /* Of the equal ones the highest bucket had to go. */
    for (size_t i = 1; i < RECORD_VECTOR; i++)
        assert_int_equal(s[0].bucket[i], 99 + i);
    assert_int_equal(s[0].norm2, 34 * 34 + 31 * 32 * 32);
}

static void test_a_full_session_stays_within_its_numbers(void **state)
{
    (void)state;
    /* The largest weights 128 times: sums are int16_t, counts uint8_t. */
    static struct msg_rec r[RECORD_SESSION_MAX];
    for (size_t i = 0; i < RECORD_SESSION_MAX; i++) {
        r[i] = (struct msg_rec){.t_us = (int64_t)i,
                                .n_vector = RECORD_VECTOR,
                                .words = UINT16_MAX,
                                .chars = UINT16_MAX,
                                .norm2 = RECORD_VECTOR * 127 * 127};
        for (size_t e = 0; e < RECORD_VECTOR; e++)
            r[i].vector[e] = (struct vector_entry){.bucket = (uint8_t)e, .weight = -127};
    }
    struct key_log log = {.messages = r, .n_messages = RECORD_SESSION_MAX};
    struct segmenter w;
    segmenter_start(&w, NEVER);
    for (size_t i = 0; i < RECORD_SESSION_MAX; i++)
        segmenter_add(&w, &log, 0);
    assert_int_equal(w.parts[w.current].w[0], -127 * RECORD_SESSION_MAX);
    assert_int_equal(w.parts[w.current].norm2, (uint64_t)RECORD_VECTOR * (127 * 128) * (127 * 128));
    segmenter_start(&w, ALWAYS);
    for (size_t i = 0; i < RECORD_SESSION_MAX; i++)
        segmenter_add(&w, &log, 0);
    assert_int_equal(w.n_starts, RECORD_SESSION_MAX);
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
        cmocka_unit_test(test_a_new_subject_scores_higher_than_more_of_the_old_one),
        cmocka_unit_test(test_the_first_segment_opens_with_the_session_whatever_the_threshold),
        cmocka_unit_test(test_a_bot_opens_a_topic_as_a_user_does),
        cmocka_unit_test(test_a_message_without_a_token_opens_nothing),
        cmocka_unit_test(test_one_message_aside_is_merged_back),
        cmocka_unit_test(test_a_bot_weighs_half_in_the_centroid),
        cmocka_unit_test(test_valence_is_summed_over_user_messages_with_an_emotion),
        cmocka_unit_test(test_a_segment_keeps_its_32_largest_entries),
        cmocka_unit_test(test_a_full_session_stays_within_its_numbers),
        cmocka_unit_test(test_a_33rd_topic_replaces_the_smallest_and_oldest),
        cmocka_unit_test(test_a_segment_without_a_vector_has_no_topic),
    };
    return cmocka_run_group_tests_name("engines/segment", tests, NULL, NULL);
}
