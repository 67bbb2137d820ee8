#!/usr/bin/env python3
"""How fresh the rows are that an application reads, on real times of messages: bench/freshness.c says what is real in it.

usage: freshness.py --build DIR [--data DIR] [--set irc|collegemsg] [--latency-ms N] [--reply-s N] [--days N] [--json]

--data DIR  (or $WARMPATH_QUALITY_DATA) the folder that holds collegemsg/dev.jsonl: private messages on a social network of students,
            1900 people, 193 days. It may not be handed on, so it is not part of this repository: get CollegeMsg.txt.gz from
            https://snap.stanford.edu/data/CollegeMsg.html and make lines {"t":SECONDS,"from":"ID"} of it, in order of time.
            Without it only the set that is shipped is measured: irc, the times of Ubuntu channels (bench/quality/data/NOTICE.md),
            whose days are put one after the other, and whose messages of one minute are spread over it.
--days N    only the first N days

Shares of the reads, in per cent, by tier setting: "active" are reads that are not the first of a session (a pause below an hour), at
the moment the user's message arrives; "+50ms" the same 50 ms later; "all" with the first ones. `writes`
are rows for each message, of the user or the bot: those written whole + those of which only the lifetime was renewed.
"""
import argparse
import gzip
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DAY = 86400
START = 1_700_438_400  # a Monday, 00:00 UTC
SETTINGS = [("no renewal", ["--tiers", "none"]), ("tier A", ["--tiers", "a"]), ("tiers A, B", ["--tiers", "ab"]),
            ("A, B, validity", ["--tiers", "ab", "--validity"])]
AIMS = {"current": 99.0, "fresh": 95.0}


def irc():
    """Days without messages lie between the days of the logs: the ones with messages are moved together."""
    with gzip.open(os.path.join(HERE, "quality", "data", "irc_times.jsonl.gz"), "rt", encoding="utf-8") as f:
        messages = [json.loads(line) for line in f]
    days = {d: i for i, d in enumerate(sorted({m["t"] // DAY for m in messages}))}
    minutes = {}
    for m in messages:
        minutes.setdefault(m["t"] // 60, []).append(m)
    for minute, ms in sorted(minutes.items()):
        for i, m in enumerate(ms):
            t = ms[0]["t"] // 60 * 60 + 60 * i / len(ms)
            yield START + days[ms[0]["t"] // DAY] * DAY + t % DAY, m["from"]


def collegemsg(folder):
    with open(os.path.join(folder, "collegemsg", "dev.jsonl"), encoding="utf-8") as f:
        for line in f:
            m = json.loads(line)
            yield m["t"], m["from"]


def as_lines(messages, days):
    users, out, first, last = {}, [], None, 0
    for t, who in messages:
        first = t if first is None else first
        if days and t >= first + days * DAY:
            break
        last = max(last, int(t * 1e6))
        out.append(f"{last} {users.setdefault(who, len(users))}\n")
    return "".join(out), len(users)


def measure(program, lines, args):
    run = subprocess.run([program, *args], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def shares(tally):
    n = max(1, sum(tally[k] for k in ("fresh", "current", "stale", "expired", "missing")))
    pc = lambda *kinds: 100 * sum(tally[k] for k in kinds) / n
    return {"fresh": pc("fresh"), "current": pc("fresh", "current"), "stale": pc("stale"), "expired": pc("expired"),
            "missing": pc("missing"), "n": n}


def show(name, results, n_users):
    print(f"\n{name}: {results[0][1]['user_messages']} reads of {n_users} users")
    print(f"{'':16}{'reads':>12}{'fresh':>9}{'or current':>12}{'stale':>8}{'expired':>9}{'missing':>9}{'writes':>16}")
    for setting, r in results:
        writes = f"{r['written'] / r['messages']:.2f} + {r['touched'] / r['messages']:.2f}"
        for kind, label in (("active", "active"), ("active_50ms", "active +50ms"), ("all", "all"), ("all_50ms", "all +50ms")):
            s = shares(r[kind])
            print(f"{setting if kind == 'active' else '':16}{label:>12}{s['fresh']:9.2f}{s['current']:12.2f}{s['stale']:8.2f}"
                  f"{s['expired']:9.2f}{s['missing']:9.2f}{writes if kind == 'active' else '':>16}")
    active = shares(dict(results)["tiers A, B"]["active"])
    for key, aim in AIMS.items():
        verdict = "reached" if active[key] >= aim else "MISSED"
        print(f"aim: active sessions {'strictly fresh' if key == 'fresh' else 'fresh or current'} >= {aim:.0f} %: {active[key]:.2f} % ({verdict})")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--data", default=os.environ.get("WARMPATH_QUALITY_DATA"))
    p.add_argument("--set", action="append", choices=["irc", "collegemsg"])
    p.add_argument("--latency-ms", type=float, default=20)
    p.add_argument("--reply-s", type=float, default=5)
    p.add_argument("--days", type=int, default=0)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    program = os.path.join(args.build, "bench", "freshness")
    wanted = args.set or ["irc", "collegemsg"]
    missing = not args.data or not os.path.exists(os.path.join(args.data, "collegemsg", "dev.jsonl"))
    if "collegemsg" in wanted and missing:
        print("collegemsg is left out: its data may not be part of this repository. --data DIR or WARMPATH_QUALITY_DATA names the "
              "folder that holds collegemsg/dev.jsonl; bench/freshness.py --help says where it is from.", file=sys.stderr)
        wanted = [w for w in wanted if w != "collegemsg"]
    common = ["--latency-us", str(int(args.latency_ms * 1000)), "--reply-us", str(int(args.reply_s * 1e6))]
    for name in wanted:
        lines, n_users = as_lines(irc() if name == "irc" else collegemsg(args.data), args.days)
        results = [(setting, measure(program, lines, common + flags)[0]) for setting, flags in SETTINGS]
        decile = measure(program, lines, ["--decile"])
        if args.json:
            print(json.dumps({"set": name, "users": n_users, "results": dict(results), "decile": decile}))
            continue
        show(name, results, n_users)
        for d in decile:
            print(f"top decile of ten-minute steps{' by hours of the week' if d['hours'] else ', all hours alike'}: P(return) >= "
                  f"{d['threshold']:.4f}, holds {100 * d['in_decile']:.0f} % of {d['returns']} returns")


if __name__ == "__main__":
    main()
