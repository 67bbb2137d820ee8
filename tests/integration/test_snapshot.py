"""The first start: the rows that are there are read under the slot's own snapshot, and the slot goes on where it ends. No row is lost
or doubled at the seam, whatever is written meanwhile and wherever the process dies; no reader sees a row before all is read."""
import glob
import os
import random
import signal
import sqlite3
import time

from harness import Load, PipelineTest, Warmpath, wait_until

CACHE = ("strategic_memory_health", "strategic_character_performance", "strategic_personality_profiles",
         "strategic_conversation_patterns", "strategic_memory_behavior", "strategic_engagement_opportunities")
ROWS = 10_000_000 if os.environ.get("WARMPATH_LONG") == "1" else 300_000

# A month of messages, memories of half a year with what was remembered of them, what is too old, and what cannot be used.
HISTORY = """
INSERT INTO chat_message(user_id, bot_name, role, content, created_at)
SELECT 'user-' || i % 20, 'bot' || i % 2, CASE WHEN i % 3 = 0 THEN 'bot' ELSE 'user' END,
       'number ' || i || ' about ' || (ARRAY['coffee', 'gardens', 'music', 'trains'])[1 + i / 50 % 4] || ' and ' || md5(i::text),
       now() - interval '29 days' + i * interval '29 days' / {n}
FROM generate_series(1, {n} - 1) i ORDER BY i % 7;
INSERT INTO chat_message(user_id, bot_name, role, content, created_at)
SELECT 'old', 'bot0', 'user', 'long ago', now() - interval '40 days' FROM generate_series(1, 50);
INSERT INTO chat_message(user_id, bot_name, role, content, created_at)
SELECT 'user-1', 'bot0', 'nobody', 'unusable', now() - interval '1 day' FROM generate_series(1, 3);
INSERT INTO chat_message(user_id, bot_name, role, content, created_at)
VALUES ('user-1', 'bot0', 'user', 'of no time', '-infinity');
INSERT INTO memory(memory_id, user_id, bot_name, content, importance, created_at)
SELECT 'm' || i, 'user-' || i % 20, 'bot' || i % 2, 'likes ' || md5(i::text), 0.5, now() - i * interval '20 hours'
FROM generate_series(1, 200) i;
INSERT INTO memory_access(user_id, bot_name, kind, memory_id, score, at)
SELECT user_id, bot_name, 'access', memory_id, 0.7, created_at + k * interval '30 hours'
FROM memory, generate_series(1, 4) k WHERE created_at + k * interval '30 hours' < now();
"""


