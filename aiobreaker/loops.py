"""What one object needs in order to serve many event loops, one after another or at once, in any threads.

An anyio primitive binds to the loop that uses it first, and must only be touched in that loop. So each loop has its own, made
when it is needed and dropped with its last user.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import get_ident
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from .locking import LOCK, interrupted, process

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

T = TypeVar("T")

_log = logging.getLogger("aiobreaker")


class _Share(Generic[T]):
    __slots__ = ("primitive", "users")

    def __init__(self, primitive: T) -> None:
        self.primitive = primitive
        self.users = 0


class PerLoop(Generic[T]):
    """One `T` for each event loop that is using it."""

    __slots__ = ("_make", "_process", "shares")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self.shares: dict[object, _Share[T]] = {}
        self._process = process()

    @contextmanager
    def borrow(self) -> Generator[T]:
        """The `T` of the running event loop."""
        loop = anyio.lowlevel.current_token().native_token
        self._leave_parent()
        share = self.shares.get(loop)
        if share is None:
            share = self.shares[loop] = _Share(self._make())
        share.users += 1
        try:
            yield share.primitive
        finally:
            share.users -= 1
            shares = self.shares  # another thread may put a new one in its place
            if not share.users and shares.get(loop) is share:
                del shares[loop]

    def _leave_parent(self) -> None:
        """After a fork: the loops of the parent are not ours."""
        here = process()
        if self._process == here:
            return
        with LOCK:
            if self._process != here:
                self.shares = {}
                self._process = here

    def take_all(self) -> list[tuple[object, T]]:
        """All of them, each with its loop; from here on users get new ones."""
        self._leave_parent()
        shares, self.shares = self.shares, {}
        return [(loop, share.primitive) for loop, share in shares.items()]


class Backlog:
    """What finalisers and signals could not do at once, because they came in the middle of a transition."""

    __slots__ = ("_actions", "_busy")

    def __init__(self) -> None:
        self._actions: list[Callable[[], object]] | None = None
        self._busy: set[int] = set()  # the threads that catch up

    def do(self, action: Callable[[], object]) -> None:
        """Do it at once if that can be, else as soon as the transition is over."""
        if interrupted():
            self.add(action)
        else:
            action()

    def add(self, action: Callable[[], object]) -> None:
        """Keep it for the next who catches up: the loop that runs in this thread, or whoever comes. Under the lock."""
        if self._actions is None:
            self._actions = []
        self._actions.append(action)
        loop = running_loop()
        if loop is not None:
            call_in(loop, self.catch_up)

    def catch_up(self) -> None:
        """Do what has been left to be done. What is done may ask for the same in its turn: then it is done already."""
        if not self._actions or (here := get_ident()) in self._busy:
            return
        self._busy.add(here)
        try:
            while self._actions:
                try:
                    action = self._actions.pop(0)
                except IndexError:  # another thread was faster
                    return
                try:
                    action()
                except Exception:  # it was not the caller who wanted it
                    _log.exception("what had to wait for the end of a transition raised")
        finally:
            self._busy.discard(here)


BACKLOG = Backlog()
"""One for the process, as there is one lock."""


class Bell:
    """Wakes the tasks that wait for it, whichever event loop and thread they are in.

    Each loop is asked to do the waking itself. So ringing is safe anywhere, in a finaliser too, and a thousand tasks that wait
    do not hold up the one that rings.
    """

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events = PerLoop(_event)

    @property
    def ears(self) -> int:
        """In how many loops somebody waits."""
        return len(self._events.shares)

    def heard(self) -> "AbstractContextManager[anyio.Event]":
        """An event that the next ring sets. Get it first, then look whether there is anything to wait for."""
        return self._events.borrow()

    def ring(self) -> None:
        """Wake everybody who waits."""
        for loop, event in self._events.take_all():
            call_in(loop, event.set)


class Lobby:
    """Where callers wait in line, and whoever must be alone with a breaker for as long as it takes."""

    __slots__ = ("changed", "errands", "line")

    def __init__(self, changed: Bell) -> None:
        self.changed = changed
        self.line = PerLoop(_turnstile)
        self.errands = PerLoop(_lock)


def _turnstile() -> "anyio.Semaphore":
    return anyio.Semaphore(1, fast_acquire=True)


def _lock() -> "anyio.Lock":
    return anyio.Lock(fast_acquire=True)


def _event() -> "anyio.Event":
    return anyio.Event()


def running_loop() -> object:
    """The event loop that runs this code, as the backend knows it; None outside of all."""
    try:
        return anyio.lowlevel.current_token().native_token
    except RuntimeError:
        return None


def call_in(loop: object, function: Callable[[], object]) -> None:
    """Have another loop call the function. A loop that has ended has nobody left to wake."""
    soon = getattr(loop, "run_sync_soon", None) or getattr(loop, "call_soon_threadsafe", None)
    assert soon is not None, f"unknown kind of event loop: {loop!r}"
    with suppress(RuntimeError):
        soon(function)
