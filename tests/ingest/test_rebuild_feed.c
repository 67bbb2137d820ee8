/*
 * tests/ingest/test_rebuild_feed.c - rows that are read again join the stream between their
 * watermarks: in order, at the high one's position, never twice and never half.
 *
 * The server's messages are written here; both threads' calls are made by the test, in turn.
 */
#include "ingest/stream.h"
#include "tests/ingest/wire.h"

#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define T0       INT64_C(1767621600000000)
#define WIRE_XID 4711u /* of every transaction: wire_begin() */

static struct mapping_set mappings;
static struct stream *stream;
static struct rebuild_feed *feed;
static struct event_arena *arena;
static struct buf wire;
static struct buf seen;
static int full; /* how many calls are answered AGAIN */
static struct error err;

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
    char line[256];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    assert_int_equal(buf_append(&seen, line, strlen(line)), STATUS_OK);
}

static enum status on_event(void *ctx, const struct event *e, struct position pos,
                            int64_t commit_us, struct error *error)
{
    (void)ctx;
    (void)commit_us;
    (void)error;
    note("event " STR_FMT " %" PRIX64 "\n", STR_ARGS(e->id), pos.lsn);
    return STATUS_OK;
}

static enum status on_commit(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *error)
{
    (void)ctx;
    (void)commit_us;
    (void)error;
    note("commit %" PRIX64 "\n", end_lsn);
    return STATUS_OK;
}

static enum status on_rebuild(void *ctx, const struct rebuild_event *r, struct position pos,
                              int64_t commit_us, struct error *error)
{
    (void)ctx;
    (void)error;
    assert_int_equal(commit_us, T0);
    if (full > 0) {
        full--;
        return STATUS_AGAIN;
    }
    struct event e = {.id = STR("-")};
    event_arena_reset(arena);
    if (r->step == REBUILD_ROW)
        assert_int_equal(event_decode(r->event, arena, &e, NULL), STATUS_OK);
    assert_int_equal(r->types, 6);
    assert_int_equal(r->tables, 5);
    note("%s " STR_FMT "/" STR_FMT " " STR_FMT " %" PRIX64 ".%" PRIu64 "\n",
         r->step == REBUILD_BEGIN ? "begin"
         : r->step == REBUILD_ROW ? "row"
                                  : "end",
         STR_ARGS(r->user_id), STR_ARGS(r->bot_name), STR_ARGS(e.id), pos.lsn, pos.seq);
    return STATUS_OK;
}

static void on_idle(void *ctx, lsn_t wal_end, int64_t server_us)
{
    (void)ctx;
    (void)wal_end;
    (void)server_us;
}

static int64_t on_drained(void *ctx)
{
    (void)ctx;
    return INT64_MAX;
}

static lsn_t on_durable(void *ctx)
{
    (void)ctx;
    return 0;
}

static const struct receiver_ops receiver = {
    .event = on_event,
    .commit = on_commit,
    .idle = on_idle,
    .drained = on_drained,
    .durable = on_durable,
    .rebuild = on_rebuild,
};

static void map_chat(struct mapping *m)
{
    static const char *const columns[] = {"id", "user_id", "bot", "at", "role", "content"};
    (void)snprintf(m->schema, sizeof(m->schema), "public");
    (void)snprintf(m->table, sizeof(m->table), "chat");
    m->type = EVENT_MESSAGE;
    for (int f = FIELD_ID; f <= FIELD_CONTENT; f++) {
        m->fields[f].set = true;
        (void)snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", columns[f]);
    }
}

static void give(void)
{
    enum status st = stream_put(stream, wire_str(&wire), &err);
    for (int i = 0; st == STATUS_AGAIN && i < 100; i++) {
        assert_true(stream_feedback(stream)->outstanding);
        st = stream_retry(stream, &err);
    }
    if (st)
        fail_msg("%s", err.text);
}

static void frame(void)
{
    buf_reset(&wire);
    wire_xlog_data(&wire, 0x150, T0);
}

static void begin(lsn_t final_lsn)
{
    frame();
    wire_begin(&wire, final_lsn, T0);
    give();
}

