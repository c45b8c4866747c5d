"""Timeout: a call that takes too long is cancelled, awaited, and raises TimeoutError.

Law: only the end of its own time becomes its error. What the call raises by itself passes, a TimeoutError too.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

from ..core import checks
from ..deadlines import TimeLimit, scope_after
from ..policy import Function, NamedPolicy
from .events import TimedOut

if TYPE_CHECKING:
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSnapshot:
    """What a timeout has done so far: `timed_out` is how many calls and blocks it has ended, after `seconds` each."""

    name: str
    seconds: float
    timed_out: int


class Timeout(NamedPolicy[Never]):
    """Ends every call that takes longer than so many seconds: it is cancelled and awaited, then TimeoutError is raised.

        timeout = Timeout(2.0)

        @timeout
        async def fetch(url): ...

        async with timeout.guard():
            ...

    Inside a retry each attempt has its own time. Inside a circuit breaker the TimeoutError is a failure like any other; outside
    of one it is not: there it arrives as a cancellation, which says nothing about the dependency.

    A function that suppresses the cancellation and returns keeps its result; one that never awaits cannot be ended.

    Args:
        seconds: how many seconds a call may take, on the event loop's clock.
        name: what the error and events call it.
        clock: seconds, steadily rising, for events.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = ("_seconds", "_timed_out")

    def __init__(self, seconds: float, *, name: str = "timeout", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, clock)
        self._seconds = checks.seconds("seconds", seconds)
        self._timed_out = 0

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, for as long as it may take.

        Raises:
            TimeoutError: it took longer.
        """
        with scope_after(self._seconds):
            return await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        raise self._expired()

    def _around(self, fn: Function) -> Function:
        seconds, expired = self._seconds, self._expired

        async def limited(*args: Any, **kwargs: Any) -> Any:
            with scope_after(seconds):
                return await (fn(*args, **kwargs) if kwargs else fn(*args))
            raise expired()

        return limited

    def guard(self) -> TimeLimit:
        """A block that ends in time or with TimeoutError: `async with timeout.guard(): ...`. Every block needs its own."""
        return TimeLimit(self._seconds, self._expired)

    def _expired(self) -> TimeoutError:
        self._timed_out += 1
        self._tell(TimedOut, after=self._seconds)
        return TimeoutError(f"{self.name}: not finished within {self._seconds:g} s")

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        return Traits(kind="timeout", words=f"timeout {self.name!r} of {self._seconds:g} s", seconds=self._seconds)

    def snapshot(self) -> TimeoutSnapshot:
        """How often it had to end a call."""
        return TimeoutSnapshot(name=self.name, seconds=self._seconds, timed_out=self._timed_out)
