/*
 * Goal: conversation patterns are what ENGINES.md E6 says.
 * Method: hand-made conversations with numbers from the specification.
 */
#include "core/hash.h"
#include "tests/engines/patterns_rig.h"

#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_style_of_the_golden_words(void **state)
{
    (void)state;
    static const unsigned lengths[] = {3, 5, 8, 8, 40};
    struct rig r;
    rig_start(&r);
    for (unsigned i = 0; i < 10; i++) {
        char text[RIG_TEXT_MAX];
        rig_words(text, lengths[i % 5], i % 5 < 2 ? "?" : "");
        rig_user(&r, START_US + i * US_PER_MINUTE, i, text);
    }
    r.now_us = START_US + US_PER_HOUR;
    rig_emit(&r);
    struct str style = row_value(&r.row, CP_COMMUNICATION_STYLE);
    rig_assert_has(style, "\"words\":{\"mean\":12.8,\"p10\":3,\"p50\":8,\"p90\":40}");
    rig_assert_has(style, "\"question_rate\":0.4,");
    rig_assert_has(style, "\"n\":10,");
    rig_assert_has(style, "\"verbosity\":\"moderate\"");
    rig_assert_has(style, "\"how_top\":[{\"how\":0,\"share\":1}]");
    rig_assert_has(style, "\"user_initiated_share\":1,");
    rig_assert_has(style, "\"reply_latency_s\":null");
    rig_assert_has(style, "\"drift\":{\"words_p50\":null}");
    rig_assert_has(style, "\"style_match\":null");
    rig_stop(&r);
}

/*
 * "the" and "and" are the bot's frequent words. Of the user's words 2/4 are "the" and 1/4 "and", of
 * the bot's 1/8 and 3/8: 1 - .375 / .6251 = .400096 and 1 - .125 / .6251 = .800032, mean .600064.
 */
static void test_style_match_of_two_words(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    struct epoch *e = rig_epoch_new();
    e->v[EPOCH_MESSAGES] = 100 * EPOCH_SCALE;
    uint64_t the = hash64(STR("the")) % EPOCH_DF_BUCKETS;
    uint64_t and = hash64(STR("and")) % EPOCH_DF_BUCKETS;
    assert_true(the % RECORD_COMMON != and % RECORD_COMMON);
    e->v[EPOCH_DF + the] = 60 * EPOCH_SCALE;
    e->v[EPOCH_DF + and] = 50 * EPOCH_SCALE;
    assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
    r.now_us = START_US + US_PER_HOUR;
    for (unsigned i = 0; i < 20; i += 2) {
        rig_user(&r, START_US + i * US_PER_MINUTE, i, "The the and dogs");
        rig_bot(&r, START_US + i * US_PER_MINUTE + 1, i + 1, "the cat ran, and and and so on");
    }
    rig_emit(&r);
    rig_assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE), "\"style_match\":0.600064,");
    rig_stop(&r);
}

/* Quartiles of the bot's messages at 2, 4 and 6 words; before there are 100 of them 10, 30, 60. */
static void test_verbosity_is_relative_to_the_bots_users(void **state)
{
    (void)state;
    static const struct {
        unsigned words;
        uint32_t messages;
        const char *want;
    } cases[] = {{1, 100, "\"brief\""},     {2, 100, "\"moderate\""},  {4, 100, "\"elaborate\""},
                 {5, 100, "\"elaborate\""}, {6, 100, "\"extensive\""}, {6, 99, "\"brief\""},
                 {30, 99, "\"elaborate\""}, {60, 99, "\"extensive\""}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static const unsigned lengths[] = {2, 4, 6, 20};
        struct rig r;
        rig_start(&r);
        struct epoch *e = rig_epoch_new();
        e->v[EPOCH_USER_MESSAGES] = cases[i].messages * EPOCH_SCALE;
        for (size_t q = 0; q < 4; q++)
            e->v[EPOCH_WORDS + hist_bucket(lengths[q])] = 25 * EPOCH_SCALE;
        assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
        char text[RIG_TEXT_MAX];
        rig_words(text, cases[i].words, "");
        r.now_us = START_US + US_PER_HOUR;
        for (unsigned m = 0; m < 10; m++)
            rig_user(&r, START_US + m, m, text);
        rig_emit(&r);
        char want[64];
        snprintf(want, sizeof(want), "\"verbosity\":%s", cases[i].want);
        rig_assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE), want);
        rig_stop(&r);
    }
}

