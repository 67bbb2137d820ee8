"""The invalidation feed, all four ways: what NOTIFY, PUB, the streams and the webhooks say is the same, in order, and enough to know of
every row; nothing that a receiver does, and no crash, loses an announcement (docs/FEED.md)."""
import base64
import http.client
import json
import os
import re
import select
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
        self.status = None
        self.start()

    def run(self):
        while not self.ends:
            try:
                self.connect()
            except OSError:
                time.sleep(0.05)

    def connect(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.conn = conn
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
        self.ends = True


class FeedTest(PipelineTest):
    destinations = {"app": {}}  # name -> more of its configuration
    first = True

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
