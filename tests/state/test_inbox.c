/*
 * Goal: what was answered as stored is in the inbox exactly once, in one dense order, whatever way
 * the process ends; and the file stays bounded. Method: real files, faults that kill the process,
 * another connection that meddles.
 */
#include "state/inbox.h"

#include "tests/state/store_support.h"

#include "core/limits.h"
#include "state/fault.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define DAY US_PER_DAY

static int setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));
    assert_non_null(s);
    scratch_make(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    scratch_remove(*state);
    free(*state);
    return 0;
}

static const char *dir_of(void **state)
{
    return ((struct scratch *)*state)->state;
}

/* ---- the inbox under test ---- */

static _Atomic int64_t now_us = 1000 * DAY;

static int64_t test_now(void *ctx)
{
    (void)ctx;
    return atomic_load(&now_us);
}

static const struct clock test_clock = {test_now, test_now, NULL};
static _Atomic uint64_t announced;

static void note_stored(void *ctx, uint64_t id)
{
    (void)ctx;
    atomic_store(&announced, id);
}

static struct inbox_config config(const char *dir)
{
    return (struct inbox_config){.dir = dir,
                                 .clock = &test_clock,
                                 .commit_delay_us = 2000,
                                 .keep_ids_us = 7 * DAY,
                                 .bytes_max = 1u << 30,
                                 .stored = note_stored};
}

static struct inbox *must_open_with(const struct inbox_config *cfg)
{
    struct inbox *b = NULL;
    struct error err = {0};
    if (inbox_open(cfg, &b, &err))
        fail_msg("%s", err.text);
    return b;
}

static struct inbox *must_open_inbox(const char *dir)
{
    struct inbox_config cfg = config(dir);
    return must_open_with(&cfg);
}

/* Repeats cond until it holds, for half a minute. */
#define WAIT_UNTIL(cond)                                         \
    do {                                                         \
        bool done_ = false;                                      \
        for (int i_ = 0; i_ < 30000 && !done_; i_++) {           \
            done_ = (cond);                                      \
            if (!done_)                                          \
                nanosleep(&(struct timespec){0, 1000000}, NULL); \
        }                                                        \
        if (!done_)                                              \
            fail_msg("timed out: %s", #cond);                    \
    } while (0)

/* ---- deliveries ---- */

/* A delivery of n events "<tag>-1", ..., as text that the caller frees with buf_deinit(). */
static struct inbox_delivery delivery(struct buf *out, const char *source, const char *id,
                                      const char *tag, uint32_t n)
{
    buf_init(out, SIZE_MAX);
    build_entries(out, tag, n);
    return (struct inbox_delivery){.source = str_from(source),
                                   .id = id ? str_from(id) : STR_NULL,
                                   .received_us = 77,
                                   .events = {out->data ? out->data : "", out->len},
                                   .n_events = n};
}

/* Waits for the answer of each of many submitters. */
struct waiter {
    _Atomic int left;
    _Atomic int n[3]; /* by outcome */
};

static void note_done(void *ctx, enum inbox_outcome outcome)
{
    struct waiter *w = ctx;
    atomic_fetch_add(&w->n[outcome], 1);
    atomic_fetch_sub(&w->left, 1);
}

static void wait_all(struct waiter *w)
{
    WAIT_UNTIL(atomic_load(&w->left) == 0);
}

static void must_submit(struct inbox *b, const struct inbox_delivery *d, struct waiter *w)
{
    struct error err = {0};
    if (w)
        atomic_fetch_add(&w->left, 1);
    if (inbox_submit(b, d, w ? note_done : NULL, w, &err))
        fail_msg("%s", err.text);
}

/* Submits one and waits for its outcome. */
static enum inbox_outcome put_delivery(struct inbox *b, const struct inbox_delivery *d)
{
    struct waiter w = {0};
    must_submit(b, d, &w);
    wait_all(&w);
    return atomic_load(&w.n[INBOX_STORED])      ? INBOX_STORED
           : atomic_load(&w.n[INBOX_DUPLICATE]) ? INBOX_DUPLICATE
                                                : INBOX_FAILED;
}

static enum inbox_outcome put(struct inbox *b, const char *source, const char *id, const char *tag,
                              uint32_t n)
{
    struct buf text;
    struct inbox_delivery d = delivery(&text, source, id, tag, n);
    enum inbox_outcome outcome = put_delivery(b, &d);
    buf_deinit(&text);
    return outcome;
}

static enum status dump_row(void *ctx, const struct inbox_row *row, struct error *err)
{
    (void)err;
    struct reader r = reader_of(row->events.ptr, row->events.len);
    if (buf_printf(ctx, "%llu " STR_FMT " %lld", (unsigned long long)row->id, STR_ARGS(row->source),
                   (long long)row->received_us))
        return STATUS_NOMEM;
    for (uint32_t i = 0; i < row->n_events; i++) {
        struct str event = reader_blob(&r);
        if (buf_printf(ctx, " " STR_FMT, STR_ARGS(event)))
            return STATUS_NOMEM;
    }
    assert_true(!r.bad && reader_left(&r) == 0);
    return buf_printf(ctx, "\n");
}

static void assert_rows(struct inbox *b, uint64_t after, const char *expected)
{
    struct buf text;
    buf_init(&text, SIZE_MAX);
    struct error err = {0};
    enum status st = inbox_read(b, after, 1000, dump_row, &text, &err);
    if (st && st != STATUS_END)
        fail_msg("%s", err.text);
    assert_int_equal(buf_put_u8(&text, 0), STATUS_OK);
    assert_string_equal(text.data, expected);
    buf_deinit(&text);
}

/* Runs SQL on the file behind the inbox's back; its single integer, or 0. */
static int64_t meddle(const char *dir, const char *sql)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/inbox.db", dir);
    sqlite3 *db = NULL;
    sqlite3_stmt *st = NULL;
    int64_t value = 0;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    if (sqlite3_step(st) == SQLITE_ROW)
        value = sqlite3_column_int64(st, 0);
    assert_int_equal(sqlite3_finalize(st), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return value;
}

/* ---- what is stored ---- */

static void test_rows_are_dense_in_order_and_outlive_a_reopen(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    struct error err = {0};
    assert_int_equal(inbox_read(b, 0, 10, dump_row, NULL, &err), STATUS_END);
    assert_int_equal(put(b, "app", "1", "a", 2), INBOX_STORED);
    assert_int_equal(put(b, "influx", NULL, "b", 1), INBOX_STORED);
    assert_int_equal(put(b, "app", "2", "c", 1), INBOX_STORED);
    WAIT_UNTIL(atomic_load(&announced) == 3);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(inbox_newest(b), 3);
        assert_rows(b, 0, "1 app 77 a-1 a-2\n2 influx 77 b-1\n3 app 77 c-1\n");
        assert_rows(b, 2, "3 app 77 c-1\n");
        assert_rows(b, 3, "");
        inbox_close(b);
        b = must_open_inbox(dir_of(state));
    }
    assert_int_equal(put(b, "app", "3", "d", 1), INBOX_STORED);
    assert_rows(b, 3, "4 app 77 d-1\n");
    inbox_close(b);
}

