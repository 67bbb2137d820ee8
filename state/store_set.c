/*
 * The files of a directory. CURRENT is the only truth about which set counts; it is replaced by
 * rename, after everything it names has been synced. Crash argument:
 *   before the rename   CURRENT names the old set (or nothing: a fresh start); the new directory is
 *                       a leftover that the next open removes
 *   after the rename    CURRENT names the new set, which is whole; the old one is the leftover
 */
#include "state/store_internal.h"

#include "state/fault.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESPREAD_PAGES_PER_COMMIT 1000
#define LOADED_TIMEOUT_MS         10000

static void close_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static void close_dir(DIR **d)
{
    if (*d)
        closedir(*d);
}

static enum status io_error(const char *what, const char *path, struct error *err)
{
    return error_set(err, STATUS_IO, "could not %s \"%s\": %s", what, path, strerror(errno));
}

static enum status no_memory(struct error *err)
{
    return error_set(err, STATUS_NOMEM, "could not allocate a path");
}

static char *join(const char *dir, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

char *store_worker_path(const char *dir, const char *set, uint32_t worker)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s/worker-%u.db", dir, set, worker) < 0 ? NULL : path;
}

/* "set-000001" -> 1; 0 for anything else. */
static unsigned set_number(const char *name)
{
    if (strlen(name) != SET_NAME_SIZE - 6 || strncmp(name, "set-", 4) != 0)
        return 0;
    unsigned n = 0;
    for (const char *c = name + 4; *c; c++) {
        if (*c < '0' || *c > '9')
            return 0;
        n = n * 10 + (unsigned)(*c - '0');
    }
    return n;
}

enum status store_set_current(const char *dir, char ret[SET_NAME_SIZE], struct error *err)
{
    CLEANUP(freep) char *path = join(dir, "CURRENT");
    if (!path)
        return no_memory(err);
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? STATUS_END : io_error("open", path, err);
    char text[64];
    ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return io_error("read", path, err);
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (set_number(text) == 0)
        return error_set(err, STATUS_CORRUPT, "\"%s\" does not name a set", path);
    memcpy(ret, text, strlen(text) + 1);
    return STATUS_OK;
}

static enum status sync_dir(const char *path, struct error *err)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        return io_error("sync", path, err);
    return STATUS_OK;
}

static enum status write_synced(const char *path, const char *text, struct error *err)
{
    CLEANUP(close_fd) int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return io_error("create", path, err);
    size_t len = strlen(text);
    ssize_t n = write(fd, text, len);
    if (n >= 0 && (size_t)n != len)
        errno = ENOSPC;
    if (n < 0 || (size_t)n != len || fsync(fd) != 0)
        return io_error("write", path, err);
    return STATUS_OK;
}

/* Makes set the one that counts. */
static enum status publish(const char *dir, const char *set, struct error *err)
{
    CLEANUP(freep) char *set_path = join(dir, set);
    CLEANUP(freep) char *temporary = join(dir, "CURRENT.tmp");
    CLEANUP(freep) char *path = join(dir, "CURRENT");
    if (!set_path || !temporary || !path)
        return no_memory(err);
    char text[SET_NAME_SIZE + 1];
    snprintf(text, sizeof(text), "%s\n", set);
    enum status st = sync_dir(set_path, err);
    if (!st)
        st = sync_dir(dir, err);
    if (!st)
        st = write_synced(temporary, text, err);
    if (st)
        return st;
    if (FAULT_POINT("set_before_rename"))
        return error_set(err, STATUS_IO, "could not rename \"%s\": injected fault", temporary);
    if (rename(temporary, path) != 0)
        return io_error("rename", temporary, err);
    if (FAULT_POINT("set_after_rename"))
        return error_set(err, STATUS_IO, "could not sync \"%s\": injected fault", dir);
    return sync_dir(dir, err);
}

