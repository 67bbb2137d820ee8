#include "engines/tables.h"

#include <string.h>

#define PERFORMANCE(hours)                                                                        \
    {                                                                                             \
        .name = "strategic_character_performance", .by_window = true, .window_hours = (hours),    \
        .n_columns = 6,                                                                           \
        .columns = {                                                                              \
            [PF_ENGAGEMENT_SCORE_AVG] = {"engagement_score_avg", COLUMN_FLOAT},                   \
            [PF_SATISFACTION_SCORE_AVG] = {"satisfaction_score_avg", COLUMN_FLOAT},               \
            [PF_COHERENCE_SCORE_AVG] = {"coherence_score_avg", COLUMN_FLOAT},                     \
            [PF_PERSONALITY_CONSISTENCY_INDEX] = {"personality_consistency_index", COLUMN_FLOAT}, \
            [PF_QUALITY_TREND] = {"quality_trend", COLUMN_TEXT},                                  \
            [PF_RECENT_ANOMALIES] = {"recent_anomalies", COLUMN_JSON},                            \
        },                                                                                        \
    }

const struct table_def tables[TABLE_COUNT] = {
    [TABLE_MEMORY_HEALTH] =
        {
            .name = "strategic_memory_health",
            .n_columns = 5,
            .columns =
                {
                    [MH_MEMORY_SNAPSHOT] = {"memory_snapshot", COLUMN_JSON},
                    [MH_AVG_MEMORY_AGE_HOURS] = {"avg_memory_age_hours", COLUMN_FLOAT},
                    [MH_RETRIEVAL_FREQUENCY_TREND] = {"retrieval_frequency_trend", COLUMN_TEXT},
                    [MH_FORGETTING_RISK_MEMORIES] = {"forgetting_risk_memories", COLUMN_JSON},
                    [MH_TOPIC_RELEVANCE_DRIFT] = {"topic_relevance_drift", COLUMN_FLOAT},
                },
        },
    [TABLE_CONVERSATION_PATTERNS] =
        {
            .name = "strategic_conversation_patterns",
            .n_columns = 9,
            .columns =
                {
                    [CP_RECENT_TOPICS] = {"recent_topics", COLUMN_JSON},
                    [CP_AVG_TOPIC_DURATION_MINUTES] = {"avg_topic_duration_minutes", COLUMN_FLOAT},
                    [CP_CONTEXT_SWITCH_FREQUENCY] = {"context_switch_frequency", COLUMN_FLOAT},
                    [CP_PREDICTED_SWITCH_LIKELIHOOD] = {"predicted_switch_likelihood",
                                                        COLUMN_FLOAT},
                    [CP_TOPIC_TRANSITION_GRAPH] = {"topic_transition_graph", COLUMN_JSON},
                    [CP_COMMUNICATION_STYLE] = {"communication_style", COLUMN_JSON},
                    [CP_PREFERRED_DEPTH] = {"preferred_depth", COLUMN_JSON},
                    [CP_EMOTIONAL_ENGAGEMENT] = {"emotional_engagement", COLUMN_JSON},
                    [CP_OPTIMAL_RESPONSE_LENGTH] = {"optimal_response_length", COLUMN_JSON},
                },
        },
    [TABLE_PERFORMANCE_24H] = PERFORMANCE(24),
    [TABLE_PERFORMANCE_168H] = PERFORMANCE(168),
    [TABLE_PERFORMANCE_720H] = PERFORMANCE(720),
    [TABLE_PERSONALITY_PROFILES] =
        {
            .name = "strategic_personality_profiles",
            .n_columns = 4,
            .columns =
                {
                    [PP_DOMINANT_TRAITS] = {"dominant_traits", COLUMN_JSON},
                    [PP_USER_RESPONSE_PATTERNS] = {"user_response_patterns", COLUMN_JSON},
                    [PP_ADAPTATION_SUGGESTIONS] = {"adaptation_suggestions", COLUMN_JSON},
                    [PP_TRAIT_EVOLUTION_HISTORY] = {"trait_evolution_history", COLUMN_JSON},
                },
        },
    [TABLE_MEMORY_BEHAVIOR] =
        {
            .name = "strategic_memory_behavior",
            .n_columns = 5,
            .columns =
                {
                    [MB_FORGETTING_CURVE_PARAMS] = {"forgetting_curve_params", COLUMN_JSON},
                    [MB_HIGH_RETENTION_MEMORIES] = {"high_retention_memories", COLUMN_JSON},
                    [MB_LOW_RETENTION_MEMORIES] = {"low_retention_memories", COLUMN_JSON},
                    [MB_RECALL_SIMULATION_SCORE] = {"recall_simulation_score", COLUMN_FLOAT},
                    [MB_CONSOLIDATION] = {"consolidation", COLUMN_JSON},
                },
        },
    [TABLE_ENGAGEMENT_OPPORTUNITIES] =
        {
            .name = "strategic_engagement_opportunities",
            .n_columns = 8,
            .columns =
                {
                    [EO_OPTIMAL_TIMING_HOURS] = {"optimal_timing_hours", COLUMN_FLOAT},
                    [EO_RECEPTIVITY_SCORE] = {"receptivity_score", COLUMN_FLOAT},
                    [EO_SUGGESTED_TOPICS] = {"suggested_topics", COLUMN_JSON},
                    [EO_LAST_ENGAGEMENT_GAP_HOURS] = {"last_engagement_gap_hours", COLUMN_FLOAT},
                    [EO_PROACTIVE_SUCCESS_RATE] = {"proactive_success_rate", COLUMN_FLOAT},
                    [EO_NEXT_CONTACT_AT] = {"next_contact_at", COLUMN_TIME},
                    [EO_LAST_USER_MESSAGE_AT] = {"last_user_message_at", COLUMN_TIME},
                    [EO_OPPORTUNITIES] = {"opportunities", COLUMN_JSON},
                },
        },
};

static bool has_reason(const struct row *row, const char *column)
{
    for (size_t i = 0; i < row->n_reasons; i++)
        if (strcmp(row->reasons[i].column, column) == 0)
            return true;
    return false;
}

enum status table_explain_nulls(struct row *row, bool refused)
{
    for (size_t i = 0; i < row->table->n_columns; i++) {
        if (row->values[i].set || has_reason(row, row->table->columns[i].name))
            continue;
        enum status st =
            row_set_null(row, i, refused ? "opted_out" : "no engine fills this column yet");
        if (st)
            return st;
    }
    return STATUS_OK;
}
