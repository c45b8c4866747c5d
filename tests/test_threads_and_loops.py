"""One breaker, many loops: one after another, at once in threads, across a fork, and dropped for the garbage collector."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from functools import partial
from itertools import cycle, pairwise
from math import inf
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint, current_token

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    Event,
    FailureRate,
    HeldPermit,
    LastSeconds,
    SlowCallRate,
    State,
    StateChanged,
    Trials,
    TrialsForfeited,
)
from aiobreaker.locking import LOCK
from aiobreaker.loops import Bell
from aiobreaker.testing import ManualClock, record_events

LONG = 10  # seconds; the watchdog of what must not hang


async def fine() -> str:
    await checkpoint()
    return "fine"


async def fail() -> None:
    await checkpoint()
    raise OSError("down")


# -- one loop after another

CLOCK = ManualClock()
SHARED = CircuitBreaker("made at import time", clock=CLOCK)
PROBED = CircuitBreaker("made at import time too", probe=checkpoint, clock=CLOCK)


async def tour() -> "weakref.ref[Any]":
    """Everything that awaits, on breakers that other loops have used before. The answer is the loop."""
    for _ in range(5):
        with pytest.raises(OSError, match="down"):
            await SHARED.call(fail)
    with pytest.raises(CircuitOpenError):
        await SHARED.call(fine)
    CLOCK.advance(30)
    await visit_the_line()
    await visit_the_events()
    await visit_the_drain()
    for breaker in (SHARED, PROBED):
        breaker.open(1)
        CLOCK.advance(1)
        assert await breaker.call(fine) == "fine"
        assert breaker.state is State.CLOSED
        assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0
    return weakref.ref(current_token().native_token)


async def visit_the_line() -> None:
    served: list[int] = []

    async def wait_in_line(number: int) -> None:
        async with SHARED.guard(max_wait=inf):
            served.append(number)
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        trial = await SHARED.acquire()
        for number in range(3):
            tasks.start_soon(wait_in_line, number)
            await anyio.wait_all_tasks_blocked()
        assert SHARED.snapshot().waiting == 3
        trial.success()
    assert served == [0, 1, 2]


async def visit_the_events() -> None:
    async with anyio.create_task_group() as tasks, SHARED.events() as events:
        tasks.start_soon(SHARED.wait_for, State.FORCED_OPEN)
        await anyio.wait_all_tasks_blocked()
        SHARED.force_open()
        event = await anext(events)
        assert isinstance(event, StateChanged)
        assert event.new is State.FORCED_OPEN
    SHARED.reset()


async def visit_the_drain() -> None:
    running = await SHARED.acquire()
    drained = anyio.Event()

    async def maintain() -> None:
        async with SHARED.isolated(drain=True):
            drained.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(maintain)
        await anyio.wait_all_tasks_blocked()
        assert not drained.is_set()
        running.success()
    assert drained.is_set()


def test_a_breaker_made_at_import_time_serves_one_loop_after_another() -> None:
    loops = [anyio.run(tour, backend=backend) for backend in ("asyncio", "trio", "asyncio")]
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3  # nothing keeps a loop alive


# -- a loop that ends with calls running


def generated(breaker: CircuitBreaker) -> Callable[[], AsyncGenerator[None, None]]:
    @breaker
    async def items() -> AsyncGenerator[None, None]:
        await anyio.sleep_forever()
        yield

    return items


async def hang_in_a_function(breaker: CircuitBreaker) -> None:
    await breaker(anyio.sleep_forever)()


async def hang_in_a_generator(breaker: CircuitBreaker) -> None:
    async for _ in generated(breaker)():
        pass


async def hang_in_a_call(breaker: CircuitBreaker) -> None:
    await breaker.call(anyio.sleep_forever)


async def hang_in_a_block(breaker: CircuitBreaker) -> None:
    async with breaker.guard():
        await anyio.sleep_forever()


async def hang_with_a_permit(breaker: CircuitBreaker) -> None:
    permit = await breaker.acquire()
    with suppress(ZeroDivisionError):
        await anyio.sleep_forever()
    permit.success()


async def hang_in_a_stream(breaker: CircuitBreaker) -> None:
    async def source() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async with breaker.stream(source()) as items:
        async for _ in items:
            pass


async def hang_in_a_probe(breaker: CircuitBreaker) -> None:
    breaker.reconfigure(probe=anyio.sleep_forever)
    await breaker.call(fine)


Hanging = Callable[[CircuitBreaker], Coroutine[Any, Any, None]]
HANGING: list[Hanging] = [
    hang_in_a_function,
    hang_in_a_generator,
    hang_in_a_call,
    hang_in_a_block,
    hang_with_a_permit,
    hang_in_a_stream,
    hang_in_a_probe,
]


def breaker_on_trial(clock: Callable[[], float] | None = None) -> CircuitBreaker:
    breaker = CircuitBreaker("on trial", trials=Trials(1, max_inconclusive=1000), clock=clock or ManualClock())
    breaker.half_open()
    return breaker


def check_slot_is_free(breaker: CircuitBreaker) -> None:
    """No verdict was passed, the slot is there, and it is the only one."""
    assert breaker.state is State.HALF_OPEN
    breaker.reconfigure(probe=None)
    anyio.run(take_the_only_slot, breaker)
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().waiting == 0
    assert breaker.snapshot().state is State.CLOSED


async def take_the_only_slot(breaker: CircuitBreaker) -> None:
    permit = await breaker.acquire()
    with pytest.raises(CircuitOpenError):
        await breaker.acquire()
    assert breaker.snapshot().in_flight == 1
    permit.success()


@pytest.mark.parametrize("hang", HANGING)
def test_a_loop_that_ends_gives_back_the_slot_of_its_running_trial(hang: Hanging) -> None:
    breaker = breaker_on_trial()
    left: list[asyncio.Task[None]] = []

    async def leave_it_running() -> None:
        left.append(asyncio.create_task(hang(breaker)))
        await anyio.wait_all_tasks_blocked()
        assert breaker.snapshot().in_flight == 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a permit in hand says so
        asyncio.run(leave_it_running())
        left.clear()
        gc.collect()
    check_slot_is_free(breaker)


@pytest.mark.parametrize("hang", [hang_in_a_function, hang_in_a_generator, hang_in_a_call, hang_in_a_block, hang_with_a_permit])
def test_a_trial_that_is_collected_with_its_closed_loop_gives_its_slot_back(
    hang: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="asyncio")  # it complains, rightly
    breaker = breaker_on_trial()
    loop = asyncio.new_event_loop()
    task = loop.create_task(hang(breaker))
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    assert breaker.snapshot().in_flight == 1
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a permit in hand says so
        del task, loop
        gc.collect()
    check_slot_is_free(breaker)


def test_waiters_left_by_a_loop_are_out_of_the_line() -> None:
    breaker = CircuitBreaker("left")
    breaker.force_open()
    left: list[asyncio.Task[None]] = []

    async def wait_in_line() -> None:
        async with breaker.guard(max_wait=inf):
            pass

    async def leave_them_waiting() -> None:
        left.extend(asyncio.create_task(wait_in_line()) for _ in range(3))
        left.append(asyncio.create_task(breaker.wait_for(State.CLOSED)))
        await anyio.wait_all_tasks_blocked()
        assert breaker.snapshot().waiting == 3

    asyncio.run(leave_them_waiting())
    assert breaker.snapshot().waiting == 0
    breaker.reset()
    assert anyio.run(breaker.call, fine, backend="trio") == "fine"


# -- several threads, with a loop each


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that change turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def in_threads(*bodies: Callable[[], object]) -> None:
    """Run them at once, each in a thread of its own; what one raises is raised here, and a hang is an error too."""
    begin = threading.Barrier(len(bodies))
    errors: list[BaseException] = []

    def live(body: Callable[[], object]) -> None:
        try:
            begin.wait(LONG)
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=live, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def in_loops(*mains: Callable[[], Coroutine[Any, Any, None]]) -> list[Callable[[], object]]:
    """Thread bodies that run these, under asyncio and trio by turns; they begin when all the loops are there."""
    begin = threading.Barrier(len(mains))

    async def begin_together(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        begin.wait(LONG)
        await main()

    backends = cycle(("asyncio", "trio"))
    return [partial(anyio.run, begin_together, main, backend=backend) for main, backend in zip(mains, backends, strict=False)]


class Room:
    """Counts who is inside, and ever was at once, over all threads."""

    def __init__(self) -> None:
        self.inside = self.most = self.visits = 0
        self._lock = threading.Lock()

    async def visit(self) -> None:
        with self._lock:
            self.inside += 1
            self.visits += 1
            self.most = max(self.most, self.inside)
        try:
            await checkpoint()
        finally:
            with self._lock:
                self.inside -= 1


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


def check_order(events: list[Event]) -> list[StateChanged]:
    """One after the other, without a gap, each from where the one before it led."""
    assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + len(events)))
    changes = [event for event in events if isinstance(event, StateChanged)]
    assert all(one.new is two.old for one, two in pairwise(changes))
    return changes


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


# -- what one thread does reaches those who wait in others


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


# -- a fork

FORKING = """
import asyncio, os, signal, sys, threading
import anyio, trio
from aiobreaker import CircuitBreaker, State
from aiobreaker.testing import record_events

