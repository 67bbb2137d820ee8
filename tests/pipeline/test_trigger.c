/* tests/pipeline/test_trigger.c - when rows are due: every reason alone, their order, clock jumps,
 * and that the persisted form keeps all of it. */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cleanup.h"
#include "core/clock.h"
#include "pipeline/partition_internal.h"

#define S  US_PER_SECOND
#define T0 (INT64_C(1767600000) * S)

static const struct trigger_policy policy = {
    .count = 5,
    .max_age_us = 10 * S,
    .idle_us = 2 * S,
};
/* The same with a cache to be kept alive. */
static const struct trigger_policy kept = {
    .count = 5,
    .max_age_us = 10 * S,
    .idle_us = 2 * S,
    .refresh_us = 210 * S,
    .refresh_jitter_us = 30 * S,
    .warm_us = 1800 * S,
    .recent_us = 86400 * S,
};

static struct trigger_due due(const struct trigger_state *s, const struct trigger_policy *p,
                              int64_t now)
{
    return trigger_next(s, p, &(struct trigger_key){.hash = 7, .active_us = s->last_us}, false,
                        now);
}

/* A row of version 1 that was written at T0 + flushed and says that it holds until T0 + valid. */
static struct trigger_state written(int64_t flushed, int64_t valid)
{
    return (struct trigger_state){
        .last_us = T0, .flushed_us = T0 + flushed, .valid_us = T0 + valid, .payload_hash = 5};
}

static void assert_due(struct trigger_due d, int64_t at, enum flush_reason reason)
{
    assert_string_equal(flush_reason_name(d.reason), flush_reason_name(reason));
    assert_int_equal(d.at_us - T0, at);
}

/* The first event after a pause must be shown before its reader asks; so must the first one ever.
 */
static void test_a_key_that_comes_back_is_shown_at_once(void **state)
{
    (void)state;
    struct trigger_key key = {.hash = 7, .active_us = T0 + 1000 * S};
    struct trigger_state fresh = {0};
    trigger_note(&fresh, 1, false, T0);
    assert_due(trigger_next(&fresh, &kept, &key, false, T0), 0, FLUSH_WAKE);
    struct trigger_state old = written(0, 0);
    trigger_note(&old, 1, false, T0 + 1000 * S);
    assert_due(trigger_next(&old, &kept, &key, false, T0 + 1000 * S), 1000 * S, FLUSH_WAKE);
    trigger_flush(&old, T0 + 1000 * S);
    old.outbox = false;
    trigger_note(&old, 1, false, T0 + 1001 * S);
    assert_due(trigger_next(&old, &kept, &key, false, T0 + 1001 * S), 1003 * S, FLUSH_IDLE);
    /* What only takes it into account comes along; so does what it says nothing to. */
    struct trigger_state context = written(0, 0), other = written(0, 0);
    trigger_note_context(&context, T0 + 1000 * S);
    assert_due(trigger_next(&context, &kept, &key, false, T0 + 1000 * S), 1000 * S, FLUSH_WAKE);
    struct trigger_due d = trigger_next(&other, &kept, &key, false, T0 + 1000 * S);
    assert_int_equal(d.reason, FLUSH_REFRESH);
    assert_true(d.at_us <= T0 + 1000 * S);
    /* A backlog wakes nobody up. */
    struct trigger_state late = written(0, 0);
    trigger_note(&late, 1, false, T0 + 1000 * S);
    assert_due(trigger_next(&late, &kept, &key, true, T0 + 1000 * S), 1010 * S, FLUSH_AGE);
}

/* Else a row that waits for its age would be older than its lifetime before it is written. */
static void test_a_dirty_row_is_renewed_no_later_than_a_clean_one(void **state)
{
    (void)state;
    struct trigger_policy slow = kept;
    slow.count = 0;
    slow.idle_us = 0;
    slow.max_age_us = 240 * S;
    struct trigger_state s = written(0, 0);
    trigger_note(&s, 1, false, T0 + 200 * S);
    assert_due(due(&s, &slow, T0 + 200 * S), 210 * S + 7, FLUSH_REFRESH);
}

