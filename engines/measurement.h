/*
 * engines/measurement.h - which measurements and fields mean what (ENGINES.md section 8).
 *
 * A closed list: a field of a listed measurement is one of the named metrics below or a stream of
 * its own, known by "measurement.field"; anything else is counted and ignored, so that foreign
 * names never make state.
 */
#pragma once

#include "core/event.h"

#include <stdbool.h>

/* Durable numbers: features and key pages hold them. */
enum metric {
    METRIC_ENGAGEMENT, /* the scores that are averaged, 0..1 ... */
    METRIC_SATISFACTION,
    METRIC_COHERENCE,
    METRIC_NATURAL_FLOW,
    METRIC_EMOTIONAL_RESONANCE,
    METRIC_TOPIC_RELEVANCE,
    METRIC_AUTHENTICITY,
    METRIC_QUALITY,
    METRIC_REACTION,      /* ... and one that is only watched */
    METRIC_RESPONSE_TIME, /* milliseconds */
    METRIC_SEARCH_TIME,
    METRIC_ANALYSIS_TIME,
    METRIC_OTHER, /* watched, whatever it means */
    METRIC_COUNT
};
#define METRIC_AVERAGED (METRIC_QUALITY + 1)

static inline bool metric_is_score(enum metric m)
{
    return m <= METRIC_REACTION;
}

static inline bool metric_is_latency(enum metric m)
{
    return m >= METRIC_RESPONSE_TIME && m <= METRIC_ANALYSIS_TIME;
}

/* "engagement", ...; "" for METRIC_OTHER. */
const char *metric_name(enum metric m);

bool measurement_known(struct str measurement);
/* What a field of a known measurement is; METRIC_OTHER when it has no name of its own. */
enum metric measurement_metric(struct str measurement, struct str field);
