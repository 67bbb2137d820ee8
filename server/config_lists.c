/*
 * server/config_lists.c - the lists of the schema: tables, webhooks, secrets, qdrant. Room for an
 * element, what its members default to, and what only a whole element shows.
 */
#include "ingest/value.h"
#include "server/config_load.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void *config_grow(struct config_loader *l, const struct config_place *p, void **list, size_t *n,
                  size_t max, size_t size)
{
    void *grown = *n < max ? reallocarray(*list, *n + 1, size) : NULL;
    if (!grown) {
        config_problem(l, p->mark, p->path, "there can be at most %zu of them", max);
        return NULL;
    }
    *list = grown;
    return memset((char *)grown + (*n)++ * size, 0, size);
}

/* ---- tables ---- */

void config_check_field(struct config_loader *l, const struct config_place *p)
{
    const struct mapping_source *src = p->source;
    bool has_time = src->time_unit != TIME_TIMESTAMP || src->zone[0] || src->plus_us;
    int32_t zone_s;
    if (!!src->column[0] + !!src->constant[0] + !!src->template[0] > 1)
        config_problem(l, p->mark, p->path, "takes one of column, template and const");
    else if (src->path[0] && !src->column[0])
        config_problem(l, p->mark, p->path, "a path needs a column");
    else if (!src->column[0] && !src->template[0] && (src->n_enum || src->has_default || has_time))
        config_problem(l, p->mark, p->path,
                       "map, ignore, default, unit, zone and plus need a column or a template");
    else if (p->field != FIELD_AT && has_time)
        config_problem(l, p->mark, p->path, "only at has a unit, zone or plus");
    else if (src->zone[0] && !value_zone(str_from(src->zone), &zone_s))
        config_problem(l, p->mark, p->path, "zone \"%s\" is neither UTC nor an offset like +02:00",
                       src->zone);
    else if (!src->column[0] && !src->template[0] && !src->constant[0])
        config_problem(l, p->mark, p->path, "needs a column, a template or a const");
}

static struct mapping_set *tables_of(const struct config_loader *l, const struct config_place *p)
{
    return p->webhook ? p->webhook->tables : &l->cfg->mappings;
}

static bool add_table(struct config_loader *l, struct config_place *p)
{
    struct mapping_set *set = tables_of(l, p);
    if (set->n == MAPPING_TABLES_MAX) {
        config_problem(l, p->mark, p->path, "at most %d tables can be mapped", MAPPING_TABLES_MAX);
        return false;
    }
    p->table = &set->tables[set->n++];
    return true;
}

static void check_table(struct config_loader *l, const struct config_place *p)
{
    struct error err;
    struct mapping_source *at = &p->table->fields[FIELD_AT];
    if (p->webhook && !at->set) {
        at->set = true;
        snprintf(at->column, sizeof(at->column), "%s", WEBHOOK_COLUMN_AT);
    }
    if (!p->table->table[0])
        config_problem(l, p->mark, p->path, "relation is missing");
    if (!p->table->type)
        config_problem(l, p->mark, p->path, "event is missing: message or memory");
    if (p->table->table[0] && p->table->type &&
        (mapping_check(p->table, &err) != STATUS_OK ||
         mapping_check_others(tables_of(l, p), p->table, &err) != STATUS_OK))
        config_problem(l, p->mark, p->path, "%s", err.text);
}

/* ---- secrets ---- */

static struct config_secret *secrets_of(struct config_loader *l, const struct config_place *p,
                                        size_t **ret_n)
{
    *ret_n = p->webhook ? &p->webhook->n_secrets
             : p->feed  ? &p->feed->n_secrets
                        : &l->cfg->influx.n_secrets;
    return p->webhook ? p->webhook->secrets : p->feed ? p->feed->secrets : l->cfg->influx.secrets;
}

static bool add_secret(struct config_loader *l, struct config_place *p)
{
    size_t *n = NULL;
    struct config_secret *list = secrets_of(l, p, &n);
    if (*n == CONFIG_SECRETS_MAX) {
        config_problem(l, p->mark, p->path, "there can be at most %d secrets", CONFIG_SECRETS_MAX);
        return false;
    }
    p->secret = &list[(*n)++];
    return true;
}

static void check_secret(struct config_loader *l, const struct config_place *p)
{
    size_t *n = NULL;
    const struct config_secret *first = secrets_of(l, p, &n);
    struct config_secret *s = p->secret;
    if (!s->id[0])
        snprintf(s->id, sizeof(s->id), "%td", s - first + 1);
    if (!s->value[0])
        config_problem(l, p->mark, p->path, "value is missing");
    for (const struct config_secret *other = first; other < s; other++)
        if (strcmp(other->id, s->id) == 0)
            config_problem(l, p->mark, p->path, "another secret has the id \"%s\"", s->id);
}

