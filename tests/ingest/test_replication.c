/*
 * tests/ingest/test_replication.c - the reader against a real server: nothing lost, nothing twice
 * in one session, nothing acknowledged too early, and a way back from every interruption.
 *
 * Method: one private server, one database per test. The reader runs in a thread; its receiver
 * keeps a line per call under a lock. Tests wait until a condition holds, with a deadline.
 * "durable" moves only when a test says so, or with every commit.
 */
#include "core/clock.h"
#include "core/log.h"
#include "ingest/preflight.h"
#include "ingest/replication.h"
#include "tests/ingest/pg_support.h"

#include <inttypes.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_MAX 20000
#define DEADLINE_S 60

static struct pgcluster *cluster;

/* One reader and all it said. */
struct reader_run {
    struct mapping_set mappings;
    struct replication_config cfg;
    struct receiver_ops ops;
    struct replication *replication;
    pthread_t thread;
    atomic_bool stop;
    bool started;
    lsn_t start;
    enum status result;
    struct error err;

    pthread_mutex_t lock;
    size_t n_events;
    struct {
        char id[48];
        enum event_type type;
        struct position pos;
    } events[EVENTS_MAX];
    size_t n_commits;
    lsn_t committed;
    lsn_t idle;
    lsn_t durable;
    bool hold; /* durable stays where it is */
    bool full; /* no room */
    size_t offers;
    bool done;
};

static enum status on_event(void *ctx, const struct event *e, struct position pos,
                            int64_t commit_us, struct error *err)
{
    struct reader_run *r = ctx;
    enum status st = STATUS_OK;
    (void)commit_us;
    (void)err;
    pthread_mutex_lock(&r->lock);
    r->offers++;
    if (r->full || r->n_events == EVENTS_MAX) {
        st = STATUS_AGAIN;
    } else {
        snprintf(r->events[r->n_events].id, sizeof(r->events[0].id), STR_FMT, STR_ARGS(e->id));
        r->events[r->n_events].type = e->type;
        r->events[r->n_events].pos = pos;
        r->n_events++;
    }
    pthread_mutex_unlock(&r->lock);
    return st;
}

static enum status on_commit(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *err)
{
    struct reader_run *r = ctx;
    (void)commit_us;
    (void)err;
    pthread_mutex_lock(&r->lock);
    r->n_commits++;
    r->committed = end_lsn;
    if (!r->hold && end_lsn > r->durable)
        r->durable = end_lsn;
    pthread_mutex_unlock(&r->lock);
    return STATUS_OK;
}

static void on_idle(void *ctx, lsn_t wal_end, int64_t server_us)
{
    struct reader_run *r = ctx;
    (void)server_us;
    pthread_mutex_lock(&r->lock);
    r->idle = wal_end;
    if (!r->hold && wal_end > r->durable)
        r->durable = wal_end;
    pthread_mutex_unlock(&r->lock);
}

static int64_t on_drained(void *ctx)
{
    (void)ctx;
    return INT64_MAX;
}

static lsn_t on_durable(void *ctx)
{
    struct reader_run *r = ctx;
    pthread_mutex_lock(&r->lock);
    lsn_t durable = r->durable;
    pthread_mutex_unlock(&r->lock);
    return durable;
}

static void *run_reader(void *ctx)
{
    struct reader_run *r = ctx;
    enum status st = replication_run(r->replication, r->start, &r->stop, &r->err);
    pthread_mutex_lock(&r->lock);
    r->result = st;
    r->done = true;
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static struct reader_run *reader_new(const char *conninfo)
{
    struct reader_run *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    pthread_mutex_init(&r->lock, NULL);
    r->mappings = pg_chat_mapping();
    r->ops =
        (struct receiver_ops){on_event, on_commit, on_idle, on_drained, on_durable, NULL, NULL, r};
    r->cfg = (struct replication_config){.conninfo = conninfo,
                                         .slot = "wp",
                                         .publication = "wp pub",
                                         .mappings = &r->mappings,
                                         .clock = &clock_real,
                                         .status_interval_us = 50000,
                                         .backoff_min_us = 20000,
                                         .backoff_max_us = 200000};
    return r;
}

static void reader_start(struct reader_run *r)
{
    struct error err;
    if (replication_new(&r->cfg, &r->ops, &r->replication, &err))
        fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&r->thread, NULL, run_reader, r), 0);
    r->started = true;
}

