/* ingest/webhook_internal.h - between the parts of ingest/webhook.h: bytes to documents
 * (webhook_body.c), documents to elements (webhook_preset.c), elements to events (webhook.c). */
#pragma once

#include "core/event.h"
#include "ingest/json_row.h"
#include "ingest/webhook.h"

#include <jansson.h>

struct webhook {
    char name[64];
    enum webhook_preset preset;
    char each[128];
    char delivery_id[128];
    const struct mapping_set *mappings;
    size_t n_tables; /* one for each mapping, in its order */
    struct json_table *tables[MAPPING_TABLES_MAX];
};

/* One webhook_decode(). */
struct webhook_reading {
    const struct webhook *webhook;
    const struct webhook_delivery *in;
    struct webhook_result *out;
    struct event_arena *arena;
    struct event *events; /* MAPPING_EVENTS_MAX of them; NULL: nothing is mapped */
    uint64_t digest;      /* of the body: ids of dead letters are made of it */
    uint32_t n_ids;       /* elements that named an id of the delivery */
    uint32_t n_without_id;
    struct buf ids; /* each with its length */
};

/* What a row is a change of, besides the row itself. */
struct webhook_source {
    struct str schema, table; /* schema.ptr NULL: any relation; table.ptr NULL: every mapping */
    int64_t commit_us;
};

/* webhook_body.c: calls document() for every document of the body, and bad() for the text that is
 * none. Where an own event is all that a text can be, event() gets it unread. The failure of any
 * ends it and is returned. */
struct webhook_sink {
    enum status (*document)(struct webhook_reading *r, json_t *document, struct error *err);
    enum status (*event)(struct webhook_reading *r, struct str text, struct error *err);
    enum status (*bad)(struct webhook_reading *r, struct str text, const char *why,
                       struct error *err);
};
MUST_CHECK enum status webhook_read_body(struct webhook_reading *r, const struct webhook_sink *sink,
                                         struct error *err);

/* webhook_preset.c: one document to its elements; a text that is an own event, or none. */
MUST_CHECK enum status webhook_document(struct webhook_reading *r, json_t *document,
                                        struct error *err);
MUST_CHECK enum status webhook_event(struct webhook_reading *r, struct str text, struct error *err);

/* webhook.c: what becomes of an element; each counts it. INVALID leaves *why: it is a dead letter
 * that the caller records. */
MUST_CHECK enum status webhook_take_row(struct webhook_reading *r, const struct json_change *c,
                                        const struct webhook_source *source, struct error *err);
MUST_CHECK enum status webhook_take_event(struct webhook_reading *r, struct str text,
                                          struct error *err);
void webhook_ignore(struct webhook_reading *r);
MUST_CHECK enum status webhook_dead_letter(struct webhook_reading *r, struct str bytes,
                                           const char *why, struct error *err);
/* The same of an element. */
MUST_CHECK enum status webhook_dead_element(struct webhook_reading *r, const json_t *element,
                                            const char *why, struct error *err);
