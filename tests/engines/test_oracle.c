/*
 * Goal: the incremental engines and the naive oracle give the same rows, byte for byte.
 * Method: rows of both tables compared as JSON along random scripts. Those of this file are
 * hostile: one small key with edits that move far in time, deletes, duplicates from either source,
 * late, future and misplaced events, time jumps and restarts. Those of tests/support look like
 * chats of several users, in two orders of arrival. A failure prints the seed and the step.
 */
#include "core/cleanup.h"
#include "core/clock.h"
#include "engines/key.h"
#include "engines/oracle/oracle.h"
#include "tests/support/script.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define HOSTILE_SCRIPTS 2000
#define HOSTILE_STEPS   70
#define CHAT_SCRIPTS    200
#define CHAT_USERS      3
#define ROW_BYTES       (256u << 10)
#define T0              (INT64_C(1767225600) * US_PER_SECOND)

CLEANUP_FREEP(struct oracle, oracle_free);

/* ---- randomness ---- */

struct dice {
    uint64_t state;
};

static uint64_t roll(struct dice *d, uint64_t sides)
{
    d->state = d->state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (d->state >> 33) % sides;
}

static int64_t roll_us(struct dice *d, int64_t below_us)
{
    return (int64_t)(((roll(d, UINT64_C(1) << 31)) << 31 | roll(d, UINT64_C(1) << 31)) %
                     (uint64_t)below_us);
}

/* ---- one script ---- */

struct hostile {
    struct dice dice;
    uint64_t seed;
    int step;
    struct key *key;
    struct oracle *oracle;
    int64_t t_us;
    uint64_t ver;
    unsigned next_id;
    char id[32];
    char content[400];
    char memory_id[80];
    struct event last; /* for duplicates; its strings stay in the buffers above */
    enum source last_source;
    bool has_last;
};

/* The rows from shortly before their first difference on: cmocka cuts long messages. */
static void fail_at(uint64_t seed, int step, const char *what, struct str got, struct str want)
{
    size_t from = 0;
    while (from < got.len && from < want.len && got.ptr[from] == want.ptr[from])
        from++;
    from = from > 120 ? from - 120 : 0;
    fail_msg("seed %llu, step %d: %s\nengine ..%.300s\noracle ..%.300s", (unsigned long long)seed,
             step, what, from < got.len ? got.ptr + from : "",
             from < want.len ? want.ptr + from : "");
}

/* Mostly now, often minutes ago, sometimes days ago, too late, or in the future. */
static int64_t roll_time(struct hostile *s)
{
    switch (roll(&s->dice, 16)) {
    case 0:
    case 1:
        return s->t_us - roll_us(&s->dice, 10 * US_PER_MINUTE);
    case 2:
        return s->t_us - roll_us(&s->dice, 3 * US_PER_HOUR);
    case 3:
        return s->t_us - roll_us(&s->dice, 20 * US_PER_DAY);
    case 4:
        return s->t_us - 29 * US_PER_DAY - roll_us(&s->dice, 2 * US_PER_DAY);
    case 5:
        return s->t_us + roll_us(&s->dice, 10 * US_PER_MINUTE);
    case 6:
        return s->t_us + roll_us(&s->dice, 8 * US_PER_DAY);
    default:
        return s->t_us;
    }
}

static void roll_content(struct hostile *s)
{
    static const char *const words[] = {
        "dog",
        "leg",
        "limp",
        "vet",
        "rust",
        "borrow",
        "checker",
        "loop",
        "garden",
        "tomato",
        "soil",
        "rain",
        "ok",
        "yes",
        "what",
        "why",
        "the",
        "a",
        "is",
        "It",
        "never",
        "\xf0\x9f\x98\x80",
        "caf\xc3\xa9",
        "\xe7\x8b\x97\xe8\x85\xbf",
        "https://example.org/x",
        "@ann",
        "\xff\xfe",
    };
    static const char *const ends[] = {"", "", ".", "?", "!", " ..."};
    size_t len = 0;
    size_t n = roll(&s->dice, 14);

    s->content[0] = '\0';
    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(s->content + len, sizeof(s->content) - len, "%s%s", i ? " " : "",
                                words[roll(&s->dice, sizeof(words) / sizeof(words[0]))]);
    (void)snprintf(s->content + len, sizeof(s->content) - len, "%s",
                   ends[roll(&s->dice, sizeof(ends) / sizeof(ends[0]))]);
}

static struct event roll_message(struct hostile *s)
{
    static const char *const emotions[] = {NULL, NULL, "joy", "anger", "sadness", "neutral", "odd"};
    bool edit = s->next_id > 0 && roll(&s->dice, 5) == 0;
    const char *emotion = emotions[roll(&s->dice, sizeof(emotions) / sizeof(emotions[0]))];

