#include "server/eraser.h"

#include "core/clock.h"
#include "core/jsonw.h"
#include "core/log.h"
#include "core/pg.h"
#include "ingest/qdrant.h"
#include "state/fault.h"
#include "state/points.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define ANSWER_US    (30 * US_PER_SECOND)
#define RETRY_US     (200 * INT64_C(1000))
#define SLICE_US     (10 * INT64_C(1000))
#define TASKS_MAX    1024
#define REPORT_BYTES 2048

struct task {
    struct task *next;
    struct erase_task t; /* its strings point into names */
    uint64_t inbox;      /* rows of the inbox up to here must be gone; 0: not looked yet */
    bool done;
    uint64_t receipt;
    char names[];
};

struct eraser {
    struct eraser_config cfg;
    pthread_t thread;
    atomic_bool stop;
    atomic_bool ended;
    PGconn *conn;         /* of the thread */
    pthread_mutex_t lock; /* guards what follows */
    struct task *tasks;   /* in order; done ones wait to be polled */
    size_t n_tasks;
    int socket; /* of conn while it is open, -1 */
};

/* ---- the port ---- */

static enum status submit(void *ctx, const struct erase_task *t)
{
    struct eraser *e = ctx;
    struct task *task = calloc(1, sizeof(*task) + t->user_id.len + t->bot_name.len + 2);
    if (!task)
        return STATUS_AGAIN; /* the worker will ask again */
    task->t = *t;
    char *bot = task->names + t->user_id.len + 1; /* both end with NUL, for libpq */
    if (t->user_id.len)
        memcpy(task->names, t->user_id.ptr, t->user_id.len);
    if (t->bot_name.len)
        memcpy(bot, t->bot_name.ptr, t->bot_name.len);
    task->t.user_id.ptr = task->names;
    task->t.bot_name.ptr = bot;
    pthread_mutex_lock(&e->lock);
    bool room = e->n_tasks < TASKS_MAX;
    struct task **last = &e->tasks;
    while (room && *last)
        last = &(*last)->next;
    if (room) {
        *last = task;
        e->n_tasks++;
    }
    pthread_mutex_unlock(&e->lock);
    if (!room)
        free(task);
    return room ? STATUS_OK : STATUS_AGAIN;
}

static size_t poll_done(void *ctx, uint32_t worker, struct erase_result *out, size_t max)
{
    struct eraser *e = ctx;
    size_t n = 0;
    pthread_mutex_lock(&e->lock);
    for (struct task **at = &e->tasks; *at && n < max;) {
        struct task *task = *at;
        if (!task->done || task->t.worker != worker) {
            at = &task->next;
            continue;
        }
        out[n++] = (struct erase_result){task->t.id, task->t.step, task->receipt};
        *at = task->next;
        e->n_tasks--;
        free(task);
    }
    pthread_mutex_unlock(&e->lock);
    return n;
}

struct erase_port eraser_port(struct eraser *e)
{
    return (struct erase_port){submit, poll_done, e};
}

/* ---- the connection ---- */

static void show_socket(struct eraser *e, const PGconn *conn)
{
    pthread_mutex_lock(&e->lock);
    e->socket = conn ? PQsocket(conn) : -1;
    pthread_mutex_unlock(&e->lock);
}

static void disconnect(struct eraser *e)
{
    show_socket(e, NULL);
    PQfinish(TAKE(e->conn));
}

static enum status open_sink(struct eraser *e, struct error *err)
{
    if (e->conn && PQstatus(e->conn) == CONNECTION_OK)
        return STATUS_OK;
    disconnect(e);
    /* What is said to be gone must stay so. */
    struct pg_options o = {.conninfo = e->cfg.cfg->sink_conninfo,
                           .application_name = "warmpath erasure",
                           .setup = "SET synchronous_commit = on"};
    enum status st = pg_open(&o, &e->conn, err);
    if (!st)
        show_socket(e, e->conn);
    return st;
}

/* ---- what is done ---- */

static bool is_of(void *ctx, struct str known)
{
    const struct erase_task *t = ctx;
    struct qdrant_known k;
    return qdrant_known_decode(known, &k, NULL) == STATUS_OK && str_equal(k.user_id, t->user_id) &&
           (t->bot_name.len == 0 || str_equal(k.bot_name, t->bot_name));
}

