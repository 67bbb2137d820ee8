"""Reads counted in memory and handed over once a second, so that the hot path does no I/O for its metrics.

The measurement is `strategic_cache`: tags bot and table_name, fields cache_hit, query_latency_ms and cache_age_seconds, here as counts
and means of a second, with the freshness as a further tag. There are no users in it.
"""
from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone

from .model import Bundle, Freshness

MEASUREMENT = "strategic_cache"
# More bots than that in one second count as one: a tag without bounds is a problem for whoever stores it.
BOTS_MAX = 1000
OTHER_BOTS = "other"


@dataclass(frozen=True, slots=True)
class CacheSample:
    """Reads of one table with one freshness within the interval."""

    bot: str
    table_name: str
    freshness: Freshness
    reads: int
    cache_hit: int  # of these: fresh or current
    cache_miss: int
    from_memory: int  # of these: answered by the in-process cache
    query_latency_ms: float  # mean
    query_latency_ms_max: float
    cache_age_seconds: float | None  # mean age of the rows; None without a row

    def line(self, at: float | None = None) -> str:
        """As InfluxDB's line protocol; at: seconds since 1970."""
        tags = {"bot": self.bot, "table_name": self.table_name, "freshness": self.freshness.value}
        fields = [f"{name}={getattr(self, name)}i" for name in ("reads", "cache_hit", "cache_miss", "from_memory")]
        fields += [f"{name}={getattr(self, name):.3f}" for name in ("query_latency_ms", "query_latency_ms_max")]
        if self.cache_age_seconds is not None:
            fields.append(f"cache_age_seconds={self.cache_age_seconds:.3f}")
        # An empty tag value is an error in line protocol.
        named = "".join(f",{name}={_escape(value)}" for name, value in tags.items() if value)
        return f"{MEASUREMENT}{named} {','.join(fields)} {round((time.time() if at is None else at) * 1e9)}"


def _escape(tag: str) -> str:
    tag = "".join(c if c.isprintable() else " " for c in tag)  # a line break would end the line
    for plain in "\\,= ":
        tag = tag.replace(plain, "\\" + plain)
    return tag


@dataclass(slots=True)
class _Sums:
    reads: int = 0
    from_memory: int = 0
    latency: float = 0.0
    latency_max: float = 0.0
    aged: int = 0
    age: float = 0.0


@dataclass(slots=True)
class CacheMetrics:
    """The counts since they were last taken. Safe to use from several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sums: dict[tuple[str, str, Freshness], _Sums] = field(default_factory=dict)
    _bots: set[str] = field(default_factory=set)

    def add(self, bundle: Bundle) -> None:
        now = datetime.now(timezone.utc)
        with self._lock:
            bot = bundle.bot_name
            if bot not in self._bots:
                bot = bot if len(self._bots) < BOTS_MAX else OTHER_BOTS
                self._bots.add(bot)
            for table, component in bundle.components.items():
                s = self._sums.setdefault((bot, table, component.freshness), _Sums())
                s.reads += 1
                s.from_memory += bundle.source == "memory"
                s.latency += bundle.elapsed_ms
                s.latency_max = max(s.latency_max, bundle.elapsed_ms)
                if component.computed_at is not None:
                    s.aged += 1
                    s.age += max(0.0, (now - component.computed_at).total_seconds())

    def take(self) -> list[CacheSample]:
        with self._lock:
            sums, self._sums, self._bots = self._sums, {}, set()
        return [
            CacheSample(
                bot, table, freshness, s.reads, s.reads if freshness.usable else 0, 0 if freshness.usable else s.reads, s.from_memory,
                s.latency / s.reads, s.latency_max, s.age / s.aged if s.aged else None)
            for (bot, table, freshness), s in sorted(sums.items(), key=lambda item: (item[0][0], item[0][1], item[0][2].value))
        ]
