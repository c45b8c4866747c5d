"""What the tests of this folder share: a factory that remembers what it was asked for, and a look at what is alive."""

import gc
from collections.abc import Callable
from typing import Any

from aiobreaker import BreakerRegistry, CircuitBreaker, ConsecutiveFailures
from aiobreaker.testing import ManualClock

DAY = 86_400.0


class Factory:
    """Makes breakers that open at the first failure, named after their keys, and remembers for which."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.keys: list[object] = []
        self.clock = clock or ManualClock()

    def __call__(self, key: object) -> CircuitBreaker:
        self.keys.append(key)
        return CircuitBreaker(f"breaker of {key}", trip=ConsecutiveFailures(1), open_for=DAY, clock=self.clock)


async def fail() -> None:
    raise OSError("down")


def alive(registry: BreakerRegistry[Any]) -> set[object]:
    gc.collect()
    return set(registry._entries)
