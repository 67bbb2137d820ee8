#include "server/redis_keys.h"

#include "core/cleanup.h"
#include "core/hash.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS ((size_t)1 << 14)

/* ---- names ---- */

enum status redis_key_print(const struct redis_owner *o, struct buf *out)
{
    if (o->bot.len == 0 || memchr(o->bot.ptr, ':', o->bot.len) || (o->user.ptr && !o->user.len))
        return STATUS_INVALID;
    size_t before = out->len;
    enum status st = buf_append_str(out, o->user.ptr ? STR("user:") : STR("bot:"));
    if (!st)
        st = buf_append_str(out, o->bot);
    if (!st && o->user.ptr)
        st = buf_append_str(out, STR(":"));
    if (!st && o->user.ptr)
        st = buf_append_str(out, o->user);
    if (st)
        out->len = before;
    return st;
}

static bool starts_with(struct str s, struct str prefix)
{
    return s.len > prefix.len && memcmp(s.ptr, prefix.ptr, prefix.len) == 0;
}

bool redis_key_parse(struct str key, struct redis_owner *ret)
{
    if (starts_with(key, STR("bot:"))) {
        *ret = (struct redis_owner){STR_NULL, {key.ptr + 4, key.len - 4}};
        return !memchr(ret->bot.ptr, ':', ret->bot.len);
    }
    if (!starts_with(key, STR("user:")))
        return false;
    const char *bot = key.ptr + 5;
    const char *colon = memchr(bot, ':', key.len - 5);
    if (!colon || colon == bot || colon + 1 == key.ptr + key.len)
        return false;
    *ret = (struct redis_owner){
        .user = {colon + 1, (size_t)(key.ptr + key.len - colon) - 1},
        .bot = {bot, (size_t)(colon - bot)},
    };
    return true;
}

/* ---- the set ---- */

void redis_keys_init(struct redis_keys *k, size_t max)
{
    *k = (struct redis_keys){.max = max};
}

void redis_keys_clear(struct redis_keys *k)
{
    for (struct redis_key *key = redis_keys_take(k); key; key = redis_keys_take(k))
        free(key);
}

void redis_keys_deinit(struct redis_keys *k)
{
    redis_keys_clear(k);
    free(TAKE(k->buckets));
}

static struct redis_key **bucket_of(const struct redis_keys *k, uint64_t hash)
{
    return &k->buckets[hash & (BUCKETS - 1)];
}

enum status redis_keys_add(struct redis_keys *k, struct str text)
{
    if (!k->buckets)
        k->buckets = calloc(BUCKETS, sizeof(struct redis_key *));
    if (!k->buckets)
        return STATUS_NOMEM;
    uint64_t hash = hash64(text);
    struct redis_key **bucket = bucket_of(k, hash);
    for (const struct redis_key *key = *bucket; key; key = key->chain)
        if (key->hash == hash && str_equal((struct str){key->text, key->len}, text))
            return STATUS_OK;
    if (k->n == k->max)
        return STATUS_LIMIT;
    struct redis_key *key = malloc(sizeof(*key) + text.len);
    if (!key)
        return STATUS_NOMEM;
    *key = (struct redis_key){.chain = *bucket, .hash = hash, .len = text.len};
    memcpy(key->text, text.ptr, text.len);
    *bucket = key;
    *(k->newest ? &k->newest->next : &k->oldest) = key;
    k->newest = key;
    k->n++;
    return STATUS_OK;
}

struct redis_key *redis_keys_take(struct redis_keys *k)
{
    struct redis_key *key = k->oldest;
    if (!key)
        return NULL;
    struct redis_key **at = bucket_of(k, key->hash);
    while (*at != key)
        at = &(*at)->chain;
    *at = key->chain;
    k->oldest = key->next;
    if (!k->oldest)
        k->newest = NULL;
    k->n--;
    key->next = key->chain = NULL;
    return key;
}
