/*
 * state/store.h - the durable state of one worker: one SQLite file (DESIGN.md section 4).
 *
 * The write path is a journal. Every group commit appends ONE block (all entries since the last
 * commit, as opaque bytes) together with the applied positions, the covered LSN, key pages that are
 * folded on the way, and dead letters, in ONE transaction. Entries have a dense sequence number
 * `jseq` (1, 2, ...); a key page says up to which jseq it contains. Opening a store hands back
 * every unfolded entry in order; the caller re-applies those whose jseq is above the key's page.
 * Blocks whose entries are all contained in pages are deleted.
 *
 * Files: DIR/CURRENT names a set directory (set-000001); the set holds worker-N.db for N < W. A
 * change of W writes a new set and then renames CURRENT, so a crash leaves one whole set or the
 * other (store_set_respread).
 *
 * Fencing: meta.epoch. A commit by a holder whose epoch is no longer the stored one fails with
 * STATUS_FENCED and changes nothing.
 *
 * Threads: one handle, one thread. Errors: IO (SQLite or disk; after a failed fsync the process
 * must stop, never retry), CORRUPT (checksum, format), FENCED, REFUSED (another pipeline's state).
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/limits.h"
#include "core/lsn.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What identifies the input this state belongs to; compared on open, written on creation. */
struct store_identity {
    char pipeline[64];
    char system_identifier[24]; /* of the PostgreSQL cluster, decimal; "" for replay */
    char slot[64];
    lsn_t slot_birth;    /* consistent point at which the slot was created or adopted */
    uint32_t timeline;   /* of the cluster when last read from; 0 = not known */
    bool loading;        /* the initial snapshot is not complete: of no use after a crash */
    int64_t since_us;    /* the snapshot left out messages and metrics before; 0 = no snapshot */
    uint32_t partitions; /* P */
};

struct store_applied {
    struct position pos; /* newest applied position of the partition */
    uint64_t pseq;       /* its dense sequence number; 0 = none yet */
};

struct store;

/* ---- the set: which files there are ---- */
/*
 * How many workers the state in dir is spread over; 0 = no state yet. To change W, `run` opens the
 * set with this number, folds every key page and commits with fold_below = store_jseq() (journal
 * entries belong to a worker, not to a partition, so they cannot be split), closes it, calls
 * store_set_respread() and opens the new set.
 */
uint32_t store_set_workers(const char *dir);
/* Size of the files of the set that counts; 0 = none, or not known. Any thread. */
uint64_t store_set_bytes(const char *dir);
/* Opens or creates (0700) the set for `workers` files. With a fresh directory *ret_fresh is true
 * and identity is written; otherwise *identity is filled from the state and the caller decides
 * whether it fits. Key k belongs to worker (partition mod workers). Fills stores[0..workers), each
 * to be closed. epoch: this process's fencing epoch, written to every file; REFUSED when a file
 * already holds a larger one, or when the state is spread over another number of workers. dir may
 * be
 * ":memory:" (replay): nothing is durable. */
MUST_CHECK enum status store_set_open(const char *dir, uint32_t workers, uint64_t epoch,
                                      struct store_identity *identity, bool *ret_fresh,
                                      struct store **stores, struct error *err);
/* Writes a new set for `workers` files, makes it CURRENT and removes the old one; a crash anywhere
 * leaves one whole set. Key ids are given anew (two files may have used the same). Nobody may have
 * the set open. REFUSED when a journal holds unfolded entries. */
MUST_CHECK enum status store_set_respread(const char *dir, uint32_t workers, struct error *err);
/* Makes a new, empty set with this identity the one that counts, in place of any other, and opens
 * it. A crash leaves the old set whole or the new one. Nobody may have the set open. */
MUST_CHECK enum status store_set_renew(const char *dir, uint32_t workers, uint64_t epoch,
                                       const struct store_identity *identity, struct store **stores,
                                       struct error *err);
/* Writes that the initial snapshot is complete and durable, into every file of a set that others
 * have open: it only waits for a commit in flight. FENCED: the epoch has moved on. */
