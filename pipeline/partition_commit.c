#include "pipeline/partition.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/counters.h"
#include "engines/metrics.h"
#include "pipeline/partition_internal.h"
#include "state/fault.h"

/* ---- which pages go with this commit ---- */

struct page_list {
    struct held_key **keys;
    struct store_page *pages;
    size_t n;
    size_t cap;
    struct buf bytes; /* encoded pages one after the other */
    /* What the bots of these keys have been taught (partition_epochs.c). */
    struct held_bot **bots;
    struct store_part *parts;
    size_t n_parts;
    size_t cap_parts;
    struct buf part_bytes;
};

static void page_list_init(struct page_list *l)
{
    *l = (struct page_list){0};
    buf_init(&l->bytes, SIZE_MAX / 2);
    buf_init(&l->part_bytes, SIZE_MAX / 2);
}

static void page_list_deinit(struct page_list *l)
{
    free(l->keys);
    free(l->pages);
    buf_deinit(&l->bytes);
    free(l->bots);
    free(l->parts);
    buf_deinit(&l->part_bytes);
}

static enum status part_list_add(struct partition *p, struct page_list *l, struct held_bot *bot,
                                 struct error *err)
{
    if (!bot->dirty || bot->listed)
        return STATUS_OK;
    if (l->n_parts == l->cap_parts) {
        size_t cap = l->cap_parts ? l->cap_parts * 2 : 16;
        struct held_bot **bots = realloc(l->bots, cap * sizeof(struct held_bot *));
        if (bots)
            l->bots = bots;
        struct store_part *parts = realloc(l->parts, cap * sizeof(struct store_part));
        if (parts)
            l->parts = parts;
        if (!bots || !parts)
            return error_set(err, STATUS_NOMEM, "could not store what %zu bots learned", cap);
        l->cap_parts = cap;
    }
    size_t offset = l->part_bytes.len;
    enum status st = epoch_cells_encode(bot->sums->v, &l->part_bytes);
    if (st)
        return error_set(err, st, "could not encode what a bot learned");
    l->bots[l->n_parts] = bot;
    l->parts[l->n_parts++] = (struct store_part){
        .bot_name = bot->name,
        .jseq = p->jseq,
        .bytes = {NULL, l->part_bytes.len - offset},
    };
    bot->listed = true;
    return STATUS_OK;
}

static enum status page_list_add(struct partition *p, struct page_list *l, struct held_key *h,
                                 int64_t now_us, struct error *err)
{
    if (h->listed)
        return STATUS_OK;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct held_key **keys = realloc(l->keys, cap * sizeof(struct held_key *));
        if (keys)
            l->keys = keys;
        struct store_page *pages = realloc(l->pages, cap * sizeof(struct store_page));
        if (pages)
            l->pages = pages;
        if (!keys || !pages)
            return error_set(err, STATUS_NOMEM, "could not fold %zu pages", cap);
        l->cap = cap;
    }
    size_t offset = l->bytes.len;
    enum status st = partition_encode_page(h, &l->bytes);
    if (st)
        return error_set(err, st, "could not encode the page of key %" PRIu64, h->id);
    bool outbox = false;
    for (size_t t = 0; t < TABLE_COUNT; t++)
        outbox |= h->trigger[t].outbox;
    enum table_id table = 0;
    const struct key_log *log = key_log(h->key);
    l->keys[l->n] = h;
    l->pages[l->n++] = (struct store_page){
        .key_id = h->id,
        .partition = h->partition,
        .jseq = h->jseq,
        /* A row on its way must be looked at as soon as the state is opened again. */
        .due_us = outbox ? PAGE_DUE_OUTBOX : partition_due(p, h, now_us, &table).at_us,
        .user_id = log->user_id,
        .bot_name = log->bot_name,
        .bytes = {NULL, l->bytes.len - offset},
    };
    h->listed = true;
    return part_list_add(p, l, h->bot, err);
}

