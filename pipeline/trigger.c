#include "pipeline/trigger.h"

#include "core/clock.h"

#include <assert.h>

#define TRUSTED_US US_PER_DAY /* an older row may have been deleted */

const char *flush_reason_name(enum flush_reason reason)
{
    static const char *const names[] = {
        [FLUSH_NONE] = "none",
        [FLUSH_COUNT] = "count",
        [FLUSH_AGE] = "age",
        [FLUSH_IDLE] = "idle",
        [FLUSH_PREDICATE] = "predicate",
        [FLUSH_RETRACTION] = "retraction",
        [FLUSH_TOUCH] = "touch",
        [FLUSH_RECOMPUTE] = "recompute",
        [FLUSH_INVALIDATE] = "invalidate",
        [FLUSH_WAKE] = "wake",
        [FLUSH_VALIDITY] = "validity",
        [FLUSH_VISIT] = "visit",
        [FLUSH_REFRESH] = "refresh",
        [FLUSH_STOP] = "stop",
        [FLUSH_REBUILD] = "rebuild",
        [FLUSH_CHARACTER] = "character",
    };
    assert((unsigned)reason < sizeof(names) / sizeof(names[0]));
    return names[reason];
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void trigger_note(struct trigger_state *s, uint32_t weight, bool urgent, int64_t now_us)
{
    assert(now_us > 0);
    if (s->first_us == 0)
        s->first_us = now_us;
    s->last_us = now_us;
    s->count += weight;
    s->urgent |= urgent;
}

void trigger_note_context(struct trigger_state *s, int64_t now_us)
{
    assert(now_us > 0);
    if (s->first_us == 0)
        s->first_us = now_us;
}

void trigger_withdraw(struct trigger_state *s)
{
    assert(s->first_us);
    s->withdrawn = true;
}

static enum flush_reason reason_of(enum request_op op)
{
    switch (op) {
    case REQUEST_INVALIDATE:
        return FLUSH_INVALIDATE;
    case REQUEST_RECOMPUTE:
        return FLUSH_RECOMPUTE;
    case REQUEST_TOUCH:
        break;
    }
    return FLUSH_TOUCH;
}

void trigger_request(struct trigger_state *s, enum request_op op, int64_t token_us,
                     int64_t young_us, int64_t now_us)
{
    if (op == REQUEST_INVALIDATE)
        s->cleared_us = later(s->cleared_us, token_us);
    bool young = s->outbox || now_us - s->flushed_us < young_us;
    if (op == REQUEST_TOUCH && (young || (!s->flushed_us && !s->first_us)))
        return;
    enum flush_reason reason = reason_of(op);
    if (op != REQUEST_TOUCH)
        s->payload_hash = 0; /* the whole row, whatever PostgreSQL holds */
    if (reason > s->requested)
        s->requested = reason;
}

void trigger_set_back(struct trigger_state *s, int64_t now_us)
{
    s->first_us = earlier(s->first_us, now_us);
    s->last_us = earlier(s->last_us, now_us);
    s->flushed_us = earlier(s->flushed_us, now_us);
}

void trigger_outdated(struct trigger_state *s, int64_t now_us)
{
    s->first_us = s->first_us > now_us ? 1 : s->first_us;
    s->flushed_us = s->flushed_us > now_us ? 1 : s->flushed_us;
    s->last_us = earlier(s->last_us, now_us);
}

void trigger_flush(struct trigger_state *s, int64_t now_us)
{
    /* Rows that nobody has written for so long may be deleted. */
    if (now_us - s->flushed_us > TRUSTED_US)
        s->payload_hash = 0;
    s->first_us = 0;
    s->count = 0;
    s->urgent = false;
    s->withdrawn = false;
    s->requested = FLUSH_NONE;
    s->flushed_us = now_us;
    s->outbox = true;
}

/* The age at which a row is renewed. Deterministic jitter: the same after a restart, and herds of
 * keys spread out. */
static int64_t jitter_us(const struct trigger_policy *p, const struct trigger_key *key)
{
    return p->refresh_jitter_us > 0 ? (int64_t)(key->hash % (uint64_t)p->refresh_jitter_us) : 0;
}

static int64_t refresh_at(const struct trigger_state *s, const struct trigger_policy *p,
                          const struct trigger_key *key, int64_t now_us)
{
    return earlier(s->flushed_us, now_us) + p->refresh_us + jitter_us(p, key);
}

/* A dirty key: the earliest of age, count, predicate, idle and refresh. */
static struct trigger_due next_dirty(const struct trigger_state *s, const struct trigger_policy *p,
                                     const struct trigger_key *key, bool catching_up,
                                     int64_t now_us)
{
    if (s->withdrawn)
        return (struct trigger_due){earlier(s->last_us, now_us), FLUSH_RETRACTION};
    struct trigger_due due = {earlier(s->first_us, now_us) + p->max_age_us, FLUSH_AGE};
    if (catching_up)
        return due;
    int64_t floor_us = 0;
    if (s->flushed_us && p->min_interval_us)
        floor_us = earlier(s->flushed_us, now_us) + p->min_interval_us;
    int64_t at_once = later(earlier(s->last_us, now_us), floor_us);
    if (p->count && s->count >= p->count && at_once < due.at_us)
        due = (struct trigger_due){at_once, FLUSH_COUNT};
    else if (s->urgent && at_once < due.at_us)
        due = (struct trigger_due){at_once, FLUSH_PREDICATE};
    int64_t idle = later(earlier(s->last_us, now_us) + p->idle_us, floor_us);
    if (p->idle_us && s->last_us >= s->first_us && idle < due.at_us)
        due = (struct trigger_due){idle, FLUSH_IDLE};
    if (!p->refresh_us)
        return due;
    int64_t first_us = earlier(s->first_us, now_us);
    int64_t renew = s->flushed_us ? refresh_at(s, p, key, now_us) : first_us;
    if (renew <= first_us)
        return (struct trigger_due){first_us, FLUSH_WAKE};
    return renew < due.at_us ? (struct trigger_due){renew, FLUSH_REFRESH} : due;
}

/* A row that shows everything there is. */
static struct trigger_due next_clean(const struct trigger_state *s, const struct trigger_policy *p,
                                     const struct trigger_key *key, int64_t now_us)
{
    struct trigger_due due = {TRIGGER_NEVER, FLUSH_NONE};
    if (!s->flushed_us || !p->refresh_us || s->outbox)
        return due;
    int64_t active_us = earlier(key->active_us, now_us);
    int64_t renew = refresh_at(s, p, key, now_us);
    if (renew <= active_us + p->warm_us)
        return (struct trigger_due){renew, FLUSH_REFRESH};
    int64_t end_us = active_us + p->recent_us;
    if (s->valid_us) {
        int64_t at = later(renew, s->valid_us + jitter_us(p, key));
        if (at <= end_us)
            due = (struct trigger_due){at, FLUSH_VALIDITY};
    }
    int64_t visit = later(renew, key->visit_from_us);
    if (visit < key->visit_until_us && visit <= end_us && visit < due.at_us)
        due = (struct trigger_due){visit, FLUSH_VISIT};
    return due;
}

/* The smaller one, where 0 stands for never. */
static int64_t sooner(int64_t a, int64_t b)
{
    if (a == 0 || b == 0)
        return a + b;
    return a < b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

struct trigger_policy trigger_either(const struct trigger_policy *a, const struct trigger_policy *b)
{
    return (struct trigger_policy){
        .count = (uint32_t)sooner(a->count, b->count),
        .max_age_us = smaller(a->max_age_us, b->max_age_us),
        .idle_us = sooner(a->idle_us, b->idle_us),
        .min_interval_us = smaller(a->min_interval_us, b->min_interval_us),
        .refresh_us = sooner(a->refresh_us, b->refresh_us),
        .refresh_jitter_us = smaller(a->refresh_jitter_us, b->refresh_jitter_us),
        .warm_us = a->warm_us > b->warm_us ? a->warm_us : b->warm_us,
        .recent_us = a->recent_us > b->recent_us ? a->recent_us : b->recent_us,
    };
}

struct trigger_due trigger_next(const struct trigger_state *s, const struct trigger_policy *p,
                                const struct trigger_key *key, bool catching_up, int64_t now_us)
{
    if (s->requested)
        return (struct trigger_due){now_us, s->requested};
    return s->first_us ? next_dirty(s, p, key, catching_up, now_us) : next_clean(s, p, key, now_us);
}

enum status trigger_encode(const struct trigger_state *s, struct buf *out)
{
    enum status st = buf_put_svarint(out, s->first_us);
    if (!st)
        st = buf_put_svarint(out, s->last_us);
    if (!st)
        st = buf_put_svarint(out, s->flushed_us);
    if (!st)
        st = buf_put_u64(out, s->payload_hash);
    if (!st)
        st = buf_put_varint(out, s->count);
    if (!st)
        st = buf_put_u8(out, (uint8_t)(s->urgent | s->outbox << 1 | s->withdrawn << 2));
    if (!st)
        st = buf_put_u8(out, (uint8_t)s->requested);
    if (!st)
        st = buf_put_svarint(out, s->cleared_us);
    return st ? st : buf_put_svarint(out, s->valid_us);
}

void trigger_decode(struct reader *r, unsigned format, struct trigger_state *ret)
{
    ret->first_us = reader_svarint(r);
    ret->last_us = reader_svarint(r);
    ret->flushed_us = reader_svarint(r);
    ret->payload_hash = reader_u64(r);
    ret->count = (uint32_t)reader_varint(r);
    uint8_t bits = reader_u8(r);
    ret->urgent = bits & 1;
    ret->outbox = bits & 2;
    ret->withdrawn = bits & 4;
    ret->requested = FLUSH_NONE;
    ret->cleared_us = 0;
    ret->valid_us = 0;
    if (format < 2)
        return;
    ret->requested = (enum flush_reason)reader_u8(r);
    ret->cleared_us = reader_svarint(r);
    ret->valid_us = reader_svarint(r);
    if (ret->requested >= FLUSH_REASONS)
        r->bad = true;
}