MUST_CHECK enum status store_set_loaded(const char *dir, uint64_t epoch, struct error *err);
void store_close(struct store *s); /* NULL is a no-op; runs a last WAL checkpoint */
CLEANUP_FREEP(struct store, store_close);
/* Reads identity without opening for writing: for `status` and `doctor`. *ret_covered is the least
 * of all workers. STATUS_END: no state. */
MUST_CHECK enum status store_identity_read(const char *dir, struct store_identity *ret,
                                           lsn_t *ret_covered, struct error *err);
/* Writes identity into this store's file (slot created or adopted after a fresh start); call it for
 * each store of the set. */
MUST_CHECK enum status store_identity_write(struct store *s, const struct store_identity *identity,
                                            struct error *err);

/* Writes the timeline into every file of the current set, which other threads may have open
 * meanwhile; it only ever grows. FENCED: the set belongs to a later epoch. */
MUST_CHECK enum status store_set_timeline(const char *dir, uint64_t epoch, uint32_t timeline,
                                          struct error *err);

/* What a caller found wrong here is no damage when another process has taken the file over and
 * written to it since: FENCED then, in place of st; else st, and *err as it is. */
MUST_CHECK enum status store_explain(struct store *s, enum status st, struct error *err);

/* ---- what was durable at open ---- */
const struct store_applied *store_applied(const struct store *s, enum source src,
                                          uint32_t partition);
lsn_t store_covered(const struct store *s); /* every event up to this LSN of this worker's
                                               partitions is in the state */
/* Every row of the inbox up to this id likewise. */
uint64_t store_covered_inbox(const struct store *s);
/* The newest row of the inbox that anything in this store came from; 0 = none. */
uint64_t store_newest_inbox(const struct store *s);
int64_t store_as_of(const struct store *s); /* T of the last commit, 0 when none */
uint64_t store_jseq(const struct store *s); /* newest entry */
/* Calls fn for every unfolded entry in order, and for folded ones that share a block with them.
 * fn's failure stops and is returned. In this and the other walks fn may find and load keys, but
 * not commit. CORRUPT: a block is missing or fails its checksum. */
MUST_CHECK enum status store_replay(struct store *s,
                                    enum status (*fn)(void *ctx, uint64_t jseq, struct str entry,
                                                      struct error *err),
                                    void *ctx, struct error *err);
/* Calls fn for every key page that has a due time, soonest first: (key id, due). */
MUST_CHECK enum status store_each_due(struct store *s,
                                      enum status (*fn)(void *ctx, uint64_t key_id, int64_t due_us,
                                                        struct error *err),
                                      void *ctx, struct error *err);

/* ---- keys: (user, bot) <-> key id ---- */
/* Ids are given by the caller's journal entries. The next id to give, as of the last commit: */
uint64_t store_next_key_id(const struct store *s);
/* Finding and loading: STATUS_END when no page exists. The strings of a page are borrowed until the
 * next call on the store. CORRUPT: the page fails its checksum. */
MUST_CHECK enum status store_find_key(struct store *s, struct str user_id, struct str bot_name,
                                      uint64_t *ret_key_id, struct error *err);
/* Calls fn for the page of each key of the user. */
MUST_CHECK enum status store_user_keys(struct store *s, struct str user_id,
                                       enum status (*fn)(void *ctx, uint64_t key_id,
                                                         struct error *err),
                                       void *ctx, struct error *err);
struct store_page {
    uint64_t key_id;
    uint32_t partition;
    uint64_t jseq;  /* last entry contained */
    int64_t due_us; /* next timer, or INT64_MAX */
    struct str user_id;
    struct str bot_name;
    struct str bytes;
};
MUST_CHECK enum status store_load_page(struct store *s, uint64_t key_id, struct store_page *ret,
                                       struct error *err);
/* All keys, in key id order, for verify, inspect and re-spread. */
MUST_CHECK enum status store_each_page(struct store *s,
                                       enum status (*fn)(void *ctx, const struct store_page *page,
                                                         struct error *err),
                                       void *ctx, struct error *err);

/* ---- epochs (engines/epoch.h) ---- */
/* Days count from 1970-01-01 UTC; 0 = none. */
struct store_day {
    int32_t opened;       /* the epochs of every day up to here are complete and may be used */
    int32_t closed;       /* what was learned before this day is kept as its parts; >= opened */
    uint64_t closed_jseq; /* entries up to here belong to a closed day */
};
const struct store_day *store_day(const struct store *s);
/* What a bot's keys in this store have taught on the day that runs, up to and including entry jseq;
 * replaces what was there. Walks may give several of one bot: they add up. */
