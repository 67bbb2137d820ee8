#include "server/http_client.h"

#include <arpa/inet.h>
#include <assert.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

#define CONNECT_US       (5 * US_PER_SECOND)
#define TOTAL_US         (60 * US_PER_SECOND)
#define STALL_US         (20 * US_PER_SECOND)
#define BODY_BYTES       (64u << 20)
#define HEADER_BYTES     (64u << 10) /* of all headers of an answer */
#define ERROR_BODY_BYTES (64u << 10) /* kept of an answer other than 2xx to a streaming call */
#define STOP_POLL_MS     100         /* how late a stop is seen at most */
#define WHERE_BYTES      256

struct http_client {
    struct http_client_config cfg;
    CURL *easy;
    CURLM *multi; /* of the one handle: perform() alone looks at `stop` once a second */
    struct buf body;
    char curl_error[CURL_ERROR_SIZE];
    char where[WHERE_BYTES]; /* of the call under way */

    const struct http_client_call *call;
    size_t received;
    size_t header_bytes;
    struct error failed; /* what our own callbacks refused */
};

/* ---- URLs ---- */

static bool host_is_loopback(const char *host)
{
    struct in_addr v4;
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (inet_pton(AF_INET, host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
}

static enum status check_parts(CURLU *u, const char *url, bool *ret_exposed, struct error *err)
{
    if (curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME))
        return error_set(err, STATUS_INVALID, "is not a URL such as \"http://127.0.0.1:6333\"");
    char *scheme = NULL, *host = NULL, *user = NULL, *fragment = NULL;
    (void)curl_url_get(u, CURLUPART_SCHEME, &scheme, 0);
    (void)curl_url_get(u, CURLUPART_HOST, &host, 0);
    (void)curl_url_get(u, CURLUPART_USER, &user, 0);
    (void)curl_url_get(u, CURLUPART_FRAGMENT, &fragment, 0);
    bool tls = scheme && strcmp(scheme, "https") == 0;
    enum status st = STATUS_OK;
    if (!scheme || !host || (!tls && strcmp(scheme, "http") != 0))
        st = error_set(err, STATUS_INVALID, "must begin with http:// or https:// and name a host");
    else if (user)
        st =
            error_set(err, STATUS_INVALID, "holds a user name: credentials have keys of their own");
    else if (fragment)
        st = error_set(err, STATUS_INVALID, "holds a fragment (#...)");
    else
        *ret_exposed = !tls && !host_is_loopback(host);
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_free(fragment);
    return st;
}

enum status http_client_check_url(const char *url, bool *ret_exposed, struct error *err)
{
    CURLU *u = curl_url();
    if (!u)
        return error_set(err, STATUS_NOMEM, "could not allocate a URL");
    enum status st = check_parts(u, url, ret_exposed, err);
    curl_url_cleanup(u);
    return st;
}

enum status http_client_join(const char *base, const char *path, char *out, size_t cap,
                             struct error *err)
{
    size_t len = strlen(base);
    while (len > 0 && base[len - 1] == '/')
        len--;
    while (*path == '/')
        path++;
    int n = snprintf(out, cap, "%.*s/%s", (int)len, base, path);
    if (n < 0 || (size_t)n >= cap)
        return error_set(err, STATUS_INVALID, "a URL of %d bytes is too long", n);
    return STATUS_OK;
}

enum status http_client_escape(struct str s, struct buf *out)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < s.len && !st; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        st = plain ? buf_put_u8(out, c) : buf_printf(out, "%%%02X", c);
    }
    return st;
}

/* The URL as an error may show it: without what follows the path. */
static void name_where(struct http_client *c, const char *url)
{
    snprintf(c->where, sizeof(c->where), "%.*s", (int)strcspn(url, "?#"), url);
}

/* ---- what libcurl calls ---- */

static size_t refuse(struct http_client *c, enum status st, const char *text)
{
    if (!c->failed.code)
        (void)error_set(&c->failed, st, "%s", text);
    return 0; /* anything but the size ends the transfer */
}

