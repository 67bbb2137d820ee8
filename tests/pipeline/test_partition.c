/*
 * tests/pipeline/test_partition.c - the partition worker on a real store, with time, sink and
 * crashes in the test's hands: what is durable, what is visible, and that a crash at any point
 * counts every event exactly once.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/counters.h"
#include "core/hash.h"
#include "core/metrics.h"
#include "engines/oracle/oracle.h"
#include "pipeline/partition.h"
#include "pipeline/route.h"

#define T0        (INT64_C(1767600000) * US_PER_SECOND)
#define TAKEN_MAX 4096

/* A sink that keeps what it is given, in PostgreSQL's place: newest version wins. */
struct fake_sink {
    size_t room;
    bool silent; /* takes rows but never answers */
    struct sink_item taken[TAKEN_MAX];
    size_t n_taken;
    size_t n_answered;
};

struct world {
    char dir[64];
    struct store *store;
    struct partition *p;
    struct fake_sink sink;
    struct oracle *oracle;
    uint64_t pseq[LIMIT_PARTITIONS];
    uint64_t lsn;
    uint64_t epoch;
    size_t memory_max;
    struct trigger_policy policy; /* of every table; max_age_us 0: as policy() says */
    int64_t catch_up_lag_us;
    int64_t now;
};

static size_t fake_room(void *ctx)
{
    return ((struct fake_sink *)ctx)->room;
}

static enum status fake_submit(void *ctx, struct sink_item *items, size_t n)
{
    struct fake_sink *s = ctx;
    assert_true(s->n_taken + n <= TAKEN_MAX);
    memcpy(&s->taken[s->n_taken], items, n * sizeof(*items));
    s->n_taken += n;
    return STATUS_OK;
}

static size_t fake_poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    struct fake_sink *s = ctx;
    size_t n = 0;
    while (!s->silent && s->n_answered < s->n_taken && n < max) {
        const struct sink_item *i = &s->taken[s->n_answered++];
        out[n++] = (struct sink_result){
            .key_id = i->key_id,
            .worker = worker,
            .table = i->table,
            .row_version = i->row.row_version,
            .payload_hash = i->payload_hash,
            .outcome = i->touch ? SINK_TOUCHED : SINK_WRITTEN,
        };
    }
    return n;
}

/* Rows of one table are enough to see when rows leave, however many tables messages fill. */
static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    const struct world *w = ctx;
    (void)bot;
    if (w->policy.max_age_us)
        return w->policy;
    if (table != TABLE_CONVERSATION_PATTERNS)
        return (struct trigger_policy){.max_age_us = 365 * US_PER_DAY, .warm_us = US_PER_HOUR};
    return (struct trigger_policy){
        .count = 5, .max_age_us = 10 * US_PER_SECOND, .idle_us = 2 * US_PER_SECOND};
}