static void read_fingerprint(const struct rig *r, int8_t out[256])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char key[] = "\"fingerprint\":\"";
    struct str style = row_value(&r->row, CP_COMMUNICATION_STYLE);
    const char *at = memmem(style.ptr, style.len, key, sizeof(key) - 1);
    assert_non_null(at);
    at += sizeof(key) - 1;
    uint32_t bits = 0;
    for (size_t n = 0, have = 0; n < 256; at++) {
        assert_non_null(strchr(digits, *at));
        bits = bits << 6 | (uint32_t)(strchr(digits, *at) - digits);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (int8_t)(uint8_t)(bits >> have);
        }
    }
    assert_memory_equal(at, "==\"", 3); /* 256 bytes are 85 groups and one byte */
}

/* Who writes like everybody else has nothing to show but zeros; against nobody he would. */
static void test_the_fingerprint_is_what_sets_a_user_apart(void **state)
{
    (void)state;
    static const char text[] = "i was wondering about that, too!";
    struct text_features marks;
    text_extract(str_from(text), NULL, &marks);
    for (int with = 0; with < 2; with++) {
        struct rig r;
        rig_start(&r);
        struct epoch *e = rig_epoch_new();
        for (size_t i = 0; i < RECORD_MARKS && with; i++)
            e->v[EPOCH_MARKS + i] = marks.marks[i / 8] >> (i % 8) & 1 ? 1000 * EPOCH_SCALE : 0;
        e->v[EPOCH_USER_MESSAGES] = 1000 * EPOCH_SCALE * (uint32_t)with;
        for (uint32_t f = CP_FLAG_EXCLAIM; f <= CP_FLAG_END_PUNCT && with; f += 4)
            e->v[EPOCH_STYLE_FLAGS + f] = 1000 * EPOCH_SCALE;
        assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
        r.now_us = START_US + US_PER_HOUR;
        for (unsigned m = 0; m < 20; m++)
            rig_user(&r, START_US + m, m, text);
        rig_emit(&r);
        int8_t print[256];
        int largest = 0;
        read_fingerprint(&r, print);
        for (size_t i = 24; i < 256; i++)
            largest = abs(print[i]) > largest ? abs(print[i]) : largest;
        /* 20 messages with n marks: 28 / (20 n / 232 + 8) is 1.5 or more for n up to 120. */
        assert_in_range(largest, with ? 0 : 64 / 2, with ? 16 : 127);
        /* Everybody exclaims: sqrt(1) - sqrt(1 - .75 * 20 / 1020) = .0074, 254 times that is 2;
         * with nobody known the usual rate is .25: 254 * (1 - .5) = 127. */
        assert_int_equal(print[CP_FLAG_EXCLAIM], with ? 2 : 127);
        rig_stop(&r);
    }
}

static uint32_t sum_of(const struct rig *r, unsigned first, unsigned last)
{
    uint32_t sum = 0;
    for (unsigned cell = first; cell <= last; cell++)
        sum += r->lessons.v[cell];
    return sum;
}

/* New messages teach, once: no edit, no copy, no deletion, nothing late and nothing ahead of T. */
static void test_a_new_message_teaches_once(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + 40 * US_PER_DAY;
    int64_t t = r.now_us - 7 * US_PER_MINUTE; /* 40 days after a Monday 0:00, at 23:53 */
    rig_user(&r, t, 1, "Is it you?");
    rig_user(&r, t, 1, "Is it you?");
    rig_say(&r, &(struct said){ROLE_USER, MESSAGE_UPDATE, t, 1, "Is it me? No", NULL, 0});
    rig_user(&r, START_US, 2, "far too late");
    rig_user(&r, r.now_us + US_PER_HOUR, 3, "not yet");
    rig_take_back(&r, 1, t);
    assert_int_equal(r.lessons.v[EPOCH_MESSAGES], 1);
    assert_int_equal(sum_of(&r, EPOCH_DF, EPOCH_DF_END), 3);
    assert_int_equal(r.lessons.v[EPOCH_DF + hash64(STR("you")) % EPOCH_DF_BUCKETS], 1);
    assert_int_equal(r.lessons.v[EPOCH_USER_MESSAGES], 1);
    assert_int_equal(r.lessons.v[EPOCH_WORDS + 3], 1);
    assert_int_equal(sum_of(&r, EPOCH_WORDS, EPOCH_WORDS_END), 1);
    assert_int_equal(r.lessons.v[EPOCH_STYLE_FLAGS + CP_FLAG_QUESTION], 1);
    assert_int_equal(sum_of(&r, EPOCH_STYLE_FLAGS, EPOCH_STYLE_FLAGS_END), 3);
    assert_int_equal(r.lessons.v[EPOCH_HOW + (39 % 7) * 24 + 23], 1);
    assert_int_equal(sum_of(&r, EPOCH_HOW, EPOCH_HOW_END), 1);
    rig_stop(&r);
}

