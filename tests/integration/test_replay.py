"""`warmpath replay` prints the same bytes whatever the number of partitions, duplicates, stops and kills, over many midnights; and
within one UTC day whatever the order of arrival."""
import json
import os
import random
import subprocess
import tempfile
import unittest
from datetime import datetime, timedelta, timezone

from harness import WARMPATH, sentence

DEMO = os.path.join(os.path.dirname(__file__), "..", "data", "irc_demo.jsonl")


def demo_events():
    """The IRC excerpt as events; each file moved into the same week, since a window holds 30 days."""
    first = {}
    with open(DEMO, encoding="utf-8") as f:
        for n, line in enumerate(f):
            m = json.loads(line)
            start = first.setdefault(m["f"], m["t"])
            yield {"type": "message", "id": f"irc-{n}", "user_id": m["n"], "bot_name": m["c"], "at": (1767600000 + m["t"] - start) * 1000000 + n,
                   "role": "bot" if m.get("b") else "user", "content": m["m"]}


def made_events(seed, days=20):
    """Groups of events that must keep their order (all of one id), to be shuffled as groups."""
    rng = random.Random(seed)
    begin = datetime(2026, 1, 5, tzinfo=timezone.utc)
    at = lambda: (begin + timedelta(seconds=rng.randrange(days * 86400), microseconds=rng.randrange(1000000))).isoformat()
    for n in range(600):
        key = {"user_id": f"user-{rng.randrange(12)}", "bot_name": f"bot{rng.randrange(2)}"}
        if rng.random() < 0.6:
            message = dict(key, type="message", id=f"m{n}", at=at(), role=rng.choice(("user", "bot")), content=sentence(rng))
            group = [message]
            if rng.random() < 0.2:
                group.append(dict(message, type="message_updated", content=sentence(rng)))
            if rng.random() < 0.15:
                group.append(dict(key, type="message_deleted", id=f"m{n}", at=message["at"]))
            yield group
        else:
            memory = f"memory-{n}"
            times = sorted(at() for _ in range(rng.randrange(1, 6)))
            group = [dict(key, type="memory", op="create", id=f"{memory}-c", memory_id=memory, at=times[0], content=sentence(rng),
                          importance=rng.randrange(10) / 10)]
            group += [dict(key, type="memory", op="access", id=f"{memory}-{i}", memory_id=memory, at=t, score=0.5)
                      for i, t in enumerate(times[1:])]
            if rng.random() < 0.1:
                group.append(dict(key, type="memory", op="delete", id=f"{memory}-d", memory_id=memory, at=times[-1]))
            yield group


def interleave(groups, rng):
    """A random order of all events in which each group keeps its own."""
    order = [i for i, g in enumerate(groups) for _ in g]
    rng.shuffle(order)
    position = [iter(g) for g in groups]
    return [next(position[i]) for i in order]


class ReplayTest(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="warmpath-replay-")
        self.addCleanup(self.dir.cleanup)
        self.n = 0

    def write(self, events):
        self.n += 1
        path = os.path.join(self.dir.name, f"{self.n}.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            for e in events:
                f.write(json.dumps(e, ensure_ascii=False) + "\n")
        return path

    def replay(self, path, *args):
        run = subprocess.run([WARMPATH, "replay", path, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(0, run.returncode, run.stderr[-2000:])
        return run.stdout

    def check(self, groups, tables):
        rng = random.Random(1)
        straight = [e for g in groups for e in g]
        path = self.write(straight)
        expected = self.replay(path)
        self.assertLessEqual(tables, {json.loads(line)["table"] for line in expected.splitlines()})
        self.assertEqual(expected, self.replay(path), "twice")
        for partitions in (3, 8):
            self.assertEqual(expected, self.replay(path, "--partitions", str(partitions)), f"{partitions} partitions")
        twice = [e for e in straight for _ in range(rng.choice((1, 1, 2)))]
        self.assertGreater(len(twice), len(straight))
        self.assertEqual(expected, self.replay(self.write(twice)), "duplicates")
        state = os.path.join(self.dir.name, f"state-{self.n}")
        for stop in (len(straight) // 3, len(straight) // 2):
            self.assertEqual(b"", self.replay(path, "--state", state, "--stop-after", str(stop)))
        self.assertEqual(expected, self.replay(path, "--state", state), "stopped and resumed")

    def check_kills(self, path):
        """Killed at every step of a change of day, in each of three partitions."""
        expected = self.replay(path)
        for point in ("day_before_close", "day_closed", "day_before_open", "day_opened"):
            for n in (1, 2, 3, 8):
                state = os.path.join(self.dir.name, f"killed-{point}-{n}")
                args = [WARMPATH, "replay", path, "--state", state, "--partitions", "3"]
                run = subprocess.run(args, stdout=subprocess.PIPE, timeout=120, env=dict(os.environ, WARMPATH_FAULT=f"{point}:{n}:abort"))
                self.assertEqual(-9, run.returncode)
                self.assertEqual(expected, self.replay(path, "--state", state, "--partitions", "3"), f"killed at {point} {n}")

    def test_conversations(self):
        self.check([[e] for e in demo_events()], {"strategic_conversation_patterns"})

    def test_messages_and_memories_with_edits_and_deletes(self):
        # Sorted by time, groups and all: 20 days, one after the other.
        events = sorted((e for g in made_events(3) for e in g), key=lambda e: e["at"])
        self.check([[e] for e in events], {"strategic_conversation_patterns", "strategic_memory_health"})
        self.check_kills(self.write(events))

    def test_within_a_day_the_order_of_arrival_changes_nothing(self):
        groups = list(made_events(4, days=1))
        straight = [e for g in groups for e in g]
        shuffled = interleave(groups, random.Random(1))
        self.assertNotEqual(straight, shuffled)
        self.assertEqual(self.replay(self.write(straight)), self.replay(self.write(shuffled), "--partitions", "2"))

    def test_another_event_prints_other_bytes(self):
        groups = list(made_events(3))
        events = [e for g in groups for e in g]
        extra = dict(events[0], type="message", id="extra", role="user", content="one more")
        self.assertNotEqual(self.replay(self.write(events)), self.replay(self.write(events + [extra])))
