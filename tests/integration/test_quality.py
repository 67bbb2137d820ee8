"""The engines reach their gates on real data (a part of it: `./dev quality` runs all), and the scorers are right.

A gate counts as met when missed by at most 5 %: quality.py --quick says so.
"""
import importlib.util
import io
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import unittest

from harness import WARMPATH

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
QUALITY = os.path.join(ROOT, "bench", "quality")
SECOND_OPINION = os.environ.get("WARMPATH_SCORERS", os.path.join(ROOT, "..", "shared", "quality"))
sys.path.insert(0, QUALITY)
import scorers
import sets


class GateTest(unittest.TestCase):
    def test_no_engine_falls_short(self):
        done = subprocess.run([sys.executable, os.path.join(QUALITY, "quality.py"), "--bin", WARMPATH, "--quick", "--json"], capture_output=True,
                              text=True)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        reports = json.loads(done.stdout)
        for r in reports:
            print(f"    {r['task']}: {r['verdict']} {r.get('figures', r.get('why'))}", file=sys.stderr)
        self.assertEqual([], [r for r in reports if r["verdict"] == "fell short"])
        self.assertTrue(any(r["verdict"] == "met" for r in reports))


class ScorerTest(unittest.TestCase):
    """By hand, for small cases."""

    def test_boundary_errors(self):
        gold = [0, 0, 0, 0, 1, 0, 0, 0]  # two segments of four: a window of two
        self.assertEqual((0.0, 0.0), scorers.boundary_errors(gold, gold))
        # The boundary lies in 2 of the 7 windows.
        self.assertEqual((2 / 7, 2 / 7), scorers.boundary_errors(gold, [0] * 8))
        # One too late: each of the two boundaries is alone in one window.
        self.assertEqual((2 / 7, 2 / 7), scorers.boundary_errors(gold, [0, 0, 0, 0, 0, 1, 0, 0]))
        # A second one beside it: the window that holds both differs in number only.
        self.assertEqual((1 / 7, 2 / 7), scorers.boundary_errors(gold, [0, 0, 0, 0, 1, 1, 0, 0]))

    def test_segmentation(self):
        perfect = scorers.segmentation([([0, 1, 0, 0], [0, 1, 0, 0])])
        self.assertEqual(1.0, perfect["score"])
        half = scorers.segmentation([([0, 1, 0, 1], [1, 1, 0, 0])])  # the first utterance opens nothing
        self.assertAlmostEqual(2 / 3, half["f1"])

    def test_anomaly(self):
        windows = [[200, 299]]
        self.assertAlmostEqual(0.0, scorers.anomaly([(1000, windows, [])])["standard"])
        first = scorers.anomaly([(1000, windows, [200, 250])])
        self.assertAlmostEqual(100.0, first["standard"])
        self.assertAlmostEqual(100.0, first["low_fn"])
        # Detected, and three false alarms far from it at 0.11 and 0.22; the alarm at row 100 is in the probation.
        false = scorers.anomaly([(1000, windows, [100, 160, 200, 900, 950])])
        self.assertAlmostEqual(100.0 - 100 * 0.33 / 2, false["standard"])
        self.assertAlmostEqual(100.0 - 100 * 0.66 / 2, false["low_fp"])

    def test_auc(self):
        self.assertEqual(0.5, scorers.auc([(0.3, 1), (0.3, 0)]))
        self.assertEqual(0.75, scorers.auc([(0.1, 0), (0.2, 1), (0.3, 0), (0.4, 1)]))

    def test_gap_law(self):
        law = scorers.GapLaw([(60, 0.5), (3600, 1.0)])
        self.assertAlmostEqual(0.5, law.cdf(60), 9)
        middle = math.sqrt(60 * 3600)
        self.assertAlmostEqual(0.75, law.cdf(middle), 3)
        self.assertAlmostEqual(math.log(0.5 * (1 - 2e-4)) - math.log(math.log(60)), law.log_density(middle), 9)
        self.assertEqual(1.0, law.cdf(1e9))

    def test_fingerprint(self):
        rng = random.Random(1)
        people = [[rng.gauss(0, 1) for _ in range(20)] for _ in range(10)]
        self.assertEqual(1.0, scorers.fingerprint([(p, p) for p in people])["mrr"])
        self.assertLess(scorers.fingerprint(list(zip(people, people[1:] + people[:1])))["mrr"], 0.5)


