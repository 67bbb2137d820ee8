"""Webhooks end to end: what each sender posts, signed as it signs, becomes rows of the cache; repetitions count once with the same
answer; what cannot be used is kept and shown by `dlq list`; secrets change without a restart."""
import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import subprocess
import time

import harness
from harness import CONFIG, PipelineTest, wait_until

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "webhooks")
KEY = base64.b64encode(bytes(range(32))).decode()
NEW_KEY = base64.b64encode(bytes(range(32, 64))).decode()

# A row change of Supabase or Sequin.
ROW = """
        fields:
          id: id
          user_id: user_id
          bot_name: {const: BOT}
          role: {column: author, map: {human: user, system: ""}}
          content: body"""

WEBHOOKS = """http: {listen: "127.0.0.1:0", max_body: 64KiB}
webhooks:
  - name: app
    preset: warmpath
    secrets: [{id: first, value: "whsec_KEY"}, {id: second, value: "${file:FOLDER/secret}"}]
  - name: supa
    preset: supabase
    secrets: [{value: Bearer-token-of-supabase}]
    tables:
      - relation: messages
        event: message
        soft_delete: removedROW
          at: inserted_at
          emotion: {column: meta, path: mood.label}
  - name: seq
    preset: sequin
    secrets: [{value: token-of-sequin}]
    tables:
      - relation: public.messages
        event: messageROW
  - name: gh
    preset: github
    secrets: [{value: secret-of-github}]
    tables:
      - relation: issue_comment
        event: message
        fields:
          id: {column: comment, path: id}
          user_id: {column: comment, path: user.login}
          bot_name: {const: gh}
          role: {const: user}
          content: {column: comment, path: body}
          at: {column: comment, path: created_at}
  - name: slack
    preset: slack
    secrets: [{value: secret-of-slack}]
    each: event
    tables:
      - relation: event
        event: message
        fields:
          id: ts
          user_id: user
          bot_name: {const: slack}
          role: {column: type, map: {message: user}, default: ""}
          content: text
          at: {column: ts, unit: epoch_s}
  - name: discord
    preset: discord
    secrets: [{value: DISCORD}]
    each: event.data
    tables:
      - relation: authorized
        event: message
        fields:
          id: "@delivery"
          user_id: {column: user, path: id}
          bot_name: {const: discord}
          role: {const: user}
          content: {column: user, path: username}
  - name: any
    preset: json
    verify: shared-secret
    header: X-Key
    secrets: [{value: secret-of-any}]
    delivery_id: key
    rate: 0
    tables:
      - relation: rows
        event: message
        fields: {id: id, user_id: user, bot_name: {const: any}, role: {const: user}, content: text}
log: {"""


def now(plus=0):
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - datetime.timedelta(minutes=5 - plus)


def stamp(plus=0):
    return now(plus).strftime("%Y-%m-%dT%H:%M:%SZ")


def fixture(name):
    """With times of today: what is older than a month is not counted."""
    with open(os.path.join(DATA, name)) as f:
        text = f.read()
    day = now().strftime("%Y-%m-%dT%H:%M:")
    return text.replace("2026-01-05T14:00:", day).replace("2026-01-05T14:01:", day).replace("2026-01-05T14:02:", day) \
        .replace("1767621600", str(int(now().timestamp())))


def event(id, user, content="Where is the garden?", **more):
    return {"type": "message", "id": id, "user_id": user, "bot_name": "app", "role": "user", "content": content, "at": stamp(), **more}


class WebhookTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        text = WEBHOOKS.replace("ROW", ROW)
        supa, seq = text.split("  - name: seq")
        text = supa.replace("BOT", "supa") + "  - name: seq" + seq.replace("BOT", "seq")
        cls.options = {"config": CONFIG.replace("log: {{", text.replace("KEY", KEY, 1).replace("{", "{{").replace("}", "}}"))}
        cls.make_key()
        super_options = cls.options["config"].replace("DISCORD", cls.public_key)
        cls.options = {"config": super_options.replace("FOLDER", cls.folder)}
        super().setUpClass()
        cls.w.start()
        cls.port = int(wait_until("the listener", lambda: re.search(r'"listening" name=public .*port=(\d+)', cls.w.new_log()),
                                  alive=cls.w).group(1))

    @classmethod
    def make_key(cls):
        """An Ed25519 key as Discord has one, and the file of a secret."""
        cls.folder = os.path.join(harness.work_dir, "webhook_keys_" + cls.__name__)
        os.makedirs(cls.folder, exist_ok=True)
        cls.key_file = os.path.join(cls.folder, "discord.pem")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", cls.key_file], check=True, capture_output=True)
        der = subprocess.run(["openssl", "pkey", "-in", cls.key_file, "-pubout", "-outform", "DER"], check=True, capture_output=True).stdout
        cls.public_key = der[-32:].hex()
        cls.write_secret("whsec_" + base64.b64encode(b"z" * 32).decode())

    @classmethod
    def write_secret(cls, value):
        with open(os.path.join(cls.folder, "secret"), "w") as f:
            f.write(value + "\n")

    # ---- senders

    def post(self, name, body, headers=None, content_type="application/json"):
        """(status, body, headers)"""
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = dict(headers or {})
        if content_type is not None:
            headers["Content-Type"] = content_type
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            conn.request("POST", f"/webhooks/{name}", data, headers)
            answer = conn.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            conn.close()

    def standard(self, body, id, key=KEY, **more):
        data = body if isinstance(body, str) else json.dumps(body)
        ts = str(int(time.time()))
        digest = hmac.new(base64.b64decode(key), f"{id}.{ts}.{data}".encode(), hashlib.sha256).digest()
        headers = {"webhook-id": id, "webhook-timestamp": ts, "webhook-signature": "v1," + base64.b64encode(digest).decode()}
        return self.post("app", data, headers, **more)

    def supabase(self, body):
        return self.post("supa", body, {"Authorization": "Bearer Bearer-token-of-supabase"})

    def sequin(self, body):
        return self.post("seq", body, {"Authorization": "Bearer token-of-sequin"})

    def github(self, body, kind, id):
        digest = hmac.new(b"secret-of-github", body.encode(), hashlib.sha256).hexdigest()
        return self.post("gh", body, {"X-Hub-Signature-256": "sha256=" + digest, "X-GitHub-Event": kind, "X-GitHub-Delivery": id})

    def slack(self, body, **more):
        ts = str(int(time.time()))
        digest = hmac.new(b"secret-of-slack", f"v0:{ts}:{body}".encode(), hashlib.sha256).hexdigest()
        return self.post("slack", body, {"X-Slack-Request-Timestamp": ts, "X-Slack-Signature": "v0=" + digest}, **more)

    def discord(self, body):
        ts = str(int(time.time()))
        message = os.path.join(self.folder, "message")
        with open(message, "w") as f:
            f.write(ts + body)
        signed = subprocess.run(["openssl", "pkeyutl", "-sign", "-inkey", self.key_file, "-rawin", "-in", message], check=True,
                                capture_output=True).stdout
        return self.post("discord", body, {"X-Signature-Ed25519": signed.hex(), "X-Signature-Timestamp": ts})

    def any(self, body, **more):
        return self.post("any", body, {"X-Key": "secret-of-any"}, **more)

    # ---- what became of it

    def count(self, user, bot):
        return self.db.one("SELECT event_count FROM strategic_conversation_patterns WHERE user_id = %s AND bot_name = %s", user, bot)

    def assert_count(self, n, user, bot):
        """Other messages were sent before or after: what is there now stays."""
        try:
            wait_until(f"{n} messages of {user} with {bot}", lambda: self.count(user, bot) == n, 60, alive=self.w)
        except AssertionError as e:
            raise AssertionError(f"there are {self.count(user, bot)}: {e}")

    def assert_count_with_the_last(self, n, user, bot, last):
        """Once the message of the time `last`, which was sent last, is in the row, so is everything before it."""
        def row():
            rows = self.db.run("SELECT event_count, last_user_message_at FROM strategic_engagement_opportunities WHERE user_id = %s AND "
                               "bot_name = %s", user, bot)
            return rows and rows[0][1] and rows[0][1] >= last and rows[0]
        self.assertEqual(n, wait_until(f"the last message of {user}", row, 60, alive=self.w)[0])

    def letters(self, where):
        return [d for d in self.w.dead_letters() if d["where"] == "webhook:" + where]

    def wait_letters(self, where, n):
        return wait_until(f"{n} dead letters of {where}", lambda: len(self.letters(where)) == n and self.letters(where), 60, alive=self.w)

    def assert_answer(self, status, answer):
        self.assertEqual(status, answer[0], answer)
        if status == 204:
            self.assertEqual(b"", answer[1])

    # ---- senders, each to its rows

    def test_own_events_alone_in_arrays_and_in_lines(self):
        self.assert_answer(204, self.standard(event("1", "ann"), "msg_1"))
        self.assert_answer(204, self.standard([event("2", "ann"), event("3", "ann")], "msg_2"))
        lines = "\n".join(json.dumps(event(i, "ann")) for i in "45") + "\n"
        self.assert_answer(204, self.standard(lines, "msg_3", content_type="application/x-ndjson"))
        self.assert_answer(204, self.standard(lines.replace('"4"', '"6"'), "msg_4"))
        self.assert_answer(204, self.standard("[]", "msg_5"))
        self.assert_count(6, "ann", "app")

    def test_a_repetition_has_the_same_answer_and_counts_once(self):
        for i in range(3):  # known by the id of the delivery, whatever is in it
            self.assert_answer(204, self.standard([event("0", "bea"), event(f"1{i}", "bea")], "msg_twice"))
        # Another delivery of the same message: known by its own id.
        self.assert_answer(204, self.standard(event("10", "bea"), "msg_other"))
        self.assert_answer(204, self.standard(event("2", "bea", at=stamp(1)), "msg_last"))
        self.assert_count_with_the_last(3, "bea", "app", now(1) - datetime.timedelta(seconds=30))

    def test_supabase(self):
        self.assert_answer(204, self.supabase(fixture("supabase_insert.json")))
        self.assert_count(1, "3f0c", "supa")
        update = json.loads(fixture("supabase_update.json"))
        update["old_record"]["id"] = 101
        self.assert_answer(204, self.supabase(update))
        second = json.loads(fixture("supabase_insert.json"))
        second["record"]["id"] = 102
        self.assert_answer(204, self.supabase(second))
        self.assert_count(2, "3f0c", "supa")
        self.assert_answer(204, self.supabase(fixture("supabase_delete.json")))
        self.assert_count(1, "3f0c", "supa")
        other = {"type": "INSERT", "table": "plans", "schema": "public", "record": {"id": 1}, "old_record": None}
        self.assert_answer(204, self.supabase(other))
        self.assertEqual([], self.letters("supa"))

    def test_sequin(self):
        batch = fixture("sequin_batch.json")
        for _ in range(2):
            self.assert_answer(204, self.sequin(batch))
        self.assert_count(1, "ann", "seq")
        self.assert_answer(204, self.sequin(fixture("sequin_update.json")))  # the row has another id now
        third = json.loads(fixture("sequin_update.json"))
        third.update(action="insert", changes=None)
        third["record"]["id"] = 99
        third["metadata"]["idempotency_key"] = "another"
        self.assert_answer(204, self.sequin(third))
        self.assert_count(2, "ann", "seq")
        # A part of a batch that cannot be used does not hold up the rest, which Sequin would send for ever.
        bad = json.loads(batch)
        bad["data"][0]["metadata"]["idempotency_key"] = bad["data"][1]["metadata"]["idempotency_key"] = "again"
        del bad["data"][0]["record"]["user_id"]
        bad["data"].append(third)
        self.assert_answer(204, self.sequin(bad))
        self.assertIn('field "user_id"', self.wait_letters("seq", 1)[0]["reason"])

    def test_github(self):
        body = fixture("github_issue_comment.json")
        for _ in range(2):
            self.assert_answer(204, self.github(body, "issue_comment", "72d3162e"))
        self.assert_answer(204, self.github(fixture("github_ping.json"), "ping", "72d3162f"))
        self.assert_count(1, "carl", "gh")
        self.assertEqual([], self.letters("gh"))

    def test_slack(self):
        status, body, headers = self.slack(fixture("slack_challenge.json"))
        self.assertEqual((200, b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"), (status, body))
        self.assertEqual("text/plain", headers["Content-Type"].split(";")[0])
        self.assertEqual("nosniff", headers["X-Content-Type-Options"])
        status, body, _ = self.post("slack", fixture("slack_challenge.json"))  # not signed
        self.assertEqual(401, status)
        self.assertNotIn(b"3eZbrw1a", body)
        for _ in range(2):
            self.assert_answer(204, self.slack(fixture("slack_message.json")))
        self.assert_count(1, "U2147483697", "slack")

    def test_discord(self):
        self.assert_answer(204, self.discord(fixture("discord_ping.json")))
        status, body, headers = self.discord(fixture("discord_interaction_ping.json"))
        self.assertEqual((200, {"type": 1}, "application/json"), (status, json.loads(body), headers["Content-Type"]))
        self.assert_answer(204, self.discord(fixture("discord_event.json")))
        self.assert_count(1, "80351110224678912", "discord")
        forged = self.post("discord", fixture("discord_ping.json"), {"X-Signature-Ed25519": "00" * 64,
                                                                     "X-Signature-Timestamp": str(int(time.time()))})
        self.assert_answer(401, forged)

    # ---- what cannot be used

    def test_malformed_bodies_are_kept_and_answered_400_once(self):
        self.assert_answer(400, self.standard('{"type": "message"', "msg_bad"))
        # A sender that repeats for ever gets past it, also with another body.
        self.assert_answer(204, self.standard('{"type": "message"', "msg_bad"))
        self.assert_answer(400, self.standard([{"type": "mesage"}, 7], "msg_bad_2"))
        letters = self.wait_letters("app", 3)
        self.assertIn("json: byte", "".join(d["reason"] for d in letters))
        self.assert_answer(204, self.standard([{"type": "mesage"}, event("1", "cleo")], "msg_half"))
        self.assert_count(1, "cleo", "app")
        self.wait_letters("app", 4)

    def test_rows_without_an_id_and_with_one(self):
        row = {"id": 1, "user": "dana", "text": "Hello there."}
        self.assert_answer(204, self.any({**row, "key": "k1"}))
        self.assert_answer(204, self.any({**row, "id": 2, "key": "k1"}))  # the same delivery, it says
        self.assert_answer(204, self.any({**row, "id": 3}))
        self.assert_answer(204, self.any({**row, "id": 3}))  # the same message
        last = datetime.datetime.now(datetime.timezone.utc)
        self.assert_answer(204, self.any({**row, "id": 4, "key": "k4"}))
        self.assert_count_with_the_last(3, "dana", "any", last)

    # ---- what is refused

    def test_content_types_methods_and_sizes(self):
        row = {"id": 1, "user": "emil", "text": "Hello."}
        for kind in ("application/json; charset=utf-8", "text/plain", "application/octet-stream", "application/cloudevents+json", None):
            self.assert_answer(204, self.any(row, content_type=kind))
        self.assert_answer(204, self.any("id=1&user=emil&text=Hello.", content_type="application/x-www-form-urlencoded"))
        for kind in ("text/html", "application/xml", "multipart/form-data; boundary=x"):
            self.assert_answer(415, self.any(row, content_type=kind))
        self.assert_answer(415, self.post("any", row, {"X-Key": "secret-of-any", "Content-Encoding": "gzip"}))
        self.assert_answer(413, self.any({**row, "text": "x" * 70000}))
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.request("GET", "/webhooks/any")
        answer = conn.getresponse()
        self.assertEqual((405, "POST"), (answer.status, answer.getheader("Allow")))
        conn.close()
        self.assert_count(1, "emil", "any")

    def test_an_unknown_endpoint_is_answered_as_a_wrong_secret(self):
        answers = [self.post(name, "{}", {"X-Key": "wrong", "Authorization": "Bearer wrong"})
                   for name in ("any", "supa", "app", "gh", "slack", "discord", "nothing", "", "any/", "any/more")]
        for status, body, headers in answers:
            self.assertEqual((401, answers[0][1]), (status, body))
            headers = {k: v for k, v in headers.items() if k not in ("X-Request-Id", "Date")}
            self.assertEqual({k: v for k, v in answers[0][2].items() if k not in ("X-Request-Id", "Date")}, headers)

    # ---- while it runs

    def test_secrets_are_read_again(self):
        self.assert_answer(401, self.standard(event("1", "fay"), "msg_r1", key=NEW_KEY))
        self.write_secret("whsec_" + NEW_KEY)
        self.w.process.send_signal(signal.SIGHUP)
        wait_until("the new secret", lambda: self.standard(event("1", "fay"), "msg_r2", key=NEW_KEY)[0] == 204, 60, alive=self.w)
        self.assert_answer(204, self.standard(event("2", "fay"), "msg_r3"))  # the other one still
        self.assertNotIn("needs a restart", self.w.new_log())
        # One that cannot be used leaves what there is.
        self.write_secret("whsec_short")
        before = self.w.new_log().count("level=error")
        self.w.process.send_signal(signal.SIGHUP)
        wait_until("the refusal to be logged", lambda: self.w.new_log().count("level=error") > before, 60, alive=self.w)
        self.assert_answer(204, self.standard(event("3", "fay"), "msg_r4", key=NEW_KEY))
        self.assert_count(3, "fay", "app")
        for secret in (KEY, NEW_KEY, "whsec_short", "secret-of-any", "token-of-sequin"):
            self.assertNotIn(secret, self.w.new_log())
