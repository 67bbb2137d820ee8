-- Views for the readers of an earlier application, whose queries name columns that the cache tables
-- do not have, and one table's key wrongly. The views have the tables' names and live in a schema of
-- their own: with
--     ALTER ROLE that_application SET search_path = strategic_compat, public
-- its queries find them unchanged, and nobody else does. The tables stay as they are, and writing to
-- them costs nothing more. docs/READING.md says what each column means; where nothing is known it
-- is NULL.
--
-- Those readers know of one thing only, expires_at: so for them a row that is current has not
-- expired, and an invalid one has.

CREATE SCHEMA strategic_compat;

CREATE FUNCTION strategic_compat.usable_until(expires TIMESTAMPTZ, valid TIMESTAMPTZ,
    inval TIMESTAMPTZ, computed TIMESTAMPTZ, beat TIMESTAMPTZ, caught TIMESTAMPTZ,
    changed TIMESTAMPTZ)
RETURNS TIMESTAMPTZ LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE strategic_freshness(expires, valid, inval, computed, beat, caught, changed)
       WHEN 'current' THEN valid
       WHEN 'invalid' THEN least(expires, computed)
       ELSE expires END;

-- Hours of the week from Monday 00:00 UTC, as E6 lists them, in words.
CREATE FUNCTION strategic_compat.times_of_week(style JSONB)
RETURNS JSONB LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT jsonb_agg(jsonb_build_object(
                   'day', (ARRAY['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday',
                                 'Sunday'])[(t ->> 'how')::int / 24 + 1],
                   'hour', (t ->> 'how')::int % 24, 'share', t -> 'share')
                   ORDER BY (t ->> 'share')::float DESC, (t ->> 'how')::int)
        FROM jsonb_path_query(style, '$.how_top[*]') AS t);

-- Messages per named topic of recent_topics, the most talked of first.
CREATE FUNCTION strategic_compat.topic_sizes(topics JSONB)
RETURNS TABLE (topic TEXT, messages BIGINT) LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT t ->> 'topic', sum((t ->> 'messages')::bigint)::bigint
FROM jsonb_path_query(topics, '$[*]') AS t
WHERE t ->> 'topic' <> 'other'
GROUP BY 1 ORDER BY 2 DESC, 1;
END;

-- What the processor of a key has said last.
CREATE VIEW strategic_compat.key_progress AS
SELECT a.user_id, a.bot_name, s.heartbeat, s.caught_up_to
FROM strategic_key_activity a LEFT JOIN strategic_processor s ON s.shard = a.shard;

CREATE VIEW strategic_compat.strategic_memory_health AS
SELECT h.id, h.user_id, h.bot_name, h.memory_snapshot, h.avg_memory_age_hours,
       h.retrieval_frequency_trend, h.forgetting_risk_memories, h.confidence, h.computed_at,
       strategic_compat.usable_until(h.expires_at, h.valid_until, h.invalidated_at, h.computed_at,
                                     k.heartbeat, k.caught_up_to, NULL) AS expires_at
FROM strategic_memory_health h
LEFT JOIN strategic_compat.key_progress k ON k.user_id = h.user_id AND k.bot_name = h.bot_name;

