#!/usr/bin/python3
"""How good are the engines? Real data -> events -> `warmpath replay` -> figures beside the gates they must reach.

usage: quality.py [--bin PATH] [--quick] [--only TASK[,TASK...]] [--others DIR] [--keep DIR] [--json]

One shipped configuration serves all sets: nothing is switched or tuned for any of them. Traces never peek: what is said about an event is
computed from events before it (or up to and including it, for topic boundaries and the next message).
  --bin PATH     the program, default build/warmpath
  --quick        a part of the data (under a minute); a gate counts as met when missed by at most 5 %, and a task whose engine does not
                 answer yet is left out
  --only TASKS   some of: segmentation segmentation-emb anomaly fingerprint trend timing-irc forgetting timing
  --others DIR   where data/ with the sets that are not shipped lies, default ../shared/quality beside the project; tasks that need them are
                 left out when they are not there
  --keep DIR     leave the events and traces there
  --json         one JSON object instead of the table

Exit status: 0 every gate was met, 1 one was missed, 2 a task could not be run. docs/QUALITY.md says what the figures mean.
"""
import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time

import scorers
import sets

ROOT = os.path.dirname(os.path.dirname(sets.HERE))
MARGIN = 0.05  # of a gate, with --quick


class Unavailable(Exception):
    """The engine does not answer: no such engine, no trace, or a column that is not there."""


