"""A circuit breaker, and what belongs around it, for asyncio and trio."""

from .breaker import CircuitBreaker, Snapshot
from .core.conditions import AnyOf, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from .core.eras import State, Totals, Trials
from .core.outcomes import Outcome
from .core.schedules import Exponential, Fixed, Steps
from .core.tallies import Reading
from .core.transitions import Cause
from .core.windows import LastCalls, LastSeconds
from .errors import AiobreakerError, CircuitOpenError, FailureSummary, RefusedError
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
from .registry import BreakerRegistry
from .streams import GuardedStream

__all__ = [
    "AiobreakerError",
    "AnyOf",
    "BreakerRegistry",
    "CallEvent",
    "CallFinished",
    "CallRefused",
    "Cause",
    "CircuitBreaker",
    "CircuitOpenError",
    "ConsecutiveFailures",
    "Event",
    "EventStream",
    "EventsLost",
    "Exponential",
    "FailureCount",
    "FailureRate",
    "FailureSummary",
    "Fixed",
    "Guard",
    "GuardedStream",
    "HeldPermit",
    "LastCalls",
    "LastGood",
    "LastSeconds",
    "Outcome",
    "Reading",
    "Reconfigured",
    "RefusedError",
    "RegistryGrown",
    "SlowCallRate",
    "Snapshot",
    "State",
    "StateChanged",
    "Steps",
    "Totals",
    "Trials",
    "TrialsForfeited",
    "WouldOpen",
]
