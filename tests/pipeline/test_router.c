/*
 * tests/pipeline/test_router.c - the router against two pretended workers over real inproc links:
 * numbering, skipping what is durable, credit, how far the slot may be confirmed, and midnight.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "core/hash.h"
#include "engines/epoch.h"
#include "router_rig.h"

static void test_nothing_is_sent_before_every_worker_said_hello(void **state)
{
    struct world *w = *state;
    hello(w, 0, 100, NULL, 0);
    /* Time moves with each look, so that the deadline passes. */
    w->clock = clock_real;
    struct router_config rc = {2, w->up, &clock_real};
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
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){50, 7}, T0, NULL),
        STATUS_OK);
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){50, 8}, T0, NULL),
        STATUS_OK);
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){60, 0}, T0, NULL),
        STATUS_OK);
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
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 0}, T0, NULL),
        STATUS_OK);
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered[SOURCE_POSTGRES], 100);
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 256}, T0, NULL),
        STATUS_OK);
    assert_int_equal(router_commit(w->router, SOURCE_POSTGRES, 208, T0, NULL), STATUS_OK);
    w->now += LIMIT_FRAME_DELAY_US;
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered[SOURCE_POSTGRES], 208);
}

/* One event after the other, while the worker is busy committing the first: they share a frame. */
static void test_events_gather_while_the_worker_commits(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(
            router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + i, 0}, T0, NULL),
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
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 0}, T0, NULL),
        STATUS_OK);
    assert_int_equal(router_commit(w->router, SOURCE_POSTGRES, 208, T0, NULL), STATUS_OK);
    w->now += US_PER_SECOND;
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered[SOURCE_POSTGRES], 208);
    /* The worker without an event hears of it in a frame of its own. */
    struct frame_header marker = receive(w, 1);
    assert_int_equal(marker.n, 0);
    assert_int_equal(marker.covered[SOURCE_POSTGRES], 208);
    assert_int_equal(router_durable(w->router, SOURCE_POSTGRES), 100);
    ack(w, 0, 1, 208);
    w->now += 1;
    for (int i = 0; i < 1000 && router_durable(w->router, SOURCE_POSTGRES) != 100; i++)
        ;
    assert_int_equal(router_durable(w->router, SOURCE_POSTGRES), 100);
    ack(w, 1, 1, 208);
    /* The ack travels on another thread. */
    for (int i = 0; i < 10000000 && router_durable(w->router, SOURCE_POSTGRES) != 208; i++)
        ;
    assert_int_equal(router_durable(w->router, SOURCE_POSTGRES), 208);
}

static void test_an_idle_position_is_not_durable_before_the_workers_say_so(void **state)
{
    struct world *w = *state;
    greet_both(w);
    router_idle(w->router, 500, T0);
    assert_int_equal(router_durable(w->router, SOURCE_POSTGRES), 100);
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
        st = router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + sent, 0}, T0,
                          NULL);
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
        st = router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + sent, 0}, T0,
                          NULL);
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
        assert_int_equal(
            router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + i, 0}, T0, NULL),
            STATUS_OK);
    router_drained(w->router);
    (void)receive(w, 0);
    struct frame_header h = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = {100}, .n = 1};
    struct frame_applied applied = {SOURCE_POSTGRES, partition, {200, 0}, 1};
    worker_send(w, 0, &h, &applied);
    enum status st = STATUS_OK;
    for (int i = 0; i < 10000000 && !st; i++) {
        router_drained(w->router);
        st = router_commit(w->router, SOURCE_POSTGRES, 203, T0, NULL);
    }
    assert_int_equal(st, STATUS_IO); /* the reader reconnects, and the slot sends all again */
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(
            router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + i, 0}, T0, NULL),
            STATUS_OK);
    router_drained(w->router);
    assert_int_equal(receive(w, 0).n, 2);
    struct frame_event f;
    assert_int_equal(frame_next_event(&w->reader, &f, NULL), STATUS_OK);
    assert_int_equal(f.pseq, 2);
}

