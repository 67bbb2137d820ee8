#include "core/clock.h"
#include "ingest/preflight.h"
#include "server/cli.h"
#include "server/config_secrets.h"
#include "server/startup.h"

#include <stdlib.h>
#include <string.h>

static int print(struct cli *cli, enum status st, const struct buf *text, const struct error *err)
{
    if (st != STATUS_OK)
        return cli_fail(cli, CLI_FAILED, "%s", err->text);
    fwrite(text->data, 1, text->len, cli->out);
    return CLI_OK;
}

/* Checks of what the file itself names; the server's own settings are doctor's matter. */
static bool is_about_config(const char *check)
{
    static const char *const names[] = {"select", "columns", "publication", "slot"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], check) == 0)
            return true;
    return false;
}

static int check_database(struct cli *cli)
{
    const struct config *cfg = cli->config;
    struct preflight_config pre = startup_preflight(cfg);
    struct error err;
    PGconn *conn = NULL;
    if (preflight_connect(cfg->source_conninfo, &conn, &err) != STATUS_OK) {
        fprintf(cli->err, "note: tables and columns were not checked: %s\n", err.text);
        return CLI_OK;
    }
    PQfinish(conn);
    struct preflight_report *r = calloc(1, sizeof(*r));
    if (!r)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    int code = CLI_OK;
    if (preflight_run(&pre, r, &err) != STATUS_OK)
        code = cli_fail(cli, CLI_FAILED, "%s", err.text);
    for (size_t i = 0; i < r->n; i++) {
        if (r->checks[i].result != CHECK_FAIL || !is_about_config(r->checks[i].name))
            continue;
        code = CLI_CONFIG;
        fprintf(cli->err, "%s: %s: %s\n  mend with: %s\n", cfg->file[0] ? cfg->file : "database",
                r->checks[i].name, r->checks[i].found, r->checks[i].fix);
    }
    free(r);
    return code;
}

static void print_warning(void *ctx, const char *text)
{
    struct cli *cli = ctx;
    fprintf(cli->err, "warning: %s\n", text);
}

int cmd_check_config(struct cli *cli)
{
    struct error err;
    struct buf text;
    buf_init(&text, 1 << 20);
    int code;
    if (cli_has(cli, "print-schema")) {
        code = print(cli, config_print_schema(&text, &err), &text, &err);
    } else {
        code = cli_load_config(cli, NEED_SOURCE | NEED_TABLES);
        if (code == CLI_OK)
            config_warnings(cli->config, clock_wall_us(&clock_real), print_warning, cli);
        if (code == CLI_OK && cli_has(cli, "print-config")) {
            code = print(cli, config_print(cli->config, &text, &err), &text, &err);
        } else if (code == CLI_OK) {
            code = cli_has(cli, "offline") ? CLI_OK : check_database(cli);
            if (code == CLI_OK)
                fprintf(cli->out, "ok\n");
        }
    }
    buf_deinit(&text);
    return code;
}
