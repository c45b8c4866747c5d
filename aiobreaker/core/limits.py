"""How many calls may run at once, found from how long they take: Gradient2, Vegas and AIMD.

The algorithms and their constants are those of Netflix's concurrency-limits (https://github.com/Netflix/concurrency-limits,
read as of January 2026). Each docstring says where ours differs from it. Settings can be shared; what is learned belongs to
one `Meter`.

A sample is a window of one second: the average time of its calls, the most that ran at once, and which share was dropped
(there: whether one was). So it is in the original's WindowedLimit, which it puts around Gradient2, and only there by default.
Sample by sample all three swing: the time of a call tells of the limit that there was when it began. A window lasts until it
has enough calls; the original throws away one that has too few, and never learns where calls are few.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, isfinite, log10
from typing import Protocol

from . import checks

Random = Callable[[], float]
"""Draws a number from 0 to below 1."""


class Estimate(Protocol):
    """What an algorithm makes of the samples so far."""

    @property
    def value(self) -> float:
        """How many calls may run at once, unrounded."""
        ...

    @property
    def no_load(self) -> float:
        """How many seconds a call takes if none waits for another, as far as is known; 0 if nothing is."""
        ...

    @property
    def recent(self) -> float:
        """The time of the newest sample that had one, in seconds; 0 before."""
        ...

    def take(self, rtt: float, in_flight: int, dropped: float) -> None:
        """Take in a sample: seconds (0 if it says nothing of time), most calls at once, which share of them was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient2:
    """Compares the time that calls take now with a long average of it, and lets a few calls queue.

    With each sample the limit becomes limit x gradient + `queue_size`, of which the part `smoothing` is taken over. The
    gradient is `rtt_tolerance` x average / now, from 0.5 to 1. The limit does not move while fewer than half of the calls that
    it allows are running. If the average is more than twice the time now, load has gone, and it falls by 5 % with every
    sample.

    It finds the limit of a dependency that it has seen at ease, and lets about `rtt_tolerance` x capacity + `queue_size` calls
    through. Two properties of the algorithm to know: what it sees first is normal to it, an overload too; and an overload that
    lasts becomes normal within about `long_window` samples (10 minutes), and the limit grows. `Vegas` drifts more slowly.

    It differs from the original in two points. `min_limit` is 20 there, which hides every dependency that has less room. And
    the original does not look at dropped calls, so that a dependency that turns calls down quickly looks fast; ours multiplies
    the gradient with the share of calls that were not dropped.

    Args:
        initial_limit: the calls at once before anything is known.
        min_limit: the least calls at once.
        max_limit: the most calls at once.
        smoothing: how much of a new limit is taken over, a fraction.
        queue_size: how many calls may wait inside the dependency.
        rtt_tolerance: how many times the average a call may take before the limit falls, 1 or more.
        long_window: over how many samples the long average goes.
        window: seconds per sample; 0 makes each call a sample.
        minimum_samples: how many calls a window needs.
    """

    initial_limit: int = 20
    min_limit: int = 1
    max_limit: int = 200
    smoothing: float = 0.2
    queue_size: int = 4
    rtt_tolerance: float = 1.5
    long_window: int = 600
    window: float = 1.0
    minimum_samples: int = 10

    def __post_init__(self) -> None:
        _check(self)
        checks.fraction("smoothing", self.smoothing)
        checks.count("queue_size", self.queue_size, at_least=0)
        _at_least_one("rtt_tolerance", self.rtt_tolerance)
        checks.count("long_window", self.long_window)

    def begin(self, random: Random) -> Estimate:
        """An estimate of its own for one limit."""
        return _Gradient2Estimate(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vegas:
    """Estimates the queue inside the dependency: limit x (1 - shortest time / time now), as TCP Vegas does.

    A step is log10 of the limit, rounded down, 1 at least. Up to `threshold` steps of queue the limit grows by `beta` steps,
    below `alpha` steps by one; above `beta` steps, and if a call was dropped, it falls by one. Between `alpha` and `beta` it
    rests: at 3 to 6 calls above the capacity of a dependency that takes fewer than 100 at once. It does not grow while fewer
    than half of the calls that it allows are running. After `probe_multiplier` x limit samples, or up to half as many by
    chance, the time now becomes the shortest, whatever it is: so it notices a dependency that has become slower, and drifts
    upwards under a load that never eases, by `alpha` to `beta` steps each time. Where the time of calls varies much by itself,
    the shortest is a chance, and the limit lower than it could be; `Gradient2` was made for those.

    It differs from the original in two points. There the steps can be any functions; here they are factors, and
    `backoff_ratio`. And `min_limit` can be set; there it is 1.

    Args:
        initial_limit: the calls at once before anything is known.
        min_limit: the least calls at once.
        max_limit: the most calls at once.
        smoothing: how much of a new limit is taken over, a fraction.
        alpha: the queue, in steps, below which the limit grows.
        beta: the queue, in steps, above which it falls.
        threshold: the queue, in steps, up to which it grows fast.
        backoff_ratio: where the limit falls, it becomes this fraction of itself; None: it falls by one step.
        probe_multiplier: how many samples, times the limit, a shortest time holds at most.
        window: seconds per sample; 0 makes each call a sample.
        minimum_samples: how many calls a window needs.
    """

    initial_limit: int = 20
    min_limit: int = 1
    max_limit: int = 1000
    smoothing: float = 1.0
    alpha: float = 3
    beta: float = 6
    threshold: float = 1
    backoff_ratio: float | None = None
    probe_multiplier: int = 30
    window: float = 1.0
    minimum_samples: int = 10

    def __post_init__(self) -> None:
        _check(self)
        checks.fraction("smoothing", self.smoothing)
        allowed = "finite numbers that rise: 0 <= threshold <= alpha <= beta"
        numbers = [checks.number(name, getattr(self, name), allowed) for name in ("threshold", "alpha", "beta")]
        if numbers[0] < 0 or numbers != sorted(numbers) or not isfinite(numbers[2]):
            raise ValueError(f"threshold, alpha and beta must be {allowed}, not {', '.join(map(repr, numbers))}")
        if self.backoff_ratio is not None:
            _backoff("backoff_ratio", self.backoff_ratio)
        checks.count("probe_multiplier", self.probe_multiplier)

    def begin(self, random: Random) -> Estimate:
        """An estimate of its own for one limit."""
        return _VegasEstimate(self, random)


@dataclass(frozen=True, slots=True, kw_only=True)
class AIMD:
    """Additive increase, multiplicative decrease: one more for a sample without drops, a fraction for one with.

    Calls that take longer than `timeout` count as dropped. The limit does not grow while fewer than half of the calls that it
    allows are running. It looks at nothing else: without drops it grows up to `max_limit`, and where some calls are always
    dropped, load or no load, it falls further than it should (`window=0` minds that less, and swings more).

    It differs from the original in one point: `min_limit` is 20 there.

    Args:
        initial_limit: the calls at once before anything is known.
        min_limit: the least calls at once.
        max_limit: the most calls at once.
        backoff_ratio: what is left of the limit after a drop, from 0.5 to below 1.
        timeout: seconds; calls that take longer count as dropped.
        window: seconds per sample; 0 makes each call a sample.
        minimum_samples: how many calls a window needs.
    """

    initial_limit: int = 20
    min_limit: int = 1
    max_limit: int = 200
    backoff_ratio: float = 0.9
    timeout: float = 5.0
    window: float = 1.0
    minimum_samples: int = 10

    def __post_init__(self) -> None:
        _check(self)
        _backoff("backoff_ratio", self.backoff_ratio)
        checks.seconds("timeout", self.timeout)

    def begin(self, random: Random) -> Estimate:
        """An estimate of its own for one limit."""
        return _AIMDEstimate(self)


Algorithm = Gradient2 | Vegas | AIMD


def _check(algorithm: Algorithm) -> None:
    """What all of them have."""
    least = checks.count("min_limit", algorithm.min_limit)
    most = checks.count("max_limit", algorithm.max_limit, at_least=least)
    checks.count("initial_limit", algorithm.initial_limit, at_least=least, at_most=most)
    if checks.wait("window", algorithm.window) == inf:
        raise ValueError(f"window must be a finite number of seconds, 0 or more, not {algorithm.window!r}")
    checks.count("minimum_samples", algorithm.minimum_samples)


def _at_least_one(argument: str, value: object) -> None:
    allowed = "a finite number, 1 or more"
    if not 1 <= checks.number(argument, value, allowed) < inf:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")


def _backoff(argument: str, value: object) -> None:
    allowed = "a fraction, 0.5 or more and below 1"
    if not 0.5 <= checks.number(argument, value, allowed) < 1:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")


# -- what is learned


class SlowAverage:
    """An exponential average over about `window` samples; the first ten count alike."""

    __slots__ = ("_count", "_factor", "value")

    _WARM_UP = 10

    def __init__(self, window: int) -> None:
        self._factor = 2 / (window + 1)
        self._count = 0
        self.value = 0.0

    def add(self, sample: float) -> float:
        """Take in a sample; the answer is the average with it."""
        if self._count < self._WARM_UP:
            self._count += 1
            self.value += (sample - self.value) / self._count
        else:
            self.value += (sample - self.value) * self._factor
        return self.value


class _Gradient2Estimate:
    __slots__ = ("_average", "_settings", "recent", "value")

    def __init__(self, settings: Gradient2) -> None:
        self.value = float(settings.initial_limit)
        self.recent = 0.0
        self._settings = settings
        self._average = SlowAverage(settings.long_window)

    @property
    def no_load(self) -> float:
        return self._average.value

    def take(self, rtt: float, in_flight: int, dropped: float) -> None:
        settings, limit, gradient = self._settings, self.value, 1.0
        if rtt > 0:
            self.recent = rtt
            average = self._average.add(rtt)
            gradient = min(1.0, settings.rtt_tolerance * average / rtt)
            if average > 2 * rtt:
                self._average.value *= 0.95
        elif not dropped:
            return
        if in_flight < limit / 2:
            return
        gradient = max(0.5, gradient * (1 - dropped))
        wanted = limit * gradient + settings.queue_size
        smoothed = limit * (1 - settings.smoothing) + wanted * settings.smoothing
        self.value = max(settings.min_limit, min(settings.max_limit, smoothed))


class _VegasEstimate:
    __slots__ = ("_jitter", "_random", "_samples", "_settings", "no_load", "recent", "value")

    def __init__(self, settings: Vegas, random: Random) -> None:
        self.value = float(settings.initial_limit)
        self.no_load = 0.0
        self.recent = 0.0
        self._settings = settings
        self._random = random
        self._begin_to_wait()

    def _begin_to_wait(self) -> None:
        """Until the shortest time is measured anew."""
        self._samples = 0
        self._jitter = 0.5 + 0.5 * self._random()

    def take(self, rtt: float, in_flight: int, dropped: float) -> None:
        if rtt > 0:
            self.recent = rtt
            self._samples += 1
            due = self._jitter * self._settings.probe_multiplier * self.value <= self._samples
            if due:
                self._begin_to_wait()
            if due or not self.no_load or rtt < self.no_load:
                self.no_load = rtt
                return
        if dropped:
            self._move_to(self._less())
        elif rtt > 0 and in_flight * 2 >= self.value:
            self._move_to(self._by_queue(ceil(self.value * (1 - self.no_load / rtt))))

    def _by_queue(self, queue: int) -> float:
        settings, limit, step = self._settings, self.value, _step(self.value)
        if queue <= settings.threshold * step:
            return limit + settings.beta * step
        if queue < settings.alpha * step:
            return limit + step
        if queue > settings.beta * step:
            return self._less()
        return limit

    def _less(self) -> float:
        ratio = self._settings.backoff_ratio
        return self.value - _step(self.value) if ratio is None else self.value * ratio

    def _move_to(self, wanted: float) -> None:
        settings = self._settings
        wanted = max(settings.min_limit, min(settings.max_limit, wanted))
        self.value = (1 - settings.smoothing) * self.value + settings.smoothing * wanted


def _step(limit: float) -> int:
    return max(1, int(log10(int(limit))))


class _AIMDEstimate:
    __slots__ = ("_settings", "no_load", "recent", "value")

    def __init__(self, settings: AIMD) -> None:
        self.value = float(settings.initial_limit)
        self.no_load = 0.0
        self.recent = 0.0
        self._settings = settings

    def take(self, rtt: float, in_flight: int, dropped: float) -> None:
        settings, limit = self._settings, int(self.value)
        if rtt > 0:
            self.recent = rtt
        if dropped or rtt > settings.timeout:
            limit = int(limit * settings.backoff_ratio)
        elif in_flight * 2 >= limit:
            limit += 1
        self.value = float(max(settings.min_limit, min(settings.max_limit, limit)))


# -- what is measured


class Window:
    """The calls that have ended since the last sample."""

    __slots__ = ("drops", "most", "time", "timed", "until", "untimed")

    def __init__(self, until: float) -> None:
        self.until = until
        self.timed = 0
        self.time = 0.0
        self.untimed = 0
        self.drops = 0
        self.most = 0


class Meter:
    """How many calls run, how many may, and what has been measured.

    `running` and a window's numbers are also written by those who must be fast, as in `take`: from reading to writing nothing
    is called. A dropped call that took less time than one without load says nothing about time, only that it was dropped: the
    dependency did not do the work. (In the original it would pass for a fast answer.)
    """

    __slots__ = ("_minimum", "_width", "estimate", "limit", "running", "window")

    def __init__(self, algorithm: Algorithm, random: Random) -> None:
        self.running = 0
        self.limit = algorithm.initial_limit
        self.estimate = algorithm.begin(random)
        self.window = Window(-inf)
        self._width = algorithm.window
        self._minimum = algorithm.minimum_samples if algorithm.window else 1

    def without_calls(self) -> "Meter":
        """What has been learned, with no call running."""
        other = object.__new__(Meter)
        for slot in self.__slots__:
            setattr(other, slot, getattr(self, slot))
        other.running = 0
        return other

    def take(self, now: float, rtt: float, in_flight: int, dropped: bool = False) -> None:
        """Take in a call that ended at `now` and took `rtt` seconds; so many ran when it began, itself included."""
        window = self.window
        if window.until == -inf:
            window.until = now + self._width
        if dropped and rtt < self.estimate.no_load:
            window.untimed += 1
        else:
            window.timed += 1
            window.time += rtt
        window.drops += dropped
        if in_flight > window.most:
            window.most = in_flight
        if now < window.until or window.timed + window.untimed < self._minimum:
            return
        self.window = Window(now + self._width)  # from here on nobody writes in the old one
        rtt = window.time / window.timed if window.timed else 0.0
        self.estimate.take(rtt, window.most, window.drops / (window.timed + window.untimed))
        self.limit = int(self.estimate.value)
