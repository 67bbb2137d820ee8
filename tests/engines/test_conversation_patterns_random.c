/*
 * Goal: a row of conversation patterns is the same whatever happens to the log.
 * Method: random scripts of inserts, edits, deletes, late messages, expiry and restarts, after
 * which the row must equal the oracle's byte for byte. A failing script prints its seed.
 */
#include "tests/engines/patterns_rig.h"
#include "tests/support/script.h"

#include <setjmp.h> /* cmocka needs these four */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static unsigned below(uint64_t *seed, unsigned n)
{
    return (unsigned)(next(seed) >> 16) % n;
}

/* Three topics, scripts without word spaces, right-to-left, combining marks, emoji, broken UTF-8.
 */
static const char *const vocabulary[][8] = {
    {"dog", "leg", "vet", "limp", "walk", "Tierarzt", "bandage", "Hund"},
    {"rust", "borrow", "checker", "lifetime", "https://a.example/b", "compile", "код", "ошибка"},
    {"猫がすき", "とても", "วันนี้อากาศดี", "مرحبا", "naïve", "e\xcc\x81te", "\xf0\x9f\x98\x80",
     "\xff\xc3"},
};

static void make_text(uint64_t *random, char out[RIG_TEXT_MAX])
{
    unsigned topic = below(random, 3);
    unsigned n = below(random, 10) == 0 ? 40 + below(random, 60) : below(random, 9);
    size_t len = 0;
    out[0] = '\0';
    for (unsigned i = 0; i < n && len + 40 < RIG_TEXT_MAX; i++)
        len += (size_t)snprintf(out + len, RIG_TEXT_MAX - len, "%s ",
                                vocabulary[below(random, 12) ? topic : 1][below(random, 8)]);
    static const char *const ends[] = {"", "?", "!", ".", "\xe3\x80\x82", "?!"};
    snprintf(out + len, RIG_TEXT_MAX - len, "%s", ends[below(random, 6)]);
}

