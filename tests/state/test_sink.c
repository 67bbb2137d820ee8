/* tests/state/test_sink.c - the sink against a real server: what ends up in the tables, what is
 * told to the submitter and to listeners, and what survives a fence, bad data and a crash of the
 * server. */
#include "state/sink.h"

#include "core/counters.h"
#include "core/limits.h"
#include "core/pg.h"
#include "engines/tables.h"
#include "state/fault.h"
#include "state/migrate.h"
#include "tests/support/pgcluster.h"
#include "tests/support/sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define TTL_US    (300 * US_PER_SECOND)
#define AS_OF_US  INT64_C(1767622800123456)
#define QUEUE_MAX 2000

/* The real table list, and one table by window that no engine fills yet. */
static struct table_def tables_used[3];
enum { HEALTH, PATTERNS, PERFORMANCE };

static struct pgcluster *cluster;
static char *conninfo;
static PGconn *db;
static struct sink *sink;

static void freep(char **text)
{
    free(*text);
}
#define TEXT CLEANUP(freep) char *

static void ignore_line(void *ctx, const char *line)
{
    (void)ctx;
    (void)line;
}

/* Of the sinks that start() makes; 0 = the default. */
static int64_t silence_us, keep_us;
static enum ttl_mode ttl_mode;

static enum status (*committed)(void *ctx, const struct announcement *list, size_t n,
                                struct error *err); /* of the sinks that start() makes */

static struct sink *start(uint64_t epoch)
{
    struct sink_config cfg = {
        .conninfo = conninfo,
        .pipeline = "main",
        .epoch = epoch,
        .tables = tables_used,
        .n_tables = 3,
        .ttl_us = TTL_US,
        .queue_rows_max = QUEUE_MAX,
        .clock = &clock_real,
        .slot = "warmpath_main",
        .slot_birth = 0x100,
        .silence_us = silence_us,
        .committed = committed,
        .ttl_mode = ttl_mode,
        .keep_us = keep_us,
    };
    struct sink *s = NULL;
    struct error err = {0};
    if (sink_start(&cfg, &s, &err))
        fail_msg("%s", err.text);
    return s;
}

static int fresh(void **state)
{
    (void)state;
    conninfo = pgcluster_database(cluster, "test_sink");
    db = sql_open(conninfo);
    if (migrate_up(&migrate_cache, conninfo, ignore_line, NULL, NULL))
        return -1;
    sql_run(db, "INSERT INTO strategic_epoch VALUES ('main', 1)");
    sink = start(1);
    return 0;
}

static int finished(void **state)
{
    (void)state;
    sink_stop(TAKE(sink), 5 * US_PER_SECOND);
    silence_us = 0;
    committed = NULL;
    keep_us = 0;
    ttl_mode = TTL_STRICT;
    enum status st = fault_arm(NULL, NULL);
    sql_close(TAKE(db));
    free(TAKE(conninfo));
    return (int)st;
}

/* ---- making items, waiting for results ---- */

static struct sink_item make_item(uint32_t table, const char *user, uint64_t version)
{
    struct sink_item item = {
        .key_id = version,
        .worker = 3,
        .table = table,
        .partition = 7,
        .payload_hash = version * 1000,
        .reason = "count",
    };
    struct row *r = &item.row;
    row_init(r, &tables_used[table]);
    assert_int_equal(row_set_key(r, str_from(user), STR("bot")), STATUS_OK);
    r->row_version = version;
    r->as_of_us = AS_OF_US;
    r->valid_until_us = AS_OF_US + US_PER_HOUR;
    r->window_hours = tables_used[table].by_window ? 168 : 0;
    r->source_lsn = UINT64_C(0x16B374D848);
    r->event_count = 4;
    r->engine_version = 2;
    r->confidence = 0.25;
    r->state_flags = 4;
    return item;
}

/* A finished row of memory health with a snapshot that tells its version. */
static struct sink_item health(const char *user, uint64_t version)
{
    struct sink_item item = make_item(HEALTH, user, version);
    char json[64];
    snprintf(json, sizeof(json), "{\"v\":%llu}", (unsigned long long)version);
    assert_int_equal(row_set_json(&item.row, MH_MEMORY_SNAPSHOT, str_from(json)), STATUS_OK);
    row_set_float(&item.row, MH_AVG_MEMORY_AGE_HOURS, 0.1);
    assert_int_equal(row_set_text(&item.row, MH_RETRIEVAL_FREQUENCY_TREND, STR("a\"b\\c,{}")),
                     STATUS_OK);
    assert_int_equal(row_set_null(&item.row, MH_FORGETTING_RISK_MEMORIES, "have 3, need 5"),
                     STATUS_OK);
    assert_int_equal(row_set_null(&item.row, MH_TOPIC_RELEVANCE_DRIFT, "have 3, need 5"),
                     STATUS_OK);
    assert_int_equal(row_finish(&item.row), STATUS_OK);
    return item;
}

static struct sink_item touch(const char *user, uint64_t version)
{
    struct sink_item item = health(user, version);
    item.touch = true;
    return item;
}

static struct sink_item performance(uint64_t version)
{
    struct sink_item item = make_item(PERFORMANCE, "", version);
    row_set_float(&item.row, 0, 0.5);
    assert_int_equal(row_set_text(&item.row, 1, STR("stable")), STATUS_OK);
    assert_int_equal(row_finish(&item.row), STATUS_OK);
    return item;
}

static void submit(struct sink_item *items, size_t n)
{
    assert_int_equal(sink_submit(sink, items, n), STATUS_OK);
}

static void pause_1ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Waits for n results of worker 3; out may be NULL. */
static void collect(struct sink_result *out, size_t n)
{
    struct sink_result dropped[QUEUE_MAX];
    size_t got = 0;
    for (int i = 0; i < 60000 && got < n; i++) {
        got += sink_poll(sink, 3, (out ? out : dropped) + got, n - got);
        if (got < n)
            pause_1ms();
    }
    if (got < n) {
        struct error err = {.text = "no error"};
        (void)sink_retrying(sink, &err);
        (void)sink_health(sink, &err);
        fail_msg("%zu of %zu results: %s", got, n, err.text);
    }
}

