/*
 * ingest/webhook.h - the body of a webhook as events.
 *
 * A body is one JSON document, an array of them, or one per line (JSON Lines); a form with the
 * member `payload`, as Slack sends, is that document. Strict: no member twice, integers within 64
 * bits, at most WEBHOOK_DEPTH_MAX levels. What an element of a body becomes is the preset's:
 *
 * warmpath            an event in Warmpath's own form (event_from_json())
 * supabase, sequin    a row change; its schema and table choose the mappings, others are ignored
 * github              a row for the mappings whose relation is the X-GitHub-Event
 * all others          a row for every mapping
 *
 * An element that cannot be used becomes a dead letter; one that is understood and means nothing
 * here (another table, an ignored value) is ignored. Beside its members a row has the columns
 * "@at" (when it was committed at the sender, else when it came in), "@event" (X-GitHub-Event),
 * "@delivery" (the id of the delivery, from a header) and "@body.NAME" (a member of the document
 * around the row, where `each` leads into it).
 *
 * The id of a delivery, by which a repetition is known, is the member that the configuration
 * names; else the one that the door found in a header; else, by preset: `id` of Stripe, `event_id`
 * of Slack, `update_id` of Telegram, of Sequin metadata.idempotency_key, or the table, the row's id
 * and its commit time. Several elements have one together. Supabase has none: two equal deliveries
 * can be two changes.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"
#include "ingest/mapping.h"

#include <stdbool.h>
#include <stdint.h>

#define WEBHOOK_DEPTH_MAX    64
#define WEBHOOK_EVENTS_BYTES (128u << 20) /* of the events of one body */
#define WEBHOOK_ID_BYTES     160          /* longer ids are replaced by their digests */

/* Columns that a row has beside the members of its body. */
#define WEBHOOK_COLUMN_AT       "@at"
#define WEBHOOK_COLUMN_EVENT    "@event"
#define WEBHOOK_COLUMN_DELIVERY "@delivery"
#define WEBHOOK_COLUMN_BODY     "@body"

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

/* What a Content-Type says of a body. */
enum webhook_form {
    WEBHOOK_FORM_UNKNOWN, /* 415 */
    WEBHOOK_FORM_JSON,    /* documents: one, an array, or lines if that is what it looks like */
    WEBHOOK_FORM_LINES,   /* JSON Lines */
    WEBHOOK_FORM_URLENCODED
};
/* Empty, application/json and anything +json, text/plain, application/octet-stream, the names of
 * JSON Lines, application/x-www-form-urlencoded; parameters are not looked at. */
enum webhook_form webhook_form(struct str content_type);

struct webhook;
/* Strings are copied, tables borrowed; "" where there is none. */
struct webhook_config {
    const char *name;
    enum webhook_preset preset;
    const char *each;        /* "a.b": leads to the row, or the list of rows */
    const char *delivery_id; /* "a.b" */
    const struct mapping_set *tables;
};
MUST_CHECK enum status webhook_new(const struct webhook_config *cfg, struct webhook **ret,
                                   struct error *err);
void webhook_free(struct webhook *w); /* NULL is a no-op */
CLEANUP_FREEP(struct webhook, webhook_free);

struct webhook_delivery {
    enum webhook_form form;
    struct str body;
    struct str id;    /* from a header; ptr NULL when there is none */
    struct str event; /* X-GitHub-Event; ptr NULL when there is none */
    int64_t received_us;
};

/* Answers that a sender's protocol wants instead of 204. */
enum webhook_reply {
    WEBHOOK_REPLY_NONE,
    WEBHOOK_REPLY_CHALLENGE, /* 200, text/plain: the challenge of Slack's url_verification */
    WEBHOOK_REPLY_PONG       /* 200, application/json: {"type":1}, Discord's interactions */
};

#define WEBHOOK_EVENT_TYPES (EVENT_DEAD_LETTER + 1)
/* "message", "dead_letter", ...: a label of a metric; NULL: no such type. */
const char *webhook_event_kind(int type);

struct webhook_result {
    struct buf events; /* n_events times: varint length + event_encode() bytes */
    uint32_t n_events; /* with the dead letters */
    uint32_t n_dead;
    uint32_t n_usable;                     /* elements that became events */
    uint32_t n_ignored;                    /* elements that mean nothing here */
    uint32_t by_type[WEBHOOK_EVENT_TYPES]; /* n_events by enum event_type */
    enum webhook_reply reply;
    char challenge[257];
    char id[WEBHOOK_ID_BYTES + 1]; /* of the delivery, "" = none */
};
void webhook_result_init(struct webhook_result *r);
void webhook_result_deinit(struct webhook_result *r);

/* Nothing of the body could be used: it is kept as dead letters, and the answer is 400. */
static inline bool webhook_result_is_bad(const struct webhook_result *r)
{
    return r->n_dead > 0 && r->n_usable == 0 && r->n_ignored == 0 && r->reply == WEBHOOK_REPLY_NONE;
}

/* Any thread. LIMIT: more events than WEBHOOK_EVENTS_BYTES; NOMEM. What is wrong with the body is
 * no failure but dead letters in *ret, which was initialised. */
MUST_CHECK enum status webhook_decode(const struct webhook *w, const struct webhook_delivery *in,
                                      struct webhook_result *ret, struct error *err);
