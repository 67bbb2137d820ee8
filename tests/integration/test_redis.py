"""Redis beside the cache: what it holds is what PostgreSQL holds, what is invalid or forgotten is gone, and whatever happens to it, the
pipeline does not notice, and Redis is right again without anybody's help.

What a value must be is computed here from the rows, by plain Python.
"""
import json
import os
import signal
import subprocess
import threading
import time
import unittest

from harness import CONFIG, WARMPATH, Database, Load, PipelineTest, Warmpath, connect, wait_until
from redis_server import RedisServer
from test_private import UnixConnection, answer, figures

COMPONENTS = {
    "memory_health": ("memory_snapshot", "avg_memory_age_hours", "retrieval_frequency_trend", "forgetting_risk_memories",
                      "topic_relevance_drift"),
    "personality_profiles": ("dominant_traits", "user_response_patterns", "adaptation_suggestions", "trait_evolution_history"),
    "conversation_patterns": ("recent_topics", "avg_topic_duration_minutes", "context_switch_frequency", "predicted_switch_likelihood",
                              "topic_transition_graph", "communication_style", "preferred_depth", "emotional_engagement",
                              "optimal_response_length"),
    "memory_behavior": ("forgetting_curve_params", "high_retention_memories", "low_retention_memories", "recall_simulation_score",
                        "consolidation"),
    "engagement_opportunities": ("optimal_timing_hours", "receptivity_score", "suggested_topics", "last_engagement_gap_hours",
                                 "proactive_success_rate", "next_contact_at", "last_user_message_at", "opportunities"),
}
PERFORMANCE = ("engagement_score_avg", "satisfaction_score_avg", "coherence_score_avg", "personality_consistency_index", "quality_trend",
               "recent_anomalies")
TIMES = ("computed_at", "expires_at", "valid_until", "as_of")
PREFIX = "strategic:"
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PASSWORD = "a-password-nobody-may-read"
HARD_USERS = ("a:b", ":", "*?[x]\\", 'quote " and \\', "Zoë 日本", "{x}", "bot:elena")


def template(server, private="", more=""):
    """CONFIG with Redis, and a private listener when its path is given."""
    http = f'http: {{{{private: "unix:{private}"}}}}\n' if private else ""
    return CONFIG.replace("log: {{", f'{http}redis: {{{{url: "{server.url}"{more}}}}}\nlog: {{{{')


