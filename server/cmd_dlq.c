/*
 * warmpath dlq - dead letters: list, show, retry, drop. Works with and without a running process:
 * letters are read and taken out beside it (state/store_letters.c), and what is tried again goes
 * to it through the inbox (server/dlq_retry.h). What a destination of the feed did not take is
 * among them, as feed:NUMBER; it goes back into that destination's queue.
 */
#include "core/clock.h"
#include "server/dlq_retry.h"
#include "server/output.h"
#include "state/feed_queue.h"
#include "state/store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Taken out together: a crash in between tries at most so many letters again, to no effect. */
#define RETRY_SLICE 100

enum verb { DLQ_LIST, DLQ_SHOW, DLQ_RETRY, DLQ_DROP, DLQ_VERBS };
static const char *const verbs[DLQ_VERBS] = {"list", "show", "retry", "drop"};

struct letter {
    struct store_dead_letter d; /* its strings point into text */
    char *text;
    char id[DLQ_ID_BYTES];
    int64_t feed; /* its number in the feed's queue; 0: it is one of the stores' */
};

struct selection {
    struct cli *cli;
    enum verb verb;
    const char *const *ids; /* n_ids of them; none: the filters choose */
    int n_ids;
    bool found[CLI_GIVEN_MAX]; /* by id */
    const char *where;         /* NULL: any */
    const char *reason;        /* a part of it; NULL: any */
    uint64_t limit;            /* newest first */
    struct letter *letters;
    size_t n, cap;
};

static void selection_deinit(struct selection *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->letters[i].text);
    free(s->letters);
}

/* ---- choosing ---- */

static bool contains(struct str s, const char *part)
{
    size_t n = strlen(part);
    return n == 0 || (s.len >= n && memmem(s.ptr, s.len, part, n) != NULL);
}

static bool wanted(struct selection *s, const struct store_dead_letter *d, const char *id)
{
    bool by_id = s->n_ids == 0;
    for (int i = 0; i < s->n_ids; i++)
        if (strcmp(s->ids[i], id) == 0)
            by_id = s->found[i] = true;
    return by_id && s->n < s->limit && (!s->where || str_equal(d->where, str_from(s->where))) &&
           (!s->reason || contains(d->reason, s->reason));
}

static enum status copy_letter(struct letter *out, const struct store_dead_letter *d)
{
    struct str parts[] = {d->where, d->reason, d->bytes};
    out->d = *d;
    out->text = malloc(d->where.len + d->reason.len + d->bytes.len + 1);
    if (!out->text)
        return STATUS_NOMEM;
    char *at = out->text;
    struct str *copies[] = {&out->d.where, &out->d.reason, &out->d.bytes};
    for (size_t i = 0; i < 3; i++) {
        if (parts[i].len)
            memcpy(at, parts[i].ptr, parts[i].len);
        *copies[i] = (struct str){at, parts[i].len};
        at += parts[i].len;
    }
    return STATUS_OK;
}

static enum status add_letter(struct selection *s, const struct store_dead_letter *d,
                              const char id[DLQ_ID_BYTES], int64_t feed, struct error *err)
{
    if (!wanted(s, d, id))
        return STATUS_OK;
    struct store_dead_letter kept = *d;
    if (s->verb == DLQ_LIST || s->verb == DLQ_DROP)
        kept.bytes = STR("");
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct letter *grown = realloc(s->letters, cap * sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "out of memory");
        s->letters = grown;
        s->cap = cap;
    }
    struct letter *l = &s->letters[s->n];
    memcpy(l->id, id, sizeof(l->id));
    l->feed = feed;
    if (copy_letter(l, &kept))
        return error_set(err, STATUS_NOMEM, "out of memory");
    s->n++;
    return STATUS_OK;
}

static enum status on_letter(void *ctx, const struct store_dead_letter *d, struct error *err)
{
    char id[DLQ_ID_BYTES];
    dlq_id(d, id);
    return add_letter(ctx, d, id, 0, err);
}

static enum status on_feed_letter(void *ctx, const struct feed_letter *l, struct error *err)
{
    char id[DLQ_ID_BYTES], where[sizeof("feed:") + 128];
    snprintf(id, sizeof(id), "feed:%" PRId64, l->id);
    snprintf(where, sizeof(where), "feed:%.*s", (int)(l->destination.len % 128),
             l->destination.ptr);
    const struct store_dead_letter d = {
        .at_us = l->at_us, .where = str_from(where), .reason = l->why, .bytes = l->json};
    return add_letter(ctx, &d, id, l->id, err);
}

