"""What policies tell, as frozen values. They have a room of their own because few need them at import."""

from dataclasses import dataclass

from ..errors import FailureSummary
from ..events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRefused(Event):
    """A policy (a bulkhead, a rate limit, an adaptive limit, a throttle) has refused a call; its function did not run."""

    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying(Event):
    """Attempt number `attempt` (from 1) has failed; the next one follows after `delay` seconds."""

    attempt: int
    delay: float
    failure: FailureSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp(Event):
    """A retry has ended without success after so many attempts and `elapsed` seconds; `reason` says what ended it.

    `elapsed` is None for a call that began before anybody asked for events.
    """

    attempts: int
    elapsed: float | None
    reason: str
    failure: FailureSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut(Event):
    """A call was cancelled because it took longer than `after` seconds."""

    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedged(Event):
    """Attempt number `attempt` (from 2) was started because the others took longer than `delay` seconds.

    With a delay of 0 it may also be that one of them had failed with an error after which the next is started at once.
    """

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeWon(Event):
    """Of several attempts that ran at once, number `attempt` was the first to succeed."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """Source number `source` (from 1) has answered in place of an error."""

    source: int
    failure: FailureSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged(Event):
    """An adaptive limit allows another number of calls at once from now on."""

    old: int
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleServed(Event):
    """A cache has answered with a result of `age` seconds, because the dependency failed."""

    age: float
    failure: FailureSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderReplaced(Event):
    """The caller whose call was shared was cancelled; one of the `followers` makes it again for the others."""

    followers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosMade(Event):
    """A chaos policy has disturbed a call: `what` says how."""

    what: str
