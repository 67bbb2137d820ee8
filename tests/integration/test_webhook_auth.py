"""Who may deliver: over HTTP, each kind of signature lets in who holds the secret, and nobody else learns why not; secrets change
without a restart, and show up nowhere."""
import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time

from harness import CONFIG, PipelineTest, WARMPATH, wait_until

ROWS = """
    tables:
      - relation: message
        event: message
        fields: {{id: id, user_id: user_id, bot_name: bot_name, role: {{const: user}}, content: content}}"""

# name: preset, more of its configuration
WEBHOOKS = {
    "std": ("standard", ""), "std-pk": ("standard", ""), "gh": ("github", ""), "pay": ("stripe", ""), "chat": ("slack", ""),
    "disc": ("discord", ""), "tg": ("telegram", ""), "supa": ("supabase", ""), "key": ("json", "\n    verify: shared-secret\n    header: X-Api-Key"),
}


def door(directory):
    entries = "".join(f"""
  - name: {name}
    preset: {preset}{more}
    secrets: [{{{{id: one, value: "${{{{file:{directory}/{name}}}}}"}}}}]{ROWS}""" for name, (preset, more) in WEBHOOKS.items())
    return CONFIG.replace("log: {{", f"""http: {{{{listen: "127.0.0.1:0", private: "127.0.0.1:0"}}}}
webhooks:{entries}
influx:
  secrets: [{{{{value: "${{{{file:{directory}/influx}}}}"}}}}]
log: {{{{""")


def openssl(*args, **more):
    return subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more).stdout


class Ed25519:
    """A key pair; signs with the openssl command."""

    def __init__(self, directory, name):
        self.file = os.path.join(directory, name + ".pem")
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.file)
        self.public = openssl("pkey", "-in", self.file, "-pubout", "-outform", "DER")[-32:]

    def sign(self, data):
        message = self.file + ".message"
        with open(message, "wb") as f:
            f.write(data)
        return openssl("pkeyutl", "-sign", "-inkey", self.file, "-rawin", "-in", message)


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256)


def signed(name, secret, body, at, delivery="d"):
    """The headers that a sender of this kind adds; secret as it is configured, an Ed25519 for those that sign with one."""
    ts = str(at)
    if name in ("std", "std-pk"):
        text = f"{delivery}.{ts}.".encode() + body
        if name == "std":
            value = b"v1," + base64.b64encode(mac(base64.b64decode(secret.removeprefix("whsec_")), text).digest())
        else:
            value = b"v1a," + base64.b64encode(secret.sign(text))
        return {"webhook-id": delivery, "webhook-timestamp": ts, "webhook-signature": value.decode()}
    if name == "gh":
        return {"X-Hub-Signature-256": "sha256=" + mac(secret.encode(), body).hexdigest(), "X-GitHub-Delivery": delivery,
                "X-GitHub-Event": "message"}
    if name == "pay":
        return {"Stripe-Signature": f"t={ts},v1={mac(secret.encode(), f'{ts}.'.encode() + body).hexdigest()}"}
    if name == "chat":
        return {"X-Slack-Request-Timestamp": ts, "X-Slack-Signature": "v0=" + mac(secret.encode(), f"v0:{ts}:".encode() + body).hexdigest()}
    if name == "disc":
        return {"X-Signature-Timestamp": ts, "X-Signature-Ed25519": secret.sign(ts.encode() + body).hex()}
    if name == "tg":
        return {"X-Telegram-Bot-Api-Secret-Token": secret}
    if name == "key":
        return {"X-Api-Key": secret}
    return {"Authorization": f"Bearer {secret}"}


STAMPED = ("std", "std-pk", "pay", "chat", "disc")
TOKENS = ("tg", "supa", "key")


