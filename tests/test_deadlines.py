"""What is left of the time, for whoever asks, wherever; and blocks that must end in time."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec
from math import inf
from types import ModuleType

import anyio
import anyio.lowlevel
import pytest
import trio

from aiobreaker import deadlines
from aiobreaker.deadlines import TimeLimit, remaining
from aiobreaker.testing import VirtualTimeLoop


class TimeIsUpError(Exception):
    pass


def limit(seconds: float) -> TimeLimit:
    return TimeLimit(seconds, lambda: TimeIsUpError(f"{seconds:g} s"))


@pytest.fixture(params=["fresh", "in use"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """As it is after the import, before anybody has used it, and later."""
    if request.param == "in use":
        return deadlines
    spec = deadlines.__spec__
    assert spec is not None
    assert spec.loader is not None
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh


# -- what is left


async def test_without_a_deadline_there_is_no_end(module: ModuleType) -> None:
    assert module.remaining() == inf


async def test_the_nearest_deadline_counts_whoever_set_it(module: ModuleType) -> None:
    with anyio.move_on_after(9):
        assert module.remaining() == pytest.approx(9)
        async with limit(5):
            assert module.remaining() == pytest.approx(5)
            with anyio.fail_after(7):
                await anyio.sleep(2)
                assert module.remaining() == pytest.approx(3)
            async with limit(1):
                assert module.remaining() == pytest.approx(1)
            assert module.remaining() == pytest.approx(3)
        assert module.remaining() == pytest.approx(7)
    assert module.remaining() == inf


async def test_trio_sets_deadlines_too(anyio_backend_name: str) -> None:
    if anyio_backend_name == "trio":
        with trio.move_on_after(4):
            assert remaining() == pytest.approx(4)
    else:
        async with asyncio.timeout(4):
            assert remaining() == inf


async def test_a_shield_hides_what_is_outside() -> None:
    async with limit(5):
        with anyio.CancelScope(shield=True):
            assert remaining() == inf
            async with limit(8):
                assert remaining() == pytest.approx(8)


async def test_child_tasks_are_bound_too() -> None:
    left: list[float] = []

    async def child() -> None:
        left.append(remaining())
        await anyio.sleep_forever()

    with pytest.raises(TimeIsUpError):
        async with limit(3), anyio.create_task_group() as tasks:
            await anyio.sleep(1)
            tasks.start_soon(child)
    assert left == [pytest.approx(2)]


async def test_nothing_is_left_of_what_is_over_or_cancelled() -> None:
    with anyio.move_on_after(0):
        assert remaining() == 0
    with anyio.move_on_after(5) as scope:
        scope.cancel()
        assert remaining() == 0
    with anyio.CancelScope(deadline=anyio.current_time() - 1):
        assert remaining() == 0


async def test_a_callback_of_asyncio_is_in_no_scope(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        return
    left: list[float] = []
    async with limit(5):
        asyncio.get_running_loop().call_soon(lambda: left.append(remaining()))
        await anyio.sleep(1)
    assert left == [inf]


def test_without_an_event_loop_nothing_can_be_said(module: ModuleType) -> None:
    with pytest.raises(RuntimeError):
        module.remaining()
    with pytest.raises(RuntimeError):
        module.scope_after(1)


# -- the scope


async def test_the_scope_is_what_anyio_makes(module: ModuleType) -> None:
    for _ in range(2):
        made, theirs = module.scope_after(2.5), anyio.move_on_after(2.5)
        assert type(made) is type(theirs)
        assert (made.deadline, made.shield) == (theirs.deadline, theirs.shield)
        assert known(made) == known(theirs)
        began = anyio.current_time()
        with made:
            await anyio.sleep_forever()
        assert made.cancelled_caught
        assert anyio.current_time() - began == pytest.approx(2.5)


def known(scope: anyio.CancelScope) -> dict[str, object]:
    """All that a scope knows."""
    return {name: getattr(scope, name) for name in getattr(type(scope), "__slots__", ()) if hasattr(scope, name)}


def test_in_turn_under_both_backends(module: ModuleType) -> None:
    async def look() -> tuple[str, float]:
        with module.scope_after(3) as scope:
            return type(scope).__module__.rpartition(".")[2], round(module.remaining())

    def under_asyncio() -> tuple[str, float]:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(look())

    for _ in range(2):
        assert under_asyncio() == ("_asyncio", 3)
        assert trio.run(look) == ("_trio", 3)


def test_under_trio_as_a_guest_of_asyncio_both_have_their_own(module: ModuleType) -> None:
    async def look() -> tuple[str, float]:
        with module.scope_after(3) as scope:
            await anyio.lowlevel.checkpoint()
            return type(scope).__module__.rpartition(".")[2], round(module.remaining())

    async def host() -> tuple[object, object]:
        done: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            look,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=lambda outcome: done.set_result(outcome.unwrap()),
        )
        return await done, await look()

    assert asyncio.run(host()) == (("_trio", 3), ("_asyncio", 3))


def test_where_asyncio_is_not_loaded_nobody_asks_it(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> float:
        with module.scope_after(3):
            return float(round(module.remaining()))

    monkeypatch.setattr(module, "modules", {})
    monkeypatch.setattr(module, "_running_loop", module._first_running_loop)
    assert trio.run(look) == 3
    assert module._running_loop is module._first_running_loop


LOADS = """
import sys
import trio
from aiobreaker.deadlines import remaining, scope_after
async def main():
    with scope_after(1):
        remaining()
    print("asyncio" in sys.modules)
