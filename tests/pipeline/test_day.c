/*
 * tests/pipeline/test_day.c - a router and real workers over several midnights: the epochs are the
 * same to the byte whatever the number of workers, the memory they may use, and wherever the
 * process dies. Method: every run is a child process, so that it can be killed at a fault point and
 * begun again; then the directories are compared.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/hash.h"
#include "core/log.h"
#include "engines/kernels.h"
#include "pipeline/route.h"
#include "pipeline/router.h"
#include "pipeline/worker.h"
#include "state/fault.h"
#include "tests/state/store_support.h"

#define T0     (INT64_C(1767600000) * US_PER_SECOND) /* 2026-01-05 08:00 */
#define EVENTS 400
#define STEP   (15 * 60 * US_PER_SECOND) /* 400 events: 4 days and 4 hours */
#define DAY0   kernel_day(T0)
/* A worker's hint may be ahead of its frame; the router is asked again after this. */
#define MAX_WAIT_US 2000
/* The last event is at 11:45 of the fifth day; then the clock goes on to the sixth. */
#define END (T0 + 5 * US_PER_DAY)

static const char *const bots[] = {"elena", "marcus", "sophia"};
#define N_BOTS (sizeof(bots) / sizeof(bots[0]))

struct said {
    char id[16], user[16], text[96];
    struct event e;
};

/* The i-th event: a message of one of 23 users to one of 3 bots. */
static void make_event(int i, struct said *s)
{
    static const char *const words[] = {"garden", "tomato", "guitar",
                                        "travel", "recipe", "football"};
    snprintf(s->id, sizeof(s->id), "m%d", i);
    snprintf(s->user, sizeof(s->user), "user-%d", i * 7 % 23);
    snprintf(s->text, sizeof(s->text), "%s and %s, or %s %d?", words[i % 6], words[i / 6 % 6],
             words[i * 5 % 6], i % 11);
    s->e = (struct event){
        .type = EVENT_MESSAGE,
        .id = str_from(s->id),
        .user_id = str_from(s->user),
        .bot_name = str_from(bots[(size_t)i % N_BOTS]),
        .at_us = T0 + i * STEP,
        .u.message = {.role = i % 4 ? ROLE_USER : ROLE_BOT,
                      .op = MESSAGE_INSERT,
                      .content = str_from(s->text),
                      .emotion_confidence = __builtin_nan("")},
    };
}

/* ---- a whole pipeline ---- */

static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    (void)ctx;
    (void)table;
    (void)bot;
    return (struct trigger_policy){.max_age_us = INT64_MAX / 4};
}

static struct partition_config config(uint32_t worker, uint32_t workers, struct store *store,
                                      size_t memory)
{
    return (struct partition_config){
        .worker = worker,
        .workers = workers,
        .store = store,
        .sink = sink_port_closed,
        .policy = policy,
        .memory_max = memory,
        .catch_up_lag_us = INT64_MAX / 4,
        .epoch = 1,
    };
}

static size_t memory_max = SIZE_MAX / 4;
static uint32_t n_workers;
static int n_events = EVENTS; /* fed by a run */

