#include "server/door_write.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/metrics.h"
#include "ingest/influx_event.h"
#include "ingest/signature.h"
#include "server/config_door.h"
#include "server/config_secrets.h"
#include "server/door_access.h"
#include "server/influx_known.h"
#include "server/rate.h"
#include "state/inbox.h"

#define WHERE_BYTES (CONFIG_SOURCE_BYTES + 8)
#define TITLE_BAD   "No line of the body could be used; see warmpath dlq list"

struct door_write {
    struct door_write_config cfg;
    char name[CONFIG_SOURCE_BYTES];
    char where[WHERE_BYTES]; /* of dead letters */
    struct influx_map map;
    pthread_rwlock_t lock;      /* guards the two below */
    struct signature *verifier; /* NULL: anybody may write, by explicit wish */
    int64_t per_second;
    struct rate rate;
};

/* A request whose events are on their way to the disk. */
struct delivery {
    struct door_write *w;
    struct http_request *q;
    unsigned status; /* once they are there */
    int64_t received_us;
    struct buf marks;
};

/* ---- answers ---- */

static void count_answer(struct door_write *w, unsigned status, int64_t received_us)
{
    char code[16];
    snprintf(code, sizeof(code), "%u", status);
    metric_add(METRIC_WEBHOOK_REQUESTS, w->name, code, 1);
    int64_t us = clock_wall_us(w->cfg.clock) - received_us;
    metric_observe(METRIC_WEBHOOK_DURATION, w->name, NULL, us > 0 ? us : 0);
}

static void answer_problem(struct door_write *w, struct http_request *q, unsigned status,
                           const char *title)
{
    count_answer(w, status, http_received_us(q));
    http_answer_problem(q, status, title);
}

static void answer_later(struct door_write *w, struct http_request *q, unsigned status,
                         unsigned retry_after_s)
{
    count_answer(w, status, http_received_us(q));
    http_answer(q, &(struct http_answer){.status = status, .retry_after_s = retry_after_s});
}

static void answer_done(struct door_write *w, struct http_request *q, unsigned status)
{
    if (status != 204) {
        answer_problem(w, q, status, TITLE_BAD);
        return;
    }
    count_answer(w, status, http_received_us(q));
    http_answer_status(q, status);
}

/* ---- who writes ---- */

struct credentials {
    struct http_request *q;
    char *text; /* of a secret in the query, as a header would have it */
    size_t len;
};

static struct str header_of(void *ctx, const char *name, unsigned nth)
{
    struct credentials *c = ctx;
    if (nth > 0) /* the guard has refused a second Authorization */
        return STR_NULL;
    struct str header = http_header(c->q, name);
    if (header.ptr || strcmp(name, "authorization") != 0)
        return header;
    return c->text ? (struct str){c->text, c->len} : STR_NULL;
}

/* InfluxDB 1.x takes the password in the query, subscriptions and proxies a token. */
static bool secret_in_query(struct credentials *c)
{
    static const char scheme[] = "Token ";
    struct str secret = http_query(c->q, "token");
    if (!secret.ptr)
        secret = http_query(c->q, "p");
    if (!secret.ptr)
        return true;
    c->len = sizeof(scheme) - 1 + secret.len;
    c->text = malloc(c->len);
    if (!c->text)
        return false;
    memcpy(c->text, scheme, sizeof(scheme) - 1);
    memcpy(c->text + sizeof(scheme) - 1, secret.ptr, secret.len);
    return true;
}

/* The secret needs no body, so nobody without one can make us read one. */
static bool is_allowed(struct door_write *w, struct http_request *q)
{
    struct credentials c = {.q = q};
    struct signature_result result;
    char key_id[SIGNATURE_KEY_ID_BYTES] = "";
    pthread_rwlock_rdlock(&w->lock);
    bool ok = !w->verifier;
    if (!ok && secret_in_query(&c)) {
        ok = signature_verify(w->verifier, header_of, &c, STR(""),
                              clock_wall_us(w->cfg.clock) / US_PER_SECOND, &result);
        if (ok)
            snprintf(key_id, sizeof(key_id), "%s", result.key_id ? result.key_id : "");
        else
            door_note_refused(w->name, result.reason, q, clock_wall_us(w->cfg.clock));
    }
    pthread_rwlock_unlock(&w->lock);
    if (c.text) {
        explicit_bzero(c.text, c.len);
        free(c.text);
    }
    if (*key_id)
        metric_add(METRIC_WEBHOOK_VERIFIED, w->name, key_id, 1);
    return ok;
}

