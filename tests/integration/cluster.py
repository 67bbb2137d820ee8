#!/usr/bin/python3
"""A private PostgreSQL server for the demo, the benchmark and the integration tests.

usage: cluster.py DIR COMMAND...   runs COMMAND beside a server in DIR, with DATABASE_URL set, then stops the server

The server runs as user postgres when we are root, since it refuses to run as root. It listens on a port of its own on
127.0.0.1 (with a password) and on a unix socket in a directory that only its owner can enter. It is a child of ours and
told to end when we end, however that happens.
"""
import ctypes
import glob
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psycopg2

PR_SET_PDEATHSIG = 1
SOCKET_PATH_MAX = 107
START_SECONDS = 60
STOP_SECONDS = 60
SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "30",
    "max_replication_slots": "30",
    "max_connections": "100",
    "max_prepared_transactions": "20",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


class ClusterError(Exception):
    pass


def find_bindir():
    """PG_BINDIR (run.py --pg sets it), else PostgreSQL 15, or else the newest version there is; they are not in PATH on Debian.
    Only initdb, postgres and pg_ctl can be counted on: tools/postgres.py brings no others."""
    named = os.environ.get("PG_BINDIR")
    found = [named] if named else ["/usr/lib/postgresql/15/bin"]
    if not named:
        versions = glob.glob("/usr/lib/postgresql/*/bin")
        found += sorted(versions, key=lambda p: [int(n) for n in re.findall(r"\d+", p)], reverse=True)
    for path in found:
        if os.access(os.path.join(path, "initdb"), os.X_OK):
            return path
    raise ClusterError("could not find PostgreSQL's initdb; install it with ./dev deps, or set PG_BINDIR")


