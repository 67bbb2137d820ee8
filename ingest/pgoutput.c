#include "ingest/pgoutput.h"

#include "core/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/*
 * The scratch memory holds the largest message PostgreSQL can send: two tuples, or one column list.
 * Only TRUNCATE has no small bound on its list; its array grows to what one message has bytes for.
 */
struct pgoutput_decoder {
    struct value old_values[PGOUTPUT_COLUMNS_MAX];
    struct value new_values[PGOUTPUT_COLUMNS_MAX];
    struct relation_column columns[PGOUTPUT_COLUMNS_MAX];
    uint32_t *relation_ids;
    size_t relation_ids_cap;
};

enum status pgoutput_decoder_new(struct pgoutput_decoder **ret, struct error *err)
{
    assert(ret);
    struct pgoutput_decoder *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, STATUS_NOMEM, "could not allocate the pgoutput decoder");
    *ret = d;
    return STATUS_OK;
}

void pgoutput_decoder_free(struct pgoutput_decoder *d)
{
    if (!d)
        return;
    free(d->relation_ids);
    free(d);
}

static enum status malformed(struct error *err, const char *message, const char *what)
{
    return error_set(err, STATUS_PROTOCOL, "malformed pgoutput %s message: %s", message, what);
}

/* The server's clock counts from 2000. Events take its commit times: they must be years that can be
 * written down, 1 to 9999. */
static bool unix_us(uint64_t postgres_us, int64_t *ret)
{
    return !__builtin_add_overflow((int64_t)postgres_us, US_POSTGRES_EPOCH, ret) &&
           *ret >= TIME_MIN_US && *ret <= TIME_MAX_US;
}

/* Identifiers fit NAMEDATALEN (64) with their NUL. */
static bool copy_name(struct str name, char out[64])
{
    if (!name.ptr || name.len > 63)
        return false;
    memcpy(out, name.ptr, name.len);
    out[name.len] = '\0';
    return true;
}

static enum status decode_begin(struct reader *r, struct pgoutput_message *m, struct error *err)
{
    m->kind = PGOUTPUT_BEGIN;
    m->u.begin.final_lsn = reader_be64(r);
    bool time_ok = unix_us(reader_be64(r), &m->u.begin.commit_us);
    m->u.begin.xid = reader_be32(r);
    if (!r->bad && m->u.begin.final_lsn == LSN_INVALID)
        return malformed(err, "BEGIN", "final LSN is not set");
    if (!time_ok)
        return malformed(err, "BEGIN", "commit time is out of range");
    return STATUS_OK;
}

static enum status decode_commit(struct reader *r, struct pgoutput_message *m, struct error *err)
{
    m->kind = PGOUTPUT_COMMIT;
    uint8_t flags = reader_u8(r);
    m->u.commit.commit_lsn = reader_be64(r);
    m->u.commit.end_lsn = reader_be64(r);
    bool time_ok = unix_us(reader_be64(r), &m->u.commit.commit_us);
    if (r->bad)
        return STATUS_OK; /* reported once, by the caller */
    if (flags != 0)
        return malformed(err, "COMMIT", "unknown flags");
    /* What is acknowledged is end_lsn: it must lie behind the record it ends. */
    if (m->u.commit.end_lsn <= m->u.commit.commit_lsn)
        return malformed(err, "COMMIT", "end LSN is not behind the commit LSN");
    if (!time_ok)
        return malformed(err, "COMMIT", "commit time is out of range");
    return STATUS_OK;
}

static enum status decode_relation(struct pgoutput_decoder *d, struct reader *r,
                                   struct pgoutput_message *m, struct error *err)
{
    m->kind = PGOUTPUT_RELATION;
    struct relation *rel = &m->u.relation;
    rel->id = reader_be32(r);
    struct str schema = reader_cstring(r);
    struct str name = reader_cstring(r);
    rel->replica_identity = (char)reader_u8(r);
    rel->n_columns = reader_be16(r);
    rel->columns = d->columns;
    if (r->bad)
        return STATUS_OK;
    /* The server abbreviates pg_catalog to nothing. */
    if (schema.len == 0)
        schema = STR("pg_catalog");
    if (!copy_name(schema, rel->schema) || !copy_name(name, rel->name))
        return malformed(err, "RELATION", "a name is longer than 63 bytes");
    if (!rel->replica_identity || !strchr("dnfi", rel->replica_identity))
        return malformed(err, "RELATION", "unknown replica identity");
    if (rel->n_columns > PGOUTPUT_COLUMNS_MAX)
        return malformed(err, "RELATION", "more columns than a table can have");

