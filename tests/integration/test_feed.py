"""The invalidation feed, all four ways: what NOTIFY, PUB, the streams and the webhooks say is the same, in order, and enough to know of
every row; nothing that a receiver does, and no crash, loses an announcement (docs/FEED.md)."""
import base64
import contextlib
import glob
import http.client
import json
import os
import re
import select
import socket
import sqlite3
import subprocess
import threading
import time

import harness
from harness import CONFIG, PipelineTest, wait_until
from receiver import Receiver, verify

SECRETS = ["whsec_" + base64.b64encode(bytes(range(n, n + 32))).decode() for n in (0, 32)]
TABLES = ("memory_health", "personality_profiles", "conversation_patterns", "memory_behavior", "engagement_opportunities")
FEED = """http: {{private: "127.0.0.1:0"}}
feed:
  pub: "ipc://%s"
  history: 100000
  webhooks:%s
log: {{"""
SUB = os.path.join(os.path.dirname(harness.WARMPATH), "tests", "support", "feed_sub")


def destination(name, url, **more):
    secrets = ", ".join(f'{{{{value: "{s}"}}}}' for s in SECRETS)
    rest = "".join(f", {k}: {v}" for k, v in more.items())
    return f'\n    - {{{{name: {name}, url: "{url}", secrets: [{secrets}]{rest}}}}}'


class Listener:
    """LISTEN strategic_cache, as an application does it."""

    def __init__(self, database):
        self.conn = harness.connect(database.name)
        self.conn.cursor().execute("LISTEN strategic_cache")
        self.payloads = []

    def read(self):
        while select.select([self.conn], [], [], 0)[0]:
            self.conn.poll()
            self.payloads += [n.payload for n in self.conn.notifies]
            self.conn.notifies.clear()
        return self.payloads


class Subscriber:
    """The nng subscriber of docs/FEED.md."""

    def __init__(self, url, directory, prefix=""):
        self.path = os.path.join(directory, f"sub-{time.monotonic_ns()}")
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen([SUB, url, prefix], stdout=out, stdin=subprocess.DEVNULL)

    def read(self):
        with open(self.path, encoding="utf-8", newline="\n") as f:
            return [line[:-1] for line in f if line.endswith("\n")]

    def close(self):
        self.process.kill()
        self.process.wait()


