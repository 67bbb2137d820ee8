/*
 * server/cmd_forget.c - forgets a user, and shows the receipt once every worker has said that
 * nothing is left.
 */
#include "core/clock.h"
#include "core/event.h"
#include "core/pg.h"
#include "server/output.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 100

static const char *const counted[] = {"keys",         "pages",        "journal_entries",
                                      "dead_letters", "bot_messages", "metric_days"};

static enum status request(struct cli *cli, PGconn *conn, char id[24], struct error *err)
{
    const char *params[] = {cli->args[0], cli->n_args > 1 ? cli->args[1] : NULL};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_query(conn, "SELECT strategic_forget($1, $2)", 2, params,
                              "could not ask to forget the user", &res, err);
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

/* What all workers together have reported; every sentence about what was kept once. */
static json_t *add_up(const PGresult *res)
{
    json_t *receipt = json_object();
    json_t *reports = json_loads(PQgetvalue(res, 0, 2), 0, NULL);
    json_t *kept = json_array();
    const char *worker;
    json_t *report;
    json_object_set_new(receipt, "rows", json_integer(strtoll(PQgetvalue(res, 0, 1), NULL, 10)));
    for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
        json_int_t sum = 0;
        json_object_foreach(reports, worker, report) sum +=
            json_integer_value(json_object_get(report, counted[i]));
        json_object_set_new(receipt, counted[i], json_integer(sum));
    }
    json_object_foreach(reports, worker, report)
    {
        size_t at;
        json_t *entry;
        json_array_foreach(json_object_get(report, "kept"), at, entry)
        {
            bool known = false;
            for (size_t k = 0; k < json_array_size(kept); k++)
                known |= json_equal(json_array_get(kept, k), entry);
            if (!known)
                json_array_append(kept, entry);
        }
    }
    json_object_set_new(receipt, "kept", kept);
    json_decref(reports);
    return receipt;
}

static int show(struct cli *cli, const char *id, const PGresult *res)
{
    bool finished = *PQgetvalue(res, 0, 0) == 't';
    json_t *receipt = add_up(res);
    json_object_set_new(receipt, "id", json_integer(strtoll(id, NULL, 10)));
    json_object_set_new(receipt, "finished", json_boolean(finished));
    if (cli_has(cli, "json"))
        return output_json(cli, receipt, CLI_OK);
    if (!finished) {
        fprintf(cli->out, "request %s is waiting; cache rows are gone\n", id);
    } else {
        fprintf(cli->out, "receipt %s: forgotten\n", id);
        fprintf(cli->out, "  %-16s %" JSON_INTEGER_FORMAT "\n", "rows",
                json_integer_value(json_object_get(receipt, "rows")));
        for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++)
            fprintf(cli->out, "  %-16s %" JSON_INTEGER_FORMAT "\n", counted[i],
                    json_integer_value(json_object_get(receipt, counted[i])));
        size_t at;
        json_t *kept;
        json_array_foreach(json_object_get(receipt, "kept"), at, kept)
            fprintf(cli->out, "  kept: %s (%s)\n", json_string_value(json_object_get(kept, "what")),
                    json_string_value(json_object_get(kept, "why")));
    }
    json_decref(receipt);
    return CLI_OK;
}

static int follow(struct cli *cli, PGconn *conn, const char *id)
{
    for (;;) {
        struct error err;
        CLEANUP(PQclearp) PGresult *res = NULL;
        bool led = false;
        enum status st = pg_query(conn,
                                  "SELECT finished_at IS NOT NULL, rows_removed, reports"
                                  " FROM strategic_erasure WHERE id = $1::bigint",
                                  1, &id, "could not read the receipt", &res, &err);
        st = st ? st : is_led(cli, conn, &led, &err);
        if (st)
            return cli_fail(cli, CLI_FAILED, "%s; request %s goes on", err.text, id);
        if (PQntuples(res) == 0)
            return cli_fail(cli, CLI_FAILED, "somebody has removed request %s", id);
        bool finished = *PQgetvalue(res, 0, 0) == 't';
        if (!finished && !led)
            fprintf(cli->err,
                    "no instance is running: request %s is carried out when `warmpath run` is "
                    "started\n",
                    id);
        if (finished || !led || cli_has(cli, "no-wait"))
            return show(cli, id, res);
        poll(NULL, 0, LOOK_MS);
    }
}

int cmd_forget(struct cli *cli)
{
    char bot[LIMIT_ID_BYTES];
    if (!*cli->args[0])
        return cli_fail(cli, CLI_USAGE, "USER is empty");
    if (cli->n_args > 1 && event_bot_name(str_from(cli->args[1]), bot) == 0)
        return cli_fail(cli, CLI_USAGE, "BOT \"%s\" holds no letter or digit", cli->args[1]);
    struct error err;
    struct pg_options o = {.conninfo = cli->config->sink_conninfo};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    char id[24];
    enum status st = pg_open(&o, &conn, &err);
    st = st ? st : request(cli, conn, id, &err);
    return st ? cli_fail(cli, CLI_FAILED, "%s", err.text) : follow(cli, conn, id);
}
