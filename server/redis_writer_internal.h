/* server/redis_writer_internal.h - what the parts of the writer share. */
#pragma once

#include "core/pg_array.h"
#include "server/redis_writer.h"

#define REDIS_VALUE_BYTES ((size_t)8 << 20) /* an array of a query, a name in Redis */
#define REDIS_ANSWER_US   (10 * US_PER_SECOND)

/* Adds to the set. Beyond its bound the set forgets, and a sync finds everything. */
MUST_CHECK enum status redis_add_key(struct redis_writer *w, struct str key);
/* The same by owner, with the key of the bot, as a user's value means something only beside it. A
 * key that has no name here is none of ours. */
MUST_CHECK enum status redis_add_owner(struct redis_writer *w, const struct redis_owner *o);
/* Appends the prefix and name. */
MUST_CHECK enum status redis_full_name(const struct redis_writer *w, struct str name,
                                       struct buf *out);

/* One statement; a failure closes the connection to PostgreSQL. */
MUST_CHECK enum status redis_ask(struct redis_writer *w, const char *sql, int n,
                                 const char *const *params, PGresult **ret, struct error *err);
MUST_CHECK enum status redis_ask_within(struct redis_writer *w, int64_t timeout_us, const char *sql,
                                        int n, const char *const *params, PGresult **ret,
                                        struct error *err);
/* STR_NULL for NULL; borrowed from res. */
struct str redis_cell(const PGresult *res, int row, int column);

/* What is under way when a connection goes is not done. */
void redis_drop_pg(struct redis_writer *w);
void redis_drop_link(struct redis_writer *w);
