"""Who waits for a breaker waits for all that stand above it: woken by each of them, in order, and told whom it was for."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import BreakerRegistry, CallRefused, CircuitBreaker, CircuitOpenError, State, Trials
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, record_events

from .family import ABOVE, KEYS, line_of

Clock = Callable[[], float]


def family(clock: Clock, **settings: Any) -> BreakerRegistry[str]:
    """Breakers x, y and z; `middle` stands above x and y, `top` above all."""
    return BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock, **settings), parent=ABOVE.get)


def probed(clock: Clock, probes: dict[str, Callable[[], Awaitable[object]]]) -> BreakerRegistry[str]:
    return BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock, probe=probes.get(key)), parent=ABOVE.get)


async def fine() -> str:
    return "fine"


async def refusal_of(breaker: CircuitBreaker, max_wait: float = 0.0) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.acquire(max_wait=max_wait)
    return refusal.value


async def await_with_guard(breaker: CircuitBreaker, max_wait: float) -> None:
    async with breaker.guard(max_wait=max_wait):
        await checkpoint()


# -- what wakes

OWN = "x"
WAKES: dict[str, Callable[[CircuitBreaker], object]] = {
    "reset": CircuitBreaker.reset,
    "disable": CircuitBreaker.disable,
    "metrics_only": CircuitBreaker.metrics_only,
    "half_open": CircuitBreaker.half_open,
}
MIDDLE = "middle"


@pytest.mark.parametrize("order", WAKES)
@pytest.mark.parametrize("where", [OWN, MIDDLE, "top"])
async def test_an_order_to_any_of_them_wakes_who_waits(where: str, order: str, clock: Clock) -> None:
    registry = family(clock)
    child = registry["x"]
    registry[where].force_open()
    began = clock()
    admitted: list[float] = []

    async def wait() -> None:
        with suppress(CircuitOpenError):
            async with child.guard(max_wait=60):
                admitted.append(clock() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert child.snapshot().waiting == 1
        WAKES[order](registry[where])
    assert admitted == [0.0]
    assert child.snapshot().waiting == 0


@pytest.mark.parametrize("where", ["x", MIDDLE, "top"])
async def test_the_end_of_maintenance_of_any_of_them_wakes_who_waits(where: str, clock: Clock) -> None:
    registry = family(clock)
    child = registry["x"]
    admitted: list[float] = []

    async def wait() -> None:
        with suppress(CircuitOpenError):
            async with child.guard(max_wait=60):
                admitted.append(clock() - began)

    async with anyio.create_task_group() as tasks, registry[where].isolated():
        tasks.start_soon(wait)
        await anyio.sleep(5)
        began = clock()
    assert admitted == [0.0]


@pytest.mark.parametrize(
    ("sibling", "where"), [(key, above) for key in KEYS for above in line_of(key) if above in line_of("x")]
)
async def test_a_slot_that_comes_back_by_another_way_wakes_who_waits(where: str, sibling: str, clock: Clock) -> None:
    registry = family(clock, trials=Trials(1, max_inconclusive=10))
    registry[where].half_open()
    held = await registry[sibling].acquire()
    assert registry[where].snapshot().in_flight == 1
    child, began = registry["x"], clock()

    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            async with child.guard(max_wait=20):
                assert clock() == began

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert child.snapshot().waiting == 1
        held.ignore()
    assert registry[where].state is State.CLOSED


@pytest.mark.parametrize("where", ["x", "middle", "top"])
async def test_time_alone_wakes_who_waits(where: str, clock: Clock) -> None:
    registry = family(clock)
    registry[where].open(7)
    began = clock()
    async with registry["x"].guard(max_wait=10):
        assert clock() - began == pytest.approx(7)
        assert registry[where].state is State.HALF_OPEN
    assert registry[where].state is State.CLOSED


async def test_it_waits_for_one_after_the_other(clock: Clock) -> None:
    registry = family(clock)
    began = clock()
    for seconds, key in enumerate(("middle", "x", "top"), 1):
        registry[key].open(seconds)
    async with registry["x"].guard(max_wait=10):
        assert clock() - began == pytest.approx(3)
    assert {registry[key].state for key in ("x", "middle", "top")} == {State.CLOSED}
    assert [registry[key].snapshot().totals.successes for key in ("x", "middle", "top")] == [1, 1, 1]


@pytest.mark.parametrize("where", ["x", "middle", "top"])
async def test_a_wait_that_must_be_in_vain_is_refused_at_once(where: str, clock: Clock) -> None:
    registry = family(clock)
    registry[where].open(100)
    began = clock()
    refusal = await refusal_of(registry["x"], max_wait=99)
    assert (refusal.name, clock()) == (where, began)
    assert registry[where].snapshot().refused == 1


async def test_those_who_wait_for_a_parent_through_one_child_are_served_in_their_order(clock: Clock) -> None:
    registry = family(clock)
    registry["top"].open(5)
    served: list[int] = []
    dependency = ScriptedDependency(Answer("fine", after=1.0))

    async def caller(number: int) -> None:
        async with registry["x"].guard(max_wait=1000):
            served.append(number)
            await dependency()

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(caller, number)
            await checkpoint()
    assert served == list(range(30))


@pytest.mark.parametrize("where", ["x", "top"])
async def test_who_waits_and_is_admitted_was_not_refused(where: str, clock: Clock) -> None:
    registry = family(clock)
    registry[where].open(5)
    with record_events(registry[where], calls=True) as events:
        await await_with_guard(registry["x"], 60)
    assert registry[where].snapshot().totals.refused == 0
    assert not [event for event in events if isinstance(event, CallRefused)]


async def test_all_who_wait_through_many_children_are_served_one_at_a_time(clock: Clock) -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(
        lambda key: CircuitBreaker(f"{key}", clock=clock, trials=Trials(50, concurrent=2) if key < 0 else 1),
        parent=lambda key: -1,
    )
    registry[-1].open(5)
    dependency = ScriptedDependency(Answer("fine", after=1.0))
    served: list[int] = []

    async def caller(number: int) -> None:
        async with registry[number % 10].guard(max_wait=1000):
            served.append(number)
            await dependency()

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(caller, number)
            await checkpoint()
    assert dependency.most_running == 2
    assert sorted(served) == list(range(50))
    for child in range(10):
        assert [number for number in served if number % 10 == child] == list(range(child, 50, 10))
    assert registry[-1].state is State.CLOSED
    assert registry[-1].snapshot().in_flight == 0


async def test_a_cancelled_waiter_holds_up_neither_its_line_nor_another_childs(clock: Clock) -> None:
    registry = family(clock)
    registry["middle"].open(5)
    served: list[str] = []

    async def caller(key: str, patience: float) -> None:
        with anyio.CancelScope() as scope:  # no deadline, which would refuse it at once
            tasks.start_soon(lose_patience, scope, patience)
            async with registry[key].guard(max_wait=inf):
                served.append(key)

    async def lose_patience(scope: anyio.CancelScope, patience: float) -> None:
        await anyio.sleep(patience)
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        for key, patience in (("x", 1), ("x", 100), ("y", 2), ("y", 100), ("x", 3)):
            tasks.start_soon(caller, key, patience)
    assert sorted(served) == ["x", "y"]
    assert [registry[key].snapshot().waiting for key in ("x", "y", "middle")] == [0, 0, 0]
    assert registry["middle"].state is State.CLOSED


@pytest.mark.parametrize("where", ["middle", "top"])
async def test_a_wait_that_ends_without_admission_names_the_one_that_refuses(where: str, clock: Clock) -> None:
    registry = family(clock)
    registry[where].force_open("maintenance")
    refusal = await refusal_of(registry["x"], max_wait=5)
    assert (refusal.name, refusal.state) == (where, State.FORCED_OPEN)
    assert "maintenance" in refusal.reason
    assert registry["x"].snapshot().totals.refused == 0


async def test_a_refusal_is_never_said_to_be_of_a_breaker_that_is_closed_unless_it_waited(clock: Clock) -> None:
    registry = family(clock)
    for where in ("x", "middle", "top"):
        registry[where].force_open("maintenance")
        refusal = await refusal_of(registry["x"])
        assert (refusal.name, refusal.state, refusal.reason) == (where, State.FORCED_OPEN, "maintenance")
        registry[where].reset()


async def test_a_full_line_is_the_childs_own(clock: Clock) -> None:
    registry = family(clock, max_waiters=1)
    registry["top"].force_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(suppressed_wait, registry["x"])
        tasks.start_soon(suppressed_wait, registry["y"])
        await anyio.wait_all_tasks_blocked()
        before = registry["top"].snapshot().refused
        refusal = await refusal_of(registry["x"], max_wait=5)
        assert (refusal.name, refusal.reason) == ("x", "1 callers are waiting already")
        assert registry["x"].snapshot().refused == 1
        assert registry["top"].snapshot().refused == before
        assert [registry[key].snapshot().waiting for key in ("x", "y", "middle", "top")] == [1, 1, 0, 0]
        tasks.cancel_scope.cancel()


async def suppressed_wait(breaker: CircuitBreaker) -> None:
    async with breaker.guard(max_wait=60):
        raise AssertionError("nobody lets it in")


# -- giving way


async def turns_during(calls: Callable[[], Awaitable[object]]) -> int:
    """How often another task had its turn."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await checkpoint()
        before = turns
        await calls()
        after = turns
        tasks.cancel_scope.cancel()
    return after - before


@pytest.mark.parametrize("watched", [None, "x", "middle", "top"])
@pytest.mark.parametrize("where", ["x", "middle", "top"])
async def test_a_tight_loop_of_refusals_by_any_of_them_lets_others_run(where: str, watched: str | None) -> None:
    registry = family(ManualClock())
    registry[where].open(1000)
    child = registry["x"]
    if watched:
        registry[watched].subscribe(lambda event: None, calls=True)

    async def insist() -> None:
        for _ in range(640):
            with pytest.raises(CircuitOpenError):
                await child.call(fine)

    assert 9 <= await turns_during(insist) <= 11
    assert registry[where].snapshot().refused == 640
