#include "core/row.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/jsonw.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REASON_BYTES 256

_Static_assert(ROW_COLUMNS_MAX *LIMIT_JSON_BYTES + 16 * LIMIT_DETAILS_BYTES <= LIMIT_ROW_BYTES,
               "a row holds every column at its bound and the parts of its details");

void row_init(struct row *r, const struct table_def *table)
{
    assert(table->n_columns <= ROW_COLUMNS_MAX);
    *r = (struct row){.table = table, .window_hours = table->window_hours};
    buf_init(&r->text, LIMIT_ROW_BYTES);
}

void row_deinit(struct row *r)
{
    buf_deinit(&r->text);
}

static struct str text_at(const struct row *r, size_t offset, size_t len)
{
    /* An empty string is not NULL, and an empty buffer has no data to point to. */
    return len ? (struct str){r->text.data + offset, len} : STR("");
}

static enum status put_text(struct row *r, struct str s, size_t *ret_offset, size_t *ret_len)
{
    size_t offset = r->text.len;
    enum status st = buf_append_str(&r->text, s);
    if (st)
        return st;
    *ret_offset = offset;
    *ret_len = s.len;
    return STATUS_OK;
}

enum status row_set_key(struct row *r, struct str user_id, struct str bot_name)
{
    enum status st = put_text(r, user_id, &r->user_offset, &r->user_len);
    return st ? st : put_text(r, bot_name, &r->bot_offset, &r->bot_len);
}

static bool has_reason(const struct row *r, const char *column)
{
    for (size_t i = 0; i < r->n_reasons; i++)
        if (strcmp(r->reasons[i].column, column) == 0)
            return true;
    return false;
}

static void check_unset(const struct row *r, size_t column)
{
    assert(column < r->table->n_columns);
    assert(!r->values[column].set);
    assert(!has_reason(r, r->table->columns[column].name));
}

static void set_number(struct row *r, size_t column, enum column_type type, double value)
{
    check_unset(r, column);
    assert(r->table->columns[column].type == type);
    assert(isfinite(value));
    /* One zero: the bytes and the digest of a row must not depend on its sign. */
    r->values[column].number = value == 0 ? 0.0 : value;
    r->values[column].set = true;
}

void row_set_float(struct row *r, size_t column, double value)
{
    set_number(r, column, COLUMN_FLOAT, value);
}

void row_set_time(struct row *r, size_t column, int64_t t_us)
{
    set_number(r, column, COLUMN_TIME, (double)t_us);
}

static enum status set_text(struct row *r, size_t column, enum column_type type, struct str value)
{
    check_unset(r, column);
    assert(r->table->columns[column].type == type);
    enum status st = put_text(r, value, &r->values[column].offset, &r->values[column].len);
    if (!st)
        r->values[column].set = true;
    return st;
}

enum status row_set_text(struct row *r, size_t column, struct str value)
{
    return set_text(r, column, COLUMN_TEXT, value);
}

enum status row_set_json(struct row *r, size_t column, struct str json)
{
    assert(json.len > 0);
    if (json.len > LIMIT_JSON_BYTES)
        return STATUS_LIMIT;
    return set_text(r, column, COLUMN_JSON, json);
}

enum status row_set_null(struct row *r, size_t column, const char *fmt, ...)
{
    check_unset(r, column);
    char text[REASON_BYTES];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(n > 0 && (size_t)n < sizeof(text));
    size_t i = r->n_reasons;
    enum status st =
        put_text(r, (struct str){text, (size_t)n}, &r->reasons[i].offset, &r->reasons[i].len);
    if (st)
        return st;
    r->reasons[i].column = r->table->columns[column].name;
    r->n_reasons++;
    return STATUS_OK;
}

enum status row_add_detail(struct row *r, const char *key, struct str json)
{
    size_t i = r->n_details;
    assert(i < sizeof(r->details) / sizeof(r->details[0]));
    assert(strcmp(key, "reason") != 0);
    assert(json.len > 0);
    enum status st = put_text(r, json, &r->details[i].offset, &r->details[i].len);
    if (st)
        return st;
    r->details[i].key = key;
    r->n_details++;
    return STATUS_OK;
}

