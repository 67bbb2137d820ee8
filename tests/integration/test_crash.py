"""kill -9 of the process, and an immediate stop of the server, at random moments under load: nothing lost, nothing twice."""
import os
import random
import time

import harness
from harness import Load, PipelineTest, wait_until

ROUNDS = int(os.environ.get("WARMPATH_KILL_ROUNDS", "50"))
SERVER_ROUNDS = 5


class KillTest(PipelineTest):
    def test_kill_at_random_moments_loses_and_doubles_nothing(self):
        rng = random.Random(20)
        self.w.start()
        self.w.kill()
        with Load(self.db, seed=1, pause=0.002) as load:
            for round_ in range(ROUNDS):
                self.w.start()
                until = time.monotonic() + rng.uniform(0.02, 0.9)
                while time.monotonic() < until:
                    self.w.check_slot_behind_state()
                    time.sleep(0.01)
                self.w.kill()
                self.w.check_slot_behind_state()
        self.assertGreater(load.transactions, ROUNDS)
        self.w.start()
        self.w.wait_covered()
        self.w.check_slot_behind_state()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())


class NoSnapshotTest(PipelineTest):
    def test_a_restart_reads_the_slot_alone(self):
        """The role may not read the tables: what was there before can only come from the state."""
        role = self.name
        self.db.run(f"CREATE ROLE {role} LOGIN REPLICATION; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; "
                    f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}; GRANT USAGE, CREATE ON SCHEMA public TO {role}")
        try:
            self.w.start()
            Load(self.db, seed=3).run(100)
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('before', 'elena', 'user', 'one')")
            self.w.wait_covered()
            self.w.kill()
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('before', 'elena', 'user', 'two')")
            self.db.run(f"REVOKE ALL ON chat_message, memory, memory_access FROM {role}")
            self.w.write_config(conninfo=self.db.conninfo.replace("user=postgres", f"user={role}"))
            self.assertFalse(self.db.one("SELECT has_table_privilege(%s, 'chat_message', 'SELECT')", role))
            self.w.start()
            count = lambda: self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'before'")
            wait_until("both messages to be counted", lambda: count() == 2, alive=self.w)
            self.assertEqual(0, self.w.stop())
        finally:
            if self.w.running():
                self.w.kill()
            self.w.write_config(conninfo=self.db.conninfo)
            self.db.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


class ServerCrashTest(PipelineTest):
    def test_an_immediate_stop_of_the_server_under_load(self):
        rng = random.Random(21)
        self.w.start()
        with Load(self.db, seed=4, pause=0.002):
            for _ in range(SERVER_ROUNDS):
                time.sleep(rng.uniform(0.3, 1.2))
                harness.cluster.stop("immediate")
                self.db.close()
                time.sleep(rng.uniform(0, 0.5))
                harness.cluster.start()
                wait_until("warmpath to read its slot again", lambda: self.w.slot().get("active"), 60, alive=self.w)
                self.w.check_slot_behind_state()
        self.w.wait_covered()
        self.w.verify(30)
        self.assert_counts()
        self.assertEqual(0, self.w.stop())
