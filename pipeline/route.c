#include "pipeline/route.h"

#include "core/hash.h"
#include "engines/engine.h"

static uint32_t partition_of(struct str s)
{
    return (uint32_t)(hash64(s) % LIMIT_PARTITIONS);
}

uint32_t route_home(struct str user_id, struct str bot_name)
{
    return partition_of(user_id.len ? user_id : bot_name);
}

/* What a bot is meant to be concerns the rows of its users; a user who is forgotten concerns every
 * bot's own keys. */
bool route_is_broadcast(const struct event *e)
{
    return e->type == EVENT_CHARACTER ||
           (e->type == EVENT_PRIVACY && e->u.privacy.op == PRIVACY_ERASE);
}

struct route route_event(const struct event *e)
{
    if (route_is_broadcast(e))
        return (struct route){.n = LIMIT_PARTITIONS, .all = true};
    if (e->type == EVENT_DEAD_LETTER)
        return (struct route){.n = 1, .partition = {partition_of(e->u.dead_letter.where)}};
    uint32_t scopes = engine_scopes(e);
    uint32_t bot = route_home(STR_NULL, e->bot_name);
    if (!(scopes & 1u << ENGINE_USER) || e->user_id.len == 0)
        return (struct route){.n = 1, .partition = {bot}};
    struct route r = {.n = 1, .partition = {route_home(e->user_id, e->bot_name)}};
    if (scopes & 1u << ENGINE_BOT && bot != r.partition[0])
        r.partition[r.n++] = bot;
    return r;
}
