"""Rows in the memory of this process, dropped when the feed announces something newer.

What is served from here must be what the database would say, give or take the time an announcement takes to arrive. Three things
could break that, and each has its answer:

* An announcement arrives while the row it is about is being read: the read may have seen the row before the change. So a read says
  beforehand that it begins (Flight); an announcement spoils the flights of its key, and a spoiled flight is not kept.
* Announcements are lost while nobody listens: connected() and lost() empty the cache and spoil every flight; between lost() and
  connected() nothing is kept.
* A connection that is dead without having said so delivers nothing: the cache may only be used for `lease` seconds after the last
  proof that the connection delivers, proven(), which the listener gives about once a second.
"""
from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from .model import COMPONENTS, Bundle
from .query import Row

CHANNEL = "strategic_cache"
# Ordinary refreshes. With any other reason (a row was invalidated, a user is forgotten, the character changed, a word that is not
# known here) what is in memory goes, however new it is.
REFRESHES = frozenset({"count", "age", "idle", "predicate", "refresh", "touch", "wake", "validity", "visit"})
# A character was defined anew: with the first row that knows of it, whosever that is, the rows of all users of the bot become invalid.
CHARACTER = "character"

_ATTRIBUTES = {table: attribute for attribute, (table, _, _) in COMPONENTS.items()}

Key = tuple[str, str, int]  # user, bot, window


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message of the feed. user_id None: rows of the bot itself; bot_name None as well: everything."""

    bot_name: str | None
    user_id: str | None
    tables: tuple[str, ...] = ()
    row_version: int = 0
    reason: str | None = None

    @staticmethod
    def parse(payload: str) -> Announcement:
        """Raises ValueError: anybody may NOTIFY."""
        body = json.loads(payload)
        if not isinstance(body, dict):
            raise ValueError("not an object")
        names = [body.get("bot_name"), body.get("user_id"), body.get("reason")]
        tables, version = body.get("tables", []), body.get("row_version", 0)
        if not all(n is None or isinstance(n, str) for n in names):
            raise ValueError("a name is not a string")
        if not isinstance(tables, list) or not all(isinstance(t, str) for t in tables):
            raise ValueError("tables is not a list of strings")
        if version is not None and type(version) is not int:
            raise ValueError("row_version is not an integer")
        return Announcement(names[0] or None, names[1] or None, tuple(tables), version or 0, names[2])

    def concerns(self, key: Key) -> bool:
        return (self.user_id in (None, key[0]) or self.reason == CHARACTER) and self.bot_name in (None, key[1])


@dataclass(slots=True, eq=False)
class Flight:
    """A read that has begun."""

    key: Key
    sent_at: float  # by the cache's clock; the read's snapshot is not older
    spoiled: bool = False


@dataclass(slots=True)
class _Entry:
    row: Row
    until: float
    versions: dict[str, int]  # by table


@dataclass(slots=True)
class CacheCounters:
    hits: int = 0
    misses: int = 0
    dropped: int = 0  # by announcements
    spoiled: int = 0  # reads that were not kept, because of an announcement meanwhile
    evicted: int = 0  # for room
    emptied: int = 0  # the connection was lost, or an announcement could not be read
    unreadable: int = 0  # announcements


@dataclass(slots=True)
class BundleCache:
    """At most `size` keys, least recently used first out. Safe to use from several threads."""

    size: int = 10_000
    lease: float = 5.0
    clock: Callable[[], float] = time.monotonic
    counters: CacheCounters = field(default_factory=CacheCounters)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _entries: OrderedDict[Key, _Entry] = field(default_factory=OrderedDict)
    _flights: set[Flight] = field(default_factory=set)
    _windows: set[int] = field(default_factory=set)  # that occur in keys: a handful
    _usable_until: float | None = None  # None: nobody listens

    # ---- readers

    def get(self, key: Key) -> Row | None:
        """The row, if it may still be used as it was read."""
        with self._lock:
            now = self.clock()
            entry = self._entries.get(key) if self._listening(now) else None
            if entry is None or entry.until <= now:
                if entry is not None:
                    del self._entries[key]
                self.counters.misses += 1
                return None
            self._entries.move_to_end(key)
            self.counters.hits += 1
            return entry.row

    def begin(self, key: Key) -> Flight:
        """Before the statement is sent. Every flight must land() or be abandoned with drop()."""
        with self._lock:
            flight = Flight(key, self.clock())
            self._flights.add(flight)
            return flight

    def drop(self, flight: Flight) -> None:
        with self._lock:
            self._flights.discard(flight)

    def land(self, flight: Flight, row: Row, bundle: Bundle, seconds: float) -> bool:
        """Keeps what was read for `seconds` from the moment it was sent; false when it is not kept."""
        versions = {table: c.row_version or 0 for table, c in bundle.components.items()}
        with self._lock:
            self._flights.discard(flight)
            now = self.clock()
            if flight.spoiled:
                self.counters.spoiled += 1
                return False
            if not self._listening(now) or flight.sent_at + seconds <= now:
                return False
            self._windows.add(flight.key[2])
            self._entries[flight.key] = _Entry(row, flight.sent_at + seconds, versions)
            self._entries.move_to_end(flight.key)
            if len(self._entries) > self.size:
                self._entries.popitem(last=False)
                self.counters.evicted += 1
            return True

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    @property
    def listening(self) -> bool:
        """Whether what is in here may be used now."""
        with self._lock:
            return self._listening(self.clock())

    def _listening(self, now: float) -> bool:
        return self._usable_until is not None and now < self._usable_until

    # ---- the listener

    def connected(self, since: float) -> None:
        """LISTEN has been acknowledged. Reads that have begun before may have missed what was not announced to us."""
        with self._lock:
            self._empty()
            self._usable_until = since + self.lease

    def proven(self, since: float) -> None:
        """Everything that was announced up to `since` (by the cache's clock) has been handed to announce()."""
        with self._lock:
            if self._usable_until is not None:
                self._usable_until = max(self._usable_until, since + self.lease)

    def lost(self) -> None:
        with self._lock:
            if self._usable_until is not None:
                self._empty()
                self.counters.emptied += 1
            self._usable_until = None

    def announce(self, payload: str) -> Announcement | None:
        """Takes one message of the feed. What cannot be read might have been about anything."""
        try:
            a = Announcement.parse(payload)
        except (ValueError, RecursionError):
            with self._lock:
                self._empty()
                self.counters.unreadable += 1
                self.counters.emptied += 1
            return None
        with self._lock:
            for flight in self._flights:
                flight.spoiled |= a.concerns(flight.key)
            for key in [k for k in self._candidates(a) if not self._is_known(a, self._entries[k])]:
                del self._entries[key]
                self.counters.dropped += 1
        return a

    def _candidates(self, a: Announcement) -> list[Key]:
        if a.user_id is None or a.bot_name is None or a.reason == CHARACTER:
            return [k for k in self._entries if a.concerns(k)]
        return [k for w in self._windows if (k := (a.user_id, a.bot_name, w)) in self._entries]

    @staticmethod
    def _is_known(a: Announcement, entry: _Entry) -> bool:
        """The entry was read after what is announced: it holds newer rows. The same version is not enough: rows that are declared
        wrong keep theirs, and the reason of that is the application's own word. Of a bot's own rows nothing is known: there are
        several windows."""
        if a.user_id is None or a.reason not in REFRESHES or not a.row_version or not a.tables:
            return False
        return all(t in _ATTRIBUTES and entry.versions.get(t, 0) > a.row_version for t in a.tables)

    def _empty(self) -> None:
        self._entries.clear()
        for flight in self._flights:
            flight.spoiled = True
