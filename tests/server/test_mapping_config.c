/*
 * tests/server/test_mapping_config.c - source.tables as it is written: lists of sources, templates,
 * zones, conditions; the place of every problem; and the mappings that are shipped.
 */
#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct config *parse(const char *yaml, struct buf *problems)
{
    struct config *c = NULL;
    struct error err;
    buf_init(problems, CONFIG_PROBLEM_BYTES);
    enum status st = config_parse(str_from(yaml), "f.yaml", &(struct config_input){.file = NULL},
                                  &c, problems, &err);
    assert_int_equal(buf_append(problems, "", 1), STATUS_OK);
    assert_int_equal(st, problems->len > 1 ? STATUS_INVALID : STATUS_OK);
    return c;
}

/* A message table but for its id and time: they follow in line 6, from column 7. */
#define TABLE                                                                              \
    "source:\n  tables:\n  - relation: a.b\n    event: message\n    fields: {user_id: u, " \
    "bot_name: "                                                                           \
    "b, role: {const: user}, content: c,\n      "

static void test_every_problem_names_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *fields; /* from line 6, column 7 */
        const char *problem;
    } rows[] = {
        {"id: [], at: t}", "f.yaml:6:7: source.tables[0].fields.id: an empty list"},
        {"id: [[a]], at: t}", "f.yaml:6:12: source.tables[0].fields.id[0]: must not be a list"},
        {"id: [a, {colum: b}], at: t}", "f.yaml:6:16: source.tables[0].fields.id[1].colum: unknown "
                                        "key (did you mean \"column\"?)"},
        {"id: [a, {path: b}], at: t}",
         "f.yaml:6:15: source.tables[0].fields.id[1]: a path needs a column"},
        {"id: [a, {const: b}], at: t}", "f.yaml:3:5: source.tables[0]: mapping of table \"a.b\", "
                                        "field \"id\": needs a column"},
        {"emotion: [{const: x}, y], id: i, at: t}",
         "field \"emotion\": what follows a constant is never used"},
        {"id: {template: \"{id\"}, at: t}",
         "field \"id\": a template is text with {column} in it, {{ and }} are braces, not \"{id\""},
        {"id: {template: \"id}\"}, at: t}", "field \"id\": a template is text with"},
        {"id: {template: \"{}\"}, at: t}", "field \"id\": a template is text with"},
        {"id: {template: \"{{x}}\"}, at: t}", "field \"id\": a template names 1 to 4 columns"},
        {"id: {template: \"{a}{b}{c}{d}{e}\"}, at: t}", "a template names 1 to 4 columns"},
        {"id: {template: \"{a}\", column: b}, at: t}",
         "f.yaml:6:7: source.tables[0].fields.id: takes one of column, template and const"},
        {"traits: {template: \"{a}\"}, id: i, at: t}",
         "field \"traits\": needs a column, not a template"},
        {"id: i, at: {column: t, zone: Europe/Paris}}", "is longer than 7 bytes"},
        {"id: i, at: {column: t, zone: CET}}",
         "f.yaml:6:14: source.tables[0].fields.at: zone \"CET\" is neither UTC nor an offset"},
        {"id: i, at: {column: t, zone: UTC, unit: epoch_s}}",
         "a zone goes with the unit timestamp"},
        {"id: i, at: {column: t, plus: 1}}",
         "f.yaml:6:36: source.tables[0].fields.at.plus: \"1\" needs a unit"},
        {"id: i, at: {column: t, plus: 2d}}", "\"2d\" is not between 0s and 1d"},
        {"id: {column: i, plus: 1s}, at: t}",
         "f.yaml:6:7: source.tables[0].fields.id: only at has a unit, zone or plus"},
        {"id: i, at: [t, {column: s, unit: epoch_s}]}",
         "field \"at\": all its sources need the same unit"},
        {"id: i, at: t, emotion: {const: x, ignore: [y]}}",
         "source.tables[0].fields.emotion: map, ignore, default, unit, zone and plus need a "
         "column"},
        {"id: i, at: t, emotion: {column: x, ignore: [[y]]}}",
         "f.yaml:6:51: source.tables[0].fields.emotion.ignore[0]: must be a single value"},
        {"id: i, at: t, emotion: {column: x, ignore: [y, y]}}", "the enum map lists twice \"y\""},
        {"id: i, at: t}\n    counter: n", "a counter counts accesses"},
        {"id: i, at: t}\n  - {relation: a.b, event: message, fields: {id: i, at: t, user_id: u, "
         "bot_name: b, role: {const: bot}, content: d}}",
         "f.yaml:7:5: source.tables[1]: table \"a.b\" is mapped twice to the same events"},
        {"id: [i, i, i, i, i, i, i, i, i, i, i, i, i, i], at: t}",
         "f.yaml:6:51: source.tables[0].fields.id[13]: the fields of a table have at most 12"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char yaml[1024];
        struct buf problems;
        snprintf(yaml, sizeof(yaml), TABLE "%s\n", rows[i].fields);
        struct config *c = parse(yaml, &problems);
        if (c || !strstr(problems.data, rows[i].problem))
            fail_msg("%s gave: %s", rows[i].fields, problems.data);
        buf_deinit(&problems);
    }
}

