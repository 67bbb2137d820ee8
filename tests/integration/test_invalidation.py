"""Each line of the invalidation matrix (docs/INVALIDATION.md) as an application meets it: it commits, and reads strategic_bundle until
that says what the line promises; and nothing that was taken back is ever shown as fresh or current after that.

WARMPATH_ROUNDS=20 takes the figures of the document; the default is enough to see that it works.
"""
import glob
import json
import os
import re
import sqlite3
import statistics
import time
import unittest

from harness import PipelineTest, connect, wait_until

ROUNDS = int(os.environ.get("WARMPATH_ROUNDS", "2"))
PARTS = {"mh": "memory_health", "pp": "personality", "cp": "conversation", "mb": "memory_behavior", "eo": "engagement", "pf": "performance"}
USABLE = ("fresh", "current")

SOURCES = """
CREATE TABLE public.chat_message(
    id bigserial PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, role text NOT NULL, content text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), metadata jsonb);
ALTER TABLE public.chat_message REPLICA IDENTITY FULL;
CREATE TABLE public.memory_event(
    id bigserial PRIMARY KEY, memory_id text NOT NULL, user_id text NOT NULL, bot_name text NOT NULL, kind text NOT NULL,
    content text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE public.metric_point(
    id bigserial PRIMARY KEY, bot_name text NOT NULL, measurement text NOT NULL, field text, value float8,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE public.character_definition(bot_name text PRIMARY KEY, version int, traits jsonb, updated_at timestamptz NOT NULL);
ALTER TABLE public.character_definition REPLICA IDENTITY FULL;
CREATE TABLE public.user_privacy(
    id bigserial PRIMARY KEY, user_id text NOT NULL, bot_name text, kind text NOT NULL, scope text,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
"""

# Nothing but the line under test makes a row due within the time that a test waits: counts are out of reach, ages are a minute.
CONFIG = """pipeline: {name}
source:
  conninfo: "{conninfo}"
  slot: {name}
  publication: {name}
  create: true
  on_slot_lost: {on_slot_lost}
  tables:
    - relation: public.chat_message
      event: message
      fields:
        id: id
        user_id: user_id
        bot_name: bot_name
        role: {{column: role, map: {{user: user, bot: bot}}}}
        content: content
        at: {{column: created_at, unit: timestamp}}
        traits: {{column: metadata, path: traits}}
    - relation: public.memory_event
      event: memory
      fields: {{id: id, user_id: user_id, bot_name: bot_name, op: kind, memory_id: memory_id, content: content, at: at}}
    - relation: public.metric_point
      event: metric
      fields: {{id: id, bot_name: bot_name, measurement: measurement, field: field, value: value, at: at}}
    - relation: public.character_definition
      event: character
      fields: {{id: bot_name, bot_name: bot_name, version: version, traits: traits, at: updated_at}}
    - relation: public.user_privacy
      event: privacy
      fields: {{id: id, user_id: user_id, bot_name: bot_name, op: {{column: kind, map: {{stop: optout, go: optin, gone: erase}}}}, scope: scope, at: at}}
{sink}state:
  dir: {state}
  workers: {workers}
  memory: {memory}
link: {{url: "{link}"}}
catch_up_lag: CATCH_UP
triggers:
  memory_aging: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  character_performance: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  personality_profile: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  context_switch: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  memory_behavior: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  conversation_patterns: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
  proactive_engagement: {{count: {count}, max_age: AGE, idle: 500ms, min_interval: 0s}}
log: {{level: {log_level}}}
"""


def config(age="60s", catch_up="5s"):
    return CONFIG.replace("AGE", age).replace("CATCH_UP", catch_up)


def about(word):
    """A message that is a topic of its own, whose label says the word whichever of its words it takes."""
    return " ".join(f"{word}{end}" for end in ("s", "ist", "ic", "ville"))


