#include "pipeline/frame.h"

#include <msgpack.h>

#include "core/limits.h"

_Static_assert(SOURCE_COUNT == 2, "a header has so many covered positions");

#define HEADER_FIELDS  9
#define EVENT_FIELDS   9
#define APPLIED_FIELDS 5
#define SUMS_FIELDS    2

/* msgpack's writer callback: 0 is success. */
static int frame_write(void *data, const char *bytes, size_t len)
{
    return buf_append(data, bytes, len) == STATUS_OK ? 0 : -1;
}

static enum status packed(int failed)
{
    /* The only way to fail is the buffer: memory, or the frame's ceiling. */
    return failed ? STATUS_LIMIT : STATUS_OK;
}

enum status frame_put_header(struct buf *out, const struct frame_header *h)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, frame_write);
    int failed = msgpack_pack_array(&pk, HEADER_FIELDS);
    failed |= msgpack_pack_uint32(&pk, FRAME_VERSION);
    failed |= msgpack_pack_uint32(&pk, h->kind);
    failed |= msgpack_pack_uint64(&pk, h->number);
    failed |= msgpack_pack_int64(&pk, h->as_of_us);
    for (int s = 0; s < SOURCE_COUNT; s++)
        failed |= msgpack_pack_uint64(&pk, h->covered[s]);
    failed |= msgpack_pack_uint32(&pk, h->n);
    failed |= msgpack_pack_int32(&pk, h->opened);
    failed |= msgpack_pack_int32(&pk, h->closed);
    return packed(failed);
}

enum status frame_put_event(struct buf *out, const struct frame_event *e)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, frame_write);
    int failed = msgpack_pack_array(&pk, EVENT_FIELDS);
    failed |= msgpack_pack_uint32(&pk, e->partition);
    failed |= msgpack_pack_uint64(&pk, e->pseq);
    failed |= msgpack_pack_uint64(&pk, e->pos.lsn);
    failed |= msgpack_pack_uint64(&pk, e->pos.seq);
    failed |= msgpack_pack_int64(&pk, e->commit_us);
    failed |= msgpack_pack_int64(&pk, e->as_of_us);
    failed |= msgpack_pack_bin_with_body(&pk, e->bytes.ptr, e->bytes.len);
    failed |= msgpack_pack_uint32(&pk, e->step);
    failed |= msgpack_pack_uint32(&pk, e->source);
    return packed(failed);
}

enum status frame_mark_encode(const struct rebuild_event *e, struct buf *out)
{
    enum status st = buf_put_bytes(out, e->user_id);
    st = st ? st : buf_put_bytes(out, e->bot_name);
    st = st ? st : buf_put_varint(out, e->types);
    return st ? st : buf_put_varint(out, e->tables);
}

enum status frame_mark_decode(struct str bytes, struct rebuild_event *ret, struct error *err)
{
    struct reader r = reader_of(bytes.ptr, bytes.len);
    *ret = (struct rebuild_event){.user_id = reader_blob(&r), .bot_name = reader_blob(&r)};
    ret->types = (uint32_t)reader_varint(&r);
    ret->tables = (uint32_t)reader_varint(&r);
    if (r.bad || reader_left(&r) > 0 || ret->bot_name.len == 0)
        return error_set(err, STATUS_PROTOCOL, "malformed mark of a rebuilt key");
    return STATUS_OK;
}

enum status frame_put_applied(struct buf *out, const struct frame_applied *a)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, frame_write);
    int failed = msgpack_pack_array(&pk, APPLIED_FIELDS);
    failed |= msgpack_pack_uint32(&pk, a->source);
    failed |= msgpack_pack_uint32(&pk, a->partition);
    failed |= msgpack_pack_uint64(&pk, a->pos.lsn);
    failed |= msgpack_pack_uint64(&pk, a->pos.seq);
    failed |= msgpack_pack_uint64(&pk, a->pseq);
    return packed(failed);
}

enum status frame_put_sums(struct buf *out, const struct frame_sums *s)
{
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, frame_write);
    int failed = msgpack_pack_array(&pk, SUMS_FIELDS);
    failed |= msgpack_pack_bin_with_body(&pk, s->bot_name.ptr, s->bot_name.len);
    failed |= msgpack_pack_bin_with_body(&pk, s->bytes.ptr, s->bytes.len);
    return packed(failed);
}

enum status frame_reader_init(struct frame_reader *r)
{
    *r = (struct frame_reader){.zone = msgpack_zone_new(8192)};
    return r->zone ? STATUS_OK : STATUS_NOMEM;
}

void frame_reader_deinit(struct frame_reader *r)
{
    if (r->zone)
        msgpack_zone_free(r->zone);
    *r = (struct frame_reader){0};
}

/* The next object, which must be an array of at least n elements; NULL otherwise. */
static const msgpack_object *next_array(struct frame_reader *r, msgpack_object *object, uint32_t n)
{
    msgpack_zone_clear(r->zone);
    msgpack_unpack_return rc =
        msgpack_unpack(r->bytes.ptr, r->bytes.len, &r->offset, r->zone, object);
    if (rc != MSGPACK_UNPACK_SUCCESS && rc != MSGPACK_UNPACK_EXTRA_BYTES)
        return NULL;
    if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size < n)
        return NULL;
    return object->via.array.ptr;
}

