#include "server/http_guard.h"

#include <string.h>
#include <strings.h>

struct str http_field_find(const struct http_field *fields, size_t n, struct str name)
{
    for (size_t i = 0; i < n; i++)
        if (fields[i].name.len == name.len &&
            strncasecmp(fields[i].name.ptr, name.ptr, name.len) == 0)
            return fields[i].value;
    return STR_NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static struct str decode(struct str s, char **out)
{
    char *from = *out, *at = from;
    for (size_t i = 0; i < s.len; i++) {
        int high = s.ptr[i] == '%' && s.len - i > 2 ? hex_digit(s.ptr[i + 1]) : -1;
        int low = high >= 0 ? hex_digit(s.ptr[i + 2]) : -1;
        if (low >= 0) {
            *at++ = (char)(unsigned char)(high * 16 + low);
            i += 2;
        } else {
            char c = s.ptr[i];
            *at++ = (char)(c == '+' ? ' ' : c);
        }
    }
    *out = at;
    return (struct str){from, (size_t)(at - from)};
}

size_t http_query_parse(struct str query, char *out, struct http_field *pairs, size_t max)
{
    size_t n = 0;
    while (query.len > 0 && n < max) {
        const char *end = memchr(query.ptr, '&', query.len);
        struct str pair = {query.ptr, end ? (size_t)(end - query.ptr) : query.len};
        size_t step = pair.len + (end != NULL);
        query = (struct str){query.ptr + step, query.len - step};
        if (pair.len == 0)
            continue;
        const char *equals = memchr(pair.ptr, '=', pair.len);
        struct str name = {pair.ptr, equals ? (size_t)(equals - pair.ptr) : pair.len};
        struct str value = {name.ptr + name.len + (equals != NULL),
                            pair.len - name.len - (equals != NULL)};
        pairs[n].name = decode(name, &out);
        pairs[n].value = decode(value, &out);
        n++;
    }
    return n;
}

/* ---- the verdict ---- */

/* RFC 9110 5.6.2: what a method or a field name may be made of. */
static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i], lower = (char)(c | 0x20);
        if (!(lower >= 'a' && lower <= 'z') && !(c >= '0' && c <= '9') &&
            (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return s.len > 0;
}

static bool is_field_value(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if ((c < 0x20 && c != '\t') || c == 0x7F)
            return false;
    }
    return true;
}

static bool is(struct str s, const char *lower)
{
    return s.len == strlen(lower) && strncasecmp(s.ptr, lower, s.len) == 0;
}

/* Fields of which a second one could be taken for the first by somebody else: those that say where
 * the request ends or whom it is for, and those that signatures and ids are read from. */
static bool is_single(struct str name)
{
    static const char *const names[] = {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "stripe-signature",
        "svix-id",
        "svix-signature",
        "svix-timestamp",
        "transfer-encoding",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-github-delivery",
        "x-github-event",
        "x-hub-signature",
        "x-hub-signature-256",
        "x-signature-ed25519",
        "x-signature-timestamp",
        "x-slack-request-timestamp",
        "x-slack-signature",
        "x-telegram-bot-api-secret-token",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (is(name, names[i]))
            return true;
    return false;
}

static struct http_verdict refused(unsigned status, const char *title)
{
    return (struct http_verdict){.status = status, .title = title, .length = -1};
}

/* Only what means the same to everybody: "/" and plain segments. */
static const char *check_target(struct str t)
{
    const char *mark = memchr(t.ptr, '?', t.len);
    size_t path = mark ? (size_t)(mark - t.ptr) : t.len;
    if (t.len == 0 || t.ptr[0] != '/')
        return "The target must be a path";
    for (size_t i = 0; i < t.len; i++)
        if ((unsigned char)t.ptr[i] <= 0x20 || (unsigned char)t.ptr[i] >= 0x7F || t.ptr[i] == '#' ||
            t.ptr[i] == '\\')
            return "The target has characters that must be encoded";
    for (size_t i = 0; i < path; i++) {
        const char *at = t.ptr + i;
        size_t left = path - i;
        if (*at == '%')
            return "The path must not be encoded";
        if (*at != '/')
            continue;
        if (left > 1 && at[1] == '/')
            return "The path has an empty segment";
        size_t dots = left > 1 && at[1] == '.' ? 1 + (left > 2 && at[2] == '.') : 0;
        if (dots > 0 && (left == dots + 1 || at[dots + 1] == '/'))
            return "The path has a dot segment";
    }
    return NULL;
}

/* Digits only, at most what 18 of them can say; -1: not such a number. */
static int64_t parse_length(struct str s)
{
    int64_t n = 0;
    if (s.len == 0 || s.len > 18)
        return -1;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return -1;
        n = n * 10 + (s.ptr[i] - '0');
    }
    return n;
}

