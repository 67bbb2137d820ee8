#include "tests/fault/faultvfs.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct range {
    size_t at, len;
};

/* What the disk holds of one file. */
struct disk_file {
    char path[200];
    char *image;
    size_t size;
    struct range *dirty; /* written, not yet synced */
    size_t n_dirty;
};

struct fault_file {
    sqlite3_file base;
    sqlite3_file *real; /* right behind this struct */
    struct disk_file *disk;
};

#define DISK_FILES_MAX 64

static struct disk_file *disk[DISK_FILES_MAX];
static size_t n_disk;
static bool power_watched;
static bool frozen;

static struct faultvfs_plan plan;
static int seen;
static bool happened;
static sqlite3_vfs *real_vfs;
static sqlite3_vfs fault_vfs;

static bool must_fail(enum faultvfs_op op)
{
    if (!(plan.ops & (int)op))
        return false;
    seen++;
    bool fail = plan.sticky ? seen >= plan.n : seen == plan.n;
    happened = happened || fail;
    return fail;
}

static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct fault_file *)f)->real;
}

static struct disk_file *disk_of(sqlite3_file *f)
{
    return ((struct fault_file *)f)->disk;
}

static void disk_note_write(sqlite3_file *f, sqlite3_int64 at, int n)
{
    struct disk_file *d = disk_of(f);
    if (!d)
        return;
    struct range *last = d->n_dirty ? &d->dirty[d->n_dirty - 1] : NULL;
    if (last && last->at + last->len == (size_t)at) {
        last->len += (size_t)n;
        return;
    }
    d->dirty = realloc(d->dirty, (d->n_dirty + 1) * sizeof(*d->dirty));
    assert(d->dirty);
    d->dirty[d->n_dirty++] = (struct range){(size_t)at, (size_t)n};
}

static void disk_resize(struct disk_file *d, size_t size)
{
    char *image = realloc(d->image, size + 1);
    assert(image);
    if (size > d->size)
        memset(image + d->size, 0, size - d->size);
    d->image = image;
    d->size = size;
}

/* Brings what was written since the last sync, and the size, to the disk. */
static void disk_note_sync(sqlite3_file *f)
{
    struct disk_file *d = disk_of(f);
    sqlite3_int64 size = 0;
    if (!d || real_of(f)->pMethods->xFileSize(real_of(f), &size) != SQLITE_OK)
        return;
    disk_resize(d, (size_t)size);
    for (size_t i = 0; i < d->n_dirty; i++) {
        size_t at = d->dirty[i].at;
        if (at >= d->size)
            continue;
        size_t len = d->dirty[i].len < d->size - at ? d->dirty[i].len : d->size - at;
        int rc =
            real_of(f)->pMethods->xRead(real_of(f), d->image + at, (int)len, (sqlite3_int64)at);
        assert(rc == SQLITE_OK);
        (void)rc;
    }
    d->n_dirty = 0;
}

static struct disk_file *disk_find(const char *path)
{
    for (size_t i = 0; i < n_disk; i++)
        if (strcmp(disk[i]->path, path) == 0)
            return disk[i];
    return NULL;
}

/* The file just opened as f: known, or whole on the disk. */
static struct disk_file *disk_open(const char *path, sqlite3_file *f)
{
    struct disk_file *d = disk_find(path);
    if (d)
        return d;
    assert(n_disk < DISK_FILES_MAX && strlen(path) < sizeof(d->path));
    d = disk[n_disk++] = calloc(1, sizeof(*d));
    assert(d);
    memcpy(d->path, path, strlen(path) + 1);
    sqlite3_int64 size = 0;
    int rc = f->pMethods->xFileSize(f, &size);
    assert(rc == SQLITE_OK);
    disk_resize(d, (size_t)size);
    if (size)
        rc = f->pMethods->xRead(f, d->image, (int)size, 0);
    assert(rc == SQLITE_OK);
    return d;
}

static void disk_forget(struct disk_file *d)
{
    free(d->image);
    free(d->dirty);
    free(d);
}

void faultvfs_power_on(void)
{
    for (size_t i = 0; i < n_disk; i++)
        disk_forget(disk[i]);
    n_disk = 0;
    power_watched = true;
}