class Stream(threading.Thread):
    """A client of /api/v1/feed. every: it goes away and comes back with Last-Event-ID after so many announcements."""

    def __init__(self, port, query="", every=None, last_id=None):
        super().__init__(daemon=True)
        self.port, self.query, self.every, self.last_id = port, query, every, last_id
        self.lock = threading.Lock()
        self.payloads, self.resets, self.connections, self.ends = [], 0, 0, False
        self.status = self.sock = None
        self.start()

    def run(self):
        while not self.ends:
            try:
                self.connect()
            except OSError:
                time.sleep(0.05)

    def connect(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.connect()
        self.sock = conn.sock
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        conn.request("GET", "/api/v1/feed" + self.query, headers=headers)
        r = conn.getresponse()
        self.status = r.status
        if r.status != 200:
            self.ends = True
            return
        self.connections += 1
        assert r.getheader("Content-Type") == "text/event-stream", r.getheaders()
        event, data, got = "message", None, 0
        for line in iter(r.readline, b""):
            text = line.decode().rstrip("\n")
            if text.startswith("id: "):
                self.last_id = text[4:]
            elif text.startswith("event: "):
                event = text[7:]
            elif text.startswith("data: "):
                data = text[6:]
            elif not text and data is not None:
                with self.lock:
                    if event == "reset":
                        self.resets += 1
                    else:
                        self.payloads.append(data)
                event, data, got = "message", None, got + 1
            if self.ends or (self.every and got >= self.every):
                break
        conn.close()

    def read(self):
        with self.lock:
            return list(self.payloads)

    def close(self):
        """The server sees it when it next has something to say: at the latest after its sign of life."""
        self.ends = True
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class FeedTest(PipelineTest):
    destinations = {"app": {}}  # name -> more of its configuration

    @classmethod
    def setUpClass(cls):
        cls.receivers = {name: Receiver() for name in cls.destinations}
        cls.receiver = cls.receivers["app"]
        cls.pub = os.path.join(harness.work_dir, f"{cls.__name__.lower()}.sock")
        webhooks = "".join(destination(name, cls.receivers[name].url + "/in?a=1", **more) for name, more in cls.destinations.items())
        cls.options = {"config": CONFIG.replace("log: {{", FEED % (cls.pub, webhooks))}
        super().setUpClass()
        cls.w.start()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for r in cls.receivers.values():
            r.close()

    def setUp(self):
        for r in self.receivers.values():
            r.clear()
        if not self.w.running():
            self.w.start()

    def port(self):
        pattern = re.compile(r'"listening" name=private .*port=(\d+)')
        return int(wait_until("the listener", lambda: pattern.search(self.w.new_log()), alive=self.w).group(1))

    def say(self, users, bot="elena", n=1):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) "
                    "SELECT u, %s, 'user', 'hello there' FROM unnest(%s) u, generate_series(1, %s)", bot, list(users), n)

    def rows(self, like="%"):
        """(bot, user, table) -> row_version of every row of users"""
        return {(b, u, f"strategic_{t}"): v for t in TABLES for b, u, v in
                self.db.run(f"SELECT bot_name, user_id, row_version FROM strategic_{t} WHERE user_id LIKE %s", like)}

    def has_all(self, payloads, like="%", users=1):
        """Each row, and there are those of so many users, has been announced at its version or a later one; returns what has not."""
        newest = {}
        for p in map(json.loads, payloads):
            for t in p["tables"]:
                key = (p["bot_name"], p["user_id"], t)
                newest[key] = max(newest.get(key, 0), p["row_version"])
        rows = self.rows(like)
        enough = len({u for _, u, _ in rows}) >= users
        return enough and all(newest.get(key, 0) >= version for key, version in rows.items())

    def assert_rising(self, payloads):
        newest = {}
        for p in map(json.loads, payloads):
            key = (p["bot_name"], p["user_id"])
            self.assertGreaterEqual(p["row_version"], newest.get(key, 0), f"{key} fell back")
            newest[key] = p["row_version"]

    def waiting(self, name="app"):
        db = sqlite3.connect(f"file:{self.w.state}/feed.db?mode=ro", uri=True, timeout=10)
        try:
            return db.execute("SELECT count(*) FROM waiting WHERE destination = ?", (name,)).fetchone()[0]
        finally:
            db.close()

    def wait_delivered(self, like, users=1, name="app", seconds=60):
        r = self.receivers[name]
        wait_until(f"everything of {like} to be delivered", lambda: self.has_all([d.body for d in r.deliveries()], like, users), seconds,
                   alive=self.w)


