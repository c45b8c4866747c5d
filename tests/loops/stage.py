"""What the tests of this folder share: calls to make, threads and loops to make them in, and checks of what is left."""

import threading
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import cycle, pairwise
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import CircuitBreaker, CircuitOpenError, Event, State, StateChanged, Trials
from aiobreaker.testing import ManualClock

LONG = 10  # seconds; the watchdog of what must not hang


async def fine() -> str:
    await checkpoint()
    return "fine"


async def fail() -> None:
    await checkpoint()
    raise OSError("down")


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


def check_order(events: list[Event]) -> list[StateChanged]:
    """One after the other, without a gap, each from where the one before it led."""
    assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + len(events)))
    changes = [event for event in events if isinstance(event, StateChanged)]
    assert all(one.new is two.old for one, two in pairwise(changes))
    return changes


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
