/*
 * Read-only views of the state, for `status`, `doctor` and `dlq`: separate connections that take no
 * write lock, start no checkpoint and do not raise the epoch, so that a running process does not
 * notice them.
 */
#include "state/store_internal.h"

#include <string.h>

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_NOMEM, "could not allocate a view of the state");
}

#define EPOCHS_VERSION 2 /* the first format with epochs */
#define INBOX_VERSION  4 /* the first format with keys of the inbox */

struct view {
    sqlite3 *db;
    char *path;
    int version;
    struct store_meta meta;
    sqlite3_stmt *letters;
    bool has_letter; /* the statement stands on a row */
};

static void view_close(struct view *v)
{
    sqlite3_finalize(v->letters);
    if (v->db)
        sqlite3_db_config(v->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(v->db);
    free(v->path);
    *v = (struct view){0};
}

static enum status view_open(struct view *v, const char *dir, const char *set, uint32_t worker,
                             struct error *err)
{
    *v = (struct view){.path = store_worker_path(dir, set, worker)};
    if (!v->path)
        return no_memory(err);
    if (sqlite3_open_v2(v->path, &v->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return db_error(v->db, v->path, "open", err);
    sqlite3_busy_timeout(v->db, 1000);
    enum status st = store_version_read(v->db, v->path, &v->version, err);
    if (!st && v->version == 0)
        st = error_set(err, STATUS_CORRUPT, "\"%s\" holds no state", v->path);
    return st ? st : store_meta_read(v->db, v->path, &v->meta, err);
}

struct views {
    uint32_t n;
    struct view view[LIMIT_WORKERS];
};

static void views_close(struct views *all)
{
    for (uint32_t i = 0; i < all->n; i++)
        view_close(&all->view[i]);
}

/* All files of the current set; as many as the first one says there are. */
static enum status views_open(struct views *all, const char *dir, struct error *err)
{
    char set[SET_NAME_SIZE];
    enum status st = store_set_current(dir, set, err);
    if (st)
        return st;
    uint32_t n = 1;
    while (!st && all->n < n) {
        st = view_open(&all->view[all->n], dir, set, all->n, err);
        all->n++;
        if (!st)
            n = all->view[0].meta.workers;
    }
    return st;
}

enum status store_identity_read(const char *dir, struct store_identity *ret, lsn_t *ret_covered,
                                struct error *err)
{
    CLEANUP(views_close) struct views all = {0};
    enum status st = views_open(&all, dir, err);
    if (st)
        return st;
    lsn_t covered = all.view[0].meta.covered;
    for (uint32_t i = 1; i < all.n; i++)
        if (all.view[i].meta.covered < covered)
            covered = all.view[i].meta.covered;
    *ret = all.view[all.n - 1].meta.identity;
    *ret_covered = covered;
    return STATUS_OK;
}

static enum status next_letter(struct view *v, struct error *err)
{
    int rc = sqlite3_step(v->letters);
    v->has_letter = rc == SQLITE_ROW;
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return STATUS_OK;
    return db_error(v->db, v->path, "read", err);
}

/* The view whose next letter is the newest; NULL when there are none left. */
static struct view *newest(struct views *all)
{
    struct view *best = NULL;
    for (uint32_t i = 0; i < all->n; i++) {
        struct view *v = &all->view[i];
        if (v->has_letter &&
            (!best || sqlite3_column_int64(v->letters, 3) > sqlite3_column_int64(best->letters, 3)))
            best = v;
    }
    return best;
}

enum status store_dead_letters_read(const char *dir,
                                    enum status (*fn)(void *ctx, const struct store_dead_letter *d,
                                                      struct error *err),
                                    void *ctx, struct error *err)
{
    static const char sql[] = "SELECT source, lsn, seq, at_us, place, reason, bytes, id"
                              " FROM dead_letter ORDER BY id DESC";
    CLEANUP(views_close) struct views all = {0};
    enum status st = views_open(&all, dir, err);
    if (st == STATUS_END) /* no state, no letters */
        return STATUS_OK;
    for (uint32_t i = 0; !st && i < all.n; i++) {
        struct view *v = &all.view[i];
        st = sqlite3_prepare_v2(v->db, sql, -1, &v->letters, NULL) == SQLITE_OK
                 ? next_letter(v, err)
                 : db_error(v->db, v->path, "read", err);
    }
    for (struct view *v = newest(&all); !st && v; v = newest(&all)) {
        struct store_dead_letter d = store_column_dead_letter(v->letters, 0);
        d.worker = (uint32_t)(v - all.view);
        d.row = sqlite3_column_int64(v->letters, 7);
        st = fn(ctx, &d, err);
        if (!st)
            st = next_letter(v, err);
    }
    return st;
}

/* ---- epochs ---- */

/* The newest day whose epochs are complete in this file; files of before there were epochs: 0. */
static enum status read_opened(struct view *v, int32_t *ret, struct error *err)
{
    *ret = 0;
    if (v->version < EPOCHS_VERSION)
        return STATUS_OK;
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(v->db, "SELECT opened FROM epoch_day WHERE id = 1", -1, &q, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int(q, 0);
    enum status st = rc == SQLITE_ROW ? STATUS_OK : db_error(v->db, v->path, "read", err);
    sqlite3_finalize(q);
    return st;
}

static enum status read_epochs(struct view *v, int32_t opened, store_epoch_fn *fn, void *ctx,
                               struct error *err)
{
    static const char sql[] = "SELECT bot_name, day, hash, bytes FROM epoch WHERE day <= ?1"
                              " ORDER BY bot_name, day";
    sqlite3_stmt *q = NULL;
    if (sqlite3_prepare_v2(v->db, sql, -1, &q, NULL) != SQLITE_OK)
        return db_error(v->db, v->path, "read", err);
    sqlite3_bind_int(q, 1, opened);
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_epoch epoch;
        st = store_column_epoch(v->path, q, &epoch, err);
        if (!st)
            st = fn(ctx, &epoch, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = db_error(v->db, v->path, "read", err);
    sqlite3_finalize(q);
    return st;
}

enum status store_epochs_read(const char *dir, int32_t *ret_opened, store_epoch_fn *fn, void *ctx,
                              struct error *err)
{
    CLEANUP(views_close) struct views all = {0};
    enum status st = views_open(&all, dir, err);
    *ret_opened = INT32_MAX;
    for (uint32_t i = 0; !st && i < all.n; i++) {
        int32_t opened = 0;
        st = read_opened(&all.view[i], &opened, err);
        if (opened < *ret_opened)
            *ret_opened = opened;
    }
    if (st || *ret_opened == 0)
        return st;
    /* Every file holds every epoch. */
    return read_epochs(&all.view[0], *ret_opened, fn, ctx, err);
}

/* ---- keys that have had events from the inbox ---- */

enum status store_inbox_keys_read(const char *dir,
                                  enum status (*fn)(void *ctx, const struct store_key *key,
                                                    struct error *err),
                                  void *ctx, struct error *err)
{
    CLEANUP(views_close) struct views all = {0};
    enum status st = views_open(&all, dir, err);
    for (uint32_t i = 0; !st && i < all.n && all.view[i].version >= INBOX_VERSION; i++) {
        struct view *v = &all.view[i];
        sqlite3_stmt *q = NULL;
        int rc = sqlite3_prepare_v2(v->db, store_sql[SQL_EACH_INBOX_KEY], -1, &q, NULL);
        rc = rc == SQLITE_OK ? sqlite3_step(q) : rc;
        for (; !st && rc == SQLITE_ROW; rc = sqlite3_step(q)) {
            struct store_key key = store_column_key(q);
            st = fn(ctx, &key, err);
        }
        if (!st && rc != SQLITE_DONE)
            st = db_error(v->db, v->path, "read", err);
        sqlite3_finalize(q);
    }
    return st;
}
