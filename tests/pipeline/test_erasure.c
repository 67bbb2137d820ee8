/*
 * Goal: after a user is forgotten nothing of the user is left in a worker's files, everybody else
 * is as before, and a crash at any step of it changes neither. Method: a worker on a real store,
 * with the sink, the port and crashes in the test's hands; every byte of every file is searched for
 * words that only this user has used.
 */
#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/counters.h"
#include "core/hash.h"
#include "pipeline/partition.h"
#include "pipeline/route.h"
#include "state/fault.h"

#define T0 (INT64_C(1767600000) * US_PER_SECOND)

#define USER    "Zyxwvut-4711"
#define OTHER   "brenda"
#define SECRET  "quokkarama"  /* words of the user's messages, */
#define SECRET2 "flibbertone" /* of the bot's answers, */
#define SECRET3 "wombatology" /* and of a memory */

struct world {
    char dir[64];
    struct store *store;
    struct partition *p;
    uint64_t pseq[LIMIT_PARTITIONS];
    uint64_t lsn;
    uint64_t epoch;
    int64_t now;
    size_t memory_max;
    struct erase_task tasks[64];
    char names[64][256];
    size_t n_tasks, n_answered;
    bool deaf; /* the port takes tasks and never answers */
    struct {
        char user[64];
        int64_t erased_us;
        uint64_t row_version;
        enum table_id table;
        bool remove;
    } rows[512];
    size_t n_rows;
    struct sink_result results[512];
    size_t n_results, results_taken;
};

static size_t sink_room_of(void *ctx)
{
    (void)ctx;
    return 64;
}

static enum status take_rows(void *ctx, struct sink_item *items, size_t n)
{
    struct world *w = ctx;
    for (size_t i = 0; i < n; i++) {
        assert_true(w->n_rows < 512 && w->n_results < 512);
        struct str user = row_user(&items[i].row);
        snprintf(w->rows[w->n_rows].user, 64, STR_FMT, STR_ARGS(user));
        w->rows[w->n_rows].erased_us = items[i].erased_us;
        w->rows[w->n_rows].row_version = items[i].row.row_version;
        w->rows[w->n_rows].table = (enum table_id)items[i].table;
        w->rows[w->n_rows++].remove = items[i].remove;
        w->results[w->n_results++] = (struct sink_result){
            .key_id = items[i].key_id,
            .table = items[i].table,
            .row_version = items[i].row.row_version,
            .payload_hash = items[i].payload_hash,
            .outcome = SINK_WRITTEN,
        };
        row_deinit(&items[i].row);
    }
    return STATUS_OK;
}

static size_t give_results(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    (void)worker;
    struct world *w = ctx;
    size_t n = 0;
    while (n < max && w->results_taken < w->n_results)
        out[n++] = w->results[w->results_taken++];
    return n;
}

static enum status take_task(void *ctx, const struct erase_task *t)
{
    struct world *w = ctx;
    assert_true(w->n_tasks < 64);
    snprintf(w->names[w->n_tasks], 256, STR_FMT "|" STR_FMT, STR_ARGS(t->user_id),
             STR_ARGS(t->bot_name));
    w->tasks[w->n_tasks++] = *t;
    return STATUS_OK;
}

static size_t give_answers(void *ctx, uint32_t worker, struct erase_result *out, size_t max)
{
    (void)worker;
    struct world *w = ctx;
    size_t n = 0;
    while (!w->deaf && n < max && w->n_answered < w->n_tasks) {
        const struct erase_task *t = &w->tasks[w->n_answered++];
        out[n++] = (struct erase_result){t->id, t->step, 77};
    }
    return n;
}

static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    (void)ctx;
    (void)table;
    (void)bot;
    return (struct trigger_policy){
        .count = 3, .max_age_us = 10 * US_PER_SECOND, .idle_us = 2 * US_PER_SECOND};
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
        .sink = {sink_room_of, take_rows, give_results, w},
        .erase = {take_task, give_answers, w},
        .policy = policy,
        .memory_max = w->memory_max,
        .catch_up_lag_us = INT64_MAX / 4,
        .epoch = w->epoch,
    };
    if (partition_open(&cfg, w->now, &w->p, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++)
        w->pseq[i] = partition_applied(w->p, SOURCE_POSTGRES, i).pseq;
    w->n_answered = w->n_tasks;
    w->results_taken = w->n_results;
}