static struct sink_result write_one(struct sink_item item)
{
    struct sink_result r;
    submit(&item, 1);
    collect(&r, 1);
    return r;
}

static void wait_for_health(enum status st)
{
    for (int i = 0; i < 30000 && sink_health(sink, NULL) != st; i++)
        pause_1ms();
    assert_int_equal(sink_health(sink, NULL), st);
}

/* ---- rows ---- */

static void test_a_row_arrives_with_every_column(void **state)
{
    (void)state;
    struct sink_result r = write_one(health("u1", 5));
    assert_int_equal(r.outcome, SINK_WRITTEN);
    assert_int_equal(r.key_id, 5);
    assert_int_equal(r.worker, 3);
    assert_int_equal(r.row_version, 5);
    assert_int_equal(r.payload_hash, 5000);
    TEXT row = sql_text(
        db, "SELECT user_id, bot_name, memory_snapshot, avg_memory_age_hours,"
            " retrieval_frequency_trend, forgetting_risk_memories, topic_relevance_drift,"
            " as_of AT TIME ZONE 'UTC', source_lsn, row_version, event_count, engine_version,"
            " confidence, state_flags, valid_until - as_of, invalidated_at, details,"
            " expires_at - computed_at, computed_at <= clock_timestamp()"
            " FROM strategic_memory_health");
    assert_string_equal(row, "u1|bot|{\"v\": 5}|0.1|a\"b\\c,{}|-|-|2026-01-05 14:20:00.123456|"
                             "16/B374D848|5|4|2|0.25|4|01:00:00|-|{\"reason\": "
                             "{\"topic_relevance_drift\": \"have 3, need 5\", "
                             "\"forgetting_risk_memories\": \"have 3, need 5\"}}|00:05:00|t");
}

static void test_an_older_row_never_replaces_a_newer_one(void **state)
{
    (void)state;
    uint64_t stale = COUNTER_GET(rows_stale);
    (void)write_one(health("u", 5));
    struct sink_item older = health("u", 4);
    older.row.as_of_us += US_PER_SECOND; /* does not make up for the version */
    assert_int_equal(write_one(older).outcome, SINK_WRITTEN);
    assert_int_equal(COUNTER_GET(rows_stale) - stale, 1);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_memory_health"), 5);
    /* The same version passes only with a later T. */
    struct sink_item later = health("u", 5);
    later.row.as_of_us += 1;
    (void)write_one(later);
    TEXT as_of = sql_text(db, "SELECT to_char(as_of, 'US') FROM strategic_memory_health");
    assert_string_equal(as_of, "123457");
}

static void test_a_window_table_is_keyed_by_bot_and_window(void **state)
{
    (void)state;
    assert_int_equal(write_one(performance(1)).outcome, SINK_WRITTEN);
    assert_int_equal(write_one(performance(2)).outcome, SINK_WRITTEN);
    TEXT row = sql_text(db, "SELECT bot_name, time_window_hours, engagement_score_avg,"
                            " quality_trend, row_version FROM strategic_character_performance");
    assert_string_equal(row, "bot|168|0.5|stable|2");
}

static void test_a_touch_moves_the_expiry_and_keeps_the_content(void **state)
{
    (void)state;
    (void)write_one(health("u", 5));
    sql_run(db, "UPDATE strategic_memory_health SET expires_at = now() - interval '1 h'");
    struct sink_item item = touch("u", 6);
    item.row.as_of_us += US_PER_SECOND;
    assert_int_equal(write_one(item).outcome, SINK_TOUCHED);
    TEXT row = sql_text(db, "SELECT memory_snapshot, row_version, expires_at > now(),"
                            " to_char(as_of, 'SS') FROM strategic_memory_health");
    assert_string_equal(row, "{\"v\": 5}|6|t|01");
}

static void test_a_touch_of_no_row_is_missing_and_of_a_newer_row_is_not(void **state)
{
    (void)state;
    (void)write_one(health("u", 5));
    struct sink_item items[] = {touch("nobody", 6), touch("u", 4)};
    struct sink_result r[2];
    submit(items, 2);
    collect(r, 2);
    assert_int_equal(r[0].outcome + r[1].outcome, SINK_MISSING + SINK_TOUCHED);
    size_t missing = r[0].outcome == SINK_MISSING ? 0 : 1;
    assert_int_equal(r[missing].key_id, 6);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_memory_health"), 5);
}

static void test_an_invalidated_row_must_be_written_whole(void **state)
{
    (void)state;
    (void)write_one(health("u", 5));
    sql_run(db,
            "UPDATE strategic_memory_health SET invalidated_at = now(), memory_snapshot = '{}'");
    assert_int_equal(write_one(touch("u", 6)).outcome, SINK_MISSING);
    struct sink_item whole = health("u", 7);
    whole.cleared_us = clock_wall_us(&clock_real) + US_PER_HOUR;
    assert_int_equal(write_one(whole).outcome, SINK_WRITTEN);
    TEXT row = sql_text(db, "SELECT memory_snapshot, invalidated_at FROM strategic_memory_health");
    assert_string_equal(row, "{\"v\": 7}|-");
}

/* Computed by a worker that has not seen why the row is wrong: it must not bring the words back. */
static void test_a_row_stays_invalid_until_its_cause_was_seen(void **state)
{
    static const char look[] = "SELECT memory_snapshot, expires_at > now(), row_version,"
                               " extract(epoch FROM invalidated_at) FROM strategic_memory_health";
    (void)state;
    (void)write_one(health("u", 5));
    sql_run(db, "UPDATE strategic_memory_health SET invalidated_at = to_timestamp(1000),"
                " expires_at = to_timestamp(1000), memory_snapshot = '{}'");
    (void)write_one(health("u", 6)); /* of nothing */
    struct sink_item earlier = health("u", 7);
    earlier.cleared_us = 1000 * US_PER_SECOND - 1; /* of an earlier one */
    (void)write_one(earlier);
    struct sink_item older = health("u", 4);
    older.cleared_us = 1000 * US_PER_SECOND; /* of this one, but the row is not the newest */
    (void)write_one(older);
    TEXT still = sql_text(db, look);
    assert_string_equal(still, "{}|f|5|1000.000000");
    struct sink_item both[] = {health("u", 8), health("v", 9)};
    both[0].cleared_us = 1000 * US_PER_SECOND;
    both[1].cleared_us = 1000 * US_PER_SECOND; /* new, and so nothing to clear */
    struct sink_result r[2];
    submit(both, 2);
    collect(r, 2);
    TEXT again = sql_text(db, "SELECT string_agg(memory_snapshot::text, '' ORDER BY user_id),"
                              " bool_and(expires_at > now()), count(invalidated_at)"
                              " FROM strategic_memory_health");
    assert_string_equal(again, "{\"v\": 8}{\"v\": 9}|t|0");
}

