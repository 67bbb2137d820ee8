"""Dead letters beside a running process and without one: listed, tried again, dropped; and none of them holds up what comes after it."""
import glob
import http.client
import json
import os
import re
import sqlite3
import time

from harness import CONFIG, PipelineTest, wait_until

TABLE = """
      - relation: chat
        event: message
        fields:
          id: id
          user_id: who
          bot_name: {{const: elena}}
          role: {{column: role, map: {{human: user%s}}}}
          content: text
          at: {{column: time, unit: epoch_us}}"""
DOOR = """http:
  listen: "127.0.0.1:0"
webhooks:
  - name: app
    preset: warmpath
    insecure_no_secret: true
  - name: rows
    preset: json
    insecure_no_secret: true
    tables:{table}
log: {{{{"""


def config(more=""):
    return CONFIG.replace("log: {{", DOOR.format(table=(TABLE % more)))


class LettersTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.start()

    def letters(self, *args):
        return json.loads(self.w.must("dlq", "list", "--json", *args))

    def wait_letters(self, n, *args):
        def there():
            found = self.letters(*args)
            return len(found) == n and (found or True)
        found = wait_until(f"{n} letters of {args}", there, alive=self.w if self.w.running() else None)
        return [] if found is True else found

    def count(self, user):
        return self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s", user)

    def wait_count(self, user, n):
        wait_until(f"{n} messages of {user}", lambda: self.count(user) == n, alive=self.w)

    # ---- letters, past the process

    def files(self):
        return sorted(glob.glob(os.path.join(self.w.state, "set-*", "worker-*.db")))

    def raw_letters(self):
        rows = []
        for path in self.files():
            db = sqlite3.connect(path, timeout=10)
            rows += db.execute("SELECT source, lsn, seq, at_us, place, reason, bytes FROM dead_letter").fetchall()
            db.close()
        return rows

    def put_back(self, rows):
        db = sqlite3.connect(self.files()[0], timeout=10)
        db.execute("PRAGMA wal_autocheckpoint=0")
        with db:
            db.executemany("INSERT INTO dead_letter(source, lsn, seq, at_us, place, reason, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
                           [(*row[:6], row[6].encode() if isinstance(row[6], str) else row[6]) for row in rows])
        db.close()


