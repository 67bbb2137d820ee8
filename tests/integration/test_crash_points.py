"""The rows of the crash table (docs/GUARANTEES.md), each at its own moment: the process ends there as kill -9 would end it, or the
server does, and afterwards nothing is lost and nothing is counted twice. Every test shows that its moment was really reached, that the
slot was never confirmed beyond the state, and compares all rows with the oracle and with plain counts."""
import contextlib
import signal

import harness
from harness import CONFIG, Load, PipelineTest, connect, lsn, wait_until

POINTS = (
    "frame_before_send",    # read from the slot, the workers know nothing of it
    "frame_after_send",     # on its way to a worker
    "frame_applied",        # applied in memory, not durable
    "store_before_commit",  # inside the group commit
    "store_after_commit",   # durable, but nobody has been told
    "rows_before_submit",   # rows computed from the durable state, not handed over
    "ack_before_send",      # the router does not know that it is durable
    "ack_after_send",
    "sink_before_commit",   # inside the transaction of the rows
    "sink_after_commit",    # rows visible, the outbox still holds them
    "sink_before_results",
)
PASSINGS = (1, 4, 19)
# Nothing of this is durable yet. A worker stands still there until the server has been told twice where we are.
HELD = ("frame_applied", "store_before_commit")

ROWS = "strategic_conversation_patterns"
AUDIT = f"""
CREATE TABLE audit(n bigserial, user_id text, event_count bigint, row_version bigint);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO audit(user_id, event_count, row_version) VALUES (NEW.user_id, NEW.event_count, NEW.row_version); RETURN NEW; END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON {ROWS} FOR EACH ROW EXECUTE FUNCTION audit();
"""


class CrashTest(PipelineTest):
    """A pipeline whose every write of a row of conversation patterns is noted."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.db.run(AUDIT)

    def say(self, user, n=1):
        for _ in range(n):
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'elena', 'user', 'hello there')", user)
            self.w.wait_covered()

    def writes(self, user):
        """The counts written into the user's row, in order."""
        return [n for (n,) in self.db.run("SELECT event_count FROM audit WHERE user_id = %s ORDER BY n", user)]

    def tearDown(self):
        if self.w.running():
            self.w.kill()

    def kill(self):
        self.w.kill()
        self.w.check_slot_behind_state()

    def finish(self):
        """All that was committed is in the state, and in the rows."""
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())


class CrashPointTest(CrashTest):
    def test_dying_at_each_point_loses_and_doubles_nothing(self):
        self.w.start()
        self.w.kill()
        with Load(self.db, seed=31, pause=0.002) as load:
            for point in POINTS:
                for passing in PASSINGS:
                    self.w.spawn(env={"WARMPATH_FAULT": f"{point}:{passing}:abort"})
                    wait_until(f"it to die at {point}, passing {passing}", lambda: self.w.process.poll() is not None, 30)
                    self.assertEqual(-signal.SIGKILL, self.w.wait(1), f"{point}: {self.w.log_tail()}")
                    self.w.check_slot_behind_state()
        self.assertGreater(load.transactions, len(POINTS))
        self.w.start()
        self.finish()


    def test_the_slot_is_never_told_more_than_is_durable(self):
        self.w.start()
        self.w.kill()
        with Load(self.db, seed=32, pause=0.002):
            for point in HELD:
                self.w.spawn(env={"WARMPATH_FAULT": f"{point}:10:hang"})
                wait_until(f"a worker to stand still at {point}", lambda: f"hanging at {point}" in self.w.new_log(), 30, alive=self.w)
                for _ in range(2):
                    before = self.sender("reply_time")
                    wait_until("the server to be told", lambda: self.sender("reply_time") != before, alive=self.w)
                self.w.check_slot_behind_state()
                self.assertGreater(lsn(self.sender("write_lsn")), self.w.covered(), "everything that was received is durable: this shows nothing")
                self.kill()
        self.w.start()
        self.finish()

    def sender(self, column):
        return self.db.one(f"SELECT r.{column} FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid "
                           "WHERE s.slot_name = %s", self.name)


class SlotGoesBackTest(CrashTest):
    """What the server was told last is only in its memory: a crash takes it back, and the slot sends again what the state contains."""

    def confirm_more(self, seed):
        """Until the server has been told of everything; what it was told."""
        Load(self.db, seed=seed).run(20)
        end = lsn(self.db.one("SELECT pg_current_wal_insert_lsn()"))
        self.w.wait_covered()
        return wait_until("the slot to be confirmed", lambda: (lambda at: at >= end and at)(lsn(self.w.slot()["confirmed"])), alive=self.w)

    def test_a_server_that_forgets_a_confirmation_sends_again_what_is_known(self):
        went_back = 0
        self.w.start()
        for round_ in range(2):
            # The slot is saved when it moves past what a checkpoint has written down; after that it only moves in memory.
            self.db.run("CHECKPOINT")
            saved = self.confirm_more(40 + round_)
            told = self.confirm_more(60 + round_)
            self.assertGreater(told, saved)
            if round_ == 0:
                self.w.kill()  # the process first ...
            harness.cluster.stop("immediate")
            self.db.close()
            if round_ == 1:
                self.w.kill()  # ... or the server
            harness.cluster.start()
            came_back = lsn(self.w.slot()["confirmed"])
            self.assertLessEqual(came_back, told)
            went_back += came_back < told
            self.w.check_slot_behind_state()
            self.w.start()
        self.assertGreater(went_back, 0, "the server has forgotten nothing: this shows nothing")
        self.finish()