    unsigned id = edit ? (unsigned)roll(&s->dice, s->next_id) : s->next_id++;
    (void)snprintf(s->id, sizeof(s->id), "m%u", id);
    roll_content(s);
    return (struct event){
        .type = EVENT_MESSAGE,
        .at_us = roll_time(s),
        .u.message = {.role = roll(&s->dice, 3) ? ROLE_USER : ROLE_BOT,
                      .op = edit ? MESSAGE_UPDATE : MESSAGE_INSERT,
                      .content = edit && roll(&s->dice, 3) == 0 ? STR_NULL : str_from(s->content),
                      .emotion = str_from(emotion),
                      .emotion_confidence =
                          roll(&s->dice, 3) ? (double)roll(&s->dice, 100) / 100 : NAN}};
}

static struct event roll_delete(struct hostile *s)
{
    (void)snprintf(s->id, sizeof(s->id), "m%u", (unsigned)roll(&s->dice, s->next_id + 2));
    return (struct event){.type = EVENT_MESSAGE_DELETED, .at_us = roll_time(s)};
}

static struct event roll_memory(struct hostile *s)
{
    static const enum memory_op ops[] = {MEMORY_CREATE, MEMORY_CREATE, MEMORY_CREATE, MEMORY_ACCESS,
                                         MEMORY_ACCESS, MEMORY_ACCESS, MEMORY_ACCESS, MEMORY_ACCESS,
                                         MEMORY_ACCESS, MEMORY_ACCESS, MEMORY_DELETE, MEMORY_PIN};
    enum memory_op op = ops[roll(&s->dice, sizeof(ops) / sizeof(ops[0]))];
    unsigned memory = (unsigned)roll(&s->dice, 12);

    /* One id in twelve differs from another only beyond the 64 bytes that are shown. */
    if (memory < 2)
        (void)snprintf(s->memory_id, sizeof(s->memory_id), "%064d-%u", 7, memory);
    else
        (void)snprintf(s->memory_id, sizeof(s->memory_id), "mem\x01-%u", memory);
    (void)snprintf(s->id, sizeof(s->id), "e%u", (unsigned)roll(&s->dice, 400));
    roll_content(s);
    bool old = op == MEMORY_CREATE && roll(&s->dice, 2);
    return (struct event){
        .type = EVENT_MEMORY,
        .at_us = old ? s->t_us - roll_us(&s->dice, 400 * US_PER_DAY) : roll_time(s),
        .u.memory = {.op = op,
                     .memory_id = str_from(s->memory_id),
                     .score = NAN,
                     .grade = roll(&s->dice, 3) ? 0 : (int)roll(&s->dice, 5),
                     .outcome = (enum memory_outcome)roll(&s->dice, 3),
                     .importance = roll(&s->dice, 2) ? (double)roll(&s->dice, 101) / 100 : NAN,
                     .memory_type = roll(&s->dice, 4) ? STR("fact") : STR_NULL,
                     .content = roll(&s->dice, 5) ? str_from(s->content) : STR_NULL}};
}

/* As the journal does: what is applied is what was written and read back. */
static void apply_to_key(struct hostile *s, const struct event *e, enum source source)
{
    struct feature extracted;
    struct feature f;
    struct key_change change;
    struct error err;
    CLEANUP(buf_deinit) struct buf bytes;

    buf_init(&bytes, 1u << 20);
    feature_extract(e, source, s->ver, NULL, &extracted);
    assert_int_equal(feature_encode(&extracted, &bytes), STATUS_OK);
    struct reader r = reader_of(bytes.data, bytes.len);
    assert_int_equal(feature_decode(&r, &f, &err), STATUS_OK);
    enum status st = key_apply(s->key, &f, s->t_us, &change, &err);
    if (st != STATUS_OK && st != STATUS_INVALID)
        fail_at(s->seed, s->step, err.text, STR_NULL, STR_NULL);
}

static void add_event(struct hostile *s, struct event e, enum source source)
{
    struct error err;

    e.id = str_from(s->id);
    e.user_id = STR("ann");
    e.bot_name = STR("bot");
    s->ver++;
    apply_to_key(s, &e, source);
    if (oracle_add(s->oracle, &e, source, s->ver, s->t_us, &err))
        fail_at(s->seed, s->step, err.text, STR_NULL, STR_NULL);
    s->last = e;
    s->last_source = source;
    s->has_last = true;
}