static bool is_in_time(struct door_write *w, int64_t *ret_wait_us)
{
    pthread_rwlock_rdlock(&w->lock);
    int64_t per_second = w->per_second;
    pthread_rwlock_unlock(&w->lock);
    return rate_take(&w->rate, per_second, clock_mono_us(w->cfg.clock), ret_wait_us);
}

static bool begin_write(void *ctx, struct http_request *q, struct http_expect *expect)
{
    struct door_write *w = ctx;
    int64_t wait_us = 0, unit_ns = 0;
    if (!is_allowed(w, q)) {
        answer_problem(w, q, 401, SIGNATURE_REFUSED_TITLE);
        return false;
    }
    if (!is_in_time(w, &wait_us)) {
        metric_add(METRIC_WEBHOOK_REJECTED, w->name, "rate", 1);
        answer_later(w, q, 429, (unsigned)(wait_us / US_PER_SECOND + 1));
        return false;
    }
    if (!line_precision(http_query(q, "precision"), &unit_ns)) {
        metric_add(METRIC_WEBHOOK_REJECTED, w->name, "precision", 1);
        answer_problem(w, q, 400, "The precision must be ns, us, ms, s, m or h");
        return false;
    }
    /* Any content type: 1.x subscriptions send an empty one, curl that of a form. */
    *expect = (struct http_expect){.body_max = (size_t)w->cfg.body_max, .gzip = true};
    return true;
}

/* ---- what is written ---- */

static void delivery_free(struct delivery *d)
{
    if (!d)
        return;
    buf_deinit(&d->marks);
    free(d);
}
CLEANUP_FREEP(struct delivery, delivery_free);

static void on_committed(void *ctx, enum inbox_outcome outcome)
{
    CLEANUP(delivery_freep) struct delivery *d = ctx;
    struct door_write *w = d->w;
    if (outcome == INBOX_FAILED) {
        answer_later(w, d->q, 503, 1);
        return;
    }
    if (w->cfg.stored && d->marks.len)
        w->cfg.stored(w->cfg.pull, (const struct seen_mark *)(const void *)d->marks.data,
                      d->marks.len / sizeof(struct seen_mark));
    answer_done(w, d->q, d->status);
}

void influx_count(const char *source, const struct influx_batch *b)
{
    const struct {
        const char *kind;
        uint64_t n;
    } kinds[] = {{"metric", b->metrics},
                 {"memory", b->memories},
                 {"outreach", b->outreach},
                 {"dead_letter", b->n_events - b->metrics - b->memories - b->outreach}};
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i].n)
            metric_add(METRIC_EVENTS_RECEIVED, source, kinds[i].kind, kinds[i].n);
    if (b->ignored)
        metric_add(METRIC_EVENTS_IGNORED, source, NULL, b->ignored);
}

/* Takes the marks of the batch along. */
static void submit(struct door_write *w, struct http_request *q, struct influx_batch *b)
{
    CLEANUP(delivery_freep) struct delivery *d = calloc(1, sizeof(*d));
    if (!d) {
        answer_later(w, q, 503, 1);
        return;
    }
    *d = (struct delivery){.w = w,
                           .q = q,
                           .status = influx_batch_usable(b) ? 204 : 400,
                           .received_us = http_received_us(q),
                           .marks = b->marks};
    buf_init(&b->marks, b->marks.max);
    struct inbox_delivery in = {.source = str_from(w->name),
                                .received_us = d->received_us,
                                .events = {b->events.data, b->events.len},
                                .n_events = b->n_events};
    enum status st = inbox_submit(w->cfg.inbox, &in, on_committed, d, NULL);
    if (!st) {
        (void)TAKE(d); /* on_committed() has it */
        influx_count(w->name, b);
        return;
    }
    if (st == STATUS_LIMIT)
        answer_problem(w, q, 413, "The body has more events than one request may");
    else
        answer_later(w, q, 503, 1);
}

