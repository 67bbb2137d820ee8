#include "ingest/rebuild_feed.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum feed_state {
    FEED_IDLE,
    FEED_OPEN,      /* the low watermark has not come */
    FEED_RECORDING, /* between the watermarks */
    FEED_HANDING,   /* at the high one: rows belongs to the reader */
    FEED_HANDED,    /* all of it; the transaction has not ended */
    FEED_COMMITTED,
    FEED_OVERFLOW,
    FEED_UNSEEN,
    FEED_LOST,
};

/* How far back somebody may still not have seen a transaction: a moment, at any rate of them. */
#define TRANSACTIONS 16384

enum request { REQUEST_NONE, REQUEST_WANTED, REQUEST_TAKEN, REQUEST_STORED };

struct rebuild_feed {
    pthread_mutex_t lock;
    enum feed_state state;
    char token[REBUILD_TOKEN_BYTES];
    uint32_t types, tables;
    struct rebuild_chunk *rows;     /* NULL until given */
    struct rebuild_chunk *recorded; /* while there is a chunk; the reader's from FEED_OPEN on */
    lsn_t end_lsn;
    uint64_t keys;
    uint64_t sessions;
    enum request request;
    char reason[128];

    /* The reader's alone: the newest transactions, how many there were when the low watermark came,
     * and where it stands in rows. */
    uint32_t xids[TRANSACTIONS];
    uint64_t n_xids;
    uint64_t low_xids;
    size_t index;
    enum rebuild_step step;
};

enum status rebuild_feed_new(struct rebuild_feed **ret, struct error *err)
{
    struct rebuild_feed *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, STATUS_NOMEM, "could not allocate the feed of rebuilt keys");
    pthread_mutex_init(&f->lock, NULL);
    *ret = f;
    return STATUS_OK;
}

static void drop_chunks(struct rebuild_feed *f)
{
    rebuild_chunk_free(f->rows);
    rebuild_chunk_free(f->recorded);
    f->rows = NULL;
    f->recorded = NULL;
}

