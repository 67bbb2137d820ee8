/*
 * tests/server/test_commands.c - the commands that talk to PostgreSQL, against a real server.
 *
 * One cluster, one database per test. Cache rows for `verify` are made by the engines (not by the
 * oracle that verify uses) from the same source tables and written with plain INSERTs, so that each
 * kind of disagreement can be put in place by one UPDATE.
 */
#include "core/clock.h"
#include "core/pg.h"
#include "engines/key.h"
#include "ingest/table_scan.h"
#include "server/cli.h"
#include "state/store.h"
#include "tests/support/pgcluster.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct pgcluster *cluster;

/* A database with the application's tables, and the configuration that maps them. */
struct fixture {
    char *conninfo;
    char file[64];
    PGconn *conn;
};

static const char schema[] =
    "CREATE TABLE message (id text PRIMARY KEY, who text, role text, body text, at timestamptz);"
    "ALTER TABLE message REPLICA IDENTITY FULL;"
    "CREATE TABLE memory (id bigserial PRIMARY KEY, who text, memory text, op text, doc jsonb);"
    "ALTER TABLE memory REPLICA IDENTITY FULL";

static const char mapping[] =
    "  tables:\n"
    "    - relation: message\n"
    "      event: message\n"
    "      fields:\n"
    "        id: id\n"
    "        user_id: who\n"
    "        bot_name: {const: elena}\n"
    "        role: {column: role, map: {user: user, assistant: bot, system: ''}}\n"
    "        content: body\n"
    "        at: at\n"
    "    - relation: memory\n"
    "      event: memory\n"
    "      fields:\n"
    "        id: id\n"
    "        user_id: who\n"
    "        bot_name: {const: elena}\n"
    "        op: op\n"
    "        memory_id: memory\n"
    "        at: {column: doc, path: time.us, unit: epoch_us}\n";

static void sql(struct fixture *f, const char *text)
{
    struct error err;
    if (pg_exec(f->conn, text, "test", &err) != STATUS_OK)
        fail_msg("%s: %s", text, err.text);
}

static void write_config(const struct fixture *f, const char *more)
{
    FILE *file = fopen(f->file, "w");
    assert_non_null(file);
    fprintf(file, "source:\n  conninfo: \"%s\"\n%sstate: {dir: %s.state}\n%s", f->conninfo, mapping,
            f->file, more);
    assert_int_equal(fclose(file), 0);
}

static struct fixture fixture_open(const char *name)
{
    struct fixture f = {.conninfo = pgcluster_database(cluster, name)};
    assert_non_null(f.conninfo);
    snprintf(f.file, sizeof(f.file), "/tmp/warmpath-%d-%s.yaml", (int)getpid(), name);
    write_config(&f, "");
    struct pg_options options = {.conninfo = f.conninfo, .application_name = "test"};
    assert_int_equal(pg_open(&options, &f.conn, NULL), STATUS_OK);
    sql(&f, schema);
    return f;
}

static void fixture_close(struct fixture *f)
{
    PQfinish(f->conn);
    unlink(f->file);
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s.state", f->file);
    assert_int_equal(system(command), 0);
    free(f->conninfo);
}

struct result {
    int code;
    char *out;
    char *err;
};

/* The command's words separated by blanks, then --config. */
static struct result run(const struct fixture *f, const char *line)
{
    char copy[256];
    char *argv[16] = {(char *)(uintptr_t) "warmpath"};
    int argc = 1;
    snprintf(copy, sizeof(copy), "%s --config %s", line, f->file);
    for (char *at = copy; *at;) {
        argv[argc++] = at;
        at += strcspn(at, " ");
        if (*at)
            *at++ = '\0';
    }
    struct result r = {.code = -1};
    size_t n_out, n_err;
    FILE *out = open_memstream(&r.out, &n_out), *err = open_memstream(&r.err, &n_err);
    r.code = cli_main(argc, argv, out, err);
    fclose(out);
    fclose(err);
    return r;
}

