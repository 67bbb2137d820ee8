/*
 * server/feed_sender.h - sends what waits for one destination of feed.webhooks, in its order, on a
 * thread of its own.
 *
 * POST of the announcement, signed as Standard Webhooks has it: webhook-id, webhook-timestamp,
 * webhook-signature with one signature per secret that has not expired. 2xx is delivered; 410, or
 * a failure after give_up, makes a dead letter, and the next one is sent; everything else is tried
 * again after a pause (decorrelated jitter, or what Retry-After asks for), and what follows waits.
 * A crash, a stop or an answer that got lost repeats up to SENDER_SLICE deliveries with the ids
 * they had.
 */
#pragma once

#include "core/clock.h"
#include "server/config_feed.h"
#include "state/feed_queue.h"

#define SENDER_SLICE 64 /* deliveries that are settled together */

struct feed_sender;

/* cfg and queue are borrowed until it is stopped; d: its number in the queue. INVALID: a secret. */
MUST_CHECK enum status feed_sender_start(const struct config_feed_webhook *cfg,
                                         struct feed_queue *queue, size_t d,
                                         const struct clock *clock, struct feed_sender **ret,
                                         struct error *err);
/* Ends the call under way; feed_sender_stop() waits for the thread and frees. NULL is a no-op. */
void feed_sender_tell_stop(struct feed_sender *s);
void feed_sender_stop(struct feed_sender *s);
/* The secrets of cfg from now on. */
MUST_CHECK enum status feed_sender_reload(struct feed_sender *s,
                                          const struct config_feed_webhook *cfg, struct error *err);

/* How long to wait after a failure: at least what the server asked for, which is bounded. */
int64_t feed_pause_us(int64_t previous_us, unsigned retry_after_s, uint64_t random);
