/* Goal: fault points fire exactly when and how they were told. Method: arm, count, fork. */
#include "state/fault.h"

#include "tests/state/store_support.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

static void test_a_point_fails_once_at_the_nth_passing(void **state)
{
    (void)state;
    assert_int_equal(fault_arm("a:2:fail,b:1:fail", NULL), STATUS_OK);
    assert_false(FAULT_POINT("a"));
    assert_true(FAULT_POINT("b"));
    assert_true(FAULT_POINT("a"));
    assert_false(FAULT_POINT("a"));
    assert_false(FAULT_POINT("b"));
    assert_false(FAULT_POINT("c"));
}

static void test_unarmed_points_do_nothing(void **state)
{
    (void)state;
    assert_int_equal(fault_arm("a:1:fail", NULL), STATUS_OK);
    assert_int_equal(fault_arm("", NULL), STATUS_OK);
    assert_false(FAULT_POINT("a"));
    assert_int_equal(fault_arm(NULL, NULL), STATUS_OK);
    assert_false(FAULT_POINT("a"));
}

static void pass_twice(const char *name)
{
    (void)!FAULT_POINT(name);
    (void)!FAULT_POINT(name);
}

static void test_abort_kills_at_the_nth_passing(void **state)
{
    (void)state;
    assert_true(run_child("a:2:abort", pass_twice, "a"));
    assert_false(run_child("a:3:abort", pass_twice, "a"));
    assert_false(run_child("b:1:abort", pass_twice, "a"));
}

static void be_killed_if_passed(const char *name)
{
    (void)!FAULT_POINT(name);
    kill(getpid(), SIGKILL);
}

static void interrupt(int sig)
{
    (void)sig;
    _exit(0);
}

static void hang_until_interrupted(const char *name)
{
    struct sigaction act = {.sa_handler = interrupt};
    struct itimerval soon = {.it_value = {.tv_usec = 1000}};
    if (sigaction(SIGALRM, &act, NULL) || setitimer(ITIMER_REAL, &soon, NULL))
        _exit(1);
    be_killed_if_passed(name);
}

static void test_hang_stays_where_it_is(void **state)
{
    (void)state;
    assert_false(run_child("a:1:hang", hang_until_interrupted, "a"));
    assert_true(run_child("a:2:hang", be_killed_if_passed, "a"));
}

static void test_malformed_specs_are_refused_and_disarm(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "a",
        "a:1",
        "a:1:",
        "a::fail",
        ":1:fail",
        "a:0:fail",
        "a:-1:fail",
        "a:1x:fail",
        "a: 1:fail",
        "a:1:boom",
        "a:1:fail,,b:1:fail",
        ",",
        "a:1:fail:x",
        "a:99999999999999999999:fail",
        "a23456789a23456789a23456789a23456789a23456789a23456789:1:fail",
        "a:1:fail,b:1:fail,c:1:fail,d:1:fail,e:1:fail,f:1:fail,g:1:fail,h:1:fail,i:1:fail"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(fault_arm(bad[i], NULL), STATUS_INVALID);
        assert_false(FAULT_POINT("a"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_point_fails_once_at_the_nth_passing),
        cmocka_unit_test(test_unarmed_points_do_nothing),
        cmocka_unit_test(test_abort_kills_at_the_nth_passing),
        cmocka_unit_test(test_hang_stays_where_it_is),
        cmocka_unit_test(test_malformed_specs_are_refused_and_disarm),
    };
    return cmocka_run_group_tests_name("state/fault", tests, NULL, NULL);
}
