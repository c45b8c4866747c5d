"""A circuit breaker, and what belongs around it, for asyncio and trio."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from .breaker import CircuitBreaker, Snapshot
from .core.conditions import AnyOf, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from .core.eras import State, Totals, Trials
from .core.outcomes import Outcome
from .core.schedules import Exponential, Fixed, Steps
from .core.tallies import Reading
from .core.transitions import Cause
from .core.windows import LastCalls, LastSeconds
from .errors import (
    AiobreakerError,
    BulkheadFullError,
    CircuitOpenError,
    FailureSummary,
    LimitReachedError,
    RateLimitedError,
    RefusedError,
    ShortageError,
    ThrottledError,
)
from .events import (
    CallEvent,
    CallFinished,
    CallRefused,
    Event,
    EventsLost,
    Reconfigured,
    RegistryGrown,
    StateChanged,
    TrialsForfeited,
    WouldOpen,
)
from .fallbacks import LastGood
from .guards import Guard, HeldPermit
from .hub import EventStream
from .policy import NamedPolicy, Pipeline, Policy
from .streams import GuardedStream

if _TYPE_CHECKING:  # loaded when it is first asked for, see `__getattr__`
    from .attempts import Attempt
    from .budget import BudgetSnapshot, RetryBudget
    from .core.backoff import Decorrelated
    from .core.limits import AIMD, Gradient2, Vegas
    from .core.quantiles import Quantile
    from .deadlines import remaining
    from .policies.adaptive_limit import AdaptiveLimit, AdaptiveLimitSnapshot
    from .policies.bulkhead import Bulkhead, BulkheadSnapshot
    from .policies.cache import Cache, CacheSnapshot
    from .policies.coalesce import Coalesce, CoalesceSnapshot
    from .policies.deadline import Deadline, DeadlineSnapshot
    from .policies.events import (
        FellBack,
        GaveUp,
        GuardRefused,
        Hedged,
        HedgeWon,
        LeaderReplaced,
        LimitChanged,
        Retrying,
        StaleServed,
        TimedOut,
    )
    from .policies.fallback import Fallback, FallbackSnapshot
    from .policies.hedge import Hedge, HedgeSnapshot
    from .policies.rate_limit import RateLimit, RateLimitSnapshot
    from .policies.retry import Retry, RetrySnapshot
    from .policies.throttle import Throttle, ThrottleSnapshot
    from .policies.timeout import Timeout, TimeoutSnapshot
    from .registry import BreakerRegistry

__all__ = [
    "AIMD",
    "AdaptiveLimit",
    "AdaptiveLimitSnapshot",
    "AiobreakerError",
    "AnyOf",
    "Attempt",
    "BreakerRegistry",
    "BudgetSnapshot",
    "Bulkhead",
    "BulkheadFullError",
    "BulkheadSnapshot",
    "Cache",
    "CacheSnapshot",
    "CallEvent",
    "CallFinished",
    "CallRefused",
    "Cause",
    "CircuitBreaker",
    "CircuitOpenError",
    "Coalesce",
    "CoalesceSnapshot",
    "ConsecutiveFailures",
    "Deadline",
    "DeadlineSnapshot",
    "Decorrelated",
    "Event",
    "EventStream",
    "EventsLost",
    "Exponential",
    "FailureCount",
    "FailureRate",
    "FailureSummary",
    "Fallback",
    "FallbackSnapshot",
    "FellBack",
    "Fixed",
    "GaveUp",
    "Gradient2",
    "Guard",
    "GuardRefused",
    "GuardedStream",
    "Hedge",
    "HedgeSnapshot",
    "HedgeWon",
    "Hedged",
    "HeldPermit",
    "LastCalls",
    "LastGood",
    "LastSeconds",
    "LeaderReplaced",
    "LimitChanged",
    "LimitReachedError",
    "NamedPolicy",
    "Outcome",
    "Pipeline",
    "Policy",
    "Quantile",
    "RateLimit",
    "RateLimitSnapshot",
    "RateLimitedError",
    "Reading",
    "Reconfigured",
    "RefusedError",
    "RegistryGrown",
    "Retry",
    "RetryBudget",
    "RetrySnapshot",
    "Retrying",
    "ShortageError",
    "SlowCallRate",
    "Snapshot",
    "StaleServed",
    "State",
    "StateChanged",
    "Steps",
    "Throttle",
    "ThrottleSnapshot",
    "ThrottledError",
    "TimedOut",
    "Timeout",
    "TimeoutSnapshot",
    "Totals",
    "Trials",
    "TrialsForfeited",
    "Vegas",
    "WouldOpen",
    "remaining",
]

_LATER = {
    "Attempt": "attempts",
    "BudgetSnapshot": "budget",
    "RetryBudget": "budget",
    "Decorrelated": "core.backoff",
    "AIMD": "core.limits",
    "Gradient2": "core.limits",
    "Vegas": "core.limits",
    "Quantile": "core.quantiles",
    "remaining": "deadlines",
    "AdaptiveLimit": "policies.adaptive_limit",
    "AdaptiveLimitSnapshot": "policies.adaptive_limit",
    "Bulkhead": "policies.bulkhead",
    "BulkheadSnapshot": "policies.bulkhead",
    "Cache": "policies.cache",
    "CacheSnapshot": "policies.cache",
    "Coalesce": "policies.coalesce",
    "CoalesceSnapshot": "policies.coalesce",
    "Deadline": "policies.deadline",
    "DeadlineSnapshot": "policies.deadline",
    "FellBack": "policies.events",
    "GaveUp": "policies.events",
    "GuardRefused": "policies.events",
    "HedgeWon": "policies.events",
    "Hedged": "policies.events",
    "LeaderReplaced": "policies.events",
    "LimitChanged": "policies.events",
    "Retrying": "policies.events",
    "StaleServed": "policies.events",
    "TimedOut": "policies.events",
    "Fallback": "policies.fallback",
    "FallbackSnapshot": "policies.fallback",
    "Hedge": "policies.hedge",
    "HedgeSnapshot": "policies.hedge",
    "RateLimit": "policies.rate_limit",
    "RateLimitSnapshot": "policies.rate_limit",
    "Retry": "policies.retry",
    "RetrySnapshot": "policies.retry",
    "Throttle": "policies.throttle",
    "ThrottleSnapshot": "policies.throttle",
    "Timeout": "policies.timeout",
    "TimeoutSnapshot": "policies.timeout",
    "BreakerRegistry": "registry",
}


def __getattr__(name: str) -> object:
    """Load what not everybody needs when it is first asked for: it would take longer to import than all the rest."""
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing: object = getattr(import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
