#!/usr/bin/env python3
"""What a webhook costs when 2xx means that it is durable, on a private PostgreSQL.

usage: http.py --conninfo CONNINFO --build DIR [--connections N] [--seconds N] [--json]

fsync    fdatasyncs/s of one writer that appends 32 kB each time, on the disk that holds the inbox: what nobody can exceed
answer   requests/s of the same listener when it answers at once (bench/http_floor.c)
store    the same, answering when the body is durable in an inbox
webhook  the same through `warmpath run`: shared secret, own-form events, committed, and counted by the engines meanwhile
Each with p50 and p99 of the answer, and the server's CPU time per request. The client is wrk on the same machine, one thread, every
request with an id of its own (bench/http.lua). Ratios within one run are what counts; absolute figures move with the machine.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psycopg2

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = """pipeline: bench_http
source:
  conninfo: "{conninfo}"
  slot: bench_http
  publication: bench_http
  snapshot: never
  create: true
  tables:
    - relation: public.bench_http
      event: message
      fields: {{id: id, user_id: user_id, bot_name: {{const: elena}}, role: {{const: user}}, content: content, at: {{column: at, unit: timestamp}}}}
state: {{dir: {dir}/state}}
http: {{listen: "127.0.0.1:0"}}
webhooks:
  - name: app
    preset: warmpath
    verify: shared-secret
    secrets: [{{value: "bench-secret"}}]
log: {{level: info}}
"""


def fsyncs(directory, seconds):
    path = os.path.join(directory, "fsync")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    block = os.urandom(32768)
    n, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        os.write(fd, block)
        os.fdatasync(fd)
        n += 1
    os.close(fd)
    os.unlink(path)
    return n / seconds


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(a, pid, port, path):
    before = cpu_seconds(pid)
    out = subprocess.run(["wrk", "-t1", f"-c{a.connections}", f"-d{a.seconds}", "-s", os.path.join(HERE, "http.lua"),
                          f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True, check=True).stdout
    r = json.loads(out.strip().splitlines()[-1])
    if r["status"] or r["socket"]:
        sys.exit(f"http.py: {path}: {r['status']} requests were refused and {r['socket']} failed\n{out}")
    return {"requests_per_s": round(r["requests"] / r["us"] * 1e6), "p50_ms": r["p50_us"] / 1000, "p99_ms": r["p99_us"] / 1000,
            "server_cpu_us": round((cpu_seconds(pid) - before) / r["requests"] * 1e6, 1)}


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def floor(a, directory):
    p = subprocess.Popen([os.path.join(a.build, "bench", "http_floor"), os.path.join(directory, "floor")], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True)
    try:
        port = int(p.stdout.readline())
        return {path: load(a, p.pid, port, "/" + path) for path in ("answer", "store")}
    finally:
        end(p)


def prepare(a, directory):
    config = os.path.join(directory, "warmpath.yaml")
    with open(os.open(config, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
        f.write(CONFIG.format(conninfo=a.conninfo, dir=directory))
    conn = psycopg2.connect(a.conninfo)
    conn.autocommit = True
    cur = conn.cursor()
    cur.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'bench_http'")
    cur.execute("DROP PUBLICATION IF EXISTS bench_http")
    cur.execute("DROP TABLE IF EXISTS bench_http; CREATE TABLE bench_http(id bigserial PRIMARY KEY, user_id text NOT NULL, "
                "content text NOT NULL, at timestamptz NOT NULL DEFAULT now()); ALTER TABLE bench_http REPLICA IDENTITY FULL")
    warmpath = os.path.join(a.build, "warmpath")
    subprocess.run([warmpath, "migrate", "up", "--config", config], check=True, stdout=subprocess.DEVNULL)
    cur.execute("DELETE FROM strategic_progress WHERE pipeline = 'bench_http'")
    conn.close()
    return [warmpath, "run", "--config", config]


def webhook(a, directory):
    log_path = os.path.join(directory, "log")
    with open(log_path, "w") as log:
        p = subprocess.Popen(prepare(a, directory), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            with open(log_path) as f:
                text = f.read()
            found = re.search(r"listening.* name=public .*port=(\d+)", text)
            if found and 'msg="running"' in text:
                break
            if time.monotonic() > deadline or p.poll() is not None:
                sys.exit(f"http.py: warmpath run did not start:\n{text}")
            time.sleep(0.05)
        return load(a, p.pid, int(found.group(1)), "/webhooks/app")
    finally:
        end(p)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conninfo", required=True)
    parser.add_argument("--build", default="build")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="warmpath-bench-")
    try:
        result = {"fsyncs_per_s": round(fsyncs(directory, 2)), **floor(a, directory), "webhook": webhook(a, directory)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    result["webhook_per_answer"] = round(result["webhook"]["requests_per_s"] / result["answer"]["requests_per_s"], 3)
    result["webhook_per_store"] = round(result["webhook"]["requests_per_s"] / result["store"]["requests_per_s"], 3)
    result["requests_per_fsync"] = round(result["webhook"]["requests_per_s"] / result["fsyncs_per_s"], 1)
    if a.json:
        print(json.dumps(result))
        return
    print(f"{a.connections} connections, {os.cpu_count()} cores for client and server\n\n             requests/s   p50 ms   p99 ms  server CPU us/request")
    for name in ("answer", "store", "webhook"):
        r = result[name]
        print(f"  {name:<9} {r['requests_per_s']:>10,} {r['p50_ms']:>8.2f} {r['p99_ms']:>8.2f} {r['server_cpu_us']:>10.1f}")
    print(f"  fsync     {result['fsyncs_per_s']:>10,} /s\n")
    print(f"webhook/answer {result['webhook_per_answer']}   webhook/store {result['webhook_per_store']}   "
          f"webhooks per fsync {result['requests_per_fsync']}")


if __name__ == "__main__":
    main()
