/*
 * engines/metrics.h - what a bot's own key keeps of its metric points (ENGINES.md E2).
 *
 * Points are not kept one by one: they are sums of integers per stream and hour, per user and day,
 * and histograms of latencies per day, so their order of arrival does not matter. A point that
 * comes again (same series, time and field) replaces the old one; that takes a memory of points,
 * which is bounded: two generations of METRIC_POINTS each, the older one forgotten as a whole.
 * Something that replaces a forgotten point counts as a further one.
 *
 * The streaming detectors (detector.h) live by each stream's own time and see every point once,
 * also those too old for the sums.
 *
 * Bounds: METRIC_STREAMS streams; a new name beyond them takes the place of the stream that has
 * been quiet for longest if that has nothing left in the window, else it is dropped and counted.
 * METRIC_USER_DAYS pairs of user and day; beyond them the day is known to be incomplete.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "engines/detector.h"
#include "engines/feature_metric.h"
#include "engines/kernels.h"
#include "engines/voice.h"

#define METRIC_STREAMS      64
#define METRIC_POINTS       2048
#define METRIC_USER_DAYS    8192
#define METRIC_USER_WINDOW  168        /* hours that sums per user are kept for, by whole days */
#define METRIC_BUCKET_N_MAX (1u << 24) /* points of one stream and hour: no sum overflows */

struct metric_bucket {
    int128 sum;    /* x 10^6 */
    uint64_t sum2; /* x 10^12; scores only */
    int32_t hour;  /* since 1970 */
    uint32_t n;
};

struct metric_stream {
    uint64_t id;
    int64_t newest_us;
    struct metric_bucket *buckets; /* by hour */
    uint32_t n_buckets;
    uint32_t cap;
    uint8_t metric;
    uint8_t name_len;
    char name[METRIC_NAME_BYTES];
    struct detector *detector;
};

/* What is averaged per user: three scores, and flow and relevance together. */
enum user_metric { USER_ENGAGEMENT, USER_SATISFACTION, USER_COHERENCE, USER_FLOW, USER_METRICS };

struct user_day {
    uint64_t user;
    int32_t day;
    uint32_t n[USER_METRICS];
    int64_t sum[USER_METRICS];
};

#define METRIC_LATENCIES (METRIC_ANALYSIS_TIME - METRIC_RESPONSE_TIME + 1)

struct latency_day {
    int32_t day;
    uint32_t count[METRIC_LATENCIES][HIST_BUCKETS]; /* milliseconds */
};

/* Open addressing; id 0 = empty. */
struct point_set {
    struct metric_point {
        uint64_t id;
        int64_t value;
    } * slots;
    uint32_t n;
    uint32_t cap; /* power of two or 0 */
};

struct metrics {
    struct metric_stream *streams; /* by id */
    struct user_day *user_days;    /* by (day, user) */
    struct latency_day *latencies; /* by day */
    uint32_t n_streams, cap_streams;
    uint32_t n_user_days, cap_user_days;
    uint32_t n_latencies, cap_latencies;
    int32_t user_days_full;     /* newest day with a user that found no room; INT32_MIN = none */
    struct point_set points[2]; /* this generation and the one before */
    uint64_t n_points;          /* live: in the window, of every stream */
    struct voice voice;         /* of the bot's messages */
    uint64_t dropped;           /* values of streams there was no room for */
    bool urgent;                /* of the change applied last; not part of the state */
    bool has_character;
    int64_t character_us;
    struct character_feature character; /* the newest by (time, version) */
};

struct metrics_change {
    bool applied; /* a sum changed */
    bool late;    /* older than the horizon: only detectors saw it */
    bool urgent;  /* an alarm was raised, or an hour of a stream began */
    uint32_t n;   /* values */
};

MUST_CHECK enum status metrics_new(struct metrics **ret);
void metrics_free(struct metrics *m);
CLEANUP_FREEP(struct metrics, metrics_free);
size_t metrics_bytes(const struct metrics *m);

/* One event of a bot at T. Later than T + 5 minutes: the detectors do not see it. NOMEM leaves sums
 * that must be thrown away. */
MUST_CHECK enum status metrics_apply(struct metrics *m, const struct metric_feature *f,
                                     int64_t t_us, int64_t as_of_us, struct metrics_change *ret);
/* True when it is the newest definition now, and another one than before. */
bool metrics_character(struct metrics *m, const struct character_feature *f, int64_t t_us);
/* Everything before the windows that end at T leaves. */
void metrics_expire(struct metrics *m, int64_t as_of_us);

/* The sums of a user's days up to and including `day` leave; returns how many. What the user's
 * points added to the sums by hour cannot be told apart and stays. */
uint32_t metrics_forget_user(struct metrics *m, uint64_t user, int32_t day);

/* false: no memory. For metrics_page.c. */
bool point_set_put(struct point_set *s, uint64_t id, int64_t value);

/* Points of a stream in hours [from, to). */
struct metric_bucket metric_sum(const struct metric_stream *s, int32_t from, int32_t to);
const struct metric_stream *metrics_stream(const struct metrics *m, uint64_t id); /* or NULL */
/* Hours since 1970, rounded down. */
int32_t metric_hour(int64_t t_us);
/* First hour and first day of the windows of a user's days and of everything else at T. */
int32_t metric_first_hour(int64_t as_of_us, int window_hours);
int32_t metric_first_day(int64_t as_of_us, int window_hours);

MUST_CHECK enum status metrics_encode(const struct metrics *m, struct buf *out);
MUST_CHECK enum status metrics_decode(struct reader *r, struct metrics **ret, struct error *err);
