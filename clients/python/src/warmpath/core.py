"""What the readers of both kinds share: everything but waiting."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .breaker import CircuitBreaker
from .cache import BundleCache, Flight, Key
from .metrics import CacheMetrics
from .model import Bundle, Defaults
from .query import Query, Row, seconds_valid

NO_DEFAULTS = Defaults()


class ReadError(Exception):
    """The cache could not be read; only raised by warm_up() and read(..., strict=True)."""


class StatementError(ReadError):
    """The server refused the statement."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of a reader.

    deadline     seconds for one read, waiting for a connection included; then the fallback
    give_up      seconds after which a statement that missed its deadline is cancelled; until then its connection stays with it, and
                 its answer is still put into the in-process cache
    details      read the column details, too
    lite         read strategic_bundle_lite: no JSON, no versions, no times; cannot be cached
    prepare      False behind a pooler that cannot keep prepared statements
    breaker      opens after failures in a row
    on_metrics   called about once a second with a list of CacheSample, from a thread of its own or as a task; may be a coroutine function
                 with the asynchronous reader
    cache_size   keys in the in-process cache
    max_age      seconds after which what is in the in-process cache is read again, whatever its rows say
    """

    deadline: float = 0.005
    give_up: float = 1.0
    details: bool = False
    lite: bool = False
    prepare: bool = True
    breaker: CircuitBreaker = dataclasses.field(default_factory=CircuitBreaker)
    on_metrics: Callable[[list[Any]], Any] | None = None
    metrics_interval: float = 1.0
    cache_size: int = 10_000
    cache_lease: float = 5.0
    max_age: float = 60.0
    recheck: float = 1.0


def options_of(options: Options | None, more: dict[str, Any]) -> Options:
    if options is not None and more:
        raise ValueError("either options or keywords")
    return options or Options(**more)


@dataclass(slots=True)
class Reading:
    """One call of read()."""

    key: Key
    defaults: Defaults
    strict: bool
    began: float
    flight: Flight | None = None


def _is_text(name: str) -> bool:
    """Whether PostgreSQL can hold it. Checked here because a driver may cut it off at the NUL, and because what somebody chose as a
    name must not count as a failure of the database."""
    return "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)


class Core:
    def __init__(self, options: Options, cached: bool) -> None:
        self.options = options
        self.query = Query(options.details, options.lite, proof=cached)
        self.breaker = options.breaker
        self.cache = BundleCache(options.cache_size, options.cache_lease) if cached else None
        self.metrics = CacheMetrics() if options.on_metrics else None

    def begin(self, user_id: str, bot_name: str, window: int, defaults: Defaults | None, strict: bool) -> Reading | Bundle:
        """A bundle from memory or a fallback at once, or a reading to send."""
        r = Reading((user_id, bot_name, window), defaults or NO_DEFAULTS, strict, time.monotonic())
        if not (_is_text(user_id) and _is_text(bot_name) and 0 < window < 1 << 31):
            return self.fallback(r, "there is no such key: PostgreSQL cannot store these names, or there is no such window")
        if self.cache is not None:
            row = self.cache.get(r.key)
            if row is not None:
                return self.done(r, row, "memory")
        if not self.breaker.allow():
            return self.fallback(r, "the circuit breaker is open: reads have failed several times in a row")
        if self.cache is not None:
            r.flight = self.cache.begin(r.key)
        return r

    def deadline(self, r: Reading) -> float:
        return r.began + self.options.deadline

    def arrived(self, r: Reading, row: Row, in_time: bool = True) -> Bundle:
        """The answer is there. One that is late is only kept."""
        if in_time:
            self.breaker.succeeded()
        bundle = self.decode(r, row, "database")
        if self.cache is not None and r.flight is not None:
            self.cache.land(r.flight, row, bundle, seconds_valid(bundle, row, self.options.max_age, self.options.recheck))
        if in_time:
            self.count(bundle)
        return bundle

    def failed(self, r: Reading, problem: str) -> Bundle:
        """An error or the deadline. The flight of a late answer goes on until arrived() or abandoned()."""
        self.breaker.failed()
        return self.fallback(r, problem)

    def abandoned(self, r: Reading) -> None:
        if self.cache is not None and r.flight is not None:
            self.cache.drop(r.flight)

    def too_late(self) -> str:
        return f"no answer within {self.options.deadline * 1e3:g} ms"

    def decode(self, r: Reading, row: Row, source: str) -> Bundle:
        user, bot, window = r.key
        bundle = self.query.bundle(row, user_id=user, bot_name=bot, window=window, source=source, defaults=r.defaults)
        return dataclasses.replace(bundle, elapsed_ms=self.elapsed_ms(r))

    def done(self, r: Reading, row: Row, source: str) -> Bundle:
        bundle = self.decode(r, row, source)
        self.count(bundle)
        return bundle

    def fallback(self, r: Reading, problem: str) -> Bundle:
        user, bot, window = r.key
        bundle = Bundle(user_id=user, bot_name=bot, window=window, problem=problem, defaults=r.defaults, elapsed_ms=self.elapsed_ms(r))
        self.count(bundle)
        if r.strict:
            raise ReadError(problem)
        return bundle

    def count(self, bundle: Bundle) -> None:
        if self.metrics is not None:
            self.metrics.add(bundle)

    @staticmethod
    def elapsed_ms(r: Reading) -> float:
        return (time.monotonic() - r.began) * 1e3
