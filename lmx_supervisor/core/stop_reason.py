"""On whose account models are unloaded."""

from enum import StrEnum


class StopReason(StrEnum):
    """On whose account a model is unloaded."""

    MANUAL = "manual"
    LRU = "lru"
    """Another model needed its memory."""
    TTL = "ttl"
    """It was idle for too long."""
    AUTOTUNE_SWAP = "autotune_candidate_swap"
    """Other settings are tried."""
    AUTOTUNE_CLEANUP = "autotune_cleanup"
    """Settings were tried, and it was not loaded before."""
