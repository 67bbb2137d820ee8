"""The Qdrant pull against a fake server (tests/support/fake_qdrant.py says what it is faithful to): every point is counted once,
whatever the server, the network or a crash does; deletions and changes arrive; nothing of it holds the rest up."""
import os
import random
import re
import signal
import sqlite3
import time
import urllib.request

from cluster import free_port
from fake_qdrant import FakeQdrant
from harness import CONFIG, PipelineTest, wait_until

KEY = "very-secret-qdrant-key"
PULL = """http: {{private: "127.0.0.1:{private}"}}
qdrant:
  - {{name: {source}, url: "{url}", api_key: "{api_key}", collection: memories, bot_name: elena, mode: {mode}, interval: 100ms,
      overlap: {overlap}, sweep: {sweep}, page: {page}}}
"""
PULLED = dict(api_key="", mode="auto", overlap="10m", sweep="1h", page=8)
WAIT = 60


def uuid(n):
    return "%08x-0000-4000-8000-%012x" % (n, n)


class QdrantTest(PipelineTest):
    def setUp(self):
        self.server = FakeQdrant()
        self.now = time.time()
        self.source = "q-" + self._testMethodName.replace("_", "-")[5:50]  # its own cursor

    def tearDown(self):
        if self.w.running():
            self.w.kill()
        self.server.close()

    def configure(self, **changes):
        self.w.template = CONFIG + PULL
        self.private = free_port()
        self.w.write_config(**{**PULLED, "source": self.source, "url": self.server.url, "private": self.private, **changes})

    # -- data

    def memory(self, point_id, user, ago=60.0, **more):
        self.server.put(point_id, **{"user_id": user, "timestamp_unix": self.now - ago, "content": f"note {point_id}", **more})

    def message(self, point_id, user, ago=60.0, **more):
        self.memory(point_id, user, ago, role="user", **more)

    # -- what became of it

    def snapshot(self, user):
        row = self.db.run("SELECT memory_snapshot FROM strategic_memory_health WHERE user_id = %s AND bot_name = 'elena'", user)
        return row[0][0] if row else {}

    def memories(self, user):
        return self.snapshot(user).get("total", 0)

    def messages(self, user):
        return self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", user) or 0

    def wait_memories(self, user, n):
        wait_until(f"{user} to have {n} memories", lambda: self.memories(user) == n, WAIT, alive=self.w)

    def wait_messages(self, user, n):
        wait_until(f"{user} to have {n} messages", lambda: self.messages(user) == n, WAIT, alive=self.w)

    def query(self, file, sql):
        db = sqlite3.connect(f"file:{self.w.state}/{file}.db?mode=ro", uri=True, timeout=10)
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()

    def remembered(self):
        """What the pull knows of its points: one that was forgotten and came again has another row."""
        return self.query(f"qdrant-{self.source}", "SELECT row, id, known FROM point ORDER BY row")

    def wait_requests(self, kind, more):
        """So many requests of the kind have been answered whose processing is over, since the next has come."""
        target = self.server.count(kind) + more + 1
        wait_until(f"{more} more requests of kind {kind}", lambda: self.server.count(kind) >= target, WAIT, alive=self.w)

    def metric(self, name, **labels):
        """The value of a metric of this source; 0 when it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.private}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        self.assertNotIn(KEY, text)
        labels = "".join(f',{k}="{v}"' for k, v in labels.items())
        found = re.search(rf'^warmpath_{name}{{source="{self.source}"{labels}}} (\S+)$', text, re.M)
        return float(found[1]) if found else 0

    def wait_log(self, *texts):
        wait_until(f"the log to say {texts}",
                   lambda: any(all(t in line for t in texts) for line in self.w.new_log().splitlines()), WAIT, alive=self.w)


class ReadingTest(QdrantTest):
    def run_mode(self, user, mode, indexed, kind):
        """Points of every form, then increments: late ones, equal times, more than a page of them."""
        self.server.indexed = indexed
        for i in range(20):
            self.message(i if i % 2 else uuid(i), user, ago=3000 - i)
        self.memory(2 ** 64 - 1, user, ago=10 ** 6)
        self.server.put(2 ** 53 + 1, user_id=user, timestamp="2026-01-05T14:00:00", content="without timestamp_unix")
        self.server.put(2 ** 53 + 2, role="conversation_pair", user_id=user, timestamp_unix=self.now)
        self.configure(mode=mode)
        self.w.start()
        self.wait_memories(user, 22)
        self.wait_messages(user, 20)
        self.wait_requests(kind, 1)
        self.message(100, user, ago=5)
        self.wait_messages(user, 21)
        self.message(101, user, ago=500)  # late, but within the overlap
        self.wait_messages(user, 22)
        for i in range(200, 230):  # nearly four pages of one moment
            self.message(i, user, ago=2)
        self.wait_messages(user, 52)
        self.message(99, user, ago=2)  # and one more, with a lower id
        self.wait_messages(user, 53)
        self.message(100, user, ago=1, content="edited")
        self.wait_requests(kind, 3)
        self.assertEqual(self.messages(user), 53)
        self.assertEqual(self.memories(user), 55)
        self.assertEqual(self.w.stop(), 0)

    def test_in_order_of_the_time(self):
        self.run_mode("ordered", "auto", True, "ordered")
        self.assertEqual(self.server.count("filtered"), 0)

    def test_by_id_without_an_index(self):
        self.run_mode("unordered", "auto", False, "filtered")
        self.assertIn("reading by id from now on", self.w.new_log())
        self.assertEqual(self.server.count("ordered"), 1)

    def test_by_id_from_a_server_that_cannot_order(self):
        self.server.order_by = False
        self.run_mode("old", "auto", True, "filtered")

    def test_a_missing_index_is_said_when_order_is_demanded(self):
        self.server.indexed = False
        self.configure(mode="order_by")
        self.w.start()
        self.wait_log("create one for the field", "level=error")
        self.assertEqual(self.server.count("filtered"), 0)


class SweepTest(QdrantTest):
    def test_deletions_and_changes_without_a_new_time(self):
        for i in range(30):
            self.message(i, "ann", ago=4000 + i)
        self.memory(1000, "bob", ago=10 ** 6)
        self.configure(sweep="200ms", page=16)
        self.w.start()
        self.wait_messages("ann", 30)
        self.wait_memories("bob", 1)
        self.server.delete(*range(5))
        self.wait_messages("ann", 25)
        self.wait_memories("ann", 25)
        # A change that the timestamp does not show: whose memory it is.
        self.memory(1000, "carl", ago=10 ** 6)
        self.wait_memories("carl", 1)
        wait_until("bob to have none", lambda: not self.memories("bob"), WAIT, alive=self.w)
        self.memory(1001, "carl", ago=10 ** 6, access_count=3, last_accessed_unix=self.now - 50)
        self.wait_memories("carl", 2)
        wait_until("the accesses to be counted", lambda: self.snapshot("carl").get("never_accessed") == 1, WAIT, alive=self.w)

        # Neither a sweep that cannot be completed deletes anything, nor one alone: points are away for one whole sweep, and back in
        # the next, which fails once.
        rows = self.remembered()
        away = {i: self.server.points[i] for i in range(20, 30)}
        began = []

        def on_request(request):
            if self.server.kind_of(request) == "all" and "offset" not in request:
                began.append(None)
                with self.server.lock:
                    if len(began) == 1:
                        for point_id in away:
                            del self.server.points[point_id]
                    if len(began) == 2:
                        self.server.points.update(away)
                        self.server.faults = [("status", 503)]

        self.server.on_request = on_request
        wait_until("more sweeps", lambda: len(began) > 3, WAIT, alive=self.w)
        self.assertEqual(self.remembered(), rows)
        self.assertEqual(self.messages("ann"), 25)
        self.assertEqual(self.w.stop(), 0)

        # What was deleted while nothing ran is found as well.
        self.server.delete(28, 29)
        self.w.start()
        self.wait_messages("ann", 23)
        self.assertEqual(self.w.stop(), 0)

    def test_a_refused_sweep_deletes_nothing(self):
        self.message(1, "dora", ago=4000)
        self.configure(sweep="200ms")
        self.w.start()
        self.wait_messages("dora", 1)
        self.server.collection = "renamed"
        self.wait_log("status 404", "no such collection", "level=error")
        self.assertEqual(self.messages("dora"), 1)
        self.assertEqual(self.w.stop(), 0)


class TroubleTest(QdrantTest):
    def test_every_way_to_fail_is_got_over(self):
        self.configure(overlap="1s", page=4)
        self.message(1, "eve")
        self.w.start()
        self.wait_messages("eve", 1)
        faults = ([("status", 429, {"Retry-After": "2"})], [("status", 500), ("status", 503)], [("cut",)], [("slow", 0.5)])
        for n, fault in enumerate(faults, 2):
            with self.subTest(fault=fault):
                with self.server.lock:
                    at = len(self.server.times)
                    self.server.faults = list(fault)
                self.message(n, "eve", ago=10 - n)
                self.wait_messages("eve", n)
                waited = self.server.times[at + 1] - self.server.times[at]
                self.assertGreaterEqual(waited, {2: 2, 3: 0.5, 4: 0.5}.get(n, 0))
        self.assertEqual(self.metric("pull_requests_total", outcome="throttled"), 1)
        self.assertEqual(self.metric("pull_requests_total", outcome="failed"), 3)
        wait_until("the metrics to say how far it is", lambda: self.metric("source_connected") == 1 and
                   abs(self.metric("pull_cursor_timestamp_seconds") - (self.now - 5)) < 0.01, WAIT, alive=self.w)
        # The server goes away and comes back.
        port = self.server.port
        points = self.server.points
        self.server.close()
        self.wait_log("could not read the collection", "connect to")
        self.server = FakeQdrant(port=port)
        self.server.points = points
        self.message(50, "eve", ago=0)
        self.wait_messages("eve", 6)
        self.assertIn("reading again", self.w.new_log())
        # Meanwhile, and with a server that never answers, it stops at once.
        self.server.faults = [("slow", 120)]
        self.wait_requests(None, 0)
        began = time.monotonic()
        self.assertEqual(self.w.stop(), 0)
        self.assertLess(time.monotonic() - began, 15)

    def test_a_dead_letter_comes_once(self):
        self.server.put(7, user_id="", timestamp_unix=self.now, content="whose?")
        self.message(8, "fay")
        self.configure(sweep="200ms")
        self.w.start()
        self.wait_messages("fay", 1)
        letters = wait_until("the dead letter", self.w.dead_letters, WAIT, alive=self.w)
        self.wait_requests("all", 2)
        self.assertEqual(self.w.stop(), 0)
        letters = [d for d in self.w.dead_letters() if d["where"] == "qdrant:" + self.source]
        self.assertEqual(len(letters), 1, letters)
        self.assertIn("user_id", letters[0]["reason"])

    def test_an_answer_that_is_none_is_said_without_what_it_holds(self):
        self.message(1, "ivy", content="nobody else's business")
        self.server.faults = [("garbage",)]
        self.configure()
        self.w.start()
        self.wait_log("the answer is not JSON", "level=error")
        self.assertEqual(self.w.stop(), 0)
        # To another machine, and not encrypted; nobody is there either.
        self.configure(url="http://qdrant.invalid:6333", api_key=KEY)
        self.w.start()
        self.wait_log("the connection is not encrypted", "the key")
        self.wait_log("could not read the collection", "qdrant.invalid")
        self.assertEqual(self.w.stop(), 0)
        with open(self.w.log) as f:
            log = f.read()
        for private in (KEY, "proxy", "business"):
            self.assertNotIn(private, log)

    def test_a_wrong_key_is_said_and_never_shown(self):
        self.server.api_key = "another-key"
        self.message(1, "gus")
        self.configure(api_key=KEY)
        self.w.start()
        self.wait_log("status 401", "qdrant[].api_key")
        self.assertEqual(self.metric("source_connected"), 0)
        self.assertGreaterEqual(self.metric("pull_requests_total", outcome="refused"), 1)
        self.assertEqual(self.w.stop(), 0)
        self.server.api_key = KEY
        self.w.start()
        self.wait_messages("gus", 1)
        self.assertEqual(self.w.stop(), 0)
        with open(self.w.log) as f:
            self.assertNotIn(KEY, f.read())


class AnewTest(QdrantTest):
    def test_a_state_that_begins_anew_gets_every_point_again(self):
        for i in range(20):
            self.message(i, "hal", ago=4000 + i)
        self.configure()
        self.w.start()
        self.wait_messages("hal", 20)
        # From the inbox nothing can come again.
        wait_until("the inbox to be empty", lambda: not self.query("inbox", "SELECT id FROM delivery"), WAIT, alive=self.w)
        self.assertEqual(self.w.stop(), 0)
        wait_until("the slot to be released", lambda: not self.w.slot().get("active"), WAIT)
        self.db.run("SELECT pg_drop_replication_slot(%s)", self.w.name)
        self.message(50, "hal", ago=10)
        self.configure(on_slot_lost="rebuild")
        self.w.start()
        # A state without the twenty would soon say one.
        self.wait_messages("hal", 21)
        self.wait_memories("hal", 21)
        self.assertEqual(self.w.stop(), 0)


class CrashTest(QdrantTest):
    LONG = os.environ.get("WARMPATH_LONG") == "1"
    POINTS = ("inbox_before_commit", "points_before_commit") + LONG * ("inbox_after_commit", "points_after_commit")
    USERS = [f"crash{i}" for i in range(3)]

    def grow(self, n):
        """Every other point is an old one: only a sweep finds it."""
        for i in range(n, n + 40):
            self.message(i if i % 2 else uuid(i), self.USERS[i % 3], ago=3000 - i % 100 if i % 4 else 60)
        return n + 40

    def survive(self, n, env, more_requests=None):
        n = self.grow(n)
        self.w.spawn(env=env)
        if more_requests:
            target = self.server.count() + more_requests
            wait_until("some requests", lambda: self.server.count() >= target, WAIT, alive=self.w)
            self.w.process.send_signal(signal.SIGKILL)
        self.assertEqual(self.w.wait(WAIT), -signal.SIGKILL)
        return n

    def test_killed_at_any_moment_every_point_is_counted_once(self):
        rng = random.Random(11)
        self.configure(page=7, sweep="200ms")
        n = 0
        for _ in range(10 if self.LONG else 1):
            for point in self.POINTS:
                n = self.survive(n, {"WARMPATH_FAULT": f"{point}:{rng.randint(1, 6)}:abort"})
            n = self.survive(n, None, rng.randint(1, 20))
        end = self.grow(n)
        self.w.start()
        expected = {u: len(range(i, end, 3)) for i, u in enumerate(self.USERS)}
        for user in self.USERS:
            self.wait_messages(user, expected[user])
            self.wait_memories(user, expected[user])
        self.assertEqual(self.w.stop(), 0)

        # Killed while it deletes.
        self.server.delete(*(i if i % 2 else uuid(i) for i in range(n, end)))
        for point in self.POINTS[1:]:
            self.w.spawn(env={"WARMPATH_FAULT": f"{point}:1:abort"})
            self.assertEqual(self.w.wait(WAIT), -signal.SIGKILL)
        self.w.start()
        for i, user in enumerate(self.USERS):
            self.wait_messages(user, len(range(i, n, 3)))
            self.wait_memories(user, len(range(i, n, 3)))
        self.assertEqual(self.w.stop(), 0)
