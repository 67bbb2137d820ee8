/*
 * state/store_internal.h - what store.c (one open store), store_file.c (opening one file),
 * store_set.c (the files of a directory) and store_read.c (read-only views) share.
 */
#pragma once

#include "state/db.h"
#include "state/store.h"

#include <sqlite3.h>
#include <stdlib.h>

CLEANUP_FREEP(char, free);

/* The row of table meta. */
struct store_meta {
    uint32_t worker, workers;
    struct store_identity identity;
    uint64_t epoch;
    bool clean;
    lsn_t covered;
    uint64_t covered_inbox;
    int64_t as_of_us;
    uint64_t jseq;
    uint64_t folded; /* entries up to here are contained in pages */
    uint64_t next_key_id;
};

enum store_statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_UPDATE_META,
    SQL_UPDATE_IDENTITY,
    SQL_MARK_CLEAN,
    SQL_INSERT_JOURNAL,
    SQL_FOLDED_BYTES,
    SQL_DELETE_JOURNAL,
    SQL_REPLAY,
    SQL_UPSERT_APPLIED,
    SQL_UPSERT_PAGE,
    SQL_FIND_KEY,
    SQL_USER_KEYS,
    SQL_LOAD_PAGE,
    SQL_EACH_PAGE,
    SQL_EACH_DUE,
    SQL_INSERT_DEAD,
    SQL_EACH_DEAD,
    SQL_OLDEST_DEAD,
    SQL_COUNT_DEAD,
    SQL_TRIM_DEAD,
    SQL_DATA_VERSION,
    SQL_UPDATE_DAY,
    SQL_INSERT_EPOCH,
    SQL_TRIM_EPOCHS,
    SQL_BOT_EPOCHS,
    SQL_EACH_EPOCH,
    SQL_INSERT_PART,
    SQL_DELETE_PARTS,
    SQL_CLOSE_PARTS,
    SQL_TRIM_PARTS,
    SQL_BOT_PARTS,
    SQL_DAY_PARTS,
    SQL_EACH_PART,
    SQL_PUT_INBOX_KEY,
    SQL_EACH_INBOX_KEY,
    SQL_PUT_ERASURE,
    SQL_STEP_ERASURE,
    SQL_TRIM_ERASURES,
    SQL_EACH_ERASURE,
    SQL_DROP_PAGES,
    SQL_DROP_INBOX_KEYS,
    SQL_DROP_FOLDED,
    SQL_JOURNAL_BLOCKS,
    SQL_JOURNAL_BLOCK,
    SQL_REWRITE_BLOCK,
    SQL_LETTERS,
    SQL_DROP_LETTER,
    SQL_COUNT,
};

struct store {
    sqlite3 *db;
    char *path;
    bool durable;       /* a file, not ":memory:" */
    enum status broken; /* not OK: a write failed with this; what is on disk is unknown until the
                           next open, or (FENCED) no longer ours */
    struct store_meta meta;
    struct store_day day;
    int wal_pages;          /* in the WAL after the last commit */
    uint64_t journal_bytes; /* of blocks above meta.folded */
    struct store_letters letters;
    int64_t letters_version; /* PRAGMA data_version they were counted at; 0 = not yet */
    struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS];
    struct buf page; /* backs what store_load_page() lends */
    unsigned char erasure_key[STORE_DIGEST_BYTES];
    sqlite3_stmt *sql[SQL_COUNT];
};

#define STORE_BUSY_TIMEOUT_MS 10000

/* A holder that keeps whatever epoch the file has: only while nobody else may have the set open. */
#define STORE_EPOCH_KEEP UINT64_MAX

/* ---- store_file.c ---- */
/* Opens path and takes it over with epoch; creates it with the content of *create unless NULL. */
MUST_CHECK enum status store_file_open(const char *path, const struct store_meta *create,
                                       uint64_t epoch, struct store **ret, struct error *err);
/* The row of meta by any connection; CORRUPT when it does not make sense. */
MUST_CHECK enum status store_meta_read(sqlite3 *db, const char *path, struct store_meta *ret,
                                       struct error *err);
/* REFUSED when the file was written by a newer version; *ret_version 0 = empty file. */
MUST_CHECK enum status store_version_read(sqlite3 *db, const char *path, int *ret_version,
                                          struct error *err);
