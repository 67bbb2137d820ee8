/*
 * server/http_client.h - calls to servers of others: libcurl behind bounds.
 *
 * One client is one connection (kept between calls) and belongs to one thread. Only http and https,
 * certificates and names are verified, no redirect is followed, no proxy of the environment is used
 * and no password of the URL: what is sent goes to the configured server or nowhere. A call ends
 * within its deadline, when no byte came for stall_us, when the answer passes body_max, or at once
 * when `stop` is set. Error texts name the server and the path, never the query, a header or a
 * password. For the waits between calls there is backoff_next() (ingest/feedback.h).
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_CLIENT_HEADERS_MAX 8

struct http_client;

/* 0 or NULL: the default in brackets. */
struct http_client_config {
    int64_t connect_us;      /* [5 s] name, connection and TLS */
    int64_t total_us;        /* [60 s] a whole call; INT64_MAX: only stall_us bounds it */
    int64_t stall_us;        /* [20 s] without a byte */
    size_t body_max;         /* [64 MiB] of an answer, streamed ones too */
    const char *ca_file;     /* PEM, borrowed; NULL: those of the system */
    const atomic_bool *stop; /* borrowed; NULL: never */
};
/* IO: libcurl cannot be set up; NOMEM. */
MUST_CHECK enum status http_client_new(const struct http_client_config *cfg,
                                       struct http_client **ret, struct error *err);
void http_client_free(struct http_client *c); /* NULL is a no-op */
CLEANUP_FREEP(struct http_client, http_client_free);

/* A URL that can be called: http or https with a host, without user, password and fragment. INVALID
 * says why. *ret_exposed: http to another machine, so whoever is on the way reads and forges it. */
MUST_CHECK enum status http_client_check_url(const char *url, bool *ret_exposed, struct error *err);
/* base + path, and one slash between them. INVALID: longer than cap. */
MUST_CHECK enum status http_client_join(const char *base, const char *path, char *out, size_t cap,
                                        struct error *err);
/* Appends s as one part of a path or a value of a query: other than A-Za-z0-9-._~ as %XX. */
MUST_CHECK enum status http_client_escape(struct str s, struct buf *out);

struct http_client_call {
    const char *url;                              /* checked above */
    const char *headers[HTTP_CLIENT_HEADERS_MAX]; /* "api-key: ..."; up to the first NULL */
    const char *user, *password;                  /* Basic; NULL: none */
    bool post;                                    /* with body; else GET */
    struct str body;                              /* borrowed */
    /* Takes the body of a 2xx in pieces, as they come; a failure ends the call and is returned.
     * NULL: it is in reply.body. */
    enum status (*chunk)(void *ctx, struct str bytes, struct error *err);
    void *ctx;
};
struct http_client_reply {
    unsigned status;        /* 200 ... */
    unsigned retry_after_s; /* 0 = the server did not say */
    struct str body;        /* borrowed until the next call */
};
/*
 * OK: an answer came whole, whatever its status. IO: no connection, TLS, time-out, cut short;
 * PROTOCOL: not HTTP; LIMIT: too large; END: stop was set.
 */
MUST_CHECK enum status http_client_call(struct http_client *c, const struct http_client_call *call,
                                        struct http_client_reply *ret, struct error *err);

/* What a server said, for one line of a log: printable, cut at cap; `secret` (may be NULL or "")
 * that it repeats is written as "***". Returns out. */
const char *http_client_excerpt(struct str body, const char *secret, char *out, size_t cap);
