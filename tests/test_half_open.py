"""What must hold in half-open: exactly so many trials at once, no more than are wanted, and never stuck."""

from collections.abc import Callable
from math import inf

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, State, Trials
from aiobreaker.testing import Answer, ScriptedDependency, record_events


async def trip(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(OSError):
            await breaker.call(ScriptedDependency(OSError("down")))
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("callers", [1_000, 10_000])
@pytest.mark.parametrize(("count", "concurrent"), [(1, 1), (3, 3), (5, 2)])
async def test_a_crowd_gets_exactly_the_trials(clock: Callable[[], float], callers: int, count: int, concurrent: int) -> None:
    breaker = CircuitBreaker("crowd", trials=Trials(count, concurrent), clock=clock)
    await trip(breaker)
    await anyio.sleep(30)
    dependency = ScriptedDependency(Answer("fine", after=1.0))
    refused = 0

    async def caller() -> None:
        nonlocal refused
        try:
            await breaker.call(dependency)
        except CircuitOpenError:
            refused += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(caller)

    assert dependency.most_running == concurrent
    assert len(dependency.calls) == concurrent
    assert refused == callers - concurrent
    assert breaker.state is (State.CLOSED if concurrent == count else State.HALF_OPEN)


async def test_patient_callers_are_all_served_in_their_order(clock: Callable[[], float]) -> None:
    breaker = CircuitBreaker("patient", clock=clock)
    await trip(breaker)
    served: list[int] = []
    dependency = ScriptedDependency(Answer("fine", after=1.0))

    async def caller(number: int) -> None:
        async with breaker.guard(max_wait=100):
            served.append(number)
            await dependency()

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(caller, number)
            await anyio.sleep(0)

    assert served == list(range(100))
    assert breaker.snapshot().refused == 0


async def test_a_cancelled_trial_gives_its_slot_back_and_passes_no_verdict(clock: Callable[[], float]) -> None:
    breaker = CircuitBreaker("cancelled", clock=clock)
    await trip(breaker)
    await anyio.sleep(30)
    with anyio.move_on_after(1):
        await breaker.call(ScriptedDependency(Answer(after=inf)))
    assert breaker.state is State.HALF_OPEN
    assert breaker.snapshot().in_flight == 0
    await breaker.call(ScriptedDependency("fine"))
    assert breaker.state is State.CLOSED


async def test_a_hung_trial_forfeits_at_its_lease_and_the_circuit_recovers_by_itself(clock: Callable[[], float]) -> None:
    breaker = CircuitBreaker("hung", clock=clock)
    await trip(breaker)
    await anyio.sleep(30)
    with record_events(breaker) as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, ScriptedDependency(Answer(after=inf)))
            await anyio.sleep(29.9)
            with pytest.raises(CircuitOpenError) as refusal:
                await breaker.call(ScriptedDependency("fine"))
            assert refusal.value.state is State.HALF_OPEN
            assert refusal.value.retry_after == pytest.approx(0.1)
            await anyio.sleep(0.1)
            with pytest.raises(CircuitOpenError) as refusal:
                await breaker.call(ScriptedDependency("fine"))
            assert refusal.value.state is State.OPEN
            await anyio.sleep(30)
            await breaker.call(ScriptedDependency("fine"))
            assert breaker.state is State.CLOSED
            tasks.cancel_scope.cancel()
    assert [type(event).__name__ for event in events] == [
        "StateChanged",
        "TrialsForfeited",
        "StateChanged",
        "StateChanged",
        "StateChanged",
    ]
    assert breaker.snapshot().totals.late == 1