breaker = CircuitBreaker("forked")
over = threading.Event()

async def fine():
    return "fine"

async def call():
    while not over.is_set():
        async with breaker.guard(max_wait=10):
            await anyio.sleep(0)

def start(*bodies):
    for backend in ("asyncio", "trio"):
        anyio.run(breaker.call, fine, backend=backend)  # or a fork might copy the lock of its import
    loops = [lambda backend=each: anyio.run(call, backend=backend) for each in ("asyncio", "trio")]
    threads = [threading.Thread(target=body) for body in [*bodies, *loops]]
    for thread in threads:
        thread.start()
    return threads

def fork(body):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.alarm(4)  # ends a child that hangs
    try:
        body()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)

def end(threads):
    over.set()
    breaker.reset()
    for thread in threads:
        thread.join()
    anyio.run(breaker.call, fine)
"""

BUSY = """
sys.setswitchinterval(1e-5)
breaker.subscribe(lambda event: sum(range(1_000)))  # so that forks often come in the middle of a delivery

def give_orders():
    while not over.is_set():
        breaker.force_open()
        breaker.snapshot()
        breaker.reset()

def use_it_at_once():
    with record_events(breaker) as events:
        breaker.metrics_only()
        breaker.reset()
    assert [event.new for event in events][-2:] == [State.METRICS_ONLY, State.CLOSED], events
    for backend in ("asyncio", "trio"):
        assert anyio.run(breaker.call, fine, backend=backend) == "fine"

