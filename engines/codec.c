#include "engines/codec.h"

#include "engines/text.h"

#define MESSAGE_FLAGS_MAX ((MSG_COMMON << 1) - 1)
#define MARK_BYTES        (RECORD_MARKS / 8)

enum status codec_begin(struct buf *b, size_t room, struct writer *ret)
{
    enum status st = buf_reserve(b, room);
    if (st)
        return st;
    uint8_t *at = (uint8_t *)b->data + b->len;
    *ret = (struct writer){at, at + room};
    return STATUS_OK;
}

void codec_end(struct buf *b, const struct writer *w)
{
    b->len = (size_t)((const char *)w->at - b->data);
    assert(b->len <= b->cap);
}

uint64_t reader_varint_max(struct reader *r, uint64_t max)
{
    uint64_t v = reader_varint(r);
    if (v > max) {
        r->bad = true;
        return 0;
    }
    return v;
}

/*
 * Entry: two bits of kind, six of the distance to the previous bucket. Kind 0 = +16, 1 = -16, 2 =
 * a weight byte follows; distance 63 = a byte with the rest of the distance follows.
 */
void codec_put_vector(struct writer *w, const struct vector_entry *v, size_t n)
{
    put_u8(w, (uint8_t)n);
    int previous = -1;
    for (size_t i = 0; i < n; i++) {
        unsigned gap = (unsigned)(v[i].bucket - previous - 1);
        unsigned kind = v[i].weight == 16 ? 0 : v[i].weight == -16 ? 1 : 2;
        put_u8(w, (uint8_t)(kind << 6 | (gap < 63 ? gap : 63)));
        if (gap >= 63)
            put_u8(w, (uint8_t)(gap - 63));
        if (kind == 2)
            put_u8(w, (uint8_t)v[i].weight);
        previous = v[i].bucket;
    }
}

void codec_get_vector(struct reader *r, struct vector_entry v[RECORD_VECTOR], uint8_t *ret_n,
                      uint32_t *ret_norm2)
{
    uint8_t n = reader_u8(r);
    if (n > RECORD_VECTOR)
        r->bad = true;
    unsigned next = 0;
    uint32_t norm2 = 0;
    for (uint8_t i = 0; i < n && !r->bad; i++) {
        uint8_t head = reader_u8(r);
        unsigned gap = head & 63;
        if (gap == 63)
            gap += reader_u8(r);
        int weight = head >> 6 == 0 ? 16 : -16;
        if (head >> 6 == 2) {
            uint8_t byte = reader_u8(r);
            weight = byte < 128 ? byte : byte - 256;
        }
        next += gap;
        if (next > UINT8_MAX || weight == 0 || weight == INT8_MIN || head >> 6 == 3) {
            r->bad = true;
            break;
        }
        v[i] = (struct vector_entry){(uint8_t)next, (int8_t)weight};
        norm2 += (uint32_t)(weight * weight);
        next++;
    }
    *ret_n = r->bad ? 0 : n;
    *ret_norm2 = r->bad ? 0 : norm2;
}

static unsigned count_marks(const uint8_t *marks)
{
    unsigned n = 0;
    for (size_t i = 0; i < MARK_BYTES; i++)
        n += (unsigned)__builtin_popcount(marks[i]);
    return n;
}

/* How many, then their numbers, or all bits when that is no longer. */
static void put_marks(struct writer *w, const uint8_t *marks)
{
    unsigned n = count_marks(marks);
    put_u8(w, (uint8_t)n);
    for (size_t i = 0; i < MARK_BYTES && n >= MARK_BYTES; i++)
        put_u8(w, marks[i]);
    for (unsigned i = 0; i < RECORD_MARKS && n < MARK_BYTES; i++)
        if (marks[i / 8] >> (i % 8) & 1)
            put_u8(w, (uint8_t)i);
}

static void get_marks(struct reader *r, uint8_t *marks)
{
    uint8_t n = reader_u8(r);
    for (size_t i = 0; i < MARK_BYTES && n >= MARK_BYTES; i++)
        marks[i] = reader_u8(r);
    for (unsigned i = 0, least = 0; i < n && n < MARK_BYTES && !r->bad; i++) {
        uint8_t mark = reader_u8(r);
        if (mark < least || mark >= RECORD_MARKS) {
            r->bad = true;
            return;
        }
        marks[mark / 8] |= (uint8_t)(1u << (mark % 8));
        least = mark + 1u;
    }
    r->bad |= count_marks(marks) != n;
}