static void restart(struct hostile *s)
{
    struct error err;
    CLEANUP(buf_deinit) struct buf page;

    buf_init(&page, LIMIT_KEY_BYTES);
    assert_int_equal(key_encode(s->key, &page), STATUS_OK);
    key_free(s->key);
    s->key = NULL;
    if (key_decode((struct str){page.data, page.len}, &s->key, &err))
        fail_at(s->seed, s->step, err.text, STR_NULL, STR_NULL);
}

/* False when there is no row. The text ends with a NUL. */
static bool engine_json(struct key *k, enum table_id table, int64_t t_us, struct buf *ret)
{
    CLEANUP(row_deinit) struct row row;
    struct error err;

    row_init(&row, &tables[table]);
    buf_reset(ret);
    assert_int_equal(key_advance(k, t_us, &err), STATUS_OK);
    if (!key_has_row(k, table))
        return false;
    if (key_emit(k, table, t_us, &row, &err))
        fail_msg("%s", err.text);
    assert_int_equal(row_to_json(&row, ret), STATUS_OK);
    assert_int_equal(buf_put_u8(ret, 0), STATUS_OK);
    return true;
}

static bool oracle_json(struct oracle *o, struct str user, struct str bot, enum table_id table,
                        int64_t t_us, struct buf *ret)
{
    CLEANUP(row_deinit) struct row row;
    struct error err;

    row_init(&row, &tables[table]);
    buf_reset(ret);
    enum status st = oracle_row(o, table, user, bot, t_us, &row, &err);
    if (st == STATUS_END)
        return false;
    if (st)
        fail_msg("%s", err.text);
    assert_int_equal(row_to_json(&row, ret), STATUS_OK);
    assert_int_equal(buf_put_u8(ret, 0), STATUS_OK);
    return true;
}

static void assert_same(uint64_t seed, int step, const char *what, const struct buf *got,
                        const struct buf *want)
{
    struct str a = {got->data, got->len};
    struct str b = {want->data, want->len};
    if (!str_equal(a, b))
        fail_at(seed, step, what, a, b);
}

static void compare_table(struct hostile *s, enum table_id table, int64_t t_us)
{
    CLEANUP(buf_deinit) struct buf got;
    CLEANUP(buf_deinit) struct buf want;

    buf_init(&got, ROW_BYTES);
    buf_init(&want, ROW_BYTES);
    (void)oracle_json(s->oracle, STR("ann"), STR("bot"), table, t_us, &want);
    (void)engine_json(s->key, table, t_us, &got);
    assert_same(s->seed, s->step, tables[table].name, &got, &want);
}

static void compare(struct hostile *s)
{
    for (enum table_id table = 0; table < TABLE_COUNT; table++)
        compare_table(s, table, s->t_us);
}

static void move_time(struct hostile *s)
{
    static const int64_t steps_us[] = {0,
                                       US_PER_SECOND,
                                       US_PER_MINUTE,
                                       US_PER_MINUTE,
                                       20 * US_PER_MINUTE,
                                       20 * US_PER_MINUTE,
                                       3 * US_PER_HOUR,
                                       US_PER_DAY,
                                       5 * US_PER_DAY};
    int64_t most_us = steps_us[roll(&s->dice, sizeof(steps_us) / sizeof(steps_us[0]))];
    if (roll(&s->dice, 60) == 0)
        most_us = 40 * US_PER_DAY;
    s->t_us += roll_us(&s->dice, most_us + 1);
}

static void step(struct hostile *s)
{
    enum source source = roll(&s->dice, 5) ? SOURCE_POSTGRES : SOURCE_INBOX;

    move_time(s);
    switch (roll(&s->dice, 12)) {
    case 0:
        add_event(s, roll_delete(s), source);
        break;
    case 1:
        if (s->has_last)
            add_event(s, s->last, roll(&s->dice, 2) ? s->last_source : source);
        break;
    case 2:
        restart(s);
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        add_event(s, roll_memory(s), source);
        break;
    default:
        add_event(s, roll_message(s), source);
        break;
    }
    if (roll(&s->dice, 8) == 0)
        compare(s);
}

static void hostile_start(struct hostile *s, uint64_t seed)
{
    *s = (struct hostile){.dice = {seed}, .seed = seed, .t_us = T0};
    assert_int_equal(key_new(STR("ann"), STR("bot"), &s->key, NULL), STATUS_OK);
    assert_int_equal(oracle_new(&s->oracle, NULL), STATUS_OK);
}

static void hostile_end(struct hostile *s)
{
    key_free(s->key);
    oracle_free(s->oracle);
}

