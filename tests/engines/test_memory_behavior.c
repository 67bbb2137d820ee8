/*
 * Goal: memory behavior says what ENGINES.md E5 asks for, in exactly its JSON, and its trace never
 * peeks.
 * Method: events go through the real features and the real key log; expected rows are printed by
 * behavior_golden.py or follow from counting. That rows equal the naive recomputation is
 * tests/contract's.
 */
#include "core/clock.h"
#include "core/hash.h"
#include "engines/key.h"
#include "engines/retention.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define T0 (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01 00:00 */

struct fixture {
    struct key *key;
    struct row row;
    int64_t as_of_us;
    int next_id;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (!f || key_new(STR("ann"), STR("bot"), &f->key, NULL))
        return -1;
    row_init(&f->row, &tables[TABLE_MEMORY_BEHAVIOR]);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    row_deinit(&f->row);
    key_free(f->key);
    free(f);
    return 0;
}

static struct event memory_event(enum memory_op op, const char *memory_id, int64_t at_us)
{
    return (struct event){.type = EVENT_MEMORY,
                          .id = STR_NULL,
                          .user_id = STR("ann"),
                          .bot_name = STR("bot"),
                          .at_us = at_us,
                          .u.memory = {.op = op,
                                       .memory_id = str_from(memory_id),
                                       .score = NAN,
                                       .importance = NAN,
                                       .memory_type = STR("fact")}};
}

static void apply(struct fixture *f, const struct event *e, const char *id)
{
    char made[32];
    struct event with_id = *e;
    struct feature feature;
    struct key_change change;

    (void)snprintf(made, sizeof(made), "event-%d", f->next_id++);
    with_id.id = str_from(id ? id : made);
    feature_extract(&with_id, SOURCE_POSTGRES, (uint64_t)f->next_id, NULL, &feature);
    assert_int_equal(key_apply(f->key, &feature, f->as_of_us, &change, NULL), STATUS_OK);
}

static void create(struct fixture *f, const char *memory_id, int64_t at_us)
{
    struct event e = memory_event(MEMORY_CREATE, memory_id, at_us);
    apply(f, &e, NULL);
}

static struct event access_event(const char *memory_id, int64_t at_us, int grade)
{
    struct event e = memory_event(MEMORY_ACCESS, memory_id, at_us);
    e.u.memory.grade = grade;
    return e;
}

static void access_graded(struct fixture *f, const char *memory_id, int64_t at_us, int grade)
{
    struct event e = access_event(memory_id, at_us, grade);
    apply(f, &e, NULL);
}

static int64_t hours_ago(double h)
{
    return T0 - llround(h * (double)US_PER_HOUR);
}

static void emit(struct fixture *f, int64_t as_of_us)
{
    struct error err;
    row_deinit(&f->row);
    row_init(&f->row, &tables[TABLE_MEMORY_BEHAVIOR]);
    f->as_of_us = as_of_us;
    if (key_emit(f->key, TABLE_MEMORY_BEHAVIOR, as_of_us, &f->row, &err))
        fail_msg("%s", err.text);
}

static void assert_column(const struct fixture *f, size_t column, const char *want)
{
    struct str got = row_value(&f->row, column);
    if (!str_equal(got, str_from(want)))
        fail_msg("got  " STR_FMT "\nwant %s", STR_ARGS(got), want);
}

static void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("got %.17g, want %.17g", got, want);
}

static json_t *parse(struct str text)
{
    json_t *json = json_loadb(text.ptr, text.len, 0, NULL);
    assert_non_null(json);
    return json;
}

static void assert_reason(const struct fixture *f, const char *column, const char *want)
{
    json_t *details = parse(row_details(&f->row));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(details, "reason"), column)), want);
    json_decref(details);
}

/* ---- rows ---- */

static void add_three_memories(struct fixture *f)
{
    create(f, "known", hours_ago(960));
    create(f, "lost", hours_ago(720));
    create(f, "new", hours_ago(72));
    access_graded(f, "known", hours_ago(48), 4);
    access_graded(f, "known", hours_ago(480), 3);
    access_graded(f, "known", hours_ago(240), 3);
    for (int i = 0; i < 4; i++)
        access_graded(f, "lost", hours_ago(696 - 24 * i), 1);
}

