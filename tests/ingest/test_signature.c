/*
 * Goal: a request is accepted exactly when it carries a signature that a live secret made over the
 * bytes that arrived, now; and secrets that cannot be what their kind needs are refused at the
 * start. Method: the vectors of tests/data/webhooks (values of the senders' own documents and test
 * suites, with their sources), each with its verdict; then cases around every boundary, signed
 * here.
 */
#include "ingest/signature.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>
#include <glob.h>
#include <jansson.h>
#include <sodium.h>

#define NOW      1700000000
#define PAIRS    8
#define SECRET   "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define MAX_TEXT 4096

/* ---- a request, as an HTTP server would show it ---- */

struct pair {
    const char *name, *value;
};

struct headers {
    struct pair pairs[PAIRS];
    size_t n;
};

static struct str get_header(void *ctx, const char *name, unsigned nth)
{
    const struct headers *h = ctx;
    for (size_t i = 0; i < h->n; i++) {
        if (strcasecmp(h->pairs[i].name, name) == 0 && nth-- == 0)
            return str_from(h->pairs[i].value);
    }
    return STR_NULL;
}

static struct signature *verifier(enum signature_kind kind, const char *const *secrets, size_t n)
{
    struct signature_secret list[SIGNATURE_SECRETS_MAX] = {0};
    for (size_t i = 0; i < n; i++)
        list[i].value = str_from(secrets[i]);
    struct signature_config cfg = {.kind = kind, .secrets = list, .n_secrets = n};
    struct signature *v = NULL;
    struct error err;
    if (signature_new(&cfg, &v, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return v;
}

static enum signature_reason verify_at(const struct signature *v, struct headers h,
                                       const char *body, int64_t now)
{
    struct signature_result r;
    bool ok = signature_verify(v, get_header, &h, str_from(body), now, &r);
    assert_int_equal(ok, r.ok);
    return r.reason;
}

/* ---- the vectors ---- */

static const struct scheme {
    const char *name;
    enum signature_kind kind;
    const char *header;
} schemes[] = {
    {"standard-webhooks", SIGNATURE_STANDARD_WEBHOOKS, NULL},
    {"svix", SIGNATURE_STANDARD_WEBHOOKS, NULL},
    {"github", SIGNATURE_HMAC_BODY, NULL},
    {"stripe", SIGNATURE_HMAC_TS_STRIPE, NULL},
    {"slack", SIGNATURE_HMAC_TS_SLACK, NULL},
    {"discord", SIGNATURE_ED25519_TS, NULL},
    {"telegram", SIGNATURE_SHARED_SECRET, "X-Telegram-Bot-Api-Secret-Token"},
    {"bearer", SIGNATURE_SHARED_SECRET, NULL},
    {"supabase", SIGNATURE_SHARED_SECRET, NULL},
    {"sequin", SIGNATURE_SHARED_SECRET, NULL},
    {"influx", SIGNATURE_SHARED_SECRET, NULL},
};

static const struct scheme *scheme_of(const char *name)
{
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (strcmp(schemes[i].name, name) == 0)
            return &schemes[i];
    }
    return NULL;
}

static const char *text_of(json_t *v, const char *name)
{
    const char *s = json_string_value(json_object_get(v, name));
    return s ? s : "";
}

static struct headers headers_of(json_t *given)
{
    struct headers h = {0};
    const char *name;
    json_t *value;
    size_t i;
    if (json_is_object(given)) {
        json_object_foreach(given, name, value) h.pairs[h.n++] =
            (struct pair){name, json_string_value(value)};
    } else {
        json_array_foreach(given, i, value) h.pairs[h.n++] =
            (struct pair){json_string_value(json_array_get(value, 0)),
                          json_string_value(json_array_get(value, 1))};
    }
    assert_in_range(h.n, 0, PAIRS);
    return h;
}

/* Returns what the verifier says, in the vector's words; *reason is set for "reject". */
static const char *verdict(json_t *v, const struct scheme *scheme, const char **reason)
{
    struct signature_secret secrets[SIGNATURE_SECRETS_MAX] = {0};
    json_t *list = json_object_get(v, "secrets");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *s = json_array_get(list, i);
        secrets[i].value = (struct str){json_string_value(s), json_string_length(s)};
    }
    struct signature_config cfg = {.kind = scheme->kind,
                                   .header = scheme->header,
                                   .secrets = secrets,
                                   .n_secrets = json_array_size(list),
                                   .window_s = json_integer_value(json_object_get(v, "tolerance"))};
    CLEANUP(signature_freep) struct signature *s = NULL;
    if (signature_new(&cfg, &s, NULL) != STATUS_OK)
        return "config_error";
    struct headers h = headers_of(json_object_get(v, "headers"));
    json_t *body = json_object_get(v, "body");
    struct str bytes = {json_string_value(body), json_string_length(body)};
    struct signature_result r;
    signature_verify(s, get_header, &h, bytes, json_integer_value(json_object_get(v, "now")), &r);
    *reason = signature_reason_name(r.reason);
    return r.ok ? "accept" : "reject";
}

static size_t unhex(json_t *v, const char *name, uint8_t *out, size_t max)
{
    const char *s = text_of(v, name);
    size_t len = 0;
    assert_int_equal(sodium_hex2bin(out, max, s, strlen(s), NULL, &len, NULL), 0);
    return len;
}

/* What the kinds are made of, against the RFCs' own values. */
static const char *primitive(json_t *v)
{
    uint8_t message[1024], key[1024], tag[64];
    size_t len = unhex(v, "message_hex", message, sizeof(message));
    if (strcmp(text_of(v, "scheme"), "primitive-ed25519") == 0) {
        unhex(v, "public_hex", key, sizeof(key));
        unhex(v, "signature_hex", tag, sizeof(tag));
        return crypto_sign_verify_detached(tag, message, len, key) == 0 ? "accept" : "reject";
    }
    size_t key_len = unhex(v, "key_hex", key, sizeof(key));
    unhex(v, "digest_hex", tag, sizeof(tag));
    crypto_auth_hmacsha256_state st;
    uint8_t digest[crypto_auth_hmacsha256_BYTES];
    crypto_auth_hmacsha256_init(&st, key, key_len);
    crypto_auth_hmacsha256_update(&st, message, len);
    crypto_auth_hmacsha256_final(&st, digest);
    return sodium_memcmp(digest, tag, sizeof(digest)) == 0 ? "accept" : "reject";
}