class SameEverywhereTest(FeedTest):
    destinations = {"app": {"bots": "elena0"}}

    def from_marker(self, payloads, first, last):
        at = [i for i, p in enumerate(payloads) if f'"user_id":"{first}"' in p]
        to = [i for i, p in enumerate(payloads) if f'"user_id":"{last}"' in p]
        return payloads[at[0]:to[0]] if at and to else None

    def test_ten_thousand(self):
        listener, sub = Listener(self.db), Subscriber(f"ipc://{self.pub}", self.w.dir)
        stream = Stream(self.port(), every=700)
        self.addCleanup(sub.close)
        self.addCleanup(stream.close)
        wait_until("the stream", lambda: stream.last_id, alive=self.w)

        def greeted(n=iter(range(1000))):
            self.say([f"greeting-{next(n)}"])
            listener.read()
            return sub.read() and stream.read()
        wait_until("the first announcements", greeted, alive=self.w)
        self.say(["begin"])
        for who in (listener, sub, stream):
            wait_until("the beginning", lambda: any('"user_id":"begin"' in p for p in who.read()), 60, alive=self.w)
        hostile = ['"\\' * 256, "\x01" * 512, "\u00e4" * 256, "a\nb\r\ndata: x\n\n"]
        for part in range(4):
            users = [f"u{part}-{i}" for i in range(2500)] + ([h for h in hostile] if part == 0 else [])
            for n in range(10):
                self.say(users[n::10], f"elena{n}")
            # Less than nng keeps for a subscriber: so none may be missing, however slow the machine is.
            wait_until("the subscriber", lambda: self.has_all(sub.read(), f"u{part}-%", 2500), 120, alive=self.w)
            listener.read()
        self.say(["end"])
        for who in (listener, sub, stream):
            wait_until("the end", lambda: any('"user_id":"end"' in p for p in who.read()), 60, alive=self.w)
        heard = self.from_marker(listener.read(), "begin", "end")
        self.assertGreaterEqual(len(heard), 10000)
        self.assertLess(max(len(p.encode()) for p in heard), 8000)
        self.assertEqual(set(hostile), {json.loads(p)["user_id"] for p in heard} & set(hostile))
        self.assert_rising(heard)
        self.assertTrue(self.has_all(listener.read(), users=10004))
        self.assertTrue(all(re.match(r'\{"bot_name":".*?","user_id":".*","tables":\[.+\],"row_version":\d+,"reason":', p) for p in heard))
        self.assertEqual(heard, self.from_marker(sub.read(), "begin", "end"), "PUB said something else than NOTIFY")
        self.assertEqual(heard, self.from_marker(stream.read(), "begin", "end"), "the stream said something else than NOTIFY")
        self.assertEqual(0, stream.resets)
        self.assertGreater(stream.connections, 5)
        self.wait_elena0()

    def wait_elena0(self):
        def all_there():
            newest = {}
            for d in self.receiver.deliveries():
                for t in d.json["tables"]:
                    newest[(*d.key, t)] = d.version
            rows = {k: v for k, v in self.rows().items() if k[0] == "elena0"}
            return len(rows) >= 1000 and all(newest.get(k, 0) >= v for k, v in rows.items())
        wait_until("the receiver", all_there, 120, alive=self.w)
        taken = self.receiver.deliveries()
        self.assertEqual({"elena0"}, {d.key[0] for d in taken})
        self.assert_rising([d.body for d in taken])
        for d in taken:
            self.assertEqual(2, verify(SECRETS, d.headers, d.body))
            self.assertEqual("/in?a=1", d.path)
        self.assertEqual(0, verify([SECRETS[0]], taken[0].headers, taken[0].body + b" "))


