/*
 * tests/pipeline/router_rig.h - a router and two pretended workers over real inproc links, on a
 * clock that only the test moves.
 */
#pragma once

#include "pipeline/frame.h"
#include "pipeline/route.h"
#include "pipeline/router.h"

#define T0 (INT64_C(1767600000) * US_PER_SECOND)

struct world {
    int64_t now;
    struct clock clock;
    struct link *up[2];   /* the router's ends */
    struct link *down[2]; /* the workers' ends */
    struct router *router;
    struct frame_reader reader;
    struct str frame; /* the frame last received */
};

int rig_setup(void **state);
int rig_teardown(void **state);

void worker_send(struct world *w, uint32_t worker, const struct frame_header *h,
                 const struct frame_applied *applied);
void ack(struct world *w, uint32_t worker, uint64_t number, lsn_t covered);
void hello(struct world *w, uint32_t worker, lsn_t covered, const struct frame_applied *applied,
           uint32_t n);
/* Both know nothing and have covered the LSN 100. */
void greet_both(struct world *w);
/* A message of a user whose partition belongs to the worker. */
struct event event_for(uint32_t worker, char user[32]);
/* The frame that is there for the worker. */
struct frame_header receive(struct world *w, uint32_t worker);
/* Lets the router work until the worker has a frame. */
struct frame_header next_frame(struct world *w, uint32_t worker);