static void result_free(struct result *r)
{
    free(r->out);
    free(r->err);
}

static void assert_run(const struct fixture *f, const char *line, int code, const char *out_part,
                       const char *err_part)
{
    struct result r = run(f, line);
    if (r.code != code || !strstr(r.out, out_part) || !strstr(r.err, err_part))
        fail_msg("\"%s\" gave %d\nout: %s\nerr: %s", line, r.code, r.out, r.err);
    result_free(&r);
}

/* The answer of a command with --json; the caller decrefs. */
static json_t *run_json(const struct fixture *f, const char *line, int code)
{
    struct result r = run(f, line);
    json_t *root = json_loads(r.out, 0, NULL);
    if (r.code != code || !root)
        fail_msg("\"%s\" gave %d\nout: %s\nerr: %s", line, r.code, r.out, r.err);
    result_free(&r);
    return root;
}

/* ---- rows made by the engines ---- */

struct made_key {
    char user[32];
    struct key *key;
};

static void append_value(struct buf *out, PGconn *conn, const struct row *r, size_t i)
{
    char *literal = NULL;
    enum status st;
    if (!r->values[i].set) {
        st = buf_append_str(out, STR(", NULL"));
    } else if (r->table->columns[i].type == COLUMN_FLOAT) {
        st = buf_printf(out, ", %.17g", r->values[i].number);
    } else if (r->table->columns[i].type == COLUMN_TIME) {
        st =
            buf_printf(out, ", 'epoch'::timestamptz + %.0f * interval '1 us'", r->values[i].number);
    } else {
        struct str v = row_value(r, i);
        literal = PQescapeLiteral(conn, v.ptr, v.len);
        st = buf_printf(out, ", %s", literal);
    }
    assert_int_equal(st, STATUS_OK);
    PQfreemem(literal);
}

/* What goes before the columns that every table shares, and its value. */
static enum status append_key(struct buf *out, const struct row *r, bool values)
{
    if (!values)
        return buf_append_str(out, r->table->by_window ? STR("time_window_hours") : STR("user_id"));
    return r->table->by_window ? buf_printf(out, "%d", r->window_hours)
                               : buf_printf(out, "'" STR_FMT "'", STR_ARGS(row_user(r)));
}

static void insert_row(struct fixture *f, const struct row *r)
{
    struct buf text;
    buf_init(&text, 1 << 20);
    struct str details = row_details(r);
    char *literal = PQescapeLiteral(f->conn, details.ptr, details.len);
    assert_int_equal(buf_printf(&text, "INSERT INTO %s (", r->table->name), STATUS_OK);
    assert_int_equal(append_key(&text, r, false), STATUS_OK);
    assert_int_equal(buf_append_str(&text, STR(", bot_name, expires_at, as_of, event_count, "
                                               "confidence, state_flags, engine_version, details")),
                     STATUS_OK);
    for (size_t i = 0; i < r->table->n_columns; i++)
        assert_int_equal(buf_printf(&text, ", %s", r->table->columns[i].name), STATUS_OK);
    assert_int_equal(buf_append_str(&text, STR(") VALUES (")), STATUS_OK);
    assert_int_equal(append_key(&text, r, true), STATUS_OK);
    assert_int_equal(buf_printf(&text,
                                ", '" STR_FMT "', now(), 'epoch'::timestamptz + %" PRId64
                                " * interval '1 us', "
                                "%" PRId64 ", %.17g, %u, %d, %s",
                                STR_ARGS(row_bot(r)), r->as_of_us, r->event_count,
                                row_confidence(r), r->state_flags, r->engine_version, literal),
                     STATUS_OK);
    for (size_t i = 0; i < r->table->n_columns; i++)
        append_value(&text, f->conn, r, i);
    assert_int_equal(buf_append(&text, ")", 2), STATUS_OK);
    sql(f, text.data);
    PQfreemem(literal);
    buf_deinit(&text);
}

