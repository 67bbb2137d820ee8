#include "server/qdrant_pull.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/hash.h"
#include "core/log.h"
#include "core/metrics.h"
#include "ingest/feedback.h"
#include "server/qdrant_internal.h"

#define ANSWER_BYTES   (32u << 20)
#define REQUEST_BYTES  (2u << 20)
#define WAIT_MIN_US    (US_PER_SECOND / 2)
#define WAIT_MAX_US    US_PER_MINUTE
#define WAIT_SLOW_US   (30 * US_PER_SECOND) /* until somebody has set right what is refused */
#define WAIT_INBOX_US  (US_PER_SECOND / 5)
#define TROUBLE_LOG_US (10 * US_PER_MINUTE)

/* ---- waiting ---- */

static void wait_locked(struct qdrant_pull *p, int64_t us)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t ns = at.tv_nsec + us % US_PER_SECOND * 1000;
    at.tv_sec += us / US_PER_SECOND + ns / 1000000000;
    at.tv_nsec = ns % 1000000000;
    (void)pthread_cond_timedwait(&p->wake, &p->lock, &at);
}

/* A stop ends it. */
static void pause_for(struct qdrant_pull *p, int64_t us)
{
    int64_t until_us = clock_mono_us(p->clock) + us;
    pthread_mutex_lock(&p->lock);
    for (int64_t left_us = us; left_us > 0 && !atomic_load(&p->stop);
         left_us = until_us - clock_mono_us(p->clock))
        wait_locked(p, left_us < US_PER_SECOND ? left_us : US_PER_SECOND);
    pthread_mutex_unlock(&p->lock);
}

/* ---- the inbox ---- */

static enum status put_cursor(const struct qdrant_pull *p, struct buf *out)
{
    enum status st = buf_printf(out, "{\"v\":1,\"delivery\":%" PRIu64, p->delivery + 1);
    if (!st && p->has_at)
        st = buf_printf(out, ",\"at_us\":%" PRId64, p->at_us);
    return st ? st : buf_append_str(out, STR("}"));
}

static enum status read_cursor(struct qdrant_pull *p, struct str text, struct error *err)
{
    json_t *root = json_loadb(text.ptr, text.len, 0, NULL);
    const json_t *at = json_object_get(root, "at_us"), *n = json_object_get(root, "delivery");
    bool ok = json_is_integer(n) && (!at || json_is_integer(at));
    p->has_at = at != NULL;
    p->at_us = at ? json_integer_value(at) : 0;
    p->delivery = ok ? (uint64_t)json_integer_value(n) : 0;
    json_decref(root);
    return ok ? STATUS_OK : error_set(err, STATUS_CORRUPT, "the cursor in the inbox is not one");
}

