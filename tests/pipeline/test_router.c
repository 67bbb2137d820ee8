/*
 * tests/pipeline/test_router.c - the router against two pretended workers over real inproc links:
 * numbering, skipping what is durable, credit, and how far the slot may be confirmed.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "pipeline/frame.h"
#include "pipeline/route.h"
#include "pipeline/router.h"

#define T0 (INT64_C(1767600000) * US_PER_SECOND)

struct world {
    int64_t now;
    struct clock clock;
    struct link *up[2];   /* the router's ends */
    struct link *down[2]; /* the workers' ends */
    struct router *router;
    struct frame_reader reader;
    struct str frame; /* the frame last received */
};

static void worker_send(struct world *w, uint32_t worker, const struct frame_header *h,
                        const struct frame_applied *applied)
{
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(frame_put_header(&b, h), STATUS_OK);
    for (uint32_t i = 0; i < h->n; i++)
        assert_int_equal(frame_put_applied(&b, &applied[i]), STATUS_OK);
    assert_int_equal(link_send(w->down[worker], (struct str){b.data, b.len}, STR(""), 1000, NULL),
                     STATUS_OK);
    router_expect(w->router, worker);
    buf_deinit(&b);
}

static void ack(struct world *w, uint32_t worker, uint64_t number, lsn_t covered)
{
    struct frame_header h = {.kind = FRAME_ACK, .number = number, .covered = covered};
    worker_send(w, worker, &h, NULL);
}

static void hello(struct world *w, uint32_t worker, lsn_t covered,
                  const struct frame_applied *applied, uint32_t n)
{
    struct frame_header h = {.kind = FRAME_HELLO, .as_of_us = T0, .covered = covered, .n = n};
    worker_send(w, worker, &h, applied);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    static int serial;
    w->now = T0;
    w->clock = clock_virtual(&w->now);
    for (int i = 0; i < 2; i++) {
        char url[64];
        snprintf(url, sizeof(url), "inproc://router-test-%d-%d", ++serial, i);
        assert_int_equal(link_listen(url, &w->up[i], NULL), STATUS_OK);
        assert_int_equal(link_dial(url, &w->down[i], NULL), STATUS_OK);
    }
    struct router_config rc = {2, w->up, &w->clock, SOURCE_POSTGRES};
    assert_int_equal(router_new(&rc, &w->router, NULL), STATUS_OK);
    assert_int_equal(frame_reader_init(&w->reader), STATUS_OK);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    router_free(w->router);
    for (int i = 0; i < 2; i++) {
        link_close(w->down[i]);
        link_close(w->up[i]);
    }
    frame_reader_deinit(&w->reader);
    free(w);
    return 0;
}

static void greet_both(struct world *w)
{
    hello(w, 0, 100, NULL, 0);
    hello(w, 1, 100, NULL, 0);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
}

/* A user whose partition belongs to the worker. */
static struct event event_for(uint32_t worker, char user[32])
{
    for (int i = 0;; i++) {
        snprintf(user, 32, "user-%d", i);
        if (route_worker((uint32_t)(hash64(str_from(user)) % LIMIT_PARTITIONS), 2) == worker)
            break;
    }
    return (struct event){
        .type = EVENT_MESSAGE,
        .id = STR("m"),
        .user_id = str_from(user),
        .bot_name = STR("elena"),
        .at_us = T0,
        .u.message = {.role = ROLE_USER, .op = MESSAGE_INSERT, .content = STR("hi")},
    };
}

static struct frame_header receive(struct world *w, uint32_t worker)
{
    struct frame_header h;
    assert_int_equal(link_receive(w->down[worker], 1000, &w->frame, NULL), STATUS_OK);
    assert_int_equal(frame_open(&w->reader, w->frame, &h, NULL), STATUS_OK);
    return h;
}

static void test_nothing_is_sent_before_every_worker_said_hello(void **state)
{
    struct world *w = *state;
    hello(w, 0, 100, NULL, 0);
    /* Time moves with each look, so that the deadline passes. */
    w->clock = clock_real;
    struct router_config rc = {2, w->up, &clock_real, SOURCE_POSTGRES};
    struct router *r = NULL;
    assert_int_equal(router_new(&rc, &r, NULL), STATUS_OK);
    assert_int_equal(router_handshake(r, 200 * 1000, NULL), STATUS_IO);
    router_free(r);
}

static void test_events_are_numbered_densely_from_the_hello(void **state)
{
    struct world *w = *state;
    char user[32];
    struct event e = event_for(1, user);
    uint32_t partition = (uint32_t)(hash64(e.user_id) % LIMIT_PARTITIONS);
    struct frame_applied applied = {SOURCE_POSTGRES, partition, {50, 7}, 41};
    hello(w, 0, 100, NULL, 0);
    hello(w, 1, 100, &applied, 1);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
    /* Already in the state: skipped, not numbered. */
    assert_int_equal(router_event(w->router, &e, (struct position){50, 7}, T0, NULL), STATUS_OK);
    assert_int_equal(router_event(w->router, &e, (struct position){50, 8}, T0, NULL), STATUS_OK);
    assert_int_equal(router_event(w->router, &e, (struct position){60, 0}, T0, NULL), STATUS_OK);
    router_drained(w->router);
    struct frame_header h = receive(w, 1);
    assert_int_equal(h.n, 2);
    assert_int_equal(h.number, 1);
    struct frame_event f;
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(frame_next_event(&w->reader, &f, NULL), STATUS_OK);
        assert_int_equal(f.pseq, 42 + i);
        assert_int_equal(f.partition, partition);
    }
}

