/*
 * server/config_schema.h - the one table behind the configuration, and its value types.
 *
 * A path is written with dots; "*" stands for any key (an engine, a bot, an event field), "[]" for
 * the elements of a list. Where a value is stored follows from its scope.
 */
#pragma once

#include "server/config.h"

enum config_type {
    CONFIG_STRING,
    CONFIG_BOOL,
    CONFIG_INT,
    CONFIG_DURATION, /* microseconds; us ms s m h d */
    CONFIG_SIZE,     /* bytes; B KiB MiB GiB */
    CONFIG_TIME,     /* microseconds since the epoch; RFC 3339 with a zone */
    CONFIG_ENUM,     /* stored as int */
    CONFIG_RELATION, /* schema.table */
    CONFIG_MAP,      /* entry of an enum map: the key is part of the value */
};

enum config_scope {
    SCOPE_ROOT,    /* struct config */
    SCOPE_TABLE,   /* struct mapping */
    SCOPE_FIELD,   /* struct mapping_source */
    SCOPE_TRIGGER, /* struct trigger_policy */
    SCOPE_WEBHOOK, /* struct config_webhook */
    SCOPE_SECRET,  /* struct config_secret */
    SCOPE_QDRANT,  /* struct config_qdrant */
    SCOPE_FEED,    /* struct config_feed_webhook */
};

struct config_choice {
    const char *name; /* NULL ends the list */
    int value;
};

struct config_row {
    const char *path;
    enum config_type type;
    enum config_scope scope;
    size_t offset;
    size_t size;
    const char *fallback; /* default as it would be written; NULL = none */
    int64_t min, max;     /* INT, DURATION, SIZE */
    const struct config_choice *choices;
    const char *env; /* a second environment name, weaker than WARMPATH_... */
    enum {
        PLAIN,
        SECRET,
        CONNINFO
    } secrecy; /* what is masked when printed: nothing, the whole
                  value, the passwords in it */
    enum { ANY_TEXT, NAME_SLOT, NAME_SOURCE } name; /* [a-z0-9_], as of a replication slot; and - */
    const char *help;
};

extern const struct config_row config_rows[]; /* ends with path NULL */
extern const size_t config_row_count;

struct config_origin {
    enum { ORIGIN_DEFAULT, ORIGIN_FILE, ORIGIN_ENVIRONMENT, ORIGIN_FLAG } kind;
    unsigned long line; /* ORIGIN_FILE, from 1 */
    const char *env;    /* ORIGIN_ENVIRONMENT: the second name, or NULL for WARMPATH_... */
};

const struct config_row *config_row_find(struct str pattern);
/* Is there a row at pattern or below it? */
bool config_row_below(const char *pattern);
const char *config_type_name(enum config_type type);
/* "WARMPATH_SOURCE_CONNINFO" for source.conninfo. */
void config_env_name(const char *path, char *out, size_t size);

/* Reads one value of any type but RELATION and MAP into *ret (numbers) or checks it (STRING). */
MUST_CHECK enum status config_value_parse(const struct config_row *row, struct str text,
                                          int64_t *ret, struct error *err);
/* Stores what was parsed at base + row->offset; LIMIT when a string is too long. */
MUST_CHECK enum status config_value_store(const struct config_row *row, void *base, struct str text,
                                          int64_t number, struct error *err);
/* The reverse, as YAML: 5m, 64MiB, "text". */
MUST_CHECK enum status config_value_print(const struct config_row *row, const void *base,
                                          struct buf *out);
MUST_CHECK enum status config_number_print(enum config_type type, int64_t v, struct buf *out);
MUST_CHECK enum status config_string_print(struct str s, struct buf *out);

/* All members of trigger_policy start at a multiple of eight bytes, so the offset names the bit. */
static inline uint32_t config_trigger_bit(const struct config_row *row)
{
    return 1u << (row->offset / 8);
}