class InvalidationTest(PipelineTest):
    options = {"config": config(), "count": 1000}
    tables = SOURCES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()
        cls.figures = {}

    @classmethod
    def tearDownClass(cls):
        for line, seconds in cls.figures.items():
            print(f"invalidation: {line}: p50 {statistics.median(seconds) * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms, "
                  f"{len(seconds)} rounds", flush=True)
        super().tearDownClass()

    # ---- the application

    def say(self, user, content, role="user", ago=0, traits=None):
        return self.db.one("INSERT INTO chat_message(user_id, bot_name, role, content, created_at, metadata) VALUES (%s, 'elena', %s, %s, "
                           "clock_timestamp() - %s * interval '1 s', %s) RETURNING id",
                           user, role, content, ago, json.dumps({"traits": [{"name": t, "weight": 1} for t in traits]}) if traits else None)

    def remember(self, user, memory, kind="create", content=None):
        self.db.run("INSERT INTO memory_event(memory_id, user_id, bot_name, kind, content) VALUES (%s, %s, 'elena', %s, %s)",
                    memory, user, kind, content)

    def wish(self, user, kind, scope, bot="elena"):
        self.db.run("INSERT INTO user_privacy(user_id, bot_name, kind, scope) VALUES (%s, %s, %s, %s)", user, bot, kind, scope)

    def define(self, version, traits, bot="elena"):
        self.db.run("INSERT INTO character_definition VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT (bot_name) DO UPDATE SET "
                    "version = EXCLUDED.version, traits = EXCLUDED.traits, updated_at = EXCLUDED.updated_at",
                    bot, version, json.dumps(traits))

    def conversation(self, user):
        """Enough of it for every row of the user: topics, traits, a style."""
        for n in range(14):
            ago = 20000 - n * 600
            self.say(user, f"what does the zebra{n % 3} eat in the garden, doctor?", ago=ago)
            self.say(user, "it eats grass and leaves all day long", "bot", ago=ago - 30, traits=("warm", "curious")[n % 2:])

    # ---- the reader

    def bundle(self, user, bot="elena"):
        """{part: (freshness, row as JSON or None)}"""
        columns = ", ".join(f"{p}_f, to_jsonb({p})" for p in PARTS)
        row = self.sink.run(f"SELECT {columns} FROM strategic_bundle(%s, %s)", user, bot)[0]
        return {p: (row[2 * i], row[2 * i + 1]) for i, p in enumerate(PARTS)}

    def until(self, what, user, condition, bot="elena", seconds=30):
        """The first bundle that meets the condition."""
        found = None

        def look():
            nonlocal found
            found = self.bundle(user, bot)
            return condition(found)
        wait_until(what, look, seconds, alive=self.w)
        return found

    def settled(self, user, *parts, bot="elena"):
        return self.until(f"the rows of {user}", user, lambda b: all(b[p][0] in USABLE for p in parts), bot)

    def measure(self, line, user, condition, forbidden=None, seconds=30):
        """Polls from the commit that has just returned; forbidden must not be usable in any row once the condition has held."""
        began = time.monotonic()
        while not condition(self.bundle(user)):
            if time.monotonic() - began > seconds or not self.w.running():
                raise AssertionError(f"{line}: not seen within {seconds} s: {self.bundle(user)}\n{self.w.log_tail()}")
        self.figures.setdefault(line, []).append(time.monotonic() - began)
        for _ in range(20 if forbidden else 0):
            for part, (freshness, row) in self.bundle(user).items():
                self.assertFalse(freshness in USABLE and forbidden in json.dumps(row), f"{line}: {part} is {freshness} and says {forbidden}")

    def says(self, text, *parts):
        return lambda b: all(b[p][0] in USABLE and text in json.dumps(b[p][1]) for p in parts)

    def silent(self, text, *parts):
        return lambda b: all(b[p][0] in USABLE and text not in json.dumps(b[p][1]) for p in parts)


