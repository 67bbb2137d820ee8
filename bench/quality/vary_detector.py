#!/usr/bin/python3
"""How much the anomaly detector depends on its parameters: the shipped series, with one parameter at half and at double its value, and with
the threshold chosen on a part of the series and judged on the rest.

usage: vary_detector.py [--threshold-only]

Each variant is compiled from engines/detector.c with one #define changed, against the libraries of ./dev build. Takes a few minutes.
"""
import concurrent.futures
import os
import random
import re
import subprocess
import sys
import tempfile

import scorers
import sets

ROOT = os.path.dirname(os.path.dirname(sets.HERE))
PARAMETERS = ("FAST", "MIDDLE", "SLOW", "NOW", "RUN", "SMOOTH", "HOLD", "RANKS_MAX", "FADE")
THRESHOLDS = [x / 10 for x in range(36, 68, 2)]
DIVISIONS = 200


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def value_of(source, name):
    return re.search(rf"#define {name} +(\([^)]*\)|\S+)", source).group(1)


def build(folder, name, value):
    """A driver with the parameter changed; with the value itself when that is None."""
    source = read("engines/detector.c")
    if value is not None:
        source = re.sub(rf"(#define {name} +)(\([^)]*\)|\S+)", lambda m: m.group(1) + value, source)
    path = os.path.join(folder, f"{name}-{value}".replace("/", "_").replace(" ", ""))
    with open(path + ".c", "w", encoding="utf-8") as f:
        f.write(source)
    # The variant comes before the library, so that the library's own is not taken.
    subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-ffp-contract=off", "-I", ROOT, "-o", path, path + ".c", os.path.join(ROOT, "bench/quality/detect.c"),
                    os.path.join(ROOT, "build/engines/libengines.a"), os.path.join(ROOT, "build/core/libcore.a"), "-lm"], check=True)
    return path


def alarms(driver, series):
    """(rows, windows, alarms) of each series."""
    def one(s):
        text = "".join(f"{t} {v!r}\n" for t, v in zip(s["t"], s["v"]))
        out = subprocess.run([driver], input=text, capture_output=True, text=True, check=True).stdout
        return len(s["t"]), s["windows"], [i for i, line in enumerate(out.splitlines()) if line.endswith(" 1")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, series))


def show(what, judged):
    r = scorers.anomaly(judged)
    print(f"{what:<28}{r['standard']:8.1f}{r['low_fp']:8.1f}", flush=True)


def pooled(chosen_on, judged_on, results):
    """The judged series under the threshold that is best, in both profiles together, for the others."""
    def both(t):
        r = scorers.anomaly([results[t][i] for i in chosen_on])
        return r["standard"] + r["low_fp"]
    best = max(results, key=both)
    return [results[best][i] for i in judged_on]


def main():
    series = sets.shipped("nab")
    groups = [s["id"].split("_")[0] for s in series]
    with tempfile.TemporaryDirectory() as folder:
        source = read("engines/detector.c")
        print(f"{'parameter':<28}standard  low fp")
        show("as shipped", alarms(build(folder, "FAST", None), series))
        if "--threshold-only" not in sys.argv:
            for name in PARAMETERS:
                for word, factor in (("half", "/ 2"), ("double", "* 2")):
                    value = f"({value_of(source, name)} {factor})"
                    show(f"{name} {word}", alarms(build(folder, name, value), series))
        results = {t: alarms(build(folder, "THRESHOLD", str(t)), series) for t in THRESHOLDS}
    everything = range(len(series))
    show("threshold, other groups", sum((pooled([i for i in everything if groups[i] != g], [i for i in everything if groups[i] == g], results)
                                         for g in sorted(set(groups))), []))
    rng, judged = random.Random(1), []
    for _ in range(DIVISIONS):
        half = [rng.random() < 0.5 for _ in series]
        for side in (False, True):
            judged += pooled([i for i in everything if half[i] == side], [i for i in everything if half[i] != side], results)
    show("threshold, other half", judged)


if __name__ == "__main__":
    main()
