"""How many extra calls (retries, hedges) the last seconds allow: a fraction of the first calls, and some in any case.

Law: of the last `window` seconds it never allows more than the rule does, right to the call and to the moment.
"""

from collections import deque
from dataclasses import dataclass
from math import floor
from sys import float_info

from . import checks
from .windows import LastSeconds, SecondsMemory

_FORGIVEN = 1e-6  # of a call, so that a ratio of 0.29 allows 29 of 100 and not 28.999999999999996
_ENOUGH = 1e15  # calls: nobody makes more, and infinity cannot be rounded down


@dataclass(slots=True)
class _Slice:
    start: float
    end: float
    extra_calls: int


class Allowance:
    """The calls of the last `window` seconds. Whoever makes a first call adds 1 to `first_calls`, after `roll` if that is due.

    Both kinds are kept in slices of a tenth of the window. A slice of first calls is forgotten `window` seconds after its first
    one, a slice of extra calls `window` seconds after its last one: so what is inexact is never so in favour of extra calls.
    """

    __slots__ = ("_extra_calls", "_ratio", "_reserve", "_slices", "_window", "first_calls", "firsts")

    def __init__(self, ratio: float, minimum_per_second: float, window: float) -> None:
        self._window = LastSeconds(checks.seconds("window", window))
        self._ratio = _from_0("ratio", ratio, "a fraction from 0 to 1", at_most=1.0)
        floor_rate = _from_0("minimum_per_second", minimum_per_second, "a finite number of calls, 0 or more")
        self._reserve = min(floor_rate * window, _ENOUGH)
        if not ratio and not minimum_per_second:
            raise ValueError("ratio and minimum_per_second must not both be 0, or nothing would ever be allowed")
        self.first_calls = 0
        self.firsts = SecondsMemory(self._window)
        self._extra_calls = 0
        self._slices: deque[_Slice] = deque()

    def roll(self, now: float) -> None:
        """The next first call is due at `firsts.roll_at` or later: make room for it."""
        self.firsts.take(self.first_calls + 1, now, False)

    def counts(self, now: float) -> tuple[int, int]:
        """How many first and how many extra calls count at this moment."""
        self.firsts.expire(self.first_calls, now)
        while self._slices and now >= self._slices[0].end + self._window.span:
            self._extra_calls -= self._slices.popleft().extra_calls
        return self.firsts.counts(self.first_calls)[1], self._extra_calls

    def balance(self, now: float) -> int:
        """How many extra calls are allowed at this moment."""
        first_calls, extra_calls = self.counts(now)
        return max(0, floor(self._ratio * first_calls + self._reserve + _FORGIVEN) - extra_calls)

    def withdraw(self, now: float) -> bool:
        """Count an extra call, if one is allowed."""
        if not self.balance(now):
            return False
        newest = self._slices[-1] if self._slices else None
        if newest is None or now >= newest.start + self._window.width:
            self._slices.append(_Slice(now, now, 1))
        else:
            newest.end = now
            newest.extra_calls += 1
        self._extra_calls += 1
        return True


def _from_0(argument: str, value: object, allowed: str, at_most: float = float_info.max) -> float:
    number = checks.number(argument, value, allowed)
    if not 0 <= number <= at_most:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return number
