/*
 * tests/server/test_config.c - the configuration is read, refused, overridden and printed as
 * config.h says. Files are texts; the environment is set and cleared by each test.
 */
#include "core/clock.h"
#include "server/config_schema.h"
#include "server/suggest.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A table that mapping_check() accepts, to be indented under source. */
#define TABLES                                                                                 \
    "  tables:\n"                                                                              \
    "    - relation: chat.message\n"                                                           \
    "      event: message\n"                                                                   \
    "      fields:\n"                                                                          \
    "        id: id\n"                                                                         \
    "        user_id: user_id\n"                                                               \
    "        bot_name: {const: elena}\n"                                                       \
    "        role: {column: role, map: {user: user, 'no': bot, system: \"\"}, default: bot}\n" \
    "        content: content\n"                                                               \
    "        at: {column: created_at, unit: epoch_ms}\n"                                       \
    "        emotion: {column: metadata, path: emotion.label}\n"

static const char whole[] = "pipeline: chat\n"
                            "source:\n"
                            "  conninfo: host=/tmp dbname=chat\n"
                            "  slot: s1\n"
                            "  publication: p1\n"
                            "  create: no\n"
                            "  on_slot_lost: rebuild\n"
                            "  snapshot: never\n"
                            "  snapshot_window: 90d\n"
                            "  snapshot_jobs: 3\n" TABLES "sink:\n"
                            "  conninfo: dbname=cache\n"
                            "  ttl: 1m30s\n"
                            "state: {dir: /tmp/x, memory: 64MiB, workers: 3}\n"
                            "link: {url: \"tcp://127.0.0.1:7000\"}\n"
                            "triggers:\n"
                            "  conversation_patterns: {count: 7, max_age: 250ms}\n"
                            "triggers_by_bot:\n"
                            "  Elena Two:\n"
                            "    conversation_patterns: {count: 1}\n"
                            "catch_up_lag: 2s\n"
                            "log: {level: debug}\n";

struct outcome {
    enum status st;
    struct config *config;
    struct buf problems;
    struct error err;
};

static struct outcome parse_with(const char *yaml, const struct config_input *in)
{
    struct outcome o = {.config = NULL};
    buf_init(&o.problems, CONFIG_PROBLEM_BYTES);
    o.st = config_parse(str_from(yaml), "f.yaml", in, &o.config, &o.problems, &o.err);
    /* For strstr() below. */
    assert_int_equal(buf_append(&o.problems, "", 1), STATUS_OK);
    return o;
}

static struct outcome parse(const char *yaml)
{
    return parse_with(yaml, &(struct config_input){.file = NULL});
}

static void outcome_deinit(struct outcome *o)
{
    config_free(o->config);
    buf_deinit(&o->problems);
}

/* The text is refused with exactly these lines. */
static void assert_problems(const char *yaml, const char *expected)
{
    struct outcome o = parse(yaml);
    assert_string_equal(o.problems.data, expected);
    assert_int_equal(o.st, STATUS_INVALID);
    assert_null(o.config);
    outcome_deinit(&o);
}

static const struct engine_ops *conversation(void)
{
    const struct engine_ops *ops = engine_find("conversation_patterns");
    assert_non_null(ops);
    return ops;
}

/* Every value of a whole file arrives in its member and unit. */
static void test_a_whole_file_fills_every_member(void **state)
{
    (void)state;
    struct outcome o = parse(whole);
    assert_string_equal(o.problems.data, "");
    assert_int_equal(o.st, STATUS_OK);
    const struct config *c = o.config;
    assert_string_equal(c->pipeline, "chat");
    assert_string_equal(c->source_conninfo, "host=/tmp dbname=chat");
    assert_string_equal(c->slot, "s1");
    assert_string_equal(c->publication, "p1");
    assert_false(c->create);
    assert_int_equal(c->on_slot_lost, ON_SLOT_LOST_REBUILD);
    assert_int_equal(c->snapshot, SNAPSHOT_NEVER);
    assert_int_equal(c->snapshot_window_us, 90 * US_PER_DAY);
    assert_int_equal(c->snapshot_jobs, 3);
    assert_string_equal(c->sink_conninfo, "dbname=cache");
    assert_int_equal(c->ttl_us, 90 * US_PER_SECOND);
    assert_string_equal(c->state_dir, "/tmp/x");
    assert_int_equal(c->memory_bytes, 64 << 20);
    assert_int_equal(config_workers(c), 3);
    assert_string_equal(c->link_url, "tcp://127.0.0.1:7000");
    assert_int_equal(c->catch_up_lag_us, 2 * US_PER_SECOND);
    assert_int_equal(c->log_level, LOG_DEBUG);
    outcome_deinit(&o);
}

