#!/usr/bin/env python3
"""Writes engines/gap_prior.c: how long people take to write again, before a bot has seen any.

usage: gap_prior.py MESSAGES.jsonl > engines/gap_prior.c
       gap_prior.py --check MESSAGES.jsonl       cross-validate by sender and print the figures

MESSAGES: one line a message in order of time, {"t": unix seconds, "from": sender}. The shipped table was
made from the dev half of CollegeMsg (SNAP; Panzarasa, Opsahl and Carley 2009). Only the table leaves
the data: shares of 40 lengths in 30 contexts, summed over all senders.

The law is that of engines/gap_law.h, in floating point; --check fits the table on half of the senders and
scores the gaps of the others: mean log density of ln(gap), Brier scores at 1 h and 24 h, and the
Kolmogorov distance of the probability integral transform from uniform. Epochs are left out.
"""
import json, math, sys, zlib

BINS, SHORTEST_S, LONGEST_S = 40, 2.0, 150 * 86400.0
CLASSES_S = (120, 1200, 86400)      # of the previous gap; then "longer", then "none"
CONTEXTS = (len(CLASSES_S) + 2) * 6
WINDOW_S = 30 * 86400               # a message older than this is no longer in the log
SHRINK = 100.0                      # gaps: a row is drawn towards its class, a class towards all
DECAY, OWN = 62915 / 65536, 40.0    # the engine's: weight of an older gap, size of the prior
POINTS = 24

EDGES = [SHORTEST_S * (LONGEST_S / SHORTEST_S) ** (i / BINS) for i in range(BINS + 1)]


def read(path):
    gaps = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            gaps.setdefault(r["from"], []).append(r["t"])
    return gaps


def length(gap):
    b = 0
    while b < BINS - 1 and gap > EDGES[b + 1]:
        b += 1
    return b


def context(t, previous):
    c = len(CLASSES_S) + 1
    if previous is not None:
        c = sum(previous >= edge for edge in CLASSES_S)
    return c * 6 + int(t // 14400) % 6


def previous_gap(times, k):
    gap = times[k] - times[k - 1] if k else WINDOW_S
    return gap if gap < WINDOW_S else None


def mixed(counts, towards):
    n = sum(counts)
    return [(c + SHRINK * p) / (n + SHRINK) for c, p in zip(counts, towards)]


def fit(senders):
    rows = [[0] * BINS for _ in range(CONTEXTS)]
    for times in senders:
        for k in range(len(times) - 1):
            rows[context(times[k], previous_gap(times, k))][length(max(1, times[k + 1] - times[k]))] += 1
    total = [sum(r[b] for r in rows) for b in range(BINS)]
    base = [(c + 0.5) / (sum(total) + 0.5 * BINS) for c in total]
    table = []
    for first in range(0, CONTEXTS, 6):
        kind = mixed([sum(r[b] for r in rows[first:first + 6]) for b in range(BINS)], base)
        table += [mixed(r, kind) for r in rows[first:first + 6]]
    return table


def chosen_points(law):
    """The law on 24 of its 39 inner edges: neighbours that differ least in density become one."""
    widths = [math.log(EDGES[b + 1] / EDGES[b]) for b in range(BINS)]
    widths[0] = math.log(EDGES[1] / 0.5)
    widths[-1] = math.log(400 * 86400 / EDGES[-2])
    parts = [(b + 1, law[b], widths[b]) for b in range(BINS)]
    score = lambda p, w: p * math.log(p / w)
    while len(parts) > POINTS + 1:
        loss = [score(a[1], a[2]) + score(b[1], b[2]) - score(a[1] + b[1], a[2] + b[2]) for a, b in zip(parts, parts[1:])]
        i = loss.index(min(loss))
        a, b = parts[i], parts[i + 1]
        parts[i:i + 2] = [(b[0], a[1] + b[1], a[2] + b[2])]
    sums, out = 0.0, []
    for end, p, _ in parts[:-1]:
        sums += p
        out.append((math.log(EDGES[end]), 1e-4 + (1 - 2e-4) * sums))
    return [(math.log(0.5), 0.0)] + out + [(math.log(400 * 86400), 1.0)]


def locate(points, gap):
    x = math.log(gap)
    for (a, p), (b, q) in zip(points, points[1:]):
        if x <= b:
            return math.log(max(1e-12, q - p) / (b - a)), p + (q - p) * (x - a) / (b - a)
    raise ValueError("a gap of more than 400 days")


def check(gaps):
    fold = {u: zlib.crc32(str(u).encode()) % 2 for u in gaps}
    tables = [fit([t for u, t in gaps.items() if fold[u] != f]) for f in (0, 1)]
    n, ll, brier, pit = 0, 0.0, [0.0, 0.0], []
    for u, times in gaps.items():
        own = [0.0] * BINS
        for k in range(len(times) - 1):
            gap = previous_gap(times, k)
            if gap is not None:
                own = [x * DECAY for x in own]
                b = length(max(1, gap))
                for at, w in ((b, 0.5), (max(0, b - 1), 0.25), (min(BINS - 1, b + 1), 0.25)):
                    own[at] += w
            prior = tables[fold[u]][context(times[k], gap)]
            total = sum(own) + OWN
            points = chosen_points([(h + OWN * p) / total for h, p in zip(own, prior)])
            actual = max(1.0, float(times[k + 1] - times[k]))
            density, at = locate(points, actual)
            n, ll = n + 1, ll + density
            pit.append(at)
            for i, hour in enumerate((3600.0, 86400.0)):
                brier[i] += (locate(points, hour)[1] - (actual <= hour)) ** 2
    pit.sort()
    ks = max(max((i + 1) / n - p, p - i / n) for i, p in enumerate(pit))
    print(f"n {n}  ll {ll / n:.4f}  brier_1h {brier[0] / n:.4f}  brier_24h {brier[1] / n:.4f}  pit_ks {ks:.4f}")


def integers(row):
    """Shares of 65536, none of them 0."""
    shares = [max(1, round(p * 65536)) for p in row]
    shares[shares.index(max(shares))] += 65536 - sum(shares)
    return shares


def wrapped(numbers, indent):
    lines, line = [], indent
    for x in numbers:
        item = f"{x},"
        if len(line) + 1 + len(item) > 100:
            lines.append(line)
            line = indent
        line += (" " if line.strip() else "") + item
    return "\n".join(lines + [line])


def write(gaps):
    table = fit(gaps.values())
    n = sum(len(t) - 1 for t in gaps.values())
    print(f"""/*
 * Generated by bench/train/gap_prior.py: do not edit. Shares of 65536 of each length of gap, by
 * context (engines/gap_law.h), from {n} gaps of {len(gaps)} senders of CollegeMsg (SNAP).
 */
#include "engines/gap_law.h"

/* clang-format off */
const int64_t gap_edges_us[EPOCH_GAP_BINS + 1] = {{
{wrapped([round(e * 1e6) for e in EDGES], "    ")}
}};

const uint16_t gap_prior[GAP_CONTEXTS][EPOCH_GAP_BINS] = {{""")
    for row in table:
        print("    {\n" + wrapped(integers(row), "        ") + "\n    },")
    print("};\n/* clang-format on */")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        check(read(sys.argv[2]))
    elif len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
        write(read(sys.argv[1]))
    else:
        sys.exit(__doc__)
