#include "server/request_relay.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/pg.h"
#include "state/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ANSWER_US (30 * US_PER_SECOND)
#define REST_US   US_PER_SECOND /* between two attempts, and looks without a notification */
#define SLICE_US  (50 * INT64_C(1000))

struct request_relay {
    const struct config *cfg;
    pthread_t thread;
    atomic_bool stop;
    atomic_bool ended;
    PGconn *sink;
    PGconn *source;
    pthread_mutex_t lock; /* guards the sockets of both while they are open, -1 */
    int socket[2];
};

/* ---- connections ---- */

/* Before a connection is used, and with NULL before it is closed. */
static void show_socket(struct request_relay *r, int which, const PGconn *conn)
{
    pthread_mutex_lock(&r->lock);
    r->socket[which] = conn ? PQsocket(conn) : -1;
    pthread_mutex_unlock(&r->lock);
}

static void close_both(struct request_relay *r)
{
    show_socket(r, 0, NULL);
    show_socket(r, 1, NULL);
    PQfinish(TAKE(r->sink));
    PQfinish(TAKE(r->source));
}

/* A server tells its databases apart by their oid, and itself from any other by when it started. */
static enum status where_is(PGconn *conn, char ret[96], struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query_within(conn,
                        "SELECT pg_catalog.pg_postmaster_start_time()::text || '/' || oid"
                        " FROM pg_catalog.pg_database"
                        " WHERE datname = pg_catalog.current_database()",
                        0, NULL, ANSWER_US, "could not ask which database this is", &res, err);
    if (!st)
        snprintf(ret, 96, "%s", PQgetvalue(res, 0, 0));
    return st;
}

static enum status record(struct request_relay *r, struct error *err)
{
    char sink[96], source[96];
    enum status st = where_is(r->sink, sink, err);
    st = st ? st : where_is(r->source, source, err);
    if (st)
        return st;
    bool here = strcmp(sink, source) == 0;
    const char *params[] = {r->cfg->pipeline, here ? "t" : "f"};
    CLEANUP(PQclearp) PGresult *res = NULL;
    return pg_query_within(r->sink,
                           "INSERT INTO strategic_source (pipeline, here) VALUES ($1, $2::bool)"
                           " ON CONFLICT (pipeline) DO UPDATE SET here = EXCLUDED.here,"
                           " recorded_at = EXCLUDED.recorded_at",
                           2, params, ANSWER_US,
                           "could not record where requests are to be emitted", &res, err);
}

static enum status open_both(struct request_relay *r, struct error *err)
{
    if (r->sink && r->source)
        return STATUS_OK;
    const struct pg_options to_sink = {.conninfo = r->cfg->sink_conninfo,
                                       .application_name = "warmpath requests",
                                       .setup = "LISTEN strategic_request"};
    const struct pg_options to_source = {.conninfo = r->cfg->source_conninfo,
                                         .application_name = "warmpath requests",
                                         .mode = PG_SOURCE};
    enum status st = pg_open(&to_sink, &r->sink, err);
    if (st)
        return st;
    show_socket(r, 0, r->sink);
    st = pg_open(&to_source, &r->source, err);
    if (st)
        return st;
    show_socket(r, 1, r->source);
    return record(r, err);
}

/* ---- handing on ---- */

/* The oldest ones, as arrays that go from one server to the other as they are. */
static enum status take(struct request_relay *r, PGresult **ret, struct error *err)
{
    return pg_query_within(r->sink,
                           "SELECT array_agg(id ORDER BY id),"
                           " array_agg(strategic_request_text(r) ORDER BY id)"
                           " FROM (SELECT * FROM strategic_request ORDER BY id LIMIT 500) r",
                           0, NULL, ANSWER_US, "could not look for requests", ret, err);
}

