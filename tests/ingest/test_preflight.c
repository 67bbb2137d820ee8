/*
 * tests/ingest/test_preflight.c - each check finds its fault, and its fix mends it.
 *
 * Method: a private server and one sound set-up per test; one thing is broken, the check must name
 * it, and where the fix is SQL, the test runs that very SQL and looks again.
 */
#include "core/clock.h"
#include "core/log.h"
#include "ingest/preflight.h"
#include "tests/ingest/pg_support.h"

static struct pgcluster *cluster;
static const char *const sink_tables[] = {"strategic_test"};

/* A database with everything as it should be. */
struct site {
    char *conninfo;
    PGconn *conn;
    struct mapping_set mappings;
    struct preflight_config cfg;
    struct preflight_report report;
    struct error err;
};

static void look(struct site *s)
{
    if (preflight_run(&s->cfg, &s->report, &s->err))
        fail_msg("%s", s->err.text);
}

static struct site *site_new(const char *name)
{
    struct site *s = calloc(1, sizeof(*s));
    assert_non_null(s);
    s->conninfo = pgcluster_database(cluster, name);
    s->conn = pg_connect_ok(s->conninfo);
    s->mappings = pg_chat_mapping();
    s->cfg = (struct preflight_config){.conninfo = s->conninfo,
                                       .slot = name,
                                       .publication = "the \"pub\"",
                                       .mappings = &s->mappings,
                                       .sink_tables = sink_tables,
                                       .n_sink_tables = 1};
    bool created = false;
    lsn_t birth = LSN_INVALID;
    pg_exec_ok(s->conn, CHAT_DDL);
    pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY FULL");
    pg_exec_ok(s->conn, "CREATE TABLE strategic_test (a int PRIMARY KEY)");
    if (preflight_publication_create(s->conn, &s->cfg, &created, &s->err) ||
        preflight_slot_create(s->conn, name, true, 60 * US_PER_SECOND, &birth, &s->err))
        fail_msg("%s", s->err.text);
    assert_true(created);
    assert_true(birth != LSN_INVALID);
    look(s);
    for (size_t i = 0; i < s->report.n; i++)
        if (s->report.checks[i].result != CHECK_OK)
            fail_msg("%s: %s", s->report.checks[i].name, s->report.checks[i].found);
    return s;
}

static void site_free(struct site *s)
{
    PGresult *res = PQexec(s->conn, "SELECT pg_drop_replication_slot(slot_name)"
                                    " FROM pg_replication_slots WHERE database ="
                                    " current_database()");
    PQclear(res);
    PQfinish(s->conn);
    free(s->conninfo);
    free(s);
}

/* The first result of that check which is not ok; NULL when there is none. */
static const struct check *find(struct site *s, const char *name)
{
    for (size_t i = 0; i < s->report.n; i++)
        if (s->report.checks[i].result != CHECK_OK && strcmp(s->report.checks[i].name, name) == 0)
            return &s->report.checks[i];
    return NULL;
}

static const struct check *expect(struct site *s, const char *name, enum check_result result,
                                  const char *found)
{
    look(s);
    const struct check *c = find(s, name);
    if (!c || c->result != result || !strstr(c->found, found))
        fail_msg("%s: %s (last: %s)", name, c ? c->found : "nothing found",
                 s->report.checks[s->report.n - 1].found);
    return c;
}

/* Runs the fix as it stands; "--" starts a comment, as for anyone who pastes it into psql. */
static void mend(struct site *s, const char *name)
{
    const struct check *c = find(s, name);
    assert_non_null(c);
    /* The compiler cannot know that the line above does not return. */
    const struct check before = c ? *c : (struct check){0};
    pg_exec_ok(s->conn, before.fix);
    look(s);
    for (size_t i = 0; i < s->report.n; i++)
        if (strcmp(s->report.checks[i].found, before.found) == 0)
            fail_msg("still: %s", before.found);
}

static void test_no_server_is_a_report_not_a_failure(void **state)
{
    (void)state;
    struct mapping_set mappings = pg_chat_mapping();
    const struct preflight_config cfg = {.conninfo = "host=/nonexistent dbname=x",
                                         .slot = "s",
                                         .publication = "p",
                                         .mappings = &mappings};
    static struct preflight_report report;
    assert_int_equal(preflight_run(&cfg, &report, NULL), STATUS_OK);
    assert_int_equal(report.n, 1);
    assert_int_equal(preflight_worst(&report), CHECK_FAIL);
    assert_string_equal(report.checks[0].name, "connection");
}

