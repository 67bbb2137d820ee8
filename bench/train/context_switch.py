#!/usr/bin/env python3
"""Fits the weights of topic segmentation (engines/switch_model.h) and writes engines/switch_weights.c.

usage: context_switch.py [--data DIR] [--out FILE] [--cv] [--check TRACE.jsonl [--embeddings]]

Reads the dev side of three sets of dialogues with marked topic boundaries (tiage, dialseg711, committee; each counts the
same, whatever its size) and the 64-dimensional embeddings of their utterances. The features are those of
engines/switch_model.h, computed here from the text in the same integer arithmetic; --check compares a trace of
`warmpath replay --trace context_switch` over the same dialogues with what is computed here: texts agree number by number
until the first epoch of a bot is closed, which weighs words.

Two rounds: the first one sees the marked segments, the second one those that the first one finds, since that is what the
engine will see. Ridge logistic regression; the tables of first and last tokens are shrunk harder than the rest, because they know
only the languages of the sets. Figures are of 4-fold cross-validation over dialogues. Needs numpy.
"""
import argparse, base64, json, math, os, random, sys
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
SETS = ("tiage", "dialseg711", "committee")
SESSION = 128
ONE = 256  # 1 in Q8
FEATURES = ["BIAS", "WORDS", "WORDS_CHANGE", "WORDS_UNUSUAL", "CHARS_CHANGE", "QUESTION", "EXCLAIM", "END_PUNCT",
            "QUESTION_BEFORE", "EXCLAIM_BEFORE", "END_PUNCT_BEFORE", "QUESTION_BEFORE_2", "QUESTIONS", "SHORT_NOW",
            "SHORT_BEFORE", "WORDS_BEFORE", "AT_1", "AT_2", "AT_3", "AT_4", "AT_6", "AT_9", "AT_MORE", "POSITION",
            "SESSION", "SESSION_1", "SESSION_2", "MEAN_WORDS", "QUESTION_RATE", "OVERLAP_1", "OVERLAP_2", "OVERLAP_4",
            "OVERLAP_SEGMENT", "OVERLAP_SESSION", "COSINE_1", "COSINE_4", "COSINE_SEGMENT", "COSINE_UNUSUAL",
            "INFORMATION", "OVERLAP_WORDS", "NEW_QUESTION", "NEW_WORDS", "OVERLAP_ANSWER", "GAP"]
EMBEDDING = ["NEAR_1", "NEAR_2", "NEAR_4", "NEAR_SEGMENT", "NEAR_SESSION", "NEAR_MOST", "NEAR_1_UNUSUAL",
             "NEAR_2_UNUSUAL", "NEAR_4_UNUSUAL", "NEAR_SEGMENT_UNUSUAL"]
# The sets have no times: what a pause means is set, not fitted (one doubling over the session's mean gap, in logits).
SET = {"GAP": 0.35}
EDGES, EDGE_TABLES = 256, 4
MASK = (1 << 64) - 1


# ---------------------------------------------------------------- text, as engines/text.c
def mix(x):
    x ^= x >> 33
    x = x * 0xff51afd7ed558ccd & MASK
    x ^= x >> 33
    x = x * 0xc4ceb9fe1a85ec53 & MASK
    return x ^ x >> 33


def hash64(data):
    h = 0xcbf29ce484222325
    for c in data:
        h = (h ^ c) * 0x100000001b3 & MASK
    return mix(h) or 1


def message(text, bot, embedding):
    tokens, word, first = [], "", None
    for ch in text:
        if ch.isalnum():
            word += ch
        elif word:
            tokens.append(word)
            word = ""
    if word:
        tokens.append(word)
    count, order = {}, []
    for t in tokens:
        h = hash64(t.lower().encode())
        if h not in count:
            order.append(h)
        count[h] = count.get(h, 0) + 1
    v = {}
    for h, c in count.items():
        w = 16 if c == 1 else int(math.floor(16 * (1 + math.log(c)) + 0.5))
        v[h & 255] = v.get(h & 255, 0) + (-w if h >> 63 else w)
    kept = sorted(((-abs(w), b) for b, w in v.items() if w))[:32]
    v = {b: max(-127, min(127, v[b])) for _, b in kept}
    edge = (order[0] >> 56, hash64(tokens[-1].lower().encode()) >> 56) if order else (0, 0)
    last = next((c for c in reversed(text) if not c.isspace()), " ")
    return {"words": min(len(tokens), 65535), "chars": min(len(text), 65535), "v": v, "norm2": sum(w * w for w in v.values()),
            "q": ONE * ("?" in text), "ex": ONE * ("!" in text), "end": ONE * (last in ".!?…"), "edge": edge,
            "bot": bot, "e": embedding}


