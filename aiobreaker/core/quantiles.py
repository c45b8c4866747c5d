"""A running quantile: the value that so many of the last N are at or below. Exact, and what is older than N is forgotten."""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from math import ceil, inf

from . import checks

_ROUNDING = 1e-9  # 0.07 x 100 is a little more than 7 in floating point


@dataclass(frozen=True, slots=True)
class Quantile:
    """As long as the fastest `fraction` of recent calls took: `Quantile(0.95)` is longer than 95 of 100 calls.

    It is taken over the last `window` calls, so it follows a change within that many, and needs that much memory. Until
    1 / (1 - fraction) calls are known (20 for 0.95), the answer is `initial`; without one, infinity.

    Args:
        fraction: above 0 and below 1.
        minimum: the answer is never less than this, seconds.
        initial: the answer as long as too few calls are known, seconds; None if there is none.
        window: over how many calls, at least 1 / (1 - fraction).

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    fraction: float
    minimum: float = 0.0
    initial: float | None = None
    window: int = 500

    def __post_init__(self) -> None:
        allowed = "a fraction above 0 and below 1"
        if not 0 < checks.number("fraction", self.fraction, allowed) < 1:
            raise ValueError(f"fraction must be {allowed}, not {self.fraction!r}")
        checks.wait("minimum", self.minimum)
        if self.initial is not None:
            checks.wait("initial", self.initial)
        checks.count("window", self.window)
        if self.window < self.needed:
            raise ValueError(f"window must be at least 1 / (1 - fraction), here {self.needed} calls, not {self.window!r}")

    @property
    def needed(self) -> int:
        """How many calls must be known: with fewer, none is expected above the quantile."""
        return ceil(1 / (1 - self.fraction) - _ROUNDING)

    def __str__(self) -> str:
        return f"the {self.fraction:g} quantile of the last {self.window} calls"


class RunningQuantile:
    """The quantile of the last values, as its settings say. `value` is the newest answer.

    The definition is the nearest rank, type 1 of Hyndman and Fan, "Sample Quantiles in Statistical Packages" (The American
    Statistician 50, 1996): of n values in order, number ceil(fraction x n). So it is a value that has been seen. The values are
    kept twice, as they came and in order; a new one costs a binary search and a short move of memory, whatever it is.
    (The P2 algorithm of Jain and Chlamtac needs five numbers only, but it never forgets.)
    """

    __slots__ = ("_coming", "_needed", "_ranked", "settings", "value")

    def __init__(self, settings: Quantile) -> None:
        self.settings = settings
        self.value = inf if settings.initial is None else max(settings.minimum, settings.initial)
        self._needed = settings.needed
        self._coming: deque[float] = deque()
        self._ranked: list[float] = []

    def __len__(self) -> int:
        return len(self._coming)

    def add(self, value: float) -> float:
        """Take in a value, forget the one that leaves the window, and answer the quantile."""
        coming, ranked, settings = self._coming, self._ranked, self.settings
        if len(coming) == settings.window:
            del ranked[bisect_left(ranked, coming.popleft())]
        coming.append(value)
        insort(ranked, value)
        known = len(ranked)
        if known >= self._needed:
            self.value = max(settings.minimum, ranked[ceil(settings.fraction * known - _ROUNDING) - 1])
        return self.value
