/*
 * tests/pipeline/test_router_sources.c - the slot reader and the feed of the inbox give events to
 * one router: numbers, what is covered and what must be given again are kept apart; frames, T and
 * midnight are shared; and both may call at the same time.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/hash.h"
#include "router_rig.h"

#define DAY (T0 / US_PER_DAY)

static uint32_t partition_of(const struct event *e)
{
    return (uint32_t)(hash64(e->user_id) % LIMIT_PARTITIONS);
}

static enum status give(struct world *w, enum source source, const struct event *e, uint64_t at)
{
    return router_event(w->router, source, e, (struct position){at, 0}, T0, NULL);
}

static void must_give(struct world *w, enum source source, const struct event *e, uint64_t at)
{
    assert_int_equal(give(w, source, e, at), STATUS_OK);
}

static struct frame_event next_event(struct world *w)
{
    struct frame_event f;
    assert_int_equal(frame_next_event(&w->reader, &f, NULL), STATUS_OK);
    return f;
}

static void test_each_source_has_its_own_positions_and_numbers(void **state)
{
    struct world *w = *state;
    char user[32];
    struct event e = event_for(1, user);
    uint32_t p = partition_of(&e);
    struct frame_applied applied[] = {{SOURCE_POSTGRES, p, {500, 7}, 41},
                                      {SOURCE_INBOX, p, {9, 256}, 3}};
    hello(w, 0, 100, NULL, 0);
    hello(w, 1, 100, applied, 2);
    assert_int_equal(router_handshake(w->router, US_PER_SECOND, NULL), STATUS_OK);
    /* Row 9 is known up to its second event; the slot's 500 says nothing about rows. */
    assert_int_equal(router_event(w->router, SOURCE_INBOX, &e, (struct position){9, 256}, T0, NULL),
                     STATUS_OK);
    assert_int_equal(router_event(w->router, SOURCE_INBOX, &e, (struct position){9, 512}, T0, NULL),
                     STATUS_OK);
    must_give(w, SOURCE_POSTGRES, &e, 10); /* older than what the slot's events have reached */
    must_give(w, SOURCE_POSTGRES, &e, 501);
    must_give(w, SOURCE_INBOX, &e, 10);
    router_drained(w->router);
    assert_int_equal(receive(w, 1).n, 3); /* one frame for both */
    static const struct {
        enum source source;
        uint64_t pseq, lsn;
    } want[] = {{SOURCE_INBOX, 4, 9}, {SOURCE_POSTGRES, 42, 501}, {SOURCE_INBOX, 5, 10}};
    for (size_t i = 0; i < 3; i++) {
        struct frame_event f = next_event(w);
        assert_int_equal(f.source, want[i].source);
        assert_int_equal(f.pseq, want[i].pseq);
        assert_int_equal(f.pos.lsn, want[i].lsn);
    }
}

static void ack_both(struct world *w, uint32_t worker, uint64_t number, lsn_t lsn, uint64_t row)
{
    struct frame_header h = {.kind = FRAME_ACK, .number = number, .covered = {lsn, row}};
    worker_send(w, worker, &h, NULL);
}

static void wait_durable(struct world *w, enum source source, uint64_t until)
{
    for (int i = 0; i < 10000000 && router_durable(w->router, source) != until; i++)
        ;
    assert_int_equal(router_durable(w->router, source), until);
}

