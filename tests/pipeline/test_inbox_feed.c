/*
 * tests/pipeline/test_inbox_feed.c - what comes by the slot and what comes by the inbox makes the
 * same rows, whichever road it took, and wherever the process dies. Method: every run is a child
 * process with a real inbox, a real router and real workers; this thread is the slot, which begins
 * again at its first event, and the sender, who repeats every delivery. Then the rows are compared
 * with those of a run that had everything from the slot.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/hash.h"
#include "core/log.h"
#include "pipeline/inbox_feed.h"
#include "pipeline/route.h"
#include "pipeline/worker.h"
#include "router_rig.h"
#include "tests/state/store_support.h"

#define EVENTS   600
#define STEP     (10 * US_PER_SECOND)
#define END      (T0 + 4 * US_PER_HOUR) /* of the same day */
#define DELIVERY 5                      /* events at most, in one */
#define ROUND    40                     /* events, before all of them are waited for */
#define LSN(i)   (1000 + (lsn_t)(i)*10)

/* ---- what happens ---- */

struct said {
    char id[24], user[16], text[96];
    struct event e;
};

/* Every change of an id takes the road of the id. */
static int first_of(int i)
{
    return i % 10 == 3 ? i - 3 : i % 10 == 7 ? i - 5 : i % 10 == 9 ? i - 1 : i;
}

/* The i-th event: of one of 7 users and 2 bots. Of ten, one edits, one deletes, one creates a
 * memory that the next one reads, and one is a point of the bot's. */
static void make_event(int i, struct said *s)
{
    static const char *const words[] = {"garden", "tomato", "guitar", "travel", "recipe"};
    int of = first_of(i);
    snprintf(s->id, sizeof(s->id), "m%d", of);
    snprintf(s->user, sizeof(s->user), "user-%d", of / 10 % 7);
    snprintf(s->text, sizeof(s->text), "%s and %s%d, %s?", words[i % 5], words[i / 5 % 5], i % 11,
             words[i * 3 % 5]);
    s->e = (struct event){
        .type = EVENT_MESSAGE,
        .id = str_from(s->id),
        .user_id = str_from(s->user),
        .bot_name = of / 10 % 2 ? STR("elena") : STR("marcus"),
        .at_us = T0 + of * STEP,
        .u.message = {.role = of % 3 ? ROLE_USER : ROLE_BOT,
                      .op = of == i ? MESSAGE_INSERT : MESSAGE_UPDATE,
                      .content = str_from(s->text),
                      .emotion_confidence = __builtin_nan("")},
    };
    if (i % 10 == 7) {
        s->e.type = EVENT_MESSAGE_DELETED;
    } else if (i % 10 == 8 || i % 10 == 9) {
        s->e.type = EVENT_MEMORY;
        s->e.u.memory = (struct event_memory){.op = i % 10 == 8 ? MEMORY_CREATE : MEMORY_ACCESS,
                                              .memory_id = str_from(s->id),
                                              .score = 0.5,
                                              .importance = 0.5,
                                              .content = str_from(s->text)};
        snprintf(s->text, sizeof(s->text), "a%d", i);
        if (i % 10 == 9)
            s->e.id = str_from(s->text);
    } else if (i % 10 == 5) {
        s->e.type = EVENT_METRIC;
        s->e.u.metric =
            (struct event_metric){.measurement = STR("conversation_quality"), .n_fields = 1};
        s->e.u.metric.fields[0].name = STR("engagement_score");
        s->e.u.metric.fields[0].value = 0.5 + i % 7 / 100.0;
    }
}

enum roads { SLOT_ONLY, EITHER, BOTH };
static enum roads roads;
static uint32_t n_workers;

static bool by_inbox(int i)
{
    return roads == BOTH || (roads == EITHER && first_of(i) / 2 % 2);
}

static bool by_slot(int i)
{
    return roads == BOTH || !by_inbox(i);
}

/* ---- a whole pipeline ---- */

static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    (void)ctx;
    (void)table;
    (void)bot;
    return (struct trigger_policy){.max_age_us = INT64_MAX / 4};
}

