#include "engines/codec.h"

#include "engines/text.h"

#define MESSAGE_FLAGS_MAX ((MSG_BOT << 1) - 1)
#define SPARSE_TRIGRAMS   32 /* up to here a list is no longer than a bitmap */

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

static void put_trigrams(struct writer *w, const uint8_t *trigrams, size_t n)
{
    put_u8(w, (uint8_t)n);
    if (n <= SPARSE_TRIGRAMS) {
        for (size_t i = 0; i < n; i++)
            put_u8(w, trigrams[i]);
        return;
    }
    /* The distinct buckets come first and ascend: 32 bytes of bitmap say it all. */
    uint8_t bits[32] = {0};
    size_t i = 0;
    do
        bits[trigrams[i] / 8] |= (uint8_t)(1u << (trigrams[i] % 8));
    while (++i < n && trigrams[i] > trigrams[i - 1]);
    for (size_t j = 0; j < sizeof(bits); j++)
        put_u8(w, bits[j]);
    for (; i < n; i++)
        put_u8(w, trigrams[i]);
}

static void get_trigrams(struct reader *r, struct msg_rec *m)
{
    uint8_t n = reader_u8(r);
    if (n > RECORD_TRIGRAMS) {
        r->bad = true;
        return;
    }
    uint8_t i = 0;
    if (n > SPARSE_TRIGRAMS)
        for (unsigned byte = 0; byte < 32; byte++)
            for (unsigned bits = reader_u8(r); bits; bits &= bits - 1) {
                if (i == n) {
                    r->bad = true;
                    return;
                }
                m->trigrams[i++] = (uint8_t)(byte * 8 + (unsigned)__builtin_ctz(bits));
            }
    for (; i < n; i++)
        m->trigrams[i] = reader_u8(r);
    m->n_trigrams = r->bad ? 0 : n;
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
    if (!(m->flags & MSG_BOT))
        put_trigrams(w, m->trigrams, m->n_trigrams);
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
    if (!(m->flags & MSG_BOT))
        get_trigrams(r, m);
}