static void commit(lsn_t final_lsn)
{
    frame();
    wire_commit(&wire, final_lsn, final_lsn + 0x30, T0);
    give();
}

static void describe(void)
{
    static const char *const columns[] = {"*id", "*user_id", "*bot", "at", "role", "content", NULL};
    frame();
    wire_relation(&wire, 1, "public", "chat", columns);
    give();
}

static void insert(lsn_t final_lsn, const char *user, const char *id)
{
    const char *const row[] = {id, user, "b", "2026-01-05 14:00:00+00", "user", "text"};
    begin(final_lsn);
    frame();
    wire_insert(&wire, 1, 6, row);
    give();
    commit(final_lsn);
}

static void watermark(lsn_t final_lsn, const char *prefix, const char *token)
{
    begin(final_lsn);
    frame();
    wire_message(&wire, true, final_lsn, prefix, token);
    give();
    commit(final_lsn);
}

static void assert_seen(const char *expected)
{
    assert_int_equal(buf_append(&seen, "", 1), STATUS_OK);
    assert_string_equal(seen.data, expected);
    buf_reset(&seen);
}

static struct rebuild_chunk *new_chunk(size_t bytes)
{
    struct rebuild_chunk *c = NULL;
    struct rebuild_chunk_config cfg = {.bytes_max = bytes};
    assert_int_equal(rebuild_chunk_new(&cfg, &c, NULL), STATUS_OK);
    assert_int_equal(rebuild_chunk_name(c, STR("ann")), STATUS_OK);
    return c;
}

/* The chunk of ann, with two rows that are read in the wrong order. */
static struct rebuild_chunk *open_chunk(const char *token, size_t recorded_bytes)
{
    struct rebuild_chunk *c = new_chunk(1 << 20);
    struct rebuild_open o = {
        .token = token, .recorded = new_chunk(recorded_bytes), .types = 6, .tables = 5};
    rebuild_feed_open(feed, &o);
    const char *const ids[] = {"r2", "r1"};
    for (int i = 0; i < 2; i++) {
        struct event e = {.type = EVENT_MESSAGE,
                          .id = str_from(ids[i]),
                          .user_id = STR("ann"),
                          .bot_name = STR("b"),
                          .at_us = T0 - i,
                          .u.message = {.role = ROLE_USER,
                                        .op = MESSAGE_INSERT,
                                        .content = STR("x"),
                                        .emotion_confidence = __builtin_nan("")}};
        assert_int_equal(rebuild_chunk_row(c, &e), STATUS_OK);
        e.user_id = STR("bob"); /* not of this chunk */
        assert_int_equal(rebuild_chunk_row(c, &e), STATUS_OK);
    }
    return c;
}

static enum rebuild_outcome outcome(void)
{
    lsn_t end = 0;
    uint64_t keys = 0;
    enum rebuild_outcome o = rebuild_feed_outcome(feed, &end, &keys);
    if (o == REBUILD_HANDED_ON)
        note("handed on %" PRIX64 " keys %" PRIu64 "\n", end, keys);
    return o;
}

static int setup(void **state)
{
    (void)state;
    buf_init(&wire, 1 << 20);
    buf_init(&seen, 1 << 20);
    full = 0;
    mappings = (struct mapping_set){.n = 1};
    map_chat(&mappings.tables[0]);
    assert_int_equal(event_arena_new(&arena, NULL), STATUS_OK);
    assert_int_equal(rebuild_feed_new(&feed, NULL), STATUS_OK);
    assert_int_equal(stream_new(&mappings, &receiver, &stream, NULL), STATUS_OK);
    stream_set_rebuild(stream, feed);
    stream_start(stream, 0x100, 0);
    describe();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stream_free(stream);
    rebuild_feed_free(feed);
    event_arena_free(arena);
    buf_deinit(&wire);
    buf_deinit(&seen);
    return 0;
}

static const char handed_on[] = "begin ann/b - 500.0\n"
                                "row ann/b r1 500.1\n"
                                "row ann/b r2 500.2\n"
                                "row ann/b m2 500.3\n"
                                "end ann/b - 500.4\n"
                                "commit 530\n"
                                "handed on 530 keys 1\n";

