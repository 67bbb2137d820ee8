"""WAL is never kept without end: what the slot keeps, who pins it, and what happens when the server gives the slot up.

These tests have a server of their own: they fill its WAL, change its limits and prepare transactions.
"""
import json
import os
import signal

import harness
from cluster import Cluster
from harness import CONFIG, Database, Load, PipelineTest, Warmpath, connect, lsn, wait_until

SEGMENT = 16 << 20
own = None
shared = None


def setUpModule():
    global own, shared
    shared = harness.cluster
    own = Cluster(os.path.join(harness.work_dir, "slots-pg"), fsync=False,
                  settings={"max_prepared_transactions": "5", "max_wal_size": "32MB", "min_wal_size": "32MB"})
    own.start()
    harness.begin(own, harness.work_dir)


def tearDownModule():
    harness.begin(shared, harness.work_dir)
    own.close()


def admin(*statements):
    conn = connect("postgres")
    try:
        cur = conn.cursor()
        for sql in statements:
            cur.execute(sql)
        return cur.fetchall() if cur.description else None
    finally:
        conn.close()


def switch_wal(segments):
    """Moves the end of the WAL on by so many segments, at the price of one small record each."""
    for _ in range(segments):
        admin("SELECT pg_logical_emit_message(false, 'test', 'x')", "SELECT pg_switch_wal()")


class SlotTest(PipelineTest):
    def slot_status(self):
        return self.w.status()["slot"]

    def checks(self, name):
        return [c for c in json.loads(self.w.command("doctor", "--json")[1])["checks"] if c["name"] == name]


class IdleTest(SlotTest):
    def test_an_idle_database_does_not_keep_the_wal_of_the_others(self):
        self.w.start()
        Load(self.db, seed=40).run(20)
        other = Database(self.name + "_other", tables="CREATE TABLE t(a text)")
        self.addCleanup(other.drop)
        begun = lsn(self.slot_status()["confirmed_flush_lsn"])
        for _ in range(5):
            other.run("INSERT INTO t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 10000) i")
            switch_wal(1)
        end = lsn(admin("SELECT pg_current_wal_lsn()")[0][0])
        self.assertGreater(end - begun, 4 * SEGMENT)

        def moved():
            # A checkpoint writes the list of running transactions that lets restart_lsn follow.
            admin("CHECKPOINT")
            slot = self.w.slot()
            return lsn(slot["confirmed"]) >= end and lsn(slot["restart"]) >= end

        wait_until("the slot to follow the other database's WAL", moved, 30, alive=self.w)
        self.assertLess(self.slot_status()["retained_bytes"], SEGMENT)
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assertEqual(0, self.w.stop())


