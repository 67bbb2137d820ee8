"""A user is forgotten: every file of the state, every table of the cache and the log are searched for what only this user has said,
while the process is killed at each step of it; everybody else is as the oracle says."""
import glob
import http.client
import json
import os
import re
import signal
import time
import unittest

from harness import CONFIG, PipelineTest, wait_until

# What nobody else has: ids, words of messages, of the bot's answers, of memories; in the inbox, and in what could not be used.
USER = "Zyxwvut-4711"
WORDS = ("quokkarama", "flibbertone", "wombatology", "gribbleflix", "xanthogram")
CACHE = ("strategic_memory_health", "strategic_conversation_patterns", "strategic_personality_profiles",
         "strategic_memory_behavior", "strategic_engagement_opportunities")


def say(db, user, n, words, role="user", bot="elena"):
    db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT %s, %s, %s, %s || ' ' || i FROM generate_series(1, %s) i",
           user, bot, role, words, n)


class ForgetTest(PipelineTest):
    def live(self):
        for user, words in ((USER, f"the {WORDS[0]} harvest"), ("brenda", "ripe tomatoes")):
            for bot in ("elena", "marcus"):
                say(self.db, user, 8, words, bot=bot)
                say(self.db, user, 8, f"{WORDS[1]} indeed" if user == USER else "tomatoes indeed", "bot", bot)
                self.db.run("INSERT INTO memory(memory_id, user_id, bot_name, content, importance) VALUES (%s, %s, %s, %s, 0.5) "
                            "ON CONFLICT DO NOTHING", f"{user}-{bot}-memory", user, bot, WORDS[2] if user == USER else "sunflowers")
                self.db.run("INSERT INTO memory_access(user_id, bot_name, kind, memory_id, score) VALUES (%s, %s, 'access', %s, 0.5)",
                            user, bot, f"{user}-{bot}-memory")
        # A role that the mapping does not know: a dead letter with the row.
        say(self.db, USER, 1, WORDS[3], "oracle")
        say(self.db, "brenda", 1, "brendas words", "oracle")

    def rows_of(self, user):
        return sum(self.db.one(f"SELECT count(*) FROM {t} WHERE user_id = %s", user) for t in CACHE)

    def leave_source(self):
        """As an application does: its own tables first, then the rest is asked for, in one transaction."""
        with self.db.conn.cursor() as cur:
            cur.execute("BEGIN")
            for table in ("chat_message", "memory_access", "memory"):
                cur.execute(f"DELETE FROM {table} WHERE user_id = %s", (USER,))
            cur.execute("SELECT strategic_forget(%s)", (USER,))
            erasure = cur.fetchone()[0]
            cur.execute("COMMIT")
        return erasure

    def finished(self, erasure):
        return self.db.one("SELECT finished_at IS NOT NULL FROM strategic_erasure WHERE id = %s", erasure)

    def places(self):
        """Where anything of the user is still to be found."""
        words = [w.encode() for w in (USER, *WORDS)]
        found = set()
        for path in glob.glob(os.path.join(self.w.dir, "**"), recursive=True):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    content = f.read()
                found |= {(os.path.relpath(path, self.w.dir), w) for w in words if w in content}
        for (table,) in self.sink.run("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"):
            for w in (USER, *WORDS):
                if self.sink.one(f"SELECT EXISTS (SELECT FROM {table} t WHERE t::text LIKE %s)", f"%{w}%"):
                    found.add((table, w))
        return found

    def settle_and_check(self, erasure):
        wait_until("the receipt to be complete", lambda: self.finished(erasure), 60, alive=self.w)
        self.w.wait_covered()
        self.assertEqual(self.places(), set())
        self.assertEqual(self.rows_of(USER), 0)
        self.assertGreater(self.rows_of("brenda"), 0)
        self.assertEqual(len(self.w.dead_letters()), self.others_letters)
        self.w.verify(60)

    def begin(self):
        self.live()
        self.others_letters = self.db.one("SELECT count(*) FROM chat_message WHERE user_id = 'brenda' AND role = 'oracle'")
        self.w.wait_covered()
        wait_until("rows of both", lambda: self.rows_of(USER) >= 6 and self.rows_of("brenda") >= 6, 60, alive=self.w)
        self.assertTrue(self.places())

    def test_a_forgotten_user_leaves_no_trace_whatever_crashes(self):
        """Killed at each step, and once not at all; every time the same is left, and the user may come back."""
        self.w.start()
        for fault in ("", "erase_applied:1:abort", "erase_committed:1:abort", "erase_scrubbed:1:abort", "erase_before_rows:1:abort",
                      "erase_after_rows:1:abort", "erase_scrubbed:3:abort", "erase_reported:1:abort"):
            with self.subTest(fault=fault):
                self.begin()
                if fault:
                    self.assertEqual(self.w.stop(), 0)
                    self.w.spawn(env={"WARMPATH_FAULT": fault})
                    wait_until("it to read its slot", self.w.is_reading, 60, alive=self.w)
                erasure = self.leave_source()
                if fault:
                    self.assertEqual(self.w.wait(60), -signal.SIGKILL)
                    self.w.start()
                self.settle_and_check(erasure)
        # Back again: new rows, of new messages alone.
        say(self.db, USER, 3, "starting over")
        wait_until("rows of who came back", lambda: self.db.one(
            "SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", USER) == 3, 60, alive=self.w)
        # A copy that comes late: ignored, though the table holds it.
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content, created_at) "
                    "VALUES (%s, 'elena', 'user', %s, now() - interval '1 hour')", USER, WORDS[4])
        self.w.wait_covered()
        code, out, err = self.w.command("forget", USER, "--json", timeout=120)
        self.assertEqual(code, 0, err)
        receipt = json.loads(out)
        self.assertTrue(receipt["finished"])
        self.assertEqual(receipt["keys"], 1)
        self.assertGreaterEqual(receipt["rows"], 1)
        self.assertEqual([k["what"] for k in receipt["kept"]], ["epochs"])
        self.db.run("DELETE FROM chat_message WHERE user_id = %s", USER)
        self.settle_and_check(receipt["id"])
        # Nobody is there: rows go at once, the rest at the next start.
        say(self.db, USER, 6, WORDS[0])
        wait_until("rows", lambda: self.rows_of(USER) > 0, 60, alive=self.w)
        self.assertEqual(self.w.stop(), 0)
        self.db.run("UPDATE strategic_lease SET until = now() - interval '1 minute'")
        code, out, err = self.w.command("forget", USER)
        self.assertEqual(code, 0, err)
        self.assertIn("no instance is running", err)
        self.assertEqual(self.rows_of(USER), 0)
        self.db.run("DELETE FROM chat_message WHERE user_id = %s", USER)
        self.w.start()
        self.settle_and_check(self.db.one("SELECT max(id) FROM strategic_erasure"))