static void test_three_memories_give_the_golden_row(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    add_three_memories(f);
    emit(f, T0);
    assert_column(f, MB_FORGETTING_CURVE_PARAMS,
                  "{\"a_per_h\":null,\"accesses\":7,\"bins\":["
                  "{\"E\":0,\"X_h\":10,\"lag_h\":0.25,\"rate\":0},"
                  "{\"E\":0,\"X_h\":50,\"lag_h\":2.44949,\"rate\":0},"
                  "{\"E\":0,\"X_h\":180,\"lag_h\":12,\"rate\":0},"
                  "{\"E\":4,\"X_h\":144,\"lag_h\":33.9411,\"rate\":0.0277778},"
                  "{\"E\":0,\"X_h\":216,\"lag_h\":67.8823,\"rate\":0},"
                  "{\"E\":0,\"X_h\":384,\"lag_h\":135.765,\"rate\":0},"
                  "{\"E\":2,\"X_h\":432,\"lag_h\":271.529,\"rate\":0.00462963},"
                  "{\"E\":1,\"X_h\":336,\"lag_h\":543.058,\"rate\":0.00297619},"
                  "{\"E\":0,\"X_h\":0,\"lag_h\":1086.12,\"rate\":null}],"
                  "\"d\":0.5,\"half_rate_h\":null,\"model\":\"power_need\",\"r2\":null,"
                  "\"spacing_effect\":null,"
                  "\"stability_model\":{\"S0_days\":2.3065,\"d\":0.1542,\"model\":\"fsrs-6\"},"
                  "\"status\":\"prior\"}");
    assert_column(f, MB_HIGH_RETENTION_MEMORIES,
                  "[{\"R\":0.997407,\"last_access\":\"2025-12-30T00:00:00Z\","
                  "\"memory_id\":\"known\",\"n_spaced\":3,\"stability_days\":115.468}]");
    assert_column(f, MB_LOW_RETENTION_MEMORIES,
                  "[{\"R\":0.386119,\"last_access\":\"2025-12-06T00:00:00Z\","
                  "\"memory_id\":\"lost\",\"n_spaced\":4,\"overdue_h\":508.315,"
                  "\"stability_days\":0.0533476}]");
    assert_column(f, MB_CONSOLIDATION,
                  "{\"consolidated\":2,\"consolidating\":0,\"lapsed\":0,\"new\":1}");
    assert_reason(f, "recall_simulation_score", "insufficient_data: have 7, need 20");
    assert_int_equal(f->row.state_flags, ROW_PRIOR_ONLY);
    assert_near(row_confidence(&f->row), 0.123, 0); /* 7 / 57 */
}

/* 24 accesses of one memory: 12 gaps of half an hour, 6 of 3 h, 4 of 12 h, 2 of 36 h. */
static void add_often_used(struct fixture *f)
{
    static const struct {
        double gap_h;
        int n;
    } steps[] = {{0.5, 12}, {3, 6}, {12, 4}, {36, 2}};
    double ago_h = 200;

    create(f, "often", hours_ago(ago_h));
    for (size_t s = 0; s < 4; s++) {
        for (int i = 0; i < steps[s].n; i++) {
            ago_h -= steps[s].gap_h;
            access_graded(f, "often", hours_ago(ago_h), 3);
        }
    }
}

static void test_two_dozen_accesses_give_the_golden_curve(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    add_often_used(f);
    emit(f, T0);
    assert_column(f, MB_FORGETTING_CURVE_PARAMS,
                  "{\"a_per_h\":0.257275,\"accesses\":24,\"bins\":["
                  "{\"E\":12,\"X_h\":19,\"lag_h\":0.25,\"rate\":0.631579},"
                  "{\"E\":6,\"X_h\":47,\"lag_h\":2.44949,\"rate\":0.12766},"
                  "{\"E\":4,\"X_h\":78,\"lag_h\":12,\"rate\":0.0512821},"
                  "{\"E\":2,\"X_h\":48,\"lag_h\":33.9411,\"rate\":0.0416667},"
                  "{\"E\":0,\"X_h\":8,\"lag_h\":67.8823,\"rate\":0},"
                  "{\"E\":0,\"X_h\":0,\"lag_h\":135.765,\"rate\":null},"
                  "{\"E\":0,\"X_h\":0,\"lag_h\":271.529,\"rate\":null},"
                  "{\"E\":0,\"X_h\":0,\"lag_h\":543.058,\"rate\":null},"
                  "{\"E\":0,\"X_h\":0,\"lag_h\":1086.12,\"rate\":null}],"
                  "\"d\":0.614426,\"half_rate_h\":3.08985,\"model\":\"power_need\","
                  "\"r2\":0.985272,"
                  "\"spacing_effect\":{\"ci95\":[0.0223239,0.161955],\"ratio\":0.0601287},"
                  "\"stability_model\":{\"S0_days\":2.3065,\"d\":0.1542,\"model\":\"fsrs-6\"},"
                  "\"status\":\"fitted\"}");
    assert_column(f, MB_HIGH_RETENTION_MEMORIES,
                  "[{\"R\":0.986569,\"last_access\":\"2025-12-29T16:00:00Z\","
                  "\"memory_id\":\"often\",\"n_spaced\":6,\"stability_days\":24.9578}]");
    assert_column(f, MB_LOW_RETENTION_MEMORIES, "[]");
    assert_near(f->row.values[MB_RECALL_SIMULATION_SCORE].number, 0.880183519843, 1e-11);
    json_t *details = parse(row_details(&f->row));
    assert_near(json_real_value(json_object_get(details, "reuse_24h")), 0.88758, 0);
    json_decref(details);
    assert_int_equal(f->row.state_flags, 0);
    assert_near(row_confidence(&f->row), 0.324, 0); /* 24 / 74 */
}

