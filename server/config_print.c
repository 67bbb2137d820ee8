#include "server/config_print.h"
#include "core/clock.h"
#include "server/config_schema.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

/* A value as libpq's keyword form wants it. */
static enum status print_keyword(const char *keyword, const char *value, struct buf *out)
{
    enum status st = buf_printf(out, "%s%s='", out->len ? " " : "", keyword);
    for (const char *c = value; *c && st == STATUS_OK; c++)
        st = buf_printf(out, "%s%c", *c == '\'' || *c == '\\' ? "\\" : "", *c);
    return st == STATUS_OK ? buf_append_str(out, STR("'")) : st;
}

enum status config_mask_conninfo(const char *conninfo, struct buf *out)
{
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    if (!options)
        return buf_append_str(out, STR("****"));
    bool secret = false;
    for (const PQconninfoOption *o = options; o->keyword; o++)
        secret |= o->val && o->dispchar && o->dispchar[0] == '*';
    enum status st = STATUS_OK;
    if (!secret)
        st = buf_append_str(out, str_from(conninfo));
    for (const PQconninfoOption *o = options; secret && o->keyword && st == STATUS_OK; o++)
        if (o->val)
            st = print_keyword(o->keyword, o->dispchar && o->dispchar[0] == '*' ? "****" : o->val,
                               out);
    PQconninfoFree(options);
    return st;
}

static enum status print_value(const struct config_row *row, const void *base, struct buf *out)
{
    const char *text = (const char *)base + row->offset;
    if (row->secrecy == PLAIN || (row->secrecy == SECRET && !*text))
        return config_value_print(row, base, out);
    if (row->secrecy == SECRET)
        return buf_append_str(out, STR("\"****\""));
    struct buf masked;
    buf_init(&masked, 2 * CONFIG_CONNINFO_BYTES);
    enum status st = config_mask_conninfo(text, &masked);
    if (st == STATUS_OK)
        st = config_string_print((struct str){masked.data ? masked.data : "", masked.len}, out);
    buf_deinit(&masked);
    return st;
}

static enum status print_origin(const struct config_row *row, const struct config_origin *origin,
                                struct buf *out)
{
    char variable[128];
    switch (origin->kind) {
    case ORIGIN_DEFAULT:
        return buf_append_str(out, STR("  # default\n"));
    case ORIGIN_FILE:
        return buf_printf(out, "  # line %lu\n", origin->line);
    case ORIGIN_ENVIRONMENT:
        config_env_name(row->path, variable, sizeof(variable));
        return buf_printf(out, "  # %s\n", origin->env ? origin->env : variable);
    case ORIGIN_FLAG:
        break;
    }
    return buf_append_str(out, STR("  # --set\n"));
}

static enum status print_member(const char *name, const char *value, struct buf *out)
{
    enum status st = buf_printf(out, ", %s: ", name);
    PUT(config_string_print(str_from(value), out));
    return st;
}

static enum status print_time(const struct mapping_source *src, struct buf *out)
{
    const struct config_row *unit = config_row_find(str_from("source.tables[].fields.*.unit"));
    const struct config_row *plus = config_row_find(str_from("source.tables[].fields.*.plus"));
    enum status st = buf_append_str(out, STR(", unit: "));
    PUT(config_value_print(unit, src, out));
    if (src->zone[0])
        PUT(print_member("zone", src->zone, out));
    if (src->plus_us) {
        PUT(buf_append_str(out, STR(", plus: ")));
        PUT(config_value_print(plus, src, out));
    }
    return st;
}

static enum status print_source(enum mapping_field field, const struct mapping_source *src,
                                struct buf *out)
{
    const char *name = src->column[0] ? "column" : src->template[0] ? "template" : "const";
    const char *value = src->column[0]     ? src->column
                        : src->template[0] ? src->template
                                           : src->constant;
    enum status st = buf_printf(out, "{%s: ", name);
    PUT(config_string_print(str_from(value), out));
    if (src->path[0])
        PUT(print_member("path", src->path, out));
    if (field == FIELD_AT)
        PUT(print_time(src, out));
    for (size_t i = 0; i < src->n_enum; i++) {
        PUT(buf_append_str(out, i ? STR(", ") : STR(", map: {")));
        PUT(config_string_print(str_from(src->enum_map[i].from), out));
        PUT(buf_append_str(out, STR(": ")));
        PUT(config_string_print(str_from(src->enum_map[i].to), out));
    }
    if (src->n_enum)
        PUT(buf_append_str(out, STR("}")));
    if (src->has_default)
        PUT(print_member("default", src->default_to, out));
    PUT(buf_append_str(out, STR("}")));
    return st;
}

static enum status print_field(const struct mapping *m, enum mapping_field field, int indent,
                               struct buf *out)
{
    const struct mapping_source *src = mapping_source_first(m, field);
    bool list = src->next != 0;
    enum status st =
        buf_printf(out, "%*s%s: %s", indent, "", mapping_field_name(field), list ? "[" : "");
    while (src) {
        PUT(print_source(field, src, out));
        src = mapping_source_next(m, src);
        if (src)
            PUT(buf_append_str(out, STR(", ")));
    }
    PUT(buf_append_str(out, list ? STR("]\n") : STR("\n")));
    return st;
}

