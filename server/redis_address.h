/* server/redis_address.h - redis.url: where a Redis server is. */
#pragma once

#include "core/status.h"

#define REDIS_PATH_BYTES 108 /* of sockaddr_un */

struct redis_address {
    char host[256]; /* name, or address without brackets; "" = path is meant */
    char path[REDIS_PATH_BYTES];
    char user[128]; /* "" = the default user */
    int port;
    int database;
};
/*
 * redis://[USER@]HOST[:PORT][/DB] or unix:///PATH. INVALID: the text continues a sentence about the
 * URL ("is not ..."), and does not quote it, as somebody may have put a password into it.
 */
MUST_CHECK enum status redis_address_parse(const char *url, struct redis_address *ret,
                                           struct error *err);
