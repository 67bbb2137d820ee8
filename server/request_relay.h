/*
 * server/request_relay.h - hands the requests of applications on to the slot.
 *
 * strategic_invalidate() and its sisters emit them by themselves when the cache lives in the
 * database that is read; which of the two holds is recorded in strategic_source whenever the
 * connections are made. Otherwise, and until it was recorded, requests wait in strategic_request:
 * this thread emits them in the source database, oldest first, and then deletes them. A crash in
 * between emits them again, which changes nothing.
 */
#pragma once

#include "core/cleanup.h"
#include "server/config.h"

struct request_relay;

/* cfg is borrowed. */
MUST_CHECK enum status request_relay_start(const struct config *cfg, struct request_relay **ret,
                                           struct error *err);
/* Ends the thread, whatever it waits for. NULL is a no-op. */
void request_relay_stop(struct request_relay *r);
