/*
 * Goal: a row of COPY is read back as exactly the values that were written, and nothing that is not
 * such a row is taken. Method: literal rows, every escape, a round trip of random bytes through the
 * rules of CopyAttributeOutText(), and every cut of a good row.
 */
#include "ingest/copy_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COLUMNS_MAX 8

static enum status decode(const char *text, size_t len, struct value *values, uint16_t n,
                          char *copy)
{
    memcpy(copy, text, len);
    return copy_text_decode(copy, len, values, n, NULL);
}

static void assert_value(const struct value *v, const char *text)
{
    if (!text) {
        assert_int_equal(v->kind, VALUE_NULL);
        return;
    }
    assert_int_equal(v->kind, VALUE_TEXT);
    assert_int_equal(v->text.len, strlen(text));
    assert_memory_equal(v->text.ptr, text, v->text.len);
}

static void test_columns_nulls_and_empty_texts_are_told_apart(void **state)
{
    (void)state;
    char copy[64];
    struct value v[COLUMNS_MAX];
    const char row[] = "1\t\\N\t\tab c\tN\n";
    assert_int_equal(decode(row, strlen(row), v, 5, copy), STATUS_OK);
    assert_value(&v[0], "1");
    assert_value(&v[1], NULL);
    assert_value(&v[2], "");
    assert_value(&v[3], "ab c");
    assert_value(&v[4], "N");
}

static void test_every_escape_and_a_text_that_looks_like_null(void **state)
{
    (void)state;
    char copy[64];
    struct value v[COLUMNS_MAX];
    const char row[] = "\\b\\f\\n\\r\\t\\v\\\\\t\\\\N\t\\\\.\n";
    assert_int_equal(decode(row, strlen(row), v, 3, copy), STATUS_OK);
    assert_value(&v[0], "\b\f\n\r\t\v\\");
    assert_value(&v[1], "\\N");
    assert_value(&v[2], "\\.");
}

static void test_what_no_server_writes_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",           /* no row */
        "a\tb",       /* no end */
        "a\tb\n\n",   /* two ends */
        "a\nb\tc\n",  /* a newline inside */
        "a\n",        /* too few */
        "a\tb\tc\n",  /* too many */
        "a\t\\x41\n", /* COPY FROM would take these */
        "a\t\\101\n", "a\t\\q\n", "a\tb\\\n", "a\tx\\N\n", "a\t\\Nx\n",
    };
    char copy[64];
    struct value v[COLUMNS_MAX];
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(decode(bad[i], strlen(bad[i]), v, 2, copy), STATUS_PROTOCOL);
}

/* As the server escapes; returns the length. */
static size_t encode(const char *text, size_t len, char *out)
{
    static const char special[] = "\b\f\n\r\t\v\\";
    static const char letters[] = "bfnrtv\\";
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const char *at = text[i] ? strchr(special, text[i]) : NULL;
        if (at)
            out[n++] = '\\';
        out[n++] = at ? letters[at - special] : text[i];
    }
    return n;
}

static void test_random_texts_come_back_and_no_cut_of_a_row_is_taken(void **state)
{
    (void)state;
    static const char alphabet[] = "\b\f\n\r\t\v\\Nab\xc3\xa4";
    srand(7);
    for (int round = 0; round < 2000; round++) {
        char text[3][16];
        size_t len[3];
        char row[128];
        char copy[128];
        size_t n = 0;
        for (int c = 0; c < 3; c++) {
            len[c] = (size_t)(rand() % 16);
            for (size_t i = 0; i < len[c]; i++)
                text[c][i] = alphabet[(size_t)rand() % (sizeof(alphabet) - 1)];
            n += encode(text[c], len[c], row + n);
            row[n++] = c < 2 ? '\t' : '\n';
        }
        struct value v[3];
        assert_int_equal(decode(row, n, v, 3, copy), STATUS_OK);
        for (int c = 0; c < 3; c++) {
            assert_int_equal(v[c].kind, VALUE_TEXT);
            assert_int_equal(v[c].text.len, len[c]);
            assert_memory_equal(v[c].text.ptr, text[c], len[c]);
        }
        for (size_t cut = 0; cut < n; cut++)
            assert_int_equal(decode(row, cut, v, 3, copy), STATUS_PROTOCOL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns_nulls_and_empty_texts_are_told_apart),
        cmocka_unit_test(test_every_escape_and_a_text_that_looks_like_null),
        cmocka_unit_test(test_what_no_server_writes_is_refused),
        cmocka_unit_test(test_random_texts_come_back_and_no_cut_of_a_row_is_taken),
    };
    return cmocka_run_group_tests_name("ingest/copy_text", tests, NULL, NULL);
}