class MessagesTest(InvalidationTest):
    def test_a_deleted_message_is_out_of_sight(self):
        for n in range(ROUNDS):
            user, word = f"deleted-{n}", f"xylophone{n}"
            self.conversation(user)
            m = self.say(user, about(word))
            self.until("the word", user, self.says(word, "cp", "eo"))
            self.db.run("DELETE FROM chat_message WHERE id = %s", m)
            self.measure("message deleted", user, self.silent(word, "cp", "eo", "pp"), word)

    def test_an_edited_message_says_only_what_it_says_now(self):
        for n in range(ROUNDS):
            user, word = f"edited-{n}", f"accordion{n}"
            self.conversation(user)
            m = self.say(user, about(word))
            self.until("the word", user, self.says(word, "cp", "eo"))
            self.db.run("UPDATE chat_message SET content = %s WHERE id = %s", about("trombone"), m)
            self.measure("message edited", user, self.silent(word, "cp", "eo", "pp"), word)
            self.assertIn("trombone", json.dumps(self.bundle(user)["cp"][1]))

    def test_a_forgotten_memory_is_in_no_row(self):
        for n in range(ROUNDS):
            user, memory = f"forgets-{n}", f"harpsichord{n}"
            self.conversation(user)
            for m in ("kept", memory):
                self.remember(user, m, content=f"{m} {m} in the attic")
                self.remember(user, m, "access")
            self.until("the memory", user, self.says(memory, "mh"))
            self.remember(user, memory, "delete")
            self.measure("memory forgotten", user, self.silent(memory, "mh", "mb", "eo"), memory)
            self.assertIn("kept", json.dumps(self.bundle(user)["mh"][1]))


class RequestTest(InvalidationTest):
    def test_what_the_application_says_is_wrong_is_so_with_its_commit(self):
        for n in range(ROUNDS):
            user = f"wrong-{n}"
            self.conversation(user)
            self.until("all of it", user, lambda b: self.says("curious", "pp")(b) and b["cp"][1]["event_count"] == 28 and
                       b["cp"][0] in USABLE and b["eo"][0] in USABLE)
            conn = connect(self.db.name, autocommit=False)
            cur = conn.cursor()
            cur.execute("UPDATE chat_message SET metadata = NULL WHERE user_id = %s", (user,))
            cur.execute("SELECT strategic_invalidate(%s, 'elena', 'test')", (user,))
            self.assertTrue(self.says("curious", "pp")(self.bundle(user)))  # nobody sees it before the commit
            conn.commit()
            began = time.monotonic()
            b = self.bundle(user)
            self.figures.setdefault("strategic_invalidate, rows of before invalid", []).append(time.monotonic() - began)
            for part in ("pp", "cp", "eo"):
                self.assertFalse(b[part][0] in USABLE and "curious" in json.dumps(b[part][1]), part)
            self.measure("strategic_invalidate, computed again", user, lambda b: all(b[p][0] in USABLE for p in ("pp", "cp", "eo")), "curious")
            conn.close()

    def test_of_a_user_who_is_erased_no_row_is_left(self):
        for n in range(ROUNDS):
            user = f"erased-{n}"
            self.conversation(user)
            self.remember(user, f"secret{n}", content="a secret in the attic")
            self.settled(user, "pp", "cp", "eo", "mh", "mb")
            self.db.run("DELETE FROM chat_message WHERE user_id = %s", user)
            self.db.run("DELETE FROM memory_event WHERE user_id = %s", user)
            self.wish(user, "gone", None, None)
            self.measure("user erased", user, lambda b: all(b[p][0] == "missing" for p in ("mh", "pp", "cp", "mb", "eo")))


class CatchingUpTest(InvalidationTest):
    """However far behind the input is: the bound is so small here that it always counts as behind."""
    options = {"config": config(catch_up="0s"), "count": 1000}

    def test_a_deletion_does_not_wait_for_the_age_of_the_row(self):
        for n in range(ROUNDS):
            user, word = f"behind-{n}", f"xylophone{n}"
            self.conversation(user)
            m = self.say(user, about(word))
            self.w.wait_covered()
            self.db.run("SELECT strategic_recompute(%s, 'elena')", user)
            self.until("the word", user, self.says(word, "cp", "eo"))
            self.db.run("DELETE FROM chat_message WHERE id = %s", m)
            # Its age would show it after a minute.
            self.measure("message deleted, while catching up", user, self.silent(word, "cp", "eo"), word)