/* More of them than have room in the positions of one row. */
static void test_a_table_has_at_most_three_counters(void **state)
{
    (void)state;
    char yaml[4096] = "source:\n  tables:\n";
    for (int i = 0; i < 4; i++) {
        struct buf problems;
        size_t len = strlen(yaml);
        snprintf(yaml + len, sizeof(yaml) - len,
                 "  - {relation: a.b, event: memory, counter: c%d, fields: {id: i, memory_id: i, "
                 "user_id: u, bot_name: b, at: t, op: {const: access}}}\n",
                 i);
        struct config *c = parse(yaml, &problems);
        if (i < 3)
            assert_string_equal(problems.data, "");
        else
            assert_non_null(strstr(problems.data, "has more than 3 counters"));
        config_free(c);
        buf_deinit(&problems);
    }
}

/* What is printed as the effective configuration is that configuration. */
static void assert_prints_itself(const struct config *c)
{
    struct buf text, problems, again;
    struct error err;
    buf_init(&text, 1 << 20);
    buf_init(&again, 1 << 20);
    assert_int_equal(config_print(c, &text, &err), STATUS_OK);
    assert_int_equal(buf_append(&text, "", 1), STATUS_OK);
    struct config *copy = parse(text.data, &problems);
    assert_string_equal(problems.data, "");
    assert_memory_equal(&c->mappings, &copy->mappings, sizeof(c->mappings));
    config_free(copy);
    buf_deinit(&text);
    buf_deinit(&problems);
    buf_deinit(&again);
}

static void test_sources_are_kept_in_order_with_all_they_say(void **state)
{
    (void)state;
    struct buf problems;
    struct config *c =
        parse("source:\n  tables:\n  - relation: b\n    event: message\n    soft_delete: gone\n"
              "    only_if: said\n    fields:\n"
              "      id: {template: \"{{{w}/{i}\"}\n"
              "      user_id: [owner, {column: meta, path: user.id}, {template: \"{w}\"}]\n"
              "      bot_name: [{column: b, map: {x: y}, default: z}, {const: elena}]\n"
              "      role: {column: r, map: {human: user}, ignore: [system, tool]}\n"
              "      content: c\n"
              "      emotion: {column: e, ignore: neutral}\n"
              "      at: [{column: t, zone: \"+02:00\", plus: 1ms}, s]\n",
              &problems);
    assert_string_equal(problems.data, "");
    const struct mapping *m = &c->mappings.tables[0];
    assert_string_equal(m->soft_delete, "gone");
    assert_string_equal(m->only_if, "said");
    const struct mapping_source *s = mapping_source_first(m, FIELD_USER_ID);
    assert_string_equal(s->column, "owner");
    s = mapping_source_next(m, s);
    assert_string_equal(s->path, "user.id");
    s = mapping_source_next(m, s);
    assert_string_equal(s->template, "{w}");
    assert_null(mapping_source_next(m, s));
    s = mapping_source_first(m, FIELD_BOT_NAME);
    assert_true(s->has_default);
    assert_string_equal(mapping_source_next(m, s)->constant, "elena");
    s = mapping_source_first(m, FIELD_ROLE);
    assert_int_equal(s->n_enum, 3);
    assert_string_equal(s->enum_map[2].from, "tool");
    assert_string_equal(s->enum_map[2].to, "");
    assert_int_equal(mapping_source_first(m, FIELD_EMOTION)->n_enum, 1);
    s = mapping_source_first(m, FIELD_AT);
    assert_string_equal(s->zone, "+02:00");
    assert_int_equal(s->plus_us, 1000);
    assert_string_equal(mapping_source_next(m, s)->column, "s");
    assert_prints_itself(c);
    config_free(c);
    buf_deinit(&problems);
}

