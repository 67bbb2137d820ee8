/*
 * Goal: conversation patterns are what ENGINES.md E6 says, and stay so whatever happens to the log.
 * Method: hand-made conversations with numbers from the specification; then random scripts of
 * inserts, edits, deletes, late messages, expiry and restarts, after which the row must equal the
 * oracle's byte for byte. A failing script prints its seed.
 */
#include "core/clock.h"
#include "core/hash.h"
#include "engines/conversation_patterns_row.h"
#include "engines/key.h"
#include "engines/oracle/oracle.h"
#include "tests/support/script.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A Monday, 00:00 UTC. */
#define START_US (INT64_C(1767571200) * US_PER_SECOND)

#define TEXT_MAX 4000

struct rig {
    struct str name;
    struct str bot;
    struct key *key;
    struct oracle *oracle;
    int64_t now_us;
    uint64_t ver;
    uint64_t seed;
    struct row row; /* the last one emitted */
    struct epoch_list epochs;
    struct epoch_sums lessons; /* all that was taught */
};

static void rig_start(struct rig *r)
{
    struct error err;
    *r = (struct rig){.name = STR("user"), .bot = STR("bot"), .now_us = START_US};
    if (key_new(r->name, r->bot, &r->key, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    if (oracle_new(&r->oracle, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    row_init(&r->row, &tables[TABLE_CONVERSATION_PATTERNS]);
    key_set_epochs(r->key, &r->epochs);
    assert_int_equal(oracle_set_epochs(r->oracle, r->bot, &r->epochs), STATUS_OK);
}

/* Gives the bot an epoch from the day before START_US on; the caller fills it. */
static struct epoch *epoch_new(void)
{
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->day = kernel_day(START_US) - 1;
    return e;
}

static void rig_stop(struct rig *r)
{
    key_free(r->key);
    oracle_free(r->oracle);
    row_deinit(&r->row);
    epoch_list_deinit(&r->epochs);
}

static void post(struct rig *r, struct event *e)
{
    struct error err;
    struct feature f;
    struct key_change change;
    e->user_id = r->name;
    e->bot_name = r->bot;
    r->ver++;
    feature_extract(e, SOURCE_POSTGRES, r->ver, &r->epochs, &f);
    if (key_apply(r->key, &f, r->now_us, &change, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
    epoch_sums_add(&r->lessons, &change.delta);
    if (oracle_add(r->oracle, e, SOURCE_POSTGRES, r->ver, r->now_us, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
}

struct said {
    enum message_role role;
    enum message_op op;
    int64_t t_us;
    unsigned id;
    const char *text;
    const char *emotion;
    double confidence;
};

static void say(struct rig *r, const struct said *s)
{
    char id[32];
    int n = snprintf(id, sizeof(id), "m%u", s->id);
    struct event e = {.type = EVENT_MESSAGE, .id = {id, (size_t)n}, .at_us = s->t_us};
    e.u.message.role = s->role;
    e.u.message.op = s->op ? s->op : MESSAGE_INSERT;
    e.u.message.content = str_from(s->text);
    e.u.message.emotion = str_from(s->emotion);
    e.u.message.emotion_confidence = s->emotion ? s->confidence : (double)NAN;
    post(r, &e);
}

static void take_back(struct rig *r, unsigned message, int64_t t_us)
{
    char id[32];
    int n = snprintf(id, sizeof(id), "m%u", message);
    struct event e = {.type = EVENT_MESSAGE_DELETED, .id = {id, (size_t)n}, .at_us = t_us};
    post(r, &e);
}

static void user(struct rig *r, int64_t t_us, unsigned id, const char *text)
{
    say(r, &(struct said){.role = ROLE_USER, .t_us = t_us, .id = id, .text = text});
}

static void bot(struct rig *r, int64_t t_us, unsigned id, const char *text)
{
    say(r, &(struct said){.role = ROLE_BOT, .t_us = t_us, .id = id, .text = text});
}

static void words(char out[TEXT_MAX], unsigned n, const char *end)
{
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < n; i++)
        len += (size_t)snprintf(out + len, TEXT_MAX - len, i ? " w%u" : "w%u", i % 100);
    assert_true(len + strlen(end) < TEXT_MAX);
    snprintf(out + len, TEXT_MAX - len, "%s", end);
}

static void reset_row(struct row *row)
{
    row_deinit(row);
    row_init(row, &tables[TABLE_CONVERSATION_PATTERNS]);
}

static void emit(struct rig *r)
{
    struct error err;
    reset_row(&r->row);
    if (key_emit(r->key, TABLE_CONVERSATION_PATTERNS, r->now_us, &r->row, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
}

static void assert_column(struct rig *r, size_t column, const char *want)
{
    struct str got = row_value(&r->row, column);
    if (!str_equal(got, str_from(want)))
        fail_msg("got " STR_FMT "\nwant %s", STR_ARGS(got), want ? want : "NULL");
}

static void assert_has(struct str text, const char *part)
{
    if (!text.ptr || !memmem(text.ptr, text.len, part, strlen(part)))
        fail_msg("no %s in " STR_FMT, part, STR_ARGS(text));
}

static void test_style_of_the_golden_words(void **state)
{
    (void)state;
    static const unsigned lengths[] = {3, 5, 8, 8, 40};
    struct rig r;
    rig_start(&r);
    for (unsigned i = 0; i < 10; i++) {
        char text[TEXT_MAX];
        words(text, lengths[i % 5], i % 5 < 2 ? "?" : "");
        user(&r, START_US + i * US_PER_MINUTE, i, text);
    }
    r.now_us = START_US + US_PER_HOUR;
    emit(&r);
    struct str style = row_value(&r.row, CP_COMMUNICATION_STYLE);
    assert_has(style, "\"words\":{\"mean\":12.8,\"p10\":3,\"p50\":8,\"p90\":40}");
    assert_has(style, "\"question_rate\":0.4,");
    assert_has(style, "\"n\":10,");
    assert_has(style, "\"verbosity\":\"moderate\"");
    assert_has(style, "\"how_top\":[{\"how\":0,\"share\":1}]");
    assert_has(style, "\"user_initiated_share\":1,");
    assert_has(style, "\"reply_latency_s\":null");
    assert_has(style, "\"drift\":{\"words_p50\":null}");
    assert_has(style, "\"style_match\":null");
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
    struct epoch *e = epoch_new();
    e->v[EPOCH_MESSAGES] = 100 * EPOCH_SCALE;
    uint64_t the = hash64(STR("the")) % EPOCH_DF_BUCKETS;
    uint64_t and = hash64(STR("and")) % EPOCH_DF_BUCKETS;
    assert_true(the % RECORD_COMMON != and % RECORD_COMMON);
    e->v[EPOCH_DF + the] = 60 * EPOCH_SCALE;
    e->v[EPOCH_DF + and] = 50 * EPOCH_SCALE;
    assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
    r.now_us = START_US + US_PER_HOUR;
    for (unsigned i = 0; i < 20; i += 2) {
        user(&r, START_US + i * US_PER_MINUTE, i, "The the and dogs");
        bot(&r, START_US + i * US_PER_MINUTE + 1, i + 1, "the cat ran, and and and so on");
    }
    emit(&r);
    assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE), "\"style_match\":0.600064,");
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
        struct epoch *e = epoch_new();
        e->v[EPOCH_USER_MESSAGES] = cases[i].messages * EPOCH_SCALE;
        for (size_t q = 0; q < 4; q++)
            e->v[EPOCH_WORDS + hist_bucket(lengths[q])] = 25 * EPOCH_SCALE;
        assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
        char text[TEXT_MAX];
        words(text, cases[i].words, "");
        r.now_us = START_US + US_PER_HOUR;
        for (unsigned m = 0; m < 10; m++)
            user(&r, START_US + m, m, text);
        emit(&r);
        char want[64];
        snprintf(want, sizeof(want), "\"verbosity\":%s", cases[i].want);
        assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE), want);
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
        struct epoch *e = epoch_new();
        for (size_t i = 0; i < RECORD_MARKS && with; i++)
            e->v[EPOCH_MARKS + i] = marks.marks[i / 8] >> (i % 8) & 1 ? 1000 * EPOCH_SCALE : 0;
        e->v[EPOCH_USER_MESSAGES] = 1000 * EPOCH_SCALE * (uint32_t)with;
        for (uint32_t f = CP_FLAG_EXCLAIM; f <= CP_FLAG_END_PUNCT && with; f += 4)
            e->v[EPOCH_STYLE_FLAGS + f] = 1000 * EPOCH_SCALE;
        assert_int_equal(epoch_list_add(&r.epochs, e), STATUS_OK);
        r.now_us = START_US + US_PER_HOUR;
        for (unsigned m = 0; m < 20; m++)
            user(&r, START_US + m, m, text);
        emit(&r);
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
    user(&r, t, 1, "Is it you?");
    user(&r, t, 1, "Is it you?");
    say(&r, &(struct said){ROLE_USER, MESSAGE_UPDATE, t, 1, "Is it me? No", NULL, 0});
    user(&r, START_US, 2, "far too late");
    user(&r, r.now_us + US_PER_HOUR, 3, "not yet");
    take_back(&r, 1, t);
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
        user(&r, START_US + i, i, "how are you, my dear?");
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
    bot(&r, START_US, 0, "one");
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 0);
    bot(&r, START_US + 10 * min, 1, "two");
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 0);
    bot(&r, START_US + 35 * min, 2, "three"); /* one waited 35 minutes in vain, two only 25 */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 1);
    user(&r, START_US + 41 * min, 3, "sorry"); /* 31 after two, 6 after three */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 3);
    assert_int_equal(r.lessons.v[EPOCH_REPLIES], 1);
    user(&r, START_US + 42 * min, 4, "really");
    bot(&r, START_US + 43 * min, 5, "never mind");
    user(&r, START_US + 42 * min + 1, 6, "late, decides nothing");
    user(&r, START_US + 73 * min, 7, "still there?"); /* exactly 30 minutes */
    assert_int_equal(r.lessons.v[EPOCH_REPLIES_DECIDED], 4);
    assert_int_equal(r.lessons.v[EPOCH_REPLIES], 2);
    rig_stop(&r);
}

/* n bot messages of a length, the first k of them answered after a minute, the rest after 31. */
static int64_t bot_turns(struct rig *r, int64_t t_us, unsigned *id, unsigned length, unsigned n,
                         unsigned k)
{
    char text[TEXT_MAX];
    words(text, length, "");
    for (unsigned i = 0; i < n; i++) {
        bot(r, t_us, (*id)++, text);
        t_us += (i < k ? 1 : 31) * US_PER_MINUTE;
        user(r, t_us, (*id)++, "fine");
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
    emit(&r);
    assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH,
                  "{\"base\":0.545455,\"buckets\":[[17,12,9],[33,10,3]],\"expected\":0.698864,"
                  "\"n\":12,\"range\":[17,32],\"unit\":\"words\"}");
    assert_has(row_details(&r.row), "\"correlational\":[\"optimal_response_length\"]");
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
    emit(&r);
    assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH, NULL);
    assert_has(row_details(&r.row), "\"optimal_response_length\":\"no_difference: ");
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
    bot(&r, r.now_us - US_PER_MINUTE, id, "w w w w w w w w w w");
    emit(&r);
    assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH, NULL);
    assert_has(row_details(&r.row), "no length beats 1.000");
    assert_int_equal(r.row.valid_until_us, r.now_us + 29 * US_PER_MINUTE);
    r.now_us += 29 * US_PER_MINUTE;
    emit(&r);
    assert_column(&r, CP_OPTIMAL_RESPONSE_LENGTH,
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
        say(&r, &(struct said){.role = ROLE_USER,
                               .t_us = START_US + i * US_PER_MINUTE,
                               .id = i,
                               .text = "the big dog has a bad leg",
                               .emotion = i % 2 ? "joy" : "sadness",
                               .confidence = 1.0});
    emit(&r);
    struct str e = row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT);
    assert_has(e, "{\"coverage\":1,\"dominant\":[{\"emotion\":\"");
    assert_has(e, "{\"emotion\":\"joy\",\"share\":0.5}");
    assert_has(e, "{\"emotion\":\"sadness\",\"share\":0.5}");
    assert_has(e, "\"recovery_rate\":1,");
    assert_has(e, "\"valence\":{\"lag1\":-1,\"mean\":0,\"sd\":1.05409}");
    assert_has(e, "\"topics_negative\":[],\"topics_positive\":[]");
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
        say(&r, &(struct said){.role = ROLE_USER,
                               .t_us = START_US + (i / 2) * US_PER_DAY + i % 2 * US_PER_MINUTE,
                               .id = i,
                               .text = i / 2 % 2 ? "rust borrow checker lifetimes"
                                                 : "garden roses tulips watering",
                               .emotion = i / 2 % 2 ? "anger" : "joy",
                               .confidence = 1.0});
    emit(&r);
    struct str e = row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT);
    assert_has(e, "\"topics_negative\":[{\"n\":6,\"topic\":\"borrow checker lifetimes\","
                  "\"valence\":-1}]");
    assert_has(e,
               "\"topics_positive\":[{\"n\":6,\"topic\":\"garden roses tulips\",\"valence\":1}]");
    assert_column(&r, CP_PREFERRED_DEPTH,
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
        say(&r, &(struct said){.role = ROLE_USER,
                               .t_us = START_US + i * US_PER_DAY,
                               .id = i,
                               .text = topics[i % 2],
                               .emotion = "joy",
                               .confidence = 1.0});
    emit(&r);
    assert_has(row_value(&r.row, CP_EMOTIONAL_ENGAGEMENT),
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
        char text[TEXT_MAX];
        words(text, 2 + i / 3, "");
        user(&r, START_US + (i / 3) * US_PER_DAY + i * US_PER_MINUTE, i, text);
    }
    emit(&r);
    assert_has(row_value(&r.row, CP_COMMUNICATION_STYLE), "\"drift\":{\"words_p50\":\"rising\"}");
    rig_stop(&r);
}