static int read_letters(struct selection *s)
{
    struct error err;
    const char *dir = s->cli->config->state_dir;
    enum status st = store_dead_letters_read(dir, on_letter, s, &err);
    if (!st)
        st = feed_letters_read(dir, on_feed_letter, s, &err);
    if (st)
        return cli_fail(s->cli, CLI_FAILED, "%s", err.text);
    for (int i = 0; i < s->n_ids; i++)
        if (!s->found[i])
            return cli_fail(s->cli, CLI_FAILED, "no dead letter \"%s\"", s->ids[i]);
    return CLI_OK;
}

/* ---- list, show ---- */

static json_t *letter_json(const struct letter *l, bool with_bytes)
{
    json_t *o = json_pack("{s:s, s:o, s:o, s:o}", "id", l->id, "at", output_time(l->d.at_us),
                          "where", output_text(l->d.where), "reason", output_text(l->d.reason));
    if (o && with_bytes)
        json_object_set_new(o, "bytes", output_text(l->d.bytes));
    return o;
}

static int print_json(const struct selection *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++)
        if (json_array_append_new(list, letter_json(&s->letters[i], s->verb == DLQ_SHOW))) {
            json_decref(list);
            return cli_fail(s->cli, CLI_FAILED, "out of memory");
        }
    return output_json(s->cli, list, CLI_OK);
}

static int print_letters(const struct selection *s)
{
    FILE *out = s->cli->out;
    if (cli_has(s->cli, "json"))
        return print_json(s);
    for (size_t i = 0; i < s->n; i++) {
        const struct letter *l = &s->letters[i];
        char at[40];
        time_format(l->d.at_us, 0, at);
        fprintf(out, "%-28s %s  " STR_FMT ": " STR_FMT "\n", l->id, at, STR_ARGS(l->d.where),
                STR_ARGS(l->d.reason));
        if (s->verb != DLQ_SHOW)
            continue;
        fprintf(out, "\n");
        fwrite(l->d.bytes.ptr, 1, l->d.bytes.len, out);
        fprintf(out, "\n");
    }
    if (s->n == 0)
        fprintf(out, "no dead letters\n");
    return CLI_OK;
}

/* ---- drop ---- */

static int remove_letters(const struct selection *s, const struct store_dead_letter *gone, size_t n,
                          uint64_t *removed)
{
    struct error err;
    uint64_t now = 0;
    if (n && store_dead_letters_remove(s->cli->config->state_dir, gone, n, &now, &err))
        return cli_fail(s->cli, CLI_FAILED, "%s", err.text);
    *removed += now;
    return CLI_OK;
}

/* Out of the dead letters of the feed, and with `again` back into its queue. */
static int take_feed_letter(const struct selection *s, const struct letter *l, bool again,
                            uint64_t *count)
{
    struct error err;
    bool found = false;
    if (feed_letter_remove(s->cli->config->state_dir, l->feed, again, &found, &err))
        return cli_fail(s->cli, CLI_FAILED, "%s: %s", l->id, err.text);
    *count += found;
    return CLI_OK;
}

static int drop_letters(const struct selection *s)
{
    struct store_dead_letter *gone = calloc(s->n + 1, sizeof(*gone));
    if (!gone)
        return cli_fail(s->cli, CLI_FAILED, "out of memory");
    size_t n = 0;
    uint64_t removed = 0;
    int code = CLI_OK;
    for (size_t i = 0; i < s->n && !code; i++)
        if (s->letters[i].feed)
            code = take_feed_letter(s, &s->letters[i], false, &removed);
        else
            gone[n++] = s->letters[i].d;
    if (!code)
        code = remove_letters(s, gone, n, &removed);
    free(gone);
    if (code)
        return code;
    if (cli_has(s->cli, "json"))
        return output_json(s->cli, json_pack("{s:I}", "dropped", (json_int_t)removed), CLI_OK);
    fprintf(s->cli->out, "dropped %" PRIu64 "\n", removed);
    return CLI_OK;
}

/* ---- retry ---- */

struct retrying {
    const struct selection *s;
    json_t *refused; /* array of {id, reason} */
    struct store_dead_letter done[RETRY_SLICE];
    size_t n_done;
    uint64_t retried;
    bool made;
};

/* It is in the inbox for good: now it may go here. */
static int settle(struct retrying *r)
{
    int code = remove_letters(r->s, r->done, r->n_done, &r->retried);
    r->n_done = 0;
    return code;
}

