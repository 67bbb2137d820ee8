#include "state/seen.h"

#include "core/hash.h"
#include "state/db.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT     1
#define PATH_BYTES 1024
#define KEEP_MARKS 4096 /* of the journal, in one transaction */

/* Open addressing; id 0 = empty. */
struct recent {
    struct recent_mark {
        uint64_t id, value;
    } * slots;
    uint32_t n, cap; /* cap: a power of two, or 0 */
};

struct seen {
    char path[PATH_BYTES];
    sqlite3 *db;
    sqlite3_stmt *find, *put, *forget;
    /* The journal is whole marks, as they are in memory: it does not leave this machine. It is
     * renamed before it is read, so that others can go on with a new one. */
    char notes[PATH_BYTES + 16], old[PATH_BYTES + 16];
    pthread_mutex_t lock; /* guards what follows */
    int fd;
    off_t size;
    struct recent recent[2]; /* the newer half and the older one */
};

void seen_close(struct seen *s)
{
    if (!s)
        return;
    sqlite3_finalize(s->find);
    sqlite3_finalize(s->put);
    sqlite3_finalize(s->forget);
    sqlite3_close(s->db);
    if (s->fd >= 0)
        (void)close(s->fd);
    free(s->recent[0].slots);
    free(s->recent[1].slots);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static enum status prepare(struct seen *s, const char *sql, sqlite3_stmt **ret, struct error *err)
{
    if (sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL) == SQLITE_OK)
        return STATUS_OK;
    return db_error(s->db, s->path, "read", err);
}

static enum status open_file(const char *path, struct seen **ret, struct error *err)
{
    static const char make[] =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE;"
        "CREATE TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY, value INTEGER NOT NULL,"
        " at INTEGER NOT NULL) STRICT; PRAGMA user_version = 1; COMMIT";
    int version = 0;
    CLEANUP(seen_closep) struct seen *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate what was seen");
    s->fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    snprintf(s->path, sizeof(s->path), "%s", path);
    snprintf(s->notes, sizeof(s->notes), "%s-notes", path);
    snprintf(s->old, sizeof(s->old), "%s-notes-old", path);
    if (sqlite3_open(path, &s->db) != SQLITE_OK)
        return db_error(s->db, path, "open", err);
    enum status st = db_version(s->db, path, FORMAT, &version, err);
    if (!st)
        st = db_exec(s->db, path, make, "set up", err);
    if (!st)
        st = prepare(s, "SELECT value FROM seen WHERE id = ?1", &s->find, err);
    if (!st)
        st = prepare(s, "INSERT OR REPLACE INTO seen VALUES (?1, ?2, ?3)", &s->put, err);
    if (!st)
        st = prepare(s, "DELETE FROM seen WHERE at < ?1", &s->forget, err);
    if (!st)
        *ret = TAKE(s);
    return st;
}

/* ---- the journal ---- */

static enum status file_error(const char *path, const char *what, struct error *err)
{
    int number = errno;
    char text[128];
    return error_set(err, STATUS_IO, "could not %s \"%s\": %s", what, path,
                     strerror_r(number, text, sizeof(text)));
}