static struct key *key_of(struct made_key *keys, size_t *n, struct str user, struct str bot)
{
    for (size_t i = 0; i < *n; i++)
        if (str_equal(str_from(keys[i].user), user))
            return keys[i].key;
    assert_true(*n < 8);
    snprintf(keys[*n].user, sizeof(keys[*n].user), STR_FMT, STR_ARGS(user));
    assert_int_equal(key_new(user, bot, &keys[*n].key, NULL), STATUS_OK);
    return keys[(*n)++].key;
}

/* To the user's key, the bot's own, or both, as the pipeline does. */
static void apply(struct made_key *keys, size_t *n, const struct event *e)
{
    uint32_t scopes = engine_scopes(e);
    for (int scope = ENGINE_USER; scope <= ENGINE_BOT; scope++) {
        if (!(scopes & 1u << scope))
            continue;
        struct str user = scope == ENGINE_BOT ? STR("") : e->user_id;
        struct feature feature;
        struct key_change change;
        struct error err;
        feature_extract(e, SOURCE_POSTGRES, 1, NULL, &feature);
        assert_int_equal(
            key_apply(key_of(keys, n, user, e->bot_name), &feature, e->at_us, &change, &err),
            STATUS_OK);
    }
}

/* A state in which no day has ended yet. */
static void make_state(const struct config *c)
{
    struct store_identity identity = {.pipeline = "test", .partitions = LIMIT_PARTITIONS};
    struct store *store = NULL;
    bool fresh = false;
    assert_int_equal(store_set_open(c->state_dir, 1, 1, &identity, &fresh, &store, NULL),
                     STATUS_OK);
    store_close(store);
}

/* Every row that the pipeline would have written at T. */
static void write_rows(struct fixture *f, const struct config *c, int64_t as_of_us)
{
    make_state(c);
    struct table_scan_config sc = {.conninfo = f->conninfo,
                                   .publication = "none",
                                   .mappings = &c->mappings,
                                   .since_us = INT64_MIN,
                                   .jobs = 1};
    struct table_scan *rows;
    struct made_key keys[8];
    size_t n = 0;
    const struct event *e = NULL;
    struct error err;
    enum status st = table_scan_open(&sc, &rows, &err);
    assert_int_equal(st, STATUS_OK);
    while ((st = table_scan_next(rows, US_PER_SECOND, &e, &err)) != STATUS_END) {
        assert_true(st == STATUS_OK || st == STATUS_AGAIN);
        if (st == STATUS_OK && e->type != EVENT_DEAD_LETTER)
            apply(keys, &n, e);
    }
    table_scan_close(rows);
    for (size_t i = 0; i < n; i++) {
        for (int t = 0; t < TABLE_COUNT; t++) {
            if (!key_has_row(keys[i].key, (enum table_id)t))
                continue;
            struct row row;
            row_init(&row, &tables[t]);
            assert_int_equal(key_emit(keys[i].key, (enum table_id)t, as_of_us, &row, &err),
                             STATUS_OK);
            row.as_of_us = as_of_us;
            insert_row(f, &row);
            row_deinit(&row);
        }
        key_free(keys[i].key);
    }
}

/* Three users with messages, two of them with memories; one ignored and one unusable message. */
static void fill_source(struct fixture *f)
{
    sql(f, "INSERT INTO message SELECT 'm' || i, 'u' || i % 3, CASE WHEN i % 2 = 0 THEN 'user' "
           "ELSE 'assistant' END, 'number ' || i || ' about ' || md5(i::text) || ' and gardens?', "
           "now() - (300 - i) * interval '7 minutes' FROM generate_series(1, 300) i");
    sql(f, "INSERT INTO memory (who, memory, op, doc) SELECT 'u' || i % 2, 'mem' || i % 10, "
           "CASE WHEN i <= 20 THEN 'create' ELSE 'access' END, jsonb_build_object('time', "
           "jsonb_build_object('us', ((extract(epoch FROM now()) - (200 - i) * 9000) * "
           "1000000)::bigint)) FROM generate_series(1, 200) i ORDER BY i % 7");
    sql(f, "INSERT INTO message VALUES ('sys', 'u0', 'system', 'ignored', now()), "
           "('odd', 'u0', 'wizard', 'refused', now())");
}

