"""tenacity with `retry_when_refused` and `wait_when_refused`: when attempts are made, in virtual time, and what comes out."""

import re
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
    wait_fixed,
    wait_none,
)

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, RateLimit, RateLimitedError, State, Trials
from aiobreaker.errors import BulkheadFullError
from aiobreaker.integrations.tenacity import retry_when_refused, wait_when_refused
from aiobreaker.testing import ScriptedDependency

from .. import virtual
from ..conftest import anyio_backend as anyio_backend  # virtual time: nothing here needs a socket

Clock = Callable[[], float]
PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "retries.md"


def refused(retry_after: float | None, state: State = State.OPEN) -> CircuitOpenError:
    return CircuitOpenError("payments", state, "it was down", retry_after)


def exact(fallback: Any = wait_none()) -> wait_when_refused:  # noqa: B008 - it does not change
    return wait_when_refused(fallback, jitter=0)


def ended(error: BaseException | None = None, result: object = None) -> RetryCallState:
    """What tenacity tells of an attempt that ended so."""
    state = RetryCallState(tenacity.Retrying(), None, (), {})
    if error is None:
        state.set_result(result)
    else:
        state.set_exception((type(error), error, None))
    return state


# -- when attempts are made


async def test_an_open_circuit_is_asked_once_in_every_retry_after(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", trip=ConsecutiveFailures(1), open_for=32, clock=clock)
    dependency, began, times = ScriptedDependency(OSError("down")), clock(), list[float]()

    @retry(
        retry=retry_when_refused(retry_if_exception_type(OSError)),
        wait=exact(wait_exponential(multiplier=0.5, max=4)),
        stop=stop_after_attempt(8),
        reraise=True,
    )
    async def charge() -> None:
        times.append(clock() - began)
        await breaker.call(dependency)

    with pytest.raises(CircuitOpenError):
        await charge()
    # a failure, the fallback's wait, a refusal that says until when, and a trial at that very time, which fails, and so on
    assert times == [0, 0.5, 32, 34, 64, 68, 96, 100]
    assert len(dependency.calls) == 4
    assert breaker.snapshot().totals.refused == 4


async def test_it_succeeds_as_soon_as_the_circuit_lets_it(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=32, clock=clock)
    breaker.open()
    began = clock()
    async for attempt in AsyncRetrying(retry=retry_when_refused(), wait=exact(), stop=stop_after_attempt(2)):
        with attempt:
            assert await breaker.call(ScriptedDependency("paid")) == "paid"
    assert clock() - began == 32
    assert breaker.snapshot().totals.refused == 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    open_for=st.sampled_from([0.25, 2.0, 30.0]),
    jitter=st.sampled_from([0, 0.1, 0.9]),
    callers=st.integers(1, 12),
    trials=st.integers(1, 3),
)
@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_nobody_returns_before_the_time_that_a_refusal_named(
    backend: str, seed: int, open_for: float, jitter: float, callers: int, trials: int
) -> None:
    virtual.run(backend, crowd, seed, open_for, jitter, callers, trials)


async def crowd(seed: int, open_for: float, jitter: float, callers: int, trials: int) -> None:
    """Many callers of a dependency that is down for a minute."""
    clock, random = anyio.current_time, Random(seed)
    breaker = CircuitBreaker("payments", open_for=open_for, trials=trials, clock=clock, random=random.random)
    up_at, paid = clock() + 60, list[int]()
    condition = retry_when_refused(retry_if_exception_type(OSError))
    wait = wait_when_refused(wait_exponential(multiplier=0.1, max=5), jitter=jitter, random=random.random)

    async def dependency() -> None:
        await anyio.sleep(random.random() / 10)
        if clock() < up_at:
            raise OSError("down")

    async def caller(number: int) -> None:
        not_before = -inf
        await anyio.sleep(random.random() * 10)
        async for attempt in AsyncRetrying(retry=condition, wait=wait):
            with attempt:
                assert clock() >= not_before - 1e-9
                try:
                    await breaker.call(dependency)
                except CircuitOpenError as refusal:
                    hint = refusal.retry_after or inf  # which would be noticed
                    not_before = clock() + (hint if refusal.state is State.OPEN else min(1.0, hint))
                    raise
        paid.append(number)

    with anyio.fail_after(60 + 40 * open_for * (1 + jitter) + 60):
        async with anyio.create_task_group() as tasks:
            for number in range(callers):
                tasks.start_soon(caller, number)
    assert sorted(paid) == list(range(callers))
    assert breaker.snapshot().in_flight == 0


