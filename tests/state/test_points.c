/*
 * tests/state/test_points.c - what is remembered of points stays, is never ahead of the inbox, and
 * two sweeps have to agree before one is gone.
 */
#include "state/points.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static struct points *points;

static enum status reopen(bool *ret_lost)
{
    struct error err;
    points_close(points);
    points = NULL;
    return points_open(dir, "mem", &points, ret_lost, &err);
}

static int setup(void **state)
{
    bool lost = true;
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/warmpath-points-XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_int_equal(reopen(&lost), STATUS_OK);
    assert_false(lost);
    return 0;
}

static int teardown(void **state)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    (void)state;
    points_close(points);
    points = NULL;
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof(path), "%s/qdrant-mem.db%s", dir, suffixes[i]);
        (void)unlink(path);
    }
    return rmdir(dir);
}

static void put(const char *id, const char *known, uint64_t delivery)
{
    assert_int_equal(points_change(points, NULL), STATUS_OK);
    assert_int_equal(points_put(points, str_from(id), str_from(known), NULL), STATUS_OK);
    assert_int_equal(points_commit(points, delivery, NULL), STATUS_OK);
}

/* "" when it was never seen. */
static const char *known(const char *id)
{
    static char text[64];
    struct str bytes = STR("");
    enum status st = points_find(points, str_from(id), &bytes, NULL);
    assert_true(st == STATUS_OK || st == STATUS_END);
    snprintf(text, sizeof(text), STR_FMT, STR_ARGS(bytes));
    return text;
}

/* A sweep that finds the ids, which end with NULL. */
static void sweep(const char *const *ids, uint64_t total, uint64_t missing)
{
    uint64_t got_total = 0, got_missing = 0;
    assert_int_equal(points_sweep_begin(points, NULL), STATUS_OK);
    for (; *ids; ids++)
        (void)known(*ids);
    assert_int_equal(points_sweep_end(points, 77, &got_total, &got_missing, NULL), STATUS_OK);
    assert_int_equal(got_total, total);
    assert_int_equal(got_missing, missing);
}
#define SWEEP(total, missing, ...) sweep((const char *const[]){__VA_ARGS__, NULL}, total, missing)

static enum status collect(void *ctx, struct str id, struct str bytes, struct error *err)
{
    struct buf *out = ctx;
    (void)err;
    return buf_printf(out, STR_FMT "=" STR_FMT " ", STR_ARGS(id), STR_ARGS(bytes));
}

static void assert_gone(const char *want)
{
    struct buf out;
    buf_init(&out, 1000);
    assert_int_equal(points_gone(points, 10, collect, &out, NULL), STATUS_OK);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    assert_string_equal(out.data, want);
    buf_deinit(&out);
}

static void test_what_was_put_is_found_after_opening_again(void **state)
{
    (void)state;
    bool lost = true;
    assert_string_equal(known("1"), "");
    put("1", "one", 1);
    put("2", "two", 2);
    put("1", "uno", 3);
    assert_int_equal(reopen(&lost), STATUS_OK);
    assert_false(lost);
    assert_string_equal(known("1"), "uno");
    assert_string_equal(known("2"), "two");
    assert_int_equal(points_delivery(points), 3);
    assert_int_equal(points_change(points, NULL), STATUS_OK);
    assert_int_equal(points_remove(points, STR("1"), NULL), STATUS_OK);
    assert_int_equal(points_commit(points, 4, NULL), STATUS_OK);
    assert_string_equal(known("1"), "");
}

static void test_it_never_knows_more_than_the_inbox(void **state)
{
    (void)state;
    put("1", "one", 5);
    assert_int_equal(points_begin(points, 5, NULL), STATUS_OK);
    assert_string_equal(known("1"), "one");
    assert_int_equal(points_begin(points, 9, NULL), STATUS_OK); /* a crash came before the last */
    assert_string_equal(known("1"), "one");
    assert_int_equal(points_begin(points, 4, NULL), STATUS_OK);
    assert_string_equal(known("1"), "");
    assert_int_equal(points_delivery(points), 0);
}

static void test_two_sweeps_in_a_row_have_to_miss_a_point(void **state)
{
    (void)state;
    put("a", "A", 1);
    put("b", "B", 2);
    put("c", "C", 3);
    SWEEP(3, 0, "a", "b", "c");
    SWEEP(3, 2, "b");
    assert_gone("");
    SWEEP(3, 2, "a"); /* a is back, b is missing once, c twice */
    assert_gone("c=C ");
    SWEEP(3, 1, "a", "b");
    assert_gone("c=C ");
    put("c", "C2", 4); /* it is there after all */
    assert_gone("");
    assert_int_equal(points_swept_us(points), 77);
}

