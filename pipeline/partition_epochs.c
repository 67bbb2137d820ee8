/*
 * What a worker knows of bots as a whole: the lessons of the running day, and the closed epochs.
 *
 * Lessons are not journaled: an entry of the journal teaches again what it taught, so a bot's sums
 * are stored only together with key pages of that bot, which is when its entries need not be
 * applied again. Hence an entry that is not in the key's page is in no stored sums either, and
 * recovery adds the lesson of each such entry once.
 */
#include "pipeline/partition_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/counters.h"
#include "core/log.h"
#include "state/fault.h"

/* ---- holding bots ---- */

static enum status room_for_sums(struct held_bot *bot, struct error *err)
{
    if (!bot->sums)
        bot->sums = calloc(1, sizeof(*bot->sums));
    return bot->sums ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not allocate a bot's sums");
}

static enum status load_part(void *ctx, const struct store_part *part, struct error *err)
{
    struct held_bot *bot = ctx;
    struct epoch_sums sums;
    struct reader r = reader_of(part->bytes.ptr, part->bytes.len);
    enum status st = epoch_cells_decode(&r, sums.v, err);
    st = st ? st : room_for_sums(bot, err);
    if (st)
        return st;
    epoch_sums_merge(bot->sums, &sums);
    if (part->jseq > bot->stored_jseq)
        bot->stored_jseq = part->jseq;
    return STATUS_OK;
}

static enum status decode_epoch(const struct store_epoch *row, struct epoch **ret,
                                struct error *err)
{
    struct epoch *e = malloc(sizeof(*e));
    if (!e)
        return error_set(err, STATUS_NOMEM, "could not allocate an epoch");
    e->day = row->day;
    struct reader r = reader_of(row->bytes.ptr, row->bytes.len);
    enum status st = epoch_cells_decode(&r, e->v, err);
    if (st)
        free(e);
    else
        *ret = e;
    return st;
}

struct epoch_walk {
    struct held_bot *bot;
    int32_t oldest; /* nothing before the newest at or before this day is needed */
};

/* Newest first, until no record of the window can ask for an older one. */
static enum status load_epoch(void *ctx, const struct store_epoch *row, struct error *err)
{
    struct epoch_walk *w = ctx;
    struct epoch *e = NULL;
    enum status st = decode_epoch(row, &e, err);
    if (!st && epoch_list_add(&w->bot->epochs, e))
        st = error_set(err, STATUS_NOMEM, "could not allocate the epochs of a bot");
    if (st)
        return st;
    if (w->oldest == 0)
        w->oldest = row->day - EPOCH_KEPT_DAYS;
    return row->day <= w->oldest ? STATUS_END : STATUS_OK;
}

enum status partition_hold_bot(struct partition *p, struct str name, struct held_bot **ret,
                               struct error *err)
{
    *ret = botmap_find(&p->bots, name);
    if (*ret)
        return STATUS_OK;
    struct held_bot *bot = NULL;
    if (botmap_add(&p->bots, name, &bot))
        return error_set(err, STATUS_NOMEM, "could not hold a bot");
    bot->stored_jseq = p->day.closed_jseq;
    struct epoch_walk walk = {.bot = bot};
    enum status st = store_bot_parts(p->cfg.store, name, load_part, bot, err);
    if (!st)
        st = store_bot_epochs(p->cfg.store, name, p->day.opened, load_epoch, &walk, err);
    if (st) {
        botmap_remove(&p->bots, bot);
        return st;
    }
    botmap_measure(&p->bots, bot);
    *ret = bot;
    return STATUS_OK;
}

void partition_release_bot(struct partition *p, struct held_bot *bot)
{
    if (bot->n_keys == 0 && !bot->dirty && partition_bytes(p) > p->cfg.memory_max)
        botmap_remove(&p->bots, bot);
}

enum status partition_teach(struct partition *p, struct held_bot *bot,
                            const struct epoch_delta *delta, struct error *err)
{
    if (delta->n == 0)
        return STATUS_OK;
    if (!bot->sums) {
        enum status st = room_for_sums(bot, err);
        if (st)
            return st;
        botmap_measure(&p->bots, bot);
    }
    epoch_sums_add(bot->sums, delta);
    bot->dirty = true;
    return STATUS_OK;
}

/* ---- the change of day ---- */