static void test_missing_tables_and_columns_are_named(void **state)
{
    (void)state;
    struct site *s = site_new("columns");
    pg_map(&s->mappings.tables[0], FIELD_EMOTION, "mood");
    expect(s, "columns", CHECK_FAIL, "\"mood\"");
    s->mappings = pg_chat_mapping();
    snprintf(s->mappings.tables[0].table, sizeof(s->mappings.tables[0].table), "absent");
    expect(s, "table", CHECK_FAIL, "\"public\".\"absent\" does not exist");
    pg_exec_ok(s->conn, "CREATE VIEW absent AS SELECT * FROM chat");
    expect(s, "table", CHECK_FAIL, "is not a table");
    site_free(s);
}

static void test_column_types_must_fit_their_field(void **state)
{
    (void)state;
    struct site *s = site_new("types");
    struct mapping *m = &s->mappings.tables[0];
    pg_exec_ok(s->conn, "ALTER TABLE chat ADD at2 timestamp, ADD at3 bigint, ADD raw bytea,"
                        " ADD v real[]");
    pg_map(m, FIELD_AT, "at2");
    const struct check *c = expect(s, "columns", CHECK_FAIL, "of type timestamp");
    assert_non_null(strstr(c->fix, "naive_utc"));
    m->fields[FIELD_AT].time_unit = TIME_NAIVE_UTC;
    look(s);
    assert_null(find(s, "columns"));
    pg_map(m, FIELD_AT, "at3");
    expect(s, "columns", CHECK_FAIL, "of type int8");
    m->fields[FIELD_AT].time_unit = TIME_EPOCH_MS;
    pg_map(m, FIELD_EMBEDDING, "v");
    look(s);
    assert_null(find(s, "columns"));
    pg_map(m, FIELD_CONTENT, "raw");
    expect(s, "columns", CHECK_FAIL, "of type bytea");
    pg_map(m, FIELD_CONTENT, "meta");
    expect(s, "columns", CHECK_FAIL, "of type jsonb");
    snprintf(m->fields[FIELD_CONTENT].path, sizeof(m->fields[FIELD_CONTENT].path), "body");
    look(s);
    assert_null(find(s, "columns"));
    pg_map(m, FIELD_EMBEDDING, "role");
    pg_map(m, FIELD_EMOTION_CONFIDENCE, "v");
    expect(s, "columns", CHECK_FAIL, "\"v\"");
    site_free(s);
}

static void test_an_identity_that_says_too_little_is_mended_by_its_fix(void **state)
{
    (void)state;
    struct site *s = site_new("identity");
    pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY DEFAULT");
    const struct check *c = expect(s, "replica_identity", CHECK_FAIL, "does not bring");
    assert_null(strstr(c->fix, "USING INDEX"));
    mend(s, "replica_identity");
    assert_string_equal(pg_value(s->conn, "SELECT relreplident FROM pg_class"
                                          " WHERE relname = 'chat'"),
                        "f");

    /* A nullable column, an expression or a condition makes an index unsuitable. */
    pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY NOTHING;"
                        "ALTER TABLE chat ADD nullable text;"
                        "CREATE UNIQUE INDEX bad1 ON chat (id, user_id, bot, nullable);"
                        "CREATE UNIQUE INDEX bad2 ON chat (id, user_id, bot) WHERE role = 'x';"
                        "CREATE INDEX bad3 ON chat (id, user_id, bot)");
    c = expect(s, "replica_identity", CHECK_FAIL, "own UPDATE and DELETE fail");
    assert_null(strstr(c->fix, "USING INDEX"));
    pg_exec_ok(s->conn, "CREATE UNIQUE INDEX \"Good\" ON chat (user_id, bot, id)");
    c = expect(s, "replica_identity", CHECK_FAIL, "own UPDATE and DELETE fail");
    assert_non_null(strstr(c->fix, "USING INDEX \"Good\""));
    mend(s, "replica_identity");
    assert_string_equal(pg_value(s->conn, "SELECT relreplident FROM pg_class"
                                          " WHERE relname = 'chat'"),
                        "i");
    site_free(s);
}

static void test_an_insert_only_publication_needs_no_identity(void **state)
{
    (void)state;
    struct site *s = site_new("insertonly");
    pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY NOTHING;"
                        "ALTER PUBLICATION \"the \"\"pub\"\"\" SET (publish = 'insert')");
    look(s);
    assert_int_equal(preflight_worst(&s->report), CHECK_OK);
    site_free(s);
}