/* A commit is read from the log before the server shows it: who has applied it may be here while
 * the row is still locked, and looks as it did before. */
static void test_an_invalidation_is_cleared_while_it_is_being_committed(void **state)
{
    (void)state;
    (void)write_one(health("u", 5));
    PGconn *application = sql_open(conninfo);
    sql_run(application, "BEGIN");
    sql_run(application, "UPDATE strategic_memory_health SET invalidated_at = to_timestamp(1000),"
                         " memory_snapshot = '{}'");
    struct sink_item item = health("u", 6);
    item.cleared_us = 1000 * US_PER_SECOND;
    submit(&item, 1);
    int64_t until = clock_mono_us(&clock_real) + 60 * US_PER_SECOND;
    while (sql_number(db, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") ==
           0)
        assert_true(clock_mono_us(&clock_real) < until);
    sql_run(application, "COMMIT");
    sql_close(application);
    struct sink_result r;
    collect(&r, 1);
    TEXT row = sql_text(db, "SELECT memory_snapshot, invalidated_at FROM strategic_memory_health");
    assert_string_equal(row, "{\"v\": 6}|-");
}

static void test_a_removed_row_goes_unless_it_is_newer(void **state)
{
    (void)state;
    (void)write_one(health("u", 5));
    struct sink_item old = health("u", 4);
    old.remove = true;
    assert_int_equal(write_one(old).outcome, SINK_WRITTEN);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 1);
    struct sink_item now = health("u", 6);
    now.remove = true;
    assert_int_equal(write_one(now).outcome, SINK_WRITTEN);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 0);
    struct sink_item again = health("u", 7);
    again.remove = true;
    assert_int_equal(write_one(again).outcome, SINK_WRITTEN);
}

static void test_of_one_key_the_newest_wins_and_all_get_results(void **state)
{
    (void)state;
    struct sink_item items[] = {health("u", 2), touch("u", 4), health("u", 3), touch("u", 1)};
    struct sink_result r[4];
    submit(items, 4);
    collect(r, 4);
    int touched = 0;
    for (int i = 0; i < 4; i++) {
        touched += r[i].outcome == SINK_TOUCHED;
        assert_true(r[i].outcome == SINK_TOUCHED || r[i].outcome == SINK_WRITTEN);
    }
    assert_int_equal(touched, 2);
    TEXT row = sql_text(db, "SELECT memory_snapshot, row_version FROM strategic_memory_health");
    assert_string_equal(row, "{\"v\": 3}|4");
}

static void test_a_first_row_is_entered_as_activity_once(void **state)
{
    (void)state;
    struct sink_item a = health("u", 1), b = health("u", 2), w = performance(3);
    a.first = b.first = w.first = true;
    (void)write_one(a);
    (void)write_one(b);
    (void)write_one(w);
    TEXT activity =
        sql_text(db, "SELECT user_id, bot_name, shard, first_seen IS NOT NULL, opted_out"
                     " FROM strategic_key_activity");
    assert_string_equal(activity, "u|bot|7|t|f");
}

/* What was computed before the user was forgotten is not written after it, by whatever way it
 * comes; what knows of the request is, and nobody else's rows are touched. */
static void test_rows_from_before_a_user_was_forgotten_are_not_written(void **state)
{
    (void)state;
#define ROWS \
    "SELECT string_agg(user_id || row_version, ' ' ORDER BY user_id) FROM strategic_memory_health"
    (void)write_one(health("gone", 1));
    (void)write_one(health("stays", 2));
    sql_run(db, "SELECT strategic_forget('gone')");
    TEXT forgotten = sql_text(db, ROWS);
    assert_string_equal(forgotten, "stays2");
    struct sink_item items[2] = {health("gone", 3), health("stays", 4)};
    items[0].first = items[0].told = true;
    submit(items, 2);
    collect(NULL, 2);
    TEXT after = sql_text(db, ROWS " UNION ALL SELECT count(*)::text FROM strategic_key_activity");
    assert_string_equal(after, "stays4\n0");
    struct sink_item back = health("gone", 5);
    TEXT token = sql_text(db, "SELECT token FROM strategic_erasure");
    back.erased_us = strtoll(token, NULL, 10);
    (void)write_one(back);
    TEXT new = sql_text(db, ROWS);
    assert_string_equal(new, "gone5 stays4");
    /* An old one behind it does no harm either. */
    (void)write_one(health("gone", 4));
    TEXT last = sql_text(db, ROWS);
    assert_string_equal(last, "gone5 stays4");
}

/* Readers must know it before a bot begins a conversation, and that it is allowed again. */
static void test_a_users_wish_is_entered_as_activity(void **state)
{
    (void)state;
#define WISHES \
    "SELECT string_agg(user_id || opted_out, ' ' ORDER BY user_id) FROM strategic_key_activity"
    struct sink_item first = health("a", 1), born = health("b", 2);
    first.first = born.first = born.opted_out = true;
    (void)write_one(first);
    (void)write_one(born);
    TEXT before = sql_text(db, WISHES);
    assert_string_equal(before, "afalse btrue");
    /* Of two words about the same user in one batch the newest counts. */
    struct sink_item items[4] = {health("a", 5), health("a", 4), health("b", 6), health("c", 7)};
    for (size_t i = 0; i < 4; i++)
        items[i].told = true;
    items[0].opted_out = true;
    items[3].opted_out = items[3].remove = true;
    submit(items, 4);
    collect(NULL, 4);
    TEXT after = sql_text(db, WISHES);
    assert_string_equal(after, "atrue bfalse ctrue");
}