/* The mapping is what mapping.h wants: columns, constants, paths, units and enum maps. */
static void test_a_table_becomes_a_mapping(void **state)
{
    (void)state;
    struct outcome o = parse(whole);
    assert_int_equal(o.st, STATUS_OK);
    assert_int_equal(o.config->mappings.n, 1);
    const struct mapping *m = &o.config->mappings.tables[0];
    assert_string_equal(m->schema, "chat");
    assert_string_equal(m->table, "message");
    assert_int_equal(m->type, EVENT_MESSAGE);
    assert_string_equal(m->fields[FIELD_ID].column, "id");
    assert_string_equal(m->fields[FIELD_BOT_NAME].constant, "elena");
    assert_string_equal(m->fields[FIELD_EMOTION].path, "emotion.label");
    assert_int_equal(m->fields[FIELD_AT].time_unit, TIME_EPOCH_MS);
    assert_false(m->fields[FIELD_SCORE].set);
    const struct mapping_source *role = &m->fields[FIELD_ROLE];
    assert_int_equal(role->n_enum, 3);
    assert_string_equal(role->enum_map[1].from, "no");
    assert_string_equal(role->enum_map[1].to, "bot");
    assert_string_equal(role->enum_map[2].to, "");
    assert_true(role->has_default);
    assert_string_equal(role->default_to, "bot");
    outcome_deinit(&o);
}

/* A file without a value leaves the documented default; the sink is the source's database. */
static void test_what_is_not_given_is_the_default(void **state)
{
    (void)state;
    struct outcome o = parse("source: {conninfo: dbname=x}\nsink:\ntriggers: ~\n");
    assert_string_equal(o.problems.data, "");
    const struct config *c = o.config;
    assert_string_equal(c->pipeline, "default");
    assert_string_equal(c->slot, "warmpath");
    assert_true(c->create);
    assert_int_equal(c->on_slot_lost, ON_SLOT_LOST_STOP);
    assert_int_equal(c->snapshot, SNAPSHOT_INITIAL);
    assert_int_equal(c->snapshot_window_us, 30 * US_PER_DAY);
    assert_int_equal(c->snapshot_jobs, 2);
    assert_string_equal(c->sink_conninfo, "dbname=x");
    assert_int_equal(c->ttl_us, 5 * US_PER_MINUTE);
    assert_int_equal(c->memory_bytes, 160 << 20);
    assert_in_range(config_workers(c), 1, LIMIT_WORKERS);
    assert_string_equal(c->link_url, "inproc");
    assert_int_equal(c->log_level, LOG_INFO);
    outcome_deinit(&o);
}

/* The engine's policy, then what all bots share, then what one bot has. */
static void test_triggers_override_member_by_member(void **state)
{
    (void)state;
    struct outcome o = parse(whole);
    assert_int_equal(o.st, STATUS_OK);
    const struct engine_ops *ops = conversation();
    struct trigger_policy any = config_trigger(o.config, ops, STR("dotty"));
    assert_int_equal(any.count, 7);
    assert_int_equal(any.max_age_us, 250000);
    assert_int_equal(any.idle_us, ops->trigger.idle_us);
    assert_int_equal(any.warm_us, ops->trigger.warm_us);
    struct trigger_policy one = config_trigger(o.config, ops, STR("elena_two"));
    assert_int_equal(one.count, 1);
    assert_int_equal(one.max_age_us, 250000);
    struct trigger_policy other =
        config_trigger(o.config, engine_find("memory_aging"), STR("elena_two"));
    assert_memory_equal(&other, &engine_find("memory_aging")->trigger, sizeof(other));
    outcome_deinit(&o);
}

