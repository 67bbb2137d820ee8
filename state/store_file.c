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
                                "PRAGMA secure_delete=ON;" /* what is forgotten leaves the file */
                                "PRAGMA trusted_schema=OFF;";

enum status store_version_read(sqlite3 *db, const char *path, int *ret_version, struct error *err)
{
    return db_version(db, path, n_store_migrations, ret_version, err);
}

static bool copy_text(char *out, size_t size, sqlite3_stmt *st, int i)
{
    struct str text = db_column_str(st, i);
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
                     .slot_birth = db_column_u64(st, 6),
                     .timeline = (uint32_t)sqlite3_column_int64(st, 14),
                     .loading = sqlite3_column_int64(st, 15) != 0,
                     .since_us = sqlite3_column_int64(st, 16)},
        .epoch = db_column_u64(st, 7),
        .clean = sqlite3_column_int(st, 8) == 1,
        .covered = db_column_u64(st, 9),
        .as_of_us = sqlite3_column_int64(st, 10),
        .jseq = db_column_u64(st, 11),
        .folded = db_column_u64(st, 12),
        .next_key_id = db_column_u64(st, 13),
        .covered_inbox = db_column_u64(st, 17),
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
        result = db_error(db, path, "read", err);
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
        db_bind_text(st, 3, str_from(m->identity.pipeline));
        db_bind_text(st, 4, str_from(m->identity.system_identifier));
        db_bind_text(st, 5, str_from(m->identity.slot));
        db_bind_u64(st, 6, m->identity.slot_birth);
        sqlite3_bind_int64(st, 7, m->identity.partitions);
        db_bind_u64(st, 8, m->epoch);
        db_bind_u64(st, 9, m->covered);
        sqlite3_bind_int64(st, 10, m->as_of_us);
        db_bind_u64(st, 11, m->jseq);
        db_bind_u64(st, 12, m->folded);
        db_bind_u64(st, 13, m->next_key_id);
        sqlite3_bind_int64(st, 14, m->identity.timeline);
        sqlite3_bind_int64(st, 15, m->identity.loading);
        sqlite3_bind_int64(st, 16, m->identity.since_us);
        db_bind_u64(st, 17, m->covered_inbox);
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
        st = db_int(s->db, s->path,
                    "SELECT EXISTS (SELECT 1 FROM page) OR EXISTS (SELECT 1 FROM journal)", &found,
                    err);
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
        st = db_exec(s->db, s->path, store_migrations[i].text, "migrate", err);
        if (!st)
            st = db_exec(s->db, s->path, sql, "migrate", err);
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
    return db_exec(s->db, s->path, sql, "take over", err);
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
        struct str text = db_column_str(st, 0);
        if (!str_equal(text, STR("ok")))
            result = error_set(err, STATUS_CORRUPT, "\"%s\" is damaged: " STR_FMT, s->path,
                               STR_ARGS(text));
    }
    sqlite3_finalize(st);
    return result;
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
        uint64_t source = db_column_u64(st, 0);
        uint64_t partition = db_column_u64(st, 1);
        if (source < SOURCE_COUNT && partition < LIMIT_PARTITIONS)
            s->applied[source][partition] = (struct store_applied){
                {db_column_u64(st, 2), db_column_u64(st, 3)}, db_column_u64(st, 4)};
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
    int64_t last_key = 0;
    enum status st = db_int(s->db, s->path, sql, &bytes, err);
    if (!st)
        st = db_int(s->db, s->path, "SELECT coalesce(max(key_id), 0) FROM page", &last_key, err);
    if (!st)
        st = load_applied(s, err);
    if (st)
        return st;
    if (s->meta.next_key_id <= (uint64_t)last_key)
        return error_set(err, STATUS_CORRUPT,
                         "\"%s\" has key id %lld, but the next one to give is %llu", s->path,
                         (long long)last_key, (unsigned long long)s->meta.next_key_id);
    s->journal_bytes = (uint64_t)bytes;
    return store_letters_count(s, err);
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
        return db_error(s->db, s->path, "open", err);
    sqlite3_busy_timeout(s->db, STORE_BUSY_TIMEOUT_MS);
    enum status st = db_exec(s->db, s->path, setup_sql, "open", err);
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
        st = db_exec(s->db, s->path, "BEGIN IMMEDIATE", "lock", err);
    if (st)
        return st;
    bool clean = false;
    st = db_rewrite_wal(s->db, s->path, err);
    if (!st)
        st = take_over(s, create, epoch, &clean, err);
    if (!st)
        st = db_exec(s->db, s->path, "COMMIT", "take over", err);
    if (!st && !clean)
        st = check_unclean(s, err);
    if (!st)
        st = prepare_all(s, err);
    if (!st)
        st = load(s, err);
    if (!st)
        st = store_day_load(s, err);
    if (!st)
        st = store_erasure_key_load(s, err);
    if (st)
        return st;
    s->broken = STATUS_OK;
    *ret = TAKE(s);
    return STATUS_OK;
}