def load(data, name):
    vec = {}
    for line in open(os.path.join(data, "seg_embeddings", name + "_dev.jsonl"), encoding="utf-8"):
        d = json.loads(line)
        vec[d["id"]] = [[b - 256 if b > 127 else b for b in base64.b64decode(x)] for x in d["emb"]]
    out = []
    for line in open(os.path.join(data, name, "dev.jsonl"), encoding="utf-8"):
        d = json.loads(line)
        ms = [message(t, name != "committee" and i % 2 == 1, vec[d["id"]][i]) for i, t in enumerate(d["turns"])]
        out.append((d["id"], ms, d["starts"]))
    return out


# ---------------------------------------------------------------- features, as engines/switch_model.h says
def log2q(x):
    m = x.bit_length() - 1
    return 256 * m + (x << 8 >> m) - 256


def div(a, b):
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def cosine(dot, n1, n2):
    root = math.isqrt(n1 * n2)
    return div(dot * ONE, root) if root else 0


def dot(c, v):
    return sum(w * c.get(b, 0) for b, w in v.items())


def add(c, v):
    for b, w in v.items():
        c[b] = c.get(b, 0) + w


class Vectors:
    """Sums of embeddings: of the session, of the segment, and the last four."""

    def __init__(self):
        self.last, self.session, self.n, self.sums = [], [0] * 64, 0, [0] * 4
        self.start()

    def start(self):
        self.segment, self.n_segment = [0] * 64, 0

    def merge(self, old):
        self.segment = [a + b for a, b in zip(self.segment, old[0])]
        self.n_segment += old[1]

    def features(self, e):
        n = sum(x * x for x in e)
        near = lambda t: cosine(sum(a * b for a, b in zip(e, t)), n, sum(x * x for x in t))
        some = lambda k: [sum(z) for z in zip(*self.last[:k])]
        one, two, four = near(self.last[0]), near(some(2)), near(some(4))
        segment = near(self.segment) if self.n_segment else four
        self.now = [one, two, four, segment]
        unusual = [x - div(s, self.n) if self.n else 0 for x, s in zip(self.now, self.sums)]
        return [one, two, four, segment, near(self.session), max(near(x) for x in self.last)] + unusual

    def push(self, e):
        if self.last:
            self.sums = [a + b for a, b in zip(self.sums, self.now)]
            self.n += 1
        self.last = [e] + self.last[:3]
        self.session = [a + b for a, b in zip(self.session, e)]
        self.segment = [a + b for a, b in zip(self.segment, e)]
        self.n_segment += 1


