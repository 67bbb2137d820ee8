"""What the integration tests share: a fresh database per class, a pipeline of its own, workloads, and waiting.

Nothing sleeps for a fixed time: wait_until() asks until it is true or the deadline has passed, and says what it waited for.
"""
import contextlib
import glob
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import unittest

import psycopg2
import psycopg2.extensions

from cluster import die_with_parent

WARMPATH = os.path.abspath(os.environ.get("WARMPATH", os.path.join(os.path.dirname(__file__), "..", "..", "build", "warmpath")))
STARTED_SECONDS = 60
STOPPED_SECONDS = 15
CI = os.environ.get("CI") == "true"

cluster = None
work_dir = None
_running = set()
_numbers = iter(range(1, 1 << 30))

TABLES = """
CREATE TABLE public.chat_message(
    id bigserial PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, role text NOT NULL, content text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), metadata jsonb);
ALTER TABLE public.chat_message REPLICA IDENTITY FULL;
CREATE TABLE public.memory(
    memory_id text PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, content text, importance real,
    memory_type text, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
ALTER TABLE public.memory REPLICA IDENTITY FULL;
CREATE TABLE public.memory_access(
    id bigserial PRIMARY KEY, user_id text NOT NULL, bot_name text NOT NULL, kind text NOT NULL, memory_id text NOT NULL,
    score real, at timestamptz NOT NULL DEFAULT clock_timestamp());
ALTER TABLE public.memory_access REPLICA IDENTITY FULL;
"""

CONFIG = """pipeline: {name}
source:
  conninfo: "{conninfo}"
  slot: {name}
  publication: {name}
  create: true
  on_slot_lost: {on_slot_lost}
  tables:
    - relation: public.chat_message
      event: message
      fields:
        id: id
        user_id: user_id
        bot_name: bot_name
        role: {{column: role, map: {{user: user, bot: bot, system: ""}}}}
        content: content
        at: {{column: created_at, unit: timestamp}}
        emotion: {{column: metadata, path: emotion.label}}
        traits: {{column: metadata, path: traits}}
    - relation: public.memory
      event: memory
      fields:
        id: memory_id
        user_id: user_id
        bot_name: bot_name
        op: {{const: create}}
        memory_id: memory_id
        at: {{column: created_at, unit: timestamp}}
        content: content
        importance: importance
        memory_type: memory_type
    - relation: public.memory_access
      event: memory
      fields:
        id: id
        user_id: user_id
        bot_name: bot_name
        op: {{column: kind, map: {{access: access, pin: pin}}}}
        memory_id: memory_id
        at: {{column: at, unit: timestamp}}
        score: score
{sink}state:
  dir: {state}
  workers: {workers}
  memory: {memory}
link: {{url: "{link}"}}
triggers:
  memory_aging: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  character_performance: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  personality_profile: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  context_switch: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  memory_behavior: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  conversation_patterns: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
  proactive_engagement: {{count: {count}, max_age: 1s, idle: 200ms, min_interval: 0s}}
log: {{level: {log_level}}}
"""


def begin(server, directory):
    global cluster, work_dir
    cluster, work_dir = server, directory


def end():
    for p in list(_running):
        p.kill()


def wait_until(what, condition, seconds=30, alive=None):
    """Returns what condition() returns once it is true. alive: a Warmpath that must not end meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if alive is not None and alive.process.poll() is not None:
            raise AssertionError(f"warmpath ended with {alive.process.returncode} while waiting for {what}:\n{alive.log_tail()}")
        if time.monotonic() > deadline:
            tail = alive.log_tail() if alive is not None else ""
            raise AssertionError(f"timed out after {seconds} s waiting for {what}\n{tail}")
        time.sleep(0.02)


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def connect(database, autocommit=True):
    conn = psycopg2.connect(cluster.conninfo(database))
    conn.autocommit = autocommit
    return conn


class Database:
    """A database of its own, with the application's tables."""

    def __init__(self, name, options="", tables=TABLES):
        self.name = name
        admin = connect("postgres")
        try:
            admin.cursor().execute(f'CREATE DATABASE "{name}" {options}')
        finally:
            admin.close()
        self._conn = None
        if tables:
            self.run(tables)

    @property
    def conninfo(self):
        return cluster.conninfo(self.name)

    @property
    def conn(self):
        if self._conn is None or self._conn.closed:
            self._conn = connect(self.name)
        return self._conn

    def run(self, sql, *args):
        """One or more statements; the rows of the last one."""
        try:
            with self.conn.cursor() as cur:
                cur.execute(sql, args or None)
                return cur.fetchall() if cur.description else None
        except psycopg2.OperationalError:
            self._conn = None
            raise

    def one(self, sql, *args):
        rows = self.run(sql, *args)
        return rows[0][0] if rows else None

    def close(self):
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def drop(self):
        self.close()
        admin = connect("postgres")
        try:
            cur = admin.cursor()
            cur.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s AND NOT active", (self.name,))
            for (slot,) in cur.fetchall():
                cur.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            cur.execute(f'DROP DATABASE IF EXISTS "{self.name}" WITH (FORCE)')
        finally:
            admin.close()


