"""stamina with `wait_when_refused`: when attempts are made, in virtual time, and what comes out in the end."""

import datetime as dt
import re
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, RateLimit, RateLimitedError, State, Trials
from aiobreaker.errors import BulkheadFullError
from aiobreaker.integrations.stamina import BackoffHook, wait_when_refused
from aiobreaker.testing import ManualClock, ScriptedDependency

from .. import virtual
from ..conftest import anyio_backend as anyio_backend  # virtual time: nothing here needs a socket

Clock = Callable[[], float]
PAGE = Path(__file__).parents[2] / "docs" / "integrations" / "retries.md"


def refused(retry_after: float | None, state: State = State.OPEN) -> CircuitOpenError:
    return CircuitOpenError("payments", state, "it was down", retry_after)


def exact(on: Any = (), **settings: Any) -> BackoffHook:
    return wait_when_refused(on, jitter=0, **settings)


# -- when attempts are made


async def test_an_open_circuit_is_asked_once_in_every_retry_after(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", trip=ConsecutiveFailures(1), open_for=32, clock=clock)
    dependency, began, times = ScriptedDependency(OSError("down")), clock(), list[float]()

    @stamina.retry(on=exact(OSError), attempts=8, timeout=None, wait_initial=0.5, wait_jitter=0)
    async def charge() -> None:
        times.append(clock() - began)
        await breaker.call(dependency)

    with pytest.raises(CircuitOpenError):
        await charge()
    # a failure, stamina's own back-off, a refusal that says until when, and a trial at that very time, which fails, and so on
    assert times == [0, 0.5, 32, 34, 64, 69, 96, 101]
    assert len(dependency.calls) == 4
    assert breaker.snapshot().totals.refused == 4


async def test_it_succeeds_as_soon_as_the_circuit_lets_it(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=32, clock=clock)
    breaker.open()
    began = clock()
    async for attempt in stamina.retry_context(on=exact(), attempts=2, timeout=None):
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
    hook = wait_when_refused(OSError, jitter=jitter, random=random.random)

    async def dependency() -> None:
        await anyio.sleep(random.random() / 10)
        if clock() < up_at:
            raise OSError("down")

    async def caller(number: int) -> None:
        not_before = -inf
        await anyio.sleep(random.random() * 10)
        async for attempt in stamina.retry_context(on=hook, attempts=None, timeout=None):
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
    async for attempt in stamina.retry_context(on=exact(), attempts=4, timeout=None, wait_initial=0, wait_jitter=0):
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

    @stamina.retry(on=exact(), attempts=2, timeout=None)
    async def charge() -> float:
        await breaker.call(anyio.sleep, 0)
        return clock() - began

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, anyio.sleep, 0.5)  # the trial
        await anyio.sleep(0.25)
        assert await charge() == 1.25


async def test_a_rate_limit_is_waited_for_too(clock: Clock) -> None:
    limit, began = RateLimit(1, per=10, clock=clock), clock()

    @stamina.retry(on=exact(), attempts=2, timeout=None)
    @limit
    async def charge() -> float:
        return clock() - began

    assert [await charge(), await charge()] == [0, 10]


# -- when it gives up


async def test_a_wait_that_would_be_too_long_is_given_up_at_once(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=64, clock=clock)
    breaker.open()
    began = clock()
    with pytest.raises(CircuitOpenError) as caught:
        await stamina.AsyncRetryingCaller(timeout=None)(wait_when_refused(), breaker.call, anyio.sleep, 0)
    assert clock() == began
    assert caught.value.retry_after == 64
    assert breaker.snapshot().totals.refused == 1


async def test_so_is_one_past_a_deadline_around_the_call(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=16, clock=clock)
    breaker.open()
    caller, began = stamina.AsyncRetryingCaller(timeout=None).on(exact()), clock()
    with pytest.raises(CircuitOpenError), anyio.fail_after(16):
        await caller(breaker.call, anyio.sleep, 0)
    assert clock() == began
    with anyio.fail_after(16.5):
        await caller(breaker.call, anyio.sleep, 0)
    assert clock() - began == 16


async def test_a_thread_without_an_event_loop_knows_no_deadline() -> None:
    hook = exact()
    assert await anyio.to_thread.run_sync(hook, refused(8)) == 8


def test_nor_does_code_outside_of_any_event_loop() -> None:
    assert exact()(refused(8)) == 8


