"""pyresilience: one decorator with a configuration for each policy, in an order of its own; written for asyncio."""

from functools import partial
from typing import Any

from pyresilience import (
    BulkheadConfig,
    CacheConfig,
    FallbackConfig,
    RateLimiterConfig,
    RetryBudgetConfig,
    RetryConfig,
    TimeoutConfig,
    resilient,
)

from ..peers.pyresilience import plain
from . import Shared, Toolkit, terms

RETRYING: dict[str, Any] = {
    "retry": RetryConfig(
        max_attempts=terms.ATTEMPTS, delay=terms.FIRST_DELAY, max_delay=terms.LONGEST_DELAY, retry_on=(OSError,)
    )
}
TIMED: dict[str, Any] = {"timeout": TimeoutConfig(terms.LIMIT)}
BOUNDED: dict[str, Any] = {"bulkhead": BulkheadConfig(terms.AT_ONCE)}
LIMITED: dict[str, Any] = {"rate_limiter": RateLimiterConfig(terms.RATE_PER_SECOND)}
FALLING_BACK: dict[str, Any] = {"fallback": FallbackConfig(lambda error: None, (OSError,))}
CACHED: dict[str, Any] = {"cache": CacheConfig(terms.ROOM, terms.TTL)}
FULL: dict[str, Any] = {"cache": CacheConfig(terms.KEYS, terms.TTL)}
GUARDED: dict[str, Any] = {"circuit_breaker": plain(terms.FAILURES, terms.OPEN_FOR, terms.TRIALS).breaker}


def _shared(*settings: dict[str, Any], differs: str = "", trio: bool = True) -> Shared:
    joined = {name: config for each in settings for name, config in each.items()}
    return Shared(partial(resilient, **joined), differs, trio)


TOOLKIT = Toolkit(
    distribution="pyresilience",
    shared={
        terms.RETRY: _shared(RETRYING, differs="waits a tenth of the delay at least; asyncio only", trio=False),
        terms.RETRY_BUDGET: _shared(
            RETRYING, {"retry_budget": RetryBudgetConfig()}, differs="so many retries a second", trio=False
        ),
        terms.TIMEOUT: _shared(TIMED, differs="runs every call in a task of its own; asyncio only", trio=False),
        terms.BULKHEAD: _shared(BOUNDED, differs="works under trio as long as nobody waits"),
        terms.RATE: _shared(LIMITED, differs="works under trio as long as nobody waits"),
        terms.FALLBACK: _shared(FALLING_BACK),
        terms.CACHE_HIT: _shared(CACHED, differs="no stale results; asyncio only", trio=False),
        terms.CACHE_MISS: _shared(CACHED, differs="no stale results; asyncio only", trio=False),
        terms.CACHE_FULL: _shared(FULL, differs="no stale results; asyncio only", trio=False),
        terms.RETRY_BREAKER: _shared(RETRYING, GUARDED, trio=False),
        terms.RETRY_BREAKER_TIMEOUT: _shared(RETRYING, GUARDED, TIMED, trio=False),
        terms.CHAIN: _shared(
            FALLING_BACK,
            LIMITED,
            BOUNDED,
            RETRYING,
            GUARDED,
            TIMED,
            differs="in an order of its own: breaker, rate limit, bulkhead, retry with the breaker asked again, timeout",
            trio=False,
        ),
    },
)
