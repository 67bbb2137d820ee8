/*
 * ingest/qdrant_walk.h - the requests of one reading of a collection, page by page.
 *
 * ALL and SINCE go by point id: the next page begins at the id that the last one names. Pages are
 * no snapshot, but a point that is there all the time comes.
 *
 * ORDERED asks for ascending QDRANT_TIME_KEY, which needs an index. There is no offset then: a page
 * starts at the value where the last one ended, less the points of that value that have come
 * already (must_not has_id). Equal values come in any order. When more than seen_max points have
 * the same value, that one is read by id to its end, and the order goes on behind it.
 *
 * Pure: the caller sends what request() writes and gives the answer to page().
 */
#pragma once

#include "ingest/qdrant.h"

#define QDRANT_SEEN_MAX 10000

enum qdrant_reading { QDRANT_READ_ALL, QDRANT_READ_SINCE, QDRANT_READ_ORDERED };

struct qdrant_walk {
    enum qdrant_reading reading;
    double
        since; /* SINCE and ORDERED: QDRANT_TIME_KEY is at least so; -INFINITY: all that have it */
    uint32_t limit;  /* points per page */
    size_t seen_max; /* QDRANT_SEEN_MAX */
    double newest;   /* the largest value seen; NAN: none */

    char offset[QDRANT_ID_BYTES]; /* of the next page by id; "" = the first */
    /* ORDERED */
    double at;       /* every point below has come; -INFINITY: none has */
    struct buf seen; /* ids with the value `at` that have come, QDRANT_ID_BYTES each */
    bool exact;      /* the value `at` is read by id */
    bool behind;     /* all of `at` has come: only what is larger */
};

/* seen_max 0: the default. */
void qdrant_walk_init(struct qdrant_walk *w, enum qdrant_reading reading, double since,
                      uint32_t limit, size_t seen_max);
void qdrant_walk_deinit(struct qdrant_walk *w);

/* Appends the body of the next request. */
MUST_CHECK enum status qdrant_walk_request(const struct qdrant_walk *w, struct buf *out);
/*
 * Takes in the answer. OK: there is more to ask; END: that was all. INVALID: the answer is not in
 * the order that was asked for (a server older than 1.8, a list of several times): read SINCE.
 * PROTOCOL, NOMEM.
 */
MUST_CHECK enum status qdrant_walk_page(struct qdrant_walk *w, const struct qdrant_page *page,
                                        struct error *err);

/* Does this refusal (its status and body) of an ORDERED request say that the index is missing? */
bool qdrant_is_index_missing(unsigned status, struct str body);
