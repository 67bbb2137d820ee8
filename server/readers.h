/*
 * server/readers.h - what readers of the cache are told when the rows can no longer be vouched for.
 *
 * Rows stay where they are: old data that says so is better than none. Both need the lease, or
 * nobody else who writes.
 */
#pragma once

#include "server/config.h"

/* The source is not what it was: until the rows have caught up with it, none is `current`. */
MUST_CHECK enum status readers_not_current(const struct config *cfg, struct error *err);
/* Every row was computed from something else than now: it reads `stale` until it is written anew.
 */
MUST_CHECK enum status readers_stale(const struct config *cfg, struct error *err);