static void on_done(void *ctx, enum inbox_outcome outcome)
{
    struct qdrant_pull *p = ctx;
    pthread_mutex_lock(&p->lock);
    p->outcome = outcome;
    p->delivered = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

/* Until it is committed. END: a stop came before it was taken. */
static enum status submit(struct qdrant_pull *p, const struct inbox_delivery *d, struct error *err)
{
    enum status st = STATUS_AGAIN;
    p->delivered = false;
    while (!atomic_load(&p->stop)) {
        st = inbox_submit(p->inbox, d, on_done, p, err);
        if (st != STATUS_AGAIN)
            break;
        pause_for(p, WAIT_INBOX_US);
    }
    if (st)
        return st == STATUS_AGAIN ? error_set(err, STATUS_END, "stopped") : st;
    /* Taken is taken: `done` will be called with our address, whatever else happens. */
    pthread_mutex_lock(&p->lock);
    while (!p->delivered)
        wait_locked(p, US_PER_SECOND);
    enum inbox_outcome outcome = p->outcome;
    pthread_mutex_unlock(&p->lock);
    if (outcome == INBOX_FAILED)
        return error_set(err, STATUS_IO, "the inbox could not store what was read");
    return STATUS_OK;
}

/* What the inbox has is written down beside the points. */
enum status qdrant_remember(struct qdrant_pull *p, struct error *err)
{
    struct reader r = reader_of(p->changes.data, p->changes.len);
    enum status st = points_change(p->points, err);
    while (!st && reader_left(&r) > 0) {
        struct str id = reader_blob(&r);
        struct str known = reader_blob(&r);
        assert(!r.bad);
        st = known.len ? points_put(p->points, id, known, err) : points_remove(p->points, id, err);
    }
    return st ? st : points_commit(p->points, p->delivery, err);
}

void qdrant_forget_batch(struct qdrant_pull *p)
{
    buf_reset(&p->events);
    buf_reset(&p->changes);
    p->n_events = 0;
}

/* The events gathered and the cursor become durable together, then the points. */
enum status qdrant_deliver(struct qdrant_pull *p, struct error *err)
{
    char cursor[128];
    struct buf text;
    buf_init(&text, sizeof(cursor));
    enum status st = put_cursor(p, &text);
    struct inbox_delivery d = {
        .source = str_from(p->cfg->name),
        .received_us = clock_wall_us(p->clock),
        .events = {p->events.data ? p->events.data : "", p->events.len},
        .n_events = p->n_events,
        .cursor = {text.data, text.len},
    };
    st = st ? error_set(err, st, "could not allocate a cursor") : submit(p, &d, err);
    buf_deinit(&text);
    if (!st) {
        p->delivery++;
        st = qdrant_remember(p, err);
    }
    qdrant_forget_batch(p);
    return st;
}

/* ---- the thread ---- */

/* Where the last run ended. */
static enum status load(struct qdrant_pull *p, struct error *err)
{
    struct buf cursor;
    bool lost = false;
    enum status st = STATUS_OK;
    if (!p->points)
        st = points_open(p->state_dir, p->cfg->name, &p->points, &lost, err);
    if (st)
        return st;
    if (lost)
        log_write(LOG_WARN, "qdrant",
                  "what was remembered of the points could not be read: all are read again, and "
                  "deletions of meanwhile are not seen source=\"%s\"",
                  p->cfg->name);
    buf_init(&cursor, 4096);
    st = inbox_cursor(p->inbox, str_from(p->cfg->name), &cursor, err);
    if (st == STATUS_OK)
        st = read_cursor(p, (struct str){cursor.data, cursor.len}, err);
    else if (st == STATUS_END)
        st = STATUS_OK;
    buf_deinit(&cursor);
    st = st ? st : points_begin(p->points, p->delivery, err);
    if (st)
        return st;
    int64_t now_us = clock_mono_us(p->clock), since_us = 0;
    if (p->has_at && points_swept_us(p->points) > 0)
        since_us = clock_wall_us(p->clock) - points_swept_us(p->points);
    bool due = since_us <= 0 || since_us >= p->cfg->sweep_us;
    p->next_sweep_us = due ? now_us : now_us + p->cfg->sweep_us - since_us;
    p->next_poll_us = now_us;
    p->loaded = true;
    return STATUS_OK;
}

static int64_t due_us(const struct qdrant_pull *p)
{
    if (!p->loaded || p->removing || p->sweeping || !p->has_at)
        return 0;
    return p->next_poll_us < p->next_sweep_us ? p->next_poll_us : p->next_sweep_us;
}

static void show(const struct qdrant_pull *p, bool ok)
{
    metric_set(METRIC_SOURCE_CONNECTED, p->cfg->name, NULL, ok);
    if (p->has_at)
        metric_set(METRIC_PULL_CURSOR, p->cfg->name, NULL, (double)p->at_us / US_PER_SECOND);
}

static void went_well(struct qdrant_pull *p)
{
    if (p->wait_us > 0)
        log_write(LOG_INFO, "qdrant", "reading again source=\"%s\"", p->cfg->name);
    p->wait_us = 0;
    p->trouble = STATUS_OK;
    if (!p->sweeping && !p->removing)
        show(p, true);
}

/* Logs what is new, or old and still true, and says how long to wait. */
static void went_wrong(struct qdrant_pull *p, enum status st, const struct error *why)
{
    int64_t now_us = clock_mono_us(p->clock);
    bool slow = st != STATUS_IO && st != STATUS_AGAIN;
    p->random = hash64_mix(p->random + 1);
    p->wait_us =
        slow ? WAIT_SLOW_US : backoff_next(p->wait_us, WAIT_MIN_US, WAIT_MAX_US, p->random);
    if (p->wait_us < p->retry_after_s * US_PER_SECOND)
        p->wait_us = p->retry_after_s * US_PER_SECOND;
    bool known = p->trouble == st && p->trouble_status == p->status &&
                 now_us < p->trouble_us + TROUBLE_LOG_US;
    log_write(known  ? LOG_DEBUG
              : slow ? LOG_ERROR
                     : LOG_WARN,
              "qdrant",
              "could not read the collection, trying again in %" PRId64
              " ms source=\"%s\" error=\"%s\"",
              p->wait_us / 1000, p->cfg->name, why->text);
    if (!known)
        p->trouble_us = now_us;
    p->trouble = st;
    p->trouble_status = p->status;
    show(p, false);
}

static void *run(void *ctx)
{
    struct qdrant_pull *p = ctx;
    while (!atomic_load(&p->stop)) {
        int64_t left_us = due_us(p) - clock_mono_us(p->clock);
        if (left_us > 0) {
            pause_for(p, left_us);
            continue;
        }
        struct error why = {.code = STATUS_OK};
        enum status st = p->loaded ? qdrant_read_step(p, &why) : load(p, &why);
        if (st == STATUS_END)
            break;
        if (!st) {
            if (p->loaded)
                went_well(p);
            continue;
        }
        went_wrong(p, st, &why);
        pause_for(p, p->wait_us);
    }
    return NULL;
}

/* ---- start and stop ---- */

static enum status set_up(struct qdrant_pull *p, struct error *err)
{
    const struct config_qdrant *cfg = p->cfg;
    bool exposed = false;
    char path[512];
    struct buf name;
    struct error why;
    if (http_client_check_url(cfg->url, &exposed, &why))
        return error_set(err, STATUS_INVALID, "qdrant \"%s\": url: %s", cfg->name, why.text);
    if (exposed)
        log_write(LOG_WARN, "qdrant",
                  "the connection is not encrypted: whoever is between can read the memories%s "
                  "source=\"%s\" fix=\"https, or a tunnel\"",
                  *cfg->api_key ? " and the key" : ", and the server asks for no key", cfg->name);
    buf_init(&name, 3 * sizeof(cfg->collection));
    enum status st = http_client_escape(str_from(cfg->collection), &name);
    snprintf(path, sizeof(path), "collections/%.*s/points/scroll", (int)name.len,
             name.data ? name.data : "");
    buf_deinit(&name);
    st = st ? st : http_client_join(cfg->url, path, p->url, sizeof(p->url), err);
    if (*cfg->api_key)
        snprintf(p->api_key, sizeof(p->api_key), "api-key: %s", cfg->api_key);
    struct http_client_config hc = {.body_max = ANSWER_BYTES, .stop = &p->stop};
    st = st ? st : http_client_new(&hc, &p->client, err);
    return st ? st : event_arena_new(&p->arena, err);
}

static void init_memory(struct qdrant_pull *p)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    buf_init(&p->request, REQUEST_BYTES);
    buf_init(&p->events, QDRANT_EVENTS_BYTES);
    buf_init(&p->scratch, QDRANT_EVENTS_BYTES);
    buf_init(&p->changes, QDRANT_EVENTS_BYTES);
}

