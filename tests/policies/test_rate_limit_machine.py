"""Plans of callers through a rate limit, against a slow and obvious model in exact numbers."""

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import inf

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.errors import RateLimitedError
from aiobreaker.policies.rate_limit import RateLimit, RateLimitSnapshot

from .. import virtual

TICK = 2.0**-12  # so that no two callers come at once, and all sums are exact


@dataclass(frozen=True)
class Caller:
    key: str
    arrives: float
    patience: float = inf


@dataclass(frozen=True)
class Plan:
    calls: int
    burst: int
    max_wait: float
    callers: tuple[Caller, ...]


@st.composite
def plans(draw: st.DrawFn, patience: st.SearchStrategy[float]) -> Plan:
    numbers = range(draw(st.integers(1, 15)))
    callers = [Caller(draw(st.sampled_from("aab")), draw(st.integers(0, 16)) / 8 + n * TICK, draw(patience)) for n in numbers]
    callers.sort(key=lambda caller: caller.arrives)
    max_wait = draw(st.sampled_from([0.0, 0.5, 1.0, inf]))
    return Plan(draw(st.sampled_from([1, 2, 4, 8])), draw(st.integers(1, 5)), max_wait, tuple(callers))


@dataclass(frozen=True)
class Fate:
    """When a caller passes, or what it is told when it is refused: after how many seconds it could have passed."""

    passed: float | None = None
    retry_after: float | None = None


def foretell(plan: Plan) -> list[Fate]:
    """Everybody passes as soon as that leaves room for those who came before, or is refused if it would take too long."""
    fates: list[Fate] = []
    before: dict[str, list[float]] = {}
    for caller in plan.callers:
        passed = before.setdefault(caller.key, [])
        at = max([caller.arrives, *passed])
        for place, earlier in enumerate(passed):
            at = max(at, earlier + (len(passed) - place + 1 - plan.burst) / plan.calls)
        if at - caller.arrives <= plan.max_wait:
            passed.append(at)
            fates.append(Fate(passed=at))
        else:
            fates.append(Fate(retry_after=at - caller.arrives))
    return fates


async def live(plan: Plan, way: str) -> tuple[list[Fate], RateLimitSnapshot]:
    def key(number: int) -> str:
        return plan.callers[number].key

    limit = RateLimit(plan.calls, burst=plan.burst, max_wait=plan.max_wait, key=key, clock=anyio.current_time)
    fates = [Fate()] * len(plan.callers)
    start = anyio.current_time()

    async def work(number: int) -> None:
        fates[number] = Fate(passed=anyio.current_time() - start)

    decorated = limit(work)

    async def visit(number: int) -> None:
        caller = plan.callers[number]
        await anyio.sleep_until(start + caller.arrives)
        with anyio.move_on_after(caller.patience):
            try:
                if way == "decorated":
                    await decorated(number)
                elif way == "called":
                    await limit.call(work, number)
                else:
                    async with limit.guard(key=caller.key):
                        await work(number)
            except RateLimitedError as error:
                fates[number] = Fate(retry_after=error.retry_after)

    async with anyio.create_task_group() as tasks:
        for number in range(len(plan.callers)):
            tasks.start_soon(visit, number)
    return fates, limit.snapshot()


ways = st.sampled_from(["decorated", "called", "block"])


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@given(plan=plans(st.just(inf)), way=ways)
def test_every_caller_fares_as_foretold(backend: str, plan: Plan, way: str) -> None:
    fates, seen = virtual.run(backend, live, plan, way)
    assert fates == foretell(plan)
    assert seen.waiting == 0
    assert seen.refused == sum(fate.passed is None for fate in fates)


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@given(plan=plans(st.sampled_from([0.1, 0.3, 1.1, inf, inf])), way=ways)
def test_whoever_gives_up_the_law_is_kept_and_the_order_too(backend: str, plan: Plan, way: str) -> None:
    fates, seen = virtual.run(backend, live, plan, way)
    together = list(zip(fates, plan.callers, strict=True))
    for key in "ab":
        times = [fate.passed for fate, caller in together if fate.passed is not None and caller.key == key]
        assert times == sorted(times)
        for (i, first), (j, last) in combinations(enumerate(times), 2):
            most = plan.burst + (Fraction(last) - Fraction(first)) * plan.calls
            assert j - i + 1 <= most + Fraction(1, 900_000)
    for fate, caller in together:
        assert fate.passed is None or fate.passed - caller.arrives <= plan.max_wait
    assert seen.waiting == 0
