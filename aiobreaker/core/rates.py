"""How often: the generic cell rate algorithm, in the virtual scheduling form of ITU-T Recommendation I.371 (annex A).

Law: over any interval of `t` seconds at most `burst + t * calls / per` calls conform, to within a millionth of a call (to which
rounding adds less than another one in 10**9 calls without a break). While a clock that has jumped backwards catches up, its
time stands still or worse: it never hands out more.
"""

from collections import deque
from collections.abc import Hashable
from math import floor, inf
from typing import Generic, Protocol, TypeVar

from . import checks

_TOLERANCE = 1e-6  # of a call: more than the rounding of clocks, and it never adds up
_MOST = 10**9


class Queue(Protocol):
    """Those who wait for something."""

    @property
    def waiting(self) -> int:
        """How many they are."""
        ...


Q = TypeVar("Q", bound=Queue)


class Meter(Generic[Q]):
    """What is known of the calls of one kind: since `since` the rate has been used without a break, by `used` calls.

    In the words of I.371 the theoretical arrival time of the next one is `since + used * per / calls`. A whole number is
    counted up and nothing is ever added to a time, so no rounding adds up. `queue` is whoever waits for it.
    """

    __slots__ = ("queue", "since", "used")

    def __init__(self) -> None:
        self.since = -inf
        self.used = 0.0
        self.queue: Q | None = None


class Rate:
    """`calls` per `per` seconds on average, and at most `burst` at once.

    Time is measured in calls, of which there are `speed` per second and one every `interval` seconds. A call conforms if no
    more than `slack` calls are ahead of the time. Whoever wants speed does by itself what `take` does: nothing is called there
    between reading a meter and writing it, so every call is counted, once, in however many threads.
    """

    __slots__ = ("burst", "calls", "interval", "per", "slack", "speed")

    def __init__(self, calls: int, per: float, burst: int | None) -> None:
        self.calls = checks.count("calls", calls, at_most=_MOST)
        self.per = checks.seconds("per", per)
        self.burst = self.calls if burst is None else checks.count("burst", burst, at_most=_MOST)
        self.interval = self.per / self.calls
        if self.interval < 1 / _MOST:
            raise ValueError(f"per must be long enough for at most {_MOST} calls per second, not {per!r} for {calls} calls")
        self.speed = self.calls / self.per
        self.slack = self.burst - 1 + _TOLERANCE

    def take(self, meter: Meter[Q], now: float) -> float:
        """Count a call if it conforms, and answer 0; else for how many seconds none will."""
        time = (now - meter.since) * self.speed
        used = meter.used
        if used > time + self.slack:
            return self.delay(meter, now)
        if used > time:
            meter.used = used + 1.0
        else:
            meter.since = now
            meter.used = 1.0
        return 0.0

    def delay(self, meter: Meter[Q], now: float) -> float:
        """For how many seconds no call will conform."""
        time = (now - meter.since) * self.speed
        return 0.0 if meter.used <= time + self.slack else (meter.used - (self.burst - 1) - time) * self.interval

    def room(self, meter: Meter[Q], now: float) -> int:
        """How many calls would conform at once."""
        ahead = max(0.0, meter.used - (now - meter.since) * self.speed)
        return max(0, floor(self.burst - ahead + _TOLERANCE))


class Meters(Generic[Q]):
    """A meter for each key, at most `max_keys` of them.

    One that is as good as new is dropped: every new key looks at the two that were looked at longest ago, so at most about half
    of all are ever kept in vain. When there is no room for a new key it shares one meter with all others like it: fewer of its
    calls pass than could, never more. Its own meter, when there is room, begins where the shared one stands.

    No lock is held, for comparing keys may run code of theirs. Whoever drops a meter marks it as used up (infinitely) at the
    moment at which it is as good as new; so nobody else can count a call with it, and takes the shared one.
    """

    __slots__ = ("_order", "_rate", "by_key", "max_keys", "shared")

    def __init__(self, rate: Rate, max_keys: int) -> None:
        self.max_keys = checks.count("max_keys", max_keys)
        self.by_key: dict[Hashable, Meter[Q]] = {}
        self.shared: Meter[Q] = Meter()
        self._rate = rate
        self._order: deque[tuple[Hashable, Meter[Q]]] = deque()

    def find(self, key: Hashable, now: float) -> Meter[Q]:
        """The meter of this key, or the shared one."""
        meter = self.by_key.get(key)
        if meter is None:
            self._drop_old(now)
            self._drop_old(now)
            if len(self.by_key) >= self.max_keys:
                return self.shared
            new: Meter[Q] = Meter()
            new.since, new.used = self.shared.since, self.shared.used
            meter = self.by_key.setdefault(key, new)
            if meter is new:
                self._order.append((key, new))
        return self.shared if meter.used == inf else meter

    def _drop_old(self, now: float) -> None:
        """Drop the meter that was looked at longest ago, if nothing depends on it."""
        try:
            key, meter = self._order.popleft()
        except IndexError:
            return
        time = (now - meter.since) * self._rate.speed
        if meter.used <= time and (meter.queue is None or not meter.queue.waiting):
            meter.since = now  # or the time would be infinite too
            meter.used = inf  # nothing was called since it was read
            del self.by_key[key]
        else:
            self._order.append((key, meter))
