/*
 * server/cmd_rebuild.c - asks the running instance to make keys anew from the source tables, and
 * follows it until that is done.
 */
#include "core/clock.h"
#include "core/pg.h"
#include "engines/engine.h"
#include "server/output.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 200

struct ask {
    const char *engine, *user;
    char bot[LIMIT_ID_BYTES + 1];
    bool has_bot;
};

static int read_options(struct cli *cli, struct ask *a)
{
    a->engine = cli_value(cli, "engine");
    a->user = cli_value(cli, "user");
    const char *bot = cli_value(cli, "bot");
    if (a->user && cli_has(cli, "all"))
        return cli_fail(cli, CLI_USAGE, "--all and --user exclude each other");
    if (!a->user && !a->engine && !cli_has(cli, "all"))
        return cli_fail(cli, CLI_USAGE, "say what to rebuild: --all, --user or --engine");
    if (bot && !a->user)
        return cli_fail(cli, CLI_USAGE, "--bot needs --user");
    if (a->engine && !engine_find(a->engine))
        return cli_fail(cli, CLI_USAGE, "--engine \"%s\" is none of the engines", a->engine);
    if (a->user && !*a->user)
        return cli_fail(cli, CLI_USAGE, "--user is empty");
    a->has_bot = bot != NULL;
    size_t len = bot ? event_bot_name(str_from(bot), a->bot) : 0;
    a->bot[len] = '\0';
    if (bot && len == 0)
        return cli_fail(cli, CLI_USAGE, "--bot \"%s\" holds no letter or digit", bot);
    return CLI_OK;
}

static enum status insert(struct cli *cli, PGconn *conn, const struct ask *a, char id[24],
                          struct error *err)
{
    const char *params[] = {cli->config->pipeline, a->user, a->has_bot ? a->bot : NULL, a->engine};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(conn,
                              "INSERT INTO strategic_rebuild (pipeline, user_id, bot_name, engine) "
                              "VALUES ($1, $2, $3, $4) RETURNING id",
                              4, params, "could not request a rebuild", &res, err);
    if (!st)
        snprintf(id, 24, "%s", PQgetvalue(res, 0, 0));
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

enum { COLUMN_KEYS, COLUMN_ROWS, COLUMN_RETRIES, COLUMN_FINISHED, COLUMN_ERROR };

static int print_result(struct cli *cli, const char *id, const PGresult *res, bool finished)
{
    const char *error = PQgetisnull(res, 0, COLUMN_ERROR) ? NULL : PQgetvalue(res, 0, COLUMN_ERROR);
    int64_t keys = strtoll(PQgetvalue(res, 0, COLUMN_KEYS), NULL, 10);
    int64_t rows = strtoll(PQgetvalue(res, 0, COLUMN_ROWS), NULL, 10);
    int code = error ? CLI_FAILED : CLI_OK;
    if (cli_has(cli, "json"))
        return output_json(
            cli,
            json_pack("{s:I, s:b, s:I, s:I, s:I, s:s?}", "id", (json_int_t)strtoll(id, NULL, 10),
                      "finished", finished, "keys", (json_int_t)keys, "rows", (json_int_t)rows,
                      "retries", (json_int_t)strtoll(PQgetvalue(res, 0, COLUMN_RETRIES), NULL, 10),
                      "error", error),
            code);
    if (error)
        return cli_fail(cli, CLI_FAILED, "request %s: %s", id, error);
    if (finished)
        fprintf(cli->out, "rebuilt %" PRId64 " keys from %" PRId64 " rows\n", keys, rows);
    else
        fprintf(cli->out, "request %s is waiting\n", id);
    return code;
}

static void show_progress(struct cli *cli, const PGresult *res, int64_t *shown_us)
{
    int64_t now_us = clock_mono_us(&clock_real);
    if (cli_has(cli, "json") || now_us - *shown_us < 5 * US_PER_SECOND)
        return;
    *shown_us = now_us;
    fprintf(cli->err, "%s keys, %s rows so far\n", PQgetvalue(res, 0, COLUMN_KEYS),
            PQgetvalue(res, 0, COLUMN_ROWS));
}

static int follow(struct cli *cli, PGconn *conn, const char *id)
{
    int64_t shown_us = clock_mono_us(&clock_real);
    for (;;) {
        struct error err;
        CLEANUP(PQclearp) PGresult *res = NULL;
        if (pg_query(conn,
                     "SELECT keys_done, rows_read, retries, finished_at IS NOT NULL, error "
                     "FROM strategic_rebuild WHERE id = $1::bigint",
                     1, &id, "could not follow the rebuild", &res, &err))
            return cli_fail(cli, CLI_FAILED, "%s; request %s goes on", err.text, id);
        if (PQntuples(res) == 0)
            return cli_fail(cli, CLI_FAILED, "somebody has removed request %s", id);
        bool finished = *PQgetvalue(res, 0, COLUMN_FINISHED) == 't';
        if (finished || cli_has(cli, "detach"))
            return print_result(cli, id, res, finished);
        show_progress(cli, res, &shown_us);
        poll(NULL, 0, LOOK_MS);
    }
}

int cmd_rebuild(struct cli *cli)
{
    struct ask a = {0};
    int code = read_options(cli, &a);
    if (code != CLI_OK)
        return code;
    struct error err;
    struct pg_options o = {.conninfo = cli->config->sink_conninfo};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    char id[24];
    bool led = false;
    enum status st = pg_open(&o, &conn, &err);
    st = st ? st : insert(cli, conn, &a, id, &err);
    st = st ? st : is_led(cli, conn, &led, &err);
    if (st)
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    if (!led)
        fprintf(cli->err,
                "no instance is running: request %s waits until `warmpath run` is started\n", id);
    return follow(cli, conn, id);
}