static size_t on_header(char *bytes, size_t size, size_t n, void *ctx)
{
    struct http_client *c = ctx;
    (void)bytes;
    c->header_bytes += size * n;
    if (c->header_bytes > HEADER_BYTES)
        return refuse(c, STATUS_LIMIT, "the headers of the answer are too large");
    return size * n;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *ctx)
{
    struct http_client *c = ctx;
    size_t len = size * n;
    if (len == 0)
        return 0;
    if (len > c->cfg.body_max - c->received)
        return refuse(c, STATUS_LIMIT, "the answer is too large");
    c->received += len;
    long status = 0;
    (void)curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    if (c->call->chunk && status >= 200 && status < 300) {
        enum status st = c->call->chunk(c->call->ctx, (struct str){bytes, len}, &c->failed);
        if (st && !c->failed.code)
            (void)error_set(&c->failed, st, "the answer could not be used");
        return st ? 0 : len;
    }
    size_t keep = len;
    if (c->call->chunk && keep > ERROR_BODY_BYTES - c->body.len)
        keep = ERROR_BODY_BYTES - c->body.len;
    if (buf_append(&c->body, bytes, keep))
        return refuse(c, STATUS_NOMEM, "there is no memory for the answer");
    return len;
}

/* ---- a client ---- */

static void global_init(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* What is the same in every call. */
static bool set_options(struct http_client *c)
{
    CURL *e = c->easy;
    const struct http_client_config *cfg = &c->cfg;
    bool ok = true;
    ok &= !curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    ok &= !curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    ok &= !curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    ok &= !curl_easy_setopt(e, CURLOPT_PROXY, "");
    ok &= !curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
    ok &= !cfg->ca_file || !curl_easy_setopt(e, CURLOPT_CAINFO, cfg->ca_file);
    ok &= !curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    /* A stop does not wait for the thread that asks a name server. */
    ok &= !curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(cfg->connect_us / 1000));
    ok &= !curl_easy_setopt(e, CURLOPT_TIMEOUT_MS,
                            cfg->total_us == INT64_MAX ? 0L : (long)(cfg->total_us / 1000));
    ok &= !curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
    ok &= !curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME,
                            (long)((cfg->stall_us + US_PER_SECOND - 1) / US_PER_SECOND));
    ok &= !curl_easy_setopt(e, CURLOPT_USERAGENT, "warmpath");
    ok &= !curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->curl_error);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    ok &= !curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    ok &= !curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
    return ok;
}

enum status http_client_new(const struct http_client_config *cfg, struct http_client **ret,
                            struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, global_init);
    CLEANUP(http_client_freep) struct http_client *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate an HTTP client");
    c->cfg = *cfg;
    c->cfg.connect_us = cfg->connect_us ? cfg->connect_us : CONNECT_US;
    c->cfg.total_us = cfg->total_us ? cfg->total_us : TOTAL_US;
    c->cfg.stall_us = cfg->stall_us ? cfg->stall_us : STALL_US;
    c->cfg.body_max = cfg->body_max ? cfg->body_max : BODY_BYTES;
    size_t keep = c->cfg.body_max > ERROR_BODY_BYTES ? c->cfg.body_max : ERROR_BODY_BYTES;
    buf_init(&c->body, keep);
    c->easy = curl_easy_init();
    c->multi = curl_multi_init();
    if (!c->easy || !c->multi || !set_options(c))
        return error_set(err, STATUS_IO, "could not set up libcurl (%s)", curl_version());
    *ret = TAKE(c);
    return STATUS_OK;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    if (c->easy)
        curl_easy_cleanup(c->easy);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    buf_deinit(&c->body);
    free(c);
}

/* ---- a call ---- */

static bool set_call(struct http_client *c, const struct http_client_call *call,
                     struct curl_slist **headers)
{
    /* No "Expect: 100-continue": our bodies are small, and some servers never answer it. */
    const char *fixed[] = {"Expect:", call->post ? "Content-Type: application/json" : NULL};
    for (size_t i = 0; i < 2 + HTTP_CLIENT_HEADERS_MAX; i++) {
        const char *line = i < 2 ? fixed[i] : call->headers[i - 2];
        if (i >= 2 && !line)
            break;
        struct curl_slist *longer = line ? curl_slist_append(*headers, line) : *headers;
        if (!longer)
            return false;
        *headers = longer;
    }
    bool ok = true;
    ok &= !curl_easy_setopt(c->easy, CURLOPT_URL, call->url);
    ok &= !curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, *headers);
    ok &= !curl_easy_setopt(c->easy, CURLOPT_USERNAME, call->user);
    ok &= !curl_easy_setopt(c->easy, CURLOPT_PASSWORD, call->password);
    if (call->post) {
        ok &= !curl_easy_setopt(c->easy, CURLOPT_POST, 1L);
        ok &= !curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
        ok &= !curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, call->body.len ? call->body.ptr : "");
    } else {
        ok &= !curl_easy_setopt(c->easy, CURLOPT_HTTPGET, 1L);
    }
    return ok;
}

