"""A bulkhead: so many calls at once, a bounded line, and places that are neither lost nor made."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial
from math import inf, nan
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Event, State, Trials
from aiobreaker.deadlines import TimeLimit
from aiobreaker.errors import BulkheadFullError
from aiobreaker.policies.bulkhead import Bulkhead, BulkheadSnapshot
from aiobreaker.policies.events import GuardRefused
from aiobreaker.testing import ScriptedDependency

from .. import virtual

Way = Callable[[Bulkhead, Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]]


async def decorated(bulkhead: Bulkhead, fn: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def function() -> Any:
        return await fn()

    return await bulkhead(function)()


async def called(bulkhead: Bulkhead, fn: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return await bulkhead.call(fn)


async def in_a_block(bulkhead: Bulkhead, fn: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async with bulkhead.guard():
        return await fn()


WAYS: list[Way] = [decorated, called, in_a_block]
every_way = pytest.mark.parametrize("way", WAYS)


class Work:
    """Calls that run until told to end."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.begun: list[object] = []
        self.end = anyio.Event()

    async def __call__(self, name: object = None) -> str:
        self.begun.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.end.wait()
        finally:
            self.running -= 1
        return "done"


async def settle() -> None:
    for _ in range(10):
        await checkpoint()


# -- places


@every_way
async def test_only_so_many_run_at_once_and_the_others_are_refused(way: Way) -> None:
    bulkhead = Bulkhead(2, name="few")
    work = Work()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(way, bulkhead, work)
        await settle()
        assert bulkhead.snapshot().running == work.running == 2
        with pytest.raises(BulkheadFullError) as raised:
            await way(bulkhead, work)
        assert (raised.value.name, raised.value.retry_after) == ("few", None)
        assert str(raised.value) == "few: 2 of 2 places are taken, and nobody may wait"
        work.end.set()
    assert len(work.begun) == 2
    assert await way(bulkhead, work) == "done"
    assert bulkhead.snapshot() == BulkheadSnapshot(name="few", max_concurrent=2, running=0, waiting=0, refused=1)


@every_way
async def test_a_call_gives_its_place_back_however_it_ends(way: Way) -> None:
    bulkhead = Bulkhead(1)
    dependency = ScriptedDependency(OSError("down"), KeyboardInterrupt(), "fine")
    with pytest.raises(OSError, match="down"):
        await way(bulkhead, dependency)
    with pytest.raises(KeyboardInterrupt):
        await way(bulkhead, dependency)
    with anyio.move_on_after(1):
        await way(bulkhead, anyio.sleep_forever)
    assert await way(bulkhead, dependency) == "fine"
    assert bulkhead.snapshot().running == 0


async def test_a_decorated_function_keeps_its_name_signature_and_arguments() -> None:
    bulkhead = Bulkhead(1)

    class Shop:
        @bulkhead
        async def price(self, sku: str, *, currency: str = "EUR") -> str:
            """What it costs."""
            return f"{sku} in {currency}"

    assert (Shop.price.__name__, Shop.price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(Shop.price).parameters) == ["self", "sku", "currency"]
    assert await Shop().price("pear") == "pear in EUR"
    assert await Shop().price("pear", currency="USD") == "pear in USD"
    assert await bulkhead.call(Shop.price.__wrapped__, Shop(), "fig", currency="USD") == "fig in USD"  # type: ignore[attr-defined]


async def test_blocks_on_an_exit_stack() -> None:
    bulkhead = Bulkhead(2)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(bulkhead.guard())
        with pytest.raises(BulkheadFullError):
            await stack.enter_async_context(bulkhead.guard())
        assert bulkhead.snapshot().running == 2
    assert bulkhead.snapshot().running == 0


async def test_a_guard_is_for_one_block_at_a_time() -> None:
    bulkhead = Bulkhead(1, max_waiters=1)
    guard = bulkhead.guard()
    async with guard:
        with pytest.raises(RuntimeError, match="this guard is in use"):
            await guard.__aenter__()
    assert bulkhead.snapshot().running == 0

    async def enter() -> None:
        async with guard:
            await checkpoint()

    async with anyio.create_task_group() as tasks, bulkhead.guard():
        tasks.start_soon(enter)
        await settle()
        with pytest.raises(RuntimeError, match="this guard is in use"):
            await guard.__aenter__()
    assert bulkhead.snapshot().running == 0
    async with bulkhead.guard():
        with anyio.move_on_after(1):
            await guard.__aenter__()
    async with guard:  # after a wait in vain too
        assert bulkhead.snapshot().running == 1


# -- waiting