static void test_what_is_covered_of_one_source_says_nothing_about_the_other(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    must_give(w, SOURCE_INBOX, &e, 7);
    assert_int_equal(router_commit(w->router, SOURCE_INBOX, 7, T0, NULL), STATUS_OK);
    w->now += US_PER_SECOND;
    router_drained(w->router);
    /* The worker without an event hears of the row as well. */
    for (uint32_t i = 0; i < 2; i++) {
        struct frame_header h = receive(w, i);
        assert_int_equal(h.n, i == 0);
        assert_int_equal(h.covered[SOURCE_POSTGRES], 100);
        assert_int_equal(h.covered[SOURCE_INBOX], 7);
    }
    ack_both(w, 0, 1, 100, 7);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(router_durable(w->router, SOURCE_INBOX), 0);
    ack_both(w, 1, 1, 100, 7);
    wait_durable(w, SOURCE_INBOX, 7);
    assert_int_equal(router_durable(w->router, SOURCE_POSTGRES), 100);
    assert_int_equal(router_commit(w->router, SOURCE_POSTGRES, 208, T0, NULL), STATUS_OK);
    w->now += US_PER_SECOND;
    router_drained(w->router);
    assert_int_equal(receive(w, 0).covered[SOURCE_POSTGRES], 208);
    ack_both(w, 0, 2, 208, 7);
    ack_both(w, 1, 2, 208, 7);
    wait_durable(w, SOURCE_POSTGRES, 208);
}

/* The worker has lost everything since its hello. */
static void lose_all(struct world *w, uint32_t worker)
{
    struct frame_header h = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = {100}};
    worker_send(w, worker, &h, NULL);
}

static void test_a_gap_takes_both_sources_back_each_in_its_time(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    uint32_t p = partition_of(&e);
    /* Worker 0 has applied nothing of either. */
    must_give(w, SOURCE_POSTGRES, &e, 200);
    must_give(w, SOURCE_INBOX, &e, 1);
    assert_int_equal(router_commit(w->router, SOURCE_POSTGRES, 201, T0, NULL), STATUS_OK);
    assert_int_equal(router_commit(w->router, SOURCE_INBOX, 1, T0, NULL), STATUS_OK);
    router_drained(w->router);
    (void)receive(w, 0);
    struct frame_applied none[] = {{SOURCE_POSTGRES, p, {0, 0}, 0}, {SOURCE_INBOX, p, {0, 0}, 0}};
    struct frame_header h = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = {100}, .n = 2};
    worker_send(w, 0, &h, none);
    enum status st = STATUS_OK;
    for (int i = 0; i < 10000000 && !st; i++) {
        router_drained(w->router);
        st = router_commit(w->router, SOURCE_INBOX, 1, 0, NULL);
    }
    assert_int_equal(st, STATUS_IO);
    /* The feed goes on at once. The slot reader may be away: nothing that is sent meanwhile claims
     * what it has to give again, whatever the server says about its end. */
    must_give(w, SOURCE_INBOX, &e, 1);
    assert_int_equal(router_commit(w->router, SOURCE_INBOX, 1, T0, NULL), STATUS_OK);
    router_idle(w->router, 900, T0);
    router_drained(w->router);
    h = receive(w, 0);
    assert_int_equal(h.number, 1);
    assert_int_equal(h.covered[SOURCE_POSTGRES], 100);
    assert_int_equal(h.covered[SOURCE_INBOX], 1);
    struct frame_event f = next_event(w);
    assert_int_equal(f.source, SOURCE_INBOX);
    assert_int_equal(f.pseq, 1);
    /* The reader is told when it comes, with whatever it brings, and only once. */
    assert_int_equal(give(w, SOURCE_POSTGRES, &e, 300), STATUS_IO);
    must_give(w, SOURCE_POSTGRES, &e, 200);
    must_give(w, SOURCE_POSTGRES, &e, 300);
    ack_both(w, 0, 1, 100, 1);
    h = next_frame(w, 0);
    assert_int_equal(h.n, 2);
    assert_int_equal(next_event(w).pseq, 1);
    assert_int_equal(next_event(w).pseq, 2);
}

