/*
 * server/cli.h - the command line: one table of commands (commands.c), each with its options.
 *
 * cli_main() parses the flags, loads the configuration the command asks for and calls it. The same
 * tables print --help and the man page, and tests compare them with the docs. Errors go to stderr;
 * exit codes: 0 ok, 1 failed, 64 wrong use, 78 wrong configuration.
 */
#pragma once

#include "server/config.h"

#include <stdbool.h>
#include <stdio.h>

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 64, CLI_CONFIG = 78 };

struct cli_option {
    const char *name; /* without the dashes; NULL ends a table */
    const char *arg;  /* what follows, "FILE"; NULL for a switch */
    const char *help;
};

enum cli_need {
    NEED_NOTHING = 0,     /* cli->config is NULL */
    NEED_CONFIG = 1 << 0, /* load what there is; nothing is required */
    NEED_SOURCE = 1 << 1, /* source.conninfo; implies NEED_CONFIG */
    NEED_SINK = 1 << 2,   /* sink.conninfo; implies NEED_CONFIG */
    NEED_TABLES = 1 << 3, /* at least one mapped table; implies NEED_CONFIG */
};

struct cli;

struct command {
    const char *name; /* NULL ends the table */
    const char *args; /* positional arguments for the usage line, "up|down|status"; "" for none */
    const char *summary;
    const char *details;              /* a paragraph for --help and the man page; may be NULL */
    const struct cli_option *options; /* its own; the common ones come on top */
    unsigned need;                    /* enum cli_need */
    int min_args, max_args;           /* of positional arguments; max -1 = any number */
    bool hidden;
    int (*run)(struct cli *cli); /* returns an exit code */
};
extern const struct command commands[];
extern const struct cli_option cli_common_options[];

#define CLI_GIVEN_MAX 64

struct cli {
    const struct command *command;
    int n_args;
    const char *args[CLI_GIVEN_MAX]; /* positional arguments after the command */
    int n_given;
    struct {
        const struct cli_option *option;
        const char *value; /* "" for a switch */
    } given[CLI_GIVEN_MAX];
    struct config *config; /* as the command's need says; owned by cli_main() */
    FILE *out;             /* stdout, or a test's */
    FILE *err;
};

/* The last value given, "" for a switch, NULL when not given. name must be in the tables. */
const char *cli_value(const struct cli *cli, const char *name);
bool cli_has(const struct cli *cli, const char *name);
/* Prints "warmpath COMMAND: message" to cli->err and returns code. */
int cli_fail(struct cli *cli, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Loads cli->config for what need asks; prints the problems. CLI_OK, or the exit code. cli_main()
 * has done it before a command runs; commands that only sometimes need one call it themselves. */
int cli_load_config(struct cli *cli, unsigned need);

int cli_main(int argc, char **argv, FILE *out, FILE *err);

/* server/help.c: what the tables say, for people. */
void help_print_overview(FILE *out);
void help_print_command(const struct command *cmd, FILE *out);
/* docs/warmpath.1 */
void help_print_man(FILE *out);

int cmd_check_config(struct cli *cli);
int cmd_dlq(struct cli *cli);
int cmd_doctor(struct cli *cli);
int cmd_help(struct cli *cli);
int cmd_invalidate(struct cli *cli);
int cmd_migrate(struct cli *cli);
int cmd_rebuild(struct cli *cli);
int cmd_recompute(struct cli *cli);
int cmd_forget(struct cli *cli);
int cmd_redis(struct cli *cli);
int cmd_replay(struct cli *cli);
int cmd_run(struct cli *cli);
int cmd_secret(struct cli *cli);
int cmd_status(struct cli *cli);
int cmd_verify(struct cli *cli);
int cmd_version(struct cli *cli);