/* A quarter of the marks, each for four: over many messages every mark is taught as often as it
 * occurs. */
static void test_taught_marks_are_an_unbiased_sample(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    struct text_features f;
    text_extract(STR("how are you, my dear?"), NULL, &f);
    r.now_us = START_US + US_PER_DAY;
    for (unsigned i = 0; i < 400; i++)
        rig_user(&r, START_US + i, i, "how are you, my dear?");
    for (size_t i = 0; i < RECORD_MARKS; i++) {
        bool has = f.marks[i / 8] >> (i % 8) & 1;
        /* 400 throws at 1 of 4, four for each: 400 with a standard deviation of 35. */
        assert_in_range(r.lessons.v[EPOCH_MARKS + i], has ? 260 : 0, has ? 540 : 0);
    }
    rig_stop(&r);
}

/* Each bot message is decided once: by the first message 30 minutes later, or by the user's. */
static void test_replies_are_taught_once_each(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + US_PER_DAY;
    const int64_t min = US_PER_MINUTE;
    rig_bot(&r, START_US, 0, "one");
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 0);
    rig_bot(&r, START_US + 10 * min, 1, "two");
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 0);
    rig_bot(&r, START_US + 35 * min, 2, "three"); /* one waited 35 minutes in vain, two only 25 */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 1);
    rig_user(&r, START_US + 41 * min, 3, "sorry"); /* 31 after two, 6 after three */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 3);
    assert_int_equal(r.lessons.v[EPOCH_REPLIES], 1);
    rig_user(&r, START_US + 42 * min, 4, "really");
    rig_bot(&r, START_US + 43 * min, 5, "never mind");
    rig_user(&r, START_US + 42 * min + 1, 6, "late, decides nothing");
    rig_user(&r, START_US + 73 * min, 7, "still there?"); /* exactly 30 minutes */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 4);
    assert_int_equal(r.lessons.v[EPOCH_REPLIES], 2);
    rig_stop(&r);
}

/* n bot messages of a length, the first k of them answered after a minute, the rest after 31. */
static int64_t bot_turns(struct rig *r, int64_t t_us, unsigned *id, unsigned length, unsigned n,
                         unsigned k)
{
    char text[RIG_TEXT_MAX];
    rig_words(text, length, "");
    for (unsigned i = 0; i < n; i++) {
        rig_bot(r, t_us, (*id)++, text);
        t_us += (i < k ? 1 : 31) * US_PER_MINUTE;
        rig_user(r, t_us, (*id)++, "fine");
        t_us += US_PER_MINUTE;
    }
    return t_us;
}

static void test_best_length_of_the_golden_buckets(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    unsigned id = 0;
    r.now_us = START_US + US_PER_DAY;
    int64_t t = bot_turns(&r, START_US, &id, 20, 12, 9);
    bot_turns(&r, t, &id, 40, 10, 3);
    rig_emit(&r);
    rig_assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH,
                      "{\"base\":0.545455,\"buckets\":[[17,12,9],[33,10,3]],\"expected\":0.698864,"
                      "\"n\":12,\"range\":[17,32],\"unit\":\"words\"}");
    rig_assert_has(row_details(&r.row), "\"correlational\":[\"optimal_response_length\"]");
    rig_stop(&r);
}

static void test_no_length_is_best_when_none_beats_the_base(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    unsigned id = 0;
    r.now_us = START_US + US_PER_DAY;
    bot_turns(&r, START_US, &id, 600, 9, 5);
    rig_emit(&r);
    rig_assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH, NULL);
    rig_assert_has(row_details(&r.row), "\"optimal_response_length\":\"no_difference: ");
    rig_stop(&r);
}

static void test_a_bot_message_is_counted_when_its_half_hour_is_over(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    unsigned id = 0;
    r.now_us = START_US + 10 * US_PER_HOUR;
    bot_turns(&r, START_US, &id, 3, 8, 8);
    rig_bot(&r, r.now_us - US_PER_MINUTE, id, "w w w w w w w w w w");
    rig_emit(&r);
    rig_assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH, NULL);
    rig_assert_has(row_details(&r.row), "no length beats 1.000");
    assert_int_equal(r.row.valid_until_us, r.now_us + 29 * US_PER_MINUTE);
    r.now_us += 29 * US_PER_MINUTE;
    rig_emit(&r);
    rig_assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH,
                      "{\"base\":0.888889,\"buckets\":[[0,8,8],[9,1,0]],\"expected\":0.962963,"
                      "\"n\":8,\"range\":[0,8],\"unit\":\"words\"}");
    rig_stop(&r);
}