class ForgetByWebhookTest(ForgetTest):
    """Everything by HTTP, the wish as well, with the cache in a database of its own."""
    separate_sink = True
    options = {"config": CONFIG.replace("log: {{", """http: {{listen: "127.0.0.1:0"}}
webhooks:
  - {{name: app, preset: warmpath, verify: shared-secret, secrets: [{{value: "erasure-secret"}}]}}
log: {{""")}

    def post(self, *events):
        found = wait_until("the listener", lambda: re.search(r"listening.* name=public .*port=(\d+)", self.w.new_log()), alive=self.w)
        conn = http.client.HTTPConnection("127.0.0.1", int(found.group(1)), timeout=30)
        try:
            conn.request("POST", "/webhooks/app", json.dumps(events),
                         {"Content-Type": "application/json", "Authorization": "Bearer erasure-secret"})
            answer = conn.getresponse()
            body = answer.read()
            self.assertTrue(200 <= answer.status < 300, (answer.status, body))
        finally:
            conn.close()

    def message(self, user, i, words, **other):
        return {"type": "message", "id": f"{user}-hook-{i}", "user_id": user, "bot_name": "elena", "role": "user", "content": words,
                "at": int(time.time() * 1e6), **other}

    def test_a_forgotten_user_leaves_no_trace_whatever_crashes(self):
        self.w.start()
        old = [self.message(USER, i, f"{WORDS[0]} {WORDS[4]}") for i in range(6)]
        self.post(*old, *(self.message("brenda", i, "ripe tomatoes") for i in range(6)))
        patterns = "SELECT coalesce(max(event_count), 0) FROM strategic_conversation_patterns WHERE user_id = %s"
        for user in (USER, "brenda"):
            wait_until(f"the row of {user}", lambda: self.sink.one(patterns, user) == 6, 60, alive=self.w)
        self.post({"type": "privacy", "op": "erase", "id": "e1", "user_id": USER, "at": int(time.time() * 1e6)})
        wait_until("the receipt", lambda: self.sink.one("SELECT count(*) FROM strategic_erasure WHERE finished_at IS NOT NULL") == 1,
                   60, alive=self.w)
        self.assertEqual(self.places(), set())
        self.assertEqual(self.sink.one(patterns, "brenda"), 6)
        # The sender repeats it under other delivery ids, and then the user says something new.
        self.post(*old)
        self.post(self.message(USER, 7, "starting over"))
        wait_until("the new row", lambda: self.sink.one(patterns, USER) == 1, 60, alive=self.w)


if __name__ == "__main__":
    unittest.main()
