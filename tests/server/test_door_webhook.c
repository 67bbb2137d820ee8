/*
 * tests/server/test_door_webhook.c - POST /webhooks/NAME between a real listener and a real inbox:
 * what is in the inbox when the answer comes, limits, what has expired, what is counted.
 *
 * Method: a client on a socket of its own; the clock of the endpoint is virtual, so that rates and
 * secrets run out when the test says so. Nothing reads the inbox, so it fills.
 */
#include "server/door_webhook.h"

#include "core/event.h"
#include "core/metrics.h"
#include "state/inbox.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS 60000
#define SECRET      "a-secret-of-this-test"
#define BEGIN_US    INT64_C(1767621600000000)

static char dir[64];
static int64_t now_us;
static struct clock clock_test;
static struct config_webhook hook;
static struct inbox *inbox;
static struct door_webhook *door;
static struct http_server *server;
static struct http_route route;
static char answer[65536];

static void open_door(uint64_t inbox_bytes)
{
    struct error err;
    struct inbox_config ic = {.dir = dir,
                              .clock = &clock_real,
                              .commit_delay_us = 1000,
                              .keep_ids_us = US_PER_DAY,
                              .bytes_max = inbox_bytes};
    assert_int_equal(inbox_open(&ic, &inbox, &err), STATUS_OK);
    struct door_webhook_config dc = {
        .webhooks = &hook, .n = 1, .body_max = 16384, .inbox = inbox, .clock = &clock_test};
    assert_int_equal(door_webhook_new(&dc, &door, &err), STATUS_OK);
    route = door_webhook_route(door);
    struct http_config hc = {.name = "test",
                             .listen = "127.0.0.1:0",
                             .routes = &route,
                             .n_routes = 1,
                             .clock = &clock_real,
                             .answer_us = 60 * US_PER_SECOND};
    if (http_start(&hc, &server, &err))
        fail_msg("%s", err.text);
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/test_door_webhook.XXXXXX");
    assert_non_null(mkdtemp(dir));
    now_us = BEGIN_US;
    clock_test = clock_virtual(&now_us);
    memset(&hook, 0, sizeof(hook));
    snprintf(hook.name, sizeof(hook.name), "app");
    hook.preset = WEBHOOK_WARMPATH;
    hook.verify = SIGNATURE_SHARED_SECRET;
    snprintf(hook.header, sizeof(hook.header), "x-key");
    hook.n_secrets = 1;
    snprintf(hook.secrets[0].id, sizeof(hook.secrets[0].id), "k1");
    snprintf(hook.secrets[0].value, sizeof(hook.secrets[0].value), SECRET);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    http_stop(server, 0);
    inbox_close(inbox);
    door_webhook_free(door);
    server = NULL;
    inbox = NULL;
    door = NULL;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

/* ---- a client ---- */

/* The status; head and body are in answer. The server closes after it. */
static int post(const char *headers, const char *body)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char head[1024];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    int n = snprintf(head, sizeof(head),
                     "POST /webhooks/app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     "Content-Length: %zu\r\n%s\r\n",
                     strlen(body), headers);
    assert_int_equal(send(fd, head, (size_t)n, MSG_NOSIGNAL), n);
    assert_int_equal(send(fd, body, strlen(body), MSG_NOSIGNAL), strlen(body));
    size_t len = 0;
    for (ssize_t got = 1; got > 0; len += (size_t)got) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        got = recv(fd, answer + len, sizeof(answer) - 1 - len, 0);
        assert_true(got >= 0);
    }
    answer[len] = '\0';
    close(fd);
    assert_int_equal(strncmp(answer, "HTTP/1.1 ", 9), 0);
    return (int)strtoul(answer + 9, NULL, 10);
}

#define KEY "X-Key: " SECRET "\r\n"

static const char *event(int id)
{
    static char text[256];
    snprintf(
        text, sizeof(text),
        "{\"type\":\"privacy\",\"id\":\"%d\",\"user_id\":\"u\",\"op\":\"optout\",\"at\":\"2026-01-"
        "05T14:00:00Z\"}",
        id);
    return text;
}

/* ---- the inbox ---- */

struct seen {
    int rows, events, dead;
    char ids[256];
    char source[64];
    int64_t received_us;
};