/* PostgreSQL is down over midnight, after a worker has lost events of it. */
static void test_the_day_changes_for_the_inbox_while_the_slot_reader_is_away(void **state)
{
    struct world *w = *state;
    greet_both(w);
    char user[32];
    struct event e = event_for(0, user);
    lose_all(w, 0);
    int64_t tomorrow = (DAY + 1) * US_PER_DAY;
    struct position pos = {1, 0};
    enum status st = STATUS_OK;
    for (int i = 0; i < 10000000 && !st; i++) {
        router_drained(w->router);
        st = router_commit(w->router, SOURCE_INBOX, 0, 0, NULL);
    }
    assert_int_equal(st, STATUS_IO);
    st = router_event(w->router, SOURCE_INBOX, &e, pos, tomorrow, NULL);
    assert_int_equal(st, STATUS_AGAIN); /* it waits for midnight */
    for (uint32_t i = 0; i < 2; i++) {
        struct frame_header h = next_frame(w, i);
        assert_int_equal(h.kind, FRAME_FLUSH);
        ack_both(w, i, h.number, 100, 0);
    }
    for (uint32_t i = 0; i < 2; i++) {
        struct frame_header h = next_frame(w, i);
        assert_int_equal(h.kind, FRAME_CLOSE);
        struct frame_header closed = {
            .kind = FRAME_CLOSED, .number = h.number, .covered = {100}, .closed = DAY + 1};
        worker_send(w, i, &closed, NULL);
    }
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(next_frame(w, i).kind, FRAME_DAY);
    assert_int_equal(router_event(w->router, SOURCE_INBOX, &e, pos, tomorrow, NULL), STATUS_OK);
    /* T is the newest time of either, and stays there for what the other brings late. */
    assert_int_equal(give(w, SOURCE_POSTGRES, &e, 200), STATUS_IO);
    must_give(w, SOURCE_POSTGRES, &e, 200);
    struct frame_header h = next_frame(w, 0);
    assert_int_equal(h.n, 2);
    for (int i = 0; i < 2; i++)
        assert_true(next_event(w).as_of_us >= tomorrow);
    assert_true(router_as_of(w->router) >= tomorrow);
}

/* Deliveries move T on while the source is away; that the source has been read so far nobody says.
 */
static void test_what_is_caught_up_stands_still_while_the_slot_reader_is_away(void **state)
{
    struct world *w = *state;
    greet_both(w);
    struct receiver_ops reader = router_receiver(w->router);
    char user[32];
    struct event e = event_for(0, user);
    assert_true(router_caught_up(w->router) == T0); /* what the workers knew */
    reader.idle(reader.ctx, 150, T0);
    (void)reader.drained(reader.ctx);
    w->now += US_PER_SECOND;
    (void)reader.drained(reader.ctx);
    assert_true(router_caught_up(w->router) == T0 + US_PER_SECOND);
    w->now += US_PER_HOUR;
    assert_int_equal(
        router_event(w->router, SOURCE_INBOX, &e, (struct position){1, 0}, w->now, NULL),
        STATUS_OK);
    (void)router_drained(w->router);
    assert_true(router_as_of(w->router) == w->now);
    assert_true(router_caught_up(w->router) == T0 + US_PER_SECOND);
    /* It is back, and reads what was committed a while ago. */
    (void)reader.drained(reader.ctx);
    assert_true(router_caught_up(w->router) == T0);
    assert_int_equal(reader.commit(reader.ctx, 208, T0 + US_PER_MINUTE, NULL), STATUS_OK);
    (void)reader.drained(reader.ctx);
    assert_true(router_caught_up(w->router) == T0 + US_PER_MINUTE);
    assert_true(router_as_of(w->router) == w->now);
    reader.idle(reader.ctx, 900, w->now);
    assert_true(router_caught_up(w->router) == w->now);
}

/* ---- at the same time ---- */

#define THREAD_EVENTS 4000

struct both {
    struct world *w;
    struct router *router;
    atomic_bool stop;
    uint64_t seen[SOURCE_COUNT][LIMIT_PARTITIONS]; /* pseq, by the worker of the partition */
};

struct hand {
    struct both *both;
    enum source source;
    uint32_t worker;
};

/* Gives the source's events to users of both workers, and goes on when it is told to begin again.
 */
