/*
 * ingest/value.h - text and JSON values of a database row to the types of an event.
 *
 * Every function returns NULL when it has written its result, or else a static sentence saying why
 * the value cannot be used ("is not a number"), without the value itself: values can be private.
 */
#pragma once

#include "core/buf.h"
#include "core/event.h"
#include "ingest/mapping.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * TIME_TIMESTAMP wants a zone; TIME_NAIVE_UTC reads a missing one as UTC plus zone_s seconds (east
 * is positive); the epoch units take whole or decimal numbers, digits below a microsecond are
 * dropped. infinity, BC and years beyond 9999 are refused.
 */
const char *value_time(struct str text, enum time_unit unit, int32_t zone_s, int64_t *ret_us);
/* "UTC", "Z" or an offset up to 15:59, "+02:00", "-0330", "+1", in seconds; false: none of them. */
bool value_zone(struct str text, int32_t *ret_s);

/* A finite decimal number, as PostgreSQL or JSON print it. */
const char *value_number(struct str text, double *ret);

/*
 * '{0.1,0.2}' (real[]) or '[0.1,0.2]' (pgvector, JSON). *ret lives in the arena; an empty list is
 * NULL and 0. At most LIMIT_EMBEDDING_DIMS finite numbers, one dimension.
 */
const char *value_embedding(struct str text, struct event_arena *arena, const float **ret,
                            uint32_t *ret_dims);
const char *value_embedding_json(const json_t *json, struct event_arena *arena, const float **ret,
                                 uint32_t *ret_dims);

/*
 * An array of names, or of {"name": .., "weight": ..} with weight 1 when absent, or an object of
 * weights by name. *ret_n counts all of them, the first `max` are written; names are copied into
 * the arena.
 */
const char *value_traits(const json_t *json, struct event_arena *arena, struct event_trait *ret,
                         uint32_t max, uint32_t *ret_n);

/* Objects of numbers and of scalars by name, added to m's fields and tags; null members are left
 * out, names are copied into the arena. */
const char *value_fields(const json_t *json, struct event_arena *arena, struct event_metric *m);
const char *value_tags(const json_t *json, struct event_arena *arena, struct event_metric *m);

/* Strict JSON of any kind; NULL when it cannot be read. The caller decrefs. */
json_t *value_json(struct str text);
/* Follows "a.b.c" through objects; borrowed from root, NULL when a member is missing or JSON null.
 */
const json_t *value_json_path(const json_t *root, const char *path);
/* A scalar as text, copied into the arena. Objects and arrays cannot be. */
const char *value_json_text(const json_t *json, struct event_arena *arena, size_t max,
                            struct str *ret);
