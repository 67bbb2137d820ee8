/*
 * Epochs and what is still being learned towards the next one. Rows of epochs are written once;
 * rows of the running day are replaced whenever a key page of their bot is written, so that a
 * journal entry that no page lacks is never needed for its lesson either.
 */
#include "state/store_internal.h"

#include <assert.h>

const struct store_day *store_day(const struct store *s)
{
    return &s->day;
}

enum status store_day_load(struct store *s, struct error *err)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_prepare_v2(
        s->db, "SELECT opened, closed, closed_jseq FROM epoch_day WHERE id = 1", -1, &q, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    enum status st = STATUS_OK;
    if (rc == SQLITE_ROW) {
        s->day = (struct store_day){sqlite3_column_int(q, 0), sqlite3_column_int(q, 1),
                                    db_column_u64(q, 2)};
        if (s->day.opened < 0 || s->day.closed < s->day.opened || s->day.closed_jseq > s->meta.jseq)
            st = error_set(err, STATUS_CORRUPT, "\"%s\" has an impossible row in table epoch_day",
                           s->path);
    } else {
        st = rc == SQLITE_DONE
                 ? error_set(err, STATUS_CORRUPT, "\"%s\" has no row in table epoch_day", s->path)
                 : store_error(s, "read", err);
    }
    sqlite3_finalize(q);
    return st;
}

/* ---- writing ---- */

enum status store_put_day(struct store *s, const struct store_day *day, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_UPDATE_DAY];
    sqlite3_bind_int(q, 1, day->opened);
    sqlite3_bind_int(q, 2, day->closed);
    db_bind_u64(q, 3, day->closed_jseq);
    return store_run(s, SQL_UPDATE_DAY, "write to", err);
}

static uint64_t epoch_checksum(const struct store_epoch *e)
{
    return db_checksum((uint64_t)e->day, db_checksum(0, 0, e->bot_name), e->bytes);
}

static uint64_t part_checksum(const struct store_part *part)
{
    return db_checksum(part->jseq, db_checksum(0, 0, part->bot_name), part->bytes);
}

static enum status put_epoch(struct store *s, const struct store_epoch *e, struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_INSERT_EPOCH];
    db_bind_text(q, 1, e->bot_name);
    sqlite3_bind_int(q, 2, e->day);
    db_bind_u64(q, 3, epoch_checksum(e));
    db_bind_blob(q, 4, e->bytes);
    enum status st = store_run(s, SQL_INSERT_EPOCH, "write an epoch to", err);
    if (st || e->keep_day == 0)
        return st;
    q = s->sql[SQL_TRIM_EPOCHS];
    db_bind_text(q, 1, e->bot_name);
    sqlite3_bind_int(q, 2, e->keep_day);
    return store_run(s, SQL_TRIM_EPOCHS, "drop old epochs of", err);
}

static enum status put_part(struct store *s, int32_t day, const struct store_part *part,
                            struct error *err)
{
    sqlite3_stmt *q = s->sql[SQL_INSERT_PART];
    sqlite3_bind_int(q, 1, day);
    db_bind_text(q, 2, part->bot_name);
    db_bind_u64(q, 3, part->jseq);
    db_bind_u64(q, 4, part_checksum(part));
    db_bind_blob(q, 5, part->bytes);
    return store_run(s, SQL_INSERT_PART, "write to", err);
}

static enum status replace_part(struct store *s, const struct store_part *part, struct error *err)
{
    db_bind_text(s->sql[SQL_DELETE_PARTS], 1, part->bot_name);
    enum status st = store_run(s, SQL_DELETE_PARTS, "write to", err);
    return st ? st : put_part(s, 0, part, err);
}

static enum status close_parts(struct store *s, int32_t day, struct error *err)
{
    sqlite3_bind_int(s->sql[SQL_CLOSE_PARTS], 1, day);
    enum status st = store_run(s, SQL_CLOSE_PARTS, "close a day in", err);
    if (st)
        return st;
    sqlite3_bind_int(s->sql[SQL_TRIM_PARTS], 1, day);
    return store_run(s, SQL_TRIM_PARTS, "drop old sums of", err);
}

