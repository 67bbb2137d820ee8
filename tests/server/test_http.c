/*
 * tests/server/test_http.c - the listener on real sockets: routes, bodies, answers now and later,
 * deadlines, its end. What a request's head may look like is in test_http_guard.c.
 */
#include "server/http.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE_MS 30000

/* ---- a client ---- */

static int dial(const struct http_server *s)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_port(s)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(0, connect(fd, (struct sockaddr *)&to, sizeof(to)));
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(strlen(text), send(fd, text, strlen(text), MSG_NOSIGNAL));
}

/* Reads until the text holds `until`, or to the end of the stream when that is NULL. */
static void hear(int fd, const char *until, char *out, size_t size)
{
    size_t n = 0;
    out[0] = '\0';
    while (!until || !strstr(out, until)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(1, poll(&p, 1, PATIENCE_MS));
        ssize_t got = recv(fd, out + n, size - 1 - n, 0);
        if (got <= 0) {
            if (until)
                fail_msg("the stream ended before \"%s\": %s", until, out);
            return;
        }
        n += (size_t)got;
        out[n] = '\0';
    }
}

/* One answer: its head and as much of a body as that says. */
static void hear_answer(int fd, char *out, size_t size)
{
    char *end = NULL;
    hear(fd, "\r\n\r\n", out, size);
    const char *length = strcasestr(out, "\r\nContent-Length:");
    size_t body = length ? strtoul(length + 17, NULL, 10) : 0;
    while ((end = strstr(out, "\r\n\r\n")) && strlen(end + 4) < body) {
        size_t n = strlen(out);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(1, poll(&p, 1, PATIENCE_MS));
        ssize_t got = recv(fd, out + n, size - 1 - n, 0);
        assert_true(got > 0);
        out[n + (size_t)got] = '\0';
    }
}

/* One request on a connection of its own, and its answer. */
static const char *ask(const struct http_server *s, const char *request)
{
    static _Thread_local char answer[65536];
    int fd = dial(s);
    say(fd, request);
    hear_answer(fd, answer, sizeof(answer));
    close(fd);
    return answer;
}

static void assert_answer(const char *answer, unsigned status, const char *part)
{
    char line[32];
    snprintf(line, sizeof(line), "HTTP/1.1 %u ", status);
    if (strncmp(answer, line, strlen(line)) != 0 || !strstr(answer, part))
        fail_msg("wanted %u with \"%s\": %s", status, part, answer);
}

/* ---- a server ---- */

struct world {
    struct http_server *server;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct http_request *held; /* by route /hold, to be answered by the test */
    atomic_uint handled;
};

static void handle_echo(void *ctx, struct http_request *q)
{
    struct world *w = ctx;
    atomic_fetch_add(&w->handled, 1);
    struct buf out;
    buf_init(&out, 1u << 20);
    struct str body = http_body(q), rest = http_rest(q), tag = http_header(q, "x-tag");
    struct str a = http_query(q, "a");
    assert_int_equal(
        STATUS_OK, buf_printf(&out, "rest=" STR_FMT " tag=" STR_FMT " a=" STR_FMT " body=" STR_FMT,
                              STR_ARGS(rest), STR_ARGS(tag), STR_ARGS(a), STR_ARGS(body)));
    http_answer(
        q, &(struct http_answer){.status = 200, .type = "text/plain", .body = {out.data, out.len}});
    buf_deinit(&out);
}

