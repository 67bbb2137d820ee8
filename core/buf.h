/*
 * core/buf.h - growable bytes with a ceiling, and bounds-checked readers of foreign bytes.
 *
 * A buf never grows past the ceiling it was given: the append that would do so fails with
 * STATUS_LIMIT and leaves the content as it was. Ownership: buf_deinit() frees; data may move on
 * every append. buf_reset() keeps the allocation.
 */
#pragma once

#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Borrowed bytes, not NUL-terminated. ptr is NULL for "no value", non-NULL with len 0 for empty. */
struct str {
    const char *ptr;
    size_t len;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})
#define STR_NULL     ((struct str){NULL, 0})
#define STR_FMT      "%.*s"
#define STR_ARGS(s)  (int)(s).len, (s).ptr ? (s).ptr : ""

struct str str_from(const char *nul_terminated); /* NULL gives STR_NULL */
bool str_equal(struct str a, struct str b);
/* Valid UTF-8 without NUL bytes: what PostgreSQL accepts as text. */
bool str_is_text(struct str s);
/* Length of the longest prefix that is such text. */
size_t str_text_prefix(struct str s);
/* The longest prefix of at most max bytes that does not cut a code point. */
struct str str_cut(struct str s, size_t max);

struct buf {
    char *data;
    size_t len;
    size_t cap;
    size_t max;
};

void buf_init(struct buf *b, size_t max);
void buf_deinit(struct buf *b);
void buf_reset(struct buf *b);
MUST_CHECK enum status buf_reserve(struct buf *b, size_t more);
MUST_CHECK enum status buf_append(struct buf *b, const void *bytes, size_t len);
MUST_CHECK enum status buf_append_str(struct buf *b, struct str s);
MUST_CHECK enum status buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Little-endian and variable-length integers, for our own durable formats. */
MUST_CHECK enum status buf_put_u8(struct buf *b, uint8_t v);
MUST_CHECK enum status buf_put_u64(struct buf *b, uint64_t v);
MUST_CHECK enum status buf_put_varint(struct buf *b, uint64_t v);  /* LEB128, 1..10 bytes */
MUST_CHECK enum status buf_put_svarint(struct buf *b, int64_t v);  /* zig-zag */
MUST_CHECK enum status buf_put_bytes(struct buf *b, struct str s); /* varint length + bytes */
MUST_CHECK enum status buf_put_double(struct buf *b, double v);

/*
 * Reads from borrowed bytes. After the first short read `bad` is set, and every later read returns
 * zeros: check `bad` once at the end of a message.
 */
struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool bad;
};

struct reader reader_of(const void *bytes, size_t len);
size_t reader_left(const struct reader *r);
uint8_t reader_u8(struct reader *r);
uint16_t reader_be16(struct reader *r);
uint32_t reader_be32(struct reader *r);
uint64_t reader_be64(struct reader *r);
struct str reader_bytes(struct reader *r, size_t len);
struct str reader_cstring(struct reader *r); /* without its NUL */
uint64_t reader_u64(struct reader *r);       /* little-endian */
uint64_t reader_varint(struct reader *r);
int64_t reader_svarint(struct reader *r);
struct str reader_blob(struct reader *r); /* varint length + bytes */
double reader_double(struct reader *r);
