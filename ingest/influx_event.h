/*
 * ingest/influx_event.h - points of InfluxDB as events (ENGINES.md section 8).
 *
 * measurement         event                 of it
 * one that is known   metric                every number and boolean (0, 1); strings are left out
 * memory_access       memory, op access     tag or string memory_id; score, grade, outcome hit|miss
 * proactive_outreach  outreach              sent, replied, opted_out: one event for each that is
 *                                           not 0; tag or string topic, id
 * any other           none: ignored
 *
 * The bot is the tag bot or bot_name, the user the tag user_id (a metric needs none). The same
 * point gives the same events, however it came: the order of its tags does not matter, its time
 * counts to the nanosecond, and what is written again overwrites field by field, as in InfluxDB.
 * A point of a known measurement that cannot be used becomes a dead letter, as does a line that is
 * no point.
 */
#pragma once

#include "core/buf.h"
#include "core/event.h"
#include "core/seen_mark.h"
#include "core/status.h"
#include "ingest/line_protocol.h"

#include <stdbool.h>
#include <stdint.h>

/* Of one body; what is bad beyond is one dead letter more, which says how much there was. */
#define INFLUX_DEAD_LETTERS_MAX 100

struct influx_map {
    struct str where; /* of dead letters: "influx:NAME"; at most LIMIT_ID_BYTES */
    bool (*known)(struct str measurement); /* has metrics; any thread */
    /* Was this value of a metric counted, or this point refused before? Then it is left out.
     * NULL: none was. */
    bool (*seen)(void *ctx, const struct seen_mark *mark);
    void *seen_ctx;
};

/* What a body has become. */
struct influx_batch {
    struct buf events; /* n_events times: varint length + event_encode() bytes */
    uint32_t n_events; /* dead letters too */
    struct buf marks;  /* struct seen_mark of every value of its metrics, and of its bad points */
    uint64_t metrics, memories, outreach;
    uint64_t ignored; /* points that nothing is made of */
    uint64_t seen;    /* points of which every value was counted before */
    uint64_t bad;     /* lines and points that cannot be used */
    struct event_arena *arena;
    struct buf scratch;
    struct error dead; /* why the first of those without a dead letter is bad */
    uint64_t undead;   /* how many they are */
};
/* bytes_max: of events. NOMEM. */
MUST_CHECK enum status influx_batch_init(struct influx_batch *b, size_t bytes_max,
                                         struct error *err);
void influx_batch_deinit(struct influx_batch *b);
void influx_batch_reset(struct influx_batch *b);
/* Something was understood, or there was nothing to understand. */
static inline bool influx_batch_usable(const struct influx_batch *b)
{
    return b->bad == 0 || b->metrics + b->memories + b->outreach + b->ignored + b->seen > 0;
}
static inline size_t influx_batch_marks(const struct influx_batch *b)
{
    return b->marks.len / sizeof(struct seen_mark);
}

/* Appends the events of a point. received_us is the time of dead letters. LIMIT: events is full;
 * NOMEM. */
MUST_CHECK enum status influx_add_point(struct influx_batch *b, const struct influx_map *map,
                                        const struct line_point *p, int64_t received_us,
                                        struct error *err);
/* Appends the marks of an event that was made here, as its batch had them; none of any other event
 * and of dead letters. NOMEM, LIMIT. */
MUST_CHECK enum status influx_event_marks(const struct event *e, struct buf *out);
/* All of a body; lines without a time were written at options->now_ns. */
MUST_CHECK enum status influx_add_body(struct influx_batch *b, const struct influx_map *map,
                                       struct str body, const struct line_options *options,
                                       struct error *err);