class ReceiverTest(FeedTest):
    """One receiver that misbehaves, and another that does not notice."""
    destinations = {"app": {"timeout": "1s", "tables": "strategic_conversation_patterns"},
                    "other": {"tables": "strategic_conversation_patterns"},
                    "gone": {"give_up": "1s", "bots": "ghost"}}

    def say_and_wait(self, like, users, n=1):
        self.say(users, n=n)
        wait_until("the rows", lambda: len({u for _, u, t in self.rows(like) if t == "strategic_conversation_patterns"}) == len(users),
                   alive=self.w)

    def has_patterns(self, name, like, users):
        newest = {}
        for d in self.receivers[name].deliveries():
            newest[d.key] = max(newest.get(d.key, 0), d.version)
        rows = {(b, u): v for (b, u, t), v in self.rows(like).items() if t == "strategic_conversation_patterns"}
        return len(rows) >= users and all(newest.get(k, 0) >= v for k, v in rows.items())

    def wait_patterns(self, name, like, users):
        wait_until(f"{name} to have {like}", lambda: self.has_patterns(name, like, users), 60, alive=self.w)

    def survive(self, user, behave, attempts=2):
        """The first attempts are answered by behave(), the rest well; the announcement arrives, by the same id, and nothing else is asked
        for. The other destination has it meanwhile. ."""
        left = [attempts]
        enough = threading.Event()

        def answer(d, handler):
            if d.key[1] != user or left[0] <= 0:
                return 204, {}, b""
            # Only when the other one has it: so it cannot have waited for this one.
            wait_until("the other destination", lambda: any(o.key[1] == user for o in self.receivers["other"].deliveries()))
            left[0] -= 1
            if left[0] == 0:
                enough.set()
            return behave(d, handler)
        self.receiver.clear(answer)
        self.say([user])
        self.assertTrue(enough.wait(60), f"{user}: {len(self.receiver.deliveries(all=True))} attempts\n{self.w.log_tail()}")
        self.wait_patterns("app", user, 1)
        tried = [d for d in self.receiver.deliveries(all=True) if d.key[1] == user]
        self.assertEqual({"/in?a=1"}, {d.path for d in tried}, "a redirect was followed")
        for d in tried:
            self.assertEqual(2, verify(SECRETS, d.headers, d.body))
        self.assert_rising([d.body for d in tried])
        pairs = {(d.id, d.body) for d in tried}
        self.assertEqual(len(pairs), len({d.id for d in tried}), "one id, two contents")
        self.assertEqual(len(pairs), len({d.body for d in tried}), "one content, two ids")
        return tried

    def test_failing(self):
        self.survive("failing", lambda d, h: (500, {}, b"no"), attempts=4)

    def test_redirecting(self):
        self.survive("redirecting", lambda d, h: (307, {"Location": self.receivers["other"].url + "/elsewhere"}, b""))
        self.assertEqual({"/in?a=1"}, {d.path for d in self.receivers["other"].deliveries(all=True)})

    def test_garbage(self):
        self.survive("garbage", lambda d, h: h.wfile.write(b"\x00\xff garbage\r\n\r\n" * 3) and None)

    def test_closing_in_the_middle(self):
        self.survive("closing", lambda d, h: h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") and None)

    def test_closing_at_once(self):
        self.survive("closing2", lambda d, h: None)

    def test_too_much_to_say(self):
        self.survive("talking", lambda d, h: h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200000) and None)

    def test_slow(self):
        over = threading.Event()
        self.addCleanup(over.set)
        self.survive("slow", lambda d, h: over.wait(30) and None)

    def test_asked_to_wait(self):
        tried = self.survive("waiting", lambda d, h: (429, {"Retry-After": "2"}, b""), attempts=1)
        self.assertGreaterEqual(tried[1].at - tried[0].at, 1.9)

    def test_flapping(self):
        """Every second attempt fails, while rows keep changing: rising versions, and everything arrives."""
        n = iter(range(1 << 30))
        self.receiver.clear(lambda d, h: (204, {}, b"") if next(n) % 2 else (503, {}, b""))
        for _ in range(5):
            self.say_and_wait("flap%", [f"flap{i}" for i in range(8)], n=2)
        self.wait_patterns("app", "flap%", 8)
        self.assert_rising([d.body for d in self.receiver.deliveries()])
        wait_until("an empty queue", lambda: self.waiting() == 0, alive=self.w)

    def test_a_backlog_is_one_announcement_per_key(self):
        """While nothing is taken, a key has one place; afterwards what comes is its newest version, in the order of the places."""
        broken = threading.Event()
        self.receiver.clear(lambda d, h: (204, {}, b"") if broken.is_set() else (500, {}, b""))
        self.say(["first"])
        wait_until("an attempt", lambda: self.receiver.deliveries(all=True), alive=self.w)
        users = [f"log{i}" for i in range(6)]
        for _ in range(4):
            before = self.rows("log%")
            self.say(users, n=3)
            wait_until("the rows to change", lambda: len(self.rows("log%")) >= 6 and all(
                v > before.get(k, 0) for k, v in self.rows("log%").items() if k[2] == "strategic_conversation_patterns"), alive=self.w)
        wait_until("one place per key", lambda: self.waiting() == 7, alive=self.w)
        broken.set()
        self.wait_patterns("app", "log%", 6)
        taken = self.receiver.deliveries()
        self.assertEqual("first", taken[0].key[1])
        self.assertLess(len(taken), 4 * 6, "a backlog was delivered piece by piece")
        self.assert_rising([d.body for d in taken])

    def test_gone_is_a_dead_letter_that_can_be_tried_again(self):
        gone = self.receivers["gone"]
        gone.clear(lambda d, h: (410, {}, b"") if d.key[1] == "boo" else (500, {}, b""))
        self.say(["boo", "late"], bot="ghost")
        letters = lambda: {json.loads(x["bytes"])["user_id"]: x for x in (
            json.loads(self.w.must("dlq", "show", x["id"], "--json"))[0] for x in self.w.dead_letters() if x["where"] == "feed:gone")}
        wait_until("dead letters", lambda: set(letters()) == {"boo", "late"} and self.waiting("gone") == 0, 60, alive=self.w)
        self.assertEqual("answered 410", letters()["boo"]["reason"])
        self.assertEqual("answered 500", letters()["late"]["reason"])
        self.assertGreater(len([d for d in gone.deliveries(all=True) if d.key[1] == "late"]), 1)
        gone.clear()
        self.w.must("dlq", "retry", "--where", "feed:gone")
        wait_until("both to be delivered", lambda: {d.key[1] for d in gone.deliveries()} == {"boo", "late"}, 60, alive=self.w)
        self.assertEqual({}, letters())

    def test_secrets_change_without_a_restart(self):
        new = "whsec_" + base64.b64encode(bytes(range(64, 96))).decode()
        config = open(self.w.config).read()
        try:
            with open(self.w.config, "w") as f:
                f.write(config.replace(SECRETS[0], new))
            self.w.process.send_signal(1)
            n = iter(range(1000))

            def signed_by_new():
                self.say([f"rotate{next(n)}"])
                taken = self.receiver.deliveries()
                return taken and verify([new, SECRETS[1]], taken[-1].headers, taken[-1].body) == 2
            wait_until("a delivery signed with the new secret", signed_by_new, 60, alive=self.w)
        finally:
            with open(self.w.config, "w") as f:
                f.write(config)
            self.w.process.send_signal(1)
        wait_until("the old one again", lambda: (self.say([f"back{next(n)}"]), verify(SECRETS[:1], self.receiver.deliveries()[-1].headers,
                                                                                   self.receiver.deliveries()[-1].body) == 1)[1], 60, alive=self.w)


