/* The one thing about the source that may change while the state is open: its timeline. Written
 * through connections of their own, as each store belongs to the thread of its worker. */
#include "state/store_internal.h"

#include <stdlib.h>

#define BUSY_TIMEOUT_MS 10000

static void close_db(sqlite3 **db)
{
    /* The checkpoint on close is the worker's. */
    if (*db)
        sqlite3_db_config(*db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(*db);
}

static void free_path(char **path)
{
    free(*path);
}

static enum status update(sqlite3 *db, const char *path, uint64_t epoch, uint32_t timeline,
                          struct error *err)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "UPDATE meta SET timeline = max(timeline, ?2)"
                                " WHERE id = 1 AND epoch = ?1",
                                -1, &q, NULL);
    if (rc == SQLITE_OK) {
        db_bind_u64(q, 1, epoch);
        sqlite3_bind_int64(q, 2, timeline);
        rc = sqlite3_step(q);
    }
    enum status st = STATUS_OK;
    if (rc != SQLITE_DONE)
        st = db_error(db, path, "write to", err);
    else if (sqlite3_changes(db) != 1)
        st = error_set(err, STATUS_FENCED, "\"%s\" belongs to another process now", path);
    sqlite3_finalize(q);
    return st;
}

static enum status write_file(const char *dir, const char *set, uint32_t worker, uint64_t epoch,
                              uint32_t timeline, struct error *err)
{
    CLEANUP(free_path) char *path = store_worker_path(dir, set, worker);
    if (!path)
        return error_set(err, STATUS_NOMEM, "could not allocate a path");
    CLEANUP(close_db) sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return db_error(db, path, "open", err);
    sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);
    if (sqlite3_exec(db, "PRAGMA synchronous = FULL", NULL, NULL, NULL) != SQLITE_OK)
        return db_error(db, path, "open", err);
    return update(db, path, epoch, timeline, err);
}

enum status store_set_timeline(const char *dir, uint64_t epoch, uint32_t timeline,
                               struct error *err)
{
    char set[SET_NAME_SIZE];
    enum status st = store_set_current(dir, set, err);
    uint32_t n = store_set_workers(dir);
    for (uint32_t i = 0; i < n && !st; i++)
        st = write_file(dir, set, i, epoch, timeline, err);
    return st;
}
