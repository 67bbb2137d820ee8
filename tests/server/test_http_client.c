/*
 * tests/server/test_http_client.c - every bound of a call, against a server thread that sends what
 * the test wrote down and keeps what it was sent.
 */
#include "server/http_client.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/clock.h"

#define SECRET "hunter2-api-key"

/* One connection: reads a request, sends `answer`, and hangs (until the peer goes) or closes. */
struct peer {
    int listener;
    unsigned port;
    const char *answer;
    size_t repeat; /* `answer`'s last byte so many times more */
    bool hang;
    char request[4096];
    pthread_t thread;
};

static void *serve(void *ctx)
{
    struct peer *p = ctx;
    int fd = accept(p->listener, NULL, NULL);
    if (fd < 0)
        return NULL;
    size_t len = 0;
    while (len + 1 < sizeof(p->request)) {
        ssize_t n = recv(fd, p->request + len, sizeof(p->request) - 1 - len, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
        p->request[len] = '\0';
        const char *body = strstr(p->request, "\r\n\r\n");
        const char *length = strstr(p->request, "Content-Length: ");
        if (body && (!length || strlen(body + 4) >= strtoul(length + 16, NULL, 10)))
            break;
    }
    (void)send(fd, p->answer, strlen(p->answer), MSG_NOSIGNAL);
    char block[4096];
    memset(block, 'x', sizeof(block));
    for (size_t left = p->repeat; left > 0;) {
        ssize_t n = send(fd, block, left < sizeof(block) ? left : sizeof(block), MSG_NOSIGNAL);
        if (n <= 0)
            break;
        left -= (size_t)n;
    }
    char rest[64];
    if (p->hang)
        while (recv(fd, rest, sizeof(rest), 0) > 0)
            ;
    close(fd);
    return NULL;
}

static void peer_start(struct peer *p, const char *answer)
{
    p->answer = answer;
    p->listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(p->listener, 8), 0);
    assert_int_equal(getsockname(p->listener, (struct sockaddr *)&at, &len), 0);
    p->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&p->thread, NULL, serve, p), 0);
}

static void peer_stop(struct peer *p)
{
    shutdown(p->listener, SHUT_RDWR);
    pthread_join(p->thread, NULL);
    close(p->listener);
}

/* A call to the peer; the reply's body is copied into `body`. */
static enum status call(struct peer *p, const struct http_client_config *cfg,
                        struct http_client_call c, struct http_client_reply *reply, char *body,
                        size_t cap, struct error *err)
{
    char url[128];
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/a/b?secret=" SECRET, p->port);
    c.url = url;
    struct http_client *client = NULL;
    assert_int_equal(http_client_new(cfg, &client, err), STATUS_OK);
    enum status st = http_client_call(client, &c, reply, err);
    if (!st && body)
        snprintf(body, cap, STR_FMT, STR_ARGS(reply->body));
    http_client_free(client);
    return st;
}

static void test_an_answer_comes_with_its_status_and_retry_after(void **state)
{
    (void)state;
    struct peer p = {0};
    struct http_client_reply r;
    struct error err = {0};
    char body[64];
    peer_start(&p, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 5\r\n"
                   "\r\nhello");
    struct http_client_call c = {
        .headers = {"api-key: " SECRET}, .post = true, .body = STR("{\"limit\":3}")};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, body, sizeof(body), &err),
                     STATUS_OK);
    peer_stop(&p);
    assert_int_equal(r.status, 429);
    assert_int_equal(r.retry_after_s, 7);
    assert_string_equal(body, "hello");
    assert_non_null(strstr(p.request, "POST /a/b?secret=" SECRET " HTTP/1.1\r\n"));
    assert_non_null(strstr(p.request, "\r\napi-key: " SECRET "\r\n"));
    assert_non_null(strstr(p.request, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(p.request, "\r\n\r\n{\"limit\":3}"));
    assert_null(strstr(p.request, "Expect"));
}

static void test_a_get_sends_basic_credentials_and_no_body(void **state)
{
    (void)state;
    struct peer p = {0};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "HTTP/1.1 204 No Content\r\n\r\n");
    struct http_client_call c = {.user = "ann", .password = "pw"};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, NULL, 0, &err), STATUS_OK);
    peer_stop(&p);
    assert_int_equal(r.status, 204);
    assert_int_equal(r.body.len, 0);
    assert_non_null(strstr(p.request, "GET /a/b"));
    assert_non_null(strstr(p.request, "Authorization: Basic YW5uOnB3\r\n"));
}

