"""What a read gives: six components, each with its freshness, and what to do where one must not be used.

The dataclasses below are also the description of the columns: query.py makes the statement from their fields, and decodes by them.
A field holds None when the column is NULL, and also when the freshness of its row forbids its use: stale rows keep only what moves
slowly, rows that are expired, invalid or missing keep nothing. So whatever is not None may be used, weighted by `confidence`.
"""
from __future__ import annotations

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

# How many of the user's own messages the fallback for the length of an answer looks at.
RECENT_MESSAGES = 5


class Freshness(enum.Enum):
    """How far a row may be trusted, as strategic_freshness() says it."""

    FRESH = "fresh"  # computed within the time to live
    CURRENT = "current"  # older, but nothing has changed, and the processor proves that it is up to date
    STALE = "stale"  # expired within 24 hours: only what moves slowly
    EXPIRED = "expired"
    INVALID = "invalid"  # known to be wrong: a message was deleted, the character changed
    MISSING = "missing"  # no row, or nothing could be read

    @property
    def usable(self) -> bool:
        """Everything in the row may be used."""
        return self in (Freshness.FRESH, Freshness.CURRENT)


class Kind(enum.Enum):
    """How a column travels, whatever the driver: see query.py."""

    NUMBER = "number"
    INTEGER = "integer"
    TEXT = "text"
    TIME = "time"
    JSON = "json"


def _column(kind: Kind, slow: bool = False, meta: bool = False) -> Any:
    return dataclasses.field(default=None, metadata={"kind": kind, "slow": slow, "meta": meta})


