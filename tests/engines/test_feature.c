/*
 * tests/engines/test_feature.c - an event's features survive their bytes, and damaged bytes are
 * refused.
 */
#include "engines/feature.h"

#include "core/hash.h"
#include "engines/text.h"
#include "tests/support/script.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct event message(const char *content)
{
    struct event e = {.type = EVENT_MESSAGE,
                      .id = STR("0f8fad5b-d9cb-469f-a165-70867728950e"),
                      .user_id = STR("anna"),
                      .bot_name = STR("elena"),
                      .at_us = INT64_C(1767225600123456)};
    e.u.message.role = ROLE_USER;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = str_from(content);
    e.u.message.emotion_confidence = NAN;
    return e;
}

static struct event memory(enum memory_op op)
{
    struct event e = {.type = EVENT_MEMORY,
                      .id = STR("access-1"),
                      .user_id = STR("anna"),
                      .bot_name = STR("elena"),
                      .at_us = INT64_C(1767225600123456)};
    e.u.memory.op = op;
    e.u.memory.memory_id = STR("memory-1");
    e.u.memory.score = NAN;
    e.u.memory.importance = NAN;
    return e;
}

static void assert_same(const struct feature *a, const struct feature *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->op, b->op);
    assert_int_equal(a->source, b->source);
    assert_int_equal(a->content_unchanged, b->content_unchanged);
    assert_true(a->ver == b->ver && a->id == b->id && a->t_us == b->t_us);
    assert_int_equal(a->n_labels, b->n_labels);
    for (size_t i = 0; i < a->n_labels; i++)
        assert_true(str_equal(a->labels[i], b->labels[i]));
    assert_int_equal(a->n_traits, b->n_traits);
    for (size_t i = 0; i < a->n_traits; i++)
        assert_true(str_equal(a->traits[i], b->traits[i]));
    if (a->type == EVENT_MESSAGE)
        assert_memory_equal(&a->u.message, &b->u.message, sizeof(a->u.message));
    if (a->type == EVENT_PRIVACY)
        assert_int_equal(a->u.privacy.scopes, b->u.privacy.scopes);
    if (a->type == EVENT_METRIC)
        assert_memory_equal(&a->u.metric, &b->u.metric, sizeof(a->u.metric));
    if (a->type == EVENT_CHARACTER)
        assert_memory_equal(&a->u.character, &b->u.character, sizeof(a->u.character));
    if (a->type != EVENT_MEMORY)
        return;
    assert_true(a->u.memory.memory == b->u.memory.memory);
    assert_true(str_equal(a->u.memory.name, b->u.memory.name));
    assert_true(str_equal(a->u.memory.type, b->u.memory.type));
    assert_int_equal(a->u.memory.score, b->u.memory.score);
    assert_int_equal(a->u.memory.importance, b->u.memory.importance);
    assert_int_equal(a->u.memory.grade, b->u.memory.grade);
    assert_int_equal(a->u.memory.has_signal, b->u.memory.has_signal);
    assert_int_equal(a->u.memory.norm2, b->u.memory.norm2);
    assert_int_equal(a->u.memory.n_vector, b->u.memory.n_vector);
    assert_memory_equal(a->u.memory.vector, b->u.memory.vector, sizeof(a->u.memory.vector));
}

static void encode(const struct feature *f, struct buf *out)
{
    buf_init(out, 4096);
    assert_int_equal(feature_encode(f, out), STATUS_OK);
}

/* One epoch for all days, of what the script's own messages teach. */
static struct epoch_list epochs_of(const struct script *s)
{
    static struct epoch_sums sums;
    memset(&sums, 0, sizeof(sums));
    struct epoch_list l = {0};
    struct epoch *e = NULL;
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        struct feature f;
        feature_extract(&step->e, step->source, step->ver, NULL, &f);
        sums.v[EPOCH_MESSAGES] += f.n_df > 0;
        for (size_t k = 0; k < f.n_df; k++)
            sums.v[EPOCH_DF + f.df[k]]++;
    }
    assert_int_equal(epoch_close(NULL, &sums, INT32_MIN, &e), STATUS_OK);
    assert_int_equal(epoch_list_add(&l, e), STATUS_OK);
    assert_true(l.at[0].dense->n_frequent > 0);
    return l;
}

/* Whatever a script contains, decoding gives the feature back and takes all of its bytes. */
static void test_every_feature_survives_its_bytes(void **state)
{
    (void)state;
    struct script_options o = {script_seed(1), SCRIPT_ALL, 2000, 3, 0, INT64_C(1) << 41};
    struct script *s = script_new(&o);
    struct epoch_list epochs = epochs_of(s);
    size_t with_common = 0;
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        struct feature a, b;
        struct buf bytes;
        feature_extract(&step->e, step->source, step->ver, i % 4 ? &epochs : NULL, &a);
        with_common += a.type == EVENT_MESSAGE && a.u.message.common > 0;
        encode(&a, &bytes);
        struct reader r = reader_of(bytes.data, bytes.len);
        assert_int_equal(feature_decode(&r, &b, NULL), STATUS_OK);
        assert_int_equal(reader_left(&r), 0);
        assert_same(&a, &b);
        assert_int_equal(b.n_df, 0); /* what came out of the journal has taught already */
        buf_deinit(&bytes);
    }
    assert_true(with_common > 100);
    epoch_list_deinit(&epochs);
    script_free(s);
}

