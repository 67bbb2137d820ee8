/*
 * state/inbox_internal.h - what inbox.c (the queue and its thread), inbox_file.c (the file, written
 * by one connection) and inbox_read.c (other connections) share.
 */
#pragma once

#include "state/db.h"
#include "state/inbox.h"

#include <stdatomic.h>
#include <stdlib.h>

#define INBOX_FILE        "inbox.db"
#define INBOX_KEY_SIZE    16  /* of the key of the digests of delivery ids ... */
#define INBOX_DIGEST_SIZE 16  /* ... and of a digest */
#define INBOX_LOOK_IDS    256 /* looked at in one transaction, whether they are due to go */
/* A delivery with more events than this becomes several rows. */
#define INBOX_ROW_BYTES (1u << 20)

CLEANUP_FREEP(char, free);

/* A delivery that waits. One allocation, with everything that its strings point to. */
struct inbox_item {
    struct inbox_item *next;
    struct inbox_delivery d;
    struct str dedupe; /* source, NUL, id: what is hashed; len 0: no id */
    inbox_done_fn *done;
    void *ctx;
    enum inbox_outcome outcome;
};
/* A copy of d, to be freed. NULL: out of memory. */
struct inbox_item *inbox_item_new(const struct inbox_delivery *d);

/* ---- inbox_file.c ---- */
/* The row of table meta: what the file says about itself. */
struct inbox_meta {
    uint64_t newest, trimmed, bytes;
    uint64_t ids;   /* rows of table seen */
    uint64_t fresh; /* the newest row of table fresh, 0 = none ever */
};

enum inbox_statement {
    INBOX_BEGIN,
    INBOX_COMMIT,
    INBOX_ROLLBACK,
    INBOX_READ_META,
    INBOX_WRITE_META,
    INBOX_INSERT,
    INBOX_ROW_SIZES,
    INBOX_DELETE,
    INBOX_SEE_NEW,
    INBOX_SEEN,
    INBOX_SEE_AGAIN,
    INBOX_FRESH,
    INBOX_INSERT_FRESH,
    INBOX_DROP_FRESH,
    INBOX_NEXT_IDS,
    INBOX_FORGET,
    INBOX_PUT_CURSOR,
    INBOX_DATA_VERSION,
    INBOX_STATEMENTS,
};

/* ---- inbox_ids.c ---- */
struct inbox_id {
    unsigned char digest[INBOX_DIGEST_SIZE];
    int64_t seen_us;
    bool used;
};
struct inbox_id_set {
    struct inbox_id *at;
    size_t n, size;
};
/* What table fresh holds: in `young`, or in `old` while they are moved to table seen. */
struct inbox_ids {
    struct inbox_id_set young, old;
    struct inbox_id *sorted; /* n_sorted, those of `old`; NULL: none are being moved */
    size_t n_sorted, moved;
    uint64_t row;           /* the newest row of table fresh that was read or written */
    uint64_t old_row;       /* up to here rows hold what is being moved, or has been */
    uint64_t dropped, drop; /* rows up to `dropped` are gone, up to `drop` they may go */
    struct buf batch;       /* digests of this transaction */
    unsigned char hand[INBOX_DIGEST_SIZE]; /* of table seen: looked at last, when expiring */
};
void inbox_ids_init(struct inbox_ids *ids);
void inbox_ids_deinit(struct inbox_ids *ids);
/* Forgets what is in memory: after a transaction that failed. */
void inbox_ids_clear(struct inbox_ids *ids);

struct inbox_file {
    sqlite3 *db;
    char *path;
    struct inbox_meta meta; /* of the last transaction, our own or (inbox_file_changed) another's */
    int64_t keep_ids_us;
    int wal_pages;    /* in the WAL after the last commit */
    int data_version; /* as last seen: differs when another process has committed */
    unsigned char key[INBOX_KEY_SIZE];
    struct inbox_ids ids;
    sqlite3_stmt *sql[INBOX_STATEMENTS];
};
/* Opens or creates DIR/inbox.db, as its owner. */
MUST_CHECK enum status inbox_file_open(const struct inbox_config *cfg, struct inbox_file *f,
                                       struct error *err);
/* Opens it beside its owner. END: it is not there. */
MUST_CHECK enum status inbox_file_join(const char *dir, struct inbox_file *f, struct error *err);
/* whole: nothing has failed, so the WAL may be moved into the file. */
void inbox_file_close(struct inbox_file *f, bool whole);

/* What one transaction does besides storing. */
struct inbox_chores {
    int64_t now_us;  /* wall clock */
    uint64_t trim;   /* rows up to here may go: a slice of them does */
    bool forget_ids; /* look at the next INBOX_LOOK_IDS ids, whether they are due to go */
};
/* Stores the items (a list, or NULL) and sets their outcomes. One transaction: when it fails,
 * nothing of it is stored. *ret_again: the failure has damaged nothing (no room, locked by another
 * process), the next call may succeed. */
MUST_CHECK enum status inbox_file_commit(struct inbox_file *f, struct inbox_item *items,
                                         const struct inbox_chores *chores, bool *ret_again,
                                         struct error *err);
/* Moves a WAL that has grown into the file. */
MUST_CHECK enum status inbox_file_checkpoint(struct inbox_file *f, struct error *err);
/* When another process has committed, f->meta follows. */
MUST_CHECK enum status inbox_file_follow(struct inbox_file *f, struct error *err);

uint64_t inbox_row_hash(const struct inbox_row *row);

/* ---- inbox_ids.c, inside a transaction; *m is what meta will say ---- */
/* Follows what table fresh has got by others, or by ourselves before. */
MUST_CHECK enum status inbox_ids_load(struct inbox_file *f, const struct inbox_meta *m,
                                      struct error *err);
/* Remembers the id; *ret_known when it was known already. */
MUST_CHECK enum status inbox_ids_see(struct inbox_file *f, struct str id, int64_t now_us,
                                     bool *ret_known, struct error *err);
/* Writes what was seen, and moves a slice of what has come before to its place. */
MUST_CHECK enum status inbox_ids_write(struct inbox_file *f, struct inbox_meta *m, int64_t now_us,
                                       struct error *err);
/* Looks at INBOX_LOOK_IDS ids and drops those that are due to go. */
MUST_CHECK enum status inbox_ids_forget(struct inbox_file *f, struct inbox_meta *m, int64_t now_us,
                                        struct error *err);

/* ---- inbox_read.c: the connection of inbox_read() ---- */
struct inbox_reader;
MUST_CHECK enum status inbox_reader_open(const char *path, struct inbox_reader **ret,
                                         struct error *err);
void inbox_reader_close(struct inbox_reader *r);
/* As inbox_cursor(), by a connection of its own. */
MUST_CHECK enum status inbox_file_cursor(const char *path, struct str source, struct buf *out,
                                         struct error *err);
/* As inbox_read(); rows up to *trim may be missing. */
MUST_CHECK enum status inbox_reader_read(struct inbox_reader *r, uint64_t after,
                                         const _Atomic uint64_t *trim, uint32_t max,
                                         enum status (*fn)(void *ctx, const struct inbox_row *row,
                                                           struct error *err),
                                         void *ctx, struct error *err);
