"""How long rows live: ttl_mode, what becomes of dead ones, what a touch renews, and that a user who returns is shown at once."""
import json
import select

import psycopg2.extensions

from harness import CONFIG, PipelineTest, connect, wait_until

TABLES = ("strategic_memory_health", "strategic_personality_profiles", "strategic_conversation_patterns", "strategic_memory_behavior",
          "strategic_engagement_opportunities", "strategic_character_performance")
ROW = "FROM strategic_conversation_patterns WHERE user_id = %s AND bot_name = 'elena'"


def with_triggers(triggers):
    """The same for every engine, on top of what the harness says."""
    return CONFIG.replace("min_interval: 0s", "min_interval: 0s, " + triggers) + "catch_up_lag: 1h\n"


class FreshnessTest(PipelineTest):
    def begin(self, sink):
        self.w.write_config(sink=f"sink: {sink}\n")
        self.w.start()
        self.addCleanup(lambda: self.w.running() and self.w.kill())

    def say(self, user, text="hello"):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'elena', 'user', %s)", user, text)

    def row(self, what, user):
        return self.db.one(f"SELECT {what} {ROW}", user)

    def wait_row(self, condition, user):
        wait_until(f"the row of {user}: {condition}", lambda: self.row(condition, user), alive=self.w)

    def touch(self, user):
        self.db.run("SELECT strategic_touch(%s, 'elena')", user)


class LifetimeTest(FreshnessTest):
    def test_validity_is_what_expires_at_says_if_it_is_asked_to(self):
        self.begin("{ttl: 10s, ttl_mode: validity}")
        self.say("ann")
        # Of one message: until its session ends, or the day.
        self.wait_row("expires_at = greatest(valid_until, computed_at + interval '10 s')", "ann")
        self.assertEqual(0, self.w.stop())
        self.begin("{ttl: 10s}")
        self.say("ann")
        self.wait_row("event_count = 2 AND expires_at = computed_at + interval '10 s'", "ann")


class TouchTest(FreshnessTest):
    def test_a_touch_renews_a_row_with_less_than_half_its_life_left(self):
        self.begin("{ttl: 4s}")
        self.say("ann")
        self.wait_row("event_count = 1", "ann")
        self.wait_row("computed_at < clock_timestamp() - interval '2500 ms'", "ann")
        version, computed = self.row("row_version", "ann"), self.row("computed_at", "ann")
        self.touch("ann")
        wait_until("the row to be renewed", lambda: self.row("row_version", "ann") > version, alive=self.w)
        self.assertGreater(self.row("computed_at", "ann"), computed)
        self.assertEqual(1, self.row("event_count", "ann"))
        self.assertEqual(0, self.w.stop())

    def test_a_touch_of_a_young_row_writes_nothing(self):
        self.begin("{ttl: 1h}")
        self.say("bob")
        self.wait_row("event_count = 1", "bob")
        self.w.wait_covered()
        version = self.row("row_version", "bob")
        for _ in range(20):
            self.touch("bob")
        # What comes behind them in the log is shown: so they have been seen.
        self.say("cho")
        self.wait_row("event_count = 1", "cho")
        self.assertEqual(version, self.row("row_version", "bob"))
        self.assertEqual(0, self.w.stop())


class SweepTest(FreshnessTest):
    options = {"config": with_triggers("refresh: 1s, refresh_jitter: 0s, warm: 0s, recent: 0s")}

    def test_dead_rows_are_deleted_and_a_user_who_returns_is_new(self):
        self.begin("{ttl: 2s, keep: 0s}")
        self.say("ann")
        self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content) VALUES ('m1', 'ann', 'elena', 'likes tea')")
        self.wait_row("event_count = 1", "ann")
        wait_until("the memory to be shown", lambda: self.db.one("SELECT count(*) FROM strategic_memory_health") == 1, alive=self.w)
        self.assertEqual(0, self.w.stop())
        self.begin("{ttl: 2s, keep: 1s}")
        for table in TABLES:
            wait_until(f"{table} to be empty", lambda: self.db.one(f"SELECT count(*) FROM {table}") == 0
                       and self.db.one("SELECT count(*) FROM strategic_key_activity") == 0, alive=self.w)
        self.assertEqual(0, self.w.stop())
        self.assertEqual("missing", self.db.one("SELECT cp_f FROM strategic_bundle('ann', 'elena')"))
        # The state knows that there was a row; nothing is swept from here on.
        self.begin("{ttl: 5m, keep: 0s}")
        self.say("ann", "I am back")
        self.wait_row("event_count = 2", "ann")
        wait_until("the key to be known again", lambda: self.db.one("SELECT count(*) FROM strategic_key_activity WHERE user_id = 'ann'") == 1,
                   alive=self.w)
        self.assertEqual("fresh", self.db.one("SELECT cp_f FROM strategic_bundle('ann', 'elena')"))
        self.w.verify()
        self.assertEqual(0, self.w.stop())


class WakeTest(FreshnessTest):
    # Only a key that comes back is due at all.
    options = {"config": with_triggers("refresh: 1s, refresh_jitter: 0s, warm: 0s, recent: 0s")
               .replace("max_age: 1s, idle: 200ms", "max_age: 1h, idle: 1h"), "count": 1000000}

    def test_the_first_message_after_a_pause_is_shown_at_once(self):
        self.begin("{ttl: 5m}")
        listener = connect(self.db.name)
        self.addCleanup(listener.close)
        listener.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        listener.cursor().execute("LISTEN strategic_cache")
        self.say("ann")
        self.wait_row("event_count = 1", "ann")
        # Stopped and started, the key is on disk alone.
        self.assertEqual(0, self.w.stop())
        self.begin("{ttl: 5m}")
        self.wait_row("computed_at < clock_timestamp() - interval '1500 ms'", "ann")
        self.say("ann", "I am back")
        self.wait_row("event_count = 2 AND expires_at > now() AND computed_at < expires_at", "ann")
        reasons = []

        def woken():
            if select.select([listener], [], [], 0.1)[0]:
                listener.poll()
            reasons.extend(json.loads(n.payload)["reason"] for n in listener.notifies)
            listener.notifies.clear()
            return reasons.count("wake") >= 2

        wait_until("both rows to be announced as woken", woken, alive=self.w)
        self.assertEqual(0, self.w.stop())
