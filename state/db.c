#include "state/db.h"

#include "core/hash.h"

#include <endian.h>
#include <string.h>

/* Text of the last I/O error, or "" when SQLite met none. */
static const char *system_error(sqlite3 *db, int code, char *out, size_t size)
{
    bool io = code == SQLITE_IOERR || code == SQLITE_FULL || code == SQLITE_CANTOPEN;
    int number = io ? sqlite3_system_errno(db) : 0;
    return number ? strerror_r(number, out, size) : "";
}

bool db_is_full(sqlite3 *db)
{
    /* FULL is ENOSPC. A quota and a limit on file sizes are failed writes like any other; whatever
     * it was, what could not be written was not committed. */
    int code = sqlite3_extended_errcode(db);
    return (code & 0xFF) == SQLITE_FULL || code == SQLITE_IOERR_WRITE;
}

enum status db_error(sqlite3 *db, const char *path, const char *what, struct error *err)
{
    int code = db ? sqlite3_errcode(db) & 0xFF : SQLITE_NOMEM;
    enum status st = code == SQLITE_NOMEM ? STATUS_NOMEM : STATUS_IO;
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_CONSTRAINT ||
        code == SQLITE_MISMATCH)
        st = STATUS_CORRUPT;
    char text[128];
    const char *system = db ? system_error(db, code, text, sizeof(text)) : "";
    const char *hint = "";
    if (db && db_is_full(db))
        hint = "; make room there (disk, quota, limit on file sizes) and start again: nothing is "
               "lost, the source keeps what follows";
    else if (code == SQLITE_BUSY)
        hint = "; another process has it open and does not let go: one that is paused or hangs "
               "(`fuser` names it), end it and start again";
    return error_set(err, st, "could not %s \"%s\": %s%s%s%s", what, path,
                     db ? sqlite3_errmsg(db) : "out of memory", *system ? ": " : "", system, hint);
}

enum status db_exec(sqlite3 *db, const char *path, const char *sql, const char *what,
                    struct error *err)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return db_error(db, path, what, err);
    return STATUS_OK;
}

enum status db_int(sqlite3 *db, const char *path, const char *sql, int64_t *ret, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(st, 0);
    enum status result = rc == SQLITE_ROW ? STATUS_OK : db_error(db, path, "read", err);
    sqlite3_finalize(st);
    return result;
}

enum status db_version(sqlite3 *db, const char *path, int newest, int *ret, struct error *err)
{
    int64_t version = 0;
    enum status st = db_int(db, path, "PRAGMA user_version", &version, err);
    if (st)
        return st;
    if (version > newest)
        return error_set(
            err, STATUS_REFUSED,
            "\"%s\" has state format %lld, this version knows up to %d: it was written "
            "by a newer version",
            path, (long long)version, newest);
    if (version < 0)
        return error_set(err, STATUS_CORRUPT, "\"%s\" has state format %lld", path,
                         (long long)version);
    *ret = (int)version;
    return STATUS_OK;
}

enum status db_rewrite_wal(sqlite3 *db, const char *path, struct error *err)
{
    char bytes[16384];
    sqlite3_file *wal = NULL;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
    if (rc != SQLITE_OK || !wal || !wal->pMethods)
        return STATUS_OK; /* in memory */
    rc = wal->pMethods->xFileSize(wal, &size);
    for (sqlite3_int64 at = 0; rc == SQLITE_OK && at < size; at += (int)sizeof(bytes)) {
        int n = size - at < (int)sizeof(bytes) ? (int)(size - at) : (int)sizeof(bytes);
        rc = wal->pMethods->xRead(wal, bytes, n, at);
        if (rc == SQLITE_OK)
            rc = wal->pMethods->xWrite(wal, bytes, n, at);
    }
    if (rc == SQLITE_OK && size > 0)
        rc = wal->pMethods->xSync(wal, SQLITE_SYNC_NORMAL);
    if (rc != SQLITE_OK)
        return error_set(err, STATUS_IO, "could not rewrite \"%s-wal\": %s", path,
                         sqlite3_errstr(rc));
    return STATUS_OK;
}

enum status db_run(sqlite3 *db, const char *path, sqlite3_stmt *st, const char *what,
                   struct error *err)
{
    int rc = sqlite3_step(st);
    enum status result = rc == SQLITE_DONE ? STATUS_OK : db_error(db, path, what, err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return result;
}

void db_bind_u64(sqlite3_stmt *st, int i, uint64_t v)
{
    sqlite3_bind_int64(st, i, (int64_t)v);
}

void db_bind_text(sqlite3_stmt *st, int i, struct str v)
{
    sqlite3_bind_text64(st, i, v.ptr ? v.ptr : "", v.len, SQLITE_STATIC, SQLITE_UTF8);
}

void db_bind_blob(sqlite3_stmt *st, int i, struct str v)
{
    sqlite3_bind_blob64(st, i, v.ptr ? v.ptr : "", v.len, SQLITE_STATIC);
}

uint64_t db_column_u64(sqlite3_stmt *st, int i)
{
    return (uint64_t)sqlite3_column_int64(st, i);
}

struct str db_column_str(sqlite3_stmt *st, int i)
{
    const char *ptr = sqlite3_column_blob(st, i); /* of a TEXT too: its bytes; NULL when empty */
    return (struct str){ptr ? ptr : "", (size_t)sqlite3_column_bytes(st, i)};
}

/*
 * Checksum of durable bytes: eight at a time, because FNV-1a's byte at a time would cost as much as
 * the fsync. Each step is a bijection of the running value, so any change within one word is found
 * for certain. It starts from the length and what the row says about the bytes.
 */
uint64_t db_checksum(uint64_t a, uint64_t b, struct str bytes)
{
    uint64_t h = hash64_mix(a ^ hash64_mix(b ^ hash64_mix(bytes.len + 1)));
    size_t i = 0;
    for (; i + 8 <= bytes.len; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes.ptr + i, 8);
        h = (h ^ le64toh(word)) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 29;
    }
    uint64_t tail = 0;
    if (i < bytes.len)
        memcpy(&tail, bytes.ptr + i, bytes.len - i);
    return hash64_mix(h ^ le64toh(tail));
}
