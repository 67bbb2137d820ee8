#include "engines/tables.h"

#include <string.h>

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
};

static bool has_reason(const struct row *row, const char *column)
{
    for (size_t i = 0; i < row->n_reasons; i++)
        if (strcmp(row->reasons[i].column, column) == 0)
            return true;
    return false;
}

enum status table_explain_nulls(struct row *row)
{
    for (size_t i = 0; i < row->table->n_columns; i++) {
        if (row->values[i].set || has_reason(row, row->table->columns[i].name))
            continue;
        enum status st = row_set_null(row, i, "no engine fills this column yet");
        if (st)
            return st;
    }
    return STATUS_OK;
}
