#include "pipeline/route.h"

#include "core/hash.h"

static uint32_t partition_of(struct str s)
{
    return (uint32_t)(hash64(s) % LIMIT_PARTITIONS);
}

struct route route_event(const struct event *e, bool bot_scope)
{
    if (e->type == EVENT_DEAD_LETTER)
        return (struct route){1, {partition_of(e->u.dead_letter.where)}};
    if (e->user_id.len == 0)
        return (struct route){1, {partition_of(e->bot_name)}};
    struct route r = {1, {partition_of(e->user_id)}};
    if (bot_scope && e->bot_name.len > 0) {
        uint32_t bot = partition_of(e->bot_name);
        if (bot != r.partition[0])
            r.partition[r.n++] = bot;
    }
    return r;
}
