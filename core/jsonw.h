/*
 * core/jsonw.h - writes canonical JSON: keys in strictly ascending byte order (asserted), numbers
 * rounded half-even to at most 6 significant digits, no NaN, strings escaped minimally, no blanks.
 *
 * Numbers are what C's "%.6g" prints in the C locale: the exact value of the double is rounded to 6
 * significant digits, a tie goes to the even digit, trailing zeros go; plain notation for decimal
 * exponents -4..5 (0.5467, 46, 123457), otherwise d.ddddde[+-]dd (1.23457e+06, 1e-07). Zero is 0
 * whatever its sign. NaN and infinities are the caller's bug and assert.
 * Strings: the quote, the backslash and control characters are escaped (\b \f \n \r \t, else
 * \u00xx), all other text stands as it is. Each byte that is not part of valid UTF-8, and NUL
 * (which PostgreSQL's jsonb refuses), becomes one U+FFFD. Keys are compared unescaped; a key made
 * of foreign bytes must be checked text (str_is_text()).
 *
 * The bytes are part of the golden tests (ENGINES.md 1.8). The first failure (the buffer's ceiling
 * or memory) sticks: check jsonw_status() once at the end.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

#define JSONW_DEPTH 8 /* containers open at once, less one */

struct jsonw {
    struct buf *out;
    enum status st;
    int depth;
    bool after_key; /* a key is waiting for its value */
    bool in_object[JSONW_DEPTH];
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
void jsonw_number(struct jsonw *w, double v); /* 6 significant digits, see above */
void jsonw_double(struct jsonw *w, double v); /* fewest of 15..17 digits that read back as v */
void jsonw_bool(struct jsonw *w, bool v);
void jsonw_null(struct jsonw *w);
void jsonw_time(struct jsonw *w, int64_t t_us);   /* RFC 3339 UTC, whole seconds */
void jsonw_raw(struct jsonw *w, struct str json); /* one finished value; not from w's own buffer */
