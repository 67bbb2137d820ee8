"""What every column of the six tables may hold (ENGINES.md Appendix A): checks one line of `warmpath replay`.

check(line) returns a list of complaints, each with the path of the value. The schema is written down once more here, by hand: it is what
readers rely on, so it must not follow from the code that writes the rows.
"""
import math
import re

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
DATE = re.compile(r"\d{4}-\d\d-\d\d$")


class Any:
    def __init__(self, null=False):
        self.null = null

    def complain(self, v, at):
        if v is None:
            return [] if self.null else [f"{at}: null"]
        return self.check(v, at)

    def check(self, v, at):
        return []


class Num(Any):
    def __init__(self, low=-math.inf, high=math.inf, null=False, open_low=False, open_high=False):
        super().__init__(null)
        self.low, self.high, self.open_low, self.open_high = low, high, open_low, open_high

    def check(self, v, at):
        if isinstance(v, bool) or not isinstance(v, (int, float)) or math.isnan(v) or math.isinf(v):
            return [f"{at}: {v!r} is not a number"]
        low = v > self.low if self.open_low else v >= self.low
        high = v < self.high if self.open_high else v <= self.high
        return [] if low and high else [f"{at}: {v!r} is outside {self.low}..{self.high}"]


class Int(Num):
    def check(self, v, at):
        return super().check(v, at) if isinstance(v, int) and not isinstance(v, bool) else [f"{at}: {v!r} is not a whole number"]


class Str(Any):
    def __init__(self, most=64, of=None, null=False):
        super().__init__(null)
        self.most, self.of = most, of

    def check(self, v, at):
        if not isinstance(v, str):
            return [f"{at}: {v!r} is not a string"]
        if self.of is not None:
            return [] if v in self.of else [f"{at}: {v!r} is none of {self.of}"]
        return [] if len(v.encode()) <= self.most else [f"{at}: {len(v.encode())} bytes, at most {self.most}"]


class When(Any):
    def __init__(self, form=TIME, null=False):
        super().__init__(null)
        self.form = form

    def check(self, v, at):
        return [] if isinstance(v, str) and self.form.match(v) else [f"{at}: {v!r} is not a time"]


class Bool(Any):
    def check(self, v, at):
        return [] if isinstance(v, bool) else [f"{at}: {v!r} is not a truth value"]


class List(Any):
    """order: a key function; neighbours must not rise under it (or is a list of its results sorted descending)."""

    def __init__(self, of, most=None, exactly=None, order=None, null=False):
        super().__init__(null)
        self.of, self.most, self.exactly, self.order = of, most, exactly, order

    def check(self, v, at):
        if not isinstance(v, list):
            return [f"{at}: {v!r} is not a list"]
        out = []
        if self.most is not None and len(v) > self.most:
            out.append(f"{at}: {len(v)} entries, at most {self.most}")
        if self.exactly is not None and len(v) != self.exactly:
            out.append(f"{at}: {len(v)} entries, not {self.exactly}")
        for i, x in enumerate(v):
            of = self.of[i] if isinstance(self.of, tuple) else self.of
            out += of.complain(x, f"{at}[{i}]")
        if self.order and not out:
            keys = [self.order(x) for x in v]
            if keys != sorted(keys):
                out.append(f"{at}: not in order: {keys}")
        return out


class Map(Any):
    """Any keys (at most so many, of so many bytes), all values alike."""

    def __init__(self, of, most=None, key_most=64, null=False):
        super().__init__(null)
        self.of, self.most, self.key_most = of, most, key_most

    def check(self, v, at):
        if not isinstance(v, dict):
            return [f"{at}: {v!r} is not an object"]
        out = [f"{at}: {len(v)} members, at most {self.most}"] if self.most is not None and len(v) > self.most else []
        for k, x in v.items():
            out += Str(self.key_most).complain(k, f"{at} key")
            out += self.of.complain(x, f"{at}.{k}")
        return out


