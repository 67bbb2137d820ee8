"""What the tests of the Python client share: a database with the cache tables as `warmpath migrate up` makes them, rows of any
freshness written by SQL, and the two readers. Run by tests/integration/run.py, whose harness brings the server."""
import asyncio
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
sys.path[:0] = [os.path.join(HERE, "..", "src"), os.path.join(ROOT, "tests", "integration")]

import harness  # noqa: E402

# Long enough for a machine under any load: for tests of everything but the deadline itself.
PATIENT = 30.0
WAIT = 60

TABLES = (
    "strategic_memory_health", "strategic_personality_profiles", "strategic_conversation_patterns", "strategic_memory_behavior",
    "strategic_engagement_opportunities", "strategic_character_performance")

# What makes a row so: (expires_at, valid_until, invalidated_at) as SQL. `current` also needs the processor's progress.
STATES = {
    "fresh": ("now() + interval '1 hour'", "now() + interval '2 hours'", "NULL"),
    "current": ("now() - interval '1 hour'", "now() + interval '2 hours'", "NULL"),
    "stale": ("now() - interval '1 hour'", "now() - interval '1 minute'", "NULL"),
    "expired": ("now() - interval '25 hours'", "now() - interval '24 hours'", "NULL"),
    "invalid": ("now() + interval '1 hour'", "now() + interval '2 hours'", "now()"),
}

# One value for every column that a table has beyond those of all tables.
VALUES = {
    "strategic_memory_health": {
        "memory_snapshot": {"v": 1, "total": 3}, "avg_memory_age_hours": 120.5, "retrieval_frequency_trend": "increasing",
        "forgetting_risk_memories": [{"memory_id": "m1", "risk": 0.5}], "topic_relevance_drift": 0.25},
    "strategic_personality_profiles": {
        "dominant_traits": [{"trait": "warm", "frequency": 0.42}], "user_response_patterns": {"warm": {"n": 84}},
        "adaptation_suggestions": [], "trait_evolution_history": {"days": []}},
    "strategic_conversation_patterns": {
        "recent_topics": [{"topic": "dog leg vet", "topic_id": 3}], "avg_topic_duration_minutes": 10.0, "context_switch_frequency": 6.0,
        "predicted_switch_likelihood": 0.285714, "topic_transition_graph": {"nodes": [], "edges": []},
        "communication_style": {"n": 240, "verbosity": "moderate"}, "preferred_depth": {"class": "deep"},
        "emotional_engagement": {"coverage": 0.9}, "optimal_response_length": {"range": [17, 32], "expected": 0.69}},
    "strategic_memory_behavior": {
        "forgetting_curve_params": {"d": 0.5}, "high_retention_memories": [], "low_retention_memories": [{"memory_id": "m2"}],
        "recall_simulation_score": 0.94, "consolidation": {"new": 1}},
    "strategic_engagement_opportunities": {
        "optimal_timing_hours": 46.0, "receptivity_score": 0.5, "suggested_topics": [{"topic": "rust borrow"}],
        "last_engagement_gap_hours": 12.0, "proactive_success_rate": 0.75, "next_contact_at": "2026-01-07T18:00:00.000001+00:00",
        "last_user_message_at": "2026-01-05T20:00:00+00:00", "opportunities": []},
    "strategic_character_performance": {
        "engagement_score_avg": 0.71, "satisfaction_score_avg": 0.72, "coherence_score_avg": 0.73, "personality_consistency_index": 0.9,
        "quality_trend": "improving", "recent_anomalies": []},
}


class ClientTest(harness.PipelineTest):
    """A migrated database. Nothing runs in it unless a test starts `self.w`."""

    keys = 0

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.beat()

    @classmethod
    def beat(cls, heartbeat="now() + interval '1 day'", caught_up="now() + interval '1 day'"):
        """What the processor says of its progress; by default enough for the whole test."""
        cls.sink.run(f"INSERT INTO strategic_processor VALUES (0, {heartbeat}, {caught_up}) ON CONFLICT (shard) DO UPDATE "
                     "SET heartbeat = EXCLUDED.heartbeat, caught_up_to = EXCLUDED.caught_up_to")

    def new_key(self):
        """(user, bot) that nothing is known of, but on the processor's shard."""
        ClientTest.keys += 1
        user, bot = f"user {ClientTest.keys} ö", f"bot{ClientTest.keys}"
        self.sink.run("INSERT INTO strategic_key_activity(user_id, bot_name, shard) VALUES (%s, %s, 0)", user, bot)
        return user, bot

    def write(self, table, key, state="fresh", version=1, values=None, confidence=0.8, conn=None, **more):
        """One row. values None: those above."""
        columns = dict(VALUES[table] if values is None else values)
        if table == "strategic_memory_health":
            columns.setdefault("memory_snapshot", {})  # NOT NULL
        own = {"bot_name": key[1], "time_window_hours": 168} if table == TABLES[-1] else {"user_id": key[0], "bot_name": key[1]}
        columns = {**own, **columns, "row_version": version, "confidence": confidence, "details": {"reason": {}},
                   "as_of": "2026-01-05T12:00:00+00:00", **more}
        expires, valid, invalidated = STATES[state]
        names = ", ".join(columns)
        marks = ", ".join(["%s"] * len(columns))
        sql = (f"INSERT INTO {table}({names}, computed_at, expires_at, valid_until, invalidated_at) "
               f"VALUES ({marks}, now(), {expires}, {valid}, {invalidated}) ON CONFLICT ({', '.join(own)}) DO UPDATE SET "
               + ", ".join(f"{c} = EXCLUDED.{c}" for c in [*columns, "computed_at", "expires_at", "valid_until", "invalidated_at"]
                           if c not in own))
        values = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in columns.values()]
        if conn is None:
            self.sink.run(sql, *values)
        else:
            with conn.cursor() as cur:
                cur.execute(sql, values)

    def write_all(self, key, state="fresh", **more):
        for table in TABLES:
            self.write(table, key, state, **more)

    def announce(self, key, version, reason="count", tables=TABLES[:-1], conn=None):
        payload = json.dumps({"bot_name": key[1], "user_id": key[0], "tables": list(tables), "row_version": version, "reason": reason})
        if conn is None:
            self.sink.run("SELECT pg_notify('strategic_cache', %s)", payload)
        else:
            with conn.cursor() as cur:
                cur.execute("SELECT pg_notify('strategic_cache', %s)", (payload,))

    @property
    def conninfo(self):
        return self.sink.conninfo

    @property
    def dsn(self):
        """The same for asyncpg, which takes keywords."""
        pairs = dict(part.split("=", 1) for part in self.conninfo.split())
        return {"host": pairs["host"], "port": int(pairs["port"]), "user": pairs["user"], "database": pairs["dbname"]}


def wait_until(what, condition):
    return harness.wait_until(what, condition, WAIT)


async def async_wait_until(what, condition):
    """As harness.wait_until, without stopping the event loop."""
    try:
        async with asyncio.timeout(WAIT):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"timed out after {WAIT} s waiting for {what}") from None
