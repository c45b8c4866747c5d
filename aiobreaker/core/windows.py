"""What is remembered: the last N calls or the last N seconds. O(1) per call; only marked calls are kept one by one.

Calls are numbered from 1 as they are recorded. A memory is told the numbers of the *marked* calls (failures, say) and
answers how many calls, and how many marks, are still inside its window. Unmarked calls cost it nothing.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from . import checks

LONG_AGO = -inf  # one object for all that begin with it


@dataclass(frozen=True, slots=True)
class LastCalls:
    """A window over the last `size` recorded calls."""

    size: int

    def __post_init__(self) -> None:
        checks.count("size", self.size)

    def __str__(self) -> str:
        return f"the last {self.size} calls"


@dataclass(frozen=True, slots=True)
class LastSeconds:
    """A window over the last `span` seconds, kept in at most `buckets` buckets.

    A bucket leaves the window as a whole, exactly `span` seconds after its first entry. So a call is never remembered for
    longer than `span` seconds, and never for less than `span` seconds minus one bucket (`span / buckets`).
    """

    span: float
    buckets: int = 10

    def __post_init__(self) -> None:
        checks.seconds("span", self.span)
        checks.count("buckets", self.buckets)

    @property
    def width(self) -> float:
        """The length of a bucket in seconds."""
        return self.span / self.buckets

    def __str__(self) -> str:
        return f"the last {self.span:g} seconds"


Window = LastCalls | LastSeconds


class CallMemory:
    """The last N calls: the numbers of the marked ones, at most N of them."""

    __slots__ = ("_marked", "_origin", "_size")

    roll_at: ClassVar[float] = inf

    def __init__(self, window: LastCalls, origin: int = 0) -> None:
        self._size = window.size
        self._origin = origin
        self._marked: deque[int] | None = None

    def take(self, number: int, now: float, marked: bool) -> tuple[int, int]:
        """Take in the newest call, and answer as `counts` does."""
        if marked:
            if self._marked is None:
                self._marked = deque()
            self._marked.append(number)
        return self.counts(number)

    def take_marks(self, numbers: Collection[int]) -> None:
        """Take in marked calls, all older than the next one, without an answer."""
        if self._marked is None:
            self._marked = deque()
        self._marked.extend(numbers)

    def expire(self, number: int, now: float) -> None:
        """Time changes nothing here."""

    def counts(self, number: int) -> tuple[int, int]:
        """How many calls up to this one, inside the window, are marked; and how many there are."""
        marked, size, calls = self._marked, self._size, number - self._origin
        while marked and marked[0] <= number - size:
            marked.popleft()
        return len(marked) if marked else 0, calls if calls < size else size

    def history(self, number: int) -> list[int]:
        """The numbers of the marked calls, oldest first."""
        self.counts(number)  # forgets
        return list(self._marked or ())


class _Bucket:
    """The calls after number `base`, from time `start` on, and how many of them are marked."""

    __slots__ = ("base", "marks", "start")

    def __init__(self, start: float, base: int, marks: int = 0) -> None:
        self.start = start
        self.base = base
        self.marks = marks


class SecondsMemory:
    """The last N seconds: one bucket per slice of time in which something was recorded."""

    __slots__ = ("_base", "_buckets", "_marks", "_window", "roll_at")

    def __init__(self, window: LastSeconds, origin: int = 0) -> None:
        self.roll_at = LONG_AGO
        self._window = window
        self._buckets: deque[_Bucket] | None = None
        self._base = origin
        self._marks = 0

    def take(self, number: int, now: float, marked: bool) -> tuple[int, int]:
        """Take in the newest call, and answer as `counts` does."""
        if now >= self.roll_at:
            self._roll(number - 1, now)
        if marked and self._buckets:  # after a roll there is one
            self._buckets[-1].marks += 1
            self._marks += 1
        return self._marks, number - self._base

    def take_marks(self, numbers: Collection[int]) -> None:
        """Take in marked calls from before the next roll, without an answer."""
        if self._buckets:
            self._buckets[-1].marks += len(numbers)
            self._marks += len(numbers)

    def _roll(self, number: int, now: float) -> None:
        """Make room for a call at `now`; `number` is the newest call before it."""
        self.expire(number, now)
        buckets = self._buckets
        if buckets is None:
            buckets = self._buckets = deque()
        if not buckets or now >= buckets[-1].start + self._window.width:
            buckets.append(_Bucket(now, number))
        self.roll_at = min(buckets[0].start + self._window.span, buckets[-1].start + self._window.width)

    def expire(self, number: int, now: float) -> None:
        """Forget what has left the window at `now`."""
        buckets = self._buckets
        while buckets and now >= buckets[0].start + self._window.span:
            self._marks -= buckets.popleft().marks
            self._base = buckets[0].base if buckets else number

    def counts(self, number: int) -> tuple[int, int]:
        """How many calls up to this one, inside the window, are marked; and how many there are."""
        return self._marks, number - self._base

    def history(self, number: int) -> list[int]:
        """Numbers for the marked calls, oldest first: right to the bucket, the last ones of each."""
        buckets = list(self._buckets or ())
        ends = [*(bucket.base for bucket in buckets[1:]), number]
        return [end - back for bucket, end in zip(buckets, ends, strict=False) for back in reversed(range(bucket.marks))]

    def adopt(self, other: "SecondsMemory") -> None:
        """Take over the buckets of another memory; its times stand, this window's length applies."""
        self._buckets = deque(_Bucket(bucket.start, bucket.base, bucket.marks) for bucket in other._buckets or ())
        self._base, self._marks = other._base, other._marks

    def begin_with(self, marks: int, now: float) -> None:
        """Take over so many marks of unknown age, as if they were made at `now`."""
        self._buckets = deque([_Bucket(now, self._base, marks)])
        self._marks = marks
        self.roll_at = now + self._window.width


Memory = CallMemory | SecondsMemory


def remember(window: Window, origin: int = 0) -> Memory:
    """An empty memory for this window; calls up to number `origin` are not in it."""
    return CallMemory(window, origin) if isinstance(window, LastCalls) else SecondsMemory(window, origin)


def carry_over(old: Memory, window: Window, number: int, now: float) -> Memory:
    """What `old` remembers, under another window. Between calls and seconds it is as exact as what is known."""
    old.expire(number, now)
    marks, calls = old.counts(number)
    new = remember(window, origin=number - calls)
    if isinstance(new, CallMemory):
        for marked in old.history(number):
            new.take(marked, now, True)
    elif isinstance(old, SecondsMemory):
        new.adopt(old)
    else:
        new.begin_with(marks, now)
    return new