static void test_files_are_for_the_owner_alone(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    assert_int_equal(put(b, "app", "1", "a", 1), INBOX_STORED);
    const char *names[] = {"", "/inbox.db", "/inbox.db-wal", "/inbox.db-shm"};
    for (size_t i = 0; i < 4; i++) {
        char path[160];
        struct stat st;
        snprintf(path, sizeof(path), "%s%s", dir_of(state), names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, i ? 0600 : 0700);
    }
    inbox_close(b);
}

static void test_a_delivery_without_events_keeps_its_id_and_cursor_only(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    struct inbox_delivery d = {
        .source = STR("pull"), .id = STR("x"), .events = STR(""), .cursor = STR("at 7")};
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_int_equal(put_delivery(b, &d), INBOX_DUPLICATE);
    assert_int_equal(inbox_newest(b), 0);
    inbox_close(b);
}

static enum status refuse(void *ctx, const struct inbox_row *row, struct error *err)
{
    int *n = ctx;
    ++*n;
    return row->id < 2 ? STATUS_OK : error_set(err, STATUS_AGAIN, "not now");
}

static void test_a_reader_that_refuses_a_row_stops_there(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    for (int i = 0; i < 3; i++)
        assert_int_equal(put(b, "app", NULL, "a", 1), INBOX_STORED);
    int n = 0;
    struct error err = {0};
    assert_int_equal(inbox_read(b, 0, 10, refuse, &n, &err), STATUS_AGAIN);
    assert_int_equal(n, 2);
    assert_string_equal(err.text, "not now");
    n = 0;
    assert_int_equal(inbox_read(b, 0, 1, refuse, &n, &err), STATUS_OK);
    assert_int_equal(n, 1);
    inbox_close(b);
}

/* ---- duplicates ---- */

static void test_a_delivery_is_known_within_a_group_across_groups_and_restarts(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    struct buf text;
    struct inbox_delivery d = delivery(&text, "app", "one", "a", 1);
    /* Many at once: most of them share a group. */
    struct waiter w = {0};
    for (int i = 0; i < 200; i++)
        must_submit(b, &d, &w);
    wait_all(&w);
    assert_int_equal(w.n[INBOX_STORED], 1);
    assert_int_equal(w.n[INBOX_DUPLICATE], 199);
    assert_int_equal(put_delivery(b, &d), INBOX_DUPLICATE);
    inbox_close(b);
    b = must_open_inbox(dir_of(state));
    assert_int_equal(put_delivery(b, &d), INBOX_DUPLICATE);
    d.source = STR("other"); /* ids are of their source */
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    d.source = STR("ap");
    d.id = STR("pone");
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    d.id = STR_NULL; /* without one, each is a new one */
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_int_equal(inbox_newest(b), 5);
    buf_deinit(&text);
    inbox_close(b);
}

