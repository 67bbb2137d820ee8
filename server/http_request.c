/*
 * The life of a request: request_new() when its first line is there, request_handle() with its
 * headers, again with each piece of its body, once more at its end, and after a wait;
 * request_completed() when its answer is out or its connection is gone.
 */
#include "server/http_guard.h"
#include "server/http_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"

#define PARAMS_MAX 32
/* No head is larger, whatever the configuration says. */
#define HTTP_HEADERS_MOST ((size_t)1 << 20)

void request_unref(struct http_request *q)
{
    if (atomic_fetch_sub_explicit(&q->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct http_server *s = q->server;
    atomic_fetch_sub(&s->bodies, q->body_held);
    if (q->answer.stream.more && !q->streams)
        q->answer.stream.closed(q->answer.stream.ctx);
    gunzip_free(q->gunzip);
    buf_deinit(&q->head);
    buf_deinit(&q->body);
    free((void *)(uintptr_t)q->answer.body.ptr);
    free(q->fields);
    free(q->params);
    free(q->decoded);
    free(q);
    server_unref(s);
}

void request_deadline(struct http_request *q, int64_t in_us)
{
    atomic_store_explicit(&q->connection->deadline_us,
                          in_us == INT64_MAX ? INT64_MAX
                                             : clock_mono_us(q->server->cfg.clock) + in_us,
                          memory_order_relaxed);
}

/* ---- answers ---- */

static const char *status_title(unsigned status)
{
    static const struct {
        unsigned status;
        const char *title;
    } titles[] = {
        {400, "Bad request"},
        {401, "Unauthorized"},
        {404, "Not found"},
        {405, "Method not allowed"},
        {413, "Content too large"},
        {414, "URI too long"},
        {415, "Unsupported media type"},
        {417, "Expectation failed"},
        {429, "Too many requests"},
        {431, "Request header fields too large"},
        {503, "Service unavailable"},
    };
    for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
        if (titles[i].status == status)
            return titles[i].title;
    return "Error";
}

static bool answer_copy(struct http_answer *to, const struct http_answer *from)
{
    *to = *from;
    to->body = STR_NULL;
    if ((to->status == 429 || to->status == 503) && to->retry_after_s == 0)
        to->retry_after_s = 1;
    if (!from->type || from->body.len == 0)
        return true;
    char *copy = malloc(from->body.len);
    if (!copy)
        return false;
    memcpy(copy, from->body.ptr, from->body.len);
    to->body = (struct str){copy, from->body.len};
    return true;
}

/* The problem of a status, as RFC 9457 has it; only constants go into it. */
static struct http_answer problem(unsigned status, const char *title, char *text, size_t size)
{
    int n = snprintf(text, size, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u}\n",
                     title, status);
    assert(n > 0 && (size_t)n < size);
    return (struct http_answer){
        .status = status, .type = "application/problem+json", .body = {text, (size_t)n}};
}

static void unlink_waiting(struct http_request *q)
{
    struct http_server *s = q->server;
    *(q->prev ? &q->prev->next : &s->waiting_first) = q->next;
    *(q->next ? &q->next->prev : &s->waiting_last) = q->prev;
    q->prev = q->next = NULL;
}

void http_answer(struct http_request *q, const struct http_answer *a)
{
    struct http_server *s = q->server;
    struct http_answer copy;
    if (!answer_copy(&copy, a))
        copy = (struct http_answer){.status = 503, .retry_after_s = 1};
    pthread_mutex_lock(&s->lock);
    bool waits = q->state == REQUEST_WAITING;
    bool late = q->state == REQUEST_GIVEN_UP;
    assert(q->state != REQUEST_ANSWERED);
    if (!late) {
        q->answer = copy;
        q->state = REQUEST_ANSWERED;
    }
    if (waits) {
        unlink_waiting(q);
        /* Under the lock: who has it and sees nobody waiting knows that nobody resumes. */
        MHD_resume_connection(q->mhd);
    }
    pthread_mutex_unlock(&s->lock);
    if (late && copy.stream.more)
        copy.stream.closed(copy.stream.ctx);
    if (late)
        free((void *)(uintptr_t)copy.body.ptr);
    request_unref(q);
}

void http_answer_status(struct http_request *q, unsigned status)
{
    http_answer(q, &(struct http_answer){.status = status});
}

void http_answer_problem(struct http_request *q, unsigned status, const char *title)
{
    char text[512];
    struct http_answer a = problem(status, title, text, sizeof(text));
    http_answer(q, &a);
}

static void give_up(struct http_request *q)
{
    q->state = REQUEST_GIVEN_UP;
    atomic_fetch_add(&q->server->unanswered, 1);
}

void request_give_up(struct http_request *q)
{
    assert(q->state == REQUEST_WAITING);
    unlink_waiting(q);
    give_up(q);
    MHD_resume_connection(q->mhd);
}

static void add_header(struct MHD_Response *r, const char *name, const char *value, bool *ok)
{
    *ok = *ok && MHD_add_response_header(r, name, value) == MHD_YES;
}

static void allowed_methods(unsigned methods, char out[16])
{
    snprintf(out, 16, "%s%s%s", methods & HTTP_GET ? "GET" : "",
             methods & HTTP_HEAD ? ", HEAD" : "",
             methods & HTTP_POST ? methods & HTTP_GET ? ", POST" : "POST" : "");
}

/* Hands the answer to libmicrohttpd, which sends it when this thread has returned. */
static enum MHD_Result send_answer(struct http_request *q, const struct http_answer *a)
{
    bool ok = true;
    char text[24];
    struct MHD_Response *r =
        a->stream.more ? stream_response(q)
                       : MHD_create_response_from_buffer(
                             a->type ? a->body.len : 0, (void *)(uintptr_t)a->body.ptr,
                             a->body.len ? MHD_RESPMEM_MUST_COPY : MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO;
    add_header(r, "X-Request-Id", q->id, &ok);
    add_header(r, "X-Content-Type-Options", "nosniff", &ok);
    if (a->type)
        add_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, a->type, &ok);
    if (a->retry_after_s) {
        snprintf(text, sizeof(text), "%u", a->retry_after_s);
        add_header(r, MHD_HTTP_HEADER_RETRY_AFTER, text, &ok);
    }
    if (a->status == 405 && q->route) {
        allowed_methods(q->route->methods, text);
        add_header(r, MHD_HTTP_HEADER_ALLOW, text, &ok);
    }
    if (a->header)
        add_header(r, a->header, a->header_value, &ok);
    if (a->close || a->stream.more) /* whose end is that of the connection, too */
        add_header(r, MHD_HTTP_HEADER_CONNECTION, "close", &ok);
    ok = ok && MHD_queue_response(q->mhd, a->status, r) == MHD_YES;
    MHD_destroy_response(r);
    if (a->status < 600)
        atomic_fetch_add_explicit(&q->server->by_class[a->status / 100], 1, memory_order_relaxed);
    request_deadline(q, q->server->cfg.body_us); /* to take the answer */
    return ok ? MHD_YES : MHD_NO;
}

/* What has been decided, or that nothing was decided in time. */
static enum MHD_Result send_decided(struct http_request *q)
{
    char text[512];
    if (q->state == REQUEST_ANSWERED)
        return send_answer(q, &q->answer);
    struct http_answer a = problem(503, "Service unavailable", text, sizeof(text));
    a.retry_after_s = 1;
    return send_answer(q, &a);
}

/* ---- the head ---- */

void *request_new(void *server, const char *target, struct MHD_Connection *mhd)
{
    struct http_server *s = server;
    struct http_connection *connection =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    struct http_request *q = connection ? calloc(1, sizeof(*q)) : NULL;
    if (!q)
        return NULL;
    size_t len = strlen(target);
    buf_init(&q->head, s->cfg.headers_max + HTTP_TARGET_MAX + (size_t)HTTP_FIELDS_MAX * 2 + 256);
    /* One byte more than allowed is enough for the guard to see it. */
    if (len > HTTP_TARGET_MAX + 1)
        len = HTTP_TARGET_MAX + 1;
    if (buf_append(&q->head, target, len) || buf_put_u8(&q->head, 0)) {
        buf_deinit(&q->head);
        free(q);
        return NULL;
    }
    q->target.len = len;
    atomic_init(&q->refs, 1);
    q->server = s;
    atomic_fetch_add(&s->refs, 1);
    q->mhd = mhd;
    q->connection = connection;
    return q;
}

struct head_walk {
    struct http_request *q;
    const char *last; /* behind the text before this field */
    bool torn;
    size_t bytes; /* as on the wire */
    size_t n;     /* also those that are not kept */
    bool failed;
};

/*
 * libmicrohttpd 0.9 takes lines that end in a bare LF, lines that are folded, and values with a
 * NUL, of which it shows a part. It keeps the head as it came, with NULs for the colons and for
 * both bytes of each line's end; so where the texts lie says what was between them, and behind the
 * last one are the NULs of two line ends. Later ones refuse such heads themselves.
 */
static bool is_torn(const char *last, const char *name, size_t name_len, const char *value)
{
    uintptr_t name_end = (uintptr_t)name + name_len, value_at = (uintptr_t)value;
    return (uintptr_t)name - (uintptr_t)last != 2 || value_at <= name_end ||
           value_at - name_end > HTTP_HEADERS_MOST;
}

static bool library_keeps_heads(void)
{
    return strncmp(MHD_get_version(), "0.9.", 4) == 0;
}

static enum MHD_Result copy_field(void *ctx, enum MHD_ValueKind kind, const char *name,
                                  size_t name_len, const char *value, size_t value_len)
{
    (void)kind;
    struct head_walk *w = ctx;
    struct http_request *q = w->q;
    w->torn = w->torn || is_torn(w->last, name, name_len, value);
    w->last = value + value_len;
    w->bytes += name_len + value_len + 4;
    w->n++;
    /* What is beyond the bounds is refused by the guard, whatever else it says. */
    if (w->n > HTTP_FIELDS_MAX || w->bytes > q->server->cfg.headers_max)
        return MHD_YES;
    struct http_field *f = &q->fields[q->n_fields];
    while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
        value_len--;
    /* Pointers are set when the buffer no longer moves. */
    f->name.len = name_len;
    f->value.len = value_len;
    w->failed = w->failed || buf_append(&q->head, name, name_len) || buf_put_u8(&q->head, 0) ||
                buf_append(&q->head, value, value_len) || buf_put_u8(&q->head, 0);
    q->n_fields++;
    return MHD_YES;
}

static bool copy_head(struct http_request *q, const char *version, struct head_walk *w)
{
    q->fields = calloc(HTTP_FIELDS_MAX, sizeof(*q->fields));
    if (!q->fields)
        return false;
    *w = (struct head_walk){.q = q, .last = version + strlen(version)};
    (void)MHD_get_connection_values_n(q->mhd, MHD_HEADER_KIND, copy_field, w);
    w->torn = w->torn || memcmp(w->last, "\0\0\0", 4) != 0;
    if (w->failed)
        return false;
    q->target.ptr = q->head.data;
    const char *at = q->head.data + q->target.len + 1;
    for (size_t i = 0; i < q->n_fields; i++) {
        q->fields[i].name.ptr = at;
        at += q->fields[i].name.len + 1;
        q->fields[i].value.ptr = at;
        at += q->fields[i].value.len + 1;
    }
    return true;
}

static bool split_target(struct http_request *q)
{
    const char *mark = memchr(q->target.ptr, '?', q->target.len);
    q->path = (struct str){q->target.ptr, mark ? (size_t)(mark - q->target.ptr) : q->target.len};
    struct str query = {mark ? mark + 1 : NULL, q->target.len - q->path.len - (mark != NULL)};
    if (query.len == 0)
        return true;
    q->params = calloc(PARAMS_MAX, sizeof(*q->params));
    q->decoded = malloc(query.len);
    if (!q->params || !q->decoded)
        return false;
    q->n_params = http_query_parse(query, q->decoded, q->params, PARAMS_MAX);
    return true;
}

static const struct http_route *find_route(const struct http_server *s, struct str path)
{
    const struct http_route *best = NULL;
    size_t best_len = 0;
    for (size_t i = 0; i < s->cfg.n_routes; i++) {
        const struct http_route *r = &s->cfg.routes[i];
        size_t len = strlen(r->path);
        bool prefix = r->path[len - 1] == '/' && path.len > len;
        if ((path.len == len || prefix) && memcmp(path.ptr, r->path, len) == 0 && len > best_len) {
            best = r;
            best_len = len;
        }
    }
    return best;
}

/* Sends the answer that was decided before the handler was asked. A body that is still to come is
 * read to its end if it is small, so that its sender is not cut off before it sees the answer; the
 * connection ends then. v NULL: nobody knows where the request ends. */
static enum MHD_Result send_early(struct http_request *q, const struct http_verdict *v)
{
    bool body = v && (v->chunked || v->length > 0);
    q->refused = true;
    q->answer.close = q->answer.close || body || !v;
    if (body && !v->expect_continue && (v->chunked || (uint64_t)v->length <= HTTP_DISCARD_MAX))
        return MHD_YES;
    return send_answer(q, &q->answer);
}

static enum MHD_Result refuse(struct http_request *q, unsigned status, const char *title,
                              unsigned retry_after_s, const struct http_verdict *v)
{
    char text[512];
    struct http_answer a = problem(status, title, text, sizeof(text));
    a.retry_after_s = retry_after_s;
    if (!answer_copy(&q->answer, &a))
        return MHD_NO;
    q->state = REQUEST_ANSWERED;
    return send_early(q, v);
}

static enum MHD_Result refuse_status(struct http_request *q, unsigned status,
                                     const struct http_verdict *v)
{
    return refuse(q, status, status_title(status), 0, v);
}

static bool known_method(const char *text, enum http_method *ret)
{
    if (strcmp(text, "GET") == 0)
        *ret = HTTP_GET;
    else if (strcmp(text, "POST") == 0)
        *ret = HTTP_POST;
    else if (strcmp(text, "HEAD") == 0)
        *ret = HTTP_HEAD;
    else
        return false;
    return true;
}

/* What may come, before any of it does. */
static enum MHD_Result begin_body(struct http_request *q, const struct http_verdict *v)
{
    struct http_server *s = q->server;
    if (v->other_coding || (v->gzip && !q->expect.gzip))
        return refuse_status(q, 415, v);
    if (v->length > 0 && (uint64_t)v->length > q->expect.body_max)
        return refuse_status(q, 413, v);
    if (v->length > 0 && atomic_load(&s->bodies) + (uint64_t)v->length > s->cfg.bodies_max)
        return refuse_status(q, 503, v);
    buf_init(&q->body, q->expect.body_max);
    if (v->gzip && gunzip_new(&q->gunzip, NULL))
        return refuse_status(q, 503, v);
    return MHD_YES;
}

/* The route, and what it says to the headers. */
static enum MHD_Result begin_route(struct http_request *q, const char *method,
                                   const struct http_verdict *v)
{
    struct http_server *s = q->server;
    q->route = find_route(s, q->path);
    if (!q->route)
        return refuse_status(q, 404, v);
    if (!known_method(method, &q->method) || !(q->route->methods & q->method))
        return refuse_status(q, 405, v);
    size_t len = strlen(q->route->path);
    q->rest = (struct str){q->path.ptr + len, q->path.len - len};
    if (q->route->begin) {
        atomic_fetch_add(&q->refs, 1); /* of the handler, if it answers */
        if (!q->route->begin(q->route->ctx, q, &q->expect)) {
            assert(q->state == REQUEST_ANSWERED);
            return send_early(q, v);
        }
        request_unref(q);
    }
    return begin_body(q, v);
}

/* Who asks, and whether that one asks too often. */
static bool within_rate(struct http_request *q, unsigned *ret_retry_s)
{
    struct http_server *s = q->server;
    char host[HTTP_ADDRESS_TEXT_BYTES];
    struct http_address client = http_client_address(&q->connection->peer, &s->trusted,
                                                     s->cfg.behind_proxy, q->fields, q->n_fields);
    http_address_print(&client, q->client);
    client = http_address_host(&client);
    http_address_print(&client, host);
    return rate_limit_take(s->rate, str_from(host), clock_mono_us(s->cfg.clock), ret_retry_s);
}

static enum MHD_Result begin(struct http_request *q, const char *method, const char *version)
{
    struct http_server *s = q->server;
    struct head_walk w;
    q->received_us = clock_wall_us(s->cfg.clock);
    q->begun = true;
    atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
    pthread_mutex_lock(&s->lock);
    s->under_way++;
    bool stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    snprintf(q->id, sizeof(q->id), "%016llx",
             (unsigned long long)hash64_mix(s->id_seed + atomic_fetch_add(&s->next_id, 1)));
    request_deadline(q, s->cfg.body_us);
    if (!copy_head(q, version, &w))
        return MHD_NO;
    struct http_verdict v = http_guard(&(struct http_head){
        .method = str_from(method),
        .target = q->target,
        .version = str_from(version),
        .fields = q->fields,
        .n_fields = q->n_fields,
        .n_all = w.n,
        .headers_bytes = w.bytes,
        .headers_max = s->cfg.headers_max,
        .torn = w.torn && library_keeps_heads(),
    });
    if (v.status) {
        atomic_fetch_add(&s->refused_guard, 1);
        return refuse(q, v.status, v.title, 0, NULL);
    }
    if (stopping)
        return refuse_status(q, 503, &v);
    unsigned retry_s = 0;
    if (!within_rate(q, &retry_s))
        return refuse(q, 429, status_title(429), retry_s, &v);
    if (!split_target(q))
        return MHD_NO;
    return begin_route(q, method, &v);
}

/* ---- the body ---- */

/* What is held of all bodies, also of those whose handler is slow. */
static bool within_memory(struct http_request *q)
{
    struct http_server *s = q->server;
    size_t more = q->body.cap - q->body_held;
    q->body_held = q->body.cap;
    return atomic_fetch_add(&s->bodies, more) + more <= s->cfg.bodies_max;
}

static enum MHD_Result feed(struct http_request *q, const char *bytes, size_t n)
{
    static const struct http_verdict rest = {.chunked = true, .length = -1};
    if (q->refused) {
        q->discarded += n;
        return q->discarded <= HTTP_DISCARD_MAX + q->expect.body_max ? MHD_YES : MHD_NO;
    }
    enum status st = q->gunzip ? gunzip_feed(q->gunzip, (struct str){bytes, n}, &q->body)
                               : buf_append(&q->body, bytes, n);
    if (!within_memory(q))
        st = STATUS_NOMEM;
    if (!st)
        return MHD_YES;
    if (st == STATUS_INVALID)
        return refuse(q, 400, "The body is not valid gzip", 0, &rest);
    return refuse_status(q, st == STATUS_LIMIT ? 413 : 503, &rest);
}

static enum MHD_Result handle(struct http_request *q)
{
    struct http_server *s = q->server;
    enum MHD_Result result = MHD_YES;
    request_deadline(q, INT64_MAX);
    atomic_fetch_add(&q->refs, 1); /* of the handler; http_answer() drops it */
    q->route->handle(q->route->ctx, q);
    pthread_mutex_lock(&s->lock);
    bool waits = q->state == REQUEST_OPEN && !s->stopped;
    if (waits) {
        q->state = REQUEST_WAITING;
        q->answer_by_us = clock_mono_us(s->cfg.clock) + s->cfg.answer_us;
        q->prev = s->waiting_last;
        *(s->waiting_last ? &s->waiting_last->next : &s->waiting_first) = q;
        s->waiting_last = q;
        MHD_suspend_connection(q->mhd);
    } else if (q->state == REQUEST_OPEN) {
        give_up(q);
    }
    pthread_mutex_unlock(&s->lock);
    if (!waits)
        result = send_decided(q);
    return result;
}

enum MHD_Result request_handle(void *server, struct MHD_Connection *mhd, const char *url,
                               const char *method, const char *version, const char *upload,
                               size_t *upload_size, void **request)
{
    (void)server;
    (void)mhd;
    (void)url;
    struct http_request *q = *request;
    if (!q)
        return MHD_NO;
    if (!q->begun)
        return begin(q, method, version);
    if (*upload_size > 0) {
        enum MHD_Result result = feed(q, upload, *upload_size);
        *upload_size = 0;
        return result;
    }
    if (q->refused || q->handled)
        return send_decided(q);
    q->handled = true;
    if (q->gunzip && !gunzip_complete(q->gunzip)) {
        static const struct http_verdict whole = {.length = 0};
        return refuse(q, 400, "The body is not valid gzip", 0, &whole);
    }
    return handle(q);
}

void request_completed(void *server, struct MHD_Connection *mhd, void **request,
                       enum MHD_RequestTerminationCode code)
{
    (void)mhd;
    (void)code;
    struct http_server *s = server;
    struct http_request *q = *request;
    *request = NULL;
    if (!q)
        return;
    if (q->begun) {
        pthread_mutex_lock(&s->lock);
        s->under_way--;
        if (s->stopping)
            pthread_cond_broadcast(&s->changed);
        pthread_mutex_unlock(&s->lock);
        request_deadline(q, s->cfg.idle_us + s->cfg.header_us);
    }
    request_unref(q);
}

/* ---- what a handler sees ---- */

enum http_method http_method(const struct http_request *q)
{
    return q->method;
}

struct str http_path(const struct http_request *q)
{
    return q->path;
}

struct str http_rest(const struct http_request *q)
{
    return q->rest;
}

struct str http_header(const struct http_request *q, const char *name)
{
    return http_field_find(q->fields, q->n_fields, str_from(name));
}

struct str http_query(const struct http_request *q, const char *name)
{
    for (size_t i = 0; i < q->n_params; i++)
        if (str_equal(q->params[i].name, str_from(name)))
            return q->params[i].value;
    return STR_NULL;
}

struct str http_body(const struct http_request *q)
{
    return (struct str){q->body.data ? q->body.data : "", q->body.len};
}

struct str http_client(const struct http_request *q)
{
    return str_from(q->client);
}

struct str http_request_id(const struct http_request *q)
{
    return (struct str){q->id, sizeof(q->id) - 1};
}

int64_t http_received_us(const struct http_request *q)
{
    return q->received_us;
}
