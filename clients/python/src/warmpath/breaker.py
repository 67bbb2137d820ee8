"""A circuit breaker: after some failures in a row nobody asks the database for a while; then one call tries."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """failures: so many in a row open it, for `seconds`. Safe to use from several threads."""

    def __init__(self, failures: int = 5, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        if failures < 1 or seconds <= 0:
            raise ValueError("a circuit breaker needs at least one failure and a time above 0")
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_try = 0.0

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._failures >= self._limit

    def allow(self) -> bool:
        """Whether this call may try. While the breaker is open one call per `seconds` may, and what it reports decides."""
        with self._lock:
            if self._failures < self._limit:
                return True
            now = self._clock()
            if now < self._next_try:
                return False
            self._next_try = now + self._seconds
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit:
                self._next_try = self._clock() + self._seconds
