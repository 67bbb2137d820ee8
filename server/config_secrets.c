#include "server/config_secrets.h"

#include "core/clock.h"
#include "core/log.h"
#include "server/config.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum status config_verifier(enum signature_kind kind, const char *header,
                            const struct config_secret *secrets, size_t n, struct signature **ret,
                            struct error *err)
{
    _Static_assert(CONFIG_SECRETS_MAX <= SIGNATURE_SECRETS_MAX, "all of them are tried");
    struct signature_secret list[CONFIG_SECRETS_MAX] = {0};
    assert(n <= CONFIG_SECRETS_MAX);
    for (size_t i = 0; i < n; i++) {
        list[i].id = secrets[i].id;
        list[i].value = str_from(secrets[i].value);
        /* From not_after on it is refused; here it is the last second at which it is not. */
        if (secrets[i].not_after_us)
            list[i].not_after_s = (secrets[i].not_after_us - 1) / US_PER_SECOND;
    }
    struct signature_config cfg = {
        .kind = kind, .header = header && *header ? header : NULL, .secrets = list, .n_secrets = n};
    return signature_new(&cfg, ret, err);
}

struct warner {
    config_warning_fn *fn;
    void *ctx;
    int64_t now_us;
};

static void warn(const struct warner *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void warn(const struct warner *w, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    w->fn(w->ctx, text);
}

/* What the masked value of --print-config would be, taken for a secret. */
static bool is_mask(const struct config_secret *s)
{
    return s->value[0] == '*' && s->value[strspn(s->value, "*")] == '\0';
}

static size_t check(const struct warner *w, const char *name, enum signature_kind kind,
                    const char *header, const struct config_secret *secrets, size_t n)
{
    CLEANUP(signature_freep) struct signature *built = NULL;
    struct error err = {0};
    enum status st = STATUS_OK;
    for (size_t i = 0; i < n && st == STATUS_OK; i++)
        if (is_mask(&secrets[i]))
            st = error_set(&err, STATUS_INVALID, "secret \"%s\" is a mask, not a secret",
                           secrets[i].id);
    if (n && st == STATUS_OK)
        st = config_verifier(kind, header, secrets, n, &built, &err);
    if (st != STATUS_OK)
        warn(w, "%s: %s", name, err.text);
    return st != STATUS_OK;
}

/* Public keys verify, and sign nothing. */
static size_t check_signing(const struct warner *w, const struct config_feed_webhook *h)
{
    char name[CONFIG_SOURCE_BYTES + 32];
    snprintf(name, sizeof(name), "feed.webhooks \"%s\"", h->name);
    size_t n = check(w, name, SIGNATURE_STANDARD_WEBHOOKS, NULL, h->secrets, h->n_secrets);
    for (size_t i = 0; i < h->n_secrets && !n; i++)
        if (strncmp(h->secrets[i].value, "whpk_", 5) == 0) {
            warn(w, "%s: secret \"%s\" is a public key: it cannot sign", name, h->secrets[i].id);
            n++;
        }
    return n;
}

size_t config_check_secrets(const struct config *c, config_warning_fn *fn, void *ctx)
{
    const struct warner w = {fn, ctx, 0};
    size_t n = 0;
    char name[CONFIG_SOURCE_BYTES + 16];
    for (size_t i = 0; i < c->n_webhooks; i++) {
        const struct config_webhook *h = &c->webhooks[i];
        snprintf(name, sizeof(name), "webhook \"%s\"", h->name);
        n += check(&w, name, h->verify, h->header, h->secrets, h->n_secrets);
    }
    for (size_t i = 0; i < c->feed.n_webhooks; i++)
        n += check_signing(&w, &c->feed.webhooks[i]);
    return n + check(&w, "influx", SIGNATURE_SHARED_SECRET, NULL, c->influx.secrets,
                     c->influx.n_secrets);
}

static void endpoint(const struct warner *w, const char *name, enum signature_kind kind,
                     const struct config_secret *secrets, size_t n)
{
    size_t expired = 0;
    for (size_t i = 0; i < n; i++) {
        const char *why = signature_secret_warning(kind, str_from(secrets[i].value));
        if (why)
            warn(w, "%s: secret \"%s\" %s", name, secrets[i].id, why);
        bool gone = secrets[i].not_after_us && secrets[i].not_after_us <= w->now_us;
        expired += gone;
        if (gone)
            warn(w, "%s: secret \"%s\" has expired and may be removed", name, secrets[i].id);
    }
    if (n == 0)
        warn(w, "%s: there is no secret, so anybody who can connect may write", name);
    else if (expired == n)
        warn(w, "%s: every secret has expired, so every request is refused", name);
}

/* What is sent, not what comes in. */
static void destination(const struct warner *w, const struct config_feed_webhook *h)
{
    size_t expired = 0;
    for (size_t i = 0; i < h->n_secrets; i++) {
        const char *why =
            signature_secret_warning(SIGNATURE_STANDARD_WEBHOOKS, str_from(h->secrets[i].value));
        if (why)
            warn(w, "feed.webhooks \"%s\": secret \"%s\" %s", h->name, h->secrets[i].id, why);
        expired += h->secrets[i].not_after_us && h->secrets[i].not_after_us <= w->now_us;
    }
    if (h->n_secrets && expired == h->n_secrets)
        warn(w, "feed.webhooks \"%s\": every secret has expired, so nothing is sent", h->name);
    if (strncmp(h->url, "http:", 5) == 0 && h->insecure_plain)
        warn(w, "feed.webhooks \"%s\": announcements go out without TLS", h->name);
}

/* A signature does not say for which endpoint it was made. */
static void shared(const struct warner *w, const struct config_webhook *a,
                   const struct config_webhook *b)
{
    bool same = false;
    for (size_t i = 0; i < a->n_secrets; i++)
        for (size_t k = 0; k < b->n_secrets; k++)
            same |= strcmp(a->secrets[i].value, b->secrets[k].value) == 0;
    /* A public key opens nothing: several endpoints of one sender have the same one. */
    if (same && a->verify != SIGNATURE_ED25519_TS)
        warn(w,
             "webhooks \"%s\" and \"%s\" have a secret in common: who may deliver to one may to "
             "the other",
             a->name, b->name);
}

void config_warnings(const struct config *c, int64_t now_us, config_warning_fn *fn, void *ctx)
{
    const struct warner w = {fn, ctx, now_us};
    struct stat st;
    if (c->secret_line && c->file[0] && stat(c->file, &st) == 0 &&
        (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        warn(&w,
             "%s:%lu: holds a secret, and others may read the file (mode %04o): chmod 600 it, or "
             "move the secret out as ${file:PATH} or ${credential:NAME}",
             c->file, c->secret_line, (unsigned)(st.st_mode & 07777));
    char name[CONFIG_SOURCE_BYTES + 16];
    for (size_t i = 0; i < c->n_webhooks; i++) {
        const struct config_webhook *h = &c->webhooks[i];
        snprintf(name, sizeof(name), "webhook \"%s\"", h->name);
        for (size_t k = 0; k < i; k++)
            shared(&w, &c->webhooks[k], h);
        endpoint(&w, name, h->verify, h->secrets, h->n_secrets);
    }
    for (size_t i = 0; i < c->feed.n_webhooks; i++)
        destination(&w, &c->feed.webhooks[i]);
    if (config_influx_is_open(&c->influx))
        endpoint(&w, "influx", SIGNATURE_SHARED_SECRET, c->influx.secrets, c->influx.n_secrets);
}

static void log_warning(void *ctx, const char *text)
{
    (void)ctx;
    log_write(LOG_WARN, "run", "%s", text);
}

void config_log_warnings(const struct config *c)
{
    config_warnings(c, clock_wall_us(&clock_real), log_warning, NULL);
}
