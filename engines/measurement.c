#include "engines/measurement.h"

#include <stddef.h>

const char *metric_name(enum metric m)
{
    static const char *const names[METRIC_COUNT] = {
        [METRIC_ENGAGEMENT] = "engagement",
        [METRIC_SATISFACTION] = "satisfaction",
        [METRIC_COHERENCE] = "coherence",
        [METRIC_NATURAL_FLOW] = "natural_flow",
        [METRIC_EMOTIONAL_RESONANCE] = "emotional_resonance",
        [METRIC_TOPIC_RELEVANCE] = "topic_relevance",
        [METRIC_AUTHENTICITY] = "authenticity",
        [METRIC_QUALITY] = "quality",
        [METRIC_REACTION] = "user_reaction",
        [METRIC_RESPONSE_TIME] = "response_time",
        [METRIC_SEARCH_TIME] = "search_time",
        [METRIC_ANALYSIS_TIME] = "analysis_time",
        [METRIC_OTHER] = "",
    };
    return names[m];
}

struct field_meaning {
    const char *field; /* NULL ends the list */
    enum metric metric;
};

struct measurement {
    const char *name;
    struct field_meaning fields[8];
};

static const struct measurement measurements[] = {
    {"conversation_quality",
     {{"engagement_score", METRIC_ENGAGEMENT},
      {"satisfaction_score", METRIC_SATISFACTION},
      {"coherence_score", METRIC_COHERENCE},
      {"natural_flow_score", METRIC_NATURAL_FLOW},
      {"emotional_resonance", METRIC_EMOTIONAL_RESONANCE},
      {"topic_relevance", METRIC_TOPIC_RELEVANCE},
      {"user_reaction_score", METRIC_REACTION}}},
    {"user_feedback",
     {{"satisfaction_score", METRIC_SATISFACTION}, {"user_reaction_score", METRIC_REACTION}}},
    {"cdl_integration_performance", {{"character_consistency_score", METRIC_AUTHENTICITY}}},
    {"intelligence_coordination_metrics", {{"authenticity_score", METRIC_AUTHENTICITY}}},
    {"bot_self_reflection",
     {{"authenticity_score", METRIC_AUTHENTICITY},
      {"effectiveness_score", METRIC_QUALITY},
      {"emotional_resonance", METRIC_EMOTIONAL_RESONANCE}}},
    {"vector_memory_performance", {{"search_time_ms", METRIC_SEARCH_TIME}}},
    {"emotion_analysis_performance", {{"analysis_time_ms", METRIC_ANALYSIS_TIME}}},
    {"response_time_v2", {{"value", METRIC_RESPONSE_TIME}}},
    {"character_consistency_v2", {{"value", METRIC_AUTHENTICITY}}},
    {"memory_quality_v2", {{"value", METRIC_QUALITY}}},
    {"fidelity_score_v2", {{"value", METRIC_QUALITY}}},
    {"relationship_progression", {{NULL, METRIC_OTHER}}},
    {"confidence_evolution", {{NULL, METRIC_OTHER}}},
    {"character_emotional_state", {{NULL, METRIC_OTHER}}},
    /* Any one number under the name of the public anomaly benchmark. */
    {"nab", {{NULL, METRIC_OTHER}}},
};

static const struct measurement *find(struct str name)
{
    for (size_t i = 0; i < sizeof(measurements) / sizeof(measurements[0]); i++)
        if (str_equal(name, str_from(measurements[i].name)))
            return &measurements[i];
    return NULL;
}

bool measurement_known(struct str measurement)
{
    return find(measurement) != NULL;
}

enum metric measurement_metric(struct str measurement, struct str field)
{
    const struct measurement *m = find(measurement);
    for (const struct field_meaning *f = m ? m->fields : NULL; f && f->field; f++)
        if (str_equal(field, str_from(f->field)))
            return f->metric;
    return METRIC_OTHER;
}
