"""Every setting that cannot be is refused at once, by an error that names it, its value, and what is allowed."""

from math import inf, nan
from typing import Any

import pytest

from aiobreaker import (
    CircuitBreaker,
    ConsecutiveFailures,
    Exponential,
    FailureCount,
    FailureRate,
    Fixed,
    LastCalls,
    LastGood,
    LastSeconds,
    SlowCallRate,
    Steps,
    Trials,
)
from aiobreaker.core.conditions import any_of
from aiobreaker.testing import Answer, ManualClock

CALLS = LastCalls(10)
SECONDS = [0, 0.0, -1, -0.5, nan, inf, -inf, True, "3", None, 1j]
FRACTIONS = [0, 0.0, -0.1, 1.01, nan, inf, True, "0.5", None]
COUNTS = [0, -1, 1.5, nan, inf, True, "3", None]
WINDOWS = [10, "last 10", None, True, LastCalls]


def cases(make: Any, argument: str, values: list[Any], **others: Any) -> list[Any]:
    return [
        pytest.param(make, {**others, argument: value}, argument, value, id=f"{make.__name__}({argument}={value!r})")
        for value in values
    ]


def breaker(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker("name", **settings)


ALL = [
    *cases(LastCalls, "size", COUNTS),
    *cases(LastSeconds, "span", SECONDS),
    *cases(LastSeconds, "buckets", COUNTS, span=5),
    *cases(ConsecutiveFailures, "failures", COUNTS),
    *cases(FailureCount, "failures", [*COUNTS, 11], window=CALLS),
    *cases(FailureCount, "window", WINDOWS, failures=3),
    *cases(FailureRate, "rate", FRACTIONS, window=CALLS),
    *cases(FailureRate, "window", WINDOWS, rate=0.5),
    *cases(FailureRate, "minimum_calls", [*COUNTS, 11], rate=0.5, window=CALLS),
    *cases(SlowCallRate, "rate", FRACTIONS, slower_than=1, window=CALLS),
    *cases(SlowCallRate, "slower_than", SECONDS, rate=0.5, window=CALLS),
    *cases(SlowCallRate, "window", WINDOWS, rate=0.5, slower_than=1),
    *cases(SlowCallRate, "minimum_calls", [*COUNTS, 11], rate=0.5, slower_than=1, window=CALLS),
    *cases(SlowCallRate, "count_in_flight", [0, 1, "yes", None], rate=0.5, slower_than=1, window=CALLS),
    *cases(Trials, "count", COUNTS),
    *cases(Trials, "concurrent", [*COUNTS, 4], count=3),
    *cases(Trials, "required", [0, -1, 4, 1.5, True, "1"], count=3),
    *cases(Trials, "lease", [value for value in SECONDS if value is not None]),
    *cases(Trials, "max_inconclusive", [value for value in COUNTS if value is not None]),
    *cases(Fixed, "duration", SECONDS),
    *cases(Exponential, "first", SECONDS),
    *cases(Exponential, "factor", [*SECONDS, 0.9], first=1),
    *cases(Exponential, "maximum", [*SECONDS, 0.5], first=1),
    *cases(breaker, "trip", [5, 0.5, None, True, "never", ConsecutiveFailures]),
    *cases(breaker, "open_for", [*SECONDS, [1, 2]]),
    *cases(breaker, "jitter", [-0.1, 1, 1.5, nan, inf, True, "0.1"]),
    *cases(breaker, "trials", COUNTS),
    *cases(breaker, "failure_on", [5, "OSError", None, (OSError, 5), (OSError, str), int]),
    *cases(breaker, "ignore", [5, "OSError", None, (OSError, 5), int]),
    *cases(breaker, "failure_if", [5, "500", True]),
    *cases(breaker, "retry_after", [5, "10", True]),
    *cases(breaker, "max_retry_after", SECONDS),
    *cases(breaker, "probe", [5, "ping", True]),
    *cases(breaker, "max_waiters", COUNTS),
    *cases(breaker, "clock", [5, None]),
    *cases(breaker, "random", [5, None]),
    *cases(CircuitBreaker, "name", ["", 5, None]),
    *cases(LastGood, "max_age", [0, -1, nan, True, "3"]),
    *cases(LastGood, "max_size", COUNTS),
    *cases(Answer, "after", [-1, nan, True, "3"]),
    *cases(ManualClock, "now", [nan, True, "3"]),
]


@pytest.mark.parametrize(("make", "settings", "argument", "value"), ALL)
def test_a_setting_that_cannot_be_is_named(make: Any, settings: dict[str, Any], argument: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        make(**settings)
    message = str(refused.value)
    assert argument in message
    odd = next((each for each in value if each is not OSError), value) if isinstance(value, tuple) else value
    assert repr(odd) in message or value == ""
    assert " must " in message


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"trip": True}, TypeError),
        ({"open_for": "30"}, TypeError),
        ({"open_for": 0}, ValueError),
        ({"trials": 0}, ValueError),
        ({"trials": True}, TypeError),
        ({"max_waiters": 1.0}, TypeError),
    ],
)
def test_a_wrong_type_is_a_type_error_and_a_wrong_value_a_value_error(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        breaker(**settings)


def test_a_probe_asks_once() -> None:
    async def probe() -> None: ...

    with pytest.raises(ValueError, match="trials must be 1 when a probe decides, not 3"):
        breaker(probe=probe, trials=3)


def test_schedules_of_nothing() -> None:
    with pytest.raises(ValueError, match="Steps needs at least one duration"):
        Steps()
    with pytest.raises(ValueError, match="durations must be a finite number of seconds above 0, not 0"):
        Steps(1, 0)


@pytest.mark.parametrize("other", [5, None, "slow", any])
def test_only_conditions_can_be_joined(other: Any) -> None:
    with pytest.raises(TypeError, match=r"trip must be a condition, or conditions joined by \|"):
        ConsecutiveFailures(5) | other


def test_joined_conditions_are_flat_and_read_as_a_sentence() -> None:
    failures = FailureCount(3, LastSeconds(60)) | FailureRate(0.5, CALLS)
    slow = SlowCallRate(0.8, 2, CALLS)
    assert any_of(failures | slow) == any_of(*failures.conditions, slow)
    assert slow | failures == any_of(slow, *failures.conditions)
    assert str(ConsecutiveFailures(5) | failures | slow) == (
        "5 failures in a row, or 3 failures in the last 60 seconds, "
        "or 50.0% of at least 10 calls failed, in the last 10 calls, "
        "or 80.0% of at least 10 calls took 2 s or longer, in the last 10 calls"
    )


def test_what_is_allowed_is_allowed() -> None:
    breaker(
        trip=FailureRate(1, LastSeconds(0.5, buckets=1), minimum_calls=10**6),
        open_for=Exponential(5, 1, 5),
        jitter=0,
        trials=Trials(3, 3, 1, 0.1, 1),
        failure_on=lambda error: True,
        ignore=OSError,
        failure_if=lambda result: True,
        retry_after=lambda answer: None,
        max_retry_after=1,
        max_waiters=1,
    )