threads = start(give_orders)
failed = sum(fork(use_it_at_once) != 0 for _ in range(20))
end(threads)
sys.exit(failed)
"""

WAITING = """
def touched(*args):
    raise AssertionError("the child has called into a loop of its parent")

def give_an_order():
    asyncio.BaseEventLoop.call_soon_threadsafe = touched
    trio.lowlevel.TrioToken.run_sync_soon = touched
    breaker.reset()

threads = start()
breaker.force_open()
while breaker.snapshot().waiting < 2:
    pass
failed = fork(give_an_order)
end(threads)
sys.exit(failed != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("scene", [BUSY, WAITING], ids=["busy", "waiting"])
def test_a_child_can_use_the_breaker_at_once_and_leaves_the_loops_of_its_parent_alone(scene: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING + scene]  # forks beside threads are the point
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- what is dropped half way


class Suspend:
    """Suspends whoever awaits it, for ever, without an event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def suspend() -> None:
    await Suspend()


async def in_a_function(breaker: CircuitBreaker) -> None:
    await breaker(suspend)()


async def in_a_generator(breaker: CircuitBreaker) -> None:
    @breaker
    async def items() -> AsyncGenerator[None, None]:
        await suspend()
        yield

    async for _ in items():
        pass


async def in_a_call(breaker: CircuitBreaker) -> None:
    await breaker.call(suspend)


async def in_a_block(breaker: CircuitBreaker) -> None:
    async with breaker.guard():
        await suspend()


async def in_a_block_with_a_verdict(breaker: CircuitBreaker) -> None:
    async with breaker.guard() as call:
        call.ignore()
        await suspend()


async def in_an_opened_stream(breaker: CircuitBreaker) -> None:
    async def source() -> AsyncIterator[None]:
        yield

    async with breaker.stream(source()):
        await suspend()


async def in_maintenance(breaker: CircuitBreaker) -> None:
    async with breaker.isolated():
        await suspend()


async def reading_events(breaker: CircuitBreaker) -> None:
    async with breaker.events():
        await suspend()


async def recording_events(breaker: CircuitBreaker) -> None:
    with record_events(breaker):
        await suspend()


async def with_a_permit(breaker: CircuitBreaker) -> None:
    permit = await breaker.acquire()
    try:
        await suspend()
    finally:
        permit.ignore()


Dropped = Callable[[CircuitBreaker], Coroutine[Any, Any, None]]
TRIALS: list[Dropped] = [
    in_a_function,
    in_a_generator,
    in_a_call,
    in_a_block,
    in_a_block_with_a_verdict,
    in_an_opened_stream,
    with_a_permit,
]
OTHERS: list[Dropped] = [in_maintenance, reading_events, recording_events]


def begin(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
    coroutine.send(None)
    return coroutine


@pytest.mark.parametrize("way", TRIALS)
def test_a_trial_dropped_half_way_gives_its_slot_back(way: Dropped) -> None:
    breaker = breaker_on_trial()
    running = begin(way(breaker))
    assert breaker.snapshot().in_flight == 1
    del running
    gc.collect()
    check_slot_is_free(breaker)


@pytest.mark.parametrize("way", OTHERS)
def test_what_else_is_dropped_half_way_is_undone(way: Dropped) -> None:
    breaker = CircuitBreaker("dropped")
    running = begin(way(breaker))
    del running
    gc.collect()
    assert breaker.state is State.CLOSED
    breaker.force_open()  # nobody is there to be told
    with record_events(breaker) as events:
        breaker.reset()
    assert [event.seq for event in events] == [1]


@pytest.mark.parametrize("way", TRIALS)
def test_a_trial_closed_half_way_gives_its_slot_back(way: Dropped) -> None:
    breaker = breaker_on_trial()
    begin(way(breaker)).close()
    check_slot_is_free(breaker)


@pytest.mark.parametrize("way", TRIALS + OTHERS)
def test_what_is_collected_in_the_middle_of_a_transition_does_not_wait_for_its_end(way: Dropped) -> None:
    breaker = breaker_on_trial()
    running = [begin(way(breaker))]

    def collect() -> None:
        with LOCK:
            running.clear()

    in_threads(collect)
    if way in TRIALS:
        check_slot_is_free(breaker)


def test_a_call_collected_while_the_lock_is_held_does_not_keep_a_drain_waiting() -> None:
    breaker = CircuitBreaker("drained")
    running = begin(in_a_call(breaker))
    with LOCK:
        del running

    async def maintain() -> None:
        with anyio.fail_after(1):
            async with breaker.isolated(drain=True):
                pass

    anyio.run(maintain)
    assert breaker.snapshot().in_flight == 0


@pytest.mark.parametrize("way", [way for way in TRIALS if way is not with_a_permit])
def test_what_is_collected_in_the_middle_of_a_transition_ends_right_after_it(way: Dropped) -> None:
    garbage: list[object] = []

    def random() -> float:
        """Asked for under the lock, for the open time: here the garbage collector strikes."""
        garbage.clear()
        return 0.5

    breaker = CircuitBreaker("collected", random=random)
    garbage.append(begin(way(breaker)))
    assert breaker.snapshot().in_flight == 1
    breaker.open()
    assert breaker.state is State.OPEN
    assert breaker.snapshot().in_flight == 0
    assert not garbage


def test_a_trial_collected_in_the_middle_of_a_transition_cannot_make_another_one() -> None:
    garbage: list[object] = []

    def random() -> float:
        garbage.clear()
        return 0.5

    breaker = CircuitBreaker("torn", trials=Trials(2, concurrent=2, max_inconclusive=1), random=random)
    breaker.half_open()
    garbage.append(begin(in_a_call(breaker)))
    with record_events(breaker) as events, suppress(OSError):
        anyio.run(breaker.call, fail)
    assert not garbage
    (opened,) = check_order(events)
    assert opened.reason == breaker.snapshot().reason == "a trial failed: OSError: down"
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.late == 1


def test_a_call_collected_in_the_middle_of_a_transition_does_not_keep_a_drain_waiting() -> None:
    breaker = CircuitBreaker("drained")
    collected, other = [begin(in_a_call(breaker))], begin(in_a_call(breaker))
    draining = threading.Event()

    async def maintain() -> None:
        async with breaker.isolated(drain=True):
            pass

    async def main() -> None:
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(maintain)
                await anyio.wait_all_tasks_blocked()
                draining.set()

    def end_the_calls() -> None:
        draining.wait(LONG)
        with LOCK:
            collected.clear()
        other.close()

    in_threads(end_the_calls, *in_loops(main))
    assert breaker.snapshot().in_flight == 0


def test_a_permit_that_is_thrown_away_warns_and_gives_its_slot_back() -> None:
    breaker = breaker_on_trial()
    with pytest.warns(ResourceWarning, match="a permit of circuit breaker 'on trial' was never settled"):
        anyio.run(breaker.acquire)
    check_slot_is_free(breaker)


def test_a_permit_thrown_away_while_the_lock_is_held_gives_its_slot_back() -> None:
    breaker = breaker_on_trial()
    held: list[HeldPermit] = [anyio.run(breaker.acquire)]
    with pytest.warns(ResourceWarning, match="never settled"), LOCK:
        held.clear()
    check_slot_is_free(breaker)


def test_a_permit_settles_once() -> None:
    breaker = breaker_on_trial()
    permit = anyio.run(breaker.acquire)
    permit.ignore()
    permit.success()
    permit.failure()
    permit.ignore()
    assert permit.settled
    del permit
    gc.collect()
    check_slot_is_free(breaker)


# -- observers that give orders


def test_an_observer_that_gives_orders_is_told_of_them_afterwards() -> None:
    breaker = CircuitBreaker("obedient")
    first: list[Event] = []
    depth = deepest = 0

    def give_orders(event: Event) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        first.append(event)
        assert breaker.snapshot().name == "obedient"
        assert isinstance(event, StateChanged)
        match event.new:
            case State.OPEN:
                breaker.half_open()
                breaker.force_open("found to be down")
            case State.FORCED_OPEN:
                breaker.reset()
        depth -= 1

    breaker.subscribe(give_orders)
    with record_events(breaker) as second, suppress(OSError):
        for _ in range(5):
            with suppress(OSError):
                anyio.run(breaker.call, fail)
    states = [event.new for event in check_order(second)]
    assert states == [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.CLOSED]
    assert first == second
    assert deepest == 1
    assert breaker.state is State.CLOSED


def test_an_observer_of_calls_may_give_orders_too() -> None:
    breaker = CircuitBreaker("obedient")
    seen: list[str] = []

    def give_orders(event: Event) -> None:
        seen.append(type(event).__name__)
        if seen == ["CallFinished"]:
            breaker.force_open()

    breaker.subscribe(give_orders, calls=True)
    assert anyio.run(breaker.call, fine) == "fine"
    with pytest.raises(CircuitOpenError):
        anyio.run(breaker.call, fine)
    assert seen == ["CallFinished", "StateChanged", "CallRefused"]


def test_an_observer_holds_up_no_other_thread() -> None:
    breaker = CircuitBreaker("told")
    breaker.subscribe(lambda event: in_threads(breaker.snapshot, breaker.disable))
    breaker.force_open()
    assert breaker.state is State.DISABLED


def test_an_observer_may_end_itself_and_bring_in_another() -> None:
    breaker = CircuitBreaker("relay")
    seen: list[str] = []

    def first(event: Event) -> None:
        seen.append("first")
        leave()
        breaker.subscribe(lambda event: seen.append("second"))

    leave = breaker.subscribe(first)
    breaker.force_open()
    breaker.reset()
    assert seen == ["first", "second"]


def test_an_observer_that_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("noisy")

    def raises(event: Event) -> None:
        raise ValueError("my own fault")

    breaker.subscribe(raises)
    with record_events(breaker) as events:
        breaker.force_open()
    assert len(events) == 1
    assert "my own fault" in caplog.text


def test_an_observer_that_is_interrupted_loses_no_slot() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("interrupted", clock=clock)
    breaker.open(1)
    clock.advance(1)

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    leave = breaker.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        anyio.run(breaker.call, fine)
    leave()
    assert breaker.snapshot().in_flight == 0
    assert anyio.run(breaker.call, fine) == "fine"
    assert breaker.state is State.CLOSED


# -- draining while others give orders


async def test_a_drain_ends_with_the_last_call_also_after_an_order_has_ended_its_hold() -> None:
    breaker = CircuitBreaker("drained", clock=ManualClock())
    first, second = anyio.Event(), anyio.Event()

    async def maintain() -> None:
        async with breaker.isolated(drain=True):
            pass

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, first.wait)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(maintain)
            await anyio.wait_all_tasks_blocked()
            breaker.reset()
            tasks.start_soon(breaker.call, second.wait)
            await anyio.wait_all_tasks_blocked()
            first.set()
            await anyio.wait_all_tasks_blocked()
            second.set()


async def test_a_drain_keeps_no_probe_waiting() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("drained", clock=clock, probe=checkpoint)

    async def maintain() -> None:
        async with breaker.isolated(drain=True):
            pass

    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(maintain)
            await anyio.wait_all_tasks_blocked()
            breaker.open(1)
            clock.advance(1)
            assert await breaker.call(fine) == "fine"
            tasks.cancel_scope.cancel()
