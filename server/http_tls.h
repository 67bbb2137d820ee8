/*
 * server/http_tls.h - certificate and key of a listener, which can be read again while it listens.
 *
 * Handshakes ask for the certificate by a callback that is not told whose it is; every thread of a
 * listener serves only that one, so it is remembered per thread. Certificates that were replaced
 * are kept to the end: a handshake under way may still use them, and they are few.
 */
#pragma once

#include "core/status.h"

#include <gnutls/abstract.h>

#define HTTP_TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct http_tls;

/* PEM files: the certificate with what is between it and its root, and its key. The names are
 * borrowed. INVALID: they cannot be read, or do not belong together. */
MUST_CHECK enum status http_tls_new(const char *cert, const char *key, struct http_tls **ret,
                                    struct error *err);
void http_tls_free(struct http_tls *t); /* NULL is a no-op */
/* Reads the files again; on failure nothing changes. */
MUST_CHECK enum status http_tls_reload(struct http_tls *t, struct error *err);
/* This thread's handshakes use t from now on. */
void http_tls_enter(struct http_tls *t);
/* A gnutls_certificate_retrieve_function2. */
int http_tls_certificate(gnutls_session_t session, const gnutls_datum_t *req_ca_rdn, int nreqs,
                         const gnutls_pk_algorithm_t *pk_algos, int pk_algos_length,
                         gnutls_pcert_st **pcert, unsigned int *pcert_length,
                         gnutls_privkey_t *privkey);
