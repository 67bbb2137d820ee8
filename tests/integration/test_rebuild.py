"""warmpath rebuild on a live system: what the state should know and does not, or knows and should not, is mended from the tables,
while writers go on, readers never see half a key, and the process is killed in the middle."""
import json
import os
import random
import threading
import time

import harness
from harness import Load, PipelineTest, wait_until

ROUNDS = 10 if os.environ.get("WARMPATH_LONG") else 1
PATTERNS = "strategic_conversation_patterns"


class Watcher:
    """Polls the cache the whole time: event_count of a user never goes down."""

    def __init__(self, db, users):
        self.db, self.users, self.stop = db, users, threading.Event()
        self.seen, self.wrong, self.polls = {}, [], 0
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        conn = harness.connect(self.db.name)
        with conn.cursor() as cur:
            while not self.stop.is_set():
                cur.execute(f"SELECT user_id, bot_name, event_count FROM {PATTERNS} WHERE user_id = ANY(%s)", (self.users,))
                rows = {(u, b): n for u, b, n in cur.fetchall()}
                for key, before in self.seen.items():
                    if rows.get(key, -1) < before:
                        self.wrong.append((key, before, rows.get(key)))
                self.seen.update(rows)
                self.polls += 1
        conn.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


class Writers(Load):
    """Changes and deletes rows of its own users alone: the counts of those that are watched only grow."""

    def change(self, cur):
        mine = "id = (SELECT max(id) - %s FROM chat_message WHERE bot_name LIKE 'bot%%') AND bot_name LIKE 'bot%%'"
        if self.rng.random() < 0.5:
            cur.execute(f"UPDATE chat_message SET content = %s WHERE {mine}", (harness.sentence(self.rng), self.rng.randrange(50)))
        else:
            cur.execute(f"DELETE FROM chat_message WHERE {mine}", (self.rng.randrange(50),))


class RebuildTest(PipelineTest):
    options = {"count": 1}

    def say(self, user, n, text="a word"):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT %s, 'elena', 'user', %s || i "
                    "FROM generate_series(1, %s) i", user, text, n)

    def unseen(self, statements):
        """What is committed while the publication does not hold the tables never reaches the slot."""
        tables = "chat_message, memory, memory_access"
        self.db.run(f"ALTER PUBLICATION {self.name} DROP TABLE {tables}")
        try:
            for s in statements:
                self.db.run(s)
        finally:
            self.db.run(f"ALTER PUBLICATION {self.name} ADD TABLE {tables}")

    def count(self, user, table=PATTERNS):
        return self.db.one(f"SELECT event_count FROM {table} WHERE user_id = %s", user)

    def rebuild(self, *args):
        return json.loads(self.w.must("rebuild", *args, "--json", timeout=180))

    def setUp(self):
        if not self.w.running():
            self.w.start()

    def test_1_a_user_an_engine_and_all(self):
        for user in ("ann", "bob", "eve"):
            self.say(user, 10)
        wait_until("the first rows", lambda: all(self.count(u) == 10 for u in ("ann", "bob", "eve")), alive=self.w)
        self.unseen(["INSERT INTO chat_message(user_id, bot_name, role, content) SELECT u, 'elena', 'user', 'unseen ' || i "
                     "FROM generate_series(1, 5) i, unnest(ARRAY['ann', 'bob']) u",
                     "INSERT INTO memory(memory_id, user_id, bot_name, content) VALUES ('m1', 'ann', 'elena', 'likes tea')",
                     "DELETE FROM chat_message WHERE user_id = 'eve'"])
        self.w.wait_covered()
        self.assertEqual((10, 10, 10), tuple(self.count(u) for u in ("ann", "bob", "eve")))
        done = self.rebuild("--user", "ann", "--bot", "Elena")
        self.assertEqual((1, True, 16), (done["keys"], done["finished"], done["rows"]))
        wait_until("ann's rows", lambda: self.count("ann") == 15 and self.count("ann", "strategic_memory_health"), alive=self.w)
        self.assertEqual(10, self.count("bob"))
        self.rebuild("--engine", "context_switch")
        wait_until("bob's and eve's rows", lambda: self.count("bob") == 15 and self.count("eve") is None, alive=self.w)
        self.rebuild("--all")
        self.w.verify()
        self.assert_counts()

    def test_2_killed_in_the_middle_it_goes_on_by_itself(self):
        rng = random.Random(7)
        users = [f"user-{i:03}" for i in range(300)]
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'user-' || lpad((i % 300)::text, 3, '0'), "
                    "'elena', CASE WHEN i % 3 = 0 THEN 'bot' ELSE 'user' END, 'seen ' || i FROM generate_series(1, 3000) i")
        wait_until("all rows", lambda: self.db.one(f"SELECT count(*) FROM {PATTERNS} WHERE user_id LIKE 'user-%%'") == 300,
                   60, alive=self.w)
        self.unseen(["INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'user-' || lpad((i % 300)::text, 3, '0'), "
                     "'elena', 'user', 'unseen ' || i FROM generate_series(1, 3000) i"])
        latency = []
        finished = lambda: self.db.one("SELECT finished_at FROM strategic_rebuild ORDER BY id DESC LIMIT 1")
        with Watcher(self.db, users) as watcher, Writers(self.db, seed=5, pause=0.005):
            self.w.kill()
            self.w.must("rebuild", "--all", "--detach")
            for point, passings in (("rebuild_read", 4), ("rebuild_replaced", 4), ("rebuild_before_cursor", 1), ("", 0)) * ROUNDS:
                self.assertIsNone(finished())
                if point:
                    self.w.spawn(env={"WARMPATH_FAULT": f"{point}:{rng.randint(1, passings)}:abort"})
                    wait_until(f"it to die at {point}", lambda: self.w.process.poll() is not None, 30)
                    self.w.wait(1)
                else:
                    self.w.start()
                    self.w.kill()
                self.w.check_slot_behind_state()
            self.w.start()
            # Other keys are refreshed as ever while it goes on.
            for i in range(5):
                begun = time.monotonic()
                self.say("other", 1)
                wait_until("a row of another key", lambda: self.count("other") == i + 1, 10, alive=self.w)
                latency.append(time.monotonic() - begun)
            wait_until("the rebuild to end by itself", finished, 90, alive=self.w)
        self.assertLess(sorted(latency)[2], 3)
        self.assertIsNone(self.db.one("SELECT error FROM strategic_rebuild ORDER BY id DESC LIMIT 1"))
        self.assertEqual([], watcher.wrong[:5])
        self.assertGreater(watcher.polls, 50)
        self.w.wait_covered()
        self.w.verify(30)
        self.assert_counts()

    def test_3_a_request_waits_for_an_instance(self):
        self.w.stop()
        code, out, err = self.w.command("rebuild", "--user", "ann", "--detach")
        self.assertEqual((0, True), (code, "no instance is running" in err), out + err)
        code, out, err = self.w.command("rebuild", "--user", "ann", "--all")
        self.assertEqual(64, code)
        self.w.start()
        wait_until("the request to be worked on",
                   lambda: self.db.one("SELECT count(*) FROM strategic_rebuild WHERE finished_at IS NULL") == 0, alive=self.w)

    def test_4_a_table_that_cannot_be_read_is_said(self):
        self.db.run("ALTER TABLE memory RENAME TO memory_away")
        try:
            code, out, err = self.w.command("rebuild", "--user", "ann")
        finally:
            self.db.run("ALTER TABLE memory_away RENAME TO memory")
        self.assertEqual(1, code)
        self.assertIn("memory", err)
        self.rebuild("--user", "ann")
        self.assertEqual(0, self.w.stop())
