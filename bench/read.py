#!/usr/bin/env python3
"""How long a read takes beside a bare look-up by primary key, on a private PostgreSQL.

usage: read.py --build DIR --dir DIR [--keys N] [--active N] [--seconds N] [--rounds N] [--json]

The six tables hold a row for each of N users of one bot, as wide as those that `warmpath replay` emits for users of all degrees of
activity (texts of IRC, emotions, traits, memories with accesses, metrics, attempts); loading says how long it took, and is kept for the
next run with as many keys. Read are, by prepared statement over a unix socket, half of the time users who are being written to:

bare      one row of strategic_key_activity by its primary key
lite      SELECT * FROM strategic_bundle_lite
columns   fourteen columns of strategic_bundle, seven of them JSON: what a bot might put into its prompt
bundle    SELECT * FROM strategic_bundle: everything there is

with 1 client and with 8, first with nothing else going on, then while `warmpath run` writes as many rows as it can: every message of
the active users makes their rows anew, and new ones are inserted as long as it is less than 2,000 of them behind. unplanned is lite
without a prepared statement. "CPU us" is the server's CPU time per read: what remains when the machine has nothing else to do. Client,
server (a gigabyte of shared_buffers) and pipeline share the machine's cores; ratios within one run are what counts.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psycopg2
import psycopg2.extras

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "integration"))
import cluster

DATABASE = "bench_read"
FIRST = 10 ** 17  # ids like those of chat platforms
PLANNED = 10  # reads of a connection until it has its plan and knows the tables; not counted
TABLES = ("strategic_memory_health", "strategic_personality_profiles", "strategic_conversation_patterns", "strategic_memory_behavior",
          "strategic_engagement_opportunities")
CONFIG = """pipeline: bench_read
source:
  conninfo: "{conninfo}"
  slot: bench_read
  publication: bench_read
  create: true
  tables:
    - relation: public.bench_message
      event: message
      fields: {{id: id, user_id: user_id, bot_name: {{const: elena}}, role: {{column: role, map: {{user: user, bot: bot}}}}, content: content,
               at: {{column: at, unit: timestamp}}}}
state: {{dir: {dir}/state}}
triggers:
  memory_aging: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
  personality_profile: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
  context_switch: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
  memory_behavior: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
  conversation_patterns: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
  proactive_engagement: {{count: 1, max_age: 1s, idle: 100ms, min_interval: 0s}}
