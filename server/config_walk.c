/*
 * server/config_walk.c - from keys and values to struct config, guided by the schema.
 *
 * A place pairs the path as written with the schema's pattern for it. step() goes down one key, for
 * the nodes of the YAML document and for the parts of `--set a.b.c=value` alike.
 */
#include "ingest/value.h"
#include "server/config_load.h"
#include "server/suggest.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAPPING_KEYS_MAX                                                    \
    1024 /* keys of one YAML mapping: duplicates are found by comparing all \
          */

/* "tables[].fields.*" of the source's tables and of a webhook's alike. */
static const char *inside(const struct config_place *p)
{
    static const char *const prefixes[] = {"source.", "webhooks[].", "influx."};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(p->pattern, prefixes[i], strlen(prefixes[i])) == 0)
            return p->pattern + strlen(prefixes[i]);
    return p->pattern;
}

static void offer_keys(struct suggest *s, const char *pattern)
{
    size_t len = strlen(pattern);
    for (const struct config_row *r = config_rows; r->path; r++) {
        if (strncmp(r->path, pattern, len) != 0 || (len && r->path[len] != '.'))
            continue;
        const char *key = r->path + len + (len ? 1 : 0);
        suggest_offer(s, (struct str){key, strcspn(key, ".[")});
    }
}

static bool unknown(struct config_loader *l, const struct config_place *p, const char *what,
                    const struct suggest *s)
{
    struct str near = suggest_result(s);
    if (near.ptr)
        config_problem(l, p->mark, p->path, "unknown %s (did you mean \"" STR_FMT "\"?)", what,
                       STR_ARGS(near));
    else
        config_problem(l, p->mark, p->path, "unknown %s", what);
    return false;
}

static bool enter_field(struct config_loader *l, struct config_place *p, struct str key)
{
    struct suggest s = suggest_for(key);
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++) {
        struct str name = str_from(mapping_field_name((enum mapping_field)f));
        if (str_equal(name, key)) {
            p->field = (enum mapping_field)f;
            p->source = &p->table->fields[f];
            return true;
        }
        suggest_offer(&s, name);
    }
    return unknown(l, p, "event field", &s);
}

static bool enter_engine(struct config_loader *l, struct config_place *p, struct str key)
{
    struct suggest s = suggest_for(key);
    for (size_t i = 0; engine_at(i); i++) {
        struct str name = str_from(engine_at(i)->name);
        if (str_equal(name, key)) {
            p->engine = engine_at(i);
            return true;
        }
        suggest_offer(&s, name);
    }
    return unknown(l, p, "engine", &s);
}

static bool enter_bot(struct config_loader *l, struct config_place *p, struct str key)
{
    size_t n = event_bot_name(key, p->bot);
    p->bot[n] = '\0';
    if (n == 0)
        config_problem(l, p->mark, p->path, "is not a bot name: no letter or digit is left");
    return n > 0;
}

/* A key that the schema writes as "*". */
static bool enter_any(struct config_loader *l, struct config_place *p, struct str key)
{
    if (strcmp(inside(p), "tables[].fields.*") == 0)
        return enter_field(l, p, key);
    if (strcmp(p->pattern, "triggers.*") == 0 || strcmp(p->pattern, "triggers_by_bot.*.*") == 0)
        return enter_engine(l, p, key);
    if (strcmp(p->pattern, "triggers_by_bot.*") == 0)
        return enter_bot(l, p, key);
    p->map_key = key;
    return true;
}

