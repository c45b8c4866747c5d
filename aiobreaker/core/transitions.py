"""What the machine logs: transitions and forfeited trials, with what made them."""

from dataclasses import dataclass
from enum import StrEnum

from .eras import State
from .tallies import Reading


class Cause(StrEnum):
    """What made a transition."""

    TRIPPED = "tripped"
    HINTED = "hinted"
    DUE = "due"
    TRIAL_FAILED = "trial_failed"
    LEASE_EXPIRED = "lease_expired"
    INCONCLUSIVE = "inconclusive"
    RECOVERED = "recovered"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, with the conditions as they stood before it. `open_for` is given when it opens.

    With `shadow` nothing has changed: a circuit that only measures would have opened.
    """

    old: State
    new: State
    cause: Cause
    reason: str
    at: float
    readings: tuple[Reading, ...]
    open_for: float | None = None
    attempt: int = 0
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Forfeit:
    """Trials that held their slot longer than their lease, and have lost it."""

    trials: int
    at: float