static void compare(struct rig *r)
{
    struct error err;
    struct row naive;
    row_init(&naive, &tables[TABLE_CONVERSATION_PATTERNS]);
    unsigned long long seed = r->seed;
    if (key_advance(r->key, r->now_us, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", seed, err.text);
    enum status st = oracle_row(r->oracle, TABLE_CONVERSATION_PATTERNS, r->name, r->bot, r->now_us,
                                &naive, &err);
    if (key_has_row(r->key, TABLE_CONVERSATION_PATTERNS) != (st == STATUS_OK))
        fail_msg("seed %llu: the oracle says %s", seed, status_name(st));
    if (st == STATUS_OK) {
        struct buf a, b;
        buf_init(&a, 1 << 20);
        buf_init(&b, 1 << 20);
        rig_emit(r);
        assert_int_equal(row_to_json(&r->row, &a), STATUS_OK);
        assert_int_equal(row_to_json(&naive, &b), STATUS_OK);
        size_t at = 0;
        while (at < a.len && at < b.len && a.data[at] == b.data[at])
            at++;
        if (at < a.len || at < b.len) {
            size_t from = at > 40 ? at - 40 : 0;
            fail_msg("seed %llu, %u messages: engine ...%.*s, oracle ...%.*s", seed,
                     (unsigned)r->row.event_count, 160, a.data + from, 160, b.data + from);
        }
        if (r->row.valid_until_us != naive.valid_until_us)
            fail_msg("seed %llu: valid until %lld, oracle %lld", seed,
                     (long long)r->row.valid_until_us, (long long)naive.valid_until_us);
        buf_deinit(&a);
        buf_deinit(&b);
    }
    row_deinit(&naive);
}

static void restart(struct rig *r)
{
    struct error err;
    struct buf page, again;
    buf_init(&page, 4 << 20);
    buf_init(&again, 4 << 20);
    assert_int_equal(key_encode(r->key, &page), STATUS_OK);
    struct key *copy = NULL;
    if (key_decode((struct str){page.data, page.len}, &copy, &err) != STATUS_OK)
        fail_msg("seed %llu: %s", (unsigned long long)r->seed, err.text);
    assert_int_equal(key_encode(copy, &again), STATUS_OK);
    if (!str_equal((struct str){page.data, page.len}, (struct str){again.data, again.len}))
        fail_msg("seed %llu: a decoded page encodes differently", (unsigned long long)r->seed);
    key_free(r->key);
    r->key = copy;
    buf_deinit(&page);
    buf_deinit(&again);
}

/* How much time passes before an event: within a turn, a session, a day, or a month. */
static int64_t make_pause(uint64_t *random, bool dense)
{
    unsigned kind = below(random, dense ? 3 : 40);
    if (kind < 20)
        return below(random, 180) * US_PER_SECOND;
    if (kind < 34)
        return below(random, 90) * US_PER_MINUTE;
    if (kind < 39)
        return below(random, 40) * US_PER_HOUR;
    return below(random, 40) * US_PER_DAY;
}

struct plan {
    unsigned events;
    unsigned emotions; /* one message in so many has one; 0 = none */
    unsigned compares; /* after one event in so many */
    bool dense;        /* long runs, so that sessions are split */
};

static void one_message(struct rig *r, uint64_t *random, const struct plan *s, unsigned *ids)
{
    static const char *const labels[] = {"joy", "sadness", "anger", "neutral", "no such label"};
    char text[RIG_TEXT_MAX];
    make_text(random, text);
    bool update = *ids > 0 && below(random, 8) == 0;
    bool late = below(random, 6) == 0;
    struct said said = {
        .role = below(random, 2) ? ROLE_USER : ROLE_BOT,
        .op = update ? MESSAGE_UPDATE : MESSAGE_INSERT,
        .t_us = r->now_us - (late ? make_pause(random, s->dense) : 0),
        .id = update ? below(random, *ids) : (*ids)++,
        .text = update && below(random, 3) == 0 ? NULL : text,
        .emotion = s->emotions && below(random, s->emotions) == 0 ? labels[below(random, 5)] : NULL,
        .confidence = below(random, 101) / 100.0,
    };
    rig_say(r, &said);
}

static void run_script(uint64_t seed, const struct plan *s)
{
    struct rig r;
    rig_start(&r);
    r.seed = seed;
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    unsigned ids = 0;
    for (unsigned i = 0; i < s->events; i++) {
        r.now_us += make_pause(&random, s->dense);
        unsigned kind = below(&random, 40);
        if (kind < 4 && ids > 0)
            rig_take_back(&r, below(&random, ids), r.now_us);
        else if (kind == 4)
            restart(&r);
        else
            one_message(&r, &random, s, &ids);
        if (below(&random, s->compares) == 0)
            compare(&r);
    }
    compare(&r);
    r.now_us += 31 * US_PER_DAY;
    compare(&r);
    rig_stop(&r);
}

static void test_random_scripts_agree_with_the_oracle(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= script_rounds(2000); seed++)
        run_script(seed, &(struct plan){.events = 10 + (unsigned)(seed % 60),
                                        .emotions = (unsigned)(seed % 4),
                                        .compares = 10});
}

static void test_long_runs_agree_with_the_oracle(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= script_rounds(10); seed++)
        run_script(seed,
                   &(struct plan){.events = 450, .emotions = 2, .compares = 30, .dense = true});
}

static void test_a_log_at_its_cap_agrees_with_the_oracle(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    uint64_t random = 7;
    unsigned ids = 0;
    const struct plan s = {.emotions = 2};
    while (ids < LIMIT_MESSAGES + 60) {
        r.now_us += 1 + below(&random, 400) * US_PER_SECOND;
        one_message(&r, &random, &s, &ids);
    }
    compare(&r);
    assert_int_equal(r.row.state_flags & ROW_TRUNCATED, ROW_TRUNCATED);
    assert_int_equal(r.row.event_count, LIMIT_MESSAGES);
    for (unsigned i = 0; i < 30; i++)
        rig_take_back(&r, ids - 1 - 40 * i, r.now_us);
    compare(&r);
    rig_stop(&r);
}

/* Key and oracle of each user of a shared script, side by side. */
#define USERS_MAX 3
struct crowd {
    struct rig rigs[USERS_MAX]; /* all share the first one's oracle */
    size_t n;
};

static struct rig *crowd_find(struct crowd *c, const struct event *e, struct oracle *oracle)
{
    struct error err;
    for (size_t i = 0; i < c->n; i++)
        if (str_equal(c->rigs[i].name, e->user_id))
            return &c->rigs[i];
    assert_true(c->n < USERS_MAX);
    struct rig *r = &c->rigs[c->n++];
    *r = (struct rig){.oracle = oracle, .name = e->user_id, .bot = e->bot_name};
    assert_int_equal(key_new(r->name, r->bot, &r->key, &err), STATUS_OK);
    row_init(&r->row, &tables[TABLE_CONVERSATION_PATTERNS]);
    return r;
}

