/*
 * ingest/stream.h - the messages of one replication session, handed on to a receiver.
 *
 * No sockets here: bytes of CopyData in, calls of receiver_ops out. Keeps the transaction in
 * progress, the relations of the session, and the one message that the receiver has no room for.
 *
 * Positions: (final_lsn of the transaction, row index << 8 | k). The row index counts every row
 * change, TRUNCATE and request (ingest/request.h) of the transaction, mapped or not, so that it
 * does not depend on the mapping; k counts the events of one row. Rows that are rebuilt have the
 * positions behind the high watermark, whose transaction holds nothing else. A transaction that
 * begins below the start LSN is already durable (its end is not beyond it) and is read past.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"
#include "ingest/feedback.h"
#include "ingest/heartbeat.h"
#include "ingest/mapping.h"
#include "ingest/replication.h"

struct stream;
MUST_CHECK enum status stream_new(const struct mapping_set *mappings,
                                  const struct receiver_ops *receiver, struct stream **ret,
                                  struct error *err);
void stream_free(struct stream *s); /* NULL is a no-op */
/* Keys that are rebuilt join the stream through f (borrowed; NULL: none do). */
void stream_set_rebuild(struct stream *s, struct rebuild_feed *f);
CLEANUP_FREEP(struct stream, stream_free);

/* A new session: forgets relations, the open transaction and what was pending. */
void stream_start(struct stream *s, lsn_t start, int64_t now_us);
/* Other mappings from here on; the old ones are not looked at again. Not while something is
 * pending, unless it is blocked: then stream_retry() may go past it. */
void stream_remap(struct stream *s, const struct mapping_set *mappings);

/*
 * One CopyData. AGAIN: the receiver has no room; bytes must stay valid, and stream_retry() is to be
 * called until it answers otherwise, before the next put. PROTOCOL: bytes that cannot be
 * understood. Other codes come from the receiver.
 *
 * Also AGAIN, and it stays so: a row that the mapping cannot read (a mapped column is gone, the
 * table has another name), or a TRUNCATE of a table with on_truncate: stop. Only stream_remap()
 * helps. In the same session nothing is read again, so that it also helps when rows of one
 * transaction need different mappings.
 */
MUST_CHECK enum status stream_put(struct stream *s, struct str bytes, struct error *err);
MUST_CHECK enum status stream_retry(struct stream *s, struct error *err);
bool stream_is_pending(const struct stream *s);
/* What is pending waits for other mappings. */
bool stream_is_blocked(const struct stream *s);
/* Why, also over sessions, until the transaction that did it has been handed on; NULL = nothing
 * blocks. Borrowed until the next call. */
const struct error *stream_blocked_by(const struct stream *s);

/* Heartbeats that come back; its pipeline is the caller's to set. */
struct heartbeat *stream_heartbeat(struct stream *s);

/* What feedback is computed from; kept up to date by put and retry. */
struct feedback *stream_feedback(struct stream *s);
