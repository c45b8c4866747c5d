"""What is dropped half way, for the garbage collector or by hand, is undone and tears no transition."""

import gc
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, ConsecutiveFailures, Event, HeldPermit, State, Trials
from aiobreaker.locking import LOCK
from aiobreaker.testing import record_events

from .stage import LONG, breaker_on_trial, check_order, check_slot_is_free, fail, in_loops, in_threads


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


@pytest.mark.parametrize("half_open", [True, False], ids=["a trial", "closed"])
def test_a_call_that_fails_when_collected_in_the_middle_of_a_transition_cannot_make_another_one(
    half_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: ignored.append(str(unraisable.exc_value)))
    garbage: list[object] = []

    def random() -> float:
        garbage.clear()
        return 0.5

    async def fail_at_the_end() -> None:
        async with breaker.guard():
            try:
                await suspend()
            finally:
                raise OSError("inner")

    async def outer() -> None:
        raise OSError("outer")

    breaker = CircuitBreaker("torn", trip=ConsecutiveFailures(1), trials=Trials(2, concurrent=2), random=random)
    if half_open:
        breaker.half_open()
    garbage.append(begin(fail_at_the_end()))
    with record_events(breaker) as events, pytest.raises(OSError, match="outer"):
        anyio.run(breaker.call, outer)
    assert ignored == ["inner"]
    (opened,) = check_order(events)
    assert opened.reason == breaker.snapshot().reason
    assert not half_open or opened.reason == "a trial failed: OSError: outer"
    assert breaker.snapshot().totals.late == 1
    assert breaker.snapshot().in_flight == 0


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


@pytest.mark.filterwarnings("ignore:a permit of circuit breaker:ResourceWarning")
def test_a_thousand_permits_thrown_away_in_the_middle_of_a_transition_are_all_given_back() -> None:
    breaker = CircuitBreaker("many")

    async def acquire_many() -> list[HeldPermit]:
        return [await breaker.acquire() for _ in range(1000)]

    held = anyio.run(acquire_many)
    with LOCK:
        held.clear()
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.ignored == 1000


@pytest.mark.filterwarnings("ignore:a permit of circuit breaker:ResourceWarning")
@pytest.mark.parametrize(
    "thrown_away",
    [lambda breaker: anyio.run(breaker.acquire), lambda breaker: begin(in_a_call(breaker))],
    ids=["permit", "coroutine"],
)
def test_observers_hear_of_what_was_thrown_away_when_they_are_not_in_the_middle_of_anything(
    thrown_away: Callable[[CircuitBreaker], object],
) -> None:
    """A garbage collection may come while an observer holds a lock of its own, for which it would wait in itself."""
    parent = CircuitBreaker("parent")
    registry = BreakerRegistry(
        lambda key: parent if key == "parent" else CircuitBreaker(key), parent=lambda key: "parent" if key == "child" else None
    )
    breaker = registry["child"]
    own_lock, heard = threading.Lock(), list[str]()

    def observer(event: Event) -> None:
        assert own_lock.acquire(blocking=False)
        heard.append(event.name)
        own_lock.release()

    registry.subscribe(observer, calls=True)
    held = [thrown_away(breaker)]
    with own_lock:
        held.clear()
        gc.collect()
        assert heard == []
        assert breaker._gate.circuit.in_flight == 0, "it has ended all the same"
    assert breaker.snapshot().in_flight == 0
    assert sorted(heard) == ["child", "parent"]