/* One member of an object that is written in key order. Numbers stay in the row. */
struct member {
    const char *key;
    size_t index;
};

#define MEMBERS_MAX 32

static int member_compare(const void *a, const void *b)
{
    const struct member *x = a;
    const struct member *y = b;
    return strcmp(x->key, y->key);
}

static void write_reasons(const struct row *r, struct jsonw *w)
{
    struct member members[ROW_COLUMNS_MAX];
    for (size_t i = 0; i < r->n_reasons; i++)
        members[i] = (struct member){r->reasons[i].column, i};
    qsort(members, r->n_reasons, sizeof(members[0]), member_compare);
    jsonw_object_begin(w);
    for (size_t i = 0; i < r->n_reasons; i++) {
        size_t k = members[i].index;
        jsonw_key(w, members[i].key);
        jsonw_string(w, text_at(r, r->reasons[k].offset, r->reasons[k].len));
    }
    jsonw_object_end(w);
}

void row_rate(struct row *r, uint32_t flags, double confidence, int64_t valid_until_us)
{
    r->state_flags |= flags;
    if (!r->rated || confidence < r->confidence)
        r->confidence = confidence;
    if (r->valid_until_us == 0 || valid_until_us < r->valid_until_us)
        r->valid_until_us = valid_until_us;
    r->rated = true;
}

enum status row_finish(struct row *r)
{
    assert(r->details_len == 0);
    for (size_t c = 0; c < r->table->n_columns; c++)
        assert(r->values[c].set || has_reason(r, r->table->columns[c].name));

    struct member members[MEMBERS_MAX];
    size_t n = 0;
    for (; n < r->n_details; n++)
        members[n] = (struct member){r->details[n].key, n};
    if (r->n_reasons > 0) {
        members[n] = (struct member){"reason", n};
        n++;
    }
    qsort(members, n, sizeof(members[0]), member_compare);

    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_DETAILS_BYTES);
    struct jsonw w;
    jsonw_init(&w, &json);
    jsonw_object_begin(&w);
    for (size_t i = 0; i < n; i++) {
        size_t k = members[i].index;
        jsonw_key(&w, members[i].key);
        if (k < r->n_details)
            jsonw_raw(&w, text_at(r, r->details[k].offset, r->details[k].len));
        else
            write_reasons(r, &w);
    }
    jsonw_object_end(&w);
    enum status st = jsonw_status(&w);
    struct str details = {json.data, json.len};
    return st ? st : put_text(r, details, &r->details_offset, &r->details_len);
}

struct str row_user(const struct row *r)
{
    return text_at(r, r->user_offset, r->user_len);
}

struct str row_bot(const struct row *r)
{
    return text_at(r, r->bot_offset, r->bot_len);
}

struct str row_value(const struct row *r, size_t column)
{
    assert(column < r->table->n_columns);
    enum column_type type = r->table->columns[column].type;
    assert(type == COLUMN_TEXT || type == COLUMN_JSON);
    if (!r->values[column].set)
        return STR_NULL;
    return text_at(r, r->values[column].offset, r->values[column].len);
}

struct str row_details(const struct row *r)
{
    assert(r->details_len > 0);
    return text_at(r, r->details_offset, r->details_len);
}

double row_confidence(const struct row *r)
{
    assert(r->confidence >= 0 && r->confidence <= 1);
    char text[16];
    (void)snprintf(text, sizeof(text), "%.3f", r->confidence);
    return strtod(text, NULL);
}

static bool is_number(enum column_type type)
{
    return type == COLUMN_FLOAT || type == COLUMN_TIME;
}

