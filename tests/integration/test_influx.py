"""Points of InfluxDB: what its writers are answered, and against a real influxd 1.x that its subscription delivers, and that what the
subscription loses (by design, see docs/HTTP.md) is read by the catch-up: nothing is lost, nothing counted twice."""
import base64
import gzip
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import unittest
import urllib.parse

import harness
from cluster import die_with_parent, free_port
from harness import CONFIG, PipelineTest, wait_until

CASES = os.path.join(os.path.dirname(__file__), "..", "data", "influx")
SECRET = "s3cret-of-influx"
INFLUXD = shutil.which("influxd")
INFLUX_CONFIG = CONFIG.replace("log: {{", """http: {{listen: "127.0.0.1:{port}", private: "127.0.0.1:{private}"}}
influx:
  secrets: [{{id: one, value: "%s"}}]
{catch_up}log: {{""" % SECRET)


def http_call(port, method, path, body=None, headers=None, timeout=60):
    """(status, headers, body) of a request on a connection of its own."""
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        conn.request(method, path, body, headers or {}, encode_chunked=False)
        answer = conn.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        conn.close()


class InfluxTest(PipelineTest):
    options = {"config": INFLUX_CONFIG}

    @classmethod
    def setUpClass(cls):
        cls.port, cls.private = free_port(), free_port()
        cls.options = {**cls.options, "config": cls.options["config"].replace("{port}", str(cls.port)).replace("{private}", str(cls.private))
                       .replace("{catch_up}", cls.catch_up())}
        super().setUpClass()

    @classmethod
    def catch_up(cls):
        return ""

    def listening(self):
        wait_until("the listener", lambda: '"listening" name=public' in self.w.new_log(), alive=self.w)

    def values(self, bot):
        """How many values of one metric the bot's row was computed from, and their mean."""
        rows = self.db.run("SELECT (details->'n'->>'engagement')::int, engagement_score_avg FROM strategic_character_performance "
                           "WHERE bot_name = %s", bot)
        return (rows[0][0] or 0, rows[0][1]) if rows else (0, None)


