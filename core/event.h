/*
 * core/event.h - the change event: what every source produces and every engine is fed from.
 *
 * Two forms (DESIGN.md section 2): JSON Lines in public, msgpack inside frames. Both carry the same
 * fields. Strings are borrowed: they live as long as the bytes or the event_arena they came from.
 */
#pragma once

#include "core/buf.h"
#include "core/limits.h"
#include "core/lsn.h"
#include "core/status.h"

#include <stdint.h>

enum event_type {
    EVENT_MESSAGE = 1,     /* insert, or the whole new state of an edited message (op) */
    EVENT_MESSAGE_DELETED, /* id only */
    EVENT_MEMORY,
    EVENT_METRIC,
    EVENT_OUTREACH,
    EVENT_CHARACTER,
    EVENT_PRIVACY,
    EVENT_DEAD_LETTER, /* an input that could not become an event: reason + offending bytes */
    EVENT_REQUEST,     /* about the rows of a user's keys, not about what happened */
};
#define EVENT_TYPE_LAST EVENT_REQUEST

enum message_role { ROLE_USER = 1, ROLE_BOT = 2 };
enum message_op { MESSAGE_INSERT = 1, MESSAGE_UPDATE = 2 };
enum memory_op { MEMORY_CREATE = 1, MEMORY_ACCESS = 2, MEMORY_DELETE = 3, MEMORY_PIN = 4 };
enum memory_outcome { OUTCOME_NONE = 0, OUTCOME_HIT = 1, OUTCOME_MISS = 2 };
enum outreach_op { OUTREACH_SENT = 1, OUTREACH_REPLIED = 2, OUTREACH_OPTED_OUT = 3 };
enum privacy_op { PRIVACY_ERASE = 1, PRIVACY_OPTOUT = 2, PRIVACY_OPTIN = 3 };
enum request_op { REQUEST_INVALIDATE = 1, REQUEST_RECOMPUTE = 2, REQUEST_TOUCH = 3 };

/* "no value" for optional numbers: NaN. */
struct event_trait {
    struct str name;
    double weight; /* 1 when not given */
};

struct event_field {
    struct str name;
    double value; /* finite, or the event is refused */
};

struct event_message {
    enum message_role role;
    enum message_op op;
    struct str content; /* ptr NULL: text unchanged (an UPDATE whose TOAST value was not sent) */
    struct str emotion; /* label, ptr NULL when absent */
    double emotion_confidence;
    struct str embedding_model;
    const float *embedding; /* embedding_dims values, or NULL */
    uint32_t embedding_dims;
    uint32_t n_traits; /* how many the source named; traits[] holds the first LIMIT_TRAITS */
    struct event_trait traits[LIMIT_TRAITS];
    struct str channel_id;
};

struct event_memory {
    enum memory_op op;
    struct str memory_id;
    double score; /* 0..1 or NaN */
    int grade;    /* 1..4, 0 = none */
    enum memory_outcome outcome;
    double importance; /* 0..1 or NaN */
    struct str memory_type;
    struct str content;
};

struct event_metric {
    struct str measurement;
    uint32_t n_fields;
    struct event_field fields[32];
    uint32_t n_tags;
    struct {
        struct str key;
        struct str value;
    } tags[16];
};

struct event_outreach {
    enum outreach_op op;
    struct str topic;
};

struct event_character {
    int64_t version;
    uint32_t n_traits;
    struct event_trait traits[32];
};

struct event_privacy {
    enum privacy_op op;
    struct str scope;
};

/* at_us of the event is its token: when it was made, by the clock of the database that was asked.
 * What was invalidated up to then by the transaction that brings it is valid again in rows that are
 * computed after it. Without a bot: every key of the user. */
struct event_request {
    enum request_op op;
    struct str reason; /* a word of the caller's, ptr NULL when absent */
};

/* Not keyed by a user: routed by hash of the reason's source so that it has one home. */
struct event_dead_letter {
    struct str where;  /* relation or webhook source */
    struct str reason; /* one line: what, where, what to do */
    struct str bytes;  /* the offending input, cut at LIMIT_DEAD_LETTER_BYTES */
};