static void test_hostile_scripts_give_the_same_rows(void **state)
{
    uint64_t seed = script_seed(20260105);

    (void)state;
    print_message("seeds from %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < script_rounds(HOSTILE_SCRIPTS); i++) {
        struct hostile s;
        hostile_start(&s, seed + i);
        uint64_t steps = 1 + roll(&s.dice, HOSTILE_STEPS);
        for (s.step = 0; (uint64_t)s.step < steps; s.step++)
            step(&s);
        compare(&s);
        /* Long after the last event only the folds and the memories are left. */
        s.t_us += 31 * US_PER_DAY;
        compare(&s);
        hostile_end(&s);
    }
}

/* ---- chats of several users ---- */

struct chat {
    struct key *keys[CHAT_USERS];
    size_t n;
};

static struct key *chat_key(struct chat *c, const struct event *e)
{
    for (size_t i = 0; i < c->n; i++)
        if (str_equal(key_log(c->keys[i])->user_id, e->user_id))
            return c->keys[i];
    assert_true(c->n < CHAT_USERS);
    assert_int_equal(key_new(e->user_id, e->bot_name, &c->keys[c->n], NULL), STATUS_OK);
    return c->keys[c->n++];
}

/* Adds every step to the keys, and to the oracle unless it is NULL. */
static void play(const struct script *script, struct chat *c, struct oracle *o)
{
    for (size_t i = 0; i < script_count(script); i++) {
        const struct script_step *step = script_at(script, i);
        struct feature f;
        struct key_change change;
        if (!(engine_scopes(&step->e) & 1u << ENGINE_USER))
            continue;
        feature_extract(&step->e, step->source, step->ver, NULL, &f);
        assert_int_equal(key_apply(chat_key(c, &step->e), &f, step->as_of_us, &change, NULL),
                         STATUS_OK);
        if (o)
            assert_int_equal(oracle_add(o, &step->e, step->source, step->ver, step->as_of_us, NULL),
                             STATUS_OK);
    }
}

static void compare_chats(uint64_t seed, struct chat *first, struct chat *second, struct oracle *o,
                          int64_t t_us)
{
    CLEANUP(buf_deinit) struct buf got;
    CLEANUP(buf_deinit) struct buf other;
    CLEANUP(buf_deinit) struct buf want;

    buf_init(&got, ROW_BYTES);
    buf_init(&other, ROW_BYTES);
    size_t users = 0;
    buf_init(&want, ROW_BYTES);
    for (size_t i = 0; i < oracle_key_count(o); i++) {
        struct event e = {0};
        oracle_key_at(o, i, &e.user_id, &e.bot_name);
        if (e.user_id.len == 0)
            continue; /* the bot's own key */
        users++;
        for (enum table_id table = 0; table < TABLE_COUNT; table++) {
            (void)oracle_json(o, e.user_id, e.bot_name, table, t_us, &want);
            (void)engine_json(chat_key(first, &e), table, t_us, &got);
            (void)engine_json(chat_key(second, &e), table, t_us, &other);
            assert_same(seed, (int)i, tables[table].name, &got, &want);
            assert_same(seed, (int)i, "another order of arrival", &other, &want);
        }
    }
    assert_int_equal(users, first->n);
}

static void test_chats_give_the_same_rows_in_any_order_of_arrival(void **state)
{
    uint64_t seed = script_seed(1);

    (void)state;
    print_message("seeds from %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < script_rounds(CHAT_SCRIPTS); i++, seed++) {
        struct chat first = {0};
        struct chat second = {0};
        CLEANUP(oracle_freep) struct oracle *o = NULL;
        /* Inside one window nothing is late in any order; but what runs ahead of T may be refused,
         * and what a refusal to be profiled took away does not come back with a later consent. */
        struct script *script = script_new(&(struct script_options){
            .seed = seed,
            .features =
                SCRIPT_ALL & ~(unsigned)(SCRIPT_DISORDER | SCRIPT_FUTURE | SCRIPT_PROFILING),
            .n_steps = 150,
            .n_users = CHAT_USERS,
            .start_us = T0,
            .span_us = 3 * US_PER_DAY,
        });
        assert_int_equal(oracle_new(&o, NULL), STATUS_OK);
        play(script, &first, o);
        script_shuffle(script, seed);
        play(script, &second, NULL);
        compare_chats(seed, &first, &second, o, script_end_us(script));
        compare_chats(seed, &first, &second, o, script_end_us(script) + 25 * US_PER_DAY);
        script_free(script);
        for (size_t k = 0; k < CHAT_USERS; k++) {
            key_free(first.keys[k]);
            key_free(second.keys[k]);
        }
    }
}

/* ---- beyond every cap ---- */