static void test_long_ids_differ_in_their_last_byte(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    char id[4000];
    memset(id, 'x', sizeof(id));
    struct inbox_delivery d = {
        .source = STR("app"), .id = {id, sizeof(id)}, .events = STR("\1x"), .n_events = 1};
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_int_equal(put_delivery(b, &d), INBOX_DUPLICATE);
    id[sizeof(id) - 1] = 'y';
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    inbox_close(b);
}

/* So many that they are moved from where they come to where they stay. */
#define MANY 70000

static void submit_ids(struct inbox *b)
{
    for (int i = 0; i < MANY; i++) {
        char id[16];
        snprintf(id, sizeof(id), "id-%d", i);
        struct inbox_delivery d = {.source = STR("app"), .id = str_from(id), .events = STR("")};
        WAIT_UNTIL(inbox_submit(b, &d, NULL, NULL, NULL) == STATUS_OK);
    }
    WAIT_UNTIL(inbox_view(b).queued == 0);
}

/* Commits something, so that what is done beside can go on. */
static void turn(struct inbox *b)
{
    now_us += DAY / 200;
    (void)put(b, "app", "kept", "a", 0);
    (void)put(b, "app", "id-5", "a", 0);
    (void)put(b, "app", NULL, "a", 0);
}

static void test_many_ids_are_known_wherever_they_are_and_after_restarts(void **state)
{
    const char *dir = dir_of(state);
    struct inbox *b = must_open_inbox(dir);
    submit_ids(b);
    for (int reopened = 0; reopened < 40; reopened++) {
        /* While they are moved, before, and when they are all there. */
        for (int i = 0; i < 10; i++) {
            char id[16];
            snprintf(id, sizeof(id), "id-%d", (reopened * 7919 + i * 104729) % MANY);
            assert_int_equal(put(b, "app", id, "x", 1), INBOX_DUPLICATE);
            snprintf(id, sizeof(id), "new-%d-%d", reopened, i);
            assert_int_equal(put(b, "app", id, "x", 1), INBOX_STORED);
        }
        if (reopened % 10 == 9) {
            inbox_close(b);
            b = must_open_inbox(dir);
        }
    }
    int64_t moved = 0;
    for (int i = 0; i < 1000 && (moved = meddle(dir, "SELECT count(*) FROM seen")) < 65536; i++)
        for (int k = 0; k < 10; k++)
            (void)put(b, "app", NULL, "a", 0);
    assert_in_range(moved, 65536, MANY + 400);
    assert_int_equal(meddle(dir, "SELECT ids FROM meta"), moved);
    /* And are no longer where they came. */
    for (int i = 0; i < 1000 && meddle(dir, "SELECT min(row) FROM fresh") < 2; i++)
        (void)put(b, "app", NULL, "a", 0);
    assert_in_range(meddle(dir, "SELECT coalesce(sum(length(digests)), 0) / 16 FROM fresh"), 0,
                    MANY + 400 - moved);
    inbox_close(b);
    b = must_open_inbox(dir);
    submit_ids(b);
    assert_int_equal(put(b, "app", "id-69999", "x", 1), INBOX_DUPLICATE);
    assert_int_equal(inbox_newest(b), 400);
    inbox_close(b);
}

static void test_ids_are_kept_since_they_were_last_seen_and_leave_in_the_end(void **state)
{
    const char *dir = dir_of(state);
    struct inbox *b = must_open_inbox(dir);
    submit_ids(b);
    assert_int_equal(put(b, "app", "kept", "a", 1), INBOX_STORED);
    now_us += 6 * DAY;
    assert_int_equal(put(b, "app", "kept", "a", 1), INBOX_DUPLICATE);
    now_us += 6 * DAY; /* 12 days after it came, 6 after it was last seen */
    assert_int_equal(put(b, "app", "kept", "a", 1), INBOX_DUPLICATE);
    assert_int_equal(put(b, "app", "id-5", "b", 1), INBOX_STORED);
    assert_int_equal(put(b, "app", "id-5", "b", 1), INBOX_DUPLICATE);
    /* The others are not asked for again. They go, a slice at a time, while the days pass. */
    WAIT_UNTIL((put(b, "app", NULL, "a", 0), meddle(dir, "SELECT count(*) FROM seen")) > 65000);
    WAIT_UNTIL((turn(b), meddle(dir, "SELECT count(*) FROM seen")) <= 2);
    WAIT_UNTIL((turn(b), meddle(dir, "SELECT ids FROM meta")) <= 2);
    assert_int_equal(put(b, "app", "kept", "a", 1), INBOX_DUPLICATE);
    assert_int_equal(put(b, "app", "id-6", "b", 1), INBOX_STORED);
    inbox_close(b);
}

/* ---- large deliveries ---- */

