"""How much time is left: the deadlines of the cancel scopes around the running code, whoever set them.

Law: a scope is the only place where a deadline is kept. So it holds for everything inside, child tasks included, under both
backends, and no context variable can be lost.
"""

from collections.abc import Callable, Coroutine
from sys import modules
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from .begun import ENDED

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004


def remaining() -> float:
    """Seconds until the nearest deadline around the running code (`Deadline`, `Timeout`, `anyio.fail_after`, trio's own).

    Infinity if there is none, 0 if it is over or the code is being cancelled. What asyncio sets by itself (`asyncio.timeout`)
    cannot be seen.
    """
    loop = _running_loop()
    if loop is None:  # trio runs
        trio = _trio or _learn_trio()
        left: float = trio.current_effective_deadline() - trio.current_time()
        return left if left > 0.0 else 0.0
    if _current_task(loop) is None:  # as a guest of asyncio
        return max(0.0, anyio.current_effective_deadline() - anyio.current_time())
    now: float = loop.time()
    return max(0.0, _effective_deadline() - now)


def scope_after(seconds: float) -> anyio.CancelScope:
    """What `anyio.move_on_after` makes, here and in `remaining` by a shorter way.

    anyio asks several times which event loop runs, and every guarded call would pay for it.
    """
    loop = _running_loop()
    if loop is None:
        trio = _trio or _learn_trio()
        made: anyio.CancelScope = trio.create_cancel_scope(deadline=trio.current_time() + seconds)
        return made
    if _current_task(loop) is None:
        return anyio.move_on_after(seconds)
    deadline = loop.time() + seconds
    scope = _new(_kind, deadline=deadline)  # what _kind(deadline=deadline) does, in less time
    _init(scope, deadline=deadline)
    return scope


def _first_running_loop() -> Any:
    """Whoever has not loaded asyncio does not run it. Most do not under trio, and it takes time."""
    global _running_loop, _current_task  # noqa: PLW0603 - it is the same for the whole process
    if "asyncio" not in modules:
        return None
    from asyncio import _get_running_loop, current_task

    _current_task = current_task
    _running_loop = _get_running_loop  # last: other threads may come in between
    return _running_loop()


def _learn_trio() -> Any:
    """What is anyio's where no loop of asyncio runs; if it hides that some day, its public functions."""
    global _trio  # noqa: PLW0603 - as above
    _trio = getattr(anyio.lowlevel.current_token(), "backend_class", _PUBLIC)
    return _trio


def _learn() -> None:
    """What is anyio's under asyncio, which runs here."""
    global _kind, _init, _new, _effective_deadline  # noqa: PLW0603 - as above
    _kind = type(anyio.CancelScope())
    _init = _kind.__init__
    _new = _kind.__new__
    _effective_deadline = getattr(anyio.lowlevel.current_token(), "backend_class", anyio).current_effective_deadline


def _first_new(_: object, *, deadline: float) -> anyio.CancelScope:
    _learn()
    return _new(_kind, deadline=deadline)


def _first_effective_deadline() -> float:
    _learn()
    return _effective_deadline()


_PUBLIC = SimpleNamespace(
    current_effective_deadline=anyio.current_effective_deadline,
    current_time=anyio.current_time,
    create_cancel_scope=anyio.CancelScope,
)

_trio: Any = None
_running_loop: Callable[[], Any] = _first_running_loop
_current_task: Callable[[Any], object]
_kind: Any = None
_init: Any
_new: Callable[..., anyio.CancelScope] = _first_new
_effective_deadline: Callable[[], float] = _first_effective_deadline


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
        self._scope = scope_after(self._seconds)
        self._scope.__enter__()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        assert self._scope is not None
        if self._scope.__exit__(kind, error, traceback) and error is not None:  # trio swallows nothing too
            raise self._expired() from None
        return ENDED

    def remaining(self) -> float:
        """Seconds until the block must end, by its own limit or by the nearest deadline around the caller; 0 if it is over."""
        if self._scope is None:
            raise RuntimeError("this block has not been entered yet")
        return max(0.0, min(self._scope.deadline, anyio.current_effective_deadline()) - anyio.current_time())
