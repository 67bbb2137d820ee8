"""Certificates are checked on every connection when sslmode says so, passwords are taken from wherever they may be kept, and a
connection that is worse than what was asked for is refused."""
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile

import harness
from harness import Load, PipelineTest, wait_until

SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # PostgreSQL docs, Message Formats, SSLRequest


def openssl(*args):
    run = subprocess.run(["openssl", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode != 0:
        raise AssertionError(f"openssl {' '.join(args)}: {run.stdout}")


class Authority:
    """Signs certificates for servers."""

    def __init__(self, directory, name):
        self.dir = directory
        self.key, self.cert = (os.path.join(directory, f"{name}.{end}") for end in ("key", "crt"))
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert)

    def server(self, name, days="2"):
        """The paths of a certificate for localhost and of its key."""
        key, cert, request, names = (os.path.join(self.dir, f"{name}.{end}") for end in ("key", "crt", "csr", "ext"))
        with open(names, "w") as f:
            f.write("subjectAltName=DNS:localhost\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost",
                "-keyout", key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days", days,
                "-extfile", names, "-out", cert)
        for path in (key, cert):
            harness.cluster.give_to_owner(path)
        return cert, key


class TlsTest(PipelineTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.dir = tempfile.mkdtemp(prefix="tls-", dir=harness.work_dir)
        os.chmod(cls.dir, 0o755)
        cls.authority = Authority(cls.dir, "authority")
        cls.stranger = Authority(cls.dir, "stranger")
        cls.good = cls.authority.server("good")
        cls.expired = cls.authority.server("expired", "-1")
        with open(os.path.join(harness.cluster.dir, "password")) as f:
            cls.password = f.read().strip()
        cls.serve(cls.good)

    @classmethod
    def tearDownClass(cls):
        for name in ("ssl", "ssl_cert_file", "ssl_key_file"):
            cls.db.run(f"ALTER SYSTEM RESET {name}")
        cls.db.run("SELECT pg_reload_conf()")
        wait_until("the server to end TLS", lambda: cls.presented() is None)
        super().tearDownClass()
        shutil.rmtree(cls.dir)

    @classmethod
    def presented(cls):
        """The certificate that the server shows now; None when it has no TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", harness.cluster.port)) as plain:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as tls:
                return tls.getpeercert(binary_form=True)

    @classmethod
    def serve(cls, pair):
        cls.db.run(f"ALTER SYSTEM SET ssl_cert_file = '{pair[0]}'")
        cls.db.run(f"ALTER SYSTEM SET ssl_key_file = '{pair[1]}'")
        cls.db.run("ALTER SYSTEM SET ssl = on")
        cls.db.run("SELECT pg_reload_conf()")
        with open(pair[0]) as f:
            wanted = ssl.PEM_cert_to_DER_cert(f.read())
        wait_until("the server to show its new certificate", lambda: cls.presented() == wanted)

    def configure(self, mode="verify-full", authority=None, host="localhost", source=True, sink=True):
        secure = (f"host={host} hostaddr=127.0.0.1 port={harness.cluster.port} user=postgres password={self.password} "
                  f"dbname={self.name} sslmode={mode} sslrootcert={(authority or self.authority).cert}")
        self.w.write_config(conninfo=secure if source else self.db.conninfo,
                            sink=f'sink: {{conninfo: "{secure if sink else self.db.conninfo}"}}\n')

    def refusals(self):
        """What doctor says of the connections it could not make: (source, sink)"""
        code, out, _ = self.w.command("doctor", "--json")
        checks = json.loads(out)["checks"]
        found = {c["name"]: c["found"] for c in checks if c["result"] == "fail"}
        self.assertEqual(bool(found), code != 0)
        return found.get("connection", ""), found.get("cache_tables", "")

    def assert_refused(self, pattern, **how):
        for part in (0, 1):
            self.configure(**how, source=part == 0, sink=part == 1)
            self.assertRegex(self.refusals()[part], pattern)
            self.assertEqual("", self.refusals()[1 - part])
            code, out, err = self.w.command("run")
            self.assertNotEqual(0, code)
            self.assertRegex(out + err, pattern)

    def test_wrong_certificates_are_refused(self):
        self.assert_refused("certificate verify failed", authority=self.stranger)
        self.assert_refused('does not match host name "wrong.example"', host="wrong.example")
        self.serve(self.expired)
        try:
            self.assert_refused("certificate verify failed")
        finally:
            self.serve(self.good)

    def test_a_server_without_tls_is_refused(self):
        self.db.run("ALTER SYSTEM SET ssl = off")
        self.db.run("SELECT pg_reload_conf()")
        wait_until("the server to end TLS", lambda: self.presented() is None)
        try:
            self.assert_refused("server does not support SSL", mode="require")
        finally:
            self.serve(self.good)

    def test_every_connection_is_encrypted_and_comes_back_only_to_a_good_certificate(self):
        self.configure()
        self.w.start()
        Load(self.db, seed=41).run(50)
        self.w.wait_covered()
        self.w.verify()
        rows = self.db.run("SELECT application_name, backend_type, ssl, version FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
                           "WHERE datname = %s AND application_name LIKE '%%warmpath%%'", self.name)
        self.assertIn("walsender", {row[1] for row in rows})
        self.assertGreaterEqual(len(rows), 3, rows)
        self.assertTrue(all(row[2] for row in rows), rows)
        self.serve(self.expired)
        try:
            self.db.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", self.name)
            wait_until("the reader to refuse the certificate",
                       lambda: re.search("certificate verify failed|certificate has expired", self.w.new_log()), alive=self.w)
            self.assertFalse(self.w.slot()["active"])
        finally:
            self.serve(self.good)
        wait_until("the reader to come back", lambda: self.w.slot()["active"], alive=self.w)
        Load(self.db, seed=42).run(20)
        self.w.wait_covered()
        self.w.verify()
        self.assert_counts()
        self.assertEqual(0, self.w.stop())


class PasswordTest(PipelineTest):
    """scram-sha-256 over TCP, with the password kept in each of the places it may be kept in."""

    def start_with(self, clause, env=None):
        conninfo = f"host=127.0.0.1 port={harness.cluster.port} user=postgres dbname={self.name}{clause}"
        self.w.write_config(conninfo=conninfo, sink=f'sink: {{conninfo: "{conninfo}"}}\n')
        for name, value in (env or {}).items():
            os.environ[name] = value  # also for the commands
        try:
            self.assertEqual(0, self.w.command("doctor")[0], self.w.command("doctor"))
            self.w.start()
            self.db.run("INSERT INTO chat_message(user_id, bot_name, role, content) VALUES ('u', 'b', 'user', 'words')")
            self.w.wait_covered()
            self.assertEqual(0, self.w.stop())
        finally:
            for name in env or {}:
                del os.environ[name]

    def test_every_place(self):
        path = os.path.join(harness.cluster.dir, "password")
        with open(path) as f:
            password = f.read().strip()
        passfile = os.path.join(self.w.dir, "pgpass")
        with open(os.open(passfile, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(f"127.0.0.1:{harness.cluster.port}:*:postgres:{password}\n")
        with self.subTest("conninfo"):
            self.start_with(f" password={password}")
        with self.subTest("PGPASSFILE"):
            self.start_with("", {"PGPASSFILE": passfile})
        with self.subTest("file"):
            self.start_with(f" password=${{file:{path}}}")
        with self.subTest("credential"):
            self.start_with(" password=${credential:password}", {"CREDENTIALS_DIRECTORY": harness.cluster.dir})
        with self.subTest("none"), self.assertRaisesRegex(AssertionError, "no password supplied"):
            self.start_with("")
