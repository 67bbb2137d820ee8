/*
 * engines/engine.h - the one interface between the key log and an engine.
 *
 * An engine is F(log, T, epochs): what it emits for a key depends on nothing but the key's records,
 * T and the closed epochs of the bot (epoch.h).
 * Its in-memory state is a cache of F: integer accumulators that insert() and retract() keep exact
 * mirrors of each other, rebuilt by inserting the whole log in order after a restart or a page-in.
 * Calls on one state never overlap and must not block. To add an engine: write engines/<name>.c,
 * name it in registry.c and meson.build, and its naive twin in engines/oracle/.
 */
#pragma once

#include "core/jsonw.h"
#include "core/row.h"
#include "core/status.h"
#include "engines/epoch.h"
#include "engines/feature.h"
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
    int64_t recent_us;         /* ... and recent for this long: its row is renewed when it ceases to
                                * hold, and before the user is likely to return */
};

/* Whose keys an engine works on: those of (user, bot), or the bot's own. */
enum engine_scope { ENGINE_USER, ENGINE_BOT };

/* When an engine's trace line is computed: what it says never peeks (ENGINES.md A6). */
enum trace_phase { TRACE_NEVER, TRACE_BEFORE, TRACE_AFTER };

struct engine_ops {
    const char *name; /* registry key, as in DESIGN.md section 10; never reused */
    int32_t version;  /* engine_version of its rows; raised whenever F changes */
    enum engine_scope scope;
    enum table_id table; /* the first table it fills columns of ... */
    uint32_t n_tables;   /* ... and how many, by number; 0 counts as 1 */
    bool profiles;       /* what it says is a profile of the user: suppressed without his consent */
    bool uses_epochs;    /* state depends on them: it is made anew when one was closed */
    uint32_t kinds;      /* bit mask of (1 << record_kind) that it reads */
    /* Bit mask of kinds that justify a row: key_has_row() asks for one record of them. Other kinds
     * are context; a change that weighs 0 does not touch the table. */
    uint32_t row_kinds;
    struct trigger_policy trigger;
    size_t state_size; /* allocated zeroed when the key's first record of row_kinds enters; the log
                        * so far is then inserted record by record */
    enum status (*init)(void *state, struct error *err);
    void (*fini)(void *state); /* accepts a half-initialised state */
    /* After record `index` of its array, of one of kinds, was put into the log. Memories whose
     * fields changed are retracted and inserted again. NULL, like retract, where there is no state
     * to keep up to date. */
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
    /* Optional. What all keys of the bot learn from record `index`, which has just entered the log
     * for the first time (no edit, no replay): adds to the day's sums. Needs not be undone. */
    void (*learn)(void *state, const struct key_log *log, enum record_kind kind, size_t index,
                  struct epoch_delta *delta);
    /* Optional. The engine's trace line for one event (DESIGN.md section 10): a JSON object with
     * the event's id among its members. f is about to be applied (BEFORE; T is advanced already) or
     * was applied (AFTER); there is a state if the key has a record of row_kinds, else it is NULL.
     * END: no line for this event. */
    enum trace_phase trace_phase;
    enum status (*trace)(void *state, const struct key_log *log, const struct feature *f,
                         struct str id, struct jsonw *w, struct error *err);
    /* Optional. The line of message `index` as it stands with all that came later. */
    enum status (*trace_final)(const struct key_log *log, size_t index, struct str id,
                               struct jsonw *w, struct error *err);
};

static inline bool engine_fills(const struct engine_ops *ops, enum table_id table)
{
    return table >= ops->table && table < ops->table + (ops->n_tables ? ops->n_tables : 1);
}

/* Whose keys an event changes, as bits 1 << engine_scope. Metrics and characters are the bot's,
 * with or without a user; what a user says is the user's. Messages of the bot are both: the bot's
 * own engines see them when one asks for messages, and so do edits and deletions of any message,
 * since it may have been the bot's. */
uint32_t engine_scopes(const struct event *e);

const struct engine_ops *engine_at(size_t index); /* NULL past the last one */
const struct engine_ops *engine_find(const char *name);
#define ENGINE_MAX 16
