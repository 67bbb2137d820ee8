#include "core/jsonw.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void jsonw_init(struct jsonw *w, struct buf *out)
{
    *w = (struct jsonw){.out = out};
}

enum status jsonw_status(const struct jsonw *w)
{
    return w->st;
}

static void put(struct jsonw *w, const char *bytes, size_t len)
{
    if (!w->st)
        w->st = buf_append(w->out, bytes, len);
}

static void put_char(struct jsonw *w, char c)
{
    put(w, &c, 1);
}

/* The comma before a value of an array; in an object the key has written it. */
static void value_begin(struct jsonw *w)
{
    assert(w->after_key == w->in_object[w->depth]);
    if (!w->after_key && w->has_member[w->depth])
        put_char(w, ',');
    w->has_member[w->depth] = true;
    w->after_key = false;
}

static void container_begin(struct jsonw *w, char open, bool is_object)
{
    value_begin(w);
    put_char(w, open);
    w->depth++;
    assert(w->depth < JSONW_DEPTH);
    w->in_object[w->depth] = is_object;
    w->has_member[w->depth] = false;
}

static void container_end(struct jsonw *w, char close, bool is_object)
{
    assert(w->depth > 0);
    assert(w->in_object[w->depth] == is_object);
    assert(!w->after_key);
    put_char(w, close);
    w->depth--;
}

void jsonw_object_begin(struct jsonw *w)
{
    container_begin(w, '{', true);
}

void jsonw_object_end(struct jsonw *w)
{
    container_end(w, '}', true);
}

void jsonw_array_begin(struct jsonw *w)
{
    container_begin(w, '[', false);
}

void jsonw_array_end(struct jsonw *w)
{
    container_end(w, ']', false);
}

/* Writes one character that may not stand for itself in a string. */
static void put_escape(struct jsonw *w, unsigned char c)
{
    static const char letters[] = "\b\f\n\r\t\"\\";
    static const char names[] = "bfnrt\"\\";
    const char *letter = memchr(letters, c, sizeof(letters) - 1);
    char text[8];
    int n = letter ? snprintf(text, sizeof(text), "\\%c", names[letter - letters])
                   : snprintf(text, sizeof(text), "\\u%04x", (unsigned)c);
    put(w, text, (size_t)n);
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\';
}

static void put_text(struct jsonw *w, struct str s)
{
    for (size_t i = 0; i < s.len;) {
        size_t n = 0;
        while (i + n < s.len && is_plain((unsigned char)s.ptr[i + n]))
            n++;
        put(w, s.ptr + i, n);
        i += n;
        if (i < s.len)
            put_escape(w, (unsigned char)s.ptr[i++]);
    }
}

static void put_string(struct jsonw *w, struct str s)
{
    put_char(w, '"');
    while (s.len > 0) {
        size_t n = str_text_prefix(s);
        put_text(w, (struct str){s.ptr, n});
        if (n < s.len) {
            put(w, "\xEF\xBF\xBD", 3);
            n++;
        }
        s = (struct str){s.ptr + n, s.len - n};
    }
    put_char(w, '"');
}

/* The next byte of an escaped key as it was before escaping, or -1 at its end. */
static int next_unescaped(const char **at, const char *end)
{
    if (*at == end)
        return -1;
    unsigned char c = (unsigned char)*(*at)++;
    if (c != '\\')
        return c;
    c = (unsigned char)*(*at)++;
    if (c == 'u') {
        char hex[3] = {(*at)[2], (*at)[3], '\0'};
        *at += 4;
        return (int)strtoul(hex, NULL, 16);
    }
    static const char letters[] = "\b\f\n\r\t\"\\";
    static const char names[] = "bfnrt\"\\";
    const char *name = memchr(names, c, sizeof(names) - 1);
    assert(name);
    return (unsigned char)letters[name - names];
}

static bool key_less(const char *a, size_t a_len, const char *b, size_t b_len)
{
    const char *a_end = a + a_len;
    const char *b_end = b + b_len;
    for (;;) {
        int x = next_unescaped(&a, a_end);
        int y = next_unescaped(&b, b_end);
        if (x != y)
            return x < y;
        if (x < 0)
            return false;
    }
}

void jsonw_key_str(struct jsonw *w, struct str key)
{
    int d = w->depth;
    assert(w->in_object[d]);
    assert(!w->after_key);
    if (w->has_member[d])
        put_char(w, ',');
    size_t offset = w->out->len + 1;
    put_string(w, key);
    size_t len = w->out->len - offset - 1;
    put_char(w, ':');
    if (!w->st) {
        const char *data = w->out->data;
        assert(!w->has_member[d] ||
               key_less(data + w->last_key[d], w->last_key_len[d], data + offset, len));
        w->last_key[d] = offset;
        w->last_key_len[d] = len;
    }
    w->has_member[d] = true;
    w->after_key = true;
}

void jsonw_key(struct jsonw *w, const char *key)
{
    jsonw_key_str(w, str_from(key));
}

void jsonw_string(struct jsonw *w, struct str s)
{
    value_begin(w);
    put_string(w, s);
}

void jsonw_int(struct jsonw *w, int64_t v)
{
    char text[24];
    value_begin(w);
    int n = snprintf(text, sizeof(text), "%lld", (long long)v);
    put(w, text, (size_t)n);
}

static void put_double(struct jsonw *w, double v, int digits)
{
    char text[40];
    int n = snprintf(text, sizeof(text), "%.*g", digits, v);
    assert(n > 0 && (size_t)n < sizeof(text));
    put(w, text, (size_t)n);
}

void jsonw_number(struct jsonw *w, double v)
{
    assert(isfinite(v));
    value_begin(w);
    put_double(w, v == 0 ? 0.0 : v, 6);
}

void jsonw_double(struct jsonw *w, double v)
{
    assert(isfinite(v));
    value_begin(w);
    char text[40];
    int digits = 15;
    for (; digits < 17; digits++) {
        (void)snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    put_double(w, v == 0 ? 0.0 : v, digits);
}

void jsonw_bool(struct jsonw *w, bool v)
{
    value_begin(w);
    put(w, v ? "true" : "false", v ? 4 : 5);
}

void jsonw_null(struct jsonw *w)
{
    value_begin(w);
    put(w, "null", 4);
}

void jsonw_time(struct jsonw *w, int64_t t_us)
{
    char text[40];
    int n = time_format(t_us, 0, text);
    jsonw_string(w, (struct str){text, (size_t)n});
}

void jsonw_raw(struct jsonw *w, struct str json)
{
    value_begin(w);
    put(w, json.ptr, json.len);
}
