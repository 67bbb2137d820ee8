/*
 * engines/sessions.h - the sessions of a key's messages, kept up to date record by record.
 *
 * A run is a maximal sequence of messages (any role) with less than RECORD_SESSION_GAP_US between
 * neighbours. A session is a piece of a run: pieces hold RECORD_SESSION_MAX messages but for the
 * last one. Nothing sequential crosses a session, so an engine may cache what it computed of one
 * session; here is only said which caches a change makes void.
 *
 * Cost: O(1) for an append or for the oldest record leaving a run of one piece, otherwise
 * O(length of the run).
 */
#pragma once

#include "core/status.h"
#include "engines/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session {
    uint32_t n;     /* messages, at least 1 */
    bool continues; /* not the first piece of its run */
    void *cache;    /* owned, freed with free(); NULL = to be computed again */
};

struct sessions {
    struct session *at; /* in time order; together they cover log->messages[0..n_messages) */
    size_t n;
    size_t cap;
    size_t n_messages;
};

void sessions_deinit(struct sessions *s); /* frees the caches as well */
/* Index of the session that message `index` lies in, and of the first message of that session. */
size_t sessions_find(const struct sessions *s, size_t index, size_t *ret_first);
/* After message `index` entered the log. */
MUST_CHECK enum status sessions_insert(struct sessions *s, const struct key_log *log, size_t index);
/* Before message `index` leaves the log. Fails only when there is no memory to split a run. */
MUST_CHECK enum status sessions_retract(struct sessions *s, const struct key_log *log,
                                        size_t index);
