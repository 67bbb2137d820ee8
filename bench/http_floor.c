/*
 * bench/http_floor.c - the public listener with routes that do next to nothing, for `./dev bench
 * http`: what receiving and answering costs without an inbox, and what the inbox adds to it.
 *
 * POST /answer   204 at once
 * POST /store    204 when the body is durable in the inbox, under its Idempotency-Key
 *
 * usage: http_floor DIR     prints its port, and ends on SIGTERM; rows are trimmed as they come
 */
#include "core/clock.h"
#include "server/http.h"
#include "state/inbox.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static struct inbox *inbox;

static bool expect_body(void *ctx, struct http_request *q, struct http_expect *expect)
{
    (void)ctx;
    (void)q;
    expect->body_max = 1u << 20;
    return true;
}

static void answer(void *ctx, struct http_request *q)
{
    (void)ctx;
    http_answer_status(q, 204);
}

static void stored(void *ctx, enum inbox_outcome outcome)
{
    http_answer_status(ctx, outcome == INBOX_FAILED ? 503 : 204);
}

static void store(void *ctx, struct http_request *q)
{
    (void)ctx;
    struct buf event;
    buf_init(&event, 1u << 21);
    struct inbox_delivery d = {.source = STR("bench"),
                               .id = http_header(q, "Idempotency-Key"),
                               .received_us = http_received_us(q),
                               .n_events = 1};
    enum status st = buf_put_bytes(&event, http_body(q));
    d.events = (struct str){event.data, event.len};
    if (!st)
        st = inbox_submit(inbox, &d, stored, q, NULL);
    buf_deinit(&event);
    if (st)
        http_answer_status(q, 503);
}

static void trim(void *ctx, uint64_t id)
{
    (void)ctx;
    if (id > 10000)
        inbox_trim(inbox, id - 10000);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: http_floor DIR\n");
        return 64;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);

    struct inbox_config ic = {.dir = argv[1],
                              .clock = &clock_real,
                              .commit_delay_us = 2000,
                              .keep_ids_us = 7 * US_PER_DAY,
                              .bytes_max = 1u << 30,
                              .stored = trim};
    const struct http_route routes[] = {
        {"/answer", HTTP_POST, expect_body, answer, NULL},
        {"/store", HTTP_POST, expect_body, store, NULL},
    };
    struct http_config hc = {.name = "bench",
                             .listen = "127.0.0.1:0",
                             .routes = routes,
                             .n_routes = 2,
                             .clock = &clock_real};
    struct http_server *server = NULL;
    struct error err = {0};
    if (inbox_open(&ic, &inbox, &err) || http_start(&hc, &server, &err)) {
        fprintf(stderr, "http_floor: %s\n", err.text);
        return 1;
    }
    printf("%u\n", http_port(server));
    fflush(stdout);
    int sig = 0;
    sigwait(&signals, &sig);
    struct inbox_view v = inbox_view(inbox);
    fprintf(stderr, "longest commit %lld us\n", (long long)v.commit_max_us);
    http_stop(server, US_PER_SECOND);
    inbox_close(inbox);
    return 0;
}