/* What the pulls remember of points; a point that is still there will be read again, and its events
 * are as late as the user's others. */
static enum status forget_points(struct eraser *e, struct erase_task *t, struct error *err)
{
    const struct config *c = e->cfg.cfg;
    enum status st = STATUS_OK;
    for (size_t i = 0; i < c->n_qdrant && t->worker == 0 && !st; i++)
        st = points_forget(c->state_dir, c->qdrant[i].name, is_of, t, err);
    return st;
}

static enum status remove_rows(struct eraser *e, struct task *task, struct error *err)
{
    struct erase_task *t = &task->t;
    char epoch[24], token[24], version[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, e->cfg.epoch);
    snprintf(token, sizeof(token), "%" PRId64, t->token_us);
    snprintf(version, sizeof(version), "%" PRIu64, t->row_version);
    const char *params[] = {e->cfg.cfg->pipeline,
                            epoch,
                            t->user_id.ptr,
                            t->bot_name.len ? t->bot_name.ptr : NULL,
                            token,
                            version};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = forget_points(e, t, err);
    if (!st && FAULT_POINT("erase_before_rows"))
        st = error_set(err, STATUS_IO, "fault point erase_before_rows");
    st = st ? st
            : pg_query_within(e->conn,
                              "SELECT strategic_erased($1, $2::bigint, $3, $4, $5::bigint,"
                              " $6::bigint)",
                              6, params, ANSWER_US, "could not remove rows", &res, err);
    if (!st && FAULT_POINT("erase_after_rows"))
        st = error_set(err, STATUS_IO, "fault point erase_after_rows");
    /* Those who keep copies, once: by the worker that the rows were written by. */
    if (!st && t->row_version)
        st = feed_erased(e->cfg.feed, t->bot_name, t->user_id, t->row_version, err);
    if (!st)
        task->receipt = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
    return st;
}

/* Everything that was in the inbox when the state was clean has been given to the workers, which
 * let nothing of the user pass, and has left the file. AGAIN: not yet. */
static enum status wait_for_inbox(struct eraser *e, struct task *task, struct error *err)
{
    struct inbox *inbox = door_inbox(e->cfg.door);
    if (!inbox)
        return STATUS_OK;
    if (!task->inbox)
        task->inbox = inbox_newest(inbox);
    if (task->inbox > inbox_view(inbox).deleted)
        return STATUS_AGAIN;
    return inbox_scrub(e->cfg.cfg->state_dir, err);
}

static void put_kept(struct jsonw *w, const char *what, const char *why)
{
    jsonw_object_begin(w);
    jsonw_key(w, "what");
    jsonw_string(w, str_from(what));
    jsonw_key(w, "why");
    jsonw_string(w, str_from(why));
    jsonw_object_end(w);
}

static void put_count(struct jsonw *w, const char *name, uint64_t n)
{
    jsonw_key(w, name);
    jsonw_int(w, (int64_t)n);
}

static enum status put_report(const struct erasure_counts *n, struct buf *out)
{
    struct jsonw w;
    jsonw_init(&w, out);
    jsonw_object_begin(&w);
    put_count(&w, "bot_messages", n->messages);
    put_count(&w, "dead_letters", n->dead_letters);
    put_count(&w, "journal_entries", n->entries);
    jsonw_key(&w, "kept");
    jsonw_array_begin(&w);
    put_kept(&w, "epochs", "daily sums over all users of a bot: counts, no text and no names");
    if (n->metric_days)
        put_kept(&w, "metric_hours",
                 "sums of a bot's metrics by hour do not say whose they are: rebuild the bot when "
                 "its metrics come from a table, or they leave after 30 days");
    jsonw_array_end(&w);
    put_count(&w, "keys", n->keys);
    put_count(&w, "metric_days", n->metric_days);
    put_count(&w, "pages", n->pages);
    jsonw_object_end(&w);
    enum status st = jsonw_status(&w);
    return st ? st : buf_put_u8(out, 0);
}

