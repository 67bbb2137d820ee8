/*
 * The naive state of all keys: every feature ever added, and for each row the whole history of the
 * key played again over unsorted arrays. Slow, and simple enough to be believed.
 */
#include "engines/oracle/oracle.h"

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/hash.h"
#include "core/limits.h"
#include "engines/engine.h"
#include "engines/kernels.h"
#include "engines/oracle/live.h"
#include "engines/oracle/view.h"
#include "engines/params.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

extern const struct oracle_ops oracle_proactive_engagement, oracle_memory_aging,
    oracle_conversation_patterns;
extern const struct oracle_ops oracle_memory_behavior, oracle_context_switch;
extern const struct oracle_ops oracle_personality_profile;
extern const struct oracle_ops oracle_character_performance;

static const struct oracle_ops *const registry[] = {
    &oracle_memory_aging,    &oracle_character_performance, &oracle_conversation_patterns,
    &oracle_memory_behavior, &oracle_personality_profile,   &oracle_proactive_engagement,
    &oracle_context_switch,
};

const struct oracle_ops *oracle_at(size_t index)
{
    return index < sizeof(registry) / sizeof(registry[0]) ? registry[index] : NULL;
}

/* ---- what was added ---- */

struct stored {
    struct feature f; /* its strings point into this struct */
    int64_t as_of_us; /* T at arrival */
    char name[LIMIT_LABEL_BYTES];
    char type[LIMIT_ID_BYTES];
    char traits[LIMIT_TRAITS][RECORD_TRAIT_BYTES];
};

struct oracle_key {
    char *user_id;
    char *bot_name;
    size_t user_len;
    size_t bot_len;
    struct stored **items;
    size_t n;
    size_t cap;
};

struct bot {
    char *name;
    size_t name_len;
    const struct epoch_list *epochs;
};

struct oracle {
    struct oracle_key *keys;
    size_t n;
    size_t cap;
    struct bot *bots; /* those with epochs */
    size_t n_bots;
    size_t cap_bots;
};

enum status oracle_new(struct oracle **ret, struct error *err)
{
    struct oracle *o = calloc(1, sizeof(*o));
    if (!o)
        return error_set(err, STATUS_NOMEM, "could not allocate the oracle");
    *ret = o;
    return STATUS_OK;
}

void oracle_free(struct oracle *o)
{
    if (!o)
        return;
    for (size_t i = 0; i < o->n; i++) {
        for (size_t k = 0; k < o->keys[i].n; k++)
            free(o->keys[i].items[k]);
        free(o->keys[i].items);
        free(o->keys[i].user_id);
        free(o->keys[i].bot_name);
    }
    for (size_t i = 0; i < o->n_bots; i++)
        free(o->bots[i].name);
    free(o->bots);
    free(o->keys);
    free(o);
}

size_t oracle_key_count(const struct oracle *o)
{
    return o->n;
}

void oracle_key_at(const struct oracle *o, size_t index, struct str *ret_user, struct str *ret_bot)
{
    assert(index < o->n);
    *ret_user = (struct str){o->keys[index].user_id, o->keys[index].user_len};
    *ret_bot = (struct str){o->keys[index].bot_name, o->keys[index].bot_len};
}

static bool grow(void **items, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 16;
    void *grown = realloc(*items, more * size);
    if (!grown)
        return false;
    *items = grown;
    *cap = more;
    return true;
}

static struct bot *find_bot(const struct oracle *o, struct str name)
{
    for (size_t i = 0; i < o->n_bots; i++)
        if (str_equal((struct str){o->bots[i].name, o->bots[i].name_len}, name))
            return &o->bots[i];
    return NULL;
}

