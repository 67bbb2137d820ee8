/*
 * A user that is forgotten.
 *
 * The request is an event with a place in the order of all others, and every partition is given it.
 * The first one of a worker does it for the worker: what is home of the user drops the user's keys,
 * and all of them what bots' own keys know of the user. Memory
 * first, then one commit at once, which takes the user's pages, blanks the user's entries in the
 * journal, drops dead letters that name the user, leaves a tombstone, and moves the position past
 * the event. So a crash leaves all of the user's state, and the event will come again; or nothing.
 *
 * What is outside of the state follows: the WAL is moved into the file, which overwrites what was
 * deleted; cache rows are removed and counts are stored (erase_port); the names, which were kept
 * for that, leave the file and its WAL as well; and only then is this worker's part of the receipt
 * said to be complete. Where a crash cuts that short, it goes on at the step that is durable.
 *
 * The tombstone lets pass what is newer than the request alone: copies that come late or once more,
 * and tables that still hold the user's rows when they are read again, bring nothing back.
 */
#include "pipeline/partition_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/counters.h"
#include "pipeline/route.h"
#include "state/fault.h"

#define RESULTS_MAX 16

/* ---- tombstones ---- */

static const struct tomb *find_tomb(const struct partition *p, struct str user_id,
                                    struct str bot_name)
{
    unsigned char digest[STORE_DIGEST_BYTES];
    store_digest(p->cfg.store, user_id, bot_name, digest);
    return tombs_find(&p->tombs, digest);
}

bool partition_is_forgotten(const struct partition *p, struct str user_id, struct str bot_name,
                            int64_t at_us)
{
    if (p->tombs.n == 0 || user_id.len == 0)
        return false;
    const struct str bots[] = {STR(""), bot_name};
    for (size_t i = 0; i < 2; i++) {
        const struct tomb *t = find_tomb(p, user_id, bots[i]);
        if (t && at_us <= t->erased_us && p->as_of_us - t->erased_us < ERASURE_KEEP_US)
            return true;
    }
    return false;
}

int64_t partition_erased_token(const struct partition *p, struct str user_id, struct str bot_name)
{
    if (p->tombs.n == 0 || user_id.len == 0)
        return 0;
    const struct tomb *all = find_tomb(p, user_id, STR(""));
    const struct tomb *one = find_tomb(p, user_id, bot_name);
    int64_t token_us = all ? all->token_us : 0;
    return one && one->token_us > token_us ? one->token_us : token_us;
}

static enum status add_tomb(struct partition *p, const struct store_erasure *e, struct error *err)
{
    struct tomb t = {
        .erased_us = e->erased_us ? e->erased_us : 1,
        .token_us = e->token_us,
        .native_us = e->native ? e->token_us : INT64_MIN,
    };
    memcpy(t.digest, e->digest, sizeof(t.digest));
    return tombs_add(&p->tombs, &t)
               ? error_set(err, STATUS_NOMEM, "could not remember %zu forgotten users", p->tombs.n)
               : STATUS_OK;
}

/* ---- requests that are not finished ---- */

static enum status add_open(struct partition *p, const struct store_erasure *e,
                            struct open_erasure **ret, struct error *err)
{
    if (p->n_erasures == p->cap_erasures) {
        size_t cap = p->cap_erasures ? p->cap_erasures * 2 : 16;
        struct open_erasure *grown = reallocarray(p->erasures, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not keep %zu requests to forget", cap);
        p->erasures = grown;
        p->cap_erasures = cap;
    }
    char *names = malloc(e->user_id.len + e->bot_name.len + 1);
    if (!names)
        return error_set(err, STATUS_NOMEM, "could not keep a request to forget");
    struct open_erasure *o = &p->erasures[p->n_erasures++];
    *o = (struct open_erasure){.e = *e, .names = names};
    if (e->user_id.len)
        memcpy(names, e->user_id.ptr, e->user_id.len);
    if (e->bot_name.len)
        memcpy(names + e->user_id.len, e->bot_name.ptr, e->bot_name.len);
    o->e.user_id.ptr = names;
    o->e.bot_name = (struct str){names + e->user_id.len, e->bot_name.len};
    *ret = o;
    return STATUS_OK;
}

static enum status recover(void *ctx, const struct store_erasure *e, struct error *err)
{
    struct partition *p = ctx;
    struct open_erasure *ignored = NULL;
    enum status st = add_tomb(p, e, err);
    return st || e->step == ERASURE_DONE ? st : add_open(p, e, &ignored, err);
}

enum status partition_erase_open(struct partition *p, struct error *err)
{
    return store_each_erasure(p->cfg.store, recover, p, err);
}

void partition_erase_close(struct partition *p)
{
    for (size_t i = 0; i < p->n_erasures; i++)
        free(p->erasures[i].names);
    free(p->erasures);
    tombs_deinit(&p->tombs);
    id_set_deinit(&p->erased_ids);
}

/* ---- the user's own keys ---- */

static void drop_key(struct partition *p, struct held_key *h)
{
    for (size_t t = 0; t < TABLE_COUNT; t++)
        if (h->sent_version[t])
            p->in_flight--; /* the answer will find nobody */
    partition_drop_key(p, h);
}

static size_t without(const struct id_set *gone, uint64_t *ids, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!id_set_has(gone, ids[i]))
            ids[kept++] = ids[i];
    return kept;
}

