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

static const struct cli_option replay_options[] = {
    {"emit", "final|each",
     "final: one row per key and table at the end (default); each: every row "
     "when its trigger fires"},
    {"engine", "NAME", "only the rows of this engine's table"},
    {"partitions", "N", "spread the keys over N partitions (default 1); the output is the same"},
    {"state", "DIR", "keep the state in DIR, and resume from it"},
    {"stop-after", "N", "stop after N lines without printing, to be resumed with --state"},
    {"until", "TIME", "ignore events later than this time"},
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
        .name = "run",
        .args = "",
        .summary = "keep the cache rows fresh, until SIGTERM",
        .details =
            "Reads the slot, keeps the engines' state in state.dir and writes the cache rows. "
            "SIGTERM flushes, checkpoints and ends with exit code 0. Refuses to start where "
            "changes could be lost or counted twice, and says what to do.",
        .need = NEED_SOURCE | NEED_SINK | NEED_TABLES,
        .run = cmd_run,
    },
    {
        .name = "replay",
        .args = "FILE",
        .summary = "run the engines on a file of events and print the rows",
        .details = "Needs no PostgreSQL. FILE holds one JSON event per line, - is standard input. "
                   "Time is the newest event time so far. The output depends on the events alone: "
                   "not on their order of arrival, on duplicates, on --partitions, or on being "
                   "stopped and resumed.",
        .options = replay_options,
        .min_args = 1,
        .max_args = 1,
        .run = cmd_replay,
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
