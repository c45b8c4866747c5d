"""A deadline: one budget for everything inside; the nearest wins; where it is over, nothing more is begun."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import pytest
import trio.testing
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, Event, State
from aiobreaker.deadlines import remaining
from aiobreaker.lines import Line
from aiobreaker.lint import Traits
from aiobreaker.policies.deadline import Deadline, DeadlineSnapshot
from aiobreaker.policies.events import GaveUp, TimedOut
from aiobreaker.policies.retry import Retry
from aiobreaker.policies.timeout import Timeout
from aiobreaker.testing import Answer, ScriptedDependency, VirtualTimeLoop

from .. import virtual

Clock = Callable[[], float]
Call = Callable[[], Coroutine[Any, Any, Any]]
Way = Callable[[Deadline, Call], Coroutine[Any, Any, Any]]


async def decorated(deadline: Deadline, fn: Call) -> Any:
    async def function() -> Any:
        return await fn()

    return await deadline(function)()


async def called(deadline: Deadline, fn: Call) -> Any:
    return await deadline.call(fn)


async def in_a_block(deadline: Deadline, fn: Call) -> Any:
    async with deadline.guard():
        return await fn()


every_way = pytest.mark.parametrize("way", [decorated, called, in_a_block])


# -- one budget


@every_way
async def test_all_calls_inside_share_one_budget(way: Way) -> None:
    dependency = ScriptedDependency(Answer("fine", after=0.75))
    left: list[float] = []

    async def several() -> None:
        while True:
            await dependency()
            left.append(remaining())

    deadline = Deadline(2, name="request")
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"^request: not finished within 2 s$") as raised:
        await way(deadline, several)
    assert type(raised.value) is TimeoutError
    assert anyio.current_time() - began == pytest.approx(2)
    assert left == [pytest.approx(1.25), pytest.approx(0.5)]
    assert (len(dependency.calls), dependency.running) == (3, 0)
    assert deadline.snapshot() == DeadlineSnapshot(name="request", seconds=2, timed_out=1)


@every_way
async def test_each_call_and_block_has_a_budget_of_its_own(way: Way) -> None:
    deadline = Deadline(2)
    for _ in range(3):
        assert await way(deadline, ScriptedDependency(Answer("fine", after=1.5))) == "fine"
    await anyio.sleep(9)
    assert deadline.snapshot().timed_out == 0


async def test_a_block_says_what_is_left_for_handing_on() -> None:
    async with Deadline(2.0).guard() as limit:
        await anyio.sleep(0.5)
        assert limit.remaining() == pytest.approx(1.5)
        assert f"{limit.remaining():.3f}" == "1.500"
        async with Timeout(1).guard():
            assert limit.remaining() == remaining() == pytest.approx(1)


@every_way
async def test_child_tasks_are_bound_and_awaited(way: Way) -> None:
    left: list[float] = []
    ended: list[float] = []

    async def child() -> None:
        left.append(remaining())
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(anyio.current_time())

    async def several() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await anyio.sleep(0.5)
            tasks.start_soon(child)

    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        await way(Deadline(2), several)
    assert left == [pytest.approx(2), pytest.approx(1.5)]
    assert [end - began for end in ended] == [pytest.approx(2)] * 2


@every_way
async def test_the_nearest_wins(way: Way) -> None:
    for outer, inner, first in ((1, 5, "outer"), (5, 1, "inner"), (2, 2, "outer")):
        deadlines = Deadline(outer, name="outer"), Deadline(inner, name="inner")
        events: list[Event] = []
        for deadline in deadlines:
            deadline.subscribe(events.append)
        with pytest.raises(TimeoutError, match=f"^{first}: not finished within {min(outer, inner)} s"):
            await way(deadlines[0], partial(way, deadlines[1], anyio.sleep_forever))
        assert [(type(event), event.name) for event in events] == [(TimedOut, first)]


async def test_a_timeout_inside_cannot_outlast_it() -> None:
    dependency = ScriptedDependency(Answer(after=inf))
    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"^deadline: "):
        await (Deadline(2) | Timeout(9)).call(dependency)
    assert anyio.current_time() - began == pytest.approx(2)
    assert dependency.running == 0


@every_way
async def test_a_timeout_error_of_its_own_is_not_ours(way: Way) -> None:
    own = TimeoutError("its own")
    deadline = Deadline(2)
    events: list[Event] = []
    deadline.subscribe(events.append)
    with pytest.raises(TimeoutError) as raised:
        await way(deadline, ScriptedDependency(own))
    assert raised.value is own
    assert (events, deadline.snapshot().timed_out) == ([], 0)


# -- where it is over already


@every_way
async def test_where_an_outer_one_is_over_nothing_is_begun(way: Way) -> None:
    dependency = ScriptedDependency("fine")
    outer, inner = Deadline(2, name="outer"), Deadline(5, name="inner")

    async def late() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            await way(inner, dependency)  # of all moments

    began = anyio.current_time()
    with pytest.raises(TimeoutError, match=r"^outer: "):
        await outer.call(late)
    assert dependency.calls == []
    assert anyio.current_time() - began == pytest.approx(2)
    assert (outer.snapshot().timed_out, inner.snapshot().timed_out) == (1, 0)


def hold_up(seconds: float) -> None:
    """Let time pass without giving way, as a long computation does."""
    if sniff() == "trio":
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop._jump(seconds)


def sniff() -> str:
    return "asyncio" if anyio.get_cancelled_exc_class() is asyncio.CancelledError else "trio"


@every_way
async def test_also_where_the_event_loop_has_not_noticed_yet(way: Way) -> None:
    dependency = ScriptedDependency("fine")
    with pytest.raises(TimeoutError, match=r"^outer: "):
        async with Deadline(2, name="outer").guard() as limit:
            hold_up(1)
            assert await way(Deadline(5), dependency) == "fine"
            hold_up(1)
            assert limit.remaining() == 0
            await way(Deadline(5), dependency)
    assert len(dependency.calls) == 1


@every_way
async def test_where_the_code_is_being_cancelled_that_goes_on(way: Way) -> None:
    dependency = ScriptedDependency("fine")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await way(Deadline(5), dependency)
    assert scope.cancelled_caught
    assert dependency.calls == []


async def test_a_breaker_between_two_of_them_is_not_misled(clock: Clock) -> None:
    breaker = CircuitBreaker("between", clock=clock)
    dependency = ScriptedDependency("fine")
    with anyio.move_on_after(0):
        await (breaker | Deadline(5)).call(dependency)
    seen = breaker.snapshot()
    assert (seen.totals.failures, seen.totals.cancelled, seen.in_flight, len(dependency.calls)) == (0, 1, 0, 0)


@every_way
async def test_behind_a_shield_it_begins_anew(way: Way) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            assert await way(Deadline(5), ScriptedDependency("fine")) == "fine"


# -- what waits inside


async def test_a_retry_gives_up_rather_than_sleep_past_it(clock: Clock) -> None:
    retry = Retry(on=OSError, attempts=9, backoff=5, clock=clock)
    events: list[Event] = []
    retry.subscribe(events.append)
    began = anyio.current_time()
    with pytest.raises(OSError, match="down"):
        await (Deadline(12) | retry).call(ScriptedDependency(OSError("down")))
    assert anyio.current_time() - began == pytest.approx(10)
    assert [event.attempts for event in events if isinstance(event, GaveUp)] == [3]


async def test_a_line_refuses_rather_than_queue_past_it() -> None:
    line = Line(5)
    async with Deadline(2).guard():
        refusal = await line.wait(lambda: 3.0, 9, expected=3.0)
    assert refusal is not None
    assert "deadline" in refusal


async def test_a_breaker_inside_sees_a_cancellation_when_it_ends(clock: Clock) -> None:
    breaker = CircuitBreaker("inside", clock=clock)
    with pytest.raises(TimeoutError):
        await (Deadline(2) | breaker).call(anyio.sleep_forever)
    seen = breaker.snapshot()
    assert (seen.state, seen.totals.failures, seen.totals.cancelled, seen.in_flight) == (State.CLOSED, 0, 1, 0)


# -- cancelled from outside


@every_way
async def test_a_cancellation_at_any_step_is_no_timeout(way: Way) -> None:
    completed = []
    for cancel_at in range(8):
        deadline = Deadline(1000)
        outcome: list[str] = []

        async def work() -> str:
            for _ in range(4):
                await checkpoint()
            return "done"

        async def victim(
            scope: anyio.CancelScope, deadline: Deadline = deadline, outcome: list[str] = outcome, work: Call = work
        ) -> None:
            with scope:
                outcome.append(await way(deadline, work))
            await anyio.sleep(2000)  # whatever is left of the deadline would come now
            outcome.append("awake")

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(victim, scope)
            for _ in range(cancel_at):
                await checkpoint()
            scope.cancel()
        completed.append(outcome[0] == "done")
        assert outcome[-1] == "awake"
        assert deadline.snapshot().timed_out == 0
    assert not completed[0]
    assert completed[-1]


# -- what there is to see; settings, signatures, loops


async def test_it_tells_whose_time_was_up(clock: Clock) -> None:
    deadline = Deadline(2, name="request", clock=clock)
    events: list[Event] = []
    deadline.subscribe(events.append)
    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        await deadline.call(anyio.sleep_forever)
    (event,) = events
    assert isinstance(event, TimedOut)
    assert (event.name, event.after, event.at - began) == ("request", 2, pytest.approx(2))


def test_in_words() -> None:
    deadline = Deadline(10, name="request")
    assert deadline.traits == Traits(kind="timeout", words="deadline 'request' of 10 s", seconds=10)
    assert repr(deadline) == "<Deadline 'request'>"


@pytest.mark.parametrize("seconds", [0, -1, nan, inf, True, "2", None])
def test_settings_that_cannot_be(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^seconds must be a finite number of seconds above 0, not "):
        Deadline(seconds)


async def test_a_block_can_be_entered_once() -> None:
    block = Deadline(2).guard()
    async with block:
        pass
    with pytest.raises(RuntimeError, match="entered already"):
        await block.__aenter__()


async def test_a_decorated_function_keeps_its_face() -> None:
    @Deadline(2)
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        return f"{sku} in {currency}"

    assert (price.__name__, price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    assert await price("pear") == "pear in EUR"
    assert await price("pear", currency="USD") == "pear in USD"
    assert await Deadline(2).call(price, "plum", currency="USD") == "plum in USD"


@every_way
def test_one_serves_both_backends_and_many_loops_in_turn(way: Way) -> None:
    deadline = Deadline(2)

    async def use() -> None:
        with pytest.raises(TimeoutError):
            await way(deadline, anyio.sleep_forever)

    for _ in range(2):
        for backend in virtual.BACKENDS:
            virtual.run(backend, use)
    assert deadline.snapshot().timed_out == 4
