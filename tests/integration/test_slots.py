"""WAL is never kept without end: what the slot keeps, who pins it, and what happens when the server gives the slot up.

These tests have a server of their own: they fill its WAL, change its limits and prepare transactions.
"""
import json
import os

import harness
from cluster import Cluster
from harness import Database, Load, PipelineTest, connect, lsn, wait_until

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
        for _ in range(4):
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