static void test_a_recent_row_is_renewed_when_it_ceases_to_hold(void **state)
{
    (void)state;
    struct trigger_key key = {.hash = 7, .active_us = T0};
    struct trigger_state s = written(1750 * S, 3600 * S);
    assert_due(trigger_next(&s, &kept, &key, false, T0 + 1800 * S), 3600 * S + 7, FLUSH_VALIDITY);
    /* Never twice within the age of renewal, whatever it says. */
    s = written(3600 * S, 3599 * S);
    assert_due(trigger_next(&s, &kept, &key, false, T0 + 3600 * S), 3810 * S + 7, FLUSH_VALIDITY);
    /* Nothing after a day, and nothing for a row that says nothing. */
    s = written(1750 * S, 86401 * S);
    assert_int_equal(trigger_next(&s, &kept, &key, false, T0 + 1800 * S).at_us, TRIGGER_NEVER);
    s = written(1750 * S, 0);
    s.valid_us = 0;
    assert_int_equal(trigger_next(&s, &kept, &key, false, T0 + 1800 * S).at_us, TRIGGER_NEVER);
    struct trigger_policy none = kept;
    none.recent_us = 0;
    s = written(1750 * S, 3600 * S);
    assert_int_equal(trigger_next(&s, &none, &key, false, T0 + 1800 * S).at_us, TRIGGER_NEVER);
}

static void test_a_recent_row_is_renewed_while_its_user_is_expected(void **state)
{
    (void)state;
    struct trigger_key key = {.hash = 7,
                              .active_us = T0,
                              .visit_from_us = T0 + 7200 * S,
                              .visit_until_us = T0 + 7800 * S};
    struct trigger_state s = written(3600 * S, 10000 * S);
    assert_due(trigger_next(&s, &kept, &key, false, T0 + 3600 * S), 7200 * S, FLUSH_VISIT);
    s = written(7200 * S, 10000 * S);
    assert_due(trigger_next(&s, &kept, &key, false, T0 + 7200 * S), 7410 * S + 7, FLUSH_VISIT);
    s = written(7700 * S, 10000 * S); /* he has not come */
    assert_due(trigger_next(&s, &kept, &key, false, T0 + 7700 * S), 10000 * S + 7, FLUSH_VALIDITY);
}

/* Rows that nobody has touched for so long may have been deleted: they are written whole. */
static void test_a_row_untouched_for_a_day_is_not_taken_for_granted(void **state)
{
    (void)state;
    struct trigger_state s = written(0, 0);
    trigger_flush(&s, T0 + 86400 * S);
    assert_int_equal(s.payload_hash, 5);
    trigger_flush(&s, T0 + 2 * 86400 * S + S);
    assert_int_equal(s.payload_hash, 0);
}

static void test_nothing_is_due_before_the_first_event(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    assert_int_equal(due(&s, &policy, T0).at_us, TRIGGER_NEVER);
}

static void test_the_fifth_event_is_due_at_once(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    for (int i = 0; i < 4; i++)
        trigger_note(&s, 1, false, T0 + i);
    assert_int_equal(due(&s, &policy, T0 + 3).reason, FLUSH_IDLE);
    trigger_note(&s, 1, false, T0 + 4);
    struct trigger_due d = due(&s, &policy, T0 + 4);
    assert_int_equal(d.reason, FLUSH_COUNT);
    assert_true(d.at_us <= T0 + 4);
}

static void test_quiet_is_due_two_seconds_after_the_last_event(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0);
    trigger_note(&s, 1, false, T0 + S);
    struct trigger_due d = due(&s, &policy, T0 + S);
    assert_int_equal(d.reason, FLUSH_IDLE);
    assert_int_equal(d.at_us, T0 + 3 * S);
}

/* A sliding debounce would move the bound with every event. */
static void test_age_counts_from_the_first_unflushed_event(void **state)
{
    (void)state;
    struct trigger_policy p = policy;
    p.count = 0;
    struct trigger_state s = {0};
    for (int i = 0; i <= 9; i++)
        trigger_note(&s, 1, false, T0 + i * S);
    struct trigger_due d = due(&s, &p, T0 + 9 * S);
    assert_int_equal(d.reason, FLUSH_AGE);
    assert_int_equal(d.at_us, T0 + 10 * S);
}

