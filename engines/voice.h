/*
 * engines/voice.h - how a bot has been speaking: what remains of its messages that the cap of the
 * log (LIMIT_MESSAGES) pushed out while they were still inside the window.
 *
 * The key log holds the newest messages; a busy bot writes more than that in a month. What leaves
 * by the cap is added up here: traits by hour, directions of vectors by day. A message that was
 * added up can no longer be edited or deleted; it leaves with its hour.
 */
#pragma once

#include "core/buf.h"
#include "engines/record.h"

#define VOICE_TRAITS 32 /* names; more are counted together */
#define VOICE_DIMS   256
#define VOICE_UNIT   1024 /* length 1 of a vector's direction: a day of 2 million fits */

struct voice_name {
    uint8_t len;
    char text[RECORD_TRAIT_BYTES];
};

struct voice_hour {
    int32_t hour;
    uint32_t traits[VOICE_TRAITS + 1]; /* the last: of names there was no room for */
};

struct voice_day {
    int32_t day;
    uint32_t n; /* messages with a vector */
    int32_t sum[VOICE_DIMS];
};

struct voice {
    uint32_t n_names;
    struct voice_name names[VOICE_TRAITS];
    struct voice_hour *hours; /* by hour */
    struct voice_day *days;   /* by day */
    uint32_t n_hours, cap_hours;
    uint32_t n_days, cap_days;
};

/* One entry of a vector of this squared length as part of its direction. */
int32_t voice_direction(int8_t weight, uint32_t norm2);

void voice_deinit(struct voice *v);
size_t voice_bytes(const struct voice *v);
/* NOMEM leaves v as it was or with the message half added: it must be thrown away. */
MUST_CHECK enum status voice_add(struct voice *v, const struct key_log *log,
                                 const struct msg_rec *m);
/* Hours and days before these leave, and names that nothing is left of. */
void voice_expire(struct voice *v, int32_t hour, int32_t day);

MUST_CHECK enum status voice_encode(const struct voice *v, struct buf *out);
/* Out of range sets r->bad. */
MUST_CHECK enum status voice_decode(struct reader *r, struct voice *v);