static size_t run_vectors(const char *path)
{
    json_error_t problem;
    json_t *file = json_load_file(path, JSON_ALLOW_NUL, &problem);
    if (!file)
        fail_msg("%s: %s", path, problem.text);
    json_t *vectors = json_object_get(file, "vectors"), *v;
    size_t i, wrong = 0;
    json_array_foreach(vectors, i, v)
    {
        const struct scheme *scheme = scheme_of(text_of(v, "scheme"));
        const char *reason = "", *want = text_of(v, "reason");
        bool raw = strncmp(text_of(v, "scheme"), "primitive-", 10) == 0;
        const char *got = raw      ? primitive(v)
                          : scheme ? verdict(v, scheme, &reason)
                                   : "unknown scheme";
        bool good = strcmp(got, text_of(v, "expect")) == 0 &&
                    (strcmp(got, "reject") != 0 || !*want || strcmp(want, reason) == 0);
        if (!good)
            print_error("%s: %s: %s (%s), expected %s (%s)\n", text_of(v, "scheme"),
                        text_of(v, "name"), got, reason, text_of(v, "expect"), want);
        wrong += !good;
    }
    size_t n = json_array_size(vectors);
    json_decref(file);
    assert_int_equal(wrong, 0);
    return n;
}

static void test_every_vector_gets_its_verdict(void **state)
{
    (void)state;
    glob_t files = {0};
    assert_int_equal(glob(SOURCE_ROOT "/tests/data/webhooks/*.json", 0, NULL, &files), 0);
    size_t n = 0;
    for (size_t i = 0; i < files.gl_pathc; i++)
        n += run_vectors(files.gl_pathv[i]);
    globfree(&files);
    assert_true(n >= 47);
}

/* ---- cases of our own ---- */

/* The key of SECRET, and what a sender makes with it. */
static const uint8_t *hmac_key_bytes(size_t *len)
{
    static uint8_t key[64];
    const char *b64 = &SECRET[sizeof("whsec_") - 1];
    assert_int_equal(sodium_base642bin(key, sizeof(key), b64, strlen(b64), NULL, len, NULL,
                                       sodium_base64_VARIANT_ORIGINAL),
                     0);
    return key;
}

static void hmac(const void *key, size_t key_len, const char *text,
                 uint8_t ret[crypto_auth_hmacsha256_BYTES])
{
    crypto_auth_hmacsha256_state st;
    crypto_auth_hmacsha256_init(&st, key, key_len);
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)text, strlen(text));
    crypto_auth_hmacsha256_final(&st, ret);
}

static void hmac_hex(const char *key, const char *text, char ret[65])
{
    uint8_t digest[crypto_auth_hmacsha256_BYTES];
    hmac(key, strlen(key), text, digest);
    sodium_bin2hex(ret, 65, digest, sizeof(digest));
}

/* "v1,..." over id, ts and body with these bytes as the key. */
static void standard_sign(const void *key, size_t key_len, const char *id, const char *ts,
                          const char *body, char ret[MAX_TEXT])
{
    char text[MAX_TEXT], b64[64];
    uint8_t digest[crypto_auth_hmacsha256_BYTES];
    snprintf(text, sizeof(text), "%s.%s.%s", id, ts, body);
    hmac(key, key_len, text, digest);
    sodium_bin2base64(b64, sizeof(b64), digest, sizeof(digest), sodium_base64_VARIANT_ORIGINAL);
    snprintf(ret, MAX_TEXT, "v1,%s", b64);
}

static void sign(const char *id, const char *ts, const char *body, char ret[MAX_TEXT])
{
    size_t len = 0;
    const uint8_t *key = hmac_key_bytes(&len);
    standard_sign(key, len, id, ts, body, ret);
}

static struct headers standard(const char *id, const char *ts, const char *signature)
{
    return (struct headers){
        {{"Webhook-Id", id}, {"Webhook-Timestamp", ts}, {"Webhook-Signature", signature}}, 3};
}

static struct signature *standard_verifier(void)
{
    const char *secret = SECRET;
    return verifier(SIGNATURE_STANDARD_WEBHOOKS, &secret, 1);
}

static enum signature_reason verify_standard(const char *id, const char *ts, const char *signature,
                                             const char *body)
{
    CLEANUP(signature_freep) struct signature *v = standard_verifier();
    return verify_at(v, standard(id, ts, signature), body, NOW);
}

static void test_the_window_is_300_seconds_both_ways_inclusive(void **state)
{
    (void)state;
    CLEANUP(signature_freep) struct signature *v = standard_verifier();
    static const struct {
        int64_t off;
        enum signature_reason reason;
    } cases[] = {{-301, SIGNATURE_TOO_OLD}, {-300, SIGNATURE_OK},
                 {0, SIGNATURE_OK},         {300, SIGNATURE_OK},
                 {301, SIGNATURE_TOO_NEW},  {-NOW + 1, SIGNATURE_TOO_OLD}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char ts[32], s[MAX_TEXT];
        snprintf(ts, sizeof(ts), "%lld", (long long)(NOW + cases[i].off));
        sign("a", ts, "{}", s);
        assert_int_equal(verify_at(v, standard("a", ts, s), "{}", NOW), cases[i].reason);
        /* A wrong signature is that, however old: who has no secret learns nothing of the clock. */
        assert_int_equal(verify_at(v, standard("b", ts, s), "{}", NOW), SIGNATURE_NO_MATCH);
    }
}

