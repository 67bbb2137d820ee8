/*
 * server/redis_link.h - one connection to a Redis server, the only place that knows hiredis. A
 * build without hiredis has redis_link_absent.c instead, whose open() refuses.
 *
 * Every call ends at its deadline, or when the wait says stop. After any error but REFUSED the
 * connection is of no use: close it. Owned by one thread.
 *
 * Errors: IO (connection, time is up, the server is loading or a replica: try again), REFUSED (the
 * server answers with an error), END (stopped), LIMIT, NOMEM. No text holds the password or a
 * value.
 */
#pragma once

#include "core/pg.h"
#include "server/redis_address.h"

bool redis_link_built(void);

struct redis_link_config {
    struct redis_address address;
    const char *password; /* "" = none; secret: never log it */
    const char *name;     /* what CLIENT LIST shows */
    int64_t timeout_us;   /* for connecting, and for the answers to what is sent together */
    const struct pg_wait *wait;
};
struct redis_link;
MUST_CHECK enum status redis_link_open(const struct redis_link_config *c, struct redis_link **ret,
                                       struct error *err);
void redis_link_close(struct redis_link *l); /* NULL is a no-op */
/* Of the server process, anew with each start: 40 hexadecimal digits, or "" when it may not be
 * asked. */
const char *redis_link_run_id(const struct redis_link *l);
/* Of this connection, 0 when it may not be asked. */
int64_t redis_link_id(const struct redis_link *l);
/*
 * Ends an earlier connection of ours. What it has sent and the server has not read yet would
 * otherwise be done later, after what is sent now. REFUSED: that is not allowed to us.
 */
MUST_CHECK enum status redis_link_end(struct redis_link *l, int64_t id, struct error *err);

/* Appends a command to what redis_link_exchange() sends. */
MUST_CHECK enum status redis_link_add(struct redis_link *l, const struct str *args, size_t n);
size_t redis_link_unsent(const struct redis_link *l); /* bytes */

struct redis_answer {
    enum { REDIS_NOTHING, REDIS_TEXT, REDIS_NUMBER, REDIS_ERROR, REDIS_LIST } kind;
    struct str text;
    int64_t number;
};
typedef void redis_answer_fn(void *ctx, size_t i, const struct redis_answer *a);
/* Sends what was added, and gives the answers in order, errors too. */
MUST_CHECK enum status redis_link_exchange(struct redis_link *l, redis_answer_fn *fn, void *ctx,
                                           struct error *err);

/* One step of SCAN: the keys that a glob pattern matches, some of them perhaps twice. cursor is 0
 * at first, and again after the last step. */
typedef enum status redis_scan_fn(void *ctx, struct str key);
MUST_CHECK enum status redis_link_scan(struct redis_link *l, uint64_t *cursor, struct str pattern,
                                       size_t count, redis_scan_fn *fn, void *ctx,
                                       struct error *err);
