#include "pipeline/partition_internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/counters.h"
#include "core/metrics.h"

/* ---- pages ---- */

enum status partition_encode_page(const struct held_key *h, struct buf *out)
{
    enum status st = buf_put_u8(out, PAGE_FORMAT);
    if (!st)
        st = buf_put_varint(out, TABLE_COUNT);
    for (size_t t = 0; t < TABLE_COUNT && !st; t++)
        st = trigger_encode(&h->trigger[t], out);
    if (!st)
        st = buf_put_svarint(out, h->active_us);
    if (!st)
        st = buf_put_svarint(out, h->visit_from_us);
    if (!st)
        st = buf_put_svarint(out, h->visit_until_us);
    if (!st)
        st = buf_put_svarint(out, h->commit_us);
    if (!st)
        st = buf_put_varint(out, h->lsn);
    return st ? st : key_encode(h->key, out);
}

static int64_t newest_event(const struct trigger_state triggers[TABLE_COUNT])
{
    int64_t us = 0;
    for (size_t t = 0; t < TABLE_COUNT; t++)
        us = triggers[t].last_us > us ? triggers[t].last_us : us;
    return us;
}

static enum status decode_page(struct partition *p, const struct store_page *page,
                               struct held_key **ret, struct error *err)
{
    struct trigger_state triggers[TABLE_COUNT] = {0};
    struct reader r = reader_of(page->bytes.ptr, page->bytes.len);
    uint8_t format = reader_u8(&r);
    uint64_t n = reader_varint(&r);
    if (format < 1 || format > PAGE_FORMAT || n > TABLE_COUNT)
        return error_set(err, STATUS_CORRUPT,
                         "page of key %" PRIu64 " has format %u with %" PRIu64
                         " tables: it was written by another version",
                         page->key_id, format, n);
    for (uint64_t t = 0; t < n; t++)
        trigger_decode(&r, format, &triggers[t]);
    int64_t active_us = format < 2 ? newest_event(triggers) : reader_svarint(&r);
    int64_t visit_from_us = format < 2 ? 0 : reader_svarint(&r);
    int64_t visit_until_us = format < 2 ? 0 : reader_svarint(&r);
    int64_t commit_us = reader_svarint(&r);
    uint64_t lsn = reader_varint(&r);
    struct str bytes = reader_bytes(&r, reader_left(&r));
    if (r.bad)
        return error_set(err, STATUS_CORRUPT, "page of key %" PRIu64 " is cut short", page->key_id);
    uint64_t jseq = page->jseq;
    CLEANUP(key_freep) struct key *key = NULL;
    enum status st = key_decode(bytes, &key, err);
    if (!st)
        st = partition_add_key(p, page->key_id, page->partition, TAKE(key), ret, err);
    if (st)
        return st;
    struct held_key *h = *ret;
    assert(h);
    memcpy(h->trigger, triggers, sizeof(triggers));
    for (size_t t = 0; t < TABLE_COUNT; t++)
        trigger_outdated(&h->trigger[t], p->tick_us);
    for (size_t t = 0; t < TABLE_COUNT; t++)
        if (h->trigger[t].outbox) /* it may have been sent */
            h->trigger[t].payload_hash = 0;
    h->active_us = active_us;
    h->visit_from_us = visit_from_us;
    h->visit_until_us = visit_until_us;
    h->commit_us = commit_us;
    h->lsn = lsn;
    h->jseq = jseq;
    h->page_jseq = jseq;
    /* A key with rows in flight is never paged out: what is in the outbox stands in the queue. */
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        h->queued[t] = h->trigger[t].outbox;
        h->reason[t] = h->trigger[t].outbox ? FLUSH_STOP : FLUSH_NONE;
    }
    keymap_track_dirty(&p->keys, h);
    return STATUS_OK;
}

/* ---- finding ---- */

enum status partition_add_key(struct partition *p, uint64_t id, uint32_t partition, struct key *key,
                              struct held_key **ret, struct error *err)
{
    const struct key_log *log = key_log(key);
    struct held_bot *bot = NULL;
    enum status st = partition_hold_bot(p, log->bot_name, &bot, err);
    struct held_key *h = st ? NULL : calloc(1, sizeof(*h));
    if (!h) {
        key_free(key);
        return st ? st : error_set(err, STATUS_NOMEM, "could not allocate a key");
    }
    key_set_epochs(key, &bot->epochs);
    h->id = id;
    h->partition = partition;
    h->key = key;
    h->hash = keymap_hash(log->user_id, log->bot_name);
    h->scheduled_us = TRIGGER_NEVER;
    h->bot = bot;
    st = keymap_add(&p->keys, h);
    if (st) {
        key_free(key);
        free(h);
        return error_set(err, st, "could not hold a key");
    }
    bot->n_keys++;
    if (id >= p->next_key_id)
        p->next_key_id = id + 1;
    *ret = h;
    return STATUS_OK;
}

void partition_drop_key(struct partition *p, struct held_key *h)
{
    struct held_bot *bot = h->bot;
    keymap_remove(&p->keys, h);
    bot->n_keys--;
    partition_release_bot(p, bot);
}

