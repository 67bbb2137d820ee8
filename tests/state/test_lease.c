/* tests/state/test_lease.c - one holder at a time, on the database's clock, against a real server.
 * Time passes by moving strategic_lease.until, not by waiting. */
#include "core/pg.h"
#include "state/lease.h"
#include "state/migrate.h"
#include "tests/support/pgcluster.h"
#include "tests/support/sql.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct pgcluster *cluster;
static char *conninfo;
static PGconn *db;

static void ignore_line(void *ctx, const char *line)
{
    (void)ctx;
    (void)line;
}

static int fresh(void **state)
{
    (void)state;
    conninfo = pgcluster_database(cluster, "test_lease");
    db = sql_open(conninfo);
    return migrate_up(&migrate_cache, conninfo, ignore_line, NULL, NULL) ? -1 : 0;
}

static int finished(void **state)
{
    (void)state;
    sql_close(TAKE(db));
    free(TAKE(conninfo));
    return 0;
}

static struct lease *acquire(const char *holder)
{
    struct lease *l = NULL;
    struct error err = {0};
    if (lease_acquire(conninfo, "main", holder, NULL, &l, &err))
        fail_msg("%s", err.text);
    return l;
}

static void let_it_expire(void)
{
    sql_run(db, "UPDATE strategic_lease SET until = now() - interval '1 s'");
}

static void test_a_second_holder_is_refused_with_the_first_ones_name(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *first = acquire("hosta:11:aa");
    assert_int_equal(lease_epoch(first), 1);
    struct lease *second = NULL;
    struct error err = {0};
    assert_int_equal(lease_acquire(conninfo, "main", "hostb:22:bb", NULL, &second, &err),
                     STATUS_REFUSED);
    assert_null(second);
    int seconds = 0;
    int end = 0;
    assert_int_equal(
        sscanf(err.text,
               "pipeline \"main\" is held by hosta:11:aa for another %d s; stop it, or "
               "wait%n",
               &seconds, &end),
        1);
    assert_int_equal(end, strlen(err.text));
    assert_in_range(seconds, 1, LEASE_TTL_S);
    assert_int_equal(sql_number(db, "SELECT epoch FROM strategic_epoch"), 1);
}

static bool knows_a_is_dead(const char *holder)
{
    return strcmp(holder, "a") == 0;
}

/* Killed, it cannot give the lease back: whoever can tell need not wait for it to run out. */
static void test_a_dead_holder_is_not_waited_for(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *first = acquire("a");
    CLEANUP(lease_releasep) struct lease *second = NULL;
    struct error err = {0};
    if (lease_acquire(conninfo, "main", "b", knows_a_is_dead, &second, &err))
        fail_msg("%s", err.text);
    assert_true(lease_epoch(second) > lease_epoch(first));
    assert_int_equal(lease_renew(first, NULL), STATUS_FENCED);
    CLEANUP(lease_releasep) struct lease *third = NULL;
    assert_int_equal(lease_acquire(conninfo, "main", "c", knows_a_is_dead, &third, NULL),
                     STATUS_REFUSED);
}

static void test_pipelines_do_not_share_a_lease(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *first = acquire("a");
    assert_int_equal(lease_epoch(first), 1);
    CLEANUP(lease_releasep) struct lease *other = NULL;
    assert_int_equal(lease_acquire(conninfo, "other", "b", NULL, &other, NULL), STATUS_OK);
    assert_int_equal(lease_epoch(other), 2);
}

static void test_a_released_lease_is_free_at_once_under_a_new_epoch(void **state)
{
    (void)state;
    lease_release(acquire("a"));
    CLEANUP(lease_releasep) struct lease *next = acquire("b");
    assert_int_equal(lease_epoch(next), 2);
}

static void test_the_same_name_again_is_a_new_epoch_and_fences_the_old_process(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *before = acquire("a");
    CLEANUP(lease_releasep) struct lease *after = acquire("a");
    assert_int_equal(lease_epoch(after), 2);
    struct error err = {0};
    assert_int_equal(lease_renew(before, &err), STATUS_FENCED);
    assert_non_null(strstr(err.text, "its epoch is 2, not 1"));
    assert_int_equal(lease_renew(after, NULL), STATUS_OK);
}

static void test_an_expired_lease_is_taken_over_and_its_holder_notices(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *paused = acquire("a");
    let_it_expire();
    CLEANUP(lease_releasep) struct lease *next = acquire("b");
    assert_int_equal(lease_epoch(next), 2);
    assert_int_equal(lease_renew(paused, NULL), STATUS_FENCED);
    /* Neither that nor its release may hurt the new holder. */
    lease_release(TAKE(paused));
    assert_int_equal(sql_number(db, "SELECT (until > now())::int FROM strategic_lease"), 1);
    assert_int_equal(lease_renew(next, NULL), STATUS_OK);
}

static void test_an_expired_lease_that_nobody_took_is_renewed(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *l = acquire("a");
    let_it_expire();
    assert_int_equal(lease_renew(l, NULL), STATUS_OK);
    assert_int_equal(sql_number(db, "SELECT (until > now() + interval '5 s')::int"
                                    " FROM strategic_lease"),
                     1);
}

