#include "server/cli.h"

#include "core/cleanup.h"
#include "server/config_secrets.h"
#include "server/suggest.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

const struct cli_option cli_common_options[] = {
    {"config", "FILE",
     "configuration file; default $WARMPATH_CONFIG, ./warmpath.yaml, /etc/warmpath/warmpath.yaml"},
    {"set", "PATH=VALUE",
     "one configuration value, stronger than file and environment; repeatable"},
    {"log-level", "LEVEL", "error, warn, info or debug; the same as --set log.level=LEVEL"},
    {"help", NULL, "say what a command does and which options it takes"},
    {NULL, NULL, NULL},
};

static const struct cli_option *find_option(const struct cli_option *table, struct str name)
{
    for (; table && table->name; table++)
        if (str_equal(str_from(table->name), name))
            return table;
    return NULL;
}

const char *cli_value(const struct cli *cli, const char *name)
{
    struct str s = str_from(name);
    assert(find_option(cli_common_options, s) || find_option(cli->command->options, s));
    for (int i = cli->n_given; i-- > 0;)
        if (strcmp(cli->given[i].option->name, name) == 0)
            return cli->given[i].value;
    return NULL;
}

bool cli_has(const struct cli *cli, const char *name)
{
    return cli_value(cli, name) != NULL;
}

int cli_fail(struct cli *cli, int code, const char *fmt, ...)
{
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    fprintf(cli->err, "warmpath%s%s: %s\n", cli->command ? " " : "",
            cli->command ? cli->command->name : "", message);
    return code;
}

/* Wrong use: what is wrong, the nearest name, where to read on. */
static int wrong(struct cli *cli, const char *what, const char *given, const struct suggest *s)
{
    struct str near = s ? suggest_result(s) : STR_NULL;
    const char *command = cli->command ? cli->command->name : "";
    const char *blank = cli->command ? " " : "";
    if (near.ptr)
        cli_fail(cli, CLI_USAGE, "%s \"%s\" (did you mean \"" STR_FMT "\"?)", what, given,
                 STR_ARGS(near));
    else
        cli_fail(cli, CLI_USAGE, "%s \"%s\"", what, given);
    fprintf(cli->err, "See: warmpath%s%s --help\n", blank, command);
    return CLI_USAGE;
}

static int unknown_option(struct cli *cli, const char *given, struct str name)
{
    struct suggest s = suggest_for(name);
    for (const struct cli_option *o = cli_common_options; o->name; o++)
        suggest_offer(&s, str_from(o->name));
    for (const struct cli_option *o = cli->command ? cli->command->options : NULL; o && o->name;
         o++)
        suggest_offer(&s, str_from(o->name));
    char dashed[80];
    struct str near = suggest_result(&s);
    if (near.ptr) {
        snprintf(dashed, sizeof(dashed), "--" STR_FMT, STR_ARGS(near));
        s.best = str_from(dashed);
    }
    return wrong(cli, "unknown option", given, &s);
}

/* "--name", "--name=value", "--name value"; *at is moved past what was used. */
static int parse_option(struct cli *cli, int argc, char **argv, int *at)
{
    const char *given = argv[(*at)++];
    const char *start = given + 2, *equals = strchr(start, '=');
    struct str name = {start, equals ? (size_t)(equals - start) : strlen(start)};
    if (strcmp(given, "-h") == 0)
        name = STR("help");
    else if (strncmp(given, "--", 2) != 0)
        return wrong(cli, "unknown option", given, NULL);
    const struct cli_option *option = find_option(cli_common_options, name);
    if (!option && cli->command)
        option = find_option(cli->command->options, name);
    if (!option)
        return unknown_option(cli, given, name);
    const char *value = equals && name.ptr == start ? equals + 1 : NULL;
    if (value && !option->arg)
        return wrong(cli, "no value belongs to", given, NULL);
    if (!value && option->arg) {
        if (*at == argc)
            return wrong(cli, "a value is missing after", given, NULL);
        value = argv[(*at)++];
    }
    if (cli->n_given == CLI_GIVEN_MAX)
        return wrong(cli, "too many options: ", given, NULL);
    cli->given[cli->n_given].option = option;
    cli->given[cli->n_given++].value = value ? value : "";
    return CLI_OK;
}

static int parse_command(struct cli *cli, const char *name)
{
    struct suggest s = suggest_for(str_from(name));
    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(c->name, name) == 0) {
            cli->command = c;
            return CLI_OK;
        }
        if (!c->hidden)
            suggest_offer(&s, str_from(c->name));
    }
    return wrong(cli, "unknown command", name, &s);
}

