/*
 * ingest/row_reader.h - the fields of one row as a mapping sees them; private to ingest/.
 *
 * Every function that reads a field returns INVALID with the table, column and field in err when
 * the value cannot be used, without the value itself: values can be private.
 */
#pragma once

#include "ingest/mapping.h"

#include <jansson.h>

/* Ids are compared with LIMIT_ID_BYTES afterwards; a cut one is still too long. */
#define TEXT_MAX (LIMIT_ID_BYTES + 8)
/* Just beyond what the features look at: they see that there was more, and flag it. */
#define CONTENT_MAX (LIMIT_CONTENT_BYTES + 8)

/* A JSON column parsed once per row, however many fields read from it. */
struct document {
    const char *text; /* identity: where the value lies */
    json_t *root;
};

struct row_reader {
    const struct mapping_binding *binding;
    const struct tuple *row;      /* the row to read */
    const struct tuple *fallback; /* the old row: values that were not sent again; may be NULL */
    /* The row as it was: only columns of the replica identity are known. Without an old tuple they
     * are what the new one has: a change of one would have brought it. */
    bool is_old;
    bool is_sent; /* is_old: there is an old tuple */
    struct event_arena *arena;
    bool ignored; /* an enum map said that this row is none of ours */
    const struct mapping_source *used[MAPPING_FIELD_COUNT]; /* read last, for what is said of it */
    size_t n_documents;
    struct document documents[2 * MAPPING_SOURCES_MAX];
};
void row_close(struct row_reader *r);

/* What a source holds for this row. */
enum got_kind { GOT_NONE, GOT_UNCHANGED, GOT_TEXT, GOT_JSON };
struct got {
    enum got_kind kind;
    struct str text;
    const json_t *json; /* borrowed from a document of the reader */
};
/* The first source of the field that has a value; r->used says which. One that may have a value but
 * was not sent is UNCHANGED: what comes after it cannot be taken. */
MUST_CHECK enum status row_get(struct row_reader *r, enum mapping_field f, struct got *ret,
                               struct error *err);
/* A column of the relation; PROTOCOL when the row is shorter than its description. */
MUST_CHECK enum status row_get_value(const struct row_reader *r, int16_t column, struct value *ret,
                                     struct error *err);

/* Whether the mapping takes the row (mapping.h). UNKNOWN: what would tell was not sent; of an old
 * row also when its values cannot be used. */
enum presence { PRESENT, ABSENT, PRESENCE_UNKNOWN };
MUST_CHECK enum status row_presence(struct row_reader *r, enum presence *ret, struct error *err);
/* The counter, 0 when NULL; *ret_known false when it was not sent. */
MUST_CHECK enum status row_get_counter(const struct row_reader *r, bool *ret_known, int64_t *ret,
                                       struct error *err);
/* A JSON value, also of a text column; NULL when there is none. */
MUST_CHECK enum status row_get_json(struct row_reader *r, enum mapping_field f, const json_t **ret,
                                    struct error *err);
/*
 * A scalar field as text, enum map applied, at most max bytes of it looked at; STR_NULL when there
 * is none. A value that was not sent is an error: leaving it out would change what is known.
 */
MUST_CHECK enum status row_get_text(struct row_reader *r, enum mapping_field f, size_t max,
                                    struct str *ret, struct error *err);
/* A text of 1..LIMIT_ID_BYTES. */
MUST_CHECK enum status row_get_needed(struct row_reader *r, enum mapping_field f, struct str *ret,
                                      struct error *err);
/* A short text that may be absent; empty counts as absent. */
MUST_CHECK enum status row_get_label(struct row_reader *r, enum mapping_field f, struct str *ret,
                                     struct error *err);
/* A finite number, and one in [0,1]; NaN when absent. */
MUST_CHECK enum status row_get_number(struct row_reader *r, enum mapping_field f, double *ret,
                                      struct error *err);
MUST_CHECK enum status row_get_fraction(struct row_reader *r, enum mapping_field f, double *ret,
                                        struct error *err);
/* One of our own words; index in words plus 1. 0 when absent. */
MUST_CHECK enum status row_get_word(struct row_reader *r, enum mapping_field f,
                                    const char *const words[], bool needed, int *ret,
                                    struct error *err);
MUST_CHECK enum status row_get_at(struct row_reader *r, int64_t *ret, struct error *err);
/* id, user_id and bot_name: all needed. */
MUST_CHECK enum status row_get_key(struct row_reader *r, struct event *e, struct error *err);
/* The bot's name as event_bot_name() has it; STR_NULL when it may be absent and is. */
MUST_CHECK enum status row_get_bot(struct row_reader *r, bool needed, struct str *ret,
                                   struct error *err);

/* Both fill err and return the status: a value that cannot be used, and one that was not sent. */
enum status row_invalid(const struct row_reader *r, enum mapping_field f, struct error *err,
                        const char *why);
enum status row_needs_old(const struct row_reader *r, enum mapping_field f, struct error *err);
/* The same of a column that is no field's. */
enum status row_column_error(const struct row_reader *r, const char *column, struct error *err,
                             const char *why);
#define ROW_NOT_SENT "the value was not sent with the change"

/* The whole row as one event (row_event.c). whole: it was not there before, so nothing of it may be
 * missing. */
MUST_CHECK enum status row_event(struct row_reader *r, bool whole, struct event *e,
                                 struct error *err);
