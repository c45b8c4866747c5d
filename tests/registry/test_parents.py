"""Breakers that stand under others: a call needs the permits of both, and its outcome counts in both."""

from typing import Any

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, FailureRate, LastCalls, State
from aiobreaker.testing import ManualClock


def host_of(key: str) -> str:
    return key.split("/")[0]


async def fine() -> int:
    return 1


async def broken() -> None:
    raise OSError


def hosts(clock: ManualClock, **settings: Any) -> BreakerRegistry[str]:
    return BreakerRegistry(lambda key: CircuitBreaker(key, clock=clock, **settings), parent=host_of)


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError):
            await breaker.call(broken)


async def test_outcomes_of_children_count_in_their_parent() -> None:
    registry = hosts(ManualClock(), trip=FailureRate(1.0, LastCalls(10), minimum_calls=10))
    await registry["a/x"].call(fine)
    await fail(registry["a/y"], 2)
    await registry["a"].call(fine)
    assert (registry["a"].snapshot().calls, registry["a"].snapshot().failures) == (4, 2)
    assert (registry["a/x"].snapshot().calls, registry["a/x"].snapshot().failures) == (1, 0)
    assert (registry["a/y"].snapshot().calls, registry["a/y"].snapshot().failures) == (2, 2)


async def test_an_open_parent_refuses_for_its_children_under_its_own_name() -> None:
    registry = hosts(ManualClock(), trip=ConsecutiveFailures(3))
    for key in ("a/x", "a/y", "a/z"):
        await fail(registry[key])
    assert registry["a"].state is State.OPEN
    for key in ("a/x", "a/new"):
        with pytest.raises(CircuitOpenError) as refusal:
            await registry[key].call(fine)
        assert refusal.value.name == "a"
        assert registry[key].state is State.CLOSED
        assert registry[key].snapshot().refused == 0
    assert registry["a"].snapshot().refused == 2
    assert await registry["b/x"].call(fine) == 1


async def test_an_open_child_takes_no_trial_of_its_parent() -> None:
    clock = ManualClock()
    registry = hosts(clock, trip=ConsecutiveFailures(2))
    child, parent = registry["a/x"], registry["a"]
    child.open(1000)
    parent.open(1)
    clock.advance(1)
    for _ in range(5):
        with pytest.raises(CircuitOpenError) as refusal:
            await child.call(fine)
        assert refusal.value.name == "a/x"
    assert (parent.state, parent.snapshot().in_flight) == (State.OPEN, 0)
    assert await registry["a/y"].call(fine) == 1
    assert parent.state is State.CLOSED


async def test_a_parent_on_trial_admits_one_call_of_all_its_children() -> None:
    clock = ManualClock()
    registry = hosts(clock)
    registry["a"].open(1)
    clock.advance(1)
    trial = await registry["a/x"].acquire()
    assert registry["a"].state is State.HALF_OPEN
    with pytest.raises(CircuitOpenError) as refusal:
        await registry["a/y"].call(fine)
    assert refusal.value.name == "a"
    assert registry["a/y"].snapshot().in_flight == 0
    trial.success()
    assert registry["a"].state is State.CLOSED
    assert await registry["a/y"].call(fine) == 1


async def test_who_waits_for_a_child_hears_of_its_parent() -> None:
    registry = hosts(ManualClock())
    parent, child = registry["a"], registry["a/x"]
    parent.force_open()
    admitted: list[int] = []

    async def wait() -> None:
        async with child.guard(max_wait=60):
            admitted.append(child.snapshot().in_flight)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not admitted
        parent.reset()
    assert admitted == [1]


def test_a_key_above_itself_is_an_error() -> None:
    above = {"a": "b", "b": "c", "c": "a"}
    registry = BreakerRegistry(CircuitBreaker, parent=above.get)
    with pytest.raises(RuntimeError, match="'a'"):
        registry["a"]
    assert list(registry) == []
    assert registry["d"].name == "d"


def test_a_parent_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="parent must be a function of a key"):
        BreakerRegistry(CircuitBreaker, parent="a")  # type: ignore[arg-type]