async def test_a_cancelled_wait_ends_at_once_and_holds_nothing(clock: Clock) -> None:
    breaker = CircuitBreaker("payments", open_for=16, clock=clock)
    breaker.open()
    began = clock()

    @stamina.retry(on=exact(), timeout=None)
    async def charge() -> None:
        await breaker.call(anyio.sleep, 0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(charge)
        await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    assert clock() - began == 2
    assert breaker.snapshot().in_flight == 0


async def test_a_cancelled_attempt_is_not_made_again(clock: Clock) -> None:
    breaker, attempts, asked = CircuitBreaker("payments", clock=clock), list[int](), list[object]()

    def always(error: Exception) -> bool:
        asked.append(error)
        return True

    @stamina.retry(on=wait_when_refused(always), attempts=5, timeout=None)
    async def charge() -> None:
        attempts.append(1)
        await breaker.call(anyio.sleep_forever)

    with anyio.move_on_after(1) as scope:
        await charge()
    assert scope.cancelled_caught
    assert (attempts, asked, breaker.snapshot().in_flight) == ([1], [], 0)


# -- what the hook says


@pytest.mark.parametrize(
    ("refusal", "seconds"),
    [
        (refused(12.5), 12.5),
        (refused(60), 60),
        (refused(60.5), False),
        (refused(None), 1),
        (refused(0), 1),
        (refused(30, State.HALF_OPEN), 1),
        (refused(0.25, State.HALF_OPEN), 0.25),
        (refused(None, State.FORCED_OPEN), 1),
        (RateLimitedError("api", retry_after=3), 3),
        (BulkheadFullError("database"), 1),
        (ExceptionGroup("two", [refused(3), refused(5)]), 5),
        (ExceptionGroup("two", [refused(3), ExceptionGroup("", [refused(61)])]), False),
        (ExceptionGroup("mixed", [refused(3), OSError("down")]), 3),
        (ExceptionGroup("mixed", [refused(3), KeyError("sku")]), False),
        (BaseExceptionGroup("mixed", [refused(3), KeyboardInterrupt()]), False),
        (KeyboardInterrupt(), False),
        (OSError("down"), True),
        (ExceptionGroup("two", [OSError("down"), ConnectionError("refused")]), True),
        (KeyError("sku"), False),
    ],
    ids=repr,
)
def test_what_it_says(refusal: Any, seconds: object) -> None:
    said = exact(OSError)(refusal)
    assert said == seconds
    assert isinstance(said, bool) == isinstance(seconds, bool)


@pytest.mark.parametrize("answer", [True, False, 7.5, 7, dt.timedelta(seconds=7.5), None], ids=repr)
def test_a_hook_decides_about_everything_else(answer: Any) -> None:
    seen: list[object] = []

    def own(problem: Exception) -> Any:
        seen.append(problem)
        return answer

    hook, error = exact(own), KeyError("sku")
    assert hook(error) is answer
    assert hook(refused(3)) == 3
    assert seen == [error]


@pytest.mark.parametrize(
    ("answer", "seconds"), [(True, 3), (False, False), (2.5, 3), (4, 4), (dt.timedelta(seconds=7.5), 7.5)], ids=repr
)
def test_a_mixed_group_is_not_retried_before_its_refusals_may_be(answer: Any, seconds: object) -> None:
    assert exact(lambda _: answer)(ExceptionGroup("mixed", [refused(3), KeyError("sku")])) == seconds


@given(hint=st.floats(0.001, 60), draw=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1, exclude_max=True))
def test_jitter_lengthens_a_wait_and_never_shortens_it(hint: float, draw: float, jitter: float) -> None:
    wait = wait_when_refused(jitter=jitter, random=lambda: draw)(refused(hint))
    assert hint <= wait <= min(hint * (1 + jitter), 60)  # type: ignore[operator]


def test_by_default_waits_are_spread_over_a_tenth_of_themselves() -> None:
    hook = wait_when_refused(max_wait=inf)
    waits = {hook(refused(100)) for _ in range(200)}
    assert len(waits) > 100
    assert 100 <= min(waits) < 102 < 108 < max(waits) < 110  # type: ignore[operator]


def test_in_staminas_testing_mode_nothing_is_waited_for(clock: Clock) -> None:
    manual = ManualClock()
    breaker = CircuitBreaker("payments", clock=manual)
    breaker.open()

    async def main() -> None:
        began = clock()
        with stamina.set_testing(True, attempts=3), pytest.raises(CircuitOpenError):
            await stamina.AsyncRetryingCaller().on(wait_when_refused())(breaker.call, anyio.sleep, 0)
        assert clock() == began

    virtual.run("asyncio", main)
    assert breaker.snapshot().totals.refused == 3


# -- settings, and the page


async def asynchronous(error: BaseException) -> bool:
    return True


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"on": 7}, TypeError, "on must be exception types"),
        ({"on": (OSError, "x")}, TypeError, "on must be exception types"),
        ({"on": asynchronous}, TypeError, "on must not be an async function"),
        ({"max_wait": -1}, ValueError, "max_wait must be a number of seconds"),
        ({"max_wait": nan}, ValueError, "max_wait must be a number of seconds"),
        ({"max_wait": None}, TypeError, "max_wait must be a number of seconds"),
        ({"jitter": 1}, ValueError, "jitter must be a fraction"),
        ({"jitter": -0.1}, ValueError, "jitter must be a fraction"),
        ({"jitter": "full"}, TypeError, "jitter must be a fraction"),
        ({"random": 4}, TypeError, "random must be a function"),
    ],
    ids=lambda value: None if isinstance(value, dict | type) else str(value),
)
def test_settings_that_cannot_be(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        wait_when_refused(**settings)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_the_pages_example_runs(backend: str) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (example,) = [example for example in examples if "import stamina" in example]
    exec(compile(example.replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"), "example", "exec"), {})