static struct partition_config config(uint32_t worker, struct store *store)
{
    return (struct partition_config){
        .worker = worker,
        .workers = n_workers,
        .store = store,
        .sink = sink_port_closed,
        .policy = policy,
        .memory_max = SIZE_MAX / 4,
        .catch_up_lag_us = INT64_MAX / 4,
        .epoch = 1,
    };
}

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

/* Wakers come from threads that outlive the feed. */
static pthread_mutex_t feed_lock = PTHREAD_MUTEX_INITIALIZER;

struct life {
    struct store *stores[LIMIT_WORKERS];
    struct link *links[LIMIT_WORKERS];
    struct worker *workers[LIMIT_WORKERS];
    struct router *router;
    struct inbox *inbox;
    struct inbox_feed *feed; /* under feed_lock */
    atomic_bool begin;
    atomic_int unanswered;
};

static struct inbox_feed *exchange_feed(struct life *l, struct inbox_feed *feed)
{
    pthread_mutex_lock(&feed_lock);
    struct inbox_feed *before = l->feed;
    l->feed = feed;
    pthread_mutex_unlock(&feed_lock);
    return before;
}

static void wake_feed(struct life *l)
{
    pthread_mutex_lock(&feed_lock);
    inbox_feed_wake(l->feed);
    pthread_mutex_unlock(&feed_lock);
}

static void stored(void *ctx, uint64_t id)
{
    (void)id;
    wake_feed(ctx);
}

static void acked(void *ctx, uint32_t worker)
{
    struct life *l = ctx;
    router_expect(l->router, worker);
    wake_feed(l);
}

static void nap(void)
{
    (void)nanosleep(&(struct timespec){0, 200000}, NULL);
}

static void start_workers(struct life *l)
{
    static char url[LIMIT_WORKERS][64];
    static int serial;
    serial++;
    for (uint32_t i = 0; i < n_workers; i++) {
        snprintf(url[i], sizeof(url[i]), "inproc://inbox-feed-%d-%d-%u", (int)getpid(), serial, i);
        MUST(link_listen(url[i], &l->links[i], &err));
    }
    struct router_config rc = {n_workers, l->links, &clock_real};
    MUST(router_new(&rc, &l->router, &err));
    for (uint32_t i = 0; i < n_workers; i++) {
        struct worker_config wc = {
            .partition = config(i, l->stores[i]),
            .url = url[i],
            .clock = &clock_real,
            .acked = acked,
            .acked_ctx = l,
        };
        MUST(worker_start(&wc, &l->workers[i], &err));
    }
}

static struct inbox_seen seen_by(struct life *l)
{
    struct inbox_seen seen = {UINT64_MAX, 0};
    for (uint32_t i = 0; i < n_workers; i++) {
        uint64_t covered = store_covered_inbox(l->stores[i]);
        uint64_t newest = store_newest_inbox(l->stores[i]);
        seen.covered = covered < seen.covered ? covered : seen.covered;
        seen.newest = newest > seen.newest ? newest : seen.newest;
    }
    return seen;
}

static void open_life(const char *dir, struct life *l)
{
    log_set_level(LOG_ERROR);
    *l = (struct life){.inbox = NULL};
    must_open(dir, n_workers, 1, l->stores);
    struct inbox_seen seen = seen_by(l);
    struct inbox_config ic = {.dir = dir,
                              .clock = &clock_real,
                              .commit_delay_us = 1000,
                              .keep_ids_us = 7 * US_PER_DAY,
                              .bytes_max = 1u << 30,
                              .applied = seen.newest,
                              .stored = stored,
                              .stored_ctx = l};
    MUST(inbox_open(&ic, &l->inbox, &err));
    MUST(inbox_feed_fit(l->inbox, seen, &err));
    start_workers(l);
    struct inbox_feed_config fc = {l->inbox, l->router, &l->begin, &clock_real};
    struct inbox_feed *feed = NULL;
    MUST(inbox_feed_start(&fc, &feed, &err));
    exchange_feed(l, feed);
}

static void begin(struct life *l)
{
    MUST(router_handshake(l->router, 30 * US_PER_SECOND, &err));
    atomic_store(&l->begin, true);
    wake_feed(l);
}