/* A transaction is covered when its COMMIT was seen, not while its rows stream in. */
static void test_rows_of_an_open_transaction_are_not_covered(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(router_event(w->router, &e, (struct position){200, 0}, T0, NULL), STATUS_OK);
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered, 100);
    assert_int_equal(router_event(w->router, &e, (struct position){200, 256}, T0, NULL), STATUS_OK);
    assert_int_equal(router_commit(w->router, 208, T0, NULL), STATUS_OK);
    w->now += LIMIT_FRAME_DELAY_US;
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered, 208);
}

/* One event after the other, while the worker is busy committing the first: they share a frame. */
static void test_events_gather_while_the_worker_commits(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(router_event(w->router, &e, (struct position){200 + i, 0}, T0, NULL),
                         STATUS_OK);
        router_drained(w->router);
    }
    assert_int_equal(receive(w, 0).n, 1);
    ack(w, 0, 1, 100);
    struct str bytes;
    enum status st = STATUS_AGAIN;
    for (int i = 0; i < 10000000 && st == STATUS_AGAIN; i++) {
        router_drained(w->router); /* as the reader does when the ACK wakes it */
        st = link_receive(w->down[0], 0, &bytes, NULL);
    }
    struct frame_header h;
    assert_int_equal(st, STATUS_OK);
    assert_int_equal(frame_open(&w->reader, bytes, &h, NULL), STATUS_OK);
    assert_int_equal(h.n, 3);
}

static void test_the_slowest_worker_decides_what_is_durable(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(router_event(w->router, &e, (struct position){200, 0}, T0, NULL), STATUS_OK);
    assert_int_equal(router_commit(w->router, 208, T0, NULL), STATUS_OK);
    w->now += US_PER_SECOND;
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered, 208);
    /* The worker without an event hears of it in a frame of its own. */
    struct frame_header marker = receive(w, 1);
    assert_int_equal(marker.n, 0);
    assert_int_equal(marker.covered, 208);
    assert_int_equal(router_durable(w->router), 100);
    ack(w, 0, 1, 208);
    w->now += 1;
    for (int i = 0; i < 1000 && router_durable(w->router) != 100; i++)
        ;
    assert_int_equal(router_durable(w->router), 100);
    ack(w, 1, 1, 208);
    /* The ack travels on another thread. */
    for (int i = 0; i < 10000000 && router_durable(w->router) != 208; i++)
        ;
    assert_int_equal(router_durable(w->router), 208);
}

static void test_an_idle_position_is_not_durable_before_the_workers_say_so(void **state)
{
    struct world *w = *state;
    greet_both(w);
    router_idle(w->router, 500, T0);
    assert_int_equal(router_durable(w->router), 100);
}

static void test_a_worker_that_does_not_answer_stops_the_input(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    char *text = malloc(60000);
    memset(text, 'x', 60000);
    e.u.message.content = (struct str){text, 60000};
    enum status st = STATUS_OK;
    uint64_t sent = 0;
    while (sent < 10000 && !st) {
        st = router_event(w->router, &e, (struct position){200 + sent, 0}, T0, NULL);
        if (!st)
            sent++;
        /* A pretended worker that reads, so that only the credit can stop the router, ... */
        struct str bytes;
        while (link_receive(w->down[0], 0, &bytes, NULL) == STATUS_OK)
            ;
    }
    assert_int_equal(st, STATUS_AGAIN);
    assert_in_range(sent, (8u << 20) / 60100 - 2, (8u << 20) / 60000 + 4);
    /* ... and whose acknowledgement opens it again. */
    ack(w, 0, 3, 100);
    for (int i = 0; i < 10000000 && st == STATUS_AGAIN; i++)
        st = router_event(w->router, &e, (struct position){200 + sent, 0}, T0, NULL);
    assert_int_equal(st, STATUS_OK);
    free(text);
}

static void test_a_rewind_starts_again_from_the_workers_position(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    uint32_t partition = (uint32_t)(hash64(e.user_id) % LIMIT_PARTITIONS);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(router_event(w->router, &e, (struct position){200 + i, 0}, T0, NULL),
                         STATUS_OK);
    router_drained(w->router);
    (void)receive(w, 0);
    struct frame_header h = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = 100, .n = 1};
    struct frame_applied applied = {SOURCE_POSTGRES, partition, {200, 0}, 1};
    worker_send(w, 0, &h, &applied);
    enum status st = STATUS_OK;
    for (int i = 0; i < 10000000 && !st; i++) {
        router_drained(w->router);
        st = router_commit(w->router, 203, T0, NULL);
    }
    assert_int_equal(st, STATUS_IO); /* the reader reconnects, and the slot sends all again */
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(router_event(w->router, &e, (struct position){200 + i, 0}, T0, NULL),
                         STATUS_OK);
    router_drained(w->router);
    assert_int_equal(receive(w, 0).n, 2);
    struct frame_event f;
    assert_int_equal(frame_next_event(&w->reader, &f, NULL), STATUS_OK);
    assert_int_equal(f.pseq, 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_is_sent_before_every_worker_said_hello),
        TEST(test_events_are_numbered_densely_from_the_hello),
        TEST(test_rows_of_an_open_transaction_are_not_covered),
        TEST(test_events_gather_while_the_worker_commits),
        TEST(test_the_slowest_worker_decides_what_is_durable),
        TEST(test_an_idle_position_is_not_durable_before_the_workers_say_so),
        TEST(test_a_worker_that_does_not_answer_stops_the_input),
        TEST(test_a_rewind_starts_again_from_the_workers_position),
    };
    return cmocka_run_group_tests_name("pipeline/router", tests, NULL, NULL);
}
