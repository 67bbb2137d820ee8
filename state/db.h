/*
 * state/db.h - what the users of SQLite in this folder share: errors with the file's name, binding
 * and reading of columns, checks of a file after a crash.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

/* "could not <what> "<path>": ..." with what SQLite and the operating system say. IO, NOMEM, or
 * CORRUPT; db may be NULL. */
enum status db_error(sqlite3 *db, const char *path, const char *what, struct error *err);
/* The last failure was a write, for lack of room (disk, quota, limit on file sizes) as a rule:
 * nothing of the transaction is there, and once there is room, the same one can succeed. */
bool db_is_full(sqlite3 *db);
/* Runs statements that return no rows. */
MUST_CHECK enum status db_exec(sqlite3 *db, const char *path, const char *sql, const char *what,
                               struct error *err);
/* The single integer that sql returns. */
MUST_CHECK enum status db_int(sqlite3 *db, const char *path, const char *sql, int64_t *ret,
                              struct error *err);
/* Runs a prepared statement that returns no rows, and makes it ready for the next use. */
MUST_CHECK enum status db_run(sqlite3 *db, const char *path, sqlite3_stmt *st, const char *what,
                              struct error *err);
/* PRAGMA user_version. REFUSED when it is beyond `newest`; 0 = an empty file. */
MUST_CHECK enum status db_version(sqlite3 *db, const char *path, int newest, int *ret,
                                  struct error *err);

/*
 * Writes the WAL over itself and syncs it; the caller holds the write lock. If the last process
 * ended because an fsync failed, what SQLite has just recovered may be in the kernel's cache alone,
 * marked as written: no later fsync would bring it to the disk, and a power cut would take commits
 * that this process is about to build upon. Writing makes the pages dirty again.
 */
MUST_CHECK enum status db_rewrite_wal(sqlite3 *db, const char *path, struct error *err);

/* NULL pointers are bound as empty values; bound bytes must stay until the statement is reset. Text
 * and blobs read back are borrowed until the statement's next step. */
void db_bind_u64(sqlite3_stmt *st, int i, uint64_t v);
void db_bind_text(sqlite3_stmt *st, int i, struct str v);
void db_bind_blob(sqlite3_stmt *st, int i, struct str v);
uint64_t db_column_u64(sqlite3_stmt *st, int i);
struct str db_column_str(sqlite3_stmt *st, int i);

/* Of durable bytes; a and b are what else is to be protected. */
uint64_t db_checksum(uint64_t a, uint64_t b, struct str bytes);
