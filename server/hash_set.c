#include "server/hash_set.h"

#include <stdlib.h>

void hash_set_deinit(struct hash_set *set)
{
    free(set->items);
    *set = (struct hash_set){0};
}

enum status hash_set_add(struct hash_set *set, uint64_t hash, struct error *err)
{
    if (set->n == set->cap) {
        size_t cap = set->cap ? 2 * set->cap : 1024;
        uint64_t *grown = reallocarray(set->items, cap, sizeof(*grown));
        if (!grown)
            return error_set(err, STATUS_NOMEM, "could not allocate %zu keys", cap);
        set->items = grown;
        set->cap = cap;
    }
    set->items[set->n++] = hash;
    set->sorted = false;
    return STATUS_OK;
}

static int compare_hashes(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

bool hash_set_has(struct hash_set *set, uint64_t hash)
{
    if (!set->n)
        return false;
    if (!set->sorted)
        qsort(set->items, set->n, sizeof(*set->items), compare_hashes);
    set->sorted = true;
    return bsearch(&hash, set->items, set->n, sizeof(*set->items), compare_hashes) != NULL;
}