/* Each mistake is reported where it stands, all in one go. */
static void test_every_problem_is_reported_with_its_position(void **state)
{
    (void)state;
    assert_problems("pipelin: x\n"
                    "source:\n"
                    "  slot: Bad-Slot\n"
                    "  create: maybe\n"
                    "  on_slot_lost: halt\n"
                    "sink: {ttl: 5}\n"
                    "state: {memory: 3KB, workers: 65}\n"
                    "catch_up_lag: -1s\n"
                    "log: [a]\n",
                    "f.yaml:1:1: pipelin: unknown key (did you mean \"pipeline\"?)\n"
                    "f.yaml:3:9: source.slot: \"Bad-Slot\" may only hold lower case letters, "
                    "digits and _\n"
                    "f.yaml:4:11: source.create: \"maybe\" is neither true nor false\n"
                    "f.yaml:5:17: source.on_slot_lost: \"halt\" is not one of stop, rebuild\n"
                    "f.yaml:6:13: sink.ttl: \"5\" needs a unit, as in 200ms, 5s, 10m, 1h30m, 7d\n"
                    "f.yaml:7:17: state.memory: \"3KB\" has an unknown unit, as in 64KiB, 128MiB, "
                    "2GiB\n"
                    "f.yaml:7:31: state.workers: \"65\" is not between 0 and 64\n"
                    "f.yaml:8:15: catch_up_lag: \"-1s\" is not a number with a unit, as in 200ms, "
                    "5s, 10m, 1h30m, 7d\n"
                    "f.yaml:9:1: log: must not be a list\n");
}

/* The same inside tables and triggers, with the element and the nearest name. */
static void test_problems_of_tables_and_triggers_name_the_place(void **state)
{
    (void)state;
    assert_problems("source:\n"
                    "  tables:\n"
                    "    - relation: a.b.c\n"
                    "      event: massage\n"
                    "      fields: {idd: id, at: {colum: x}}\n"
                    "triggers: {conversation_paterns: {count: 1}}\n"
                    "triggers_by_bot: {'!!': {memory_aging: {count: 1}}}\n",
                    "f.yaml:3:17: source.tables[0].relation: \"a.b.c\" is not schema.table\n"
                    "f.yaml:4:14: source.tables[0].event: \"massage\" is not one of message, "
                    "memory, metric, outreach, character, privacy\n"
                    "f.yaml:5:16: source.tables[0].fields.idd: unknown event field (did you mean "
                    "\"id\"?)\n"
                    "f.yaml:5:30: source.tables[0].fields.at.colum: unknown key (did you mean "
                    "\"column\"?)\n"
                    "f.yaml:6:12: triggers.conversation_paterns: unknown engine (did you mean "
                    "\"conversation_patterns\"?)\n"
                    "f.yaml:7:19: triggers_by_bot.!!: is not a bot name: no letter or digit is "
                    "left\n");
}

/* A key given twice would silently lose one of its values. */
static void test_a_key_given_twice_is_refused(void **state)
{
    (void)state;
    assert_problems("sink:\n  ttl: 5m\n  ttl: 6m\n",
                    "f.yaml:3:3: sink: \"ttl\" was already given in line 2\n");
}

/* Only the plain subset of YAML: nothing that multiplies or retypes values. */
static void test_anchors_aliases_tags_and_second_documents_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *message;
    } cases[] = {
        {"a: &x 1\n", "f.yaml:1:4: anchors are not supported"},
        {"pipeline: !!str x\n", "f.yaml:1:11: tags are not supported"},
        {"<<: *x\n", "f.yaml:1:5: aliases are not supported"},
        {"pipeline: a\n---\npipeline: b\n", "f.yaml:2:1: a second document starts here"},
        {"[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", "is nested too deeply"},
        {"- a\n", "f.yaml:1:1: must hold keys at its top level"},
        {"pipeline: {a: 1}\n", "pipeline: must be a single value"},
        {"source: x\n", "f.yaml:1:9: source: must hold keys, not a value"},
        {"source: {tables: {relation: a.b}}\n", "source.tables: must be a list"},
        {"pipeline:\n", "pipeline: has no value"},
        {"pipeline: \"a\n", "f.yaml:"},
        {"{a: b}: c\n", "a key must be plain text"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct outcome o = parse(cases[i].yaml);
        assert_int_equal(o.st, STATUS_INVALID);
        if (!strstr(o.problems.data, cases[i].message))
            fail_msg("%s gave: %s", cases[i].yaml, o.problems.data);
        outcome_deinit(&o);
    }
}