/* Which classes occur, then their counts, two in a byte. */
static void put_common(struct writer *w, uint64_t common)
{
    unsigned classes = 0;
    for (unsigned i = 0; i < RECORD_COMMON; i++)
        classes |= (unsigned)((common >> (4 * i) & 15) > 0) << i;
    put_u8(w, (uint8_t)classes);
    put_u8(w, (uint8_t)(classes >> 8));
    unsigned half = 0, n = 0;
    for (unsigned i = 0; i < RECORD_COMMON; i++) {
        unsigned count = common >> (4 * i) & 15;
        if (count == 0)
            continue;
        if (n++ % 2)
            put_u8(w, (uint8_t)(half << 4 | count));
        half = count;
    }
    if (n % 2)
        put_u8(w, (uint8_t)(half << 4));
}

static uint64_t get_common(struct reader *r)
{
    unsigned classes = reader_u8(r);
    classes |= (unsigned)reader_u8(r) << 8;
    uint64_t common = 0;
    unsigned pair = 0, n = 0;
    for (unsigned i = 0; i < RECORD_COMMON; i++) {
        if (!(classes >> i & 1))
            continue;
        if (n++ % 2 == 0)
            pair = reader_u8(r);
        unsigned count = n % 2 ? pair >> 4 : pair & 15;
        r->bad |= count == 0;
        common |= (uint64_t)count << (4 * i);
    }
    r->bad |= n % 2 && pair & 15;
    return common;
}

void codec_put_embedding(struct writer *w, const struct embedding *e)
{
    for (unsigned i = 0; i < 4; i++)
        put_u8(w, (uint8_t)(e->model >> (8 * i)));
    for (size_t i = 0; i < RECORD_EMBEDDING; i++)
        put_u8(w, (uint8_t)e->v[i]);
}

void codec_get_embedding(struct reader *r, struct embedding *e)
{
    e->model = 0;
    for (unsigned i = 0; i < 4; i++)
        e->model |= (uint32_t)reader_u8(r) << (8 * i);
    for (size_t i = 0; i < RECORD_EMBEDDING; i++) {
        uint8_t byte = reader_u8(r);
        e->v[i] = (int8_t)(byte < 128 ? byte : byte - 256);
        r->bad |= e->v[i] == INT8_MIN;
    }
    r->bad |= e->model == 0;
}

void codec_put_message(struct writer *w, const struct msg_rec *m)
{
    put_varint(w, m->flags);
    put_varint(w, m->words);
    put_varint(w, m->chars);
    if (m->flags & MSG_HAS_EMOTION) {
        put_u8(w, m->emotion);
        put_u8(w, m->emotion_confidence);
    }
    codec_put_vector(w, m->vector, m->n_vector);
    for (size_t i = 0; i < RECORD_EDGES && m->words; i++)
        put_u8(w, m->edge[i]);
    if (!(m->flags & MSG_BOT))
        put_marks(w, m->marks);
    if (m->flags & MSG_COMMON)
        put_common(w, m->common);
}

void codec_get_message(struct reader *r, struct msg_rec *m)
{
    m->flags = (uint16_t)reader_varint_max(r, MESSAGE_FLAGS_MAX);
    m->words = (uint16_t)reader_varint_max(r, UINT16_MAX);
    m->chars = (uint16_t)reader_varint_max(r, UINT16_MAX);
    if (m->flags & MSG_HAS_EMOTION) {
        m->emotion = reader_u8(r);
        m->emotion_confidence = reader_u8(r);
        if (m->emotion >= text_emotion_count()) {
            r->bad = true;
            return;
        }
        m->valence = text_valence(m->emotion, m->emotion_confidence);
    }
    codec_get_vector(r, m->vector, &m->n_vector, &m->norm2);
    for (size_t i = 0; i < RECORD_EDGES && m->words; i++)
        m->edge[i] = reader_u8(r);
    if (!(m->flags & MSG_BOT))
        get_marks(r, m->marks);
    if (m->flags & MSG_COMMON)
        m->common = get_common(r);
}
