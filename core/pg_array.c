#include "core/pg_array.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

void pg_array_init(struct pg_array *a, size_t bytes_max)
{
    *a = (struct pg_array){0};
    buf_init(&a->buf, bytes_max);
}

void pg_array_deinit(struct pg_array *a)
{
    buf_deinit(&a->buf);
}

static void append(struct pg_array *a, const char *bytes, size_t len)
{
    if (!a->st)
        a->st = buf_append(&a->buf, bytes, len);
}

void pg_array_begin(struct pg_array *a)
{
    buf_reset(&a->buf);
    a->st = STATUS_OK;
    a->n = 0;
    append(a, "{", 1);
}

static void next(struct pg_array *a)
{
    if (a->n++)
        append(a, ",", 1);
}

void pg_array_null(struct pg_array *a)
{
    next(a);
    append(a, "NULL", 4);
}

void pg_array_text(struct pg_array *a, struct str s)
{
    if (!s.ptr) {
        pg_array_null(a);
        return;
    }
    /* Always quoted: then an element "NULL", an empty one, and braces, commas and blanks need no
     * rule of their own (PostgreSQL docs, Array Input and Output Syntax). */
    next(a);
    append(a, "\"", 1);
    size_t done = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] != '"' && s.ptr[i] != '\\')
            continue;
        append(a, s.ptr + done, i - done);
        append(a, "\\", 1);
        done = i;
    }
    append(a, s.ptr + done, s.len - done);
    append(a, "\"", 1);
}

void pg_array_plain(struct pg_array *a, const char *fmt, ...)
{
    char text[64];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(n > 0 && (size_t)n < sizeof(text));
    next(a);
    append(a, text, (size_t)n);
}

void pg_array_double(struct pg_array *a, double v)
{
    assert(isfinite(v));
    pg_array_plain(a, "%.17g", v);
}

void pg_array_time(struct pg_array *a, int64_t t_us)
{
    if (t_us == INT64_MAX) {
        pg_array_plain(a, "infinity");
        return;
    }
    char text[40];
    int n = time_format(t_us, 1, text);
    next(a);
    append(a, text, (size_t)n);
}

enum status pg_array_end(struct pg_array *a)
{
    append(a, "}", 2); /* with its NUL */
    return a->st;
}