static void write_body(struct door_write *w, struct http_request *q, bool v2)
{
    struct influx_batch b;
    struct line_options options = {.now_ns = http_received_us(q) * 1000, .unsigned_integers = v2};
    bool known = line_precision(http_query(q, "precision"), &options.unit_ns);
    assert(known);
    enum status st = influx_batch_init(&b, LIMIT_DELIVERY_BYTES, NULL);
    if (!st)
        st = influx_add_body(&b, &w->map, http_body(q), &options, NULL);
    if (st == STATUS_LIMIT) {
        answer_problem(w, q, 413, "The body has more events than one request may");
    } else if (st) {
        answer_later(w, q, 503, 1);
    } else if (b.n_events == 0) {
        influx_count(w->name, &b);
        answer_done(w, q, 204);
    } else {
        submit(w, q, &b);
    }
    influx_batch_deinit(&b);
}

static void handle_write(void *ctx, struct http_request *q)
{
    write_body(ctx, q, false);
}

static void handle_write_v2(void *ctx, struct http_request *q)
{
    write_body(ctx, q, true);
}

/* Clients ask for the version before they write; 1.x ones fail without the header. */
static void handle_ping(void *ctx, struct http_request *q)
{
    (void)ctx;
    http_answer(q, &(struct http_answer){
                       .status = 204, .header = "X-Influxdb-Version", .header_value = "1.8.0"});
}

static void handle_health(void *ctx, struct http_request *q)
{
    (void)ctx;
    http_answer(q, &(struct http_answer){
                       .status = 200,
                       .type = "application/json",
                       .body = STR("{\"name\":\"warmpath\",\"message\":\"ready to take points\","
                                   "\"status\":\"pass\",\"checks\":[]}\n")});
}

/* ---- set up ---- */

static enum status new_verifier(const struct config_influx *influx, struct signature **ret,
                                struct error *err)
{
    *ret = NULL;
    /* The configuration has refused an endpoint without a secret unless that was wished for. */
    return influx->n_secrets ? config_verifier(SIGNATURE_SHARED_SECRET, NULL, influx->secrets,
                                               influx->n_secrets, ret, err)
                             : STATUS_OK;
}

enum status door_write_reload(struct door_write *w, const struct config_influx *influx,
                              struct error *err)
{
    struct signature *fresh = NULL;
    /* Taken out of the configuration: nobody is let in from now on, and the routes go with a
     * restart. */
    enum status st = config_influx_is_open(influx) ? new_verifier(influx, &fresh, err)
                                                   : signature_decoy(&fresh, err);
    if (st)
        return st;
    for (size_t i = 0; i < influx->n_secrets; i++)
        metric_add(METRIC_WEBHOOK_VERIFIED, w->name, influx->secrets[i].id, 0);
    pthread_rwlock_wrlock(&w->lock);
    struct signature *old = w->verifier;
    w->verifier = fresh;
    w->per_second = influx->rate;
    pthread_rwlock_unlock(&w->lock);
    signature_free(old);
    return STATUS_OK;
}

enum status door_write_new(const struct door_write_config *cfg, struct door_write **ret,
                           struct error *err)
{
    struct door_write *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, STATUS_NOMEM, "could not allocate the routes of influx");
    w->cfg = *cfg;
    w->cfg.influx = NULL;
    snprintf(w->name, sizeof(w->name), "%s", cfg->influx->name);
    snprintf(w->where, sizeof(w->where), "influx:%s", w->name);
    w->map = (struct influx_map){.where = str_from(w->where),
                                 .known = influx_known,
                                 .seen = cfg->seen,
                                 .seen_ctx = cfg->pull};
    door_lock_init(&w->lock);
    enum status st = door_write_reload(w, cfg->influx, err);
    if (st)
        door_write_free(w);
    else
        *ret = w;
    return st;
}

void door_write_free(struct door_write *w)
{
    if (!w)
        return;
    signature_free(w->verifier);
    pthread_rwlock_destroy(&w->lock);
    free(w);
}

void door_write_routes(struct door_write *w, struct http_route out[DOOR_WRITE_ROUTES])
{
    const unsigned reads = HTTP_GET | HTTP_HEAD;
    out[0] = (struct http_route){.path = "/write",
                                 .methods = HTTP_POST,
                                 .begin = begin_write,
                                 .handle = handle_write,
                                 .ctx = w};
    out[1] = (struct http_route){.path = "/api/v2/write",
                                 .methods = HTTP_POST,
                                 .begin = begin_write,
                                 .handle = handle_write_v2,
                                 .ctx = w};
    out[2] =
        (struct http_route){.path = "/ping", .methods = reads, .handle = handle_ping, .ctx = w};
    out[3] =
        (struct http_route){.path = "/health", .methods = reads, .handle = handle_health, .ctx = w};
}
