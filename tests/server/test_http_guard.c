/*
 * tests/server/test_http_guard.c - which heads may be read any further, what the query says, and
 * who the client is. Heads are given as they are on the wire, one line each.
 */
#include "server/http_address.h"
#include "server/http_guard.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_ROOM 100

/* "POST /x HTTP/1.1\nName: value\n..."; each value begins behind its colon and blanks. */
static struct http_verdict judge(const char *text)
{
    struct http_field fields[FIELDS_ROOM];
    struct http_head h = {.fields = fields, .headers_max = 1000};
    const char *blank = strchr(text, ' '), *end = strchrnul(text, '\n');
    h.method = (struct str){text, (size_t)(blank - text)};
    const char *last = memrchr(blank, ' ', (size_t)(end - blank));
    h.target = (struct str){blank + 1, (size_t)(last - blank - 1)};
    h.version = (struct str){last + 1, (size_t)(end - last - 1)};
    while (*end) {
        const char *at = end + 1;
        end = strchrnul(at, '\n');
        if (at == end)
            continue;
        const char *colon = memchr(at, ':', (size_t)(end - at));
        const char *value = colon + 1 + strspn(colon + 1, " ");
        h.headers_bytes += (size_t)(end - at) + 2;
        h.n_all++;
        if (h.n_fields < HTTP_FIELDS_MAX)
            fields[h.n_fields++] =
                (struct http_field){{at, (size_t)(colon - at)}, {value, (size_t)(end - value)}};
    }
    return http_guard(&h);
}

static void assert_refused(unsigned status, const char *text)
{
    struct http_verdict v = judge(text);
    if (v.status != status)
        fail_msg("wanted %u, got %u (%s): %s", status, v.status, v.title ? v.title : "", text);
    assert_non_null(v.title);
}

static struct http_verdict assert_passes(const char *text)
{
    struct http_verdict v = judge(text);
    if (v.status)
        fail_msg("got %u (%s): %s", v.status, v.title, text);
    return v;
}

static void test_plain_requests_pass_and_say_where_they_end(void **state)
{
    (void)state;
    struct http_verdict v = assert_passes("GET /ping HTTP/1.1\nHost: x");
    assert_true(!v.chunked && v.length == -1 && !v.gzip && !v.other_coding && !v.expect_continue);
    v = assert_passes("POST /write?db=a%20b&p=%2F HTTP/1.1\nhost: x\nCONTENT-LENGTH: 12\n"
                      "Expect: 100-Continue\nContent-Encoding: gzip");
    assert_true(!v.chunked && v.length == 12 && v.gzip && v.expect_continue);
    v = assert_passes("POST /a-b/c.d HTTP/1.1\nHost: x\nTransfer-Encoding: Chunked\n"
                      "Content-Encoding: br\nX-Any: \t a \x80\xff");
    assert_true(v.chunked && v.length == -1 && v.other_coding);
    assert_passes("POST / HTTP/1.0\nContent-Length: 0");
    assert_passes("GET /a..b/.c/d. HTTP/1.1\nHost: x\nCookie: a\nCookie: b");
}

static void test_framing_that_can_be_read_in_two_ways_is_refused(void **state)
{
    (void)state;
    const char *const tails[] = {
        "Content-Length : 45",
        "Content-Length\t: 45",
        "Content-Length: 45\nContent-Length: 45",
        "Content-Length: 45\ncontent-length: 0",
        "Content-Length: 45, 45",
        "Content-Length: +45",
        "Content-Length: -1",
        "Content-Length: 0x2d",
        "Content-Length: 4 5",
        "Content-Length:",
        "Content-Length: 9999999999999999999",
        "Content-Length: 4\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding:",
        "Transfer-Encoding: \013chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer_Encoding\x01: chunked",
        ": no name",
        "Ho\x80st: x",
        "X: a\rContent-Length: 5",
        "X: a\x7f",
        "Host: y",
        "Webhook-Signature: a\nwebhook-signature: b",
        "Svix-Id: a\nSvix-Id: a",
        "X-Hub-Signature-256: a\nX-Hub-Signature-256: a",
        "Authorization: a\nAuthorization: b",
        "X-GitHub-Delivery: a\nX-GitHub-Delivery: b",
        "Idempotency-Key: a\nIdempotency-Key: b",
    };
    char text[512];
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
        snprintf(text, sizeof(text), "POST /x HTTP/1.1\nHost: x\n%s", tails[i]);
        assert_refused(400, text);
    }
    assert_refused(400, "POST /x HTTP/1.0\nTransfer-Encoding: chunked");
    assert_refused(400, "POST /x HTTP/1.1\nContent-Length: 1");
    assert_refused(417, "POST /x HTTP/1.1\nHost: x\nExpect: the-best");
}

