/*
 * tests/contract/test_metamorphic.c - what must happen to the rows of every registered engine when
 * the events change in a known way (ENGINES.md section 9). M1, M3, M6 and M7 are in test_engines.c;
 * M8 and M13 need the whole program: tests/integration/test_scripts.py.
 */
#include "core/clock.h"
#include "engines/text.h"
#include "tests/contract/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01, a Thursday */
#define ROUNDS   6

/* Engines with declared lifetime state (ENGINES.md 9, M9): what left the window still counts. */
#define LIFETIME \
    (1u << TABLE_MEMORY_HEALTH | 1u << TABLE_MEMORY_BEHAVIOR | 1u << TABLE_ENGAGEMENT_OPPORTUNITIES)

static struct script *script_of(uint64_t seed, unsigned features, size_t n_steps, int64_t span_us)
{
    struct script_options o = {seed, features, n_steps, 2, START_US, span_us};
    return script_new(&o);
}

/* M2: delivery at least once. Now and then the last steps come again, in their order. */
static void test_a_stretch_delivered_again_changes_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = script_seed(2200 + round), random = seed;
        struct script *s = script_of(seed, SCRIPT_ALL & ~SCRIPT_INBOX, 400, 25 * US_PER_DAY);
        struct world once = {0}, again = {0};
        for (size_t i = 0; i < script_count(s); i++) {
            world_step(&once, script_at(s, i));
            world_step(&again, script_at(s, i));
            if (script_below(&random, 25) > 0)
                continue;
            size_t back = script_below(&random, 30);
            for (size_t j = i > back ? i - back : 0; j <= i; j++) {
                const struct script_step *step = script_at(s, j);
                world_apply(&again, &step->e, step->source, step->ver, script_at(s, i)->as_of_us);
            }
        }
        world_assert_same_rows(&once, &again, script_end_us(s), 0, seed);
        world_free(&once);
        world_free(&again);
        script_free(s);
    }
}

/* M4: an edit is a deletion and an insertion. */
static void test_an_edit_is_a_deletion_and_an_insertion(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = script_seed(2400 + round);
        struct script *s =
            script_of(seed, SCRIPT_EDITS | SCRIPT_TRAITS | SCRIPT_EMBEDDINGS, 500, 20 * US_PER_DAY);
        struct world edited = {0}, replaced = {0};
        size_t edits = 0;
        for (size_t i = 0; i < script_count(s); i++) {
            struct script_step step = *script_at(s, i);
            bool edit = step.e.type == EVENT_MESSAGE && step.e.u.message.op == MESSAGE_UPDATE;
            if (edit && !step.e.u.message.content.ptr)
                continue; /* what it leaves unchanged would be gone */
            world_step(&edited, &step);
            if (edit) {
                struct script_step gone = step;
                gone.e.type = EVENT_MESSAGE_DELETED;
                world_step(&replaced, &gone);
                step.e.u.message.op = MESSAGE_INSERT;
                edits++;
            }
            world_step(&replaced, &step);
        }
        assert_true(edits > 10);
        world_assert_same_rows(&edited, &replaced, script_end_us(s), 0, seed);
        world_free(&edited);
        world_free(&replaced);
        script_free(s);
    }
}

/* Moves every date and time in the text ("2026-01-05", "2026-01-05T14:00:00Z") by so much. */
static void move_times(char *text, int64_t by_us)
{
    for (char *at = text; *at; at++) {
        int year, month, day, len = 0;
        if (at > text && at[-1] >= '0' && at[-1] <= '9')
            continue;
        if (sscanf(at, "20%2d-%2d-%2d%n", &year, &month, &day, &len) != 3 || len != 10)
            continue;
        char in[40], out[40];
        int64_t t_us = 0;
        snprintf(in, sizeof(in), "%.10sT00:00:00Z", at);
        if (time_parse(in, strlen(in), &t_us) != 0)
            continue;
        time_format(t_us + by_us, 0, out);
        memcpy(at, out, 10);
        at += 9;
    }
}