static void test_a_constant_bot_is_not_asked_of_the_identity(void **state)
{
    (void)state;
    struct site *s = site_new("constant");
    struct mapping_source *bot = &s->mappings.tables[0].fields[FIELD_BOT_NAME];
    bot->column[0] = '\0';
    snprintf(bot->constant, sizeof(bot->constant), "elena");
    pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY DEFAULT;"
                        "ALTER TABLE chat DROP CONSTRAINT chat_pkey;"
                        "ALTER TABLE chat ADD PRIMARY KEY (user_id, id)");
    look(s);
    assert_int_equal(preflight_worst(&s->report), CHECK_OK);
    /* A long JSON value that an UPDATE leaves alone would be missing. */
    pg_map(&s->mappings.tables[0], FIELD_TRAITS, "meta");
    expect(s, "replica_identity", CHECK_WARN, "\"meta\"");
    mend(s, "replica_identity");
    site_free(s);
}

static void test_every_partition_needs_its_identity(void **state)
{
    (void)state;
    struct site *s = site_new("partitions");
    pg_exec_ok(s->conn,
               "DROP TABLE chat;"
               "CREATE TABLE chat (id text, user_id text, bot text, role text, content text,"
               " at timestamptz, PRIMARY KEY (id, user_id, bot)) PARTITION BY HASH (user_id);"
               "CREATE TABLE chat_0 PARTITION OF chat FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
               "CREATE TABLE chat_1 PARTITION OF chat FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
               "ALTER PUBLICATION \"the \"\"pub\"\"\" ADD TABLE chat");
    look(s);
    assert_int_equal(preflight_worst(&s->report), CHECK_OK);
    pg_exec_ok(s->conn, "ALTER TABLE chat_1 REPLICA IDENTITY NOTHING");
    expect(s, "replica_identity", CHECK_FAIL, "\"chat_1\"");
    mend(s, "replica_identity");
    pg_exec_ok(s->conn, "ALTER PUBLICATION \"the \"\"pub\"\"\""
                        " SET (publish_via_partition_root = false)");
    expect(s, "publication_tables", CHECK_FAIL, "partitions' names");
    site_free(s);
}

static void test_the_publication_must_hold_the_mapped_tables_and_no_cache_tables(void **state)
{
    (void)state;
    struct site *s = site_new("publication");
    pg_exec_ok(s->conn, "ALTER PUBLICATION \"the \"\"pub\"\"\" ADD TABLE strategic_test");
    expect(s, "publication_cache_tables", CHECK_FAIL, "strategic_test");
    bool created = true;
    assert_int_equal(preflight_publication_create(s->conn, &s->cfg, &created, &s->err),
                     STATUS_REFUSED);
    mend(s, "publication_cache_tables");
    assert_int_equal(preflight_publication_create(s->conn, &s->cfg, &created, &s->err), STATUS_OK);
    assert_false(created);

    pg_exec_ok(s->conn, "CREATE TABLE extra (a int PRIMARY KEY);"
                        "ALTER PUBLICATION \"the \"\"pub\"\"\" SET TABLE extra");
    expect(s, "publication_tables", CHECK_FAIL, "does not send table \"public\".\"chat\"");
    mend(s, "publication_tables");

    pg_exec_ok(s->conn, "ALTER PUBLICATION \"the \"\"pub\"\"\" SET (publish = 'update')");
    expect(s, "publication", CHECK_FAIL, "no inserts");
    mend(s, "publication");

    pg_exec_ok(s->conn, "DROP PUBLICATION \"the \"\"pub\"\"\";"
                        "CREATE PUBLICATION \"the \"\"pub\"\"\" FOR ALL TABLES");
    expect(s, "publication", CHECK_FAIL, "FOR ALL TABLES");
    mend(s, "publication");
    pg_exec_ok(s->conn, "DROP PUBLICATION \"the \"\"pub\"\"\"");
    expect(s, "publication", CHECK_FAIL, "does not exist");
    mend(s, "publication");
    site_free(s);
}

static void test_column_lists_and_row_filters_are_seen(void **state)
{
    (void)state;
    struct site *s = site_new("lists");
    if (PQserverVersion(s->conn) >= 150000) {
        pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY DEFAULT;"
                            "ALTER PUBLICATION \"the \"\"pub\"\"\" SET TABLE"
                            " chat (id, user_id, bot, role, at)");
        expect(s, "publication_tables", CHECK_FAIL, "leaves out content");
        pg_exec_ok(s->conn, "ALTER TABLE chat REPLICA IDENTITY FULL;"
                            "ALTER PUBLICATION \"the \"\"pub\"\"\" SET TABLE"
                            " chat WHERE (role <> 'x')");
        expect(s, "publication_tables", CHECK_WARN, "row filter");
    }
    site_free(s);
}