/* The gap that an expired access opened stays whole: its start is in the memory's base. */
static void test_a_gap_counts_whole_while_the_access_that_closes_it_is_in_the_window(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = hours_ago(0);
    add_three_memories(f);
    /* 480 h and 696..624 h ago have left after another 300 h; 240 h and 48 h ago have not. */
    emit(f, T0 + 300 * US_PER_HOUR);
    json_t *curve = parse(row_value(&f->row, MB_FORGETTING_CURVE_PARAMS));
    json_t *bins = json_object_get(curve, "bins");
    int64_t events[9];
    double exposed_h = 0;
    for (size_t i = 0; i < 9; i++) {
        events[i] = json_integer_value(json_object_get(json_array_get(bins, i), "E"));
        exposed_h += json_number_value(json_object_get(json_array_get(bins, i), "X_h"));
    }
    assert_int_equal(events[6], 2); /* 240 h and 192 h */
    assert_int_equal(json_integer_value(json_object_get(curve, "accesses")), 2);
    /* known: 240 + 192 closed, 348 open; lost: 924 open; new: 372 open */
    assert_near(exposed_h, 240 + 192 + 348 + 924 + 372, 0);
    json_decref(curve);
    assert_column(f, MB_CONSOLIDATION,
                  "{\"consolidated\":2,\"consolidating\":0,\"lapsed\":0,\"new\":1}");
}

static void test_a_stability_beyond_a_year_is_shown_as_a_year(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    struct event e = memory_event(MEMORY_CREATE, "forever", hours_ago(9000));
    e.u.memory.importance = 1;
    e.u.memory.grade = 4;
    apply(f, &e, NULL);
    for (int i = 0; i < 8; i++)
        access_graded(f, "forever", hours_ago(710 - 100 * i), 4);
    emit(f, T0);
    json_t *high = parse(row_value(&f->row, MB_HIGH_RETENTION_MEMORIES));
    json_t *item = json_array_get(high, 0);
    assert_near(json_number_value(json_object_get(item, "stability_days")), 365, 0);
    json_decref(high);
}

static void test_lists_hold_ten_with_ties_by_id(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    for (int i = 14; i >= 0; i--) {
        char name[16];
        (void)snprintf(name, sizeof(name), "good-%02d", i);
        create(f, name, hours_ago(100));
        access_graded(f, name, hours_ago(90), 3);
        access_graded(f, name, hours_ago(80), 3);
        (void)snprintf(name, sizeof(name), "poor-%02d", i);
        create(f, name, hours_ago(700));
        for (int k = 0; k < 6; k++)
            access_graded(f, name, hours_ago(690 - k), 1);
    }
    emit(f, T0);
    static const size_t columns[] = {MB_HIGH_RETENTION_MEMORIES, MB_LOW_RETENTION_MEMORIES};
    static const char *const prefixes[] = {"good", "poor"};
    for (size_t c = 0; c < 2; c++) {
        json_t *list = parse(row_value(&f->row, columns[c]));
        assert_int_equal(json_array_size(list), 10);
        for (size_t i = 0; i < 10; i++) {
            char name[16];
            (void)snprintf(name, sizeof(name), "%s-%02zu", prefixes[c], i);
            json_t *id = json_object_get(json_array_get(list, i), "memory_id");
            assert_string_equal(json_string_value(id), name);
        }
        json_decref(list);
    }
}

