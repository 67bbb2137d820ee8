#include "server/rebuild_internal.h"

#include "core/clock.h"
#include "core/log.h"
#include "engines/record.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#define LOOK_US  US_PER_SECOND
#define RETRY_US US_PER_SECOND
#define SLICE_US (10 * INT64_C(1000))

enum status rebuild_nap(struct rebuild *r, int64_t us)
{
    for (; us > 0 && !atomic_load(&r->stop); us -= SLICE_US) {
        int64_t slice = us < SLICE_US ? us : SLICE_US;
        struct timespec ts = {slice / US_PER_SECOND, (slice % US_PER_SECOND) * 1000};
        nanosleep(&ts, NULL);
    }
    return atomic_load(&r->stop) ? STATUS_END : STATUS_OK;
}

/* ---- connections ---- */

/* Before a connection is used, and with NULL before it is closed. */
static void show_socket(struct rebuild *r, int which, const PGconn *conn)
{
    pthread_mutex_lock(&r->lock);
    r->socket[which] = conn ? PQsocket(conn) : -1;
    pthread_mutex_unlock(&r->lock);
}

static void close_source(struct rebuild *r)
{
    show_socket(r, 1, NULL);
    rebuild_rows_close(TAKE(r->source));
}

static void close_all(struct rebuild *r)
{
    close_source(r);
    show_socket(r, 0, NULL);
    PQfinish(TAKE(r->sink));
}

static enum status open_sink(struct rebuild *r, struct error *err)
{
    if (r->sink && PQstatus(r->sink) == CONNECTION_OK)
        return STATUS_OK;
    close_all(r);
    struct pg_options o = {.conninfo = r->cfg.cfg->sink_conninfo,
                           .application_name = "warmpath rebuild",
                           .setup = "SET standard_conforming_strings = on"};
    enum status st = pg_open(&o, &r->sink, err);
    if (!st)
        show_socket(r, 0, r->sink);
    return st;
}

/* Anew for each attempt: tables and mappings may have changed. */
static enum status open_source(struct rebuild *r, struct error *err)
{
    close_source(r);
    struct mapping_set *mappings = malloc(sizeof(*mappings));
    if (!mappings)
        return error_set(err, STATUS_NOMEM, "could not allocate the mappings");
    pthread_mutex_lock(&r->lock);
    *mappings = r->mappings;
    pthread_mutex_unlock(&r->lock);
    /* All that counts, and no less than the initial snapshot reads. */
    const struct config *c = r->cfg.cfg;
    int64_t window_us = RECORD_WINDOW_US + US_PER_DAY;
    if (window_us < c->snapshot_window_us)
        window_us = c->snapshot_window_us;
    enum status st = rebuild_rows_open(c->source_conninfo, c->publication, mappings,
                                       clock_wall_us(&clock_real) - window_us, &r->source, err);
    free(mappings);
    if (!st)
        show_socket(r, 1, rebuild_rows_connection(r->source));
    return st;
}

/* ---- requests ---- */

static void request_deinit(struct rebuild_request *q)
{
    free(q->user_id);
    free(q->bot_name);
    free(q->engine);
    free(q->cursor);
}

static bool copy_field(const PGresult *res, int column, char **ret)
{
    *ret = PQgetisnull(res, 0, column) ? NULL : strdup(PQgetvalue(res, 0, column));
    return *ret || PQgetisnull(res, 0, column);
}

/* END: there is none. */
static enum status next_request(struct rebuild *r, struct rebuild_request *q, struct error *err)
{
    const char *params[] = {r->cfg.cfg->pipeline};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query_within(
        r->sink,
        "SELECT id, user_id, bot_name, engine, cursor, users_done "
        "FROM strategic_rebuild WHERE pipeline = $1 AND finished_at IS NULL "
        "ORDER BY id LIMIT 1",
        1, params, REBUILD_ANSWER_US, "could not look for requests to rebuild", &res, err);
    if (st || PQntuples(res) == 0)
        return st ? st : STATUS_END;
    (void)snprintf(q->id, sizeof(q->id), "%s", PQgetvalue(res, 0, 0));
    q->users_done = *PQgetvalue(res, 0, 5) == 't';
    if (!copy_field(res, 1, &q->user_id) || !copy_field(res, 2, &q->bot_name) ||
        !copy_field(res, 3, &q->engine) || !copy_field(res, 4, &q->cursor))
        return error_set(err, STATUS_NOMEM, "could not keep a request");
    return STATUS_OK;
}

static enum status mark_request(struct rebuild *r, const char *sql, const char *id,
                                const char *text, struct error *err)
{
    const char *params[] = {id, text};
    CLEANUP(PQclearp) PGresult *res = NULL;
    return pg_query_within(r->sink, sql, 2, params, REBUILD_ANSWER_US,
                           "could not store how far a rebuild is", &res, err);
}

