#include "state/seen.h"

#include "state/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT     1
#define PATH_BYTES 1024

struct seen {
    char path[PATH_BYTES];
    sqlite3 *db;
    sqlite3_stmt *find, *put, *forget;
};

void seen_close(struct seen *s)
{
    if (!s)
        return;
    sqlite3_finalize(s->find);
    sqlite3_finalize(s->put);
    sqlite3_finalize(s->forget);
    sqlite3_close(s->db);
    free(s);
}

static enum status prepare(struct seen *s, const char *sql, sqlite3_stmt **ret, struct error *err)
{
    if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL) == SQLITE_OK)
        return STATUS_OK;
    return db_error(s->db, s->path, "read", err);
}

static enum status open_file(const char *path, struct seen **ret, struct error *err)
{
    static const char make[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE;"
        "CREATE TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY, value INTEGER NOT NULL,"
        " at INTEGER NOT NULL) STRICT; PRAGMA user_version = 1; COMMIT";
    int version = 0;
    CLEANUP(seen_closep) struct seen *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate what was seen");
    snprintf(s->path, sizeof(s->path), "%s", path);
    if (sqlite3_open(path, &s->db) != SQLITE_OK)
        return db_error(s->db, path, "open", err);
    enum status st = db_version(s->db, path, FORMAT, &version, err);
    if (!st)
        st = db_exec(s->db, path, make, "set up", err);
    if (!st)
        st = prepare(s, "SELECT value FROM seen WHERE id = ?1", &s->find, err);
    if (!st)
        st = prepare(s, "INSERT OR REPLACE INTO seen VALUES (?1, ?2, ?3)", &s->put, err);
    if (!st)
        st = prepare(s, "DELETE FROM seen WHERE at < ?1", &s->forget, err);
    if (!st)
        *ret = TAKE(s);
    return st;
}

static void remove_file(const char *path)
{
    static const char *const parts[] = {"", "-wal", "-shm"};
    char part[PATH_BYTES + 8];
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(part, sizeof(part), "%s%s", path, parts[i]);
        (void)unlink(part);
    }
}

enum status seen_open(const char *path, struct seen **ret, bool *ret_lost, struct error *err)
{
    if (strlen(path) >= PATH_BYTES)
        return error_set(err, STATUS_IO, "the path \"%.100s...\" is too long", path);
    enum status st = open_file(path, ret, err);
    *ret_lost = st == STATUS_CORRUPT;
    if (st != STATUS_CORRUPT)
        return st;
    remove_file(path);
    return open_file(path, ret, err);
}

enum status seen_has(struct seen *s, const struct seen_mark *mark, bool *ret, struct error *err)
{
    db_bind_u64(s->find, 1, mark->id);
    int rc = sqlite3_step(s->find);
    enum status st = STATUS_OK;
    if (rc == SQLITE_ROW)
        *ret = db_column_u64(s->find, 0) == mark->value;
    else if (rc == SQLITE_DONE)
        *ret = false;
    else
        st = db_error(s->db, s->path, "read", err);
    sqlite3_reset(s->find);
    return st;
}

enum status seen_add(struct seen *s, const struct seen_mark *marks, size_t n, struct error *err)
{
    enum status st = db_exec(s->db, s->path, "BEGIN IMMEDIATE", "write", err);
    if (st)
        return st;
    for (size_t i = 0; i < n && !st; i++) {
        db_bind_u64(s->put, 1, marks[i].id);
        db_bind_u64(s->put, 2, marks[i].value);
        sqlite3_bind_int64(s->put, 3, marks[i].at_us);
        st = db_run(s->db, s->path, s->put, "write", err);
    }
    if (!st)
        st = db_exec(s->db, s->path, "COMMIT", "write", err);
    if (st)
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

enum status seen_forget(struct seen *s, int64_t before_us, struct error *err)
{
    sqlite3_bind_int64(s->forget, 1, before_us);
    return db_run(s->db, s->path, s->forget, "write", err);
}