/* Removes a set that does not count. Best effort: a leftover costs space, nothing else. */
static void remove_set(const char *dir, const char *set)
{
    CLEANUP(freep) char *path = join(dir, set);
    CLEANUP(close_dir) DIR *d = path ? opendir(path) : NULL;
    if (!d)
        return;
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (strncmp(e->d_name, "worker-", 7) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    rmdir(path);
}

/* Calls fn for every set directory in dir. */
static enum status each_set(const char *dir,
                            enum status (*fn)(void *ctx, const char *dir, const char *set,
                                              struct error *err),
                            void *ctx, struct error *err)
{
    CLEANUP(close_dir) DIR *d = opendir(dir);
    if (!d)
        return io_error("open", dir, err);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        enum status st = set_number(e->d_name) ? fn(ctx, dir, e->d_name, err) : STATUS_OK;
        if (st)
            return st;
    }
    return STATUS_OK;
}

static enum status remove_leftover(void *ctx, const char *dir, const char *set, struct error *err)
{
    (void)err;
    const char *keep = ctx;
    if (strcmp(set, keep) != 0)
        remove_set(dir, set);
    return STATUS_OK;
}

static enum status find_highest(void *ctx, const char *dir, const char *set, struct error *err)
{
    (void)dir;
    (void)err;
    unsigned *highest = ctx;
    if (set_number(set) > *highest)
        *highest = set_number(set);
    return STATUS_OK;
}

/* Whether a worker file holds committed work; a half-made file holds none. */
static bool holds_work(const char *path)
{
    sqlite3 *db = NULL;
    struct store_meta m = {0};
    bool work =
        sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK &&
        store_meta_read(db, path, &m, NULL) == STATUS_OK &&
        (m.jseq > 0 || m.covered > 0 || m.as_of_us > 0);
    if (db)
        sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(db);
    return work;
}

/* Without CURRENT a set is what a crash left of a first start, and goes. If it holds work, CURRENT
 * was lost, and starting afresh would lose data. */
static enum status remove_unborn(void *ctx, const char *dir, const char *set, struct error *err)
{
    (void)ctx;
    CLEANUP(freep) char *path = store_worker_path(dir, set, 0);
    if (!path)
        return no_memory(err);
    if (access(path, F_OK) == 0 && holds_work(path))
        return error_set(err, STATUS_REFUSED,
                         "\"%s\" holds state in \"%s\" but no file CURRENT: write that name into "
                         "it, or move the directory away to start afresh",
                         dir, set);
    remove_set(dir, set);
    return STATUS_OK;
}

/* The number of worker files of a set: they are numbered from 0 without holes. */
static uint32_t count_workers(const char *dir, const char *set)
{
    uint32_t n = 0;
    for (; n < LIMIT_WORKERS; n++) {
        CLEANUP(freep) char *path = store_worker_path(dir, set, n);
        if (!path || access(path, F_OK) != 0)
            break;
    }
    return n;
}

uint32_t store_set_workers(const char *dir)
{
    char set[SET_NAME_SIZE];
    if (strcmp(dir, ":memory:") == 0)
        return 0;
    enum status st = store_set_current(dir, set, NULL);
    if (st == STATUS_END)
        return 0;
    /* There is something, if unusable: opening it will say what is wrong. */
    uint32_t n = st ? 0 : count_workers(dir, set);
    return n ? n : 1;
}

uint64_t store_set_bytes(const char *dir)
{
    char set[SET_NAME_SIZE];
    if (store_set_current(dir, set, NULL))
        return 0;
    CLEANUP(freep) char *path = join(dir, set);
    CLEANUP(close_dir) DIR *d = path ? opendir(path) : NULL;
    uint64_t bytes = 0;
    for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        struct stat st;
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_size;
    }
    return bytes;
}

static void close_all(struct store **stores, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        store_close(TAKE(stores[i]));
}

