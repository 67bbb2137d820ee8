#include "server/cli.h"

#include <sodium.h>
#include <string.h>

#define SECRET_BYTES 32

static void print_base64(FILE *out, const char *prefix, const uint8_t *bytes, size_t len)
{
    char
        text[sodium_base64_ENCODED_LEN(crypto_sign_SECRETKEYBYTES, sodium_base64_VARIANT_ORIGINAL)];
    sodium_bin2base64(text, sizeof(text), bytes, len, sodium_base64_VARIANT_ORIGINAL);
    fprintf(out, "%s%s\n", prefix, text);
    sodium_memzero(text, sizeof(text));
}

static void standard(struct cli *cli)
{
    uint8_t bytes[SECRET_BYTES];
    randombytes_buf(bytes, sizeof(bytes));
    print_base64(cli->out, "whsec_", bytes, sizeof(bytes));
    sodium_memzero(bytes, sizeof(bytes));
}

/* Letters and digits only: fits every header, form and sender. */
static void text(struct cli *cli)
{
    uint8_t bytes[SECRET_BYTES];
    char hex[2 * SECRET_BYTES + 1];
    randombytes_buf(bytes, sizeof(bytes));
    sodium_bin2hex(hex, sizeof(hex), bytes, sizeof(bytes));
    fprintf(cli->out, "%s\n", hex);
    sodium_memzero(bytes, sizeof(bytes));
    sodium_memzero(hex, sizeof(hex));
}

static void key_pair(struct cli *cli)
{
    uint8_t public_key[crypto_sign_PUBLICKEYBYTES], private_key[crypto_sign_SECRETKEYBYTES];
    crypto_sign_keypair(public_key, private_key);
    print_base64(cli->out, "whpk_", public_key, sizeof(public_key));
    print_base64(cli->out, "whsk_", private_key, sizeof(private_key));
    sodium_memzero(private_key, sizeof(private_key));
    fprintf(cli->err, "note: whpk_ is for webhooks[].secrets here, whsk_ for the sender alone\n");
}

/* What can be made here; the other kinds' secrets come from the sender. */
static const struct {
    const char *kind;
    void (*print)(struct cli *cli);
} makers[] = {{"standard-webhooks", standard},
              {"hmac-body", text},
              {"shared-secret", text},
              {"ed25519", key_pair}};

int cmd_secret(struct cli *cli)
{
    const char *kind = cli_value(cli, "kind");
    if (strcmp(cli->args[0], "new") != 0)
        return cli_fail(cli, CLI_USAGE, "\"%s\" is not new", cli->args[0]);
    if (sodium_init() < 0)
        return cli_fail(cli, CLI_FAILED, "could not get random bytes from the system");
    for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++)
        if (strcmp(kind ? kind : "standard-webhooks", makers[i].kind) == 0) {
            makers[i].print(cli);
            return CLI_OK;
        }
    return cli_fail(cli, CLI_USAGE,
                    "no secret of kind \"%s\" is made here: it is one of standard-webhooks, "
                    "hmac-body, shared-secret and ed25519; Stripe, Slack and Discord show theirs",
                    kind);
}