struct event {
    enum event_type type;
    struct str id;       /* 1..LIMIT_ID_BYTES of valid text */
    struct str user_id;  /* empty only for bot-level types */
    struct str bot_name; /* normalised once, at the edge: event_bot_name() */
    int64_t at_us;       /* source time, microseconds since the Unix epoch */
    union {
        struct event_message message;
        struct event_memory memory;
        struct event_metric metric;
        struct event_outreach outreach;
        struct event_character character;
        struct event_privacy privacy;
        struct event_dead_letter dead_letter;
        struct event_request request;
    } u;
};

/*
 * Backing store for one decoded event: strings that had to be unescaped, embeddings. Reset before
 * every decode; the event borrows from it. A decode that fails leaves *ret undefined.
 */
struct event_arena;
MUST_CHECK enum status event_arena_new(struct event_arena **ret, struct error *err);
void event_arena_free(struct event_arena *arena);
void event_arena_reset(struct event_arena *arena);
void *event_arena_alloc(struct event_arena *arena, size_t size); /* NULL when out of memory */

/*
 * One line of JSON to an event. INVALID says where and what is wrong ("traits[1].weight: ...").
 * `message` and `message_updated` give EVENT_MESSAGE with op INSERT or UPDATE. A member that is
 * null counts as absent, an unknown member is ignored, a member named twice is refused. `at` is RFC
 * 3339 with a zone, or integer microseconds. Beyond DESIGN.md section 2: `trait_count` (how many
 * traits there were when more than LIMIT_TRAITS), and the type `dead_letter` {where, reason, bytes}
 * with `bytes_base64` instead of `bytes` when they are not text; and the type `request` {op:
 * invalidate | recompute | touch, reason?}.
 */
MUST_CHECK enum status event_from_json(struct str line, struct event_arena *arena,
                                       struct event *ret, struct error *err);
/* The name of a type in that form, for what counts and logs; "message" for an edit too. */
const char *event_type_name(enum event_type type);
/* The reverse, one line without the newline, keys sorted; round-trips every field. INVALID when the
 * event fails event_check(). Appends to out, or leaves it as it was. */
MUST_CHECK enum status event_to_json(const struct event *e, struct buf *out, struct error *err);

/*
 * msgpack: an array [type, id, user, bot, at, body...]; unknown trailing elements are ignored, so a
 * newer writer may append some. "No value" is nil, an embedding is a bin of little-endian floats.
 * Encoding needs no memory but out's (up to 9 bytes a field more than it uses); it appends to out
 * or leaves it as it was (LIMIT, NOMEM). The event must satisfy event_check(). Decoding checks the
 * form and the enums but not the text again; PROTOCOL: not one event, whole and with nothing behind
 * it.
 */
MUST_CHECK enum status event_encode(const struct event *e, struct buf *out, struct error *err);
MUST_CHECK enum status event_decode(struct str bytes, struct event_arena *arena, struct event *ret,
                                    struct error *err);

/*
 * Checks what every source must guarantee, INVALID otherwise: id, user and memory ids are
 * 1..LIMIT_ID_BYTES, other short strings at most that, content at most LIMIT_TEXT_BYTES; every
 * string is valid UTF-8 without NUL; bot is normal; at is within the years 1..9999; numbers are
 * finite and in range; the names in fields, tags and character traits differ. user is not needed by
 * metric and character, bot not by privacy and request. Of a dead letter only the lengths are
 * checked. event_from_json() and the mapping both end with it.
 */
MUST_CHECK enum status event_check(const struct event *e, struct error *err);

/* ENGINES.md section 8: trim, lower case, blanks -> _, drop other than [a-z0-9_-], collapse runs of
 * _ and - to one _, strip. Blanks are those of Unicode, letters only those of ASCII. Returns the
 * length written to out (at most LIMIT_ID_BYTES), 0 when nothing is left. */
size_t event_bot_name(struct str raw, char out[LIMIT_ID_BYTES]);
