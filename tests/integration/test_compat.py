"""The compatibility pack: the seven queries of the earlier application's readers, word for word in names, answer with what the engines
know, under a role that sees the views first. It goes up and down on tables with rows while the pipeline writes, and neither the tables
nor what else reads them notice."""
import datetime
import json
import os
import random
import subprocess
import time

import psycopg2
import psycopg2.extras
from psycopg2 import errors

import harness
from harness import PipelineTest, sentence, wait_until
from test_tables import CONFIG, INSERT_MESSAGE, SOURCES

ROLES = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "roles.sql")

# Columns and table of each reader, and what it orders by. All ask: WHERE user_id = $1 AND bot_name = $2 AND expires_at > NOW().
READERS = {
    "memory_health": ("memory_snapshot avg_memory_age_hours retrieval_frequency_trend forgetting_risk_memories computed_at expires_at",
                      "strategic_memory_health", "computed_at"),
    "performance": ("avg_response_time response_time_trend avg_quality_score quality_trend avg_engagement_score engagement_trend conversation_count "
                    "performance_summary recommendations updated_at", "strategic_character_performance", "updated_at"),
    "personality": ("communication_style formality_level verbosity_level primary_topics topic_diversity_score emotional_range dominant_emotions "
                    "question_frequency avg_message_length interaction_frequency_pattern preferred_times personality_summary updated_at",
                    "strategic_personality_profiles", "updated_at"),
    "context": ("switch_count switch_frequency avg_topic_duration_minutes switch_patterns common_transitions abrupt_switch_rate "
                "context_coherence_score updated_at", "strategic_context_patterns", "updated_at"),
    "behaviour": ("decay_rate retention_baseline reinforced_topic_count total_retrieval_count avg_retrieval_interval_days "
                  "reinforcement_opportunities optimal_recall_days recall_strategy confidence analysis_timestamp", "strategic_memory_behavior",
                  "analysis_timestamp"),
    "conversation": ("question_patterns temporal_patterns length_patterns initiation_patterns topic_patterns style_evolution analysis_timestamp",
                     "strategic_conversation_patterns", "analysis_timestamp"),
    "engagement": ("is_in_lull hours_since_last_message lull_severity unresolved_topic_count milestone_count optimal_engagement_hour "
                   "optimal_engagement_day recommendations analysis_timestamp", "strategic_engagement_opportunities", "analysis_timestamp"),
}
UNKNOWN = {"response_time_trend", "engagement_trend", "conversation_count", "performance_summary", "personality_summary", "abrupt_switch_rate"}
TABLES = sorted({table for _, table, _ in READERS.values()})
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def query(reader):
    columns, table, newest = READERS[reader]
    return (f"SELECT {', '.join(columns.split())} FROM {table} WHERE user_id = %s AND bot_name = %s AND expires_at > NOW() "
            f"ORDER BY {newest} DESC LIMIT 1")


