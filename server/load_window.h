/*
 * server/load_window.h - events of the initial load, gathered and given back key by key.
 *
 * History comes in time order, so that each message meets another key; when the keys that are
 * active at a time do not fit `state.memory`, each would be paged in and out for one message. A
 * window of some tens of thousands of events has several of a busy key: together they cost one
 * page. Rows do not depend on the order in which events arrive (ENGINES.md section 9), as long as a
 * window does not reach over midnight UTC, when epochs close.
 */
#pragma once

#include "core/event.h"

struct load_window {
    struct buf bytes; /* events one after the other, as event_encode() writes them */
    struct load_item {
        uint64_t key;
        size_t offset, len;
    } * items;
    size_t n, cap, next;
    int32_t day;
    struct event_arena *arena;
};

MUST_CHECK enum status load_window_init(struct load_window *w, struct error *err);
void load_window_deinit(struct load_window *w);

/* AGAIN: the window is full, or e is of a later day: take everything out first. Copies. */
MUST_CHECK enum status load_window_put(struct load_window *w, const struct event *e,
                                       struct error *err);
/* The next event, by key and then in the order of put; borrowed until the next call. END: it is
 * empty, and may be filled again. */
MUST_CHECK enum status load_window_take(struct load_window *w, struct event *ret,
                                        struct error *err);