class Warmpath:
    """One pipeline: its configuration, its state directory and, while it runs, its process."""

    def __init__(self, name, database, sink=None, workers=2, link="inproc", memory="64MiB", count=5, log_level="info",
                 on_slot_lost="stop", config=None, dir=None):
        self.name = name
        self.database = database
        self.dir = dir or os.path.join(work_dir, name)
        os.makedirs(self.dir, exist_ok=True)
        self.state = os.path.join(self.dir, "state")
        self.config = os.path.join(self.dir, "warmpath.yaml")
        self.log = os.path.join(self.dir, "log")
        self.values = dict(name=name, conninfo=database.conninfo, state=self.state, workers=workers, link=link, memory=memory,
                           count=count, log_level=log_level, on_slot_lost=on_slot_lost, sink=f'sink: {{conninfo: "{sink.conninfo}"}}\n' if sink else "")
        self.template = config or CONFIG
        self.process = None
        self.write_config()

    def write_config(self, **changes):
        self.values.update(changes)
        with open(self.config, "w") as f:
            f.write(self.template.format(**self.values))

    # ---- commands that end

    def command(self, *args, timeout=60):
        """(exit code, standard output, standard error)"""
        run = subprocess.run([WARMPATH, *args, "--config", self.config], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout)
        return run.returncode, run.stdout, run.stderr

    def must(self, *args, timeout=60):
        code, out, err = self.command(*args, timeout=timeout)
        if code != 0:
            raise AssertionError(f"warmpath {' '.join(args)} ended with {code}: {out[-2000:]}{err[-2000:]}")
        return out

    def status(self):
        return json.loads(self.command("status", "--json")[1])

    def dead_letters(self):
        return json.loads(self.must("dlq", "list", "--json"))

    def verify(self, seconds=15):
        """Every row equals what the oracle computes from the source tables; returns the counts."""
        code, out, err = self.command("verify", "--all", "--json", "--wait", f"{seconds}s", timeout=seconds + 60)
        if code != 0:
            raise AssertionError(f"verify ended with {code}: {out[-4000:]}{err[-2000:]}\n{self.log_tail()}")
        return json.loads(out)

    # ---- the process

    def spawn(self, state=None, env=None):
        """Starts `warmpath run` without waiting."""
        args = ["--set", f"state.dir={state}"] if state else []
        with open(self.log, "ab") as log:
            self.mark = log.tell()
            self.process = subprocess.Popen([WARMPATH, "run", "--config", self.config, *args], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env={**os.environ, **(env or {})},
                                            preexec_fn=lambda: die_with_parent(signal.SIGKILL))
        _running.add(self.process)
        return self

    def start(self, seconds=STARTED_SECONDS):
        """Starts it and waits until it reads the slot."""
        self.spawn()
        wait_until(f"{self.name} to read its slot", self.is_reading, seconds, alive=self)
        return self

    def is_reading(self):
        """Its own walsender: one left by a killed process may still be listed for a moment."""
        if 'msg="running"' not in self.new_log():
            return False
        return self.slot().get("active", False)

    def stop(self, seconds=STOPPED_SECONDS):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def pause(self):
        """SIGSTOP, at a moment when none of its files is locked: what is frozen inside a commit keeps them from a successor."""
        def frozen_at_rest():
            self.process.send_signal(signal.SIGSTOP)
            wait_until("every thread to stop", lambda: all(
                open(task).read().rsplit(")", 1)[1].split()[0] == "T" for task in glob.glob(f"/proc/{self.process.pid}/task/*/stat")))
            for path in glob.glob(f"{self.state}/**/*.db", recursive=True):
                try:
                    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as db:
                        db.execute("BEGIN IMMEDIATE")
                        db.execute("ROLLBACK")
                except sqlite3.OperationalError:
                    self.process.send_signal(signal.SIGCONT)
                    return False
            return True
        wait_until("a pause between two commits", frozen_at_rest)

    def kill(self):
        self.process.kill()
        return self.wait(STOPPED_SECONDS)

    def wait(self, seconds):
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.log_tail()}")
        _running.discard(self.process)
        return code

    def running(self):
        return self.process is not None and self.process.poll() is None

    def rss_kib(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(f.read().split("VmRSS:")[1].split()[0])

    # ---- where it stands

    def new_log(self):
        """What it has logged since it was last started."""
        with open(self.log, errors="replace") as f:
            f.seek(self.mark)
            return f.read()

    def log_tail(self):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-15:])

    def slot(self):
        rows = self.database.run("SELECT active, confirmed_flush_lsn, restart_lsn FROM pg_replication_slots WHERE slot_name = %s",
                                 self.name)
        return dict(zip(("active", "confirmed", "restart"), rows[0])) if rows else {}

    def covered(self):
        """The least LSN up to which the state on disk is complete, as SQLite shows it to another process."""
        least = None
        for path in glob.glob(os.path.join(self.state, "set-*", "worker-*.db")):
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
            try:
                row = db.execute("SELECT covered, slot_birth FROM meta").fetchone()
            finally:
                db.close()
            if row:
                value = max(row[0] % (1 << 64), row[1] % (1 << 64))
                least = value if least is None else min(least, value)
        return least

    def check_slot_behind_state(self):
        """The slot is read first: it may only move on while we look at the state, never the other way round."""
        confirmed = lsn(self.slot()["confirmed"])
        covered = self.covered()
        if covered is None or confirmed > covered:
            raise AssertionError(f"the slot is confirmed up to {confirmed:X}, but the state only covers {covered:X}")

    def wait_covered(self, seconds=60):
        """Until everything committed so far is in the state."""
        end = lsn(self.database.one("SELECT pg_current_wal_insert_lsn()"))
        self.database.run("SELECT pg_logical_emit_message(true, 'test', '')")
        return wait_until("the state to cover the log", lambda: (self.covered() or 0) >= end, seconds, alive=self)