static void open_world(struct world *w)
{
    struct error err = {0};
    struct store_identity id = {.pipeline = "test", .partitions = LIMIT_PARTITIONS};
    bool fresh = false;
    w->epoch++;
    if (store_set_open(w->dir, 1, w->epoch, &id, &fresh, &w->store, &err))
        fail_msg("%s", err.text);
    struct partition_config cfg = {
        .workers = 1,
        .store = w->store,
        .sink = {fake_room, fake_submit, fake_poll, &w->sink},
        .policy = policy,
        .policy_ctx = w,
        .memory_max = w->memory_max,
        .catch_up_lag_us = w->catch_up_lag_us,
        .epoch = w->epoch,
    };
    if (partition_open(&cfg, w->now, &w->p, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++)
        w->pseq[i] = partition_applied(w->p, SOURCE_POSTGRES, i).pseq;
}

/* What kill -9 leaves: nothing but the files. (Closing the handle adds nothing durable.) */
static void crash(struct world *w)
{
    partition_close(w->p);
    store_close(w->store);
    w->p = NULL;
    w->store = NULL;
    /* Whatever the sink had not answered for is never answered. */
    w->sink.n_answered = w->sink.n_taken;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    snprintf(w->dir, sizeof(w->dir), "/tmp/warmpath-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    w->sink.room = TAKEN_MAX;
    w->memory_max = SIZE_MAX / 4;
    w->now = T0;
    w->catch_up_lag_us = INT64_MAX / 4;
    assert_int_equal(oracle_new(&w->oracle, NULL), STATUS_OK);
    open_world(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    crash(w);
    for (size_t i = 0; i < w->sink.n_taken; i++)
        row_deinit(&w->sink.taken[i].row);
    oracle_free(w->oracle);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

static struct event message(const char *id, const char *user, const char *text, int64_t at)
{
    return (struct event){
        .type = EVENT_MESSAGE,
        .id = str_from(id),
        .user_id = str_from(user),
        .bot_name = STR("elena"),
        .at_us = at,
        .u.message = {.role = ROLE_USER,
                      .op = MESSAGE_INSERT,
                      .content = str_from(text),
                      .emotion_confidence = __builtin_nan("")},
    };
}

static uint32_t partition_of(const struct event *e)
{
    return (uint32_t)(hash64(e->user_id) % LIMIT_PARTITIONS);
}

/* Delivers an event with the next position, as ingest does. */
static void deliver_to(struct world *w, const struct event *e, uint32_t part)
{
    struct frame_event f = {
        .partition = part,
        .pseq = ++w->pseq[part],
        .pos = {++w->lsn, 0},
        .commit_us = w->now,
        .as_of_us = w->now,
    };
    struct error err = {0};
    if (partition_apply(w->p, &f, e, w->now, &err))
        fail_msg("%s", err.text);
}

static void deliver(struct world *w, const struct event *e)
{
    deliver_to(w, e, partition_of(e));
}

static void say(struct world *w, const char *user, const char *text)
{
    char id[32];
    snprintf(id, sizeof(id), "m%" PRIu64, w->lsn + 1);
    struct event e = message(id, user, text, w->now);
    deliver(w, &e);
    assert_int_equal(oracle_add(w->oracle, &e, SOURCE_POSTGRES, w->lsn, w->now, NULL), STATUS_OK);
}

static void tick(struct world *w)
{
    struct error err = {0};
    if (partition_tick(w->p, w->now, &err))
        fail_msg("%s", err.text);
}

static void commit(struct world *w)
{
    struct error err = {0};
    if (partition_commit(w->p, w->now, &err))
        fail_msg("%s", err.text);
}

static void settle(struct world *w)
{
    tick(w);
    commit(w);
    tick(w);
    commit(w);
}

/* The newest row of a user, as PostgreSQL would hold it. */
static const struct row *newest_row(const struct world *w, const char *user, enum table_id table)
{
    const struct row *best = NULL;
    for (size_t i = 0; i < w->sink.n_taken; i++) {
        const struct sink_item *item = &w->sink.taken[i];
        if (item->table != table || item->touch || !str_equal(row_user(&item->row), str_from(user)))
            continue;
        if (!best || item->row.row_version > best->row_version)
            best = &item->row;
    }
    return best;
}

static void assert_row_is_the_oracles(struct world *w, const char *user)
{
    const struct row *got = newest_row(w, user, TABLE_CONVERSATION_PATTERNS);
    assert_non_null(got);
    struct row expected;
    row_init(&expected, &tables[TABLE_CONVERSATION_PATTERNS]);
    struct error err = {0};
    if (oracle_row(w->oracle, TABLE_CONVERSATION_PATTERNS, str_from(user), STR("elena"),
                   got->as_of_us, &expected, &err))
        fail_msg("%s", err.text);
    struct buf a;
    struct buf b;
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    assert_int_equal(row_to_json(got, &a), STATUS_OK);
    assert_int_equal(row_to_json(&expected, &b), STATUS_OK);
    assert_int_equal(buf_put_u8(&a, 0), STATUS_OK);
    assert_int_equal(buf_put_u8(&b, 0), STATUS_OK);
    assert_string_equal(a.data, b.data);
    buf_deinit(&a);
    buf_deinit(&b);
    row_deinit(&expected);
}

static void test_a_row_leaves_only_after_the_commit(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 5; i++)
        say(w, "ann", "hello there my friend");
    tick(w);
    assert_int_equal(w->sink.n_taken, 0); /* due, but not durable yet */
    commit(w);
    assert_int_equal(w->sink.n_taken, 1);
    assert_string_equal(w->sink.taken[0].reason, "count");
    assert_row_is_the_oracles(w, "ann");
}

/* ---- a bot's own key ---- */

struct counted {
    size_t n_keys;
    size_t users_messages, bots_messages;
    size_t bots_points;
};

static enum status count_key(void *ctx, struct key *key, struct error *err)
{
    struct counted *c = ctx;
    const struct key_log *log = key_log(key);
    (void)err;
    c->n_keys++;
    if (log->user_id.len) {
        c->users_messages += log->n_messages;
    } else {
        c->bots_messages += log->n_messages;
        c->bots_points += key_has_row(key, TABLE_PERFORMANCE_24H);
    }
    return STATUS_OK;
}

static struct counted count_keys(struct world *w)
{
    struct counted c = {0};
    struct error err = {0};
    if (partition_each_key(w->p, count_key, &c, &err))
        fail_msg("%s", err.text);
    return c;
}

/* A user who lives where the bot does. */
static const char *neighbour_of_elena(void)
{
    static char user[16];
    for (int i = 0;; i++) {
        (void)snprintf(user, sizeof(user), "user-%d", i);
        if (route_home(str_from(user), STR("elena")) == route_home(STR_NULL, STR("elena")))
            return user;
    }
}

/* To every partition that the router would send it to. */
static void route(struct world *w, struct event *e)
{
    struct route r = route_event(e);
    w->lsn++;
    for (uint32_t i = 0; i < r.n; i++) {
        uint32_t to = route_at(&r, i);
        struct frame_event f = {.partition = to,
                                .pseq = ++w->pseq[to],
                                .pos = {w->lsn, 0},
                                .commit_us = w->now,
                                .as_of_us = w->now};
        assert_int_equal(partition_apply(w->p, &f, e, w->now, NULL), STATUS_OK);
    }
}

/* What the bot says is applied to the user's key and to the bot's, in one partition or in two; what
 * the user says only to the user's; an edit that takes the bot's words away reaches both. */
static void test_messages_of_the_bot_reach_its_own_key(void **state)
{
    struct world *w = *state;
    const char *users[] = {neighbour_of_elena(), "ann"};
    assert_true(route_home(STR("ann"), STR("elena")) != route_home(STR_NULL, STR("elena")));
    for (size_t i = 0; i < 2; i++) {
        struct event e = message("same id", users[i], "hello", w->now);
        route(w, &e);
        e.u.message.role = ROLE_BOT;
        e.id = STR("answer");
        route(w, &e);
        struct counted c = count_keys(w);
        assert_int_equal(c.users_messages, 2 * (i + 1));
        assert_int_equal(c.bots_messages, i + 1);
    }
    commit(w);
    crash(w);
    open_world(w);
    assert_int_equal(count_keys(w).bots_messages, 2);
    struct event e = message("answer", "ann", "hello", w->now);
    e.u.message.op = MESSAGE_UPDATE;
    route(w, &e);
    assert_int_equal(count_keys(w).bots_messages, 1);
    e = (struct event){.type = EVENT_MESSAGE_DELETED,
                       .id = STR("answer"),
                       .at_us = w->now,
                       .bot_name = STR("elena"),
                       .user_id = str_from(users[0])};
    route(w, &e);
    struct counted c = count_keys(w);
    assert_int_equal(c.bots_messages, 0);
    assert_int_equal(c.users_messages, 3);
}

/* With or without a user, a metric is the bot's; one that nobody knows makes no key; one out of
 * range is a dead letter and nothing else. */
static void test_metrics_go_to_the_bots_key(void **state)
{
    struct world *w = *state;
    struct event e = {.type = EVENT_METRIC,
                      .id = STR("p"),
                      .bot_name = STR("elena"),
                      .user_id = STR("ann"),
                      .at_us = w->now};
    e.u.metric.measurement = STR("weather");
    e.u.metric.n_fields = 1;
    e.u.metric.fields[0].name = STR("engagement_score");
    e.u.metric.fields[0].value = .5;
    route(w, &e);
    assert_int_equal(count_keys(w).n_keys, 0);
    e.u.metric.measurement = STR("conversation_quality");
    e.u.metric.fields[0].value = 7;
    uint64_t letters = metric_total(METRIC_DEAD_LETTERS);
    route(w, &e);
    assert_int_equal(metric_total(METRIC_DEAD_LETTERS), letters + 1);
    assert_int_equal(count_keys(w).bots_points, 0);
    e.u.metric.fields[0].value = .5;
    route(w, &e);
    struct counted c = count_keys(w);
    assert_int_equal(c.n_keys, 1);
    assert_int_equal(c.bots_points, 1);
}

/* Rows due by the wall clock come no later for it, whether their key is in memory or paged out. */
static void test_a_clock_that_is_set_back_freezes_no_timer(void **state)
{
    struct world *w = *state;
    for (int paged_out = 0; paged_out < 2; paged_out++) {
        size_t before = w->sink.n_taken;
        say(w, "ann", "hello");
        tick(w);
        if (paged_out) {
            crash(w);
            w->memory_max = 1;
            open_world(w);
            say(w, "ann", "hello"); /* the first is gone with the crash */
            tick(w);
        }
        commit(w);
        if (paged_out) {
            commit(w);
            assert_int_equal(partition_view(w->p).keys, 0);
        }
        w->now -= US_PER_HOUR;
        for (int s = 0; s < 25 && w->sink.n_taken == before; s++) {
            w->now += US_PER_SECOND;
            settle(w);
        }
        assert_true(w->sink.n_taken > before);
    }
}

static void test_an_event_seen_before_is_dropped(void **state)
{
    struct world *w = *state;
    say(w, "ann", "one two three");
    struct event e = message("m1", "ann", "one two three", w->now);
    struct frame_event f = {.partition = partition_of(&e),
                            .pseq = 1,
                            .pos = {1, 0},
                            .commit_us = w->now,
                            .as_of_us = w->now};
    assert_int_equal(partition_apply(w->p, &f, &e, w->now, NULL), STATUS_OK);
    assert_int_equal(partition_view(w->p).uncommitted, 1);
}

static void test_a_gap_in_the_numbers_asks_for_a_rewind(void **state)
{
    struct world *w = *state;
    struct event e = message("m1", "ann", "one two three", w->now);
    struct frame_event f = {.partition = partition_of(&e),
                            .pseq = 2,
                            .pos = {1, 0},
                            .commit_us = w->now,
                            .as_of_us = w->now};
    assert_int_equal(partition_apply(w->p, &f, &e, w->now, NULL), STATUS_AGAIN);
    assert_int_equal(partition_view(w->p).uncommitted, 0);
}

static void test_what_was_not_committed_is_gone_after_a_crash(void **state)
{
    struct world *w = *state;
    say(w, "ann", "kept");
    commit(w);
    struct event lost = message("m2", "ann", "lost", w->now);
    deliver(w, &lost);
    crash(w);
    open_world(w);
    uint32_t part = partition_of(&lost);
    assert_int_equal(partition_applied(w->p, SOURCE_POSTGRES, part).pseq, 1);
    assert_int_equal(partition_applied(w->p, SOURCE_POSTGRES, part).pos.lsn, 1);
}

/* The slot sends it again, and it counts once. */
static void test_rows_after_a_crash_equal_the_oracles(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 12; i++) {
        say(w, "ann", i % 2 ? "tell me about the garden?" : "the roses need water today!");
        commit(w);
        w->now += US_PER_SECOND / 4;
        crash(w);
        open_world(w);
    }
    w->now += 11 * US_PER_SECOND;
    settle(w);
    assert_row_is_the_oracles(w, "ann");
    assert_int_equal(newest_row(w, "ann", TABLE_CONVERSATION_PATTERNS)->event_count, 12);
}

static void test_a_timer_survives_a_crash_and_fires_without_input(void **state)
{
    struct world *w = *state;
    say(w, "ann", "one message only");
    commit(w);
    crash(w);
    open_world(w);
    tick(w);
    commit(w);
    assert_int_equal(w->sink.n_taken, 0);
    w->now += 2 * US_PER_SECOND;
    settle(w);
    assert_row_is_the_oracles(w, "ann");
    assert_string_equal(w->sink.taken[0].reason, "idle");
}

/* The same when the journal has been folded: the page alone remembers the row. */
static void test_a_row_without_an_answer_is_sent_again_from_its_page(void **state)
{
    struct world *w = *state;
    w->sink.silent = true;
    for (int i = 0; i < 5; i++)
        say(w, "ann", "hello hello");
    settle(w);
    assert_int_equal(w->sink.n_taken, 1);
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    crash(w);
    w->sink.silent = false;
    open_world(w);
    settle(w);
    assert_int_equal(w->sink.n_taken, 2);
    assert_row_is_the_oracles(w, "ann");
    settle(w);
    crash(w);
    open_world(w);
    settle(w);
    assert_int_equal(w->sink.n_taken, 2);
}

/* The journal holds key and table: the row is computed again, in a newer version. */
static void test_a_row_without_an_answer_is_sent_again_after_a_crash(void **state)
{
    struct world *w = *state;
    w->sink.silent = true;
    for (int i = 0; i < 5; i++)
        say(w, "ann", "hello hello");
    settle(w);
    assert_int_equal(w->sink.n_taken, 1);
    uint64_t version = w->sink.taken[0].row.row_version;
    crash(w);
    w->sink.silent = false;
    open_world(w);
    settle(w);
    assert_int_equal(w->sink.n_taken, 2);
    assert_true(w->sink.taken[1].row.row_version > version);
    assert_row_is_the_oracles(w, "ann");
}

/* The newest of what was sent of one table. */
static const struct sink_item *newest_item(const struct world *w)
{
    size_t i = w->sink.n_taken;
    while (i > 0 && w->sink.taken[i - 1].table != TABLE_CONVERSATION_PATTERNS)
        i--;
    assert_true(i > 0);
    return &w->sink.taken[i - 1];
}

/* Ann's sixth message comes and goes, and PostgreSQL may hold the row with six messages, or that
 * with five: which of the two is not known. Returns the hash of the row with five. */
static uint64_t change_and_back(struct world *w, bool crash_between)
{
    for (int i = 0; i < 5; i++)
        say(w, "ann", "hello hello");
    settle(w);
    uint64_t five = newest_item(w)->payload_hash;
    w->sink.silent = true;
    struct event e = message("sixth", "ann", "hello hello", w->now);
    deliver(w, &e);
    w->now += 3 * US_PER_SECOND;
    settle(w);
    assert_true(newest_item(w)->payload_hash != five);
    if (crash_between) {
        crash(w);
        open_world(w);
    }
    e = (struct event){.type = EVENT_MESSAGE_DELETED,
                       .id = STR("sixth"),
                       .at_us = w->now,
                       .bot_name = STR("elena"),
                       .user_id = STR("ann")};
    deliver(w, &e);
    w->now += 11 * US_PER_SECOND;
    settle(w);
    return five;
}

static void test_a_row_that_is_as_before_is_sent_whole_while_another_is_on_its_way(void **state)
{
    struct world *w = *state;
    uint64_t five = change_and_back(w, false);
    assert_int_equal(newest_item(w)->payload_hash, five);
    assert_false(newest_item(w)->touch);
}

static void test_the_same_after_a_crash_from_journal_and_page(void **state)
{
    struct world *w = *state;
    uint64_t five = change_and_back(w, true);
    assert_int_equal(newest_item(w)->payload_hash, five);
    assert_false(newest_item(w)->touch);
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    crash(w);
    size_t n = w->sink.n_taken;
    open_world(w);
    settle(w);
    assert_true(w->sink.n_taken > n);
    assert_int_equal(newest_item(w)->payload_hash, five);
    assert_false(newest_item(w)->touch);
}

static void test_an_answered_row_is_not_sent_again(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 5; i++)
        say(w, "ann", "hello hello");
    settle(w);
    assert_int_equal(w->sink.n_taken, 1);
    crash(w);
    open_world(w);
    settle(w);
    assert_int_equal(w->sink.n_taken, 1);
}

/* A minute without PostgreSQL: one entry a key, computed from the newest state when it is back. */
static void test_a_sink_without_room_holds_keys_not_rows(void **state)
{
    struct world *w = *state;
    w->sink.room = 0;
    for (int i = 0; i < 60; i++) {
        say(w, "ann", "is anybody there?");
        say(w, "ben", "still waiting");
        w->now += US_PER_SECOND;
        settle(w);
    }
    assert_int_equal(w->sink.n_taken, 0);
    assert_true(partition_view(w->p).queued);
    w->sink.room = TAKEN_MAX;
    settle(w);
    assert_int_equal(w->sink.n_taken, 2);
    assert_row_is_the_oracles(w, "ann");
    assert_row_is_the_oracles(w, "ben");
}

static void test_cold_keys_leave_memory_and_come_back_exact(void **state)
{
    struct world *w = *state;
    crash(w);
    w->memory_max = 64 << 10;
    open_world(w);
    char user[16];
    for (int round = 0; round < 4; round++)
        for (int u = 0; u < 300; u++) {
            snprintf(user, sizeof(user), "user%d", u);
            say(w, user, round % 2 ? "and what then, dear?" : "once upon a time there was a fox");
            if (u % 50 == 0)
                settle(w);
        }
    w->now += 20 * US_PER_SECOND;
    settle(w);
    struct partition_view v = partition_view(w->p);
    assert_true(v.keys < 300);
    for (int i = 0; i < 20; i++)
        settle(w);
    for (int u = 0; u < 300; u += 7) {
        snprintf(user, sizeof(user), "user%d", u);
        assert_row_is_the_oracles(w, user);
    }
}

static void test_folding_everything_changes_nothing(void **state)
{
    struct world *w = *state;
    for (int i = 0; i < 4; i++)
        say(w, "ann", "before the fold");
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    assert_int_equal(store_journal_bytes(w->store), 0);
    crash(w);
    open_world(w);
    say(w, "ann", "after the fold");
    settle(w);
    assert_row_is_the_oracles(w, "ann");
    assert_int_equal(newest_row(w, "ann", TABLE_CONVERSATION_PATTERNS)->event_count, 5);
}

static void test_an_event_that_cannot_be_used_is_kept_and_blocks_nothing(void **state)
{
    struct world *w = *state;
    struct event far = message("m1", "ann", "from the year 2300", T0 + 300 * 365 * US_PER_DAY);
    deliver(w, &far);
    say(w, "ann", "still alive");
    w->now += 3 * US_PER_SECOND;
    settle(w);
    assert_int_equal(store_dead_letters(w->store).n, 1);
    assert_row_is_the_oracles(w, "ann");
}

static void test_the_covered_position_moves_only_with_a_commit(void **state)
{
    struct world *w = *state;
    partition_covered(w->p, (const uint64_t[]){500, 7}, w->now);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_POSTGRES], 0);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_INBOX], 0);
    assert_true(partition_view(w->p).lazy);
    commit(w);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_POSTGRES], 500);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_INBOX], 7);
    crash(w);
    open_world(w);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_POSTGRES], 500);
    assert_int_equal(partition_view(w->p).covered_durable[SOURCE_INBOX], 7);
}