class Session:
    def __init__(self, embeddings):
        self.n, self.words, self.questions, self.cosines, self.n_cosines = 0, 0, 0, 0, 0
        self.df, self.seen, self.last = [0] * 256, [-1] * 256, []
        self.vectors = Vectors() if embeddings else None
        self.start()

    def start(self):
        self.centroid, self.first = {}, self.n

    def idf(self, b):
        return log2q(self.n + 2) - log2q(self.df[b] + 1)

    def features(self, m):
        before, before2 = self.last[0], self.last[1] if len(self.last) > 1 else None
        lw, lw1, mean = log2q(1 + m["words"]), log2q(1 + before["words"]), self.words // self.n
        f = [ONE, lw, lw - lw1, lw - mean, log2q(1 + m["chars"]) - log2q(1 + before["chars"]), m["q"], m["ex"], m["end"],
             before["q"], before["ex"], before["end"], before2["q"] if before2 else 0, m["q"] & before["q"],
             ONE * (m["words"] <= 3), ONE * (before["words"] <= 3), lw1]
        pos = self.n - self.first
        f += [ONE * (lo <= pos <= hi) for lo, hi in ((1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 9), (10, SESSION))]
        f += [log2q(pos), log2q(self.n), ONE * (self.n == 1), ONE * (self.n == 2), mean, self.questions // self.n]
        idf = {b: self.idf(b) for b in m["v"]}
        total = sum(idf.values())
        share = lambda since: ONE * sum(w for b, w in idf.items() if self.seen[b] >= max(since, 0)) // total if total else 0
        overlap = [share(self.n - 1), share(self.n - 2), share(self.n - 4), share(self.first), share(0)]
        four = {}
        for x in self.last:
            add(four, x["v"])
        norm2 = lambda c: sum(w * w for w in c.values())
        c1 = cosine(dot(before["v"], m["v"]), m["norm2"], before["norm2"])
        self.now = cosine(dot(four, m["v"]), m["norm2"], norm2(four))
        segment = cosine(dot(self.centroid, m["v"]), m["norm2"], norm2(self.centroid))
        f += overlap + [c1, self.now, segment, self.now - div(self.cosines, self.n_cosines) if self.n_cosines else 0]
        new = ONE - overlap[4]
        f += [log2q(1 + (total >> 8)), overlap[0] * lw >> 8, m["q"] * new >> 8, lw * new >> 8, before["q"] * overlap[0] >> 8, 0]
        if self.vectors:
            f += self.vectors.features(m["e"])
        return f

    def push(self, m, opens):
        if self.n:
            self.cosines += self.now
            self.n_cosines += 1
        self.old = (self.centroid, self.first, (self.vectors.segment, self.vectors.n_segment) if self.vectors else None)
        if opens:
            self.start()
            if self.vectors:
                self.vectors.start()
        for b in m["v"]:
            self.df[b] += 1
            self.seen[b] = self.n
        add(self.centroid, m["v"])
        if self.vectors:
            self.vectors.push(m["e"])
        self.last = [m] + self.last[:3]
        self.n += 1
        self.words += log2q(1 + m["words"])
        self.questions += m["q"]

    def returns(self, m):
        """The candidate of one message was none: m is nearer to the segment before it."""
        if self.vectors:
            e, (old, n_old) = m["e"], self.old[2]
            n2 = sum(x * x for x in e)
            near = lambda t: cosine(sum(a * b for a, b in zip(e, t)), n2, sum(x * x for x in t))
            return near(old) >= RETURN_AT and near(old) > near(self.vectors.segment)
        near = lambda c: cosine(dot(c, m["v"]), m["norm2"], sum(w * w for w in c.values()))
        return near(self.old[0]) >= RETURN_TEXT and near(self.old[0]) > near(self.centroid)

    def take_back(self):
        centroid = dict(self.old[0])
        add(centroid, self.centroid)
        self.centroid, self.first = centroid, self.old[1]
        if self.vectors:
            self.vectors.merge(self.old[2])


THRESHOLDS = (18350, 21627)  # of engines/switch_model.c: without and with embeddings
RETURN_AT, RETURN_TEXT = 64, 128  # cosines 1/4 of embeddings, 1/2 of texts


def walk(ms, embeddings, decide, merge=True):
    """Rows (index, features, edges); decide(i, features, edges) -> opens. Also the final starts."""
    rows, starts, s, pending = [], [0] * len(ms), None, False
    for i, m in enumerate(ms):
        if i % SESSION == 0:
            s, pending = Session(embeddings), False
            s.push(m, False)
            continue
        if pending and merge and s.returns(m):
            s.take_back()
            starts[i - 1] = 0
        x, o = s.features(m), m["edge"] + s.last[0]["edge"]
        opens = bool(m["v"] or embeddings) and bool(decide(i, x, o))
        rows.append((i, x, o, opens))
        s.push(m, opens)
        starts[i] = int(opens)
        pending = opens
    return rows, starts


# ---------------------------------------------------------------- the model
def sigmoid_table():
    return [min(65535, round(65536 / (1 + math.exp(-(k - 128) / 16)))) for k in range(257)]


TABLE = sigmoid_table()


def squash(z):
    """Q16 logit -> Q16 probability."""
    z = max(-(8 << 16), min((8 << 16) - 1, z)) + (8 << 16)
    k, rest = z >> 12, z & 4095
    return TABLE[k] + ((TABLE[k + 1] - TABLE[k]) * rest >> 12)


class Model:
    def __init__(self, weights, edges):
        self.w, self.o = weights, edges  # Q16 a unit, Q8

    def p(self, x, o):
        z = sum(w * v for w, v in zip(self.w, x)) >> 8
        return squash(z + sum(self.o[k * EDGES + h] << 8 for k, h in enumerate(o)))


def lbfgs(f, x, iters=200, m=8):
    fx, g = f(x)
    S, Y = [], []
    for _ in range(iters):
        q, al = g.copy(), []
        for s, y in zip(reversed(S), reversed(Y)):
            al.append((s @ q) / (y @ s))
            q -= al[-1] * y
        q = q * (S[-1] @ Y[-1]) / (Y[-1] @ Y[-1]) if S else q / max(1, np.linalg.norm(q))
        for (s, y), a in zip(zip(S, Y), reversed(al)):
            q += s * (a - (y @ q) / (y @ s))
        t, slope = 1.0, g @ q
        while True:
            xn = x - t * q
            fn, gn = f(xn)
            if fn <= fx - 1e-4 * t * slope or t < 1e-6:
                break
            t /= 2
        s, y = xn - x, gn - g
        if s @ y > 1e-12:
            S, Y = (S + [s])[-m:], (Y + [y])[-m:]
        done, x, fx, g = abs(fx - fn) < 1e-3, xn, fn, gn
        if done:
            break
    return x


RIDGE, RIDGE_EDGES, ROWS_A_SET = 1.0, 8.0, 4000.0


def fit(rows):
    """rows: (set, features, edges, gold) -> Model."""
    X = np.array([r[1] for r in rows], float) / ONE
    H = np.array([[k * EDGES + h for k, h in enumerate(r[2])] for r in rows])
    y = np.array([r[3] for r in rows], float)
    names = np.array([r[0] for r in rows])
    w = np.zeros(len(rows))
    for s in SETS:
        w[names == s] = ROWS_A_SET / max(1, (names == s).sum())
    scale = X.std(0)
    scale[0] = 1
    fixed = np.array([n in SET for n in (FEATURES + EMBEDDING)[:X.shape[1]]])
    scale[scale < 1e-9] = 1
    Z = X / scale
    Z[:, fixed] = 0
    d, nh = Z.shape[1], EDGES * EDGE_TABLES
    reg = np.full(d + nh, RIDGE)
    reg[0], reg[d:] = 1e-6, RIDGE_EDGES

    def loss(b):
        z = Z @ b[:d] + b[d + H].sum(1)
        r = w * (1 / (1 + np.exp(-z)) - y)
        g = np.concatenate([Z.T @ r, np.bincount(H.ravel(), weights=np.repeat(r, EDGE_TABLES), minlength=nh)])
        return (w * (np.logaddexp(0, z) - y * z)).sum() + (reg * b * b).sum() / 2, g + reg * b

    b = lbfgs(loss, np.zeros(d + nh))
    raw = b[:d] / scale
    for i, n in enumerate((FEATURES + EMBEDDING)[:d]):
        raw[i] = SET.get(n, raw[i])
    # z is a sum of weight Q16 x feature Q8, shifted down by 8.
    return Model([int(round(v * 65536)) for v in raw], [int(max(-127, min(127, round(v * 64)))) * 4 for v in b[d:]])


# ---------------------------------------------------------------- rounds and figures
def rows_of(data, embeddings, decide):
    out = []
    for s in SETS:
        for d, ms, gold in data[s]:
            rows, _ = walk(ms, embeddings, lambda i, x, o: decide(s, d, i, x, o, gold), merge=decide.__name__ != "gold_says")
            out += [(s, x, o, gold[i], d, i) for i, x, o, _ in rows]
    return out


def two_rounds(data, embeddings, keep, threshold):
    def gold_says(s, d, i, x, o, gold):
        return gold[i]
    first = fit([r for r in rows_of(data, embeddings, gold_says) if keep(r[4])])

    def first_says(s, d, i, x, o, gold):
        return first.p(x, o) >= threshold
    return fit([r for r in rows_of(data, embeddings, first_says) if keep(r[4])])


def figures(data, embeddings, model_of, threshold):
    from score_segmentation import evaluate
    out, ps = {}, {}
    for s in SETS:
        gold, pred, final = {}, {}, {}
        for d, ms, g in data[s]:
            model = model_of(d)
            p = {}

            def decide(i, x, o):
                p[i] = model.p(x, o)
                return p[i] >= threshold
            rows, final[d] = walk(ms, embeddings, decide)
            pred[d], gold[d], ps[s, d] = [0] * len(g), g, p
            for i, _, _, opens in rows:
                pred[d][i] = int(opens)
        out[s] = (evaluate(gold, pred), evaluate(gold, final))
    return out, ps


def show(label, out):
    t, g, c = (out[s][0] for s in SETS)
    f = [out[s][1] for s in SETS]
    print(f"{label}  tiage {t['score']:.3f} dialseg711 {g['score']:.3f} mean {(t['score'] + g['score']) / 2:.4f} "
          f"committee {c['score']:.3f} x{c['pred_per_gold']:.2f}   final {f[0]['score']:.3f} {f[1]['score']:.3f} {f[2]['score']:.3f}", flush=True)


def cross_validate(data, embeddings, thresholds, K=4):
    ids = sorted(d for s in SETS for d, _, _ in data[s])
    random.Random(1).shuffle(ids)
    fold = {d: k % K for k, d in enumerate(ids)}
    models = [two_rounds(data, embeddings, lambda d: fold[d] != k, THRESHOLDS[embeddings]) for k in range(K)]
    for t in thresholds:
        show(f"{'embedding' if embeddings else 'text     '} {t / 65536:.2f}", figures(data, embeddings, lambda d: models[fold[d]], t)[0])


def c_array(kind, name, values, per_line=16):
    lines = ["    " + ", ".join(str(v) for v in values[i:i + per_line]) + "," for i in range(0, len(values), per_line)]
    return f"static const {kind} {name}[{len(values)}] = {{\n" + "\n".join(lines) + "\n};\n"


def write(path, text, embedding):
    named = lambda m, names: "\n".join(f"    [SWITCH_{n}] = {w}," for n, w in zip(names, m.w))
    with open(path, "w") as f:
        f.write(f"""/*
 * Generated by bench/train/context_switch.py: do not edit.
 *
 * Ridge logistic regression over the features of switch_model.h, fitted on the dev side of TIAGE
 * (MIT), DialSeg711 and QMSum's committee meetings, each counted the same, with USE-lite embeddings
 * of 64 dimensions for the second model. Numbers only: nothing of the texts is left in them.
 * SWITCH_GAP is set, not fitted: the sets have no times.
 */
/* clang-format off */
#include "engines/switch_model.h"

/* A logit of 1 is 2^16, a feature of 1 is 2^8. */
const int32_t switch_weights_text[SWITCH_TEXT_FEATURES] = {{
{named(text, FEATURES)}
}};

const int32_t switch_weights_embedding[SWITCH_FEATURES] = {{
{named(embedding, FEATURES + EMBEDDING)}
}};

/* By opener[0] and [1] of the message, then of the one before it; a logit of 1 is 2^6. */
""")
        for name, m in (("text", text), ("embedding", embedding)):
            f.write(c_array("int8_t", f"switch_edges_{name}", [v // 4 for v in m.o], 24).replace("static ", "").replace(f"[{len(m.o)}]", "[SWITCH_EDGES]") + "\n")
        f.write("/* Of (k - 128) / 16, in 1/2^16. */\n" + c_array("uint16_t", "switch_sigmoid", TABLE).replace("static ", ""))


def check(data, embeddings, model, path):
    """Every p_switch of a trace against the one computed here, as far as its decisions are the same."""
    trace = {}
    for line in open(path, encoding="utf-8"):
        r = json.loads(line)
        trace[r["id"]] = r
    n = wrong = 0
    for s in SETS:
        for d, ms, _ in data[s]:
            seen = {}

            def decide(i, x, o):
                seen[i] = model.p(x, o)
                return trace[f"{s}/{d}/{i}"]["boundary"]
            walk(ms, embeddings, decide)
            for i, p in seen.items():
                n += 1
                wrong += abs(p / 65536 - trace[f"{s}/{d}/{i}"]["p_switch"]) > 1e-5
    print(f"{n} scores compared, {wrong} differ")
    return wrong


def read_weights(path):
    """The models of a generated file."""
    import re
    text, out = open(path, encoding="utf-8").read(), []
    for name in ("text", "embedding"):
        body = re.search(r"switch_weights_%s\[.*?\{(.*?)\};" % name, text, re.S).group(1)
        w = {n: int(v) for n, v in re.findall(r"SWITCH_(\w+)\] = (-?\d+)", body)}
        edges = [int(v) * 4 for v in re.findall(r"-?\d+", re.search(r"switch_edges_%s\[\w+\] = \{(.*?)\};" % name, text, re.S).group(1))]
        out.append(Model([w[n] for n in FEATURES + (EMBEDDING if name == "embedding" else [])], edges))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default=os.path.join(HERE, "../../../shared/quality/data"))
    p.add_argument("--out", default=os.path.join(HERE, "../../engines/switch_weights.c"))
    p.add_argument("--cv", action="store_true", help="print cross-validated figures and stop")
    p.add_argument("--check", metavar="TRACE", help="compare a trace with the weights in --out and stop")
    p.add_argument("--embeddings", action="store_true", help="the trace is of messages with embeddings")
    a = p.parse_args()
    sys.path.insert(0, os.path.join(a.data, ".."))
    data = {s: load(a.data, s) for s in SETS}
    if a.check:
        sys.exit(check(data, a.embeddings, read_weights(a.out)[a.embeddings], a.check) > 0)
    if a.cv:
        for embeddings, ts in ((False, (.22, .25, .28, .31)), (True, (.25, .29, .33, .37))):
            cross_validate(data, embeddings, [round(t * 65536) for t in ts])
        return
    models = [two_rounds(data, e, lambda d: True, THRESHOLDS[e]) for e in (False, True)]
    write(a.out, *models)
    for e, m in zip((False, True), models):
        show("text" if not e else "embedding", figures(data, e, lambda d: m, THRESHOLDS[e])[0])


if __name__ == "__main__":
    main()
