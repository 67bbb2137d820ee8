/*
 * The streams of /api/v1/feed: server-sent events out of the feed's ring. A stream is a place in
 * the ring and one block of bytes that its client has not taken yet: it costs the same however far
 * behind the client is, and when the ring has gone past that place, the stream ends. Ids are
 * "MARK-NUMBER"; a client that comes back with one goes on behind it, or is told to read anew.
 */
#include "server/feed_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/event.h"
#include "core/metrics.h"

#define ALIVE_US    (15 * US_PER_SECOND)
#define BLOCK_BYTES ((size_t)16 << 10)        /* gathered at once ... */
#define EVENT_BYTES (LIMIT_NOTIFY_BYTES + 64) /* ... and one event more */
#define RETRY_MS    1000

struct feed_stream {
    struct feed *feed;
    char bot[LIMIT_ID_BYTES + 1], user[LIMIT_ID_BYTES + 1];
    size_t bot_len, user_len; /* 0: any */
    uint64_t next;            /* number of what it gets next */
    struct buf block;
    size_t sent; /* of the block */
    int64_t spoke_us;
};

/* ---- what a client is given ---- */

static bool wants(const struct feed_stream *s, const struct feed_entry *e)
{
    /* Without a bot: an erasure with every bot. */
    return e->text &&
           (!s->bot_len || !e->bot.len || str_equal(e->bot, (struct str){s->bot, s->bot_len})) &&
           (!s->user_len || str_equal(e->user, (struct str){s->user, s->user_len}));
}

/* Under the feed's lock. */
static enum status gather(struct feed_stream *s)
{
    struct feed *f = s->feed;
    enum status st = STATUS_OK;
    for (; !st && s->next < f->next && s->block.len < BLOCK_BYTES; s->next++) {
        const struct feed_entry *e = &f->ring[s->next % f->size];
        if (wants(s, e))
            st = buf_printf(&s->block, "id: %s-%" PRIu64 "\ndata: " STR_FMT "\n\n", f->mark,
                            s->next, STR_ARGS(e->json));
    }
    return st;
}

/* A sign of life that keeps the client's place, also when nothing was for it. */
static enum status say_alive(struct feed_stream *s)
{
    return buf_printf(&s->block, ": alive\nid: %s-%" PRIu64 "\n\n", s->feed->mark, s->next - 1);
}

static enum status fill(struct feed_stream *s)
{
    struct feed *f = s->feed;
    pthread_mutex_lock(&f->lock);
    bool overtaken = s->next < feed_first(f);
    enum status st = overtaken ? STATUS_END : gather(s);
    pthread_mutex_unlock(&f->lock);
    int64_t now_us = clock_mono_us(f->open.clock);
    if (!st && s->block.len == 0 && now_us - s->spoke_us >= ALIVE_US)
        st = say_alive(s);
    if (s->block.len > 0)
        s->spoke_us = now_us;
    if (overtaken)
        metric_add(METRIC_FEED_STREAMS, "cut", NULL, 1);
    return st;
}

static ptrdiff_t more(void *ctx, char *out, size_t cap)
{
    struct feed_stream *s = ctx;
    if (s->sent == s->block.len) {
        buf_reset(&s->block);
        s->sent = 0;
        if (fill(s))
            return HTTP_STREAM_END;
    }
    size_t n = s->block.len - s->sent;
    n = n < cap ? n : cap;
    if (n)
        memcpy(out, s->block.data + s->sent, n);
    s->sent += n;
    return (ptrdiff_t)n;
}

static void closed(void *ctx)
{
    struct feed_stream *s = ctx;
    pthread_mutex_lock(&s->feed->lock);
    assert(s->feed->clients > 0);
    s->feed->clients--;
    pthread_mutex_unlock(&s->feed->lock);
    buf_deinit(&s->block);
    free(s);
}

/* ---- how it begins ---- */

/* "MARK-NUMBER" of this process. */
static bool parse_id(const struct feed *f, struct str id, uint64_t *ret)
{
    size_t mark = strlen(f->mark);
    uint64_t n = 0;
    if (id.len < mark + 2 || id.len > mark + 20 || memcmp(id.ptr, f->mark, mark) != 0 ||
        id.ptr[mark] != '-')
        return false;
    for (size_t i = mark + 1; i < id.len; i++) {
        if (id.ptr[i] < '0' || id.ptr[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(id.ptr[i] - '0');
    }
    *ret = n;
    return true;
}

/* The place where it goes on, and what it has to be told first. Under the feed's lock. */
static const char *place(struct feed_stream *s, struct str last_id)
{
    const struct feed *f = s->feed;
    uint64_t last = 0;
    s->next = f->next;
    if (!last_id.len)
        return "opened";
    if (!parse_id(f, last_id, &last) || last >= f->next || last + 1 < feed_first(f))
        return "reset";
    s->next = last + 1;
    return "resumed";
}

static enum status greet(struct feed_stream *s, const char *how)
{
    enum status st = buf_printf(&s->block, ": warmpath\nretry: %d\nid: %s-%" PRIu64 "\n\n",
                                RETRY_MS, s->feed->mark, s->next - 1);
    if (!st && strcmp(how, "reset") == 0)
        st = buf_append_str(&s->block, STR("event: reset\ndata: {}\n\n"));
    return st;
}

static bool take_filters(struct feed_stream *s, struct http_request *q)
{
    struct str bot = http_query(q, "bot_name"), user = http_query(q, "user_id");
    if (user.len > LIMIT_ID_BYTES || bot.len > LIMIT_ID_BYTES)
        return false;
    s->bot_len = bot.len ? event_bot_name(bot, s->bot) : 0;
    s->user_len = user.len;
    if (user.len)
        memcpy(s->user, user.ptr, user.len);
    return !bot.len || s->bot_len;
}

static bool admit(struct feed_stream *s, struct str last_id, const char **ret_how)
{
    struct feed *f = s->feed;
    pthread_mutex_lock(&f->lock);
    bool room = f->clients < FEED_CLIENTS_MAX;
    f->clients += room;
    *ret_how = room ? place(s, last_id) : "refused";
    pthread_mutex_unlock(&f->lock);
    metric_add(METRIC_FEED_STREAMS, *ret_how, NULL, 1);
    return room;
}

static void handle(void *ctx, struct http_request *q)
{
    const char *how = NULL;
    struct feed_stream *s = calloc(1, sizeof(*s));
    if (!s) {
        http_answer_status(q, 503);
        return;
    }
    s->feed = ctx;
    s->spoke_us = clock_mono_us(s->feed->open.clock);
    buf_init(&s->block, BLOCK_BYTES + EVENT_BYTES);
    if (!take_filters(s, q)) {
        free(s);
        http_answer_problem(q, 400, "user_id or bot_name cannot be a name");
        return;
    }
    if (!admit(s, http_header(q, "last-event-id"), &how)) {
        free(s);
        http_answer_problem(q, 503, "There are too many streams");
        return;
    }
    if (greet(s, how)) {
        closed(s);
        http_answer_status(q, 503);
        return;
    }
    http_answer(q, &(struct http_answer){
                       .status = 200,
                       .type = "text/event-stream",
                       .header = "Cache-Control",
                       .header_value = "no-store",
                       .stream = {.more = more, .closed = closed, .ctx = s},
                   });
}

struct http_route feed_route(struct feed *f)
{
    return (struct http_route){.path = FEED_PATH, .methods = HTTP_GET, .handle = handle, .ctx = f};
}
