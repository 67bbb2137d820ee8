/*
 * server/cmd_doctor.c - every prerequisite with what was found and what mends it.
 *
 * The checks of the source are ingest's (preflight.h), the same that `run` makes; those added here
 * need the configuration, the state directory or the cache tables as a whole.
 */
#include "core/clock.h"
#include "ingest/preflight.h"
#include "server/output.h"
#include "server/startup.h"
#include "state/migrate.h"
#include "state/store.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct check *add(struct preflight_report *r, const char *name, enum check_result result)
{
    /* The table is sized for all checks of all tables; one more would be our own mistake, and the
     * last one is the least important. */
    struct check *c = &r->checks[r->n < CHECKS_MAX ? r->n++ : CHECKS_MAX - 1];
    *c = (struct check){.name = name, .result = result};
    return c;
}

static void ignore_line(void *ctx, const char *line)
{
    (void)ctx;
    (void)line;
}

static void check_migrations(const struct config *cfg, struct preflight_report *r)
{
    struct error err;
    bool pending = false;
    struct check *c = add(r, "migrations", CHECK_OK);
    enum status st =
        migrate_status(&migrate_cache, cfg->sink_conninfo, ignore_line, NULL, &pending, &err);
    if (st != STATUS_OK) {
        c->result = CHECK_FAIL;
        snprintf(c->found, sizeof(c->found), "%.500s", err.text);
        snprintf(c->fix, sizeof(c->fix), "warmpath migrate status");
    } else if (pending) {
        c->result = CHECK_FAIL;
        snprintf(c->found, sizeof(c->found), "the cache tables are missing or not up to date");
        snprintf(c->fix, sizeof(c->fix), "warmpath migrate up");
    } else {
        snprintf(c->found, sizeof(c->found), "all applied");
    }
}

/* A password in a file that others can read is no secret. */
static void check_file(const struct config *cfg, struct preflight_report *r)
{
    struct stat st;
    if (!cfg->file[0] || stat(cfg->file, &st) != 0)
        return;
    struct buf masked;
    buf_init(&masked, 4 * CONFIG_CONNINFO_BYTES);
    bool secret = cfg->secret_line > 0;
    const char *const conninfos[] = {cfg->source_conninfo, cfg->sink_conninfo};
    for (int i = 0; i < 2; i++) {
        buf_reset(&masked);
        if (config_mask_conninfo(conninfos[i], &masked) == STATUS_OK)
            secret |= !str_equal((struct str){masked.data, masked.len}, str_from(conninfos[i]));
    }
    buf_deinit(&masked);
    bool open = (st.st_mode & (S_IRWXG | S_IRWXO)) != 0;
    struct check *c = add(r, "config_file", secret && open ? CHECK_WARN : CHECK_OK);
    snprintf(c->found, sizeof(c->found), "%.400s (mode %04o%s)", cfg->file,
             (unsigned)(st.st_mode & 07777), secret ? ", it holds a secret" : "");
    if (secret && open)
        snprintf(c->fix, sizeof(c->fix),
                 "chmod 600 %.400s, or move passwords and secrets out: ${file:PATH} or PGPASSFILE",
                 cfg->file);
}

/* The directory, or the nearest one above it that exists and in which it can be made. */
static void check_state_dir(const struct config *cfg, struct preflight_report *r)
{
    char path[CONFIG_PATH_BYTES];
    snprintf(path, sizeof(path), "%s", cfg->state_dir);
    bool exists = access(path, F_OK) == 0;
    while (access(path, F_OK) != 0 && errno == ENOENT) {
        char *slash = strrchr(path, '/');
        if (!slash || slash == path) {
            snprintf(path, sizeof(path), "%s", slash ? "/" : ".");
            break;
        }
        *slash = '\0';
    }
    bool writable = access(path, R_OK | W_OK | X_OK) == 0;
    struct check *c = add(r, "state_dir", writable ? CHECK_OK : CHECK_FAIL);
    snprintf(c->found, sizeof(c->found), "%.300s %s%s%s", cfg->state_dir,
             exists     ? "exists"
             : writable ? "will be made"
                        : "cannot be made",
             writable ? "" : ": ", writable ? "" : strerror(errno));
    if (!writable)
        snprintf(c->fix, sizeof(c->fix), "install -d -m 700 -o %u %.400s", (unsigned)geteuid(),
                 cfg->state_dir);
}

/* State of another cluster or slot would be refused by `run`; say so before. */
static void check_state_identity(const struct config *cfg, struct preflight_report *r)
{
    struct store_identity identity;
    lsn_t covered;
    struct error err;
    enum status st = store_identity_read(cfg->state_dir, &identity, &covered, &err);
    if (st == STATUS_END)
        return;
    struct check *c = add(r, "state", CHECK_OK);
    if (st != STATUS_OK) {
        c->result = CHECK_FAIL;
        snprintf(c->found, sizeof(c->found), "%.500s", err.text);
        snprintf(c->fix, sizeof(c->fix), "restore the newest backup, or remove %.400s to rebuild",
                 cfg->state_dir);
        return;
    }
    snprintf(c->found, sizeof(c->found), "pipeline %s, slot %s, covered up to " LSN_FMT,
             identity.pipeline, identity.slot, LSN_ARGS(covered));
    uint64_t server;
    char decimal[24] = "";
    if (preflight_system_identifier(cfg->source_conninfo, &server, &err) == STATUS_OK)
        snprintf(decimal, sizeof(decimal), "%" PRIu64, server);
    if (decimal[0] && identity.system_identifier[0] &&
        strcmp(decimal, identity.system_identifier) != 0) {
        c->result = CHECK_FAIL;
        snprintf(c->found, sizeof(c->found), "belongs to cluster %s, the source is cluster %s",
                 identity.system_identifier, decimal);
    } else if (strcmp(identity.pipeline, cfg->pipeline) != 0 ||
               strcmp(identity.slot, cfg->slot) != 0) {
        c->result = CHECK_FAIL;
    }
    if (c->result == CHECK_FAIL)
        snprintf(c->fix, sizeof(c->fix),
                 "use the state.dir that belongs to pipeline %s and slot %s", cfg->pipeline,
                 cfg->slot);
}

