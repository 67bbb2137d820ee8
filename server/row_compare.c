#include "server/row_compare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN_BYTES 160

enum status row_select_list(const struct table_def *table, struct buf *out)
{
    enum status st = buf_append_str(out, table->by_window ? STR("'' AS user_id") : STR("user_id"));
    if (st == STATUS_OK)
        st = buf_append_str(
            out, STR(", bot_name, (extract(epoch FROM as_of) * 1000000)::bigint, event_count, "
                     "confidence, state_flags, engine_version, details"));
    for (size_t i = 0; i < table->n_columns && st == STATUS_OK; i++) {
        const char *name = table->columns[i].name;
        st = table->columns[i].type == COLUMN_TIME
                 ? buf_printf(out, ", (extract(epoch FROM %s) * 1000000)::bigint", name)
                 : buf_printf(out, ", %s", name);
    }
    return st;
}

bool json_same(const json_t *a, const json_t *b)
{
    if (!a || !b)
        return a == b;
    if (json_is_integer(a) && json_is_integer(b))
        return json_integer_value(a) == json_integer_value(b);
    if (json_is_number(a) && json_is_number(b)) {
        double x = json_number_value(a), y = json_number_value(b);
        return !(x < y) && !(x > y);
    }
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_string(a))
        return json_string_length(a) == json_string_length(b) &&
               memcmp(json_string_value(a), json_string_value(b), json_string_length(a)) == 0;
    if (json_is_array(a)) {
        if (json_array_size(a) != json_array_size(b))
            return false;
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!json_same(json_array_get(a, i), json_array_get(b, i)))
                return false;
        return true;
    }
    if (!json_is_object(a))
        return true; /* true, false, null: the type is the value */
    if (json_object_size(a) != json_object_size(b))
        return false;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)a, key, value)
    {
        if (!json_same(value, json_object_get(b, key)))
            return false;
    }
    return true;
}

/* Cuts at a code point and keeps the line whole. */
static void shorten(struct str s, char out[SHOWN_BYTES + 8])
{
    struct str cut = str_cut(s, SHOWN_BYTES);
    memcpy(out, cut.ptr ? cut.ptr : "", cut.len);
    for (size_t i = 0; i < cut.len; i++)
        if ((unsigned char)out[i] < 0x20)
            out[i] = ' ';
    memcpy(out + cut.len, cut.len < s.len ? "..." : "", cut.len < s.len ? 4 : 1);
}

struct comparison {
    const PGresult *res;
    int tuple;
    row_difference_fn *fn;
    void *ctx;
    size_t n;
};

static struct str got_text(const struct comparison *c, int column)
{
    if (PQgetisnull(c->res, c->tuple, column))
        return STR_NULL;
    return (struct str){PQgetvalue(c->res, c->tuple, column),
                        (size_t)PQgetlength(c->res, c->tuple, column)};
}

static void differ(struct comparison *c, const char *name, struct str expected, struct str got)
{
    char a[SHOWN_BYTES + 8], b[SHOWN_BYTES + 8];
    shorten(expected, a);
    shorten(got, b);
    c->n++;
    c->fn(c->ctx, name, expected.ptr ? a : NULL, got.ptr ? b : NULL);
}

static void compare_text(struct comparison *c, const char *name, struct str expected, int column)
{
    struct str got = got_text(c, column);
    bool same = expected.ptr && got.ptr ? str_equal(expected, got) : !expected.ptr && !got.ptr;
    if (!same)
        differ(c, name, expected, got);
}

static void compare_int(struct comparison *c, const char *name, int64_t expected, int column)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%" PRId64, expected);
    compare_text(c, name, (struct str){text, (size_t)n}, column);
}

static void compare_double(struct comparison *c, const char *name, double expected, bool single,
                           int column)
{
    struct str got = got_text(c, column);
    if (got.ptr) {
        /* PostgreSQL prints the shortest digits that read back as the same value. */
        double v = single ? (double)strtof(got.ptr, NULL) : strtod(got.ptr, NULL);
        double e = single ? (double)(float)expected : expected;
        if (!(v < e) && !(v > e))
            return;
    }
    char text[32];
    int n = snprintf(text, sizeof(text), single ? "%.9g" : "%.17g", expected);
    differ(c, name, (struct str){text, (size_t)n}, got);
}

static json_t *load(struct str s)
{
    return json_loadb(s.ptr, s.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
}

static void compare_json(struct comparison *c, const char *name, struct str expected, int column)
{
    struct str got = got_text(c, column);
    bool same = !expected.ptr && !got.ptr;
    if (expected.ptr && got.ptr) {
        json_t *a = load(expected), *b = load(got);
        same = a && b && json_same(a, b);
        json_decref(a);
        json_decref(b);
    }
    if (!same)
        differ(c, name, expected, got);
}

static void compare_column(struct comparison *c, const struct row *r, size_t i)
{
    const struct column_def *def = &r->table->columns[i];
    int column = RR_COLUMNS + (int)i;
    if (!r->values[i].set)
        compare_text(c, def->name, STR_NULL, column);
    else if (def->type == COLUMN_FLOAT)
        compare_double(c, def->name, r->values[i].number, false, column);
    else if (def->type == COLUMN_TIME)
        compare_int(c, def->name, (int64_t)r->values[i].number, column);
    else if (def->type == COLUMN_JSON)
        compare_json(c, def->name, row_value(r, i), column);
    else
        compare_text(c, def->name, row_value(r, i), column);
}

size_t row_compare(const struct row *expected, const PGresult *res, int tuple,
                   row_difference_fn *fn, void *ctx)
{
    struct comparison c = {.res = res, .tuple = tuple, .fn = fn, .ctx = ctx};
    compare_int(&c, "event_count", expected->event_count, RR_EVENT_COUNT);
    compare_double(&c, "confidence", row_confidence(expected), true, RR_CONFIDENCE);
    compare_int(&c, "state_flags", expected->state_flags, RR_STATE_FLAGS);
    compare_int(&c, "engine_version", expected->engine_version, RR_ENGINE_VERSION);
    compare_json(&c, "details", row_details(expected), RR_DETAILS);
    for (size_t i = 0; i < expected->table->n_columns; i++)
        compare_column(&c, expected, i);
    return c.n;
}
