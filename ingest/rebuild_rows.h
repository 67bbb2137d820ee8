/*
 * ingest/rebuild_rows.h - the rows of a few users or bots, read from the mapped tables by SELECT.
 *
 * Which column says whose a row is comes from the mapping: where it is a plain column, an index on
 * it makes each read a short one; a path or a list of sources is looked for in all rows. The row
 * filter of the publication holds here too. One connection, one thread, nothing is written but
 * watermarks.
 */
#pragma once

#include "core/pg.h"
#include "ingest/mapping.h"
#include "ingest/rebuild_chunk.h"

struct rebuild_rows;

/* IO, REFUSED: as of core/pg.h for the source. mappings are copied. since_us: older messages and
 * metrics are left out, they no longer count. */
MUST_CHECK enum status rebuild_rows_open(const char *conninfo, const char *publication,
                                         const struct mapping_set *mappings, int64_t since_us,
                                         struct rebuild_rows **ret, struct error *err);
void rebuild_rows_close(struct rebuild_rows *r);
CLEANUP_FREEP(struct rebuild_rows, rebuild_rows_close);
PGconn *rebuild_rows_connection(struct rebuild_rows *r);

/* 1 << enum event_type of everything that there is a table of. */
uint32_t rebuild_rows_types(const struct rebuild_rows *r);

/* The distinct users, or bots as the rows spell them, after the given one ("": from the first), by
 * bytes. One scan of each table now, which the server keeps. */
MUST_CHECK enum status rebuild_rows_list(struct rebuild_rows *r, bool bots, const char *after,
                                         struct error *err);
/* END after the last. Borrowed until the next call. */
MUST_CHECK enum status rebuild_rows_name(struct rebuild_rows *r, struct str *ret,
                                         struct error *err);

/* All rows of the users, or bots as the rows spell them: an array literal of texts. One snapshot.
 * Rows that cannot be used are left out. LIMIT: the chunk is full. */
MUST_CHECK enum status rebuild_rows_read(struct rebuild_rows *r, bool bots, const char *names,
                                         struct rebuild_chunk *c, struct error *err);
/* Writes a transactional message into the log. */
MUST_CHECK enum status rebuild_rows_watermark(struct rebuild_rows *r, const char *prefix,
                                              const char *token, struct error *err);