/* Each of these is signed rightly, as the bytes they are. */
static void test_a_timestamp_has_one_way_to_be_written(void **state)
{
    (void)state;
    static const char *const bad[] = {"01700000000",
                                      "+1700000000",
                                      "1700000000.5",
                                      "1700000000 ",
                                      " 1700000000",
                                      "1.7e9",
                                      "0",
                                      "-1700000000",
                                      "0x6553f100",
                                      "1700000000a",
                                      "1700000000000",
                                      "",
                                      "99999999999999999999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char s[MAX_TEXT];
        sign("a", bad[i], "{}", s);
        enum signature_reason want = *bad[i] ? SIGNATURE_BAD_TIMESTAMP : SIGNATURE_MISSING_HEADER;
        assert_int_equal(verify_standard("a", bad[i], s, "{}"), want);
    }
    char s[MAX_TEXT];
    sign("a", "999999999999", "{}", s);
    assert_int_equal(verify_standard("a", "999999999999", s, "{}"), SIGNATURE_TOO_NEW);
}

static void test_a_header_that_came_twice_is_refused_even_when_it_says_the_same(void **state)
{
    (void)state;
    CLEANUP(signature_freep) struct signature *v = standard_verifier();
    char s[MAX_TEXT];
    sign("a", "1700000000", "{}", s);
    for (size_t i = 0; i < 3; i++) {
        struct headers h = standard("a", "1700000000", s);
        h.pairs[h.n++] = h.pairs[i];
        assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_DUPLICATE_HEADER);
    }
    const char *token = "k3y";
    CLEANUP(signature_freep)
    struct signature *shared = verifier(SIGNATURE_SHARED_SECRET, &token, 1);
    struct headers twice = {{{"Authorization", "Bearer no"}, {"authorization", "Bearer k3y"}}, 2};
    assert_int_equal(verify_at(shared, twice, "", NOW), SIGNATURE_DUPLICATE_HEADER);
}

static void test_the_two_names_of_the_headers_are_never_mixed(void **state)
{
    (void)state;
    CLEANUP(signature_freep) struct signature *v = standard_verifier();
    char s[MAX_TEXT];
    sign("a", "1700000000", "{}", s);
    struct headers svix = {
        {{"svix-id", "a"}, {"svix-timestamp", "1700000000"}, {"svix-signature", s}}, 3};
    assert_int_equal(verify_at(v, svix, "{}", NOW), SIGNATURE_OK);
    struct headers mixed = svix;
    mixed.pairs[0].name = "webhook-id";
    assert_int_equal(verify_at(v, mixed, "{}", NOW), SIGNATURE_MISSING_HEADER);
    /* Both whole: the id that counts is the one that was verified. */
    struct headers both = standard("b", "1700000000", s);
    for (size_t i = 0; i < 3; i++)
        both.pairs[both.n++] = svix.pairs[i];
    assert_int_equal(verify_at(v, both, "{}", NOW), SIGNATURE_NO_MATCH);
    struct headers part = standard("b", "1700000000", s);
    part.pairs[1] = svix.pairs[0];
    part.pairs[part.n++] = svix.pairs[1];
    part.pairs[part.n++] = svix.pairs[2];
    struct signature_result r;
    assert_true(signature_verify(v, get_header, &part, STR("{}"), NOW, &r));
    assert_true(str_equal(r.delivery_id, STR("a")));
}

/* "a.1700000000.{}" may be cut as (a, 1700000000, {}) only: else a sender's body could become
 * another request. */
static void test_an_id_with_a_dot_is_refused(void **state)
{
    (void)state;
    char s[MAX_TEXT];
    sign("a", "1700000000", "1700000001.{}", s);
    assert_int_equal(verify_standard("a", "1700000000", s, "1700000001.{}"), SIGNATURE_OK);
    assert_int_equal(verify_standard("a.1700000000", "1700000001", s, "{}"),
                     SIGNATURE_MALFORMED_HEADER);
}

static void test_a_list_accepts_what_matches_anywhere_and_only_whole_entries(void **state)
{
    (void)state;
    char good[MAX_TEXT], list[3 * MAX_TEXT];
    sign("a", "1700000000", "{}", good);
    static const struct {
        const char *format;
        enum signature_reason reason;
    } cases[] = {
        {"%s", SIGNATURE_OK},
        {"v1,AAAA v9,zzz v1, %s", SIGNATURE_OK},
        {"%s v1,AAAA", SIGNATURE_OK},
        {"  %s  ", SIGNATURE_OK},
        {"%s\tv1,AAAA", SIGNATURE_NO_MATCH}, /* only blanks separate */
        {"%s,", SIGNATURE_NO_MATCH},
        {"%s=", SIGNATURE_NO_MATCH},
        {"%sAAAA", SIGNATURE_NO_MATCH},
        {"%sx", SIGNATURE_NO_MATCH},
        {"x%s", SIGNATURE_NO_SCHEME},
        {"V%s", SIGNATURE_NO_SCHEME},
        {"v1,%s", SIGNATURE_NO_MATCH},
        {",%s", SIGNATURE_NO_SCHEME},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(list, sizeof(list), cases[i].format, good);
#pragma GCC diagnostic pop
        if (verify_standard("a", "1700000000", list, "{}") != cases[i].reason)
            fail_msg("\"%s\" is not %s", cases[i].format, signature_reason_name(cases[i].reason));
    }
    /* The right digest under another version, without its padding, in the other alphabet. */
    list[0] = '\0';
    snprintf(list, sizeof(list), "v2,%s v1a,%s", good + 3, good + 3);
    assert_int_equal(verify_standard("a", "1700000000", list, "{}"), SIGNATURE_NO_MATCH);
    snprintf(list, sizeof(list), "%.*s", (int)strlen(good) - 1, good);
    assert_int_equal(verify_standard("a", "1700000000", list, "{}"), SIGNATURE_NO_MATCH);
}

/* Of 200 signed bodies some have a + or / in their signature. */
static void test_the_url_alphabet_is_not_taken(void **state)
{
    (void)state;
    unsigned changed = 0;
    for (int i = 0; i < 200; i++) {
        char body[16], s[MAX_TEXT];
        snprintf(body, sizeof(body), "%d", i);
        sign("a", "1700000000", body, s);
        assert_int_equal(verify_standard("a", "1700000000", s, body), SIGNATURE_OK);
        bool differs = false;
        for (char *c = s; *c; c++) {
            char to = *c;
            if (*c == '+')
                to = '-';
            if (*c == '/')
                to = '_';
            differs |= to != *c;
            *c = to;
        }
        if (differs)
            assert_int_equal(verify_standard("a", "1700000000", s, body), SIGNATURE_NO_MATCH);
        changed += differs;
    }
    assert_true(changed > 20);
}

