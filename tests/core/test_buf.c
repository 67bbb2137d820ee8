/* tests/core/test_buf.c - bytes written are read back, ceilings hold, and short reads are noticed.
 */
#include "core/buf.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Every integer of the durable formats survives at the edges of its length classes. */
static void test_integers_are_read_back(void **state)
{
    (void)state;
    static const uint64_t values[] = {0,     1,          127,       128,       16383,
                                      16384, UINT32_MAX, INT64_MAX, UINT64_MAX};
    struct buf b;
    buf_init(&b, 4096);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        assert_int_equal(buf_put_varint(&b, values[i]), STATUS_OK);
        assert_int_equal(buf_put_svarint(&b, (int64_t)values[i]), STATUS_OK);
        assert_int_equal(buf_put_u64(&b, values[i]), STATUS_OK);
    }
    assert_int_equal(buf_put_svarint(&b, INT64_MIN), STATUS_OK);
    struct reader r = reader_of(b.data, b.len);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        assert_true(reader_varint(&r) == values[i]);
        assert_true(reader_svarint(&r) == (int64_t)values[i]);
        assert_true(reader_u64(&r) == values[i]);
    }
    assert_true(reader_svarint(&r) == INT64_MIN);
    assert_false(r.bad);
    assert_int_equal(reader_left(&r), 0);
    buf_deinit(&b);
}

/* The bytes are durable: little-endian, LEB128, zig-zag. */
static void test_the_byte_layout_is_fixed(void **state)
{
    (void)state;
    static const uint8_t expected[] = {0xAC, 0x02, 0x03, 0x08, 0x07, 0x06, 0x05, 0x04,
                                       0x03, 0x02, 0x01, 0x02, 'h',  'i',  0,    0,
                                       0,    0,    0,    0,    0xF8, 0x3F};
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(buf_put_varint(&b, 300), STATUS_OK);
    assert_int_equal(buf_put_svarint(&b, -2), STATUS_OK);
    assert_int_equal(buf_put_u64(&b, UINT64_C(0x0102030405060708)), STATUS_OK);
    assert_int_equal(buf_put_bytes(&b, STR("hi")), STATUS_OK);
    assert_int_equal(buf_put_double(&b, 1.5), STATUS_OK);
    assert_int_equal(b.len, sizeof(expected));
    assert_memory_equal(b.data, expected, sizeof(expected));
    buf_deinit(&b);
}

/* Network order, as PostgreSQL sends it, and NUL-terminated strings. */
static void test_big_endian_and_c_strings_are_read(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 'a', 'b', 0, 'c'};
    struct reader r = reader_of(bytes, sizeof(bytes));
    assert_int_equal(reader_be16(&r), 0x0102);
    assert_int_equal(reader_be32(&r), 0x01020304);
    assert_true(reader_be64(&r) == UINT64_C(0x0102030405060708));
    assert_true(str_equal(reader_cstring(&r), STR("ab")));
    assert_null(reader_cstring(&r).ptr); /* "c" has no end */
    assert_true(r.bad);
}

/* One short read makes every later read return zeros. */
static void test_a_short_read_sticks(void **state)
{
    (void)state;
    struct reader r = reader_of("abc", 3);
    assert_int_equal(reader_be32(&r), 0);
    assert_true(r.bad);
    assert_int_equal(reader_u8(&r), 0);
    assert_int_equal(reader_left(&r), 0);

    r = reader_of("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11); /* 11 bytes of varint */
    assert_true(reader_varint(&r) == 0);
    assert_true(r.bad);

    r = reader_of("\x05"
                  "abc",
                  4); /* a blob that claims more than there is */
    assert_null(reader_blob(&r).ptr);
    assert_true(r.bad);
}

/* An append beyond the ceiling fails and changes nothing. */
static void test_the_ceiling_holds(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(buf_append(&b, "12345678", 8), STATUS_OK);
    assert_int_equal(buf_append(&b, "9ab", 3), STATUS_LIMIT);
    assert_int_equal(b.len, 8);
    assert_int_equal(buf_append(&b, "9a", 2), STATUS_OK);
    assert_memory_equal(b.data, "123456789a", 10);
    assert_int_equal(buf_reserve(&b, SIZE_MAX), STATUS_LIMIT);
    buf_reset(&b);
    assert_int_equal(buf_printf(&b, "%d-%s", 7, "x"), STATUS_OK);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "7-x", 3);
    buf_deinit(&b);
}

/* Text is UTF-8 as PostgreSQL takes it, wherever in a long string the bad byte is. */
static void test_text_is_valid_utf8_without_nul(void **state)
{
    (void)state;
    assert_true(str_is_text(STR("")));
    assert_true(str_is_text(STR("plain ascii that is longer than a word")));
    assert_true(str_is_text(STR("caf\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80 \x7F")));
    const struct str bad[] = {
        STR("\x80"),             /* continuation alone */
        STR("\xC0\xAF"),         /* overlong */
        STR("\xE0\x80\xAF"),     /* overlong */
        STR("\xED\xA0\x80"),     /* surrogate */
        STR("\xF4\x90\x80\x80"), /* beyond U+10FFFF */
        STR("\xF0\x8F\xBF\xBF"), /* overlong */
        STR("\xE2\x82"),         /* cut */
        STR("\xE2\x82"
            "a"),    /* broken off */
        STR("a\0b"), /* NUL */
        STR("\xFF"),
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[64];
        for (size_t pad = 0; pad < 20; pad++) {
            memset(text, 'x', sizeof(text));
            memcpy(text + pad, bad[i].ptr, bad[i].len);
            size_t len = pad + bad[i].len; /* at the end, so that a cut sequence stays cut */
            assert_false(str_is_text((struct str){text, len}));
            assert_int_equal(str_text_prefix((struct str){text, len}),
                             pad + (bad[i].ptr[0] == 'a'));
        }
    }
}

/* A cut never leaves half a code point. */
static void test_a_cut_keeps_code_points_whole(void **state)
{
    (void)state;
    struct str s = STR("ab\xE2\x82\xAC"
                       "c");
    assert_int_equal(str_cut(s, 10).len, 6);
    assert_int_equal(str_cut(s, 5).len, 5);
    assert_int_equal(str_cut(s, 4).len, 2);
    assert_int_equal(str_cut(s, 3).len, 2);
    assert_int_equal(str_cut(s, 0).len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers_are_read_back),
        cmocka_unit_test(test_the_byte_layout_is_fixed),
        cmocka_unit_test(test_big_endian_and_c_strings_are_read),
        cmocka_unit_test(test_a_short_read_sticks),
        cmocka_unit_test(test_the_ceiling_holds),
        cmocka_unit_test(test_text_is_valid_utf8_without_nul),
        cmocka_unit_test(test_a_cut_keeps_code_points_whole),
    };
    return cmocka_run_group_tests_name("core/buf", tests, NULL, NULL);
}