static void handle_hold(void *ctx, struct http_request *q)
{
    struct world *w = ctx;
    pthread_mutex_lock(&w->lock);
    w->held = q;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static struct http_request *take_held(struct world *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_MS / 1000;
    pthread_mutex_lock(&w->lock);
    while (!w->held)
        if (pthread_cond_timedwait(&w->changed, &w->lock, &until))
            fail_msg("no request came");
    struct http_request *q = w->held;
    w->held = NULL;
    pthread_mutex_unlock(&w->lock);
    return q;
}

static bool begin_body(void *ctx, struct http_request *q, struct http_expect *expect)
{
    (void)ctx;
    (void)q;
    *expect = (struct http_expect){.body_max = 1000, .gzip = true};
    return true;
}

static bool begin_secret(void *ctx, struct http_request *q, struct http_expect *expect)
{
    (void)ctx;
    *expect = (struct http_expect){.body_max = 1000};
    if (str_equal(http_header(q, "Authorization"), STR("Bearer open")))
        return true;
    http_answer_problem(q, 401, "Unauthorized");
    return false;
}

static void world_start(struct world *w, struct http_config cfg)
{
    *w = (struct world){0};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    static struct http_route routes[4];
    const struct http_route all[] = {
        {"/echo/", HTTP_GET | HTTP_POST, begin_body, handle_echo, w},
        {"/echo/deep/", HTTP_POST, begin_body, handle_echo, w},
        {"/hold", HTTP_POST, begin_body, handle_hold, w},
        {"/secret", HTTP_POST, begin_secret, handle_echo, w},
    };
    memcpy(routes, all, sizeof(all));
    struct error err;
    cfg.listen = cfg.listen ? cfg.listen : "127.0.0.1:0";
    cfg.routes = routes;
    cfg.n_routes = sizeof(all) / sizeof(all[0]);
    if (http_start(&cfg, &w->server, &err))
        fail_msg("%s", err.text);
}

static void world_stop(struct world *w)
{
    http_stop(w->server, US_PER_SECOND);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
}

/* ---- tests ---- */

static void test_a_request_reaches_the_longest_route_with_its_parts(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){0});
    assert_answer(ask(w.server,
                      "POST /echo/one/two?x=1&a=b%20c HTTP/1.1\r\nHost: x\r\nX-Tag:  t \r\n"
                      "Content-Length: 4\r\n\r\nbody"),
                  200, "rest=one/two tag=t a=b c body=body");
    assert_answer(ask(w.server,
                      "POST /echo/deep/er HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                      "chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Tag: late\r\n\r\n"),
                  200, "rest=er tag= a= body=abcde");
    assert_answer(ask(w.server, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"), 404, "\"Not found\"");
    assert_answer(ask(w.server, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n"), 405,
                  "\r\nAllow: POST\r\n");
    assert_answer(ask(w.server, "OPTIONS /echo/x HTTP/1.1\r\nHost: x\r\n\r\n"), 405,
                  "\r\nAllow: GET, POST\r\n");
    world_stop(&w);
}

static void test_every_answer_has_an_id_and_no_server(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){0});
    char first[64];
    const char *answer = ask(w.server, "GET /echo/x HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_answer(answer, 200, "\r\nX-Content-Type-Options: nosniff\r\n");
    assert_non_null(strstr(answer, "\r\nDate: "));
    assert_null(strcasestr(answer, "\r\nServer:"));
    const char *id = strstr(answer, "\r\nX-Request-Id: ");
    assert_non_null(id);
    snprintf(first, sizeof(first), "%.32s", id);
    answer = ask(w.server, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_answer(answer, 404, "\r\nContent-Type: application/problem+json\r\n");
    assert_non_null(strstr(answer, "\r\nX-Request-Id: "));
    assert_null(strstr(answer, first));
    world_stop(&w);
}

static void test_an_answer_may_come_later_and_the_connection_goes_on(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    world_start(&w, (struct http_config){.answer_us = 20 * US_PER_SECOND});
    int fd = dial(w.server);
    for (int i = 0; i < 3; i++) {
        say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
        struct http_request *q = take_held(&w);
        assert_true(str_equal(http_body(q), STR("hi")));
        http_answer_status(q, 204);
        hear(fd, "\r\n\r\n", out, sizeof(out));
        assert_answer(out, 204, "");
    }
    close(fd);
    world_stop(&w);
}

static void test_what_is_answered_after_the_deadline_is_dropped(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    world_start(&w, (struct http_config){.answer_us = 60000});
    int fd = dial(w.server);
    say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    struct http_request *q = take_held(&w);
    hear(fd, "503}\n", out, sizeof(out));
    assert_answer(out, 503, "\r\nRetry-After: 1\r\n");
    /* The connection is used for another request while the first one is still held. */
    say(fd, "POST /echo/b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nho");
    hear(fd, "body=ho", out, sizeof(out));
    assert_true(str_equal(http_body(q), STR("hi")));
    http_answer_status(q, 204);
    say(fd, "POST /echo/c HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhu");
    hear(fd, "body=hu", out, sizeof(out));
    assert_answer(out, 200, "");
    assert_int_equal(1, http_view(w.server).unanswered);
    close(fd);
    world_stop(&w);
}

static void test_a_client_that_leaves_while_its_answer_is_pending(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){.answer_us = 20 * US_PER_SECOND});
    int fd = dial(w.server);
    say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    struct http_request *q = take_held(&w);
    struct linger hard = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(fd);
    assert_true(str_equal(http_body(q), STR("hi")));
    http_answer_status(q, 204);
    assert_answer(ask(w.server, "GET /echo/x HTTP/1.1\r\nHost: x\r\n\r\n"), 200, "");
    world_stop(&w);
}

