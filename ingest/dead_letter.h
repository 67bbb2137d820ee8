/*
 * ingest/dead_letter.h - a bounded rendering of a row that could not become an event.
 *
 * One column per part, `name(length)=first bytes`, parted by a blank; `old:` and `new:` before the
 * rows. NULL and values that were not sent say so instead. Bytes outside printable ASCII are
 * written \xNN, so that the result is text whatever the input was.
 */
#pragma once

#include "core/buf.h"
#include "core/event.h"
#include "core/lsn.h"
#include "core/status.h"
#include "ingest/pgoutput.h"

#define DEAD_LETTER_VALUE_BYTES 64 /* shown of each value */

/* Appends as much as fits below LIMIT_DEAD_LETTER_BYTES; a tuple with n == 0 is left out. */
MUST_CHECK enum status dead_letter_render(const struct relation *rel, const struct tuple *old_tuple,
                                          const struct tuple *new_tuple, struct buf *out);

/* The event that keeps an input of `where`. Both texts are copied into the arena; bytes are
 * borrowed. NOMEM. */
MUST_CHECK enum status dead_letter_event_of(const char *where, const char *reason,
                                            struct position position, int64_t at_us,
                                            struct str bytes, struct event_arena *arena,
                                            struct event *ret, struct error *err);
/* The event that keeps a row. reason is copied into the arena; bytes are borrowed. NOMEM. */
MUST_CHECK enum status dead_letter_event(const struct relation *rel, const char *reason,
                                         struct position position, int64_t at_us, struct str bytes,
                                         struct event_arena *arena, struct event *ret,
                                         struct error *err);