/* 40 events of 100,000 bytes, and one of 2 MiB in between. */
static void build_large(struct buf *out)
{
    static char bytes[2u << 20];
    buf_init(out, SIZE_MAX);
    for (int i = 0; i < 41; i++) {
        memset(bytes, 'a' + i % 26, sizeof(bytes));
        size_t len = i == 20 ? sizeof(bytes) : 100000;
        assert_int_equal(buf_put_bytes(out, (struct str){bytes, len}), STATUS_OK);
    }
}

struct sums {
    uint64_t rows, events, bytes, largest;
};

static enum status add_row(void *ctx, const struct inbox_row *row, struct error *err)
{
    (void)err;
    struct sums *s = ctx;
    struct reader r = reader_of(row->events.ptr, row->events.len);
    for (uint32_t i = 0; i < row->n_events; i++) {
        struct str event = reader_blob(&r);
        assert_false(r.bad);
        assert_int_equal(event.ptr[0], 'a' + s->events % 26);
        s->events++;
    }
    assert_int_equal(reader_left(&r), 0);
    s->rows++;
    s->bytes += row->events.len;
    if (row->events.len > s->largest && row->n_events > 1)
        s->largest = row->events.len;
    return STATUS_OK;
}

static struct sums read_all(struct inbox *b)
{
    struct sums s = {0};
    struct error err = {0};
    enum status st = STATUS_OK;
    while (!st) {
        uint64_t before = s.rows;
        st = inbox_read(b, inbox_view(b).trimmed + s.rows, 1000, add_row, &s, &err);
        assert_true(st || s.rows > before);
    }
    if (st != STATUS_END)
        fail_msg("%s", err.text);
    return s;
}

static void test_a_large_delivery_is_several_rows(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    struct buf text;
    build_large(&text);
    struct inbox_delivery d = {
        .source = STR("influx"), .id = STR("1"), .events = {text.data, text.len}, .n_events = 41};
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_int_equal(put_delivery(b, &d), INBOX_DUPLICATE);
    struct sums s = read_all(b);
    assert_int_equal(s.events, 41);
    assert_int_equal(s.bytes, text.len);
    assert_int_equal(s.rows, 5); /* 10 + 10, the large one, 10 + 10 */
    assert_in_range(s.largest, 900000, 1u << 20);
    assert_int_equal(inbox_view(b).bytes, text.len);
    buf_deinit(&text);
    inbox_close(b);
}

static void die_in_a_large_delivery(const char *dir)
{
    struct inbox *b = must_open_inbox(dir);
    struct buf text;
    build_large(&text);
    struct inbox_delivery d = {
        .source = STR("influx"), .events = {text.data, text.len}, .n_events = 41};
    (void)put_delivery(b, &d);
}

static void test_a_large_delivery_is_there_whole_or_not_at_all(void **state)
{
    must_be_killed("inbox_before_commit:1:abort", die_in_a_large_delivery, dir_of(state));
    struct inbox *b = must_open_inbox(dir_of(state));
    assert_int_equal(read_all(b).events, 0);
    inbox_close(b);
    must_be_killed("inbox_after_commit:1:abort", die_in_a_large_delivery, dir_of(state));
    b = must_open_inbox(dir_of(state));
    assert_int_equal(read_all(b).events, 41);
    inbox_close(b);
}

static void test_what_is_larger_than_any_may_be_is_refused(void **state)
{
    struct inbox_config cfg = config(dir_of(state));
    cfg.bytes_max = 1000;
    struct inbox *b = must_open_with(&cfg);
    char bytes[1200] = {(char)0xAE, 9}; /* varint of 1198 */
    struct inbox_delivery d = {
        .source = STR("app"), .events = {bytes, sizeof(bytes)}, .n_events = 1};
    struct error err = {0};
    assert_int_equal(inbox_submit(b, &d, NULL, NULL, &err), STATUS_LIMIT);
    inbox_close(b);
}

/* ---- trimming and bounds ---- */

static void test_trimmed_rows_go_and_their_bytes_are_counted_no_more(void **state)
{
    const char *dir = dir_of(state);
    struct inbox *b = must_open_inbox(dir);
    for (int i = 0; i < 5000; i++) {
        struct inbox_delivery d = {.source = STR("app"), .events = STR("\3abc"), .n_events = 1};
        must_submit(b, &d, NULL);
    }
    assert_int_equal(put(b, "app", NULL, "a", 1), INBOX_STORED); /* 4 bytes as well */
    assert_int_equal(inbox_view(b).bytes, 4 * 5001);
    inbox_trim(b, 4000);
    inbox_trim(b, 3000); /* never back */
    assert_int_equal(inbox_view(b).trimmed, 4000);
    WAIT_UNTIL(inbox_view(b).bytes == 4 * 1001);
    assert_int_equal(meddle(dir, "SELECT min(id) FROM delivery"), 4001);
    inbox_close(b);
    b = must_open_inbox(dir);
    assert_int_equal(inbox_view(b).bytes, 4 * 1001);
    assert_int_equal(inbox_view(b).trimmed, 4000);
    inbox_trim(b, UINT64_MAX); /* everything there is, not what comes */
    WAIT_UNTIL(inbox_view(b).bytes == 0);
    inbox_close(b);
    b = must_open_inbox(dir);
    assert_int_equal(inbox_newest(b), 5001);
    assert_int_equal(put(b, "app", NULL, "b", 1), INBOX_STORED);
    assert_rows(b, 5001, "5002 app 77 b-1\n");
    inbox_close(b);
}

