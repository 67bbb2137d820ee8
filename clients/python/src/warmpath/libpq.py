"""One statement on a connection of psycopg 3 without ever blocking, by its documented access to libpq (Connection.pgconn).

A statement here is a generator that yields what to wait for, so that the waiting is somebody else's: poll() with a deadline, or an
event loop. psycopg's own execute() has no deadline.
"""
from __future__ import annotations

import enum
import hashlib
import select
import time
import weakref
from collections.abc import Generator
from typing import Any

from .core import StatementError
from .query import Query, Row

UNKNOWN_STATEMENT = "26000"
DUPLICATE_STATEMENT = "42P05"


class Want(enum.IntFlag):
    READ = 1
    WRITE = 2


Steps = Generator[Want, None, Any]


class NotIdle(Exception):
    """The connection is inside a transaction: there now() is when that began, so a row may look fresher than it is."""

    def __init__(self) -> None:
        super().__init__("the connection is inside a transaction; give the reader connections of its own")


class Statement:
    """A query that is prepared once per connection."""

    def __init__(self, query: Query, prepare: bool) -> None:
        self._query = query
        self._prepare = prepare
        self._sql = query.sql.encode()
        self._name = b"warmpath_" + hashlib.sha256(self._sql).hexdigest()[:16].encode()
        self._prepared: weakref.WeakSet[Any] = weakref.WeakSet()

    def run(self, conn: Any, args: tuple[str, str, int]) -> Generator[Want, None, Row]:
        """One row. conn: an idle connection of psycopg that nobody else uses meanwhile."""
        from psycopg import pq

        pgconn = conn.pgconn
        if pgconn.transaction_status != pq.TransactionStatus.IDLE:
            raise NotIdle
        encoding = conn.info.encoding
        params = [str(a).encode(encoding) for a in args]
        if not self._prepare:
            pgconn.send_query_params(self._sql, params)
            return self._row((yield from _results(pgconn)), encoding)
        for attempt in range(2):
            if conn not in self._prepared:
                pgconn.send_prepare(self._name, self._sql)
                try:
                    yield from _results(pgconn)
                except StatementError as e:
                    if e.sqlstate != DUPLICATE_STATEMENT:  # another reader has prepared it: the name is a hash of the text
                        raise
                self._prepared.add(conn)
            pgconn.send_query_prepared(self._name, params)
            try:
                return self._row((yield from _results(pgconn)), encoding)
            except StatementError as e:
                if e.sqlstate != UNKNOWN_STATEMENT or attempt:
                    raise
                self._prepared.discard(conn)  # somebody has said DISCARD ALL
        raise AssertionError("unreachable")

    def _row(self, result: Any, encoding: str) -> Row:
        return self._query.decode_text([result.get_value(0, i) for i in range(result.nfields)], encoding)


def _results(pgconn: Any) -> Steps:
    """The result of what was sent, once libpq is ready for the next statement."""
    from psycopg import pq

    while pgconn.flush():
        yield Want.READ | Want.WRITE
        pgconn.consume_input()
    result: Any = None
    while True:
        while pgconn.is_busy():
            yield Want.READ
            pgconn.consume_input()
        next_result = pgconn.get_result()
        if next_result is None:
            break
        result = next_result
    if result is None:
        raise ConnectionError("the connection was lost")
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        state = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
        text = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
        raise StatementError(state.decode(), text.decode("utf-8", "replace"))
    return result


class DeadlineExceeded(Exception):
    """The steps are where they were and can be driven on."""


def drive(steps: Steps, fd: int, deadline: float) -> Any:
    """Runs the steps until they end or time.monotonic() has passed the deadline."""
    try:
        want = next(steps)
        while True:
            poller = select.poll()
            poller.register(fd, (select.POLLIN if want & Want.READ else 0) | (select.POLLOUT if want & Want.WRITE else 0))
            left = deadline - time.monotonic()
            # What is there is taken even when it is too late to wait: poll() with 0.
            if not poller.poll(max(0.0, left) * 1e3):
                raise DeadlineExceeded
            want = next(steps)
    except StopIteration as end:
        return end.value
