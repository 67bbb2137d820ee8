#include "core/buf.h"

#include <assert.h>
#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct str str_from(const char *nul_terminated)
{
    return nul_terminated ? (struct str){nul_terminated, strlen(nul_terminated)} : STR_NULL;
}

bool str_equal(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* Length of the UTF-8 sequence at p, or 0 when it is malformed, overlong, a surrogate or NUL. */
static size_t utf8_sequence(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return p[0] != 0;
    if (p[0] < 0xC2 || p[0] > 0xF4)
        return 0;
    size_t n = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return n;
}

/* Eight bytes of plain ASCII without NUL: the common case, checked in one step. */
static bool ascii_word(const unsigned char *p)
{
    uint64_t w = 0;
    memcpy(&w, p, sizeof(w));
    uint64_t zero_bytes = (w - UINT64_C(0x0101010101010101)) & ~w;
    return ((zero_bytes | w) & UINT64_C(0x8080808080808080)) == 0;
}

size_t str_text_prefix(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.ptr;
    size_t i = 0;
    while (i < s.len) {
        if (s.len - i >= 8 && ascii_word(p + i)) {
            i += 8;
            continue;
        }
        size_t n = utf8_sequence(p + i, s.len - i);
        if (n == 0)
            break;
        i += n;
    }
    return i;
}

bool str_is_text(struct str s)
{
    return str_text_prefix(s) == s.len;
}

struct str str_cut(struct str s, size_t max)
{
    if (s.len <= max)
        return s;
    size_t n = max;
    while (n > 0 && ((unsigned char)s.ptr[n] & 0xC0) == 0x80)
        n--;
    return (struct str){s.ptr, n};
}

void buf_init(struct buf *b, size_t max)
{
    *b = (struct buf){.max = max};
}

void buf_deinit(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_reset(struct buf *b)
{
    b->len = 0;
}

enum status buf_reserve(struct buf *b, size_t more)
{
    assert(b->len <= b->cap);
    if (more > b->max || b->len > b->max - more)
        return STATUS_LIMIT;
    size_t need = b->len + more;
    if (need <= b->cap)
        return STATUS_OK;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap *= 2;
    if (cap > b->max)
        cap = b->max;
    char *data = realloc(b->data, cap);
    if (!data)
        return STATUS_NOMEM;
    b->data = data;
    b->cap = cap;
    return STATUS_OK;
}

enum status buf_append(struct buf *b, const void *bytes, size_t len)
{
    if (len == 0)
        return STATUS_OK;
    enum status st = buf_reserve(b, len);
    if (st)
        return st;
    memcpy(b->data + b->len, bytes, len);
    b->len += len;
    return STATUS_OK;
}

enum status buf_append_str(struct buf *b, struct str s)
{
    return buf_append(b, s.ptr, s.len);
}

enum status buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    assert(n >= 0);
    /* Room for the NUL that vsnprintf insists on; it is not counted in len. */
    enum status st = buf_reserve(b, (size_t)n + 1);
    if (st)
        return st;
    va_start(args, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return STATUS_OK;
}

enum status buf_put_u8(struct buf *b, uint8_t v)
{
    return buf_append(b, &v, 1);
}

enum status buf_put_u64(struct buf *b, uint64_t v)
{
    uint64_t le = htole64(v);
    return buf_append(b, &le, sizeof(le));
}

enum status buf_put_varint(struct buf *b, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7F) | (v > 0x7F ? 0x80 : 0));
        v >>= 7;
    } while (v);
    return buf_append(b, bytes, n);
}

enum status buf_put_svarint(struct buf *b, int64_t v)
{
    return buf_put_varint(b, ((uint64_t)v << 1) ^ (uint64_t)(v >> 63));
}

enum status buf_put_bytes(struct buf *b, struct str s)
{
    enum status st = buf_put_varint(b, s.len);
    return st ? st : buf_append(b, s.ptr, s.len);
}

enum status buf_put_double(struct buf *b, double v)
{
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof(bits));
    return buf_put_u64(b, bits);
}

struct reader reader_of(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    return (struct reader){at, at ? at + len : at, false};
}

size_t reader_left(const struct reader *r)
{
    return r->bad ? 0 : (size_t)(r->end - r->at);
}

static const uint8_t *reader_take(struct reader *r, size_t len)
{
    if (r->bad || (size_t)(r->end - r->at) < len) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += len;
    return at;
}

uint8_t reader_u8(struct reader *r)
{
    const uint8_t *p = reader_take(r, 1);
    return p ? *p : 0;
}

uint16_t reader_be16(struct reader *r)
{
    const uint8_t *p = reader_take(r, 2);
    uint16_t be = 0;
    if (p)
        memcpy(&be, p, sizeof(be));
    return be16toh(be);
}

uint32_t reader_be32(struct reader *r)
{
    const uint8_t *p = reader_take(r, 4);
    uint32_t be = 0;
    if (p)
        memcpy(&be, p, sizeof(be));
    return be32toh(be);
}

uint64_t reader_be64(struct reader *r)
{
    const uint8_t *p = reader_take(r, 8);
    uint64_t be = 0;
    if (p)
        memcpy(&be, p, sizeof(be));
    return be64toh(be);
}

struct str reader_bytes(struct reader *r, size_t len)
{
    const uint8_t *p = reader_take(r, len);
    return p ? (struct str){(const char *)p, len} : STR_NULL;
}

struct str reader_cstring(struct reader *r)
{
    const uint8_t *nul = r->bad ? NULL : memchr(r->at, 0, (size_t)(r->end - r->at));
    if (!nul) {
        r->bad = true;
        return STR_NULL;
    }
    struct str s = {(const char *)r->at, (size_t)(nul - r->at)};
    r->at = nul + 1;
    return s;
}

uint64_t reader_u64(struct reader *r)
{
    const uint8_t *p = reader_take(r, 8);
    uint64_t le = 0;
    if (p)
        memcpy(&le, p, sizeof(le));
    return le64toh(le);
}

uint64_t reader_varint(struct reader *r)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = reader_u8(r);
        v |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->bad = true;
    return 0;
}

int64_t reader_svarint(struct reader *r)
{
    uint64_t v = reader_varint(r);
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

struct str reader_blob(struct reader *r)
{
    uint64_t len = reader_varint(r);
    if (len > reader_left(r)) {
        r->bad = true;
        return STR_NULL;
    }
    return reader_bytes(r, (size_t)len);
}

double reader_double(struct reader *r)
{
    uint64_t bits = reader_u64(r);
    double v = 0;
    memcpy(&v, &bits, sizeof(v));
    return v;
}
