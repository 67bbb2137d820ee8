"""It keeps running: whatever the network or the server does to its connections, it goes on by itself when that is over, with exact
counts, and never confirms to the slot what is not durable here."""
import os
import signal
import time

import harness
from chaos_proxy import ChaosProxy
from cluster import Cluster
from harness import CONFIG, Load, PipelineTest, connect, lsn, wait_until

SILENT_CONFIG = CONFIG.replace("  create: true\n", "  create: true\n  silence: 400ms\n")


def socket_of(server):
    return f"{server.socket_dir}/.s.PGSQL.{server.port}"


class ProxiedTest(PipelineTest):
    """Source and sink each behind a proxy of their own; the tests and their writers go directly."""

    options = {"config": SILENT_CONFIG}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = ChaosProxy(socket_of(harness.cluster))
        cls.cache = ChaosProxy(socket_of(harness.cluster))
        cls.w.write_config(conninfo=cls.source.conninfo(cls.db.name),
                           sink=f'sink: {{conninfo: "{cls.cache.conninfo(cls.sink.name)}", silence: 1s}}\n')

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.source.close()
        cls.cache.close()

    def tearDown(self):
        self.source.heal()
        self.cache.heal()
        if self.w.running():
            self.w.kill()

    def wait_log(self, since, *texts):
        """A line logged since then that holds all the texts."""
        def found():
            self.w.check_slot_behind_state()
            return any(all(t in line for t in texts) for line in self.w.new_log()[since:].splitlines())
        wait_until(f"the log to say {texts}", found, 30, alive=self.w)

    def active_pid(self):
        return self.db.one("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", self.name)

    def assert_exact(self):
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assert_counts()


class SourceTest(ProxiedTest):
    def test_every_way_to_lose_the_source_ends_with_the_same_counts(self):
        proxy = self.source
        ways = (
            ("cut", proxy.cut, "lost"),
            ("the server stops talking", lambda: proxy.end("down"), "replication interrupted"),
            ("we stop talking", lambda: proxy.end("up"), "replication interrupted"),
            ("stalled from the server", lambda: proxy.stall("down"), "silent"),
            ("stalled both ways", proxy.stall, "silent"),
            ("refused", lambda: (proxy.refuse(), proxy.cut()), "could not connect"),
            ("half-open", proxy.drop, "silent"),
        )
        self.w.start()
        for i, (name, break_it, evidence) in enumerate(ways):
            with self.subTest(name), Load(self.db, seed=100 + i, pause=0.005):
                mark = len(self.w.new_log())
                break_it()
                self.wait_log(mark, "replication interrupted", evidence)
                proxy.heal()
                self.wait_log(mark, 'msg="streaming"')
            self.w.wait_covered()
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_our_own_dead_session_is_ended_and_somebody_elses_is_not(self):
        self.w.start()
        mark = len(self.w.new_log())
        pid = self.active_pid()
        self.source.drop()
        self.wait_log(mark, "replication interrupted")
        self.assertEqual(pid, self.active_pid())  # the server has not noticed
        self.source.heal()
        self.wait_log(mark, "asking it to end that", f"pid={pid}")
        self.wait_log(mark, 'msg="streaming"')
        self.assert_exact()
        # Now another reader: it is named, and left alone.
        other = Reader(self.db.name, self.name)
        try:
            mark = len(self.w.new_log())
            self.source.refuse()
            self.source.cut()
            wait_until("the slot to be free", lambda: self.active_pid() is None)
            other.start()
            self.source.heal()
            self.wait_log(mark, "is being read by", "somebody else")
            self.assertEqual(other.pid, self.active_pid())
        finally:
            other.close()
        self.wait_log(mark, 'msg="streaming"')
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_a_slow_line_and_one_that_does_not_carry_our_answers(self):
        self.w.start()
        session = self.active_pid()
        self.source.stall("up")
        before = self.w.slot()["confirmed"]
        with Load(self.db, seed=130, pause=0.002):
            covered = self.w.covered()
            wait_until("events to arrive", lambda: self.w.covered() > covered, alive=self.w)
            self.assertEqual(before, self.w.slot()["confirmed"])
            self.w.check_slot_behind_state()
        self.source.heal()
        wait_until("the slot to be told", lambda: lsn(self.w.slot()["confirmed"]) > lsn(before), alive=self.w)
        self.source.slow(200_000)
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'slow', 'bot', 'user', repeat('word ', 100) "
                    "FROM generate_series(1, 1000)")
        self.w.wait_covered()
        self.assertEqual(session, self.active_pid(), "a slow line is no dead line")
        self.source.heal()
        self.assert_exact()
        self.assertEqual(0, self.w.stop())


