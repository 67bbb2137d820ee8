#include "state/feed_queue.h"

#include "state/db.h"
#include "state/embedded.h"
#include "state/fault.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 10000
#define TABLES_BYTES    1024 /* names of all tables and their commas */

extern const struct embedded_file feed_migrations[];
extern const int n_feed_migrations;

static const char setup_sql[] = "PRAGMA page_size=4096;"
                                "PRAGMA journal_mode=WAL;"
                                "PRAGMA synchronous=FULL;"
                                "PRAGMA secure_delete=ON;"
                                "PRAGMA mmap_size=0;"
                                "PRAGMA temp_store=MEMORY;"
                                "PRAGMA journal_size_limit=4194304;"
                                "PRAGMA cell_size_check=ON;"
                                "PRAGMA trusted_schema=OFF;";

enum statement {
    READ_META,
    WRITE_META,
    FIND,
    INSERT,
    REPLACE,
    NEXT,
    OLDEST,
    SETTLE,
    BURY,
    TRIM_DEAD,
    ERASE_DEAD,
    ERASE_WAITING,
    COUNT_WAITING,
    COUNT_DEAD,
    LETTERS,
    LETTER,
    DROP_LETTER,
    STATEMENTS
};

static const char *const statements[STATEMENTS] = {
    [READ_META] = "SELECT instance, newest FROM meta WHERE id = 1",
    [WRITE_META] = "UPDATE meta SET newest = ?1 WHERE id = 1",
    [FIND] = "SELECT place, row_version, tables, reason FROM waiting"
             " WHERE destination = ?1 AND bot_name = ?2 AND user_id = ?3",
    [INSERT] = "INSERT INTO waiting (destination, bot_name, user_id, tables, reason, row_version,"
               " message, queued_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [REPLACE] = "UPDATE waiting SET tables = ?4, reason = ?5, row_version = ?6, message = ?7"
                " WHERE destination = ?1 AND bot_name = ?2 AND user_id = ?3",
    [NEXT] = "SELECT place, message, queued_us, row_version, bot_name, user_id, tables, reason"
             " FROM waiting WHERE destination = ?1 AND place > ?2 ORDER BY place LIMIT 1",
    [OLDEST] = "SELECT place, message FROM waiting WHERE destination = ?1 ORDER BY place LIMIT 1",
    [SETTLE] = "DELETE FROM waiting WHERE destination = ?1 AND place = ?2 AND message = ?3",
    [BURY] = "INSERT INTO dead (dead_us, row_version, destination, bot_name, user_id, tables,"
             " reason, why) SELECT ?4, row_version, destination, bot_name, user_id, tables, reason,"
             " ?5 FROM waiting WHERE destination = ?1 AND place = ?2 AND message = ?3",
    [TRIM_DEAD] = "DELETE FROM dead WHERE destination = ?1 AND id <= (SELECT id FROM dead WHERE"
                  " destination = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    /* ?1 '': with every bot. What waits for one bot is replaced in its place instead. */
    [ERASE_DEAD] = "DELETE FROM dead WHERE user_id = ?2 AND (?1 = '' OR bot_name = ?1)",
    [ERASE_WAITING] = "DELETE FROM waiting WHERE user_id = ?2 AND ?1 = '' AND bot_name <> ''",
    [COUNT_WAITING] = "SELECT count(*), coalesce(min(queued_us), 0) FROM waiting"
                      " WHERE destination = ?1",
    [COUNT_DEAD] = "SELECT count(*) FROM dead WHERE destination = ?1",
    [LETTERS] = "SELECT id, dead_us, destination, why, row_version, bot_name, user_id, tables,"
                " reason FROM dead ORDER BY id DESC",
    [LETTER] = "SELECT destination, bot_name, user_id, tables, reason, row_version FROM dead"
               " WHERE id = ?1",
    [DROP_LETTER] = "DELETE FROM dead WHERE id = ?1",
};

struct feed_queue {
    struct feed_queue_config cfg;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t more;
    char *path;
    sqlite3 *db;
    sqlite3_stmt *sql[STATEMENTS];
    char instance[17];
    uint64_t newest;
    uint64_t *waiting; /* per destination, as counted here: the bound may lag behind dlq retry */
    uint64_t generation;
    bool to_empty; /* an erasure has been settled, and the journal still holds it */
};

/* ---- opening ---- */

static enum status run(struct feed_queue *q, enum statement which, struct error *err)
{
    return db_run(q->db, q->path, q->sql[which], "write to", err);
}