def read(path, sql):
    """The rows of a query over one worker's file; none from one that is only being made."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        return db.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def read_all(w, sql):
    return [row for path in glob.glob(os.path.join(w.state, "set-*", "worker-*.db")) for row in read(path, sql)]


class SnapshotTest(PipelineTest):
    def rows(self):
        return sum(self.db.one(f"SELECT count(*) FROM {t}") for t in CACHE)

    def state(self, sql):
        """The rows of a query over all worker files."""
        return read_all(self.w, sql)

    def assert_exact(self):
        self.w.wait_covered()
        self.assert_counts()
        self.w.verify(60)


class SeamTest(SnapshotTest):
    def test_history_and_what_is_written_meanwhile_are_counted_once(self):
        self.db.run(HISTORY.format(n=8000))
        with Load(self.db, seed=41, pause=0.001) as load:
            wait_until("the writers to write", lambda: load.transactions > 20)
            self.w.start()
            wait_until("rows", self.rows, alive=self.w)
            before = load.transactions
            wait_until("the writers to go on", lambda: load.transactions > before + 50)
        self.assert_exact()
        self.assertEqual({1}, {n for (n,) in self.db.run("SELECT count(*) FROM strategic_conversation_patterns WHERE user_id = 'user-1' "
                                                         "GROUP BY bot_name")})
        self.assertEqual(0, self.db.one("SELECT count(*) FROM strategic_conversation_patterns WHERE user_id = 'old'"))
        letters = self.w.dead_letters()
        self.assertEqual(4, len(letters), letters)
        self.assertEqual(3, sum("nobody" in str(d) for d in letters), letters)
        days = self.state("SELECT DISTINCT day FROM epoch WHERE bot_name = 'bot0'")
        self.assertGreater(len({d for (d,) in days}), 20, "epochs of the days of the history")
        self.assertEqual({(0,)}, set(self.state("SELECT loading FROM meta")))
        self.assertFalse(self.w.status()["state"]["loading"])

        # What comes late, but within the window, is in the snapshot's past: the state knows it.
        self.db.run("DELETE FROM chat_message WHERE user_id = 'user-3' AND created_at < now() - interval '10 days'")
        self.assert_exact()
        self.assertEqual(0, self.w.stop())


class FilterTest(SnapshotTest):
    def test_the_publications_row_filter_holds_for_the_snapshot_too(self):
        if self.db.conn.server_version < 150000:
            self.skipTest("row filters are of PostgreSQL 15")
        self.db.run(HISTORY.format(n=500))
        self.db.run(f"CREATE PUBLICATION {self.name} FOR TABLE chat_message WHERE (user_id <> 'user-5'), memory, memory_access")
        self.w.start()
        self.w.wait_covered()
        self.w.verify(30)
        wait_until("rows", self.rows, alive=self.w)
        self.assertEqual(0, self.db.one("SELECT count(*) FROM strategic_conversation_patterns WHERE user_id = 'user-5'"))
        self.assertEqual(1, self.db.one("SELECT count(*) FROM strategic_conversation_patterns WHERE user_id = 'user-6'"))
        self.assertEqual(0, self.w.stop())


class ForeignSlotTest(SnapshotTest):
    def refused(self, *words):
        code, out, err = self.w.command("run")
        self.assertNotEqual(0, code)
        for word in words:
            self.assertIn(word, out + err)

    def test_a_slot_that_is_there_is_never_taken_for_our_own(self):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('u', 'b', 'user', 'before')")
        self.db.run(f"CREATE PUBLICATION {self.name} FOR TABLE chat_message, memory, memory_access")
        self.db.one("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.name)
        self.refused("exists already", f"pg_drop_replication_slot('{self.name}')", "source.snapshot: never")
        self.assertTrue(self.w.slot(), "it must not be dropped")

        # Begun, and then read by somebody else: that reader would lose its place.
        self.db.one("SELECT pg_drop_replication_slot(%s)", self.name)
        self.w.spawn(env={"WARMPATH_FAULT": "load_complete:1:abort"})
        self.w.wait(30)
        self.db.run("INSERT INTO memory(memory_id, user_id, bot_name) VALUES ('m', 'u', 'b')")
        self.db.one("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())::text", self.name)
        self.refused("by somebody else")
        self.assertTrue(self.w.slot(), "it must not be dropped")

        self.db.one("SELECT pg_drop_replication_slot(%s)", self.name)
        self.w.start()
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_never_counts_only_what_the_slot_holds(self):
        name = self.name + "_never"
        w = Warmpath(name, self.db)
        with open(w.config) as f:
            text = f.read()
        with open(w.config, "w") as f:
            f.write(text.replace("  create: true\n", "  create: true\n  snapshot: never\n"))
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('n', 'never', 'user', 'before')")
        self.db.run(f"CREATE PUBLICATION {name} FOR TABLE chat_message, memory, memory_access")
        self.db.one("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)
        w.start()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('n', 'never', 'user', 'after')")
        count = lambda: self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE bot_name = 'never'")
        wait_until("the row", lambda: count() == 1, alive=w)
        self.assertEqual(0, w.stop())
        wait_until("the slot to be released", lambda: not w.slot()["active"])
        self.db.run("DELETE FROM strategic_conversation_patterns")


class KillTest(SnapshotTest):
    # In the order in which one life passes them; the last leaves a state that is complete.
    POINTS = ("slot_before_create:1", "slot_after_create:1", "anew_before_drop:1", "anew_after_drop:1", "load_event:1",
              "load_event:500", "load_event:3000", "store_after_commit:9", "load_complete:1", "load_marking:1", "load_marked:1")

    def check_unseen(self, what):
        self.assertEqual(0, self.rows(), f"rows of a state that is not complete, after {what}")
        self.assertLessEqual(self.db.one("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", self.name), 1)

    def test_dying_while_loading_begins_again_and_loses_nothing(self):
        self.db.run(HISTORY.format(n=3000))
        with Load(self.db, seed=43, pause=0.005):
            for point in self.POINTS:
                self.w.spawn(env={"WARMPATH_FAULT": f"{point}:abort"})
                self.assertEqual(-signal.SIGKILL, self.w.wait(60), f"{point}: {self.w.log_tail()}")
                self.check_unseen(point)
            self.w.start()
        self.assertNotIn("reading the rows that are there", self.w.new_log(), "a second snapshot")
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_kills_at_random_moments(self):
        w = Warmpath(self.name + "_random", self.db)
        self.db.run("TRUNCATE " + ", ".join(CACHE))
        self.db.run("DELETE FROM chat_message; " + HISTORY.split("INSERT INTO memory")[0].format(n=6000))
        rng = random.Random(5)
        with Load(self.db, seed=44, pause=0.005):
            for _ in range(10):
                w.spawn()
                time.sleep(rng.uniform(0.05, 0.9))
                w.kill()
                if (1,) in read_all(w, "SELECT loading FROM meta"):
                    self.assertEqual(0, self.rows(), "rows of a state that is not complete")
            w.start()
        w.wait_covered()
        self.assert_counts()
        w.verify(60)
        self.assertEqual(0, w.stop())
        wait_until("the slot to be released", lambda: not w.slot()["active"])

    def test_a_stop_while_loading_begins_again_too(self):
        w = Warmpath(self.name + "_stop", self.db)
        w.spawn()
        wait_until("it to load", lambda: "reading the rows" in w.new_log(), alive=w)
        self.assertEqual(0, w.stop())
        w.start()
        w.wait_covered()
        w.verify(30)
        self.assertEqual(0, w.stop())
        wait_until("the slot to be released", lambda: not w.slot()["active"])


class LargeTest(SnapshotTest):
    def test_many_rows_in_bounded_memory_and_unseen_until_the_end(self):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, created_at) "
                    "SELECT 'user-' || i %% 2000, 'bot' || i %% 2, CASE WHEN i %% 3 = 0 THEN 'bot' ELSE 'user' END, "
                    "'message ' || i || ' about coffee and music, trains and gardens', now() - (%s - i) * (interval '28 days' / %s) "
                    "FROM generate_series(1, %s) i", ROWS, ROWS, ROWS)
        self.db.run("ANALYZE chat_message")
        began = time.monotonic()
        self.w.spawn()
        peak = connections = looks = 0
        while 'msg="loaded"' not in self.w.new_log():
            self.assertIsNone(self.w.process.poll(), self.w.log_tail())
            self.assertLess(time.monotonic() - began, ROWS / 1000 + 60, self.w.log_tail())
            rows = self.rows()
            began_loading = "reading the rows" in self.w.new_log()
            loading = self.w.status()["state"].get("loading")
            if began_loading and 'msg="loaded"' not in self.w.new_log():
                self.assertEqual(0, rows, "a row before the end of the snapshot")
                looks += 1
                if not loading:
                    wait_until("the log to say what the state says", lambda: 'msg="loaded"' in self.w.new_log(), 5)
            peak = max(peak, self.w.rss_kib())
            connections = max(connections, self.db.one("SELECT count(*) FROM pg_stat_activity "
                                                       "WHERE application_name = 'warmpath snapshot'"))
            time.sleep(0.05)
        seconds = time.monotonic() - began
        print(f"    {ROWS} rows in {seconds:.1f} s, at most {peak >> 10} MiB", flush=True)
        self.assertGreater(looks, 1)
        # Those of the small tables come and go between two looks.
        self.assertGreaterEqual(connections, 3, "two for the large table, and the one that asks")
        self.assertLess(peak, (192 if ROWS <= 300_000 else 320) << 10, "KiB")
        wait_until("it to read its slot", self.w.is_reading, alive=self.w)
        if ROWS <= 300_000:
            wait_until("every row", lambda: self.db.one("SELECT count(*) FROM strategic_conversation_patterns") == 2000, 120,
                       alive=self.w)
            self.assertEqual(ROWS, self.db.one("SELECT sum(event_count) FROM strategic_conversation_patterns"))
        self.assertEqual(0, self.w.stop(60))
