"""What a refused caller gets: a fresh error that says why, at once, for no memory, and never at the cost of other tasks."""

import asyncio
import copy
import gc
import pickle
import traceback
import tracemalloc
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import (
    AiobreakerError,
    CircuitBreaker,
    CircuitOpenError,
    FailureRate,
    FailureSummary,
    LastCalls,
    LastSeconds,
    RefusedError,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.testing import ManualClock

# -- the ways in: each makes of a breaker and a function one that calls it, guarded

Attempt = Callable[[], Coroutine[Any, Any, object]]
WayIn = Callable[[CircuitBreaker, Attempt], Attempt]


def decorated(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    @breaker
    async def attempt() -> object:
        return await fn()

    return attempt


def decorated_generator(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    @breaker
    async def items() -> AsyncIterator[object]:
        yield await fn()

    async def attempt() -> object:
        (answer,) = [item async for item in items()]
        return answer

    return attempt


def decorated_with_fallback(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        return await fn()

    with_stand_in: Attempt = breaker.with_fallback("never", on=ZeroDivisionError)(attempt)
    return with_stand_in


def called(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        return await breaker.call(fn)

    return attempt


def block(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        async with breaker.guard() as call:
            return call.check(await fn())

    return attempt


def held_permit(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        permit = await breaker.acquire()
        try:
            return permit.check(await fn())
        except Exception as error:
            permit.failure(error)
            raise

    return attempt


def stream(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def source() -> AsyncIterator[object]:
        yield await fn()

    async def attempt() -> object:
        async with breaker.stream(source()) as items:
            (answer,) = [item async for item in items]
        return answer

    return attempt


def patient_block(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        async with breaker.guard(max_wait=1):
            return await fn()

    return attempt


def patient_permit(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def attempt() -> object:
        permit = await breaker.acquire(max_wait=1)
        permit.ignore()
        return await fn()

    return attempt


def patient_stream(breaker: CircuitBreaker, fn: Attempt) -> Attempt:
    async def source() -> AsyncIterator[object]:
        yield await fn()

    async def attempt() -> object:
        async with breaker.stream(source(), max_wait=1) as items:
            return [item async for item in items]

    return attempt


IMPATIENT: list[WayIn] = [
    decorated,
    decorated_generator,
    decorated_with_fallback,
    called,
    block,
    held_permit,
    stream,
]
PATIENT: list[WayIn] = [patient_block, patient_permit, patient_stream]


# -- the states that refuse


@asynccontextmanager
async def refusing(breaker: CircuitBreaker, state: State) -> AsyncIterator[None]:
    """A state that refuses impatient callers; a half-open circuit does so because its only trial is running."""
    if state is State.OPEN:
        breaker.open(20)
    if state is State.FORCED_OPEN:
        breaker.force_open()
    if state is not State.HALF_OPEN:
        yield
        return
    breaker.half_open()
    permit = await breaker.acquire()
    try:
        yield
    finally:
        permit.ignore()


REFUSING = [State.OPEN, State.HALF_OPEN, State.FORCED_OPEN]
SETTINGS: dict[str, dict[str, Any]] = {
    "count": {},
    "time window": {"trip": FailureRate(0.5, LastSeconds(60))},
    "slow calls": {"trip": SlowCallRate(0.5, 1, LastCalls(10))},
    "in flight": {"trip": SlowCallRate(0.5, 1, LastCalls(10), count_in_flight=True)},
    "judged": {"failure_if": lambda result: False},
    "probe": {"probe": checkpoint},
}


def make(**settings: Any) -> CircuitBreaker:
    return CircuitBreaker("refusing", **{"clock": ManualClock(), **settings})


async def refusal_of(attempt: Attempt) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as refusal:
        await attempt()
    return refusal.value


async def never() -> object:
    raise AssertionError("the function of a refused call ran")


# -- what does not happen


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("state", REFUSING)
async def test_the_function_never_runs_and_no_coroutine_is_left_behind(state: State, settings: str, watched: bool) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for way in IMPATIENT:
            breaker = make()
            if watched:
                breaker.subscribe(lambda event: None, calls=True)
            async with refusing(breaker, state):
                breaker.reconfigure(**SETTINGS[settings])
                attempt = way(breaker, never)
                for _ in range(130):  # past the ones that give way to the event loop
                    await refusal_of(attempt)
            assert breaker.snapshot().totals.refused == 130
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


class UntouchedSource:
    """Must not even be asked for its iterator."""

    def __aiter__(self) -> AsyncIterator[object]:
        raise AssertionError("the source of a refused stream was opened")


@pytest.mark.parametrize("max_wait", [0, 1])
@pytest.mark.parametrize("state", [State.OPEN, State.FORCED_OPEN])
async def test_the_source_of_a_refused_stream_is_left_alone(clock: Callable[[], float], state: State, max_wait: float) -> None:
    breaker = make(clock=clock)
    async with refusing(breaker, state):
        with pytest.raises(CircuitOpenError):
            async with breaker.stream(UntouchedSource(), max_wait=max_wait):
                pass


@pytest.mark.parametrize(
    ("state", "ways", "times"), [(State.OPEN, IMPATIENT + PATIENT, 10_000), (State.HALF_OPEN, IMPATIENT, 2_000)]
)
async def test_a_hundred_thousand_refusals_leave_memory_flat(state: State, ways: list[WayIn], times: int) -> None:
    breaker = make()
    attempts = [way(breaker, never) for way in ways]
    async with refusing(breaker, state):
        await refuse(attempts, 200)
        gc.collect()
        tracemalloc.start()
        try:
            await refuse(attempts, 10)
            before, _ = tracemalloc.get_traced_memory()
            await refuse(attempts, times)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert after - before < times  # bytes: far less than one for each refusal


async def refuse(attempts: list[Attempt], times: int) -> None:
    refused = 0
    for attempt in attempts:
        for _ in range(times):
            try:
                await attempt()
            except CircuitOpenError:
                refused += 1
    assert refused == times * len(attempts)


@pytest.mark.parametrize("state", REFUSING)
@pytest.mark.parametrize("way", IMPATIENT)
async def test_every_refusal_is_an_error_of_its_own(state: State, way: WayIn) -> None:
    breaker = make()
    attempt = way(breaker, never)
    async with refusing(breaker, state):
        refusals = [await refusal_of(attempt) for _ in range(130)]
    assert len({id(refusal) for refusal in refusals}) == 130
    lengths = [len(traceback.extract_tb(refusal.__traceback__)) for refusal in refusals]
    assert max(lengths[65:]) == max(lengths[:65])
    assert not any(refusal.__context__ or refusal.__cause__ for refusal in refusals)


async def test_a_refusal_keeps_no_failure_alive() -> None:
    class DownError(Exception):
        pass

    async def fail() -> None:
        raise DownError

    breaker = make()
    for _ in range(5):
        with pytest.raises(DownError) as raised:
            await breaker.call(fail)
        failure = weakref.ref(raised.value)
        del raised
    refusal = await refusal_of(called(breaker, never))
    gc.collect()
    assert failure() is None
    assert refusal.last_failure == FailureSummary("DownError", "", 0.0)


# -- refusals yield


async def longest_run_of_refusals(attempt: Attempt) -> int:
    """How many refusals in a tight loop come between two turns of another task."""
    run = longest = turns = 0

    async def neighbour() -> None:
        nonlocal run, turns
        while True:
            run = 0
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(neighbour)
        for _ in range(1_000):
            await refusal_of(attempt)
            run += 1
            longest = max(longest, run)
        assert turns
        tasks.cancel_scope.cancel()
    return longest


TWO_TURNS = 2 * 64  # trio shuffles: a turn may come first in one round, and last in the next


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("state", REFUSING)
@pytest.mark.parametrize("way", IMPATIENT)
async def test_a_tight_loop_of_refusals_lets_others_run(state: State, way: WayIn, settings: str) -> None:
    breaker = make()
    async with refusing(breaker, state):
        breaker.reconfigure(**SETTINGS[settings])
        assert await longest_run_of_refusals(way(breaker, never)) <= TWO_TURNS


@pytest.mark.parametrize("way", PATIENT)
async def test_so_does_one_whose_wait_would_be_in_vain(way: WayIn) -> None:
    breaker = make()
    async with refusing(breaker, State.OPEN):
        assert await longest_run_of_refusals(way(breaker, never)) <= TWO_TURNS


@pytest.mark.parametrize("state", REFUSING)
@pytest.mark.parametrize("way", PATIENT)
async def test_so_does_one_that_finds_the_line_full(state: State, way: WayIn) -> None:
    breaker = make(max_waiters=1)
    async with refusing(breaker, state), anyio.create_task_group() as tasks:
        tasks.start_soon(stand_in_line, breaker)
        await anyio.wait_all_tasks_blocked()
        assert await longest_run_of_refusals(way(breaker, never)) <= TWO_TURNS
        tasks.cancel_scope.cancel()


async def stand_in_line(breaker: CircuitBreaker) -> None:
    async with breaker.guard(max_wait=1_000):
        pass


async def test_so_does_a_fallback_that_hides_them() -> None:
    breaker = make()

    price = breaker.with_fallback("stale")(decorated(breaker, never))

    async def attempt() -> None:
        assert await price() == "stale"
        raise CircuitOpenError("as the loop wants it")

    async with refusing(breaker, State.OPEN):
        assert await longest_run_of_refusals(attempt) <= TWO_TURNS


# -- what a refusal says


async def test_an_open_circuit_says_what_tripped_it_and_when_to_come_back() -> None:
    clock = ManualClock(100)
    breaker = make(clock=clock)
    await trip(breaker, OSError("connection reset"))
    clock.advance(10)
    for way in IMPATIENT + PATIENT:
        refusal = await refusal_of(way(breaker, never))
        assert refusal.name == "refusing"
        assert refusal.state is State.OPEN
        assert refusal.reason == "5 failures in a row (trips at 5)"
        assert refusal.retry_after == 20
        assert refusal.last_failure == FailureSummary("OSError", "connection reset", 100)
        assert str(refusal) == "circuit breaker 'refusing' is open: 5 failures in a row (trips at 5); retry after 20 s"


async def trip(breaker: CircuitBreaker, error: Exception) -> None:
    async def fail() -> None:
        raise error

    for _ in range(5):
        with pytest.raises(type(error)):
            await breaker.call(fail)


async def test_a_half_open_circuit_says_that_the_slots_are_taken_and_when_the_first_lease_ends() -> None:
    clock = ManualClock()
    breaker = make(clock=clock, trials=Trials(3, concurrent=2, lease=50))
    breaker.half_open()
    first = await breaker.acquire()
    clock.advance(10)
    second = await breaker.acquire()
    for way in IMPATIENT:
        refusal = await refusal_of(way(breaker, never))
        assert refusal.state is State.HALF_OPEN
        assert refusal.reason == "all trial slots are taken (2 at once)"
        assert refusal.retry_after == 40
        assert refusal.last_failure is None
    clock.advance(5)
    first.ignore()
    third = await breaker.acquire()
    assert (await refusal_of(called(breaker, never))).retry_after == 45
    second.ignore()
    fourth = await breaker.acquire()
    assert (await refusal_of(called(breaker, never))).retry_after == 50
    third.ignore()
    fourth.ignore()


async def test_it_says_so_when_no_more_verdicts_are_wanted() -> None:
    breaker = make(trials=Trials(3, concurrent=2))
    breaker.half_open()
    (await breaker.acquire()).success()
    (await breaker.acquire()).success()
    last = await breaker.acquire()
    refusal = await refusal_of(called(breaker, never))
    assert refusal.reason == "as many trials are running as verdicts are wanted"
    assert refusal.retry_after == 30
    last.success()
    assert breaker.state is State.CLOSED


async def test_a_circuit_forced_open_says_why_and_that_nobody_knows_until_when() -> None:
    breaker = make()
    breaker.force_open("database migration")
    for way in IMPATIENT:
        refusal = await refusal_of(way(breaker, never))
        assert refusal.state is State.FORCED_OPEN
        assert (refusal.reason, refusal.retry_after) == ("database migration", None)
    async with breaker.isolated("never mind"):
        assert (await refusal_of(called(breaker, never))).reason == "never mind"
    assert (await refusal_of(called(breaker, never))).reason == "database migration"


async def test_callers_are_refused_while_the_probe_runs() -> None:
    asked = 0

    async def probe() -> None:
        nonlocal asked
        asked += 1
        await anyio.sleep(5)

    breaker = make(probe=probe)
    breaker.half_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(breaker.call, checkpoint)
        await anyio.wait_all_tasks_blocked()
        refusal = await refusal_of(called(breaker, never))
        assert (refusal.state, refusal.retry_after) == (State.HALF_OPEN, 30)
    assert breaker.state is State.CLOSED
    assert asked == 1


@pytest.mark.parametrize("way", PATIENT)
async def test_a_wait_in_vain_is_refused_at_once(clock: Callable[[], float], way: WayIn) -> None:
    breaker = make(clock=clock)
    breaker.open(20)
    before = anyio.current_time()
    assert (await refusal_of(way(breaker, never))).reason == "opened by hand"
    assert anyio.current_time() == before


@pytest.mark.parametrize("way", PATIENT)
async def test_a_wait_in_vain_is_refused_at_once_also_behind_a_more_patient_caller(
    clock: Callable[[], float], way: WayIn
) -> None:
    breaker = make(clock=clock)
    breaker.open(20)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stand_in_line, breaker)
        await anyio.wait_all_tasks_blocked()
        before = anyio.current_time()
        refusal = await refusal_of(way(breaker, never))
        waited = anyio.current_time() - before
        tasks.cancel_scope.cancel()
    assert refusal.reason == "opened by hand"
    assert waited == 0


@pytest.mark.parametrize("way", PATIENT)
async def test_a_wait_that_ends_without_admission_says_so(clock: Callable[[], float], way: WayIn) -> None:
    breaker = make(clock=clock)
    breaker.force_open("maintenance")
    before = anyio.current_time()
    refusal = await refusal_of(way(breaker, never))
    assert anyio.current_time() - before == pytest.approx(1)
    assert refusal.state is State.FORCED_OPEN
    assert refusal.reason == "no admission within 1 s: maintenance"
    assert breaker.snapshot().totals.refused == breaker.snapshot().refused


async def test_a_full_line_says_so() -> None:
    breaker = make(max_waiters=2)
    breaker.force_open()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stand_in_line, breaker)
        tasks.start_soon(stand_in_line, breaker)
        await anyio.wait_all_tasks_blocked()
        refusal = await refusal_of(patient_block(breaker, never))
        assert refusal.reason == "2 callers are waiting already"
        assert (refusal.state, refusal.retry_after) == (State.FORCED_OPEN, None)
        tasks.cancel_scope.cancel()


# -- what kind of error it is


REFUSALS = [
    CircuitOpenError("bare"),
    CircuitOpenError("full", State.HALF_OPEN, "because", 1.5, FailureSummary("OSError", "down", 3.0)),
    CircuitOpenError("forced", State.FORCED_OPEN, "by hand"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("refusal", REFUSALS)
def test_it_survives_pickling_and_copying(refusal: CircuitOpenError, protocol: int) -> None:
    for twin in (pickle.loads(pickle.dumps(refusal, protocol)), copy.copy(refusal), copy.deepcopy(refusal)):
        assert type(twin) is CircuitOpenError
        assert (twin.name, twin.state, twin.reason) == (refusal.name, refusal.state, refusal.reason)
        assert (twin.retry_after, twin.last_failure) == (refusal.retry_after, refusal.last_failure)
        assert twin.state is refusal.state
        assert str(twin) == str(refusal)


def test_it_is_nobody_elses_error() -> None:
    assert CircuitOpenError.__mro__[:4] == (CircuitOpenError, RefusedError, AiobreakerError, Exception)
    assert not issubclass(CircuitOpenError, (OSError, TimeoutError, asyncio.CancelledError, RuntimeError))


# -- what an admitted caller gets


@pytest.mark.parametrize("settings", ["count", "time window", "slow calls", "in flight", "judged"])
@pytest.mark.parametrize("way", IMPATIENT)
async def test_a_caller_gets_the_very_result_and_the_very_error(way: WayIn, settings: str) -> None:
    result, error = object(), OSError("down")
    error.__cause__ = cause = ValueError("why")

    async def answer() -> object:
        return result

    async def fail() -> object:
        raise error

    for state in (State.CLOSED, State.HALF_OPEN, State.METRICS_ONLY, State.DISABLED):
        for outcome in (answer, fail):
            breaker = make(**SETTINGS[settings])
            put_into(breaker, state)
            attempt = way(breaker, outcome)
            if outcome is answer:
                assert await attempt() is result
                continue
            with pytest.raises(OSError, match="down") as raised:
                await attempt()
            assert raised.value is error
            assert (error.__context__, error.__cause__) == (None, cause)
            error.__traceback__ = None


def put_into(breaker: CircuitBreaker, state: State) -> None:
    match state:
        case State.HALF_OPEN:
            breaker.half_open()
        case State.METRICS_ONLY:
            breaker.metrics_only()
        case State.DISABLED:
            breaker.disable()


@pytest.mark.parametrize("way", IMPATIENT)
async def test_the_call_that_trips_raises_its_own_error(way: WayIn) -> None:
    errors = [OSError(f"number {number}") for number in range(6)]
    pending = iter(errors)

    async def fail() -> object:
        raise next(pending)

    clock = ManualClock()
    breaker = make(clock=clock)
    attempt = way(breaker, fail)
    for error in errors[:5]:
        assert breaker.state is State.CLOSED
        with pytest.raises(OSError, match="number") as raised:
            await attempt()
        assert raised.value is error
    assert (await refusal_of(attempt)).last_failure == FailureSummary("OSError", "number 4", 0.0)
    clock.advance(30)
    with pytest.raises(OSError, match="number") as raised:
        await attempt()
    assert raised.value is errors[5]
    refusal = await refusal_of(attempt)
    assert refusal.reason == "a trial failed: OSError: number 5"
    assert refusal.last_failure == FailureSummary("OSError", "number 5", 30.0)
