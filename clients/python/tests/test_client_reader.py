"""Reads with psycopg in threads and with both drivers in an event loop: every freshness with what it allows, NULL, the deadline, the
breaker, pools, and names that no database can hold. The same tests for all, through a small front that hides who waits."""
import asyncio
import contextlib
import unittest
from datetime import datetime, timezone

import asyncpg
import psycopg
import psycopg_pool

import support
from support import PATIENT, TABLES, VALUES, ClientTest, wait_until
from warmpath import AsyncStrategicReader, CircuitBreaker, Defaults, Freshness, ReadError, StrategicReader
from warmpath.model import COMPONENTS

SLOW = {
    "strategic_personality_profiles": set(VALUES["strategic_personality_profiles"]),
    "strategic_conversation_patterns": {"communication_style", "optimal_response_length"},
    "strategic_character_performance": {"engagement_score_avg", "satisfaction_score_avg", "coherence_score_avg",
                                        "personality_consistency_index"},
}


class Front:
    """A reader of one driver with a pool, as a subtest: `with`."""

    def __init__(self, test, size=2, **options):
        self.test = self.database = test
        self.size = size
        self.options = {"deadline": PATIENT, **options}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.stack.enter_context(self.test.subTest(self.driver))
        options = dict(self.options)
        if "breaker" in options:
            options["breaker"] = options["breaker"]()
        self.open(options)
        self.stack.callback(self.close)
        return self

    def __exit__(self, *exception):
        return self.stack.__exit__(*exception)


class Sync(Front):
    driver = "psycopg"

    def open(self, options):
        self.pool = psycopg_pool.ConnectionPool(self.database.conninfo, min_size=self.size, max_size=self.size, open=True)
        self.pool.wait(support.WAIT)
        self.reader = StrategicReader(self.pool, **options)

    def read(self, *args, **more):
        return self.reader.read(*args, **more)

    def warm_up(self):
        self.reader.warm_up(support.WAIT)

    def settle(self):
        pass

    def notice_loss(self):
        pass

    def close(self):
        self.reader.close()
        self.pool.close()


class Async(Front):
    """In an event loop, driven from outside."""

    def notice_loss(self):
        pass

    def open(self, options):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.start(options))

    async def start(self, options):
        self.pool = await self.make_pool()
        self.reader = AsyncStrategicReader(self.pool, **options)
        await self.reader.start()

    def read(self, *args, **more):
        return self.loop.run_until_complete(self.reader.read(*args, **more))

    def warm_up(self):
        self.loop.run_until_complete(self.reader.warm_up(support.WAIT))

    def settle(self):
        """Until every connection is back in the pool: the loop only runs during reads."""
        async def ended():
            await asyncio.gather(*self.reader._tasks, return_exceptions=True)

        self.loop.run_until_complete(ended())

    def close(self):
        self.loop.run_until_complete(self.reader.close())
        self.loop.run_until_complete(self.pool.close())
        self.loop.close()


class Asyncpg(Async):
    driver = "asyncpg"

    async def make_pool(self):
        return await asyncpg.create_pool(**self.database.dsn, min_size=self.size, max_size=self.size)

    def notice_loss(self):
        """The loop has been standing still. asyncpg 0.27 loses a place of its pool when it sees the end of a connection in the very moment
        in which that is taken, which a loop that runs all the time hardly meets."""
        self.loop.run_until_complete(support.async_wait_until("the pool to see the loss", lambda: self.pool.get_size() == 0))


class AsyncPsycopg(Async):
    driver = "async psycopg"

    async def make_pool(self):
        pool = psycopg_pool.AsyncConnectionPool(self.database.conninfo, min_size=self.size, max_size=self.size, open=False)
        await pool.open()
        await pool.wait(support.WAIT)
        return pool


FRONTS = (Sync, Asyncpg, AsyncPsycopg)


