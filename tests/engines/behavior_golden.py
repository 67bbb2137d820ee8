#!/usr/bin/env python3
"""Golden rows of memory behavior, computed apart from the C: gaps counted by hand rules, least
squares with 40 decimal digits, FSRS-6 by fsrs_golden.py. Prints what test_memory_behavior.c and
test_kernels.c cite.

A memory is (name, created, [(accessed, grade)]), in hours before T.
"""
import datetime
import json

from fsrs_golden import N, days_until, difficulty0, retention, review, W

EDGES = [0, 1, 6, 24, 48, 96, 192, 384, 768]
T = 1767225600  # 2026-01-01, seconds


def lags():
    """Geometric middles; 1/4 h for the first bin, and a last one that ends at twice its start."""
    return [N("0.25")] + [(N(a) * N(b)).sqrt() for a, b in zip(EDGES[1:], EDGES[2:] + [2 * EDGES[-1]])]


def count(memories):
    events, exposure = [0] * 9, [N(0)] * 9
    after = {True: [0, N(0)], False: [0, N(0)]}
    for _, created, accesses in memories:
        points = [created] + [t for t, _ in accesses]
        for i, start in enumerate(points):
            closed = i + 1 < len(points)
            gap = N(start) - (N(points[i + 1]) if closed else 0)
            for k in range(9):
                top = EDGES[k + 1] if k < 8 else N("1e12")
                exposure[k] += max(N(0), min(gap, N(top)) - EDGES[k])
                events[k] += closed and EDGES[k] <= gap < top
            if i > 0:
                kind = after[N(points[i - 1]) - N(points[i]) >= 6]
                kind[0] += closed
                kind[1] += gap
    return events, exposure, after


def power_fit(t, e, x):
    use = [i for i in range(len(t)) if e[i] > 0 and x[i] > 0]
    w = [N(e[i]) for i in use]
    u = [N(t[i]).ln() for i in use]
    y = [(N(e[i]) / N(x[i])).ln() for i in use]
    mu = sum(a * b for a, b in zip(w, u)) / sum(w)
    my = sum(a * b for a, b in zip(w, y)) / sum(w)
    uu = sum(a * (b - mu) ** 2 for a, b in zip(w, u))
    uy = sum(a * (b - mu) * (c - my) for a, b, c in zip(w, u, y))
    yy = sum(a * (c - my) ** 2 for a, c in zip(w, y))
    d = -uy / uu
    left = sum(a * (c - my + d * (b - mu)) ** 2 for a, b, c in zip(w, u, y))
    return (my + d * mu).exp(), d, 1 - left / yy


def score(t, e, x):
    expected = [N(b) / N(a).sqrt() for a, b in zip(t, x)]
    return 1 - sum(abs(N(a) / sum(e) - b / sum(expected)) for a, b in zip(e, expected)) / 2


def survival(edges, e, x, a, t):
    """S(t) over bins with upper edges; a: hours of smoothing."""
    pooled = N(sum(e)) / N(sum(x))
    total, low = N(0), 0
    for k in range(len(e)):
        high = min(t, edges[k]) if k < len(edges) else t
        if high > low:
            total += (e[k] + a * pooled) / (N(x[k]) + a) * (high - low)
            low = high
    return (-total).exp()


def fold(created, accesses):
    d, s, last = difficulty0(3), W[2], N(created)
    spaced = 0
    for t, grade in accesses:
        spaced += last - N(t) >= 6
        d, s = review(d, s, (last - N(t)) / 24, grade)
        last = N(t)
    return s, last, spaced


def num(x):
    s = "%.6g" % float(x)
    return json.loads(s) if "e" not in s else float(s)


def item(name, created, accesses, low):
    s, last, spaced = fold(created, accesses)
    r = retention(last / 24, s)
    when = datetime.datetime.fromtimestamp(T - int(last * 3600), datetime.timezone.utc)
    out = {"R": num(r), "last_access": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "memory_id": name,
           "n_spaced": spaced, "stability_days": num(min(s, N(365)))}
    if low:
        out["overdue_h"] = num(last - 24 * days_until(s, "0.5"))
    return out


def show(title, memories):
    e, x, after = count(memories)
    print(f"\n{title}")
    bins = [{"E": a, "X_h": num(b), "lag_h": num(c), "rate": num(a / b) if b > 0 else None}
            for a, b, c in zip(e, x, lags())]
    out = {"a_per_h": None, "accesses": sum(e), "bins": bins, "d": 0.5, "half_rate_h": None,
           "model": "power_need", "r2": None, "spacing_effect": None,
           "stability_model": {"S0_days": 2.3065, "d": 0.1542, "model": "fsrs-6"}, "status": "prior"}
    if sum(e) >= 20:
        a, d, r2 = power_fit(lags(), e, x)
        (e1, x1), (e0, x0) = after[True], after[False]
        ratio = (e1 / x1) / (e0 / x0)
        spread = (N("1.96") * (1 / N(e1) + 1 / N(e0)).sqrt()).exp()
        out.update(a_per_h=num(a), d=num(d), r2=num(r2), status="fitted", half_rate_h=num(N(2) ** (1 / d)),
                   spacing_effect={"ci95": [num(ratio / spread), num(ratio * spread)], "ratio": num(ratio)})
        print(f"score {score(lags(), e, x):.12g}  reuse_24h {1 - survival(EDGES[1:], e, x, 24, 24):.12g}")
    print(json.dumps(out, separators=(",", ":"), sort_keys=True))
    folded = [(retention(fold(c, a)[1] / 24, fold(c, a)[0]), n, c, a) for n, c, a in memories]
    high = sorted((-r, n, c, a) for r, n, c, a in folded if fold(c, a)[2] >= 2 and r >= N("0.5"))
    low = sorted((r, n, c, a) for r, n, c, a in folded if a and r < N("0.5"))
    print(json.dumps([item(n, c, a, False) for _, n, c, a in high], separators=(",", ":"), sort_keys=True))
    print(json.dumps([item(n, c, a, True) for _, n, c, a in low], separators=(",", ":"), sort_keys=True))


if __name__ == "__main__":
    t, e, x = (1, 4, 16, 64), (40, 24, 12, 8), (100, 150, 150, 200)
    print("fit %.9f %.9f r2 %.9f" % power_fit(t, e, x), "score %.9f" % score(t, e, x))
    e, x = (1, 1, 1), (20, 28, 6)
    print("S(24) unsmoothed %.9f smoothed %.9f"
          % (survival((6, 24), e, x, 0, 24), survival((6, 24), e, x, 24, 24)))
    show("three memories", [
        ("known", 960, [(480, 3), (240, 3), (48, 4)]),
        ("lost", 720, [(696, 1), (672, 1), (648, 1), (624, 1)]),
        ("new", 72, []),
    ])
    steps = ["0.5"] * 12 + ["3"] * 6 + ["12"] * 4 + ["36"] * 2
    at, accesses = N(200), []
    for gap in steps:
        at -= N(gap)
        accesses.append((at, 3))
    show("one memory, 24 accesses", [("often", 200, accesses)])