class AuthTest(PipelineTest):
    options = {"log_level": "debug"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.counter = 0
        cls.bodies = []  # of refusals, to look for secrets
        cls.secrets = {}
        cls.made = []  # all that there ever were, also wrong ones that were sent
        for name in WEBHOOKS:
            cls.new_secret(name)
        cls.new_secret("influx")
        cls.w.template = door(cls.w.dir)
        cls.w.write_config()
        cls.w.start()
        cls.port = cls.port_of("public")
        cls.private = cls.port_of("private")

    @classmethod
    def make_secret(cls, name):
        if name in ("std-pk", "disc"):
            cls.counter += 1
            key = Ed25519(cls.w.dir, f"{name}-{cls.counter}")
            return key, "whpk_" + base64.b64encode(key.public).decode() if name == "std-pk" else key.public.hex()
        kind = "standard-webhooks" if name == "std" else "shared-secret"
        code, out, err = cls.w.command("secret", "new", "--kind", kind)
        assert code == 0, err
        cls.made.append(out.strip())
        return out.strip(), out.strip()

    @classmethod
    def new_secret(cls, name):
        """Written where the configuration looks for it; takes effect with the next start or SIGHUP."""
        secret, text = cls.make_secret(name)
        with open(os.path.join(cls.w.dir, name), "w") as f:
            f.write(text + "\n")
        cls.secrets[name] = secret
        return secret

    @classmethod
    def port_of(cls, listener):
        pattern = re.compile(rf"listening.* name={listener} .*port=(\d+)")
        return int(wait_until("the listener", lambda: pattern.search(cls.w.new_log()), alive=cls.w).group(1))

    def body(self, name):
        type(self).counter += 1
        n = f"m{self.counter}"
        row = {"id": n, "user_id": "u", "bot_name": "b", "content": "words", "event_id": n, "update_id": self.counter}
        if name == "supa":
            row = {"type": "INSERT", "table": "message", "schema": "public", "record": row, "old_record": None}
        return json.dumps(row).encode()

    def post(self, name, body, headers, path=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            conn.request("POST", path or f"/webhooks/{name}", body, {"Content-Type": "application/json", **headers})
            r = conn.getresponse()
            text = r.read()
            self.bodies.append(text.decode(errors="replace") + str(r.getheaders()))
            shape = [h for h in r.getheaders() if h[0].lower() not in ("date", "x-request-id")]
            return r.status, text, shape
        finally:
            conn.close()

    def deliver(self, name, secret=None, at=None, **more):
        body = self.body(name)
        return self.post(name, body, signed(name, secret or self.secrets[name], body, at or int(time.time()), f"d{self.counter}"))[0]

    def metric(self, name, **labels):
        conn = http.client.HTTPConnection("127.0.0.1", self.private, timeout=60)
        conn.request("GET", "/metrics")
        text = conn.getresponse().read().decode()
        conn.close()
        for line in text.splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def reload(self):
        def ended():
            log = self.w.new_log()
            return log.count("secrets and certificates are those of the configuration now") + log.count("the configuration cannot be used")

        before = ended()
        self.w.process.send_signal(signal.SIGHUP)
        wait_until("the configuration to be taken", lambda: ended() > before, 60, alive=self.w)


class SignatureTest(AuthTest):
    def test_who_holds_the_secret_is_let_in(self):
        for name in WEBHOOKS:
            with self.subTest(name):
                before = self.metric("warmpath_webhook_verified_total", source=name, key_id="one")
                self.assertEqual(204, self.deliver(name))
                self.assertEqual(before + 1, self.metric("warmpath_webhook_verified_total", source=name, key_id="one"))

    def test_all_others_get_one_and_the_same_answer(self):
        now = int(time.time())
        answers = {}
        for name in WEBHOOKS:
            body = self.body(name)
            good = signed(name, self.secrets[name], body, now, "x")
            other = signed(name, self.make_secret(name)[0], body, now, "x")
            answers[name, "other secret"] = self.post(name, body, other)
            answers[name, "nothing"] = self.post(name, body, {})
            answers[name, "empty"] = self.post(name, body, {k: "" for k in good})
            if name not in TOKENS:
                answers[name, "other body"] = self.post(name, body + b" ", good)
            if name in STAMPED:
                for off in (-100000, 100000):
                    answers[name, f"stamped {off}"] = self.post(name, body, signed(name, self.secrets[name], body, now + off, "x"))
            # The secret of one endpoint opens no other.
            for wrong in WEBHOOKS:
                if wrong != name and (wrong in TOKENS) == (name in TOKENS):
                    answers[name, "at " + wrong] = self.post(wrong, body, good)
            answers[name, "nowhere"] = self.post("none", body, good)
        for path in ("/webhooks/none", "/webhooks/%73td", "/webhooks/STD", "/webhooks/std/x"):
            answers[path] = self.post(None, body, {}, path)
        expected = answers["gh", "nothing"]
        self.assertEqual(401, expected[0])
        for what, answer in answers.items():
            if answer[0] in (400, 404) and isinstance(what, str) and what not in ("/webhooks/none", "/webhooks/STD"):
                continue  # a path that nothing is ever served under
            self.assertEqual(expected, answer, what)
        # The operator is told what the sender is not.
        for reason, name in (("no_match", "gh"), ("missing_header", "std"), ("timestamp_too_old", "chat"), ("timestamp_too_new", "pay"),
                             ("unknown_source", "unknown")):
            self.assertGreater(self.metric("warmpath_webhook_rejected_total", source=name, reason=reason), 0, reason)
        self.assertRegex(self.w.new_log(), r'msg="a request was not let in" source=\S+ reason=\w+ client="127.0.0.1" request_id=\S+ others=\d+')
        self.assertLess(self.w.new_log().count("was not let in"), len(answers) / 2)  # a stranger cannot fill it

    def test_a_signed_body_is_neither_compressed_nor_signed_twice(self):
        body = self.body("gh")
        headers = signed("gh", self.secrets["gh"], body, 0)
        self.assertEqual(415, self.post("gh", body, {**headers, "Content-Encoding": "gzip"})[0])
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        conn.putrequest("POST", "/webhooks/gh")
        for value in (headers["X-Hub-Signature-256"],) * 2:
            conn.putheader("X-Hub-Signature-256", value)
        conn.putheader("Content-Type", "application/json")
        conn.putheader("Content-Length", str(len(body)))
        conn.endheaders(body)
        self.assertEqual(400, conn.getresponse().status)
        conn.close()

    def test_handshakes_are_answered_to_who_signs_them_only(self):
        now = int(time.time())
        for name, body, want in (("chat", {"type": "url_verification", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"},
                                  b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"), ("disc", {"type": 1}, b'{"type":1}')):
            body = json.dumps(body).encode()
            status, text, headers = self.post(name, body, signed(name, self.secrets[name], body, now))
            self.assertEqual((200, want), (status, text))
            self.assertIn(("X-Content-Type-Options", "nosniff"), headers)
            self.assertEqual(401, self.post(name, body, signed(name, self.make_secret(name)[0], body, now))[0])

    def test_a_repetition_of_discord_is_known_by_its_signature(self):
        body = self.body("disc")
        headers = signed("disc", self.secrets["disc"], body, int(time.time()))
        before = self.metric("warmpath_events_duplicate_total", source="disc")
        self.assertEqual(204, self.post("disc", body, headers)[0])
        headers["X-Signature-Ed25519"] = headers["X-Signature-Ed25519"].upper()
        self.assertEqual(204, self.post("disc", body, headers)[0])
        self.assertEqual(before + 1, self.metric("warmpath_events_duplicate_total", source="disc"))


class RotationTest(AuthTest):
    def test_secrets_change_while_requests_go_on(self):
        """No request is lost in between: those of another endpoint all get in; the old secret does not from then on."""
        answers, stop = [], threading.Event()

        def others():
            while not stop.is_set():
                answers.append(self.deliver_as("supa"))

        thread = threading.Thread(target=others)
        thread.start()
        try:
            for name in ("std", "std-pk", "gh", "tg"):
                old = self.secrets[name]
                new = self.new_secret(name)
                self.assertEqual(204, self.deliver(name, old))
                self.assertEqual(401, self.deliver(name, new))
                self.reload()
                self.assertEqual(401, self.deliver(name, old))
                self.assertEqual(204, self.deliver(name, new))
        finally:
            stop.set()
            thread.join()
        self.assertGreater(len(answers), 0)
        self.assertEqual({204}, set(answers))

    def deliver_as(self, name):
        row = {"id": os.urandom(8).hex(), "user_id": "u", "bot_name": "b", "content": "w"}
        body = json.dumps({"type": "INSERT", "table": "message", "schema": "public", "record": row, "old_record": None}).encode()
        return self.post(name, body, signed(name, self.secrets[name], body, 0))[0]

    def test_influx_changes_too(self):
        def write(secret):
            return self.post(None, b"nothing v=1", {"Authorization": "Token " + secret}, "/write?db=x")[0]

        old = self.secrets["influx"]
        self.assertEqual(204, write(old))
        new = self.new_secret("influx")
        self.reload()
        self.assertEqual([401, 204], [write(old), write(new)])

    def test_an_endpoint_that_is_taken_out_lets_nobody_in(self):
        def write():
            return self.post(None, b"nothing v=1", {"Authorization": "Token " + self.secrets["influx"]}, "/write?db=x")[0]

        self.assertEqual([204, 204], [self.deliver("key"), write()])
        whole = self.w.template
        self.w.template = re.sub(r"\n  - name: key\n.*?(?=\n  - name|\ninflux:)", "", whole, flags=re.S).replace("influx:\n  secrets", "influx:\n  rate: 0\n#")
        self.w.write_config()
        self.reload()
        self.assertEqual([401, 401, 204], [self.deliver("key"), write(), self.deliver("supa")])
        self.w.template = whole
        self.w.write_config()
        self.reload()
        self.assertEqual([204, 204], [self.deliver("key"), write()])

    def test_a_secret_that_cannot_be_changes_nothing(self):
        with open(os.path.join(self.w.dir, "std"), "w") as f:
            f.write("whsec_no base64")
        self.reload()
        self.assertIn('secret "one" is not base64', self.w.new_log())
        self.assertEqual(204, self.deliver("std"))
        with open(os.path.join(self.w.dir, "std"), "w") as f:
            f.write(self.secrets["std"])
        self.reload()
        self.assertEqual(204, self.deliver("std"))

    def test_zz_nothing_shows_a_secret(self):
        """Last: everything above is in the log by then."""
        shown = {"log": self.w.new_log(), "answers": "".join(self.bodies)}
        for command in (("status", "--json"), ("check-config", "--print-config"), ("check-config",), ("doctor",), ("dlq", "list", "--json"),
                        ("verify", "--json")):
            shown[" ".join(command)] = "".join(self.w.command(*command)[1:])
        conn = http.client.HTTPConnection("127.0.0.1", self.private, timeout=60)
        for path in ("/metrics", "/readyz?verbose", "/livez"):
            conn.request("GET", path)
            shown[path] = conn.getresponse().read().decode()
        conn.close()
        self.assertIn("****", shown["check-config --print-config"])
        self.assertGreater(len(shown["/metrics"]), 1000)
        self.assertGreater(len(self.made), len(WEBHOOKS))
        for secret in self.made:
            for what, text in shown.items():
                self.assertNotIn(secret.removeprefix("whsec_"), text, f"{what} shows a secret")


class RefusalTest(AuthTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.stop()

    def check(self, webhook, mode=0o600):
        """(exit code, what it says) of check-config with one webhook."""
        path = os.path.join(self.w.dir, "other.yaml")
        with open(path, "w") as f:
            f.write(CONFIG.format(**self.w.values).replace("log: {", f"http: {{listen: \"127.0.0.1:0\"}}\nwebhooks:\n  - {webhook}\nlog: {{"))
        os.chmod(path, mode)

        def warmpath(*args):
            run = subprocess.run([WARMPATH, *args, "--config", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True, timeout=60)
            return run.returncode, run.stdout

        code, said = warmpath("check-config", "--offline")
        if code:
            ran, run = warmpath("run")
            self.assertEqual(code, ran)
            self.assertEqual(said.replace("check-config:", "run:"), run)
        return code, said

    def test_an_endpoint_that_lets_everybody_in_has_to_be_asked_for(self):
        self.assertRegex(str(self.check("{name: a, preset: warmpath}")), "78.*secrets is missing")
        code, text = self.check("{name: a, preset: warmpath, insecure_no_secret: true}")
        self.assertEqual(0, code)
        self.assertIn("anybody who can connect may write", text)

    def test_secrets_that_cannot_be_are_refused_before_anything_starts(self):
        for entry, text in (('preset: warmpath, secrets: [{value: "whsec_"}]', "is empty"),
                            ("preset: warmpath, secrets: [{value: Zebra7Quartz}]", "9 bytes"),
                            ('preset: warmpath, verify: shared-secret, secrets: [{value: "****"}]', "is a mask"),
                            ("preset: warmpath, verify: ed25519-ts, secrets: [{value: Zebra7Quartz}]", "hexadecimal"),
                            ('preset: warmpath, verify: hmac-body, secrets: [{value: "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="}]',
                             "asymmetric"),
                            ('preset: warmpath, verify: hmac-body, secrets: [{value: "${file:/nonexistent/x}"}]', "/nonexistent/x")):
            code, said = self.check("{name: a, " + entry + "}")
            self.assertEqual(78, code, said)
            self.assertIn(text, said)
            self.assertNotIn("Zebra7Quartz", said)

    def test_what_can_be_used_but_is_odd_is_said(self):
        inline = "{name: a, preset: warmpath, verify: hmac-body, secrets: [{value: Zebra7QuartzWalrus3}]}"
        code, text = self.check(inline)
        self.assertEqual((0, "ok\n"), (code, text))
        code, text = self.check(inline, 0o644)
        self.assertEqual(0, code)
        self.assertRegex(text, "warning: .*holds a secret, and others may read the file .mode 0644.: chmod 600")
        self.assertNotIn("Zebra7QuartzWalrus3", text)
        path = os.path.join(self.w.dir, "secret")
        with open(path, "w") as f:
            f.write("Zebra7QuartzWalrus3\n")
        self.assertEqual("ok\n", self.check("{name: a, preset: warmpath, verify: hmac-body, secrets: [{value: \"${file:%s}\"}]}" % path, 0o644)[1])
        self.assertIn("is shorter than 16 bytes", self.check(inline.replace("Walrus3", ""))[1])
        self.assertIn("ends with a blank", self.check(inline.replace("Zebra7QuartzWalrus3", '"Zebra7QuartzWalrus3 "'))[1])
        self.assertIn('"a" and "b" have a secret in common', self.check(inline + "\n  - " + inline.replace("name: a", "name: b"))[1])
        expired = self.check(inline.replace("}]", ', not_after: "2020-01-01T00:00:00Z"}]'))[1]
        self.assertIn("every secret has expired", expired)


del AuthTest