/* Ids at their bound, of bytes that grow when escaped. */
static void test_columns_stay_below_eight_kibibytes_whatever_the_ids(void **state)
{
    struct fixture *f = *state;
    char name[65];

    f->as_of_us = T0;
    memset(name, '\x01', 64);
    name[64] = 0;
    for (int i = 0; i < 10; i++) {
        struct event e;
        name[0] = (char)('a' + i);
        e = memory_event(MEMORY_CREATE, name, hours_ago(700));
        e.u.memory.content = STR("indistinguishableness counterrevolutionary electroencephalogram");
        apply(f, &e, NULL);
        for (int k = 0; k < 6; k++)
            access_graded(f, name, hours_ago(690 - k), 1);
    }
    emit(f, T0);
    json_t *list = parse(row_value(&f->row, MB_LOW_RETENTION_MEMORIES));
    assert_int_equal(json_array_size(list), 10);
    json_decref(list);
    assert_true(row_value(&f->row, MB_LOW_RETENTION_MEMORIES).len > 4000);
    assert_true(row_value(&f->row, MB_LOW_RETENTION_MEMORIES).len <= LIMIT_JSON_BYTES);
}

/* ENGINES.md Appendix B: without accesses params are the prior, lists and score NULL. */
static void test_without_accesses_lists_and_score_are_null_and_the_curve_is_the_prior(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    create(f, "a", hours_ago(100));
    create(f, "b", hours_ago(1000));
    emit(f, T0);
    assert_int_equal(f->row.state_flags, ROW_PRIOR_ONLY | ROW_NO_ACCESS_SIGNAL);
    assert_reason(f, "high_retention_memories", "no_access_signal");
    assert_reason(f, "low_retention_memories", "no_access_signal");
    assert_reason(f, "recall_simulation_score", "no_access_signal");
    json_t *curve = parse(row_value(&f->row, MB_FORGETTING_CURVE_PARAMS));
    assert_string_equal(json_string_value(json_object_get(curve, "status")), "prior");
    assert_true(json_is_null(json_object_get(curve, "a_per_h")));
    assert_near(json_number_value(json_object_get(curve, "d")), 0.5, 0);
    json_decref(curve);
    assert_column(f, MB_CONSOLIDATION,
                  "{\"consolidated\":0,\"consolidating\":0,\"lapsed\":0,\"new\":2}");
    assert_near(row_confidence(&f->row), 0, 0);
}

static void test_a_deleted_memory_takes_its_gaps_with_it(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    add_often_used(f);
    emit(f, T0);
    create(f, "other", hours_ago(30));
    access_graded(f, "other", hours_ago(10), 3);
    struct event gone = memory_event(MEMORY_DELETE, "often", T0);
    apply(f, &gone, NULL);
    emit(f, T0);
    json_t *curve = parse(row_value(&f->row, MB_FORGETTING_CURVE_PARAMS));
    assert_int_equal(json_integer_value(json_object_get(curve, "accesses")), 1);
    double exposed_h = 0;
    for (size_t i = 0; i < 9; i++) {
        json_t *bin = json_array_get(json_object_get(curve, "bins"), i);
        exposed_h += json_number_value(json_object_get(bin, "X_h"));
    }
    assert_near(exposed_h, 30, 0);
    json_decref(curve);
}

/* ---- traces ---- */

static const struct engine_ops *engine(void)
{
    const struct engine_ops *ops = engine_find("memory_behavior");
    assert_non_null(ops);
    return ops;
}

/* p_recall of the access, or -1 for no line; also when it was applied before. */
static double trace(struct fixture *f, const struct event *e, const char *id)
{
    struct event with_id = *e;
    struct feature feature;
    struct buf out;

    with_id.id = str_from(id);
    feature_extract(&with_id, SOURCE_POSTGRES, 1, NULL, &feature);
    buf_init(&out, 4096);
    enum status st =
        key_trace(f->key, engine(), TRACE_BEFORE, &feature, with_id.id, f->as_of_us, &out, NULL);
    double p = -1;
    if (st == STATUS_OK) {
        json_t *line = parse((struct str){out.data, out.len});
        assert_string_equal(json_string_value(json_object_get(line, "id")), id);
        p = json_number_value(json_object_get(line, "p_recall"));
        json_decref(line);
    } else {
        assert_int_equal(st, STATUS_END);
    }
    buf_deinit(&out);
    return p;
}

