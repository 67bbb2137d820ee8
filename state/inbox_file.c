/*
 * The file, through the one connection that writes. A commit reads the row of meta, adds the
 * deliveries, does a slice of what is to be deleted, and writes meta again: so another process may
 * append in between, and a crash leaves all of a transaction or nothing.
 * Deleting never takes a commit of its own while deliveries come, and never more than a slice.
 */
#include "state/inbox_internal.h"

#include "state/embedded.h"
#include "state/fault.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 10000
#define TRIM_ROWS       2000
#define TRIM_BYTES      (8u << 20)
/* Often enough for the WAL to stay small, seldom enough to write hot pages once: 8 MB. */
#define CHECKPOINT_PAGES 2048

extern const struct embedded_file inbox_migrations[];
extern const int n_inbox_migrations;

/* As for the store (store_file.c); ids are looked up all over their table, so its cache is larger.
 */
static const char setup_sql[] = "PRAGMA page_size=4096;"
                                "PRAGMA journal_mode=WAL;"
                                "PRAGMA synchronous=FULL;"
                                "PRAGMA mmap_size=0;"
                                "PRAGMA cache_size=-32768;"
                                "PRAGMA temp_store=MEMORY;"
                                "PRAGMA wal_autocheckpoint=0;"
                                "PRAGMA journal_size_limit=33554432;"
                                "PRAGMA cell_size_check=ON;"
                                "PRAGMA secure_delete=ON;" /* what is forgotten leaves the file */
                                "PRAGMA trusted_schema=OFF;";

static const char *const statements[INBOX_STATEMENTS] = {
    [INBOX_BEGIN] = "BEGIN IMMEDIATE",
    [INBOX_COMMIT] = "COMMIT",
    [INBOX_ROLLBACK] = "ROLLBACK",
    [INBOX_READ_META] = "SELECT newest, trimmed, bytes, ids, fresh, key FROM meta WHERE id = 1",
    [INBOX_WRITE_META] = "UPDATE meta SET newest = ?1, trimmed = ?2, bytes = ?3, ids = ?4,"
                         " fresh = ?5 WHERE id = 1",
    [INBOX_INSERT] = "INSERT INTO delivery (id, received_us, n_events, hash, source, events)"
                     " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [INBOX_ROW_SIZES] = "SELECT id, length(events) FROM delivery WHERE id <= ?1 ORDER BY id",
    [INBOX_DELETE] = "DELETE FROM delivery WHERE id <= ?1",
    [INBOX_SEE_NEW] = "INSERT INTO seen (digest, seen_us) VALUES (?1, ?2)"
                      " ON CONFLICT (digest) DO NOTHING",
    [INBOX_SEEN] = "SELECT seen_us FROM seen WHERE digest = ?1",
    [INBOX_SEE_AGAIN] = "UPDATE seen SET seen_us = max(seen_us, ?2) WHERE digest = ?1",
    [INBOX_FRESH] = "SELECT row, seen_us, digests FROM fresh WHERE row > ?1 ORDER BY row",
    [INBOX_INSERT_FRESH] = "INSERT INTO fresh (row, seen_us, digests) VALUES (?1, ?2, ?3)",
    [INBOX_DROP_FRESH] = "DELETE FROM fresh WHERE row <= ?1",
    [INBOX_NEXT_IDS] = "SELECT digest, seen_us FROM seen WHERE digest > ?1 ORDER BY digest",
    [INBOX_FORGET] = "DELETE FROM seen WHERE digest = ?1",
    [INBOX_PUT_CURSOR] = "INSERT INTO cursor (source, value) VALUES (?1, ?2)"
                         " ON CONFLICT (source) DO UPDATE SET value = ?2",
    [INBOX_DATA_VERSION] = "PRAGMA data_version",
};

static enum status run(struct inbox_file *f, enum inbox_statement which, const char *what,
                       struct error *err)
{
    return db_run(f->db, f->path, f->sql[which], what, err);
}

uint64_t inbox_row_hash(const struct inbox_row *row)
{
    uint64_t source = db_checksum(row->id, row->n_events, row->source);
    return db_checksum(source, (uint64_t)row->received_us, row->events);
}

/* ---- opening ---- */

