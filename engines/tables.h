/* engines/tables.h - the cache tables of ENGINES.md and the columns engines fill, by number. */
#pragma once

#include "core/row.h"

enum table_id { TABLE_MEMORY_HEALTH, TABLE_CONVERSATION_PATTERNS, TABLE_COUNT };

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

extern const struct table_def tables[TABLE_COUNT];

/* Gives every column that has neither a value nor a reason the reason that no engine fills it. */
MUST_CHECK enum status table_explain_nulls(struct row *row);
