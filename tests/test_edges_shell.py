"""User code that raises, judges by itself, or comes at an awkward moment leaves the books of the shell right."""

from typing import Any

import anyio
import pytest

from aiobreaker import (
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    LastCalls,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.core.eras import Stopped
from aiobreaker.testing import ManualClock, record_events


async def fine() -> str:
    return "fine"


async def fail() -> None:
    raise OSError("down")


async def test_random_numbers_that_raise_once_leave_no_half_open_circuit_stuck() -> None:
    clock, luck = ManualClock(), [0.5, None, 0.5, 0.5]

    def random() -> float:
        number = luck.pop(0)
        if number is None:
            raise ValueError("no luck")
        return number

    breaker = CircuitBreaker("unlucky", jitter=0.1, clock=clock, random=random)
    breaker.open()
    clock.advance(100)
    with pytest.raises(ValueError, match="no luck"):
        await breaker.call(fail)
    assert breaker.snapshot().in_flight == 0
    for _ in range(3):
        clock.advance(1000)
        if breaker.state is not State.CLOSED:
            await attempt(breaker)
    assert breaker.state is State.CLOSED


async def attempt(breaker: CircuitBreaker) -> None:
    try:
        await breaker.call(fine)
    except CircuitOpenError:
        return


IN_FLIGHT = SlowCallRate(1.0, 1.0, LastCalls(10), minimum_calls=1, count_in_flight=True)


@pytest.mark.parametrize("way", ["decorated", "acquire"])
async def test_a_call_that_ended_while_nobody_counted_running_calls_is_not_running(way: str) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("running", trip=IN_FLIGHT, clock=clock)
    release = anyio.Event()
    async with anyio.create_task_group() as tasks:
        if way == "decorated":
            tasks.start_soon(breaker(waiter), release)
        else:
            permit = await breaker.acquire()
        await anyio.wait_all_tasks_blocked()
        breaker.reconfigure(trip=ConsecutiveFailures(5))
        release.set()
        if way == "acquire":
            permit.success()
        await anyio.wait_all_tasks_blocked()
    breaker.reconfigure(trip=IN_FLIGHT)
    clock.advance(100)
    assert await breaker.call(fine) == "fine"
    assert breaker.snapshot().readings[0].count == 0


async def waiter(event: anyio.Event) -> None:
    await event.wait()


class Judging(type):
    """Says by the instance, not by the type, what is a server's error."""

    def __instancecheck__(cls, error: Any) -> bool:
        return getattr(error, "status", 0) >= 500


class StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ServerError(Exception, metaclass=Judging):
    pass


async def test_types_that_judge_each_instance_are_asked_each_time() -> None:
    breaker = CircuitBreaker("status", failure_on=ServerError, trip=FailureCount(10, LastCalls(10)), clock=ManualClock())

    async def answer(status: int) -> None:
        raise StatusError(status)

    for status in (503, 404, 404, 503):
        with pytest.raises(StatusError):
            await breaker.call(answer, status)
    assert (breaker.snapshot().totals.successes, breaker.snapshot().totals.failures) == (2, 2)


class StoppedError(BaseException):
    """Such as a KeyboardInterrupt."""


class WordlessError(Exception):
    def __init__(self, interrupts: bool) -> None:
        self.interrupts = interrupts

    def __str__(self) -> str:
        if self.interrupts:
            raise StoppedError
        return "words"


@pytest.mark.parametrize("failures", [0, 2], ids=["first of its type", "noted"])
async def test_an_interrupt_while_an_error_is_asked_for_its_words_leaves_nothing_in_flight(failures: int) -> None:
    breaker = CircuitBreaker("interrupted", clock=ManualClock())

    async def answer(interrupts: bool) -> None:
        raise WordlessError(interrupts)

    for _ in range(failures):
        with pytest.raises(WordlessError):
            await breaker.call(answer, False)
    with pytest.raises(StoppedError):
        await breaker.call(answer, True)
    assert breaker.snapshot().in_flight == 0


async def test_a_caller_that_waits_and_is_admitted_was_not_refused() -> None:
    breaker = CircuitBreaker("patient", clock=ManualClock())
    breaker.force_open()

    async def wait() -> None:
        async with breaker.guard(max_wait=60):
            pass

    with record_events(breaker, calls=True) as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            breaker.reset()
    assert breaker.snapshot().totals.refused == 0
    assert not [event for event in events if isinstance(event, CallRefused)]


async def test_a_caller_that_waits_in_vain_is_refused_once(anyio_backend_name: str) -> None:
    breaker = CircuitBreaker("patient", clock=ManualClock())
    breaker.force_open()
    with pytest.raises(CircuitOpenError):
        await breaker.acquire(max_wait=5)
    assert breaker.snapshot().totals.refused == 1


async def test_a_refusal_that_meets_an_order_from_another_thread_is_in_the_totals() -> None:
    breaker = CircuitBreaker("threads", clock=ManualClock())
    breaker.force_open()
    gate = breaker._gate
    stop = gate.circuit.door.stop  # as a guard does, in one thread
    assert isinstance(stop, Stopped)
    breaker.reset()  # and another one comes in between
    refusal = gate.refusal(stop, gate.clock()) or await gate.refusal_slowly(stop, gate.clock())
    assert refusal.state is State.FORCED_OPEN
    assert breaker.snapshot().totals.refused == 1


async def test_a_trial_may_be_refused_and_admitted_in_the_same_moment() -> None:
    breaker = CircuitBreaker("moment", trials=Trials(1, max_inconclusive=1000), clock=ManualClock())
    breaker.half_open()
    for _ in range(300):
        permit = await breaker.acquire()
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
        permit.ignore()
    assert await breaker.call(fine) == "fine"
    assert breaker.snapshot().totals[:6] == (1, 0, 300, 0, 0, 300)
