#include "server/feed_sender.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/metrics.h"
#include "ingest/feedback.h"
#include "ingest/signature.h"
#include "server/config_secrets.h"
#include "server/http_client.h"

#define PAUSE_MIN_US   (US_PER_SECOND / 4)
#define PAUSE_MAX_US   (5 * US_PER_MINUTE)
#define RETRY_AFTER_S  3600u /* no receiver makes us wait longer */
#define IDLE_US        US_PER_SECOND
#define ANSWER_BYTES   (64u << 10) /* read and thrown away; more is a failure */
#define TROUBLE_LOG_US (10 * US_PER_MINUTE)
#define WHY_BYTES      200

struct feed_sender {
    const struct config_feed_webhook *cfg;
    struct feed_queue *queue;
    size_t d;
    const struct clock *clock;
    struct http_client *client;
    pthread_t thread;
    bool started;
    atomic_bool stop;
    pthread_mutex_t lock; /* guards the signer */
    struct signature *signer;

    /* the thread's */
    struct feed_settled done[SENDER_SLICE];
    size_t n_done;
    int64_t pause_us;  /* the last one; 0: the last delivery was fine */
    int64_t logged_us; /* trouble was last logged; 0: there is none */
};

/* ---- one attempt ---- */

struct attempt {
    const char *result; /* a label */
    bool delivered, gone;
    unsigned retry_after_s;
    char why[WHY_BYTES];
};

static enum status throw_away(void *ctx, struct str bytes, struct error *err)
{
    (void)ctx;
    (void)bytes;
    (void)err;
    return STATUS_OK;
}

static enum status sign(struct feed_sender *s, const struct feed_item *item, int64_t timestamp_s,
                        struct buf *out)
{
    enum status st = buf_append_str(out, STR("webhook-signature: "));
    pthread_mutex_lock(&s->lock);
    if (!st)
        st = signature_sign(s->signer, str_from(item->id), timestamp_s,
                            (struct str){item->json, item->json_len}, out);
    pthread_mutex_unlock(&s->lock);
    return st ? st : buf_append(out, "", 1);
}

static void judge(const struct http_client_reply *reply, struct attempt *a)
{
    static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
    unsigned class = reply->status / 100;
    a->delivered = class == 2;
    a->gone = reply->status == 410;
    a->retry_after_s = reply->retry_after_s;
    a->result = a->delivered               ? "ok"
                : a->gone                  ? "gone"
                : class >= 1 && class <= 5 ? classes[class - 1]
                                           : "error";
    snprintf(a->why, sizeof(a->why), "answered %u", reply->status);
}

static struct attempt attempt(struct feed_sender *s, const struct feed_item *item)
{
    struct attempt a = {.result = "error"};
    CLEANUP(buf_deinit) struct buf signature;
    buf_init(&signature, 1024);
    int64_t timestamp_s = clock_wall_us(s->clock) / US_PER_SECOND;
    char id[96], timestamp[64];
    snprintf(id, sizeof(id), "webhook-id: %s", item->id);
    snprintf(timestamp, sizeof(timestamp), "webhook-timestamp: %" PRId64, timestamp_s);
    enum status st = sign(s, item, timestamp_s, &signature);
    if (st) {
        snprintf(a.why, sizeof(a.why), "%s",
                 st == STATUS_REFUSED ? "every secret has expired" : "could not be signed");
        return a;
    }
    const struct http_client_call call = {
        .url = s->cfg->url,
        .headers = {id, timestamp, signature.data},
        .post = true,
        .body = {item->json, item->json_len},
        .chunk = throw_away,
    };
    struct http_client_reply reply = {0};
    struct error err = {0};
    int64_t began_us = clock_mono_us(s->clock);
    if (http_client_call(s->client, &call, &reply, &err))
        snprintf(a.why, sizeof(a.why), "%.*s", (int)sizeof(a.why) - 1, err.text);
    else
        judge(&reply, &a);
    metric_observe(METRIC_FEED_DELIVERY_DURATION, s->cfg->name, NULL,
                   clock_mono_us(s->clock) - began_us);
    return a;
}

/* ---- the thread ---- */

static void note_trouble(struct feed_sender *s, const char *why)
{
    int64_t now_us = clock_mono_us(s->clock);
    if (s->logged_us && now_us - s->logged_us < TROUBLE_LOG_US)
        return;
    s->logged_us = now_us;
    log_write(LOG_WARN, "feed", "could not deliver, trying again destination=%s error=\"%s\"",
              s->cfg->name, why);
}

static void note_success(struct feed_sender *s)
{
    if (s->logged_us)
        log_write(LOG_INFO, "feed", "delivering again destination=%s", s->cfg->name);
    s->logged_us = 0;
    s->pause_us = 0;
}

/* A stop ends it. */
static void pause_for(struct feed_sender *s, int64_t us)
{
    int64_t until_us = clock_mono_us(s->clock) + us;
    for (int64_t left_us = us; left_us > 0 && !atomic_load(&s->stop);
         left_us = until_us - clock_mono_us(s->clock))
        feed_queue_wait(s->queue, feed_queue_generation(s->queue),
                        left_us < IDLE_US ? left_us : IDLE_US);
}

/* A queue that cannot be written does not stop the sending: what is not settled is sent again. */
static void check_queue(struct feed_sender *s, enum status st, const struct error *err)
{
    if (!st || st == STATUS_END)
        return;
    note_trouble(s, err->text);
    pause_for(s, IDLE_US);
}

