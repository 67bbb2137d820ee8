#!/usr/bin/python3
"""Makes tests/data/irc_demo.jsonl from the irc-disentanglement corpus in its JSON Lines form; tests/data/NOTICE.md says what that is.

usage: irc_excerpt.py CORPUS.jsonl > tests/data/irc_demo.jsonl

Takes a few whole files (an hour to a few days of one channel each) in which channel bots talk. Nothing is reworded or left out
within a file; the member names are shortened to save room.
"""
import json
import sys

FILES = ["2007-06-17.train-a", "2008-01-02.train-c", "2010-05-30.train-c", "mediawiki.0", "mediawiki.2", "rust.2"]


def main():
    for line in open(sys.argv[1], encoding="utf-8"):
        m = json.loads(line)
        if m["file"] not in FILES:
            continue
        short = {"c": m["chan"], "f": FILES.index(m["file"]), "t": m["t"], "n": m["from"], "m": m["text"]}
        if m.get("bot"):
            short["b"] = 1
        print(json.dumps(short, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
