#!/usr/bin/env python3
"""Golden numbers of FSRS-6, computed apart from engines/fsrs.c.

Written from the published equations (FSRS-6, default parameters), with 40 decimal digits
(decimal module), so that it shares neither code nor rounding with the C. Prints the rows of
`golden[]` in test_fsrs.c and the values that the worked examples in test_memory_aging.c cite.

A history is (importance or None, grade of the creation, [(days since the previous review, grade)]).
"""
from decimal import Decimal as N, getcontext

getcontext().prec = 40
W = [N(x) for x in (
    ".212 1.2931 2.3065 8.2956 6.4133 .8334 3.0194 .001 1.8722 .1666 .796 "
    "1.4835 .0614 .2629 1.6483 .6014 1.8729 .5425 .0912 .0658 .1542").split()]
F = N("0.9") ** (-1 / W[20]) - 1


def between(low, x, high):
    return max(N(low), min(N(high), x))


def difficulty0(g):
    return between(1, W[4] - (W[5] * (g - 1)).exp() + 1, 10)


def retention(days, s):
    return (1 + F * days / s) ** -W[20]


def review(d, s, days, g):
    if days < N("0.5"):
        step = (W[17] * (g - 3 + W[18])).exp() * s ** -W[19]
        new = s * (max(step, N(1)) if g >= 3 else step)
    elif g == 1:
        new = min(W[11] * d ** -W[12] * ((s + 1) ** W[13] - 1) * (W[14] * (1 - retention(days, s))).exp(),
                  s / (W[17] * W[18]).exp())
    else:
        bonus = {2: W[15], 3: N(1), 4: W[16]}[g]
        gain = W[8].exp() * (11 - d) * s ** -W[9] * ((W[10] * (1 - retention(days, s))).exp() - 1) * bonus
        new = s * (1 + gain)
    toward = d - W[6] * (g - 3) * (10 - d) / 9
    return (between(1, W[7] * difficulty0(4) + (1 - W[7]) * toward, 10), between("0.001", new, 36500))


def fold(importance, grade, reviews):
    scale = N(1) if importance is None else N("0.5") + N(importance)
    d, s = difficulty0(grade), between("0.001", W[grade - 1] * scale, 36500)
    for days, g in reviews:
        d, s = review(d, s, N(days), g)
    return d, s


def days_until(s, target):
    return s / F * (N(target) ** (-1 / W[20]) - 1)


HISTORIES = [
    (None, 3, []),
    (None, 1, []),
    ("0", 2, []),
    ("1", 4, []),
    (None, 3, [("2", 3)]),
    (None, 3, [("0.25", 3)]),
    (None, 3, [("0.001", 1), ("0.001", 2), ("0.4999", 4)]),
    (None, 3, [("0.5", 2), ("10", 1), ("1", 3), ("30", 4)]),
    ("0.8", 1, [("1", 1)] * 12),
    ("0.8", 4, [("100", 4)] * 12),
    ("0.3", 2, [("0", 1)] * 40),
]

if __name__ == "__main__":
    print("importance grade reviews -> difficulty stability R(1 h) R(1 d) R(30 d) R(50 y) days until 0.5")
    for importance, grade, reviews in HISTORIES:
        d, s = fold(importance, grade, reviews)
        values = [d, s] + [retention(N(x), s) for x in (1 / N(24), 1, 30, 18262)] + [days_until(s, "0.5")]
        print(importance, grade, reviews[:4], len(reviews), "->", ", ".join(f"{v:.15g}" for v in values))

    print("\nworked examples of memory health (importance unknown, grade 3):")
    d, s = fold(None, 3, [])
    print(f"M1 created 10 d ago, no access: S={s:.9g} R={retention(N(10), s):.9g}"
          f" review_in_h={24 * (days_until(s, '0.5') - 10):.9g}")
    d, s = fold(None, 3, [("2", 3)])
    print(f"M2 created 4 d ago, access 2 d ago: S={s:.9g} R={retention(N(2), s):.9g}")
    d, s = fold(None, 3, [])
    print(f"M3 created 1 d ago, no access: S={s:.9g} R={retention(N(1), s):.9g}")
    a, b = N(30), N(12)
    print(f"trend a=30 b=12, equal exposure: z={(a - (a + b) / 2) / ((a + b) / 4).sqrt():.9g}")
    a, b, ea, eb = N(30), N(12), N(40), N(10)
    p = ea / (ea + eb)
    print(f"trend a=30 b=12, exposure 40:10: z={(a - (a + b) * p) / ((a + b) * p * (1 - p)).sqrt():.9g}")
