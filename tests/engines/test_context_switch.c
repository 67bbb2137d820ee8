/*
 * Goal: topics, durations, switch rates, hazards and transitions are those of ENGINES.md E4 for
 * given segments, and a column without enough evidence says so.
 * Method: the golden example. Amendment A1 leaves open where its boundaries are, so the segments
 * are given: dog 10:00, 10:02, 10:03; rust 10:08, 10:11; dog again 10:20, the session open.
 */
#include "engines/context_switch_row.h"

#include "core/clock.h"
#include "engines/tables.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE(m) (INT64_C(1767607200000000) + (m)*US_PER_MINUTE) /* 2026-01-05T10:00Z + m */

static void add(struct cs_counts *c, struct cs_segment s)
{
    cs_segment(c, &s);
    memmove(&c->recent[1], &c->recent[0], c->n_recent * sizeof(s));
    c->recent[0] = s;
    c->n_recent++;
}

static struct cs_counts golden(void)
{
    struct cs_counts c = {.as_of_us = MINUTE(21),
                          .n_user = 6,
                          .n_text = 6,
                          .session_open = true,
                          .session_close_us = MINUTE(80),
                          .next_expiry_us = INT64_MAX,
                          .active_us = 20 * US_PER_MINUTE};
    add(&c, (struct cs_segment){.topic = 0,
                                .messages = 3,
                                .start_us = MINUTE(0),
                                .end_us = MINUTE(3),
                                .until_us = MINUTE(8)});
    add(&c, (struct cs_segment){.topic = 1,
                                .messages = 2,
                                .start_us = MINUTE(8),
                                .end_us = MINUTE(11),
                                .until_us = MINUTE(20)});
    add(&c, (struct cs_segment){.topic = 0,
                                .messages = 1,
                                .n_valence = 1,
                                .valence_sum = -127,
                                .ends_session = true,
                                .start_us = MINUTE(20),
                                .end_us = MINUTE(20),
                                .until_us = MINUTE(20)});
    c.edges[0][1] = c.edges[1][0] = 1;
    c.labels[0].len = (size_t)snprintf(c.labels[0].text, sizeof(c.labels[0].text), "dog leg vet");
    c.labels[1].len = (size_t)snprintf(c.labels[1].text, sizeof(c.labels[1].text), "rust borrow");
    return c;
}

static void write_row(const struct cs_counts *c, struct row *row)
{
    struct error err = {0};
    row_init(row, &tables[TABLE_CONVERSATION_PATTERNS]);
    assert_int_equal(cs_write(c, row, &err), STATUS_OK);
}

static void expect_json(const struct row *row, size_t column, const char *json)
{
    struct str value = row_value(row, column);
    assert_int_equal(value.len, strlen(json));
    assert_memory_equal(value.ptr, json, value.len);
}

static void expect_reason(const struct row *row, const char *column, const char *reason)
{
    for (size_t i = 0; i < row->n_reasons; i++) {
        if (strcmp(row->reasons[i].column, column) != 0)
            continue;
        assert_int_equal(row->reasons[i].len, strlen(reason));
        assert_memory_equal(row->text.data + row->reasons[i].offset, reason, strlen(reason));
        return;
    }
    fail_msg("no reason for %s", column);
}

static void test_the_golden_segments_give_the_golden_row(void **state)
{
    (void)state;
    struct cs_counts c = golden();
    struct row row;
    write_row(&c, &row);
    /* 8 and 12 minutes; the third segment ends the session with one message: not timed. */
    assert_float_equal(row.values[CP_AVG_TOPIC_DURATION_MINUTES].number, 10.0, 0);
    /* 2 switches in 20 minutes. */
    assert_float_equal(row.values[CP_CONTEXT_SWITCH_FREQUENCY].number, 6.0, 1e-7);
    /* 5 trials, 2 hits: h0 = 3/7. The open segment holds one message: 0 of 2 such switched, so
     * (0 + 4 x 3/7) / (2 + 4) = 2/7. */
    assert_float_equal(row.values[CP_PREDICTED_SWITCH_LIKELIHOOD].number, 2.0F / 7, 1e-7);
    /* p = 1.5 / (1 + 2/2) */
    expect_json(&row, CP_TOPIC_TRANSITION_GRAPH,
                "{\"edges\":[{\"from\":0,\"n\":1,\"p\":0.75,\"to\":1},"
                "{\"from\":1,\"n\":1,\"p\":0.75,\"to\":0}],"
                "\"nodes\":[{\"id\":0,\"label\":\"dog leg vet\",\"minutes\":8,\"n\":2},"
                "{\"id\":1,\"label\":\"rust borrow\",\"minutes\":12,\"n\":1}]}");
    expect_json(&row, CP_RECENT_TOPICS,
                "[{\"end_time\":\"2026-01-05T10:20:00Z\",\"messages\":1,\"open\":true,"
                "\"start_time\":\"2026-01-05T10:20:00Z\",\"topic\":\"dog leg vet\",\"topic_id\":0,"
                "\"valence\":-1},"
                "{\"end_time\":\"2026-01-05T10:11:00Z\",\"messages\":2,\"open\":false,"
                "\"start_time\":\"2026-01-05T10:08:00Z\",\"topic\":\"rust borrow\",\"topic_id\":1,"
                "\"valence\":null},"
                "{\"end_time\":\"2026-01-05T10:03:00Z\",\"messages\":3,\"open\":false,"
                "\"start_time\":\"2026-01-05T10:00:00Z\",\"topic\":\"dog leg vet\",\"topic_id\":0,"
                "\"valence\":null}]");
    assert_float_equal(row.confidence, 0.167F, 1e-7); /* 6 / 36 */
    assert_int_equal(row.valid_until_us, MINUTE(80));
    assert_int_equal(row.state_flags, ROW_LEXICAL | ROW_NO_TZ | ROW_NO_EMOTION);
    row_deinit(&row);
}