static enum status report(struct eraser *e, struct task *task, struct error *err)
{
    struct erase_task *t = &task->t;
    enum status st = wait_for_inbox(e, task, err);
    if (st)
        return st;
    CLEANUP(buf_deinit) struct buf text;
    buf_init(&text, REPORT_BYTES);
    if (put_report(&t->counts, &text))
        return error_set(err, STATUS_NOMEM, "could not write a receipt");
    char epoch[24], id[24], worker[16], workers[16];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, e->cfg.epoch);
    snprintf(id, sizeof(id), "%" PRIu64, t->receipt);
    snprintf(worker, sizeof(worker), "%u", t->worker);
    snprintf(workers, sizeof(workers), "%u", t->workers);
    const char *params[] = {e->cfg.cfg->pipeline, epoch, id, worker, workers, text.data};
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = pg_query_within(e->conn,
                         "SELECT strategic_erasure_report($1, $2::bigint, $3::bigint, $4::int,"
                         " $5::int, $6::jsonb)",
                         6, params, ANSWER_US, "could not store a receipt", &res, err);
    if (!st && FAULT_POINT("erase_reported"))
        st = error_set(err, STATUS_IO, "fault point erase_reported");
    return st;
}

/* ---- the thread ---- */

static struct task *next_open(struct eraser *e, const struct task *after)
{
    pthread_mutex_lock(&e->lock);
    struct task *task = after ? after->next : e->tasks;
    while (task && task->done)
        task = task->next;
    pthread_mutex_unlock(&e->lock);
    return task;
}

/* Tasks that are not done stay where they are: only a worker takes one out, and only done ones. */
static enum status work(struct eraser *e, struct error *err)
{
    enum status st = STATUS_OK;
    for (struct task *task = next_open(e, NULL); task && !st && !atomic_load(&e->stop);) {
        st = open_sink(e, err);
        if (!st)
            st = task->t.step == ERASURE_STATE ? remove_rows(e, task, err) : report(e, task, err);
        struct task *next = next_open(e, task);
        if (!st) {
            task->receipt = task->t.step == ERASURE_STATE ? task->receipt : task->t.receipt;
            pthread_mutex_lock(&e->lock);
            task->done = true;
            pthread_mutex_unlock(&e->lock);
        }
        if (st == STATUS_AGAIN)
            st = STATUS_OK;
        task = next;
    }
    return st;
}

static void nap(struct eraser *e, int64_t us)
{
    for (; us > 0 && !atomic_load(&e->stop); us -= SLICE_US) {
        struct timespec ts = {0, SLICE_US * 1000};
        nanosleep(&ts, NULL);
    }
}

static void *eraser_main(void *arg)
{
    struct eraser *e = arg;
    char last[sizeof(((struct error *)0)->text)] = "";
    while (!atomic_load(&e->stop)) {
        struct error err = {.code = STATUS_OK};
        enum status st = work(e, &err);
        if (st && !atomic_load(&e->stop) && strcmp(last, err.text) != 0)
            log_write(LOG_WARN, "erasure", "could not go on, trying again error=\"%s\"", err.text);
        (void)snprintf(last, sizeof(last), "%s", st ? err.text : "");
        if (st)
            disconnect(e);
        nap(e, st ? RETRY_US : SLICE_US);
    }
    atomic_store(&e->ended, true);
    return NULL;
}

/* ---- life ---- */

enum status eraser_start(const struct eraser_config *cfg, struct eraser **ret, struct error *err)
{
    struct eraser *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(err, STATUS_NOMEM, "could not allocate the eraser");
    e->cfg = *cfg;
    e->socket = -1;
    pthread_mutex_init(&e->lock, NULL);
    int rc = pthread_create(&e->thread, NULL, eraser_main, e);
    if (rc) {
        pthread_mutex_destroy(&e->lock);
        free(e);
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    }
    *ret = e;
    return STATUS_OK;
}

static void halt(struct eraser *e)
{
    atomic_store(&e->stop, true);
    while (!atomic_load(&e->ended)) {
        /* A server may not answer at all. */
        pthread_mutex_lock(&e->lock);
        if (e->socket >= 0)
            (void)shutdown(e->socket, SHUT_RDWR);
        pthread_mutex_unlock(&e->lock);
        struct timespec ts = {0, SLICE_US * 1000};
        nanosleep(&ts, NULL);
    }
    pthread_join(e->thread, NULL);
    disconnect(e);
}

void eraser_free(struct eraser *e)
{
    if (!e)
        return;
    halt(e);
    while (e->tasks) {
        struct task *next = e->tasks->next;
        free(e->tasks);
        e->tasks = next;
    }
    pthread_mutex_destroy(&e->lock);
    free(e);
}