class Obj(Any):
    """Exactly these members; those whose name here ends with an underscore may be absent."""

    def __init__(self, null=False, **members):
        super().__init__(null)
        self.members = members

    def check(self, v, at):
        if not isinstance(v, dict):
            return [f"{at}: {v!r} is not an object"]
        out = []
        known = {k.rstrip("_"): s for k, s in self.members.items()}
        optional = {k.rstrip("_") for k in self.members if k.endswith("_")}
        for k in v:
            if k not in known:
                out.append(f"{at}: unknown member {k}")
        for k, s in known.items():
            if k in v:
                out += s.complain(v[k], f"{at}.{k}")
            elif k not in optional:
                out.append(f"{at}: no member {k}")
        return out


P = Num(0, 1)
COUNT = Int(0)
MEMORY = Obj(memory_id=Str(64), age_h=Num(0), idle_h=Num(0), n=COUNT, n_spaced=COUNT, R=P, staleness=P, type=Str(32), topic_=Str(64))
RETENTION = dict(memory_id=Str(64), topic_=Str(64), R=P, stability_days=Num(0, 365, open_low=True), n_spaced=COUNT, last_access=When(null=True))
TREND = Str(of=("rising", "flat", "falling"), null=True)
TRAIT = Str(32)
QUANTILES = dict(p50=COUNT, p90=COUNT)

