/*
 * core/jsonw.h - writes canonical JSON: keys in strictly ascending byte order (asserted), numbers
 * rounded half-even to at most 6 significant digits, no NaN, strings escaped minimally, no blanks.
 *
 * The bytes are part of the golden tests (ENGINES.md 1.8). The first failure (the buffer's ceiling
 * or memory) sticks: check jsonw_status() once at the end.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

#define JSONW_DEPTH 8

struct jsonw {
    struct buf *out;
    enum status st;
    int depth;
    bool has_member[JSONW_DEPTH];
    size_t last_key[JSONW_DEPTH]; /* offset of the previous key in out, for the order assertion */
    size_t last_key_len[JSONW_DEPTH];
};

void jsonw_init(struct jsonw *w, struct buf *out); /* appends to out */
enum status jsonw_status(const struct jsonw *w);
void jsonw_object_begin(struct jsonw *w);
void jsonw_object_end(struct jsonw *w);
void jsonw_array_begin(struct jsonw *w);
void jsonw_array_end(struct jsonw *w);
void jsonw_key(struct jsonw *w, const char *key);
void jsonw_key_str(struct jsonw *w, struct str key);
void jsonw_string(struct jsonw *w, struct str s); /* invalid UTF-8 becomes U+FFFD */
void jsonw_int(struct jsonw *w, int64_t v);
void jsonw_number(struct jsonw *w, double v); /* 6 significant digits; -0 prints 0 */
void jsonw_double(struct jsonw *w, double v); /* shortest digits that read back as v */
void jsonw_bool(struct jsonw *w, bool v);
void jsonw_null(struct jsonw *w);
void jsonw_time(struct jsonw *w, int64_t t_us); /* RFC 3339 UTC, whole seconds */
void jsonw_raw(struct jsonw *w, struct str json);
