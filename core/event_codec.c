/*
 * The msgpack form of an event (core/event.h). After [type, id, user, bot, at] follow:
 *   message    role op content emotion emotion_confidence embedding_model embedding n_traits
 *              [name, weight, ...] channel_id
 *   memory     op memory_id score grade outcome importance memory_type content
 *   metric     measurement [name, value, ...] [tag, value, ...]
 *   outreach   op topic
 *   character  version [name, weight, ...]
 *   privacy    op scope
 *   dead letter  where reason bytes
 */
#include "core/event.h"
#include "core/event_arena.h"

#include <assert.h>
#include <endian.h>
#include <math.h>
#include <string.h>

#define HEAD_FIELDS 5
#define FIELD_BYTES 9 /* the largest head of any msgpack value, or a whole number */

/* How many elements follow the head, by type. */
static const uint8_t body_fields[] = {
    [EVENT_MESSAGE] = 10, [EVENT_MESSAGE_DELETED] = 0, [EVENT_MEMORY] = 8,  [EVENT_METRIC] = 3,
    [EVENT_OUTREACH] = 2, [EVENT_CHARACTER] = 2,       [EVENT_PRIVACY] = 2, [EVENT_DEAD_LETTER] = 3,
};

static uint32_t kept_traits(uint32_t n)
{
    return n < LIMIT_TRAITS ? n : LIMIT_TRAITS;
}

static size_t traits_bound(const struct event_trait *traits, uint32_t n)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        bytes += traits[i].name.len + 2 * FIELD_BYTES;
    return bytes;
}

static size_t metric_bound(const struct event_metric *m)
{
    size_t bytes = m->measurement.len;
    for (uint32_t i = 0; i < m->n_fields; i++)
        bytes += m->fields[i].name.len + 2 * FIELD_BYTES;
    for (uint32_t i = 0; i < m->n_tags; i++)
        bytes += m->tags[i].key.len + m->tags[i].value.len + 2 * FIELD_BYTES;
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
    }
}

enum status event_encode(const struct event *e, struct buf *out, struct error *err)
{
    assert(e->type >= EVENT_MESSAGE && e->type <= EVENT_DEAD_LETTER);
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

/* The shapes of msgpack values that start with 0xC0..0xDF (msgpack specification, "Formats"). */
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

/*
 * True when the bytes are one whole value. msgpack-c allocates what the heads of arrays and maps
 * declare before it has seen a single element; here each declared element must have at least one
 * byte left, so that no peer can make it allocate more than a multiple of what was sent.
 */
static bool is_one_value(struct str bytes)
{
    const uint8_t *p = (const uint8_t *)bytes.ptr;
    size_t left = bytes.len;
    uint64_t pending = 1;
    while (pending > 0) {
        if (pending > left)
            return false;
        uint8_t tag = *p++;
        left--;
        pending--;
        size_t skip = 0;
        if (tag < 0x80 || tag >= 0xE0)
            continue;
        if (tag < 0xA0) {
            pending += tag < 0x90 ? 2u * (tag & 15u) : (tag & 15u);
        } else if (tag < 0xC0) {
            skip = tag & 31;
        } else {
            size_t n = shapes[tag & 31].bytes;
            uint64_t value = n;
            if (shapes[tag & 31].shape != SHAPE_FIXED) {
                if (n > left || shapes[tag & 31].shape == SHAPE_BAD)
                    return false;
                for (value = 0; n > 0; n--, left--)
                    value = value << 8 | *p++;
            }
            if (shapes[tag & 31].shape == SHAPE_ARRAY)
                pending += value;
            else if (shapes[tag & 31].shape == SHAPE_MAP)
                pending += 2 * value;
            else
                skip = (size_t)value + shapes[tag & 31].extra;
        }
        if (skip > left)
            return false;
        p += skip;
        left -= skip;
    }
    return left == 0;
}

/* Takes the elements of an array in order; the first one of a wrong type or range sticks. */
struct fields {
    const msgpack_object *at;
    const msgpack_object *end;
    const char *bad; /* name of the field, or NULL */
    bool nomem;
};

static const msgpack_object *take(struct fields *f, const char *name)
{
    static const msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    if (f->at < f->end)
        return f->at++;
    if (!f->bad)
        f->bad = name;
    return &nil;
}

static void refuse(struct fields *f, const char *name)
{
    if (!f->bad)
        f->bad = name;
}

static struct str take_str(struct fields *f, const char *name)
{
    const msgpack_object *o = take(f, name);
    if (o->type == MSGPACK_OBJECT_STR)
        return o->via.str.size ? (struct str){o->via.str.ptr, o->via.str.size} : STR("");
    if (o->type != MSGPACK_OBJECT_NIL)
        refuse(f, name);
    return STR_NULL;
}

static struct str take_bin(struct fields *f, const char *name)
{
    const msgpack_object *o = take(f, name);
    if (o->type == MSGPACK_OBJECT_BIN)
        return o->via.bin.size ? (struct str){o->via.bin.ptr, o->via.bin.size} : STR("");
    if (o->type != MSGPACK_OBJECT_NIL)
        refuse(f, name);
    return STR_NULL;
}

static int64_t take_int(struct fields *f, const char *name, int64_t low, int64_t high)
{
    const msgpack_object *o = take(f, name);
    int64_t v = 0;
    if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX)
        v = (int64_t)o->via.u64;
    else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER)
        v = o->via.i64;
    else
        refuse(f, name);
    if (v < low || v > high)
        refuse(f, name);
    return v;
}

