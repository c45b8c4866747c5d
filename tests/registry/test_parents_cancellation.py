"""A call that is cancelled at any step leaves the books right, in the breaker that it went through and in the one above."""

import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, CircuitOpenError, Trials
from aiobreaker.testing import ManualClock

from ..test_cancellation import (
    LAST_STEP,
    SEVERAL,
    WAYS,
    Release,
    WayIn,
    Work,
    check_books,
    closed,
    forced_open,
    half_open_and_free,
    half_open_and_yielding,
    occupy,
    open_and_due,
    open_until_released,
    run,
    start,
)

Prepare = Callable[[CircuitBreaker, Trials, ManualClock], Awaitable[Release]]
STATES: list[tuple[Prepare, Prepare]] = [
    (closed, open_and_due),
    (closed, occupy),
    (closed, forced_open),
    (half_open_and_yielding, half_open_and_free),
    (open_and_due, open_until_released),
    (open_and_due, open_and_due),
    (occupy, open_and_due),
    (occupy, occupy),
]
"""Of the lower one, and of the upper one."""

PASSING = [name for name, way in WAYS.items() if not way.endless and name != "isolated"]


@pytest.mark.parametrize("canceller", ["anyio scope", "native"])
@pytest.mark.parametrize("way", PASSING)
async def test_cancellation_at_every_step_leaves_both_books_right(way: str, canceller: str, anyio_backend_name: str) -> None:
    for states in STATES:
        await sweep(WAYS[way], states, anyio_backend_name if canceller == "native" else canceller)
    gc.collect()  # what was dropped unsettled would warn now


async def sweep(way: WayIn, states: tuple[Prepare, Prepare], canceller: str) -> None:
    for cancel_at in range(2 * LAST_STEP):
        try:
            if await completes(way, states, canceller, cancel_at):
                return
        except BaseException as error:
            error.add_note(f"cancelled at half step {cancel_at} in {states[0].__name__} under {states[1].__name__}")
            raise
    raise AssertionError(f"it never completes in {states[0].__name__} under {states[1].__name__}")


def make_both(way: WayIn, clock: ManualClock) -> tuple[CircuitBreaker, CircuitBreaker]:
    def make(key: str) -> CircuitBreaker:
        settings = {"trials": way.trials, **way.settings} if key == "lower" else {"trials": SEVERAL}
        return CircuitBreaker(key, clock=clock, **settings)

    registry = BreakerRegistry(make, parent={"lower": "upper"}.get)
    return registry["lower"], registry["upper"]


async def completes(way: WayIn, states: tuple[Prepare, Prepare], canceller: str, cancel_at: int) -> bool:
    clock = ManualClock()
    lower, upper = make_both(way, clock)
    release_lower = await states[0](lower, way.trials, clock)
    release_upper = await states[1](upper, SEVERAL, clock)
    work = Work()

    def release() -> None:
        release_upper()
        release_lower()

    async def body() -> None:
        with suppress(CircuitOpenError):
            await way.run(lower, work)

    async with anyio.create_task_group() as tasks:
        completed = await run(start(canceller, tasks, body), work, release, cancel_at)
    most = 2 * work.finished + 1  # a probe and the call after it are two trials of the upper one
    assert lower.snapshot().in_flight == 0
    await check_books(upper, SEVERAL, least=0, most=most)
    upper.reset()
    await check_books(lower, way.trials, least=0, most=most)
    assert upper.snapshot().in_flight == 0
    return completed