static void test_a_redirect_is_an_answer_and_not_followed(void **state)
{
    (void)state;
    struct peer p = {0}, elsewhere = {0};
    struct http_client_reply r;
    struct error err = {0};
    char answer[256];
    peer_start(&elsewhere, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    snprintf(answer, sizeof(answer),
             "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%u/\r\nContent-Length: 0\r\n\r\n",
             elsewhere.port);
    peer_start(&p, answer);
    struct http_client_call c = {.headers = {"api-key: " SECRET}};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, NULL, 0, &err), STATUS_OK);
    peer_stop(&p);
    peer_stop(&elsewhere);
    assert_int_equal(r.status, 302);
    assert_string_equal(elsewhere.request, "");
}

static void test_an_answer_that_is_cut_short_is_none(void **state)
{
    (void)state;
    struct peer p = {0};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"result\":");
    struct http_client_call c = {.headers = {"api-key: " SECRET}, .post = true};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, NULL, 0, &err), STATUS_IO);
    peer_stop(&p);
    assert_non_null(strstr(err.text, "http://127.0.0.1:"));
    assert_null(strstr(err.text, SECRET));
}

static void test_an_answer_beyond_its_bound_is_refused(void **state)
{
    (void)state;
    struct peer p = {.repeat = 100000};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    struct http_client_config cfg = {.body_max = 99999};
    assert_int_equal(call(&p, &cfg, (struct http_client_call){0}, &r, NULL, 0, &err), STATUS_LIMIT);
    peer_stop(&p);

    struct peer q = {.repeat = 200000};
    peer_start(&q, "HTTP/1.1 200 OK\r\nX-Long: ");
    assert_int_not_equal(
        call(&q, &(struct http_client_config){0}, (struct http_client_call){0}, &r, NULL, 0, &err),
        STATUS_OK);
    peer_stop(&q);
}

static void test_what_is_not_http_is_said_to_be_so(void **state)
{
    (void)state;
    struct peer p = {0};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    assert_int_equal(
        call(&p, &(struct http_client_config){0}, (struct http_client_call){0}, &r, NULL, 0, &err),
        STATUS_PROTOCOL);
    peer_stop(&p);
}

static void test_nobody_there_is_an_error_that_names_the_server_and_no_secret(void **state)
{
    (void)state;
    struct peer p = {0};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "");
    peer_stop(&p); /* the port is free again */
    struct http_client_call c = {.headers = {"api-key: " SECRET}, .user = "u", .password = SECRET};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, NULL, 0, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "/a/b: "));
    assert_null(strstr(err.text, SECRET));
}