static void test_a_full_inbox_takes_nothing_until_it_is_trimmed(void **state)
{
    struct inbox_config cfg = config(dir_of(state));
    cfg.bytes_max = 100;
    struct inbox *b = must_open_with(&cfg);
    struct inbox_delivery d = {.source = STR("app"), .events = STR("\3abc"), .n_events = 1};
    for (int i = 0; i < 25; i++)
        must_submit(b, &d, NULL);
    struct error err = {0};
    assert_int_equal(inbox_submit(b, &d, NULL, NULL, &err), STATUS_AGAIN);
    WAIT_UNTIL(inbox_view(b).queued == 0);
    assert_int_equal(inbox_submit(b, &d, NULL, NULL, &err), STATUS_AGAIN);
    assert_non_null(strstr(err.text, "100 bytes"));
    inbox_close(b);
    b = must_open_with(&cfg); /* it is still full */
    assert_int_equal(inbox_submit(b, &d, NULL, NULL, &err), STATUS_AGAIN);
    inbox_trim(b, 24);
    WAIT_UNTIL(inbox_view(b).bytes == 4);
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    inbox_close(b);
}

static void hang_then_fill(const char *dir)
{
    struct inbox *b = must_open_inbox(dir);
    struct inbox_delivery d = {.source = STR("app"), .events = STR("\3abc"), .n_events = 1};
    struct error err = {0};
    enum status st = STATUS_OK;
    int n = 0;
    for (; n < 100000 && !st; n++)
        st = inbox_submit(b, &d, NULL, NULL, &err);
    _exit(st == STATUS_AGAIN && n > 1000 && n < 100000 ? 0 : 1);
}

static void test_a_queue_that_nobody_empties_is_bounded(void **state)
{
    /* The writer stops for good in its first commit. */
    assert_false(run_child("inbox_before_commit:1:hang", hang_then_fill, dir_of(state)));
}

