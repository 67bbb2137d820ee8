#include "core/event_names.h"

#include "core/event.h"

#include <string.h>

#define WORDS(array)                                       \
    {                                                      \
        (array), (int)(sizeof(array) / sizeof((array)[0])) \
    }

static const char *const role[] = {[ROLE_USER] = "user", [ROLE_BOT] = "bot"};
static const char *const memory[] = {
    [MEMORY_CREATE] = "create",
    [MEMORY_ACCESS] = "access",
    [MEMORY_DELETE] = "delete",
    [MEMORY_PIN] = "pin",
};
static const char *const outcome[] = {[OUTCOME_HIT] = "hit", [OUTCOME_MISS] = "miss"};
static const char *const outreach[] = {
    [OUTREACH_SENT] = "sent",
    [OUTREACH_REPLIED] = "replied",
    [OUTREACH_OPTED_OUT] = "opted_out",
};
static const char *const privacy[] = {
    [PRIVACY_ERASE] = "erase",
    [PRIVACY_OPTOUT] = "optout",
    [PRIVACY_OPTIN] = "optin",
};
static const char *const request[] = {
    [REQUEST_INVALIDATE] = "invalidate",
    [REQUEST_RECOMPUTE] = "recompute",
    [REQUEST_TOUCH] = "touch",
};

const struct event_words words_role = WORDS(role);
const struct event_words words_memory_op = WORDS(memory);
const struct event_words words_outcome = WORDS(outcome);
const struct event_words words_outreach_op = WORDS(outreach);
const struct event_words words_privacy_op = WORDS(privacy);
const struct event_words words_request_op = WORDS(request);

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_length(size_t n_bytes)
{
    return (n_bytes + 2) / 3 * 4;
}

void base64_encode(const unsigned char *bytes, size_t len, char *out)
{
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        unsigned group = (unsigned)bytes[i] << 16;
        if (n > 1)
            group |= (unsigned)bytes[i + 1] << 8;
        if (n > 2)
            group |= bytes[i + 2];
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = (char)(n > 1 ? alphabet[group >> 6 & 63] : '=');
        *out++ = (char)(n > 2 ? alphabet[group & 63] : '=');
    }
}

long base64_decode(const char *text, size_t len, unsigned char *out)
{
    if (len % 4 != 0)
        return -1;
    size_t padding = 0;
    while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
        padding++;
    unsigned group = 0;
    for (size_t i = 0; i < len; i++) {
        const char *c = i < len - padding ? strchr(alphabet, text[i]) : alphabet;
        if (!c || !*c)
            return -1;
        group = group << 6 | (unsigned)(c - alphabet);
        if (i % 4 != 3)
            continue;
        out[0] = (unsigned char)(group >> 16);
        out[1] = (unsigned char)(group >> 8);
        out[2] = (unsigned char)group;
        out += 3;
        group = 0;
    }
    return (long)(len / 4 * 3 - padding);
}
