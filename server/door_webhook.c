#include "server/door_webhook.h"

#include "core/metrics.h"
#include "ingest/signature.h"
#include "ingest/webhook.h"
#include "server/config_secrets.h"
#include "server/door_access.h"
#include "server/rate.h"
#include "state/inbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TITLE_BAD  "Nothing of the body could be used; see warmpath dlq list"
#define TITLE_MANY "The body has more events than one request may"

struct endpoint {
    char name[CONFIG_SOURCE_BYTES];
    enum webhook_preset preset;
    struct webhook *webhook;
    struct signature *verifier; /* NULL: anybody may write, by explicit wish */
    int64_t per_second;
    struct rate rate;
};

struct door_webhook {
    struct inbox *inbox;
    const struct clock *clock;
    int64_t body_max;
    struct signature *decoy;
    pthread_rwlock_t lock; /* guards verifier and per_second of all */
    size_t n;
    struct endpoint endpoints[CONFIG_WEBHOOKS_MAX];
};

/* A request whose events are on their way to the disk. */
struct delivery {
    struct door_webhook *door;
    const struct endpoint *endpoint;
    struct http_request *q;
    bool bad;
    uint32_t n_ignored;
    uint32_t by_type[WEBHOOK_EVENT_TYPES];
};

/* ---- answers ---- */

static void answer(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                   const struct http_answer *a, const char *title)
{
    const char *source = e ? e->name : DOOR_UNKNOWN;
    char code[16];
    snprintf(code, sizeof(code), "%u", a->status);
    metric_add(METRIC_WEBHOOK_REQUESTS, source, code, 1);
    int64_t us = clock_wall_us(w->clock) - http_received_us(q);
    metric_observe(METRIC_WEBHOOK_DURATION, source, NULL, us > 0 ? us : 0);
    if (title)
        http_answer_problem(q, a->status, title);
    else
        http_answer(q, a);
}

static void answer_status(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                          unsigned status, const char *title)
{
    answer(w, e, q, &(struct http_answer){.status = status}, title);
}

static void answer_later(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                         unsigned status, int64_t wait_us)
{
    answer(w, e, q,
           &(struct http_answer){.status = status,
                                 .retry_after_s = (unsigned)(wait_us / US_PER_SECOND + 1)},
           NULL);
}

static void answer_reply(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                         const struct webhook_result *r)
{
    struct http_answer a = {.status = 200, .type = "application/json", .body = STR("{\"type\":1}")};
    if (r->reply == WEBHOOK_REPLY_CHALLENGE) {
        a.type = "text/plain";
        a.body = str_from(r->challenge);
    }
    answer(w, e, q, &a, NULL);
}

/* ---- who sends ---- */

static struct str header_of(void *ctx, const char *name, unsigned nth)
{
    /* Of the headers that matter the guard has refused a second one. */
    return nth == 0 ? http_header(ctx, name) : STR_NULL;
}

/* By the name in the path: a name that is not configured is no secret, but is not told either. */
static struct endpoint *find(struct door_webhook *w, struct str name)
{
    for (size_t i = 0; i < w->n; i++)
        if (str_equal(str_from(w->endpoints[i].name), name))
            return &w->endpoints[i];
    return NULL;
}

/* *ret_per_second is the rate of who was let in. */
static bool is_allowed(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                       struct signature_result *result, int64_t *ret_per_second)
{
    char key_id[SIGNATURE_KEY_ID_BYTES] = "";
    *result = (struct signature_result){.ok = true};
    *ret_per_second = 0;
    pthread_rwlock_rdlock(&w->lock);
    const struct signature *v = e ? e->verifier : w->decoy;
    if (v)
        (void)signature_verify(v, header_of, q, http_body(q),
                               clock_wall_us(w->clock) / US_PER_SECOND, result);
    if (result->ok && result->key_id)
        snprintf(key_id, sizeof(key_id), "%s", result->key_id);
    result->key_id = NULL; /* is the verifier's, which may go now */
    if (e)
        *ret_per_second = e->per_second;
    pthread_rwlock_unlock(&w->lock);
    if (*key_id)
        metric_add(METRIC_WEBHOOK_VERIFIED, e->name, key_id, 1);
    if (!result->ok)
        door_note_refused(e ? e->name : DOOR_UNKNOWN, result->reason, q, clock_wall_us(w->clock));
    return result->ok;
}

