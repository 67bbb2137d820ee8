/*
 * tests/contract/test_engines.c - promises that every registered engine keeps, checked through
 * key.h: what a key emits depends on its records and T, not on the way it came to them.
 *
 * Method: random scripts (tests/support/script.h); a failure prints the seed.
 */
#include "core/clock.h"
#include "engines/key.h"
#include "tests/contract/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01 */

static void apply(struct world *w, const struct script_step *step, int64_t as_of_us)
{
    world_apply(w, &step->e, step->source, step->ver, as_of_us);
}

/* The epochs that the bot closes during the script. Worlds that hear it in different ways are given
 * the same ones: an epoch is an input like the log, and does not depend on them. */
static struct test_epochs epochs_of(const struct script *s)
{
    struct world w = {.learns = true};
    for (size_t i = 0; i < script_count(s); i++)
        world_step(&w, script_at(s, i));
    struct test_epochs learned = w.learned;
    w.learned = (struct test_epochs){0};
    world_free(&w);
    assert_true(learned.list.n > 1);
    return learned;
}

static void encode(const struct key *k, struct buf *out)
{
    buf_init(out, LIMIT_KEY_BYTES);
    assert_int_equal(key_encode(k, out), STATUS_OK);
}

static struct key *reread(const struct key *k)
{
    struct buf b;
    struct key *copy = NULL;
    struct error err = {0};
    encode(k, &b);
    enum status st = key_decode((struct str){b.data, b.len}, &copy, &err);
    if (st)
        print_error("%s\n", err.text);
    assert_int_equal(st, STATUS_OK);
    buf_deinit(&b);
    key_set_epochs(copy, key_log(k)->epochs);
    return copy;
}

static void emit(struct key *k, enum table_id table, int64_t as_of_us, struct buf *out)
{
    struct row row;
    row_init(&row, &tables[table]);
    assert_int_equal(key_emit(k, table, as_of_us, &row, NULL), STATUS_OK);
    assert_int_equal(row_to_json(&row, out), STATUS_OK);
    row_deinit(&row);
}

static void assert_same_bytes(const struct buf *a, const struct buf *b, uint64_t seed,
                              const char *what)
{
    if (a->len == b->len && memcmp(a->data, b->data, a->len) == 0)
        return;
    print_error("seed %llu: %s differ\n", (unsigned long long)seed, what);
    print_error("  %.*s\n  %.*s\n", (int)a->len, a->data, (int)b->len, b->data);
    fail();
}

/* The rows of all tables that both keys have. */
static void assert_same_rows(struct key *a, struct key *b, int64_t as_of_us, uint64_t seed)
{
    for (enum table_id t = 0; t < TABLE_COUNT; t++) {
        assert_int_equal(key_advance(a, as_of_us, NULL), STATUS_OK);
        assert_int_equal(key_advance(b, as_of_us, NULL), STATUS_OK);
        assert_int_equal(key_has_row(a, t), key_has_row(b, t));
        struct buf row_a, row_b;
        buf_init(&row_a, 1 << 20);
        buf_init(&row_b, 1 << 20);
        emit(a, t, as_of_us, &row_a);
        emit(b, t, as_of_us, &row_b);
        assert_same_bytes(&row_a, &row_b, seed, tables[t].name);
        buf_deinit(&row_a);
        buf_deinit(&row_b);
    }
}

static void assert_same_keys(struct key *a, struct key *b, int64_t as_of_us, uint64_t seed)
{
    assert_same_rows(a, b, as_of_us, seed);
    struct buf page_a, page_b;
    encode(a, &page_a);
    encode(b, &page_b);
    if (page_a.len != page_b.len || memcmp(page_a.data, page_b.data, page_a.len) != 0) {
        print_error("seed %llu: the pages differ\n", (unsigned long long)seed);
        fail();
    }
    buf_deinit(&page_a);
    buf_deinit(&page_b);
}

static void assert_same_worlds(struct world *a, struct world *b, int64_t as_of_us, uint64_t seed)
{
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        const struct key_log *log = key_log(a->keys[i]);
        struct key *other = world_key(b, log->user_id, log->bot_name);
        assert_same_keys(a->keys[i], other, as_of_us, seed);
    }
}

static void test_every_engine_fills_every_operation(void **state)
{
    (void)state;
    assert_non_null(engine_at(0));
    for (size_t i = 0; engine_at(i); i++) {
        const struct engine_ops *ops = engine_at(i);
        assert_ptr_equal(engine_find(ops->name), ops);
        assert_true(ops->version >= 1);
        assert_true(ops->table < TABLE_COUNT);
        assert_true(ops->kinds > 0 && ops->kinds < 1u << RECORD_KINDS);
        assert_true(ops->row_kinds > 0 && (ops->row_kinds & ~ops->kinds) == 0);
        assert_true(ops->emit && ops->weight);
        assert_true(!ops->insert == (ops->state_size == 0) && !ops->retract == !ops->insert);
        assert_true(ops->trigger.max_age_us > 0);
    }
    assert_null(engine_find("no such engine"));
}

