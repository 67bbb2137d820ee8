"""LISTEN strategic_cache with psycopg 3 in a thread, into a BundleCache.

Whenever something arrives, and at least once a second, the thread makes a round trip on its connection. That delivers whatever was
announced before, and proves that the connection is alive: the cache may only be used for a while after each proof.
"""
from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from .cache import CHANNEL, BundleCache

Connect = Callable[[], Any]

PING_SECONDS = 1.0
RETRY_SECONDS_MAX = 5.0
# For connection strings that do not say otherwise: a server that has vanished is noticed within seconds.
SOCKET_OPTIONS = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 5000}


def connect_function(listen: str | Connect) -> Connect:
    if not isinstance(listen, str):
        return listen
    conninfo = listen

    def connect() -> Any:
        import psycopg

        return psycopg.connect(with_socket_options(conninfo), autocommit=True)

    return connect


def with_socket_options(conninfo: str) -> str:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    settings: dict[str, Any] = {**SOCKET_OPTIONS, **conninfo_to_dict(conninfo)}
    return make_conninfo(**settings)


class Listener:
    def __init__(self, listen: str | Connect, cache: BundleCache) -> None:
        self._connect = connect_function(listen)
        self._cache = cache
        self._wake, self._woken = socket.socketpair()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warmpath-listener", daemon=True)
        self.problem: str | None = "not connected yet"  # why the cache is not in use

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.send(b"x")
        self._thread.join(2 * SOCKET_OPTIONS["connect_timeout"])
        self._cache.lost()
        if not self._thread.is_alive():
            self._wake.close()
            self._woken.close()

    def _run(self) -> None:
        retry = 0.05
        while not self._stop.is_set():
            conn = None
            try:
                conn = self._connect()
                self._listen(conn)
                retry = 0.05
                self._follow(conn)
            except Exception as e:  # of any driver, at any moment: the cache is not used, and we try again
                self.problem = f"{type(e).__name__}: {e}"
            finally:
                self._cache.lost()
                if conn is not None:
                    conn.close()
            self._stop.wait(retry * random.uniform(0.5, 1.0))
            retry = min(2 * retry, RETRY_SECONDS_MAX)

    def _listen(self, conn: Any) -> None:
        if not conn.autocommit:
            conn.autocommit = True
        since = self._cache.clock()
        conn.add_notify_handler(lambda notice: self._cache.announce(notice.payload))
        conn.execute(f"LISTEN {CHANNEL}")
        # From here on whatever is committed is announced to us; readers that have begun before are spoiled.
        self._cache.connected(since)
        self.problem = None

    def _follow(self, conn: Any) -> None:
        while not self._stop.is_set():
            select.select([conn.pgconn.socket, self._woken], [], [], PING_SECONDS)
            if self._stop.is_set():
                return
            since = self._cache.clock()
            conn.execute("SELECT 1")
            self._cache.proven(since)