void rebuild_feed_free(struct rebuild_feed *f)
{
    if (!f)
        return;
    drop_chunks(f);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- the thread that rebuilds ---- */

void rebuild_feed_open(struct rebuild_feed *f, const struct rebuild_open *o)
{
    pthread_mutex_lock(&f->lock);
    assert(f->state == FEED_IDLE);
    (void)snprintf(f->token, sizeof(f->token), "%s", o->token);
    f->types = o->types;
    f->tables = o->tables;
    f->recorded = o->recorded;
    f->state = FEED_OPEN;
    pthread_mutex_unlock(&f->lock);
}

void rebuild_feed_give(struct rebuild_feed *f, struct rebuild_chunk *rows)
{
    pthread_mutex_lock(&f->lock);
    assert(!f->rows);
    f->rows = rows;
    pthread_mutex_unlock(&f->lock);
}

enum rebuild_outcome rebuild_feed_outcome(struct rebuild_feed *f, lsn_t *ret_end,
                                          uint64_t *ret_keys)
{
    enum rebuild_outcome outcome = REBUILD_WAITING;
    pthread_mutex_lock(&f->lock);
    if (f->state == FEED_COMMITTED)
        outcome = REBUILD_HANDED_ON;
    else if (f->state == FEED_OVERFLOW)
        outcome = REBUILD_OVERFLOW;
    else if (f->state == FEED_UNSEEN)
        outcome = REBUILD_UNSEEN;
    else if (f->state == FEED_LOST)
        outcome = REBUILD_LOST;
    *ret_end = f->end_lsn;
    *ret_keys = f->keys;
    pthread_mutex_unlock(&f->lock);
    return outcome;
}

uint64_t rebuild_feed_sessions(struct rebuild_feed *f)
{
    pthread_mutex_lock(&f->lock);
    uint64_t n = f->sessions;
    pthread_mutex_unlock(&f->lock);
    return n;
}

void rebuild_feed_close(struct rebuild_feed *f)
{
    pthread_mutex_lock(&f->lock);
    /* What the reader is handing on is the reader's; it is not looked at again. */
    if (f->state != FEED_HANDING) {
        drop_chunks(f);
        f->state = FEED_IDLE;
    }
    pthread_mutex_unlock(&f->lock);
}

bool rebuild_feed_wanted(struct rebuild_feed *f, char *ret_reason, size_t size)
{
    pthread_mutex_lock(&f->lock);
    bool wanted = f->request == REQUEST_WANTED;
    if (wanted) {
        f->request = REQUEST_TAKEN;
        (void)snprintf(ret_reason, size, "%s", f->reason);
    }
    pthread_mutex_unlock(&f->lock);
    return wanted;
}

void rebuild_feed_stored(struct rebuild_feed *f)
{
    pthread_mutex_lock(&f->lock);
    if (f->request == REQUEST_TAKEN)
        f->request = REQUEST_STORED;
    pthread_mutex_unlock(&f->lock);
}

/* ---- the reader ---- */

static void lose(struct rebuild_feed *f)
{
    if (f->state != FEED_IDLE)
        f->state = FEED_LOST;
}

void rebuild_feed_session(struct rebuild_feed *f)
{
    pthread_mutex_lock(&f->lock);
    f->sessions++;
    lose(f);
    pthread_mutex_unlock(&f->lock);
}

void rebuild_feed_lost(struct rebuild_feed *f)
{
    pthread_mutex_lock(&f->lock);
    /* What was handed on before is not touched by what comes after it. */
    if (f->state == FEED_OPEN || f->state == FEED_RECORDING)
        lose(f);
    pthread_mutex_unlock(&f->lock);
}

void rebuild_feed_transaction(struct rebuild_feed *f, uint32_t xid)
{
    f->xids[f->n_xids++ % TRANSACTIONS] = xid;
}

void rebuild_feed_record(struct rebuild_feed *f, const struct event *e)
{
    pthread_mutex_lock(&f->lock);
    if (f->state == FEED_RECORDING && rebuild_chunk_recorded(f->recorded, e))
        f->state = FEED_OVERFLOW;
    pthread_mutex_unlock(&f->lock);
}

static bool is_token(const struct rebuild_feed *f, struct str content)
{
    return content.len > 0 && str_equal(content, str_from(f->token));
}

/* Whether the rows show everything that was committed before the low watermark. */
static bool sees_all_before_low(const struct rebuild_feed *f)
{
    uint64_t oldest = f->n_xids > TRANSACTIONS ? f->n_xids - TRANSACTIONS : 0;
    for (uint64_t i = oldest; i < f->low_xids; i++)
        if (!rebuild_chunk_sees(f->rows, f->xids[i % TRANSACTIONS]))
            return false;
    return true;
}

/* Puts rows and recorded events together. */
static void start_handing(struct rebuild_feed *f)
{
    if (!f->rows) {
        f->state = FEED_LOST;
        return;
    }
    if (!sees_all_before_low(f)) {
        f->state = FEED_UNSEEN;
        return;
    }
    if (rebuild_chunk_merge(f->rows, f->recorded)) {
        f->state = FEED_OVERFLOW;
        return;
    }
    rebuild_chunk_sort(f->rows);
    f->keys = rebuild_chunk_keys(f->rows);
    f->index = 0;
    f->step = REBUILD_BEGIN;
    f->state = FEED_HANDING;
}

bool rebuild_feed_message(struct rebuild_feed *f, struct str prefix, struct str content)
{
    pthread_mutex_lock(&f->lock);
    bool ours = is_token(f, content);
    if (ours && f->state == FEED_OPEN && str_equal(prefix, STR(REBUILD_LOW))) {
        f->state = FEED_RECORDING;
        f->low_xids = f->n_xids - 1; /* its own transaction is the newest */
    } else if (ours && f->state == FEED_RECORDING && str_equal(prefix, STR(REBUILD_HIGH))) {
        start_handing(f);
    }
    bool handing = f->state == FEED_HANDING;
    pthread_mutex_unlock(&f->lock);
    return handing;
}

bool rebuild_feed_next(struct rebuild_feed *f, struct rebuild_event *ret)
{
    struct rebuild_item i;
    bool more = rebuild_chunk_at(f->rows, f->index, &i);
    while (more && f->step == REBUILD_ROW && !i.event.ptr) {
        rebuild_feed_taken(f);
        more = rebuild_chunk_at(f->rows, f->index, &i);
    }
    if (!more) {
        pthread_mutex_lock(&f->lock);
        if (f->state == FEED_HANDING)
            f->state = FEED_HANDED;
        pthread_mutex_unlock(&f->lock);
        return false;
    }
    *ret = (struct rebuild_event){
        .step = f->step,
        .user_id = i.user_id,
        .bot_name = i.bot_name,
        .types = f->types,
        .tables = f->tables,
        .event = f->step == REBUILD_ROW ? i.event : STR_NULL,
    };
    return true;
}

void rebuild_feed_taken(struct rebuild_feed *f)
{
    struct rebuild_item i;
    bool more = rebuild_chunk_at(f->rows, f->index, &i);
    assert(more);
    if (f->step == REBUILD_BEGIN) {
        f->step = REBUILD_ROW;
        return;
    }
    if (f->step == REBUILD_ROW && i.last) {
        f->step = REBUILD_END;
        return;
    }
    f->step = f->step == REBUILD_END ? REBUILD_BEGIN : REBUILD_ROW;
    f->index++;
}

void rebuild_feed_committed(struct rebuild_feed *f, lsn_t end_lsn)
{
    pthread_mutex_lock(&f->lock);
    if (f->state == FEED_HANDED) {
        f->end_lsn = end_lsn;
        f->state = FEED_COMMITTED;
    }
    pthread_mutex_unlock(&f->lock);
}

enum status rebuild_feed_request(struct rebuild_feed *f, const char *reason)
{
    if (!f)
        return STATUS_OK;
    pthread_mutex_lock(&f->lock);
    enum status st = STATUS_AGAIN;
    if (f->request == REQUEST_NONE) {
        (void)snprintf(f->reason, sizeof(f->reason), "%s", reason);
        f->request = REQUEST_WANTED;
    } else if (f->request == REQUEST_STORED) {
        f->request = REQUEST_NONE;
        st = STATUS_OK;
    }
    pthread_mutex_unlock(&f->lock);
    return st;
}
