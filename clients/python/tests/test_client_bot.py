"""The example bot without a terminal, beside a real run: what it is told becomes messages, and what Warmpath makes of them is what it
goes by."""
import os
import re
import signal
import subprocess
import sys

import support
from support import ClientTest, wait_until

BOT = os.path.join(support.HERE, "..", "examples", "bot.py")
PACE_MS = "30000"  # a deadline that no machine misses


class BotTest(ClientTest):
    def setUp(self):
        self.log = open(os.path.join(self.w.dir, "bot.log"), "w+")
        self.bot = None

    def tearDown(self):
        if self.bot is not None and self.bot.poll() is None:
            self.bot.kill()
            self.bot.wait()
        if self.bot is not None:
            self.bot.stdin.close()
            self.bot.stdout.close()
        self.log.close()

    def start(self, *args):
        self.bot = subprocess.Popen([sys.executable, BOT, "--database", self.conninfo, "--user", "ann", "--bot", "elena", "--deadline", PACE_MS,
                                     *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                    preexec_fn=lambda: support.harness.die_with_parent(signal.SIGKILL))

    def tell(self, line):
        """What it says until it is done with the line."""
        self.bot.stdin.write(line + "\n")
        self.bot.stdin.flush()
        said = []
        while not said or not said[-1].startswith(("bot> ", "ok")):
            out = self.bot.stdout.readline()
            if not out:
                self.log.seek(0)
                self.fail(f"the bot ended while it was told \"{line}\":\n{''.join(said)}{self.log.read()}")
            said.append(out)
        return "".join(said)

    def quit(self):
        self.bot.stdin.write("/quit\n")
        self.bot.stdin.flush()
        self.assertEqual(self.bot.wait(support.WAIT), 0)

    def test_a_conversation(self):
        self.start()
        first = self.tell("hello there, are you awake")  # nobody follows yet
        self.assertRegex(first, r"cache: missing, \d+\.\d\d ms from database; message stored in \d+\.\d ms")
        self.assertIn("topic: stay with it (no prediction)", first)
        self.assertIn("answer in 1 to 10 words", first)  # twice the median of what it has seen: five words
        self.assertIn("write first: no", first)
        said = 1
        self.w.start()

        def heard():
            """Every answer is a bot message too."""
            rows = self.tell("/rows")
            return re.search(rf"strategic_conversation_patterns +fresh +confidence \S+ +events {2 * said}\b", rows)

        wait_until("both messages to be in the row", heard)
        for i in range(11):
            self.tell(f"the coffee machine in the garden is broken again, number {i}")
            said += 1
        wait_until("the conversation to be in the row", heard)
        self.assertRegex(self.tell("so what now"), r"cache: fresh, \d+\.\d\d ms from (database|memory);")
        self.quit()
        self.assertEqual(self.db.run("SELECT role, count(*) FROM chat_message WHERE user_id = 'ann' GROUP BY 1 ORDER BY 1"),
                         [("bot", 13), ("user", 13)])
        self.assertEqual(self.w.stop(), 0)

    def test_without_a_table_it_says_so(self):
        run = subprocess.run([sys.executable, BOT, "--database", support.harness.cluster.conninfo()], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=support.WAIT)
        self.assertEqual(run.returncode, 1)
        self.assertIn("no table chat_message", run.stdout)

    def test_the_table_of_the_demo(self):
        db = support.harness.Database(self.name + "_demo", tables="""
            CREATE TABLE chat_message(id bigserial PRIMARY KEY, channel text NOT NULL, nick text NOT NULL, is_bot boolean NOT NULL,
                                      body text NOT NULL, created_at timestamptz NOT NULL)""")

        def run():
            return subprocess.run([sys.executable, BOT, "--database", db.conninfo, "--user", "ann", "--bot", "ubuntu", "--no-memory"],
                                  input="hello\n/quit\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=support.WAIT)

        try:
            without = run()
            self.assertEqual(without.returncode, 1, without.stdout)
            self.assertIn("has `warmpath migrate up` run", without.stdout)
            self.assertNotIn("Traceback", without.stdout)
            support.harness.Warmpath(self.name + "_demo", db).must("migrate", "up")
            self.assertEqual(run().returncode, 0)
            self.assertEqual(db.run("SELECT nick, channel, is_bot, body = 'hello' FROM chat_message ORDER BY id"),
                             [("ann", "ubuntu", False, True), ("ann", "ubuntu", True, False)])
        finally:
            db.drop()
