/*
 * server/cmd_request.c - `invalidate` and `recompute`: what an application asks for by
 * strategic_invalidate() and strategic_recompute(), by hand; and waiting until it has happened.
 */
#include "core/clock.h"
#include "core/event.h"
#include "core/pg.h"
#include "server/output.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS         100
#define WAIT_DEFAULT_US US_PER_MINUTE

/* The rows of one user, with one bot or ($2 NULL) with all. */
#define ROWS_OF                                                                           \
    "(SELECT user_id, bot_name, row_version, invalidated_at FROM strategic_memory_health" \
    " UNION ALL SELECT user_id, bot_name, row_version, invalidated_at"                    \
    " FROM strategic_conversation_patterns"                                               \
    " UNION ALL SELECT user_id, bot_name, row_version, invalidated_at"                    \
    " FROM strategic_personality_profiles"                                                \
    " UNION ALL SELECT user_id, bot_name, row_version, invalidated_at"                    \
    " FROM strategic_memory_behavior"                                                     \
    " UNION ALL SELECT user_id, bot_name, row_version, invalidated_at"                    \
    " FROM strategic_engagement_opportunities) t"                                         \
    " WHERE user_id = $1 AND ($2::text IS NULL OR bot_name = $2)"

struct asked {
    const char *user;
    const char *bot; /* NULL: every bot */
    char bot_name[LIMIT_ID_BYTES + 1];
    int64_t wait_us;
    char newest[24]; /* row_version of the newest row before */
    int64_t rows;
};

static int read_args(struct cli *cli, struct asked *a)
{
    a->user = cli->args[0];
    a->wait_us = WAIT_DEFAULT_US;
    if (!*a->user)
        return cli_fail(cli, CLI_USAGE, "USER is empty");
    if (cli->n_args > 1) {
        size_t len = event_bot_name(str_from(cli->args[1]), a->bot_name);
        a->bot_name[len] = '\0';
        a->bot = a->bot_name;
        if (len == 0)
            return cli_fail(cli, CLI_USAGE, "BOT \"%s\" holds no letter or digit", cli->args[1]);
    }
    const char *wait = cli_value(cli, "wait");
    struct error err;
    if (wait && config_duration_parse(str_from(wait), &a->wait_us, &err) != STATUS_OK)
        return cli_fail(cli, CLI_USAGE, "--wait %s", err.text);
    return CLI_OK;
}

static enum status count_rows(PGconn *conn, struct asked *a, struct error *err)
{
    const char *params[] = {a->user, a->bot};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(conn, "SELECT count(*), coalesce(max(row_version), 0) FROM " ROWS_OF,
                              2, params, "could not look at the rows", &res, err);
    if (st)
        return st;
    a->rows = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    snprintf(a->newest, sizeof(a->newest), "%s", PQgetvalue(res, 0, 1));
    return STATUS_OK;
}

static enum status ask(struct cli *cli, PGconn *conn, const struct asked *a, struct error *err)
{
    const char *params[] = {a->user, a->bot, NULL};
    CLEANUP(PQclearp) PGresult *res = NULL;
    if (cli->command->run == cmd_recompute)
        return pg_query(conn, "SELECT strategic_recompute($1, $2)", 2, params,
                        "could not ask for the rows", &res, err);
    params[2] = cli_value(cli, "reason") ? cli_value(cli, "reason") : "command";
    return pg_query(conn, "SELECT strategic_invalidate($1, $2, $3)", 3, params,
                    "could not invalidate the rows", &res, err);
}

/* How many rows are still as they were, or invalid. */
static enum status count_old(PGconn *conn, const struct asked *a, int64_t *ret, struct error *err)
{
    const char *params[] = {a->user, a->bot, a->newest};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(conn,
                              "SELECT count(*) FROM " ROWS_OF
                              " AND (invalidated_at IS NOT NULL OR row_version <= $3::bigint)",
                              3, params, "could not look at the rows", &res, err);
    *ret = st ? 0 : strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    return st;
}

static enum status is_led(struct cli *cli, PGconn *conn, bool *ret, struct error *err)
{
    const char *params[] = {cli->config->pipeline};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query(conn, "SELECT FROM strategic_lease WHERE pipeline = $1 AND until > now()", 1,
                 params, "could not read the lease", &res, err);
    *ret = !st && PQntuples(res) > 0;
    return st;
}

static int print_result(struct cli *cli, const struct asked *a, int64_t old)
{
    if (cli_has(cli, "json"))
        return output_json(cli,
                           json_pack("{s:I, s:I, s:b}", "rows", (json_int_t)a->rows, "waiting",
                                     (json_int_t)old, "done", old == 0),
                           CLI_OK);
    if (a->rows == 0)
        fprintf(cli->out, "there are no rows; the request is kept all the same\n");
    else if (old == 0)
        fprintf(cli->out, "computed %" PRId64 " rows again\n", a->rows);
    else
        fprintf(cli->out, "asked for %" PRId64 " rows\n", a->rows);
    return CLI_OK;
}

static int follow(struct cli *cli, PGconn *conn, const struct asked *a)
{
    int64_t until_us = clock_mono_us(&clock_real) + a->wait_us;
    struct error err;
    int64_t old = a->rows;
    bool led = true;
    if (a->rows == 0 || cli_has(cli, "no-wait"))
        return print_result(cli, a, old);
    for (;;) {
        enum status st = count_old(conn, a, &old, &err);
        if (!st && old == 0)
            return print_result(cli, a, old);
        if (!st)
            st = is_led(cli, conn, &led, &err);
        if (st)
            return cli_fail(cli, CLI_FAILED, "%s; the request is kept", err.text);
        if (!led)
            return cli_fail(cli, CLI_FAILED,
                            "no instance is running: the request is kept, and %" PRId64
                            " rows wait until `warmpath run` is started",
                            old);
        if (clock_mono_us(&clock_real) > until_us)
            return cli_fail(cli, CLI_FAILED,
                            "%" PRId64 " of %" PRId64
                            " rows are not new yet: the request is kept; see `warmpath status` "
                            "for how far the instance is",
                            old, a->rows);
        poll(NULL, 0, LOOK_MS);
    }
}

static int request(struct cli *cli)
{
    struct asked a = {0};
    int code = read_args(cli, &a);
    if (code != CLI_OK)
        return code;
    struct error err;
    struct pg_options o = {.conninfo = cli->config->sink_conninfo};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    enum status st = pg_open(&o, &conn, &err);
    st = st ? st : count_rows(conn, &a, &err);
    st = st ? st : ask(cli, conn, &a, &err);
    return st ? cli_fail(cli, CLI_FAILED, "%s", err.text) : follow(cli, conn, &a);
}

int cmd_invalidate(struct cli *cli)
{
    return request(cli);
}

int cmd_recompute(struct cli *cli)
{
    return request(cli);
}