/* ---- tests ---- */

/* up makes the tables, up again does nothing, down takes them away, status tells which. */
static void test_migrations_go_up_and_down(void **state)
{
    (void)state;
    struct fixture f = fixture_open("migrations");
    assert_run(&f, "migrate status", CLI_OK, "pending", "");
    assert_run(&f, "migrate up", CLI_OK, "applied 0001_strategic_cache", "");
    assert_run(&f, "migrate up", CLI_OK, "nothing to do", "");
    json_t *root = run_json(&f, "migrate status --json", CLI_OK);
    assert_true(json_is_false(json_object_get(root, "pending")));
    json_decref(root);
    sql(&f, "SELECT recent_topics FROM strategic_conversation_patterns");
    assert_run(&f, "migrate down --all", CLI_OK, "0001_strategic_cache", "");
    root = run_json(&f, "migrate status --json", CLI_OK);
    assert_true(json_is_true(json_object_get(root, "pending")));
    json_decref(root);
    assert_run(&f, "migrate sideways", CLI_USAGE, "", "\"sideways\" is none of up, down, status");
    assert_run(&f, "migrate down --steps 0", CLI_USAGE, "", "--steps \"0\" is not a number");
    fixture_close(&f);
}

/* With a database at hand a mapped column that does not exist is a wrong configuration. */
static void test_check_config_finds_unknown_columns(void **state)
{
    (void)state;
    struct fixture f = fixture_open("columns");
    assert_run(&f, "check-config", CLI_OK, "ok\n", "");
    sql(&f, "ALTER TABLE message RENAME COLUMN body TO text");
    assert_run(&f, "check-config", CLI_CONFIG, "", "body");
    assert_run(&f, "check-config --offline", CLI_OK, "ok\n", "");
    fixture_close(&f);
    struct fixture gone = {.conninfo = strdup("host=/nonexistent dbname=x")};
    snprintf(gone.file, sizeof(gone.file), "/tmp/warmpath-%d-gone.yaml", (int)getpid());
    write_config(&gone, "");
    assert_run(&gone, "check-config", CLI_OK, "ok\n", "note: tables and columns were not checked");
    fixture_close(&gone);
}

static const json_t *find_check(const json_t *root, const char *name)
{
    size_t i;
    json_t *check;
    json_array_foreach(json_object_get(root, "checks"), i, check)
    {
        if (strcmp(json_string_value(json_object_get(check, "name")), name) == 0)
            return check;
    }
    fail_msg("no check \"%s\"", name);
    return NULL;
}

/* doctor fails with the command that mends it, and passes once that was done. */
static void test_doctor_names_what_mends_a_failure(void **state)
{
    (void)state;
    struct fixture f = fixture_open("doctor");
    json_t *root = run_json(&f, "doctor --json", CLI_FAILED);
    const json_t *check = find_check(root, "migrations");
    assert_string_equal(json_string_value(json_object_get(check, "result")), "fail");
    assert_string_equal(json_string_value(json_object_get(check, "fix")), "warmpath migrate up");
    json_decref(root);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    assert_run(&f, "doctor", CLI_OK, "ok    migrations", "");
    root = run_json(&f, "doctor --json --set sink.ttl=1m", CLI_OK);
    check = find_check(root, "row_lifetime");
    assert_string_equal(json_string_value(json_object_get(check, "result")), "warn");
    json_decref(root);
    root = run_json(&f, "doctor --json --set state.dir=/etc/passwd/here", CLI_FAILED);
    check = find_check(root, "state_dir");
    assert_string_equal(json_string_value(json_object_get(check, "result")), "fail");
    json_decref(root);
    write_config(&f, "sink: {conninfo: 'host=/x password=p'}\n");
    root = run_json(&f, "doctor --json", CLI_FAILED);
    check = find_check(root, "config_file");
    assert_string_equal(json_string_value(json_object_get(check, "result")), "warn");
    json_decref(root);
    fixture_close(&f);
}

