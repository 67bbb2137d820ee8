#include "state/points.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "state/db.h"
#include "state/fault.h"

#define FORMAT         1
#define PATH_BYTES     4352
#define MARK_BYTES_MAX (64u << 20) /* half a billion points */

enum {
    SQL_FIND,
    SQL_PUT,
    SQL_REMOVE,
    SQL_DELIVERY,
    SQL_SWEPT,
    SQL_ALL,
    SQL_MISSED,
    SQL_GONE,
    SQL_COUNT,
};
static const char sql_put[] =
    "INSERT INTO point (id, known) VALUES (?1, ?2) "
    "ON CONFLICT (id) DO UPDATE SET known = excluded.known, missed = 0 RETURNING row";
static const char *const sql[SQL_COUNT] = {
    [SQL_FIND] = "SELECT row, known FROM point WHERE id = ?1",
    [SQL_PUT] = sql_put,
    [SQL_REMOVE] = "DELETE FROM point WHERE id = ?1",
    [SQL_DELIVERY] = "UPDATE meta SET delivery = ?1",
    [SQL_SWEPT] = "UPDATE meta SET swept_us = ?1",
    [SQL_ALL] = "SELECT row, missed FROM point",
    [SQL_MISSED] = "UPDATE point SET missed = ?2 WHERE row = ?1",
    [SQL_GONE] = "SELECT id, known FROM point WHERE missed >= 2 LIMIT ?1",
};

struct points {
    char path[PATH_BYTES];
    sqlite3 *db;
    sqlite3_stmt *st[SQL_COUNT];
    uint64_t delivery;
    int64_t swept_us;
    uint8_t *marks; /* by row; NULL: no sweep is under way */
    size_t marks_bytes;
};

/* ---- the file ---- */

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE point (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, known BLOB NOT NULL,"
    " missed INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE INDEX point_missed ON point (missed) WHERE missed > 0;"
    "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), delivery INTEGER NOT NULL,"
    " swept_us INTEGER NOT NULL) STRICT;"
    "INSERT INTO meta VALUES (1, 0, 0);"
    "PRAGMA user_version = 1;"
    "COMMIT";

static enum status read_meta(struct points *p, struct error *err)
{
    int64_t delivery = 0;
    enum status st = db_int(p->db, p->path, "SELECT delivery FROM meta", &delivery, err);
    st = st ? st : db_int(p->db, p->path, "SELECT swept_us FROM meta", &p->swept_us, err);
    p->delivery = (uint64_t)delivery;
    return st;
}

static enum status open_file(struct points *p, struct error *err)
{
    int format = 0;
    if (sqlite3_open_v2(p->path, &p->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL))
        return db_error(p->db, p->path, "open", err);
    sqlite3_extended_result_codes(p->db, 1);
    sqlite3_busy_timeout(p->db, 5000);
    /* NORMAL: a power cut may take the last transactions, and what they said comes once more. */
    enum status st = db_exec(p->db, p->path,
                             "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
                             "PRAGMA cache_size = -4096; PRAGMA secure_delete = ON",
                             "open", err);
    st = st ? st : db_version(p->db, p->path, FORMAT, &format, err);
    if (!st && format == 0)
        st = db_exec(p->db, p->path, schema, "create", err);
    for (size_t i = 0; i < SQL_COUNT && !st; i++)
        if (sqlite3_prepare_v3(p->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &p->st[i], NULL))
            st = db_error(p->db, p->path, "read", err);
    return st ? st : read_meta(p, err);
}

static void close_file(struct points *p)
{
    for (size_t i = 0; i < SQL_COUNT; i++) {
        sqlite3_finalize(p->st[i]);
        p->st[i] = NULL;
    }
    sqlite3_close(p->db);
    p->db = NULL;
}

static void remove_file(const struct points *p)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char path[PATH_BYTES + 8];
    for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
        snprintf(path, sizeof(path), "%s%s", p->path, suffixes[i]);
        (void)unlink(path);
    }
}

enum status points_open(const char *dir, const char *name, struct points **ret, bool *ret_lost,
                        struct error *err)
{
    CLEANUP(points_closep) struct points *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, STATUS_NOMEM, "could not allocate the points of \"%s\"", name);
    int n = snprintf(p->path, sizeof(p->path), "%s/qdrant-%s.db", dir, name);
    if (n < 0 || (size_t)n >= sizeof(p->path))
        return error_set(err, STATUS_IO, "the path of \"%s\" in the state directory is too long",
                         name);
    enum status st = open_file(p, err);
    *ret_lost = st == STATUS_CORRUPT;
    if (st == STATUS_CORRUPT) {
        close_file(p);
        remove_file(p);
        st = open_file(p, err);
    }
    if (st)
        return st;
    *ret = TAKE(p);
    return STATUS_OK;
}

