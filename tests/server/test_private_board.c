/* tests/server/test_private_board.c - what is said of the process follows what its supervisor said
 * and when, on a clock of the test's own. */
#include "server/private_board.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static bool has(const struct readiness *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->checks[i].name, name) == 0)
            return true;
    return false;
}

static struct ready_check find(const struct readiness *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->checks[i].name, name) == 0)
            return r->checks[i];
    fail_msg("there is no check \"%s\"", name);
    return (struct ready_check){0};
}

static bool all_ok(const struct readiness *r)
{
    bool ok = true;
    for (size_t i = 0; i < r->n; i++)
        ok &= r->checks[i].ok;
    return ok && r->n > 0;
}

static void test_a_supervisor_that_stands_still_is_not_alive(void **state)
{
    (void)state;
    int64_t now_us = 1000 * US_PER_SECOND;
    struct clock clock = clock_virtual(&now_us);
    struct private_board b;
    private_board_init(&b, &clock);
    struct readiness live = private_board_read(&b, false);
    assert_true(all_ok(&live)); /* it has just begun */
    now_us += 29 * US_PER_SECOND;
    live = private_board_read(&b, false);
    assert_true(all_ok(&live));
    now_us += 2 * US_PER_SECOND;
    live = private_board_read(&b, false);
    assert_false(all_ok(&live));
    assert_string_equal(find(&live, "supervisor").why, "has not moved for 31 s");
    struct readiness ready = private_board_read(&b, true);
    assert_false(find(&ready, "supervisor").ok); /* what it said before is worth nothing */
    private_board_alive(&b);
    live = private_board_read(&b, false);
    assert_true(all_ok(&live));
    /* Stopping takes as long as it takes: it must not be killed for that. */
    private_board_stopping(&b);
    now_us += US_PER_HOUR;
    live = private_board_read(&b, false);
    assert_true(all_ok(&live));
    private_board_deinit(&b);
}

static void test_ready_is_what_was_reported_last(void **state)
{
    (void)state;
    int64_t now_us = US_PER_SECOND;
    struct clock clock = clock_virtual(&now_us);
    struct private_board b;
    private_board_init(&b, &clock);
    struct readiness ready = private_board_read(&b, true);
    assert_false(find(&ready, "start").ok); /* nothing is known yet */

    struct readiness said = {0};
    ready_check(&said, "sink", true, "%s", "not this");
    private_board_report(&b, &said);
    ready = private_board_read(&b, true);
    assert_true(all_ok(&ready));
    assert_false(has(&ready, "start"));
    assert_string_equal(find(&ready, "sink").why, "");

    said = (struct readiness){0};
    ready_check(&said, "sink", false, "%s", "gone\nfor\tgood");
    private_board_report(&b, &said);
    ready = private_board_read(&b, true);
    assert_false(all_ok(&ready));
    assert_string_equal(find(&ready, "sink").why, "gone for good"); /* one line */
    struct readiness live = private_board_read(&b, false);
    assert_true(all_ok(&live)); /* no reason to be restarted */

    said = (struct readiness){0};
    ready_check(&said, "sink", true, "%s", "");
    private_board_report(&b, &said);
    private_board_stopping(&b);
    ready = private_board_read(&b, true);
    assert_true(find(&ready, "sink").ok);
    assert_false(find(&ready, "shutdown").ok);
    private_board_deinit(&b);
}

static void test_more_checks_than_there_is_room_for_are_left_out(void **state)
{
    (void)state;
    struct readiness r = {0};
    char why[2 * READY_WHY_BYTES];
    memset(why, 'x', sizeof(why));
    why[sizeof(why) - 1] = '\0';
    for (int i = 0; i < READY_CHECKS_MAX + 3; i++)
        ready_check(&r, "c", false, "%s", why);
    assert_int_equal(r.n, READY_CHECKS_MAX);
    assert_int_equal(strlen(r.checks[READY_CHECKS_MAX - 1].why), READY_WHY_BYTES - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_supervisor_that_stands_still_is_not_alive),
        cmocka_unit_test(test_ready_is_what_was_reported_last),
        cmocka_unit_test(test_more_checks_than_there_is_room_for_are_left_out),
    };
    return cmocka_run_group_tests_name("server/private_board", tests, NULL, NULL);
}