static struct sink_item of_character(struct sink_item item, int64_t defined_us, uint64_t definition)
{
    item.character = (struct sink_character){defined_us, (int64_t)definition, definition};
    return item;
}

/* freshness of the bot's own row: that of readers, but for the lifetime. */
#define OWN_ROW                                                                                \
    "SELECT CASE WHEN p.computed_at < b.character_changed_at THEN 'invalid' ELSE 'valid' END," \
    " b.character_version FROM strategic_character_performance p"                              \
    " JOIN strategic_bot_epoch b USING (bot_name)"

static void test_a_new_character_invalidates_what_was_computed_before(void **state)
{
    (void)state;
    const int64_t t = INT64_C(1767600000) * US_PER_SECOND;
    (void)write_one(performance(1));
    /* A user's row of another worker brings it first. */
    (void)write_one(of_character(health("u", 2), t, 7));
    TEXT before = sql_text(db, OWN_ROW);
    assert_string_equal(before, "invalid|7");
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health h"
                                    " JOIN strategic_bot_epoch b USING (bot_name)"
                                    " WHERE h.computed_at < b.character_changed_at"),
                     0);
    /* The bot's own worker has not heard of it: newer, but of the character before. */
    (void)write_one(performance(3));
    TEXT outdated = sql_text(db, OWN_ROW);
    assert_string_equal(outdated, "invalid|7");
    (void)write_one(of_character(performance(4), t, 7));
    TEXT valid = sql_text(db, OWN_ROW);
    assert_string_equal(valid, "valid|7");
    /* The same said again, later, and another one that is older, change nothing. */
    TEXT changed = sql_text(db, "SELECT character_changed_at FROM strategic_bot_epoch");
    (void)write_one(of_character(health("u", 5), t + 1, 7));
    (void)write_one(of_character(health("u", 6), t - 1, 6));
    TEXT still = sql_text(db, "SELECT character_changed_at FROM strategic_bot_epoch");
    assert_string_equal(still, changed);
    (void)write_one(of_character(health("u", 7), t + 2, 8));
    TEXT after = sql_text(db, OWN_ROW);
    assert_string_equal(after, "invalid|8");
}

static void test_many_rows_of_several_tables_go_in_batches(void **state)
{
    (void)state;
    uint64_t batches = COUNTER_GET(sink_batches);
    struct sink_item items[1500];
    for (size_t i = 0; i < 1500; i++) {
        char user[16];
        snprintf(user, sizeof(user), "u%04zu", (i * 7919) % 1500);
        items[i] = health(user, i + 1);
    }
    submit(items, 1500);
    collect(NULL, 1500);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 1500);
    assert_in_range(COUNTER_GET(sink_batches) - batches, 3, 1500);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_progress"), 1500);
}

/* ---- progress, latency ---- */

static void test_progress_is_written_with_and_without_rows(void **state)
{
    (void)state;
    int64_t caught_up[LIMIT_PARTITIONS];
    for (int i = 0; i < LIMIT_PARTITIONS; i++)
        caught_up[i] = AS_OF_US + i;
    sink_progress(sink, caught_up, UINT64_C(0x16B374D848), 42);
    assert_true(sql_wait_until(db, "SELECT count(*) = 64 FROM strategic_processor"));
    assert_int_equal(sql_number(db, "SELECT sum(to_char(caught_up_to, 'US')::int - 123456 - shard)"
                                    " FROM strategic_processor"),
                     0);
    (void)write_one(health("u", 9));
    TEXT progress = sql_text(db, "SELECT pipeline, epoch, slot, slot_birth, covered_lsn,"
                                 " row_version, events_applied FROM strategic_progress");
    assert_string_equal(progress, "main|1|warmpath_main|0/100|16/B374D848|9|42");
}

static void test_latency_counts_rows_with_a_commit_time(void **state)
{
    (void)state;
    int64_t p50 = 0, p99 = 0;
    (void)write_one(health("u", 1));
    assert_int_equal(sink_latency(sink, &p50, &p99), 0);
    struct sink_item item = health("u", 2);
    item.commit_us = clock_wall_us(&clock_real) - 5 * US_PER_SECOND;
    (void)write_one(item);
    assert_int_equal(sink_latency(sink, &p50, &p99), 1);
    assert_in_range(p50, 5 * US_PER_SECOND, 60 * US_PER_SECOND);
    assert_int_equal(p50, p99);
}

/* ---- notifications ---- */

static PGnotify *next_notification(PGconn *conn)
{
    for (int i = 0; i < 30000; i++) {
        assert_true(PQconsumeInput(conn));
        PGnotify *n = PQnotifies(conn);
        if (n)
            return n;
        pause_1ms();
    }
    fail_msg("no notification came");
    return NULL;
}

static void expect_notification(PGconn *conn, const char *payload)
{
    PGnotify *n = next_notification(conn);
    if (!n)
        return;
    assert_string_equal(n->relname, "strategic_cache");
    assert_string_equal(n->extra, payload);
    PQfreemem(n);
}

static void test_listeners_hear_once_per_key_after_the_commit(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *listener = sql_open(conninfo);
    sql_run(listener, "LISTEN strategic_cache");
    struct sink_item patterns = make_item(PATTERNS, "u\"1", 8);
    for (size_t i = 0; i < tables_used[PATTERNS].n_columns; i++)
        assert_int_equal(row_set_null(&patterns.row, i, "none"), STATUS_OK);
    assert_int_equal(row_finish(&patterns.row), STATUS_OK);
    patterns.reason = "predicate";
    struct sink_item items[] = {health("u\"1", 7), patterns, health("u2", 3), performance(2)};
    submit(items, 4);
    collect(NULL, 4);
    expect_notification(listener,
                        "{\"bot_name\":\"bot\",\"user_id\":null,"
                        "\"tables\":[\"strategic_character_performance\"],\"row_version\":2,"
                        "\"reason\":\"count\"}");
    expect_notification(listener, "{\"bot_name\":\"bot\",\"user_id\":\"u\\\"1\","
                                  "\"tables\":[\"strategic_memory_health\","
                                  "\"strategic_conversation_patterns\"],\"row_version\":8,"
                                  "\"reason\":\"predicate\"}");
    expect_notification(listener, "{\"bot_name\":\"bot\",\"user_id\":\"u2\","
                                  "\"tables\":[\"strategic_memory_health\"],\"row_version\":3,"
                                  "\"reason\":\"count\"}");
}

