/*
 * engines/feature.h - what the log needs to know of one event: text becomes features here, once.
 *
 * A feature is what the journal keeps: applying the same features in the same order rebuilds the
 * same state, so its encoding is durable (FEATURE_FORMAT) and independent of the text it came from.
 */
#pragma once

#include "core/event.h"
#include "engines/epoch.h"
#include "engines/feature_metric.h"
#include "engines/record.h"
#include "engines/text.h"

#define FEATURE_FORMAT 2

struct feature {
    enum event_type type;   /* one that feature_wanted() */
    uint8_t op;             /* enum message_op, memory_op, outreach_op or privacy_op */
    uint8_t source;         /* enum source */
    bool content_unchanged; /* UPDATE without the text: keep the text features of the live record */
    uint64_t ver;           /* position.lsn of the change */
    uint64_t id;            /* hash64 of the event's id */
    int64_t t_us;
    uint8_t n_labels;
    struct str labels[RECORD_LABELS]; /* borrowed: from the event's text or the decoded bytes */
    uint8_t n_traits;
    struct str traits[LIMIT_TRAITS]; /* distinct names, borrowed likewise */
    struct embedding embedding;      /* of a message; model 0: none */
    union {
        /* labels[] and traits.name[] unset: the key interns them; traits.weight[] is set. */
        struct msg_rec message;
        struct {
            uint64_t memory;
            struct str name; /* memory_id, cut to LIMIT_LABEL_BYTES */
            struct str type;
            uint32_t score;
            uint32_t importance;
            uint8_t grade;
            uint8_t has_signal;
            uint8_t n_vector;
            uint32_t norm2;
            struct vector_entry vector[RECORD_VECTOR];
        } memory;
        struct {
            uint8_t scopes; /* 1 << enum consent_scope; 0: one that nobody knows */
        } privacy;
        struct metric_feature metric;
        struct character_feature character;
    } u;
    char label_text[RECORD_LABELS][RECORD_LABEL_BYTES]; /* backing for labels[] after extraction */
    /* What the text of a message teaches (text.h). Not part of the encoding: the journal keeps it
     * beside the feature (pipeline/entry.h). */
    uint8_t n_df;
    uint16_t df[TEXT_DF];
};

/*
 * Bytes: format << 4 | type, a byte of op, source and content_unchanged, ver and time as varints,
 * id; then the body by type. About 135 bytes for a user message of 120 characters.
 *
 * MEMORY: ENGINES.md A2 decides the grade (grade, else outcome hit = 3, miss = 1, else 3).
 * Embeddings are kept beside the vector of the text (mode L), which labels and topics come from.
 * Traits of bot messages: of the first LIMIT_TRAITS, names are cut to RECORD_TRAIT_BYTES; weights
 * are bounded to 1, rounded to 1/RECORD_TRAIT_WEIGHT, and a weight of 0 or less is no trait; a name
 * that comes twice counts once, with its largest weight.
 */

/* True for the event types that features exist for. */
bool feature_wanted(enum event_type type);
/* A metric of a measurement that nobody knows: counted, never applied. */
bool feature_ignored(const struct event *e);
/* The feature of a message as the bot's own key takes it: ids of different users must not meet
 * there, and it has taught the bot already. No change for metrics and characters. */
void feature_for_bot(struct feature *f, struct str user_id);
/* Whether a record with such an id, or such a feature, is the user's; another user's is taken for
 * it once in 2^28. */
bool feature_bot_id_is_of(uint64_t id, struct str user_id);
bool feature_in_bot_is_of(const struct feature *f, struct str user_id);
/* Never fails on content: any bytes give features. epochs: the bot's closed ones, NULL for none;
 * the newest that holds on the event's own day weighs the words of its text. */
void feature_extract(const struct event *e, enum source source, uint64_t ver,
                     const struct epoch_list *epochs, struct feature *ret);
/* NOMEM, LIMIT. */
MUST_CHECK enum status feature_encode(const struct feature *f, struct buf *out);
/* CORRUPT for anything that feature_encode() does not write. */
MUST_CHECK enum status feature_decode(struct reader *r, struct feature *ret, struct error *err);
