/*
 * server/redis_layer.h - the thread of `run` that keeps Redis like the cache in PostgreSQL
 * (server/redis_writer.h), with redis.url. It has connections of its own; whatever happens to them,
 * nothing else waits. Trouble is logged once until it changes.
 */
#pragma once

#include "server/config.h"

#define REDIS_TROUBLE_BYTES 256

struct redis_layer;
/* *ret is NULL without redis.url. */
MUST_CHECK enum status redis_layer_start(const struct config *cfg, struct redis_layer **ret,
                                         struct error *err);
void redis_layer_stop(struct redis_layer *l); /* NULL is a no-op */
/* Why Redis is not like the cache now, "" when it is, as far as is known. Any thread. */
void redis_layer_trouble(struct redis_layer *l, char out[REDIS_TROUBLE_BYTES]);