/* Every bit of what is signed, and of the signature, counts. */
static void test_a_request_with_any_bit_changed_is_refused(void **state)
{
    (void)state;
    CLEANUP(signature_freep) struct signature *v = standard_verifier();
    for (int n = 0; n < 4; n++) { /* so that each character of the alphabet comes up */
        char id[] = "msg", ts[] = "1700000000", body[] = "{\"a\":0}", s[MAX_TEXT];
        body[5] = (char)('0' + n);
        sign(id, ts, body, s);
        assert_int_equal(verify_at(v, standard(id, ts, s), body, NOW), SIGNATURE_OK);
        char *const fields[] = {id, ts, body, s};
        for (size_t f = 0; f < 4; f++)
            for (size_t i = 0; i < strlen(fields[f]) * 8; i++) {
                char *at = &fields[f][i / 8], was = *at;
                *at = (char)(was ^ (1 << (i % 8)));
                if (*at)
                    assert_int_not_equal(verify_at(v, standard(id, ts, s), body, NOW),
                                         SIGNATURE_OK);
                *at = was;
            }
    }
}

static void test_every_form_of_a_standard_secret_is_the_same_key(void **state)
{
    (void)state;
    uint8_t key[64];
    for (size_t len = 24; len <= 64; len += 40 / 5) {
        for (size_t i = 0; i < len; i++)
            key[i] = (uint8_t)(i * 37 + len);
        char b64[128], bare[128], forms[5][160], s[MAX_TEXT];
        sodium_bin2base64(b64, sizeof(b64), key, len, sodium_base64_VARIANT_ORIGINAL);
        sodium_bin2base64(bare, sizeof(bare), key, len, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
        snprintf(forms[0], sizeof(forms[0]), "%s", b64);
        snprintf(forms[1], sizeof(forms[1]), "%s", bare);
        snprintf(forms[2], sizeof(forms[2]), "whsec_%s", b64);
        snprintf(forms[3], sizeof(forms[3]), "whsec_%s", bare);
        snprintf(forms[4], sizeof(forms[4]), "v1,whsec_%s", b64);
        standard_sign(key, len, "a", "1700000000", "{}", s);
        for (size_t i = 0; i < 5; i++) {
            const char *form = forms[i];
            CLEANUP(signature_freep)
            struct signature *v = verifier(SIGNATURE_STANDARD_WEBHOOKS, &form, 1);
            assert_int_equal(verify_at(v, standard("a", "1700000000", s), "{}", NOW), SIGNATURE_OK);
        }
    }
}

/* ---- rotation ---- */

static void test_all_live_secrets_are_tried_and_expired_ones_named(void **state)
{
    (void)state;
    struct signature_secret secrets[] = {
        {"old", STR("old"), NOW}, {"new", STR("new"), 0}, {NULL, STR("third"), 0}};
    struct signature_config cfg = {.kind = SIGNATURE_HMAC_BODY, .secrets = secrets, .n_secrets = 3};
    CLEANUP(signature_freep) struct signature *v = NULL;
    assert_int_equal(signature_new(&cfg, &v, NULL), STATUS_OK);
    static const struct {
        const char *key;
        int64_t now;
        enum signature_reason reason;
        const char *id;
    } cases[] = {
        {"old", NOW, SIGNATURE_OK, "old"},        {"old", NOW + 1, SIGNATURE_EXPIRED_SECRET, "old"},
        {"new", NOW + 1, SIGNATURE_OK, "new"},    {"third", NOW + 1, SIGNATURE_OK, "3"},
        {"other", NOW, SIGNATURE_NO_MATCH, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char hex[65], value[80];
        hmac_hex(cases[i].key, "{}", hex);
        snprintf(value, sizeof(value), "sha256=%s", hex);
        struct headers h = {{{"X-Hub-Signature-256", value}, {"X-GitHub-Delivery", "guid"}}, 2};
        struct signature_result r;
        signature_verify(v, get_header, &h, STR("{}"), cases[i].now, &r);
        assert_int_equal(r.reason, cases[i].reason);
        assert_int_equal(r.delivery_id.ptr != NULL, r.ok);
        if (cases[i].id)
            assert_string_equal(r.key_id, cases[i].id);
        else
            assert_null(r.key_id);
    }
}

static void test_the_same_secret_expired_and_live_is_live(void **state)
{
    (void)state;
    struct signature_secret secrets[] = {{"old", STR("k3y"), NOW - 1}, {"new", STR("k3y"), 0}};
    struct signature_config cfg = {
        .kind = SIGNATURE_SHARED_SECRET, .secrets = secrets, .n_secrets = 2};
    CLEANUP(signature_freep) struct signature *v = NULL;
    assert_int_equal(signature_new(&cfg, &v, NULL), STATUS_OK);
    struct headers h = {{{"Authorization", "Bearer k3y"}}, 1};
    struct signature_result r;
    assert_true(signature_verify(v, get_header, &h, STR(""), NOW, &r));
    assert_string_equal(r.key_id, "new");
}

/* ---- the other kinds ---- */

static void test_stripe_takes_any_v1_of_its_list_and_one_time(void **state)
{
    (void)state;
    const char *secret = "whsec_any text at all";
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_HMAC_TS_STRIPE, &secret, 1);
    char hex[65], value[MAX_TEXT];
    hmac_hex(secret, "1700000000.{}", hex);
    static const struct {
        const char *format;
        enum signature_reason reason;
    } cases[] = {
        {"t=1700000000,v1=%s", SIGNATURE_OK},
        {"v1=%s,t=1700000000", SIGNATURE_OK},
        {"t=1700000000,v1=00,v0=zz,x=y,v1=%s", SIGNATURE_OK},
        {"t=1700000000,t=1700000000,v1=%s", SIGNATURE_MALFORMED_HEADER},
        {"t=1700000000,%s", SIGNATURE_MALFORMED_HEADER},
        {"t=1700000000,,v1=%s", SIGNATURE_MALFORMED_HEADER},
        {"v1=%s", SIGNATURE_MALFORMED_HEADER},
        {"t=,v1=%s", SIGNATURE_BAD_TIMESTAMP},
        {"t=01700000000,v1=%s", SIGNATURE_BAD_TIMESTAMP},
        {"t=1700000001,v1=%s", SIGNATURE_NO_MATCH},
        {"t=1700000000,v2=%s", SIGNATURE_NO_SCHEME},
        {"t=1700000000, v1=%s", SIGNATURE_NO_SCHEME},
        {"t=1700000000,v1=%s00", SIGNATURE_NO_MATCH},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(value, sizeof(value), cases[i].format, hex);
#pragma GCC diagnostic pop
        struct headers h = {{{"Stripe-Signature", value}}, 1};
        if (verify_at(v, h, "{}", NOW) != cases[i].reason)
            fail_msg("\"%s\" is not %s", cases[i].format, signature_reason_name(cases[i].reason));
    }
}

/* What was made over the body alone is no signature of a header that could not be read: what is
 * missing in it must not be taken as empty. */
static void test_a_header_that_cannot_be_read_is_not_verified_without_it(void **state)
{
    (void)state;
    const char *secret = "whsec_x";
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_HMAC_TS_STRIPE, &secret, 1);
    char hex[65], value[MAX_TEXT];
    hmac_hex(secret, "{}", hex);
    snprintf(value, sizeof(value), "t=x,v1=%s", hex);
    struct headers h = {{{"Stripe-Signature", value}}, 1};
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_BAD_TIMESTAMP);
    snprintf(value, sizeof(value), "v1=%s", hex);
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_MALFORMED_HEADER);
}

