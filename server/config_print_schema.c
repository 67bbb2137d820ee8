/* server/config_print_schema.c - the schema as a page of documentation, docs/CONFIG.md. */
#include "server/config_print.h"
#include "server/config_schema.h"

#include <string.h>

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
    if (row->fallback)
        PUT(buf_printf(out, "`%s`", *row->fallback ? row->fallback : "\"\""));
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
    "--print-config` shows every value and where it came from. A change needs a restart, except\n"
    "of `source.tables`, `log.level`, secrets and the rates of their endpoints: SIGHUP is "
    "enough.\n\n"
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