static void add_plain_message(struct hostile *s, unsigned i, int64_t at_us)
{
    (void)snprintf(s->id, sizeof(s->id), "m%u", i);
    roll_content(s);
    add_event(s,
              (struct event){.type = EVENT_MESSAGE,
                             .at_us = at_us,
                             .u.message = {.role = i % 2 ? ROLE_BOT : ROLE_USER,
                                           .op = MESSAGE_INSERT,
                                           .content = str_from(s->content),
                                           .emotion_confidence = NAN}},
              SOURCE_POSTGRES);
}

static void add_plain_memory(struct hostile *s, enum memory_op op, unsigned id, unsigned memory,
                             int64_t at_us)
{
    (void)snprintf(s->id, sizeof(s->id), "e%u", id);
    (void)snprintf(s->memory_id, sizeof(s->memory_id), "mem-%u", memory);
    add_event(s,
              (struct event){.type = EVENT_MEMORY,
                             .at_us = at_us,
                             .u.memory = {.op = op,
                                          .memory_id = str_from(s->memory_id),
                                          .score = NAN,
                                          .importance = NAN}},
              SOURCE_POSTGRES);
}

static void test_more_messages_than_a_key_keeps_give_the_same_rows(void **state)
{
    struct hostile s;

    (void)state;
    hostile_start(&s, 1);
    s.t_us = T0 + 10 * US_PER_DAY;
    for (unsigned i = 0; i < LIMIT_MESSAGES + 60; i++)
        add_plain_message(&s, i, T0 + (int64_t)(i * 7919 % 4096) * 3 * US_PER_MINUTE);
    compare(&s);
    (void)snprintf(s.id, sizeof(s.id), "m%u", LIMIT_MESSAGES + 40);
    add_event(&s, (struct event){.type = EVENT_MESSAGE_DELETED, .at_us = s.t_us}, SOURCE_POSTGRES);
    compare(&s);
    s.t_us += 32 * US_PER_DAY;
    compare(&s);
    hostile_end(&s);
}

static void test_more_accesses_than_a_key_keeps_give_the_same_rows(void **state)
{
    struct hostile s;

    (void)state;
    hostile_start(&s, 2);
    s.t_us = T0 + 10 * US_PER_DAY;
    for (unsigned i = 0; i < 9; i++)
        add_plain_memory(&s, MEMORY_CREATE, i, i, T0);
    /* Half of them go back in time: some fall behind what the cap has already pushed out. */
    for (unsigned i = 0; i < LIMIT_ACCESSES + 300; i++)
        add_plain_memory(&s, MEMORY_ACCESS, 100 + i, i % 10,
                         T0 + (int64_t)(i * 7919 % 8192) * 90 * US_PER_SECOND);
    compare_table(&s, TABLE_MEMORY_HEALTH, s.t_us);
    add_plain_memory(&s, MEMORY_CREATE, 20, 3, T0 + US_PER_DAY);
    add_plain_memory(&s, MEMORY_DELETE, 21, 4, T0 + US_PER_DAY);
    compare_table(&s, TABLE_MEMORY_HEALTH, s.t_us);
    s.t_us += 32 * US_PER_DAY;
    compare_table(&s, TABLE_MEMORY_HEALTH, s.t_us);
    hostile_end(&s);
}

static void test_more_memories_than_a_key_keeps_give_the_same_rows(void **state)
{
    struct hostile s;

    (void)state;
    hostile_start(&s, 3);
    s.t_us = T0 + 10 * US_PER_DAY;
    for (unsigned i = 0; i < LIMIT_MEMORIES + 50; i++) {
        if (i % 16 == 0)
            add_plain_memory(&s, MEMORY_ACCESS, 10000 + i, i / 2, T0 + 9 * US_PER_DAY);
        add_plain_memory(&s, MEMORY_CREATE, i, i, T0 - (int64_t)(i % 97) * US_PER_DAY);
    }
    assert_true(key_log(s.key)->forgotten_n > 0);
    compare_table(&s, TABLE_MEMORY_HEALTH, s.t_us);
    restart(&s);
    s.t_us += 32 * US_PER_DAY;
    compare_table(&s, TABLE_MEMORY_HEALTH, s.t_us);
    hostile_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_scripts_give_the_same_rows),
        cmocka_unit_test(test_chats_give_the_same_rows_in_any_order_of_arrival),
        cmocka_unit_test(test_more_messages_than_a_key_keeps_give_the_same_rows),
        cmocka_unit_test(test_more_accesses_than_a_key_keeps_give_the_same_rows),
        cmocka_unit_test(test_more_memories_than_a_key_keeps_give_the_same_rows),
    };
    return cmocka_run_group_tests_name("engines/oracle", tests, NULL, NULL);
}
