#include "core/limits.h"
#include "ingest/signature_internal.h"

#include <assert.h>
#include <ctype.h>
#include <string.h>

#define HMAC_KEY_MIN    24 /* Standard Webhooks, "Signature scheme": 192 to 512 bits */
#define HMAC_KEY_MAX    64
#define TELEGRAM_HEADER "x-telegram-bot-api-secret-token"
#define TELEGRAM_MAX    256
#define SHORT_SECRET    16 /* a recorded request allows guessing at any speed */

static bool starts_with(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.ptr, prefix, n) == 0;
}

static struct str without(struct str s, const char *prefix)
{
    size_t n = starts_with(s, prefix) ? strlen(prefix) : 0;
    return (struct str){s.ptr + n, s.len - n};
}

static bool is_space(char c)
{
    return isspace((unsigned char)c) != 0;
}

static bool is_blank(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (!is_space(s.ptr[i]))
            return false;
    }
    return true;
}

bool signature_base64(struct str s, bool bare, uint8_t *out, size_t max, size_t *ret)
{
    /* libsodium takes some bytes beyond ASCII for the character without their upper bit. */
    for (size_t i = 0; i < s.len; i++) {
        if ((unsigned char)s.ptr[i] >= 0x80)
            return false;
    }
    bool padded = s.len > 0 && s.ptr[s.len - 1] == '=';
    return sodium_base642bin(out, max, s.ptr, s.len, NULL, ret, NULL,
                             padded || !bare ? sodium_base64_VARIANT_ORIGINAL
                                             : sodium_base64_VARIANT_ORIGINAL_NO_PADDING) == 0;
}

/* A public key is known to everybody: used as the key of an HMAC it would let everybody in. */
static enum status refuse_asymmetric(struct str value, const char *name, struct error *err)
{
    if (starts_with(value, "whpk_") || starts_with(value, "whsk_") || starts_with(value, "v1a,") ||
        starts_with(value, "-----BEGIN"))
        return error_set(
            err, STATUS_INVALID,
            "%s is an asymmetric key, and this kind of signature needs a shared secret", name);
    return STATUS_OK;
}

static void hmac_key(struct key *k, const void *bytes, size_t len)
{
    k->type = KEY_HMAC;
    crypto_auth_hmacsha256_init(&k->as.hmac, bytes, len);
}

static enum status public_key(struct key *k, const uint8_t *bytes, size_t len, const char *name,
                              struct error *err)
{
    if (len != crypto_sign_PUBLICKEYBYTES)
        return error_set(err, STATUS_INVALID, "%s has %zu bytes, a public key has %u", name, len,
                         crypto_sign_PUBLICKEYBYTES);
    /* Keys of small order verify signatures that nobody made. */
    if (crypto_core_ed25519_is_valid_point(bytes) != 1)
        return error_set(err, STATUS_INVALID, "%s is not a public key of Ed25519", name);
    k->type = KEY_ED25519;
    memcpy(k->as.public_key, bytes, crypto_sign_PUBLICKEYBYTES);
    return STATUS_OK;
}

/* "whsec_..." or "whpk_...", also as "v1,whsec_..." and "v1a,whpk_..." (as Supabase shows it). */
static enum status standard_key(struct key *k, struct str value, const char *name,
                                struct error *err)
{
    struct str s = without(without(value, "v1a,"), "v1,");
    if (starts_with(s, "whsk_"))
        return error_set(
            err, STATUS_INVALID,
            "%s is the sender's private key (whsk_); the receiver needs the public one "
            "(whpk_)",
            name);
    bool asymmetric = starts_with(s, "whpk_");
    s = asymmetric ? without(s, "whpk_") : without(s, "whsec_");
    if (s.len == 0)
        return error_set(err, STATUS_INVALID, "%s is empty behind its prefix", name);

