"""One running call for each key and event loop, whose outcome all get who ask for it meanwhile.

Law: the call runs in the task of one of them, its leader; there are no other tasks. A leader that does not get as far as an
outcome of its call hands over to the follower that has waited longest. Whatever ends is settled without an await.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import anyio

from .locking import process
from .loops import BACKLOG, call_in, running_loop

if TYPE_CHECKING:
    from types import TracebackType

    # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004

Function = Callable[..., Awaitable[Any]]
Key = tuple[Any, ...]


class Flight:
    """A running call. `inside` is the one in whose course it began; `void`: its result is outdated already.

    Made without an `__init__`, for speed; see `take_off`.
    """

    __slots__ = ("followers", "inside", "over", "void")

    followers: "dict[_Follower, None] | None"
    inside: "Flight | None"
    over: bool
    void: bool


NOBODY: "dict[_Follower, None] | None" = None
"""The followers of a flight that has none."""


def take_off(inside: Flight | None) -> Flight:
    """A flight that begins now."""
    flight = Flight()
    flight.followers = NOBODY
    flight.inside = inside
    flight.over = flight.void = False
    return flight


INSIDE: ContextVar[Flight | None] = ContextVar("aiobreaker.flights.INSIDE", default=None)
"""The flight in whose course this code runs. It is not taken back at the end: who reads it skips what is over."""


def enclosing() -> Flight | None:
    """The innermost flight in whose course this code runs, in child tasks too."""
    flight = _not_over(INSIDE.get())
    if flight is not None:
        flight.inside = _not_over(flight.inside)  # or tasks that beget tasks would hold all that ever was
    return flight


def _not_over(flight: Flight | None) -> Flight | None:
    while flight is not None and flight.over:
        flight = flight.inside
    return flight


class _Outcome:
    """How a call ended: with a result or an error."""

    __slots__ = ("context", "error", "result", "traceback")

    def __init__(self, result: object, error: Exception | None = None) -> None:
        self.result = result
        self.error = error
        self.context: BaseException | None = None
        self.traceback: TracebackType | None = None
        if error is not None:
            self.context = error.__context__
            self.traceback = error.__traceback__


class _Follower:
    """A caller who waits. In the end it has an outcome, or leads a flight."""

    __slots__ = ("event", "flight", "inside", "loop", "outcome")

    def __init__(self, inside: Flight | None) -> None:
        self.event = anyio.Event()
        self.flight: Flight | None = None
        self.inside = inside
        self.loop = anyio.lowlevel.current_token().native_token
        self.outcome: _Outcome | None = None

    def wake(self, here: object) -> None:
        if self.loop is here:
            self.event.set()
        else:  # the leader was collected elsewhere
            call_in(self.loop, self.event.set)


class Flights:
    """The running calls, by key. Keys begin with where they are shared: `home()`, the running event loop.

    Args:
        replaced: called with the number of followers when one of them makes the call in place of its leader.
        landed: called with key, flight and result of a call when it has returned, before the others are told.

    `calls` is how many were asked for, `shared` how many of them got the outcome of another one's call, `failed` how many
    calls that could be shared have raised an `Exception`.
    """

    __slots__ = ("_landed", "_process", "_replaced", "calls", "failed", "running", "running_loop", "shared")

    def __init__(
        self,
        replaced: Callable[[int], object],
        landed: Callable[[Key, Flight, Any], object] = lambda key, flight, result: None,
    ) -> None:
        from asyncio import _get_running_loop  # not at import: it takes its time, and the program may be one for trio

        self.running_loop = _get_running_loop
        self.running: dict[Key, Flight] = {}
        self.calls = self.shared = self.failed = 0
        self._replaced = replaced
        self._landed = landed
        self._process = process()

    def home(self) -> object:
        """Where calls are shared: the running event loop of asyncio, or this thread's one of trio."""
        return self.running_loop() or get_ident()

    def share(self, key: Key, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any]:
        """Make the call, or wait for the one with the same key that runs already. What cannot be hashed is not shared.

        The answer must be awaited at once. This is not async itself, because one coroutine is faster than two.
        """
        self.calls += 1
        flight = take_off(enclosing())
        try:
            first = self.running.setdefault(key, flight)
        except TypeError:
            first = None
        if first is None:
            return fn(*args, **kwargs)
        if first is flight:
            return self._lead(key, flight, fn, args, kwargs)
        return self.follow(first, key, flight, fn, args, kwargs)

    async def _lead(self, key: Key, flight: Flight, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        INSIDE.set(flight)
        try:
            result = await fn(*args, **kwargs)
        except BaseException as error:
            self.broke(key, flight, error)
            raise
        try:
            self._landed(key, flight, result)  # before the end: `detach` finds it as long as it is registered
        finally:
            self.end(key, flight, result)
        return result

    async def follow(
        self, first: Flight, key: Key, flight: Flight, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Wait for the first flight's outcome; where that cannot be, begin the other one, which has not been registered."""
        if first.over or self._left_parent():  # its key has changed its hash, or it is the parent's
            self.running[key] = flight
            return await self._lead(key, flight, fn, args, kwargs)
        if _would_wait_for_itself(first, flight.inside):
            return await fn(*args, **kwargs)
        me = _Follower(flight.inside)
        followers = first.followers
        if followers is None:
            followers = first.followers = {}
        followers[me] = None
        try:
            await me.event.wait()
        except BaseException:
            followers.pop(me, None)
            if me.flight is not None:
                self._hand_over(key, me.flight)
            raise
        if me.flight is not None:
            return await self._lead(key, me.flight, fn, args, kwargs)
        outcome = me.outcome
        assert outcome is not None
        self.shared += 1
        error, context = outcome.error, outcome.context
        if error is None:
            return outcome.result
        traceback = outcome.traceback  # as it was when the call ended: it must not grow with every follower
        del me, followers, outcome  # or the error would hold itself
        try:
            raise error.with_traceback(traceback)
        finally:
            BaseException.__setattr__(error, "__context__", context)  # not what this caller was handling; some are frozen
            del error, context, traceback

    # -- how a flight ends

    def end(self, key: Key, flight: Flight, result: object) -> None:
        """The call has returned."""
        self._settle(key, flight, _Outcome(result) if flight.followers else None)

    def broke(self, key: Key, flight: Flight, error: BaseException) -> None:
        """The call has raised. An error is everybody's, a cancellation or the end of the program the leader's alone."""
        if isinstance(error, Exception):
            self.failed += 1
            self._settle(key, flight, _Outcome(None, error) if flight.followers else None)
        else:
            self._hand_over(key, flight)

    def _settle(self, key: Key, flight: Flight, outcome: _Outcome | None) -> None:
        flight.over = True
        followers, flight.followers = flight.followers, None
        if followers:
            here = running_loop()
            for follower in list(followers):
                follower.outcome = outcome
                follower.wake(here)
        if self.running.get(key) is flight:
            self.running.pop(key, None)

    def _hand_over(self, key: Key, flight: Flight) -> None:
        """Without an outcome: let the next one make the call for the others, as a new flight: contexts hold the old one."""
        followers = flight.followers
        if not followers:
            self._settle(key, flight, None)
            return
        flight.over = True
        flight.followers = None
        count = len(followers)
        heir = next(iter(followers))
        del followers[heir]
        heir.flight = take_off(heir.inside)
        heir.flight.followers = followers
        try:
            if self.running.get(key, flight) is flight:
                self.running[key] = heir.flight
        finally:
            heir.wake(running_loop())
        BACKLOG.do(partial(self._replaced, count))

    # -- what others may do

    def detach(self, wanted: Callable[[Key], bool]) -> None:
        """Let later callers begin new calls for the keys that are wanted; what runs is void."""
        for key, flight in self.running.copy().items():
            if wanted(key):
                flight.void = True
                self.running.pop(key, None)

    def running_now(self) -> int:
        """How many calls are running."""
        self._left_parent()
        return len(self.running)

    def _left_parent(self) -> bool:
        """After a fork: the calls of the parent do not run here."""
        here = process()
        if self._process == here:
            return False
        self._process = here
        self.running.clear()
        return True


def _would_wait_for_itself(flight: Flight, inside: Flight | None) -> bool:
    """Whether a caller inside of one flight can never get the outcome of the other, because that waits for it."""
    waiting = [inside]
    seen: set[Flight] = set()
    while waiting:
        each = waiting.pop()
        if each is flight:
            return True
        if each is not None and each not in seen:
            seen.add(each)
            waiting.append(each.inside)
            waiting.extend(follower.inside for follower in list(each.followers or ()))
    return False