static void test_a_closed_session_asks_whether_the_next_one_begins_elsewhere(void **state)
{
    (void)state;
    struct cs_counts c = golden();
    struct row row;
    c.session_open = false;
    c.returns = 4;
    c.moved = 3;
    write_row(&c, &row);
    expect_reason(&row, "predicted_switch_likelihood", "insufficient_data: have 4, need 5");
    row_deinit(&row);
    c.returns = 5;
    write_row(&c, &row);
    assert_float_equal(row.values[CP_PREDICTED_SWITCH_LIKELIHOOD].number, 0.6F, 1e-7);
    row_deinit(&row);
}

static void test_one_message_says_next_to_nothing(void **state)
{
    (void)state;
    struct cs_counts c = {.n_user = 1,
                          .session_open = true,
                          .active_us = US_PER_MINUTE,
                          .next_expiry_us = INT64_MAX,
                          .session_close_us = INT64_MAX};
    struct row row;
    add(&c, (struct cs_segment){.topic = CS_OTHER, .messages = 1, .ends_session = true});
    write_row(&c, &row);
    expect_reason(&row, "avg_topic_duration_minutes", "insufficient_data: have 0, need 2");
    expect_reason(&row, "context_switch_frequency", "insufficient_data: have 1 minutes, need 15");
    expect_reason(&row, "predicted_switch_likelihood", "insufficient_data: have 0, need 5");
    expect_reason(&row, "topic_transition_graph", "insufficient_data: have 0 topics, need 1");
    row_deinit(&row);
}

static void test_the_largest_graph_fits_its_column(void **state)
{
    (void)state;
    struct cs_counts c = {.next_expiry_us = INT64_MAX, .session_close_us = INT64_MAX};
    for (uint8_t t = 0; t < CS_OTHER; t++) {
        memset(c.labels[t].text, '"', sizeof(c.labels[t].text));
        c.labels[t].len = sizeof(c.labels[t].text);
        c.node_n[t] = UINT32_MAX;
        c.node_us[t] = INT64_MAX / 64;
        for (uint8_t to = 0; to < CS_OTHER; to++)
            c.edges[t][to] = t == to ? 0 : 1000000 + t;
    }
    c.n_recent = CS_RECENT_MAX;
    for (size_t i = 0; i < CS_RECENT_MAX; i++)
        c.recent[i] = (struct cs_segment){
            .topic = (uint8_t)(16 + i), .messages = 128, .n_valence = 3, .valence_sum = 100};
    struct row row;
    write_row(&c, &row);
    assert_true(row_value(&row, CP_TOPIC_TRANSITION_GRAPH).len <= LIMIT_JSON_BYTES);
    assert_true(row_value(&row, CP_RECENT_TOPICS).len <= LIMIT_JSON_BYTES);
    row_deinit(&row);
}

static void test_engines_that_share_a_row_combine_what_they_say_of_it(void **state)
{
    (void)state;
    struct row row;
    row_init(&row, &tables[TABLE_CONVERSATION_PATTERNS]);
    row_rate(&row, ROW_NO_TZ, 0.4, 100);
    row_rate(&row, ROW_NO_EMOTION, 0.7, 50);
    assert_int_equal(row.state_flags, ROW_NO_TZ | ROW_NO_EMOTION);
    assert_float_equal(row.confidence, 0.4F, 1e-7);
    assert_int_equal(row.valid_until_us, 50);
    row_deinit(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_golden_segments_give_the_golden_row),
        cmocka_unit_test(test_a_closed_session_asks_whether_the_next_one_begins_elsewhere),
        cmocka_unit_test(test_one_message_says_next_to_nothing),
        cmocka_unit_test(test_the_largest_graph_fits_its_column),
        cmocka_unit_test(test_engines_that_share_a_row_combine_what_they_say_of_it),
    };
    return cmocka_run_group_tests_name("engines/context_switch", tests, NULL, NULL);
}