class ConsentTest(InvalidationTest):
    def opted_out(self, user, bot="elena"):
        return self.sink.one("SELECT opted_out FROM strategic_key_activity WHERE user_id = %s AND bot_name = %s", user, bot)

    def test_who_wants_to_be_left_alone_is(self):
        for n in range(ROUNDS):
            user = f"alone-{n}"
            self.conversation(user)
            self.until("topics", user, lambda b: b["eo"][0] in USABLE and b["eo"][1]["suggested_topics"])
            self.assertIs(False, self.opted_out(user))
            self.wish(user, "stop", "proactive")
            self.measure("opt-out of proactive", user, lambda b: b["eo"][0] in USABLE and b["eo"][1]["receptivity_score"] == 0 and not
                         b["eo"][1]["suggested_topics"] and b["eo"][1]["next_contact_at"] is None)
            self.assertIs(True, self.opted_out(user))
            self.assertIn(self.bundle(user)["pp"][0], USABLE)
            # What he says next changes nothing about that.
            self.say(user, "and what about the penguins, doctor?")
            self.say(user, "they swim all day long", "bot")
            self.w.wait_covered()
            self.assertEqual(0, self.bundle(user)["eo"][1]["receptivity_score"])
            self.wish(user, "go", "proactive")
            self.measure("opt-in to proactive", user, lambda b: b["eo"][0] in USABLE and b["eo"][1]["suggested_topics"])
            self.assertIs(False, self.opted_out(user))

    def test_who_refuses_a_profile_has_none(self):
        for n in range(ROUNDS):
            user = f"private-{n}"
            self.conversation(user)
            self.until("a profile", user, lambda b: self.says("curious", "pp")(b) and b["cp"][0] in USABLE and
                       b["cp"][1]["communication_style"] is not None)
            self.wish(user, "stop", "profiling")
            self.measure("opt-out of profiling", user, lambda b: b["pp"][0] == "missing" and b["cp"][0] in USABLE and
                         b["cp"][1]["communication_style"] is None and b["cp"][1]["preferred_depth"] is None)
            cp = self.bundle(user)["cp"][1]
            self.assertEqual("opted_out", cp["details"]["reason"]["communication_style"])
            self.assertTrue(cp["recent_topics"])
            self.wish(user, "go", "profiling")
            self.measure("opt-in to profiling", user, lambda b: b["pp"][0] in USABLE and b["cp"][1]["communication_style"] is not None)
            # It begins anew: what was said before shows no trait.
            self.assertNotIn("curious", json.dumps(self.bundle(user)["pp"][1]))

    def test_a_wish_without_scope_and_bot_holds_for_bots_to_come(self):
        user = "everything"
        self.conversation(user)
        self.until("a profile", user, self.says("curious", "pp"))
        self.wish(user, "stop", None, None)
        self.until("no profile", user, lambda b: b["pp"][0] == "missing" and b["eo"][1]["receptivity_score"] == 0)
        self.w.stop()
        self.w.start()
        for n in range(14):
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'marcus', %s, %s)",
                        user, ("user", "bot")[n % 2], f"the zebra{n % 3} is in the garden")
        b = self.until("the rows of another bot", user, lambda b: b["eo"][0] in USABLE and b["cp"][0] in USABLE, "marcus")
        self.assertEqual("missing", b["pp"][0])
        self.assertIsNone(b["cp"][1]["communication_style"])
        self.assertIs(True, self.opted_out(user, "marcus"))
        self.w.verify()