/* What cannot be a mapping is said at the table. */
static void test_an_incomplete_table_is_refused(void **state)
{
    (void)state;
    assert_problems("source: {tables: [{event: message}]}\n",
                    "f.yaml:1:19: source.tables[0]: relation is missing\n");
    assert_problems("source: {tables: [{relation: a.b}]}\n",
                    "f.yaml:1:19: source.tables[0]: event is missing: message or memory\n");
    struct outcome o = parse("source: {tables: [{relation: a.b, event: message}]}\n");
    assert_non_null(strstr(o.problems.data, "f.yaml:1:19: source.tables[0]: "));
    outcome_deinit(&o);
    assert_problems("source: {tables: [{relation: a.b, event: message, fields: {id: {column: a, "
                    "const: b}}}]}\n",
                    "f.yaml:1:60: source.tables[0].fields.id: takes one of column, template and "
                    "const\n");
    assert_problems("source: {tables: [{relation: a.b, event: message, fields: {id: {column: a, "
                    "unit: epoch_s}}}]}\n",
                    "f.yaml:1:60: source.tables[0].fields.id: only at has a unit, zone or plus\n");
}

/* A command that needs a value says so, unless something was misread: that comes first. */
static void test_needed_values_are_asked_for(void **state)
{
    (void)state;
    struct config_input in = {.need_source = true, .need_tables = true};
    struct outcome o = parse_with("log: {level: info}\n", &in);
    assert_string_equal(o.problems.data,
                        "f.yaml: source.conninfo: is missing: set it, WARMPATH_SOURCE_CONNINFO or "
                        "DATABASE_URL\nf.yaml: source.tables: is missing: no table is mapped\n");
    outcome_deinit(&o);
    o = parse_with("sorce: {conninfo: dbname=x}\n", &in);
    assert_null(strstr(o.problems.data, "is missing"));
    outcome_deinit(&o);
}

/* libpq quotes what it cannot read, which may be a password. */
static void test_a_bad_conninfo_is_refused_without_showing_it(void **state)
{
    (void)state;
    struct outcome o = parse("source: {conninfo: 'host=x password= geheim secret'}\n");
    assert_string_equal(o.problems.data, "f.yaml: source.conninfo: is not a connection string\n");
    outcome_deinit(&o);
    o = parse("source: {conninfo: 'dbnam=x'}\n");
    assert_non_null(strstr(o.problems.data, "invalid connection option \"dbnam\""));
    outcome_deinit(&o);
    assert_problems("sink: {conninfo: 'dbname=x replication=database'}\n",
                    "f.yaml: sink.conninfo: must not hold \"replication\": it is added where it is "
                    "needed\n");
}

/* Flag before environment before file before default; DATABASE_URL below the variable of its own.
 */
static void test_the_strongest_source_of_a_value_wins(void **state)
{
    (void)state;
    const char *yaml = "source: {conninfo: dbname=file}\nsink: {ttl: 1m}\n";
    setenv("DATABASE_URL", "dbname=url", 1);
    setenv("WARMPATH_SINK_TTL", "2m", 1);
    struct outcome o = parse(yaml);
    assert_string_equal(o.config->source_conninfo, "dbname=url");
    assert_int_equal(o.config->ttl_us, 2 * US_PER_MINUTE);
    outcome_deinit(&o);
    setenv("WARMPATH_SOURCE_CONNINFO", "dbname=own", 1);
    setenv("WARMPATH_TRIGGERS_CONVERSATION_PATTERNS_COUNT", "9", 1);
    const char *sets[] = {"sink.ttl=3m", "triggers_by_bot.elena.conversation_patterns.count=4"};
    o = parse_with(yaml, &(struct config_input){.sets = sets, .n_sets = 2});
    assert_string_equal(o.problems.data, "");
    assert_string_equal(o.config->source_conninfo, "dbname=own");
    assert_int_equal(o.config->ttl_us, 3 * US_PER_MINUTE);
    assert_int_equal(config_trigger(o.config, conversation(), STR("x")).count, 9);
    assert_int_equal(config_trigger(o.config, conversation(), STR("elena")).count, 4);
    outcome_deinit(&o);
    unsetenv("DATABASE_URL");
    unsetenv("WARMPATH_SOURCE_CONNINFO");
    unsetenv("WARMPATH_SINK_TTL");
    unsetenv("WARMPATH_TRIGGERS_CONVERSATION_PATTERNS_COUNT");
}