/* A message changes what a memory's row takes into account, but must not write it every time. */
static void test_context_alone_is_due_by_age_only(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0);
    trigger_flush(&s, T0 + S);
    s.outbox = false;
    for (int i = 2; i < 8; i++)
        trigger_note_context(&s, T0 + i * S);
    struct trigger_due d = due(&s, &policy, T0 + 8 * S);
    assert_int_equal(d.reason, FLUSH_AGE);
    assert_int_equal(d.at_us, T0 + 12 * S);
    trigger_note(&s, 1, false, T0 + 8 * S);
    assert_int_equal(due(&s, &policy, T0 + 8 * S).at_us, T0 + 10 * S);
}

static void test_an_engine_can_ask_at_once(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, true, T0);
    struct trigger_due d = due(&s, &policy, T0);
    assert_int_equal(d.reason, FLUSH_PREDICATE);
    assert_true(d.at_us <= T0);
}

static void test_a_floor_delays_count_but_never_age(void **state)
{
    (void)state;
    struct trigger_policy p = policy;
    p.min_interval_us = 60 * S;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0);
    trigger_flush(&s, T0);
    s.outbox = false;
    for (int i = 0; i < 5; i++)
        trigger_note(&s, 1, false, T0 + S);
    struct trigger_due d = due(&s, &p, T0 + S);
    assert_int_equal(d.reason, FLUSH_AGE);
    assert_int_equal(d.at_us, T0 + 11 * S);
    p.min_interval_us = 5 * S;
    d = due(&s, &p, T0 + S);
    assert_int_equal(d.reason, FLUSH_COUNT);
    assert_int_equal(d.at_us, T0 + 5 * S);
}

static void test_catching_up_leaves_only_age(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    for (int i = 0; i < 50; i++)
        trigger_note(&s, 1, true, T0);
    struct trigger_due d = trigger_next(&s, &policy, &(struct trigger_key){.hash = 7}, true, T0);
    assert_int_equal(d.reason, FLUSH_AGE);
    assert_int_equal(d.at_us, T0 + 10 * S);
}

static void test_what_was_taken_back_is_due_at_once_in_any_case(void **state)
{
    (void)state;
    struct trigger_policy p = policy;
    p.min_interval_us = 60 * S;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0 - S);
    trigger_flush(&s, T0 - S);
    trigger_note(&s, 1, true, T0);
    trigger_withdraw(&s);
    for (int catching_up = 0; catching_up < 2; catching_up++) {
        struct trigger_due d =
            trigger_next(&s, &p, &(struct trigger_key){.hash = 7}, catching_up, T0);
        assert_int_equal(d.reason, FLUSH_RETRACTION);
        assert_true(d.at_us <= T0);
    }
    CLEANUP(buf_deinit) struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(trigger_encode(&s, &b), STATUS_OK);
    struct reader r = reader_of(b.data, b.len);
    struct trigger_state back;
    trigger_decode(&r, PAGE_FORMAT, &back);
    assert_true(back.withdrawn);
    trigger_flush(&s, T0);
    trigger_note(&s, 1, true, T0);
    assert_int_equal(trigger_next(&s, &p, &(struct trigger_key){.hash = 7}, true, T0).reason,
                     FLUSH_AGE);
}

static void test_a_warm_row_is_renewed_before_it_expires(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0);
    trigger_flush(&s, T0);
    assert_int_equal(due(&s, &kept, T0).at_us, TRIGGER_NEVER); /* still on its way */
    s.outbox = false;
    struct trigger_due d = due(&s, &kept, T0);
    assert_int_equal(d.reason, FLUSH_REFRESH);
    assert_int_equal(d.at_us, T0 + 210 * S + 7);
    /* Every key has its own place inside the jitter, at most 240 s, and always the same one. */
    for (uint64_t hash = 0; hash < 1000; hash++) {
        d = trigger_next(&s, &kept,
                         &(struct trigger_key){.hash = hash * 77777777777, .active_us = T0}, false,
                         T0);
        assert_in_range(d.at_us, T0 + 210 * S, T0 + 240 * S);
    }
}

static void test_a_cold_row_is_left_to_expire(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0);
    trigger_flush(&s, T0 + 1700 * S);
    s.outbox = false;
    assert_int_equal(due(&s, &kept, T0 + 1700 * S).at_us, TRIGGER_NEVER);
}