static void crash(struct world *w)
{
    partition_close(w->p);
    store_close(w->store);
    w->p = NULL;
    w->store = NULL;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    snprintf(w->dir, sizeof(w->dir), "/tmp/warmpath-test-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    w->now = T0;
    w->memory_max = SIZE_MAX / 4;
    open_world(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    (void)!fault_arm("", NULL);
    crash(w);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* ---- events ---- */

/* To one partition, at the position w->lsn. */
static enum status give(struct world *w, uint32_t partition, const struct event *e)
{
    struct frame_event f = {
        .partition = partition,
        .pseq = ++w->pseq[partition],
        .pos = {w->lsn, 0},
        .commit_us = w->now,
        .as_of_us = w->now,
    };
    struct error err = {0};
    enum status st = partition_apply(w->p, &f, e, w->now, &err);
    if (st && st != STATUS_IO)
        fail_msg("%s", err.text);
    return st;
}

static enum status deliver(struct world *w, const struct event *e)
{
    w->lsn++;
    struct route route = route_event(e);
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < route.n && !st; i++)
        st = give(w, route_at(&route, i), e);
    return st;
}

static struct event message(const char *user, enum message_role role, const char *text,
                            const char *id)
{
    return (struct event){
        .id = str_from(id),
        .type = EVENT_MESSAGE,
        .user_id = str_from(user),
        .bot_name = STR("elena"),
        .u.message = {.role = role,
                      .op = MESSAGE_INSERT,
                      .content = str_from(text),
                      .emotion_confidence = __builtin_nan("")},
    };
}

static void say(struct world *w, const char *user, enum message_role role, const char *text)
{
    char id[64];
    snprintf(id, sizeof(id), "%s-m%" PRIu64, user, w->lsn + 1);
    struct event e = message(user, role, text, id);
    e.at_us = w->now;
    w->now += US_PER_SECOND;
    assert_int_equal(deliver(w, &e), STATUS_OK);
}

static void remember(struct world *w, const char *user, const char *id, const char *text)
{
    struct event e = {.type = EVENT_MEMORY,
                      .id = str_from(id),
                      .user_id = str_from(user),
                      .bot_name = STR("elena"),
                      .at_us = w->now};
    e.u.memory = (struct event_memory){.op = MEMORY_CREATE,
                                       .memory_id = str_from(id),
                                       .content = str_from(text),
                                       .score = __builtin_nan(""),
                                       .importance = .5};
    assert_int_equal(deliver(w, &e), STATUS_OK);
}

static void rate(struct world *w, const char *user)
{
    struct event e = {.type = EVENT_METRIC,
                      .id = STR("p"),
                      .bot_name = STR("elena"),
                      .user_id = str_from(user),
                      .at_us = w->now};
    e.u.metric.measurement = STR("conversation_quality");
    e.u.metric.n_fields = 1;
    e.u.metric.fields[0].name = STR("engagement_score");
    e.u.metric.fields[0].value = .5;
    assert_int_equal(deliver(w, &e), STATUS_OK);
}

/* An input that cannot be used, and says whose it was in a way of its own. */
static void spoil(struct world *w, const char *bytes)
{
    struct event e = {.type = EVENT_DEAD_LETTER, .id = STR("d"), .at_us = w->now};
    e.u.dead_letter.where = STR("public.chat_message");
    e.u.dead_letter.reason = STR("role: unknown word");
    e.u.dead_letter.bytes = str_from(bytes);
    assert_int_equal(deliver(w, &e), STATUS_OK);
}

static struct event erasure_of(const struct world *w, const char *user, const char *bot)
{
    struct event e = {.type = EVENT_PRIVACY,
                      .id = STR("e"),
                      .user_id = str_from(user),
                      .bot_name = str_from(bot),
                      .at_us = w->now};
    e.u.privacy.op = PRIVACY_ERASE;
    return e;
}

static void commit(struct world *w)
{
    struct error err = {0};
    if (partition_tick(w->p, w->now, &err) || partition_commit(w->p, w->now, &err))
        fail_msg("%s", err.text);
}

static void settle(struct world *w)
{
    for (int i = 0; i < 8; i++)
        commit(w);
}

/* What both users have said and done, over journal, pages, dead letters and bots. */
static void live(struct world *w)
{
    const char *users[] = {USER, OTHER};
    for (int u = 0; u < 2; u++) {
        const char *words[] = {u ? "gardening tomatoes" : SECRET " harvest",
                               u ? "tomatoes ripen" : SECRET2 " answer"};
        for (int i = 0; i < 6; i++) {
            say(w, users[u], ROLE_USER, words[0]);
            say(w, users[u], ROLE_BOT, words[1]);
        }
        remember(w, users[u], u ? "brendas-memory" : USER "-memory", u ? "sunflower" : SECRET3);
        rate(w, users[u]);
    }
    spoil(w, "{\"user_id\":\"" USER "\",\"content\":\"" SECRET "\"}");
    spoil(w, "{\"user_id\":\"\\u005ayxwvut\\u002d4711\",\"content\":\"escaped\"}");
    spoil(w, "{\"user_id\":\"" OTHER "\"}");
    spoil(w, "{\"user_id\":\"x" USER "\"}"); /* somebody else */
}

/* ---- looking ---- */

static bool file_has(const char *path, const char *word)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(n + 1);
    assert_int_equal(fread(bytes, 1, n, f), n);
    fclose(f);
    bool found = n && memmem(bytes, n, word, strlen(word));
    free(bytes);
    return found;
}

static bool dir_has(const char *dir, const char *word)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (e->d_name[0] == '.')
            continue;
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        struct stat s;
        assert_int_equal(stat(path, &s), 0);
        found |= S_ISDIR(s.st_mode) ? dir_has(path, word) : file_has(path, word);
    }
    closedir(d);
    return found;
}

