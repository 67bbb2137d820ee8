/*
 * ingest/mapping.h - from the columns of any application table to events (ENGINES.md section 8).
 *
 * A mapping is declarative, no SQL text. Each event field has a list of sources, the first that has
 * a value wins: a column, a path into a JSON column, a template of columns, a constant; an enum map
 * may follow each. It is checked against the catalogue before streaming (an unknown column refuses
 * to start and names it) and bound to a RELATION by column NAME whenever one arrives. A source
 * whose column the relation lacks is passed over when the field has another one: so is a renamed
 * column bridged. Several mappings may read one table: each gives its own events of a row.
 *
 * A row is absent for a mapping when an enum map ignores one of its values, when it is
 * soft-deleted, or when the column of only_if has no value. What becomes of a change:
 * - INSERT: one event, or none when the row is absent.
 * - UPDATE: the whole new state. A changed (user, bot, id) is a delete and an insert. An unchanged
 *   TOASTed content is an event without content; any other unchanged value that is mapped must come
 *   with the old row (REPLICA IDENTITY FULL). A row that has become absent is a delete, one that is
 *   there again an insert.
 * - DELETE: needs id, user and bot of the old row. Of a message it is MESSAGE_DELETED with at 0. Of
 *   a table of memories (op is the constant "create") it is a memory delete with at 0: the table
 *   does not say when, the caller knows the commit time. Of any other table
 *   (mapping_is_log()) the row was one entry of a log: taking it away undoes nothing, so there is
 *   no event.
 * - With a counter, an INSERT with n and an UPDATE from m to n are the events m + 1 to n (m = 0),
 * at most MAPPING_COUNTER_EVENTS of them, the last ones; "#n" is added to the id, so a row read
 *   later, in one piece, gives the same ids. A counter that goes down gives none.
 */
#pragma once

#include "core/event.h"
#include "core/status.h"
#include "ingest/pgoutput.h"

#include <stdbool.h>

#define MAPPING_NAME_BYTES       64 /* of a PostgreSQL identifier, with its NUL */
#define MAPPING_ENUM_MAX         16
#define MAPPING_TABLES_MAX       16
#define MAPPING_ALTERNATIVES_MAX 12 /* second and later sources, of all fields of a mapping */
#define MAPPING_TEMPLATE_COLUMNS 4
#define MAPPING_COUNTER_EVENTS   64
#define MAPPING_COUNTERS_MAX     3 /* of one table: its events share 8 bits of the position */

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

/* How a text value becomes a time. NAIVE: without a zone, which the mapping tells. */
enum time_unit {
    TIME_TIMESTAMP,
    TIME_NAIVE_UTC,
    TIME_EPOCH_S,
    TIME_EPOCH_MS,
    TIME_EPOCH_US,
    TIME_EPOCH_NS
};

struct mapping_source {
    bool set;
    char constant[128]; /* exactly one of constant, column and template is not empty */
    char column[MAPPING_NAME_BYTES];
    char path[128]; /* "emotion.label": members of the JSON value in column; empty = the value */
    char template[128]; /* "{id}:u" (ingest/template.h); no value when one of its columns is NULL */
    enum time_unit time_unit; /* FIELD_AT */
    char zone[8];             /* FIELD_AT, times without a zone: "UTC", "+02:00"; empty = none */
    int64_t plus_us;          /* FIELD_AT: added to the time */
    size_t n_enum; /* values not listed are dead-lettered unless default_to is set, or pass as they
                      are when the map only ignores */
    struct {
        char from[64];
        char to[32]; /* "" = rows with this value are absent */
    } enum_map[MAPPING_ENUM_MAX];
    bool has_default; /* values not listed become default_to ("" = such rows are absent) */
    char default_to[32];
    uint8_t next; /* the source to ask when this one has no value: 1 + index in more; 0 = none */
};

/* What becomes of a TRUNCATE, which does not say which rows it took away. Of several mappings of a
 * table the last one in this order counts. */
enum on_truncate { TRUNCATE_DEAD_LETTER, TRUNCATE_IGNORE, TRUNCATE_REBUILD, TRUNCATE_STOP };