/* Ends the thread; the result stays. */
static void reader_stop(struct reader_run *r)
{
    if (!r->started)
        return;
    atomic_store(&r->stop, true);
    replication_wake(r->replication);
    pthread_join(r->thread, NULL);
    replication_free(r->replication);
    r->started = false;
}

static void reader_free(struct reader_run *r)
{
    reader_stop(r);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

typedef bool condition_fn(struct reader_run *r, const void *arg);

static bool wait_until(struct reader_run *r, condition_fn *fn, const void *arg)
{
    int64_t deadline_us = clock_mono_us(&clock_real) + DEADLINE_S * US_PER_SECOND;
    const struct timespec pause = {.tv_nsec = 2000000};
    while (clock_mono_us(&clock_real) < deadline_us) {
        pthread_mutex_lock(&r->lock);
        bool holds = fn(r, arg);
        pthread_mutex_unlock(&r->lock);
        if (holds)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

static bool has_events(struct reader_run *r, const void *arg)
{
    return r->n_events >= *(const size_t *)arg;
}

static bool has_id(struct reader_run *r, const void *arg)
{
    return r->n_events > 0 && strcmp(r->events[r->n_events - 1].id, arg) == 0;
}

static bool has_offers(struct reader_run *r, const void *arg)
{
    return r->offers >= *(const size_t *)arg;
}

static bool is_done(struct reader_run *r, const void *arg)
{
    (void)arg;
    return r->done;
}

static size_t count_events(struct reader_run *r)
{
    pthread_mutex_lock(&r->lock);
    size_t n = r->n_events;
    pthread_mutex_unlock(&r->lock);
    return n;
}

static void wait_events(struct reader_run *r, size_t n)
{
    if (!wait_until(r, has_events, &n))
        fail_msg("%zu of %zu events", count_events(r), n);
}

/* A database with the table, publication and slot. */
static char *database(const char *name, PGconn **ret_conn)
{
    struct mapping_set mappings = pg_chat_mapping();
    char *conninfo = pgcluster_database(cluster, name);
    const struct preflight_config cfg = {
        .conninfo = conninfo, .slot = "wp", .publication = "wp pub", .mappings = &mappings};
    struct error err = {0};
    PGconn *conn = pg_connect_ok(conninfo);
    bool created = false;
    lsn_t birth = LSN_INVALID;
    pg_exec_ok(conn, CHAT_DDL "; CREATE TABLE other (a int);"
                              "ALTER TABLE chat REPLICA IDENTITY FULL");
    if (preflight_publication_create(conn, &cfg, &created, &err) ||
        preflight_slot_create(conn, "wp", true, 60 * US_PER_SECOND, &birth, &err))
        fail_msg("%s", err.text);
    *ret_conn = conn;
    return conninfo;
}

static void drop_slot(PGconn *conn)
{
    /* The walsender may need a moment to notice that its client has gone. */
    pg_exec_ok(conn, "DO $$ BEGIN FOR i IN 1..3000 LOOP"
                     " PERFORM FROM pg_replication_slots WHERE slot_name = 'wp' AND NOT active;"
                     " EXIT WHEN FOUND; PERFORM pg_sleep(0.01); END LOOP; END $$");
    pg_exec_ok(conn, "SELECT pg_drop_replication_slot('wp') FROM pg_replication_slots"
                     " WHERE slot_name = 'wp'");
}

static void finish(struct reader_run *r, PGconn *conn, char *conninfo)
{
    reader_free(r);
    drop_slot(conn);
    PQfinish(conn);
    free(conninfo);
}

static lsn_t confirmed(PGconn *conn)
{
    lsn_t lsn = LSN_INVALID;
    assert_true(lsn_parse(pg_value(conn, "SELECT confirmed_flush_lsn FROM pg_replication_slots"
                                         " WHERE slot_name = 'wp'"),
                          &lsn));
    return lsn;
}

static void insert(PGconn *conn, const char *id)
{
    char sql[200];
    snprintf(sql, sizeof(sql), "INSERT INTO chat VALUES ('%s', 'u', 'b', 'user', 'text')", id);
    pg_exec_ok(conn, sql);
}

static void assert_ids(const struct reader_run *r, const char *const *ids)
{
    for (size_t i = 0; ids[i] || i < r->n_events; i++) {
        if (!ids[i] || i >= r->n_events)
            fail_msg("%zu events", r->n_events);
        assert_string_equal(r->events[i].id, ids[i]);
        assert_true(i == 0 || position_compare(r->events[i - 1].pos, r->events[i].pos) < 0);
    }
}

static void test_interleaved_transactions_come_in_commit_order(void **state)
{
    (void)state;
    PGconn *a = NULL;
    char *conninfo = database("interleaved", &a);
    PGconn *b = pg_connect_ok(conninfo);
    struct reader_run *r = reader_new(conninfo);
    reader_start(r);
    pg_exec_ok(a, "BEGIN");
    insert(a, "a1");
    pg_exec_ok(b, "BEGIN");
    insert(b, "b1");
    pg_exec_ok(b, "COMMIT");
    insert(a, "a2");
    pg_exec_ok(a, "COMMIT");
    wait_events(r, 3);
    reader_stop(r);
    const char *const ids[] = {"b1", "a1", "a2", NULL};
    assert_ids(r, ids);
    PQfinish(b);
    finish(r, a, conninfo);
}

static void test_every_kind_of_transaction_is_read(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("kinds", &c);
    struct reader_run *r = reader_new(conninfo);
    reader_start(r);
    pg_exec_ok(c, "INSERT INTO chat SELECT 'm' || g, 'u', 'b', 'user', 'x'"
                  " FROM generate_series(1, 3) g");
    pg_exec_ok(c, "BEGIN; SAVEPOINT s; INSERT INTO chat VALUES ('gone', 'u', 'b', 'user', 'x');"
                  "ROLLBACK TO s; INSERT INTO chat VALUES ('kept', 'u', 'b', 'user', 'x'); COMMIT");
    pg_exec_ok(c, "BEGIN; INSERT INTO chat VALUES ('gone', 'u', 'b', 'user', 'x'); ROLLBACK");
    pg_exec_ok(c, "INSERT INTO other VALUES (1)");
    pg_exec_ok(c, "UPDATE chat SET content = 'y' WHERE id = 'm1'");
    pg_exec_ok(c, "UPDATE chat SET id = 'm9' WHERE id = 'm2'");
    pg_exec_ok(c, "DELETE FROM chat WHERE id = 'm3'");
    pg_exec_ok(c, "SELECT pg_logical_emit_message(true, 'p', 'x')");
    pg_exec_ok(c, "INSERT INTO chat VALUES ('bad', 'u', 'b', 'alien', 'x')");
    pg_exec_ok(c, "COPY (SELECT 1) TO '/dev/null'");
    insert(c, "last");
    wait_events(r, 10);
    reader_stop(r);
    assert_int_equal(r->n_events, 10);
    static const struct {
        const char *id;
        enum event_type type;
    } expected[] = {
        {"m1", EVENT_MESSAGE},   {"m2", EVENT_MESSAGE},         {"m3", EVENT_MESSAGE},
        {"kept", EVENT_MESSAGE}, {"m1", EVENT_MESSAGE},         {"m2", EVENT_MESSAGE_DELETED},
        {"m9", EVENT_MESSAGE},   {"m3", EVENT_MESSAGE_DELETED}, {NULL, EVENT_DEAD_LETTER},
        {"last", EVENT_MESSAGE},
    };
    for (size_t i = 0; i < 10; i++) {
        assert_int_equal(r->events[i].type, expected[i].type);
        if (expected[i].id)
            assert_string_equal(r->events[i].id, expected[i].id);
    }
    finish(r, c, conninfo);
}

static void test_only_what_is_durable_is_acknowledged(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("durable", &c);
    struct reader_run *r = reader_new(conninfo);
    lsn_t birth = confirmed(c);
    r->hold = true;
    r->durable = birth;
    r->start = birth;
    reader_start(r);
    for (int i = 0; i < 20; i++)
        insert(c, (char[]){'m', (char)('a' + i), '\0'});
    wait_events(r, 20);
    /* Feedback has gone out many times by now; the slot has not moved. */
    const size_t n = 20;
    assert_true(wait_until(r, has_offers, &n));
    for (int i = 0; i < 20; i++)
        assert_int_equal(confirmed(c), birth);

    pthread_mutex_lock(&r->lock);
    r->durable = r->committed;
    lsn_t durable = r->durable;
    pthread_mutex_unlock(&r->lock);
    int64_t deadline_us = clock_mono_us(&clock_real) + DEADLINE_S * US_PER_SECOND;
    while (confirmed(c) != durable && clock_mono_us(&clock_real) < deadline_us)
        assert_true(confirmed(c) <= durable);
    assert_int_equal(confirmed(c), durable);
    finish(r, c, conninfo);
}

static void test_an_idle_slot_follows_other_traffic(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("idle", &c);
    struct reader_run *r = reader_new(conninfo);
    lsn_t target = LSN_INVALID;
    reader_start(r);
    insert(c, "m");
    wait_events(r, 1);
    pg_exec_ok(c, "INSERT INTO other SELECT generate_series(1, 5000)");
    assert_true(lsn_parse(pg_value(c, "SELECT pg_current_wal_lsn()"), &target));
    int64_t deadline_us = clock_mono_us(&clock_real) + DEADLINE_S * US_PER_SECOND;
    while (confirmed(c) < target && clock_mono_us(&clock_real) < deadline_us)
        ;
    assert_true(confirmed(c) >= target);
    assert_int_equal(count_events(r), 1);
    finish(r, c, conninfo);
}

static void test_a_full_receiver_outlives_the_servers_patience(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("full", &c);
    struct reader_run *r = reader_new(conninfo);
    static const char pid_sql[] = "SELECT active_pid FROM pg_replication_slots"
                                  " WHERE slot_name = 'wp'";
    r->cfg.sender_timeout_us = US_PER_SECOND;
    reader_start(r);
    insert(c, "m0");
    wait_events(r, 1);
    char pid[512];
    snprintf(pid, sizeof(pid), "%s", pg_value(c, pid_sql));
    assert_true(*pid);

    pthread_mutex_lock(&r->lock);
    r->full = true;
    r->offers = 0;
    pthread_mutex_unlock(&r->lock);
    /* More than the socket buffers hold, so that the server has to wait for us. */
    pg_exec_ok(c, "INSERT INTO chat SELECT 'f' || g, 'u', 'b', 'user', repeat('x', 1000)"
                  " FROM generate_series(1, 15000) g");
    const size_t n = 400; /* at 5 ms each: twice the server's patience */
    assert_true(wait_until(r, has_offers, &n));
    pthread_mutex_lock(&r->lock);
    assert_int_equal(r->n_events, 1);
    r->full = false;
    pthread_mutex_unlock(&r->lock);
    replication_wake(r->replication);
    wait_events(r, 15001);
    assert_string_equal(pg_value(c, pid_sql), pid); /* the same session all along */
    finish(r, c, conninfo);
}

static void test_a_cut_connection_is_made_again_and_nothing_is_lost(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("cut", &c);
    struct reader_run *r = reader_new(conninfo);
    reader_start(r);
    for (int i = 0; i < 5; i++) {
        char id[32];
        snprintf(id, sizeof(id), "m%d", i);
        insert(c, id);
        if (!wait_until(r, has_id, id))
            fail_msg("%s did not come", id);
        pg_exec_ok(c, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                      " WHERE slot_name = 'wp' AND active");
    }
    reader_stop(r);
    assert_int_equal(r->result, STATUS_OK);
    finish(r, c, conninfo);
}

static void test_a_crash_of_the_server_loses_nothing(void **state)
{
    (void)state;
    if (!pgcluster_is_private(cluster))
        skip();
    PGconn *c = NULL;
    char *conninfo = database("crash", &c);
    struct reader_run *r = reader_new(conninfo);
    reader_start(r);
    for (int i = 0; i < 3; i++) {
        char id[32];
        snprintf(id, sizeof(id), "before%d", i);
        insert(c, id);
        snprintf(id, sizeof(id), "at%d", i);
        insert(c, id);
        pgcluster_stop(cluster, true);
        PQfinish(c);
        pgcluster_start(cluster);
        c = pg_connect_ok(conninfo);
        snprintf(id, sizeof(id), "after%d", i);
        insert(c, id);
        if (!wait_until(r, has_id, id))
            fail_msg("%s did not come", id);
    }
    reader_stop(r);
    /* Sent again is allowed (the slot went back), in which case the position is the same. */
    const char *const expected[] = {"before0", "at0",     "after0", "before1", "at1",
                                    "after1",  "before2", "at2",    "after2"};
    size_t found = 0;
    struct position last = {0, 0};
    for (size_t i = 0; i < r->n_events; i++) {
        if (position_compare(r->events[i].pos, last) <= 0)
            continue;
        last = r->events[i].pos;
        assert_true(found < 9);
        assert_string_equal(r->events[i].id, expected[found]);
        found++;
    }
    assert_int_equal(found, 9);
    finish(r, c, conninfo);
}

static void test_a_restart_goes_on_after_what_is_durable(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("restart", &c);
    struct reader_run *r = reader_new(conninfo);
    r->hold = true; /* the slot is never told: only the start LSN can skip */
    r->durable = r->start = confirmed(c);
    reader_start(r);
    insert(c, "m1");
    insert(c, "m2");
    wait_events(r, 2);
    reader_stop(r);
    lsn_t durable = r->committed;
    reader_free(r);

    r = reader_new(conninfo);
    r->hold = true;
    r->durable = r->start = durable;
    insert(c, "m3");
    reader_start(r);
    wait_events(r, 1);
    reader_stop(r);
    const char *const ids[] = {"m3", NULL};
    assert_ids(r, ids);
    finish(r, c, conninfo);
}

static void expect_end(struct reader_run *r, enum status st, const char *text)
{
    reader_start(r);
    assert_true(wait_until(r, is_done, NULL));
    assert_int_equal(r->result, st);
    if (!strstr(r->err.text, text))
        fail_msg("expected \"%s\" in: %s", text, r->err.text);
}

static void expect_refusal(struct reader_run *r, const char *text)
{
    expect_end(r, STATUS_REFUSED, text);
}

static void test_a_missing_slot_is_refused(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("noslot", &c);
    struct reader_run *r = reader_new(conninfo);
    r->cfg.slot = "absent";
    expect_refusal(r, "\"absent\" does not exist");
    assert_non_null(strstr(r->err.text, "42704"));
    finish(r, c, conninfo);
}

static void test_a_missing_publication_loses_the_slot(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("nopub", &c);
    struct reader_run *r = reader_new(conninfo);
    r->cfg.publication = "absent";
    insert(c, "m"); /* the server looks for the publication with the first change */
    expect_end(r, STATUS_LOST, "absent");
    finish(r, c, conninfo);
}

static void test_a_wrong_database_is_refused(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("nodb", &c);
    char elsewhere[600];
    struct reader_run *r = reader_new(conninfo);
    snprintf(elsewhere, sizeof(elsewhere), "%s dbname=does_not_exist", conninfo);
    r->cfg.conninfo = elsewhere;
    expect_refusal(r, "does_not_exist");
    finish(r, c, conninfo);
}

static bool is_blocked(struct reader_run *r, const void *arg)
{
    struct error why;
    return replication_blocked(r->replication, &why) == (arg != NULL) &&
           (!arg || strstr(why.text, arg) != NULL);
}

static bool is_confirmed(struct reader_run *r, const void *arg)
{
    PGconn *conn = (PGconn *)(uintptr_t)arg;
    return confirmed(conn) >= r->committed;
}

static void test_a_dropped_column_stops_with_its_name_until_the_mapping_is_mended(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("column", &c);
    struct reader_run *r = reader_new(conninfo);
    insert(c, "m1");
    pg_exec_ok(c, "ALTER TABLE chat DROP COLUMN content");
    pg_exec_ok(c, "INSERT INTO chat (id, user_id, bot, role) VALUES ('m2', 'u', 'b', 'user')");
    pg_exec_ok(c, "INSERT INTO chat (id, user_id, bot, role) VALUES ('m3', 'u', 'b', 'user')");
    reader_start(r);
    assert_true(wait_until(r, is_blocked, "\"content\""));
    const char *const ids[] = {"m1", NULL};
    assert_ids(r, ids);
    /* The server hears from a reader that stands still: what came before is forgotten there. Before
     * PostgreSQL 15 the ALTER TABLE comes as an empty transaction. */
    assert_int_equal(r->n_commits, PQserverVersion(c) < 150000 ? 2 : 1);
    assert_true(wait_until(r, is_confirmed, c));

    struct mapping_set mended = r->mappings;
    snprintf(mended.tables[0].fields[FIELD_CONTENT].column, 64, "role");
    assert_int_equal(replication_remap(r->replication, &mended, &r->err), STATUS_OK);
    assert_true(wait_until(r, has_id, "m3"));
    assert_true(wait_until(r, is_blocked, NULL));
    const char *const all[] = {"m1", "m2", "m3", NULL};
    assert_ids(r, all);
    finish(r, c, conninfo);
}

static void test_a_second_reader_waits_for_the_slot(void **state)
{
    (void)state;
    PGconn *c = NULL;
    char *conninfo = database("second", &c);
    struct reader_run *first = reader_new(conninfo);
    struct reader_run *second = reader_new(conninfo);
    reader_start(first);
    insert(c, "m1");
    wait_events(first, 1);
    struct slot_info info;
    assert_int_equal(preflight_slot_read(c, "wp", &info, NULL), STATUS_OK);
    assert_true(info.active);
    assert_non_null(strstr(info.holder, "application \"warmpath\""));
    reader_start(second);
    insert(c, "m2");
    wait_events(first, 2);
    assert_int_equal(count_events(second), 0);
    assert_int_equal(count_events(first), 2);
    reader_free(first);
    insert(c, "m3");
    assert_true(wait_until(second, has_id, "m3"));
    finish(second, c, conninfo);
}

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interleaved_transactions_come_in_commit_order),
        cmocka_unit_test(test_every_kind_of_transaction_is_read),
        cmocka_unit_test(test_only_what_is_durable_is_acknowledged),
        cmocka_unit_test(test_an_idle_slot_follows_other_traffic),
        cmocka_unit_test(test_a_full_receiver_outlives_the_servers_patience),
        cmocka_unit_test(test_a_cut_connection_is_made_again_and_nothing_is_lost),
        cmocka_unit_test(test_a_crash_of_the_server_loses_nothing),
        cmocka_unit_test(test_a_restart_goes_on_after_what_is_durable),
        cmocka_unit_test(test_a_missing_slot_is_refused),
        cmocka_unit_test(test_a_missing_publication_loses_the_slot),
        cmocka_unit_test(test_a_wrong_database_is_refused),
        cmocka_unit_test(test_a_dropped_column_stops_with_its_name_until_the_mapping_is_mended),
        cmocka_unit_test(test_a_second_reader_waits_for_the_slot),
    };
    bool absent = false;
    cluster = pgcluster_open(&absent);
    if (!cluster)
        return absent ? 77 : 1;
    int failed = cmocka_run_group_tests_name("ingest/replication", tests, setup, NULL);
    pgcluster_close(cluster);
    return failed;
}
