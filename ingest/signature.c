#include "ingest/signature.h"

#include "ingest/signature_internal.h"

#include <assert.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TIMESTAMP_DIGITS 12
#define FAMILIES         2 /* names for the same headers */
#define PIECES           4
#define FORMS            2

/* In `pieces`: the two that are not literal. */
#define PIECE_ID        "\1"
#define PIECE_TIMESTAMP "\2"

/* How one version of a signature is written behind its prefix. */
struct form {
    const char *prefix;
    enum key_type type;
    bool base64; /* else hexadecimal */
};

static const struct kind {
    const char *name;
    struct {
        const char *id, *timestamp, *signature;
    } families[FAMILIES];        /* the first one that is complete counts; they are never mixed */
    const char *pieces[PIECES];  /* what is signed ahead of the body */
    const char *timestamp_entry; /* the timestamp is an entry with this prefix */
    struct form forms[FORMS];    /* entries with another prefix are ignored */
    const char *delivery;        /* header of the delivery id, when it is not `id` */
    int64_t past_s;
    char separator; /* between the entries of the signature header; 0: it is one entry */
    bool needs_body;
} kinds[SIGNATURE_KINDS] = {
    [SIGNATURE_STANDARD_WEBHOOKS] =
        {"standard-webhooks",
         .families = {{"webhook-id", "webhook-timestamp", "webhook-signature"},
                      {"svix-id", "svix-timestamp", "svix-signature"}},
         .pieces = {PIECE_ID, ".", PIECE_TIMESTAMP, "."}, .separator = ' ',
         .forms = {{"v1,", KEY_HMAC, true}, {"v1a,", KEY_ED25519, true}},
         .past_s = SIGNATURE_WINDOW_S},
    [SIGNATURE_HMAC_BODY] = {"hmac-body", .families = {{NULL, NULL, "x-hub-signature-256"}},
                             .forms = {{"sha256=", KEY_HMAC, false}},
                             .delivery = "x-github-delivery"},
    /* The official library takes timestamps from the future; a window both ways costs no sender
     * anything and bounds how long a request can be kept for later. */
    [SIGNATURE_HMAC_TS_STRIPE] = {"hmac-ts-stripe", .families = {{NULL, NULL, "stripe-signature"}},
                                  .pieces = {PIECE_TIMESTAMP, "."}, .separator = ',',
                                  .timestamp_entry = "t=", .forms = {{"v1=", KEY_HMAC, false}},
                                  .past_s = SIGNATURE_WINDOW_S, .needs_body = true},
    [SIGNATURE_HMAC_TS_SLACK] = {"hmac-ts-slack",
                                 .families = {{NULL, "x-slack-request-timestamp",
                                               "x-slack-signature"}},
                                 .pieces = {"v0:", PIECE_TIMESTAMP, ":"},
                                 .forms = {{"v0=", KEY_HMAC, false}}, .past_s = SIGNATURE_WINDOW_S},
    [SIGNATURE_ED25519_TS] = {"ed25519-ts",
                              .families = {{NULL, "x-signature-timestamp", "x-signature-ed25519"}},
                              .pieces = {PIECE_TIMESTAMP}, .forms = {{"", KEY_ED25519, false}},
                              .past_s = SIGNATURE_WINDOW_ED25519_S},
    [SIGNATURE_SHARED_SECRET] = {.name = "shared-secret"},
};

static const char *const reasons[SIGNATURE_REASONS] = {
    [SIGNATURE_OK] = "ok",
    [SIGNATURE_MISSING_HEADER] = "missing_header",
    [SIGNATURE_DUPLICATE_HEADER] = "duplicate_header",
    [SIGNATURE_MALFORMED_HEADER] = "malformed_header",
    [SIGNATURE_NO_SCHEME] = "no_scheme",
    [SIGNATURE_BAD_TIMESTAMP] = "bad_timestamp",
    [SIGNATURE_NO_MATCH] = "no_match",
    [SIGNATURE_EXPIRED_SECRET] = "expired_secret",
    [SIGNATURE_TOO_OLD] = "timestamp_too_old",
    [SIGNATURE_TOO_NEW] = "timestamp_too_new",
    [SIGNATURE_EMPTY_BODY] = "empty_body",
    [SIGNATURE_UNKNOWN_SOURCE] = "unknown_source",
};