static void test_stopping_gives_up_what_waits_and_takes_late_answers(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    world_start(&w, (struct http_config){.answer_us = 20 * US_PER_SECOND});
    int fd = dial(w.server);
    say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    struct http_request *q = take_held(&w);
    http_stop(w.server, 10000);
    hear(fd, "503}\n", out, sizeof(out));
    assert_answer(out, 503, "");
    assert_true(str_equal(http_body(q), STR("hi")));
    http_answer_status(q, 204);
    close(fd);
    w.server = NULL;
    world_stop(&w);
}

static void test_a_body_beyond_the_limit_is_413_however_it_is_sent(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){0});
    struct buf b;
    buf_init(&b, 1u << 20);
    assert_int_equal(0, buf_printf(&b,
                                   "POST /echo/x HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                   "1001\r\n\r\n%01001d",
                                   7));
    assert_answer(ask(w.server, b.data), 413, "\r\nConnection: close\r\n");
    buf_reset(&b);
    assert_int_equal(0, buf_printf(&b,
                                   "POST /echo/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                                   "chunked\r\n\r\n3e9\r\n%01001d\r\n0\r\n\r\n",
                                   7));
    assert_answer(ask(w.server, b.data), 413, "\r\nConnection: close\r\n");
    /* No 100 Continue for what will not be read. */
    const char *answer =
        ask(w.server, "POST /echo/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n"
                      "Expect: 100-continue\r\n\r\n");
    assert_answer(answer, 413, "\r\nConnection: close\r\n");
    assert_int_equal(0, atomic_load(&w.handled));
    buf_deinit(&b);
    world_stop(&w);
}

static void test_a_route_may_refuse_before_the_body(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){0});
    assert_answer(
        ask(w.server, "POST /secret HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"), 401,
        "\r\nConnection: close\r\n");
    assert_answer(ask(w.server, "POST /secret HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
                                "Authorization: Bearer open\r\n\r\nbody"),
                  200, "body=body");
    assert_int_equal(1, atomic_load(&w.handled));
    world_stop(&w);
}

static void assert_closed_with(const struct http_server *s, unsigned status, const char *request)
{
    char out[65536];
    int fd = dial(s);
    say(fd, request);
    hear(fd, NULL, out, sizeof(out));
    assert_answer(out, status, "\r\nConnection: close\r\n");
    if (strstr(out + 1, "HTTP/1.1"))
        fail_msg("two answers: %s", out);
    close(fd);
}

/* What follows a head that could be read in two ways never becomes a request. */
static void test_what_the_guard_refuses_ends_the_connection(void **state)
{
    (void)state;
    struct world w;
    char text[1024];
    world_start(&w, (struct http_config){0});
    const char *const heads[] = {
        "Host: x\r\nContent-Length : 45\r\n",
        "Host: x\r\nContent-Length: 0\r\nContent-Length: 45\r\n",
        "Host: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Host: x\r\nTransfer-Encoding: xchunked\r\n",
        "Host: x\nContent-Length: 0\r\n",
        "Host: x\r\nContent-Length: 0\n",
        "Host: x\r\nX: a\r\n folded\r\nContent-Length: 0\r\n",
        "Host: x\r\nContent-Length: 0\r\nX: a\r\n\tfolded\r\n",
        "Host: x\r\nHost: y\r\nContent-Length: 0\r\n",
    };
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        snprintf(text, sizeof(text),
                 "POST /echo/a HTTP/1.1\r\n%s\r\nPOST /echo/smuggled HTTP/1.1\r\nHost: x\r\n"
                 "Content-Length: 0\r\n\r\n",
                 heads[i]);
        assert_closed_with(w.server, 400, text);
    }
    assert_int_equal(0, atomic_load(&w.handled));
    assert_int_equal(sizeof(heads) / sizeof(heads[0]), http_view(w.server).refused_guard);
    world_stop(&w);
}

