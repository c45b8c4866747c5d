"""Which share of the calls a dependency accepts, and how many are better not made: the arithmetic of adaptive throttling.

Law: a call is counted once its outcome is known. Memory is one bucket per slice of time, and every operation is O(1).
"""

from math import inf

from . import checks
from .windows import LastSeconds, SecondsMemory

_BUCKETS = 60  # a call leaves up to a sixtieth of the window early


class Acceptance:
    """The requests of the last seconds, and how many of them the dependency accepted.

    From "Handling Overload" in Site Reliability Engineering (Beyer, Jones, Petoff, Murphy: O'Reilly, 2016; equation 21-1).

    `requests` and `rejects` are also written and read by those who must be fast, as in `accept`: from reading to writing
    nothing is called. `rejects` is never below the number of those that are still in the window.
    """

    __slots__ = ("k", "memory", "rejects", "requests", "window")

    def __init__(self, k: float, window: float) -> None:
        allowed = "a finite number, 1 or more"
        self.k = checks.number("k", k, allowed)
        if not 1 <= self.k < inf:
            raise ValueError(f"k must be {allowed}, not {k!r}")
        self.window = checks.seconds("window", window)
        self.memory = SecondsMemory(LastSeconds(self.window, _BUCKETS))
        self.requests = 0
        self.rejects = 0

    def accept(self, now: float) -> None:
        """The dependency has accepted a request."""
        self.requests += 1
        if now >= self.memory.roll_at:
            self.rejects, _ = self.memory.take(self.requests, now, False)

    def reject(self, now: float) -> None:
        """The dependency has turned a request down, or it was not made at all."""
        self.requests += 1
        self.rejects, _ = self.memory.take(self.requests, now, True)

    def counts(self, now: float) -> tuple[int, int]:
        """The requests in the window, and how many of them were accepted."""
        self.memory.expire(self.requests, now)
        self.rejects, requests = self.memory.counts(self.requests)
        return requests, requests - self.rejects

    def probability(self, now: float) -> float:
        """With which probability the next request is better not made: max(0, (requests - k x accepts) / (requests + 1))."""
        requests, accepts = self.counts(now)
        return max(0.0, (requests - self.k * accepts) / (requests + 1))