class Reader:
    """Somebody else on the slot."""

    def __init__(self, database, slot):
        self.database, self.slot = database, slot
        self.conn = None

    def start(self):
        import psycopg2.extras
        self.conn = psycopg2.connect(harness.cluster.conninfo(self.database) + " application_name='somebody else'",
                                     connection_factory=psycopg2.extras.LogicalReplicationConnection)
        self.pid = self.conn.get_backend_pid()
        cur = self.conn.cursor()
        cur.start_replication(slot_name=self.slot, options={"proto_version": "1", "publication_names": self.slot})

    def close(self):
        if self.conn:
            self.conn.close()


class SinkTest(ProxiedTest):
    separate_sink = True

    def test_every_way_to_lose_the_sink_leaves_the_source_confirmed_and_the_rows_right(self):
        proxy = self.cache
        ways = (
            ("cut", lambda: (proxy.refuse(), proxy.cut())),
            ("the server stops talking", lambda: (proxy.refuse(), proxy.end("down"))),
            ("we stop talking", lambda: (proxy.refuse(), proxy.end("up"))),
            ("stalled to the server", lambda: proxy.stall("up")),
            ("stalled from the server", lambda: proxy.stall("down")),
            ("half-open", proxy.drop),
        )
        self.w.start()
        session = self.active_pid()
        for i, (name, break_it) in enumerate(ways):
            with self.subTest(name), Load(self.db, seed=150 + i, pause=0.005):
                mark = len(self.w.new_log())
                break_it()
                self.wait_log(mark, "could not write rows")
                # The source is served all the while.
                confirmed = lsn(self.w.slot()["confirmed"])
                wait_until("the slot to move on", lambda: lsn(self.w.slot()["confirmed"]) > confirmed, alive=self.w)
                self.w.check_slot_behind_state()
                proxy.heal()
                self.wait_log(mark, "writing rows again")
        self.assertEqual(session, self.active_pid(), "the trouble of the sink reached the source")
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_a_lease_that_cannot_be_renewed_hangs_nobody_and_is_fenced_when_taken(self):
        self.w.start()
        Load(self.db, seed=170).run(20)
        self.w.wait_covered()
        mark = len(self.w.new_log())
        self.cache.drop()
        self.wait_log(mark, "stage=lease", "could not renew")
        began = time.monotonic()
        epoch = self.sink.one("UPDATE strategic_epoch SET epoch = epoch + 1 WHERE pipeline = %s RETURNING epoch", self.name)
        self.cache.heal()
        self.assertEqual(1, self.w.wait(20))
        self.assertLess(time.monotonic() - began, 15)
        self.assertIn(f"{epoch}", self.w.new_log())
        self.w.start()
        self.assert_exact()
        # And a stop while nobody answers does not wait for the lease.
        mark = len(self.w.new_log())
        self.cache.drop()
        self.wait_log(mark, "stage=lease", "could not renew")
        self.w.stop(14)


