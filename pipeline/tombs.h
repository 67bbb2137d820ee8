/*
 * pipeline/tombs.h - the users that a worker has forgotten, by digest (state/store.h): asked about
 * every event while there are any.
 */
#pragma once

#include "core/status.h"
#include "state/store.h"

#include <stdbool.h>
#include <stddef.h>

struct tomb {
    unsigned char digest[STORE_DIGEST_BYTES];
    int64_t erased_us; /* 0: an empty slot */
    int64_t token_us;
    int64_t native_us; /* token with which this very worker has forgotten the user */
};

struct tombs {
    struct tomb *slots; /* open addressing, at most half full */
    size_t n;
    size_t cap; /* a power of two, or 0 */
};

void tombs_deinit(struct tombs *t);
/* Of two for the same digest the later counts. NOMEM. */
MUST_CHECK enum status tombs_add(struct tombs *t, const struct tomb *tomb);
/* NULL: there is none. */
const struct tomb *tombs_find(const struct tombs *t,
                              const unsigned char digest[STORE_DIGEST_BYTES]);