static void test_the_longest_ids_still_fit_into_a_notification(void **state)
{
    (void)state;
    char user[LIMIT_ID_BYTES + 1];
    memset(user, '\x01', sizeof(user) - 1); /* six bytes each in JSON */
    user[sizeof(user) - 1] = '\0';
    assert_int_equal(write_one(health(user, 1)).outcome, SINK_WRITTEN);
}

/* ---- what is handed on ---- */

#define HEARD_MAX 64
static struct heard {
    char user[16];
    char tables[96];
    uint64_t version;
    long rows;       /* of that user, as another connection sees them */
    size_t answered; /* results that a worker could have had by then */
} heard[HEARD_MAX];
static size_t n_heard;

/* On the sink's thread; read when its results are there. */
static enum status hear(void *ctx, const struct announcement *list, size_t n, struct error *err)
{
    (void)ctx;
    (void)err;
    CLEANUP(sql_closep) PGconn *other = sql_open(conninfo);
    struct sink_result r[4];
    for (size_t i = 0; i < n && n_heard < HEARD_MAX; i++) {
        struct heard *h = &heard[n_heard++];
        snprintf(h->user, sizeof(h->user), STR_FMT, STR_ARGS(list[i].user));
        snprintf(h->tables, sizeof(h->tables), STR_FMT, STR_ARGS(list[i].tables));
        h->version = list[i].row_version;
        h->rows = sql_number(
            other, "SELECT count(*) FROM strategic_memory_health WHERE user_id = '%s'", h->user);
        h->answered = sink_poll(sink, 3, r, 4);
    }
    return STATUS_OK;
}

static void start_again(enum status (*fn)(void *ctx, const struct announcement *list, size_t n,
                                          struct error *err))
{
    sink_stop(TAKE(sink), 5 * US_PER_SECOND);
    n_heard = 0;
    committed = fn;
    sink = start(1);
}

static void test_what_is_committed_is_handed_on_before_its_results(void **state)
{
    (void)state;
    start_again(hear);
    struct sink_item items[] = {health("u1", 7), health("u2", 8)};
    submit(items, 2);
    collect(NULL, 2);
    assert_int_equal(n_heard, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(heard[i].rows, 1);
        assert_int_equal(heard[i].answered, 0);
        assert_int_equal(heard[i].version, 7 + i);
        assert_string_equal(heard[i].tables, "strategic_memory_health");
    }
}

/* Halves are written by table: the second of these rows goes before the first. */
static void test_the_versions_of_a_split_batch_do_not_fall(void **state)
{
    (void)state;
    start_again(hear);
    struct sink_item older = make_item(PATTERNS, "u", 1), bad = health("v", 3);
    for (size_t i = 0; i < tables_used[PATTERNS].n_columns; i++)
        assert_int_equal(row_set_null(&older.row, i, "none"), STATUS_OK);
    assert_int_equal(row_finish(&older.row), STATUS_OK);
    memcpy(bad.row.text.data + bad.row.values[MH_MEMORY_SNAPSHOT].offset, "[", 1);
    struct sink_item items[] = {older, health("u", 2), bad};
    submit(items, 3);
    collect(NULL, 3);
    assert_int_equal(n_heard, 2);
    assert_string_equal(heard[0].tables, "strategic_memory_health");
    assert_string_equal(heard[1].tables, "strategic_conversation_patterns");
    assert_int_equal(heard[0].version, 2);
    assert_int_equal(heard[1].version, 2);
}

static enum status refuse_to_hear(void *ctx, const struct announcement *list, size_t n,
                                  struct error *err)
{
    (void)ctx;
    (void)list;
    (void)n;
    return error_set(err, STATUS_IO, "the disk is full");
}

static void test_what_cannot_be_handed_on_is_not_done(void **state)
{
    (void)state;
    start_again(refuse_to_hear);
    struct sink_item item = health("u1", 7);
    submit(&item, 1);
    struct error err = {0};
    for (int i = 0; i < 30000 && !sink_health(sink, &err); i++)
        pause_1ms();
    assert_int_equal(err.code, STATUS_REFUSED);
    assert_string_equal(err.text, "the disk is full");
    struct sink_result r;
    assert_int_equal(sink_poll(sink, 3, &r, 1), 0);
}

/* ---- what goes wrong ---- */

static void test_a_row_with_refused_data_fails_alone(void **state)
{
    (void)state;
    struct sink_item items[101];
    for (size_t i = 0; i < 101; i++) {
        char user[16];
        snprintf(user, sizeof(user), "u%03zu", i);
        items[i] = health(user, i + 1);
    }
    /* Two keys whose JSON the server does not accept. */
    memcpy(items[40].row.text.data + items[40].row.values[MH_MEMORY_SNAPSHOT].offset, "[", 1);
    memcpy(items[99].row.text.data + items[99].row.values[MH_MEMORY_SNAPSHOT].offset, "[", 1);
    submit(items, 101);
    struct sink_result r[101];
    collect(r, 101);
    for (size_t i = 0; i < 101; i++) {
        bool bad = r[i].key_id == 41 || r[i].key_id == 100;
        assert_int_equal(r[i].outcome, bad ? SINK_FAILED : SINK_WRITTEN);
        if (bad) {
            assert_non_null(strstr(r[i].reason, "could not write strategic_memory_health"));
            assert_non_null(strstr(r[i].reason, "(22P02)"));
        }
    }
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 99);
    assert_int_equal(sink_health(sink, NULL), STATUS_OK);
}

