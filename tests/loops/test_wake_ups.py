"""What one thread does reaches those who wait in other threads and loops, in order and without a miss."""

import threading
from functools import partial
from math import inf

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, Event, State, StateChanged
from aiobreaker.loops import Bell
from aiobreaker.testing import record_events

from .stage import LONG, check_order, in_loops, in_threads


def test_a_verdict_wakes_everybody_who_waits_in_whatever_loop() -> None:
    breaker = CircuitBreaker("awaited")
    breaker.half_open()
    trial = anyio.run(breaker.acquire)
    ready = threading.Barrier(5)
    seen: list[str] = []

    async def stand_in_line() -> None:
        async with breaker.guard(max_wait=inf):
            seen.append("admitted")

    async def wait_for() -> None:
        await breaker.wait_for(State.CLOSED)
        seen.append("waited for")

    async def read() -> None:
        async with breaker.events() as events:
            event = await anext(events)
        assert isinstance(event, StateChanged)
        seen.append(event.new)

    async def crowd() -> None:
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for main in (stand_in_line, stand_in_line, stand_in_line, wait_for, read):
                    tasks.start_soon(main)
                await anyio.wait_all_tasks_blocked()
                ready.wait(LONG)

    def decide() -> None:
        ready.wait(LONG)
        trial.success()

    in_threads(decide, *in_loops(*[crowd] * 4))
    assert sorted(seen) == ["admitted"] * 12 + ["closed"] * 4 + ["waited for"] * 4
    assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_order_from_a_worker_thread_wakes_those_who_wait(backend: str) -> None:
    breaker = CircuitBreaker("ordered")
    breaker.force_open()

    async def stand_in_line() -> None:
        async with breaker.guard(max_wait=inf):
            pass

    async def main() -> None:
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stand_in_line)
                tasks.start_soon(breaker.wait_for, State.CLOSED)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(breaker.reset)

    anyio.run(main, backend=backend)
    assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("patient", [True, False])
def test_nobody_waits_in_vain_however_fast_the_orders_come(patient: bool) -> None:
    breaker = CircuitBreaker("hasty")
    over = threading.Event()

    async def stand_in_line() -> None:
        async with breaker.guard(max_wait=inf):
            pass

    async def waiter() -> None:
        with anyio.fail_after(LONG):
            while not over.is_set():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stand_in_line)
                    if not patient:
                        await checkpoint()
                        tasks.cancel_scope.cancel()

    def order() -> None:
        for _ in range(1_000):
            breaker.force_open()
            breaker.reset()
        over.set()

    in_threads(order, *in_loops(*[waiter] * 3))
    assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0


@pytest.mark.usefixtures("hasty_threads")
def test_a_bell_may_ring_at_any_moment() -> None:
    bell = Bell()
    over = threading.Semaphore(0)

    async def listen() -> None:
        try:
            for _ in range(10_000):
                with bell.heard():
                    pass
        finally:
            over.release()

    def ring() -> None:
        for _ in range(2):
            while not over.acquire(blocking=False):
                bell.ring()

    in_threads(ring, *in_loops(listen, listen))


@pytest.mark.usefixtures("hasty_threads")
def test_no_ring_of_a_bell_is_missed() -> None:
    """Players in loops of their own pass a ball around; one ring that is missed stops the game."""
    bell = Bell()
    throws = 0

    async def play(player: int) -> None:
        nonlocal throws
        with anyio.fail_after(LONG):
            for turn in range(300):
                while throws != 3 * turn + player:
                    with bell.heard() as rung:
                        if throws != 3 * turn + player:
                            await rung.wait()
                throws += 1
                bell.ring()

    in_threads(*in_loops(*(partial(play, player) for player in range(3))))
    assert throws == 900


@pytest.mark.usefixtures("hasty_threads")
def test_readers_in_other_loops_get_every_event_in_order() -> None:
    breaker = CircuitBreaker("told")
    ready = threading.Barrier(5)
    heard: list[list[Event]] = []

    async def read() -> None:
        with anyio.fail_after(LONG):
            async with breaker.events(buffer=2_000) as events:
                ready.wait(LONG)
                mine = [await anext(events)]
                while mine[-1].seq < 2_000:
                    mine.append(await anext(events))
                heard.append(mine)

    def order() -> None:
        ready.wait(LONG)
        for _ in range(1_000):
            breaker.force_open()
            breaker.reset()

    in_threads(order, *in_loops(*[read] * 4))
    for events in heard:
        assert len(check_order(events)) == 2_000
    assert heard == [heard[0]] * 4


@pytest.mark.usefixtures("hasty_threads")
def test_orders_from_all_threads_are_told_in_one_order() -> None:
    breaker = CircuitBreaker("ordered")

    def order() -> None:
        for _ in range(300):
            breaker.force_open()
            breaker.disable()
            breaker.reset()

    with record_events(breaker) as events:
        in_threads(order, order, order)
    check_order(events)
    assert breaker.snapshot().transitions == len(events)


@pytest.mark.usefixtures("hasty_threads")
def test_all_who_come_first_at_the_same_moment_are_told() -> None:
    for _ in range(400):
        breaker = CircuitBreaker("new")
        told: list[list[Event]] = [[], [], [], []]
        in_threads(*(partial(breaker.subscribe, events.append) for events in told))
        breaker.force_open()
        assert [len(events) for events in told] == [1, 1, 1, 1]


@pytest.mark.usefixtures("hasty_threads")
def test_observers_and_readers_come_and_go_in_every_thread() -> None:
    breaker = CircuitBreaker("watched")
    told: list[int] = []
    for number in range(200):
        breaker.subscribe(lambda event, number=number: told.append(number))  # type: ignore[misc]  # lambda of two
    gone: list[Event] = []

    def come_and_go() -> None:
        for _ in range(3_000):
            breaker.subscribe(gone.append)()

    async def read() -> None:
        with anyio.fail_after(LONG):
            for _ in range(200):
                async with breaker.events() as events:
                    breaker.force_open()
                    breaker.reset()
                    await anext(events)

    in_threads(*[come_and_go] * 3, *in_loops(read, read))
    told.clear()
    gone.clear()
    breaker.force_open()
    assert told == list(range(200))
    assert gone == []