static enum status print_condition(const char *key, const char *column, int indent, struct buf *out)
{
    if (!*column)
        return STATUS_OK;
    enum status st = buf_printf(out, "\n%*s%s: ", indent, "", key);
    PUT(config_string_print(str_from(column), out));
    return st;
}

static enum status print_table(const struct mapping *m, int indent, struct buf *out)
{
    const struct config_row *event = config_row_find(str_from("source.tables[].event"));
    const struct config_row *on_truncate = config_row_find(str_from("source.tables[].on_truncate"));
    char relation[sizeof(m->schema) + sizeof(m->table)];
    snprintf(relation, sizeof(relation), "%s.%s", m->schema, m->table);
    enum status st = buf_printf(out, "%*s- relation: ", indent - 2, "");
    PUT(config_string_print(str_from(relation), out));
    PUT(buf_printf(out, "\n%*sevent: ", indent, ""));
    PUT(config_value_print(event, m, out));
    PUT(buf_printf(out, "\n%*son_truncate: ", indent, ""));
    PUT(config_value_print(on_truncate, m, out));
    PUT(print_condition("soft_delete", m->soft_delete, indent, out));
    PUT(print_condition("only_if", m->only_if, indent, out));
    PUT(print_condition("counter", m->counter, indent, out));
    PUT(buf_printf(out, "\n%*sfields:\n", indent, ""));
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        if (m->fields[f].set)
            PUT(print_field(m, (enum mapping_field)f, indent + 2, out));
    return st;
}

static enum status print_tables(const struct mapping_set *set, int indent, struct buf *out)
{
    enum status st = set->n ? buf_printf(out, "%*stables:\n", indent, "") : STATUS_OK;
    for (size_t i = 0; i < set->n; i++)
        PUT(print_table(&set->tables[i], indent + 4, out));
    return st;
}

static enum status print_secrets(const struct config_secret *secrets, size_t n, int indent,
                                 struct buf *out)
{
    enum status st = n ? buf_printf(out, "%*ssecrets:\n", indent, "") : STATUS_OK;
    for (size_t i = 0; i < n; i++) {
        PUT(buf_printf(out, "%*s- {id: ", indent + 2, ""));
        PUT(config_string_print(str_from(secrets[i].id), out));
        PUT(buf_append_str(out, STR(", value: \"****\"")));
        if (secrets[i].not_after_us) {
            PUT(buf_append_str(out, STR(", not_after: ")));
            PUT(config_number_print(CONFIG_TIME, secrets[i].not_after_us, out));
        }
        PUT(buf_append_str(out, STR("}\n")));
    }
    return st;
}

/* The plain members of one element of a list; empty texts are left out. */
static enum status print_element(enum config_scope scope, const void *base, int indent,
                                 struct buf *out)
{
    enum status st = STATUS_OK;
    bool first = true;
    for (const struct config_row *r = config_rows; r->path; r++) {
        if (r->scope != scope ||
            (r->type == CONFIG_STRING && *((const char *)base + r->offset) == '\0'))
            continue;
        PUT(buf_printf(out, "%*s%s %s: ", indent, "", first ? "-" : " ",
                       strrchr(r->path, '.') + 1));
        PUT(print_value(r, base, out));
        PUT(buf_append_str(out, STR("\n")));
        first = false;
    }
    return st;
}

static enum status print_webhooks(const struct config *c, struct buf *out)
{
    enum status st = c->n_webhooks ? buf_append_str(out, STR("webhooks:\n")) : STATUS_OK;
    for (size_t i = 0; i < c->n_webhooks; i++) {
        const struct config_webhook *w = &c->webhooks[i];
        PUT(print_element(SCOPE_WEBHOOK, w, 2, out));
        PUT(print_secrets(w->secrets, w->n_secrets, 4, out));
        PUT(print_tables(w->tables, 4, out));
    }
    return st;
}

static enum status print_qdrant(const struct config *c, struct buf *out)
{
    enum status st = c->n_qdrant ? buf_append_str(out, STR("qdrant:\n")) : STATUS_OK;
    for (size_t i = 0; i < c->n_qdrant; i++)
        PUT(print_element(SCOPE_QDRANT, &c->qdrant[i], 2, out));
    return st;
}

static enum status print_feed_webhooks(const struct config *c, struct buf *out)
{
    const struct config_feed *f = &c->feed;
    enum status st = f->n_webhooks ? buf_append_str(out, STR("  webhooks:\n")) : STATUS_OK;
    for (size_t i = 0; i < f->n_webhooks; i++) {
        PUT(print_element(SCOPE_FEED, &f->webhooks[i], 4, out));
        PUT(print_secrets(f->webhooks[i].secrets, f->webhooks[i].n_secrets, 6, out));
    }
    return st;
}

