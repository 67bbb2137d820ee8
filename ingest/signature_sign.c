/* Signing as Standard Webhooks has it; verifying is in signature.c. */
#include "ingest/signature_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void digest(const struct key *k, struct str id, int64_t timestamp_s, struct str body,
                   uint8_t ret[crypto_auth_hmacsha256_BYTES])
{
    char middle[32];
    int n = snprintf(middle, sizeof(middle), ".%" PRId64 ".", timestamp_s);
    assert(n > 0 && (size_t)n < sizeof(middle));
    crypto_auth_hmacsha256_state st = k->as.hmac;
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)id.ptr, id.len);
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)middle, (size_t)n);
    crypto_auth_hmacsha256_update(&st, (const uint8_t *)body.ptr, body.len);
    crypto_auth_hmacsha256_final(&st, ret);
    sodium_memzero(&st, sizeof(st));
}

enum status signature_sign(const struct signature *v, struct str id, int64_t timestamp_s,
                           struct str body, struct buf *out)
{
    assert(v->kind == SIGNATURE_STANDARD_WEBHOOKS);
    bool any = false;
    enum status st = STATUS_OK;
    for (size_t i = 0; i < v->n_keys && !st; i++) {
        const struct key *k = &v->keys[i];
        if (k->type != KEY_HMAC || (k->not_after_s && timestamp_s > k->not_after_s))
            continue;
        uint8_t bytes[crypto_auth_hmacsha256_BYTES];
        char text[sodium_base64_ENCODED_LEN(sizeof(bytes), sodium_base64_VARIANT_ORIGINAL)];
        digest(k, id, timestamp_s, body, bytes);
        sodium_bin2base64(text, sizeof(text), bytes, sizeof(bytes), sodium_base64_VARIANT_ORIGINAL);
        st = buf_printf(out, "%sv1,%s", any ? " " : "", text);
        any = true;
    }
    return st ? st : any ? STATUS_OK : STATUS_REFUSED;
}
