#!/usr/bin/python3
"""Runs the integration tests beside one private PostgreSQL server and writes one line per test.

usage: run.py [--pg MAJOR] [--results FILE] [--details FILE] [--keep] [--jobs N] [NAME...]

NAME selects tests as unittest does: test_crash, test_crash.KillTest, test_crash.KillTest.test_kill. --results writes "OK name",
"FAIL name" or "SKIP name" for each; --details appends what a failed one said. --keep leaves logs, states and databases for a look (they stay anyway when a test fails).
--jobs runs so many NAMEs (by default: modules) at a time, each beside a server of its own: most tests wait for something.
--pg names the server's major version (tools/postgres.py fetches it); else PG_BINDIR or Debian's. WARMPATH names the program,
default build/warmpath.
"""
import argparse
import concurrent.futures
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "tools"), os.path.join(HERE, "..", "support")]
import cluster
import harness
import postgres


class Result(unittest.TextTestResult):
    """Says what runs and how long it took, and remembers what became of it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.outcomes = []
        self.current = None

    def startTest(self, test):
        super().startTest(test)
        self.current = [test.id(), "OK", time.monotonic()]
        print(f"  {test.id()} ...", file=sys.stderr, flush=True)

    def stopTest(self, test):
        name, outcome, began = self.current
        print(f"  {name}: {outcome} ({time.monotonic() - began:.1f} s)", file=sys.stderr, flush=True)
        self.outcomes.append((outcome, name))
        super().stopTest(test)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        print(self.failures[-1][1], file=sys.stderr, flush=True)  # now, not after all the others
        self.mark(test, "FAIL")

    def addError(self, test, err):
        super().addError(test, err)
        print(self.errors[-1][1], file=sys.stderr, flush=True)
        self.mark(test, "FAIL")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.mark(test, "SKIP")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.mark(test, "FAIL")

    def mark(self, test, outcome):
        if self.current:
            self.current[1] = outcome
        if not isinstance(test, unittest.TestCase) or not self.current or test.id() != self.current[0]:
            self.outcomes.append((outcome, str(test).replace("\n", " ")))  # setUpClass, or a module that cannot be imported


def fitting(suite, major):
    """The tests that this server is new enough for: a class may say needs_major."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from fitting(test, major)
        elif getattr(test, "needs_major", 0) <= major:
            yield test


def run_one(name, results, details, keep):
    """A process for one name; "FAIL name" when it ended without results."""
    args = [sys.executable, os.path.abspath(__file__), "--results", results, *(["--details", details] if details else []),
            *(["--keep"] if keep else []), name]
    code = subprocess.run(args, stdin=subprocess.DEVNULL, preexec_fn=lambda: cluster.die_with_parent(signal.SIGTERM)).returncode
    try:
        with open(results) as f:
            return code, f.read()
    except FileNotFoundError:
        return code, f"FAIL {name}\n"


def run_jobs(names, jobs, results, details, keep):
    """Every name in a process of its own, the larger modules first so that no long one is left for the end."""
    if not names:
        modules = sorted(glob.glob(os.path.join(HERE, "test_*.py")), key=os.path.getsize, reverse=True)
        names = [os.path.splitext(os.path.basename(m))[0] for m in modules]
    with tempfile.TemporaryDirectory(prefix="warmpath-it-") as work, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        ran = list(pool.map(lambda i: run_one(names[i], os.path.join(work, str(i)), details, keep), range(len(names))))
    if results:
        with open(results, "w") as f:
            f.writelines(text for _, text in ran)
    return 1 if any(code for code, _ in ran) else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pg", metavar="MAJOR", choices=postgres.MAJORS)
    p.add_argument("--results")
    p.add_argument("--details")
    p.add_argument("--keep", action="store_true")
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the finally below
    if a.pg:
        try:
            os.environ["PG_BINDIR"] = postgres.bindir(a.pg)
        except postgres.FetchError as e:
            sys.exit(f"run.py: {e}")
    if a.jobs > 1 and len(a.names) != 1:
        return run_jobs(a.names, a.jobs, a.results, a.details, a.keep)
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(a.names) if a.names else loader.discover(HERE, "test_*.py")
    work = tempfile.mkdtemp(prefix="warmpath-it-")
    os.chmod(work, 0o755)  # for the server's user
    ok = False
    try:
        with cluster.Cluster(os.path.join(work, "pg"), fsync=False) as server:
            print(f"integration tests on PostgreSQL {server.major} in {work}", file=sys.stderr, flush=True)
            harness.begin(server, work)
            suite = unittest.TestSuite(fitting(suite, server.major))
            result = unittest.TextTestRunner(stream=sys.stderr, resultclass=Result, verbosity=0).run(suite)
        if a.results:
            with open(a.results, "w") as f:
                for outcome, name in result.outcomes:
                    f.write(f"{outcome} {name}\n")
        if a.details and not result.wasSuccessful():
            with open(a.details, "a") as f:
                for test, text in result.failures + result.errors:
                    f.write("\n".join([f"--- {test}", *text.splitlines()[-60:], ""]))
        ok = result.wasSuccessful() and result.testsRun > 0
    except cluster.ClusterError as e:
        print(f"run.py: {e}", file=sys.stderr)
    finally:
        harness.end()
        if ok and not a.keep:
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"logs and states are in {work}", file=sys.stderr)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
