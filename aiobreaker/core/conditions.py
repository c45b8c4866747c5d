"""When to trip, as the user says it: frozen settings, joined by `|`. What an era counts for them is in `tallies.py`."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from . import checks
from .windows import LastCalls, Window


class _Joinable:
    __slots__ = ()

    def __or__(self, other: object) -> "AnyOf":
        return any_of(self, other)


@dataclass(frozen=True, slots=True)
class ConsecutiveFailures(_Joinable):
    """Trip at `failures` failures in a row. A success in between starts the count again."""

    failures: int = 5

    def __post_init__(self) -> None:
        checks.count("failures", self.failures)

    def __str__(self) -> str:
        return f"{self.failures} failures in a row"


@dataclass(frozen=True, slots=True)
class FailureCount(_Joinable):
    """Trip at `failures` failures within the window, whatever the number of successes."""

    failures: int
    window: Window

    def __post_init__(self) -> None:
        _check_window(self.window)
        most = self.window.size if isinstance(self.window, LastCalls) else None
        checks.count("failures", self.failures, at_most=most)

    def __str__(self) -> str:
        return f"{self.failures} failures in {self.window}"


@dataclass(frozen=True, slots=True)
class FailureRate(_Joinable):
    """Trip when the fraction `rate` or more of the calls in the window failed, of at least `minimum_calls` calls."""

    rate: float
    window: Window
    minimum_calls: int = 10

    def __post_init__(self) -> None:
        checks.fraction("rate", self.rate)
        _check_window(self.window)
        _check_minimum(self.minimum_calls, self.window)

    def __str__(self) -> str:
        return f"{self.rate:.1%} of at least {self.minimum_calls} calls failed, in {self.window}"


@dataclass(frozen=True, slots=True)
class SlowCallRate(_Joinable):
    """Trip when the fraction `rate` or more of the calls took `slower_than` seconds or longer, of at least `minimum_calls`.

    With `count_in_flight=True` a call that is still running after `slower_than` seconds counts as slow at once, for as long
    as it runs, so that a dependency that never answers opens the circuit without one completed call.
    """

    rate: float
    slower_than: float
    window: Window
    minimum_calls: int = 10
    count_in_flight: bool = False

    def __post_init__(self) -> None:
        checks.fraction("rate", self.rate)
        checks.seconds("slower_than", self.slower_than)
        _check_window(self.window)
        _check_minimum(self.minimum_calls, self.window)
        if not isinstance(self.count_in_flight, bool):
            raise TypeError(f"count_in_flight must be True or False, not {self.count_in_flight!r}")

    def __str__(self) -> str:
        took = f"took {self.slower_than:g} s or longer"
        return f"{self.rate:.1%} of at least {self.minimum_calls} calls {took}, in {self.window}"


Condition = ConsecutiveFailures | FailureCount | FailureRate | SlowCallRate


@dataclass(frozen=True, slots=True)
class AnyOf(_Joinable):
    """Several conditions, any one of which opens the circuit. Made by `|`."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return ", or ".join(map(str, self.conditions))


def any_of(*parts: object) -> AnyOf:
    """One flat disjunction of conditions; TypeError for what is no condition."""
    if len(parts) == 1 and isinstance(parts[0], AnyOf):
        return parts[0]
    flat: list[Condition] = []
    for part in parts:
        if isinstance(part, AnyOf):
            flat.extend(part.conditions)
        elif isinstance(part, Condition):
            flat.append(part)
        else:
            raise TypeError(f"trip must be a condition, or conditions joined by |, not {part!r}")
    return AnyOf(tuple(flat))


def slow_after(conditions: Iterable[Condition]) -> float:
    """From how many seconds on a call is slow to any of them; infinity when none asks."""
    return min((float(each.slower_than) for each in conditions if isinstance(each, SlowCallRate)), default=inf)


def _check_window(window: object) -> None:
    if not isinstance(window, Window):
        raise TypeError(f"window must be LastCalls(...) or LastSeconds(...), not {window!r}")


def _check_minimum(minimum_calls: int, window: Window) -> None:
    most = window.size if isinstance(window, LastCalls) else None
    checks.count("minimum_calls", minimum_calls, at_most=most)
