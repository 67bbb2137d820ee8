/*
 * engines/oracle/view.h - what one naive engine sees: plain arrays of a key's live features at T,
 * windows and caps already applied; accesses of all time, for the folds.
 */
#pragma once

#include "core/row.h"
#include "engines/feature.h"

struct points;
struct live_array;

struct oracle_view {
    struct str user_id;
    struct str bot_name;
    int64_t as_of_us;
    /* Inside [floor_hour(T) - 30 d, T + 5 min], by (time, id). */
    const struct feature *const *messages;
    size_t n_messages;
    /* Live creations, by hash of the memory id. */
    const struct feature *const *memories;
    const bool *pinned;
    /* The creation that the fold of memories[i] starts from: an older version of memories[i] when
     * an access had already left the window under it (engines/fsrs.h). */
    const struct feature *const *origins;
    size_t n_memories;
    /* Accesses of live and of not yet known memories, in the order they are folded: first the
     * n_folded that left the window, as they left, then those inside, by (time, id). */
    const struct feature *const *accesses;
    size_t n_accesses;
    size_t n_folded;
    /* Attempts and answers to them, by (time, id, op), up to T + 5 min. */
    const struct feature *const *outreach;
    size_t n_outreach;
    /* User messages that have left the window, in any order: attempts are older than messages. */
    const struct feature *const *answers;
    size_t n_answers;
    struct consent consents[CONSENT_SCOPES];
    int64_t first_seen_us; /* oldest message ever kept that was not deleted; 0 = none */
    /* Memories beyond the cap: number, and sum of their creation times in whole seconds. */
    uint64_t forgotten_n;
    int64_t forgotten_created_s;
    bool truncated;
    /* Of a bot: its points, and its messages that the cap pushed out, in that order. */
    const struct points *points;
    const struct live_array *folded;
    const struct epoch_list *epochs; /* those of the bot that were closed at T */
};

/* One per engine; fills its columns exactly as the engine's emit() does. */
struct oracle_ops {
    const char *engine;
    enum status (*emit)(const struct oracle_view *view, struct row *row, struct error *err);
};

const struct oracle_ops *oracle_at(size_t index); /* NULL past the last one */
