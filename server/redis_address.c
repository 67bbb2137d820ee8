#include "server/redis_address.h"

#include "core/buf.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define DEFAULT_PORT 6379
#define DATABASE_MAX 65535

static bool take_prefix(const char **url, const char *prefix)
{
    size_t len = strlen(prefix);
    if (strncmp(*url, prefix, len) != 0)
        return false;
    *url += len;
    return true;
}

static bool copy(char *out, size_t size, struct str s)
{
    if (s.len == 0 || s.len >= size)
        return false;
    memcpy(out, s.ptr, s.len);
    out[s.len] = '\0';
    return true;
}

/* Digits only, at most max. */
static bool read_number(struct str s, int max, int *ret)
{
    int n = 0;
    if (s.len == 0 || s.len > 5)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (!isdigit((unsigned char)s.ptr[i]))
            return false;
        n = n * 10 + (s.ptr[i] - '0');
    }
    *ret = n;
    return n <= max;
}

/* What stands before and after the last c; without one everything is before it. */
static bool split(struct str s, char c, struct str *before, struct str *after)
{
    const char *at = s.len ? memrchr(s.ptr, c, s.len) : NULL;
    *before = at ? (struct str){s.ptr, (size_t)(at - s.ptr)} : s;
    *after = at ? (struct str){at + 1, s.len - before->len - 1} : STR_NULL;
    return at != NULL;
}

static enum status parse_host(struct str s, struct redis_address *a, struct error *err)
{
    struct str host = s;
    struct str port = STR_NULL;
    bool bracketed = s.len && s.ptr[0] == '[';
    const char *end = bracketed ? memchr(s.ptr, ']', s.len) : NULL;
    bool has_port = false;
    if (end) {
        host = (struct str){s.ptr + 1, (size_t)(end - s.ptr) - 1};
        port = (struct str){end + 1, s.len - host.len - 2};
        has_port = port.len && port.ptr[0] == ':';
        if (port.len && !has_port)
            return error_set(err, STATUS_INVALID, "has something between ] and its port");
        port = has_port ? (struct str){port.ptr + 1, port.len - 1} : STR_NULL;
    } else {
        has_port = split(s, ':', &host, &port);
        if (bracketed || memchr(host.ptr, ':', host.len))
            return error_set(err, STATUS_INVALID, "needs an IPv6 address in brackets, as [::1]");
    }
    if (!copy(a->host, sizeof(a->host), host))
        return error_set(err, STATUS_INVALID, "names no host, as redis://127.0.0.1:6379/0 does");
    a->port = DEFAULT_PORT;
    if (has_port && (!read_number(port, 65535, &a->port) || a->port == 0))
        return error_set(err, STATUS_INVALID, "has a port that is not between 1 and 65535");
    return STATUS_OK;
}

static enum status parse_network(struct str s, struct redis_address *a, struct error *err)
{
    struct str user, rest, database;
    if (!split(s, '@', &user, &rest)) {
        rest = s;
        user = STR_NULL;
    }
    if (user.ptr && memchr(user.ptr, ':', user.len))
        return error_set(err, STATUS_INVALID, "must not hold a password: that is redis.password");
    if (user.ptr && !copy(a->user, sizeof(a->user), user))
        return error_set(err, STATUS_INVALID, "has an empty or too long user before the @");
    if (split(rest, '/', &rest, &database) && database.len &&
        !read_number(database, DATABASE_MAX, &a->database))
        return error_set(err, STATUS_INVALID,
                         "ends in something that is no number of a database, as /0");
    return parse_host(rest, a, err);
}

enum status redis_address_parse(const char *url, struct redis_address *ret, struct error *err)
{
    struct redis_address a = {0};
    enum status st = STATUS_OK;
    if (!str_is_text(str_from(url)) || strpbrk(url, " \t\r\n"))
        return error_set(err, STATUS_INVALID, "holds blanks, or bytes that are no text");
    if (take_prefix(&url, "rediss://"))
        return error_set(
            err, STATUS_INVALID,
            "asks for TLS, which is not supported: use a unix socket, or a tunnel that "
            "listens on loopback");
    if (take_prefix(&url, "unix://")) {
        if (*url != '/' || !copy(a.path, sizeof(a.path), str_from(url)))
            return error_set(err, STATUS_INVALID,
                             "needs an absolute path of at most %d bytes, as in unix:///run/redis",
                             REDIS_PATH_BYTES - 1);
    } else if (take_prefix(&url, "redis://")) {
        st = parse_network(str_from(url), &a, err);
    } else {
        return error_set(err, STATUS_INVALID, "is neither redis://HOST:PORT/DB nor unix:///PATH");
    }
    if (!st)
        *ret = a;
    return st;
}