/* When nothing more comes, no event and no commit can be answered with it. */
static void test_a_rewind_is_seen_while_the_source_is_idle(void **state)
{
    struct world *w = *state;
    greet_both(w);
    struct receiver_ops reader = router_receiver(w->router);
    assert_int_equal(reader.intact(reader.ctx, NULL), STATUS_OK);
    struct frame_header h = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = {100}};
    worker_send(w, 0, &h, NULL);
    enum status st = STATUS_OK;
    for (int i = 0; i < 10000000 && !st; i++) {
        router_drained(w->router);
        st = reader.intact(reader.ctx, NULL);
    }
    assert_int_equal(st, STATUS_IO);
    assert_int_equal(reader.intact(reader.ctx, NULL), STATUS_OK); /* told once */
}

/* It may have missed the last frame there was, or its answer was: nothing else would show it. */
static void test_a_silent_worker_is_asked_whether_it_missed_something(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 0}, T0, NULL),
        STATUS_OK);
    router_drained(w->router);
    assert_int_equal(receive(w, 0).kind, FRAME_EVENTS);
    w->now += US_PER_SECOND;
    router_drained(w->router);
    w->now += 3 * US_PER_SECOND;
    router_drained(w->router);
    struct frame_header h = receive(w, 0);
    assert_int_equal(h.kind, FRAME_FLUSH);
    assert_int_equal(h.number, 2);
    ack(w, 0, 2, 150);
    ack(w, 1, 0, 150);
    while (router_durable(w->router, SOURCE_POSTGRES) != 150)
        ;
    for (int i = 0; i < 5; i++) { /* answered: there is nothing to ask */
        w->now += 3 * US_PER_SECOND;
        for (int k = 0; k < 1000; k++)
            router_drained(w->router);
    }
    struct str bytes;
    while (link_receive(w->down[0], 0, &bytes, NULL) == STATUS_OK) {
        assert_int_equal(frame_open(&w->reader, bytes, &h, NULL), STATUS_OK);
        assert_int_not_equal(h.kind, FRAME_FLUSH);
    }
}

/* ---- midnight ---- */

#define DAY (T0 / US_PER_DAY) /* T0 is 08:00 of this day */

/* What comes next must be a frame of this kind, and of T before midnight. */
static struct frame_header expect(struct world *w, uint32_t worker, enum frame_kind kind)
{
    struct frame_header h = next_frame(w, worker);
    assert_int_equal(h.kind, kind);
    assert_true(h.as_of_us < (DAY + 1) * US_PER_DAY);
    return h;
}

static void expect_silence(struct world *w, uint32_t worker)
{
    struct str bytes;
    for (int i = 0; i < 200; i++) {
        w->now++;
        router_drained(w->router);
        assert_int_equal(link_receive(w->down[worker], 0, &bytes, NULL), STATUS_AGAIN);
    }
}

static void ack_days(struct world *w, uint32_t worker, uint64_t number, int32_t opened,
                     int32_t closed)
{
    struct frame_header h = {
        .kind = FRAME_ACK, .number = number, .covered = {100}, .opened = opened, .closed = closed};
    worker_send(w, worker, &h, NULL);
}

/* Answers the CLOSE of that number: n messages of elena's, 0 = it has learned nothing. */
static void answer(struct world *w, uint32_t worker, uint64_t number, uint32_t n)
{
    struct buf b;
    buf_init(&b, 4096);
    struct frame_header h = {.kind = FRAME_PARTS, .number = number, .n = 1, .closed = DAY + 1};
    if (n) {
        struct epoch_sums sums = {{[EPOCH_MESSAGES] = n}};
        struct buf bytes;
        buf_init(&bytes, 4096);
        assert_int_equal(epoch_cells_encode(sums.v, &bytes), STATUS_OK);
        struct frame_sums f = {STR("elena"), {bytes.data, bytes.len}};
        assert_int_equal(frame_put_header(&b, &h), STATUS_OK);
        assert_int_equal(frame_put_sums(&b, &f), STATUS_OK);
        assert_int_equal(
            link_send(w->down[worker], (struct str){b.data, b.len}, STR(""), 1000, NULL),
            STATUS_OK);
        buf_deinit(&bytes);
    }
    buf_deinit(&b);
    h.kind = FRAME_CLOSED;
    h.n = n > 0;
    worker_send(w, worker, &h, NULL);
}

