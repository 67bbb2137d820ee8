#include "server/config_schema.h"

#include "core/clock.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const struct config_row *config_row_find(struct str pattern)
{
    for (const struct config_row *r = config_rows; r->path; r++)
        if (str_equal(str_from(r->path), pattern))
            return r;
    return NULL;
}

bool config_row_below(const char *pattern)
{
    size_t len = strlen(pattern);
    for (const struct config_row *r = config_rows; r->path; r++)
        if (strncmp(r->path, pattern, len) == 0 &&
            (r->path[len] == '\0' || r->path[len] == '.' || r->path[len] == '['))
            return true;
    return false;
}

const char *config_type_name(enum config_type type)
{
    switch (type) {
    case CONFIG_STRING:
        return "text";
    case CONFIG_BOOL:
        return "true or false";
    case CONFIG_INT:
        return "whole number";
    case CONFIG_DURATION:
        return "duration";
    case CONFIG_SIZE:
        return "size";
    case CONFIG_TIME:
        return "time";
    case CONFIG_ENUM:
        return "one of";
    case CONFIG_RELATION:
        return "table name";
    case CONFIG_MAP:
        return "text";
    }
    return "";
}

void config_env_name(const char *path, char *out, size_t size)
{
    int n = snprintf(out, size, "WARMPATH_%s", path);
    for (int i = 0; i < n && (size_t)i + 1 < size; i++)
        out[i] = (char)(out[i] == '.' ? '_' : toupper((unsigned char)out[i]));
}

struct unit {
    const char *name;
    int64_t factor;
};

/* Largest first: printing takes the first that divides. */
static const struct unit duration_units[] = {
    {"d", US_PER_DAY}, {"h", US_PER_HOUR}, {"m", US_PER_MINUTE}, {"s", US_PER_SECOND}, {"ms", 1000},
    {"us", 1},         {NULL, 0}};
static const struct unit size_units[] = {{"GiB", INT64_C(1) << 30},
                                         {"MiB", INT64_C(1) << 20},
                                         {"KiB", INT64_C(1) << 10},
                                         {"B", 1},
                                         {NULL, 0}};

static enum status parse_digits(struct str text, size_t *at, int64_t *ret)
{
    int64_t v = 0;
    size_t start = *at;
    for (; *at < text.len && isdigit((unsigned char)text.ptr[*at]); (*at)++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, text.ptr[*at] - '0', &v))
            return STATUS_LIMIT;
    *ret = v;
    return *at > start ? STATUS_OK : STATUS_INVALID;
}

/* "1m30s": numbers with units, largest unit first is not demanded. */
static enum status parse_with_units(struct str text, const struct unit *units, const char *example,
                                    int64_t *ret, struct error *err)
{
    int64_t total = 0;
    size_t at = 0;
    do {
        int64_t n;
        if (parse_digits(text, &at, &n) != STATUS_OK)
            return error_set(err, STATUS_INVALID,
                             "\"" STR_FMT "\" is not a number with a unit, as in %s",
                             STR_ARGS(text), example);
        size_t start = at;
        while (at < text.len && isalpha((unsigned char)text.ptr[at]))
            at++;
        struct str name = {text.ptr + start, at - start};
        const struct unit *u = units;
        while (u->name && !str_equal(str_from(u->name), name))
            u++;
        if (!u->name)
            return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" %s, as in %s", STR_ARGS(text),
                             name.len ? "has an unknown unit" : "needs a unit", example);
        if (__builtin_mul_overflow(n, u->factor, &n) || __builtin_add_overflow(total, n, &total))
            return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is too large", STR_ARGS(text));
    } while (at < text.len);
    *ret = total;
    return STATUS_OK;
}

enum status config_duration_parse(struct str text, int64_t *ret_us, struct error *err)
{
    return parse_with_units(text, duration_units, "200ms, 5s, 10m, 1h30m, 7d", ret_us, err);
}

static enum status parse_bool(struct str text, int64_t *ret, struct error *err)
{
    static const struct config_choice words[] = {{"true", 1}, {"yes", 1}, {"on", 1}, {"false", 0},
                                                 {"no", 0},   {"off", 0}, {NULL, 0}};
    for (const struct config_choice *w = words; w->name; w++)
        if (str_equal(str_from(w->name), text)) {
            *ret = w->value;
            return STATUS_OK;
        }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is neither true nor false",
                     STR_ARGS(text));
}

static enum status parse_choice(const struct config_row *row, struct str text, int64_t *ret,
                                struct error *err)
{
    char names[200] = "";
    size_t n = 0;
    for (const struct config_choice *c = row->choices; c->name; c++) {
        if (str_equal(str_from(c->name), text)) {
            *ret = c->value;
            return STATUS_OK;
        }
        n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "", c->name);
    }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not one of %s", STR_ARGS(text),
                     names);
}

static enum status check_string(const struct config_row *row, struct str text, struct error *err)
{
    if (!str_is_text(text))
        return error_set(err, STATUS_INVALID, "is not valid UTF-8 text");
    if (row->name == ANY_TEXT)
        return STATUS_OK;
    if (text.len == 0)
        return error_set(err, STATUS_INVALID, "must not be empty");
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (!islower(c) && !isdigit(c) && c != '_' && (c != '-' || row->name != NAME_SOURCE))
            return error_set(err, STATUS_INVALID,
                             "\"" STR_FMT "\" may only hold lower case letters, digits%s and %s",
                             STR_ARGS(text), row->name == NAME_SOURCE ? ", _" : "",
                             row->name == NAME_SOURCE ? "-" : "_");
    }
    return STATUS_OK;
}

