#include "server/config_schema.h"

#include "core/clock.h"

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
    if (!row->secret)
        return config_value_print(row, base, out);
    struct buf masked;
    buf_init(&masked, 2 * CONFIG_CONNINFO_BYTES);
    enum status st = config_mask_conninfo((const char *)base + row->offset, &masked);
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

/* Keeps the first failure of a series of appends. */
#define PUT(expr)            \
    do {                     \
        if (st == STATUS_OK) \
            st = (expr);     \
    } while (0)

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

static enum status print_field(const struct mapping *m, enum mapping_field field, struct buf *out)
{
    const struct mapping_source *src = mapping_source_first(m, field);
    bool list = src->next != 0;
    enum status st = buf_printf(out, "        %s: %s", mapping_field_name(field), list ? "[" : "");
    while (src) {
        PUT(print_source(field, src, out));
        src = mapping_source_next(m, src);
        if (src)
            PUT(buf_append_str(out, STR(", ")));
    }
    PUT(buf_append_str(out, list ? STR("]\n") : STR("\n")));
    return st;
}

static enum status print_condition(const char *key, const char *column, struct buf *out)
{
    if (!*column)
        return STATUS_OK;
    enum status st = buf_printf(out, "\n      %s: ", key);
    PUT(config_string_print(str_from(column), out));
    return st;
}