static uint64_t double_bits(double v)
{
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

/* Order matters: each step is a bijection of h for a given v. */
static uint64_t digest(uint64_t h, uint64_t v)
{
    return hash64_mix(h ^ v) + UINT64_C(0x9e3779b97f4a7c15);
}

uint64_t row_payload_hash(const struct row *r)
{
    uint64_t h = hash64(str_from(r->table->name));
    for (size_t c = 0; c < r->table->n_columns; c++) {
        h = digest(h, r->values[c].set);
        if (!r->values[c].set)
            continue;
        h = is_number(r->table->columns[c].type) ? digest(h, double_bits(r->values[c].number))
                                                 : digest(h, hash64(row_value(r, c)));
    }
    h = digest(h, hash64(row_details(r)));
    h = digest(h, double_bits(row_confidence(r)));
    h = digest(h, r->state_flags);
    h = digest(h, (uint64_t)r->event_count);
    return h ? h : 1;
}

static void write_time(struct jsonw *w, int64_t t_us)
{
    char text[40];
    int n = time_format(t_us, 1, text);
    jsonw_string(w, (struct str){text, (size_t)n});
}

static void write_column(const struct row *r, size_t c, struct jsonw *w)
{
    if (!r->values[c].set) {
        jsonw_null(w);
        return;
    }
    switch (r->table->columns[c].type) {
    case COLUMN_FLOAT:
        jsonw_double(w, r->values[c].number);
        break;
    case COLUMN_TIME:
        write_time(w, (int64_t)r->values[c].number);
        break;
    case COLUMN_TEXT:
        jsonw_string(w, row_value(r, c));
        break;
    case COLUMN_JSON:
        jsonw_raw(w, row_value(r, c));
        break;
    }
}

/* The members that every table shares; their order here is their index after the columns. */
enum shared {
    SHARED_AS_OF,
    SHARED_BOT_NAME,
    SHARED_CONFIDENCE,
    SHARED_DETAILS,
    SHARED_ENGINE_VERSION,
    SHARED_EVENT_COUNT,
    SHARED_STATE_FLAGS,
    SHARED_VALID_UNTIL,
    SHARED_KEY,
    SHARED_COUNT
};

_Static_assert(ROW_COLUMNS_MAX + SHARED_COUNT <= MEMBERS_MAX, "every member has a place");

static void write_shared(const struct row *r, enum shared s, struct jsonw *w)
{
    switch (s) {
    case SHARED_AS_OF:
        write_time(w, r->as_of_us);
        break;
    case SHARED_BOT_NAME:
        jsonw_string(w, row_bot(r));
        break;
    case SHARED_CONFIDENCE:
        jsonw_number(w, row_confidence(r));
        break;
    case SHARED_DETAILS:
        jsonw_raw(w, row_details(r));
        break;
    case SHARED_ENGINE_VERSION:
        jsonw_int(w, r->engine_version);
        break;
    case SHARED_EVENT_COUNT:
        jsonw_int(w, r->event_count);
        break;
    case SHARED_STATE_FLAGS:
        jsonw_int(w, r->state_flags);
        break;
    case SHARED_VALID_UNTIL:
        if (r->valid_until_us)
            write_time(w, r->valid_until_us);
        else
            jsonw_null(w);
        break;
    case SHARED_KEY:
        if (r->table->by_window)
            jsonw_int(w, r->window_hours);
        else
            jsonw_string(w, row_user(r));
        break;
    case SHARED_COUNT:
        break;
    }
}

enum status row_to_json(const struct row *r, struct buf *out)
{
    static const char *const shared_keys[SHARED_COUNT] = {
        "as_of",       "bot_name",    "confidence",  "details", "engine_version",
        "event_count", "state_flags", "valid_until", "user_id",
    };
    struct member members[MEMBERS_MAX];
    size_t n = 0;
    for (; n < r->table->n_columns; n++)
        members[n] = (struct member){r->table->columns[n].name, n};
    for (size_t s = 0; s < SHARED_COUNT; s++, n++)
        members[n] = (struct member){shared_keys[s], n};
    if (r->table->by_window)
        members[n - 1].key = "time_window_hours";
    qsort(members, n, sizeof(members[0]), member_compare);

    size_t start = out->len;
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object_begin(&w);
    jsonw_key(&w, "row");
    jsonw_object_begin(&w);
    for (size_t i = 0; i < n; i++) {
        size_t k = members[i].index;
        jsonw_key(&w, members[i].key);
        if (k < r->table->n_columns)
            write_column(r, k, &w);
        else
            write_shared(r, (enum shared)(k - r->table->n_columns), &w);
    }
    jsonw_object_end(&w);
    jsonw_key(&w, "table");
    jsonw_string(&w, str_from(r->table->name));
    jsonw_object_end(&w);
    if (jsonw_status(&w))
        out->len = start;
    return jsonw_status(&w);
}