static void close_life(struct life *l)
{
    inbox_feed_stop(exchange_feed(l, NULL));
    for (uint32_t i = 0; i < n_workers; i++)
        worker_halt(l->workers[i]);
    for (uint32_t i = 0; i < n_workers; i++)
        MUST(worker_stop(l->workers[i], &err));
    router_free(l->router);
    for (uint32_t i = 0; i < n_workers; i++)
        link_close(l->links[i]);
    inbox_close(l->inbox);
    close_stores(l->stores, n_workers);
}

/* ---- the sender and the slot ---- */

static void answered(void *ctx, enum inbox_outcome outcome)
{
    if (outcome == INBOX_FAILED)
        _exit(1);
    atomic_fetch_sub(&((struct life *)ctx)->unanswered, 1);
}

static void submit(struct life *l, const char *id, struct str events, uint32_t n, int64_t at_us)
{
    struct inbox_delivery d = {.source = STR("app"),
                               .id = str_from(id),
                               .received_us = at_us,
                               .events = events,
                               .n_events = n};
    atomic_fetch_add(&l->unanswered, 1);
    MUST(inbox_submit(l->inbox, &d, answered, l, &err));
}

struct sender {
    struct buf events, scratch;
    uint32_t n;
    int next; /* number of the delivery */
    int64_t at_us;
};

static void flush(struct life *l, struct sender *s)
{
    char id[24];
    snprintf(id, sizeof(id), "d%d", s->next++);
    if (s->n)
        submit(l, id, (struct str){s->events.data, s->events.len}, s->n, s->at_us);
    buf_reset(&s->events);
    s->n = 0;
}

static void send_event(struct life *l, struct sender *s, int i, const struct event *e)
{
    buf_reset(&s->scratch);
    MUST(event_encode(e, &s->scratch, &err));
    MUST(buf_put_bytes(&s->events, (struct str){s->scratch.data, s->scratch.len}));
    s->n++;
    s->at_us = T0 + i * STEP;
    if (s->n == DELIVERY)
        flush(l, s);
}

static void slot_event(struct life *l, int i, const struct event *e)
{
    struct error err = {0};
    enum status st = STATUS_AGAIN;
    int64_t at_us = T0 + i * STEP;
    while (st == STATUS_AGAIN) {
        st = router_event(l->router, SOURCE_POSTGRES, e, (struct position){LSN(i), 0}, at_us, &err);
        if (st == STATUS_AGAIN)
            (void)router_drained(l->router);
    }
    if (!st)
        st = router_commit(l->router, SOURCE_POSTGRES, LSN(i) + 5, at_us, &err);
    if (st) {
        fprintf(stderr, "event %d: %s\n", i, err.text);
        _exit(1);
    }
}

/* Everything up to the i-th event. */
static void wait_durable(struct life *l, int i)
{
    MUST(router_commit(l->router, SOURCE_POSTGRES, LSN(i) + 5, T0, &err));
    while (atomic_load(&l->unanswered) > 0)
        nap();
    while (router_durable(l->router, SOURCE_POSTGRES) < LSN(i) + 5)
        nap();
    while (inbox_feed_view(l->feed).durable < inbox_newest(l->inbox)) {
        MUST(inbox_feed_health(l->feed, &err));
        nap();
    }
}

/* One life of the process: until everything is durable. */
static void live(const char *dir)
{
    struct life *l = calloc(1, sizeof(*l));
    struct sender s = {.n = 0};
    buf_init(&s.events, 1 << 20);
    buf_init(&s.scratch, 1 << 20);
    open_life(dir, l);
    begin(l);
    for (int i = 0; i < EVENTS; i++) {
        struct said said;
        make_event(i, &said);
        if (by_inbox(i))
            send_event(l, &s, i, &said.e);
        if (by_slot(i))
            slot_event(l, i, &said.e);
        if ((i + 1) % ROUND)
            continue;
        flush(l, &s);
        wait_durable(l, i);
    }
    close_life(l);
    buf_deinit(&s.events);
    buf_deinit(&s.scratch);
    free(l);
}

/* ---- what is there afterwards ---- */

struct lines {
    char *line[256];
    size_t n;
};

