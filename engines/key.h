/*
 * engines/key.h - the state of one (user_id, bot_name): its log and every engine's accumulators.
 *
 * key_apply() depends on nothing but the key's state, the feature and T, so the journal can rebuild
 * a key by applying the same features again. Bounds: LIMIT_MESSAGES, LIMIT_MEMORIES,
 * LIMIT_ACCESSES, LIMIT_TOMBSTONES. A key is used by one thread at a time.
 *
 * Rules (ENGINES.md 1.2, 1.3):
 * - an id that is live is retracted before its new state is inserted (an edit is both);
 * - a delete leaves a tombstone (id, source, ver): a change of the same id from the OTHER source is
 *   ignored while it stands, and so is a live record's second copy from the inbox when PostgreSQL
 *   wrote it; changes of the same source arrive in order and always win;
 * - t < floor_hour(T) - 30 d: late, not applied (memories themselves have no horizon);
 * - a deletion is applied whatever its time; a deleted memory takes its accesses with it;
 * - an access of an unknown memory stays in the log, a pin of one waits for it: their order of
 *   arrival does not matter; a memory that is created again keeps its accesses and its pin;
 * - beyond a cap the oldest messages and accesses leave, and memories by last touch (then counted
 *   in forgotten_*); an older record that arrives after that is late;
 * - records leave when floor_hour(T) - 30 d passes them; accesses are folded into their memory.
 */
#pragma once

#include "core/cleanup.h"
#include "core/row.h"
#include "engines/engine.h"
#include "engines/feature.h"

struct key;

struct key_change {
    bool applied; /* the state changed; false: late, overruled, or an update of an unknown id */
    bool late;
    uint32_t weight[TABLE_COUNT]; /* towards the count trigger of each table */
    bool touched[TABLE_COUNT];    /* a record that the table is about has changed */
    bool context[TABLE_COUNT];    /* only something its rows take into account: refresh in time */
    bool urgent[TABLE_COUNT];
    bool withdrawn[TABLE_COUNT]; /* its rows may show what this took back; implies urgent */
    struct epoch_delta delta;    /* what the bot's other keys learn from it, with the next epoch */
};

/* user_id empty: the bot's own key. */
MUST_CHECK enum status key_new(struct str user_id, struct str bot_name, struct key **ret,
                               struct error *err);
void key_free(struct key *k);
CLEANUP_FREEP(struct key, key_free);

/* The epochs of the key's bot, borrowed; the list may grow between calls. */
void key_set_epochs(struct key *k, const struct epoch_list *epochs);

/*
 * Advances to T first. T never goes back; a smaller T is ignored. INVALID: the event is to be
 * dead-lettered, nothing changed (more than LIMIT_FUTURE_US after T, or too many such records).
 * After NOMEM or an engine's error the key must be thrown away and read back.
 */
MUST_CHECK enum status key_apply(struct key *k, const struct feature *f, int64_t as_of_us,
                                 struct key_change *ret, struct error *err);
/* Moves T: records beyond the window leave, future records whose time has come enter. */
MUST_CHECK enum status key_advance(struct key *k, int64_t as_of_us, struct error *err);
/* Computes the row of one table at T = as_of_us (advances first), up to and including row_finish().
 * The row must be initialised for tables[table]. event_count, as_of, flags, confidence,
 * valid_until, engine_version and details are set; versions and LSN are the caller's. */
MUST_CHECK enum status key_emit(struct key *k, enum table_id table, int64_t as_of_us,
                                struct row *row, struct error *err);
/* Appends the engine's trace line for an event (a JSON object without a newline), or returns END.
 * TRACE_BEFORE advances to T. */
MUST_CHECK enum status key_trace(struct key *k, const struct engine_ops *ops,
                                 enum trace_phase phase, const struct feature *f, struct str id,
                                 int64_t as_of_us, struct buf *out, struct error *err);
/* The same with hindsight (engine_ops.trace_final), for a message that had a line. */
MUST_CHECK enum status key_trace_final(struct key *k, const struct engine_ops *ops,
                                       uint64_t id_hash, struct str id, int64_t as_of_us,
                                       struct buf *out, struct error *err);
/* False while the key has nothing that the table is about: no row is written (ENGINES.md 1.8). */
bool key_has_row(const struct key *k, enum table_id table);

const struct key_log *key_log(const struct key *k);
size_t key_bytes(const struct key *k); /* memory held, for the LRU budget */

/*
 * Ends the making anew of a key from the rows of its source, fed in order of time: takes over what
 * those cannot say from the key as it is, which is only good for key_free() afterwards. That is:
 * records of the inbox and their deletions, what a deletion by the source must still hold back, the
 * user's consent if its word is newer, and of a bot's key, unless the source has a table of them
 * (types: 1 << enum event_type), its metrics and its character. *k may move.
 */
MUST_CHECK enum status key_carry(struct key **k, struct key *from, uint32_t types,
                                 struct error *err);

/* What a bot's own key knows of one user, up to and including upto_us, leaves it: its messages to
 * the user, and sums of metrics by user and day. Sums that are not kept by user stay: the hours of
 * a stream, and what the cap has pushed out (voice.h). Nothing of it is a change that teaches. */
struct key_forgotten {
    uint32_t messages;
    uint32_t metric_days;
};
MUST_CHECK enum status key_forget_user(struct key *k, struct str user_id, int64_t upto_us,
                                       struct key_forgotten *ret, struct error *err);

/* The durable page. Encoding what was decoded gives the same bytes. */
#define KEY_FORMAT             3
#define KEY_FORMAT_ONE_CONSENT 2 /* the same without a word on profiling: still read */
MUST_CHECK enum status key_encode(const struct key *k, struct buf *out);
MUST_CHECK enum status key_decode(struct str bytes, struct key **ret, struct error *err);
