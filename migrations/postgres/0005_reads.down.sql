DROP FUNCTION strategic_bundle_lite(TEXT, TEXT, INT);

-- As it was: its tables are found when it is called.
CREATE OR REPLACE FUNCTION strategic_bundle(p_user TEXT, p_bot TEXT, p_window INT DEFAULT 168)
RETURNS TABLE (mh_f TEXT, mh strategic_memory_health,
               pp_f TEXT, pp strategic_personality_profiles,
               cp_f TEXT, cp strategic_conversation_patterns,
               mb_f TEXT, mb strategic_memory_behavior,
               eo_f TEXT, eo strategic_engagement_opportunities,
               pf_f TEXT, pf strategic_character_performance)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
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
       ON f.bot_name = p_bot AND f.time_window_hours = p_window $$;