struct user_walk {
    struct partition *p;
    struct str bot_name;
};

static enum status drop_one(void *ctx, struct held_key *h, struct error *err)
{
    struct user_walk *w = ctx;
    if (w->bot_name.len && !str_equal(key_log(h->key)->bot_name, w->bot_name))
        return STATUS_OK;
    enum status st = id_set_add(&w->p->erased_ids, h->id, err);
    drop_key(w->p, h);
    return st;
}

static enum status drop_user(struct partition *p, struct store_erasure *e, struct error *err)
{
    struct user_walk w = {p, e->bot_name};
    enum status st = partition_each_of_user(p, e->user_id, drop_one, &w, err);
    struct shadow *s = &p->shadow;
    if (s->key && str_equal(key_log(s->key)->user_id, e->user_id) &&
        (e->bot_name.len == 0 || str_equal(key_log(s->key)->bot_name, e->bot_name)))
        partition_drop_shadow(p);
    if (st)
        return st;
    e->counts.keys = p->erased_ids.n;
    heap_drop_keys(&p->timers, &p->erased_ids);
    outbox_drop_keys(&p->outbox, &p->erased_ids);
    p->n_inbox_keys = without(&p->erased_ids, p->inbox_keys, p->n_inbox_keys);
    p->n_replaced = without(&p->erased_ids, p->replaced, p->n_replaced);
    return STATUS_OK;
}

/* ---- what bots' own keys know ---- */

static bool is_bot(const struct held_key *h, struct str bot_name)
{
    const struct key_log *log = key_log(h->key);
    return log->user_id.len == 0 && (bot_name.len == 0 || str_equal(log->bot_name, bot_name));
}

/* The bot's key was changed behind its journal: its page must go with the commit, and then none of
 * its entries is needed any more. */
static enum status replace_bot(struct partition *p, struct held_key *h, int64_t now_us,
                               struct error *err)
{
    if (id_set_has(&p->erased_ids, h->id))
        return STATUS_OK;
    enum status st = id_set_add(&p->erased_ids, h->id, err);
    return st ? st : partition_note_replaced(p, h, now_us, err);
}

static enum status forget_in_bot(struct partition *p, struct held_key *h, struct store_erasure *e,
                                 int64_t now_us, struct error *err)
{
    struct key_forgotten gone;
    enum status st = key_forget_user(h->key, e->user_id, e->erased_us, &gone, err);
    if (st || gone.messages + gone.metric_days == 0)
        return st;
    e->counts.messages += gone.messages;
    e->counts.metric_days += gone.metric_days;
    for (size_t t = 0; t < TABLE_COUNT; t++)
        if (tables[t].by_window && (h->trigger[t].flushed_us || h->trigger[t].first_us))
            trigger_note(&h->trigger[t], 1, true, now_us);
    keymap_use(&p->keys, h);
    keymap_track_dirty(&p->keys, h);
    st = replace_bot(p, h, now_us, err);
    return st ? st : partition_schedule(p, h, now_us, err);
}

struct bot_walk {
    struct partition *p;
    struct store_erasure *e;
    int64_t now_us;
};

static enum status list_bot(void *ctx, uint64_t key_id, struct error *err)
{
    return id_set_add(ctx, key_id, err);
}

