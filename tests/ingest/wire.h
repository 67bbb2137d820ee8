/*
 * tests/ingest/wire.h - builds the bytes a PostgreSQL server would send (PostgreSQL documentation,
 * "Logical Replication Message Formats" and "Streaming Replication Protocol").
 */
#pragma once

#include "core/buf.h"
#include "core/clock.h"
#include "core/lsn.h"

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <string.h>

static inline void wire_bytes(struct buf *b, const void *bytes, size_t len)
{
    enum status st = buf_append(b, bytes, len);
    assert(!st);
    (void)st;
}

static inline void wire_u8(struct buf *b, uint8_t v)
{
    wire_bytes(b, &v, 1);
}

static inline void wire_u16(struct buf *b, uint16_t v)
{
    uint16_t be = htobe16(v);
    wire_bytes(b, &be, sizeof(be));
}

static inline void wire_u32(struct buf *b, uint32_t v)
{
    uint32_t be = htobe32(v);
    wire_bytes(b, &be, sizeof(be));
}

static inline void wire_u64(struct buf *b, uint64_t v)
{
    uint64_t be = htobe64(v);
    wire_bytes(b, &be, sizeof(be));
}

static inline void wire_cstring(struct buf *b, const char *s)
{
    wire_bytes(b, s, strlen(s) + 1);
}

static inline void wire_time(struct buf *b, int64_t unix_us)
{
    wire_u64(b, (uint64_t)(unix_us - US_POSTGRES_EPOCH));
}

static inline void wire_begin(struct buf *b, lsn_t final_lsn, int64_t commit_us)
{
    wire_u8(b, 'B');
    wire_u64(b, final_lsn);
    wire_time(b, commit_us);
    wire_u32(b, 4711);
}

static inline void wire_commit(struct buf *b, lsn_t commit_lsn, lsn_t end_lsn, int64_t commit_us)
{
    wire_u8(b, 'C');
    wire_u8(b, 0);
    wire_u64(b, commit_lsn);
    wire_u64(b, end_lsn);
    wire_time(b, commit_us);
}

/* A column whose name starts with '*' is part of the replica identity. NULL ends the list. */
static inline void wire_relation(struct buf *b, uint32_t id, const char *schema, const char *name,
                                 const char *const *columns)
{
    uint16_t n = 0;
    while (columns[n])
        n++;
    wire_u8(b, 'R');
    wire_u32(b, id);
    wire_cstring(b, schema);
    wire_cstring(b, name);
    wire_u8(b, 'd');
    wire_u16(b, n);
    for (uint16_t i = 0; i < n; i++) {
        wire_u8(b, columns[i][0] == '*');
        wire_cstring(b, columns[i] + (columns[i][0] == '*'));
        wire_u32(b, 25);
        wire_u32(b, UINT32_MAX);
    }
}

/* A value that stands for "unchanged TOAST", by address. NULL is NULL. */
static const char wire_unchanged[] = "(unchanged)";

static inline void wire_tuple(struct buf *b, uint16_t n, const char *const *values)
{
    wire_u16(b, n);
    for (uint16_t i = 0; i < n; i++) {
        if (!values[i]) {
            wire_u8(b, 'n');
        } else if (values[i] == wire_unchanged) {
            wire_u8(b, 'u');
        } else {
            wire_u8(b, 't');
            wire_u32(b, (uint32_t)strlen(values[i]));
            wire_bytes(b, values[i], strlen(values[i]));
        }
    }
}

static inline void wire_insert(struct buf *b, uint32_t id, uint16_t n, const char *const *values)
{
    wire_u8(b, 'I');
    wire_u32(b, id);
    wire_u8(b, 'N');
    wire_tuple(b, n, values);
}

/* old_kind: 'K', 'O', or 0 for none. */
static inline void wire_update(struct buf *b, uint32_t id, char old_kind, uint16_t n,
                               const char *const *old_values, const char *const *new_values)
{
    wire_u8(b, 'U');
    wire_u32(b, id);
    if (old_kind) {
        wire_u8(b, (uint8_t)old_kind);
        wire_tuple(b, n, old_values);
    }
    wire_u8(b, 'N');
    wire_tuple(b, n, new_values);
}

static inline void wire_delete(struct buf *b, uint32_t id, char old_kind, uint16_t n,
                               const char *const *old_values)
{
    wire_u8(b, 'D');
    wire_u32(b, id);
    wire_u8(b, (uint8_t)old_kind);
    wire_tuple(b, n, old_values);
}

static inline void wire_truncate(struct buf *b, uint32_t n, const uint32_t *ids)
{
    wire_u8(b, 'T');
    wire_u32(b, n);
    wire_u8(b, 0);
    for (uint32_t i = 0; i < n; i++)
        wire_u32(b, ids[i]);
}

static inline void wire_message(struct buf *b, bool transactional, lsn_t lsn, const char *prefix,
                                const char *content)
{
    wire_u8(b, 'M');
    wire_u8(b, transactional);
    wire_u64(b, lsn);
    wire_cstring(b, prefix);
    wire_u32(b, (uint32_t)strlen(content));
    wire_bytes(b, content, strlen(content));
}

/* The header of XLogData; the message follows. */
static inline void wire_xlog_data(struct buf *b, lsn_t lsn, int64_t server_us)
{
    wire_u8(b, 'w');
    wire_u64(b, lsn);
    wire_u64(b, lsn);
    wire_time(b, server_us);
}

static inline void wire_keepalive(struct buf *b, lsn_t wal_end, int64_t server_us, bool reply)
{
    wire_u8(b, 'k');
    wire_u64(b, wal_end);
    wire_time(b, server_us);
    wire_u8(b, reply);
}

static inline struct str wire_str(const struct buf *b)
{
    return (struct str){b->data, b->len};
}
