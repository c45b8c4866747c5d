"""A guarded block ends at once, wherever and however it is left: nothing is awaited, nothing is swallowed, nothing is left."""

import gc
import inspect
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, CircuitOpenError, Outcome, State, Trials
from aiobreaker.testing import ManualClock, record_events


class DownError(Exception):
    pass


class AbortedError(BaseException):
    pass


def on_trial() -> CircuitBreaker:
    breaker = CircuitBreaker("exit", trials=Trials(3, max_inconclusive=1000), clock=ManualClock())
    breaker.half_open()
    return breaker


def closed() -> CircuitBreaker:
    return CircuitBreaker("exit", clock=ManualClock())


def failing() -> CircuitBreaker:
    """One whose next failures are only noted."""
    breaker = closed()
    for _ in range(2):
        with pytest.raises(DownError):
            breaker.call(down).send(None)
    return breaker


async def down() -> None:
    raise DownError


STATES = pytest.mark.parametrize("make", [on_trial, closed, failing])
Make = Callable[[], CircuitBreaker]


@STATES
async def test_an_exit_stack_may_hold_many(make: Make) -> None:
    breakers = [make() for _ in range(3)]
    before = [breaker.snapshot().totals.successes for breaker in breakers]
    async with AsyncExitStack() as stack:
        for breaker in breakers:
            await stack.enter_async_context(breaker.guard())
        assert [breaker.snapshot().in_flight for breaker in breakers] == [1, 1, 1]
    assert [breaker.snapshot().in_flight for breaker in breakers] == [0, 0, 0]
    assert [breaker.snapshot().totals.successes - 1 for breaker in breakers] == before


@STATES
@pytest.mark.parametrize("error", [DownError(), ExceptionGroup("several", [DownError()]), AbortedError()], ids=repr)
async def test_an_exit_stack_passes_the_very_error_on_and_each_judges_it(make: Make, error: BaseException) -> None:
    outer, inner = make(), make()
    before = outer.snapshot().totals.failures
    with pytest.raises(type(error)) as raised:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(outer.guard())
            guard = inner.guard()
            await guard.__aenter__()
            stack.push_async_exit(guard)
            raise error
    assert raised.value is error
    for breaker in (outer, inner):
        seen = breaker.snapshot()
        assert seen.in_flight == 0
        assert seen.totals.failures - before == (not isinstance(error, AbortedError))
        assert seen.totals.ignored == isinstance(error, AbortedError)


@STATES
async def test_an_error_that_a_guard_further_in_has_hidden_is_a_success_further_out(make: Make) -> None:
    outer, inner = make(), make()
    before = inner.snapshot().totals.failures
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(outer.guard())
        stack.push(lambda *_: True)
        await stack.enter_async_context(inner.guard())
        raise DownError
    assert inner.snapshot().totals.failures == before + 1
    assert (outer.snapshot().totals.failures, outer.snapshot().totals.successes) == (before, 1)


@STATES
async def test_what_the_exit_returns_can_be_awaited_and_hides_nothing(make: Make) -> None:
    breaker = make()
    guard = breaker.guard()
    async with guard:
        pass
    for error in (None, DownError()):
        await guard.__aenter__()
        ending: Any = guard.__aexit__(None if error is None else DownError, error, None)
        assert inspect.isawaitable(ending)
        assert await ending is None
        assert await ending is None  # there is nothing in it to be used up
    assert breaker.snapshot().in_flight == 0


def test_an_exit_that_nobody_awaits_has_happened_and_warns_of_nothing() -> None:
    breaker = closed()
    guard = breaker.guard()
    with pytest.raises(StopIteration):
        guard.__aenter__().send(None)
    _ = guard.__aexit__(None, None, None)
    gc.collect()
    assert (breaker.snapshot().in_flight, breaker.snapshot().totals.successes) == (0, 1)


@STATES
async def test_nested_blocks_of_one_breaker_in_functions_are_calls_of_their_own(make: Make) -> None:
    breaker = CircuitBreaker("nested", clock=ManualClock()) if make is on_trial else make()
    before = breaker.snapshot().totals.failures

    async def inner() -> str:
        async with breaker.guard() as call:
            call.check("fine")
            return "fine"

    async def middle() -> str:
        async with breaker.guard():
            for _ in range(3):
                async with breaker.guard():
                    if _:
                        break
                    continue
            return await inner()

    async with breaker.guard() as call:
        assert await middle() == "fine"
        call.ignore()
    totals = breaker.snapshot().totals
    assert (totals.successes, totals.failures, totals.ignored) == (4, before, 1)
    assert breaker.snapshot().in_flight == 0


@STATES
async def test_a_cancellation_that_comes_at_the_end_of_the_block_does_not_undo_it(make: Make) -> None:
    breaker = make()
    with anyio.CancelScope() as scope:
        async with breaker.guard():
            await checkpoint()
            scope.cancel()
        after = breaker.snapshot()
        await checkpoint()
    assert scope.cancelled_caught
    assert (after.in_flight, after.totals.successes, after.totals.cancelled) == (0, 1, 0)


@STATES
async def test_a_cancellation_inside_the_block_is_neutral(make: Make) -> None:
    breaker = make()
    before = breaker.snapshot().totals.failures
    with anyio.CancelScope() as scope:
        async with breaker.guard():
            scope.cancel()
            await checkpoint()
    totals = breaker.snapshot().totals
    assert (totals.cancelled, totals.failures, totals.successes) == (1, before, 0)
    assert breaker.snapshot().in_flight == 0


