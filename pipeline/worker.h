/*
 * pipeline/worker.h - the thread around one partition worker: link in, store and sink out.
 *
 * It applies frames, fires timers and commits when there is nothing else to do, or after
 * LIMIT_COMMIT_EVENTS events or LIMIT_COMMIT_US since the first, whichever is first.
 */
#pragma once

#include "core/clock.h"
#include "pipeline/partition.h"

#include <stdbool.h>

struct worker;

struct worker_config {
    struct partition_config partition;
    const char *url; /* of the link: the router listens there */
    const struct clock *clock;
    void (*acked)(void *ctx,
                  uint32_t worker); /* after an ACK went up: the reader may look for it */
    void *acked_ctx;
};

/* Recovers the state, dials, says HELLO, runs. */
MUST_CHECK enum status worker_start(const struct worker_config *cfg, struct worker **ret,
                                    struct error *err);
/* The same without a thread, for who gives it its time, as a simulator does: worker_step() waits
 * for a frame (the first one says HELLO), applies it, fires what is due and commits if that is due.
 * worker_free() commits nothing: what a crash leaves. NULL is a no-op. */
MUST_CHECK enum status worker_new(const struct worker_config *cfg, struct worker **ret,
                                  struct error *err);
MUST_CHECK enum status worker_step(struct worker *w, struct error *err);
void worker_free(struct worker *w);
CLEANUP_FREEP(struct worker, worker_free);
/* Asks for the graceful end: apply what has arrived, make every dirty row due, commit, fold. */
void worker_drain(struct worker *w);
/* Asks the thread to end, which it sees within its wait for a frame: before worker_stop() of
 * several workers, so that they end side by side. */
void worker_halt(struct worker *w);
/* Waits for the thread, commits and frees. Rows still in the outbox stay there, durably. */
MUST_CHECK enum status worker_stop(struct worker *w, struct error *err);
/* OK while it runs; else what stopped it. */
enum status worker_health(struct worker *w, struct error *err);
/* A recent view, taken by the thread itself. */
struct partition_view worker_view(struct worker *w);
struct worker_figures {
    struct partition_figures partition;
    int64_t committed_us; /* wall clock of the last commit, 0 = none yet */
};
/* At most a second old. */
struct worker_figures worker_figures(struct worker *w);
/* True once a drained worker has nothing left to hand to the sink or to hear from it. */
bool worker_drained(struct worker *w);