def die_with_parent(signum):
    """For a child: end when the parent ends. Called after the change of user, which would clear it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    """One data directory and, while it is started, its server."""

    def __init__(self, directory, fsync=True, settings=None):
        self.bindir = find_bindir()
        self.dir = os.path.abspath(directory)
        self.settings = dict(SETTINGS, **(settings or {}))
        if not fsync:
            self.settings["fsync"] = "off"
        self.server = None
        self.port = None
        self.socket_dir = None
        self.owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        version = subprocess.run([os.path.join(self.bindir, "postgres"), "--version"], stdout=subprocess.PIPE, text=True, check=True)
        self.major = int(re.search(r"\d+", version.stdout)[0])

    # ---- as whom

    def as_owner(self):
        """What subprocess needs to start a program as the user who may run a server."""
        if not self.owner:
            return {}
        return {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": [], "cwd": "/"}

    def give_to_owner(self, path):
        if self.owner:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def prepare_dir(self):
        """Makes the directory; when the server's user cannot reach it, another one, remembered beside it."""
        os.makedirs(os.path.dirname(self.dir), exist_ok=True)
        note = self.dir + ".path"
        if os.path.exists(note):
            with open(note) as f:
                self.dir = f.read().strip()
        fresh = not os.path.exists(self.dir)
        if fresh:
            os.mkdir(self.dir, 0o700)
            self.give_to_owner(self.dir)
        if subprocess.run(["test", "-w", self.dir], **self.as_owner()).returncode == 0:
            return
        if not fresh:
            raise ClusterError(f"user {self.owner.pw_name if self.owner else os.getlogin()} cannot write to {self.dir}; "
                               f"remove it and {note} to begin anew")
        os.rmdir(self.dir)
        self.dir = tempfile.mkdtemp(prefix="warmpath-pg-")
        self.give_to_owner(self.dir)
        with open(note, "w") as f:
            f.write(self.dir + "\n")
        print(f"user postgres cannot reach {os.path.dirname(note)}: the cluster goes to {self.dir} (noted in {note})",
              file=sys.stderr, flush=True)

    # ---- life

    @property
    def data(self):
        return os.path.join(self.dir, "data")

    @property
    def log(self):
        return os.path.join(self.dir, "log")

    def exists(self):
        return os.path.exists(os.path.join(self.data, "PG_VERSION"))

    def create(self):
        self.prepare_dir()
        if self.exists():
            return False
        if os.path.isdir(self.data):
            shutil.rmtree(self.data)  # an initdb that was interrupted
        password = os.path.join(self.dir, "password")
        with open(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            f.write(secrets.token_hex(16) + "\n")
        self.give_to_owner(password)
        run = subprocess.run(
            [os.path.join(self.bindir, "initdb"), "--pgdata", self.data + ".new", "--username", "postgres", "--pwfile", password,
             "--auth-local", "trust", "--auth-host", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **self.as_owner())
        if run.returncode != 0:
            shutil.rmtree(self.data + ".new", ignore_errors=True)
            raise ClusterError("initdb failed:\n" + run.stdout)
        os.rename(self.data + ".new", self.data)
        return True

    def refuse_second(self):
        try:
            with open(os.path.join(self.data, "postmaster.pid")) as f:
                pid = int(f.readline())
            os.kill(pid, 0)
            with open(f"/proc/{pid}/comm") as f:
                if "postgres" not in f.read():
                    return
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return
        except PermissionError:
            pass
        raise ClusterError(f"a server (process {pid}) is already using {self.data}: is another ./dev running? Stop that first")

    def choose_socket_dir(self):
        if not self.socket_dir:
            self.socket_dir = tempfile.mkdtemp(prefix="wp-", dir="/tmp")
            self.give_to_owner(self.socket_dir)
        if len(self.socket_dir) + len("/.s.PGSQL.65535") > SOCKET_PATH_MAX:
            raise ClusterError(f"the path of the socket in {self.socket_dir} would be too long")

    def start(self):
        self.create()
        self.refuse_second()
        self.choose_socket_dir()
        self.port = self.port or free_port()
        argv = [os.path.join(self.bindir, "postgres"), "-D", self.data, "-k", self.socket_dir, "-p", str(self.port),
                "-c", "listen_addresses=127.0.0.1"]
        for name, value in self.settings.items():
            argv += ["-c", f"{name}={value}"]
        # Made here: the server's user may not be able to create a file that we can read.
        with open(self.log, "ab") as log:
            self.server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                           preexec_fn=lambda: die_with_parent(signal.SIGQUIT), **self.as_owner())
        deadline = time.monotonic() + START_SECONDS
        while not self.accepts():
            if self.server.poll() is not None or time.monotonic() > deadline:
                with open(self.log, errors="replace") as f:
                    tail = "".join(f.readlines()[-20:])
                self.stop("immediate")
                raise ClusterError(f"PostgreSQL did not start within {START_SECONDS} s:\n{tail}")
            time.sleep(0.02)
        return self

    def accepts(self):
        try:
            psycopg2.connect(self.conninfo()).close()
            return True
        except psycopg2.OperationalError:
            return False

    def stop(self, mode="fast"):
        """fast ends connections and writes a checkpoint; immediate is a crash, to be recovered from at the next start."""
        if self.server and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            try:
                self.server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.server.send_signal(signal.SIGQUIT)
                self.server.wait()
        self.server = None

    def close(self):
        self.stop()
        if self.socket_dir:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
            self.socket_dir = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    # ---- reaching it

    def conninfo(self, database="postgres"):
        return f"host={self.socket_dir} port={self.port} user=postgres dbname={database}"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    child = None

    def forward(signum, _):
        if child and child.poll() is None:
            child.send_signal(signum)
        else:
            sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, forward)
    try:
        with Cluster(sys.argv[1]) as cluster:
            argv = [a.replace("{conninfo}", cluster.conninfo()) for a in sys.argv[2:]]
            env = dict(os.environ, DATABASE_URL=cluster.conninfo(), PATH=cluster.bindir + ":" + os.environ["PATH"])
            child = subprocess.Popen(argv, env=env, preexec_fn=lambda: die_with_parent(signal.SIGTERM))
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:
                    continue  # the terminal has told the child as well
    except ClusterError as e:
        sys.exit(f"cluster.py: {e}")


if __name__ == "__main__":
    sys.exit(main())