static double take_number(struct fields *f, const char *name)
{
    const msgpack_object *o = take(f, name);
    if (o->type == MSGPACK_OBJECT_FLOAT64 || o->type == MSGPACK_OBJECT_FLOAT32)
        return o->via.f64;
    if (o->type != MSGPACK_OBJECT_NIL)
        refuse(f, name);
    return NAN;
}

/* The elements of a nested array of pairs, at most max of them. */
static struct fields take_pairs(struct fields *f, const char *name, uint32_t max, uint32_t *ret_n)
{
    const msgpack_object *o = take(f, name);
    *ret_n = 0;
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size % 2 || o->via.array.size / 2 > max) {
        refuse(f, name);
        return (struct fields){0};
    }
    *ret_n = o->via.array.size / 2;
    return (struct fields){.at = o->via.array.ptr, .end = o->via.array.ptr + o->via.array.size};
}

static uint32_t take_traits(struct fields *f, struct event_trait *traits, uint32_t max)
{
    uint32_t n = 0;
    struct fields pairs = take_pairs(f, "traits", max, &n);
    for (uint32_t i = 0; i < n; i++) {
        traits[i].name = take_str(&pairs, "trait name");
        traits[i].weight = take_number(&pairs, "trait weight");
    }
    if (pairs.bad)
        refuse(f, pairs.bad);
    return n;
}

