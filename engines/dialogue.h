/*
 * engines/dialogue.h - the sessions of a key and the topics inside each, worked out once for all
 * engines that need them (E4, E6, E7).
 *
 * A cache of F(log, epochs): the key keeps it up to date record by record and throws it away when
 * an epoch was closed. Each session's segments are computed when somebody asks and the session has
 * changed since; of the newest session the walk is kept, so that a message at the end costs one
 * step of it. The thresholds are those of the day of the session's first record.
 */
#pragma once

#include "engines/epoch.h"
#include "engines/record.h"
#include "engines/segment.h"

struct dialogue_session {
    size_t first;                   /* of its messages in log->messages */
    size_t n;                       /* messages, at least 1 */
    bool continues;                 /* not the first piece of its run (sessions.h) */
    const struct segment *segments; /* in time order; they cover the session */
    size_t n_segments;              /* at least 1 */
};

/* All sessions in time order; *ret is valid until the next change of the log. NOMEM. */
MUST_CHECK enum status dialogue_sessions(const struct key_log *log,
                                         const struct dialogue_session **ret, size_t *ret_n,
                                         struct error *err);

/* What the walk says of one message. */
struct dialogue_switch {
    bool opens;        /* a topic, unless it is the first of its session */
    bool by_embedding; /* its embedding was looked at, too */
    uint32_t p;        /* p_switch in 1/65536; 0 for the first of a session */
    size_t position;   /* in its session, from 0 */
};
/* As decided when it came behind the messages before it; later ones are not looked at. NOMEM. */
MUST_CHECK enum status dialogue_switch(const struct key_log *log, size_t index,
                                       struct dialogue_switch *ret, struct error *err);
/* As it stands with all of its session: one-message segments may have been merged back. NOMEM. */
MUST_CHECK enum status dialogue_switch_final(const struct key_log *log, size_t index,
                                             struct dialogue_switch *ret, struct error *err);

/* Counts the scores of the newest `block` messages in epoch cells, whenever the newest session's
 * length is a multiple of it: so that keys which keep no walk rarely begin one. */
void dialogue_learn(const struct key_log *log, size_t block, struct epoch_delta *delta);

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
