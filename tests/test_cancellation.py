"""Cancelled at every await, in every state, from every side: no slot is lost, none is gained, and nothing is judged by it."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

import anyio
import pytest
import trio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    FailureRate,
    HeldPermit,
    LastCalls,
    LastSeconds,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.testing import ManualClock

# -- the work that is guarded


class Work:
    """An await that only yields, one that waits for `answer`, and one that only yields again."""

    def __init__(self) -> None:
        self.answer = anyio.Event()
        self.finished = 0

    async def __call__(self) -> None:
        await checkpoint()
        await self.answer.wait()
        await checkpoint()
        self.finished += 1


# -- the ways in


async def decorated(breaker: CircuitBreaker, work: Work) -> None:
    @breaker
    async def function() -> None:
        await work()

    await function()


async def decorated_generator(breaker: CircuitBreaker, work: Work) -> None:
    @breaker
    async def items() -> AsyncGenerator[int, None]:
        await work()
        yield 1
        await checkpoint()
        yield 2

    async with aclosing(items()) as reader:
        async for _ in reader:
            await checkpoint()


async def called(breaker: CircuitBreaker, work: Work) -> None:
    await breaker.call(work)


async def block(breaker: CircuitBreaker, work: Work) -> None:
    async with breaker.guard():
        await work()


async def patient_block(breaker: CircuitBreaker, work: Work) -> None:
    async with breaker.guard(max_wait=1000):
        await work()


async def endlessly_patient_block(breaker: CircuitBreaker, work: Work) -> None:
    async with breaker.guard(max_wait=inf):
        await work()


async def held_permit(breaker: CircuitBreaker, work: Work) -> None:
    permit = await breaker.acquire(max_wait=1000)
    try:
        await work()
    except BaseException:
        permit.ignore()
        raise
    permit.success()


async def stream(breaker: CircuitBreaker, work: Work) -> None:
    await read(breaker, work)


async def patient_stream(breaker: CircuitBreaker, work: Work) -> None:
    await read(breaker, work, max_wait=1000, first_item_timeout=1000, stall_timeout=1000)


async def read(breaker: CircuitBreaker, work: Work, **limits: float) -> None:
    async def source() -> AsyncIterator[int]:
        await work()
        yield 1
        await checkpoint()
        yield 2

    async with breaker.stream(source(), **limits) as items:
        async for _ in items:
            await checkpoint()


async def probed(breaker: CircuitBreaker, work: Work) -> None:
    breaker.reconfigure(probe=work)
    await breaker.call(checkpoint)


async def probed_patiently(breaker: CircuitBreaker, work: Work) -> None:
    breaker.reconfigure(probe=work)
    async with breaker.guard(max_wait=1000):
        await checkpoint()


async def isolated(breaker: CircuitBreaker, work: Work) -> None:
    async with breaker.isolated(drain=True):
        await checkpoint()


async def waiting_for_a_state(breaker: CircuitBreaker, work: Work) -> None:
    await breaker.wait_for(State.HALF_OPEN)


async def reading_events(breaker: CircuitBreaker, work: Work) -> None:
    async with breaker.events(calls=True) as events:
        async for _ in events:
            await checkpoint()


SEVERAL = Trials(4, concurrent=2, max_inconclusive=1000)
ONE = Trials(1, max_inconclusive=1000)


@dataclass(frozen=True)
class WayIn:
    run: Callable[[CircuitBreaker, Work], Awaitable[None]]
    settings: dict[str, Any] = field(default_factory=dict)
    trials: Trials = SEVERAL
    endless: bool = False


WAYS = {
    "decorated: count": WayIn(decorated),
    "decorated: time window": WayIn(decorated, {"trip": FailureRate(0.5, LastSeconds(10))}),
    "decorated: slow calls": WayIn(decorated, {"trip": SlowCallRate(0.5, 5, LastSeconds(10))}),
    "decorated: in flight": WayIn(decorated, {"trip": SlowCallRate(0.5, 5, LastCalls(10), count_in_flight=True)}),
    "decorated: failure_if": WayIn(decorated, {"failure_if": lambda result: result is not None}),
    "decorated generator": WayIn(decorated_generator),
    "decorated generator: in flight": WayIn(
        decorated_generator, {"trip": SlowCallRate(0.5, 5, LastCalls(10), count_in_flight=True)}
    ),
    "call": WayIn(called),
    "call: in flight": WayIn(called, {"trip": SlowCallRate(0.5, 5, LastCalls(10), count_in_flight=True)}),
    "guard": WayIn(block),
    "guard, patient": WayIn(patient_block),
    "guard, endlessly patient": WayIn(endlessly_patient_block),
    "acquire, patient": WayIn(held_permit),
    "stream": WayIn(stream),
    "stream, patient": WayIn(patient_stream),
    "probe": WayIn(probed, trials=ONE),
    "probe, patient": WayIn(probed_patiently, trials=ONE),
    "isolated": WayIn(isolated),
    "wait_for": WayIn(waiting_for_a_state, endless=True),
    "events": WayIn(reading_events, endless=True),
}


# -- the states, each with what later clears the way


Release = Callable[[], object]


async def occupy(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    """Take every trial slot; the release gives them back without a verdict."""
    breaker.half_open()
    held = [await breaker.acquire() for _ in range(trials.concurrent)]

    def release() -> None:
        for permit in held:
            permit.ignore()

    return release


async def closed(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    return lambda: None


async def closed_with_a_running_call(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    return (await breaker.acquire()).ignore


async def open_and_due(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.open(1)
    clock.advance(1)
    return lambda: None


async def open_until_released(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.open(500)
    return breaker.half_open


async def half_open_and_free(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.half_open()
    return lambda: None


async def half_open_and_yielding(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    """After 63 refusals in a row the next call gives way to the event loop before it is admitted."""
    release = await occupy(breaker, trials, clock)
    for _ in range(63):
        with pytest.raises(CircuitOpenError):
            await breaker.call(checkpoint)
    release()
    return lambda: None


async def forced_open(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.force_open()
    return breaker.half_open


async def disabled(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.disable()
    return lambda: None


async def metrics_only(breaker: CircuitBreaker, trials: Trials, clock: ManualClock) -> Release:
    breaker.metrics_only()
    return lambda: None


STATES = [
    closed,
    closed_with_a_running_call,
    open_and_due,
    open_until_released,
    half_open_and_free,
    half_open_and_yielding,
    occupy,
    forced_open,
    disabled,
    metrics_only,
]


# -- the cancellers


@dataclass(frozen=True)
class Victim:
    cancel: Callable[[], object]
    ended: Callable[[], bool]


def start_in_scope(
    make: Callable[[], anyio.CancelScope | trio.CancelScope], tasks: TaskGroup, body: Callable[[], Awaitable[None]]
) -> Victim:
    scope = make()
    ended = False

    async def live() -> None:
        nonlocal ended
        entered: AbstractContextManager[object] = scope
        with entered:
            await body()
        ended = True

    tasks.start_soon(live)
    return Victim(scope.cancel, lambda: ended)


def start_as_task(tasks: TaskGroup, body: Callable[[], Awaitable[None]]) -> Victim:
    async def live() -> None:
        await body()

    task = asyncio.create_task(live())

    async def watch() -> None:
        with suppress(asyncio.CancelledError):
            await task

    tasks.start_soon(watch)
    return Victim(task.cancel, task.done)


def start(canceller: str, tasks: TaskGroup, body: Callable[[], Awaitable[None]]) -> Victim:
    match canceller:
        case "anyio scope":
            return start_in_scope(anyio.CancelScope, tasks, body)
        case "trio":
            return start_in_scope(trio.CancelScope, tasks, body)
        case _:
            return start_as_task(tasks, body)


# -- the sweep

RELEASED_AT, ANSWERED_AT, LAST_STEP = 4, 10, 20  # scheduler steps
ENDED_BY = 40


async def run(victim: Victim, work: Work, release: Release, cancel_at: int) -> bool:
    """Cancel at a half step: an even one comes before what else happens in its step, an odd one after it. Was it too late?"""
    for step in range(ENDED_BY):
        if victim.ended():
            if step <= RELEASED_AT:
                release()
            return 2 * step <= cancel_at
        if cancel_at == 2 * step:
            victim.cancel()
        if step == RELEASED_AT:
            release()
        if step == ANSWERED_AT:
            work.answer.set()
        if cancel_at == 2 * step + 1:
            victim.cancel()
        await checkpoint()
    raise AssertionError(f"cancelled at half step {cancel_at}, it hangs")


async def check_books(breaker: CircuitBreaker, trials: Trials, least: int, most: int) -> None:
    """Nothing is left of the victim, but for its verdict: one that closed, or none."""
    seen = breaker.snapshot()
    assert (seen.in_flight, seen.waiting) == (0, 0)
    assert seen.reason != "isolated"
    assert [reading.count for reading in seen.readings if reading.count] == []
    if breaker.state is not State.HALF_OPEN:
        if seen.retry_after is None and breaker.state is not State.FORCED_OPEN:
            permit = await breaker.acquire()
            assert breaker.snapshot().in_flight == 1
            permit.ignore()
        breaker.half_open()
        least = most = 0
    if trials is ONE:
        breaker.reconfigure(probe=None)  # callers are the trials again

    held = [await breaker.acquire() for _ in range(trials.concurrent)]
    with pytest.raises(CircuitOpenError):
        await breaker.acquire()
    assert breaker.snapshot().in_flight == trials.concurrent
    for permit in held:
        permit.success()
    wanted = len(held)
    while breaker.state is State.HALF_OPEN:
        (await breaker.acquire()).success()
        wanted += 1
    assert trials.count - most <= wanted <= trials.count - least
    assert breaker.snapshot().in_flight == 0


@pytest.mark.parametrize("canceller", ["anyio scope", "native"])
@pytest.mark.parametrize("way", WAYS)
async def test_cancellation_at_every_step_leaves_the_books_right(way: str, canceller: str, anyio_backend_name: str) -> None:
    for state in STATES:
        await sweep(WAYS[way], state, anyio_backend_name if canceller == "native" else canceller)
    gc.collect()  # what was dropped unsettled would warn now


async def sweep(way: WayIn, state: Callable[[CircuitBreaker, Trials, ManualClock], Awaitable[Release]], canceller: str) -> None:
    for cancel_at in range(2 * LAST_STEP):
        clock = ManualClock()
        breaker = CircuitBreaker(state.__name__, trials=way.trials, clock=clock, **way.settings)
        release = await state(breaker, way.trials, clock)
        work = Work()

        async def body(breaker: CircuitBreaker = breaker, work: Work = work) -> None:
            with suppress(CircuitOpenError):
                await way.run(breaker, work)

        async with anyio.create_task_group() as tasks:
            completed = await run(start(canceller, tasks, body), work, release, cancel_at)
        try:
            # a reader that stops after the first item has been answered: that may count as a success
            await check_books(breaker, way.trials, least=work.finished if completed else 0, most=work.finished)
        except BaseException as error:
            error.add_note(f"cancelled at half step {cancel_at} in {state.__name__}")
            raise
        if completed:
            return
    assert way.endless, f"it never completes in {state.__name__}"


# -- a timeout outside the guard

Hang = Callable[[], Coroutine[Any, Any, None]]


def hanging_function(breaker: CircuitBreaker) -> Hang:
    @breaker
    async def hang() -> None:
        await anyio.sleep_forever()

    return hang


def hanging_call(breaker: CircuitBreaker) -> Hang:
    async def hang() -> None:
        await breaker.call(anyio.sleep_forever)

    return hang


def hanging_block(breaker: CircuitBreaker) -> Hang:
    async def hang() -> None:
        async with breaker.guard():
            await anyio.sleep_forever()

    return hang


def hanging_generator(breaker: CircuitBreaker) -> Hang:
    @breaker
    async def items() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async def hang() -> None:
        await anext(items())

    return hang


def hanging_stream(breaker: CircuitBreaker) -> Hang:
    async def source() -> AsyncIterator[None]:
        await anyio.sleep_forever()
        yield

    async def hang() -> None:
        async with breaker.stream(source()) as items:
            await anext(items)

    return hang


HANGING = [hanging_function, hanging_call, hanging_block, hanging_generator, hanging_stream]


async def give_up_after(seconds: float, hang: Hang) -> None:
    with anyio.move_on_after(seconds):
        await hang()


@pytest.mark.parametrize("count_in_flight", [False, True])
@pytest.mark.parametrize("way", HANGING)
async def test_calls_cancelled_from_outside_after_the_slow_threshold_open(
    clock: Callable[[], float], way: Callable[[CircuitBreaker], Hang], count_in_flight: bool
) -> None:
    slow = SlowCallRate(0.5, 1.0, LastCalls(20), minimum_calls=20, count_in_flight=count_in_flight)
    breaker = CircuitBreaker("slow", trip=slow, clock=clock)
    hang = way(breaker)
    for _ in range(19):
        await give_up_after(1.0, hang)
    assert breaker.snapshot().state is State.CLOSED
    await give_up_after(1.0, hang)
    assert breaker.snapshot().state is State.OPEN
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.cancelled == 20


@pytest.mark.parametrize("count_in_flight", [False, True])
@pytest.mark.parametrize("way", HANGING)
async def test_calls_cancelled_before_the_slow_threshold_count_for_nothing(
    clock: Callable[[], float], way: Callable[[CircuitBreaker], Hang], count_in_flight: bool
) -> None:
    slow = SlowCallRate(0.5, 1.0, LastCalls(20), minimum_calls=20, count_in_flight=count_in_flight)
    breaker = CircuitBreaker("quick", trip=slow, clock=clock)
    hang = way(breaker)
    for _ in range(50):
        await give_up_after(0.75, hang)
    assert breaker.snapshot().state is State.CLOSED
    (reading,) = breaker.snapshot().readings
    assert (reading.count, reading.calls) == (0, 0)
    assert breaker.snapshot().totals.cancelled == 50


@pytest.mark.parametrize("way", HANGING)
async def test_calls_that_hang_open_a_breaker_that_counts_them_in_flight(
    clock: Callable[[], float], way: Callable[[CircuitBreaker], Hang]
) -> None:
    slow = SlowCallRate(1.0, 1.0, LastCalls(200), minimum_calls=200, count_in_flight=True)
    breaker = CircuitBreaker("hanging", trip=slow, clock=clock)
    hang = way(breaker)
    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(hang)
        await anyio.sleep(0.75)
        for permit in [await breaker.acquire() for _ in range(3)]:
            permit.ignore()
        assert breaker.snapshot().state is State.CLOSED
        await anyio.sleep(0.25)
        with pytest.raises(CircuitOpenError) as refusal:
            await breaker.call(checkpoint)
        assert refusal.value.reason.startswith("200 of 200 calls")
        assert breaker.snapshot().in_flight == 200
        tasks.cancel_scope.cancel()
    assert breaker.snapshot().in_flight == 0
    assert breaker.snapshot().totals.late == 200


@pytest.mark.parametrize("way", HANGING)
async def test_a_trial_cancelled_after_the_slow_threshold_was_slow(
    clock: Callable[[], float], way: Callable[[CircuitBreaker], Hang]
) -> None:
    breaker = CircuitBreaker("slow trial", trip=SlowCallRate(0.5, 1.0, LastCalls(20)), clock=clock)
    breaker.half_open()
    await give_up_after(0.75, way(breaker))
    assert breaker.snapshot().state is State.HALF_OPEN
    await give_up_after(1.0, way(breaker))
    assert breaker.snapshot().state is State.OPEN
    assert breaker.snapshot().reason == "a trial was slow (1 s)"


# -- others in the line


@pytest.mark.parametrize("victim", range(4))
async def test_a_cancelled_waiter_holds_nobody_up(anyio_backend_name: str, victim: int) -> None:
    for canceller in ("anyio scope", anyio_backend_name):
        for cancel_at in range(2 * LAST_STEP):
            breaker = CircuitBreaker("line", trials=SEVERAL, clock=ManualClock())
            release = await occupy(breaker, SEVERAL, ManualClock())
            served: list[int] = []

            async def wait_in_line(number: int, breaker: CircuitBreaker = breaker, served: list[int] = served) -> None:
                async with breaker.guard(max_wait=inf):
                    await checkpoint()
                    served.append(number)

            async with anyio.create_task_group() as tasks:
                line = []
                for number in range(4):
                    line.append(start(canceller, tasks, partial(wait_in_line, number)))
                    await anyio.wait_all_tasks_blocked()
                await run(line[victim], Work(), release, cancel_at)
                release()
            others = [number for number in range(4) if number != victim]
            assert [number for number in served if number != victim] == others
            assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0


async def test_a_deadline_and_the_verdict_that_would_admit_may_come_at_once(clock: Callable[[], float]) -> None:
    for order in (1, -1):
        breaker = CircuitBreaker("deadline", trials=ONE, clock=clock)
        breaker.half_open()
        held = await breaker.acquire()

        async def caller(breaker: CircuitBreaker = breaker) -> None:
            with suppress(CircuitOpenError):
                async with breaker.guard(max_wait=5):
                    await anyio.sleep(1)

        async def end_trial(held: HeldPermit = held) -> None:
            await anyio.sleep(5)
            held.ignore()

        async with anyio.create_task_group() as tasks:
            for each in (caller, end_trial)[::order]:
                tasks.start_soon(each)
        await check_books(breaker, ONE, least=0, most=1)


async def test_a_cancelled_probe_is_taken_over_by_the_next_in_line() -> None:
    works = iter([Work(), answered := Work()])
    answered.answer.set()
    breaker = CircuitBreaker("probe", trials=ONE, probe=lambda: next(works)(), clock=ManualClock())
    breaker.half_open()
    served = anyio.Event()

    async def caller() -> None:
        async with breaker.guard(max_wait=inf):
            served.set()

    async with anyio.create_task_group() as tasks:
        first = start_in_scope(anyio.CancelScope, tasks, caller)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        assert not served.is_set()
        first.cancel()
    assert served.is_set()
    assert breaker.state is State.CLOSED


# -- what breaks before the work begins


async def test_a_generator_called_with_wrong_arguments_keeps_no_slot() -> None:
    breaker = CircuitBreaker("generator", trials=ONE, clock=ManualClock())
    breaker.half_open()

    @breaker
    async def items(first: int) -> AsyncGenerator[int, None]:
        yield first

    with pytest.raises(TypeError, match="first"):
        await anext(items())  # type: ignore[call-arg]  # that is the point
    assert breaker.snapshot().in_flight == 0


class BrokenSource:
    """Says that it is an async iterable, but cannot be iterated."""

    def __aiter__(self) -> AsyncIterator[int]:
        raise OSError("no connection")


async def test_a_stream_whose_source_cannot_be_iterated_keeps_no_slot() -> None:
    breaker = CircuitBreaker("stream", trials=ONE, clock=ManualClock())
    breaker.half_open()
    with pytest.raises(OSError, match="no connection"):
        async with breaker.stream(BrokenSource()):
            pass
    assert breaker.snapshot().in_flight == 0


async def told_to_two(breaker: CircuitBreaker, block: AbstractAsyncContextManager[object]) -> list[str]:
    """What two callers are told who wait with one and the same block until the circuit lets them in."""
    told: list[str] = []

    async def caller() -> None:
        try:
            async with block:
                await checkpoint()
        except RuntimeError as error:
            told.append(str(error))

    breaker.force_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller)
        tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        breaker.reset()
    assert breaker.snapshot().in_flight == breaker.snapshot().waiting == 0
    return told


async def test_a_guard_that_two_callers_wait_with_is_refused_to_one_of_them() -> None:
    breaker = CircuitBreaker("shared", clock=ManualClock())
    told = await told_to_two(breaker, breaker.guard(max_wait=inf))
    assert told == ["this guard is in use; every block needs its own: async with breaker.guard()"]


async def test_a_stream_that_two_readers_wait_to_open_is_refused_to_one_of_them() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1

    breaker = CircuitBreaker("shared", clock=ManualClock())
    assert await told_to_two(breaker, breaker.stream(source(), max_wait=inf)) == ["this stream has been opened already"]
