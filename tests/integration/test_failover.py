"""The primary dies and a standby is promoted: found by itself through a connection string with both hosts. With the slot on the
standby (PostgreSQL 17 and later) streaming goes on with exact counts; without it, or when the standby lacks what the state has,
the pipeline stops with instructions and nothing is counted wrong."""
import os
import subprocess
import unittest

import psycopg2

import harness
from cluster import Cluster
from harness import CONFIG, Database, Load, Warmpath, lsn, wait_until

FAST_CONFIG = CONFIG.replace("  create: true\n", "  create: true\n  silence: 1s\n")


class Standby(Cluster):
    """Made from the data directory of a primary that is stopped."""

    def __init__(self, primary, directory, settings):
        self.primary = primary
        super().__init__(directory, fsync=False, settings=settings)

    def create(self):
        self.prepare_dir()
        if self.exists():
            return False
        subprocess.run(["cp", "-a", self.primary.data, self.data], check=True)
        signal_file = os.path.join(self.data, "standby.signal")
        open(signal_file, "w").close()
        self.give_to_owner(signal_file)
        return True


class OnServer(Database):
    """A database of one server, whichever is the primary."""

    def __init__(self, server, name):
        self.server = server
        super().__init__(name, tables="")

    @property
    def conninfo(self):
        return self.server.conninfo(self.name)

    @property
    def conn(self):
        if self._conn is None or self._conn.closed:
            self._conn = psycopg2.connect(self.conninfo)
            self._conn.autocommit = True
        return self._conn


class FailoverTest(unittest.TestCase):
    failover_slots = False

    def setUp(self):
        self.shared = harness.cluster
        self.addCleanup(self.give_back)
        self.name = f"it_{next(harness._numbers)}_failover"
        self.sink = OnServer(self.shared, self.name + "_sink")
        settings = {"wal_sender_timeout": "2s", "hot_standby_feedback": "on"}
        primary_settings, standby_settings = dict(settings), dict(settings)
        directory = os.path.join(harness.work_dir, self.name)
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)
        self.primary = Cluster(os.path.join(directory, "primary"), fsync=False, settings=primary_settings)
        self.addCleanup(self.primary.close)
        self.primary.start()
        harness.cluster = self.primary
        self.db = Database(self.name)
        self.db.run("SELECT pg_create_physical_replication_slot('standby', true)")
        self.db.close()
        self.primary.stop()
        if self.failover_slots:
            # A change is not given to logical readers before the standby has it.
            primary_settings["synchronized_standby_slots"] = "standby"
            standby_settings["sync_replication_slots"] = "on"
        standby_settings.update(primary_slot_name="standby",
                                primary_conninfo=f"{self.primary.conninfo()} application_name=standby")
        self.primary.settings.update(primary_settings)
        self.standby = Standby(self.primary, os.path.join(directory, "standby"), standby_settings)
        self.addCleanup(self.standby.close)
        self.standby.create()  # while the primary is stopped
        self.primary.start()
        self.standby.start()
        self.w = Warmpath(self.name, self.db, self.sink, config=FAST_CONFIG)
        self.w.write_config(conninfo=f"host={self.primary.socket_dir},{self.standby.socket_dir} port={self.primary.port},"
                                     f"{self.standby.port} user=postgres dbname={self.name} target_session_attrs=read-write")
        self.w.must("migrate", "up")

    def give_back(self):
        if getattr(self, "w", None) and self.w.running():
            self.w.kill()
        self.db.close()
        harness.cluster = self.shared
        self.sink.close()

    def on_standby(self, sql):
        conn = psycopg2.connect(self.standby.conninfo(self.name))
        conn.autocommit = True
        try:
            cur = conn.cursor()
            cur.execute(sql)
            return cur.fetchone()[0]
        finally:
            conn.close()

    def wait_replayed(self):
        end = lsn(self.db.one("SELECT pg_current_wal_lsn()"))
        wait_until("the standby to have replayed", lambda: lsn(self.on_standby("SELECT pg_last_wal_replay_lsn()")) >= end)

    def wait_log(self, *texts):
        wait_until(f"the log to say {texts}", lambda: any(all(t in line for t in texts) for line in self.w.new_log().splitlines()),
                   30, alive=self.w)

    def crash_primary(self):
        self.db.close()
        self.primary.stop("immediate")
        self.wait_log("replication interrupted")

    def promote(self):
        self.assertTrue(self.on_standby("SELECT pg_promote(true, 60)"))
        harness.cluster = self.standby
        self.db.close()

    assert_counts = harness.PipelineTest.assert_counts

    def test_without_the_slot_it_stops_with_instructions(self):
        self.w.start()
        Load(self.db, seed=200).run(60)
        self.w.wait_covered()
        self.w.verify()
        self.assert_counts()
        self.wait_replayed()
        self.crash_primary()
        self.wait_log("read-only")  # the standby is found, and is not what is wanted
        self.promote()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("is gone", self.w.new_log())
        covered = self.w.covered()
        Load(self.db, seed=201).run(5)  # what it must not begin to count in the middle
        rows = self.sink.run("SELECT user_id, bot_name, event_count FROM strategic_conversation_patterns ORDER BY 1, 2")
        self.w.spawn()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("is gone", self.w.new_log())
        self.assertEqual(covered, self.w.covered())
        self.assertEqual(rows, self.sink.run("SELECT user_id, bot_name, event_count FROM strategic_conversation_patterns "
                                             "ORDER BY 1, 2"))

    def test_a_standby_that_lacks_what_the_state_has_is_refused(self):
        self.w.start()
        Load(self.db, seed=210).run(10)
        self.wait_replayed()
        self.standby.stop()
        Load(self.db, seed=211).run(10)  # never gets to the standby
        self.w.wait_covered()
        self.crash_primary()
        self.standby.start()
        self.promote()
        # New transactions: the end of the server's log is beyond the state's, and only its history tells them apart.
        Load(self.db, seed=212).run(200)
        self.assertEqual(1, self.w.wait(30))
        self.w.spawn()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("promoted to timeline 2", self.w.new_log())
        self.assertIn("which the new one never had", self.w.new_log())


class FailoverSlotTest(FailoverTest):
    needs_major = 17  # slots that fail over
    failover_slots = True
    test_without_the_slot_it_stops_with_instructions = None
    test_a_standby_that_lacks_what_the_state_has_is_refused = None

    def test_streaming_goes_on_after_a_promotion_and_a_former_primary_is_refused(self):
        self.w.start()
        wait_until("the slot to be ready on the standby", lambda: self.on_standby(
            f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{self.name}' AND synced AND NOT temporary"), 60)
        with Load(self.db, seed=220, pause=0.002):
            covered = self.w.covered()
            wait_until("events to arrive", lambda: self.w.covered() > covered, alive=self.w)
            self.crash_primary()
            self.promote()
            self.wait_log("new timeline", "timeline_before=1", "timeline=2")
            self.w.check_slot_behind_state()
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assert_counts()
        # The old one comes back without having followed: it has the slot, too.
        harness.cluster = self.primary
        self.db.close()
        self.standby.stop()
        self.primary.start()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("a former primary", self.w.new_log())
        self.w.spawn()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("a former primary", self.w.new_log())
