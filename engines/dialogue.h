/*
 * engines/dialogue.h - the sessions of a key and the topics inside each, worked out once for all
 * engines that need them (E4, E6, E7).
 *
 * A cache of F(log, epochs): the key keeps it up to date record by record and throws it away when
 * an epoch was closed. Each session's segments are computed when somebody asks and the session has
 * changed since.
 */
#pragma once

#include "engines/record.h"
#include "engines/segment.h"

struct dialogue_session {
    size_t first;   /* of its messages in log->messages */
    size_t n;       /* messages, at least 1 */
    bool continues; /* not the first piece of its run (sessions.h) */
    const struct segment
        *segments; /* in time order; they cover the session unless there are none */
    size_t n_segments;
};

/* All sessions in time order; *ret is valid until the next change of the log. NOMEM. */
MUST_CHECK enum status dialogue_sessions(const struct key_log *log,
                                         const struct dialogue_session **ret, size_t *ret_n,
                                         struct error *err);
size_t dialogue_bytes(const struct dialogue *d); /* NULL: 0 */

/* ---- for the key ---- */
MUST_CHECK enum status dialogue_new(struct dialogue **ret);
void dialogue_free(struct dialogue *d);
/* After message `index` entered, and before it leaves. When there is no memory the dialogue starts
 * over at the next question. */
void dialogue_insert(struct dialogue *d, const struct key_log *log, size_t index);
void dialogue_retract(struct dialogue *d, const struct key_log *log, size_t index);
/* Everything is to be worked out again. */
void dialogue_void(struct dialogue *d);
