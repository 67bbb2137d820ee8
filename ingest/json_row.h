/*
 * ingest/json_row.h - a JSON object as the row of a table, for the mapping of tables.
 *
 * Its members are the columns: a text is itself, numbers and booleans are written out, objects and
 * arrays are their JSON text, so that a path can lead into them; null, and a member that is not
 * there, is NULL. Everything else is the mapping's: alternatives, templates, enum maps, units, soft
 * delete, counters, several mappings of one row.
 *
 * Columns that begin with @ are not the row's but those of what is around it: "@at" is that member
 * of `around`, and "@body.name" the member `name` of its member "@body".
 */
#pragma once

#include "core/cleanup.h"
#include "ingest/mapping.h"

#include <jansson.h>

/* A mapping bound to the columns it reads. Read only: any number of threads may use it. */
struct json_table;
/* m is borrowed. INVALID as mapping_bind(), NOMEM. */
MUST_CHECK enum status json_table_new(const struct mapping *m, struct json_table **ret,
                                      struct error *err);
void json_table_free(struct json_table *t); /* NULL is a no-op */
CLEANUP_FREEP(struct json_table, json_table_free);
const struct mapping *json_table_mapping(const struct json_table *t);

/* Objects, borrowed; NULL where there is none. */
struct json_change {
    enum row_change change;
    const json_t *row;         /* as it is; NULL for CHANGE_DELETE */
    const json_t *old_row;     /* as it was; NULL for CHANGE_INSERT, or when it is not known */
    const json_t *old_members; /* of old_row those that were different: they come first */
    const json_t *around;
};
/* As mapping_apply(); the events borrow from the objects and from the arena. */
MUST_CHECK enum status json_row_apply(const struct json_table *t, const struct json_change *c,
                                      struct event_arena *arena,
                                      struct event ret_events[MAPPING_EVENTS_MAX], size_t *ret_n,
                                      struct error *err);
