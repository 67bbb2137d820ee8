/*
 * core/status.h - how a call reports failure: a closed set of codes plus one line of text.
 *
 * Codes of libpq, SQLite, nng and jansson are translated once, at the call that met them. Out
 * parameters are written only on success; `struct error *err` is always the last parameter and may
 * be NULL when only the code matters.
 */
#pragma once

#define MUST_CHECK        __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Add a code only when some caller must branch on it; everything else is text. */
enum status {
    STATUS_OK = 0,
    STATUS_AGAIN,    /* queue full or nothing to read: wait, then retry */
    STATUS_END,      /* the input or the stream ended in good order */
    STATUS_NOMEM,    /* allocation failed */
    STATUS_LIMIT,    /* a bound from core/limits.h was reached */
    STATUS_INVALID,  /* an input cannot be used: dead-letter it, or tell the user */
    STATUS_IO,       /* disk or network: reconnect with back-off */
    STATUS_PROTOCOL, /* a peer sent bytes we cannot accept: do not retry */
    STATUS_CORRUPT,  /* our own durable bytes fail their check: stop */
    STATUS_FENCED,   /* another instance has taken over: stop writing at once */
    STATUS_REFUSED,  /* starting here could lose or double data: stop and explain */
    STATUS_LOST,     /* the source no longer has what follows our state: rebuild, or stop */
};

struct error {
    enum status code;
    char text[768]; /* NUL-terminated, no newline */
};

/* Records a failure and hands its code back, so callers write `return error_set(...)`. */
enum status error_set(struct error *err, enum status code, const char *fmt, ...) PRINTF_LIKE(3, 4);
const char *status_name(enum status code);