const char *signature_kind_name(enum signature_kind kind)
{
    assert(kind < SIGNATURE_KINDS);
    return kinds[kind].name;
}

const char *signature_reason_name(enum signature_reason reason)
{
    assert(reason < SIGNATURE_REASONS);
    return reasons[reason];
}

/* ---- building ---- */

void signature_token_hash(const struct signature *v, struct str token,
                          uint8_t ret[crypto_auth_hmacsha256_BYTES])
{
    crypto_auth_hmacsha256_state st = v->token_key;
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)token.ptr, token.len);
    crypto_auth_hmacsha256_final(&st, ret);
    sodium_memzero(&st, sizeof(st));
}

static enum status add_secret(struct signature *v, const struct signature_secret *s,
                              struct error *err)
{
    struct key *k = &v->keys[v->n_keys];
    if (s->id && *s->id)
        snprintf(k->id, sizeof(k->id), "%s", s->id);
    else
        snprintf(k->id, sizeof(k->id), "%zu", v->n_keys + 1);
    char name[SIGNATURE_KEY_ID_BYTES + 16];
    snprintf(name, sizeof(name), "secret \"%s\"", k->id);
    k->not_after_s = s->not_after_s;
    enum status st = signature_key_init(v, s->value, name, k, err);
    if (st == STATUS_OK)
        v->n_keys++;
    return st;
}

static enum status set_header(struct signature *v, const char *header, struct error *err)
{
    v->header = strdup(header && *header ? header : "authorization");
    if (!v->header)
        return error_set(err, STATUS_NOMEM, "could not allocate a verifier");
    for (char *c = v->header; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    return STATUS_OK;
}

enum status signature_new(const struct signature_config *cfg, struct signature **ret,
                          struct error *err)
{
    assert(cfg->kind < SIGNATURE_KINDS);
    if (sodium_init() < 0)
        return error_set(err, STATUS_IO, "could not get random bytes from the system");
    if (cfg->n_secrets == 0)
        return error_set(err, STATUS_INVALID, "there is no secret");
    if (cfg->n_secrets > SIGNATURE_SECRETS_MAX)
        return error_set(err, STATUS_INVALID, "there are more than %d secrets",
                         SIGNATURE_SECRETS_MAX);
    CLEANUP(signature_freep) struct signature *v = calloc(1, sizeof(*v));
    if (!v)
        return error_set(err, STATUS_NOMEM, "could not allocate a verifier");
    v->kind = cfg->kind;
    v->past_s = cfg->window_s > 0 ? cfg->window_s : kinds[cfg->kind].past_s;
    v->future_s = cfg->window_s > 0 ? cfg->window_s : SIGNATURE_WINDOW_S;
    uint8_t random[crypto_auth_hmacsha256_KEYBYTES];
    randombytes_buf(random, sizeof(random));
    crypto_auth_hmacsha256_init(&v->token_key, random, sizeof(random));
    sodium_memzero(random, sizeof(random));

