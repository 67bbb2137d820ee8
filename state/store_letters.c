/*
 * Dead letters: written with the commit that takes an input out of play, bounded by number and by
 * bytes, and taken out from another process while the store is open (`warmpath dlq`).
 *
 * That process writes to this one table and nothing else: what fences the holders of the state
 * against each other is the row of meta, which it neither reads nor writes. SQLite's lock makes its
 * transactions and the commits follow one another, and both are short. What the open store
 * remembers of the table is counted anew whenever PRAGMA data_version says that somebody else has
 * committed.
 */
#include "state/store_internal.h"

#include "core/counters.h"

#include <assert.h>

#define BUSY_TIMEOUT_MS    10000
#define REMOVED_PER_COMMIT 200

/* As TRIM and the bound count it: the texts, not SQLite's own bytes around them. */
static uint64_t size_of(const struct store_dead_letter *d)
{
    return d->where.len + d->reason.len + d->bytes.len;
}

/* Steps a statement that gives exactly one row; the caller reads its columns and resets it. */
static enum status read_one(struct store *s, enum store_statement which, struct error *err)
{
    if (sqlite3_step(s->sql[which]) == SQLITE_ROW)
        return STATUS_OK;
    enum status st = store_error(s, "read", err);
    sqlite3_reset(s->sql[which]);
    return st;
}

enum status store_letters_count(struct store *s, struct error *err)
{
    enum status st = read_one(s, SQL_DATA_VERSION, err);
    if (st)
        return st;
    int64_t version = sqlite3_column_int64(s->sql[SQL_DATA_VERSION], 0);
    sqlite3_reset(s->sql[SQL_DATA_VERSION]);
    if (version == s->letters_version)
        return STATUS_OK;
    st = read_one(s, SQL_COUNT_DEAD, err);
    if (st)
        return st;
    s->letters.n = db_column_u64(s->sql[SQL_COUNT_DEAD], 0);
    s->letters.bytes = db_column_u64(s->sql[SQL_COUNT_DEAD], 1);
    sqlite3_reset(s->sql[SQL_COUNT_DEAD]);
    s->letters_version = version;
    return STATUS_OK;
}

struct store_letters store_dead_letters(struct store *s)
{
    /* When it cannot be counted now, the next commit will say why. */
    (void)!store_letters_count(s, NULL);
    return s->letters;
}

enum status store_put_dead_letter(struct store *s, const struct store_dead_letter *d,
                                  struct store_letters *letters, struct error *err)
{
    struct store_dead_letter cut = *d;
    if (cut.bytes.len > LIMIT_DEAD_LETTER_BYTES)
        cut.bytes.len = LIMIT_DEAD_LETTER_BYTES;
    sqlite3_stmt *q = s->sql[SQL_INSERT_DEAD];
    sqlite3_bind_int(q, 1, (int)d->source);
    db_bind_u64(q, 2, d->pos.lsn);
    db_bind_u64(q, 3, d->pos.seq);
    sqlite3_bind_int64(q, 4, d->at_us);
    db_bind_text(q, 5, d->where);
    db_bind_text(q, 6, d->reason);
    db_bind_blob(q, 7, cut.bytes);
    letters->n++;
    letters->bytes += size_of(&cut);
    return store_run(s, SQL_INSERT_DEAD, "write a dead letter to", err);
}

enum status store_trim_dead_letters(struct store *s, struct store_letters *letters,
                                    struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_OLDEST_DEAD];
    int64_t last = 0;
    uint64_t before = letters->n;
    int rc = SQLITE_ROW;
    while (letters->n > LIMIT_DEAD_LETTERS || letters->bytes > LIMIT_DEAD_LETTERS_BYTES) {
        rc = sqlite3_step(q);
        if (rc != SQLITE_ROW)
            break;
        last = sqlite3_column_int64(q, 0);
        letters->n--;
        letters->bytes -= db_column_u64(q, 1);
    }
    enum status st = rc == SQLITE_ROW ? STATUS_OK : store_error(s, "read", err);
    sqlite3_reset(q);
    if (st || letters->n == before)
        return st;
    COUNTER_ADD(dead_letters_dropped, before - letters->n);
    sqlite3_bind_int64(s->sql[SQL_TRIM_DEAD], 1, last);
    return store_run(s, SQL_TRIM_DEAD, "trim dead letters of", err);
}