COLUMNS = {
    "strategic_memory_health": {
        "memory_snapshot": Obj(v=Int(1, 1), total=COUNT, tracked=Int(0, 2048), never_accessed=COUNT, forgotten_=Obj(n=COUNT, avg_age_h=Num()),
                               stale=List(MEMORY, 5, order=lambda m: m["R"]), fresh=List(MEMORY, 5, order=lambda m: -m["R"]),
                               hist_R=List(COUNT, exactly=10), drift=Num(0, 2, null=True)),
        "avg_memory_age_hours": Num(0, null=True),
        "retrieval_frequency_trend": Str(of=("increasing", "stable", "declining"), null=True),
        "forgetting_risk_memories": List(Obj(memory_id=Str(64), topic_=Str(64), risk=P, R=Num(0, 0.7, open_high=True), value=Num(0.3, 1), idle_h=Num(0),
                                             review_in_h=Num()), 10, order=lambda m: -m["risk"], null=True),
        "topic_relevance_drift": Num(0, 2, null=True),
    },
    "strategic_character_performance": {
        "engagement_score_avg": Num(0, 1, null=True), "satisfaction_score_avg": Num(0, 1, null=True), "coherence_score_avg": Num(0, 1, null=True),
        "personality_consistency_index": Num(0, 1, null=True), "quality_trend": Str(of=("improving", "stable", "declining"), null=True),
        "recent_anomalies": List(Obj(type=Str(of=("quality_drop", "quality_shift", "latency_spike", "metric_silence")), metric=Str(32), start=Any(),
                                     end=Any(null=True), value=Num(), median=Num(), z_=Num(), cusum_=Num(), score_=P, n=COUNT,
                                     method=Str(of=("mad", "cusum", "silence", "streaming"))), 16, null=True),
        "time_window_hours": Int(24, 720),
    },
    "strategic_personality_profiles": {
        "dominant_traits": List(Obj(trait=TRAIT, frequency=P, n=Int(5), effectiveness=P, ci95=List(P, exactly=2), uplift=Num(-1, 1), recent_frequency_=P,
                                    source=Str(of=("metadata", "surface"))), 8, order=lambda t: (-t["frequency"], t["trait"].encode()), null=True),
        "user_response_patterns": Map(Obj(n=COUNT, reply_rate=P, positive_rate=P, median_reply_s=Int(0, null=True), words_mean=Num(0, null=True),
                                          emotions=Map(P, 5)), 8, 32, null=True),
        "adaptation_suggestions": List(Obj(trait=TRAIT, action=Str(of=("more", "less")), evidence=Obj(eff=P, base=P, n=Int(15)), confidence=P), 5,
                                       order=lambda s: -abs(s["evidence"]["eff"] - s["evidence"]["base"]), null=True),
        "trait_evolution_history": Obj(null=True, days=List(When(DATE), 30), traits=Map(List(Num(0, 1, null=True), 30), 8, 32), trend=Map(TREND, 8, 32)),
    },
    "strategic_conversation_patterns": {
        "recent_topics": List(Obj(topic=Str(64), topic_id=Int(0, 32), start_time=When(), end_time=When(), messages=Int(1), valence=Num(-1, 1, null=True),
                                  open=Bool()), 16, null=True),
        "avg_topic_duration_minutes": Num(0, null=True),
        "context_switch_frequency": Num(0, null=True),
        "predicted_switch_likelihood": Num(0, 1, null=True),
        "topic_transition_graph": Obj(null=True, nodes=List(Obj(id=Int(0, 32), label=Str(64), n=Int(1), minutes=Num(0)), 16),
                                      edges=List(Obj(**{"from": Int(0, 32)}, to=Int(0, 32), n=Int(1), p=Num(0, 1, open_low=True, open_high=True)), 48)),
        "communication_style": Obj(null=True, n=Int(10), words=Obj(p10=COUNT, mean=Num(0), **QUANTILES), chars_p50=COUNT, question_rate=P, exclaim_rate=P,
                                   emoji_rate=P, link_rate=P, upper_start_rate=P, end_punct_rate=P, entropy_bits=Num(0), style_match=Num(0, 1, null=True),
                                   reply_latency_s=Obj(p50=Int(0, null=True), p90=Int(0, null=True), null=True), user_initiated_share=Num(0, 1, null=True),
                                   verbosity=Str(), how_top=List(Obj(how=Int(0, 167), share=P), 5, order=lambda h: -h["share"]), drift=Obj(words_p50=TREND),
                                   fingerprint=Str(344, null=True)),
        "preferred_depth": Obj(null=True, turns_per_topic=Obj(p50=Int(1), p75=Int(1)), deep_share=P, session_turns_mean=Num(0),
                               **{"class": Str(of=("shallow", "moderate", "deep"))}, n_segments=Int(5)),
        "emotional_engagement": Obj(null=True, coverage=Num(0.2, 1), dominant=List(Obj(emotion=Str(32), share=P), 5, order=lambda d: -d["share"]),
                                    valence=Obj(mean=Num(-1, 1), sd=Num(0), lag1=Num(-1, 1, null=True)), recovery_rate=Num(0, 1, null=True),
                                    topics_positive=List(Obj(topic=Str(64), valence=Num(0, 1), n=Int(5)), 5, order=lambda t: -t["valence"]),
                                    topics_negative=List(Obj(topic=Str(64), valence=Num(-1, 0), n=Int(5)), 5, order=lambda t: t["valence"])),
        "optimal_response_length": Obj(null=True, unit=Str(of=("words",)), range=List((Int(0), Int(0, null=True)), exactly=2), expected=P, base=P, n=Int(8),
                                       buckets=List(List(COUNT, exactly=3), 8)),
    },
    "strategic_memory_behavior": {
        "forgetting_curve_params": Obj(model=Str(of=("power_need",)), status=Str(of=("fitted", "prior")), a_per_h=Num(0, null=True), d=Num(0.05, 2),
                                       r2=Num(null=True), accesses=COUNT,
                                       bins=List(Obj(lag_h=Num(0), E=COUNT, X_h=Num(0), rate=Num(0, null=True)), 9), stability_model=Any(),
                                       spacing_effect=Obj(null=True, ratio=Num(0), ci95=List(Num(0), exactly=2)), half_rate_h=Num(0, null=True)),
        "high_retention_memories": List(Obj(**RETENTION), 10, order=lambda m: -m["R"], null=True),
        "low_retention_memories": List(Obj(overdue_h=Num(0), **RETENTION), 10, order=lambda m: m["R"], null=True),
        "recall_simulation_score": Num(0, 1, null=True),
        "consolidation": Obj(new=COUNT, consolidating=COUNT, consolidated=COUNT, lapsed=COUNT, null=True),
    },
    "strategic_engagement_opportunities": {
        "optimal_timing_hours": Num(0, null=True, open_low=True),
        "receptivity_score": Num(0, 1, null=True),
        "suggested_topics": List(Obj(topic=Str(64), score=Num(0, 1.5), reasons=List(Str(of=("positive_valence", "recent", "frequent", "unresolved_question",
                                                                                            "fading_memory")), 3), last_discussed=When(), n=Int(1)), 8,
                                 order=lambda t: -t["score"], null=True),
        "last_engagement_gap_hours": Num(0, null=True),
        "proactive_success_rate": Num(0, 1, null=True),
        "next_contact_at": Any(null=True),
        "last_user_message_at": Any(null=True),
        "opportunities": List(Obj(type=Str(of=("long_silence", "unresolved_question", "fading_memory", "anniversary")), topic_=Str(64, null=True), since=When(),
                                  valid_until=When(), strength=P, ref_=Str(64, null=True)), 5, null=True),
    },
}
COMMON = {"user_id", "bot_name", "as_of", "event_count", "engine_version", "confidence", "state_flags", "valid_until", "details"}
NOT_EXPLAINED = {"time_window_hours"}  # part of the key


