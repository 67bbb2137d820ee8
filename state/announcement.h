/*
 * state/announcement.h - one message of the feed: which rows of a key have just changed.
 *
 *     {"bot_name":"..","user_id":"..","tables":["..",".."],"row_version":1,"reason":".."}
 *
 * The members come in this order, without blanks, so that a subscriber can select by prefix.
 * user_id is null for rows of a bot alone, bot_name when a user is erased with every bot, reason
 * when there is none. At most LIMIT_NOTIFY_BYTES, whatever the ids are made of.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

/* The rows of an erased user are gone; nothing of an earlier announcement may outlive this one. */
#define ANNOUNCEMENT_ERASE "erase"

/* Borrowed strings. */
struct announcement {
    struct str bot;    /* STR_NULL: of an erasure, every bot of the user */
    struct str user;   /* STR_NULL: rows of the bot */
    struct str tables; /* names, separated by commas */
    struct str reason; /* STR_NULL: none */
    uint64_t row_version;
    struct str json; /* all of it as above; STR_NULL: not written yet */
};

/* Appends the JSON of a to out. */
MUST_CHECK enum status announcement_write(const struct announcement *a, struct buf *out);
/* Is name, or one of names when it has commas, among tables? "" is among any. */
bool announcement_has_table(struct str tables, struct str names);
/* Appends the tables of a, and those of b that are not among them, separated by commas. */
MUST_CHECK enum status announcement_join_tables(struct str a, struct str b, struct buf *out);
/* An erasure: see ANNOUNCEMENT_ERASE. */
bool announcement_erases(const struct announcement *a);