log: {{level: info}}
"""
USER = r"\set among case when random(1, 2) = 1 then :active else :keys end" + "\n" + rf"\set user {FIRST} + random(1, :among)" + "\n"
SCRIPTS = {
    "bare": "SELECT first_seen FROM strategic_key_activity WHERE user_id = :user AND bot_name = 'elena';",
    "lite": "SELECT * FROM strategic_bundle_lite(:user, 'elena');",
    "columns": "SELECT mh_f, (mh).confidence, (mh).memory_snapshot, pp_f, (pp).dominant_traits, (pp).adaptation_suggestions, cp_f, (cp).recent_topics, "
               "(cp).communication_style, (cp).optimal_response_length, mb_f, (mb).recall_simulation_score, eo_f, (eo).suggested_topics "
               "FROM strategic_bundle(:user, 'elena');",
    "bundle": "SELECT * FROM strategic_bundle(:user, 'elena');",
}


def note(text):
    print(text, file=sys.stderr, flush=True)


def connect(conninfo):
    conn = psycopg2.connect(conninfo)
    conn.autocommit = True
    return conn


def texts():
    with open(os.path.join(HERE, "..", "tests", "data", "irc_demo.jsonl")) as f:
        found = [json.loads(line)["m"].strip() for line in f]
    return [t for t in found if len(t) > 3]


# ---- rows as wide as real ones

def events():
    """Four weeks of fifteen users, from three messages a day to sixty, in time order."""
    rng = random.Random(1)
    said = texts()
    now = int(time.time())
    out = []

    def add(ago, **event):
        out.append(dict(event, at=(now - ago) * 1000000, bot_name="elena"))

    for u in range(15):
        user = f"template-{u}"
        for day in range(28, 0, -1):
            if rng.random() < 0.3:
                continue
            ago = day * 86400 - rng.randrange(20000)
            for n in range((3, 6, 12, 30, 60)[u % 5]):
                ago = max(ago - rng.choice((20, 40, 90, 200, 400, 4000)), 60)
                event = {"type": "message", "id": f"{u}-{day}-{n}", "user_id": user, "role": "bot" if n % 2 else "user", "content": rng.choice(said)}
                if rng.random() < 0.8:
                    event.update(emotion=rng.choice(("joy", "sadness", "anger", "neutral", "fear")), emotion_confidence=0.8)
                if n % 2:
                    event["traits"] = [{"name": t, "weight": 1} for t in rng.sample(("warm", "curious", "brief", "playful", "formal"), 2)]
                add(ago, **event)
            memory = f"3f2b8c1e-{u:04x}-4a{day:02x}-9c00-5d6e7f8091"
            for m in range(3):
                add(day * 86400 - 500 * m, type="memory", id=f"{u}-m{day}-{m}", op="create", memory_id=f"{memory}{m:02x}", user_id=user,
                    importance=rng.random(), memory_type="fact", content=rng.choice(said))
            for back in range(day, 29):
                if rng.random() < 0.4:
                    memory = f"3f2b8c1e-{u:04x}-4a{back:02x}-9c00-5d6e7f8091"
                    add(day * 86400 - rng.randrange(60000), type="memory", id=f"{u}-a{day}-{back}", op="access", memory_id=f"{memory}{rng.randrange(3):02x}",
                        user_id=user, score=0.5)
            if day % 4 == 0:
                add(day * 86400 - 30000, type="outreach", id=f"{u}-o{day}", op="sent", topic="vet", user_id=user)
    for n in range(3000):
        add(20 * 86400 - n * 570, type="metric", id=f"q{n}", user_id=f"template-{n % 15}", measurement="conversation_quality",
            fields={k: 0.5 + rng.random() / 3 for k in ("engagement_score", "satisfaction_score", "natural_flow_score", "topic_relevance")})
    return sorted(out, key=lambda e: e["at"])


def emitted(build, directory):
    """{table: [row]} of the templates."""
    path = os.path.join(directory, "events.jsonl")
    with open(path, "w") as f:
        f.writelines(json.dumps(e) + "\n" for e in events())
    out = subprocess.run([os.path.join(build, "warmpath"), "replay", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = {}
    for line in map(json.loads, out.splitlines()):
        rows.setdefault(line["table"], []).append(line["row"])
    return rows


def load(conn, rows, keys):
    cur = conn.cursor()
    for table, templates in rows.items():
        began = time.monotonic()
        cur.execute(f"CREATE TEMP TABLE template AS SELECT (jsonb_populate_record(NULL::{table}, r)).* FROM jsonb_array_elements(%s) r",
                    (psycopg2.extras.Json(templates),))
        cur.execute("ALTER TABLE template ADD n serial")
        # What the sink adds. Half of the rows have expired: those of users who are away.
        cur.execute("SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = %s "
                    "AND column_name NOT IN ('id', 'user_id', 'bot_name', 'computed_at', 'expires_at', 'row_version', 'valid_until') AND is_generated = 'NEVER'", (table,))
        columns = cur.fetchone()[0]
        if table in TABLES:
            cur.execute(f"INSERT INTO {table} (user_id, bot_name, computed_at, expires_at, valid_until, row_version, {columns}) "
                        f"SELECT ({FIRST} + k)::text, 'elena', now(), now() + (k %% 2) * interval '1 day', now() + interval '1 day', 0, {columns} "
                        "FROM generate_series(1, %s) k JOIN template t ON t.n = 1 + k %% %s", (keys, len(templates)))
        else:
            cur.execute(f"INSERT INTO {table} (bot_name, expires_at, row_version, {columns}) SELECT 'elena', now() + interval '1 day', 0, {columns} FROM template")
        cur.execute("DROP TABLE template")
        if table in TABLES:
            note(f"  {table}: {time.monotonic() - began:.0f} s")
    cur.execute(f"INSERT INTO strategic_key_activity SELECT ({FIRST} + k)::text, 'elena', k %% 64, now() FROM generate_series(1, %s) k", (keys,))
    cur.execute("INSERT INTO strategic_processor SELECT s, now(), now() FROM generate_series(0, 63) s ON CONFLICT DO NOTHING")
    cur.execute("VACUUM ANALYZE")


def sizes(cur, keys):
    """Bytes per key: as JSON text, as the client receives the whole bundle, and on disk."""
    text = 0
    for table in TABLES:
        cur.execute("SELECT string_agg(format('coalesce(octet_length(%%I::text), 0)', column_name), ' + ') FROM information_schema.columns "
                    "WHERE table_schema = current_schema() AND table_name = %s AND data_type = 'jsonb'", (table,))
        cur.execute(f"SELECT avg({cur.fetchone()[0]}) FROM (SELECT * FROM {table} LIMIT 1000) t")
        text += float(cur.fetchone()[0])
    cur.execute("SELECT sum(pg_table_size(t::regclass)), sum(pg_indexes_size(t::regclass)) FROM unnest(%s) t", (list(TABLES),))
    table, index = (float(n) / keys for n in cur.fetchone())
    cur.execute(f"SELECT avg(octet_length(b::text)) FROM generate_series({FIRST} + 1, {FIRST} + 500) u, LATERAL strategic_bundle(u::text, 'elena') b")
    return {"json_text": round(text), "bundle_text": round(float(cur.fetchone()[0])), "tables": round(table), "indexes": round(index)}


def prepare(a, server, config):
    admin = connect(server.conninfo())
    cur = admin.cursor()
    cur.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'bench_read'")
    cur.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
    loaded = 0
    if cur.fetchone():
        conn = connect(a.own)
        own = conn.cursor()
        own.execute("SELECT to_regclass('bench_loaded') IS NOT NULL")
        if own.fetchone()[0]:
            own.execute("SELECT keys FROM bench_loaded WHERE version = (SELECT string_agg(checksum, ',' ORDER BY version) FROM strategic_migrations)")
            loaded = (own.fetchone() or (0,))[0]
        conn.close()
        check = subprocess.run([os.path.join(a.build, "warmpath"), "migrate", "status", "--config", config], stdout=subprocess.PIPE, text=True).stdout
        if "pending" in check or "changed" in check:
            loaded = 0
    if loaded != a.keys:
        cur.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        cur.execute(f"CREATE DATABASE {DATABASE}")
        subprocess.run([os.path.join(a.build, "warmpath"), "migrate", "up", "--config", config], check=True, stdout=subprocess.DEVNULL)
    admin.close()
    return loaded == a.keys


def prepare_source(cur, active):
    """The messages of the active users: what makes their rows as wide as they are at first."""
    cur.execute("DROP PUBLICATION IF EXISTS bench_read; DROP TABLE IF EXISTS bench_message, bench_text; DELETE FROM strategic_progress; "
                "CREATE TABLE bench_message(id bigserial PRIMARY KEY, user_id text NOT NULL, role text NOT NULL, content text NOT NULL, "
                "at timestamptz NOT NULL DEFAULT clock_timestamp()); ALTER TABLE bench_message REPLICA IDENTITY FULL; "
                "CREATE TABLE bench_text(n serial PRIMARY KEY, content text)")
    psycopg2.extras.execute_values(cur, "INSERT INTO bench_text(content) VALUES %s", [(t,) for t in texts()[:5000]])
    cur.execute(f"INSERT INTO bench_message(user_id, role, content, at) SELECT ({FIRST} + u)::text, CASE WHEN m %% 2 = 0 THEN 'user' ELSE 'bot' END, "
                "t.content, now() - m * interval '7 hours' - (u %% 50) * interval '1 min' FROM generate_series(1, %s) u, generate_series(1, 80) m "
                "JOIN LATERAL (SELECT content FROM bench_text WHERE n = 1 + (u * 37 + m * 101) %% 5000) t ON true ORDER BY m DESC", (active,))
    cur.execute("VACUUM ANALYZE bench_message, bench_text")


# ---- the load

class Writer:
    """`warmpath run`, and a client that keeps it busy."""

    def __init__(self, a, config, directory):
        self.a, self.log_path = a, os.path.join(directory, "log")
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([os.path.join(a.build, "warmpath"), "run", "--config", config], stdout=log, stderr=log)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.insert)

    def log(self):
        with open(self.log_path) as f:
            return f.read()

    def __enter__(self):
        deadline = time.monotonic() + 300
        while 'msg="streaming"' not in self.log():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"read.py: warmpath run did not start:\n{self.log()[-2000:]}")
            time.sleep(0.1)
        self.thread.start()
        return self

    def insert(self):
        conn = connect(self.a.own)
        cur = conn.cursor()
        sent, base = 0, None
        while not self.stop.is_set():
            cur.execute("SELECT events_applied FROM strategic_progress WHERE pipeline = 'bench_read'")
            applied = (cur.fetchone() or (None,))[0]
            base = applied if base is None else base
            if base is None or sent - (applied - base) > 2000:
                self.stop.wait(0.02)
                continue
            first = random.randint(1, 4900)
            cur.execute(f"INSERT INTO bench_message(user_id, role, content) SELECT ({FIRST} + 1 + floor(random() * %s))::bigint::text, "
                        "CASE WHEN n %% 2 = 0 THEN 'bot' ELSE 'user' END, content FROM bench_text WHERE n BETWEEN %s AND %s",
                        (self.a.active, first, first + 19))
            sent += 20
        conn.close()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.process.poll() is not None:
            sys.exit(f"read.py: warmpath ended:\n{self.log()[-2000:]}")
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def written(cur):
    cur.execute("SELECT pg_stat_clear_snapshot()")
    cur.execute("SELECT sum(n_tup_ins + n_tup_upd) FROM pg_stat_user_tables WHERE relname = ANY (%s)", (list(TABLES),))
    return int(cur.fetchone()[0])


# ---- measuring

def pgbench(a, directory, name, clients, mode="prepared"):
    """Reads for so long; latencies in us, sorted."""
    path = os.path.join(directory, f"{name}.sql")
    with open(path, "w") as f:
        f.write(USER + SCRIPTS[name] + "\n")
    prefix = os.path.join(directory, "latency")
    info = psycopg2.extensions.parse_dsn(a.own)
    out = subprocess.run(["pgbench", "-n", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(a.seconds), "-f", path, "-D", f"keys={a.keys}",
                          "-D", f"active={a.active}", "--log", f"--log-prefix={prefix}", "-h", info["host"], "-p", info["port"], "-U", info["user"], info["dbname"]],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory)
    found = re.search(r"number of transactions actually processed: (\d+)", out.stdout)
    if out.returncode != 0 or not found or "failed transactions: 0 " not in out.stdout:
        sys.exit(f"read.py: pgbench: {out.stdout}{out.stderr}")
    us = []
    for file in sorted(os.listdir(directory)):
        if file.startswith("latency"):
            with open(os.path.join(directory, file)) as f:
                rows = (line.split() for line in f)
                us += [int(r[2]) for r in rows if int(r[1]) > PLANNED]
            os.unlink(os.path.join(directory, file))
    return us


def server_cpu(a, name):
    """Microseconds of CPU time that the server needs for a read."""
    conn = connect(a.own)
    cur = conn.cursor()
    ticks = os.sysconf("SC_CLK_TCK")

    def spent():
        with open(f"/proc/{conn.get_backend_pid()}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    def read():
        cur.execute("EXECUTE read (%s)", (str(FIRST + random.randint(1, random.choice((a.active, a.keys)))),))
        cur.fetchall()

    cur.execute("PREPARE read (text) AS " + SCRIPTS[name].replace(":user", "$1"))
    for _ in range(50):
        read()
    n, before = 0, spent()
    while spent() - before < 0.5:
        for _ in range(20):
            read()
        n += 20
    used = spent() - before
    conn.close()
    return round(used / n * 1e6)


def summary(us, seconds):
    us.sort()
    return {"p50_ms": us[len(us) // 2] / 1000, "p99_ms": us[int(len(us) * 0.99)] / 1000, "p999_ms": us[int(len(us) * 0.999)] / 1000,
            "reads_per_s": round(len(us) / seconds)}


def measure(a, directory, cur, what):
    """Every script with 1 and 8 clients, in turns, so that what else the machine does meets all of them."""
    out = {}
    for clients in (1, 8):
        us = {name: [] for name in SCRIPTS}
        before, began = written(cur), time.monotonic()
        for _ in range(a.rounds):
            for name in SCRIPTS:
                us[name] += pgbench(a, directory, name, clients)
        rows = (written(cur) - before) / (time.monotonic() - began)
        out[clients] = {name: summary(us[name], a.rounds * a.seconds) for name in SCRIPTS}
        out[clients]["rows_per_s"] = round(rows)
        note(f"  {what}, {clients} clients: {rows:,.0f} rows written/s")
    if what == "quiet":
        for name in SCRIPTS:
            out[1][name]["cpu_us"] = server_cpu(a, name)
    out["unplanned"] = summary(pgbench(a, directory, "lite", 1, "extended"), a.seconds)
    return out


def report(result):
    size = result["bytes_per_key"]
    print(f"{result['keys']:,} keys, {result['active']:,} of them written to; load {result['load_average']:.1f} at the end on {os.cpu_count()} cores\n"
          f"bytes a key: {size['json_text']:,} of JSON as text, {size['bundle_text']:,} as the client receives the whole bundle, {size['tables']:,} in tables and "
          f"{size['indexes']:,} in indexes\n")
    for what in ("quiet", "writing"):
        for clients in (1, 8):
            r = result[what][clients]
            print(f"{what}, {clients} client{'s' if clients > 1 else ''}, {r['rows_per_s']:,} rows written/s\n"
                  "               p50 ms    p99 ms  p99.9 ms   reads/s   p50/bare  p99/bare    CPU us")
            for name in SCRIPTS:
                v, bare = r[name], r["bare"]
                print(f"  {name:<10} {v['p50_ms']:>8.3f}  {v['p99_ms']:>8.3f}  {v['p999_ms']:>8.3f}  {v['reads_per_s']:>8,}   {v['p50_ms'] / bare['p50_ms']:>8.1f}  "
                      f"{v['p99_ms'] / bare['p99_ms']:>8.1f}  {v.get('cpu_us', ''):>8}")
        v = result[what]["unplanned"]
        print(f"  unplanned  {v['p50_ms']:>8.3f}  {v['p99_ms']:>8.3f}  {v['p999_ms']:>8.3f}  {v['reads_per_s']:>8,}   (lite, 1 client, not prepared)\n")


def run(a, server, directory):
    a.own = server.conninfo(DATABASE)
    config = os.path.join(directory, "warmpath.yaml")
    with open(config, "w") as f:
        f.write(CONFIG.format(conninfo=a.own, dir=directory))
    result = {"keys": a.keys, "active": a.active}
    there = prepare(a, server, config)
    conn = connect(a.own)
    cur = conn.cursor()
    if not there:
        note(f"loading {a.keys:,} keys")
        began = time.monotonic()
        load(conn, emitted(a.build, directory), a.keys)
        cur.execute("CREATE TABLE bench_loaded AS SELECT %s AS keys, string_agg(checksum, ',' ORDER BY version) AS version FROM strategic_migrations", (a.keys,))
        result["load_s"] = round(time.monotonic() - began)
        note(f"  loaded in {result['load_s']} s")
    result["bytes_per_key"] = sizes(cur, a.keys)
    prepare_source(cur, a.active)
    cur.execute("CHECKPOINT")
    result["quiet"] = measure(a, directory, cur, "quiet")
    with Writer(a, config, directory):
        result["writing"] = measure(a, directory, cur, "writing")
    result["load_average"] = os.getloadavg()[0]
    conn.close()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build")
    parser.add_argument("--dir", default="var/bench-read-pg", help="of the server; about 20 kB a key")
    parser.add_argument("--keys", type=int, default=1000000)
    parser.add_argument("--active", type=int, default=2000, help="keys that are written to")
    parser.add_argument("--seconds", type=int, default=3, help="for each statement in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    a.build = os.path.abspath(a.build)
    a.active = min(a.active, a.keys)
    os.environ.pop("DATABASE_URL", None)  # would be stronger than the file
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = tempfile.mkdtemp(prefix="warmpath-bench-")
    try:
        with cluster.Cluster(a.dir, settings={"shared_buffers": "1GB", "max_wal_size": "8GB"}) as server:
            result = run(a, server, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if a.json:
        print(json.dumps(result))
    else:
        report(result)


if __name__ == "__main__":
    main()
