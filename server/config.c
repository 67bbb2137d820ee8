#include "server/config.h"

#include "core/pg.h"
#include "server/config_load.h"
#include "server/redis_address.h"
#include "server/redis_link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void load_variable(struct config_loader *l, const char *variable, const char *second,
                          const char *path)
{
    const char *value = getenv(variable);
    if (!value || !*value)
        return;
    char name[160];
    snprintf(name, sizeof(name), "environment %s", variable);
    const char *saved = l->name;
    l->name = name;
    l->origin = (struct config_origin){.kind = ORIGIN_ENVIRONMENT, .env = second};
    config_walk_path(l, str_from(path), str_from(value));
    l->name = saved;
}

static void load_environment(struct config_loader *l)
{
    char variable[128], path[128];
    for (const struct config_row *r = config_rows; r->path; r++) {
        if (r->scope == SCOPE_ROOT) {
            if (r->env)
                load_variable(l, r->env, r->env, r->path);
            config_env_name(r->path, variable, sizeof(variable));
            load_variable(l, variable, NULL, r->path);
        } else if (strncmp(r->path, "triggers.*.", 11) == 0) {
            for (size_t i = 0; engine_at(i); i++) {
                snprintf(path, sizeof(path), "triggers.%s.%s", engine_at(i)->name, r->path + 11);
                config_env_name(path, variable, sizeof(variable));
                load_variable(l, variable, NULL, path);
            }
        }
    }
}

static void load_sets(struct config_loader *l, const struct config_input *in)
{
    const char *saved = l->name;
    l->name = "--set";
    l->origin = (struct config_origin){.kind = ORIGIN_FLAG};
    for (size_t i = 0; i < in->n_sets; i++) {
        const char *equals = strchr(in->sets[i], '=');
        if (!equals || equals == in->sets[i])
            config_problem(l, (struct config_mark){0}, "", "\"%s\" is not path=value", in->sets[i]);
        else
            config_walk_path(l, (struct str){in->sets[i], (size_t)(equals - in->sets[i])},
                             str_from(equals + 1));
    }
    l->name = saved;
}

/* ---- what one value alone cannot show ---- */

static void check_conninfo(struct config_loader *l, const char *path, const char *conninfo)
{
    struct error why;
    if (pg_conninfo_check(conninfo, &why) != STATUS_OK)
        config_problem(l, (struct config_mark){0}, path, "%s", why.text);
}

static void check_redis(struct config_loader *l)
{
    const struct config_mark none = {0};
    const struct config_redis *c = &l->cfg->redis;
    struct redis_address address;
    struct error why;
    if (!c->url[0])
        return;
    if (!redis_link_built())
        config_problem(l, none, "redis.url",
                       "cannot be used: this build has no Redis layer (it needs hiredis, and "
                       "-Dredis=enabled)");
    else if (redis_address_parse(c->url, &address, &why) != STATUS_OK)
        config_problem(l, none, "redis.url", "%s", why.text);
    if (!c->prefix[0])
        config_problem(l, none, "redis.prefix", "must not be empty");
}

static void check_whole(struct config_loader *l, const struct config_input *in)
{
    struct config *c = l->cfg;
    const struct config_mark none = {0};
    if (c->source_conninfo[0])
        check_conninfo(l, "source.conninfo", c->source_conninfo);
    if (c->sink_conninfo[0])
        check_conninfo(l, "sink.conninfo", c->sink_conninfo);
    else
        memcpy(c->sink_conninfo, c->source_conninfo, sizeof(c->sink_conninfo));
    if (in->need_source && !c->source_conninfo[0])
        config_problem(l, none, "source.conninfo",
                       "is missing: set it, WARMPATH_SOURCE_CONNINFO or DATABASE_URL");
    else if (in->need_sink && !c->sink_conninfo[0])
        config_problem(l, none, "sink.conninfo",
                       "is missing: set it, WARMPATH_SINK_CONNINFO or DATABASE_URL");
    if (in->need_tables && c->mappings.n == 0)
        config_problem(l, none, "source.tables", "is missing: no table is mapped");
    if (!c->state_dir[0])
        config_problem(l, none, "state.dir", "must not be empty");
    if (strcmp(c->link_url, "inproc") != 0 && strcmp(c->link_url, "ipc") != 0 &&
        strncmp(c->link_url, "tcp://", 6) != 0)
        config_problem(l, none, "link.url", "\"%s\" is not inproc, ipc or tcp://HOST:PORT",
                       c->link_url);
    config_check_door(l);
    check_redis(l);
}