static void test_a_server_that_stands_still_is_given_up(void **state)
{
    (void)state;
    struct peer p = {.hang = true};
    struct http_client_reply r;
    struct error err = {0};
    peer_start(&p, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{");
    struct http_client_config cfg = {.stall_us = US_PER_SECOND, .total_us = INT64_MAX};
    assert_int_equal(call(&p, &cfg, (struct http_client_call){0}, &r, NULL, 0, &err), STATUS_IO);
    peer_stop(&p);
}

static void *set_stop(void *ctx)
{
    usleep(50000);
    atomic_store((atomic_bool *)ctx, true);
    return NULL;
}

static void test_a_stop_does_not_wait_for_a_slow_server(void **state)
{
    (void)state;
    struct peer p = {.hang = true};
    struct http_client_reply r;
    struct error err = {0};
    atomic_bool stop = false;
    pthread_t stopper;
    peer_start(&p, "");
    assert_int_equal(pthread_create(&stopper, NULL, set_stop, &stop), 0);
    struct http_client_config cfg = {
        .stop = &stop, .stall_us = 60 * US_PER_MINUTE, .total_us = INT64_MAX};
    assert_int_equal(call(&p, &cfg, (struct http_client_call){0}, &r, NULL, 0, &err), STATUS_END);
    pthread_join(stopper, NULL);
    peer_stop(&p);
}

struct taken {
    size_t bytes;
    size_t refuse_at;
};

static enum status take(void *ctx, struct str bytes, struct error *err)
{
    struct taken *t = ctx;
    t->bytes += bytes.len;
    if (t->refuse_at && t->bytes >= t->refuse_at)
        return error_set(err, STATUS_INVALID, "enough");
    return STATUS_OK;
}

static void test_a_body_is_streamed_and_the_callback_may_end_it(void **state)
{
    (void)state;
    struct http_client_reply r;
    struct error err = {0};
    struct taken t = {0};
    struct peer p = {.repeat = 300000};
    peer_start(&p, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    struct http_client_call c = {.chunk = take, .ctx = &t};
    assert_int_equal(call(&p, &(struct http_client_config){0}, c, &r, NULL, 0, &err), STATUS_OK);
    peer_stop(&p);
    assert_int_equal(t.bytes, 300000);
    assert_int_equal(r.body.len, 0);

    struct peer q = {.repeat = 300000};
    t = (struct taken){.refuse_at = 1000};
    peer_start(&q, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    assert_int_equal(call(&q, &(struct http_client_config){0}, c, &r, NULL, 0, &err),
                     STATUS_INVALID);
    peer_stop(&q);
    assert_non_null(strstr(err.text, "enough"));

    /* What is no 2xx is not the stream, and is kept to be shown. */
    char body[64];
    struct peer s = {0};
    t = (struct taken){0};
    peer_start(&s, "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops");
    assert_int_equal(call(&s, &(struct http_client_config){0}, c, &r, body, sizeof(body), &err),
                     STATUS_OK);
    peer_stop(&s);
    assert_int_equal(t.bytes, 0);
    assert_string_equal(body, "oops");
}

static void test_urls_are_checked(void **state)
{
    (void)state;
    struct error err;
    bool exposed = true;
    assert_int_equal(http_client_check_url("http://127.0.0.1:6333", &exposed, &err), STATUS_OK);
    assert_false(exposed);
    assert_int_equal(http_client_check_url("http://[::1]:6333/x", &exposed, &err), STATUS_OK);
    assert_false(exposed);
    assert_int_equal(http_client_check_url("https://qdrant.example", &exposed, &err), STATUS_OK);
    assert_false(exposed);
    assert_int_equal(http_client_check_url("http://127.0.0.1.example", &exposed, &err), STATUS_OK);
    assert_true(exposed);
    static const char *const bad[] = {"",           "127.0.0.1:6333",  "file:///etc/passwd",
                                      "ftp://x/",   "http://u:p@h/",   "http://h/#x",
                                      "http://a b", "http://h:99999/", "gopher://h"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(http_client_check_url(bad[i], &exposed, &err), STATUS_INVALID);
}

static void test_urls_are_put_together(void **state)
{
    (void)state;
    char url[64];
    struct error err;
    assert_int_equal(http_client_join("http://h/", "/a/b", url, sizeof(url), &err), STATUS_OK);
    assert_string_equal(url, "http://h/a/b");
    assert_int_equal(http_client_join("http://h", "a", url, 10, &err), STATUS_INVALID);
    struct buf out;
    buf_init(&out, 100);
    assert_int_equal(http_client_escape(STR("a b/c-\xc3\xa9?"), &out), STATUS_OK);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    assert_string_equal(out.data, "a%20b%2Fc-%C3%A9%3F");
    buf_deinit(&out);
}

static void test_an_excerpt_hides_the_secret(void **state)
{
    (void)state;
    char out[64];
    assert_string_equal(http_client_excerpt(STR("key " SECRET " is\n\"wrong\""), SECRET, out, 64),
                        "key *** is  wrong ");
    assert_string_equal(http_client_excerpt(STR("abcdefgh"), NULL, out, 8), "abcd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_answer_comes_with_its_status_and_retry_after),
        cmocka_unit_test(test_a_get_sends_basic_credentials_and_no_body),
        cmocka_unit_test(test_a_redirect_is_an_answer_and_not_followed),
        cmocka_unit_test(test_an_answer_that_is_cut_short_is_none),
        cmocka_unit_test(test_an_answer_beyond_its_bound_is_refused),
        cmocka_unit_test(test_what_is_not_http_is_said_to_be_so),
        cmocka_unit_test(test_nobody_there_is_an_error_that_names_the_server_and_no_secret),
        cmocka_unit_test(test_a_server_that_stands_still_is_given_up),
        cmocka_unit_test(test_a_stop_does_not_wait_for_a_slow_server),
        cmocka_unit_test(test_a_body_is_streamed_and_the_callback_may_end_it),
        cmocka_unit_test(test_urls_are_checked),
        cmocka_unit_test(test_urls_are_put_together),
        cmocka_unit_test(test_an_excerpt_hides_the_secret),
    };
    return cmocka_run_group_tests_name("server/http_client", tests, NULL, NULL);
}
