"""What comes by HTTP and what comes from the tables meet in one key, each exactly once: across kill -9, with the same message on both
roads, through a rebuild, and while PostgreSQL or the slot reader stands still."""
import http.client
import json
import re
import time

from harness import CONFIG, PipelineTest, connect, wait_until

COUNT = "SELECT coalesce(max(event_count), 0)::int FROM strategic_conversation_patterns WHERE user_id = %s"

INBOX_CONFIG = CONFIG.replace("log: {{", """http: {{listen: "127.0.0.1:0"}}
webhooks:
  - name: app
    preset: warmpath
    verify: shared-secret
    secrets: [{{value: "inbox-secret"}}]
log: {{""")


class BothRoadsTest(PipelineTest):
    options = {"config": INBOX_CONFIG, "count": 1}
    separate_sink = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.start()

    @classmethod
    def start(cls):
        cls.w.start()
        cls.find_port()

    @classmethod
    def find_port(cls):
        found = wait_until("the listener", lambda: re.search(r'listening.* name=public .*port=(\d+)', cls.w.new_log()), alive=cls.w)
        cls.port = int(found.group(1))

    def setUp(self):
        if not self.w.running():  # after a test that failed
            self.start()

    # ---- the two roads

    def insert(self, user, n=1, first=None):
        for i in range(n):
            columns, values = ("id, ", "%s, ") if first else ("", "")
            self.db.run(f"INSERT INTO chat_message({columns}user_id, bot_name, role, content) VALUES ({values}%s, 'elena', 'user', "
                        "'the garden is full of music')", *([first + i] if first else []), user)

    @staticmethod
    def message(id, user, **other):
        return {"type": "message", "id": str(id), "user_id": user, "bot_name": "elena", "role": "user",
                "content": "the garden is full of music", "at": int(time.time() * 1e6), **other}

    def try_post(self, events, key=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            conn.request("POST", "/webhooks/app", json.dumps(events),
                         {"Content-Type": "application/json", "Authorization": "Bearer inbox-secret",
                          **({"Idempotency-Key": key} if key else {})})
            answer = conn.getresponse()
            return answer.status, answer.read()
        finally:
            conn.close()

    def post(self, *events, key=None):
        status, body = self.try_post(list(events), key)
        self.assertTrue(200 <= status < 300, (status, body))

    def count(self, user):
        return self.sink.one(COUNT, user)

    def points(self, bot):
        return self.sink.one("SELECT coalesce(max(event_count), 0)::int FROM strategic_character_performance WHERE bot_name = %s", bot)

    def wait_count(self, user, n):
        wait_until(f"{n} messages of {user}", lambda: self.count(user) == n, alive=self.w)


class InboxTest(BothRoadsTest):
    def test_both_meet_in_one_key_across_kill(self):
        self.insert("anna", 2)
        self.post(*(self.message(f"anna-{i}", "anna") for i in range(3)), key="anna-1")
        self.wait_count("anna", 5)
        for n in range(3):  # at whatever it is doing then
            self.insert("anna")
            self.post(self.message(f"anna-k{n}", "anna"), key=f"anna-k{n}")
            self.w.kill()
            self.start()
            # The sender has lost the answer. Another message id, so that only the inbox can know it.
            self.post(self.message(f"anna-k{n}.again", "anna"), key=f"anna-k{n}")
        self.post(self.message("anna-last", "anna"))
        self.wait_count("anna", 12)
        self.w.check_slot_behind_state()

    def test_the_same_message_by_both_roads_counts_once(self):
        # The table first, then the webhook, and the other way round; with what comes after to see that it has come.
        self.insert("both", 1, first=700001)
        self.wait_count("both", 1)
        self.post(self.message(700001, "both"), self.message("both-1", "both"))
        self.wait_count("both", 2)
        self.post(self.message(700002, "both"))
        self.wait_count("both", 3)
        self.insert("both", 1, first=700002)
        self.insert("both")
        self.wait_count("both", 4)
        # Edited by either, it is still one.
        self.db.run("UPDATE chat_message SET content = 'edited in the table' WHERE id IN (700001, 700002)")
        self.post(self.message(700001, "both", type="message_updated"), self.message("both-2", "both"))
        self.wait_count("both", 5)
        # Deleted by one, it does not come back by the other.
        self.db.run("DELETE FROM chat_message WHERE id = 700001")
        self.wait_count("both", 4)
        self.post(self.message(700001, "both"), self.message("both-3", "both"))
        self.wait_count("both", 5)
        gone = {"type": "message_deleted", "id": "700002", "user_id": "both", "bot_name": "elena", "at": int(time.time() * 1e6)}
        self.post(gone)
        self.wait_count("both", 4)
        self.db.run("UPDATE chat_message SET content = 'edited too late' WHERE id = 700002")
        self.insert("both")
        self.wait_count("both", 5)

    def dora_differs(self):
        """A row of the rebuild may still be on its way, and mend what is done here."""
        self.sink.run("UPDATE strategic_conversation_patterns SET event_count = 77 WHERE user_id = 'dora'")
        code, out, _ = self.w.command("verify", "--all", "--json")
        return (1, ["dora"]) == (code, sorted({d["user_id"] for d in json.loads(out)["differences"]}))

    def test_a_rebuild_keeps_what_came_by_http_and_verify_knows_of_it(self):
        self.insert("carol", 2)
        self.insert("dora", 2)  # by the tables alone
        self.post(*(self.message(f"carol-{i}", "carol") for i in range(3)))
        now = int(time.time() * 1e6)
        self.post(*({"type": "metric", "id": f"p{i}", "user_id": "", "bot_name": "sophia", "at": now - i * 60_000_000,
                     "measurement": "conversation_quality", "fields": {"engagement_score": 0.7}, "tags": {}} for i in range(7)))
        self.wait_count("carol", 5)
        self.wait_count("dora", 2)
        wait_until("the points of the bot", lambda: self.points("sophia") == 7, alive=self.w)
        found = self.w.verify(60)
        self.assertGreater(found["inexact_inbox"], 0)
        self.assertEqual(found["inexact"], found["inexact_inbox"])
        self.assertIn("which the tables do not have", self.w.must("verify", "--all"))
        # Something is wrong with the key, so that the rebuild has an effect that can be seen.
        self.db.run(f"ALTER PUBLICATION {self.name} DROP TABLE chat_message")
        try:
            self.insert("carol")
        finally:
            self.db.run(f"ALTER PUBLICATION {self.name} ADD TABLE chat_message")
        self.w.must("rebuild", "--all", "--json", timeout=180)
        self.wait_count("carol", 6)
        self.assertEqual(2, self.count("dora"))
        self.assertEqual(7, self.points("sophia"))
        # And what comes after it by either road is new, or is known.
        self.post(self.message("carol-0", "carol"), self.message("carol-3", "carol"))
        self.insert("carol")
        self.wait_count("carol", 8)
        # A difference of a key that the tables know everything of is one: behind the back of the pipeline.
        wait_until("the difference to be found", self.dora_differs, alive=self.w)
        self.insert("dora")
        self.wait_count("dora", 3)

    def allow(self, allowed):
        admin = connect("postgres")
        admin.cursor().execute(f"ALTER DATABASE \"{self.db.name}\" ALLOW_CONNECTIONS {'true' if allowed else 'false'}")
        if not allowed:
            self.db.close()
            admin.cursor().execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.db.name,))
        admin.close()

    def test_deliveries_are_counted_while_the_source_is_away(self):
        self.insert("erin")
        self.wait_count("erin", 1)
        self.allow(False)
        try:
            wait_until("the reader to notice", lambda: "replication interrupted" in self.w.new_log(), alive=self.w)
            for i in range(3):
                self.post(self.message(f"erin-{i}", "erin"))
                self.wait_count("erin", 2 + i)
        finally:
            self.allow(True)
        self.insert("erin")
        self.wait_count("erin", 5)

    def test_deliveries_are_counted_while_the_slot_reader_stands_still(self):
        self.insert("fred")
        self.wait_count("fred", 1)
        self.db.run("ALTER TABLE chat_message RENAME COLUMN content TO body")
        try:
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, body) VALUES ('fred', 'elena', 'user', 'x')")
            wait_until("the reader to stand still", lambda: self.w.status()["blocked"], alive=self.w)
            for i in range(3):
                self.post(self.message(f"fred-{i}", "fred"))
                self.wait_count("fred", 2 + i)
        finally:
            self.db.run("ALTER TABLE chat_message RENAME COLUMN body TO content")
        with open(self.w.config) as f:
            good = f.read()
        with open(self.w.config, "w") as f:
            f.write(good.replace("content: content", "content: [body, content]", 1))
        self.wait_count("fred", 5)