def _meta(kind: Kind) -> Any:
    return _column(kind, meta=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """What every table says about its rows. These stay whatever the freshness is."""

    freshness: Freshness = Freshness.MISSING
    confidence: float | None = _meta(Kind.NUMBER)  # 0..1
    row_version: int | None = _meta(Kind.INTEGER)
    event_count: int | None = _meta(Kind.INTEGER)
    state_flags: int | None = _meta(Kind.INTEGER)
    as_of: datetime | None = _meta(Kind.TIME)  # everything committed up to then is in it
    computed_at: datetime | None = _meta(Kind.TIME)
    expires_at: datetime | None = _meta(Kind.TIME)
    valid_until: datetime | None = _meta(Kind.TIME)
    details: dict[str, Any] | None = _column(Kind.JSON)  # only read when the reader was asked for details

    @property
    def usable(self) -> bool:
        return self.freshness.usable

    @property
    def weight(self) -> float:
        """What to multiply with: the confidence, 0 where the row must not be used."""
        if self.freshness.usable or self.freshness is Freshness.STALE:
            return self.confidence or 0.0
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHealth(Component):
    memory_snapshot: dict[str, Any] | None = _column(Kind.JSON)
    avg_memory_age_hours: float | None = _column(Kind.NUMBER)
    retrieval_frequency_trend: str | None = _column(Kind.TEXT)  # increasing, stable, declining
    forgetting_risk_memories: list[dict[str, Any]] | None = _column(Kind.JSON)
    topic_relevance_drift: float | None = _column(Kind.NUMBER)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalityProfile(Component):
    dominant_traits: list[dict[str, Any]] | None = _column(Kind.JSON, slow=True)
    user_response_patterns: dict[str, Any] | None = _column(Kind.JSON, slow=True)
    adaptation_suggestions: list[dict[str, Any]] | None = _column(Kind.JSON, slow=True)
    trait_evolution_history: dict[str, Any] | None = _column(Kind.JSON, slow=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPatterns(Component):
    recent_topics: list[dict[str, Any]] | None = _column(Kind.JSON)
    avg_topic_duration_minutes: float | None = _column(Kind.NUMBER)
    context_switch_frequency: float | None = _column(Kind.NUMBER)  # an hour of conversation
    predicted_switch_likelihood: float | None = _column(Kind.NUMBER)  # 0..1
    topic_transition_graph: dict[str, Any] | None = _column(Kind.JSON)
    communication_style: dict[str, Any] | None = _column(Kind.JSON, slow=True)
    preferred_depth: dict[str, Any] | None = _column(Kind.JSON)
    emotional_engagement: dict[str, Any] | None = _column(Kind.JSON)
    optimal_response_length: dict[str, Any] | None = _column(Kind.JSON, slow=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBehavior(Component):
    forgetting_curve_params: dict[str, Any] | None = _column(Kind.JSON)
    high_retention_memories: list[dict[str, Any]] | None = _column(Kind.JSON)
    low_retention_memories: list[dict[str, Any]] | None = _column(Kind.JSON)
    recall_simulation_score: float | None = _column(Kind.NUMBER)
    consolidation: dict[str, Any] | None = _column(Kind.JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngagementOpportunities(Component):
    optimal_timing_hours: float | None = _column(Kind.NUMBER)
    receptivity_score: float | None = _column(Kind.NUMBER)  # 0..1, for ranking
    suggested_topics: list[dict[str, Any]] | None = _column(Kind.JSON)
    last_engagement_gap_hours: float | None = _column(Kind.NUMBER)
    proactive_success_rate: float | None = _column(Kind.NUMBER)
    next_contact_at: datetime | None = _column(Kind.TIME)
    last_user_message_at: datetime | None = _column(Kind.TIME)
    opportunities: list[dict[str, Any]] | None = _column(Kind.JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterPerformance(Component):
    engagement_score_avg: float | None = _column(Kind.NUMBER, slow=True)
    satisfaction_score_avg: float | None = _column(Kind.NUMBER, slow=True)
    coherence_score_avg: float | None = _column(Kind.NUMBER, slow=True)
    personality_consistency_index: float | None = _column(Kind.NUMBER, slow=True)
    quality_trend: str | None = _column(Kind.TEXT)  # improving, stable, declining
    recent_anomalies: list[dict[str, Any]] | None = _column(Kind.JSON)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the caller knows without the cache, for the places where the cache has nothing to say."""

    traits: Sequence[Mapping[str, Any]] = ()  # of the character definition: {"trait": name, ...}
    recent_user_words: Sequence[int] = ()  # words of the user's last messages, the newest last; five are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything the hot path reads about one user and one bot. There is always one: without the database it is all `missing`."""

    user_id: str
    bot_name: str
    window: int
    memory_health: MemoryHealth = MemoryHealth()
    personality: PersonalityProfile = PersonalityProfile()
    conversation: ConversationPatterns = ConversationPatterns()
    memory_behavior: MemoryBehavior = MemoryBehavior()
    engagement: EngagementOpportunities = EngagementOpportunities()
    performance: CharacterPerformance = CharacterPerformance()
    source: str = "fallback"  # database, memory (the in-process cache), fallback
    problem: str | None = None  # why it is a fallback
    elapsed_ms: float = 0.0
    defaults: Defaults = Defaults()

    @property
    def components(self) -> dict[str, Component]:
        """By the name of the table."""
        return {table: getattr(self, name) for name, (table, _, _) in COMPONENTS.items()}

    # What to do, with the fallbacks. Each of them asks the cache first and says what a caller without a cache would do otherwise.

    def traits(self) -> Sequence[Mapping[str, Any]]:
        """The traits to show, strongest first: those that the bot shows to this user, else the character definition's."""
        return self.personality.dominant_traits or self.defaults.traits

    def switch_likelihood(self) -> float | None:
        """How likely the next message opens another topic; None: no prediction, stay with the topic."""
        return self.conversation.predicted_switch_likelihood

    def response_words(self) -> tuple[int, int | None] | None:
        """(fewest, most) words of an answer: the best bucket, else up to twice the median of the user's last five messages; None:
        nothing is known. Most is None for "and more"."""
        best = self.conversation.optimal_response_length
        if best is not None and isinstance(best.get("range"), list) and len(best["range"]) == 2:
            low, high = best["range"]
            return int(low), None if high is None else int(high)
        words = list(self.defaults.recent_user_words)[-RECENT_MESSAGES:]
        if not words:
            return None
        return 1, max(1, round(2 * statistics.median(words)))

    def may_initiate(self, receptivity: float = 0.5, now: datetime | None = None) -> bool:
        """Whether the bot may write first: a good moment has come and the user is receptive. Without a usable row: never."""
        e = self.engagement
        if not e.usable or e.next_contact_at is None or e.receptivity_score is None:
            return False
        return e.next_contact_at <= (now or datetime.now(timezone.utc)) and e.receptivity_score >= receptivity


# Of the bundle: attribute -> (table, prefix of its columns in strategic_bundle(), type).
COMPONENTS: dict[str, tuple[str, str, type[Component]]] = {
    "memory_health": ("strategic_memory_health", "mh", MemoryHealth),
    "personality": ("strategic_personality_profiles", "pp", PersonalityProfile),
    "conversation": ("strategic_conversation_patterns", "cp", ConversationPatterns),
    "memory_behavior": ("strategic_memory_behavior", "mb", MemoryBehavior),
    "engagement": ("strategic_engagement_opportunities", "eo", EngagementOpportunities),
    "performance": ("strategic_character_performance", "pf", CharacterPerformance),
}
