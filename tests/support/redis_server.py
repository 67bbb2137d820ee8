"""A private Redis server for a test: a unix socket in a directory of its own, nothing saved to disk; a child that ends with us.

And a client that speaks as much of the protocol as tests need (RESP2; https://redis.io/docs/latest/develop/reference/protocol-spec/).
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1


class RedisError(Exception):
    pass


class Redis:
    """One connection: r("SET", "a", "1")."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def __call__(self, *args):
        parts = [a if isinstance(a, bytes) else str(a).encode() for a in args]
        self.sock.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
        return self.answer()

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            return self.file.read(int(rest) + 2)[:-2].decode("utf-8", "surrogateescape")
        if kind == b"*":
            return None if rest == b"-1" else [self.answer() for _ in range(int(rest))]
        return rest.decode()

    def close(self):
        self.file.close()
        self.sock.close()


class RedisServer:
    def __init__(self, password=None):
        self.dir = tempfile.mkdtemp(prefix="wp-redis-")
        self.path = os.path.join(self.dir, "redis.sock")
        self.url = "unix://" + self.path
        self.password = password
        self.process = None

    def start(self):
        args = ["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no", "--dir", self.dir]
        if self.password:
            args += ["--requirepass", self.password]
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=lambda: ctypes.CDLL(None).prctl(
                PR_SET_PDEATHSIG, signal.SIGKILL))
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return self
            except (OSError, RedisError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(os.path.join(self.dir, "log"), errors="replace") as log:
                        raise AssertionError("redis-server did not start:\n" + log.read()[-2000:]) from None
                time.sleep(0.02)

    def connect(self):
        r = Redis(self.path)
        if self.password:
            r("AUTH", self.password)
        return r

    def call(self, *args):
        r = self.connect()
        try:
            return r(*args)
        finally:
            r.close()

    def kill(self):
        """As a crash: nothing is written, everything is gone. Also ends a server that is paused."""
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
