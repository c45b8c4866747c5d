"""Coalesce: who wants the same at the same time shares one call, and nobody gets what is another's alone."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from aiobreaker.policies.coalesce import Coalesce, CoalesceSnapshot
from aiobreaker.policies.events import LeaderReplaced
from aiobreaker.policy import Pipeline
from aiobreaker.testing import Answer, ScriptedDependency

Call = Callable[..., Any]


@pytest.fixture(params=["decorated", "called", "by key"])
def shared(request: pytest.FixtureRequest) -> Callable[[Coalesce, ScriptedDependency], Call]:
    """A dependency behind a policy, in one of the ways there are."""

    def behind(coalesce: Coalesce, dependency: ScriptedDependency) -> Call:
        async def price(*args: Any, **kwargs: Any) -> Any:
            return await dependency(*args, **kwargs)

        async def called(*args: Any, **kwargs: Any) -> Any:
            return await coalesce.call(price, *args, **kwargs)

        if request.param == "by key":
            coalesce._key = lambda *args, **kwargs: (args, tuple(sorted(kwargs.items())))
        return called if request.param == "called" else coalesce(price)

    return behind


async def gather(*calls: Callable[[], Any]) -> list[Any]:
    """What they return or raise, all at once, begun in this order."""
    ends: list[Any] = [None] * len(calls)

    async def live(place: int, call: Callable[[], Any]) -> None:
        try:
            ends[place] = await call()
        except Exception as error:
            ends[place] = error

    async with anyio.create_task_group() as tasks:
        for place, call in enumerate(calls):
            tasks.start_soon(live, place, call)
            await anyio.wait_all_tasks_blocked()
    return ends


async def test_calls_with_the_same_arguments_share_one(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    coalesce, dependency = Coalesce(), ScriptedDependency(Answer(["pear"], after=1), Answer(["plum"], after=1))
    price = shared(coalesce, dependency)
    one, two, three, other = await gather(
        lambda: price("pear", currency="EUR", tax=True),
        lambda: price("pear", tax=True, currency="EUR"),
        lambda: price("pear", currency="EUR", tax=True),
        lambda: price("pear"),
    )
    assert one is two is three
    assert (one, other) == (["pear"], ["plum"])
    assert dependency.calls == [(("pear",), {"currency": "EUR", "tax": True}), (("pear",), {})]
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=4, shared=2, running=0)


async def test_nothing_is_remembered(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    coalesce, dependency = Coalesce(), ScriptedDependency(1, OSError(), 3)
    price = shared(coalesce, dependency)
    assert await price("pear") == 1
    with pytest.raises(OSError):
        await price("pear")
    assert await price("pear") == 3
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=3, shared=0, running=0)


async def test_an_error_is_everybodys(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    price = shared(Coalesce(), ScriptedDependency(Answer(OSError("down"), after=1)))
    one, two, three = await gather(*[lambda: price("pear")] * 3)
    assert isinstance(one, OSError)
    assert one is two is three


async def test_none_is_a_result_like_any_other(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    dependency = ScriptedDependency(Answer(None, after=1))
    price = shared(Coalesce(), dependency)
    assert await gather(*[price] * 3) == [None] * 3
    assert len(dependency.calls) == 1


async def test_what_cannot_be_hashed_is_not_shared(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    coalesce, dependency = Coalesce(), ScriptedDependency(Answer(1, after=1), Answer(2, after=1), Answer(OSError(), after=1))
    price = shared(coalesce, dependency)
    one, two, error = await gather(*[lambda: price(["pear"])] * 3)
    assert (one, two, type(error)) == (1, 2, OSError)
    assert error.__context__ is None
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=3, shared=0, running=0)


async def test_a_type_error_of_the_function_is_its_own(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    dependency = ScriptedDependency(TypeError("no sum"))
    price = shared(Coalesce(), dependency)
    with pytest.raises(TypeError, match="no sum"):
        await price("pear")
    assert len(dependency.calls) == 1


async def test_functions_do_not_share_with_one_another() -> None:
    coalesce = Coalesce(key=lambda number: number)

    @coalesce
    async def half(number: int) -> float:
        await anyio.sleep(1)
        return number / 2

    async def double(number: int) -> int:
        await anyio.sleep(1)
        return number * 2

    results = await gather(lambda: half(4), lambda: coalesce.call(double, 4), lambda: half(4), lambda: coalesce.call(double, 4))
    assert results == [2, 8, 2, 8]
    assert coalesce.snapshot().shared == 2


async def test_a_key_says_what_is_the_same_and_sees_the_callers_arguments_in_a_pipeline_too() -> None:
    seen: list[tuple[Any, ...]] = []

    def by_user(user: str, *, trace: str) -> str:
        seen.append((user, trace))
        return user

    dependency = ScriptedDependency(Answer("profile", after=1))

    async def profile(user: str, *, trace: str) -> Any:
        return await dependency(user, trace=trace)

    pipeline = Pipeline(Coalesce(name="outer", key=by_user), Coalesce(name="inner", key=by_user))
    call: Call = pipeline.call
    for guarded in (partial(call, profile, "ann"), partial(pipeline(profile), "ann")):
        dependency.calls.clear()
        seen.clear()
        assert await gather(partial(guarded, trace="one"), partial(guarded, trace="two")) == ["profile"] * 2
        assert dependency.calls == [(("ann",), {"trace": "one"})]
        assert seen == [("ann", "one"), ("ann", "one"), ("ann", "two")]


async def test_in_a_pipeline_calls_are_shared_by_function_and_arguments() -> None:
    dependency = ScriptedDependency(Answer("result", after=1))
    pipeline = Coalesce(name="outer") | Coalesce(name="inner")
    calls = [lambda number=number: pipeline.call(dependency, number) for number in (1, 2, 1)]
    assert await gather(*calls) == ["result"] * 3
    assert dependency.calls == [((1,), {}), ((2,), {})]


async def test_what_a_key_raises_is_raised_and_nothing_is_called() -> None:
    dependency = ScriptedDependency(1)

    def key(number: int) -> str:
        raise LookupError(number)

    coalesce = Coalesce(key=key)
    with pytest.raises(LookupError):
        await coalesce.call(dependency, 1)
    assert not dependency.calls


# -- leaders and followers


async def test_a_cancelled_leader_hands_over_to_who_has_waited_longest(
    shared: Callable[[Coalesce, ScriptedDependency], Call], clock: Callable[[], float]
) -> None:
    coalesce, dependency = Coalesce(name="prices", clock=clock), ScriptedDependency(Answer(1, after=9), Answer(2, after=5))
    price = shared(coalesce, dependency)
    ends: list[tuple[str, Any, float]] = []
    events: list[Any] = []
    coalesce.subscribe(events.append)
    began = clock()

    async def live(name: str, patience: float) -> None:
        result = "cancelled"
        with anyio.move_on_after(patience):
            result = await price("pear")
        ends.append((name, result, clock() - began))

    async with anyio.create_task_group() as tasks:
        for name, patience in (("leader", 1), ("first", 4), ("second", inf), ("third", 3), ("fourth", inf)):
            tasks.start_soon(live, name, patience)
            await anyio.wait_all_tasks_blocked()
        await anyio.sleep(2)
        assert coalesce.snapshot() == CoalesceSnapshot(name="prices", calls=5, shared=0, running=1)
        assert dependency.running == 1
    assert ends[:3] == [("leader", "cancelled", 1), ("third", "cancelled", 3), ("first", "cancelled", 4)]
    assert sorted(ends[3:]) == [("fourth", 2, 9), ("second", 2, 9)]
    assert [(type(event), event.name, event.followers) for event in events] == [
        (LeaderReplaced, "prices", 4),
        (LeaderReplaced, "prices", 2),
    ]
    assert len(dependency.calls) == 3
    assert coalesce.snapshot() == CoalesceSnapshot(name="prices", calls=5, shared=1, running=0)


async def test_who_comes_after_a_hand_over_shares_with_the_new_leader(
    shared: Callable[[Coalesce, ScriptedDependency], Call],
) -> None:
    dependency = ScriptedDependency(Answer(1, after=9), Answer(2, after=5))
    price = shared(Coalesce(), dependency)

    async def give_up_and_try_again() -> Any:
        with anyio.move_on_after(1):
            await price("pear")
        return await price("pear")

    assert await gather(give_up_and_try_again, lambda: price("pear")) == [2, 2]
    assert len(dependency.calls) == 2


@pytest.mark.parametrize(
    "end", [KeyboardInterrupt, SystemExit, GeneratorExit, BaseExceptionGroup("both", [KeyboardInterrupt()])]
)
async def test_the_end_of_the_program_is_nobody_elses(
    shared: Callable[[Coalesce, ScriptedDependency], Call], end: BaseException
) -> None:
    dependency = ScriptedDependency(Answer(end, after=1), Answer("fine", after=1))
    price = shared(Coalesce(), dependency)
    ended: list[object] = []

    async def lead() -> None:
        try:
            await price("pear")
        except BaseException as error:
            ended.append(error)

    assert await gather(lead, lambda: price("pear"), lambda: price("pear")) == [None, "fine", "fine"]
    assert len(ended) == 1
    assert len(dependency.calls) == 2


async def test_a_follower_waits_no_longer_than_its_own_deadline(
    shared: Callable[[Coalesce, ScriptedDependency], Call], clock: Callable[[], float]
) -> None:
    coalesce = Coalesce()
    price = shared(coalesce, ScriptedDependency(Answer("pear", after=10)))
    began = clock()

    async def impatient() -> float:
        with pytest.raises(TimeoutError), anyio.fail_after(3):
            await price("pear")
        return clock() - began

    assert await gather(lambda: price("pear"), impatient) == ["pear", 3]
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=2, shared=0, running=0)


async def test_the_call_runs_in_the_leaders_own_task(shared: Callable[[Coalesce, ScriptedDependency], Call]) -> None:
    tasks: list[int] = []

    class Recording(ScriptedDependency):
        async def __call__(self, *args: Any, **kwargs: Any) -> Any:
            tasks.append(anyio.get_current_task().id)
            return await super().__call__(*args, **kwargs)

    price = shared(Coalesce(), Recording(Answer("pear", after=1)))

    async def lead() -> int:
        await price("pear")
        return anyio.get_current_task().id

    (leader, _) = await gather(lead, lambda: price("pear"))
    assert tasks == [leader]


# -- cancelled at every await


@pytest.mark.parametrize("others", [0, 1, 3])
async def test_cancellation_at_every_step_leaves_nothing_behind(
    shared: Callable[[Coalesce, ScriptedDependency], Call], others: int
) -> None:
    for victim in range(others + 1):
        for cancel_at in range(20):
            coalesce = Coalesce()
            answer = anyio.Event()

            class Work(ScriptedDependency):
                async def __call__(self, *args: Any, answer: anyio.Event = answer, **kwargs: Any) -> Any:
                    await checkpoint()
                    await answer.wait()
                    await checkpoint()
                    return "fine"

            price = shared(coalesce, Work(0))
            scopes = [anyio.CancelScope() for _ in range(others + 1)]
            ends: list[object] = ["cancelled"] * (others + 1)

            async def live(
                place: int, price: Call = price, scopes: list[anyio.CancelScope] = scopes, ends: list[object] = ends
            ) -> None:
                with scopes[place]:
                    ends[place] = await price("pear")

            with anyio.fail_after(1):
                async with anyio.create_task_group() as tasks:
                    for place in range(others + 1):
                        tasks.start_soon(live, place)
                    for step in range(20):
                        if step == cancel_at:
                            scopes[victim].cancel()
                        if step == 6:
                            answer.set()
                        await checkpoint()
            assert [end for place, end in enumerate(ends) if place != victim] == ["fine"] * others
            assert ends[victim] == ("fine" if not scopes[victim].cancelled_caught else "cancelled")
            seen = coalesce.snapshot()
            assert (seen.calls, seen.running) == (others + 1, 0)
            assert await price("pear") == "fine"


async def test_a_new_leader_that_is_cancelled_before_it_begins_hands_over_at_once(
    shared: Callable[[Coalesce, ScriptedDependency], Call],
) -> None:
    coalesce, dependency = Coalesce(), ScriptedDependency(Answer(1, after=9), Answer(2, after=9))
    price = shared(coalesce, dependency)
    scopes = [anyio.CancelScope() for _ in range(4)]
    replaced: list[Any] = []
    coalesce.subscribe(replaced.append)
    # cancelled from inside of the hand-over, when it has been woken and has not run yet
    coalesce.subscribe(lambda event: scopes[len(replaced)].cancel())

    async def live(place: int) -> Any:
        with scopes[place]:
            return await price("pear")

    async def cancel_the_first() -> None:
        scopes[0].cancel()

    with anyio.fail_after(100):
        ends = await gather(*[lambda place=place: live(place) for place in range(4)], cancel_the_first)
    assert ends == [None] * 5
    assert [event.followers for event in replaced] == [3, 2, 1]
    assert dependency.running == 0
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=4, shared=0, running=0)


async def test_a_new_leader_whose_task_is_cancelled_before_it_begins_hands_over_at_once(
    shared: Callable[[Coalesce, ScriptedDependency], Call], anyio_backend_name: str
) -> None:
    """A native cancellation of asyncio takes the place of the waking."""
    if anyio_backend_name == "trio":
        return  # there whoever has been woken runs
    coalesce, dependency = Coalesce(), ScriptedDependency(Answer(1, after=9), Answer(2, after=9))
    price = shared(coalesce, dependency)
    callers: list[asyncio.Task[Any]] = []
    cancelled = 0

    def cancel_the_next(event: object) -> None:
        nonlocal cancelled
        cancelled += 1
        if cancelled < 3:
            callers[cancelled].cancel()

    coalesce.subscribe(cancel_the_next)
    with anyio.fail_after(100):
        for _ in range(5):
            callers.append(asyncio.create_task(price("pear")))
            await anyio.wait_all_tasks_blocked()
        callers[0].cancel()
        ends = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(end) for end in ends[:3]] == [asyncio.CancelledError] * 3
    assert ends[3:] == [2, 2]
    assert cancelled == 3
    assert len(dependency.calls) == 2
    assert coalesce.snapshot() == CoalesceSnapshot(name="coalesce", calls=5, shared=1, running=0)


# -- settings and looks


@pytest.mark.parametrize("key", [5, "user"])
def test_a_key_must_be_a_function(key: Any) -> None:
    with pytest.raises(TypeError, match="key must be a function"):
        Coalesce(key=key)


def test_a_key_must_not_be_async() -> None:
    async def key() -> None:
        """Nothing."""

    with pytest.raises(TypeError, match="not an async one"):
        Coalesce(key=key)


def test_a_name_must_be_one() -> None:
    with pytest.raises(ValueError, match="name must not be empty"):
        Coalesce(name="")


async def test_methods_keep_their_signature_and_objects_do_not_share() -> None:
    class Shop:
        @Coalesce()
        async def price(self, sku: str, currency: str = "EUR") -> "Shop":
            """What it costs."""
            await anyio.sleep(1)
            return self

    assert str(inspect.signature(Shop.price)) == "(self, sku: str, currency: str = 'EUR') -> 'Shop'"
    assert Shop.price.__doc__ == "What it costs."
    one, two = Shop(), Shop()
    assert await gather(lambda: one.price("pear"), lambda: two.price("pear")) == [one, two]


def test_it_says_what_it_does() -> None:
    coalesce = Coalesce(name="prices")
    assert repr(coalesce) == "<Coalesce 'prices'>"
    assert coalesce.traits.kind == "coalesce"
    assert coalesce.traits.words == "coalescing 'prices' (callers with the same key share one call)"
    assert not Pipeline(coalesce).lint()


def test_one_object_serves_loops_one_after_another() -> None:
    dependency = ScriptedDependency(Answer("fine", after=0.001))
    coalesce = Coalesce()
    price = coalesce(dependency.__call__)

    async def main() -> None:
        assert await gather(price, price) == ["fine"] * 2

    for backend in ("asyncio", "trio", "asyncio"):
        anyio.run(main, backend=backend)
    assert len(dependency.calls) == 3
    assert coalesce.snapshot().shared == 3
