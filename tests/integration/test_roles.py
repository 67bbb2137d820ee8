"""The whole pipeline under the roles of deploy/roles.sql, with nothing granted to anybody else; what those roles cannot do; and that
doctor names the very GRANT that is missing, one at a time."""
import json
import os
import subprocess

import psycopg2
from psycopg2 import errors

import harness
from harness import Load, PipelineTest, wait_until

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "roles.sql")
TABLES = ("chat_message", "memory", "memory_access")


class RolesTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source, cls.writer, cls.reader, cls.app = (f"{cls.name} {kind}" for kind in ("source", "sink", "reader", "app"))
        cls.db.run("CREATE TABLE secret(x text)")
        # What PostgreSQL grants to everybody must not be what makes it work.
        cls.db.run(f'REVOKE ALL ON DATABASE "{cls.name}" FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; '
                   "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
        for _ in range(2):
            cls.grant()
        cls.w.write_config(conninfo=cls.conninfo(cls.source), sink=f'sink: {{conninfo: "{cls.conninfo(cls.writer)}"}}\n')

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        admin = harness.connect("postgres")
        try:
            for role in (cls.source, cls.writer, cls.reader, cls.app):
                admin.cursor().execute(f'DROP ROLE "{role}"')
        finally:
            admin.close()

    @classmethod
    def grant(cls):
        run = subprocess.run(
            ["psql", "-X", "-q", "-d", cls.db.conninfo, "-v", f"source_role={cls.source}", "-v", "schemas=public", "-v",
             "tables=" + ", ".join(f"public.{t}" for t in TABLES), "-v", f"publication={cls.name}", "-v", f"sink_role={cls.writer}",
             "-v", f"reader_role={cls.reader}", "-v", f"app_role={cls.app}", "-f", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode != 0 or run.stdout:
            raise AssertionError(f"roles.sql ended with {run.returncode}: {run.stdout}")

    @classmethod
    def conninfo(cls, role):
        return cls.db.conninfo.replace("user=postgres", f"user='{role}'")

    def doctor(self):
        """{(name, fix)} of what is not ok"""
        checks = json.loads(self.w.command("doctor", "--json")[1])["checks"]
        return {(c["name"], c["fix"]) for c in checks if c["result"] != "ok"}

    def refused(self, role, *statements):
        conn = psycopg2.connect(self.conninfo(role))
        conn.autocommit = True
        try:
            for sql in statements:
                with self.subTest(role=role, sql=sql), self.assertRaises(errors.InsufficientPrivilege):
                    conn.cursor().execute(sql)
        finally:
            conn.close()

    def test_1_doctor_names_each_missing_right(self):
        self.assertEqual(set(), self.doctor())
        missing = [(f'REVOKE {right} ON {table} FROM "{self.writer}"', f'GRANT {right} ON "public"."{table}" TO "{self.writer}";')
                   for table, right in self.db.run("SELECT table_name, privilege_type FROM information_schema.role_table_grants "
                                                   "WHERE grantee = %s ORDER BY 1, 2", self.writer)]
        self.assertGreaterEqual(len(missing), 6 * 4 + 4 * 3 + 2 + 1)
        missing += [(f'REVOKE SELECT ON {table} FROM "{self.source}"', f'GRANT SELECT ON "public"."{table}" TO "{self.source}";')
                    for table in TABLES]
        for role in (self.source, self.writer):
            missing += [(f'REVOKE CONNECT ON DATABASE "{self.name}" FROM "{role}"',
                         f'GRANT CONNECT ON DATABASE "{self.name}" TO "{role}";'),
                        (f'REVOKE USAGE ON SCHEMA public FROM "{role}"', f'GRANT USAGE ON SCHEMA "public" TO "{role}";'),
                        (f'ALTER ROLE "{role}" NOLOGIN', f'ALTER ROLE "{role}" LOGIN;')]
        missing.append((f'ALTER ROLE "{self.source}" NOREPLICATION', f'ALTER ROLE "{self.source}" REPLICATION;'))
        for take_away, mend in missing:
            with self.subTest(take_away):
                self.db.run(take_away)
                fixes = [fix for _, fix in self.doctor()]
                self.assertTrue(any(fix.strip().startswith(mend) for fix in fixes), fixes)
                self.db.run(mend)
                self.assertEqual(set(), self.doctor())

    def test_2_doctor_says_who_must_make_the_publication(self):
        self.db.run(f'DROP PUBLICATION "{self.name}"')
        (name, fix), = self.doctor()
        self.assertEqual("publication", name)
        with self.assertRaises(errors.InsufficientPrivilege):
            psycopg2.connect(self.conninfo(self.source)).cursor().execute(fix)
        self.assertNotEqual(0, self.w.command("run")[0])
        self.db.run(fix)
        self.assertEqual(set(), self.doctor())

    def test_3_everything_works(self):
        Load(self.db, seed=30).run(50)  # for the snapshot
        self.w.start()
        Load(self.db, seed=31).run(150)
        self.w.wait_covered()
        self.w.verify()
        self.assert_counts()
        self.assertTrue(self.w.status()["lease"]["held"])
        conn = psycopg2.connect(self.conninfo(self.reader))
        try:
            cur = conn.cursor()
            cur.execute("SELECT user_id, bot_name FROM strategic_conversation_patterns LIMIT 1")
            user, bot = cur.fetchone()
            cur.execute("SELECT cp_f, (cp).event_count FROM strategic_bundle(%s, %s)", (user, bot))
            freshness, count = cur.fetchone()
            self.assertEqual("fresh", freshness)
            self.assertGreater(count, 0)
            cur.execute("SELECT cp_f FROM strategic_bundle_lite(%s, %s)", (user, bot))
            self.assertIn(cur.fetchone()[0], ("fresh", "current"))
        finally:
            conn.close()
        writer = psycopg2.connect(self.conninfo(self.writer))
        try:
            self.db.run("UPDATE strategic_memory_behavior SET expires_at = now() - interval '50 d' WHERE user_id = %s", user)
            writer.cursor().execute("SELECT strategic_sweep('40 d', 100)")
            writer.commit()
            self.assertEqual(0, self.db.one("SELECT count(*) FROM strategic_memory_behavior WHERE user_id = %s", user))
        finally:
            writer.close()
        app = psycopg2.connect(self.conninfo(self.app))
        try:
            app.cursor().execute("SELECT strategic_invalidate(%s, %s), strategic_touch(%s), strategic_recompute(%s, %s)",
                                 (user, bot, user, user, bot))
            app.commit()
        finally:
            app.close()
        wait_until("the invalidated row to be new", lambda: self.db.one(
            "SELECT invalidated_at IS NULL AND NOT EXISTS (SELECT FROM strategic_request) FROM strategic_conversation_patterns "
            "WHERE user_id = %s AND bot_name = %s", user, bot), 60, alive=self.w)
        self.assertEqual(0, self.w.command("invalidate", user, bot)[0])
        self.assertEqual(0, self.w.stop())
        self.w.template = harness.CONFIG.replace("create: true", "create: false")
        self.w.write_config()
        self.w.start()
        self.assertEqual(0, self.w.stop())
        self.assertEqual(set(), self.doctor())

    def test_4_and_nothing_else(self):
        create = "CREATE TABLE public.x()", "CREATE SCHEMA x", "CREATE ROLE x", "CREATE DATABASE x"
        self.refused(self.source, *create, "INSERT INTO memory(memory_id, user_id, bot_name) VALUES ('a', 'b', 'c')",
                     "UPDATE chat_message SET content = ''", "DELETE FROM chat_message", "TRUNCATE chat_message", "SELECT * FROM secret",
                     "SELECT * FROM strategic_lease", "SELECT * FROM strategic_memory_health", "DROP TABLE chat_message",
                     f'DROP PUBLICATION "{self.name}"', "ALTER TABLE chat_message DROP COLUMN content", "SELECT pg_read_file('PG_VERSION')")
        self.refused(self.writer, *create, "SELECT * FROM chat_message", "DELETE FROM memory", "SELECT * FROM secret",
                     "DROP TABLE strategic_lease", "TRUNCATE strategic_memory_health", "DELETE FROM strategic_lease",
                     "DELETE FROM strategic_progress", "UPDATE strategic_migrations SET checksum = ''",
                     "DELETE FROM strategic_migrations", "ALTER TABLE strategic_memory_health ADD COLUMN x int",
                     "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
                     f"SELECT pg_drop_replication_slot('{self.name}')")
        self.refused(self.reader, *create, "SELECT * FROM chat_message", "SELECT * FROM secret", "SELECT * FROM strategic_lease",
                     "SELECT * FROM strategic_progress", "DELETE FROM strategic_memory_health",
                     "UPDATE strategic_conversation_patterns SET expires_at = 'infinity'",
                     "INSERT INTO strategic_processor DEFAULT VALUES", "DROP FUNCTION strategic_bundle(text, text, int)",
                     "SELECT strategic_fence('x', 1)", "SELECT strategic_sweep('1 h', 1)", f"SELECT pg_drop_replication_slot('{self.name}')",
                     "SELECT strategic_invalidate('a')", "SELECT strategic_touch('a')", "SELECT strategic_recompute('a')")
        self.refused(self.app, *create, "SELECT * FROM chat_message", "SELECT * FROM strategic_memory_health",
                     "SELECT * FROM strategic_request", "INSERT INTO strategic_source VALUES ('x', false)",
                     "SELECT strategic_ask('forget', 'a', NULL, NULL, NULL)", "SELECT strategic_fence('x', 1)",
                     "UPDATE strategic_memory_health SET invalidated_at = now()",
                     "SELECT strategic_watch('chat_message', 'user_id', 'bot_name')")

    def test_5_rows_hidden_by_row_level_security_are_not_left_out_in_silence(self):
        self.db.run("ALTER TABLE chat_message ENABLE ROW LEVEL SECURITY")
        try:
            code, out, err = self.w.command("verify", "--all")
            self.assertNotEqual(0, code, out)
            self.assertIn("row-level security", out + err)
        finally:
            self.db.run("ALTER TABLE chat_message DISABLE ROW LEVEL SECURITY")