/* Creates the files of a new set, each with a copy of *meta, and opens them. */
static enum status create_stores(const char *dir, const char *set, uint32_t workers,
                                 const struct store_meta *meta, struct store **stores,
                                 struct error *err)
{
    bool durable = strcmp(dir, ":memory:") != 0;
    CLEANUP(freep) char *set_path = join(dir, set);
    if (!set_path)
        return no_memory(err);
    if (durable && mkdir(set_path, 0700) != 0)
        return io_error("create", set_path, err);
    enum status st = STATUS_OK;
    for (uint32_t i = 0; !st && i < workers; i++) {
        struct store_meta m = *meta;
        m.worker = i;
        m.workers = workers;
        char *path = durable ? store_worker_path(dir, set, i) : strdup(":memory:");
        st = path ? store_file_open(path, &m, m.epoch, &stores[i], err) : no_memory(err);
        free(path);
    }
    if (!st)
        st = store_erasure_key_share(stores, workers, err);
    if (st)
        close_all(stores, workers);
    return st;
}

/* dir and those above it that are missing, all for the owner alone. */
static enum status make_directories(const char *dir, struct error *err)
{
    CLEANUP(freep) char *path = strdup(dir);
    if (!path)
        return no_memory(err);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return io_error("create", path, err);
        *slash = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST ? STATUS_OK : io_error("create", path, err);
}

static enum status create_fresh(const char *dir, uint32_t workers, uint64_t epoch,
                                const struct store_identity *identity, struct store **stores,
                                struct error *err)
{
    struct store_meta meta = {.identity = *identity, .epoch = epoch, .next_key_id = 1};
    if (strcmp(dir, ":memory:") == 0)
        return create_stores(dir, "", workers, &meta, stores, err);
    enum status st = make_directories(dir, err);
    if (!st)
        st = each_set(dir, remove_unborn, NULL, err);
    if (!st)
        st = create_stores(dir, "set-000001", workers, &meta, stores, err);
    if (st)
        return st;
    st = publish(dir, "set-000001", err);
    if (st)
        close_all(stores, workers);
    return st;
}

/* Opens the n files of a set; the caller closes those opened, also on failure. */
static enum status open_stores(const char *dir, const char *set, uint32_t n, uint64_t epoch,
                               struct store **stores, struct error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        CLEANUP(freep) char *path = store_worker_path(dir, set, i);
        enum status st =
            path ? store_file_open(path, NULL, epoch, &stores[i], err) : no_memory(err);
        if (st)
            return st;
        assert(stores[i]);
        const struct store_meta *m = &stores[i]->meta;
        if (m->worker != i || m->workers != n)
            return error_set(err, STATUS_CORRUPT,
                             "\"%s\" is file %u of a set of %u, in a set of %u files", path,
                             m->worker, m->workers, n);
    }
    return STATUS_OK;
}

static enum status open_existing(const char *dir, char *set, uint32_t workers, uint64_t epoch,
                                 struct store_identity *identity, struct store **stores,
                                 struct error *err)
{
    uint32_t have = count_workers(dir, set);
    if (have == 0)
        return error_set(err, STATUS_CORRUPT, "\"%s/CURRENT\" names \"%s\", which has no files",
                         dir, set);
    if (have != workers)
        return error_set(err, STATUS_REFUSED,
                         "the state in \"%s\" is spread over %u workers, not %u: it must be folded "
                         "and re-spread first",
                         dir, have, workers);
    enum status st = open_stores(dir, set, workers, epoch, stores, err);
    if (!st)
        st = store_erasure_key_share(stores, workers, err);
    if (!st)
        st = each_set(dir, remove_leftover, set, err);
    if (st) {
        close_all(stores, workers);
        return st;
    }
    /* Identity is written to one file after the other. If a crash cut that short, the last file
     * still has the old one, and the caller does again what it was doing. */
    *identity = stores[workers - 1]->meta.identity;
    return STATUS_OK;
}

