"""Cache: results are kept for a time, and for some more in case the dependency fails.

Law: a result is served past its time only in place of an error, and never past its last time. A hit awaits nothing.
"""

import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

from ..core import checks
from ..core.entries import Entries, Entry
from ..errors import FailureSummary
from ..flights import Flight, Flights, Function, Key
from ..locking import LOCK
from ..policy import NamedPolicy, target
from .events import LeaderReplaced, StaleServed

if TYPE_CHECKING:  # loaded when it is asked for
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSnapshot:
    """One look at a cache. Of all calls that have ended, each was a hit or a miss.

    Args:
        name: what it is called.
        hits: how many calls were answered with a fresh result that was there.
        misses: how many were not: they made the call, or waited for one, or got a stale result.
        stale: how many of the misses were answered with a stale result, in place of an error.
        failed: how many calls of the function, not counting those who waited for them, have raised an `Exception`.
        size: how many results are kept, fresh or not.
    """

    name: str
    hits: int
    misses: int
    stale: int
    failed: int
    size: int


class Cache(NamedPolicy[Never]):
    """Keeps results for `ttl` seconds, and serves them up to `stale_for` seconds longer in place of errors.

    A result that is less than `ttl` seconds old is fresh, and is the answer; its age counts from when it arrived. Otherwise the
    call is made, one at a time for each key and event loop: who asks meanwhile waits for it, for as long as its own deadline
    allows, and a caller that is cancelled hands it over, as with `Coalesce`. If it fails with an error in `stale_on`, all of
    them get the last result, as long as that is less than `ttl + stale_for` seconds old, and a `StaleServed` is told for each;
    else the error. The next call tries again: with a circuit breaker inside of the cache it need not wait for the failure.

    The results are shared by all event loops and threads, and given out as they are, not as copies. Errors are not kept. None
    is a result like any other.

    Args:
        ttl: for how many seconds a result is fresh; infinity is allowed.
        stale_for: for how many seconds after that it may stand in for an error; 0 never, infinity is allowed.
        stale_on: the errors it stands in for: an exception type or a tuple of them. By default all, refusals of policies inside
            among them. Name those that you expect if mistakes in your own code should be seen at once.
        max_size: how many results are kept at most; the least recently used goes.
        key: a function of the call's own arguments; what it returns, together with the function, is what must be equal. By
            default these are the arguments themselves: equal by `==`, so 1 is True; keyword arguments in any order.
            Where arguments or keys cannot be hashed, the call is simply made.
        name: what events and snapshots call it.
        clock: seconds. What was kept later than now, because the clock has gone back, is not served.
    """

    __slots__ = (
        "_entries",
        "_flights",
        "_key",
        "_misses",
        "_stale",
        "_stale_on",
        "stale_for",
        "ttl",
    )

    def __init__(
        self,
        ttl: float,
        *,
        stale_for: float = 0.0,
        stale_on: type[Exception] | tuple[type[Exception], ...] = Exception,
        max_size: int = 1024,
        key: Callable[..., object] | None = None,
        name: str = "cache",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        if checks.wait("ttl", ttl) == 0:
            raise ValueError(f"ttl must be a number of seconds above 0 (infinity allowed), not {ttl!r}")
        if key is not None and (not callable(key) or inspect.iscoroutinefunction(key)):
            raise TypeError(f"key must be a function of the call's arguments, and not an async one, not {key!r}")
        self.ttl = float(ttl)
        self.stale_for = checks.wait("stale_for", stale_for)
        self._stale_on = checks.error_types("stale_on", stale_on)
        self._key = key
        self._entries = Entries(checks.count("max_size", max_size))
        self._flights = Flights(self._replaced, self._keep)
        self._misses = self._stale = 0

    # -- calls

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result that is kept for these arguments, or else that of calling the function and awaiting what it returns."""
        result: T = await self._answer(self._key_of(fn, args, kwargs), fn, args, kwargs)
        return result

    def _key_of(self, fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if self._key is not None:
            meant, own = target(fn, args)
            return meant, self._key(*own, **kwargs)
        return (fn, args, tuple(sorted(kwargs.items()))) if kwargs else (fn, args)

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        entries, clock, key_of, miss = self._entries, self._clock, self._key, self._miss
        find = entries.by_key.get

        async def cached(*args: Any, **kwargs: Any) -> Any:  # as in `_answer`, in one frame
            key: tuple[Any, ...]
            if key_of is not None:
                key = fn, key_of(*args, **kwargs)
            else:
                key = (fn, args, tuple(sorted(kwargs.items()))) if kwargs else (fn, args)
            try:
                entry = find(key)
            except TypeError:
                entry = None
            if entry is not None and entry.since <= clock() < entry.fresh_until:
                entries.n = entry.used = entries.n + 1
                return entry.result
            return await miss(key, fn, args, kwargs)

        return cached

    async def _answer(self, key: tuple[Any, ...], fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        clock, entries = self._clock, self._entries
        entry = self._find(key)  # before the clock is read: no other thread can have kept it later than now
        if entry is not None and entry.since <= clock() < entry.fresh_until:
            entries.n = entry.used = entries.n + 1
            return entry.result
        return await self._miss(key, fn, args, kwargs)

    def _find(self, key: tuple[Any, ...]) -> Entry | None:
        try:
            return self._entries.by_key.get(key)
        except TypeError:  # it cannot be hashed
            return None

    async def _miss(self, key: tuple[Any, ...], fn: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._misses += 1
        flights = self._flights
        try:
            return await flights.share((flights.home(), key), fn, args, kwargs)
        except self._stale_on as error:
            entry = self._find(key)
            now = self._clock()
            if entry is None or not entry.serves_stale(now):
                raise
            self._entries.use(entry)
            self._stale += 1
            if self._hub is not None:
                self._tell(StaleServed, age=now - entry.since, failure=FailureSummary.of(error, now))
            return entry.result

    def _replaced(self, followers: int) -> None:
        self._tell(LeaderReplaced, followers=followers)

    # -- what is kept

    def _keep(self, key: Key, flight: Flight, result: Any) -> None:
        if not flight.void:  # else it has become outdated on its way
            self._put(flight, Entry(key[1], result, self._clock()))

    def _put(self, flight: Flight, entry: Entry) -> None:
        fresh_until = entry.since + self.ttl
        stale_until = fresh_until + self.stale_for
        entries = self._entries
        entries.use(entry)
        entries.by_key[entry.key] = entry
        if flight.void:  # only now, by another thread
            self._drop(entry)
            return
        entry.fresh_until = fresh_until  # nothing is called between looking and this, so no thread invalidates it unseen
        entry.stale_until = stale_until
        if len(entries.by_key) > entries.max_size:
            self._make_room()

    def _make_room(self) -> None:
        """Let the least recently used go. Threads that do so at once may let one more go than they must."""
        entries = self._entries
        while len(entries.by_key) > entries.max_size:
            with LOCK:
                oldest = entries.oldest()
            if oldest is None:
                return
            self._drop(oldest)

    def _drop(self, entry: Entry) -> None:
        by_key = self._entries.by_key
        if by_key.get(entry.key) is entry:
            by_key.pop(entry.key, None)

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Forget the results for these arguments, whichever function they are of. Whether there was one.

        The arguments are given as in the call; for a decorated method the object comes first. A call that runs already goes on
        for those who wait for it, but its result is not kept, and later callers do not wait for it. All that is kept is looked
        at, so this takes longer than a call.
        """
        is_meant = self._asks_for(args, kwargs)
        self._flights.detach(lambda key: is_meant(key[1]))
        by_key = self._entries.by_key
        meant = [key for key in list(by_key) if is_meant(key)]
        return [by_key.pop(key, None) for key in meant].count(None) < len(meant)

    def clear(self) -> None:
        """Forget all results. Calls that run already go on for those who wait for them, but their results are not kept."""
        self._flights.detach(lambda key: True)
        self._entries.by_key.clear()

    def _asks_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], bool]:
        """Whether a key is one of these arguments."""
        if self._key is not None:
            wanted = self._key(*args, **kwargs)
            return lambda key: bool(key[1] == wanted)
        named = tuple(sorted(kwargs.items()))

        def is_meant(key: Any) -> bool:
            return bool(target(key[0], key[1])[1] == args and (key[2] if len(key) > 2 else ()) == named)

        return is_meant

    # -- what there is to see

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        for_errors = f", {self.stale_for:g} s more in place of errors" if self.stale_for else ""
        return Traits(kind="cache", words=f"cache {self.name!r} (keeps results for {self.ttl:g} s{for_errors})")

    def snapshot(self) -> CacheSnapshot:
        """One look at it."""
        entries = self._entries
        return CacheSnapshot(
            name=self.name,
            hits=entries.n - entries.other_uses,
            misses=self._misses,
            stale=self._stale,
            failed=self._flights.failed,
            size=len(entries.by_key),
        )