static void assert_no_trace(struct world *w)
{
    static const char *const words[] = {SECRET, SECRET2, SECRET3, USER "-m", "escaped"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (dir_has(w->dir, words[i]))
            fail_msg("\"%s\" is still in the files", words[i]);
    /* The name itself, but not as a part of another one. */
    static const char *const names[] = {"\"" USER "\"", USER "elena"};
    for (size_t i = 0; i < 2; i++)
        if (dir_has(w->dir, names[i]))
            fail_msg("the name is still in the files as %s", names[i]);
    assert_true(dir_has(w->dir, "tomatoes"));
    assert_true(dir_has(w->dir, OTHER));
    assert_true(dir_has(w->dir, "x" USER));
}

struct seen {
    size_t users_keys, others_messages, bots_messages, users_messages;
};

static enum status look_at_key(void *ctx, struct key *key, struct error *err)
{
    (void)err;
    struct seen *s = ctx;
    const struct key_log *log = key_log(key);
    if (str_equal(log->user_id, STR(USER))) {
        s->users_keys++;
        s->users_messages += log->n_messages;
    } else if (log->user_id.len == 0) {
        s->bots_messages += log->n_messages;
    } else {
        s->others_messages += log->n_messages;
    }
    return STATUS_OK;
}

static struct seen look(struct world *w)
{
    struct seen s = {0};
    struct error err = {0};
    if (partition_each_key(w->p, look_at_key, &s, &err))
        fail_msg("%s", err.text);
    return s;
}

/* ---- tests ---- */

static void test_nothing_of_the_user_is_left_and_others_are_as_before(void **state)
{
    struct world *w = *state;
    live(w);
    settle(w);
    assert_true(dir_has(w->dir, SECRET));
    assert_true(dir_has(w->dir, SECRET3));
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_int_equal(w->n_tasks, 2);
    assert_string_equal(w->names[0], USER "|");
    assert_int_equal(w->tasks[0].step, ERASURE_STATE);
    assert_int_equal(w->tasks[0].counts.keys, 1);
    assert_int_equal(w->tasks[0].counts.messages, 6);
    assert_int_equal(w->tasks[0].counts.metric_days, 1);
    assert_int_equal(w->tasks[0].counts.dead_letters, 2);
    assert_true(w->tasks[0].counts.entries >= 14 + 12);
    assert_string_equal(w->names[1], "|");
    assert_int_equal(w->tasks[1].step, ERASURE_ROWS);
    assert_int_equal(w->tasks[1].receipt, 77);
    assert_no_trace(w);
    /* Without looking at keys first: that folds the journal. */
    crash(w);
    assert_no_trace(w);
    open_world(w);
    struct seen s = look(w);
    assert_int_equal(s.users_keys, 0);
    assert_int_equal(s.others_messages, 12);
    assert_int_equal(s.bots_messages, 6);
    settle(w);
    assert_int_equal(w->n_tasks, 2);
}

/* The same when everything lies in pages, with keys out of memory. */
static void test_paged_keys_are_erased_as_well(void **state)
{
    struct world *w = *state;
    live(w);
    settle(w);
    struct error err = {0};
    assert_int_equal(partition_fold_all(w->p, w->now, &err), STATUS_OK);
    crash(w);
    w->memory_max = 1;
    open_world(w);
    settle(w);
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_int_equal(w->n_tasks, 2);
    assert_int_equal(w->tasks[0].counts.pages, 1);
    assert_int_equal(w->tasks[0].counts.messages, 6);
    assert_no_trace(w);
    struct seen s = look(w);
    assert_int_equal(s.users_keys, 0);
    assert_int_equal(s.others_messages, 12);
    assert_int_equal(s.bots_messages, 6);
}

/* What was applied but not yet committed goes, too, and its timers find nobody. */
static void test_what_is_not_yet_durable_is_erased(void **state)
{
    struct world *w = *state;
    live(w);
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    w->now += 3600 * US_PER_SECOND;
    settle(w);
    assert_no_trace(w);
    assert_true(w->n_rows > 0);
    for (size_t i = 0; i < w->n_rows; i++)
        assert_string_not_equal(w->rows[i].user, USER);
    crash(w);
    open_world(w);
    assert_int_equal(look(w).users_keys, 0);
}

/* Rows were on their way, and their answers come when nobody knows the key any more. */
static void test_answers_of_rows_on_their_way_find_nobody(void **state)
{
    struct world *w = *state;
    live(w);
    commit(w); /* the count has made rows due: they are sent, not answered */
    assert_true(w->n_rows > 0 && partition_view(w->p).in_flight);
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_false(partition_view(w->p).in_flight);
    assert_no_trace(w);
}

static void test_late_copies_bring_nothing_back(void **state)
{
    struct world *w = *state;
    live(w);
    struct event late = message(USER, ROLE_BOT, SECRET2 " again", USER "-m-late");
    late.at_us = w->now;
    w->now += US_PER_SECOND;
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    uint64_t ignored = COUNTER_GET(events_forgotten);
    assert_int_equal(deliver(w, &late), STATUS_OK);
    struct event gone = {.type = EVENT_MESSAGE_DELETED,
                         .id = STR(USER "-m3"),
                         .user_id = STR(USER),
                         .bot_name = STR("elena"),
                         .at_us = w->now + US_PER_SECOND};
    assert_int_equal(deliver(w, &gone), STATUS_OK);
    settle(w);
    assert_true(COUNTER_GET(events_forgotten) > ignored);
    assert_no_trace(w);
    /* Also after a restart: the tombstone is durable. */
    crash(w);
    open_world(w);
    assert_int_equal(deliver(w, &late), STATUS_OK);
    settle(w);
    assert_no_trace(w);
    struct seen s = look(w);
    assert_int_equal(s.users_keys, 0);
    assert_int_equal(s.bots_messages, 6);
}

static void test_a_user_who_comes_back_is_new(void **state)
{
    struct world *w = *state;
    live(w);
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    w->now += US_PER_SECOND;
    size_t rows = w->n_rows;
    for (int i = 0; i < 4; i++)
        say(w, USER, ROLE_USER, "starting over");
    settle(w);
    struct seen s = look(w);
    assert_int_equal(s.users_keys, 1);
    assert_int_equal(s.users_messages, 4);
    /* Its rows know of the request: nobody takes them for rows from before. */
    bool found = false;
    for (; rows < w->n_rows; rows++)
        if (strcmp(w->rows[rows].user, USER) == 0) {
            found = true;
            assert_int_equal(w->rows[rows].erased_us, e.at_us);
            assert_true(w->rows[rows].row_version > w->tasks[0].row_version);
        } else {
            assert_int_equal(w->rows[rows].erased_us, 0);
        }
    assert_true(found);
    /* The same request, told once more, takes nothing away. */
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_int_equal(look(w).users_messages, 4);
    /* A new one does. */
    w->now += US_PER_SECOND;
    e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_int_equal(look(w).users_keys, 0);
}

static void test_one_bot_alone(void **state)
{
    struct world *w = *state;
    live(w);
    struct event m = message(USER, ROLE_USER, "to marcus", "x1");
    m.bot_name = STR("marcus");
    m.at_us = w->now;
    assert_int_equal(deliver(w, &m), STATUS_OK);
    struct event e = erasure_of(w, USER, "elena");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_string_equal(w->names[0], USER "|elena");
    struct seen s = look(w);
    assert_int_equal(s.users_keys, 1);
    assert_int_equal(s.users_messages, 1);
    assert_int_equal(s.bots_messages, 6);
    assert_false(dir_has(w->dir, SECRET));
    m.id = STR("x2");
    assert_int_equal(deliver(w, &m), STATUS_OK);
    assert_int_equal(look(w).users_messages, 2);
}

/* A clock that is ahead keeps away nothing that has yet to be said. */
static void test_a_request_from_the_future(void **state)
{
    struct world *w = *state;
    live(w);
    struct event e = erasure_of(w, USER, "");
    e.at_us += 3600 * US_PER_SECOND;
    assert_int_equal(deliver(w, &e), STATUS_OK);
    w->now += US_PER_SECOND;
    say(w, USER, ROLE_USER, "hello again");
    assert_int_equal(look(w).users_messages, 1);
}

/* At each point a crash, and then what the source would send again. */
static void test_a_crash_at_any_step(void **state)
{
    struct world *w = *state;
    static const char *const points[] = {"erase_applied:1:fail",      "store_before_commit:1:fail",
                                         "store_after_commit:1:fail", "erase_committed:1:fail",
                                         "erase_scrubbed:1:fail",     "erase_scrubbed:2:fail"};
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        live(w);
        settle(w);
        struct seen before = look(w);
        /* Looking has folded all: something for the journal, too. */
        say(w, USER, ROLE_USER, SECRET " harvest");
        say(w, USER, ROLE_BOT, SECRET2 " answer");
        settle(w);
        struct event e = erasure_of(w, USER, "");
        w->n_tasks = w->n_answered = 0;
        assert_int_equal(fault_arm(points[i], NULL), STATUS_OK);
        struct error err = {0};
        enum status st = deliver(w, &e);
        for (int k = 0; k < 8 && !st; k++) {
            st = partition_tick(w->p, w->now, &err);
            st = st ? st : partition_commit(w->p, w->now, &err);
        }
        assert_int_equal(st, STATUS_IO);
        assert_int_equal(fault_arm("", NULL), STATUS_OK);
        crash(w);
        open_world(w);
        /* The source repeats what no partition has applied: positions decide. */
        struct route route = route_event(&e);
        for (uint32_t p = 0; p < route.n; p++)
            if (partition_applied(w->p, SOURCE_POSTGRES, p).pos.lsn < w->lsn)
                assert_int_equal(give(w, p, &e), STATUS_OK);
        settle(w);
        assert_no_trace(w);
        assert_true(w->n_tasks >= 1);
        assert_int_equal(w->tasks[w->n_tasks - 1].step, ERASURE_ROWS);
        struct seen s = look(w);
        assert_int_equal(s.users_keys, 0);
        assert_int_equal(s.others_messages, before.others_messages);
        w->now += US_PER_SECOND;
    }
}

