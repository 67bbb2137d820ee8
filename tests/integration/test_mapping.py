"""The earlier system's own tables through the mapping that is shipped for them, beside tables of four other schemas: rows become the right
events whatever is done to them, every message is counted once, and the rows equal the naive recomputation."""
import json
import os
import random

from harness import PipelineTest, sentence, wait_until

SOURCES = """
CREATE TABLE public.conversations(
    id serial PRIMARY KEY, user_id varchar(255) NOT NULL, channel_id varchar(255), message_content text NOT NULL, bot_response text,
    "timestamp" timestamp DEFAULT CURRENT_TIMESTAMP, context_used jsonb, response_time_ms integer, roberta_confidence real, metadata jsonb,
    deleted_at timestamp);
ALTER TABLE public.conversations REPLICA IDENTITY FULL;
CREATE TABLE public.memory_entries(
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id varchar(255) NOT NULL, memory_type varchar(100), content text, importance_score real,
    created_at timestamp NOT NULL, last_accessed timestamp, access_count integer DEFAULT 0, metadata jsonb);
ALTER TABLE public.memory_entries REPLICA IDENTITY FULL;
CREATE SCHEMA telemetry;
CREATE TABLE telemetry.points(seq bigserial PRIMARY KEY, bot text, name text, field text, value float8, at_ns bigint);
CREATE SCHEMA crm;
CREATE TABLE crm.pings(customer text, n int, bot text, state text, sent_at timestamptz, answered_at timestamptz, topic text, PRIMARY KEY (customer, n));
CREATE SCHEMA persona;
CREATE TABLE persona.sheets(name text PRIMARY KEY, guild text, version int, traits jsonb, changed timestamp);
CREATE SCHEMA legal;
CREATE TABLE legal.requests(id bigserial PRIMARY KEY, subject text, kind text, at_s numeric);
"""

HEADER = """pipeline: {name}
state: {{dir: "{state}", workers: {workers}, memory: {memory}}}
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
source:
  conninfo: "{conninfo}"
  slot: {name}
  publication: {name}
"""

OTHERS = """
    - relation: telemetry.points
      event: metric
      fields: {id: {template: "{name}/{seq}"}, bot_name: bot, measurement: name, field: field, value: value, at: {column: at_ns, unit: epoch_ns}}
    - relation: crm.pings
      event: outreach
      fields: {id: {template: "{customer}:{n}"}, user_id: customer, bot_name: bot, op: {column: state, map: {out: sent, in: replied}, ignore: draft},
               at: [answered_at, sent_at], topic: topic}
    - relation: persona.sheets
      event: character
      fields: {id: {template: "{guild}/{name}"}, bot_name: name, version: version, traits: traits, at: {column: changed, zone: "+02:00"}}
    - relation: legal.requests
      event: privacy
      fields: {id: id, user_id: subject, bot_name: {const: elena}, op: {column: kind, map: {stop: optout, go: optin}}, scope: {const: proactive},
               at: {column: at_s, unit: epoch_s}}
"""

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SHIPPED = open(os.path.join(ROOT, "deploy", "mappings", "earlier-system.yaml")).read()
CONFIG = HEADER + (SHIPPED[SHIPPED.index("  tables:"):] + OTHERS).replace("{", "{{").replace("}", "}}")

SAY = ("INSERT INTO conversations(user_id, channel_id, message_content, bot_response, \"timestamp\", metadata, roberta_confidence) "
       "VALUES (%s, 'general', %s, %s, now() AT TIME ZONE 'UTC' - %s * interval '1 s', %s, 0.9) RETURNING id")
REMEMBER = ("INSERT INTO memory_entries(user_id, memory_type, content, importance_score, created_at, access_count, last_accessed) "
            "VALUES (%s, %s, %s, 0.6, now() AT TIME ZONE 'UTC' - %s * interval '1 day', %s, now() AT TIME ZONE 'UTC' - interval '1 hour') RETURNING id")