/* status shows what there is, and says of the rest why it cannot. */
static void test_status_works_before_and_after_the_first_run(void **state)
{
    (void)state;
    struct fixture f = fixture_open("status");
    json_t *root = run_json(&f, "status --json", CLI_FAILED);
    assert_non_null(json_object_get(json_object_get(root, "lease"), "error"));
    json_decref(root);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    sql(&f, "INSERT INTO strategic_lease VALUES ('default', 'host:1:abc', now() + interval '1 h');"
            "INSERT INTO strategic_epoch VALUES ('default', 7);"
            "INSERT INTO strategic_progress VALUES ('default', 7, 'warmpath', '0/1', '1/AB', 5, "
            "42, now());"
            "INSERT INTO strategic_memory_health (user_id, bot_name, memory_snapshot, expires_at) "
            "VALUES ('a', 'b', '{}', now() + interval '1 h'), ('c', 'b', '{}', now())");
    sql(&f, "SELECT pg_create_logical_replication_slot('warmpath', 'pgoutput')");
    root = run_json(&f, "status --json", CLI_OK);
    const char *holder, *covered;
    int held, exists, active, state_exists;
    json_int_t epoch, events, rows, fresh, retained;
    assert_int_equal(
        json_unpack(root,
                    "{s:{s:b, s:s, s:I}, s:{s:s, s:I}, s:{s:{s:I, s:I}}, s:{s:b, s:b, s:I}, "
                    "s:{s:b}}",
                    "lease", "held", &held, "holder", &holder, "epoch", &epoch, "progress",
                    "covered_lsn", &covered, "events_applied", &events, "tables",
                    "strategic_memory_health", "rows", &rows, "fresh", &fresh, "slot", "exists",
                    &exists, "active", &active, "retained_bytes", &retained, "state", "exists",
                    &state_exists),
        0);
    assert_true(held && exists && !active && !state_exists && retained >= 0);
    assert_string_equal(holder, "host:1:abc");
    assert_string_equal(covered, "1/AB");
    assert_int_equal(epoch, 7);
    assert_int_equal(events, 42);
    assert_int_equal(rows, 2);
    assert_int_equal(fresh, 1);
    json_decref(root);
    assert_run(&f, "status", CLI_OK, "held by host:1:abc", "");
    sql(&f, "SELECT pg_drop_replication_slot('warmpath')");
    assert_run(&f, "status", CLI_OK, "warmpath does not exist", "");
    fixture_close(&f);
}

static struct config *load(const struct fixture *f)
{
    struct config *c = NULL;
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEM_BYTES);
    struct config_input in = {.file = f->file};
    assert_int_equal(config_load(&in, &c, &problems, NULL), STATUS_OK);
    buf_deinit(&problems);
    return c;
}

/* Rows made by the engines agree, whatever the number of days between the last event and T. */
static void test_verify_finds_rows_of_the_engines_equal(void **state)
{
    (void)state;
    struct fixture f = fixture_open("equal");
    struct config *c = load(&f);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    fill_source(&f);
    int64_t now_us = clock_wall_us(&clock_real);
    write_rows(&f, c, now_us);
    assert_run(&f, "verify", CLI_OK, "13 rows equal, 0 differ, 0 missing (from 500 events)", "");
    assert_run(&f, "verify", CLI_OK, "1 source rows cannot be used, the first because", "");
    sql(&f, "TRUNCATE strategic_memory_health, strategic_conversation_patterns, "
            "strategic_character_performance, strategic_personality_profiles, "
            "strategic_memory_behavior, strategic_engagement_opportunities");
    write_rows(&f, c, now_us + 9 * US_PER_DAY);
    assert_run(&f, "verify --all", CLI_OK, "13 rows equal, 0 differ, 0 missing", "");
    assert_run(&f, "verify --sample 1", CLI_OK, "0 differ", "");
    config_free(c);
    fixture_close(&f);
}

