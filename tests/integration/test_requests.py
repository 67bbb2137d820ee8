"""What applications ask for in their own transactions: strategic_invalidate(), strategic_recompute(), strategic_touch(), the statement
trigger, and the commands; that readers never see a row again whose cause was taken back, whatever runs beside it or crashes."""
import contextlib
import os
import random
import signal
import threading

import psycopg2

from harness import Load, PipelineTest, connect, wait_until

ROW = "strategic_conversation_patterns"
DERIVED = {
    "strategic_memory_health": "memory_snapshot = '{}' AND forgetting_risk_memories IS NULL",
    ROW: "recent_topics IS NULL AND topic_transition_graph IS NULL AND communication_style IS NULL",
    "strategic_engagement_opportunities": "suggested_topics IS NULL AND opportunities IS NULL",
}


def say(db, user, bot, n, word="garden"):
    db.run("INSERT INTO chat_message (user_id, bot_name, role, content) SELECT %s, %s, 'user', 'the ' || %s || ' needs water, number ' || i "
           "FROM generate_series(1, %s) i", user, bot, word, n)


class RequestTest(PipelineTest):
    def rows(self, user, bot=None):
        """{(table, bot): (row_version, valid)} of the user"""
        found = {}
        for table in DERIVED:
            for name, version, valid in self.sink.run(f"SELECT bot_name, row_version, invalidated_at IS NULL FROM {table} "
                                                      "WHERE user_id = %s AND (%s::text IS NULL OR bot_name = %s)", user, bot, bot):
                found[table, name] = (version, valid)
        return found

    def count(self, user, bot="elena"):
        """event_count of the conversation row, None while it is invalid or missing"""
        return self.sink.one(f"SELECT event_count FROM {ROW} WHERE user_id = %s AND bot_name = %s AND invalidated_at IS NULL", user, bot)

    def wait_count(self, user, n, bot="elena"):
        wait_until(f"the row of {user} with {bot} to show {n} messages", lambda: self.count(user, bot) == n, 60, alive=self.w)

    def wait_recorded(self, here):
        wait_until("the instance to record where requests go",
                   lambda: self.sink.run("SELECT here FROM strategic_source WHERE pipeline = %s", self.name) == [(here,)], alive=self.w)

    def new_rows(self, user, before, bot=None):
        def all_new():
            now = self.rows(user, bot)
            return now and all(valid and version > before.get(key, (0,))[0] for key, (version, valid) in now.items())
        wait_until(f"new rows of {user}", all_new, 60, alive=self.w)


class Watcher(threading.Thread):
    """Reads a row again and again, and keeps every event_count that a reader could have taken for right."""

    def __init__(self, database, user):
        super().__init__(daemon=True)
        self.database, self.user = database, user
        self.seen, self.reads = set(), 0
        self.ended = threading.Event()

    def run(self):
        conn = connect(self.database)
        try:
            cur = conn.cursor()
            while not self.ended.is_set():
                cur.execute(f"SELECT event_count FROM {ROW} WHERE user_id = %s AND invalidated_at IS NULL", (self.user,))
                self.seen.update(n for n, in cur.fetchall())
                self.reads += 1
        finally:
            conn.close()

    def __enter__(self):
        self.start()
        wait_until("the first read", lambda: self.reads)
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