class MappingTest(PipelineTest):
    options = {"config": CONFIG}
    tables = SOURCES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.db.run("ALTER DATABASE " + cls.db.name + " SET timezone = 'Asia/Tokyo'")  # times without a zone must not be read in it
        cls.w.start()

    def count(self, user):
        return self.sink.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", user)

    def wait_counts(self):
        """Every half of an exchange that is there counts once, and nothing else."""
        expected = dict(self.db.run("SELECT user_id, count(message_content) + count(bot_response) FROM conversations WHERE deleted_at IS NULL GROUP BY 1", None))
        self.w.wait_covered()
        wait_until(f"the counts {expected}", lambda: {u: n for u, n in self.sink.run("SELECT user_id, event_count FROM strategic_conversation_patterns")
                                                      if u in expected} == expected, alive=self.w)

    def say(self, user, n, text, answer="fine", emotion=None):
        return self.db.one(SAY, user, text, answer, n, json.dumps({"emotion_data": {"primary_emotion": emotion, "confidence": 0.7}}) if emotion else "{}")

    def test_both_halves_of_an_exchange_count_once(self):
        rng = random.Random(5)
        for n in range(60):
            self.say(f"pair-{n % 3}", 6000 - n * 97, sentence(rng), sentence(rng) if n % 5 else None, rng.choice(["joy", "anger", None]))
        self.wait_counts()
        self.w.verify(30)
        self.db.run("UPDATE conversations SET bot_response = 'at last', response_time_ms = 10 WHERE user_id LIKE 'pair-%' AND bot_response IS NULL AND id % 2 = 0")
        self.db.run("UPDATE conversations SET message_content = message_content || ' again', metadata = metadata || '{\"edited\": true}' "
                    "WHERE user_id LIKE 'pair-%' AND id % 3 = 0")
        self.db.run("UPDATE conversations SET bot_response = NULL WHERE user_id LIKE 'pair-%' AND id % 7 = 0")
        self.db.run("DELETE FROM conversations WHERE user_id LIKE 'pair-%' AND id % 11 = 0")
        self.wait_counts()
        self.w.verify(30)
        self.assertEqual([], self.w.dead_letters())

    def test_a_soft_delete_takes_away_both_halves_until_it_is_undone(self):
        long = "coffee and tea " + "".join(random.Random(1).choice("abcdefgh ") for _ in range(20000))  # out of line: unchanged values are not sent
        kept = [self.say("soft", 500 - n, f"number {n}") for n in range(4)]
        gone = self.say("soft", 300, long, long)
        self.wait_counts()
        self.assertEqual(10, self.count("soft"))
        self.db.run("UPDATE conversations SET deleted_at = now() WHERE id = %s", gone)
        self.db.run("UPDATE conversations SET deleted_at = now() WHERE id = %s", kept[0])
        self.wait_counts()
        self.assertEqual(6, self.count("soft"))
        self.db.run("UPDATE conversations SET channel_id = 'other' WHERE id = %s", gone)  # it stays away
        self.db.run("DELETE FROM conversations WHERE id = %s", kept[0])
        self.wait_counts()
        self.db.run("UPDATE conversations SET deleted_at = NULL WHERE id = %s", gone)
        self.wait_counts()
        self.assertEqual(8, self.count("soft"))
        self.db.run("UPDATE conversations SET user_id = 'soft-moved' WHERE id = %s", gone)
        self.wait_counts()
        self.assertEqual((6, 2), (self.count("soft"), self.count("soft-moved")))
        self.w.verify(30)
        self.assertEqual([], self.w.dead_letters())

    def test_times_are_those_of_the_mapping_s_zone(self):
        self.say("zone", 120, "two minutes ago")
        self.wait_counts()
        age = self.sink.one("SELECT extract(epoch FROM now() - as_of) FROM strategic_conversation_patterns WHERE user_id = 'zone'")
        self.assertLess(abs(age), 600)

    def memory(self, user):
        row = self.sink.run("SELECT memory_snapshot FROM strategic_memory_health WHERE user_id = %s", user)
        return row[0][0] if row else {}

    def test_a_counter_s_growth_is_as_many_accesses(self):
        pets = self.db.one(REMEMBER, "counter", "fact", "the dog is called Rex", 9, 0)
        home = self.db.one(REMEMBER, "counter", "fact", "lives by the sea", 8, 5)
        self.db.one(REMEMBER, "counter", "conversation_pair", "said and answered", 7, 9)
        self.db.run("UPDATE memory_entries SET access_count = access_count + 3, last_accessed = now() AT TIME ZONE 'UTC' WHERE id = %s", pets)
        self.db.run("UPDATE memory_entries SET content = 'lives by the lake' WHERE id = %s", home)  # no access
        self.w.wait_covered()

        def accesses():
            snapshot = self.memory("counter")
            return {m["memory_id"]: m["n"] for m in snapshot.get("fresh", []) + snapshot.get("stale", [])}

        wait_until("three and five accesses", lambda: accesses() == {str(pets): 3, str(home): 5}, alive=self.w)
        wait_until("rows that equal the oracle's", lambda: self.w.verify(30)["inexact"] == 0, alive=self.w)
        self.db.run("UPDATE memory_entries SET access_count = 1 WHERE id = %s", home)  # down: nothing
        self.db.run("UPDATE memory_entries SET access_count = 2 WHERE id = %s", home)  # the second again
        self.db.run("UPDATE memory_entries SET access_count = 104, last_accessed = now() AT TIME ZONE 'UTC' WHERE id = %s", pets)  # the last 64 of them
        wait_until("the newest 64", lambda: accesses() == {str(pets): 67, str(home): 5}, alive=self.w)
        self.assertGreater(self.w.verify(30)["inexact"], 0)  # the table knows one time of them all
        self.db.run("DELETE FROM memory_entries WHERE id = %s", pets)
        self.db.run("UPDATE memory_entries SET memory_type = 'conversation_pair' WHERE id = %s", home)
        kept = self.db.one(REMEMBER, "counter", "fact", "likes rain", 1, 0)
        wait_until("no other memory left", lambda: accesses() == {str(kept): 0}, alive=self.w)
        wait_until("rows that equal the oracle's", lambda: self.w.verify(30)["inexact"] == 0, alive=self.w)
        self.assertEqual([], self.w.dead_letters())

    def test_tables_of_other_schemas_fill_their_rows(self):
        self.say("many", 4000, "hello there", "hello")
        self.say("many", 60, "how are you", "well")
        self.db.run("INSERT INTO persona.sheets VALUES ('elena', 'g1', 3, '{\"warm\": 0.6, \"brief\": 0.4}', now() AT TIME ZONE '+02:00' - interval '9 days')")
        self.db.run("INSERT INTO telemetry.points(bot, name, field, value, at_ns) SELECT 'elena', 'conversation_quality', 'engagement_score', 0.5 + g %% 10 / 40.0, "
                    "(extract(epoch FROM now())::bigint - g * 60) * 1000000000 FROM generate_series(1, 300) g", None)
        self.db.run("INSERT INTO crm.pings VALUES ('many', 1, 'elena', 'draft', now() - interval '3 h', NULL, 'tea')")
        self.db.run("UPDATE crm.pings SET state = 'out' WHERE customer = 'many'")
        self.db.run("INSERT INTO crm.pings VALUES ('many', 2, 'elena', 'in', now() - interval '3 h', now() - interval '2 h', 'tea')")
        self.w.wait_covered()
        wait_until("the bot's scores", lambda: (self.sink.one("SELECT engagement_score_avg FROM strategic_character_performance WHERE bot_name = 'elena' "
                                                            "AND time_window_hours = 24") or 0) > 0.5, alive=self.w)
        self.w.verify(30)
        self.db.run("INSERT INTO legal.requests(subject, kind, at_s) VALUES ('many', 'stop', extract(epoch FROM now()))")
        wait_until("the opt-out to show", lambda: self.sink.one("SELECT receptivity_score FROM strategic_engagement_opportunities WHERE user_id = 'many'") == 0,
                   alive=self.w)
        self.w.verify(30)
        self.assertEqual([], self.w.dead_letters())

    def test_a_column_that_only_some_of_the_rows_have_is_bridged(self):
        """The mapping lists a path first and a column after it; the table gets that column while we stream."""
        for n in range(6):
            self.say("bridge", 400 - n, f"before {n}", emotion="joy")
        self.db.run("ALTER TABLE conversations ADD COLUMN emotion text")
        for n in range(6):
            self.db.run("UPDATE conversations SET emotion = 'anger' WHERE id = %s", self.say("bridge", 300 - n, f"after {n}"))
        self.wait_counts()
        self.w.verify(30)
        self.assertEqual([], self.w.dead_letters())

    def test_doctor_names_what_the_mapping_lacks(self):
        self.db.run("ALTER TABLE conversations RENAME COLUMN roberta_confidence TO confidence")
        self.db.run("ALTER TABLE conversations RENAME COLUMN bot_response TO answer")
        out = self.w.command("doctor")[1]
        self.assertIn('has no column "roberta_confidence" (field emotion_confidence); what else the field lists is used', out)
        self.assertIn('has no column "bot_response" (only_if)', out)
        self.assertIn('has no column "bot_response" (field content)\n', out)
        self.db.run("ALTER TABLE conversations RENAME COLUMN answer TO bot_response")
        self.db.run("ALTER TABLE conversations RENAME COLUMN confidence TO roberta_confidence")
        self.db.run("ALTER TABLE memory_entries REPLICA IDENTITY DEFAULT")
        out = self.w.command("doctor")[1]
        self.assertIn("does not bring the old value of the counter", out)
        self.assertIn('ALTER TABLE "public"."memory_entries" REPLICA IDENTITY FULL', out)
        self.db.run("ALTER TABLE memory_entries REPLICA IDENTITY FULL")
