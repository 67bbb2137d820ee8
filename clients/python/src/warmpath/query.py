"""The statement, made from the dataclasses of model.py, and its row turned into a Bundle.

Every column is named: what other columns the tables have, and in which order, does not matter. `(mh).x` of a function in plain SQL
becomes a plain column in the planner, so only what is named here is fetched. All columns are asked for in four forms that every
driver gives alike, with whatever codecs the application has registered: double precision, bigint, text, and JSON as text.
"""
from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .model import COMPONENTS, Bundle, Component, Freshness, Kind

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_CAST = {
    Kind.NUMBER: "{}::float8",
    Kind.INTEGER: "{}::int8",
    Kind.TEXT: "{}",
    Kind.TIME: "date_part('epoch', {})",
    Kind.JSON: "{}::text",
}

# Until when the processor's progress proves a `current` row, should it stop now: the bounds of strategic_freshness().
_PROVEN_UNTIL = (
    "(SELECT date_part('epoch', least(s.heartbeat + interval '60 s', s.caught_up_to + interval '5 min'))"
    " FROM strategic_key_activity a JOIN strategic_processor s ON s.shard = a.shard WHERE a.user_id = $1 AND a.bot_name = $2)"
)

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: Kind
    slow: bool
    meta: bool


def _fields(component: type[Component]) -> list[_Field]:
    return [_Field(f.name, **f.metadata) for f in dataclasses.fields(component) if f.metadata]


class Query:
    """One statement, its columns, and how to read them. Parameters: $1 user, $2 bot, $3 window."""

    def __init__(self, details: bool = False, lite: bool = False, proof: bool = False) -> None:
        if lite and (details or proof):
            raise ValueError("lite reads have no details and cannot be cached: strategic_bundle_lite gives neither versions nor JSON")
        columns = ["date_part('epoch', now())", _PROVEN_UNTIL if proof else "NULL::float8"]
        self._parts: list[tuple[str, type[Component], list[_Field]]] = []
        for attribute, (_, prefix, component) in COMPONENTS.items():
            fields = _fields(component)
            if lite:
                fields = [f for f in fields if f.name == "confidence" or not f.meta and f.kind is not Kind.JSON]
            elif not details:
                fields = [f for f in fields if f.name != "details"]
            columns.append(f"{prefix}_f")
            for f in fields:
                source = f"({prefix}).{f.name}" if not lite else f"{prefix}_confidence" if f.meta else f.name
                columns.append(_CAST[f.kind].format(source))
            self._parts.append((attribute, component, fields))
        function = "strategic_bundle_lite" if lite else "strategic_bundle"
        self.sql = f"SELECT {', '.join(columns)} FROM {function}($1::text, $2::text, $3::int)"
        self.kinds: list[Kind] = [Kind.NUMBER, Kind.NUMBER]
        for _, _, fields in self._parts:
            self.kinds += [Kind.TEXT, *(Kind.NUMBER if f.kind is Kind.TIME else f.kind for f in fields)]

    def decode_text(self, values: Sequence[bytes | None], encoding: str) -> Row:
        """A row as libpq gives it, in text."""
        texts = (None if v is None else v.decode(encoding) for v in values)
        return [None if t is None else _FROM_TEXT[kind](t) for t, kind in zip(texts, self.kinds, strict=True)]

    def bundle(self, row: Row, **rest: Any) -> Bundle:
        parts: dict[str, Any] = {}
        at = 2
        for attribute, component, fields in self._parts:
            freshness = _freshness(row[at])
            values = row[at + 1 : at + 1 + len(fields)]
            at += 1 + len(fields)
            parts[attribute] = component(
                freshness=freshness,
                **{f.name: _value(f, v) for f, v in zip(fields, values) if v is not None and _allowed(f, freshness)},
            )
        return Bundle(**parts, **rest)


def _freshness(text: str | None) -> Freshness:
    try:
        return Freshness(text)
    except ValueError:
        return Freshness.INVALID  # a word that this version does not know is no reason to trust the row


def _allowed(f: _Field, freshness: Freshness) -> bool:
    return f.meta or freshness.usable or (freshness is Freshness.STALE and f.slow)


def _value(f: _Field, value: Any) -> Any:
    if f.kind is Kind.JSON:
        return json.loads(value)
    if f.kind is Kind.TIME:
        # Beyond the years that Python knows (infinity): as good as no bound, and no reason to fail.
        return EPOCH + timedelta(microseconds=round(value * 1e6)) if math.isfinite(value) and abs(value) < 1e11 else None
    return value


_FROM_TEXT: dict[Kind, type] = {Kind.NUMBER: float, Kind.INTEGER: int, Kind.TEXT: str, Kind.JSON: str}


def seconds_valid(bundle: Bundle, row: Row, longest: float, recheck: float) -> float:
    """For how long, from the moment of the read, the freshness of every component stays what it is, by the database's clock. What
    can get better without an announcement (`stale`: the processor catches up) is looked at again after `recheck`."""
    now, proven_until = row[0], row[1]
    left = longest
    for c in bundle.components.values():
        if c.freshness is Freshness.FRESH:
            left = min(left, _left(c.expires_at, now))
        elif c.freshness is Freshness.CURRENT:
            left = min(left, _left(c.valid_until, now), -1.0 if proven_until is None else proven_until - now)
        elif c.freshness is Freshness.STALE:
            left = min(left, recheck)
    return left


def _left(until: datetime | None, now: float) -> float:
    return math.inf if until is None else (until - EPOCH).total_seconds() - now
