/*
 * state/points.h - what is remembered of each point of a pulled collection: one SQLite file,
 * DIR/qdrant-NAME.db.
 *
 * It is a memory aid, not the truth: it is written after the inbox has committed what it says, so
 * after a crash it knows less than the inbox, and the same events come once more, under the same
 * ids. It must never know more: points_begin() clears it when the inbox is the older one (restored,
 * or begun anew). A file that cannot be read is begun anew, too.
 *
 * A sweep: points_sweep_begin(), points_mark() for every point that is there (in memory, a bit
 * each), points_sweep_end(). Points that two sweeps in a row have not marked are points_gone().
 *
 * One handle, one thread.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

struct points;

/* Opens or creates the file. *ret_lost: it was there, could not be read, and was begun anew. IO;
 * REFUSED: a newer format. */
MUST_CHECK enum status points_open(const char *dir, const char *name, struct points **ret,
                                   bool *ret_lost, struct error *err);
void points_close(struct points *p); /* NULL is a no-op */
CLEANUP_FREEP(struct points, points_close);

/* Compares with the number of the newest delivery in the inbox; points_commit() sets it. */
MUST_CHECK enum status points_begin(struct points *p, uint64_t delivery, struct error *err);
uint64_t points_delivery(const struct points *p);
int64_t points_swept_us(const struct points *p); /* the last complete sweep, 0 = none */

/* *ret_known is borrowed until the next call. END: never seen. Marks it. */
MUST_CHECK enum status points_find(struct points *p, struct str id, struct str *ret_known,
                                   struct error *err);
/* Within points_change() and points_commit(): one transaction. put() marks. */
MUST_CHECK enum status points_change(struct points *p, struct error *err);
MUST_CHECK enum status points_put(struct points *p, struct str id, struct str known,
                                  struct error *err);
MUST_CHECK enum status points_remove(struct points *p, struct str id, struct error *err);
MUST_CHECK enum status points_commit(struct points *p, uint64_t delivery, struct error *err);

/* From any thread, whoever has the file of this name open: the points go of which is_of() says so
 * by what is remembered of them, and nothing of them is left in the file. OK when there is none.
 * AGAIN: somebody reads it, try later. */
MUST_CHECK enum status points_forget(const char *dir, const char *name,
                                     bool (*is_of)(void *ctx, struct str known), void *ctx,
                                     struct error *err);

MUST_CHECK enum status points_sweep_begin(struct points *p, struct error *err);
/* *ret_total points are remembered, *ret_missing of them were not marked now. */
MUST_CHECK enum status points_sweep_end(struct points *p, int64_t now_us, uint64_t *ret_total,
                                        uint64_t *ret_missing, struct error *err);
/* At most `max` points that are gone; fn must not change anything, its failure is returned. */
MUST_CHECK enum status points_gone(struct points *p, uint32_t max,
                                   enum status (*fn)(void *ctx, struct str id, struct str known,
                                                     struct error *err),
                                   void *ctx, struct error *err);
