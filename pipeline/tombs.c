#include "pipeline/tombs.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CAP_MIN 64

void tombs_deinit(struct tombs *t)
{
    free(t->slots);
    *t = (struct tombs){0};
}

static struct tomb *slot_of(const struct tombs *t, const unsigned char digest[STORE_DIGEST_BYTES])
{
    uint64_t hash = 0;
    memcpy(&hash, digest, sizeof(hash)); /* SipHash: any part of it is as good as the whole */
    size_t i = (size_t)hash & (t->cap - 1);
    while (t->slots[i].erased_us && memcmp(t->slots[i].digest, digest, STORE_DIGEST_BYTES) != 0)
        i = (i + 1) & (t->cap - 1);
    return &t->slots[i];
}

const struct tomb *tombs_find(const struct tombs *t, const unsigned char digest[STORE_DIGEST_BYTES])
{
    const struct tomb *slot = t->n ? slot_of(t, digest) : NULL;
    return slot && slot->erased_us ? slot : NULL;
}

enum status tombs_add(struct tombs *t, const struct tomb *tomb)
{
    assert(tomb->erased_us != 0);
    if (2 * (t->n + 1) > t->cap) {
        struct tombs bigger = {.cap = t->cap ? 2 * t->cap : CAP_MIN, .n = t->n};
        bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
        if (!bigger.slots)
            return STATUS_NOMEM;
        for (size_t i = 0; i < t->cap; i++)
            if (t->slots[i].erased_us)
                *slot_of(&bigger, t->slots[i].digest) = t->slots[i];
        free(t->slots);
        *t = bigger;
    }
    struct tomb *slot = slot_of(t, tomb->digest);
    if (!slot->erased_us) {
        *slot = *tomb;
        t->n++;
        return STATUS_OK;
    }
    if (tomb->erased_us > slot->erased_us)
        slot->erased_us = tomb->erased_us;
    if (tomb->token_us > slot->token_us)
        slot->token_us = tomb->token_us;
    if (tomb->native_us > slot->native_us)
        slot->native_us = tomb->native_us;
    return STATUS_OK;
}
