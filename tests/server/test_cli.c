/*
 * tests/server/test_cli.c - the command line does what its tables say: exit codes, streams,
 * suggestions, help, and the manual page. Runs cli_main() with its output in memory.
 */
#include "server/cli.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct result {
    int code;
    char *out;
    char *err;
};

/* line: words separated by single blanks, after "warmpath". */
static struct result run(const char *line)
{
    char copy[512];
    char *argv[32] = {(char *)(uintptr_t) "warmpath"};
    int argc = 1;
    snprintf(copy, sizeof(copy), "%s", line);
    for (char *at = copy; *at;) {
        argv[argc++] = at;
        at += strcspn(at, " ");
        if (*at)
            *at++ = '\0';
    }
    struct result r = {.code = -1};
    size_t n_out, n_err;
    FILE *out = open_memstream(&r.out, &n_out), *err = open_memstream(&r.err, &n_err);
    r.code = cli_main(argc, argv, out, err);
    fclose(out);
    fclose(err);
    return r;
}

static void result_free(struct result *r)
{
    free(r->out);
    free(r->err);
}

static void assert_run(const char *line, int code, const char *out_part, const char *err_part)
{
    struct result r = run(line);
    if (r.code != code || !strstr(r.out, out_part) || !strstr(r.err, err_part))
        fail_msg("\"%s\" gave %d\nout: %s\nerr: %s", line, r.code, r.out, r.err);
    /* An answer and a complaint never come together. */
    assert_true(*out_part || !*r.out);
    assert_true(*err_part || !*r.err);
    result_free(&r);
}

/* Help is an answer (stdout, 0); being asked for nothing is wrong use (stderr, 64). */
static void test_help_is_printed_where_it_was_asked_for(void **state)
{
    (void)state;
    assert_run("--help", CLI_OK, "Usage: warmpath COMMAND", "");
    assert_run("-h", CLI_OK, "Usage: warmpath COMMAND", "");
    assert_run("help", CLI_OK, "Usage: warmpath COMMAND", "");
    assert_run("help version", CLI_OK, "Usage: warmpath version", "");
    assert_run("version --help", CLI_OK, "Usage: warmpath version", "");
    assert_run("--help version", CLI_OK, "Usage: warmpath version", "");
    assert_run("", CLI_USAGE, "", "Usage: warmpath COMMAND");
}

/* Wrong use is told with the nearest name, on stderr, with 64. */
static void test_wrong_use_is_64_and_offers_the_nearest_name(void **state)
{
    (void)state;
    assert_run("versoin", CLI_USAGE, "", "unknown command \"versoin\" (did you mean \"version\"?)");
    assert_run("banana", CLI_USAGE, "", "unknown command \"banana\"\n");
    assert_run("version --jsno", CLI_USAGE, "",
               "warmpath version: unknown option \"--jsno\" (did you mean \"--json\"?)");
    assert_run("--confg x version", CLI_USAGE, "", "did you mean \"--config\"?");
    assert_run("version -x", CLI_USAGE, "", "unknown option \"-x\"");
    assert_run("version extra", CLI_USAGE, "", "unexpected argument \"extra\"");
    assert_run("version --json=1", CLI_USAGE, "", "no value belongs to \"--json=1\"");
    assert_run("version --config", CLI_USAGE, "", "a value is missing after \"--config\"");
    assert_run("help banana", CLI_USAGE, "", "unknown command \"banana\"");
}

/* A configuration that cannot be used is 78, with each problem on a line of its own. */
static void test_a_wrong_configuration_is_78(void **state)
{
    (void)state;
    assert_run("check-config --config /nonexistent/x.yaml", CLI_CONFIG, "",
               "could not open \"/nonexistent/x.yaml\"");
    char path[] = "/tmp/warmpath-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "sink: {ttl: 5}\nlogg: 1\n", 23), 23);
    close(fd);
    char line[128], expected[256];
    snprintf(line, sizeof(line), "check-config --offline --config %s", path);
    snprintf(expected, sizeof(expected),
             "%s:1:13: sink.ttl: \"5\" needs a unit, as in 200ms, 5s, 10m, 1h30m, 7d\n"
             "%s:2:1: logg: unknown key (did you mean \"log\"?)\n",
             path, path);
    assert_run(line, CLI_CONFIG, "", expected);
    unlink(path);
}

