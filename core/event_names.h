/*
 * core/event_names.h - the words of the public form for the enums of core/event.h; private to the
 * JSON reader and printer. Each array is indexed by the enum's value, NULL = no such value.
 */
#pragma once

#include <stddef.h>

struct event_words {
    const char *const *words;
    int count; /* entries, including index 0 */
};

extern const struct event_words words_role;
extern const struct event_words words_memory_op;
extern const struct event_words words_outcome;
extern const struct event_words words_outreach_op;
extern const struct event_words words_privacy_op;
extern const struct event_words words_request_op;

/* Base64 with padding (RFC 4648), for bytes that are not text. */
size_t base64_length(size_t n_bytes);
void base64_encode(const unsigned char *bytes, size_t len, char *out);
/* Decodes len characters to out (3/4 of len); returns the bytes written or -1 when malformed. */
long base64_decode(const char *text, size_t len, unsigned char *out);
