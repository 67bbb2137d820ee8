/*
 * Written with msgpack-c. Read by a cursor of our own: the event is a flat array in a fixed order,
 * so nothing needs to be built, allocated or walked twice, and a length is only ever compared with
 * the bytes that are left. (msgpack-c's unpacker allocates what the head of an array declares
 * before it has seen an element, and takes twice as long.)
 *
 * The msgpack form of an event (core/event.h). After [type, id, user, bot, at] follow:
 *   message    role op content emotion emotion_confidence embedding_model embedding n_traits
 *              [name, weight, ...] channel_id
 *   memory     op memory_id score grade outcome importance memory_type content
 *   metric     measurement [name, value, ...] [tag, value, ...]
 *   outreach   op topic
 *   character  version [name, weight, ...]
 *   privacy    op scope
 *   dead letter  where reason bytes
 *   request    op reason
 */
#include "core/event.h"

#include <assert.h>
#include <endian.h>
#include <math.h>
#include <msgpack.h>
#include <string.h>

#define HEAD_FIELDS 5
#define FIELD_BYTES ((size_t)9) /* the largest head of any msgpack value, or a whole number */
#define PAIR_BYTES  (2 * FIELD_BYTES)

/* How many elements follow the head, by type. */
static const uint8_t body_fields[] = {
    [EVENT_MESSAGE] = 10, [EVENT_MESSAGE_DELETED] = 0, [EVENT_MEMORY] = 8,
    [EVENT_METRIC] = 3,   [EVENT_OUTREACH] = 2,        [EVENT_CHARACTER] = 2,
    [EVENT_PRIVACY] = 2,  [EVENT_DEAD_LETTER] = 3,     [EVENT_REQUEST] = 2,
};

static uint32_t kept_traits(uint32_t n)
{
    return n < LIMIT_TRAITS ? n : LIMIT_TRAITS;
}

static size_t traits_bound(const struct event_trait *traits, uint32_t n)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += traits[i].name.len + PAIR_BYTES;
    return bytes;
}

static size_t metric_bound(const struct event_metric *m)
{
    size_t bytes = m->measurement.len;
    for (uint32_t i = 0; i < m->n_fields; i++)
        bytes += m->fields[i].name.len + PAIR_BYTES;
    for (uint32_t i = 0; i < m->n_tags; i++)
        bytes += m->tags[i].key.len + m->tags[i].value.len + PAIR_BYTES;
    return bytes;
}

static size_t body_bound(const struct event *e)
{
    const struct event_message *m = &e->u.message;
    switch (e->type) {
    case EVENT_MESSAGE:
        return m->content.len + m->emotion.len + m->embedding_model.len + m->channel_id.len +
               m->embedding_dims * sizeof(float) +
               traits_bound(m->traits, kept_traits(m->n_traits));
    case EVENT_MESSAGE_DELETED:
        return 0;
    case EVENT_MEMORY:
        return e->u.memory.memory_id.len + e->u.memory.memory_type.len + e->u.memory.content.len;
    case EVENT_METRIC:
        return metric_bound(&e->u.metric);
    case EVENT_OUTREACH:
        return e->u.outreach.topic.len;
    case EVENT_CHARACTER:
        return traits_bound(e->u.character.traits, e->u.character.n_traits);
    case EVENT_PRIVACY:
        return e->u.privacy.scope.len;
    case EVENT_DEAD_LETTER:
        return e->u.dead_letter.where.len + e->u.dead_letter.reason.len +
               e->u.dead_letter.bytes.len;
    case EVENT_REQUEST:
        return e->u.request.reason.len;
    }
    return 0;
}

/* The room is reserved before packing, so writing is a copy that cannot fail. */
static int pack_write(void *data, const char *bytes, size_t len)
{
    struct buf *out = data;
    assert(len <= out->cap - out->len);
    memcpy(out->data + out->len, bytes, len);
    out->len += len;
    return 0;
}

