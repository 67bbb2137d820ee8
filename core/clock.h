/*
 * core/clock.h - the two clocks, passed in so that tests and the simulator own time.
 *
 * wall: microseconds since the Unix epoch, may jump; for persisted due times.
 * mono: microseconds from an arbitrary start, never goes back; for waits and time-outs.
 */
#pragma once

#include <stdint.h>

#define US_PER_SECOND INT64_C(1000000)
#define US_PER_MINUTE (60 * US_PER_SECOND)
#define US_PER_HOUR   (60 * US_PER_MINUTE)
#define US_PER_DAY    (24 * US_PER_HOUR)
/* PostgreSQL counts microseconds from 2000-01-01 00:00 UTC. */
#define US_POSTGRES_EPOCH (INT64_C(946684800) * US_PER_SECOND)
/* 0001-01-01T00:00:00Z and the last microsecond of 9999: the times that RFC 3339 can write. */
#define TIME_MIN_US (INT64_C(-62135596800) * US_PER_SECOND)
#define TIME_MAX_US (INT64_C(253402300800) * US_PER_SECOND - 1)

struct clock {
    int64_t (*wall_us)(void *ctx);
    int64_t (*mono_us)(void *ctx);
    void *ctx;
};

extern const struct clock clock_real;

static inline int64_t clock_wall_us(const struct clock *c)
{
    return c->wall_us(c->ctx);
}

static inline int64_t clock_mono_us(const struct clock *c)
{
    return c->mono_us(c->ctx);
}

/* Both parts read the same variable, which the owner moves. */
struct clock clock_virtual(int64_t *now_us);

/* Rounds towards minus infinity to a multiple of unit. */
int64_t time_floor_us(int64_t t_us, int64_t unit_us);

/* "2026-01-05T14:00:00Z", with ".123456" when there is a fraction and micros is true. Returns the
 * length; out must hold 40 bytes. Years outside 1..9999 are clamped. */
int time_format(int64_t t_us, int micros, char out[40]);

/* RFC 3339 with a zone ("Z" or +hh[:mm]); also accepts PostgreSQL's ISO output with a zone
 * ("2026-01-05 14:00:00.5+00"). Returns 0 and writes *ret_us, -1 when malformed or out of range
 * (so for "infinity", BC and years past 9999), digits of a second after the sixth are cut,
 * -2 when the zone is missing (then *ret_us holds the time read as UTC). */
int time_parse(const char *text, unsigned long len, int64_t *ret_us);
