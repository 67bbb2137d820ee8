/*
 * The generic cell rate algorithm: of each key only the time is kept at which it will have used up
 * nothing (`even_us`). A request moves that on by one interval, and passes if it stays within
 * `burst` intervals of now. A key that is even is the same as one that is not there.
 */
#include "server/rate_limit.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/hash.h"

#define WAYS 8 /* places that a key may be in */

struct place {
    uint64_t key; /* 0 = empty */
    int64_t even_us;
};

struct rate_limit {
    pthread_mutex_t lock;
    int64_t interval_us;
    int64_t ahead_us; /* of now that a key may be */
    size_t sets;      /* a power of two */
    struct place places[];
};

enum status rate_limit_new(unsigned rate, unsigned burst, size_t keys, struct rate_limit **ret,
                           struct error *err)
{
    assert(rate > 0);
    assert(burst > 0);
    size_t sets = 1;
    while (sets * WAYS < keys)
        sets *= 2;
    struct rate_limit *r = calloc(1, sizeof(*r) + sets * WAYS * sizeof(r->places[0]));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate a rate limit");
    pthread_mutex_init(&r->lock, NULL);
    r->interval_us = US_PER_SECOND / rate > 0 ? US_PER_SECOND / rate : 1;
    r->ahead_us = r->interval_us * burst;
    r->sets = sets;
    *ret = r;
    return STATUS_OK;
}

void rate_limit_free(struct rate_limit *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* The key's place, or that of the one which loses least by being forgotten. */
static struct place *find(struct rate_limit *r, uint64_t key)
{
    struct place *set = &r->places[(key & (r->sets - 1)) * WAYS];
    struct place *least = set;
    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].key == key)
            return &set[i];
        if (set[i].key == 0 || (least->key != 0 && set[i].even_us < least->even_us))
            least = &set[i];
    }
    *least = (struct place){.key = key, .even_us = INT64_MIN};
    return least;
}

bool rate_limit_take(struct rate_limit *r, struct str key, int64_t now_us, unsigned *ret_retry_s)
{
    if (!r)
        return true;
    pthread_mutex_lock(&r->lock);
    struct place *p = find(r, hash64(key));
    int64_t even_us = (p->even_us > now_us ? p->even_us : now_us) + r->interval_us;
    int64_t wait_us = even_us - r->ahead_us - now_us;
    if (wait_us <= 0)
        p->even_us = even_us;
    pthread_mutex_unlock(&r->lock);
    if (wait_us > 0 && ret_retry_s)
        *ret_retry_s = (unsigned)((wait_us + US_PER_SECOND - 1) / US_PER_SECOND);
    return wait_us <= 0;
}
