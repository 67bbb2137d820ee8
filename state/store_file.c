/*
 * Opening one file. The order matters: the schema is brought up to date and the epoch raised in one
 * transaction before anything is read, so that the previous holder, if it still runs, cannot commit
 * between what is read here and the first commit of the new holder.
 */
#include "state/store_internal.h"

#include "state/embedded.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define BUSY_TIMEOUT_MS 10000

extern const struct embedded_file store_migrations[];
extern const int n_store_migrations;

/* 4 kB pages and no memory map, so that an I/O error is an error code and not SIGBUS. SQLite's own
 * checkpoints are off because it ignores their failures and goes on; store.c runs them. */
static const char setup_sql[] = "PRAGMA page_size=4096;"
                                "PRAGMA journal_mode=WAL;"
                                "PRAGMA synchronous=FULL;"
                                "PRAGMA mmap_size=0;"
                                "PRAGMA cache_size=-4096;"
                                "PRAGMA temp_store=MEMORY;"
                                "PRAGMA wal_autocheckpoint=0;"
                                "PRAGMA journal_size_limit=33554432;"
                                "PRAGMA cell_size_check=ON;"
                                "PRAGMA trusted_schema=OFF;";

/* Text of the last I/O error, or "" when SQLite met none. */
static const char *system_error(sqlite3 *db, int code, char *out, size_t size)
{
    bool io = code == SQLITE_IOERR || code == SQLITE_FULL || code == SQLITE_CANTOPEN;
    int number = io ? sqlite3_system_errno(db) : 0;
    return number ? strerror_r(number, out, size) : "";
}

enum status store_db_error(sqlite3 *db, const char *path, const char *what, struct error *err)
{
    int code = db ? sqlite3_errcode(db) & 0xFF : SQLITE_NOMEM;
    enum status st = code == SQLITE_NOMEM ? STATUS_NOMEM : STATUS_IO;
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_CONSTRAINT ||
        code == SQLITE_MISMATCH)
        st = STATUS_CORRUPT;
    char text[128];
    const char *system = db ? system_error(db, code, text, sizeof(text)) : "";
    /* FULL is ENOSPC. A quota and a limit on file sizes are failed writes like any other. */
    bool full = code == SQLITE_FULL || (db && sqlite3_extended_errcode(db) == SQLITE_IOERR_WRITE);
    return error_set(err, st, "could not %s \"%s\": %s%s%s%s", what, path,
                     db ? sqlite3_errmsg(db) : "out of memory", *system ? ": " : "", system,
                     full ? "; make room there (disk, quota, limit on file sizes) and start again: "
                            "nothing is lost, the slot keeps what follows"
                          : "");
}

static enum status run_script(sqlite3 *db, const char *path, const char *sql, const char *what,
                              struct error *err)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return store_db_error(db, path, what, err);
    return STATUS_OK;
}

/* The single integer that sql returns. */
static enum status query_int(sqlite3 *db, const char *path, const char *sql, int64_t *ret,
                             struct error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(st, 0);
    enum status result = rc == SQLITE_ROW ? STATUS_OK : store_db_error(db, path, "read", err);
    sqlite3_finalize(st);
    return result;
}

enum status store_version_read(sqlite3 *db, const char *path, int *ret_version, struct error *err)
{
    int64_t version = 0;
    enum status st = query_int(db, path, "PRAGMA user_version", &version, err);
    if (st)
        return st;
    if (version > n_store_migrations)
        return error_set(
            err, STATUS_REFUSED,
            "\"%s\" has state format %lld, this version knows up to %d: it was written "
            "by a newer version",
            path, (long long)version, n_store_migrations);
    if (version < 0)
        return error_set(err, STATUS_CORRUPT, "\"%s\" has state format %lld", path,
                         (long long)version);
    *ret_version = (int)version;
    return STATUS_OK;
}

static bool copy_text(char *out, size_t size, sqlite3_stmt *st, int i)
{
    struct str text = store_column_str(st, i);
    if (text.len >= size)
        return false;
    memcpy(out, text.ptr ? text.ptr : "", text.len);
    out[text.len] = '\0';
    return true;
}

