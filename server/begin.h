/*
 * server/begin.h - how a state begins: with a slot of its own, and with the rows that were there
 * before it (server/load.h).
 *
 * With source.snapshot: initial the slot is made together with a snapshot of exactly its birth, and
 * that snapshot cannot be had again: a slot that exists already cannot be begun with. So that a
 * crash can be told from somebody else's slot, the state says in its identity that it is loading
 * BEFORE the slot is made, and until all of the snapshot is durable. The next start throws such a
 * state away, with its slot, and begins again:
 *   loading, no slot_birth   the slot may not have been made; if there is one, it is ours
 *   loading, slot_birth      the slot is ours, unless it was confirmed beyond its birth: by whom?
 *   not loading              complete
 */
#pragma once

#include "server/startup.h"

/* With a fresh state: makes the slot unless it is to be taken over (snapshot: never), and writes
 * down whose state this is. With a snapshot, s->snapshot holds it for load_run(). */
MUST_CHECK enum status begin_state(const struct config *cfg, struct startup *s, PGconn *conn,
                                   const struct gap_input *in, struct error *err);

/*
 * Throws away what the pipeline has: state, slot, progress row; what follows is begin_state() with
 * a slot that does not exist. s->stores are replaced, s->identity is that of a fresh state. The
 * rows in PostgreSQL stay until newer ones replace them. A crash anywhere is like one while
 * loading. The caller has made sure that the slot is this pipeline's.
 * REFUSED: source.create is off, or somebody reads the slot; then nothing was changed.
 */
MUST_CHECK enum status begin_anew(const struct config *cfg, struct startup *s, PGconn *conn,
                                  struct error *err);
