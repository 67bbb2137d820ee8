/* tests/state/test_feed_queue.c - what waits for the destinations of the feed: places, contents,
 * bounds, crashes, and that an erased user is gone from the file. */
#include "state/feed_queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "tests/state/store_support.h"

static const struct feed_destination two[] = {{"app", "", ""}, {"some", "elena,ada", "t2"}};
static struct scratch scratch;
static int64_t now_us;

static struct feed_queue *open_queue(const struct feed_destination *list, size_t n, uint64_t max)
{
    static struct clock clock;
    clock = clock_virtual(&now_us);
    struct feed_queue_config cfg = {.dir = scratch.state,
                                    .destinations = list,
                                    .n_destinations = n,
                                    .rows_max = max,
                                    .clock = &clock};
    struct feed_queue *q = NULL;
    uint64_t dropped = 0;
    struct error err = {0};
    if (feed_queue_open(&cfg, &q, &dropped, &err))
        fail_msg("%s", err.text);
    return q;
}

static int fresh(void **state)
{
    (void)state;
    now_us = INT64_C(1700000000000000);
    scratch_make(&scratch);
    return 0;
}

static int finished(void **state)
{
    (void)state;
    scratch_remove(&scratch);
    return 0;
}

static struct announcement about(const char *user, uint64_t version, const char *tables,
                                 const char *reason)
{
    return (struct announcement){.bot = STR("elena"),
                                 .user = str_from(user),
                                 .tables = str_from(tables),
                                 .reason = str_from(reason),
                                 .row_version = version};
}

static void append(struct feed_queue *q, struct announcement a)
{
    struct error err = {0};
    if (feed_queue_append(q, &a, 1, &err))
        fail_msg("%s", err.text);
}

static struct feed_item next(struct feed_queue *q, size_t d, int64_t after)
{
    struct feed_item item = {0};
    struct error err = {0};
    if (feed_queue_next(q, d, after, &item, &err))
        fail_msg("nothing waits behind %lld: %s", (long long)after, err.text);
    return item;
}

static void assert_nothing(struct feed_queue *q, size_t d, int64_t after)
{
    struct feed_item item;
    assert_int_equal(feed_queue_next(q, d, after, &item, NULL), STATUS_END);
}

static void settle(struct feed_queue *q, size_t d, const struct feed_item *item)
{
    struct feed_settled done = {item->place, item->message, item->erases};
    assert_int_equal(feed_queue_settle(q, d, &done, 1, NULL), STATUS_OK);
}

/* ---- places ---- */

static void test_what_is_newer_takes_over_the_place(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("ann", 1, "t1", "count"));
    struct feed_item before = next(q, 0, 0);
    append(q, about("bob", 2, "t1", "age"));
    append(q, about("ann", 3, "t2,t1", NULL));
    append(q, about(NULL, 4, "t3", "idle"));
    struct feed_item a = next(q, 0, 0);
    assert_string_equal(a.json, "{\"bot_name\":\"elena\",\"user_id\":\"ann\",\"tables\":[\"t1\","
                                "\"t2\"],\"row_version\":3,\"reason\":null}");
    assert_int_equal(a.place, before.place);
    assert_string_not_equal(a.id, before.id); /* another content, another id */
    assert_string_equal(next(q, 0, 0).id, a.id);
    struct feed_item b = next(q, 0, a.place), c = next(q, 0, b.place);
    assert_non_null(strstr(b.json, "\"bob\""));
    assert_non_null(strstr(c.json, "\"user_id\":null"));
    assert_nothing(q, 0, c.place);
}

/* A row that is computed again after a crash is announced again, as it was. */
static void test_what_is_older_does_not_lower_a_version(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("ann", 7, "t1", "count"));
    append(q, about("ann", 5, "t2", "count"));
    struct feed_item a = next(q, 0, 0);
    assert_non_null(strstr(a.json, "[\"t1\",\"t2\"],\"row_version\":7"));
}

static void test_what_was_taken_over_is_not_settled(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("ann", 1, "t1", "count"));
    struct feed_item sent = next(q, 0, 0);
    append(q, about("ann", 2, "t1", "count"));
    settle(q, 0, &sent);
    struct feed_item newer = next(q, 0, 0);
    assert_non_null(strstr(newer.json, "\"row_version\":2"));
    assert_int_equal(feed_queue_bury(q, 0, &sent, "no", NULL), STATUS_OK);
    assert_string_equal(next(q, 0, 0).id, newer.id);
    settle(q, 0, &newer);
    assert_nothing(q, 0, 0);
}