/* ---- requests ---- */

static struct event request_of(enum request_op op, const char *user, const char *bot, int64_t at)
{
    return (struct event){
        .type = EVENT_REQUEST,
        .id = STR("r"),
        .user_id = str_from(user),
        .bot_name = str_from(bot),
        .at_us = at,
        .u.request = {.op = op},
    };
}

static void ask(struct world *w, enum request_op op, const char *user, const char *bot, int64_t at)
{
    struct event e = request_of(op, user, bot, at);
    deliver(w, &e);
}

static void say_to(struct world *w, const char *user, const char *bot)
{
    char id[32];
    snprintf(id, sizeof(id), "m%" PRIu64, w->lsn + 1);
    struct event e = message(id, user, "hello, who is there?", w->now);
    e.bot_name = str_from(bot);
    deliver(w, &e);
}

/* The newest item of a key and table; NULL = none. */
static const struct sink_item *newest_answer(const struct world *w, const char *user,
                                             const char *bot)
{
    const struct sink_item *best = NULL;
    for (size_t i = 0; i < w->sink.n_taken; i++) {
        const struct sink_item *item = &w->sink.taken[i];
        if (item->table == TABLE_CONVERSATION_PATTERNS &&
            str_equal(row_user(&item->row), str_from(user)) &&
            str_equal(row_bot(&item->row), str_from(bot)) &&
            (!best || item->row.row_version > best->row.row_version))
            best = item;
    }
    return best;
}

