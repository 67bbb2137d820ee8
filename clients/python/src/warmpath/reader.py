"""StrategicReader: reads with psycopg 3, from any number of threads."""
from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from .breaker import CircuitBreaker
from .core import Core, Options, Reading, options_of
from .libpq import DeadlineExceeded, Statement, Steps, drive
from .listener import Connect, Listener
from .model import Bundle, Defaults


class _Source(Protocol):
    """Where connections come from."""

    def take(self, timeout: float) -> Any: ...  # raises when there is none in time
    def give(self, conn: Any) -> None: ...


class _Pool:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def take(self, timeout: float) -> Any:
        return self._pool.getconn(timeout=max(timeout, 0.0))

    def give(self, conn: Any) -> None:
        self._pool.putconn(conn)


class _Single:
    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._lock = threading.Lock()

    def take(self, timeout: float) -> Any:
        if not self._lock.acquire(timeout=max(timeout, 0.0)):
            raise TimeoutError("the connection is busy")
        return self._conn

    def give(self, conn: Any) -> None:
        self._lock.release()


class StrategicReader:
    """source: a psycopg_pool.ConnectionPool, or one psycopg.Connection that nobody else uses.

    listen: a connection string, or a function that returns a new psycopg.Connection; with it there is a cache in this process, kept
    right by LISTEN on that connection. It must be the primary, and so must the source. Options: core.Options.
    """

    def __init__(self, source: Any, *, listen: str | Connect | None = None, options: Options | None = None, **more: Any) -> None:
        options = options_of(options, more)
        self._core = Core(options, cached=listen is not None)
        self._statement = Statement(self._core.query, options.prepare)
        self._source: _Source = _Single(source)
        if hasattr(source, "getconn"):
            self._source = _Pool(source)
        self._late: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._metrics_thread: threading.Thread | None = None
        if options.on_metrics is not None:
            self._metrics_thread = threading.Thread(target=self._report, name="warmpath-metrics", daemon=True)
            self._metrics_thread.start()
        self.listener: Listener | None = None
        if listen is not None and self._core.cache is not None:
            self.listener = Listener(listen, self._core.cache)
            self.listener.start()

    @property
    def cache(self) -> Any:
        """The BundleCache, None without `listen`."""
        return self._core.cache

    @property
    def breaker(self) -> CircuitBreaker:
        return self._core.breaker

    def read(
        self, user_id: str, bot_name: str, window: int = 168, *, defaults: Defaults | None = None, strict: bool = False
    ) -> Bundle:
        """One round trip, or none. Returns within the deadline whatever the database does, and raises nothing: what cannot be read is
        `missing`, and `problem` says why. strict: raise ReadError instead."""
        r = self._core.begin(user_id, bot_name, window, defaults, strict)
        if isinstance(r, Bundle):
            return r
        deadline = self._core.deadline(r)
        try:
            conn = self._source.take(deadline - time.monotonic())
        except Exception as e:
            self._core.abandoned(r)
            return self._core.failed(r, f"no connection: {e or type(e).__name__}")
        steps = self._statement.run(conn, r.key)
        try:
            row = drive(steps, conn.pgconn.socket, deadline)
        except DeadlineExceeded:
            self._finish_later(r, conn, steps)
            return self._core.failed(r, self._core.too_late())
        except Exception as e:
            self._source.give(conn)
            self._core.abandoned(r)
            return self._core.failed(r, f"{type(e).__name__}: {e}")
        self._source.give(conn)
        return self._core.arrived(r, row)

    def warm_up(self, seconds: float = 10.0) -> None:
        """At the start: prepares the statement on one connection, without the deadline. Raises what goes wrong."""
        conn = self._source.take(seconds)
        try:
            drive(self._statement.run(conn, ("", "", 168)), conn.pgconn.socket, time.monotonic() + seconds)
        finally:
            self._source.give(conn)

    # ---- behind the deadline

    def _finish_later(self, r: Reading, conn: Any, steps: Steps) -> None:
        """A connection with a statement under way cannot be given back; a thread brings it to an end. Each holds a connection, so
        there are no more of them than connections."""
        thread = threading.Thread(target=self._finish, args=(r, conn, steps), name="warmpath-late", daemon=True)
        self._late.add(thread)
        thread.start()

    def _finish(self, r: Reading, conn: Any, steps: Steps) -> None:
        try:
            self._core.arrived(r, self._drive_on(conn, steps), in_time=False)
        except Exception:
            self._core.abandoned(r)
        finally:
            self._source.give(conn)
            self._late.discard(threading.current_thread())

    def _drive_on(self, conn: Any, steps: Steps) -> Any:
        give_up = self._core.options.give_up
        try:
            return drive(steps, conn.pgconn.socket, time.monotonic() + give_up)
        except DeadlineExceeded:
            conn.pgconn.get_cancel().cancel()
        try:
            return drive(steps, conn.pgconn.socket, time.monotonic() + give_up)
        except DeadlineExceeded:
            conn.close()  # the server does not even answer a cancellation
            raise

    # ---- metrics, end

    def _report(self) -> None:
        core = self._core
        assert core.metrics is not None and core.options.on_metrics is not None
        ending = False
        while not ending:
            ending = self._closing.wait(core.options.metrics_interval)
            samples = core.metrics.take()
            if samples:
                try:
                    core.options.on_metrics(samples)
                except Exception:  # whatever happens to the metrics: reads go on
                    pass

    def close(self) -> None:
        """Ends what runs beside the reads and hands over the last metrics. The source stays open."""
        self._closing.set()
        if self.listener is not None:
            self.listener.stop()
        for thread in [*self._late, self._metrics_thread]:
            if thread is not None:
                thread.join(2 * self._core.options.give_up + 1)

    def __enter__(self) -> StrategicReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