class Run:
    """What the tasks share: the program, the data, and where files go."""
    def __init__(self, binary, others, folder, quick):
        self.binary, self.others, self.folder, self.quick = binary, sets.Others(others), folder, quick

    def replay(self, name, events, *options):
        """The lines that the program prints for the events."""
        path = os.path.join(self.folder, name)
        with open(path + ".events.jsonl", "w", encoding="utf-8") as f:
            for e in events:
                f.write(json.dumps(e, ensure_ascii=False) + "\n")
        with open(path + ".out.jsonl", "w+", encoding="utf-8") as out:
            done = subprocess.run([self.binary, "replay", path + ".events.jsonl", *options], stdout=out, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise Unavailable(f"replay {' '.join(options)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
            out.seek(0)
            return [json.loads(line) for line in out]


# ---------------------------------------------------------------- tasks: each returns its figures
def segmentation(run, with_embeddings):
    """One run over all sets, one after the other, each a bot of its own: decided turn by turn."""
    read = lambda name: sets.shipped("tiage") if name == "tiage" else run.others.read(name)
    names = ["tiage"] + [n for n in ("dialseg711", "committee") if run.others.has(n) and not run.quick]
    gold = {n: read(n)[::3 if run.quick else 1] for n in names}
    events = []
    for name in names:
        vectors = None
        if with_embeddings:
            rows = sets.shipped("tiage_embeddings") if name == "tiage" else run.others.read("seg_embeddings", name + "_dev")
            vectors = {d["id"]: d["emb"] for d in rows}
        events.append(sets.dialogue_events(name, gold[name], vectors, name != "committee"))
    trace = run.replay("emb" if with_embeddings else "text", itertools.chain(*events), "--trace", "context_switch")
    opened = {line["id"] for line in trace if line["boundary"]}
    scores = {n: scorers.segmentation([(d["starts"], [f"{n}/{d['id']}/{i}" in opened for i in range(len(d["turns"]))]) for d in gold[n]])
              for n in names}
    figures = {"tiage": scores["tiage"]["score"], "tiage_f1": scores["tiage"]["f1"], "tiage_pk": scores["tiage"]["pk"]}
    if "dialseg711" in scores:
        figures.update(dialseg711=scores["dialseg711"]["score"], mean=(scores["tiage"]["score"] + scores["dialseg711"]["score"]) / 2)
    if "committee" in scores:
        figures.update(committee=scores["committee"]["score"], committee_pred_per_gold=scores["committee"]["pred_per_gold"])
    return figures


def anomaly(run):
    series = sets.shipped("nab")
    if run.quick:
        series = [s for s in series if len(s["t"]) < 4100]
    trace = run.replay("anomaly", sets.series_events(series), "--trace", "character_performance")
    alarms = {}
    for line in trace:
        name, row = line["id"].rsplit("/", 1)
        if line["anomaly"]:
            alarms.setdefault(name, []).append(int(row))
    return scorers.anomaly([(len(s["t"]), s["windows"], alarms.get(s["id"], [])) for s in series])


def fingerprint(run):
    halves = sets.shipped("profile")
    vectors = {}
    for line in run.replay("fingerprint", sets.person_events(halves), "--emit", "final"):
        if line["table"] == "strategic_conversation_patterns":
            text = (line["row"].get("communication_style") or {}).get("fingerprint")
            if text:
                vectors[line["row"]["user_id"]] = sets.signed(text)
    if not vectors:
        raise Unavailable("no row carries communication_style.fingerprint")
    people = {}
    for h in halves:
        people.setdefault(h["person"], {})[h["half"]] = vectors.get(h["id"])
    return scorers.fingerprint([(p[0], p[1]) for p in people.values() if p.get(0) and p.get(1)])


def forgetting(run):
    reviews = run.others.read("anki_revlog")
    trace = run.replay("forgetting", sets.review_events(reviews), "--trace", "memory_behavior")
    predicted = {}
    for line in trace:
        card, n = line["id"].split(":")
        predicted[card, int(n)] = line["p_recall"]
    return scorers.forgetting(reviews, predicted)


def timing(run, name, messages):
    laws = {}
    for line in run.replay(name, sets.sender_events(name, messages), "--trace", "proactive_engagement"):
        if line.get("gap_cdf"):
            sender, n = line["id"].rsplit("/", 1)
            laws[sender, int(n)] = line["gap_cdf"]
    return scorers.timing(scorers.gaps(messages), laws)


TREND_EXACT = 31   # what a month of daily means has: the kernel must be the exact test
TREND_POINTS = 64  # a longer series is reduced to the means of so many equal stretches, as hours are to days


def is_exact(gold, estimate):
    """Equal to the exact test as far as its digits go: z has 6 decimals, the variance 4, the slope 8 digits."""
    score, variance, z, slope = estimate
    return (score == gold["mk"]["s"] and abs(variance - gold["mk"]["var_s"]) < 1e-4 and abs(z - gold["mk"]["z"]) < 1e-6
            and abs(slope - gold["slope"]) <= 1e-7 * abs(gold["slope"]))


def trend(run):
    driver = os.path.join(os.path.dirname(run.binary), "bench", "trend")
    if not os.path.exists(driver):
        raise Unavailable(f"{driver} is not built")
    series = sets.shipped("trend")
    text = "".join(" ".join(map(repr, s["x"])) + "\n" for s in series)
    done = subprocess.run([driver, str(TREND_POINTS)], input=text, capture_output=True, text=True, check=True)
    estimates = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    verdicts = [(slope, math.erfc(abs(z) / math.sqrt(2))) for _, _, z, slope in estimates]
    short = [is_exact(s, e) for s, e in zip(series, estimates, strict=True) if len(s["x"]) <= TREND_EXACT]
    long = scorers.trend(*zip(*((s, v) for s, v in zip(series, verdicts) if len(s["x"]) > TREND_POINTS)))
    return {"exact": sum(short) / len(short), **scorers.trend(series, verdicts), **{"long_" + k: v for k, v in long.items()}}


# name: (what computes the figures, sets that are not shipped, gates). A gate on a figure that is not there is not asked for.
SEGMENTATION_GATES = {"tiage": (">=", 0.42), "dialseg711": (">=", 0.70), "committee_pred_per_gold": ("<=", 4.0)}
TASKS = {
    "segmentation": (lambda run: segmentation(run, False), (), {**SEGMENTATION_GATES, "mean": (">=", 0.56)}),
    "segmentation-emb": (lambda run: segmentation(run, True), (), {**SEGMENTATION_GATES, "mean": (">=", 0.60)}),
    "anomaly": (anomaly, (), {"standard": (">=", 50.0), "low_fp": (">=", 33.0)}),
    "fingerprint": (fingerprint, (), {"mrr": (">=", 0.70)}),
    "trend": (trend, (), {"exact": (">=", 1.0), "accuracy": (">=", 0.91), "sign": (">=", 0.95)}),
    "forgetting": (forgetting, ("anki_revlog",), {"logloss": ("<=", 0.345), "rmse_bins": ("<=", 0.047), "auc": (">=", 0.715)}),
    "timing-irc": (lambda run: timing(run, "irc", sets.shipped("irc_times")), (), {}),
    "timing": (lambda run: timing(run, "college", run.others.read("collegemsg")), ("collegemsg",), {"ll": (">=", -2.42), "brier_1h": ("<=", 0.205), "brier_24h": ("<=", 0.108), "pit_ks": ("<=", 0.05)}),
}


def met(value, gate, margin):
    sense, bound = gate
    slack = abs(bound) * margin
    return value >= bound - slack if sense == ">=" else value <= bound + slack


def judge(run, name):
    """One report: figures with their gates, or why there are none."""
    compute, needs, gates = TASKS[name]
    if not run.others.has(*needs):
        return {"task": name, "verdict": "left out", "why": f"needs the data of {', '.join(needs)}, which is not shipped"}
    if run.quick and not gates:
        return {"task": name, "verdict": "left out", "why": "it has no gate"}
    began = time.monotonic()
    try:
        figures = compute(run)
    except Unavailable as e:
        return {"task": name, "verdict": "left out" if run.quick else "could not be run", "why": str(e)}
    margin = MARGIN if run.quick else 0.0
    missed = [f for f, gate in gates.items() if f in figures and not met(figures[f], gate, margin)]
    verdict = "fell short" if missed else "met" if gates else "measured"
    return {"task": name, "verdict": verdict, "missed": missed, "seconds": round(time.monotonic() - began, 1),
            "figures": {f: round(v, 4) for f, v in figures.items()}, "gates": {f: " ".join(map(str, g)) for f, g in gates.items() if f in figures}}


def show(report):
    print(f"{report['task']}: {report['verdict']}" + (f" ({report['why']})" if "why" in report else f" ({report['seconds']} s)"))
    for figure, value in report.get("figures", {}).items():
        gate = report["gates"].get(figure)
        verdict = "" if not gate else "fell short" if figure in report["missed"] else "met"
        print(f"  {figure:<26}{value:>10.4f}  {gate or '':<10}  {verdict}".rstrip())
    sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", default=os.path.join(ROOT, "build", "warmpath"))
    p.add_argument("--quick", action="store_true")
    p.add_argument("--only", default=",".join(TASKS))
    p.add_argument("--others", default=os.path.join(ROOT, "..", "shared", "quality"))
    p.add_argument("--keep")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    names = a.only.split(",")
    for name in names:
        if name not in TASKS:
            p.error(f'there is no task "{name}"')
    if a.keep:
        os.makedirs(a.keep, exist_ok=True)
    reports = []
    with tempfile.TemporaryDirectory(prefix="warmpath-quality-") as temporary:
        run = Run(os.path.abspath(a.bin), a.others, a.keep or temporary, a.quick)
        for name in names:
            reports.append(judge(run, name))
            if not a.json:
                show(reports[-1])
    if a.json:
        print(json.dumps(reports, indent=1))
    verdicts = {r["verdict"] for r in reports}
    return 2 if "could not be run" in verdicts else 1 if "fell short" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