static void assert_answered(const struct world *w, const char *user, const char *bot,
                            const char *reason, int64_t cleared_us)
{
    const struct sink_item *item = newest_answer(w, user, bot);
    assert_non_null(item);
    assert_string_equal(item->reason, reason);
    assert_false(item->touch);
    assert_int_equal(item->cleared_us, cleared_us);
}

static void test_an_invalidated_key_is_computed_at_once_and_clears_its_token(void **state)
{
    struct world *w = *state;
    say(w, "ann", "hello there my friend");
    w->now += 3 * US_PER_SECOND;
    settle(w);
    assert_answered(w, "ann", "elena", "idle", T0); /* it begins: nothing older concerns it */
    say(w, "ann", "this was wrong");
    ask(w, REQUEST_INVALIDATE, "ann", "elena", w->now - 5);
    settle(w);
    assert_answered(w, "ann", "elena", "invalidate", w->now - 5);
    assert_row_is_the_oracles(w, "ann");
    /* The answer is known: what follows clears nothing, since there is nothing to clear. */
    for (int i = 0; i < 5; i++)
        say(w, "ann", "and so on");
    settle(w);
    assert_answered(w, "ann", "elena", "count", 0);
}

/* The answer for a row that was computed before the request arrives after it: what PostgreSQL holds
 * since then is invalid, and the next row must clear that, also when it says something new. */