/* A page that nothing has to be taken from leaves memory again. */
static enum status forget_in_paged_bots(struct bot_walk *w, struct error *err)
{
    struct partition *p = w->p;
    CLEANUP(id_set_deinit) struct id_set bots = {0};
    enum status st = store_user_keys(p->cfg.store, STR(""), list_bot, &bots, err);
    for (size_t i = 0; i < bots.n && !st; i++) {
        struct held_key *h = NULL;
        if (keymap_find(&p->keys, bots.ids[i]))
            continue;
        st = partition_load_key(p, bots.ids[i], &h, err);
        if (!st && is_bot(h, w->e->bot_name))
            st = forget_in_bot(p, h, w->e, w->now_us, err);
        if (!st && !id_set_has(&p->erased_ids, h->id))
            partition_drop_key(p, h);
    }
    return st;
}

/* An entry may tell of a message that has left the key since. */
static enum status look_at_entry(void *ctx, uint64_t jseq, struct str bytes, struct error *err)
{
    (void)jseq;
    struct bot_walk *w = ctx;
    struct held_key *h = keymap_find(&w->p->keys, entry_key_id(bytes));
    if (!h || !is_bot(h, w->e->bot_name))
        return STATUS_OK;
    struct entry entry;
    enum status st = entry_decode(bytes, &entry, err);
    if (st || entry.kind != ENTRY_APPLY || !feature_in_bot_is_of(&entry.feature, w->e->user_id) ||
        entry.feature.t_us > w->e->erased_us)
        return st;
    return replace_bot(w->p, h, w->now_us, err);
}

static enum status forget_in_bots(struct partition *p, struct store_erasure *e, int64_t now_us,
                                  struct error *err)
{
    struct bot_walk w = {p, e, now_us};
    enum status st = STATUS_OK;
    struct held_key *next = NULL;
    /* keymap_use() moves a key to the end: it is met once more, and has nothing left then. */
    for (struct held_key *h = p->keys.oldest; h && !st; h = next) {
        next = h->newer;
        if (is_bot(h, e->bot_name))
            st = forget_in_bot(p, h, e, now_us, err);
    }
    st = st ? st : forget_in_paged_bots(&w, err);
    st = st ? st : store_replay(p->cfg.store, look_at_entry, &w, err);
    struct reader r = reader_of(p->entries.data, p->entries.len);
    while (!st && reader_left(&r))
        st = look_at_entry(&w, 0, reader_blob(&r), err);
    return st;
}

/* ---- the event ---- */

/* It comes to every partition, and the first one here has done it all; nor does a request that is
 * told twice take away what has been said since. */
static bool is_done(const struct partition *p, const struct event *e)
{
    const struct tomb *all = find_tomb(p, e->user_id, STR(""));
    const struct tomb *one = find_tomb(p, e->user_id, e->bot_name);
    return (all && all->native_us >= e->at_us) || (one && one->native_us >= e->at_us);
}

enum status partition_erase(struct partition *p, const struct frame_event *f, const struct event *e,
                            int64_t now_us, struct error *err)
{
    if (is_done(p, e))
        return STATUS_OK;
    uint32_t home = route_home(e->user_id, e->bot_name);
    /* Where the event has been applied before, the user may have come back since. */
    bool of_home = route_worker(home, p->cfg.workers) == p->cfg.worker &&
                   position_compare(f->pos, p->applied[f->source][home].pos) > 0;
    struct store_erasure s = {
        .native = true,
        .token_us = e->at_us,
        /* A clock that is ahead must not keep away what has yet to be said. */
        .erased_us = e->at_us < p->as_of_us ? e->at_us : p->as_of_us,
        .step = p->cfg.erase.submit ? ERASURE_STATE : ERASURE_DONE,
        /* Rows of the user are written here or nowhere. */
        .row_version = of_home ? p->cfg.epoch << 40 | ++p->row_counter : 0,
        .user_id = e->user_id,
        .bot_name = e->bot_name,
    };
    store_digest(p->cfg.store, e->user_id, e->bot_name, s.digest);
    p->erased_ids.n = 0;
    enum status st = of_home ? drop_user(p, &s, err) : STATUS_OK;
    st = st ? st : forget_in_bots(p, &s, now_us, err);
    st = st ? st : add_tomb(p, &s, err);
    st = st ? st : add_open(p, &s, &p->erasing, err);
    p->erasing_home = of_home;
    if (!st)
        COUNTER_ADD(users_forgotten, 1);
    return st;
}

