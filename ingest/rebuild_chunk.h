/*
 * ingest/rebuild_chunk.h - the rows of a few keys, read again from the source tables.
 *
 * A chunk is about some users (each with all bots, or with one), or about some bots' own keys. It
 * takes events in any order and gives them back key by key: first the rows in order of time, as
 * they would have arrived, then what the stream has brought since, in its order. Bounded by the
 * bytes it was made with.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/event.h"

struct rebuild_chunk;

struct rebuild_chunk_config {
    bool bots;           /* names are bots, and keys are the bots' own */
    struct str only_bot; /* of users: nothing of other bots; STR_NULL = all. Borrowed */
    size_t bytes_max;
};
MUST_CHECK enum status rebuild_chunk_new(const struct rebuild_chunk_config *cfg,
                                         struct rebuild_chunk **ret, struct error *err);
void rebuild_chunk_free(struct rebuild_chunk *c);
CLEANUP_FREEP(struct rebuild_chunk, rebuild_chunk_free);

/* A user or a bot that the chunk is about; before anything else. */
MUST_CHECK enum status rebuild_chunk_name(struct rebuild_chunk *c, struct str name);
/* Whether the event changes a key that the chunk is about. */
bool rebuild_chunk_wants(const struct rebuild_chunk *c, const struct event *e);

/* The snapshot that the rows are read under: pg_current_snapshot() as text. INVALID, NOMEM. */
MUST_CHECK enum status rebuild_chunk_snapshot(struct rebuild_chunk *c, const char *text,
                                              struct error *err);
/* Whether the rows show what a committed transaction did; xid is the low half of its number. */
bool rebuild_chunk_sees(const struct rebuild_chunk *c, uint32_t xid);

/* A key that is to be rebuilt even if the source holds nothing of it. LIMIT, NOMEM. */
MUST_CHECK enum status rebuild_chunk_key(struct rebuild_chunk *c, struct str user_id,
                                         struct str bot_name);
/* A row that the chunk wants; others are ignored. LIMIT, NOMEM. */
MUST_CHECK enum status rebuild_chunk_row(struct rebuild_chunk *c, const struct event *e);
/* An event of the stream that the chunk wants. LIMIT, NOMEM. */
MUST_CHECK enum status rebuild_chunk_recorded(struct rebuild_chunk *c, const struct event *e);
/* Moves everything of `from`, which is empty afterwards, behind what c has. LIMIT, NOMEM. */
MUST_CHECK enum status rebuild_chunk_merge(struct rebuild_chunk *c, struct rebuild_chunk *from);

/* Rows taken so far, and keys once it is sorted. */
uint64_t rebuild_chunk_rows(const struct rebuild_chunk *c);
uint64_t rebuild_chunk_keys(const struct rebuild_chunk *c);

/* Puts everything in order; then rebuild_chunk_at(0), (1), ... until false. */
void rebuild_chunk_sort(struct rebuild_chunk *c);
struct rebuild_item {
    struct str user_id; /* of the key; empty: the bot's own. Borrowed from the chunk, as is event */
    struct str bot_name;
    bool first;       /* of its key */
    bool last;        /* of its key */
    struct str event; /* event_decode(); STR_NULL: the key has this item for its name alone */
};
bool rebuild_chunk_at(const struct rebuild_chunk *c, size_t index, struct rebuild_item *ret);
