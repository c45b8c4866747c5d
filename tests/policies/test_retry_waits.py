"""How long a retry waits, what it waits for, and when it does not wait at all."""

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from math import inf, nan
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Exponential, RefusedError, State
from aiobreaker.core.backoff import Decorrelated
from aiobreaker.errors import RateLimitedError
from aiobreaker.policies.retry import Retry
from aiobreaker.testing import Answer, ScriptedDependency

Clock = Callable[[], float]


class Busy(Exception):
    """A server's answer with a hint."""

    def __init__(self, retry_after: Any = None) -> None:
        self.hint = retry_after


def hint(subject: Any) -> Any:
    return subject.hint


def gave_up(retry: Retry) -> dict[str, int]:
    return {str(reason): times for reason, times in retry.snapshot().gave_up.items() if times}


async def took(retry: Retry, *script: Any) -> float:
    """How long the call takes, however it ends."""
    began = anyio.current_time()
    with suppress(OSError, Busy, RefusedError, ExceptionGroup):
        await retry.call(ScriptedDependency(*script))
    return anyio.current_time() - began


# -- the back-off


async def test_the_default_draws_from_0_to_a_limit_that_doubles_up_to_30_s() -> None:
    assert await took(Retry(OSError, attempts=3, random=lambda: 1.0), OSError()) == pytest.approx(0.1 + 0.2)
    assert await took(Retry(OSError, attempts=12, random=lambda: 0.5), OSError()) == pytest.approx((51.1 + 30 + 30) / 2)
    assert await took(Retry(OSError, random=lambda: 0.0), OSError()) == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backoff": 2}, [2, 2, 2, 2]),
        ({"backoff": [1, 5]}, [1, 5]),
        ({"backoff": Exponential(1, factor=3, maximum=20), "random": lambda: 0.5}, [0.5, 1.5, 4.5, 10]),
        ({"backoff": Exponential(1, factor=3, maximum=20), "jitter": 0}, [1, 3, 9, 20]),
        ({"backoff": Decorrelated(1, maximum=20), "random": lambda: 0.5}, [2, 3.5, 5.75, 9.125]),
    ],
)
async def test_each_wait_is_as_long_as_the_backoff_says(settings: dict[str, Any], expected: list[float], clock: Clock) -> None:
    waits: list[float] = []
    last = anyio.current_time()

    async def fetch() -> None:
        nonlocal last
        waits.append(anyio.current_time() - last)
        last = anyio.current_time()
        raise OSError

    retry = Retry(OSError, attempts=5, **settings)
    for _ in range(2):
        with pytest.raises(OSError):
            await retry.call(fetch)
        assert waits == pytest.approx([0, *expected])
        waits.clear()
    assert gave_up(retry) == ({"backoff": 2} if len(expected) < 4 else {"attempts": 2})


async def test_chance_can_be_seeded() -> None:
    first, second, other = [await took(Retry(OSError, random=random.Random(seed).random), OSError()) for seed in (5, 5, 6)]
    assert first == pytest.approx(second)
    assert first != pytest.approx(other)


async def test_an_iterator_that_could_be_used_once_is_refused() -> None:
    with pytest.raises(TypeError, match="the first call would use it up"):
        Retry(OSError, backoff=iter([1, 2]))


# -- hints


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, 1),
        (0, 1),
        (-5, 1),
        (0.5, 1),
        (7, 7),
        (7.5, 7.5),
        ("9", 9),
        (" 9 ", 9),
        ("soon", 1),
        (nan, 1),
        (inf, 1),
        (True, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_result", [False, True])
async def test_a_hint_is_the_least_wait(given: Any, expected: float, as_result: bool) -> None:
    retry = Retry(Busy, attempts=2, backoff=1, retry_after=hint, retry_if=lambda result: isinstance(result, Busy))
    step = Answer(Busy(given)) if not as_result else None

    async def fetch() -> Any:
        if step is not None:
            raise step.value  # type: ignore[misc]
        return Busy(given)

    began = anyio.current_time()
    try:
        await retry.call(fetch)
    except Busy:
        assert not as_result
    assert anyio.current_time() - began == expected


async def test_a_hint_may_be_a_date() -> None:
    retry = Retry(Busy, attempts=2, backoff=1, retry_after=hint)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < await took(retry, Busy(date)) <= 101
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=100), usegmt=True)
    assert await took(retry, Busy(past)) == 1


