"""Refusals that guards make by themselves: as right in every state as those that are asked for, and never one too many."""

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import copy, deepcopy
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import (
    CallRefused,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    FailureRate,
    FailureSummary,
    LastSeconds,
    RefusedError,
    SlowCallRate,
    State,
    Trials,
)
from aiobreaker.testing import ManualClock

Attempt = Callable[[], Awaitable[object]]


async def fine() -> str:
    return "fine"


def ways_into(breaker: CircuitBreaker) -> dict[str, Attempt]:
    """Each calls something guarded, by another way in."""

    async def generate() -> AsyncIterator[str]:
        yield "fine"

    async def guard(max_wait: float = 0.0) -> str:
        async with breaker.guard(max_wait=max_wait):
            return "fine"

    async def acquire() -> str:
        permit = await breaker.acquire()
        permit.success()
        return "fine"

    async def stream() -> str:
        async with breaker.stream(generate()) as items:
            (item,) = [item async for item in items]
            return item

    decorated_generator = breaker(generate)

    async def generator() -> str:
        (item,) = [item async for item in decorated_generator()]
        return item

    used = breaker.guard()

    async def reused_guard() -> str:
        async with used:
            return "fine"

    return {
        "decorated": breaker(fine),
        "call": lambda: breaker.call(fine),
        "guard": guard,
        "reused guard": reused_guard,
        "acquire": acquire,
        "stream": stream,
        "generator": generator,
    }


WAYS = list(ways_into(CircuitBreaker("names only")))
MANY_TRIALS = Trials(3, concurrent=1, required=1, lease=40, max_inconclusive=1000)


async def refusal_of(attempt: Attempt) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as refusal:
        await attempt()
    return refusal.value


async def turns_during(attempt: Callable[[], Awaitable[object]]) -> int:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await checkpoint()
        before = turns
        await attempt()
        after = turns
        tasks.cancel_scope.cancel()
    return after - before