enum status oracle_set_epochs(struct oracle *o, struct str bot_name,
                              const struct epoch_list *epochs)
{
    struct bot *b = find_bot(o, bot_name);
    if (!b) {
        if (!grow((void **)&o->bots, &o->cap_bots, o->n_bots, sizeof(*o->bots)))
            return STATUS_NOMEM;
        char *name = strndup(bot_name.ptr, bot_name.len);
        if (!name)
            return STATUS_NOMEM;
        b = &o->bots[o->n_bots++];
        *b = (struct bot){.name = name, .name_len = bot_name.len};
    }
    b->epochs = epochs;
    return STATUS_OK;
}

/* The epochs of the bot that were closed when T was as_of_us, as a list that borrows them. */
static struct epoch_list epochs_at(const struct oracle *o, struct str bot_name, int64_t as_of_us)
{
    const struct bot *b = find_bot(o, bot_name);
    struct epoch_list known = {0};
    if (b && b->epochs)
        known = *b->epochs;
    while (known.n > 0 && known.at[known.n - 1].day > kernel_day(as_of_us))
        known.n--;
    return known;
}

static struct oracle_key *find_key(const struct oracle *o, struct str user_id, struct str bot_name)
{
    for (size_t i = 0; i < o->n; i++) {
        struct str user;
        struct str bot;
        oracle_key_at(o, i, &user, &bot);
        if (str_equal(user, user_id) && str_equal(bot, bot_name))
            return &o->keys[i];
    }
    return NULL;
}

static struct oracle_key *find_or_add_key(struct oracle *o, struct str user_id, struct str bot_name)
{
    struct oracle_key *k = find_key(o, user_id, bot_name);
    if (k)
        return k;
    if (!grow((void **)&o->keys, &o->cap, o->n, sizeof(*o->keys)))
        return NULL;
    char *user = strndup(user_id.ptr, user_id.len);
    char *bot = strndup(bot_name.ptr, bot_name.len);
    if (!user || !bot) {
        free(user);
        free(bot);
        return NULL;
    }
    o->keys[o->n] = (struct oracle_key){
        .user_id = user, .bot_name = bot, .user_len = user_id.len, .bot_len = bot_name.len};
    return &o->keys[o->n++];
}

/* Copies s to where the stored feature may point to it for good. */
static struct str keep(char *to, size_t size, struct str s)
{
    assert(s.len <= size);
    if (!s.ptr)
        return STR_NULL;
    memcpy(to, s.ptr, s.len);
    return (struct str){to, s.len};
}

static struct stored *stored_new(const struct event *e, enum source source, uint64_t ver,
                                 const struct epoch_list *epochs, int64_t as_of_us)
{
    struct stored *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    struct feature f;
    feature_extract(e, source, ver, epochs, &f);
    s->f = f;
    s->as_of_us = as_of_us;
    for (size_t i = 0; i < f.n_labels; i++)
        s->f.labels[i] = keep(s->f.label_text[i], RECORD_LABEL_BYTES, f.labels[i]);
    for (size_t i = 0; i < f.n_traits; i++)
        s->f.traits[i] = keep(s->traits[i], RECORD_TRAIT_BYTES, f.traits[i]);
    if (f.type == EVENT_MEMORY) {
        s->f.u.memory.name = keep(s->name, sizeof(s->name), f.u.memory.name);
        s->f.u.memory.type = keep(s->type, sizeof(s->type), f.u.memory.type);
    }
    return s;
}

/* Takes s. */
static enum status store(struct oracle_key *k, struct stored *s, struct error *err)
{
    if (!k || !s || !grow((void **)&k->items, &k->cap, k->n, sizeof(struct stored *))) {
        free(s);
        return error_set(err, STATUS_NOMEM, "could not store an event in the oracle");
    }
    k->items[k->n++] = s;
    return STATUS_OK;
}

/* What a user wishes of every bot holds for this key, too. */
static enum status inherit(struct oracle *o, struct oracle_key *k, struct error *err)
{
    struct str user_id = {k->user_id, k->user_len};
    const struct oracle_key *wishes =
        k->user_len && k->bot_len ? find_key(o, user_id, STR("")) : NULL;
    enum status st = STATUS_OK;
    for (size_t i = 0; wishes && i < wishes->n && !st; i++) {
        struct stored *copy = malloc(sizeof(*copy));
        if (copy)
            *copy = *wishes->items[i];
        st = store(k, copy, err);
    }
    return st;
}