/* From before the low to after the high watermark; rows are given after m2. */
static void play(lsn_t base, const char *token, struct rebuild_chunk *rows)
{
    insert(base, "ann", "m1");
    watermark(base + 0x100, REBUILD_LOW, token);
    insert(base + 0x200, "ann", "m2");
    insert(base + 0x240, "bob", "m3");
    rebuild_feed_give(feed, rows);
    watermark(base + 0x300, REBUILD_HIGH, token);
}

static void test_rows_and_what_came_meanwhile_are_handed_on_at_the_high_watermark(void **state)
{
    (void)state;
    play(0x200, "t", open_chunk("t", 1 << 20));
    assert_int_equal(outcome(), REBUILD_HANDED_ON);
    char expected[512];
    (void)snprintf(expected, sizeof(expected),
                   "event m1 200\ncommit 230\ncommit 330\nevent m2 400\ncommit 430\n"
                   "event m3 440\ncommit 470\n%s",
                   handed_on);
    assert_seen(expected);
    rebuild_feed_close(feed);
    insert(0x600, "ann", "m4");
    assert_seen("event m4 600\ncommit 630\n");
}

static void test_a_full_receiver_is_offered_the_same_step_again(void **state)
{
    (void)state;
    full = 7;
    play(0x200, "t", open_chunk("t", 1 << 20));
    assert_int_equal(outcome(), REBUILD_HANDED_ON);
    assert_int_equal(buf_append(&seen, "", 1), STATUS_OK);
    assert_non_null(strstr(seen.data, handed_on));
}

/* After a rewind the same watermarks come without rows: the chunk has to be done again. */
static void test_watermarks_that_are_read_again_do_nothing(void **state)
{
    (void)state;
    play(0x200, "t", open_chunk("t", 1 << 20));
    stream_start(stream, 0x100, 0);
    assert_int_equal(outcome(), REBUILD_LOST);
    buf_reset(&seen);
    describe();
    watermark(0x300, REBUILD_LOW, "t");
    watermark(0x500, REBUILD_HIGH, "t");
    assert_seen("commit 330\ncommit 530\n");
    assert_int_equal(outcome(), REBUILD_LOST);
    rebuild_feed_close(feed);
    play(0x600, "u", open_chunk("u", 1 << 20));
    assert_int_equal(outcome(), REBUILD_HANDED_ON);
}

static void test_a_session_that_ends_in_the_middle_of_handing_on(void **state)
{
    (void)state;
    struct rebuild_chunk *c = open_chunk("t", 1 << 20);
    watermark(0x300, REBUILD_LOW, "t");
    rebuild_feed_give(feed, c);
    begin(0x500);
    frame();
    wire_message(&wire, true, 0x500, REBUILD_HIGH, "t");
    full = 1;
    assert_int_equal(stream_put(stream, wire_str(&wire), &err), STATUS_AGAIN);
    assert_int_equal(outcome(), REBUILD_WAITING);
    stream_start(stream, 0x100, 0);
    assert_int_equal(outcome(), REBUILD_LOST);
    rebuild_feed_close(feed);
    describe();
    insert(0x500, "ann", "m");
    assert_seen("commit 330\nevent m 500\ncommit 530\n");
}

static void test_others_watermarks_are_no_business_of_ours(void **state)
{
    (void)state;
    struct rebuild_chunk *c = open_chunk("t", 1 << 20);
    rebuild_feed_give(feed, c);
    watermark(0x200, REBUILD_HIGH, "t"); /* without the low one */
    watermark(0x300, REBUILD_LOW, "other");
    watermark(0x400, "warmpath.lower", "t");
    watermark(0x500, REBUILD_HIGH, "t");
    assert_int_equal(outcome(), REBUILD_WAITING);
    assert_seen("commit 230\ncommit 330\ncommit 430\ncommit 530\n");
}