static enum status read_meta(struct inbox_file *f, struct inbox_meta *ret, struct error *err)
{
    sqlite3_stmt *q = f->sql[INBOX_READ_META];
    int rc = sqlite3_step(q);
    enum status st = STATUS_OK;
    struct str key = rc == SQLITE_ROW ? db_column_str(q, 5) : STR_NULL;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        st = db_error(f->db, f->path, "read", err);
    else if (key.len != INBOX_KEY_SIZE || db_column_u64(q, 1) > db_column_u64(q, 0))
        st = error_set(err, STATUS_CORRUPT, "\"%s\" has no usable row in its table meta", f->path);
    if (!st && key.ptr) {
        *ret = (struct inbox_meta){db_column_u64(q, 0), db_column_u64(q, 1), db_column_u64(q, 2),
                                   db_column_u64(q, 3), db_column_u64(q, 4)};
        memcpy(f->key, key.ptr, INBOX_KEY_SIZE);
    }
    sqlite3_reset(q);
    return st;
}

static enum status write_meta(struct inbox_file *f, const struct inbox_meta *m, struct error *err)
{
    sqlite3_stmt *q = f->sql[INBOX_WRITE_META];
    db_bind_u64(q, 1, m->newest);
    db_bind_u64(q, 2, m->trimmed);
    db_bind_u64(q, 3, m->bytes);
    db_bind_u64(q, 4, m->ids);
    db_bind_u64(q, 5, m->fresh);
    return run(f, INBOX_WRITE_META, "write to", err);
}

static enum status migrate(struct inbox_file *f, struct error *err)
{
    int version = 0;
    enum status st = db_version(f->db, f->path, n_inbox_migrations, &version, err);
    for (int i = version; !st && i < n_inbox_migrations; i++) {
        char sql[40];
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", i + 1);
        st = db_exec(f->db, f->path, inbox_migrations[i].text, "migrate", err);
        if (!st)
            st = db_exec(f->db, f->path, sql, "migrate", err);
    }
    return st;
}

/* Rows from the oldest that is needed to the newest: are both ends there? */
static enum status check_rows(struct inbox_file *f, struct error *err)
{
    int64_t oldest = 0;
    int64_t newest = 0;
    enum status st =
        db_int(f->db, f->path, "SELECT coalesce(min(id), 0) FROM delivery", &oldest, err);
    if (!st)
        st = db_int(f->db, f->path, "SELECT coalesce(max(id), 0) FROM delivery", &newest, err);
    const struct inbox_meta *m = &f->meta;
    bool empty = m->trimmed == m->newest;
    if (!st && ((uint64_t)oldest != (empty ? 0 : m->trimmed + 1) ||
                (uint64_t)newest != (empty ? 0 : m->newest)))
        st = error_set(err, STATUS_CORRUPT,
                       "\"%s\" holds the rows %lld to %lld, but should hold %llu to %llu", f->path,
                       (long long)oldest, (long long)newest, (unsigned long long)m->trimmed + 1,
                       (unsigned long long)m->newest);
    return st;
}

/* The file is a new one, or an older copy: what it holds has been applied, and ids that have been
 * given are not given again. */
static enum status go_on_from(struct inbox_file *f, uint64_t applied, struct error *err)
{
    if (f->meta.newest >= applied)
        return STATUS_OK;
    f->meta.newest = f->meta.trimmed = applied;
    f->meta.bytes = 0;
    enum status st = db_exec(f->db, f->path, "DELETE FROM delivery", "write to", err);
    return st ? st : write_meta(f, &f->meta, err);
}

static int note_wal_size(void *ctx, sqlite3 *db, const char *schema, int pages)
{
    (void)db;
    (void)schema;
    struct inbox_file *f = ctx;
    f->wal_pages = pages;
    return SQLITE_OK;
}

/* An empty file of our own mode: SQLite gives its other files the same. One that exists is left
 * alone: closing a descriptor of it would drop the locks that SQLite holds in this process. */
static enum status create_file(const char *dir, const char *path, struct error *err)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return error_set(err, STATUS_IO, "could not create \"%s\": %s", dir, strerror(errno));
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno != EEXIST)
        return error_set(err, STATUS_IO, "could not create \"%s\": %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return STATUS_OK;
}