/* Rather than differences that are none. */
static void test_verify_says_that_there_are_no_epochs_to_compute_with(void **state)
{
    (void)state;
    struct fixture f = fixture_open("stateless");
    struct config *c = load(&f);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    fill_source(&f);
    assert_run(&f, "verify", CLI_FAILED, "", "run verify where the state is");
    config_free(c);
    fixture_close(&f);
}

/* Events after a row's T do not touch it: the row was right when it was written. */
static void test_verify_judges_a_row_at_its_own_time(void **state)
{
    (void)state;
    struct fixture f = fixture_open("own_time");
    struct config *c = load(&f);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    fill_source(&f);
    write_rows(&f, c, clock_wall_us(&clock_real));
    sql(&f, "INSERT INTO message VALUES ('later', 'u1', 'user', 'one more', now() + interval '1 "
            "hour')");
    assert_run(&f, "verify", CLI_OK, "13 rows equal, 0 differ, 0 missing", "");
    sql(&f, "INSERT INTO message VALUES ('before', 'u1', 'user', 'one more', now() - interval '1 "
            "hour')");
    assert_run(&f, "verify", CLI_FAILED, "user=\"u1\" bot=\"elena\" event_count: expected", "");
    config_free(c);
    fixture_close(&f);
}

/* Each kind of disagreement is found, named, and fails the command. */
static void test_verify_finds_every_kind_of_difference(void **state)
{
    (void)state;
    static const struct {
        const char *damage, *found;
    } cases[] = {
        {"UPDATE strategic_memory_health SET avg_memory_age_hours = avg_memory_age_hours * "
         "(1 + 1e-15::float8) WHERE user_id = 'u0'",
         "strategic_memory_health user=\"u0\" bot=\"elena\" avg_memory_age_hours: expected"},
        {"UPDATE strategic_memory_health SET memory_snapshot = jsonb_set(memory_snapshot, "
         "'{total}', '99') WHERE user_id = 'u1'",
         "user=\"u1\" bot=\"elena\" memory_snapshot: expected"},
        {"UPDATE strategic_conversation_patterns SET details = '{}' WHERE user_id = 'u2'",
         "user=\"u2\" bot=\"elena\" details: expected"},
        {"UPDATE strategic_conversation_patterns SET confidence = 0.0005 WHERE user_id = 'u2'",
         "confidence: expected"},
        {"UPDATE strategic_conversation_patterns SET state_flags = NULL WHERE user_id = 'u2'",
         "state_flags: expected"},
        {"UPDATE strategic_conversation_patterns SET as_of = NULL WHERE user_id = 'u2'",
         "as_of: expected a time, got NULL"},
        {"DELETE FROM strategic_conversation_patterns WHERE user_id = 'u0'",
         "user=\"u0\" bot=\"elena\" (row): expected a row, got no row"},
        {"UPDATE strategic_conversation_patterns SET user_id = 'ghost' WHERE user_id = 'u0'",
         "user=\"ghost\" bot=\"elena\" (row): expected no row, got a row"},
        {"DELETE FROM message WHERE id = 'm150'", "event_count: expected"},
        {"UPDATE message SET body = 'entirely other words?' WHERE id = 'm300'",
         "communication_style: expected"},
    };
    struct fixture f = fixture_open("differences");
    struct config *c = load(&f);
    assert_run(&f, "migrate up", CLI_OK, "applied", "");
    fill_source(&f);
    write_rows(&f, c, clock_wall_us(&clock_real));
    sql(&f, "CREATE TABLE message_before AS TABLE message");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        sql(&f, "CREATE TABLE h AS TABLE strategic_memory_health;"
                "CREATE TABLE p AS TABLE strategic_conversation_patterns");
        sql(&f, cases[i].damage);
        assert_run(&f, "verify", CLI_FAILED, cases[i].found, "");
        sql(&f, "TRUNCATE strategic_memory_health, strategic_conversation_patterns, message;"
                "INSERT INTO strategic_memory_health TABLE h; DROP TABLE h;"
                "INSERT INTO strategic_conversation_patterns TABLE p; DROP TABLE p;"
                "INSERT INTO message TABLE message_before");
        assert_run(&f, "verify", CLI_OK, "0 differ, 0 missing", "");
    }
    json_t *root = run_json(&f, "verify --json", CLI_OK);
    assert_true(json_is_true(json_object_get(root, "ok")));
    assert_int_equal(json_integer_value(json_object_get(root, "equal")), 13);
    json_decref(root);
    config_free(c);
    fixture_close(&f);
}

