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
    uint64_t newest, trimmed, bytes, ids;
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
    INBOX_NEXT_IDS,
    INBOX_FORGET,
    INBOX_PUT_CURSOR,
    INBOX_DATA_VERSION,
    INBOX_STATEMENTS,
};

struct inbox_file {
    sqlite3 *db;
    char *path;
    struct inbox_meta meta; /* of the last transaction, our own or (inbox_file_changed) another's */
    int64_t keep_ids_us;
    int wal_pages;    /* in the WAL after the last commit */
    int data_version; /* as last seen: differs when another process has committed */
    unsigned char key[INBOX_KEY_SIZE];
    unsigned char hand[INBOX_DIGEST_SIZE]; /* the id that was looked at last when expiring */
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
