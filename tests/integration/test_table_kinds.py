"""Tables of every kind: long values that are not sent again, each replica identity, partitions, row filters, column lists."""
import random
import unittest

from harness import CONFIG, PipelineTest, wait_until

COUNT = "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s"
FIELDS = ("id: id, user_id: user_id, bot_name: bot_name, role: role, content: content, at: created_at, "
          "emotion: {column: metadata, path: emotion.label}")
COLUMNS = """id bigserial, user_id text NOT NULL, bot_name text NOT NULL, role text NOT NULL, content text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), metadata jsonb"""


def config(*tables):
    """The usual configuration with other tables."""
    before, rest = CONFIG.split("  tables:\n")
    after = rest[rest.index("{sink}"):]
    lines = "".join(f"    - {{{{relation: public.{t}, event: message, fields: {{{{{FIELDS.replace('{', '{{').replace('}', '}}')}}}}}}}}}\n"
                    for t in tables)
    return before + "  tables:\n" + lines + after


def long_text(seed, length=100_000):
    """Words that do not compress to less than a page: they are moved out of the row."""
    rng = random.Random(seed)
    return " ".join("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(9)) for _ in range(length // 10))


class KindTest(PipelineTest):
    def insert(self, table, user, text="hello there", bot="elena", role="user"):
        return self.db.one(f"INSERT INTO {table}(user_id, bot_name, role, content) VALUES (%s, %s, %s, %s) RETURNING id",
                           user, bot, role, text)

    def wait_count(self, user, n):
        wait_until(f"{n} messages of {user}", lambda: self.db.one(COUNT, user) == n, alive=self.w)

    def verify(self):
        self.w.wait_covered()
        return self.w.verify()


class IdentityTest(KindTest):
    tables = f"""
        CREATE TABLE by_key({COLUMNS}, PRIMARY KEY (id, user_id, bot_name));
        CREATE TABLE by_index({COLUMNS}, PRIMARY KEY (id));
        CREATE UNIQUE INDEX by_index_identity ON by_index(user_id, bot_name, id);
        ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_identity;
        CREATE TABLE in_full({COLUMNS}, PRIMARY KEY (id));
        ALTER TABLE in_full REPLICA IDENTITY FULL;"""
    options = {"config": config("by_key", "by_index", "in_full")}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def test_a_long_content_that_is_not_sent_again_stays_what_it_was(self):
        for table in ("by_key", "by_index", "in_full"):
            with self.subTest(table):
                i = self.insert(table, f"{table}-long", long_text(table))
                self.assertGreater(self.db.one(f"SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = '{table}'"), 50_000)
                self.wait_count(f"{table}-long", 1)
                self.db.run(f"UPDATE {table} SET metadata = '{{\"emotion\": {{\"label\": \"joy\"}}}}' WHERE id = %s", i)
                self.insert(table, f"{table}-long", "and a short one")
                self.wait_count(f"{table}-long", 2)
        self.assertEqual([], self.w.dead_letters())
        # The oracle reads the contents from the tables: one taken as empty would show.
        self.assertGreater(self.verify()["equal"], 0)

    def test_edits_deletes_and_moves_under_each_identity(self):
        for table in ("by_key", "by_index", "in_full"):
            user = f"{table}-edit"
            ids = [self.insert(table, user, f"number {n}") for n in range(6)]
            self.db.run(f"UPDATE {table} SET content = 'edited' WHERE id = %s", ids[0])
            self.db.run(f"DELETE FROM {table} WHERE id = ANY(%s)", ids[1:3])
            self.db.run(f"UPDATE {table} SET user_id = %s WHERE id = %s", user + "-moved", ids[3])
            self.wait_count(user, 3)
            self.wait_count(user + "-moved", 1)
        self.assertEqual([], self.w.dead_letters())
        self.verify()


class LostIdentityTest(KindTest):
    def test_a_table_without_its_identity_says_so(self):
        self.w.start()
        i = self.insert("chat_message", "lost")
        self.wait_count("lost", 1)
        self.db.run("ALTER TABLE chat_message REPLICA IDENTITY DEFAULT")
        self.db.run("DELETE FROM chat_message WHERE id = %s", i)
        letters = wait_until("the dead letter", self.w.dead_letters, alive=self.w)
        self.assertIn("REPLICA IDENTITY FULL", letters[0]["reason"])
        # Without any, the server itself refuses the application's changes; what it sends is counted.
        self.db.run("ALTER TABLE chat_message REPLICA IDENTITY NOTHING")
        with self.assertRaisesRegex(Exception, "replica identity"):
            self.db.run("DELETE FROM chat_message")
        self.insert("chat_message", "lost")
        self.wait_count("lost", 2)
        self.assertEqual(0, self.w.stop())
        code, out, err = self.w.command("run")
        self.assertEqual(1, code)
        self.assertIn("replica_identity", err)


class PartitionTest(KindTest):
    tables = f"""
        CREATE TABLE chat({COLUMNS}) PARTITION BY LIST (bot_name);
        CREATE TABLE chat_elena PARTITION OF chat FOR VALUES IN ('elena');
        CREATE TABLE chat_marcus PARTITION OF chat FOR VALUES IN ('marcus');
        ALTER TABLE chat_elena REPLICA IDENTITY FULL;
        ALTER TABLE chat_marcus REPLICA IDENTITY FULL;"""
    options = {"config": config("chat")}

    def test_partitions_are_one_table(self):
        self.w.start()
        self.assertTrue(self.db.one("SELECT pubviaroot FROM pg_publication"))
        rows = [self.insert(t, "parts", f"into {t}", bot) for t, bot in
                (("chat", "elena"), ("chat_elena", "elena"), ("chat", "marcus"), ("chat_marcus", "marcus"))]
        count = lambda bot: self.db.one(COUNT + " AND bot_name = %s", "parts", bot)
        wait_until("both", lambda: (count("elena"), count("marcus")) == (2, 2), alive=self.w)
        # From one partition to the other, by its key; and within one.
        self.db.run("UPDATE chat SET bot_name = 'marcus' WHERE id = %s", rows[0])
        self.db.run("UPDATE chat_marcus SET content = 'edited' WHERE id = %s", rows[2])
        wait_until("the row that moved", lambda: (count("elena"), count("marcus")) == (1, 3), alive=self.w)
        # A new partition, one that comes from outside, and one that leaves: its rows are no longer looked at.
        self.db.run(f"CREATE TABLE chat_ada({COLUMNS}); ALTER TABLE chat_ada REPLICA IDENTITY FULL; "
                    "ALTER TABLE chat ATTACH PARTITION chat_ada FOR VALUES IN ('ada')")
        gone = self.insert("chat", "parts", "new", "ada")
        self.insert("chat", "parts", "new", "ada")
        self.db.run("DELETE FROM chat WHERE id = %s", gone)
        wait_until("the new one", lambda: count("ada") == 1, alive=self.w)
        self.assertEqual([], self.w.dead_letters())
        self.verify()
        self.db.run("ALTER TABLE chat DETACH PARTITION chat_marcus")
        self.insert("chat_marcus", "parts", "outside", "marcus")
        self.db.run("TRUNCATE chat_elena")  # not sent: the root is what is published
        self.insert("chat", "parts", "the last one", "elena")
        wait_until("the last row", lambda: count("elena") == 2, alive=self.w)
        self.assertEqual(3, count("marcus"))
        self.assertEqual([], self.w.dead_letters())
        self.db.run("TRUNCATE chat")
        letters = wait_until("the dead letter", self.w.dead_letters, alive=self.w)
        self.assertEqual("public.chat", letters[0]["where"])


class PublicationTest(KindTest):
    needs_major = 15  # row filters and column lists

    def publish(self, what):
        self.db.run(f"DROP PUBLICATION IF EXISTS {self.w.name}")
        self.db.run(f"CREATE PUBLICATION {self.w.name} FOR TABLE {what}, memory, memory_access")


class RowFilterTest(PublicationTest):
    def test_a_row_filter_turns_edits_into_inserts_and_deletes(self):
        self.publish("chat_message WHERE (role <> 'draft')")
        self.w.start()
        i = self.insert("chat_message", "filter", "a draft", role="draft")
        self.insert("chat_message", "filter", "said")
        self.wait_count("filter", 1)
        self.db.run("UPDATE chat_message SET role = 'user' WHERE id = %s", i)
        self.wait_count("filter", 2)
        self.db.run("UPDATE chat_message SET content = 'edited' WHERE id = %s", i)
        self.db.run("UPDATE chat_message SET role = 'draft' WHERE id = %s", i)
        self.wait_count("filter", 1)
        self.assertEqual([], self.w.dead_letters())
        self.verify()


class ColumnListTest(PublicationTest):
    def test_a_column_list_may_leave_out_what_is_not_mapped(self):
        columns = "id, user_id, bot_name, role, content, created_at, metadata"
        self.db.run("ALTER TABLE chat_message ADD COLUMN secret text DEFAULT 'x'")
        # With a list the identity must lie within it.
        self.db.run("ALTER TABLE chat_message DROP CONSTRAINT chat_message_pkey, ADD PRIMARY KEY (id, user_id, bot_name); "
                    "ALTER TABLE chat_message REPLICA IDENTITY DEFAULT")
        self.publish(f"chat_message ({columns})")
        self.w.start()
        i = self.insert("chat_message", "list")
        self.insert("chat_message", "list")
        self.wait_count("list", 2)
        self.db.run("DELETE FROM chat_message WHERE id = %s", i)
        self.wait_count("list", 1)
        self.verify()
        # One that is mapped: waited for while it runs, refused at the start.
        self.db.run(f"ALTER PUBLICATION {self.w.name} SET TABLE chat_message ({columns.replace(', content', '')}), memory, memory_access")
        self.insert("chat_message", "list")
        blocked = wait_until("the reader to stand still", lambda: self.w.status()["blocked"], alive=self.w)
        self.assertIn('"content"', blocked["reason"])
        self.assertIn("column list", blocked["reason"])
        self.assertEqual(0, self.w.stop())
        code, out, err = self.w.command("run")
        self.assertEqual(1, code)
        self.assertRegex(err, "leaves out content")


class GeneratedTest(PublicationTest):
    def test_a_generated_column_is_refused_with_its_name_or_sent(self):
        self.db.run("ALTER TABLE chat_message DROP COLUMN content, ADD COLUMN raw text, "
                    "ADD COLUMN content text GENERATED ALWAYS AS (lower(raw)) STORED")
        if self.db.conn.server_version < 180000:
            code, out, err = self.w.command("run")
            self.assertEqual(1, code)
            self.assertRegex(err, 'column "content" .field content. is generated')
            return
        self.publish("chat_message")
        self.db.run(f"ALTER PUBLICATION {self.w.name} SET (publish_generated_columns = stored)")
        self.w.start()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, raw) VALUES ('generated', 'elena', 'user', 'HELLO')")
        self.wait_count("generated", 1)
        self.assertEqual([], self.w.dead_letters())


if __name__ == "__main__":
    unittest.main()
