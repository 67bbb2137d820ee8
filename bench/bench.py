#!/usr/bin/env python3
"""Speed and size of Warmpath beside the floor, in one run, on a private PostgreSQL.

usage: bench.py --conninfo CONNINFO --build DIR [--rows N] [--users N] [--keys N] [--seconds N] [--json]

drain    rows/s of pg_recvlogical to /dev/null and of `warmpath run` to durable checkpoints, each from its own slot holding
         the same inserts (1,000-row transactions, 120-character messages), their ratio, and Warmpath's CPU time a row
latency  commit of one INSERT -> NOTIFY of its row, 100 inserts/s: a minimal libpq reader that upserts one row, then Warmpath
         with count = 1, and the ratio of their p99
wake     the same for users who come back: their keys are on disk alone, and nothing but their return makes a row due (aim: p99 <= 50 ms)
size     resident memory of `warmpath run` after N keys with five messages each
Ratios within one run are what counts; absolute figures move with the machine.
"""
import argparse, io, itertools, json, os, random, select, signal, sqlite3, subprocess, sys, tempfile, time, shutil, glob
import psycopg2
import psycopg2.extensions

CONFIG = """pipeline: bench_{tag}
source:
  conninfo: "{conninfo}"
  slot: bench_{tag}
  publication: bench_pub
  snapshot: never
  create: true
  tables:
    - relation: public.bench_message
      event: message
      fields:
        id: id
        user_id: user_id
        bot_name: {{const: elena}}
        role: {{column: role, map: {{user: user, bot: bot}}}}
        content: content
        at: {{column: created_at, unit: timestamp}}
state:
  dir: {dir}/state
  workers: {workers}
  memory: {memory}
{triggers}
log: {{level: info}}
"""