struct store_part {
    struct str bot_name;
    uint64_t jseq;
    struct str bytes;
};
struct store_epoch {
    struct str bot_name;
    int32_t day;
    int32_t keep_day; /* older ones go, but for the newest at or before this day */
    struct str bytes;
};
typedef enum status store_part_fn(void *ctx, const struct store_part *part, struct error *err);
typedef enum status store_epoch_fn(void *ctx, const struct store_epoch *epoch, struct error *err);
/* The running day's parts of one bot. In all four fn may load keys and epochs of other bots, but
 * not commit; its failure stops and is returned. CORRUPT: a row fails its checksum. */
MUST_CHECK enum status store_bot_parts(struct store *s, struct str bot_name, store_part_fn *fn,
                                       void *ctx, struct error *err);
/* The parts of a closed day, by bot. */
MUST_CHECK enum status store_day_parts(struct store *s, int32_t day, store_part_fn *fn, void *ctx,
                                       struct error *err);
/* The epochs of one bot up to last_day, newest first. fn ends the walk with END. */
MUST_CHECK enum status store_bot_epochs(struct store *s, struct str bot_name, int32_t last_day,
                                        store_epoch_fn *fn, void *ctx, struct error *err);
/* All complete epochs of all bots in DIR by bot and day, without disturbing a running process.
 * *ret_opened: the newest day that is complete everywhere, 0 = none. END: no state. */
MUST_CHECK enum status store_epochs_read(const char *dir, int32_t *ret_opened, store_epoch_fn *fn,
                                         void *ctx, struct error *err);

/* ---- users that are forgotten ---- */
#define STORE_DIGEST_BYTES 16
/* Keyed, so that names cannot be looked up in a table of digests; the same in every file of a set.
 * bot_name empty: every bot of the user. */
void store_digest(const struct store *s, struct str user_id, struct str bot_name,
                  unsigned char out[STORE_DIGEST_BYTES]);

/* How far a request to forget is, in one worker. */
enum erasure_step {
    ERASURE_STATE = 1, /* this file is clean but for the names below; cache rows may be there */
    ERASURE_ROWS,      /* they are gone, and so are the names */
    ERASURE_DONE,      /* a tombstone and nothing else */
};
/* What has left one file. */
struct erasure_counts {
    uint64_t keys;         /* of the user, in memory or paged out */
    uint64_t pages;        /* of these keys and of inbox_key */
    uint64_t entries;      /* of the journal */
    uint64_t dead_letters; /* that name the user */
    uint64_t messages;     /* records of bots' own keys */
    uint64_t metric_days;  /* sums of bots' own keys, by user and day */
};
struct store_erasure {
    uint64_t id;
    bool native; /* this worker did it; false: another one, whose keys may have come here since */
    unsigned char digest[STORE_DIGEST_BYTES];
    int64_t token_us;  /* the request's own time */
    int64_t erased_us; /* events up to then are ignored ... */
    enum erasure_step step;
    uint64_t row_version; /* cache rows below it are from before */
    uint64_t receipt;     /* row of strategic_erasure, from ERASURE_ROWS on; 0: there is none */
    struct str user_id, bot_name;
    struct erasure_counts counts;
};
/* ... for so long after: by then they are late wherever they come from. */
#define ERASURE_KEEP_US (INT64_C(31) * 24 * 3600 * 1000000)

/* All of them, oldest first. fn's failure stops and is returned. */
MUST_CHECK enum status
store_each_erasure(struct store *s,
                   enum status (*fn)(void *ctx, const struct store_erasure *e, struct error *err),
                   void *ctx, struct error *err);