static void pack_str(msgpack_packer *pk, struct str s)
{
    if (!s.ptr) {
        msgpack_pack_nil(pk);
        return;
    }
    msgpack_pack_str(pk, s.len);
    msgpack_pack_str_body(pk, s.ptr, s.len);
}

static void pack_number(msgpack_packer *pk, double v)
{
    if (isnan(v))
        msgpack_pack_nil(pk);
    else
        msgpack_pack_double(pk, v);
}

static void pack_traits(msgpack_packer *pk, const struct event_trait *traits, uint32_t n)
{
    msgpack_pack_array(pk, (size_t)n * 2);
    for (uint32_t i = 0; i < n; i++) {
        pack_str(pk, traits[i].name);
        pack_number(pk, traits[i].weight);
    }
}

static void pack_embedding(msgpack_packer *pk, const float *values, uint32_t dims)
{
    if (!values) {
        msgpack_pack_nil(pk);
        return;
    }
    msgpack_pack_bin(pk, dims * sizeof(float));
#if __BYTE_ORDER == __LITTLE_ENDIAN
    msgpack_pack_bin_body(pk, values, dims * sizeof(float));
#else
    for (uint32_t i = 0; i < dims; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &values[i], sizeof(bits));
        bits = htole32(bits);
        msgpack_pack_bin_body(pk, &bits, sizeof(bits));
    }
#endif
}

static void pack_message(msgpack_packer *pk, const struct event_message *m)
{
    msgpack_pack_int(pk, (int)m->role);
    msgpack_pack_int(pk, (int)m->op);
    pack_str(pk, m->content);
    pack_str(pk, m->emotion);
    pack_number(pk, m->emotion_confidence);
    pack_str(pk, m->embedding_model);
    pack_embedding(pk, m->embedding, m->embedding_dims);
    msgpack_pack_uint32(pk, m->n_traits);
    pack_traits(pk, m->traits, kept_traits(m->n_traits));
    pack_str(pk, m->channel_id);
}

static void pack_memory(msgpack_packer *pk, const struct event_memory *m)
{
    msgpack_pack_int(pk, (int)m->op);
    pack_str(pk, m->memory_id);
    pack_number(pk, m->score);
    msgpack_pack_int(pk, m->grade);
    msgpack_pack_int(pk, (int)m->outcome);
    pack_number(pk, m->importance);
    pack_str(pk, m->memory_type);
    pack_str(pk, m->content);
}

static void pack_metric(msgpack_packer *pk, const struct event_metric *m)
{
    pack_str(pk, m->measurement);
    msgpack_pack_array(pk, (size_t)m->n_fields * 2);
    for (uint32_t i = 0; i < m->n_fields; i++) {
        pack_str(pk, m->fields[i].name);
        pack_number(pk, m->fields[i].value);
    }
    msgpack_pack_array(pk, (size_t)m->n_tags * 2);
    for (uint32_t i = 0; i < m->n_tags; i++) {
        pack_str(pk, m->tags[i].key);
        pack_str(pk, m->tags[i].value);
    }
}

static void pack_dead_letter(msgpack_packer *pk, const struct event_dead_letter *d)
{
    pack_str(pk, d->where);
    pack_str(pk, d->reason);
    if (!d->bytes.ptr) {
        msgpack_pack_nil(pk);
        return;
    }
    msgpack_pack_bin(pk, d->bytes.len);
    msgpack_pack_bin_body(pk, d->bytes.ptr, d->bytes.len);
}

static void pack_body(msgpack_packer *pk, const struct event *e)
{
    switch (e->type) {
    case EVENT_MESSAGE:
        pack_message(pk, &e->u.message);
        break;
    case EVENT_MESSAGE_DELETED:
        break;
    case EVENT_MEMORY:
        pack_memory(pk, &e->u.memory);
        break;
    case EVENT_METRIC:
        pack_metric(pk, &e->u.metric);
        break;
    case EVENT_OUTREACH:
        msgpack_pack_int(pk, (int)e->u.outreach.op);
        pack_str(pk, e->u.outreach.topic);
        break;
    case EVENT_CHARACTER:
        msgpack_pack_int64(pk, e->u.character.version);
        pack_traits(pk, e->u.character.traits, e->u.character.n_traits);
        break;
    case EVENT_PRIVACY:
        msgpack_pack_int(pk, (int)e->u.privacy.op);
        pack_str(pk, e->u.privacy.scope);
        break;
    case EVENT_DEAD_LETTER:
        pack_dead_letter(pk, &e->u.dead_letter);
        break;
    case EVENT_REQUEST:
        msgpack_pack_int(pk, (int)e->u.request.op);
        pack_str(pk, e->u.request.reason);
        break;
    }
}

