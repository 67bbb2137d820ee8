#include "server/cli.h"

static const struct cli_option check_config_options[] = {
    {"print-config", NULL, "print every value and where it came from; passwords are masked"},
    {"print-schema", NULL, "print what can be configured, as docs/CONFIG.md; reads no file"},
    {NULL, NULL, NULL},
};
static const struct cli_option help_options[] = {
    {"man", NULL, "print the manual page"},
    {NULL, NULL, NULL},
};
static const struct cli_option json_options[] = {
    {"json", NULL, "one JSON document for scripts"},
    {NULL, NULL, NULL},
};

/* To add a command: write server/cmd_<name>.c, declare it in cli.h, list it here, and run
 * `warmpath help --man` for the manual. In the order in which they are first used. */
const struct command commands[] = {
    {
        .name = "check-config",
        .args = "",
        .summary = "say whether the configuration can be used",
        .details = "Reports every problem as file:line:column: path: message.",
        .options = check_config_options,
        .run = cmd_check_config,
    },
    {
        .name = "version",
        .args = "",
        .summary = "print the version",
        .options = json_options,
        .run = cmd_version,
    },
    {
        .name = "help",
        .args = "[COMMAND]",
        .summary = "the same as COMMAND --help",
        .options = help_options,
        .max_args = 1,
        .hidden = true,
        .run = cmd_help,
    },
    {.name = NULL},
};
