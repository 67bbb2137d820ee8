#!/usr/bin/python3
"""The demo: real conversations go into an ordinary table, and Warmpath keeps the cache rows fresh.

usage: ./dev demo [--once] [--pace N] [--seconds N]

--once      without the pace, then `warmpath verify --all` and a summary; exit code 0 when every row is right
--pace N    messages per second (default 60)
--seconds N stop after so long

The conversations are an excerpt of public IRC logs (tests/data/NOTICE.md). Each nick is a user and each channel a bot; what a
channel bot says goes to the nick it names, or else to whoever spoke last. The times are moved so that each channel ends now.
IRC has no memories and no metrics, so the tables about them stay empty here.

Every run begins with a database and a state of its own; the server's files and the build are used again. DATABASE_URL names
another server to use (wal_level=logical, a role that may create databases and replicate).
"""
import argparse
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
import cluster
import psycopg2
import psycopg2.extensions

WARMPATH = os.path.join(ROOT, "build", "warmpath")
VAR = os.path.join(ROOT, "var")
DATA = os.path.join(ROOT, "tests", "data", "irc_demo.jsonl")
CONFIG = os.path.join(ROOT, "deploy", "demo.yaml")
DATABASE = "warmpath_demo"
SLOT = "warmpath_demo"

START_SECONDS = 60
CATCH_UP_SECONDS = 120
STOP_SECONDS = 15
# A message counts for the latency when its user has been silent for so long before: a notice then cannot belong to an earlier one.
SILENT_SECONDS = 1.0
GAP_BETWEEN_FILES = 3600

TABLE = """
CREATE TABLE public.chat_message (
    id bigserial PRIMARY KEY,
    channel text NOT NULL,
    nick text NOT NULL,
    is_bot boolean NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}'
);
-- An UPDATE or DELETE must say whose message it was; `warmpath doctor` says how.
ALTER TABLE public.chat_message REPLICA IDENTITY FULL;
"""


class Failed(Exception):
    pass


def say(text):
    print(text, flush=True)


# ---- the conversations

def mentioned(text, speakers):
    """The nick that a channel bot's line is for: the first word that is one."""
    for word in re.findall(r"[^\s,:;()<>]+", text):
        if word in speakers:
            return word
    return None


def conversations(now):
    """Messages in the order of their moved times: (channel, nick, is_bot, text, time, file)."""
    with open(DATA, encoding="utf-8") as f:
        lines = [json.loads(line) for line in f]
    files = {}
    for line in lines:
        files.setdefault((line["c"], line["f"]), []).append(line)
    messages = []
    for channel in sorted({c for c, _ in files}):
        end = now
        for key in sorted((k for k in files if k[0] == channel), reverse=True):
            shift = end - files[key][-1]["t"]
            end = files[key][0]["t"] + shift - GAP_BETWEEN_FILES
            speakers, latest = set(), None
            for line in files[key]:
                if line.get("b"):
                    user = mentioned(line["m"], speakers) or latest
                    if user is None:
                        continue  # a bot that talks before anyone is there
                else:
                    user = latest = line["n"]
                    speakers.add(user)
                messages.append((channel, user, bool(line.get("b")), line["m"], line["t"] + shift, key[1]))
    messages.sort(key=lambda m: m[4])
    return messages


# ---- the parts