async def test_a_hint_is_believed_up_to_a_limit() -> None:
    assert await took(Retry(Busy, attempts=2, retry_after=hint), Busy(9999)) == 300
    assert await took(Retry(Busy, attempts=2, retry_after=hint, max_retry_after=20), Busy("9999")) == 20
    assert await took(Retry(Busy, attempts=2, backoff=50, retry_after=hint, max_retry_after=20), Busy(9999)) == 50


async def test_of_a_group_the_longest_hint_counts() -> None:
    retry = Retry(Busy, attempts=2, backoff=1, retry_after=hint)
    assert await took(retry, ExceptionGroup("", [Busy(5), ExceptionGroup("", [Busy("8"), Busy()])])) == 8


async def test_the_hint_is_not_asked_for_where_nothing_is_retried() -> None:
    asked: list[Any] = []
    retry = Retry(OSError, retry_after=asked.append, wait_when_refused=True, backoff=1, attempts=2)
    with pytest.raises(ValueError):
        await retry.call(ScriptedDependency(ValueError()))
    assert await took(retry, RateLimitedError("limit")) == 1
    assert await retry.call(ScriptedDependency(5)) == 5
    assert asked == []


# -- time


async def test_no_attempt_begins_after_the_total_time(clock: Clock) -> None:
    retry, dependency = Retry(OSError, attempts=inf, total_time=10, backoff=3, clock=clock), ScriptedDependency(OSError())
    began = anyio.current_time()
    with pytest.raises(OSError):
        await retry.call(dependency)
    assert len(dependency.calls) == 4, "at 0, 3, 6 and 9 s"
    assert anyio.current_time() - began == 9, "it does not wait in vain"
    assert gave_up(retry) == {"total_time": 1}


async def test_the_total_time_counts_what_attempts_take_and_its_end_is_still_in_it(clock: Clock) -> None:
    dependency = ScriptedDependency(Answer(OSError(), after=4))
    with pytest.raises(OSError):
        await Retry(OSError, attempts=inf, total_time=10, backoff=1, clock=clock).call(dependency)
    assert len(dependency.calls) == 3, "at 0, 5 and 10 s"


async def test_the_total_time_does_not_end_an_attempt(clock: Clock) -> None:
    retry = Retry(OSError, total_time=1, clock=clock)
    assert await retry.call(ScriptedDependency(Answer("late", after=100))) == "late"


async def test_every_call_has_the_whole_total_time(clock: Clock) -> None:
    retry = Retry(OSError, attempts=inf, total_time=10, backoff=6, clock=clock)
    fetch = retry(ScriptedDependency.__call__)
    for _ in range(3):
        dependency = ScriptedDependency(OSError())
        with pytest.raises(OSError):
            await fetch(dependency)
        assert len(dependency.calls) == 2


async def test_it_gives_up_rather_than_wait_past_a_deadline() -> None:
    retry, dependency = Retry(OSError, attempts=inf, backoff=3), ScriptedDependency(OSError())
    began = anyio.current_time()
    with anyio.fail_after(9):
        with pytest.raises(OSError):
            await retry.call(dependency)
    assert len(dependency.calls) == 3, "at 0, 3 and 6 s; at 9 s it could do nothing"
    assert anyio.current_time() - began == 6
    assert gave_up(retry) == {"deadline": 1}


async def test_it_waits_up_to_just_before_a_deadline() -> None:
    retry, dependency = Retry(OSError, backoff=3), ScriptedDependency(OSError(), "fine")
    with anyio.fail_after(3.001):
        assert await retry.call(dependency) == "fine"


