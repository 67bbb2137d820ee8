/*
 * server/qdrant_pull.h - a thread that reads one Qdrant collection and submits what it finds to the
 * inbox (docs/HTTP.md, "Qdrant").
 *
 * Qdrant has no feed of changes. So three readings take turns: every `interval` the points whose
 * timestamp_unix is not older than the cursor less `overlap`; every `sweep` all points, which
 * finds what changed without its timestamp, what has none, and what is gone; the first reading of
 * all is a sweep. What a point has become is remembered in DIR/qdrant-NAME.db (state/points.h), so
 * only differences are submitted, and a deletion knows whose memory it was. That file is written
 * after the inbox has committed: a crash between the two submits the same events again, and these
 * have the same ids. A point is gone when two complete sweeps in a row did not bring it.
 *
 * Nothing here ends the process or holds anything else up: a server that is down, refuses or lies
 * is logged and asked again. How it stands is in /metrics (source_connected, pull_cursor_...).
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"

struct config_qdrant;
struct inbox;
struct qdrant_pull;

/* All borrowed until qdrant_pull_stop(), which must come before inbox_close(). INVALID: the URL;
 * CORRUPT, IO, REFUSED: the file cannot be used. */
MUST_CHECK enum status qdrant_pull_start(const struct config_qdrant *cfg, const char *state_dir,
                                         struct inbox *inbox, const struct clock *clock,
                                         struct qdrant_pull **ret, struct error *err);
/* Ends a request under way and the thread. NULL is a no-op. */
void qdrant_pull_stop(struct qdrant_pull *p);