/* SUMS with so many messages of elena's, then DAY; returns the number of DAY. */
static uint64_t expect_day(struct world *w, uint32_t worker, uint32_t n)
{
    struct frame_header h = expect(w, worker, FRAME_SUMS);
    assert_int_equal(h.n, 1);
    assert_int_equal(h.opened, DAY + 1);
    struct frame_sums f;
    uint32_t v[EPOCH_CELLS];
    assert_int_equal(frame_next_sums(&w->reader, &f, NULL), STATUS_OK);
    assert_true(str_equal(f.bot_name, STR("elena")));
    struct reader r = reader_of(f.bytes.ptr, f.bytes.len);
    assert_int_equal(epoch_cells_decode(&r, v, NULL), STATUS_OK);
    assert_int_equal(v[EPOCH_MESSAGES], n);
    h = expect(w, worker, FRAME_DAY);
    assert_int_equal(h.opened, DAY + 1);
    return h.number;
}

static enum status send_at(struct world *w, const struct event *e, uint64_t lsn, int64_t commit_us)
{
    return router_event(w->router, SOURCE_POSTGRES, e, (struct position){lsn, 0}, commit_us, NULL);
}

static void test_no_event_of_a_day_leaves_before_its_epochs(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    int64_t tomorrow = (DAY + 1) * US_PER_DAY;
    assert_int_equal(send_at(w, &e, 200, T0), STATUS_OK);
    assert_int_equal(send_at(w, &e, 201, tomorrow), STATUS_AGAIN);
    /* What was sent is made durable first, everywhere ... */
    assert_int_equal(expect(w, 0, FRAME_EVENTS).n, 1);
    uint64_t number = expect(w, 0, FRAME_FLUSH).number;
    assert_int_equal(expect(w, 1, FRAME_FLUSH).number, 1);
    ack(w, 1, 1, 100);
    expect_silence(w, 1);
    ack(w, 0, number, 100);
    /* ... then both days are closed ... */
    struct frame_header close[2] = {expect(w, 0, FRAME_CLOSE), expect(w, 1, FRAME_CLOSE)};
    assert_int_equal(close[0].closed, DAY + 1);
    answer(w, 0, close[0].number, 2);
    expect_silence(w, 0);
    assert_int_equal(send_at(w, &e, 201, tomorrow), STATUS_AGAIN);
    assert_int_equal(router_as_of(w->router), tomorrow - 1);
    answer(w, 1, close[1].number, 3);
    /* ... and both hear what both have learned. The event comes after that, and not before. */
    (void)expect_day(w, 0, 5);
    (void)expect_day(w, 1, 5);
    assert_int_equal(send_at(w, &e, 201, tomorrow), STATUS_OK);
    struct frame_header h = next_frame(w, 0);
    assert_int_equal(h.kind, FRAME_EVENTS);
    assert_int_equal(h.n, 1);
    assert_in_range(h.as_of_us, tomorrow, tomorrow + US_PER_SECOND);
}

