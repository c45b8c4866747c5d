"""Retry against a plain model of what it promises, in virtual time; and cancelled at every moment of a call."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker import RefusedError
from aiobreaker.errors import RateLimitedError
from aiobreaker.policies.retry import Retry
from aiobreaker.testing import Answer, ScriptedDependency

from .. import virtual
from ..core.strategies import examples

Way = Callable[[Retry, Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def called(retry: Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await retry.call(fn)


async def decorated(retry: Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    @retry
    async def function() -> Any:
        return await fn()

    return await function()


async def as_block(retry: Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    async for attempt in retry:
        with attempt:
            return attempt.check(await fn())
    raise AssertionError


WAYS: list[Way] = [called, decorated, as_block]


# -- against a model


@dataclass(frozen=True)
class Step:
    kind: str
    lasts: float


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]
    attempts: float
    total_time: float
    delays: tuple[float, ...]
    wait_when_refused: bool
    deadline: float


HINT, REFUSED_FOR = 4.0, 3.0

plans = st.builds(
    Plan,
    st.lists(
        st.builds(
            Step, st.sampled_from(["fine", "bad", "error", "hinted", "other", "refused"]), st.sampled_from([0.0, 1.0, 2.0])
        ),
        max_size=6,
    ).map(tuple),
    st.sampled_from([1, 2, 3, 4, inf]),
    st.sampled_from([0.0, 3.0, 5.0, 9.0, inf, inf]),
    st.lists(st.sampled_from([0.0, 1.0, 5.0]), min_size=1, max_size=6).map(tuple),
    st.booleans(),
    st.sampled_from([0.5, 4.5, 8.5, inf, inf]),
)


@dataclass
class End:
    """How a call ended: after how many attempts, with what, when, and why there were no more."""

    attempts: int
    kind: str
    at: float
    reason: str = ""


def expected(plan: Plan) -> End:
    now, made, used = 0.0, 0, 0
    while True:
        step = plan.steps[made] if made < len(plan.steps) else Step("fine", 0.0)
        made += 1
        if now + step.lasts > plan.deadline:
            return End(made, "cancelled", plan.deadline)
        now += step.lasts
        if step.kind in {"fine", "other"} or (step.kind == "refused" and not plan.wait_when_refused):
            return End(made, step.kind, now)
        if plan.attempts == 1:
            return End(made, step.kind, now)
        if made >= plan.attempts:
            return End(made, step.kind, now, "attempts")
        if step.kind == "refused":
            delay = REFUSED_FOR
        elif used >= len(plan.delays):
            return End(made, step.kind, now, "backoff")
        else:
            delay = max(plan.delays[used], HINT if step.kind == "hinted" else 0.0)
            used += 1
        if now + delay > plan.total_time:
            return End(made, step.kind, now, "total_time")
        if now + delay >= plan.deadline:
            return End(made, step.kind, now, "deadline")
        now += delay


async def observed(plan: Plan, way: Way) -> tuple[End, Retry]:
    results: dict[str, object] = {
        "fine": "fine",
        "bad": "bad",
        "error": OSError("error"),
        "hinted": OSError("hinted"),
        "other": ValueError("other"),
        "refused": RateLimitedError("refused", "", REFUSED_FOR),
    }
    dependency = ScriptedDependency(*(Answer(results[step.kind], step.lasts) for step in plan.steps), "fine")
    retry = Retry(
        OSError,
        attempts=plan.attempts,
        total_time=plan.total_time,
        backoff=plan.delays,
        retry_if=lambda result: result == "bad",
        retry_after=lambda subject: HINT if str(subject) == "hinted" else None,
        wait_when_refused=plan.wait_when_refused,
        clock=anyio.current_time,
    )
    began, kind = anyio.current_time(), "cancelled"
    with anyio.move_on_after(plan.deadline):
        try:
            kind = await way(retry, dependency)
        except (OSError, ValueError) as error:
            kind = str(error)
        except RefusedError:
            kind = "refused"
    reasons = [reason for reason, times in retry.snapshot().gave_up.items() if times]
    return End(len(dependency.calls), kind, anyio.current_time() - began, "".join(reasons)), retry


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_it_does_what_the_model_does(backend: str, way: Way) -> None:
    @settings(max_examples=examples(150), deadline=None)
    @given(plans)
    def check(plan: Plan) -> None:
        end, retry = virtual.run(backend, observed, plan, way)
        model = expected(plan)
        assert end.at == pytest.approx(model.at)
        end.at = model.at
        assert end == model
        seen = retry.snapshot()
        assert (seen.calls, seen.retries) == (1, model.attempts - 1)
        assert seen.recovered == (model.kind == "fine" and model.attempts > 1)
        assert sum(seen.gave_up.values()) == bool(model.reason)

    check()


# -- cancelled at every moment


SECONDS = [number / 2 for number in range(11)]


class Work:
    """Two failures, then a success; each attempt takes a second, and yields before and after."""

    def __init__(self) -> None:
        self.began = self.ended = 0

    async def __call__(self) -> str:
        self.began += 1
        try:
            await checkpoint()
            await anyio.sleep(1)
            await checkpoint()
        finally:
            self.ended += 1
        if self.began < 3:
            raise OSError
        return "fine"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("seconds", SECONDS)
async def test_whenever_it_is_cancelled_it_ends_there(way: Way, seconds: float, steps: int) -> None:
    retry, work, results = Retry(Exception, backoff=1, total_time=100), Work(), []
    scope = anyio.CancelScope()

    async def call() -> None:
        with scope:
            results.append(await way(retry, work))

    with anyio.fail_after(1000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.sleep(seconds)
            for _ in range(steps):
                await checkpoint()
            scope.cancel()
            began = work.began
            before = anyio.current_time()
        assert anyio.current_time() == before, "nothing holds it up"
        assert work.began == work.ended
        assert work.began <= began + 1, "one whose wait is over may begin, and ends at its first await"
        seen = retry.snapshot()
        assert seen.calls == 1
        assert seen.retries == max(0, work.began - 1)
        assert seen.recovered == len(results)
        assert scope.cancelled_caught is not bool(results)
        assert not any(seen.gave_up.values())
        with suppress(OSError):
            await way(retry, Work())
        assert retry.snapshot().recovered == len(results) + 1
