"""The public listener as strangers see it: whatever they send gets the documented answer (docs/HTTP.md), and a fresh request is still
served."""
import contextlib
import http.client
import itertools
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from harness import CONFIG, PipelineTest, wait_until

DOOR_CONFIG = CONFIG.replace("log: {{", """http: {{{http}}}
influx:
  secrets: [{{value: "topsecret"}}]
log: {{""")
AUTH = b"Authorization: Token topsecret\r\n"
POST = b"POST /write?db=x HTTP/1.1\r\nHost: x\r\n" + AUTH
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = b"POST /write?db=smuggled HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Content-Length: 0\r\n\r\n"
SECONDS = 30

# What is sent, and the status of the first answer; None: it is closed without one. Whatever follows is never answered, and the
# connection is closed. SMUGGLED stands behind those heads whose end could be mistaken.
REFUSED = {
    "space before the colon": (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length : 45\r\n\r\n" + SMUGGLED, 400),
    "tab before the colon": (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length\t: 45\r\n\r\n" + SMUGGLED, 400),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 45\r\n\r\n" + SMUGGLED, 400),
    "the same length twice": (POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400),
    "a list of lengths": (POST + b"Content-Length: 0, 45\r\n\r\n" + SMUGGLED, 400),
    "length and chunked": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "chunked and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "chunked in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n" + SMUGGLED, 400),
    "signed length": (POST + b"Content-Length: +2\r\n\r\nab" + SMUGGLED, 400),
    "length beyond all numbers": (POST + b"Content-Length: 99999999999999999999999\r\n\r\nab", 413),
    "length beyond the limit": (POST + b"Content-Length: 999999999\r\n\r\nab", 413),
    "bare LF": (PING.replace(b"\r\n", b"\n"), 400),
    "one bare LF": (b"POST /write HTTP/1.1\r\nHost: x\nContent-Length: 0\r\n\r\n" + SMUGGLED, 400),
    "bare CR": (b"GET /ping HTTP/1.1\r\nHost: x\rX: y\r\n\r\n" + SMUGGLED, 400),
    "folded header": (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: y\r\n z\r\n\r\n" + SMUGGLED, 400),
    "NUL in a value": (b"GET /ping HTTP/1.1\r\nHost: x\r\nX: y\0z\r\n\r\n" + SMUGGLED, 400),
    "NUL in a name": (b"GET /ping HTTP/1.1\r\nHost: x\r\nX\0y: z\r\n\r\n" + SMUGGLED, 400),
    "a line without colon": (b"GET /ping HTTP/1.1\r\nHost: x\r\nnocolon\r\n\r\n" + SMUGGLED, 400),
    "no host": (b"GET /ping HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "two signatures": (b"POST /write HTTP/1.1\r\nHost: x\r\nWebhook-Signature: a\r\nwebhook-signature: b\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /ping\r\n\r\n", 400),
    "HTTP/1.2": (PING.replace(b"1.1", b"1.2"), 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", None),
    "a method alone": (b"GET\r\n\r\n", None),
    "two blanks": (b"GET  /ping  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "absolute target": (b"GET http://x/ping HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "encoded slash": (b"GET /webhooks%2fapp HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "dot segments": (b"GET /webhooks/../write HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "empty segment": (b"GET //write HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "TRACE": (b"TRACE /write HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "HEAD of what is written": (b"HEAD /write HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    "65 headers": (b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d: b\r\n" % i for i in range(64)) + b"\r\n", 431),
    "a large header": (b"GET /ping HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 17000 + b"\r\n\r\n", 431),
    "a huge header": (b"GET /ping HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 300000 + b"\r\n\r\n", 431),
    "a long target": (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "another expectation": (POST + b"Expect: miracles\r\nContent-Length: 1\r\n\r\n", 417),
    "a chunk size that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n" + SMUGGLED, 400),
    "a huge chunk size": (POST + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab\r\n0\r\n\r\n" + SMUGGLED, 413),
    "a chunk longer than it says": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n" + SMUGGLED, 400),
    "no secret, and what follows": (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 45\r\n\r\n" + SMUGGLED, 401),
}


def statuses(heard):
    """Of the answers in a stream. One that the library gives by itself may repeat its head; the closed connection ends it."""
    return [int(m) for m in re.findall(rb"HTTP/1\.1 (\d\d\d) ", heard)]


class DoorTest(PipelineTest):
    options = {"config": DOOR_CONFIG}
    http = ""

    @classmethod
    def setUpClass(cls):
        http_config = 'listen: "127.0.0.1:0"' + cls.http
        cls.options = {**cls.options, "config": cls.options["config"].replace("{http}", http_config.replace("{", "{{").replace("}", "}}"))}
        super().setUpClass()
        cls.w.start()
        cls.port = cls.wait_port()

    @classmethod
    def wait_port(cls, name="public"):
        pattern = re.compile(rf'"listening" name={name} .*port=(\d+)')
        return int(wait_until("the listener", lambda: pattern.search(cls.w.new_log()), alive=cls.w).group(1))

    def connect(self, source=None):
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS, source_address=(source, 0) if source else None)

    def hear(self, sock, until=None):
        """What comes, until it holds `until` or, without that, until the other side closes."""
        heard = b""
        while until is None or until not in heard:
            try:
                piece = sock.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                self.assertIsNone(until, f"closed after {heard!r}")
                break
            heard += piece
        return heard

    def ask(self, raw):
        """Everything that is answered until the connection is closed."""
        with self.connect() as sock:
            with contextlib.suppress(ConnectionError):  # it may be closed before all is sent
                sock.sendall(raw)
            return self.hear(sock)

    def assert_serves(self):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            conn.request("GET", "/ping")
            self.assertEqual(204, conn.getresponse().status)
        finally:
            conn.close()


class StrangersTest(DoorTest):
    http = ', header_timeout: 2s, body_timeout: 2s, max_write_body: 1MiB, rate_per_address: 0'

    def test_what_is_malformed_is_refused_and_closed(self):
        for name, (raw, status) in REFUSED.items():
            with self.subTest(name):
                heard = self.ask(raw)
                got = statuses(heard)
                self.assertEqual([status] if status else [], sorted(set(got)), heard)
                self.assertNotIn(b"smuggled", heard)
                self.assertNotIn(b"\r\nServer:", heard)
        self.assert_serves()

    def test_only_constants_and_the_id_are_answered(self):
        head, body = self.ask(b"GET /nowhere?<script>=x HTTP/1.1\r\nHost: <script>\r\nConnection: close\r\n\r\n").split(b"\r\n\r\n")
        self.assertEqual(b'{"type":"about:blank","title":"Not found","status":404}\n', body)
        self.assertNotIn(b"script", head)
        for header in (b"\r\nX-Request-Id: ", b"\r\nX-Content-Type-Options: nosniff", b"\r\nContent-Type: application/problem+json"):
            self.assertIn(header, head)

    def test_pipelined_and_chunked_requests_with_trailers_are_answered_in_order(self):
        point = b"nothing value=1 1700000000000000000"
        chunked = POST + b"Transfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n%x;a=b\r\n%s\r\n0\r\nHost: y\r\nContent-Length: 9\r\n\r\n"
        chunked %= (len(point), point)
        plain = POST + b"Content-Length: %d\r\n\r\n%s" % (len(point), point)
        last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        self.assertEqual([204, 204, 204, 204, 404], statuses(self.ask(chunked + plain + PING + chunked + last)))
        with self.connect() as sock:  # one byte after the other
            for i in range(len(chunked)):
                sock.sendall(chunked[i:i + 1])
            self.assertEqual([204], statuses(self.hear(sock, b"\r\n\r\n")))

    def test_a_body_is_only_asked_for_when_it_is_wanted(self):
        expect = b"Expect: 100-continue\r\n"
        for raw, status in ((b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n" + expect, 404),
                            (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n" + expect, 401),
                            (POST + b"Content-Length: 2000000\r\n" + expect, 413),
                            (POST + b"Content-Encoding: br\r\nContent-Length: 9\r\n" + expect, 415)):
            self.assertEqual([status], statuses(self.ask(raw + b"\r\n")))
        with self.connect() as sock:
            sock.sendall(POST + b"Content-Length: 11\r\n" + expect + b"\r\n")
            self.assertEqual([100], statuses(self.hear(sock, b"\r\n\r\n")))
            sock.sendall(b"nothing v=1")
            self.assertEqual([204], statuses(self.hear(sock, b"\r\n\r\n")))

    def test_a_body_beyond_the_limit_is_413_also_when_it_does_not_say_so(self):
        line = b"nothing value=1 1700000000000000000\n" * 2000
        chunk = b"%x\r\n%s\r\n" % (len(line), line)
        heard = self.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (1100000 // len(line)) + b"0\r\n\r\n")
        self.assertEqual([413], statuses(heard))
        # Far beyond it nobody goes on reading.
        self.assertEqual([], statuses(self.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (8000000 // len(line)))))
        self.assert_serves()

    def test_slow_headers_and_slow_bodies_are_cut_off(self):
        # Each byte comes well before any idle time-out; together they take longer than is allowed.
        for first, drops in ((b"GET /ping HTTP/1.1\r\nHost: ", b"a"), (POST + b"Content-Length: 100000\r\n\r\n", b"#"),
                             (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n#\r\n")):
            with self.subTest(first), self.connect() as sock:
                began = time.monotonic()
                sock.sendall(first)
                drop = itertools.cycle(drops)
                sock.settimeout(0.05)
                closed = False
                while not closed and time.monotonic() < began + SECONDS:
                    try:
                        closed = not sock.recv(4096)
                    except TimeoutError:
                        pass
                    except ConnectionError:
                        closed = True
                    with contextlib.suppress(ConnectionError):
                        sock.sendall(bytes([next(drop)]))
                self.assertTrue(closed)
                self.assertGreater(time.monotonic() - began, 1.5)
        self.assert_serves()


class IdleTest(DoorTest):
    http = ", connections: 10500, header_timeout: 5m, idle_timeout: 5m"
    COUNT = 10000
    PER_ADDRESS = 200

    def test_ten_thousand_idle_connections_hold_little_and_nobody_up(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < self.COUNT + 1000:
            self.skipTest(f"no more than {hard} open files are allowed here")
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.COUNT + 1000, hard))
        held = []
        try:
            self.assert_serves()
            before = self.w.rss_kib()
            # Every other one is in the middle of its headers.
            for i in range(self.COUNT):
                held.append(self.connect(f"127.0.1.{1 + i // self.PER_ADDRESS}"))
                if i % 2:
                    held[-1].sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n")
            for _ in range(10):
                self.assert_serves()
            grown = (self.w.rss_kib() - before) / self.COUNT
            self.assertLess(grown, 16, f"{grown:.1f} KiB per connection")
            # One address may not have more than its share: the default of 256.
            more = [self.connect("127.0.1.1") for _ in range(60)]
            more[-1].settimeout(SECONDS)
            self.assertEqual(b"", more[-1].recv(1))
            for sock in more:
                sock.close()
            # All of them still work.
            for sock in held[1::1000]:
                sock.sendall(b"\r\n")
                self.assertEqual([204], statuses(self.hear(sock, b"\r\n\r\n")))
        finally:
            for sock in held:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assert_serves()
        self.assertEqual(0, self.w.stop())


def openssl(directory, *args):
    subprocess.run(["openssl", *args], cwd=directory, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)


def make_certificate(directory, name):
    """A key and a certificate for localhost, signed by the authority ca.pem."""
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    if not os.path.exists(os.path.join(directory, "ca.pem")):
        openssl(directory, "req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority", "-days", "2")
    openssl(directory, "req", *ec, "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
    with open(os.path.join(directory, name + ".ext"), "w") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(directory, "x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1",
            "-out", name + ".pem", "-extfile", name + ".ext")


class TlsTest(DoorTest):
    http = ', rate_per_address: 1000, tls_cert: "{dir}/live.pem", tls_key: "{dir}/live.key"'

    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory(prefix="warmpath-tls-")
        cls.dir = cls.temp.name
        for name in ("first", "second"):
            make_certificate(cls.dir, name)
        cls.use("first")
        cls.http = cls.http.replace("{dir}", cls.dir)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.temp.cleanup()

    @classmethod
    def use(cls, cert, key=None):
        for name, kind in ((cert, "pem"), (key or cert, "key")):
            with open(os.path.join(cls.dir, f"{name}.{kind}")) as f:
                text = f.read()
            with open(os.path.join(cls.dir, f"live.{kind}"), "w") as f:
                f.write(text)

    def dial(self):
        context = ssl.create_default_context(cafile=os.path.join(self.dir, "ca.pem"))
        return context.wrap_socket(self.connect(), server_hostname="localhost")

    def name_served(self):
        with self.dial() as sock:
            sock.sendall(PING)
            self.assertEqual([204], statuses(self.hear(sock, b"\r\n\r\n")))
            return dict(pair for part in sock.getpeercert()["subject"] for pair in part)["commonName"]

    def reload(self, said):
        mark = len(self.w.new_log())
        self.w.process.send_signal(signal.SIGHUP)
        wait_until(f"the log to say {said}", lambda: said in self.w.new_log()[mark:], alive=self.w)

    def test_a_certificate_is_changed_while_it_listens(self):
        self.assertEqual("first", self.name_served())
        with self.dial() as held:
            self.use("second")
            self.reload("are those of the configuration now")
            wait_until("the other certificate", lambda: self.name_served() == "second", alive=self.w)
            # Who was connected before still is.
            held.sendall(PING)
            self.assertEqual([204], statuses(self.hear(held, b"\r\n\r\n")))
        self.use("first", "second")
        self.reload("could not read the certificate")
        self.assertEqual("second", self.name_served())
        # Not a word without TLS.
        with self.connect() as sock:
            sock.sendall(PING)
            self.assertNotIn(b"HTTP", self.hear(sock))
        old = ssl.create_default_context(cafile=os.path.join(self.dir, "ca.pem"))
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with self.connect() as sock, self.assertRaises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(sock, server_hostname="localhost")
        self.assertEqual("second", self.name_served())