class PipelineTest(unittest.TestCase):
    """A class with a fresh database and a pipeline `self.w`, migrated but not started."""

    options = {}
    database_options = ""
    tables = TABLES
    separate_sink = False

    @classmethod
    def setUpClass(cls):
        cls.name = f"it_{next(_numbers)}_{cls.__name__.lower()}"[:60]
        cls.db = Database(cls.name, cls.database_options, cls.tables)
        cls.sink = Database(cls.name + "_sink", tables="") if cls.separate_sink else cls.db
        cls.w = Warmpath(cls.name, cls.db, cls.sink if cls.separate_sink else None, **cls.options)
        cls.w.must("migrate", "up")

    @classmethod
    def tearDownClass(cls):
        if cls.w.running():
            cls.w.kill()
        wait_until("the slot to be released", lambda: not cls.w.slot().get("active"), 30)
        cls.db.drop()
        cls.sink.drop()

    def assert_counts(self):
        """event_count of every row equals plain counts of the source table. A verified row may still be one from before the last
        messages, right for its own time; this is what waits for the newest."""
        wrong = None

        def equal():
            nonlocal wrong
            rows = {(u, b): n for u, b, n in self.sink.run("SELECT user_id, bot_name, event_count FROM strategic_conversation_patterns")}
            plain = {(u, b): n for u, b, n in self.db.run("SELECT user_id, bot_name, count(*) FROM chat_message "
                                                         "WHERE role IN ('user', 'bot') AND created_at > now() - interval '30 days' "
                                                         "GROUP BY 1, 2")}
            wrong = {key: (rows.get(key), plain.get(key)) for key in rows.keys() | plain.keys() if rows.get(key) != plain.get(key)}
            return not wrong

        try:
            wait_until("every count to be right", equal, 15)
        except AssertionError:
            raise AssertionError(f"event_count differs from the number of messages (row, table): {dict(list(wrong.items())[:20])}\n"
                                 + self.w.log_tail())