static void test_a_target_must_mean_the_same_to_everybody(void **state)
{
    (void)state;
    const char *const targets[] = {
        "x",    "*",      "http://x/y", "//x",    "/a//b",  "/a/",     "/a/../b",
        "/..",  "/a/.",   "/./a",       "/a%2fb", "/%61",   "/a b",    "/a\\b",
        "/a#b", "/a\x80", "/a\x01",     "/a?b c", "/a?b#c", "/a?\x7f", "/a/..?x",
    };
    char text[128];
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        snprintf(text, sizeof(text), "GET %s HTTP/1.1\nHost: x", targets[i]);
        if (strcmp(targets[i], "/a/") == 0)
            assert_passes(text);
        else
            assert_refused(400, text);
    }
    assert_refused(400, "G(T /x HTTP/1.1\nHost: x");
    assert_refused(505, "GET /x HTTP/1.2\nHost: x");
    assert_refused(505, "GET /x HTTP/2.0\nHost: x");
    assert_refused(505, "GET /x http/1.1\nHost: x");
}

static void test_sizes_are_bounded_and_the_bounds_are_exact(void **state)
{
    (void)state;
    char text[HTTP_TARGET_MAX + 2048];
    for (int more = 0; more < 2; more++) {
        int n = snprintf(text, sizeof(text), "GET /%0*d HTTP/1.1\nHost: x",
                         HTTP_TARGET_MAX - 1 + more, 0);
        assert_true(n > HTTP_TARGET_MAX);
        if (more)
            assert_refused(414, text);
        else
            assert_passes(text);
        /* "Host: x" with its line end is 9 bytes, "A: " with its own 5. */
        (void)snprintf(text, sizeof(text), "GET / HTTP/1.1\nHost: x\nA: %0*d", 1000 - 9 - 5 + more,
                       0);
        if (more)
            assert_refused(431, text);
        else
            assert_passes(text);
        size_t at = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\nHost: x");
        for (int i = 1; i < HTTP_FIELDS_MAX + more; i++)
            at += (size_t)snprintf(text + at, sizeof(text) - at, "\na:");
        if (more)
            assert_refused(431, text);
        else
            assert_passes(text);
    }
}

static void test_a_query_is_decoded_into_its_pairs(void **state)
{
    (void)state;
    char out[64];
    struct http_field p[4];
    struct str q = STR("a=1&&b%3D=x+y%20z&c&d=%2&e=lost");
    assert_int_equal(4, http_query_parse(q, out, p, 4));
    assert_true(str_equal(p[0].name, STR("a")) && str_equal(p[0].value, STR("1")));
    assert_true(str_equal(p[1].name, STR("b=")) && str_equal(p[1].value, STR("x y z")));
    assert_true(str_equal(p[2].name, STR("c")) && p[2].value.len == 0);
    assert_true(str_equal(p[3].name, STR("d")) && str_equal(p[3].value, STR("%2")));
    assert_int_equal(0, http_query_parse(STR("&&"), out, p, 4));
}

/* ---- addresses ---- */

