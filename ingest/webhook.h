/*
 * ingest/webhook.h - the body of a webhook as events.
 */
#pragma once

/* Who sends: it decides the form of the body and where the id of a delivery is. */
enum webhook_preset {
    WEBHOOK_WARMPATH = 1, /* events in Warmpath's own form */
    WEBHOOK_STANDARD,     /* the rest: JSON, mapped */
    WEBHOOK_GITHUB,
    WEBHOOK_STRIPE,
    WEBHOOK_SLACK,
    WEBHOOK_DISCORD,
    WEBHOOK_TELEGRAM,
    WEBHOOK_SUPABASE, /* row changes */
    WEBHOOK_SEQUIN,   /* row changes */
    WEBHOOK_JSON
};

/* Columns that a row has beside the members of its body, for the fields of webhooks[].tables. */
#define WEBHOOK_COLUMN_AT "@at" /* when it was committed at the sender, else when it came in */
