"""When to try again: which errors are worth it, after how many seconds, and what stands against it.

Law: nothing here remembers a call; what goes on from attempt to attempt is an iterator that belongs to one call.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from math import inf
from typing import Literal

from . import checks
from .outcomes import ErrorRule, Types, _leaves, _split
from .schedules import Exponential, Fixed, Steps, jittered

Reason = Literal["attempts", "backoff", "total_time", "deadline", "budget"]
REASONS: dict[Reason, str] = {
    "attempts": "as many attempts were made as are allowed",
    "backoff": "the back-off has come to its end",
    "total_time": "the next attempt would begin after the total time",
    "deadline": "the next attempt would begin past the deadline",
    "budget": "the retry budget is used up",
}
"""What ends the attempts before a success, in words."""


class Retryable:
    """The rules by which a retry tells errors that are worth another attempt. A group is worth it if all of its leaves are."""

    __slots__ = ("_never", "_rule", "_types")

    def __init__(self, on: ErrorRule, *, always: Types = (), never: Types = ()) -> None:
        types, self._rule = _split("on", on)
        self._types = types + always
        self._never = never

    def __call__(self, error: Exception) -> bool:
        """Whether the error is worth another attempt."""
        return all(map(self._leaf, leaves(error)))

    def _leaf(self, error: BaseException) -> bool:
        if isinstance(error, self._never) or not isinstance(error, Exception):
            return False
        return isinstance(error, self._types) or (self._rule is not None and bool(self._rule(error)))


def leaves(error: BaseException) -> Iterable[BaseException]:
    """The error, or all errors in the group."""
    return _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


@dataclass(frozen=True, slots=True)
class Decorrelated:
    """Each delay is drawn from `first` to 3 times the one before it, and is at most `maximum` (seconds).

    Source: "decorrelated jitter" in Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first: float
    maximum: float = 30.0

    def __post_init__(self) -> None:
        checks.seconds("first", self.first)
        if checks.seconds("maximum", self.maximum) < self.first:
            raise ValueError(f"maximum must be at least first ({self.first!r} s), not {self.maximum!r}")

    def after(self, previous: float, draw: float) -> float:
        """The delay that follows the previous one; `draw` is a random number in [0, 1)."""
        return min(self.maximum, self.first + draw * (3 * previous - self.first))


Schedule = Fixed | Steps | Exponential | Decorrelated
Delays = float | Schedule | Iterable[float] | Callable[[], Iterable[float]]
Jitter = float | Literal["full"] | None

_DELAYS = (
    "a number of seconds, Exponential, Decorrelated, Fixed or Steps, an iterable of seconds that can be gone through again, "
    "or a function without arguments that makes one"
)


class Backoff:
    """The setting of that name, checked: for each call an iterator of seconds to wait before the next attempt."""

    __slots__ = ("_full", "_source", "_spread")

    def __init__(self, backoff: Delays, jitter: Jitter) -> None:
        self._source = _source(backoff)
        if jitter is not None and isinstance(backoff, Decorrelated):
            raise ValueError(f"jitter must be None for Decorrelated, which draws its delays anyhow, not {jitter!r}")
        if isinstance(jitter, str) and jitter != "full":
            raise ValueError(f"jitter must be 'full', None, or a fraction, 0 or more and below 1, not {jitter!r}")
        full = isinstance(backoff, Exponential) if jitter is None else jitter == "full"
        self._full = full
        self._spread = 0.0 if full or jitter is None else checks.spread("jitter", jitter)

    def delays(self, random: Callable[[], float]) -> Iterator[float]:
        """The delays of one call; `random` gives numbers in [0, 1)."""
        source = self._source
        if isinstance(source, Decorrelated):
            delay = source.first
            while True:
                yield (delay := source.after(delay, random()))
        for seconds in source() if callable(source) else map(source.seconds, count()):
            delay = _delay(seconds)
            if self._full:
                yield delay * random()
            else:
                yield jittered(delay, self._spread, random()) if self._spread else delay


def _source(backoff: Delays) -> Schedule | Callable[[], Iterable[float]]:
    if isinstance(backoff, Schedule):
        return backoff
    if isinstance(backoff, int | float):
        seconds = _delay(backoff)
        return lambda: repeat(seconds)
    if isinstance(backoff, Iterator):
        raise TypeError(f"backoff must be {_DELAYS}, not {backoff!r}: the first call would use it up")
    if isinstance(backoff, Sequence) and not isinstance(backoff, str | bytes):
        fixed = tuple(map(_delay, backoff))
        if not fixed:
            raise ValueError(f"backoff must have at least one delay, not {backoff!r}")
        return lambda: fixed
    if isinstance(backoff, Iterable) and not isinstance(backoff, str | bytes | type):
        return lambda: backoff
    if callable(backoff) and not isinstance(backoff, type):
        return backoff
    raise TypeError(f"backoff must be {_DELAYS}, not {backoff!r}")


def _delay(value: object) -> float:
    allowed = "finite numbers of seconds, 0 or more"
    seconds = checks.number("backoff", value, allowed)
    if not 0 <= seconds < inf:
        raise ValueError(f"backoff must be {allowed}, not {value!r}")
    return seconds


def obstacle(*, delay: float, elapsed: float, total_time: float, left: float) -> Reason | None:
    """What time has against another attempt after `delay` seconds, if anything.

    `elapsed` seconds after the first attempt began, and with `left` seconds until the nearest deadline. An attempt that would
    begin exactly at the end of the total time is made; one that would begin at the deadline is not: it could not do anything.
    """
    if elapsed + delay > total_time:
        return "total_time"
    return "deadline" if delay >= left else None