static enum status migrate(struct feed_queue *q, struct error *err)
{
    int version = 0;
    enum status st = db_version(q->db, q->path, n_feed_migrations, &version, err);
    for (int i = version; !st && i < n_feed_migrations; i++) {
        char sql[40];
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", i + 1);
        st = db_exec(q->db, q->path, feed_migrations[i].text, "migrate", err);
        if (!st)
            st = db_exec(q->db, q->path, sql, "migrate", err);
    }
    return st;
}

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

static enum status prepare(struct feed_queue *q, struct error *err)
{
    for (size_t i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(q->db, statements[i], -1, SQLITE_PREPARE_PERSISTENT, &q->sql[i],
                               NULL) != SQLITE_OK)
            return db_error(q->db, q->path, "prepare statements for", err);
    return STATUS_OK;
}

static enum status connect(struct feed_queue *q, struct error *err)
{
    if (sqlite3_open_v2(q->path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK)
        return db_error(q->db, q->path, "open", err);
    sqlite3_busy_timeout(q->db, BUSY_TIMEOUT_MS);
    return db_exec(q->db, q->path, setup_sql, "open", err);
}

static enum status read_meta(struct feed_queue *q, struct error *err)
{
    sqlite3_stmt *s = q->sql[READ_META];
    enum status st = STATUS_OK;
    if (sqlite3_step(s) == SQLITE_ROW) {
        struct str instance = db_column_str(s, 0);
        snprintf(q->instance, sizeof(q->instance), STR_FMT, STR_ARGS(instance));
        q->newest = db_column_u64(s, 1);
    } else {
        st = error_set(err, STATUS_CORRUPT, "\"%s\" has no usable row in its table meta", q->path);
    }
    sqlite3_reset(s);
    return st;
}

static enum status begin(struct feed_queue *q, struct error *err)
{
    enum status st = db_exec(q->db, q->path, "BEGIN IMMEDIATE", "lock", err);
    /* Another process may have made messages since. */
    return st ? st : read_meta(q, err);
}

/* COMMIT, or ROLLBACK when st says so. */
static enum status end(struct feed_queue *q, enum status st, struct error *err)
{
    if (!st && q->newest) {
        db_bind_u64(q->sql[WRITE_META], 1, q->newest);
        st = run(q, WRITE_META, err);
    }
    if (!st && FAULT_POINT("feed_before_commit"))
        st = error_set(err, STATUS_IO, "fault point feed_before_commit");
    if (!st)
        st = db_exec(q->db, q->path, "COMMIT", "write to", err);
    if (st && !sqlite3_get_autocommit(q->db))
        sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

static enum status take_over(struct feed_queue *q, struct error *err)
{
    enum status st = db_exec(q->db, q->path, "BEGIN IMMEDIATE", "lock", err);
    if (!st)
        st = db_rewrite_wal(q->db, q->path, err);
    if (!st)
        st = migrate(q, err);
    if (!st)
        st = db_exec(q->db, q->path, "COMMIT", "take over", err);
    if (!st)
        st = prepare(q, err);
    return st ? st : read_meta(q, err);
}

static struct feed_queue *queue_new(const char *dir)
{
    struct feed_queue *q = calloc(1, sizeof(*q));
    size_t size = strlen(dir) + sizeof("/" FEED_QUEUE_FILE);
    if (!q || !(q->path = malloc(size))) {
        free(q);
        return NULL;
    }
    snprintf(q->path, size, "%s/" FEED_QUEUE_FILE, dir);
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q->more, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return q;
}

void feed_queue_close(struct feed_queue *q)
{
    if (!q)
        return;
    for (size_t i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(q->sql[i]);
    sqlite3_close(q->db);
    pthread_cond_destroy(&q->more);
    pthread_mutex_destroy(&q->lock);
    free(q->waiting);
    free(q->path);
    free(q);
}

/* Nobody will ever send what waits for a destination that is not there. */
static enum status drop_strangers(struct feed_queue *q, uint64_t *ret_dropped, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 16u << 10);
    enum status st = buf_append_str(&sql, STR("DELETE FROM waiting WHERE destination NOT IN (''"));
    /* Names are [a-z0-9_-]. */
    for (size_t i = 0; i < q->cfg.n_destinations && !st; i++)
        st = buf_printf(&sql, ",'%s'", q->cfg.destinations[i].name);
    if (!st)
        st = buf_append(&sql, ")", 2);
    if (st)
        return error_set(err, st, "could not allocate a statement");
    st = db_exec(q->db, q->path, sql.data, "write to", err);
    if (!st)
        *ret_dropped = (uint64_t)sqlite3_changes64(q->db);
    return st;
}

static enum status count_waiting(struct feed_queue *q, size_t d, struct feed_view *ret,
                                 struct error *err)
{
    sqlite3_stmt *s = q->sql[COUNT_WAITING];
    db_bind_text(s, 1, str_from(q->cfg.destinations[d].name));
    enum status st = STATUS_OK;
    if (sqlite3_step(s) == SQLITE_ROW) {
        ret->waiting = db_column_u64(s, 0);
        ret->oldest_us = sqlite3_column_int64(s, 1);
    } else {
        st = db_error(q->db, q->path, "read", err);
    }
    sqlite3_reset(s);
    return st;
}

enum status feed_queue_open(const struct feed_queue_config *cfg, struct feed_queue **ret,
                            uint64_t *ret_dropped, struct error *err)
{
    CLEANUP(feed_queue_closep) struct feed_queue *q = queue_new(cfg->dir);
    if (!q || !(q->waiting = calloc(cfg->n_destinations + 1, sizeof(*q->waiting))))
        return error_set(err, STATUS_NOMEM, "could not allocate the queue of the feed");
    q->cfg = *cfg;
    enum status st = create_file(cfg->dir, q->path, err);
    if (!st)
        st = connect(q, err);
    if (!st)
        st = take_over(q, err);
    if (!st)
        st = drop_strangers(q, ret_dropped, err);
    for (size_t d = 0; d < cfg->n_destinations && !st; d++) {
        struct feed_view v = {0};
        st = count_waiting(q, d, &v, err);
        q->waiting[d] = v.waiting;
    }
    if (!st)
        *ret = TAKE(q);
    return st;
}

/* ---- appending ---- */

static void bind_key(sqlite3_stmt *s, struct str destination, struct str bot, struct str user)
{
    db_bind_text(s, 1, destination);
    db_bind_text(s, 2, bot);
    db_bind_text(s, 3, user);
}

static void bind_reason(sqlite3_stmt *s, int i, struct str reason)
{
    if (reason.ptr)
        db_bind_text(s, i, reason);
    else
        sqlite3_bind_null(s, i);
}

static struct str column_or_null(sqlite3_stmt *s, int i)
{
    return sqlite3_column_type(s, i) == SQLITE_NULL ? STR_NULL : db_column_str(s, i);
}

/* What a place says after an announcement for the same key has come. */
struct merged {
    bool held; /* the key has a place */
    uint64_t row_version;
    struct buf tables;
    bool erases;
};

static enum status merge(struct feed_queue *q, struct str destination, const struct announcement *a,
                         struct merged *m, struct error *err)
{
    sqlite3_stmt *s = q->sql[FIND];
    bind_key(s, destination, a->bot, a->user);
    int rc = sqlite3_step(s);
    enum status st = STATUS_OK;
    m->row_version = a->row_version;
    m->erases = announcement_erases(a);
    if (rc == SQLITE_ROW) {
        m->held = true;
        if (db_column_u64(s, 1) > m->row_version)
            m->row_version = db_column_u64(s, 1);
        st = announcement_join_tables(db_column_str(s, 2), a->tables, &m->tables);
        m->erases |= str_equal(column_or_null(s, 3), STR(ANNOUNCEMENT_ERASE));
    } else if (rc == SQLITE_DONE) {
        st = buf_append_str(&m->tables, a->tables);
    } else {
        st = db_error(q->db, q->path, "read", err);
    }
    sqlite3_reset(s);
    if (st && rc != SQLITE_ROW && rc != SQLITE_DONE)
        return st;
    return st ? error_set(err, st, "could not join the tables of two announcements") : STATUS_OK;
}

static enum status put(struct feed_queue *q, struct str destination, const struct announcement *a,
                       bool *ret_new, struct error *err)
{
    CLEANUP(buf_deinit) struct buf tables;
    buf_init(&tables, TABLES_BYTES);
    struct merged m = {.tables = tables};
    enum status st = merge(q, destination, a, &m, err);
    tables = m.tables;
    if (st)
        return st;
    sqlite3_stmt *s = q->sql[m.held ? REPLACE : INSERT];
    bind_key(s, destination, a->bot, a->user);
    db_bind_text(s, 4, (struct str){tables.data, tables.len});
    bind_reason(s, 5, m.erases ? STR(ANNOUNCEMENT_ERASE) : a->reason);
    db_bind_u64(s, 6, m.row_version);
    db_bind_u64(s, 7, ++q->newest);
    if (!m.held)
        sqlite3_bind_int64(s, 8, clock_wall_us(q->cfg.clock));
    *ret_new = !m.held;
    return run(q, m.held ? REPLACE : INSERT, err);
}

static enum status bury(struct feed_queue *q, size_t d, int64_t place, uint64_t message,
                        const char *why, struct error *err)
{
    struct str name = str_from(q->cfg.destinations[d].name);
    sqlite3_stmt *s = q->sql[BURY];
    db_bind_text(s, 1, name);
    sqlite3_bind_int64(s, 2, place);
    db_bind_u64(s, 3, message);
    sqlite3_bind_int64(s, 4, clock_wall_us(q->cfg.clock));
    db_bind_text(s, 5, str_from(why));
    enum status st = run(q, BURY, err);
    if (st)
        return st;
    s = q->sql[SETTLE];
    db_bind_text(s, 1, name);
    sqlite3_bind_int64(s, 2, place);
    db_bind_u64(s, 3, message);
    st = run(q, SETTLE, err);
    if (!st && sqlite3_changes64(q->db) > 0 && q->waiting[d] > 0)
        q->waiting[d]--;
    s = q->sql[TRIM_DEAD];
    db_bind_text(s, 1, name);
    sqlite3_bind_int64(s, 2, FEED_DEAD_MAX);
    return st ? st : run(q, TRIM_DEAD, err);
}

static enum status bury_oldest(struct feed_queue *q, size_t d, struct error *err)
{
    sqlite3_stmt *s = q->sql[OLDEST];
    db_bind_text(s, 1, str_from(q->cfg.destinations[d].name));
    int rc = sqlite3_step(s);
    int64_t place = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : 0;
    uint64_t message = rc == SQLITE_ROW ? db_column_u64(s, 1) : 0;
    sqlite3_reset(s);
    if (rc == SQLITE_DONE) /* counted by us, taken out by another */
        q->waiting[d] = 0;
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? STATUS_OK : db_error(q->db, q->path, "read", err);
    return bury(q, d, place, message, "the queue is full (feed.queue)", err);
}

static enum status append_one(struct feed_queue *q, size_t d, const struct announcement *a,
                              struct error *err)
{
    const struct feed_destination *to = &q->cfg.destinations[d];
    if (!announcement_has_table(a->tables, str_from(to->tables)) ||
        (*to->bots && a->bot.len && !announcement_has_table(str_from(to->bots), a->bot)))
        return STATUS_OK;
    bool added = false;
    enum status st = put(q, str_from(to->name), a, &added, err);
    if (st || !added)
        return st;
    if (++q->waiting[d] <= q->cfg.rows_max)
        return STATUS_OK;
    return bury_oldest(q, d, err);
}

/* What names the user and would not be replaced by a. */
static enum status erase(struct feed_queue *q, const struct announcement *a, struct error *err)
{
    enum status st = STATUS_OK;
    for (enum statement which = ERASE_DEAD; which <= ERASE_WAITING && !st; which++) {
        db_bind_text(q->sql[which], 1, a->bot);
        db_bind_text(q->sql[which], 2, a->user);
        st = run(q, which, err);
        q->to_empty |= !st && sqlite3_changes64(q->db) > 0;
    }
    for (size_t d = 0; d < q->cfg.n_destinations && !st; d++) {
        struct feed_view v = {0};
        st = count_waiting(q, d, &v, err);
        q->waiting[d] = st ? q->waiting[d] : v.waiting;
    }
    return st;
}

/* What an erasure has deleted is overwritten in the file, and still in the journal. */
static void empty_journal(struct feed_queue *q)
{
    int left = 0, moved = 0;
    if (q->to_empty && sqlite3_wal_checkpoint_v2(q->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, &left,
                                                 &moved) == SQLITE_OK)
        q->to_empty = false;
}

enum status feed_queue_append(struct feed_queue *q, const struct announcement *list, size_t n,
                              struct error *err)
{
    pthread_mutex_lock(&q->lock);
    enum status st = begin(q, err);
    for (size_t i = 0; i < n && !st; i++) {
        if (announcement_erases(&list[i]))
            st = erase(q, &list[i], err);
        for (size_t d = 0; d < q->cfg.n_destinations && !st; d++)
            st = append_one(q, d, &list[i], err);
    }
    st = end(q, st, err);
    if (!st)
        empty_journal(q);
    q->generation++;
    pthread_cond_broadcast(&q->more);
    pthread_mutex_unlock(&q->lock);
    if (!st && FAULT_POINT("feed_after_commit"))
        st = error_set(err, STATUS_IO, "fault point feed_after_commit");
    return st;
}

/* ---- sending ---- */

/* Columns from `first` on: row_version, bot_name, user_id, tables, reason. */
static struct announcement column_announcement(sqlite3_stmt *s, int first)
{
    struct announcement a = {
        .row_version = db_column_u64(s, first),
        .bot = db_column_str(s, first + 1),
        .user = db_column_str(s, first + 2),
        .tables = db_column_str(s, first + 3),
        .reason = column_or_null(s, first + 4),
    };
    if (a.user.len == 0)
        a.user = STR_NULL;
    if (a.bot.len == 0)
        a.bot = STR_NULL;
    return a;
}

static enum status fill_item(struct feed_queue *q, sqlite3_stmt *s, struct feed_item *ret,
                             struct error *err)
{
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_NOTIFY_BYTES);
    struct announcement a = column_announcement(s, 3);
    enum status st = announcement_write(&a, &json);
    if (st)
        return error_set(err, st, "could not write an announcement of \"%s\"", q->path);
    ret->place = sqlite3_column_int64(s, 0);
    ret->message = db_column_u64(s, 1);
    ret->queued_us = sqlite3_column_int64(s, 2);
    ret->erases = announcement_erases(&a);
    snprintf(ret->id, sizeof(ret->id), "wp_%s_%" PRIu64, q->instance, ret->message);
    memcpy(ret->json, json.data, json.len);
    ret->json[json.len] = '\0';
    ret->json_len = json.len;
    return STATUS_OK;
}

enum status feed_queue_next(struct feed_queue *q, size_t d, int64_t after, struct feed_item *ret,
                            struct error *err)
{
    pthread_mutex_lock(&q->lock);
    sqlite3_stmt *s = q->sql[NEXT];
    db_bind_text(s, 1, str_from(q->cfg.destinations[d].name));
    sqlite3_bind_int64(s, 2, after);
    int rc = sqlite3_step(s);
    enum status st = rc == SQLITE_ROW    ? fill_item(q, s, ret, err)
                     : rc == SQLITE_DONE ? STATUS_END
                                         : db_error(q->db, q->path, "read", err);
    sqlite3_reset(s);
    pthread_mutex_unlock(&q->lock);
    return st;
}

uint64_t feed_queue_generation(struct feed_queue *q)
{
    pthread_mutex_lock(&q->lock);
    uint64_t now = q->generation;
    pthread_mutex_unlock(&q->lock);
    return now;
}

void feed_queue_wait(struct feed_queue *q, uint64_t seen, int64_t us)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t ns = at.tv_nsec + us % US_PER_SECOND * 1000;
    at.tv_sec += us / US_PER_SECOND + ns / 1000000000;
    at.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&q->lock);
    while (q->generation == seen && pthread_cond_timedwait(&q->more, &q->lock, &at) == 0)
        ;
    pthread_mutex_unlock(&q->lock);
}