/* ---- webhooks ---- */

static bool add_webhook(struct config_loader *l, struct config_place *p)
{
    struct config *c = l->cfg;
    void *list = c->webhooks;
    p->webhook =
        config_grow(l, p, &list, &c->n_webhooks, CONFIG_WEBHOOKS_MAX, sizeof(*c->webhooks));
    c->webhooks = list;
    if (!p->webhook)
        return false;
    p->webhook->tables = calloc(1, sizeof(*p->webhook->tables));
    if (!p->webhook->tables) {
        c->n_webhooks--;
        config_problem(l, p->mark, p->path, "out of memory");
        return false;
    }
    p->webhook->verify = SIGNATURE_KINDS; /* none yet: follows from the preset */
    config_walk_scope_defaults(l, SCOPE_WEBHOOK, p);
    return true;
}

/* How a sender proves itself unless the file says otherwise. */
static const struct {
    enum webhook_preset preset;
    enum signature_kind verify;
    const char *header;
} usual[] = {
    {WEBHOOK_GITHUB, SIGNATURE_HMAC_BODY, ""},
    {WEBHOOK_STRIPE, SIGNATURE_HMAC_TS_STRIPE, ""},
    {WEBHOOK_SLACK, SIGNATURE_HMAC_TS_SLACK, ""},
    {WEBHOOK_DISCORD, SIGNATURE_ED25519_TS, ""},
    {WEBHOOK_TELEGRAM, SIGNATURE_SHARED_SECRET, "x-telegram-bot-api-secret-token"},
    {WEBHOOK_SUPABASE, SIGNATURE_SHARED_SECRET, "authorization"},
    {WEBHOOK_SEQUIN, SIGNATURE_SHARED_SECRET, "authorization"},
};

static void fill_usual(struct config_webhook *w)
{
    const char *header = "authorization";
    enum signature_kind verify = SIGNATURE_STANDARD_WEBHOOKS;
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (usual[i].preset == w->preset) {
            verify = usual[i].verify;
            header = usual[i].header[0] ? usual[i].header : header;
        }
    if (w->verify == SIGNATURE_KINDS)
        w->verify = verify;
    if (w->verify == SIGNATURE_SHARED_SECRET && !w->header[0])
        snprintf(w->header, sizeof(w->header), "%s", header);
    for (char *c = w->header; *c; c++)
        *c = (char)tolower((unsigned char)*c);
}

/* Another source of the inbox has this name: then neither ids nor cursors would be its own. */
static void check_name(struct config_loader *l, const struct config_place *p, const char *name)
{
    const struct config *c = l->cfg;
    bool taken = false;
    for (size_t i = 0; i < c->n_webhooks; i++)
        taken |= &c->webhooks[i] != p->webhook && strcmp(c->webhooks[i].name, name) == 0;
    for (size_t i = 0; i < c->n_qdrant; i++)
        taken |= &c->qdrant[i] != p->qdrant && strcmp(c->qdrant[i].name, name) == 0;
    if (!name[0])
        config_problem(l, p->mark, p->path, "name is missing");
    else if (taken)
        config_problem(l, p->mark, p->path, "the name \"%s\" is taken by another source", name);
}

static bool path_is_bad(const char *path)
{
    size_t n = strlen(path);
    return n && (path[0] == '.' || path[n - 1] == '.' || strstr(path, ".."));
}

/* The name of a header is a token of RFC 9110. */
static bool is_token(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_");
    return n > 0 && text[n] == '\0';
}

static void check_form(struct config_loader *l, const struct config_place *p)
{
    const struct config_webhook *w = p->webhook;
    bool own = w->preset == WEBHOOK_WARMPATH;
    bool rows = w->preset == WEBHOOK_SUPABASE || w->preset == WEBHOOK_SEQUIN;
    if (own && w->tables->n)
        config_problem(l, p->mark, p->path, "preset warmpath has no tables: its bodies are events");
    else if (!own && !w->tables->n)
        config_problem(l, p->mark, p->path, "tables is missing: what the rows of the body mean");
    if ((own || rows) && w->each[0])
        config_problem(l, p->mark, p->path,
                       "each goes with presets whose bodies are mapped as "
                       "they are, not with this one");
    if (path_is_bad(w->each) || path_is_bad(w->delivery_id))
        config_problem(l, p->mark, p->path, "each and delivery_id are member names joined by dots");
}