/* Without an event, the clock alone ends the day. */
static void test_an_idle_day_ends_too(void **state)
{
    struct world *w = *state;
    greet_both(w);
    router_idle(w->router, 300, T0);
    w->now += 16 * 3600 * US_PER_SECOND - 1000;
    assert_int_equal(expect(w, 0, FRAME_EVENTS).n, 0); /* the covered LSN */
    assert_int_equal(expect(w, 1, FRAME_EVENTS).n, 0);
    w->now += 1000;
    for (uint32_t i = 0; i < 2; i++)
        ack(w, i, expect(w, i, FRAME_FLUSH).number, 100);
    for (uint32_t i = 0; i < 2; i++)
        answer(w, i, expect(w, i, FRAME_CLOSE).number, 0);
    for (uint32_t i = 0; i < 2; i++)
        (void)expect(w, i, FRAME_DAY); /* nobody learned anything: no sums */
    assert_in_range(router_as_of(w->router), (DAY + 1) * US_PER_DAY,
                    (DAY + 1) * US_PER_DAY + US_PER_SECOND);
}

/* Committed before midnight, read after it: the day has not ended yet. */
static void test_a_late_event_of_the_old_day_does_not_end_it(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(send_at(w, &e, 200, (DAY + 1) * US_PER_DAY - 10), STATUS_OK);
    w->now += 100;
    assert_int_equal(send_at(w, &e, 201, (DAY + 1) * US_PER_DAY - 5), STATUS_OK);
    assert_int_equal(send_at(w, &e, 202, (DAY + 1) * US_PER_DAY), STATUS_AGAIN);
    struct frame_header h = expect(w, 0, FRAME_EVENTS);
    assert_int_equal(h.n, 2);
    assert_int_equal(h.as_of_us, (DAY + 1) * US_PER_DAY - 1);
}

/* Everything from the first worker's CLOSE to the second one's DAY is asked for once more. */
static void test_a_change_of_day_that_was_cut_short_is_finished_first(void **state)
{
    struct world *w = *state;
    struct frame_header h = {.kind = FRAME_HELLO,
                             .as_of_us = (DAY + 1) * US_PER_DAY,
                             .covered = {100},
                             .opened = DAY + 1,
                             .closed = DAY + 1};
    worker_send(w, 0, &h, NULL);
    h.as_of_us = T0;
    h.opened = 0;
    worker_send(w, 1, &h, NULL);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
    char user[32];
    struct event e = event_for(1, user);
    assert_int_equal(send_at(w, &e, 200, T0 + 1), STATUS_AGAIN);
    for (uint32_t i = 0; i < 2; i++)
        ack_days(w, i, next_frame(w, i).number, i == 0 ? DAY + 1 : 0, DAY + 1);
    for (uint32_t i = 0; i < 2; i++) {
        h = next_frame(w, i);
        assert_int_equal(h.kind, FRAME_CLOSE);
        assert_int_equal(h.closed, DAY + 1);
        answer(w, i, h.number, 1);
    }
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(next_frame(w, i).kind, FRAME_SUMS);
        assert_int_equal(next_frame(w, i).kind, FRAME_DAY);
    }
    assert_int_equal(send_at(w, &e, 200, T0 + 1), STATUS_OK);
}

/* A worker that begins again in the middle: what it and the others had answered is forgotten, so
 * that nothing is added up twice. */
static void test_parts_are_counted_once_when_a_worker_begins_again(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(send_at(w, &e, 200, (DAY + 1) * US_PER_DAY), STATUS_AGAIN);
    for (uint32_t i = 0; i < 2; i++)
        ack(w, i, expect(w, i, FRAME_FLUSH).number, 100);
    struct frame_header close[2] = {expect(w, 0, FRAME_CLOSE), expect(w, 1, FRAME_CLOSE)};
    answer(w, 0, close[0].number, 2);
    hello(w, 1, 100, NULL, 0);
    enum status st = STATUS_AGAIN;
    for (int i = 0; i < 10000000 && st == STATUS_AGAIN; i++)
        st = send_at(w, &e, 200, (DAY + 1) * US_PER_DAY);
    assert_int_equal(st, STATUS_IO); /* the reader begins again, too */
    assert_int_equal(send_at(w, &e, 200, (DAY + 1) * US_PER_DAY), STATUS_AGAIN);
    for (uint32_t i = 0; i < 2; i++)
        ack(w, i, expect(w, i, FRAME_FLUSH).number, 100);
    answer(w, 1, close[1].number + 100, 7); /* to no CLOSE of this life */
    uint64_t number[2] = {expect(w, 0, FRAME_CLOSE).number, expect(w, 1, FRAME_CLOSE).number};
    answer(w, 0, number[0], 2);
    answer(w, 1, number[1], 3);
    (void)expect_day(w, 0, 5);
    (void)expect_day(w, 1, 5);
}

