/*
 * engines/codec.h - the durable bytes that features and key pages share, written without checks.
 *
 * A writer fills room that buf_reserve() has made sure of: every record has a known largest size.
 * Readers take foreign bytes: a value out of its range sets reader.bad.
 */
#pragma once

#include "core/buf.h"
#include "engines/record.h"

#include <assert.h>
#include <string.h>

/* More than any feature or any record of a page takes. */
#define CODEC_RECORD_BYTES 1024

struct writer {
    uint8_t *at;
    uint8_t *end;
};

static inline void put_u8(struct writer *w, uint8_t v)
{
    assert(w->at < w->end);
    *w->at++ = v;
}

static inline void put_varint(struct writer *w, uint64_t v)
{
    assert(w->end - w->at >= 10);
    for (; v > 0x7F; v >>= 7)
        *w->at++ = (uint8_t)(v | 0x80);
    *w->at++ = (uint8_t)v;
}

static inline void put_svarint(struct writer *w, int64_t v)
{
    put_varint(w, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63));
}

static inline void put_u64(struct writer *w, uint64_t v)
{
    assert(w->end - w->at >= 8);
    for (int i = 0; i < 8; i++)
        *w->at++ = (uint8_t)(v >> (8 * i));
}

static inline void put_double(struct writer *w, double v)
{
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof(bits));
    put_u64(w, bits);
}

static inline void put_blob(struct writer *w, const void *bytes, size_t len)
{
    put_varint(w, len);
    assert((size_t)(w->end - w->at) >= len);
    if (len)
        memcpy(w->at, bytes, len);
    w->at += len;
}

/* Room for one record at the end of b; codec_end() counts what was written. */
MUST_CHECK enum status codec_begin(struct buf *b, size_t room, struct writer *ret);
void codec_end(struct buf *b, const struct writer *w);

/* An unsigned number of at most max, else bad. */
uint64_t reader_varint_max(struct reader *r, uint64_t max);

/* A vector sorted by bucket: one byte an entry when its weight is +-16, two or three otherwise. */
void codec_put_vector(struct writer *w, const struct vector_entry *v, size_t n);
void codec_get_vector(struct reader *r, struct vector_entry v[RECORD_VECTOR], uint8_t *ret_n,
                      uint32_t *ret_norm2);

/* 68 bytes; bad for one without a model. */
void codec_put_embedding(struct writer *w, const struct embedding *e);
void codec_get_embedding(struct reader *r, struct embedding *e);

/* What text and emotion give a message: flags, sizes, emotion, vector, common words, and marks of
 * the user's; no labels and no traits. */
void codec_put_message(struct writer *w, const struct msg_rec *m);
void codec_get_message(struct reader *r, struct msg_rec *m);