@contextlib.contextmanager
def stopped_reader(test):
    """The instance works, and hears nothing of what is committed."""
    pid = test.db.one("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active", test.name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class RequestsTest(RequestTest):
    def setUp(self):
        if not self.w.running():
            self.w.start()
        self.wait_recorded(True)

    def tearDown(self):
        if self.w.running():
            self.assertEqual(0, self.w.stop())

    def test_a_row_is_invalid_at_commit_and_right_afterwards(self):
        say(self.db, "ann", "elena", 6)
        self.wait_count("ann", 6)
        app = connect(self.name, autocommit=False)
        try:
            cur = app.cursor()
            cur.execute("SELECT strategic_invalidate('ann', 'Elena', 'edit')")
            cur.execute("DELETE FROM chat_message WHERE id = (SELECT max(id) FROM chat_message WHERE user_id = 'ann')")
            self.assertEqual(6, self.count("ann"))  # of others nobody sees anything before COMMIT, and no row is locked
            self.db.run(f"SELECT FROM {ROW} WHERE user_id = 'ann' FOR UPDATE NOWAIT")
            self.w.pause()
            app.commit()
        finally:
            app.close()
        for table, derived in DERIVED.items():
            for row in self.db.run(f"SELECT {derived}, details IS NULL, expires_at <= now(), invalidated_at IS NOT NULL "
                                   f"FROM {table} WHERE user_id = 'ann'"):
                self.assertEqual((True,) * 4, row, table)
        self.assertEqual("invalid", self.db.one("SELECT cp_f FROM strategic_bundle('ann', 'elena')"))
        self.w.process.send_signal(signal.SIGCONT)
        self.wait_count("ann", 5)
        self.w.wait_covered()
        self.w.verify()
        self.assertEqual(0, self.db.one("SELECT count(*) FROM strategic_request"))

    def test_b_a_row_from_before_does_not_come_back(self):
        """It was computed, and the sink has it in hand, when the transaction commits; its cause is read much later."""
        say(self.db, "ben", "elena", 5)
        self.wait_count("ben", 5)
        with connect(self.name, autocommit=False) as fence:  # the sink waits for it before it locks any row
            fence.cursor().execute("SELECT FROM strategic_epoch FOR UPDATE")
            say(self.db, "ben", "elena", 5)
            self.w.wait_covered()
            with stopped_reader(self):
                before = self.db.one("SELECT row_version FROM strategic_progress WHERE pipeline = %s", self.name)
                self.db.run("DELETE FROM chat_message WHERE id = (SELECT max(id) FROM chat_message WHERE user_id = 'ben'); "
                            "SELECT strategic_invalidate('ben', 'elena')")
                with Watcher(self.name, "ben") as watcher:
                    fence.rollback()
                    wait_until("the sink to try the row", lambda: self.db.one(
                        "SELECT row_version > %s FROM strategic_progress WHERE pipeline = %s", before, self.name), 60, alive=self.w)
                self.assertEqual(set(), watcher.seen)
                self.assertEqual((False, True), self.db.run(f"SELECT invalidated_at IS NULL, recent_topics IS NULL FROM {ROW} "
                                                            "WHERE user_id = 'ben'")[0])
        fence.close()
        with Watcher(self.name, "ben") as watcher:
            self.wait_count("ben", 9)
        self.assertLessEqual(watcher.seen, {9})

    def test_c_a_crash_anywhere_between_changes_nothing(self):
        say(self.db, "eve", "elena", 5)
        self.wait_count("eve", 5)
        for n, point in enumerate(("rows_before_submit", "sink_before_commit", "sink_after_commit", "frame_before_send")):
            with self.subTest(point):
                self.assertEqual(0, self.w.stop())
                self.db.run("DELETE FROM chat_message WHERE id = (SELECT max(id) FROM chat_message WHERE user_id = 'eve'); "
                            "SELECT strategic_invalidate('eve', 'elena')")
                with Watcher(self.name, "eve") as watcher:
                    self.w.spawn(env={"WARMPATH_FAULT": f"{point}:1:abort"})
                    self.assertEqual(-signal.SIGKILL, self.w.wait(60))
                    self.w.start()
                    self.wait_count("eve", 4 - n)
                self.assertLessEqual(watcher.seen, {4 - n})
        self.w.wait_covered()
        self.w.verify()

    def test_d_commands(self):
        for bot in ("elena", "marcus", "jake"):
            say(self.db, "carl", bot, 5)
            self.wait_count("carl", 5, bot)
        before = self.rows("carl")
        self.assertIn("computed", self.w.must("recompute", "carl"))
        after = self.rows("carl")
        self.assertEqual(set(before), set(after))
        self.assertTrue(all(after[key][0] > before[key][0] for key in before))
        self.assertIn("computed", self.w.must("invalidate", "carl", "Elena", "--reason", "test"))
        self.assertIn("there are no rows", self.w.must("invalidate", "nobody", "elena"))
        for wrong, text in ((("invalidate", "carl", "..."), "holds no letter"), (("invalidate", "", "elena"), "USER is empty"),
                            (("recompute", "carl", "--wait", "soon"), "--wait")):
            code, _, err = self.w.command(*wrong)
            self.assertEqual(64, code, err)
            self.assertIn(text, err)
        self.assertEqual(0, self.w.stop())
        wait_until("the lease to end", lambda: not self.db.run("SELECT FROM strategic_lease WHERE pipeline = %s AND until > now()", self.name), 60)
        code, _, err = self.w.command("invalidate", "carl", "elena")
        self.assertEqual(1, code)
        self.assertIn("no instance is running", err)
        self.assertFalse(self.rows("carl")[ROW, "elena"][1])
        self.assertTrue(self.rows("carl")[ROW, "jake"][1])
        self.w.start()
        self.wait_count("carl", 5)

    def test_e_what_anybody_can_emit(self):
        say(self.db, "fay", "elena", 5)
        self.wait_count("fay", 5)
        before, letters = self.rows("fay"), len(self.w.dead_letters())
        bad = ["", "{", "[]", '{"op":"drop","user_id":"fay","at":1}', '{"op":"invalidate","user_id":"fay"}',
               '{"op":"invalidate","user_id":"fay","at":9223372036854775807}', "[" * 100000, '{"op":"touch","user_id":"' + "x" * 5000 + '","at":1}']
        for content in bad:
            self.db.run("SELECT pg_logical_emit_message(true, 'warmpath.request', %s)", content)
        self.db.run("SELECT pg_logical_emit_message(false, 'warmpath.request', %s)", '{"op":"invalidate","user_id":"fay","at":1}')
        self.db.run("SELECT pg_logical_emit_message(true, 'warmpath.request', %s)", '{"op":"recompute","user_id":"fay","at":1}')
        self.new_rows("fay", before)
        wait_until("the dead letters", lambda: len(self.w.dead_letters()) == letters + len(bad), alive=self.w)
        self.assertEqual({"request"}, {letter["where"] for letter in self.w.dead_letters()})
        say(self.db, "fay", "elena", 1)
        self.wait_count("fay", 6)

    def test_f_a_watched_table_invalidates_by_itself(self):
        self.db.run("SELECT strategic_watch('chat_message', 'user_id', 'bot_name', p_columns => '{content}')")
        try:
            say(self.db, "gil", "elena", 6)
            self.wait_count("gil", 6)
            self.db.run("UPDATE chat_message SET metadata = '{\"seen\": true}' WHERE user_id = 'gil'")
            self.assertEqual(6, self.count("gil"))
            self.w.pause()
            self.db.run("UPDATE chat_message SET content = 'no' WHERE id = (SELECT min(id) FROM chat_message WHERE user_id = 'gil')")
            self.assertIsNone(self.count("gil"))
            self.w.process.send_signal(signal.SIGCONT)
            self.wait_count("gil", 6)
            self.w.pause()
            self.db.run("DELETE FROM chat_message WHERE id = (SELECT min(id) FROM chat_message WHERE user_id = 'gil')")
            self.assertIsNone(self.count("gil"))
            self.w.process.send_signal(signal.SIGCONT)
            self.wait_count("gil", 5)
        finally:
            self.db.run("SELECT strategic_unwatch('chat_message')")
        self.assertEqual(0, self.db.one("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'strategic_watch%'"))

    def test_g_an_application_is_not_made_to_fail(self):
        """Whatever the sink writes meanwhile, and in whichever order users are named."""
        say(self.db, "hal", "elena", 5)
        self.wait_count("hal", 5)
        app = connect(self.name, autocommit=False)
        app.set_session(isolation_level="REPEATABLE READ")
        app.cursor().execute("SELECT strategic_invalidate('hal')")
        say(self.db, "hal", "elena", 5)
        self.wait_count("hal", 10)
        app.commit()  # the row has changed since its snapshot
        app.close()
        failures = []

        def invalidate(seed):
            rng = random.Random(seed)
            try:
                with connect(self.name, autocommit=False) as conn:
                    for _ in range(30):
                        for user in rng.sample([f"user-{i}" for i in range(20)], 8):
                            conn.cursor().execute("SELECT strategic_invalidate(%s)", (user,))
                        conn.commit()
            except psycopg2.Error as e:
                failures.append(e)

        threads = [threading.Thread(target=invalidate, args=(n,)) for n in range(2)]
        with Load(self.db, seed=5):
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertEqual([], failures)
        self.w.wait_covered()
        wait_until("every row to be valid", lambda: self.db.one(f"SELECT count(invalidated_at) FROM {ROW}") == 0, 60, alive=self.w)
        self.w.verify()


class RelayTest(RequestTest):
    """The cache lives in another database than the source: the instance moves requests there."""

    separate_sink = True

    def test_requests_wait_for_an_instance_and_are_moved_by_it(self):
        say(self.db, "ann", "elena", 5)
        self.w.start()
        self.wait_recorded(False)
        self.wait_count("ann", 5)
        before = self.rows("ann")
        self.sink.run("SELECT strategic_recompute('ann')")
        self.new_rows("ann", before)
        self.assertEqual(0, self.w.stop())
        self.db.run("DELETE FROM chat_message WHERE id = (SELECT max(id) FROM chat_message WHERE user_id = 'ann')")
        self.sink.run("SELECT strategic_invalidate('ann', 'elena')")
        self.assertIsNone(self.count("ann"))
        self.assertEqual(1, self.sink.one("SELECT count(*) FROM strategic_request"))
        with Watcher(self.sink.name, "ann") as watcher:
            self.w.spawn(env={"WARMPATH_FAULT": "request_emitted:1:abort"})
            self.assertEqual(-signal.SIGKILL, self.w.wait(60))
            self.assertEqual(1, self.sink.one("SELECT count(*) FROM strategic_request"))  # emitted, and not deleted
            self.w.start()
            self.wait_count("ann", 4)
        self.assertLessEqual(watcher.seen, {4})
        wait_until("the request to be gone", lambda: self.sink.one("SELECT count(*) FROM strategic_request") == 0, 60, alive=self.w)
        self.assertIn("computed", self.w.must("invalidate", "ann", "elena"))
        self.assertEqual(0, self.w.stop())
