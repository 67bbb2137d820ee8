"""AsyncStrategicReader: reads with asyncpg or psycopg 3 in an event loop.

A read is a task of its own. When the deadline passes the caller goes on with the fallback, and the task ends by itself a little later:
so the driver is not interrupted in the middle of a protocol, and the statement stays prepared.
"""
from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .breaker import CircuitBreaker
from .cache import CHANNEL, BundleCache, Key
from .core import Core, Options, Reading, options_of
from .libpq import NotIdle, Statement, Steps, Want
from .listener import PING_SECONDS, RETRY_SECONDS_MAX, SOCKET_OPTIONS, with_socket_options
from .model import Bundle, Defaults
from .query import Query, Row

Connect = Callable[[], Awaitable[Any]]


Answer = asyncio.Future  # of a Row


class _Driver(Protocol):
    async def fetch(self, args: Key, connect_seconds: float, give_up: float, answer: Answer[Row]) -> None:
        """Sets the result of `answer`, and then takes its time to give the connection back. Raises what goes wrong before."""


class AsyncStrategicReader:
    """source: an asyncpg.Pool or asyncpg.Connection, or a psycopg_pool.AsyncConnectionPool or psycopg.AsyncConnection; a single
    connection must be nobody else's.

    listen: a connection string for the driver of the source, or a coroutine function that returns a new connection of asyncpg or
    psycopg; with it there is a cache in this process, kept right by LISTEN on that connection. It must be the primary, and so must the
    source. Options: core.Options. Use it as `async with`, or call start() and close().
    """

    def __init__(self, source: Any, *, listen: str | Connect | None = None, options: Options | None = None, **more: Any) -> None:
        options = options_of(options, more)
        self._core = Core(options, cached=listen is not None)
        is_psycopg = hasattr(source, "getconn") or hasattr(source, "pgconn")
        self._driver: _Driver = _Asyncpg(source, self._core.query)
        if is_psycopg:
            self._driver = _Psycopg(source, self._core.query, options.prepare)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []
        self.listener: AsyncListener | None = None
        if listen is not None and self._core.cache is not None:
            self.listener = AsyncListener(_connect_function(listen, is_psycopg), self._core.cache)

    @property
    def cache(self) -> Any:
        """The BundleCache, None without `listen`."""
        return self._core.cache

    @property
    def breaker(self) -> CircuitBreaker:
        return self._core.breaker

    async def start(self) -> None:
        if not self._background:
            if self.listener is not None:
                self._background.append(asyncio.create_task(self.listener.run()))
            if self._core.options.on_metrics is not None:
                self._background.append(asyncio.create_task(self._report()))

    async def close(self) -> None:
        """Ends what runs beside the reads and hands over the last metrics. The source stays open."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, *self._tasks, return_exceptions=True)
        self._background.clear()
        await self._hand_over()

    async def __aenter__(self) -> AsyncStrategicReader:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(
        self, user_id: str, bot_name: str, window: int = 168, *, defaults: Defaults | None = None, strict: bool = False
    ) -> Bundle:
        """One round trip, or none. Returns within the deadline whatever the database does, and raises nothing: what cannot be read is
        `missing`, and `problem` says why. strict: raise ReadError instead."""
        begun = self._core.begin(user_id, bot_name, window, defaults, strict)
        if isinstance(begun, Bundle):
            return begun
        r, o = begun, self._core.options
        answer = self._ask(r.key, o.deadline, o.give_up)
        try:
            await asyncio.wait({answer}, timeout=o.deadline)
        except asyncio.CancelledError:
            answer.add_done_callback(lambda a: self._late(r, a))
            raise
        if not answer.done():
            answer.add_done_callback(lambda a: self._late(r, a))
            return self._core.failed(r, self._core.too_late())
        try:
            row = answer.result()
        except (Exception, asyncio.CancelledError) as e:
            self._core.abandoned(r)
            return self._core.failed(r, f"{type(e).__name__}: {e}")
        return self._core.arrived(r, row)

    def _ask(self, key: Key, connect_seconds: float, give_up: float) -> Answer[Row]:
        answer: Answer[Row] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._driver.fetch(key, connect_seconds, give_up, answer))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            problem = asyncio.CancelledError() if task.cancelled() else task.exception()
            if not answer.done():
                answer.set_exception(problem or RuntimeError("no answer"))

        task.add_done_callback(ended)
        return answer

    async def warm_up(self, seconds: float = 10.0) -> None:
        """At the start: prepares the statement on one connection, without the deadline. Raises what goes wrong."""
        await self._ask(("", "", 168), seconds, seconds)

    def _late(self, r: Reading, answer: Answer[Row]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            self._core.abandoned(r)
        else:
            self._core.arrived(r, answer.result(), in_time=False)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._core.options.metrics_interval)
            await self._hand_over()

    async def _hand_over(self) -> None:
        core = self._core
        samples = core.metrics.take() if core.metrics is not None else []
        if not samples or core.options.on_metrics is None:
            return
        try:
            answer = core.options.on_metrics(samples)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # whatever happens to the metrics: reads go on
            pass


async def _answer(answer: Answer[Row], reading: Awaitable[Row]) -> None:
    """What becomes of the reading is known before the connection is given back, which may take long when it is broken."""
    try:
        answer.set_result(await reading)
    except Exception as e:
        answer.set_exception(e)


class _Asyncpg:
    def __init__(self, source: Any, query: Query) -> None:
        # Without prepared statements in the server the application sets statement_cache_size=0, as asyncpg's documentation says.
        self._source = source
        self._sql = query.sql
        self._lock = None if hasattr(source, "acquire") else asyncio.Lock()

    async def fetch(self, args: Key, connect_seconds: float, give_up: float, answer: Answer[Row]) -> None:
        if self._lock is not None:
            async with self._lock:
                await _answer(answer, self._on(self._source, args, give_up))
            return
        conn = await self._source.acquire(timeout=connect_seconds)
        try:
            await _answer(answer, self._on(conn, args, give_up))
        finally:
            # Its own timeout: without one it would be that of acquire(), and a connection that is reset for longer is closed.
            await self._source.release(conn, timeout=give_up)

    async def _on(self, conn: Any, args: Key, give_up: float) -> Row:
        if conn.is_in_transaction():
            raise NotIdle
        try:
            row = await conn.fetchrow(self._sql, *args, timeout=give_up)
        except Exception as e:
            # The server has ended the connection, or is about to: given back as it is, the pool would lose its place.
            if (getattr(e, "sqlstate", None) or "").startswith(("08", "57P")):
                conn.terminate()
            raise
        return tuple(row)


class _Psycopg:
    def __init__(self, source: Any, query: Query, prepare: bool) -> None:
        self._source = source
        self._statement = Statement(query, prepare)
        self._lock = None if hasattr(source, "getconn") else asyncio.Lock()

    async def fetch(self, args: Key, connect_seconds: float, give_up: float, answer: Answer[Row]) -> None:
        if self._lock is not None:
            async with self._lock:
                await _answer(answer, self._on(self._source, args, give_up))
            return
        conn = await self._source.getconn(timeout=connect_seconds)
        try:
            await _answer(answer, self._on(conn, args, give_up))
        finally:
            await self._source.putconn(conn)

    async def _on(self, conn: Any, args: Key, give_up: float) -> Any:
        steps = self._statement.run(conn, args)
        driving = asyncio.ensure_future(_drive(steps, conn.pgconn.socket))
        try:
            await asyncio.wait({driving}, timeout=give_up)
            if not driving.done():
                # libpq asks for a cancellation on a connection of its own, and waits for it.
                await asyncio.get_running_loop().run_in_executor(None, conn.pgconn.get_cancel().cancel)
                await asyncio.wait({driving}, timeout=give_up)
        finally:
            if not driving.done():
                driving.cancel()
                await conn.close()  # a statement is under way: nobody can use it any more
        return await driving


async def _drive(steps: Steps, fd: int) -> Any:
    loop = asyncio.get_running_loop()
    try:
        want = next(steps)
        while True:
            await _ready(loop, fd, want)
            want = next(steps)
    except StopIteration as end:
        return end.value


async def _ready(loop: asyncio.AbstractEventLoop, fd: int, want: Want) -> None:
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    if want & Want.READ:
        loop.add_reader(fd, ready)
    if want & Want.WRITE:
        loop.add_writer(fd, ready)
    try:
        await future
    finally:
        loop.remove_reader(fd)
        loop.remove_writer(fd)


# ---- LISTEN

def _connect_function(listen: str | Connect, is_psycopg: bool) -> Connect:
    if not isinstance(listen, str):
        return listen
    conninfo = listen

    async def connect() -> Any:
        if is_psycopg:
            import psycopg

            return await psycopg.AsyncConnection.connect(with_socket_options(conninfo), autocommit=True)
        import asyncpg

        return await asyncpg.connect(conninfo, timeout=SOCKET_OPTIONS["connect_timeout"])

    return connect


class AsyncListener:
    """As listener.Listener, in the event loop: a round trip whenever something arrives, and at least once a second."""

    def __init__(self, connect: Connect, cache: BundleCache) -> None:
        self._connect = connect
        self._cache = cache
        self._wake = asyncio.Event()
        self.problem: str | None = "not connected yet"

    async def run(self) -> None:
        retry = 0.05
        while True:
            conn = None
            try:
                conn = await asyncio.wait_for(self._connect(), SOCKET_OPTIONS["connect_timeout"])
                await self._follow(_AsyncpgEnd(conn, self) if hasattr(conn, "add_listener") else _PsycopgEnd(conn, self))
            except Exception as e:  # of any driver, at any moment: the cache is not used, and we try again
                if self.problem is None:
                    retry = 0.05
                self.problem = f"{type(e).__name__}: {e}"
            finally:
                self._cache.lost()
                if conn is not None:
                    _terminate(conn)
            await asyncio.sleep(retry * random.uniform(0.5, 1.0))
            retry = min(2 * retry, RETRY_SECONDS_MAX)

    async def _follow(self, end: _AsyncpgEnd | _PsycopgEnd) -> None:
        since = self._cache.clock()
        await asyncio.wait_for(end.listen(), SOCKET_OPTIONS["connect_timeout"])
        self._cache.connected(since)
        self.problem = None
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), PING_SECONDS)
            except asyncio.TimeoutError:
                pass
            self._wake.clear()
            since = self._cache.clock()
            await asyncio.wait_for(end.ping(), SOCKET_OPTIONS["connect_timeout"])
            self._cache.proven(since)

    def announced(self, payload: str) -> None:
        self._cache.announce(payload)

    def ended(self) -> None:
        self._wake.set()  # the ping will fail, and say why


class _AsyncpgEnd:
    """asyncpg reads its socket by itself: an announcement is there without a round trip."""

    def __init__(self, conn: Any, listener: AsyncListener) -> None:
        self._conn = conn
        self._listener = listener

    async def listen(self) -> None:
        self._conn.add_termination_listener(lambda _: self._listener.ended())
        await self._conn.add_listener(CHANNEL, lambda conn, pid, channel, payload: self._listener.announced(payload))

    async def ping(self) -> None:
        await self._conn.execute("SELECT 1")


class _PsycopgEnd:
    def __init__(self, conn: Any, listener: AsyncListener) -> None:
        self._conn = conn
        self._listener = listener

    async def listen(self) -> None:
        if not self._conn.autocommit:
            await self._conn.set_autocommit(True)
        self._conn.add_notify_handler(lambda notice: self._listener.announced(notice.payload))
        await self._conn.execute(f"LISTEN {CHANNEL}")
        self._watch()

    async def ping(self) -> None:
        try:
            await self._conn.execute("SELECT 1")  # which hands over what was announced
        finally:
            if not self._conn.closed:
                self._watch()

    def _watch(self) -> None:
        """psycopg reads its socket only during a statement: the ping is made when there is something to read."""
        loop, fd = asyncio.get_running_loop(), self._conn.pgconn.socket

        def readable() -> None:
            loop.remove_reader(fd)
            self._listener._wake.set()

        loop.add_reader(fd, readable)


def _terminate(conn: Any) -> None:
    """At once, without a word to the server: it may not be listening."""
    if hasattr(conn, "terminate"):
        conn.terminate()
    elif not conn.closed:
        asyncio.get_running_loop().remove_reader(conn.pgconn.socket)
        conn.pgconn.finish()