class CharacterTest(InvalidationTest):
    def test_a_new_character_invalidates_every_profile_at_once(self):
        users = [f"fan-{n}" for n in range(5)]
        for user in users:
            self.conversation(user)
        for n in range(30):
            self.db.run("INSERT INTO metric_point(bot_name, measurement, field, value) VALUES ('elena', 'conversation_quality', "
                        "'engagement_score', 0.5)")
        for user in users:
            self.settled(user, "pp", "pf")
        for n in range(ROUNDS):
            before = {u: self.bundle(u)["pp"][1]["computed_at"] for u in users}
            self.define(n + 1, {"warm": 0.5, "curious": 0.5 + n / 100})
            began = time.monotonic()
            entered = None
            waiting = set(users)
            while waiting:
                self.assertLess(time.monotonic() - began, 30, waiting)
                changed = self.sink.run("SELECT character_changed_at FROM strategic_bot_epoch WHERE character_version = %s", n + 1)
                if changed and not entered:
                    entered = self.figures.setdefault("character changed, rows of before invalid", [])
                    entered.append(time.monotonic() - began)
                for user in users:
                    b = self.bundle(user)
                    self.assertFalse(changed and b["pp"][1]["computed_at"] == before[user] and b["pp"][0] != "invalid", b["pp"])
                    if changed and user in waiting and b["pp"][0] in USABLE and b["pf"][0] in USABLE:
                        self.assertEqual(n + 1, b["pf"][1]["details"]["character_version"])
                        self.figures.setdefault("character changed, computed again", []).append(time.monotonic() - began)
                        waiting.remove(user)
            # The same again is no change.
            self.define(n + 1, {"curious": 0.5 + n / 100, "warm": 0.5})
            self.w.wait_covered()
            self.say(users[0], "is it still you?")
            self.until("a row from after that", users[0], lambda b: b["cp"][1]["event_count"] > 28 + n)
            self.assertEqual(changed, self.sink.run("SELECT character_changed_at FROM strategic_bot_epoch WHERE bot_name = 'elena'"))

class AnewTest(InvalidationTest):
    """All rows at once: they were made with something else, or of a source that is no more."""
    options = {"config": config(age="3s"), "count": 1000}  # what is loaded counts as far behind

    def make_current(self, user):
        """As after some quiet minutes: the rows have expired, but nothing has changed since."""
        self.sink.run("".join(f"UPDATE strategic_{t} SET expires_at = now() - interval '1 s', valid_until = now() + interval '1 h';"
                              for t in ("personality_profiles", "conversation_patterns", "engagement_opportunities")))
        self.until("rows that are current", user, lambda b: all(b[p][0] == "current" for p in ("pp", "cp", "eo")))

    def rebuilt(self, user, reason, change):
        """Stops, changes something, starts: rows are stale until each is made again."""
        self.make_current(user)
        self.w.stop()
        change()
        before = self.bundle(user)
        began = time.monotonic()
        # The rebuild cannot read the tables, so that there is time to look.
        blocker = connect(self.db.name, autocommit=False)
        blocker.cursor().execute("LOCK TABLE chat_message IN ACCESS EXCLUSIVE MODE")
        self.w.start()
        self.measure_since(began, f"{reason} changed, rows of before stale",
                           user, lambda b: all(b[p][0] == "stale" for p in ("pp", "cp", "eo")))
        for _ in range(50):
            for part, (freshness, row) in self.bundle(user).items():
                if row and row["row_version"] == before[part][1]["row_version"]:
                    self.assertNotIn(freshness, USABLE, part)
        blocker.rollback()
        blocker.close()
        self.measure(f"{reason} changed, rows made again", user, lambda b: all(b[p][0] in USABLE for p in ("pp", "cp", "eo")))
        after = self.bundle(user)
        for part in ("pp", "cp", "eo"):
            self.assertGreater(after[part][1]["row_version"], before[part][1]["row_version"])
        wait_until("the rebuild to be done", lambda: self.sink.one(
            "SELECT finished_at IS NOT NULL FROM strategic_rebuild WHERE reason = %s", reason), alive=self.w)
        self.assertIsNone(self.sink.one("SELECT error FROM strategic_rebuild WHERE reason = %s", reason))
        self.w.verify()

    def measure_since(self, began, line, user, condition):
        self.until(line, user, condition, seconds=60)
        self.figures.setdefault(line, []).append(time.monotonic() - began)

    def other_engines(self):
        path = os.path.join(self.w.state, "built_with")
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(re.sub("engines [0-9a-f]+", "engines 0123456789abcdef", text))

    def other_mapping(self):
        self.w.template = self.w.template.replace("        traits: {{column: metadata, path: traits}}\n", "", 1)
        self.w.write_config()

    def rewound(self):
        """What a server that was restored from a backup looks like to the state: the state knows changes that it never had."""
        for path in glob.glob(os.path.join(self.w.state, "set-*", "worker-*.db")):
            db = sqlite3.connect(path)
            db.execute("UPDATE meta SET covered = covered + (1 << 40)")
            db.commit()
            db.close()

    def test_1_other_engines(self):
        self.conversation("anna")
        self.until("a profile", "anna", self.says("curious", "pp"))
        self.rebuilt("anna", "engine_version", self.other_engines)
        self.assertIn("curious", json.dumps(self.bundle("anna")["pp"][1]))
        self.w.stop()
        self.w.start()  # and only once
        self.assertEqual(1, self.sink.one("SELECT count(*) FROM strategic_rebuild"))

    def test_2_another_mapping(self):
        self.rebuilt("anna", "mapping", self.other_mapping)
        self.assertNotIn("curious", json.dumps(self.bundle("anna")["pp"][1]))

    def test_3_a_source_that_was_rewound(self):
        self.make_current("anna")
        self.w.stop()
        self.rewound()
        began = time.monotonic()
        self.w.spawn()
        self.assertEqual(1, self.w.wait(60))
        self.assertIn("was restored from a backup", self.w.new_log())
        self.figures["source rewound, no row current"] = [time.monotonic() - began]
        b = self.bundle("anna")
        self.assertEqual(["stale"] * 3, [b[p][0] for p in ("pp", "cp", "eo")])
        # Begun anew, what was said meanwhile and what was never said are put right.
        self.db.run("DELETE FROM chat_message WHERE user_id = 'anna' AND role = 'bot'")
        self.w.write_config(on_slot_lost="rebuild")
        began = time.monotonic()
        self.w.start()
        self.measure_since(began, "source rewound, begun anew", "anna", lambda b: b["cp"][0] in USABLE and b["cp"][1]["event_count"] == 14)
        self.w.verify()