/* A short entry is none, also behind one that has left the right bytes in its place. */
static void test_half_a_signature_is_none(void **state)
{
    (void)state;
    const char *secret = "x";
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_HMAC_TS_STRIPE, &secret, 1);
    char good[65], bad[65], value[MAX_TEXT];
    hmac_hex(secret, "1700000000.{}", good);
    snprintf(bad, sizeof(bad), "%s", good);
    bad[0] = bad[0] == '0' ? '1' : '0';
    snprintf(value, sizeof(value), "t=1700000000,v1=%s,v1=%.62s", bad, good);
    struct headers h = {{{"Stripe-Signature", value}}, 1};
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_NO_MATCH);
}

/* The same text means another key for each of the two kinds that show it as whsec_. */
static void test_the_two_meanings_of_whsec_are_two_keys(void **state)
{
    (void)state;
    const char *secret = SECRET;
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_HMAC_TS_STRIPE, &secret, 1);
    char hex[65], value[MAX_TEXT];
    hmac_hex(SECRET, "1700000000.{}", hex);
    snprintf(value, sizeof(value), "t=1700000000,v1=%s", hex);
    struct headers h = {{{"Stripe-Signature", value}}, 1};
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_OK);

    uint8_t digest[crypto_auth_hmacsha256_BYTES];
    size_t len = 0;
    const uint8_t *key = hmac_key_bytes(&len);
    hmac(key, len, "1700000000.{}", digest);
    sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
    snprintf(value, sizeof(value), "t=1700000000,v1=%s", hex);
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_NO_MATCH);
}

struct pair_of_keys {
    uint8_t public_key[crypto_sign_PUBLICKEYBYTES], secret[crypto_sign_SECRETKEYBYTES];
    char hex[65];
};

static struct pair_of_keys key_pair(uint8_t seed)
{
    struct pair_of_keys k;
    uint8_t bytes[crypto_sign_SEEDBYTES];
    memset(bytes, seed, sizeof(bytes));
    crypto_sign_seed_keypair(k.public_key, k.secret, bytes);
    sodium_bin2hex(k.hex, sizeof(k.hex), k.public_key, sizeof(k.public_key));
    return k;
}

static void ed25519(const struct pair_of_keys *k, const char *text, uint8_t ret[crypto_sign_BYTES])
{
    crypto_sign_detached(ret, NULL, (const uint8_t *)text, strlen(text), k->secret);
}

static void test_discord_has_a_wide_window_and_the_signature_as_id(void **state)
{
    (void)state;
    struct pair_of_keys k = key_pair(7);
    const char *secret = k.hex;
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_ED25519_TS, &secret, 1);
    uint8_t s[crypto_sign_BYTES];
    char lower[129], upper[129];
    ed25519(&k, "1700000000{}", s);
    sodium_bin2hex(lower, sizeof(lower), s, sizeof(s));
    for (size_t i = 0; i < sizeof(lower); i++)
        upper[i] = (char)(lower[i] >= 'a' ? lower[i] - 32 : lower[i]);
    struct headers h = {{{"X-Signature-Ed25519", upper}, {"X-Signature-Timestamp", "1700000000"}},
                        2};
    struct signature_result r;
    assert_true(signature_verify(v, get_header, &h, STR("{}"), NOW + 900, &r));
    /* However a repetition writes it, it is the same delivery. */
    assert_true(str_equal(r.delivery_id, str_from(lower)));
    assert_int_equal(verify_at(v, h, "{}", NOW + 901), SIGNATURE_TOO_OLD);
    assert_int_equal(verify_at(v, h, "{}", NOW - 301), SIGNATURE_TOO_NEW);
    /* The other representation of the same number, S + L, is refused: ids cannot be multiplied. */
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58,
                                      0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
                                      0,    0,    0,    0,    0,    0,    0,    0,
                                      0,    0,    0,    0,    0,    0,    0,    0x10};
    unsigned carry = 0;
    for (size_t i = 0; i < 32; i++) {
        carry += s[32 + i] + order[i];
        s[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    sodium_bin2hex(lower, sizeof(lower), s, sizeof(s));
    h.pairs[0].value = lower;
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_NO_MATCH);
}

