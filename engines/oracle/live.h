/*
 * engines/oracle/live.h - the live set of one key: its features applied one after the other to
 * unsorted arrays, by the rules of engines/key.h. Private to the oracle.
 */
#pragma once

#include "core/cleanup.h"
#include "engines/feature.h"
#include "engines/oracle/points.h"

/* A feature that is live, as it stands after edits. Strings stay with whoever added it. */
struct live_item {
    struct feature f;
    bool pinned;           /* memories */
    bool has_origin;       /* memories: an access already left the window */
    struct feature origin; /* the creation its fold starts from */
    bool left;             /* accesses: beyond the window, folded */
};

/* A deleted id, or a pin that came before its memory. */
enum live_mark_kind { LIVE_MARK_MESSAGE, LIVE_MARK_MEMORY, LIVE_MARK_PIN };

struct live_mark {
    enum live_mark_kind kind;
    uint64_t id;
    uint64_t ver;
    int64_t t_us;
    uint8_t source;
};

struct live_array {
    struct live_item *items;
    size_t n;
    size_t cap;
};

struct live {
    int64_t as_of_us;
    struct live_array messages;
    struct live_array memories;
    struct live_array accesses; /* those that left first, in the order they left */
    struct live_array outreach; /* sent and replied */
    struct live_array answers;  /* user messages that left: what attempts remember */
    struct consent consents[CONSENT_SCOPES];
    int64_t first_left_us; /* oldest message that left, or INT64_MAX */
    struct live_mark marks[LIMIT_TOMBSTONES];
    size_t n_marks;
    int64_t message_cut_us; /* youngest message that the cap pushed out, or INT64_MIN */
    int64_t access_cut_us;
    uint64_t forgotten_n;
    int64_t forgotten_created_s;
    bool of_bot; /* set by whoever made it, before anything is applied */
    struct points points;
    struct live_array folded; /* of a bot: messages that the cap pushed out, in that order */
};

MUST_CHECK enum status live_new(struct live **ret);
void live_free(struct live *l);
CLEANUP_FREEP(struct live, live_free);
MUST_CHECK enum status live_apply(struct live *l, const struct feature *f, int64_t as_of_us);
MUST_CHECK enum status live_advance(struct live *l, int64_t as_of_us);
/* False for a record that lies too far ahead of T to be shown. */
bool live_is_visible(const struct live *l, const struct feature *f);
