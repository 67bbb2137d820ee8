/*
 * pipeline/day_sums.h - what all partitions have taught on one day, added up by bot: the input of
 * the day's epochs (engines/epoch.h). Used by whoever leads all partitions over midnight: the
 * router and `replay`.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"
#include "engines/epoch.h"

#include <stddef.h>

struct day_sums {
    struct day_bot {
        struct str name; /* owned */
        struct epoch_sums *sums;
    } * bots; /* by name */
    size_t n, cap;
};

void day_sums_deinit(struct day_sums *d); /* leaves it empty, ready for the next day */
/* bytes: epoch_cells_encode(). CORRUPT, NOMEM. */
MUST_CHECK enum status day_sums_add(struct day_sums *d, struct str bot, struct str bytes,
                                    struct error *err);

/*
 * Workers that agree on a day have opened == closed, all the same. Whatever else they report is the
 * middle of a change of day, cut short: the day that has to be closed and opened once more, 0 if
 * none has.
 */
int32_t day_unfinished(const int32_t *opened, const int32_t *closed, size_t n);
