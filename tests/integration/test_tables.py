"""All six tables fill from an application's tables of every kind, keep to the published schema, and equal the naive recomputation; what
cannot be used becomes a dead letter and touches nobody else."""
import json
import random

import schema
from harness import PipelineTest, sentence, wait_until

SOURCES = """
CREATE TABLE public.chat_message(
    id text PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, role text NOT NULL, content text, created_at timestamptz NOT NULL,
    emotion text, emotion_confidence real, embedding real[], embedding_model text, metadata jsonb);
ALTER TABLE public.chat_message REPLICA IDENTITY FULL;
CREATE TABLE public.memory_event(
    id bigserial PRIMARY KEY, memory_id text NOT NULL, user_id text NOT NULL, bot_name text NOT NULL, kind text NOT NULL, at timestamptz NOT NULL,
    score real, importance real, memory_type text, content text);
CREATE TABLE public.metric_point(
    id bigserial PRIMARY KEY, bot_name text NOT NULL, user_id text, measurement text NOT NULL, field text, value float8, fields jsonb, tags jsonb,
    at timestamptz NOT NULL);
CREATE TABLE public.outreach(id text PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, kind text NOT NULL, topic text, at timestamptz NOT NULL);
CREATE TABLE public.character_definition(bot_name text PRIMARY KEY, version int, traits jsonb, updated_at timestamptz NOT NULL);
CREATE TABLE public.user_privacy(id bigserial PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, proactive bool NOT NULL, at timestamptz NOT NULL);
ALTER TABLE public.user_privacy REPLICA IDENTITY FULL;
"""

CONFIG = """pipeline: {name}
source:
  conninfo: "{conninfo}"
  slot: {name}
  publication: {name}
  create: true
  tables:
    - relation: public.chat_message
      event: message
      fields:
        id: id
        user_id: user_id
        bot_name: bot_name
        role: {{column: role, map: {{user: user, assistant: bot, system: ""}}}}
        content: content
        at: created_at
        emotion: emotion
        emotion_confidence: emotion_confidence
        embedding: embedding
        embedding_model: embedding_model
        traits: {{column: metadata, path: traits}}
    - relation: public.memory_event
      event: memory
      fields:
        id: id
        user_id: user_id
        bot_name: bot_name
        op: kind
        memory_id: memory_id
        at: at
        score: score
        importance: importance
        memory_type: memory_type
        content: content
    - relation: public.metric_point
      event: metric
      fields: {{id: id, user_id: user_id, bot_name: bot_name, measurement: measurement, field: field, value: value, fields: fields, tags: tags, at: at}}
    - relation: public.outreach
      event: outreach
      fields: {{id: id, user_id: user_id, bot_name: bot_name, op: kind, topic: topic, at: at}}
    - relation: public.character_definition
      event: character
      fields: {{id: bot_name, bot_name: bot_name, version: version, traits: traits, at: updated_at}}
    - relation: public.user_privacy
      event: privacy
      fields: {{id: id, user_id: user_id, bot_name: bot_name, op: {{column: proactive, map: {{t: optin, f: optout}}}}, scope: {{const: proactive}}, at: at}}
state:
  dir: {state}
  workers: {workers}
  memory: {memory}
link: {{url: "{link}"}}
triggers:
  memory_aging: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  character_performance: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  personality_profile: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  context_switch: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  memory_behavior: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  conversation_patterns: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  proactive_engagement: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
log: {{level: {log_level}}}
"""

INSERT_MESSAGE = ("INSERT INTO chat_message VALUES (%s, %s, 'elena', %s, %s, now() - %s * interval '1 s', %s, %s, %s, 'test-16', %s)")


