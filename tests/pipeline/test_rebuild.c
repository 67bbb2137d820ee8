/*
 * tests/pipeline/test_rebuild.c - keys that are made again while the partition goes on: what comes
 * out equals the oracle over the source tables, at once and never half, across a crash at any step.
 *
 * The source is a list of events that stands for its tables. The partition is only told some of
 * them, and some that the source does not hold; then the keys are rebuilt as the stream would.
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
#include "engines/oracle/oracle.h"
#include "ingest/rebuild_chunk.h"
#include "pipeline/partition.h"
#include "pipeline/route.h"
#include "tests/support/script.h"

#define T0         (INT64_C(1767600000) * US_PER_SECOND)
#define ALL_TABLES ((1u << TABLE_COUNT) - 1)
#define ALL_TYPES                                                                           \
    (1u << EVENT_MESSAGE | 1u << EVENT_MEMORY | 1u << EVENT_METRIC | 1u << EVENT_OUTREACH | \
     1u << EVENT_CHARACTER | 1u << EVENT_PRIVACY)
#define EVENTS_MAX 8192

/* PostgreSQL's place: the newest row of each key and table. */
struct held_row {
    bool used, removed;
    struct row row;
};

struct world {
    char dir[64];
    struct store *store;
    struct partition *p;
    struct held_row rows[512];
    size_t n_rows;
    struct sink_result answers[4096];
    size_t n_answers;
    uint64_t pseq[SOURCE_COUNT][LIMIT_PARTITIONS];
    uint64_t lsn, seq;
    uint64_t epoch;
    int64_t now;
    struct event source[EVENTS_MAX]; /* what its tables hold */
    size_t n_source;
};

static size_t sink_room_of(void *ctx)
{
    (void)ctx;
    return 1000;
}

static struct held_row *find_row(struct world *w, struct str user, struct str bot, uint32_t table)
{
    for (size_t i = 0; i < w->n_rows; i++)
        if (w->rows[i].row.table == &tables[table] && str_equal(row_user(&w->rows[i].row), user) &&
            str_equal(row_bot(&w->rows[i].row), bot))
            return &w->rows[i];
    return NULL;
}

static enum status sink_take(void *ctx, struct sink_item *items, size_t n)
{
    struct world *w = ctx;
    for (size_t i = 0; i < n; i++) {
        struct sink_item *item = &items[i];
        w->answers[w->n_answers++] = (struct sink_result){
            .key_id = item->key_id,
            .table = item->table,
            .row_version = item->row.row_version,
            .payload_hash = item->payload_hash,
            .outcome = item->touch ? SINK_TOUCHED : SINK_WRITTEN,
        };
        struct held_row *h = find_row(w, row_user(&item->row), row_bot(&item->row), item->table);
        if (!h) {
            assert_true(w->n_rows < sizeof(w->rows) / sizeof(w->rows[0]));
            h = &w->rows[w->n_rows++];
        } else {
            assert_true(item->row.row_version > h->row.row_version);
            row_deinit(&h->row);
        }
        *h = (struct held_row){true, item->remove, item->row};
    }
    return STATUS_OK;
}

static size_t sink_answer(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    struct world *w = ctx;
    (void)worker;
    size_t n = w->n_answers < max ? w->n_answers : max;
    memcpy(out, w->answers, n * sizeof(*out));
    memmove(w->answers, w->answers + n, (w->n_answers - n) * sizeof(*out));
    w->n_answers -= n;
    return n;
}

/* Nothing is due by itself: rows show what rebuilding makes due. */
static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    (void)ctx;
    (void)table;
    (void)bot;
    return (struct trigger_policy){.max_age_us = 3650 * US_PER_DAY};
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
        .sink = {sink_room_of, sink_take, sink_answer, w},
        .policy = policy,
        .memory_max = SIZE_MAX / 4,
        .catch_up_lag_us = INT64_MAX / 4,
        .epoch = w->epoch,
    };
    if (partition_open(&cfg, w->now, &w->p, &err))
        fail_msg("%s", err.text);
    for (int s = 0; s < SOURCE_COUNT; s++)
        for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++)
            w->pseq[s][i] = partition_applied(w->p, (enum source)s, i).pseq;
}