/* A warm key's row must be renewed before it expires, or readers see gaps. */
static void check_lifetime(const struct config *cfg, struct preflight_report *r)
{
    for (size_t i = 0; engine_at(i); i++) {
        struct trigger_policy p = config_trigger(cfg, engine_at(i), STR_NULL);
        bool late = p.refresh_us > 0 && p.refresh_us + p.refresh_jitter_us >= cfg->ttl_us;
        struct check *c = add(r, "row_lifetime", late ? CHECK_WARN : CHECK_OK);
        snprintf(c->found, sizeof(c->found),
                 "%s: renewed after %" PRId64 " to %" PRId64 " s, expires after %" PRId64 " s",
                 engine_at(i)->name, p.refresh_us / US_PER_SECOND,
                 (p.refresh_us + p.refresh_jitter_us) / US_PER_SECOND, cfg->ttl_us / US_PER_SECOND);
        if (late)
            snprintf(c->fix, sizeof(c->fix), "triggers.%s.refresh below sink.ttl",
                     engine_at(i)->name);
    }
}

/* A destination without a live secret gets nothing; one that has not taken things waits for
 * somebody. */
static void check_feed(const struct config *cfg, struct preflight_report *r)
{
    const struct config_feed *f = &cfg->feed;
    int64_t now_us = clock_wall_us(&clock_real);
    if (f->n_webhooks == 0)
        return;
    struct check *c = add(r, "feed", CHECK_OK);
    snprintf(c->found, sizeof(c->found), "%zu destinations, each with a live secret",
             f->n_webhooks);
    for (size_t i = 0; i < f->n_webhooks; i++) {
        const struct config_feed_webhook *w = &f->webhooks[i];
        size_t live = 0;
        for (size_t k = 0; k < w->n_secrets; k++)
            live += !w->secrets[k].not_after_us || w->secrets[k].not_after_us > now_us;
        if (live)
            continue;
        c->result = CHECK_FAIL;
        snprintf(c->found, sizeof(c->found),
                 "every secret of feed.webhooks \"%s\" has expired: nothing is sent", w->name);
        snprintf(c->fix, sizeof(c->fix),
                 "warmpath secret new, into feed.webhooks[].secrets and to the receiver; SIGHUP");
    }
}

static int print_text(struct cli *cli, const struct preflight_report *r, int code)
{
    static const char *const words[] = {
        [CHECK_OK] = "ok", [CHECK_WARN] = "warn", [CHECK_FAIL] = "FAIL"};
    for (size_t i = 0; i < r->n; i++) {
        const struct check *c = &r->checks[i];
        fprintf(cli->out, "%-4s  %-24s %s\n", words[c->result], c->name, c->found);
        /* A fix may be several statements, one per line. */
        const char *line = c->fix;
        while (*line) {
            size_t n = strcspn(line, "\n");
            fprintf(cli->out, "      %-24s %.*s\n", line == c->fix ? "  mend with" : "", (int)n,
                    line);
            line += n + (line[n] == '\n');
        }
    }
    return code;
}

static int print_json(struct cli *cli, const struct preflight_report *r, int code)
{
    json_t *checks = json_array();
    for (size_t i = 0; i < r->n; i++) {
        const struct check *c = &r->checks[i];
        json_array_append_new(checks, json_pack("{s:s, s:s, s:o, s:o}", "name", c->name, "result",
                                                check_result_name(c->result), "found",
                                                output_text(str_from(c->found)), "fix",
                                                output_text(str_from(c->fix))));
    }
    json_t *root = json_pack("{s:b, s:o}", "ok", code == CLI_OK, "checks", checks);
    return output_json(cli, root, code);
}

int cmd_doctor(struct cli *cli)
{
    const struct config *cfg = cli->config;
    struct preflight_config pre = startup_preflight(cfg);
    struct preflight_report *r = calloc(1, sizeof(*r));
    if (!r)
        return cli_fail(cli, CLI_FAILED, "out of memory");
    struct error err;
    if (preflight_run(&pre, r, &err) != STATUS_OK) {
        struct check *c = add(r, "connection", CHECK_FAIL);
        snprintf(c->found, sizeof(c->found), "%.500s", err.text);
    }
    check_migrations(cfg, r);
    check_file(cfg, r);
    check_state_dir(cfg, r);
    check_state_identity(cfg, r);
    check_lifetime(cfg, r);
    check_feed(cfg, r);
    int code = preflight_worst(r) == CHECK_FAIL ? CLI_FAILED : CLI_OK;
    code = cli_has(cli, "json") ? print_json(cli, r, code) : print_text(cli, r, code);
    free(r);
    return code;
}