async def test_a_circuit_that_is_held_open_is_asked_once_in_a_second(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", clock=clock)
    breaker.force_open("maintenance")
    began, times = clock(), list[float]()
    async for attempt in AsyncRetrying(retry=retry_when_refused(), wait=exact(), stop=stop_after_attempt(4)):
        with attempt:
            times.append(clock() - began)
            if len(times) == 4:
                breaker.reset()
            await breaker.call(anyio.sleep, 0)
    assert times == [0, 1, 2, 3]


async def test_while_a_trial_is_deciding_the_wait_is_a_second_and_not_its_lease(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=4, trials=Trials(1, lease=300), clock=clock)
    breaker.open()
    await anyio.sleep(4)
    began = clock()

    @retry(retry=retry_when_refused(), wait=exact(), stop=stop_after_attempt(2))
    async def charge() -> float:
        await breaker.call(anyio.sleep, 0)
        return clock() - began

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, anyio.sleep, 0.5)  # the trial
        await anyio.sleep(0.25)
        assert await charge() == 1.25


async def test_a_rate_limit_is_waited_for_too(clock: Clock) -> None:
    limit, began = RateLimit(1, per=10, clock=clock), clock()

    @retry(retry=retry_when_refused(), wait=exact(), stop=stop_after_attempt(2))
    @limit
    async def charge() -> float:
        return clock() - began

    assert [await charge(), await charge()] == [0, 10]


async def test_results_are_the_fallbacks_matter(clock: Clock) -> None:
    breaker, began = CircuitBreaker("payments", clock=clock), clock()
    dependency = ScriptedDependency("not yet", "not yet", "paid")

    @retry(
        retry=retry_when_refused(retry_if_result(lambda answer: answer == "not yet")),
        wait=exact(wait_fixed(2)),
        stop=stop_after_attempt(3),
    )
    async def charge() -> str:
        answer: str = await breaker.call(dependency)
        return answer

    assert (await charge(), clock() - began) == ("paid", 4)


async def test_it_stands_beside_other_conditions(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=8, clock=clock)
    breaker.open()
    began = clock()

    async def unlucky(error: BaseException) -> bool:
        return isinstance(error, OSError)

    either = tenacity.asyncio.retry_any(retry_when_refused(), tenacity.asyncio.retry_if_exception(unlucky))
    retrying = AsyncRetrying(retry=either, wait=exact(wait_fixed(4)), stop=stop_after_attempt(4))
    assert await retrying(breaker.call, ScriptedDependency(OSError("down"), "paid")) == "paid"
    assert clock() - began == 16  # refused for 8, a trial that fails, 4 by the other condition's wait, refused for 4


# -- when it gives up


async def test_a_wait_that_would_be_too_long_is_given_up_at_once(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=64, clock=clock)
    breaker.open()
    began = clock()
    with pytest.raises(CircuitOpenError) as caught:  # not a RetryError, though `reraise` is not set
        await AsyncRetrying(retry=retry_when_refused(), wait=exact())(breaker.call, anyio.sleep, 0)
    assert clock() == began
    assert caught.value.retry_after == 64
    assert breaker.snapshot().totals.refused == 1


async def test_so_is_one_past_a_deadline_around_the_call(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=16, clock=clock)
    breaker.open()
    retrying, began = AsyncRetrying(retry=retry_when_refused(), wait=exact()), clock()
    with pytest.raises(CircuitOpenError), anyio.fail_after(16):
        await retrying(breaker.call, anyio.sleep, 0)
    assert clock() == began
    with anyio.fail_after(16.5):
        await retrying(breaker.call, anyio.sleep, 0)
    assert clock() - began == 16


async def test_the_last_attempt_is_tenacitys_to_tell(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", clock=clock)
    breaker.force_open()
    with pytest.raises(RetryError) as caught:
        await AsyncRetrying(retry=retry_when_refused(), wait=exact(), stop=stop_after_attempt(2))(breaker.call, anyio.sleep, 0)
    assert isinstance(caught.value.last_attempt.exception(), CircuitOpenError)


async def test_a_thread_without_an_event_loop_knows_no_deadline() -> None:
    assert await anyio.to_thread.run_sync(retry_when_refused(), ended(refused(8))) is True


def test_nor_does_code_outside_of_any_event_loop() -> None:
    assert retry_when_refused()(ended(refused(8))) is True


async def test_a_cancelled_wait_ends_at_once_and_holds_nothing(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=16, clock=clock)
    breaker.open()
    began = clock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(AsyncRetrying(retry=retry_when_refused(), wait=exact()), breaker.call, anyio.sleep, 0)
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert clock() - began == 2
    assert breaker.snapshot().in_flight == 0


async def test_a_cancelled_attempt_is_not_made_again(clock: Clock) -> None:
    breaker, attempts = CircuitBreaker("payments", clock=clock), list[int]()

    @retry(retry=retry_when_refused(retry_if_exception_type(Exception)), wait=exact())
    async def charge() -> None:
        attempts.append(1)
        await breaker.call(anyio.sleep_forever)

    with anyio.move_on_after(1) as scope:
        await charge()
    assert scope.cancelled_caught
    assert (attempts, breaker.snapshot().in_flight) == ([1], 0)


# -- what the two say


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (refused(12.5), 12.5),
        (refused(60), 60),
        (refused(60.5), None),
        (refused(None), 1),
        (refused(0), 1),
        (refused(30, State.HALF_OPEN), 1),
        (refused(0.25, State.HALF_OPEN), 0.25),
        (refused(None, State.FORCED_OPEN), 1),
        (RateLimitedError("api", retry_after=3), 3),
        (BulkheadFullError("database"), 1),
        (ExceptionGroup("two", [refused(3), refused(5)]), 5),
        (ExceptionGroup("two", [refused(3), ExceptionGroup("", [refused(61)])]), None),
        (ExceptionGroup("mixed", [refused(3), OSError("down")]), 4),
        (ExceptionGroup("mixed", [refused(5), OSError("down")]), 5),
        (ExceptionGroup("mixed", [refused(61), OSError("down")]), None),
        (ExceptionGroup("mixed", [refused(3), KeyError("sku")]), None),
        (OSError("down"), 4),
        (KeyError("sku"), None),
        (KeyboardInterrupt(), None),
    ],
    ids=repr,
)
def test_what_they_say(error: BaseException, seconds: float | None) -> None:
    state = ended(error)
    assert retry_when_refused(retry_if_exception(hopeful))(state) is (seconds is not None)
    if seconds is not None:
        assert exact(wait_fixed(4))(state) == seconds