static enum status add_rows(void *ctx, struct key *key, struct error *err)
{
    struct lines *out = ctx;
    for (int t = 0; t < TABLE_COUNT; t++) {
        enum status st = key_advance(key, END, err);
        if (st)
            return st;
        if (!key_has_row(key, (enum table_id)t))
            continue;
        struct row row;
        row_init(&row, &tables[t]);
        struct buf text;
        buf_init(&text, 1 << 20);
        st = key_emit(key, (enum table_id)t, END, &row, err);
        st = st ? st : buf_printf(&text, "%s ", tables[t].name);
        st = st ? st : row_to_json(&row, &text);
        st = st ? st : buf_put_u8(&text, 0);
        row_deinit(&row);
        if (st)
            return st;
        assert_true(out->n < sizeof(out->line) / sizeof(out->line[0]));
        out->line[out->n++] = text.data;
    }
    return STATUS_OK;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static uint64_t letters; /* in the state that was looked at last */

static struct lines look(const char *dir)
{
    struct store *stores[LIMIT_WORKERS];
    struct lines lines = {.n = 0};
    letters = 0;
    must_open(dir, n_workers, 1, stores);
    for (uint32_t i = 0; i < n_workers; i++) {
        struct partition_config cfg = config(i, stores[i]);
        struct partition *p = NULL;
        struct error err = {0};
        if (partition_open(&cfg, END, &p, &err) || partition_each_key(p, add_rows, &lines, &err))
            fail_msg("%s", err.text);
        partition_close(p);
        letters += store_dead_letters(stores[i]).n;
    }
    close_stores(stores, n_workers);
    qsort(lines.line, lines.n, sizeof(lines.line[0]), compare_lines);
    return lines;
}

static void forget(struct lines *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->line[i]);
}

static struct lines expected;

static void expect_same(const char *dir, const char *what)
{
    struct lines got = look(dir);
    for (size_t i = 0; i < got.n && i < expected.n; i++)
        if (strcmp(got.line[i], expected.line[i]) != 0)
            fail_msg("%s: expected\n%s\ngot\n%s", what, expected.line[i], got.line[i]);
    assert_int_equal(got.n, expected.n);
    forget(&got);
}

/* ---- frame ---- */

static int group_setup(void **state)
{
    (void)state;
    struct scratch s;
    scratch_make(&s);
    n_workers = 1;
    roads = SLOT_ONLY;
    assert_false(run_child(NULL, live, s.state));
    expected = look(s.state);
    scratch_remove(&s);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    forget(&expected);
    return 0;
}

static int setup(void **state)
{
    struct scratch *s = malloc(sizeof(*s));
    assert_non_null(s);
    scratch_make(s);
    n_workers = 2;
    roads = EITHER;
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

static void test_rows_are_the_same_whichever_road_events_take(void **state)
{
    assert_true(expected.n > 20);
    for (n_workers = 1; n_workers <= 3; n_workers++) {
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), "either road");
        /* Everything once more, by the same deliveries and by the slot. */
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), "repeated");
        start_over(state);
    }
}

static void test_what_comes_by_both_roads_counts_once(void **state)
{
    roads = BOTH;
    assert_false(run_child(NULL, live, dir_of(state)));
    expect_same(dir_of(state), "both roads");
}

static const char *const points[] = {
    "frame_before_send",   "frame_after_send",    "frame_applied",
    "store_before_commit", "store_after_commit",  "ack_before_send",
    "ack_after_send",      "inbox_before_commit", "inbox_after_commit",
};

/* Under a sanitizer, where everything takes many times as long, each point dies once. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static void die_at_every_point(void **state, int step)
{
    for (size_t p = 0; p < sizeof(points) / sizeof(points[0]); p++)
        for (int n = SANITIZED ? 1 + (int)p : 1; n <= 9; n += SANITIZED ? 9 : step) {
            char spec[64];
            snprintf(spec, sizeof(spec), "%s:%d:abort", points[p], n);
            must_be_killed(spec, live, dir_of(state));
            /* And perhaps once more, elsewhere, before it is allowed to come to its end. */
            (void)run_child(n % 2 ? "frame_applied:2:abort" : "store_after_commit:2:abort", live,
                            dir_of(state));
            assert_false(run_child(NULL, live, dir_of(state)));
            expect_same(dir_of(state), spec);
            start_over(state);
        }
}