class RedisCase(PipelineTest):
    """A pipeline with a Redis server of its own."""

    password = None
    redis_options = ""

    @classmethod
    def setUpClass(cls):
        cls.redis = RedisServer(cls.password).start()
        cls.addClassCleanup(cls.redis.close)
        cls.private = cls.redis.dir + "/private.sock"
        cls.options = dict(config=template(cls.redis, cls.private, cls.redis_options))
        super().setUpClass()

    # ---- what should be there

    def rows(self, table):
        times = ", ".join(f"extract(epoch FROM {t})::float8" for t in TIMES)
        return self.db.run(f"SELECT to_json(t), {times}, expires_at > now() FROM strategic_{table} t")

    @staticmethod
    def component(row, columns):
        whole = row[0]
        return {**dict(zip(TIMES, row[1:5])), "row_version": whole["row_version"], "confidence": whole["confidence"],
                "state_flags": whole["state_flags"], "row": {c: whole[c] for c in (*columns, "details")}}

    def expected(self):
        """key -> value, from the rows."""
        keys, wrong, live = {}, set(), set()
        for name, columns in COMPONENTS.items():
            for row in self.rows(name):
                key = row[0]["user_id"], row[0]["bot_name"]
                keys.setdefault(key, {})[name] = self.component(row, columns)
                if row[0]["invalidated_at"]:
                    wrong.add(key)
                if row[5]:
                    live.add(key)
        shards = {(u, b): s for u, b, s in self.db.run("SELECT user_id, bot_name, shard FROM strategic_key_activity")}
        return {f"{PREFIX}user:{bot}:{user}": {"v": 1, "user_id": user, "bot_name": bot, "shard": shards.get((user, bot)),
                                               **{name: parts.get(name) for name in COMPONENTS}}
                for (user, bot), parts in keys.items() if (user, bot) in live - wrong}

    def expected_bots(self, bots):
        changed = dict(self.db.run("SELECT bot_name, extract(epoch FROM character_changed_at)::float8 FROM strategic_bot_epoch"))
        values = {f"{PREFIX}bot:{bot}": {"v": 1, "bot_name": bot, "character_changed_at": changed.get(bot), "character_performance": None}
                  for bot in bots}
        for row in self.rows("character_performance"):
            value = values.get(f"{PREFIX}bot:{row[0]['bot_name']}")
            if value and not row[0]["invalidated_at"]:
                value["character_performance"] = {**(value["character_performance"] or {}),
                                                  str(row[0]["time_window_hours"]): self.component(row, PERFORMANCE)}
        return values

    # ---- what is there

    def found(self):
        r = self.redis.connect()
        try:
            keys = r("KEYS", PREFIX + "*")
            values = r("MGET", *keys) if keys else []
        finally:
            r.close()
        return {k: json.loads(v) for k, v in zip(keys, values) if v is not None and k.startswith((PREFIX + "user:", PREFIX + "bot:"))}

    def difference(self):
        found = self.found()
        users = {k: v for k, v in found.items() if k.startswith(PREFIX + "user:")}
        bots = {k: v for k, v in found.items() if k.startswith(PREFIX + "bot:")}
        expected = self.expected()
        expected_bots = self.expected_bots({v["bot_name"] for v in [*expected.values(), *bots.values()]})
        pairs = (users, expected), (bots, expected_bots)
        return [(k, a.get(k), b.get(k)) for a, b in pairs for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]

    def assert_same(self, seconds=60):
        """Redis holds what PostgreSQL does, soon."""
        rest = None

        def same():
            nonlocal rest
            rest = self.difference()
            return not rest

        try:
            wait_until("Redis to hold what PostgreSQL does", same, seconds, alive=self.w if self.w.running() else None)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{len(rest)} keys differ (Redis, PostgreSQL), the first: {str(rest[:1])[:4000]}") from None

    def key(self, user, bot="bot0"):
        return f"{PREFIX}user:{bot}:{user}"

    def has(self, user, bot="bot0"):
        return self.redis.call("EXISTS", self.key(user, bot)) == 1

    def say(self, user, bot="bot0", n=1):
        for i in range(n):
            self.db.run("INSERT INTO chat_message (user_id, bot_name, role, content) VALUES (%s, %s, 'user', %s)", user, bot, f"tea {i}")

    def notify(self, user, bot="bot0", reason="test"):
        self.db.run("SELECT pg_notify('strategic_cache', %s)", json.dumps(
            {"bot_name": bot, "user_id": user, "tables": [], "row_version": 1, "reason": reason}))

    def plant(self, *users, bot="bot0"):
        """Rows by hand: the pipeline knows nothing of them, so that it does not write them anew. Waits for their values."""
        for user in users:
            for name in COMPONENTS:
                snapshot = ("memory_snapshot, ", "'{}', ") if name == "memory_health" else ("", "")
                self.db.run(f"INSERT INTO strategic_{name} ({snapshot[0]}user_id, bot_name, expires_at) "
                            f"VALUES ({snapshot[1]}%s, %s, now() + interval '1 hour')", user, bot)
            self.notify(user, bot)
        for user in users:
            wait_until(f"a value of {user}", lambda u=user: self.has(u, bot), alive=self.w)

    def uproot(self, user):
        for table in (*COMPONENTS, "key_activity"):
            self.db.run(f"DELETE FROM strategic_{table} WHERE user_id = %s", user)

    def counted(self, user, bot="bot0"):
        """The row in PostgreSQL shows all messages of the user."""
        wait_until(f"all messages of {user} in PostgreSQL", lambda: self.db.one(
            "SELECT event_count = (SELECT count(*) FROM chat_message m WHERE m.user_id = p.user_id AND m.bot_name = p.bot_name)"
            " FROM strategic_conversation_patterns p WHERE user_id = %s AND bot_name = %s", user, bot), 60, alive=self.w)

    def ready(self):
        status, _, text = answer(UnixConnection(self.private), "GET", "/readyz?verbose")
        return status, text

    def figure(self, name):
        return figures(answer(UnixConnection(self.private), "GET", "/metrics")[2]).get(f"warmpath_redis_{name}")


