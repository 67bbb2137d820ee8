#include "server/http_tls.h"

#include <stdatomic.h>
#include <stdlib.h>

#include <gnutls/gnutls.h>

#define CHAIN_MAX 16

struct certificate {
    struct certificate *older;
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned n;
    gnutls_privkey_t key;
};

struct http_tls {
    const char *cert_file, *key_file;
    _Atomic(struct certificate *) newest;
};

static _Thread_local struct http_tls *current;

static void certificate_free(struct certificate *c)
{
    for (unsigned i = 0; i < c->n; i++)
        gnutls_pcert_deinit(&c->chain[i]);
    if (c->key)
        gnutls_privkey_deinit(c->key);
    free(c);
}

/* Only the library's own check knows every way in which a key belongs to a certificate. */
static int check_pair(const gnutls_datum_t *cert, const gnutls_datum_t *key)
{
    gnutls_certificate_credentials_t both = NULL;
    int rc = gnutls_certificate_allocate_credentials(&both);
    if (rc == 0)
        rc = gnutls_certificate_set_x509_key_mem(both, cert, key, GNUTLS_X509_FMT_PEM);
    if (both)
        gnutls_certificate_free_credentials(both);
    return rc < 0 ? rc : 0;
}

static int import(struct certificate *c, const gnutls_datum_t *cert, const gnutls_datum_t *key)
{
    unsigned n = CHAIN_MAX;
    int rc = check_pair(cert, key);
    if (rc == 0)
        rc = gnutls_pcert_list_import_x509_raw(c->chain, &n, cert, GNUTLS_X509_FMT_PEM, 0);
    if (rc == 0)
        c->n = n;
    if (rc == 0)
        rc = gnutls_privkey_init(&c->key);
    if (rc == 0)
        rc = gnutls_privkey_import_x509_raw(c->key, key, GNUTLS_X509_FMT_PEM, NULL, 0);
    return rc;
}

enum status http_tls_reload(struct http_tls *t, struct error *err)
{
    gnutls_datum_t cert = {NULL, 0}, key = {NULL, 0};
    enum status st = STATUS_OK;
    struct certificate *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, STATUS_NOMEM, "could not allocate a certificate");
    const char *file = t->cert_file;
    int rc = gnutls_load_file(t->cert_file, &cert);
    if (rc == 0) {
        file = t->key_file;
        rc = gnutls_load_file(t->key_file, &key);
    }
    if (rc != 0)
        st = error_set(err, STATUS_INVALID, "could not read \"%s\": %s", file, gnutls_strerror(rc));
    if (!st) {
        rc = import(c, &cert, &key);
        if (rc != 0)
            st = error_set(err, STATUS_INVALID,
                           "could not use certificate \"%s\" with key \"%s\": %s", t->cert_file,
                           t->key_file, gnutls_strerror(rc));
    }
    gnutls_free(cert.data);
    if (key.data)
        gnutls_memset(key.data, 0, key.size);
    gnutls_free(key.data);
    if (st) {
        certificate_free(c);
        return st;
    }
    c->older = atomic_load(&t->newest); /* one thread reloads */
    atomic_store(&t->newest, c);
    return STATUS_OK;
}

enum status http_tls_new(const char *cert, const char *key, struct http_tls **ret,
                         struct error *err)
{
    if (!key)
        return error_set(err, STATUS_INVALID, "http.tls_cert without http.tls_key");
    struct http_tls *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(err, STATUS_NOMEM, "could not allocate a certificate");
    t->cert_file = cert;
    t->key_file = key;
    enum status st = http_tls_reload(t, err);
    if (st)
        http_tls_free(t);
    else
        *ret = t;
    return st;
}

void http_tls_free(struct http_tls *t)
{
    if (!t)
        return;
    for (struct certificate *c = atomic_load(&t->newest), *older; c; c = older) {
        older = c->older;
        certificate_free(c);
    }
    free(t);
}

void http_tls_enter(struct http_tls *t)
{
    current = t;
}

int http_tls_certificate(gnutls_session_t session, const gnutls_datum_t *req_ca_rdn, int nreqs,
                         const gnutls_pk_algorithm_t *pk_algos, int pk_algos_length,
                         gnutls_pcert_st **pcert, unsigned int *pcert_length,
                         gnutls_privkey_t *privkey)
{
    (void)session;
    (void)req_ca_rdn;
    (void)nreqs;
    (void)pk_algos;
    (void)pk_algos_length;
    struct certificate *c = current ? atomic_load(&current->newest) : NULL;
    if (!c)
        return -1;
    *pcert = c->chain;
    *pcert_length = c->n;
    *privkey = c->key;
    return 0;
}