static bool read_u64(const msgpack_object *o, uint64_t max, uint64_t *ret)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max)
        return false;
    *ret = o->via.u64;
    return true;
}

static bool read_i64(const msgpack_object *o, int64_t *ret)
{
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        *ret = o->via.i64;
        return true;
    }
    uint64_t v = 0;
    if (!read_u64(o, INT64_MAX, &v))
        return false;
    *ret = (int64_t)v;
    return true;
}

enum status frame_open(struct frame_reader *r, struct str bytes, struct frame_header *ret,
                       struct error *err)
{
    r->bytes = bytes;
    r->offset = 0;
    msgpack_object object;
    /* The version first: another one may have other fields. */
    const msgpack_object *f = next_array(r, &object, 1);
    uint32_t size = f ? object.via.array.size : 0;
    struct frame_header h = {0};
    uint64_t version = 0;
    uint64_t kind = 0;
    uint64_t n = 0;
    uint64_t opened = 0;
    uint64_t closed = 0;
    if (f && read_u64(&f[0], UINT32_MAX, &version) && version != FRAME_VERSION)
        return error_set(err, STATUS_PROTOCOL,
                         "frame version %u, but this build speaks %d: run the same build on both "
                         "ends of a link",
                         (unsigned)version, FRAME_VERSION);
    if (!f || version == 0 || size < HEADER_FIELDS || !read_u64(&f[1], FRAME_DAY, &kind) ||
        kind < FRAME_EVENTS || !read_u64(&f[2], UINT64_MAX, &h.number) ||
        !read_i64(&f[3], &h.as_of_us) ||
        !read_u64(&f[4], UINT64_MAX, &h.covered[SOURCE_POSTGRES]) ||
        !read_u64(&f[5], UINT64_MAX, &h.covered[SOURCE_INBOX]) ||
        !read_u64(&f[6], UINT32_MAX, &n) || !read_u64(&f[7], INT32_MAX, &opened) ||
        !read_u64(&f[8], INT32_MAX, &closed))
        return error_set(err, STATUS_PROTOCOL, "malformed frame header of %zu bytes", bytes.len);
    h.kind = (enum frame_kind)kind;
    h.n = (uint32_t)n;
    h.opened = (int32_t)opened;
    h.closed = (int32_t)closed;
    *ret = h;
    return STATUS_OK;
}

enum status frame_next_event(struct frame_reader *r, struct frame_event *ret, struct error *err)
{
    msgpack_object object;
    const msgpack_object *f = next_array(r, &object, EVENT_FIELDS);
    struct frame_event e = {0};
    uint64_t partition = 0;
    uint64_t step = 0;
    uint64_t source = 0;
    if (!f || !read_u64(&f[0], LIMIT_PARTITIONS - 1, &partition) ||
        !read_u64(&f[7], REBUILD_END, &step) || !read_u64(&f[8], SOURCE_COUNT - 1, &source) ||
        !read_u64(&f[1], UINT64_MAX, &e.pseq) || !read_u64(&f[2], UINT64_MAX, &e.pos.lsn) ||
        !read_u64(&f[3], UINT64_MAX, &e.pos.seq) || !read_i64(&f[4], &e.commit_us) ||
        !read_i64(&f[5], &e.as_of_us) || f[6].type != MSGPACK_OBJECT_BIN)
        return error_set(err, STATUS_PROTOCOL, "malformed event at byte %zu of a frame", r->offset);
    e.partition = (uint32_t)partition;
    e.step = (enum rebuild_step)step;
    e.source = (enum source)source;
    e.bytes = (struct str){f[6].via.bin.ptr, f[6].via.bin.size};
    *ret = e;
    return STATUS_OK;
}

enum status frame_next_applied(struct frame_reader *r, struct frame_applied *ret, struct error *err)
{
    msgpack_object object;
    const msgpack_object *f = next_array(r, &object, APPLIED_FIELDS);
    struct frame_applied a = {0};
    uint64_t source = 0;
    uint64_t partition = 0;
    if (!f || !read_u64(&f[0], SOURCE_COUNT - 1, &source) ||
        !read_u64(&f[1], LIMIT_PARTITIONS - 1, &partition) ||
        !read_u64(&f[2], UINT64_MAX, &a.pos.lsn) || !read_u64(&f[3], UINT64_MAX, &a.pos.seq) ||
        !read_u64(&f[4], UINT64_MAX, &a.pseq))
        return error_set(err, STATUS_PROTOCOL, "malformed position at byte %zu of a frame",
                         r->offset);
    a.source = (enum source)source;
    a.partition = (uint32_t)partition;
    *ret = a;
    return STATUS_OK;
}

enum status frame_next_sums(struct frame_reader *r, struct frame_sums *ret, struct error *err)
{
    msgpack_object object;
    const msgpack_object *f = next_array(r, &object, SUMS_FIELDS);
    if (!f || f[0].type != MSGPACK_OBJECT_BIN || f[1].type != MSGPACK_OBJECT_BIN)
        return error_set(err, STATUS_PROTOCOL, "malformed sums at byte %zu of a frame", r->offset);
    *ret = (struct frame_sums){{f[0].via.bin.ptr, f[0].via.bin.size},
                               {f[1].via.bin.ptr, f[1].via.bin.size}};
    return STATUS_OK;
}