@every_way
async def test_who_finds_no_place_waits_first_come_first_served(way: Way) -> None:
    bulkhead = Bulkhead(1, max_waiters=3)
    ends = [anyio.Event() for _ in range(5)]
    begun: list[int] = []

    async def visit(number: int) -> None:
        async def work() -> None:
            begun.append(number)
            await ends[number].wait()

        await way(bulkhead, work)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(visit, number)
            await settle()
        assert (bulkhead.snapshot().running, bulkhead.snapshot().waiting) == (1, 3)
        with pytest.raises(BulkheadFullError, match="1 of 1 places are taken, and 3 callers are waiting already"):
            await visit(4)
        for number in range(4):
            assert begun == list(range(number + 1))
            ends[number].set()
            await settle()
    assert bulkhead.snapshot().running == bulkhead.snapshot().waiting == 0


@every_way
async def test_a_newcomer_does_not_jump_the_line(way: Way) -> None:
    bulkhead = Bulkhead(1, max_waiters=5)
    order: list[str] = []

    async def visit(name: str) -> None:
        async def work() -> None:
            order.append(name)

        await way(bulkhead, work)

    async with anyio.create_task_group() as tasks:
        async with bulkhead.guard():
            tasks.start_soon(visit, "waiter")
            await settle()
        assert bulkhead.snapshot().running == 0  # the place is free, and the waiter has been told but has not come yet
        await visit("newcomer")
    assert order == ["waiter", "newcomer"]


@every_way
async def test_nobody_waits_for_longer_than_max_wait(way: Way) -> None:
    bulkhead = Bulkhead(1, max_waiters=5, max_wait=1.5)
    async with bulkhead.guard():
        began = anyio.current_time()
        with pytest.raises(BulkheadFullError, match=r"1 of 1 places are taken, and there was no room within 1.5 s"):
            await way(bulkhead, anyio.sleep_forever)
        assert anyio.current_time() - began == pytest.approx(1.5)
    assert bulkhead.snapshot().waiting == 0


async def test_nobody_queues_past_a_deadline() -> None:
    bulkhead = Bulkhead(1, max_waiters=5)
    async with bulkhead.guard():
        with pytest.raises(TimeoutError):
            async with TimeLimit(2, TimeoutError):
                await bulkhead.call(checkpoint)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bulkhead.call(checkpoint)
        assert scope.cancelled_caught
    assert bulkhead.snapshot() == BulkheadSnapshot(name="bulkhead", max_concurrent=1, running=0, waiting=0, refused=0)


@every_way
async def test_what_a_cancelled_call_held_goes_to_the_next(way: Way) -> None:
    bulkhead = Bulkhead(1, max_waiters=5)
    work = Work()
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await way(bulkhead, work)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancelled)
        await settle()
        tasks.start_soon(way, bulkhead, work)
        await settle()
        assert len(work.begun) == 1
        scope.cancel()
        await settle()
        assert (len(work.begun), work.running) == (2, 1)
        work.end.set()
    assert (work.most, bulkhead.snapshot().running) == (1, 0)