/* A key that was made again is not what its entries say: from here on its page is. */
static enum status list_replaced(struct partition *p, struct page_list *l, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < p->n_replaced && !st; i++) {
        struct held_key *h = keymap_find(&p->keys, p->replaced[i]);
        assert(h); /* keys only leave after a commit */
        st = page_list_add(p, l, h, p->replaced_us, err);
    }
    return st;
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Lists every key with entries that no page contains, in key order. */
static enum status start_fold(struct partition *p, struct error *err)
{
    free(p->fold_ids);
    p->fold_ids = malloc((p->keys.n + 1) * sizeof(uint64_t));
    p->n_fold = 0;
    p->fold_at = 0;
    if (!p->fold_ids)
        return error_set(err, STATUS_NOMEM, "could not fold %zu keys", p->keys.n);
    for (struct held_key *h = p->keys.oldest; h; h = h->newer)
        if (h->page_jseq < h->jseq)
            p->fold_ids[p->n_fold++] = h->id;
    qsort(p->fold_ids, p->n_fold, sizeof(uint64_t), compare_ids);
    p->fold_target = p->jseq;
    return STATUS_OK;
}

/* A slice of the folding pass; *ret_below is set when the pass is complete. */
static enum status fold_slice(struct partition *p, struct page_list *l, int64_t now_us,
                              uint64_t *ret_below, struct error *err)
{
    size_t slice = FOLD_SLICE;
    for (; p->fold_at < p->n_fold && slice > 0 && l->bytes.len < FOLD_BYTES; p->fold_at++) {
        struct held_key *h = keymap_find(&p->keys, p->fold_ids[p->fold_at]);
        /* A key that is no longer held was paged out, and so is folded. */
        if (!h || h->page_jseq >= h->jseq)
            continue;
        enum status st = page_list_add(p, l, h, now_us, err);
        if (st)
            return st;
        slice--;
    }
    if (p->fold_ids && p->fold_at == p->n_fold) {
        *ret_below = p->fold_target;
        free(p->fold_ids);
        p->fold_ids = NULL;
    }
    return STATUS_OK;
}

static bool evictable(const struct held_key *h)
{
    for (size_t t = 0; t < TABLE_COUNT; t++)
        if (h->sent_version[t])
            return false;
    return true;
}

/* The coldest keys that must be written before they can leave memory. */
static enum status evict_slice(struct partition *p, struct page_list *l, int64_t now_us,
                               struct error *err)
{
    if (partition_bytes(p) <= p->cfg.memory_max)
        return STATUS_OK;
    size_t excess = partition_bytes(p) - p->cfg.memory_max;
    size_t slice = EVICT_SLICE;
    for (struct held_key *h = p->keys.oldest; h && excess > 0 && slice > 0; h = h->newer) {
        if (!evictable(h))
            continue;
        excess -= h->bytes < excess ? h->bytes : excess;
        if (h->page_jseq >= h->jseq)
            continue;
        enum status st = page_list_add(p, l, h, now_us, err);
        if (st)
            return st;
        slice--;
    }
    return STATUS_OK;
}

/* Keys whose pages are up to date leave, coldest first, until the budget holds. Their timers stay
 * in the heap. */
static void evict(struct partition *p)
{
    struct held_key *next = NULL;
    for (struct held_key *h = p->keys.oldest; h && partition_bytes(p) > p->cfg.memory_max;
         h = next) {
        next = h->newer;
        if (h->page_jseq < h->jseq || !evictable(h))
            continue;
        partition_drop_key(p, h);
        COUNTER_ADD(keys_evicted, 1);
    }
}

/* ---- rows ---- */

static struct sink_character known_character(const struct held_key *h, enum table_id table)
{
    const struct metrics *m = key_log(h->key)->metrics;
    if (tables[table].by_window && m && m->has_character)
        return partition_character_of(m->character_us, &m->character);
    return h->reason[table] == FLUSH_CHARACTER ? h->bot->character : (struct sink_character){0};
}