@STATES
async def test_a_block_may_be_left_in_another_task(make: Make) -> None:
    breaker = make()
    guard = breaker.guard()

    async def enter() -> None:
        await guard.__aenter__()

    async def leave() -> None:
        await guard.__aexit__(None, None, None)

    for step in (enter, leave):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
        assert breaker.snapshot().in_flight == (step is enter)
    assert breaker.snapshot().totals.successes == 1


async def test_a_block_may_be_left_in_another_context() -> None:
    here: ContextVar[str] = ContextVar("here", default="outside")
    breaker = closed()

    async def items() -> AsyncGenerator[str, None]:
        async with breaker.guard():
            here.set("inside")
            yield "item"

    generator = items()
    assert await anext(generator) == "item"
    assert breaker.snapshot().in_flight == 1
    ending = copy_context().run(generator.aclose)
    await ending
    assert (breaker.snapshot().in_flight, breaker.snapshot().totals.ignored) == (0, 1)


@STATES
async def test_a_context_manager_of_the_users_own_may_be_made_of_it(make: Make) -> None:
    breaker = make()

    @asynccontextmanager
    async def connection() -> AsyncGenerator[str]:
        async with breaker.guard():
            yield "connected"

    before = breaker.snapshot().totals.failures
    async with connection() as words:
        assert words == "connected"
    with pytest.raises(DownError):
        async with connection():
            raise DownError
    assert breaker.snapshot().totals[:2] == (1, before + 1)
    assert breaker.snapshot().in_flight == 0


async def test_an_early_end_of_a_generator_with_a_block_in_it_is_neutral() -> None:
    breaker = closed()

    async def items() -> AsyncGenerator[int, None]:
        async with breaker.guard():
            yield 1
            yield 2

    async with aclosing(items()) as reader:
        async for _ in reader:
            break
    assert breaker.snapshot().totals.ignored == 1
    assert breaker.snapshot().in_flight == 0


async def test_a_verdict_inside_stands_whatever_the_end() -> None:
    breaker = closed()
    with record_events(breaker, calls=True) as events:
        async with breaker.guard() as call:
            call.failure("bad news")
        with pytest.raises(DownError):
            async with breaker.guard() as call:
                call.ignore()
                raise DownError
        with anyio.CancelScope() as scope:
            async with breaker.guard() as call:
                call.check("result")
                scope.cancel()
                await checkpoint()
    outcomes = [event.outcome for event in events]  # type: ignore[attr-defined]
    assert outcomes == [Outcome.FAILURE, Outcome.IGNORED, Outcome.SUCCESS]
    assert breaker.snapshot().in_flight == 0


async def test_a_thousand_tasks_leave_at_once() -> None:
    breaker = closed()
    release = anyio.Event()

    async def block() -> None:
        async with breaker.guard():
            await release.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(block)
        await anyio.wait_all_tasks_blocked()
        assert breaker.snapshot().in_flight == 1000
        release.set()
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.successes == 1000


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_block_may_be_used_from_a_thread_without_a_loop(backend: str) -> None:
    breaker = CircuitBreaker("portal")
    with anyio.from_thread.start_blocking_portal(backend) as portal:
        with portal.wrap_async_context_manager(breaker.guard()):
            assert breaker.snapshot().in_flight == 1
            assert threading.current_thread() is threading.main_thread()
        with pytest.raises(DownError), portal.wrap_async_context_manager(breaker.guard()):
            raise DownError
    assert breaker.snapshot().totals[:2] == (1, 1)
    assert breaker.snapshot().in_flight == 0


async def test_a_guard_may_be_used_again_after_any_end() -> None:
    breaker = closed()
    guard = breaker.guard()
    for number in range(3):
        async with guard:
            pass
        with pytest.raises(DownError):
            async with guard:
                raise DownError
        breaker.force_open()
        for _ in range(65):  # one of them gives way
            with pytest.raises(CircuitOpenError):
                async with guard:
                    raise AssertionError("it should have been refused")
        assert breaker.snapshot().in_flight == 0
        assert breaker.snapshot().totals.refused == 65 * (number + 1)
        breaker.reset()
    assert breaker.snapshot().totals[:2] == (3, 3)


async def test_a_guard_that_is_refused_in_one_task_may_enter_in_another_meanwhile() -> None:
    breaker = closed()
    breaker.force_open()
    guard = breaker.guard()
    for _ in range(63):
        with pytest.raises(CircuitOpenError):
            await guard.__aenter__()
    entered: list[int] = []

    async def enter(number: int) -> None:
        try:
            await guard.__aenter__()
        except CircuitOpenError:
            breaker.reset()
        else:
            entered.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter, 1)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(enter, 2)
    assert entered == [2]
    await guard.__aexit__(None, None, None)
    assert breaker.snapshot().in_flight == 0


async def test_a_reused_guard_may_be_entered_as_a_trial_and_as_a_plain_call() -> None:
    breaker = on_trial()
    guard: Any = breaker.guard()
    for number in range(5):
        assert breaker.state is (State.HALF_OPEN if number < 3 else State.CLOSED)
        async with guard:
            with pytest.raises(RuntimeError, match="in use"):
                await guard.__aenter__()
    totals = breaker.snapshot().totals
    assert (totals.successes, totals.ignored, breaker.snapshot().in_flight) == (5, 0, 0)
