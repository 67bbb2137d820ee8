"""The readers beside a real `warmpath run`: its rows, its announcements, and what an application asks of it."""
import asyncio
import contextlib

import asyncpg
import psycopg
import psycopg_pool

from support import PATIENT, ClientTest, async_wait_until, wait_until
from warmpath import AsyncStrategicReader, Freshness, StrategicReader

CALM = {"deadline": PATIENT, "cache_lease": 3600.0, "max_age": 3600.0}


class RunTest(ClientTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def say(self, user, bot, n, role="user"):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT %s, %s, %s, 'about coffee and the garden ' || i "
                    "FROM generate_series(1, %s) i", user, bot, role, n)

    def wait(self, what, condition):
        return wait_until(what, lambda: condition() or (self.assertTrue(self.w.running(), self.w.log_tail()) and None))

    def test_rows_and_announcements_of_a_real_run(self):
        """Every message arrives in a reader that only asks the database again when something was announced."""
        with psycopg_pool.ConnectionPool(self.conninfo, min_size=2, max_size=2) as pool, \
                StrategicReader(pool, listen=self.conninfo, details=True, **CALM) as reader:
            self.wait("the listener", lambda: reader.cache.listening)
            user, bot = "real user", "elena"
            self.assertIs(reader.read(user, bot).conversation.freshness, Freshness.MISSING)
            total = 0
            for n in (12, 1, 30):
                self.say(user, bot, n)
                total += n
                self.wait(f"{total} messages", lambda: reader.read(user, bot).conversation.event_count == total)
            bundle = reader.read(user, bot)
            self.assertTrue(bundle.conversation.usable)
            self.assertEqual(bundle.conversation.communication_style["n"], total)
            self.assertGreater(bundle.conversation.confidence, 0)
            self.assertIn("params", bundle.conversation.details)
            self.wait("a read from memory", lambda: reader.read(user, bot).source == "memory")

    def test_an_event_loop_hears_of_it_as_well(self):
        async def main():
            user, bot = "other user", "elena"
            async with asyncpg.create_pool(**self.dsn, min_size=2, max_size=2) as pool:
                async with AsyncStrategicReader(pool, listen=lambda: asyncpg.connect(**self.dsn), **CALM) as reader:
                    await async_wait_until("the listener", lambda: reader.cache.listening)
                    for total in (5, 10):
                        self.say(user, bot, 5)

                        async def counted():
                            return (await reader.read(user, bot)).conversation.event_count == total

                        await async_wait_until(f"{total} messages", counted)

        asyncio.run(main())

    def test_lite_reads_have_the_plain_columns_of_the_same_rows(self):
        user, bot = "lite user", "elena"
        self.say(user, bot, 20)
        with contextlib.closing(psycopg.connect(self.conninfo, autocommit=True)) as conn, \
                StrategicReader(conn, deadline=PATIENT) as whole, StrategicReader(conn, deadline=PATIENT, lite=True) as lite:
            def plain(reader):
                b = reader.read(user, bot)
                self.assertIsNone(b.problem)
                return b, [(c.freshness.usable, c.confidence) for c in b.components.values()] + [
                    b.engagement.last_user_message_at, b.conversation.context_switch_frequency, b.conversation.predicted_switch_likelihood]

            # Rows may be written between the two reads.
            self.wait("the row", lambda: whole.read(user, bot).conversation.event_count == 20)
            self.wait("equal columns", lambda: plain(whole)[1] == plain(lite)[1] and whole.read(user, bot).engagement.last_user_message_at)
            a, b = plain(whole)[0], plain(lite)[0]
            self.assertTrue(b.conversation.usable)
            self.assertIsNotNone(b.conversation.confidence)
            self.assertIsNotNone(a.conversation.communication_style)
            self.assertIsNone(b.conversation.communication_style)

    def test_lite_reads_cannot_be_cached(self):
        with self.assertRaises(ValueError):
            StrategicReader(object(), listen=self.conninfo, lite=True)