static enum status build_item(struct partition *p, struct held_key *h, enum table_id table,
                              struct sink_item *item, struct error *err)
{
    *item = (struct sink_item){
        .key_id = h->id,
        .worker = p->cfg.worker,
        .table = table,
        .partition = h->partition,
        .commit_us = h->commit_us,
        .reason = flush_reason_name(h->reason[table]),
    };
    row_init(&item->row, &tables[table]);
    struct row *row = &item->row;
    /* First, so that what has expired by T does not count as a reason for a row. */
    enum status st = key_advance(h->key, p->as_of_us, err);
    if (!st && key_has_row(h->key, table)) {
        st = key_emit(h->key, table, p->as_of_us, row, err);
        item->payload_hash = st ? 0 : row_payload_hash(row);
    } else if (!st) {
        item->remove = true;
        st = row_set_key(row, key_log(h->key)->user_id, key_log(h->key)->bot_name);
        row->as_of_us = p->as_of_us;
    }
    if (st) {
        row_deinit(row);
        return st;
    }
    const struct consent *consent = &key_log(h->key)->consents[CONSENT_PROACTIVE];
    item->opted_out = consent->opted_out;
    item->told = consent->given && table == TABLE_ENGAGEMENT_OPPORTUNITIES;
    item->character = known_character(h, table);
    uint64_t held = h->trigger[table].payload_hash;
    /* What PostgreSQL is known to hold is valid, or was invalidated since, which is yet to come. */
    item->cleared_us = held ? 0 : h->trigger[table].cleared_us;
    item->touch = !item->remove && held != 0 && held == item->payload_hash;
    item->first = !item->remove && (held == 0 || h->reason[table] == FLUSH_WAKE);
    if (!tables[table].by_window)
        item->erased_us =
            partition_erased_token(p, key_log(h->key)->user_id, key_log(h->key)->bot_name);
    row->source_lsn = h->lsn;
    row->row_version = p->cfg.epoch << 40 | ++p->row_counter;
    return STATUS_OK;
}