extern const char *const store_sql[SQL_COUNT];

/* ---- store.c ---- */
enum status store_error(struct store *s, const char *what, struct error *err);
/* Runs a statement that returns no rows, and makes it ready for the next use. */
MUST_CHECK enum status store_run(struct store *s, enum store_statement which, const char *what,
                                 struct error *err);
/* Opens a write transaction. A file that stayed locked is the one failure that leaves the store
 * usable: nothing has been written. */
MUST_CHECK enum status store_begin(struct store *s, struct error *err);
/* Ends it: COMMIT when st is OK, else ROLLBACK and no more writes. Returns st, or COMMIT's failure.
 */
MUST_CHECK enum status store_end(struct store *s, enum status st, struct error *err);
/* As store_close(), and tells whether the file was left clean and whole. */
MUST_CHECK enum status store_close_checked(struct store *s, struct error *err);
MUST_CHECK enum status store_put_inbox_key(struct store *s, const struct store_key *key,
                                           struct error *err);
/* user_id, bot_name from column 0 on. */
struct store_key store_column_key(sqlite3_stmt *st);
MUST_CHECK enum status store_put_page(struct store *s, const struct store_page *page,
                                      struct error *err);

/* ---- store_letters.c ---- */
/* Counts again when another process has changed the file. */
MUST_CHECK enum status store_letters_count(struct store *s, struct error *err);
/* Inside the open transaction; *letters follows. */
MUST_CHECK enum status store_put_dead_letter(struct store *s, const struct store_dead_letter *d,
                                             struct store_letters *letters, struct error *err);
/* Deletes the oldest ones beyond LIMIT_DEAD_LETTERS and LIMIT_DEAD_LETTERS_BYTES. */
MUST_CHECK enum status store_trim_dead_letters(struct store *s, struct store_letters *letters,
                                               struct error *err);
/* source, lsn, seq, at_us, place, reason, bytes from column i on. */
struct store_dead_letter store_column_dead_letter(sqlite3_stmt *st, int i);

/* ---- store_epoch.c ---- */
MUST_CHECK enum status store_day_load(struct store *s, struct error *err);
/* The part of a commit that is about epochs, inside its transaction; *day follows. jseq: of the
 * commit's last entry. */
MUST_CHECK enum status store_write_epochs(struct store *s, const struct store_commit *c,
                                          uint64_t jseq, struct store_day *day, struct error *err);
/* Copies inside the open transaction of `to`: epochs that it lacks, and all parts. */
MUST_CHECK enum status store_copy_epochs(struct store *from, struct store *to, struct error *err);
MUST_CHECK enum status store_copy_parts(struct store *from, struct store *to, struct error *err);
MUST_CHECK enum status store_put_day(struct store *s, const struct store_day *day,
                                     struct error *err);
/* One row of `SELECT bot_name, day, hash, bytes FROM epoch`. */
MUST_CHECK enum status store_column_epoch(const char *path, sqlite3_stmt *q,
                                          struct store_epoch *ret, struct error *err);

/* ---- store_erase.c ---- */
MUST_CHECK enum status store_erasure_key_load(struct store *s, struct error *err);
/* All files of a set get the key of the first, which had none of their own in use. */
MUST_CHECK enum status store_erasure_key_share(struct store *const *stores, uint32_t n,
                                               struct error *err);
/* Inside the transaction of a commit. */
MUST_CHECK enum status store_write_erasures(struct store *s, const struct store_commit *c,
                                            uint64_t folded, struct error *err);
/* Copies all of them inside the open transaction of `to`, which gets the key as well. */
MUST_CHECK enum status store_copy_erasures(struct store *from, struct store *to, struct error *err);

/* ---- store_set.c ---- */
#define SET_NAME_SIZE 16 /* "set-000001" and its NUL */
/* What DIR/CURRENT names. END: there is none. CORRUPT: it does not name a set. */
MUST_CHECK enum status store_set_current(const char *dir, char ret[SET_NAME_SIZE],
                                         struct error *err);
/* "DIR/set-000001/worker-3.db", to be freed; NULL when out of memory. */
char *store_worker_path(const char *dir, const char *set, uint32_t worker);
