/*
 * ingest/request.h - what applications and commands ask for, as it comes through the slot.
 *
 * A transactional logical message of the source database with the prefix below, as
 * strategic_invalidate() and its sisters emit (migrations/postgres/0003_requests). So a request has
 * a place in the order of commits, behind the changes of its own transaction, and is repeated after
 * a crash like any change. Its content is one JSON object of these members and no others:
 *
 *   op        "invalidate", "recompute", "touch" or "forget"
 *   user_id   whose keys
 *   bot_name  of which bot; absent or null: of all
 *   reason    a word for whoever reads it; may be absent or null
 *   at        when it was made, integer microseconds: the token (struct event_request)
 */
#pragma once

#include "core/event.h"
#include "core/lsn.h"

#define REQUEST_PREFIX    "warmpath.request"
#define REQUEST_PLACE     "request" /* where its dead letters say they come from */
#define REQUEST_BYTES_MAX 8192
/* A token may be ahead of its transaction by so much: the clocks of two databases may differ. */
#define REQUEST_AHEAD_US (3600 * INT64_C(1000000))

/*
 * An EVENT_REQUEST, or EVENT_PRIVACY with PRIVACY_ERASE for "forget" (without a scope). The id is
 * made of the position. INVALID: the content is none; the text names no value of it. NOMEM.
 */
MUST_CHECK enum status request_event(struct str content, struct position position,
                                     int64_t commit_us, struct event_arena *arena,
                                     struct event *ret, struct error *err);
