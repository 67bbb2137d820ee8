"""The application changes its tables while they are read: nothing is counted wrong, and nothing is skipped in silence."""
import os
import signal
import unittest

from harness import PipelineTest, connect, lsn, wait_until

INSERT = "INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'elena', 'user', %s) RETURNING id"
COUNT = "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s AND bot_name = 'elena'"


class SchemaTest(PipelineTest):
    def insert(self, user, text="hello there"):
        return self.db.one(INSERT, user, text)

    def count_of(self, user):
        return self.sink.one(COUNT, user)

    def wait_count(self, user, n):
        wait_until(f"{n} messages of {user}", lambda: self.count_of(user) == n, alive=self.w)

    def blocked(self):
        return self.w.status()["blocked"]

    def wait_blocked(self, *words):
        what = wait_until("the reader to stand still", self.blocked, alive=self.w)
        for word in words:
            self.assertIn(word, what["reason"])
        return what

    def wait_reading(self):
        wait_until("the reader to go on", lambda: self.blocked() is None, alive=self.w)

    def edit(self, old, new):
        """The configuration file with old replaced by new."""
        with open(self.w.config) as f:
            text = f.read()
        self.assertIn(old, text)
        with open(self.w.config + ".new", "w") as f:
            f.write(text.replace(old, new))
        os.replace(self.w.config + ".new", self.w.config)

    def sessions(self):
        return self.w.new_log().count('msg="streaming"')

    def hangup(self):
        """SIGHUP after the tables in the configuration were changed; waits until they are read with it."""
        said = 'msg="other mappings from here on"'
        before = self.w.new_log().count(said)
        self.w.process.send_signal(signal.SIGHUP)
        wait_until("the reader to take other mappings", lambda: self.w.new_log().count(said) > before, alive=self.w)

    def verify_all(self):
        self.w.wait_covered()
        self.assert_counts()
        return self.w.verify()


class ColumnsTest(SchemaTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def test_columns_that_are_not_mapped_come_and_go(self):
        before = self.w.dead_letters()
        self.insert("unmapped")
        for ddl in ("ADD COLUMN note text DEFAULT 'x'", "RENAME COLUMN note TO remark", "ALTER COLUMN remark TYPE varchar(10)",
                    "DROP COLUMN remark"):
            self.db.run(f"ALTER TABLE chat_message {ddl}")
            self.insert("unmapped")
        self.wait_count("unmapped", 5)
        self.assertEqual(before, self.w.dead_letters())
        self.verify_all()

    def test_the_same_description_again_is_no_change(self):
        self.insert("again")
        self.wait_count("again", 1)
        before = self.w.new_log().count("table changed")
        sessions = self.sessions()
        self.db.run("ALTER TABLE chat_message ALTER COLUMN content SET STATISTICS 200")
        self.insert("again")
        self.db.run("ANALYZE chat_message")
        self.insert("again")
        self.db.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", self.w.name)
        wait_until("another session", lambda: self.sessions() > sessions, alive=self.w)
        self.insert("again")
        self.wait_count("again", 4)
        self.assertEqual(before, self.w.new_log().count("table changed"))

    def test_another_type_is_no_trouble_while_its_text_can_be_read(self):
        self.insert("retyped")
        self.db.run("ALTER TABLE chat_message ALTER COLUMN content TYPE varchar(5000), ALTER COLUMN id TYPE numeric, "
                    "ALTER COLUMN user_id TYPE varchar(100)")
        self.insert("retyped")
        self.wait_count("retyped", 2)
        self.assertEqual([], self.w.dead_letters())
        # A time without a zone could mean anything.
        self.db.run("ALTER TABLE chat_message ALTER COLUMN created_at TYPE timestamp")
        self.insert("retyped", "when?")
        letters = wait_until("the dead letter", self.w.dead_letters, alive=self.w)
        self.assertEqual(1, len(letters))
        self.assertIn('"created_at"', letters[0]["reason"])
        self.db.run("DELETE FROM chat_message WHERE content = 'when?'")
        self.db.run("ALTER TABLE chat_message ALTER COLUMN created_at TYPE timestamptz")
        self.insert("retyped")
        self.wait_count("retyped", 3)
        self.assertIsNone(self.blocked())
        self.verify_all()


class VanishedTest(SchemaTest):
    def setUp(self):
        self.w.start()

    def tearDown(self):
        if self.w.running():
            self.assertEqual(0, self.w.stop())

    def test_a_mapped_column_that_vanishes_is_waited_for(self):
        self.insert("vanished", "before")
        # Amid a transaction: its first row is taken, the rest waits.
        c = connect(self.db.name, autocommit=False)
        c.cursor().execute(INSERT, ("vanished", "in the transaction, before"))
        c.cursor().execute("ALTER TABLE chat_message RENAME COLUMN content TO body")
        c.cursor().execute("INSERT INTO chat_message(user_id, bot_name, role, body) VALUES ('vanished', 'elena', 'user', 'new name')")
        begun = lsn(self.db.one("SELECT pg_current_wal_insert_lsn()"))
        c.commit()
        c.close()
        self.wait_blocked('"public.chat_message"', '"content"')
        self.assertIn("stopped reading", self.w.new_log())
        self.wait_count("vanished", 2)
        self.assertIn("blocked   since", self.w.must("status"))

        # Nothing after it is skipped, a configuration that cannot be used changes nothing, and it lives on.
        self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content) VALUES ('vanished', 'vanished', 'elena', 'x')")
        with open(self.w.config) as f:
            good = f.read()
        self.edit("content: content", "content: {column: body, colour: red}")
        wait_until("the bad configuration to be read", lambda: "cannot be used and is left" in self.w.new_log(), alive=self.w)
        self.assertLessEqual(lsn(self.w.slot()["confirmed"]), begun)

        # Mended: the file alone is enough, no signal. Only the first table: memories still have their content.
        with open(self.w.config, "w") as f:
            f.write(good.replace("content: content", "content: body", 1))
        self.wait_reading()
        self.wait_count("vanished", 3)
        self.w.wait_covered()
        self.w.verify()

        # And back, after a signal, with what is not reloaded named.
        self.db.run("ALTER TABLE chat_message RENAME COLUMN body TO content")
        self.insert("vanished", "the old name")
        self.wait_blocked('"body"')
        with open(self.w.config, "w") as f:
            f.write(good.replace("sink:", "catch_up_lag: 9s\nsink:") if "sink:" in good else good + "catch_up_lag: 9s\n")
        self.w.process.send_signal(signal.SIGHUP)
        self.wait_reading()
        self.assertIn("key=catch_up_lag", self.w.new_log())
        self.wait_count("vanished", 4)
        self.verify_all()

    def test_a_list_of_columns_bridges_a_renaming(self):
        self.edit("content: content", "content: [body, content]")
        self.hangup()
        c = connect(self.db.name, autocommit=False)
        c.cursor().execute(INSERT, ("bridged", "under the old name"))
        c.cursor().execute("ALTER TABLE chat_message RENAME COLUMN content TO body")
        c.cursor().execute("INSERT INTO chat_message(user_id, bot_name, role, body) VALUES ('bridged', 'elena', 'user', 'new')")
        c.commit()
        c.cursor().execute("ALTER TABLE chat_message RENAME COLUMN body TO content")
        c.commit()
        c.close()
        self.insert("bridged", "the old name again")
        self.wait_count("bridged", 3)
        self.assertIsNone(self.blocked())
        self.verify_all()
        self.edit("content: [body, content]", "content: content")
        self.hangup()

    def test_a_reader_that_stands_still_is_killed_and_stands_still_again(self):
        self.insert("killed", "before")
        self.db.run("ALTER TABLE chat_message RENAME COLUMN content TO body")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, body) VALUES ('killed', 'elena', 'user', 'after')")
        self.wait_blocked('"content"')
        self.w.kill()
        # The catalogue has the mapped name again, but the row in the slot has not.
        self.db.run("ALTER TABLE chat_message RENAME COLUMN body TO content")
        self.w.start()
        self.wait_blocked('"content"')
        self.edit("content: content", "content: body")
        self.hangup()
        self.wait_count("killed", 2)
        self.wait_reading()
        self.edit("content: body", "content: content")
        self.hangup()
        self.insert("killed", "after all")
        self.wait_count("killed", 3)
        self.assertIsNone(self.blocked())
        self.verify_all()