/* From a place to the one below it named key. */
static bool step(struct config_loader *l, const struct config_place *from, struct str key,
                 struct config_mark mark, struct config_place *to)
{
    *to = *from;
    to->mark = mark;
    const char *dot = from->path[0] ? "." : "";
    snprintf(to->path, sizeof(to->path), "%.400s%s%.*s", from->path, dot,
             (int)(key.len < 100 ? key.len : 100), key.ptr);
    if (!str_is_text(key)) {
        config_problem(l, mark, from->path, "a key is not valid text");
        return false;
    }
    bool plain = key.len > 0 && key.len < 64;
    for (size_t i = 0; i < key.len && plain; i++)
        plain = !strchr("*[].", key.ptr[i]);
    if (plain) {
        snprintf(to->pattern, sizeof(to->pattern), "%.60s%s" STR_FMT, from->pattern, dot,
                 STR_ARGS(key));
        if (config_row_below(to->pattern))
            return true;
    }
    snprintf(to->pattern, sizeof(to->pattern), "%.60s%s*", from->pattern, dot);
    if (config_row_below(to->pattern))
        return enter_any(l, to, key);
    struct suggest s = suggest_for(key);
    offer_keys(&s, from->pattern);
    return unknown(l, to, "key", &s);
}

static struct config_trigger *trigger_of(struct config *c, const struct config_place *p)
{
    for (size_t i = 0; i < c->n_triggers; i++)
        if (c->triggers[i].engine == p->engine && strcmp(c->triggers[i].bot, p->bot) == 0)
            return &c->triggers[i];
    if (c->n_triggers == CONFIG_TRIGGERS_MAX)
        return NULL;
    struct config_trigger *grown =
        reallocarray(c->triggers, c->n_triggers + 1, sizeof(*c->triggers));
    if (!grown)
        return NULL;
    c->triggers = grown;
    struct config_trigger *t = &grown[c->n_triggers++];
    *t = (struct config_trigger){.engine = p->engine};
    memcpy(t->bot, p->bot, sizeof(t->bot));
    return t;
}

static void store_relation(struct config_loader *l, const struct config_place *p, struct str text)
{
    struct mapping *m = p->table;
    const char *dot = memchr(text.ptr, '.', text.len);
    struct str schema = STR("public"), table = text;
    if (dot) {
        schema = (struct str){text.ptr, (size_t)(dot - text.ptr)};
        table = (struct str){dot + 1, text.len - schema.len - 1};
    }
    if (schema.len == 0 || table.len == 0 || schema.len >= sizeof(m->schema) ||
        table.len >= sizeof(m->table) || memchr(table.ptr, '.', table.len)) {
        config_problem(l, p->mark, p->path, "\"" STR_FMT "\" is not schema.table", STR_ARGS(text));
        return;
    }
    snprintf(m->schema, sizeof(m->schema), STR_FMT, STR_ARGS(schema));
    snprintf(m->table, sizeof(m->table), STR_FMT, STR_ARGS(table));
}

/* An entry of a map, or of the list of values to ignore. */
static void store_map_entry(struct config_loader *l, const struct config_place *p, struct str text)
{
    assert(p->source); /* the schema has maps in fields only */
    struct mapping_source *src = p->source;
    struct str from = p->map_key.ptr ? p->map_key : text;
    struct str to = p->map_key.ptr ? text : STR("");
    if (src->n_enum == MAPPING_ENUM_MAX) {
        config_problem(l, p->mark, p->path, "a map holds at most %d values", MAPPING_ENUM_MAX);
        return;
    }
    if (from.len >= sizeof(src->enum_map[0].from) || to.len >= sizeof(src->enum_map[0].to)) {
        config_problem(l, p->mark, p->path, "is too long");
        return;
    }
    size_t i = src->n_enum++;
    snprintf(src->enum_map[i].from, sizeof(src->enum_map[i].from), STR_FMT, STR_ARGS(from));
    snprintf(src->enum_map[i].to, sizeof(src->enum_map[i].to), STR_FMT, STR_ARGS(to));
}

