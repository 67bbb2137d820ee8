/*
 * ingest/line_protocol.h - InfluxDB line protocol: the lines of one body as points.
 *
 * Accepts what influxd 1.6 accepts, line ends with a carriage return besides, and says of every
 * other line what is wrong with it and where; one bad line does not spoil its neighbours. Nothing
 * is allocated: a point borrows from the body, names and strings as they are written there, with
 * their escapes (line_unescape()). Pure: the same body gives the same points.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of one point; more are counted, not kept. */
#define LINE_TAGS   64
#define LINE_FIELDS 256

enum line_type { LINE_FLOAT, LINE_INTEGER, LINE_UNSIGNED, LINE_BOOLEAN, LINE_STRING };

struct line_field {
    struct str key; /* raw */
    enum line_type type;
    union {
        double number; /* finite */
        int64_t integer;
        uint64_t natural;
        bool truth;
        struct str text; /* raw, without the quotes; may hold any byte */
    } u;
};

struct line_tag {
    struct str key;   /* raw */
    struct str value; /* raw, never empty */
};

struct line_point {
    struct str line; /* all of it, without the line end */
    uint64_t number; /* of the line in the body, from 1 */
    size_t offset;   /* of the line in the body */
    struct str measurement;
    size_t n_tags; /* of tags[]; tags_more besides */
    size_t tags_more;
    size_t n_fields; /* of fields[]; at least 1. Of two with one name the last counts */
    size_t fields_more;
    bool plain; /* names and strings have no escapes: the point comes from no line, number is 0 */
    bool has_time;
    int64_t time_ns;                 /* since 1970; now_ns when the line has none */
    struct line_tag tags[LINE_TAGS]; /* as they came; no two have one name */
    struct line_field fields[LINE_FIELDS];
};

struct line_options {
    int64_t unit_ns;        /* line_precision() */
    int64_t now_ns;         /* of lines without a time: one value for all of a body */
    bool unsigned_integers; /* 1u: of InfluxDB 2; influxd 1.6 refuses it */
};

struct line_reader {
    struct line_options options;
    const char *begin, *at, *end;
    uint64_t newlines; /* before `at` */
};

/* The unit that a precision stands for: n, ns, u, us, ms, s, m, h; empty is ns. False: no such. */
bool line_precision(struct str name, int64_t *ret_ns);

void line_reader_init(struct line_reader *r, struct str body, const struct line_options *options);
/* The next line that is neither blank nor a comment. END: there is none. INVALID: it is no point;
 * only line, number and offset of ret are set, and the next call goes on behind it. */
MUST_CHECK enum status line_next(struct line_reader *r, struct line_point *ret, struct error *err);

enum line_part {
    LINE_NAME, /* measurement, keys and tag values: \, and \= and a blank with a backslash */
    LINE_TEXT, /* strings: \" and \\ */
};
/* Writes at most raw.len bytes to out and returns how many. Any other backslash stays. */
size_t line_unescape(struct str raw, enum line_part part, char *out);
