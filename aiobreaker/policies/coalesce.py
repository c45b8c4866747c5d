"""Coalesce: callers who want the same at the same time share one call.

Law: it shares what is running, and remembers nothing. A caller gets an outcome of the call, or its own cancellation.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

from ..flights import INSIDE, NOBODY, Flight, Flights, Function, Key, enclosing
from ..policy import NamedPolicy, target
from .events import LeaderReplaced

if TYPE_CHECKING:  # loaded when it is asked for
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoalesceSnapshot:
    """One look at a coalescing policy.

    Args:
        name: what it is called.
        calls: how many calls have been asked for so far.
        shared: how many of them got the outcome of another caller's call.
        running: how many calls that can be shared are running, in all event loops.
    """

    name: str
    calls: int
    shared: int
    running: int


class Coalesce(NamedPolicy[Never]):
    """Callers of one function with the same key share one call while it runs.

    The first of them leads: the call runs in its task, with its context, its deadline and its arguments. The others wait, each
    for as long as its own deadline allows, and get the same result or the same error (`Exception`), the very same object. A
    leader that is cancelled, or whose call ends in any other exception (`KeyboardInterrupt`, say), hands over: the follower
    that has waited longest makes the call again, for the others too, and a `LeaderReplaced` is told.

    Nothing is shared between event loops, nor between threads. A call that would have to wait for itself, because it is made
    in the course of the one that it would share (in a child task too), is not shared.

    Args:
        key: a function of the call's own arguments; what it returns, together with the function, is what must be equal. By
            default these are the arguments themselves: equal by `==`, so 1 is True; keyword arguments in any order.
            Arguments or keys that cannot be hashed are not shared.
        name: what events and snapshots call it.
        clock: seconds, for the times in events.
    """

    __slots__ = ("_flights", "_key")

    def __init__(
        self,
        *,
        key: Callable[..., object] | None = None,
        name: str = "coalesce",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        if key is not None and (not callable(key) or inspect.iscoroutinefunction(key)):
            raise TypeError(f"key must be a function of the call's arguments, and not an async one, not {key!r}")
        self._key = key
        self._flights = Flights(self._replaced)

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, or get the outcome of a call with the same key that runs already."""
        result: T = await self._flights.share(self._key_of(fn, args, kwargs), fn, args, kwargs)
        return result

    def _key_of(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        if self._key is not None:
            meant, own = target(fn, args)
            return self._flights.home(), meant, self._key(*own, **kwargs)
        if kwargs:
            return self._flights.home(), fn, args, tuple(sorted(kwargs.items()))
        return self._flights.home(), fn, args

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        flights, key_of = self._flights, self._key
        running, running_loop = flights.running, flights.running_loop

        async def coalesced(*args: Any, **kwargs: Any) -> Any:  # as in `Flights.share`, in one frame
            key: Key
            if key_of is not None:
                key = running_loop() or get_ident(), fn, key_of(*args, **kwargs)
            elif kwargs:
                key = running_loop() or get_ident(), fn, args, tuple(sorted(kwargs.items()))
            else:
                key = running_loop() or get_ident(), fn, args
            inside = INSIDE.get()
            if inside is not None:  # mostly the last flight of the same task, which is over
                inside = None if inside.over and inside.inside is None else enclosing()
            flights.calls += 1
            flight = Flight()  # as `take_off` does
            flight.followers = NOBODY
            flight.inside = inside
            flight.over = flight.void = False
            first: Any
            try:
                first = running.setdefault(key, flight)
            except TypeError:
                first = None
            if first is not flight:
                if first is None:
                    return await fn(*args, **kwargs)
                return await flights.follow(first, key, flight, fn, args, kwargs)
            INSIDE.set(flight)
            try:
                result = await (fn(*args, **kwargs) if kwargs else fn(*args))
            except BaseException as error:
                flights.broke(key, flight, error)
                raise
            if flight.followers:
                flights.end(key, flight, result)
            else:
                flight.over = True
                running.pop(key, None)
            return result

        return coalesced

    def _replaced(self, followers: int) -> None:
        self._tell(LeaderReplaced, followers=followers)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        return Traits(kind="coalesce", words=f"coalescing {self.name!r} (callers with the same key share one call)")

    def snapshot(self) -> CoalesceSnapshot:
        """One look at it."""
        flights = self._flights
        return CoalesceSnapshot(name=self.name, calls=flights.calls, shared=flights.shared, running=flights.running_now())
