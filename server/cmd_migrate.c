#include "server/output.h"
#include "state/migrate.h"

#include <errno.h>
#include <string.h>

struct progress {
    FILE *out;
    int lines;
};

static void print_line(void *ctx, const char *line)
{
    struct progress *p = ctx;
    p->lines++;
    fprintf(p->out, "%s\n", line);
    fflush(p->out); /* each step as it is done: one may take long */
}

static void collect_line(void *ctx, const char *line)
{
    json_array_append_new(ctx, json_string(line));
}

static int steps_of(struct cli *cli, int *ret)
{
    const char *given = cli_value(cli, "steps");
    if (cli_has(cli, "all") && given)
        return cli_fail(cli, CLI_USAGE, "--steps and --all exclude each other");
    if (cli_has(cli, "all")) {
        *ret = 0;
        return CLI_OK;
    }
    char *end = NULL;
    errno = 0;
    long n = given ? strtol(given, &end, 10) : 1;
    if (given && (errno || end == given || *end || n < 1 || n > 10000))
        return cli_fail(cli, CLI_USAGE, "--steps \"%s\" is not a number from 1 to 10000", given);
    *ret = (int)n;
    return CLI_OK;
}

static int status(struct cli *cli, const struct migration_set *set)
{
    struct error err;
    bool pending = false;
    struct progress p = {.out = cli->out};
    if (!cli_has(cli, "json")) {
        if (migrate_status(set, cli->config->sink_conninfo, print_line, &p, &pending, &err) !=
            STATUS_OK)
            return cli_fail(cli, CLI_FAILED, "%s", err.text);
        return CLI_OK;
    }
    json_t *lines = json_array();
    if (migrate_status(set, cli->config->sink_conninfo, collect_line, lines, &pending, &err) !=
        STATUS_OK) {
        json_decref(lines);
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    }
    return output_json(cli, json_pack("{s:b, s:o}", "pending", pending, "migrations", lines),
                       CLI_OK);
}

int cmd_migrate(struct cli *cli)
{
    struct error err;
    enum status st;
    struct progress p = {.out = cli->out};
    const struct migration_set *set = &migrate_cache;
    int i = 0;
    if (strcmp(cli->args[i], "compat") == 0) {
        set = &migrate_compat;
        i++;
    }
    if (i + 1 != cli->n_args)
        return cli_fail(cli, CLI_USAGE, "expected [compat] up|down|status");
    const char *what = cli->args[i];
    if (strcmp(what, "status") == 0)
        return status(cli, set);
    if (strcmp(what, "up") == 0) {
        st = migrate_up(set, cli->config->sink_conninfo, print_line, &p, &err);
    } else if (strcmp(what, "down") == 0) {
        int steps = 1;
        int code = steps_of(cli, &steps);
        if (code != CLI_OK)
            return code;
        st = migrate_down(set, cli->config->sink_conninfo, steps, print_line, &p, &err);
    } else {
        return cli_fail(cli, CLI_USAGE, "\"%s\" is none of up, down, status", what);
    }
    if (st != STATUS_OK)
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    if (p.lines == 0)
        fprintf(cli->out, "nothing to do\n");
    return CLI_OK;
}