static void test_an_answer_that_crosses_a_request_does_not_hide_it(void **state)
{
    struct world *w = *state;
    say(w, "ann", "hello there my friend");
    w->now += 3 * US_PER_SECOND;
    settle(w);
    for (int flushed = 0; flushed < 2; flushed++) {
        w->sink.silent = true;
        for (int i = 0; i < 5; i++)
            say(w, "ann", "and so on");
        tick(w);
        commit(w); /* on its way */
        say(w, "ann", "something new");
        ask(w, REQUEST_INVALIDATE, "ann", "elena", w->now + flushed);
        if (flushed) /* before the answer comes, or by the same tick behind it */
            tick(w);
        w->sink.silent = false;
        tick(w);
        commit(w);
        assert_answered(w, "ann", "elena", "invalidate", w->now + flushed);
        settle(w);
    }
}

static void test_a_request_without_a_key_makes_none(void **state)
{
    struct world *w = *state;
    ask(w, REQUEST_INVALIDATE, "nobody", "elena", w->now);
    ask(w, REQUEST_RECOMPUTE, "nobody", "", w->now);
    settle(w);
    assert_int_equal(w->sink.n_taken, 0);
    assert_int_equal(count_keys(w).n_keys, 0);
}

/* The token of a request that was applied but whose row was lost with the process. */
static void test_a_token_survives_a_crash_in_the_journal_and_in_a_page(void **state)
{
    struct world *w = *state;
    int64_t token = T0 + 7;
    say(w, "ann", "hello there my friend");
    w->now += 3 * US_PER_SECOND;
    settle(w);
    for (int folded = 0; folded < 2; folded++) {
        ask(w, REQUEST_INVALIDATE, "ann", "elena", ++token);
        w->sink.room = 0;
        commit(w); /* applied and durable, not even flushed */
        if (folded)
            assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
        crash(w);
        w->sink.room = TAKEN_MAX;
        open_world(w);
        settle(w);
        assert_answered(w, "ann", "elena", "invalidate", token);
        w->sink.silent = true;
        ask(w, REQUEST_INVALIDATE, "ann", "elena", ++token);
        settle(w); /* handed over, never answered */
        if (folded)
            assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
        crash(w);
        w->sink.silent = false;
        open_world(w);
        settle(w);
        assert_answered(w, "ann", "elena", "stop", token);
        settle(w);
    }
}

