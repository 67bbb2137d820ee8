#include "ingest/feedback.h"

#include "core/clock.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

static lsn_t lsn_max(lsn_t a, lsn_t b)
{
    return a > b ? a : b;
}

void feedback_start(struct feedback *f, lsn_t start, int64_t now_us)
{
    *f = (struct feedback){.start = start, .flushed = start, .written = start, .sent_us = now_us};
}

bool feedback_may_idle(const struct feedback *f, lsn_t wal_end)
{
    /* An end that is already handed on, as a COMMIT or before, says nothing new. */
    return !f->in_transaction && !f->outstanding && wal_end > f->idle && wal_end > f->committed &&
           wal_end > f->start;
}

struct feedback_report feedback_report(const struct feedback *f, lsn_t durable)
{
    /* A claim beyond what was handed on can only be a bug above: never pass it on. */
    lsn_t handed_on = lsn_max(f->start, lsn_max(f->committed, f->idle));
    lsn_t flush = durable < handed_on ? durable : handed_on;
    struct feedback_report r;
    r.flush = lsn_max(flush, f->flushed);
    r.apply = r.flush;
    r.write = lsn_max(lsn_max(f->received, f->written), r.apply);
    assert(r.write >= r.apply);
    assert(r.apply >= r.flush);
    assert(r.flush >= f->flushed);
    return r;
}

int64_t feedback_wait_us(const struct feedback *f, int64_t interval_us, int64_t now_us)
{
    int64_t left = f->sent_us + interval_us - now_us;
    return f->reply_requested || left < 0 ? 0 : left;
}

bool feedback_is_due(const struct feedback *f, int64_t interval_us, int64_t now_us)
{
    return feedback_wait_us(f, interval_us, now_us) == 0;
}

void feedback_sent(struct feedback *f, const struct feedback_report *report, int64_t now_us)
{
    assert(report->flush >= f->flushed);
    f->flushed = report->flush;
    f->written = report->write;
    f->sent_us = now_us;
    f->reply_requested = false;
}

static uint8_t *put_be64(uint8_t *at, uint64_t value)
{
    uint64_t be = htobe64(value);
    memcpy(at, &be, sizeof(be));
    return at + sizeof(be);
}

void feedback_encode(const struct feedback_report *report, int64_t wall_us, bool ping,
                     uint8_t out[FEEDBACK_BYTES])
{
    uint8_t *at = out;
    *at++ = 'r';
    at = put_be64(at, report->write);
    at = put_be64(at, report->flush);
    at = put_be64(at, report->apply);
    at = put_be64(at, (uint64_t)(wall_us - US_POSTGRES_EPOCH));
    *at++ = ping;
    assert(at - out == FEEDBACK_BYTES);
}

void watchdog_heard(struct watchdog *w, int64_t now_us)
{
    w->heard_us = now_us;
    w->asked_us = 0;
}

enum watchdog_action watchdog_check(struct watchdog *w, int64_t silence_us, int64_t answer_us,
                                    int64_t now_us)
{
    if (w->asked_us)
        return now_us - w->asked_us >= answer_us ? WATCHDOG_DEAD : WATCHDOG_WAIT;
    if (now_us - w->heard_us < silence_us)
        return WATCHDOG_WAIT;
    w->asked_us = now_us;
    return WATCHDOG_ASK;
}

int64_t backoff_next(int64_t previous_us, int64_t min_us, int64_t max_us, uint64_t random)
{
    assert(min_us > 0 && min_us <= max_us);
    int64_t previous = previous_us > min_us ? previous_us : min_us;
    int64_t high = previous > max_us / 3 ? max_us : previous * 3;
    if (high < min_us)
        high = min_us;
    return min_us + (int64_t)(random % (uint64_t)(high - min_us + 1));
}
