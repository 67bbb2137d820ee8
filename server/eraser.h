/*
 * server/eraser.h - what remains to be erased of a user once the state holds nothing of the user:
 * cache rows, what was delivered before, what is remembered of pulled points; and the receipt.
 *
 * A thread with a connection of its own; workers hand it tasks (pipeline/partition.h) and never
 * wait for it. Whatever fails is tried again: everything it does may be done twice.
 */
#pragma once

#include "pipeline/partition.h"
#include "server/config.h"
#include "server/door.h"
#include "server/feed.h"

struct eraser;

struct eraser_config {
    const struct config *cfg; /* borrowed, as is the door */
    struct door *door;
    struct feed *feed; /* is told; borrowed, too */
    uint64_t epoch;
};
MUST_CHECK enum status eraser_start(const struct eraser_config *cfg, struct eraser **ret,
                                    struct error *err);
struct erase_port eraser_port(struct eraser *e);
/* When no worker runs any more: ends the thread, whatever it waits for; what is not done is asked
 * for again at the next start. NULL is a no-op. */
void eraser_free(struct eraser *e);