/* What one commit erases. */
struct store_erasing {
    struct store_erasure *erasure; /* becomes a row of its own: id and counts but keys, messages and
                                      metric_days are set */
    bool of_home;                  /* the user's keys are this store's: their pages go */
    struct str user_id, bot_name;
    /* Blanks a journal entry that must go, in place, and says whether it did. The page of every key
     * whose entries go is among the commit's, or gone. */
    bool (*blank)(void *ctx, char *entry, size_t len);
    void *ctx;
};
/* Whether the bytes name the id, as a word of its own, plainly or in a JSON string. */
bool store_mentions(struct str bytes, struct str id);
/* Nothing that was deleted is left in the WAL. AGAIN: somebody reads the file, try later. */
MUST_CHECK enum status store_scrub(struct store *s, struct error *err);

/* ---- the group commit ---- */
struct store_key {
    struct str user_id; /* empty: the bot's own */
    struct str bot_name;
};
struct store_dead_letter {
    enum source source;
    struct position pos;
    int64_t at_us;
    struct str where;
    struct str reason;
    struct str bytes;
    uint32_t worker; /* whose file it was read from, and which row there */
    int64_t row;
};

/* covered, covered_inbox, as_of_us, fold_below and next_key_id only ever grow: a smaller value
 * leaves the stored one as it is, so that 0 means "no change". */
struct store_commit {
    struct str entries; /* concatenated: varint length + bytes, n_entries times */
    uint64_t n_entries;
    uint64_t fold_below;  /* blocks whose last jseq is <= this may go: they are not replayed any
                             more, and deleted a few per commit */
    uint64_t next_key_id; /* above every id in entries and pages */
    int64_t as_of_us;
    lsn_t covered;
    uint64_t covered_inbox;
    const struct store_applied (*applied)[LIMIT_PARTITIONS]; /* [SOURCE_COUNT], changed ones
                                                                written; NULL = none */
    const struct store_page *pages; /* folded in this commit, jseq may be that of this very block */
    size_t n_pages;
    const struct store_dead_letter *dead_letters;
    size_t n_dead_letters;
    const struct store_key *inbox_keys; /* that have had an event from the inbox; may repeat */
    size_t n_inbox_keys;
    const struct store_part *parts; /* of the running day, jseq up to that of this very block */
    size_t n_parts;
    const struct store_epoch *epochs; /* one that is there already is left as it is */
    size_t n_epochs;
    /* Days; both only ever grow. close_day: the running day, with the parts above and everything
     * in entries, becomes the part of close_day; older parts go. */
    int32_t close_day;
    int32_t open_day;
    const struct store_erasing *erase; /* NULL: nothing */
    /* How far erasures are now: step, receipt and, from ERASURE_ROWS on, no names. */
    const struct store_erasure *erasures;
    size_t n_erasures;
};
/* On failure nothing of the commit is visible in s, but whether it is on disk is unknown until the
 * next open; every later commit is refused (except after IO because the file stayed locked for
 * 10 s: then nothing was written, and trying again is safe). */
MUST_CHECK enum status store_commit(struct store *s, const struct store_commit *c,
                                    struct error *err);
size_t store_journal_bytes(const struct store *s); /* of unfolded blocks */

/* Every key that has ever had an event from the inbox, in no order, without disturbing a running
 * process. fn's failure stops and is returned. END: no state. */
MUST_CHECK enum status
store_inbox_keys_read(const char *dir,
                      enum status (*fn)(void *ctx, const struct store_key *key, struct error *err),
                      void *ctx, struct error *err);

/* ---- dead letters ---- */
/* How many there are and the room their texts take; both are bounded (core/limits.h), the oldest go
 * first. Looks whether another process has taken some out. */
struct store_letters {
    uint64_t n;
    uint64_t bytes;
};
struct store_letters store_dead_letters(struct store *s);
/* Newest first, over all worker files of DIR, without disturbing a running process. fn's failure
 * stops and is returned. */
MUST_CHECK enum status store_dead_letters_read(const char *dir,
                                               enum status (*fn)(void *ctx,
                                                                 const struct store_dead_letter *d,
                                                                 struct error *err),
                                               void *ctx, struct error *err);
/* Takes letters out, as they were read (the texts are not looked at), without disturbing a running
 * process: its commits wait for a few milliseconds. Those that are gone are passed over. */
MUST_CHECK enum status store_dead_letters_remove(const char *dir,
                                                 const struct store_dead_letter *letters, size_t n,
                                                 uint64_t *ret_removed, struct error *err);