static void test_dying_anywhere_counts_everything_once(void **state)
{
    die_at_every_point(state, 3);
}

static void test_dying_anywhere_with_everything_on_both_roads(void **state)
{
    roads = BOTH;
    die_at_every_point(state, 4);
}

/* ---- what cannot be used ---- */

static const char garbage[] = "\x93\x01garbage";

static void live_with_garbage(const char *dir)
{
    struct life *l = calloc(1, sizeof(*l));
    struct buf events, one;
    buf_init(&events, 1 << 20);
    buf_init(&one, 1 << 20);
    open_life(dir, l);
    begin(l);
    for (int i = 0; i < 3; i++) {
        struct said said;
        make_event(i, &said);
        buf_reset(&one);
        MUST(event_encode(&said.e, &one, &err));
        MUST(buf_put_bytes(&events, i == 1 ? STR(garbage) : (struct str){one.data, one.len}));
    }
    submit(l, "broken", (struct str){events.data, events.len}, 3, T0);
    while (atomic_load(&l->unanswered) > 0 ||
           inbox_feed_view(l->feed).durable < inbox_newest(l->inbox))
        nap();
    MUST(inbox_feed_health(l->feed, &err));
    close_life(l);
    buf_deinit(&events);
    buf_deinit(&one);
    free(l);
}

static enum status expect_garbage(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    (void)ctx;
    (void)err;
    assert_int_equal(d->source, SOURCE_INBOX);
    assert_int_equal(d->pos.lsn, 1);
    assert_int_equal(d->pos.seq, 1 << 8);
    assert_true(str_equal(d->where, STR("inbox:app")));
    assert_true(str_equal(d->bytes, STR(garbage)));
    return STATUS_OK;
}

static void test_an_event_that_cannot_be_read_is_a_dead_letter_and_stops_nothing(void **state)
{
    for (int i = 0; i < 2; i++) {
        assert_false(run_child(NULL, live_with_garbage, dir_of(state)));
        struct lines got = look(dir_of(state));
        assert_int_equal(letters, 1);
        assert_true(got.n > 0); /* of what stood around it */
        forget(&got);
    }
    assert_int_equal(store_dead_letters_read(dir_of(state), expect_garbage, NULL, NULL), STATUS_OK);
}

/* ---- an inbox and a state that do not belong together ---- */

static void remove_inbox(const char *dir)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < 3; i++) {
        char path[160];
        snprintf(path, sizeof(path), "%s/inbox.db%s", dir, suffixes[i]);
        (void)unlink(path);
    }
}

/* By itself: in this process there must be no links, which do not survive a fork. */
static struct inbox *open_inbox(const char *dir)
{
    struct inbox_config ic = {.dir = dir,
                              .clock = &clock_real,
                              .commit_delay_us = 1000,
                              .keep_ids_us = US_PER_DAY,
                              .bytes_max = 1u << 30};
    struct error err = {0};
    struct inbox *b = NULL;
    if (inbox_open(&ic, &b, &err))
        fail_msg("%s", err.text);
    return b;
}

static uint64_t newest_of(const char *dir)
{
    CLEANUP(inbox_closep) struct inbox *b = open_inbox(dir);
    return inbox_newest(b);
}

/* Until none of its rows is left; returns the newest id that it has given. */
static uint64_t empty_inbox(const char *dir)
{
    CLEANUP(inbox_closep) struct inbox *b = open_inbox(dir);
    inbox_trim(b, inbox_newest(b));
    for (int i = 0; i < 300000 && inbox_view(b).bytes > 0; i++)
        nap();
    assert_int_equal(inbox_view(b).bytes, 0);
    return inbox_newest(b);
}

/* Its ids go on above those that the workers would skip, and what is repeated counts once. */
static void test_an_inbox_that_was_lost_goes_on_above_what_the_state_has_seen(void **state)
{
    assert_false(run_child(NULL, live, dir_of(state)));
    uint64_t before = newest_of(dir_of(state));
    assert_true(before > 50);
    remove_inbox(dir_of(state));
    assert_false(run_child(NULL, live, dir_of(state)));
    assert_true(newest_of(dir_of(state)) >= 2 * before);
    expect_same(dir_of(state), "lost inbox");
}

