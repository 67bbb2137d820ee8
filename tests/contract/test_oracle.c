/*
 * tests/contract/test_oracle.c - every row of every table equals the naive recomputation, byte for
 * byte, at random moments of random scripts and across restarts.
 *
 * The oracle plays the whole history again for each row, in separate code (engines/oracle). The bot
 * closes an epoch at each midnight, from what the engines taught; both sides are given the same.
 */
#include "core/clock.h"
#include "engines/key.h"
#include "engines/oracle/oracle.h"
#include "tests/support/epochs.h"
#include "tests/support/script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01 */
#define USERS    3

struct pair {
    uint64_t seed;
    struct test_epochs epochs;
    struct key *keys[USERS + 1]; /* and the bot's own */
    size_t n;
    struct oracle *oracle;
    size_t compared; /* rows that both sides have */
};

static struct key **key_of(struct pair *p, const struct event *e, enum engine_scope scope)
{
    struct str user = scope == ENGINE_BOT ? STR("") : e->user_id;
    for (size_t i = 0; i < p->n; i++)
        if (str_equal(key_log(p->keys[i])->user_id, user))
            return &p->keys[i];
    assert_true(p->n < USERS + 1);
    assert_int_equal(key_new(user, e->bot_name, &p->keys[p->n], NULL), STATUS_OK);
    key_set_epochs(p->keys[p->n], &p->epochs.list);
    return &p->keys[p->n++];
}

/* False when the event is refused: it would be a dead letter. */
static bool apply_to(struct pair *p, const struct script_step *s, enum engine_scope scope)
{
    struct feature f;
    struct key_change change;
    feature_extract(&s->e, s->source, s->ver, &p->epochs.list, &f);
    if (scope == ENGINE_BOT)
        feature_for_bot(&f, s->e.user_id);
    struct error err = {0};
    enum status st = key_apply(*key_of(p, &s->e, scope), &f, s->as_of_us, &change, &err);
    if (st && st != STATUS_INVALID)
        fail_msg("seed %llu: %s", (unsigned long long)p->seed, err.text);
    test_epochs_learn(&p->epochs, &change);
    return st == STATUS_OK;
}

static void apply(struct pair *p, const struct script_step *s)
{
    uint32_t scopes = feature_ignored(&s->e) ? 0 : engine_scopes(&s->e);
    test_epochs_reach(&p->epochs, s->as_of_us);
    assert_int_equal(oracle_set_epochs(p->oracle, s->e.bot_name, &p->epochs.list), STATUS_OK);
    bool taken = true;
    for (enum engine_scope scope = ENGINE_USER; scope <= ENGINE_BOT; scope++)
        if (scopes & 1u << scope)
            taken &= apply_to(p, s, scope);
    /* The oracle refuses points by itself. */
    if (!taken && s->e.type != EVENT_METRIC)
        return;
    assert_int_equal(oracle_add(p->oracle, &s->e, s->source, s->ver, s->as_of_us, NULL), STATUS_OK);
}

static void restart(struct key **k)
{
    struct buf page;
    struct key *copy = NULL;
    buf_init(&page, LIMIT_KEY_BYTES);
    assert_int_equal(key_encode(*k, &page), STATUS_OK);
    assert_int_equal(key_decode((struct str){page.data, page.len}, &copy, NULL), STATUS_OK);
    buf_deinit(&page);
    key_set_epochs(copy, key_log(*k)->epochs);
    key_free(*k);
    *k = copy;
}

static void compare(struct pair *p, struct key *k, enum table_id table, int64_t as_of_us,
                    uint64_t seed)
{
    struct row naive, row;
    row_init(&naive, &tables[table]);
    row_init(&row, &tables[table]);
    assert_int_equal(key_advance(k, as_of_us, NULL), STATUS_OK);
    enum status st = oracle_row(p->oracle, table, key_log(k)->user_id, key_log(k)->bot_name,
                                as_of_us, &naive, NULL);
    assert_int_equal(st, key_has_row(k, table) ? STATUS_OK : STATUS_END);
    if (st == STATUS_OK) {
        struct buf a, b;
        buf_init(&a, 1 << 20);
        buf_init(&b, 1 << 20);
        assert_int_equal(key_emit(k, table, as_of_us, &row, NULL), STATUS_OK);
        assert_int_equal(row_to_json(&row, &a), STATUS_OK);
        assert_int_equal(row_to_json(&naive, &b), STATUS_OK);
        if (a.len != b.len || memcmp(a.data, b.data, a.len) != 0) {
            fprintf(stderr, "seed %llu\n  engine %.*s\n  oracle %.*s\n", (unsigned long long)seed,
                    (int)a.len, a.data, (int)b.len, b.data);
            fail();
        }
        assert_true(row_payload_hash(&row) == row_payload_hash(&naive));
        buf_deinit(&a);
        buf_deinit(&b);
        p->compared++;
    }
    row_deinit(&naive);
    row_deinit(&row);
}