/* A value with a NUL is not one that ends there. */
static void test_a_nul_in_a_header_is_refused(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    static const char request[] = "POST /echo/a HTTP/1.1\r\nHost: x\r\nX-Tag: a\0b\r\n"
                                  "Content-Length: 0\r\n\r\n";
    world_start(&w, (struct http_config){0});
    int fd = dial(w.server);
    assert_int_equal(sizeof(request) - 1, send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL));
    hear(fd, NULL, out, sizeof(out));
    assert_answer(out, 400, "");
    close(fd);
    assert_answer(ask(w.server, "GET /echo/a HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nX-Blank:  \r\n"
                                "X-Tag:t\r\n\r\n"),
                  200, "tag=t");
    world_stop(&w);
}

static void test_pipelined_requests_are_answered_in_their_order(void **state)
{
    (void)state;
    struct world w;
    char out[8192];
    world_start(&w, (struct http_config){0});
    int fd = dial(w.server);
    say(fd, "POST /echo/one HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
            "GET /echo/two HTTP/1.1\r\nHost: x\r\n\r\n"
            "POST /echo/three HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            "1\r\nd\r\n0\r\n\r\n");
    hear(fd, "body=d", out, sizeof(out));
    const char *one = strstr(out, "rest=one"), *two = strstr(out, "rest=two");
    assert_true(one && two && one < two && two < strstr(out, "rest=three"));
    close(fd);
    world_stop(&w);
}

/* gzip -9 of "hello hello hello hello\n", without a name or time. */
static const unsigned char packed[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03,
                                       0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0xb9,
                                       0x00, 0x00, 0x88, 0x59, 0x0b, 0x18, 0x00, 0x00, 0x00};

static void send_packed(int fd, const char *coding, size_t n)
{
    char head[256];
    snprintf(head, sizeof(head),
             "POST /echo/a HTTP/1.1\r\nHost: x\r\nContent-Encoding: %s\r\n"
             "Content-Length: %zu\r\n\r\n",
             coding, n);
    say(fd, head);
    assert_int_equal(n, send(fd, packed, n, MSG_NOSIGNAL));
}

static void test_a_gzip_body_comes_unpacked_and_a_broken_one_is_400(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    world_start(&w, (struct http_config){0});
    const struct {
        const char *coding;
        size_t n;
        unsigned status;
        const char *part;
    } cases[] = {
        {"gzip", sizeof(packed), 200, "body=hello hello hello hello\n"},
        {"gzip", sizeof(packed) - 1, 400, "not valid gzip"},
        {"deflate", sizeof(packed), 415, ""},
    };
    for (size_t i = 0; i < 3; i++) {
        int fd = dial(w.server);
        send_packed(fd, cases[i].coding, cases[i].n);
        hear_answer(fd, out, sizeof(out));
        assert_answer(out, cases[i].status, cases[i].part);
        close(fd);
    }
    world_stop(&w);
}

/* Whether the other side ends the stream without a word. */
static void assert_hung_up(int fd)
{
    char out[64];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(1, poll(&p, 1, PATIENCE_MS));
    assert_true(recv(fd, out, sizeof(out), 0) <= 0);
    close(fd);
}

static void test_connections_are_bounded_in_all_and_per_address(void **state)
{
    (void)state;
    struct world w;
    char out[4096];
    int fds[3];
    for (int per_address = 0; per_address < 2; per_address++) {
        world_start(&w, (struct http_config){.connections = per_address ? 100 : 3,
                                             .connections_per_address = per_address ? 3 : 100});
        for (int i = 0; i < 3; i++) {
            fds[i] = dial(w.server);
            say(fds[i], "GET /echo/a HTTP/1.1\r\nHost: x\r\n\r\n");
            hear_answer(fds[i], out, sizeof(out));
        }
        assert_int_equal(3, http_view(w.server).connections);
        assert_hung_up(dial(w.server));
        assert_int_equal(1, http_view(w.server).connections_refused);
        close(fds[0]);
        while (http_view(w.server).connections == 3)
            usleep(1000);
        assert_answer(ask(w.server, "GET /echo/a HTTP/1.1\r\nHost: x\r\n\r\n"), 200, "");
        close(fds[1]);
        close(fds[2]);
        world_stop(&w);
    }
}

static void test_who_asks_too_often_is_told_when_to_come_again(void **state)
{
    (void)state;
    struct world w;
    int64_t now = US_PER_SECOND;
    struct clock clock = clock_virtual(&now);
    world_start(&w, (struct http_config){.rate_per_address = 1,
                                         .clock = &clock,
                                         .behind_proxy = true,
                                         .trusted_proxies = "127.0.0.1"});
    const char *const from_a =
        "GET /echo/a HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    assert_answer(ask(w.server, from_a), 200, "");
    assert_answer(ask(w.server, from_a), 200, "");
    assert_answer(ask(w.server, from_a), 429, "\r\nRetry-After: 1\r\n");
    assert_answer(ask(w.server, "GET /echo/a HTTP/1.1\r\nHost: x\r\n"
                                "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n\r\n"),
                  200, "");
    world_stop(&w);
}

/* One byte after the other keeps no connection open. */
static void drip_until_hung_up(const struct http_server *s, const char *first)
{
    int fd = dial(s);
    say(fd, first);
    for (int i = 0; i < PATIENCE_MS / 10; i++) {
        char out[16];
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10) == 1) {
            assert_true(recv(fd, out, sizeof(out), 0) <= 0);
            close(fd);
            return;
        }
        (void)send(fd, "a", 1, MSG_NOSIGNAL);
    }
    fail_msg("still there after \"%s\"", first);
}

