/*
 * server/http_address.h - who a request comes from: addresses, networks of trusted proxies, and
 * what X-Forwarded-For says about the client. Pure.
 */
#pragma once

#include "core/buf.h"
#include "server/http_guard.h"

#include <stdbool.h>
#include <sys/socket.h>

#define HTTP_NETWORKS_MAX       32
#define HTTP_ADDRESS_TEXT_BYTES 46

/* IPv6; IPv4 as ::ffff:a.b.c.d; all zero: the other end of a unix socket. */
struct http_address {
    uint8_t bytes[16];
};

struct http_networks {
    size_t n;
    struct {
        struct http_address address;
        unsigned bits;
    } list[HTTP_NETWORKS_MAX];
};

struct http_address http_address_of(const struct sockaddr *sa); /* NULL: all zero */
bool http_address_is_unix(const struct http_address *a);
void http_address_print(const struct http_address *a, char out[HTTP_ADDRESS_TEXT_BYTES]);
/* The part that limits are kept for: an IPv6 host has all of its /64. */
struct http_address http_address_host(const struct http_address *a);

/* "10.0.0.0/8, ::1"; NULL or "" gives none. INVALID with the part that is wrong. */
MUST_CHECK enum status http_networks_parse(const char *text, struct http_networks *ret,
                                           struct error *err);
bool http_networks_have(const struct http_networks *n, const struct http_address *a);

/* The peer, unless it is trusted: then the rightmost hop of all X-Forwarded-For that is not, or the
 * last one that could be read. trust_unix: whoever may use the unix socket is a proxy. */
struct http_address http_client_address(const struct http_address *peer,
                                        const struct http_networks *trusted, bool trust_unix,
                                        const struct http_field *fields, size_t n_fields);
