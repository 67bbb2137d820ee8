/*
 * state/lease.h - who may write: one lease row and one epoch row per pipeline in PostgreSQL.
 *
 * strategic_lease(pipeline, holder, until) is renewed; strategic_epoch(pipeline, epoch) only
 * changes on a change of holder and is read FOR SHARE by every sink transaction, so a take-over
 * waits for a commit in flight and fences every later one. A new epoch is above those of all
 * pipelines, so that rows an abandoned pipeline left never look newer than ours. Time is the
 * database's clock.
 */
#pragma once

#include "core/cleanup.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

struct lease;

#define LEASE_TTL_S   10
#define LEASE_RENEW_S 3

/* Takes the lease and a new epoch; REFUSED when someone else holds it, with the holder's name and
 * how long it still runs. is_dead, unless NULL: true when the holder of that name is known to have
 * ended without giving its lease back; then nobody waits for it. Opens its own connection. */
MUST_CHECK enum status lease_acquire(const char *conninfo, const char *pipeline, const char *holder,
                                     bool (*is_dead)(const char *holder), struct lease **ret,
                                     struct error *err);
uint64_t lease_epoch(const struct lease *l);
/* FENCED: taken over. IO: could not reach the server; call again, it reconnects. */
MUST_CHECK enum status lease_renew(struct lease *l, struct error *err);
/* Gives the lease back so that the next start need not wait; NULL is a no-op. */
void lease_release(struct lease *l);
CLEANUP_FREEP(struct lease, lease_release);