    uint8_t bytes[HMAC_KEY_MAX];
    size_t len = 0;
    enum status st = STATUS_OK;
    if (s.len > 4 * (size_t)((HMAC_KEY_MAX + 2) / 3))
        st = error_set(err, STATUS_INVALID, "%s is longer than %d bytes", name, HMAC_KEY_MAX);
    else if (!signature_base64(s, true, bytes, sizeof(bytes), &len))
        st = error_set(
            err, STATUS_INVALID,
            "%s is not base64 of at most %d bytes; the whsec_ of Stripe is another thing: "
            "verify: hmac-ts-stripe",
            name, HMAC_KEY_MAX);
    else if (asymmetric)
        st = public_key(k, bytes, len, name, err);
    else if (len < HMAC_KEY_MIN)
        st = error_set(err, STATUS_INVALID, "%s has %zu bytes, and must have %d to %d", name, len,
                       HMAC_KEY_MIN, HMAC_KEY_MAX);
    else
        hmac_key(k, bytes, len);
    sodium_memzero(bytes, sizeof(bytes));
    return st;
}

static enum status hex_public_key(struct key *k, struct str value, const char *name,
                                  struct error *err)
{
    uint8_t bytes[crypto_sign_PUBLICKEYBYTES];
    size_t len = 0;
    if (sodium_hex2bin(bytes, sizeof(bytes), value.ptr, value.len, NULL, &len, NULL) != 0)
        return error_set(err, STATUS_INVALID, "%s is not a public key: %u bytes in hexadecimal",
                         name, crypto_sign_PUBLICKEYBYTES);
    return public_key(k, bytes, len, name, err);
}

static bool telegram_allows(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

/* What can never arrive in a header can never match: better said at once. */
static enum status token_key(const struct signature *v, struct key *k, struct str value,
                             const char *name, struct error *err)
{
    if (is_space(value.ptr[0]) || is_space(value.ptr[value.len - 1]))
        return error_set(err, STATUS_INVALID,
                         "%s begins or ends with a blank, which no header can carry", name);
    bool telegram = strcmp(v->header, TELEGRAM_HEADER) == 0;
    for (size_t i = 0; i < value.len; i++) {
        if (iscntrl((unsigned char)value.ptr[i]) || (telegram && !telegram_allows(value.ptr[i])))
            return error_set(err, STATUS_INVALID, "%s has a character that %s", name,
                             telegram ? "Telegram does not allow: A-Z, a-z, 0-9, _ and -"
                                      : "no header can carry");
    }
    if (telegram && value.len > TELEGRAM_MAX)
        return error_set(err, STATUS_INVALID, "%s is longer than %d bytes", name, TELEGRAM_MAX);
    k->type = KEY_TOKEN;
    signature_token_hash(v, value, k->as.token);
    return STATUS_OK;
}

enum status signature_key_init(const struct signature *v, struct str value, const char *name,
                               struct key *k, struct error *err)
{
    if (value.len == 0 || is_blank(value))
        return error_set(err, STATUS_INVALID, "%s is empty", name);
    if (v->kind == SIGNATURE_STANDARD_WEBHOOKS)
        return standard_key(k, value, name, err);
    if (v->kind == SIGNATURE_ED25519_TS)
        return hex_public_key(k, value, name, err);
    enum status st = refuse_asymmetric(value, name, err);
    if (st != STATUS_OK)
        return st;
    if (v->kind == SIGNATURE_SHARED_SECRET)
        return token_key(v, k, value, name, err);
    hmac_key(k, value.ptr, value.len);
    return STATUS_OK;
}

const char *signature_secret_warning(enum signature_kind kind, struct str value)
{
    bool text = kind == SIGNATURE_HMAC_BODY || kind == SIGNATURE_HMAC_TS_STRIPE ||
                kind == SIGNATURE_HMAC_TS_SLACK;
    if (text && value.len > 0 && is_space(value.ptr[value.len - 1]))
        return "ends with a blank, which is taken as part of it";
    if (text && value.len > 0 && is_space(value.ptr[0]))
        return "begins with a blank, which is taken as part of it";
    if ((text || kind == SIGNATURE_SHARED_SECRET) && value.len < SHORT_SECRET)
        return "is shorter than 16 bytes, so it can be guessed (warmpath secret new makes one)";
    return NULL;
}