def check(line):
    table, row = line["table"], line["row"]
    out = []
    columns = COLUMNS[table]
    for name in row:
        if name not in columns and name not in COMMON:
            out.append(f"{table}.{name}: unknown column")
    reasons = row["details"].get("reason", {})
    for name, schema in columns.items():
        if name not in row:
            out.append(f"{table}.{name}: missing")
            continue
        out += schema.complain(row[name], f"{table}.{name}")
        explained = name in reasons
        if name not in NOT_EXPLAINED and (row[name] is None) != explained:
            out.append(f"{table}.{name}: {'NULL without a reason' if row[name] is None else 'a reason beside a value'}")
        if isinstance(row[name], (dict, list)) and len(dumps(row[name])) > 8192:
            out.append(f"{table}.{name}: longer than 8 KiB")
    for name, reason in reasons.items():
        out += Str(200).complain(reason, f"{table}.details.reason.{name}")
    if "params" not in row["details"]:
        out.append(f"{table}.details: no params hash")
    if len(dumps(row["details"])) > 4096:
        out.append(f"{table}.details: longer than 4 KiB")
    out += P.complain(row["confidence"], f"{table}.confidence")
    out += COUNT.complain(row["event_count"], f"{table}.event_count")
    return out + relations(table, row)


def dumps(v):
    import json
    return json.dumps(v, ensure_ascii=False, separators=(",", ":")).encode()


def relations(table, row):
    """What columns of one row say about each other."""
    out = []
    if table == "strategic_memory_health":
        s = row["memory_snapshot"]
        both = {m["memory_id"] for m in s["stale"]} & {m["memory_id"] for m in s["fresh"]}
        if both:
            out.append(f"memory_snapshot: {both} both stale and fresh")
        if sum(s["hist_R"]) != s["tracked"] or s["never_accessed"] > s["tracked"] or s["tracked"] > s["total"]:
            out.append(f"memory_snapshot: the counts do not agree: {s}")
        if (row["forgetting_risk_memories"] is None) != bool(row["state_flags"] & 128):
            out.append("forgetting_risk_memories: NULL and flag 128 must go together")
    if table == "strategic_memory_behavior" and row["consolidation"]:
        c = row["consolidation"]
        if c["lapsed"] > c["new"] + c["consolidating"] + c["consolidated"]:
            out.append(f"consolidation: more lapsed than there are: {c}")
        if (row["forgetting_curve_params"]["status"] == "prior") != bool(row["state_flags"] & 32):
            out.append("forgetting_curve_params: status prior and flag 32 must go together")
    if table == "strategic_conversation_patterns" and row["topic_transition_graph"]:
        g = row["topic_transition_graph"]
        ids = {n["id"] for n in g["nodes"]}
        if any(e["from"] not in ids or e["to"] not in ids for e in g["edges"]):
            out.append("topic_transition_graph: an edge without its nodes")
        if len({(e["from"], e["to"]) for e in g["edges"]}) != len(g["edges"]):
            out.append("topic_transition_graph: an edge twice")
    if table == "strategic_personality_profiles" and row["trait_evolution_history"]:
        h = row["trait_evolution_history"]
        if any(len(v) != len(h["days"]) for v in h["traits"].values()) or set(h["trend"]) != set(h["traits"]):
            out.append("trait_evolution_history: days, traits and trend do not fit")
    if table == "strategic_engagement_opportunities" and row["optimal_timing_hours"] is not None and row["next_contact_at"] is None:
        out.append("next_contact_at: NULL beside optimal_timing_hours")
    return out
