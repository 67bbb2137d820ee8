/*
 * Other connections to the file: of inbox_read(), of one cursor, of another process that appends.
 *
 * What is read is copied before it is handed on: whoever takes it may have to wait, and while a
 * statement is open SQLite cannot begin its WAL anew.
 */
#include "state/inbox_internal.h"

#include <string.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 10000
#define READ_BYTES      (4u << 20) /* copied at once, unless one row alone is larger */

struct inbox_reader {
    sqlite3 *db;
    char *path;
    sqlite3_stmt *rows;
    struct buf copy; /* of each row: its struct inbox_row, source and events */
};
CLEANUP_FREEP(struct inbox_reader, inbox_reader_close);

static enum status connect(const char *path, sqlite3 **ret, struct error *err)
{
    if (sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return db_error(*ret, path, "open", err);
    sqlite3_busy_timeout(*ret, BUSY_TIMEOUT_MS);
    return db_exec(*ret, path,
                   "PRAGMA query_only=1; PRAGMA mmap_size=0; PRAGMA cell_size_check=ON;"
                   "PRAGMA trusted_schema=OFF;",
                   "open", err);
}

static enum status prepare(sqlite3 *db, const char *path, const char *sql, sqlite3_stmt **ret,
                           struct error *err)
{
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL) != SQLITE_OK)
        return db_error(db, path, "prepare statements for", err);
    return STATUS_OK;
}

enum status inbox_reader_open(const char *path, struct inbox_reader **ret, struct error *err)
{
    CLEANUP(inbox_reader_closep) struct inbox_reader *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate a reader of the inbox");
    buf_init(&r->copy, SIZE_MAX);
    r->path = strdup(path);
    if (!r->path)
        return error_set(err, STATUS_NOMEM, "could not allocate a reader of the inbox");
    enum status st = connect(path, &r->db, err);
    if (!st)
        st = prepare(r->db, path,
                     "SELECT id, received_us, n_events, hash, source, events FROM delivery"
                     " WHERE id > ?1 ORDER BY id",
                     &r->rows, err);
    if (st)
        return st;
    *ret = TAKE(r);
    return STATUS_OK;
}

void inbox_reader_close(struct inbox_reader *r)
{
    if (!r)
        return;
    sqlite3_finalize(r->rows);
    sqlite3_close(r->db);
    buf_deinit(&r->copy);
    free(r->path);
    free(r);
}

/* Appends the statement's row to the copy. */
static enum status copy_row(struct inbox_reader *r, uint64_t *after, const _Atomic uint64_t *trim,
                            struct error *err)
{
    struct inbox_row row = {
        .id = db_column_u64(r->rows, 0),
        .source = db_column_str(r->rows, 4),
        .received_us = sqlite3_column_int64(r->rows, 1),
        .events = db_column_str(r->rows, 5),
        .n_events = (uint32_t)sqlite3_column_int64(r->rows, 2),
    };
    if (row.id != *after + 1 && row.id > atomic_load(trim) + 1)
        return error_set(err, STATUS_CORRUPT, "\"%s\": row %llu is missing, the next one is %llu",
                         r->path, (unsigned long long)*after + 1, (unsigned long long)row.id);
    if (inbox_row_hash(&row) != db_column_u64(r->rows, 3))
        return error_set(err, STATUS_CORRUPT, "\"%s\": row %llu fails its checksum", r->path,
                         (unsigned long long)row.id);
    *after = row.id;
    enum status st = buf_append(&r->copy, &row, sizeof(row));
    if (!st)
        st = buf_append_str(&r->copy, row.source);
    if (!st)
        st = buf_append_str(&r->copy, row.events);
    return st ? error_set(err, st, "could not copy row %llu of \"%s\"", (unsigned long long)row.id,
                          r->path)
              : STATUS_OK;
}

static enum status copy_rows(struct inbox_reader *r, uint64_t after, const _Atomic uint64_t *trim,
                             uint32_t max, struct error *err)
{
    buf_reset(&r->copy);
    db_bind_u64(r->rows, 1, after);
    enum status st = STATUS_OK;
    for (uint32_t n = 0; !st && n < max && r->copy.len < READ_BYTES; n++) {
        int rc = sqlite3_step(r->rows);
        if (rc == SQLITE_DONE)
            break;
        st = rc == SQLITE_ROW ? copy_row(r, &after, trim, err)
                              : db_error(r->db, r->path, "read", err);
    }
    sqlite3_reset(r->rows);
    return st;
}

enum status inbox_reader_read(struct inbox_reader *r, uint64_t after, const _Atomic uint64_t *trim,
                              uint32_t max,
                              enum status (*fn)(void *ctx, const struct inbox_row *row,
                                                struct error *err),
                              void *ctx, struct error *err)
{
    enum status st = copy_rows(r, after, trim, max, err);
    if (!st && r->copy.len == 0 && atomic_load(trim) > after)
        return STATUS_END; /* trimmed meanwhile */
    if (!st && r->copy.len == 0 && max > 0)
        st = error_set(err, STATUS_CORRUPT, "\"%s\": row %llu and all behind it are missing",
                       r->path, (unsigned long long)after + 1);
    struct reader at = reader_of(r->copy.data, r->copy.len);
    while (!st && reader_left(&at)) {
        struct inbox_row row;
        memcpy(&row, reader_bytes(&at, sizeof(row)).ptr, sizeof(row));
        row.source = reader_bytes(&at, row.source.len);
        row.events = reader_bytes(&at, row.events.len);
        st = fn(ctx, &row, err);
    }
    return st;
}

enum status inbox_file_cursor(const char *path, struct str source, struct buf *out,
                              struct error *err)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    enum status st = connect(path, &db, err);
    if (!st)
        st = prepare(db, path, "SELECT value FROM cursor WHERE source = ?1", &q, err);
    if (!st) {
        db_bind_text(q, 1, source);
        int rc = sqlite3_step(q);
        st = rc == SQLITE_ROW    ? buf_append_str(out, db_column_str(q, 0))
             : rc == SQLITE_DONE ? STATUS_END
                                 : db_error(db, path, "read", err);
        if (st == STATUS_LIMIT || st == STATUS_NOMEM)
            error_set(err, st, "could not copy the cursor of " STR_FMT, STR_ARGS(source));
    }
    sqlite3_finalize(q);
    sqlite3_close(db);
    return st;
}

enum status inbox_append(const char *dir, const struct inbox_delivery *d, struct error *err)
{
    struct inbox_file f;
    enum status st = inbox_file_join(dir, &f, err);
    if (st)
        return st;
    struct inbox_item *item = inbox_item_new(d);
    if (item) {
        struct inbox_chores none = {.now_us = d->received_us};
        bool again = false;
        st = inbox_file_commit(&f, item, &none, &again, err);
    } else {
        st = error_set(err, STATUS_NOMEM, "could not allocate a delivery");
    }
    free(item);
    inbox_file_close(&f, !st);
    return st;
}
