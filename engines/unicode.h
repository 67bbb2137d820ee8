/*
 * engines/unicode.h - just enough of Unicode to find words: classes, simple case folding, UTF-8.
 *
 * Classes are coarse on purpose (blocks, not characters) for rare scripts; code points without an
 * entry are letters, so that an unlisted script still gives tokens.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum unicode_class {
    UNICODE_OTHER, /* punctuation and symbols: ends a word */
    UNICODE_SPACE,
    UNICODE_LETTER, /* letters, marks, digits */
    UNICODE_DENSE,  /* letters of scripts without word spaces */
    UNICODE_EMOJI,
    UNICODE_IGNORE, /* joiners, variation selectors, skin tones: as if not there */
};

enum unicode_class unicode_class(uint32_t cp);
/* Simple case folding; also U+0130 to i, so that Turkish capitals meet their small letters. */
uint32_t unicode_fold(uint32_t cp);
/* One code point from at < end; malformed bytes give U+FFFD one at a time. Returns bytes read. */
size_t unicode_decode(const uint8_t *at, const uint8_t *end, uint32_t *ret_cp);
/* Writes 1..4 bytes. */
size_t unicode_encode(uint32_t cp, uint8_t out[4]);
