/*
 * server/influx_pull.h - a thread that reads from InfluxDB 1.x what its subscription may have lost
 * (docs/HTTP.md, "InfluxDB and Telegraf").
 *
 * Every `interval` it asks for the points from the cursor less `overlap` on, every `rescan` for
 * those of `rescan_window`, and submits what was not counted before: by this reading, by an earlier
 * one, or by a push (influx_pull_note()). What was counted is kept in DIR/influx-NAME.db
 * (state/seen.h), written just after the inbox has committed and before its rows can go: what a
 * crash leaves between the two is noted by influx_pull_recover().
 *
 * How it stands is in /metrics: source_connected, pull_requests, pull_cursor_timestamp_seconds.
 *
 * Nothing here ends the process or holds anything else up: a server that is down, refuses or lies
 * is logged and asked again.
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/seen_mark.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config_influx;
struct inbox;
struct influx_pull;

/* What the last process had committed but not noted is noted now: its rows are still in the inbox.
 * To be called before anybody else reads the inbox. Errors: as below, and of inbox_read(). */
MUST_CHECK enum status influx_pull_recover(const struct config_influx *cfg, const char *state_dir,
                                           struct inbox *inbox, struct error *err);
/* All borrowed until influx_pull_stop(), which must come before inbox_close(). INVALID: the URL;
 * IO, REFUSED: the file cannot be used. */
MUST_CHECK enum status influx_pull_start(const struct config_influx *cfg, const char *state_dir,
                                         struct inbox *inbox, const struct clock *clock,
                                         struct influx_pull **ret, struct error *err);
/* Ends a request under way and the thread. NULL is a no-op. */
void influx_pull_stop(struct influx_pull *p);
/* After inbox_close(), which brings the last notes. NULL is a no-op. */
void influx_pull_free(struct influx_pull *p);
CLEANUP_FREEP(struct influx_pull, influx_pull_free);

/* These values came another way and are stored. ctx is the pull. Any thread; one short write. */
void influx_pull_note(void *ctx, const struct seen_mark *marks, size_t n);
/* Was this the value that came last, a moment ago and by whichever way? For struct influx_map: a
 * push may come behind the reading that has brought its points. Any thread. */
bool influx_pull_seen(void *ctx, const struct seen_mark *mark);
