"""Transactions that are big or odd: exact counts, in bounded memory, also when the process is killed in the middle of one."""
import io
import os
import random
import unittest

from harness import PipelineTest, connect, lsn, sentence, wait_until

LONG = os.environ.get("WARMPATH_LONG") == "1"
# Of about 1 kB each.
LARGE_ROWS = 5_000_000 if LONG else 200_000
SUBTRANSACTIONS = 100_000 if LONG else 50_000
SMALL_TRANSACTIONS = 200_000 if LONG else 20_000
ABORTED_ROWS = 1_000_000 if LONG else 50_000
# Program, state.memory and buffers; what matters is that it does not follow the size of the transaction.
RSS_MAX_KIB = 220 * 1024

INSERT = "INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'elena', 'user', %s)"
COUNTS = "SELECT user_id, event_count FROM strategic_conversation_patterns WHERE user_id LIKE %s"


class TransactionsTest(PipelineTest):
    options = {"count": 500}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def peak_kib(self):
        with open(f"/proc/{self.w.process.pid}/status") as f:
            return int(f.read().split("VmHWM:")[1].split()[0])

    def check(self, prefix, expected, seconds=120):
        """{user: count} of the rows whose user begins with prefix, once they are what is expected."""
        seen = None

        def right():
            nonlocal seen
            seen = dict(self.db.run(COUNTS, prefix + "%"))
            return seen == expected

        try:
            wait_until("the counts", right, seconds, alive=self.w)
        except AssertionError as e:
            wrong = {k: (seen.get(k), expected.get(k)) for k in seen.keys() | expected.keys() if seen.get(k) != expected.get(k)}
            raise AssertionError(f"{len(wrong)} counts differ (row, expected): {dict(list(wrong.items())[:10])}\n{e}")
        self.assertEqual([], self.w.dead_letters())
        self.w.check_slot_behind_state()

    def test_one_large_transaction_and_a_kill_in_the_middle_of_it(self):
        users = LARGE_ROWS // 500
        whose = "(g - 1) / 500" if LONG else f"g % {users}"  # in turn, ten thousand keys would be paged in and out
        c = connect(self.db.name, autocommit=False)
        cur = c.cursor()
        cur.execute(f"INSERT INTO chat_message(user_id, bot_name, role, content, created_at) SELECT 'large-' || {whose}, 'elena', "
                    "CASE WHEN g % 3 = 0 THEN 'bot' ELSE 'user' END, repeat(md5(g::text) || ' ', 30), "
                    f"clock_timestamp() - (g % 3600) * interval '1 s' FROM generate_series(1, {LARGE_ROWS}) g")
        cur.execute("SELECT pg_current_wal_insert_lsn()")
        last = lsn(cur.fetchone()[0])
        c.commit()
        c.close()
        shown = "SELECT EXISTS (SELECT FROM strategic_conversation_patterns WHERE user_id LIKE 'large-%')"
        wait_until("a part of it", lambda: self.db.one(shown), 1800 if LONG else 120, alive=self.w)
        self.w.kill()
        # A part of it is durable and even shown, but its COMMIT has not been confirmed: the server sends all of it again.
        self.assertLessEqual(lsn(self.w.slot()["confirmed"]), last)
        self.w.start()
        self.check("large-", {f"large-{u}": LARGE_ROWS // users for u in range(users)}, 1800 if LONG else 120)
        self.assertLess(self.peak_kib(), RSS_MAX_KIB)
        if LONG:
            print(f"{LARGE_ROWS} rows in one transaction: at most {self.peak_kib() // 1024} MiB", flush=True)

    def test_many_subtransactions(self):
        self.db.run(f"""
            DO $$
            BEGIN
                FOR i IN 1..{SUBTRANSACTIONS} LOOP
                    BEGIN
                        INSERT INTO chat_message(user_id, bot_name, role, content)
                        VALUES ('sub-' || i % 50, 'elena', 'user', 'number ' || i);
                        IF i % 10 = 7 THEN
                            RAISE EXCEPTION 'taken back';
                        END IF;
                    EXCEPTION WHEN raise_exception THEN NULL;
                    END;
                END LOOP;
            END $$""")
        each = SUBTRANSACTIONS // 50
        self.check("sub-", {f"sub-{u}": each for u in range(50) if u % 10 != 7})

    def test_many_transactions_of_one_row(self):
        users = SMALL_TRANSACTIONS // 400  # a key keeps 2,048 messages
        self.db.run(f"""
            DO $$
            BEGIN
                SET LOCAL synchronous_commit = off;
                FOR i IN 1..{SMALL_TRANSACTIONS} LOOP
                    INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('small-' || i % {users}, 'elena', 'user', 'x');
                    COMMIT;
                END LOOP;
            END $$""")
        self.check("small-", {f"small-{u}": 400 for u in range(users)})

    def test_many_writers_begin_and_end_in_any_order(self):
        rng = random.Random(11)
        writers = [connect(self.db.name, autocommit=False) for _ in range(12)]
        pending = [{} for _ in writers]
        expected = {}
        for _ in range(1500):
            n = rng.randrange(len(writers))
            what = rng.random()
            if what < 0.7 or not pending[n]:
                user = f"any-{rng.randrange(30)}"
                writers[n].cursor().execute(INSERT, (user, sentence(rng)))
                pending[n][user] = pending[n].get(user, 0) + 1
            elif what < 0.9:
                writers[n].commit()
                for user, k in pending[n].items():
                    expected[user] = expected.get(user, 0) + k
                pending[n] = {}
            else:
                writers[n].rollback()
                pending[n] = {}
        for w in writers:
            w.rollback()
            w.close()
        self.check("any-", expected)

    def test_copied_rows_that_share_a_position_in_the_log(self):
        text = "".join(f"copy-{i % 5}\telena\tuser\tnumber {i}\n" for i in range(2000))
        with self.db.conn.cursor() as cur:
            cur.copy_expert("COPY chat_message(user_id, bot_name, role, content) FROM STDIN", io.StringIO(text))
        self.check("copy-", {f"copy-{u}": 400 for u in range(5)})

    def test_one_transaction_over_many_tables(self):
        c = connect(self.db.name, autocommit=False)
        cur = c.cursor()
        for n in range(40):
            cur.execute(f"CREATE TABLE other_{n}(a int PRIMARY KEY, b text)")
            cur.execute(f"ALTER PUBLICATION {self.w.name} ADD TABLE other_{n}")
        c.commit()
        for n in range(400):
            cur.execute(f"INSERT INTO other_{n % 40} VALUES (%s, 'x')", (n,))
            cur.execute(INSERT, ("tables-1", "between"))
            cur.execute("INSERT INTO memory(memory_id, user_id, bot_name, content) VALUES (%s, 'tables-1', 'elena', 'y')", (f"t-{n}",))
        for n in range(40):
            cur.execute(f"ALTER PUBLICATION {self.w.name} DROP TABLE other_{n}")
        c.commit()
        c.close()
        self.check("tables-", {"tables-1": 400})
        wait_until("the memories", lambda: self.db.one(
            "SELECT (memory_snapshot->>'total')::int FROM strategic_memory_health WHERE user_id = 'tables-1'") == 400, alive=self.w)

    def test_prepared_transactions_count_when_they_are_committed(self):
        c = connect(self.db.name)
        cur = c.cursor()
        for name, n in (("kept", 3), ("dropped", 5)):
            cur.execute("BEGIN")
            for _ in range(n):
                cur.execute(INSERT, ("prepared-1", name))
            cur.execute(f"PREPARE TRANSACTION '{self.w.name} {name}'")
        cur.execute(INSERT, ("prepared-2", "meanwhile"))
        self.check("prepared-", {"prepared-2": 1})
        cur.execute(f"ROLLBACK PREPARED '{self.w.name} dropped'")
        cur.execute(f"COMMIT PREPARED '{self.w.name} kept'")
        c.close()
        self.check("prepared-", {"prepared-1": 3, "prepared-2": 1})

    def test_rows_of_another_origin_and_logical_messages(self):
        c = connect(self.db.name, autocommit=False)
        cur = c.cursor()
        cur.execute("SELECT pg_replication_origin_create(%s)", (self.w.name,))
        cur.execute("SELECT pg_replication_origin_session_setup(%s)", (self.w.name,))
        cur.execute("SELECT pg_replication_origin_xact_setup('0/12345', now())")
        cur.execute(INSERT, ("origin-1", "from elsewhere"))
        cur.execute("SELECT pg_logical_emit_message(true, 'any', 'within'), pg_logical_emit_message(false, 'any', 'beside')")
        cur.execute(INSERT, ("origin-1", "from elsewhere"))
        c.commit()
        cur.execute("SELECT pg_replication_origin_session_reset()")
        cur.execute("SELECT pg_replication_origin_drop(%s)", (self.w.name,))
        c.commit()
        # One that is rolled back: what was not transactional is sent all the same.
        cur.execute(INSERT, ("origin-1", "never there"))
        cur.execute("SELECT pg_logical_emit_message(false, 'any', %s)", ("x" * 300_000,))
        c.rollback()
        c.close()
        self.check("origin-", {"origin-1": 2})

    def test_a_transaction_that_is_rolled_back_after_a_lot(self):
        c = connect(self.db.name, autocommit=False)
        cur = c.cursor()
        cur.execute("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'aborted-' || g %% 10, 'elena', 'user', "
                    "repeat(md5(g::text), 30) FROM generate_series(1, %s) g", (ABORTED_ROWS,))
        self.db.run(INSERT, "aborted-x", "meanwhile")
        c.rollback()
        c.close()
        self.check("aborted-", {"aborted-x": 1})


if __name__ == "__main__":
    unittest.main()
