/*
 * tests/ingest/test_stream.c - a session's messages reach the receiver once, in order, with their
 * positions, whatever room it has.
 *
 * Method: bytes of a server, built by hand, into a receiver that writes down what it is given as
 * one line per call, and that can be told to be full n times.
 */
#include "core/clock.h"
#include "ingest/rebuild_feed.h"
#include "ingest/stream.h"
#include "tests/ingest/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define T0 INT64_C(1767621600000000)

static struct mapping_set mappings;
static struct stream *stream;
static struct buf wire;
static struct buf seen; /* what the receiver was given */
static struct error err;
static int full;           /* how many calls are answered AGAIN */
static enum status broken; /* what event() fails with, when set */

static bool no_room(void)
{
    if (full == 0)
        return false;
    full--;
    return true;
}

static void note(const char *fmt, ...) PRINTF_LIKE(1, 2);
static void note(const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    assert_int_equal(buf_append(&seen, line, strlen(line)), STATUS_OK);
}

static enum status on_event(void *ctx, const struct event *e, struct position pos,
                            int64_t commit_us, struct error *error)
{
    (void)ctx;
    if (no_room())
        return STATUS_AGAIN;
    if (broken)
        return error_set(error, broken, "broken receiver");
    assert_int_equal(commit_us, T0);
    note("%s " STR_FMT " %" PRIX64 ".%" PRIu64 "\n",
         e->type == EVENT_DEAD_LETTER       ? "dead"
         : e->type == EVENT_REQUEST         ? "request"
         : e->type == EVENT_PRIVACY         ? "privacy"
         : e->type == EVENT_MESSAGE_DELETED ? "delete"
         : e->type == EVENT_MEMORY          ? "memory"
                                            : "message",
         STR_ARGS(e->id), pos.lsn, pos.seq);
    if (e->type == EVENT_DEAD_LETTER) {
        assert_int_equal(event_check(e, error), STATUS_OK);
        note("  " STR_FMT "\n", STR_ARGS(e->u.dead_letter.bytes));
    }
    if (e->type == EVENT_MEMORY && e->u.memory.op == MEMORY_DELETE)
        assert_int_equal(e->at_us, T0);
    return STATUS_OK;
}

static enum status on_commit(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *error)
{
    (void)ctx;
    (void)error;
    if (no_room())
        return STATUS_AGAIN;
    assert_int_equal(commit_us, T0);
    note("commit %" PRIX64 "\n", end_lsn);
    return STATUS_OK;
}