/* The journal holds one of these per event: 150 bytes are the budget. */
static void test_a_message_of_120_characters_is_small(void **state)
{
    (void)state;
    struct event e =
        message("I was thinking about the trip we planned last week, do you still want "
                "to go to the mountains or should we stay home?");
    e.u.message.emotion = STR("joy");
    struct feature f;
    struct buf bytes;
    feature_extract(&e, SOURCE_POSTGRES, UINT64_C(0x16B374D848), NULL, &f);
    encode(&f, &bytes);
    assert_in_range(bytes.len, 80, 150);
    buf_deinit(&bytes);
}

static void test_messages_carry_role_and_emotion(void **state)
{
    (void)state;
    struct event e = message("Hello there!");
    struct feature f;
    e.u.message.role = ROLE_BOT;
    e.u.message.emotion = STR("sadness");
    e.u.message.emotion_confidence = 0.5;
    feature_extract(&e, SOURCE_INBOX, 7, NULL, &f);
    assert_int_equal(f.u.message.flags,
                     MSG_BOT | MSG_HAS_EMOTION | MSG_UPPER_START | MSG_EXCLAIM | MSG_END_PUNCT);
    assert_int_equal(f.u.message.emotion_confidence, 128);
    assert_int_equal(f.u.message.valence, -64);
    assert_int_equal(f.u.message.source, SOURCE_INBOX);
    assert_true(f.id == hash64(e.id));
    e.u.message.emotion_confidence = NAN; /* the label alone is a full statement */
    feature_extract(&e, SOURCE_INBOX, 7, NULL, &f);
    assert_int_equal(f.u.message.valence, -127);
    e.u.message.emotion = STR("hangry");
    feature_extract(&e, SOURCE_INBOX, 7, NULL, &f);
    assert_false(f.u.message.flags & MSG_HAS_EMOTION);
}

static struct event traits(const char *const *names, const double *weights, uint32_t n)
{
    struct event e = message("hi");
    e.u.message.role = ROLE_BOT;
    e.u.message.n_traits = n;
    for (uint32_t i = 0; i < n && i < LIMIT_TRAITS; i++)
        e.u.message.traits[i] = (struct event_trait){str_from(names[i]), weights[i]};
    return e;
}

static void test_traits_are_bounded_cut_and_distinct(void **state)
{
    (void)state;
    /* Both cuts of 32 bytes would split the last letter, so 31 remain: one and the same name. */
    const char *const names[] = {"0123456789012345678901234567890äx", "warm",
                                 "0123456789012345678901234567890äy", "cold"};
    const double weights[] = {0.25, 17, 0.7, 0.001};
    struct feature f;
    struct event e = traits(names, weights, 10000);
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_int_equal(f.n_traits, 2);
    assert_true(str_equal(f.traits[0], STR("0123456789012345678901234567890")));
    assert_true(str_equal(f.traits[1], STR("warm")));
    assert_int_equal(f.u.message.traits.weight[0], 140); /* 0.7 of 200, the larger one */
    assert_int_equal(f.u.message.traits.weight[1], RECORD_TRAIT_WEIGHT);
}

static size_t marks_of(const struct msg_rec *m)
{
    size_t n = 0;
    for (size_t i = 0; i < RECORD_MARKS; i++)
        n += msg_has_mark(m, i);
    return n;
}

static void test_only_bots_show_traits(void **state)
{
    (void)state;
    const char *const names[] = {"warm", "cold", ""};
    const double weights[] = {1, -1, 1};
    struct feature f;
    struct event e = traits(names, weights, 3);
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_int_equal(f.n_traits, 1); /* a weight below 0 is none, and so is an empty name */
    e.u.message.role = ROLE_USER;
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_int_equal(f.n_traits, 0);
    assert_int_equal(marks_of(&f.u.message), 3); /* " hi", "hi " and hi */
    assert_int_equal(msg_trait_count(&f.u.message), 0);
}

static void test_an_absent_text_is_not_an_empty_text(void **state)
{
    (void)state;
    struct event e = message("");
    struct feature f;
    e.u.message.op = MESSAGE_UPDATE;
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_false(f.content_unchanged);
    e.u.message.content = STR_NULL;
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_true(f.content_unchanged);
    assert_int_equal(f.n_labels, 0);
}

