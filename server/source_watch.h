/*
 * server/source_watch.h - a thread that looks at the source beside the reader, on a connection of
 * its own: heartbeats (source.heartbeat), a slot that is about to be lost, and mapped tables that
 * are taken out of the publication.
 *
 * What a table's changes were while it was not published, nobody can tell afterwards, and the
 * stream shows nothing of it. So the entries of the publication are remembered in the file
 * "publication" of the state directory: an entry that was removed and added again, also while
 * nothing ran, has another OID (pg_publication_rel). A publication that was made anew as a whole is
 * left to the slot, which cannot get past changes from before (docs/OPERATIONS.md).
 *
 * Nothing here ends the pipeline: what it finds is logged, errors once until they change.
 */
#pragma once

#include "server/config.h"

struct source_watch;
MUST_CHECK enum status source_watch_start(const struct config *cfg, struct source_watch **ret,
                                          struct error *err);
void source_watch_stop(struct source_watch *w); /* NULL is a no-op */
/* The slot as it was seen last, at most some seconds ago; -1: not known, or there is no limit. Any
 * thread. */
struct source_slot {
    int64_t lag_bytes;      /* from confirmed_flush_lsn to the end */
    int64_t retained_bytes; /* from restart_lsn to the end */
    int64_t safe_wal_bytes; /* until it may be lost */
};
struct source_slot source_watch_slot(struct source_watch *w);
/* A state begins anew: the tables are read whole, whatever was published before. */
void source_watch_forget(const char *state_dir);

/* The lag a heartbeat has measured, for `status`: the file "lag" of the state directory. Best
 * effort. */
void source_lag_write(const char *state_dir, int64_t lag_us, int64_t at_us);
bool source_lag_read(const char *state_dir, int64_t *ret_lag_us, int64_t *ret_at_us);
