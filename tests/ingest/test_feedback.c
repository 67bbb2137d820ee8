/*
 * tests/ingest/test_feedback.c - what the slot is told can never make the server forget too much.
 *
 * Method: a table of situations, then random histories (fixed seeds) against the invariants: flush
 * never goes back, never passes what was handed on or what is durable, write >= apply >= flush.
 */
#include "core/clock.h"
#include "core/hash.h"
#include "ingest/feedback.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static void test_a_report_is_what_is_durable_and_nothing_more(void **state)
{
    (void)state;
    static const struct {
        const char *when;
        lsn_t start, received, committed, idle, flushed, durable;
        lsn_t write, flush;
    } rows[] = {
        {"nothing happened yet", 100, 0, 0, 0, 100, 100, 100, 100},
        {"rows of an open transaction are received", 100, 150, 0, 0, 100, 100, 150, 100},
        {"a commit is handed on but not durable", 100, 200, 200, 0, 100, 100, 200, 100},
        {"the first of two commits is durable", 100, 300, 300, 0, 100, 200, 300, 200},
        {"all is durable", 100, 300, 300, 0, 200, 300, 300, 300},
        {"a keepalive went beyond and is durable", 100, 400, 300, 400, 300, 400, 400, 400},
        {"a keepalive went beyond, not durable yet", 100, 400, 300, 400, 300, 300, 400, 300},
        {"the receiver claims what was never handed on", 100, 500, 300, 0, 100, 500, 500, 300},
        {"the receiver takes a claim back", 100, 300, 300, 0, 300, 200, 300, 300},
        {"durable from before this session", 100, 0, 0, 0, 100, 90, 100, 100},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct feedback f;
        feedback_start(&f, rows[i].start, 0);
        f.received = rows[i].received;
        f.committed = rows[i].committed;
        f.idle = rows[i].idle;
        f.flushed = rows[i].flushed;
        struct feedback_report r = feedback_report(&f, rows[i].durable);
        if (r.write != rows[i].write || r.flush != rows[i].flush || r.apply != rows[i].flush)
            fail_msg("%s: write %d apply %d flush %d", rows[i].when, (int)r.write, (int)r.apply,
                     (int)r.flush);
    }
}

static void test_idle_needs_an_empty_hand_and_news(void **state)
{
    (void)state;
    struct feedback f;
    feedback_start(&f, 100, 0);
    assert_false(feedback_may_idle(&f, 100)); /* nothing new */
    assert_true(feedback_may_idle(&f, 101));
    f.in_transaction = true;
    assert_false(feedback_may_idle(&f, 200));
    f.in_transaction = false;
    f.outstanding = true;
    assert_false(feedback_may_idle(&f, 200));
    f.outstanding = false;
    f.committed = 200;
    assert_false(feedback_may_idle(&f, 200)); /* said by the COMMIT */
    assert_true(feedback_may_idle(&f, 201));
    f.idle = 300;
    assert_false(feedback_may_idle(&f, 300));
    assert_false(feedback_may_idle(&f, 250));
}

static uint64_t random_state;
static uint64_t pick(uint64_t n)
{
    random_state = hash64_mix(random_state + 1);
    return random_state % n;
}

/* One random history of a session: what a server could send and a receiver could answer. */
static void run_history(uint64_t seed)
{
    struct feedback f;
    lsn_t wal = 1000;
    lsn_t durable = 1000;
    lsn_t legal[512] = {1000}; /* every LSN that may ever be acknowledged */
    size_t n_legal = 1;
    lsn_t last_flush = 0;
    int64_t now_us = 0;
    random_state = seed;
    feedback_start(&f, 1000, now_us);
    for (int step = 0; step < 400; step++) {
        now_us += (int64_t)pick(300000);
        switch (pick(5)) {
        case 0: /* a row, opening a transaction if there is none */
            wal += 1 + pick(50);
            f.received = wal;
            f.in_transaction = true;
            f.outstanding = pick(2);
            break;
        case 1: /* its commit, or the receiver still full */
            if (!f.in_transaction || (f.outstanding && pick(2)))
                break;
            wal += 1 + pick(50);
            f.received = wal;
            f.committed = wal;
            f.in_transaction = f.outstanding = false;
            legal[n_legal++] = wal;
            break;
        case 2: /* a keepalive, also amid a transaction */
            wal += pick(20);
            f.received = wal;
            f.reply_requested |= pick(2) != 0;
            if (feedback_may_idle(&f, wal)) {
                f.idle = wal;
                legal[n_legal++] = wal;
            }
            break;
        case 3: /* the store commits up to something it was given, or lies */
            durable = pick(8) ? legal[pick(n_legal)] : pick(wal + 1000);
            break;
        default:
            if (feedback_is_due(&f, 1000000, now_us)) {
                struct feedback_report r = feedback_report(&f, durable);
                assert_true(r.write >= r.apply);
                assert_true(r.apply >= r.flush);
                assert_true(r.flush >= last_flush);
                assert_true(r.flush <= legal[n_legal - 1]);
                assert_true(r.flush <= durable || r.flush == last_flush || r.flush == 1000);
                last_flush = r.flush;
                feedback_sent(&f, &r, now_us);
                assert_false(feedback_is_due(&f, 1000000, now_us));
            }
            break;
        }
    }
}

