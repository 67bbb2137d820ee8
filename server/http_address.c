#include "server/http_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};

static bool is_v4(const struct http_address *a)
{
    return memcmp(a->bytes, mapped, sizeof(mapped)) == 0;
}

struct http_address http_address_of(const struct sockaddr *sa)
{
    struct http_address a = {{0}};
    if (sa && sa->sa_family == AF_INET) {
        memcpy(a.bytes, mapped, sizeof(mapped));
        memcpy(a.bytes + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
    } else if (sa && sa->sa_family == AF_INET6) {
        memcpy(a.bytes, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    }
    return a;
}

bool http_address_is_unix(const struct http_address *a)
{
    static const struct http_address none;
    return memcmp(a, &none, sizeof(none)) == 0;
}

void http_address_print(const struct http_address *a, char out[HTTP_ADDRESS_TEXT_BYTES])
{
    if (http_address_is_unix(a))
        memcpy(out, "unix", 5);
    else if (is_v4(a))
        (void)inet_ntop(AF_INET, a->bytes + 12, out, HTTP_ADDRESS_TEXT_BYTES);
    else
        (void)inet_ntop(AF_INET6, a->bytes, out, HTTP_ADDRESS_TEXT_BYTES);
}

struct http_address http_address_host(const struct http_address *a)
{
    struct http_address host = *a;
    if (!is_v4(a))
        memset(host.bytes + 8, 0, 8);
    return host;
}

/* Numbers only; with brackets and a port, as some proxies write it. */
static bool parse(struct str s, struct http_address *ret)
{
    char text[64];
    if (s.len > 0 && s.ptr[0] == '[') {
        const char *end = memchr(s.ptr, ']', s.len);
        if (!end)
            return false;
        s = (struct str){s.ptr + 1, (size_t)(end - s.ptr) - 1};
    } else {
        const char *colon = memchr(s.ptr, ':', s.len);
        if (colon && memchr(s.ptr, '.', (size_t)(colon - s.ptr)))
            s.len = (size_t)(colon - s.ptr);
    }
    if (s.len == 0 || s.len >= sizeof(text))
        return false;
    memcpy(text, s.ptr, s.len);
    text[s.len] = '\0';
    if (strlen(text) != s.len)
        return false;
    memcpy(ret->bytes, mapped, sizeof(mapped));
    return inet_pton(AF_INET, text, ret->bytes + 12) == 1 ||
           inet_pton(AF_INET6, text, ret->bytes) == 1;
}

static struct str trim(struct str s)
{
    while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
        s = (struct str){s.ptr + 1, s.len - 1};
    while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
        s.len--;
    return s;
}

static bool parse_network(struct str s, struct http_address *address, unsigned *bits)
{
    const char *slash = memchr(s.ptr, '/', s.len);
    struct str host = {s.ptr, slash ? (size_t)(slash - s.ptr) : s.len};
    if (!parse(host, address))
        return false;
    unsigned most = is_v4(address) ? 32 : 128, n = most;
    if (slash) {
        struct str digits = {slash + 1, s.len - host.len - 1};
        if (digits.len == 0 || digits.len > 3)
            return false;
        n = 0;
        for (size_t i = 0; i < digits.len; i++) {
            if (digits.ptr[i] < '0' || digits.ptr[i] > '9')
                return false;
            n = n * 10 + (unsigned)(digits.ptr[i] - '0');
        }
    }
    *bits = n + 128 - most;
    return n <= most;
}

enum status http_networks_parse(const char *text, struct http_networks *ret, struct error *err)
{
    struct http_networks all = {0};
    struct str left = str_from(text ? text : "");
    while (left.len > 0) {
        const char *comma = memchr(left.ptr, ',', left.len);
        struct str part = {left.ptr, comma ? (size_t)(comma - left.ptr) : left.len};
        size_t step = part.len + (comma != NULL);
        left = (struct str){left.ptr + step, left.len - step};
        part = trim(part);
        if (all.n == HTTP_NETWORKS_MAX)
            return error_set(err, STATUS_INVALID, "more than %d trusted proxies",
                             HTTP_NETWORKS_MAX);
        if (!parse_network(part, &all.list[all.n].address, &all.list[all.n].bits))
            return error_set(err, STATUS_INVALID,
                             "trusted proxy \"" STR_FMT "\" is neither an address nor a network "
                             "such as 10.0.0.0/8",
                             STR_ARGS(part));
        all.n++;
    }
    *ret = all;
    return STATUS_OK;
}

static bool same_prefix(const struct http_address *a, const struct http_address *b, unsigned bits)
{
    unsigned bytes = bits / 8, rest = bits % 8;
    if (memcmp(a->bytes, b->bytes, bytes) != 0)
        return false;
    return rest == 0 || (a->bytes[bytes] ^ b->bytes[bytes]) >> (8 - rest) == 0;
}

bool http_networks_have(const struct http_networks *n, const struct http_address *a)
{
    for (size_t i = 0; i < n->n; i++)
        if (same_prefix(&n->list[i].address, a, n->list[i].bits))
            return true;
    return false;
}

/* Takes the last element off a list. */
static struct str last_hop(struct str *list)
{
    const char *comma = memrchr(list->ptr, ',', list->len);
    size_t from = comma ? (size_t)(comma - list->ptr) + 1 : 0;
    struct str hop = {list->ptr + from, list->len - from};
    list->len = comma ? from - 1 : 0;
    return trim(hop);
}

struct http_address http_client_address(const struct http_address *peer,
                                        const struct http_networks *trusted, bool trust_unix,
                                        const struct http_field *fields, size_t n_fields)
{
    struct http_address at = *peer;
    if (!http_networks_have(trusted, &at) && !(trust_unix && http_address_is_unix(&at)))
        return at;
    for (size_t i = n_fields; i > 0; i--) {
        static const struct str name = {"X-Forwarded-For", 15};
        struct str list = fields[i - 1].value;
        if (fields[i - 1].name.len != name.len ||
            strncasecmp(fields[i - 1].name.ptr, name.ptr, name.len) != 0)
            continue;
        while (list.len > 0) {
            struct http_address hop;
            if (!parse(last_hop(&list), &hop))
                return at;
            at = hop;
            if (!http_networks_have(trusted, &at))
                return at;
        }
    }
    return at;
}
