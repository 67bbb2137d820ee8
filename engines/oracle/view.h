/*
 * engines/oracle/view.h - what one naive engine sees: plain arrays of a key's live features at T,
 * sorted by (time, id), windows and caps already applied; accesses of all time, for the folds.
 */
#pragma once

#include "core/row.h"
#include "engines/feature.h"

struct oracle_view {
    struct str user_id;
    struct str bot_name;
    int64_t as_of_us;
    const struct feature *const *messages; /* inside [floor_hour(T) - 30 d, T + 5 min] */
    size_t n_messages;
    const struct feature *const *memories; /* live creations (with later pins applied in pinned[]) */
    const bool *pinned;
    size_t n_memories;
    const struct feature *const *accesses; /* of live memories, all ever applied, by (t, id) */
    size_t n_accesses;
    bool truncated;
};

/* One per engine; fills its columns exactly as the engine's emit() does. */
struct oracle_ops {
    const char *engine;
    enum status (*emit)(const struct oracle_view *view, struct row *row, struct error *err);
};

const struct oracle_ops *oracle_at(size_t index); /* NULL past the last one */