/* What a header says; signed, where the signature covers it. */
static struct str id_of(const struct endpoint *e, struct http_request *q,
                        const struct signature_result *s)
{
    if (s->delivery_id.len)
        return s->delivery_id;
    if (e->preset == WEBHOOK_GITHUB)
        return http_header(q, "x-github-delivery");
    if (e->preset != WEBHOOK_WARMPATH && e->preset != WEBHOOK_STANDARD && e->preset != WEBHOOK_JSON)
        return STR_NULL;
    struct str id = http_header(q, "webhook-id");
    return id.len ? id : http_header(q, "idempotency-key");
}

/* ---- what is sent ---- */

static void count_events(const struct delivery *d)
{
    const char *source = d->endpoint->name;
    for (int type = 0; type < WEBHOOK_EVENT_TYPES; type++)
        if (d->by_type[type])
            metric_add(METRIC_EVENTS_RECEIVED, source, webhook_event_kind(type), d->by_type[type]);
    if (d->n_ignored)
        metric_add(METRIC_EVENTS_IGNORED, source, NULL, d->n_ignored);
}

/* The writer's thread. */
static void on_committed(void *ctx, enum inbox_outcome outcome)
{
    struct delivery d = *(struct delivery *)ctx;
    free(ctx);
    if (outcome == INBOX_STORED)
        count_events(&d);
    if (outcome == INBOX_DUPLICATE)
        metric_add(METRIC_EVENTS_DUPLICATE, d.endpoint->name, NULL, 1);
    if (outcome == INBOX_FAILED)
        answer_later(d.door, d.endpoint, d.q, 503, 0);
    else if (outcome == INBOX_STORED && d.bad)
        answer_status(d.door, d.endpoint, d.q, 400, TITLE_BAD);
    else /* also what was answered 400 before: a sender that repeats for ever gets past it */
        answer_status(d.door, d.endpoint, d.q, 204, NULL);
}

static void submit(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                   const struct webhook_result *r)
{
    struct delivery *d = calloc(1, sizeof(*d));
    if (!d) {
        answer_later(w, e, q, 503, 0);
        return;
    }
    *d = (struct delivery){.door = w,
                           .endpoint = e,
                           .q = q,
                           .bad = webhook_result_is_bad(r),
                           .n_ignored = r->n_ignored};
    memcpy(d->by_type, r->by_type, sizeof(d->by_type));
    struct inbox_delivery in = {.source = str_from(e->name),
                                .id = str_from(r->id),
                                .received_us = http_received_us(q),
                                .events = {r->events.data, r->events.len},
                                .n_events = r->n_events};
    enum status st = inbox_submit(w->inbox, &in, on_committed, d, NULL);
    if (!st) /* d and q are on_committed()'s now */
        return;
    free(d);
    if (st == STATUS_LIMIT)
        answer_status(w, e, q, 413, TITLE_MANY);
    else
        answer_later(w, e, q, 503, 0);
}

static void take(struct door_webhook *w, const struct endpoint *e, struct http_request *q,
                 struct str id)
{
    struct webhook_delivery in = {.form = webhook_form(http_header(q, "content-type")),
                                  .body = http_body(q),
                                  .id = id,
                                  .received_us = http_received_us(q)};
    if (e->preset == WEBHOOK_GITHUB)
        in.event = http_header(q, "x-github-event");
    struct webhook_result r;
    struct error err;
    webhook_result_init(&r);
    enum status st = webhook_decode(e->webhook, &in, &r, &err);
    if (st == STATUS_LIMIT)
        answer_status(w, e, q, 413, TITLE_MANY);
    else if (st)
        answer_later(w, e, q, 503, 0);
    else if (r.reply)
        answer_reply(w, e, q, &r);
    else
        submit(w, e, q, &r);
    webhook_result_deinit(&r);
}

static bool begin(void *ctx, struct http_request *q, struct http_expect *expect)
{
    struct door_webhook *w = ctx;
    /* The same for endpoints that do not exist. Nobody who signs compresses. */
    *expect = (struct http_expect){.body_max = (size_t)w->body_max, .gzip = false};
    if (webhook_form(http_header(q, "content-type")) != WEBHOOK_FORM_UNKNOWN)
        return true;
    answer_status(w, find(w, http_rest(q)), q, 415, "The body must be JSON");
    return false;
}

static void handle(void *ctx, struct http_request *q)
{
    struct door_webhook *w = ctx;
    struct endpoint *e = find(w, http_rest(q));
    struct signature_result s;
    int64_t per_second, wait_us = 0;
    if (!is_allowed(w, e, q, &s, &per_second)) {
        answer_status(w, e, q, 401, SIGNATURE_REFUSED_TITLE);
        return;
    }
    assert(e); /* the decoy lets nobody in */
    if (!rate_take(&e->rate, per_second, clock_mono_us(w->clock), &wait_us)) {
        metric_add(METRIC_WEBHOOK_REJECTED, e->name, "rate", 1);
        answer_later(w, e, q, 429, wait_us);
        return;
    }
    take(w, e, q, id_of(e, q, &s));
}