static void test_the_wal_is_bounded_beside_a_reader(void **state)
{
    const char *dir = dir_of(state);
    struct inbox *b = must_open_inbox(dir);
    static char bytes[65536 + 3] = {(char)0x80, (char)0x80, 4};
    struct inbox_delivery d = {
        .source = STR("app"), .events = {bytes, sizeof(bytes)}, .n_events = 1};
    struct sums s = {0};
    for (int i = 0; i < 1500; i++) { /* 100 MB */
        must_submit(b, &d, NULL);
        uint64_t seen = inbox_newest(b);
        (void)seen;
        if (i % 4 == 3) {
            WAIT_UNTIL(inbox_view(b).queued == 0);
            inbox_trim(b, inbox_newest(b));
        }
    }
    (void)s;
    char path[160];
    struct stat st;
    snprintf(path, sizeof(path), "%s/inbox.db-wal", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 1, 64u << 20);
    snprintf(path, sizeof(path), "%s/inbox.db", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_in_range(st.st_size, 1, 32u << 20);
    inbox_close(b);
}

/* ---- cursors ---- */

static void assert_cursor(struct inbox *b, const char *source, const char *expected)
{
    struct buf out;
    buf_init(&out, 1000);
    struct error err = {0};
    enum status st = inbox_cursor(b, str_from(source), &out, &err);
    assert_int_equal(st, expected ? STATUS_OK : STATUS_END);
    if (expected)
        assert_true(str_equal((struct str){out.data, out.len}, str_from(expected)));
    buf_deinit(&out);
}

static void put_two_pages_and_die(const char *dir)
{
    struct inbox *b = must_open_inbox(dir);
    struct buf text;
    struct inbox_delivery d = delivery(&text, "pull", NULL, "page", 1);
    d.cursor = STR("page 1");
    (void)put_delivery(b, &d);
    d.cursor = STR("page 2");
    (void)put_delivery(b, &d);
}

static void test_a_cursor_moves_with_its_events(void **state)
{
    must_be_killed("inbox_before_commit:2:abort", put_two_pages_and_die, dir_of(state));
    struct inbox *b = must_open_inbox(dir_of(state));
    assert_int_equal(inbox_newest(b), 1);
    assert_cursor(b, "pull", "page 1");
    assert_cursor(b, "other", NULL);
    inbox_close(b);
    must_be_killed("inbox_after_commit:2:abort", put_two_pages_and_die, dir_of(state));
    b = must_open_inbox(dir_of(state));
    assert_int_equal(inbox_newest(b), 3);
    assert_cursor(b, "pull", "page 2");
    /* An empty cursor is one too. */
    struct inbox_delivery d = {.source = STR("pull"), .events = STR(""), .cursor = STR("")};
    assert_int_equal(put_delivery(b, &d), INBOX_STORED);
    assert_cursor(b, "pull", "");
    inbox_close(b);
}

/* ---- crashes ---- */

/* Submits forty deliveries with ids, twice each, from two waits, and says on a pipe which were
 * answered. */
static int answers_fd;

static void say(void *ctx, enum inbox_outcome outcome)
{
    char line[2] = {*(char *)ctx, (char)('0' + outcome)};
    assert_int_equal(write(answers_fd, line, 2), 2);
}

static void submit_until_killed(const char *dir)
{
    struct inbox *b = must_open_inbox(dir);
    static char names[40];
    for (int i = 0; i < 40; i++) {
        names[i] = (char)('A' + i);
        struct inbox_delivery d = {.source = STR("app"),
                                   .id = {&names[i], 1},
                                   .events = {(char[]){1, names[i]}, 2},
                                   .n_events = 1};
        for (int twice = 0; twice < 2; twice++)
            if (inbox_submit(b, &d, say, &names[i], NULL))
                _exit(1);
        if (i % 3 == 0)
            WAIT_UNTIL(inbox_view(b).queued == 0);
    }
    inbox_close(b);
    _exit(0);
}

static enum status tick_off(void *ctx, const struct inbox_row *row, struct error *err)
{
    (void)err;
    int *n = ctx;
    assert_int_equal(row->events.len, 2);
    n[row->events.ptr[1] - 'A']++;
    return STATUS_OK;
}

static void check_crash(const char *dir, const char *point, int nth)
{
    char spec[64];
    int fds[2];
    snprintf(spec, sizeof(spec), "%s:%d:abort", point, nth);
    assert_int_equal(pipe(fds), 0);
    answers_fd = fds[1];
    must_be_killed(spec, submit_until_killed, dir);
    close(fds[1]);
    bool acknowledged[40] = {false};
    char line[2];
    while (read(fds[0], line, 2) == 2)
        acknowledged[line[0] - 'A'] |= line[1] != '0' + INBOX_FAILED;
    close(fds[0]);

    struct inbox *b = must_open_inbox(dir);
    for (int again = 0; again < 2; again++) {
        int n[40] = {0};
        struct error err = {0};
        enum status st = inbox_read(b, 0, 1000, tick_off, n, &err);
        assert_true(st == STATUS_OK || st == STATUS_END);
        for (int i = 0; i < 40; i++)
            assert_in_range(n[i], again || acknowledged[i] ? 1 : 0, 1);
        /* Whoever had no answer asks again. */
        for (int i = 0; i < 40; i++) {
            char name = (char)('A' + i);
            struct inbox_delivery d = {.source = STR("app"),
                                       .id = {&name, 1},
                                       .events = {(char[]){1, name}, 2},
                                       .n_events = 1};
            assert_int_equal(put_delivery(b, &d), n[i] ? INBOX_DUPLICATE : INBOX_STORED);
        }
    }
    assert_int_equal(inbox_newest(b), 40);
    inbox_close(b);
}

static void test_what_was_answered_outlives_a_kill_and_nothing_is_there_twice(void **state)
{
    for (int nth = 1; nth <= 9; nth += 2) {
        char dir[160];
        snprintf(dir, sizeof(dir), "%s-%d", dir_of(state), nth);
        check_crash(dir, "inbox_before_commit", nth);
        snprintf(dir, sizeof(dir), "%s-%d-after", dir_of(state), nth);
        check_crash(dir, "inbox_after_commit", nth);
    }
}

/* ---- failures ---- */

static void test_a_failed_commit_ends_it_for_good(void **state)
{
    assert_int_equal(fault_arm("inbox_before_commit:2:fail", NULL), STATUS_OK);
    struct inbox *b = must_open_inbox(dir_of(state));
    assert_int_equal(put(b, "app", "1", "a", 1), INBOX_STORED);
    assert_int_equal(inbox_health(b, NULL), STATUS_OK);
    assert_int_equal(put(b, "app", "2", "b", 1), INBOX_FAILED);
    struct error err = {0};
    assert_int_equal(inbox_health(b, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "inbox.db"));
    assert_int_equal(put(b, "app", "3", "c", 1), INBOX_FAILED);
    inbox_close(b);
    assert_int_equal(fault_arm(NULL, NULL), STATUS_OK);
    b = must_open_inbox(dir_of(state));
    assert_rows(b, 0, "1 app 77 a-1\n");
    assert_int_equal(put(b, "app", "2", "b", 1), INBOX_STORED);
    inbox_close(b);
}

/* For a child, where an assertion of cmocka would go on with the other tests. */
#define must(cond)                                                     \
    do {                                                               \
        if (!(cond)) {                                                 \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #cond); \
            _exit(1);                                                  \
        }                                                              \
    } while (0)

/* A limit on the size of files stands for a disk without room. */
static void fill_the_disk(const char *dir)
{
    signal(SIGXFSZ, SIG_IGN);
    struct inbox *b = must_open_inbox(dir);
    must(put(b, "app", "1", "a", 1) == INBOX_STORED);
    struct rlimit limit = {0, RLIM_INFINITY};
    char path[160];
    struct stat st;
    snprintf(path, sizeof(path), "%s/inbox.db-wal", dir);
    must(stat(path, &st) == 0);
    limit.rlim_cur = (rlim_t)st.st_size + 65536;
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0);

    static char bytes[300003] = {(char)0xE0, (char)0xA7, 18};
    struct inbox_delivery large = {
        .source = STR("app"), .id = STR("large"), .events = {bytes, sizeof(bytes)}, .n_events = 1};
    must(put_delivery(b, &large) == INBOX_FAILED);
    must(inbox_health(b, NULL) == STATUS_OK);
    must(inbox_view(b).full);
    must(put(b, "app", "2", "b", 1) == INBOX_STORED); /* that one fits */
    must(!inbox_view(b).full);
    limit.rlim_cur = RLIM_INFINITY;
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    must(put_delivery(b, &large) == INBOX_STORED); /* it was not remembered as seen */
    must(inbox_newest(b) == 3);
    inbox_close(b);
}