#define META_COLUMNS                                                                            \
    "worker, workers, partitions, pipeline, system_identifier, slot, slot_birth, epoch, clean," \
    " covered, as_of_us, jseq, folded, next_key_id"
#define SOURCE_COLUMNS ", timeline, loading, since_us"
#define SOURCE_VERSION 3 /* the first format with these */
#define INBOX_COLUMNS  ", covered_inbox"
#define INBOX_VERSION  4 /* the first format with this one */

static bool meta_decode(sqlite3_stmt *st, struct store_meta *m)
{
    *m = (struct store_meta){
        .worker = (uint32_t)sqlite3_column_int64(st, 0),
        .workers = (uint32_t)sqlite3_column_int64(st, 1),
        .identity = {.partitions = (uint32_t)sqlite3_column_int64(st, 2),
                     .slot_birth = store_column_u64(st, 6),
                     .timeline = (uint32_t)sqlite3_column_int64(st, 14),
                     .loading = sqlite3_column_int64(st, 15) != 0,
                     .since_us = sqlite3_column_int64(st, 16)},
        .epoch = store_column_u64(st, 7),
        .clean = sqlite3_column_int(st, 8) == 1,
        .covered = store_column_u64(st, 9),
        .as_of_us = sqlite3_column_int64(st, 10),
        .jseq = store_column_u64(st, 11),
        .folded = store_column_u64(st, 12),
        .next_key_id = store_column_u64(st, 13),
        .covered_inbox = store_column_u64(st, 17),
    };
    struct store_identity *id = &m->identity;
    return copy_text(id->pipeline, sizeof(id->pipeline), st, 3) &&
           copy_text(id->system_identifier, sizeof(id->system_identifier), st, 4) &&
           copy_text(id->slot, sizeof(id->slot), st, 5) && m->workers >= 1 &&
           m->workers <= LIMIT_WORKERS && m->worker < m->workers &&
           id->partitions <= LIMIT_PARTITIONS && m->folded <= m->jseq && m->next_key_id >= 1;
}

enum status store_meta_read(sqlite3 *db, const char *path, struct store_meta *ret,
                            struct error *err)
{
    sqlite3_stmt *st = NULL;
    struct store_meta m;
    int version = 0;
    enum status result = store_version_read(db, path, &version, err);
    if (result)
        return result;
    static const char *const selects[] = {
        "SELECT " META_COLUMNS ", 0, 0, 0, 0 FROM meta WHERE id = 1",
        "SELECT " META_COLUMNS SOURCE_COLUMNS ", 0 FROM meta WHERE id = 1",
        "SELECT " META_COLUMNS SOURCE_COLUMNS INBOX_COLUMNS " FROM meta WHERE id = 1",
    };
    int rc = sqlite3_prepare_v2(
        db, selects[(version >= SOURCE_VERSION) + (version >= INBOX_VERSION)], -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW && meta_decode(st, &m))
        *ret = m;
    else if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        result = error_set(err, STATUS_CORRUPT, "\"%s\" has no usable row in its table meta", path);
    else
        result = store_db_error(db, path, "read", err);
    sqlite3_finalize(st);
    return result;
}

static enum status insert_meta(struct store *s, const struct store_meta *m, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(
        s->db, "INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        -1, &st, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(st, 1, m->worker);
        sqlite3_bind_int64(st, 2, m->workers);
        store_bind_text(st, 3, str_from(m->identity.pipeline));
        store_bind_text(st, 4, str_from(m->identity.system_identifier));
        store_bind_text(st, 5, str_from(m->identity.slot));
        store_bind_u64(st, 6, m->identity.slot_birth);
        sqlite3_bind_int64(st, 7, m->identity.partitions);
        store_bind_u64(st, 8, m->epoch);
        store_bind_u64(st, 9, m->covered);
        sqlite3_bind_int64(st, 10, m->as_of_us);
        store_bind_u64(st, 11, m->jseq);
        store_bind_u64(st, 12, m->folded);
        store_bind_u64(st, 13, m->next_key_id);
        sqlite3_bind_int64(st, 14, m->identity.timeline);
        sqlite3_bind_int64(st, 15, m->identity.loading);
        sqlite3_bind_int64(st, 16, m->identity.since_us);
        store_bind_u64(st, 17, m->covered_inbox);
        rc = sqlite3_step(st);
    }
    enum status result = rc == SQLITE_DONE ? STATUS_OK : store_error(s, "create", err);
    sqlite3_finalize(st);
    return result;
}

