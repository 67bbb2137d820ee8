/*
 * ingest/signature.h - whether a request comes from who holds the secret.
 *
 * One verifier per endpoint, built from the secrets of the configuration; after that it is read
 * only, so any number of threads verify with it. It knows nothing of HTTP: headers come from a
 * callback, as the bytes that were sent, and the body as it arrived. What is signed is those bytes:
 * nothing is parsed and written again first.
 *
 * kind               headers                                        signed            key
 * standard-webhooks  webhook-id, -timestamp, -signature, or svix-*  id "." ts "." body
 *                    v1: HMAC-SHA256, base64     whsec_ + base64 of 24..64 bytes, prefix optional
 *                    v1a: Ed25519, base64        whpk_ + base64 of the 32 bytes of a public key
 * hmac-body          X-Hub-Signature-256: sha256=hex                body              the text
 * hmac-ts-stripe     Stripe-Signature: t=ts,v1=hex[,v1=hex]         ts "." body       the text,
 *                                                                     with whsec_ and all
 * hmac-ts-slack      X-Slack-Request-Timestamp, X-Slack-Signature:  "v0:" ts ":" body the text
 *                    v0=hex
 * ed25519-ts         X-Signature-Ed25519: hex, X-Signature-Timestamp  ts body         hex
 * shared-secret      the one that was named; in Authorization behind Bearer, Token, or as the
 *                    password of Basic                              nothing           the text
 *
 * Timestamps may be SIGNATURE_WINDOW_S old or ahead, that many seconds included (ed25519-ts:
 * SIGNATURE_WINDOW_ED25519_S old, as long as its sender retries). Every secret is tried against
 * every signature, whether one has matched or not; digests are compared decoded and in constant
 * time, tokens by their keyed hashes, so neither position nor length of a difference shows. A
 * request that is refused has cost the hash of its body whatever was wrong with it, also when its
 * endpoint does not exist: verify it with signature_decoy().
 *
 * Secrets are not kept but as keyed states, in memory that is wiped when it is freed.
 * Units: seconds since the Unix epoch.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIGNATURE_WINDOW_S         300
#define SIGNATURE_WINDOW_ED25519_S 900
#define SIGNATURE_SECRETS_MAX      8  /* of one verifier */
#define SIGNATURE_ED25519_MAX      8  /* v1a signatures looked at: each costs a verification */
#define SIGNATURE_KEY_ID_BYTES     64 /* with the NUL */

enum signature_kind {
    SIGNATURE_STANDARD_WEBHOOKS,
    SIGNATURE_HMAC_BODY,
    SIGNATURE_HMAC_TS_STRIPE,
    SIGNATURE_HMAC_TS_SLACK,
    SIGNATURE_ED25519_TS,
    SIGNATURE_SHARED_SECRET,
    SIGNATURE_KINDS
};
/* "standard-webhooks", ... as in the configuration. */
const char *signature_kind_name(enum signature_kind kind);

/* What the answer to a request that is not verified says, whatever the reason: 401 with this title
 * and nothing else. The reason is for metrics and the log. */
#define SIGNATURE_REFUSED_TITLE "not authorized"

enum signature_reason {
    SIGNATURE_OK = 0,
    SIGNATURE_MISSING_HEADER,   /* or an empty one */
    SIGNATURE_DUPLICATE_HEADER, /* came more than once */
    SIGNATURE_MALFORMED_HEADER,
    SIGNATURE_NO_SCHEME,     /* no signature of a version that is accepted */
    SIGNATURE_BAD_TIMESTAMP, /* not ^[1-9][0-9]{0,11}$ */
    SIGNATURE_NO_MATCH,
    SIGNATURE_EXPIRED_SECRET, /* matches one whose not_after has passed */
    SIGNATURE_TOO_OLD,
    SIGNATURE_TOO_NEW,
    SIGNATURE_EMPTY_BODY,
    SIGNATURE_UNKNOWN_SOURCE, /* the decoy */
    SIGNATURE_REASONS
};
/* "no_match", ...: a label of a metric. */
const char *signature_reason_name(enum signature_reason reason);

struct signature_secret {
    const char *id;      /* shown in metrics and the log; NULL or "": its number, from "1" */
    struct str value;    /* as in the configuration */
    int64_t not_after_s; /* the last second at which it is accepted; 0 = for ever */
};

/* Borrowed until signature_new() returns. */
struct signature_config {
    enum signature_kind kind;
    const char *header; /* SHARED_SECRET: the name of its header, any case; NULL = authorization */
    const struct signature_secret *secrets;
    size_t n_secrets;
    int64_t window_s; /* of timestamps, both ways; 0 = as above */
};

struct signature;
/* INVALID: a secret cannot be what the kind needs (none, blank, no base64, wrong length, a public
 * key where a secret is needed, ...); the text names it by its id, never by its bytes. */
MUST_CHECK enum status signature_new(const struct signature_config *cfg, struct signature **ret,
                                     struct error *err);
/* One that accepts nothing, at the cost of one with one secret: for endpoints that do not exist. */
MUST_CHECK enum status signature_decoy(struct signature **ret, struct error *err);
/* Wipes it. NULL is a no-op. */
void signature_free(struct signature *v);
CLEANUP_FREEP(struct signature, signature_free);

/* What is suspicious about a secret that can be used all the same ("ends with a blank", "is
 * short"); NULL when nothing is. For check-config and the log. */
const char *signature_secret_warning(enum signature_kind kind, struct str value);

/* The nth (from 0) header of this name, given in lower case, names compared in any case; STR_NULL
 * when there are not so many. */
typedef struct str signature_header_fn(void *ctx, const char *name, unsigned nth);

struct signature_result {
    bool ok;
    enum signature_reason reason;
    const char *key_id; /* of the secret that matched, also an expired one; NULL: none did. Lives
                           as long as the verifier */
    struct str
        delivery_id; /* only when ok: the webhook-id (signed), X-GitHub-Delivery (not signed),
                        the signature of ed25519-ts (the same one again is a repetition);
                        STR_NULL for the others. In the headers, or in signature_hex */
    char signature_hex[2 * 64 + 1];
    int64_t timestamp_s; /* as signed; 0: the kind has none, or it could not be read */
};
/*
 * The other direction, with the secrets of a STANDARD_WEBHOOKS verifier: appends the value of
 * webhook-signature for these bytes, one "v1,..." for each secret that has not expired, separated
 * by blanks. REFUSED: all have, or none can sign. Any thread.
 */
MUST_CHECK enum status signature_sign(const struct signature *v, struct str id, int64_t timestamp_s,
                                      struct str body, struct buf *out);
/* Any thread. Returns ret->ok. */
bool signature_verify(const struct signature *v, signature_header_fn *header, void *header_ctx,
                      struct str body, int64_t now_s, struct signature_result *ret);