class PinTest(SlotTest):
    def test_what_pins_the_slot_is_named_with_its_remedy(self):
        self.w.start()
        Load(self.db, seed=41).run(5)
        admin("CHECKPOINT")
        open_one = connect(self.db.name, autocommit=False)
        self.addCleanup(open_one.close)
        cur = open_one.cursor()
        cur.execute("SET application_name = 'forgetful'")
        cur.execute("INSERT INTO memory(memory_id, user_id, bot_name) VALUES ('m', 'u', 'b')")
        other = connect(self.db.name, autocommit=False)
        cur = other.cursor()
        cur.execute("INSERT INTO memory(memory_id, user_id, bot_name) VALUES ('n', 'u', 'b')")
        cur.execute("PREPARE TRANSACTION 'left behind'")
        other.close()
        self.addCleanup(self.rollback_prepared)
        for _ in range(4):
            switch_wal(1)
            admin("CHECKPOINT")
        wait_until("the confirmed position to leave restart_lsn behind",
                   lambda: self.slot_status()["pinned_bytes"] > 3 * SEGMENT, 30, alive=self.w)

        slot = self.slot_status()
        self.assertEqual("extended", slot["wal_status"])
        self.assertGreater(slot["retained_bytes"], 3 * SEGMENT)
        pins = {p["kind"]: p for p in slot["pins"]}
        self.assertEqual({"transaction", "prepared_transaction"}, set(pins))
        pid = open_one.get_backend_pid()
        self.assertIn(f"pid {pid}, application \"forgetful\"", pins["transaction"]["what"])
        self.assertIn("left behind", pins["prepared_transaction"]["what"])
        text = self.w.must("status")
        self.assertIn(f"SELECT pg_terminate_backend({pid});", text)
        self.assertIn("COMMIT PREPARED 'left behind';", text)
        found = self.checks("slot_pin")
        self.assertEqual(["warn", "warn"], [c["result"] for c in found], found)
        self.assertIn("forgetful", found[0]["found"])
        self.assertIn("left behind", found[1]["found"])

        admin(found[0]["fix"].split(": ", 1)[1])
        self.rollback_prepared()

        def let_go():
            admin("CHECKPOINT")
            slot = self.slot_status()
            return slot["retained_bytes"] < SEGMENT and not slot["pins"]

        wait_until("the WAL to be let go", let_go, 30, alive=self.w)
        self.assertEqual([], self.checks("slot_pin"))
        self.assertEqual(0, self.w.stop())
        self.assertEqual(["reader"], [p["kind"] for p in self.slot_status()["pins"]])

    def rollback_prepared(self):
        if self.db.one("SELECT 1 FROM pg_prepared_xacts"):
            self.db.run("ROLLBACK PREPARED 'left behind'")


class LossTest(SlotTest):
    """A slot that the server has really given up, with either policy."""

    def tearDown(self):
        if self.w.running():
            self.w.kill()
        self.unlimit()
        note = os.path.join(self.w.state, "rebuild")
        if os.path.exists(note):
            os.remove(note)

    @staticmethod
    def unlimit():
        admin("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
        wait_until("the limit to be gone", lambda: admin("SHOW max_slot_wal_keep_size")[0][0] == "-1")

    def lose_slot(self):
        """With nobody confirming: less may be kept than was written, and a checkpoint enforces it."""
        admin("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")

        def lost():
            switch_wal(1)
            admin("CHECKPOINT")
            return self.db.one("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", self.w.name) == "lost"

        wait_until("the server to give the slot up", lost, 30)

    def message(self, user, n):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT %s, 'elena', 'user', 'words' "
                    "FROM generate_series(1, %s)", user, n)

    def losses(self):
        with open(self.w.log) as f:
            return f.read().count("the slot is lost, rebuilding")

    def birth(self):
        """None while the state is made anew."""
        return (self.w.status()["state"] or {}).get("slot_birth_lsn")


class StopTest(LossTest):
    def test_a_lost_slot_stops_with_the_setting_and_never_loops(self):
        self.w.start()
        self.message("before", 3)
        self.w.wait_covered()
        # While it reads: frozen, it cannot confirm, and the server ends its session to get the WAL back.
        self.w.process.send_signal(signal.SIGSTOP)
        self.lose_slot()
        self.w.process.send_signal(signal.SIGCONT)
        self.assertEqual(1, self.w.wait(30))
        end = self.w.new_log()
        self.assertIn("max_slot_wal_keep_size", end)
        self.assertIn("source.on_slot_lost: rebuild", end)
        birth = self.birth()
        # And at the start, with the same words; nothing was thrown away.
        self.w.spawn()
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("raise max_slot_wal_keep_size", self.w.new_log())
        self.assertEqual(birth, self.birth())
        slot = self.slot_status()
        self.assertTrue(slot["lost"])
        self.assertIn("max_slot_wal_keep_size allows (now 1 MB)", slot["why"])
        self.assertEqual("fail", self.checks("slot_lost")[0]["result"])


