/*
 * tests/server/test_feed.c - the streams of the feed on real sockets: what a client is given, where
 * it goes on, and what becomes of one that is slow, stuck or gone. What is committed is said by
 * the test. The whole way is in tests/integration/test_feed.py.
 */
#include "server/feed.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/metrics.h"
#include "server/feed_sender.h"

#define PATIENCE_MS 30000

struct world {
    struct config_feed cfg;
    struct feed_open open;
    struct feed *feed;
    struct http_route route;
    struct http_server *server;
    uint64_t version;
};

static void world_start(struct world *w, int64_t history, int64_t body_us)
{
    *w = (struct world){.cfg = {.history = history, .queue = 1}};
    w->open = (struct feed_open){.cfg = &w->cfg, .state_dir = "/nonexistent", .clock = &clock_real};
    struct error err = {0};
    if (feed_open(&w->open, &w->feed, &err))
        fail_msg("%s", err.text);
    w->route = feed_route(w->feed);
    struct http_config cfg = {
        .listen = "127.0.0.1:0", .routes = &w->route, .n_routes = 1, .body_us = body_us};
    if (http_start(&cfg, &w->server, &err))
        fail_msg("%s", err.text);
    feed_listen(w->feed, w->server);
}

static void world_stop(struct world *w)
{
    feed_listen(w->feed, NULL);
    http_stop(w->server, 0);
    feed_close(w->feed);
}

static void say(struct world *w, const char *user, const char *reason)
{
    char json[LIMIT_NOTIFY_BYTES];
    int n = snprintf(json, sizeof(json), "{\"user\":\"%s\",\"v\":%d}", user, (int)++w->version);
    struct announcement a = {.bot = STR("elena"),
                             .user = str_from(user),
                             .tables = STR("t"),
                             .reason = str_from(reason),
                             .row_version = w->version,
                             .json = {json, (size_t)n}};
    assert_int_equal(feed_committed(w->feed, &a, 1, NULL), STATUS_OK);
}

/* ---- a client ---- */

struct client {
    int fd;
    char text[65536];
    size_t n;
};

static void connect_with(struct client *c, const struct world *w, const char *query,
                         const char *last_id, int receive_buffer)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_port(w->server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (receive_buffer)
        assert_int_equal(
            0, setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer)));
    assert_int_equal(0, connect(c->fd, (struct sockaddr *)&to, sizeof(to)));
    char request[512];
    snprintf(request, sizeof(request), "GET %s%s HTTP/1.1\r\nHost: x\r\n%s%s%s\r\n", FEED_PATH,
             query, last_id ? "Last-Event-ID: " : "", last_id ? last_id : "",
             last_id ? "\r\n" : "");
    assert_int_equal(strlen(request), send(c->fd, request, strlen(request), MSG_NOSIGNAL));
}

/* False: the stream has ended. */
static bool receive(struct client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (poll(&p, 1, PATIENCE_MS) != 1)
        fail_msg("nothing more came: %s", c->text);
    assert_true(c->n < sizeof(c->text) - 1);
    ssize_t got = recv(c->fd, c->text + c->n, sizeof(c->text) - 1 - c->n, 0);
    if (got <= 0)
        return false;
    c->n += (size_t)got;
    c->text[c->n] = '\0';
    return true;
}

static void hear(struct client *c, const char *until)
{
    while (!strstr(c->text, until))
        if (!receive(c))
            fail_msg("the stream ended before \"%s\": %s", until, c->text);
}

/* The last id it was given. */
static void last_id(const struct client *c, char out[64])
{
    const char *at = NULL;
    for (const char *next = c->text; (next = strstr(next, "id: ")); next++)
        at = next;
    assert_non_null(at);
    snprintf(out, 64, "%.*s", (int)strcspn(at + 4, "\n"), at + 4);
}

struct count {
    const char *label;
    uint64_t n;
};

static void add_sample(void *ctx, const struct metric_sample *s)
{
    struct count *c = ctx;
    if (s->labels[0] && strcmp(s->labels[0], c->label) == 0)
        c->n = s->count;
}

static uint64_t streams(const char *event)
{
    struct count c = {event, 0};
    metric_each(METRIC_FEED_STREAMS, add_sample, &c);
    return c.n;
}

static void take_gauge(void *ctx, const struct metric_sample *s)
{
    *(double *)ctx = s->value;
}

