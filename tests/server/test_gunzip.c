/* tests/server/test_gunzip.c - gzip bodies in any pieces, and what is refused of them. */
#include "server/gunzip.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define ROOM ((size_t)64 << 20)

static void pack(struct buf *out, const void *bytes, size_t n)
{
    z_stream z = {0};
    assert_int_equal(Z_OK, deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY));
    assert_int_equal(STATUS_OK, buf_reserve(out, deflateBound(&z, n)));
    z.next_in = (unsigned char *)(uintptr_t)bytes;
    z.avail_in = (unsigned)n;
    z.next_out = (unsigned char *)out->data + out->len;
    z.avail_out = (unsigned)(out->cap - out->len);
    assert_int_equal(Z_STREAM_END, deflate(&z, Z_FINISH));
    out->len += z.total_out;
    deflateEnd(&z);
}

/* In pieces of `step` bytes. */
static enum status unpack(const struct buf *in, size_t step, size_t max, struct buf *out,
                          bool *ret_complete)
{
    struct gunzip *g = NULL;
    enum status st = gunzip_new(&g, NULL);
    buf_init(out, max);
    for (size_t at = 0; !st && at < in->len; at += step) {
        size_t n = in->len - at < step ? in->len - at : step;
        st = gunzip_feed(g, (struct str){in->data + at, n}, out);
    }
    *ret_complete = gunzip_complete(g);
    gunzip_free(g);
    return st;
}

static void fill(char *text, size_t n)
{
    unsigned seed = 7;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1103515245u + 12345u;
        text[i] = (char)('a' + (seed >> 16) % 20);
    }
}

static void test_it_comes_out_as_it_went_in_whatever_the_pieces(void **state)
{
    (void)state;
    static char text[100000];
    const size_t steps[] = {1, 7, 4096, sizeof(text) * 2};
    struct buf packed, out;
    bool complete = false;
    fill(text, sizeof(text));
    buf_init(&packed, ROOM);
    pack(&packed, text, 60000);
    pack(&packed, text + 60000, 40000); /* a second member */
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(STATUS_OK, unpack(&packed, steps[i], ROOM, &out, &complete));
        assert_true(complete);
        assert_int_equal(sizeof(text), out.len);
        assert_memory_equal(text, out.data, sizeof(text));
        buf_deinit(&out);
        /* Just enough room, and one byte too little. */
        assert_int_equal(STATUS_OK, unpack(&packed, steps[i], sizeof(text), &out, &complete));
        assert_true(complete);
        buf_deinit(&out);
        assert_int_equal(STATUS_LIMIT,
                         unpack(&packed, steps[i], sizeof(text) - 1, &out, &complete));
        assert_true(out.len <= sizeof(text) - 1);
        buf_deinit(&out);
    }
    buf_deinit(&packed);
}

static void test_what_is_cut_or_damaged_is_not_taken(void **state)
{
    (void)state;
    char text[1000];
    struct buf packed, out;
    bool complete = false;
    fill(text, sizeof(text));
    buf_init(&packed, ROOM);
    pack(&packed, text, sizeof(text));
    size_t whole = packed.len;
    for (packed.len = 0; packed.len < whole; packed.len++) {
        assert_int_equal(STATUS_OK, unpack(&packed, 100, ROOM, &out, &complete));
        assert_false(complete);
        buf_deinit(&out);
    }
    /* The checksum and the length behind the data, what follows it, the first bytes. */
    for (size_t i = 0; i < 8; i++) {
        packed.data[whole - 1 - i] ^= 0x10;
        assert_int_equal(STATUS_INVALID, unpack(&packed, 100, ROOM, &out, &complete));
        packed.data[whole - 1 - i] ^= 0x10;
        buf_deinit(&out);
    }
    assert_int_equal(STATUS_OK, buf_append(&packed, "junk", 4));
    assert_int_equal(STATUS_INVALID, unpack(&packed, 1000, ROOM, &out, &complete));
    buf_deinit(&out);
    packed.len = whole;
    packed.data[0] = 'x';
    assert_int_equal(STATUS_INVALID, unpack(&packed, 1, ROOM, &out, &complete));
    buf_deinit(&out);
    buf_deinit(&packed);
}

static void test_a_bomb_is_noticed_long_before_it_is_through(void **state)
{
    (void)state;
    size_t n = (size_t)50 << 20;
    char *zeros = calloc(1, n);
    struct buf packed, out;
    bool complete = false;
    buf_init(&packed, ROOM);
    pack(&packed, zeros, n); /* about 1:1000 */
    assert_int_equal(STATUS_LIMIT, unpack(&packed, 100, ROOM, &out, &complete));
    assert_true(out.len <= GUNZIP_FREE + (200 << 10));
    buf_deinit(&out);
    /* A little that is very even is none. */
    buf_reset(&packed);
    pack(&packed, zeros, GUNZIP_FREE / 2);
    assert_int_equal(STATUS_OK, unpack(&packed, 100, ROOM, &out, &complete));
    assert_true(complete);
    buf_deinit(&out);
    buf_deinit(&packed);
    free(zeros);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_comes_out_as_it_went_in_whatever_the_pieces),
        cmocka_unit_test(test_what_is_cut_or_damaged_is_not_taken),
        cmocka_unit_test(test_a_bomb_is_noticed_long_before_it_is_through),
    };
    return cmocka_run_group_tests_name("server/gunzip", tests, NULL, NULL);
}
