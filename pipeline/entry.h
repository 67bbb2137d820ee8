/*
 * pipeline/entry.h - the journal entries of a partition worker: a redo log of what changed a key.
 *
 * Every entry but KEY is applied to one key by a pure step, so re-applying the entries beyond a
 * key's page rebuilds it exactly, timers and outbox included. Durable format: [kind u8] then
 *   KEY    key id, partition, user_id, bot_name     the key exists from here on
 *   APPLY  key id, now_us, as_of_us, commit_us, lsn, feature (engines/feature.h), n_df, df: with
 *          what its text teaches, which is learned again until it is stored (partition_epochs.c)
 *   FLUSH  key id, now_us, table, reason            its row is due: outbox entry without a payload
 *   SENT   key id, table, payload hash, valid_us, visit_from_us, visit_until_us
 *                                                   PostgreSQL has committed that row
 *   REQUEST key id, now_us, op, token               somebody asked for the key's rows
 *   BLANK  zeros                                    an entry that was erased; it keeps its number
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"
#include "engines/feature.h"
#include "pipeline/trigger.h"

enum entry_kind { ENTRY_KEY = 1, ENTRY_APPLY, ENTRY_FLUSH, ENTRY_SENT, ENTRY_REQUEST, ENTRY_BLANK };

struct entry {
    enum entry_kind kind;
    uint64_t key_id;
    uint32_t partition;       /* KEY */
    struct str user_id;       /* KEY */
    struct str bot_name;      /* KEY */
    int64_t now_us;           /* APPLY, FLUSH, REQUEST */
    int64_t as_of_us;         /* APPLY */
    int64_t commit_us;        /* APPLY */
    uint64_t lsn;             /* APPLY */
    struct feature feature;   /* APPLY */
    uint32_t table;           /* FLUSH, SENT */
    enum flush_reason reason; /* FLUSH */
    uint64_t payload_hash;    /* SENT, 0 = the row is gone */
    int64_t valid_us;         /* SENT, of the row; see struct trigger_state */
    int64_t visit_from_us;    /* SENT, see struct trigger_key */
    int64_t visit_until_us;
    enum request_op op; /* REQUEST */
    int64_t token_us;   /* REQUEST */
};

/* Appends varint length + bytes to out (the form store_commit takes). scratch is overwritten. */
MUST_CHECK enum status entry_append(const struct entry *e, struct buf *scratch, struct buf *out);
/* bytes without the length; strings in *ret borrow from bytes. */
MUST_CHECK enum status entry_decode(struct str bytes, struct entry *ret, struct error *err);
/* The key that an entry is about, 0 = none: without decoding the rest. */
uint64_t entry_key_id(struct str bytes);
/* Nothing is left of the entry but its length. */
void entry_blank(char *bytes, size_t len);