/* A timer armed before the clock was set back must still fire within its period from now. */
static void test_a_clock_set_back_does_not_freeze_a_timer(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_note(&s, 1, false, T0 + 86400 * S);
    struct trigger_due d = due(&s, &policy, T0);
    assert_true(d.at_us <= T0 + 10 * S);
}

static void test_a_flush_starts_over(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    for (int i = 0; i < 5; i++)
        trigger_note(&s, 1, true, T0);
    trigger_flush(&s, T0);
    assert_int_equal(s.count, 0);
    assert_int_equal(s.first_us, 0);
    assert_false(s.urgent);
    assert_true(s.outbox);
    trigger_note(&s, 1, false, T0 + S);
    assert_int_equal(due(&s, &policy, T0 + S).reason, FLUSH_IDLE);
}

/* Whoever asks is answered at once, whatever the policy and the backlog say. */
static void test_a_request_is_due_at_once(void **state)
{
    (void)state;
    struct trigger_state s = {0};
    trigger_request(&s, REQUEST_INVALIDATE, T0 - S, 60 * S, T0);
    assert_int_equal(due(&s, &policy, T0).reason, FLUSH_INVALIDATE); /* of an earlier state */
    assert_int_equal(s.cleared_us, T0 - S);
    trigger_note(&s, 1, false, T0);
    trigger_flush(&s, T0);
    s.outbox = false;
    s.payload_hash = 7;
    for (int catching_up = 0; catching_up < 2; catching_up++) {
        trigger_request(&s, REQUEST_RECOMPUTE, T0 - 2 * S, 60 * S, T0 + S);
        trigger_request(&s, REQUEST_INVALIDATE, T0 - 2 * S, 60 * S, T0 + S);
        trigger_request(&s, REQUEST_RECOMPUTE, T0 + S, 60 * S, T0 + S);
        struct trigger_due d =
            trigger_next(&s, &policy, &(struct trigger_key){.hash = 7}, catching_up, T0 + S);
        assert_int_equal(d.reason, FLUSH_INVALIDATE);
        assert_true(d.at_us <= T0 + S);
        assert_int_equal(s.cleared_us, T0 - S); /* an older token, and what only recomputes */
        assert_true(s.payload_hash == 0);       /* written whole */
    }
    trigger_flush(&s, T0 + S);
    assert_int_equal(s.requested, FLUSH_NONE);
}

static void test_a_touch_renews_what_is_not_young(void **state)
{
    (void)state;
    struct trigger_state s = {.flushed_us = T0, .payload_hash = 7};
    trigger_request(&s, REQUEST_TOUCH, T0 + 59 * S, 60 * S, T0 + 59 * S);
    assert_int_equal(s.requested, FLUSH_NONE);
    trigger_request(&s, REQUEST_TOUCH, T0 + 60 * S, 60 * S, T0 + 60 * S);
    assert_int_equal(
        trigger_next(&s, &policy, &(struct trigger_key){.hash = 7}, true, T0 + 60 * S).reason,
        FLUSH_TOUCH);
    assert_true(s.payload_hash == 7); /* its content need not be sent again */
    assert_int_equal(s.cleared_us, 0);
    s = (struct trigger_state){.flushed_us = T0, .outbox = true};
    trigger_request(&s, REQUEST_TOUCH, T0 + 60 * S, 60 * S, T0 + 60 * S);
    assert_int_equal(s.requested, FLUSH_NONE); /* one is on its way */
}

/* Pages of before there were requests and validity. */
static void test_the_first_durable_form_is_read(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    struct trigger_state s = {.first_us = T0, .count = 3, .outbox = true};
    assert_int_equal(trigger_encode(&s, &b), STATUS_OK);
    struct reader r =
        reader_of(b.data, b.len - 3); /* none asked, nothing cleared, valid: a byte each */
    struct trigger_state back = {.requested = FLUSH_TOUCH, .cleared_us = 1, .valid_us = 1};
    trigger_decode(&r, 1, &back);
    assert_false(r.bad);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(back.count, 3);
    assert_int_equal(back.requested, FLUSH_NONE);
    assert_int_equal(back.cleared_us, 0);
    assert_int_equal(back.valid_us, 0);
    buf_deinit(&b);
}