static void test_too_little_gives_null_and_says_why(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    for (unsigned i = 0; i < 9; i++)
        user(&r, START_US + i, i, "hello");
    emit(&r);
    for (size_t c = CP_COMMUNICATION_STYLE; c <= CP_OPTIMAL_RESPONSE_LENGTH; c++)
        assert_column(&r, c, NULL);
    struct str details = row_details(&r.row);
    assert_has(details, "\"communication_style\":\"insufficient_data: have 9, need 10\"");
    assert_has(details, "\"preferred_depth\":\"insufficient_data: have 1, need 5\"");
    assert_has(details, "\"emotional_engagement\":\"no_signal: ");
    assert_has(details, "\"optimal_response_length\":\"insufficient_data: have 0, need 8\"");
    assert_int_equal(r.row.state_flags, ROW_LEXICAL | ROW_NO_EMOTION | ROW_NO_TZ);
    assert_true(r.row.confidence == 0.153); /* 9/59 */
    rig_stop(&r);
}

static void test_a_row_holds_until_something_changes_by_itself(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    user(&r, START_US + 10 * US_PER_MINUTE, 1, "hello");
    r.now_us = START_US + 20 * US_PER_MINUTE;
    emit(&r);
    /* The session closes. */
    assert_int_equal(r.row.valid_until_us, START_US + 70 * US_PER_MINUTE);
    r.now_us = START_US + 2 * US_PER_HOUR;
    emit(&r);
    assert_int_equal(r.row.valid_until_us, START_US + 8 * US_PER_HOUR);
    /* The message leaves with the first full hour that is more than 30 days after it. */
    r.now_us = START_US + 30 * US_PER_DAY;
    emit(&r);
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

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static unsigned below(uint64_t *seed, unsigned n)
{
    return (unsigned)(next(seed) >> 16) % n;
}

/* Three topics, scripts without word spaces, right-to-left, combining marks, emoji, broken UTF-8.
 */
static const char *const vocabulary[][8] = {
    {"dog", "leg", "vet", "limp", "walk", "Tierarzt", "bandage", "Hund"},
    {"rust", "borrow", "checker", "lifetime", "https://a.example/b", "compile", "код", "ошибка"},
    {"猫がすき", "とても", "วันนี้อากาศดี", "مرحبا", "naïve", "e\xcc\x81te", "\xf0\x9f\x98\x80",
     "\xff\xc3"},
};

static void make_text(uint64_t *random, char out[TEXT_MAX])
{
    unsigned topic = below(random, 3);
    unsigned n = below(random, 10) == 0 ? 40 + below(random, 60) : below(random, 9);
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < n && len + 40 < TEXT_MAX; i++)
        len += (size_t)snprintf(out + len, TEXT_MAX - len, "%s ",
                                vocabulary[below(random, 12) ? topic : 1][below(random, 8)]);
    static const char *const ends[] = {"", "?", "!", ".", "\xe3\x80\x82", "?!"};
    snprintf(out + len, TEXT_MAX - len, "%s", ends[below(random, 6)]);
}