class DocumentationTest(FeedTest):
    """What docs/FEED.md shows is what works."""

    def test_examples(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
        with open(os.path.join(root, "docs", "FEED.md")) as f:
            text = f.read()
        with open(os.path.join(root, "tests", "support", "feed_sub.c")) as f:
            self.assertIn(f.read().partition("*/\n")[2], text)
        python = {}
        exec(re.search(r"```python\n(.*?)```", text, re.S).group(1), python)
        self.say(["docs"])
        d = wait_until("a delivery", self.receiver.deliveries, alive=self.w)[0]
        for secret in SECRETS:
            self.assertTrue(python["verify"](secret, d.headers, d.body))
            self.assertFalse(python["verify"](secret, d.headers, d.body + b" "))
            self.assertFalse(python["verify"](secret, {**d.headers, "webhook-timestamp": "1"}, d.body))
        example = json.loads(re.search(r"```json\n(.*?)\n```", text).group(1))
        self.assertEqual(list(example), list(d.json))

    def test_the_figures(self):
        self.say(["figures"])
        wait_until("a delivery", self.receiver.deliveries, alive=self.w)

        def figure(name):
            conn = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=30)
            conn.request("GET", "/metrics")
            page = conn.getresponse().read().decode()
            conn.close()
            found = re.search(rf"^warmpath_{re.escape(name)} (\S+)$", page, re.M)
            return float(found.group(1)) if found else None
        wait_until("the deliveries", lambda: (figure('feed_deliveries_total{destination="app",result="ok"}') or 0) >= 1, alive=self.w)
        wait_until("the announcements", lambda: (figure("feed_announcements_total") or 0) >= 1, alive=self.w)
        wait_until("an empty queue", lambda: figure('feed_waiting{destination="app"}') == 0, alive=self.w)
        self.assertEqual(0, figure('feed_dead_letters_kept{destination="app"}'))


