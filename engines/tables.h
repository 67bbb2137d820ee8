/* engines/tables.h - the cache tables of ENGINES.md and the columns engines fill, by number. */
#pragma once

#include "core/row.h"

/* strategic_character_performance holds a row per window: three ids, one name. */
enum table_id {
    TABLE_MEMORY_HEALTH,
    TABLE_CONVERSATION_PATTERNS,
    TABLE_PERFORMANCE_24H,
    TABLE_PERFORMANCE_168H,
    TABLE_PERFORMANCE_720H,
    TABLE_PERSONALITY_PROFILES,
    TABLE_MEMORY_BEHAVIOR,
    TABLE_ENGAGEMENT_OPPORTUNITIES,
    TABLE_COUNT
};

enum memory_health_column {
    MH_MEMORY_SNAPSHOT,
    MH_AVG_MEMORY_AGE_HOURS,
    MH_RETRIEVAL_FREQUENCY_TREND,
    MH_FORGETTING_RISK_MEMORIES,
    MH_TOPIC_RELEVANCE_DRIFT,
};

enum conversation_patterns_column {
    CP_RECENT_TOPICS,
    CP_AVG_TOPIC_DURATION_MINUTES,
    CP_CONTEXT_SWITCH_FREQUENCY,
    CP_PREDICTED_SWITCH_LIKELIHOOD,
    CP_TOPIC_TRANSITION_GRAPH,
    CP_COMMUNICATION_STYLE,
    CP_PREFERRED_DEPTH,
    CP_EMOTIONAL_ENGAGEMENT,
    CP_OPTIMAL_RESPONSE_LENGTH,
};

enum character_performance_column {
    PF_ENGAGEMENT_SCORE_AVG,
    PF_SATISFACTION_SCORE_AVG,
    PF_COHERENCE_SCORE_AVG,
    PF_PERSONALITY_CONSISTENCY_INDEX,
    PF_QUALITY_TREND,
    PF_RECENT_ANOMALIES,
};

enum personality_profiles_column {
    PP_DOMINANT_TRAITS,
    PP_USER_RESPONSE_PATTERNS,
    PP_ADAPTATION_SUGGESTIONS,
    PP_TRAIT_EVOLUTION_HISTORY,
};

enum memory_behavior_column {
    MB_FORGETTING_CURVE_PARAMS,
    MB_HIGH_RETENTION_MEMORIES,
    MB_LOW_RETENTION_MEMORIES,
    MB_RECALL_SIMULATION_SCORE,
    MB_CONSOLIDATION,
};

enum engagement_opportunities_column {
    EO_OPTIMAL_TIMING_HOURS,
    EO_RECEPTIVITY_SCORE,
    EO_SUGGESTED_TOPICS,
    EO_LAST_ENGAGEMENT_GAP_HOURS,
    EO_PROACTIVE_SUCCESS_RATE,
    EO_NEXT_CONTACT_AT,
    EO_LAST_USER_MESSAGE_AT,
    EO_OPPORTUNITIES,
};

extern const struct table_def tables[TABLE_COUNT];

/* Gives every column that has neither a value nor a reason one: no engine fills it, or, where an
 * engine was suppressed (engine_ops.profiles), the user has refused it. */
MUST_CHECK enum status table_explain_nulls(struct row *row, bool refused);
