-- Both functions that read know their tables from now on, instead of looking for the names in the
-- search_path of whoever calls: one that finds other things first (strategic_compat, a second
-- installation) would read those.
CREATE OR REPLACE FUNCTION strategic_bundle(p_user TEXT, p_bot TEXT, p_window INT DEFAULT 168)
RETURNS TABLE (mh_f TEXT, mh strategic_memory_health,
               pp_f TEXT, pp strategic_personality_profiles,
               cp_f TEXT, cp strategic_conversation_patterns,
               mb_f TEXT, mb strategic_memory_behavior,
               eo_f TEXT, eo strategic_engagement_opportunities,
               pf_f TEXT, pf strategic_character_performance)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT
 strategic_freshness(h.expires_at, h.valid_until, h.invalidated_at, h.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), h,
 strategic_freshness(p.expires_at, p.valid_until, p.invalidated_at, p.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), p,
 strategic_freshness(c.expires_at, c.valid_until, c.invalidated_at, c.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), c,
 strategic_freshness(m.expires_at, m.valid_until, m.invalidated_at, m.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), m,
 strategic_freshness(o.expires_at, o.valid_until, o.invalidated_at, o.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), o,
 strategic_freshness(f.expires_at, f.valid_until, f.invalidated_at, f.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), f
FROM (VALUES (1)) one(x)
LEFT JOIN strategic_key_activity a ON a.user_id = p_user AND a.bot_name = p_bot
LEFT JOIN strategic_processor s ON s.shard = a.shard
LEFT JOIN strategic_bot_epoch b ON b.bot_name = p_bot
LEFT JOIN strategic_memory_health h ON h.user_id = p_user AND h.bot_name = p_bot
LEFT JOIN strategic_personality_profiles p ON p.user_id = p_user AND p.bot_name = p_bot
LEFT JOIN strategic_conversation_patterns c ON c.user_id = p_user AND c.bot_name = p_bot
LEFT JOIN strategic_memory_behavior m ON m.user_id = p_user AND m.bot_name = p_bot
LEFT JOIN strategic_engagement_opportunities o ON o.user_id = p_user AND o.bot_name = p_bot
LEFT JOIN strategic_character_performance f
       ON f.bot_name = p_bot AND f.time_window_hours = p_window;
END;

-- What the hottest callers read: strategic_bundle without its JSON. Freshness and confidence of each
-- component, and its plain columns; always one row, NULL where nothing is known. Like
-- strategic_bundle it is one SELECT in plain SQL, so that the planner puts it into the calling
-- statement: nine look-ups by primary or unique key, and only of what the caller selects.
CREATE FUNCTION strategic_bundle_lite(p_user TEXT, p_bot TEXT, p_window INT DEFAULT 168)
RETURNS TABLE (
    mh_f TEXT, mh_confidence REAL,
    avg_memory_age_hours FLOAT, retrieval_frequency_trend TEXT, topic_relevance_drift FLOAT,
    pp_f TEXT, pp_confidence REAL,
    cp_f TEXT, cp_confidence REAL,
    avg_topic_duration_minutes FLOAT, context_switch_frequency FLOAT,
    predicted_switch_likelihood FLOAT,
    mb_f TEXT, mb_confidence REAL,
    recall_simulation_score FLOAT,
    eo_f TEXT, eo_confidence REAL,
    optimal_timing_hours FLOAT, receptivity_score FLOAT, last_engagement_gap_hours FLOAT,
    proactive_success_rate FLOAT, next_contact_at TIMESTAMPTZ, last_user_message_at TIMESTAMPTZ,
    pf_f TEXT, pf_confidence REAL,
    engagement_score_avg FLOAT, satisfaction_score_avg FLOAT, coherence_score_avg FLOAT,
    personality_consistency_index FLOAT, quality_trend TEXT)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT
 strategic_freshness(h.expires_at, h.valid_until, h.invalidated_at, h.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), h.confidence,
 h.avg_memory_age_hours, h.retrieval_frequency_trend, h.topic_relevance_drift,
 strategic_freshness(p.expires_at, p.valid_until, p.invalidated_at, p.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), p.confidence,
 strategic_freshness(c.expires_at, c.valid_until, c.invalidated_at, c.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), c.confidence,
 c.avg_topic_duration_minutes, c.context_switch_frequency, c.predicted_switch_likelihood,
 strategic_freshness(m.expires_at, m.valid_until, m.invalidated_at, m.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), m.confidence,
 m.recall_simulation_score,
 strategic_freshness(o.expires_at, o.valid_until, o.invalidated_at, o.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), o.confidence,
 o.optimal_timing_hours, o.receptivity_score, o.last_engagement_gap_hours,
 o.proactive_success_rate, o.next_contact_at, o.last_user_message_at,
 strategic_freshness(f.expires_at, f.valid_until, f.invalidated_at, f.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), f.confidence,
 f.engagement_score_avg, f.satisfaction_score_avg, f.coherence_score_avg,
 f.personality_consistency_index, f.quality_trend
FROM (VALUES (1)) one(x)
LEFT JOIN strategic_key_activity a ON a.user_id = p_user AND a.bot_name = p_bot
LEFT JOIN strategic_processor s ON s.shard = a.shard
LEFT JOIN strategic_bot_epoch b ON b.bot_name = p_bot
LEFT JOIN strategic_memory_health h ON h.user_id = p_user AND h.bot_name = p_bot
LEFT JOIN strategic_personality_profiles p ON p.user_id = p_user AND p.bot_name = p_bot
LEFT JOIN strategic_conversation_patterns c ON c.user_id = p_user AND c.bot_name = p_bot
LEFT JOIN strategic_memory_behavior m ON m.user_id = p_user AND m.bot_name = p_bot
LEFT JOIN strategic_engagement_opportunities o ON o.user_id = p_user AND o.bot_name = p_bot
LEFT JOIN strategic_character_performance f
       ON f.bot_name = p_bot AND f.time_window_hours = p_window;
END;
