"""Bulkhead: at most so many calls at once. Who finds no place waits in a bounded line, or is refused.

Law: a place is taken and given back by one addition each, with nothing called between reading and writing. So there are never
more calls inside than allowed, in however many threads, and no place is ever lost or made.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

import anyio

from ..begun import ENDED
from ..core import checks
from ..errors import BulkheadFullError
from ..lines import Line
from ..locking import begins_anew_after_forks
from ..policy import Function, NamedPolicy
from .events import GuardRefused

if TYPE_CHECKING:  # loaded when they are first used
    import anyio.lowlevel  # noqa: TC004

    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

_YIELD_MASK = 63  # every 64th refusal gives way to the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkheadSnapshot:
    """One look at a bulkhead: how many calls run and may run, how many callers wait for a place, how many it ever refused."""

    name: str
    max_concurrent: int
    running: int
    waiting: int
    refused: int


class _Places:
    """How many places are taken, in this process. A call leaves the same places that it entered, after a fork too."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = 0


_ENTERING = _Places()  # stands in for them while a block waits


class Bulkhead(NamedPolicy[Never]):
    """Lets at most `max_concurrent` calls run at once.

        database = Bulkhead(20)
        database = Bulkhead(20, max_waiters=100, max_wait=0.5)

    Who finds no place is refused; with `max_waiters`, that many callers wait for one, for up to `max_wait` seconds each. First
    come, first served: newcomers stand behind those who wait. A caller that is cancelled, waiting or running, leaves at once,
    and its place goes to the next. Nobody queues past a deadline that is over.

    One bulkhead serves any number of event loops and threads, and all of them share its places. Whoever closes a loop by hand
    while calls are inside leaves their places taken until its tasks are collected, if they ever are: they may still hold what
    the bulkhead guards. (`asyncio.run`, `anyio.run` and `trio.run` end all tasks before they return.) Those who wait in a dead
    loop are in nobody's way. A forked child begins with all places free.

    Args:
        max_concurrent: how many calls may run at once.
        max_waiters: how many callers may wait for a place.
        max_wait: for how many seconds each of them may.
        name: what errors and events call it.
        clock: for the times of events, in seconds.

    Raises:
        BulkheadFullError: (from calls) there was no place; the function did not run.
    """

    __slots__ = ("_line", "_max_wait", "_places", "_refused", "max_concurrent")

    def __init__(
        self,
        max_concurrent: int,
        *,
        max_waiters: int = 0,
        max_wait: float = inf,
        name: str = "bulkhead",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        self.max_concurrent = checks.count("max_concurrent", max_concurrent)
        self._line = Line(max_waiters)
        self._max_wait = self._line.allows("max_wait", max_wait)
        self._places = _Places()
        self._refused = 0
        begins_anew_after_forks(self)

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, once there is a place.

        Raises:
            BulkheadFullError: there was none; the function did not run.
        """
        places, line = self._places, self._line
        if (taken := places.taken) < self.max_concurrent and not line.waiting:
            places.taken = taken + 1
        else:
            places = await self._enter()
        try:
            return await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        finally:
            places.taken -= 1
            if line.waiting:
                line.move()

    def _around(self, fn: Function) -> Function:
        line, most = self._line, self.max_concurrent

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            places = self._places
            if (taken := places.taken) < most and not line.waiting:
                places.taken = taken + 1
            else:
                places = await self._enter()
            try:
                return await (fn(*args, **kwargs) if kwargs else fn(*args))
            finally:
                places.taken -= 1
                if line.waiting:
                    line.move()

        return guarded

    def guard(self) -> "BulkheadBlock":
        """A block that takes a place: `async with bulkhead.guard(): ...`. Entering raises BulkheadFullError."""
        block = BulkheadBlock()
        block._bulkhead = self
        block._places = None
        return block

    # -- off the fast path

    async def _enter(self) -> _Places:
        """Stand in line for a place, or raise BulkheadFullError."""
        places = self._places

        def ask() -> float:
            if (taken := places.taken) < self.max_concurrent:
                places.taken = taken + 1
                return 0.0
            return inf

        why = await self._line.wait(ask, self._max_wait)
        if why is None:
            return places
        raise await self._refusal(f"{places.taken} of {self.max_concurrent} places are taken, and {why}")

    async def _refusal(self, reason: str) -> BulkheadFullError:
        self._refused += 1
        give_way = not self._refused & _YIELD_MASK
        self._tell(GuardRefused, reason=reason, retry_after=None)
        if give_way:
            await anyio.lowlevel.checkpoint()
        return BulkheadFullError(self.name, reason)

    def _begin_as_child(self) -> None:
        self._places = _Places()

    # -- what there is to see

    def snapshot(self) -> BulkheadSnapshot:
        """One look at it."""
        return BulkheadSnapshot(
            name=self.name,
            max_concurrent=self.max_concurrent,
            running=self._places.taken,
            waiting=self._line.waiting,
            refused=self._refused,
        )

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        waiters = self._line.max_waiters
        line = f", and {waiters} in line" if waiters and self._max_wait else ""
        if line and self._max_wait < inf:
            line += f" for up to {self._max_wait:g} s"
        words = f"bulkhead {self.name!r} ({self.max_concurrent} at once{line})"
        return Traits(kind="limit", words=words, max_wait=self._max_wait if waiters else 0.0)


class BulkheadBlock:
    """A block with a place of its own. Every block needs its own guard."""

    __slots__ = ("_bulkhead", "_places")

    _bulkhead: Bulkhead
    _places: _Places | None  # while the block runs

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        bulkhead = self._bulkhead
        places = bulkhead._places
        if self._places is None and (taken := places.taken) < bulkhead.max_concurrent and not bulkhead._line.waiting:
            places.taken = taken + 1
            self._places = places
            return ENDED
        return self._enter()

    async def _enter(self) -> None:
        if self._places is not None:
            raise RuntimeError("this guard is in use; every block needs its own: async with bulkhead.guard()")
        self._places = _ENTERING
        places = None
        try:
            places = await self._bulkhead._enter()
        finally:
            self._places = places

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        places, self._places = self._places, None
        assert places is not None
        places.taken -= 1
        line = self._bulkhead._line
        if line.waiting:
            line.move()
        return ENDED