    enum status st = set_header(v, cfg->header, err);
    for (size_t i = 0; st == STATUS_OK && i < cfg->n_secrets; i++)
        st = add_secret(v, &cfg->secrets[i], err);
    if (st == STATUS_OK)
        *ret = TAKE(v);
    return st;
}

enum status signature_decoy(struct signature **ret, struct error *err)
{
    if (sodium_init() < 0)
        return error_set(err, STATUS_IO, "could not get random bytes from the system");
    /* Any text is a secret of this kind: these bytes are known to nobody. */
    char random[crypto_auth_hmacsha256_KEYBYTES * 2 + 1];
    uint8_t bytes[crypto_auth_hmacsha256_KEYBYTES];
    randombytes_buf(bytes, sizeof(bytes));
    sodium_bin2hex(random, sizeof(random), bytes, sizeof(bytes));
    const struct signature_secret secret = {.value = str_from(random)};
    struct signature_config cfg = {.kind = SIGNATURE_HMAC_BODY, .secrets = &secret, .n_secrets = 1};
    enum status st = signature_new(&cfg, ret, err);
    if (st == STATUS_OK)
        (*ret)->decoy = true;
    sodium_memzero(random, sizeof(random));
    sodium_memzero(bytes, sizeof(bytes));
    return st;
}

void signature_free(struct signature *v)
{
    if (!v)
        return;
    free(v->header);
    sodium_memzero(v, sizeof(*v));
    free(v);
}

/* ---- reading the headers ---- */

/* What a request claims. */
struct claim {
    struct str id, timestamp, signatures;
    struct str pieces[PIECES]; /* signed ahead of the body; STR_NULL when not known */
    int64_t timestamp_s;
};

struct headers {
    signature_header_fn *get;
    void *ctx;
};

static bool starts_with(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.ptr, prefix, n) == 0;
}

static struct str after(struct str s, size_t n)
{
    assert(n <= s.len);
    return (struct str){s.ptr + n, s.len - n};
}

/* An empty header counts as missing. One that came twice could be read as the one by a proxy and as
 * the other here, so it is refused. */
static enum signature_reason take_header(const struct headers *h, const char *name, struct str *ret)
{
    if (!name)
        return SIGNATURE_OK;
    struct str s = h->get(h->ctx, name, 0);
    if (!s.ptr || s.len == 0)
        return SIGNATURE_MISSING_HEADER;
    if (h->get(h->ctx, name, 1).ptr)
        return SIGNATURE_DUPLICATE_HEADER;
    *ret = s;
    return SIGNATURE_OK;
}

/* Reads one family of headers; a claim is either whole, or not there. */
static enum signature_reason take_family(const struct kind *kind, unsigned family,
                                         const struct headers *h, struct claim *ret)
{
    struct claim c = {0};
    enum signature_reason r = take_header(h, kind->families[family].id, &c.id);
    if (r == SIGNATURE_OK)
        r = take_header(h, kind->families[family].timestamp, &c.timestamp);
    if (r == SIGNATURE_OK)
        r = take_header(h, kind->families[family].signature, &c.signatures);
    if (r == SIGNATURE_OK)
        *ret = c;
    return r;
}

static enum signature_reason take_headers(const struct kind *kind, const struct headers *h,
                                          struct claim *ret)
{
    enum signature_reason r = take_family(kind, 0, h, ret);
    for (unsigned i = 1; i < FAMILIES && r == SIGNATURE_MISSING_HEADER; i++) {
        if (kind->families[i].signature)
            r = take_family(kind, i, h, ret);
    }
    return r;
}

/* The next entry of the signature header; false at its end. */
static bool next_entry(const struct kind *kind, struct str *rest, struct str *ret)
{
    if (!rest->ptr)
        return false;
    const char *end = kind->separator ? memchr(rest->ptr, kind->separator, rest->len) : NULL;
    if (!end) {
        *ret = *rest;
        *rest = STR_NULL;
        return true;
    }
    *ret = (struct str){rest->ptr, (size_t)(end - rest->ptr)};
    *rest = after(*rest, ret->len + 1);
    return true;
}