/* The workers have seen rows that one of them has not, and the file that held them is gone. */
static void test_rows_in_flight_may_go_with_the_inbox_but_the_rest_goes_on(void **state)
{
    must_be_killed("store_after_commit:9:abort", live, dir_of(state));
    remove_inbox(dir_of(state));
    assert_false(run_child(NULL, live, dir_of(state)));
    expect_same(dir_of(state), "lost inbox with rows in flight");
}

static void test_a_state_that_is_older_than_its_inbox_is_refused(void **state)
{
    assert_false(run_child(NULL, live, dir_of(state)));
    struct error err = {0};
    CLEANUP(inbox_closep) struct inbox *b = open_inbox(dir_of(state));
    uint64_t newest = inbox_newest(b);
    inbox_trim(b, newest);
    assert_int_equal(inbox_feed_fit(b, (struct inbox_seen){newest, newest}, &err), STATUS_OK);
    /* A new state takes what is there. */
    assert_int_equal(inbox_feed_fit(b, (struct inbox_seen){0, 0}, &err), STATUS_OK);
    assert_int_equal(inbox_feed_fit(b, (struct inbox_seen){newest - 9, newest - 3}, &err),
                     STATUS_REFUSED);
    assert_non_null(strstr(err.text, "older copy of the state"));
    assert_non_null(strstr(err.text, "move inbox.db away"));
}

/* What a state that began anew finds: rows up to some id are gone with the old state, and that is
 * no gap. The first life without the old state has nothing to read but new rows. */
static void test_a_new_state_goes_on_with_the_inbox_of_the_old_one(void **state)
{
    assert_false(run_child(NULL, live, dir_of(state)));
    uint64_t before = empty_inbox(dir_of(state));
    char command[256];
    (void)snprintf(command, sizeof(command), "rm -r %s/CURRENT %s/set-*", dir_of(state),
                   dir_of(state));
    assert_int_equal(system(command), 0);
    roads = SLOT_ONLY;
    for (int i = 0; i < 2; i++) {
        assert_false(run_child(NULL, live, dir_of(state)));
        expect_same(dir_of(state), "new state");
    }
    assert_int_equal(newest_of(dir_of(state)), before);
}

/* ---- by itself ---- */

/* Nobody but the feed touches the router: the slot reader waits for PostgreSQL. */
static void live_without_the_slot(const char *dir)
{
    struct life *l = calloc(1, sizeof(*l));
    struct sender s = {.n = 0};
    buf_init(&s.events, 1 << 20);
    buf_init(&s.scratch, 1 << 20);
    open_life(dir, l);
    MUST(router_handshake(l->router, 30 * US_PER_SECOND, &err));
    for (int i = 0; i < EVENTS; i++) {
        struct said said;
        make_event(i, &said);
        send_event(l, &s, i, &said.e);
    }
    flush(l, &s);
    while (atomic_load(&l->unanswered) > 0)
        nap();
    for (int i = 0; i < 100; i++)
        nap();
    /* It may be written to, but nothing is given before it has begun. */
    if (inbox_feed_view(l->feed).given != 0)
        _exit(2);
    atomic_store(&l->begin, true);
    while (inbox_feed_view(l->feed).durable < inbox_newest(l->inbox))
        nap();
    if (inbox_view(l->inbox).trimmed != inbox_newest(l->inbox))
        _exit(3);
    close_life(l);
    buf_deinit(&s.events);
    buf_deinit(&s.scratch);
    free(l);
}

/* Takes a frame of the worker's, if there is one. The first with events is lost; whatever follows
 * does not count before frame 1, which must begin with the first event again. */
