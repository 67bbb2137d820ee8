/*
 * pipeline/route.h - which partition an event belongs to. Durable: changing it moves keys away from
 * their state.
 */
#pragma once

#include "core/event.h"

#include <assert.h>

/* At most two: the user's partition, and the bot's for engines that are kept per bot. */
struct route {
    uint32_t n;
    uint32_t partition[2];
};

/*
 * Events of a user go to hash64(user_id) mod P, so that everything kept per (user, bot) or per user
 * is local; events without a user (metrics, characters) to hash64(bot_name) mod P; dead letters to
 * hash64(where) mod P, so that each has one home. bot_scope: some registered engine keeps state per
 * bot, which then sees every message too (ENGINES.md A7).
 */
struct route route_event(const struct event *e, bool bot_scope);

/* Partition p belongs to worker p mod workers. */
static inline uint32_t route_worker(uint32_t partition, uint32_t workers)
{
    assert(workers > 0);
    return partition % workers;
}
