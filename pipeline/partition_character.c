/*
 * A bot's character is defined anew (ENGINES.md section 6).
 *
 * The bot's own key decides whether it is news, and its rows follow at once. The rows of its users
 * are computed without the definition, but say how users answered to what the bot was: from the
 * change on they read as invalid, all at once, by the row of strategic_bot_epoch, until they are
 * computed again. Here those of users who are talking are made due; the others follow with their
 * next message.
 *
 * The row of strategic_bot_epoch goes with the first row that knows the new definition, in the same
 * transaction, from whichever worker: so no row that is computed because of the change can be older
 * than the change, and a bot's own row that was computed before cannot look newer
 * (state/sink.h, struct sink_character).
 */
#include "pipeline/partition_internal.h"

#include <string.h>

#include "engines/metrics.h"

struct sink_character partition_character_of(int64_t at_us, const struct character_feature *f)
{
    return (struct sink_character){at_us, f->version, character_definition(f)};
}

static bool is_talking(const struct partition *p, const struct held_key *h, int64_t now_us)
{
    const struct trigger_state *s = &h->trigger[TABLE_PERSONALITY_PROFILES];
    struct trigger_policy policy = partition_policy(p, h, TABLE_PERSONALITY_PROFILES);
    return s->flushed_us && s->last_us + policy.warm_us > now_us;
}

enum status partition_character(struct partition *p, const struct event *e, int64_t now_us,
                                struct error *err)
{
    struct held_bot *bot = botmap_find(&p->bots, e->bot_name);
    if (!bot)
        return STATUS_OK; /* none of its keys is in memory */
    struct character_feature f = {0};
    character_feature_extract(e, &f);
    struct sink_character c = partition_character_of(e->at_us, &f);
    /* Seen for another partition of this worker, said again, or late. */
    if (c.definition == bot->character.definition || c.defined_us < bot->character.defined_us)
        return STATUS_OK;
    bot->character = c;
    enum status st = STATUS_OK;
    for (struct held_key *h = p->keys.oldest; h && !st; h = h->newer) {
        if (h->bot != bot || key_log(h->key)->user_id.len == 0 || !is_talking(p, h, now_us))
            continue;
        st = partition_flush(p, h, TABLE_PERSONALITY_PROFILES, FLUSH_CHARACTER, now_us, err);
        st = st ? st : partition_schedule(p, h, now_us, err);
    }
    return st;
}
