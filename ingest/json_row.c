#include "ingest/json_row.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct json_table {
    const struct mapping *mapping;
    struct mapping_binding binding;
    uint16_t n_columns;
    struct relation_column columns[MAPPING_COLUMNS_MAX];
};

enum status json_table_new(const struct mapping *m, struct json_table **ret, struct error *err)
{
    CLEANUP(json_table_freep) struct json_table *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(err, STATUS_NOMEM, "could not allocate a table of JSON rows");
    struct mapping_column columns[MAPPING_COLUMNS_MAX];
    t->mapping = m;
    t->n_columns = (uint16_t)mapping_columns(m, columns);
    for (uint16_t i = 0; i < t->n_columns; i++)
        memcpy(t->columns[i].name, columns[i].name, sizeof(columns[i].name));
    struct relation rel = {.n_columns = t->n_columns, .columns = t->columns};
    snprintf(rel.schema, sizeof(rel.schema), "%s", m->schema);
    snprintf(rel.name, sizeof(rel.name), "%s", m->table);
    enum status st = mapping_bind(m, &rel, &t->binding, err);
    if (st)
        return st;
    *ret = TAKE(t);
    return STATUS_OK;
}

void json_table_free(struct json_table *t)
{
    free(t);
}

const struct mapping *json_table_mapping(const struct json_table *t)
{
    return t->mapping;
}

/* The shortest of the two usual ways that reads back as the same number. */
static int print_real(double v, char out[40])
{
    int n = snprintf(out, 40, "%.15g", v);
    return strtod(out, NULL) == v ? n : snprintf(out, 40, "%.17g", v);
}

static enum status text_of(const json_t *json, struct event_arena *arena, struct str *ret,
                           struct error *err)
{
    const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY;
    char number[40];
    size_t len = 0;
    switch (json_typeof(json)) {
    case JSON_STRING:
        *ret = (struct str){json_string_value(json), json_string_length(json)};
        return STATUS_OK;
    case JSON_TRUE:
        *ret = STR("true");
        return STATUS_OK;
    case JSON_FALSE:
        *ret = STR("false");
        return STATUS_OK;
    case JSON_INTEGER:
        len = (size_t)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
                               json_integer_value(json));
        break;
    case JSON_REAL:
        len = (size_t)print_real(json_real_value(json), number);
        break;
    case JSON_OBJECT:
    case JSON_ARRAY:
    case JSON_NULL:
        len = json_dumpb(json, NULL, 0, flags);
        break;
    }
    char *text = len ? event_arena_alloc(arena, len) : NULL;
    if (!text)
        return error_set(err, STATUS_NOMEM, "could not write out a JSON value");
    if (json_is_number(json))
        memcpy(text, number, len);
    else if (json_dumpb(json, text, len, flags) != len)
        return error_set(err, STATUS_NOMEM, "could not write out a JSON value");
    *ret = (struct str){text, len};
    return STATUS_OK;
}

static const json_t *member(const struct json_change *c, const json_t *row, const json_t *first,
                            const char *name)
{
    const char *dot = name[0] == '@' ? strchr(name, '.') : NULL;
    if (dot) {
        char outer[MAPPING_NAME_BYTES];
        snprintf(outer, sizeof(outer), "%.*s", (int)(dot - name), name);
        return json_object_get(json_object_get(c->around, outer), dot + 1);
    }
    if (name[0] == '@')
        return json_object_get(c->around, name);
    const json_t *value = json_object_get(first, name);
    return value ? value : json_object_get(row, name);
}

static enum status read_row(const struct json_table *t, const struct json_change *c,
                            const json_t *row, const json_t *first, struct event_arena *arena,
                            struct value values[MAPPING_COLUMNS_MAX], struct error *err)
{
    for (uint16_t i = 0; i < t->n_columns; i++) {
        const json_t *value = member(c, row, first, t->columns[i].name);
        values[i] = (struct value){.kind = VALUE_NULL};
        if (!value || json_is_null(value))
            continue;
        values[i].kind = VALUE_TEXT;
        enum status st = text_of(value, arena, &values[i].text, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

enum status json_row_apply(const struct json_table *t, const struct json_change *c,
                           struct event_arena *arena, struct event ret_events[MAPPING_EVENTS_MAX],
                           size_t *ret_n, struct error *err)
{
    assert(c->change == CHANGE_DELETE ? c->old_row != NULL : c->row != NULL);
    struct value now_values[MAPPING_COLUMNS_MAX], old_values[MAPPING_COLUMNS_MAX];
    struct tuple now = {t->n_columns, now_values}, old = {t->n_columns, old_values};
    enum status st = STATUS_OK;
    if (c->row)
        st = read_row(t, c, c->row, NULL, arena, now_values, err);
    if (!st && c->old_row)
        st = read_row(t, c, c->old_row, c->old_members, arena, old_values, err);
    return st ? st
              : mapping_apply(&t->binding, c->change, c->old_row ? &old : NULL,
                              c->row ? &now : NULL, arena, ret_events, ret_n, err);
}
