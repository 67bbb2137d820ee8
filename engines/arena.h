/*
 * engines/arena.h - the label tokens and trait names of one key: each distinct string once, counted
 * by reference.
 *
 * References are slot numbers + 1 and stay valid while somebody holds one; at the last release the
 * bytes are overwritten (erased text must not linger). Their values depend on history: whatever is
 * durable or compared must go through the strings.
 */
#pragma once

#include "core/buf.h"
#include "engines/record.h"

/* Every record of a key holding strings of its own. */
#define ARENA_SLOTS_MAX \
    ((RECORD_LABELS + LIMIT_TRAITS) * (LIMIT_MESSAGES + LIMIT_MESSAGES / 4) + 3 * LIMIT_MEMORIES)
#define ARENA_STRING_BYTES RECORD_TRAIT_BYTES

struct arena_slot {
    uint32_t offset; /* of the bytes in text */
    uint16_t refs;   /* 0: free */
    uint16_t next;   /* of the same bucket, or of the free list; slot + 1, 0 ends */
    uint16_t tag;    /* other bits of the hash: most strings differ here already */
    uint8_t len;
};

struct arena {
    struct arena_slot *slots;
    uint16_t *buckets; /* first slot + 1 of each chain */
    char *text;
    uint32_t n_slots;
    uint32_t cap_slots;
    uint32_t n_used; /* slots with refs */
    uint32_t n_buckets;
    uint32_t text_len;
    uint32_t text_cap;
    uint32_t text_dead; /* bytes of freed strings, until text is packed */
    uint16_t free_slot;
};

void arena_deinit(struct arena *a);
/* Finds or adds s (1..ARENA_STRING_BYTES) and takes one reference. NOMEM leaves all as it was. */
MUST_CHECK enum status arena_intern(struct arena *a, struct str s, label_ref *ret);
void arena_retain(struct arena *a, label_ref ref);  /* 0 is a no-op */
void arena_release(struct arena *a, label_ref ref); /* 0 is a no-op */
struct str arena_get(const struct arena *a, label_ref ref);
size_t arena_bytes(const struct arena *a);