/* Children must not go on with the tests of their parent. */
#define MUST(call)                                        \
    do {                                                  \
        struct error err = {0};                           \
        enum status st_ = (call);                         \
        if (st_) {                                        \
            fprintf(stderr, "%s: %s\n", #call, err.text); \
            _exit(1);                                     \
        }                                                 \
    } while (0)

/* The router and what wakes its thread, as the slot reader has it. */
struct reader_thread {
    struct router *router;
    int wake_fd;
};

static void acked(void *ctx, uint32_t worker)
{
    struct reader_thread *t = ctx;
    router_expect(t->router, worker);
    if (eventfd_write(t->wake_fd, 1))
        _exit(1);
}

/* Until a worker has said something, or for as long as the router can wait. */
static void wait_for_worker(struct reader_thread *t)
{
    int64_t us = router_drained(t->router);
    struct timespec most = {0, 1000 * (us < MAX_WAIT_US ? us : MAX_WAIT_US)};
    struct pollfd fd = {t->wake_fd, POLLIN, 0};
    eventfd_t n;
    if (ppoll(&fd, 1, &most, NULL) == 1)
        (void)eventfd_read(t->wake_fd, &n);
}

/* Feeds the events as the slot would after a start: from the first one. */
static void feed(struct reader_thread *t)
{
    for (int i = 0; i < n_events; i++) {
        struct said s;
        make_event(i, &s);
        struct error err = {0};
        lsn_t lsn = 1000 + (lsn_t)i * 10;
        enum status st = STATUS_AGAIN;
        while (st == STATUS_AGAIN) {
            st = router_event(t->router, SOURCE_POSTGRES, &s.e, (struct position){lsn, 0},
                              s.e.at_us, &err);
            if (st == STATUS_AGAIN)
                wait_for_worker(t);
        }
        if (!st)
            st = router_commit(t->router, SOURCE_POSTGRES, lsn + 5, s.e.at_us, &err);
        if (st) {
            fprintf(stderr, "event %d: %s\n", i, err.text);
            _exit(1);
        }
    }
}

/* One life of the process: until everything is durable and the clock shows END. */
static void live(const char *dir)
{
    log_set_level(LOG_ERROR);
    struct store *stores[LIMIT_WORKERS];
    struct link *links[LIMIT_WORKERS];
    struct worker *workers[LIMIT_WORKERS];
    struct reader_thread t = {.wake_fd = eventfd(0, 0)};
    must_open(dir, n_workers, 1, stores);
    char url[LIMIT_WORKERS][64];
    for (uint32_t i = 0; i < n_workers; i++) {
        snprintf(url[i], sizeof(url[i]), "inproc://day-%d-%u", (int)getpid(), i);
        MUST(link_listen(url[i], &links[i], &err));
    }
    struct router_config rc = {n_workers, links, &clock_real};
    MUST(router_new(&rc, &t.router, &err));
    for (uint32_t i = 0; i < n_workers; i++) {
        struct worker_config wc = {
            .partition = config(i, n_workers, stores[i], memory_max / n_workers),
            .url = url[i],
            .clock = &clock_real,
            .acked = acked,
            .acked_ctx = &t,
        };
        MUST(worker_start(&wc, &workers[i], &err));
    }
    MUST(router_handshake(t.router, 10 * US_PER_SECOND, &err));
    feed(&t);
    lsn_t last = 1000 + (lsn_t)(n_events - 1) * 10 + 5;
    while (router_durable(t.router, SOURCE_POSTGRES) < last)
        wait_for_worker(&t);
    if (n_events == EVENTS) {
        router_idle(t.router, last, END);
        while (router_as_of(t.router) < END)
            wait_for_worker(&t);
        /* The last frame of the change of day is on its way. */
        for (uint32_t i = 0; i < n_workers; i++)
            while (worker_view(workers[i]).day.opened < kernel_day(END))
                wait_for_worker(&t);
    }
    for (uint32_t i = 0; i < n_workers; i++)
        worker_halt(workers[i]);
    for (uint32_t i = 0; i < n_workers; i++)
        MUST(worker_stop(workers[i], &err));
    router_free(t.router);
    for (uint32_t i = 0; i < n_workers; i++)
        link_close(links[i]);
    close_stores(stores, n_workers);
    close(t.wake_fd);
}

/* ---- what is there afterwards ---- */

struct found {
    struct buf text;
    uint64_t messages[N_BOTS][8]; /* by day since DAY0, in 16ths */
    size_t n;
};

static enum status note_epoch(void *ctx, const struct store_epoch *e, struct error *err)
{
    struct found *f = ctx;
    uint32_t v[EPOCH_CELLS];
    struct reader r = reader_of(e->bytes.ptr, e->bytes.len);
    assert_int_equal(epoch_cells_decode(&r, v, err), STATUS_OK);
    size_t bot = 0;
    while (bot < N_BOTS && !str_equal(e->bot_name, str_from(bots[bot])))
        bot++;
    assert_in_range(bot, 0, N_BOTS - 1);
    assert_in_range(e->day, DAY0 + 1, DAY0 + 7);
    f->messages[bot][e->day - DAY0] = v[EPOCH_MESSAGES];
    f->n++;
    return buf_printf(&f->text, STR_FMT " %d %llx\n", STR_ARGS(e->bot_name), (int)e->day,
                      (unsigned long long)hash64(e->bytes));
}

static void look(const char *dir, struct found *f)
{
    *f = (struct found){0};
    buf_init(&f->text, 1 << 20);
    struct error err = {0};
    int32_t opened = 0;
    if (store_epochs_read(dir, &opened, note_epoch, f, &err))
        fail_msg("%s", err.text);
    assert_int_equal(opened, kernel_day(END));
    assert_int_equal(buf_put_u8(&f->text, 0), STATUS_OK);
}

/* The epochs that one worker closes, undisturbed. */
static struct found expected;

static void expect_same(const char *dir, const char *what)
{
    struct found f;
    look(dir, &f);
    if (strcmp(f.text.data, expected.text.data) != 0)
        fail_msg("%s: expected\n%s\ngot\n%s", what, expected.text.data, f.text.data);
    buf_deinit(&f.text);
}

static int group_setup(void **state)
{
    (void)state;
    struct scratch s;
    scratch_make(&s);
    n_workers = 1;
    assert_false(run_child(NULL, live, s.state));
    look(s.state, &expected);
    scratch_remove(&s);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    buf_deinit(&expected.text);
    return 0;
}

static int setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));
    assert_non_null(s);
    scratch_make(s);
    memory_max = SIZE_MAX / 4;
    n_events = EVENTS;
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    scratch_remove(*state);
    free(*state);
    return 0;
}

static const char *dir_of(void **state)
{
    return ((struct scratch *)*state)->state;
}