static enum status print_tables(const struct config *c, struct buf *out)
{
    const struct config_row *event = config_row_find(str_from("source.tables[].event"));
    const struct config_row *on_truncate = config_row_find(str_from("source.tables[].on_truncate"));
    enum status st = c->mappings.n ? buf_append_str(out, STR("  tables:\n")) : STATUS_OK;
    for (size_t i = 0; i < c->mappings.n; i++) {
        const struct mapping *m = &c->mappings.tables[i];
        char relation[sizeof(m->schema) + sizeof(m->table)];
        snprintf(relation, sizeof(relation), "%s.%s", m->schema, m->table);
        PUT(buf_append_str(out, STR("    - relation: ")));
        PUT(config_string_print(str_from(relation), out));
        PUT(buf_append_str(out, STR("\n      event: ")));
        PUT(config_value_print(event, m, out));
        PUT(buf_append_str(out, STR("\n      on_truncate: ")));
        PUT(config_value_print(on_truncate, m, out));
        PUT(print_condition("soft_delete", m->soft_delete, out));
        PUT(print_condition("only_if", m->only_if, out));
        PUT(print_condition("counter", m->counter, out));
        PUT(buf_append_str(out, STR("\n      fields:\n")));
        for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
            if (m->fields[f].set)
                PUT(print_field(m, (enum mapping_field)f, out));
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

/* A row of struct config; its section's line first when it is the first one there. */
static enum status print_root(const struct config *c, const struct config_row *row,
                              char section[64], struct buf *out)
{
    enum status st = STATUS_OK;
    const char *dot = strchr(row->path, '.');
    const char *key = dot ? dot + 1 : row->path;
    size_t len = dot ? (size_t)(dot - row->path) : 0;
    if (len && (strlen(section) != len || strncmp(section, row->path, len) != 0)) {
        snprintf(section, 64, "%.*s", (int)len, row->path);
        PUT(buf_printf(out, "%s:\n", section));
    }
    const struct config_origin *origin = &c->origins[row - config_rows];
    const char *indent = dot ? "  " : "";
    if (!row->fallback && origin->kind == ORIGIN_DEFAULT) {
        PUT(buf_printf(out, "%s# %s is not set\n", indent, key));
        return st;
    }
    PUT(buf_printf(out, "%s%s: ", indent, key));
    PUT(print_value(row, c, out));
    PUT(print_origin(row, origin, out));
    return st;
}

enum status config_print(const struct config *c, struct buf *out, struct error *err)
{
    char section[64] = "";
    bool tables_done = false, triggers_done = false;
    enum status st = STATUS_OK;
    for (const struct config_row *r = config_rows; r->path && st == STATUS_OK; r++) {
        if (r->scope == SCOPE_ROOT) {
            st = print_root(c, r, section, out);
        } else if (r->scope == SCOPE_TRIGGER && !triggers_done) {
            triggers_done = true;
            st = print_triggers(c, out);
        } else if (r->scope == SCOPE_TABLE && !tables_done) {
            tables_done = true;
            st = print_tables(c, out);
        }
    }
    return st == STATUS_OK ? st : error_set(err, st, "could not print the configuration");
}

/* ---- the schema as a page of documentation ---- */

static enum status print_type(const struct config_row *row, struct buf *out)
{
    enum status st = buf_printf(out, "%s", config_type_name(row->type));
    for (const struct config_choice *ch = row->choices; ch && ch->name; ch++)
        PUT(buf_printf(out, "%s `%s`", ch == row->choices ? "" : ",", ch->name));
    if (row->type == CONFIG_INT || row->type == CONFIG_DURATION || row->type == CONFIG_SIZE) {
        PUT(buf_append_str(out, STR(", ")));
        PUT(config_number_print(row->type, row->min, out));
        PUT(buf_append_str(out, STR(" to ")));
        PUT(config_number_print(row->type, row->max, out));
    }
    return st;
}

static enum status print_row(const struct config_row *row, struct buf *out)
{
    char variable[128];
    enum status st = buf_printf(out, "| `%s` | ", row->path);
    PUT(print_type(row, out));
    PUT(buf_append_str(out, STR(" | ")));
    PUT(row->fallback ? buf_printf(out, "`%s`", row->fallback) : STATUS_OK);
    PUT(buf_append_str(out, STR(" | ")));
    if (row->scope == SCOPE_ROOT) {
        config_env_name(row->path, variable, sizeof(variable));
        PUT(buf_printf(out, "`%s`", variable));
        if (row->env)
            PUT(buf_printf(out, " or `%s`", row->env));
    }
    PUT(buf_printf(out, " | %s |\n", row->help));
    return st;
}

static enum status print_engine_defaults(struct buf *out)
{
    enum status st = buf_append_str(out, STR("\n## Default triggers\n\n| engine |"));
    for (const struct config_row *r = config_rows; r->path; r++)
        if (strncmp(r->path, "triggers.*.", 11) == 0)
            PUT(buf_printf(out, " %s |", r->path + 11));
    PUT(buf_append_str(out, STR("\n|---|")));
    for (const struct config_row *r = config_rows; r->path; r++)
        if (strncmp(r->path, "triggers.*.", 11) == 0)
            PUT(buf_append_str(out, STR("---|")));
    for (size_t i = 0; engine_at(i); i++) {
        PUT(buf_printf(out, "\n| `%s` |", engine_at(i)->name));
        for (const struct config_row *r = config_rows; r->path; r++) {
            if (strncmp(r->path, "triggers.*.", 11) != 0)
                continue;
            PUT(buf_append_str(out, STR(" ")));
            PUT(config_value_print(r, &engine_at(i)->trigger, out));
            PUT(buf_append_str(out, STR(" |")));
        }
    }
    PUT(buf_append_str(out, STR("\n\n## Event fields\n\n`source.tables[].fields` knows:")));
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        PUT(buf_printf(out, "%s `%s`", f ? "," : "", mapping_field_name((enum mapping_field)f)));
    PUT(buf_append_str(out, STR(".\n")));
    return st;
}

static const char intro[] =
    "# Configuration\n\n"
    "Written by `warmpath check-config --print-schema`; do not edit.\n\n"
    "`warmpath` reads one YAML file: `--config FILE`, else `$WARMPATH_CONFIG`, else\n"
    "`./warmpath.yaml`, else `/etc/warmpath/warmpath.yaml`. A value is taken from the first of\n"
    "`--set path=value`, the environment, the file, the default. `warmpath check-config\n"
    "--print-config` shows every value and where it came from. A change needs a restart.\n\n"
    "- Durations need a unit: `us`, `ms`, `s`, `m`, `h`, `d`, also together as in `1m30s`. Sizes\n"
    "  too: `B`, `KiB`, `MiB`, `GiB`.\n"
    "- A text in the file may hold `${NAME}` (environment variable), `${file:PATH}` (content of a\n"
    "  file, without its last newline) or `${credential:NAME}` (`$CREDENTIALS_DIRECTORY/NAME`);\n"
    "  `$$` is a dollar sign.\n"
    "- Unknown keys, keys given twice, anchors, aliases and tags are errors.\n"
    "- `*` stands for a name: an event field, an engine, a bot. `[]` is a list.\n\n"
    "| path | type | default | environment | meaning |\n|---|---|---|---|---|\n";

enum status config_print_schema(struct buf *out, struct error *err)
{
    enum status st = buf_append_str(out, STR(intro));
    for (const struct config_row *r = config_rows; r->path; r++)
        PUT(print_row(r, out));
    PUT(print_engine_defaults(out));
    return st == STATUS_OK ? st : error_set(err, st, "could not print the schema");
}
