/*
 * Answers without end. A stream that has nothing to send is suspended and in the server's list; it
 * is resumed for what comes, and once a second, so that it can say that it is still there and the
 * end of its client is seen.
 */
#include "server/http_internal.h"

#include <assert.h>
#include <poll.h>

#define BLOCK_BYTES ((size_t)16 << 10)

static void unlink_stream(struct http_request *q)
{
    struct http_server *s = q->server;
    *(q->prev_stream ? &q->prev_stream->next_stream : &s->streams) = q->next_stream;
    if (q->next_stream)
        q->next_stream->prev_stream = q->prev_stream;
    q->prev_stream = q->next_stream = NULL;
}

void streams_wake(struct http_server *s)
{
    s->stream_wakes++;
    s->streams_woken_us = clock_mono_us(s->cfg.clock);
    while (s->streams) {
        struct http_request *q = s->streams;
        unlink_stream(q);
        MHD_resume_connection(q->mhd);
    }
}

void http_wake_streams(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    streams_wake(s);
    pthread_mutex_unlock(&s->lock);
}

/* The library does not look at a connection that is suspended. */
static bool has_hung_up(const struct http_request *q)
{
    struct pollfd p = {.fd = q->connection->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

/* False: something has come since wakes was read. */
static bool suspend(struct http_request *q, uint64_t wakes)
{
    struct http_server *s = q->server;
    pthread_mutex_lock(&s->lock);
    bool waits = s->stream_wakes == wakes && !s->stopping;
    if (waits) {
        q->next_stream = s->streams;
        if (s->streams)
            s->streams->prev_stream = q;
        s->streams = q;
        request_deadline(q, INT64_MAX);
        MHD_suspend_connection(q->mhd);
    }
    pthread_mutex_unlock(&s->lock);
    return waits;
}

static ssize_t read_stream(void *ctx, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct http_request *q = ctx;
    struct http_server *s = q->server;
    const struct http_stream *stream = &q->answer.stream;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        uint64_t wakes = s->stream_wakes;
        bool ends = s->stopping;
        pthread_mutex_unlock(&s->lock);
        ends |= has_hung_up(q);
        ptrdiff_t n = ends ? HTTP_STREAM_END : stream->more(stream->ctx, out, max);
        if (n == HTTP_STREAM_END)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (n > 0) {
            request_deadline(q, s->cfg.body_us);
            return n;
        }
        if (suspend(q, wakes))
            return 0;
    }
}

static void free_stream(void *ctx)
{
    struct http_request *q = ctx;
    q->answer.stream.closed(q->answer.stream.ctx);
    request_unref(q);
}

struct MHD_Response *stream_response(struct http_request *q)
{
    assert(q->answer.stream.more);
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES,
                                                               read_stream, q, free_stream);
    if (r) {
        atomic_fetch_add(&q->refs, 1);
        q->streams = true;
    }
    return r;
}
