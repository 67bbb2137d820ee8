/*
 * tests/fuzz/fuzz_http_guard.c - heads of requests, queries and X-Forwarded-For from strangers: no
 * crash, and what passes says in one way only where the request ends.
 */
#include "server/http_address.h"
#include "server/http_guard.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool fact)
{
    if (!fact)
        abort();
}

static size_t count(const struct http_head *h, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n_fields; i++)
        n += h->fields[i].name.len == strlen(name) &&
             strncasecmp(h->fields[i].name.ptr, name, h->fields[i].name.len) == 0;
    return n;
}

/* Up to the byte, which is taken as well; the rest when it does not come. */
static struct str take_until(struct str *left, char byte)
{
    const char *end = left->len ? memchr(left->ptr, byte, left->len) : NULL;
    struct str part = {left->ptr, end ? (size_t)(end - left->ptr) : left->len};
    size_t step = part.len + (end != NULL);
    *left = (struct str){left->ptr + step, left->len - step};
    return part;
}

static void check_passed(const struct http_head *h, const struct http_verdict *v)
{
    size_t lengths = count(h, "Content-Length"), codings = count(h, "Transfer-Encoding");
    require(lengths + codings <= 1);
    require(v->chunked == (codings == 1));
    require((v->length >= 0) == (lengths == 1));
    require(count(h, "Host") <= 1 && count(h, "Webhook-Signature") <= 1);
    require(h->target.len > 0 && h->target.ptr[0] == '/');
    for (size_t i = 0; i < h->n_fields; i++) {
        require(h->fields[i].name.len > 0);
        require(!memchr(h->fields[i].name.ptr, ' ', h->fields[i].name.len));
        for (size_t k = 0; k < h->fields[i].value.len; k++)
            require((unsigned char)h->fields[i].value.ptr[k] >= ' ' ||
                    h->fields[i].value.ptr[k] == '\t');
    }
}

static void check_query(struct str target)
{
    struct http_field pairs[8];
    char *out = malloc(target.len + 1);
    size_t used = 0;
    require(out != NULL);
    size_t n = http_query_parse(target, out, pairs, 8);
    require(n <= 8);
    for (size_t i = 0; i < n; i++)
        used += pairs[i].name.len + pairs[i].value.len;
    require(used <= target.len);
    free(out);
}

static void check_client(const struct http_head *h)
{
    struct http_networks nets;
    char text[HTTP_ADDRESS_TEXT_BYTES];
    require(http_networks_parse("10.0.0.0/8, ::1", &nets, NULL) == STATUS_OK);
    struct http_address peer = {{[15] = 1}};
    struct http_address client = http_client_address(&peer, &nets, true, h->fields, h->n_fields);
    http_address_print(&client, text);
    require(strlen(text) < sizeof(text));
    /* What comes out is what a network may be written as. */
    if (strcmp(text, "unix") != 0)
        require(http_networks_parse(text, &nets, NULL) == STATUS_OK &&
                http_networks_have(&nets, &client));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str left = {(const char *)data, size};
    struct http_field fields[HTTP_FIELDS_MAX];
    struct http_head h = {.fields = fields, .headers_max = 4096, .n_all = 0};
    if (size == 0)
        return 0;
    struct str first = take_until(&left, '\n');
    h.method = take_until(&first, ' ');
    h.target = take_until(&first, ' ');
    h.version = first;
    while (left.len > 0) {
        struct str line = take_until(&left, '\n');
        struct http_field f = {.name = take_until(&line, ':'), .value = line};
        h.headers_bytes += f.name.len + f.value.len + 4;
        h.n_all++;
        if (h.n_fields < HTTP_FIELDS_MAX)
            fields[h.n_fields++] = f;
    }
    struct http_verdict v = http_guard(&h);
    if (v.status)
        require(v.title != NULL && v.status >= 400 && v.status < 600);
    else
        check_passed(&h, &v);
    check_query(h.target);
    check_client(&h);
    return 0;
}