static void test_the_shipped_mappings_load_as_they_are(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        size_t n;
    } shipped[] = {{"earlier-system", 4}, {"role-column", 1}, {"pgvector", 1}};
    for (size_t i = 0; i < sizeof(shipped) / sizeof(shipped[0]); i++) {
        char path[512];
        struct config *c = NULL;
        struct buf problems;
        struct error err;
        const char *sets[] = {"source.conninfo=dbname=x"};
        struct config_input in = {
            .file = path, .sets = sets, .n_sets = 1, .need_source = true, .need_tables = true};
        snprintf(path, sizeof(path), SOURCE_ROOT "/deploy/mappings/%s.yaml", shipped[i].file);
        buf_init(&problems, CONFIG_PROBLEM_BYTES);
        enum status st = config_load(&in, &c, &problems, &err);
        if (st)
            fail_msg("%s: %.*s", path, (int)problems.len, problems.data ? problems.data : "");
        assert_int_equal(c->mappings.n, shipped[i].n);
        assert_prints_itself(c);
        config_free(c);
        buf_deinit(&problems);
    }
}

/* An example may name files of secrets that are not here, and leave out where to listen. */
static void complete(const char *example, char *out, size_t size)
{
    size_t n = 0;
    for (const char *at = example; *at;) {
        const char *end = strncmp(at, "${file:", 7) == 0 ? strchr(at, '}') : NULL;
        if (end)
            n += (size_t)snprintf(out + n, size - n, "%s", "secret");
        else
            out[n++] = *at;
        at = end ? end + 1 : at + 1;
        assert_true(n + 64 < size);
    }
    snprintf(out + n, size - n, "%s",
             strstr(example, "http:") ? "" : "http: {listen: \"127.0.0.1:0\"}\n");
}

/* Every example of the documentation is a configuration. */
static void assert_examples_load(const char *file, int at_least)
{
    const size_t max = 128 << 10;
    char path[512], *text = calloc(1, max), *example = calloc(1, max);
    snprintf(path, sizeof(path), SOURCE_ROOT "/docs/%s", file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, max - 1, f) < max - 1);
    fclose(f);
    int n = 0;
    char *at = text;
    while ((at = strstr(at, "```yaml\n"))) {
        char *end = strstr(at + 8, "```\n");
        struct buf problems;
        assert_non_null(end);
        *end = '\0';
        complete(at + 8, example, max);
        struct config *c = parse(example, &problems);
        if (!c)
            fail_msg("%s gave: %s", example, problems.data);
        config_free(c);
        buf_deinit(&problems);
        at = end + 4;
        n++;
    }
    assert_true(n >= at_least);
    free(text);
    free(example);
}

static void test_the_examples_of_the_documentation_load(void **state)
{
    (void)state;
    assert_examples_load("MAPPING.md", 5);
    assert_examples_load("HTTP.md", 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_problem_names_its_place),
        cmocka_unit_test(test_a_table_has_at_most_three_counters),
        cmocka_unit_test(test_sources_are_kept_in_order_with_all_they_say),
        cmocka_unit_test(test_the_shipped_mappings_load_as_they_are),
        cmocka_unit_test(test_the_examples_of_the_documentation_load),
    };
    return cmocka_run_group_tests_name("server/mapping_config", tests, NULL, NULL);
}