/* "t=..." exactly once, and nothing that is not key=value. */
static enum signature_reason take_timestamp_entry(const struct kind *kind, struct claim *c)
{
    struct str rest = c->signatures, entry;
    while (next_entry(kind, &rest, &entry)) {
        if (!memchr(entry.ptr, '=', entry.len))
            return SIGNATURE_MALFORMED_HEADER;
        if (!starts_with(entry, kind->timestamp_entry))
            continue;
        if (c->timestamp.ptr)
            return SIGNATURE_MALFORMED_HEADER;
        c->timestamp = after(entry, strlen(kind->timestamp_entry));
    }
    return c->timestamp.ptr ? SIGNATURE_OK : SIGNATURE_MALFORMED_HEADER;
}

static const struct form *form_of(const struct kind *kind, struct str entry)
{
    for (size_t i = 0; i < FORMS; i++) {
        if (kind->forms[i].prefix && starts_with(entry, kind->forms[i].prefix))
            return &kind->forms[i];
    }
    return NULL;
}

static bool has_form(const struct kind *kind, const struct claim *c)
{
    struct str rest = c->signatures, entry;
    while (next_entry(kind, &rest, &entry)) {
        if (form_of(kind, entry))
            return true;
    }
    return false;
}

/* Only the one way to write a number: what is signed is the text, what is compared the number. */
static bool read_timestamp(struct str s, int64_t *ret)
{
    if (s.len == 0 || s.len > TIMESTAMP_DIGITS || s.ptr[0] == '0')
        return false;
    int64_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
        n = n * 10 + (s.ptr[i] - '0');
    }
    *ret = n;
    return true;
}

static enum signature_reason read_claim(const struct kind *kind, const struct headers *h,
                                        struct claim *c)
{
    enum signature_reason r = take_headers(kind, h, c);
    if (r == SIGNATURE_OK && kind->timestamp_entry)
        r = take_timestamp_entry(kind, c);
    if (r != SIGNATURE_OK)
        return r;
    /* Standard Webhooks, "Signature scheme": with a dot in the id, the same bytes could be cut into
     * another id, timestamp and body. */
    if (c->id.ptr && memchr(c->id.ptr, '.', c->id.len))
        return SIGNATURE_MALFORMED_HEADER;
    if (!has_form(kind, c))
        return SIGNATURE_NO_SCHEME;
    if (c->timestamp.ptr && !read_timestamp(c->timestamp, &c->timestamp_s))
        return SIGNATURE_BAD_TIMESTAMP;
    for (size_t i = 0; i < PIECES && kind->pieces[i]; i++) {
        const char *p = kind->pieces[i];
        c->pieces[i] = *p == *PIECE_ID          ? c->id
                       : *p == *PIECE_TIMESTAMP ? c->timestamp
                                                : str_from(p);
    }
    return SIGNATURE_OK;
}

/* ---- comparing ---- */

static bool decode(const struct form *form, struct str text, uint8_t *out, size_t len)
{
    size_t got = 0;
    bool good = form->base64 ? signature_base64(text, false, out, len, &got)
                             : sodium_hex2bin(out, len, text.ptr, text.len, NULL, &got, NULL) == 0;
    return good && got == len;
}

static bool matches_hmac(const struct kind *kind, const struct key *k, const struct claim *c,
                         struct str body)
{
    crypto_auth_hmacsha256_state st = k->as.hmac;
    for (size_t i = 0; i < PIECES; i++)
        crypto_auth_hmacsha256_update(&st, (const uint8_t *)c->pieces[i].ptr, c->pieces[i].len);
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)body.ptr, body.len);
    uint8_t digest[crypto_auth_hmacsha256_BYTES], given[crypto_auth_hmacsha256_BYTES];
    crypto_auth_hmacsha256_final(&st, digest);

    bool any = false;
    struct str rest = c->signatures, entry;
    while (next_entry(kind, &rest, &entry)) {
        const struct form *form = form_of(kind, entry);
        if (!form || form->type != KEY_HMAC ||
            !decode(form, after(entry, strlen(form->prefix)), given, sizeof(given)))
            continue;
        any |= sodium_memcmp(digest, given, sizeof(digest)) == 0;
    }
    /* The digest is the one valid signature: as secret as the key, for this body. */
    sodium_memzero(&st, sizeof(st));
    sodium_memzero(digest, sizeof(digest));
    return any;
}