/* A problem outside the file names the variable or the flag. */
static void test_problems_of_environment_and_flags_name_them(void **state)
{
    (void)state;
    setenv("WARMPATH_SINK_TTL", "soon", 1);
    const char *sets[] = {"slot=x", "nothing", "source.slot=X Y", "source=x"};
    struct outcome o =
        parse_with("pipeline: a\n", &(struct config_input){.sets = sets, .n_sets = 4});
    unsetenv("WARMPATH_SINK_TTL");
    assert_string_equal(o.problems.data,
                        "environment WARMPATH_SINK_TTL: sink.ttl: \"soon\" is not a number with a "
                        "unit, as in 200ms, 5s, 10m, 1h30m, 7d\n"
                        "--set: slot: unknown key\n"
                        "--set: \"nothing\" is not path=value\n"
                        "--set: source.slot: \"X Y\" may only hold lower case letters, digits and "
                        "_\n"
                        "--set: source: is not a single value\n");
    outcome_deinit(&o);
}

/* ${...} takes from the environment, a file or the credentials directory; $$ is a dollar sign. */
static void test_texts_of_the_file_are_expanded(void **state)
{
    (void)state;
    char path[] = "/tmp/warmpath-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "dbname=filed\n", 13), 13);
    close(fd);
    char yaml[256];
    snprintf(yaml, sizeof(yaml),
             "source: {conninfo: '${file:%s}'}\nsink: {conninfo: '${credential:%s}'}\n"
             "state: {dir: 'a$$b/${WARMPATH_TEST_X}$c'}\n",
             path, path + 5);
    setenv("WARMPATH_TEST_X", "in{side}", 1);
    setenv("CREDENTIALS_DIRECTORY", "/tmp", 1);
    struct outcome o = parse(yaml);
    assert_string_equal(o.problems.data, "");
    assert_string_equal(o.config->source_conninfo, "dbname=filed");
    assert_string_equal(o.config->sink_conninfo, "dbname=filed");
    assert_string_equal(o.config->state_dir, "a$b/in{side}$c");
    outcome_deinit(&o);
    unlink(path);
    unsetenv("WARMPATH_TEST_X");
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_problems("state: {dir: '${WARMPATH_TEST_X}'}\n",
                    "f.yaml:1:14: state.dir: environment variable \"WARMPATH_TEST_X\" is not "
                    "set\n");
    assert_problems("state: {dir: '${x'}\n", "f.yaml:1:14: state.dir: \"${\" without its \"}\"\n");
}

static void print(const struct config *c, struct buf *out)
{
    struct error err;
    buf_init(out, 1 << 20);
    assert_int_equal(config_print(c, out, &err), STATUS_OK);
    assert_int_equal(buf_append(out, "", 1), STATUS_OK);
}

/* What --print-config prints loads to the same configuration: printing that gives the same text, up
 * to the comments that say where values came from. */
static void test_a_printed_configuration_loads_to_the_same(void **state)
{
    (void)state;
    static const char *const texts[] = {whole, "state: {dir: \"a\\\"b$$c\\\\\\x01\"}\n"};
    for (size_t i = 0; i < 2; i++) {
        struct buf first, second;
        struct outcome a = parse(texts[i]);
        assert_string_equal(a.problems.data, "");
        print(a.config, &first);
        struct outcome b = parse(first.data);
        assert_string_equal(b.problems.data, "");
        assert_memory_equal(&a.config->mappings, &b.config->mappings, sizeof(a.config->mappings));
        assert_string_equal(a.config->state_dir, b.config->state_dir);
        assert_string_equal(a.config->source_conninfo, b.config->source_conninfo);
        print(b.config, &second);
        for (char *x = first.data, *y = second.data; *x || *y;) {
            size_t nx = strcspn(x, "\n"), ny = strcspn(y, "\n");
            const char *cx = memmem(x, nx, "  # ", 4), *cy = memmem(y, ny, "  # ", 4);
            struct str lx = {x, cx ? (size_t)(cx - x) : nx}, ly = {y, cy ? (size_t)(cy - y) : ny};
            if (!str_equal(lx, ly))
                fail_msg("\"" STR_FMT "\" became \"" STR_FMT "\"", STR_ARGS(lx), STR_ARGS(ly));
            x += nx + (x[nx] != '\0');
            y += ny + (y[ny] != '\0');
        }
        buf_deinit(&first);
        buf_deinit(&second);
        outcome_deinit(&a);
        outcome_deinit(&b);
    }
}