class RebuildTest(LossTest):
    options = {"on_slot_lost": "rebuild"}

    def rebuilt(self, birth):
        return self.w.running() and self.birth() not in (None, birth) and self.w.slot().get("active")

    def check_all(self):
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify(30)
        self.assert_counts()

    def test_a_slot_that_is_lost_while_read_is_rebuilt_once(self):
        Load(self.db, seed=42).run(60)
        self.w.start()
        Load(self.db, seed=43).run(30)
        self.w.wait_covered()
        birth = self.birth()
        self.w.process.send_signal(signal.SIGSTOP)
        Load(self.db, seed=44).run(30)  # what only the tables still know
        self.lose_slot()
        self.unlimit()
        self.w.process.send_signal(signal.SIGCONT)
        wait_until("the pipeline to begin anew by itself", lambda: self.rebuilt(birth), 60, alive=self.w)
        self.message("after", 4)
        self.check_all()
        self.assertEqual(1, self.losses())

        # Lost again at once: now it stops, and stays stopped however often it is started.
        birth = self.birth()
        self.assertEqual(0, self.w.stop())
        self.lose_slot()
        for _ in range(3):
            self.w.spawn()
            self.assertEqual(1, self.w.wait(30))
            self.assertIn("mend what loses it first", self.w.new_log())
        self.assertEqual(birth, self.birth())
        self.assertEqual(1, self.losses())

        # Somebody has mended it: one more.
        self.unlimit()
        os.remove(os.path.join(self.w.state, "rebuild"))
        self.w.start()
        self.check_all()
        self.assertEqual(2, self.losses())

        # Dropped and made by hand while nobody read it: the new slot is beyond the state.
        self.assertEqual(0, self.w.stop())
        os.remove(os.path.join(self.w.state, "rebuild"))
        self.message("unseen", 5)
        self.db.run("SELECT pg_drop_replication_slot(%s)", self.w.name)
        self.db.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", self.w.name)
        self.w.start()
        self.check_all()
        self.assertEqual(3, self.losses())

        # A publication that was dropped and made again: the slot cannot get past what was changed between.
        os.remove(os.path.join(self.w.state, "rebuild"))
        birth = self.birth()
        self.db.run(f'DROP PUBLICATION "{self.w.name}"')
        self.message("unpublished", 6)
        wait_until("the pipeline to publish and begin anew", lambda: self.rebuilt(birth), 60, alive=self.w)
        self.check_all()
        self.assertEqual(4, self.losses())
        self.assertEqual(0, self.w.stop())

    def test_the_state_of_another_pipeline_is_never_thrown_away(self):
        self.w.start()
        self.message("owner", 2)
        self.w.wait_covered()
        self.assertEqual(0, self.w.stop())
        self.db.run("SELECT pg_drop_replication_slot(%s)", self.w.name)
        birth = self.birth()
        code, _, err = self.w.command("run", "--set", "pipeline=another")
        self.assertEqual(1, code)
        self.assertIn("holds the state of pipeline", err)
        self.assertEqual(birth, self.birth())
        self.assertFalse(self.w.slot())


class PublicationStopTest(SlotTest):
    def test_a_dropped_publication_stops_and_says_that_making_it_again_is_not_enough(self):
        self.w.start()
        self.db.run(f'DROP PUBLICATION "{self.w.name}"')
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('u', 'b', 'user', 'x')")
        self.assertEqual(1, self.w.wait(30))
        self.assertIn("publication", self.w.new_log())
        for _ in range(2):
            self.w.spawn()  # makes the publication again
            self.assertEqual(1, self.w.wait(30))
            self.assertIn("catalogue of their own time", self.w.new_log())
            self.assertIn("source.on_slot_lost: rebuild", self.w.new_log())