/* A restart at any moment changes nothing: the page rebuilds the accumulators exactly. */
static void test_a_restart_changes_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 12; round++) {
        uint64_t seed = script_seed(1000 + round);
        struct script_options o = {seed, SCRIPT_ALL, 600, 2, START_US, 45 * US_PER_DAY};
        struct script *s = script_new(&o);
        struct world steady = {.learns = true}, restarted = {.learns = true};
        uint64_t random = seed;
        for (size_t i = 0; i < script_count(s); i++) {
            const struct script_step *step = script_at(s, i);
            world_step(&steady, step);
            world_step(&restarted, step);
            if (script_below(&random, 40) > 0)
                continue;
            struct key **k = &restarted.keys[script_below(&random, (uint32_t)restarted.n)];
            struct key *copy = reread(*k);
            assert_same_rows(*k, copy, key_log(*k)->as_of_us, seed);
            key_free(*k);
            *k = copy;
        }
        int64_t end_us = script_end_us(s) + US_PER_HOUR;
        assert_same_worlds(&steady, &restarted, end_us, seed);
        world_free(&steady);
        world_free(&restarted);
        script_free(s);
    }
}

/* Emitting at random moments must not leave a trace in what is emitted later. */
static void test_emitting_changes_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 8; round++) {
        uint64_t seed = script_seed(2000 + round);
        struct script_options o = {seed, SCRIPT_ALL, 500, 2, START_US, 40 * US_PER_DAY};
        struct script *s = script_new(&o);
        struct world quiet = {.learns = true}, asked = {.learns = true};
        uint64_t random = seed;
        for (size_t i = 0; i < script_count(s); i++) {
            const struct script_step *step = script_at(s, i);
            world_step(&quiet, step);
            world_step(&asked, step);
            if (script_below(&random, 8) > 0)
                continue;
            struct key *k = world_key_about(&asked, &step->e);
            struct buf out;
            buf_init(&out, 1 << 20);
            emit(k, script_below(&random, TABLE_COUNT), step->as_of_us, &out);
            buf_deinit(&out);
        }
        assert_same_worlds(&quiet, &asked, script_end_us(s), seed);
        world_free(&quiet);
        world_free(&asked);
        script_free(s);
    }
}

/* M1: any order of arrival inside the window gives the same state. */
static void test_the_order_of_arrival_does_not_matter(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 12; round++) {
        uint64_t seed = script_seed(3000 + round);
        unsigned features = SCRIPT_MEMORIES | SCRIPT_EDITS | SCRIPT_FUTURE | SCRIPT_OUTREACH;
        struct script_options o = {seed, features, 500, 2, START_US, 20 * US_PER_DAY};
        struct script *s = script_new(&o);
        struct script *shuffled = script_new(&o);
        script_shuffle(shuffled, seed + 1);
        struct test_epochs epochs = epochs_of(s);
        struct world a = {.epochs = &epochs.list}, b = {.epochs = &epochs.list};
        int64_t end_us = script_end_us(s);
        assert_true(end_us < START_US + 29 * US_PER_DAY);
        for (size_t i = 0; i < script_count(s); i++)
            world_step(&a, script_at(s, i));
        for (size_t i = 0; i < script_count(shuffled); i++)
            apply(&b, script_at(shuffled, i), end_us);
        assert_same_worlds(&a, &b, end_us, seed);
        assert_same_worlds(&a, &b, end_us + 25 * US_PER_DAY, seed);
        world_free(&a);
        world_free(&b);
        test_epochs_deinit(&epochs);
        script_free(s);
        script_free(shuffled);
    }
}

/* Deletions come in any order with everything but the events of their own message or memory. Pages
 * are not compared: a tombstone remembers T of its arrival. */
static void test_the_order_of_deletions_does_not_matter_to_rows(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 8; round++) {
        uint64_t seed = script_seed(4000 + round);
        unsigned features =
            SCRIPT_MEMORIES | SCRIPT_EDITS | SCRIPT_DELETES | SCRIPT_DUPLICATES | SCRIPT_OUTREACH;
        struct script_options o = {seed, features, 500, 2, START_US, 20 * US_PER_DAY};
        struct script *s = script_new(&o);
        struct script *shuffled = script_new(&o);
        script_shuffle(shuffled, seed + 1);
        struct test_epochs epochs = epochs_of(s);
        struct world a = {.epochs = &epochs.list}, b = {.epochs = &epochs.list};
        int64_t end_us = script_end_us(s);
        for (size_t i = 0; i < script_count(s); i++) {
            world_step(&a, script_at(s, i));
            apply(&b, script_at(shuffled, i), end_us);
        }
        for (size_t i = 0; i < a.n; i++) {
            const struct key_log *log = key_log(a.keys[i]);
            assert_same_rows(a.keys[i], world_key(&b, log->user_id, log->bot_name), end_us, seed);
        }
        world_free(&a);
        world_free(&b);
        test_epochs_deinit(&epochs);
        script_free(s);
        script_free(shuffled);
    }
}

