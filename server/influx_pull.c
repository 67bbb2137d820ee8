#include "server/influx_pull.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/metrics.h"
#include "ingest/feedback.h"
#include "ingest/influx_event.h"
#include "ingest/influx_rows.h"
#include "server/config_door.h"
#include "server/door_write.h"
#include "server/http_client.h"
#include "server/influx_known.h"
#include "state/inbox.h"
#include "state/seen.h"

#define STAGE            "influx"
#define WINDOW_US        US_PER_HOUR /* of one query: what a crash or a failure repeats at most */
#define BATCH_VALUES     1000        /* fewer than an engine remembers of the newest (metrics.h) */
#define BATCH_BYTES      (512u << 10)
#define DOCUMENT_BYTES   (64u << 20) /* of one chunk of an answer */
#define CHUNK_ROWS       2000
#define RECOVER_ROWS     256
#define MEASUREMENTS_MAX 64
#define LOOK_US          (US_PER_SECOND / 4)
#define RETRY_MIN_US     US_PER_SECOND
#define RETRY_REFUSED_US (5 * US_PER_MINUTE) /* somebody must mend it */
#define REPEAT_US        (10 * US_PER_MINUTE)

/* The names of one reading, in `text`. */
struct names {
    struct buf text; /* each with its NUL */
    size_t n;
};

struct influx_pull {
    const struct config_catch_up *cfg;
    char name[CONFIG_SOURCE_BYTES];
    char where[CONFIG_SOURCE_BYTES + 8];
    struct influx_map map;
    struct inbox *inbox;
    const struct clock *clock;
    struct seen *seen;
    struct http_client *http;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    atomic_bool unnoted; /* the journal of notes could not be written */

    pthread_mutex_t lock; /* guards what follows, up to the blank line */
    pthread_cond_t wake;
    int committed; /* outcome of the delivery that is waited for, -1 = none yet */

    /* The thread's own. */
    int64_t cursor_us; /* 0 = none */
    int64_t rescanned; /* monotonic, 0 = not yet */
    int64_t forgotten; /* monotonic */
    int64_t received_us;
    struct influx_batch batch;
    struct buf document; /* the part of an answer that is no whole document yet */
    enum status seen_status;
    struct error seen_error;
    int64_t retry_after_us; /* as the server asked when it failed; 0 = it did not */
    uint64_t points;        /* submitted by this reading, for the log */
    char trouble[256];
    struct log_limit trouble_limit;
};

/* ---- what was counted ---- */

void influx_pull_note(void *ctx, const struct seen_mark *marks, size_t n)
{
    struct influx_pull *p = ctx;
    if (!seen_note(p->seen, marks, n))
        atomic_store(&p->unnoted, true);
}

bool influx_pull_seen(void *ctx, const struct seen_mark *mark)
{
    return seen_recently(((struct influx_pull *)ctx)->seen, mark);
}

static enum status keep_noted(struct influx_pull *p, struct error *err)
{
    if (atomic_exchange(&p->unnoted, false))
        log_write(LOG_WARN, STAGE,
                  "what was counted could not be noted: some points may count again name=\"%s\"",
                  p->name);
    return seen_keep(p->seen, err);
}

static bool was_seen(void *ctx, const struct seen_mark *mark)
{
    struct influx_pull *p = ctx;
    bool found = false;
    if (!p->seen_status)
        p->seen_status = seen_has(p->seen, mark, &found, &p->seen_error);
    return found;
}

/* ---- into the inbox ---- */

static void on_committed(void *ctx, enum inbox_outcome outcome)
{
    struct influx_pull *p = ctx;
    /* Here, where the commit has just been: the sooner, the less comes again after a crash. The
     * thread waits for this call, so the batch is ours. */
    if (outcome != INBOX_FAILED && p->batch.marks.len)
        influx_pull_note(p, (const struct seen_mark *)(const void *)p->batch.marks.data,
                         influx_batch_marks(&p->batch));
    pthread_mutex_lock(&p->lock);
    p->committed = (int)outcome;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

/* Waits for us microseconds, or until something happens; at once when it is to stop. */
static void wait_locked(struct influx_pull *p, int64_t us)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += us / US_PER_SECOND;
    at.tv_nsec += us % US_PER_SECOND * 1000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    if (!atomic_load(&p->stop))
        (void)pthread_cond_timedwait(&p->wake, &p->lock, &at);
}