static void test_slow_headers_and_slow_bodies_are_cut_off(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){.header_us = 300000, .body_us = 300000});
    drip_until_hung_up(w.server, "GET /echo/a HTTP/1.1\r\nHost: ");
    drip_until_hung_up(w.server, "POST /echo/a HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n");
    assert_int_equal(2, http_view(w.server).timed_out);
    assert_int_equal(0, atomic_load(&w.handled));
    assert_answer(ask(w.server, "GET /echo/a HTTP/1.1\r\nHost: x\r\n\r\n"), 200, "");
    world_stop(&w);
}

static void test_bodies_of_all_requests_together_are_bounded(void **state)
{
    (void)state;
    struct world w;
    world_start(&w, (struct http_config){.bodies_max = 600, .answer_us = 20 * US_PER_SECOND});
    struct buf b;
    buf_init(&b, 1u << 20);
    assert_int_equal(0, buf_printf(&b,
                                   "POST /hold HTTP/1.1\r\nHost: x\r\n"
                                   "Content-Length: 400\r\n\r\n%0400d",
                                   7));
    int fd = dial(w.server);
    say(fd, b.data);
    struct http_request *q = take_held(&w);
    assert_answer(ask(w.server, b.data), 503, "\r\nRetry-After: 1\r\n");
    /* One that does not say how long it is. */
    struct buf chunked;
    buf_init(&chunked, 1u << 20);
    assert_int_equal(0, buf_printf(&chunked,
                                   "POST /hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                                   "chunked\r\n\r\n190\r\n%0400d\r\n0\r\n\r\n",
                                   7));
    assert_answer(ask(w.server, chunked.data), 503, "\r\nRetry-After: 1\r\n");
    buf_deinit(&chunked);
    http_answer_status(q, 204);
    char out[4096];
    hear_answer(fd, out, sizeof(out));
    while (http_view(w.server).bodies > 0)
        usleep(1000);
    say(fd, b.data);
    http_answer_status(take_held(&w), 204);
    hear_answer(fd, out, sizeof(out));
    assert_answer(out, 204, "");
    close(fd);
    buf_deinit(&b);
    world_stop(&w);
}

static void assert_start(enum status expected, struct http_config cfg, const char *part)
{
    struct http_server *s = NULL;
    struct error err = {0};
    enum status st = http_start(&cfg, &s, &err);
    if (st != expected || !strstr(err.text, part))
        fail_msg("%s: %d %s", cfg.listen, st, err.text);
    http_stop(s, 0);
}