static enum status add_to_key(struct oracle *o, const struct event *e, enum engine_scope scope,
                              enum source source, uint64_t ver, int64_t as_of_us, struct error *err)
{
    struct str user_id = scope == ENGINE_BOT ? STR("") : e->user_id;
    bool is_new = !find_key(o, user_id, e->bot_name);
    struct oracle_key *k = find_or_add_key(o, user_id, e->bot_name);
    struct epoch_list epochs = epochs_at(o, e->bot_name, as_of_us);
    enum status st = k && is_new ? inherit(o, k, err) : STATUS_OK;
    if (st)
        return st;
    struct stored *s = stored_new(e, source, ver, &epochs, as_of_us);
    if (s && scope == ENGINE_BOT)
        feature_for_bot(&s->f, e->user_id);
    return store(k, s, err);
}

/* An event of a user that names no bot: to all keys he has, and kept for those to come. */
static enum status add_to_user(struct oracle *o, const struct event *e, enum source source,
                               uint64_t ver, int64_t as_of_us, struct error *err)
{
    enum status st = add_to_key(o, e, ENGINE_USER, source, ver, as_of_us, err);
    for (size_t i = 0; i < o->n && !st; i++) {
        struct oracle_key *k = &o->keys[i];
        if (k->bot_len == 0 || !str_equal(e->user_id, (struct str){k->user_id, k->user_len}))
            continue;
        st = store(k, stored_new(e, source, ver, NULL, as_of_us), err);
    }
    return st;
}

enum status oracle_add(struct oracle *o, const struct event *e, enum source source, uint64_t ver,
                       int64_t as_of_us, struct error *err)
{
    uint32_t scopes = feature_wanted(e->type) && !feature_ignored(e) ? engine_scopes(e) : 0;
    enum status st = STATUS_OK;
    if (scopes & 1u << ENGINE_USER && e->bot_name.len == 0)
        return add_to_user(o, e, source, ver, as_of_us, err);
    for (enum engine_scope scope = ENGINE_USER; !st && scope <= ENGINE_BOT; scope++)
        if (scopes & 1u << scope)
            st = add_to_key(o, e, scope, source, ver, as_of_us, err);
    return st;
}

/* ---- the view of a key at T ---- */

struct pool {
    const struct feature **messages;
    const struct feature **memories;
    const struct feature **origins;
    const struct feature **accesses;
    const struct feature **outreach;
    const struct feature **answers;
    bool *pinned;
};

static void pool_free(struct pool *p)
{
    free(p->messages);
    free(p->memories);
    free(p->origins);
    free(p->accesses);
    free(p->outreach);
    free(p->answers);
    free(p->pinned);
}

static enum status pool_init(struct pool *p, const struct live *l)
{
    /* One more than needed, so that empty arrays are not NULL. */
    p->messages = calloc(l->messages.n + 1, sizeof(struct feature *));
    p->memories = calloc(l->memories.n + 1, sizeof(struct feature *));
    p->origins = calloc(l->memories.n + 1, sizeof(struct feature *));
    p->accesses = calloc(l->accesses.n + 1, sizeof(struct feature *));
    p->outreach = calloc(l->outreach.n + 1, sizeof(struct feature *));
    p->answers = calloc(l->answers.n + 1, sizeof(struct feature *));
    p->pinned = calloc(l->memories.n + 1, sizeof(*p->pinned));
    bool all = p->messages && p->memories && p->origins && p->accesses && p->outreach &&
               p->answers && p->pinned;
    return all ? STATUS_OK : STATUS_NOMEM;
}