/* Puts rows that were computed but not taken back into the outbox. */
static enum status requeue(struct partition *p, const struct sink_item *items, size_t n,
                           struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        struct held_key *h = keymap_find(&p->keys, items[i].key_id);
        assert(h);
        h->sent_version[items[i].table] = 0;
        p->in_flight--;
        enum status st = partition_queue_row(p, h, (enum table_id)items[i].table, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static struct row_times times_of(const struct row *row)
{
    return (struct row_times){row->valid_until_us, row->visit_from_us, row->visit_until_us};
}

/* Computes the next rows of the outbox from the state just made durable. */
static enum status submit_slice(struct partition *p, size_t room, bool *ret_more, struct error *err)
{
    struct sink_item items[SUBMIT_SLICE];
    size_t n = 0;
    enum status st = STATUS_OK;
    struct outbox_item next;
    while (n < SUBMIT_SLICE && n < room && outbox_pop(&p->outbox, &next)) {
        struct held_key *h = NULL;
        st = partition_load_key(p, next.key_id, &h, err);
        if (!st && !h->queued[next.table])
            continue; /* nothing is due for this table, or it stood in the queue twice */
        if (!st)
            st = build_item(p, h, (enum table_id)next.table, &items[n], err);
        if (st)
            break;
        h->queued[next.table] = false;
        if (h->sent_version[next.table] == 0)
            p->in_flight++;
        h->sent_version[next.table] = items[n].row.row_version;
        h->sent[next.table] = times_of(&items[n].row);
        n++;
    }
    *ret_more = n == SUBMIT_SLICE;
    if (!st && n > 0 && FAULT_POINT("rows_before_submit"))
        st = error_set(err, STATUS_IO, "fault point rows_before_submit");
    enum status submitted =
        n > 0 && !st ? p->cfg.sink.submit(p->cfg.sink.ctx, items, n) : STATUS_OK;
    if (submitted == STATUS_AGAIN) {
        *ret_more = false; /* another worker was faster: computed again later */
        st = requeue(p, items, n, err);
    } else if (submitted) {
        st = error_set(err, submitted, "could not hand %zu rows to the sink", n);
    }
    /* What PostgreSQL holds is not known until it has answered. */
    for (size_t i = 0; i < n && !st && !submitted; i++)
        keymap_find(&p->keys, items[i].key_id)->trigger[items[i].table].payload_hash = 0;
    if (st || submitted)
        for (size_t i = 0; i < n; i++)
            row_deinit(&items[i].row);
    return st;
}

enum status partition_submit(struct partition *p, struct error *err)
{
    assert(p->n_events == 0);
    /* In the middle of a change of day some epochs may be there and others not. */
    bool more = p->outbox.n > 0 && p->day.closed == p->day.opened;
    while (more) {
        size_t room = p->cfg.sink.room(p->cfg.sink.ctx) / p->cfg.workers;
        if (room == 0)
            return STATUS_OK;
        enum status st = submit_slice(p, room, &more, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status note_sent(struct partition *p, struct held_key *h, uint32_t table,
                             uint64_t payload_hash, struct error *err)
{
    struct trigger_state *s = &h->trigger[table];
    const struct row_times *times = &h->sent[table];
    partition_note_times(h, table, times);
    /* Flushed again meanwhile: the entry must outlive this answer. And what it says that PostgreSQL
     * holds may have been invalidated since: the next row is sent whole. */
    if (h->queued[table])
        return STATUS_OK;
    /* The same when somebody has asked for it, and it is about to be flushed. */
    if (s->requested == FLUSH_INVALIDATE || s->requested == FLUSH_RECOMPUTE)
        payload_hash = 0;
    s->payload_hash = payload_hash;
    s->outbox = false;
    keymap_track_dirty(&p->keys, h);
    struct entry e = {
        .kind = ENTRY_SENT,
        .key_id = h->id,
        .table = table,
        .payload_hash = payload_hash,
        .valid_us = times->valid_us,
        .visit_from_us = times->visit_from_us,
        .visit_until_us = times->visit_until_us,
    };
    return partition_journal(p, &e, h, err);
}

static enum status take_result(struct partition *p, const struct sink_result *r, int64_t now_us,
                               struct error *err)
{
    struct held_key *h = keymap_find(&p->keys, r->key_id);
    if (!h || h->sent_version[r->table] != r->row_version)
        return STATUS_OK; /* a newer row of the same key and table is on its way */
    h->sent_version[r->table] = 0;
    p->in_flight--;
    enum status st = STATUS_OK;
    switch (r->outcome) {
    case SINK_WRITTEN:
    case SINK_TOUCHED:
        st = note_sent(p, h, r->table, r->payload_hash, err);
        break;
    case SINK_MISSING:
        h->trigger[r->table].payload_hash = 0;
        st = partition_queue_row(p, h, (enum table_id)r->table, err);
        p->n_events++;
        break;
    case SINK_FAILED:
        st = partition_dead_letter(p, SOURCE_POSTGRES, (struct position){h->lsn, 0}, now_us,
                                   str_from(tables[r->table].name), str_from(r->reason), STR_NULL,
                                   err);
        if (!st)
            st = note_sent(p, h, r->table, 0, err);
        break;
    }
    return st ? st : partition_schedule(p, h, now_us, err);
}

enum status partition_take_results(struct partition *p, int64_t now_us, struct error *err)
{
    struct sink_result results[64];
    size_t n = sizeof(results) / sizeof(results[0]);
    while (n == sizeof(results) / sizeof(results[0])) {
        n = p->cfg.sink.poll(p->cfg.sink.ctx, p->cfg.worker, results, n);
        for (size_t i = 0; i < n; i++) {
            enum status st = take_result(p, &results[i], now_us, err);
            if (st)
                return st;
        }
    }
    return STATUS_OK;
}

/* ---- the commit ---- */

static void forget_committed(struct partition *p, const struct page_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        l->keys[i]->page_jseq = l->pages[i].jseq;
        l->keys[i]->listed = false;
    }
    partition_erase_committed(p);
    p->n_replaced = 0;
    p->n_inbox_keys = 0;
    for (size_t i = 0; i < l->n_parts; i++) {
        l->bots[i]->stored_jseq = l->parts[i].jseq;
        l->bots[i]->dirty = false;
        l->bots[i]->listed = false;
    }
    p->day = *store_day(p->cfg.store);
    p->n_new_epochs = 0;
    buf_reset(&p->new_epoch_bytes);
    for (size_t i = 0; i < p->n_dead_letters; i++)
        free(p->dead_letters[i].text);
    p->n_dead_letters = 0;
    buf_reset(&p->entries);
    p->n_entries = 0;
    p->n_events = 0;
    p->lazy = false;
    memcpy(p->covered_durable, p->covered, sizeof(p->covered_durable));
    COUNTER_ADD(commits, 1);
    COUNTER_ADD(pages_folded, l->n);
}

/* The lists a commit takes, with the strings that had no address while their buffers grew. */
static void settle_strings(struct page_list *l)
{
    size_t offset = 0;
    for (size_t i = 0; i < l->n; i++) {
        l->pages[i].bytes.ptr = l->bytes.data + offset;
        offset += l->pages[i].bytes.len;
    }
    offset = 0;
    for (size_t i = 0; i < l->n_parts; i++) {
        l->parts[i].bytes.ptr = l->part_bytes.data + offset;
        offset += l->parts[i].bytes.len;
    }
}

static void list_epochs(const struct partition *p, struct store_epoch *out)
{
    for (size_t i = 0; i < p->n_new_epochs; i++) {
        const struct new_epoch *n = &p->new_epochs[i];
        const char *at = p->new_epoch_bytes.data + n->at;
        out[i] = (struct store_epoch){
            .bot_name = {at, n->name_len},
            .day = n->day,
            .keep_day = n->day - EPOCH_STORED_DAYS,
            .bytes = {at + n->name_len, n->bytes_len},
        };
    }
}

/* Keys only leave after a commit. */
static void list_inbox_keys(struct partition *p, struct store_key *out)
{
    for (size_t i = 0; i < p->n_inbox_keys; i++) {
        const struct key_log *log = key_log(keymap_find(&p->keys, p->inbox_keys[i])->key);
        out[i] = (struct store_key){log->user_id, log->bot_name};
    }
}

struct day_change {
    int32_t close_day;
    int32_t open_day;
};

/* What every bot has been taught goes with the commit. */
static enum status list_parts(struct partition *p, struct page_list *l, struct error *err)
{
    enum status st = STATUS_OK;
    struct held_bot *b = botmap_next(&p->bots, NULL);
    for (; b && !st; b = botmap_next(&p->bots, b))
        st = part_list_add(p, l, b, err);
    return st;
}

static enum status commit_with(struct partition *p, struct page_list *l, uint64_t fold_below,
                               struct day_change day, struct error *err)
{
    enum status st = list_replaced(p, l, err);
    /* Entries that are erased cannot teach again. */
    if (!st && (day.close_day || p->erasing))
        st = list_parts(p, l, err);
    if (st)
        return st;
    struct store_dead_letter *letters = calloc(p->n_dead_letters + 1, sizeof(*letters));
    struct store_epoch *epochs = calloc(p->n_new_epochs + 1, sizeof(*epochs));
    struct store_key *inbox_keys = calloc(p->n_inbox_keys + 1, sizeof(*inbox_keys));
    struct store_erasure *erasures = calloc(p->n_erasures + 1, sizeof(*erasures));
    if (!letters || !epochs || !inbox_keys || !erasures) {
        free(erasures);
        free(letters);
        free(epochs);
        free(inbox_keys);
        return error_set(err, STATUS_NOMEM, "could not commit");
    }
    for (size_t i = 0; i < p->n_dead_letters; i++)
        letters[i] = p->dead_letters[i].record;
    list_epochs(p, epochs);
    list_inbox_keys(p, inbox_keys);
    settle_strings(l);
    struct store_erasing erase;
    size_t n_erasures = 0;
    partition_erase_list(p, &erase, erasures, &n_erasures);
    struct store_commit c = {
        .entries = {p->entries.data, p->entries.len},
        .n_entries = p->n_entries,
        .fold_below = fold_below,
        .as_of_us = p->as_of_us,
        .covered = p->covered[SOURCE_POSTGRES],
        .covered_inbox = p->covered[SOURCE_INBOX],
        .applied = (const struct store_applied(*)[LIMIT_PARTITIONS])p->applied,
        .pages = l->pages,
        .n_pages = l->n,
        .dead_letters = letters,
        .n_dead_letters = p->n_dead_letters,
        .next_key_id = p->next_key_id,
        .inbox_keys = inbox_keys,
        .n_inbox_keys = p->n_inbox_keys,
        .parts = l->parts,
        .n_parts = l->n_parts,
        .epochs = epochs,
        .n_epochs = p->n_new_epochs,
        .close_day = day.close_day,
        .open_day = day.open_day,
        .erase = p->erasing ? &erase : NULL,
        .erasures = erasures,
        .n_erasures = n_erasures,
    };
    st = store_commit(p->cfg.store, &c, err);
    free(letters);
    free(epochs);
    free(inbox_keys);
    free(erasures);
    if (!st)
        forget_committed(p, l);
    return st;
}

static enum status commit(struct partition *p, int64_t now_us, struct error *err)
{
    if (!p->fold_ids && store_journal_bytes(p->cfg.store) > LIMIT_JOURNAL_BYTES / 2) {
        enum status st = start_fold(p, err);
        if (st)
            return st;
    }
    CLEANUP(page_list_deinit) struct page_list l;
    page_list_init(&l);
    uint64_t fold_below = 0;
    enum status st = fold_slice(p, &l, now_us, &fold_below, err);
    if (!st)
        st = evict_slice(p, &l, now_us, err);
    if (!st)
        st = commit_with(p, &l, fold_below, (struct day_change){0}, err);
    return st;
}

enum status partition_commit_day(struct partition *p, int32_t close_day, int32_t open_day,
                                 struct error *err)
{
    CLEANUP(page_list_deinit) struct page_list l;
    page_list_init(&l);
    return commit_with(p, &l, 0, (struct day_change){close_day, open_day}, err);
}

enum status partition_commit(struct partition *p, int64_t now_us, struct error *err)
{
    enum status st = commit(p, now_us, err);
    if (!st)
        st = partition_submit(p, err);
    if (!st)
        evict(p);
    return st;
}

enum status partition_fold_all(struct partition *p, int64_t now_us, struct error *err)
{
    enum status st = start_fold(p, err);
    do
        st = st ? st : commit(p, now_us, err);
    while (!st && p->fold_ids);
    return st;
}

struct key_visit {
    struct partition *p;
    enum status (*fn)(void *ctx, struct key *key, struct error *err);
    void *ctx;
};

static enum status visit_page(void *ctx, const struct store_page *page, struct error *err)
{
    struct key_visit *v = ctx;
    struct reader r = reader_of(page->bytes.ptr, page->bytes.len);
    unsigned format = reader_u8(&r);
    uint64_t n = reader_varint(&r);
    for (uint64_t t = 0; t < n && !r.bad; t++) {
        struct trigger_state skipped;
        trigger_decode(&r, format, &skipped);
    }
    for (int i = 0; i < (format < 2 ? 1 : 4); i++) /* active_us, visit_from_us, .., commit_us */
        (void)reader_svarint(&r);
    (void)reader_varint(&r);
    CLEANUP(key_freep) struct key *key = NULL;
    enum status st = key_decode(reader_bytes(&r, reader_left(&r)), &key, err);
    struct held_bot *bot = NULL;
    if (!st)
        st = partition_hold_bot(v->p, key_log(key)->bot_name, &bot, err);
    if (st)
        return st;
    key_set_epochs(key, &bot->epochs);
    st = v->fn(v->ctx, key, err);
    partition_release_bot(v->p, bot);
    return st;
}

enum status partition_each_key(struct partition *p,
                               enum status (*fn)(void *ctx, struct key *key, struct error *err),
                               void *ctx, struct error *err)
{
    struct key_visit v = {p, fn, ctx};
    enum status st = partition_fold_all(p, p->as_of_us > 0 ? p->as_of_us : 1, err);
    return st ? st : store_each_page(p->cfg.store, visit_page, &v, err);
}