static size_t run(const struct script_options *options, uint32_t every)
{
    struct pair p = {.seed = options->seed};
    uint64_t random = options->seed;
    struct script *s = script_new(options);
    assert_int_equal(oracle_new(&p.oracle, NULL), STATUS_OK);
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        apply(&p, step);
        bool of_user = engine_scopes(&step->e) & 1u << ENGINE_USER;
        struct key **k =
            key_of(&p, &step->e, of_user && script_below(&random, 3) ? ENGINE_USER : ENGINE_BOT);
        if (script_below(&random, 4 * every) == 0)
            restart(k);
        if (script_below(&random, every) == 0)
            compare(&p, *k, script_below(&random, TABLE_COUNT), step->as_of_us, options->seed);
    }
    assert_true(p.epochs.list.n > 1 || options->span_us < 20 * US_PER_DAY);
    /* Then time goes on alone: everything expires, and futures come true. */
    for (int days = 0; days < 40; days += 13)
        for (size_t i = 0; i < p.n; i++)
            for (enum table_id t = 0; t < TABLE_COUNT; t++)
                compare(&p, p.keys[i], t, script_end_us(s) + days * US_PER_DAY, options->seed);
    for (size_t i = 0; i < p.n; i++)
        key_free(p.keys[i]);
    oracle_free(p.oracle);
    test_epochs_deinit(&p.epochs);
    script_free(s);
    return p.compared;
}

static void test_rows_equal_the_oracle_with_everything_in_the_script(void **state)
{
    (void)state;
    size_t compared = 0;
    for (uint64_t round = 0; round < script_rounds(10); round++) {
        struct script_options o = {script_seed(100 + round), SCRIPT_ALL, 400, USERS, START_US,
                                   45 * US_PER_DAY};
        compared += run(&o, 8);
    }
    assert_true(compared > script_rounds(200));
}

static void test_rows_equal_the_oracle_with_each_kind_of_trouble_alone(void **state)
{
    (void)state;
    for (unsigned feature = 1; feature <= SCRIPT_OUTREACH; feature <<= 1) {
        struct script_options o = {script_seed(200 + feature),
                                   SCRIPT_MEMORIES | feature,
                                   300,
                                   2,
                                   START_US,
                                   20 * US_PER_DAY};
        assert_true(run(&o, 10) > 10);
    }
}

/* More messages than a key keeps, so that both cut the same ones. */
static void test_rows_equal_the_oracle_beyond_the_cap(void **state)
{
    (void)state;
    struct script_options o = {script_seed(300), SCRIPT_DISORDER, LIMIT_MESSAGES + 300, 1,
                               START_US,         10 * US_PER_DAY};
    assert_true(run(&o, 400) > 2);
}

/* A short script of any shape: which trouble, how many users and how much time follow from the
 * seed. Returns how many rows were compared. */
static size_t run_short(uint64_t seed)
{
    static const int64_t spans[] = {US_PER_HOUR, US_PER_DAY, 4 * US_PER_DAY, 12 * US_PER_DAY,
                                    19 * US_PER_DAY};
    uint64_t random = seed ^ UINT64_C(0x5c0727);
    struct script_options o = {
        .seed = seed,
        .features = script_below(&random, SCRIPT_ALL + 1),
        .n_steps = 12 + script_below(&random, 70),
        .n_users = 1 + script_below(&random, USERS),
        .start_us = START_US + script_below(&random, 86400) * US_PER_SECOND,
        .span_us = spans[script_below(&random, sizeof(spans) / sizeof(spans[0]))],
    };
    return run(&o, 6);
}

/* `test_oracle N`: N short scripts, nine tenths of them always the same ones. SCRIPT_SEED runs the
 * one of that seed. */
static void test_thousands_of_short_scripts(void **state)
{
    uint64_t n = script_rounds(*(const uint64_t *)*state);
    uint64_t fresh = script_seed((uint64_t)time(NULL) << 20);
    size_t compared = 0;
    if (getenv("SCRIPT_SEED"))
        n = 1;
    print_message("%llu scripts: seeds 1 to %llu, and from %llu on\n", (unsigned long long)n,
                  (unsigned long long)(n - n / 10), (unsigned long long)fresh);
    for (uint64_t i = 1; i <= n - n / 10 && !getenv("SCRIPT_SEED"); i++)
        compared += run_short(i);
    for (uint64_t i = 0; i < (n + 9) / 10; i++)
        compared += run_short(fresh + i);
    print_message("%zu rows compared\n", compared);
    assert_true(compared > n);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        uint64_t n = strtoull(argv[1], NULL, 10);
        const struct CMUnitTest many[] = {
            cmocka_unit_test_prestate(test_thousands_of_short_scripts, &n),
        };
        return cmocka_run_group_tests_name("contract/scripts", many, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_equal_the_oracle_with_everything_in_the_script),
        cmocka_unit_test(test_rows_equal_the_oracle_with_each_kind_of_trouble_alone),
        cmocka_unit_test(test_rows_equal_the_oracle_beyond_the_cap),
    };
    return cmocka_run_group_tests_name("contract/oracle", tests, NULL, NULL);
}