static enum status open_notes(struct seen *s, struct error *err)
{
    s->fd = open(s->notes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    s->size = s->fd >= 0 ? lseek(s->fd, 0, SEEK_END) : -1;
    return s->size >= 0 ? STATUS_OK : file_error(s->notes, "open", err);
}

/* ---- what was noted lately ---- */

static struct recent_mark *recent_slot(const struct recent *r, uint64_t id)
{
    uint32_t i = (uint32_t)hash64_mix(id) & (r->cap - 1);
    while (r->slots[i].id && r->slots[i].id != id)
        i = (i + 1) & (r->cap - 1);
    return &r->slots[i];
}

static bool recent_grow(struct recent *r)
{
    struct recent grown = {.n = r->n, .cap = r->cap ? 2 * r->cap : 1024};
    grown.slots = calloc(grown.cap, sizeof(*grown.slots));
    if (!grown.slots)
        return false;
    for (uint32_t i = 0; i < r->cap; i++)
        if (r->slots[i].id)
            *recent_slot(&grown, r->slots[i].id) = r->slots[i];
    free(r->slots);
    *r = grown;
    return true;
}

/* Without memory it is not remembered here; the journal has it. */
static void recent_put(struct seen *s, const struct seen_mark *mark)
{
    struct recent *r = &s->recent[0];
    if (mark->id == 0 || (2 * r->n >= r->cap && !recent_grow(r)))
        return;
    struct recent_mark *slot = recent_slot(r, mark->id);
    r->n += slot->id == 0;
    *slot = (struct recent_mark){mark->id, mark->value};
    if (r->n == SEEN_RECENT) {
        free(s->recent[1].slots);
        s->recent[1] = *r;
        *r = (struct recent){0};
    }
}

/* NULL: nothing is known of it. */
static const struct recent_mark *recent_find(const struct seen *s, uint64_t id)
{
    for (size_t i = 0; i < 2; i++) {
        const struct recent *r = &s->recent[i];
        const struct recent_mark *slot = r->cap ? recent_slot(r, id) : NULL;
        if (slot && slot->id)
            return slot;
    }
    return NULL;
}

bool seen_recently(struct seen *s, const struct seen_mark *mark)
{
    pthread_mutex_lock(&s->lock);
    const struct recent_mark *slot = recent_find(s, mark->id);
    bool same = slot && slot->value == mark->value;
    pthread_mutex_unlock(&s->lock);
    return same;
}

bool seen_note(struct seen *s, const struct seen_mark *marks, size_t n)
{
    const size_t bytes = n * sizeof(*marks);
    pthread_mutex_lock(&s->lock);
    bool ok = s->fd >= 0 && write(s->fd, marks, bytes) == (ssize_t)bytes;
    if (ok)
        s->size += (off_t)bytes;
    else if (s->fd >= 0)
        (void)ftruncate(s->fd, s->size); /* a part of it would move all that follow */
    for (size_t i = 0; i < n; i++)
        recent_put(s, &marks[i]);
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* What is in the renamed journal goes into the file; the journal goes when it is there. */
static enum status keep_old(struct seen *s, struct error *err)
{
    FILE *f = fopen(s->old, "re");
    if (!f)
        return errno == ENOENT ? STATUS_OK : file_error(s->old, "open", err);
    struct seen_mark *marks = calloc(KEEP_MARKS, sizeof(*marks));
    if (!marks) {
        (void)fclose(f);
        return error_set(err, STATUS_NOMEM, "could not allocate notes");
    }
    enum status st = STATUS_OK;
    for (size_t n = 1; !st && n > 0;) {
        n = fread(marks, sizeof(*marks), KEEP_MARKS, f);
        if (n > 0)
            st = seen_add(s, marks, n, err);
    }
    if (!st && ferror(f))
        st = file_error(s->old, "read", err);
    free(marks);
    (void)fclose(f);
    if (!st && unlink(s->old) != 0)
        st = file_error(s->old, "remove", err);
    return st;
}

/* Sets the journal aside and begins a new one. */
static enum status turn_over(struct seen *s, struct error *err)
{
    enum status st = STATUS_OK;
    pthread_mutex_lock(&s->lock);
    if (s->fd < 0) {
        st = open_notes(s, err); /* it could not be opened the last time */
    } else if (s->size > 0) {
        if (rename(s->notes, s->old) == 0) {
            (void)close(s->fd);
            st = open_notes(s, err);
        } else {
            st = file_error(s->notes, "rename", err);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

enum status seen_keep(struct seen *s, struct error *err)
{
    enum status st = keep_old(s, err); /* left by a failure, or by another process */
    if (!st)
        st = turn_over(s, err);
    return st ? st : keep_old(s, err);
}

/* ---- opening ---- */

static void remove_file(const char *path)
{
    static const char *const parts[] = {"", "-wal", "-shm"};
    char part[PATH_BYTES + 8];
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(part, sizeof(part), "%s%s", path, parts[i]);
        (void)unlink(part);
    }
}

enum status seen_open(const char *path, struct seen **ret, bool *ret_lost, struct error *err)
{
    if (strlen(path) >= PATH_BYTES)
        return error_set(err, STATUS_IO, "the path \"%.100s...\" is too long", path);
    CLEANUP(seen_closep) struct seen *s = NULL;
    enum status st = open_file(path, &s, err);
    *ret_lost = st == STATUS_CORRUPT;
    if (st == STATUS_CORRUPT) {
        remove_file(path);
        st = open_file(path, &s, err);
    }
    assert(st || s);
    if (!st && s)
        st = open_notes(s, err);
    if (!st)
        st = seen_keep(s, err);
    if (!st)
        *ret = TAKE(s);
    return st;
}

enum status seen_has(struct seen *s, const struct seen_mark *mark, bool *ret, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    const struct recent_mark *slot = recent_find(s, mark->id);
    bool known = slot != NULL, same = slot && slot->value == mark->value;
    pthread_mutex_unlock(&s->lock);
    if (known) {
        *ret = same; /* newer than what the file says */
        return STATUS_OK;
    }
    db_bind_u64(s->find, 1, mark->id);
    int rc = sqlite3_step(s->find);
    enum status st = STATUS_OK;
    if (rc == SQLITE_ROW)
        *ret = db_column_u64(s->find, 0) == mark->value;
    else if (rc == SQLITE_DONE)
        *ret = false;
    else
        st = db_error(s->db, s->path, "read", err);
    sqlite3_reset(s->find);
    return st;
}

enum status seen_add(struct seen *s, const struct seen_mark *marks, size_t n, struct error *err)
{
    enum status st = db_exec(s->db, s->path, "BEGIN IMMEDIATE", "write", err);
    if (st)
        return st;
    for (size_t i = 0; i < n && !st; i++) {
        db_bind_u64(s->put, 1, marks[i].id);
        db_bind_u64(s->put, 2, marks[i].value);
        sqlite3_bind_int64(s->put, 3, marks[i].at_us);
        st = db_run(s->db, s->path, s->put, "write", err);
    }
    if (!st)
        st = db_exec(s->db, s->path, "COMMIT", "write", err);
    if (st)
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    return st;
}

enum status seen_forget(struct seen *s, int64_t before_us, struct error *err)
{
    sqlite3_bind_int64(s->forget, 1, before_us);
    return db_run(s->db, s->path, s->forget, "write", err);
}
