/*
 * ingest/session.h - opens one replication session, and finds out before the first byte whether
 * this is the right source.
 *
 * Every time, not only at start: behind the same name there may meanwhile be a promoted standby, an
 * old primary that has come back, or a slot that was dropped and made anew. An own connection for
 * ordinary statements looks at the slot; it is closed again before streaming.
 */
#pragma once

#include "core/pg.h"
#include "ingest/replication.h"

struct session {
    PGconn *conn; /* streaming; NULL = none */
    int pid;      /* the server's process, kept after the end: it may still hold the slot */
    uint32_t timeline;
    int64_t feedback_us; /* a third of the server's patience, or the configured interval */
};

/*
 * Opens it, streaming from start. END: stopped. IO: try again later; a slot that another process
 * holds is that, with its name, unless the process served our last session: that one is ended.
 * REFUSED, LOST: of cfg->check, or of the server.
 */
MUST_CHECK enum status session_open(struct session *s, const struct replication_config *cfg,
                                    const struct pg_wait *wait, lsn_t start, struct error *err);
void session_close(struct session *s);

/*
 * Why the server refuses to go on, when err says only that it does: a slot that the catalogue shows
 * to be lost is LOST. Otherwise, or when nobody can be asked, err stays as it is.
 */
enum status session_explain(const struct session *s, const struct replication_config *cfg,
                            const struct pg_wait *wait, lsn_t start, struct error *err);

/*
 * Ends the server's process that holds the slot, and waits for at most 5 s until it has let go. It
 * is asked more than once: a sender whose peer has stopped reading takes the first request, and
 * then waits to tell its peer about it; only the next one makes it give that up. OK also when it
 * could not be ended: then the slot is still held.
 */
MUST_CHECK enum status session_end_reader(PGconn *conn, const char *slot, int pid,
                                          const struct pg_wait *wait, struct error *err);
