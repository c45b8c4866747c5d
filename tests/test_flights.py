"""One running call for each key: what errors carry, who would wait for itself, and what is left in the end."""

import gc
import inspect
import traceback
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker.flights import INSIDE, Flights, enclosing
from aiobreaker.policies.cache import Cache
from aiobreaker.policies.coalesce import Coalesce

Sharing = Callable[[Callable[..., Any]], Callable[..., Any]]


def called(fn: Callable[..., Any]) -> Callable[..., Any]:
    coalesce = Coalesce()

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await coalesce.call(fn, *args, **kwargs)

    return call


def coalesced(fn: Callable[..., Any]) -> Callable[..., Any]:
    return Coalesce()(fn)


def cached(fn: Callable[..., Any]) -> Callable[..., Any]:
    return Cache(60)(fn)


@pytest.fixture(params=[called, coalesced, cached])
def sharing(request: pytest.FixtureRequest) -> Sharing:
    """A way to share a function's calls."""
    share: Sharing = request.param
    return share


async def at_once(times: int, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    with anyio.fail_after(1000):
        async with anyio.create_task_group() as tasks:
            for number in range(times):
                tasks.start_soon(call, number)
                await anyio.wait_all_tasks_blocked()


# -- errors


def length(error: BaseException) -> int:
    return len(traceback.extract_tb(error.__traceback__))


async def test_a_shared_error_does_not_grow_with_its_followers(sharing: Sharing) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        raise OSError("down")

    shared = sharing(fail)
    lengths: list[int] = []
    seen: set[BaseException] = set()

    async def caller(number: int) -> None:
        with pytest.raises(OSError) as caught:
            await shared()
        lengths.append(length(caught.value))
        seen.add(caught.value)
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"
        assert caught.value.__cause__ is caught.value.__context__ is None

    await at_once(50, caller)
    assert len(seen) == 1
    assert len(set(lengths[1:])) == 1
    assert lengths[1] <= lengths[0] + 3


async def test_what_a_follower_was_handling_does_not_become_the_errors_context(sharing: Sharing) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        try:
            raise KeyError("cause")
        except KeyError:
            raise OSError("down")  # noqa: B904 - the context is what this is about

    shared = sharing(fail)
    contexts: list[BaseException | None] = []

    async def caller(number: int) -> None:
        try:
            raise ZeroDivisionError(number)
        except ZeroDivisionError:
            with pytest.raises(OSError) as caught:
                await shared()
            contexts.append(caught.value.__context__)

    await at_once(3, caller)
    assert [type(context) for context in contexts] == [KeyError] * 3


async def test_an_error_that_cannot_be_changed_can_be_shared(sharing: Sharing) -> None:
    @dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    async def fail() -> None:
        await anyio.sleep(1)
        raise FrozenError(5)

    shared = sharing(fail)
    caught: list[BaseException] = []

    async def caller(number: int) -> None:
        try:
            await shared()
        except Exception as error:
            caught.append(error)

    await at_once(3, caller)
    assert [type(error) for error in caught] == [FrozenError] * 3


class WeakError(Exception):
    pass


async def test_no_error_holds_itself(sharing: Sharing) -> None:
    async def fail() -> None:
        await anyio.sleep(1)
        raise WeakError

    shared = sharing(fail)
    errors: list[weakref.ref[WeakError]] = []

    async def caller(number: int) -> None:
        try:
            await shared()
        except WeakError as error:
            errors.append(weakref.ref(error))

    gc.disable()
    try:
        await at_once(3, caller)
        await anyio.wait_all_tasks_blocked()
        assert [error() for error in errors] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("sharing", [called, coalesced])  # a cache does
async def test_no_result_is_held(sharing: Sharing) -> None:
    class Result:
        pass

    async def make() -> Result:
        await anyio.sleep(1)
        return Result()

    shared = sharing(make)
    results: list[weakref.ref[Result]] = []

    async def caller(number: int) -> None:
        results.append(weakref.ref(await shared()))

    gc.disable()
    try:
        await at_once(3, caller)
        await anyio.wait_all_tasks_blocked()
        assert [result() for result in results] == [None] * 3
    finally:
        gc.enable()


# -- calls that would wait for themselves


async def test_a_call_in_its_own_course_is_simply_made(sharing: Sharing) -> None:
    depths: list[int] = []

    async def descend() -> int:
        await checkpoint()
        depths.append(len(depths))
        return await shared() + 1 if len(depths) < 3 else 0

    shared = sharing(descend)
    with anyio.fail_after(1):
        assert await shared() == 2


async def test_a_call_in_a_child_task_of_its_own_course_is_simply_made(sharing: Sharing) -> None:
    links = {"a": ["b", "c"], "b": ["a", "c"], "c": ["a"]}
    visits: list[str] = []

    async def crawl(page: str) -> None:
        visits.append(page)
        if visits.count(page) > 1:
            return
        await anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            for link in links[page]:
                tasks.start_soon(shared, link)

    shared = sharing(crawl)
    with anyio.fail_after(1000):
        await shared("a")
    assert set(visits) == set("abc")


async def test_two_calls_do_not_wait_for_each_other(sharing: Sharing) -> None:
    made: list[str] = []

    async def visit(name: str, other: str, back: bool) -> None:
        made.append(name)
        await anyio.sleep(1)
        if back:
            await shared(other, name, made.count(other) == 1)

    shared = sharing(visit)
    calls = [("a", "b", True), ("b", "a", True)]

    async def caller(number: int) -> None:
        await shared(*calls[number])

    await at_once(2, caller)
    assert made[:2] == ["a", "b"]
    assert INSIDE.get() is None


async def test_calls_do_not_wait_for_each_other_in_a_ring(sharing: Sharing) -> None:
    made: list[int] = []

    async def visit(number: int) -> None:
        made.append(number)
        if made.count(number) == 1:
            await anyio.sleep(1)
            await shared((number + 1) % 4)

    shared = sharing(visit)
    await at_once(4, shared)
    assert sorted(made[:4]) == [0, 1, 2, 3]
    assert len(made) == 5  # who closes the ring makes the call itself


async def test_calls_inside_others_still_share(sharing: Sharing) -> None:
    tokens: list[int] = []

    async def fetch_token() -> int:
        tokens.append(1)
        await anyio.sleep(1)
        return len(tokens)

    token = sharing(fetch_token)

    async def fetch_user(number: int) -> tuple[int, int]:
        return number, await token()

    user = sharing(fetch_user)
    found: list[tuple[int, int]] = []

    async def caller(number: int) -> None:
        found.append(await user(number // 2))

    await at_once(6, caller)
    assert sorted(found) == [(0, 1), (0, 1), (1, 1), (1, 1), (2, 1), (2, 1)]
    assert len(tokens) == 1


async def test_after_a_call_in_its_course_the_outer_one_is_still_known(sharing: Sharing) -> None:
    made: list[str] = []

    async def step(name: str) -> None:
        made.append(name)
        await checkpoint()
        if name == "outer" and made.count("outer") == 1:
            await inner("inner")
            await inner("another")
            await outer("outer")

    inner, outer = sharing(step), sharing(step)
    with anyio.fail_after(1):
        await outer("outer")
    assert made == ["outer", "inner", "another", "outer"]


async def test_a_task_that_outlives_its_call_shares_again(sharing: Sharing) -> None:
    made: list[str] = []

    async def work(name: str) -> str:
        made.append(name)
        if name == "short":
            background.start_soon(remember)
        await anyio.sleep(1)
        return name

    async def remember() -> None:
        await anyio.sleep(2)
        assert enclosing() is None
        await at_once(2, twice)

    async def twice(number: int) -> None:
        assert await shared("long") == "long"

    shared = sharing(work)
    async with anyio.create_task_group() as background:
        await shared("short")
    assert made == ["short", "long"]


async def test_what_has_ended_is_let_go_along_a_chain_of_tasks() -> None:
    """Each begins in the course of the one before, which ends before the next one begins."""
    depths: list[int] = []

    @Coalesce()
    async def beget(number: int) -> None:
        flight = INSIDE.get()
        depth = 0
        while flight is not None:
            depth, flight = depth + 1, flight.inside
        depths.append(depth)
        if number:
            await anyio.sleep(1)
            tasks.start_soon(beget, number - 1)
            await anyio.sleep(0.5)

    async with anyio.create_task_group() as tasks:
        await beget(100)
    assert len(depths) == 101
    assert max(depths) <= 3


# -- what does not go by the rules


class Moody:
    """Its hash changes."""

    mood = 0

    def __hash__(self) -> int:
        return self.mood

    def __eq__(self, other: object) -> bool:
        return self is other


async def test_a_key_that_changes_its_hash_holds_nobody_up(sharing: Sharing) -> None:
    made: list[int] = []

    async def work(moody: Moody) -> int:
        made.append(moody.mood)
        moody.mood = 1 - moody.mood
        await checkpoint()
        return len(made)

    shared = sharing(work)
    moody = Moody()
    with anyio.fail_after(1):
        assert await shared(moody) == 1
        moody.mood = 0
        assert await shared(moody) == 2
    assert len(made) == 2


async def test_a_leader_that_is_thrown_away_hands_over(sharing: Sharing) -> None:
    answers = iter(["never", "fine"])

    async def work() -> str:
        answer = next(answers)
        while answer == "never":
            await checkpoint()
        return answer

    shared = sharing(work)
    results: list[str] = []

    async def follow() -> None:
        results.append(await shared())

    with anyio.fail_after(1):
        async with anyio.create_task_group() as tasks:
            leader = shared()
            copy_context().run(leader.send, None)  # its first step, in no task of its own
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            assert not results
            leader.close()
    assert results == ["fine"]


async def test_context_variables_are_the_leaders() -> None:
    who: ContextVar[str] = ContextVar("who")

    @Coalesce()
    async def work() -> str:
        await anyio.sleep(1)
        return who.get()

    results: list[str] = []

    async def caller(number: int) -> None:
        who.set(f"caller {number}")
        results.append(await work())

    await at_once(2, caller)
    assert results == ["caller 0", "caller 0"]


async def test_share_is_to_be_awaited() -> None:
    flights = Flights(lambda followers: None)

    async def work() -> str:
        return "fine"

    shared = flights.share((flights.home(), "key"), work, (), {})
    assert inspect.isawaitable(shared)
    assert flights.running_now() == 1
    assert await shared == "fine"
    assert flights.running_now() == 0