/* Until the port has answered, the names are kept; then they are in no file. */
static void test_the_port_is_asked_again_after_a_crash(void **state)
{
    struct world *w = *state;
    live(w);
    w->deaf = true;
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    assert_int_equal(w->n_tasks, 1);
    assert_false(dir_has(w->dir, SECRET));
    crash(w);
    open_world(w);
    w->deaf = false;
    settle(w);
    assert_int_equal(w->n_tasks, 3);
    assert_string_equal(w->names[1], USER "|");
    assert_int_equal(w->tasks[1].row_version, w->tasks[0].row_version);
    assert_int_equal(w->tasks[1].counts.messages, 6);
    assert_no_trace(w);
}

/* What the bot was taught by entries that are gone is taught once: a restart adds the same sums. */
static enum status add_up(void *ctx, const struct store_part *part, struct error *err)
{
    uint64_t *sum = ctx;
    struct epoch_sums sums;
    struct reader r = reader_of(part->bytes.ptr, part->bytes.len);
    enum status st = epoch_cells_decode(&r, sums.v, err);
    for (size_t i = 0; i < EPOCH_CELLS && !st; i++)
        *sum += (uint64_t)sums.v[i];
    return st;
}

static uint64_t taught(struct world *w)
{
    uint64_t sum = 0;
    struct error err = {0};
    int32_t day = (int32_t)(w->now / US_PER_DAY) + 1;
    if (partition_close_day(w->p, day, &err) || partition_commit(w->p, w->now, &err) ||
        partition_day_parts(w->p, day, add_up, &sum, &err))
        fail_msg("%s", err.text);
    return sum;
}