static enum status see(void *ctx, const struct inbox_row *row, struct error *err)
{
    struct seen *s = ctx;
    struct event_arena *arena;
    struct reader r = reader_of(row->events.ptr, row->events.len);
    enum status st = event_arena_new(&arena, err);
    s->rows++;
    s->received_us = row->received_us;
    snprintf(s->source, sizeof(s->source), STR_FMT, STR_ARGS(row->source));
    for (uint32_t i = 0; i < row->n_events && !st; i++) {
        struct event e;
        st = event_decode(reader_blob(&r), arena, &e, err);
        assert_int_equal(st, STATUS_OK);
        s->events++;
        s->dead += e.type == EVENT_DEAD_LETTER;
        size_t n = strlen(s->ids);
        if (e.type != EVENT_DEAD_LETTER)
            snprintf(s->ids + n, sizeof(s->ids) - n, STR_FMT " ", STR_ARGS(e.id));
    }
    event_arena_free(arena);
    return st;
}

static struct seen read_inbox(void)
{
    struct seen s = {0};
    struct error err;
    enum status st = inbox_read(inbox, 0, 1000, see, &s, &err);
    assert_true(st == STATUS_OK || st == STATUS_END);
    return s;
}

/* ---- metrics ---- */

struct wanted {
    const char *a, *b;
    uint64_t n;
};

static void look(void *ctx, const struct metric_sample *s)
{
    struct wanted *w = ctx;
    if (strcmp(s->labels[0], w->a) == 0 && (!w->b || strcmp(s->labels[1], w->b) == 0))
        w->n = s->count;
}

static uint64_t counted(enum metric_id m, const char *a, const char *b)
{
    struct wanted w = {a, b, 0};
    metric_each(m, look, &w);
    return w.n;
}

/* ---- tests ---- */

static void test_what_is_answered_is_in_the_inbox_once(void **state)
{
    (void)state;
    open_door(1 << 20);
    uint64_t before = counted(METRIC_EVENTS_RECEIVED, "app", "privacy");
    uint64_t duplicates = counted(METRIC_EVENTS_DUPLICATE, "app", NULL);
    uint64_t verified = counted(METRIC_WEBHOOK_VERIFIED, "app", "k1");
    int64_t from_us = clock_wall_us(&clock_real);
    assert_int_equal(post(KEY "Idempotency-Key: a\r\n", event(1)), 204);
    struct seen s = read_inbox();
    assert_string_equal(s.ids, "1 ");
    assert_string_equal(s.source, "app");
    assert_true(s.received_us >= from_us && s.received_us <= clock_wall_us(&clock_real));
    assert_int_equal(post(KEY "Idempotency-Key: a\r\n", event(2)), 204);
    assert_int_equal(post(KEY "Webhook-Id: a\r\n", event(3)), 204);
    assert_int_equal(post(KEY "Webhook-Id: b\r\nIdempotency-Key: a\r\n", event(4)), 204);
    assert_int_equal(post(KEY, event(5)), 204);
    assert_int_equal(post(KEY, event(5)), 204); /* without an id none is a repetition */
    s = read_inbox();
    assert_string_equal(s.ids, "1 4 5 5 ");
    assert_int_equal(counted(METRIC_EVENTS_RECEIVED, "app", "privacy") - before, 4);
    assert_int_equal(counted(METRIC_EVENTS_DUPLICATE, "app", NULL) - duplicates, 2);
    assert_int_equal(counted(METRIC_WEBHOOK_VERIFIED, "app", "k1") - verified, 6);
}

static void test_what_cannot_be_used_is_in_the_inbox_too(void **state)
{
    (void)state;
    open_door(1 << 20);
    assert_int_equal(post(KEY "Idempotency-Key: a\r\n", "{"), 400);
    assert_non_null(strstr(answer, "application/problem+json"));
    assert_int_equal(post(KEY "Idempotency-Key: a\r\n", "{"), 204);
    char body[512];
    snprintf(body, sizeof(body), "[7,%s]", event(1));
    assert_int_equal(post(KEY, body), 204);
    struct seen s = read_inbox();
    assert_int_equal(s.dead, 2);
    assert_string_equal(s.ids, "1 ");
    /* Understood and empty: nothing to keep. */
    assert_int_equal(post(KEY, "[]"), 204);
    assert_int_equal(read_inbox().events, 3);
}

