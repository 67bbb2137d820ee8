/* server/redis_link_absent.c - what a build without hiredis has for redis_link.c. */
#include "server/redis_link.h"

#include <stdlib.h>

bool redis_link_built(void)
{
    return false;
}

enum status redis_link_open(const struct redis_link_config *c, struct redis_link **ret,
                            struct error *err)
{
    (void)c;
    (void)ret;
    return error_set(err, STATUS_REFUSED, "this build has no Redis layer");
}

/* There is never a connection to call the rest with. */

void redis_link_close(struct redis_link *l)
{
    if (l)
        abort();
}

const char *redis_link_run_id(const struct redis_link *l)
{
    (void)l;
    abort();
}

int64_t redis_link_id(const struct redis_link *l)
{
    (void)l;
    abort();
}

enum status redis_link_end(struct redis_link *l, int64_t id, struct error *err)
{
    (void)l;
    (void)id;
    (void)err;
    abort();
}

enum status redis_link_add(struct redis_link *l, const struct str *args, size_t n)
{
    (void)l;
    (void)args;
    (void)n;
    abort();
}

size_t redis_link_unsent(const struct redis_link *l)
{
    (void)l;
    abort();
}

enum status redis_link_exchange(struct redis_link *l, redis_answer_fn *fn, void *ctx,
                                struct error *err)
{
    (void)l;
    (void)fn;
    (void)ctx;
    (void)err;
    abort();
}

enum status redis_link_scan(struct redis_link *l, uint64_t *cursor, struct str pattern,
                            size_t count, redis_scan_fn *fn, void *ctx, struct error *err)
{
    (void)l;
    (void)cursor;
    (void)pattern;
    (void)count;
    (void)fn;
    (void)ctx;
    (void)err;
    abort();
}