struct mapping {
    char schema[MAPPING_NAME_BYTES];
    char table[MAPPING_NAME_BYTES];
    enum event_type type; /* any but MESSAGE_DELETED and DEAD_LETTER */
    enum on_truncate on_truncate;
    /* Columns, empty = none. A value is none when it is NULL, false or 0. */
    char soft_delete[MAPPING_NAME_BYTES];              /* the row is absent when it has a value */
    char only_if[MAPPING_NAME_BYTES];                  /* the row is absent unless it has a value */
    char counter[MAPPING_NAME_BYTES];                  /* memory accesses only */
    struct mapping_source fields[MAPPING_FIELD_COUNT]; /* the first source of each */
    size_t n_more;
    struct mapping_source more[MAPPING_ALTERNATIVES_MAX];
};
#define MAPPING_SOURCES_MAX (MAPPING_FIELD_COUNT + MAPPING_ALTERNATIVES_MAX)
#define MAPPING_COLUMNS_MAX (MAPPING_SOURCES_MAX * MAPPING_TEMPLATE_COLUMNS + 3)

struct mapping_set {
    size_t n;
    struct mapping tables[MAPPING_TABLES_MAX];
};

/* The sources of a field in order; NULL = none (left). */
const struct mapping_source *mapping_source_first(const struct mapping *m, enum mapping_field f);
const struct mapping_source *mapping_source_next(const struct mapping *m,
                                                 const struct mapping_source *s);
/* Which of mapping_binding.columns is the source's. */
size_t mapping_source_slot(const struct mapping *m, const struct mapping_source *s);

struct mapping_column {
    char name[MAPPING_NAME_BYTES];
};
/* The columns a source reads: none of a constant, several of a template. */
size_t mapping_source_columns(const struct mapping_source *s,
                              struct mapping_column out[MAPPING_TEMPLATE_COLUMNS]);

/* Fields that must be set for the type are; INVALID names the table and field. */
MUST_CHECK enum status mapping_check(const struct mapping *m, struct error *err);
/* That m goes with the others of its table: it must be one of set. INVALID as above. */
MUST_CHECK enum status mapping_check_others(const struct mapping_set *set, const struct mapping *m,
                                            struct error *err);
/* True when rows are entries of a log (metrics, accesses, attempts, ...) rather than things that
 * exist as long as their row does. */
bool mapping_is_log(const struct mapping *m);
/* The first mapping of a table; NULL = it is not mapped. */
const struct mapping *mapping_find(const struct mapping_set *set, struct str schema,
                                   struct str table);
/* The mappings of a table one by one: the first when after is NULL; NULL = no more. */
const struct mapping *mapping_next(const struct mapping_set *set, struct str schema,
                                   struct str table, const struct mapping *after);
/* The distinct columns a mapping reads, for the catalogue check and for SELECTs; returns n. Of a
 * field with several sources some may be missing from the table. */
size_t mapping_columns(const struct mapping *m, struct mapping_column out[MAPPING_COLUMNS_MAX]);

/* Adds the columns of one field to the n distinct ones in out; returns how many there are now. */
size_t mapping_add_field_columns(const struct mapping *m, enum mapping_field f,
                                 struct mapping_column out[MAPPING_COLUMNS_MAX], size_t n);

/* A mapping bound to the column order of one relation, whose columns it borrows. */
struct mapping_binding {
    const struct mapping *mapping;
    const struct relation_column *relation_columns;
    bool has_identity; /* the relation says which columns an old row brings */
    /* By source (fields, then more); -1 = not in the relation, then the source is passed over. */
    int16_t columns[MAPPING_SOURCES_MAX][MAPPING_TEMPLATE_COLUMNS];
    int16_t soft_delete; /* -1 = not mapped */
    int16_t only_if;
    int16_t counter;
};
/* INVALID: a mapped column is missing; the text names relation and column. */
MUST_CHECK enum status mapping_bind(const struct mapping *m, const struct relation *rel,
                                    struct mapping_binding *ret, struct error *err);

enum row_change { CHANGE_INSERT, CHANGE_UPDATE, CHANGE_DELETE };

#define MAPPING_EVENTS_MAX MAPPING_COUNTER_EVENTS

/*
 * One row change to at most two events (a changed key is a delete and an insert), or as many as the
 * counter grew by. Returns OK with *ret_n 0 when the row is absent. INVALID: the row cannot be
 * used; err->text says which column and why, the caller dead-letters it. new_tuple is NULL for
 * deletes; old_tuple holds the replica identity or the whole old row, or NULL.
 */
MUST_CHECK enum status mapping_apply(const struct mapping_binding *b, enum row_change change,
                                     const struct tuple *old_tuple, const struct tuple *new_tuple,
                                     struct event_arena *arena,
                                     struct event ret_events[MAPPING_EVENTS_MAX], size_t *ret_n,
                                     struct error *err);