enum status event_encode(const struct event *e, struct buf *out, struct error *err)
{
    assert(e->type >= EVENT_MESSAGE && e->type <= EVENT_TYPE_LAST);
    size_t bound = (HEAD_FIELDS + 16) * FIELD_BYTES + e->id.len + e->user_id.len + e->bot_name.len +
                   body_bound(e);
    if (bound > LIMIT_EVENT_BYTES)
        return error_set(err, STATUS_LIMIT, "an event of %zu bytes is larger than %u", bound,
                         LIMIT_EVENT_BYTES);
    enum status st = buf_reserve(out, bound);
    if (st)
        return error_set(err, st, "no room for an event of %zu bytes", bound);
    size_t start = out->len;
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, pack_write);
    msgpack_pack_array(&pk, (size_t)HEAD_FIELDS + body_fields[e->type]);
    msgpack_pack_int(&pk, (int)e->type);
    pack_str(&pk, e->id);
    pack_str(&pk, e->user_id);
    pack_str(&pk, e->bot_name);
    msgpack_pack_int64(&pk, e->at_us);
    pack_body(&pk, e);
    assert(out->len - start <= bound);
    return STATUS_OK;
}

/*
 * Takes values in order; the first that is missing or of a wrong type or range sticks, and every
 * later one is nil. Formats: msgpack specification, "Formats".
 */
struct in {
    const uint8_t *at;
    const uint8_t *end;
    uint64_t left;   /* values of arrays begun so far that are still to come */
    const char *bad; /* what was missing or malformed, or NULL */
    bool nomem;
};

#define NIL 0xC0

static void refuse(struct in *in, const char *name)
{
    if (!in->bad)
        in->bad = name;
}

/* The first byte of the next value; NIL when there is none. */
static uint8_t take_tag(struct in *in, const char *name)
{
    if (in->bad)
        return NIL;
    if (in->left == 0 || in->at == in->end) {
        in->bad = name;
        return NIL;
    }
    in->left--;
    return *in->at++;
}

/* A big-endian number of 1, 2, 4 or 8 bytes. */
static uint64_t take_be(struct in *in, const char *name, size_t width)
{
    if ((size_t)(in->end - in->at) < width) {
        refuse(in, name);
        return 0;
    }
    uint64_t v = 0;
    for (; width > 0; width--)
        v = v << 8 | *in->at++;
    return v;
}

static struct str take_bytes(struct in *in, const char *name, uint64_t len)
{
    if (in->bad || (uint64_t)(in->end - in->at) < len) {
        refuse(in, name);
        return STR_NULL;
    }
    struct str s = {(const char *)in->at, (size_t)len};
    in->at += len;
    return s;
}

static struct str take_str(struct in *in, const char *name)
{
    uint8_t tag = take_tag(in, name);
    if (tag >= 0xA0 && tag <= 0xBF)
        return take_bytes(in, name, tag & 31u);
    if (tag >= 0xD9 && tag <= 0xDB)
        return take_bytes(in, name, take_be(in, name, (size_t)1 << (tag - 0xD9)));
    if (tag != NIL)
        refuse(in, name);
    return STR_NULL;
}

static struct str take_bin(struct in *in, const char *name)
{
    uint8_t tag = take_tag(in, name);
    if (tag >= 0xC4 && tag <= 0xC6)
        return take_bytes(in, name, take_be(in, name, (size_t)1 << (tag - 0xC4)));
    if (tag != NIL)
        refuse(in, name);
    return STR_NULL;
}