static void test_the_durable_form_keeps_everything(void **state)
{
    (void)state;
    struct trigger_state s = {
        .first_us = T0,
        .last_us = T0 + 1,
        .flushed_us = T0 - 5,
        .valid_us = T0 + 9,
        .payload_hash = UINT64_C(0x123456789abcdef0),
        .cleared_us = T0 - 7,
        .count = 77,
        .requested = FLUSH_RECOMPUTE,
        .urgent = true,
        .withdrawn = true,
        .outbox = true,
    };
    struct buf b;
    buf_init(&b, 1000);
    assert_int_equal(trigger_encode(&s, &b), STATUS_OK);
    struct reader r = reader_of(b.data, b.len);
    struct trigger_state back = {0};
    trigger_decode(&r, PAGE_FORMAT, &back);
    assert_false(r.bad);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(back.first_us, s.first_us);
    assert_int_equal(back.last_us, s.last_us);
    assert_int_equal(back.flushed_us, s.flushed_us);
    assert_int_equal(back.valid_us, s.valid_us);
    assert_true(back.payload_hash == s.payload_hash);
    assert_int_equal(back.count, s.count);
    assert_int_equal(back.cleared_us, s.cleared_us);
    assert_int_equal(back.requested, FLUSH_RECOMPUTE);
    assert_true(back.urgent);
    assert_true(back.withdrawn);
    assert_true(back.outbox);
    buf_deinit(&b);
}

static void test_a_table_of_two_engines_is_due_when_either_is(void **state)
{
    (void)state;
    struct trigger_policy a = {.count = 0,
                               .max_age_us = 30,
                               .idle_us = 9,
                               .min_interval_us = 4,
                               .refresh_us = 200,
                               .refresh_jitter_us = 3,
                               .warm_us = 1000,
                               .recent_us = 7};
    struct trigger_policy b = {.count = 5,
                               .max_age_us = 60,
                               .idle_us = 2,
                               .min_interval_us = 1,
                               .refresh_us = 0,
                               .refresh_jitter_us = 8,
                               .warm_us = 50};
    struct trigger_policy e = trigger_either(&a, &b);
    assert_int_equal(e.count, 5); /* 0 is never */
    assert_int_equal(e.max_age_us, 30);
    assert_int_equal(e.idle_us, 2);
    assert_int_equal(e.min_interval_us, 1);
    assert_int_equal(e.refresh_us, 200);
    assert_int_equal(e.refresh_jitter_us, 3);
    assert_int_equal(e.warm_us, 1000);
    assert_int_equal(e.recent_us, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_table_of_two_engines_is_due_when_either_is),
        cmocka_unit_test(test_nothing_is_due_before_the_first_event),
        cmocka_unit_test(test_the_fifth_event_is_due_at_once),
        cmocka_unit_test(test_quiet_is_due_two_seconds_after_the_last_event),
        cmocka_unit_test(test_age_counts_from_the_first_unflushed_event),
        cmocka_unit_test(test_context_alone_is_due_by_age_only),
        cmocka_unit_test(test_an_engine_can_ask_at_once),
        cmocka_unit_test(test_a_floor_delays_count_but_never_age),
        cmocka_unit_test(test_catching_up_leaves_only_age),
        cmocka_unit_test(test_what_was_taken_back_is_due_at_once_in_any_case),
        cmocka_unit_test(test_a_warm_row_is_renewed_before_it_expires),
        cmocka_unit_test(test_a_cold_row_is_left_to_expire),
        cmocka_unit_test(test_a_clock_set_back_does_not_freeze_a_timer),
        cmocka_unit_test(test_a_flush_starts_over),
        cmocka_unit_test(test_a_key_that_comes_back_is_shown_at_once),
        cmocka_unit_test(test_a_dirty_row_is_renewed_no_later_than_a_clean_one),
        cmocka_unit_test(test_a_recent_row_is_renewed_when_it_ceases_to_hold),
        cmocka_unit_test(test_a_recent_row_is_renewed_while_its_user_is_expected),
        cmocka_unit_test(test_a_row_untouched_for_a_day_is_not_taken_for_granted),
        cmocka_unit_test(test_the_durable_form_keeps_everything),
        cmocka_unit_test(test_a_request_is_due_at_once),
        cmocka_unit_test(test_a_touch_renews_what_is_not_young),
        cmocka_unit_test(test_the_first_durable_form_is_read),
    };
    return cmocka_run_group_tests_name("pipeline/trigger", tests, NULL, NULL);
}
