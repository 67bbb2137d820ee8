/*
 * server/load.h - the initial load: the rows that were there when the slot was born, before the
 * first change of the slot.
 *
 * Their events go through the router as those of the slot do, with positions (birth - 1, n << 8),
 * below all of the slot's. T is the event's own time as far as that is past and grows, so that days
 * close and bots learn as if Warmpath had been running all along. Nothing that is read is covered
 * before the end: then everything up to the slot's birth is covered at once, becomes durable, and
 * only then is the state said to be complete. A crash before that makes the next start throw the
 * state away (server/begin.h).
 */
#pragma once

#include "pipeline/router.h"
#include "server/startup.h"

#include <stdatomic.h>

/*
 * Runs on the reader's thread, between the handshake and the stream. OK with *ret_complete false:
 * stopped. s->snapshot is no longer needed once it is begun, and is closed. REFUSED, IO, NOMEM:
 * could not read or hand on; the state stays one that is loading.
 */
MUST_CHECK enum status load_run(const struct config *cfg, struct startup *s, struct router *router,
                                const atomic_bool *stop, bool *ret_complete, struct error *err);
