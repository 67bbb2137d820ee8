#include "ingest/replication.h"

#include "core/counters.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/pg.h"
#include "ingest/feedback.h"
#include "ingest/session.h"
#include "ingest/stream.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define FINISH_TIMEOUT_US  (1 * US_PER_SECOND)
#define SENDER_TIMEOUT_US  (30 * US_PER_SECOND)
#define STATUS_INTERVAL_US (1 * US_PER_SECOND)
#define SILENCE_US         (60 * US_PER_SECOND)
/* A receiver that makes room does not have to say so. */
#define RETRY_US 5000
/* Messages between two looks at the clock and the stop flag. */
#define READ_BATCH 256

struct replication {
    struct replication_config cfg;
    const struct receiver_ops *receiver;
    struct stream *stream;
    struct pg_wait wait;
    int wake_pipe[2];
    uint64_t random;
    atomic_bool connected;     /* streaming */
    _Atomic int64_t lag_us;    /* of the newest heartbeat ... */
    _Atomic int64_t lag_at_us; /* ... written after it; 0 = none yet */

    /* One session */
    struct session session;
    char *held; /* CopyData whose content the receiver has not taken */
    struct watchdog watchdog;
    bool heard;       /* the server has sent something */
    bool want_write;  /* libpq holds bytes that the socket did not take */
    char notice[400]; /* a warning of the server that means lost data */

    struct mapping_set *mappings; /* owned; NULL: still those of cfg */

    /* Between the reader and any thread */
    pthread_mutex_t mutex;
    atomic_bool remap;
    struct mapping_set *next_mappings; /* owned; of the newest replication_remap() */
    struct error blocked;              /* code OK: it is not */
};

