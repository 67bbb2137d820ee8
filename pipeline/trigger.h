/*
 * pipeline/trigger.h - when the rows of a key are due: a pure function of persisted state and time.
 *
 * Per key and cache table (DESIGN.md section 6). A row is due when the FIRST of these holds: the
 * weighted count since the last flush reached `count`; the first unflushed event is `max_age` old
 * (a bound from the first event, never a sliding one); it has been quiet for `idle`; an engine
 * asked; or it reached the age `refresh`, however few events it misses. Without new events it is
 * renewed by the tier of its key (ENGINES.md section 5):
 *   A, warm: at age `refresh`, so that a cache with a lifetime never lapses under a live user;
 *   B, recent: when the row ceases to hold (its valid_until), and while the user is likely to
 *      return; never twice within `refresh`;
 *   C, D: not at all. A key that comes back has all its rows renewed at once: those that its event
 *      changed (FLUSH_WAKE), and those that are only old.
 * How long a key has been quiet is told by the time of its newest event, not by when that was read:
 * a backlog of years makes nobody warm. While the input is catching up only max_age stays: one row
 * per key instead of thousands. What was taken back (a deleted or edited message, a
 * forgotten memory, a user's consent) is due at once in any case: readers would be shown words that
 * nobody wants them to see.
 *
 * Times are wall-clock microseconds. A clock that jumps back must not freeze a timer: stored times
 * later than `now` count as `now`, and trigger_set_back() makes that last.
 */
#pragma once

#include "core/event.h"
#include "engines/engine.h"

#include <stdbool.h>
#include <stdint.h>

enum flush_reason {
    FLUSH_NONE,
    FLUSH_COUNT,
    FLUSH_AGE,
    FLUSH_IDLE,
    FLUSH_PREDICATE,
    FLUSH_REFRESH,
    FLUSH_STOP,       /* graceful stop, or found unfinished after a crash */
    FLUSH_REBUILD,    /* the key was made again from the source tables */
    FLUSH_RETRACTION, /* what the row may show was taken back */
    FLUSH_WAKE,       /* the first event after a pause, or ever */
    FLUSH_VALIDITY,   /* it ceased to hold */
    FLUSH_VISIT,      /* the user is likely to return */
    FLUSH_CHARACTER,  /* the bot is meant to be another one */
    /* Somebody asked (struct event_request), the weightiest last: */
    FLUSH_TOUCH,
    FLUSH_RECOMPUTE,
    FLUSH_INVALIDATE,
    FLUSH_REASONS,
};
const char *flush_reason_name(enum flush_reason reason);

#define TRIGGER_NEVER INT64_MAX

struct trigger_state {
    int64_t first_us;      /* first unflushed event, 0 = clean */
    int64_t last_us;       /* newest event */
    int64_t flushed_us;    /* last flush, 0 = never */
    int64_t valid_us;      /* until when the row that PostgreSQL holds says it holds; 0 = unknown */
    uint64_t payload_hash; /* of the row PostgreSQL is known to hold, 0 = none, or not known: a
                            * newer one may have been written */
    /* The newest token whose invalidation, and whatever caused it, this key has applied: a row
     * computed from here on makes what was invalidated up to then valid again. */
    int64_t cleared_us;
    uint32_t count;
    enum flush_reason requested; /* due at once for it, FLUSH_NONE = nobody asked */
    bool urgent;
    bool withdrawn; /* the row may show what was taken back */
    bool outbox;    /* flushed, but not yet known to be in PostgreSQL */
};

/* What all tables of a key share. */
struct trigger_key {
    uint64_t hash;
    int64_t active_us;                     /* time of its newest event */
    int64_t visit_from_us, visit_until_us; /* when its user is likely to return */
};

struct trigger_due {
    int64_t at_us; /* TRIGGER_NEVER when nothing is scheduled */
    enum flush_reason reason;
};

/* Of a table that two engines fill: due when either says so. */
struct trigger_policy trigger_either(const struct trigger_policy *a,
                                     const struct trigger_policy *b);

/* An applied event touched the table's rows with this weight. */
void trigger_note(struct trigger_state *s, uint32_t weight, bool urgent, int64_t now_us);
/* Something the rows take into account has changed: due by age alone. */
void trigger_note_context(struct trigger_state *s, int64_t now_us);
/* What the noted event took back may stand in the row: due at once, catching up or not. */
void trigger_withdraw(struct trigger_state *s);
/* Somebody asked for the row (token_us: at_us of the event). A touch of one that was flushed less
 * than young_us ago, or of none, changes nothing. */
void trigger_request(struct trigger_state *s, enum request_op op, int64_t token_us,
                     int64_t young_us, int64_t now_us);
/* The wall clock was set back to now_us: what seems to be later than that was just now. */
void trigger_set_back(struct trigger_state *s, int64_t now_us);
/* A stored state that is from before that, nobody knows how long: what it waits for is due. */
void trigger_outdated(struct trigger_state *s, int64_t now_us);
/* Everything up to now is on its way to PostgreSQL. */
void trigger_flush(struct trigger_state *s, int64_t now_us);
struct trigger_due trigger_next(const struct trigger_state *s, const struct trigger_policy *p,
                                const struct trigger_key *key, bool catching_up, int64_t now_us);

MUST_CHECK enum status trigger_encode(const struct trigger_state *s, struct buf *out);
/* format: of the page they stand in (partition_internal.h). */
void trigger_decode(struct reader *r, unsigned format, struct trigger_state *ret);