static void test_a_sink_that_was_taken_over_writes_nothing(void **state)
{
    (void)state;
    (void)write_one(health("u", 1));
    sql_run(db, "UPDATE strategic_epoch SET epoch = 2");
    struct sink_item item = health("u", 2);
    submit(&item, 1);
    wait_for_health(STATUS_FENCED);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_memory_health"), 1);
    struct sink_item late = health("u", 3);
    assert_int_equal(sink_submit(sink, &late, 1), STATUS_FENCED);
    row_deinit(&late.row);
    /* Its heir goes on. */
    sink_stop(TAKE(sink), US_PER_SECOND);
    sink = start(2);
    assert_int_equal(write_one(health("u", 4)).outcome, SINK_WRITTEN);
}

static void test_a_missing_table_stops_the_sink_with_an_explanation(void **state)
{
    (void)state;
    (void)write_one(health("u", 1));
    sql_run(db, "ALTER TABLE strategic_memory_health DROP COLUMN details");
    struct sink_item item = health("u", 2);
    submit(&item, 1);
    wait_for_health(STATUS_REFUSED);
    struct error err = {0};
    (void)sink_health(sink, &err);
    assert_non_null(strstr(err.text, "warmpath migrate up"));
}

static void test_the_queue_is_bounded_until_results_are_taken(void **state)
{
    (void)state;
    struct sink_item *items = calloc(QUEUE_MAX, sizeof(*items));
    assert_non_null(items);
    for (size_t i = 0; i < QUEUE_MAX; i++)
        items[i] = health("u", i + 1);
    submit(items, QUEUE_MAX);
    assert_int_equal(sink_room(sink), 0);
    struct sink_item more = health("u", QUEUE_MAX + 1);
    assert_int_equal(sink_submit(sink, &more, 1), STATUS_AGAIN);
    collect(NULL, QUEUE_MAX);
    assert_int_equal(sink_room(sink), QUEUE_MAX);
    assert_int_equal(write_one(more).outcome, SINK_WRITTEN);
    free(items);
}

static void test_a_lost_answer_to_commit_is_sent_again_without_harm(void **state)
{
    (void)state;
    (void)write_one(health("a", 1));
    uint64_t stale = COUNTER_GET(rows_stale);
    assert_int_equal(fault_arm("sink_after_commit:1:fail", NULL), STATUS_OK);
    assert_int_equal(write_one(health("u", 2)).outcome, SINK_WRITTEN);
    assert_int_equal(COUNTER_GET(rows_stale) - stale, 1);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 2);
}

static void test_a_connection_lost_before_commit_writes_nothing_then_everything(void **state)
{
    (void)state;
    uint64_t retries = COUNTER_GET(sink_retries), stale = COUNTER_GET(rows_stale);
    assert_int_equal(fault_arm("sink_before_commit:1:fail", NULL), STATUS_OK);
    assert_int_equal(write_one(health("u", 2)).outcome, SINK_WRITTEN);
    assert_int_equal(COUNTER_GET(sink_retries) - retries, 1);
    assert_int_equal(COUNTER_GET(rows_stale), stale);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 1);
}

static void test_a_killed_backend_loses_nothing(void **state)
{
    (void)state;
    (void)write_one(health("u0", 1));
    sql_run(db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'warmpath sink'");
    assert_int_equal(write_one(health("u1", 2)).outcome, SINK_WRITTEN);
    assert_false(sink_retrying(sink, NULL));
}

static void test_a_lock_that_is_held_too_long_is_waited_for_again(void **state)
{
    (void)state;
    (void)write_one(health("u", 1));
    CLEANUP(sql_closep) PGconn *other = sql_open(conninfo);
    sql_run(other, "BEGIN; SELECT FROM strategic_memory_health FOR UPDATE");
    struct sink_item item = health("u", 2);
    submit(&item, 1);
    for (int i = 0; i < 30000 && !sink_retrying(sink, NULL); i++)
        pause_1ms();
    struct error err = {0};
    assert_true(sink_retrying(sink, &err));
    assert_non_null(strstr(err.text, "55P03"));
    sql_run(other, "COMMIT");
    collect(NULL, 1);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_memory_health"), 2);
}

/* Hands in 1000 rows one by one; the server crashes on the way and comes back. */
static void test_a_crash_of_the_server_in_the_middle_loses_nothing(void **state)
{
    (void)state;
    if (!pgcluster_is_private(cluster))
        skip();
    for (uint64_t i = 0; i < 1000; i++) {
        char user[16];
        snprintf(user, sizeof(user), "u%03u", (unsigned)(i % 200));
        struct sink_item item = health(user, i + 1);
        submit(&item, 1);
        if (i == 300)
            pgcluster_stop(cluster, true);
    }
    for (int i = 0; i < 30000 && !sink_retrying(sink, NULL); i++)
        pause_1ms();
    struct error err = {0};
    assert_true(sink_retrying(sink, &err));
    assert_int_equal(sink_health(sink, NULL), STATUS_OK);
    pgcluster_start(cluster);
    collect(NULL, 1000);
    sql_close(db);
    db = sql_open(conninfo);
    TEXT rows = sql_text(db, "SELECT count(*), min(row_version), max(row_version),"
                             " count(*) FILTER (WHERE memory_snapshot->>'v' = row_version::text)"
                             " FROM strategic_memory_health");
    assert_string_equal(rows, "200|801|1000|200");
}

/* ---- stopping ---- */

static void test_stopping_writes_what_was_handed_in(void **state)
{
    (void)state;
    struct sink_item items[1200];
    for (size_t i = 0; i < 1200; i++) {
        char user[16];
        snprintf(user, sizeof(user), "u%04zu", i);
        items[i] = health(user, i + 1);
    }
    submit(items, 1200);
    sink_stop(TAKE(sink), 60 * US_PER_SECOND);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 1200);
}

static void test_stopping_gives_up_at_its_deadline(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *other = sql_open(conninfo);
    sql_run(other, "BEGIN; LOCK strategic_memory_health");
    struct sink_item item = health("u", 1);
    submit(&item, 1);
    assert_true(sql_wait_until(db, "SELECT count(*) > 0 FROM pg_stat_activity"
                                   " WHERE application_name = 'warmpath sink'"
                                   " AND wait_event_type = 'Lock'"));
    int64_t before_us = clock_mono_us(&clock_real);
    sink_stop(TAKE(sink), US_PER_SECOND / 5);
    assert_true(clock_mono_us(&clock_real) - before_us < 4 * US_PER_SECOND);
}

