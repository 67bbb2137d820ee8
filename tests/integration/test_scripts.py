"""Random event scripts (tests/support/script.h) through the program itself: what it prints does not depend on how the events were delivered
or spread, and every row keeps to the published schema. A failure names its seed; SCRIPT_SEED=N repeats one seed alone."""
import json
import os
import subprocess
import tempfile
import time
import unittest

import schema
from harness import WARMPATH

DUMP = os.path.join(os.path.dirname(WARMPATH), "tests", "support", "script_dump")
SEEDS = [int(os.environ["SCRIPT_SEED"])] if "SCRIPT_SEED" in os.environ else [1, 2, 3, 4, 5, 6, int(time.time())]


def script(seed, steps, users, days):
    return subprocess.run([DUMP, str(seed), str(steps), str(users), str(days)], check=True, stdout=subprocess.PIPE).stdout


class ScriptTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"    seeds {SEEDS}", flush=True)

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="warmpath-scripts-")
        self.addCleanup(self.dir.cleanup)

    def write(self, name, data):
        path = os.path.join(self.dir.name, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def replay(self, path, *args):
        run = subprocess.run([WARMPATH, "replay", path, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(0, run.returncode, run.stderr[-2000:])
        return run.stdout

    def test_delivery_and_spreading_change_nothing(self):
        for seed in SEEDS:
            with self.subTest(seed=seed):
                lines = script(seed, 1500, 6, 20).splitlines(keepends=True)
                path = self.write("script", b"".join(lines))
                expected = self.replay(path)
                for partitions in ("3", "8"):
                    self.assertEqual(expected, self.replay(path, "--partitions", partitions), f"{partitions} partitions")
                # A prefix delivered again: the stretch before a line once more, in its order.
                again = lines[:700] + lines[640:700] + lines[700:]
                twice = self.write("twice", b"".join(x for line in again for x in (line, line)))
                self.assertEqual(expected, self.replay(twice, "--partitions", "2"), "every line twice, and a stretch once more")
                state = os.path.join(self.dir.name, f"state-{seed}")
                for stop in (400, 900, 901):
                    self.assertEqual(b"", self.replay(path, "--state", state, "--stop-after", str(stop)))
                self.assertEqual(expected, self.replay(path, "--state", state), "stopped and resumed")

    def test_traces_do_not_depend_on_delivery_and_spreading(self):
        for engine in ("context_switch", "memory_behavior", "character_performance", "proactive_engagement"):
            for seed in SEEDS[:3]:
                with self.subTest(engine=engine, seed=seed):
                    lines = script(seed, 1200, 4, 12).splitlines(keepends=True)
                    path = self.write("script", b"".join(lines))
                    expected = self.replay(path, "--trace", engine)
                    self.assertEqual(expected, self.replay(path, "--trace", engine, "--partitions", "8"), "8 partitions")
                    state = os.path.join(self.dir.name, f"trace-{engine}-{seed}")
                    first = self.replay(path, "--trace", engine, "--state", state, "--stop-after", "600")
                    rest = self.replay(path, "--trace", engine, "--state", state)
                    self.assertEqual(expected, first + rest, "stopped and resumed")

    def test_other_bots_change_nothing(self):
        for seed in SEEDS[:3]:
            with self.subTest(seed=seed):
                lines = script(seed, 1000, 4, 15).splitlines(keepends=True)
                expected = self.replay(self.write("alone", b"".join(lines)))
                mixed = []
                for n, line in enumerate(lines):
                    mixed.append(line)
                    e = json.loads(line)
                    e["bot_name"] = "another"
                    if n % 3 == 0:
                        mixed.append((json.dumps(e) + "\n").encode())
                rows = self.replay(self.write("mixed", b"".join(mixed)))
                self.assertEqual(expected, b"".join(r for r in rows.splitlines(keepends=True) if json.loads(r)["row"]["bot_name"] != "another"))

    def test_every_row_keeps_to_the_schema(self):
        seen = {}
        for seed in SEEDS:
            with self.subTest(seed=seed):
                for steps, users, days in ((600, 3, 40), (2500, 1, 9)):
                    out = self.replay(self.write("script", script(seed, steps, users, days)), "--emit", "each")
                    for text in out.splitlines():
                        line = json.loads(text)
                        self.assertEqual([], schema.check(line), text[:3000])
                        filled = seen.setdefault(line["table"], set())
                        filled.update(k for k, v in line["row"].items() if v is not None)
        rare = {"recent_anomalies"}  # wants a day of dense points: test_tables
        for table, columns in schema.COLUMNS.items():
            self.assertEqual(set(), set(columns) - rare - seen.get(table, set()), f"{table}: columns that no script has filled")
