/*
 * What somebody asks of the rows of a key (struct event_request). It changes nothing of what is
 * known about the key: only when its rows are due, and up to which token they clear what was
 * invalidated. It is journaled by key, since keys are recovered one by one.
 */
#include "pipeline/partition_internal.h"

struct asking {
    struct partition *p;
    const struct event *e;
    int64_t now_us;
};

void partition_note_request(const struct partition *p, struct held_key *h, enum request_op op,
                            int64_t token_us, int64_t now_us)
{
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        /* Of a table that a user's key has nothing for, an earlier state may have left a row. */
        if (tables[t].by_window)
            continue;
        /* A row with more than half of its life before it does not need a touch. */
        int64_t floor_us = partition_policy(p, h, (enum table_id)t).min_interval_us;
        int64_t young_us = p->cfg.ttl_us / 2 > floor_us ? p->cfg.ttl_us / 2 : floor_us;
        trigger_request(&h->trigger[t], op, token_us, young_us, now_us);
    }
}

static enum status ask(void *ctx, struct held_key *h, struct error *err)
{
    const struct asking *a = ctx;
    if (key_log(h->key)->bot_name.len == 0)
        return STATUS_OK; /* what the user wishes of every bot: it has no rows */
    struct entry entry = {
        .kind = ENTRY_REQUEST,
        .key_id = h->id,
        .now_us = a->now_us,
        .op = a->e->u.request.op,
        .token_us = a->e->at_us,
    };
    enum status st = partition_journal(a->p, &entry, h, err);
    if (st)
        return st;
    partition_note_request(a->p, h, entry.op, entry.token_us, entry.now_us);
    keymap_use(&a->p->keys, h);
    keymap_track_dirty(&a->p->keys, h);
    return partition_schedule(a->p, h, a->now_us, err);
}

enum status partition_request(struct partition *p, const struct event *e, int64_t now_us,
                              struct error *err)
{
    struct asking a = {p, e, now_us};
    if (e->bot_name.len == 0)
        return partition_each_of_user(p, e->user_id, ask, &a, err);
    struct held_key *h = NULL;
    enum status st = partition_find_key(p, e->user_id, e->bot_name, &h, err);
    if (st == STATUS_END)
        return STATUS_OK; /* of nobody: a key begins with its first event */
    return st ? st : ask(&a, h, err);
}
