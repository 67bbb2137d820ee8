/*
 * ingest/qdrant.h - what Qdrant answers to a scroll, and the events that a point stands for
 * (ENGINES.md section 8).
 *
 * A point is a memory; one whose role is a user's or a bot's is that message, too. Points of the
 * role or type conversation_pair repeat two others and stand for nothing, nor do system and tool.
 * All ids are made from the point's, so the same point gives the same events, however often it is
 * read. What a point has become is kept beside it (struct qdrant_known): from that and the point
 * as it is now come the events that are missing, deletions of what it no longer is among them.
 *
 * Pure functions; nothing here does input or output.
 */
#pragma once

#include "core/cleanup.h"
#include "core/event.h"
#include "core/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The key of the payload that pages are ordered or filtered by: seconds since 1970. */
#define QDRANT_TIME_KEY     "timestamp_unix"
#define QDRANT_ID_BYTES     40 /* an unsigned 64-bit number or a UUID, with a NUL */
#define QDRANT_ACCESSES_MAX 64 /* events of one growth of access_count: the last ones */
#define QDRANT_EVENTS_MAX   (QDRANT_ACCESSES_MAX + 6)

/* ---- an answer ---- */

struct qdrant_page {
    json_t *root;         /* owned */
    const json_t *points; /* an array */
    size_t n;
    char next[QDRANT_ID_BYTES]; /* next_page_offset, "" = null */
};
/* PROTOCOL: this is no answer to a scroll. Integers of any size are taken exactly. */
MUST_CHECK enum status qdrant_page_read(struct str body, struct qdrant_page *ret,
                                        struct error *err);
void qdrant_page_deinit(struct qdrant_page *page); /* a zero page is a no-op */

struct qdrant_point {
    char id[QDRANT_ID_BYTES];
    const json_t *payload; /* borrowed from the page; an object, or NULL */
    bool has_order;
    double order; /* order_value, else the number in QDRANT_TIME_KEY */
};
/* PROTOCOL: it has no id. */
MUST_CHECK enum status qdrant_page_point(const struct qdrant_page *page, size_t i,
                                         struct qdrant_point *ret, struct error *err);

/* ---- a point ---- */

enum { QDRANT_IS_MEMORY = 1, QDRANT_IS_MESSAGE = 2 };

struct qdrant_known {
    uint64_t hash;    /* of its events but the counted accesses; 0: they are to be sent again */
    int64_t accesses; /* access_count that has been turned into events */
    unsigned kinds;   /* QDRANT_IS_ bits; 0: ignored, or a dead letter */
    struct str user_id, bot_name, message_id;
};
MUST_CHECK enum status qdrant_known_encode(const struct qdrant_known *k, struct buf *out);
/* Borrows from bytes. CORRUPT. */
MUST_CHECK enum status qdrant_known_decode(struct str bytes, struct qdrant_known *ret,
                                           struct error *err);

struct qdrant_rules {
    const char *name;    /* of the configuration's entry: dead letters are from "qdrant:NAME" */
    struct str bot_name; /* of all points; len 0: bot_name or bot of the payload, or collection */
    struct str collection;
    int64_t now_us; /* wall clock: when it is gone, or was found to be unusable */
};

struct qdrant_events {
    size_t n;
    struct event events[QDRANT_EVENTS_MAX]; /* in the arena and the page */
    struct qdrant_known known;              /* what is to be remembered */
    bool changed;                           /* known differs from what was known */
    bool ignored;                           /* it has just become one that stands for nothing */
};
/* was: NULL = never seen. A point that cannot be used is a dead letter, once for each content.
 * scratch is overwritten. NOMEM, LIMIT. */
MUST_CHECK enum status qdrant_point_events(const struct qdrant_rules *rules,
                                           const struct qdrant_point *point,
                                           const struct qdrant_known *was,
                                           struct event_arena *arena, struct buf *scratch,
                                           struct qdrant_events *ret, struct error *err);
/* The point is gone: deletions of what it was; ret->known is not written. id is borrowed. */
void qdrant_gone_events(const struct qdrant_rules *rules, struct str id,
                        const struct qdrant_known *was, struct qdrant_events *ret);
