#include "engines/arena.h"

#include "core/hash.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ARENA_SLOTS_MAX < UINT16_MAX, "slot numbers are 16 bits");
_Static_assert(RECORD_LABEL_BYTES <= ARENA_STRING_BYTES, "a label is shorter than a trait");

void arena_deinit(struct arena *a)
{
    free(a->slots);
    free(a->buckets);
    free(a->text);
    *a = (struct arena){0};
}

size_t arena_bytes(const struct arena *a)
{
    return a->cap_slots * sizeof(*a->slots) + a->n_buckets * sizeof(*a->buckets) + a->text_cap;
}

struct str arena_get(const struct arena *a, label_ref ref)
{
    if (ref == 0)
        return STR_NULL;
    assert(ref <= a->n_slots);
    const struct arena_slot *slot = &a->slots[ref - 1];
    return (struct str){a->text + slot->offset, slot->len};
}

static uint16_t *bucket_of(const struct arena *a, uint64_t hash)
{
    return &a->buckets[hash & (a->n_buckets - 1)];
}

static uint16_t tag_of(uint64_t hash)
{
    return (uint16_t)(hash >> 48);
}

static enum status grow_buckets(struct arena *a)
{
    uint32_t n = a->n_buckets ? a->n_buckets * 2 : 16;
    uint16_t *buckets = calloc(n, sizeof(*buckets));
    if (!buckets)
        return STATUS_NOMEM;
    free(a->buckets);
    a->buckets = buckets;
    a->n_buckets = n;
    for (uint32_t i = 0; i < a->n_slots; i++) {
        if (a->slots[i].refs == 0)
            continue;
        uint16_t *first = bucket_of(a, hash64(arena_get(a, (label_ref)(i + 1))));
        a->slots[i].next = *first;
        *first = (uint16_t)(i + 1);
    }
    return STATUS_OK;
}

static enum status grow_slots(struct arena *a)
{
    uint32_t cap = a->cap_slots ? a->cap_slots + a->cap_slots / 2 : 8;
    struct arena_slot *slots = realloc(a->slots, cap * sizeof(*slots));
    if (!slots)
        return STATUS_NOMEM;
    a->slots = slots;
    a->cap_slots = cap;
    return STATUS_OK;
}

/* Moves the living strings together into room for `more` bytes. */
static enum status pack_text(struct arena *a, uint32_t more)
{
    uint32_t live = a->text_len - a->text_dead;
    uint32_t cap = live + live / 2 + more + 32;
    char *text = malloc(cap);
    if (!text)
        return STATUS_NOMEM;
    uint32_t len = 0;
    for (uint32_t i = 0; i < a->n_slots; i++) {
        struct arena_slot *slot = &a->slots[i];
        if (slot->refs == 0)
            continue;
        memcpy(text + len, a->text + slot->offset, slot->len);
        slot->offset = len;
        len += slot->len;
    }
    assert(len == live);
    if (a->text_len)
        explicit_bzero(a->text, a->text_len);
    free(a->text);
    a->text = text;
    a->text_len = len;
    a->text_cap = cap;
    a->text_dead = 0;
    return STATUS_OK;
}

enum status arena_intern(struct arena *a, struct str s, label_ref *ret)
{
    assert(s.len > 0 && s.len <= ARENA_STRING_BYTES);
    enum status st = STATUS_OK;
    if (a->n_used >= a->n_buckets)
        st = grow_buckets(a);
    if (st)
        return st;
    uint64_t hash = hash64(s);
    for (label_ref ref = *bucket_of(a, hash); ref; ref = a->slots[ref - 1].next)
        if (a->slots[ref - 1].tag == tag_of(hash) && str_equal(arena_get(a, ref), s)) {
            assert(a->slots[ref - 1].refs < UINT16_MAX);
            a->slots[ref - 1].refs++;
            *ret = ref;
            return STATUS_OK;
        }
    if (!a->free_slot && a->n_slots == a->cap_slots)
        st = grow_slots(a);
    if (!st && a->text_cap - a->text_len < s.len)
        st = pack_text(a, (uint32_t)s.len);
    if (st)
        return st;
    uint32_t number = a->free_slot ? a->free_slot : ++a->n_slots;
    assert(number <= ARENA_SLOTS_MAX);
    struct arena_slot *slot = &a->slots[number - 1];
    if (a->free_slot)
        a->free_slot = slot->next;
    uint16_t *first = bucket_of(a, hash);
    *slot = (struct arena_slot){.offset = a->text_len,
                                .refs = 1,
                                .next = *first,
                                .tag = tag_of(hash),
                                .len = (uint8_t)s.len};
    *first = (uint16_t)number;
    memcpy(a->text + a->text_len, s.ptr, s.len);
    a->text_len += (uint32_t)s.len;
    a->n_used++;
    *ret = (label_ref)number;
    return STATUS_OK;
}

void arena_retain(struct arena *a, label_ref ref)
{
    if (ref == 0)
        return;
    assert(ref <= a->n_slots && a->slots[ref - 1].refs > 0);
    assert(a->slots[ref - 1].refs < UINT16_MAX);
    a->slots[ref - 1].refs++;
}

void arena_release(struct arena *a, label_ref ref)
{
    if (ref == 0)
        return;
    assert(ref <= a->n_slots && a->slots[ref - 1].refs > 0);
    struct arena_slot *slot = &a->slots[ref - 1];
    if (--slot->refs > 0)
        return;
    uint16_t *link = bucket_of(a, hash64(arena_get(a, ref)));
    while (*link != ref) {
        assert(*link);
        link = &a->slots[*link - 1].next;
    }
    *link = slot->next;
    explicit_bzero(a->text + slot->offset, slot->len);
    a->text_dead += slot->len;
    a->n_used--;
    slot->next = a->free_slot;
    a->free_slot = (uint16_t)ref;
}
