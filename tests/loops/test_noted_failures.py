"""Several threads fail at once: each failure is noted once, counted once, and the one that matters opens the circuit."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureCount,
    FailureRate,
    HeldPermit,
    LastCalls,
    LastSeconds,
    SlowCallRate,
    State,
)
from aiobreaker.core import tallies
from aiobreaker.core.conditions import Condition

from .stage import LONG, in_threads

MANY = 10**6
NEVER: list[Condition] = [
    ConsecutiveFailures(MANY),
    FailureCount(MANY, LastCalls(MANY)),
    FailureCount(MANY, LastSeconds(3600)),
    FailureRate(1.0, LastCalls(MANY), minimum_calls=MANY),
    SlowCallRate(1.0, 1e-9, LastCalls(MANY), minimum_calls=MANY),
]
THREADS, EACH = 3, 3_000


class DownError(Exception):
    pass


async def down() -> None:
    raise DownError


async def fine() -> None:
    pass


def drive(coroutine: Any) -> None:
    """Run what has nothing to wait for: the shortest way, so that threads run into each other all the time."""
    with suppress(StopIteration, DownError):
        coroutine.send(None)
        raise AssertionError("it waits for something")


async def block(breaker: CircuitBreaker, fn: Callable[[], Any]) -> None:
    async with breaker.guard():
        await fn()


def ways_of(breaker: CircuitBreaker, way: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A guarded failure and a guarded success."""
    match way:
        case "decorated":
            return breaker(down), breaker(fine)
        case "call":
            return lambda: breaker.call(down), lambda: breaker.call(fine)
        case _:
            return lambda: block(breaker, down), lambda: block(breaker, fine)


def beside(work: Callable[[], None], what: Callable[[], object] | None) -> None:
    """The work in several threads, and something else in one more, as long as it lasts."""
    over = threading.Event()

    def several() -> None:
        try:
            in_threads(*[work] * THREADS)
        finally:
            over.set()

    def disturb() -> None:
        while not over.is_set() and what is not None:
            what()

    in_threads(several, disturb)


def drop_a_permit(breaker: CircuitBreaker) -> None:
    held: list[HeldPermit] = []
    try:
        breaker.acquire().send(None)
    except StopIteration as stopped:
        held.append(stopped.value)
    held.pop().ignore()


DISTURBERS: dict[str, Callable[[CircuitBreaker], object] | None] = {
    "alone": None,
    "snapshots": CircuitBreaker.snapshot,
    "settlements": drop_a_permit,
    "watchers": lambda breaker: breaker.subscribe(id, calls=True)(),
}


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("disturber", DISTURBERS)
@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
@pytest.mark.parametrize("trip", NEVER, ids=str)
def test_every_failure_is_counted_once(trip: Condition, way: str, disturber: str) -> None:
    breaker = CircuitBreaker("exact", trip=trip)
    failing, succeeding = ways_of(breaker, way)
    mixed = not isinstance(trip, ConsecutiveFailures)

    def work() -> None:
        for number in range(EACH):
            drive(failing())
            if mixed and not number % 3:
                drive(succeeding())

    disturb = DISTURBERS[disturber]
    beside(work, None if disturb is None else lambda: disturb(breaker))
    seen = breaker.snapshot()
    failures, successes = THREADS * EACH, THREADS * EACH // 3 * mixed
    assert seen.totals[:2] == (successes, failures)
    assert (seen.calls, seen.failures, seen.in_flight) == (successes + failures, failures, 0)
    (reading,) = seen.readings
    assert reading.calls == successes + failures
    slow_for_all_we_know = isinstance(trip, SlowCallRate)
    assert reading.count >= failures if slow_for_all_we_know else reading.count == failures


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
@pytest.mark.parametrize(
    "trip",
    [ConsecutiveFailures(100), FailureCount(100, LastCalls(1000)), FailureCount(100, LastSeconds(3600))],
    ids=str,
)
def test_it_opens_at_the_threshold_and_not_before(trip: Condition, way: str) -> None:
    for _ in range(15):
        breaker = CircuitBreaker("threshold", trip=trip)
        failing, _ = ways_of(breaker, way)
        ran = [0] * 4

        def fail(number: int, failing: Callable[[], Any] = failing, ran: list[int] = ran) -> None:
            for _ in range(200):
                try:
                    failing().send(None)
                except DownError:
                    ran[number] += 1
                except CircuitOpenError:
                    return

        in_threads(*[lambda number=number, fail=fail: fail(number) for number in range(4)])
        seen = breaker.snapshot()
        assert seen.state is State.OPEN
        assert seen.totals.failures == 100
        assert seen.totals.late == sum(ran) - 100 <= 3
        assert seen.in_flight == 0


@pytest.mark.parametrize("trip", [ConsecutiveFailures(MANY), *NEVER[1:4]], ids=str)
def test_no_failure_is_lost_that_is_noted_in_the_midst_of_a_change_of_settings(
    trip: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = CircuitBreaker("changing", trip=trip)
    for _ in range(5):
        drive(breaker.call(down))
    original = tallies.tally

    def tally(*args: Any) -> Any:
        """Here another thread fails, or a finaliser in this one."""
        drive(breaker.call(down))
        return original(*args)

    monkeypatch.setattr("aiobreaker.core.circuit.tally", tally)
    breaker.reconfigure(max_waiters=5)
    monkeypatch.undo()
    for _ in range(5):
        drive(breaker.call(down))
    seen = breaker.snapshot()
    assert (seen.failures, seen.totals.failures) == (11, 11)
    assert seen.readings[0].count == 11


@pytest.mark.usefixtures("hasty_threads")
def test_orders_in_the_midst_of_failures_lose_none_and_double_none() -> None:
    breaker = CircuitBreaker("ordered", trip=ConsecutiveFailures(MANY))
    failing = breaker(down)

    def work() -> None:
        for _ in range(EACH):
            drive(failing())

    def order() -> None:
        breaker.reset()
        breaker.metrics_only()

    beside(work, order)
    seen = breaker.snapshot()
    assert seen.totals.failures + seen.totals.late == THREADS * EACH
    assert seen.totals.successes == 0
    assert seen.in_flight == 0


FORKED = """
import os, signal, sys
from aiobreaker import CircuitBreaker, ConsecutiveFailures, State

breaker = CircuitBreaker("forked", trip=ConsecutiveFailures(20))

async def down():
    raise OSError("down")

def fail(times):
    for _ in range(times):
        try:
            breaker.call(down).send(None)
        except OSError:
            pass

def use():
    fail(9)
    assert breaker.state is State.CLOSED
    fail(1)
    assert breaker.state is State.OPEN
    seen = breaker.snapshot()
    assert (seen.totals.failures, seen.in_flight, str(seen.last_failure)) == (20, 0, "OSError: down"), seen

fail(10)
assert breaker._gate.circuit.era.noted  # not counted yet
pid = os.fork()
if not pid:
    signal.alarm(4)
    try:
        use()
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
failed = os.waitpid(pid, 0)[1]
use()
sys.exit(failed != 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork_both_processes_know_what_was_noted() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=3 * LONG, check=False)
    assert (done.returncode, done.stderr) == (0, "")
