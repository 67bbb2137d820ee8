DROP VIEW strategic_compat.strategic_character_performance,
    strategic_compat.strategic_engagement_opportunities, strategic_compat.strategic_memory_behavior,
    strategic_compat.strategic_context_patterns, strategic_compat.strategic_conversation_patterns,
    strategic_compat.strategic_personality_profiles, strategic_compat.strategic_memory_health,
    strategic_compat.key_progress;
DROP FUNCTION strategic_compat.topic_sizes(JSONB), strategic_compat.times_of_week(JSONB),
    strategic_compat.usable_until(TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ,
                                  TIMESTAMPTZ, TIMESTAMPTZ);
DROP SCHEMA strategic_compat;
