"""How predictions are scored. Each function takes the gold data and predictions and returns a dict of figures; nothing is printed or rounded.

Segmentation: Pk (Beeferman and others 1999) and WindowDiff (Pevzner and Hearst 2002) with half the mean gold segment as window, exact boundary
F1; anomalies: the rules of the Numenta Anomaly Benchmark (Lavin and Ahmad 2015); forgetting: log loss, binned RMSE and AUC as the spaced
repetition benchmark has them; timing: log density of the logarithm of the gap, Brier scores, Kolmogorov's distance of the PIT.
"""
import bisect
import itertools
import math


# ---------------------------------------------------------------- segmentation
def boundary_errors(gold, pred):
    """(Pk, WindowDiff) of one dialogue; both lists say 1 where an utterance opens a segment."""
    n = len(gold)
    k = max(2, round(n / (sum(gold) + 1) / 2))
    if n < k:
        return 0.0, 0.0
    # before[i] = boundaries that lie in front of utterance i; a window of k utterances and the one after it.
    before = [list(itertools.accumulate(s[1:], initial=0)) for s in (gold, pred)]
    pk = wd = 0
    for i in range(n - k + 1):
        a, b = (c[min(i + k, n - 1)] - c[i] for c in before)
        pk += bool(a) != bool(b)
        wd += a != b
    return pk / (n - k + 1), wd / (n - k + 1)


def segmentation(dialogues):
    """dialogues: (gold, pred) lists of 0 and 1. Means over dialogues."""
    pk = wd = f1 = n_gold = n_pred = 0
    for gold, pred in dialogues:
        pred = [0] + list(pred[1:])
        errors = boundary_errors(gold, pred)
        pk, wd = pk + errors[0], wd + errors[1]
        both, total = sum(g and p for g, p in zip(gold, pred)), sum(gold) + sum(pred)
        f1 += 2 * both / total if total else 1.0
        n_gold, n_pred = n_gold + sum(gold), n_pred + sum(pred)
    n = len(dialogues)
    pk, wd, f1 = pk / n, wd / n, f1 / n
    return {"score": 0.5 * f1 + 0.25 * (1 - pk) + 0.25 * (1 - wd), "f1": f1, "pk": pk, "wd": wd, "pred_per_gold": n_pred / n_gold}


# ---------------------------------------------------------------- anomalies
PROFILES = {"standard": (0.11, 1.0), "low_fp": (0.22, 1.0), "low_fn": (0.11, 2.0)}  # cost of a false alarm, of a missed window


def _sigmoid(x):
    return -1.0 if x > 3 else 2 / (1 + math.exp(5 * x)) - 1


def anomaly(series):
    """series: (rows, windows, rows with an alarm). 100 is perfect, 0 is silence; see the benchmark's paper for the profiles."""
    rewards, n_windows, false, hits, rows_judged = [], 0, [], 0, 0
    for n, windows, alarms in series:
        probation = min(int(0.15 * n), 750)
        windows = sorted(windows)
        alarms = sorted(a for a in set(alarms) if probation <= a < n)
        rows_judged += n - probation
        for first, last in windows:
            if last < probation:
                continue
            n_windows += 1
            inside = [a for a in alarms if first <= a <= last]
            if inside:  # the earliest is worth most
                hits += 1
                rewards.append(_sigmoid(-(last - inside[0] + 1) / (last - first + 1)) / _sigmoid(-1))
        for a in alarms:
            if any(first <= a <= last for first, last in windows):
                continue
            past = [w for w in windows if w[1] < a]
            first, last = past[-1] if past else (0, 0)
            false.append(_sigmoid((a - last) / (last - first)) if last > first else -1.0)
    figures = {}
    for name, (fp, fn) in PROFILES.items():
        raw = sum(rewards) + fp * sum(false) - fn * (n_windows - hits)
        figures[name] = 100 * (raw + fn * n_windows) / ((1 + fn) * n_windows)
    return {**figures, "windows_found": hits / n_windows, "false_per_1000": 1000 * len(false) / rows_judged}


