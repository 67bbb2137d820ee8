/*
 * pipeline/router_day.c - the change of day (pipeline/partition.h), when T is about to leave its
 * day. While it lasts T stands still at the end of the old day and events wait with the reader,
 * which goes on telling the server what is durable.
 *   FLUSHING  everything sent is made durable: what a crash brings back cannot belong to a day that
 *             some worker has closed
 *   CLOSING   CLOSE went to every worker; their parts are added up
 *   OPENING   the sums of all bots and then DAY go to every worker
 */
#include "pipeline/router_internal.h"

#include <assert.h>

#include "core/log.h"
#include "engines/kernels.h"

/* A change of day for which nothing is heard this long is helped along. */
#define KNOCK_US (5 * US_PER_SECOND)

int64_t router_day_end(int32_t day)
{
    return (day + 1) * US_PER_DAY - 1;
}

static void start_turn(struct router *r, int32_t day)
{
    r->turn = TURN_FLUSHING;
    r->turn_day = day;
    r->turn_us = clock_mono_us(r->cfg.clock);
    day_sums_deinit(&r->sums);
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        struct outgoing *o = &r->out[i];
        o->control_number = 0;
        o->answered = false;
        o->next_bot = 0;
        o->day_sent = false;
    }
}

void router_day_settle(struct router *r)
{
    int32_t opened[LIMIT_WORKERS];
    int32_t closed[LIMIT_WORKERS];
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        if (!r->out[i].greeted)
            return; /* this is called again */
        opened[i] = r->out[i].opened;
        closed[i] = r->out[i].closed;
    }
    int32_t day = day_unfinished(opened, closed, r->cfg.workers);
    if (!day && r->turn == TURN_NONE)
        return;
    r->turn_again = true;
    start_turn(r, day ? day : r->turn_day);
}

enum status router_day_answer(struct router *r, struct outgoing *o, const struct frame_header *h,
                              struct error *err)
{
    if (r->turn != TURN_CLOSING || h->number != o->control_number || o->answered)
        return STATUS_OK;
    r->turn_us = clock_mono_us(r->cfg.clock);
    if (h->kind == FRAME_CLOSED) {
        o->answered = h->n == o->n_parts;
        if (!o->answered)
            start_turn(r, r->turn_day);
        return STATUS_OK;
    }
    for (uint32_t i = 0; i < h->n; i++) {
        struct frame_sums s;
        enum status st = frame_next_sums(&r->reader, &s, err);
        if (!st)
            st = day_sums_add(&r->sums, s.bot_name, s.bytes, err);
        if (st)
            return st;
    }
    o->n_parts += h->n;
    return STATUS_OK;
}

/* Sends FLUSH or CLOSE, with all events before it. AGAIN: no credit. */
static enum status send_control(struct router *r, struct outgoing *o, enum frame_kind kind,
                                int64_t now_us, struct error *err)
{
    if (!router_has_credit(o))
        return STATUS_AGAIN;
    enum status st = o->n > 0 ? router_send_events(r, o, now_us, err) : STATUS_OK;
    if (!st)
        st = router_send(r, o, kind, now_us, err);
    if (st)
        return st;
    o->control_number = o->number;
    o->n_parts = 0;
    r->turn_us = now_us;
    return STATUS_OK;
}

/* Moves on when every worker has acknowledged its FLUSH, and then when it has answered CLOSE. */
static enum status gather(struct router *r, enum frame_kind kind, int64_t now_us, struct error *err)
{
    bool all = true;
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        struct outgoing *o = &r->out[i];
        enum status st = o->control_number ? STATUS_OK : send_control(r, o, kind, now_us, err);
        if (st && st != STATUS_AGAIN)
            return st;
        bool done = kind == FRAME_FLUSH ? o->acked >= o->control_number : o->answered;
        all &= !st && done;
    }
    if (!all)
        return STATUS_AGAIN;
    r->turn = kind == FRAME_FLUSH ? TURN_CLOSING : TURN_OPENING;
    for (uint32_t i = 0; i < r->cfg.workers; i++)
        r->out[i].control_number = 0;
    return STATUS_OK;
}

