"""What the model of a circuit notes down: calls, and everything that happens, in the words of the core where it has any."""

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from aiobreaker.core.eras import State
from aiobreaker.core.outcomes import Outcome
from aiobreaker.core.transitions import Forfeit, Transition


@dataclass(eq=False)
class Call:
    """An admitted call: when it began (None: nobody looked at the clock), and in which era.

    It is `known` to be in flight if a condition asked for that when it began.
    """

    began: float | None
    era: int
    state: State
    known: bool = False
    lease_until: float = inf
    forfeited: bool = False

    def took(self, now: float) -> float:
        return 0.0 if self.began is None else now - self.began


class Refused(NamedTuple):
    """A call that was not admitted."""

    state: State
    retry_after: float | None
    era: int
    at: float


class Ended(NamedTuple):
    """A call that was admitted and has ended. `elapsed` is None if nobody looked at the clock when it began."""

    outcome: Outcome
    elapsed: float | None
    slow: bool
    trial: bool
    late: bool
    era: int
    at: float


class Reconfigured(NamedTuple):
    """Other rules."""

    at: float


class Hold:
    """Somebody keeps the circuit open."""


class Found(NamedTuple):
    """What the first hold has found."""

    state: State
    until: float
    attempt: int


Entry = Transition | Forfeit | Refused | Ended | Reconfigured
