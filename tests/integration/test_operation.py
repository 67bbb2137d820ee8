"""Starting, stopping, migrating, moving between numbers of workers and kinds of links, and what is refused with which words."""
import json
import subprocess
import time

from harness import CONFIG, Database, Load, PipelineTest, WARMPATH, Warmpath, wait_until


class StopTest(PipelineTest):
    def test_sigterm_flushes_and_ends_within_ten_seconds(self):
        self.w.write_config(count=1000)
        self.w.start()
        Load(self.db, seed=14).run(100)
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'last', 'elena', 'user', 'words' "
                    "FROM generate_series(1, 3)")
        self.w.wait_covered()
        began = time.monotonic()
        self.assertEqual(0, self.w.stop(10))
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(3, self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'last'"))
        self.w.verify(0)
        self.assert_counts()

    def test_sigterm_under_load_loses_nothing(self):
        self.w.start()
        with Load(self.db, seed=15):
            wait_until("some rows", lambda: self.db.one("SELECT count(*) FROM strategic_conversation_patterns"), alive=self.w)
            self.assertEqual(0, self.w.stop(10))
        self.w.start()
        self.w.wait_covered()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())


class LiveVerifyTest(PipelineTest):
    def test_rows_agree_and_a_wrong_one_is_found_while_others_are_written(self):
        self.w.start()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'quiet', 'elena', 'user', 'words' "
                    "FROM generate_series(1, 3)")
        with Load(self.db, seed=16, pause=0.05) as load:
            wait_until("some rows", lambda: self.db.one("SELECT count(*) FROM strategic_conversation_patterns") > 20, alive=self.w)
            for options in (("--all",), ("--sample", "20")):
                before = load.transactions
                out = json.loads(self.w.must("verify", *options, "--json", "--wait", "40s", timeout=100))
                self.assertGreaterEqual(out["equal"], 20)
                self.assertGreater(load.transactions, before, "nothing was written meanwhile")
            self.db.run("UPDATE strategic_conversation_patterns SET avg_topic_duration_minutes = 7777 WHERE user_id = 'quiet'")
            code, text, _ = self.w.command("verify", "--all", "--json", "--wait", "4s", timeout=100)
            self.assertEqual(1, code)
            wrong = [d for d in json.loads(text)["differences"] if d["user_id"] == "quiet"]
            self.assertEqual([("strategic_conversation_patterns", "avg_topic_duration_minutes")],
                             [(d["table"], d["column"]) for d in wrong])


class SpreadTest(PipelineTest):
    def test_another_number_of_workers_and_another_link_keep_everything(self):
        port = 0
        for round_, (workers, link) in enumerate(((1, "inproc"), (3, "ipc"), (2, "tcp://127.0.0.1:{port}"))):
            from cluster import free_port
            port = free_port()
            self.w.write_config(workers=workers, link=link.format(port=port))
            self.w.start()
            Load(self.db, seed=30 + round_).run(80)
            self.w.wait_covered()
            self.w.verify()
            self.assert_counts()
            self.assertEqual(workers, self.w.status()["state"]["workers"])
            self.assertEqual(0, self.w.stop())


class MigrateTest(PipelineTest):
    def table_names(self):
        return sorted(name for (name,) in self.db.run(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'"))

    def test_up_and_down_again_and_again(self):
        with_all = self.table_names()
        self.assertIn("strategic_memory_health", with_all)
        self.w.must("migrate", "up")
        self.assertEqual(with_all, self.table_names())
        self.w.must("migrate", "down", "--all")
        self.assertNotIn("strategic_memory_health", self.table_names())
        self.w.must("migrate", "up")
        self.assertEqual(with_all, self.table_names())
        self.w.must("migrate", "status")

    def test_two_at_once_do_not_collide(self):
        self.w.must("migrate", "down", "--all")
        both = [subprocess.Popen([WARMPATH, "migrate", "up", "--config", self.w.config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True) for _ in range(2)]
        for p in both:
            out, _ = p.communicate(timeout=60)
            self.assertEqual(0, p.returncode, out)
        self.assertIn("strategic_memory_health", self.table_names())


class RefusalTest(PipelineTest):
    def test_doctor_names_the_sql_that_mends_a_missing_replica_identity(self):
        self.db.run("ALTER TABLE chat_message REPLICA IDENTITY NOTHING")
        code, out, _ = self.w.command("doctor", "--json")
        self.assertEqual(1, code)
        check = [c for c in json.loads(out)["checks"] if c["name"] == "replica_identity" and c["result"] != "ok"]
        self.assertEqual(1, len(check), out)
        self.assertIn("ALTER TABLE", check[0]["fix"])
        self.db.run(check[0]["fix"])
        code, out, _ = self.w.command("doctor", "--json")
        self.assertFalse([c for c in json.loads(out)["checks"] if c["name"] == "replica_identity" and c["result"] == "fail"], out)

    def test_an_unknown_column_is_named_and_refused(self):
        other = Warmpath(self.name + "_c", self.db, config=CONFIG.replace("content: content\n        at:", "content: no_such_column\n        at:", 1))
        code, out, err = other.command("check-config")
        self.assertNotEqual(0, code)
        self.assertIn("no_such_column", out + err)
        other.spawn()
        self.assertEqual(1, other.wait(30))
        self.assertIn("no_such_column", other.new_log())
        self.assertFalse(self.db.run("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", other.name))

    def test_every_command_explains_itself(self):
        for command in ("run", "check-config", "replay", "migrate", "doctor", "status", "verify", "dlq", "version"):
            run = subprocess.run([WARMPATH, command, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
            self.assertEqual(0, run.returncode, command)
            self.assertIn(command, run.stdout)