class ReaderTest(ClientTest):
    def each(self, **options):
        """A front of every driver. The breaker is given as a function that makes it."""
        return [kind(self, **options) for kind in FRONTS]

    def assert_component(self, bundle, table, freshness, allowed):
        """Columns of `allowed` hold their values, all others None."""
        attribute = next(a for a, (t, _, _) in COMPONENTS.items() if t == table)
        c = getattr(bundle, attribute)
        self.assertIs(c.freshness, Freshness(freshness), table)
        for name, value in VALUES[table].items():
            expected = value if name in allowed else None
            if expected is not None and name.endswith("_at"):
                expected = datetime.fromisoformat(expected)
            self.assertEqual(getattr(c, name), expected, f"{table}.{name} when {freshness}")

    def test_every_freshness_gives_what_it_allows(self):
        keys = {state: self.new_key() for state in support.STATES}
        for state, key in keys.items():
            self.write_all(key, state)
        for front in self.each():
            with front:
                for state, key in keys.items():
                    bundle = front.read(*key)
                    self.assertIsNone(bundle.problem)
                    self.assertEqual(bundle.source, "database")
                    for table in TABLES:
                        allowed = VALUES[table] if state in ("fresh", "current") else SLOW.get(table, ()) if state == "stale" else ()
                        self.assert_component(bundle, table, state, allowed)
                    self.assertEqual(bundle.engagement.usable, state in ("fresh", "current"))
                    self.assertAlmostEqual(bundle.engagement.weight, 0.8 if state in ("fresh", "current", "stale") else 0.0, 6)
                    self.assertEqual(bundle.memory_health.row_version, 1)
                    self.assertEqual(bundle.memory_health.as_of, datetime(2026, 1, 5, 12, tzinfo=timezone.utc))

    def test_a_key_without_rows_is_missing_and_not_an_error(self):
        key = self.new_key()
        for front in self.each():
            with front:
                for names in (key, ("nobody at all", "no bot")):
                    bundle = front.read(*names, strict=True)
                    self.assertEqual({c.freshness for c in bundle.components.values()}, {Freshness.MISSING})
                    self.assertEqual((bundle.source, bundle.problem), ("database", None))

    def test_null_is_none_in_a_fresh_row(self):
        key = self.new_key()
        for table in TABLES:
            self.write(table, key, values={}, confidence=None)
        for front in self.each():
            with front:
                bundle = front.read(*key)
                for table, c in bundle.components.items():
                    self.assertIs(c.freshness, Freshness.FRESH)
                    self.assertIsNone(c.confidence)
                    self.assertEqual(c.weight, 0.0)
                    for name in VALUES[table]:
                        if name != "memory_snapshot":
                            self.assertIsNone(getattr(c, name), name)
                self.assertEqual(bundle.memory_health.memory_snapshot, {})
                self.assertIsNone(bundle.switch_likelihood())
                self.assertFalse(bundle.may_initiate())

    def test_current_ends_with_the_processor(self):
        key = self.new_key()
        self.write_all(key, "current")
        try:
            for front in self.each():
                with front:
                    self.beat()
                    self.assertIs(front.read(*key).conversation.freshness, Freshness.CURRENT)
                    self.beat(heartbeat="now() - interval '61 s'")
                    self.assertIs(front.read(*key).conversation.freshness, Freshness.STALE)
                    self.beat(caught_up="now() - interval '6 min'")
                    self.assertIs(front.read(*key).conversation.freshness, Freshness.STALE)
        finally:
            self.beat()

    def test_a_changed_character_is_invalid_at_once(self):
        key = self.new_key()
        self.write_all(key)
        self.sink.run("INSERT INTO strategic_bot_epoch VALUES (%s, clock_timestamp())", key[1])
        for front in self.each():
            with front:
                bundle = front.read(*key)
                self.assertIs(bundle.personality.freshness, Freshness.INVALID)
                self.assertIsNone(bundle.personality.dominant_traits)
                self.assertIs(bundle.conversation.freshness, Freshness.FRESH)

    def test_the_window_chooses_the_row_of_performance(self):
        key = self.new_key()
        self.write(TABLES[-1], key)
        for front in self.each():
            with front:
                self.assertIs(front.read(*key, window=168).performance.freshness, Freshness.FRESH)
                self.assertIs(front.read(*key, window=24).performance.freshness, Freshness.MISSING)

    def test_details_only_when_asked_for(self):
        key = self.new_key()
        self.write_all(key)
        for front in self.each():
            with front:
                self.assertIsNone(front.read(*key).conversation.details)
        for front in self.each(details=True):
            with front:
                self.assertEqual(front.read(*key).conversation.details, {"reason": {}})

    def test_fallbacks_of_the_caller(self):
        key = self.new_key()
        self.write(TABLES[1], key, "expired")
        defaults = Defaults(traits=[{"trait": "kind"}], recent_user_words=[100, 4, 6, 5, 30, 2])
        for front in self.each():
            with front:
                bundle = front.read(*key, defaults=defaults)
                self.assertEqual(bundle.traits(), [{"trait": "kind"}])
                self.assertEqual(bundle.response_words(), (1, 10))  # of the last five: median 5
                self.assertIsNone(front.read(*key).response_words())
                self.assertFalse(bundle.may_initiate(receptivity=0.0))

    def test_decisions_of_usable_rows(self):
        key = self.new_key()
        self.write_all(key)
        late = datetime(2026, 1, 7, 18, 0, 1, tzinfo=timezone.utc)
        for front in self.each():
            with front:
                bundle = front.read(*key, defaults=Defaults(traits=[{"trait": "kind"}], recent_user_words=[5]))
                self.assertEqual(bundle.traits()[0]["trait"], "warm")
                self.assertEqual(bundle.response_words(), (17, 32))
                self.assertTrue(bundle.may_initiate(receptivity=0.5, now=late))
                self.assertFalse(bundle.may_initiate(receptivity=0.51, now=late))
                self.assertFalse(bundle.may_initiate(receptivity=0.5, now=late.replace(hour=17)))

    # ---- when it does not answer

    def lock(self):
        """Another session holds a table, so that no read of it ends."""
        conn = psycopg.connect(self.conninfo)
        conn.execute("LOCK TABLE strategic_memory_behavior IN ACCESS EXCLUSIVE MODE")
        return contextlib.closing(conn)

    def test_the_deadline_holds_while_the_database_does_not(self):
        """The fallback comes although the lock stays; when the lock is gone the next reads work again, on the same pool."""
        key = self.new_key()
        self.write_all(key)
        # A lock is waited for by whoever has it: the fallback can only come from the deadline.
        for front in self.each(size=1, deadline=0.2, give_up=0.1, breaker=lambda: CircuitBreaker(failures=1000)):
            with front:
                front.warm_up()
                with self.lock():
                    for _ in range(3):
                        bundle = front.read(*key, defaults=Defaults(recent_user_words=[3]))
                        self.assertEqual(bundle.source, "fallback")
                        self.assertTrue(bundle.problem)
                        self.assertEqual({c.freshness for c in bundle.components.values()}, {Freshness.MISSING})
                        self.assertEqual(bundle.response_words(), (1, 6))
                        self.assertLess(bundle.elapsed_ms, 10_000)
                    with self.assertRaises(ReadError):
                        front.read(*key, strict=True)
                wait_until("a read after the lock", lambda: front.read(*key).source == "database")

    def test_a_late_answer_leaves_the_connection_as_it_was(self):
        """Without a cancellation: the statement gets its time, and afterwards the same connection gives the right rows."""
        key, other = self.new_key(), self.new_key()
        self.write_all(key, version=7)
        self.write_all(other, version=8)
        for front in self.each(size=1, deadline=0.2, give_up=PATIENT, breaker=lambda: CircuitBreaker(failures=1000)):
            with front:
                front.warm_up()
                with self.lock():
                    bundle = front.read(*key)
                    self.assertEqual(bundle.source, "fallback")
                    self.assertLess(bundle.elapsed_ms, 10_000)  # the deadline, and not the 30 s after which the statement is given up
                bundle = wait_until("a read after the lock", lambda: (b := front.read(*other)).source == "database" and b)
                self.assertEqual(bundle.memory_health.row_version, 8)
                wait_until("the statement to be gone", lambda: self.sink.one(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 0)

    def test_the_breaker_opens_and_closes(self):
        key = self.new_key()
        self.write_all(key)
        clock = [0.0]
        for front in self.each(size=1, deadline=0.2, give_up=0.1, breaker=lambda: CircuitBreaker(3, 30.0, lambda: clock[0])):
            with front:
                front.warm_up()
                with self.lock():
                    for _ in range(3):
                        self.assertNotIn("breaker", front.read(*key).problem)
                    self.assertIn("breaker", front.read(*key).problem)
                    clock[0] += 29.9
                    self.assertIn("breaker", front.read(*key).problem)
                    clock[0] += 0.2
                    self.assertNotIn("breaker", front.read(*key).problem)  # the one that tries
                    self.assertIn("breaker", front.read(*key).problem)

                def tries_again():
                    clock[0] += 31
                    return front.read(*key).source == "database"

                wait_until("the breaker to close", tries_again)
                self.assertFalse(front.reader.breaker.is_open)
                clock[0] = 0.0

    def test_names_that_no_database_holds_are_no_failures(self):
        key = self.new_key()
        self.write_all(key)
        for front in self.each(breaker=lambda: CircuitBreaker(failures=1)):
            with front:
                for user in (key[0] + "\0", "\ud800"):
                    bundle = front.read(user, key[1])
                    self.assertIn("no such key", bundle.problem)
                    self.assertIs(bundle.conversation.freshness, Freshness.MISSING)
                self.assertEqual(front.read(*key).source, "database")

    def test_a_lost_connection_is_replaced_by_the_pool(self):
        key = self.new_key()
        self.write_all(key)
        for front in self.each(size=1, breaker=lambda: CircuitBreaker(failures=1000)):
            with front:
                self.assertEqual(front.read(*key).source, "database")
                front.settle()
                self.sink.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                              "AND pid <> pg_backend_pid() AND backend_type = 'client backend'")
                front.notice_loss()
                wait_until("a read on a new connection", lambda: front.read(*key).source == "database")

    def test_without_the_functions_every_read_is_a_fallback_that_says_why(self):
        for front in self.each():
            front.database = _Elsewhere()
            with front:
                bundle = front.read("u", "b")
                self.assertEqual(bundle.source, "fallback")
                self.assertIn("strategic_bundle", bundle.problem)


