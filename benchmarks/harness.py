"""Paired timing: a sample of a case stands between samples of what it is compared with, so ratios hold on a noisy machine.

A case is one statement, awaited over and over in a loop that is made from that statement, so that the loop's own frames are
the same for all. In every round a sample of it stands between two of its base, and these between two of the bare call.

Time is the thread's own processor time: nothing here waits, and what other processes do in between must not count.
"""

import gc
import random
import statistics
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from textwrap import indent
from time import get_clock_info, perf_counter, thread_time
from typing import Any

from anyio.lowlevel import checkpoint

Function = Callable[..., Coroutine[Any, Any, Any]]
Loop = Callable[[int], Awaitable[float]]

clock = thread_time if get_clock_info("thread_time").resolution < 1e-6 else perf_counter

SAMPLE = 0.00035  # seconds that one sample should take
WARM_UP = 100  # turns before and while a loop is looked at for the first time
ONE_IN = 20  # calls of the mixed statement, one of which fails

AWAITED = "await fn()"
RAISING = "try:\n    await fn()\nexcept Exception:\n    pass"
MIXED = "await fn()\n" * (ONE_IN - 1) + RAISING.replace("fn", "failing")

_TEMPLATE = """
async def loop(turns):
    began = clock()
    for _ in range(turns):
{statement}
    return clock() - began
"""


def loop(statement: str, **names: Any) -> Loop:
    """An async function that carries out the statement so many times, and says how long it took."""
    scope: dict[str, Any] = {"clock": clock, **names}
    exec(_TEMPLATE.format(statement=indent(statement, " " * 8)), scope)
    made: Loop = scope["loop"]
    return made


@dataclass(frozen=True)
class Case:
    """One thing to time, what it is compared with, and the bare call that both are around."""

    name: str
    loop: Loop
    base: Loop
    bare: Loop
    bar: float | None = None


@dataclass(frozen=True)
class Timing:
    """The medians of a case: total time over its base's, and what it adds to the bare call over what its base adds."""

    total: float
    overhead: float


async def noop() -> None:
    """What is guarded."""


async def fails() -> None:
    """What is guarded and fails."""
    raise ValueError


def pass_through(fn: Function) -> Function:
    """The least that a wrapper can be."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


async def measure(cases: list[Case], rounds: int) -> dict[str, Timing]:
    """Time every case so many times, in a new order each time."""
    turns = {timed: await _turns(timed) for case in cases for timed in (case.loop, case.base, case.bare)}
    found: dict[str, list[Timing]] = {case.name: [] for case in cases}

    async def sample(timed: Loop) -> float:
        await checkpoint()  # what the sample before has left to the event loop, such as timers that were cancelled
        return await timed(turns[timed]) / turns[timed]

    with Undisturbed() as undisturbed:
        for _ in range(rounds):
            for case in random.sample(cases, len(cases)):
                bare = await sample(case.bare)
                base = await sample(case.base)
                taken = await sample(case.loop)
                base = (base + await sample(case.base)) / 2
                bare = (bare + await sample(case.bare)) / 2
                found[case.name].append(Timing(taken / base, (taken - bare) / max(base - bare, 1e-9)))
            undisturbed.collect()
    return {name: _median(timings) for name, timings in found.items()}


async def _turns(timed: Loop) -> int:
    await timed(WARM_UP)
    return max(1, round(SAMPLE / (await timed(WARM_UP) / WARM_UP)))


def _median(timings: list[Timing]) -> Timing:
    return Timing(statistics.median(t.total for t in timings), statistics.median(t.overhead for t in timings))


class Undisturbed:
    """A block without the garbage collector: what was there before is left out of it, the rest is collected when told."""

    def __enter__(self) -> "Undisturbed":
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def collect(self) -> None:
        """Collect now, between two rounds."""
        gc.collect()

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()


BARE, BARE_FAILING, BARE_MIXED = loop(AWAITED, fn=noop), loop(RAISING, fn=fails), loop(MIXED, fn=noop, failing=fails)
PASSING = loop(AWAITED, fn=pass_through(noop))
PASSING_FAILING = loop(RAISING, fn=pass_through(fails))
PASSING_MIXED = loop(MIXED, fn=pass_through(noop), failing=pass_through(fails))


def succeeding(name: str, timed: Loop, bar: float | None = None) -> Case:
    """A case around a call that succeeds."""
    return Case(name, timed, PASSING, BARE, bar)


def failing(name: str, fn: Function, bar: float | None = None) -> Case:
    """A case around a call that raises: it fails, or is refused. Its base raises too."""
    return Case(name, loop(RAISING, fn=fn), PASSING_FAILING, BARE_FAILING, bar)