/* Values say where they came from, and passwords are never among them. */
static void test_printing_shows_origins_and_hides_passwords(void **state)
{
    (void)state;
    setenv("DATABASE_URL", "postgresql://u:geheim@h/db", 1);
    const char *sets[] = {"source.slot=s9"};
    struct outcome o = parse_with("sink:\n  ttl: 7m\n  conninfo: dbname=x password=geheim\n",
                                  &(struct config_input){.sets = sets, .n_sets = 1});
    unsetenv("DATABASE_URL");
    assert_string_equal(o.problems.data, "");
    struct buf text;
    print(o.config, &text);
    assert_null(strstr(text.data, "geheim"));
    assert_non_null(strstr(text.data, "user='u' password='****'"));
    assert_non_null(strstr(text.data, "  # DATABASE_URL\n"));
    assert_non_null(strstr(text.data, "  ttl: 7m  # line 2\n"));
    assert_non_null(strstr(text.data, "  slot: \"s9\"  # --set\n"));
    assert_non_null(strstr(text.data, "pipeline: \"default\"  # default\n"));
    buf_deinit(&text);
    outcome_deinit(&o);
}

/* Durations and sizes: units, sums, bounds of 64 bits. */
static void test_durations_are_read_with_their_units(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t us; /* -1 = refused */
    } cases[] = {
        {"0s", 0},
        {"1us", 1},
        {"200ms", 200000},
        {"5s", 5000000},
        {"2m", 120000000},
        {"1h30m", INT64_C(5400000000)},
        {"7d", INT64_C(604800000000)},
        {"", -1},
        {"5", -1},
        {"s", -1},
        {"5 s", -1},
        {"5S", -1},
        {"-5s", -1},
        {"1.5s", -1},
        {"5s5", -1},
        {"99999999999999999999s", -1},
        {"9223372036854775807d", -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t us = -1;
        enum status st = config_duration_parse(str_from(cases[i].text), &us, NULL);
        assert_int_equal(us, cases[i].us);
        assert_int_equal(st, cases[i].us < 0 ? STATUS_INVALID : STATUS_OK);
    }
}

/* Printing a number takes the largest unit that keeps it exact. */
static void test_numbers_print_in_the_largest_exact_unit(void **state)
{
    (void)state;
    static const struct {
        enum config_type type;
        int64_t v;
        const char *text;
    } cases[] = {
        {CONFIG_DURATION, 0, "0s"},
        {CONFIG_DURATION, 1500000, "1500ms"},
        {CONFIG_DURATION, 90 * US_PER_SECOND, "90s"},
        {CONFIG_DURATION, US_PER_DAY, "1d"},
        {CONFIG_SIZE, 1536, "1536B"},
        {CONFIG_SIZE, 3 << 20, "3MiB"},
        {CONFIG_INT, 7, "7"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf b;
        buf_init(&b, 64);
        assert_int_equal(config_number_print(cases[i].type, cases[i].v, &b), STATUS_OK);
        assert_true(str_equal((struct str){b.data, b.len}, str_from(cases[i].text)));
        buf_deinit(&b);
    }
}

/* The schema is whole: help everywhere, defaults that parse and fit, no path twice. */
static void test_every_row_of_the_schema_is_documented_and_sound(void **state)
{
    (void)state;
    for (const struct config_row *r = config_rows; r->path; r++) {
        assert_true(r->help && strlen(r->help) > 10);
        assert_ptr_equal(config_row_find(str_from(r->path)), r);
        assert_true(r->type != CONFIG_ENUM || r->choices);
        if (r->type == CONFIG_INT || r->type == CONFIG_DURATION || r->type == CONFIG_SIZE)
            assert_true(r->min < r->max);
        int64_t v;
        if (r->fallback)
            assert_int_equal(config_value_parse(r, str_from(r->fallback), &v, NULL), STATUS_OK);
        if (r->scope == SCOPE_TRIGGER)
            assert_true(r->offset % 8 == 0 && r->offset / 8 < 32);
    }
}

/* docs/CONFIG.md is what the schema prints, and names every path. */
static void test_the_documentation_agrees_with_the_schema(void **state)
{
    (void)state;
    struct buf printed, file;
    struct error err;
    buf_init(&printed, 1 << 20);
    assert_int_equal(config_print_schema(&printed, &err), STATUS_OK);
    assert_int_equal(buf_append(&printed, "", 1), STATUS_OK);
    for (const struct config_row *r = config_rows; r->path; r++)
        assert_non_null(strstr(printed.data, r->path));
    FILE *f = fopen(SOURCE_ROOT "/docs/CONFIG.md", "r");
    assert_non_null(f);
    buf_init(&file, 1 << 20);
    char chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;)
        assert_int_equal(buf_append(&file, chunk, n), STATUS_OK);
    fclose(f);
    assert_int_equal(buf_append(&file, "", 1), STATUS_OK);
    if (strcmp(file.data, printed.data) != 0)
        fail_msg("run: warmpath check-config --print-schema > docs/CONFIG.md");
    buf_deinit(&printed);
    buf_deinit(&file);
}