/* The answer to CLOSE got lost: it is asked for again after a while. */
static void test_a_lost_answer_is_asked_for_again(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    assert_int_equal(send_at(w, &e, 200, (DAY + 1) * US_PER_DAY), STATUS_AGAIN);
    for (uint32_t i = 0; i < 2; i++)
        ack(w, i, expect(w, i, FRAME_FLUSH).number, 100);
    (void)expect(w, 0, FRAME_CLOSE);
    answer(w, 1, expect(w, 1, FRAME_CLOSE).number, 3);
    expect_silence(w, 0);
    w->now += 6 * US_PER_SECOND;
    for (uint32_t i = 0; i < 2; i++)
        ack(w, i, expect(w, i, FRAME_FLUSH).number, 100);
    for (uint32_t i = 0; i < 2; i++)
        answer(w, i, expect(w, i, FRAME_CLOSE).number, 3);
    (void)expect_day(w, 0, 6);
}

/* ---- events for everybody ---- */

static struct event character(const char *version_name)
{
    struct event e = {
        .type = EVENT_CHARACTER,
        .id = STR("c"),
        .user_id = STR(""),
        .bot_name = STR("elena"),
        .at_us = T0,
        .u.character = {.version = 2, .n_traits = 1, .traits = {{STR("calm"), 1}}},
    };
    e.u.character.traits[0].name = str_from(version_name);
    return e;
}

struct heard {
    uint64_t pseq[LIMIT_PARTITIONS];
    uint64_t n;
};

/* Takes every frame that is there: numbers are dense, and each worker is sent its own partitions.
 */
static void listen_to(struct world *w, uint32_t worker, struct heard *heard)
{
    struct str bytes;
    while (link_receive(w->down[worker], 0, &bytes, NULL) == STATUS_OK) {
        struct frame_header h;
        struct frame_event f;
        assert_int_equal(frame_open(&w->reader, bytes, &h, NULL), STATUS_OK);
        for (uint32_t i = 0; i < h.n; i++) {
            assert_int_equal(frame_next_event(&w->reader, &f, NULL), STATUS_OK);
            assert_int_equal(route_worker(f.partition, 2), worker);
            assert_int_equal(f.pseq, ++heard->pseq[f.partition]);
            heard->n++;
        }
        ack(w, worker, h.number, 100);
    }
}

/* Until as many events have come as are expected; what comes beyond them is looked for as well. */
static void hear(struct world *w, struct heard *heard, uint64_t n)
{
    for (int i = 0; i < 10000000 && heard->n < n; i++) {
        w->now += LIMIT_FRAME_DELAY_US;
        router_drained(w->router);
        listen_to(w, 0, heard);
        listen_to(w, 1, heard);
    }
    for (int i = 0; i < 1000; i++) {
        w->now += LIMIT_FRAME_DELAY_US;
        router_drained(w->router);
        listen_to(w, 0, heard);
        listen_to(w, 1, heard);
    }
    assert_int_equal(heard->n, n);
}

static void test_a_character_reaches_every_partition_once(void **state)
{
    struct world *w = *state;
    greet_both(w);
    struct event e = character("calm");
    struct heard heard = {0};
    for (int again = 0; again < 2; again++) /* the second time all of them have it */
        assert_int_equal(
            router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 0}, T0, NULL),
            STATUS_OK);
    hear(w, &heard, LIMIT_PARTITIONS);
}