class WriterTest(InfluxTest):
    """What writers are answered: each status, each way to say who one is, each form of a body."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()
        wait_until("the listener", lambda: '"listening" name=public' in cls.w.new_log(), alive=cls.w)

    def write(self, body, path="/write?db=x", headers=None, token=SECRET):
        auth = {"Authorization": "Token " + token} if token else {}
        return http_call(self.port, "POST", path, body, {**auth, **(headers or {})})[0]

    def test_every_line_is_answered_as_influxd_answers_it(self):
        for name, least in (("line_protocol_cases.json", 57), ("line_protocol_more.json", 180)):
            with open(os.path.join(CASES, name)) as f:
                cases = json.load(f)["cases"]
            self.assertGreaterEqual(len(cases), least)
            for case in cases:
                # Where a part of a body can be used it is, and 204 says so; carriage returns are taken.
                partly = case["stored"] and case["status"] == 400
                expected = 204 if partly or "\r" in case["line"] else case["status"]
                self.assertEqual(expected, self.write(case["line"].encode()), case)

    def test_who_writes_is_known_by_the_secret_in_any_of_its_places(self):
        basic = lambda user, password: {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
        for headers, query in (({"Authorization": f"Token {SECRET}"}, ""), ({"Authorization": f"Bearer {SECRET}"}, ""),
                               (basic("any", SECRET), ""), ({}, f"&u=any&p={SECRET}"), ({}, f"&token={SECRET}")):
            self.assertEqual(204, self.write(b"x v=1", "/write?db=x" + query, headers, token=None), (headers, query))
        for path in ("/write?db=x", "/api/v2/write?bucket=b&org=o"):
            bodies = set()
            for headers, query in (({}, ""), ({"Authorization": "Token wrong"}, ""), (basic("any", "wrong"), ""),
                                   ({}, "&u=any&p=wrong"), ({}, "&token=wrong"), ({}, "&token="),
                                   ({"Authorization": "Token wrong"}, f"&p={SECRET}")):
                status, _, body = http_call(self.port, "POST", path + query, b"x v=1", headers)
                self.assertEqual(401, status, (path, headers, query))
                bodies.add(body)
            self.assertEqual(1, len(bodies), "whoever is refused is told the same")
        with open(self.w.log) as f:
            self.assertNotIn(SECRET, f.read())

    def test_a_body_may_be_compressed_and_chunked_as_telegraf_sends_it(self):
        now = time.time_ns()
        lines = "".join(f"conversation_quality,bot=tele,user_id=u{i} engagement_score=0.25 {now + i}\n" for i in range(500))

        def pieces(body, size=700):
            yield from (body[i:i + size] for i in range(0, len(body), size))

        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.request("POST", "/api/v2/write?org=o&bucket=b&precision=ns", pieces(gzip.compress(lines.encode())),
                     {"Authorization": f"Token {SECRET}", "Content-Encoding": "gzip", "User-Agent": "Telegraf",
                      "Content-Type": "text/plain; charset=utf-8", "Transfer-Encoding": "chunked"}, encode_chunked=True)
        answer = conn.getresponse()
        self.assertEqual((204, b""), (answer.status, answer.read()))
        conn.close()
        # Again, as after an answer that was lost: the same points.
        self.assertEqual(204, self.write(lines.encode(), "/api/v2/write?org=o&bucket=b"))
        self.assertEqual(204, self.write(b"conversation_quality,bot=tele,user_id=last engagement_score=0.25 %d" % (now // 10**9),
                                         "/write?db=x&precision=s"))
        wait_until("the points in the row", lambda: self.values("tele") == (501, 0.25), alive=self.w)

    def test_what_cannot_be_read_is_kept_and_spoils_nothing_else(self):
        before = len(self.w.dead_letters())
        self.assertEqual(204, self.write(b"conversation_quality,bot=bad engagement_score=1\nconversation_quality,bot=bad nonsense\n"))
        self.assertEqual(400, self.write(b"nothing of this is a line"))
        letters = wait_until("the dead letters", lambda: [d for d in self.w.dead_letters()
                                                          if "line 2, byte 30: a field needs key=value" in json.dumps(d)])
        self.assertIn("influx:influx", json.dumps(letters))
        self.assertEqual(400, self.write(b"x v=1", "/write?db=x&precision=d"))
        self.assertEqual(204, self.write(b"", "/write?db=x"))
        self.assertGreater(len(self.w.dead_letters()), before)
        wait_until("the good line in the row", lambda: self.values("bad")[0] == 1, alive=self.w)

    def test_accesses_and_outreach_join_what_the_tables_brought(self):
        self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content, importance, created_at) "
                    "VALUES ('m1', 'u', 'elena', 'likes tea', 0.5, now() - interval '9 days')")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, created_at) VALUES "
                    "('u', 'elena', 'user', 'good morning', now() - interval '8 days'), ('u', 'elena', 'user', 'and again', now())")
        hour, now = 3600 * 10**9, time.time_ns()
        lines = [f"memory_access,bot=Elena,user_id=u,memory_id=m1 score=0.5,outcome=\"hit\" {now - h * hour}" for h in (150, 100, 60, 30, 8)]
        lines += [f"proactive_outreach,bot=elena,user_id=u,topic=tea sent=true,id=\"o1\" {now - 90 * hour}",
                  f"proactive_outreach,bot=elena,user_id=u replied=true,id=\"o1\" {now - 89 * hour}",
                  f"proactive_outreach,bot=elena,user_id=u sent=1i,id=\"o2\" {now - 70 * hour}"]
        for _ in range(2):
            self.assertEqual(204, self.write("\n".join(lines).encode()))
        wait_until("five accesses", lambda: self.db.one(
            "SELECT forgetting_curve_params->>'accesses' FROM strategic_memory_behavior WHERE user_id = 'u'") == "5", alive=self.w)
        wait_until("two attempts, one of them answered", lambda: self.db.run(
            "SELECT details->'outreach'->>'replied', details->'outreach'->>'resolved' FROM strategic_engagement_opportunities "
            "WHERE user_id = 'u'") == [("1", "2")], alive=self.w)

    def test_clients_that_look_first_find_what_they_look_for(self):
        for method in ("GET", "HEAD"):
            status, headers, body = http_call(self.port, method, "/ping")
            self.assertEqual((204, b""), (status, body))
            self.assertIn("X-Influxdb-Version", headers)
        status, _, body = http_call(self.port, "GET", "/health")
        self.assertEqual((200, "pass"), (status, json.loads(body)["status"]))
        self.assertEqual((200, b""), http_call(self.port, "HEAD", "/health")[::2])
        self.assertEqual(405, http_call(self.port, "GET", "/write")[0])


class Influxd:
    """A real influxd with a database of its own, on ports of its own."""

    CONFIG = """reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{dir}/meta"
