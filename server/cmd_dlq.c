#include "core/clock.h"
#include "server/output.h"
#include "state/store.h"

#include <inttypes.h>
#include <string.h>

/*
 * `dlq list` and `dlq show ID`. An id is source:LSN:seq, the position of the input that could not
 * be used: it stays the same while letters come and go.
 */
struct listing {
    struct cli *cli;
    json_t *json;       /* array, or NULL for plain lines */
    const char *wanted; /* NULL: list all */
    uint64_t n;
};

static void format_id(const struct store_dead_letter *d, char out[64])
{
    snprintf(out, 64, "%s:" LSN_FMT ":%" PRIu64,
             d->source == SOURCE_POSTGRES ? "postgres" : "inbox", LSN_ARGS(d->pos.lsn), d->pos.seq);
}

static json_t *letter_json(const struct store_dead_letter *d, const char *id, bool with_bytes)
{
    json_t *o = json_pack("{s:s, s:o, s:o, s:o}", "id", id, "at", output_time(d->at_us), "where",
                          output_text(d->where), "reason", output_text(d->reason));
    if (o && with_bytes)
        json_object_set_new(o, "bytes", output_text(d->bytes));
    return o;
}

static enum status on_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    struct listing *l = ctx;
    char id[64], at[40];
    format_id(d, id);
    if (l->wanted && strcmp(l->wanted, id) != 0)
        return STATUS_OK;
    l->n++;
    if (l->json) {
        json_t *o = letter_json(d, id, l->wanted != NULL);
        if (!o || json_array_append_new(l->json, o) != 0)
            return error_set(err, STATUS_NOMEM, "out of memory");
        return STATUS_OK;
    }
    time_format(d->at_us, 0, at);
    fprintf(l->cli->out, "%-28s %s  " STR_FMT ": " STR_FMT "\n", id, at, STR_ARGS(d->where),
            STR_ARGS(d->reason));
    if (l->wanted) {
        fprintf(l->cli->out, "\n");
        fwrite(d->bytes.ptr ? d->bytes.ptr : "", 1, d->bytes.len, l->cli->out);
        fprintf(l->cli->out, "\n");
    }
    return STATUS_OK;
}

int cmd_dlq(struct cli *cli)
{
    bool show = strcmp(cli->args[0], "show") == 0;
    if (!show && strcmp(cli->args[0], "list") != 0)
        return cli_fail(cli, CLI_USAGE, "\"%s\" is neither list nor show", cli->args[0]);
    if (show != (cli->n_args == 2))
        return cli_fail(cli, CLI_USAGE,
                        show ? "show needs an ID of `dlq list`" : "list takes no ID");
    struct listing l = {.cli = cli, .wanted = show ? cli->args[1] : NULL};
    if (cli_has(cli, "json"))
        l.json = json_array();
    struct error err;
    enum status st = store_dead_letters_read(cli->config->state_dir, on_letter, &l, &err);
    if (st != STATUS_OK && st != STATUS_END) {
        json_decref(l.json);
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    }
    int code =
        show && l.n == 0 ? cli_fail(cli, CLI_FAILED, "no dead letter \"%s\"", l.wanted) : CLI_OK;
    if (l.json)
        return output_json(cli, l.json, code);
    if (!show && l.n == 0)
        fprintf(cli->out, "no dead letters\n");
    return code;
}
