/* tests/pipeline/test_frame.c - frames read back as written; foreign or cut bytes are refused. */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "core/limits.h"
#include "pipeline/frame.h"

static void make_frame(struct buf *b)
{
    struct frame_header h = {FRAME_EVENTS, 9, -5, {UINT64_C(0xABCDEF0123), 77}, 2, 7, 8};
    assert_int_equal(frame_put_header(b, &h), STATUS_OK);
    struct frame_event e = {SOURCE_INBOX, 63, 1, {2, 3}, 4, -6, STR("first"), REBUILD_NONE};
    assert_int_equal(frame_put_event(b, &e), STATUS_OK);
    e = (struct frame_event){SOURCE_POSTGRES, 0,         UINT64_MAX, {UINT64_MAX, 0},
                             INT64_MAX,       INT64_MIN, STR(""),    REBUILD_ROW};
    assert_int_equal(frame_put_event(b, &e), STATUS_OK);
}

static void test_a_frame_reads_back_as_written(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    make_frame(&b);
    struct frame_reader r;
    assert_int_equal(frame_reader_init(&r), STATUS_OK);
    struct frame_header h;
    assert_int_equal(frame_open(&r, (struct str){b.data, b.len}, &h, NULL), STATUS_OK);
    assert_int_equal(h.kind, FRAME_EVENTS);
    assert_int_equal(h.number, 9);
    assert_int_equal(h.as_of_us, -5);
    assert_true(h.covered[SOURCE_POSTGRES] == UINT64_C(0xABCDEF0123));
    assert_int_equal(h.covered[SOURCE_INBOX], 77);
    assert_int_equal(h.n, 2);
    assert_int_equal(h.opened, 7);
    assert_int_equal(h.closed, 8);
    struct frame_event e;
    assert_int_equal(frame_next_event(&r, &e, NULL), STATUS_OK);
    assert_int_equal(e.source, SOURCE_INBOX);
    assert_int_equal(e.partition, 63);
    assert_int_equal(e.pseq, 1);
    assert_int_equal(e.pos.lsn, 2);
    assert_int_equal(e.pos.seq, 3);
    assert_int_equal(e.commit_us, 4);
    assert_int_equal(e.as_of_us, -6);
    assert_true(str_equal(e.bytes, STR("first")));
    assert_int_equal(frame_next_event(&r, &e, NULL), STATUS_OK);
    assert_int_equal(e.source, SOURCE_POSTGRES);
    assert_true(e.pseq == UINT64_MAX && e.pos.lsn == UINT64_MAX);
    assert_true(e.commit_us == INT64_MAX && e.as_of_us == INT64_MIN);
    assert_int_equal(e.bytes.len, 0);
    frame_reader_deinit(&r);
    buf_deinit(&b);
}

/* Every prefix of a good frame fails somewhere, without reading beyond it (ASan watches). */
static void test_a_frame_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    make_frame(&b);
    struct frame_reader r;
    assert_int_equal(frame_reader_init(&r), STATUS_OK);
    for (size_t n = 0; n < b.len; n++) {
        char *exact = test_malloc(n + 1);
        memcpy(exact, b.data, n);
        struct frame_header h;
        struct frame_event e;
        enum status st = frame_open(&r, (struct str){exact, n}, &h, NULL);
        for (int i = 0; i < 2 && !st; i++)
            st = frame_next_event(&r, &e, NULL);
        assert_int_equal(st, STATUS_PROTOCOL);
        test_free(exact);
    }
    frame_reader_deinit(&r);
    buf_deinit(&b);
}

static void test_a_partition_beyond_the_last_is_refused(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    struct frame_header h = {.kind = FRAME_HELLO, .n = 1};
    struct frame_applied a = {SOURCE_POSTGRES, LIMIT_PARTITIONS, {1, 1}, 1};
    assert_int_equal(frame_put_header(&b, &h), STATUS_OK);
    assert_int_equal(frame_put_applied(&b, &a), STATUS_OK);
    struct frame_reader r;
    assert_int_equal(frame_reader_init(&r), STATUS_OK);
    assert_int_equal(frame_open(&r, (struct str){b.data, b.len}, &h, NULL), STATUS_OK);
    assert_int_equal(frame_next_applied(&r, &a, NULL), STATUS_PROTOCOL);
    frame_reader_deinit(&r);
    buf_deinit(&b);
}

static void test_sums_read_back_and_are_refused_when_cut(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    struct frame_header h = {.kind = FRAME_SUMS, .number = 3, .n = 1, .opened = 20459};
    assert_int_equal(frame_put_header(&b, &h), STATUS_OK);
    struct frame_sums s = {STR("elena"), STR("\x01\x00")};
    assert_int_equal(frame_put_sums(&b, &s), STATUS_OK);
    struct frame_reader r;
    assert_int_equal(frame_reader_init(&r), STATUS_OK);
    for (size_t n = 0; n <= b.len; n++) {
        char *exact = test_malloc(n + 1);
        memcpy(exact, b.data, n);
        enum status st = frame_open(&r, (struct str){exact, n}, &h, NULL);
        if (!st)
            st = frame_next_sums(&r, &s, NULL);
        assert_int_equal(st, n < b.len ? STATUS_PROTOCOL : STATUS_OK);
        if (!st)
            assert_true(str_equal(s.bot_name, STR("elena")) && s.bytes.len == 2);
        test_free(exact);
    }
    assert_int_equal(h.opened, 20459);
    frame_reader_deinit(&r);
    buf_deinit(&b);
}

/* Fields came and went between versions: only the version is looked at first. */
static void test_a_frame_of_another_version_is_refused_by_its_version(void **state)
{
    (void)state;
    static const char first_version[] = {'\x97', 1, 1, 0, 1, 0, 0, 0};
    struct frame_reader r;
    struct frame_header h;
    struct error err = {0};
    assert_int_equal(frame_reader_init(&r), STATUS_OK);
    struct str bytes = {first_version, sizeof(first_version)};
    assert_int_equal(frame_open(&r, bytes, &h, &err), STATUS_PROTOCOL);
    assert_non_null(strstr(err.text, "frame version 1"));
    frame_reader_deinit(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_frame_reads_back_as_written),
        cmocka_unit_test(test_a_frame_cut_anywhere_is_refused),
        cmocka_unit_test(test_a_partition_beyond_the_last_is_refused),
        cmocka_unit_test(test_sums_read_back_and_are_refused_when_cut),
        cmocka_unit_test(test_a_frame_of_another_version_is_refused_by_its_version),
    };
    return cmocka_run_group_tests_name("pipeline/frame", tests, NULL, NULL);
}
