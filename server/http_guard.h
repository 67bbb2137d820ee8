/*
 * server/http_guard.h - may a request with this head be read any further? Pure.
 *
 * libmicrohttpd takes heads that others read differently; where a proxy in front and this server
 * do not agree on where a request ends, the rest of it becomes a request of its own (request
 * smuggling). What can be read in two ways is refused here, and its connection closed.
 */
#pragma once

#include "core/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_field {
    struct str name, value;
};

#define HTTP_FIELDS_MAX 64
#define HTTP_TARGET_MAX 4096

struct http_head {
    struct str method, target, version; /* "POST", "/write?db=x", "HTTP/1.1" */
    const struct http_field *fields;
    size_t n_fields;
    size_t n_all;         /* fields of the request; fields holds the first of them ... */
    size_t headers_bytes; /* ... and this is the size of all, each line's ": " and CRLF with it */
    size_t headers_max;
    bool torn; /* a line did not end in CRLF, was folded, or had a NUL in it */
};

struct http_verdict {
    unsigned status;   /* 0: go on; else 400, 414, 417, 431, 501, 505 */
    const char *title; /* constant, for the problem's body and the metrics */
    bool chunked;
    bool expect_continue;
    bool gzip;
    bool other_coding; /* a Content-Encoding that nobody here knows */
    int64_t length;    /* of the body as declared, -1 = it is not */
};
struct http_verdict http_guard(const struct http_head *h);
/* A query ("a=1&b=%20") as decoded pairs, into at most max of them; what follows is left out. "+"
 * is a blank; a "%" without two digits stands for itself. out: query.len bytes; the pairs point
 * there. */
size_t http_query_parse(struct str query, char *out, struct http_field *pairs, size_t max);
/* Any case; the first one, STR_NULL when there is none. */
struct str http_field_find(const struct http_field *fields, size_t n, struct str name);