enum status store_set_open(const char *dir, uint32_t workers, uint64_t epoch,
                           struct store_identity *identity, bool *ret_fresh, struct store **stores,
                           struct error *err)
{
    assert(workers >= 1 && workers <= LIMIT_WORKERS);
    for (uint32_t i = 0; i < workers; i++)
        stores[i] = NULL;
    char set[SET_NAME_SIZE] = "";
    enum status st = strcmp(dir, ":memory:") == 0 ? STATUS_END : store_set_current(dir, set, err);
    bool fresh = st == STATUS_END;
    if (st && !fresh)
        return st;
    st = fresh ? create_fresh(dir, workers, epoch, identity, stores, err)
               : open_existing(dir, set, workers, epoch, identity, stores, err);
    if (!st)
        *ret_fresh = fresh;
    return st;
}

/* ---- beginning anew ---- */

enum status store_set_renew(const char *dir, uint32_t workers, uint64_t epoch,
                            const struct store_identity *identity, struct store **stores,
                            struct error *err)
{
    assert(workers >= 1 && workers <= LIMIT_WORKERS);
    struct store_meta meta = {.identity = *identity, .epoch = epoch, .next_key_id = 1};
    unsigned highest = 0;
    char set[SET_NAME_SIZE + 8];
    enum status st = make_directories(dir, err);
    if (!st)
        st = each_set(dir, find_highest, &highest, err);
    if (st)
        return st;
    snprintf(set, sizeof(set), "set-%06u", highest + 1);
    if (!set_number(set))
        return error_set(err, STATUS_LIMIT, "\"%s\" has too many sets", dir);
    st = create_stores(dir, set, workers, &meta, stores, err);
    if (st)
        return st;
    st = publish(dir, set, err);
    if (!st)
        st = each_set(dir, remove_leftover, set, err);
    if (st)
        close_all(stores, workers);
    return st;
}

/* By a connection of its own: the handle belongs to the worker's thread. */
static enum status mark_loaded(const char *path, uint64_t epoch, struct error *err)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL;
    enum status st = STATUS_OK;
    int rc = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(db, LOADED_TIMEOUT_MS);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "PRAGMA synchronous = FULL", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(db, "UPDATE meta SET loading = 0 WHERE id = 1 AND epoch = ?1", -1,
                                &q, NULL);
    if (rc == SQLITE_OK) {
        db_bind_u64(q, 1, epoch);
        rc = sqlite3_step(q);
    }
    if (rc != SQLITE_DONE)
        st = db_error(db, path, "write to", err);
    else if (sqlite3_changes(db) != 1)
        st = error_set(err, STATUS_FENCED, "\"%s\" was taken over by another process", path);
    sqlite3_finalize(q);
    if (db)
        sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(db);
    return st;
}

enum status store_set_loaded(const char *dir, uint64_t epoch, struct error *err)
{
    char set[SET_NAME_SIZE];
    enum status st = store_set_current(dir, set, err);
    if (st)
        return st == STATUS_END ? error_set(err, STATUS_IO, "\"%s\" has lost its state", dir) : st;
    /* In order: the last file decides what the set is, see open_existing(). */
    uint32_t n = count_workers(dir, set);
    for (uint32_t i = 0; i < n && !st; i++) {
        CLEANUP(freep) char *path = store_worker_path(dir, set, i);
        st = path ? mark_loaded(path, epoch, err) : no_memory(err);
        if (!st && FAULT_POINT("load_marking"))
            st = error_set(err, STATUS_IO, "injected fault");
    }
    return st;
}

/* ---- another number of workers ---- */

struct spread {
    uint32_t n_from;
    uint32_t n_to;
    struct store *from[LIMIT_WORKERS];
    struct store *to[LIMIT_WORKERS];
    uint64_t next_key_id[LIMIT_WORKERS];
    uint32_t pending[LIMIT_WORKERS]; /* pages in the open transaction */
};

static void spread_close(struct spread *s)
{
    close_all(s->from, s->n_from);
    close_all(s->to, s->n_to);
}