/* ---- endpoints ---- */

/* *ret is NULL where anybody may write. */
static enum status make_verifier(const struct config_webhook *c, struct signature **ret,
                                 struct error *err)
{
    struct error why;
    *ret = NULL;
    if (!c->n_secrets)
        return STATUS_OK;
    enum status st = config_verifier(c->verify, c->header, c->secrets, c->n_secrets, ret, &why);
    return st ? error_set(err, st, "webhook \"%s\": %.200s", c->name, why.text) : STATUS_OK;
}

static enum status add_endpoint(struct door_webhook *w, const struct config_webhook *c,
                                struct error *err)
{
    struct endpoint *e = &w->endpoints[w->n];
    struct webhook_config wc = {.name = c->name,
                                .preset = c->preset,
                                .each = c->each,
                                .delivery_id = c->delivery_id,
                                .tables = c->tables};
    memcpy(e->name, c->name, sizeof(e->name));
    e->preset = c->preset;
    e->per_second = c->rate;
    enum status st = make_verifier(c, &e->verifier, err);
    if (!st)
        st = webhook_new(&wc, &e->webhook, err);
    w->n++; /* also when half made: door_webhook_free() frees it */
    metric_add(METRIC_WEBHOOK_REQUESTS, e->name, "204", 0);
    metric_add(METRIC_EVENTS_IGNORED, e->name, NULL, 0);
    metric_add(METRIC_EVENTS_DUPLICATE, e->name, NULL, 0);
    for (size_t i = 0; i < c->n_secrets && e->verifier; i++)
        metric_add(METRIC_WEBHOOK_VERIFIED, e->name, c->secrets[i].id, 0);
    return st;
}

enum status door_webhook_new(const struct door_webhook_config *cfg, struct door_webhook **ret,
                             struct error *err)
{
    CLEANUP(door_webhook_freep) struct door_webhook *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, STATUS_NOMEM, "could not allocate the webhooks");
    door_lock_init(&w->lock);
    w->inbox = cfg->inbox;
    w->clock = cfg->clock;
    w->body_max = cfg->body_max;
    enum status st = signature_decoy(&w->decoy, err);
    for (size_t i = 0; i < cfg->n && !st; i++)
        st = add_endpoint(w, &cfg->webhooks[i], err);
    if (st)
        return st;
    *ret = TAKE(w);
    return STATUS_OK;
}

void door_webhook_free(struct door_webhook *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n; i++) {
        signature_free(w->endpoints[i].verifier);
        webhook_free(w->endpoints[i].webhook);
    }
    signature_free(w->decoy);
    pthread_rwlock_destroy(&w->lock);
    free(w);
}

static const struct config_webhook *find_config(const struct config_webhook *webhooks, size_t n,
                                                const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(webhooks[i].name, name) == 0)
            return &webhooks[i];
    return NULL;
}

/* Those that are not there any more let nobody in from now on, and go with a restart. */
enum status door_webhook_reload(struct door_webhook *w, const struct config_webhook *webhooks,
                                size_t n, struct error *err)
{
    struct signature *made[CONFIG_WEBHOOKS_MAX] = {NULL};
    const struct config_webhook *with[CONFIG_WEBHOOKS_MAX] = {NULL};
    enum status st = STATUS_OK;
    for (size_t i = 0; i < w->n && !st; i++) {
        with[i] = find_config(webhooks, n, w->endpoints[i].name);
        st = with[i] ? make_verifier(with[i], &made[i], err) : signature_decoy(&made[i], err);
    }
    pthread_rwlock_wrlock(&w->lock);
    for (size_t i = 0; i < w->n && !st; i++) {
        struct endpoint *e = &w->endpoints[i];
        struct signature *old = e->verifier;
        e->verifier = made[i];
        if (with[i])
            e->per_second = with[i]->rate;
        made[i] = old;
    }
    pthread_rwlock_unlock(&w->lock);
    for (size_t i = 0; i < w->n; i++)
        signature_free(made[i]);
    return st;
}

struct http_route door_webhook_route(struct door_webhook *w)
{
    return (struct http_route){
        .path = "/webhooks/", .methods = HTTP_POST, .begin = begin, .handle = handle, .ctx = w};
}