# ---- workloads

WORDS = ("coffee tea garden music travel recipe code bug deploy server weather football movie novel sleep running budget "
         "birthday doctor holiday train camera guitar robot planet ocean").split()


def sentence(rng):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 14))) + rng.choice([".", "?", "!", ""])


class Load:
    """Writes to the application's tables from a thread of its own, in transactions of all shapes; seeded."""

    def __init__(self, database, seed, users=20, bots=2, pause=0.0):
        self.database = database
        self.rng = random.Random(seed)
        self.users = users
        self.bots = bots
        self.pause = pause
        self.transactions = 0
        self.error = None
        self._stop = threading.Event()
        self._thread = None

    def key(self):
        return f"user-{self.rng.randrange(self.users)}", f"bot{self.rng.randrange(self.bots)}"

    def message(self, cur):
        user, bot = self.key()
        cur.execute("INSERT INTO chat_message(user_id, bot_name, role, content, created_at) VALUES (%s, %s, %s, %s, "
                    "clock_timestamp() - %s * interval '1 s')",
                    (user, bot, self.rng.choice(("user", "user", "bot")), sentence(self.rng), self.rng.randrange(3600)))

    def memory(self, cur):
        user, bot = self.key()
        cur.execute("INSERT INTO memory(memory_id, user_id, bot_name, content, importance) VALUES (%s, %s, %s, %s, %s)",
                    (f"m-{self.rng.getrandbits(60):x}", user, bot, sentence(self.rng), self.rng.random()))

    def access(self, cur):
        cur.execute("INSERT INTO memory_access(user_id, bot_name, kind, memory_id, score) SELECT user_id, bot_name, %s, memory_id, "
                    "%s FROM memory OFFSET %s LIMIT 1",
                    (self.rng.choice(("access", "access", "pin")), self.rng.random(), self.rng.randrange(30)))

    def change(self, cur):
        cur.execute("SELECT coalesce(max(id), 0) FROM chat_message")
        some = self.rng.randint(1, max(1, cur.fetchone()[0]))
        if self.rng.random() < 0.5:
            cur.execute("UPDATE chat_message SET content = %s WHERE id = %s", (sentence(self.rng), some))
        else:
            cur.execute("DELETE FROM chat_message WHERE id = %s", (some,))

    def statement(self, cur):
        self.rng.choices((self.message, self.memory, self.access, self.change), (10, 2, 3, 2))[0](cur)

    def transaction(self, conn):
        """One transaction of a random shape on a connection that is not in autocommit."""
        with conn.cursor() as cur:
            for _ in range(self.rng.choice((0, 1, 1, 1, 2, 5, 20))):
                shape = self.rng.random()
                if shape < 0.1:
                    cur.execute("SAVEPOINT s")
                    self.statement(cur)
                    cur.execute(self.rng.choice(("ROLLBACK TO s", "RELEASE s")))
                else:
                    self.statement(cur)
        if self.rng.random() < 0.05:
            conn.rollback()
        else:
            conn.commit()
        self.transactions += 1

    def run(self, n):
        conn = connect(self.database.name, autocommit=False)
        try:
            for _ in range(n):
                self.transaction(conn)
        finally:
            conn.close()
        return self

    def _main(self):
        conn = None
        while not self._stop.is_set():
            try:
                if conn is None or conn.closed:
                    conn = connect(self.database.name, autocommit=False)
                self.transaction(conn)
            except psycopg2.Error as e:
                # The server was stopped: its clients come back.
                # A connection that breaks has no SQLSTATE, whatever the class of the exception.
                lost = e.pgcode is None or isinstance(e, (psycopg2.OperationalError, psycopg2.InterfaceError))
                if conn is not None:
                    conn.close()
                conn = None
                if not lost:
                    self.error = e
                    return
                self._stop.wait(0.05)
            if self.pause:
                self._stop.wait(self.pause)
        if conn is not None:
            conn.close()

    def __enter__(self):
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)
        if self.error:
            raise self.error