static int make_tables(void **state)
{
    (void)state;
    tables_used[HEALTH] = tables[TABLE_MEMORY_HEALTH];
    tables_used[PATTERNS] = tables[TABLE_CONVERSATION_PATTERNS];
    tables_used[PERFORMANCE] = (struct table_def){
        .name = "strategic_character_performance",
        .by_window = true,
        .n_columns = 2,
        .columns = {{"engagement_score_avg", COLUMN_FLOAT}, {"quality_trend", COLUMN_TEXT}},
    };
    return 0;
}

/* Half a second is what a statement may take here, and a hundred rows take two. */
static void test_a_server_too_slow_for_a_batch_gets_smaller_ones(void **state)
{
    (void)state;
    sink_stop(TAKE(sink), US_PER_SECOND);
    silence_us = US_PER_SECOND;
    sink = start(1);
    sql_run(db, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END$$; "
                "CREATE TRIGGER slow BEFORE INSERT ON strategic_memory_health "
                "FOR EACH ROW EXECUTE FUNCTION slow()");
    struct sink_item items[100];
    for (size_t i = 0; i < 100; i++) {
        char user[16];
        snprintf(user, sizeof(user), "slow-%zu", i);
        items[i] = health(user, i + 1);
    }
    submit(items, 100);
    collect(NULL, 100);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_memory_health"), 100);
}

/* Rows whose engine says that they hold for longer expire then, others after the time to live. */
static void test_validity_makes_a_row_expire_when_it_ceases_to_hold(void **state)
{
    (void)state;
    sink_stop(TAKE(sink), US_PER_SECOND);
    ttl_mode = TTL_VALIDITY;
    sink = start(1);
    static const char lifetimes[] =
        "SELECT user_id, expires_at = valid_until, expires_at - computed_at = '5 min'"
        " FROM strategic_memory_health ORDER BY user_id";
    int64_t now_us = clock_wall_us(&clock_real);
    struct sink_item items[] = {health("long", 1), health("short", 2), health("silent", 3)};
    items[0].row.valid_until_us = now_us + US_PER_HOUR;
    items[1].row.valid_until_us = now_us + US_PER_SECOND;
    items[2].row.valid_until_us = 0;
    submit(items, 3);
    collect(NULL, 3);
    TEXT rows = sql_text(db, "%s", lifetimes);
    assert_string_equal(rows, "long|t|f\nshort|f|t\nsilent|-|t");
    /* A touch says it anew. */
    struct sink_item touches[] = {touch("long", 4), touch("short", 5)};
    touches[0].row.valid_until_us = now_us + US_PER_SECOND;
    touches[1].row.valid_until_us = now_us + 2 * US_PER_HOUR;
    submit(touches, 2);
    collect(NULL, 2);
    TEXT moved = sql_text(db, "%s", lifetimes);
    assert_string_equal(moved, "long|f|t\nshort|t|f\nsilent|-|t");
}

/* ---- the end of a row ---- */

/* Rows of users name0, name1, .. that expired so long ago, with their activity. */
static void bury(const char *table, const char *name, int n, const char *ago)
{
    sql_run(db,
            "INSERT INTO %s (user_id, bot_name%s, expires_at)"
            " SELECT '%s' || i, 'bot'%s, now() - interval '%s' FROM generate_series(1, %d) i",
            table, strcmp(table, "strategic_memory_health") == 0 ? ", memory_snapshot" : "", name,
            strcmp(table, "strategic_memory_health") == 0 ? ", '{}'" : "", ago, n);
    sql_run(db,
            "INSERT INTO strategic_key_activity (user_id, bot_name, shard)"
            " SELECT '%s' || i, 'bot', 1 FROM generate_series(1, %d) i ON CONFLICT DO NOTHING",
            name, n);
}

static void start_sweeping(void)
{
    sink_stop(TAKE(sink), US_PER_SECOND);
    keep_us = US_PER_HOUR;
    sink = start(1);
}

static void test_rows_that_expired_long_ago_are_deleted_in_batches(void **state)
{
    (void)state;
    bury("strategic_memory_health", "dead", 1100, "61 min");
    bury("strategic_memory_health", "stale", 3, "59 min");
    bury("strategic_conversation_patterns", "half", 1, "2 h");
    bury("strategic_memory_health", "half", 1, "1 min"); /* one of its two rows is still kept */
    bury("strategic_memory_behavior", "silent", 1, "2 h");
    sql_run(db, "UPDATE strategic_key_activity SET opted_out = true WHERE user_id = 'silent1'");
    sql_run(db, "INSERT INTO strategic_character_performance (bot_name, expires_at)"
                " VALUES ('gone', now() - interval '2 h'), ('kept', now())");
    uint64_t swept = COUNTER_GET(rows_swept);
    start_sweeping();
    /* A batch at a time, each behind a transaction with rows. */
    (void)write_one(health("first", 1));
    for (int i = 0; i < 30000 && COUNTER_GET(rows_swept) == swept; i++)
        pause_1ms();
    assert_in_range(COUNTER_GET(rows_swept) - swept, 1, 500);
    for (uint64_t v = 2; v < 4; v++)
        (void)write_one(health("first", v));
    assert_true(sql_wait_until(db, "SELECT count(*) = 5 FROM strategic_memory_health"));
    assert_true(sql_wait_until(db, "SELECT count(*) = 1 FROM strategic_character_performance"));
    TEXT left = sql_text(db, "SELECT user_id FROM strategic_memory_health ORDER BY user_id");
    assert_string_equal(left, "first\nhalf1\nstale1\nstale2\nstale3");
    TEXT bots = sql_text(db, "SELECT bot_name FROM strategic_character_performance");
    assert_string_equal(bots, "kept");
    assert_int_equal(sql_number(db, "SELECT count(*) FROM strategic_conversation_patterns"), 0);
    /* Who opted out is remembered, and who has a row. */
    TEXT alive = sql_text(db, "SELECT user_id FROM strategic_key_activity ORDER BY user_id");
    assert_string_equal(alive, "half1\nsilent1\nstale1\nstale2\nstale3");
    /* The worker finds out when it renews one. */
    assert_int_equal(write_one(touch("dead7", 9)).outcome, SINK_MISSING);
    struct sink_item again = health("dead7", 10);
    again.first = true;
    assert_int_equal(write_one(again).outcome, SINK_WRITTEN);
    assert_int_equal(
        sql_number(db, "SELECT count(*) FROM strategic_key_activity WHERE user_id = 'dead7'"), 1);
}