class CrashTest(FeedTest):
    """kill -9 at each moment between the commit of a row and its delivery: after the next start everything has been announced."""
    POINTS = ("sink_after_commit", "feed_before_commit", "feed_after_commit", "sink_before_results")

    def tearDown(self):
        if self.w.running():
            self.w.kill()

    def test_points(self):
        for point in self.POINTS:
            with self.subTest(point):
                if self.w.running():
                    self.w.stop()
                self.receiver.clear()
                users = [f"{point}-{i}" for i in range(40)]
                self.w.spawn(env={"WARMPATH_FAULT": f"{point}:2:abort"})
                self.say(users[:20])

                def dies():
                    self.say([users[20]])
                    return self.w.process.poll() is not None
                wait_until(f"the end at {point}", dies, 60)
                self.assertEqual(-9, self.w.wait(60))
                self.say(users[20:])
                self.w.start()
                self.wait_delivered(f"{point}-%", 40)
                self.assert_rising([d.body for d in self.receiver.deliveries() if d.key[1].startswith(point)])

    def test_killed_while_it_delivers(self):
        """The receiver is slow: most is still in the queue, some is delivered and not yet settled."""
        self.receiver.clear(lambda d, h: time.sleep(0.005) or (204, {}, b""))
        users = [f"mid{i}" for i in range(400)]
        self.say(users)
        wait_until("the first deliveries", lambda: len(self.receiver.deliveries()) > 20, alive=self.w)
        self.w.kill()
        ids = {d.id: d.body for d in self.receiver.deliveries()}
        self.receiver.clear()
        self.w.start()
        seen = lambda: {d.key[1] for d in self.receiver.deliveries()} | {json.loads(b)["user_id"] for b in ids.values()}
        wait_until("everything", lambda: seen() >= set(users) and self.waiting() == 0, 60, alive=self.w)
        again = [d for d in self.receiver.deliveries() if d.id in ids]
        self.assertLessEqual(len(again), 64 + 1, "more was repeated than is settled together")
        for d in again:
            self.assertEqual(ids[d.id], d.body, "one id, two contents")
        self.assert_rising(list(ids.values()))


