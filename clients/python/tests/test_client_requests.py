"""What an application asks for in its own transaction: by every driver, with the commit and not without it, heard by readers with a cache,
and answered by a real run."""
import asyncio
import contextlib

import asyncpg
import psycopg
import psycopg2
import psycopg_pool

import warmpath
from support import PATIENT, ClientTest, wait_until
from warmpath import Freshness, StrategicReader

CALM = {"deadline": PATIENT, "cache_lease": 3600.0, "max_age": 3600.0}


class RequestsTest(ClientTest):
    """Nothing runs: what was asked for waits in the database, and what it does at once can be seen."""

    @contextlib.contextmanager
    def cached(self):
        with psycopg_pool.ConnectionPool(self.conninfo, min_size=2, max_size=2) as pool, \
                StrategicReader(pool, listen=self.conninfo, **CALM) as reader:
            wait_until("the listener", lambda: reader.cache.listening)
            yield reader

    def freshness(self, reader, key):
        return reader.read(*key).conversation.freshness

    def asked(self, key):
        return self.sink.run("SELECT op, bot_name, reason FROM strategic_request WHERE user_id = %s ORDER BY id", key[0])

    def with_each_driver(self, body):
        """body(key, ask, end): ask(name, *args) on a connection inside a transaction, end(commit) ends that."""
        for connect in (psycopg.connect, psycopg2.connect):
            with self.subTest(connect.__module__):
                conn = connect(self.conninfo)
                body(self.new_key(), lambda name, *args: getattr(warmpath, name)(conn, *args),
                     lambda commit: conn.commit() if commit else conn.rollback())
                conn.close()
        with asyncio.Runner() as loop:
            with self.subTest("async psycopg"):
                conn = loop.run(psycopg.AsyncConnection.connect(self.conninfo))
                body(self.new_key(), lambda name, *args: loop.run(getattr(warmpath, "async_" + name)(conn, *args)),
                     lambda commit: loop.run(conn.commit() if commit else conn.rollback()))
                loop.run(conn.close())
            with self.subTest("asyncpg"):
                conn = loop.run(asyncpg.connect(**self.dsn))
                loop.run(conn.execute("BEGIN"))

                def end(commit):
                    loop.run(conn.execute("COMMIT" if commit else "ROLLBACK"))
                    loop.run(conn.execute("BEGIN"))

                body(self.new_key(), lambda name, *args: loop.run(getattr(warmpath, "async_" + name)(conn, *args)), end)
                loop.run(conn.close())

    def test_invalid_with_the_commit_also_in_memory(self):
        with self.cached() as reader:
            def body(key, ask, end):
                self.write_all(key)
                self.assertIs(self.freshness(reader, key), Freshness.FRESH)
                self.assertEqual(reader.read(*key).source, "memory")
                ask("invalidate", *key, "refresh")  # a reason that is also a word of the feed's own
                end(False)
                self.assertEqual(self.asked(key), [])
                self.assertIs(self.freshness(reader, key), Freshness.FRESH)
                ask("invalidate", *key, "refresh")
                self.assertIs(self.freshness(reader, key), Freshness.FRESH)
                end(True)
                wait_until("the reader to know", lambda: self.freshness(reader, key) is Freshness.INVALID)
                self.assertIsNone(reader.read(*key).conversation.recent_topics)
                self.assertEqual(self.asked(key), [("invalidate", key[1], "refresh")])

            self.with_each_driver(body)

    def test_what_is_asked_for_arrives(self):
        def body(key, ask, end):
            ask("touch", *key)
            ask("recompute", key[0])
            end(True)
            self.assertEqual(self.asked(key), [("touch", key[1], None), ("recompute", None, None)])

        self.with_each_driver(body)


class AnsweredTest(ClientTest):
    def test_a_run_makes_invalid_rows_right(self):
        self.w.start()
        user, bot = "ann", "elena"
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT %s, %s, 'user', 'about the coffee machine ' || i "
                    "FROM generate_series(1, 15) i", user, bot)
        with psycopg.connect(self.conninfo) as writing, psycopg.connect(self.conninfo, autocommit=True) as reading, \
                StrategicReader(reading, listen=self.conninfo, **CALM) as reader:
            def conversation():
                self.assertTrue(self.w.running(), self.w.log_tail())
                return reader.read(user, bot).conversation

            wait_until("the rows", lambda: (c := conversation()).usable and c.event_count == 15)
            # Nothing else is due: only what follows from the request can make a newer row.
            for request in (warmpath.invalidate, warmpath.recompute):
                before = conversation().row_version
                request(writing, user, bot)
                writing.commit()
                wait_until(f"a newer row after {request.__name__}", lambda: (c := conversation()).usable and c.row_version > before)
            warmpath.touch(writing, user, bot)
            writing.commit()
            self.w.wait_covered()
        self.assertEqual(self.w.dead_letters(), [])
        self.assertEqual(self.w.stop(), 0)