class ImpatientServerTest(PipelineTest):
    """A server of its own with wal_sender_timeout = 1s, which is stopped, killed and filled up."""

    SETTINGS = {"wal_sender_timeout": "1s", "max_wal_senders": "3"}

    @classmethod
    def setUpClass(cls):
        cls.shared = harness.cluster
        harness.cluster = Cluster(os.path.join(harness.work_dir, "impatient"), fsync=False, settings=cls.SETTINGS).start()
        try:
            super().setUpClass()
        except BaseException:
            cls.give_back()
            raise

    @classmethod
    def give_back(cls):
        harness.cluster.close()
        harness.cluster = cls.shared

    @classmethod
    def tearDownClass(cls):
        if cls.w.running():
            cls.w.kill()
        cls.db.close()
        cls.give_back()

    def tearDown(self):
        if self.w.running():
            self.w.kill()

    def session(self):
        return self.db.one("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", self.name)

    def reconnect_lines(self):
        return [line for line in self.w.new_log().splitlines() if "replication interrupted" in line]

    def wait_for_log(self, text):
        wait_until(f"the log to say {text}", lambda: text in self.w.new_log(), 30, alive=self.w)

    def assert_exact(self):
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assert_counts()

    def test_its_patience_is_kept_and_answered_in_time(self):
        self.w.start()
        self.assertIn("wal_sender_timeout_ms=1000", self.w.new_log())  # not lengthened to ours
        session = self.session()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'u' || g % 500, 'bot', 'user', "
                    "repeat('word ', 50) FROM generate_series(1, 10000) g")
        began = time.monotonic()
        with Load(self.db, seed=180, pause=0.01):
            self.w.wait_covered()
            wait_until("thrice its patience", lambda: time.monotonic() - began > 3.2)
        self.assertEqual(session, self.session(), self.w.log_tail())
        self.assertEqual([], self.reconnect_lines())
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_stopped_beyond_patience_and_lease_it_goes_on(self):
        self.w.start()
        Load(self.db, seed=181).run(50)
        session = self.session()
        self.w.process.send_signal(signal.SIGSTOP)
        with Load(self.db, seed=182, pause=0.005):
            wait_until("the server to give it up", lambda: self.session() is None)
            self.db.run("UPDATE strategic_lease SET until = clock_timestamp() - interval '1 s'")
            self.w.process.send_signal(signal.SIGCONT)
            wait_until("a new session", lambda: self.session() not in (None, session), alive=self.w)
        self.assert_exact()
        wait_until("the lease to be renewed", lambda: self.db.one("SELECT until > clock_timestamp() FROM strategic_lease"),
                   alive=self.w)
        self.assertEqual(0, self.w.stop())

    def test_restart_and_crash_of_the_server_under_load(self):
        self.w.start()
        for seed, mode in ((183, "fast"), (184, "immediate")):
            with Load(self.db, seed=seed, pause=0.002):
                covered = self.w.covered()
                wait_until("events to arrive", lambda: self.w.covered() > covered, alive=self.w)
                mark = len(self.reconnect_lines())
                self.db.close()
                harness.cluster.stop(mode)
                wait_until("it to notice", lambda: len(self.reconnect_lines()) > mark, alive=self.w)
                harness.cluster.start()
                wait_until("a new session", self.session, alive=self.w)
                self.w.check_slot_behind_state()
            self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_a_database_that_takes_no_connections_is_waited_for(self):
        self.w.start()
        admin = connect("postgres")
        try:
            with admin.cursor() as cur:
                cur.execute(f"ALTER DATABASE {self.db.name} ALLOW_CONNECTIONS false")
                self.db.run("SELECT pg_terminate_backend(%s)", self.session())
                self.wait_for_log("55000")
                cur.execute(f"ALTER DATABASE {self.db.name} ALLOW_CONNECTIONS true")
        finally:
            admin.close()
        wait_until("a new session", self.session, alive=self.w)
        Load(self.db, seed=186).run(20)
        self.assert_exact()
        self.assertEqual(0, self.w.stop())

    def test_no_free_sender_is_waited_for(self):
        import psycopg2.extras
        self.w.start()
        others = []
        try:
            for _ in range(2):
                others.append(psycopg2.connect(harness.cluster.conninfo("postgres"),
                                               connection_factory=psycopg2.extras.PhysicalReplicationConnection))
            # One is ours; taken as soon as it is free, so that the next attempt finds none.
            self.db.run("SELECT pg_terminate_backend(%s)", self.session())

            def take():
                try:
                    others.append(psycopg2.connect(harness.cluster.conninfo("postgres"),
                                                   connection_factory=psycopg2.extras.PhysicalReplicationConnection))
                except psycopg2.OperationalError:
                    self.db.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
                return len(others) == 3
            wait_until("no sender to be free", take, alive=self.w)
            self.wait_for_log("53300")
        finally:
            for conn in others:
                conn.close()
        Load(self.db, seed=185).run(20)
        self.assert_exact()
        self.assertEqual(0, self.w.stop())
