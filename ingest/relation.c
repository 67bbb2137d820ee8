#include "ingest/relation.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Sorted by id. Changes come in runs of one table, so the last hit is asked first. */
struct relation_cache {
    struct relation_entry *entries;
    size_t n;
    size_t cap;
    size_t n_columns; /* over all entries */
    size_t last;
};

enum status relation_cache_new(struct relation_cache **ret, struct error *err)
{
    assert(ret);
    struct relation_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate the relation cache");
    *ret = c;
    return STATUS_OK;
}

static void free_entry(struct relation_entry *e)
{
    free(e->relation.columns);
    free(e->bindings);
}

void relation_cache_clear(struct relation_cache *c)
{
    for (size_t i = 0; i < c->n; i++)
        free_entry(&c->entries[i]);
    c->n = 0;
    c->n_columns = 0;
    c->last = 0;
}

void relation_cache_free(struct relation_cache *c)
{
    if (!c)
        return;
    relation_cache_clear(c);
    free(c->entries);
    free(c);
}

size_t relation_cache_count(const struct relation_cache *c)
{
    return c->n;
}

bool relation_equal(const struct relation *a, const struct relation *b)
{
    if (a->id != b->id || a->n_columns != b->n_columns ||
        a->replica_identity != b->replica_identity || strcmp(a->schema, b->schema) != 0 ||
        strcmp(a->name, b->name) != 0)
        return false;
    for (uint16_t i = 0; i < a->n_columns; i++) {
        const struct relation_column *x = &a->columns[i];
        const struct relation_column *y = &b->columns[i];
        if (x->identity != y->identity || x->type_oid != y->type_oid ||
            x->type_modifier != y->type_modifier || strcmp(x->name, y->name) != 0)
            return false;
    }
    return true;
}

/* Index of the first entry whose id is not below id. */
static size_t lower_bound(const struct relation_cache *c, uint32_t id)
{
    size_t low = 0;
    size_t high = c->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c->entries[mid].relation.id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static enum status make_room(struct relation_cache *c, size_t at, struct error *err)
{
    if (c->n == RELATIONS_MAX)
        return error_set(err, STATUS_LIMIT,
                         "the publication sends more than %d tables; publish only the mapped ones",
                         RELATIONS_MAX);
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        struct relation_entry *entries = realloc(c->entries, cap * sizeof(*entries));
        if (!entries)
            return error_set(err, STATUS_NOMEM, "could not grow the relation cache to %zu", cap);
        c->entries = entries;
        c->cap = cap;
    }
    memmove(&c->entries[at + 1], &c->entries[at], (c->n - at) * sizeof(c->entries[0]));
    c->entries[at] = (struct relation_entry){.relation = {.n_columns = 0}};
    c->n++;
    return STATUS_OK;
}

enum status relation_cache_put(struct relation_cache *c, const struct relation *rel,
                               enum relation_change *ret_change, struct relation_entry **ret_entry,
                               struct error *err)
{
    assert(rel->n_columns <= PGOUTPUT_COLUMNS_MAX);
    size_t at = lower_bound(c, rel->id);
    bool known = at < c->n && c->entries[at].relation.id == rel->id;
    if (known && relation_equal(&c->entries[at].relation, rel)) {
        *ret_change = RELATION_SAME;
        *ret_entry = &c->entries[at];
        return STATUS_OK;
    }

    size_t before = known ? c->entries[at].relation.n_columns : 0;
    if (c->n_columns - before + rel->n_columns > RELATION_COLUMNS_TOTAL)
        return error_set(err, STATUS_LIMIT,
                         "the published tables have more than %d columns; publish only the mapped "
                         "ones",
                         RELATION_COLUMNS_TOTAL);
    struct relation_column *columns = calloc(rel->n_columns ? rel->n_columns : 1, sizeof(*columns));
    if (!columns)
        return error_set(err, STATUS_NOMEM, "could not copy a relation of %u columns",
                         rel->n_columns);
    if (!known) {
        enum status st = make_room(c, at, err);
        if (st) {
            free(columns);
            return st;
        }
    }

    if (rel->n_columns > 0)
        memcpy(columns, rel->columns, rel->n_columns * sizeof(*columns));
    struct relation_entry *e = &c->entries[at];
    free_entry(e);
    *e = (struct relation_entry){.relation = *rel};
    e->relation.columns = columns;
    c->n_columns += (size_t)rel->n_columns - before;
    *ret_change = known ? RELATION_CHANGED : RELATION_NEW;
    *ret_entry = e;
    return STATUS_OK;
}

enum status relation_bind(struct relation_entry *e, const struct mapping_set *set,
                          struct error *err)
{
    const struct str schema = str_from(e->relation.schema);
    const struct str table = str_from(e->relation.name);
    size_t n = 0;
    for (const struct mapping *m = mapping_next(set, schema, table, NULL); m;
         m = mapping_next(set, schema, table, m))
        n++;
    free(e->bindings);
    e->n_bindings = 0;
    e->bindings = n > 0 ? calloc(n, sizeof(*e->bindings)) : NULL;
    if (n > 0 && !e->bindings)
        return error_set(err, STATUS_NOMEM, "could not bind %zu mappings", n);
    const struct mapping *m = NULL;
    for (size_t i = 0; i < n; i++) {
        m = mapping_next(set, schema, table, m);
        enum status st = mapping_bind(m, &e->relation, &e->bindings[i], err);
        if (st)
            return st;
    }
    e->n_bindings = n;
    return STATUS_OK;
}

struct relation_entry *relation_cache_find(struct relation_cache *c, uint32_t id)
{
    if (c->last < c->n && c->entries[c->last].relation.id == id)
        return &c->entries[c->last];
    size_t at = lower_bound(c, id);
    if (at >= c->n || c->entries[at].relation.id != id)
        return NULL;
    c->last = at;
    return &c->entries[at];
}

struct relation_entry *relation_cache_at(struct relation_cache *c, size_t index)
{
    assert(index < c->n);
    return &c->entries[index];
}