/* M3: inserting a message and deleting it again leaves what a lone deletion leaves, byte for byte;
 * the same for a memory with its accesses. */
static void test_insert_then_delete_is_never_inserted(void **state)
{
    (void)state;
    uint64_t seed = script_seed(5000);
    struct script_options o = {seed, SCRIPT_MEMORIES, 400, 1, START_US, 10 * US_PER_DAY};
    struct script *s = script_new(&o);
    struct test_epochs epochs = epochs_of(s);
    struct world with = {.epochs = &epochs.list}, without = {.epochs = &epochs.list};
    uint64_t random = seed;
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        world_step(&with, step);
        world_step(&without, step);
        struct script_step extra = *step;
        struct script_step gone = *step;
        extra.e.id = STR("extra");
        gone.e.id = STR("extra");
        extra.e.at_us -= script_below(&random, 3600) * US_PER_SECOND;
        if (step->e.type == EVENT_MESSAGE) {
            gone.e.type = EVENT_MESSAGE_DELETED;
        } else {
            extra.e.u.memory.memory_id = STR("extra");
            gone.e.u.memory.memory_id = STR("extra");
            gone.e.u.memory.op = MEMORY_DELETE;
        }
        apply(&with, &extra, step->as_of_us);
        apply(&with, &gone, step->as_of_us);
        apply(&without, &gone, step->as_of_us);
        if (i % 50 == 49)
            assert_same_worlds(&with, &without, step->as_of_us, seed);
    }
    assert_same_worlds(&with, &without, script_end_us(s), seed);
    world_free(&with);
    world_free(&without);
    test_epochs_deinit(&epochs);
    script_free(s);
}

/* M6: other users of the same bot do not show in a key. */
static void test_users_do_not_mix(void **state)
{
    (void)state;
    uint64_t seed = script_seed(6000);
    struct script_options o = {seed, SCRIPT_ALL, 800, 4, START_US, 20 * US_PER_DAY};
    struct script *s = script_new(&o);
    struct test_epochs epochs = epochs_of(s);
    struct world all = {.epochs = &epochs.list};
    for (size_t i = 0; i < script_count(s); i++)
        world_step(&all, script_at(s, i));
    for (size_t u = 0; u < all.n; u++) {
        struct world one = {.epochs = &epochs.list};
        struct str user = key_log(all.keys[u])->user_id;
        if (user.len == 0)
            continue; /* the bot's own key is everybody's */
        int64_t t_us = 0;
        for (size_t i = 0; i < script_count(s); i++) {
            const struct script_step *step = script_at(s, i);
            t_us = step->as_of_us;
            if (str_equal(step->e.user_id, user))
                apply(&one, step, t_us);
        }
        assert_same_keys(all.keys[u], world_key(&one, user, STR("elena")), t_us, seed);
        world_free(&one);
    }
    world_free(&all);
    test_epochs_deinit(&epochs);
    script_free(s);
}

/* "params":"01234567" */
static bool names_params(struct str details)
{
    static const char key[] = "\"params\":\"";
    for (size_t i = 0; i + sizeof(key) + 8 <= details.len; i++)
        if (memcmp(details.ptr + i, key, sizeof(key) - 1) == 0)
            return details.ptr[i + sizeof(key) - 1 + 8] == '"';
    return false;
}

/* Every table's row says why a column is NULL, and its JSON stays inside the bounds. */
static void test_rows_explain_every_null(void **state)
{
    (void)state;
    struct script_options o = {script_seed(7000), SCRIPT_ALL, 300, 2, START_US, 20 * US_PER_DAY};
    struct script *s = script_new(&o);
    struct world w = {.learns = true};
    for (size_t i = 0; i < script_count(s); i++) {
        world_step(&w, script_at(s, i));
        struct key *k = world_key_about(&w, &script_at(s, i)->e);
        for (enum table_id t = 0; t < TABLE_COUNT; t++) {
            struct row row;
            row_init(&row, &tables[t]);
            assert_int_equal(key_emit(k, t, 0, &row, NULL), STATUS_OK);
            size_t nulls = 0;
            for (size_t c = 0; c < tables[t].n_columns; c++)
                nulls += !row.values[c].set;
            assert_int_equal(nulls, row.n_reasons);
            assert_true(row_details(&row).len <= LIMIT_DETAILS_BYTES);
            assert_true(names_params(row_details(&row)));
            assert_true(row.confidence >= 0 && row.confidence <= 1);
            row_deinit(&row);
        }
    }
    world_free(&w);
    script_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_engine_fills_every_operation),
        cmocka_unit_test(test_a_restart_changes_nothing),
        cmocka_unit_test(test_emitting_changes_nothing),
        cmocka_unit_test(test_the_order_of_arrival_does_not_matter),
        cmocka_unit_test(test_the_order_of_deletions_does_not_matter_to_rows),
        cmocka_unit_test(test_insert_then_delete_is_never_inserted),
        cmocka_unit_test(test_users_do_not_mix),
        cmocka_unit_test(test_rows_explain_every_null),
    };
    return cmocka_run_group_tests_name("contract/engines", tests, NULL, NULL);
}
