/* ingest/signature_internal.h - what signature.c (verifying) and signature_key.c (secrets) share.
 */
#pragma once

#include "ingest/signature.h"

#include <sodium.h>

/* The algorithm belongs to the key, never to the request: a signature is only ever tried against
 * keys of its own algorithm, so a public key cannot become the key of an HMAC. */
enum key_type { KEY_HMAC, KEY_ED25519, KEY_TOKEN };

struct key {
    char id[SIGNATURE_KEY_ID_BYTES];
    int64_t not_after_s;
    enum key_type type;
    union {
        crypto_auth_hmacsha256_state hmac; /* keyed, nothing hashed yet */
        uint8_t public_key[crypto_sign_PUBLICKEYBYTES];
        uint8_t token[crypto_auth_hmacsha256_BYTES]; /* the secret, hashed with token_key */
    } as;
};

struct signature {
    enum signature_kind kind;
    bool decoy;
    char *header; /* SHARED_SECRET: in lower case */
    int64_t past_s, future_s;
    crypto_auth_hmacsha256_state token_key; /* keyed with random bytes of its own */
    size_t n_keys;
    struct key keys[SIGNATURE_SECRETS_MAX];
};

/* Hashes a token under the verifier's own key: what is compared has one length and no structure. */
void signature_token_hash(const struct signature *v, struct str token,
                          uint8_t ret[crypto_auth_hmacsha256_BYTES]);
/* Fills one key from one secret; name is how errors call it. */
MUST_CHECK enum status signature_key_init(const struct signature *v, struct str value,
                                          const char *name, struct key *k, struct error *err);
/* Base64 in the standard alphabet, nothing else in between, in its one canonical form: with
 * padding, or without where `bare` allows it. */
bool signature_base64(struct str s, bool bare, uint8_t *out, size_t max, size_t *ret);
