"""What a fresh breaker and a decorated function weigh, by tracemalloc over several hundred of them."""

import gc
import tracemalloc
from collections.abc import Callable

from aiobreaker import CircuitBreaker, ConsecutiveFailures, FailureRate, LastCalls, LastSeconds, SlowCallRate
from aiobreaker.core.conditions import AnyOf, Condition

from .harness import noop
from .rows import Row

INSTANCES = 400
BREAKER_BAR = 1200.0
FUNCTION_BAR = 1000.0


def _rates(window: LastCalls | LastSeconds) -> AnyOf:
    failures = FailureRate(0.5, window, minimum_calls=10)
    return failures | SlowCallRate(0.5, slower_than=2.0, window=window, minimum_calls=10)


TRIPS: dict[str, Callable[[], Condition | AnyOf]] = {
    "consecutive failures": lambda: ConsecutiveFailures(5),
    "last 100 calls, slow calls": lambda: _rates(LastCalls(100)),
    "last 10,000 calls, slow calls": lambda: _rates(LastCalls(10_000)),
    "last 60 s, slow calls": lambda: _rates(LastSeconds(60)),
    "last 3,600 s, slow calls": lambda: _rates(LastSeconds(3600)),
}


def weight(make: Callable[[], object]) -> float:
    """Bytes of one object, on average over many that are kept."""
    make()  # what is made once for all
    kept: list[object] = [None] * INSTANCES
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(INSTANCES):
        kept[number] = make()
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return taken / INSTANCES


def memory_rows() -> list[Row]:
    """Everything that is weighed. The conditions are shared, as breakers of one kind share them, except where it says so."""
    rows = []
    for words, trip in TRIPS.items():
        shared = trip()
        size = weight(lambda shared=shared: CircuitBreaker("weighed", trip=shared))  # type: ignore[misc]
        rows.append(Row(f"fresh breaker, {words}", size, BREAKER_BAR, "B"))
    own = weight(lambda: CircuitBreaker("weighed", trip=_rates(LastSeconds(60))))
    rows.append(Row("fresh breaker with conditions of its own, last 60 s, slow calls", own, None, "B"))
    for words in ("consecutive failures", "last 60 s, slow calls"):
        guarding = CircuitBreaker("weighed", trip=TRIPS[words]())
        rows.append(Row(f"decorated function, {words}", weight(lambda guarding=guarding: guarding(noop)), FUNCTION_BAR, "B"))  # type: ignore[misc]
    return rows