[data]
  dir = "{dir}/data"
  wal-dir = "{dir}/wal"
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
[monitor]
  store-enabled = false
[subscriber]
  http-timeout = "5s"
"""

    def __init__(self, directory):
        self.dir = directory
        self.port = free_port()
        self.process = None
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "influxd.conf"), "w") as f:
            f.write(self.CONFIG.format(dir=directory, port=self.port, rpc=free_port()))

    def start(self):
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen([INFLUXD, "-config", os.path.join(self.dir, "influxd.conf")], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, preexec_fn=lambda: die_with_parent(signal.SIGKILL))
        harness._running.add(self.process)
        wait_until("influxd to answer", self.answers, 60)
        return self

    def answers(self):
        try:
            return http_call(self.port, "GET", "/ping")[0] == 204
        except OSError:
            return False

    def kill(self):
        self.process.kill()
        self.process.wait(30)
        harness._running.discard(self.process)

    def query(self, q):
        status, _, body = http_call(self.port, "POST", "/query?" + urllib.parse.urlencode({"db": "eng", "q": q, "epoch": "ns"}))
        answer = json.loads(body)
        if status != 200 or "error" in answer["results"][0]:
            raise AssertionError(f"{q}: {status} {body}")
        return answer["results"][0]

    def write(self, lines):
        return http_call(self.port, "POST", "/write?db=eng&precision=ns", lines.encode())[0]

    def values(self, bot):
        """As InfluxTest.values(), from the database."""
        series = self.query(f"SELECT count(engagement_score), mean(engagement_score) FROM conversation_quality WHERE bot = '{bot}'").get("series")
        return tuple(series[0]["values"][0][1:]) if series else (0, None)


@unittest.skipUnless(INFLUXD, "there is no influxd (Debian package influxdb)")
class SubscriptionTest(InfluxTest):
    """A real influxd that is subscribed to and read."""

    @classmethod
    def setUpClass(cls):
        cls.influxd = Influxd(os.path.join(harness.work_dir, f"influxd_{cls.__name__.lower()}"))
        super().setUpClass()
        cls.influxd.start()
        cls.influxd.query("CREATE DATABASE eng")
        cls.influxd.query(f"CREATE SUBSCRIPTION hook ON eng.autogen DESTINATIONS ALL 'http://any:{SECRET}@127.0.0.1:{cls.port}'")
        cls.n = 0

    @classmethod
    def tearDownClass(cls):
        cls.influxd.kill()
        super().tearDownClass()

    @classmethod
    def catch_up(cls):
        return f'  catch_up: {{{{url: "http://127.0.0.1:{cls.influxd.port}", database: eng, interval: 24h, rescan: 24h}}}}\n'

    def start(self, interval):
        """interval: 24h means the subscription alone."""
        self.w.template = re.sub(r"(?<!_)(interval|rescan): \d+\w", rf"\1: {interval}", self.w.template)
        self.w.write_config()
        self.w.start()
        self.listening()

    @classmethod
    def points(cls, bot, n, at=None):
        """n lines of different series, times and values."""
        at = at or time.time_ns() - 3 * 10**9
        lines = []
        for _ in range(n):
            cls.n += 1
            lines.append(f"conversation_quality,bot={bot},user_id=u{cls.n % 97} engagement_score={cls.n % 1000 / 1000:.3f},"
                         f"satisfaction_score=0.5,note=\"n{cls.n}\" {at + cls.n}")
        return "\n".join(lines) + "\n"

    def cursor(self):
        db = sqlite3.connect(f"file:{self.w.state}/inbox.db?mode=ro", uri=True, timeout=30)
        try:
            row = db.execute("SELECT value FROM cursor WHERE source = 'influx'").fetchone()
            return int(row[0]) if row else 0
        finally:
            db.close()

    def noted(self):
        db = sqlite3.connect(f"file:{self.w.state}/influx-influx.db?mode=ro", uri=True, timeout=30)
        try:
            return db.execute("SELECT count(*) FROM seen").fetchone()[0]
        finally:
            db.close()

    def wait_read_again(self, times):
        """Until the catch-up has read everything so many times more."""
        for _ in range(times):
            before = self.cursor()
            wait_until("the next reading", lambda: self.cursor() > before, 60, alive=self.w)

    def assert_same(self, *bots):
        """Every bot's row is made of exactly the points that influxd holds."""
        for bot in bots:
            want = self.influxd.values(bot)
            self.assertGreater(want[0], 0)
            wait_until(f"the {want[0]} points of {bot} in the row", lambda: self.values(bot)[0] >= want[0], 60, alive=self.w)
            have = self.values(bot)
            self.assertEqual(want[0], have[0], bot)
            self.assertAlmostEqual(want[1], have[1], places=6)

    def test_what_the_subscription_loses_is_read_and_nothing_counts_twice(self):
        # The first reading finds nothing; then the subscription is alone.
        self.start("24h")
        wait_until("the first reading", lambda: self.cursor() > 0, 60, alive=self.w)
        for i in range(20):
            self.assertEqual(204, self.influxd.write(self.points("pushed", 130)))
        self.assert_same("pushed")
        # More than an engine remembers of its newest points: only these notes tell the catch-up that they were counted.
        wait_until("the notes of what was pushed", lambda: self.noted() >= 2 * 2600, 30, alive=self.w)
        cursor = self.cursor()

        # Killed while points are written, and down while more are: of "busy" far more than an engine remembers of its newest.
        stop = threading.Event()

        def write_on():
            while not stop.is_set():
                self.influxd.write(self.points("torn", 3))

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            wait_until("some points of torn", lambda: self.values("torn")[0] > 20, 60, alive=self.w)
            self.w.kill()
            for _ in range(4):
                self.assertEqual(204, self.influxd.write(self.points("busy", 1500)))
            self.assertEqual(204, self.influxd.write(self.points("late", 10, time.time_ns() - 3 * 3600 * 10**9)))
            self.assertEqual(cursor, self.cursor(), "nothing has read meanwhile")
            self.start("1s")
            wait_until("some points of busy", lambda: self.values("busy")[0] > 0, 60, alive=self.w)
        finally:
            stop.set()
            writer.join(60)
        self.assert_same("torn", "busy", "late", "pushed")
        self.wait_read_again(2)
        self.assert_same("torn", "busy", "late", "pushed")

        # influxd is killed: what it had acknowledged but not sent is read once it is back. Meanwhile everything else goes on.
        for _ in range(10):
            self.assertEqual(204, self.influxd.write(self.points("torn", 20)))
        self.influxd.kill()
        wait_until("the complaint", lambda: "could not catch up" in self.w.new_log(), 60, alive=self.w)
        status, _, _ = http_call(self.port, "POST", "/write?db=x", b"conversation_quality,bot=other engagement_score=0.5",
                                 {"Authorization": f"Token {SECRET}"})
        self.assertEqual(204, status)
        wait_until("another writer's point", lambda: self.values("other")[0] == 1, 60, alive=self.w)
        self.influxd.start()
        self.assertEqual(204, self.influxd.write(self.points("torn", 20)))
        self.assert_same("torn")
        self.wait_read_again(2)
        self.assert_same("torn", "busy", "late", "pushed")

        # A value that is written again replaces the old one, on both roads.
        at = time.time_ns()
        self.assertEqual(204, self.influxd.write(self.points("again", 20)))
        for value in ("0.1", "0.9"):
            self.assertEqual(204, self.influxd.write(f"conversation_quality,bot=again engagement_score={value} {at}"))
            self.wait_read_again(1)
        want = self.influxd.values("again")
        wait_until("the new value", lambda: self.values("again")[0] == 21 and abs(self.values("again")[1] - want[1]) < 1e-6, 60, alive=self.w)

        # A conflict of types is refused by influxd, which sends it on all the same: it counts here, and only here.
        self.assertEqual(400, self.influxd.write(f"conversation_quality,bot=again engagement_score=1i {at + 5000}"))
        wait_until("the refused point", lambda: self.values("again")[0] == 22, 60, alive=self.w)
        self.assertEqual(21, self.influxd.values("again")[0])
        self.assertEqual([], self.w.dead_letters())
        self.assertEqual(0, self.w.stop())


