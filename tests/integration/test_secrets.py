"""A password shows up nowhere: not in what any command prints, whatever goes wrong, not in the log at its most talkative, not in the
state, and not in what the server shows to others."""
import glob
import os
import subprocess

import harness
from cluster import free_port
from harness import PipelineTest, WARMPATH

SECRET = "Zebra7Quartz"  # no part of any word or name here, and no character that somebody could quote
WRONG = "Walrus3Basalt"

COMMANDS = [["check-config"], ["check-config", "--print-config"], ["doctor"], ["doctor", "--json"], ["status"], ["status", "--json"],
            ["verify", "--all"], ["migrate", "status"], ["dlq", "list"], ["run"]]

BAD_CONNINFOS = [
    "password={p} host",  # no equals sign
    "host=127.0.0.1 password='{p}",  # a quote that does not end
    "host=127.0.0.1 passwrod={p}",
    "host=127.0.0.1 password={p} replication=database",
    "{p}",
    "postgresql://postgres:{p}@127.0.0.1:x/db",
    "postgresql://postgres:{p}@[::1/db",
    "postgresql://postgres:{p}@127.0.0.1/db?nonsense={p}",
    "postgresql://postgres:%zz{p}@127.0.0.1/db",
    "host=127.0.0.1 password={p} port=99999999",
    "host=127.0.0.1 password={p} sslmode=maybe",
    "host=127.0.0.1 password={p} sslpassword={p} sslcert=/none sslkey=/none",
]


class SecretsTest(PipelineTest):
    options = {"log_level": "debug"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.role = cls.name + "_role"
        cls.db.run(f"CREATE ROLE \"{cls.role}\" LOGIN SUPERUSER PASSWORD '{SECRET}'")

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        admin = harness.connect("postgres")
        admin.cursor().execute(f'DROP ROLE "{cls.role}"')
        admin.close()

    def configure(self, password=SECRET, port=None, conninfo=None):
        conninfo = conninfo or (f"host=127.0.0.1 port={port or harness.cluster.port} user={self.role} password={password} "
                                f"dbname={self.name} connect_timeout=5")
        self.w.write_config(conninfo=conninfo, sink=f'sink: {{conninfo: "{conninfo}"}}\n')

    def assert_hidden(self, what, text, secrets=(SECRET, WRONG)):
        for secret in secrets:
            at = text.find(secret)
            self.assertEqual(-1, at, f"{what} shows the password: ...{text[max(0, at - 200):at + 40]}...")

    def run_all(self, *more):
        codes = []
        for command in COMMANDS:
            code, out, err = self.w.command(*command, *more)
            self.assert_hidden(" ".join(command), out + err)
            codes.append(code)
        return codes

    def test_while_all_is_well(self):
        self.configure()
        self.w.start()
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) SELECT 'u', 'b', 'user', 'words' FROM generate_series(1, 20)")
        self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('u', 'b', 'nobody', 'a dead letter')")
        self.w.wait_covered()
        codes = self.run_all()
        self.assertEqual([0] * (len(COMMANDS) - 1), codes[:-1])
        self.assertIn("****", self.w.must("check-config", "--print-config"))
        uri = f"postgresql://{self.role}:{SECRET}@127.0.0.1:{harness.cluster.port}/{self.name}"
        code, out, err = self.w.command("check-config", "--print-config", "--set", f"source.conninfo={uri}")
        self.assertIn("****", out)
        self.assert_hidden("check-config --print-config", out + err)
        for view in ("pg_stat_activity", "pg_stat_replication", "pg_replication_slots", "pg_prepared_statements", "pg_locks"):
            self.assert_hidden(view, str(self.db.run(f"SELECT t::text FROM {view} t")))
        tables = [row[0] for row in self.db.run("SELECT tablename FROM pg_tables WHERE tablename LIKE 'strategic%%'")]
        self.assertGreater(len(tables), 6)
        for table in tables:
            self.assert_hidden(table, str(self.db.run(f"SELECT t::text FROM {table} t")))
        self.assertEqual(0, self.w.stop())
        files = [p for p in glob.glob(os.path.join(self.w.state, "**"), recursive=True) if os.path.isfile(p)] + [self.w.log]
        self.assertGreater(len(files), 2)
        for path in files:
            with open(path, "rb") as f:
                self.assert_hidden(path, f.read().decode("latin-1"))

    def test_wrong_password_and_nobody_there(self):
        self.configure(password=WRONG)
        self.assertNotEqual(0, self.run_all()[-1])
        self.configure(port=free_port())
        self.assertNotEqual(0, self.run_all()[-1])
        # A pipeline that is running when its server goes keeps trying, and says so.
        self.configure()
        self.w.start()
        harness.cluster.stop("immediate")
        self.db.close()
        try:
            harness.wait_until("the loss to be logged", lambda: "level=warn" in self.w.new_log() or "level=error" in self.w.new_log(),
                               alive=self.w)
        finally:
            harness.cluster.start()
        harness.wait_until("it to come back", lambda: self.w.slot().get("active"), 60, alive=self.w)
        self.w.wait_covered()
        self.assertEqual(0, self.w.stop())
        with open(self.w.log) as f:
            self.assert_hidden("log", f.read())

    def test_connection_strings_that_are_none(self):
        for form in BAD_CONNINFOS:
            conninfo = form.format(p=SECRET)
            with self.subTest(form):
                self.configure(conninfo=conninfo)
                self.assertNotEqual(0, self.run_all()[-1])
                run = subprocess.run([WARMPATH, "run", "--config", self.w.config, "--set", f"source.conninfo={conninfo}"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                     env={**os.environ, "WARMPATH_SINK_CONNINFO": conninfo})
                self.assertNotEqual(0, run.returncode)
                self.assert_hidden("run --set", run.stdout)

    def test_yaml_that_is_none(self):
        good = open(self.w.config).read()
        for line in (f'  conninfo: "password={SECRET}', f"  conninfo: [{SECRET}]", f"  conninfo: {{password: {SECRET}}}",
                     f"  conninfo: password={SECRET}\n  conninfo: again", f"  conninfo: 'password={SECRET} ${{'",
                     f"  conninfo: &{SECRET} x"):
            with self.subTest(line):
                with open(self.w.config, "w") as f:
                    f.write(good.replace(good.splitlines()[2], line, 1))
                for command in COMMANDS[:3]:
                    code, out, err = self.w.command(*command)
                    self.assertNotEqual(0, code)
                    self.assert_hidden(" ".join(command), out + err)
        self.w.write_config()