/* What the function asks of each table, as EXPLAIN sees it: the oldest first, from the index. */
static void test_dead_rows_are_found_by_the_index_on_expires_at(void **state)
{
    (void)state;
    bury("strategic_memory_health", "live", 20000, "-1 min");
    bury("strategic_memory_health", "dead", 20, "2 h");
    sql_run(db, "ANALYZE strategic_memory_health");
    TEXT plan = sql_text(db, "EXPLAIN (COSTS OFF) DELETE FROM strategic_memory_health t USING ("
                             " SELECT user_id, bot_name FROM strategic_memory_health"
                             " WHERE expires_at < now() - interval '1 h'"
                             " ORDER BY expires_at LIMIT 500) dead"
                             " WHERE t.user_id = dead.user_id AND t.bot_name = dead.bot_name"
                             " AND t.expires_at < now() - interval '1 h'");
    assert_non_null(strstr(plan, "Index Scan using idx_memory_health_expires"));
    assert_null(strstr(plan, "Seq Scan"));
    assert_null(strstr(plan, "Sort"));
    assert_int_equal(sql_number(db, "SELECT strategic_sweep('1 h', 500)"), 20);
}

/* A cache that was not migrated, or rights that were not granted: told, and nothing else stops. */
static void test_a_sweep_that_fails_stops_nothing(void **state)
{
    (void)state;
    sql_run(db, "DROP FUNCTION strategic_sweep(interval, int)");
    start_sweeping();
    assert_int_equal(write_one(health("u", 1)).outcome, SINK_WRITTEN);
    struct error why = {0};
    for (int i = 0; i < 30000 && !sink_sweep_failed(sink, &why); i++)
        pause_1ms();
    assert_non_null(strstr(why.text, "could not delete dead rows"));
    assert_non_null(strstr(why.text, "strategic_sweep"));
    assert_int_equal(write_one(health("u", 2)).outcome, SINK_WRITTEN);
    assert_int_equal(sink_health(sink, NULL), STATUS_OK);
}

#define SINK_TEST(fn) cmocka_unit_test_setup_teardown(fn, fresh, finished)

int main(void)
{
    bool skip_all = false;
    cluster = pgcluster_open(&skip_all);
    if (!cluster)
        return skip_all ? 77 : 1;
    const struct CMUnitTest tests[] = {
        SINK_TEST(test_a_row_arrives_with_every_column),
        SINK_TEST(test_an_older_row_never_replaces_a_newer_one),
        SINK_TEST(test_a_window_table_is_keyed_by_bot_and_window),
        SINK_TEST(test_a_touch_moves_the_expiry_and_keeps_the_content),
        SINK_TEST(test_a_touch_of_no_row_is_missing_and_of_a_newer_row_is_not),
        SINK_TEST(test_an_invalidated_row_must_be_written_whole),
        SINK_TEST(test_a_row_stays_invalid_until_its_cause_was_seen),
        SINK_TEST(test_an_invalidation_is_cleared_while_it_is_being_committed),
        SINK_TEST(test_a_removed_row_goes_unless_it_is_newer),
        SINK_TEST(test_validity_makes_a_row_expire_when_it_ceases_to_hold),
        SINK_TEST(test_rows_that_expired_long_ago_are_deleted_in_batches),
        SINK_TEST(test_dead_rows_are_found_by_the_index_on_expires_at),
        SINK_TEST(test_a_sweep_that_fails_stops_nothing),
        SINK_TEST(test_of_one_key_the_newest_wins_and_all_get_results),
        SINK_TEST(test_a_first_row_is_entered_as_activity_once),
        SINK_TEST(test_rows_from_before_a_user_was_forgotten_are_not_written),
        SINK_TEST(test_a_users_wish_is_entered_as_activity),
        SINK_TEST(test_a_new_character_invalidates_what_was_computed_before),
        SINK_TEST(test_many_rows_of_several_tables_go_in_batches),
        SINK_TEST(test_progress_is_written_with_and_without_rows),
        SINK_TEST(test_latency_counts_rows_with_a_commit_time),
        SINK_TEST(test_listeners_hear_once_per_key_after_the_commit),
        SINK_TEST(test_the_longest_ids_still_fit_into_a_notification),
        SINK_TEST(test_what_is_committed_is_handed_on_before_its_results),
        SINK_TEST(test_the_versions_of_a_split_batch_do_not_fall),
        SINK_TEST(test_what_cannot_be_handed_on_is_not_done),
        SINK_TEST(test_a_row_with_refused_data_fails_alone),
        SINK_TEST(test_a_sink_that_was_taken_over_writes_nothing),
        SINK_TEST(test_a_missing_table_stops_the_sink_with_an_explanation),
        SINK_TEST(test_the_queue_is_bounded_until_results_are_taken),
        SINK_TEST(test_a_lost_answer_to_commit_is_sent_again_without_harm),
        SINK_TEST(test_a_connection_lost_before_commit_writes_nothing_then_everything),
        SINK_TEST(test_a_killed_backend_loses_nothing),
        SINK_TEST(test_a_lock_that_is_held_too_long_is_waited_for_again),
        SINK_TEST(test_a_crash_of_the_server_in_the_middle_loses_nothing),
        SINK_TEST(test_a_server_too_slow_for_a_batch_gets_smaller_ones),
        SINK_TEST(test_stopping_writes_what_was_handed_in),
        SINK_TEST(test_stopping_gives_up_at_its_deadline),
    };
    int failed = cmocka_run_group_tests_name("state/sink", tests, make_tables, NULL);
    pgcluster_close(cluster);
    return failed;
}