/* M5: whole weeks later everything is the same, but later. */
static void test_weeks_later_only_times_differ(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = script_seed(2500 + round);
        int64_t by_us = (int64_t)(1 + round) * 7 * US_PER_DAY;
        struct script *s = script_of(seed, SCRIPT_ALL, 500, 35 * US_PER_DAY);
        struct world now = {0}, later = {0};
        for (size_t i = 0; i < script_count(s); i++) {
            struct script_step step = *script_at(s, i);
            world_step(&now, &step);
            step.e.at_us += by_us;
            step.as_of_us += by_us;
            world_step(&later, &step);
        }
        for (size_t i = 0; i < now.n; i++)
            for (enum table_id t = 0; t < TABLE_COUNT; t++) {
                char *a = world_row(now.keys[i], t, script_end_us(s));
                char *b = world_row(later.keys[i], t, script_end_us(s) + by_us);
                move_times(a, by_us);
                if (strcmp(a, b) != 0)
                    print_error("seed %llu\n  %s\n  %s\n", (unsigned long long)seed, a, b);
                assert_string_equal(a, b);
                free(a);
                free(b);
            }
        world_free(&now);
        world_free(&later);
        script_free(s);
    }
}

/* M6: names mean nothing. */
static void rename_user(struct str *user, char name[64])
{
    if (user->len)
        *user = (struct str){
            name, (size_t)snprintf(name, 64, "Ωmega \"%.*s\"", (int)user->len, user->ptr)};
}

static void test_other_names_give_the_same_rows(void **state)
{
    (void)state;
    uint64_t seed = script_seed(2600);
    struct script *s = script_of(seed, SCRIPT_ALL, 500, 20 * US_PER_DAY);
    struct world plain = {0}, renamed = {0};
    for (size_t i = 0; i < script_count(s); i++) {
        struct script_step step = *script_at(s, i);
        char name[64], tag[64];
        world_step(&plain, &step);
        step.e.bot_name = STR("other-bot");
        rename_user(&step.e.user_id, name);
        for (size_t k = 0; step.e.type == EVENT_METRIC && k < step.e.u.metric.n_tags; k++)
            if (str_equal(step.e.u.metric.tags[k].key, STR("user_id")))
                rename_user(&step.e.u.metric.tags[k].value, tag);
        world_step(&renamed, &step);
    }
    size_t compared = 0;
    for (size_t i = 0; i < plain.n; i++)
        for (enum table_id t = 0; t < TABLE_COUNT; t++) {
            assert_int_equal(key_has_row(plain.keys[i], t), key_has_row(renamed.keys[i], t));
            if (!key_has_row(plain.keys[i], t))
                continue;
            struct row a, b;
            row_init(&a, &tables[t]);
            row_init(&b, &tables[t]);
            assert_int_equal(key_emit(plain.keys[i], t, script_end_us(s), &a, NULL), STATUS_OK);
            assert_int_equal(key_emit(renamed.keys[i], t, script_end_us(s), &b, NULL), STATUS_OK);
            if (row_payload_hash(&a) != row_payload_hash(&b)) {
                struct buf text;
                buf_init(&text, 1 << 20);
                assert_int_equal(row_to_json(&a, &text), STATUS_OK);
                assert_int_equal(buf_append(&text, "\n", 1), STATUS_OK);
                assert_int_equal(row_to_json(&b, &text), STATUS_OK);
                fprintf(stderr, "%.*s\n", (int)text.len, text.data);
                fail();
            }
            row_deinit(&a);
            row_deinit(&b);
            compared++;
        }
    assert_true(compared >= 2);
    world_free(&plain);
    world_free(&renamed);
    script_free(s);
}

/* M9: a window that has moved on shows what a fresh start on its events shows. */
static void test_the_window_forgets_what_left_it(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint64_t seed = script_seed(2900 + round);
        unsigned features = SCRIPT_DISORDER | SCRIPT_TRAITS | SCRIPT_EMBEDDINGS | SCRIPT_METRICS;
        struct script *s = script_of(seed, features, 900, 55 * US_PER_DAY);
        int64_t end_us = script_end_us(s);
        int64_t horizon_us = time_floor_us(end_us, US_PER_HOUR) - RECORD_WINDOW_US;
        /* Latencies and sums by user are kept by day. */
        int64_t first_day_us = time_floor_us(horizon_us, US_PER_DAY);
        struct world all = {0}, suffix = {0};
        size_t kept = 0;
        for (size_t i = 0; i < script_count(s); i++) {
            const struct script_step *step = script_at(s, i);
            world_step(&all, step);
            bool metric = step->e.type == EVENT_METRIC;
            if (step->e.at_us < (metric ? first_day_us : horizon_us) &&
                step->e.type != EVENT_CHARACTER)
                continue;
            world_step(&suffix, step);
            kept++;
        }
        assert_true(kept > 100 && kept < script_count(s) - 100);
        world_assert_same_rows(&suffix, &all, end_us, LIFETIME, seed);
        world_free(&all);
        world_free(&suffix);
        script_free(s);
    }
}

