"""What cannot be used is kept with its reason, counted, and does not hold up what comes after it."""
import os
import unittest

from harness import CI, CONFIG, Database, PipelineTest, connect, wait_until

HUGE_BYTES = int(os.environ.get("WARMPATH_HUGE_MB", "20" if CI else "200")) << 20

# As an application may have it: nothing is NOT NULL, and any word may be a role.
LOOSE = """
CREATE TABLE public.chat_message(id bigserial PRIMARY KEY, user_id text, bot_name text, role text, content text,
    created_at timestamptz DEFAULT clock_timestamp(), metadata jsonb);
ALTER TABLE public.chat_message REPLICA IDENTITY FULL;
CREATE TABLE public.memory(memory_id text PRIMARY KEY, user_id text, bot_name text, content text, importance real,
    memory_type text, created_at timestamptz DEFAULT clock_timestamp());
ALTER TABLE public.memory REPLICA IDENTITY FULL;
CREATE TABLE public.memory_access(id bigserial PRIMARY KEY, user_id text, bot_name text, kind text, memory_id text, score real,
    at timestamptz DEFAULT clock_timestamp());
ALTER TABLE public.memory_access REPLICA IDENTITY FULL;
"""


class BadInputTest(PipelineTest):
    tables = LOOSE

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def insert(self, **values):
        row = dict(user_id="ann", bot_name="elena", role="user", content="fine")
        row.update(values)
        names = ", ".join(row)
        return self.db.one(f"INSERT INTO chat_message({names}) VALUES ({', '.join(['%s'] * len(row))}) RETURNING id", *row.values())

    def expect_letter(self, reason, **values):
        before = len(self.w.dead_letters())
        bad = self.insert(**values)
        good = self.insert(user_id=f"after-{bad}")
        wait_until("the good row that follows", lambda: self.db.one(
            "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", f"after-{bad}"), alive=self.w)
        letters = wait_until("the dead letter", lambda: len(self.w.dead_letters()) > before and self.w.dead_letters(), alive=self.w)
        self.assertEqual(before + 1, len(letters))
        self.assertIn(reason, " ".join(str(letter["reason"]) for letter in letters))
        self.assertEqual(len(letters), self.w.status()["state"]["dead_letters"])
        self.assertGreater(good, bad)

    def test_a_role_that_the_map_does_not_know(self):
        self.expect_letter("narrator", role="narrator")

    def test_null_where_a_value_is_needed(self):
        for column in ("user_id", "bot_name", "role", "created_at"):
            with self.subTest(column):
                self.expect_letter(column, **{column: None})

    def test_times_without_an_end(self):
        for time in ("infinity", "-infinity"):
            with self.subTest(time):
                self.expect_letter("created_at", created_at=time)

    def test_a_time_far_in_the_future_or_before_christ(self):
        for time in ("2999-01-01 00:00:00+00", "0044-03-15 00:00:00+00 BC"):
            before = self.insert(user_id="calendar", created_at=time)
            self.assertGreater(before, 0)
        self.insert(user_id="calendar")
        wait_until("the present", lambda: self.db.one(
            "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'calendar'") == 1, alive=self.w)

    def test_names_that_are_too_long(self):
        self.expect_letter("user_id", user_id="x" * 5000)

    def test_a_huge_text_is_cut_for_its_features_and_counted(self):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) "
                    "SELECT 'huge', 'elena', 'user', repeat('word ', %s)", HUGE_BYTES // 5)
        self.insert(user_id="huge")
        wait_until("both", lambda: self.db.one(
            "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'huge'") == 2, 120, alive=self.w)
        self.assertLess(self.w.rss_kib(), HUGE_BYTES // 1024 * 4 + 200 * 1024)

    def test_strange_texts_are_texts(self):
        texts = ("", " ", "\u202e\u0000".replace("\u0000", ""), "\U0001f600" * 1000, "a\u0301" * 500, "{\"json\": [", "'; DROP TABLE x; --",
                 "\r\n\t\x01\x7f", "\ufeff\uffff")
        for text in texts:
            self.insert(user_id="strange", content=text)
        wait_until("all of them", lambda: self.db.one(
            "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = 'strange'") == len(texts), alive=self.w)

    def test_what_was_good_is_right(self):
        self.insert()
        self.w.wait_covered()
        result = self.w.verify()
        self.assertGreater(result["equal"], 0)


class InvalidBytesTest(PipelineTest):
    """A database that takes any bytes: SQL_ASCII. The cache rows go to one that does not."""

    database_options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    separate_sink = True

    def test_bytes_that_are_no_text_are_kept_and_the_stream_goes_on(self):
        self.w.start()
        conn = connect(self.db.name)
        conn.set_client_encoding("SQL_ASCII")
        cur = conn.cursor()
        for user, content in (("E'good'", "E'fine'"), ("E'\\xff\\xfe'", "E'bad user'"), ("E'bytes'", "E'caf\\xe9 \\xc3\\x28'"),
                              ("E'good'", "E'fine again'")):
            cur.execute(f"INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ({user}, 'elena', 'user', {content})")
        conn.close()
        count = lambda user: self.sink.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", user)
        wait_until("the good ones", lambda: count("good") == 2, alive=self.w)
        letters = wait_until("the dead letters", lambda: len(self.w.dead_letters()) == 2 and self.w.dead_letters(), alive=self.w)
        self.assertEqual(["content", "user_id"], sorted(c for x in letters for c in ("content", "user_id") if f'"{c}"' in x["reason"]))
        self.w.wait_covered()
        self.assertEqual(2, self.w.verify()["unusable_source_rows"])
        self.assertTrue(self.w.running())
        self.assertEqual(0, self.w.stop())


if __name__ == "__main__":
    unittest.main()
