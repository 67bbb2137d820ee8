"""What an application reads: strategic_bundle and strategic_bundle_lite. Always one row, each outcome of freshness with the NULLs that
could lead it astray, both functions of one mind, plans of index look-ups alone, and a role that can read and nothing else."""
import os
import re
import subprocess

import psycopg2
from psycopg2 import errors

import harness
import schema
from harness import PipelineTest

ROLES = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "roles.sql")
BY_USER = {"mh": "strategic_memory_health", "pp": "strategic_personality_profiles", "cp": "strategic_conversation_patterns",
           "mb": "strategic_memory_behavior", "eo": "strategic_engagement_opportunities"}
COMPONENTS = {**BY_USER, "pf": "strategic_character_performance"}
FUNCTIONS = "strategic_bundle", "strategic_bundle_lite"
KEYS = 20000


def in_transaction(test):
    """Each case sees one now(), and leaves nothing behind."""
    def wrapped(self):
        self.db.conn.autocommit = False
        try:
            test(self)
        finally:
            self.db.conn.rollback()
            self.db.conn.autocommit = True
    return wrapped


def insert(db, component, expires="now()", computed="now()", valid="NULL", invalidated="NULL"):
    """A row of user u and bot b; times are SQL."""
    table = COMPONENTS[component]
    own = "memory_snapshot, " if component == "mh" else ""
    key, values = ("user_id, bot_name", "'u', 'b'") if component in BY_USER else ("bot_name, time_window_hours", "'b', 168")
    db.run(f"INSERT INTO {table} ({own}{key}, expires_at, computed_at, valid_until, invalidated_at) VALUES "
           f"({own and repr('{}') + ', '}{values}, {expires}, {computed}, {valid}, {invalidated})")


def processor(db, beat="now()", caught="now()"):
    db.run("INSERT INTO strategic_key_activity (user_id, bot_name, shard) VALUES ('u', 'b', 7)")
    db.run(f"INSERT INTO strategic_processor VALUES (7, {beat}, {caught})")


