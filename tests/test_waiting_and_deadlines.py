"""A breaker's own line and deadlines: nobody queues for a circuit that stays open past the deadline."""

from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, State
from aiobreaker.policies.deadline import Deadline
from aiobreaker.policies.timeout import Timeout
from aiobreaker.testing import ManualClock

Clock = Callable[[], float]
Way = Callable[[CircuitBreaker, float], Coroutine[Any, Any, None]]


async def in_a_block(breaker: CircuitBreaker, max_wait: float) -> None:
    async with breaker.guard(max_wait=max_wait):
        await anyio.sleep(0)


async def by_permit(breaker: CircuitBreaker, max_wait: float) -> None:
    (await breaker.acquire(max_wait=max_wait)).success()


async def in_a_stream(breaker: CircuitBreaker, max_wait: float) -> None:
    async def source() -> Any:
        yield 1

    async with breaker.stream(source(), max_wait=max_wait) as items:
        assert [item async for item in items] == [1]


every_way = pytest.mark.parametrize("way", [in_a_block, by_permit, in_a_stream])


async def refused_after(way: Way, breaker: CircuitBreaker, max_wait: float) -> tuple[CircuitOpenError, float]:
    began = anyio.current_time()
    with pytest.raises(CircuitOpenError) as raised:
        await way(breaker, max_wait)
    return raised.value, anyio.current_time() - began


@every_way
@pytest.mark.parametrize("max_wait", [20, inf])
async def test_a_circuit_that_stays_open_past_the_deadline_refuses_at_once(way: Way, max_wait: float, clock: Clock) -> None:
    breaker = CircuitBreaker("open", clock=clock)
    breaker.open(10)
    for limit in (Deadline(5), Timeout(5)):
        async with limit.guard():
            refusal, after = await refused_after(way, breaker, max_wait)
            assert after == 0
            assert refusal.retry_after == pytest.approx(10)
            assert (refusal.name, refusal.state) == ("open", State.OPEN)
    with anyio.move_on_after(5):
        assert (await refused_after(way, breaker, max_wait))[1] == 0
    assert (breaker.snapshot().waiting, breaker.snapshot().refused) == (0, 3)


@every_way
async def test_one_that_lets_calls_through_in_time_is_waited_for(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("soon", clock=clock)
    breaker.open(10)
    began = anyio.current_time()
    async with Deadline(11).guard() as limit:
        await way(breaker, 20)
        assert limit.remaining() == pytest.approx(1)
    assert anyio.current_time() - began == pytest.approx(10)
    assert breaker.state is State.CLOSED


@every_way
async def test_one_that_opens_at_the_very_deadline_is_too_late(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("at the end", clock=clock)
    breaker.open(8)
    async with Deadline(8).guard():
        assert (await refused_after(way, breaker, 20))[1] == 0


@every_way
async def test_without_a_deadline_only_the_wait_counts(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("patient", clock=clock)
    breaker.open(8)
    assert (await refused_after(way, breaker, 7))[1] == 0
    began = anyio.current_time()
    await way(breaker, 9)
    assert anyio.current_time() - began == pytest.approx(8)


@every_way
async def test_what_nobody_can_foresee_is_waited_for_up_to_the_deadline(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("half open", clock=clock)
    breaker.half_open()
    held = await breaker.acquire()
    began = anyio.current_time()
    with pytest.raises(TimeoutError):
        async with Deadline(5).guard():
            await way(breaker, 20)
    assert anyio.current_time() - began == pytest.approx(5)
    assert breaker.snapshot().waiting == 0
    held.success()
    await way(breaker, 20)


@every_way
async def test_whoever_comes_behind_others_is_refused_at_once_too(way: Way, clock: Clock) -> None:
    breaker = CircuitBreaker("line", clock=clock)
    breaker.open(10)
    admitted: list[float] = []
    began = anyio.current_time()

    async def patient() -> None:
        await way(breaker, 20)
        admitted.append(anyio.current_time() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(patient)
        await anyio.sleep(1)
        assert breaker.snapshot().waiting == 1
        async with Deadline(5).guard():
            assert (await refused_after(way, breaker, 20))[1] == 0
        assert breaker.snapshot().waiting == 1
    assert admitted == [pytest.approx(10)]


@every_way
async def test_a_circuit_above_counts_as_well(way: Way, clock: Clock) -> None:
    family: BreakerRegistry[int] = BreakerRegistry(
        lambda generation: CircuitBreaker(f"{generation}", clock=clock),
        parent=lambda generation: generation - 1 if generation else None,
    )
    family[0].open(10)
    async with Deadline(5).guard():
        refusal, after = await refused_after(way, family[1], 20)
    assert (refusal.name, after) == ("0", 0)
    await way(family[1], 20)


async def test_a_circuit_whose_time_is_over_admits_even_at_the_end(clock: Clock) -> None:
    breaker = CircuitBreaker("due", clock=clock)
    breaker.open(1)
    await anyio.sleep(1)
    with anyio.move_on_after(0):
        permit = await breaker.acquire(max_wait=20)
        permit.success()
    assert breaker.state is State.CLOSED


async def test_whoever_is_being_cancelled_does_not_overtake() -> None:
    time = ManualClock()
    breaker = CircuitBreaker("line", clock=time)
    breaker.open(10)
    admitted: list[str] = []

    async def patient() -> None:
        (await breaker.acquire(max_wait=20)).success()
        admitted.append("patient")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(patient)
        await anyio.sleep(1)
        time.advance(10)
        with anyio.move_on_after(0):
            (await breaker.acquire(max_wait=20)).success()
            admitted.append("late")
    assert admitted == ["patient"]


@every_way
async def test_after_a_refusal_of_that_kind_others_are_let_run(way: Way, clock: Clock) -> None:
    """A loop that asks again at once must not hold up the event loop."""
    breaker = CircuitBreaker("busy", clock=clock)
    breaker.open(10)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0)
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        async with Deadline(5).guard():
            for _ in range(200):
                await refused_after(way, breaker, 20)
        tasks.cancel_scope.cancel()
    assert turns