/* Files of the first format hold records that say less than those of today. */
static enum status check_records(struct store *s, int version, struct error *err)
{
    int64_t found = 0;
    enum status st = STATUS_OK;
    if (version == 1)
        st = query_int(s->db, s->path,
                       "SELECT EXISTS (SELECT 1 FROM page) OR EXISTS (SELECT 1 FROM journal)",
                       &found, err);
    if (found)
        st = error_set(
            err, STATUS_REFUSED,
            "\"%s\" was written by an earlier version, and its records lack what this one "
            "needs: go on with that version, or begin anew with an empty state directory "
            "and a new slot",
            s->path);
    return st;
}

static enum status migrate(struct store *s, const struct store_meta *create, struct error *err)
{
    int version = 0;
    enum status st = store_version_read(s->db, s->path, &version, err);
    if (!st)
        st = check_records(s, version, err);
    if (st)
        return st;
    if ((version == 0) != (create != NULL))
        return error_set(err, STATUS_CORRUPT,
                         version ? "\"%s\" already holds state" : "\"%s\" holds no state", s->path);
    for (int i = version; i < n_store_migrations; i++) {
        char sql[40];
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", i + 1);
        st = run_script(s->db, s->path, store_migrations[i].text, "migrate", err);
        if (!st)
            st = run_script(s->db, s->path, sql, "migrate", err);
        if (st)
            return st;
    }
    return create ? insert_meta(s, create, err) : STATUS_OK;
}

/* The body of the take-over transaction; *ret_clean tells how the last holder left. */
static enum status take_over(struct store *s, const struct store_meta *create, uint64_t epoch,
                             bool *ret_clean, struct error *err)
{
    enum status st = migrate(s, create, err);
    if (!st)
        st = store_meta_read(s->db, s->path, &s->meta, err);
    if (st)
        return st;
    if (epoch != STORE_EPOCH_KEEP && s->meta.epoch > epoch)
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" belongs to a newer instance (epoch %llu, ours is %llu)", s->path,
                         (unsigned long long)s->meta.epoch, (unsigned long long)epoch);
    *ret_clean = s->meta.clean;
    if (epoch != STORE_EPOCH_KEEP)
        s->meta.epoch = epoch;
    s->meta.clean = false;
    char sql[96];
    snprintf(sql, sizeof(sql), "UPDATE meta SET epoch = %lld, clean = 0 WHERE id = 1",
             (long long)s->meta.epoch);
    return run_script(s->db, s->path, sql, "take over", err);
}

/* After a crash: is the file whole? */
static enum status check_unclean(struct store *s, struct error *err)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    enum status result = STATUS_OK;
    if (rc != SQLITE_ROW) {
        result = store_error(s, "check", err);
    } else {
        struct str text = store_column_str(st, 0);
        if (!str_equal(text, STR("ok")))
            result = error_set(err, STATUS_CORRUPT, "\"%s\" is damaged: " STR_FMT, s->path,
                               STR_ARGS(text));
    }
    sqlite3_finalize(st);
    return result;
}

/*
 * Writes the WAL over itself and syncs it, with the write lock held. If the last process ended
 * because an fsync failed, what SQLite has just recovered may be in the kernel's cache alone,
 * marked as written: no later fsync would bring it to the disk, and a power cut would take commits
 * that this process is about to build upon. Writing makes the pages dirty again.
 */
static enum status rewrite_wal(struct store *s, struct error *err)
{
    char bytes[16384];
    sqlite3_file *wal = NULL;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
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
        return error_set(err, STATUS_IO, "could not rewrite \"%s-wal\": %s", s->path,
                         sqlite3_errstr(rc));
    return STATUS_OK;
}