enum status replication_new(const struct replication_config *cfg,
                            const struct receiver_ops *receiver, struct replication **ret,
                            struct error *err)
{
    assert(cfg->conninfo && cfg->slot && cfg->publication && cfg->mappings && cfg->clock);
    assert(cfg->backoff_min_us > 0 && cfg->backoff_min_us <= cfg->backoff_max_us);
    struct replication *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate the replication reader");
    r->cfg = *cfg;
    r->receiver = receiver;
    pthread_mutex_init(&r->mutex, NULL);
    if (r->cfg.sender_timeout_us <= 0)
        r->cfg.sender_timeout_us = SENDER_TIMEOUT_US;
    if (r->cfg.status_interval_us <= 0)
        r->cfg.status_interval_us = STATUS_INTERVAL_US;
    if (r->cfg.silence_us <= 0)
        r->cfg.silence_us = SILENCE_US;
    r->session.timeline = cfg->timeline;
    if (getrandom(&r->random, sizeof(r->random), GRND_NONBLOCK) != (ssize_t)sizeof(r->random))
        r->random = (uint64_t)clock_wall_us(cfg->clock);
    if (pipe2(r->wake_pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        pthread_mutex_destroy(&r->mutex);
        free(r);
        return error_set(err, STATUS_IO, "could not open a pipe: %s", strerror(errno));
    }
    enum status st = stream_new(cfg->mappings, receiver, &r->stream, err);
    if (st) {
        replication_free(r);
        return st;
    }
    stream_set_rebuild(r->stream, cfg->rebuild);
    stream_heartbeat(r->stream)->pipeline = r->cfg.heartbeat;
    *ret = r;
    return STATUS_OK;
}

static void session_end(struct replication *r)
{
    atomic_store(&r->connected, false);
    PQfreemem(r->held);
    r->held = NULL;
    session_close(&r->session);
}

void replication_free(struct replication *r)
{
    if (!r)
        return;
    session_end(r);
    stream_free(r->stream);
    free(r->mappings);
    free(r->next_mappings);
    pthread_mutex_destroy(&r->mutex);
    close(r->wake_pipe[0]);
    close(r->wake_pipe[1]);
    free(r);
}

void replication_wake(struct replication *r)
{
    /* A full pipe already holds a wake-up. */
    ssize_t ignored = write(r->wake_pipe[1], "w", 1);
    (void)ignored;
}

enum status replication_remap(struct replication *r, const struct mapping_set *mappings,
                              struct error *err)
{
    struct mapping_set *copy = malloc(sizeof(*copy));
    if (!copy)
        return error_set(err, STATUS_NOMEM, "could not copy the mappings");
    *copy = *mappings;
    pthread_mutex_lock(&r->mutex);
    free(r->next_mappings);
    r->next_mappings = copy;
    atomic_store(&r->remap, true);
    pthread_mutex_unlock(&r->mutex);
    replication_wake(r);
    return STATUS_OK;
}

/* When nothing of the old mappings is held any more. */
static void take_mappings(struct replication *r)
{
    if (!atomic_load(&r->remap) || (r->held && !stream_is_blocked(r->stream)))
        return;
    pthread_mutex_lock(&r->mutex);
    struct mapping_set *next = r->next_mappings;
    r->next_mappings = NULL;
    atomic_store(&r->remap, false);
    pthread_mutex_unlock(&r->mutex);
    stream_remap(r->stream, next);
    log_write(LOG_INFO, "ingest", "other mappings from here on tables=%zu", next->n);
    free(r->mappings);
    r->mappings = next;
}

bool replication_blocked(struct replication *r, struct error *why)
{
    pthread_mutex_lock(&r->mutex);
    *why = r->blocked;
    pthread_mutex_unlock(&r->mutex);
    return why->code != STATUS_OK;
}

/* Shows other threads what the stream says. */
static void publish_blocked(struct replication *r)
{
    const struct error *why = stream_blocked_by(r->stream);
    if (!why && !r->blocked.code) /* only this thread writes it */
        return;
    pthread_mutex_lock(&r->mutex);
    if (why)
        r->blocked = *why;
    else
        r->blocked.code = STATUS_OK;
    pthread_mutex_unlock(&r->mutex);
}

static enum status connection_lost(const struct replication *r, struct error *err)
{
    return pg_error(err, r->session.conn, NULL, "replication connection lost");
}

/*
 * PostgreSQL 18 warns about a publication that does not exist and then leaves its rows out
 * (src/backend/replication/pgoutput). To us those rows would be lost. Older servers raise an error.
 */
static void on_notice(void *ctx, const PGresult *res)
{
    struct replication *r = ctx;
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *sqlstate = pg_sqlstate(res);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    char line[300];
    pg_error_line(text, line, sizeof(line));
    if (severity && strcmp(severity, "WARNING") == 0 &&
        (strcmp(sqlstate, "55000") == 0 || strcmp(sqlstate, "42704") == 0))
        snprintf(r->notice, sizeof(r->notice), "%s", *line ? line : "publication skipped");
    else
        log_write(LOG_INFO, "ingest", "server notice text=\"%s\"", line);
}

static enum status check_notice(const struct replication *r, struct error *err)
{
    if (!*r->notice)
        return STATUS_OK;
    return error_set(
        err, STATUS_LOST,
        "the server leaves out rows of publication \"%s\": %s. Changes are decoded with the "
        "catalogue of their own time, so those from before it was made again stay lost",
        r->cfg.publication, r->notice);
}

static enum status session_begin(struct replication *r, lsn_t start, struct error *err)
{
    enum status st = session_open(&r->session, &r->cfg, &r->wait, start, err);
    if (st)
        return st;
    *r->notice = '\0';
    PQsetNoticeReceiver(r->session.conn, on_notice, r);
    int64_t now_us = clock_mono_us(r->cfg.clock);
    r->heard = false;
    r->want_write = false;
    watchdog_heard(&r->watchdog, now_us);
    stream_start(r->stream, start, now_us);
    atomic_store(&r->connected, true);
    return STATUS_OK;
}

static enum status flush_output(struct replication *r, struct error *err)
{
    int rc = PQflush(r->session.conn);
    if (rc < 0)
        return connection_lost(r, err);
    r->want_write = rc > 0;
    return STATUS_OK;
}

static enum status send_feedback(struct replication *r, bool ping, struct error *err)
{
    struct feedback *f = stream_feedback(r->stream);
    struct feedback_report report = feedback_report(f, r->receiver->durable(r->receiver->ctx));
    uint8_t bytes[FEEDBACK_BYTES];
    feedback_encode(&report, clock_wall_us(r->cfg.clock), ping, bytes);
    int rc = PQputCopyData(r->session.conn, (const char *)bytes, sizeof(bytes));
    if (rc < 0)
        return connection_lost(r, err);
    if (rc == 0) {
        r->want_write = true; /* tried again when the socket takes more */
        return STATUS_OK;
    }
    feedback_sent(f, &report, clock_mono_us(r->cfg.clock));
    return flush_output(r, err);
}

/* PQgetCopyData has answered -1: the server's reason is in the results that follow. */
static enum status stream_ended(struct replication *r, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = PQgetResult(r->session.conn);
    /* The slot is there, since it was read: what is missing is the publication. Up to version 17
     * that is an error, which stays even after the publication is made again. */
    if (res && strcmp(pg_sqlstate(res), "42704") == 0)
        return error_set(err, STATUS_LOST,
                         "publication \"%s\" was dropped, and rows were changed before it was made "
                         "again, if it was: changes are decoded with the catalogue of their own "
                         "time, so slot \"%s\" cannot get past them",
                         r->cfg.publication, r->cfg.slot);
    if (res && PQresultStatus(res) == PGRES_FATAL_ERROR)
        return pg_source_error(err, r->session.conn, res, "replication stopped");
    /* Shut-down or promotion of the server: whoever comes back has the slot, or says why not. */
    return error_set(err, STATUS_IO, "the server ended the stream");
}

/*
 * Reads what is there, at most READ_BATCH messages. AGAIN: the receiver is full, r->held is kept.
 * *ret_drained: the socket has nothing more.
 */
static enum status read_messages(struct replication *r, bool *ret_drained, struct error *err)
{
    bool consumed = false;
    *ret_drained = false;
    for (int i = 0; i < READ_BATCH;) {
        char *bytes = NULL;
        int len = PQgetCopyData(r->session.conn, &bytes, 1);
        if (len == -1)
            return stream_ended(r, err);
        if (len < 0)
            return connection_lost(r, err);
        if (len == 0) {
            if (consumed) {
                *ret_drained = true;
                return STATUS_OK;
            }
            if (!PQconsumeInput(r->session.conn))
                return connection_lost(r, err);
            consumed = true;
            continue;
        }
        consumed = false;
        i++;
        /* A warning came before these bytes: they may already be beyond what it is about. */
        if (*r->notice) {
            PQfreemem(bytes);
            return check_notice(r, err);
        }
        r->heard = true;
        watchdog_heard(&r->watchdog, clock_mono_us(r->cfg.clock));
        enum status st = stream_put(r->stream, (struct str){bytes, (size_t)len}, err);
        if (st == STATUS_AGAIN) {
            r->held = bytes;
            return st;
        }
        PQfreemem(bytes);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status retry_held(struct replication *r, struct error *err)
{
    enum status st = stream_retry(r->stream, err);
    if (st == STATUS_AGAIN)
        return st;
    PQfreemem(r->held);
    r->held = NULL;
    /* We were not reading: the silence was ours. */
    watchdog_heard(&r->watchdog, clock_mono_us(r->cfg.clock));
    return st;
}

/* Feedback when due, a ping when the server is silent, an end when it stays silent. */
static enum status tick(struct replication *r, struct error *err)
{
    int64_t now_us = clock_mono_us(r->cfg.clock);
    bool ping = false;
    if (!r->held) {
        switch (watchdog_check(&r->watchdog, r->cfg.silence_us, r->cfg.silence_us / 2, now_us)) {
        case WATCHDOG_WAIT:
            break;
        case WATCHDOG_ASK:
            ping = true;
            break;
        case WATCHDOG_DEAD:
            return error_set(err, STATUS_IO,
                             "the server has been silent for %" PRId64 " ms, even when asked",
                             (r->cfg.silence_us + r->cfg.silence_us / 2) / 1000);
        }
    }
    if (ping || feedback_is_due(stream_feedback(r->stream), r->session.feedback_us, now_us))
        return send_feedback(r, ping, err);
    return r->want_write ? flush_output(r, err) : STATUS_OK;
}

static enum status wait_for_work(struct replication *r, int64_t at_most_us, struct error *err)
{
    struct pg_ready ready;
    int64_t wait_us = feedback_wait_us(stream_feedback(r->stream), r->session.feedback_us,
                                       clock_mono_us(r->cfg.clock));
    if (wait_us > at_most_us)
        wait_us = at_most_us;
    /* What the mapping cannot read waits for replication_remap(), which wakes us. */
    if (r->held && !stream_is_blocked(r->stream) && wait_us > RETRY_US)
        wait_us = RETRY_US;
    /* While output waits for the socket, the timer that asked for it is already due. */
    if (r->want_write && wait_us < RETRY_US)
        wait_us = RETRY_US;
    return pg_poll(PQsocket(r->session.conn), !r->held, r->want_write, wait_us, &r->wait, &ready,
                   err);
}

bool replication_lag(const struct replication *r, int64_t *ret_lag_us, int64_t *ret_at_us)
{
    *ret_at_us = atomic_load(&r->lag_at_us);
    *ret_lag_us = atomic_load(&r->lag_us);
    return *ret_at_us != 0;
}

bool replication_connected(const struct replication *r)
{
    return atomic_load(&r->connected);
}

static void look_for_heartbeat(struct replication *r)
{
    struct heartbeat *h = stream_heartbeat(r->stream);
    int64_t lag_us = 0;
    int64_t now_us = clock_wall_us(r->cfg.clock);
    if (!h->sent_us || !heartbeat_done(h, r->receiver->durable(r->receiver->ctx), now_us, &lag_us))
        return;
    atomic_store(&r->lag_us, lag_us);
    atomic_store(&r->lag_at_us, now_us);
}

static enum status session_loop(struct replication *r, const atomic_bool *stop, struct error *err)
{
    while (!atomic_load(stop)) {
        take_mappings(r);
        bool drained = false;
        enum status st = tick(r, err);
        if (!st)
            st = r->held ? retry_held(r, err) : read_messages(r, &drained, err);
        if (!st)
            st = check_notice(r, err);
        if (st && st != STATUS_AGAIN)
            return st;
        look_for_heartbeat(r);
        int64_t at_most_us = INT64_MAX;
        publish_blocked(r);
        /* Standing still, the socket is not drained, but what was handed on must not wait. */
        if (drained || stream_is_blocked(r->stream))
            at_most_us = r->receiver->drained(r->receiver->ctx);
        if (drained && r->receiver->intact && r->receiver->intact(r->receiver->ctx, err))
            return STATUS_IO;
        if (drained || st == STATUS_AGAIN) {
            st = wait_for_work(r, at_most_us, err);
            if (st)
                return st;
        }
    }
    return STATUS_OK;
}

/* Stopping: the last word about what is durable, then a clean end of COPY, within a second. */
static void session_finish(struct replication *r)
{
    int64_t deadline_us = clock_mono_us(r->cfg.clock) + FINISH_TIMEOUT_US;
    const struct pg_wait no_wake = {.clock = r->cfg.clock, .wake_fd = -1};
    if (send_feedback(r, false, NULL) || PQputCopyEnd(r->session.conn, NULL) < 0)
        return;
    while (clock_mono_us(r->cfg.clock) < deadline_us) {
        char *bytes = NULL;
        struct pg_ready ready;
        int flushed = PQflush(r->session.conn);
        int len = PQgetCopyData(r->session.conn, &bytes, 1);
        PQfreemem(bytes); /* sent again next time: it was not acknowledged */
        if (flushed < 0 || len < 0)
            return;
        if (len == 0 &&
            (pg_poll(PQsocket(r->session.conn), true, flushed > 0,
                     deadline_us - clock_mono_us(r->cfg.clock), &no_wake, &ready, NULL) ||
             !PQconsumeInput(r->session.conn)))
            return;
    }
}

static enum status run_session(struct replication *r, lsn_t start, const atomic_bool *stop,
                               struct error *err)
{
    enum status st = session_begin(r, start, err);
    if (!st) {
        st = session_loop(r, stop, err);
        if (!st)
            session_finish(r);
        else if (st == STATUS_REFUSED)
            st = session_explain(&r->session, &r->cfg, &r->wait, start, err);
    }
    session_end(r);
    return st;
}

/* Waits without a connection; a stop ends it. */
static enum status back_off(struct replication *r, int64_t wait_us, const atomic_bool *stop,
                            struct error *err)
{
    int64_t until_us = clock_mono_us(r->cfg.clock) + wait_us;
    int64_t left_us = wait_us;
    while (left_us > 0 && !atomic_load(stop)) {
        struct pg_ready ready;
        /* In slices, so that a stop without a wake-up is seen too. */
        int64_t slice_us = left_us < US_PER_SECOND / 5 ? left_us : US_PER_SECOND / 5;
        enum status st = pg_poll(-1, false, false, slice_us, &r->wait, &ready, err);
        if (st)
            return st;
        left_us = until_us - clock_mono_us(r->cfg.clock);
    }
    return STATUS_OK;
}

enum status replication_run(struct replication *r, lsn_t start, const atomic_bool *stop,
                            struct error *err)
{
    int64_t wait_us = 0;
    r->wait = (struct pg_wait){.clock = r->cfg.clock, .wake_fd = r->wake_pipe[0], .stop = stop};
    while (!atomic_load(stop)) {
        struct error why = {.code = STATUS_OK};
        lsn_t durable = r->receiver->durable(r->receiver->ctx);
        if (durable > start)
            start = durable;
        enum status st = run_session(r, start, stop, &why);
        if (st == STATUS_OK || st == STATUS_END)
            return STATUS_OK;
        if (st != STATUS_IO)
            return error_set(err, st, "%s", why.text);

        if (r->heard)
            wait_us = 0; /* it worked: the first wait is a short one again */
        r->heard = false;
        r->random = hash64_mix(r->random + 1);
        wait_us = backoff_next(wait_us, r->cfg.backoff_min_us, r->cfg.backoff_max_us, r->random);
        COUNTER_ADD(reconnects, 1);
        log_write(LOG_WARN, "ingest",
                  "replication interrupted, retrying in %" PRId64 " ms error=\"%s\"",
                  wait_us / 1000, why.text);
        st = back_off(r, wait_us, stop, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}