# ---------------------------------------------------------------- forgetting
def _step(x, scale, base):
    return 0 if x <= 0 else round(scale * base ** math.floor(math.log(x) / math.log(base)), 2)


def recall_bins(reviews):
    """((card, n), recalled, bin) of every judged review of a log in time order: those at least half a day after the one before."""
    seen, lapses = {}, {}
    for r in reviews:
        card, elapsed = r["card"], r["elapsed_days"]
        judged = elapsed is not None and elapsed >= 0.5
        if judged:
            yield (card, r["n"]), int(r["recall"]), (_step(max(1, round(elapsed)), 2.48, 3.62), _step(max(1, seen.get(card, 0)), 1.99, 1.89),
                                                     _step(lapses.get(card, 0), 1.65, 1.73))
        if judged or elapsed is None:
            seen[card] = seen.get(card, 0) + 1
            lapses[card] = lapses.get(card, 0) + (r["rating"] == 1)


def auc(pairs):
    """Chance that a positive is ranked above a negative; pairs of (p, 0 or 1), ties count half."""
    rank_sum, rank, positives = 0.0, 0, 0
    for _, group in itertools.groupby(sorted(pairs), key=lambda pair: pair[0]):
        hits = [y for _, y in group]
        rank_sum += sum(hits) * (rank + (len(hits) + 1) / 2)
        rank += len(hits)
        positives += sum(hits)
    negatives = rank - positives
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def forgetting(reviews, predicted):
    """predicted: (card, n) -> probability of recall; 0.5 where it is missing."""
    loss, pairs, bins = 0.0, [], {}
    for key, recalled, which in recall_bins(reviews):
        p = min(1 - 1e-4, max(1e-4, predicted.get(key, 0.5)))
        loss -= math.log(p if recalled else 1 - p)
        pairs.append((p, recalled))
        b = bins.setdefault(which, [0, 0.0])
        b[0], b[1] = b[0] + 1, b[1] + p - recalled
    n = len(pairs)
    return {"logloss": loss / n, "rmse_bins": math.sqrt(sum(off * off / size for size, off in bins.values()) / n), "auc": auc(pairs)}


# ---------------------------------------------------------------- timing
class GapLaw:
    """The predictive law of a gap: log-uniform between the points (seconds, cdf), with tails of 10^-4 from 0.5 s to 400 days."""
    LOW, HIGH, TAIL = math.log(0.5), math.log(400 * 86400), 1e-4

    def __init__(self, points):
        self.x, self.c = [self.LOW], [0.0]
        for seconds, cdf in points:
            x = math.log(max(0.5, seconds))
            if self.x[-1] + 1e-9 < x < self.HIGH:
                self.x.append(x)
                self.c.append(max(self.TAIL + (1 - 2 * self.TAIL) * min(1, max(0, cdf)), self.c[-1] + 1e-9))
        self.x.append(self.HIGH)
        self.c.append(1.0)

    def _piece(self, x):
        return max(1, bisect.bisect_left(self.x, x))

    def cdf(self, seconds):
        x = math.log(seconds)
        i = self._piece(x)
        if i == len(self.x):
            return 1.0
        return self.c[i - 1] + (self.c[i] - self.c[i - 1]) * max(0.0, x - self.x[i - 1]) / (self.x[i] - self.x[i - 1])

    def log_density(self, seconds):
        i = self._piece(math.log(seconds))
        if i == len(self.x):
            return math.log(1e-12)
        return math.log(max(1e-12, self.c[i] - self.c[i - 1])) - math.log(self.x[i] - self.x[i - 1])


class NoLaw:
    """What a missing prediction counts as: lognormal(8, 4)."""
    def cdf(self, seconds):
        return 0.5 * math.erfc(-(math.log(seconds) - 8) / (4 * math.sqrt(2)))

    def log_density(self, seconds):
        return -0.5 * ((math.log(seconds) - 8) / 4) ** 2 - math.log(4) - 0.5 * math.log(2 * math.pi)


