/*
 * The listener: its socket, its threads (libmicrohttpd's, with epoll), its connections and their
 * deadlines, its end. What happens to a request is in http_request.c.
 */
#include "server/http.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "core/hash.h"
#include "core/log.h"
#include "server/http_internal.h"

#define RATE_KEYS         65536
#define SPARE_DESCRIPTORS 512 /* of the rest of the process: databases, links, pulls */

void server_unref(struct http_server *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    rate_limit_free(s->rate);
    http_tls_free(s->tls);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- connections ---- */

/* Limits are kept for hosts; connections of one are in one bucket, so that they can be counted. */
static size_t bucket_of(const struct http_address *peer)
{
    struct http_address host = http_address_host(peer);
    return hash64((struct str){(const char *)host.bytes, sizeof(host.bytes)}) & (HTTP_BUCKETS - 1);
}

static bool has_room(struct http_server *s, const struct http_address *peer)
{
    if (atomic_load(&s->connections) >= s->cfg.connections)
        return false;
    /* Behind a proxy, and on a unix socket, every client has the same. */
    if (s->cfg.behind_proxy || http_address_is_unix(peer))
        return true;
    unsigned n = 0;
    struct http_address host = http_address_host(peer);
    pthread_mutex_lock(&s->lock);
    for (struct http_connection *c = s->buckets[bucket_of(peer)]; c; c = c->next) {
        struct http_address other = http_address_host(&c->peer);
        n += memcmp(&other, &host, sizeof(host)) == 0;
    }
    pthread_mutex_unlock(&s->lock);
    return n < s->cfg.connections_per_address;
}

static bool is_stopping(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    bool stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

static enum MHD_Result accept_connection(void *server, const struct sockaddr *from, socklen_t len)
{
    struct http_server *s = server;
    struct http_address peer = http_address_of(len > 0 ? from : NULL);
    if (is_stopping(s))
        return MHD_NO;
    if (has_room(s, &peer))
        return MHD_YES;
    atomic_fetch_add(&s->connections_refused, 1);
    return MHD_NO;
}

static void connection_opened(struct http_server *s, struct MHD_Connection *mhd, void **context)
{
    struct http_connection *c = calloc(1, sizeof(*c));
    *context = c;
    http_tls_enter(s->tls);
    if (!c)
        return;
    c->peer = http_address_of(
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    c->bucket = bucket_of(&c->peer);
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    atomic_init(&c->deadline_us, clock_mono_us(s->cfg.clock) + s->cfg.header_us);
    pthread_mutex_lock(&s->lock);
    struct http_connection **head = &s->buckets[c->bucket];
    c->next = *head;
    if (*head)
        (*head)->prev = c;
    *head = c;
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_add(&s->connections, 1);
}

static void connection_closed(struct http_server *s, void **context)
{
    struct http_connection *c = *context;
    *context = NULL;
    if (!c)
        return;
    /* The descriptor is closed after this: whoever finds it in the list may still use it. */
    pthread_mutex_lock(&s->lock);
    *(c->prev ? &c->prev->next : &s->buckets[c->bucket]) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_sub(&s->connections, 1);
    free(c);
}

static void connection_changed(void *server, struct MHD_Connection *mhd, void **context,
                               enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        connection_opened(server, mhd, context);
    else
        connection_closed(server, context);
}

/* ---- deadlines ---- */

static void end_overdue_connections(struct http_server *s, int64_t now)
{
    for (size_t i = 0; i < HTTP_BUCKETS; i++)
        for (struct http_connection *c = s->buckets[i]; c; c = c->next) {
            if (atomic_load_explicit(&c->deadline_us, memory_order_relaxed) > now)
                continue;
            atomic_store_explicit(&c->deadline_us, INT64_MAX, memory_order_relaxed);
            atomic_fetch_add(&s->timed_out, 1);
            (void)shutdown(c->fd, SHUT_RDWR); /* its thread sees the end of the stream */
        }
}

static void give_up_overdue(struct http_server *s, int64_t now)
{
    /* Before the next look it would be too late. */
    while (s->waiting_first && s->waiting_first->answer_by_us <= now + HTTP_TICK_US)
        request_give_up(s->waiting_first);
}

static void tick_wait(struct http_server *s)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += HTTP_TICK_US * 1000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_nsec -= 1000000000;
        at.tv_sec++;
    }
    (void)pthread_cond_timedwait(&s->changed, &s->lock, &at);
}

static void *reaper_main(void *arg)
{
    struct http_server *s = arg;
    int64_t looked = INT64_MIN;
    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        int64_t now = clock_mono_us(s->cfg.clock);
        if (now >= looked + HTTP_TICK_US) {
            looked = now;
            give_up_overdue(s, now);
            end_overdue_connections(s, now);
            if (now >= s->streams_woken_us + US_PER_SECOND)
                streams_wake(s);
        }
        tick_wait(s);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- start and stop ---- */

static struct http_config with_defaults(const struct http_config *cfg)
{
    struct http_config c = *cfg;
#define DEFAULT(member, value) c.member = c.member ? c.member : (value)
    DEFAULT(name, "http");
    DEFAULT(clock, &clock_real);
    DEFAULT(threads, 2);
    DEFAULT(connections, 1024);
    DEFAULT(connections_per_address, 256);
    DEFAULT(headers_max, (size_t)16 << 10);
    DEFAULT(bodies_max, (size_t)256 << 20);
    DEFAULT(header_us, 10 * US_PER_SECOND);
    DEFAULT(body_us, 30 * US_PER_SECOND);
    DEFAULT(idle_us, 60 * US_PER_SECOND);
    DEFAULT(answer_us, 2 * US_PER_SECOND);
#undef DEFAULT
    return c;
}

/* What libmicrohttpd would say on stderr: a client that misbehaves is counted, not logged. */
static void log_quietly(void *ctx, const char *fmt, va_list args)
{
    (void)ctx;
    (void)fmt;
    (void)args;
}

/* Targets are read as they came (http_guard.h). */
static size_t no_unescape(void *ctx, struct MHD_Connection *mhd, char *text)
{
    (void)ctx;
    (void)mhd;
    return strlen(text);
}

static enum status start_daemon(struct http_server *s, struct error *err)
{
    const struct http_config *c = &s->cfg;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)log_quietly, NULL},
        {MHD_OPTION_LISTEN_SOCKET, s->listener.fd, NULL},
        {MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)no_unescape, NULL},
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)request_new, s},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)request_completed, s},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)connection_changed, s},
        {MHD_OPTION_CONNECTION_TIMEOUT,
         (intptr_t)((c->idle_us + US_PER_SECOND - 1) / US_PER_SECOND), NULL},
        /* For the headers and what is kept about them. The library clears all of it for every
         * request: it is what a small request costs most. */
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)(c->headers_max + (20u << 10)), NULL},
        {MHD_OPTION_CONNECTION_MEMORY_INCREMENT, 4096, NULL},
        {MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)(c->threads > 1 ? c->threads : 0), NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)((c->connections + 8) * c->threads), NULL},
        /* Without TLS the list ends before these. */
        {s->tls ? MHD_OPTION_HTTPS_CERT_CALLBACK : MHD_OPTION_END, 0,
         (void *)(uintptr_t)http_tls_certificate},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)HTTP_TLS_PRIORITIES},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (s->tls)
        flags |= MHD_USE_TLS;
    s->daemon = MHD_start_daemon(flags, 0, accept_connection, s, request_handle, s,
                                 MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    return s->daemon
               ? STATUS_OK
               : error_set(err, STATUS_IO, "could not start the HTTP server on \"%s\"", c->listen);
}

