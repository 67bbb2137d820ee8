/*
 * server/config_door.h - the part of the configuration that is about what comes in by HTTP, and
 * about what is pulled from other servers: http, inbox, webhooks, influx, qdrant.
 *
 * Members whose names end in _us are microseconds; sizes are bytes; rates are requests per second,
 * 0 = unlimited. Texts are "" when they were not given.
 */
#pragma once

#include "ingest/mapping.h"
#include "ingest/signature.h"
#include "ingest/webhook.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_WEBHOOKS_MAX 32
#define CONFIG_SECRETS_MAX  SIGNATURE_SECRETS_MAX /* of one endpoint */
#define CONFIG_QDRANT_MAX   8
#define CONFIG_SOURCE_BYTES 64 /* a name of an inbox source, [a-z0-9_-]{1,63}, with its NUL */
#define CONFIG_URL_BYTES    512
#define CONFIG_SECRET_BYTES 1024

struct config_http {
    char listen[256];          /* "" = no public listener */
    char private_listen[256];  /* "" = none */
    bool behind_proxy;         /* a proxy in front ends TLS */
    char trusted_proxies[512]; /* addresses and networks, separated by commas */
    bool insecure_plain;
    char tls_cert[512], tls_key[512]; /* PEM files */
    int64_t connections;
    int64_t connections_per_address;
    int64_t threads;
    int64_t header_timeout_us;
    int64_t body_timeout_us;
    int64_t idle_timeout_us;
    int64_t answer_timeout_us;
    int64_t max_headers;
    int64_t max_body;
    int64_t max_write_body;
    int64_t rate_per_address;
};

struct config_inbox {
    int64_t commit_delay_us;
    int64_t keep_ids_us;
    int64_t max_size;
};

struct config_secret {
    char id[CONFIG_SOURCE_BYTES];    /* for the log and the metrics; "1", "2", ... when not given */
    char value[CONFIG_SECRET_BYTES]; /* never log it */
    int64_t not_after_us;            /* wall clock; 0 = for ever */
};

struct config_webhook {
    char name[CONFIG_SOURCE_BYTES];
    enum webhook_preset preset;
    enum signature_kind verify;
    char header[64]; /* SIGNATURE_SHARED_SECRET: the header it is in */
    size_t n_secrets;
    struct config_secret secrets[CONFIG_SECRETS_MAX];
    bool insecure_no_secret;
    int64_t rate;
    char delivery_id[128];      /* path into the body; "" = as the preset says */
    char each[128];             /* path to the rows; "" = the body is the row, or a list of them */
    struct mapping_set *tables; /* owned */
};

struct config_catch_up {
    char url[CONFIG_URL_BYTES]; /* "" = none */
    char database[128];
    char user[128];
    char password[CONFIG_SECRET_BYTES]; /* never log it */
    int64_t interval_us;
    int64_t overlap_us;
    int64_t rescan_us;
    int64_t rescan_window_us;
    char measurements[512]; /* separated by commas; "" = all that are known */
};

struct config_influx {
    char name[CONFIG_SOURCE_BYTES];
    size_t n_secrets;
    struct config_secret secrets[CONFIG_SECRETS_MAX];
    bool insecure_no_secret;
    int64_t rate;
    struct config_catch_up catch_up;
};

enum config_qdrant_mode { QDRANT_AUTO, QDRANT_ORDER_BY, QDRANT_SCROLL };

struct config_qdrant {
    char name[CONFIG_SOURCE_BYTES];
    char url[CONFIG_URL_BYTES];
    char api_key[CONFIG_SECRET_BYTES]; /* never log it */
    char collection[128];
    char bot_name[LIMIT_ID_BYTES + 1];
    enum config_qdrant_mode mode;
    int64_t interval_us;
    int64_t overlap_us;
    int64_t sweep_us; /* between two looks for what was deleted */
    int64_t page;     /* points per request */
};

/* Does the line protocol endpoint exist: with a secret, or without one by explicit wish. */
static inline bool config_influx_is_open(const struct config_influx *i)
{
    return i->n_secrets > 0 || i->insecure_no_secret;
}