/* END: there were none. */
static enum status hand_on(struct request_relay *r, struct error *err)
{
    CLEANUP(PQclearp) PGresult *found = NULL;
    CLEANUP(PQclearp) PGresult *emitted = NULL;
    CLEANUP(PQclearp) PGresult *deleted = NULL;
    enum status st = take(r, &found, err);
    if (!st && PQgetisnull(found, 0, 0))
        return STATUS_END;
    if (st)
        return st;
    const char *ids[] = {PQgetvalue(found, 0, 0)};
    const char *contents[] = {PQgetvalue(found, 0, 1)};
    st = pg_query_within(
        r->source,
        "SELECT count(pg_catalog.pg_logical_emit_message(true, 'warmpath.request', content))"
        " FROM (SELECT content FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY"
        " AS t (content, n) ORDER BY n) o",
        1, contents, ANSWER_US, "could not emit requests in the source database", &emitted, err);
    if (!st && FAULT_POINT("request_emitted"))
        st = error_set(err, STATUS_IO, "fault point request_emitted");
    if (!st)
        st = pg_query_within(r->sink, "DELETE FROM strategic_request WHERE id = ANY ($1::bigint[])",
                             1, ids, ANSWER_US, "could not delete requests that were emitted",
                             &deleted, err);
    return st;
}

static bool told(PGconn *conn)
{
    bool any = false;
    for (PGnotify *n = PQnotifies(conn); n; n = PQnotifies(conn)) {
        PQfreemem(n);
        any = true;
    }
    return any;
}

/* Until a notification, or for a while. */
static void rest(struct request_relay *r, int64_t us)
{
    for (; us > 0 && !atomic_load(&r->stop); us -= SLICE_US) {
        struct pg_ready ready = {0};
        struct error err;
        if (!r->sink || pg_poll(PQsocket(r->sink), true, false, SLICE_US, NULL, &ready, &err)) {
            struct timespec ts = {0, SLICE_US * 1000};
            nanosleep(&ts, NULL);
        }
        if (ready.readable && !PQconsumeInput(r->sink))
            close_both(r);
        if (r->sink && told(r->sink))
            return;
    }
}

static void *relay_main(void *arg)
{
    struct request_relay *r = arg;
    char last[sizeof(((struct error *)0)->text)] = "";
    while (!atomic_load(&r->stop)) {
        struct error err = {.code = STATUS_OK};
        enum status st = open_both(r, &err);
        while (!st && !atomic_load(&r->stop))
            st = hand_on(r, &err);
        bool failed = st && st != STATUS_END;
        /* The same trouble once: without the tables, say, there is nothing to do but wait. */
        if (failed && !atomic_load(&r->stop) && strcmp(last, err.text) != 0)
            log_write(LOG_WARN, "requests",
                      "requests of applications wait, trying again error=\"%s\"", err.text);
        (void)snprintf(last, sizeof(last), "%s", failed ? err.text : "");
        if (failed)
            close_both(r);
        rest(r, REST_US);
    }
    atomic_store(&r->ended, true);
    return NULL;
}

/* ---- life ---- */

enum status request_relay_start(const struct config *cfg, struct request_relay **ret,
                                struct error *err)
{
    struct request_relay *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate the relay of requests");
    r->cfg = cfg;
    r->socket[0] = -1;
    r->socket[1] = -1;
    pthread_mutex_init(&r->lock, NULL);
    int rc = pthread_create(&r->thread, NULL, relay_main, r);
    if (rc) {
        pthread_mutex_destroy(&r->lock);
        free(r);
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    }
    *ret = r;
    return STATUS_OK;
}

/* A server may not answer at all: who waits for it sees the end of its connection. */
static void end_connections(struct request_relay *r)
{
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < 2; i++)
        if (r->socket[i] >= 0)
            (void)shutdown(r->socket[i], SHUT_RDWR);
    pthread_mutex_unlock(&r->lock);
}

void request_relay_stop(struct request_relay *r)
{
    if (!r)
        return;
    atomic_store(&r->stop, true);
    while (!atomic_load(&r->ended)) {
        end_connections(r);
        struct timespec ts = {0, SLICE_US * 1000};
        nanosleep(&ts, NULL);
    }
    pthread_join(r->thread, NULL);
    close_both(r);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