void feed_queue_wake(struct feed_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->generation++;
    pthread_cond_broadcast(&q->more);
    pthread_mutex_unlock(&q->lock);
}

enum status feed_queue_settle(struct feed_queue *q, size_t d, const struct feed_settled *done,
                              size_t n, struct error *err)
{
    if (n == 0)
        return STATUS_OK;
    pthread_mutex_lock(&q->lock);
    enum status st = begin(q, err);
    for (size_t i = 0; i < n && !st; i++) {
        sqlite3_stmt *s = q->sql[SETTLE];
        db_bind_text(s, 1, str_from(q->cfg.destinations[d].name));
        sqlite3_bind_int64(s, 2, done[i].place);
        db_bind_u64(s, 3, done[i].message);
        st = run(q, SETTLE, err);
        if (!st && sqlite3_changes64(q->db) > 0 && q->waiting[d] > 0)
            q->waiting[d]--;
        q->to_empty |= done[i].erases;
    }
    st = end(q, st, err);
    if (!st)
        empty_journal(q);
    pthread_mutex_unlock(&q->lock);
    return st;
}

enum status feed_queue_bury(struct feed_queue *q, size_t d, const struct feed_item *item,
                            const char *why, struct error *err)
{
    pthread_mutex_lock(&q->lock);
    enum status st = begin(q, err);
    if (!st)
        st = bury(q, d, item->place, item->message, why, err);
    st = end(q, st, err);
    pthread_mutex_unlock(&q->lock);
    return st;
}