static void crash(struct world *w)
{
    partition_close(w->p);
    store_close(w->store);
    w->n_answers = 0;
}

static void reopen(struct world *w)
{
    crash(w);
    open_world(w);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    assert_non_null(w);
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/warmpath-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    w->now = T0;
    open_world(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    crash(w);
    for (size_t i = 0; i < w->n_rows; i++)
        row_deinit(&w->rows[i].row);
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* ---- what the stream does ---- */

static void give(struct world *w, enum source source, uint32_t partition, enum rebuild_step step,
                 struct str bytes)
{
    struct frame_event f = {
        .source = source,
        .partition = partition,
        .pseq = ++w->pseq[source][partition],
        .pos = {w->lsn, w->seq++},
        .commit_us = w->now,
        .as_of_us = w->now,
        .bytes = bytes,
        .step = step,
    };
    struct error err = {0};
    if (partition_event(w->p, &f, w->now, &err))
        fail_msg("%s", err.text);
}

static void deliver_from(struct world *w, enum source source, const struct event *e)
{
    struct buf b;
    buf_init(&b, LIMIT_EVENT_BYTES);
    assert_int_equal(event_encode(e, &b, NULL), STATUS_OK);
    struct route r = route_event(e);
    w->lsn++;
    w->seq = 0;
    for (uint32_t i = 0; i < r.n; i++)
        give(w, source, route_at(&r, i), REBUILD_NONE, (struct str){b.data, b.len});
    buf_deinit(&b);
}

static void deliver(struct world *w, const struct event *e)
{
    deliver_from(w, SOURCE_POSTGRES, e);
}

static void commit(struct world *w)
{
    struct error err = {0};
    if (partition_tick(w->p, w->now, &err) || partition_commit(w->p, w->now, &err))
        fail_msg("%s", err.text);
}

/* Steps of a chunk that are given before it ends for good; counts down in steps_left. */
static bool rebuild_until(struct world *w, struct rebuild_chunk *c, uint32_t types, size_t steps)
{
    struct buf mark;
    buf_init(&mark, 4096);
    struct rebuild_item i;
    bool all = true;
    w->lsn++;
    w->seq = 0;
    rebuild_chunk_sort(c);
    for (size_t at = 0; all && rebuild_chunk_at(c, at, &i); at++) {
        uint32_t home = route_home(i.user_id, i.bot_name);
        struct rebuild_event e = {
            .user_id = i.user_id, .bot_name = i.bot_name, .types = types, .tables = ALL_TABLES};
        buf_reset(&mark);
        assert_int_equal(frame_mark_encode(&e, &mark), STATUS_OK);
        struct str bytes = {mark.data, mark.len};
        if (i.first && (all = steps-- > 0))
            give(w, SOURCE_POSTGRES, home, REBUILD_BEGIN, bytes);
        if (all && i.event.ptr && (all = steps-- > 0))
            give(w, SOURCE_POSTGRES, home, REBUILD_ROW, i.event);
        if (all && i.last && (all = steps-- > 0))
            give(w, SOURCE_POSTGRES, home, REBUILD_END, bytes);
    }
    buf_deinit(&mark);
    return all;
}

static struct rebuild_chunk *chunk_of(struct world *w, const char *const *names, bool bots)
{
    struct rebuild_chunk *c = NULL;
    struct rebuild_chunk_config cfg = {.bots = bots, .bytes_max = 64 << 20};
    assert_int_equal(rebuild_chunk_new(&cfg, &c, NULL), STATUS_OK);
    for (size_t i = 0; names[i]; i++) {
        assert_int_equal(rebuild_chunk_name(c, str_from(names[i])), STATUS_OK);
    }
    for (size_t i = 0; names[i]; i++) {
        struct str user = bots ? STR("") : str_from(names[i]);
        struct str bot = bots ? str_from(names[i]) : STR("elena");
        assert_int_equal(rebuild_chunk_key(c, user, bot), STATUS_OK);
    }
    for (size_t i = 0; i < w->n_source; i++)
        assert_int_equal(rebuild_chunk_row(c, &w->source[i]), STATUS_OK);
    return c;
}

static void rebuild(struct world *w, const char *const *names, bool bots, uint32_t types)
{
    struct rebuild_chunk *c = chunk_of(w, names, bots);
    assert_true(rebuild_until(w, c, types, SIZE_MAX));
    rebuild_chunk_free(c);
}

/* ---- the source ---- */

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

static void keep(struct world *w, const struct event *e)
{
    /* An attempt that is moved in time is one row. */
    for (size_t i = 0; i < w->n_source && e->type == EVENT_OUTREACH; i++)
        if (w->source[i].type == e->type && str_equal(w->source[i].id, e->id) &&
            w->source[i].u.outreach.op == e->u.outreach.op) {
            w->source[i] = *e;
            return;
        }
    assert_true(w->n_source < EVENTS_MAX);
    w->source[w->n_source++] = *e;
}

static void forget(struct world *w, size_t index)
{
    memmove(&w->source[index], &w->source[index + 1],
            (--w->n_source - index) * sizeof(w->source[0]));
}

static int by_time(const void *a, const void *b)
{
    const struct event *x = a;
    const struct event *y = b;
    return (x->at_us > y->at_us) - (x->at_us < y->at_us);
}

static char *json_of(const struct row *row)
{
    struct buf b;
    buf_init(&b, 4 << 20);
    assert_int_equal(row_to_json(row, &b), STATUS_OK);
    assert_int_equal(buf_put_u8(&b, 0), STATUS_OK);
    return b.data;
}

/* Every row that there is, and every one that should be; returns how many were compared. */
static size_t assert_rows_are_the_oracles(struct world *w, uint64_t seed)
{
    struct oracle *o = NULL;
    assert_int_equal(oracle_new(&o, NULL), STATUS_OK);
    qsort(w->source, w->n_source, sizeof(w->source[0]), by_time);
    for (size_t i = 0; i < w->n_source; i++)
        assert_int_equal(
            oracle_add(o, &w->source[i], SOURCE_POSTGRES, i + 1, w->source[i].at_us, NULL),
            STATUS_OK);
    size_t equal = 0;
    for (size_t k = 0; k < oracle_key_count(o); k++) {
        struct str user;
        struct str bot;
        oracle_key_at(o, k, &user, &bot);
        for (uint32_t t = 0; t < TABLE_COUNT; t++) {
            struct row expected;
            row_init(&expected, &tables[t]);
            const struct held_row *h = find_row(w, user, bot, t);
            int64_t as_of_us = h ? h->row.as_of_us : w->now;
            enum status st = oracle_row(o, (enum table_id)t, user, bot, as_of_us, &expected, NULL);
            bool is_there = h && !h->removed;
            if (is_there != (st == STATUS_OK))
                fail_msg("seed %llu: user \"%.*s\" table %u: %s", (unsigned long long)seed,
                         STR_ARGS(user), t, is_there ? "a row too many" : "no row");
            if (is_there) {
                char *got = json_of(&h->row);
                char *wanted = json_of(&expected);
                if (strcmp(got, wanted) != 0) {
                    print_error("%s\n", got);
                    print_error("%s\n", wanted);
                    fail_msg("seed %llu: user \"%.*s\" differs from the oracle",
                             (unsigned long long)seed, STR_ARGS(user));
                }
                free(got);
                free(wanted);
                equal++;
            }
            row_deinit(&expected);
        }
    }
    oracle_free(o);
    return equal;
}

/* Messages of ann and bob from T0 on; every third of ann's is kept from the partition, which knows
 * one that the source does not. */
static void prepare(struct world *w)
{
    static char ids[64][16];
    static const char *const texts[] = {"the garden grows tomatoes", "a new train to the sea",
                                        "coffee and a novel tonight"};
    for (int i = 0; i < 30; i++) {
        (void)snprintf(ids[i], sizeof(ids[i]), "m%d", i);
        w->now += US_PER_MINUTE;
        struct event e = message(ids[i], i % 5 == 4 ? "bob" : "ann", texts[i / 3 % 3], w->now);
        keep(w, &e);
        if (i % 3)
            deliver(w, &e);
    }
    struct event phantom = message("phantom", "ann", "nobody said this", w->now - 90);
    deliver(w, &phantom);
    commit(w);
}

static const char *const both[] = {"ann", "bob", NULL};

/* ---- tests ---- */

static void test_a_rebuilt_key_is_what_the_source_holds(void **state)
{
    struct world *w = *state;
    prepare(w);
    assert_int_equal(w->n_rows, 0);
    rebuild(w, both, false, ALL_TYPES);
    assert_int_equal(w->n_rows, 0); /* nothing is shown before it is durable */
    commit(w);
    commit(w);
    assert_true(assert_rows_are_the_oracles(w, 0) >= 4);
    reopen(w);
    struct event e = message("after", "ann", "and now something else", w->now += US_PER_MINUTE);
    keep(w, &e);
    deliver(w, &e);
    assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
    commit(w);
    assert_true(assert_rows_are_the_oracles(w, 0) >= 4);
}

static uint64_t count_of(struct world *w, const char *user)
{
    const struct held_row *h =
        find_row(w, str_from(user), STR("elena"), TABLE_CONVERSATION_PATTERNS);
    return h && !h->removed ? (uint64_t)h->row.event_count : 0;
}

/* The steps of both keys, cut anywhere: until END is durable the old key is what there is. */
static void test_a_crash_between_any_two_steps_leaves_the_old_key_or_the_new(void **state)
{
    (void)state;
    for (size_t steps = 0, all = 0; !all; steps++) {
        void *own = NULL;
        setup(&own);
        struct world *w = own;
        prepare(w);
        struct rebuild_chunk *c = chunk_of(w, both, false);
        all = rebuild_until(w, c, ALL_TYPES, steps);
        rebuild_chunk_free(c);
        bool durable = steps % 2 == 0;
        if (durable)
            commit(w);
        reopen(w);
        /* An event of the same key finds the key whole. */
        struct event e = message("after", "ann", "and now something", w->now += US_PER_MINUTE);
        keep(w, &e);
        deliver(w, &e);
        assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
        commit(w);
        uint64_t ann = count_of(w, "ann");
        uint64_t before = 24 - 8 + 1 + 1; /* withheld, the phantom, the one after */
        assert_true(ann == before || ann == 25);
        if (!durable)
            assert_int_equal(ann, before);
        if (durable && all)
            assert_int_equal(ann, 25);
        rebuild(w, both, false, ALL_TYPES);
        commit(w);
        commit(w);
        assert_true(assert_rows_are_the_oracles(w, 0) >= 4);
        teardown(&own);
    }
}

static void test_events_of_other_keys_go_on_in_between(void **state)
{
    struct world *w = *state;
    prepare(w);
    static const char *const one[] = {"ann", NULL};
    struct rebuild_chunk *c = chunk_of(w, one, false);
    assert_false(rebuild_until(w, c, ALL_TYPES, 9));
    struct event e = message("b2", "bob", "still here", w->now += US_PER_MINUTE);
    keep(w, &e);
    deliver(w, &e);
    assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
    commit(w);
    assert_int_equal(count_of(w, "ann"), 24 - 8 + 1); /* half a shadow shows nothing */
    assert_int_equal(count_of(w, "bob"), 6 - 2 + 1);
    assert_true(rebuild_until(w, c, ALL_TYPES, SIZE_MAX)); /* begins again */
    rebuild_chunk_free(c);
    commit(w);
    assert_int_equal(count_of(w, "ann"), 24);
    assert_int_equal(count_of(w, "bob"), 6 - 2 + 1);
}

static void test_a_key_the_source_has_nothing_of_is_swept(void **state)
{
    struct world *w = *state;
    struct event e = message("m", "ghost", "never written", w->now);
    deliver(w, &e);
    assert_int_equal(partition_flush_all(w->p, w->now, NULL), STATUS_OK);
    commit(w);
    assert_int_equal(count_of(w, "ghost"), 1);
    static const char *const ghosts[] = {"ghost", "stranger", NULL};
    rebuild(w, ghosts, false, ALL_TYPES);
    commit(w);
    assert_int_equal(count_of(w, "ghost"), 0);
    /* A row that another life of the state may have left. */
    const struct held_row *h =
        find_row(w, STR("stranger"), STR("elena"), TABLE_CONVERSATION_PATTERNS);
    assert_true(h && h->removed);
}

static void test_what_came_from_the_inbox_stays(void **state)
{
    struct world *w = *state;
    struct event e = message("hook", "ann", "from a webhook", w->now);
    deliver_from(w, SOURCE_INBOX, &e);
    struct event m = {.type = EVENT_MEMORY,
                      .id = STR("c1"),
                      .user_id = STR("ann"),
                      .bot_name = STR("elena"),
                      .at_us = w->now,
                      .u.memory = {.op = MEMORY_CREATE,
                                   .memory_id = STR("mem1"),
                                   .score = __builtin_nan(""),
                                   .importance = 0.5,
                                   .content = STR("likes the sea")}};
    deliver_from(w, SOURCE_INBOX, &m);
    struct event gone = message("m1", "ann", "", w->now);
    gone.type = EVENT_MESSAGE_DELETED;
    prepare(w);
    deliver_from(w, SOURCE_INBOX, &gone);
    static const char *const one[] = {"ann", NULL};
    rebuild(w, one, false, ALL_TYPES);
    commit(w);
    /* Without the one that the inbox deleted, with the one that it brought. */
    assert_int_equal(count_of(w, "ann"), 24);
    const struct held_row *h = find_row(w, STR("ann"), STR("elena"), TABLE_MEMORY_HEALTH);
    assert_true(h && !h->removed);
    char *json = json_of(&h->row);
    assert_non_null(strstr(json, "\"total\":1"));
    free(json);
    reopen(w);
    rebuild(w, one, false, ALL_TYPES);
    commit(w);
    assert_int_equal(count_of(w, "ann"), 24);
}

static struct event point(const char *id, double value, int64_t at)
{
    struct event e = {.type = EVENT_METRIC,
                      .id = str_from(id),
                      .user_id = STR(""),
                      .bot_name = STR("elena"),
                      .at_us = at,
                      .u.metric = {.measurement = STR("conversation_quality"), .n_fields = 1}};
    e.u.metric.fields[0] = (struct event_field){STR("engagement_score"), value};
    return e;
}

static int64_t points_of(struct world *w)
{
    const struct held_row *h = find_row(w, STR(""), STR("elena"), TABLE_PERFORMANCE_24H);
    return h && !h->removed ? (int64_t)h->row.event_count : 0;
}

static void test_sums_of_metrics_begin_anew_or_stay(void **state)
{
    struct world *w = *state;
    static char ids[20][8];
    for (int i = 0; i < 20; i++) {
        (void)snprintf(ids[i], sizeof(ids[i]), "p%d", i);
        struct event e = point(ids[i], 0.5, w->now += US_PER_MINUTE);
        if (i < 12)
            keep(w, &e);
        if (i % 2)
            deliver(w, &e);
    }
    commit(w);
    static const char *const bots[] = {"elena", NULL};
    rebuild(w, bots, true, 1u << EVENT_MESSAGE);
    commit(w);
    int64_t before = points_of(w);
    assert_true(before > 0);
    rebuild(w, bots, true, ALL_TYPES);
    commit(w);
    assert_true(points_of(w) > before); /* 12 of the source instead of the 10 that had come */
    assert_true(assert_rows_are_the_oracles(w, 0) >= 1);
}

/* The source's tables after a script, and a partition that was told most of it and more. */
static void play(struct world *w, const struct script *s, uint64_t *random)
{
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        const struct event *e = &step->e;
        if (step->as_of_us > w->now)
            w->now = step->as_of_us;
        bool is_delete = e->type == EVENT_MESSAGE_DELETED ||
                         (e->type == EVENT_MEMORY && e->u.memory.op == MEMORY_DELETE);
        /* What a user once wished stays, whatever has become of the row. */
        bool is_wish = e->type == EVENT_PRIVACY ||
                       (e->type == EVENT_OUTREACH && e->u.outreach.op == OUTREACH_OPTED_OUT);
        bool phantom = !is_delete && !is_wish && script_below(random, 10) == 0;
        for (size_t k = w->n_source; is_delete && k-- > 0;) {
            const struct event *old = &w->source[k];
            bool same = e->type == EVENT_MEMORY
                            ? old->type == EVENT_MEMORY &&
                                  str_equal(old->u.memory.memory_id, e->u.memory.memory_id)
                            : old->type == EVENT_MESSAGE && str_equal(old->id, e->id);
            if (same && str_equal(old->user_id, e->user_id))
                forget(w, k);
        }
        if (!is_delete && !phantom)
            keep(w, e);
        if (phantom || script_below(random, 5) > 0)
            deliver(w, e);
        if (i % 16 == 0)
            commit(w);
    }
    commit(w);
}

static void test_random_scripts_with_holes_are_mended(void **state)
{
    (void)state;
    size_t compared = 0;
    for (uint64_t round = 0; round < script_rounds(24); round++) {
        void *own = NULL;
        setup(&own);
        struct world *w = own;
        uint64_t random = script_seed(100 + round);
        /* Beyond the window, so that what has left it must be folded as if it had come in time. */
        struct script_options options = {
            .seed = random,
            .features = SCRIPT_MEMORIES | SCRIPT_DELETES | SCRIPT_TRAITS | SCRIPT_EMBEDDINGS |
                        SCRIPT_OUTREACH | SCRIPT_METRICS,
            .n_steps = 400,
            .n_users = 3,
            .start_us = T0,
            .span_us = (round % 2 ? 45 * US_PER_DAY : 6 * US_PER_HOUR),
        };
        struct script *s = script_new(&options);
        play(w, s, &random);
        char names[8][64] = {0};
        const char *users[9] = {0};
        const char *bots[2] = {0};
        size_t n = 0;
        char bot[64] = "";
        for (size_t i = 0; i < script_count(s); i++) {
            const struct event *e = &script_at(s, i)->e;
            (void)snprintf(bot, sizeof(bot), STR_FMT, STR_ARGS(e->bot_name));
            bool known = e->user_id.len == 0;
            for (size_t k = 0; k < n; k++)
                known |= str_equal(str_from(names[k]), e->user_id);
            if (!known) {
                (void)snprintf(names[n], sizeof(names[n]), STR_FMT, STR_ARGS(e->user_id));
                users[n] = names[n];
                n++;
            }
        }
        bots[0] = bot;
        rebuild(w, users, false, ALL_TYPES);
        if (round % 3 == 0)
            reopen(w); /* lost with all it did: it is done again */
        if (round % 3 == 0)
            rebuild(w, users, false, ALL_TYPES);
        rebuild(w, bots, true, ALL_TYPES);
        commit(w);
        commit(w);
        compared += assert_rows_are_the_oracles(w, options.seed);
        script_free(s);
        teardown(&own);
    }
    assert_true(compared > 5 * script_rounds(24));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_rebuilt_key_is_what_the_source_holds, setup,
                                        teardown),
        cmocka_unit_test(test_a_crash_between_any_two_steps_leaves_the_old_key_or_the_new),
        cmocka_unit_test_setup_teardown(test_events_of_other_keys_go_on_in_between, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_key_the_source_has_nothing_of_is_swept, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_came_from_the_inbox_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sums_of_metrics_begin_anew_or_stay, setup, teardown),
        cmocka_unit_test(test_random_scripts_with_holes_are_mended),
    };
    return cmocka_run_group_tests_name("pipeline/rebuild", tests, NULL, NULL);
}