-- How the user writes is in the row of conversation patterns.
CREATE VIEW strategic_compat.strategic_personality_profiles AS
SELECT p.id, p.user_id, p.bot_name, p.dominant_traits, p.user_response_patterns,
       p.adaptation_suggestions, p.trait_evolution_history,
       nullif(concat_ws(', ', c.communication_style ->> 'verbosity',
                        c.preferred_depth ->> 'class'), '') AS communication_style,
       ((c.communication_style ->> 'upper_start_rate')::float
        + (c.communication_style ->> 'end_punct_rate')::float) / 2 AS formality_level,
       c.communication_style ->> 'verbosity' AS verbosity_level,
       (SELECT jsonb_agg(f.topic)
        FROM (SELECT s.topic FROM strategic_compat.topic_sizes(c.recent_topics) s LIMIT 5) f)
           AS primary_topics,
       (SELECT (1 - sum(s.messages ^ 2) / sum(s.messages) ^ 2)::float
        FROM strategic_compat.topic_sizes(c.recent_topics) s) AS topic_diversity_score,
       (c.emotional_engagement #>> '{valence,sd}')::float AS emotional_range,
       jsonb_path_query_array(c.emotional_engagement, '$.dominant[*].emotion')
           AS dominant_emotions,
       (c.communication_style ->> 'question_rate')::float AS question_frequency,
       (c.communication_style #>> '{words,mean}')::float AS avg_message_length,
       CASE WHEN (o.details #>> '{return_gaps,unusual_h}')::float <= 36 THEN 'daily'
            WHEN (o.details #>> '{return_gaps,unusual_h}')::float <= 192 THEN 'weekly'
            WHEN (o.details #>> '{return_gaps,unusual_h}')::float > 192 THEN 'occasional'
       END AS interaction_frequency_pattern,
       strategic_compat.times_of_week(c.communication_style) AS preferred_times,
       NULL::text AS personality_summary,
       p.confidence, p.computed_at, p.computed_at AS updated_at,
       strategic_compat.usable_until(p.expires_at, p.valid_until, p.invalidated_at, p.computed_at,
                                     k.heartbeat, k.caught_up_to, b.character_changed_at)
           AS expires_at
FROM strategic_personality_profiles p
LEFT JOIN strategic_compat.key_progress k ON k.user_id = p.user_id AND k.bot_name = p.bot_name
LEFT JOIN strategic_bot_epoch b ON b.bot_name = p.bot_name
LEFT JOIN strategic_conversation_patterns c
       ON c.user_id = p.user_id AND c.bot_name = p.bot_name AND c.invalidated_at IS NULL
LEFT JOIN strategic_engagement_opportunities o
       ON o.user_id = p.user_id AND o.bot_name = p.bot_name AND o.invalidated_at IS NULL;

CREATE VIEW strategic_compat.strategic_conversation_patterns AS
SELECT c.id, c.user_id, c.bot_name, c.recent_topics, c.avg_topic_duration_minutes,
       c.context_switch_frequency, c.predicted_switch_likelihood, c.topic_transition_graph,
       CASE WHEN c.communication_style IS NOT NULL THEN
           jsonb_build_object('question_rate', c.communication_style -> 'question_rate',
                              'messages', c.communication_style -> 'n')
       END AS question_patterns,
       CASE WHEN c.communication_style IS NOT NULL THEN
           jsonb_build_object(
               'preferred_times', strategic_compat.times_of_week(c.communication_style),
               'reply_latency_s', c.communication_style -> 'reply_latency_s',
               'session_turns_mean', c.preferred_depth -> 'session_turns_mean')
       END AS temporal_patterns,
       CASE WHEN c.communication_style IS NOT NULL THEN
           jsonb_build_object('words', c.communication_style -> 'words',
                              'chars_p50', c.communication_style -> 'chars_p50',
                              'verbosity', c.communication_style -> 'verbosity',
                              'optimal_response_length', c.optimal_response_length)
       END AS length_patterns,
       CASE WHEN c.communication_style IS NOT NULL THEN
           jsonb_build_object('user_initiated_share',
                              c.communication_style -> 'user_initiated_share')
       END AS initiation_patterns,
       CASE WHEN c.recent_topics IS NOT NULL THEN
           jsonb_build_object('recent_topics', c.recent_topics,
                              'avg_topic_duration_minutes', c.avg_topic_duration_minutes,
                              'preferred_depth', c.preferred_depth)
       END AS topic_patterns,
       c.communication_style -> 'drift' AS style_evolution,
       c.confidence, c.computed_at, c.computed_at AS analysis_timestamp,
       strategic_compat.usable_until(c.expires_at, c.valid_until, c.invalidated_at, c.computed_at,
                                     k.heartbeat, k.caught_up_to, NULL) AS expires_at
FROM strategic_conversation_patterns c
LEFT JOIN strategic_compat.key_progress k ON k.user_id = c.user_id AND k.bot_name = c.bot_name;

-- A table that never was: switches of topic are in the row of conversation patterns.
CREATE VIEW strategic_compat.strategic_context_patterns AS
SELECT c.id, c.user_id, c.bot_name,
       CASE WHEN c.topic_transition_graph IS NOT NULL THEN
           (SELECT coalesce(sum((e ->> 'n')::bigint), 0)::bigint
            FROM jsonb_path_query(c.topic_transition_graph, '$.edges[*]') e)
       END AS switch_count,
       c.context_switch_frequency AS switch_frequency, c.avg_topic_duration_minutes,
       c.predicted_switch_likelihood, c.topic_transition_graph AS switch_patterns,
       CASE WHEN c.topic_transition_graph IS NOT NULL THEN
           (SELECT coalesce(jsonb_agg(jsonb_build_object('from', f.label, 'to', t.label, 'n', e.n,
                                                         'p', e.p)
                                      ORDER BY e.n DESC, e.p DESC, f.label, t.label), '[]')
            FROM jsonb_to_recordset(c.topic_transition_graph -> 'edges')
                     AS e("from" int, "to" int, n int, p float)
            JOIN jsonb_to_recordset(c.topic_transition_graph -> 'nodes') AS f(id int, label text)
              ON f.id = e."from"
            JOIN jsonb_to_recordset(c.topic_transition_graph -> 'nodes') AS t(id int, label text)
              ON t.id = e."to")
       END AS common_transitions,
       NULL::float AS abrupt_switch_rate,
       1 - c.predicted_switch_likelihood AS context_coherence_score,
       c.confidence, c.computed_at, c.computed_at AS updated_at,
       strategic_compat.usable_until(c.expires_at, c.valid_until, c.invalidated_at, c.computed_at,
                                     k.heartbeat, k.caught_up_to, NULL) AS expires_at
FROM strategic_conversation_patterns c
LEFT JOIN strategic_compat.key_progress k ON k.user_id = c.user_id AND k.bot_name = c.bot_name;

CREATE VIEW strategic_compat.strategic_memory_behavior AS
SELECT m.id, m.user_id, m.bot_name, m.forgetting_curve_params, m.high_retention_memories,
       m.low_retention_memories, m.recall_simulation_score,
       CASE WHEN m.forgetting_curve_params ->> 'status' = 'fitted'
            THEN (m.forgetting_curve_params ->> 'd')::float END AS decay_rate,
       CASE WHEN r.tracked > 0
            THEN 1 - (m.consolidation ->> 'lapsed')::float / r.tracked END AS retention_baseline,
       r.reinforced AS reinforced_topic_count,
       (m.forgetting_curve_params ->> 'accesses')::bigint AS total_retrieval_count,
       (SELECT sum((b ->> 'X_h')::float) / nullif(sum((b ->> 'E')::float), 0) / 24
        FROM jsonb_path_query(m.forgetting_curve_params, '$.bins[*]') b)
           AS avg_retrieval_interval_days,
       m.low_retention_memories AS reinforcement_opportunities,
       r.recall_days AS optimal_recall_days,
       CASE WHEN r.recall_days < 2 THEN 'daily_active_recall'
            WHEN r.recall_days < 4 THEN 'short_interval_spacing'
            WHEN r.recall_days < 7 THEN 'medium_interval_spacing'
            WHEN r.recall_days >= 7 THEN 'long_interval_spacing' END AS recall_strategy,
       m.confidence, m.computed_at, m.computed_at AS analysis_timestamp,
       strategic_compat.usable_until(m.expires_at, m.valid_until, m.invalidated_at, m.computed_at,
                                     k.heartbeat, k.caught_up_to, NULL) AS expires_at
FROM strategic_memory_behavior m
LEFT JOIN strategic_compat.key_progress k ON k.user_id = m.user_id AND k.bot_name = m.bot_name
CROSS JOIN LATERAL (
    SELECT (m.consolidation ->> 'new')::int + (m.consolidation ->> 'consolidating')::int
               + (m.consolidation ->> 'consolidated')::int AS tracked,
           (m.consolidation ->> 'consolidating')::int
               + (m.consolidation ->> 'consolidated')::int AS reinforced,
           (SELECT avg((l ->> 'stability_days')::float)
            FROM jsonb_path_query(jsonb_build_array(m.high_retention_memories,
                                                    m.low_retention_memories), '$[*][*]') l)
               AS recall_days) r;

CREATE VIEW strategic_compat.strategic_engagement_opportunities AS
SELECT o.id, o.user_id, o.bot_name, o.optimal_timing_hours, o.receptivity_score,
       o.suggested_topics, o.last_engagement_gap_hours, o.proactive_success_rate,
       g.silent_h >= g.unusual_h AS is_in_lull,
       g.silent_h AS hours_since_last_message,
       CASE WHEN g.silent_h < g.unusual_h THEN 'none'
            WHEN g.silent_h < 3 * g.unusual_h THEN 'mild'
            WHEN g.silent_h < 7 * g.unusual_h THEN 'moderate'
            WHEN g.silent_h >= 7 * g.unusual_h THEN 'significant' END AS lull_severity,
       jsonb_array_length(jsonb_path_query_array(
           o.opportunities, '$[*] ? (@.type == "unresolved_question")')) AS unresolved_topic_count,
       jsonb_array_length(jsonb_path_query_array(
           o.opportunities, '$[*] ? (@.type == "anniversary")')) AS milestone_count,
       extract(hour FROM o.next_contact_at AT TIME ZONE 'UTC')::int AS optimal_engagement_hour,
       (ARRAY['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'])
           [extract(isodow FROM o.next_contact_at AT TIME ZONE 'UTC')::int]
           AS optimal_engagement_day,
       o.opportunities AS recommendations,
       o.confidence, o.computed_at, o.computed_at AS analysis_timestamp,
       strategic_compat.usable_until(o.expires_at, o.valid_until, o.invalidated_at, o.computed_at,
                                     k.heartbeat, k.caught_up_to, NULL) AS expires_at
FROM strategic_engagement_opportunities o
LEFT JOIN strategic_compat.key_progress k ON k.user_id = o.user_id AND k.bot_name = o.bot_name
-- What is unusual for a user is at least six hours, as in E7.
CROSS JOIN LATERAL (
    SELECT (extract(epoch FROM now() - o.last_user_message_at) / 3600)::float AS silent_h,
           CASE WHEN o.details #>> '{return_gaps,unusual_h}' IS NOT NULL
                THEN greatest((o.details #>> '{return_gaps,unusual_h}')::float, 6) END
               AS unusual_h) g;

-- One row per bot and window, shown to each of the bot's users: the last seven days.
CREATE VIEW strategic_compat.strategic_character_performance AS
SELECT f.id, k.user_id, f.bot_name, f.time_window_hours, f.engagement_score_avg,
       f.satisfaction_score_avg, f.coherence_score_avg, f.personality_consistency_index,
       f.recent_anomalies,
       (f.details #>> '{latency_ms,p50}')::float AS avg_response_time,
       NULL::text AS response_time_trend,
       (SELECT avg(q.score) FROM (VALUES (f.engagement_score_avg), (f.satisfaction_score_avg),
                                         (f.coherence_score_avg)) q(score)) AS avg_quality_score,
       f.quality_trend, f.engagement_score_avg AS avg_engagement_score,
       NULL::text AS engagement_trend,
       NULL::bigint AS conversation_count,
       NULL::text AS performance_summary,
       f.recent_anomalies AS recommendations,
       f.confidence, f.computed_at, f.computed_at AS updated_at,
       strategic_compat.usable_until(f.expires_at, f.valid_until, f.invalidated_at, f.computed_at,
                                     k.heartbeat, k.caught_up_to, b.character_changed_at)
           AS expires_at
FROM strategic_compat.key_progress k
JOIN strategic_character_performance f ON f.bot_name = k.bot_name AND f.time_window_hours = 168
LEFT JOIN strategic_bot_epoch b ON b.bot_name = f.bot_name;
