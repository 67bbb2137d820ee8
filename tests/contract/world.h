/* tests/contract/world.h - several keys fed by a script, and their rows as JSON text. */
#pragma once

#include "engines/key.h"
#include "tests/support/epochs.h"
#include "tests/support/script.h"

#include <stdbool.h>
#include <stddef.h>

#define WORLD_KEYS_MAX 16

struct world {
    struct key *keys[WORLD_KEYS_MAX]; /* in order of first appearance; the bot's own has no user */
    size_t n;
    bool learns;                     /* its one bot closes epochs from what it is taught ... */
    struct test_epochs learned;      /* ... these */
    const struct epoch_list *epochs; /* given to all keys, where it does not learn; or NULL */
};

void world_free(struct world *w);
/* The key of (user, bot), made when it is new. */
struct key *world_key(struct world *w, struct str user_id, struct str bot_name);
/* Applies e to every key it concerns, as the pipeline would. */
void world_apply(struct world *w, const struct event *e, enum source source, uint64_t ver,
                 int64_t as_of_us);
void world_step(struct world *w, const struct script_step *step);
/* The key of the user of e, or where it has none the bot's own. */
struct key *world_key_about(struct world *w, const struct event *e);

/* The row as one line of JSON without the newline, or "" when the key has none; freed by the
 * caller. */
char *world_row(struct key *k, enum table_id table, int64_t as_of_us);
/* Fails the test, and prints both, unless the rows of all tables of both worlds are equal. Keys
 * are matched by name. but: tables to leave out, as a mask of 1 << table_id. */
void world_assert_same_rows(struct world *a, struct world *b, int64_t as_of_us, uint32_t but,
                            uint64_t seed);
