"""What happened, as frozen values. Numbers rise by breaker; `at` is the breaker's clock, `time` the wall clock (seconds)."""

from dataclasses import dataclass

from .core.eras import State
from .core.outcomes import Outcome
from .core.tallies import Reading
from .core.transitions import Cause
from .errors import FailureSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Anything that a guard tells its observers: `name` is whose, `seq` rises by one from event to event of one guard."""

    name: str
    seq: int
    at: float
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """A transition, with the conditions as they stood before it.

    `open_for` (seconds) and `attempt` (how many openings in a row came before) are given when the new state is OPEN.
    """

    old: State
    new: State
    cause: Cause
    reason: str
    readings: tuple[Reading, ...]
    open_for: float | None
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WouldOpen(Event):
    """The breaker only measures; otherwise it would have opened, for `open_for` seconds."""

    cause: Cause
    reason: str
    readings: tuple[Reading, ...]
    open_for: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsForfeited(Event):
    """Trials that ran longer than their lease have lost their slot and count as failed."""

    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured(Event):
    """The breaker goes by other settings from now on; `changed` names them."""

    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsLost(Event):
    """So many events, all before this one, are gone for this reader, who was too slow.

    In a registry's stream they may be of several breakers: there `name` is empty, and `seq` says nothing.
    """

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryGrown(Event):
    """A registry keeps `size` breakers, more than its `max_size`, because it found none that may go.

    Told when that begins, and again each time that the number has doubled. It is of no single breaker: `name` is empty,
    `seq` counts the registry's own events, and `at` is the registry's clock.
    """

    size: int
    max_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent(Event):
    """Something about one call. Only for those who ask for calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(CallEvent):
    """An admitted call has ended, after `elapsed` seconds (None for a call that began before anybody asked for calls).

    `late` means that it came too late to count: its era was over, or its lease.
    """

    outcome: Outcome
    elapsed: float | None
    slow: bool
    trial: bool
    late: bool
    failure: FailureSummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefused(CallEvent):
    """A call was refused; its function did not run."""

    state: State
    reason: str
    retry_after: float | None