class Bench:
    def __init__(self, a):
        self.a = a
        self.dir = tempfile.mkdtemp(prefix="warmpath-bench-")
        self.conn = psycopg2.connect(a.conninfo)
        self.conn.autocommit = True
        self.cur = self.conn.cursor()
        self.procs = []

    def sql(self, text, *args):
        self.cur.execute(text, args)
        return self.cur.fetchall() if self.cur.description else None

    def note(self, text):
        print(text, file=sys.stderr, flush=True)

    def prepare(self):
        self.sql("DROP TABLE IF EXISTS bench_message, floor_row")
        self.sql("CREATE TABLE bench_message(id bigserial PRIMARY KEY, user_id text NOT NULL, role text NOT NULL, "
                 "content text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())")
        self.sql("CREATE TABLE floor_row(id int PRIMARY KEY, n bigint)")
        self.sql("DROP PUBLICATION IF EXISTS bench_pub")
        self.sql("CREATE PUBLICATION bench_pub FOR TABLE bench_message WITH (publish = 'insert')")
        subprocess.run([self.warmpath(), "migrate", "up", "--config", self.config("migrate")], check=True,
                       stdout=subprocess.DEVNULL)

    def warmpath(self):
        return os.path.join(self.a.build, "warmpath")

    def config(self, tag, triggers=""):
        d = os.path.join(self.dir, tag)
        os.makedirs(d, exist_ok=True)
        path = os.path.join(d, "warmpath.yaml")
        with open(path, "w") as f:
            f.write(CONFIG.format(tag=tag, conninfo=self.a.conninfo, dir=d, triggers=triggers, workers=self.a.workers, memory=self.a.memory))
        return path

    def start(self, tag, triggers=""):
        log = open(os.path.join(self.dir, tag + ".log"), "w")
        p = subprocess.Popen([self.warmpath(), "run", "--config", self.config(tag, triggers)], stderr=log, stdout=log)
        self.procs.append(p)
        return p

    def stop(self, p):
        if p.poll() is None:
            p.send_signal(signal.SIGTERM)
        p.wait(30)

    def slot(self, name):
        self.sql("DELETE FROM strategic_progress WHERE pipeline = %s", name)  # begin anew
        if self.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", name):
            self.sql("SELECT pg_drop_replication_slot(%s)", name)
        return self.sql("SELECT lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput')", name)[0][0]

    @staticmethod
    def messages(rows, users):
        """120 characters of words from a vocabulary of 4,000 with Zipf frequencies, as chat has; always the same."""
        rnd = random.Random(20261122)
        vowels, consonants = "aeiou", "bcdfghklmnprstvw"
        words = sorted({"".join(rnd.choice(consonants) + rnd.choice(vowels) for _ in range(1 + i % 4)) for i in range(9000)})[:4000]
        rnd.shuffle(words)
        weights = list(itertools.accumulate(1 / (i + 3) for i in range(len(words))))
        for i in range(rows):
            text = " ".join(rnd.choices(words, cum_weights=weights, k=32))[:119].rstrip()
            yield f"user-{i % users}\t{'bot' if i % 3 == 2 else 'user'}\t{text}{'?' if i % 5 == 0 else '.'}\n"

    def fill(self, rows, users):
        """1,000-row transactions of 120-character messages."""
        c = psycopg2.connect(self.a.conninfo)
        k = c.cursor()
        source = self.messages(rows, users)
        while batch := "".join(itertools.islice(source, 1000)):
            k.copy_expert("COPY bench_message(user_id, role, content) FROM STDIN", io.StringIO(batch))
            c.commit()
        c.close()
        return self.sql("SELECT pg_current_wal_flush_lsn()")[0][0]

    def covered(self, tag):
        """The least covered LSN in the durable state, or 0."""
        least = None
        for path in glob.glob(os.path.join(self.dir, tag, "state", "set-*", "worker-*.db")):
            try:
                db = sqlite3.connect("file:" + path + "?mode=ro", uri=True, timeout=1)
                v = db.execute("SELECT covered FROM meta").fetchone()[0]
                db.close()
            except sqlite3.Error:
                return 0
            least = v if least is None else min(least, v)
        return least or 0

    @staticmethod
    def lsn(text):
        hi, lo = text.split("/")
        return int(hi, 16) << 32 | int(lo, 16)

    def wait(self, what, condition, seconds, p=None):
        end = time.monotonic() + seconds
        while not condition():
            if p is not None and p.poll() is not None:
                raise SystemExit(f"warmpath ended while waiting for {what}: see {self.dir}")
            if time.monotonic() > end:
                raise SystemExit(f"timed out after {seconds} s waiting for {what}: see {self.dir}")
            time.sleep(0.02)

    @staticmethod
    def rss(p):
        status = open(f"/proc/{p.pid}/status").read()
        return {k: int(status.split(k + ":")[1].split()[0]) // 1024 for k in ("VmRSS", "VmHWM")}

    # ---- the three measurements
    def drain(self):
        rows = self.a.rows
        self.slot("bench_recv")
        self.slot("bench_drain")
        self.note(f"drain: writing {rows} rows for {self.a.users} users ...")
        end = self.fill(rows, self.a.users)
        self.note("drain: pg_recvlogical ...")
        t = time.monotonic()
        subprocess.run(["pg_recvlogical", "-d", self.a.conninfo, "--slot", "bench_recv", "--start", "-o", "proto_version=1",
                        "-o", "publication_names=bench_pub", "-f", "/dev/null", "--endpos", end, "--no-loop"],
                       check=True, stderr=subprocess.DEVNULL)
        recv = rows / (time.monotonic() - t)
        self.note("drain: warmpath ...")
        p = self.start("drain")
        self.wait("the state", lambda: glob.glob(os.path.join(self.dir, "drain", "state", "set-*", "worker-*.db")), 60, p)
        t = time.monotonic()
        self.wait("the end of the slot", lambda: self.covered("drain") >= self.lsn(end), 300, p)
        mine = rows / (time.monotonic() - t)
        cpu = sum(int(x) for x in open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])
        rss = self.rss(p)
        cpu_us = cpu / os.sysconf("SC_CLK_TCK") / rows * 1e6
        self.stop(p)
        self.sql("SELECT pg_drop_replication_slot('bench_recv')")
        self.sql("SELECT pg_drop_replication_slot('bench_drain')")
        return {"rows": rows, "pg_recvlogical_rows_s": round(recv), "warmpath_rows_s": round(mine), "ratio": round(mine / recv, 3),
                "warmpath_cpu_us_row": round(cpu_us, 2), "rss_mb": rss["VmRSS"]}

    def measure_latency(self, seconds, first, users=500):
        listen = psycopg2.connect(self.a.conninfo)
        listen.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        listen.cursor().execute("LISTEN strategic_cache")
        took = []
        for i in range(seconds * 100):
            began = time.monotonic()
            # A user of its own for each insert: its row is refreshed by this message alone.
            self.cur.execute("INSERT INTO bench_message(user_id, role, content) VALUES (%s, 'user', %s)",
                             (f"lat-{first}-{i % users}", "how long does it take until this is visible?"))
            done = time.monotonic()
            while not listen.notifies:
                if not select.select([listen], [], [], 5)[0]:
                    raise SystemExit(f"no NOTIFY within 5 s of a commit: see {self.dir}")
                listen.poll()
            took.append(time.monotonic() - done)
            listen.notifies.clear()
            rest = 0.01 - (time.monotonic() - began)
            if rest > 0:
                time.sleep(rest)
        listen.close()
        took.sort()
        return {"p50_ms": round(took[len(took) // 2] * 1e3, 3), "p99_ms": round(took[int(len(took) * .99)] * 1e3, 3), "n": len(took)}

    def latency(self):
        self.slot("bench_floor")
        self.note("latency: the floor ...")
        p = subprocess.Popen([os.path.join(self.a.build, "bench", "floor"), self.a.conninfo, "bench_floor", "bench_pub"],
                             stdout=subprocess.PIPE, text=True)
        self.procs.append(p)
        if p.stdout.readline().strip() != "ready":
            raise SystemExit("the floor program did not start")
        floor = self.measure_latency(self.a.seconds, "floor")
        self.stop(p)
        self.sql("SELECT pg_drop_replication_slot('bench_floor')")
        self.note("latency: warmpath ...")
        p = self.start("latency", "triggers:\n  conversation_patterns: {count: 1}\n")
        self.wait("the slot reader", lambda: self.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'bench_latency' "
                                                      "AND active"), 60, p)
        mine = self.measure_latency(self.a.seconds, "warmpath")
        self.stop(p)
        self.sql("SELECT pg_drop_replication_slot('bench_latency')")
        return {"floor": floor, "warmpath": mine, "p99_ratio": round(mine["p99_ms"] / floor["p99_ms"], 2)}

    def wake(self):
        n = self.a.seconds * 100
        kept = "count: 1000000, max_age: 1h, idle: 1h, refresh: 1s, refresh_jitter: 0s, warm: 0s, recent: 0s"
        triggers = "triggers:\n" + "".join(f"  {engine}: {{{kept}}}\n" for engine in (
            "conversation_patterns", "context_switch", "personality_profile", "proactive_engagement"))
        self.slot("bench_wake")
        self.note(f"wake: {n} keys ...")
        self.sql("INSERT INTO bench_message(user_id, role, content) SELECT 'lat-wake-' || i, 'user', 'see you' FROM generate_series(0, %s) i",
                 n - 1)
        end = self.sql("SELECT pg_current_wal_flush_lsn()")[0][0]
        p = self.start("wake", triggers)
        self.wait("the end of the slot", lambda: self.covered("wake") >= self.lsn(end), 600, p)
        self.stop(p)
        # What was started again holds no key in memory, and has a row of each that is older than a second.
        p = self.start("wake", triggers)
        self.wait("the slot reader", lambda: self.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'bench_wake' AND active"), 60, p)
        self.wait("rows of a second's age", lambda: self.sql("SELECT max(computed_at) < clock_timestamp() - interval '2 s' "
                                                             "FROM strategic_conversation_patterns")[0][0], 60, p)
        cold = self.measure_latency(self.a.seconds, "wake", n)
        self.stop(p)
        self.sql("SELECT pg_drop_replication_slot('bench_wake')")
        return cold

    def size(self):
        keys = self.a.keys
        self.slot("bench_size")
        self.note(f"size: {keys} keys with five messages each ...")
        end = self.fill(keys * 5, keys)
        p = self.start("size")
        self.wait("the end of the slot", lambda: self.covered("size") >= self.lsn(end), 600, p)
        rss = self.rss(p)
        self.stop(p)
        self.sql("SELECT pg_drop_replication_slot('bench_size')")
        return {"keys": keys, "rss_mb": rss["VmRSS"], "peak_mb": rss["VmHWM"]}

    def close(self):
        for p in self.procs:
            if p.poll() is None:
                p.kill()
                p.wait()
        for (name,) in self.sql("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'bench\\_%%' AND NOT active") or []:
            self.sql("SELECT pg_drop_replication_slot(%s)", name)
        self.conn.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--conninfo", required=True)
    p.add_argument("--build", default="build")
    p.add_argument("--rows", type=int, default=500000)
    p.add_argument("--users", type=int, default=5000)
    p.add_argument("--keys", type=int, default=100000)
    p.add_argument("--seconds", type=int, default=20)
    p.add_argument("--workers", type=int, default=0)
    p.add_argument("--memory", default="160MiB", help="state.memory")
    p.add_argument("--only", default="drain,latency,wake,size")
    p.add_argument("--keep", action="store_true", help="keep logs and states")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    a.build = os.path.abspath(a.build)
    b = Bench(a)
    out = {}
    try:
        b.prepare()
        for name in a.only.split(","):
            out[name] = getattr(b, name)()
            if not a.json:
                print(name, json.dumps(out[name]), flush=True)
    finally:
        b.close()
        if not a.keep and sys.exc_info()[0] is None:
            shutil.rmtree(b.dir, ignore_errors=True)
    if a.json:
        print(json.dumps(out))


if __name__ == "__main__":
    main()