static void pretend_worker(struct world *w, uint32_t worker, int *lost)
{
    struct frame_header h = {.n = 0};
    struct frame_event f = {.pseq = 0};
    if (link_receive(w->down[worker], 5, &w->frame, NULL))
        return;
    MUST(frame_open(&w->reader, w->frame, &h, &err));
    if (h.n && *lost == 0) {
        struct frame_header up = {.kind = FRAME_REWIND, .as_of_us = T0, .covered = {100}};
        *lost = 1;
        worker_send(w, worker, &up, NULL);
        return;
    }
    if (*lost == 1 && h.number != 1)
        return;
    if (*lost == 1)
        *lost = 2;
    for (uint32_t i = 0; i < h.n; i++) {
        MUST(frame_next_event(&w->reader, &f, &err));
        if (f.source != SOURCE_INBOX || f.pos.lsn != 1 || f.pos.seq != (f.pseq - 1) << 8)
            _exit(2);
    }
    struct frame_header up = {.kind = FRAME_ACK, .number = h.number};
    up.covered[SOURCE_POSTGRES] = h.covered[SOURCE_POSTGRES];
    up.covered[SOURCE_INBOX] = *lost == 0 ? 0 : h.covered[SOURCE_INBOX];
    worker_send(w, worker, &up, NULL);
}

/* Three events of one user, of which a worker misses the first frame. */
static void live_with_a_gap(const char *dir)
{
    struct life *l = calloc(1, sizeof(*l));
    void *rig = NULL;
    if (rig_setup(&rig))
        _exit(1);
    struct world *w = rig;
    router_free(w->router); /* this one needs time that passes */
    struct router_config rc = {2, w->up, &clock_real};
    MUST(router_new(&rc, &w->router, &err));
    greet_both(w);
    struct inbox_config ic = {.dir = dir,
                              .clock = &clock_real,
                              .keep_ids_us = US_PER_DAY,
                              .bytes_max = 1u << 30,
                              .stored = stored,
                              .stored_ctx = l};
    MUST(inbox_open(&ic, &l->inbox, &err));
    struct inbox_feed_config fc = {l->inbox, w->router, &l->begin, &clock_real};
    struct inbox_feed *feed = NULL;
    atomic_store(&l->begin, true);
    MUST(inbox_feed_start(&fc, &feed, &err));
    exchange_feed(l, feed);
    struct sender s = {.n = 0};
    buf_init(&s.events, 1 << 20);
    buf_init(&s.scratch, 1 << 20);
    char user[32];
    struct event e = event_for(0, user);
    for (int i = 0; i < 3; i++)
        send_event(l, &s, i, &e);
    flush(l, &s);
    int lost[2] = {0, 2};
    while (inbox_feed_view(feed).durable < 1) {
        MUST(inbox_feed_health(feed, &err));
        for (uint32_t i = 0; i < 2; i++)
            pretend_worker(w, i, &lost[i]);
    }
    if (lost[0] != 2 || inbox_view(l->inbox).trimmed != 1)
        _exit(3);
    inbox_feed_stop(exchange_feed(l, NULL));
    inbox_close(l->inbox);
    rig_teardown(&rig);
    buf_deinit(&s.events);
    buf_deinit(&s.scratch);
    free(l);
}

static void test_rows_are_given_again_when_a_worker_misses_a_frame(void **state)
{
    assert_false(run_child(NULL, live_with_a_gap, dir_of(state)));
}

static void test_rows_move_on_while_the_slot_reader_is_away(void **state)
{
    assert_false(run_child(NULL, live_without_the_slot, dir_of(state)));
    expect_same(dir_of(state), "inbox alone");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rows_are_the_same_whichever_road_events_take),
        TEST(test_what_comes_by_both_roads_counts_once),
        TEST(test_dying_anywhere_counts_everything_once),
        TEST(test_dying_anywhere_with_everything_on_both_roads),
        TEST(test_an_event_that_cannot_be_read_is_a_dead_letter_and_stops_nothing),
        TEST(test_an_inbox_that_was_lost_goes_on_above_what_the_state_has_seen),
        TEST(test_rows_in_flight_may_go_with_the_inbox_but_the_rest_goes_on),
        TEST(test_a_state_that_is_older_than_its_inbox_is_refused),
        TEST(test_a_new_state_goes_on_with_the_inbox_of_the_old_one),
        TEST(test_rows_are_given_again_when_a_worker_misses_a_frame),
        TEST(test_rows_move_on_while_the_slot_reader_is_away),
    };
    return cmocka_run_group_tests_name("pipeline/inbox_feed", tests, group_setup, group_teardown);
}