static void test_both_algorithms_beside_each_other_take_their_own_only(void **state)
{
    (void)state;
    struct pair_of_keys k = key_pair(9);
    char secret[80] = "whpk_", value[MAX_TEXT], hmac_value[MAX_TEXT], b64[100];
    sodium_bin2base64(secret + 5, sizeof(secret) - 5, k.public_key, sizeof(k.public_key),
                      sodium_base64_VARIANT_ORIGINAL);
    const char *secrets[] = {SECRET, secret};
    CLEANUP(signature_freep)
    struct signature *v = verifier(SIGNATURE_STANDARD_WEBHOOKS, secrets, 2);
    uint8_t s[crypto_sign_BYTES];
    ed25519(&k, "a.1700000000.{}", s);
    sodium_bin2base64(b64, sizeof(b64), s, sizeof(s), sodium_base64_VARIANT_ORIGINAL);
    snprintf(value, sizeof(value), "v1,AAAA v1a,%s", b64);
    assert_int_equal(verify_at(v, standard("a", "1700000000", value), "{}", NOW), SIGNATURE_OK);
    snprintf(value, sizeof(value), "v1,%s", b64);
    assert_int_equal(verify_at(v, standard("a", "1700000000", value), "{}", NOW),
                     SIGNATURE_NO_MATCH);
    sign("a", "1700000000", "{}", hmac_value);
    assert_int_equal(verify_at(v, standard("a", "1700000000", hmac_value), "{}", NOW),
                     SIGNATURE_OK);
    /* What everybody can make: an HMAC keyed with the public key, as bytes or as text. */
    standard_sign(k.public_key, sizeof(k.public_key), "a", "1700000000", "{}", value);
    assert_int_equal(verify_at(v, standard("a", "1700000000", value), "{}", NOW),
                     SIGNATURE_NO_MATCH);
    standard_sign(secret, strlen(secret), "a", "1700000000", "{}", value);
    assert_int_equal(verify_at(v, standard("a", "1700000000", value), "{}", NOW),
                     SIGNATURE_NO_MATCH);
}

/* Each costs a verification of the whole body: a header full of them must not. */
static void test_a_flood_of_v1a_signatures_is_cut(void **state)
{
    (void)state;
    struct pair_of_keys k = key_pair(9);
    char secret[80] = "whpk_", b64[100], list[4 * MAX_TEXT] = "";
    sodium_bin2base64(secret + 5, sizeof(secret) - 5, k.public_key, sizeof(k.public_key),
                      sodium_base64_VARIANT_ORIGINAL);
    const char *value = secret;
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_STANDARD_WEBHOOKS, &value, 1);
    uint8_t good[crypto_sign_BYTES], bad[crypto_sign_BYTES] = {1};
    ed25519(&k, "a.1700000000.{}", good);
    size_t at = 0;
    for (int i = 0; i < SIGNATURE_ED25519_MAX; i++) {
        bool last = i == SIGNATURE_ED25519_MAX - 1;
        sodium_bin2base64(b64, sizeof(b64), last ? good : bad, sizeof(good),
                          sodium_base64_VARIANT_ORIGINAL);
        at += (size_t)snprintf(list + at, sizeof(list) - at, "v1a,%s ", b64);
    }
    assert_int_equal(verify_at(v, standard("a", "1700000000", list), "{}", NOW), SIGNATURE_OK);
    char longer[5 * MAX_TEXT];
    sodium_bin2base64(b64, sizeof(b64), bad, sizeof(bad), sodium_base64_VARIANT_ORIGINAL);
    snprintf(longer, sizeof(longer), "v1a,%s %s", b64, list);
    assert_int_equal(verify_at(v, standard("a", "1700000000", longer), "{}", NOW),
                     SIGNATURE_NO_MATCH);
}

static void test_tokens_are_taken_from_their_schemes(void **state)
{
    (void)state;
    const char *secret = "k3y:with=all";
    CLEANUP(signature_freep) struct signature *v = verifier(SIGNATURE_SHARED_SECRET, &secret, 1);
    static const struct {
        const char *value;
        enum signature_reason reason;
    } cases[] = {
        {"Bearer k3y:with=all", SIGNATURE_OK},
        {"BEARER   k3y:with=all", SIGNATURE_OK},
        {"Token k3y:with=all", SIGNATURE_OK},
        {"Basic dXM6azN5OndpdGg9YWxs", SIGNATURE_OK}, /* us:k3y:with=all */
        {"Basic OmszeTp3aXRoPWFsbA==", SIGNATURE_OK}, /* :k3y:with=all */
        {"Basic azN5OndpdGg9YWxs", SIGNATURE_NO_MATCH},
        {"Basic !!", SIGNATURE_MALFORMED_HEADER},
        {"Basic", SIGNATURE_MALFORMED_HEADER},
        {"k3y:with=all", SIGNATURE_MALFORMED_HEADER},
        {"Digest k3y:with=all", SIGNATURE_MALFORMED_HEADER},
        {"Bearerk3y:with=all", SIGNATURE_MALFORMED_HEADER},
        {"Bearer k3y:with=al", SIGNATURE_NO_MATCH},
        {"Bearer k3y:with=all ", SIGNATURE_NO_MATCH},
        {"Bearer k3y:with=alll", SIGNATURE_NO_MATCH},
        {"Bearer K3y:with=all", SIGNATURE_NO_MATCH},
        {"Bearer", SIGNATURE_NO_MATCH},
        {"", SIGNATURE_MISSING_HEADER},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct headers h = {{{"Authorization", cases[i].value}}, 1};
        if (verify_at(v, h, "{}", NOW) != cases[i].reason)
            fail_msg("\"%s\" is not %s", cases[i].value, signature_reason_name(cases[i].reason));
    }
    char large[6000] = "Basic ";
    memset(large + 6, 'A', sizeof(large) - 7);
    struct headers h = {{{"Authorization", large}}, 1};
    assert_int_equal(verify_at(v, h, "{}", NOW), SIGNATURE_MALFORMED_HEADER);
}