static void *producer(void *arg)
{
    struct hand *hand = arg;
    struct router *r = hand->both->router;
    char users[2][32];
    struct event e[2] = {event_for(0, users[0]), event_for(1, users[1])};
    for (uint64_t i = 1; i <= THREAD_EVENTS;) {
        enum status st = router_event(r, hand->source, &e[i % 2], (struct position){i, 0},
                                      clock_wall_us(&clock_real), NULL);
        if (!st && router_commit(r, hand->source, i, 0, NULL) == STATUS_OK)
            i++;
        else
            (void)router_drained(r);
    }
    while (router_durable(r, hand->source) < THREAD_EVENTS)
        ;
    return NULL;
}

/* Takes the frames of one worker, demands that numbers are dense, and acknowledges. */
static void *consumer(void *arg)
{
    struct hand *hand = arg;
    struct both *b = hand->both;
    struct frame_reader reader;
    bool ok = frame_reader_init(&reader) == STATUS_OK;
    while (ok && !atomic_load(&b->stop)) {
        struct str bytes;
        struct frame_header h = {0};
        enum status st = link_receive(b->w->down[hand->worker], 10, &bytes, NULL);
        if (st == STATUS_AGAIN)
            continue;
        ok = !st && frame_open(&reader, bytes, &h, NULL) == STATUS_OK;
        for (uint32_t i = 0; ok && i < h.n; i++) {
            struct frame_event f;
            ok = frame_next_event(&reader, &f, NULL) == STATUS_OK &&
                 f.pseq == ++b->seen[f.source][f.partition];
        }
        struct frame_header up = {.kind = FRAME_ACK, .number = h.number};
        up.covered[0] = h.covered[0];
        up.covered[1] = h.covered[1];
        struct buf out;
        buf_init(&out, 256);
        ok = ok && frame_put_header(&out, &up) == STATUS_OK &&
             link_send(b->w->down[hand->worker], (struct str){out.data, out.len}, STR(""), 1000,
                       NULL) == STATUS_OK;
        buf_deinit(&out);
        router_expect(b->router, hand->worker);
    }
    frame_reader_deinit(&reader);
    return ok ? arg : NULL;
}

static void test_both_give_at_the_same_time(void **state)
{
    struct world *w = *state;
    struct both both = {.w = w};
    struct router_config rc = {2, w->up, &clock_real};
    assert_int_equal(router_new(&rc, &both.router, NULL), STATUS_OK);
    for (uint32_t i = 0; i < 2; i++) {
        struct frame_header h = {.kind = FRAME_HELLO};
        worker_send(w, i, &h, NULL);
    }
    assert_int_equal(router_handshake(both.router, 30 * US_PER_SECOND, NULL), STATUS_OK);
    struct hand hands[4] = {{&both, SOURCE_POSTGRES, 0},
                            {&both, SOURCE_INBOX, 0},
                            {&both, SOURCE_POSTGRES, 0},
                            {&both, SOURCE_POSTGRES, 1}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, i < 2 ? producer : consumer, &hands[i]),
                         0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    atomic_store(&both.stop, true);
    for (int i = 2; i < 4; i++) {
        void *ok = NULL;
        assert_int_equal(pthread_join(threads[i], &ok), 0);
        assert_non_null(ok);
    }
    for (int s = 0; s < SOURCE_COUNT; s++) {
        uint64_t n = 0;
        for (uint32_t p = 0; p < LIMIT_PARTITIONS; p++)
            n += both.seen[s][p];
        assert_int_equal(n, THREAD_EVENTS);
    }
    router_free(both.router);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_each_source_has_its_own_positions_and_numbers),
        TEST(test_what_is_covered_of_one_source_says_nothing_about_the_other),
        TEST(test_a_gap_takes_both_sources_back_each_in_its_time),
        TEST(test_the_day_changes_for_the_inbox_while_the_slot_reader_is_away),
        TEST(test_what_is_caught_up_stands_still_while_the_slot_reader_is_away),
        TEST(test_both_give_at_the_same_time),
    };
    return cmocka_run_group_tests_name("pipeline/router_sources", tests, NULL, NULL);
}
