"""Guards for what comes in many pieces: async generators and async iterators, judged at their end."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from math import inf
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import anyio

from .core import checks
from .core.eras import Permit
from .core.outcomes import Outcome
from .gate import Gate
from .waiting import admit_patiently, admit_slowly

T = TypeVar("T")

_OPENING = object()


class Lifeline:
    """Gives a permit back when its holder is gone: an async generator can vanish without running to any end."""

    __slots__ = ("_gate", "_permit")

    def __init__(self, gate: Gate, permit: Permit) -> None:
        self._gate = gate
        self._permit = permit

    def __del__(self) -> None:
        if not self._permit.settled:
            self._gate.abandon(self._permit)


def guard_generator(gate: Gate, fn: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
    """The guarded form of an async generator function. What is sent and thrown into it goes on to the function's own."""

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        source = fn(*args, **kwargs)  # nothing of it runs yet
        permit = gate.admit() or await admit_slowly(gate)
        _lifeline = Lifeline(gate, permit)  # lives as long as this frame
        step: Awaitable[Any] = anext(source)
        thrown: BaseException | None = None
        while True:
            try:
                item = await step
            except StopAsyncIteration:
                gate.settle(permit, Outcome.SUCCESS)
                return
            except BaseException as error:
                if error is thrown:  # the reader's own
                    gate.settle(permit, Outcome.SUCCESS)
                else:
                    gate.broke(permit, error)
                raise
            if permit.answered is None:
                gate.answered(permit)
            try:
                sent = yield item
            except GeneratorExit:
                gate.settle(permit, Outcome.SUCCESS)
                await source.aclose()
                raise
            except BaseException as error:
                thrown = error
                step = source.athrow(error)
            else:
                step = source.asend(sent)

    return guarded


class GuardedStream(Generic[T]):
    """A guarded async iterator: `async with breaker.stream(source) as items: async for item in items: ...`.

    It is judged at its end. Stopping early is a success after the first item, and neutral before it. Slow is the time to the
    first item, since what follows depends on the reader. Exceeding a time limit raises TimeoutError, and is a failure.
    """

    def __init__(
        self,
        gate: Gate,
        source: AsyncIterable[T],
        max_wait: float,
        first_item_timeout: float | None,
        stall_timeout: float | None,
    ) -> None:
        if not isinstance(source, AsyncIterable):
            raise TypeError(f"source must be an async iterable, not {source!r}")
        for argument, value in (("first_item_timeout", first_item_timeout), ("stall_timeout", stall_timeout)):
            if value is not None:
                checks.seconds(argument, value)
        self._gate = gate
        self._source = source
        self._max_wait = max_wait
        self._limits = (first_item_timeout, stall_timeout)
        self._permit: Permit | None = None
        self._lifeline: object = None
        self._items: AsyncIterator[T]

    async def __aenter__(self) -> Self:
        if self._lifeline is not None:
            raise RuntimeError("this stream has been opened already")
        self._lifeline = _OPENING
        try:
            self._permit = permit = await admit_patiently(self._gate, self._max_wait)
        except BaseException:
            self._lifeline = None
            raise
        self._lifeline = Lifeline(self._gate, permit)
        try:
            self._items = aiter(self._source)
        except BaseException as error:
            self._gate.broke(permit, error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._permit is not None
        stopped = Outcome.IGNORED if self._permit.answered is None else Outcome.SUCCESS
        self._gate.settle(self._permit, stopped)
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        permit = self._permit
        if permit is None:
            raise RuntimeError("open the stream first: async with breaker.stream(source) as items")
        limit = self._limits[permit.answered is not None]
        try:
            with anyio.move_on_after(inf if limit is None else limit):
                return self._received(permit, await anext(self._items))
        except StopAsyncIteration:
            self._gate.settle(permit, Outcome.SUCCESS)
            raise
        except BaseException as error:
            self._gate.broke(permit, error)
            raise
        late = TimeoutError(f"no {'first' if permit.answered is None else 'further'} item within {limit:g} s")
        self._gate.settle(permit, Outcome.FAILURE, late)
        raise late

    def _received(self, permit: Permit, item: T) -> T:
        if permit.answered is None:
            self._gate.answered(permit)
        return item