static int by_time(const void *a, const void *b)
{
    const struct feature *x = *(const struct feature *const *)a;
    const struct feature *y = *(const struct feature *const *)b;
    if (x->t_us != y->t_us)
        return x->t_us < y->t_us ? -1 : 1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->op < y->op ? -1 : x->op > y->op; /* attempts and answers may share an id */
}

static int by_memory(const void *a, const void *b)
{
    const struct live_item *x = a;
    const struct live_item *y = b;
    uint64_t m = x->f.u.memory.memory;
    uint64_t n = y->f.u.memory.memory;
    return m < n ? -1 : m > n;
}

static void build_view(struct live *l, struct pool *p, struct oracle_view *v)
{
    for (size_t i = 0; i < l->messages.n; i++)
        if (live_is_visible(l, &l->messages.items[i].f))
            p->messages[v->n_messages++] = &l->messages.items[i].f;
    qsort(p->messages, v->n_messages, sizeof(struct feature *), by_time);

    if (l->memories.n)
        qsort(l->memories.items, l->memories.n, sizeof(*l->memories.items), by_memory);
    for (; v->n_memories < l->memories.n; v->n_memories++) {
        const struct live_item *m = &l->memories.items[v->n_memories];
        p->memories[v->n_memories] = &m->f;
        p->pinned[v->n_memories] = m->pinned;
        p->origins[v->n_memories] = m->has_origin ? &m->origin : &m->f;
    }

    for (size_t i = 0; i < l->accesses.n; i++) {
        const struct live_item *a = &l->accesses.items[i];
        if (!a->left && !live_is_visible(l, &a->f))
            continue;
        p->accesses[v->n_accesses++] = &a->f;
        v->n_folded += a->left;
    }
    qsort(p->accesses + v->n_folded, v->n_accesses - v->n_folded, sizeof(struct feature *),
          by_time);

    for (size_t i = 0; i < l->outreach.n; i++)
        if (live_is_visible(l, &l->outreach.items[i].f))
            p->outreach[v->n_outreach++] = &l->outreach.items[i].f;
    qsort(p->outreach, v->n_outreach, sizeof(struct feature *), by_time);
    for (; v->n_answers < l->answers.n; v->n_answers++)
        p->answers[v->n_answers] = &l->answers.items[v->n_answers].f;

    v->outreach = p->outreach;
    v->answers = p->answers;
    memcpy(v->consents, l->consents, sizeof(v->consents));
    v->first_seen_us = l->first_left_us;
    if (v->n_messages && p->messages[0]->t_us < v->first_seen_us)
        v->first_seen_us = p->messages[0]->t_us;
    if (v->first_seen_us == INT64_MAX)
        v->first_seen_us = 0;
    v->points = &l->points;
    v->folded = &l->folded;
    v->as_of_us = l->as_of_us;
    v->messages = p->messages;
    v->memories = p->memories;
    v->pinned = p->pinned;
    v->origins = p->origins;
    v->accesses = p->accesses;
    v->forgotten_n = l->forgotten_n;
    v->forgotten_created_s = l->forgotten_created_s;
    v->truncated = l->message_cut_us != INT64_MIN || l->access_cut_us != INT64_MIN;
}

/* ---- rows ---- */

static bool is_known(const struct oracle_view *v, uint64_t memory)
{
    for (size_t i = 0; i < v->n_memories; i++)
        if (v->memories[i]->u.memory.memory == memory)
            return true;
    return false;
}

/* Live records of these kinds; accesses only of known memories. */
static int64_t count_records(const struct oracle_view *v, uint32_t kinds)
{
    int64_t n = 0;
    if (kinds & 1u << RECORD_MESSAGE)
        n += (int64_t)v->n_messages;
    if (kinds & 1u << RECORD_MEMORY)
        n += (int64_t)v->n_memories;
    if (kinds & 1u << RECORD_ACCESS)
        for (size_t i = v->n_folded; i < v->n_accesses; i++)
            n += is_known(v, v->accesses[i]->u.memory.memory);
    if (kinds & 1u << RECORD_OUTREACH)
        n += (int64_t)v->n_outreach;
    if (kinds & 1u << RECORD_METRIC)
        for (size_t i = 0; i < v->points->n; i++)
            n += point_is_live(&v->points->all[i], v->as_of_us);
    return n;
}

