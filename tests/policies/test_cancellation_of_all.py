"""Every policy, and all of them around one call, cancelled at every step: afterwards they are as new.

Law: it makes no difference who cancels, and by which way in the caller came. An even half step comes before what else happens
in its step, an odd one after it.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker import RefusedError
from aiobreaker.flights import Flights
from aiobreaker.lines import Line
from aiobreaker.policies.bulkhead import Bulkhead
from aiobreaker.policies.hedge import Hedge
from aiobreaker.policies.retry import Course

from ..soak import count_tasks
from ..test_cancellation import Victim, start
from .stages import Stage
from .stages_of_limits import (
    AdaptiveLimitStage,
    BulkheadStage,
    FullAdaptiveLimitStage,
    FullBulkheadStage,
    RateLimitStage,
    RefusingAdaptiveLimitStage,
    RefusingBulkheadStage,
    RefusingRateLimitStage,
    RefusingThrottleStage,
    SecondInAdaptiveLineStage,
    SecondInLineStage,
    ThrottleStage,
    UsedUpRateLimitStage,
)
from .stages_of_others import (
    CacheFollowerStage,
    CacheStage,
    ChaosStage,
    CleaningUpStage,
    CoalesceStage,
    DeadlineStage,
    FallbackStage,
    FollowerStage,
    HedgeStage,
    LateDeadlineStage,
    LateTimeoutStage,
    LonelyCacheStage,
    NextAtOnceStage,
    PipelineStage,
    RetryStage,
    SecondWinsStage,
    StaleStage,
    TimeoutStage,
)

STAGES: list[type[Stage]] = [
    RetryStage,
    TimeoutStage,
    LateTimeoutStage,
    DeadlineStage,
    LateDeadlineStage,
    BulkheadStage,
    FullBulkheadStage,
    SecondInLineStage,
    RefusingBulkheadStage,
    RateLimitStage,
    UsedUpRateLimitStage,
    RefusingRateLimitStage,
    AdaptiveLimitStage,
    FullAdaptiveLimitStage,
    SecondInAdaptiveLineStage,
    RefusingAdaptiveLimitStage,
    ThrottleStage,
    RefusingThrottleStage,
    HedgeStage,
    SecondWinsStage,
    CleaningUpStage,
    NextAtOnceStage,
    FallbackStage,
    CoalesceStage,
    FollowerStage,
    CacheStage,
    CacheFollowerStage,
    LonelyCacheStage,
    StaleStage,
    ChaosStage,
    PipelineStage,
]

FOLLOWED_AT, RELEASED_AT, ANSWERED_AT, ENDED_BY = 2, 4, 18, 60  # scheduler steps; time passes at every fourth

WAYS = [
    pytest.param(stage, way, id=f"{stage.__name__.removesuffix('Stage')}-{way}")
    for stage in STAGES
    for way in ("call", "decorator", "block")
    if way != "block" or stage.has_block
]


@pytest.mark.parametrize(("stage", "way"), WAYS)
async def test_cancelled_at_every_step_it_is_as_new(anyio_backend_name: str, stage: type[Stage], way: str) -> None:
    for canceller in ("anyio scope", anyio_backend_name):
        ends: list[str] = []
        too_late = False
        while not too_late:
            end, too_late = await sweep(stage(), way, canceller, cancel_at=len(ends))
            ends.append(end)
        assert set(ends[: stage.least]) == {"cancelled"}
        assert ends[-1] == stage.end


async def sweep(stage: Stage, way: str, canceller: str, cancel_at: int) -> tuple[str, bool]:
    """One call, cancelled at this half step. How it ended, and whether that was before it could be cancelled."""
    tasks_before = count_tasks()
    end, too_late = "cancelled", False

    async def live() -> None:
        nonlocal end
        stage.started, deadline = True, anyio.current_effective_deadline()
        try:
            await getattr(stage, f"by_{way}")()
        except RefusedError:
            end = "refused"
        except TimeoutError:
            end = "timed out"
        else:
            end = "returned"
        assert anyio.current_effective_deadline() in {deadline, -inf}  # it is as before, or cancelled

    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as tasks:
            await stage.prepare(tasks)
            victim = start(canceller, tasks, live)
            too_late = await run(stage, tasks, victim, cancel_at)
        await stage.check(end)
    assert count_tasks() == tasks_before
    return end, too_late


async def run(stage: Stage, tasks: anyio.abc.TaskGroup, victim: Victim, cancel_at: int) -> bool:
    """Step by step, until all is done that others do and the victim has ended. Was it too late to cancel?"""
    ended_at = ENDED_BY
    for step in range(ENDED_BY):
        if victim.ended():
            ended_at = min(step, ended_at)
            if step > ANSWERED_AT:
                return 2 * ended_at <= cancel_at
        if cancel_at == 2 * step:
            victim.cancel()
        if step == FOLLOWED_AT:
            stage.follow(tasks)
        if step == RELEASED_AT:
            stage.release()
        if step == ANSWERED_AT:
            stage.work.answer.set()
        if cancel_at == 2 * step + 1:
            victim.cancel()
        await (anyio.sleep(stage.tick) if step % 4 == 3 else checkpoint())
    raise AssertionError(f"cancelled at half step {cancel_at}, it hangs")


# -- it finds faults


def after_cancellation(method: Callable[..., Awaitable[Any]], do: Callable[[Any], object]) -> Callable[..., Awaitable[Any]]:
    """The method, that does something wrong to its object when it is cancelled."""

    async def faulty(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(self, *args, **kwargs)
        except anyio.get_cancelled_exc_class():
            do(self)
            raise

    return faulty


def keep_a_place(bulkhead: Bulkhead) -> None:
    bulkhead._places.taken += 1


def keep_a_ticket(line: Line) -> None:
    line.waiting += 1


def count_what_was_not_made(course: Course) -> None:
    course._policy._retries += 1


def pay_for_nothing(hedge: Hedge) -> None:
    assert hedge._budget is not None
    hedge._budget.withdraw()


def do_nothing(*args: object) -> None:
    """In place of what should be done."""


FAULTS: list[tuple[type[Stage], type, str, Callable[..., object]]] = [
    (BulkheadStage, Bulkhead, "call", after_cancellation(Bulkhead.call, keep_a_place)),
    (FullBulkheadStage, Line, "wait", after_cancellation(Line.wait, keep_a_ticket)),
    (SecondInLineStage, Line, "move", do_nothing),
    (RetryStage, Course, "wait", after_cancellation(Course.wait, count_what_was_not_made)),
    (HedgeStage, Hedge, "call", after_cancellation(Hedge.call, pay_for_nothing)),
    (CoalesceStage, Flights, "_hand_over", do_nothing),
]


@pytest.mark.parametrize(("stage", "kind", "method", "faulty"), FAULTS)
async def test_the_sweep_finds_a_fault(
    stage: type[Stage], kind: type, method: str, faulty: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, method, faulty)
    with pytest.raises((AssertionError, TimeoutError)):
        for cancel_at in range(stage.least):
            await sweep(stage(), "call", "anyio scope", cancel_at)