/* The example passes, --set and --log-level reach the configuration, = and blank both work. */
static void test_check_config_shows_what_flags_change(void **state)
{
    (void)state;
#define EXAMPLE SOURCE_ROOT "/deploy/warmpath.example.yaml"
    assert_run("check-config --offline --config=" EXAMPLE, CLI_OK, "ok\n", "");
    assert_run("check-config --print-config --set sink.ttl=9m --config " EXAMPLE, CLI_OK,
               "  ttl: 9m  # --set\n", "");
    assert_run("--log-level debug check-config --print-config --config " EXAMPLE, CLI_OK,
               "  level: debug  # --set\n", "");
    assert_run("check-config --log-level loud --config " EXAMPLE, CLI_CONFIG, "",
               "--set: log.level: \"loud\" is not one of error, warn, info, debug");
    assert_run("check-config --print-schema", CLI_OK, "# Configuration", "");
}

/* The version is the build's, for people and for scripts. */
static void test_version_is_told_in_both_forms(void **state)
{
    (void)state;
    assert_run("version", CLI_OK, "warmpath ", "");
    assert_run("--version", CLI_OK, "warmpath ", "");
    assert_run("version --json", CLI_OK, "\"memory_aging\": ", "");
}

/* --help of every command names each of its options and the common ones. */
static void test_help_names_every_option(void **state)
{
    (void)state;
    for (const struct command *c = commands; c->name; c++) {
        char line[64], dashed[64];
        snprintf(line, sizeof(line), "%s --help", c->name);
        struct result r = run(line);
        assert_int_equal(r.code, CLI_OK);
        assert_non_null(strstr(r.out, c->summary));
        const struct cli_option *const lists[] = {c->options, cli_common_options};
        for (int i = 0; i < 2; i++)
            for (const struct cli_option *o = lists[i]; o && o->name; o++) {
                snprintf(dashed, sizeof(dashed), "  --%s%s%s ", o->name, o->arg ? " " : "",
                         o->arg ? o->arg : "");
                if (!strstr(r.out, dashed) || !strstr(r.out, o->help))
                    fail_msg("%s: %s is missing in %s", line, dashed, r.out);
            }
        result_free(&r);
        r = run("--help");
        assert_true(c->hidden || strstr(r.out, c->summary));
        result_free(&r);
    }
}

/* Names are unique, arguments bounded sensibly, every command can run. */
static void test_the_command_table_is_sound(void **state)
{
    (void)state;
    for (const struct command *c = commands; c->name; c++) {
        assert_true(c->run && c->summary && c->args);
        assert_true(c->max_args < 0 || c->min_args <= c->max_args);
        assert_true((c->max_args != 0) == (c->args[0] != '\0'));
        for (const struct command *d = commands; d != c; d++)
            assert_string_not_equal(d->name, c->name);
        for (const struct cli_option *o = c->options; o && o->name; o++)
            for (const struct cli_option *p = cli_common_options; p->name; p++)
                assert_string_not_equal(o->name, p->name);
    }
}

/* docs/warmpath.1 is what the tables print. */
static void test_the_manual_agrees_with_the_tables(void **state)
{
    (void)state;
    struct result r = run("help --man");
    assert_int_equal(r.code, CLI_OK);
    FILE *f = fopen(SOURCE_ROOT "/docs/warmpath.1", "r");
    assert_non_null(f);
    static char file[1 << 18];
    size_t n = fread(file, 1, sizeof(file) - 1, f);
    fclose(f);
    file[n] = '\0';
    if (strcmp(file, r.out) != 0)
        fail_msg("run: warmpath help --man > docs/warmpath.1");
    result_free(&r);
}

/* A full disk must not look like success. */
static void test_output_that_cannot_be_written_fails(void **state)
{
    (void)state;
    char *argv[] = {(char *)(uintptr_t) "warmpath", (char *)(uintptr_t) "version"};
    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    char *text = NULL;
    size_t n;
    FILE *err = open_memstream(&text, &n);
    assert_int_equal(cli_main(2, argv, full, err), CLI_FAILED);
    fclose(err);
    fclose(full);
    assert_non_null(strstr(text, "could not write the output"));
    free(text);
}

int main(void)
{
    unsetenv("DATABASE_URL");
    unsetenv("WARMPATH_CONFIG");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_is_printed_where_it_was_asked_for),
        cmocka_unit_test(test_wrong_use_is_64_and_offers_the_nearest_name),
        cmocka_unit_test(test_a_wrong_configuration_is_78),
        cmocka_unit_test(test_check_config_shows_what_flags_change),
        cmocka_unit_test(test_version_is_told_in_both_forms),
        cmocka_unit_test(test_help_names_every_option),
        cmocka_unit_test(test_the_command_table_is_sound),
        cmocka_unit_test(test_the_manual_agrees_with_the_tables),
        cmocka_unit_test(test_output_that_cannot_be_written_fails),
    };
    return cmocka_run_group_tests_name("server/cli", tests, NULL, NULL);
}