/* Some are held, some only in the journal, some only in their page. */
static void test_what_names_no_bot_concerns_every_key_of_the_user(void **state)
{
    static const char *const bots[] = {"elena", "marcus", "jake"};
    struct world *w = *state;
    say_to(w, "ann", "elena");
    say_to(w, "ann", "marcus");
    say_to(w, "anna", "elena");
    w->now += 3 * US_PER_SECOND;
    settle(w);
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    crash(w); /* the first two have a page, and are not held */
    open_world(w);
    assert_int_equal(partition_view(w->p).keys, 0);
    say_to(w, "ann", "elena"); /* a page, and held */
    say_to(w, "ann", "jake");  /* in the journal alone */
    ask(w, REQUEST_INVALIDATE, "ann", "", w->now);
    settle(w);
    for (int i = 0; i < 3; i++)
        assert_answered(w, "ann", bots[i], "invalidate", w->now);
    assert_string_equal(newest_answer(w, "anna", "elena")->reason, "idle");
    assert_int_equal(count_keys(w).n_keys, 4);
}

/* It is journaled for each key, so that a crash changes nothing. */
static void test_a_wish_without_a_bot_is_every_keys(void **state)
{
    struct world *w = *state;
    say_to(w, "ann", "elena");
    say_to(w, "ann", "marcus");
    commit(w);
    struct event wish = {
        .type = EVENT_PRIVACY,
        .id = STR("w"),
        .user_id = STR("ann"),
        .bot_name = STR(""),
        .at_us = w->now,
        .u.privacy = {.op = PRIVACY_OPTOUT},
    };
    deliver(w, &wish);
    commit(w);
    /* And one without a bot, which keeps it for those to come. */
    assert_int_equal(partition_figures(w->p).read[ENGINE_USER][RECORD_PRIVACY], 3);
    assert_int_equal(count_keys(w).n_keys, 3);
}

static void assert_says_opted_out(struct world *w, const char *bot, bool opted_out)
{
    say_to(w, "ann", bot);
    assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
    commit(w);
    const struct sink_item *item = NULL;
    for (size_t i = w->sink.n_taken; i-- > 0 && !item;)
        if (w->sink.taken[i].table == TABLE_ENGAGEMENT_OPPORTUNITIES &&
            str_equal(row_bot(&w->sink.taken[i].row), str_from(bot)))
            item = &w->sink.taken[i];
    assert_true(item && item->opted_out == opted_out && item->told == opted_out);
    settle(w);
}

/* Whatever happened in between: a crash, pages, a page of the wish alone. */
static void test_a_key_born_later_knows_what_its_user_wishes_of_every_bot(void **state)
{
    struct world *w = *state;
    assert_says_opted_out(w, "early", false);
    struct event wish = {
        .type = EVENT_PRIVACY,
        .id = STR("w"),
        .user_id = STR("ann"),
        .bot_name = STR(""),
        .at_us = w->now,
        .u.privacy = {.op = PRIVACY_OPTOUT},
    };
    deliver(w, &wish);
    commit(w);
    assert_says_opted_out(w, "elena", true);
    crash(w);
    open_world(w);
    assert_says_opted_out(w, "marcus", true);
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    crash(w);
    open_world(w);
    assert_says_opted_out(w, "dream", true);
    crash(w); /* of which only the journal knows */
    open_world(w);
    assert_says_opted_out(w, "dream", true);
    assert_says_opted_out(w, "early", true);
}

static const struct sink_item *newest_profile(const struct world *w, const char *user)
{
    for (size_t i = w->sink.n_taken; i-- > 0;)
        if (w->sink.taken[i].table == TABLE_PERSONALITY_PROFILES &&
            str_equal(row_user(&w->sink.taken[i].row), str_from(user)))
            return &w->sink.taken[i];
    return NULL;
}

/* The profile of who is talking follows at once and brings the definition with it; it is not
 * computed again for what was said before. */