static void settle(struct feed_sender *s)
{
    struct error err = {0};
    check_queue(s, feed_queue_settle(s->queue, s->d, s->done, s->n_done, &err), &err);
    s->n_done = 0;
}

static void pause_after(struct feed_sender *s, unsigned retry_after_s)
{
    s->pause_us = feed_pause_us(s->pause_us, retry_after_s,
                                (uint64_t)randombytes_random() << 32 | randombytes_random());
    pause_for(s, s->pause_us);
}

int64_t feed_pause_us(int64_t previous_us, unsigned retry_after_s, uint64_t random)
{
    int64_t pause_us = backoff_next(previous_us, PAUSE_MIN_US, PAUSE_MAX_US, random);
    unsigned asked_s = retry_after_s < RETRY_AFTER_S ? retry_after_s : RETRY_AFTER_S;
    int64_t asked_us = (int64_t)asked_s * US_PER_SECOND;
    return asked_us > pause_us ? asked_us : pause_us;
}

static void bury(struct feed_sender *s, const struct feed_item *item, const char *why)
{
    struct error err = {0};
    enum status st = feed_queue_bury(s->queue, s->d, item, why, &err);
    if (!st) {
        metric_add(METRIC_DEAD_LETTERS, "feed", NULL, 1);
        log_write(LOG_WARN, "feed", "given up destination=%s id=%s error=\"%s\"", s->cfg->name,
                  item->id, why);
    }
    check_queue(s, st, &err);
}

/* True: the next one may be sent. */
static bool deliver(struct feed_sender *s, const struct feed_item *item)
{
    struct attempt a = attempt(s, item);
    if (atomic_load(&s->stop) && !a.delivered)
        return false;
    metric_add(METRIC_FEED_DELIVERIES, s->cfg->name, a.result, 1);
    if (a.delivered) {
        note_success(s);
        s->done[s->n_done++] = (struct feed_settled){item->place, item->message, item->erases};
        if (s->n_done == SENDER_SLICE || item->erases)
            settle(s);
        return true;
    }
    settle(s);
    bool too_long = clock_wall_us(s->clock) - item->queued_us >= s->cfg->give_up_us;
    if (a.gone || too_long) {
        bury(s, item, a.why);
        return true;
    }
    note_trouble(s, a.why);
    pause_after(s, a.retry_after_s);
    return false;
}

static void *run(void *arg)
{
    struct feed_sender *s = arg;
    struct feed_item *item = malloc(sizeof(*item));
    struct error err = {0};
    int64_t place = 0;
    while (item && !atomic_load(&s->stop)) {
        uint64_t seen = feed_queue_generation(s->queue);
        enum status st = feed_queue_next(s->queue, s->d, place, item, &err);
        if (!st) {
            place = deliver(s, item) ? item->place : item->place - 1;
            continue;
        }
        /* The end: what came meanwhile may have taken over an earlier place. */
        check_queue(s, st, &err);
        bool sent = s->n_done > 0 || place > 0;
        settle(s);
        place = 0;
        if (!sent)
            feed_queue_wait(s->queue, seen, IDLE_US);
    }
    settle(s);
    free(item);
    return NULL;
}

/* ---- start and stop ---- */

static void sender_free(struct feed_sender *s)
{
    if (!s)
        return;
    http_client_free(s->client);
    signature_free(s->signer);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
CLEANUP_FREEP(struct feed_sender, sender_free);

enum status feed_sender_reload(struct feed_sender *s, const struct config_feed_webhook *cfg,
                               struct error *err)
{
    struct signature *signer = NULL;
    enum status st = config_verifier(SIGNATURE_STANDARD_WEBHOOKS, NULL, cfg->secrets,
                                     cfg->n_secrets, &signer, err);
    if (st)
        return st;
    pthread_mutex_lock(&s->lock);
    struct signature *old = s->signer;
    s->signer = signer;
    pthread_mutex_unlock(&s->lock);
    signature_free(old);
    return STATUS_OK;
}

enum status feed_sender_start(const struct config_feed_webhook *cfg, struct feed_queue *queue,
                              size_t d, const struct clock *clock, struct feed_sender **ret,
                              struct error *err)
{
    CLEANUP(sender_freep) struct feed_sender *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate a sender of the feed");
    s->cfg = cfg;
    s->queue = queue;
    s->d = d;
    s->clock = clock;
    pthread_mutex_init(&s->lock, NULL);
    struct http_client_config hc = {
        .connect_us = cfg->timeout_us,
        .total_us = cfg->timeout_us,
        .stall_us = cfg->timeout_us,
        .body_max = ANSWER_BYTES,
        .stop = &s->stop,
    };
    enum status st = feed_sender_reload(s, cfg, err);
    if (!st)
        st = http_client_new(&hc, &s->client, err);
    if (st)
        return st;
    metric_add(METRIC_FEED_DELIVERIES, cfg->name, "ok", 0);
    int rc = pthread_create(&s->thread, NULL, run, s);
    if (rc)
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    s->started = true;
    *ret = TAKE(s);
    return STATUS_OK;
}

void feed_sender_tell_stop(struct feed_sender *s)
{
    if (!s)
        return;
    atomic_store(&s->stop, true);
    feed_queue_wake(s->queue);
}

void feed_sender_stop(struct feed_sender *s)
{
    if (!s)
        return;
    feed_sender_tell_stop(s);
    pthread_join(s->thread, NULL);
    sender_free(s);
}