/* ---- the commit ---- */

static bool blank(void *ctx, char *entry, size_t len)
{
    const struct partition *p = ctx;
    if (!id_set_has(&p->erased_ids, entry_key_id((struct str){entry, len})))
        return false;
    entry_blank(entry, len);
    return true;
}

void partition_erase_list(struct partition *p, struct store_erasing *ret_erase,
                          struct store_erasure *ret_moved, size_t *ret_n)
{
    *ret_n = 0;
    for (size_t i = 0; i < p->n_erasures; i++)
        if (p->erasures[i].moved)
            ret_moved[(*ret_n)++] = p->erasures[i].e;
    if (!p->erasing)
        return;
    struct store_erasure *e = &p->erasing->e;
    *ret_erase = (struct store_erasing){
        .erasure = e,
        .of_home = p->erasing_home,
        .user_id = {p->erasing->names, e->user_id.len},
        .bot_name = e->bot_name,
        .blank = blank,
        .ctx = p,
    };
}

void partition_erase_committed(struct partition *p)
{
    if (p->erasing)
        p->erasing->scrubbed = false;
    p->erasing = NULL;
    size_t kept = 0;
    for (size_t i = 0; i < p->n_erasures; i++) {
        struct open_erasure *o = &p->erasures[i];
        if (o->e.step == ERASURE_DONE) {
            free(o->names);
            continue;
        }
        if (o->moved)
            o->scrubbed = o->submitted = false;
        o->moved = false;
        p->erasures[kept++] = *o;
    }
    p->n_erasures = kept;
}

/* ---- what is outside ---- */

static void take_result(struct partition *p, const struct erase_result *r)
{
    for (size_t i = 0; i < p->n_erasures; i++) {
        struct open_erasure *o = &p->erasures[i];
        if (o->e.id != r->id || o->e.step != r->step || o->moved)
            continue;
        o->e.step = r->step + 1;
        o->e.receipt = r->receipt;
        o->e.user_id = o->e.bot_name = STR("");
        o->moved = true;
        p->n_events++; /* somebody may wait for it: worth a commit, like an event */
    }
}

static enum status scrub(struct partition *p, struct error *err)
{
    bool dirty = false;
    for (size_t i = 0; i < p->n_erasures; i++)
        dirty |= !p->erasures[i].scrubbed && !p->erasures[i].moved;
    enum status st = dirty ? store_scrub(p->cfg.store, err) : STATUS_AGAIN;
    if (st)
        return st == STATUS_AGAIN ? STATUS_OK : st;
    for (size_t i = 0; i < p->n_erasures; i++)
        p->erasures[i].scrubbed |= !p->erasures[i].moved;
    if (FAULT_POINT("erase_scrubbed"))
        return error_set(err, STATUS_IO, "fault point erase_scrubbed");
    return STATUS_OK;
}

static enum status submit(struct partition *p, struct open_erasure *o, struct error *err)
{
    struct erase_task t = {
        .worker = p->cfg.worker,
        .workers = p->cfg.workers,
        .id = o->e.id,
        .step = o->e.step,
        .user_id = o->e.user_id,
        .bot_name = o->e.bot_name,
        .token_us = o->e.token_us,
        .row_version = o->e.row_version,
        .receipt = o->e.receipt,
        .counts = o->e.counts,
    };
    enum status st = p->cfg.erase.submit(p->cfg.erase.ctx, &t);
    o->submitted = st == STATUS_OK;
    return st && st != STATUS_AGAIN ? error_set(err, st, "could not hand on a request to forget")
                                    : STATUS_OK;
}

enum status partition_erase_tick(struct partition *p, struct error *err)
{
    if (p->n_erasures == 0 || !p->cfg.erase.submit)
        return STATUS_OK;
    struct erase_result results[RESULTS_MAX];
    size_t n = RESULTS_MAX;
    while (n == RESULTS_MAX) {
        n = p->cfg.erase.poll(p->cfg.erase.ctx, p->cfg.worker, results, RESULTS_MAX);
        for (size_t i = 0; i < n; i++)
            take_result(p, &results[i]);
    }
    enum status st = scrub(p, err);
    for (size_t i = 0; i < p->n_erasures && !st; i++) {
        struct open_erasure *o = &p->erasures[i];
        if (o->scrubbed && !o->submitted && !o->moved)
            st = submit(p, o, err);
    }
    return st;
}
