/*
 * pipeline/route.h - which partition an event belongs to. Durable: changing it moves keys away from
 * their state.
 */
#pragma once

#include "core/event.h"

#include <assert.h>

/* At most two: the user's partition, and the bot's for engines that are kept per bot. Or all. */
struct route {
    uint32_t n;
    uint32_t partition[2];
    bool all;
};
static inline uint32_t route_at(const struct route *r, uint32_t i)
{
    assert(i < r->n);
    return r->all ? i : r->partition[i];
}

/* The partition that a key lives in: hash64(user_id) mod P, so that everything kept per (user, bot)
 * or per user is local; hash64(bot_name) mod P for a bot's own key (empty user_id). */
uint32_t route_home(struct str user_id, struct str bot_name);

/*
 * An event goes to the homes of the keys that it changes (engine_scopes()): metrics and characters
 * to the bot's, whoever the user; what a user says to the user's; messages of the bot to both. Dead
 * letters go to hash64(where) mod P, so that each has one home.
 *
 * A broadcast goes to all partitions, and each looks after its own keys: so it is applied once to
 * every key, over how many workers they are spread and however often that changed in the middle.
 */
bool route_is_broadcast(const struct event *e);
struct route route_event(const struct event *e);

/* Partition p belongs to worker p mod workers. */
static inline uint32_t route_worker(uint32_t partition, uint32_t workers)
{
    assert(workers > 0);
    return partition % workers;
}