static void test_a_new_character_makes_the_profiles_of_those_who_talk_due(void **state)
{
    struct world *w = *state;
    say_to(w, "ann", "elena");
    assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
    settle(w);
    size_t before = w->sink.n_taken;
    struct event c = {.type = EVENT_CHARACTER,
                      .id = STR("c"),
                      .bot_name = STR("elena"),
                      .at_us = w->now,
                      .u.character = {.version = 2}};
    deliver_to(w, &c, route_home(STR("ann"), STR("elena")));
    commit(w);
    const struct sink_item *item = newest_profile(w, "ann");
    assert_true(item >= w->sink.taken + before);
    assert_true(item && strcmp(item->reason, "character") == 0);
    assert_true(item && item->character.defined_us == w->now && item->character.version == 2);
    settle(w);
    before = w->sink.n_taken;
    c.at_us += 1;
    deliver_to(w, &c, route_home(STR("ann"), STR("elena")));
    commit(w);
    assert_int_equal(w->sink.n_taken, before);
}

/* Without a metric there is no row of the bot, but the change goes out. */
static void test_a_bots_own_key_tells_the_sink_its_character(void **state)
{
    struct world *w = *state;
    struct event c = {.type = EVENT_CHARACTER,
                      .id = STR("c"),
                      .bot_name = STR("elena"),
                      .at_us = w->now,
                      .u.character = {.version = 2}};
    deliver_to(w, &c, route_home(STR_NULL, STR("elena")));
    tick(w);
    commit(w);
    assert_true(w->sink.n_taken > 0);
    const struct sink_item *item = &w->sink.taken[w->sink.n_taken - 1];
    assert_string_equal(item->reason, "retraction");
    assert_int_equal(item->character.version, 2);
}

/* ---- renewal ahead ---- */

static const struct trigger_policy kept_alive = {
    .count = 5,
    .max_age_us = 120 * US_PER_SECOND,
    .idle_us = 2 * US_PER_SECOND,
    .refresh_us = 210 * US_PER_SECOND,
    .warm_us = 30 * US_PER_MINUTE,
    .recent_us = US_PER_DAY,
};

/* Lets time pass as a worker does, timer by timer. */
static void live_until(struct world *w, int64_t until)
{
    for (;;) {
        int64_t next = partition_view(w->p).next_us;
        if (next > until)
            break;
        w->now = next > w->now ? next : w->now;
        uint64_t covered[SOURCE_COUNT] = {w->lsn, 0};
        partition_covered(w->p, covered, w->now);
        settle(w);
    }
    w->now = until;
}

enum interruption { NONE, FROM_JOURNAL, FROM_PAGE };

/* A conversation and the day after it, with a crash in every hour. */
static void live_a_day(struct world *w, enum interruption by)
{
    w->policy = kept_alive;
    say(w, "ann", "is it the right time to plant tomatoes");
    settle(w);
    for (int hour = 0; hour < 26; hour++) {
        live_until(w, T0 + hour * US_PER_HOUR + 40 * US_PER_MINUTE);
        if (by == NONE)
            continue;
        if (by == FROM_PAGE)
            assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
        crash(w);
        open_world(w);
    }
    assert_true(partition_view(w->p).next_us == TRIGGER_NEVER); /* after a day it is left alone */
}

/* Timers are state: the same rows become due at the same time, for the same reason. */
static void test_timers_of_a_quiet_key_survive_in_journal_and_page(void **state)
{
    struct world *plain = *state;
    live_a_day(plain, NONE);
    bool seen[FLUSH_REASONS] = {false};
    for (enum interruption by = FROM_JOURNAL; by <= FROM_PAGE; by++) {
        void *other = NULL;
        assert_int_equal(setup(&other), 0);
        struct world *w = other;
        live_a_day(w, by);
        assert_int_equal(w->sink.n_taken, plain->sink.n_taken);
        for (size_t i = 0; i < w->sink.n_taken; i++) {
            const struct sink_item *a = &w->sink.taken[i], *b = &plain->sink.taken[i];
            assert_int_equal(a->table, b->table);
            assert_int_equal(a->row.as_of_us, b->row.as_of_us);
            assert_string_equal(a->reason, b->reason);
            for (enum flush_reason r = 0; r < FLUSH_REASONS; r++)
                seen[r] |= strcmp(a->reason, flush_reason_name(r)) == 0;
        }
        assert_int_equal(teardown(&other), 0);
    }
    assert_true(seen[FLUSH_WAKE] && seen[FLUSH_REFRESH] && seen[FLUSH_VALIDITY] &&
                seen[FLUSH_VISIT]);
}

/* At any moment of the first day its rows hold, and they are not written all the time for it.
 */
static void test_rows_of_a_recent_key_always_hold(void **state)
{
    struct world *w = *state;
    w->policy = kept_alive;
    for (int i = 0; i < 12; i++) {
        say(w, "ann", i % 2 ? "what about beans" : "the soil is wet");
        live_until(w, w->now + 40 * US_PER_SECOND);
    }
    int64_t end = w->now + 23 * US_PER_HOUR;
    for (; w->now < end; live_until(w, w->now + US_PER_MINUTE)) {
        const struct row *row = newest_row(w, "ann", TABLE_ENGAGEMENT_OPPORTUNITIES);
        assert_true(row->as_of_us + 5 * US_PER_MINUTE > w->now ||
                    row->valid_until_us + 5 * US_PER_SECOND > w->now);
    }
    assert_in_range(w->sink.n_taken, 30, 800);
}