static void test_nothing_of_who_is_not_let_in_is_kept(void **state)
{
    (void)state;
    open_door(1 << 20);
    static const char *const headers[] = {"", "X-Key: wrong\r\n", "X-Key: " SECRET "x\r\n",
                                          "Authorization: Bearer " SECRET "\r\n"};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(post(headers[i], event(1)), 401);
        assert_null(strstr(answer, SECRET));
    }
    assert_int_equal(read_inbox().rows, 0);
}

static void test_a_secret_ends_at_its_time(void **state)
{
    (void)state;
    hook.secrets[0].not_after_us = BEGIN_US + 10 * US_PER_SECOND;
    open_door(1 << 20);
    now_us = BEGIN_US + 10 * US_PER_SECOND - 1;
    assert_int_equal(post(KEY, event(1)), 204);
    now_us++;
    assert_int_equal(post(KEY, event(2)), 401);
    struct error err;
    hook.secrets[0].not_after_us = 0;
    assert_int_equal(door_webhook_reload(door, &hook, 1, &err), STATUS_OK);
    assert_int_equal(post(KEY, event(3)), 204);
    snprintf(hook.name, sizeof(hook.name), "other"); /* taken out */
    assert_int_equal(door_webhook_reload(door, &hook, 1, &err), STATUS_OK);
    assert_int_equal(post(KEY, event(4)), 401);
    assert_string_equal(read_inbox().ids, "1 3 ");
}

/* Who is not let in takes nothing of a source's rate. */
static void test_a_source_has_a_rate(void **state)
{
    (void)state;
    hook.rate = 2;
    open_door(1 << 20);
    for (int i = 0; i < 5; i++)
        assert_int_equal(post("X-Key: wrong\r\n", event(1)), 401);
    assert_int_equal(post(KEY, event(1)), 204);
    assert_int_equal(post(KEY, event(2)), 204);
    assert_int_equal(post(KEY, event(3)), 429);
    assert_non_null(strcasestr(answer, "\r\nRetry-After: 1\r\n"));
    now_us += US_PER_SECOND;
    assert_int_equal(post(KEY, event(4)), 204);
    assert_string_equal(read_inbox().ids, "1 2 4 ");
}

static void test_a_full_inbox_says_when_to_come_back(void **state)
{
    (void)state;
    open_door(2048);
    int n = 0;
    while (n < 1000 && post(KEY, event(n)) == 204)
        n++;
    assert_true(n > 1 && n < 1000);
    assert_int_equal(strncmp(answer, "HTTP/1.1 503 ", 13), 0);
    assert_non_null(strcasestr(answer, "\r\nRetry-After: "));
    assert_int_equal(read_inbox().events, n); /* what was answered 204, and nothing else */
    inbox_trim(inbox, inbox_newest(inbox));
    int64_t until = clock_mono_us(&clock_real) + 60 * US_PER_SECOND;
    while (post(KEY, event(n)) == 503)
        assert_true(clock_mono_us(&clock_real) < until);
    assert_int_equal(strncmp(answer, "HTTP/1.1 204 ", 13), 0);
}

static void test_a_bad_secret_names_its_webhook(void **state)
{
    (void)state;
    open_door(1 << 20);
    struct error err;
    struct config_webhook bad = hook;
    bad.verify = SIGNATURE_STANDARD_WEBHOOKS;
    snprintf(bad.secrets[0].value, sizeof(bad.secrets[0].value), "whsec_short");
    assert_int_equal(door_webhook_reload(door, &bad, 1, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "webhook \"app\""));
    assert_null(strstr(err.text, "short"));
    assert_int_equal(post(KEY, event(1)), 204); /* what there was stays */
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_answered_is_in_the_inbox_once),
        TEST(test_what_cannot_be_used_is_in_the_inbox_too),
        TEST(test_nothing_of_who_is_not_let_in_is_kept),
        TEST(test_a_secret_ends_at_its_time),
        TEST(test_a_source_has_a_rate),
        TEST(test_a_full_inbox_says_when_to_come_back),
        TEST(test_a_bad_secret_names_its_webhook),
    };
    return cmocka_run_group_tests_name("server/door_webhook", tests, NULL, NULL);
}