/* The example that packages ship is a valid configuration. */
static void test_the_example_file_is_valid(void **state)
{
    (void)state;
    struct outcome o = {.config = NULL};
    buf_init(&o.problems, CONFIG_PROBLEM_BYTES);
    struct config_input in = {.file = SOURCE_ROOT "/deploy/warmpath.example.yaml",
                              .need_source = true,
                              .need_tables = true};
    o.st = config_load(&in, &o.config, &o.problems, &o.err);
    assert_int_equal(o.problems.len, 0);
    assert_int_equal(o.st, STATUS_OK);
    assert_int_equal(o.config->mappings.n, 2);
    outcome_deinit(&o);
}

/* The nearest name is offered, and nothing when all are far. */
static void test_suggestions_are_near_or_none(void **state)
{
    (void)state;
    static const struct {
        const char *given, *best;
    } cases[] = {
        {"versoin", "version"}, {"stat", "status"},   {"chek", "check-config"}, {"x", NULL},
        {"banana", NULL},       {"statsu", "status"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct suggest s = suggest_for(str_from(cases[i].given));
        suggest_offer(&s, STR("check-config"));
        suggest_offer(&s, STR("version"));
        suggest_offer(&s, STR("status"));
        struct str best = suggest_result(&s);
        if (cases[i].best)
            assert_true(str_equal(best, str_from(cases[i].best)));
        else
            assert_null(best.ptr);
    }
}

int main(void)
{
    unsetenv("DATABASE_URL");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_file_fills_every_member),
        cmocka_unit_test(test_a_table_becomes_a_mapping),
        cmocka_unit_test(test_what_is_not_given_is_the_default),
        cmocka_unit_test(test_triggers_override_member_by_member),
        cmocka_unit_test(test_every_problem_is_reported_with_its_position),
        cmocka_unit_test(test_problems_of_tables_and_triggers_name_the_place),
        cmocka_unit_test(test_a_key_given_twice_is_refused),
        cmocka_unit_test(test_anchors_aliases_tags_and_second_documents_are_refused),
        cmocka_unit_test(test_an_incomplete_table_is_refused),
        cmocka_unit_test(test_needed_values_are_asked_for),
        cmocka_unit_test(test_a_bad_conninfo_is_refused_without_showing_it),
        cmocka_unit_test(test_the_strongest_source_of_a_value_wins),
        cmocka_unit_test(test_problems_of_environment_and_flags_name_them),
        cmocka_unit_test(test_texts_of_the_file_are_expanded),
        cmocka_unit_test(test_a_printed_configuration_loads_to_the_same),
        cmocka_unit_test(test_printing_shows_origins_and_hides_passwords),
        cmocka_unit_test(test_durations_are_read_with_their_units),
        cmocka_unit_test(test_numbers_print_in_the_largest_exact_unit),
        cmocka_unit_test(test_every_row_of_the_schema_is_documented_and_sound),
        cmocka_unit_test(test_the_documentation_agrees_with_the_schema),
        cmocka_unit_test(test_the_example_file_is_valid),
        cmocka_unit_test(test_suggestions_are_near_or_none),
    };
    return cmocka_run_group_tests_name("server/config", tests, NULL, NULL);
}
