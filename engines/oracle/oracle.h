/*
 * engines/oracle/oracle.h - the deliberately naive second implementation of F.
 *
 * It keeps every event ever added, in arrival order, and recomputes a row from nothing: live events
 * of the key, windows, sessions, segments, sums, all by plain loops in separate code. It shares
 * with the engines only the text features (feature_extract), the kernels' formulas and the row
 * builder. `verify` and the tests compare its rows with the engines', bit for bit.
 */
#pragma once

#include "core/event.h"
#include "core/row.h"
#include "engines/feature.h"
#include "engines/tables.h"

struct oracle;

MUST_CHECK enum status oracle_new(struct oracle **ret, struct error *err);
void oracle_free(struct oracle *o);
/* The closed epochs of a bot, borrowed. The caller adds to the list, and only what events with a T
 * of that day or later may know: an epoch is there before the first such event is added. NOMEM. */
MUST_CHECK enum status oracle_set_epochs(struct oracle *o, struct str bot_name,
                                         const struct epoch_list *epochs);
/* as_of_us: T when the event arrived (an event older than the horizon at its arrival never counts).
 */
MUST_CHECK enum status oracle_add(struct oracle *o, const struct event *e, enum source source,
                                  uint64_t ver, int64_t as_of_us, struct error *err);
size_t oracle_key_count(const struct oracle *o);
void oracle_key_at(const struct oracle *o, size_t index, struct str *ret_user, struct str *ret_bot);
/* STATUS_END when the key has no row in the table at T = as_of_us. What arrived after T (the
 * as_of_us of oracle_add) has not arrived yet. */
MUST_CHECK enum status oracle_row(struct oracle *o, enum table_id table, struct str user_id,
                                  struct str bot_name, int64_t as_of_us, struct row *row,
                                  struct error *err);