static enum status transfer_failed(struct http_client *c, CURLcode code, struct error *err)
{
    if (c->failed.code)
        return error_set(err, c->failed.code, "%s: %s", c->where, c->failed.text);
    const char *why = c->curl_error[0] ? c->curl_error : curl_easy_strerror(code);
    bool http = code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_WEIRD_SERVER_REPLY &&
                code != CURLE_URL_MALFORMAT;
    return error_set(err, http ? STATUS_IO : STATUS_PROTOCOL, "%s: %s", c->where, why);
}

/* Until the transfer is done; the handle is in c->multi. */
static enum status run_transfer(struct http_client *c, struct error *err)
{
    for (;;) {
        if (c->cfg.stop && atomic_load(c->cfg.stop))
            return error_set(err, STATUS_END, "%s: stopped", c->where);
        int running = 0, left = 0;
        CURLMcode mc = curl_multi_perform(c->multi, &running);
        if (!mc && running)
            mc = curl_multi_poll(c->multi, NULL, 0, STOP_POLL_MS, NULL);
        if (mc)
            return error_set(err, STATUS_IO, "%s: %s", c->where, curl_multi_strerror(mc));
        if (running)
            continue;
        const CURLMsg *msg = curl_multi_info_read(c->multi, &left);
        if (!msg || msg->msg != CURLMSG_DONE)
            return error_set(err, STATUS_IO, "%s: libcurl gave no result", c->where);
        return msg->data.result ? transfer_failed(c, msg->data.result, err) : STATUS_OK;
    }
}

enum status http_client_call(struct http_client *c, const struct http_client_call *call,
                             struct http_client_reply *ret, struct error *err)
{
    assert(call->url);
    c->call = call;
    c->received = c->header_bytes = 0;
    c->failed = (struct error){.code = STATUS_OK};
    c->curl_error[0] = '\0';
    buf_reset(&c->body);
    name_where(c, call->url);

    struct curl_slist *headers = NULL;
    enum status st = STATUS_OK;
    if (!set_call(c, call, &headers) || curl_multi_add_handle(c->multi, c->easy))
        st = error_set(err, STATUS_NOMEM, "%s: could not set up the call", c->where);
    if (!st) {
        st = run_transfer(c, err);
        (void)curl_multi_remove_handle(c->multi, c->easy);
    }
    /* Nothing of the caller stays in the handle. */
    (void)curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, NULL);
    (void)curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, NULL);
    curl_slist_free_all(headers);
    c->call = NULL;
    if (st)
        return st;
    long status = 0;
    curl_off_t retry_after = 0;
    (void)curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(c->easy, CURLINFO_RETRY_AFTER, &retry_after);
    *ret = (struct http_client_reply){
        .status = (unsigned)status,
        .retry_after_s = retry_after > 0 && retry_after < UINT32_MAX ? (unsigned)retry_after : 0,
        .body = {c->body.data ? c->body.data : "", c->body.len},
    };
    return STATUS_OK;
}

const char *http_client_excerpt(struct str body, const char *secret, char *out, size_t cap)
{
    static const char hidden[] = "***";
    size_t secret_len = secret ? strlen(secret) : 0, n = 0;
    for (size_t i = 0; i < body.len && n + sizeof(hidden) < cap; i++) {
        unsigned char c = (unsigned char)body.ptr[i];
        if (secret_len && body.len - i >= secret_len &&
            memcmp(body.ptr + i, secret, secret_len) == 0) {
            memcpy(out + n, hidden, sizeof(hidden) - 1);
            n += sizeof(hidden) - 1;
            i += secret_len - 1;
        } else {
            out[n++] = (char)(c >= 0x20 && c < 0x7F && c != '"' ? c : ' ');
        }
    }
    out[n] = '\0';
    return out;
}
