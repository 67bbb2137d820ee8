/*
 * server/config_secrets.h - the secrets of the endpoints: as verifiers, and what is wrong with how
 * they are kept. Nothing here shows one.
 */
#pragma once

#include "ingest/signature.h"
#include "server/config_door.h"

struct config;

/* A verifier of these secrets; header as in struct signature_config. At least one secret. INVALID:
 * one of them cannot be what the kind needs. */
MUST_CHECK enum status config_verifier(enum signature_kind kind, const char *header,
                                       const struct config_secret *secrets, size_t n,
                                       struct signature **ret, struct error *err);

/* One call per endpoint whose secrets cannot be used, with the reason; returns how many there are.
 */
typedef void config_warning_fn(void *ctx, const char *text);
size_t config_check_secrets(const struct config *c, config_warning_fn *fn, void *ctx);

/* One call per thing that works, and that somebody should look at: a secret in a file that others
 * may read, one with blanks around it, endpoints that anybody may use, secrets that have expired.
 */
void config_warnings(const struct config *c, int64_t now_us, config_warning_fn *fn, void *ctx);
/* The same into the log, for `run`. */
void config_log_warnings(const struct config *c);