static struct http_address address(const char *text)
{
    struct sockaddr_in six_or_four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &six_or_four.sin_addr) == 1)
        return http_address_of((struct sockaddr *)&six_or_four);
    assert_int_equal(1, inet_pton(AF_INET6, text, &six.sin6_addr));
    return http_address_of((struct sockaddr *)&six);
}

static void assert_client(const char *expected, const char *peer, const char *trusted,
                          const char *first, const char *second)
{
    struct http_networks nets;
    char text[HTTP_ADDRESS_TEXT_BYTES];
    struct http_field fields[] = {{STR("x-forwarded-for"), str_from(first)},
                                  {STR("X-Other"), STR("9.9.9.9")},
                                  {STR("X-Forwarded-For"), str_from(second)}};
    assert_int_equal(STATUS_OK, http_networks_parse(trusted, &nets, NULL));
    struct http_address p = *peer ? address(peer) : http_address_of(NULL);
    struct http_address c = http_client_address(&p, &nets, true, fields, 3);
    http_address_print(&c, text);
    assert_string_equal(expected, text);
}

static void test_the_client_is_the_rightmost_hop_that_is_not_trusted(void **state)
{
    (void)state;
    /* Nobody is believed who is not trusted. */
    assert_client("1.2.3.4", "1.2.3.4", "10.0.0.0/8", "5.5.5.5", "6.6.6.6");
    assert_client("6.6.6.6", "10.1.2.3", "10.0.0.0/8", "5.5.5.5", "6.6.6.6");
    assert_client("5.5.5.5", "10.1.2.3", "10.0.0.0/8", "4.4.4.4, 5.5.5.5", "10.9.9.9 , 10.0.0.1");
    assert_client("2001:db8::1", "::1", "::1, 10.0.0.0/8", "", "2001:db8::1");
    assert_client("2001:db8::1", "::1", "::1", "", "[2001:db8::1]:443");
    assert_client("7.7.7.7", "127.0.0.1", "127.0.0.1", "", "1.1.1.1, 7.7.7.7:5000");
    /* What cannot be read ends it, and so does the end. */
    assert_client("10.1.2.3", "10.1.2.3", "10.0.0.0/8", "5.5.5.5", "5.5.5.5, unknown");
    assert_client("10.0.0.2", "10.1.2.3", "10.0.0.0/8", "10.0.0.2", "10.0.0.1");
    assert_client("8.8.8.8", "", "", "", "8.8.8.8");
    assert_client("unix", "", "", "", "");
}

static void test_networks_are_read_strictly(void **state)
{
    (void)state;
    struct http_networks n;
    struct error err;
    struct http_address in = address("192.168.131.7"), out = address("192.168.140.7");
    assert_int_equal(STATUS_OK, http_networks_parse(" 192.168.128.0/21 ,fe80::/10", &n, &err));
    assert_true(http_networks_have(&n, &in));
    assert_false(http_networks_have(&n, &out));
    in = address("febf::1");
    out = address("fec0::1");
    assert_true(http_networks_have(&n, &in));
    assert_false(http_networks_have(&n, &out));
    const char *const wrong[] = {"10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "::/129",
                                 "example.org", "1.2.3.4,,", "1.2.3"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        if (http_networks_parse(wrong[i], &n, &err) != STATUS_INVALID)
            fail_msg("\"%s\" passed", wrong[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_requests_pass_and_say_where_they_end),
        cmocka_unit_test(test_framing_that_can_be_read_in_two_ways_is_refused),
        cmocka_unit_test(test_a_target_must_mean_the_same_to_everybody),
        cmocka_unit_test(test_sizes_are_bounded_and_the_bounds_are_exact),
        cmocka_unit_test(test_a_query_is_decoded_into_its_pairs),
        cmocka_unit_test(test_the_client_is_the_rightmost_hop_that_is_not_trusted),
        cmocka_unit_test(test_networks_are_read_strictly),
    };
    return cmocka_run_group_tests_name("server/http_guard", tests, NULL, NULL);
}