class DlqTest(LettersTest):
    options = {"config": config()}

    def post(self, name, body):
        found = wait_until("the listener", lambda: re.search(r'"listening" name=public .*port=(\d+)', self.w.new_log()), alive=self.w)
        conn = http.client.HTTPConnection("127.0.0.1", int(found.group(1)), timeout=30)
        try:
            conn.request("POST", f"/webhooks/{name}", json.dumps(body), {"Content-Type": "application/json"})
            return conn.getresponse().status
        finally:
            conn.close()

    def row(self, number, user, role="human"):
        return {"id": f"row-{number}", "who": user, "role": role, "text": "words", "time": int(time.time() * 1e6)}

    def test_1_bad_elements_hold_up_nothing_and_are_chosen_by_place_and_reason(self):
        good = {"type": "message", "user_id": "ann", "bot_name": "elena", "role": "user", "content": "words", "at": int(time.time() * 1e6)}
        self.assertEqual(204, self.post("app", [{**good, "id": "a1"}, {**good, "id": "a2", "role": "narrator"}, {**good, "id": "a3"}]))
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('ann', 'elena', 'narrator', 'poison')")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('ann', 'elena', 'user', 'after it')")
        self.wait_count("ann", 3)
        self.wait_letters(2)
        self.assertEqual(["webhook:app"], [x["where"] for x in self.letters("--where", "webhook:app")])
        self.assertEqual(["public.chat_message"], [x["where"] for x in self.letters("--where", "public.chat_message", "--reason", "narrator")])
        self.assertEqual([], self.letters("--where", "public.chat_message", "--reason", "no such reason"))
        self.assertEqual(1, len(self.letters("--limit", "1")))
        letter = self.letters("--where", "webhook:app")[0]
        shown = json.loads(self.w.must("dlq", "show", letter["id"], "--json"))
        self.assertEqual("a2", json.loads(shown[0]["bytes"])["id"])
        self.assertEqual(1, self.w.command("dlq", "show", "inbox:0/0:99")[0])
        for wrong in (("drop",), ("retry",), ("drop", letter["id"], "--all"), ("list", letter["id"]), ("burn",), ("list", "--limit", "x")):
            self.assertEqual(64, self.w.command("dlq", *wrong)[0], wrong)

    def test_2_what_cannot_be_tried_again_says_what_to_do(self):
        table = self.letters("--where", "public.chat_message")[0]["id"]
        element = self.letters("--where", "webhook:app")[0]["id"]
        code, out, err = self.w.command("dlq", "retry", table, element)
        self.assertEqual(1, code)
        self.assertIn("rebuild --user", err)
        self.assertIn("role", err)
        self.assertIn("again 0, not 2", out)
        self.assertEqual(2, len(self.letters()))
        code, _, err = self.w.command("dlq", "drop", table, "postgres:0/1:1")
        self.assertEqual(1, code)
        self.assertEqual(2, len(self.letters()), "an unknown ID must not drop the others")
        self.assertIn("dropped 1", self.w.must("dlq", "drop", table))
        self.assertEqual({"dropped": 1}, json.loads(self.w.must("dlq", "drop", "--reason", "role", "--json")))
        self.assertEqual([], self.letters())

    def test_3_what_a_better_configuration_can_read_is_counted_once_while_it_runs(self):
        for i in range(3):
            self.assertEqual(400, self.post("rows", self.row(i, "bob", "droid")))
        self.assertEqual(204, self.post("rows", self.row(9, "bob")))
        letters = self.wait_letters(3, "--where", "webhook:rows")
        self.wait_count("bob", 1)
        # `dlq retry` reads the configuration that is on disk.
        self.w.template = config(", droid: user")
        self.w.write_config()
        saved = self.raw_letters()
        self.assertIn("again 1, not 0", self.w.must("dlq", "retry", letters[0]["id"]))
        self.assertIn("again 2, not 0", self.w.must("dlq", "retry", "--where", "webhook:rows"))
        self.assertEqual([], self.letters("--where", "webhook:rows"))
        self.wait_count("bob", 4)
        # As after a crash between the append and the removal: they are there, and are tried again.
        self.put_back(saved)
        self.assertEqual(3, len(self.letters("--where", "webhook:rows")))
        self.assertIn("again 3, not 0", self.w.must("dlq", "retry", "--all"))
        self.assertEqual([], self.letters())
        self.assertEqual(204, self.post("rows", self.row(10, "bob")))
        self.wait_count("bob", 5)

    def test_4_without_a_process(self):
        self.post("rows", self.row(20, "cid", "martian"))
        self.post("rows", self.row(21, "cid", "plutonian"))
        self.wait_letters(2)
        self.assertEqual(0, self.w.stop())
        self.assertEqual(2, len(self.letters()))
        self.w.template = config(", martian: user")
        self.w.write_config()
        code, out, err = self.w.command("dlq", "retry", "--all", "--json")
        self.assertEqual(1, code, err)
        self.assertEqual((1, False), (json.loads(out)["retried"], json.loads(out)["after_restart"]))
        self.assertIn("plutonian", json.loads(out)["refused"][0]["reason"])
        self.assertIn("dropped 1", self.w.must("dlq", "drop", "--all"))
        self.assertEqual([], self.letters())
        self.w.start()
        self.wait_count("cid", 1)
        self.assertEqual([], self.letters())

    def test_5_an_event_that_a_worker_refused(self):
        """Put into the file as the worker writes it: whole, in the public form."""
        event = {"type": "message", "id": "w1", "user_id": "dora", "bot_name": "elena", "role": "user", "content": "words",
                 "at": int(time.time() * 1e6)}
        self.put_back([(0, 77, 0, 1, "worker", "too much", json.dumps(event)), (0, 78, 0, 1, "worker", "too much", "x" * 16384)])
        code, out, err = self.w.command("dlq", "retry", "--where", "worker")
        self.assertEqual(1, code)
        self.assertIn("16 KiB", err)
        self.assertIn("again 1, not 1", out)
        self.wait_count("dora", 1)
        self.assertEqual(["postgres:0/4E:0"], [x["id"] for x in self.letters()])

    def test_6_dropping_under_load_does_not_disturb_the_commits(self):
        self.w.must("dlq", "drop", "--all")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'eve', 'elena', "
                    "CASE WHEN i % 3 = 0 THEN 'narrator' ELSE 'user' END, 'words' FROM generate_series(1, 6000) i")
        dropped = 0

        def all_gone():
            nonlocal dropped
            dropped += json.loads(self.w.must("dlq", "drop", "--all", "--json"))["dropped"]
            return dropped >= 2000
        wait_until("every letter to be dropped", all_gone, 60, alive=self.w)
        self.assertEqual(2000, dropped)
        self.w.wait_covered()
        wait_until("the rows", lambda: self.count("eve") and self.count("eve") >= 2048, 60, alive=self.w)
        self.assertEqual(0, self.w.status()["state"]["dead_letters"])
        self.assertEqual(0, self.w.stop())


class PlainTest(LettersTest):
    """Where nothing comes by HTTP there is no inbox until a letter needs one."""

    def test_an_inbox_is_made_and_read_after_the_next_start(self):
        event = {"type": "message", "id": "w1", "user_id": "dora", "bot_name": "elena", "role": "user", "content": "words",
                 "at": int(time.time() * 1e6)}
        self.put_back([(0, 77, 0, 1, "worker", "too much", json.dumps(event))])
        self.assertFalse(os.path.exists(os.path.join(self.w.state, "inbox.db")))
        out = json.loads(self.w.must("dlq", "retry", "--all", "--json"))
        self.assertEqual((1, True, []), (out["retried"], out["after_restart"], out["refused"]))
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('dora', 'elena', 'user', 'words')")
        self.wait_count("dora", 1)
        self.assertEqual(0, self.w.stop())
        self.w.start()
        self.wait_count("dora", 2)
