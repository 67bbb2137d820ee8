/*
 * server/row_compare.h - one cache row as PostgreSQL holds it against one that was computed.
 *
 * Numbers are equal when they are the same double (confidence: the same float, as the column is a
 * real), texts byte by byte, JSON by value: jsonb keeps neither the order of keys nor the spelling
 * of numbers. NULL equals only NULL.
 */
#pragma once

#include "core/row.h"

#include <jansson.h>
#include <libpq-fe.h>

/* The columns a SELECT must list for row_compare(), in its order; the table's own come last. */
enum row_result_column {
    RR_USER_ID,
    RR_BOT_NAME,
    RR_AS_OF_US,
    RR_EVENT_COUNT,
    RR_CONFIDENCE,
    RR_STATE_FLAGS,
    RR_ENGINE_VERSION,
    RR_DETAILS,
    RR_COLUMNS, /* first of table->columns */
};
/* "user_id, bot_name, ..."; the user of a table keyed by bot and window is empty. */
MUST_CHECK enum status row_select_list(const struct table_def *table, struct buf *out);

/* One difference; expected and got are short and printable, NULL = SQL NULL. */
typedef void row_difference_fn(void *ctx, const char *column, const char *expected,
                               const char *got);
/* Returns how many columns differ. */
size_t row_compare(const struct row *expected, const PGresult *res, int tuple,
                   row_difference_fn *fn, void *ctx);

/* Equal by value: 1 and 1.0 and 1e0 are, in any depth. */
bool json_same(const json_t *a, const json_t *b);