static int64_t take_int(struct in *in, const char *name, int64_t low, int64_t high)
{
    uint8_t tag = take_tag(in, name);
    int64_t v = 0;
    if (tag < 0x80) {
        v = tag;
    } else if (tag >= 0xE0) {
        v = (int64_t)tag - 256;
    } else if (tag >= 0xCC && tag <= 0xCF) {
        uint64_t u = take_be(in, name, (size_t)1 << (tag - 0xCC));
        if (u > INT64_MAX)
            refuse(in, name);
        v = (int64_t)(u & INT64_MAX);
    } else if (tag >= 0xD0 && tag <= 0xD3) {
        unsigned bits = 8u << (tag - 0xD0);
        /* Shifting up and back down copies the sign bit. */
        v = (int64_t)(take_be(in, name, bits / 8) << (64 - bits)) >> (64 - bits);
    } else {
        refuse(in, name);
    }
    if (v < low || v > high)
        refuse(in, name);
    return v;
}

static double take_number(struct in *in, const char *name)
{
    uint8_t tag = take_tag(in, name);
    if (tag == 0xCB) {
        uint64_t bits = take_be(in, name, 8);
        double v = 0;
        memcpy(&v, &bits, sizeof(v));
        return v;
    }
    if (tag != NIL)
        refuse(in, name);
    return NAN;
}

static uint32_t take_array(struct in *in, const char *name)
{
    uint8_t tag = take_tag(in, name);
    uint32_t n = 0;
    if (tag >= 0x90 && tag <= 0x9F)
        n = tag & 15u;
    else if (tag == 0xDC || tag == 0xDD)
        n = (uint32_t)take_be(in, name, tag == 0xDC ? 2 : 4);
    else
        refuse(in, name);
    in->left += n;
    return n;
}

/* A nested array of at most max pairs: the pairs are to be taken next. */
static uint32_t take_pairs(struct in *in, const char *name, uint32_t max)
{
    uint32_t n = take_array(in, name);
    if (n % 2 || n / 2 > max)
        refuse(in, name);
    return in->bad ? 0 : n / 2;
}

/* The shapes of the values that start with 0xC0..0xDF. */
enum shape { SHAPE_FIXED, SHAPE_SIZED, SHAPE_ARRAY, SHAPE_MAP, SHAPE_BAD };

static const struct {
    uint8_t shape;
    uint8_t bytes; /* FIXED: payload; else the width of the length */
    uint8_t extra; /* SIZED: payload beyond the length (the type byte of an ext) */
} shapes[32] = {
    {SHAPE_FIXED, 0, 0},  {SHAPE_BAD, 0, 0},   {SHAPE_FIXED, 0, 0}, {SHAPE_FIXED, 0, 0},
    {SHAPE_SIZED, 1, 0},  {SHAPE_SIZED, 2, 0}, {SHAPE_SIZED, 4, 0}, {SHAPE_SIZED, 1, 1},
    {SHAPE_SIZED, 2, 1},  {SHAPE_SIZED, 4, 1}, {SHAPE_FIXED, 4, 0}, {SHAPE_FIXED, 8, 0},
    {SHAPE_FIXED, 1, 0},  {SHAPE_FIXED, 2, 0}, {SHAPE_FIXED, 4, 0}, {SHAPE_FIXED, 8, 0},
    {SHAPE_FIXED, 1, 0},  {SHAPE_FIXED, 2, 0}, {SHAPE_FIXED, 4, 0}, {SHAPE_FIXED, 8, 0},
    {SHAPE_FIXED, 2, 0},  {SHAPE_FIXED, 3, 0}, {SHAPE_FIXED, 5, 0}, {SHAPE_FIXED, 9, 0},
    {SHAPE_FIXED, 17, 0}, {SHAPE_SIZED, 1, 0}, {SHAPE_SIZED, 2, 0}, {SHAPE_SIZED, 4, 0},
    {SHAPE_ARRAY, 2, 0},  {SHAPE_ARRAY, 4, 0}, {SHAPE_MAP, 2, 0},   {SHAPE_MAP, 4, 0},
};