def second_scorer(name):
    """A scorer of other hands, without its rounding of figures."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(SECOND_OPINION, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.round = lambda x, digits=None: x if digits is not None and digits >= 3 else round(x, digits)
    return module


class SecondOpinionTest(unittest.TestCase):
    """Scorers that were written separately give the same figures on the same, random predictions."""

    def setUp(self):
        self.rng = random.Random(20)

    def assertSame(self, ours, theirs):
        for figure, value in ours.items():
            self.assertAlmostEqual(value, theirs[figure], delta=1e-6, msg=figure)

    def printed(self, module, *rows):
        """What its main() prints, given its input files."""
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for i, lines in enumerate(rows):
                paths.append(os.path.join(folder, str(i)))
                with open(paths[-1], "w", encoding="utf-8") as f:
                    f.writelines(json.dumps(line) + "\n" for line in lines)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                module.main(*paths)
        return json.loads(out.getvalue())

    def test_segmentation(self):
        gold = {d["id"]: d["starts"] for d in sets.shipped("tiage")}
        pred = {k: [int(self.rng.random() < 0.2) for _ in starts] for k, starts in gold.items()}
        theirs = second_scorer("score_segmentation").evaluate(gold, {k: list(p) for k, p in pred.items()})
        self.assertSame(scorers.segmentation([(gold[k], pred[k]) for k in gold]), {**theirs, "f1": theirs["f1_macro"]})

    def test_anomaly(self):
        other = second_scorer("score_nab")
        series = [(len(s["t"]), s["windows"], [i for i in range(len(s["t"])) if self.rng.random() < 0.003]) for s in sets.shipped("nab")]
        labels = [{"id": i, "n": n, "windows": windows} for i, (n, windows, _) in enumerate(series)]
        flags = {i: [float(row in set(alarms)) for row in range(n)] for i, (n, _, alarms) in enumerate(series)}
        rows, n_windows = other.prepare(labels, flags)
        theirs = {p: other.at(rows, n_windows, 0.5, p) for p in other.PROFILES}
        counts = other.detail(rows, 0.5)
        theirs.update(windows_found=counts["window_recall"], false_per_1000=counts["false_alarms_per_1000"])
        self.assertSame(scorers.anomaly(series), theirs)

    def test_forgetting(self):
        reviews, at = [], 0.0
        for i in range(4000):
            card, n = f"c{self.rng.randrange(150)}", i
            elapsed = None if self.rng.random() < 0.1 else self.rng.expovariate(0.2)
            rating = self.rng.choice((1, 2, 3, 3, 3, 4))
            at += 60
            reviews.append({"card": card, "n": n, "t": at, "elapsed_days": elapsed, "rating": rating, "recall": int(rating > 1)})
        pred = {(r["card"], r["n"]): round(self.rng.random(), 2) for r in reviews if self.rng.random() < 0.9}
        other = second_scorer("score_forgetting")
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.writelines(json.dumps(r) + "\n" for r in reviews)
            f.flush()
            theirs = other.evaluate(other.gold_rows(f.name), pred)
        self.assertSame(scorers.forgetting(reviews, pred), theirs)

    def test_timing(self):
        other = second_scorer("score_timing")
        messages, t = [], 1e9
        for _ in range(3000):
            t += int(self.rng.expovariate(0.01))
            messages.append({"t": t, "from": f"u{self.rng.randrange(40)}"})
        targets = list(scorers.gaps(messages))
        laws = {}
        for key, _ in targets:
            if self.rng.random() < 0.9:
                edges = sorted(self.rng.choice((0, 1, 60, 3600)) + self.rng.expovariate(1e-4) for _ in range(12))
                laws[key] = list(zip(edges, sorted(self.rng.random() for _ in edges)))
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.writelines(json.dumps(m) + "\n" for m in messages)
            f.flush()
            theirs = other.targets(f.name)
        self.assertEqual([(u, k, g) for (u, k), g in targets], theirs)
        self.assertSame(scorers.timing(targets, laws), other.evaluate(theirs, {key: {"q": q} for key, q in laws.items()}))

    def test_fingerprint(self):
        gold, vectors, people = [], [], []
        for i in range(40):
            self_like = [self.rng.gauss(0, 1) for _ in range(30)]
            halves = [[round(50 * (x + self.rng.gauss(0, 1))) for x in self_like] for _ in (0, 1)]
            people.append(tuple(halves))
            for h in (0, 1):
                gold.append({"id": f"{i}-{h}", "person": str(i), "half": h, "msgs": []})
                vectors.append({"id": f"{i}-{h}", "v": halves[h]})
        self.assertSame(scorers.fingerprint(people), self.printed(second_scorer("score_profile"), gold, vectors))

    def test_trend(self):
        series = sets.shipped("trend")
        estimates = [(s["slope"] + self.rng.gauss(0, abs(s["slope"]) + 1e-3), min(1.0, s["mk"]["p"] * self.rng.uniform(0.1, 9))) for s in series]
        pred = [{"id": s["id"], "slope": slope, "p": p} for s, (slope, p) in zip(series, estimates)]
        self.assertSame(scorers.trend(series, estimates), self.printed(second_scorer("score_trend"), series, pred))


if not os.path.exists(os.path.join(SECOND_OPINION, "score_nab.py")):
    del SecondOpinionTest  # not skipped: nothing is missing where there is no second set of scorers


if __name__ == "__main__":
    unittest.main()
