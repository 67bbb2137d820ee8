"""Every kind of change in every shape of transaction gives the rows that the oracle computes from the tables."""
import json
import random

from harness import Load, PipelineTest, connect, sentence, wait_until

INSERT = "INSERT INTO chat_message(user_id, bot_name, role, content) VALUES (%s, 'elena', 'user', %s) RETURNING id"


class ChangesTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def check(self):
        self.w.wait_covered()
        result = self.w.verify()
        self.assert_counts()
        return result

    def count_of(self, user):
        return self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", user)

    def test_one_row_at_a_time(self):
        rng = random.Random(1)
        ids = [self.db.one(INSERT, "single", sentence(rng)) for _ in range(30)]
        for i in ids[:10]:
            self.db.run("UPDATE chat_message SET content = %s WHERE id = %s", sentence(rng), i)
        for i in ids[5:15]:
            self.db.run("DELETE FROM chat_message WHERE id = %s", i)
        self.assertGreater(self.check()["equal"], 0)
        self.assertEqual(20, self.count_of("single"))

    def test_many_rows_in_one_statement(self):
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, created_at) SELECT 'multi-' || g %% 7, 'elena', "
                    "CASE g %% 3 WHEN 0 THEN 'bot' ELSE 'user' END, md5(g::text), clock_timestamp() - g * interval '1 s' "
                    "FROM generate_series(1, 700) g", None)
        self.db.run("UPDATE chat_message SET content = content || ' again' WHERE user_id LIKE 'multi-%' AND id % 5 = 0")
        self.db.run("DELETE FROM chat_message WHERE user_id LIKE 'multi-%' AND id % 2 = 0")
        self.check()

    def test_interleaved_transactions_are_both_counted(self):
        a, b = connect(self.db.name, autocommit=False), connect(self.db.name, autocommit=False)
        a.cursor().execute(INSERT, ("interleaved", "from a, begun first"))
        b.cursor().execute(INSERT, ("interleaved", "from b, committed first"))
        b.commit()
        wait_until("the row of b", lambda: self.count_of("interleaved") == 1, alive=self.w)
        a.cursor().execute(INSERT, ("interleaved", "from a, again"))
        a.commit()
        a.close()
        b.close()
        wait_until("the rows of a", lambda: self.count_of("interleaved") == 3, alive=self.w)
        self.check()

    def test_what_a_savepoint_takes_back_is_not_counted(self):
        c = connect(self.db.name, autocommit=False)
        cur = c.cursor()
        cur.execute(INSERT, ("savepoints", "kept"))
        cur.execute("SAVEPOINT one")
        cur.execute(INSERT, ("savepoints", "taken back"))
        cur.execute("SAVEPOINT two")
        cur.execute(INSERT, ("savepoints", "taken back with it"))
        cur.execute("ROLLBACK TO one")
        cur.execute("SAVEPOINT three")
        cur.execute(INSERT, ("savepoints", "kept as well"))
        cur.execute("RELEASE three")
        c.commit()
        c.close()
        wait_until("the row", lambda: self.count_of("savepoints") == 2, alive=self.w)
        self.check()

    def test_empty_and_rolled_back_transactions_change_nothing_and_move_the_slot(self):
        c = connect(self.db.name, autocommit=False)
        for _ in range(20):
            c.cursor().execute("SELECT pg_current_xact_id()")
            c.commit()
            c.cursor().execute(INSERT, ("nobody", "never there"))
            c.rollback()
        c.close()
        self.check()
        self.assertIsNone(self.count_of("nobody"))

    def test_a_key_that_moves_is_taken_from_one_and_given_to_the_other(self):
        i = self.db.one(INSERT, "before", "whose is it?")
        self.db.one(INSERT, "before", "this one stays")
        self.db.run("UPDATE chat_message SET user_id = 'after' WHERE id = %s", i)
        wait_until("the other row", lambda: (self.count_of("before"), self.count_of("after")) == (1, 1), alive=self.w)
        self.check()

    def test_mapped_traits_fill_the_personality_profile(self):
        # Twelve bot messages an hour apart; warm ones are answered with joy, dry ones not at all.
        for i in range(12):
            at = f"{13 - i} h"
            warm = i % 2 == 0
            names = [{"name": "warm", "weight": 0.75}, "kind"] if warm else ["dry"]
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, metadata, created_at) VALUES "
                        "('traits', 'elena', 'bot', 'hello', %s, clock_timestamp() - %s::interval)",
                        json.dumps({"traits": names}), at)
            if warm:
                self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, metadata, created_at) VALUES "
                            "('traits', 'elena', 'user', 'thank you', %s, clock_timestamp() - %s::interval + '1 min')",
                            json.dumps({"emotion": {"label": "joy"}}), at)
        self.check()
        traits = self.db.one("SELECT dominant_traits FROM strategic_personality_profiles WHERE user_id = 'traits'")
        self.assertEqual({"dry": 0, "kind": 6, "warm": 6},
                         {t["trait"]: round(t["effectiveness"] * 10 - 2) for t in traits})
        self.assertEqual({"metadata"}, {t["source"] for t in traits})
        rates = self.db.one("SELECT user_response_patterns->'warm'->>'reply_rate' "
                            "FROM strategic_personality_profiles WHERE user_id = 'traits'")
        self.assertEqual("1", rates)

    def test_ignored_roles_are_no_events_and_may_become_ones(self):
        i = self.db.one("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('roles', 'elena', 'system', 'x') "
                        "RETURNING id")
        self.db.one(INSERT, "roles", "counted")
        self.db.run("UPDATE chat_message SET role = 'user' WHERE id = %s", i)
        wait_until("both", lambda: self.count_of("roles") == 2, alive=self.w)
        self.db.run("UPDATE chat_message SET role = 'system' WHERE id = %s", i)
        wait_until("one of them", lambda: self.count_of("roles") == 1, alive=self.w)
        self.check()

    def test_memories_are_created_accessed_changed_and_deleted(self):
        for n in range(40):
            self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content, importance) VALUES (%s, 'mem', 'elena', %s, 0.5)",
                        f"memory-{n}", f"memory number {n}")
            self.db.run("INSERT INTO memory_access(user_id, bot_name, kind, memory_id, score) VALUES ('mem', 'elena', 'access', %s, 0.7)",
                        f"memory-{n // 2}")
        self.db.run("UPDATE memory SET importance = 0.9 WHERE memory_id IN ('memory-1', 'memory-2')")
        self.w.wait_covered()
        self.w.verify()
        self.assertEqual(40, self.db.one("SELECT (memory_snapshot->>'total')::int FROM strategic_memory_health WHERE user_id = 'mem'"))

    def test_deleted_memories_leave_no_trace(self):
        for n in range(6):
            self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content) VALUES (%s, 'forget', 'elena', 'x')", f"forget-{n}")
        self.db.run("INSERT INTO memory_access(user_id, bot_name, kind, memory_id) VALUES ('forget', 'elena', 'access', 'forget-1')")
        self.w.wait_covered()
        self.db.run("DELETE FROM memory WHERE memory_id IN ('forget-2', 'forget-3')")
        self.w.wait_covered()
        wait_until('the deleted memories to be gone', lambda: self.db.one(
            "SELECT (memory_snapshot->>'total')::int FROM strategic_memory_health WHERE user_id = 'forget'") == 4, alive=self.w)

    def test_a_random_mix_of_everything(self):
        Load(self.db, seed=7).run(400)
        self.check()
