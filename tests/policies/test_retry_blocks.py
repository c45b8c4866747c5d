"""`async for attempt in retry: with attempt: ...`: what leaves the block, what does not, and every way out of the loop."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from aiobreaker.budget import RetryBudget
from aiobreaker.policies.retry import Retry
from aiobreaker.testing import ManualClock, ScriptedDependency

Clock = Callable[[], float]


def totals(retry: Retry) -> tuple[int, int, int, int]:
    seen = retry.snapshot()
    return seen.calls, seen.retries, seen.recovered, sum(seen.gave_up.values())


async def test_attempts_are_numbered_from_1_and_end_with_the_first_success() -> None:
    retry, numbers = Retry(OSError, attempts=5), []
    async for attempt in retry:
        with attempt:
            numbers.append(attempt.number)
            if attempt.number < 3:
                raise OSError
    assert numbers == [1, 2, 3]
    assert totals(retry) == (1, 2, 1, 0)


async def test_the_last_error_leaves_the_loop_as_itself() -> None:
    retry, errors = Retry(OSError, attempts=3), [OSError(number) for number in range(3)]
    with pytest.raises(OSError) as raised:
        async for attempt in retry:
            with attempt:
                raise errors[attempt.number - 1]
    assert raised.value is errors[2]
    assert raised.value.__context__ is None
    assert totals(retry) == (1, 2, 0, 1)


async def test_other_errors_leave_at_once() -> None:
    retry = Retry(OSError)
    for error in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            async for attempt in retry:
                with attempt:
                    raise error
        assert raised.value is error
    assert totals(retry) == (2, 0, 0, 0)


async def test_it_waits_between_attempts(clock: Clock) -> None:
    began, moments = clock(), []
    async for attempt in Retry(OSError, backoff=[1, 5]):
        moments.append(clock() - began)
        with attempt:
            if attempt.number < 3:
                raise OSError
    assert moments == [0, 1, 6]


async def test_a_loop_may_be_left_from_inside_the_block() -> None:
    retry, passes = Retry(OSError), 0

    async def by_return() -> int:
        async for attempt in retry:
            with attempt:
                if attempt.number == 2:
                    return attempt.number
                raise OSError
        raise AssertionError

    assert await by_return() == 2
    async for attempt in retry:
        with attempt:
            passes += 1
            break
    async for attempt in retry:
        with attempt:
            passes += 1
            continue
    async for _ in retry:
        break
    assert passes == 2
    assert totals(retry) == (4, 1, 1, 0)


async def test_each_loop_begins_anew_also_inside_another() -> None:
    retry, numbers = Retry(OSError, attempts=2), []
    with pytest.raises(OSError):
        async for outer in retry:
            with outer:
                async for inner in retry:
                    with inner:
                        numbers.append((outer.number, inner.number))
                        raise OSError
    assert numbers == [(1, 1), (1, 2), (2, 1), (2, 2)]


async def test_loops_at_once_do_not_disturb_one_another() -> None:
    retry, numbers = Retry(OSError, attempts=4, backoff=1), []

    async def work() -> None:
        async for attempt in retry:
            with attempt:
                numbers.append(attempt.number)
                if attempt.number < 4:
                    raise OSError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        tasks.start_soon(work)
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4]


async def test_an_error_caught_outside_of_the_block_ends_the_loop() -> None:
    passes = 0
    async for attempt in Retry(OSError):
        passes += 1
        try:
            with attempt:
                raise ValueError
        except ValueError:
            pass
    assert passes == 1


async def test_what_comes_after_the_block_runs_after_each_attempt() -> None:
    after: list[int] = []
    async for attempt in Retry(OSError):
        with attempt:
            if attempt.number < 3:
                raise OSError
        after.append(attempt.number)
    assert after == [1, 2, 3]


# -- results


def bad(result: object) -> bool:
    return isinstance(result, str)


async def test_check_ends_the_block_of_a_bad_result() -> None:
    retry, dependency = Retry(OSError, retry_if=bad), ScriptedDependency("bad", "bad", 5)
    behind: list[Any] = []
    async for attempt in retry:
        with attempt:
            result = attempt.check(await dependency())
            behind.append(result)
    assert behind == [5]
    assert totals(retry) == (1, 2, 1, 0)


async def test_check_gives_the_last_bad_result_back() -> None:
    retry, dependency = Retry(OSError, attempts=2, retry_if=bad), ScriptedDependency("bad", "worse")
    behind: list[Any] = []
    async for attempt in retry:
        with attempt:
            behind.append(attempt.check(await dependency()))
            behind.append(attempt.check("as it is"))
    assert behind == ["worse", "as it is"]
    assert totals(retry) == (1, 1, 0, 1)


async def test_what_is_raised_after_a_last_bad_result_is_raised() -> None:
    retry = Retry(OSError, attempts=2, retry_if=bad)
    error = OSError()
    with pytest.raises(OSError) as raised:
        async for attempt in retry:
            with attempt:
                attempt.check("bad")
                raise error
    assert raised.value is error
    assert totals(retry) == (1, 1, 0, 1)


async def test_check_without_a_rule_takes_everything() -> None:
    async for attempt in Retry(OSError):
        with attempt:
            assert attempt.check("bad") == "bad"


async def test_check_passes_by_what_handles_errors_on_the_way() -> None:
    handled: list[BaseException] = []
    cleaned: list[int] = []
    async for attempt in Retry(OSError, retry_if=bad):
        with attempt:
            try:
                attempt.check("bad" if attempt.number < 3 else 5)
            except Exception as error:
                handled.append(error)
            finally:
                cleaned.append(attempt.number)
    assert handled == []
    assert cleaned == [1, 2, 3]


async def test_check_passes_through_task_groups() -> None:
    numbers: list[int] = []
    async for attempt in Retry(OSError, retry_if=bad):
        with attempt:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                numbers.append(attempt.number)
                attempt.check("bad" if attempt.number < 3 else 5)
                tasks.cancel_scope.cancel()
    assert numbers == [1, 2, 3]


async def test_an_error_beside_a_bad_result_is_retried_if_it_is_retryable() -> None:
    retry, numbers = Retry(OSError, retry_if=bad), []

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError

    async for attempt in retry:
        with attempt:
            numbers.append(attempt.number)
            async with anyio.create_task_group() as tasks:
                if attempt.number < 3:
                    tasks.start_soon(fail)
                    await anyio.lowlevel.checkpoint()
                    attempt.check("bad")
    assert numbers == [1, 2, 3]
    async for attempt in retry:
        with attempt:
            try:
                attempt.check("bad" if attempt.number < 3 else 5)
            finally:
                if attempt.number < 3:
                    raise OSError
    assert attempt.number == 3


async def test_another_error_beside_a_bad_result_is_raised_without_what_belongs_to_us() -> None:
    retry = Retry(OSError, retry_if=bad)

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError

    with pytest.raises(BaseExceptionGroup) as raised:
        async for attempt in retry:
            with attempt:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(fail)
                    await anyio.lowlevel.checkpoint()
                    attempt.check("bad")
    assert [type(error) for error in raised.value.exceptions] == [ValueError]
    with pytest.raises(ValueError):
        async for attempt in retry:
            with attempt:
                try:
                    attempt.check("bad")
                finally:
                    raise ValueError
    assert totals(retry) == (2, 0, 0, 0)


async def test_who_swallows_everything_does_not_stop_it() -> None:
    numbers: list[int] = []
    async for attempt in Retry(OSError, retry_if=bad):
        with attempt:
            numbers.append(attempt.number)
            with suppress(BaseException):
                attempt.check("bad" if attempt.number < 3 else 5)
    assert numbers == [1, 2, 3]


# -- mistakes


async def test_a_body_without_the_block_does_not_loop_for_ever() -> None:
    passes = 0
    with pytest.raises(RuntimeError, match=r"attempt 1 was not made: what is retried stands inside `with attempt: \.\.\.`"):
        async for _ in Retry(OSError):
            passes += 1
    assert passes == 1


async def test_a_block_that_was_forgotten_later_is_found_too() -> None:
    with pytest.raises(RuntimeError, match="attempt 2 was not made"):
        async for attempt in Retry(OSError):
            if attempt.number == 1:
                with attempt:
                    raise OSError


async def test_an_attempt_is_made_once() -> None:
    async for attempt in Retry(OSError):
        with attempt:
            pass
        with pytest.raises(RuntimeError, match="attempt 1 was made already"), attempt:
            pass


async def test_check_belongs_inside_the_block() -> None:
    async for attempt in Retry(OSError):
        with pytest.raises(RuntimeError, match=r"check\(\) belongs inside the block"):
            attempt.check(5)
        with attempt:
            assert attempt.check(5) == 5
        with pytest.raises(RuntimeError, match=r"check\(\) belongs inside the block"):
            attempt.check(5)


async def test_the_end_of_a_loop_is_its_end() -> None:
    attempts = aiter(Retry(OSError))
    assert aiter(attempts) is attempts
    with await anext(attempts):
        pass
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(attempts)


# -- what it has in common with calls


async def test_budget_and_total_time_hold_for_blocks(clock: Clock) -> None:
    budget = RetryBudget(1, minimum_per_second=0, clock=ManualClock())
    retry = Retry(OSError, attempts=9, backoff=2, budget=budget)
    with pytest.raises(OSError):
        async for attempt in retry:
            with attempt:
                raise OSError(attempt.number)
    assert retry.snapshot().gave_up["budget"] == 1
    timed = Retry(OSError, attempts=9, backoff=2, total_time=5, clock=clock)
    with pytest.raises(OSError):
        async for attempt in timed:
            with attempt:
                raise OSError(attempt.number)
    assert attempt.number == 3
    assert timed.snapshot().gave_up["total_time"] == 1
