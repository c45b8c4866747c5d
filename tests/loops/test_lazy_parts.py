"""Parts that come into being only when somebody asks: by several threads at once, or in the middle of something else."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from aiobreaker import CallFinished, CircuitBreaker, Event, Outcome, StateChanged
from aiobreaker.locking import LOCK
from aiobreaker.loops import BACKLOG, Backlog
from aiobreaker.testing import record_events

from .stage import LONG, check_order, in_loops, in_threads


class DownError(Exception):
    pass


@pytest.mark.usefixtures("hasty_threads")
@pytest.mark.parametrize("part", ["hub", "lobby"])
def test_a_part_that_several_threads_ask_for_at_once_is_made_once(part: str) -> None:
    for _ in range(300):
        gate = CircuitBreaker("lazy")._gate
        found: list[object] = []

        def ask(gate: Any = gate, found: list[object] = found) -> None:
            found.append(getattr(gate, part))

        in_threads(*[ask] * 4)
        assert len(set(map(id, found))) == 1
        assert getattr(gate, part) is found[0]


def test_an_observer_that_comes_in_the_middle_of_a_transition_hears_of_what_follows() -> None:
    coming, came = threading.Event(), threading.Event()
    events: list[Event] = []

    def random() -> float:
        """Asked for under the lock, for the open time."""
        coming.set()
        return 0.5

    breaker = CircuitBreaker("observed", jitter=0.1, random=random)

    def observe() -> None:
        coming.wait(LONG)
        breaker.subscribe(events.append)
        came.set()

    def order() -> None:
        breaker.open()
        came.wait(LONG)
        breaker.reset()
        breaker.force_open()

    in_threads(order, observe)
    check_order(events)
    assert events[-1].seq == len(events)
    assert [event.new.value for event in events if isinstance(event, StateChanged)][-2:] == ["closed", "forced_open"]


@pytest.mark.usefixtures("hasty_threads")
def test_whoever_comes_while_orders_are_given_hears_all_that_follow_without_a_gap() -> None:
    for _ in range(30):
        breaker = CircuitBreaker("observed")
        logs: list[list[Event]] = [[] for _ in range(3)]

        def order(breaker: CircuitBreaker = breaker) -> None:
            for _ in range(50):
                breaker.force_open()
                breaker.reset()

        def observe(log: list[Event], breaker: CircuitBreaker = breaker) -> None:
            breaker.subscribe(log.append)

        in_threads(order, *[lambda log=log: observe(log) for log in logs])
        breaker.force_open()
        for log in logs:
            check_order(log)
        assert len({log[-1].seq for log in logs}) == 1


@pytest.mark.parametrize("way", ["decorated", "call", "guard"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_calls_that_are_in_flight_when_somebody_asks_for_calls_are_told_of_when_they_fail(way: str, backend: str) -> None:
    breaker = CircuitBreaker("in flight")

    async def work(release: anyio.Event | None = None) -> None:
        if release is not None:
            await release.wait()
        raise DownError

    async def call(release: anyio.Event | None = None) -> None:
        with pytest.raises(DownError):
            if way == "guard":
                async with breaker.guard():
                    await work(release)
            else:
                await (breaker(work)(release) if way == "decorated" else breaker.call(work, release))

    async def main() -> None:
        for _ in range(3):
            await call()
        release = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, release)
            await anyio.wait_all_tasks_blocked()
            async with breaker.events(calls=True) as events:
                release.set()
                event = await anext(events)
        assert isinstance(event, CallFinished)
        assert event.outcome is Outcome.FAILURE
        assert event.failure is not None

    anyio.run(main, backend=backend)
    assert breaker.snapshot().failures == 4
    assert breaker.snapshot().in_flight == 0


# -- the backlog


class Overtaken(list[Callable[[], object]]):
    """Another thread catches up between a look at what there is and taking it."""

    def __init__(self, backlog: Backlog, *actions: Callable[[], object]) -> None:
        super().__init__(actions)
        self.backlog: Backlog | None = backlog

    def pop(self, index: Any = -1) -> Callable[[], object]:
        backlog, self.backlog = self.backlog, None
        if backlog is not None:
            in_threads(backlog.catch_up)
        return super().pop(index)


def test_two_threads_may_catch_up_at_once() -> None:
    backlog, done = Backlog(), []
    backlog._actions = Overtaken(backlog, lambda: done.append(1))
    backlog.catch_up()
    assert done == [1]


class FaultError(Exception):
    """Such as a user's random numbers, or clock, may raise in an order that a finaliser gives."""


def leave(*actions: Callable[[], object]) -> None:
    """What finalisers would do in the middle of a transition."""
    with LOCK:
        for action in actions:
            BACKLOG.do(action)


def fault() -> None:
    raise FaultError


@pytest.fixture
def _swept() -> Any:
    yield
    while BACKLOG._actions:
        BACKLOG._actions.pop()


@pytest.mark.usefixtures("_swept")
def test_what_an_action_raises_does_not_hit_a_call_of_another_breaker() -> None:
    done: list[int] = []
    leave(fault, lambda: done.append(1))
    other = CircuitBreaker("other")
    assert other.snapshot().in_flight == 0
    assert done == [1]


@pytest.mark.usefixtures("_swept")
def test_an_action_that_raises_does_not_lose_the_others() -> None:
    done: list[int] = []
    leave(lambda: done.append(1), fault, lambda: done.append(2))
    for _ in range(2):
        try:
            BACKLOG.catch_up()
        except FaultError:
            continue
    assert done == [1, 2]


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize(
    "backend",
    ["asyncio", "trio"],
)
def test_an_action_that_raises_does_not_end_the_event_loop(backend: str) -> None:
    done: list[int] = []

    async def main() -> str:
        leave(fault, lambda: done.append(1))
        await anyio.sleep(0.01)
        return "alive"

    assert anyio.run(main, backend=backend) == "alive"
    assert done == [1]


@pytest.mark.usefixtures("hasty_threads")
def test_what_finalisers_leave_in_every_thread_is_done_once() -> None:
    breaker = CircuitBreaker("left", trials=1)
    done: list[int] = []

    async def worker() -> None:
        for number in range(200):
            permit = await breaker.acquire()
            with LOCK:
                permit.success()
                BACKLOG.do(partial(done.append, number))
            await anyio.sleep(0)

    with record_events(breaker) as events:
        in_threads(*in_loops(*[worker] * 4))
        BACKLOG.catch_up()
    assert sorted(done) == sorted([*range(200)] * 4)
    assert events == []
    assert breaker.snapshot().totals.successes == 800
    assert breaker.snapshot().in_flight == 0