static enum status copy_page(void *ctx, const struct store_page *page, struct error *err)
{
    struct spread *s = ctx;
    uint32_t w = page->partition % s->n_to;
    struct store_page copy = *page;
    copy.key_id = s->next_key_id[w]++;
    if (FAULT_POINT("respread_copy"))
        return error_set(err, STATUS_IO, "could not copy a key page: injected fault");
    enum status st = store_put_page(s->to[w], &copy, err);
    if (st || ++s->pending[w] < RESPREAD_PAGES_PER_COMMIT)
        return st;
    s->pending[w] = 0;
    st = store_end(s->to[w], STATUS_OK, err);
    return st ? st : store_begin(s->to[w], err);
}

static enum status copy_dead_letters(struct store *from, struct store *to, struct error *err)
{
    sqlite3_stmt *q = from->sql[SQL_EACH_DEAD];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_dead_letter d = store_column_dead_letter(q, 0);
        st = store_put_dead_letter(to, &d, &to->letters, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(from, "read", err);
    sqlite3_reset(q);
    return st ? st : store_trim_dead_letters(to, &to->letters, err);
}

static enum status copy_inbox_keys(struct store *from, struct store *to, struct error *err)
{
    sqlite3_stmt *q = from->sql[SQL_EACH_INBOX_KEY];
    enum status st = STATUS_OK;
    int rc = SQLITE_DONE;
    while (!st && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        struct store_key key = store_column_key(q);
        st = store_put_inbox_key(to, &key, err);
    }
    if (!st && rc != SQLITE_DONE)
        st = store_error(from, "read", err);
    sqlite3_reset(q);
    return st;
}

/* Every file holds every epoch. The day is that of the file furthest behind: closing and opening it
 * once more changes nothing in what the others had (pipeline/partition.h). */
static enum status copy_epochs(struct spread *s, struct store *to, struct error *err)
{
    struct store_day day = s->from[0]->day;
    enum status st = STATUS_OK;
    for (uint32_t w = 0; !st && w < s->n_from; w++) {
        const struct store_day *d = &s->from[w]->day;
        day.opened = d->opened < day.opened ? d->opened : day.opened;
        day.closed = d->closed < day.closed ? d->closed : day.closed;
        st = store_copy_epochs(s->from[w], to, err);
    }
    day.closed_jseq = to->meta.jseq;
    return st ? st : store_put_day(to, &day, err);
}

static enum status copy_rows(struct spread *s, struct error *err)
{
    enum status st = STATUS_OK;
    for (uint32_t w = 0; !st && w < s->n_to; w++) {
        s->next_key_id[w] = 1;
        st = store_begin(s->to[w], err);
    }
    for (uint32_t w = 0; !st && w < s->n_from; w++) {
        st = store_each_page(s->from[w], copy_page, s, err);
        if (!st)
            st = copy_dead_letters(s->from[w], s->to[w % s->n_to], err);
        if (!st)
            st = copy_inbox_keys(s->from[w], s->to[w % s->n_to], err);
        /* What was learned adds up, wherever it is kept. */
        if (!st)
            st = store_copy_parts(s->from[w], s->to[w % s->n_to], err);
    }
    /* Every worker was asked to forget; where a key has gone, what is not finished must follow. */
    for (uint32_t w = 0; !st && w < s->n_from; w++)
        for (uint32_t to = 0; !st && to < s->n_to; to++)
            st = store_copy_erasures(s->from[w], s->to[to], err);
    for (uint32_t w = 0; !st && w < s->n_to; w++)
        st = copy_epochs(s, s->to[w], err);
    for (uint32_t w = 0; !st && w < s->n_to; w++)
        st = store_end(s->to[w], STATUS_OK, err);
    return st;
}

static enum status copy_positions(struct spread *s, struct error *err)
{
    assert(s->n_from >= 1);
    enum status st = STATUS_OK;
    for (uint32_t w = 0; !st && w < s->n_to; w++) {
        struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS] = {0};
        for (int src = 0; src < SOURCE_COUNT; src++)
            for (uint32_t p = w; p < LIMIT_PARTITIONS; p += s->n_to)
                applied[src][p] = s->from[p % s->n_from]->applied[src][p];
        struct store_commit c = {
            .entries = STR(""),
            .applied = (const struct store_applied(*)[LIMIT_PARTITIONS])applied,
            .next_key_id = s->next_key_id[w],
        };
        st = store_commit(s->to[w], &c, err);
    }
    return st;
}