static void *acquire_in_thread(void *arg)
{
    struct lease *l = NULL;
    return lease_acquire(conninfo, "main", arg, NULL, &l, NULL) ? NULL : l;
}

static void test_a_take_over_waits_for_a_commit_in_flight(void **state)
{
    (void)state;
    lease_release(acquire("a"));
    CLEANUP(sql_closep) PGconn *sink = sql_open(conninfo);
    sql_run(sink, "BEGIN; SELECT strategic_fence('main', 1)");
    pthread_t thread;
    char holder[] = "b";
    assert_int_equal(pthread_create(&thread, NULL, acquire_in_thread, holder), 0);
    assert_true(sql_wait_until(db, "SELECT count(*) > 0 FROM pg_stat_activity"
                                   " WHERE application_name = 'warmpath lease'"
                                   " AND wait_event_type = 'Lock'"));
    sql_run(sink, "COMMIT");
    void *l = NULL;
    pthread_join(thread, &l);
    assert_non_null(l);
    assert_int_equal(lease_epoch(l), 2);
    lease_release(l);
}

static void test_a_silent_sink_cannot_block_a_take_over_for_ever(void **state)
{
    (void)state;
    lease_release(acquire("a"));
    char stuck_conninfo[600];
    snprintf(stuck_conninfo, sizeof(stuck_conninfo), "%s application_name='warmpath sink'",
             conninfo);
    CLEANUP(sql_closep) PGconn *sink = sql_open(stuck_conninfo);
    sql_run(sink, "BEGIN; SELECT strategic_fence('main', 1)");
    CLEANUP(lease_releasep) struct lease *next = acquire("b");
    assert_int_equal(lease_epoch(next), 2);
    CLEANUP(PQclearp) PGresult *res = PQexec(sink, "COMMIT");
    assert_int_equal(PQresultStatus(res), PGRES_FATAL_ERROR);
    assert_int_equal(PQstatus(sink), CONNECTION_BAD);
}

static void test_the_fence_lets_only_the_current_epoch_through(void **state)
{
    (void)state;
    CLEANUP(lease_releasep) struct lease *l = acquire("a");
    assert_int_equal(lease_epoch(l), 1);
    sql_run(db, "SELECT strategic_fence('main', 1)");
    CLEANUP(PQclearp) PGresult *old = PQexec(db, "SELECT strategic_fence('main', 0)");
    assert_string_equal(PQresultErrorField(old, PG_DIAG_SQLSTATE), "WP001");
    CLEANUP(PQclearp) PGresult *none = PQexec(db, "SELECT strategic_fence('unknown', 1)");
    assert_string_equal(PQresultErrorField(none, PG_DIAG_SQLSTATE), "WP001");
}

static void test_renewal_reconnects_after_the_server_was_away(void **state)
{
    (void)state;
    if (!pgcluster_is_private(cluster))
        skip();
    CLEANUP(lease_releasep) struct lease *l = acquire("a");
    pgcluster_stop(cluster, true);
    assert_int_equal(lease_renew(l, NULL), STATUS_IO);
    pgcluster_start(cluster);
    sql_close(db);
    db = sql_open(conninfo);
    struct error err = {0};
    if (lease_renew(l, &err))
        fail_msg("%s", err.text);
}

static void test_without_migrations_the_reason_is_the_schema(void **state)
{
    (void)state;
    assert_int_equal(migrate_down(&migrate_cache, conninfo, 0, ignore_line, NULL, NULL), STATUS_OK);
    struct lease *l = NULL;
    struct error err = {0};
    assert_int_equal(lease_acquire(conninfo, "main", "a", NULL, &l, &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "run \"warmpath migrate up\" (42P01)"));
}

#define LEASE_TEST(fn) cmocka_unit_test_setup_teardown(fn, fresh, finished)

int main(void)
{
    bool skip_all = false;
    cluster = pgcluster_open(&skip_all);
    if (!cluster)
        return skip_all ? 77 : 1;
    const struct CMUnitTest tests[] = {
        LEASE_TEST(test_a_second_holder_is_refused_with_the_first_ones_name),
        LEASE_TEST(test_a_dead_holder_is_not_waited_for),
        LEASE_TEST(test_pipelines_do_not_share_a_lease),
        LEASE_TEST(test_a_released_lease_is_free_at_once_under_a_new_epoch),
        LEASE_TEST(test_the_same_name_again_is_a_new_epoch_and_fences_the_old_process),
        LEASE_TEST(test_an_expired_lease_is_taken_over_and_its_holder_notices),
        LEASE_TEST(test_an_expired_lease_that_nobody_took_is_renewed),
        LEASE_TEST(test_a_take_over_waits_for_a_commit_in_flight),
        LEASE_TEST(test_a_silent_sink_cannot_block_a_take_over_for_ever),
        LEASE_TEST(test_the_fence_lets_only_the_current_epoch_through),
        LEASE_TEST(test_renewal_reconnects_after_the_server_was_away),
        LEASE_TEST(test_without_migrations_the_reason_is_the_schema),
    };
    int failed = cmocka_run_group_tests_name("state/lease", tests, NULL, NULL);
    pgcluster_close(cluster);
    return failed;
}
