"""Recovery probes and maintenance of breakers that stand above others: run once, and for all of them."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, Outcome, State
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency, record_events

from .test_parents_waiting import Clock, await_with_guard, family, fine, probed, refusal_of, turns_during

# -- probes


async def test_a_tight_loop_of_refusals_lets_others_run_also_at_a_child_whose_probe_is_due_under_an_open_parent() -> None:
    clock = ManualClock()
    registry = probed(clock, {"x": fine})
    child, parent = registry["x"], registry["middle"]
    child.open(1)
    parent.open(1000)
    clock.advance(1)

    async def insist() -> None:
        for _ in range(640):
            with pytest.raises(CircuitOpenError):
                await child.call(fine)

    assert await turns_during(insist) >= 9


@pytest.mark.parametrize("max_wait", [0.0, 60.0])
@pytest.mark.parametrize("where", ["x", "middle", "top"])
async def test_the_probe_of_any_of_them_runs_once_and_then_the_call_is_admitted(
    where: str, max_wait: float, clock: Clock
) -> None:
    probe = ScriptedDependency(Answer(True, after=2.0))
    registry = probed(clock, {where: probe})
    registry[where].open(5)
    await anyio.sleep(5)
    await await_with_guard(registry["x"], max_wait)
    assert len(probe.calls) == 1
    assert registry[where].state is State.CLOSED
    for key in ("x", "middle", "top"):
        seen = registry[key].snapshot()
        probes = key in {"x": ("x", "middle", "top"), "middle": ("middle", "top"), "top": ("top",)}[where]
        assert (seen.in_flight, seen.totals.successes) == (0, 1 + probes)


async def test_while_a_parents_probe_runs_all_its_children_are_refused_or_wait(clock: Clock) -> None:
    probe = ScriptedDependency(Answer(True, after=2.0))
    registry = probed(clock, {"top": probe})
    registry["top"].open(5)
    await anyio.sleep(5)
    served: list[str] = []

    async def patient(key: str) -> None:
        await await_with_guard(registry[key], 60)
        served.append(key)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(patient, "x")
        await anyio.wait_all_tasks_blocked()
        for key in ("x", "y", "z", "middle", "top"):
            assert (await refusal_of(registry[key])).name == "top"
        tasks.start_soon(patient, "y")
        tasks.start_soon(patient, "z")
    assert (len(probe.calls), probe.most_running) == (1, 1)
    assert sorted(served) == ["x", "y", "z"]


async def test_a_probe_that_says_no_reopens_and_nobody_below_ran(clock: Clock) -> None:
    registry = probed(clock, {"middle": ScriptedDependency(Answer(False, after=2.0))})
    registry["middle"].open(5)
    await anyio.sleep(5)
    assert (await refusal_of(registry["x"])).name == "middle"
    assert registry["middle"].state is State.OPEN
    totals = {key: registry[key].snapshot().totals for key in ("x", "middle", "top")}
    assert totals["x"].failures == 0
    assert totals["middle"].failures == totals["top"].failures == 1
    assert [registry[key].snapshot().in_flight for key in ("x", "middle", "top")] == [0, 0, 0]


async def test_a_cancelled_probe_gives_every_slot_back(clock: Clock) -> None:
    registry = probed(clock, {"x": ScriptedDependency(Answer(True, after=2.0))})
    for key in ("x", "middle", "top"):
        registry[key].open(5)
    await anyio.sleep(5)
    with anyio.move_on_after(1):
        await registry["x"].call(fine)
    for key in ("x", "middle", "top"):
        seen = registry[key].snapshot()
        assert (seen.state, seen.in_flight, seen.totals.cancelled) == (State.HALF_OPEN, 0, 1)
    assert await registry["x"].call(fine) == "fine"
    assert {registry[key].state for key in ("x", "middle", "top")} == {State.CLOSED}


WAYS_TO_ASK: dict[str, Callable[[CircuitBreaker], Awaitable[object]]] = {
    "call": lambda breaker: breaker.call(fine),
    "acquire": lambda breaker: breaker.acquire(),
    "guard": lambda breaker: await_with_guard(breaker, 0.0),
    "patient guard": lambda breaker: await_with_guard(breaker, 1e-6),
}


@pytest.mark.parametrize(
    "way",
    [
        "call",
        "guard",
        "acquire",
        "patient guard",
    ],
)
async def test_a_child_that_refuses_runs_no_probe_of_its_parent(way: str, clock: Clock) -> None:
    probe = ScriptedDependency(True)
    registry = probed(clock, {"middle": probe})
    registry["x"].open(1000)
    registry["middle"].open(5)
    await anyio.sleep(5)
    with pytest.raises(CircuitOpenError) as refusal:
        await WAYS_TO_ASK[way](registry["x"])
    assert refusal.value.name == "x"
    assert len(probe.calls) == 0


async def test_a_parent_with_a_probe_is_not_decided_by_its_childs(clock: Clock) -> None:
    own, childs = ScriptedDependency(False), ScriptedDependency(True)
    registry = probed(clock, {"x": childs, "middle": own})
    registry["x"].open(5)
    registry["middle"].open(5)
    await anyio.sleep(5)
    with suppress(CircuitOpenError):
        await registry["x"].call(fine)
    assert len(own.calls) == 1
    assert registry["middle"].state is State.OPEN


# -- draining


@pytest.mark.parametrize("where", ["x", "middle", "top"])
async def test_maintenance_waits_for_the_calls_of_all_below(where: str, clock: Clock) -> None:
    registry = family(clock)
    began = clock()
    drained: list[float] = []

    async def maintain() -> None:
        async with registry[where].isolated(drain=True):
            drained.append(clock() - began)
            assert registry[where].snapshot().in_flight == 0
            assert (await refusal_of(registry["x"])).name == where

    with record_events(registry["x"], calls=True) as events:
        async with anyio.create_task_group() as tasks:
            for seconds in (3.0, 8.0):
                tasks.start_soon(registry["x"].call, ScriptedDependency(Answer("fine", after=seconds)))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(maintain)
            await anyio.wait_all_tasks_blocked()
            assert registry[where].state is State.FORCED_OPEN
    assert drained == [pytest.approx(8.0)]
    assert registry[where].state is State.CLOSED
    ended = [event for event in events if getattr(event, "outcome", None) is Outcome.SUCCESS]
    assert [getattr(event, "late", None) for event in ended] == [where == "x"] * 2
    assert registry[where].snapshot().totals.late == 2
