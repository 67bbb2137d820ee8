"""kill -9 at random moments while webhooks come in: what was answered 2xx is counted exactly once, what was not at most once, and a
sender that repeats what had no answer brings it to exactly once.

A repeated request has the same Idempotency-Key but another message id: the engines count a message id once whatever happens, and would
hide an inbox that takes a delivery twice.
"""
import http.client
import json
import random
import re
import threading
import time

from harness import CONFIG, PipelineTest, wait_until

ROUNDS = 30
SENDERS = 8
PER_USER = 3  # requests; few, so that one lost and one doubled cannot make up for each other

HTTP_CONFIG = CONFIG.replace("log: {{", """http: {{listen: "127.0.0.1:0"}}
webhooks:
  - name: app
    preset: warmpath
    verify: shared-secret
    secrets: [{{value: "crash-secret"}}]
log: {{""")


class Sender(threading.Thread):
    """Sends one request after the other; of those without an answer it repeats half at once, and leaves half open."""

    def __init__(self, test, number):
        super().__init__(daemon=True)
        self.test = test
        self.number = number
        self.rng = random.Random(number)
        self.conn = None
        self.port = None
        self.answered = []
        self.open = []
        self.cut = 0  # attempts that went out, or were about to, and had no answer
        self.repeated = 0
        self.other = {}  # status -> how often
        self.error = None

    def user(self, n):
        return f"web-{self.number}-{n // PER_USER}"

    def attempt(self, n, attempt):
        """True: answered 2xx."""
        key = f"{self.number}-{n}"
        event = {"type": "message", "id": f"{key}.{attempt}", "user_id": self.user(n), "bot_name": "elena", "role": "user",
                 "content": "the garden is full of music again", "at": int(time.time() * 1e6)}
        port = self.test.port
        try:
            if self.conn is None or self.port != port:
                self.close()
                self.conn, self.port = http.client.HTTPConnection("127.0.0.1", port, timeout=30), port
            self.conn.request("POST", "/webhooks/app", json.dumps(event),
                              {"Content-Type": "application/json", "Authorization": "Bearer crash-secret", "Idempotency-Key": key})
            answer = self.conn.getresponse()
            answer.read()
        except ConnectionRefusedError:
            self.close()
            time.sleep(0.01)  # nobody listens just now
            return False
        except (OSError, http.client.HTTPException):
            self.close()
            self.cut += 1
            return False
        if 200 <= answer.status < 300:
            return True
        self.other[answer.status] = self.other.get(answer.status, 0) + 1
        return False

    def close(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def finish(self, n, attempt):
        """Repeats a request until it is answered."""
        end = time.monotonic() + 60
        while not self.attempt(n, attempt):
            attempt += 1
            self.repeated += 1
            if time.monotonic() > end:
                raise AssertionError(f"request {self.number}-{n} was not answered 2xx for a minute, other answers: {self.other}")

    def run(self):
        try:
            n = 0
            while not self.test.enough.is_set():
                if self.attempt(n, 0):
                    self.answered.append(n)
                elif self.rng.random() < 0.5:
                    self.finish(n, 1)
                    self.answered.append(n)
                else:
                    self.open.append(n)
                    self.test.listening.wait(60)
                n += 1
        except Exception as e:  # told by the test
            self.error = e
        finally:
            self.close()


class HttpKillTest(PipelineTest):
    options = {"config": HTTP_CONFIG}

    def start(self):
        self.w.start()
        found = wait_until("the listener", lambda: re.search(r'listening.* name=public .*port=(\d+)', self.w.new_log()), alive=self.w)
        self.port = int(found.group(1))
        self.listening.set()

    def counts(self):
        return dict(self.db.run("SELECT user_id, event_count FROM strategic_conversation_patterns"))

    def wrong_counts(self, least, most):
        rows = self.counts()
        return {user: (rows.get(user, 0), least.get(user, 0), n) for user, n in most.items()
                if not least.get(user, 0) <= rows.get(user, 0) <= n}

    def wait_counts(self, what, least, most):
        try:
            wait_until(what, lambda: not self.wrong_counts(least, most), 60, alive=self.w)
        except AssertionError:
            wrong = self.wrong_counts(least, most)
            raise AssertionError(f"{what}: {len(wrong)} users of {len(most)} have another (count, least, most): "
                                 f"{dict(list(wrong.items())[:10])}\n{self.w.log_tail()}")

    @staticmethod
    def by_user(senders, *lists):
        counted = {}
        for s in senders:
            for n in (n for name in lists for n in getattr(s, name)):
                counted[s.user(n)] = counted.get(s.user(n), 0) + 1
        return counted

    def test_kills_under_load_lose_and_double_nothing(self):
        rng = random.Random(30)
        self.enough, self.listening = threading.Event(), threading.Event()
        self.port = 0
        self.start()
        senders = [Sender(self, i) for i in range(SENDERS)]
        for s in senders:
            s.start()
        for _ in range(ROUNDS):
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('table', 'elena', 'user', 'one more')")
            time.sleep(rng.uniform(0.02, 0.4))  # the moment is what is random here
            self.listening.clear()
            self.w.kill()
            self.start()
        self.enough.set()
        for s in senders:
            s.join(120)
            self.assertFalse(s.is_alive())
            self.assertIsNone(s.error)

        # The kills did hit requests, and some of each kind.
        self.assertGreater(sum(s.cut for s in senders), ROUNDS)
        self.assertGreater(sum(s.repeated for s in senders), 0)
        self.assertGreater(sum(len(s.open) for s in senders), 0)
        answered, sent = self.by_user(senders, "answered"), self.by_user(senders, "answered", "open")
        self.assertGreater(sum(answered.values()), 20 * ROUNDS)
        self.wait_counts("answered once, open at most once", {**answered, "table": ROUNDS}, {**sent, "table": ROUNDS})

        for s in senders:
            for n in s.open:
                s.finish(n, 100)
            s.close()
        self.wait_counts("everything exactly once", {**sent, "table": ROUNDS}, {**sent, "table": ROUNDS})
        self.assertEqual(0, self.w.stop())
        self.start()  # what is given again after a restart is known
        self.wait_counts("everything exactly once, after a restart", {**sent, "table": ROUNDS}, {**sent, "table": ROUNDS})
        self.assertEqual([], self.w.dead_letters())
        self.assertEqual(0, self.w.stop())