static enum status load_applied(struct store *s, struct error *err)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(s->db, "SELECT source, partition, lsn, seq, pseq FROM applied", -1, &st,
                           NULL) != SQLITE_OK)
        return store_error(s, "read", err);
    enum status result = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!result && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        uint64_t source = store_column_u64(st, 0);
        uint64_t partition = store_column_u64(st, 1);
        if (source < SOURCE_COUNT && partition < LIMIT_PARTITIONS)
            s->applied[source][partition] = (struct store_applied){
                {store_column_u64(st, 2), store_column_u64(st, 3)}, store_column_u64(st, 4)};
        else
            result = error_set(err, STATUS_CORRUPT, "\"%s\" has an impossible row in table applied",
                               s->path);
    }
    if (!result && rc != SQLITE_DONE)
        result = store_error(s, "read", err);
    sqlite3_finalize(st);
    return result;
}

static enum status load(struct store *s, struct error *err)
{
    char sql[128];
    snprintf(sql, sizeof(sql), "SELECT coalesce(sum(bytes), 0) FROM journal WHERE last_jseq > %lld",
             (long long)s->meta.folded);
    int64_t bytes = 0;
    int64_t letters = 0;
    int64_t last_key = 0;
    enum status st = query_int(s->db, s->path, sql, &bytes, err);
    if (!st)
        st = query_int(s->db, s->path, "SELECT count(*) FROM dead_letter", &letters, err);
    if (!st)
        st = query_int(s->db, s->path, "SELECT coalesce(max(key_id), 0) FROM page", &last_key, err);
    if (!st)
        st = load_applied(s, err);
    if (st)
        return st;
    if (s->meta.next_key_id <= (uint64_t)last_key)
        return error_set(err, STATUS_CORRUPT,
                         "\"%s\" has key id %lld, but the next one to give is %llu", s->path,
                         (long long)last_key, (unsigned long long)s->meta.next_key_id);
    s->journal_bytes = (uint64_t)bytes;
    s->dead_letters = (uint64_t)letters;
    return STATUS_OK;
}

static enum status prepare_all(struct store *s, struct error *err)
{
    for (size_t i = 0; i < SQL_COUNT; i++)
        if (sqlite3_prepare_v3(s->db, store_sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->sql[i],
                               NULL) != SQLITE_OK)
            return store_error(s, "prepare statements for", err);
    return STATUS_OK;
}

static int note_wal_size(void *ctx, sqlite3 *db, const char *schema, int pages)
{
    (void)db;
    (void)schema;
    struct store *s = ctx;
    s->wal_pages = pages;
    return SQLITE_OK;
}

static enum status connect(struct store *s, bool create, struct error *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
    if (sqlite3_open_v2(s->path, &s->db, flags, NULL) != SQLITE_OK)
        return store_db_error(s->db, s->path, "open", err);
    sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MS);
    enum status st = run_script(s->db, s->path, setup_sql, "open", err);
    sqlite3_wal_hook(s->db, note_wal_size, s);
    return st;
}

enum status store_file_open(const char *path, const struct store_meta *create, uint64_t epoch,
                            struct store **ret, struct error *err)
{
    assert(epoch <= INT64_MAX || epoch == STORE_EPOCH_KEEP);
    CLEANUP(store_closep) struct store *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate a store");
    /* Until everything is read, closing must leave the file as it is, not mark it clean. */
    s->broken = STATUS_IO;
    s->durable = strcmp(path, ":memory:") != 0;
    buf_init(&s->page, SIZE_MAX);
    s->path = strdup(path);
    if (!s->path)
        return error_set(err, STATUS_NOMEM, "could not allocate a store");

    enum status st = connect(s, create != NULL, err);
    if (!st)
        st = run_script(s->db, s->path, "BEGIN IMMEDIATE", "lock", err);
    if (st)
        return st;
    bool clean = false;
    st = rewrite_wal(s, err);
    if (!st)
        st = take_over(s, create, epoch, &clean, err);
    if (!st)
        st = run_script(s->db, s->path, "COMMIT", "take over", err);
    if (!st && !clean)
        st = check_unclean(s, err);
    if (!st)
        st = prepare_all(s, err);
    if (!st)
        st = load(s, err);
    if (!st)
        st = store_day_load(s, err);
    if (st)
        return st;
    s->broken = STATUS_OK;
    *ret = TAKE(s);
    return STATUS_OK;
}