/* What every new file says of the whole; page sequence numbers of all old files stay valid. */
static struct store_meta merged_meta(const struct spread *s)
{
    struct store_meta m = s->from[s->n_from - 1]->meta;
    for (uint32_t w = 0; w < s->n_from; w++) {
        const struct store_meta *f = &s->from[w]->meta;
        m.epoch = f->epoch > m.epoch ? f->epoch : m.epoch;
        m.covered = f->covered < m.covered ? f->covered : m.covered;
        if (f->covered_inbox < m.covered_inbox)
            m.covered_inbox = f->covered_inbox;
        m.as_of_us = f->as_of_us > m.as_of_us ? f->as_of_us : m.as_of_us;
        m.jseq = f->jseq > m.jseq ? f->jseq : m.jseq;
    }
    m.folded = m.jseq;
    m.next_key_id = 1;
    return m;
}

static enum status write_spread_set(struct spread *s, const char *dir, const char *set,
                                    struct error *err)
{
    struct store_meta meta = merged_meta(s);
    enum status st = create_stores(dir, set, s->n_to, &meta, s->to, err);
    if (!st)
        st = copy_rows(s, err);
    if (!st)
        st = copy_positions(s, err);
    if (st)
        return st;
    /* A whole file has neither WAL nor an unclean mark: closing sees to both, and the set may only
     * be published if it worked. */
    for (uint32_t w = 0; w < s->n_to; w++) {
        st = store_close_checked(TAKE(s->to[w]), err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

enum status store_set_respread(const char *dir, uint32_t workers, struct error *err)
{
    assert(workers >= 1 && workers <= LIMIT_WORKERS);
    char old[SET_NAME_SIZE];
    enum status st = store_set_current(dir, old, err);
    if (st == STATUS_END)
        return error_set(err, STATUS_REFUSED, "\"%s\" holds no state to re-spread", dir);
    if (st)
        return st;
    CLEANUP(spread_close) struct spread s = {.n_from = count_workers(dir, old), .n_to = workers};
    if (s.n_from == workers)
        return STATUS_OK;
    if (s.n_from == 0)
        return error_set(err, STATUS_CORRUPT, "\"%s/CURRENT\" names \"%s\", which has no files",
                         dir, old);
    st = open_stores(dir, old, s.n_from, STORE_EPOCH_KEEP, s.from, err);
    for (uint32_t w = 0; !st && w < s.n_from; w++)
        if (s.from[w]->meta.jseq > s.from[w]->meta.folded)
            st = error_set(err, STATUS_REFUSED,
                           "\"%s\" has unfolded journal entries: fold them before re-spreading",
                           s.from[w]->path);

    unsigned highest = 0;
    if (!st)
        st = each_set(dir, remove_leftover, old, err);
    if (!st)
        st = each_set(dir, find_highest, &highest, err);
    if (st)
        return st;
    char set[SET_NAME_SIZE + 8];
    snprintf(set, sizeof(set), "set-%06u", highest + 1);
    st = set_number(set) ? write_spread_set(&s, dir, set, err)
                         : error_set(err, STATUS_LIMIT, "\"%s\" has too many sets", dir);
    if (!st)
        st = publish(dir, set, err);
    /* After a failed publish either name may be in CURRENT on disk: the next open tidies up. */
    if (!st)
        remove_set(dir, old);
    return st;
}
