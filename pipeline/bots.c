#include "pipeline/bots.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/hash.h"

#define BUCKETS_MIN 64

enum status botmap_init(struct botmap *m)
{
    *m = (struct botmap){.n_buckets = BUCKETS_MIN};
    m->buckets = calloc(BUCKETS_MIN, sizeof(struct held_bot *));
    return m->buckets ? STATUS_OK : STATUS_NOMEM;
}

static void free_bot(struct held_bot *bot)
{
    epoch_list_deinit(&bot->epochs);
    free(bot->sums);
    free(bot);
}

void botmap_deinit(struct botmap *m)
{
    struct held_bot *next = NULL;
    for (size_t i = 0; m->buckets && i < m->n_buckets; i++)
        for (struct held_bot *b = m->buckets[i]; b; b = next) {
            next = b->next;
            free_bot(b);
        }
    free(m->buckets);
    *m = (struct botmap){0};
}

struct held_bot *botmap_find(const struct botmap *m, struct str name)
{
    uint64_t hash = hash64(name);
    struct held_bot *b = m->buckets[hash & (m->n_buckets - 1)];
    while (b && (b->hash != hash || !str_equal(b->name, name)))
        b = b->next;
    return b;
}

static void grow(struct botmap *m)
{
    size_t n = m->n_buckets * 2;
    struct held_bot **buckets = calloc(n, sizeof(struct held_bot *));
    if (!buckets)
        return; /* longer chains, no more */
    struct held_bot *next = NULL;
    for (size_t i = 0; i < m->n_buckets; i++)
        for (struct held_bot *b = m->buckets[i]; b; b = next) {
            next = b->next;
            b->next = buckets[b->hash & (n - 1)];
            buckets[b->hash & (n - 1)] = b;
        }
    free(m->buckets);
    m->buckets = buckets;
    m->n_buckets = n;
}

enum status botmap_add(struct botmap *m, struct str name, struct held_bot **ret)
{
    assert(!botmap_find(m, name));
    if (m->n >= m->n_buckets)
        grow(m);
    struct held_bot *b = calloc(1, sizeof(*b) + name.len);
    if (!b)
        return STATUS_NOMEM;
    char *copy = (char *)(b + 1);
    if (name.len)
        memcpy(copy, name.ptr, name.len);
    b->name = (struct str){copy, name.len};
    b->hash = hash64(name);
    struct held_bot **slot = &m->buckets[b->hash & (m->n_buckets - 1)];
    b->next = *slot;
    *slot = b;
    m->n++;
    botmap_measure(m, b);
    *ret = b;
    return STATUS_OK;
}

void botmap_remove(struct botmap *m, struct held_bot *bot)
{
    assert(bot->n_keys == 0);
    struct held_bot **slot = &m->buckets[bot->hash & (m->n_buckets - 1)];
    while (*slot != bot)
        slot = &(*slot)->next;
    *slot = bot->next;
    m->n--;
    m->bytes -= bot->bytes;
    free_bot(bot);
}

void botmap_measure(struct botmap *m, struct held_bot *bot)
{
    size_t now = sizeof(*bot) + bot->name.len + epoch_list_bytes(&bot->epochs) +
                 (bot->sums ? sizeof(*bot->sums) : 0);
    m->bytes = m->bytes - bot->bytes + now;
    bot->bytes = now;
}

struct held_bot *botmap_next(const struct botmap *m, const struct held_bot *after)
{
    if (after && after->next)
        return after->next;
    size_t i = after ? (after->hash & (m->n_buckets - 1)) + 1 : 0;
    while (i < m->n_buckets && !m->buckets[i])
        i++;
    return i < m->n_buckets ? m->buckets[i] : NULL;
}