/* The object that a value of this row belongs to; NULL: there is no room for it. */
static void *home(struct config_loader *l, const struct config_row *row,
                  const struct config_place *p)
{
    struct config_trigger *t;
    switch (row->scope) {
    case SCOPE_ROOT:
        l->cfg->origins[row - config_rows] = l->origin;
        l->cfg->origins[row - config_rows].line = p->mark.line;
        return l->cfg;
    case SCOPE_TABLE:
        return p->table;
    case SCOPE_FIELD:
        assert(p->source);
        p->source->set = true;
        p->source->has_default |= row->offset == offsetof(struct mapping_source, default_to);
        return p->source;
    case SCOPE_TRIGGER:
        t = trigger_of(l->cfg, p);
        if (!t)
            return NULL;
        t->set |= config_trigger_bit(row);
        return &t->policy;
    case SCOPE_WEBHOOK:
        return p->webhook;
    case SCOPE_SECRET:
        return p->secret;
    case SCOPE_QDRANT:
        return p->qdrant;
    case SCOPE_FEED:
        return p->feed;
    }
    return NULL;
}

static void store_plain(struct config_loader *l, const struct config_row *row,
                        const struct config_place *p, struct str text)
{
    struct error err;
    int64_t number = 0;
    if (config_value_parse(row, text, &number, &err) != STATUS_OK) {
        config_problem(l, p->mark, p->path, "%s", err.text);
        return;
    }
    void *base = home(l, row, p);
    if (!base)
        config_problem(l, p->mark, p->path, "too many trigger settings");
    else if (config_value_store(row, base, text, number, &err) != STATUS_OK)
        config_problem(l, p->mark, p->path, "%s", err.text);
}

static void store(struct config_loader *l, const struct config_row *row,
                  const struct config_place *p, struct str raw)
{
    struct error err;
    struct buf expanded;
    buf_init(&expanded, CONFIG_CONNINFO_BYTES);
    struct str text = raw;
    enum status st = STATUS_OK;
    if (l->expand && row->secrecy == SECRET && raw.len > 0 && !memmem(raw.ptr, raw.len, "${", 2))
        l->cfg->secret_line = p->mark.line;
    if (l->expand) {
        st = config_expand(raw, &expanded, &err);
        text = (struct str){expanded.len ? expanded.data : "", expanded.len};
    }
    if (st != STATUS_OK)
        config_problem(l, p->mark, p->path, "%s", err.text);
    else if (!str_is_text(text))
        config_problem(l, p->mark, p->path, "is not valid UTF-8 text");
    else if (row->type == CONFIG_RELATION)
        store_relation(l, p, text);
    else if (row->type == CONFIG_MAP)
        store_map_entry(l, p, text);
    else
        store_plain(l, row, p, text);
    buf_deinit(&expanded);
}

/* ---- the walk over the document ---- */

static void walk(struct config_loader *l, yaml_document_t *doc, yaml_node_t *node,
                 const struct config_place *p);

static struct str scalar_text(const yaml_node_t *node)
{
    return (struct str){(const char *)node->data.scalar.value, node->data.scalar.length};
}

static bool is_null(const yaml_node_t *node)
{
    struct str s = scalar_text(node);
    return node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (s.len == 0 || str_equal(s, STR("~")) || str_equal(s, STR("null")));
}

static void walk_scalar(struct config_loader *l, const yaml_node_t *node,
                        const struct config_place *p)
{
    const struct config_row *row = config_row_find(str_from(p->pattern));
    if (row && is_null(node))
        config_problem(l, p->mark, p->path, "has no value (\"\" is the empty text)");
    else if (row)
        store(l, row, p, scalar_text(node));
    else if (!is_null(node)) /* a section that is there but empty is fine */
        config_problem(l, p->mark, p->path, "must hold keys, not a value");
}

static bool seen_before(struct config_loader *l, yaml_document_t *doc, const yaml_node_t *node,
                        const yaml_node_pair_t *pair, const struct config_place *p)
{
    const yaml_node_t *key = yaml_document_get_node(doc, pair->key);
    for (const yaml_node_pair_t *other = node->data.mapping.pairs.start; other < pair; other++) {
        const yaml_node_t *k = yaml_document_get_node(doc, other->key);
        if (k->type != YAML_SCALAR_NODE || !str_equal(scalar_text(k), scalar_text(key)))
            continue;
        config_problem(l, config_yaml_mark(key->start_mark), p->path,
                       "\"" STR_FMT "\" was already given in line %lu", STR_ARGS(scalar_text(key)),
                       config_yaml_mark(k->start_mark).line);
        return true;
    }
    return false;
}

