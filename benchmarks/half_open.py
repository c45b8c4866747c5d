"""What a refusal costs while trials run: 10,000 callers come at a half-open circuit with all its trial slots taken."""

import statistics

import anyio
import anyio.lowlevel

from aiobreaker import CircuitOpenError, State, Trials

from .cases import breaker
from .harness import BARE, PASSING, Function, Undisturbed, clock, noop

CALLERS = 10_000
TRIALS = 3
BAR = 15.0


async def refusal_ratio(rounds: int) -> float:
    """Time of one refusal over that of a pass-through. What a task costs by itself is taken off. Median of the rounds."""
    guarding = breaker(open_for=3600, trials=Trials(TRIALS, concurrent=TRIALS))
    guarding.half_open()
    done = anyio.Event()
    guarded = guarding(noop)
    ratios: list[float] = []
    async with anyio.create_task_group() as trials:
        for _ in range(TRIALS):
            trials.start_soon(guarding.call, done.wait)
        while guarding.snapshot().in_flight < TRIALS:
            await anyio.lowlevel.checkpoint()
        for _ in range(rounds):
            with Undisturbed():
                tasks, bare = await _wave(noop), await BARE(1000) / 1000
                refused, passing = await _wave(guarded), await PASSING(1000) / 1000
                ratios.append(((refused - tasks) / CALLERS + bare) / passing)
        assert guarding.state is State.HALF_OPEN
        assert guarding.snapshot().refused == rounds * CALLERS
        done.set()
    return statistics.median(ratios)


async def _wave(fn: Function) -> float:
    async def caller() -> None:
        try:  # noqa: SIM105 - this is what is timed
            await fn()
        except CircuitOpenError:
            pass

    began = clock()
    async with anyio.create_task_group() as callers:
        for _ in range(CALLERS):
            callers.start_soon(caller)
    return clock() - began