static void test_it_only_listens_where_that_is_safe(void **state)
{
    (void)state;
    assert_start(STATUS_REFUSED, (struct http_config){.listen = "0.0.0.0:0"}, "without TLS");
    assert_start(STATUS_REFUSED, (struct http_config){.listen = ":0"}, "behind_proxy");
    assert_start(STATUS_OK, (struct http_config){.listen = ":0", .behind_proxy = true}, "");
    assert_start(STATUS_OK, (struct http_config){.listen = "0.0.0.0:0", .allow_plain = true}, "");
    assert_start(STATUS_OK, (struct http_config){.listen = "127.0.0.9:0"}, "");
    assert_start(STATUS_OK, (struct http_config){.listen = "localhost:0"}, "");
    const char *const wrong[] = {
        "", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "::1:80", "127.0.0.1:65536", "unix:"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_start(STATUS_INVALID, (struct http_config){.listen = wrong[i]}, "could not listen");
    assert_start(STATUS_INVALID,
                 (struct http_config){.listen = "127.0.0.1:0", .trusted_proxies = "proxy"},
                 "trusted proxy");
    assert_start(
        STATUS_INVALID,
        (struct http_config){.listen = "127.0.0.1:0", .tls_cert = "/none", .tls_key = "/n"},
        "/none");
}

static void test_a_unix_socket_is_taken_over_from_the_dead_only(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_http.XXXXXX", path[64], listen_at[80];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    snprintf(listen_at, sizeof(listen_at), "unix:%s", path);
    struct http_config cfg = {.listen = listen_at};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    /* A socket that nobody listens on. */
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(0, bind(dead, (struct sockaddr *)&at, sizeof(at)));
    close(dead);
    struct world w;
    struct stat st;
    world_start(&w, cfg);
    assert_int_equal(0, stat(path, &st));
    assert_int_equal(0, st.st_mode & 0007);
    assert_start(STATUS_IO, cfg, "another process listens there");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    char out[4096];
    assert_int_equal(0, connect(fd, (struct sockaddr *)&at, sizeof(at)));
    say(fd, "GET /echo/a HTTP/1.1\r\nHost: x\r\n\r\n");
    hear_answer(fd, out, sizeof(out));
    assert_answer(out, 200, "");
    close(fd);
    world_stop(&w);
    assert_int_equal(-1, stat(path, &st)); /* nothing is left behind */
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    assert_start(STATUS_IO, cfg, "not a socket");
    assert_int_equal(0, unlink(path));
    assert_int_equal(0, rmdir(dir));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_reaches_the_longest_route_with_its_parts),
        cmocka_unit_test(test_every_answer_has_an_id_and_no_server),
        cmocka_unit_test(test_an_answer_may_come_later_and_the_connection_goes_on),
        cmocka_unit_test(test_what_is_answered_after_the_deadline_is_dropped),
        cmocka_unit_test(test_a_client_that_leaves_while_its_answer_is_pending),
        cmocka_unit_test(test_stopping_gives_up_what_waits_and_takes_late_answers),
        cmocka_unit_test(test_a_body_beyond_the_limit_is_413_however_it_is_sent),
        cmocka_unit_test(test_a_route_may_refuse_before_the_body),
        cmocka_unit_test(test_what_the_guard_refuses_ends_the_connection),
        cmocka_unit_test(test_a_nul_in_a_header_is_refused),
        cmocka_unit_test(test_pipelined_requests_are_answered_in_their_order),
        cmocka_unit_test(test_a_gzip_body_comes_unpacked_and_a_broken_one_is_400),
        cmocka_unit_test(test_connections_are_bounded_in_all_and_per_address),
        cmocka_unit_test(test_who_asks_too_often_is_told_when_to_come_again),
        cmocka_unit_test(test_slow_headers_and_slow_bodies_are_cut_off),
        cmocka_unit_test(test_bodies_of_all_requests_together_are_bounded),
        cmocka_unit_test(test_it_only_listens_where_that_is_safe),
        cmocka_unit_test(test_a_unix_socket_is_taken_over_from_the_dead_only),
    };
    return cmocka_run_group_tests_name("server/http", tests, NULL, NULL);
}