static void skip_shaped(struct in *in, const char *name, uint8_t tag)
{
    size_t bytes = shapes[tag & 31].bytes;
    uint64_t extra = shapes[tag & 31].extra;
    switch ((enum shape)shapes[tag & 31].shape) {
    case SHAPE_FIXED:
        (void)take_bytes(in, name, bytes);
        break;
    case SHAPE_SIZED:
        (void)take_bytes(in, name, take_be(in, name, bytes) + extra);
        break;
    case SHAPE_ARRAY:
        in->left += take_be(in, name, bytes);
        break;
    case SHAPE_MAP:
        in->left += 2 * take_be(in, name, bytes);
        break;
    case SHAPE_BAD:
        refuse(in, name);
        break;
    }
}

/* Passes over what a newer writer has appended, of whatever type. A container only adds to what is
 * left to skip: no recursion, and each value costs at least a byte. */
static void skip_rest(struct in *in)
{
    static const char name[] = "what follows the last known field";
    while (in->left > 0 && !in->bad) {
        uint8_t tag = take_tag(in, name);
        if (in->bad || tag < 0x80 || tag >= 0xE0)
            continue;
        if (tag < 0xA0)
            in->left += (uint64_t)(tag & 15u) << (tag < 0x90);
        else if (tag < 0xC0)
            (void)take_bytes(in, name, tag & 31u);
        else
            skip_shaped(in, name, tag);
    }
}

static uint32_t take_traits(struct in *in, struct event_trait *traits, uint32_t max)
{
    uint32_t n = take_pairs(in, "traits", max);
    for (uint32_t i = 0; i < n; i++) {
        traits[i].name = take_str(in, "trait name");
        traits[i].weight = take_number(in, "trait weight");
    }
    return n;
}

static void take_embedding(struct in *in, struct event_arena *arena, struct event_message *m)
{
    struct str s = take_bin(in, "embedding");
    m->embedding = NULL;
    m->embedding_dims = 0;
    if (!s.ptr)
        return;
    if (s.len == 0 || s.len % sizeof(float) || s.len / sizeof(float) > LIMIT_EMBEDDING_DIMS) {
        refuse(in, "embedding");
        return;
    }
    /* Copied for alignment: the bytes lie anywhere in a frame. */
    float *values = event_arena_alloc(arena, s.len);
    if (!values) {
        in->nomem = true;
        return;
    }
    memcpy(values, s.ptr, s.len);
    m->embedding_dims = (uint32_t)(s.len / sizeof(float));
#if __BYTE_ORDER != __LITTLE_ENDIAN
    for (uint32_t i = 0; i < m->embedding_dims; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &values[i], sizeof(bits));
        bits = le32toh(bits);
        memcpy(&values[i], &bits, sizeof(bits));
    }
#endif
    m->embedding = values;
}

static void take_message(struct in *in, struct event_arena *arena, struct event_message *m)
{
    m->role = (enum message_role)take_int(in, "role", ROLE_USER, ROLE_BOT);
    m->op = (enum message_op)take_int(in, "op", MESSAGE_INSERT, MESSAGE_UPDATE);
    m->content = take_str(in, "content");
    m->emotion = take_str(in, "emotion");
    m->emotion_confidence = take_number(in, "emotion_confidence");
    m->embedding_model = take_str(in, "embedding_model");
    take_embedding(in, arena, m);
    m->n_traits = (uint32_t)take_int(in, "n_traits", 0, UINT32_MAX);
    if (take_traits(in, m->traits, LIMIT_TRAITS) != kept_traits(m->n_traits))
        refuse(in, "traits");
    m->channel_id = take_str(in, "channel_id");
}