enum status partition_load_key(struct partition *p, uint64_t id, struct held_key **ret,
                               struct error *err)
{
    struct held_key *h = keymap_find(&p->keys, id);
    if (h) {
        *ret = h;
        return STATUS_OK;
    }
    struct store_page page;
    enum status st = store_load_page(p->cfg.store, id, &page, err);
    if (st == STATUS_END)
        return error_set(err, STATUS_CORRUPT, "key %" PRIu64 " has no page and no journal entry",
                         id);
    return st ? st : decode_page(p, &page, ret, err);
}

bool partition_has_key(struct partition *p, struct str user_id, struct str bot_name)
{
    uint64_t id = 0;
    return keymap_find_name(&p->keys, keymap_hash(user_id, bot_name), user_id, bot_name) ||
           store_find_key(p->cfg.store, user_id, bot_name, &id, NULL) == STATUS_OK;
}

enum status partition_find_key(struct partition *p, struct str user_id, struct str bot_name,
                               struct held_key **ret, struct error *err)
{
    uint64_t hash = keymap_hash(user_id, bot_name);
    *ret = keymap_find_name(&p->keys, hash, user_id, bot_name);
    if (*ret)
        return STATUS_OK;
    uint64_t id = 0;
    enum status st = store_find_key(p->cfg.store, user_id, bot_name, &id, err);
    return st ? st : partition_load_key(p, id, ret, err);
}

/*
 * What a user wishes of every bot is kept in a key without a bot, which has nothing else and no
 * rows: it is journaled, paged, spread and erased like any other. A key that is born later takes it
 * over.
 */
static enum status inherit_wishes(struct partition *p, struct held_key *h, struct error *err)
{
    const struct key_log *log = key_log(h->key);
    struct held_key *user = NULL;
    if (log->user_id.len == 0 || log->bot_name.len == 0)
        return STATUS_OK;
    enum status st = partition_find_key(p, log->user_id, STR(""), &user, err);
    for (enum consent_scope s = 0; s < CONSENT_SCOPES && !st; s++) {
        const struct consent *c = &key_log(user->key)->consents[s];
        if (!c->given)
            continue;
        struct entry e = {
            .kind = ENTRY_APPLY,
            .key_id = h->id,
            .now_us = p->as_of_us,
            .as_of_us = p->as_of_us,
            .feature = {.type = EVENT_PRIVACY,
                        .op = c->opted_out ? PRIVACY_OPTOUT : PRIVACY_OPTIN,
                        .source = SOURCE_POSTGRES,
                        .ver = c->ver,
                        .t_us = c->t_us,
                        .u.privacy.scopes = (uint8_t)(1u << s)},
        };
        struct key_change change;
        st = key_apply(h->key, &e.feature, e.as_of_us, &change, err);
        st = st ? st : partition_journal(p, &e, h, err);
    }
    return st == STATUS_END ? STATUS_OK : st;
}

enum status partition_get_key(struct partition *p, uint32_t partition, struct str user_id,
                              struct str bot_name, struct held_key **ret, struct error *err)
{
    enum status st = partition_find_key(p, user_id, bot_name, ret, err);
    if (st != STATUS_END)
        return st;
    CLEANUP(key_freep) struct key *key = NULL;
    st = key_new(user_id, bot_name, &key, err);
    if (!st)
        st = partition_add_key(p, p->next_key_id, partition, TAKE(key), ret, err);
    if (st)
        return st;
    assert(*ret);
    struct entry e = {
        .kind = ENTRY_KEY,
        .key_id = (*ret)->id,
        .partition = partition,
        .user_id = user_id,
        .bot_name = bot_name,
    };
    st = partition_journal(p, &e, *ret, err);
    return st ? st : inherit_wishes(p, *ret, err);
}

struct id_list {
    uint64_t *ids;
    size_t n, cap;
};