void points_close(struct points *p)
{
    if (!p)
        return;
    close_file(p);
    free(p->marks);
    free(p);
}

enum status points_begin(struct points *p, uint64_t delivery, struct error *err)
{
    if (p->delivery <= delivery)
        return STATUS_OK;
    enum status st = db_exec(p->db, p->path,
                             "BEGIN IMMEDIATE; DELETE FROM point;"
                             "UPDATE meta SET delivery = 0, swept_us = 0; COMMIT",
                             "clear", err);
    return st ? st : read_meta(p, err);
}

uint64_t points_delivery(const struct points *p)
{
    return p->delivery;
}

int64_t points_swept_us(const struct points *p)
{
    return p->swept_us;
}

/* ---- points ---- */

static enum status mark(struct points *p, int64_t row, struct error *err)
{
    if (!p->marks)
        return STATUS_OK;
    size_t at = (size_t)row / 8;
    if (row < 0 || at >= MARK_BYTES_MAX)
        return error_set(err, STATUS_LIMIT, "\"%s\" holds more points than a sweep can mark",
                         p->path);
    if (at >= p->marks_bytes) {
        size_t bytes = 2 * at + 4096;
        uint8_t *larger = realloc(p->marks, bytes);
        if (!larger)
            return error_set(err, STATUS_NOMEM, "could not allocate the marks of a sweep");
        memset(larger + p->marks_bytes, 0, bytes - p->marks_bytes);
        p->marks = larger;
        p->marks_bytes = bytes;
    }
    p->marks[at] |= (uint8_t)(1u << (row % 8));
    return STATUS_OK;
}

static bool is_marked(const struct points *p, int64_t row)
{
    size_t at = (size_t)row / 8;
    return at < p->marks_bytes && (p->marks[at] >> (row % 8) & 1);
}

enum status points_find(struct points *p, struct str id, struct str *ret_known, struct error *err)
{
    sqlite3_stmt *st = p->st[SQL_FIND];
    sqlite3_reset(st);
    db_bind_text(st, 1, id);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        *ret_known = db_column_str(st, 1);
        return mark(p, sqlite3_column_int64(st, 0), err);
    }
    enum status result = rc == SQLITE_DONE ? STATUS_END : db_error(p->db, p->path, "read", err);
    sqlite3_reset(st);
    return result;
}

enum status points_change(struct points *p, struct error *err)
{
    sqlite3_reset(p->st[SQL_FIND]);
    return db_exec(p->db, p->path, "BEGIN IMMEDIATE", "write", err);
}

/* Half a transaction is none. */
static enum status undo(struct points *p, enum status st)
{
    if (st && !sqlite3_get_autocommit(p->db))
        (void)sqlite3_exec(p->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

enum status points_put(struct points *p, struct str id, struct str known, struct error *err)
{
    sqlite3_stmt *st = p->st[SQL_PUT];
    db_bind_text(st, 1, id);
    db_bind_blob(st, 2, known);
    enum status result = STATUS_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        result = mark(p, sqlite3_column_int64(st, 0), err);
        rc = sqlite3_step(st);
    }
    if (rc != SQLITE_DONE)
        result = db_error(p->db, p->path, "write", err);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return undo(p, result);
}

enum status points_remove(struct points *p, struct str id, struct error *err)
{
    db_bind_text(p->st[SQL_REMOVE], 1, id);
    return undo(p, db_run(p->db, p->path, p->st[SQL_REMOVE], "write", err));
}

enum status points_commit(struct points *p, uint64_t delivery, struct error *err)
{
    db_bind_u64(p->st[SQL_DELIVERY], 1, delivery);
    enum status st = db_run(p->db, p->path, p->st[SQL_DELIVERY], "write", err);
    if (!st && FAULT_POINT("points_before_commit"))
        st = error_set(err, STATUS_IO, "could not write \"%s\": injected", p->path);
    st = st ? st : db_exec(p->db, p->path, "COMMIT", "write", err);
    if (st)
        return undo(p, st);
    (void)FAULT_POINT("points_after_commit");
    p->delivery = delivery;
    return STATUS_OK;
}

/* ---- sweeps ---- */

enum status points_sweep_begin(struct points *p, struct error *err)
{
    free(p->marks);
    p->marks_bytes = 4096;
    p->marks = calloc(1, p->marks_bytes);
    if (!p->marks)
        return error_set(err, STATUS_NOMEM, "could not allocate the marks of a sweep");
    return STATUS_OK;
}

/* Counts up what was not marked; most rows stay as they are. */
static enum status count_missed(struct points *p, uint64_t *ret_total, uint64_t *ret_missing,
                                struct error *err)
{
    sqlite3_stmt *all = p->st[SQL_ALL], *set = p->st[SQL_MISSED];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(all)) == SQLITE_ROW) {
        int64_t row = sqlite3_column_int64(all, 0), missed = sqlite3_column_int64(all, 1);
        bool there = is_marked(p, row);
        ++*ret_total;
        *ret_missing += !there;
        if (there && missed == 0)
            continue;
        sqlite3_bind_int64(set, 1, row);
        sqlite3_bind_int64(set, 2, there ? 0 : missed + 1);
        st = db_run(p->db, p->path, set, "write", err);
    }
    if (!st && rc != SQLITE_DONE)
        st = db_error(p->db, p->path, "read", err);
    sqlite3_reset(all);
    return st;
}