static void pull_free(struct qdrant_pull *p)
{
    qdrant_walk_deinit(&p->sweep);
    points_close(p->points);
    http_client_free(p->client);
    event_arena_free(p->arena);
    buf_deinit(&p->request);
    buf_deinit(&p->events);
    buf_deinit(&p->scratch);
    buf_deinit(&p->changes);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

enum status qdrant_pull_start(const struct config_qdrant *cfg, const char *state_dir,
                              struct inbox *inbox, const struct clock *clock,
                              struct qdrant_pull **ret, struct error *err)
{
    struct qdrant_pull *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, STATUS_NOMEM, "could not allocate a pull");
    p->cfg = cfg;
    p->state_dir = state_dir;
    p->inbox = inbox;
    p->clock = clock;
    p->random = hash64(str_from(cfg->name)) ^ (uint64_t)clock_wall_us(clock);
    p->ordered = cfg->mode != QDRANT_SCROLL;
    p->rules = (struct qdrant_rules){.name = cfg->name,
                                     .bot_name = str_from(cfg->bot_name),
                                     .collection = str_from(cfg->collection)};
    init_memory(p);
    show(p, false);
    enum status st = set_up(p, err);
    if (!st && pthread_create(&p->thread, NULL, run, p))
        st = error_set(err, STATUS_IO, "could not start the thread of qdrant \"%s\"", cfg->name);
    if (st) {
        pull_free(p);
        return st;
    }
    log_write(LOG_INFO, "qdrant", "pulling source=\"%s\" url=\"%s\"", cfg->name, p->url);
    *ret = p;
    return STATUS_OK;
}

void qdrant_pull_stop(struct qdrant_pull *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pull_free(p);
}