# -- cancellation at every step


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("role", ["running", "head", "second"])
@every_way
async def test_cancelled_at_every_step_no_place_is_lost_and_none_is_made(
    way: Way, role: str, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("trio has scopes only")
    for cancel_at in range(40):
        bulkhead = Bulkhead(1, max_waiters=10)
        work = Work()
        release = anyio.Event()

        async def hold(bulkhead: Bulkhead = bulkhead, release: anyio.Event = release) -> None:
            async with bulkhead.guard():
                await release.wait()

        async def behind(bulkhead: Bulkhead = bulkhead, work: Work = work) -> None:
            await way(bulkhead, partial(work, "behind"))

        async def victim(bulkhead: Bulkhead = bulkhead, work: Work = work) -> None:
            await way(bulkhead, partial(work, "victim"))

        async with anyio.create_task_group() as tasks:
            if role != "running":
                tasks.start_soon(hold)
                await settle()
            if role == "second":
                tasks.start_soon(bulkhead.call, checkpoint)
                await settle()
            cancel = start(victim, tasks, native)
            await checkpoint()
            tasks.start_soon(behind)
            for step in range(20):
                if cancel_at == 2 * step:
                    cancel()
                if step == 5:
                    release.set()
                if step == 12:
                    work.end.set()
                if cancel_at == 2 * step + 1:
                    cancel()
                assert bulkhead.snapshot().running <= 1
                await checkpoint()
        assert "behind" in work.begun, cancel_at
        assert work.most == 1
        seen = bulkhead.snapshot()
        assert (seen.running, seen.waiting, seen.refused) == (0, 0, 0)
        async with bulkhead.guard():
            assert bulkhead.snapshot().running == 1
    assert work.begun[0] == "victim"  # in the end it is too late to cancel


def start(body: Callable[[], Coroutine[Any, Any, None]], tasks: anyio.abc.TaskGroup, native: bool) -> Callable[[], object]:
    scope = anyio.CancelScope()

    async def live() -> None:
        with scope:
            await body()

    if not native:
        tasks.start_soon(live)
        return scope.cancel
    task = asyncio.create_task(body())

    async def watch() -> None:
        with suppress(asyncio.CancelledError):
            await task

    tasks.start_soon(watch)
    return task.cancel


# -- beside others


async def test_a_breaker_outside_ignores_that_there_is_no_place() -> None:
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker("outside", trip=ConsecutiveFailures(2), trials=Trials(1, max_inconclusive=1000))
    guarded = breaker | bulkhead
    async with bulkhead.guard():
        for _ in range(10):
            with pytest.raises(BulkheadFullError):
                await guarded.call(checkpoint)
        assert breaker.state is State.CLOSED
        assert breaker.snapshot().totals.failures == 0
        breaker.half_open()
        for _ in range(10):  # each gives the only trial slot back
            with pytest.raises(BulkheadFullError):
                await guarded.call(checkpoint)
        assert (breaker.state, breaker.snapshot().in_flight) == (State.HALF_OPEN, 0)
    await guarded.call(checkpoint)
    assert breaker.state is State.CLOSED


async def test_a_breaker_inside_that_refuses_leaves_no_trace() -> None:
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker("inside")
    breaker.force_open()

    @bulkhead
    @breaker
    async def function() -> None: ...

    for _ in range(3):
        with pytest.raises(CircuitOpenError):
            await function()
    assert bulkhead.snapshot().running == 0


# -- what there is to see


async def test_refusals_are_told() -> None:
    bulkhead = Bulkhead(1, name="told")
    told: list[Event] = []
    async with bulkhead.guard():
        with pytest.raises(BulkheadFullError):
            await bulkhead.call(checkpoint)
        unsubscribe = bulkhead.subscribe(told.append)
        with pytest.raises(BulkheadFullError):
            await bulkhead.call(checkpoint)
        unsubscribe()
        with pytest.raises(BulkheadFullError):
            await bulkhead.call(checkpoint)
    (event,) = told
    assert isinstance(event, GuardRefused)
    assert (event.name, event.retry_after) == ("told", None)
    assert event.reason == "1 of 1 places are taken, and nobody may wait"
    assert bulkhead.snapshot().refused == 3


async def test_callers_who_retry_refusals_at_once_do_not_stop_the_loop() -> None:
    bulkhead = Bulkhead(1)
    tries = 0
    async with anyio.create_task_group() as tasks, bulkhead.guard():
        tasks.start_soon(checkpoint)
        ended = anyio.Event()
        tasks.start_soon(end, ended)
        while not ended.is_set():
            tries += 1
            assert tries < 1000
            with suppress(BulkheadFullError):
                await bulkhead.call(checkpoint)


async def end(event: anyio.Event) -> None:
    event.set()


def test_traits() -> None:
    traits = Bulkhead(10, name="few").traits
    assert (traits.kind, traits.words, traits.max_wait) == ("limit", "bulkhead 'few' (10 at once)", 0.0)
    traits = Bulkhead(10, max_waiters=5, max_wait=0.5).traits
    words = "bulkhead 'bulkhead' (10 at once, and 5 in line for up to 0.5 s)"
    assert (traits.kind, traits.words, traits.max_wait) == ("limit", words, 0.5)
    assert not traits.per_attempt
    assert Bulkhead(10, max_waiters=5).traits.words == "bulkhead 'bulkhead' (10 at once, and 5 in line)"
    assert Bulkhead(10, max_waiters=5, max_wait=0).traits.words == "bulkhead 'bulkhead' (10 at once)"
    assert repr(Bulkhead(1)) == "<Bulkhead 'bulkhead'>"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"max_concurrent": 0}, ValueError, "max_concurrent must be a whole number, 1 or more, not 0"),
        ({"max_concurrent": True}, TypeError, "max_concurrent must be"),
        ({"max_concurrent": 1.5}, TypeError, "max_concurrent must be"),
        ({"max_waiters": -1}, ValueError, "max_waiters must be a whole number, 0 or more, not -1"),
        ({"max_waiters": inf}, TypeError, "max_waiters must be"),
        ({"max_waiters": 1, "max_wait": -1}, ValueError, "max_wait must be a number of seconds, 0 or more"),
        ({"max_waiters": 1, "max_wait": nan}, ValueError, "max_wait must be"),
        ({"max_waiters": 1, "max_wait": None}, TypeError, "max_wait must be"),
        ({"max_wait": 2.0}, ValueError, r"max_waiters must be 1 or more if callers may wait for 2.0 s \(max_wait\), not 0"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": 5}, TypeError, "name must be a string"),
        ({"clock": 5}, TypeError, "clock must be a function"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Bulkhead(**{"max_concurrent": 1, **settings})


def test_one_bulkhead_serves_loops_of_both_kinds_one_after_another() -> None:
    bulkhead = Bulkhead(1, max_waiters=5)
    function = bulkhead(checkpoint)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(function)

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(main, backend=backend)
    assert bulkhead.snapshot().running == bulkhead.snapshot().waiting == 0


def test_it_is_made_where_no_loop_runs() -> None:
    bulkhead = Bulkhead(1, clock=anyio.current_time)
    virtual.run("asyncio", bulkhead.call, checkpoint)