static void test_alternating_feelings_recover_and_anticorrelate(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + US_PER_DAY;
    for (unsigned i = 0; i < 10; i++)
        rig_say(&r, &(struct said){.role = ROLE_USER,
                                   .t_us = START_US + i * US_PER_MINUTE,
                                   .id = i,
                                   .text = "the big dog has a bad leg",
                                   .emotion = i % 2 ? "joy" : "sadness",
                                   .confidence = 1.0});
    rig_emit(&r);
    struct str e = row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT);
    rig_assert_has(e, "{\"coverage\":1,\"dominant\":[{\"emotion\":\"");
    rig_assert_has(e, "{\"emotion\":\"joy\",\"share\":0.5}");
    rig_assert_has(e, "{\"emotion\":\"sadness\",\"share\":0.5}");
    rig_assert_has(e, "\"recovery_rate\":1,");
    rig_assert_has(e, "\"valence\":{\"lag1\":-1,\"mean\":0,\"sd\":1.05409}");
    rig_assert_has(e, "\"topics_negative\":[],\"topics_positive\":[]");
    assert_int_equal(r.row.state_flags & ROW_NO_EMOTION, 0);
    rig_stop(&r);
}

static void test_liked_and_disliked_topics_are_named(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + 20 * US_PER_DAY;
    for (unsigned i = 0; i < 12; i++)
        rig_say(&r, &(struct said){.role = ROLE_USER,
                                   .t_us = START_US + (i / 2) * US_PER_DAY + i % 2 * US_PER_MINUTE,
                                   .id = i,
                                   .text = i / 2 % 2 ? "rust borrow checker lifetimes"
                                                     : "garden roses tulips watering",
                                   .emotion = i / 2 % 2 ? "anger" : "joy",
                                   .confidence = 1.0});
    rig_emit(&r);
    struct str e = row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT);
    rig_assert_has(e, "\"topics_negative\":[{\"n\":6,\"topic\":\"borrow checker lifetimes\","
                      "\"valence\":-1}]");
    rig_assert_has(
        e, "\"topics_positive\":[{\"n\":6,\"topic\":\"garden roses tulips\",\"valence\":1}]");
    rig_assert_column(&r, CP_PREFERRED_DEPTH,
                      "{\"class\":\"shallow\",\"deep_share\":0,\"n_segments\":6,"
                      "\"session_turns_mean\":2,\"turns_per_topic\":{\"p50\":2,\"p75\":2}}");
    rig_stop(&r);
}

static void test_equally_liked_topics_come_in_the_order_they_began(void **state)
{
    (void)state;
    static const char *const topics[] = {"zebra yak wolf viper", "garden roses tulips watering"};
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + 20 * US_PER_DAY;
    for (unsigned i = 0; i < 10; i++)
        rig_say(&r, &(struct said){.role = ROLE_USER,
                                   .t_us = START_US + i * US_PER_DAY,
                                   .id = i,
                                   .text = topics[i % 2],
                                   .emotion = "joy",
                                   .confidence = 1.0});
    rig_emit(&r);
    rig_assert_has(row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT),
                   "\"topics_positive\":[{\"n\":5,\"topic\":\"viper wolf yak\",\"valence\":1},"
                   "{\"n\":5,\"topic\":\"garden roses tulips\",\"valence\":1}]");
    rig_stop(&r);
}

static void test_growing_messages_are_a_rising_drift(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + 10 * US_PER_DAY;
    for (unsigned i = 0; i < 18; i++) {
        char text[RIG_TEXT_MAX];
        rig_words(text, 2 + i / 3, "");
        rig_user(&r, START_US + (i / 3) * US_PER_DAY + i * US_PER_MINUTE, i, text);
    }
    rig_emit(&r);
    rig_assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE),
                   "\"drift\":{\"words_p50\":\"rising\"}");
    rig_stop(&r);
}