/* Some partitions had it before a crash, over however many workers they were spread then: the
 * others get it, and those do not. */
static void test_a_broadcast_goes_on_where_a_crash_cut_it_off(void **state)
{
    struct world *w = *state;
    struct frame_applied applied[4];
    struct heard heard = {0};
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t partition = i * 16; /* of worker 0 of 2 now, of different ones of 5 before */
        applied[i] = (struct frame_applied){SOURCE_POSTGRES, partition, {200, 0}, 7};
        heard.pseq[partition] = 7;
    }
    hello(w, 0, 100, applied, 4);
    hello(w, 1, 100, NULL, 0);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
    struct event e = character("calm");
    assert_int_equal(
        router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200, 0}, T0, NULL),
        STATUS_OK);
    hear(w, &heard, LIMIT_PARTITIONS - 4);
    for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++)
        assert_int_equal(heard.pseq[i], i % 16 == 0 ? 7 : 1);
}

/* Without room for all of a broadcast a part of it goes; offered again, the rest. */
static void test_a_broadcast_without_room_is_not_repeated(void **state)
{
    static char name[LIMIT_ID_BYTES];
    struct world *w = *state;
    greet_both(w);
    memset(name, 'x', sizeof(name) - 1);
    struct event e = character(name);
    e.u.character.n_traits = 32;
    for (uint32_t i = 1; i < 32; i++)
        e.u.character.traits[i] = e.u.character.traits[0];
    struct heard heard = {0};
    uint64_t sent = 0, full = 0;
    while (full < 3) {
        enum status st = router_event(w->router, SOURCE_POSTGRES, &e,
                                      (struct position){200 + sent, 0}, T0, NULL);
        sent += st == STATUS_OK;
        assert_true(sent < 10000);
        if (st == STATUS_OK)
            continue;
        assert_int_equal(st, STATUS_AGAIN);
        full++;
        for (int i = 0; i < 10000000 && st == STATUS_AGAIN; i++) {
            listen_to(w, 0, &heard);
            listen_to(w, 1, &heard);
            st = router_event(w->router, SOURCE_POSTGRES, &e, (struct position){200 + sent, 0}, T0,
                              NULL);
        }
        assert_int_equal(st, STATUS_OK);
        sent++;
    }
    hear(w, &heard, sent * LIMIT_PARTITIONS);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_is_sent_before_every_worker_said_hello),
        TEST(test_events_are_numbered_densely_from_the_hello),
        TEST(test_rows_of_an_open_transaction_are_not_covered),
        TEST(test_events_gather_while_the_worker_commits),
        TEST(test_the_slowest_worker_decides_what_is_durable),
        TEST(test_an_idle_position_is_not_durable_before_the_workers_say_so),
        TEST(test_a_worker_that_does_not_answer_stops_the_input),
        TEST(test_a_rewind_starts_again_from_the_workers_position),
        TEST(test_a_rewind_is_seen_while_the_source_is_idle),
        TEST(test_a_silent_worker_is_asked_whether_it_missed_something),
        TEST(test_no_event_of_a_day_leaves_before_its_epochs),
        TEST(test_an_idle_day_ends_too),
        TEST(test_a_late_event_of_the_old_day_does_not_end_it),
        TEST(test_a_change_of_day_that_was_cut_short_is_finished_first),
        TEST(test_parts_are_counted_once_when_a_worker_begins_again),
        TEST(test_a_lost_answer_is_asked_for_again),
        TEST(test_a_character_reaches_every_partition_once),
        TEST(test_a_broadcast_goes_on_where_a_crash_cut_it_off),
        TEST(test_a_broadcast_without_room_is_not_repeated),
    };
    return cmocka_run_group_tests_name("pipeline/router", tests, NULL, NULL);
}
