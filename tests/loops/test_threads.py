"""Several threads with a loop each share one breaker, and every count stays exact."""

import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, CircuitOpenError, FailureRate, LastSeconds, SlowCallRate, State, Trials, TrialsForfeited
from aiobreaker.testing import ManualClock, record_events

from .stage import LONG, Room, check_order, fine, in_loops, in_threads


class NeutralError(Exception):
    pass


async def several(times: int, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(main)


@pytest.mark.usefixtures("hasty_threads")
def test_trial_slots_stay_exact_over_all_threads() -> None:
    breaker = CircuitBreaker("slots", trials=Trials(3, concurrent=2, max_inconclusive=10**9), ignore=NeutralError)
    breaker.half_open()
    room = Room()

    async def trial() -> None:
        await room.visit()
        raise NeutralError

    async def caller() -> None:
        for number in range(400):
            with suppress(CircuitOpenError, NeutralError), anyio.CancelScope() as scope:
                if not number % 3:
                    scope.cancel()
                await breaker.call(trial)

    in_threads(*in_loops(*[partial(several, 3, caller)] * 4))
    assert room.most == 2
    assert breaker.snapshot().in_flight == 0
    assert breaker.state is State.HALF_OPEN
    held = [anyio.run(breaker.acquire) for _ in range(2)]
    with pytest.raises(CircuitOpenError):
        anyio.run(breaker.acquire)
    for permit in held:
        permit.ignore()


@pytest.mark.usefixtures("hasty_threads")
def test_one_trial_runs_when_the_open_time_is_over_for_all_threads_at_once() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("due", clock=clock)
    room = Room()

    async def trial() -> None:
        await room.visit()
        raise OSError

    def open_until_now() -> None:
        breaker.reset()
        breaker.open(1)
        clock.advance(1)

    together = threading.Barrier(4, action=open_until_now)

    async def caller() -> None:
        for _ in range(500):
            together.wait(LONG)
            with suppress(CircuitOpenError, OSError):
                await breaker.call(trial)

    in_threads(*in_loops(*[caller] * 4))
    assert (room.visits, room.most) == (500, 1)
    assert breaker.snapshot().in_flight == 0


@pytest.mark.usefixtures("hasty_threads")
def test_transitions_stay_exact_over_all_threads() -> None:
    breaker = CircuitBreaker("transitions")
    breaker.half_open()
    room = Room()

    async def trial() -> None:
        await room.visit()
        raise OSError

    async def caller() -> None:
        for _ in range(200):
            try:
                await breaker.call(trial)
            except CircuitOpenError:
                breaker.half_open()
            except OSError:
                pass

    with record_events(breaker) as events:
        in_threads(*in_loops(*[partial(several, 2, caller)] * 4))
    assert room.most == 1
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.failures == room.visits
    transitions = check_order(events)
    assert len([event for event in transitions if event.new is State.OPEN]) == room.visits
    assert breaker.snapshot().transitions == len(transitions) + 1


@pytest.mark.usefixtures("hasty_threads")
def test_a_lease_is_forfeited_once_whoever_notices() -> None:
    clock = ManualClock()
    trials = Trials(4, concurrent=2, required=1, max_inconclusive=1000)
    breaker = CircuitBreaker("leases", trials=trials, ignore=NeutralError, clock=clock)

    async def neutral() -> None:
        await checkpoint()
        raise NeutralError

    async def caller() -> None:
        for _ in range(3):
            with suppress(CircuitOpenError, NeutralError):
                await breaker.call(neutral)

    for _ in range(20):
        breaker.reset()
        breaker.half_open()
        hung = [anyio.run(breaker.acquire) for _ in range(2)]
        clock.advance(30)
        with record_events(breaker) as events:
            in_threads(*in_loops(*[caller] * 4))
        (forfeited,) = events
        assert isinstance(forfeited, TrialsForfeited)
        assert forfeited.trials == 2
        for permit in hung:
            permit.success()
        assert breaker.state is State.HALF_OPEN
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.late == 40


@pytest.mark.usefixtures("hasty_threads")
def test_at_most_one_probe_runs_over_all_threads_and_none_is_left_in_flight() -> None:
    room = Room()
    breaker = CircuitBreaker("probed", probe=room.visit)
    over = threading.Event()

    async def caller() -> None:
        while not over.is_set():
            with suppress(CircuitOpenError):
                await breaker.call(fine)
            await checkpoint()

    def order() -> None:
        for _ in range(5_000):
            breaker.half_open()
            breaker.reset()
        over.set()

    in_threads(order, *in_loops(caller, caller))
    assert room.visits
    assert breaker.snapshot().in_flight == 0


SHAPES: dict[str, dict[str, Any]] = {
    "count": {},
    "time window": {"trip": FailureRate(0.5, LastSeconds(60))},
    "slow calls": {"trip": SlowCallRate(0.5, 60, LastSeconds(60))},
    "in flight": {"trip": SlowCallRate(0.5, 60, LastSeconds(60), count_in_flight=True)},
    "in flight, some slow": {"trip": SlowCallRate(1.0, 2e-5, LastSeconds(60), minimum_calls=10**9, count_in_flight=True)},
    "judged": {"failure_if": lambda result: False},
}


async def at_once() -> None:
    """The shortest of functions: the guards of several threads run into each other all the time."""


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_call_stays_in_flight_for_ever(shape: str, way: str) -> None:
    breaker = CircuitBreaker("busy", **SHAPES[shape])
    function = breaker(at_once)

    async def decorated() -> None:
        for _ in range(1_000):
            await function()

    async def call() -> None:
        for _ in range(1_000):
            await breaker.call(at_once)

    async def guard() -> None:
        for _ in range(1_000):
            async with breaker.guard():
                await at_once()

    mains = {"decorated": decorated, "call": call, "guard": guard}
    in_threads(*in_loops(*[mains[way]] * 4))
    seen = breaker.snapshot()
    assert seen.state is State.CLOSED
    assert seen.in_flight == 0
    assert 0 < seen.calls <= 4_000


@pytest.mark.usefixtures("hasty_threads")
def test_maintenance_in_every_thread_drains_and_leaves_the_circuit_as_it_was() -> None:
    breaker = CircuitBreaker("maintained")

    async def worker() -> None:
        for _ in range(50):
            with suppress(CircuitOpenError):
                await breaker.call(fine)
            async with breaker.isolated(drain=True):
                await checkpoint()

    in_threads(*in_loops(*[partial(several, 2, worker)] * 4))
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().in_flight == 0
