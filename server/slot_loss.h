/*
 * server/slot_loss.h - what happens when the source no longer has what follows our state
 * (STATUS_LOST): the policy source.on_slot_lost.
 *
 * stop: the process ends with what happened and what to do. rebuild: a new slot, an empty state and
 * the initial snapshot again, but at most once in SLOT_LOSS_REST_US: what loses the slot again and
 * again must be mended by a person, not by reading the whole source again and again. The file
 * "rebuild" in the state directory remembers the last time, before anything is thrown away.
 */
#pragma once

#include "server/config.h"

#define SLOT_LOSS_REST_US (INT64_C(6) * 3600 * US_PER_SECOND)

/* Pure: what to do now. rebuilt_us: the last time, 0 = never. A clock that was set back does not
 * forbid it for longer than the rest. */
bool slot_loss_may_rebuild(int64_t now_us, int64_t rebuilt_us);

/*
 * err holds the loss. OK: begin anew, which has been noted. REFUSED: stop; err has become the loss
 * with the instructions. IO: the note could not be written.
 */
MUST_CHECK enum status slot_loss_decide(const struct config *cfg, int64_t now_us,
                                        struct error *err);
