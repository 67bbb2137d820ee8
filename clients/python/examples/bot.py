#!/usr/bin/env python3
"""A bot on the terminal that reads Warmpath's cache before each answer, and says what it makes of it.

usage: bot.py [--database CONNINFO] [--user NAME] [--bot NAME] [--deadline MS] [--no-memory]

It needs psycopg 3, a database with the cache tables (`warmpath migrate up`) and a table chat_message that Warmpath follows: that of
`./dev demo` while it runs (in another terminal: DATABASE_URL='...' clients/python/examples/bot.py --bot ubuntu), or one with user_id,
bot_name, role, content and created_at. It is no good at conversation: what it shows is when it would change the subject, how long its
answer should be, whether it would write first, and how long it took to know.

Lines are messages. Commands: /rows what is known and how far to trust it, /typing have it fresh (strategic_touch), /wrong invalidate it,
/forget forget this user, /quit.
"""
import argparse
import os
import sys
import time
import uuid

try:
    import psycopg
except ImportError:
    sys.exit("bot.py: psycopg 3 is missing: apt install python3-psycopg, or pip install psycopg")

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src"))
import warmpath  # noqa: E402

SLOW_MS = 5.0
PLEASANTRIES = ("tell me more about that", "what makes you say so", "and then", "how did that feel", "what would you like to happen",
                "i am listening", "go on", "did you expect it")


class Messages:
    """The application's own table, in one of two shapes."""

    def __init__(self, conn, user, bot):
        self.conn, self.user, self.bot = conn, user, bot
        columns = {name: default for name, default in conn.execute(
            "SELECT column_name, column_default FROM information_schema.columns WHERE table_name = 'chat_message' "
            "AND table_schema = ANY (current_schemas(false))").fetchall()}
        if {"nick", "channel", "is_bot", "body"} <= columns.keys():
            self.columns = ("nick", "channel", "is_bot", "body", "created_at")
            self.role = {"user": False, "bot": True}
        elif {"user_id", "bot_name", "role", "content"} <= columns.keys():
            self.columns = ("user_id", "bot_name", "role", "content", "created_at")
            self.role = {"user": "user", "bot": "bot"}
        else:
            raise SystemExit("bot.py: there is no table chat_message with user_id, bot_name, role, content (or that of ./dev demo) here")
        self.makes_id = "id" in columns and columns["id"] is not None

    def add(self, role, text):
        names, values = list(self.columns), [self.user, self.bot, self.role[role], text]
        marks = ["%s"] * 4 + ["clock_timestamp()"]
        if not self.makes_id:
            names, marks, values = names + ["id"], marks + ["%s"], values + [str(uuid.uuid4())]
        with self.conn.transaction():
            self.conn.execute(f"INSERT INTO chat_message({', '.join(names)}) VALUES ({', '.join(marks)})", values)


def percent(x):
    return "unknown" if x is None else f"{100 * x:.0f} %"


def describe_length(words):
    if words is None:
        return "of any length"
    fewest, most = words
    return f"in {fewest} words or more" if most is None else f"in {fewest} to {most} words"


def plan(bundle):
    """What the bot would do differently, one line for each."""
    p = bundle.switch_likelihood()
    if p is None:
        yield "topic: stay with it (no prediction)"
    else:
        topics = [t["topic"] for t in bundle.conversation.recent_topics or [] if t.get("topic")]
        follow = f", or go back to \"{topics[-1]}\"" if p >= 0.5 and len(topics) > 1 else ""
        yield f"topic: {percent(p)} that the next message opens another one: " + ("follow" + follow if p >= 0.5 else "stay with it")
    yield f"answer {describe_length(bundle.response_words())}"
    if bundle.may_initiate():
        topics = [t["topic"] for t in bundle.engagement.suggested_topics or []]
        yield "write first: yes" + (f", about \"{topics[0]}\"" if topics else "")
    else:
        yield "write first: no"
    traits = [t["trait"] for t in bundle.traits()[:3]]
    if traits:
        yield "show: " + ", ".join(traits)