static void start_over(void **state)
{
    scratch_remove(*state);
    scratch_make(*state);
}

/* ---- the tests ---- */

/* Counted by hand: 16 for a message of yesterday, and what was there before, less a thirtieth. */
static void test_an_epoch_counts_every_message_of_its_day_once(void **state)
{
    (void)state;
    assert_int_equal(expected.n, 5 * N_BOTS);
    for (size_t b = 0; b < N_BOTS; b++) {
        uint64_t v = 0;
        for (int day = 1; day <= 5; day++) {
            uint64_t n = 0;
            for (int i = 0; i < EVENTS; i++)
                n += (size_t)i % N_BOTS == b && kernel_day(T0 + i * STEP) == DAY0 + day - 1;
            v = v - (v + 29) / 30 + 16 * n;
            assert_int_equal(expected.messages[b][day], v);
        }
    }
}

static void test_the_number_of_workers_changes_nothing(void **state)
{
    for (n_workers = 2; n_workers <= 5; n_workers += 1 + (n_workers == 3)) {
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), "workers");
        start_over(state);
    }
}

/* Less than one key: every commit writes pages, and with them what their bots have learned. */
static void test_keys_that_do_not_fit_into_memory_teach_all_the_same(void **state)
{
    n_workers = 2;
    memory_max = 1000;
    assert_false(run_child(NULL, live, dir_of(state)));
    expect_same(dir_of(state), "paging");
}

static void test_stopping_in_the_middle_of_days_changes_nothing(void **state)
{
    n_workers = 2;
    for (n_events = 50; n_events < EVENTS; n_events += 90)
        assert_false(run_child(NULL, live, dir_of(state)));
    n_events = EVENTS;
    assert_false(run_child(NULL, live, dir_of(state)));
    expect_same(dir_of(state), "stops");
}

static void test_dying_anywhere_changes_nothing(void **state)
{
    static const char *const points[] = {
        "day_before_close",    "day_closed",         "day_before_open", "day_opened",
        "store_before_commit", "store_after_commit", "frame_applied",
    };
    n_workers = 3;
    int killed = 0;
    for (size_t p = 0; p < sizeof(points) / sizeof(points[0]); p++)
        for (int n = 1; n <= 13; n += p < 4 ? 1 : 3) {
            char spec[64];
            snprintf(spec, sizeof(spec), "%s:%d:abort", points[p], n);
            killed += run_child(spec, live, dir_of(state));
            assert_false(run_child(NULL, live, dir_of(state)));
            expect_same(dir_of(state), spec);
            start_over(state);
        }
    assert_true(killed >= 60); /* of 67: most of the points are passed that often */
}

/* With pages of keys written all the time, so that journal, pages and sums are out of step. */
static void test_dying_while_paging_changes_nothing(void **state)
{
    n_workers = 2;
    memory_max = 1000;
    for (int n = 2; n <= 40; n += 4) {
        char spec[64];
        snprintf(spec, sizeof(spec), "store_after_commit:%d:abort", n);
        (void)run_child(spec, live, dir_of(state));
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), spec);
        start_over(state);
    }
}

/* As startup.c does it. */
static void fold(const char *dir)
{
    struct store *stores[LIMIT_WORKERS];
    must_open(dir, n_workers, 1, stores);
    for (uint32_t i = 0; i < n_workers; i++) {
        struct partition_config cfg = config(i, n_workers, stores[i], memory_max);
        struct partition *p = NULL;
        MUST(partition_open(&cfg, T0, &p, &err));
        MUST(partition_fold_all(p, T0, &err));
        partition_close(p);
    }
    close_stores(stores, n_workers);
}

static void test_another_number_of_workers_takes_over_in_the_middle_of_a_change_of_day(void **state)
{
    static const char *const specs[] = {
        "day_closed:1:abort", "day_closed:5:abort", "day_before_open:4:abort",
        "day_opened:4:abort", "day_opened:8:abort", "store_after_commit:20:abort",
    };
    struct error err = {0};
    for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
        n_workers = 3;
        must_be_killed(specs[i], live, dir_of(state));
        assert_false(run_child(NULL, fold, dir_of(state)));
        n_workers = i % 2 ? 5 : 2;
        if (store_set_respread(dir_of(state), n_workers, &err))
            fail_msg("%s", err.text);
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), specs[i]);
        start_over(state);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_an_epoch_counts_every_message_of_its_day_once),
        TEST(test_the_number_of_workers_changes_nothing),
        TEST(test_keys_that_do_not_fit_into_memory_teach_all_the_same),
        TEST(test_stopping_in_the_middle_of_days_changes_nothing),
        TEST(test_dying_anywhere_changes_nothing),
        TEST(test_dying_while_paging_changes_nothing),
        TEST(test_another_number_of_workers_takes_over_in_the_middle_of_a_change_of_day),
    };
    return cmocka_run_group_tests_name("pipeline/day", tests, group_setup, group_teardown);
}