static void pause_for(struct influx_pull *p, int64_t us)
{
    pthread_mutex_lock(&p->lock);
    wait_locked(p, us);
    pthread_mutex_unlock(&p->lock);
}

/* Commits it; as long as the inbox is full it waits, so that nothing piles up here. END: stop. */
static enum status deliver(struct influx_pull *p, const struct inbox_delivery *d, struct error *err)
{
    p->committed = -1;
    enum status st;
    while ((st = inbox_submit(p->inbox, d, on_committed, p, err)) == STATUS_AGAIN) {
        if (atomic_load(&p->stop))
            return error_set(err, STATUS_END, "stopping");
        pause_for(p, US_PER_SECOND / 10);
    }
    if (st)
        return st;
    /* Even when it is to stop: the inbox answers everything before it is closed. */
    pthread_mutex_lock(&p->lock);
    while (p->committed < 0)
        pthread_cond_wait(&p->wake, &p->lock);
    st = p->committed == INBOX_FAILED ? STATUS_IO : STATUS_OK;
    pthread_mutex_unlock(&p->lock);
    return st ? error_set(err, st, "the inbox could not store it") : STATUS_OK;
}

/* Events first, then (on_committed) that they were counted: the other way round a crash would lose
 * them. */
static enum status flush(struct influx_pull *p, struct error *err)
{
    struct influx_batch *b = &p->batch;
    enum status st = STATUS_OK;
    if (b->n_events) {
        struct inbox_delivery d = {.source = str_from(p->name),
                                   .received_us = clock_wall_us(p->clock),
                                   .events = {b->events.data, b->events.len},
                                   .n_events = b->n_events};
        st = deliver(p, &d, err);
    }
    if (!st)
        influx_count(p->name, b);
    p->points += b->n_events;
    influx_batch_reset(b);
    return st;
}

static enum status keep_cursor(struct influx_pull *p, int64_t cursor_us, struct error *err)
{
    char text[32];
    if (cursor_us <= p->cursor_us)
        return STATUS_OK;
    int len = snprintf(text, sizeof(text), "%" PRId64, cursor_us);
    struct inbox_delivery d = {.source = str_from(p->name),
                               .received_us = clock_wall_us(p->clock),
                               .cursor = {text, (size_t)len}};
    enum status st = deliver(p, &d, err);
    if (st)
        return st;
    p->cursor_us = cursor_us;
    metric_set(METRIC_PULL_CURSOR, p->name, NULL, (double)cursor_us / US_PER_SECOND);
    return STATUS_OK;
}

static enum status load_cursor(struct influx_pull *p, struct error *err)
{
    struct buf text;
    buf_init(&text, 64);
    enum status st = inbox_cursor(p->inbox, str_from(p->name), &text, err);
    if (!st)
        st = buf_append(&text, "", 1);
    if (!st)
        p->cursor_us = strtoll(text.data, NULL, 10);
    buf_deinit(&text);
    return st == STATUS_END ? STATUS_OK : st;
}

/* ---- queries ---- */

static enum status take_point(void *ctx, const struct line_point *point, struct error *err)
{
    struct influx_pull *p = ctx;
    enum status st = influx_add_point(&p->batch, &p->map, point, p->received_us, err);
    if (!st && p->seen_status)
        st = error_set(err, p->seen_status, "%s", p->seen_error.text);
    if (st || (influx_batch_marks(&p->batch) < BATCH_VALUES && p->batch.events.len < BATCH_BYTES))
        return st;
    return flush(p, err);
}