enum status store_write_epochs(struct store *s, const struct store_commit *c, uint64_t jseq,
                               struct store_day *day, struct error *err)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < c->n_parts; i++) {
        assert(c->parts[i].jseq <= jseq);
        st = replace_part(s, &c->parts[i], err);
    }
    for (size_t i = 0; !st && i < c->n_epochs; i++)
        st = put_epoch(s, &c->epochs[i], err);
    bool closes = c->close_day > day->closed;
    bool opens = c->open_day > day->opened;
    if (st || (!closes && !opens))
        return st;
    if (closes) {
        day->closed = c->close_day;
        day->closed_jseq = jseq;
        st = close_parts(s, c->close_day, err);
    }
    if (opens)
        day->opened = c->open_day;
    assert(day->opened <= day->closed);
    return st ? st : store_put_day(s, day, err);
}

/* ---- reading ---- */

enum status store_column_epoch(const char *path, sqlite3_stmt *q, struct store_epoch *ret,
                               struct error *err)
{
    *ret = (struct store_epoch){
        .bot_name = db_column_str(q, 0),
        .day = sqlite3_column_int(q, 1),
        .bytes = db_column_str(q, 3),
    };
    if (epoch_checksum(ret) == db_column_u64(q, 2))
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "\"%s\": the epoch of bot \"" STR_FMT "\", day %d fails its checksum", path,
                     STR_ARGS(ret->bot_name), ret->day);
}

static enum status column_part(struct store *s, sqlite3_stmt *q, struct store_part *ret,
                               struct error *err)
{
    *ret = (struct store_part){db_column_str(q, 0), db_column_u64(q, 1), db_column_str(q, 3)};
    if (part_checksum(ret) == db_column_u64(q, 2) && ret->jseq <= s->meta.jseq)
        return STATUS_OK;
    return error_set(err, STATUS_CORRUPT,
                     "\"%s\": what bot \"" STR_FMT "\" has learned fails its checksum", s->path,
                     STR_ARGS(ret->bot_name));
}

/* Steps a bound statement over parts, and makes it ready for the next use. */
static enum status walk_parts(struct store *s, enum store_statement which, store_part_fn *fn,
                              void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[which];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_part part;
        st = column_part(s, q, &part, err);
        if (!st)
            st = fn(ctx, &part, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

enum status store_bot_parts(struct store *s, struct str bot_name, store_part_fn *fn, void *ctx,
                            struct error *err)
{
    db_bind_text(s->sql[SQL_BOT_PARTS], 1, bot_name);
    return walk_parts(s, SQL_BOT_PARTS, fn, ctx, err);
}

enum status store_day_parts(struct store *s, int32_t day, store_part_fn *fn, void *ctx,
                            struct error *err)
{
    sqlite3_bind_int(s->sql[SQL_DAY_PARTS], 1, day);
    return walk_parts(s, SQL_DAY_PARTS, fn, ctx, err);
}

static enum status walk_epochs(struct store *s, enum store_statement which, store_epoch_fn *fn,
                               void *ctx, struct error *err)
{
    sqlite3_stmt *q = s->sql[which];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_epoch epoch;
        st = store_column_epoch(s->path, q, &epoch, err);
        if (!st)
            st = fn(ctx, &epoch, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(s, "read", err);
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    return st;
}

enum status store_bot_epochs(struct store *s, struct str bot_name, int32_t last_day,
                             store_epoch_fn *fn, void *ctx, struct error *err)
{
    db_bind_text(s->sql[SQL_BOT_EPOCHS], 1, bot_name);
    sqlite3_bind_int(s->sql[SQL_BOT_EPOCHS], 2, last_day);
    enum status st = walk_epochs(s, SQL_BOT_EPOCHS, fn, ctx, err);
    return st == STATUS_END ? STATUS_OK : st;
}

/* ---- another number of workers ---- */

static enum status copy_epoch(void *ctx, const struct store_epoch *epoch, struct error *err)
{
    return put_epoch(ctx, epoch, err);
}

enum status store_copy_epochs(struct store *from, struct store *to, struct error *err)
{
    return walk_epochs(from, SQL_EACH_EPOCH, copy_epoch, to, err);
}

enum status store_copy_parts(struct store *from, struct store *to, struct error *err)
{
    sqlite3_stmt *q = from->sql[SQL_EACH_PART];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_part part;
        st = column_part(from, q, &part, err);
        if (!st)
            st = put_part(to, sqlite3_column_int(q, 4), &part, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(from, "read", err);
    sqlite3_reset(q);
    return st;
}