static void take_memory(struct in *in, struct event_memory *m)
{
    m->op = (enum memory_op)take_int(in, "op", MEMORY_CREATE, MEMORY_PIN);
    m->memory_id = take_str(in, "memory_id");
    m->score = take_number(in, "score");
    m->grade = (int)take_int(in, "grade", 0, 4);
    m->outcome = (enum memory_outcome)take_int(in, "outcome", OUTCOME_NONE, OUTCOME_MISS);
    m->importance = take_number(in, "importance");
    m->memory_type = take_str(in, "memory_type");
    m->content = take_str(in, "content");
}

static void take_metric(struct in *in, struct event_metric *m)
{
    m->measurement = take_str(in, "measurement");
    m->n_fields = take_pairs(in, "fields", sizeof(m->fields) / sizeof(m->fields[0]));
    for (uint32_t i = 0; i < m->n_fields; i++) {
        m->fields[i].name = take_str(in, "field name");
        m->fields[i].value = take_number(in, "field value");
    }
    m->n_tags = take_pairs(in, "tags", sizeof(m->tags) / sizeof(m->tags[0]));
    for (uint32_t i = 0; i < m->n_tags; i++) {
        m->tags[i].key = take_str(in, "tag name");
        m->tags[i].value = take_str(in, "tag value");
    }
}

static void take_body(struct in *in, struct event_arena *arena, struct event *e)
{
    switch (e->type) {
    case EVENT_MESSAGE:
        take_message(in, arena, &e->u.message);
        break;
    case EVENT_MESSAGE_DELETED:
        break;
    case EVENT_MEMORY:
        take_memory(in, &e->u.memory);
        break;
    case EVENT_METRIC:
        take_metric(in, &e->u.metric);
        break;
    case EVENT_OUTREACH:
        e->u.outreach.op = (enum outreach_op)take_int(in, "op", OUTREACH_SENT, OUTREACH_OPTED_OUT);
        e->u.outreach.topic = take_str(in, "topic");
        break;
    case EVENT_CHARACTER:
        e->u.character.version = take_int(in, "version", INT64_MIN, INT64_MAX);
        e->u.character.n_traits =
            take_traits(in, e->u.character.traits,
                        sizeof(e->u.character.traits) / sizeof(e->u.character.traits[0]));
        break;
    case EVENT_PRIVACY:
        e->u.privacy.op = (enum privacy_op)take_int(in, "op", PRIVACY_ERASE, PRIVACY_OPTIN);
        e->u.privacy.scope = take_str(in, "scope");
        break;
    case EVENT_DEAD_LETTER:
        e->u.dead_letter.where = take_str(in, "where");
        e->u.dead_letter.reason = take_str(in, "reason");
        e->u.dead_letter.bytes = take_bin(in, "bytes");
        break;
    case EVENT_REQUEST:
        e->u.request.op = (enum request_op)take_int(in, "op", REQUEST_INVALIDATE, REQUEST_TOUCH);
        e->u.request.reason = take_str(in, "reason");
        break;
    }
}

enum status event_decode(struct str bytes, struct event_arena *arena, struct event *ret,
                         struct error *err)
{
    const uint8_t *at = (const uint8_t *)bytes.ptr;
    struct in in = {.at = at, .end = at ? at + bytes.len : at, .left = 1};
    (void)take_array(&in, "array");
    ret->type = (enum event_type)take_int(&in, "type", EVENT_MESSAGE, EVENT_TYPE_LAST);
    if (in.bad)
        return error_set(err, STATUS_PROTOCOL, "%zu bytes are not an event of a known type",
                         bytes.len);
    ret->id = take_str(&in, "id");
    ret->user_id = take_str(&in, "user_id");
    ret->bot_name = take_str(&in, "bot_name");
    ret->at_us = take_int(&in, "at", INT64_MIN, INT64_MAX);
    take_body(&in, arena, ret);
    skip_rest(&in);
    if (in.nomem)
        return error_set(err, STATUS_NOMEM, "could not allocate an embedding");
    if (in.bad)
        return error_set(err, STATUS_PROTOCOL, "event: %s is missing or malformed", in.bad);
    if (in.at != in.end)
        return error_set(err, STATUS_PROTOCOL, "event: %zu bytes follow its end",
                         (size_t)(in.end - in.at));
    return STATUS_OK;
}