class ErasureTest(FeedTest):
    """Who is forgotten is announced as such to everybody who may keep a copy, and then named nowhere in the queue."""
    def feed_files(self):
        return b"".join(open(p, "rb").read() for p in glob.glob(f"{self.w.state}/feed.db*"))

    def test_a_forgotten_user(self):
        stream = Stream(self.port(), "?bot_name=sophia")
        subscriber = Subscriber(f"ipc://{self.pub}", self.w.dir)
        self.addCleanup(stream.close)
        self.addCleanup(subscriber.close)
        wait_until("the stream", lambda: stream.last_id, alive=self.w)

        def is_heard():  # what is published before it has subscribed is not for it
            self.say([f"hail-{time.monotonic()}"])
            return subscriber.read()
        wait_until("the subscriber to hear something", is_heard, alive=self.w)
        self.say(["doomed"], bot="sophia")
        self.say(["doomed", "spared"])
        self.wait_delivered("doomed", 1)
        # What waits for a receiver that is away, and what it would not take, name the user too.
        self.receiver.clear(lambda d, h: (410, {}, b"") if d.key == ("elena", "doomed") else (503, {}, b""))
        self.say(["doomed"], n=3)
        wait_until("a dead letter", lambda: self.w.dead_letters(), 60, alive=self.w)
        self.say(["doomed"], bot="sophia", n=3)
        wait_until("an announcement to wait", lambda: self.waiting() > 0, alive=self.w)
        erasure = self.db.one("SELECT strategic_forget('doomed')")
        wait_until("the receipt", lambda: self.db.one("SELECT finished_at IS NOT NULL FROM strategic_erasure WHERE id = %s", erasure), 60,
                   alive=self.w)
        self.assertEqual([], self.w.dead_letters())
        self.receiver.clear()
        erased = lambda payloads: [p for p in map(json.loads, payloads) if (p["user_id"], p["reason"]) == ("doomed", "erase")]
        for name, payloads in (("the stream", stream.read), ("the subscriber", subscriber.read),
                               ("the receiver", lambda: [d.body for d in self.receiver.deliveries()])):
            wait_until(f"{name} to hear of it", lambda: erased(payloads()), 60, alive=self.w)
            self.assertIsNone(erased(payloads())[0]["bot_name"])
            self.assertIn("strategic_conversation_patterns", erased(payloads())[0]["tables"])
        wait_until("the name to leave the queue", lambda: b"doomed" not in self.feed_files(), alive=self.w)


class StreamTest(FeedTest):
    def test_filters(self):
        stream = Stream(self.port(), "?user_id=a%26b&bot_name=Elena")
        everything = Stream(self.port())
        self.addCleanup(stream.close)
        self.addCleanup(everything.close)
        wait_until("the streams", lambda: stream.last_id and everything.last_id, alive=self.w)
        self.say(["x", "a&b", "y"])
        self.say(["a&b"], bot="sophia")
        wait_until("all of it", lambda: {("elena", "a&b"), ("sophia", "a&b"), ("elena", "x"), ("elena", "y")} <= {
            (json.loads(p)["bot_name"], json.loads(p)["user_id"]) for p in everything.read()}, alive=self.w)
        wait_until("the chosen", stream.read, alive=self.w)
        self.assertEqual({("elena", "a&b")}, {(json.loads(p)["bot_name"], json.loads(p)["user_id"]) for p in stream.read()})

    def test_another_process_says_reset(self):
        stream = Stream(self.port())
        self.addCleanup(stream.close)
        self.say(["before"])
        wait_until("an announcement", stream.read, alive=self.w)
        stream.close()
        self.assertEqual(0, self.w.stop())
        self.w.start()
        again = Stream(self.port(), last_id=stream.last_id)
        self.addCleanup(again.close)
        wait_until("the reset", lambda: again.resets == 1, alive=self.w)
        self.say(["after"])
        wait_until("what comes then", lambda: any('"after"' in p for p in again.read()), alive=self.w)
        self.assertFalse(any('"before"' in p for p in again.read()))

    def test_there_is_room_for_so_many(self):
        self.w.stop()
        self.w.start()
        streams = [Stream(self.port()) for _ in range(32)]
        try:
            wait_until("32 streams", lambda: all(s.last_id for s in streams), alive=self.w)
            more = Stream(self.port())
            wait_until("an answer", lambda: more.status, alive=self.w)
            self.assertEqual(503, more.status)
            conn = http.client.HTTPConnection("127.0.0.1", self.port(), timeout=30)
            conn.request("GET", "/livez")
            self.assertEqual(200, conn.getresponse().status)
            conn.close()
        finally:
            for s in streams:
                s.close()

        def free():
            probe = Stream(self.port())
            wait_until("an answer", lambda: probe.status, alive=self.w)
            probe.close()
            return probe.status == 200
        wait_until("room again", free, alive=self.w)