static void test_a_header_of_ones_own_is_the_token_itself(void **state)
{
    (void)state;
    struct signature_secret secret = {.value = STR("Bearer k3y")};
    struct signature_config cfg = {
        .kind = SIGNATURE_SHARED_SECRET, .header = "X-Api-Key", .secrets = &secret, .n_secrets = 1};
    CLEANUP(signature_freep) struct signature *v = NULL;
    assert_int_equal(signature_new(&cfg, &v, NULL), STATUS_OK);
    struct headers h = {{{"x-api-key", "Bearer k3y"}}, 1};
    assert_int_equal(verify_at(v, h, "", NOW), SIGNATURE_OK);
    h.pairs[0].value = "k3y";
    assert_int_equal(verify_at(v, h, "", NOW), SIGNATURE_NO_MATCH);
    h.pairs[0] = (struct pair){"authorization", "Bearer k3y"};
    assert_int_equal(verify_at(v, h, "", NOW), SIGNATURE_MISSING_HEADER);
}

static void test_the_decoy_accepts_nothing(void **state)
{
    (void)state;
    CLEANUP(signature_freep) struct signature *v = NULL;
    assert_int_equal(signature_decoy(&v, NULL), STATUS_OK);
    char s[MAX_TEXT];
    sign("a", "1700000000", "{}", s);
    assert_int_equal(verify_at(v, standard("a", "1700000000", s), "{}", NOW),
                     SIGNATURE_UNKNOWN_SOURCE);
    assert_int_equal(verify_at(v, (struct headers){0}, "", NOW), SIGNATURE_UNKNOWN_SOURCE);
}

/* ---- configuration ---- */