/* An answer is one document a line; chunks of the connection end anywhere. */
static enum status take_bytes(void *ctx, struct str bytes, struct error *err)
{
    struct influx_pull *p = ctx;
    while (bytes.len) {
        const char *end = memchr(bytes.ptr, '\n', bytes.len);
        size_t n = end ? (size_t)(end - bytes.ptr) + 1 : bytes.len;
        enum status st = buf_append(&p->document, bytes.ptr, n);
        if (st)
            return error_set(err, st, "a part of the answer has more than %u bytes",
                             DOCUMENT_BYTES);
        bytes = (struct str){bytes.ptr + n, bytes.len - n};
        if (!end)
            return STATUS_OK;
        st = influx_rows_read((struct str){p->document.data, p->document.len}, take_point, p, err);
        buf_reset(&p->document);
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status refused(struct influx_pull *p, const struct http_client_reply *reply,
                           struct error *err)
{
    char said[160];
    const char *text = http_client_excerpt(reply->body, p->cfg->password, said, sizeof(said));
    if (reply->status == 401 || reply->status == 403)
        return error_set(err, STATUS_REFUSED,
                         "InfluxDB answers %u: %s; give influx.catch_up a user who may read the "
                         "database \"%s\"",
                         reply->status, text, p->cfg->database);
    return error_set(err, STATUS_IO, "InfluxDB answers %u: %s", reply->status, text);
}

static enum status query(struct influx_pull *p, struct str q, bool chunked, struct error *err)
{
    char base[CONFIG_URL_BYTES + 16];
    struct buf url;
    struct http_client_reply reply = {0};
    enum status st = http_client_join(p->cfg->url, "query", base, sizeof(base), err);
    if (st)
        return st;
    buf_init(&url, 16 << 10);
    st = buf_printf(&url, "%s?epoch=ns&db=", base);
    if (!st)
        st = http_client_escape(str_from(p->cfg->database), &url);
    if (!st && chunked)
        st = buf_printf(&url, "&chunked=true&chunk_size=%d", CHUNK_ROWS);
    if (!st)
        st = buf_append_str(&url, STR("&q="));
    if (!st)
        st = http_client_escape(q, &url);
    if (!st)
        st = buf_append(&url, "", 1);
    if (st) {
        st = error_set(err, st, "the query is too long");
    } else {
        struct http_client_call call = {.url = url.data, .chunk = take_bytes, .ctx = p};
        if (*p->cfg->user) {
            call.user = p->cfg->user;
            call.password = p->cfg->password;
        }
        if (!chunked)
            call.chunk = NULL;
        buf_reset(&p->document);
        st = http_client_call(p->http, &call, &reply, err);
    }
    buf_deinit(&url);
    p->retry_after_us = (int64_t)reply.retry_after_s * US_PER_SECOND;
    if (!st && reply.status != 200)
        st = refused(p, &reply, err);
    if (!st && !chunked)
        st = buf_append_str(&p->document, reply.body);
    else if (!st && p->document.len)
        st = error_set(err, STATUS_PROTOCOL, "the answer of InfluxDB was cut short");
    metric_add(METRIC_PULL_REQUESTS, p->name,
               st == STATUS_OK        ? "ok"
               : st == STATUS_REFUSED ? "refused"
                                      : "failed",
               1);
    return st;
}

static enum status read_measurement(struct influx_pull *p, const char *name, int64_t from_us,
                                    int64_t to_us, struct error *err)
{
    struct buf q;
    buf_init(&q, 4096);
    p->received_us = clock_wall_us(p->clock);
    p->seen_status = STATUS_OK;
    influx_batch_reset(&p->batch);
    enum status st = influx_select(str_from(name), from_us * 1000,
                                   to_us == INT64_MAX ? INT64_MAX : to_us * 1000, &q);
    st = st ? error_set(err, st, "the name of a measurement is too long")
            : query(p, (struct str){q.data, q.len}, true, err);
    if (!st)
        st = flush(p, err);
    buf_deinit(&q);
    return st;
}

/* ---- a reading ---- */

static enum status add_name(void *ctx, struct str name, struct error *err)
{
    struct names *names = ctx;
    if (!influx_used(name) || names->n == MEASUREMENTS_MAX)
        return STATUS_OK;
    enum status st = buf_append_str(&names->text, name);
    if (!st)
        st = buf_append(&names->text, "", 1);
    names->n += !st;
    return st ? error_set(err, st, "there are too many measurements") : STATUS_OK;
}

/* Those of the configuration, else those that the database has and anything is made of. */
static enum status list_measurements(struct influx_pull *p, struct names *names, struct error *err)
{
    struct str rest = str_from(p->cfg->measurements);
    if (rest.len == 0) {
        enum status st = query(p, STR("SHOW MEASUREMENTS"), false, err);
        return st ? st
                  : influx_names_read((struct str){p->document.data, p->document.len}, add_name,
                                      names, err);
    }
    while (rest.len) {
        const char *comma = memchr(rest.ptr, ',', rest.len);
        struct str name = {rest.ptr, comma ? (size_t)(comma - rest.ptr) : rest.len};
        rest.len -= name.len + (comma != NULL);
        rest.ptr += name.len + (comma != NULL);
        for (; name.len && name.ptr[0] == ' '; name.ptr++)
            name.len--;
        while (name.len && name.ptr[name.len - 1] == ' ')
            name.len--;
        enum status st = add_name(names, name, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

/* The failure of one measurement keeps no other from being read, a connection that is gone does. */
static enum status read_window(struct influx_pull *p, const struct names *names, int64_t from_us,
                               int64_t to_us, struct error *err)
{
    enum status result = STATUS_OK;
    const char *name = names->text.data;
    for (size_t i = 0; i < names->n; i++, name += strlen(name) + 1) {
        struct error why;
        enum status st = keep_noted(p, &why);
        if (!st)
            st = read_measurement(p, name, from_us, to_us, &why);
        if (!st)
            continue;
        if (!result)
            result = error_set(err, st, "%s: %.700s", name, why.text);
        if (st != STATUS_INVALID && st != STATUS_PROTOCOL)
            return result;
    }
    return result;
}

static enum status read_since(struct influx_pull *p, const struct names *names, int64_t from_us,
                              int64_t now_us, struct error *err)
{
    enum status result = STATUS_OK;
    while (!atomic_load(&p->stop)) {
        int64_t end_us = time_floor_us(from_us, WINDOW_US) + WINDOW_US;
        bool last = end_us > now_us;
        enum status st = read_window(p, names, from_us, last ? INT64_MAX : end_us, err);
        if (st)
            result = st;
        if (st && st != STATUS_INVALID && st != STATUS_PROTOCOL)
            return st;
        /* Beyond a window that could not be read the cursor does not go. */
        if (!result)
            result = keep_cursor(p, last ? now_us : end_us, err);
        if (last)
            return result;
        from_us = end_us;
    }
    return error_set(err, STATUS_END, "stopping");
}

static bool is_due(int64_t last, int64_t each_us, int64_t now)
{
    return last == 0 || now - last >= each_us;
}

static enum status read_all(struct influx_pull *p, struct error *err)
{
    const struct config_catch_up *c = p->cfg;
    const int64_t now_us = clock_wall_us(p->clock), mono = clock_mono_us(p->clock);
    int64_t from_us = p->cursor_us ? p->cursor_us - c->overlap_us : now_us - c->rescan_window_us;
    bool rescan = is_due(p->rescanned, c->rescan_us, mono);
    if (rescan && from_us > now_us - c->rescan_window_us)
        from_us = now_us - c->rescan_window_us;
    struct names names = {0};
    buf_init(&names.text, 64 << 10);
    p->points = 0;
    enum status st = keep_noted(p, err);
    if (!st)
        st = list_measurements(p, &names, err);
    if (!st)
        st = read_since(p, &names, from_us, now_us, err);
    buf_deinit(&names.text);
    if (st)
        return st;
    if (rescan)
        p->rescanned = mono;
    if (is_due(p->forgotten, US_PER_HOUR, mono)) {
        p->forgotten = mono;
        st = seen_forget(p->seen, now_us - c->rescan_window_us - c->overlap_us - US_PER_HOUR, err);
    }
    return st;
}

/* ---- the thread ---- */

static void tell_trouble(struct influx_pull *p, const struct error *err, int64_t retry_us)
{
    /* The same again is said every ten minutes. */
    if (strncmp(p->trouble, err->text, sizeof(p->trouble) - 1) != 0)
        p->trouble_limit = (struct log_limit){0};
    snprintf(p->trouble, sizeof(p->trouble), "%.255s", err->text);
    if (log_limit_pass(&p->trouble_limit, clock_mono_us(p->clock), REPEAT_US) < 0)
        return;
    log_write(err->code == STATUS_REFUSED ? LOG_ERROR : LOG_WARN, STAGE,
              "could not catch up name=\"%s\" error=\"%s\" retry_s=%" PRId64, p->name, err->text,
              retry_us / US_PER_SECOND);
}

static void tell_success(struct influx_pull *p)
{
    if (*p->trouble)
        log_write(LOG_INFO, STAGE, "catching up again name=\"%s\"", p->name);
    *p->trouble = '\0';
    if (p->points)
        log_write(LOG_DEBUG, STAGE, "caught up name=\"%s\" events=%" PRIu64, p->name, p->points);
    metric_set(METRIC_SOURCE_CONNECTED, p->name, NULL, 1);
}

static uint64_t random_bits(struct influx_pull *p)
{
    return hash64_mix((uint64_t)clock_mono_us(p->clock) ^ (uint64_t)(uintptr_t)p);
}

/* What is pushed meanwhile is kept, second by second. */
static void rest(struct influx_pull *p, int64_t us)
{
    const int64_t until = clock_mono_us(p->clock) + us;
    while (!atomic_load(&p->stop)) {
        int64_t left = until - clock_mono_us(p->clock);
        if (left <= 0)
            return;
        pause_for(p, left < LOOK_US ? left : LOOK_US);
        struct error err;
        if (keep_noted(p, &err))
            tell_trouble(p, &err, left);
    }
}

static int64_t next_try(struct influx_pull *p, enum status st, int64_t last_us)
{
    int64_t max_us = p->cfg->interval_us > RETRY_MIN_US ? p->cfg->interval_us : RETRY_MIN_US;
    if (st == STATUS_REFUSED)
        return RETRY_REFUSED_US;
    int64_t us = backoff_next(last_us, RETRY_MIN_US, max_us, random_bits(p));
    return p->retry_after_us > us ? p->retry_after_us : us;
}

static void *run(void *ctx)
{
    struct influx_pull *p = ctx;
    int64_t retry_us = 0;
    while (!atomic_load(&p->stop)) {
        struct error err;
        enum status st = read_all(p, &err);
        if (!st) {
            tell_success(p);
            retry_us = 0;
            rest(p, p->cfg->interval_us);
            continue;
        }
        if (atomic_load(&p->stop))
            break;
        metric_set(METRIC_SOURCE_CONNECTED, p->name, NULL, 0);
        retry_us = next_try(p, st, retry_us);
        tell_trouble(p, &err, retry_us);
        rest(p, retry_us);
    }
    return NULL;
}

/* ---- set up ---- */

static enum status open_seen(const char *name, const char *state_dir, struct seen **ret,
                             struct error *err)
{
    char path[1024];
    bool lost = false;
    if ((size_t)snprintf(path, sizeof(path), "%s/influx-%s.db", state_dir, name) >= sizeof(path))
        return error_set(err, STATUS_IO, "the state directory's name is too long");
    enum status st = seen_open(path, ret, &lost, err);
    if (!st && lost)
        log_write(LOG_WARN, STAGE,
                  "what was read could not be read back and is begun anew: points of the last "
                  "readings may count again path=\"%s\"",
                  path);
    return st;
}

struct recovery {
    const char *name;
    struct seen *seen;
    struct event_arena *arena;
    struct buf marks;
    uint64_t after;
};

static enum status recover_row(void *ctx, const struct inbox_row *row, struct error *err)
{
    struct recovery *r = ctx;
    struct reader in = reader_of(row->events.ptr, row->events.len);
    enum status st = STATUS_OK;
    r->after = row->id;
    if (!str_equal(row->source, str_from(r->name)))
        return STATUS_OK;
    buf_reset(&r->marks);
    for (uint32_t i = 0; i < row->n_events && !st && !in.bad; i++) {
        struct event e;
        event_arena_reset(r->arena);
        /* What cannot be decoded is the feed's to complain of. */
        if (event_decode(reader_blob(&in), r->arena, &e, NULL) == STATUS_OK)
            st = influx_event_marks(&e, &r->marks);
    }
    if (st)
        return error_set(err, st, "could not note what row %" PRIu64 " of the inbox has", row->id);
    return seen_add(r->seen, (const struct seen_mark *)(const void *)r->marks.data,
                    r->marks.len / sizeof(struct seen_mark), err);
}

enum status influx_pull_recover(const struct config_influx *cfg, const char *state_dir,
                                struct inbox *inbox, struct error *err)
{
    struct recovery r = {.name = cfg->name};
    buf_init(&r.marks, SIZE_MAX);
    enum status st = open_seen(cfg->name, state_dir, &r.seen, err);
    if (!st)
        st = event_arena_new(&r.arena, err);
    while (!st)
        st = inbox_read(inbox, r.after, RECOVER_ROWS, recover_row, &r, err);
    event_arena_free(r.arena);
    seen_close(r.seen);
    buf_deinit(&r.marks);
    return st == STATUS_END ? STATUS_OK : st;
}

static enum status set_up(struct influx_pull *p, const char *state_dir, struct error *err)
{
    bool exposed = false;
    struct http_client_config hc = {.total_us = INT64_MAX,
                                    .stall_us = US_PER_MINUTE,
                                    .body_max = SIZE_MAX / 4,
                                    .stop = &p->stop};
    enum status st = http_client_check_url(p->cfg->url, &exposed, err);
    if (st)
        return st;
    if (exposed)
        log_write(LOG_WARN, STAGE,
                  "influx.catch_up.url is http to another machine: whoever is on the way can read "
                  "the password and change the answers; use https");
    st = influx_batch_init(&p->batch, 8 << 20, err);
    if (!st)
        st = http_client_new(&hc, &p->http, err);
    if (!st)
        st = open_seen(p->name, state_dir, &p->seen, err);
    return st ? st : load_cursor(p, err);
}

enum status influx_pull_start(const struct config_influx *cfg, const char *state_dir,
                              struct inbox *inbox, const struct clock *clock,
                              struct influx_pull **ret, struct error *err)
{
    pthread_condattr_t attr;
    CLEANUP(influx_pull_freep) struct influx_pull *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, STATUS_NOMEM, "could not allocate the catch-up of influx");
    p->cfg = &cfg->catch_up;
    p->inbox = inbox;
    p->clock = clock;
    snprintf(p->name, sizeof(p->name), "%s", cfg->name);
    snprintf(p->where, sizeof(p->where), "influx:%s", p->name);
    p->map = (struct influx_map){
        .where = str_from(p->where), .known = influx_known, .seen = was_seen, .seen_ctx = p};
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    buf_init(&p->document, DOCUMENT_BYTES);
    enum status st = set_up(p, state_dir, err);
    if (st)
        return st;
    metric_set(METRIC_SOURCE_CONNECTED, p->name, NULL, 0);
    int rc = pthread_create(&p->thread, NULL, run, p);
    if (rc)
        return error_set(err, STATUS_IO, "could not start a thread: %s", strerror(rc));
    p->started = true;
    *ret = TAKE(p);
    return STATUS_OK;
}

void influx_pull_stop(struct influx_pull *p)
{
    if (!p || !p->started)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    (void)pthread_join(p->thread, NULL);
    p->started = false;
}

void influx_pull_free(struct influx_pull *p)
{
    if (!p)
        return;
    influx_pull_stop(p);
    seen_close(p->seen);
    http_client_free(p->http);
    influx_batch_deinit(&p->batch);
    buf_deinit(&p->document);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
