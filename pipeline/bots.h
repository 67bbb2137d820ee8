/*
 * pipeline/bots.h - the bots whose keys a worker holds: their closed epochs, which the keys borrow,
 * and what the worker's keys have taught on the running day.
 */
#pragma once

#include "core/buf.h"
#include "engines/epoch.h"
#include "state/sink.h"

#include <stdbool.h>
#include <stddef.h>

struct held_bot {
    struct str name; /* owned */
    uint64_t hash;
    size_t n_keys; /* that borrow epochs */
    struct epoch_list epochs;
    struct epoch_sums *sums;         /* of the running day; NULL: nothing was learned */
    uint64_t stored_jseq;            /* what entries up to here taught is in the stored part */
    bool dirty;                      /* sums says more than the stored part */
    bool listed;                     /* its part goes with the commit being built */
    size_t bytes;                    /* last measured size, counted in the map's total */
    struct sink_character character; /* as last broadcast, since the bot is held */
    struct held_bot *next;
};

struct botmap {
    struct held_bot **buckets;
    size_t n_buckets; /* a power of two */
    size_t n;
    size_t bytes; /* sum of held_bot.bytes */
};

MUST_CHECK enum status botmap_init(struct botmap *m);
void botmap_deinit(struct botmap *m); /* frees the bots */
struct held_bot *botmap_find(const struct botmap *m, struct str name);
/* A bot without epochs and sums. NOMEM. */
MUST_CHECK enum status botmap_add(struct botmap *m, struct str name, struct held_bot **ret);
void botmap_remove(struct botmap *m, struct held_bot *bot); /* frees it; no key may borrow */
void botmap_measure(struct botmap *m, struct held_bot *bot);
/* For all bots: `for (b = botmap_next(m, NULL); b; b = botmap_next(m, b))`. Adding ends the walk.
 */
struct held_bot *botmap_next(const struct botmap *m, const struct held_bot *after);