static const char *check_fields(const struct http_head *h)
{
    for (size_t i = 0; i < h->n_fields; i++) {
        const struct http_field *f = &h->fields[i];
        if (!is_token(f->name))
            return "A header name is malformed";
        if (!is_field_value(f->value))
            return "A header value has control characters";
        if (!is_single(f->name))
            continue;
        for (size_t k = i + 1; k < h->n_fields; k++)
            if (f->name.len == h->fields[k].name.len &&
                strncasecmp(f->name.ptr, h->fields[k].name.ptr, f->name.len) == 0)
                return "A header came twice";
    }
    return NULL;
}

/* Where the body ends (RFC 9112 6.3), or why that cannot be said for sure. */
static const char *check_framing(const struct http_head *h, struct http_verdict *v)
{
    struct str length = http_field_find(h->fields, h->n_fields, STR("Content-Length"));
    struct str coding = http_field_find(h->fields, h->n_fields, STR("Transfer-Encoding"));
    v->length = -1;
    if (length.ptr && coding.ptr)
        return "Both Content-Length and Transfer-Encoding";
    if (length.ptr && (v->length = parse_length(length)) < 0)
        return "Content-Length is malformed";
    if (coding.ptr && !is(coding, "chunked"))
        return "Transfer-Encoding must be chunked";
    if (coding.ptr && !str_equal(h->version, STR("HTTP/1.1")))
        return "Transfer-Encoding needs HTTP/1.1";
    v->chunked = coding.ptr != NULL;
    return NULL;
}

struct http_verdict http_guard(const struct http_head *h)
{
    struct http_verdict v = {0};
    const struct http_field *f = h->fields;
    bool one_one = str_equal(h->version, STR("HTTP/1.1"));
    if (!one_one && !str_equal(h->version, STR("HTTP/1.0")))
        return refused(505, "HTTP version not supported");
    if (!is_token(h->method))
        return refused(400, "The method is malformed");
    if (h->target.len > HTTP_TARGET_MAX)
        return refused(414, "URI too long");
    if (h->n_all > HTTP_FIELDS_MAX || h->n_all != h->n_fields || h->headers_bytes > h->headers_max)
        return refused(431, "Request header fields too large");
    const char *wrong = h->torn ? "A header line is malformed" : check_target(h->target);
    if (!wrong)
        wrong = check_fields(h);
    if (!wrong)
        wrong = check_framing(h, &v);
    if (!wrong && one_one && !http_field_find(f, h->n_fields, STR("Host")).ptr)
        wrong = "Host is missing";
    if (wrong)
        return refused(400, wrong);
    struct str expect = http_field_find(f, h->n_fields, STR("Expect"));
    if (expect.ptr && !is(expect, "100-continue"))
        return refused(417, "Expectation failed");
    v.expect_continue = expect.ptr != NULL;
    struct str encoding = http_field_find(f, h->n_fields, STR("Content-Encoding"));
    v.gzip = is(encoding, "gzip") || is(encoding, "x-gzip");
    v.other_coding = encoding.len > 0 && !v.gzip && !is(encoding, "identity");
    return v;
}