static void walk_mapping(struct config_loader *l, yaml_document_t *doc, const yaml_node_t *node,
                         const struct config_place *p)
{
    const yaml_node_pair_t *start = node->data.mapping.pairs.start;
    if (node->data.mapping.pairs.top - start > MAPPING_KEYS_MAX) {
        config_problem(l, p->mark, p->path, "has more than %d keys", MAPPING_KEYS_MAX);
        return;
    }
    for (const yaml_node_pair_t *pair = start; pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = yaml_document_get_node(doc, pair->key);
        struct config_mark mark = config_yaml_mark(key->start_mark);
        if (key->type != YAML_SCALAR_NODE) {
            config_problem(l, mark, p->path, "a key must be plain text");
            continue;
        }
        struct config_place below;
        if (seen_before(l, doc, node, pair, p) || !step(l, p, scalar_text(key), mark, &below))
            continue;
        yaml_node_t *value = yaml_document_get_node(doc, pair->value);
        if (value->type == YAML_SCALAR_NODE)
            below.mark = config_yaml_mark(value->start_mark);
        walk(l, doc, value, &below);
    }
}

/* The element of a list, before its pattern and its object are known. */
static struct config_place element(const struct config_place *p, const yaml_node_t *value,
                                   ptrdiff_t index)
{
    struct config_place below = *p;
    below.mark = config_yaml_mark(value->start_mark);
    snprintf(below.path, sizeof(below.path), "%.480s[%td]", p->path, index);
    return below;
}

static void walk_list(struct config_loader *l, yaml_document_t *doc, const yaml_node_t *node,
                      const struct config_place *p, const struct config_list *list)
{
    const yaml_node_item_t *start = node->data.sequence.items.start;
    for (const yaml_node_item_t *item = start; item < node->data.sequence.items.top; item++) {
        yaml_node_t *value = yaml_document_get_node(doc, *item);
        struct config_place below = element(p, value, item - start);
        snprintf(below.pattern, sizeof(below.pattern), "%.100s[]", p->pattern);
        if (!list->add(l, &below))
            return;
        size_t before = l->n_problems;
        walk(l, doc, value, &below);
        if (l->n_problems == before)
            list->check(l, &below);
    }
}

/* The sources of one field: each is what the field alone could be. */
static void walk_alternatives(struct config_loader *l, yaml_document_t *doc,
                              const yaml_node_t *node, const struct config_place *p)
{
    struct mapping *m = p->table;
    struct mapping_source *last = NULL;
    const yaml_node_item_t *start = node->data.sequence.items.start;
    for (const yaml_node_item_t *item = start; item < node->data.sequence.items.top; item++) {
        yaml_node_t *value = yaml_document_get_node(doc, *item);
        struct config_place below = element(p, value, item - start);
        if (value->type == YAML_SEQUENCE_NODE) {
            config_problem(l, below.mark, below.path, "must not be a list");
            return;
        }
        if (last && m->n_more == MAPPING_ALTERNATIVES_MAX) {
            config_problem(l, below.mark, below.path,
                           "the fields of a table have at most %d sources beside the first ones",
                           MAPPING_ALTERNATIVES_MAX);
            return;
        }
        if (last) {
            below.source = &m->more[m->n_more];
            last->next = (uint8_t)++m->n_more;
        }
        last = below.source;
        walk(l, doc, value, &below);
    }
    if (!last)
        config_problem(l, p->mark, p->path, "an empty list: needs at least one source");
}

static void walk_ignored(struct config_loader *l, yaml_document_t *doc, const yaml_node_t *node,
                         const struct config_place *p)
{
    const yaml_node_item_t *start = node->data.sequence.items.start;
    for (const yaml_node_item_t *item = start; item < node->data.sequence.items.top; item++) {
        yaml_node_t *value = yaml_document_get_node(doc, *item);
        struct config_place below = element(p, value, item - start);
        if (value->type == YAML_SCALAR_NODE)
            walk_scalar(l, value, &below);
        else
            config_problem(l, below.mark, below.path, "must be a single value");
    }
}

