/*
 * ingest/relation.h - the tables the server has described in this session, by relation id.
 *
 * RELATION is sent again for every session and after every cache invalidation, mostly with the same
 * content: only a difference in names, types, identity or order is a change. Entries own their
 * columns. Bounded: RELATIONS_MAX tables and RELATION_COLUMNS_TOTAL columns, then LIMIT.
 */
#pragma once

#include "core/cleanup.h"
#include "core/status.h"
#include "ingest/mapping.h"
#include "ingest/pgoutput.h"

#include <stddef.h>

#define RELATIONS_MAX          4096
#define RELATION_COLUMNS_TOTAL 65536

struct relation_entry {
    struct relation relation; /* columns are owned by the cache */
    /* One for each mapping of the table, owned by the cache; none while it is not mapped. */
    size_t n_bindings;
    struct mapping_binding *bindings;
    bool unreadable; /* mapped, but could not be bound: set by whoever binds */
};

enum relation_change { RELATION_SAME, RELATION_NEW, RELATION_CHANGED };

struct relation_cache;
MUST_CHECK enum status relation_cache_new(struct relation_cache **ret, struct error *err);
void relation_cache_free(struct relation_cache *c);  /* NULL is a no-op */
void relation_cache_clear(struct relation_cache *c); /* a new session starts */
size_t relation_cache_count(const struct relation_cache *c);
CLEANUP_FREEP(struct relation_cache, relation_cache_free);

/* Same names, types, modifiers, identity flags and order; columns compared by content. */
bool relation_equal(const struct relation *a, const struct relation *b);

/*
 * Copies rel in. *ret_entry is valid until the next put or clear. After CHANGED and NEW there are
 * no bindings: the caller binds again.
 */
MUST_CHECK enum status relation_cache_put(struct relation_cache *c, const struct relation *rel,
                                          enum relation_change *ret_change,
                                          struct relation_entry **ret_entry, struct error *err);
/* Binds every mapping of set that reads the table. INVALID as mapping_bind(); then there are no
 * bindings. */
MUST_CHECK enum status relation_bind(struct relation_entry *e, const struct mapping_set *set,
                                     struct error *err);
/* NULL: a relation the server has not described, which is a breach of the protocol. */
struct relation_entry *relation_cache_find(struct relation_cache *c, uint32_t id);
/* The entry at index, below relation_cache_count(). Valid until the next put or clear. */
struct relation_entry *relation_cache_at(struct relation_cache *c, size_t index);