class FreshnessTest(PipelineTest):
    def freshness(self, function, user="u", bot="b"):
        rows = self.db.run(f"SELECT {', '.join(c + '_f' for c in COMPONENTS)} FROM {function}(%s, %s)", user, bot)
        self.assertEqual(1, len(rows))
        return dict(zip(COMPONENTS, rows[0]))

    def expect(self, expected, seen_by_processor, **row):
        """The outcome of one row, whichever table it is in; seen_by_processor: beat and caught, or None for no processor."""
        for component in COMPONENTS:
            for function in FUNCTIONS:
                self.db.run("SAVEPOINT one")
                if seen_by_processor is not None:
                    processor(self.db, **seen_by_processor)
                insert(self.db, component, **row)
                outcome = dict.fromkeys(COMPONENTS, "missing") | {component: expected}
                self.assertEqual(outcome, self.freshness(function), (function, row))
                self.db.run("ROLLBACK TO one")

    @in_transaction
    def test_nothing_is_known(self):
        for function in FUNCTIONS:
            for user, bot in (("u", "b"), (None, "b"), ("u", None), ("", "")):
                self.assertEqual(dict.fromkeys(COMPONENTS, "missing"), self.freshness(function, user, bot))
            processor(self.db)
            self.db.run("INSERT INTO strategic_bot_epoch VALUES ('b', now())")
            self.assertEqual(dict.fromkeys(COMPONENTS, "missing"), self.freshness(function))
            self.db.conn.rollback()

    @in_transaction
    def test_fresh_by_age(self):
        soon = "now() + interval '1 ms'"
        self.expect("fresh", {}, expires=soon)
        self.expect("fresh", None, expires=soon)
        self.expect("fresh", {"beat": "now() - interval '1 day'", "caught": "now() - interval '1 day'"}, expires=soon)

    @in_transaction
    def test_current_by_progress(self):
        row = {"expires": "now()", "valid": "now() + interval '1 ms'"}
        self.expect("current", {}, **row)
        self.expect("current", {"beat": "now() - interval '59 s'", "caught": "now() - interval '299 s'"}, **row)
        self.expect("current", {}, expires="now() - interval '3 days'", valid="'infinity'")

    @in_transaction
    def test_stale_where_anything_is_missing_for_current(self):
        valid = {"expires": "now() - interval '23 hours'", "valid": "now() + interval '1 hour'"}
        self.expect("stale", None, **valid)
        self.expect("stale", {"beat": "now() - interval '60 s'"}, **valid)
        self.expect("stale", {"caught": "now() - interval '5 min'"}, **valid)
        self.expect("stale", {"caught": "'-infinity'"}, **valid)
        self.expect("stale", {}, **dict(valid, valid="NULL"))
        self.expect("stale", {}, **dict(valid, valid="now()"))
        # The key is known, its shard has never reported.
        self.db.run("INSERT INTO strategic_key_activity (user_id, bot_name, shard) VALUES ('u', 'b', 8)")
        self.expect("stale", None, **valid)

    @in_transaction
    def test_expired(self):
        old = "now() - interval '24 hours'"
        self.expect("expired", {}, expires=old)
        self.expect("expired", None, expires=old, valid="'infinity'")
        self.expect("expired", {}, expires="'-infinity'", valid="now() - interval '1 ms'")

    @in_transaction
    def test_invalid_before_anything_else(self):
        for expires in ("now() + interval '5 min'", "now()", "now() - interval '2 days'"):
            self.expect("invalid", {}, expires=expires, valid="'infinity'", invalidated="now() - interval '1 s'")
        self.expect("invalid", None, expires="'infinity'", invalidated="now()")

    @in_transaction
    def test_character_changed(self):
        self.db.run("INSERT INTO strategic_bot_epoch VALUES ('b', now() - interval '1 min'), ('other', now() + interval '1 day')")
        for component in COMPONENTS:
            insert(self.db, component, expires="now() + interval '5 min'", computed="now() - interval '61 s'")
        for function in FUNCTIONS:
            self.assertEqual(dict.fromkeys(COMPONENTS, "fresh") | {"pp": "invalid", "pf": "invalid"}, self.freshness(function))
        for table in COMPONENTS.values():
            self.db.run(f"UPDATE {table} SET computed_at = now() - interval '1 min'")
        for function in FUNCTIONS:
            self.assertEqual(dict.fromkeys(COMPONENTS, "fresh"), self.freshness(function))

    @in_transaction
    def test_keys_do_not_mix(self):
        processor(self.db)
        for component in COMPONENTS:
            insert(self.db, component, expires="now() + interval '5 min'")
        for function in FUNCTIONS:
            self.assertEqual(dict.fromkeys(COMPONENTS, "missing") | {"pf": "fresh"}, self.freshness(function, "v"))
            self.assertEqual(dict.fromkeys(COMPONENTS, "missing"), self.freshness(function, "u", "B"))
            self.assertEqual("missing", self.db.one(f"SELECT pf_f FROM {function}('u', 'b', 24)"))

    @in_transaction
    def test_they_know_their_tables_whatever_the_caller_sees_first(self):
        processor(self.db)
        for component in COMPONENTS:
            insert(self.db, component, valid="'infinity'")
        self.db.run("CREATE SCHEMA other; SET LOCAL search_path = other, public")
        for table in (*COMPONENTS.values(), "strategic_key_activity", "strategic_processor", "strategic_bot_epoch"):
            self.db.run(f"CREATE VIEW other.{table} AS SELECT 'something else'")
        for path in ("other, public", "pg_catalog"):
            self.db.run(f"SET LOCAL search_path = {path}")
            for function in FUNCTIONS:
                self.assertEqual(dict.fromkeys(COMPONENTS, "current"), self.freshness("public." + function), path)
        # Columns may come and go, the bundle's rows have them.
        self.db.run("SET LOCAL search_path = public; ALTER TABLE strategic_memory_health ADD COLUMN more int DEFAULT 7")
        self.assertEqual(7, self.db.one("SELECT (mh).more FROM strategic_bundle('u', 'b')"))
        self.db.run("ALTER TABLE strategic_memory_health DROP COLUMN more")
        self.assertEqual("current", self.db.one("SELECT mh_f FROM strategic_bundle('u', 'b')"))

    @in_transaction
    def test_lite_has_every_plain_column_and_says_what_the_bundle_says(self):
        plain = {}  # what the engines fill, without JSON
        number = 0
        for component, table in COMPONENTS.items():
            insert(self.db, component)
            types = dict(self.db.run("SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = %s",
                                     table))
            for column in sorted(schema.COLUMNS[table].keys() & types.keys()) + ["confidence"]:
                if types[column] == "jsonb" or column in ("time_window_hours", "as_of", "valid_until", "event_count", "engine_version", "state_flags"):
                    continue
                plain[component + "_confidence" if column == "confidence" else column] = f"({component}).{column}"
                number += 1
                value = {"text": "'%d'", "timestamp with time zone": "to_timestamp(%d)"}.get(types[column], "%d")
                self.db.run(f"UPDATE {table} SET {column} = {value % number}")
        plain.update({f"{component}_f": f"{component}_f" for component in COMPONENTS})
        names = sorted(n for (n,) in self.db.run("SELECT unnest(proargnames[4:]) FROM pg_proc WHERE proname = 'strategic_bundle_lite'"))
        self.assertEqual(sorted(plain), names)
        lite, = self.db.run(f"SELECT {', '.join(names)} FROM strategic_bundle_lite('u', 'b')")
        self.assertEqual(len(names) - 5, len(set(lite)))  # all different, but for one freshness
        self.assertEqual([lite], self.db.run(f"SELECT {', '.join(plain[n] for n in names)} FROM strategic_bundle('u', 'b')"))


class PlanTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for component, table in BY_USER.items():
            own, value = (", memory_snapshot", ", '{}'") if component == "mh" else ("", "")
            cls.db.run(f"INSERT INTO {table} (user_id, bot_name, expires_at{own}) SELECT 'user-' || n, 'bot', now(){value} FROM generate_series(1, {KEYS}) n")
        cls.db.run(f"INSERT INTO strategic_key_activity SELECT 'user-' || n, 'bot', n % 64 FROM generate_series(1, {KEYS}) n")
        cls.db.run(f"INSERT INTO strategic_character_performance (bot_name, expires_at) SELECT 'bot-' || n, now() FROM generate_series(1, {KEYS}) n")
        cls.db.run(f"INSERT INTO strategic_bot_epoch SELECT 'bot-' || n, now() FROM generate_series(1, {KEYS}) n")
        cls.db.run("ANALYZE")

    @staticmethod
    def nodes(plan):
        yield plan
        for child in plan.get("Plans", []):
            yield from PlanTest.nodes(child)

    def test_only_index_look_ups(self):
        for function in FUNCTIONS:
            self.db.run(f"PREPARE {function} (text, text) AS SELECT * FROM {function}($1, $2)")
            for mode in ("force_custom_plan", "force_generic_plan"):
                with self.subTest(function=function, mode=mode):
                    self.db.run(f"SET plan_cache_mode = {mode}")
                    nodes = list(self.nodes(self.db.one(f"EXPLAIN (FORMAT JSON) EXECUTE {function}('user-77', 'bot')")[0]["Plan"]))
                    # One that is called instead of being planned with its statement would be a Function Scan.
                    self.assertNotIn("Function Scan", {n["Node Type"] for n in nodes})
                    how = {n["Relation Name"]: n["Node Type"] for n in nodes if "Relation Name" in n}
                    self.assertLessEqual({*COMPONENTS.values(), "strategic_key_activity", "strategic_bot_epoch"}, set(how))
                    del how["strategic_processor"]  # as many rows as partitions
                    self.assertLessEqual(set(how.values()), {"Index Scan", "Index Only Scan"})

    def test_a_column_costs_only_its_own_look_up(self):
        plan = self.db.one("EXPLAIN (FORMAT JSON) SELECT eo_f, receptivity_score FROM strategic_bundle_lite('user-77', 'bot')")[0]["Plan"]
        self.assertEqual({"strategic_engagement_opportunities", "strategic_key_activity", "strategic_processor"},
                         {n["Relation Name"] for n in self.nodes(plan) if "Relation Name" in n})

    def test_the_examples_of_the_docs(self):
        with open(os.path.join(os.path.dirname(ROLES), "..", "docs", "READING.md")) as f:
            examples = re.findall(r"^```sql\n(.*?)^```", f.read(), re.S | re.M)
        self.assertEqual(2, len(examples))
        for n, sql in enumerate(examples):
            self.db.run(f"PREPARE example_{n} (text, text) AS {sql}")
            self.assertEqual(1, len(self.db.run(f"EXECUTE example_{n} ('user-77', 'bot')")))

    def test_they_write_nothing(self):
        self.db.run("BEGIN READ ONLY")
        try:
            for function in FUNCTIONS:
                self.assertEqual([("s", "s", False)], self.db.run("SELECT provolatile, proparallel, prosecdef FROM pg_proc WHERE proname = %s", function))
                self.assertEqual(1, len(self.db.run(f"SELECT * FROM {function}('user-77', 'bot')")))
        finally:
            self.db.run("ROLLBACK")


class ReaderTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reader = f"{cls.name} reader"
        cls.db.run("REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
        run = subprocess.run(["psql", "-X", "-q", "-d", cls.db.conninfo, "-v", f"reader_role={cls.reader}", "-v", "reader_timeout=3s", "-f", ROLES],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0 or run.stdout:
            raise AssertionError(f"roles.sql ended with {run.returncode}: {run.stdout}")

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        admin = harness.connect("postgres")
        try:
            admin.cursor().execute(f'DROP ROLE "{cls.reader}"')
        finally:
            admin.close()

    def test_it_reads_within_its_time_and_does_nothing_else(self):
        conn = psycopg2.connect(self.db.conninfo.replace("user=postgres", f"user='{self.reader}'"))
        conn.autocommit = True
        try:
            cur = conn.cursor()
            cur.execute("SHOW statement_timeout")
            self.assertEqual("3s", cur.fetchone()[0])
            with self.assertRaises(errors.QueryCanceled):
                cur.execute("SELECT pg_sleep(60)")
            cur.execute("SET statement_timeout = 0")  # what follows may be slow on a loaded machine
            for function in FUNCTIONS:
                cur.execute(f"SELECT mh_f, pf_f FROM {function}('u', 'b')")
                self.assertEqual([("missing", "missing")], cur.fetchall())
            cur.execute("LISTEN strategic_cache")
            for sql in ("SELECT * FROM strategic_lease", "SELECT * FROM chat_message", "UPDATE strategic_memory_health SET expires_at = now()",
                        "DELETE FROM strategic_key_activity", "INSERT INTO strategic_bot_epoch VALUES ('b', now())",
                        "DROP FUNCTION strategic_bundle_lite(text, text, int)", "SELECT strategic_fence('x', 1)"):
                with self.subTest(sql), self.assertRaises(errors.InsufficientPrivilege):
                    cur.execute(sql)
        finally:
            conn.close()