static int retry_one(struct retrying *r, const struct letter *l)
{
    struct error err;
    if (l->feed)
        return take_feed_letter(r->s, l, true, &r->retried);
    enum status st = dlq_retry(r->s->cli->config, &l->d, &r->made, &err);
    if (!st) {
        r->done[r->n_done++] = l->d;
        return r->n_done == RETRY_SLICE ? settle(r) : CLI_OK;
    }
    if (st != STATUS_INVALID)
        return cli_fail(r->s->cli, CLI_FAILED, "%s: %s", l->id, err.text);
    json_array_append_new(r->refused, json_pack("{s:s, s:o}", "id", l->id, "reason",
                                                output_text(str_from(err.text))));
    return CLI_OK;
}

static int print_retried(struct retrying *r)
{
    struct cli *cli = r->s->cli;
    int code = json_array_size(r->refused) ? CLI_FAILED : CLI_OK;
    if (cli_has(cli, "json"))
        return output_json(cli,
                           json_pack("{s:I, s:b, s:O}", "retried", (json_int_t)r->retried,
                                     "after_restart", r->made, "refused", r->refused),
                           code);
    size_t i;
    json_t *o;
    json_array_foreach(r->refused, i, o)
        fprintf(cli->err, "%s: %s\n", json_string_value(json_object_get(o, "id")),
                json_string_value(json_object_get(o, "reason")));
    fprintf(cli->out, "handed in again %" PRIu64 ", not %zu\n", r->retried,
            json_array_size(r->refused));
    if (r->made)
        fprintf(cli->out, "there was no inbox: a process that runs already reads it after its "
                          "next start\n");
    return code;
}

/* Oldest first, as they came. */
static int retry_letters(const struct selection *s)
{
    struct retrying *r = calloc(1, sizeof(*r));
    if (!r)
        return cli_fail(s->cli, CLI_FAILED, "out of memory");
    *r = (struct retrying){.s = s, .refused = json_array()};
    int code = CLI_OK;
    for (size_t i = s->n; i-- > 0 && !code;)
        code = retry_one(r, &s->letters[i]);
    int settled = settle(r);
    code = code ? code : settled;
    if (!code)
        code = print_retried(r);
    json_decref(r->refused);
    free(r);
    return code;
}

/* ---- the command ---- */

static bool parse_limit(const char *text, uint64_t *ret)
{
    char *end = NULL;
    unsigned long long n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n == 0)
        return false;
    *ret = n;
    return true;
}

static int check_use(const struct selection *s)
{
    bool filtered = s->where || s->reason;
    bool all = cli_has(s->cli, "all");
    if (s->verb == DLQ_LIST && s->n_ids)
        return cli_fail(s->cli, CLI_USAGE, "list takes no ID");
    if (s->verb == DLQ_SHOW && (s->n_ids != 1 || filtered || all))
        return cli_fail(s->cli, CLI_USAGE, "show needs an ID of `dlq list`");
    if (s->verb != DLQ_RETRY && s->verb != DLQ_DROP)
        return CLI_OK;
    if (s->n_ids == 0 && !filtered && !all)
        return cli_fail(s->cli, CLI_USAGE, "%s needs IDs of `dlq list`, --where, --reason or --all",
                        verbs[s->verb]);
    if (s->n_ids && (filtered || all))
        return cli_fail(s->cli, CLI_USAGE, "%s takes IDs or a choice, not both", verbs[s->verb]);
    return CLI_OK;
}

int cmd_dlq(struct cli *cli)
{
    CLEANUP(selection_deinit)
    struct selection s = {
        .cli = cli,
        .ids = cli->args + 1,
        .n_ids = cli->n_args - 1,
        .where = cli_value(cli, "where"),
        .reason = cli_value(cli, "reason"),
        .limit = UINT64_MAX,
    };
    while (s.verb < DLQ_VERBS && strcmp(cli->args[0], verbs[s.verb]) != 0)
        s.verb++;
    if (s.verb == DLQ_VERBS)
        return cli_fail(cli, CLI_USAGE, "\"%s\" is none of list, show, retry and drop",
                        cli->args[0]);
    if (cli_has(cli, "limit") && !parse_limit(cli_value(cli, "limit"), &s.limit))
        return cli_fail(cli, CLI_USAGE, "--limit needs a number above 0");
    int code = check_use(&s);
    if (!code)
        code = read_letters(&s);
    if (code)
        return code;
    switch (s.verb) {
    case DLQ_RETRY:
        return retry_letters(&s);
    case DLQ_DROP:
        return drop_letters(&s);
    case DLQ_LIST:
    case DLQ_SHOW:
    case DLQ_VERBS:
        break;
    }
    return print_letters(&s);
}
