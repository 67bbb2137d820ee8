"""The in-process cache: what it serves, for how long, and that an announcement, a lost connection or a read that races with one of
them never leaves an old row in it. First its rules by themselves, then with real sessions under concurrent writes."""
import asyncio
import contextlib
import json
import threading
import unittest

import asyncpg
import psycopg
import psycopg_pool

import support
from support import PATIENT, TABLES, ClientTest, async_wait_until, wait_until
from warmpath import AsyncStrategicReader, Bundle, BundleCache, Freshness, StrategicReader
from warmpath.cache import Announcement
from warmpath.model import ConversationPatterns

KEY = ("u", "b", 168)
# Nothing ends by itself, however slow the machine is.
CALM = {"deadline": PATIENT, "cache_lease": 3600.0, "max_age": 3600.0}


def payload(user="u", bot="b", version=2, reason="count", tables=("strategic_conversation_patterns",)):
    return json.dumps({"bot_name": bot, "user_id": user, "tables": list(tables), "row_version": version, "reason": reason})


class RulesTest(unittest.TestCase):
    """On a clock of its own, without a server."""

    def setUp(self):
        self.now = 100.0
        self.cache = BundleCache(size=3, lease=5.0, clock=lambda: self.now)
        self.cache.connected(self.now)

    def land(self, key=KEY, version=1, seconds=1000.0, flight=None):
        bundle = Bundle(user_id=key[0], bot_name=key[1], window=key[2], conversation=ConversationPatterns(row_version=version))
        return self.cache.land(flight or self.cache.begin(key), (version,), bundle, seconds)

    def prove(self, seconds=0.0):
        self.now += seconds
        self.cache.proven(self.now)

    def test_a_row_is_served_until_it_ends(self):
        self.assertIsNone(self.cache.get(KEY))
        self.assertTrue(self.land(seconds=10))
        self.assertEqual(self.cache.get(KEY), (1,))
        self.prove(9.9)
        self.assertEqual(self.cache.get(KEY), (1,))
        self.prove(0.2)
        self.assertIsNone(self.cache.get(KEY))
        self.assertEqual(len(self.cache), 0)

    def test_time_counts_from_the_moment_the_read_was_sent(self):
        flight = self.cache.begin(KEY)
        self.prove(8)
        self.assertTrue(self.land(seconds=10, flight=flight))
        self.prove(2)
        self.assertIsNone(self.cache.get(KEY))

    def test_nothing_is_served_without_a_proof_that_the_connection_lives(self):
        self.land()
        self.now += 4.9
        self.assertEqual(self.cache.get(KEY), (1,))
        self.now += 0.2
        self.assertFalse(self.cache.listening)
        self.assertIsNone(self.cache.get(KEY))
        self.assertFalse(self.land(("v", "b", 168)))

    def test_a_lost_connection_empties_it_until_the_next_one(self):
        self.land()
        flight = self.cache.begin(("v", "b", 168))
        self.cache.lost()
        self.cache.proven(self.now)
        self.assertIsNone(self.cache.get(KEY))
        self.assertFalse(self.land(("w", "b", 168)))
        between = self.cache.begin(("x", "b", 168))
        self.cache.connected(self.now)
        self.assertIsNone(self.cache.get(KEY))
        for f in (flight, between):  # they began before, and may have missed an announcement
            self.assertFalse(self.land(f.key, flight=f))
        self.assertTrue(self.land())

    def test_an_announcement_drops_what_is_older(self):
        self.land(version=1)
        self.cache.announce(payload(version=2))
        self.assertIsNone(self.cache.get(KEY))

    def test_an_announcement_of_what_is_older_drops_nothing(self):
        self.land(version=3)
        self.cache.announce(payload(version=2))
        self.assertEqual(self.cache.get(KEY), (3,))
        # That the row of one table is newer says nothing of another one's.
        self.cache.announce(payload(version=2, tables=("strategic_conversation_patterns", "strategic_memory_health")))
        self.assertIsNone(self.cache.get(KEY))

    def test_the_same_version_may_be_wrong_by_now(self):
        """Rows that are declared wrong keep their version, and the reason is any word of the application."""
        self.land(version=2)
        self.cache.announce(payload(version=2, reason="refresh"))
        self.assertIsNone(self.cache.get(KEY))

    def test_what_is_wrong_goes_whatever_its_version(self):
        for reason in ("invalidated", "erase", "retraction", "something new", None):
            self.land(version=9)
            self.cache.announce(payload(version=2, reason=reason))
            self.assertIsNone(self.cache.get(KEY), reason)

    def test_a_read_that_meets_an_announcement_is_not_kept(self):
        flight = self.cache.begin(KEY)
        self.cache.announce(payload(version=2))
        self.assertFalse(self.land(version=1, flight=flight))
        self.assertIsNone(self.cache.get(KEY))
        self.assertTrue(self.land(version=2))
        other = self.cache.begin(KEY)
        self.cache.announce(payload(user="somebody else"))
        self.assertTrue(self.land(flight=other))

    def test_whom_an_announcement_concerns(self):
        keys = [("u", "b", 24), ("u", "c", 168), ("v", "b", 168)]
        for user, bot, gone in (("u", "b", keys[:1]), (None, "b", [keys[0], keys[2]]), ("", "b", [keys[0], keys[2]]), ("u", None, keys[:2]),
                                (None, None, keys), ("x", "b", [])):
            for key in keys:
                self.land(key)
            self.cache.announce(payload(user, bot))
            self.assertEqual([k for k in keys if self.cache.get(k) is None], gone, (user, bot))

    def test_a_new_character_concerns_every_user_of_the_bot(self):
        self.land()
        other = ("u", "c", 168)
        self.land(other)
        self.cache.announce(payload(user="somebody else", reason="character"))
        self.assertIsNone(self.cache.get(KEY))
        self.assertIsNotNone(self.cache.get(other))

    def test_what_cannot_be_read_may_have_been_about_anything(self):
        for text in ("", "{", "[]", "3", '{"user_id": 3}', '{"tables": "x"}', '{"tables": [1]}', '{"row_version": "1"}',
                     '{"row_version": true}', "[" * 100_000, '{"bot_name": {}}'):
            self.land()
            flight = self.cache.begin(("v", "b", 168))
            self.assertIsNone(self.cache.announce(text))
            self.assertIsNone(self.cache.get(KEY), text[:20])
            self.assertFalse(self.land(flight.key, flight=flight))
        self.assertEqual(self.cache.counters.unreadable, 11)

    def test_the_least_recently_used_makes_room(self):
        keys = [(name, "b", 168) for name in "abcd"]
        for key in keys[:3]:
            self.land(key)
        self.cache.get(keys[0])
        self.land(keys[3])
        self.assertEqual([k[0] for k in keys if self.cache.get(k)], ["a", "c", "d"])
        self.assertEqual(self.cache.counters.evicted, 1)

    def test_the_payload_of_the_sink(self):
        a = Announcement.parse('{"bot_name":"elena","reason":"count","row_version":12,"tables":["strategic_memory_health"],"user_id":null}')
        self.assertEqual(a, Announcement("elena", None, ("strategic_memory_health",), 12, "count"))


