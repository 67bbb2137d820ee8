/*
 * server/built_with.h - what the rows in the cache were made with: the engines (their versions and
 * parameters) and the mapping of the source.
 *
 * The file "built_with" in the state directory remembers both. A start that finds another one there
 * marks every row as stale (readers.h) and requests a rebuild of all keys from the source tables
 * (strategic_rebuild, reason "engine_version" or "mapping"), which replaces row by row; only then
 * it writes down the new ones, so that a crash in between does all of it again.
 */
#pragma once

#include "server/config.h"

/* fresh: the state has just begun, and all rows are made with what is there now. */
MUST_CHECK enum status built_with_settle(const struct config *cfg, bool fresh, struct error *err);