class RedisTest(RedisCase):
    """One pipeline that runs all the time; every test has users of its own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def test_values_are_the_rows_and_all_expire(self):
        Load(self.db, seed=1).run(60)  # deletes messages, too
        for user in HARD_USERS:
            self.say(user)
        self.say("user", "elena")
        self.w.wait_covered()
        for user in HARD_USERS:
            wait_until(f"a value of {user}", lambda u=user: self.has(u), alive=self.w)
        self.assert_same()
        self.assertGreater(len(self.found()), 20)
        r = self.redis.connect()
        self.addCleanup(r.close)
        for key in r("KEYS", "*"):
            self.assertTrue(0 < r("TTL", key) <= 300, key)
        wait_until("the processor's progress", lambda: r("GET", PREFIX + "processor"), alive=self.w)
        progress = json.loads(r("GET", PREFIX + "processor"))
        now = time.time()
        self.assertLess(abs(now - progress["heartbeat"]), 60)
        self.assertEqual({str(i) for i in range(64)}, set(progress["caught_up_to"]))
        self.assertEqual({key.removeprefix(PREFIX).partition(":")[0] for key in r("KEYS", "*")}, {"user", "bot", "processor", "marker"})
        wait_until("the figures", lambda: (self.figure("sets_total") or 0) >= 20 and self.figure("pending") == 0, alive=self.w)
        self.assertEqual(1, self.figure("connected"))

    def test_the_reader_in_the_manual_sees_what_the_bundle_shows(self):
        """The program in docs/REDIS.md, as it stands there, beside strategic_bundle: the same freshness of each component."""
        with open(os.path.join(ROOT, "docs", "REDIS.md")) as f:
            program = f.read().split("```python\n")[1].split("```")[0]
        manual = {"json": json}
        exec(program, manual)

        class Client:
            mget = staticmethod(lambda *keys: self.redis.call("MGET", *keys))

        columns = dict(memory_health="mh", personality_profiles="pp", conversation_patterns="cp", memory_behavior="mb",
                       engagement_opportunities="eo", character_performance="pf")
        bundle = f"SELECT {', '.join(f'{c}_f' for c in columns.values())} FROM strategic_bundle(%s, %s)"

        def told():
            seen = manual["read"](Client, "reader", "shown", time.time())
            return seen and {name: seen[name][0] for name in columns}

        def shown():
            return dict(zip(columns, self.db.run(bundle, "reader", "shown")[0]))

        self.assertIsNone(told())
        self.plant("reader", bot="shown")
        self.db.run("INSERT INTO strategic_key_activity (user_id, bot_name, shard) VALUES ('reader', 'shown', 5)")
        self.db.run("INSERT INTO strategic_character_performance (bot_name, time_window_hours, expires_at) "
                    "VALUES ('shown', 168, now() - interval '3 days')")
        for table, change in (("", ""),
                              ("memory_health", "expires_at = now() - interval '1 minute', valid_until = now() + interval '1 hour'"),
                              ("memory_behavior", "expires_at = now() - interval '1 minute', valid_until = now() - interval '1 second'"),
                              ("conversation_patterns", "expires_at = now() - interval '25 hours'"),
                              ("bot_epoch", "")):
            if change:
                self.db.run(f"UPDATE strategic_{table} SET {change} WHERE user_id = 'reader'")
            elif table:
                self.db.run("INSERT INTO strategic_bot_epoch VALUES ('shown', now() + interval '1 second')")
                self.db.run("DELETE FROM strategic_engagement_opportunities WHERE user_id = 'reader'")
            self.notify("reader", "shown")
            wait_until(f"the reader to see {table or 'the rows'}", lambda: told() == shown(), alive=self.w)
        self.assertEqual(dict(memory_health="current", personality_profiles="invalid", conversation_patterns="expired",
                              memory_behavior="stale", engagement_opportunities="missing", character_performance="invalid"), told())

    def test_what_is_invalid_or_gone_is_deleted(self):
        self.plant("invalid", "gone", "stays")
        # Row and announcement in one transaction, as a function of the application's has them.
        self.db.run("BEGIN; UPDATE strategic_memory_health SET invalidated_at = now() WHERE user_id = 'invalid'; "
                    "UPDATE strategic_conversation_patterns SET invalidated_at = now() WHERE user_id = 'invalid'; "
                    "SELECT pg_notify('strategic_cache', '{\"bot_name\":\"bot0\",\"user_id\":\"invalid\"}'); COMMIT")
        wait_until("the invalid value to go", lambda: not self.has("invalid"), alive=self.w)
        self.uproot("gone")
        self.notify("gone", reason="erased")
        wait_until("the forgotten value to go", lambda: not self.has("gone"), alive=self.w)
        self.plant("called off")
        self.db.run("SELECT strategic_invalidate('called off', 'bot0')")
        wait_until("what the application calls wrong to go", lambda: not self.has("called off"), alive=self.w)
        self.plant("wants out")
        self.plant("wants out", bot="bot1")
        self.db.run("SELECT strategic_forget('wants out')")
        wait_until("the user to be forgotten", lambda: not self.has("wants out") and not self.has("wants out", "bot1"), alive=self.w)
        self.assertTrue(self.has("stays"))

    def test_an_announcement_without_a_bot_is_about_all_of_them(self):
        self.plant("everywhere")
        self.plant("everywhere", bot="bot1")
        self.uproot("everywhere")
        self.notify("everywhere", None, "erased")
        wait_until("both to go", lambda: not self.has("everywhere") and not self.has("everywhere", "bot1"), 60, alive=self.w)

    def test_nonsense_on_the_channel_harms_nobody(self):
        for text in ("", "{", "[]", '{"bot_name": 1}', '{"bot_name": "a:b", "user_id": "x"}', '{"bot_name": "", "user_id": ""}', "x" * 7000):
            self.db.run("SELECT pg_notify('strategic_cache', %s)", text)
        self.say("after nonsense")
        wait_until("a value behind the nonsense", lambda: self.has("after nonsense"), alive=self.w)

    def test_a_character_that_changes_is_told(self):
        self.say("friend", "shifty")
        wait_until("the bot's value", lambda: self.redis.call("GET", PREFIX + "bot:shifty"), alive=self.w)
        self.db.run("INSERT INTO strategic_bot_epoch VALUES ('shifty', now()) ON CONFLICT (bot_name) DO UPDATE SET character_changed_at = now()")
        changed = self.db.one("SELECT extract(epoch FROM character_changed_at)::float8 FROM strategic_bot_epoch WHERE bot_name = 'shifty'")
        wait_until("the change", lambda: json.loads(self.redis.call("GET", PREFIX + "bot:shifty"))["character_changed_at"] == changed,
                   alive=self.w)

    def test_what_others_keep_there_stays(self):
        self.redis.call("SET", "mine", "1")
        self.redis.call("SET", PREFIX + "unrelated", "2")
        self.redis.call("SET", PREFIX + "user:bot0:stranger", "left over by a crash")
        self.w.must("redis", "sync")
        self.assertEqual("1", self.redis.call("GET", "mine"))
        self.assertEqual("2", self.redis.call("GET", PREFIX + "unrelated"))
        self.assertFalse(self.has("stranger"))


class TroubleTest(RedisCase):
    """Redis is killed, emptied, paused and unreachable while messages come in."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def setUp(self):
        self.user = self._testMethodName
        self.say(self.user)
        self.counted(self.user)
        self.assert_same()

    def live_on(self, n):
        """The pipeline, and who asks how ready it is, notice nothing."""
        self.say(self.user, n=n)
        self.counted(self.user)
        wait_until("readiness", lambda: self.ready()[0] == 200, alive=self.w)

    def load(self, seed):
        return Load(self.db, seed=seed, users=50, pause=0.01)

    def test_killed_and_started_again(self):
        with self.load(2):
            self.redis.kill()
            wait_until("the trouble to be shown", lambda: "[!]redis away: " in self.ready()[1], alive=self.w)
            self.live_on(10)
            self.redis.start()
            self.live_on(10)
        self.w.wait_covered()
        self.assert_same()
        wait_until("the trouble to be over", lambda: "[+]redis ok" in self.ready()[1], alive=self.w)
        self.assert_counts()

    def test_emptied(self):
        synced = self.figure("syncs_total")
        with self.load(3):
            self.redis.call("FLUSHALL")
            self.live_on(10)
        self.w.wait_covered()
        self.assert_same()
        wait_until("the sync to be counted", lambda: self.figure("syncs_total") > synced, 60, alive=self.w)

    def test_paused(self):
        self.plant("under way")
        with self.load(4):
            self.redis.pause()
            try:
                # Only this once: what could not be sent is not lost.
                self.db.run("UPDATE strategic_memory_behavior SET confidence = 0.5 WHERE user_id = 'under way'")
                self.notify("under way")
                wait_until("the time-out", lambda: "[!]redis away: " in self.ready()[1], 60, alive=self.w)
                self.live_on(10)
                # Wrong while nobody can be told.
                self.db.run("UPDATE strategic_memory_health SET invalidated_at = now() WHERE user_id = %s", "user-0")
            finally:
                self.redis.go_on()
            self.live_on(10)
        self.w.wait_covered()
        self.assert_same()
        # What was still on its way to it was not done later.
        self.assertIn("cmdstat_client|kill:", self.redis.call("INFO", "commandstats"))

    def test_what_went_wrong_without_an_announcement_heard(self):
        """The connection to PostgreSQL is cut: what is deleted meanwhile cannot be asked for afterwards."""
        self.plant("forgotten")
        self.db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'warmpath redis'")
        self.uproot("forgotten")
        wait_until("the value to go", lambda: not self.has("forgotten"), 60, alive=self.w)
        self.assert_same()

    def test_read_only(self):
        """It answers, and takes nothing: then it must not go on showing the values from before."""
        self.redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.redis.call("CONFIG", "SET", "maxmemory", "1")
        try:
            self.live_on(10)
            wait_until("the old value to go", lambda: not self.has(self.user), 60, alive=self.w)
            wait_until("the trouble to be shown", lambda: "[!]redis away: " in self.ready()[1], 60, alive=self.w)
        finally:
            self.redis.call("CONFIG", "SET", "maxmemory", "0")
        self.assert_same(120)