static enum status parse_number(const struct config_row *row, struct str text, int64_t *ret,
                                struct error *err)
{
    if (row->type == CONFIG_DURATION)
        return config_duration_parse(text, ret, err);
    if (row->type == CONFIG_SIZE)
        return parse_with_units(text, size_units, "64KiB, 128MiB, 2GiB", ret, err);
    size_t at = 0;
    if (parse_digits(text, &at, ret) != STATUS_OK || at != text.len)
        return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not a whole number",
                         STR_ARGS(text));
    return STATUS_OK;
}

static enum status parse_in_range(const struct config_row *row, struct str text, int64_t *ret,
                                  struct error *err)
{
    int64_t v = 0;
    enum status st = parse_number(row, text, &v, err);
    if (st != STATUS_OK)
        return st;
    if (v >= row->min && v <= row->max) {
        *ret = v;
        return STATUS_OK;
    }
    char text_of[2][32];
    for (int i = 0; i < 2; i++) {
        struct buf b;
        buf_init(&b, sizeof(text_of[i]));
        if (config_number_print(row->type, i ? row->max : row->min, &b) != STATUS_OK)
            buf_reset(&b);
        snprintf(text_of[i], sizeof(text_of[i]), "%.*s", (int)b.len, b.data ? b.data : "");
        buf_deinit(&b);
    }
    return error_set(err, STATUS_INVALID, "\"" STR_FMT "\" is not between %s and %s",
                     STR_ARGS(text), text_of[0], text_of[1]);
}

static enum status parse_time(struct str text, int64_t *ret, struct error *err)
{
    if (time_parse(text.ptr, text.len, ret) != 0 || *ret <= 0)
        return error_set(err, STATUS_INVALID,
                         "\"" STR_FMT "\" is not a time with a zone, as 2026-12-31T00:00:00Z",
                         STR_ARGS(text));
    return STATUS_OK;
}

enum status config_value_parse(const struct config_row *row, struct str text, int64_t *ret,
                               struct error *err)
{
    switch (row->type) {
    case CONFIG_BOOL:
        return parse_bool(text, ret, err);
    case CONFIG_TIME:
        return parse_time(text, ret, err);
    case CONFIG_ENUM:
        return parse_choice(row, text, ret, err);
    case CONFIG_INT:
    case CONFIG_DURATION:
    case CONFIG_SIZE:
        return parse_in_range(row, text, ret, err);
    case CONFIG_STRING:
    case CONFIG_RELATION:
    case CONFIG_MAP:
        break;
    }
    return check_string(row, text, err);
}

enum status config_value_store(const struct config_row *row, void *base, struct str text,
                               int64_t number, struct error *err)
{
    char *at = (char *)base + row->offset;
    if (row->type == CONFIG_STRING) {
        if (text.len >= row->size)
            return error_set(err, STATUS_LIMIT, "is longer than %zu bytes", row->size - 1);
        memcpy(at, text.ptr, text.len);
        at[text.len] = '\0';
        return STATUS_OK;
    }
    if (row->type == CONFIG_BOOL) {
        bool v = number != 0;
        memcpy(at, &v, sizeof(v));
    } else if (row->size == sizeof(int64_t)) {
        memcpy(at, &number, sizeof(number));
    } else {
        int32_t v = (int32_t)number;
        memcpy(at, &v, sizeof(v));
    }
    return STATUS_OK;
}

enum status config_number_print(enum config_type type, int64_t v, struct buf *out)
{
    if (type == CONFIG_TIME) {
        char text[40];
        time_format(v, true, text);
        return buf_printf(out, "\"%s\"", text);
    }
    if (type == CONFIG_DURATION || type == CONFIG_SIZE) {
        const struct unit *u = type == CONFIG_DURATION ? duration_units : size_units;
        if (v == 0)
            return buf_append_str(out, type == CONFIG_DURATION ? STR("0s") : STR("0B"));
        while (v % u->factor != 0)
            u++;
        return buf_printf(out, "%lld%s", (long long)(v / u->factor), u->name);
    }
    return buf_printf(out, "%lld", (long long)v);
}

enum status config_string_print(struct str s, struct buf *out)
{
    enum status st = buf_append_str(out, STR("\""));
    for (size_t i = 0; i < s.len && st == STATUS_OK; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\')
            st = buf_printf(out, "\\%c", c);
        else if (c == '$')
            st = buf_append_str(out, STR("$$"));
        else if (c < 0x20 || c == 0x7f)
            st = buf_printf(out, "\\x%02X", c);
        else
            st = buf_append(out, s.ptr + i, 1);
    }
    return st == STATUS_OK ? buf_append_str(out, STR("\"")) : st;
}

enum status config_value_print(const struct config_row *row, const void *base, struct buf *out)
{
    const char *at = (const char *)base + row->offset;
    if (row->type == CONFIG_STRING)
        return config_string_print(str_from(at), out);
    if (row->type == CONFIG_BOOL) {
        bool v;
        memcpy(&v, at, sizeof(v));
        return buf_append_str(out, v ? STR("true") : STR("false"));
    }
    int64_t number;
    if (row->size == sizeof(number)) {
        memcpy(&number, at, sizeof(number));
    } else {
        int32_t v;
        memcpy(&v, at, sizeof(v));
        number = v;
    }
    if (row->type != CONFIG_ENUM)
        return config_number_print(row->type, number, out);
    for (const struct config_choice *c = row->choices; c->name; c++)
        if (c->value == number)
            return buf_printf(out, "%s", c->name);
    return STATUS_INVALID;
}
