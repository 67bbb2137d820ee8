/*
 * engines/oracle/points.h - every metric point of a bot, one by one in order of arrival, by the
 * rules of engines/metrics.h. Private to the oracle.
 */
#pragma once

#include "engines/detector.h"
#include "engines/feature.h"

#define POINTS_STREAMS  64
#define POINTS_REMEMBER 2048

struct point {
    uint64_t series;
    uint64_t user;
    uint64_t stream;
    enum metric metric;
    int64_t t_us;
    int64_t value;
    bool counted; /* inside the window when it came */
};

struct point_stream {
    uint64_t id;
    enum metric metric;
    char name[METRIC_NAME_BYTES];
    size_t name_len;
    int64_t newest_us;
    struct detector detector;
};

struct points {
    struct point *all;
    size_t n;
    size_t cap;
    struct point_stream streams[POINTS_STREAMS];
    size_t n_streams;
    bool has_character;
    int64_t character_us;
    struct character_feature character;
};

MUST_CHECK enum status points_add(struct points *p, const struct feature *f, int64_t as_of_us);
void points_deinit(struct points *p);
/* Whether the point is inside the 30 days at T. */
bool point_is_live(const struct point *p, int64_t as_of_us);
