"""Paired timing: every sample of a case stands between two samples of the pass-through, so that ratios hold on a noisy machine.

A case is an async function that is awaited over and over. Its ratio is its total time over that of a pass-through wrapper
around the same function, median of the pairs.
"""

import gc
import random
import statistics
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

Step = Callable[[], Awaitable[object]]

SAMPLE = 0.0004  # seconds that one sample should take


@dataclass(frozen=True)
class Case:
    """One thing to time: `step` is awaited; `base` is what it is compared with; `errors` are expected of both."""

    name: str
    step: Step
    base: Step
    bar: float | None = None
    raises: bool = False


async def noop() -> None:
    """What is guarded."""


async def fails() -> None:
    """What is guarded and fails."""
    raise ValueError


def pass_through(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The least that a wrapper can be."""

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapper


async def _time(step: Step, times: int) -> float:
    began = perf_counter()
    for _ in range(times):
        await step()
    return perf_counter() - began


async def _time_raising(step: Step, times: int) -> float:
    began = perf_counter()
    for _ in range(times):
        try:  # noqa: SIM105 - this is what is timed
            await step()
        except Exception:
            pass
    return perf_counter() - began


async def ratios(cases: list[Case], rounds: int) -> dict[str, float]:
    """The median ratio of every case to its base."""
    found: dict[str, list[float]] = {case.name: [] for case in cases}
    counts: dict[str, int] = {}
    for case in cases:
        time = _time_raising if case.raises else _time
        await time(case.step, 200)
        counts[case.name] = max(20, int(SAMPLE / (await time(case.step, 200) / 200)))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for case in random.sample(cases, len(cases)):
                time = partial(_time_raising if case.raises else _time, times=counts[case.name])
                before = await time(case.base)
                taken = await time(case.step)
                after = await time(case.base)
                found[case.name].append(2 * taken / (before + after))
            gc.collect()
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in found.items()}