class CommitUnknownTest(CrashTest):
    """The sink has sent COMMIT and will not hear the answer. A deferred trigger holds every COMMIT while the test holds a lock."""

    GATE = 4711

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.db.run(f"""
            CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_advisory_xact_lock_shared({cls.GATE}); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER gate AFTER INSERT OR UPDATE ON {ROWS} DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION gate();""")

    def held_commit(self):
        """The server process of a sink that waits inside COMMIT."""
        return wait_until("a COMMIT to be held", lambda: self.db.one(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'warmpath sink' AND query = 'COMMIT' "
            "AND wait_event = 'advisory'", self.name), alive=self.w)

    def ended(self, pid):
        wait_until("the server process to end", lambda: not self.db.one("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))

    @contextlib.contextmanager
    def gate_closed(self):
        conn = connect(self.name)
        try:
            conn.cursor().execute("SELECT pg_advisory_lock(%s)", (self.GATE,))
            yield
        finally:
            conn.close()

    def row(self, user):
        rows = self.db.run(f"SELECT event_count, row_version FROM {ROWS} WHERE user_id = %s", user)
        return rows[0] if rows else (0, 0)

    def test_the_process_dies_and_the_transaction_is_committed(self):
        self.w.start()
        with self.gate_closed():
            self.say("committed")
            pid = self.held_commit()
            self.kill()
            self.assertEqual((0, 0), self.row("committed"))
        self.ended(pid)
        count, version = self.row("committed")
        self.assertEqual(1, count, "the server did not commit: this shows nothing")
        self.w.start()
        self.say("committed")
        self.finish()
        self.assertEqual(2, self.row("committed")[0])
        self.assertGreater(self.row("committed")[1], version)

    def test_the_process_dies_and_the_transaction_is_rolled_back(self):
        self.w.start()
        with self.gate_closed():
            self.say("rolled-back")
            pid = self.held_commit()
            self.kill()
            self.db.run("SELECT pg_terminate_backend(%s)", pid)
            self.ended(pid)
        self.assertEqual((0, 0), self.row("rolled-back"))
        self.w.start()
        self.finish()
        self.assertEqual([1], self.writes("rolled-back"))

    def test_the_connection_dies_and_the_process_goes_on(self):
        self.w.start()
        with self.gate_closed():
            self.say("cut")
            for _ in range(2):
                pid = self.held_commit()
                self.db.run("SELECT pg_terminate_backend(%s)", pid)
                self.ended(pid)
            self.assertEqual((0, 0), self.row("cut"))
        self.finish()
        self.assertEqual([1], self.writes("cut"))


class CoalescedTest(CrashTest):
    options = {"count": 1}

    def blocked(self, other_than):
        """The server process of the sink, which waits for the table."""
        return wait_until("the sink to wait for the table", lambda: self.db.one(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'warmpath sink' AND wait_event_type = 'Lock' "
            "AND wait_event = 'relation' AND pid <> %s", self.name, other_than), alive=self.w)

    def test_of_flushes_that_could_not_be_written_only_the_newest_is(self):
        self.w.start()
        self.say("busy")
        wait_until("the first row", lambda: self.writes("busy") == [1], alive=self.w)
        lock = connect(self.name, autocommit=False)
        lock.cursor().execute(f"LOCK TABLE {ROWS} IN ACCESS EXCLUSIVE MODE")
        self.say("busy", 4)  # each a flush of its own: one is with the sink, one stands in the outbox
        dead = self.blocked(0)
        self.kill()
        self.w.start()
        self.blocked(dead)
        self.say("busy", 4)
        lock.rollback()
        lock.close()
        wait_until("the newest row", lambda: self.writes("busy")[-1] == 9, alive=self.w)
        self.assertEqual([1, 5, 9], self.writes("busy"))
        self.finish()


class TimerTest(CrashTest):
    options = {"count": 1000, "config": CONFIG.replace("max_age: 1s, idle: 200ms", "max_age: 8s, idle: 8s")}

    def test_a_pending_timer_fires_once_without_another_event(self):
        self.w.start()
        for user in ("waits", "late"):  # the first event of a key is shown at once
            self.say(user)
            wait_until("the first row", lambda: self.writes(user) == [1], alive=self.w)
        self.assertEqual(0, self.w.stop())  # nothing is on its way
        self.w.start()
        self.say("waits")
        self.assertEqual([1], self.writes("waits"), "the timer was not pending")
        self.kill()
        self.w.start()
        self.assertEqual([1], self.writes("waits"), "the timer was not pending after the start")
        wait_until("the timer to fire", lambda: self.writes("waits") != [1], alive=self.w)
        # Due while nobody runs.
        self.say("late")
        self.assertEqual([1], self.writes("late"))
        self.kill()
        wait_until("the timer to be due", lambda: self.db.one("SELECT max(created_at) < clock_timestamp() - interval '9 s' "
                                                              "FROM chat_message"))
        self.w.start()
        wait_until("the timer to fire", lambda: self.writes("late") != [1], alive=self.w)
        self.finish()
        self.assertEqual([1, 2], self.writes("waits"))
        self.assertEqual([1, 2], self.writes("late"))
