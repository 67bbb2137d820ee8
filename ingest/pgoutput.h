/*
 * ingest/pgoutput.h - decodes the messages of PostgreSQL's pgoutput plug-in, protocol version 1,
 * text format (PostgreSQL documentation, "Logical Replication Message Formats").
 *
 * Pure: bytes in, a struct that borrows from them out. Every length is checked; a malformed or
 * unknown message is PROTOCOL, never skipped.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/lsn.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

#define PGOUTPUT_COLUMNS_MAX 1600 /* MaxHeapAttributeNumber */

enum pgoutput_kind {
    PGOUTPUT_BEGIN,
    PGOUTPUT_COMMIT,
    PGOUTPUT_ORIGIN,
    PGOUTPUT_RELATION,
    PGOUTPUT_TYPE,
    PGOUTPUT_INSERT,
    PGOUTPUT_UPDATE,
    PGOUTPUT_DELETE,
    PGOUTPUT_TRUNCATE,
    PGOUTPUT_MESSAGE,
};

enum value_kind {
    VALUE_NULL = 'n',
    VALUE_UNCHANGED = 'u', /* TOASTed and not part of this UPDATE */
    VALUE_TEXT = 't',
};

struct value {
    enum value_kind kind;
    struct str text; /* VALUE_TEXT; not NUL-terminated */
};

struct tuple {
    uint16_t n;
    struct value *values; /* n of them, in the decoder's scratch array */
};

struct relation_column {
    char name[64];
    bool identity; /* part of the replica identity */
    uint32_t type_oid;
    int32_t type_modifier;
};

struct relation {
    uint32_t id;
    char schema[64];
    char name[64];
    char replica_identity; /* d, n, f, i */
    uint16_t n_columns;
    struct relation_column *columns; /* owned by the relation cache, or by the decoder's scratch */
};

struct pgoutput_message {
    enum pgoutput_kind kind;
    union {
        struct {
            lsn_t final_lsn;   /* start of the commit record */
            int64_t commit_us; /* Unix epoch */
            uint32_t xid;
        } begin;
        struct {
            lsn_t commit_lsn; /* == BEGIN's final_lsn */
            lsn_t end_lsn;
            int64_t commit_us;
        } commit;
        struct {
            lsn_t lsn;
            struct str name;
        } origin;
        struct relation relation;
        struct {
            uint32_t id;
            struct str schema;
            struct str name;
        } type;
        struct {
            uint32_t relation_id;
            char old_kind;          /* 'K' key, 'O' whole old row, 0 none */
            struct tuple old_tuple; /* n == 0 when none */
            struct tuple new_tuple; /* n == 0 for DELETE */
        } change;
        struct {
            uint8_t options; /* 1 CASCADE, 2 RESTART IDENTITY */
            uint32_t n;
            const uint32_t *relation_ids; /* host byte order, in scratch */
        } truncate;
        struct {
            bool transactional;
            lsn_t lsn;
            struct str prefix;
            struct str content;
        } message;
    } u;
};

struct pgoutput_decoder; /* scratch memory for tuples and columns, reused by every message */
MUST_CHECK enum status pgoutput_decoder_new(struct pgoutput_decoder **ret, struct error *err);
void pgoutput_decoder_free(struct pgoutput_decoder *d);
CLEANUP_FREEP(struct pgoutput_decoder, pgoutput_decoder_free);

/* *ret borrows from bytes and from the decoder until the next call. */
MUST_CHECK enum status pgoutput_decode(struct pgoutput_decoder *d, struct str bytes,
                                       struct pgoutput_message *ret, struct error *err);

/* The outer envelope in CopyData: XLogData 'w' or keepalive 'k'. */
struct replication_frame {
    bool keepalive;
    lsn_t start; /* XLogData */
    lsn_t wal_end;
    int64_t server_us; /* the server's clock, Unix epoch */
    bool reply_requested;
    struct str payload; /* XLogData */
};
MUST_CHECK enum status replication_frame_decode(struct str bytes, struct replication_frame *ret,
                                                struct error *err);
