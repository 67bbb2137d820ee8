"""A TCP proxy on 127.0.0.1 in front of a PostgreSQL server, which a test tells to misbehave.

    with ChaosProxy("/tmp/dir/.s.PGSQL.5432") as proxy:      # or ("127.0.0.1", 5432)
        ... connect to proxy.port ...
        proxy.stall("down")
        proxy.heal()

"up" is from the client to the server, "down" the other way. What is told applies to the links there are and to new ones,
until heal(). One thread moves all bytes; a link holds at most BUFFER_BYTES per direction, so that a stall is felt at the
other end as it would be in a network: by a full window.
"""
import collections
import os
import selectors
import socket
import struct
import threading
import time

BUFFER_BYTES = 65536
TICK_SECONDS = 0.02
BOTH = ("up", "down")


class Pipe:
    """One direction of a link."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.held = collections.deque()
        self.size = 0
        self.ended = False   # the source has sent its last byte
        self.passed = 0


class Link:
    def __init__(self, client, server):
        self.client, self.server = client, server
        self.pipes = {"up": Pipe(client, server), "down": Pipe(server, client)}
        self.lost = False    # bytes were dropped: nothing that follows would make sense, even when healed


class ChaosProxy:
    def __init__(self, target):
        self.target = target
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self._links = []
        self._lock = threading.Lock()
        self._stalled = frozenset()
        self._dropping = False
        self._refusing = False
        self._rate = None
        self._stop = False
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._stop = True
        self._thread.join(10)
        self.cut()
        self.listener.close()

    def conninfo(self, database, user="postgres"):
        return f"host=127.0.0.1 port={self.port} user={user} dbname={database}"

    # ---- commands

    def cut(self):
        """Resets every link (RST at both ends)."""
        with self._lock:
            for link in self._links:
                self._reset(link)
            self._links = []

    def stall(self, *ways):
        """Stops moving bytes that way (both, when none is named); the sockets stay open and nothing is lost."""
        self._stalled = frozenset(ways or BOTH)

    def end(self, way):
        """The sender of that way has sent its last byte (FIN); the other way goes on."""
        with self._lock:
            for link in self._links:
                self._finish(link.pipes[way])

    def drop(self):
        """Half-open: both ends think they are connected, and neither hears anything again, not even the other's end."""
        self._dropping = True
        with self._lock:
            for link in self._links:
                link.lost = True

    def slow(self, bytes_per_second):
        """Each direction of each link."""
        self._rate = bytes_per_second

    def refuse(self):
        """New connections are reset as soon as they are made; those there are go on."""
        self._refusing = True

    def heal(self):
        """What was stalled goes on; what was cut or lost stays so."""
        self._stalled = frozenset()
        self._dropping = self._refusing = False
        self._rate = None

    def passed(self, way):
        with self._lock:
            return sum(link.pipes[way].passed for link in self._links)

    # ---- the thread

    @staticmethod
    def _reset(link):
        for s in (link.client, link.server):
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            s.close()

    @staticmethod
    def _finish(pipe):
        pipe.ended = True
        try:
            pipe.target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _accept(self):
        try:
            client, _ = self.listener.accept()
        except BlockingIOError:
            return
        server = None
        try:
            if self._refusing:
                raise ConnectionRefusedError
            unix = isinstance(self.target, (str, os.PathLike))
            server = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
            server.connect(self.target)
        except OSError:  # no server either: the client sees the same
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            if server:
                server.close()
            return
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        server.setblocking(False)
        link = Link(client, server)
        link.lost = self._dropping
        with self._lock:
            self._links.append(link)

    def _read(self, link, pipe, most):
        data = pipe.source.recv(most)
        if link.lost:
            if not data:
                pipe.ended = True
            return
        if not data:
            pipe.ended = True
            if not pipe.held:
                self._finish(pipe)
            return
        pipe.held.append(data)
        pipe.size += len(data)

    def _write(self, pipe, most):
        data = pipe.held.popleft()
        sent = pipe.target.send(data[:most])
        pipe.size -= sent
        pipe.passed += sent
        if sent < len(data):
            pipe.held.appendleft(data[sent:])
        elif pipe.ended and not pipe.held:
            self._finish(pipe)

    def _wanted(self):
        """socket -> (events, what to do when it is ready)"""
        wanted = {}
        for link in self._links:
            for way, pipe in link.pipes.items():
                if way in self._stalled and not link.lost:
                    continue
                if not pipe.ended and pipe.size < BUFFER_BYTES:
                    wanted.setdefault(pipe.source, []).append((selectors.EVENT_READ, link, pipe))
                if pipe.held and not link.lost:
                    wanted.setdefault(pipe.target, []).append((selectors.EVENT_WRITE, link, pipe))
        return wanted

    def _serve(self, link, pipe, event, most):
        try:
            if event == selectors.EVENT_READ:
                self._read(link, pipe, most)
            else:
                self._write(pipe, most)
            over = all(p.ended and not p.held for p in link.pipes.values()) and not link.lost
        except BlockingIOError:
            return
        except OSError:
            if link.lost:
                pipe.ended = True
                return
            over = True
        if over:
            self._reset(link)
            self._links.remove(link)

    def _main(self):
        while not self._stop:
            with self._lock:
                wanted = self._wanted()
            with selectors.DefaultSelector() as selector:
                selector.register(self.listener, selectors.EVENT_READ, None)
                for sock, doings in wanted.items():
                    try:
                        selector.register(sock, sum({event for event, _, _ in doings}), doings)
                    except (ValueError, KeyError):
                        pass  # cut meanwhile
                ready = selector.select(TICK_SECONDS)
            rate = self._rate
            most = BUFFER_BYTES if rate is None else max(1, int(rate * TICK_SECONDS))
            if any(key.data is None for key, _ in ready):
                self._accept()
            with self._lock:
                for key, events in ready:
                    for event, link, pipe in key.data or ():
                        if events & event and link in self._links:
                            self._serve(link, pipe, event, most)
            if rate is not None:
                time.sleep(TICK_SECONDS)