static int parse(struct cli *cli, int argc, char **argv)
{
    bool only_args = false;
    for (int i = 1; i < argc;) {
        int code = CLI_OK;
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
            i++;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1] != '\0') {
            /* Every program is expected to answer to this one. */
            code = !cli->command && strcmp(argv[i], "--version") == 0
                       ? parse_command(cli, argv[i++] + 2)
                       : parse_option(cli, argc, argv, &i);
        } else if (!cli->command) {
            code = parse_command(cli, argv[i++]);
        } else if (cli->n_args == CLI_GIVEN_MAX) {
            code = wrong(cli, "too many arguments:", argv[i], NULL);
        } else {
            cli->args[cli->n_args++] = argv[i++];
        }
        if (code != CLI_OK)
            return code;
    }
    return CLI_OK;
}

static int check_args(struct cli *cli)
{
    const struct command *c = cli->command;
    if (cli->n_args < c->min_args) {
        cli_fail(cli, CLI_USAGE, "%s is missing", c->args);
        fprintf(cli->err, "See: warmpath %s --help\n", c->name);
        return CLI_USAGE;
    }
    if (c->max_args >= 0 && cli->n_args > c->max_args)
        return wrong(cli, "unexpected argument", cli->args[c->max_args], NULL);
    return CLI_OK;
}

static void print_problem(void *ctx, const char *text)
{
    const struct cli *cli = ctx;
    fprintf(cli->err, "%s: %s\n", cli->config->file[0] ? cli->config->file : "configuration", text);
}

int cli_load_config(struct cli *cli, unsigned need)
{
    const char *sets[CLI_GIVEN_MAX];
    char level[64];
    struct config_input in = {
        .file = cli_value(cli, "config"),
        .sets = sets,
        .need_source = (need & NEED_SOURCE) != 0,
        .need_sink = (need & NEED_SINK) != 0,
        .need_tables = (need & NEED_TABLES) != 0,
    };
    for (int i = 0; i < cli->n_given; i++) {
        if (strcmp(cli->given[i].option->name, "set") == 0)
            sets[in.n_sets++] = cli->given[i].value;
        if (strcmp(cli->given[i].option->name, "log-level") == 0) {
            snprintf(level, sizeof(level), "log.level=%s", cli->given[i].value);
            sets[in.n_sets++] = level;
        }
    }
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEM_BYTES);
    struct error err;
    enum status st = config_load(&in, &cli->config, &problems, &err);
    if (problems.len)
        fwrite(problems.data, 1, problems.len, cli->err);
    buf_deinit(&problems);
    if (st != STATUS_OK)
        return cli_fail(cli, st == STATUS_NOMEM ? CLI_FAILED : CLI_CONFIG, "%s", err.text);
    /* What the endpoints are to do with their secrets concerns who runs them. */
    if ((need & NEED_TABLES) && config_check_secrets(cli->config, print_problem, cli) > 0) {
        config_free(TAKE(cli->config));
        return cli_fail(cli, CLI_CONFIG, "a secret cannot be used");
    }
    log_set_level(cli->config->log_level);
    return CLI_OK;
}

static int run(struct cli *cli, int argc, char **argv)
{
    int code = parse(cli, argc, argv);
    if (code != CLI_OK)
        return code;
    bool help = false;
    for (int i = 0; i < cli->n_given; i++)
        help |= strcmp(cli->given[i].option->name, "help") == 0;
    if (!cli->command) {
        help_print_overview(help ? cli->out : cli->err);
        return help ? CLI_OK : CLI_USAGE;
    }
    if (help) {
        help_print_command(cli->command, cli->out);
        return CLI_OK;
    }
    code = check_args(cli);
    if (code == CLI_OK && cli->command->need)
        code = cli_load_config(cli, cli->command->need);
    return code == CLI_OK ? cli->command->run(cli) : code;
}

int cli_main(int argc, char **argv, FILE *out, FILE *err)
{
    struct cli cli = {.out = out, .err = err};
    int code = run(&cli, argc, argv);
    config_free(cli.config);
    /* A full disk or a closed pipe must not look like success. */
    if ((fflush(out) != 0 || ferror(out)) && code == CLI_OK) {
        fprintf(err, "warmpath: could not write the output\n");
        code = CLI_FAILED;
    }
    return code;
}