static void on_idle(void *ctx, lsn_t wal_end, int64_t server_us)
{
    (void)ctx;
    assert_int_equal(server_us, T0 + 5);
    note("idle %" PRIX64 "\n", wal_end);
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

static const struct receiver_ops receiver = {on_event,   on_commit, on_idle, on_drained,
                                             on_durable, NULL,      NULL,    NULL};

static void map_table(struct mapping *m, const char *table, enum event_type type)
{
    static const char *const columns[] = {"id", "user_id", "bot", "at", "role", "content"};
    snprintf(m->schema, sizeof(m->schema), "public");
    snprintf(m->table, sizeof(m->table), "%s", table);
    m->type = type;
    for (int f = FIELD_ID; f <= FIELD_CONTENT; f++) {
        if (type == EVENT_MEMORY && f == FIELD_ROLE)
            continue;
        m->fields[f].set = true;
        snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", columns[f]);
    }
    if (type == EVENT_MEMORY) {
        m->fields[FIELD_OP].set = true;
        snprintf(m->fields[FIELD_OP].constant, sizeof(m->fields[FIELD_OP].constant), "create");
        m->fields[FIELD_MEMORY_ID] = m->fields[FIELD_ID];
    }
    assert_int_equal(mapping_check(m, NULL), STATUS_OK);
}

static int setup(void **state)
{
    (void)state;
    buf_init(&wire, 1 << 20);
    buf_init(&seen, 1 << 20);
    mappings = (struct mapping_set){.n = 2};
    map_table(&mappings.tables[0], "chat", EVENT_MESSAGE);
    map_table(&mappings.tables[1], "memory", EVENT_MEMORY);
    return stream_new(&mappings, &receiver, &stream, NULL);
}

static int teardown(void **state)
{
    (void)state;
    stream_free(stream);
    buf_deinit(&wire);
    buf_deinit(&seen);
    return 0;
}

/* Every test starts a new session at LSN 100. */
static int start(void **state)
{
    (void)state;
    full = 0;
    broken = STATUS_OK;
    buf_reset(&seen);
    stream_start(stream, 0x100, 0);
    return 0;
}

static enum status put(void)
{
    return stream_put(stream, wire_str(&wire), &err);
}

/* Puts it, and offers it again until the receiver has room. */
static void give(void)
{
    enum status st = put();
    for (int i = 0; st == STATUS_AGAIN && i < 100; i++) {
        assert_true(stream_is_pending(stream));
        assert_true(stream_feedback(stream)->outstanding);
        st = stream_retry(stream, &err);
    }
    if (st)
        fail_msg("%s", err.text);
    assert_false(stream_feedback(stream)->outstanding);
}

static void frame(lsn_t lsn)
{
    buf_reset(&wire);
    wire_xlog_data(&wire, lsn, T0 + 5);
}

static void begin(lsn_t final_lsn)
{
    frame(final_lsn - 8);
    wire_begin(&wire, final_lsn, T0);
    give();
}

static void commit(lsn_t commit_lsn, lsn_t end_lsn)
{
    frame(end_lsn);
    wire_commit(&wire, commit_lsn, end_lsn, T0);
    give();
}

static void describe(uint32_t id, const char *table)
{
    static const char *const columns[] = {"*id", "*user_id", "*bot", "at", "role", "content", NULL};
    frame(0);
    wire_relation(&wire, id, "public", table, columns);
    give();
}

static const char time_text[] = "2026-01-05 14:00:00+00";

static void frame_insert(uint32_t relation, const char *id, const char *role)
{
    const char *const row[] = {id, "u", "b", time_text, role, "text"};
    frame(0x150);
    wire_insert(&wire, relation, 6, row);
}

static void insert(uint32_t relation, const char *id, const char *role)
{
    frame_insert(relation, id, role);
    give();
}

static void keepalive(lsn_t wal_end, bool reply)
{
    buf_reset(&wire);
    wire_keepalive(&wire, wal_end, T0 + 5, reply);
    give();
}

static void assert_seen(const char *expected)
{
    assert_int_equal(buf_append(&seen, "", 1), STATUS_OK);
    assert_string_equal(seen.data, expected);
    buf_reset(&seen);
}

static void test_rows_are_numbered_within_their_transaction(void **state)
{
    (void)state;
    const char *const other[] = {"x"};
    const char *const other_columns[] = {"a", NULL};
    describe(1, "chat");
    frame(0);
    wire_relation(&wire, 2, "public", "unmapped", other_columns);
    give();
    begin(0x200);
    insert(1, "m0", "user");
    frame(0x150);
    wire_insert(&wire, 2, 1, other);
    give();
    insert(1, "m2", "bot");
    commit(0x200, 0x230);
    begin(0x300);
    insert(1, "m3", "user");
    commit(0x300, 0x330);
    /* The unmapped row counts: positions do not depend on the mapping. */
    assert_seen("message m0 200.0\nmessage m2 200.512\ncommit 230\nmessage m3 300.0\ncommit 330\n");
}

static void test_a_full_receiver_is_offered_the_same_again(void **state)
{
    (void)state;
    const char *const before[] = {"m1", "u", "b", time_text, "user", "text"};
    const char *const after[] = {"m2", "u", "b", time_text, "user", "text"};
    describe(1, "chat");
    begin(0x200);
    full = 3;
    insert(1, "m1", "user");
    assert_int_equal(full, 0);
    /* Two events of one row; full between them and again at the commit. */
    frame(0x160);
    wire_update(&wire, 1, 'O', 6, before, after);
    full = 1;
    give();
    full = 2;
    commit(0x200, 0x230);
    assert_seen("message m1 200.0\ndelete m1 200.256\nmessage m2 200.257\ncommit 230\n");
}

/* The table is mapped once more: each mapping gives its own events, and its own dead letter. */
static void test_every_mapping_of_a_table_gives_its_events(void **state)
{
    (void)state;
    static struct mapping_set both;
    const char *const row[] = {"m1", "u", "b", time_text, "user", "text"};
    const char *const odd[] = {"m2", "u", "b", time_text, "alien", "text"};
    both.n = 2;
    both.tables[0] = mappings.tables[0];
    both.tables[1] = mappings.tables[0];
    struct mapping_source *id = &both.tables[1].fields[FIELD_ID];
    id->column[0] = '\0';
    snprintf(id->template, sizeof(id->template), "{id}:b");
    both.tables[1].fields[FIELD_ROLE] = (struct mapping_source){.set = true, .constant = "bot"};
    assert_int_equal(mapping_check(&both.tables[1], &err), STATUS_OK);
    stream_remap(stream, &both);
    stream_start(stream, 0x100, 0);
    describe(1, "chat");
    begin(0x200);
    full = 2; /* before the first event, and between the two */
    insert(1, "m1", "user");
    frame(0x150);
    wire_insert(&wire, 1, 6, odd);
    full = 1;
    give();
    frame(0x160);
    wire_delete(&wire, 1, 'K', 6, row);
    give();
    commit(0x200, 0x230);
    stream_remap(stream, &mappings);
    assert_seen("message m1 200.0\nmessage m1:b 200.1\ndead 0/200/256 200.256\n"
                "  new: id(2)=m2 user_id(1)=u bot(1)=b at(22)=2026-01-05 14:00:00+00 role(5)=alien "
                "content(4)=text\nmessage m2:b 200.257\n"
                "delete m1 200.512\ndelete m1:b 200.513\ncommit 230\n");
}

static void test_a_transaction_is_open_until_its_commit_is_taken(void **state)
{
    (void)state;
    struct feedback *f = stream_feedback(stream);
    describe(1, "chat");
    begin(0x200);
    assert_true(f->in_transaction);
    frame(0x230);
    wire_commit(&wire, 0x200, 0x230, T0);
    full = 1;
    assert_int_equal(put(), STATUS_AGAIN);
    assert_true(f->in_transaction && f->outstanding);
    assert_int_equal(f->committed, 0);
    assert_int_equal(stream_retry(stream, &err), STATUS_OK);
    assert_false(f->in_transaction || f->outstanding);
    assert_int_equal(f->committed, 0x230);
    assert_int_equal(f->received, 0x230);
}

static void test_keepalives_are_idle_only_between_transactions(void **state)
{
    (void)state;
    struct feedback *f = stream_feedback(stream);
    keepalive(0x180, true);
    assert_true(f->reply_requested);
    assert_int_equal(f->idle, 0x180);
    begin(0x200);
    keepalive(0x210, false); /* amid a transaction the server sends them too */
    assert_int_equal(f->idle, 0x180);
    assert_int_equal(f->received, 0x210);
    commit(0x200, 0x230);
    keepalive(0x230, false);
    keepalive(0x240, false);
    assert_seen("idle 180\ncommit 230\nidle 240\n");
}

static void test_transactions_that_are_durable_are_read_past(void **state)
{
    (void)state;
    struct feedback *f = stream_feedback(stream);
    stream_start(stream, 0x230, 0); /* the end LSN of the first transaction */
    describe(1, "chat");
    begin(0x200);
    insert(1, "old", "user");
    insert(1, "old", "alien");
    commit(0x200, 0x230);
    assert_int_equal(f->committed, 0);
    begin(0x230); /* the next record starts where the last one ended */
    insert(1, "new", "user");
    commit(0x230, 0x260);
    assert_seen("message new 230.0\ncommit 260\n");
}

static void test_a_row_that_cannot_be_used_is_a_dead_letter_in_its_place(void **state)
{
    (void)state;
    describe(1, "chat");
    begin(0x200);
    insert(1, "m1", "user");
    full = 1;
    insert(1, "m2", "alien\n\xFF");
    insert(1, "m3", "user");
    commit(0x200, 0x230);
    assert_seen("message m1 200.0\n"
                "dead 0/200/256 200.256\n"
                "  new: id(2)=m2 user_id(1)=u bot(1)=b at(22)=2026-01-05 14:00:00+00 "
                "role(7)=alien\\x0a\\xff content(4)=text\n"
                "message m3 200.512\ncommit 230\n");
}

static void test_a_dead_letter_shows_only_the_beginning_of_long_values(void **state)
{
    (void)state;
    static char text[100001];
    memset(text, 'x', 100000);
    const char *const row[] = {"m", "u", "b", "infinity", "user", text};
    describe(1, "chat");
    begin(0x200);
    frame(0x150);
    wire_insert(&wire, 1, 6, row);
    give();
    assert_int_equal(buf_append(&seen, "", 1), STATUS_OK);
    assert_non_null(strstr(seen.data, "at(8)=infinity"));
    assert_non_null(strstr(seen.data, "content(100000)=xxxx"));
    assert_true(seen.len < 300);
    buf_reset(&seen);
}

static void test_a_truncate_is_a_dead_letter_for_each_mapped_table(void **state)
{
    (void)state;
    const char *const columns[] = {"a", NULL};
    const uint32_t ids[] = {1, 2, 3};
    describe(1, "chat");
    frame(0);
    wire_relation(&wire, 2, "public", "unmapped", columns);
    give();
    describe(3, "memory");
    begin(0x200);
    frame(0x150);
    wire_truncate(&wire, 3, ids);
    full = 3;
    give();
    insert(1, "m1", "user");
    commit(0x200, 0x230);
    assert_seen("dead 0/200/0 200.0\n  \ndead 0/200/1 200.1\n  \nmessage m1 200.256\ncommit 230\n");
}

static void test_a_deleted_memory_is_gone_since_the_commit(void **state)
{
    (void)state;
    const char *const key[] = {"m1", "u", "b", NULL, NULL, NULL};
    describe(3, "memory");
    begin(0x200);
    frame(0x150);
    wire_delete(&wire, 3, 'K', 6, key);
    give(); /* on_event() looks at the time */
    commit(0x200, 0x230);
    assert_seen("memory m1 200.0\ncommit 230\n");
}

static void test_logical_messages_are_no_data(void **state)
{
    (void)state;
    frame(0x180);
    wire_message(&wire, false, 0x180, "p", "outside a transaction");
    give();
    describe(1, "chat");
    begin(0x200);
    frame(0x190);
    wire_message(&wire, true, 0x190, "p", "inside");
    give();
    insert(1, "m", "user");
    commit(0x200, 0x230);
    assert_seen("message m 200.0\ncommit 230\n");
}

static void ask(bool transactional, const char *content)
{
    frame(0x190);
    wire_message(&wire, transactional, 0x190, "warmpath.request", content);
    give();
}

/* It stands where its transaction put it, behind the rows before it; one that rolled back, or whose
 * sender did not care, would not be repeated after a crash. */
static void test_a_request_has_its_place_among_the_rows(void **state)
{
    (void)state;
    ask(false, "{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":1}");
    describe(1, "chat");
    begin(0x200);
    insert(1, "m1", "user");
    full = 2; /* it waits for room like a row */
    ask(true, "{\"op\":\"invalidate\",\"user_id\":\"ann\",\"bot_name\":\"Elena\",\"at\":1}");
    ask(true, "{\"op\":\"forget\",\"user_id\":\"ann\",\"at\":1}");
    insert(1, "m2", "user");
    commit(0x200, 0x230);
    assert_seen("message m1 200.0\nrequest request:0/200/256 200.256\n"
                "privacy request:0/200/512 200.512\nmessage m2 200.768\ncommit 230\n");
}

static void test_a_bad_request_is_a_dead_letter(void **state)
{
    (void)state;
    begin(0x200);
    ask(true, "{\"op\":\"drop everything\"}");
    ask(true, "{\"op\":\"touch\",\"user_id\":\"ann\",\"at\":1}");
    commit(0x200, 0x230);
    assert_seen("dead 0/200/0 200.0\n  {\"op\":\"drop everything\"}\n"
                "request request:0/200/256 200.256\ncommit 230\n");
}

static void test_a_truncate_may_ask_for_a_rebuild_and_waits_until_it_is_stored(void **state)
{
    (void)state;
    const uint32_t ids[] = {1};
    char reason[160] = "";
    struct rebuild_feed *feed = NULL;
    struct mapping_set other = mappings;
    other.tables[0].on_truncate = TRUNCATE_REBUILD;
    assert_int_equal(rebuild_feed_new(&feed, &err), STATUS_OK);
    stream_remap(stream, &other);
    stream_set_rebuild(stream, feed);
    describe(1, "chat");
    begin(0x200);
    frame(0x150);
    wire_truncate(&wire, 1, ids);
    assert_int_equal(put(), STATUS_AGAIN);
    assert_false(stream_is_blocked(stream));
    assert_true(rebuild_feed_wanted(feed, reason, sizeof(reason)));
    assert_string_equal(reason, "table \"public.chat\" was truncated");
    assert_int_equal(stream_retry(stream, &err), STATUS_AGAIN);
    rebuild_feed_stored(feed);
    assert_int_equal(stream_retry(stream, &err), STATUS_OK);
    assert_false(rebuild_feed_wanted(feed, reason, sizeof(reason)));
    insert(1, "m1", "user");
    commit(0x200, 0x230);
    assert_seen("message m1 200.256\ncommit 230\n");
    stream_set_rebuild(stream, NULL);
    stream_remap(stream, &mappings);
    rebuild_feed_free(feed);
}

static void test_a_changed_table_is_bound_again(void **state)
{
    (void)state;
    static const char *const turned[] = {"content", "role", "at", "bot", "user_id", "*id", NULL};
    const char *const row[] = {"text", "user", time_text, "b", "u", "m2"};
    describe(1, "chat");
    begin(0x200);
    insert(1, "m1", "user");
    frame(0);
    wire_relation(&wire, 1, "public", "chat", turned);
    give();
    frame(0x150);
    wire_insert(&wire, 1, 6, row);
    give();
    commit(0x200, 0x230);
    assert_seen("message m1 200.0\nmessage m2 200.256\ncommit 230\n");
}

static const char *const without_content[] = {"*id", "*user_id", "*bot", "at", "role", NULL};
static const char *const short_row[] = {"m2", "u", "b", time_text, "user"};

/* A transaction with a row, a description without "content", and another row. */
static void put_until_content_is_gone(void)
{
    describe(1, "chat");
    begin(0x200);
    insert(1, "m1", "user");
    frame(0);
    wire_relation(&wire, 1, "public", "chat", without_content);
    give();
    frame(0x150);
    wire_insert(&wire, 1, 5, short_row);
}

static void assert_blocked(const char *why)
{
    assert_int_equal(put(), STATUS_AGAIN);
    assert_int_equal(stream_retry(stream, &err), STATUS_AGAIN);
    assert_true(stream_is_blocked(stream));
    assert_true(stream_feedback(stream)->outstanding);
    assert_non_null(stream_blocked_by(stream));
    assert_non_null(strstr(stream_blocked_by(stream)->text, why));
}

static void test_a_mapped_column_that_is_gone_stops_the_stream_until_it_is_mended(void **state)
{
    (void)state;
    put_until_content_is_gone();
    assert_blocked("\"content\"");
    assert_int_equal(stream_feedback(stream)->committed, 0);
    assert_seen("message m1 200.0\n"); /* what came before is not held back */

    /* The same again: still blocked, and no row twice within a session. */
    stream_start(stream, 0x100, 0);
    assert_false(stream_is_blocked(stream));
    assert_non_null(stream_blocked_by(stream)); /* until it is past the transaction */
    put_until_content_is_gone();
    assert_blocked("\"content\"");
    assert_seen("message m1 200.0\n");

    struct mapping_set mended = mappings;
    snprintf(mended.tables[0].fields[FIELD_CONTENT].column, 64, "role");
    stream_remap(stream, &mended);
    full = 1;
    assert_int_equal(stream_retry(stream, &err), STATUS_AGAIN); /* now only for want of room */
    assert_false(stream_is_blocked(stream));
    assert_int_equal(stream_retry(stream, &err), STATUS_OK);
    assert_non_null(stream_blocked_by(stream));
    commit(0x200, 0x230);
    assert_null(stream_blocked_by(stream));
    assert_seen("message m2 200.256\ncommit 230\n");
    stream_remap(stream, &mappings);
}

static void test_a_description_that_does_not_fit_is_no_harm_without_a_row_of_it(void **state)
{
    (void)state;
    stream_start(stream, 0x230, 0); /* the first transaction is durable */
    put_until_content_is_gone();
    give();
    commit(0x200, 0x230);
    frame(0);
    wire_relation(&wire, 1, "public", "chat", without_content);
    give();
    begin(0x300);
    describe(1, "chat");
    insert(1, "m3", "user");
    commit(0x300, 0x330);
    assert_seen("message m3 300.0\ncommit 330\n");
}

static void test_a_mapped_table_under_a_new_name_is_not_ignored(void **state)
{
    (void)state;
    describe(9, "chat");
    begin(0x200);
    insert(9, "m1", "user");
    commit(0x200, 0x230);
    stream_start(stream, 0x230, 0); /* known also in another session */
    describe(9, "talk");
    begin(0x300);
    frame_insert(9, "m2", "user");
    assert_blocked("\"public.chat\" is now called \"public.talk\"");

    struct mapping_set both = mappings;
    both.tables[both.n] = both.tables[0];
    snprintf(both.tables[both.n++].table, 64, "talk");
    stream_remap(stream, &both);
    assert_int_equal(stream_retry(stream, &err), STATUS_OK);
    commit(0x300, 0x330);
    assert_seen("message m1 200.0\ncommit 230\nmessage m2 300.0\ncommit 330\n");

    /* Taken out of the mapping, the table is one of those that are not looked at. */
    struct mapping_set others = {.n = 1, .tables = {mappings.tables[1]}};
    stream_remap(stream, &others);
    stream_start(stream, 0x330, 0);
    describe(9, "chat");
    begin(0x400);
    insert(9, "m3", "user");
    commit(0x400, 0x430);
    assert_seen("commit 430\n");
    stream_remap(stream, &mappings);
}

static void test_a_truncate_may_be_ignored_or_stop_the_stream(void **state)
{
    (void)state;
    const uint32_t ids[] = {1, 3};
    struct mapping_set other = mappings;
    other.tables[0].on_truncate = TRUNCATE_IGNORE;
    other.tables[1].on_truncate = TRUNCATE_STOP;
    stream_remap(stream, &other);
    describe(1, "chat");
    describe(3, "memory");
    begin(0x200);
    insert(1, "m1", "user");
    frame(0x150);
    wire_truncate(&wire, 2, ids);
    assert_blocked("\"public.memory\" was truncated");
    assert_seen("message m1 200.0\n");

    struct mapping_set changed = mappings;
    stream_remap(stream, &changed);
    assert_int_equal(stream_retry(stream, &err), STATUS_OK);
    insert(1, "m2", "user");
    commit(0x200, 0x230);
    assert_null(stream_blocked_by(stream));
    assert_seen("dead 0/200/256 200.256\n  \nmessage m2 200.512\ncommit 230\n");
    stream_remap(stream, &mappings);
}

static void test_a_new_session_starts_from_nothing(void **state)
{
    (void)state;
    describe(1, "chat");
    begin(0x200);
    full = 1;
    frame_insert(1, "m1", "user");
    assert_int_equal(put(), STATUS_AGAIN);
    stream_start(stream, 0x100, 0);
    assert_false(stream_is_pending(stream));
    begin(0x200); /* the whole transaction again */
    frame_insert(1, "m1", "user");
    assert_int_equal(put(), STATUS_PROTOCOL); /* relations are described anew in every session */
    stream_start(stream, 0x100, 0);
    describe(1, "chat");
    begin(0x200);
    insert(1, "m1", "user");
    assert_seen("message m1 200.0\n");
}

static void test_a_failing_receiver_stops_the_stream_with_its_reason(void **state)
{
    (void)state;
    describe(1, "chat");
    begin(0x200);
    broken = STATUS_FENCED;
    frame_insert(1, "m1", "user");
    assert_int_equal(put(), STATUS_FENCED);
    assert_string_equal(err.text, "broken receiver");
}

static void test_breaches_of_protocol_are_refused(void **state)
{
    (void)state;
    const char *const row[] = {"x"};
    const uint32_t ids[] = {77};

    frame(0x230);
    wire_commit(&wire, 0x200, 0x230, T0);
    assert_int_equal(put(), STATUS_PROTOCOL); /* no BEGIN */

    frame(0x150);
    wire_insert(&wire, 1, 1, row);
    assert_int_equal(put(), STATUS_PROTOCOL); /* no transaction */

    begin(0x200);
    frame(0x210);
    wire_begin(&wire, 0x300, T0);
    assert_int_equal(put(), STATUS_PROTOCOL); /* BEGIN twice */

    frame(0x150);
    wire_insert(&wire, 77, 1, row);
    assert_int_equal(put(), STATUS_PROTOCOL); /* unknown relation */

    frame(0x150);
    wire_truncate(&wire, 1, ids);
    assert_int_equal(put(), STATUS_PROTOCOL);

    uint32_t many[MAPPING_TABLES_MAX + 1];
    for (size_t i = 0; i <= MAPPING_TABLES_MAX; i++)
        many[i] = 1;
    describe(1, "chat");
    frame(0x150);
    wire_truncate(&wire, MAPPING_TABLES_MAX + 1, many);
    assert_int_equal(put(), STATUS_PROTOCOL); /* one table again and again */

    stream_start(stream, 0x100, 0);
    begin(0x200);
    frame(0x330);
    wire_commit(&wire, 0x300, 0x330, T0);
    assert_int_equal(put(), STATUS_PROTOCOL); /* another transaction's COMMIT */

    stream_start(stream, 0x100, 0);
    begin(0x200);
    commit(0x200, 0x230);
    frame(0x1A0);
    wire_begin(&wire, 0x1F0, T0);
    assert_int_equal(put(), STATUS_PROTOCOL); /* commit order */

    buf_reset(&wire);
    wire_u8(&wire, 'x');
    assert_int_equal(put(), STATUS_PROTOCOL);
}

#define STREAM_TEST(name) cmocka_unit_test_setup(name, start)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STREAM_TEST(test_rows_are_numbered_within_their_transaction),
        STREAM_TEST(test_a_full_receiver_is_offered_the_same_again),
        STREAM_TEST(test_every_mapping_of_a_table_gives_its_events),
        STREAM_TEST(test_a_transaction_is_open_until_its_commit_is_taken),
        STREAM_TEST(test_keepalives_are_idle_only_between_transactions),
        STREAM_TEST(test_transactions_that_are_durable_are_read_past),
        STREAM_TEST(test_a_row_that_cannot_be_used_is_a_dead_letter_in_its_place),
        STREAM_TEST(test_a_dead_letter_shows_only_the_beginning_of_long_values),
        STREAM_TEST(test_a_truncate_is_a_dead_letter_for_each_mapped_table),
        STREAM_TEST(test_a_deleted_memory_is_gone_since_the_commit),
        STREAM_TEST(test_logical_messages_are_no_data),
        STREAM_TEST(test_a_request_has_its_place_among_the_rows),
        STREAM_TEST(test_a_bad_request_is_a_dead_letter),
        STREAM_TEST(test_a_changed_table_is_bound_again),
        STREAM_TEST(test_a_mapped_column_that_is_gone_stops_the_stream_until_it_is_mended),
        STREAM_TEST(test_a_description_that_does_not_fit_is_no_harm_without_a_row_of_it),
        STREAM_TEST(test_a_mapped_table_under_a_new_name_is_not_ignored),
        STREAM_TEST(test_a_truncate_may_ask_for_a_rebuild_and_waits_until_it_is_stored),
        STREAM_TEST(test_a_truncate_may_be_ignored_or_stop_the_stream),
        STREAM_TEST(test_a_new_session_starts_from_nothing),
        STREAM_TEST(test_a_failing_receiver_stops_the_stream_with_its_reason),
        STREAM_TEST(test_breaches_of_protocol_are_refused),
    };
    return cmocka_run_group_tests_name("ingest/stream", tests, setup, teardown);
}