static void test_a_publication_that_would_break_the_application_is_not_made(void **state)
{
    (void)state;
    struct site *s = site_new("harm");
    bool created = true;
    pg_exec_ok(s->conn, "DROP PUBLICATION \"the \"\"pub\"\"\";"
                        "ALTER TABLE chat REPLICA IDENTITY NOTHING");
    assert_int_equal(preflight_publication_create(s->conn, &s->cfg, &created, &s->err),
                     STATUS_REFUSED);
    assert_non_null(strstr(s->err.text, "REPLICA IDENTITY FULL"));
    assert_string_equal(pg_value(s->conn, "SELECT count(*) FROM pg_publication"), "0");
    site_free(s);
}

static void test_slots_of_the_wrong_kind_are_told_apart(void **state)
{
    (void)state;
    struct site *s = site_new("slots");
    struct slot_info info;
    pg_exec_ok(s->conn, "SELECT pg_drop_replication_slot('slots')");
    assert_int_equal(preflight_slot_read(s->conn, "slots", &info, &s->err), STATUS_OK);
    assert_false(info.exists);
    expect(s, "slot", CHECK_FAIL, "does not exist");
    s->cfg.create = true;
    look(s);
    assert_null(find(s, "slot")); /* `run` will make it */
    s->cfg.create = false;
    look(s);
    mend(s, "slot");

    pg_exec_ok(s->conn, "SELECT pg_drop_replication_slot('slots');"
                        "SELECT pg_create_logical_replication_slot('slots', 'test_decoding')");
    expect(s, "slot", CHECK_FAIL, "plug-in is not pgoutput");
    pg_exec_ok(s->conn, "SELECT pg_drop_replication_slot('slots');"
                        "SELECT pg_create_physical_replication_slot('slots')");
    expect(s, "slot", CHECK_FAIL, "physical");
    pg_exec_ok(s->conn, "SELECT pg_drop_replication_slot('slots')");

    struct site *other = site_new("slots2");
    s->cfg.slot = "slots2";
    expect(s, "slot", CHECK_FAIL, "another database");
    site_free(other);
    site_free(s);
}

static void test_a_slot_is_read_as_it_was_made(void **state)
{
    (void)state;
    struct site *s = site_new("birth");
    struct slot_info info;
    lsn_t birth = LSN_INVALID;
    pg_exec_ok(s->conn, "SELECT pg_drop_replication_slot('birth')");
    assert_int_equal(
        preflight_slot_create(s->conn, "birth", true, 60 * US_PER_SECOND, &birth, &s->err),
        STATUS_OK);
    assert_int_equal(preflight_slot_read(s->conn, "birth", &info, &s->err), STATUS_OK);
    assert_true(info.exists && info.logical && !info.active);
    assert_int_equal(info.confirmed_flush, birth);
    assert_true(info.restart_lsn <= birth && info.restart_lsn != LSN_INVALID);
    assert_string_equal(info.plugin, "pgoutput");
    assert_string_equal(info.database, "birth");
    assert_string_equal(info.wal_status, "reserved");
    assert_string_equal(info.invalidation, "");
    assert_int_equal(info.safe_wal_bytes, -1);
    /* Twice is refused, and says so. */
    assert_int_equal(
        preflight_slot_create(s->conn, "birth", true, 60 * US_PER_SECOND, &birth, &s->err),
        STATUS_REFUSED);
    assert_non_null(strstr(s->err.text, "already exists"));
    site_free(s);
}

static void test_a_slot_that_waits_for_a_transaction_names_it(void **state)
{
    (void)state;
    struct site *s = site_new("blocked");
    lsn_t birth = LSN_INVALID;
    char named[600];
    snprintf(named, sizeof(named), "%s application_name=the_culprit", s->conninfo);
    PGconn *old = pg_connect_ok(named);
    pg_exec_ok(old, "BEGIN; INSERT INTO strategic_test VALUES (1)");
    assert_int_equal(
        preflight_slot_create(s->conn, "late", true, US_PER_SECOND / 2, &birth, &s->err),
        STATUS_REFUSED);
    assert_non_null(strstr(s->err.text, "the_culprit"));
    pg_exec_ok(old, "COMMIT");
    assert_int_equal(
        preflight_slot_create(s->conn, "late", true, 60 * US_PER_SECOND, &birth, &s->err),
        STATUS_OK);
    PQfinish(old);
    site_free(s);
}

