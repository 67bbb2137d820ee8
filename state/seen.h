/*
 * state/seen.h - which values have been counted, for a source that is read again and again.
 *
 * One SQLite file and a journal beside it (PATH-notes, PATH-notes-old). Both are written after what
 * they tell of was committed elsewhere, and reach the disk when the system likes: the end of the
 * process loses nothing that was noted, a power cut may lose the newest; never is there a mark of
 * something that was not counted. The files can be lost: then what is read again counts again, as
 * far as nobody else notices. One thread, but for seen_note().
 */
#pragma once

#include "core/cleanup.h"
#include "core/seen_mark.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Kept in memory in two halves, the older of which goes as a whole: at least so many, 16 bytes each
 * in a table that is half empty. */
#define SEEN_RECENT (1u << 17)

struct seen;

/* Opens or creates it. A file that cannot be read is replaced by an empty one, and *ret_lost set.
 * IO, NOMEM; REFUSED: a newer format. */
MUST_CHECK enum status seen_open(const char *path, struct seen **ret, bool *ret_lost,
                                 struct error *err);
void seen_close(struct seen *s); /* NULL is a no-op */
CLEANUP_FREEP(struct seen, seen_close);

/* Is this the value that was last noted of mark->id? IO. */
MUST_CHECK enum status seen_has(struct seen *s, const struct seen_mark *mark, bool *ret,
                                struct error *err);
/* All of them in one transaction, a later one in place of an earlier one. IO. */
MUST_CHECK enum status seen_add(struct seen *s, const struct seen_mark *marks, size_t n,
                                struct error *err);
/* Any thread: one write to the journal, nothing that waits for a disk. Known at once, as long as
 * they are among the newest SEEN_RECENT, and for good after the next seen_keep(), or in the next
 * process. False: the journal could not be written. */
bool seen_note(struct seen *s, const struct seen_mark *marks, size_t n);
/* As seen_has(), but only of what was noted lately. Any thread; does not wait for a disk. */
bool seen_recently(struct seen *s, const struct seen_mark *mark);
/* What was noted is as if it were added. On failure it is kept for the next time. IO, NOMEM. */
MUST_CHECK enum status seen_keep(struct seen *s, struct error *err);
/* What is older goes; reads the whole file. IO. */
MUST_CHECK enum status seen_forget(struct seen *s, int64_t before_us, struct error *err);