static void test_secrets_that_cannot_be_are_refused_and_never_shown(void **state)
{
    (void)state;
    static const struct {
        enum signature_kind kind;
        const char *value, *text;
    } cases[] = {
        {SIGNATURE_STANDARD_WEBHOOKS, "", "is empty"},
        {SIGNATURE_STANDARD_WEBHOOKS, " \t\n", "is empty"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whsec_", "is empty"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whpk_", "is empty"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whsec_not base64!", "hmac-ts-stripe"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS_", "base64"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw=", "base64"},
        {SIGNATURE_STANDARD_WEBHOOKS, SECRET "\n", "base64"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whsec_bXlzZWNyZXQ=", "8 bytes"},
        {SIGNATURE_STANDARD_WEBHOOKS,
         "whsec_"
         "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+"
         "P0A=",
         "64 bytes"},
        {SIGNATURE_STANDARD_WEBHOOKS,
         "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpM"
         "KkioLlX0dRqSJpoAJ6p9lMicMFs6KvpQ==",
         "private"},
        {SIGNATURE_STANDARD_WEBHOOKS, "whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "public key has 32"},
        /* Of small order. */
        {SIGNATURE_STANDARD_WEBHOOKS,
         "whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "not a public key"},
        {SIGNATURE_ED25519_TS, "0100000000000000000000000000000000000000000000000000000000000000",
         "not a public key"},
        {SIGNATURE_ED25519_TS, "", "is empty"},
        {SIGNATURE_ED25519_TS, "d75a980182b10ab7", "8 bytes"},
        {SIGNATURE_ED25519_TS, SECRET, "hexadecimal"},
        {SIGNATURE_ED25519_TS, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a00",
         "hexadecimal"},
        {SIGNATURE_HMAC_BODY, "", "is empty"},
        {SIGNATURE_HMAC_BODY, "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", "asymmetric"},
        {SIGNATURE_HMAC_TS_SLACK, "   ", "is empty"},
        {SIGNATURE_HMAC_TS_STRIPE, "-----BEGIN PUBLIC KEY-----", "asymmetric"},
        {SIGNATURE_SHARED_SECRET,
         "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", "asymmetric"},
        {SIGNATURE_SHARED_SECRET, "k3y ", "blank"},
        {SIGNATURE_SHARED_SECRET, " k3y", "blank"},
        {SIGNATURE_SHARED_SECRET, "k3\ny", "no header can carry"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct signature_secret s = {.id = "2026", .value = str_from(cases[i].value)};
        struct signature_config cfg = {.kind = cases[i].kind, .secrets = &s, .n_secrets = 1};
        CLEANUP(signature_freep) struct signature *v = NULL;
        struct error err = {.text = "accepted"};
        enum status st = signature_new(&cfg, &v, &err);
        if (st != STATUS_INVALID || !strstr(err.text, cases[i].text) ||
            !strstr(err.text, "\"2026\""))
            fail_msg("\"%s\": %s", cases[i].value, err.text);
        if (strlen(cases[i].value) > 6)
            assert_null(strstr(err.text, cases[i].value));
        assert_null(v);
    }
    struct signature_config none = {.kind = SIGNATURE_HMAC_BODY};
    assert_int_equal(signature_new(&none, &(struct signature *){NULL}, NULL), STATUS_INVALID);
}

static void test_telegram_allows_what_telegram_allows(void **state)
{
    (void)state;
    char most[257], more[258];
    memset(most, 'a', 256);
    most[256] = '\0';
    snprintf(more, sizeof(more), "%sa", most);
    static const char *const good[] = {"tg_secret-1", "A"};
    const char *bad[] = {"tg secret", "tg.secret", "tg=", more};
    for (size_t i = 0; i < 7; i++) {
        const char *value = i < 2 ? good[i] : i == 2 ? most : bad[i - 3];
        struct signature_secret s = {.value = str_from(value)};
        struct signature_config cfg = {.kind = SIGNATURE_SHARED_SECRET,
                                       .header = "X-Telegram-Bot-API-Secret-Token",
                                       .secrets = &s,
                                       .n_secrets = 1};
        CLEANUP(signature_freep) struct signature *v = NULL;
        assert_int_equal(signature_new(&cfg, &v, NULL), i < 3 ? STATUS_OK : STATUS_INVALID);
    }
}

static void test_blanks_at_its_ends_and_a_short_secret_are_pointed_out(void **state)
{
    (void)state;
    assert_non_null(signature_secret_warning(SIGNATURE_HMAC_TS_STRIPE, STR("whsec_x\n")));
    assert_non_null(signature_secret_warning(SIGNATURE_HMAC_BODY, STR(" x")));
    assert_non_null(signature_secret_warning(SIGNATURE_SHARED_SECRET, STR("fifteen bytes !")));
    assert_null(signature_secret_warning(SIGNATURE_SHARED_SECRET, STR("sixteen bytes !!")));
    assert_null(signature_secret_warning(SIGNATURE_HMAC_TS_STRIPE, STR("whsec_as long as it is")));
    assert_null(signature_secret_warning(SIGNATURE_STANDARD_WEBHOOKS, str_from(SECRET)));
}

static void test_reasons_and_kinds_have_names_of_their_own(void **state)
{
    (void)state;
    for (int i = 0; i < SIGNATURE_REASONS; i++) {
        assert_non_null(signature_reason_name((enum signature_reason)i));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(signature_reason_name((enum signature_reason)i),
                                    signature_reason_name((enum signature_reason)j));
    }
    for (int i = 0; i < SIGNATURE_KINDS; i++)
        assert_non_null(signature_kind_name((enum signature_kind)i));
}

/* ---- signing ---- */

static void test_what_is_signed_is_verified_by_each_live_secret(void **state)
{
    (void)state;
    struct signature_secret list[] = {
        {.value = STR(SECRET)},
        {.value = STR("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")},
        {.value = STR("whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="),
         .not_after_s = NOW - 1},
    };
    struct signature_config cfg = {
        .kind = SIGNATURE_STANDARD_WEBHOOKS, .secrets = list, .n_secrets = 3};
    CLEANUP(signature_freep) struct signature *all = NULL;
    assert_int_equal(signature_new(&cfg, &all, NULL), STATUS_OK);
    CLEANUP(buf_deinit) struct buf out;
    buf_init(&out, 1024);
    struct str body = STR("{\"row_version\":1}");
    assert_int_equal(signature_sign(all, STR("wp_1"), NOW, body, &out), STATUS_OK);
    assert_int_equal(buf_put_u8(&out, 0), STATUS_OK);
    struct headers h = {.pairs = {{"webhook-id", "wp_1"},
                                  {"webhook-timestamp", "1700000000"},
                                  {"webhook-signature", out.data}},
                        .n = 3};
    for (size_t i = 0; i < 3; i++) {
        struct signature_result r;
        struct signature_secret one = {.value = list[i].value};
        struct signature_config alone = {
            .kind = SIGNATURE_STANDARD_WEBHOOKS, .secrets = &one, .n_secrets = 1};
        CLEANUP(signature_freep) struct signature *v = NULL;
        assert_int_equal(signature_new(&alone, &v, NULL), STATUS_OK);
        assert_int_equal(signature_verify(v, get_header, &h, body, NOW, &r), i < 2);
        assert_false(signature_verify(v, get_header, &h, STR("{\"row_version\":2}"), NOW, &r));
    }
}

static void test_nothing_is_signed_without_a_live_secret(void **state)
{
    (void)state;
    struct signature_secret old = {.value = STR(SECRET), .not_after_s = NOW - 1};
    struct signature_config cfg = {
        .kind = SIGNATURE_STANDARD_WEBHOOKS, .secrets = &old, .n_secrets = 1};
    CLEANUP(signature_freep) struct signature *v = NULL;
    CLEANUP(buf_deinit) struct buf out;
    buf_init(&out, 1024);
    assert_int_equal(signature_new(&cfg, &v, NULL), STATUS_OK);
    assert_int_equal(signature_sign(v, STR("wp_1"), NOW, STR("{}"), &out), STATUS_REFUSED);
    assert_int_equal(signature_sign(v, STR("wp_1"), NOW - 1, STR("{}"), &out), STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_vector_gets_its_verdict),
        cmocka_unit_test(test_the_window_is_300_seconds_both_ways_inclusive),
        cmocka_unit_test(test_a_timestamp_has_one_way_to_be_written),
        cmocka_unit_test(test_a_header_that_came_twice_is_refused_even_when_it_says_the_same),
        cmocka_unit_test(test_the_two_names_of_the_headers_are_never_mixed),
        cmocka_unit_test(test_an_id_with_a_dot_is_refused),
        cmocka_unit_test(test_a_list_accepts_what_matches_anywhere_and_only_whole_entries),
        cmocka_unit_test(test_the_url_alphabet_is_not_taken),
        cmocka_unit_test(test_a_request_with_any_bit_changed_is_refused),
        cmocka_unit_test(test_every_form_of_a_standard_secret_is_the_same_key),
        cmocka_unit_test(test_all_live_secrets_are_tried_and_expired_ones_named),
        cmocka_unit_test(test_the_same_secret_expired_and_live_is_live),
        cmocka_unit_test(test_stripe_takes_any_v1_of_its_list_and_one_time),
        cmocka_unit_test(test_a_header_that_cannot_be_read_is_not_verified_without_it),
        cmocka_unit_test(test_half_a_signature_is_none),
        cmocka_unit_test(test_the_two_meanings_of_whsec_are_two_keys),
        cmocka_unit_test(test_discord_has_a_wide_window_and_the_signature_as_id),
        cmocka_unit_test(test_both_algorithms_beside_each_other_take_their_own_only),
        cmocka_unit_test(test_a_flood_of_v1a_signatures_is_cut),
        cmocka_unit_test(test_tokens_are_taken_from_their_schemes),
        cmocka_unit_test(test_a_header_of_ones_own_is_the_token_itself),
        cmocka_unit_test(test_the_decoy_accepts_nothing),
        cmocka_unit_test(test_secrets_that_cannot_be_are_refused_and_never_shown),
        cmocka_unit_test(test_telegram_allows_what_telegram_allows),
        cmocka_unit_test(test_blanks_at_its_ends_and_a_short_secret_are_pointed_out),
        cmocka_unit_test(test_what_is_signed_is_verified_by_each_live_secret),
        cmocka_unit_test(test_nothing_is_signed_without_a_live_secret),
        cmocka_unit_test(test_reasons_and_kinds_have_names_of_their_own),
    };
    if (sodium_init() < 0)
        return 1;
    return cmocka_run_group_tests_name("ingest/signature", tests, NULL, NULL);
}
