/* server/http_internal.h - what the files of the listener (server/http*.c) share. */
#pragma once

#include "server/gunzip.h"
#include "server/http.h"
#include "server/http_address.h"
#include "server/http_guard.h"
#include "server/http_listen.h"
#include "server/http_tls.h"
#include "server/rate_limit.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

#define HTTP_BUCKETS 1024 /* of connections by address; a power of two */
/* How often deadlines are looked at. */
#define HTTP_TICK_US (50 * INT64_C(1000))
/* Of a body that will not be used: read to its end, so that the sender sees the answer. */
#define HTTP_DISCARD_MAX ((uint64_t)256 << 10)

/* The socket context of a connection. */
struct http_connection {
    struct http_connection *prev, *next; /* of its bucket; under the server's lock */
    int fd;
    struct http_address peer;
    size_t bucket;            /* of its host (http_address_host) */
    atomic_llong deadline_us; /* monotonic: then the socket is shut down */
};

/* Who may still move a request on. Under the server's lock. */
enum request_state {
    REQUEST_OPEN,     /* its handler has not answered, the connection does not wait */
    REQUEST_WAITING,  /* suspended until http_answer() or the deadline */
    REQUEST_ANSWERED, /* `answer` is what is sent */
    REQUEST_GIVEN_UP, /* 503 is sent, the answer will be dropped */
};

/* Two may hold a request: the connection, until it is completed, and a handler, until it has
 * answered. It keeps copies of all it shows, as the connection may be gone meanwhile. */
struct http_request {
    struct http_server *server;
    struct MHD_Connection *mhd;
    struct http_connection *connection;
    atomic_uint refs;
    enum request_state state;
    struct http_request *prev, *next; /* of the waiting, oldest first */
    int64_t answer_by_us;             /* monotonic */
    struct http_answer answer;        /* its body is owned */
    bool begun;                       /* its headers are there */
    bool refused;                     /* answered before the handler; the body is not kept */
    bool handled;                     /* the handler has been called */
    uint64_t discarded;
    const struct http_route *route;
    enum http_method method;
    int64_t received_us;
    char id[17];
    struct buf head; /* target, then header names and values, each with a NUL behind it */
    struct str target, path, rest;
    size_t n_fields;
    struct http_field *fields;
    char client[HTTP_ADDRESS_TEXT_BYTES];
    struct http_expect expect;
    struct gunzip *gunzip; /* NULL: the body is kept as it comes */
    struct buf body;
    size_t body_held;          /* of it, as counted in the server's `bodies` */
    struct http_field *params; /* of the query, decoded; into `decoded` */
    size_t n_params;
    char *decoded;
    bool streams; /* the library has answer.stream, and frees it */
    struct http_request *prev_stream, *next_stream; /* of those that wait for more */
};

struct http_server {
    struct http_config cfg; /* with the defaults; strings are borrowed until http_stop() */
    struct MHD_Daemon *daemon;
    struct http_listener listener;
    struct http_tls *tls; /* NULL: plain */
    struct http_networks trusted;
    struct rate_limit *rate; /* per client; NULL: unlimited */
    atomic_uint refs;        /* the owner and every request */
    pthread_t reaper;
    bool reaper_started;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* fewer requests under way, or stopping */
    bool ending;            /* the reaper's end */
    bool stopping;          /* new requests are answered 503 */
    bool stopped;           /* nobody waits any more */
    struct http_connection *buckets[HTTP_BUCKETS];
    struct http_request *waiting_first, *waiting_last;
    struct http_request *streams; /* suspended until there is more */
    uint64_t stream_wakes;
    int64_t streams_woken_us;
    size_t under_way; /* requests whose headers are there and that are not completed */
    uint64_t id_seed;
    atomic_ullong next_id;
    atomic_ullong connections, connections_refused, requests, refused_guard, timed_out, unanswered,
        bodies, by_class[6];
};

/* ---- server/http_request.c: callbacks of libmicrohttpd ---- */
void *request_new(void *server, const char *target, struct MHD_Connection *mhd);
enum MHD_Result request_handle(void *server, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **request);
void request_completed(void *server, struct MHD_Connection *mhd, void **request,
                       enum MHD_RequestTerminationCode code);
/* When its connection is shut down; INT64_MAX: not. */
void request_deadline(struct http_request *q, int64_t in_us);
void request_unref(struct http_request *q);
/* The request's deadline has passed, or the server stops. Under the lock. */
void request_give_up(struct http_request *q);

/* ---- server/http_stream.c ---- */
/* The body of q->answer.stream; NULL: it cannot be had. */
struct MHD_Response *stream_response(struct http_request *q);
/* Under the lock. */
void streams_wake(struct http_server *s);

/* ---- server/http.c ---- */
void server_unref(struct http_server *s);