void faultvfs_power_cut(void)
{
    for (size_t i = 0; i < n_disk; i++) {
        FILE *file = fopen(disk[i]->path, "w");
        assert(file);
        size_t n = fwrite(disk[i]->image, 1, disk[i]->size, file);
        assert(n == disk[i]->size);
        (void)n;
        fclose(file);
    }
    faultvfs_power_on();
    power_watched = false;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Brings what is not synced of one range to the disk, from the file as it is. */
static void disk_keep(struct disk_file *d, FILE *file, size_t at, size_t len)
{
    if (at + len > d->size)
        disk_resize(d, at + len);
    if (fseek(file, (long)at, SEEK_SET) == 0) {
        size_t n = fread(d->image + at, 1, len, file);
        assert(n <= len);
        (void)n;
    }
}

void faultvfs_power_cut_some(uint64_t random)
{
    uint64_t state = random | 1;
    for (size_t i = 0; i < n_disk; i++) {
        FILE *file = fopen(disk[i]->path, "r");
        for (size_t k = 0; file && k < disk[i]->n_dirty; k++) {
            struct range r = disk[i]->dirty[k];
            uint64_t fate = next_random(&state) % 4;
            if (fate < 2) /* lost */
                continue;
            disk_keep(disk[i], file, r.at, fate == 2 ? r.len : r.len / 2);
        }
        if (file)
            fclose(file);
    }
    faultvfs_power_cut();
}

void faultvfs_freeze(bool on)
{
    frozen = on;
}

static int file_close(sqlite3_file *f)
{
    return real_of(f)->pMethods->xClose(real_of(f));
}

static int file_read(sqlite3_file *f, void *out, int n, sqlite3_int64 at)
{
    return real_of(f)->pMethods->xRead(real_of(f), out, n, at);
}

static int file_write(sqlite3_file *f, const void *bytes, int n, sqlite3_int64 at)
{
    if (frozen)
        return SQLITE_OK;
    if (must_fail(FAULTVFS_WRITE)) {
        if (plan.torn) {
            (void)real_of(f)->pMethods->xWrite(real_of(f), bytes, n / 2, at);
            disk_note_write(f, at, n / 2);
        }
        return plan.code;
    }
    disk_note_write(f, at, n);
    return real_of(f)->pMethods->xWrite(real_of(f), bytes, n, at);
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (frozen)
        return SQLITE_OK;
    if (must_fail(FAULTVFS_WRITE))
        return plan.code;
    return real_of(f)->pMethods->xTruncate(real_of(f), size);
}

static int file_sync(sqlite3_file *f, int flags)
{
    if (frozen)
        return SQLITE_OK;
    if (must_fail(FAULTVFS_SYNC)) {
        if (disk_of(f))
            disk_of(f)->n_dirty = 0;
        return plan.code;
    }
    int rc = real_of(f)->pMethods->xSync(real_of(f), flags);
    if (rc == SQLITE_OK)
        disk_note_sync(f);
    return rc;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *out)
{
    return real_of(f)->pMethods->xFileSize(real_of(f), out);
}

static int file_lock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int file_unlock(sqlite3_file *f, int level)
{
    return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int file_check_lock(sqlite3_file *f, int *out)
{
    return real_of(f)->pMethods->xCheckReservedLock(real_of(f), out);
}

static int file_control(sqlite3_file *f, int op, void *arg)
{
    return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}

static int file_sector(sqlite3_file *f)
{
    return real_of(f)->pMethods->xSectorSize(real_of(f));
}

static int file_traits(sqlite3_file *f)
{
    return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static int shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
    return real_of(f)->pMethods->xShmMap(real_of(f), page, size, extend, out);
}

static int shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return real_of(f)->pMethods->xShmLock(real_of(f), offset, n, flags);
}

static void shm_barrier(sqlite3_file *f)
{
    real_of(f)->pMethods->xShmBarrier(real_of(f));
}

static int shm_unmap(sqlite3_file *f, int remove)
{
    return real_of(f)->pMethods->xShmUnmap(real_of(f), remove && !frozen);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* 3 would add memory mapping, which the store does not use */
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_lock,
    .xFileControl = file_control,
    .xSectorSize = file_sector,
    .xDeviceCharacteristics = file_traits,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *out, int flags,
                    int *ret_flags)
{
    (void)vfs;
    struct fault_file *f = (struct fault_file *)out;
    f->base.pMethods = NULL;
    if (must_fail(FAULTVFS_OPEN))
        return plan.code;
    f->real = (sqlite3_file *)(f + 1);
    int rc = real_vfs->xOpen(real_vfs, name, f->real, flags, ret_flags);
    if (rc != SQLITE_OK)
        return rc;
    f->base.pMethods = &methods;
    f->disk = power_watched && name ? disk_open(name, f->real) : NULL;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
    (void)vfs;
    if (frozen)
        return SQLITE_OK;
    if (must_fail(FAULTVFS_DELETE))
        return plan.code;
    int rc = real_vfs->xDelete(real_vfs, name, sync);
    /* Taken as durable at once: what a returning file could do, a kept one does in other tests. */
    for (size_t i = 0; rc == SQLITE_OK && i < n_disk; i++) {
        if (strcmp(disk[i]->path, name) != 0)
            continue;
        disk_forget(disk[i]);
        disk[i] = disk[--n_disk];
        break;
    }
    return rc;
}

void faultvfs_install(void)
{
    real_vfs = sqlite3_vfs_find(NULL);
    assert(real_vfs && real_vfs != &fault_vfs);
    fault_vfs = *real_vfs;
    fault_vfs.zName = "fault";
    fault_vfs.pNext = NULL;
    fault_vfs.szOsFile = (int)sizeof(struct fault_file) + real_vfs->szOsFile;
    fault_vfs.xOpen = vfs_open;
    fault_vfs.xDelete = vfs_delete;
    int rc = sqlite3_vfs_register(&fault_vfs, 1);
    assert(rc == SQLITE_OK);
    (void)rc;
}

void faultvfs_arm(const struct faultvfs_plan *p)
{
    plan = *p;
    seen = 0;
    happened = false;
}

bool faultvfs_disarm(void)
{
    plan = (struct faultvfs_plan){0};
    return happened;
}
