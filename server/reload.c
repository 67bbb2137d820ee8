#include "server/reload.h"

#include "core/clock.h"
#include "core/log.h"
#include "core/metrics.h"
#include "server/config_schema.h"
#include "server/config_secrets.h"
#include "server/startup.h"

#include <string.h>

static const struct config *current(const struct reload *r)
{
    return r->config ? r->config : r->cli->config;
}

static bool look(const struct reload *r, struct stat *ret)
{
    const char *file = r->cli->config->file;
    return *file && stat(file, ret) == 0;
}

static void note_success(void)
{
    metric_set(METRIC_CONFIG_RELOAD_SUCCESS, NULL, NULL, 1);
    metric_set(METRIC_CONFIG_RELOAD_TIMESTAMP, NULL, NULL,
               (double)clock_wall_us(&clock_real) / 1e6);
}

void reload_init(struct reload *r, struct cli *cli)
{
    *r = (struct reload){.cli = cli};
    (void)look(r, &r->file);
    note_success(); /* it has just been read */
}

void reload_deinit(struct reload *r)
{
    if (r->config)
        r->cli->config->mappings = r->config->mappings;
    config_free(r->config);
    r->config = NULL;
}

bool reload_is_due(const struct reload *r)
{
    struct stat now;
    return look(r, &now) &&
           (now.st_mtim.tv_sec != r->file.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != r->file.st_mtim.tv_nsec || now.st_size != r->file.st_size ||
            now.st_ino != r->file.st_ino || now.st_dev != r->file.st_dev);
}

static bool triggers_differ(const struct config *a, const struct config *b)
{
    return a->n_triggers != b->n_triggers ||
           (a->n_triggers > 0 &&
            memcmp(a->triggers, b->triggers, a->n_triggers * sizeof(*a->triggers)) != 0);
}

/* As bytes: a difference in padding alone would only make the reader bind its tables once more. */
static bool bytes_differ(const void *a, const void *b, size_t size)
{
    return !str_equal((struct str){a, size}, (struct str){b, size});
}

static bool mappings_differ(const struct mapping_set *a, const struct mapping_set *b)
{
    return bytes_differ(a, b, sizeof(*a));
}

/* Secrets and rates, which door_reload() takes, do not count. */
static bool webhooks_differ(const struct config *a, const struct config *b)
{
    bool differ = a->n_webhooks != b->n_webhooks;
    for (size_t i = 0; i < a->n_webhooks && !differ; i++) {
        struct config_webhook x, y;
        memcpy(&x, &a->webhooks[i], sizeof(x));
        memcpy(&y, &b->webhooks[i], sizeof(y));
        differ = mappings_differ(x.tables, y.tables);
        x.n_secrets = y.n_secrets = 0;
        memset(x.secrets, 0, sizeof(x.secrets));
        memset(y.secrets, 0, sizeof(y.secrets));
        x.rate = y.rate = 0;
        x.tables = y.tables = NULL;
        differ = differ || bytes_differ(&x, &y, sizeof(x));
    }
    return differ;
}

static bool qdrant_differs(const struct config *a, const struct config *b)
{
    return a->n_qdrant != b->n_qdrant ||
           (a->n_qdrant > 0 &&
            bytes_differ(a->qdrant, b->qdrant, a->n_qdrant * sizeof(*a->qdrant)));
}

/* Compared with what `run` was started with: that is what works until a restart. */
static void log_ignored(const struct config *started, const struct config *now)
{
    for (const struct config_row *row = config_rows; row->path; row++) {
        if (row->scope != SCOPE_ROOT || strcmp(row->path, "log.level") == 0 ||
            strcmp(row->path, "influx.rate") == 0)
            continue;
        if (memcmp((const char *)started + row->offset, (const char *)now + row->offset,
                   row->size) != 0)
            log_write(LOG_WARN, "run", "a changed setting needs a restart key=%s", row->path);
    }
    if (triggers_differ(started, now))
        log_write(LOG_WARN, "run", "a changed setting needs a restart key=triggers");
    if (webhooks_differ(started, now))
        log_write(LOG_WARN, "run", "a changed setting needs a restart key=webhooks");
    if (qdrant_differs(started, now))
        log_write(LOG_WARN, "run", "a changed setting needs a restart key=qdrant");
}

bool reload_read(struct reload *r, const struct mapping_set **ret)
{
    struct stat file = {0};
    (void)look(r, &file); /* before reading: a later change is seen as one */
    r->file = file;
    struct cli again = *r->cli;
    again.config = NULL;
    if (cli_load_config(&again, r->cli->command->need) != CLI_OK) {
        log_write(LOG_ERROR, "run",
                  "the configuration cannot be used and is left as it was; its problems are above");
        metric_add(METRIC_CONFIG_RELOADS, "failed", NULL, 1);
        metric_set(METRIC_CONFIG_RELOAD_SUCCESS, NULL, NULL, 0);
        return false;
    }
    metric_add(METRIC_CONFIG_RELOADS, "ok", NULL, 1);
    note_success();
    bool differs = mappings_differ(&again.config->mappings, &current(r)->mappings);
    log_ignored(r->cli->config, again.config);
    config_log_warnings(again.config);
    config_free(r->config);
    r->config = again.config;
    log_write(LOG_INFO, "run", "read the configuration again source_tables=%s",
              differs ? "changed" : "unchanged");
    /* The table may have changed since what the reader is waiting with: no reason to refuse. */
    struct error err;
    if (differs && startup_check_prerequisites(r->config, false, &err) != STATUS_OK)
        log_write(LOG_WARN, "run", "could not check the source error=\"%s\"", err.text);
    *ret = &r->config->mappings;
    return differs;
}
