/*
 * core/row.h - one cache row on its way from an engine to PostgreSQL (or to `replay`'s output).
 *
 * A table_def lists the columns that engines fill; the key and the additive columns that every
 * table shares (ENGINES.md 1.7) are fields of the row. A row starts with every column NULL and
 * without a reason; an engine gives each column a value or a reason why there is none.
 */
#pragma once

#include "core/buf.h"
#include "core/limits.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum column_type { COLUMN_FLOAT, COLUMN_TEXT, COLUMN_JSON, COLUMN_TIME };

struct column_def {
    const char *name;
    enum column_type type;
};

#define ROW_COLUMNS_MAX 12

struct table_def {
    const char *name;
    bool by_window;   /* key (bot_name, time_window_hours) instead of (user_id, bot_name) */
    int window_hours; /* what row_init() sets, for by_window tables */
    size_t n_columns;
    struct column_def columns[ROW_COLUMNS_MAX];
};

/* ENGINES.md 1.7 state_flags */
enum row_flag {
    ROW_TRUNCATED = 1,
    ROW_REBUILD = 2,
    ROW_LEXICAL = 4,
    ROW_NO_EMOTION = 8,
    ROW_NO_TZ = 16,
    ROW_PRIOR_ONLY = 32,
    ROW_LATE_PENDING = 64,
    ROW_NO_ACCESS_SIGNAL = 128,
    ROW_SURFACE_TRAITS = 256,
};

struct row {
    const struct table_def *table;
    struct buf text; /* backs every string below; offsets, since it may move */
    struct {
        bool set;
        double number; /* COLUMN_FLOAT; COLUMN_TIME in microseconds (whole, exact below 2^53) */
        size_t offset, len; /* COLUMN_TEXT, COLUMN_JSON in text */
    } values[ROW_COLUMNS_MAX];
    size_t user_offset, user_len;
    size_t bot_offset, bot_len;
    int window_hours;       /* by_window tables */
    int64_t as_of_us;       /* T */
    int64_t valid_until_us; /* 0 = nothing said */
    /* Not stored: when the rows of the key are likely to be read next; from == until: nothing said
     */
    int64_t visit_from_us, visit_until_us;
    uint64_t source_lsn;
    uint64_t row_version;
    int64_t event_count; /* live records of the key that this row is computed from */
    int32_t engine_version;
    double confidence; /* 0..1, rounded to 3 decimals */
    uint32_t state_flags;
    bool rated;       /* row_rate() was called */
    size_t n_details; /* parts of the details object, unsorted until row_finish() */
    struct {
        const char *key;    /* static string */
        size_t offset, len; /* its JSON value in text */
    } details[16];
    size_t n_reasons;
    struct {
        const char *column; /* static string */
        size_t offset, len; /* plain text in text */
    } reasons[ROW_COLUMNS_MAX];
    size_t details_offset, details_len; /* the finished details object */
};

void row_init(struct row *r, const struct table_def *table);
void row_deinit(struct row *r);
MUST_CHECK enum status row_set_key(struct row *r, struct str user_id, struct str bot_name);

/*
 * column: index in table->columns. NaN, infinities, the wrong column type and a second value or
 * reason for one column are our bugs and assert. LIMIT: a JSON value exceeds LIMIT_JSON_BYTES, or
 * the row LIMIT_ROW_BYTES. A text value is stored as it is, a JSON value must be one finished
 * value.
 */
void row_set_float(struct row *r, size_t column, double value);
void row_set_time(struct row *r, size_t column, int64_t t_us);
MUST_CHECK enum status row_set_text(struct row *r, size_t column, struct str value);
MUST_CHECK enum status row_set_json(struct row *r, size_t column, struct str json);
/* Leaves the column NULL and says why in details.reason. */
MUST_CHECK enum status row_set_null(struct row *r, size_t column, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
/* Adds one member to details; key must be a static string. */
MUST_CHECK enum status row_add_detail(struct row *r, const char *key, struct str json);
/* What an engine says of the whole row. Engines that share one combine: any flag of either holds,
 * the row is as sure as the less sure of them, and valid for as long as both are. */
void row_rate(struct row *r, uint32_t flags, double confidence, int64_t valid_until_us);
/* Builds details (keys sorted, reasons under "reason"); call once, before the row leaves. Asserts
 * that each column has either a value or a reason. LIMIT: details exceed LIMIT_DETAILS_BYTES. */
MUST_CHECK enum status row_finish(struct row *r);

struct str row_user(const struct row *r);
struct str row_bot(const struct row *r);
struct str row_value(const struct row *r, size_t column); /* TEXT and JSON; STR_NULL when NULL */
struct str row_details(const struct row *r);              /* after row_finish() */
/* confidence as a reader sees it: 3 decimals, half-even. */
double row_confidence(const struct row *r);

/* Digest of everything a reader would see change: columns, details, confidence, flags, event count.
 * Not as_of, versions or valid_until. Never 0. */
uint64_t row_payload_hash(const struct row *r);

/* `replay`'s line: {"table":..,"row":{..}}, keys sorted, without a newline. Leaves out what depends
 * on delivery rather than on the events: row_version, source_lsn, computed_at, expires_at, id. */
MUST_CHECK enum status row_to_json(const struct row *r, struct buf *out);