static void teach(struct world *w)
{
    for (int i = 0; i < 6; i++)
        say(w, USER, ROLE_USER, SECRET " harvest"); /* and no bot has a key whose page would go */
    commit(w);
}

static void test_what_was_taught_stays(void **state)
{
    struct world *w = *state;
    teach(w);
    struct event e = erasure_of(w, USER, "");
    assert_int_equal(deliver(w, &e), STATUS_OK);
    settle(w);
    crash(w);
    open_world(w);
    uint64_t after = taught(w);
    /* The same without the erasure. */
    crash(w);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    w->now = T0;
    w->lsn = 0;
    open_world(w);
    teach(w);
    assert_int_equal(taught(w), after);
    assert_true(after > 0);
}

static void test_what_names_a_user(void **state)
{
    (void)state;
    assert_true(store_mentions(STR("{\"user\":\"ann\"}"), STR("ann")));
    assert_true(store_mentions(STR("ann"), STR("ann")));
    assert_true(store_mentions(STR("\xa3"
                                   "ann\xa5"),
                               STR("ann")));
    assert_false(store_mentions(STR("{\"user\":\"joann\"}"), STR("ann")));
    assert_false(store_mentions(STR("anna"), STR("ann")));
    assert_true(store_mentions(STR("anna ann"), STR("ann")));
    assert_true(store_mentions(STR("{\"u\":\"\\u0061n\\u006e\"}"), STR("ann")));
    assert_true(store_mentions(STR("{\"u\":\"\\ud83d\\ude00\"}"), STR("\xf0\x9f\x98\x80")));
    assert_true(store_mentions(STR("{\"u\":\"a\\/b\"}"), STR("a/b")));
    assert_false(store_mentions(STR("\\u00"), STR("ann")));
    assert_false(store_mentions(STR("x"), STR("")));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_of_the_user_is_left_and_others_are_as_before),
        TEST(test_paged_keys_are_erased_as_well),
        TEST(test_what_is_not_yet_durable_is_erased),
        TEST(test_answers_of_rows_on_their_way_find_nobody),
        TEST(test_late_copies_bring_nothing_back),
        TEST(test_a_user_who_comes_back_is_new),
        TEST(test_one_bot_alone),
        TEST(test_a_request_from_the_future),
        TEST(test_a_crash_at_any_step),
        TEST(test_the_port_is_asked_again_after_a_crash),
        TEST(test_what_was_taught_stays),
        cmocka_unit_test(test_what_names_a_user),
    };
    return cmocka_run_group_tests_name("pipeline/erasure", tests, NULL, NULL);
}