enum status partition_close_day(struct partition *p, int32_t day, struct error *err)
{
    if (day <= p->day.closed)
        return STATUS_OK;
    if (p->day.closed > p->day.opened)
        return error_set(err, STATUS_PROTOCOL, "day %d is to be closed before day %d was opened",
                         (int)day, (int)p->day.closed);
    if (FAULT_POINT("day_before_close"))
        return error_set(err, STATUS_IO, "fault point day_before_close");
    enum status st = partition_commit_day(p, day, 0, err);
    if (st)
        return st;
    for (struct held_bot *b = botmap_next(&p->bots, NULL); b; b = botmap_next(&p->bots, b)) {
        free(b->sums);
        b->sums = NULL;
        b->stored_jseq = p->day.closed_jseq;
        assert(!b->dirty);
        botmap_measure(&p->bots, b);
    }
    if (FAULT_POINT("day_closed"))
        return error_set(err, STATUS_IO, "fault point day_closed");
    return STATUS_OK;
}

enum status partition_day_parts(struct partition *p, int32_t day, store_part_fn *fn, void *ctx,
                                struct error *err)
{
    assert(day <= p->day.closed);
    return store_day_parts(p->cfg.store, day, fn, ctx, err);
}

struct newest {
    struct epoch *epoch;
};

static enum status take_newest(void *ctx, const struct store_epoch *row, struct error *err)
{
    struct newest *n = ctx;
    enum status st = decode_epoch(row, &n->epoch, err);
    return st ? st : STATUS_END;
}

static enum status keep_pending(struct partition *p, struct str bot, const struct epoch *e,
                                struct error *err)
{
    if (p->n_new_epochs == p->cap_new_epochs) {
        size_t cap = p->cap_new_epochs ? p->cap_new_epochs * 2 : 16;
        struct new_epoch *grown = realloc(p->new_epochs, cap * sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not keep an epoch");
        p->new_epochs = grown;
        p->cap_new_epochs = cap;
    }
    struct buf *b = &p->new_epoch_bytes;
    struct new_epoch *n = &p->new_epochs[p->n_new_epochs];
    *n = (struct new_epoch){.day = e->day, .at = b->len, .name_len = bot.len};
    enum status st = buf_append(b, bot.ptr, bot.len);
    st = st ? st : epoch_cells_encode(e->v, b);
    if (st)
        return error_set(err, st, "could not keep an epoch");
    n->bytes_len = b->len - n->at - n->name_len;
    p->n_new_epochs++;
    return STATUS_OK;
}

enum status partition_learned(struct partition *p, int32_t day, struct str bot,
                              const struct epoch_sums *sums, struct error *err)
{
    if (day <= p->day.opened)
        return STATUS_OK;
    if (day != p->day.closed)
        return error_set(err, STATUS_PROTOCOL, "day %d is to be opened, but %d was closed",
                         (int)day, (int)p->day.closed);
    struct newest before = {NULL};
    enum status st = store_bot_epochs(p->cfg.store, bot, day - 1, take_newest, &before, err);
    struct epoch *e = NULL;
    if (!st && epoch_close(before.epoch, sums, day, &e))
        st = error_set(err, STATUS_NOMEM, "could not close the epoch of a bot");
    if (!st)
        st = keep_pending(p, bot, e, err);
    free(before.epoch);
    free(e);
    if (!st)
        p->n_events += EPOCH_WEIGHT;
    return st;
}

/* Shows the bot's epoch of the day just opened to its keys. */
static enum status show_epoch(void *ctx, const struct store_epoch *row, struct error *err)
{
    const struct epoch_walk *w = ctx;
    if (row->day < w->oldest)
        return STATUS_END; /* the bot learned nothing that day */
    struct epoch *e = NULL;
    enum status st = decode_epoch(row, &e, err);
    if (!st && epoch_list_add(&w->bot->epochs, e))
        st = error_set(err, STATUS_NOMEM, "could not allocate the epochs of a bot");
    return st ? st : STATUS_END;
}

enum status partition_open_day(struct partition *p, int32_t day, struct error *err)
{
    if (day <= p->day.opened)
        return STATUS_OK;
    if (day != p->day.closed)
        return error_set(err, STATUS_PROTOCOL, "day %d is to be opened, but %d was closed",
                         (int)day, (int)p->day.closed);
    if (FAULT_POINT("day_before_open"))
        return error_set(err, STATUS_IO, "fault point day_before_open");
    /* Its first moment: what is computed from the new epochs must not claim an earlier one. */
    if (p->as_of_us < day * US_PER_DAY)
        p->as_of_us = day * US_PER_DAY;
    enum status st = partition_commit_day(p, 0, day, err);
    for (struct held_bot *b = botmap_next(&p->bots, NULL); b && !st; b = botmap_next(&p->bots, b)) {
        struct epoch_walk walk = {.bot = b, .oldest = day};
        st = store_bot_epochs(p->cfg.store, b->name, day, show_epoch, &walk, err);
        botmap_measure(&p->bots, b);
    }
    if (!st && FAULT_POINT("day_opened"))
        st = error_set(err, STATUS_IO, "fault point day_opened");
    return st ? st : partition_submit(p, err);
}
