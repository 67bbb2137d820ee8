#include "pipeline/entry.h"

#include <string.h>

static enum status put_key(const struct entry *e, struct buf *out)
{
    enum status st = buf_put_varint(out, e->partition);
    if (!st)
        st = buf_put_bytes(out, e->user_id);
    return st ? st : buf_put_bytes(out, e->bot_name);
}

static enum status put_apply(const struct entry *e, struct buf *out)
{
    enum status st = buf_put_svarint(out, e->now_us);
    /* Close to now in live operation: differences are short. */
    if (!st)
        st = buf_put_svarint(out, e->as_of_us - e->now_us);
    if (!st)
        st = buf_put_svarint(out, e->commit_us - e->now_us);
    if (!st)
        st = buf_put_varint(out, e->lsn);
    if (!st)
        st = feature_encode(&e->feature, out);
    if (!st)
        st = buf_put_varint(out, e->feature.n_df);
    for (size_t i = 0; i < e->feature.n_df && !st; i++)
        st = buf_put_varint(out, e->feature.df[i]);
    return st;
}

static void get_df(struct reader *r, struct feature *f)
{
    uint64_t n = reader_varint(r);
    if (n > TEXT_DF)
        r->bad = true;
    for (uint64_t i = 0; i < n && !r->bad; i++) {
        uint64_t bucket = reader_varint(r);
        if (bucket >= EPOCH_DF_BUCKETS)
            r->bad = true;
        f->df[f->n_df++] = (uint16_t)bucket;
    }
}

static enum status put_body(const struct entry *e, struct buf *out)
{
    enum status st = buf_put_u8(out, (uint8_t)e->kind);
    if (!st)
        st = buf_put_varint(out, e->key_id);
    if (st)
        return st;
    switch (e->kind) {
    case ENTRY_KEY:
        return put_key(e, out);
    case ENTRY_APPLY:
        return put_apply(e, out);
    case ENTRY_FLUSH:
        st = buf_put_svarint(out, e->now_us);
        if (!st)
            st = buf_put_varint(out, e->table);
        return st ? st : buf_put_u8(out, (uint8_t)e->reason);
    case ENTRY_SENT:
        st = buf_put_varint(out, e->table);
        if (!st)
            st = buf_put_u64(out, e->payload_hash);
        if (!st)
            st = buf_put_svarint(out, e->valid_us);
        if (!st)
            st = buf_put_svarint(out, e->visit_from_us);
        return st ? st : buf_put_svarint(out, e->visit_until_us);
    case ENTRY_REQUEST:
        st = buf_put_svarint(out, e->now_us);
        if (!st)
            st = buf_put_u8(out, (uint8_t)e->op);
        return st ? st : buf_put_svarint(out, e->token_us);
    case ENTRY_BLANK: /* only ever made of another one */
        break;
    }
    return STATUS_CORRUPT;
}

enum status entry_append(const struct entry *e, struct buf *scratch, struct buf *out)
{
    buf_reset(scratch);
    enum status st = put_body(e, scratch);
    return st ? st : buf_put_bytes(out, (struct str){scratch->data, scratch->len});
}

enum status entry_decode(struct str bytes, struct entry *ret, struct error *err)
{
    struct reader r = reader_of(bytes.ptr, bytes.len);
    ret->table = 0;
    ret->reason = FLUSH_NONE;
    ret->op = REQUEST_TOUCH;
    ret->kind = (enum entry_kind)reader_u8(&r);
    if (ret->kind == ENTRY_BLANK)
        return STATUS_OK;
    ret->key_id = reader_varint(&r);
    switch (ret->kind) {
    case ENTRY_KEY:
        ret->partition = (uint32_t)reader_varint(&r);
        ret->user_id = reader_blob(&r);
        ret->bot_name = reader_blob(&r);
        break;
    case ENTRY_APPLY: {
        ret->now_us = reader_svarint(&r);
        ret->as_of_us = ret->now_us + reader_svarint(&r);
        ret->commit_us = ret->now_us + reader_svarint(&r);
        ret->lsn = reader_varint(&r);
        enum status st = feature_decode(&r, &ret->feature, err);
        if (st)
            return st;
        get_df(&r, &ret->feature);
        break;
    }
    case ENTRY_FLUSH:
        ret->now_us = reader_svarint(&r);
        ret->table = (uint32_t)reader_varint(&r);
        ret->reason = (enum flush_reason)reader_u8(&r);
        break;
    case ENTRY_SENT: {
        ret->table = (uint32_t)reader_varint(&r);
        ret->payload_hash = reader_u64(&r);
        /* Entries of the version before end here. */
        bool former = reader_left(&r) == 0;
        ret->valid_us = former ? 0 : reader_svarint(&r);
        ret->visit_from_us = former ? 0 : reader_svarint(&r);
        ret->visit_until_us = former ? 0 : reader_svarint(&r);
        break;
    }
    case ENTRY_REQUEST:
        ret->now_us = reader_svarint(&r);
        ret->op = (enum request_op)reader_u8(&r);
        ret->token_us = reader_svarint(&r);
        break;
    case ENTRY_BLANK:
    default:
        return error_set(err, STATUS_CORRUPT, "journal entry of unknown kind %d", ret->kind);
    }
    if (r.bad || ret->table >= TABLE_COUNT || ret->reason >= FLUSH_REASONS ||
        ret->op < REQUEST_INVALIDATE || ret->op > REQUEST_TOUCH)
        return error_set(err, STATUS_CORRUPT, "malformed journal entry of kind %d", ret->kind);
    return STATUS_OK;
}

uint64_t entry_key_id(struct str bytes)
{
    struct reader r = reader_of(bytes.ptr, bytes.len);
    if (reader_u8(&r) == ENTRY_BLANK)
        return 0;
    uint64_t id = reader_varint(&r);
    return r.bad ? 0 : id;
}

void entry_blank(char *bytes, size_t len)
{
    memset(bytes, 0, len);
    if (len)
        bytes[0] = ENTRY_BLANK;
}