static json_t *column(struct key *k, enum table_id table, int64_t as_of_us, const char *name)
{
    char *line = world_row(k, table, as_of_us);
    json_t *root = json_loads(line, 0, NULL);
    json_t *value = json_incref(json_object_get(json_object_get(root, "row"), name));
    json_decref(root);
    free(line);
    return value;
}

static void assert_same_number(const json_t *a, const json_t *b, const char *name)
{
    const json_t *x = json_object_get(a, name), *y = json_object_get(b, name);
    assert_non_null(x);
    assert_non_null(y);
    assert_true(json_number_value(x) == json_number_value(y));
}

static void compare_styles(struct key *single, struct key *twice, int64_t end_us)
{
    static const char *const rates[] = {"question_rate", "exclaim_rate",     "emoji_rate",
                                        "link_rate",     "upper_start_rate", "end_punct_rate"};
    json_t *a = column(single, TABLE_CONVERSATION_PATTERNS, end_us, "communication_style");
    json_t *b = column(twice, TABLE_CONVERSATION_PATTERNS, end_us, "communication_style");
    assert_true(json_is_object(a));
    for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        assert_same_number(a, b, rates[i]);
    assert_same_number(json_object_get(a, "words"), json_object_get(b, "words"), "p50");
    assert_same_number(json_object_get(a, "words"), json_object_get(b, "words"), "mean");
    assert_int_equal(2 * json_integer_value(json_object_get(a, "n")),
                     json_integer_value(json_object_get(b, "n")));
    json_decref(a);
    json_decref(b);
}

static double width(const json_t *trait)
{
    const json_t *ci = json_object_get(trait, "ci95");
    return json_number_value(json_array_get(ci, 1)) - json_number_value(json_array_get(ci, 0));
}

static const json_t *find_trait(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "trait")), name) == 0)
            return json_array_get(list, i);
    return NULL;
}

static size_t compare_traits(struct key *single, struct key *twice, int64_t end_us)
{
    json_t *a = column(single, TABLE_PERSONALITY_PROFILES, end_us, "dominant_traits");
    json_t *b = column(twice, TABLE_PERSONALITY_PROFILES, end_us, "dominant_traits");
    size_t compared = 0;
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *x = json_array_get(a, i);
        const json_t *y = find_trait(b, json_string_value(json_object_get(x, "trait")));
        if (!y)
            continue; /* one with fewer activations overtook it */
        assert_same_number(x, y, "frequency");
        assert_true(width(y) < width(x));
        compared++;
    }
    json_decref(a);
    json_decref(b);
    return compared;
}

static size_t compare_averages(struct key *single, struct key *twice, int64_t end_us)
{
    static const char *const names[] = {"engagement_score_avg", "satisfaction_score_avg",
                                        "coherence_score_avg"};
    size_t compared = 0;
    for (size_t i = 0; i < 3; i++) {
        json_t *a = column(single, TABLE_PERFORMANCE_720H, end_us, names[i]);
        json_t *b = column(twice, TABLE_PERFORMANCE_720H, end_us, names[i]);
        if (json_is_number(a)) {
            assert_true(json_number_value(a) == json_number_value(b));
            compared++;
        }
        json_decref(a);
        json_decref(b);
    }
    return compared;
}