class HeartbeatTest(SlotTest):
    HEARTBEAT = CONFIG.replace("  create: true\n", "  create: true\n  heartbeat: 100ms\n", 1)
    options = {"config": HEARTBEAT}

    def test_a_heartbeat_moves_an_idle_slot_and_measures_the_lag(self):
        self.w.start()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('u', 'b', 'user', 'x')")
        self.w.wait_covered()
        begun = lsn(self.w.slot()["confirmed"])
        wait_until("the confirmed position to move by heartbeats alone",
                   lambda: lsn(self.w.slot()["confirmed"]) > begun + 500, 30, alive=self.w)
        heartbeat = wait_until("a lag", lambda: self.w.status()["heartbeat"], 30, alive=self.w)
        self.assertGreater(heartbeat["lag_us"], 0)
        self.assertLess(heartbeat["lag_us"], 10_000_000)
        self.assertIn("durable here", self.w.must("status"))
        # No data: nothing but the one message has ever been applied.
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())
        self.assertIn("events=1 ", self.w.new_log())
        self.assertNotIn("heartbeat,", self.w.new_log())

    def test_a_role_that_may_not_send_them_is_told_once_and_served(self):
        self.db.run("CREATE ROLE modest LOGIN REPLICATION; GRANT SELECT ON ALL TABLES IN SCHEMA public TO modest;"
                    "DO $$BEGIN EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || (SELECT oid::regprocedure FROM pg_proc"
                    " WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype) || ' FROM PUBLIC'; END$$")
        name = self.name + "_m"
        w = Warmpath(name, self.db, self.db, config=self.HEARTBEAT)
        w.write_config(conninfo=self.db.conninfo.replace("user=postgres", "user=modest"))
        self.db.run(f'CREATE PUBLICATION "{name}" FOR TABLE chat_message, memory, memory_access WITH (publish_via_partition_root = true)')
        w.start()
        self.addCleanup(self.db.run, "DROP OWNED BY modest; DROP ROLE modest")
        wait_until("the warning", lambda: "could not send a heartbeat" in w.new_log(), 30, alive=w)
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('v', 'b', 'user', 'x')")
        wait_until("a row", lambda: self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'v'"),
                   30, alive=w)
        self.assertEqual(0, w.stop())
        self.assertEqual(1, w.new_log().count("could not send a heartbeat"))


class PublicationWatchTest(SlotTest):
    def test_a_table_that_was_out_of_the_publication_for_a_while_is_reported(self):
        missing = "a mapped table is not published"
        again = "was taken out of the publication and added again"
        publication = f'ALTER PUBLICATION "{self.w.name}"'
        known = os.path.join(self.w.state, "publication")
        self.w.start()
        wait_until("the publication to be looked at", lambda: os.path.exists(known), 30, alive=self.w)
        self.db.run(f"{publication} DROP TABLE memory")
        wait_until("the loss to be noticed", lambda: missing in self.w.new_log(), 30, alive=self.w)
        self.assertIn("public.memory", self.w.new_log())
        self.assertNotIn(again, self.w.new_log())
        self.db.run(f"{publication} ADD TABLE memory")
        wait_until("the return to be noticed", lambda: again in self.w.new_log(), 30, alive=self.w)
        self.assertEqual(0, self.w.stop())
        # The same while nothing ran: the entry is another one.
        with open(known) as f:
            before = f.read()
        self.db.run(f"{publication} DROP TABLE memory_access")
        self.db.run(f"{publication} ADD TABLE memory_access")
        self.w.start()
        wait_until("it to be noticed", lambda: again in self.w.new_log(), 30, alive=self.w)
        self.assertIn("public.memory_access", self.w.new_log())
        wait_until("it to be remembered", lambda: open(known).read() != before, 30, alive=self.w)
        self.assertEqual(0, self.w.stop())
        looked = os.stat(known).st_mtime_ns
        self.w.start()
        wait_until("another look", lambda: os.stat(known).st_mtime_ns != looked, 30, alive=self.w)
        self.assertEqual(0, self.w.stop())
        self.assertNotIn(again, self.w.new_log())