static struct config *config_new(void)
{
    struct config *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->origins = calloc(config_row_count, sizeof(*c->origins));
    if (c->origins)
        return c;
    free(c);
    return NULL;
}

enum status config_parse(struct str yaml, const char *name, const struct config_input *in,
                         struct config **ret, struct buf *problems, struct error *err)
{
    CLEANUP(config_freep) struct config *c = config_new();
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate the configuration");
    struct config_loader l = {.cfg = c, .name = name, .problems = problems};
    config_walk_defaults(&l);
    if (yaml.ptr)
        config_walk_document(&l, yaml);
    load_environment(&l);
    load_sets(&l, in);
    /* What is missing is only said when nothing was misread: a typo makes a key "missing" too. */
    if (l.n_problems == 0)
        check_whole(&l, in);
    if (l.n_problems)
        return error_set(err, STATUS_INVALID, "the configuration has %zu problem%s", l.n_problems,
                         l.n_problems == 1 ? "" : "s");
    *ret = TAKE(c);
    return STATUS_OK;
}

/* The file to read, or NULL when none was named and none of the usual ones exists. */
static const char *choose_file(const struct config_input *in)
{
    const char *named = in->file ? in->file : getenv("WARMPATH_CONFIG");
    if (named && *named)
        return named;
    static const char *const usual[] = {"./warmpath.yaml", "/etc/warmpath/warmpath.yaml"};
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (access(usual[i], F_OK) == 0)
            return usual[i];
    return NULL;
}

enum status config_load(const struct config_input *in, struct config **ret, struct buf *problems,
                        struct error *err)
{
    const char *file = choose_file(in);
    if (!file) {
        if (in->need_tables)
            return error_set(err, STATUS_IO,
                             "no configuration: name one with --config, or write ./warmpath.yaml "
                             "or /etc/warmpath/warmpath.yaml");
        return config_parse(STR_NULL, "configuration", in, ret, problems, err);
    }
    struct buf text;
    buf_init(&text, CONFIG_FILE_BYTES);
    enum status st = config_read_file(file, CONFIG_FILE_BYTES, &text, err);
    struct config *c = NULL;
    if (st == STATUS_OK)
        st = config_parse((struct str){text.len ? text.data : "", text.len}, file, in, &c, problems,
                          err);
    buf_deinit(&text);
    if (st != STATUS_OK)
        return st;
    snprintf(c->file, sizeof(c->file), "%s", file);
    *ret = c;
    return STATUS_OK;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_webhooks; i++)
        free(c->webhooks[i].tables);
    /* Secrets: what is freed may be written to disk with a core, or read by a fault elsewhere. */
    if (c->webhooks)
        explicit_bzero(c->webhooks, c->n_webhooks * sizeof(*c->webhooks));
    if (c->qdrant)
        explicit_bzero(c->qdrant, c->n_qdrant * sizeof(*c->qdrant));
    if (c->feed.webhooks)
        explicit_bzero(c->feed.webhooks, c->feed.n_webhooks * sizeof(*c->feed.webhooks));
    free(c->webhooks);
    free(c->qdrant);
    free(c->feed.webhooks);
    free(c->triggers);
    free(c->origins);
    explicit_bzero(c, sizeof(*c));
    free(c);
}

uint32_t config_workers(const struct config *c)
{
    long n = c->workers_wanted ? (long)c->workers_wanted : sysconf(_SC_NPROCESSORS_ONLN);
    if (n < 1)
        n = 1;
    return n > LIMIT_WORKERS ? LIMIT_WORKERS : (uint32_t)n;
}

static void override(struct trigger_policy *policy, const struct config_trigger *t)
{
    for (const struct config_row *r = config_rows; r->path; r++)
        if (r->scope == SCOPE_TRIGGER && (t->set & config_trigger_bit(r)))
            memcpy((char *)policy + r->offset, (const char *)&t->policy + r->offset, r->size);
}

struct trigger_policy config_trigger(const struct config *c, const struct engine_ops *engine,
                                     struct str bot)
{
    struct trigger_policy policy = engine->trigger;
    for (int one_bot = 0; one_bot < 2; one_bot++)
        for (size_t i = 0; i < c->n_triggers; i++) {
            const struct config_trigger *t = &c->triggers[i];
            if (t->engine != engine || (t->bot[0] != '\0') != (one_bot != 0))
                continue;
            if (!one_bot || str_equal(str_from(t->bot), bot))
                override(&policy, t);
        }
    return policy;
}
