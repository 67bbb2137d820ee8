/*
 * server/http.h - a listener: libmicrohttpd behind a guard (server/http_guard.h).
 *
 * Requests come on the server's own threads. One whose headers pass the guard goes to the route of
 * its path: begin() may refuse it before the body is read, handle() gets it whole. The answer may
 * be given at once or later, from any thread; the connection waits suspended. One that is not
 * answered within answer_us gets 503 with Retry-After, and what is answered later is dropped.
 *
 * Problems are application/problem+json constants (RFC 9457) that never contain bytes of the
 * request. Every answer has X-Request-Id, X-Content-Type-Options: nosniff and Date, none a Server.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_server;
struct http_request;

/* Bits; OPTIONS, TRACE and others: 405. To a HEAD the same is answered as to a GET, without the
 * body. */
enum http_method { HTTP_GET = 1, HTTP_POST = 2, HTTP_HEAD = 4 };

/*
 * A body without end. more() is asked whenever the client has taken what came before: the bytes it
 * has put into out, 0 (none now: it is asked again after http_wake_streams(), and once a second),
 * or HTTP_STREAM_END. On the server's threads, never twice at a time. A client that takes nothing
 * for body_us is cut off.
 */
#define HTTP_STREAM_END (-1)
struct http_stream {
    ptrdiff_t (*more)(void *ctx, char *out, size_t cap); /* NULL: no stream */
    void (*closed)(void *ctx); /* once, last, also when nothing of it was ever asked for */
    void *ctx;
};

struct http_answer {
    unsigned status;
    const char *type;       /* Content-Type; NULL: no body */
    struct str body;        /* copied */
    unsigned retry_after_s; /* 0 = no Retry-After */
    const char *header;     /* one more, NULL: none; constants */
    const char *header_value;
    bool close;                /* the connection cannot be used again */
    struct http_stream stream; /* instead of body */
};

/* What is known of a body before it is read: the route's limits for this request. */
struct http_expect {
    size_t body_max; /* of the body as the handler sees it; beyond: 413 */
    bool gzip;       /* Content-Encoding: gzip may be used; else 415 */
};

struct http_route {
    const char *path; /* "/write", or "/webhooks/" with the slash: what follows is http_rest() */
    unsigned methods; /* enum http_method bits; others get 405 with Allow */
    /* After the headers, before the body. False: it has been answered (http_answer). May set
     * *expect, which is zero for methods without a body. NULL: as for true. */
    bool (*begin)(void *ctx, struct http_request *q, struct http_expect *expect);
    /* The body is there. Must lead to exactly one http_answer(), now or later. */
    void (*handle)(void *ctx, struct http_request *q);
    void *ctx;
};

/* All 0 or NULL: the default in brackets. */
struct http_config {
    const char *name;   /* in the log and the metrics: "public", "private" */
    const char *listen; /* "127.0.0.1:8080", "[::1]:8080", ":8080" or "unix:/path/socket" */
    const struct http_route *routes; /* n_routes of them, borrowed; the longest path wins */
    size_t n_routes;
    const struct clock *clock;
    unsigned threads;                 /* [2] */
    unsigned connections;             /* [1024] beyond: closed at once */
    unsigned connections_per_address; /* [256]; none when behind_proxy */
    size_t headers_max;               /* [16 KiB] beyond: 431 */
    size_t bodies_max;                /* [256 MiB] of all requests under way; beyond: 503 */
    int64_t header_us;                /* [10 s] deadline for all headers */
    int64_t body_us;                  /* [30 s] deadline for the whole body */
    int64_t idle_us;                  /* [60 s] of a connection between requests */
    int64_t answer_us;                /* [2 s] */
    unsigned rate_per_address;        /* requests per second; 0 = unlimited */
    const char *tls_cert, *tls_key;   /* PEM files; NULL = plain */
    bool behind_proxy;                /* a proxy in front ends TLS */
    const char *trusted_proxies; /* comma-separated addresses or networks; NULL = none. From these
                                    X-Forwarded-For names the client: the rightmost hop that is
                                    not trusted itself */
    bool allow_plain;            /* beyond loopback without TLS or proxy (insecure_...) */
};
/* Listens. REFUSED: beyond loopback without TLS, behind_proxy or allow_plain; IO: the address
 * cannot be had; INVALID: certificate, key, network. The text says what to do. */
MUST_CHECK enum status http_start(const struct http_config *cfg, struct http_server **ret,
                                  struct error *err);
/* Stops listening, waits at most grace_us for requests under way, closes. NULL is a no-op. */
void http_stop(struct http_server *s, int64_t grace_us);
/* Reads certificate and key again; on failure the old ones stay. */
MUST_CHECK enum status http_reload_tls(struct http_server *s, struct error *err);
/* The port, when `listen` said port 0; 0 for a unix socket. */
unsigned http_port(const struct http_server *s);

/* ---- a request; borrowed until it is answered ---- */
enum http_method http_method(const struct http_request *q);
struct str http_path(const struct http_request *q);
struct str http_rest(const struct http_request *q); /* of the path, behind the route's */
/* Any case; STR_NULL when it is not there. A header that came twice was refused by the guard where
 * that matters (Content-Length, Host, signatures, ids). */
struct str http_header(const struct http_request *q, const char *name);
struct str http_query(const struct http_request *q, const char *name); /* decoded */
struct str http_body(const struct http_request *q);                    /* uncompressed */
struct str http_client(const struct http_request *q); /* address, for rates and the log */
struct str http_request_id(const struct http_request *q);
int64_t
http_received_us(const struct http_request *q); /* wall clock, when its headers were there */

/* Any thread, once. */
void http_answer(struct http_request *q, const struct http_answer *a);
/* Something has come for the streams of this server. Any thread. */
void http_wake_streams(struct http_server *s);
/* Shorthands: an answer without a body; a problem with a constant title. */
void http_answer_status(struct http_request *q, unsigned status);
void http_answer_problem(struct http_request *q, unsigned status, const char *title);

/* For /metrics. Any thread. */
struct http_view {
    uint64_t connections; /* now */
    uint64_t connections_refused;
    uint64_t requests;
    uint64_t refused_guard; /* 400 for how the request was framed */
    uint64_t timed_out;     /* headers or body did not come in time */
    uint64_t unanswered;    /* 503 because no answer was there in time */
    uint64_t bodies;        /* bytes held now */
    uint64_t by_class[6];   /* answers: [2] of 2xx, ... */
};
struct http_view http_view(const struct http_server *s);