/* test_memory_aging.c: S = 2.3065 days after the creation, 10.9643 after the access two days on. */
static void test_the_trace_is_the_retention_right_before_the_access(void **state)
{
    struct fixture *f = *state;
    struct event first = access_event("M", T0, 3);
    struct event second = access_event("M", T0 + 2 * US_PER_DAY, 3);

    f->as_of_us = T0 - 2 * US_PER_DAY;
    assert_near(trace(f, &first, "first"), -1, 0); /* not known */
    create(f, "M", T0 - 2 * US_PER_DAY);
    f->as_of_us = T0;
    double p = trace(f, &first, "first");
    assert_near(p, pow(1 + 0.98034649441348 * 2 / 2.3065, -0.1542), 1e-12);
    apply(f, &first, "first");
    assert_near(trace(f, &second, "second"), 0.97495, 5e-7); /* M2 of the worked example */
    apply(f, &second, "second");

    /* Delivered again, or looked at late, each is judged by what came before it. */
    assert_near(trace(f, &first, "first"), p, 0);
    assert_near(trace(f, &second, "second"), 0.97495, 5e-7);
}

static void test_an_access_that_arrives_late_is_judged_by_what_is_older(void **state)
{
    struct fixture *f = *state;
    struct event oldest = access_event("M", T0 - 20 * US_PER_DAY, 3);
    struct event newest = access_event("M", T0 - 1 * US_PER_DAY, 1);

    f->as_of_us = T0;
    create(f, "M", T0 - 25 * US_PER_DAY);
    double alone = trace(f, &oldest, "oldest");
    apply(f, &newest, "newest");
    emit(f, T0); /* folds what is there */
    assert_near(trace(f, &oldest, "oldest"), alone, 0);
    apply(f, &oldest, "oldest");
    assert_near(trace(f, &oldest, "oldest"), alone, 0);
    emit(f, T0);
    assert_near(trace(f, &oldest, "oldest"), alone, 0);

    /* Once newer accesses are folded into the memory for good, it cannot be told any more. */
    emit(f, T0 + 35 * US_PER_DAY);
    assert_near(trace(f, &oldest, "oldest"), -1, 0);
    struct event next = access_event("M", T0 + 35 * US_PER_DAY, 3);
    assert_true(trace(f, &next, "next") > 0);
}

static void test_the_trace_falls_from_a_second_to_fifty_years(void **state)
{
    struct fixture *f = *state;
    uint32_t seed = 20260105;

    f->as_of_us = T0;
    for (int m = 0; m < 40; m++) {
        char name[16];
        int64_t t_us = T0 - 29 * US_PER_DAY;
        (void)snprintf(name, sizeof(name), "m%d", m);
        create(f, name, t_us);
        for (int i = 0; i < m % 12; i++) {
            seed = seed * 1664525 + 1013904223;
            t_us += (int64_t)(seed >> 8) % (2 * US_PER_DAY);
            access_graded(f, name, t_us < T0 ? t_us : T0, 1 + (int)(seed >> 29) % 4);
        }
        double before = 1;
        int64_t last_us = t_us < T0 ? t_us : T0;
        for (int64_t age_us = US_PER_SECOND; age_us < 18300 * US_PER_DAY; age_us += age_us / 4) {
            struct event e = access_event(name, last_us + age_us, 3);
            double p = trace(f, &e, "next");
            assert_true(p > 0 && p < before);
            before = p;
        }
    }
}

static void test_only_accesses_have_a_line(void **state)
{
    struct fixture *f = *state;

    f->as_of_us = T0;
    create(f, "M", T0 - US_PER_DAY);
    struct event pin = memory_event(MEMORY_PIN, "M", T0);
    struct event again = memory_event(MEMORY_CREATE, "M", T0);
    assert_near(trace(f, &pin, "pin"), -1, 0);
    assert_near(trace(f, &again, "again"), -1, 0);
}

#define with_fixture(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_fixture(test_three_memories_give_the_golden_row),
        with_fixture(test_two_dozen_accesses_give_the_golden_curve),
        with_fixture(test_a_gap_counts_whole_while_the_access_that_closes_it_is_in_the_window),
        with_fixture(test_a_stability_beyond_a_year_is_shown_as_a_year),
        with_fixture(test_lists_hold_ten_with_ties_by_id),
        with_fixture(test_columns_stay_below_eight_kibibytes_whatever_the_ids),
        with_fixture(test_without_accesses_lists_and_score_are_null_and_the_curve_is_the_prior),
        with_fixture(test_a_deleted_memory_takes_its_gaps_with_it),
        with_fixture(test_the_trace_is_the_retention_right_before_the_access),
        with_fixture(test_an_access_that_arrives_late_is_judged_by_what_is_older),
        with_fixture(test_the_trace_falls_from_a_second_to_fifty_years),
        with_fixture(test_only_accesses_have_a_line),
    };
    return cmocka_run_group_tests_name("engines/memory_behavior", tests, NULL, NULL);
}