class KilledTest(SubscriptionTest):
    """The process is killed at random moments: while it takes pushes, while it reads, between the inbox and its notes."""

    ROUNDS = 30 if os.environ.get("WARMPATH_LONG") == "1" else 3
    test_what_the_subscription_loses_is_read_and_nothing_counts_twice = None

    def test_every_point_counts_once_wherever_the_process_is_killed(self):
        rng = random.Random(5)
        stop = threading.Event()

        def write_on():
            while not stop.is_set():
                self.influxd.write(self.points(f"bot{self.n % 3}", 4))
                stop.wait(0.005)

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            for round_ in range(self.ROUNDS):
                self.influxd.write(self.points("backlog", 700))
                self.start("1s")
                time.sleep(rng.uniform(0, 1.5))  # not a wait for something: the moment of the kill
                self.w.kill()
        finally:
            stop.set()
            writer.join(60)
        self.start("1s")
        self.assert_same("bot0", "bot1", "bot2", "backlog")
        self.wait_read_again(2)
        self.assert_same("bot0", "bot1", "bot2", "backlog")
        self.assertEqual(0, self.w.stop())


class RefusedTest(InfluxTest):
    """A server that refuses the catch-up."""

    PASSWORD = "p4ssword-of-the-reader"

    class Handler(http.server.BaseHTTPRequestHandler):
        asked = []

        def do_GET(self):
            self.asked.append((self.path, self.headers.get("Authorization")))
            body = json.dumps({"error": f"authorization failed for {RefusedTest.PASSWORD}"}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    @classmethod
    def setUpClass(cls):
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), cls.Handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()
        super().tearDownClass()

    @classmethod
    def catch_up(cls):
        return (f'  catch_up: {{{{url: "http://127.0.0.1:{cls.server.server_address[1]}", database: eng, user: reader, '
                f'password: "{cls.PASSWORD}", interval: 1s}}}}\n')

    def test_a_refusal_is_said_with_what_to_do_and_holds_nothing_up(self):
        self.w.start()
        self.listening()
        wait_until("the complaint", lambda: "could not catch up" in self.w.new_log(), 60, alive=self.w)
        line = re.search(r".*could not catch up.*", self.w.new_log()).group(0)
        self.assertIn("level=error", line)
        self.assertIn("InfluxDB answers 401", line)
        self.assertIn("give influx.catch_up a user who may read", line)
        self.assertNotIn(self.PASSWORD, self.w.new_log())
        path, authorization = self.Handler.asked[0]
        self.assertNotIn(self.PASSWORD, path)
        self.assertEqual("Basic " + base64.b64encode(f"reader:{self.PASSWORD}".encode()).decode(), authorization)
        metrics = http_call(self.private, "GET", "/metrics")[2].decode()
        self.assertIn('warmpath_source_connected{source="influx"} 0', metrics)
        self.assertRegex(metrics, r'warmpath_pull_requests_total{source="influx",outcome="refused"} [1-9]')
        status, _, _ = http_call(self.port, "POST", "/write?db=x", b"conversation_quality,bot=other engagement_score=0.5",
                                 {"Authorization": f"Token {SECRET}"})
        self.assertEqual(204, status)
        metrics = http_call(self.private, "GET", "/metrics")[2].decode()
        self.assertIn('warmpath_webhook_requests_total{source="influx",code="204"} 1', metrics)
        self.assertIn('warmpath_webhook_verified_total{source="influx",key_id="one"} 1', metrics)
        for secret in (SECRET, self.PASSWORD):
            self.assertNotIn(secret, metrics)
        wait_until("the point", lambda: self.values("other")[0] == 1, 60, alive=self.w)
        self.assertEqual(0, self.w.stop())