/* libsodium takes a message in one piece only. */
static uint8_t *whole_message(const struct claim *c, struct str body, size_t *ret)
{
    size_t len = body.len;
    for (size_t i = 0; i < PIECES; i++)
        len += c->pieces[i].len;
    uint8_t *m = malloc(len + 1);
    if (!m)
        return NULL;
    size_t at = 0;
    for (size_t i = 0; i <= PIECES; i++) {
        struct str s = i < PIECES ? c->pieces[i] : body;
        if (s.len)
            memcpy(m + at, s.ptr, s.len);
        at += s.len;
    }
    *ret = len;
    return m;
}

static bool matches_ed25519(const struct kind *kind, const struct key *k, const struct claim *c,
                            struct str body, char ret_hex[2 * crypto_sign_BYTES + 1])
{
    size_t len = 0;
    uint8_t *message = NULL, given[crypto_sign_BYTES];
    bool any = false;
    unsigned tried = 0;
    struct str rest = c->signatures, entry;
    while (tried < SIGNATURE_ED25519_MAX && next_entry(kind, &rest, &entry)) {
        const struct form *form = form_of(kind, entry);
        if (!form || form->type != KEY_ED25519 ||
            !decode(form, after(entry, strlen(form->prefix)), given, sizeof(given)))
            continue;
        tried++;
        if (!message && !(message = whole_message(c, body, &len)))
            break;
        if (crypto_sign_verify_detached(given, message, len, k->as.public_key) != 0)
            continue;
        any = true;
        sodium_bin2hex(ret_hex, 2 * crypto_sign_BYTES + 1, given, sizeof(given));
    }
    free(message);
    return any;
}

/* The credentials of Authorization: "Bearer x", "Token x", or "Basic base64(any:x)", which needs
 * buf. Any other header is the token itself. */
static struct str token_of(const struct signature *v, struct str value, char *buf, size_t size)
{
    if (strcmp(v->header, "authorization") != 0)
        return value;
    const char *space = memchr(value.ptr, ' ', value.len);
    size_t scheme = space ? (size_t)(space - value.ptr) : value.len;
    struct str token = after(value, scheme);
    while (token.len > 0 && *token.ptr == ' ')
        token = after(token, 1);
    if (scheme == 6 && strncasecmp(value.ptr, "bearer", scheme) == 0)
        return token;
    if (scheme == 5 && strncasecmp(value.ptr, "token", scheme) == 0)
        return token;
    if (scheme != 5 || strncasecmp(value.ptr, "basic", scheme) != 0)
        return STR_NULL;
    size_t len = 0;
    if (!signature_base64(token, true, (uint8_t *)buf, size, &len))
        return STR_NULL;
    const char *colon = memchr(buf, ':', len);
    return colon ? after((struct str){buf, len}, (size_t)(colon - buf) + 1) : STR_NULL;
}

/* The hash of the token in the header; of nothing when there is none. */
static enum signature_reason read_token(const struct signature *v, const struct headers *h,
                                        uint8_t ret[crypto_auth_hmacsha256_BYTES])
{
    struct str value = STR_NULL, token = STR_NULL;
    char buf[4096];
    enum signature_reason r = take_header(h, v->header, &value);
    if (r == SIGNATURE_OK) {
        token = token_of(v, value, buf, sizeof(buf));
        r = token.ptr ? SIGNATURE_OK : SIGNATURE_MALFORMED_HEADER;
    }
    signature_token_hash(v, token, ret);
    sodium_memzero(buf, sizeof(buf));
    return r;
}

/* Spends what a signature would have cost, for kinds that have not hashed the body. */
static void burn(const struct signature *v, struct str body)
{
    uint8_t digest[crypto_auth_hmacsha256_BYTES];
    signature_token_hash(v, body, digest);
}

/* ---- the whole ---- */