enum status points_sweep_end(struct points *p, int64_t now_us, uint64_t *ret_total,
                             uint64_t *ret_missing, struct error *err)
{
    assert(p->marks);
    *ret_total = *ret_missing = 0;
    enum status st = points_change(p, err);
    st = st ? st : count_missed(p, ret_total, ret_missing, err);
    if (!st) {
        sqlite3_bind_int64(p->st[SQL_SWEPT], 1, now_us);
        st = db_run(p->db, p->path, p->st[SQL_SWEPT], "write", err);
    }
    st = st ? st : db_exec(p->db, p->path, "COMMIT", "write", err);
    free(p->marks);
    p->marks = NULL;
    p->marks_bytes = 0;
    if (!st)
        p->swept_us = now_us;
    return undo(p, st);
}

enum status points_gone(struct points *p, uint32_t max,
                        enum status (*fn)(void *ctx, struct str id, struct str known,
                                          struct error *err),
                        void *ctx, struct error *err)
{
    sqlite3_stmt *gone = p->st[SQL_GONE];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    db_bind_u64(gone, 1, max);
    while (!st && (rc = sqlite3_step(gone)) == SQLITE_ROW)
        st = fn(ctx, db_column_str(gone, 0), db_column_str(gone, 1), err);
    if (!st && rc != SQLITE_DONE)
        st = db_error(p->db, p->path, "read", err);
    sqlite3_reset(gone);
    return st;
}

/* ---- users that are forgotten ---- */

static enum status forget_rows(struct points *p, bool (*is_of)(void *ctx, struct str known),
                               void *ctx, struct error *err)
{
    sqlite3_stmt *all = NULL;
    sqlite3_stmt *drop = NULL;
    enum status st = STATUS_OK;
    int rc = sqlite3_prepare_v2(p->db, "SELECT row, known FROM point", -1, &all, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(p->db, "DELETE FROM point WHERE row = ?1", -1, &drop, NULL);
    if (rc != SQLITE_OK)
        st = db_error(p->db, p->path, "read", err);
    while (!st && (rc = sqlite3_step(all)) == SQLITE_ROW) {
        if (!is_of(ctx, db_column_str(all, 1)))
            continue;
        /* Rows behind the one that is read are not moved by that. */
        sqlite3_bind_int64(drop, 1, sqlite3_column_int64(all, 0));
        st = db_run(p->db, p->path, drop, "erase points of", err);
    }
    if (!st && rc != SQLITE_DONE)
        st = db_error(p->db, p->path, "read", err);
    sqlite3_finalize(all);
    sqlite3_finalize(drop);
    return st;
}

enum status points_forget(const char *dir, const char *name,
                          bool (*is_of)(void *ctx, struct str known), void *ctx, struct error *err)
{
    struct points p = {0};
    int n = snprintf(p.path, sizeof(p.path), "%s/qdrant-%s.db", dir, name);
    if (n < 0 || (size_t)n >= sizeof(p.path) || access(p.path, F_OK) != 0)
        return STATUS_OK; /* nothing was ever remembered */
    enum status st = open_file(&p, err);
    st = st ? st : db_exec(p.db, p.path, "BEGIN IMMEDIATE", "lock", err);
    st = st ? st : forget_rows(&p, is_of, ctx, err);
    st = st ? st : db_exec(p.db, p.path, "COMMIT", "erase points of", err);
    if (!st) {
        sqlite3_busy_timeout(p.db, 0); /* a pull may have read something and rest */
        int rc = sqlite3_wal_checkpoint_v2(p.db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        if ((rc & 0xFF) == SQLITE_BUSY)
            st = STATUS_AGAIN;
        else if (rc != SQLITE_OK)
            st = db_error(p.db, p.path, "checkpoint", err);
    }
    close_file(&p); /* rolls back what was not committed */
    return st;
}