enum status feed_queue_view(struct feed_queue *q, size_t d, struct feed_view *ret,
                            struct error *err)
{
    struct feed_view v = {0};
    pthread_mutex_lock(&q->lock);
    enum status st = count_waiting(q, d, &v, err);
    sqlite3_stmt *s = q->sql[COUNT_DEAD];
    db_bind_text(s, 1, str_from(q->cfg.destinations[d].name));
    if (!st && sqlite3_step(s) == SQLITE_ROW)
        v.dead = db_column_u64(s, 0);
    sqlite3_reset(s);
    pthread_mutex_unlock(&q->lock);
    if (!st)
        *ret = v;
    return st;
}

/* ---- from outside ---- */

/* END: there is no file. */
static enum status open_beside(const char *dir, struct feed_queue **ret, struct error *err)
{
    CLEANUP(feed_queue_closep) struct feed_queue *q = queue_new(dir);
    if (!q)
        return error_set(err, STATUS_NOMEM, "could not allocate the queue of the feed");
    if (access(q->path, F_OK) != 0)
        return STATUS_END;
    q->cfg.clock = &clock_real;
    enum status st = connect(q, err);
    int version = 0;
    if (!st)
        st = db_version(q->db, q->path, n_feed_migrations, &version, err);
    if (!st && version < n_feed_migrations)
        return STATUS_END; /* made, and never used */
    if (!st)
        st = prepare(q, err);
    if (!st)
        *ret = TAKE(q);
    return st;
}

