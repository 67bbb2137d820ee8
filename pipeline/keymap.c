#include "pipeline/keymap.h"

#include <assert.h>
#include <stdlib.h>

#include "core/hash.h"

#define BUCKETS_MIN 1024

uint64_t keymap_hash(struct str user_id, struct str bot_name)
{
    return hash64_mix(hash64(user_id) ^ (hash64(bot_name) * UINT64_C(0x9e3779b97f4a7c15)));
}

enum status keymap_init(struct keymap *m)
{
    *m = (struct keymap){.n_buckets = BUCKETS_MIN};
    m->by_id = calloc(BUCKETS_MIN, sizeof(struct held_key *));
    m->by_name = calloc(BUCKETS_MIN, sizeof(struct held_key *));
    m->by_user = calloc(BUCKETS_MIN, sizeof(struct held_key *));
    if (m->by_id && m->by_name && m->by_user)
        return STATUS_OK;
    keymap_deinit(m);
    return STATUS_NOMEM;
}

void keymap_deinit(struct keymap *m)
{
    struct held_key *next = NULL;
    for (struct held_key *h = m->oldest; h; h = next) {
        next = h->newer;
        key_free(h->key);
        free(h);
    }
    free(m->by_id);
    free(m->by_name);
    free(m->by_user);
    *m = (struct keymap){0};
}

static struct held_key **id_slot(const struct keymap *m, uint64_t id)
{
    return &m->by_id[hash64_mix(id) & (m->n_buckets - 1)];
}

static struct held_key **name_slot(const struct keymap *m, uint64_t hash)
{
    return &m->by_name[hash & (m->n_buckets - 1)];
}

static struct held_key **user_slot(const struct keymap *m, uint64_t user_hash)
{
    return &m->by_user[user_hash & (m->n_buckets - 1)];
}

struct held_key *keymap_find(struct keymap *m, uint64_t id)
{
    struct held_key *h = *id_slot(m, id);
    while (h && h->id != id)
        h = h->next_by_id;
    return h;
}

struct held_key *keymap_find_name(struct keymap *m, uint64_t hash, struct str user_id,
                                  struct str bot_name)
{
    struct held_key *h = *name_slot(m, hash);
    for (; h; h = h->next_by_name) {
        if (h->hash != hash)
            continue;
        const struct key_log *log = key_log(h->key);
        if (str_equal(log->user_id, user_id) && str_equal(log->bot_name, bot_name))
            return h;
    }
    return NULL;
}

struct held_key *keymap_of_user(struct keymap *m, struct str user_id, const struct held_key *after)
{
    uint64_t hash = hash64(user_id);
    struct held_key *h = after ? after->next_by_user : *user_slot(m, hash);
    while (h && !(h->user_hash == hash && str_equal(key_log(h->key)->user_id, user_id)))
        h = h->next_by_user;
    return h;
}

/* The bots' own keys have no user, and would make one long chain. */
static bool has_user(const struct held_key *h)
{
    return key_log(h->key)->user_id.len > 0;
}

static void link_buckets(struct keymap *m, struct held_key *h)
{
    struct held_key **slot = id_slot(m, h->id);
    h->next_by_id = *slot;
    *slot = h;
    slot = name_slot(m, h->hash);
    h->next_by_name = *slot;
    *slot = h;
    if (!has_user(h))
        return;
    slot = user_slot(m, h->user_hash);
    h->next_by_user = *slot;
    *slot = h;
}

static enum status grow(struct keymap *m)
{
    size_t n = m->n_buckets * 2;
    struct held_key **by_id = calloc(n, sizeof(struct held_key *));
    struct held_key **by_name = calloc(n, sizeof(struct held_key *));
    struct held_key **by_user = calloc(n, sizeof(struct held_key *));
    if (!by_id || !by_name || !by_user) {
        free(by_id);
        free(by_name);
        free(by_user);
        return STATUS_NOMEM;
    }
    free(m->by_id);
    free(m->by_name);
    free(m->by_user);
    m->by_id = by_id;
    m->by_name = by_name;
    m->by_user = by_user;
    m->n_buckets = n;
    for (struct held_key *h = m->oldest; h; h = h->newer)
        link_buckets(m, h);
    return STATUS_OK;
}

static void append_newest(struct keymap *m, struct held_key *h)
{
    h->newer = NULL;
    h->older = m->newest;
    if (m->newest)
        m->newest->newer = h;
    else
        m->oldest = h;
    m->newest = h;
}

static void unlink_used(struct keymap *m, struct held_key *h)
{
    if (h->older)
        h->older->newer = h->newer;
    else
        m->oldest = h->newer;
    if (h->newer)
        h->newer->older = h->older;
    else
        m->newest = h->older;
}

static void measure(struct keymap *m, struct held_key *h)
{
    size_t now = sizeof(*h) + key_bytes(h->key);
    m->bytes = m->bytes - h->bytes + now;
    h->bytes = now;
}

enum status keymap_add(struct keymap *m, struct held_key *h)
{
    assert(h->key);
    assert(!keymap_find(m, h->id));
    if (m->n >= m->n_buckets) {
        enum status st = grow(m);
        if (st)
            return st;
    }
    h->user_hash = hash64(key_log(h->key)->user_id);
    link_buckets(m, h);
    append_newest(m, h);
    m->n++;
    h->bytes = 0;
    measure(m, h);
    return STATUS_OK;
}

static void unlink_dirty(struct keymap *m, struct held_key *h)
{
    if (!h->in_dirty)
        return;
    if (h->dirty_before)
        h->dirty_before->dirty_after = h->dirty_after;
    else
        m->dirty_first = h->dirty_after;
    if (h->dirty_after)
        h->dirty_after->dirty_before = h->dirty_before;
    else
        m->dirty_last = h->dirty_before;
    h->in_dirty = false;
}

void keymap_remove(struct keymap *m, struct held_key *h)
{
    struct held_key **slot = id_slot(m, h->id);
    while (*slot != h)
        slot = &(*slot)->next_by_id;
    *slot = h->next_by_id;
    slot = name_slot(m, h->hash);
    while (*slot != h)
        slot = &(*slot)->next_by_name;
    *slot = h->next_by_name;
    if (has_user(h)) {
        slot = user_slot(m, h->user_hash);
        while (*slot != h)
            slot = &(*slot)->next_by_user;
        *slot = h->next_by_user;
    }
    unlink_used(m, h);
    unlink_dirty(m, h);
    m->bytes -= h->bytes;
    m->n--;
    key_free(h->key);
    free(h);
}

void keymap_use(struct keymap *m, struct held_key *h)
{
    if (m->newest != h) {
        unlink_used(m, h);
        append_newest(m, h);
    }
    measure(m, h);
}

void keymap_track_dirty(struct keymap *m, struct held_key *h)
{
    bool dirty = false;
    for (size_t t = 0; t < TABLE_COUNT; t++)
        dirty |= h->trigger[t].first_us != 0 || h->trigger[t].outbox;
    if (dirty == h->in_dirty)
        return;
    if (!dirty) {
        unlink_dirty(m, h);
        return;
    }
    h->dirty_after = NULL;
    h->dirty_before = m->dirty_last;
    if (m->dirty_last)
        m->dirty_last->dirty_after = h;
    else
        m->dirty_first = h;
    m->dirty_last = h;
    h->in_dirty = true;
}
