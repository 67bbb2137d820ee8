/*
 * core/lsn.h - a write-ahead log position of PostgreSQL, and a position in an input.
 *
 * LSN: byte position, printed as %X/%X as the server does. Position: which event of an input.
 * For PostgreSQL that is (LSN of the commit record, row index in the transaction << 8 | event index
 * in the row): the start of the commit record is known at BEGIN (final_lsn), is unique, and grows
 * in commit order, which the COMMIT's end_lsn also does but only becomes known after the rows. For
 * the inbox and for `replay` it is (row id or line number, 0).
 */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

typedef uint64_t lsn_t;

#define LSN_INVALID   ((lsn_t)0)
#define LSN_FMT       "%" PRIX32 "/%" PRIX32
#define LSN_ARGS(lsn) (uint32_t)((lsn) >> 32), (uint32_t)(lsn)

struct position {
    uint64_t lsn;
    uint64_t seq;
};

static inline int position_compare(struct position a, struct position b)
{
    if (a.lsn != b.lsn)
        return a.lsn < b.lsn ? -1 : 1;
    return a.seq == b.seq ? 0 : a.seq < b.seq ? -1 : 1;
}

/* Parses "16/B374D848"; false leaves *ret untouched. */
bool lsn_parse(const char *text, lsn_t *ret);

/* Where events come from; positions of different sources are never compared. */
enum source {
    SOURCE_POSTGRES = 0, /* the replication slot, or the lines of `replay` */
    SOURCE_INBOX = 1,    /* webhooks, line protocol, Qdrant */
    SOURCE_COUNT
};
