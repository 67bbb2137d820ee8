/*
 * engines/feature_metric.h - metric points and character definitions as features: the parts of
 * struct feature that only a bot's own key understands, and their bytes (feature.h).
 *
 * Metric bytes: series, user, refusal, how many values; each value: metric, value, and for
 * METRIC_OTHER the stream's hash and shown name. Character bytes: version, how many traits; each:
 * name, weight.
 */
#pragma once

#include "core/event.h"
#include "engines/measurement.h"

#define METRIC_SCALE      1000000
#define METRIC_VALUE_MAX  1e12
#define METRIC_VALUES     32
#define METRIC_NAME_BYTES 32 /* names in rows */
#define TRAIT_NAME_BYTES  32
#define CHARACTER_TRAITS  32
#define TRAIT_WEIGHT_MAX  1000.0
/* More than the body of either feature takes. */
#define METRIC_FEATURE_BYTES 2048

struct metric_value {
    uint64_t stream; /* the metric's number, or a hash of measurement and field above those */
    int64_t value;   /* x 10^6 */
    uint8_t metric;  /* enum metric */
    uint8_t name_len;
    char name[METRIC_NAME_BYTES]; /* METRIC_OTHER: "measurement.field", cut */
};

struct metric_feature {
    uint64_t series; /* of measurement, tags and user: with time and stream, what a point is */
    uint64_t user;   /* hash of the user_id of the event or its tag; 0 = none */
    uint8_t refused; /* 0, or 1 + index of the field that cannot be taken */
    uint8_t n_values;
    struct metric_value values[METRIC_VALUES];
};

struct character_trait {
    uint32_t weight; /* x 10^6 */
    uint8_t name_len;
    char name[TRAIT_NAME_BYTES];
};

struct character_feature {
    int64_t version;
    uint8_t n_traits;
    struct character_trait traits[CHARACTER_TRAITS];
};

struct reader;
struct writer;

/* Whose metric it is, by the event or by its tag user_id; STR_NULL: nobody's. */
struct str metric_user(const struct event *e);
/* Nothing is left out: an unknown measurement must not get here (measurement_known()). */
void metric_feature_extract(const struct event *e, struct metric_feature *ret);
void character_feature_extract(const struct event *e, struct character_feature *ret);
/* The same for the same version and traits, in whatever order and whenever they were said. */
uint64_t character_definition(const struct character_feature *f);
void metric_feature_put(struct writer *w, const struct metric_feature *f);
void metric_feature_get(struct reader *r, struct metric_feature *f);
void character_feature_put(struct writer *w, const struct character_feature *f);
void character_feature_get(struct reader *r, struct character_feature *f);
