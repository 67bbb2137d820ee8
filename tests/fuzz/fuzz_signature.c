/*
 * tests/fuzz/fuzz_signature.c - whatever headers and body a stranger sends: no crash, and no way
 * in.
 *
 * First byte: the kind; then name and value of each header, the lines ended by \n, an empty line,
 * and the body. Names are digits: an index into those that are looked at. The secrets are random,
 * so what is accepted is a fault; the same bytes are tried as a secret too. Seeds:
 * tests/fuzz/corpus/signature/.
 */
#include "ingest/signature.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADERS 12
#define NOW     1700000000

static const char *const names[] = {
    "webhook-id",     "webhook-timestamp", "webhook-signature",   "svix-id",
    "svix-timestamp", "svix-signature",    "x-hub-signature-256", "stripe-signature",
    "authorization",  "x-slack-signature"};
#define NAMES (sizeof(names) / sizeof(names[0]))
/* These two always are there: without them a kind looks no further. */
static const char *const times[] = {"x-slack-request-timestamp", "x-signature-timestamp"};

struct headers {
    size_t n;
    struct {
        const char *name;
        struct str value;
    } list[HEADERS];
};

static void require(bool fact)
{
    if (!fact)
        abort();
}

static struct str get(void *ctx, const char *name, unsigned nth)
{
    const struct headers *h = ctx;
    for (size_t i = 0; i < h->n; i++)
        if (strcmp(h->list[i].name, name) == 0 && nth-- == 0)
            return h->list[i].value;
    for (size_t i = 0; i < 2; i++)
        if (strcmp(times[i], name) == 0 && nth == 0)
            return STR("1700000000");
    /* What Discord sends is the header alone. */
    if (strcmp(name, "x-signature-ed25519") == 0 && h->n > 0 && nth == 0)
        return h->list[0].value;
    return STR_NULL;
}

static struct str read_headers(struct str in, struct headers *h)
{
    const char *end;
    while (in.len > 0 && h->n < HEADERS && (end = memchr(in.ptr, '\n', in.len)) != NULL) {
        size_t len = (size_t)(end - in.ptr);
        struct str line = {in.ptr, len};
        in = (struct str){end + 1, in.len - len - 1};
        if (len == 0)
            break;
        h->list[h->n].name = names[(size_t)(unsigned char)line.ptr[0] % NAMES];
        h->list[h->n++].value = (struct str){line.ptr + 1, line.len - 1};
    }
    return in;
}

/* Secrets that nobody knows, one verifier per kind; both algorithms for the first. */
static const struct signature *verifier(enum signature_kind kind)
{
    static struct signature *made[SIGNATURE_KINDS];
    static const char *const values[SIGNATURE_KINDS][2] = {
        {"whsec_q5V1QGQ2bU9xkKz8c0rC7kM7rXcVq5yW",
         "whpk_PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="},
        {"3f9ad0c1b2e4587690aa7d"},
        {"whsec_3f9ad0c1b2e4587690aa7d"},
        {"3f9ad0c1b2e4587690aa7d"},
        {"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"},
        {"3f9ad0c1b2e4587690aa7d"}};
    if (!made[kind]) {
        struct signature_secret secrets[2] = {{.value = str_from(values[kind][0])},
                                              {.value = str_from(values[kind][1])}};
        struct signature_config cfg = {
            .kind = kind, .secrets = secrets, .n_secrets = values[kind][1] ? 2 : 1};
        require(signature_new(&cfg, &made[kind], NULL) == STATUS_OK);
    }
    return made[kind];
}

static void try_as_secret(enum signature_kind kind, struct str value)
{
    struct signature_secret secret = {.value = value};
    struct signature_config cfg = {.kind = kind, .secrets = &secret, .n_secrets = 1};
    struct signature *v = NULL;
    struct error err = {.text = ""};
    enum status st = signature_new(&cfg, &v, &err);
    require((st == STATUS_OK) == (v != NULL));
    require(st == STATUS_OK || err.text[0]);
    (void)signature_secret_warning(kind, value);
    signature_free(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum signature_kind kind = (enum signature_kind)(data[0] % SIGNATURE_KINDS);
    struct headers h = {0};
    struct str rest = {(const char *)data + 1, size - 1};
    try_as_secret(kind, rest);
    struct str body = read_headers(rest, &h);
    struct signature_result r;
    bool ok = signature_verify(verifier(kind), get, &h, body, NOW, &r);
    require(ok == r.ok && ok == (r.reason == SIGNATURE_OK));
    require(r.reason < SIGNATURE_REASONS && r.reason != SIGNATURE_UNKNOWN_SOURCE);
    require(!ok && !r.key_id && !r.delivery_id.ptr);
    return 0;
}
