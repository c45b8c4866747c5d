"""What each suspension inside a call costs: every wrapper around a coroutine is passed again each time that it is resumed.

The coroutine is driven by hand, as event loops do but without their own cost. The fixed cost of a call is taken off.
"""

import statistics
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from .cases import breaker
from .harness import Undisturbed, clock, noop, pass_through

SUSPENSIONS = 1000
CALLS = 20  # in one sample
BAR = 1.5


@coroutine
def _pause() -> Generator[None]:
    yield


async def _pausing() -> None:
    for _ in range(SUSPENSIONS):
        await _pause()


def suspension_ratio(rounds: int) -> float:
    """What a suspension inside a guarded call adds to a bare one, over what the pass-through adds; median of the rounds."""
    guarding = breaker()
    bare, passing = (_pausing, noop), (pass_through(_pausing), pass_through(noop))
    guarded = guarding(_pausing), guarding(noop)
    ratios: list[float] = []
    with Undisturbed():
        for _ in range(rounds):
            samples = [_slope(*pair) for pair in (bare, passing, guarded, passing, bare)]
            without, base = (samples[0] + samples[4]) / 2, (samples[1] + samples[3]) / 2
            ratios.append((samples[2] - without) / max(base - without, 1e-12))
    return statistics.median(ratios)


def _slope(long: Callable[[], Coroutine[Any, Any, None]], short: Callable[[], Coroutine[Any, Any, None]]) -> float:
    return (_drive(long) - _drive(short)) / SUSPENSIONS


def _drive(fn: Callable[[], Coroutine[Any, Any, None]]) -> float:
    began = clock()
    for _ in range(CALLS):
        running = fn()
        try:
            while True:
                running.send(None)
        except StopIteration:
            pass
    return clock() - began