static void test_a_destination_gets_what_it_wants(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 2, 100);
    append(q, about("ann", 1, "t1", "count"));
    append(q, about("bob", 1, "t1,t2", "count"));
    struct announcement other = about("cid", 1, "t2", "count");
    other.bot = STR("elen");
    append(q, other);
    assert_non_null(strstr(next(q, 1, 0).json, "\"bob\""));
    assert_nothing(q, 1, next(q, 1, 0).place);
    struct feed_view all = {0}, some = {0};
    assert_int_equal(feed_queue_view(q, 0, &all, NULL), STATUS_OK);
    assert_int_equal(feed_queue_view(q, 1, &some, NULL), STATUS_OK);
    assert_int_equal(all.waiting, 3);
    assert_int_equal(some.waiting, 1);
    assert_int_equal(some.oldest_us, now_us);
}

/* ---- bounds, dead letters ---- */

static struct {
    int64_t id;
    char what[256];
} letters[16];
static size_t n_letters;

static enum status on_letter(void *ctx, const struct feed_letter *l, struct error *err)
{
    (void)ctx;
    (void)err;
    assert_true(n_letters < 16);
    letters[n_letters].id = l->id;
    snprintf(letters[n_letters++].what, sizeof(letters[0].what), STR_FMT " " STR_FMT " " STR_FMT,
             STR_ARGS(l->destination), STR_ARGS(l->why), STR_ARGS(l->json));
    return STATUS_OK;
}

static size_t read_letters(void)
{
    n_letters = 0;
    assert_int_equal(feed_letters_read(scratch.state, on_letter, NULL, NULL), STATUS_OK);
    return n_letters;
}

static void test_beyond_the_bound_the_oldest_is_a_dead_letter(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 2);
    append(q, about("ann", 1, "t1", "count"));
    append(q, about("bob", 2, "t1", "count"));
    append(q, about("ann", 3, "t1", "count")); /* has a place */
    assert_int_equal(read_letters(), 0);
    append(q, about("cid", 4, "t1", "count"));
    assert_int_equal(read_letters(), 1);
    assert_non_null(strstr(letters[0].what, "app the queue is full (feed.queue) {"));
    assert_non_null(strstr(letters[0].what, "\"ann\""));
    assert_non_null(strstr(next(q, 0, 0).json, "\"bob\""));
    struct feed_item first = next(q, 0, 0);
    settle(q, 0, &first);
    append(q, about("dee", 5, "t1", "count")); /* room again */
    assert_int_equal(read_letters(), 1);
}

static void test_a_dead_letter_goes_back_or_goes(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("ann", 1, "t1", "count"));
    append(q, about("bob", 2, "t1", NULL));
    for (int i = 0; i < 2; i++) {
        struct feed_item item = next(q, 0, 0);
        assert_int_equal(feed_queue_bury(q, 0, &item, "answered 410", NULL), STATUS_OK);
    }
    assert_nothing(q, 0, 0);
    assert_int_equal(read_letters(), 2);
    assert_non_null(strstr(letters[0].what, "\"bob\"")); /* newest first */
    bool found = false;
    int64_t bob = letters[0].id, ann = letters[1].id;
    assert_int_equal(feed_letter_remove(scratch.state, bob, true, &found, NULL), STATUS_OK);
    assert_true(found);
    assert_int_equal(feed_letter_remove(scratch.state, bob, true, &found, NULL), STATUS_OK);
    assert_false(found);
    assert_non_null(strstr(next(q, 0, 0).json, "\"bob\""));
    /* The two connections never give one number twice. */
    struct feed_item again = next(q, 0, 0);
    append(q, about("cid", 3, "t1", "count"));
    assert_string_not_equal(again.id, next(q, 0, again.place).id);
    assert_int_equal(feed_letter_remove(scratch.state, ann, false, &found, NULL), STATUS_OK);
    assert_true(found);
    assert_int_equal(read_letters(), 0);
}

/* ---- erasure ---- */

static bool file_holds(const char *suffix, const char *what)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/" FEED_QUEUE_FILE "%s", scratch.state, suffix);
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    static char bytes[4 << 20];
    size_t n = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    return memmem(bytes, n, what, strlen(what)) != NULL;
}

static void test_an_erased_user_is_announced_once_and_gone(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("the-erased-one", 1, "t1", "count"));
    struct feed_item first = next(q, 0, 0);
    assert_int_equal(feed_queue_bury(q, 0, &first, "no", NULL), STATUS_OK);
    append(q, about("the-erased-one", 2, "t1", "count"));
    append(q, about("another", 2, "t1", "count"));
    assert_int_equal(read_letters(), 1);
    append(q, about("the-erased-one", 3, "t1,t2", ANNOUNCEMENT_ERASE));
    assert_int_equal(read_letters(), 0);
    append(q, about("the-erased-one", 4, "t1", "count")); /* is there again */
    struct feed_item item = next(q, 0, 0);
    assert_true(item.erases);
    assert_non_null(strstr(item.json, "\"row_version\":4,\"reason\":\"erase\""));
    assert_true(file_holds("", "the-erased-one") || file_holds("-wal", "the-erased-one"));
    settle(q, 0, &item);
    assert_false(file_holds("", "the-erased-one"));
    assert_false(file_holds("-wal", "the-erased-one"));
    assert_true(file_holds("", "another") || file_holds("-wal", "another"));
}

