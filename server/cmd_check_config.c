#include "server/cli.h"

static int print(struct cli *cli, enum status st, const struct buf *text, const struct error *err)
{
    if (st != STATUS_OK)
        return cli_fail(cli, CLI_FAILED, "%s", err->text);
    fwrite(text->data, 1, text->len, cli->out);
    return CLI_OK;
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
        if (code == CLI_OK && cli_has(cli, "print-config"))
            code = print(cli, config_print(cli->config, &text, &err), &text, &err);
        else if (code == CLI_OK)
            fprintf(cli->out, "ok\n");
    }
    buf_deinit(&text);
    return code;
}
