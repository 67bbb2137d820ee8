/* server/redis_sql.h - the queries behind the values in Redis. What a value looks like:
 * docs/REDIS.md. */
#pragma once

#include "core/buf.h"
#include "core/status.h"

/*
 * SELECT user_id, bot_name, value for users $1 and bots $2 (text arrays of one length). value is
 * NULL when Redis must not have one: no row of the key, all of them expired, or one of them
 * invalid. NUL-terminated, as the others.
 */
MUST_CHECK enum status redis_sql_users(struct buf *out);
/* The same for bots' own keys: NULL, bot_name, value for bots $1. There always is a value: it says
 * when the bot's character changed. */
MUST_CHECK enum status redis_sql_bots(struct buf *out);
/* A cursor "live" over user_id (NULL: the bot's own) and bot_name of every key that has a row which
 * has not expired. It holds the keys only, so that what is read of them later is of that moment. */
MUST_CHECK enum status redis_sql_live(struct buf *out);
/* One value: how far the processor is. NULL when it has never run. */
extern const char redis_sql_processor[];
/* SELECT bot_name, character_changed_at of all that have changed since shortly before $1, the
 * newest last. */
extern const char redis_sql_characters[];