/* M10: everything twice keeps rates and means, and makes intervals narrower. */
static void test_everything_twice_keeps_the_rates(void **state)
{
    (void)state;
    uint64_t seed = script_seed(3010);
    struct script *s = script_of(seed, SCRIPT_TRAITS | SCRIPT_METRICS, 900, 12 * US_PER_DAY);
    struct world single = {0}, twice = {0};
    for (size_t i = 0; i < script_count(s); i++) {
        struct script_step step = *script_at(s, i);
        char id[64];
        world_step(&single, &step);
        world_step(&twice, &step);
        step.e.id = (struct str){
            id, (size_t)snprintf(id, sizeof(id), "%.*s-twin", (int)step.e.id.len, step.e.id.ptr)};
        step.e.at_us += 1;
        world_step(&twice, &step);
    }
    size_t traits = 0, averages = 0, styles = 0;
    for (size_t i = 0; i < single.n; i++) {
        struct key *a = single.keys[i];
        struct key *b = world_key(&twice, key_log(a)->user_id, key_log(a)->bot_name);
        if (key_has_row(a, TABLE_PERFORMANCE_720H))
            averages += compare_averages(a, b, script_end_us(s));
        if (!key_has_row(a, TABLE_CONVERSATION_PATTERNS))
            continue;
        compare_styles(a, b, script_end_us(s));
        styles++;
        traits += compare_traits(a, b, script_end_us(s));
    }
    assert_true(styles == 2);
    assert_true(traits > 0);
    assert_true(averages > 0);
    world_free(&single);
    world_free(&twice);
    script_free(s);
}