static void take_embedding(struct fields *f, struct event_arena *arena, struct event_message *m)
{
    struct str s = take_bin(f, "embedding");
    m->embedding = NULL;
    m->embedding_dims = 0;
    if (!s.ptr)
        return;
    if (s.len == 0 || s.len % sizeof(float) || s.len / sizeof(float) > LIMIT_EMBEDDING_DIMS) {
        refuse(f, "embedding");
        return;
    }
    /* Copied for alignment: the bytes lie anywhere in a frame. */
    float *values = event_arena_alloc(arena, s.len);
    if (!values) {
        f->nomem = true;
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

static void take_message(struct fields *f, struct event_arena *arena, struct event_message *m)
{
    m->role = (enum message_role)take_int(f, "role", ROLE_USER, ROLE_BOT);
    m->op = (enum message_op)take_int(f, "op", MESSAGE_INSERT, MESSAGE_UPDATE);
    m->content = take_str(f, "content");
    m->emotion = take_str(f, "emotion");
    m->emotion_confidence = take_number(f, "emotion_confidence");
    m->embedding_model = take_str(f, "embedding_model");
    take_embedding(f, arena, m);
    m->n_traits = (uint32_t)take_int(f, "n_traits", 0, UINT32_MAX);
    if (take_traits(f, m->traits, LIMIT_TRAITS) != kept_traits(m->n_traits))
        refuse(f, "traits");
    m->channel_id = take_str(f, "channel_id");
}

static void take_memory(struct fields *f, struct event_memory *m)
{
    m->op = (enum memory_op)take_int(f, "op", MEMORY_CREATE, MEMORY_PIN);
    m->memory_id = take_str(f, "memory_id");
    m->score = take_number(f, "score");
    m->grade = (int)take_int(f, "grade", 0, 4);
    m->outcome = (enum memory_outcome)take_int(f, "outcome", OUTCOME_NONE, OUTCOME_MISS);
    m->importance = take_number(f, "importance");
    m->memory_type = take_str(f, "memory_type");
    m->content = take_str(f, "content");
}

static void take_metric(struct fields *f, struct event_metric *m)
{
    m->measurement = take_str(f, "measurement");
    struct fields pairs =
        take_pairs(f, "fields", sizeof(m->fields) / sizeof(m->fields[0]), &m->n_fields);
    for (uint32_t i = 0; i < m->n_fields; i++) {
        m->fields[i].name = take_str(&pairs, "field name");
        m->fields[i].value = take_number(&pairs, "field value");
    }
    if (pairs.bad)
        refuse(f, pairs.bad);
    pairs = take_pairs(f, "tags", sizeof(m->tags) / sizeof(m->tags[0]), &m->n_tags);
    for (uint32_t i = 0; i < m->n_tags; i++) {
        m->tags[i].key = take_str(&pairs, "tag name");
        m->tags[i].value = take_str(&pairs, "tag value");
    }
    if (pairs.bad)
        refuse(f, pairs.bad);
}

static void take_body(struct fields *f, struct event_arena *arena, struct event *e)
{
    switch (e->type) {
    case EVENT_MESSAGE:
        take_message(f, arena, &e->u.message);
        break;
    case EVENT_MESSAGE_DELETED:
        break;
    case EVENT_MEMORY:
        take_memory(f, &e->u.memory);
        break;
    case EVENT_METRIC:
        take_metric(f, &e->u.metric);
        break;
    case EVENT_OUTREACH:
        e->u.outreach.op = (enum outreach_op)take_int(f, "op", OUTREACH_SENT, OUTREACH_OPTED_OUT);
        e->u.outreach.topic = take_str(f, "topic");
        break;
    case EVENT_CHARACTER:
        e->u.character.version = take_int(f, "version", INT64_MIN, INT64_MAX);
        e->u.character.n_traits =
            take_traits(f, e->u.character.traits,
                        sizeof(e->u.character.traits) / sizeof(e->u.character.traits[0]));
        break;
    case EVENT_PRIVACY:
        e->u.privacy.op = (enum privacy_op)take_int(f, "op", PRIVACY_ERASE, PRIVACY_OPTIN);
        e->u.privacy.scope = take_str(f, "scope");
        break;
    case EVENT_DEAD_LETTER:
        e->u.dead_letter.where = take_str(f, "where");
        e->u.dead_letter.reason = take_str(f, "reason");
        e->u.dead_letter.bytes = take_bin(f, "bytes");
        break;
    }
}

enum status event_decode(struct str bytes, struct event_arena *arena, struct event *ret,
                         struct error *err)
{
    msgpack_object root;
    size_t used = 0;
    if (!is_one_value(bytes))
        return error_set(err, STATUS_PROTOCOL, "an event of %zu bytes is cut or has a tail",
                         bytes.len);
    /* msgpack_unpack_next() would free and allocate its zone for every event. */
    msgpack_unpack_return got =
        msgpack_unpack(bytes.ptr, bytes.len, &used, event_arena_zone(arena), &root);
    if (got == MSGPACK_UNPACK_NOMEM_ERROR)
        return error_set(err, STATUS_NOMEM, "could not allocate the parts of an event");
    if ((got != MSGPACK_UNPACK_SUCCESS && got != MSGPACK_UNPACK_EXTRA_BYTES) ||
        root.type != MSGPACK_OBJECT_ARRAY)
        return error_set(err, STATUS_PROTOCOL, "an event of %zu bytes is not a msgpack array",
                         bytes.len);

    struct fields f = {.at = root.via.array.ptr, .end = root.via.array.ptr + root.via.array.size};
    ret->type = (enum event_type)take_int(&f, "type", EVENT_MESSAGE, EVENT_DEAD_LETTER);
    if (f.bad)
        return error_set(err, STATUS_PROTOCOL, "an event of %zu bytes is of no known type",
                         bytes.len);
    ret->id = take_str(&f, "id");
    ret->user_id = take_str(&f, "user_id");
    ret->bot_name = take_str(&f, "bot_name");
    ret->at_us = take_int(&f, "at", INT64_MIN, INT64_MAX);
    take_body(&f, arena, ret);
    if (f.nomem)
        return error_set(err, STATUS_NOMEM, "could not allocate an embedding");
    if (f.bad)
        return error_set(err, STATUS_PROTOCOL, "event field \"%s\" is missing or malformed", f.bad);
    return STATUS_OK;
}