static void compare(struct rig *r)
{
    struct error err;
    struct row naive;
    row_init(&naive, &tables[TABLE_CONVERSATION_PATTERNS]);
    unsigned long long seed = r->seed;
    if (key_advance(r->key, r->now_us, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", seed, err.text);
    enum status st = oracle_row(r->oracle, TABLE_CONVERSATION_PATTERNS, r->name, r->bot, r->now_us,
                                &naive, &err);
    if (key_has_row(r->key, TABLE_CONVERSATION_PATTERNS) != (st == STATUS_OK))
        fail_msg("seed %llu: the oracle says %s", seed, status_name(st));
    if (st == STATUS_OK) {
        struct buf a, b;
        buf_init(&a, 1 << 20);
        buf_init(&b, 1 << 20);
        emit(r);
        assert_int_equal(row_to_json(&r->row, &a), STATUS_OK);
        assert_int_equal(row_to_json(&naive, &b), STATUS_OK);
        size_t at = 0;
        while (at < a.len && at < b.len && a.data[at] == b.data[at])
            at++;
        if (at < a.len || at < b.len) {
            size_t from = at > 40 ? at - 40 : 0;
            fail_msg("seed %llu, %u messages: engine ...%.*s, oracle ...%.*s", seed,
                     (unsigned)r->row.event_count, 160, a.data + from, 160, b.data + from);
        }
        if (r->row.valid_until_us != naive.valid_until_us)
            fail_msg("seed %llu: valid until %lld, oracle %lld", seed,
                     (long long)r->row.valid_until_us, (long long)naive.valid_until_us);
        buf_deinit(&a);
        buf_deinit(&b);
    }
    row_deinit(&naive);
}

static void restart(struct rig *r)
{
    struct error err;
    struct buf page, again;
    buf_init(&page, 4 << 20);
    buf_init(&again, 4 << 20);
    assert_int_equal(key_encode(r->key, &page), STATUS_OK);
    struct key *copy = NULL;
    if (key_decode((struct str){page.data, page.len}, &copy, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
    assert_int_equal(key_encode(copy, &again), STATUS_OK);
    if (!str_equal((struct str){page.data, page.len}, (struct str){again.data, again.len}))
        fail_msg("seed %llu: a decoded page encodes differently", (unsigned long long)r->seed);
    key_free(r->key);
    r->key = copy;
    buf_deinit(&page);
    buf_deinit(&again);
}

/* How much time passes before an event: within a turn, a session, a day, or a month. */
static int64_t make_pause(uint64_t *random, bool dense)
{
    unsigned kind = below(random, dense ? 3 : 40);
    if (kind < 20)
        return below(random, 180) * US_PER_SECOND;
    if (kind < 34)
        return below(random, 90) * US_PER_MINUTE;
    if (kind < 39)
        return below(random, 40) * US_PER_HOUR;
    return below(random, 40) * US_PER_DAY;
}

struct plan {
    unsigned events;
    unsigned emotions; /* one message in so many has one; 0 = none */
    bool dense;        /* long runs, so that sessions are split */
};

static void one_message(struct rig *r, uint64_t *random, const struct plan *s, unsigned *ids)
{
    static const char *const labels[] = {"joy", "sadness", "anger", "neutral", "no such label"};
    char text[TEXT_MAX];
    make_text(random, text);
    bool update = *ids > 0 && below(random, 8) == 0;
    bool late = below(random, 6) == 0;
    struct said said = {
        .role = below(random, 2) ? ROLE_USER : ROLE_BOT,
        .op = update ? MESSAGE_UPDATE : MESSAGE_INSERT,
        .t_us = r->now_us - (late ? make_pause(random, s->dense) : 0),
        .id = update ? below(random, *ids) : (*ids)++,
        .text = update && below(random, 3) == 0 ? NULL : text,
        .emotion = s->emotions && below(random, s->emotions) == 0 ? labels[below(random, 5)] : NULL,
        .confidence = below(random, 101) / 100.0,
    };
    say(r, &said);
}

static void run_script(uint64_t seed, const struct plan *s)
{
    struct rig r;
    rig_start(&r);
    r.seed = seed;
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    unsigned ids = 0;
    for (unsigned i = 0; i < s->events; i++) {
        r.now_us += make_pause(&random, s->dense);
        unsigned kind = below(&random, 40);
        if (kind < 4 && ids > 0)
            take_back(&r, below(&random, ids), r.now_us);
        else if (kind == 4)
            restart(&r);
        else
            one_message(&r, &random, s, &ids);
        if (below(&random, 10) == 0)
            compare(&r);
    }
    compare(&r);
    r.now_us += 31 * US_PER_DAY;
    compare(&r);
    rig_stop(&r);
}

static void test_random_scripts_agree_with_the_oracle(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++)
        run_script(seed, &(struct plan){.events = 10 + (unsigned)(seed % 60),
                                        .emotions = (unsigned)(seed % 4)});
}

static void test_long_runs_agree_with_the_oracle(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        run_script(seed, &(struct plan){.events = 450, .emotions = 2, .dense = true});
}

static void test_a_log_at_its_cap_agrees_with_the_oracle(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    uint64_t random = 7;
    unsigned ids = 0;
    const struct plan s = {.emotions = 2};
    while (ids < LIMIT_MESSAGES + 60) {
        r.now_us += 1 + below(&random, 400) * US_PER_SECOND;
        one_message(&r, &random, &s, &ids);
    }
    compare(&r);
    assert_int_equal(r.row.state_flags & ROW_TRUNCATED, ROW_TRUNCATED);
    assert_int_equal(r.row.event_count, LIMIT_MESSAGES);
    for (unsigned i = 0; i < 30; i++)
        take_back(&r, ids - 1 - 40 * i, r.now_us);
    compare(&r);
    rig_stop(&r);
}

/* Key and oracle of each user of a shared script, side by side. */
#define USERS_MAX 3
struct crowd {
    struct rig rigs[USERS_MAX]; /* all share the first one's oracle */
    size_t n;
};

static struct rig *crowd_find(struct crowd *c, const struct event *e, struct oracle *oracle)
{
    struct error err;
    for (size_t i = 0; i < c->n; i++)
        if (str_equal(c->rigs[i].name, e->user_id))
            return &c->rigs[i];
    assert_true(c->n < USERS_MAX);
    struct rig *r = &c->rigs[c->n++];
    *r = (struct rig){.oracle = oracle, .name = e->user_id, .bot = e->bot_name};
    assert_int_equal(key_new(r->name, r->bot, &r->key, &err), STATUS_OK);
    row_init(&r->row, &tables[TABLE_CONVERSATION_PATTERNS]);
    return r;
}

static void play(struct crowd *c, const struct script *s, uint64_t seed, bool with_oracle)
{
    struct error err;
    struct oracle *oracle = NULL;
    *c = (struct crowd){.n = 0};
    if (with_oracle)
        assert_int_equal(oracle_new(&oracle, &err), STATUS_OK);
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        struct feature f;
        struct key_change change;
        if (!(engine_scopes(&step->e) & 1u << ENGINE_USER) || !feature_wanted(step->e.type))
            continue;
        feature_extract(&step->e, step->source, step->ver, NULL, &f);
        struct rig *r = crowd_find(c, &step->e, oracle);
        r->seed = seed;
        r->now_us = step->as_of_us;
        if (key_apply(r->key, &f, step->as_of_us, &change, &err) != STATUS_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
        if (oracle && oracle_add(oracle, &step->e, step->source, step->ver, step->as_of_us, &err) !=
                          STATUS_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
        if (oracle && i % 37 == 0)
            compare(r);
    }
    for (size_t i = 0; i < c->n; i++)
        c->rigs[i].now_us = script_end_us(s);
}

static void disperse(struct crowd *c)
{
    if (c->n > 0)
        oracle_free(c->rigs[0].oracle);
    for (size_t i = 0; i < c->n; i++) {
        key_free(c->rigs[i].key);
        row_deinit(&c->rigs[i].row);
    }
}

static void test_scripts_with_every_kind_of_trouble_agree_with_the_oracle(void **state)
{
    (void)state;
    uint64_t first = script_seed(1);
    for (uint64_t seed = first; seed < first + script_rounds(200); seed++) {
        struct script *s = script_new(&(struct script_options){.seed = seed,
                                                               .features = SCRIPT_ALL,
                                                               .n_steps = 120,
                                                               .n_users = 2,
                                                               .start_us = START_US,
                                                               .span_us = 20 * US_PER_DAY});
        struct crowd c;
        play(&c, s, seed, true);
        for (size_t i = 0; i < c.n; i++)
            compare(&c.rigs[i]);
        disperse(&c);
        script_free(s);
    }
}

static void test_the_order_of_arrival_does_not_matter(void **state)
{
    (void)state;
    uint64_t first = script_seed(1);
    for (uint64_t seed = first; seed < first + script_rounds(100); seed++) {
        struct script *s =
            script_new(&(struct script_options){.seed = seed,
                                                .features = SCRIPT_EDITS | SCRIPT_DELETES,
                                                .n_steps = 150,
                                                .n_users = 1,
                                                .start_us = START_US,
                                                .span_us = 10 * US_PER_DAY});
        struct crowd in_order, shuffled;
        play(&in_order, s, seed, false);
        script_shuffle(s, seed);
        play(&shuffled, s, seed, false);
        assert_int_equal(in_order.n, 1);
        in_order.rigs[0].now_us = shuffled.rigs[0].now_us = script_end_us(s);
        emit(&in_order.rigs[0]);
        emit(&shuffled.rigs[0]);
        if (row_payload_hash(&in_order.rigs[0].row) != row_payload_hash(&shuffled.rigs[0].row))
            fail_msg("seed %llu: another order gives another row", (unsigned long long)seed);
        disperse(&in_order);
        disperse(&shuffled);
        script_free(s);
    }
}

static void test_text_of_any_script_gives_rates_between_zero_and_one(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + US_PER_DAY;
    for (unsigned i = 0; i < 24; i++)
        user(&r, START_US + i * US_PER_MINUTE, i, vocabulary[2][i % 8]);
    emit(&r);
    struct str style = row_value(&r.row, CP_COMMUNICATION_STYLE);
    assert_has(style, "\"n\":24,");
    assert_has(style, "\"emoji_rate\":0.125,");
    assert_true(str_is_text(style));
    compare(&r);
    rig_stop(&r);
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
        cmocka_unit_test(test_text_of_any_script_gives_rates_between_zero_and_one),
        cmocka_unit_test(test_random_scripts_agree_with_the_oracle),
        cmocka_unit_test(test_a_log_at_its_cap_agrees_with_the_oracle),
        cmocka_unit_test(test_scripts_with_every_kind_of_trouble_agree_with_the_oracle),
        cmocka_unit_test(test_the_order_of_arrival_does_not_matter),
        cmocka_unit_test(test_long_runs_agree_with_the_oracle),
    };
    return cmocka_run_group_tests_name("engines/conversation_patterns", tests, NULL, NULL);
}
