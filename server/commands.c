#include "server/cli.h"

static const struct cli_option check_config_options[] = {
    {"print-config", NULL, "print every value and where it came from; passwords are masked"},
    {"offline", NULL, "look at the file only, do not connect to the database"},
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

static const struct cli_option dlq_options[] = {
    {"where", "PLACE", "only those of this table, \"webhook:NAME\", \"worker\", ..."},
    {"reason", "TEXT", "only those with this in their reason"},
    {"limit", "N", "at most the newest N"},
    {"all", NULL, "retry, drop: all there are"},
    {"json", NULL, "one JSON document for scripts"},
    {NULL, NULL, NULL},
};
static const struct cli_option migrate_options[] = {
    {"steps", "N", "down: revert the newest N migrations; default 1"},
    {"all", NULL, "down: revert all of them"},
    {"json", NULL, "status: one JSON document for scripts"},
    {NULL, NULL, NULL},
};
static const struct cli_option rebuild_options[] = {
    {"all", NULL, "every user, and then every bot's own key"},
    {"user", "ID", "one user, with all bots"},
    {"bot", "NAME", "with --user: only with this bot"},
    {"engine", "NAME",
     "write this engine's rows at once, the others when they are due; alone: --all"},
    {"detach", NULL, "return as soon as the request is stored"},
    {"json", NULL, "one JSON document for scripts"},
    {NULL, NULL, NULL},
};
static const struct cli_option invalidate_options[] = {
    {"reason", "WORD", "told to whoever listens on strategic_cache; default: command"},
    {"wait", "DURATION", "give up waiting after so long; default: 1m"},
    {"no-wait", NULL, "return as soon as the request is stored"},
    {"json", NULL, "one JSON document for scripts"},
    {NULL, NULL, NULL},
};
static const struct cli_option forget_options[] = {
    {"no-wait", NULL, "return as soon as the request is stored and cache rows are gone"},
    {"json", NULL, "one JSON document for scripts"},
    {NULL, NULL, NULL},
};
static const struct cli_option secret_options[] = {
    {"kind", "KIND",
     "standard-webhooks (default), hmac-body, shared-secret, or ed25519: a pair of keys for v1a"},
    {NULL, NULL, NULL},
};
static const struct cli_option replay_options[] = {
    {"emit", "final|each",
     "final: one row per key and table at the end (default); each: every row when it is due"},
    {"engine", "NAME", "only the rows of this engine's table"},
    {"partitions", "N", "spread the keys over N partitions (default 1); the output is the same"},
    {"state", "DIR", "keep the state in DIR, and resume from it"},
    {"stop-after", "N", "stop after N lines without printing, to be resumed with --state"},
    {"trace", "NAME", "instead of rows: this engine's prediction or decision, a line per event"},
    {"trace-final", NULL, "with --trace: print its lines at the end, as they stand with hindsight"},
    {"until", "TIME", "ignore events later than this time"},
    {NULL, NULL, NULL},
};
static const struct cli_option verify_options[] = {
    {"all", NULL, "every row, and every key that should have one; the default"},
    {"sample", "N", "only N rows of each table, taken at random"},
    {"wait", "DURATION", "try again until all agree or the time is up, for a pipeline at work"},
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
        .details =
            "Reports every problem as file:line:column: path: message. When the database can be\n"
            "reached, mapped tables and columns, publication and slot are checked too.",
        .options = check_config_options,
        .run = cmd_check_config,
    },
    {
        .name = "migrate",
        .args = "[compat] up|down|status",
        .summary = "make, remove or show the cache tables in PostgreSQL",
        .details =
            "up applies what is missing and does nothing the second time; down reverts the\n"
            "newest migration; status lists all of them. With compat the same for the views\n"
            "that readers of an earlier application need, in the schema strategic_compat:\n"
            "optional, docs/READING.md.",
        .options = migrate_options,
        .need = NEED_SINK,
        .min_args = 1,
        .max_args = 2,
        .run = cmd_migrate,
    },
    {
        .name = "doctor",
        .args = "",
        .summary = "check every prerequisite and say what mends it",
        .details =
            "Exits with 1 when a check fails. Changes nothing. Names what makes the server keep\n"
            "WAL for the slot, and how much more it will keep.",
        .options = json_options,
        .need = NEED_SOURCE | NEED_SINK | NEED_TABLES,
        .run = cmd_doctor,
    },
    {
        .name = "run",
        .args = "",
        .summary = "keep the cache rows fresh, until SIGTERM",
        .details =
            "Reads the slot, keeps the engines' state in state.dir and writes the cache rows.\n"
            "SIGTERM flushes, checkpoints and ends with exit code 0. SIGHUP reads the\n"
            "configuration again: source.tables, log.level, secrets, their endpoints' rates and\n"
            "certificates take effect at once. Refuses to start where changes could be lost or\n"
            "counted twice, and says what to do. A slot that the server has given up ends it as\n"
            "well, or begins anew: source.on_slot_lost.",
        .need = NEED_SOURCE | NEED_SINK | NEED_TABLES,
        .run = cmd_run,
    },
    {
        .name = "status",
        .args = "",
        .summary = "show lease, slot, progress, cache rows and state",
        .details = "Works whether or not `warmpath run` is up. Of the slot it shows how far it is "
                   "behind,\n"
                   "how much WAL is kept for it and until when, and what keeps it.",
        .options = json_options,
        .need = NEED_SOURCE | NEED_SINK,
        .run = cmd_status,
    },
    {
        .name = "verify",
        .args = "",
        .summary = "compute cache rows again from the source tables and compare",
        .details =
            "Reads the mapped tables, computes every row at its own as_of with the naive second\n"
            "implementation of the engines, and lists each column that differs.",
        .options = verify_options,
        .need = NEED_SOURCE | NEED_SINK | NEED_TABLES,
        .run = cmd_verify,
    },
    {
        .name = "rebuild",
        .args = "",
        .summary = "make keys anew from the source tables, while everything goes on",
        .details =
            "Asks the running instance, one request at a time, and follows it. Rows are replaced\n"
            "when their key is complete; until then readers see the old ones. A request survives\n"
            "crashes: it goes on where it was. Ending this command does not end the request.",
        .options = rebuild_options,
        .need = NEED_SINK,
        .run = cmd_rebuild,
    },
    {
        .name = "redis",
        .args = "sync",
        .summary = "fill Redis from the cache in PostgreSQL",
        .details =
            "Writes a value for every key that has a row which has not expired, and removes those\n"
            "that should not be there. A running instance does so by itself when Redis was\n"
            "emptied or away; this is for a Redis that is filled before anybody reads it. Both\n"
            "may work at the same time.",
        .options = json_options,
        .need = NEED_SINK,
        .min_args = 1,
        .max_args = 1,
        .run = cmd_redis,
    },
    {
        .name = "invalidate",
        .args = "USER BOT",
        .summary = "say that the rows of a user with a bot are wrong, and wait for new ones",
        .details =
            "What strategic_invalidate() does in an application's transaction: from now on, "
            "readers\n"
            "see the rows as invalid, and nothing of what they said, until the running instance\n"
            "has computed them again. Ending this command does not end the request.",
        .options = invalidate_options,
        .need = NEED_SINK,
        .min_args = 2,
        .max_args = 2,
        .run = cmd_invalidate,
    },
    {
        .name = "recompute",
        .args = "USER [BOT]",
        .summary = "compute the rows of a user again, and wait for them",
        .details =
            "From what the running instance knows: where the source tables say otherwise,\n"
            "`rebuild` helps. Readers see the old rows until then. Without BOT: with every bot.",
        .options = &invalidate_options[1],
        .need = NEED_SINK,
        .min_args = 1,
        .max_args = 2,
        .run = cmd_recompute,
    },
    {
        .name = "forget",
        .args = "USER [BOT]",
        .summary = "erase every trace of a user, and print the receipt",
        .details =
            "Cache rows go at once; the running instance erases state, records, inbox and dead\n"
            "letters, and lets nothing pass that the user said before. Without BOT: with every\n"
            "bot. The receipt says how much has gone, and what was kept, and why. What the source\n"
            "tables hold is the application's to delete.",
        .options = forget_options,
        .need = NEED_SINK,
        .min_args = 1,
        .max_args = 2,
        .run = cmd_forget,
    },
    {
        .name = "dlq",
        .args = "list|show|retry|drop [ID]...",
        .summary = "look at inputs that could not be used, try them again, or drop them",
        .details =
            "list prints them, newest first; show one with its bytes. retry hands them in again,\n"
            "as events of the inbox: what a worker has refused, and elements of webhooks, which\n"
            "are read by the configuration of today; of the others it says what to do instead.\n"
            "A letter goes when it is durable there, and what is tried twice counts once. drop\n"
            "forgets them. Whether `run` works meanwhile makes no difference. retry and drop\n"
            "want IDs, --where, --reason or --all.",
        .options = dlq_options,
        .need = NEED_CONFIG,
        .min_args = 1,
        .max_args = -1,
        .run = cmd_dlq,
    },
    {
        .name = "secret",
        .args = "new",
        .summary = "print a new random secret for a webhook or for influx",
        .details =
            "One line, as webhooks[].secrets and influx.secrets take it and as the sender is "
            "given\n"
            "it: warmpath secret new > FILE, and value: \"${file:FILE}\".",
        .options = secret_options,
        .min_args = 1,
        .max_args = 1,
        .run = cmd_secret,
    },
    {
        .name = "replay",
        .args = "FILE",
        .summary = "run the engines on a file of events and print the rows",
        .details =
            "Needs no PostgreSQL. FILE holds one JSON event per line, - is standard input. Time\n"
            "is the newest event time so far. The output depends on the events alone: not on\n"
            "duplicates, on --partitions, or on being stopped and resumed; nor on their order of\n"
            "arrival within one UTC day. An event that comes after midnight teaches its bot on\n"
            "the day it comes.",
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