class Demo:
    def __init__(self, args):
        self.args = args
        self.cluster = None
        self.process = None
        self.env = None
        self.work = os.path.join(VAR, "demo")
        self.conns = []

    def connect(self, conninfo):
        conn = psycopg2.connect(conninfo, connect_timeout=10)
        conn.autocommit = True
        self.conns.append(conn)
        return conn

    def server(self):
        """Where the demo's database is: (conninfo for the administration, conninfo of the database)."""
        given = os.environ.get("DATABASE_URL")
        if given:
            say("using the server that DATABASE_URL names")
            return given, psycopg2.extensions.make_dsn(given, dbname=DATABASE)
        self.cluster = cluster.Cluster(os.path.join(VAR, "pg"))
        say("starting the private PostgreSQL" if self.cluster.exists() else "making a private PostgreSQL under ./var (once)")
        self.cluster.start()
        return self.cluster.conninfo(), self.cluster.conninfo(DATABASE)

    def fresh_database(self, admin_conninfo):
        """State, slot and tables belong together: all three begin anew."""
        admin = self.connect(admin_conninfo).cursor()
        admin.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (SLOT,))
        row = admin.fetchone()
        if row and row[0]:
            raise Failed(f"another demo is running (server process {row[0]} reads slot {SLOT}); stop it first")
        if row:
            admin.execute("SELECT pg_drop_replication_slot(%s)", (SLOT,))
        admin.execute("SHOW wal_level")
        if admin.fetchone()[0] != "logical":
            raise Failed("the server has wal_level other than logical: ALTER SYSTEM SET wal_level = 'logical', then restart it")
        admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {DATABASE}")
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work, mode=0o700)

    def warmpath(self, *args, timeout=60):
        return subprocess.run([WARMPATH, *args, "--config", CONFIG], cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout)

    def must(self, *args, timeout=60):
        run = self.warmpath(*args, timeout=timeout)
        if run.returncode != 0:
            raise Failed(f"warmpath {' '.join(args)} failed:\n{run.stdout}")
        return run.stdout

    def start(self):
        self.log = os.path.join(self.work, "log")
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C reaches us, and we end it in good order.
            self.process = subprocess.Popen([WARMPATH, "run", "--config", CONFIG], cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=lambda: cluster.die_with_parent(signal.SIGTERM))
        self.wait("warmpath to read the slot",
                  lambda: self.one("SELECT active FROM pg_replication_slots WHERE slot_name = %s", SLOT), START_SECONDS)

    def check_alive(self):
        if self.process.poll() is not None:
            with open(self.log, errors="replace") as f:
                raise Failed(f"warmpath run ended with {self.process.returncode}:\n" + "".join(f.readlines()[-10:]))

    def wait(self, what, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            self.check_alive()
            if time.monotonic() > deadline:
                raise Failed(f"waited {seconds} s for {what}; the log is {self.log}")
            time.sleep(0.02)

    def one(self, sql, *args):
        self.cur.execute(sql, args or None)
        row = self.cur.fetchone()
        return row[0] if row else None

    def prepare(self):
        admin, conninfo = self.server()
        self.fresh_database(admin)
        self.conninfo = conninfo
        self.env = dict(os.environ, DATABASE_URL=conninfo)
        self.cur = self.connect(conninfo).cursor()
        self.cur.execute(TABLE)
        say("making the cache tables (warmpath migrate up)")
        self.must("migrate", "up")
        say("starting warmpath run")
        self.start()
        self.listener = self.connect(conninfo)
        self.listener.cursor().execute("LISTEN strategic_cache")

    def stop(self):
        """Ends what was started; returns the exit code of warmpath run, None if it did not run."""
        code = None
        if self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
            self.process = None
        for conn in self.conns:
            conn.close()
        if self.cluster:
            self.cluster.close()
            self.cluster = None
        return code


class Feed:
    """Writes messages, takes notices, keeps count."""

    def __init__(self, demo, messages):
        self.demo = demo
        self.messages = messages
        self.sent = 0
        self.rows = 0
        self.notices = 0
        self.spoke = {}  # key -> when its last message was committed
        self.waiting = {}  # key -> commit time of a message whose latency is measured
        self.latencies = []
        self.began = time.monotonic()
        self.drawn = 0.0

    def take_notices(self, wait):
        """Handles what has come, waiting for at most so many seconds for something."""
        conn = self.demo.listener
        if wait > 0:
            select.select([conn], [], [], wait)
        conn.poll()
        now = time.monotonic()
        for notice in conn.notifies:
            body = json.loads(notice.payload)
            self.notices += 1
            self.rows += len(body["tables"])
            began = self.waiting.pop((body["bot_name"], body["user_id"]), None)
            if began is not None:
                self.latencies.append(now - began)
        conn.notifies.clear()

    def send(self, m):
        channel, nick, is_bot, text, at, file = m
        key = (channel, nick)
        quiet = time.monotonic() - self.spoke.get(key, -1e9) > SILENT_SECONDS
        self.demo.cur.execute(
            "INSERT INTO chat_message(channel, nick, is_bot, body, created_at, metadata) VALUES (%s, %s, %s, %s, to_timestamp(%s), %s)",
            (channel, nick, is_bot, text, at, json.dumps({"source": {"file": f"{channel}-{file}"}})))
        now = time.monotonic()
        if quiet and key not in self.waiting:
            self.waiting[key] = now
        self.spoke[key] = now
        self.sent += 1

    def quantile(self, q):
        values = sorted(self.latencies)
        return f"{values[min(len(values) - 1, int(len(values) * q))] * 1e3:.1f} ms" if values else "-"

    def draw(self, end=False):
        now = time.monotonic()
        interactive = sys.stdout.isatty()
        if not end and now - self.drawn < (0.2 if interactive else 5):
            return
        self.drawn = now
        text = (f"messages in {self.sent}/{len(self.messages)}   rows refreshed {self.rows}   commit to row: "
                f"p50 {self.quantile(.5)}, p99 {self.quantile(.99)} ({len(self.latencies)} measured)")
        print(("\r\033[K" if interactive else "") + text, end="\n" if end or not interactive else "", flush=True)

    def run(self, pace, seconds):
        """In real time at so many messages a second; 0 = as fast as the database takes them."""
        for i, m in enumerate(self.messages):
            self.demo.check_alive()
            due = self.began + (i / pace if pace else 0)
            while pace and time.monotonic() < due:
                self.take_notices(due - time.monotonic())
            self.send(m)
            self.take_notices(0)
            self.draw()
            if seconds and time.monotonic() - self.began > seconds:
                break

    def finish(self):
        """Until every message is counted in a row."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while self.demo.one("SELECT coalesce(sum(event_count), 0) FROM strategic_conversation_patterns") < self.sent:
            self.demo.check_alive()
            self.take_notices(0.1)
            self.draw()
            if time.monotonic() > deadline:
                raise Failed(f"not every message was counted within {CATCH_UP_SECONDS} s; the log is {self.demo.log}")
        self.take_notices(0)
        self.draw(end=True)


# ---- what is shown

TABLES = ("strategic_memory_health", "strategic_character_performance", "strategic_personality_profiles", "strategic_conversation_patterns",
          "strategic_memory_behavior", "strategic_engagement_opportunities")


def show_tables(demo):
    say("\nRows (IRC has no memories and no metrics, so their tables stay empty here):")
    for table in TABLES:
        say(f"  {table:36} {demo.one(f'SELECT count(*) FROM {table}'):>6}")


def show_row(demo):
    demo.cur.execute("SELECT to_jsonb(c) - 'id' - 'details' FROM strategic_conversation_patterns c "
                     "ORDER BY num_nonnulls(recent_topics, avg_topic_duration_minutes, topic_transition_graph, preferred_depth) DESC, "
                     "event_count DESC, user_id LIMIT 1")
    row = demo.cur.fetchone()[0]
    say(f"\nOne of {demo.one('SELECT count(*) FROM strategic_conversation_patterns')} rows of strategic_conversation_patterns, "
        f"{row['user_id']} in #{row['bot_name']}:")
    for name, value in row.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        if value is not None and name not in ("user_id", "bot_name"):
            say(f"  {name:30} {text if len(text) <= 110 else text[:107] + '...'}")


def show_commands(demo, user):
    psql = shutil.which("psql") or os.path.join(cluster.find_bindir(), "psql")
    say("\nLook further" + (", while this runs, from another terminal:" if demo.process else ":"))
    say(f"  {psql} '{demo.conninfo}'")
    say(f"      SELECT * FROM strategic_bundle('{user[0]}', '{user[1]}');   LISTEN strategic_cache;")
    for command in ("status", "doctor", "verify --all"):
        say(f"  DATABASE_URL='{demo.conninfo}' build/warmpath {command} --config deploy/demo.yaml")
    say(f"  less {demo.log}")


def verify(demo):
    say("comparing every row with what the naive implementation computes from the table (warmpath verify --all)")
    run = demo.warmpath("verify", "--all", "--wait", "30s", timeout=180)
    say("  " + run.stdout.strip().replace("\n", "\n  "))
    if run.returncode != 0:
        raise Failed("verify found differences")


def play(demo, args):
    demo.prepare()
    messages = conversations(int(time.time()))
    channels = sorted({m[0] for m in messages})
    say(f"{len(messages)} messages of {len({m[:2] for m in messages})} users in {', '.join('#' + c for c in channels)}"
        + ("" if args.once else f", {args.pace} a second; Ctrl-C ends it"))
    feed = Feed(demo, messages)
    if not args.once:
        show_commands(demo, messages[0][1::-1])
        say("")
    feed.run(0 if args.once else args.pace, args.seconds)
    feed.finish()
    show_tables(demo)
    show_row(demo)
    say("")
    verify(demo)
    code = demo.stop()
    if code != 0:
        raise Failed(f"warmpath run ended with {code} on SIGTERM; the log is {demo.log}")
    took = time.monotonic() - feed.began
    say(f"done: {feed.sent} messages in, {feed.rows} rows refreshed, commit to row p50 {feed.quantile(.5)}, p99 {feed.quantile(.99)} "
        f"({len(feed.latencies)} measured), {took:.0f} s; everything that was started has been stopped")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--once", action="store_true")
    p.add_argument("--pace", type=float, default=60)
    p.add_argument("--seconds", type=float, default=0)
    args = p.parse_args()
    if args.pace <= 0:
        p.error("--pace must be above 0")
    # Both end the demo in the same good order.
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGINT))
    demo = Demo(args)
    try:
        play(demo, args)
        return 0
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
        return 0 if not args.once else 130
    except (Failed, cluster.ClusterError, psycopg2.Error, subprocess.TimeoutExpired) as e:
        print(f"\ndemo: {e}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        demo.stop()


if __name__ == "__main__":
    sys.exit(main())
