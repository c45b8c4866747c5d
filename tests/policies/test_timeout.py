"""A timeout: what takes too long is cancelled and awaited, and only its own end becomes its error."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Event, State
from aiobreaker.deadlines import remaining
from aiobreaker.lint import Traits
from aiobreaker.policies.events import TimedOut
from aiobreaker.policies.retry import Retry
from aiobreaker.policies.timeout import Timeout, TimeoutSnapshot
from aiobreaker.testing import Answer, ScriptedDependency

from .. import virtual

Clock = Callable[[], float]
Call = Callable[[], Coroutine[Any, Any, Any]]
Way = Callable[[Timeout, Call], Coroutine[Any, Any, Any]]


async def decorated(timeout: Timeout, fn: Call) -> Any:
    async def function() -> Any:
        return await fn()

    return await timeout(function)()


async def called(timeout: Timeout, fn: Call) -> Any:
    return await timeout.call(fn)


async def in_a_block(timeout: Timeout, fn: Call) -> Any:
    async with timeout.guard():
        return await fn()


every_way = pytest.mark.parametrize("way", [decorated, called, in_a_block])


# -- the end of its time


@every_way
async def test_a_call_in_time_is_left_alone(way: Way) -> None:
    timeout = Timeout(2)
    for after in (0, 1.9):
        assert await way(timeout, ScriptedDependency(Answer("fine", after=after))) == "fine"
    await anyio.sleep(9)
    assert timeout.snapshot().timed_out == 0


@every_way
async def test_a_call_that_takes_too_long_is_cancelled_and_awaited(way: Way) -> None:
    steps: list[str] = []

    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            steps.append("cleaned up")

    timeout = Timeout(2.5, name="prices")
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"^prices: not finished within 2\.5 s$") as raised:
        await way(timeout, slow)
    assert type(raised.value) is TimeoutError
    assert steps == ["cleaned up"]
    assert anyio.current_time() - began == pytest.approx(3.5)
    assert timeout.snapshot() == TimeoutSnapshot(name="prices", seconds=2.5, timed_out=1)


@every_way
@pytest.mark.parametrize("error", [TimeoutError("its own"), OSError("down"), KeyboardInterrupt("stop")])
async def test_what_the_call_raises_passes_as_itself(way: Way, error: BaseException) -> None:
    timeout = Timeout(2)
    events: list[Event] = []
    timeout.subscribe(events.append)
    with pytest.raises(type(error)) as raised:
        await way(timeout, ScriptedDependency(Answer(error, after=1)))
    assert raised.value is error
    assert (events, timeout.snapshot().timed_out) == ([], 0)


@every_way
async def test_a_result_that_comes_in_spite_of_the_cancellation_is_kept(way: Way) -> None:
    async def stubborn() -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(5)
        return "late"

    timeout = Timeout(2)
    assert await way(timeout, stubborn) == "late"
    assert timeout.snapshot().timed_out == 0
    await checkpoint()


@every_way
async def test_an_error_instead_of_the_cancellation_is_raised(way: Way) -> None:
    async def broken() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("while cancelled")

    with pytest.raises(OSError, match="while cancelled"):
        await way(Timeout(2), broken)


@every_way
async def test_child_tasks_end_too(way: Way) -> None:
    children = ScriptedDependency(Answer(after=inf))

    async def several() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(children)

    with pytest.raises(TimeoutError):
        await way(Timeout(2), several)
    assert (children.most_running, children.running) == (3, 0)


@every_way
async def test_it_is_a_deadline_for_what_is_inside(way: Way) -> None:
    async def look() -> float:
        await anyio.sleep(0.5)
        return remaining()

    assert await way(Timeout(2), look) == pytest.approx(1.5)


@every_way
async def test_of_several_inside_one_another_the_nearest_end_counts(way: Way) -> None:
    for outer, inner, first in ((3, 1, "inner"), (1, 3, "outer"), (2, 2, "outer")):
        with pytest.raises(TimeoutError, match=f"^{first}: "):
            await Timeout(outer, name="outer").call(way, Timeout(inner, name="inner"), anyio.sleep_forever)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 10), st.sampled_from(["asyncio", "trio"]))
def test_any_nest_of_them_ends_at_the_first_end(limits: list[int], takes: int, backend: str) -> None:
    timeouts = [Timeout(seconds, name=str(place)) for place, seconds in enumerate(limits)]

    async def main() -> tuple[str, float]:
        call: Call = partial(anyio.sleep, takes + 0.5)
        for timeout in reversed(timeouts):
            call = partial(timeout.call, call)
        began = anyio.current_time()
        try:
            await call()
        except TimeoutError as error:
            return str(error).partition(":")[0], anyio.current_time() - began
        return "in time", anyio.current_time() - began

    nearest = min(limits)
    expected = (str(limits.index(nearest)), nearest) if nearest < takes + 0.5 else ("in time", takes + 0.5)
    assert virtual.run(backend, main) == (expected[0], pytest.approx(expected[1]))
    assert sum(timeout.snapshot().timed_out for timeout in timeouts) == (expected[0] != "in time")


# -- among others


@every_way
async def test_inside_a_breaker_a_timeout_is_a_failure(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("around", trip=ConsecutiveFailures(2), clock=clock)
    dependency = ScriptedDependency(Answer(after=inf))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await breaker.call(way, Timeout(2), dependency)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().totals.failures == 2
    with pytest.raises(CircuitOpenError):
        await breaker.call(way, Timeout(2), dependency)
    assert len(dependency.calls) == 2


@every_way
async def test_outside_of_a_breaker_it_arrives_as_a_cancellation(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("inside", trip=ConsecutiveFailures(1), clock=clock)
    with pytest.raises(TimeoutError):
        await way(Timeout(2), partial(breaker.call, anyio.sleep_forever))
    seen = breaker.snapshot()
    assert (seen.state, seen.totals.failures, seen.totals.cancelled, seen.in_flight) == (State.CLOSED, 0, 1, 0)


async def test_in_a_pipeline_too(clock: Clock) -> None:
    breaker = CircuitBreaker("between", trip=ConsecutiveFailures(1), clock=clock)
    dependency = ScriptedDependency(Answer(after=inf))
    pipeline = Timeout(5, name="outer") | breaker | Timeout(2, name="inner")
    with pytest.raises(TimeoutError, match=r"^inner: "):
        await pipeline.call(dependency, "pear", currency="USD")
    assert dependency.calls == [(("pear",), {"currency": "USD"})]
    assert breaker.state is State.OPEN
    assert pipeline.snapshot()[0] == TimeoutSnapshot(name="outer", seconds=5, timed_out=0)


async def test_inside_a_retry_each_attempt_has_its_own_time() -> None:
    dependency = ScriptedDependency(Answer(after=inf), Answer("late", after=3), Answer("fine", after=1.5))
    retry, timeout = Retry(on=TimeoutError, attempts=3, backoff=0), Timeout(2)
    began = anyio.current_time()
    assert await (retry | timeout)(dependency.__call__)() == "fine"
    assert anyio.current_time() - began == pytest.approx(5.5)
    assert timeout.snapshot().timed_out == 2


# -- cancelled from outside


class Work:
    """An await that only yields, one that waits for `answer`, and one that only yields again."""

    def __init__(self) -> None:
        self.answer = anyio.Event()
        self.inside = 0

    async def __call__(self) -> str:
        self.inside += 1
        try:
            await checkpoint()
            await self.answer.wait()
            await checkpoint()
        finally:
            self.inside -= 1
        return "done"


STEPS = 12


@every_way
async def test_a_cancellation_at_any_step_is_no_timeout(way: Way) -> None:
    completed = []
    for cancel_at in range(STEPS):
        timeout, work = Timeout(1000), Work()
        events: list[Event] = []
        timeout.subscribe(events.append)
        outcome: list[str] = []

        async def victim(
            timeout: Timeout = timeout, work: Work = work, outcome: list[str] = outcome, scope: anyio.CancelScope | None = None
        ) -> None:
            with scope or anyio.CancelScope():
                outcome.append(await way(timeout, work))
            await anyio.sleep(2000)  # whatever is left of the timeout would come now
            outcome.append("awake")

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(victim, scope=scope))
            for step in range(STEPS):
                if step == cancel_at:
                    scope.cancel()
                if step == 4:
                    work.answer.set()
                await checkpoint()
        completed.append(outcome[0] == "done")
        assert outcome[-1] == "awake"
        assert (work.inside, events, timeout.snapshot().timed_out) == (0, [], 0)
    assert not completed[0]
    assert completed[-1]
    assert completed == sorted(completed)


@every_way
async def test_a_native_cancellation_at_any_step_is_no_timeout(way: Way, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        return
    ended = []
    for cancel_at in range(STEPS):
        timeout, work = Timeout(1000), Work()
        task = asyncio.create_task(way(timeout, work))
        for step in range(STEPS):
            if step == cancel_at:
                task.cancel()
            if step == 4:
                work.answer.set()
            await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await task
        ended.append(not task.cancelled())
        assert (work.inside, timeout.snapshot().timed_out) == (0, 0)
    assert not ended[0]
    assert ended[-1]


@every_way
async def test_a_cancellation_at_the_very_end_of_the_time_wins(way: Way) -> None:
    timeout = Timeout(2)
    with anyio.move_on_after(2) as scope:
        await way(timeout, anyio.sleep_forever)
    assert scope.cancelled_caught
    assert timeout.snapshot().timed_out == 0


# -- what there is to see


async def test_it_tells_whose_time_was_up(clock: Clock) -> None:
    timeout = Timeout(2, name="prices", clock=clock)
    events: list[Event] = []
    unsubscribe = timeout.subscribe(events.append)
    began = anyio.current_time()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await timeout.call(anyio.sleep_forever)
    unsubscribe()
    with pytest.raises(TimeoutError):
        await timeout.call(anyio.sleep_forever)
    assert [type(event) for event in events] == [TimedOut, TimedOut]
    assert [(event.name, event.seq, event.at - began) for event in events] == [
        ("prices", 1, pytest.approx(2)),
        ("prices", 2, pytest.approx(4)),
    ]
    assert all(isinstance(event, TimedOut) and event.after == 2 for event in events)
    assert timeout.snapshot().timed_out == 3


async def test_it_has_decided_before_it_tells() -> None:
    timeout = Timeout(2)
    seen: list[int] = []
    timeout.subscribe(lambda event: seen.append(timeout.snapshot().timed_out))
    with pytest.raises(TimeoutError):
        await timeout.call(anyio.sleep_forever)
    assert seen == [1]


def test_in_words() -> None:
    timeout = Timeout(0.25, name="prices")
    assert timeout.traits == Traits(kind="timeout", words="timeout 'prices' of 0.25 s", seconds=0.25)
    assert repr(timeout) == "<Timeout 'prices'>"
    assert (timeout | CircuitBreaker("inside")).explain().startswith("timeout 'prices' of 0.25 s\n")


# -- settings, signatures, loops


@pytest.mark.parametrize("seconds", [0, -1, nan, inf, True, "2", None])
def test_settings_that_cannot_be(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^seconds must be a finite number of seconds above 0, not "):
        Timeout(seconds)


def test_a_name_and_a_clock_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="name must not be empty"):
        Timeout(1, name="")
    with pytest.raises(TypeError, match="clock must be a function"):
        Timeout(1, clock=5)  # type: ignore[arg-type]


async def test_a_decorated_function_keeps_its_face() -> None:
    class Shop:
        @Timeout(2)
        async def price(self, sku: str, *, currency: str = "EUR") -> str:
            """What it costs."""
            return f"{sku} in {currency}"

        @Timeout(2)
        @classmethod
        async def named(cls, name: str) -> str:
            return f"{cls.__name__} {name}"

    assert (Shop.price.__name__, Shop.price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(Shop.price).parameters) == ["self", "sku", "currency"]
    assert await Shop().price("pear") == "pear in EUR"
    assert await Shop().price("pear", currency="USD") == "pear in USD"
    assert await Shop.named("pears") == "Shop pears"
    assert await Timeout(2).call(Shop().price, "plum", currency="USD") == "plum in USD"
    with pytest.raises(TypeError, match="only async functions"):
        Timeout(2)(len)  # type: ignore[arg-type]


@every_way
def test_one_serves_both_backends_and_many_loops_in_turn(way: Way) -> None:
    timeout = Timeout(2)

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await way(timeout, anyio.sleep_forever)

    for _ in range(2):
        for backend in virtual.BACKENDS:
            virtual.run(backend, use)
    assert timeout.snapshot().timed_out == 4
