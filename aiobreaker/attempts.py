"""A block that may run several times: `async for attempt in ...: with attempt: ...`.

Law: what follows an attempt is decided where its block ends, and remembered by the attempt; the loop only does it.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TypeVar

T = TypeVar("T")


class Course(Protocol):
    """The attempts of one call, for whoever makes them."""

    attempts: int
    """How many there have been, the one that runs included."""

    async def wait(self, delay: float) -> None:
        """Wait until the next attempt, and begin it."""

    def retries(self, error: Exception) -> bool:
        """Whether the error is one that is retried."""
        ...

    def rejects(self, result: object) -> bool:
        """Whether the result is as bad as an error."""
        ...

    def failed(self, error: Exception) -> float | None:
        """After how many seconds to try again; None if the error is to be raised."""
        ...

    def disappointed(self, result: object) -> float | None:
        """The same for a result that was rejected."""
        ...

    def succeeded(self) -> None:
        """The last attempt was good."""
        ...


class _NextAttempt(BaseException):
    """Takes `check` out of the block, past everything that handles errors."""


class Attempt:
    """One attempt at a block: `with attempt: ...`. An error does not leave the block if another attempt follows.

    `number` is which it is, from 1. To leave the block by `return` or `break` is a success like any other.
    """

    __slots__ = ("_course", "_decided", "_entered", "delay", "ended", "number")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._entered = self._decided = False
        self.number = course.attempts
        self.ended = False
        self.delay: float | None = None
        """After how many seconds another attempt follows, once that is known; None if none does."""

    def check(self, result: T) -> T:
        """Judge a result by the retry's `retry_if`. If it is good, or there is no further attempt, it is given back.

        Otherwise the block ends here and the next attempt follows; so `return attempt.check(await ...)` is right.

        Raises:
            RuntimeError: the block is not running.
        """
        if not self._entered or self.ended:
            raise RuntimeError("check() belongs inside the block: `with attempt: ...`")
        if self._decided or not self._course.rejects(result):
            return result
        self._decided = True
        self.delay = self._course.disappointed(result)
        if self.delay is None:
            return result
        raise _NextAttempt

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(f"attempt {self.number} was made already; each pass of the loop has its own")
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool:
        self.ended = True
        if self._decided:
            return self._leave(error)
        if error is None:
            self._course.succeeded()
        elif isinstance(error, Exception):
            self.delay = self._course.failed(error)
        return self.delay is not None

    def _leave(self, error: BaseException | None) -> bool:
        """The end of a block whose result was rejected. What is raised on the way out counts, if it is not retried either."""
        if self.delay is None or error is None:
            return False
        rest = error.split(_NextAttempt)[1] if isinstance(error, BaseExceptionGroup) else error
        if rest is None or isinstance(rest, _NextAttempt) or (isinstance(rest, Exception) and self._course.retries(rest)):
            return True
        self.delay = None
        if rest is not error:
            raise rest from None
        return False


class Attempts:
    """The attempts at one block, one after another. `begin` counts the call."""

    __slots__ = ("_attempt", "_begin", "_course")

    _course: Course

    def __init__(self, begin: Callable[[], Course]) -> None:
        self._begin = begin
        self._attempt: Attempt | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Attempt:
        """The next attempt, as soon as it is due.

        Raises:
            RuntimeError: the last one was not made.
        """
        last = self._attempt
        if last is None:
            self._course = self._begin()
        elif not last.ended:
            raise RuntimeError(f"attempt {last.number} was not made: what is retried stands inside `with attempt: ...`")
        elif last.delay is None:
            raise StopAsyncIteration
        else:
            await self._course.wait(last.delay)
        self._attempt = attempt = Attempt(self._course)
        return attempt
