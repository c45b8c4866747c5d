"""The settings of one breaker, checked at once and put into the form that the core goes by."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from math import isfinite
from typing import Any, TypedDict

from .core import checks
from .core.circuit import Rules
from .core.conditions import AnyOf, Condition, SlowCallRate, any_of
from .core.eras import Trials
from .core.outcomes import ErrorRule, Judge, ResultRule
from .core.schedules import Fixed, Schedule, schedule
from .core.windows import LastSeconds
from .errors import RefusedError

Trip = Condition | AnyOf
Probe = Callable[[], Awaitable[object]]
Hint = Callable[[Any], float | str | None]


class Shape(Enum):
    """What a guard has to do for each call under these settings. The fast guards are made for one shape each."""

    PLAIN = auto()  # count
    TIMED = auto()  # read the clock afterwards
    SLOW = auto()  # read the clock before and after
    IN_FLIGHT = auto()  # and remember who is running
    JUDGED = auto()  # and look at the result


class Changes(TypedDict, total=False):
    """The settings that can be changed while a breaker is in use."""

    trip: Trip
    open_for: float | Schedule
    jitter: float | None
    trials: int | Trials
    failure_on: ErrorRule
    ignore: ErrorRule
    failure_if: ResultRule | None
    retry_after: Hint | None
    max_retry_after: float
    probe: Probe | None
    max_waiters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See `CircuitBreaker` for what each of them means."""

    trip: Trip
    open_for: float | Schedule
    jitter: float | None
    trials: int | Trials
    failure_on: ErrorRule
    ignore: ErrorRule
    failure_if: ResultRule | None
    retry_after: Hint | None
    max_retry_after: float
    probe: Probe | None
    max_waiters: int
    rules: Rules = field(init=False, repr=False, compare=False)
    judge: Judge = field(init=False, repr=False, compare=False)
    shape: Shape = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        trials = self.trials if isinstance(self.trials, Trials) else _trials(checks.count("trials", self.trials))
        open_for = schedule(self.open_for)
        usual_jitter = 0.0 if isinstance(open_for, Fixed) else 0.1
        jitter = usual_jitter if self.jitter is None else checks.spread("jitter", self.jitter)
        rules = Rules(any_of(self.trip).conditions, open_for, jitter, trials)
        for argument in ("retry_after", "probe"):
            function = getattr(self, argument)
            if function is not None and not callable(function):
                raise TypeError(f"{argument} must be a function or None, not {function!r}")
        if self.probe is not None and trials.count != 1:
            raise ValueError(f"trials must be 1 when a probe decides, not {trials.count!r}")
        checks.seconds("max_retry_after", self.max_retry_after)
        checks.count("max_waiters", self.max_waiters)
        object.__setattr__(self, "rules", rules)
        usual = self.failure_on is Exception and self.ignore == () and self.failure_if is None
        judge = _USUAL_JUDGE if usual else Judge(self.failure_on, _with_refusals(self.ignore), self.failure_if)
        object.__setattr__(self, "judge", judge)
        object.__setattr__(self, "shape", self._shape(rules))

    def _shape(self, rules: Rules) -> Shape:
        if self.failure_if is not None or self.retry_after is not None:
            return Shape.JUDGED
        slow = [condition for condition in rules.conditions if isinstance(condition, SlowCallRate)]
        if any(condition.count_in_flight for condition in slow):
            return Shape.IN_FLIGHT
        if slow:
            return Shape.SLOW
        timed = any(isinstance(getattr(condition, "window", None), LastSeconds) for condition in rules.conditions)
        return Shape.TIMED if timed else Shape.PLAIN

    def hint(self, subject: object) -> float | None:
        """For how many seconds a result or exception asks to be left alone, at most `max_retry_after`."""
        if self.retry_after is None:
            return None
        delay = hinted_delay(self.retry_after(subject), time.time())
        return min(delay, self.max_retry_after) if delay is not None and delay > 0 else None


def _with_refusals(ignore: ErrorRule) -> ErrorRule:
    """A refusal by another guard further in says nothing about the dependency."""
    if isinstance(ignore, type):
        return (ignore, RefusedError)
    if isinstance(ignore, tuple):
        return (*ignore, RefusedError)
    rule = ignore
    return (lambda error: isinstance(error, RefusedError) or rule(error)) if callable(rule) else rule


_USUAL_JUDGE = Judge(Exception, RefusedError, None)


@lru_cache(maxsize=64)
def _trials(count: int) -> Trials:
    """The same object for the same number: there may be many breakers."""
    return Trials(count)


def hinted_delay(value: object, wall_clock: float) -> float | None:
    """Seconds out of a number, or out of the text of a Retry-After header (RFC 9110, section 10.2.3)."""
    if isinstance(value, str):
        digits = value.strip()  # float() takes less for white space
        if digits.isdecimal():
            return float(digits)
        from datetime import UTC  # these take as long to import as all the rest, and few need them
        from email.utils import parsedate_to_datetime

        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - wall_clock
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)