/* Wrong options of verify and dlq are wrong use; without a state there are no dead letters, without
 * the cache tables there is nothing to verify. */
static void test_odd_options_and_missing_state(void **state)
{
    (void)state;
    struct fixture f = fixture_open("odd");
    assert_run(&f, "verify --sample 0", CLI_USAGE, "", "is not a number above 0");
    assert_run(&f, "verify --sample 3 --all", CLI_USAGE, "", "exclude each other");
    assert_run(&f, "verify --wait 3", CLI_USAGE, "", "needs a unit");
    assert_run(&f, "dlq list", CLI_OK, "no dead letters", "");
    assert_run(&f, "dlq list --json", CLI_OK, "[]", "");
    assert_run(&f, "dlq show x", CLI_FAILED, "", "no dead letter \"x\"");
    assert_run(&f, "dlq show", CLI_USAGE, "", "show needs an ID");
    assert_run(&f, "dlq burn", CLI_USAGE, "", "\"burn\" is none of list, show, retry and drop");
    assert_run(&f, "dlq drop", CLI_USAGE, "", "drop needs IDs");
    assert_run(&f, "dlq retry x --all", CLI_USAGE, "", "not both");
    assert_run(&f, "dlq list --limit 0", CLI_USAGE, "", "--limit needs a number above 0");
    assert_run(&f, "dlq drop --all", CLI_OK, "dropped 0", "");
    assert_run(&f, "dlq retry --all --json", CLI_OK, "\"retried\": 0", "");
    struct config *c = load(&f);
    make_state(c);
    assert_run(&f, "verify", CLI_FAILED, "", "strategic_memory_health");
    config_free(c);
    fixture_close(&f);
}

int main(void)
{
    unsetenv("DATABASE_URL");
    unsetenv("WARMPATH_CONFIG");
    bool skip = false;
    cluster = pgcluster_open(&skip);
    if (!cluster)
        return skip ? 77 : 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_migrations_go_up_and_down),
        cmocka_unit_test(test_check_config_finds_unknown_columns),
        cmocka_unit_test(test_doctor_names_what_mends_a_failure),
        cmocka_unit_test(test_status_works_before_and_after_the_first_run),
        cmocka_unit_test(test_verify_finds_rows_of_the_engines_equal),
        cmocka_unit_test(test_verify_says_that_there_are_no_epochs_to_compute_with),
        cmocka_unit_test(test_verify_judges_a_row_at_its_own_time),
        cmocka_unit_test(test_verify_finds_every_kind_of_difference),
        cmocka_unit_test(test_odd_options_and_missing_state),
    };
    int failed = cmocka_run_group_tests_name("server/commands", tests, NULL, NULL);
    pgcluster_close(cluster);
    return failed;
}