/* What somebody inside the process asked for. */
static enum status store_wanted(struct rebuild *r, struct error *err)
{
    char reason[128];
    if (!rebuild_feed_wanted(r->cfg.feed, reason, sizeof(reason)))
        return STATUS_OK;
    const char *params[] = {r->cfg.cfg->pipeline, reason};
    enum status st = STATUS_IO;
    bool said = false;
    while (st) {
        CLEANUP(PQclearp) PGresult *res = NULL;
        st = open_sink(r, err);
        if (!st)
            st = pg_query_within(
                r->sink, "INSERT INTO strategic_rebuild (pipeline, reason) VALUES ($1, $2)", 2,
                params, REBUILD_ANSWER_US, "could not request a rebuild", &res, err);
        if (st && !said)
            log_write(LOG_WARN, "rebuild",
                      "the reader waits until a request is stored, retrying reason=\"%s\" "
                      "error=\"%s\"",
                      reason, err->text);
        said = true;
        if (st && rebuild_nap(r, RETRY_US))
            return STATUS_END;
    }
    rebuild_feed_stored(r->cfg.feed);
    return STATUS_OK;
}

/* Until it is done, has failed, or a connection is lost (IO). */
static enum status work_on(struct rebuild *r, const struct rebuild_request *q, struct error *err)
{
    char note[400] = "";
    enum status st = mark_request(r,
                                  "UPDATE strategic_rebuild SET started_at = coalesce(started_at, "
                                  "now()), error = $2 WHERE id = $1::bigint",
                                  q->id, NULL, err);
    st = st ? st : open_source(r, err);
    if (!st) {
        /* Without names: logs outlive users who are forgotten. */
        log_write(LOG_INFO, "rebuild", "rebuilding id=%s what=\"%s\" resumed=%d", q->id,
                  q->user_id ? "one user" : "all", q->cursor != NULL);
        st = rebuild_work(r, q, note, sizeof(note), err);
    }
    if (st == STATUS_AGAIN)
        return mark_request(r,
                            "UPDATE strategic_rebuild SET retries = retries + 1, error = $2 WHERE "
                            "id = $1::bigint",
                            q->id, NULL, err);
    if (st == STATUS_IO || st == STATUS_END || st == STATUS_NOMEM)
        return st;
    const char *text = st ? err->text : *note ? note : NULL;
    log_write(st ? LOG_ERROR : LOG_INFO, "rebuild", "%s id=%s%s%s", st ? "failed" : "rebuilt",
              q->id, text ? " error=" : "", text ? text : "");
    return mark_request(r,
                        "UPDATE strategic_rebuild SET finished_at = clock_timestamp(), error = $2 "
                        "WHERE id = $1::bigint",
                        q->id, text, err);
}

static enum status look_once(struct rebuild *r, bool *ret_worked, struct error *err)
{
    struct rebuild_request q = {0};
    *ret_worked = false;
    enum status st = store_wanted(r, err);
    st = st ? st : open_sink(r, err);
    st = st ? st : next_request(r, &q, err);
    if (!st) {
        st = work_on(r, &q, err);
        *ret_worked = true;
    }
    request_deinit(&q);
    return st == STATUS_END ? STATUS_OK : st;
}

static void *rebuild_main(void *arg)
{
    struct rebuild *r = arg;
    char last[sizeof(((struct error *)0)->text)] = "";
    while (!atomic_load(&r->stop)) {
        struct error err = {.code = STATUS_OK};
        bool worked = false;
        enum status st = look_once(r, &worked, &err);
        /* The same trouble once: without the table, say, there is nothing to do but wait. */
        if (st && !atomic_load(&r->stop) && strcmp(last, err.text) != 0)
            log_write(LOG_WARN, "rebuild", "interrupted, trying again error=\"%s\"", err.text);
        (void)snprintf(last, sizeof(last), "%s", st ? err.text : "");
        if (st)
            close_all(r);
        if (!worked || st)
            (void)rebuild_nap(r, LOOK_US);
    }
    atomic_store(&r->ended, true);
    return NULL;
}

/* ---- life ---- */

enum status rebuild_start(const struct rebuild_config *cfg, struct rebuild **ret, struct error *err)
{
    struct rebuild *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate the rebuilding thread");
    r->cfg = *cfg;
    r->socket[0] = -1;
    r->socket[1] = -1;
    r->mappings = cfg->cfg->mappings;
    if (getrandom(&r->nonce, sizeof(r->nonce), GRND_NONBLOCK) != (ssize_t)sizeof(r->nonce))
        r->nonce = (uint64_t)clock_wall_us(&clock_real);
    pthread_mutex_init(&r->lock, NULL);
    int rc = pthread_create(&r->thread, NULL, rebuild_main, r);
    if (rc) {
        pthread_mutex_destroy(&r->lock);
        free(r);
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    }
    *ret = r;
    return STATUS_OK;
}

/* A statement may take long, and a server may not answer at all, not even a request to cancel: who
 * waits for it sees the end of its connection. */
static void end_connections(struct rebuild *r)
{
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < 2; i++)
        if (r->socket[i] >= 0)
            (void)shutdown(r->socket[i], SHUT_RDWR);
    pthread_mutex_unlock(&r->lock);
}

void rebuild_stop(struct rebuild *r)
{
    if (!r)
        return;
    atomic_store(&r->stop, true);
    for (int64_t waited_us = 0; !atomic_load(&r->ended); waited_us += SLICE_US) {
        struct timespec ts = {0, SLICE_US * 1000};
        nanosleep(&ts, NULL);
        if (waited_us % (10 * SLICE_US) == 0)
            end_connections(r);
    }
    pthread_join(r->thread, NULL);
    close_all(r);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void rebuild_remap(struct rebuild *r, const struct mapping_set *mappings)
{
    pthread_mutex_lock(&r->lock);
    r->mappings = *mappings;
    pthread_mutex_unlock(&r->lock);
}
