"""Hedge and asyncio's own cancellation, which goes to a task and knows no scopes."""

import asyncio
import gc
import weakref

import pytest

from aiobreaker.policies.hedge import Hedge

from .. import virtual


@pytest.mark.parametrize("at", [0, 0.5, 1.5, 2.5])
def test_a_cancelled_task_cancels_and_awaits_all_attempts(at: float) -> None:
    inside = []

    async def call() -> None:
        inside.append(1)
        try:
            await asyncio.sleep(9)
        finally:
            inside.pop()

    async def main() -> None:
        task = asyncio.create_task(Hedge(1.0, attempts=3).call(call))
        await asyncio.sleep(at)
        assert len(inside) == int(at) + 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inside == []
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(9)  # no timer is left

    virtual.run("asyncio", main)


def test_a_timeout_of_asyncio_around_and_inside_of_it() -> None:
    async def call(limit: float) -> None:
        async with asyncio.timeout(limit):
            await asyncio.sleep(9)

    async def main() -> None:
        for outer, inner in ((0.5, 7), (1.5, 7), (7, 0.5), (7, 1.5)):
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(outer):
                    await Hedge(1.0).call(call, inner)
            assert loop.time() - began == pytest.approx(min(outer, inner + (inner > 1)))
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    virtual.run("asyncio", main)


def test_the_task_that_has_been_cancelled_stays_so_though_an_attempt_has_won_at_the_same_moment() -> None:
    async def call() -> None:
        await asyncio.sleep(9 if next(numbers) == 1 else 1)

    numbers = iter([1, 2])

    async def main() -> None:
        task = asyncio.create_task(Hedge(1.0).call(call))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(2, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1

    virtual.run("asyncio", main)


def test_an_extra_attempt_that_is_cancelled_by_itself_has_failed_and_no_more() -> None:
    async def call(error: Exception | None) -> str:
        if next(numbers) == 1:
            await asyncio.sleep(3)
            if error is not None:
                raise error
            return "first"
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(1, future.cancel)
        await future
        raise AssertionError("a cancelled future has no result")

    numbers = iter([1, 2])

    async def main() -> None:
        nonlocal numbers
        assert await Hedge(1.0).call(call, None) == "first"
        numbers = iter([1, 2])
        with pytest.raises(OSError) as raised:
            await Hedge(1.0).call(call, OSError())
        assert raised.value.__notes__ == ["hedge: attempt 2 failed too: CancelledError"]

    virtual.run("asyncio", main)


def test_the_first_attempt_that_is_cancelled_by_itself_ends_the_call_as_without_a_hedge() -> None:
    async def call() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(2, future.cancel)
        await future

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await Hedge(1.0).call(call)
        assert len(asyncio.all_tasks()) == 1

    virtual.run("asyncio", main)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # as it always is of a task that never began
def test_an_extra_task_that_is_cancelled_before_it_begins_does_not_lose_the_call_in_silence() -> None:
    async def call() -> None:
        await asyncio.sleep(9)

    async def main() -> None:
        here = asyncio.current_task()

        def cancel_the_others() -> None:
            for task in asyncio.all_tasks() - {here}:
                task.cancel()

        asyncio.get_running_loop().call_later(1, cancel_the_others)
        with pytest.raises(asyncio.CancelledError, match="from outside"):
            await Hedge(1 - 1e-10).call(call)  # in the same turn of the loop, and before

    virtual.run("asyncio", main)
    gc.collect()


@pytest.mark.parametrize("after", [0, 0.5, 2])
@pytest.mark.parametrize("kind", [Exception, BaseException])
def test_an_error_is_not_kept_alive(after: float, kind: type[BaseException]) -> None:
    alive: list[weakref.ref[BaseException]] = []

    class MarkedError(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            alive.append(weakref.ref(self))

    async def fails() -> None:
        if after:
            await asyncio.sleep(after)
        raise MarkedError

    async def main() -> None:
        with pytest.raises(MarkedError):
            await Hedge(1.0).call(fails)

    gc.collect()
    gc.disable()
    try:
        virtual.run("asyncio", main)
        assert alive
        assert not [error for error in alive if error() is not None]
    finally:
        gc.enable()