static void check_webhook(struct config_loader *l, const struct config_place *p)
{
    struct config_webhook *w = p->webhook;
    check_name(l, p, w->name);
    if (!w->preset) {
        config_problem(l, p->mark, p->path, "preset is missing: who sends, json for any other");
        return;
    }
    bool given = w->header[0] != '\0';
    fill_usual(w);
    if (given && w->verify != SIGNATURE_SHARED_SECRET)
        config_problem(l, p->mark, p->path, "header goes with verify: shared-secret");
    else if (given && !is_token(w->header))
        config_problem(l, p->mark, p->path, "header is not the name of a header");
    if (!w->n_secrets && !w->insecure_no_secret)
        config_problem(l, p->mark, p->path,
                       "secrets is missing: anyone could write here (insecure_no_secret: true "
                       "says that this is wanted)");
    check_form(l, p);
}

/* ---- servers to ask ---- */

static const char *url_problem(const char *url)
{
    const char *at = strncasecmp(url, "http://", 7) == 0    ? url + 7
                     : strncasecmp(url, "https://", 8) == 0 ? url + 8
                                                            : NULL;
    size_t host = at ? strcspn(at, "/?#") : 0;
    if (!host)
        return "is not a URL as http://HOST:PORT";
    if (memchr(at, '@', host))
        return "must hold no user or password: they have keys of their own";
    return at[host + strcspn(at + host, "?#")] ? "must not hold ? or #" : NULL;
}

static bool add_qdrant(struct config_loader *l, struct config_place *p)
{
    struct config *c = l->cfg;
    void *list = c->qdrant;
    p->qdrant = config_grow(l, p, &list, &c->n_qdrant, CONFIG_QDRANT_MAX, sizeof(*c->qdrant));
    c->qdrant = list;
    if (p->qdrant)
        config_walk_scope_defaults(l, SCOPE_QDRANT, p);
    return p->qdrant != NULL;
}

static void check_qdrant(struct config_loader *l, const struct config_place *p)
{
    struct config_qdrant *q = p->qdrant;
    check_name(l, p, q->name);
    const char *why = url_problem(q->url);
    if (!q->url[0])
        config_problem(l, p->mark, p->path, "url is missing");
    else if (why)
        config_problem(l, p->mark, p->path, "url %s", why);
    if (!q->collection[0])
        config_problem(l, p->mark, p->path, "collection is missing");
    const char *bot = q->bot_name[0] ? q->bot_name : q->collection;
    char normalised[LIMIT_ID_BYTES + 1];
    size_t n = event_bot_name(str_from(bot), normalised);
    normalised[n] = '\0';
    if (n == 0 && *bot)
        config_problem(l, p->mark, p->path,
                       "bot_name is missing: the collection's name has no "
                       "letter or digit");
    if (q->bot_name[0]) /* else the points may name it, each its own */
        snprintf(q->bot_name, sizeof(q->bot_name), "%s", normalised);
}

static const struct config_list lists[] = {
    {"source.tables", add_table, check_table},
    {"webhooks", add_webhook, check_webhook},
    {"webhooks[].secrets", add_secret, check_secret},
    {"webhooks[].tables", add_table, check_table},
    {"influx.secrets", add_secret, check_secret},
    {"qdrant", add_qdrant, check_qdrant},
    {"feed.webhooks", config_add_feed, config_check_feed},
    {"feed.webhooks[].secrets", add_secret, check_secret},
};

const struct config_list *config_list_find(const char *pattern)
{
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        if (strcmp(lists[i].pattern, pattern) == 0)
            return &lists[i];
    return NULL;
}

/* ---- all of it ---- */

static void check_influx(struct config_loader *l)
{
    const struct config_influx *i = &l->cfg->influx;
    const struct config_mark none = {0};
    const char *url = i->catch_up.url;
    if (url[0] && url_problem(url))
        config_problem(l, none, "influx.catch_up.url", "%s", url_problem(url));
    if (url[0] && !i->catch_up.database[0])
        config_problem(l, none, "influx.catch_up.database", "is missing");
    for (size_t w = 0; w < l->cfg->n_webhooks; w++)
        if (strcmp(l->cfg->webhooks[w].name, i->name) == 0)
            config_problem(l, none, "influx.name",
                           "is also the name of a webhook: give one "
                           "another");
    for (size_t q = 0; q < l->cfg->n_qdrant; q++)
        if (strcmp(l->cfg->qdrant[q].name, i->name) == 0)
            config_problem(l, none, "influx.name", "is also a name in qdrant: give one another");
}

void config_check_door(struct config_loader *l)
{
    const struct config *c = l->cfg;
    const struct config_mark none = {0};
    check_influx(l);
    config_check_pub(l);
    if (!c->http.listen[0] && (c->n_webhooks || config_influx_is_open(&c->influx)))
        config_problem(l, none, "http.listen", "is missing: %s need%s it",
                       c->n_webhooks ? "webhooks" : "influx", c->n_webhooks ? "" : "s");
    if (!c->http.tls_cert[0] != !c->http.tls_key[0])
        config_problem(l, none, c->http.tls_cert[0] ? "http.tls_key" : "http.tls_cert",
                       "is missing: certificate and key go together");
}