/* All sums and DAY to one worker. AGAIN: no credit. */
static enum status send_day(struct router *r, struct outgoing *o, int64_t now_us, struct error *err)
{
    while (!o->day_sent) {
        if (!router_has_credit(o))
            return STATUS_AGAIN;
        assert(o->n == 0); /* every event went with FLUSH */
        enum status st = STATUS_OK;
        size_t at = o->next_bot;
        for (; !st && at < r->sums.n && o->body.len < LIMIT_FRAME_BYTES; at++, o->n++) {
            buf_reset(&r->scratch);
            st = epoch_cells_encode(r->sums.bots[at].sums->v, &r->scratch);
            struct frame_sums s = {r->sums.bots[at].name, {r->scratch.data, r->scratch.len}};
            st = st ? st : frame_put_sums(&o->body, &s);
        }
        if (st)
            return error_set(err, st, "could not build a frame");
        bool last = o->n == 0;
        st = router_send(r, o, last ? FRAME_DAY : FRAME_SUMS, now_us, err);
        if (st) {
            o->n = 0;
            buf_reset(&o->body);
            return st;
        }
        o->next_bot = at;
        o->day_sent = last;
        r->turn_us = now_us;
    }
    return STATUS_OK;
}

static enum status open_day(struct router *r, int64_t now_us, struct error *err)
{
    bool all = true;
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        enum status st = send_day(r, &r->out[i], now_us, err);
        if (st && st != STATUS_AGAIN)
            return st;
        all &= st == STATUS_OK;
    }
    if (!all)
        return STATUS_AGAIN;
    log_write(LOG_INFO, "epochs", "the day has changed day=%d bots=%zu", (int)r->turn_day,
              r->sums.n);
    /* Nothing has been learned since all closed, so that days without events need no turn. */
    int64_t t_us = router_source_time(r, now_us);
    int32_t day = r->turn_again || t_us < r->day_end_us ? r->turn_day : kernel_day(t_us);
    if (r->day_end_us < router_day_end(day))
        r->day_end_us = router_day_end(day);
    r->turn = TURN_NONE;
    day_sums_deinit(&r->sums);
    return STATUS_OK;
}

/* Nothing was heard for long: a FLUSH shows a worker that it has missed a frame, and an answer that
 * was lost is asked for again. */
static enum status knock(struct router *r, int64_t now_us, struct error *err)
{
    if (now_us - r->turn_us < KNOCK_US)
        return STATUS_OK;
    log_write(LOG_WARN, "epochs", "a change of day takes long day=%d step=%d", (int)r->turn_day,
              (int)r->turn);
    start_turn(r, r->turn_day);
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        enum status st = send_control(r, &r->out[i], FRAME_FLUSH, now_us, err);
        if (st && st != STATUS_AGAIN)
            return st;
    }
    return STATUS_OK;
}

enum status router_day_follow(struct router *r, int64_t until_us, int64_t now_us, struct error *err)
{
    if (r->turn == TURN_NONE && until_us <= r->day_end_us)
        return STATUS_OK;
    if (r->turn == TURN_NONE) {
        r->turn_again = false;
        start_turn(r, kernel_day(r->day_end_us) + 1);
    }
    uint64_t starts = r->starts;
    enum status st = router_receive(r, now_us, err);
    if (!st && r->starts != starts)
        return STATUS_AGAIN; /* the next event will tell its source */
    if (!st)
        st = knock(r, now_us, err);
    if (!st && r->turn == TURN_FLUSHING)
        st = gather(r, FRAME_FLUSH, now_us, err);
    if (!st && r->turn == TURN_CLOSING)
        st = gather(r, FRAME_CLOSE, now_us, err);
    if (!st && r->turn == TURN_OPENING)
        st = open_day(r, now_us, err);
    return st;
}