static double clients(struct world *w)
{
    double n = -1;
    feed_figures(w->feed);
    metric_each(METRIC_FEED_CLIENTS, take_gauge, &n);
    return n;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void wait_for_clients(struct world *w, double n)
{
    for (int i = 0; i < PATIENCE_MS / 10 && clients(w) != n; i++)
        pause_ms(10);
    assert_true(clients(w) == n);
}

/* ---- tests ---- */

static void test_what_is_committed_comes_and_goes_on_behind_an_id(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    char id[64];
    world_start(&w, 100, 0);
    say(&w, "before", "count");
    connect_with(&c, &w, "", NULL, 0);
    hear(&c, "retry: 1000\n");
    say(&w, "one", "count");
    hear(&c, "data: {\"user\":\"one\",\"v\":2}\n\n");
    assert_non_null(strstr(c.text, "Content-Type: text/event-stream"));
    assert_null(strstr(c.text, "before"));
    last_id(&c, id);
    close(c.fd);
    say(&w, "two", "count");
    say(&w, "three", "count");
    connect_with(&c, &w, "", id, 0);
    hear(&c, "\"three\"");
    assert_null(strstr(c.text, "\"one\""));
    assert_null(strstr(c.text, "reset"));
    assert_true(strstr(c.text, "\"two\"") < strstr(c.text, "\"three\""));
    close(c.fd);
    wait_for_clients(&w, 0); /* it has left without a word */
    world_stop(&w);
}

static void test_a_place_that_is_not_known_is_a_reset(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    char id[64];
    world_start(&w, 16, 0);
    connect_with(&c, &w, "", NULL, 0);
    hear(&c, "id: ");
    hear(&c, "\n\n");
    last_id(&c, id);
    close(c.fd);
    char mark[64], ahead[80];
    snprintf(mark, sizeof(mark), "%.*s", (int)strcspn(id, "-"), id);
    snprintf(ahead, sizeof(ahead), "%s-99", mark);
    const char *unknown[] = {"00000000-0", ahead, "x", mark, "", NULL};
    for (size_t i = 0; unknown[i]; i++) {
        connect_with(&c, &w, "", unknown[i], 0);
        hear(&c, *unknown[i] ? "event: reset\ndata: {}\n\n" : "retry: 1000\n");
        close(c.fd);
    }
    for (int i = 0; i < 16; i++)
        say(&w, "u", "count");
    connect_with(&c, &w, "", id, 0); /* all 16 are still there */
    hear(&c, "\"v\":16}");
    assert_null(strstr(c.text, "reset"));
    assert_non_null(strstr(c.text, "\"v\":1}"));
    close(c.fd);
    say(&w, "u", "count");
    connect_with(&c, &w, "", id, 0);
    hear(&c, "event: reset");
    close(c.fd);
    world_stop(&w);
}

static void test_an_erased_user_is_not_given_again(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    char id[64];
    world_start(&w, 100, 0);
    connect_with(&c, &w, "", NULL, 0);
    hear(&c, "\n\n");
    last_id(&c, id);
    close(c.fd);
    say(&w, "erased", "count");
    say(&w, "other", "count");
    say(&w, "erased", ANNOUNCEMENT_ERASE);
    say(&w, "last", "count");
    connect_with(&c, &w, "", id, 0);
    hear(&c, "\"last\"");
    assert_null(strstr(c.text, "\"v\":1}"));
    assert_non_null(strstr(c.text, "{\"user\":\"other\",\"v\":2}"));
    assert_non_null(strstr(c.text, "{\"user\":\"erased\",\"v\":3}"));
    close(c.fd);
    world_stop(&w);
}

/* More than all buffers of the system between it and us hold. */
static void say_too_much(struct world *w)
{
    char big[LIMIT_NOTIFY_BYTES - 100];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    for (int i = 0; i < 3000; i++)
        say(w, big, "count");
}

static void test_a_client_that_the_ring_has_overtaken_is_cut_off(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    static char rest[1 << 20];
    uint64_t before = streams("cut");
    world_start(&w, 16, 600 * US_PER_SECOND);
    connect_with(&c, &w, "", NULL, 4096);
    hear(&c, "\n\n");
    say_too_much(&w);
    struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
    assert_int_equal(0, setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
    ssize_t got = 0;
    int64_t until = clock_mono_us(&clock_real) + 2 * PATIENCE_MS * INT64_C(1000);
    do /* it reads on ... */
        got = recv(c.fd, rest, sizeof(rest), 0);
    while (got > 0 && clock_mono_us(&clock_real) < until);
    assert_int_equal(got, 0); /* ... and comes to an end */
    assert_int_equal(streams("cut"), before + 1);
    wait_for_clients(&w, 0);
    close(c.fd);
    world_stop(&w);
}

/* It takes nothing at all: its connection ends although it is still there. */
static void test_a_client_that_takes_nothing_is_cut_off(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    world_start(&w, 100000, US_PER_SECOND / 2);
    connect_with(&c, &w, "", NULL, 4096);
    hear(&c, "\n\n");
    wait_for_clients(&w, 1);
    say_too_much(&w);
    wait_for_clients(&w, 0);
    close(c.fd);
    world_stop(&w);
}

static void test_the_end_of_the_server_ends_the_streams(void **state)
{
    (void)state;
    struct world w;
    struct client c[3];
    world_start(&w, 100, 0);
    for (int i = 0; i < 3; i++) {
        connect_with(&c[i], &w, "", NULL, 0);
        hear(&c[i], "retry: 1000\n");
    }
    world_stop(&w);
    for (int i = 0; i < 3; i++) {
        while (receive(&c[i]))
            ;
        close(c[i].fd);
    }
}

static void *publish_much(void *arg)
{
    for (int i = 0; i < 5000; i++)
        say(arg, i == 4999 ? "end" : "u", "count");
    return NULL;
}

/* Wakes and suspensions cross: nothing may stay behind. */
static void test_nothing_is_missing_while_much_is_said(void **state)
{
    (void)state;
    struct world w;
    struct client c;
    world_start(&w, 10000, 0);
    connect_with(&c, &w, "", NULL, 0);
    hear(&c, "retry: 1000\n");
    pthread_t thread;
    assert_int_equal(0, pthread_create(&thread, NULL, publish_much, &w));
    uint64_t expected = 1;
    bool end = false;
    while (!end) {
        char *at = c.text, *line = NULL;
        while ((line = strstr(at, "data: ")) && strchr(line, '\n')) {
            const char *v = strstr(line, "\"v\":");
            assert_non_null(v);
            assert_int_equal(strtoull(v + 4, NULL, 10), expected++);
            end = strstr(line, "\"end\"") && strstr(line, "\"end\"") < strchr(line, '\n');
            at = strchr(line, '\n');
        }
        c.n = strlen(at);
        memmove(c.text, at, c.n + 1);
        if (!end && !receive(&c))
            fail_msg("the stream ended at %d", (int)expected);
    }
    assert_int_equal(expected, 5001);
    pthread_join(thread, NULL);
    close(c.fd);
    world_stop(&w);
}

static void test_pauses_grow_within_bounds_and_honour_the_receiver(void **state)
{
    (void)state;
    int64_t pause_us = 0;
    for (int i = 0; i < 100; i++) {
        int64_t next_us = feed_pause_us(pause_us, 0, (uint64_t)i * UINT64_C(0x9E3779B97F4A7C15));
        assert_true(next_us >= US_PER_SECOND / 4 && next_us <= 5 * US_PER_MINUTE);
        assert_true(next_us <= 3 * (pause_us > US_PER_SECOND / 4 ? pause_us : US_PER_SECOND / 4));
        pause_us = next_us;
    }
    assert_int_equal(feed_pause_us(0, 7, 0), 7 * US_PER_SECOND);
    assert_int_equal(feed_pause_us(0, 4000000000u, 0), US_PER_HOUR);
    assert_int_equal(feed_pause_us(US_PER_MINUTE, 0, UINT64_MAX) >= US_PER_SECOND / 4, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_committed_comes_and_goes_on_behind_an_id),
        cmocka_unit_test(test_a_place_that_is_not_known_is_a_reset),
        cmocka_unit_test(test_an_erased_user_is_not_given_again),
        cmocka_unit_test(test_a_client_that_the_ring_has_overtaken_is_cut_off),
        cmocka_unit_test(test_a_client_that_takes_nothing_is_cut_off),
        cmocka_unit_test(test_the_end_of_the_server_ends_the_streams),
        cmocka_unit_test(test_nothing_is_missing_while_much_is_said),
        cmocka_unit_test(test_pauses_grow_within_bounds_and_honour_the_receiver),
    };
    return cmocka_run_group_tests_name("server/feed", tests, NULL, NULL);
}