static enum status print_policy(const struct trigger_policy *policy, const char *indent,
                                uint32_t mask, struct buf *out)
{
    enum status st = STATUS_OK;
    for (const struct config_row *r = config_rows; r->path; r++) {
        if (strncmp(r->path, "triggers.*.", 11) != 0 || !(mask & config_trigger_bit(r)))
            continue;
        PUT(buf_printf(out, "%s%s: ", indent, r->path + 11));
        PUT(config_value_print(r, policy, out));
        PUT(buf_append_str(out, STR("\n")));
    }
    return st;
}

/* The effective policies for every bot, and what differs for single ones. */
static enum status print_triggers(const struct config *c, struct buf *out)
{
    enum status st = buf_append_str(out, STR("triggers:\n"));
    for (size_t i = 0; engine_at(i); i++) {
        struct trigger_policy policy = config_trigger(c, engine_at(i), STR_NULL);
        PUT(buf_printf(out, "  %s:\n", engine_at(i)->name));
        PUT(print_policy(&policy, "    ", UINT32_MAX, out));
    }
    bool any = false;
    for (size_t i = 0; i < c->n_triggers; i++) {
        const struct config_trigger *t = &c->triggers[i];
        bool first = t->bot[0] != '\0';
        for (size_t j = 0; j < i && first; j++)
            first = strcmp(c->triggers[j].bot, t->bot) != 0;
        if (!first)
            continue;
        PUT(buf_append_str(out, any ? STR("") : STR("triggers_by_bot:\n")));
        any = true;
        PUT(buf_append_str(out, STR("  ")));
        PUT(config_string_print(str_from(t->bot), out));
        PUT(buf_append_str(out, STR(":\n")));
        for (size_t j = i; j < c->n_triggers; j++) {
            if (strcmp(c->triggers[j].bot, t->bot) != 0)
                continue;
            PUT(buf_printf(out, "    %s:\n", c->triggers[j].engine->name));
            PUT(print_policy(&c->triggers[j].policy, "      ", c->triggers[j].set, out));
        }
    }
    return st;
}

/* The lines that open the sections of a path, as far as they are not open. */
static enum status print_sections(const char *path, char section[64], struct buf *out)
{
    enum status st = STATUS_OK;
    int depth = 0;
    for (const char *start = path, *dot; (dot = strchr(start, '.')); start = dot + 1, depth++) {
        size_t len = (size_t)(dot - path);
        if (strncmp(section, path, len) == 0 && (section[len] == '\0' || section[len] == '.'))
            continue;
        PUT(buf_printf(out, "%*s%.*s:\n", 2 * depth, "", (int)(dot - start), start));
        snprintf(section, 64, "%.*s", (int)len, path);
    }
    return st;
}

/* A row of struct config. */
static enum status print_root(const struct config *c, const struct config_row *row,
                              char section[64], struct buf *out)
{
    enum status st = print_sections(row->path, section, out);
    const struct config_origin *origin = &c->origins[row - config_rows];
    int indent = 0;
    const char *key = row->path;
    for (const char *dot; (dot = strchr(key, '.')); key = dot + 1)
        indent += 2;
    if (!row->fallback && origin->kind == ORIGIN_DEFAULT) {
        PUT(buf_printf(out, "%*s# %s is not set\n", indent, "", key));
        return st;
    }
    PUT(buf_printf(out, "%*s%s: ", indent, "", key));
    PUT(print_value(row, c, out));
    PUT(print_origin(row, origin, out));
    return st;
}

static enum status print_source_tables(const struct config *c, struct buf *out)
{
    return print_tables(&c->mappings, 2, out);
}

static enum status print_influx_secrets(const struct config *c, struct buf *out)
{
    return print_secrets(c->influx.secrets, c->influx.n_secrets, 2, out);
}

/* What is no single value is printed whole where the schema has its first row. */
static const struct part {
    const char *path; /* of all its rows: how they begin */
    enum status (*print)(const struct config *c, struct buf *out);
} parts[] = {
    {"source.tables[]", print_source_tables},
    {"webhooks[]", print_webhooks},
    {"influx.secrets[]", print_influx_secrets},
    {"qdrant[]", print_qdrant},
    {"feed.webhooks[]", print_feed_webhooks},
    {"triggers.", print_triggers}, /* prints triggers_by_bot too */
};

/* The part that starts at row; NULL: none does. */
static const struct part *part_at(const struct config_row *row)
{
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        size_t len = strlen(parts[i].path);
        if (strncmp(row->path, parts[i].path, len) == 0 &&
            strncmp(row[-1].path, parts[i].path, len) != 0)
            return &parts[i];
    }
    return NULL;
}

enum status config_print_mappings(const struct config *c, struct buf *out)
{
    return print_tables(&c->mappings, 0, out);
}

enum status config_print(const struct config *c, struct buf *out, struct error *err)
{
    char section[64] = "";
    enum status st = STATUS_OK;
    for (const struct config_row *r = config_rows; r->path && st == STATUS_OK; r++) {
        const struct part *part = r > config_rows ? part_at(r) : NULL;
        if (r->scope == SCOPE_ROOT)
            st = print_root(c, r, section, out);
        else if (part)
            st = part->print(c, out);
    }
    return st == STATUS_OK ? st : error_set(err, st, "could not print the configuration");
}