static void test_a_sweep_that_does_not_end_counts_for_nothing(void **state)
{
    (void)state;
    bool lost;
    put("a", "A", 1);
    put("b", "B", 2);
    SWEEP(2, 1, "a");
    for (int i = 0; i < 3; i++) { /* given up and begun anew; ended by a crash */
        assert_int_equal(points_sweep_begin(points, NULL), STATUS_OK);
        (void)known("a");
        if (i == 1)
            assert_int_equal(reopen(&lost), STATUS_OK);
    }
    assert_gone("");
    SWEEP(2, 0, "a", "b");
    SWEEP(2, 1, "a");
    assert_gone("");
    SWEEP(2, 1, "a"); /* the first was remembered across what came between */
    assert_gone("b=B ");
}

static void test_a_point_that_comes_during_a_sweep_is_there(void **state)
{
    (void)state;
    uint64_t total = 0, missing = 0;
    put("a", "A", 1);
    assert_int_equal(points_sweep_begin(points, NULL), STATUS_OK);
    for (int i = 0; i < 40000; i++) { /* the marks grow on the way */
        char id[16];
        snprintf(id, sizeof(id), "n%d", i);
        if (i == 0)
            assert_int_equal(points_change(points, NULL), STATUS_OK);
        assert_int_equal(points_put(points, str_from(id), STR("N"), NULL), STATUS_OK);
    }
    assert_int_equal(points_commit(points, 2, NULL), STATUS_OK);
    assert_int_equal(points_sweep_end(points, 1, &total, &missing, NULL), STATUS_OK);
    assert_int_equal(total, 40001);
    assert_int_equal(missing, 1);
}

static void test_a_file_that_cannot_be_read_is_begun_anew(void **state)
{
    (void)state;
    char path[128];
    bool lost = false;
    put("a", "A", 1);
    points_close(points);
    points = NULL;
    snprintf(path, sizeof(path), "%s/qdrant-mem.db", dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    for (int i = 0; i < 1000; i++)
        assert_true(fputs("this is no database ", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(reopen(&lost), STATUS_OK);
    assert_true(lost);
    assert_string_equal(known("a"), "");
    put("a", "A", 1);
    assert_string_equal(known("a"), "A");
}

static void test_a_newer_format_is_left_alone(void **state)
{
    (void)state;
    char path[128];
    bool lost = false;
    sqlite3 *db = NULL;
    snprintf(path, sizeof(path), "%s/qdrant-mem.db", dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(reopen(&lost), STATUS_REFUSED);
    assert_false(lost);
}

static bool is_ann(void *ctx, struct str bytes)
{
    (void)ctx;
    return memmem(bytes.ptr, bytes.len, "ann", 3) != NULL;
}

static bool file_has(const char *suffix, const char *word)
{
    static char bytes[1 << 20];
    char path[128];
    snprintf(path, sizeof(path), "%s/qdrant-mem.db%s", dir, suffix);
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(bytes, 1, sizeof(bytes), f) : 0;
    if (f)
        fclose(f);
    return memmem(bytes, n, word, strlen(word)) != NULL;
}

/* Beside who has the file open, and with nothing left of them in it or its WAL. */
static void test_points_of_a_forgotten_user_leave_the_file(void **state)
{
    (void)state;
    put("1", "ann-the-first", 1);
    put("2", "bob", 2);
    put("3", "ann-the-third", 3);
    assert_string_equal(known("2"), "bob"); /* its bytes are still borrowed */
    assert_true(file_has("", "ann-the") || file_has("-wal", "ann-the"));
    assert_int_equal(points_forget(dir, "mem", is_ann, NULL, NULL), STATUS_AGAIN);
    assert_string_equal(known("1"), "");
    assert_int_equal(points_forget(dir, "mem", is_ann, NULL, NULL), STATUS_OK);
    assert_false(file_has("", "ann-the") || file_has("-wal", "ann-the"));
    assert_string_equal(known("2"), "bob");
    assert_string_equal(known("3"), "");
    assert_int_equal(points_forget(dir, "other", is_ann, NULL, NULL), STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_was_put_is_found_after_opening_again, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_it_never_knows_more_than_the_inbox, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_sweeps_in_a_row_have_to_miss_a_point, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_sweep_that_does_not_end_counts_for_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_point_that_comes_during_a_sweep_is_there, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_cannot_be_read_is_begun_anew, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_newer_format_is_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_points_of_a_forgotten_user_leave_the_file, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("state/points", tests, NULL, NULL);
}
