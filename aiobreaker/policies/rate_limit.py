"""RateLimit: so many calls per second on average, and so many at once; for all together, or for each key.

Law: over any interval of `t` seconds at most `burst + t * calls / per` calls pass. From reading a meter to writing it nothing
is called, so this holds over all threads. Newcomers stand behind those who wait.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

import anyio

from ..begun import ENDED
from ..core import checks
from ..core.rates import Meter, Meters, Rate
from ..errors import RateLimitedError
from ..lines import Line
from ..locking import LOCK
from ..policy import Function, NamedPolicy, target
from .events import GuardRefused

if TYPE_CHECKING:  # loaded when they are first used
    import anyio.lowlevel  # noqa: TC004

    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

_YIELD_MASK = 63  # every 64th refusal gives way to the event loop
_NO_KEY = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitSnapshot:
    """One look at a rate limit: `room` is how many calls could pass at this moment, `waiting` how many callers wait.

    `refused` is how many calls it ever refused, `keys` for how many keys it keeps what they have used. With a `key` function
    `room` is that of a key that has used nothing.
    """

    name: str
    calls: int
    per: float
    burst: int
    room: int
    waiting: int
    refused: int
    keys: int


class RateLimit(NamedPolicy[Never]):
    """Lets `calls` calls pass per `per` seconds on average, and at most `burst` at once.

        api = RateLimit(10)                                      # per second
        api = RateLimit(500, per=60, burst=20, max_wait=5)       # waits for its turn, for up to 5 s
        api = RateLimit(10, key=lambda tenant, *_: tenant)       # for each tenant

    It is the generic cell rate algorithm (ITU-T I.371): over any interval of `t` seconds at most `burst + t * calls / per`
    calls pass, to within a millionth of a call, on the given clock. There are no windows at whose edges more would pass.

    `burst` is `calls` by default: whoever has been quiet for `per` seconds may make all of them at once, as most people expect
    of "10 per second". Then up to twice as many can pass in some interval of `per` seconds, these ten and those that follow.
    For a server that allows `n` in whatever interval, leave room for the burst: `RateLimit(n - burst, per, burst=burst)`. With
    `burst=1` calls are evenly spaced.

    A call that comes too soon is refused, and the error says after how many seconds the next one passes; with `max_wait` it
    waits for its turn, if that comes soon enough and before the deadline around it. First come, first served; a caller that is
    cancelled has used nothing. What a call does afterwards makes no difference: it has passed.

    With a key every key has a rate, and a line, of its own. A key that has been quiet for long enough is as good as new and is
    forgotten. If there are `max_keys` others, a new key is neither turned away nor takes the place of one that is in use:
    until there is room, all such keys share one rate, as if they were one, and none of their calls waits. So nobody passes
    more often than allowed, whatever keys somebody invents.

    Every process has rates of its own. If the clock jumps backwards nothing passes too often; what passes until it has caught
    up is less than could.

    Args:
        calls: how many calls per `per` seconds, on average. More than 10**9 per second are not told apart.
        per: seconds.
        burst: how many may pass at once.
        max_wait: for how many seconds a caller may wait for its turn.
        max_waiters: how many may do so, for each key.
        key: a function of the call's own arguments (with `self`, for a method) that says which key it is.
        max_keys: for how many keys to keep what they have used.
        name: what errors and events call it.
        clock: a monotonic clock, in seconds.

    Raises:
        RateLimitedError: (from calls) it came too soon; the function did not run.
    """

    __slots__ = ("_key", "_max_wait", "_max_waiters", "_meter", "_meters", "_rate", "_refused")

    def __init__(
        self,
        calls: int,
        per: float = 1.0,
        *,
        burst: int | None = None,
        max_wait: float = 0.0,
        max_waiters: int = 1000,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 10_000,
        name: str = "rate limit",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        self._rate = Rate(calls, per, burst)
        self._max_wait = checks.wait("max_wait", max_wait)
        self._max_waiters = checks.count("max_waiters", max_waiters, at_least=0)
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function of the call's arguments, not {key!r}")
        self._key = key
        self._meter: Meter[Line] = Meter()
        self._meters: Meters[Line] = Meters(self._rate, max_keys)
        self._refused = 0

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, when its turn has come.

        Raises:
            RateLimitedError: it came too soon; the function did not run.
        """
        own, rate, clock = self._key, self._rate, self._clock
        key = _NO_KEY if own is None else own(*target(fn, args)[1], **kwargs)
        now = clock()
        meter = self._meter if own is None else self._meters.find(key, now)
        moment = (now - meter.since) * rate.speed
        used = meter.used
        if used > moment + rate.slack or ((line := meter.queue) is not None and line.waiting):
            await self._wait(key, meter)
        elif used > moment:
            meter.used = used + 1.0
        else:
            meter.since = now
            meter.used = 1.0
        return await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]

    def _around(self, fn: Function) -> Function:
        if self._key is not None:
            return self._around_with_key(fn, self._key)
        meter, clock, speed, slack = self._meter, self._clock, self._rate.speed, self._rate.slack

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            now = clock()
            moment = (now - meter.since) * speed
            used = meter.used
            if used > moment + slack or ((line := meter.queue) is not None and line.waiting):
                await self._wait(_NO_KEY, meter)
            elif used > moment:
                meter.used = used + 1.0
            else:
                meter.since = now
                meter.used = 1.0
            return await (fn(*args, **kwargs) if kwargs else fn(*args))

        return guarded

    def _around_with_key(self, fn: Function, own: Callable[..., Hashable]) -> Function:
        meters, find, clock = self._meters.by_key, self._meters.find, self._clock
        speed, slack = self._rate.speed, self._rate.slack

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            key = own(*args, **kwargs) if kwargs else own(*args)
            now = clock()
            try:
                meter = meters[key]
            except KeyError:
                meter = find(key, now)
            moment = (now - meter.since) * speed
            used = meter.used
            if used > moment + slack or ((line := meter.queue) is not None and line.waiting):
                await self._wait(key, meter)
            elif used > moment:
                meter.used = used + 1.0
            else:
                meter.since = now
                meter.used = 1.0
            return await (fn(*args, **kwargs) if kwargs else fn(*args))

        return guarded

    def guard(self, key: Hashable = _NO_KEY) -> "RateLimitBlock":
        """A block that counts as a call: `async with limit.guard(): ...`. Entering raises RateLimitedError.

        With a `key` it is a call of that key, also where there is no `key` function; where there is one, a key must be given.
        """
        if key is _NO_KEY and self._key is not None:
            raise TypeError(f"{self.name!r} has a rate for each key, and a block has no arguments to tell: guard(key=...)")
        block = RateLimitBlock()
        block._limit = self
        block._key = key
        return block

    # -- off the fast path

    async def _wait(self, key: Hashable, meter: Meter[Line]) -> None:
        """Wait for a turn, or raise RateLimitedError."""
        rate, clock = self._rate, self._clock

        def ask() -> float:
            nonlocal meter
            now = clock()
            if meter.used == inf:  # another thread has dropped it
                meter = self._meters.find(key, now)
            return rate.take(meter, now)

        line = meter.queue
        if (line is None or not line.waiting) and not ask():
            return
        if not self._max_wait or meter is self._meters.shared:
            raise await self._refusal("", self._turn(meter))
        line = self._open_line(meter)
        why = await line.wait(ask, self._max_wait, self._turn(meter))
        if why is not None:
            raise await self._refusal(f", and {why}", self._turn(meter))

    def _turn(self, meter: Meter[Line]) -> float:
        """After how many seconds a newcomer could pass, if all those who wait do."""
        ahead = 0 if meter.queue is None else meter.queue.present()
        return self._rate.delay(meter, self._clock()) + ahead * self._rate.interval

    def _open_line(self, meter: Meter[Line]) -> Line:
        with LOCK:
            meter.queue = meter.queue or Line(self._max_waiters)
            return meter.queue

    async def _refusal(self, why: str, retry_after: float) -> RateLimitedError:
        reason = f"{self._rate.calls} calls per {self._rate.per:g} s are used up{why}"
        self._refused += 1
        give_way = not self._refused & _YIELD_MASK
        self._tell(GuardRefused, reason=reason, retry_after=retry_after)
        if give_way:
            await anyio.lowlevel.checkpoint()
        return RateLimitedError(self.name, reason, retry_after)

    # -- what there is to see

    def snapshot(self) -> RateLimitSnapshot:
        """One look at it."""
        rate, meters = self._rate, self._meters
        lines = [meter.queue for meter in (self._meter, *list(meters.by_key.values()))]
        return RateLimitSnapshot(
            name=self.name,
            calls=rate.calls,
            per=rate.per,
            burst=rate.burst,
            room=rate.room(self._meter, self._clock()),
            waiting=sum(line.waiting for line in lines if line is not None),
            refused=self._refused,
            keys=len(meters.by_key),
        )

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        rate = self._rate
        each = " for each key" if self._key else ""
        max_wait = self._max_wait if self._max_waiters else 0.0
        line = f", waits up to {max_wait:g} s" if max_wait else ""
        if max_wait == inf:
            line = ", waits for its turn"
        words = f"rate limit {self.name!r} ({rate.calls} calls per {rate.per:g} s{each}, {rate.burst} at once{line})"
        return Traits(kind="limit", words=words, max_wait=max_wait, per_attempt=True)


class RateLimitBlock:
    """A block that counts as a call of its key."""

    __slots__ = ("_key", "_limit")

    _key: Hashable
    _limit: RateLimit

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        limit, key = self._limit, self._key
        rate, clock = limit._rate, limit._clock
        now = clock()
        meter = limit._meter if key is _NO_KEY else limit._meters.find(key, now)
        moment = (now - meter.since) * rate.speed
        used = meter.used
        if used > moment + rate.slack or ((line := meter.queue) is not None and line.waiting):
            return limit._wait(key, meter)
        if used > moment:
            meter.used = used + 1.0
        else:
            meter.since = now
            meter.used = 1.0
        return ENDED

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        return ENDED
