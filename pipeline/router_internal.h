/* pipeline/router_internal.h - the state shared by router.c and router_day.c, which hold the lock
 * in every function below; nobody else includes it. */
#pragma once

#include "pipeline/router.h"

#include <pthread.h>
#include <stdatomic.h>

#include "pipeline/day_sums.h"
#include "pipeline/frame.h"

/* Frames that may be unacknowledged on a link; the bytes in them are bounded by LIMIT_CREDIT_BYTES.
 */
#define CREDIT_FRAMES 192
/* Beyond the credit, to ask a worker that has been silent for so long whether a frame or its answer
 * was lost; several, as they may be lost too. */
#define PROBE_FRAMES 16
#define PROBE_US     (2 * US_PER_SECOND)

/* The steps of a change of day (router_day.c). */
enum turn { TURN_NONE, TURN_FLUSHING, TURN_CLOSING, TURN_OPENING };

struct outgoing {
    struct link *link;
    struct buf body; /* events of the frame being built */
    uint32_t n;
    int64_t first_us; /* mono time of its first event */
    int64_t sent_us;  /* mono time of the last frame sent */
    uint64_t number;  /* of the last frame sent */
    uint64_t acked;   /* newest frame known to be durable */
    /* Of the unacknowledged frames, by number. */
    uint32_t frame_bytes[CREDIT_FRAMES + PROBE_FRAMES];
    int64_t heard_us; /* the newest answer, or probe */
    size_t unacked_bytes;
    uint64_t covered_sent[SOURCE_COUNT];
    uint64_t covered_durable[SOURCE_COUNT];
    bool greeted;
    int32_t opened, closed; /* the worker's days, as last heard of */
    /* Of the change of day under way: */
    uint64_t control_number; /* of the FLUSH or CLOSE that waits for its answer; 0: not sent yet */
    uint32_t n_parts;        /* that came in answer to CLOSE */
    bool answered;
    size_t next_bot; /* of the sums that go to the worker */
    bool day_sent;
};

struct partition_out {
    struct position sent;
    uint64_t pseq;
};

struct router {
    struct router_config cfg;
    pthread_mutex_t lock; /* guards all but expected */
    struct outgoing out[LIMIT_WORKERS];
    struct partition_out partitions[SOURCE_COUNT][LIMIT_PARTITIONS];
    uint64_t covered[SOURCE_COUNT]; /* every event up to here was put into a frame */
    int64_t floor_us;               /* T of the workers when they said hello */
    int64_t as_of_us;               /* newest source time heard of since ... */
    int64_t as_of_mono_us;          /* ... and when */
    struct {
        int64_t as_of_us; /* newest time that PostgreSQL has said, 0 = none ... */
        int64_t mono_us;  /* ... and when */
        int64_t seen_us;  /* mono time at which the slot reader was last here */
        bool away;        /* it was away since, and has not read to the end yet */
    } slot;
    int64_t day_end_us; /* T may go so far; INT64_MAX: there is no T yet */
    enum turn turn;
    int32_t turn_day; /* that is to begin */
    bool turn_again;  /* it was begun before: some worker may have learned on it, or after */
    int64_t turn_us;  /* mono time of its last step */
    struct day_sums sums;
    bool rewind[SOURCE_COUNT];           /* a worker saw a gap: read again from what is durable */
    uint64_t starts;                     /* how many times a worker has begun */
    atomic_bool expected[LIMIT_WORKERS]; /* the worker has sent something */
    int64_t looked_us;                   /* mono time of the last look for frames */
    struct frame_reader reader;
    struct buf scratch; /* one encoded event */
    struct buf head;
};

/* ---- router.c ---- */

/* What the newest source time heard of has become by now; T but for the end of its day. */
int64_t router_source_time(const struct router *r, int64_t mono_us);
/* True while the worker may be sent another frame. */
bool router_has_credit(const struct outgoing *o);
/* Sends what is buffered under a header of the kind. AGAIN: the link is full. */
MUST_CHECK enum status router_send(struct router *r, struct outgoing *o, enum frame_kind kind,
                                   int64_t now_us, struct error *err);
/* Sends the buffered events, if any, with the covered LSN. AGAIN: the link is full. */
MUST_CHECK enum status router_send_events(struct router *r, struct outgoing *o, int64_t now_us,
                                          struct error *err);
/* Takes the frames of every worker that gave a hint, or now and then of all. */
MUST_CHECK enum status router_receive(struct router *r, int64_t now_us, struct error *err);

/* ---- router_day.c ---- */

/* The last microsecond of a day. */
int64_t router_day_end(int32_t day);
/* After a worker began (again): what it says may be the middle of a change of day. */
void router_day_settle(struct router *r);
/* PARTS and CLOSED answer one CLOSE; what answers an earlier one, sent again since, does not count.
 */
MUST_CHECK enum status router_day_answer(struct router *r, struct outgoing *o,
                                         const struct frame_header *h, struct error *err);
/* AGAIN while the time until_us has to wait for its day to begin. An event that was committed
 * before midnight and comes after it still belongs to the old day, as long as that has not ended.
 */
MUST_CHECK enum status router_day_follow(struct router *r, int64_t until_us, int64_t now_us,
                                         struct error *err);