/* Thousands of messages of a backlog, one row for each key and table. */
static void test_a_backlog_gives_one_row_for_each_key(void **state)
{
    struct world *w = *state;
    w->policy = kept_alive;
    w->catch_up_lag_us = 5 * US_PER_SECOND;
    crash(w);
    open_world(w);
    static const char *const users[] = {"ann", "bob", "cho"};
    struct error err = {0};
    for (int i = 0; i < 3000; i++) {
        char id[32];
        snprintf(id, sizeof(id), "b%d", i);
        struct event e = message(id, users[i % 3], "one of very many", w->now - US_PER_HOUR + i);
        uint32_t part = partition_of(&e);
        CLEANUP(buf_deinit) struct buf bytes;
        buf_init(&bytes, 1 << 16);
        assert_int_equal(event_encode(&e, &bytes, &err), STATUS_OK);
        struct frame_event f = {
            .partition = part,
            .pseq = ++w->pseq[part],
            .pos = {++w->lsn, 0},
            .commit_us = w->now - US_PER_HOUR,
            .as_of_us = w->now - US_PER_HOUR + i,
            .bytes = {bytes.data, bytes.len},
        };
        if (partition_event(w->p, &f, w->now, &err))
            fail_msg("%s", err.text);
        w->now += 10000; /* a hundred a second, 30 s: no row gets old enough */
        settle(w);
    }
    assert_int_equal(w->sink.n_taken, 0);
    live_until(w, T0 + 3 * US_PER_MINUTE);
    size_t rows[TABLE_COUNT] = {0};
    for (size_t i = 0; i < w->sink.n_taken; i++)
        rows[w->sink.taken[i].table]++;
    assert_int_equal(rows[TABLE_CONVERSATION_PATTERNS], 3);
    assert_int_equal(rows[TABLE_ENGAGEMENT_OPPORTUNITIES], 3);
    assert_int_equal(rows[TABLE_PERSONALITY_PROFILES], 3);
}

/* The row of a key that was paged out is computed with the event that wakes it. */
static void test_a_cold_key_is_shown_with_its_first_event(void **state)
{
    struct world *w = *state;
    w->policy = kept_alive;
    w->policy.recent_us = 0;
    say(w, "ann", "see you this evening");
    settle(w);
    live_until(w, T0 + 9 * US_PER_HOUR);
    assert_int_equal(partition_fold_all(w->p, w->now, NULL), STATUS_OK);
    crash(w);
    open_world(w);
    assert_int_equal(partition_view(w->p).keys, 0);
    size_t n = w->sink.n_taken;
    say(w, "ann", "here I am again");
    tick(w);
    commit(w);
    assert_true(w->sink.n_taken >= n + 3);
    for (size_t i = n; i < w->sink.n_taken; i++) {
        assert_string_equal(w->sink.taken[i].reason, "wake");
        assert_true(w->sink.taken[i].first); /* it may have been swept meanwhile */
        assert_false(w->sink.taken[i].touch);
    }
    assert_int_equal(newest_row(w, "ann", TABLE_CONVERSATION_PATTERNS)->event_count, 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_timers_of_a_quiet_key_survive_in_journal_and_page),
        TEST(test_rows_of_a_recent_key_always_hold),
        TEST(test_a_backlog_gives_one_row_for_each_key),
        TEST(test_a_cold_key_is_shown_with_its_first_event),
        TEST(test_a_row_leaves_only_after_the_commit),
        TEST(test_messages_of_the_bot_reach_its_own_key),
        TEST(test_metrics_go_to_the_bots_key),
        TEST(test_a_clock_that_is_set_back_freezes_no_timer),
        TEST(test_an_event_seen_before_is_dropped),
        TEST(test_a_gap_in_the_numbers_asks_for_a_rewind),
        TEST(test_what_was_not_committed_is_gone_after_a_crash),
        TEST(test_rows_after_a_crash_equal_the_oracles),
        TEST(test_a_timer_survives_a_crash_and_fires_without_input),
        TEST(test_a_row_without_an_answer_is_sent_again_after_a_crash),
        TEST(test_a_row_without_an_answer_is_sent_again_from_its_page),
        TEST(test_a_row_that_is_as_before_is_sent_whole_while_another_is_on_its_way),
        TEST(test_the_same_after_a_crash_from_journal_and_page),
        TEST(test_an_answered_row_is_not_sent_again),
        TEST(test_a_sink_without_room_holds_keys_not_rows),
        TEST(test_cold_keys_leave_memory_and_come_back_exact),
        TEST(test_folding_everything_changes_nothing),
        TEST(test_an_event_that_cannot_be_used_is_kept_and_blocks_nothing),
        TEST(test_the_covered_position_moves_only_with_a_commit),
        TEST(test_an_invalidated_key_is_computed_at_once_and_clears_its_token),
        TEST(test_an_answer_that_crosses_a_request_does_not_hide_it),
        TEST(test_a_request_without_a_key_makes_none),
        TEST(test_a_token_survives_a_crash_in_the_journal_and_in_a_page),
        TEST(test_what_names_no_bot_concerns_every_key_of_the_user),
        TEST(test_a_wish_without_a_bot_is_every_keys),
        TEST(test_a_key_born_later_knows_what_its_user_wishes_of_every_bot),
        TEST(test_a_new_character_makes_the_profiles_of_those_who_talk_due),
        TEST(test_a_bots_own_key_tells_the_sink_its_character),
    };
    return cmocka_run_group_tests_name("pipeline/partition", tests, NULL, NULL);
}