class PasswordTest(RedisCase):
    password = PASSWORD

    def test_wrong_password(self):
        """Nothing waits for it, the log says it once, nobody sees the password; mended, it works."""
        self.w.start()
        self.say("user")
        self.counted("user")
        wait_until("the trouble to be shown", lambda: "NOAUTH" in self.ready()[1], alive=self.w)
        code, _, err = self.w.command("redis", "sync")
        self.assertEqual(1, code)
        self.assertIn("NOAUTH", err)
        code, _, err = self.w.command("redis", "sync", "--set", "redis.password=wrong")
        self.assertEqual(1, code)
        self.assertIn("WRONGPASS", err)
        # Said when it begins, not at each attempt; another trouble in between would have it said again.
        wait_until("some attempts", lambda: self.figure("errors_total") >= 5, alive=self.w)
        self.assertLess(self.w.new_log().count("NOAUTH"), 4)
        self.assertEqual(0, self.w.stop())
        self.w.template = template(self.redis, self.private, f', password: "{PASSWORD}"')
        self.w.write_config()
        self.assertNotIn(PASSWORD, self.w.must("check-config", "--print-config"))
        self.w.start()
        self.say("user")
        self.counted("user")
        self.assert_same()
        self.assertEqual(0, self.w.stop())
        with open(self.w.log) as f:
            self.assertNotIn(PASSWORD, f.read())