class _Elsewhere:
    """A database without the cache."""

    conninfo = property(lambda self: support.harness.cluster.conninfo("postgres"))
    dsn = ClientTest.dsn


class SingleConnectionTest(ClientTest):
    """A connection of the application's own instead of a pool."""

    def setUp(self):
        self.key = self.new_key()
        self.write_all(self.key)

    def test_psycopg(self):
        with psycopg.connect(self.conninfo) as conn:
            with StrategicReader(conn, deadline=PATIENT) as reader:
                self.assertEqual(reader.read(*self.key).source, "database")
                conn.execute("SELECT 1")  # psycopg begins a transaction
                self.assertIn("inside a transaction", reader.read(*self.key).problem)
                conn.rollback()
                self.assertEqual(reader.read(*self.key).source, "database")

    def test_prepared_statements_that_were_discarded(self):
        with psycopg.connect(self.conninfo, autocommit=True) as conn:
            with StrategicReader(conn, deadline=PATIENT) as reader:
                self.assertEqual(reader.read(*self.key).source, "database")
                conn.execute("DEALLOCATE ALL")
                self.assertEqual(reader.read(*self.key).source, "database")
            with StrategicReader(conn, deadline=PATIENT) as reader:  # prepared already, by the one before
                self.assertEqual(reader.read(*self.key).source, "database")

    def test_without_prepared_statements(self):
        with psycopg.connect(self.conninfo, autocommit=True) as conn:
            with StrategicReader(conn, deadline=PATIENT, prepare=False) as reader:
                self.assertEqual(reader.read(*self.key).conversation.predicted_switch_likelihood, 0.285714)
                self.assertEqual(conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'warmpath%'").fetchone(), (0,))

    def test_another_client_encoding(self):
        with psycopg.connect(self.conninfo, autocommit=True, client_encoding="latin1") as conn:
            with StrategicReader(conn, deadline=PATIENT) as reader:
                self.assertIs(reader.read(*self.key).conversation.freshness, Freshness.FRESH)

    def test_asyncpg(self):
        async def main():
            conn = await asyncpg.connect(**self.dsn)
            async with AsyncStrategicReader(conn, deadline=PATIENT) as reader:
                bundles = await asyncio.gather(*(reader.read(*self.key) for _ in range(5)))
                self.assertEqual({b.source for b in bundles}, {"database"})
                async with conn.transaction():
                    self.assertIn("inside a transaction", (await reader.read(*self.key)).problem)
            await conn.close()

        asyncio.run(main())

    def test_async_psycopg(self):
        async def main():
            async with await psycopg.AsyncConnection.connect(self.conninfo) as conn:
                async with AsyncStrategicReader(conn, deadline=PATIENT) as reader:
                    bundles = await asyncio.gather(*(reader.read(*self.key) for _ in range(5)))
                    self.assertEqual({b.source for b in bundles}, {"database"})
                    await conn.execute("SELECT 1")
                    self.assertIn("inside a transaction", (await reader.read(*self.key)).problem)

        asyncio.run(main())


class WithoutServerTest(unittest.TestCase):
    def test_nothing_listens(self):
        class Refusing:
            def getconn(self, timeout):
                raise OSError("connection refused")

        with StrategicReader(Refusing()) as reader:
            self.assertIn("connection refused", reader.read("u", "b").problem)
            with self.assertRaises(ReadError):
                reader.read("u", "b", strict=True)
