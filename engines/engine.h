/*
 * engines/engine.h - the one interface between the key log and an engine.
 *
 * An engine is F(log, T): what it emits for a key depends on nothing but the key's records and T.
 * Its in-memory state is a cache of F: integer accumulators that insert() and retract() keep exact
 * mirrors of each other, rebuilt by inserting the whole log in order after a restart or a page-in.
 * Calls on one state never overlap and must not block. To add an engine: write engines/<name>.c,
 * name it in registry.c and meson.build, and its naive twin in engines/oracle/.
 */
#pragma once

#include "core/row.h"
#include "core/status.h"
#include "engines/record.h"
#include "engines/tables.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* When rows of a key are refreshed (DESIGN.md section 6); all counted per key and table. */
struct trigger_policy {
    uint32_t count;          /* weighted events since the last flush; 0 = never */
    int64_t max_age_us;      /* from the FIRST unflushed event */
    int64_t idle_us;         /* quiet after the last event */
    int64_t min_interval_us; /* floor between flushes; delays count, idle and predicate only */
    int64_t refresh_us;      /* refresh ahead: age of a row at which a warm key's row is renewed */
    int64_t refresh_jitter_us; /* plus hash(key) mod this */
    int64_t warm_us;           /* a key is warm for this long after its last event */
};

struct engine_ops {
    const char *name; /* registry key, as in DESIGN.md section 10; never reused */
    int32_t version;  /* engine_version of its rows; raised whenever F changes */
    enum table_id table;
    uint32_t kinds; /* bit mask of (1 << record_kind) that insert() and retract() are called for */
    /* Bit mask of kinds that justify a row: key_has_row() asks for one record of them. Other kinds
     * are context; a change that weighs 0 does not touch the table. */
    uint32_t row_kinds;
    struct trigger_policy trigger;
    size_t state_size; /* allocated zeroed when the key's first record of row_kinds enters; the log
                        * so far is then inserted record by record */
    enum status (*init)(void *state, struct error *err);
    void (*fini)(void *state); /* accepts a half-initialised state */
    /* After record `index` of its array was put into the log. Memories whose fields changed are
     * retracted and inserted again. */
    enum status (*insert)(void *state, const struct key_log *log, enum record_kind kind,
                          size_t index, struct error *err);
    /* Before record `index` leaves the log: the exact mirror of insert(). */
    void (*retract)(void *state, const struct key_log *log, enum record_kind kind, size_t index);
    /* How much an applied record counts towards trigger.count; 0 = not at all. */
    uint32_t (*weight)(const struct key_log *log, enum record_kind kind, size_t index);
    /* True when the change just applied must be shown without waiting for a count: a topic
     * boundary, a deleted memory. removed: the record at index is about to leave. */
    bool (*urgent)(const void *state, const struct key_log *log, enum record_kind kind,
                   size_t index, bool removed);
    /* Fills this engine's columns of row at T = log->as_of_us; row->table is tables[table].
     * May set flags, confidence, valid_until (smallest of all engines wins) and details. */
    enum status (*emit)(void *state, const struct key_log *log, struct row *row, struct error *err);
    /* Bytes of heap that state holds beyond state_size, for the memory budget. */
    size_t (*heap_bytes)(const void *state);
};

const struct engine_ops *engine_at(size_t index); /* NULL past the last one */
const struct engine_ops *engine_find(const char *name);
#define ENGINE_MAX 16