static enum status list_id(void *ctx, uint64_t key_id, struct error *err)
{
    struct id_list *l = ctx;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;
        uint64_t *grown = reallocarray(l->ids, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not list %zu keys of a user", cap);
        l->ids = grown;
        l->cap = cap;
    }
    l->ids[l->n++] = key_id;
    return STATUS_OK;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

enum status partition_each_of_user(struct partition *p, struct str user_id, partition_key_fn *fn,
                                   void *ctx, struct error *err)
{
    struct id_list l = {0};
    enum status st = store_user_keys(p->cfg.store, user_id, list_id, &l, err);
    /* A key without a page has only entries in the journal, and so is held. */
    for (struct held_key *h = keymap_of_user(&p->keys, user_id, NULL); h && !st;
         h = keymap_of_user(&p->keys, user_id, h))
        if (h->page_jseq == 0)
            st = list_id(&l, h->id, err);
    if (l.n > 1)
        qsort(l.ids, l.n, sizeof(*l.ids), by_id);
    for (size_t i = 0; i < l.n && !st; i++) {
        struct held_key *h = NULL;
        st = partition_load_key(p, l.ids[i], &h, err);
        st = st ? st : fn(ctx, h, err);
    }
    free(l.ids);
    return st;
}

/* ---- timers ---- */

struct trigger_policy partition_policy(const struct partition *p, const struct held_key *h,
                                       enum table_id table)
{
    return p->cfg.policy(p->cfg.policy_ctx, table, key_log(h->key)->bot_name);
}

struct trigger_due partition_due(const struct partition *p, const struct held_key *h,
                                 int64_t now_us, enum table_id *ret_table)
{
    struct trigger_due first = {TRIGGER_NEVER, FLUSH_NONE};
    struct trigger_key key = {h->hash, h->active_us, h->visit_from_us, h->visit_until_us};
    for (size_t t = 0; t < TABLE_COUNT; t++) {
        if (h->trigger[t].first_us == 0 && h->trigger[t].flushed_us == 0 &&
            !h->trigger[t].requested)
            continue;
        struct trigger_policy policy = partition_policy(p, h, (enum table_id)t);
        struct trigger_due due =
            trigger_next(&h->trigger[t], &policy, &key, p->catching_up, now_us);
        if (due.at_us < first.at_us) {
            first = due;
            *ret_table = (enum table_id)t;
        }
    }
    return first;
}

enum status partition_schedule(struct partition *p, struct held_key *h, int64_t now_us,
                               struct error *err)
{
    enum table_id table = 0;
    struct trigger_due due = partition_due(p, h, now_us, &table);
    /* A later time needs nothing: the earlier entry finds out when it is popped. */
    if (due.at_us >= h->scheduled_us)
        return STATUS_OK;
    if (heap_push(&p->timers, (struct heap_item){due.at_us, h->id}))
        return error_set(err, STATUS_NOMEM, "could not schedule a timer");
    h->scheduled_us = due.at_us;
    return STATUS_OK;
}

/* ---- journal, outbox, dead letters ---- */

enum status partition_journal(struct partition *p, const struct entry *e, struct held_key *h,
                              struct error *err)
{
    enum status st = entry_append(e, &p->scratch, &p->entries);
    if (st)
        return error_set(err, st, "could not append to the journal block (%zu bytes)",
                         p->entries.len);
    p->n_entries++;
    h->jseq = ++p->jseq;
    return STATUS_OK;
}

enum status partition_note_inbox(struct partition *p, struct held_key *h, struct error *err)
{
    if (h->from_inbox)
        return STATUS_OK;
    if (p->n_inbox_keys == p->cap_inbox_keys) {
        size_t cap = p->cap_inbox_keys ? p->cap_inbox_keys * 2 : 64;
        uint64_t *grown = reallocarray(p->inbox_keys, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not keep %zu keys of the inbox", cap);
        p->inbox_keys = grown;
        p->cap_inbox_keys = cap;
    }
    p->inbox_keys[p->n_inbox_keys++] = h->id;
    h->from_inbox = true;
    return STATUS_OK;
}

enum status partition_queue_row(struct partition *p, struct held_key *h, enum table_id table,
                                struct error *err)
{
    if (h->queued[table])
        return STATUS_OK;
    if (outbox_push(&p->outbox, (struct outbox_item){h->id, table}))
        return error_set(err, STATUS_NOMEM, "could not queue a row");
    h->queued[table] = true;
    return STATUS_OK;
}

enum status partition_dead_letter(struct partition *p, enum source source, struct position pos,
                                  int64_t at_us, struct str where, struct str reason,
                                  struct str bytes, struct error *err)
{
    if (p->n_dead_letters == p->cap_dead_letters) {
        size_t cap = p->cap_dead_letters ? p->cap_dead_letters * 2 : 16;
        struct dead_letter_text *d = realloc(p->dead_letters, cap * sizeof(*d));
        if (!d)
            return error_set(err, STATUS_NOMEM, "could not keep a dead letter");
        p->dead_letters = d;
        p->cap_dead_letters = cap;
    }
    where = str_cut(where, LIMIT_ID_BYTES);
    reason = str_cut(reason, LIMIT_ID_BYTES);
    if (bytes.len > LIMIT_DEAD_LETTER_BYTES)
        bytes.len = LIMIT_DEAD_LETTER_BYTES;
    char *text = malloc(where.len + reason.len + bytes.len + 1);
    if (!text)
        return error_set(err, STATUS_NOMEM, "could not keep a dead letter");
    struct dead_letter_text *d = &p->dead_letters[p->n_dead_letters];
    *d = (struct dead_letter_text){
        .record = {.source = source,
                   .pos = pos,
                   .at_us = at_us,
                   .where = where,
                   .reason = reason,
                   .bytes = bytes},
        .text = text,
    };
    struct str *parts[] = {&d->record.where, &d->record.reason, &d->record.bytes};
    for (size_t i = 0; i < 3; i++) {
        if (parts[i]->len)
            memcpy(text, parts[i]->ptr, parts[i]->len);
        parts[i]->ptr = text;
        text += parts[i]->len;
    }
    p->n_dead_letters++;
    char label[METRIC_LABEL_BYTES];
    snprintf(label, sizeof(label), STR_FMT, STR_ARGS(where));
    metric_add(METRIC_DEAD_LETTERS, label, NULL, 1);
    return STATUS_OK;
}