/* A transaction is in the log before others see what it did (rebuild_feed.h). */
static void test_rows_that_do_not_show_what_came_before_the_low_watermark_do_not_count(void **state)
{
    (void)state;
    char snapshot[64];
    struct rebuild_chunk *c = open_chunk("t", 1 << 20);
    (void)snprintf(snapshot, sizeof(snapshot), "%u:%u:%u", WIRE_XID, WIRE_XID + 9, WIRE_XID);
    assert_int_equal(rebuild_chunk_snapshot(c, snapshot, NULL), STATUS_OK);
    play(0x200, "t", c);
    assert_int_equal(outcome(), REBUILD_UNSEEN);
    rebuild_feed_close(feed);
    c = open_chunk("u", 1 << 20);
    (void)snprintf(snapshot, sizeof(snapshot), "1:%u:", WIRE_XID);
    assert_int_equal(rebuild_chunk_snapshot(c, snapshot, NULL), STATUS_OK);
    play(0x600, "u", c);
    assert_int_equal(outcome(), REBUILD_UNSEEN);
    rebuild_feed_close(feed);
    c = open_chunk("v", 1 << 20);
    (void)snprintf(snapshot, sizeof(snapshot), "1:%u:3,5", WIRE_XID + 1);
    assert_int_equal(rebuild_chunk_snapshot(c, snapshot, NULL), STATUS_OK);
    assert_false(rebuild_chunk_sees(c, 3));
    assert_true(rebuild_chunk_sees(c, 4));
    assert_false(rebuild_chunk_sees(c, 5));
    assert_int_equal(rebuild_chunk_snapshot(c, "nonsense", NULL), STATUS_INVALID);
    play(0xA00, "v", c);
    assert_int_equal(outcome(), REBUILD_HANDED_ON);
}

static void test_too_much_recorded_is_an_overflow_and_the_stream_goes_on(void **state)
{
    (void)state;
    struct rebuild_chunk *c = open_chunk("t", 600);
    watermark(0x300, REBUILD_LOW, "t");
    for (lsn_t lsn = 0x400; lsn < 0x900; lsn += 0x40)
        insert(lsn, "ann", "m");
    assert_int_equal(outcome(), REBUILD_OVERFLOW);
    rebuild_feed_give(feed, c);
    buf_reset(&seen);
    watermark(0x900, REBUILD_HIGH, "t");
    assert_seen("commit 930\n");
    assert_int_equal(outcome(), REBUILD_OVERFLOW);
}

static void test_a_truncate_in_between_spoils_what_is_being_read(void **state)
{
    (void)state;
    struct rebuild_chunk *c = open_chunk("t", 1 << 20);
    watermark(0x300, REBUILD_LOW, "t");
    const uint32_t ids[] = {1};
    begin(0x400);
    frame();
    wire_truncate(&wire, 1, ids);
    give();
    commit(0x400);
    assert_int_equal(outcome(), REBUILD_LOST);
    rebuild_feed_give(feed, c);
}

static void test_a_request_is_answered_when_it_is_stored(void **state)
{
    (void)state;
    char reason[64] = "";
    assert_int_equal(rebuild_feed_request(NULL, "x"), STATUS_OK);
    assert_false(rebuild_feed_wanted(feed, reason, sizeof(reason)));
    assert_int_equal(rebuild_feed_request(feed, "truncate"), STATUS_AGAIN);
    assert_true(rebuild_feed_wanted(feed, reason, sizeof(reason)));
    assert_string_equal(reason, "truncate");
    assert_int_equal(rebuild_feed_request(feed, "truncate"), STATUS_AGAIN);
    assert_false(rebuild_feed_wanted(feed, reason, sizeof(reason)));
    rebuild_feed_stored(feed);
    assert_int_equal(rebuild_feed_request(feed, "truncate"), STATUS_OK);
    assert_int_equal(rebuild_feed_request(feed, "another"), STATUS_AGAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_rows_and_what_came_meanwhile_are_handed_on_at_the_high_watermark, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_receiver_is_offered_the_same_step_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_watermarks_that_are_read_again_do_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_session_that_ends_in_the_middle_of_handing_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_others_watermarks_are_no_business_of_ours, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            test_rows_that_do_not_show_what_came_before_the_low_watermark_do_not_count, setup,
            teardown),
        cmocka_unit_test_setup_teardown(
            test_too_much_recorded_is_an_overflow_and_the_stream_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_truncate_in_between_spoils_what_is_being_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_request_is_answered_when_it_is_stored, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("ingest/rebuild_feed", tests, NULL, NULL);
}
