"""How much time is left: the deadlines of the cancel scopes around the running code, whoever set them.

Law: a scope is the only place where a deadline is kept. So it holds for everything inside, child tasks included, under both
backends, and no context variable can be lost.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio


def remaining() -> float:
    """Seconds until the nearest deadline around the running code (`Deadline`, `Timeout`, `anyio.fail_after`, trio's own).

    Infinity if there is none, 0 if it is over. What asyncio sets by itself (`asyncio.timeout`) cannot be seen.
    """
    return max(0.0, anyio.current_effective_deadline() - anyio.current_time())


class TimeLimit:
    """A block that must end within so many seconds: `async with`. Entered once; every block needs its own.

    When time is up, what runs inside is cancelled and awaited, and `expired` makes the error that is raised.
    """

    __slots__ = ("_expired", "_scope", "_seconds")

    def __init__(self, seconds: float, expired: Callable[[], BaseException]) -> None:
        self._seconds = seconds
        self._expired = expired
        self._scope: anyio.CancelScope | None = None

    async def __aenter__(self) -> Self:
        if self._scope is not None:
            raise RuntimeError("this block has been entered already; every block needs its own")
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + self._seconds)
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._scope is not None
        if self._scope.__exit__(kind, error, traceback):
            raise self._expired() from None