class DurableTest(InvalidationTest):
    """What a reader sees is durable in the state: it stays true when the commit of the state takes for ever."""
    options = {"config": config(age="1s"), "count": 2, "workers": 1}
    user = "anna"

    def row(self):
        """(event_count, source_lsn) of the row, whatever its freshness."""
        return self.sink.run("SELECT event_count, (source_lsn - '0/0')::bigint FROM strategic_conversation_patterns WHERE user_id = %s", self.user)[0]

    def durable(self, partition):
        """(number, LSN) of the newest event of the partition that another process finds in the state."""
        (path,) = glob.glob(os.path.join(self.w.state, "set-*", "worker-0.db"))
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return db.execute("SELECT pseq, lsn FROM applied WHERE source = 0 AND partition = ?", (partition,)).fetchone()
        finally:
            db.close()

    def test_no_row_shows_what_is_not_durable(self):
        for n in range(4):
            self.say(self.user, f"number {n}")
        self.until("the rows", self.user, lambda b: b["cp"][0] in USABLE and b["cp"][1]["event_count"] == 4)
        for passing in (2, 5):
            self.w.wait_covered()
            partition = self.sink.one("SELECT shard FROM strategic_key_activity WHERE user_id = %s", self.user)
            sent = self.db.one("SELECT count(*) FROM chat_message")
            self.until("all of it", self.user, lambda b: b["cp"][1]["event_count"] == sent)
            base = self.durable(partition)[0] - sent  # other events than messages: none
            self.w.stop()
            self.w.spawn(env={"WARMPATH_FAULT": f"store_before_commit:{passing}:hang"})
            wait_until("the commit that hangs", lambda: self.say(self.user, "more") and "hanging at" in self.w.new_log(), 60, alive=self.w)
            for n in range(20):
                self.say(self.user, f"still more {n}")
            until = time.monotonic() + 3
            while time.monotonic() < until:
                shown, shown_lsn = self.row()
                pseq, lsn = self.durable(partition)
                self.assertLessEqual(shown, pseq - base)
                self.assertLessEqual(shown_lsn, lsn)
            self.assertLessEqual(self.row()[0], self.db.one("SELECT count(*) FROM chat_message") - 20)
            self.w.kill()
            self.assertLessEqual(self.row()[0], self.durable(partition)[0] - base)
            self.w.start()
            sent = self.db.one("SELECT count(*) FROM chat_message")
            self.until("what was not durable then", self.user, lambda b: b["cp"][0] in USABLE and b["cp"][1]["event_count"] == sent)
        self.w.verify()


if __name__ == "__main__":
    unittest.main()