async def test_a_deadline_ends_an_attempt_and_that_is_not_retried() -> None:
    retry, dependency = Retry(Exception, attempts=5), ScriptedDependency(Answer("late", after=10))
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await retry.call(dependency)
    assert len(dependency.calls) == 1
    assert gave_up(retry) == {}


# -- refusals


@pytest.mark.parametrize("on", [Exception, (OSError, RefusedError), lambda error: True])
@pytest.mark.parametrize(
    "refusal",
    [CircuitOpenError("open"), RateLimitedError("limit", "", 5.0), ExceptionGroup("", [OSError(), CircuitOpenError("open")])],
    ids=["circuit", "limit", "group"],
)
async def test_a_refusal_is_never_retried(on: Any, refusal: Exception) -> None:
    retry, dependency = Retry(on, attempts=5), ScriptedDependency(OSError(), refusal, "fine")
    with pytest.raises(type(refusal)) as raised:
        await retry.call(dependency)
    assert raised.value is refusal
    assert len(dependency.calls) == 2


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (CircuitOpenError("c", State.OPEN, "", 7.0, None), 7),
        (CircuitOpenError("c", State.OPEN, "", 1.0, None), 1),
        (CircuitOpenError("c", State.OPEN, "", 400.0, None), 400),
        (CircuitOpenError("c", State.OPEN, "", 0.0, None), 2),
        (CircuitOpenError("c", State.FORCED_OPEN), 2),
        (CircuitOpenError("c", State.OPEN, "", inf, None), 2),
        (RateLimitedError("limit", "", 7.0), 7),
        (RateLimitedError("limit"), 2),
        (RefusedError(), 2),
        (ExceptionGroup("", [RateLimitedError("limit", "", 1.0), CircuitOpenError("c", State.OPEN, "", 0.5, None)]), 1),
        (ExceptionGroup("", [RateLimitedError("limit", "", 1.0), Busy(0.5)]), 2),
        (ExceptionGroup("", [RateLimitedError("limit", "", 1.0), Busy(6)]), 6),
        (ExceptionGroup("", [RateLimitedError("limit", "", 7.0), Busy(6)]), 7),
    ],
)
async def test_who_waits_when_refused_waits_as_long_as_the_refusal_says(refusal: Exception, expected: float) -> None:
    retry = Retry(Busy, attempts=2, backoff=2, wait_when_refused=True, retry_after=hint)
    assert await took(retry, refusal) == expected
    assert gave_up(retry) == {"attempts": 1}


async def test_it_waits_until_the_breaker_inside_lets_a_trial_through(clock: Clock) -> None:
    breaker = CircuitBreaker("inside", trip=ConsecutiveFailures(1), open_for=20, clock=clock)
    retry = Retry(OSError, attempts=3, backoff=1, wait_when_refused=True)
    dependency = ScriptedDependency(OSError(), "fine")
    began = anyio.current_time()
    assert await (retry | breaker).call(dependency) == "fine"
    assert anyio.current_time() - began == 20
    assert (len(dependency.calls), retry.snapshot().retries, breaker.state) == (2, 2, State.CLOSED)


async def test_a_refused_attempt_is_an_attempt(clock: Clock) -> None:
    breaker = CircuitBreaker("inside", trip=ConsecutiveFailures(1), open_for=20, clock=clock)
    retry = Retry(OSError, attempts=2, backoff=1, wait_when_refused=True)
    dependency = ScriptedDependency(OSError(), "fine")
    with pytest.raises(CircuitOpenError):
        await (retry | breaker).call(dependency)
    assert len(dependency.calls) == 1


async def test_it_does_not_wait_for_what_comes_too_late(clock: Clock) -> None:
    refusal = RateLimitedError("limit", "", 10.0)
    with anyio.fail_after(10), pytest.raises(RateLimitedError):
        await Retry(OSError, wait_when_refused=True).call(ScriptedDependency(refusal, "fine"))
    retry = Retry(OSError, wait_when_refused=True, total_time=9.9, clock=clock)
    assert await took(retry, refusal, "fine") == 0
    assert gave_up(retry) == {"total_time": 1}
