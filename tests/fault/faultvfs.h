/*
 * tests/fault/faultvfs.h - a SQLite VFS in front of the default one that makes the n-th operation
 * fail, and every later one too if asked (a disk that is gone).
 *
 * Operations counted: open, write, truncate, sync, delete. A failing write may first write half of
 * its bytes, as a full disk does.
 *
 * It also knows what a power cut would leave: of each file what its last successful sync had seen.
 * A failed sync drops what was written before it for good, as the Linux page cache does: the next
 * sync succeeds and writes nothing of it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum faultvfs_op { FAULTVFS_OPEN = 1, FAULTVFS_WRITE = 2, FAULTVFS_SYNC = 4, FAULTVFS_DELETE = 8 };
#define FAULTVFS_ANY 15

struct faultvfs_plan {
    int ops;     /* which operations count: enum faultvfs_op, or-ed */
    int n;       /* the n-th of them fails, from 1 */
    int code;    /* SQLITE_IOERR_WRITE, SQLITE_FULL, ... */
    bool sticky; /* so do all that follow */
    bool torn;   /* a failing write writes its first half */
};

/* Makes it the default VFS of this process. */
void faultvfs_install(void);
void faultvfs_arm(const struct faultvfs_plan *plan);
/* Disarms; whether the fault happened. */
bool faultvfs_disarm(void);

/* Forgets all files, and takes what those opened from now on hold as durable. */
void faultvfs_power_on(void);
/* Sets every file opened since to what the disk holds, and stops watching. No file may be open. */
void faultvfs_power_cut(void);
/* The same, but of what was not synced some writes are there, some half: random decides. */
void faultvfs_power_cut_some(uint64_t random);
/* While frozen nothing reaches the files and every operation says that it did: closing them then
 * leaves exactly what a killed process leaves. */
void faultvfs_freeze(bool frozen);