static void play(struct crowd *c, const struct script *s, uint64_t seed, bool with_oracle)
{
    struct error err;
    struct oracle *oracle = NULL;
    *c = (struct crowd){.n = 0};
    if (with_oracle)
        assert_int_equal(oracle_new(&oracle, &err), STATUS_OK);
    for (size_t i = 0; i < script_count(s); i++) {
        const struct script_step *step = script_at(s, i);
        struct feature f;
        struct key_change change;
        if (!(engine_scopes(&step->e) & 1u << ENGINE_USER) || !feature_wanted(step->e.type))
            continue;
        feature_extract(&step->e, step->source, step->ver, NULL, &f);
        struct rig *r = crowd_find(c, &step->e, oracle);
        r->seed = seed;
        r->now_us = step->as_of_us;
        if (key_apply(r->key, &f, step->as_of_us, &change, &err) != STATUS_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
        if (oracle && oracle_add(oracle, &step->e, step->source, step->ver, step->as_of_us, &err) !=
                          STATUS_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, err.text);
        if (oracle && i % 37 == 0)
            compare(r);
    }
    for (size_t i = 0; i < c->n; i++)
        c->rigs[i].now_us = script_end_us(s);
}

static void disperse(struct crowd *c)
{
    if (c->n > 0)
        oracle_free(c->rigs[0].oracle);
    for (size_t i = 0; i < c->n; i++) {
        key_free(c->rigs[i].key);
        row_deinit(&c->rigs[i].row);
    }
}

static void test_scripts_with_every_kind_of_trouble_agree_with_the_oracle(void **state)
{
    (void)state;
    uint64_t first = script_seed(1);
    for (uint64_t seed = first; seed < first + script_rounds(200); seed++) {
        struct script *s = script_new(&(struct script_options){.seed = seed,
                                                               .features = SCRIPT_ALL,
                                                               .n_steps = 120,
                                                               .n_users = 2,
                                                               .start_us = START_US,
                                                               .span_us = 20 * US_PER_DAY});
        struct crowd c;
        play(&c, s, seed, true);
        for (size_t i = 0; i < c.n; i++)
            compare(&c.rigs[i]);
        disperse(&c);
        script_free(s);
    }
}

static void test_the_order_of_arrival_does_not_matter(void **state)
{
    (void)state;
    uint64_t first = script_seed(1);
    for (uint64_t seed = first; seed < first + script_rounds(100); seed++) {
        struct script *s =
            script_new(&(struct script_options){.seed = seed,
                                                .features = SCRIPT_EDITS | SCRIPT_DELETES,
                                                .n_steps = 150,
                                                .n_users = 1,
                                                .start_us = START_US,
                                                .span_us = 10 * US_PER_DAY});
        struct crowd in_order, shuffled;
        play(&in_order, s, seed, false);
        script_shuffle(s, seed);
        play(&shuffled, s, seed, false);
        assert_int_equal(in_order.n, 1);
        in_order.rigs[0].now_us = shuffled.rigs[0].now_us = script_end_us(s);
        rig_emit(&in_order.rigs[0]);
        rig_emit(&shuffled.rigs[0]);
        if (row_payload_hash(&in_order.rigs[0].row) != row_payload_hash(&shuffled.rigs[0].row))
            fail_msg("seed %llu: another order gives another row", (unsigned long long)seed);
        disperse(&in_order);
        disperse(&shuffled);
        script_free(s);
    }
}

static void test_text_of_any_script_gives_rates_between_zero_and_one(void **state)
{
    (void)state;
    struct rig r;
    rig_start(&r);
    r.now_us = START_US + US_PER_DAY;
    for (unsigned i = 0; i < 24; i++)
        rig_user(&r, START_US + i * US_PER_MINUTE, i, vocabulary[2][i % 8]);
    rig_emit(&r);
    struct str style = row_value(&r.row, CP_COMMUNICATION_STYLE);
    rig_assert_has(style, "\"n\":24,");
    rig_assert_has(style, "\"emoji_rate\":0.125,");
    assert_true(str_is_text(style));
    compare(&r);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_of_any_script_gives_rates_between_zero_and_one),
        cmocka_unit_test(test_random_scripts_agree_with_the_oracle),
        cmocka_unit_test(test_a_log_at_its_cap_agrees_with_the_oracle),
        cmocka_unit_test(test_scripts_with_every_kind_of_trouble_agree_with_the_oracle),
        cmocka_unit_test(test_the_order_of_arrival_does_not_matter),
        cmocka_unit_test(test_long_runs_agree_with_the_oracle),
    };
    return cmocka_run_group_tests_name("engines/conversation_patterns_random", tests, NULL, NULL);
}