@pytest.mark.parametrize("watched", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("state", [State.HALF_OPEN, State.OPEN, State.FORCED_OPEN])
@pytest.mark.parametrize("way", WAYS)
async def test_of_a_thousand_refusals_in_a_row_one_in_64_gives_way(way: str, state: State, watched: bool) -> None:
    breaker = CircuitBreaker("crowd", trials=MANY_TRIALS, clock=ManualClock())
    attempt = ways_into(breaker)[way]
    {State.HALF_OPEN: breaker.half_open, State.OPEN: breaker.open, State.FORCED_OPEN: breaker.force_open}[state]()
    held = await breaker.acquire() if state is State.HALF_OPEN else None
    if watched:
        breaker.subscribe(lambda event: None, calls=True)

    async def insist() -> None:
        for _ in range(1000):
            assert (await refusal_of(attempt)).state is state

    assert 14 <= await turns_during(insist) <= 17
    assert breaker.snapshot().refused == 1000
    if held is not None:
        held.ignore()


async def neutral(breaker: CircuitBreaker, clock: ManualClock) -> Callable[[], object]:
    return (await breaker.acquire()).ignore


async def cancelled(breaker: CircuitBreaker, clock: ManualClock) -> Callable[[], object]:
    held = breaker.call(Suspend)
    held.send(None)
    return held.close


async def lease_over(breaker: CircuitBreaker, clock: ManualClock) -> Callable[[], object]:
    held = await breaker.acquire()

    def end() -> None:
        clock.advance(40)
        held_forever.append(held)

    return end


async def reconfigured(breaker: CircuitBreaker, clock: ManualClock) -> Callable[[], object]:
    held_forever.append(await breaker.acquire())
    return lambda: breaker.reconfigure(trials=Trials(3, concurrent=2, required=1, max_inconclusive=1000))


async def failed(breaker: CircuitBreaker, clock: ManualClock) -> Callable[[], object]:
    return (await breaker.acquire()).failure


held_forever: list[Any] = []


class Suspend:
    """Suspends whoever awaits it, for ever, without an event loop."""

    def __await__(self) -> Any:
        yield


@pytest.fixture
def _let_go() -> Any:
    yield
    while held_forever:
        held_forever.pop().ignore()


@pytest.mark.usefixtures("_let_go")
@pytest.mark.parametrize("refusals", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("occupy", [neutral, cancelled, lease_over, reconfigured, failed])
@pytest.mark.parametrize("way", WAYS)
async def test_a_slot_that_comes_back_admits_the_very_next_caller(way: str, occupy: Any, refusals: int) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("slot", trials=MANY_TRIALS, clock=clock)
    attempt = ways_into(breaker)[way]
    breaker.half_open()
    give_back = await occupy(breaker, clock)
    for _ in range(refusals):
        refusal = await refusal_of(attempt)
        assert (refusal.state, refusal.retry_after) == (State.HALF_OPEN, 40)
        assert refusal.reason == "all trial slots are taken (1 at once)"
    give_back()
    assert await attempt() == "fine"
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().totals.refused == refusals


@pytest.mark.parametrize("way", WAYS)
async def test_the_refusal_says_when_the_next_lease_ends_and_what_is_wanted(way: str) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("leases", trials=Trials(2, concurrent=2, required=1, lease=40, max_inconclusive=9), clock=clock)
    attempt = ways_into(breaker)[way]
    breaker.half_open()
    first = await breaker.acquire()
    clock.advance(10)
    second = await breaker.acquire()
    wanted = "as many trials are running as verdicts are wanted"
    for seconds, left in ((0, 30), (5, 25)):
        clock.advance(seconds)
        refusal = await refusal_of(attempt)
        assert (refusal.name, refusal.state, refusal.reason, refusal.retry_after) == ("leases", State.HALF_OPEN, wanted, left)
        assert breaker.snapshot().retry_after == left
    first.ignore()
    first = await breaker.acquire()
    refusal = await refusal_of(attempt)
    assert refusal.retry_after == 35  # of the second
    second.failure()
    refusal = await refusal_of(attempt)
    assert (refusal.reason, refusal.retry_after) == (wanted, 40)
    assert refusal.last_failure == FailureSummary("result", "'the caller said so'", 15)
    first.success()
    assert await attempt() == "fine"


@pytest.mark.parametrize("way", WAYS)
async def test_it_says_what_the_circuit_is_in_from_order_to_order(way: str) -> None:
    clock = ManualClock()
    breaker = CircuitBreaker("orders", clock=clock, trip=ConsecutiveFailures(1))
    attempt = ways_into(breaker)[way]
    refused = 0
    breaker.open(10, reason="by me")
    clock.advance(4)
    for state, reason, retry_after, then in (
        (State.OPEN, "by me", 6, lambda: breaker.open(20)),
        (State.OPEN, "opened by hand", 20, breaker.force_open),
        (State.FORCED_OPEN, "forced open", None, lambda: breaker.force_open("again")),
        (State.FORCED_OPEN, "again", None, lambda: breaker.reconfigure(trip=FailureRate(0.5, LastSeconds(5)))),
        (State.FORCED_OPEN, "again", None, lambda: breaker.open(5)),
        (State.OPEN, "opened by hand", 5, lambda: clock.advance(4.5)),
        (State.OPEN, "opened by hand", 0.5, lambda: clock.advance(0.5)),
    ):
        refusal = await refusal_of(attempt)
        assert (refusal.state, refusal.reason, refusal.retry_after) == (state, reason, retry_after)
        refused += 1
        assert breaker.snapshot().totals.refused == refused
        then()  # type: ignore[no-untyped-call]
    assert await attempt() == "fine"
    assert breaker.state is State.CLOSED
    assert breaker.snapshot().totals.refused == refused


@pytest.mark.parametrize("way", WAYS)
async def test_watchers_that_come_and_go_are_told_of_theirs_and_all_are_counted(way: str) -> None:
    breaker = CircuitBreaker("watched", trials=MANY_TRIALS, clock=ManualClock())
    attempt = ways_into(breaker)[way]
    breaker.half_open()
    held = await breaker.acquire()
    for number in range(5):
        await refusal_of(attempt)
        told: list[Event] = []
        unsubscribe = breaker.subscribe(told.append, calls=True)
        for _ in range(number):
            await refusal_of(attempt)
        unsubscribe()
        await refusal_of(attempt)
        assert [type(event) for event in told] == [CallRefused] * number
        assert {event.retry_after for event in told if isinstance(event, CallRefused)} <= {40.0}
    assert breaker.snapshot().totals.refused == 5 * 2 + 10
    held.ignore()
    assert await attempt() == "fine"


SHAPES: list[dict[str, Any]] = [
    {"trip": FailureRate(0.5, LastSeconds(10))},
    {"trip": SlowCallRate(0.5, 1.0, LastSeconds(10))},
    {"trip": SlowCallRate(0.5, 1.0, LastSeconds(10), count_in_flight=True)},
    {"failure_if": lambda result: False},
    {"failure_if": None, "trip": ConsecutiveFailures(5)},
]


@pytest.mark.parametrize("state", [State.HALF_OPEN, State.FORCED_OPEN])
@pytest.mark.parametrize("way", WAYS)
async def test_a_change_of_shape_changes_no_refusal(way: str, state: State) -> None:
    breaker = CircuitBreaker("shapes", trials=MANY_TRIALS, clock=ManualClock())
    attempt = ways_into(breaker)[way]
    breaker.half_open()
    held = await breaker.acquire()
    if state is State.FORCED_OPEN:
        breaker.force_open()
    refused = 0
    for shape in SHAPES:
        breaker.reconfigure(**shape)
        for each in (attempt, ways_into(breaker)[way]):
            for _ in range(70):
                assert (await refusal_of(each)).state is state
                refused += 1
        assert breaker.snapshot().refused == refused
    held.ignore()
    breaker.reset()
    assert await attempt() == "fine"
    assert breaker.snapshot().in_flight == 0


# -- the error itself

SUMMARY = FailureSummary("OSError", "down", 1.0)


def pickled(protocol: int, error: Any) -> Any:
    return pickle.loads(pickle.dumps(error, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda error: error,
    "copy": copy,
    "deep copy": deepcopy,
    **{f"pickle {number}": partial(pickled, number) for number in range(6)},
}


@pytest.mark.parametrize("copied", COPIES)
def test_it_is_the_same_however_it_was_copied(copied: str) -> None:
    original = CircuitOpenError("a", State.HALF_OPEN, "taken", 2.0, SUMMARY)
    original.add_note("noted")
    error = COPIES[copied](original)
    assert type(error) is CircuitOpenError
    assert isinstance(error, RefusedError)
    assert error.args == ("a", State.HALF_OPEN, "taken", 2.0, SUMMARY)
    seen = (error.name, error.state, error.reason, error.retry_after, error.last_failure)
    assert seen == error.args
    assert str(error) == "circuit breaker 'a' is half open: taken; retry after 2 s"
    assert repr(error).startswith("CircuitOpenError('a', <State.HALF_OPEN: 'half_open'>, 'taken', 2.0, FailureSummary(")
    assert error.__notes__ == ["noted"]


def test_what_is_left_out_is_nothing() -> None:
    error = CircuitOpenError("a")
    assert (error.name, error.state, error.reason, error.retry_after, error.last_failure) == ("a", State.OPEN, "", None, None)
    assert str(error) == "circuit breaker 'a' is open"
    assert str(CircuitOpenError("a", State.OPEN, "", 0.0)) == "circuit breaker 'a' is open; retry after 0 s"
    with pytest.raises(TypeError, match="keyword"):
        CircuitOpenError("a", retry_after=0.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("way", WAYS)
async def test_no_two_refusals_are_one_and_each_tells_where_it_was_raised(way: str) -> None:
    breaker = CircuitBreaker("fresh", clock=ManualClock())
    attempt = ways_into(breaker)[way]
    breaker.force_open()
    errors = [await refusal_of(attempt) for _ in range(70)]
    assert len(set(map(id, errors))) == 70
    assert all(error.__traceback__ is not None and error.__cause__ is None and error.__context__ is None for error in errors)
    assert len({str(error) for error in errors}) == 1