class SyncFront:
    """A cached reader of psycopg."""

    def __init__(self, test, listen=None, **options):
        self.pool = psycopg_pool.ConnectionPool(test.conninfo, min_size=4, max_size=4, open=True)
        self.reader = StrategicReader(self.pool, listen=listen or test.conninfo, **{**CALM, **options})
        wait_until("the listener", lambda: self.reader.cache.listening)

    def close(self):
        self.reader.close()
        self.pool.close()


class SessionsTest(ClientTest):
    """With real connections."""

    def front(self, **options):
        return contextlib.closing(SyncFront(self, **options))

    def test_the_second_read_needs_no_database(self):
        key = self.new_key()
        self.write_all(key)
        with self.front() as front:
            first, second = front.reader.read(*key), front.reader.read(*key)
            self.assertEqual((first.source, second.source), ("database", "memory"))
            self.assertEqual(first.components, second.components)
            # Nobody can spoil the next one's rows.
            second.conversation.recent_topics.clear()
            self.assertEqual(front.reader.read(*key).components, first.components)

    def test_an_announced_row_is_read_again(self):
        key, other = self.new_key(), self.new_key()
        for k in (key, other):
            self.write_all(k)
        with self.front() as front:
            for k in (key, other):
                front.reader.read(*k)
            self.write(TABLES[2], key, version=2)
            self.announce(key, 2, tables=[TABLES[2]])
            wait_until("the new row", lambda: front.reader.read(*key).conversation.row_version == 2)
            self.assertEqual(front.reader.read(*other).source, "memory")

    def test_a_missing_row_is_kept_and_its_arrival_announced(self):
        key = self.new_key()
        with self.front() as front:
            front.reader.read(*key)
            self.assertEqual(front.reader.read(*key).source, "memory")
            self.write_all(key)
            self.announce(key, 1)
            wait_until("the first row", lambda: front.reader.read(*key).conversation.freshness is Freshness.FRESH)

    def test_rows_leave_with_their_freshness(self):
        """A row that is about to expire, and one that only the processor's word keeps current, are not kept beyond that."""
        ending, proven, stale = self.new_key(), self.new_key(), self.new_key()
        for key, state in ((ending, "fresh"), (proven, "current"), (stale, "stale")):
            self.write(TABLES[2], key, state)
        with self.front(recheck=0.5) as front:
            self.sink.run("UPDATE strategic_conversation_patterns SET expires_at = now() + interval '2 seconds', valid_until = NULL "
                          "WHERE user_id = %s", ending[0])
            front.reader.read(*ending)
            self.wait_in_database("expires_at FROM strategic_conversation_patterns WHERE user_id = %s", ending[0])
            self.assertIs(front.reader.read(*ending).conversation.freshness, Freshness.STALE)
            self.assertIs(front.reader.read(*stale).conversation.freshness, Freshness.STALE)
            wait_until("a stale row to be looked at again", lambda: front.reader.read(*stale).source == "database")
            try:
                # It has been silent for 58 seconds: what is read now is proven for two more.
                self.beat(heartbeat="now() - interval '58 s'")
                front.reader.read(*proven)
                self.wait_in_database("heartbeat + interval '60 s' FROM strategic_processor")
                self.assertIs(front.reader.read(*proven).conversation.freshness, Freshness.STALE)
            finally:
                self.beat()

    def wait_in_database(self, moment, *args):
        """Until the database's clock has passed it."""
        wait_until(moment, lambda: self.sink.one(f"SELECT clock_timestamp() > {moment}", *args))

    def test_a_lost_listen_connection_empties_the_cache(self):
        """Nothing that was committed while nobody listened is missed: from the moment of the loss rows come from the database."""
        key = self.new_key()
        self.write_all(key)
        attempts = []
        blocked = threading.Event()

        def connect():
            attempts.append(1)
            if blocked.is_set():
                raise OSError("not now")
            return psycopg.connect(self.conninfo, autocommit=True, application_name="listener")

        with self.front(listen=connect) as front:
            front.reader.read(*key)
            self.assertEqual(front.reader.read(*key).source, "memory")
            blocked.set()
            self.sink.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener' "
                          "AND datname = current_database()")
            wait_until("the loss to be noticed", lambda: not front.reader.cache.listening)
            self.write(TABLES[2], key, version=2)  # announced to nobody
            self.assertEqual(front.reader.read(*key).conversation.row_version, 2)
            self.assertEqual(front.reader.read(*key).source, "database")
            self.assertIn("not now", wait_until("an attempt", lambda: len(attempts) > 1 and front.reader.listener.problem))
            self.write(TABLES[2], key, version=3)
            blocked.clear()
            wait_until("the next connection", lambda: front.reader.cache.listening)
            self.assertEqual(front.reader.read(*key).conversation.row_version, 3)
            self.assertEqual(front.reader.read(*key).source, "memory")

    def test_readers_never_go_back_under_concurrent_writes(self):
        """Threads read through one cache while a writer commits new versions and announces them in the same transaction. Whoever starts
        to read after the announcement of a version was processed sees that version or a newer one."""
        keys = [self.new_key() for _ in range(3)]
        for key in keys:
            self.write_all(key)
        announced = {key: 1 for key in keys}
        problems, sources = [], set()
        stop = threading.Event()
        with self.front() as front:
            announce = front.reader.cache.announce

            def remember(text):
                a = announce(text)
                announced[(a.user_id, a.bot_name)] = a.row_version  # of one listener, so in order
                return a

            front.reader.listener._cache = _Forwarding(front.reader.cache, remember)

            def read():
                while not stop.wait(0.001):  # or the writer would hardly get to run
                    for key in keys:
                        least = announced[key]
                        bundle = front.reader.read(*key)
                        sources.add(bundle.source)
                        versions = {c.row_version for t, c in bundle.components.items() if t != TABLES[-1]}
                        if bundle.problem or min(versions) < least or len(versions) > 1:
                            problems.append((bundle.problem, least, versions, bundle.source))

            threads = [threading.Thread(target=read) for _ in range(3)]
            for thread in threads:
                thread.start()
            conn = support.harness.connect(self.db.name, autocommit=False)
            try:
                for version in range(2, 60):
                    for key in keys[: 1 + version % 3]:
                        for table in TABLES[:-1]:
                            self.write(table, key, version=version, conn=conn)
                        self.announce(key, version, conn=conn)
                        conn.commit()
                for key in keys:
                    last = max(v for v in range(2, 60) if keys.index(key) < 1 + v % 3)
                    wait_until("the last announcement", lambda: announced[key] == last)
                    wait_until("a hit", lambda: front.reader.read(*key).source == "memory")
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
                conn.close()
        self.assertEqual(problems[:5], [])
        self.assertEqual(sources, {"database", "memory"})

    def test_a_slow_read_that_an_announcement_overtakes_is_not_kept(self):
        """The read has its snapshot and waits; the row changes and is announced; then the read ends with what was before."""
        key = self.new_key()
        self.write_all(key)
        with self.front() as front:
            gate = support.harness.connect(self.db.name)
            gate.cursor().execute("SELECT pg_advisory_lock(1)")
            query = front.reader._core.query
            slow = query.sql.replace("date_part('epoch', now())", "(SELECT date_part('epoch', now()) FROM (SELECT pg_advisory_lock_shared(1)) x)", 1)
            front.reader._statement._sql = slow.encode()
            front.reader._statement._name = b"warmpath_slow"
            result = []
            thread = threading.Thread(target=lambda: result.append(front.reader.read(*key)))
            thread.start()
            wait_until("the read to wait", lambda: self.sink.one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
            self.write(TABLES[2], key, version=2)
            self.announce(key, 2)
            flight, = front.reader.cache._flights
            wait_until("the announcement", lambda: flight.spoiled)
            gate.close()
            thread.join(support.WAIT)
            self.assertEqual(result[0].conversation.row_version, 1)
            self.assertEqual(front.reader.read(*key).conversation.row_version, 2)
            self.assertEqual(front.reader.cache.counters.spoiled, 1)


class _Forwarding:
    """A cache whose announce() is another."""

    def __init__(self, cache, announce):
        self._cache = cache
        self.announce = announce

    def __getattr__(self, name):
        return getattr(self._cache, name)


class AsyncSessionsTest(ClientTest):
    """The listeners of both asynchronous drivers."""

    def each(self, body):
        async def with_asyncpg():
            async with asyncpg.create_pool(**self.dsn, min_size=2, max_size=2) as pool:
                await run(pool, lambda: asyncpg.connect(**self.dsn, server_settings={"application_name": "listener"}))

        async def with_psycopg():
            async with psycopg_pool.AsyncConnectionPool(self.conninfo, min_size=2, max_size=2, open=False) as pool:
                await run(pool, self.conninfo + " application_name=listener")

        async def run(pool, listen):
            async with AsyncStrategicReader(pool, listen=listen, **CALM) as reader:
                await async_wait_until("the listener", lambda: reader.cache.listening)
                await body(reader)

        for main in (with_asyncpg, with_psycopg):
            with self.subTest(main.__name__):
                asyncio.run(main())

    def test_an_announced_row_is_read_again(self):
        async def body(reader):
            key = self.new_key()
            self.write_all(key)
            self.assertEqual([(await reader.read(*key)).source for _ in range(2)], ["database", "memory"])
            for version in range(2, 20):
                self.write(TABLES[2], key, version=version)
                self.announce(key, version)

                async def is_new():
                    return (await reader.read(*key)).conversation.row_version == version

                await async_wait_until(f"version {version}", is_new)

        self.each(body)

    def test_a_lost_listen_connection_empties_the_cache(self):
        async def body(reader):
            key = self.new_key()
            self.write_all(key)
            await reader.read(*key)
            for version in range(2, 4):
                # The loss and the change come together: what follows the loss must not be missed.
                self.sink.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'listener' "
                              "AND datname = current_database()")
                self.write(TABLES[2], key, version=version)

                async def is_new():
                    return (await reader.read(*key)).conversation.row_version == version

                await async_wait_until("the row that was announced to nobody", is_new)

                async def from_memory():
                    return (await reader.read(*key)).source == "memory"

                await async_wait_until("the cache to be used again", from_memory)

        self.each(body)

    def test_concurrent_tasks(self):
        async def body(reader):
            keys = [self.new_key() for _ in range(20)]
            for key in keys:
                self.write_all(key)
            bundles = await asyncio.gather(*(reader.read(*key) for _ in range(10) for key in keys))
            self.assertEqual({b.problem for b in bundles}, {None})
            self.assertEqual({b.user_id for b in bundles if b.conversation.freshness is Freshness.FRESH}, {k[0] for k in keys})

        self.each(body)
