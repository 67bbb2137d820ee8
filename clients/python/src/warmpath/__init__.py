"""Reads Warmpath's strategic cache on the hot path: one query, a deadline, honest freshness, an invalidated in-process cache."""
from .aio import AsyncStrategicReader
from .breaker import CircuitBreaker
from .cache import Announcement, BundleCache
from .core import Options, ReadError
from .metrics import CacheSample
from .model import (
    Bundle,
    CharacterPerformance,
    Component,
    ConversationPatterns,
    Defaults,
    EngagementOpportunities,
    Freshness,
    MemoryBehavior,
    MemoryHealth,
    PersonalityProfile,
)
from .reader import StrategicReader
from .requests import (
    async_forget,
    async_invalidate,
    async_recompute,
    async_touch,
    forget,
    invalidate,
    recompute,
    touch,
)

__all__ = [
    "Announcement",
    "AsyncStrategicReader",
    "Bundle",
    "BundleCache",
    "CacheSample",
    "CharacterPerformance",
    "CircuitBreaker",
    "Component",
    "ConversationPatterns",
    "Defaults",
    "EngagementOpportunities",
    "Freshness",
    "MemoryBehavior",
    "MemoryHealth",
    "Options",
    "PersonalityProfile",
    "ReadError",
    "StrategicReader",
    "async_forget",
    "async_invalidate",
    "async_recompute",
    "async_touch",
    "forget",
    "invalidate",
    "recompute",
    "touch",
]
__version__ = "0.1.0"