static enum status connect(struct inbox_file *f, struct error *err)
{
    if (sqlite3_open_v2(f->path, &f->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return db_error(f->db, f->path, "open", err);
    sqlite3_busy_timeout(f->db, BUSY_TIMEOUT_MS);
    enum status st = db_exec(f->db, f->path, setup_sql, "open", err);
    sqlite3_wal_hook(f->db, note_wal_size, f);
    return st;
}

static enum status prepare(struct inbox_file *f, struct error *err)
{
    for (size_t i = 0; i < INBOX_STATEMENTS; i++)
        if (sqlite3_prepare_v3(f->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &f->sql[i],
                               NULL) != SQLITE_OK)
            return db_error(f->db, f->path, "prepare statements for", err);
    return STATUS_OK;
}

/* Inside the transaction that takes the file over. */
static enum status take_over(struct inbox_file *f, uint64_t applied, struct error *err)
{
    enum status st = db_rewrite_wal(f->db, f->path, err);
    if (!st)
        st = migrate(f, err);
    if (!st)
        st = prepare(f, err);
    if (!st)
        st = read_meta(f, &f->meta, err);
    if (!st)
        st = inbox_ids_load(f, &f->meta, err);
    if (!st)
        st = check_rows(f, err);
    return st ? st : go_on_from(f, applied, err);
}

static enum status open_owned(const char *dir, uint64_t applied, struct inbox_file *f,
                              struct error *err)
{
    enum status st = create_file(dir, f->path, err);
    if (!st)
        st = connect(f, err);
    if (!st)
        st = db_exec(f->db, f->path, "BEGIN IMMEDIATE", "lock", err);
    if (!st)
        st = take_over(f, applied, err);
    return st ? st : db_exec(f->db, f->path, "COMMIT", "take over", err);
}

static enum status advise(enum status st, const char *path, struct error *err)
{
    if (st != STATUS_CORRUPT || !err)
        return st;
    struct error cause = *err;
    return error_set(err, st,
                     "%.500s; restore \"%s\" from a copy, or move it away and start again: then "
                     "deliveries that were not applied yet are lost, and repeated ones are counted "
                     "again",
                     cause.text, path);
}

static enum status path_of(const char *dir, struct inbox_file *f, struct error *err)
{
    size_t size = strlen(dir) + sizeof("/" INBOX_FILE);
    f->path = malloc(size);
    if (!f->path)
        return error_set(err, STATUS_NOMEM, "could not allocate an inbox");
    snprintf(f->path, size, "%s/" INBOX_FILE, dir);
    inbox_ids_init(&f->ids);
    return STATUS_OK;
}

enum status inbox_file_open(const struct inbox_config *cfg, struct inbox_file *f, struct error *err)
{
    *f = (struct inbox_file){.keep_ids_us = cfg->keep_ids_us};
    enum status st = path_of(cfg->dir, f, err);
    if (st)
        return st;
    st = open_owned(cfg->dir, cfg->applied, f, err);
    if (st) {
        st = advise(st, f->path, err);
        inbox_file_close(f, false);
    }
    return st;
}

enum status inbox_file_join(const char *dir, struct inbox_file *f, struct error *err)
{
    *f = (struct inbox_file){.keep_ids_us = INT64_MAX};
    enum status st = path_of(dir, f, err);
    if (!st && access(f->path, F_OK) != 0)
        st = error_set(err, STATUS_END, "there is no inbox \"%s\"", f->path);
    if (!st)
        st = connect(f, err);
    int version = 0;
    if (!st)
        st = db_version(f->db, f->path, n_inbox_migrations, &version, err);
    if (!st && version != n_inbox_migrations)
        st = error_set(err, version ? STATUS_REFUSED : STATUS_END,
                       "\"%s\" has format %d, this version writes %d: it is brought up to date "
                       "when `warmpath run` starts",
                       f->path, version, n_inbox_migrations);
    if (!st)
        st = prepare(f, err);
    if (st)
        inbox_file_close(f, false);
    return st;
}

void inbox_file_close(struct inbox_file *f, bool whole)
{
    for (size_t i = 0; i < INBOX_STATEMENTS; i++)
        sqlite3_finalize(f->sql[i]);
    /* After a failure nothing more is touched: recovery at the next open decides. */
    if (f->db && !whole)
        sqlite3_db_config(f->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(f->db);
    inbox_ids_deinit(&f->ids);
    free(f->path);
    *f = (struct inbox_file){0};
}

enum status inbox_file_follow(struct inbox_file *f, struct error *err)
{
    sqlite3_stmt *q = f->sql[INBOX_DATA_VERSION];
    enum status st = STATUS_OK;
    int version = 0;
    if (sqlite3_step(q) == SQLITE_ROW)
        version = sqlite3_column_int(q, 0);
    else
        st = db_error(f->db, f->path, "read", err);
    sqlite3_reset(q);
    if (st || version == f->data_version)
        return st;
    st = read_meta(f, &f->meta, err);
    if (!st)
        f->data_version = version;
    return st;
}

/* ---- one delivery ---- */

static enum status put_row(struct inbox_file *f, struct inbox_meta *m, struct inbox_row *row,
                           struct error *err)
{
    row->id = m->newest + 1;
    sqlite3_stmt *q = f->sql[INBOX_INSERT];
    db_bind_u64(q, 1, row->id);
    sqlite3_bind_int64(q, 2, row->received_us);
    sqlite3_bind_int64(q, 3, row->n_events);
    db_bind_u64(q, 4, inbox_row_hash(row));
    db_bind_text(q, 5, row->source);
    db_bind_blob(q, 6, row->events);
    enum status st = run(f, INBOX_INSERT, "write a delivery to", err);
    if (!st) {
        m->newest = row->id;
        m->bytes += row->events.len;
    }
    return st;
}

/* Rows of at most INBOX_ROW_BYTES each, cut between events; one event may be larger. */
static enum status put_rows(struct inbox_file *f, struct inbox_meta *m,
                            const struct inbox_delivery *d, struct error *err)
{
    struct inbox_row row = {.source = d->source, .received_us = d->received_us};
    if (d->events.len <= INBOX_ROW_BYTES) {
        row.events = d->events;
        row.n_events = d->n_events;
        return d->n_events ? put_row(f, m, &row, err) : STATUS_OK;
    }
    enum status st = STATUS_OK;
    struct reader r = reader_of(d->events.ptr, d->events.len);
    const char *from = d->events.ptr;
    const char *at = from;
    for (uint32_t i = 0; !st && i < d->n_events; i++) {
        reader_blob(&r);
        const char *end = (const char *)r.at;
        if (row.n_events > 0 && (size_t)(end - from) > INBOX_ROW_BYTES) {
            row.events = (struct str){from, (size_t)(at - from)};
            st = put_row(f, m, &row, err);
            row.n_events = 0;
            from = at;
        }
        row.n_events++;
        at = end;
    }
    row.events = (struct str){from, (size_t)(at - from)};
    return st ? st : put_row(f, m, &row, err);
}

static enum status put_cursor(struct inbox_file *f, const struct inbox_delivery *d,
                              struct error *err)
{
    if (!d->cursor.ptr)
        return STATUS_OK;
    sqlite3_stmt *q = f->sql[INBOX_PUT_CURSOR];
    db_bind_text(q, 1, d->source);
    db_bind_blob(q, 2, d->cursor);
    return run(f, INBOX_PUT_CURSOR, "write a cursor to", err);
}

static enum status put(struct inbox_file *f, struct inbox_meta *m, struct inbox_item *item,
                       int64_t now_us, struct error *err)
{
    bool known = false;
    enum status st = put_cursor(f, &item->d, err);
    if (!st && item->dedupe.len > 0)
        st = inbox_ids_see(f, item->dedupe, now_us, &known, err);
    item->outcome = known ? INBOX_DUPLICATE : INBOX_STORED;
    return st || known ? st : put_rows(f, m, &item->d, err);
}

/* ---- chores ---- */

static enum status trim(struct inbox_file *f, struct inbox_meta *m, uint64_t upto,
                        struct error *err)
{
    upto = upto < m->newest ? upto : m->newest;
    if (upto <= m->trimmed)
        return STATUS_OK;
    sqlite3_stmt *q = f->sql[INBOX_ROW_SIZES];
    db_bind_u64(q, 1, upto);
    uint64_t last = m->trimmed;
    uint64_t bytes = 0;
    int rc = SQLITE_ROW;
    for (uint32_t n = 0; n < TRIM_ROWS && bytes < TRIM_BYTES; n++) {
        rc = sqlite3_step(q);
        if (rc != SQLITE_ROW)
            break;
        last = db_column_u64(q, 0);
        bytes += db_column_u64(q, 1);
    }
    enum status st = STATUS_OK;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        st = db_error(f->db, f->path, "read", err);
    else if (bytes > m->bytes)
        st = error_set(err, STATUS_CORRUPT, "\"%s\" holds more bytes than it counted", f->path);
    sqlite3_reset(q);
    if (st)
        return st;
    m->trimmed = last;
    m->bytes -= bytes;
    db_bind_u64(f->sql[INBOX_DELETE], 1, last);
    return run(f, INBOX_DELETE, "trim", err);
}

/* ---- the transaction ---- */

static enum status write_all(struct inbox_file *f, struct inbox_item *items,
                             const struct inbox_chores *c, struct inbox_meta *m, struct error *err)
{
    enum status st = read_meta(f, m, err);
    if (!st)
        st = inbox_ids_load(f, m, err);
    for (struct inbox_item *i = items; !st && i; i = i->next)
        st = put(f, m, i, c->now_us, err);
    if (!st)
        st = inbox_ids_write(f, m, c->now_us, err);
    if (!st)
        st = trim(f, m, c->trim, err);
    if (!st && c->forget_ids)
        st = inbox_ids_forget(f, m, c->now_us, err);
    if (!st)
        st = write_meta(f, m, err);
    if (!st && FAULT_POINT("inbox_before_commit"))
        st = error_set(err, STATUS_IO, "could not commit to \"%s\": injected fault", f->path);
    return st;
}

enum status inbox_file_commit(struct inbox_file *f, struct inbox_item *items,
                              const struct inbox_chores *chores, bool *ret_again, struct error *err)
{
    *ret_again = false;
    enum status st = run(f, INBOX_BEGIN, "lock", err);
    if (st) {
        *ret_again = (sqlite3_errcode(f->db) & 0xFF) == SQLITE_BUSY;
        return st;
    }
    struct inbox_meta m = {0};
    st = write_all(f, items, chores, &m, err);
    if (!st)
        st = run(f, INBOX_COMMIT, "commit to", err);
    if (st) {
        *ret_again = db_is_full(f->db);
        inbox_ids_clear(&f->ids); /* read again from what is committed */
        /* SQLite may have rolled back by itself. */
        if (!sqlite3_get_autocommit(f->db))
            (void)!run(f, INBOX_ROLLBACK, "roll back", NULL);
        return st;
    }
    if (FAULT_POINT("inbox_after_commit"))
        return error_set(err, STATUS_IO, "could not commit to \"%s\": injected fault", f->path);
    f->meta = m;
    return STATUS_OK;
}

enum status inbox_file_checkpoint(struct inbox_file *f, struct error *err)
{
    if (f->wal_pages < CHECKPOINT_PAGES)
        return STATUS_OK;
    /* PASSIVE waits for nobody. When readers have come in between again and again, RESTART waits
     * for them: they are short. */
    int mode =
        f->wal_pages < 4 * CHECKPOINT_PAGES ? SQLITE_CHECKPOINT_PASSIVE : SQLITE_CHECKPOINT_RESTART;
    int rc = sqlite3_wal_checkpoint_v2(f->db, NULL, mode, NULL, NULL);
    if (rc == SQLITE_OK || rc == SQLITE_BUSY || db_is_full(f->db))
        return STATUS_OK; /* what is not in the file yet stays in the WAL */
    return db_error(f->db, f->path, "checkpoint", err);
}

enum status inbox_scrub(const char *dir, struct error *err)
{
    struct inbox_file f = {0};
    enum status st = path_of(dir, &f, err);
    if (!st)
        st = connect(&f, err);
    if (!st) {
        sqlite3_busy_timeout(f.db, 0); /* who waits here would hold up deliveries */
        int rc = sqlite3_wal_checkpoint_v2(f.db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        if (rc == SQLITE_BUSY)
            st = STATUS_AGAIN;
        else if (rc != SQLITE_OK)
            st = db_error(f.db, f.path, "checkpoint", err);
    }
    inbox_file_close(&f, false);
    return st;
}
