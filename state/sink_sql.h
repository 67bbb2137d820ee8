/*
 * state/sink_sql.h - the statements of the sink and the arrays they take (private to state/).
 *
 * Every statement is prepared once per connection. Cache tables are written by unnesting one array
 * per column: one statement and one round trip for any number of rows (measured: four times the
 * rate of a statement per row).
 */
#pragma once

#include "core/buf.h"
#include "core/lsn.h"
#include "core/pg_array.h"
#include "core/row.h"
#include "core/status.h"
#include "state/sink.h"

#include <stddef.h>

/* Key columns, the table's own columns, the additive columns of ENGINES.md 1.7, what is cleared,
 * the lifetime. */
#define SINK_PARAMS_MAX (2 + ROW_COLUMNS_MAX + 9 + 2)

/*
 * INSERT ... SELECT FROM unnest($1, ..) ON CONFLICT (key) DO UPDATE ... WHERE the stored row is
 * older by (row_version, as_of), and valid or invalidated no later
 * than the last array says, NULL = never. The last parameter is the lifetime in
 * seconds, which TTL_VALIDITY makes longer where valid_until is later.
 */
MUST_CHECK enum status sink_sql_upsert(const struct table_def *t, enum ttl_mode mode,
                                       struct buf *out);
/*
 * Moves as_of, valid_until, row_version, computed_at and expires_at only, under the same guard.
 * Answers one row (ordinal from 1, missing bool) for each element that moved nothing: missing means
 * that there is no such row, or that it was invalidated and must be written whole.
 */
MUST_CHECK enum status sink_sql_touch(const struct table_def *t, enum ttl_mode mode,
                                      struct buf *out);
/* DELETE under the same guard: a row that is newer stays. */
MUST_CHECK enum status sink_sql_remove(const struct table_def *t, struct buf *out);

/* How many array parameters a statement takes, without the lifetime. */
size_t sink_sql_upsert_arrays(const struct table_def *t);
#define SINK_TOUCH_ARRAYS  5
#define SINK_REMOVE_ARRAYS 4

/* Fills arrays[0..that) from rows, which all belong to t. cleared_us: of each row, 0 = none. */
MUST_CHECK enum status sink_sql_fill_upsert(const struct table_def *t,
                                            const struct row *const *rows,
                                            const int64_t *cleared_us, size_t n,
                                            struct pg_array *arrays);
MUST_CHECK enum status sink_sql_fill_touch(const struct table_def *t, const struct row *const *rows,
                                           size_t n, struct pg_array *arrays);
MUST_CHECK enum status sink_sql_fill_remove(const struct table_def *t,
                                            const struct row *const *rows, size_t n,
                                            struct pg_array *arrays);

/* The statements that do not depend on a table. */
extern const char sink_sql_fence[];     /* pipeline, epoch */
extern const char sink_sql_activity[];  /* user_id[], bot_name[], shard[], opted_out[],
                                           row_version[] */
extern const char sink_sql_character[]; /* bot_name[], defined_at[], version[], definition[] */
extern const char sink_sql_outdated[];  /* bot_name[], defined_at[], row_version[]: of rows just
                                           written */
extern const char sink_sql_bury[];      /* user_id[], bot_name[], newest erasure known[],
                                           row_version[] */
extern const char sink_sql_processor[]; /* shard[], caught_up_to[] */
extern const char sink_sql_progress[];  /* pipeline, epoch, slot, slot_birth, covered_lsn,
                                           row_version, events_applied */
extern const char sink_sql_notify[];    /* payload[] */
extern const char sink_sql_sweep[];     /* keep in seconds, rows at most; answers how many */