class TablesTest(PipelineTest):
    options = {"config": CONFIG}
    tables = SOURCES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def history(self, user, seed):
        """Three weeks of sessions, oldest first."""
        rng = random.Random(seed)
        emotions = ("joy", "sadness", "anger", "neutral", None)
        with self.db.conn.cursor() as cur:
            for day in range(21, 0, -1):
                for n in range(24):
                    ago = day * 86400 + 40000 - n * 60 - (n // 12) * 7200
                    bot = n % 2
                    traits = json.dumps({"traits": [{"name": rng.choice(("warm", "curious", "brief")), "weight": 1}]}) if bot else None
                    cur.execute(INSERT_MESSAGE, (f"{user}-{day}-{n}", user, "assistant" if bot else "user", sentence(rng), ago, rng.choice(emotions), 0.8,
                                                 [rng.random() for _ in range(16)], traits))
                if day % 2:
                    cur.execute("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, at, importance, memory_type, content) VALUES "
                                "(%s, %s, 'elena', 'create', now() - %s * interval '1 day', 0.7, 'fact', %s)", (f"{user}-m{day}", user, day, sentence(rng)))
                for back in range(day, 21):
                    if back % 2 and rng.random() < 0.6:
                        cur.execute("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, at, score) VALUES "
                                    "(%s, %s, 'elena', 'access', now() - %s * interval '1 hour', 0.5)",
                                    (f"{user}-m{back}", user, day * 24 - rng.randrange(1, 20)))
                if day % 5 == 0:
                    cur.execute("INSERT INTO outreach VALUES (%s, %s, 'elena', 'sent', 'vet', now() - %s * interval '1 day')", (f"{user}-o{day}", user, day - 0.2))

    def metrics(self):
        self.db.run("INSERT INTO character_definition VALUES ('elena', 3, '{\"warm\": 0.5, \"curious\": 0.3, \"brief\": 0.2}', now() - interval '20 days')")
        self.db.run("INSERT INTO metric_point(bot_name, user_id, measurement, field, value, at) SELECT 'elena', 'user-' || g %% 3, 'conversation_quality', "
                    "(ARRAY['engagement_score', 'emotional_resonance', 'natural_flow_score', 'topic_relevance'])[1 + g %% 4], 0.5 + (g %% 37) / 100.0, "
                    "now() - (20 * 86400 - g * 400) * interval '1 s' FROM generate_series(1, 4000) g", None)

        # Every five minutes for three days, and two bad hours half a day ago.
        self.db.run("INSERT INTO metric_point(bot_name, measurement, field, value, at) SELECT 'elena', 'user_feedback', 'satisfaction_score', "
                    "CASE WHEN g BETWEEN 700 AND 730 THEN 0.2 ELSE 0.78 + (g %% 5) / 100.0 END, now() - (864 - g) * interval '300 s' "
                    "FROM generate_series(0, 863) g", None)

    def rows(self, table):
        return [r for (r,) in self.sink.run(f"SELECT to_jsonb(t) - 'id' - 'computed_at' - 'expires_at' - 'row_version' - 'source_lsn' - 'invalidated_at' FROM {table} t")]

    def test_six_tables_fill_and_equal_the_oracle(self):
        self.metrics()
        for n in range(3):
            self.history(f"user-{n}", n)
        self.w.wait_covered()
        for table in schema.COLUMNS:
            wait_until(f"rows in {table}", lambda: self.sink.one(f"SELECT count(*) FROM {table}") == 3, 30, alive=self.w)
        self.assertGreater(self.w.verify(30)["equal"], 15)
        for table in schema.COLUMNS:
            for row in self.rows(table):
                for column in ("as_of", "valid_until"):
                    row[column] = row.get(column)
                self.assertEqual([], schema.check({"table": table, "row": row}), json.dumps(row)[:3000])
        performance = {r["time_window_hours"]: r for r in self.rows("strategic_character_performance")}
        self.assertEqual({24, 168, 720}, set(performance))
        self.assertIsNotNone(performance[168]["engagement_score_avg"])
        self.assertIsNotNone(performance[168]["personality_consistency_index"])
        self.assertIn("quality_drop", {a["type"] for a in performance[168]["recent_anomalies"]})
        for row in self.rows("strategic_personality_profiles"):
            self.assertEqual({"metadata"}, {t["source"] for t in row["dominant_traits"]})
        self.db.run("INSERT INTO user_privacy(user_id, bot_name, proactive, at) VALUES ('user-1', 'elena', false, now())")
        wait_until("the opt-out to show", lambda: self.sink.one("SELECT receptivity_score FROM strategic_engagement_opportunities WHERE user_id = 'user-1'") == 0,
                   alive=self.w)
        self.w.verify(30)

    def test_what_cannot_be_used_is_a_dead_letter_and_the_rest_goes_on(self):
        before = len(self.w.dead_letters())
        bad = [("engagement_score", "1.5"), ("engagement_score", "NaN"), ("satisfaction_score", "Infinity"), ("satisfaction_score", "-0.1")]
        for field, value in bad:
            self.db.run("INSERT INTO metric_point(bot_name, measurement, field, value, at) VALUES ('marcus', 'conversation_quality', %s, %s, now())", field, value)
        for n in range(20):
            self.db.run("INSERT INTO metric_point(bot_name, measurement, field, value, at) VALUES ('marcus', 'conversation_quality', 'engagement_score', 0.5, "
                        "now() - %s * interval '1 s')", n)
        traits = json.dumps({"traits": [{"name": f"trait {n}", "weight": 1} for n in range(10000)]})
        self.db.run(INSERT_MESSAGE, "odd-1", "odd", "assistant", "ten thousand traits", 5, None, None, None, traits)
        self.db.run(INSERT_MESSAGE, "odd-2", "odd", "user", "word " * 200000, 4, "joy", 0.5, [1.0] * 16, None)
        self.db.run(INSERT_MESSAGE, "odd-3", "odd", "user", "another size of embedding", 3, "joy", 0.5, [1.0] * 384, None)
        self.db.run(INSERT_MESSAGE, "odd-4", "odd", "user", "back in time by days", 9 * 86400, "joy", 0.5, [0.0] * 16, None)
        self.db.run(INSERT_MESSAGE, "x" * 10000, "odd", "user", "an id of 10 kB", 1, None, None, None, None)
        self.w.wait_covered()
        wait_until("marcus's row", lambda: self.sink.one("SELECT engagement_score_avg FROM strategic_character_performance WHERE bot_name = 'marcus' "
                                                       "AND time_window_hours = 24") == 0.5, alive=self.w)
        wait_until("the odd user's row", lambda: self.sink.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'odd'") == 4, alive=self.w)
        letters = self.w.dead_letters()
        self.assertEqual(before + len(bad) + 1, len(letters), json.dumps(letters)[:2000])
        self.w.verify(30)
