"""Time that passes when a script says so: while this is installed, every clock of the process can be put forward.

Peers read whatever clock they like, so all of them are replaced, before a peer is imported. No script sleeps.
"""

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

_true_monotonic, _true_time, _true_counter = time.monotonic, time.time, time.perf_counter
_true_datetime = datetime.datetime


@dataclass
class _Clocks:
    """By how many seconds all clocks are ahead, and by how many the wall clock, and it alone, is off."""

    ahead: float = 0.0
    wall_step: float = 0.0


_CLOCKS = _Clocks()


def later(seconds: float) -> None:
    """Let so much time pass, and a little more, so that what lasts so long is over."""
    _CLOCKS.ahead += seconds + 0.05


def set_wall_clock(step: float) -> None:
    """Put the wall clock forward or back from where it should be."""
    _CLOCKS.wall_step = step


def _monotonic() -> float:
    return _true_monotonic() + _CLOCKS.ahead


def _counter() -> float:
    return _true_counter() + _CLOCKS.ahead


def _wall() -> float:
    return _true_time() + _CLOCKS.ahead + _CLOCKS.wall_step


class _DateTime(_true_datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(_wall(), tz)

    @classmethod
    def utcnow(cls) -> Self:
        return cls.fromtimestamp(_wall(), datetime.UTC).replace(tzinfo=None)


@contextmanager
def installed() -> Iterator[None]:
    """For the length of a block all clocks of this process are ours."""
    time.monotonic, time.time, time.perf_counter = _monotonic, _wall, _counter
    datetime.datetime = _DateTime  # type: ignore[misc]
    try:
        yield
    finally:
        time.monotonic, time.time, time.perf_counter = _true_monotonic, _true_time, _true_counter
        datetime.datetime = _true_datetime  # type: ignore[misc]
        set_wall_clock(0.0)
