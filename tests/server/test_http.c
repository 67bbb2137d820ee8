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
    pthread_mutex_lock(&w->lock);
    while (!w->held)
        pthread_cond_wait(&w->changed, &w->lock);
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
    };
    return cmocka_run_group_tests_name("server/http", tests, NULL, NULL);
}