/* M11: the order of the words does not matter to the vector of a message. */
static void test_the_order_of_words_does_not_change_the_vector(void **state)
{
    (void)state;
    uint64_t random = script_seed(3110);
    static const char *const words[] = {"dog",   "дом", "süß", "猫",  "rust",   "vet",
                                        "leash", "🎉",   "42",  "dog", "θάλασσα"};
    size_t n = sizeof(words) / sizeof(words[0]);
    struct text_features first = {0};
    for (int round = 0; round < 200; round++) {
        size_t order[sizeof(words) / sizeof(words[0])];
        char text[256];
        size_t len = 0;
        for (size_t i = 0; i < n; i++) {
            size_t j = script_below(&random, (uint32_t)i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        for (size_t i = 0; i < n; i++) {
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s ", words[order[i]]);
        }
        struct text_features f;
        text_extract(str_from(text), NULL, &f);
        if (round == 0)
            first = f;
        assert_int_equal(f.n_vector, first.n_vector);
        assert_memory_equal(f.vector, first.vector, f.n_vector * sizeof(f.vector[0]));
        assert_int_equal(f.words, first.words);
        assert_int_equal(f.chars, first.chars);
    }
}

/* M12 and M15: any bytes as text give rows whose numbers are numbers and whose JSON is JSON. */
static void check_row(struct key *k, enum table_id t, int64_t as_of_us)
{
    struct row row;
    row_init(&row, &tables[t]);
    assert_int_equal(key_emit(k, t, as_of_us, &row, NULL), STATUS_OK);
    for (size_t c = 0; c < tables[t].n_columns; c++) {
        if (!row.values[c].set)
            continue;
        if (tables[t].columns[c].type == COLUMN_FLOAT)
            assert_true(row.values[c].number - row.values[c].number == 0);
        if (tables[t].columns[c].type != COLUMN_JSON)
            continue;
        struct str json = row_value(&row, c);
        assert_true(json.len <= LIMIT_JSON_BYTES);
        json_t *value =
            json_loadb(json.ptr, json.len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        assert_non_null(value);
        json_decref(value);
    }
    struct str details = row_details(&row);
    json_t *value = json_loadb(details.ptr, details.len, 0, NULL);
    assert_non_null(value);
    json_decref(value);
    row_deinit(&row);
}

static void test_any_bytes_give_valid_rows(void **state)
{
    (void)state;
    uint64_t random = script_seed(3120);
    struct world w = {0};
    static char text[3000];
    int64_t t_us = START_US;
    for (uint32_t i = 0; i < 1500; i++) {
        size_t len = script_below(&random, i % 100 ? 60 : sizeof(text));
        for (size_t b = 0; b < len; b++)
            text[b] = (char)script_random(&random);
        char id[32], trait[40];
        struct event e = {.type = EVENT_MESSAGE,
                          .id = {id, (size_t)snprintf(id, sizeof(id), "m%u", i)},
                          .user_id = STR("u"),
                          .bot_name = STR("b"),
                          .at_us = t_us += script_below(&random, 900) * US_PER_SECOND};
        struct event_message *m = &e.u.message;
        m->role = i % 2 ? ROLE_BOT : ROLE_USER;
        m->op = MESSAGE_INSERT;
        m->content = (struct str){text, len};
        m->emotion = i % 3 ? STR("joy") : (struct str){text, len % 20};
        m->emotion_confidence = script_below(&random, 1001) / 1000.0;
        if (m->role == ROLE_BOT) {
            memset(trait, (int)(1 + script_below(&random, 255)), sizeof(trait));
            m->n_traits = 1;
            m->traits[0].name = (struct str){trait, 1 + script_below(&random, sizeof(trait))};
            m->traits[0].weight = script_below(&random, 1000) / 500.0;
        }
        world_apply(&w, &e, SOURCE_POSTGRES, i + 1, t_us);
        if (i % 16 == 0)
            world_apply(&w,
                        &(struct event){.type = EVENT_MEMORY,
                                        .id = e.id,
                                        .user_id = e.user_id,
                                        .bot_name = e.bot_name,
                                        .at_us = t_us,
                                        .u.memory = {.op = i % 32 ? MEMORY_ACCESS : MEMORY_CREATE,
                                                     .memory_id = {text, 1 + len % 60},
                                                     .memory_type = {text, len % 70},
                                                     .content = m->content,
                                                     .score = 0.5,
                                                     .importance = 0.9}},
                        SOURCE_POSTGRES, i + 1, t_us);
        for (enum table_id t = 0; i % 25 == 0 && t < TABLE_COUNT; t++)
            if (key_has_row(w.keys[0], t))
                check_row(w.keys[0], t, t_us);
    }
    world_free(&w);
}

/* R of a memory in the row of memory_health. */
static double retention_shown(struct key *k, int64_t as_of_us)
{
    json_t *snapshot = column(k, TABLE_MEMORY_HEALTH, as_of_us, "memory_snapshot");
    const json_t *m = json_array_get(json_object_get(snapshot, "stale"), 0);
    if (!m)
        m = json_array_get(json_object_get(snapshot, "fresh"), 0);
    assert_non_null(m);
    double r = json_number_value(json_object_get(m, "R"));
    json_decref(snapshot);
    return r;
}

/* M14: retention falls with time and does not fall with one more spaced recall. */
static void test_retention_falls_with_time_and_rises_with_practice(void **state)
{
    (void)state;
    double before[5] = {0};
    for (int recalls = 0; recalls < 5; recalls++) {
        struct world w = {0};
        struct event e = {
            .type = EVENT_MEMORY,
            .id = STR("c"),
            .user_id = STR("u"),
            .bot_name = STR("b"),
            .at_us = START_US,
            .u.memory = {
                .op = MEMORY_CREATE, .memory_id = STR("m"), .score = 0.5, .importance = 0.5}};
        world_apply(&w, &e, SOURCE_POSTGRES, 1, START_US);
        for (int i = 0; i < recalls; i++) {
            char id[8];
            e.id = (struct str){id, (size_t)snprintf(id, sizeof(id), "a%d", i)};
            e.u.memory.op = MEMORY_ACCESS;
            e.at_us = START_US + (1 + i) * US_PER_DAY;
            world_apply(&w, &e, SOURCE_POSTGRES, (uint64_t)i + 2, e.at_us);
        }
        double last = 1;
        for (int day = 6; day < 26; day += 5) {
            double r = retention_shown(w.keys[0], START_US + day * US_PER_DAY);
            assert_true(r > 0 && r < last);
            assert_true(r >= before[day / 5]);
            before[day / 5] = last = r;
        }
        world_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_stretch_delivered_again_changes_nothing),
        cmocka_unit_test(test_an_edit_is_a_deletion_and_an_insertion),
        cmocka_unit_test(test_weeks_later_only_times_differ),
        cmocka_unit_test(test_other_names_give_the_same_rows),
        cmocka_unit_test(test_the_window_forgets_what_left_it),
        cmocka_unit_test(test_everything_twice_keeps_the_rates),
        cmocka_unit_test(test_the_order_of_words_does_not_change_the_vector),
        cmocka_unit_test(test_any_bytes_give_valid_rows),
        cmocka_unit_test(test_retention_falls_with_time_and_rises_with_practice),
    };
    return cmocka_run_group_tests_name("contract/metamorphic", tests, NULL, NULL);
}
