/* tests/state/store_support.h - what the tests of the store share. */
#pragma once

#include "state/store.h"

/* A new empty directory's path, with a name in it that does not exist yet: "…/state". */
struct scratch {
    char dir[96];
    char state[112];
};
void scratch_make(struct scratch *s);
void scratch_remove(struct scratch *s); /* with everything in it */

extern const struct store_identity test_identity;

/* Opens the set and fails the test when it cannot. */
void must_open(const char *dir, uint32_t workers, uint64_t epoch, struct store **stores);
void close_stores(struct store **stores, uint32_t n);

/* Commits n entries "<tag>-1", "<tag>-2", ... and nothing else, or fails the test. */
void must_append(struct store *s, const char *tag, uint64_t n);
/* Builds such entries into out. */
void build_entries(struct buf *out, const char *tag, uint64_t n);
/* A page of key id with bytes that depend on (key_id, version); text lives in out. */
struct store_page build_page(struct buf *out, uint64_t key_id, uint32_t partition, uint64_t jseq,
                             size_t size);

/* Everything the store holds, as text: two stores with the same dump hold the same. */
void dump_store(struct store *s, const char *dir, struct buf *out);
/* The same without what a re-spread may change: pages and positions of all stores, by key. */
void dump_spread(struct store **stores, uint32_t n, struct buf *out);

/* Forks and runs fn(dir) in the child with the faults of spec armed; true when it was killed by one
 * of them, false when it came to its end. */
bool run_child(const char *spec, void (*fn)(const char *dir), const char *dir);
void must_be_killed(const char *spec, void (*fn)(const char *dir), const char *dir);
