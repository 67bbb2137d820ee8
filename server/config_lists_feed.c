/* server/config_lists_feed.c - the section `feed`: its destinations, and where it is published. */
#include "engines/tables.h"
#include "server/config_load.h"
#include "server/http_client.h"

#include <stdio.h>
#include <string.h>

bool config_add_feed(struct config_loader *l, struct config_place *p)
{
    struct config_feed *f = &l->cfg->feed;
    void *list = f->webhooks;
    p->feed =
        config_grow(l, p, &list, &f->n_webhooks, CONFIG_FEED_WEBHOOKS_MAX, sizeof(*f->webhooks));
    f->webhooks = list;
    if (p->feed)
        config_walk_scope_defaults(l, SCOPE_FEED, p);
    return p->feed != NULL;
}

/* One element of a list with commas, without the blanks around it; false: there is none left. */
static bool next_element(const char **at, struct str *ret)
{
    if (!*at)
        return false;
    const char *end = strchr(*at, ',');
    *ret = (struct str){*at, end ? (size_t)(end - *at) : strlen(*at)};
    *at = end ? end + 1 : NULL;
    while (ret->len > 0 && ret->ptr[0] == ' ')
        *ret = (struct str){ret->ptr + 1, ret->len - 1};
    while (ret->len > 0 && ret->ptr[ret->len - 1] == ' ')
        ret->len--;
    return true;
}

/* Names as they are stored, so that what is announced can be compared. */
static void normalise_bots(struct config_loader *l, const struct config_place *p)
{
    char out[sizeof(p->feed->bots)] = "";
    size_t n = 0;
    const char *at = *p->feed->bots ? p->feed->bots : NULL;
    for (struct str bot; next_element(&at, &bot);) {
        char name[LIMIT_ID_BYTES + 1];
        size_t len = event_bot_name(bot, name);
        if (len == 0)
            config_problem(l, p->mark, p->path, "bots: \"" STR_FMT "\" is not a bot name",
                           STR_ARGS(bot));
        if (len && n + len + 2 < sizeof(out))
            n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%.*s", n ? "," : "", (int)len, name);
    }
    memcpy(p->feed->bots, out, sizeof(out));
}

static bool is_cache_table(struct str name)
{
    for (size_t i = 0; i < TABLE_COUNT; i++)
        if (str_equal(name, str_from(tables[i].name)))
            return true;
    return false;
}

static void check_tables(struct config_loader *l, const struct config_place *p)
{
    char out[sizeof(p->feed->tables)] = "";
    size_t n = 0;
    const char *at = *p->feed->tables ? p->feed->tables : NULL;
    for (struct str name; next_element(&at, &name);) {
        if (!is_cache_table(name))
            config_problem(l, p->mark, p->path, "tables: \"" STR_FMT "\" is no cache table",
                           STR_ARGS(name));
        n += (size_t)snprintf(out + n, sizeof(out) - n, "%s" STR_FMT, n ? "," : "", STR_ARGS(name));
    }
    memcpy(p->feed->tables, out, sizeof(out));
}

static void check_url(struct config_loader *l, const struct config_place *p)
{
    const struct config_feed_webhook *w = p->feed;
    bool exposed = false;
    struct error err = {0};
    if (!w->url[0])
        config_problem(l, p->mark, p->path, "url is missing");
    else if (http_client_check_url(w->url, &exposed, &err))
        config_problem(l, p->mark, p->path, "url %s", err.text);
    else if (exposed && !w->insecure_plain)
        config_problem(l, p->mark, p->path,
                       "url must begin with https://, as it is another machine (insecure_plain: "
                       "true says that plain http is wanted)");
}

void config_check_feed(struct config_loader *l, const struct config_place *p)
{
    const struct config_feed *f = &l->cfg->feed;
    const struct config_feed_webhook *w = p->feed;
    if (!w->name[0])
        config_problem(l, p->mark, p->path, "name is missing");
    for (const struct config_feed_webhook *other = f->webhooks; w->name[0] && other < w; other++)
        if (strcmp(other->name, w->name) == 0)
            config_problem(l, p->mark, p->path, "another destination has the name \"%s\"", w->name);
    check_url(l, p);
    if (!w->n_secrets)
        config_problem(l, p->mark, p->path,
                       "secrets is missing: what is sent is signed (`warmpath secret new` makes "
                       "one)");
    normalise_bots(l, p);
    check_tables(l, p);
}

/* Nobody is asked who he is there. */
static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "localhost:", 10) == 0 ||
           strncmp(host, "[::1]:", 6) == 0;
}

void config_check_pub(struct config_loader *l)
{
    const char *url = l->cfg->feed.pub;
    const struct config_mark none = {0};
    bool tcp = strncmp(url, "tcp://", 6) == 0;
    if (!*url || strncmp(url, "ipc:///", 7) == 0 ||
        (tcp && is_loopback(url + 6) && strrchr(url, ':') > url + 6))
        return;
    config_problem(l, none, "feed.pub",
                   tcp ? "must be on this machine, as tcp://127.0.0.1:PORT: whoever reaches it "
                         "reads which users are active"
                       : "is not a URL as tcp://127.0.0.1:PORT or ipc:///PATH");
}
