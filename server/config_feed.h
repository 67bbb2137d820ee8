/*
 * server/config_feed.h - the part of the configuration that is about the invalidation feed.
 * Members as in server/config_door.h.
 */
#pragma once

#include "server/config_door.h"

#define CONFIG_FEED_WEBHOOKS_MAX 16

/* A destination: every announcement is sent there. */
struct config_feed_webhook {
    char name[CONFIG_SOURCE_BYTES];
    char url[CONFIG_URL_BYTES];
    bool insecure_plain;
    size_t n_secrets;
    struct config_secret secrets[CONFIG_SECRETS_MAX];
    int64_t timeout_us;
    int64_t give_up_us;
    char bots[512];   /* normalised, separated by commas; "" = all */
    char tables[512]; /* separated by commas; "" = all */
};

struct config_feed {
    char pub[256];   /* URL of nng; "" = none */
    int64_t history; /* announcements that /api/v1/feed can give again */
    int64_t queue;   /* announcements that may wait for one destination */
    size_t n_webhooks;
    struct config_feed_webhook *webhooks; /* owned */
};