static const struct oracle_ops *twin_of(const char *engine)
{
    for (size_t i = 0; oracle_at(i); i++)
        if (strcmp(oracle_at(i)->engine, engine) == 0)
            return oracle_at(i);
    return NULL;
}

static enum status emit_row(const struct oracle_view *v, enum table_id table, struct row *row,
                            struct error *err)
{
    uint32_t kinds = 0;
    uint32_t row_kinds = 0;
    bool refused = false;
    for (size_t i = 0; engine_at(i); i++) {
        if (!engine_fills(engine_at(i), table))
            continue;
        bool suppressed = engine_at(i)->profiles && v->consents[CONSENT_PROFILING].opted_out;
        kinds |= engine_at(i)->kinds;
        row_kinds |= suppressed ? 0 : engine_at(i)->row_kinds;
        refused |= suppressed;
        row->engine_version += engine_at(i)->version;
    }
    if (count_records(v, row_kinds) == 0)
        return STATUS_END;
    if (row_set_key(row, v->user_id, v->bot_name))
        return error_set(err, STATUS_NOMEM, "could not build a row");
    row->as_of_us = v->as_of_us;
    row->event_count = count_records(v, kinds);
    if (v->truncated)
        row->state_flags |= ROW_TRUNCATED;
    for (size_t i = 0; engine_at(i); i++) {
        if (!engine_fills(engine_at(i), table) || (engine_at(i)->profiles && refused))
            continue;
        const struct oracle_ops *twin = twin_of(engine_at(i)->name);
        if (!twin)
            return error_set(err, STATUS_INVALID, "the oracle knows no engine \"%s\"",
                             engine_at(i)->name);
        enum status st = twin->emit(v, row, err);
        if (st)
            return st;
    }
    if (engine_add_params(row) || table_explain_nulls(row, refused) || row_finish(row))
        return error_set(err, STATUS_NOMEM, "could not build a row of \"%s\"", row->table->name);
    return STATUS_OK;
}

static enum status row_of(struct live *l, enum table_id table, struct str user_id,
                          struct str bot_name, const struct epoch_list *epochs, struct row *row,
                          struct error *err)
{
    struct oracle_view view = {.user_id = user_id, .bot_name = bot_name, .epochs = epochs};
    struct pool pool = {0};

    enum status st = pool_init(&pool, l);
    if (st) {
        st = error_set(err, st, "could not build the view of a key");
    } else {
        build_view(l, &pool, &view);
        if (l->message_cut_us != INT64_MIN && view.n_messages < LIMIT_MESSAGES)
            row->state_flags |= ROW_REBUILD;
        st = emit_row(&view, table, row, err);
    }
    pool_free(&pool);
    return st;
}

enum status oracle_row(struct oracle *o, enum table_id table, struct str user_id,
                       struct str bot_name, int64_t as_of_us, struct row *row, struct error *err)
{
    assert(row->table == &tables[table]);

    const struct oracle_key *key = find_key(o, user_id, bot_name);
    if (!key || tables[table].by_window != (user_id.len == 0))
        return STATUS_END;
    CLEANUP(live_freep) struct live *l = NULL;
    enum status st = live_new(&l);
    if (!st)
        l->of_bot = user_id.len == 0;
    for (size_t i = 0; !st && i < key->n; i++)
        if (key->items[i]->as_of_us <= as_of_us)
            st = live_apply(l, &key->items[i]->f, key->items[i]->as_of_us);
    if (!st)
        st = live_advance(l, as_of_us);
    if (st)
        return error_set(err, st, "could not play the history of a key again");
    struct epoch_list epochs = epochs_at(o, bot_name, l->as_of_us);
    return row_of(l, table, user_id, bot_name, &epochs, row, err);
}