class BeginAnewTest(BothRoadsTest):
    options = {**BothRoadsTest.options, "on_slot_lost": "rebuild"}

    def test_what_waits_in_the_inbox_is_given_to_the_new_state_once(self):
        self.insert("gina", 2)
        self.wait_count("gina", 2)
        self.post({"type": "metric", "id": "p", "user_id": "", "bot_name": "sophia", "at": int(time.time() * 1e6),
                   "measurement": "conversation_quality", "fields": {"engagement_score": 0.7}, "tags": {}})
        wait_until("the point", lambda: self.points("sophia") == 1, alive=self.w)
        self.w.kill()
        wait_until("the slot to be released", lambda: not self.w.slot()["active"])
        self.db.run("SELECT pg_drop_replication_slot(%s)", self.name)
        # While the tables are read again, deliveries are taken, and wait. The process dies before they are counted.
        self.w.spawn(env={"WARMPATH_FAULT": "load_event:1:hang"})
        self.find_port()
        self.assertIn("is gone with the old state", self.w.new_log())
        wait_until("the load to stand still", lambda: "hanging at load_event" in self.w.new_log(), alive=self.w)
        self.post(*(self.message(f"gina-{i}", "gina") for i in range(3)), key="waits")
        self.w.kill()
        self.start()
        self.wait_count("gina", 5)
        # They are known by their delivery, and by their messages.
        self.post(self.message("gina-again", "gina"), key="waits")
        self.post(self.message("gina-0", "gina"), self.message("gina-3", "gina"))
        self.insert("gina")
        self.wait_count("gina", 7)