def hopeful(error: BaseException) -> bool:
    """All errors in it are OSErrors, refusals apart."""
    if isinstance(error, BaseExceptionGroup):
        return all(isinstance(each, CircuitOpenError) or hopeful(each) for each in error.exceptions)
    return isinstance(error, OSError)


def test_by_default_only_refusals_are_retried() -> None:
    condition = retry_when_refused()
    assert condition(ended(refused(3)))
    assert not condition(ended(OSError("down")))
    assert not condition(ended(result="paid"))


def test_strategies_may_be_functions_of_the_state() -> None:
    state = ended(OSError("down"))
    assert retry_when_refused(lambda _: True)(state)
    assert wait_when_refused(lambda _: 3)(state) == 3


def test_waits_can_be_added_up() -> None:
    assert (exact() + wait_fixed(2))(ended(refused(3))) == 5


@given(hint=st.floats(0.001, 1e6), draw=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_lengthens_a_wait_and_never_shortens_it(hint: float, draw: float, jitter: float) -> None:
    wait = wait_when_refused(jitter=jitter, random=lambda: draw)(ended(refused(hint)))
    assert hint <= wait <= hint * (1 + jitter)


def test_by_default_waits_are_spread_over_a_tenth_of_themselves() -> None:
    wait = wait_when_refused()
    waits = {wait(ended(refused(100))) for _ in range(200)}
    assert len(waits) > 100
    assert 100 <= min(waits) < 102 < 108 < max(waits) < 110


# -- settings, and the page


async def asynchronous(state: object) -> bool:
    return True


class AsynchronousStrategy:
    async def __call__(self, state: object) -> bool:
        return True


@pytest.mark.parametrize("kind", [retry_when_refused, wait_when_refused])
@pytest.mark.parametrize(
    ("fallback", "words"),
    [
        (7, "fallback must be a strategy of tenacity's, or a function of the retry state, not 7"),
        (wait_fixed, "fallback must be a strategy of tenacity's, or a function of the retry state, not <class"),
        (asynchronous, "fallback must not be async"),
        (AsynchronousStrategy(), "fallback must not be async"),
    ],
    ids=["number", "class", "function", "object"],
)
def test_fallbacks_that_cannot_be(kind: Any, fallback: object, words: str) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        kind(fallback)


@pytest.mark.parametrize(
    ("kind", "settings", "error", "words"),
    [
        (retry_when_refused, {"max_wait": -1}, ValueError, "max_wait must be a number of seconds"),
        (retry_when_refused, {"max_wait": nan}, ValueError, "max_wait must be a number of seconds"),
        (retry_when_refused, {"max_wait": None}, TypeError, "max_wait must be a number of seconds"),
        (wait_when_refused, {"jitter": 1}, ValueError, "jitter must be a fraction"),
        (wait_when_refused, {"jitter": -0.1}, ValueError, "jitter must be a fraction"),
        (wait_when_refused, {"jitter": "full"}, TypeError, "jitter must be a fraction"),
        (wait_when_refused, {"random": 4}, TypeError, "random must be a function"),
    ],
    ids=lambda value: None if isinstance(value, dict | type) else str(value),
)
def test_settings_that_cannot_be(kind: Any, settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kind(**settings)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_the_pages_example_runs(backend: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (example,) = [example for example in examples if "from tenacity import" in example]
    exec(compile(example.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"), "example", "exec"), {})
