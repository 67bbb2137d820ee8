/*
 * server/redis_keys.h - how the keys in Redis are called, and the bounded set of those that are to
 * be written again.
 *
 *   user:BOT:USER   what is known of one user and bot
 *   bot:BOT         what is known of one bot
 *
 * each behind redis.prefix. A bot's name is [a-z0-9_-] (event_bot_name()) and never holds a colon,
 * so that the first one ends it and USER is all of the rest, whatever it holds.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whose value it is. */
struct redis_owner {
    struct str user; /* STR_NULL: the bot's own */
    struct str bot;
};
/* Appends the key without the prefix. INVALID: a bot without a name, or with a colon in it, as only
 * rows of other writers can have; a user without an id. */
MUST_CHECK enum status redis_key_print(const struct redis_owner *o, struct buf *out);
/* The reverse; owners point into key. False: it is none of these keys. */
bool redis_key_parse(struct str key, struct redis_owner *ret);

struct redis_key {
    struct redis_key *next;  /* newer */
    struct redis_key *chain; /* of the same bucket */
    uint64_t hash;
    size_t len;
    char text[]; /* the key without the prefix */
};

/* Each key once, the oldest first. Not thread-safe. */
struct redis_keys {
    struct redis_key *oldest, *newest;
    struct redis_key **buckets; /* allocated with the first key */
    size_t n, max;
};
void redis_keys_init(struct redis_keys *k, size_t max);
void redis_keys_deinit(struct redis_keys *k);
void redis_keys_clear(struct redis_keys *k);
/* Nothing happens when it is there. LIMIT: max keys are there. NOMEM. */
MUST_CHECK enum status redis_keys_add(struct redis_keys *k, struct str key);
/* Takes the oldest out; the caller frees it with free(). NULL: there is none. */
struct redis_key *redis_keys_take(struct redis_keys *k);
