"""Deadline: one budget of time for everything inside a block or a call, however many calls, attempts and waits that are.

Law: of deadlines inside one another the nearest wins, and where one is over already, nothing more is begun.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, ParamSpec, Self, TypeVar

import anyio

from ..core import checks
from ..deadlines import TimeLimit, remaining, scope_after
from ..policy import Function, NamedPolicy
from .events import TimedOut

if TYPE_CHECKING:
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineSnapshot:
    """What a deadline has done so far: `timed_out` is how many calls and blocks it has ended, after `seconds` each."""

    name: str
    seconds: float
    timed_out: int


class DeadlineBlock(TimeLimit):
    """A block with a budget of time. `remaining()` says what is left of it."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        if not remaining():
            await anyio.sleep_forever()
        return await super().__aenter__()


class Deadline(NamedPolicy[Never]):
    """A budget of so many seconds for everything inside. At its end that is cancelled and awaited, and TimeoutError raised.

        async with Deadline(2.0).guard() as limit:
            user = await fetch_user(user_id)
            headers = {"X-Time-Left": f"{limit.remaining():.3f}"}  # for the next service, in seconds
            orders = await fetch_orders(user, headers)

        @Deadline(2.0)
        async def answer(request): ...

    It holds for all calls in the block, and for the child tasks of task groups inside. Code deep down needs no handle on it:
    `remaining()` says anywhere how many seconds are left. Retries give up rather than sleep past it, and guards with a line
    (bulkheads, rate limits, breakers with `max_wait`) refuse rather than queue past it.

    Of deadlines inside one another the nearest wins, a `Timeout`'s and `anyio.fail_after`'s included. Where one around is over
    already, or the code is being cancelled, the function is not run at all: the cancellation that is due comes at once, and
    whoever set that deadline makes TimeoutError of it. So a breaker or retry between the two is not misled.

    Args:
        seconds: the budget, in seconds on the event loop's clock. It begins anew with each call and each block.
        name: what the error and events call it.
        clock: seconds, steadily rising, for events.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = ("_seconds", "_timed_out")

    def __init__(self, seconds: float, *, name: str = "deadline", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, clock)
        self._seconds = checks.seconds("seconds", seconds)
        self._timed_out = 0

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, within the budget.

        Raises:
            TimeoutError: the budget was used up.
        """
        if not remaining():
            await anyio.sleep_forever()
        with scope_after(self._seconds):
            return await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        raise self._expired()

    def _around(self, fn: Function) -> Function:
        seconds, expired = self._seconds, self._expired

        async def limited(*args: Any, **kwargs: Any) -> Any:
            if not remaining():
                await anyio.sleep_forever()
            with scope_after(seconds):
                return await (fn(*args, **kwargs) if kwargs else fn(*args))
            raise expired()

        return limited

    def guard(self) -> DeadlineBlock:
        """A block with a budget: `async with deadline.guard() as limit: ...`, and `limit.remaining()` is what is left of it.

        Its end comes with TimeoutError. Every block needs its own.
        """
        return DeadlineBlock(self._seconds, self._expired)

    def _expired(self) -> TimeoutError:
        self._timed_out += 1
        self._tell(TimedOut, after=self._seconds)
        return TimeoutError(f"{self.name}: not finished within {self._seconds:g} s")

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        return Traits(kind="timeout", words=f"deadline {self.name!r} of {self._seconds:g} s", seconds=self._seconds)

    def snapshot(self) -> DeadlineSnapshot:
        """How often its budget was used up."""
        return DeadlineSnapshot(name=self.name, seconds=self._seconds, timed_out=self._timed_out)