def answer(bundle, text):
    """A canned answer of about the right length."""
    fewest, most = bundle.response_words() or (1, 12)
    wanted = min(fewest + ((most or 2 * fewest) - fewest) // 2, 60)
    words, i = [], len(text)
    while len(words) < wanted:
        words += PLEASANTRIES[i % len(PLEASANTRIES)].split()
        i += 1
    return " ".join(words).capitalize() + "?"


def show_rows(bundle):
    for table, c in bundle.components.items():
        print(f"  {table:36} {c.freshness.value:8} confidence {c.confidence if c.confidence is not None else '-':<5} "
              f"events {c.event_count if c.event_count is not None else '-'}")


class Bot:
    def __init__(self, args):
        self.args = args
        # The reads have a connection of their own; what is written and read in one transaction would be judged by its beginning.
        self.conn = psycopg.connect(args.database, autocommit=True)
        self.reading = psycopg.connect(args.database, autocommit=True)
        self.messages = Messages(self.conn, args.user, args.bot)
        self.words = []
        self.reader = warmpath.StrategicReader(self.reading, listen=None if args.no_memory else args.database,
                                               deadline=args.deadline / 1e3)
        try:
            self.reader.warm_up()
        except warmpath.ReadError as e:
            raise warmpath.ReadError(f"could not read the cache: {e}; has `warmpath migrate up` run on this database?") from e

    def read(self):
        return self.reader.read(self.args.user, self.args.bot, defaults=warmpath.Defaults(recent_user_words=self.words))

    def hear(self, text):
        self.words = [*self.words, len(text.split())][-5:]
        began = time.monotonic()
        self.messages.add("user", text)
        stored = (time.monotonic() - began) * 1e3
        bundle = self.read()
        print(f"  cache: {bundle.conversation.freshness.value}, {bundle.elapsed_ms:.2f} ms from {bundle.source}"
              + (f" ({bundle.problem})" if bundle.problem else "") + f"; message stored in {stored:.1f} ms")
        for line in plan(bundle):
            print("  " + line)
        reply = answer(bundle, text)
        self.messages.add("bot", reply)
        print("bot> " + reply, flush=True)

    def command(self, word):
        if word == "/rows":
            show_rows(self.read())
        elif word == "/typing":
            warmpath.touch(self.conn, self.args.user, self.args.bot)
        elif word == "/wrong":
            warmpath.invalidate(self.conn, self.args.user, self.args.bot, "the user said so")
        elif word == "/forget":
            warmpath.forget(self.conn, self.args.user, self.args.bot)
        else:
            print("  commands: /rows /typing /wrong /forget /quit")
        print("ok", flush=True)

    def run(self, lines):
        for line in lines:
            text = line.strip()
            if text == "/quit":
                break
            if not text:
                continue
            try:
                self.command(text) if text.startswith("/") else self.hear(text)
            except psycopg.Error as e:
                print(f"  the database says: {e}", flush=True)
                if self.conn.broken:
                    return 1
        return 0

    def close(self):
        self.reader.close()
        self.reading.close()
        self.conn.close()


def lines():
    while True:
        try:
            yield input("you> " if sys.stdin.isatty() else "")
        except EOFError:
            return


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--database", default=os.environ.get("DATABASE_URL", ""), help="default: DATABASE_URL")
    p.add_argument("--user", default=os.environ.get("USER", "you"))
    p.add_argument("--bot", default="elena")
    p.add_argument("--deadline", type=float, default=SLOW_MS, metavar="MS")
    p.add_argument("--no-memory", action="store_true", help="without the cache in this process: every read asks the database")
    args = p.parse_args()
    try:
        bot = Bot(args)
    except (psycopg.Error, warmpath.ReadError) as e:
        sys.exit(f"bot.py: {e}")
    try:
        sys.exit(bot.run(lines()))
    except KeyboardInterrupt:
        print()
    finally:
        bot.close()


if __name__ == "__main__":
    main()