def gaps(messages):
    """((sender, number of the message), seconds to his next one) of messages in time order; at least 1 s, the last one has none."""
    last = {}
    for m in messages:
        who = m["from"]
        if who in last:
            number, t = last[who]
            yield (who, number), max(1.0, float(m["t"] - t))
        last[who] = (last[who][0] + 1 if who in last else 0, m["t"])


def timing(targets, laws):
    """targets: ((sender, number), gap in seconds); laws: (sender, number) -> list of (seconds, cdf)."""
    ll = hour = day = 0.0
    pit = []
    for key, gap in targets:
        law = GapLaw(laws[key]) if key in laws else NoLaw()
        ll += law.log_density(gap)
        hour += (law.cdf(3600) - (gap <= 3600)) ** 2
        day += (law.cdf(86400) - (gap <= 86400)) ** 2
        pit.append(law.cdf(gap))
    n = len(pit)
    pit.sort()
    ks = max(max((i + 1) / n - p, p - i / n) for i, p in enumerate(pit))
    return {"ll": ll / n, "brier_1h": hour / n, "brier_24h": day / n, "pit_ks": ks}


# ---------------------------------------------------------------- fingerprint
def fingerprint(people):
    """people: (vector of the first half, vector of the second half). The second half looks for its first half among all people's; each
    dimension is standardised over the first halves; the better of cosine and Euclid counts."""
    n = len(people)
    columns = list(zip(*(first for first, _ in people)))
    means = [sum(c) / n for c in columns]
    spreads = [math.sqrt(sum((x - m) ** 2 for x in c) / n) for c, m in zip(columns, means)]
    used = [(j, m, s) for j, (m, s) in enumerate(zip(means, spreads)) if s > 1e-12]
    halves = [[[(v[j] - m) / s for j, m, s in used] for v in (person[h] for person in people)] for h in (0, 1)]
    norms = [[math.sqrt(sum(x * x for x in v)) + 1e-12 for v in side] for side in halves]
    best = None
    for euclid in (False, True):
        ranks = []
        for i, v in enumerate(halves[1]):
            if euclid:
                far = [math.fsum((x - y) ** 2 for x, y in zip(v, w)) for w in halves[0]]
            else:
                far = [-math.fsum(x * y for x, y in zip(v, w)) / norms[1][i] / norms[0][j] for j, w in enumerate(halves[0])]
            ranks.append(1 + sum(d < far[i] for d in far))
        r = {"mrr": sum(1 / k for k in ranks) / n, "acc1": sum(k == 1 for k in ranks) / n, "acc5": sum(k <= 5 for k in ranks) / n}
        if not best or r["mrr"] > best["mrr"]:
            best = r
    return best


# ---------------------------------------------------------------- trend
def _median(values):
    s = sorted(values)
    return (s[(len(s) - 1) // 2] + s[len(s) // 2]) / 2


def trend(series, estimates):
    """series: dicts with x, label, mk.p, slope (the exact test on all points); estimates: (slope a point, two-sided p) of each."""
    right, agree, trends, p_errors, slope_errors = 0, 0, 0, [], []
    for gold, (slope, p) in zip(series, estimates):
        label = "none" if p >= 0.05 else "up" if slope > 0 else "down"
        right += label == gold["label"]
        if gold["label"] != "none":
            trends += 1
            agree += (slope > 0) == (gold["slope"] > 0)
        p_errors.append(abs(math.log10(max(1e-12, p)) - math.log10(max(1e-12, gold["mk"]["p"]))))
        middle = _median(gold["x"])
        mad = _median([abs(x - middle) for x in gold["x"]]) or 1.0
        slope_errors.append(abs(slope - gold["slope"]) / (mad / len(gold["x"])))
    return {"accuracy": right / len(series), "sign": agree / trends if trends else 1.0, "log10_p_error": _median(p_errors),
            "slope_error": _median(slope_errors)}