/* ENGINES.md A2: grade, else outcome hit = 3, miss = 1, else 3. */
static void test_grades_come_from_grade_then_outcome(void **state)
{
    (void)state;
    static const struct {
        int grade;
        enum memory_outcome outcome;
        int expected;
        bool signal;
    } cases[] = {{0, OUTCOME_NONE, 3, false},
                 {0, OUTCOME_HIT, 3, true},
                 {0, OUTCOME_MISS, 1, true},
                 {4, OUTCOME_MISS, 4, true},
                 {2, OUTCOME_NONE, 2, true}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct event e = memory(MEMORY_ACCESS);
        struct feature f;
        e.u.memory.grade = cases[i].grade;
        e.u.memory.outcome = cases[i].outcome;
        feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
        assert_int_equal(f.u.memory.grade, cases[i].expected);
        assert_int_equal(f.u.memory.has_signal, cases[i].signal);
    }
}

static void test_memory_values_are_quantised_and_names_cut(void **state)
{
    (void)state;
    struct event e = memory(MEMORY_CREATE);
    struct feature f;
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_true(f.u.memory.importance == UINT32_MAX && f.u.memory.score == UINT32_MAX);
    e.u.memory.importance = 0.1234567;
    e.u.memory.score = 1;
    e.u.memory.content = STR("dog leg vet");
    char name[67];
    memset(name, 'x', sizeof(name));
    memcpy(name + 63, "é", 2); /* lies across the cut */
    e.u.memory.memory_id = (struct str){name, sizeof(name)};
    e.u.memory.memory_type = STR("a type that is longer than thirty-two bytes");
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    assert_int_equal(f.u.memory.importance, 123457);
    assert_int_equal(f.u.memory.score, 1000000);
    assert_int_equal(f.u.memory.name.len, 63);
    assert_int_equal(f.u.memory.type.len, 32);
    assert_true(f.u.memory.memory == hash64(e.u.memory.memory_id)); /* the whole id counts */
    assert_int_equal(f.n_labels, 3);
    assert_int_equal(f.u.memory.norm2, 3 * 256);
}

/* Every cut is noticed; every flipped byte is refused or gives a feature inside its bounds. */
static void test_damaged_bytes_are_refused(void **state)
{
    (void)state;
    struct script_options o = {script_seed(2), SCRIPT_ALL, 300, 1, 0, INT64_C(1) << 41};
    struct script *s = script_new(&o);
    struct epoch_list epochs = epochs_of(s);
    size_t refused = 0;
    for (size_t i = 0; i < script_count(s); i += 2) {
        struct feature f;
        struct buf bytes;
        feature_extract(&script_at(s, i)->e, script_at(s, i)->source, 1, &epochs, &f);
        encode(&f, &bytes);
        for (size_t len = 0; len < bytes.len; len++) {
            struct reader r = reader_of(bytes.data, len);
            assert_int_equal(feature_decode(&r, &f, NULL), STATUS_CORRUPT);
        }
        for (size_t at = 0; at < bytes.len; at++) {
            for (unsigned bit = 0; bit < 8; bit++) {
                struct buf again;
                bytes.data[at] = (char)(bytes.data[at] ^ (1 << bit));
                struct reader r = reader_of(bytes.data, bytes.len);
                enum status st = feature_decode(&r, &f, NULL);
                bytes.data[at] = (char)(bytes.data[at] ^ (1 << bit));
                assert_true(st == STATUS_OK || st == STATUS_CORRUPT);
                refused += st == STATUS_CORRUPT;
                if (st == STATUS_OK) {
                    encode(&f, &again); /* asserts on anything out of range */
                    buf_deinit(&again);
                }
            }
        }
        buf_deinit(&bytes);
    }
    assert_true(refused > 0);
    epoch_list_deinit(&epochs);
    script_free(s);
}

static void test_unknown_formats_are_named(void **state)
{
    (void)state;
    struct event e = message("hi");
    struct feature f;
    struct buf bytes;
    struct error err = {0};
    feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
    encode(&f, &bytes);
    bytes.data[0] = (char)((FEATURE_FORMAT + 1) << 4 | EVENT_MESSAGE);
    struct reader r = reader_of(bytes.data, bytes.len);
    assert_int_equal(feature_decode(&r, &f, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "format 3"));
    buf_deinit(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_feature_survives_its_bytes),
        cmocka_unit_test(test_a_message_of_120_characters_is_small),
        cmocka_unit_test(test_messages_carry_role_and_emotion),
        cmocka_unit_test(test_traits_are_bounded_cut_and_distinct),
        cmocka_unit_test(test_only_bots_show_traits),
        cmocka_unit_test(test_an_absent_text_is_not_an_empty_text),
        cmocka_unit_test(test_grades_come_from_grade_then_outcome),
        cmocka_unit_test(test_memory_values_are_quantised_and_names_cut),
        cmocka_unit_test(test_damaged_bytes_are_refused),
        cmocka_unit_test(test_unknown_formats_are_named),
    };
    return cmocka_run_group_tests_name("engines/feature", tests, NULL, NULL);
}