static void test_too_little_gives_null_and_says_why(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    for (unsigned i = 0; i < 9; i++)
        rig_user(&r, START_US + i, i, "hello");
    rig_emit(&r);
    for (size_t c = CP_COMMUNICATION_STYLE; c <= CP_OPTIMAL_RESPONSE_LENGTH; c++)
        rig_assert_column(&r, c, NULL);
    struct str details = row_details(&r.row);
    rig_assert_has(details, "\"communication_style\":\"insufficient_data: have 9, need 10\"");
    rig_assert_has(details, "\"preferred_depth\":\"insufficient_data: have 1, need 5\"");
    rig_assert_has(details, "\"emotional_engagement\":\"no_signal: ");
    rig_assert_has(details, "\"optimal_response_length\":\"insufficient_data: have 0, need 8\"");
    assert_int_equal(r.row.state_flags, ROW_LEXICAL | ROW_NO_EMOTION | ROW_NO_TZ);
    assert_true(r.row.confidence == 0.153); /* 9/59 */
    rig_stop(&r);
}

static void test_a_row_holds_until_something_changes_by_itself(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    rig_user(&r, START_US + 10 * US_PER_MINUTE, 1, "hello");
    r.now_us = START_US + 20 * US_PER_MINUTE;
    rig_emit(&r);
    /* The session closes. */
    assert_int_equal(r.row.valid_until_us, START_US + 70 * US_PER_MINUTE);
    r.now_us = START_US + 2 * US_PER_HOUR;
    rig_emit(&r);
    assert_int_equal(r.row.valid_until_us, START_US + 8 * US_PER_HOUR);
    /* The message leaves with the first full hour that is more than 30 days after it. */
    r.now_us = START_US + 30 * US_PER_DAY;
    rig_emit(&r);
    assert_int_equal(r.row.valid_until_us, START_US + 30 * US_PER_DAY + US_PER_HOUR);
    assert_true(key_has_row(r.key, TABLE_CONVERSATION_PATTERNS));
    struct error err;
    assert_int_equal(key_advance(r.key, r.row.valid_until_us, &err), STATUS_OK);
    assert_false(key_has_row(r.key, TABLE_CONVERSATION_PATTERNS));
    rig_stop(&r);
}

/* The engine alone, on a log without labels. */
static void test_a_quiet_key_holds_no_heap_and_gives_it_back(void **state)
{
    (void)state;
    const struct engine_ops *ops = engine_find("conversation_patterns");
    assert_non_null(ops);
    struct msg_rec messages[40] = {{0}};
    struct key_log log = {.messages = messages, .as_of_us = START_US};
    max_align_t room[8] = {{0}};
    struct error err;
    assert_true(ops->state_size <= sizeof(room));
    assert_int_equal(ops->init(room, &err), STATUS_OK);
    for (size_t i = 0; i < 40; i++) {
        messages[i].t_us = START_US + (int64_t)i;
        messages[i].id = i + 1;
        log.n_messages++;
        assert_int_equal(ops->insert(room, &log, RECORD_MESSAGE, i, &err), STATUS_OK);
        if (i < 8)
            assert_int_equal(ops->heap_bytes(room), 0);
    }
    size_t counted = ops->heap_bytes(room);
    assert_true(counted > 0);
    assert_true(counted < 5000);
    while (log.n_messages > 4) {
        ops->retract(room, &log, RECORD_MESSAGE, log.n_messages - 1);
        log.n_messages--;
    }
    assert_int_equal(ops->heap_bytes(room), 0);
    ops->fini(room);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_style_of_the_golden_words),
        cmocka_unit_test(test_style_match_of_two_words),
        cmocka_unit_test(test_verbosity_is_relative_to_the_bots_users),
        cmocka_unit_test(test_the_fingerprint_is_what_sets_a_user_apart),
        cmocka_unit_test(test_a_new_message_teaches_once),
        cmocka_unit_test(test_taught_marks_are_an_unbiased_sample),
        cmocka_unit_test(test_replies_are_taught_once_each),
        cmocka_unit_test(test_best_length_of_the_golden_buckets),
        cmocka_unit_test(test_no_length_is_best_when_none_beats_the_base),
        cmocka_unit_test(test_a_bot_message_is_counted_when_its_half_hour_is_over),
        cmocka_unit_test(test_alternating_feelings_recover_and_anticorrelate),
        cmocka_unit_test(test_liked_and_disliked_topics_are_named),
        cmocka_unit_test(test_equally_liked_topics_come_in_the_order_they_began),
        cmocka_unit_test(test_growing_messages_are_a_rising_drift),
        cmocka_unit_test(test_too_little_gives_null_and_says_why),
        cmocka_unit_test(test_a_row_holds_until_something_changes_by_itself),
        cmocka_unit_test(test_a_quiet_key_holds_no_heap_and_gives_it_back),
    };
    return cmocka_run_group_tests_name("engines/conversation_patterns", tests, NULL, NULL);
}