static void test_rights_that_are_missing_are_granted_by_the_fix(void **state)
{
    (void)state;
    struct site *s = site_new("rights");
    char limited[600];
    pg_exec_ok(s->conn, "DROP ROLE IF EXISTS preflight_limited;"
                        "CREATE ROLE preflight_limited LOGIN");
    snprintf(limited, sizeof(limited), "%s user=preflight_limited", s->conninfo);
    s->cfg.conninfo = limited;
    expect(s, "replication_role", CHECK_FAIL, "preflight_limited");
    mend(s, "replication_role");
    expect(s, "select", CHECK_WARN, "cannot be read");
    mend(s, "select");
    pg_exec_ok(s->conn, "DROP OWNED BY preflight_limited; DROP ROLE preflight_limited");
    site_free(s);
}

static void test_settings_that_weaken_the_promise_are_warned_about(void **state)
{
    (void)state;
    struct site *s = site_new("settings");
    pg_exec_ok(s->conn, "ALTER DATABASE settings SET synchronous_commit = off");
    expect(s, "synchronous_commit", CHECK_WARN, "off");
    pg_exec_ok(s->conn, "DROP TABLE strategic_test");
    const struct check *c = expect(s, "cache_tables", CHECK_FAIL, "strategic_test");
    assert_string_equal(c->fix, "warmpath migrate up");
    site_free(s);
}

static void test_the_server_is_identified(void **state)
{
    (void)state;
    struct site *s = site_new("identify");
    struct server_identity id;
    uint64_t again = 0;
    char expected[64];
    assert_int_equal(preflight_identify(s->conninfo, 0, &id, &s->err), STATUS_OK);
    snprintf(expected, sizeof(expected), "%llu", (unsigned long long)id.system_identifier);
    assert_string_equal(pg_value(s->conn, "SELECT system_identifier FROM pg_control_system()"),
                        expected);
    assert_int_equal(id.timeline, 1);
    assert_string_equal(id.database, "identify");
    assert_true(id.flush_lsn != LSN_INVALID);
    assert_int_equal(preflight_system_identifier(s->conninfo, &again, &s->err), STATUS_OK);
    assert_true(again == id.system_identifier);
    site_free(s);
}

static void test_where_a_timeline_ended_is_read_from_the_history(void **state)
{
    (void)state;
    static const char history[] = "1\t0/3000148\tno recovery target specified\n\n"
                                  "2\t1/A\tbefore 2000-01-01 00:00:00+00\n";
    assert_int_equal(preflight_timeline_end(history, 1), 0x3000148);
    assert_int_equal(preflight_timeline_end(history, 2), 0x10000000A);
    assert_int_equal(preflight_timeline_end(history, 3), LSN_INVALID);
    assert_int_equal(preflight_timeline_end("", 1), LSN_INVALID);
    assert_int_equal(preflight_timeline_end("1\tgarbage\n", 1), LSN_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_where_a_timeline_ended_is_read_from_the_history),
        cmocka_unit_test(test_no_server_is_a_report_not_a_failure),
        cmocka_unit_test(test_missing_tables_and_columns_are_named),
        cmocka_unit_test(test_column_types_must_fit_their_field),
        cmocka_unit_test(test_an_identity_that_says_too_little_is_mended_by_its_fix),
        cmocka_unit_test(test_an_insert_only_publication_needs_no_identity),
        cmocka_unit_test(test_a_constant_bot_is_not_asked_of_the_identity),
        cmocka_unit_test(test_every_partition_needs_its_identity),
        cmocka_unit_test(test_the_publication_must_hold_the_mapped_tables_and_no_cache_tables),
        cmocka_unit_test(test_column_lists_and_row_filters_are_seen),
        cmocka_unit_test(test_a_publication_that_would_break_the_application_is_not_made),
        cmocka_unit_test(test_slots_of_the_wrong_kind_are_told_apart),
        cmocka_unit_test(test_a_slot_is_read_as_it_was_made),
        cmocka_unit_test(test_a_slot_that_waits_for_a_transaction_names_it),
        cmocka_unit_test(test_rights_that_are_missing_are_granted_by_the_fix),
        cmocka_unit_test(test_settings_that_weaken_the_promise_are_warned_about),
        cmocka_unit_test(test_the_server_is_identified),
    };
    bool absent = false;
    cluster = pgcluster_open(&absent);
    if (!cluster)
        return absent ? 77 : 1;
    int failed = cmocka_run_group_tests_name("ingest/preflight", tests, NULL, NULL);
    pgcluster_close(cluster);
    return failed;
}