/* Notes what matched; a secret that is still valid wins over an expired one. */
static void note_match(const struct key *k, int64_t now_s, struct signature_result *r)
{
    bool live = k->not_after_s == 0 || now_s <= k->not_after_s;
    if (live && !r->ok) {
        r->ok = true;
        r->key_id = k->id;
    } else if (!live && !r->key_id) {
        r->key_id = k->id;
    }
}

static enum signature_reason window(const struct signature *v, const struct claim *c, int64_t now_s)
{
    if (!c->timestamp.ptr)
        return SIGNATURE_OK;
    if (now_s - c->timestamp_s > v->past_s)
        return SIGNATURE_TOO_OLD;
    return c->timestamp_s - now_s > v->future_s ? SIGNATURE_TOO_NEW : SIGNATURE_OK;
}

static void verify_token(const struct signature *v, const struct headers *h, struct str body,
                         int64_t now_s, struct signature_result *ret)
{
    uint8_t given[crypto_auth_hmacsha256_BYTES];
    ret->reason = read_token(v, h, given);
    for (size_t i = 0; i < v->n_keys; i++) {
        bool same = sodium_memcmp(v->keys[i].as.token, given, sizeof(given)) == 0;
        if (same && ret->reason == SIGNATURE_OK)
            note_match(&v->keys[i], now_s, ret);
    }
    if (!ret->ok)
        burn(v, body);
}

static void verify_signed(const struct signature *v, const struct headers *h, struct str body,
                          int64_t now_s, struct signature_result *ret)
{
    const struct kind *kind = &kinds[v->kind];
    struct claim c = {0};
    ret->reason = read_claim(kind, h, &c);
    if (ret->reason != SIGNATURE_OK)
        c = (struct claim){0}; /* nothing in it can match, and the body is hashed all the same */
    bool hashed = false;
    for (size_t i = 0; i < v->n_keys; i++) {
        const struct key *k = &v->keys[i];
        bool same = k->type == KEY_HMAC ? matches_hmac(kind, k, &c, body)
                                        : matches_ed25519(kind, k, &c, body, ret->signature_hex);
        hashed |= k->type == KEY_HMAC;
        if (same)
            note_match(k, now_s, ret);
    }
    ret->timestamp_s = c.timestamp_s;
    if (!ret->ok) {
        if (!hashed)
            burn(v, body);
        return;
    }
    ret->reason = window(v, &c, now_s);
    if (ret->reason == SIGNATURE_OK && kind->needs_body && body.len == 0)
        ret->reason = SIGNATURE_EMPTY_BODY;
    ret->ok = ret->reason == SIGNATURE_OK;
    if (!ret->ok)
        return;
    ret->delivery_id = c.id;
    if (kind->delivery && take_header(h, kind->delivery, &ret->delivery_id) != SIGNATURE_OK)
        ret->delivery_id = STR_NULL;
    if (v->kind == SIGNATURE_ED25519_TS)
        ret->delivery_id = str_from(ret->signature_hex);
}

bool signature_verify(const struct signature *v, signature_header_fn *header, void *header_ctx,
                      struct str body, int64_t now_s, struct signature_result *ret)
{
    *ret = (struct signature_result){0};
    const struct headers h = {header, header_ctx};
    if (v->kind == SIGNATURE_SHARED_SECRET)
        verify_token(v, &h, body, now_s, ret);
    else
        verify_signed(v, &h, body, now_s, ret);
    if (v->decoy) {
        ret->ok = false;
        ret->reason = SIGNATURE_UNKNOWN_SOURCE;
        ret->key_id = NULL;
    } else if (!ret->ok && ret->reason == SIGNATURE_OK) {
        ret->reason = ret->key_id ? SIGNATURE_EXPIRED_SECRET : SIGNATURE_NO_MATCH;
    }
    assert(ret->ok == (ret->reason == SIGNATURE_OK));
    return ret->ok;
}
