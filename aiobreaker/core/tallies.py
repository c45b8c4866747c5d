"""What one era has counted for each condition.

A tally never hears of an ordinary success. It says beforehand, as its horizon, at which call number a success could be the
one that meets the condition; until then, and until a memory rolls, a success is a counter and a comparison. A horizon that is
not ahead of the newest call means: met. It also says, as its `patience`, the how-manieth failure from now on could be the one;
failures before that one are handed over later, all at once.
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Generic, TypeVar

from .conditions import Condition, ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate
from .windows import LastCalls, Memory, carry_over, remember

C = TypeVar("C", FailureCount, FailureRate, SlowCallRate)


@dataclass(frozen=True, slots=True)
class Reading:
    """One condition as it stands: `count` bad ones among `calls`. `met` means that it trips."""

    condition: Condition
    count: int
    calls: int
    met: bool

    @property
    def rate(self) -> float | None:
        """`count` as a fraction of `calls`; None without calls."""
        return self.count / self.calls if self.calls else None

    @property
    def enough_calls(self) -> bool:
        """Whether there are as many calls as the condition wants before it judges."""
        return self.calls >= getattr(self.condition, "minimum_calls", 0)

    def __str__(self) -> str:
        if isinstance(self.condition, ConsecutiveFailures):
            return f"{self.count} failures in a row (trips at {self.condition.failures})"
        if isinstance(self.condition, FailureCount):
            return f"{self.count} failures in {self.condition.window} (trips at {self.condition.failures})"
        slow = isinstance(self.condition, SlowCallRate) and self.condition.slower_than
        verb = f"took {slow:g} s or longer" if slow else "failed"
        share = "" if self.rate is None else f", {self.rate:.1%}"
        limit = f"trips at {self.condition.rate:.1%} of at least {self.condition.minimum_calls} calls"
        return f"{self.count} of {self.calls} calls in {self.condition.window} {verb}{share} ({limit})"


Noted = dict[int, float]
"""Failures that nobody has counted yet: the number of each call, and how many seconds it took."""


class StreakTally:
    """Failures in a row: the number of the last one, and how many there were without a success between."""

    __slots__ = ("_last", "_length", "condition")

    memory: ClassVar[Memory] = remember(LastCalls(1))  # an idle one: a streak needs none

    def __init__(self, condition: ConsecutiveFailures, origin: int) -> None:
        self.condition = condition
        self._last = origin
        self._length = 0

    def record(self, number: int, now: float, failed: bool, elapsed: float) -> float:
        """Call `number` has ended. The answer is the new horizon."""
        if not failed:
            return inf
        self._length = self._length + 1 if number == self._last + 1 else 1
        self._last = number
        return number if self._length >= self.condition.failures else inf

    def expire(self, number: int, now: float) -> None:
        """Time changes nothing here."""

    def hand_over(self, failures: Noted) -> None:
        """Calls that have failed since the last one that was told."""
        for number, elapsed in failures.items():
            self.record(number, 0.0, True, elapsed)

    def patience(self, number: int) -> int:
        """At which failure from now on the condition could be met."""
        return self.condition.failures - self._length

    def horizon(self, number: int) -> float:
        """No success can be the one that trips."""
        return number if self._length >= self.condition.failures and number == self._last else inf

    def reading(self, number: int, now: float) -> Reading:
        """How it stands after call `number`."""
        length = self._length if number == self._last else 0
        return Reading(self.condition, length, number, length >= self.condition.failures)

    def go_on_from(self, old: "Tally", number: int, now: float) -> None:
        """Take over what a tally of the same kind knows."""
        if isinstance(old, StreakTally):
            self._last, self._length = old._last, old._length


class _WindowTally(Generic[C]):
    """Marked calls within a window."""

    __slots__ = ("condition", "memory")

    def __init__(self, condition: C, origin: int) -> None:
        self.condition: C = condition
        self.memory = remember(condition.window, origin)

    def expire(self, number: int, now: float) -> None:
        """Forget what has left the window at `now`, after call `number`."""
        self.memory.expire(number, now)

    def hand_over(self, failures: Noted) -> None:
        """Calls that have failed since the last one that was told."""
        self.memory.take_marks(failures)

    def go_on_from(self, old: "Tally", number: int, now: float) -> None:
        """Take over what a tally of the same kind knows."""
        if isinstance(old, _WindowTally) and isinstance(old, SlowTally) == isinstance(self, SlowTally):
            self.memory = carry_over(old.memory, self.condition.window, number, now)


class CountTally(_WindowTally[FailureCount]):
    """So many failures within a window."""

    __slots__ = ()

    def record(self, number: int, now: float, failed: bool, elapsed: float) -> float:
        """Call `number` has ended. The answer is the new horizon."""
        marks, _ = self.memory.take(number, now, failed)
        return number if marks >= self.condition.failures else inf

    def patience(self, number: int) -> int:
        """At which failure from now on the condition could be met."""
        marks, _ = self.memory.counts(number)
        return self.condition.failures - marks

    def horizon(self, number: int) -> float:
        """No success can be the one that trips."""
        marks, _ = self.memory.counts(number)
        return number if marks >= self.condition.failures else inf

    def reading(self, number: int, now: float) -> Reading:
        """How it stands after call `number`."""
        self.memory.expire(number, now)
        marks, calls = self.memory.counts(number)
        return Reading(self.condition, marks, calls, marks >= self.condition.failures)


class RateTally(_WindowTally[FailureRate]):
    """The fraction of the calls in a window that failed."""

    __slots__ = ()

    def record(self, number: int, now: float, failed: bool, elapsed: float) -> float:
        """Call `number` has ended. The answer is the new horizon."""
        marks, calls = self.memory.take(number, now, failed)
        return _horizon(self.condition, number, marks, calls) if marks else inf

    def patience(self, number: int) -> int:
        """At which failure from now on the condition could be met, or brought within reach of a success."""
        return _patience(self.condition, *self.memory.counts(number))

    def horizon(self, number: int) -> float:
        """The call number at which a success could trip."""
        return _horizon(self.condition, number, *self.memory.counts(number))

    def reading(self, number: int, now: float) -> Reading:
        """How it stands after call `number`."""
        self.memory.expire(number, now)
        return _rate_reading(self.condition, *self.memory.counts(number))


class SlowTally(_WindowTally[SlowCallRate]):
    """The fraction of the calls in a window that were slow.

    `unshared` counts calls that only this tally has recorded: those cancelled after they had become slow. `aged` counts
    those that are slow already and still running.
    """

    __slots__ = ("aged", "unshared")

    def __init__(self, condition: SlowCallRate, origin: int) -> None:
        super().__init__(condition, origin)
        self.aged = 0
        self.unshared = 0

    def record(self, number: int, now: float, failed: bool, elapsed: float) -> float:
        """Call `number` has ended. The answer is the new horizon."""
        aged, slow = self.aged, elapsed >= self.condition.slower_than
        marks, calls = self.memory.take(number + self.unshared, now, slow)
        return _horizon(self.condition, number, marks + aged, calls + aged) if marks or aged else inf

    def expire(self, number: int, now: float) -> None:
        """Forget what has left the window at `now`, after call `number`."""
        self.memory.expire(number + self.unshared, now)

    def hand_over(self, failures: Noted) -> None:
        """Calls that have failed since the last one that was told."""
        slow = [number + self.unshared for number, elapsed in failures.items() if elapsed >= self.condition.slower_than]
        if slow:
            self.memory.take_marks(slow)

    def patience(self, number: int) -> int:
        """At which failure from now on, all of them slow, the condition could be met, or brought within reach of a success."""
        marks, calls = self.memory.counts(number + self.unshared)
        return _patience(self.condition, marks + self.aged, calls + self.aged)

    def record_unshared(self, number: int, now: float, elapsed: float) -> None:
        """A call has ended that has no number: it was cancelled, and counts only if it was slow."""
        if elapsed >= self.condition.slower_than:
            self.unshared += 1
            self.memory.take(number + self.unshared, now, True)

    def horizon(self, number: int) -> float:
        """The call number at which a success could trip."""
        marks, calls = self.memory.counts(number + self.unshared)
        return _horizon(self.condition, number, marks + self.aged, calls + self.aged)

    def reading(self, number: int, now: float) -> Reading:
        """How it stands after call `number`."""
        number += self.unshared
        self.memory.expire(number, now)
        marks, calls = self.memory.counts(number)
        return _rate_reading(self.condition, marks + self.aged, calls + self.aged)

    def go_on_from(self, old: "Tally", number: int, now: float) -> None:
        """Take over what a tally of the same kind knows."""
        if isinstance(old, SlowTally):
            self.unshared = old.unshared
            super().go_on_from(old, number + self.unshared, now)


Tally = StreakTally | CountTally | RateTally | SlowTally


def tally(condition: Condition, origin: int = 0) -> Tally:
    """An empty tally for this condition; calls up to number `origin` do not count."""
    if isinstance(condition, ConsecutiveFailures):
        return StreakTally(condition, origin)
    if isinstance(condition, FailureCount):
        return CountTally(condition, origin)
    if isinstance(condition, FailureRate):
        return RateTally(condition, origin)
    return SlowTally(condition, origin)


def _horizon(condition: FailureRate | SlowCallRate, number: int, marks: int, calls: int) -> float:
    """The call number at which a success could meet a rate. Once there are enough calls a success only lowers it."""
    minimum = condition.minimum_calls
    if calls >= minimum:
        return number if marks / calls >= condition.rate else inf
    return number + minimum - calls if marks / minimum >= condition.rate else inf


def _patience(condition: FailureRate | SlowCallRate, marks: int, calls: int) -> int:
    """At which marked call from now on a rate could be met, or a success meet it: never too late, at most one too early."""
    return int(condition.rate * max(condition.minimum_calls, calls)) - marks


def _rate_reading(condition: FailureRate | SlowCallRate, count: int, calls: int) -> Reading:
    return Reading(condition, count, calls, calls >= condition.minimum_calls and count / calls >= condition.rate)
