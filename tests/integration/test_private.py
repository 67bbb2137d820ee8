"""The private listener: what it says of the process is what is so, and Prometheus can read it."""
import http.client
import json
import os
import re
import socket
import subprocess
import time
import unittest

import harness
from chaos_proxy import ChaosProxy
from harness import CONFIG, PipelineTest, Warmpath, wait_until

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
SECRET = "a-secret-that-nobody-may-read"
DOOR = """catch_up_lag: 1m
http:
  listen: "127.0.0.1:0"
  private: "{private}"
webhooks:
  - name: app
    preset: warmpath
    verify: shared-secret
    secrets: [{{id: k1, value: "%s"}}, {{id: k2, value: "another-secret-entirely"}}]
log: {{""" % SECRET


def socket_of(server):
    return f"{server.socket_dir}/.s.PGSQL.{server.port}"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def answer(conn, method, path, body=None, headers=None):
    """(status, headers, text); closes the connection."""
    try:
        conn.request(method, path, body, headers or {})
        r = conn.getresponse()
        return r.status, dict(r.getheaders()), r.read().decode()
    finally:
        conn.close()


def figures(text):
    """name{labels} -> value of a page in the text format."""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


def promtool(*args, text=None):
    run = subprocess.run(["promtool", *args], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return run.returncode, run.stdout


class PrivateTest(PipelineTest):
    separate_sink = True
    private = None

    @classmethod
    def setUpClass(cls):
        cls.options = {"config": CONFIG.replace("log: {{", DOOR.replace("{private}", cls.private))}
        super().setUpClass()
        cls.begin()

    @classmethod
    def begin(cls):
        cls.w.start()

    def port(self, name):
        pattern = re.compile(rf'"listening" name={name} .*port=(\d+)')
        return int(wait_until("the listener", lambda: pattern.search(self.w.new_log()), alive=self.w).group(1))

    def get(self, path, headers=None):
        return answer(http.client.HTTPConnection("127.0.0.1", self.port("private"), timeout=30), "GET", path, None, headers)

    def figures(self):
        return figures(self.get("/metrics")[2])

    def post(self, body, secret=SECRET):
        conn = http.client.HTTPConnection("127.0.0.1", self.port("public"), timeout=30)
        return answer(conn, "POST", "/webhooks/app", body, {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"})[0]

    def wait_figure(self, name, value):
        try:
            wait_until(f"{name} {value}", lambda: self.figures().get(name) == value, alive=self.w)
        except AssertionError as e:
            raise AssertionError(f"{e}\nit is {self.figures().get(name)}")


def message(number, **values):
    return {"type": "message", "id": f"m{number}", "user_id": "ann", "bot_name": "elena", "role": "user", "content": "words",
            "at": int(time.time() * 1e6), **values}


class MetricsTest(PrivateTest):
    private = "127.0.0.1:0"

    def test_counters_move_as_documented(self):
        count = lambda name: self.figures().get(name, 0)
        self.assertEqual(204, self.post(json.dumps([message(1), message(2)])))
        self.assertEqual(401, self.post(json.dumps(message(3)), secret="wrong"))
        self.assertEqual(400, self.post('{"type": "message"}'))
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('bob', 'elena', 'user', 'words')")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('bob', 'elena', 'narrator', 'words')")
        for name, value in (
                ('webhook_requests_total{source="app",code="204"}', 1),
                ('webhook_requests_total{source="app",code="401"}', 1),
                ('webhook_requests_total{source="app",code="400"}', 1),
                ('webhook_request_duration_seconds_count{source="app"}', 3),
                ('webhook_verified_total{source="app",key_id="k1"}', 2),
                ('webhook_verified_total{source="app",key_id="k2"}', 0),
                ('events_received_total{source="app",kind="message"}', 2),
                ('events_received_total{source="postgres",kind="message"}', 1),
                ('events_received_total{source="postgres",kind="dead_letter"}', 1),
                ('dead_letters_total{where="webhook:app"}', 1),
                ('dead_letters_total{where="public.chat_message"}', 1),
                ('engine_events_total{engine="conversation_patterns"}', 3),
                ('source_connected{source="postgres"}', 1),
                ('sink_connected', 1),
                ('snapshot_loading', 0),
                ('config_reload_success', 1)):
            self.wait_figure(f"warmpath_{name}", value)
        # Gauges are taken once a second.
        kept = lambda: sum(v for k, v in self.figures().items() if k.startswith("warmpath_dead_letters_kept{"))
        wait_until("two letters", lambda: kept() == 2, alive=self.w)
        wait_until("three requests", lambda: count('warmpath_http_requests_total{listener="public"}') >= 3, alive=self.w)
        now = self.figures()
        self.assertEqual(1, sum(v for k, v in now.items() if k.startswith("warmpath_webhook_rejected_total")))
        for name in ("source_last_event_timestamp_seconds{source=\"postgres\"}", "config_reload_timestamp_seconds"):
            self.assertLess(abs(now[f"warmpath_{name}"] - time.time()), 300, name)
        for name in ("slot_retained_bytes", "source_lag_bytes{source=\"postgres\"}", "checkpoint_bytes", "queue_capacity{queue=\"inbox\"}",
                     "queue_depth{queue=\"sink\"}", "inbox_queued", "cache_write_duration_seconds_count"):
            wait_until(name, lambda: count(f"warmpath_{name}") is not None and f"warmpath_{name}" in self.figures(), alive=self.w)
        self.assertNotIn("warmpath_slot_safe_wal_bytes", now)  # no limit is set: nothing is known of it
        # A letter that is dropped beside the running process is no longer counted.
        self.w.must("dlq", "drop", "--all")
        wait_until("no letters", lambda: kept() == 0, alive=self.w)
        self.w.process.send_signal(1)
        self.wait_figure('warmpath_config_reloads_total{outcome="ok"}', 1)

    def test_promtool_reads_the_page_and_the_docs_know_all_of_it(self):
        self.post(json.dumps(message(9)))
        wait_until("figures", lambda: "warmpath_checkpoint_bytes" in self.figures(), alive=self.w)
        status, headers, text = self.get("/metrics")
        self.assertEqual((200, "text/plain; version=0.0.4; charset=utf-8"), (status, headers["Content-Type"]))
        code, out = promtool("check", "metrics", text=text)
        self.assertEqual((0, ""), (code, out))
        for secret in (SECRET, "another-secret-entirely"):
            self.assertNotIn(secret, text)
        with open(os.path.join(ROOT, "docs", "METRICS.md")) as f:
            known = set(re.findall(r"^\| `([a-z0-9_]+)` \|", f.read(), re.M))
        self.assertEqual(set(), set(re.findall(r"^# TYPE (\S+)", text, re.M)) - known)
        status, headers, text = self.get("/metrics", {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
        self.assertEqual((200, "application/openmetrics-text; version=1.0.0; charset=utf-8"), (status, headers["Content-Type"]))
        self.assertTrue(text.endswith("\n# EOF\n"))

    def test_only_what_is_there_is_answered(self):
        self.assertEqual(404, self.get("/")[0])
        self.assertEqual(404, self.get("/webhooks/app")[0])
        conn = http.client.HTTPConnection("127.0.0.1", self.port("private"), timeout=30)
        self.assertEqual(405, answer(conn, "POST", "/metrics", "x")[0])
        conn = http.client.HTTPConnection("127.0.0.1", self.port("public"), timeout=30)
        self.assertEqual(404, answer(conn, "GET", "/metrics")[0])

    def test_it_is_never_beyond_loopback(self):
        other = Warmpath(self.name + "_wide", self.db, self.sink, config=CONFIG.replace("log: {{", DOOR.replace("{private}", "0.0.0.0:0")))
        other.spawn()
        self.assertNotEqual(0, other.wait(60))
        self.assertIn("0.0.0.0", other.new_log())


class HealthTest(PrivateTest):
    """On a unix socket."""

    @classmethod
    def setUpClass(cls):
        cls.socket = os.path.join(harness.work_dir, "private.sock")
        cls.private = "unix:" + cls.socket
        super().setUpClass()

    @classmethod
    def begin(cls):
        cls.source = ChaosProxy(socket_of(harness.cluster))
        cls.cache = ChaosProxy(socket_of(harness.cluster))
        cls.w.write_config(conninfo=cls.source.conninfo(cls.db.name), sink=f'sink: {{conninfo: "{cls.cache.conninfo(cls.sink.name)}"}}\n')
        super().begin()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.source.close()
        cls.cache.close()

    def get(self, path, headers=None):
        return answer(UnixConnection(self.socket), "GET", path, None, headers)

    def wait_ready(self):
        wait_until("ready", lambda: self.get("/readyz")[0] == 200, 60, alive=self.w)

    def wait_failed(self, check):
        def failed():
            status, _, text = self.get("/readyz?verbose")
            return status == 503 and f"[-]{check} failed: " in text and text
        return wait_until(f"{check} to fail", failed, 60, alive=self.w)

    def test_ready_follows_what_is_so(self):
        self.wait_ready()
        self.assertEqual("ok\n", self.get("/readyz")[2])
        text = self.get("/readyz?verbose")[2]
        for check in ("config", "state", "sink", "snapshot", "source", "lag", "inbox", "supervisor"):
            self.assertIn(f"[+]{check} ok\n", text)
        self.assertTrue(text.endswith("readyz check passed\n"))
        for path in ("/livez", "/healthz"):
            self.assertEqual((200, "ok\n"), self.get(path)[::2])
        self.assertEqual(0, os.stat(self.socket).st_mode & 0o007, "others must not reach it")

        self.source.refuse()
        self.source.cut()
        text = self.wait_failed("source")
        self.assertIn("[+]sink ok\n", text)
        self.assertTrue(text.endswith("readyz check failed\n"))
        self.assertEqual(200, self.get("/livez")[0], "a database that is away is no reason to be restarted")
        self.assertNotIn("[+]", self.get("/readyz")[2])
        self.source.heal()
        self.wait_ready()

        self.cache.refuse()
        self.cache.cut()
        self.assertIn("[+]source ok\n", self.wait_failed("sink"))
        self.assertEqual(200, self.get("/livez")[0])
        # Stopping waits for the sink a moment: long enough to be asked meanwhile.
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('cid', 'elena', 'user', 'words')")
        self.w.wait_covered()
        self.w.process.terminate()
        seen = wait_until("shutdown", lambda: "[-]shutdown failed" in self.get("/readyz")[2], alive=self.w)
        self.assertTrue(seen)
        self.w.wait(30)
        self.assertFalse(os.path.exists(self.socket))


class RulesTest(unittest.TestCase):
    def test_promtool_takes_the_rules_and_they_fire_when_they_should(self):
        code, out = promtool("check", "rules", os.path.join(ROOT, "deploy", "prometheus-rules.yaml"))
        self.assertEqual(0, code, out)
        code, out = promtool("test", "rules", os.path.join(ROOT, "tests", "data", "prometheus", "rules_test.yaml"))
        self.assertEqual(0, code, out)

    def test_the_rules_ask_for_metrics_that_there_are(self):
        with open(os.path.join(ROOT, "deploy", "prometheus-rules.yaml")) as f:
            asked = set(re.findall(r"\b(?:warmpath|process)_[a-z0-9_]+", re.sub(r"(?m)^\s*(#|summary:|description:).*", "", f.read())))
        with open(os.path.join(ROOT, "docs", "METRICS.md")) as f:
            known = set(re.findall(r"^\| `([a-z0-9_]+)` \|", f.read(), re.M))
        self.assertTrue(asked)
        self.assertEqual(set(), {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} - known)


if __name__ == "__main__":
    unittest.main()