static enum status check_exposure(const struct http_server *s, struct error *err)
{
    if (s->listener.local || s->cfg.tls_cert || s->cfg.behind_proxy || s->cfg.allow_plain)
        return STATUS_OK;
    return error_set(err, STATUS_REFUSED,
                     "will not listen on \"%s\" without TLS: others could read what is sent; set "
                     "http.tls_cert and http.tls_key, or listen on 127.0.0.1 behind a proxy that "
                     "ends TLS, or set http.behind_proxy when the proxy is another machine, or "
                     "http.insecure_plain",
                     s->cfg.listen);
}

/* Descriptors for all connections that are allowed; without them accept() would fail below that. */
static void raise_descriptor_limit(const struct http_config *c)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)c->connections + SPARE_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    rlim_t hard = limit.rlim_max;
    limit.rlim_cur = hard < wanted ? hard : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (hard < wanted)
        log_write(LOG_WARN, "http",
                  "fewer connections can be open than are configured name=%s connections=%u "
                  "open_files_limit=%llu",
                  c->name, c->connections, (unsigned long long)hard);
}

/* What the configuration names besides the address. */
static enum status prepare(struct http_server *s, struct error *err)
{
    const struct http_config *c = &s->cfg;
    raise_descriptor_limit(c);
    enum status st = http_networks_parse(c->trusted_proxies, &s->trusted, err);
    if (!st && c->rate_per_address)
        st = rate_limit_new(c->rate_per_address, 2 * c->rate_per_address, RATE_KEYS, &s->rate, err);
    if (!st && c->tls_cert)
        st = http_tls_new(c->tls_cert, c->tls_key, &s->tls, err);
    return st;
}