/* With every bot at once: nothing that waits names the user but the one announcement of it. */
static void test_a_user_erased_with_every_bot_leaves_one_announcement(void **state)
{
    (void)state;
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    struct announcement a = about("the-erased-one", 1, "t1", "count");
    append(q, a);
    a.bot = STR("another-bot");
    append(q, a);
    append(q, about("another", 2, "t1", "count"));
    a = about("the-erased-one", 3, "t1", ANNOUNCEMENT_ERASE);
    a.bot = STR_NULL;
    append(q, a);
    struct feed_item other = next(q, 0, 0);
    assert_non_null(strstr(other.json, "\"another\""));
    struct feed_item item = next(q, 0, other.place);
    assert_true(item.erases);
    assert_non_null(strstr(item.json, "{\"bot_name\":null,\"user_id\":\"the-erased-one\","));
    settle(q, 0, &item);
    struct feed_view v = {0};
    assert_int_equal(feed_queue_view(q, 0, &v, NULL), STATUS_OK);
    assert_int_equal(v.waiting, 1);
    assert_false(file_holds("", "the-erased-one"));
    assert_false(file_holds("-wal", "the-erased-one"));
}

/* ---- crashes, versions ---- */

static void append_one_and_end(const char *dir)
{
    (void)dir;
    struct feed_queue *q = open_queue(two, 1, 100);
    append(q, about("ann", 1, "t1", "count"));
    feed_queue_close(q);
}

static void test_a_crash_leaves_all_of_it_or_nothing(void **state)
{
    (void)state;
    must_be_killed("feed_before_commit:1:abort", append_one_and_end, scratch.state);
    CLEANUP(feed_queue_closep) struct feed_queue *q = open_queue(two, 1, 100);
    assert_nothing(q, 0, 0);
    must_be_killed("feed_after_commit:1:abort", append_one_and_end, scratch.state);
    assert_non_null(strstr(next(q, 0, 0).json, "\"ann\""));
}

static void test_ids_go_on_after_a_restart(void **state)
{
    (void)state;
    struct feed_queue *q = open_queue(two, 2, 100);
    append(q, about("ann", 1, "t2", "count"));
    struct feed_item item = next(q, 0, 0);
    settle(q, 0, &item);
    feed_queue_close(q);
    q = open_queue(two, 1, 100); /* "some" is not configured any more */
    append(q, about("ann", 2, "t2", "count"));
    assert_string_not_equal(item.id, next(q, 0, 0).id);
    feed_queue_close(q);
    q = open_queue(two, 2, 100);
    assert_nothing(q, 1, 0);
    assert_int_equal(feed_queue_append(q, NULL, 0, NULL), STATUS_OK);
    feed_queue_close(q);
}

static void test_a_newer_format_is_refused(void **state)
{
    (void)state;
    append_one_and_end(NULL);
    char path[160];
    snprintf(path, sizeof(path), "%s/" FEED_QUEUE_FILE, scratch.state);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    struct feed_queue_config cfg = {.dir = scratch.state, .rows_max = 1, .clock = &clock_real};
    struct feed_queue *q = NULL;
    uint64_t dropped = 0;
    struct error err = {0};
    assert_int_equal(feed_queue_open(&cfg, &q, &dropped, &err), STATUS_REFUSED);
    assert_non_null(strstr(err.text, "newer version"));
}

#define QUEUE_TEST(f) cmocka_unit_test_setup_teardown(f, fresh, finished)

int main(void)
{
    const struct CMUnitTest tests[] = {
        QUEUE_TEST(test_what_is_newer_takes_over_the_place),
        QUEUE_TEST(test_what_is_older_does_not_lower_a_version),
        QUEUE_TEST(test_what_was_taken_over_is_not_settled),
        QUEUE_TEST(test_a_destination_gets_what_it_wants),
        QUEUE_TEST(test_beyond_the_bound_the_oldest_is_a_dead_letter),
        QUEUE_TEST(test_a_dead_letter_goes_back_or_goes),
        QUEUE_TEST(test_an_erased_user_is_announced_once_and_gone),
        QUEUE_TEST(test_a_user_erased_with_every_bot_leaves_one_announcement),
        QUEUE_TEST(test_a_crash_leaves_all_of_it_or_nothing),
        QUEUE_TEST(test_ids_go_on_after_a_restart),
        QUEUE_TEST(test_a_newer_format_is_refused),
    };
    return cmocka_run_group_tests_name("state/feed_queue", tests, NULL, NULL);
}
