"""For tests of code that uses the library: a clock, a dependency that follows a script, recorded events, forced states."""

import asyncio
import selectors
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import anyio

from .breaker import CircuitBreaker
from .core import checks
from .core.eras import State
from .events import Event

__all__ = ["Answer", "ManualClock", "ScriptedDependency", "VirtualTimeLoop", "in_state", "record_events"]


class ManualClock:
    """A clock that moves only when told to: `CircuitBreaker(..., clock=ManualClock())`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = checks.number("now", now, "a number of seconds")

    def __call__(self) -> float:
        """Seconds, as they were last set."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds (ValueError if below 0)."""
        self.now += checks.wait("seconds", seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """A step of a script: return `value`, or raise it if it is an exception, `after` so many seconds (infinity: never)."""

    value: object = None
    after: float = 0.0

    def __post_init__(self) -> None:
        checks.wait("after", self.after)


class ScriptedDependency:
    """An async function that does what its script says, step by step; the last step repeats.

    A step is an `Answer`, an exception (raised), or any other value (returned). `calls` are the arguments it was called with,
    `running` and `most_running` how many calls are and were inside at once.

        dependency = ScriptedDependency("fine", OSError("down"), Answer("slow", after=3.0), Answer(after=inf))
    """

    def __init__(self, *script: object) -> None:
        if not script:
            raise ValueError("a script needs at least one step")
        self._script: Sequence[Answer] = [step if isinstance(step, Answer) else Answer(step) for step in script]
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.running = 0
        self.most_running = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the next step."""
        step = self._script[min(len(self.calls), len(self._script) - 1)]
        self.calls.append((args, kwargs))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await (anyio.sleep_forever() if step.after == inf else anyio.sleep(step.after))
        finally:
            self.running -= 1
        if isinstance(step.value, BaseException) or (isinstance(step.value, type) and issubclass(step.value, BaseException)):
            raise step.value
        return step.value


@contextmanager
def record_events(breaker: CircuitBreaker, *, calls: bool = False) -> Generator[list[Event]]:
    """The breaker's events during a block, as a list that grows."""
    events: list[Event] = []
    unsubscribe = breaker.subscribe(events.append, calls=calls)
    try:
        yield events
    finally:
        unsubscribe()


@contextmanager
def in_state(breaker: CircuitBreaker, state: State) -> Generator[CircuitBreaker]:
    """The breaker in this state for a block; afterwards it is closed, with fresh counts."""
    orders: dict[State, Callable[[], None]] = {
        State.CLOSED: breaker.reset,
        State.OPEN: breaker.open,
        State.HALF_OPEN: breaker.half_open,
        State.FORCED_OPEN: breaker.force_open,
        State.DISABLED: breaker.disable,
        State.METRICS_ONLY: breaker.metrics_only,
    }
    breaker.reset()
    orders[State(state)]()
    try:
        yield breaker
    finally:
        breaker.reset()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in which waiting takes no time: when nothing is ready, its clock jumps to the next timer.

    For trio use `trio.testing.MockClock(autojump_threshold=0)`. In both, give breakers `clock=anyio.current_time`. Not for
    tests with real sockets or threads.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


_PATIENCE = 5.0  # real seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            ready = super().select(0)
            if not ready and timeout > 0:
                self._jump(timeout)
            return ready
        ready = super().select(_PATIENCE)
        if not ready:
            raise RuntimeError("every task waits for something, and no timer will bring it")
        return ready