static void init_lock(struct http_server *s)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
}

enum status http_start(const struct http_config *cfg, struct http_server **ret, struct error *err)
{
    struct http_server *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate the HTTP server");
    s->cfg = with_defaults(cfg);
    s->listener.fd = -1;
    s->id_seed = (uint64_t)clock_wall_us(&clock_real) << 20;
    atomic_init(&s->refs, 1);
    init_lock(s);
    enum status st = prepare(s, err);
    if (!st)
        st = http_listen(s->cfg.listen, &s->listener, err);
    if (!st)
        st = check_exposure(s, err);
    if (!st)
        st = start_daemon(s, err);
    if (!st) {
        int rc = pthread_create(&s->reaper, NULL, reaper_main, s);
        s->reaper_started = rc == 0;
        if (rc)
            st = error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    }
    if (st)
        http_stop(s, 0);
    else
        *ret = s;
    return st;
}

/* Until no request is under way, or the time is over. Under the lock. */
static void wait_until_idle(struct http_server *s, int64_t for_us)
{
    int64_t until = clock_mono_us(&clock_real) + for_us;
    while (s->under_way > 0 && clock_mono_us(&clock_real) < until)
        tick_wait(s);
}

void http_stop(struct http_server *s, int64_t grace_us)
{
    if (!s)
        return;
    /* From then on connections are closed as they come. (MHD_quiesce_daemon() would do it, but
     * races with the library's own threads and then ends the process.) */
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    streams_wake(s);
    wait_until_idle(s, grace_us);
    s->stopped = true;
    while (s->waiting_first)
        request_give_up(s->waiting_first);
    wait_until_idle(s, HTTP_TICK_US * 4); /* for those answers to leave */
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->reaper_started)
        pthread_join(s->reaper, NULL);
    if (s->daemon) {
        MHD_stop_daemon(s->daemon); /* closes the socket */
        s->listener.fd = -1;
    }
    http_listener_close(&s->listener);
    server_unref(s);
}

enum status http_reload_tls(struct http_server *s, struct error *err)
{
    return s->tls ? http_tls_reload(s->tls, err) : STATUS_OK;
}

unsigned http_port(const struct http_server *s)
{
    return s->listener.port;
}

struct http_view http_view(const struct http_server *s)
{
    struct http_view v = {
        .connections = atomic_load(&s->connections),
        .connections_refused = atomic_load(&s->connections_refused),
        .requests = atomic_load(&s->requests),
        .refused_guard = atomic_load(&s->refused_guard),
        .timed_out = atomic_load(&s->timed_out),
        .unanswered = atomic_load(&s->unanswered),
        .bodies = atomic_load(&s->bodies),
    };
    for (size_t i = 0; i < 6; i++)
        v.by_class[i] = atomic_load(&s->by_class[i]);
    return v;
}
