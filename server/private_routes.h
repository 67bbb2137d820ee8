/*
 * server/private_routes.h - what the private listener answers: /livez, /healthz (the same),
 * /readyz, /metrics.
 *
 * /livez asks whether the supervisor still runs, nothing else: a database that is away must not
 * get the process restarted. /readyz asks whether rows are fresh. `?verbose` names every check.
 * Both are plain text as Kubernetes writes it. Nothing is asked of who asks: the listener is bound
 * to loopback or to a unix socket.
 */
#pragma once

#include "server/http.h"
#include "server/private_board.h"

#define PRIVATE_ROUTES 4
/* The routes; b must outlive the listener. */
void private_routes(struct private_board *b, struct http_route out[PRIVATE_ROUTES]);
