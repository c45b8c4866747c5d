"""How long a circuit stays open: fixed, in steps, or growing, each by the number of openings in a row before this one."""

from dataclasses import dataclass
from functools import lru_cache

from . import checks


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same number of seconds every time."""

    duration: float

    def __post_init__(self) -> None:
        checks.seconds("duration", self.duration)

    def seconds(self, attempt: int) -> float:
        """The open time of opening number `attempt`, counted from 0."""
        return self.duration


@dataclass(frozen=True, slots=True, init=False)
class Steps:
    """So many seconds the first time, so many the second; the last one repeats."""

    durations: tuple[float, ...]

    def __init__(self, *durations: float) -> None:
        if not durations:
            raise ValueError("Steps needs at least one duration, a finite number of seconds above 0")
        for duration in durations:
            checks.seconds("durations", duration)
        object.__setattr__(self, "durations", durations)

    def seconds(self, attempt: int) -> float:
        """The open time of opening number `attempt`, counted from 0."""
        return self.durations[min(attempt, len(self.durations) - 1)]


@dataclass(frozen=True, slots=True)
class Exponential:
    """`first` seconds, then `factor` times as long after each failed trial, at most `maximum` seconds."""

    first: float
    factor: float = 2.0
    maximum: float = 300.0

    def __post_init__(self) -> None:
        checks.seconds("first", self.first)
        if checks.seconds("factor", self.factor) < 1:
            raise ValueError(f"factor must be a finite number, 1 or more, not {self.factor!r}")
        if checks.seconds("maximum", self.maximum) < self.first:
            raise ValueError(f"maximum must be at least first ({self.first!r} s), not {self.maximum!r}")

    def seconds(self, attempt: int) -> float:
        """The open time of opening number `attempt`, counted from 0."""
        try:
            return min(self.first * self.factor**attempt, self.maximum)
        except OverflowError:
            return self.maximum


Schedule = Fixed | Steps | Exponential


def schedule(open_for: object) -> Schedule:
    """The schedule that the setting `open_for` means: a number of seconds, or a schedule as it is."""
    if isinstance(open_for, Fixed | Steps | Exponential):
        return open_for
    return _fixed(checks.seconds("open_for", open_for))


@lru_cache(maxsize=64)
def _fixed(duration: float) -> Fixed:
    """The same object for the same duration: there may be many breakers."""
    return Fixed(duration)


def jittered(duration: float, spread: float, draw: float) -> float:
    """The duration, moved by up to `spread` of itself either way; `draw` is a random number in [0, 1)."""
    return duration * (1 + spread * (2 * draw - 1))