/* The lists of the schema; each has a home of its own for its elements. */
static void walk_sequence(struct config_loader *l, yaml_document_t *doc, const yaml_node_t *node,
                          const struct config_place *p)
{
    const struct config_list *list = config_list_find(p->pattern);
    if (list)
        walk_list(l, doc, node, p, list);
    else if (strcmp(inside(p), "tables[].fields.*") == 0)
        walk_alternatives(l, doc, node, p);
    else if (strcmp(inside(p), "tables[].fields.*.ignore") == 0)
        walk_ignored(l, doc, node, p);
    else
        config_problem(l, p->mark, p->path, "must not be a list");
}

static void walk(struct config_loader *l, yaml_document_t *doc, yaml_node_t *node,
                 const struct config_place *p)
{
    char below[160];
    switch (node->type) {
    case YAML_SCALAR_NODE:
        walk_scalar(l, node, p);
        return;
    case YAML_SEQUENCE_NODE:
        walk_sequence(l, doc, node, p);
        return;
    case YAML_MAPPING_NODE:
        snprintf(below, sizeof(below), "%s[]", p->pattern);
        if (config_row_below(below)) {
            config_problem(l, p->mark, p->path, "must be a list: put \"- \" before each element");
            return;
        }
        snprintf(below, sizeof(below), "%s%s", p->pattern, p->pattern[0] ? "." : "");
        bool has_keys = false;
        for (const struct config_row *r = config_rows; r->path && !has_keys; r++)
            has_keys = strncmp(r->path, below, strlen(below)) == 0;
        if (!has_keys) {
            config_problem(l, p->mark, p->path, "must be a single value");
            return;
        }
        size_t before = l->n_problems;
        walk_mapping(l, doc, node, p);
        if (l->n_problems == before && strcmp(inside(p), "tables[].fields.*") == 0)
            config_check_field(l, p);
        return;
    case YAML_NO_NODE:
        return;
    }
}

/* ---- the entries ---- */

void config_walk_defaults(struct config_loader *l)
{
    struct config_place p = {.path = ""};
    config_walk_scope_defaults(l, SCOPE_ROOT, &p);
    assert(l->n_problems == 0);
}

void config_walk_scope_defaults(struct config_loader *l, enum config_scope scope,
                                const struct config_place *p)
{
    for (const struct config_row *r = config_rows; r->path; r++)
        if (r->scope == scope && r->fallback)
            store_plain(l, r, p, str_from(r->fallback));
}

/* "a.b.c" and a value, through the same steps as the document. */
void config_walk_path(struct config_loader *l, struct str path, struct str value)
{
    struct config_place at = {.path = ""};
    while (path.len) {
        const char *dot = memchr(path.ptr, '.', path.len);
        struct str key = {path.ptr, dot ? (size_t)(dot - path.ptr) : path.len};
        struct config_place below;
        if (!step(l, &at, key, (struct config_mark){0}, &below))
            return;
        at = below;
        size_t used = key.len + (dot ? 1 : 0);
        path = (struct str){path.ptr + used, path.len - used};
    }
    const struct config_row *row = config_row_find(str_from(at.pattern));
    if (row)
        store(l, row, &at, value);
    else
        config_problem(l, at.mark, at.path, "is not a single value");
}

void config_walk_document(struct config_loader *l, struct str yaml)
{
    yaml_document_t doc;
    bool empty;
    if (!config_yaml_load(l, yaml, &doc, &empty) || empty)
        return;
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    struct config_place top = {.mark = config_yaml_mark(root->start_mark)};
    l->origin = (struct config_origin){.kind = ORIGIN_FILE};
    l->expand = true;
    if (root->type == YAML_MAPPING_NODE)
        walk(l, &doc, root, &top);
    else
        config_problem(l, top.mark, "", "must hold keys at its top level");
    l->expand = false;
    yaml_document_delete(&doc);
}