trio.run(main)
"""


def test_under_trio_asyncio_is_not_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


# -- blocks


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    async with limit(2):
        await anyio.sleep(1)
    async with limit(2):
        pass
    await anyio.sleep(5)


async def test_a_block_that_takes_too_long_is_cancelled_and_awaited() -> None:
    steps: list[object] = []
    began = anyio.current_time()
    with pytest.raises(TimeIsUpError, match="2 s") as raised:
        async with limit(2):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(1)
                steps.append("cleaned up")
    assert steps == ["cleaned up"]
    assert anyio.current_time() - began == pytest.approx(3)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("error", [OSError("own"), TimeoutError("own"), TimeIsUpError("own")])
async def test_errors_of_the_block_itself_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        async with limit(2):
            raise error
    assert raised.value is error


async def test_an_error_beside_the_end_of_time_passes() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with limit(2), anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            try:
                await anyio.sleep_forever()
            finally:
                raise OSError("while cancelled")
    assert [type(error) for error in raised.value.exceptions] == [OSError]


async def test_of_blocks_inside_one_another_the_nearest_end_counts() -> None:
    for inner, outer, first in ((1, 3, "1 s"), (3, 1, "1 s"), (2, 2, "2 s")):
        with pytest.raises(TimeIsUpError, match=first):
            async with limit(outer), limit(inner):
                await anyio.sleep_forever()


async def test_a_cancellation_from_outside_is_not_the_end_of_time() -> None:
    told: list[str] = []
    with anyio.move_on_after(1) as scope:
        async with TimeLimit(2, lambda: told.append("expired") or TimeIsUpError()):  # type: ignore[func-returns-value]
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert told == []


async def test_every_block_needs_its_own() -> None:
    block = limit(2)
    with pytest.raises(RuntimeError, match="not been entered yet"):
        block.remaining()
    async with block:
        with pytest.raises(RuntimeError, match="entered already"):
            await block.__aenter__()
    with pytest.raises(RuntimeError, match="entered already"):
        await block.__aenter__()


async def test_a_block_knows_what_is_left_of_it() -> None:
    async with limit(5) as outer:
        assert outer.remaining() == pytest.approx(5)
        async with limit(9) as inner:
            assert inner.remaining() == pytest.approx(5)
        with anyio.fail_after(2):
            assert outer.remaining() == pytest.approx(2)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(4)
            assert outer.remaining() == pytest.approx(1)
    await anyio.sleep(4)
    assert outer.remaining() == 0


Ask = Callable[[], float]


async def test_a_handle_on_a_block_works_in_other_tasks() -> None:
    left: list[float] = []

    async def elsewhere(ask: Ask) -> None:
        left.append(ask())

    async with anyio.create_task_group() as tasks, limit(5) as block:
        await anyio.sleep(2)
        tasks.start_soon(elsewhere, block.remaining)
        await anyio.sleep(1)
    assert left == [pytest.approx(3)]


def test_an_anyio_that_hides_its_backend_is_used_by_its_public_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "_trio", deadlines._PUBLIC)

    async def main() -> None:
        assert deadlines.remaining() == inf
        with deadlines.scope_after(5) as scope:
            assert 0 < deadlines.remaining() <= 5
            await anyio.sleep(10)
        assert scope.cancelled_caught

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