    for (uint16_t i = 0; i < rel->n_columns; i++) {
        struct relation_column *c = &d->columns[i];
        c->identity = reader_u8(r) & 1;
        struct str column = reader_cstring(r);
        c->type_oid = reader_be32(r);
        c->type_modifier = (int32_t)reader_be32(r);
        if (r->bad)
            return STATUS_OK;
        if (!copy_name(column, c->name))
            return malformed(err, "RELATION", "a column name is longer than 63 bytes");
    }
    return STATUS_OK;
}

static enum status decode_tuple(struct reader *r, struct value values[PGOUTPUT_COLUMNS_MAX],
                                struct tuple *ret, struct error *err)
{
    uint16_t n = reader_be16(r);
    if (n > PGOUTPUT_COLUMNS_MAX)
        return malformed(err, "row", "more columns than a table can have");
    for (uint16_t i = 0; i < n && !r->bad; i++) {
        uint8_t kind = reader_u8(r);
        if (r->bad)
            break;
        switch (kind) {
        case VALUE_NULL:
        case VALUE_UNCHANGED:
            values[i] = (struct value){(enum value_kind)kind, STR_NULL};
            break;
        case VALUE_TEXT:
            values[i].kind = VALUE_TEXT;
            values[i].text = reader_bytes(r, reader_be32(r));
            break;
        case 'b':
            return malformed(err, "row", "a binary value, but text format was asked for");
        default:
            return malformed(err, "row", "unknown kind of value");
        }
    }
    *ret = (struct tuple){n, values};
    return STATUS_OK;
}

/* INSERT 'N' new; UPDATE ['K'|'O' old] 'N' new; DELETE 'K'|'O' old. */
static enum status decode_change(struct pgoutput_decoder *d, enum pgoutput_kind kind,
                                 struct reader *r, struct pgoutput_message *m, struct error *err)
{
    m->kind = kind;
    m->u.change.relation_id = reader_be32(r);
    m->u.change.old_kind = 0;
    m->u.change.old_tuple = (struct tuple){0, d->old_values};
    m->u.change.new_tuple = (struct tuple){0, d->new_values};
    uint8_t tag = reader_u8(r);
    if (r->bad)
        return STATUS_OK;

    if (kind != PGOUTPUT_INSERT && (tag == 'K' || tag == 'O')) {
        m->u.change.old_kind = (char)tag;
        enum status st = decode_tuple(r, d->old_values, &m->u.change.old_tuple, err);
        if (st || kind == PGOUTPUT_DELETE)
            return st;
        tag = reader_u8(r);
        if (r->bad)
            return STATUS_OK;
    }
    if (kind == PGOUTPUT_DELETE)
        return malformed(err, "DELETE", "no old row");
    if (tag != 'N')
        return malformed(err, "row", "no new row");
    return decode_tuple(r, d->new_values, &m->u.change.new_tuple, err);
}

static enum status decode_truncate(struct pgoutput_decoder *d, struct reader *r,
                                   struct pgoutput_message *m, struct error *err)
{
    m->kind = PGOUTPUT_TRUNCATE;
    uint32_t n = reader_be32(r);
    m->u.truncate.options = reader_u8(r);
    if (r->bad)
        return STATUS_OK;
    /* Checked before anything is allocated: the list cannot be longer than the message. */
    if (n > reader_left(r) / sizeof(uint32_t))
        return malformed(err, "TRUNCATE", "the list of relations is cut short");
    if (n > d->relation_ids_cap) {
        uint32_t *ids = realloc(d->relation_ids, n * sizeof(*ids));
        if (!ids)
            return error_set(err, STATUS_NOMEM, "could not allocate %u relation ids", n);
        d->relation_ids = ids;
        d->relation_ids_cap = n;
    }
    for (uint32_t i = 0; i < n; i++)
        d->relation_ids[i] = reader_be32(r);
    m->u.truncate.n = n;
    m->u.truncate.relation_ids = d->relation_ids;
    return STATUS_OK;
}