struct store_dead_letter store_column_dead_letter(sqlite3_stmt *st, int i)
{
    return (struct store_dead_letter){
        .source = (enum source)sqlite3_column_int(st, i),
        .pos = {db_column_u64(st, i + 1), db_column_u64(st, i + 2)},
        .at_us = sqlite3_column_int64(st, i + 3),
        .where = db_column_str(st, i + 4),
        .reason = db_column_str(st, i + 5),
        .bytes = db_column_str(st, i + 6),
    };
}

/* ---- from another process ---- */

struct removal {
    sqlite3 *db;
    sqlite3_stmt *stmt;
    char *path;
};

static void removal_close(struct removal *r)
{
    sqlite3_finalize(r->stmt);
    if (r->db)
        sqlite3_db_config(r->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(r->db);
    free(r->path);
}

/* Checkpoints are the owner's business (store_file.c says why), so this leaves them to it. */
static enum status removal_open(struct removal *r, const char *dir, const char *set,
                                uint32_t worker, struct error *err)
{
    static const char setup[] = "PRAGMA synchronous=FULL;"
                                "PRAGMA wal_autocheckpoint=0;"
                                "PRAGMA mmap_size=0;"
                                "PRAGMA secure_delete=ON;"
                                "PRAGMA trusted_schema=OFF;";
    /* The row's number alone could be that of another letter, in a set made anew meanwhile. */
    static const char sql[] = "DELETE FROM dead_letter WHERE id = ?1 AND source = ?2 AND lsn = ?3"
                              " AND seq = ?4 AND at_us = ?5";
    int version = 0;
    r->path = store_worker_path(dir, set, worker);
    if (!r->path)
        return error_set(err, STATUS_NOMEM, "could not allocate a path");
    if (sqlite3_open_v2(r->path, &r->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return db_error(r->db, r->path, "open", err);
    sqlite3_busy_timeout(r->db, BUSY_TIMEOUT_MS);
    enum status st = store_version_read(r->db, r->path, &version, err);
    if (!st && version == 0)
        st = error_set(err, STATUS_CORRUPT, "\"%s\" holds no state", r->path);
    if (!st && (sqlite3_exec(r->db, setup, NULL, NULL, NULL) != SQLITE_OK ||
                sqlite3_prepare_v2(r->db, sql, -1, &r->stmt, NULL) != SQLITE_OK))
        st = db_error(r->db, r->path, "open", err);
    return st;
}

static enum status remove_one(struct removal *r, const struct store_dead_letter *k,
                              uint64_t *removed, struct error *err)
{
    sqlite3_bind_int64(r->stmt, 1, k->row);
    sqlite3_bind_int(r->stmt, 2, (int)k->source);
    db_bind_u64(r->stmt, 3, k->pos.lsn);
    db_bind_u64(r->stmt, 4, k->pos.seq);
    sqlite3_bind_int64(r->stmt, 5, k->at_us);
    enum status st = db_run(r->db, r->path, r->stmt, "drop dead letters of", err);
    if (!st)
        *removed += (uint64_t)sqlite3_changes(r->db);
    return st;
}

/* Those of one worker, in transactions that no commit waits for long. */
static enum status remove_of_worker(struct removal *r, uint32_t worker,
                                    const struct store_dead_letter *keys, size_t n,
                                    uint64_t *removed, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < n;) {
        uint64_t changed = 0;
        st = db_exec(r->db, r->path, "BEGIN IMMEDIATE", "lock", err);
        for (size_t k = 0; !st && i < n && k < REMOVED_PER_COMMIT; i++)
            if (keys[i].worker == worker) {
                st = remove_one(r, &keys[i], &changed, err);
                k++;
            }
        if (!st)
            st = db_exec(r->db, r->path, "COMMIT", "drop dead letters of", err);
        if (!st)
            *removed += changed;
    }
    return st;
}

enum status store_dead_letters_remove(const char *dir, const struct store_dead_letter *keys,
                                      size_t n, uint64_t *ret_removed, struct error *err)
{
    char set[SET_NAME_SIZE];
    uint64_t removed = 0;
    enum status st = store_set_current(dir, set, err);
    for (uint32_t worker = 0; !st && worker < LIMIT_WORKERS; worker++) {
        bool any = false;
        for (size_t i = 0; i < n && !any; i++)
            any = keys[i].worker == worker;
        if (!any)
            continue;
        CLEANUP(removal_close) struct removal r = {0};
        st = removal_open(&r, dir, set, worker, err);
        if (!st)
            st = remove_of_worker(&r, worker, keys, n, &removed, err);
    }
    *ret_removed = removed;
    return st == STATUS_END ? STATUS_OK : st;
}
