/* tests/server/test_startup.c - which state may read which slot: each way in which changes could be
 * skipped or doubled is refused, and says so. */
#include "server/slot_loss.h"
#include "server/startup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"

/* A state that covers 200, beside its own slot that is confirmed up to 150. */
static struct gap_input fitting(void)
{
    return (struct gap_input){
        .state = {.pipeline = "main", .system_identifier = "7", .slot = "s", .timeline = 1},
        .state_covered = 200,
        .system_identifier = "7",
        .server_flush = 300,
        .timeline = 1,
        .shared_lsn = UINT64_MAX,
        .slot = "s",
        .slot_exists = true,
        .slot_confirmed = 150,
        .state_dir = "dir",
        .pipeline = "main",
        .create = true,
    };
}

static void assert_answer(const struct gap_input *in, enum status st, const char *why)
{
    struct error err = {0};
    assert_int_equal(startup_check_gap(in, &err), st);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
}

/* Whatever on_slot_lost says. */
static void assert_refused(const struct gap_input *in, const char *why)
{
    assert_answer(in, STATUS_REFUSED, why);
}

/* on_slot_lost decides. */
static void assert_lost(const struct gap_input *in, const char *why)
{
    assert_answer(in, STATUS_LOST, why);
}

static void test_a_state_may_lead_its_slot_but_never_trail_it(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.slot_confirmed = 200;
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.slot_confirmed = 201;
    assert_lost(&in, "an older copy of the state was restored");
}

static void test_a_server_that_ends_before_the_state_is_refused(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.server_flush = 199;
    assert_lost(&in, "restored from a backup or failed over");
    in.standby = true; /* one that is behind: begun anew, everything would be counted from it */
    assert_refused(&in, "a standby that is behind");
}

static void test_another_cluster_slot_or_pipeline_is_refused(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    strncpy(in.system_identifier, "8", sizeof(in.system_identifier) - 1);
    assert_refused(&in, "system identifier 7");
    in = fitting();
    in.slot = "other";
    assert_refused(&in, "built from slot \"s\"");
    in = fitting();
    in.pipeline = "other";
    assert_refused(&in, "state of pipeline \"main\"");
}

static void test_a_promoted_standby_must_have_all_that_the_state_contains(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.timeline = 2;
    in.shared_lsn = 200; /* promoted exactly where the state ends */
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.shared_lsn = 199;
    assert_lost(&in, "promoted to timeline 2 at 0/C7");
}

static void test_a_former_primary_that_comes_back_is_refused(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.state.timeline = 2;
    in.shared_lsn = LSN_INVALID;
    assert_refused(&in, "a former primary");
}

static void test_a_slot_that_is_gone_or_invalidated_is_lost(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.slot_lost = "WAL was removed: raise max_slot_wal_keep_size";
    assert_lost(&in, "raise max_slot_wal_keep_size");
    in.slot_exists = false;
    assert_lost(&in, "is gone");
}

static void test_what_is_not_ours_is_never_begun_anew(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.slot_exists = false; /* a loss, were it ours */
    in.pipeline = "other";
    assert_refused(&in, "state of pipeline");
    in = fitting();
    in.slot_lost = "WAL was removed";
    strncpy(in.system_identifier, "8", sizeof(in.system_identifier) - 1);
    assert_refused(&in, "system identifier 7");
    in = fitting();
    in.slot_confirmed = 201;
    in.slot = "other";
    assert_refused(&in, "built from slot");
    in = fitting();
    in.state_fresh = true; /* a lost slot of somebody else */
    in.slot_lost = "WAL was removed";
    assert_refused(&in, "no state it belongs to");
    in.sink_has_progress = true; /* this pipeline's, but of another slot */
    assert_refused(&in, "holds no state");
}

static void test_one_rebuild_and_then_a_rest(void **state)
{
    (void)state;
    int64_t then = INT64_C(1700000000) * US_PER_SECOND;
    assert_true(slot_loss_may_rebuild(then, 0));
    assert_false(slot_loss_may_rebuild(then, then));
    assert_false(slot_loss_may_rebuild(then + SLOT_LOSS_REST_US - 1, then));
    assert_true(slot_loss_may_rebuild(then + SLOT_LOSS_REST_US, then));
    assert_false(slot_loss_may_rebuild(then - 1, then)); /* the clock was set back */
    assert_true(slot_loss_may_rebuild(then - SLOT_LOSS_REST_US, then));
}

static void test_an_empty_state_takes_a_slot_nobody_has_worked_with(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.state_fresh = true;
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.sink_has_progress = true;
    in.sink_same_slot = true;
    assert_lost(&in, "holds no state");
    in.slot_exists = false; /* made anew, it begins anew */
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.create = false;
    assert_refused(&in, "does not exist");
}

static void test_a_slot_that_exists_cannot_be_begun_with_a_snapshot(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.state_fresh = true;
    in.snapshot = true;
    assert_refused(&in, "exists already");
    in.slot_exists = false;
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.create = false;
    assert_refused(&in, "source.snapshot: never and run");
}

static void test_a_state_cut_short_gives_up_its_own_slot_and_no_other(void **state)
{
    (void)state;
    struct gap_input in = fitting();
    in.state.loading = true;
    in.state.slot_birth = 150;
    in.slot_confirmed = 150;
    in.snapshot = true;
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.slot_confirmed = 151; /* nobody of ours has confirmed anything yet */
    assert_refused(&in, "by somebody else");
    in.state.slot_birth = LSN_INVALID; /* it was being made, or is to be made anew */
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.slot_exists = false;
    assert_int_equal(startup_check_gap(&in, NULL), STATUS_OK);
    in.slot = "other";
    assert_refused(&in, "built from slot \"s\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_state_may_lead_its_slot_but_never_trail_it),
        cmocka_unit_test(test_a_server_that_ends_before_the_state_is_refused),
        cmocka_unit_test(test_another_cluster_slot_or_pipeline_is_refused),
        cmocka_unit_test(test_a_promoted_standby_must_have_all_that_the_state_contains),
        cmocka_unit_test(test_a_former_primary_that_comes_back_is_refused),
        cmocka_unit_test(test_a_slot_that_is_gone_or_invalidated_is_lost),
        cmocka_unit_test(test_what_is_not_ours_is_never_begun_anew),
        cmocka_unit_test(test_one_rebuild_and_then_a_rest),
        cmocka_unit_test(test_an_empty_state_takes_a_slot_nobody_has_worked_with),
        cmocka_unit_test(test_a_slot_that_exists_cannot_be_begun_with_a_snapshot),
        cmocka_unit_test(test_a_state_cut_short_gives_up_its_own_slot_and_no_other),
    };
    return cmocka_run_group_tests_name("server/startup", tests, NULL, NULL);
}
