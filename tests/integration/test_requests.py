"""What applications ask for in their own transactions: strategic_invalidate(), strategic_recompute(), strategic_touch(), the statement
trigger, and the commands; that readers never see a row again whose cause was taken back, whatever runs beside it or crashes."""
import harness
from harness import PipelineTest, connect, wait_until

ROW = "strategic_conversation_patterns"
DERIVED = {
    "strategic_memory_health": "memory_snapshot = '{}' AND forgetting_risk_memories IS NULL",
    ROW: "recent_topics IS NULL AND topic_transition_graph IS NULL AND communication_style IS NULL",
    "strategic_engagement_opportunities": "suggested_topics IS NULL AND opportunities IS NULL",
}


def say(db, user, bot, n, word="garden"):
    db.run("INSERT INTO chat_message (user_id, bot_name, role, content) SELECT %s, %s, 'user', 'the ' || %s || ' needs water, number ' || i "
           "FROM generate_series(1, %s) i", user, bot, word, n)


class RequestTest(PipelineTest):
    def rows(self, user, bot=None):
        """{(table, bot): (row_version, valid)} of the user"""
        found = {}
        for table in DERIVED:
            for name, version, valid in self.sink.run(f"SELECT bot_name, row_version, invalidated_at IS NULL FROM {table} "
                                                      "WHERE user_id = %s AND (%s::text IS NULL OR bot_name = %s)", user, bot, bot):
                found[table, name] = (version, valid)
        return found

    def count(self, user, bot="elena"):
        """event_count of the conversation row, None while it is invalid or missing"""
        return self.sink.one(f"SELECT event_count FROM {ROW} WHERE user_id = %s AND bot_name = %s AND invalidated_at IS NULL", user, bot)

    def wait_count(self, user, n, bot="elena"):
        wait_until(f"the row of {user} with {bot} to show {n} messages", lambda: self.count(user, bot) == n, 60, alive=self.w)

    def wait_recorded(self, here):
        wait_until("the instance to record where requests go",
                   lambda: self.sink.run("SELECT here FROM strategic_source WHERE pipeline = %s", self.name) == [(here,)], alive=self.w)

    def new_rows(self, user, before, bot=None):
        def all_new():
            now = self.rows(user, bot)
            return now and all(valid and version > before.get(key, (0,))[0] for key, (version, valid) in now.items())
        wait_until(f"new rows of {user}", all_new, 60, alive=self.w)


class RequestsTest(RequestTest):
    def setUp(self):
        if not self.w.running():
            self.w.start()
        self.wait_recorded(True)

    def tearDown(self):
        if self.w.running():
            self.assertEqual(0, self.w.stop())

    def test_a_row_is_invalid_at_commit_and_right_afterwards(self):
        say(self.db, "ann", "elena", 6)
        self.wait_count("ann", 6)
        app = connect(self.name, autocommit=False)
        try:
            cur = app.cursor()
            cur.execute("SELECT strategic_invalidate('ann', 'Elena', 'edit')")
            cur.execute("DELETE FROM chat_message WHERE id = (SELECT max(id) FROM chat_message WHERE user_id = 'ann')")
            self.assertEqual(6, self.count("ann"))  # of others nobody sees anything before COMMIT, and no row is locked
            self.db.run(f"SELECT FROM {ROW} WHERE user_id = 'ann' FOR UPDATE NOWAIT")
            self.w.pause()
            app.commit()
        finally:
            app.close()
        for table, derived in DERIVED.items():
            for row in self.db.run(f"SELECT {derived}, details IS NULL, expires_at <= now(), invalidated_at IS NOT NULL "
                                   f"FROM {table} WHERE user_id = 'ann'"):
                self.assertEqual((True,) * 4, row, table)
        self.assertEqual("invalid", self.db.one("SELECT cp_f FROM strategic_bundle('ann', 'elena')"))
        self.w.process.send_signal(harness.signal.SIGCONT)
        self.wait_count("ann", 5)
        self.w.wait_covered()
        self.w.verify()
        self.assertEqual(0, self.db.one("SELECT count(*) FROM strategic_request"))