class SyncTest(RedisCase):
    """warmpath redis sync, with and without a running instance."""

    def tearDown(self):
        if self.w.running():  # a test has failed: the next one begins without it
            self.w.kill()

    def test_from_empty_and_from_wrong(self):
        self.w.start()
        Load(self.db, seed=5, users=40).run(60)
        self.w.wait_covered()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())
        # More than one step lists.
        self.db.run("INSERT INTO strategic_memory_health (user_id, bot_name, memory_snapshot, expires_at) "
                    "SELECT 'many-' || n, 'bot0', '{}', now() + interval '1 hour' FROM generate_series(1, 1500) n")
        self.redis.call("FLUSHALL")
        said = json.loads(self.w.must("redis", "sync", "--json"))
        self.assert_same(0)
        self.assertGreater(said["sets"], 1500)
        self.assertEqual(0, said["dels"])
        self.db.run("UPDATE strategic_memory_health SET invalidated_at = now() WHERE user_id = 'user-1'")
        self.db.run("UPDATE strategic_conversation_patterns SET expires_at = now() - interval '1 hour', confidence = 0.25")
        for name in COMPONENTS:
            self.db.run(f"UPDATE strategic_{name} SET expires_at = now() - interval '1 hour' WHERE user_id = 'user-2'")
        self.assertTrue(any(k.endswith(":user-2") for k in self.found()))
        said = json.loads(self.w.must("redis", "sync", "--json"))
        self.assert_same(0)
        self.assertGreater(said["dels"], 0)
        self.assertFalse(any(k.endswith(":user-2") for k in self.found()))

    def test_a_batch_that_fails_is_sent_again(self):
        self.w.spawn(env={"WARMPATH_FAULT": "redis_before_write:1:fail"})
        wait_until("the slot to be read", self.w.is_reading, 60, alive=self.w)
        wait_until("the first sync", lambda: (self.figure("syncs_total") or 0) >= 1, 60, alive=self.w)
        wait_until("the marker", lambda: self.redis.call("EXISTS", PREFIX + "marker"), alive=self.w)
        self.plant("unlucky")
        self.assertGreater(self.w.new_log().count("the batch was lost"), 0)
        self.assertEqual(0, self.w.stop())

    def test_an_old_value_is_not_brought_back(self):
        """The command has read a value and not written it yet when the row becomes invalid, and the instance removes the value."""
        self.w.start()
        self.plant("changes")
        command = subprocess.Popen([WARMPATH, "redis", "sync", "--config", self.w.config], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, env={**os.environ, "WARMPATH_FAULT": "redis_before_write:2:stop,redis_before_write:3:stop"})
        self.addCleanup(command.stdout.close)
        self.addCleanup(command.wait)
        self.addCleanup(command.kill)

        def stopped():
            self.assertIsNone(command.poll())
            with open(f"/proc/{command.pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()[0] == "T"

        wait_until("the command to have read what is live", stopped)
        self.notify("changes")  # gives it a last thing to do
        command.send_signal(signal.SIGCONT)
        wait_until("the command to have read that", stopped)
        self.db.run("BEGIN; UPDATE strategic_memory_health SET invalidated_at = now() WHERE user_id = 'changes'; "
                    "SELECT pg_notify('strategic_cache', '{\"bot_name\":\"bot0\",\"user_id\":\"changes\"}'); COMMIT")
        wait_until("the instance to remove the value", lambda: not self.has("changes"), alive=self.w)
        command.send_signal(signal.SIGCONT)
        self.assertEqual(0, command.wait(60))
        self.assertFalse(self.has("changes"))
        self.assertEqual(0, self.w.stop())

    def test_while_an_instance_works(self):
        self.w.start()
        stop = threading.Event()

        def flicker():
            """One row is invalid and valid again, all the time; invalid in the end."""
            conn = connect(self.name)
            with conn.cursor() as cur:
                for i in range(10 ** 9):
                    cur.execute("UPDATE strategic_memory_health SET invalidated_at = CASE WHEN %s THEN now() END WHERE user_id = 'flicker'; "
                                "SELECT pg_notify('strategic_cache', '{\"bot_name\":\"bot0\",\"user_id\":\"flicker\"}')", (i % 2 == 0,))
                    if stop.is_set() and i % 2 == 0:
                        break
            conn.close()

        self.plant("flicker")
        with Load(self.db, seed=6, pause=0.01):
            thread = threading.Thread(target=flicker, daemon=True)
            thread.start()
            try:
                for _ in range(3):
                    self.w.must("redis", "sync")
            finally:
                stop.set()
                thread.join(30)
        self.w.wait_covered()
        self.assert_same()
        self.assertFalse(self.has("flicker"))
        self.assertEqual(0, self.w.stop())


class AbsentTest(unittest.TestCase):
    """The server is not there at the start, and comes later."""

    def test_it_comes_later(self):
        redis = RedisServer()
        self.addCleanup(redis.close)
        db = Database(f"it_redis_absent_{time.monotonic_ns()}")
        self.addCleanup(db.drop)
        w = Warmpath(db.name, db, config=template(redis))
        w.must("migrate", "up")
        w.start()
        try:
            db.run("INSERT INTO chat_message (user_id, bot_name, role, content) VALUES ('u', 'b', 'user', 'tea')")
            wait_until("a row", lambda: db.one("SELECT count(*) FROM strategic_conversation_patterns") == 1, alive=w)
            redis.start()
            wait_until("a value", lambda: redis.call("EXISTS", PREFIX + "user:b:u") == 1, 60, alive=w)
            self.assertEqual(0, w.stop())
        finally:
            if w.running():
                w.kill()
            wait_until("the slot to be released", lambda: not w.slot().get("active"), 30)
