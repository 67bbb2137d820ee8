/*
 * server/door_access.h - what the routes share of letting requests in: those that were not are
 * counted, and said to the operator alone.
 */
#pragma once

#include "ingest/signature.h"
#include "server/http.h"

#include <pthread.h>

#define DOOR_UNKNOWN "unknown" /* the source of requests to endpoints that are not configured */

/* The log gets at most one line in ten seconds of all such requests, and one of those to endpoints
 * that are not configured: a stranger must neither fill it nor hide others in it. Any thread. */
void door_note_refused(const char *source, enum signature_reason reason, struct http_request *q,
                       int64_t now_us);

/* For what every request reads and SIGHUP replaces: requests without end do not keep it waiting. */
void door_lock_init(pthread_rwlock_t *lock);
