/*
 * ingest/mapping.h - from the columns of any application table to events (ENGINES.md section 8).
 *
 * A mapping is declarative, no SQL text. Each event field has a source: a column, a constant, or a
 * path into a JSON column; an enum map may follow. It is checked against the catalogue before
 * streaming (an unknown column refuses to start and names it) and bound to a RELATION by column
 * NAME whenever one arrives.
 *
 * What becomes of a change:
 * - INSERT: one event, or none when an enum map says to ignore the row.
 * - UPDATE: the whole new state. A changed (user, bot, id) is a delete and an insert. An unchanged
 *   TOASTed content is an event without content; any other unchanged value that is mapped must come
 *   with the old row (REPLICA IDENTITY FULL). A row that has become one to ignore is a delete.
 * - DELETE: needs id, user and bot of the old row. Of a message it is MESSAGE_DELETED with at 0. Of
 *   a table of memories (op is the constant "create") it is a memory delete with at 0: the table
 *   does not say when, the caller knows the commit time. Of any other table
 *   (mapping_is_log()) the row was one entry of a log: taking it away undoes nothing, so there is
 *   no event.
 */
#pragma once

#include "core/event.h"
#include "core/status.h"
#include "ingest/pgoutput.h"

#include <stdbool.h>

#define MAPPING_FIELDS_MAX 24
#define MAPPING_ENUM_MAX   16
#define MAPPING_TABLES_MAX 16

enum mapping_field {
    FIELD_ID,
    FIELD_USER_ID,
    FIELD_BOT_NAME,
    FIELD_AT,
    FIELD_ROLE,
    FIELD_CONTENT,
    FIELD_EMOTION,
    FIELD_EMOTION_CONFIDENCE,
    FIELD_EMBEDDING,
    FIELD_EMBEDDING_MODEL,
    FIELD_TRAITS,
    FIELD_CHANNEL_ID,
    FIELD_OP,
    FIELD_MEMORY_ID,
    FIELD_SCORE,
    FIELD_GRADE,
    FIELD_OUTCOME,
    FIELD_IMPORTANCE,
    FIELD_MEMORY_TYPE,
    FIELD_MEASUREMENT,
    FIELD_FIELD,
    FIELD_VALUE,
    FIELD_FIELDS,
    FIELD_TAGS,
    FIELD_TOPIC,
    FIELD_VERSION,
    FIELD_SCOPE,
    MAPPING_FIELD_COUNT
};
const char *mapping_field_name(enum mapping_field f); /* "id", "user_id", ... */
/* MAPPING_FIELD_COUNT when unknown. */
enum mapping_field mapping_field_find(const char *name);

/* How a text value becomes a time. */
enum time_unit { TIME_TIMESTAMP, TIME_NAIVE_UTC, TIME_EPOCH_S, TIME_EPOCH_MS, TIME_EPOCH_US };

struct mapping_source {
    bool set;
    char constant[128]; /* used when column is empty */
    char column[64];
    char path[128]; /* "emotion.label": members of the JSON value in column; empty = the value */
    enum time_unit time_unit; /* FIELD_AT */
    size_t n_enum;            /* values not listed are dead-lettered unless default_to is set */
    struct {
        char from[64];
        char to[32]; /* "" = ignore rows with this value: no event, counted */
    } enum_map[MAPPING_ENUM_MAX];
    bool has_default; /* values not listed become default_to ("" = ignore such rows) */
    char default_to[32];
};

struct mapping {
    char schema[64];
    char table[64];
    enum event_type type; /* any but MESSAGE_DELETED and DEAD_LETTER */
    struct mapping_source fields[MAPPING_FIELD_COUNT];
};

struct mapping_set {
    size_t n;
    struct mapping tables[MAPPING_TABLES_MAX];
};

/* Fields that must be set for the type are; INVALID names the table and field. */
MUST_CHECK enum status mapping_check(const struct mapping *m, struct error *err);
/* True when rows are entries of a log (metrics, accesses, attempts, ...) rather than things that
 * exist as long as their row does. */
bool mapping_is_log(const struct mapping *m);
const struct mapping *mapping_find(const struct mapping_set *set, struct str schema,
                                   struct str table);
/* The distinct columns a mapping reads, for the catalogue check and for SELECTs; returns n. */
size_t mapping_columns(const struct mapping *m, const char *out[MAPPING_FIELD_COUNT]);

/* A mapping bound to the column order of one relation. -1 = not in the relation. */
struct mapping_binding {
    const struct mapping *mapping;
    int column_index[MAPPING_FIELD_COUNT];
};
/* INVALID: a mapped column is missing; the text names relation and column. */
MUST_CHECK enum status mapping_bind(const struct mapping *m, const struct relation *rel,
                                    struct mapping_binding *ret, struct error *err);

enum row_change { CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE };

/*
 * One row change to at most two events (a changed key is a delete and an insert). Returns OK with
 * *ret_n 0 when the row is to be ignored. INVALID: the row cannot be used; err->text says which
 * column and why, the caller dead-letters it.
 * new_tuple is NULL for deletes; old_tuple holds the replica identity or the whole old row, or
 * NULL.
 */
MUST_CHECK enum status mapping_apply(const struct mapping_binding *b, enum row_change change,
                                     const struct tuple *old_tuple, const struct tuple *new_tuple,
                                     struct event_arena *arena, struct event ret_events[2],
                                     size_t *ret_n, struct error *err);