static enum status decode_message(struct reader *r, struct pgoutput_message *m, struct error *err)
{
    m->kind = PGOUTPUT_MESSAGE;
    uint8_t flags = reader_u8(r);
    m->u.message.transactional = flags & 1;
    m->u.message.lsn = reader_be64(r);
    m->u.message.prefix = reader_cstring(r);
    m->u.message.content = reader_bytes(r, reader_be32(r));
    if (!r->bad && (flags & ~1))
        return malformed(err, "MESSAGE", "unknown flags");
    return STATUS_OK;
}

static enum status decode_body(struct pgoutput_decoder *d, uint8_t type, struct reader *r,
                               struct pgoutput_message *m, struct error *err)
{
    switch (type) {
    case 'B':
        return decode_begin(r, m, err);
    case 'C':
        return decode_commit(r, m, err);
    case 'O':
        m->kind = PGOUTPUT_ORIGIN;
        m->u.origin.lsn = reader_be64(r);
        m->u.origin.name = reader_cstring(r);
        return STATUS_OK;
    case 'R':
        return decode_relation(d, r, m, err);
    case 'Y':
        m->kind = PGOUTPUT_TYPE;
        m->u.type.id = reader_be32(r);
        m->u.type.schema = reader_cstring(r);
        m->u.type.name = reader_cstring(r);
        return STATUS_OK;
    case 'I':
        return decode_change(d, PGOUTPUT_INSERT, r, m, err);
    case 'U':
        return decode_change(d, PGOUTPUT_UPDATE, r, m, err);
    case 'D':
        return decode_change(d, PGOUTPUT_DELETE, r, m, err);
    case 'T':
        return decode_truncate(d, r, m, err);
    case 'M':
        return decode_message(r, m, err);
    default:
        return error_set(err, STATUS_PROTOCOL, "unknown pgoutput message type 0x%02x", type);
    }
}

enum status pgoutput_decode(struct pgoutput_decoder *d, struct str bytes,
                            struct pgoutput_message *ret, struct error *err)
{
    assert(d);
    assert(ret);
    struct reader r = reader_of(bytes.ptr, bytes.len);
    uint8_t type = reader_u8(&r);
    if (r.bad)
        return error_set(err, STATUS_PROTOCOL, "empty pgoutput message");

    struct pgoutput_message m;
    enum status st = decode_body(d, type, &r, &m, err);
    if (st)
        return st;
    if (r.bad)
        return error_set(err, STATUS_PROTOCOL, "pgoutput message '%c' of %zu bytes is cut short",
                         type, bytes.len);
    if (reader_left(&r) > 0)
        return error_set(err, STATUS_PROTOCOL, "pgoutput message '%c' has %zu bytes too many", type,
                         reader_left(&r));
    *ret = m;
    return STATUS_OK;
}

enum status replication_frame_decode(struct str bytes, struct replication_frame *ret,
                                     struct error *err)
{
    assert(ret);
    struct reader r = reader_of(bytes.ptr, bytes.len);
    struct replication_frame f = {.keepalive = false};
    uint8_t type = reader_u8(&r);
    bool time_ok = true;
    if (!r.bad && type == 'w') {
        f.start = reader_be64(&r);
        f.wal_end = reader_be64(&r);
        time_ok = unix_us(reader_be64(&r), &f.server_us);
        f.payload = reader_bytes(&r, reader_left(&r));
    } else if (!r.bad && type == 'k') {
        f.keepalive = true;
        f.wal_end = reader_be64(&r);
        time_ok = unix_us(reader_be64(&r), &f.server_us);
        f.reply_requested = reader_u8(&r) != 0;
    } else {
        return error_set(err, STATUS_PROTOCOL, "unknown replication message type 0x%02x", type);
    }
    if (r.bad || reader_left(&r) > 0 || !time_ok)
        return error_set(err, STATUS_PROTOCOL, "malformed replication message '%c' of %zu bytes",
                         type, bytes.len);
    *ret = f;
    return STATUS_OK;
}