class CompatTest(PipelineTest):
    options = {"config": CONFIG}
    tables = SOURCES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.legacy = f"{cls.name} legacy"

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        admin = harness.connect("postgres")
        try:
            admin.cursor().execute(f'DROP ROLE IF EXISTS "{cls.legacy}"')
        finally:
            admin.close()

    def up(self):
        self.assertEqual("applied 0001_readers\n", self.w.must("migrate", "compat", "up"))
        subprocess.run(["psql", "-X", "-q", "-d", self.db.conninfo, "-v", f"legacy_role={self.legacy}", "-f", ROLES], check=True)

    def legacy_connection(self):
        conn = psycopg2.connect(self.db.conninfo.replace("user=postgres", f"user='{self.legacy}'"))
        conn.autocommit = True
        return conn

    def read(self, reader, user="ann"):
        """The earlier reader's dictionary, or None."""
        conn = self.legacy_connection()
        try:
            with conn.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cur:
                cur.execute(query(reader), (user, "elena"))
                return cur.fetchone()
        finally:
            conn.close()

    def history(self):
        """Four weeks of a user who asks, memories and attempts, and the bot's metrics."""
        rng = random.Random(5)
        with self.db.conn.cursor() as cur:
            for day in range(27, 0, -1):
                for n in range(20):
                    traits = json.dumps({"traits": [{"name": rng.choice(("warm", "brief")), "weight": 1}]}) if n % 2 else None
                    cur.execute(INSERT_MESSAGE, (f"{day}-{n}", "ann", "assistant" if n % 2 else "user", sentence(rng), day * 86400 - n * 90, rng.choice(("joy", "anger")),
                                                 0.9, None, traits))
                cur.execute("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, at, importance, memory_type, content) VALUES "
                            "(%s, 'ann', 'elena', 'create', now() - %s * interval '1 day', 0.7, 'fact', %s)", (f"m{day}", day, sentence(rng)))
                for older in range(day + 1, 27, 2):
                    cur.execute("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, at, score) VALUES (%s, 'ann', 'elena', 'access', "
                                "now() - %s * interval '1 hour', 0.5)", (f"m{older}", day * 24 - rng.randrange(1, 20)))
                    if older % 3 == 0:  # and again, soon after
                        cur.execute("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, at, score) VALUES (%s, 'ann', 'elena', 'access', "
                                    "now() - %s * interval '1 hour', 0.5)", (f"m{older}", day * 24 - 20 - rng.random() * 3))
            cur.execute("INSERT INTO metric_point(bot_name, user_id, measurement, fields, at) SELECT 'elena', 'ann', 'conversation_quality', "
                        "jsonb_build_object('engagement_score', 0.7, 'satisfaction_score', 0.8, 'natural_flow_score', 0.6), "
                        "now() - g * interval '10 min' FROM generate_series(1, 1200) g")
            cur.execute("INSERT INTO metric_point(bot_name, measurement, field, value, at) SELECT 'elena', 'response_time_v2', 'value', 900 + g, "
                        "now() - g * interval '10 min' FROM generate_series(1, 200) g")

    def expect_answers(self):
        rows = {reader: wait_until(f"a row for the {reader} reader", lambda: self.read(reader), alive=self.w) for reader in READERS}
        for reader, row in rows.items():
            self.assertEqual(READERS[reader][0].split(), list(row))
        known = {name: value for row in rows.values() for name, value in row.items()}
        self.assertEqual(UNKNOWN, {name for name, value in known.items() if value is None})
        return rows

    def versions(self):
        return [self.db.run(f"SELECT xmin::text, ctid::text FROM {t} ORDER BY 2") for t in TABLES if t != "strategic_context_patterns"]

    def read_both(self):
        """What the readers get and the rows of the tables, unless one was written in between."""
        before = self.versions()
        rows = self.expect_answers()
        base = {}
        for table in ("strategic_conversation_patterns", "strategic_memory_behavior", "strategic_engagement_opportunities"):
            base.update(self.db.one(f"SELECT to_jsonb(t) FROM {table} t WHERE user_id = 'ann'"))
        return (rows, base) if before == self.versions() else None

    def test_1_needs_the_cache(self):
        self.w.must("migrate", "down", "--all")
        code, _, err = self.w.command("migrate", "compat", "up")
        self.assertEqual(1, code)
        self.assertIn("`warmpath migrate up` comes first", err)
        self.w.must("migrate", "up")
        self.assertEqual("0001 readers pending\n", self.w.must("migrate", "compat", "status"))
        self.assertEqual("nothing to do\n", self.w.must("migrate", "compat", "down"))
        self.assertEqual(64, self.w.command("migrate", "compat")[0])
        self.assertEqual(64, self.w.command("migrate", "up", "down")[0])

    def test_2_seven_queries_on_tables_with_rows_under_a_pipeline_at_work(self):
        self.history()
        self.w.start()
        wait_until("all tables to have rows", lambda: all(self.db.one(f"SELECT count(*) FROM {t}") for t in TABLES if t != "strategic_context_patterns"),
                   alive=self.w)
        self.w.wait_covered()
        self.w.verify(30)
        before = self.db.run("SELECT attrelid::regclass::text, attname, attnum FROM pg_attribute WHERE attrelid = ANY (%s::regclass[]) ORDER BY 1, 3",
                             [t for t in TABLES if t != "strategic_context_patterns"])
        self.up()
        self.assertEqual("nothing to do\n", self.w.must("migrate", "compat", "up"))
        rows, base = wait_until("answers and rows of the same moment", self.read_both, alive=self.w)
        self.meaning(base, **rows)
        self.assertEqual(before, self.db.run("SELECT attrelid::regclass::text, attname, attnum FROM pg_attribute WHERE attrelid = ANY (%s::regclass[]) "
                                             "ORDER BY 1, 3", [t for t in TABLES if t != "strategic_context_patterns"]))
        # What is written later shows, and everything else reads as before.
        self.db.run(INSERT_MESSAGE, "last", "ann", "user", "is that so?", 1, "joy", 0.9, [0.5] * 16, None)
        wait_until("the new message to show", lambda: (self.read("engagement") or {}).get("hours_since_last_message", 9) < 1, alive=self.w)
        self.w.verify(30)
        self.assertIn(self.db.one("SELECT cp_f FROM strategic_bundle('ann', 'elena')"), ("fresh", "current"))

    def meaning(self, base, memory_health, performance, personality, context, behaviour, conversation, engagement):
        self.assertEqual(27, sum(memory_health["memory_snapshot"]["hist_R"]))
        self.assertEqual((0.7, 0.7), (round(performance["avg_quality_score"], 3), round(performance["avg_engagement_score"], 3)))
        self.assertEqual([(168,)], self.db.run("SELECT time_window_hours FROM strategic_compat.strategic_character_performance WHERE user_id = 'ann'"))
        self.assertTrue(900 <= performance["avg_response_time"] <= 1100)
        style = base["communication_style"]
        self.assertEqual((style["question_rate"], style["verbosity"], style["words"]["mean"]),
                         (personality["question_frequency"], personality["verbosity_level"], personality["avg_message_length"]))
        self.assertTrue(personality["communication_style"].startswith(style["verbosity"] + ", "))
        self.assertEqual((style["upper_start_rate"] + style["end_punct_rate"]) / 2, personality["formality_level"])
        self.assertEqual({"joy", "anger"}, set(personality["dominant_emotions"]))
        self.assertEqual("daily", personality["interaction_frequency_pattern"])
        self.assertTrue(0 <= personality["topic_diversity_score"] < 1)
        topics = [t["topic"] for t in base["recent_topics"]]
        self.assertLessEqual(set(personality["primary_topics"]), set(topics) - {"other"})
        how = style["how_top"][0]
        first = personality["preferred_times"][0]
        self.assertEqual((DAYS[how["how"] // 24], how["how"] % 24, how["share"]), (first["day"], first["hour"], first["share"]))
        edges = base["topic_transition_graph"]["edges"]
        self.assertEqual(sum(e["n"] for e in edges), context["switch_count"])
        self.assertEqual(sorted((e["n"] for e in edges), reverse=True), [t["n"] for t in context["common_transitions"]])
        self.assertTrue(all(t["from"] and t["to"] for t in context["common_transitions"]))
        self.assertAlmostEqual(1 - base["predicted_switch_likelihood"], context["context_coherence_score"])
        curve = base["forgetting_curve_params"]
        self.assertEqual(("fitted", curve["d"], curve["accesses"]), (curve["status"], behaviour["decay_rate"], behaviour["total_retrieval_count"]))
        self.assertTrue(0 <= behaviour["retention_baseline"] <= 1 and behaviour["reinforced_topic_count"] > 0)
        self.assertAlmostEqual(sum(b["X_h"] for b in curve["bins"]) / sum(b["E"] for b in curve["bins"]) / 24, behaviour["avg_retrieval_interval_days"])
        self.assertEqual("long_interval_spacing" if behaviour["optimal_recall_days"] >= 7 else "medium_interval_spacing", behaviour["recall_strategy"])
        self.assertEqual({"question_rate": style["question_rate"], "messages": style["n"]}, conversation["question_patterns"])
        self.assertEqual(style["words"], conversation["length_patterns"]["words"])
        self.assertEqual(style["drift"], conversation["style_evolution"])
        self.assertEqual(topics, [t["topic"] for t in conversation["topic_patterns"]["recent_topics"]])
        self.assertAlmostEqual((time.time() - datetime.datetime.fromisoformat(base["last_user_message_at"]).timestamp()) / 3600,
                               engagement["hours_since_last_message"], delta=0.1)
        self.assertEqual(engagement["lull_severity"] != "none", engagement["is_in_lull"])
        kinds = [o["type"] for o in engagement["recommendations"]]
        self.assertEqual((kinds.count("unresolved_question"), kinds.count("anniversary")), (engagement["unresolved_topic_count"], engagement["milestone_count"]))
        at = datetime.datetime.fromisoformat(base["next_contact_at"]).astimezone(datetime.timezone.utc)
        self.assertEqual((DAYS[at.weekday()], at.hour), (engagement["optimal_engagement_day"], engagement["optimal_engagement_hour"]))

    def test_3_what_is_current_is_given_and_what_is_invalid_is_not(self):
        self.assertEqual(0, self.w.stop())
        self.db.run("UPDATE strategic_processor SET heartbeat = now() + interval '1 day', caught_up_to = now() + interval '1 day'")
        for table in TABLES:
            if table != "strategic_context_patterns":
                self.db.run(f"UPDATE {table} SET expires_at = now() - interval '1 min', valid_until = now() + interval '1 hour'")
        self.expect_answers()
        self.db.run("INSERT INTO strategic_bot_epoch VALUES ('elena', now() + interval '1 s')")
        self.assertEqual({"personality", "performance"}, {reader for reader in READERS if self.read(reader) is None})
        self.db.run("DELETE FROM strategic_bot_epoch")
        self.db.run("UPDATE strategic_conversation_patterns SET invalidated_at = now(), expires_at = now() + interval '5 min'")
        self.assertEqual({"context", "conversation"}, {reader for reader in READERS if self.read(reader) is None})
        # What another row says of how the user writes is wrong as well.
        personality = self.read("personality")
        self.assertEqual((None, None, None), (personality["primary_topics"], personality["communication_style"], personality["dominant_emotions"]))
        self.assertIsNotNone(personality["interaction_frequency_pattern"])
        self.db.run("UPDATE strategic_conversation_patterns SET invalidated_at = NULL")
        self.db.run("UPDATE strategic_processor SET heartbeat = now() - interval '2 min'")
        self.assertEqual(set(READERS) - {"context", "conversation"}, {reader for reader in READERS if self.read(reader) is None})

    def test_4_nothing_known_is_null_and_no_error(self):
        self.db.run("INSERT INTO strategic_key_activity (user_id, bot_name, shard) VALUES ('new', 'elena', 0)")
        for table in TABLES:
            if table not in ("strategic_context_patterns", "strategic_character_performance"):
                own, value = ("memory_snapshot, ", "'{}', ") if table == "strategic_memory_health" else ("", "")
                self.db.run(f"INSERT INTO {table} ({own}user_id, bot_name, expires_at) VALUES ({value}'new', 'elena', now() + interval '1 hour')")
        for reader in set(READERS) - {"memory_health", "performance"}:
            row = self.read(reader, "new")
            self.assertEqual(READERS[reader][2:3], tuple(name for name, value in row.items() if value is not None), (reader, row))
        self.assertIsNone(self.read("engagement", "nobody"))
        for table in TABLES:  # the earlier application's own test of freshness
            conn = self.legacy_connection()
            try:
                conn.cursor().execute(f"SELECT computed_at FROM {table} WHERE user_id = %s AND bot_name = %s AND computed_at > NOW() - INTERVAL '300 seconds' "
                                      "ORDER BY computed_at DESC LIMIT 1", ("ann", "elena"))
            finally:
                conn.close()

    def test_5_each_query_is_index_look_ups(self):
        self.db.run("INSERT INTO strategic_key_activity SELECT 'u' || n, 'elena', n % 64 FROM generate_series(1, 5000) n ON CONFLICT DO NOTHING")
        for table in TABLES:
            if table not in ("strategic_context_patterns", "strategic_character_performance"):
                own, value = ("memory_snapshot, ", "'{}', ") if table == "strategic_memory_health" else ("", "")
                self.db.run(f"INSERT INTO {table} ({own}user_id, bot_name, expires_at) SELECT {value}'u' || n, 'elena', now() FROM generate_series(1, 5000) n")
        self.db.run("ANALYZE")
        conn = self.legacy_connection()
        try:
            cur = conn.cursor()
            for reader in READERS:
                cur.execute("EXPLAIN " + query(reader), ("u77", "elena"))
                plan = "\n".join(line for line, in cur.fetchall())
                for table in (*TABLES, "strategic_key_activity"):
                    if table != "strategic_character_performance":  # three rows a bot
                        self.assertNotIn(f"Seq Scan on {table} ", plan)
        finally:
            conn.close()

    def test_6_the_role_reads_the_views_alone(self):
        conn = self.legacy_connection()
        try:
            for sql in ("SELECT * FROM public.strategic_memory_health", "UPDATE public.strategic_memory_health SET expires_at = now()",
                        "SELECT * FROM chat_message", "CREATE VIEW strategic_compat.x AS SELECT 1"):
                with self.subTest(sql), self.assertRaises(errors.InsufficientPrivilege):
                    conn.cursor().execute(sql)
        finally:
            conn.close()

    def test_7_down_while_the_pipeline_works(self):
        code, _, err = self.w.command("migrate", "down", "--all")
        self.assertEqual(1, code)
        self.assertIn("`warmpath migrate compat down` comes first", err)
        for table in TABLES:
            if table not in ("strategic_context_patterns", "strategic_character_performance"):
                self.db.run(f"DELETE FROM {table} WHERE user_id <> 'ann'")
        self.db.run("DELETE FROM strategic_key_activity WHERE user_id <> 'ann'")
        self.w.start()
        self.assertEqual("reverted 0001_readers\n", self.w.must("migrate", "compat", "down"))
        self.assertEqual([], self.db.run("SELECT 1 FROM pg_namespace WHERE nspname = 'strategic_compat'"))
        self.db.run(INSERT_MESSAGE, "very last", "ann", "user", "and now?", 0, "joy", 0.9, [0.5] * 16, None)
        self.w.wait_covered()
        self.w.verify(30)
        # Up once more: nothing was left that would be in the way.
        self.up()
        wait_until("an answer", lambda: self.read("conversation"), alive=self.w)
        self.assertEqual(0, self.w.stop())
        self.w.must("migrate", "compat", "down")
        self.w.must("migrate", "down", "--all")
        self.assertEqual([], self.db.run("SELECT relname FROM pg_class WHERE relname ~ 'strategic' AND relkind IN ('r', 'v')"))
