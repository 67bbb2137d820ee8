/*
 * pipeline/frame.h - what travels over a link: msgpack, one frame per nng message.
 *
 * A frame is a sequence of msgpack objects. First a header array
 *   [FRAME_VERSION, kind, number, as_of_us, covered_lsn, covered_inbox, n, opened, closed]
 * then n arrays, by kind:
 *   EVENTS (down): [partition, pseq, lsn, seq, commit_us, as_of_us, event as bin (core/event.h),
 *                   step, source]; step: 0, or enum rebuild_step of a key that is rebuilt, and then
 *                   instead of the event of BEGIN and END: frame_mark_encode()
 *   HELLO, REWIND (up): [source, partition, lsn, seq, pseq], what is applied of each partition
 *   ACK (up): nothing more
 * and, for the change of day (pipeline/partition.h), where days count from 1970-01-01 UTC:
 *   FLUSH (down): nothing more; commit and acknowledge at once
 *   CLOSE (down): nothing more; close the day `closed`
 *   PARTS (up): [bot name as bin, sums as bin], what this worker's keys taught before that day
 *   CLOSED (up): nothing more; n is how many parts went before it
 *   SUMS (down): [bot name as bin, sums as bin], what all workers' keys taught before `opened`
 *   DAY (down): nothing more; that was all: open the day `opened`
 * number: frames down count up from 1 on each link, and again after a HELLO or REWIND; in an ACK,
 * the newest one that is durable with all before it; in PARTS and CLOSED, that of the CLOSE they
 * answer. A worker that misses a frame sends REWIND and ignores everything up to the next frame 1.
 * as_of_us is T, the newest source time the sender knows. covered_lsn, covered_inbox: every event
 * up to this LSN, and every row of the inbox up to this id, has been sent on this link (down), or
 * is durable (up). opened, closed (up): the worker's days.
 */
#pragma once

#include "core/buf.h"
#include "core/lsn.h"
#include "core/status.h"
#include "ingest/rebuild_feed.h"

#define FRAME_VERSION 4

enum frame_kind {
    FRAME_EVENTS = 1,
    FRAME_HELLO,
    FRAME_ACK,
    FRAME_REWIND,
    FRAME_FLUSH,
    FRAME_CLOSE,
    FRAME_PARTS,
    FRAME_CLOSED,
    FRAME_SUMS,
    FRAME_DAY,
};

struct frame_header {
    enum frame_kind kind;
    uint64_t number;
    int64_t as_of_us;
    uint64_t covered[SOURCE_COUNT];
    uint32_t n;
    int32_t opened;
    int32_t closed;
};

struct frame_event {
    enum source source;
    uint32_t partition;
    uint64_t pseq;
    struct position pos;
    int64_t commit_us;
    int64_t as_of_us;
    struct str bytes; /* event_decode(); BEGIN, END: frame_mark_decode() */
    enum rebuild_step step;
};

/* What REBUILD_BEGIN and REBUILD_END say: all of the struct but step and event. */
MUST_CHECK enum status frame_mark_encode(const struct rebuild_event *e, struct buf *out);
/* PROTOCOL. Borrows from bytes. */
MUST_CHECK enum status frame_mark_decode(struct str bytes, struct rebuild_event *ret,
                                         struct error *err);

struct frame_applied {
    enum source source;
    uint32_t partition;
    struct position pos;
    uint64_t pseq;
};

/* Of PARTS and SUMS. */
struct frame_sums {
    struct str bot_name;
    struct str bytes; /* epoch_cells_encode() */
};

MUST_CHECK enum status frame_put_header(struct buf *out, const struct frame_header *h);
MUST_CHECK enum status frame_put_event(struct buf *out, const struct frame_event *e);
MUST_CHECK enum status frame_put_applied(struct buf *out, const struct frame_applied *a);
MUST_CHECK enum status frame_put_sums(struct buf *out, const struct frame_sums *s);

/* Reads one frame; what it returns borrows from bytes. PROTOCOL on anything unexpected. */
struct frame_reader {
    struct str bytes;
    size_t offset;
    void *zone; /* msgpack_zone, reused between frames */
};
MUST_CHECK enum status frame_reader_init(struct frame_reader *r);
void frame_reader_deinit(struct frame_reader *r);
MUST_CHECK enum status frame_open(struct frame_reader *r, struct str bytes,
                                  struct frame_header *ret, struct error *err);
MUST_CHECK enum status frame_next_event(struct frame_reader *r, struct frame_event *ret,
                                        struct error *err);
MUST_CHECK enum status frame_next_applied(struct frame_reader *r, struct frame_applied *ret,
                                          struct error *err);
MUST_CHECK enum status frame_next_sums(struct frame_reader *r, struct frame_sums *ret,
                                       struct error *err);