static void test_a_full_disk_fails_what_does_not_fit_and_nothing_else(void **state)
{
    assert_false(run_child(NULL, fill_the_disk, dir_of(state)));
}

static void assert_not_opened(const char *dir, enum status expected, const char *text)
{
    struct inbox_config cfg = config(dir);
    struct inbox *b = NULL;
    struct error err = {0};
    assert_int_equal(inbox_open(&cfg, &b, &err), expected);
    assert_null(b);
    if (!strstr(err.text, text) || !strstr(err.text, "inbox.db"))
        fail_msg("%s", err.text);
}

static void put_three(const char *dir)
{
    struct inbox *b = must_open_inbox(dir);
    for (int i = 0; i < 3; i++)
        assert_int_equal(put(b, "app", NULL, "a", 1), INBOX_STORED);
    inbox_close(b);
}

static void test_damage_is_found_and_named(void **state)
{
    const char *dir = dir_of(state);
    put_three(dir);
    meddle(dir, "UPDATE delivery SET events = x'0361627a' WHERE id = 2");
    struct inbox *b = must_open_inbox(dir);
    struct buf text;
    struct error err = {0};
    buf_init(&text, SIZE_MAX);
    assert_int_equal(inbox_read(b, 0, 10, dump_row, &text, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "row 2 fails its checksum"));
    inbox_close(b);

    meddle(dir, "DELETE FROM delivery WHERE id = 2");
    b = must_open_inbox(dir);
    assert_int_equal(inbox_read(b, 0, 10, dump_row, &text, &err), STATUS_CORRUPT);
    assert_non_null(strstr(err.text, "row 2 is missing"));
    inbox_close(b);
    buf_deinit(&text);

    meddle(dir, "DELETE FROM delivery WHERE id = 3");
    assert_not_opened(dir, STATUS_CORRUPT, "move it away");
    meddle(dir, "DELETE FROM meta");
    assert_not_opened(dir, STATUS_CORRUPT, "move it away");
    meddle(dir, "PRAGMA user_version = 99");
    assert_not_opened(dir, STATUS_REFUSED, "newer version");
    char path[160];
    snprintf(path, sizeof(path), "%s/inbox.db", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("this is not a database, and it is longer than the header of one is: ................",
          f);
    fputs("................................................................................", f);
    fclose(f);
    assert_not_opened(dir, STATUS_CORRUPT, "move it away");
}

static void test_a_lost_file_gives_no_id_again(void **state)
{
    const char *dir = dir_of(state);
    put_three(dir);
    struct inbox_config cfg = config(dir);
    cfg.applied = 2; /* workers lag: nothing happens */
    struct inbox *b = must_open_with(&cfg);
    assert_rows(b, 2, "3 app 77 a-1\n");
    inbox_close(b);
    cfg.applied = 90; /* the file is an old copy */
    for (int i = 0; i < 2; i++) {
        b = must_open_with(&cfg);
        assert_int_equal(inbox_newest(b), 90);
        assert_int_equal(inbox_view(b).bytes, 0);
        assert_rows(b, 0, "");
        inbox_close(b);
    }
    b = must_open_with(&cfg);
    assert_int_equal(put(b, "app", NULL, "b", 1), INBOX_STORED);
    assert_rows(b, 90, "91 app 77 b-1\n");
    inbox_close(b);
}

/* ---- another process ---- */

static void append_one(const char *dir)
{
    struct inbox_delivery d = {.source = STR("dlq"),
                               .id = STR("again"),
                               .received_us = 5,
                               .events = STR("\3abc"),
                               .n_events = 1};
    struct error err = {0};
    if (inbox_append(dir, &d, &err)) {
        fprintf(stderr, "%s\n", err.text);
        _exit(1);
    }
}

static void test_what_another_process_appends_is_found_and_announced(void **state)
{
    const char *dir = dir_of(state);
    struct inbox_delivery d = {.source = STR("dlq"), .events = STR("\3abc"), .n_events = 1};
    struct error err = {0};
    assert_int_equal(inbox_append(dir, &d, &err), STATUS_END);
    struct inbox *b = must_open_inbox(dir);
    assert_int_equal(put(b, "app", NULL, "a", 1), INBOX_STORED);
    assert_false(run_child(NULL, append_one, dir));
    WAIT_UNTIL(atomic_load(&announced) == 2);
    assert_rows(b, 1, "2 dlq 5 abc\n");
    assert_false(run_child(NULL, append_one, dir)); /* its id is known */
    assert_int_equal(put(b, "app", NULL, "b", 1), INBOX_STORED);
    assert_rows(b, 2, "3 app 77 b-1\n");
    inbox_close(b);
    assert_false(run_child(NULL, append_one, dir)); /* while nobody runs */
    assert_int_equal(inbox_append(dir, &d, &err), STATUS_OK);
    b = must_open_inbox(dir);
    assert_rows(b, 3, "4 dlq 0 abc\n");
    inbox_close(b);
}

/* ---- many threads ---- */

struct submitter {
    pthread_t thread;
    struct inbox *b;
    struct waiter w;
    int index;
};

static void *submit_many(void *arg)
{
    struct submitter *s = arg;
    char id[16];
    for (int i = 0; i < 500; i++) {
        /* Every second id is one that another thread submits too. */
        int len = snprintf(id, sizeof(id), "%d-%d", i % 2 ? s->index : s->index & ~1, i);
        char event[17] = {(char)len};
        memcpy(event + 1, id, (size_t)len);
        struct inbox_delivery d = {.source = STR("app"),
                                   .id = {id, (size_t)len},
                                   .events = {event, (size_t)len + 1},
                                   .n_events = 1};
        must_submit(s->b, &d, &s->w);
        if (i % 7 == 0)
            wait_all(&s->w);
        inbox_trim(s->b, (uint64_t)i);
        (void)inbox_view(s->b);
    }
    wait_all(&s->w);
    return NULL;
}

static enum status count_row(void *ctx, const struct inbox_row *row, struct error *err)
{
    (void)err;
    uint64_t *last = ctx;
    assert_true(row->id == *last + 1 || row->id <= 500);
    *last = row->id;
    return STATUS_OK;
}

static void test_many_threads_submit_while_one_reads(void **state)
{
    struct inbox *b = must_open_inbox(dir_of(state));
    struct submitter all[8] = {0};
    for (int i = 0; i < 8; i++) {
        all[i].b = b;
        all[i].index = i;
        assert_int_equal(pthread_create(&all[i].thread, NULL, submit_many, &all[i]), 0);
    }
    uint64_t last = 0;
    struct error err = {0};
    WAIT_UNTIL(inbox_read(b, last, 50, count_row, &last, &err) != STATUS_CORRUPT && last == 3000);
    int stored = 0, duplicates = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(all[i].thread, NULL);
        stored += all[i].w.n[INBOX_STORED];
        duplicates += all[i].w.n[INBOX_DUPLICATE];
        assert_int_equal(all[i].w.n[INBOX_FAILED], 0);
    }
    assert_int_equal(stored, 3000); /* 8 * 250 of their own, 4 * 250 of two */
    assert_int_equal(duplicates, 1000);
    assert_int_equal(inbox_newest(b), 3000);
    inbox_close(b);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_rows_are_dense_in_order_and_outlive_a_reopen),
        TEST(test_files_are_for_the_owner_alone),
        TEST(test_a_delivery_without_events_keeps_its_id_and_cursor_only),
        TEST(test_a_reader_that_refuses_a_row_stops_there),
        TEST(test_a_delivery_is_known_within_a_group_across_groups_and_restarts),
        TEST(test_long_ids_differ_in_their_last_byte),
        TEST(test_many_ids_are_known_wherever_they_are_and_after_restarts),
        TEST(test_ids_are_kept_since_they_were_last_seen_and_leave_in_the_end),
        TEST(test_a_large_delivery_is_several_rows),
        TEST(test_a_large_delivery_is_there_whole_or_not_at_all),
        TEST(test_what_is_larger_than_any_may_be_is_refused),
        TEST(test_trimmed_rows_go_and_their_bytes_are_counted_no_more),
        TEST(test_a_full_inbox_takes_nothing_until_it_is_trimmed),
        TEST(test_a_queue_that_nobody_empties_is_bounded),
        TEST(test_the_wal_is_bounded_beside_a_reader),
        TEST(test_a_cursor_moves_with_its_events),
        TEST(test_what_was_answered_outlives_a_kill_and_nothing_is_there_twice),
        TEST(test_a_failed_commit_ends_it_for_good),
        TEST(test_a_full_disk_fails_what_does_not_fit_and_nothing_else),
        TEST(test_damage_is_found_and_named),
        TEST(test_a_lost_file_gives_no_id_again),
        TEST(test_what_another_process_appends_is_found_and_announced),
        TEST(test_many_threads_submit_while_one_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