static void test_random_histories_keep_every_promise(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++)
        run_history(seed);
}

static void test_feedback_is_due_by_time_or_by_request(void **state)
{
    (void)state;
    struct feedback f;
    feedback_start(&f, 1, 5000);
    assert_false(feedback_is_due(&f, 1000, 5999));
    assert_int_equal(feedback_wait_us(&f, 1000, 5400), 600);
    assert_true(feedback_is_due(&f, 1000, 6000));
    assert_int_equal(feedback_wait_us(&f, 1000, 9999), 0);
    f.reply_requested = true;
    assert_true(feedback_is_due(&f, 1000, 5001));
    struct feedback_report r = feedback_report(&f, 1);
    feedback_sent(&f, &r, 5001);
    assert_false(feedback_is_due(&f, 1000, 5001));
}

static void test_a_status_update_has_the_bytes_of_the_protocol(void **state)
{
    (void)state;
    struct feedback_report r = {.write = 0x0102030405060708, .apply = 0x22, .flush = 0x11};
    uint8_t out[FEEDBACK_BYTES];
    feedback_encode(&r, US_POSTGRES_EPOCH + 0x0A0B, true, out);
    static const uint8_t expected[FEEDBACK_BYTES] = {'r',  1, 2, 3, 4,    5, 6, 7,    8,    0, 0, 0,
                                                     0,    0, 0, 0, 0x11, 0, 0, 0,    0,    0, 0, 0,
                                                     0x22, 0, 0, 0, 0,    0, 0, 0x0A, 0x0B, 1};
    assert_memory_equal(out, expected, FEEDBACK_BYTES);
}

static void test_the_watchdog_asks_once_and_then_gives_up(void **state)
{
    (void)state;
    struct watchdog w;
    watchdog_heard(&w, 1000);
    assert_int_equal(watchdog_check(&w, 60, 30, 1059), WATCHDOG_WAIT);
    assert_int_equal(watchdog_check(&w, 60, 30, 1060), WATCHDOG_ASK);
    assert_int_equal(watchdog_check(&w, 60, 30, 1061), WATCHDOG_WAIT);
    assert_int_equal(watchdog_check(&w, 60, 30, 1090), WATCHDOG_DEAD);
    watchdog_heard(&w, 1091);
    assert_int_equal(watchdog_check(&w, 60, 30, 1100), WATCHDOG_WAIT);
}

static void test_back_off_is_random_bounded_and_grows(void **state)
{
    (void)state;
    assert_int_equal(backoff_next(0, 100, 5000, 0), 100);
    assert_int_equal(backoff_next(0, 100, 5000, 200), 300); /* 3 * min */
    assert_int_equal(backoff_next(4000, 100, 5000, 4900), 5000);
    assert_int_equal(backoff_next(INT64_MAX, 100, 5000, 4900), 5000);
    assert_int_equal(backoff_next(7, 100, 100, 12345), 100);
    int64_t wait = 0;
    int64_t longest = 0;
    random_state = 99;
    for (int i = 0; i < 1000; i++) {
        int64_t next = backoff_next(wait, 100, 5000, pick(UINT64_MAX));
        assert_true(next >= 100 && next <= 5000);
        assert_true(next <= (wait < 100 ? 300 : 3 * wait));
        wait = next;
        longest = next > longest ? next : longest;
    }
    assert_true(longest > 2500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_report_is_what_is_durable_and_nothing_more),
        cmocka_unit_test(test_idle_needs_an_empty_hand_and_news),
        cmocka_unit_test(test_random_histories_keep_every_promise),
        cmocka_unit_test(test_feedback_is_due_by_time_or_by_request),
        cmocka_unit_test(test_a_status_update_has_the_bytes_of_the_protocol),
        cmocka_unit_test(test_the_watchdog_asks_once_and_then_gives_up),
        cmocka_unit_test(test_back_off_is_random_bounded_and_grows),
    };
    return cmocka_run_group_tests_name("ingest/feedback", tests, NULL, NULL);
}
