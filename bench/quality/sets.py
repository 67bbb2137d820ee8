"""The data sets as gold data and as events of `warmpath replay`. data/ holds those that are shipped (data/NOTICE.md); the others are read from
a folder NAME/dev.jsonl each, if there is one, and are only measured on.
"""
import base64
import gzip
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))
START_US = 1_700_000_000_000_000
SECOND, HOUR = 1_000_000, 3_600_000_000


def _lines(f):
    return [json.loads(line) for line in f if line.strip()]


def shipped(name):
    with gzip.open(os.path.join(HERE, "data", name + ".jsonl.gz"), "rt", encoding="utf-8") as f:
        return _lines(f)


class Others:
    """The sets that are not shipped, in folder/data; none when the folder is not there."""
    def __init__(self, folder):
        self.folder = os.path.join(folder, "data")

    def has(self, *names):
        return all(os.path.exists(os.path.join(self.folder, n, "dev.jsonl")) for n in names)

    def read(self, name, file="dev"):
        with open(os.path.join(self.folder, name, file + ".jsonl"), encoding="utf-8") as f:
            return _lines(f)


def signed(text):
    return [b - 256 if b > 127 else b for b in base64.b64decode(text)]


def dialogue_events(name, dialogues, embeddings, two_sided):
    """A dialogue is a user of the bot `name`: one an hour, an utterance every 15 s. two_sided: user and bot take turns."""
    for k, d in enumerate(sorted(dialogues, key=lambda d: d["id"])):
        for i, text in enumerate(d["turns"]):
            event = {"type": "message", "id": f"{name}/{d['id']}/{i}", "user_id": d["id"], "bot_name": name, "content": text,
                     "role": "bot" if two_sided and i % 2 else "user", "at": START_US + k * HOUR + i * 15 * SECOND}
            if embeddings:
                event.update(embedding=signed(embeddings[d["id"]][i]), embedding_model="use-lite-64")
            yield event


def series_events(series):
    for s in series:
        for i, (t, v) in enumerate(zip(s["t"], s["v"])):
            yield {"type": "metric", "id": f"{s['id']}/{i}", "bot_name": s["id"], "at": t * SECOND, "measurement": "nab", "fields": {"value": v}}


def review_events(reviews):
    """Reviews of cards: a card is a memory of one of eight users."""
    for r in reviews:
        yield {"type": "memory", "id": f"{r['card']}:{r['n']}", "user_id": f"learner-{int(r['card'][1:]) % 8}", "bot_name": "anki",
               "memory_id": r["card"], "at": int(r["t"] * SECOND), "op": "access" if r["n"] else "create", "grade": r["rating"],
               "outcome": "hit" if r["recall"] else "miss"}


def sender_events(bot, messages):
    sent = {}
    for m in messages:
        n = sent[m["from"]] = sent.get(m["from"], -1) + 1
        yield {"type": "message", "id": f"{m['from']}/{n}", "user_id": m["from"], "bot_name": bot, "role": "user", "content": "",
               "at": int(m["t"] * SECOND)}


def person_events(halves):
    for h in halves:
        for i, text in enumerate(h["msgs"]):
            yield {"type": "message", "id": f"{h['id']}/{i}", "user_id": h["id"], "bot_name": "irc", "role": "user", "content": text,
                   "at": START_US + i * 600 * SECOND}
