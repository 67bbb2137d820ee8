"""What is counted of the reads, and that it is handed over about once a second without the reads waiting for it."""
import asyncio
import threading
import unittest
from datetime import datetime, timedelta, timezone

import asyncpg
import psycopg_pool

import support
from support import PATIENT, TABLES, ClientTest, async_wait_until, wait_until
from warmpath import AsyncStrategicReader, Bundle, CacheSample, Freshness, StrategicReader
from warmpath.metrics import BOTS_MAX, CacheMetrics
from warmpath.model import ConversationPatterns


def bundle(bot="elena", source="database", elapsed_ms=2.0, **component):
    return Bundle(user_id="u", bot_name=bot, window=168, source=source, elapsed_ms=elapsed_ms, conversation=ConversationPatterns(**component))


class CountTest(unittest.TestCase):
    def test_sums_by_bot_table_and_freshness(self):
        m = CacheMetrics()
        then = datetime.now(timezone.utc) - timedelta(seconds=100)
        m.add(bundle(freshness=Freshness.FRESH, computed_at=then))
        m.add(bundle(freshness=Freshness.FRESH, computed_at=then, source="memory", elapsed_ms=4.0))
        m.add(bundle(freshness=Freshness.STALE))
        samples = {(s.table_name, s.freshness): s for s in m.take()}
        fresh = samples[TABLES[2], Freshness.FRESH]
        self.assertEqual((fresh.reads, fresh.cache_hit, fresh.cache_miss, fresh.from_memory), (2, 2, 0, 1))
        self.assertEqual((fresh.query_latency_ms, fresh.query_latency_ms_max), (3.0, 4.0))
        self.assertGreaterEqual(fresh.cache_age_seconds, 100)
        stale = samples[TABLES[2], Freshness.STALE]
        self.assertEqual((stale.reads, stale.cache_hit, stale.cache_miss, stale.cache_age_seconds), (1, 0, 1, None))
        self.assertEqual(samples[TABLES[0], Freshness.MISSING].reads, 3)
        self.assertEqual(m.take(), [])

    def test_bots_without_bounds_are_one(self):
        m = CacheMetrics()
        for i in range(BOTS_MAX + 10):
            m.add(bundle(bot=f"bot{i}"))
        bots = {s.bot: s.reads for s in m.take()}
        self.assertEqual(len(bots), BOTS_MAX + 1)
        self.assertEqual(bots["other"], 10)

    def test_line_protocol_escapes_what_somebody_chose_as_a_name(self):
        s = CacheSample("a b,c=d\ne", "strategic_memory_health", Freshness.FRESH, 3, 3, 0, 1, 1.5, 2.0, None)
        self.assertEqual(s.line(at=1.5), "strategic_cache,bot=a\\ b\\,c\\=d\\ e,table_name=strategic_memory_health,freshness=fresh "
                         "reads=3i,cache_hit=3i,cache_miss=0i,from_memory=1i,query_latency_ms=1.500,query_latency_ms_max=2.000 1500000000")


class HookTest(ClientTest):
    def test_a_thread_calls_back(self):
        key = self.new_key()
        self.write(TABLES[2], key)
        taken, held = [], threading.Event()

        def slow(samples):
            taken.extend(samples)
            held.wait(support.WAIT)

        with psycopg_pool.ConnectionPool(self.conninfo, min_size=1, max_size=1) as pool:
            with StrategicReader(pool, deadline=PATIENT, on_metrics=slow, metrics_interval=0.05) as reader:
                reader.read(*key)
                wait_until("the first samples", lambda: taken)
                for _ in range(3):
                    reader.read(*key)  # although the callback holds its thread
                held.set()
        by_freshness = {f: sum(s.reads for s in taken if s.table_name == TABLES[2] and s.freshness is f) for f in Freshness}
        self.assertEqual(by_freshness, {f: 4 if f is Freshness.FRESH else 0 for f in Freshness})
        self.assertEqual({s.bot for s in taken}, {key[1]})

    def test_a_task_calls_back_and_its_errors_are_its_own(self):
        key = self.new_key()

        async def main():
            taken = []

            async def report(samples):
                taken.extend(samples)
                raise RuntimeError("the collector is away")

            async with asyncpg.create_pool(**self.dsn, min_size=1, max_size=1) as pool:
                async with AsyncStrategicReader(pool, deadline=PATIENT, on_metrics=report, metrics_interval=0.05) as reader:
                    await reader.read(*key)
                    await async_wait_until("the first samples", lambda: taken)
                    await reader.read(*key)
            return sum(s.reads for s in taken if s.table_name == TABLES[0])

        self.assertEqual(asyncio.run(main()), 2)
