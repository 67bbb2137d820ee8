/* What a mapping reads, and where a relation has it. */
#include "ingest/mapping.h"
#include "ingest/template.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

const struct mapping_source *mapping_source_first(const struct mapping *m, enum mapping_field f)
{
    return m->fields[f].set ? &m->fields[f] : NULL;
}

const struct mapping_source *mapping_source_next(const struct mapping *m,
                                                 const struct mapping_source *s)
{
    assert(s->next <= MAPPING_ALTERNATIVES_MAX);
    return s->next ? &m->more[s->next - 1] : NULL;
}

size_t mapping_source_slot(const struct mapping *m, const struct mapping_source *s)
{
    if (s >= m->more && s < m->more + MAPPING_ALTERNATIVES_MAX)
        return MAPPING_FIELD_COUNT + (size_t)(s - m->more);
    return (size_t)(s - m->fields);
}

size_t mapping_source_columns(const struct mapping_source *s,
                              struct mapping_column out[MAPPING_TEMPLATE_COLUMNS])
{
    const char *at = s->template;
    struct template_part part;
    size_t n = 0;
    if (*s->column)
        snprintf(out[n++].name, sizeof(out[0].name), "%s", s->column);
    while (n < MAPPING_TEMPLATE_COLUMNS && template_next(&at, &part) == TEMPLATE_PART)
        if (part.is_column)
            snprintf(out[n++].name, sizeof(out[0].name), STR_FMT, STR_ARGS(part.text));
    return n;
}

static size_t add_column(struct mapping_column out[MAPPING_COLUMNS_MAX], size_t n, const char *name)
{
    size_t i = 0;
    while (i < n && strcmp(out[i].name, name) != 0)
        i++;
    if (i < n || !*name)
        return n;
    assert(n < MAPPING_COLUMNS_MAX);
    snprintf(out[n].name, sizeof(out[n].name), "%s", name);
    return n + 1;
}

size_t mapping_add_field_columns(const struct mapping *m, enum mapping_field f,
                                 struct mapping_column out[MAPPING_COLUMNS_MAX], size_t n)
{
    for (const struct mapping_source *s = mapping_source_first(m, f); s;
         s = mapping_source_next(m, s)) {
        struct mapping_column columns[MAPPING_TEMPLATE_COLUMNS];
        size_t n_columns = mapping_source_columns(s, columns);
        for (size_t i = 0; i < n_columns; i++)
            n = add_column(out, n, columns[i].name);
    }
    return n;
}

size_t mapping_columns(const struct mapping *m, struct mapping_column out[MAPPING_COLUMNS_MAX])
{
    size_t n = 0;
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        n = mapping_add_field_columns(m, (enum mapping_field)f, out, n);
    n = add_column(out, n, m->soft_delete);
    n = add_column(out, n, m->only_if);
    return add_column(out, n, m->counter);
}

static int16_t find_column(const struct relation *rel, const char *name)
{
    assert(rel->n_columns <= PGOUTPUT_COLUMNS_MAX);
    for (uint16_t i = 0; i < rel->n_columns; i++)
        if (strcmp(rel->columns[i].name, name) == 0)
            return (int16_t)i;
    return -1;
}

static enum status missing_column(const struct relation *rel, const char *column, const char *what,
                                  const char *name, struct error *err)
{
    return error_set(err, STATUS_INVALID,
                     "table \"%s.%s\" sends no column \"%s\", which the mapping needs for "
                     "%s\"%s\": it was dropped, renamed or left out of the publication's column "
                     "list",
                     rel->schema, rel->name, column, what, name);
}

/* One source; false when the relation lacks a column of it, which is then in *ret_missing. */
static bool bind_source(struct mapping_binding *b, const struct mapping_source *s,
                        const struct relation *rel, struct mapping_column *ret_missing)
{
    int16_t *found = b->columns[mapping_source_slot(b->mapping, s)];
    struct mapping_column columns[MAPPING_TEMPLATE_COLUMNS];
    size_t n = mapping_source_columns(s, columns);
    bool whole = true;
    for (size_t i = 0; i < MAPPING_TEMPLATE_COLUMNS; i++) {
        found[i] = -1;
        if (i < n)
            found[i] = find_column(rel, columns[i].name);
        if (i < n && found[i] < 0 && whole) {
            *ret_missing = columns[i];
            whole = false;
        }
    }
    if (!whole) /* passed over */
        found[0] = -1;
    return whole;
}

static enum status bind_field(struct mapping_binding *b, enum mapping_field f,
                              const struct relation *rel, struct error *err)
{
    const struct mapping *m = b->mapping;
    struct mapping_column missing = {""};
    bool bound = false;
    for (const struct mapping_source *s = mapping_source_first(m, f); s;
         s = mapping_source_next(m, s)) {
        struct mapping_column lacks;
        if (bind_source(b, s, rel, &lacks))
            bound = true;
        else if (!*missing.name)
            missing = lacks;
    }
    if (bound || !*missing.name)
        return STATUS_OK;
    return missing_column(rel, missing.name, "field ", mapping_field_name(f), err);
}

static enum status bind_condition(const char *column, const char *name, const struct relation *rel,
                                  int16_t *ret, struct error *err)
{
    *ret = find_column(rel, column); /* no column has an empty name */
    return *column && *ret < 0 ? missing_column(rel, column, "", name, err) : STATUS_OK;
}

enum status mapping_bind(const struct mapping *m, const struct relation *rel,
                         struct mapping_binding *ret, struct error *err)
{
    struct mapping_binding b = {.mapping = m, .relation_columns = rel->columns};
    for (uint16_t i = 0; i < rel->n_columns; i++)
        b.has_identity |= rel->columns[i].identity;
    enum status st = bind_condition(m->soft_delete, "soft_delete", rel, &b.soft_delete, err);
    if (!st)
        st = bind_condition(m->only_if, "only_if", rel, &b.only_if, err);
    if (!st)
        st = bind_condition(m->counter, "counter", rel, &b.counter, err);
    for (int f = 0; f < MAPPING_FIELD_COUNT && !st; f++)
        st = bind_field(&b, (enum mapping_field)f, rel, err);
    if (!st)
        *ret = b;
    return st;
}
