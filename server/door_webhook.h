/*
 * server/door_webhook.h - the route POST /webhooks/NAME (docs/HTTP.md, "Webhooks").
 *
 * The order of what is looked at: the form of the body by its Content-Type, the signature over the
 * bytes as they came, the rate of the source, the events. An endpoint that does not exist is
 * answered like one whose signature is wrong, after as much work. The answer is given when the
 * events and the id of the delivery are committed to the inbox.
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"
#include "server/config_door.h"
#include "server/http.h"

struct door_webhook;
struct inbox;

struct door_webhook_config {
    const struct config_webhook *webhooks; /* n of them; their tables are borrowed */
    size_t n;
    int64_t body_max;
    struct inbox *inbox; /* borrowed, as is clock */
    const struct clock *clock;
};
/* INVALID: a secret or a mapping, with the name of the webhook. */
MUST_CHECK enum status door_webhook_new(const struct door_webhook_config *cfg,
                                        struct door_webhook **ret, struct error *err);
/* Not before the listener is stopped and the inbox is closed. NULL is a no-op. */
void door_webhook_free(struct door_webhook *w);
CLEANUP_FREEP(struct door_webhook, door_webhook_free);
/* Other secrets and other rates of the same webhooks, nobody for those that are not there any more;
 * on failure all stay as they were. */
MUST_CHECK enum status door_webhook_reload(struct door_webhook *w,
                                           const struct config_webhook *webhooks, size_t n,
                                           struct error *err);
struct http_route door_webhook_route(struct door_webhook *w);