class RenamedTest(SchemaTest):
    def test_a_table_under_another_name_is_not_ignored(self):
        self.w.start()
        self.insert("renamed")
        self.wait_count("renamed", 1)
        self.db.run("ALTER TABLE chat_message RENAME TO chat_line")
        self.db.run("INSERT INTO chat_line(user_id, bot_name, role, content) VALUES ('renamed', 'elena', 'user', 'x')")
        self.wait_blocked("chat_message", "chat_line")
        self.edit("public.chat_message", "public.chat_line")
        self.hangup()
        self.wait_count("renamed", 2)
        self.db.run("ALTER TABLE chat_line RENAME TO chat_message")
        self.edit("public.chat_line", "public.chat_message")
        self.hangup()
        self.insert("renamed")
        self.wait_count("renamed", 3)
        self.wait_reading()
        self.verify_all()


class TruncateTest(SchemaTest):
    def test_each_policy_does_what_it_says(self):
        self.w.start()
        self.insert("truncated")
        self.db.run("TRUNCATE chat_message")
        letters = wait_until("the dead letter", self.w.dead_letters, alive=self.w)
        self.assertIn("truncated", letters[0]["reason"])

        self.edit("relation: public.chat_message", "relation: public.chat_message\n      on_truncate: ignore")
        self.hangup()
        self.db.run("TRUNCATE chat_message")
        self.insert("truncated")
        self.wait_count("truncated", 2)
        self.assertEqual(1, len(self.w.dead_letters()))

        self.edit("on_truncate: ignore", "on_truncate: stop")
        self.hangup()
        self.db.run("TRUNCATE chat_message, memory")
        self.insert("truncated")
        self.wait_blocked("chat_message", "on_truncate")
        self.edit("on_truncate: stop", "on_truncate: ignore")
        self.hangup()
        self.wait_count("truncated", 3)
        self.wait_reading()
        self.assertEqual(["public.chat_message", "public.memory"], sorted(x["where"] for x in self.w.dead_letters()))

        self.insert("gone")
        self.wait_count("gone", 1)
        self.edit("on_truncate: ignore", "on_truncate: rebuild")
        self.hangup()
        self.db.run("TRUNCATE chat_message")
        self.insert("truncated")
        self.wait_count("truncated", 1)
        self.wait_count("gone", None)
        self.verify_all()


if __name__ == "__main__":
    unittest.main()
