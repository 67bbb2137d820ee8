#!/usr/bin/python3
"""Packs the data sets that may be shipped into data/*.jsonl.gz.

usage: pack.py DIR

DIR holds the sets as tiage/dev.jsonl, seg_embeddings/tiage_dev.jsonl, nab/dev/labels.jsonl and series/*.csv, trend/dev.jsonl,
profile/dev.jsonl and irc/dev.jsonl; data/NOTICE.md says where they come from. The files are written without names and times: the same input gives the same bytes.
"""
import csv
import gzip
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def rows(*path):
    with open(os.path.join(*path), encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def pack(name, items):
    with open(os.path.join(HERE, "data", name + ".jsonl.gz"), "wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as f:
        for item in items:
            f.write(json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def nab(folder):
    for s in rows(folder, "labels.jsonl"):
        with open(os.path.join(folder, "series", s["id"] + ".csv"), newline="", encoding="utf-8") as f:
            points = [(int(float(r["t"])), float(r["value"])) for r in csv.DictReader(f)]
        yield {"id": s["id"], "windows": s["windows"], "t": [t for t, _ in points], "v": [v for _, v in points]}


def irc_times(messages):
    """Times of the messages of people; nicks become numbers, in order of appearance."""
    numbers = {}
    for m in sorted(messages, key=lambda m: m["t"]):
        if not m.get("bot"):
            yield {"t": m["t"], "from": "p%d" % numbers.setdefault(m["from"], len(numbers))}


def main(folder):
    pack("tiage", ({k: d[k] for k in ("id", "turns", "starts")} for d in rows(folder, "tiage", "dev.jsonl")))
    pack("tiage_embeddings", ({k: d[k] for k in ("id", "emb")} for d in rows(folder, "seg_embeddings", "tiage_dev.jsonl")))
    pack("nab", nab(os.path.join(folder, "nab", "dev")))
    pack("trend", (s for s in rows(folder, "trend", "dev.jsonl") if s["src"].startswith(("NAB", "synthetic"))))
    pack("irc_times", irc_times(rows(folder, "irc", "dev.jsonl")))
    pack("profile", rows(folder, "profile", "dev.jsonl"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
