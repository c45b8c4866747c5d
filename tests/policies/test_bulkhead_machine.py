"""Plans of callers through a bulkhead, against a slow and obvious model of what becomes of each."""

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import inf

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker.errors import BulkheadFullError
from aiobreaker.policies.bulkhead import Bulkhead

from .. import virtual

TICK = 2.0**-20  # every moment has a multiple of its own, so that no two are the same, and all sums are exact


@dataclass(frozen=True)
class Caller:
    arrives: float
    takes: float
    cancelled_at: float


@dataclass(frozen=True)
class Fate:
    """What becomes of a caller: when its call began (None: never), and when and how it was over."""

    began: float | None
    ended: float
    how: str


@dataclass(frozen=True)
class Plan:
    max_concurrent: int
    max_waiters: int
    max_wait: float
    callers: tuple[Caller, ...]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    callers = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        arrives = draw(st.integers(0, 10)) + number * TICK
        takes = draw(st.integers(0, 6)) + 64 * number * TICK
        patience = draw(st.sampled_from([inf, inf, inf, 0, 1, 2, 5]))
        callers.append(Caller(arrives, takes, int(arrives) + patience + (4096 * number + 2048) * TICK))
    max_waiters = draw(st.integers(0, 6))
    max_wait = draw(st.sampled_from([inf, inf, 1.0, 3.0])) + TICK / 2 if max_waiters else inf
    return Plan(draw(st.integers(1, 4)), max_waiters, max_wait, tuple(callers))


def foretell(plan: Plan) -> list[Fate]:
    """One event after another."""
    fates = [Fate(None, -inf, "")] * len(plan.callers)
    inside: set[int] = set()
    line: list[int] = []
    moments = [(caller.arrives, "arrives", number) for number, caller in enumerate(plan.callers)]
    moments += [(caller.cancelled_at, "cancelled", number) for number, caller in enumerate(plan.callers)]
    heapify(moments)

    def over(now: float, how: str, number: int) -> None:
        fates[number] = replace(fates[number], ended=now, how=how)

    while moments:
        now, what, number = heappop(moments)
        if what == "arrives":
            if now < plan.callers[number].cancelled_at:
                if len(line) < plan.max_waiters or (not line and len(inside) < plan.max_concurrent):
                    line.append(number)
                    heappush(moments, (now + plan.max_wait, "refused", number))
                else:
                    over(now, "refused", number)
        elif number in inside and what in {"done", "cancelled"}:
            inside.remove(number)
            over(now, what, number)
        elif number in line:
            line.remove(number)
            over(now, what, number)
        while line and len(inside) < plan.max_concurrent:
            head = line.pop(0)
            inside.add(head)
            fates[head] = replace(fates[head], began=now)
            heappush(moments, (now + plan.callers[head].takes, "done", head))
    return fates


async def live(plan: Plan, decorate: bool) -> tuple[list[Fate], int, Bulkhead]:
    bulkhead = Bulkhead(plan.max_concurrent, max_waiters=plan.max_waiters, max_wait=plan.max_wait)
    fates: list[Fate] = [Fate(None, -inf, "")] * len(plan.callers)
    start = anyio.current_time()
    inside = most = 0

    async def work(number: int) -> None:
        nonlocal inside, most
        fates[number] = replace(fates[number], began=anyio.current_time() - start)
        inside += 1
        most = max(most, inside)
        try:
            await anyio.sleep_until(anyio.current_time() + plan.callers[number].takes)
        finally:
            inside -= 1

    decorated = bulkhead(work)

    async def visit(number: int) -> None:
        caller = plan.callers[number]
        how = "cancelled"
        await anyio.sleep_until(start + caller.arrives)
        with anyio.CancelScope(deadline=start + caller.cancelled_at):
            try:
                await (decorated(number) if decorate else bulkhead.call(work, number))
                how = "done"
            except BulkheadFullError:
                how = "refused"
        fates[number] = replace(fates[number], ended=anyio.current_time() - start, how=how)

    async with anyio.create_task_group() as tasks:
        for number in range(len(plan.callers)):
            tasks.start_soon(visit, number)
    return fates, most, bulkhead


@pytest.mark.parametrize("backend", virtual.BACKENDS)
@given(plan=plans(), decorate=st.booleans())
def test_every_caller_fares_as_foretold(backend: str, plan: Plan, decorate: bool) -> None:
    fates, most, bulkhead = virtual.run(backend, live, plan, decorate)
    assert fates == foretell(plan)
    assert most <= plan.max_concurrent
    seen = bulkhead.snapshot()
    assert (seen.running, seen.waiting) == (0, 0)
    assert seen.refused == sum(fate.how == "refused" for fate in fates)