enum status feed_letters_read(const char *dir,
                              enum status (*fn)(void *ctx, const struct feed_letter *l,
                                                struct error *err),
                              void *ctx, struct error *err)
{
    CLEANUP(feed_queue_closep) struct feed_queue *q = NULL;
    enum status st = open_beside(dir, &q, err);
    if (st)
        return st == STATUS_END ? STATUS_OK : st;
    assert(q);
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&json, LIMIT_NOTIFY_BYTES);
    sqlite3_stmt *s = q->sql[LETTERS];
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct announcement a = column_announcement(s, 4);
        buf_reset(&json);
        st = announcement_write(&a, &json);
        const struct feed_letter l = {
            .id = sqlite3_column_int64(s, 0),
            .at_us = sqlite3_column_int64(s, 1),
            .destination = db_column_str(s, 2),
            .why = db_column_str(s, 3),
            .json = {json.data, json.len},
        };
        if (!st)
            st = fn(ctx, &l, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = db_error(q->db, q->path, "read", err);
    sqlite3_reset(s);
    return st;
}

static enum status put_again(struct feed_queue *q, int64_t id, bool *ret_found, struct error *err)
{
    sqlite3_stmt *s = q->sql[LETTER];
    sqlite3_bind_int64(s, 1, id);
    int rc = sqlite3_step(s);
    enum status st = STATUS_OK;
    if (rc == SQLITE_ROW) {
        struct announcement a = {
            .bot = db_column_str(s, 1),
            .user = db_column_str(s, 2),
            .tables = db_column_str(s, 3),
            .reason = column_or_null(s, 4),
            .row_version = db_column_u64(s, 5),
        };
        bool added = false;
        st = put(q, db_column_str(s, 0), &a, &added, err);
        *ret_found = true;
    } else if (rc != SQLITE_DONE) {
        st = db_error(q->db, q->path, "read", err);
    }
    sqlite3_reset(s);
    return st;
}

enum status feed_letter_remove(const char *dir, int64_t id, bool again, bool *ret_found,
                               struct error *err)
{
    CLEANUP(feed_queue_closep) struct feed_queue *q = NULL;
    enum status st = open_beside(dir, &q, err);
    *ret_found = false;
    if (st)
        return st == STATUS_END ? STATUS_OK : st;
    assert(q);
    st = begin(q, err);
    if (!st && again)
        st = put_again(q, id, ret_found, err);
    sqlite3_bind_int64(q->sql[DROP_LETTER], 1, id);
    if (!st)
        st = run(q, DROP_LETTER, err);
    *ret_found = !st && sqlite3_changes64(q->db) > 0;
    return end(q, st, err);
}
