"""A fallback: values, functions and last good answers in place of errors, asked in turn; never in place of a cancellation."""

import asyncio
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, Event, FailureSummary, LastGood, RefusedError
from aiobreaker.errors import BulkheadFullError, RateLimitedError
from aiobreaker.fallbacks import _NOTHING, Memory
from aiobreaker.lint import Traits
from aiobreaker.policies.events import FellBack
from aiobreaker.policies.fallback import Fallback, FallbackSnapshot
from aiobreaker.policies.timeout import Timeout
from aiobreaker.policy import Policy
from aiobreaker.testing import Answer, ManualClock, ScriptedDependency

from .. import virtual

Clock = Callable[[], float]
Fn = Callable[..., Coroutine[Any, Any, Any]]
Way = Callable[..., Coroutine[Any, Any, Any]]


async def decorated(policy: Policy[Any], fn: Fn, *args: Any, **kwargs: Any) -> Any:
    async def function(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return await policy(function)(*args, **kwargs)


async def called(policy: Policy[Any], fn: Fn, *args: Any, **kwargs: Any) -> Any:
    return await policy.call(fn, *args, **kwargs)


every_way = pytest.mark.parametrize("way", [decorated, called])


def raising(error: BaseException) -> ScriptedDependency:
    return ScriptedDependency(error)


# -- one source


@every_way
async def test_a_value_stands_in_for_refusals_only(way: Way) -> None:
    fallback = Fallback("cached")
    assert await way(fallback, ScriptedDependency("fresh")) == "fresh"
    for refusal in (CircuitOpenError("open"), BulkheadFullError("full"), RateLimitedError("fast")):
        assert await way(fallback, raising(refusal)) == "cached"
    with pytest.raises(OSError, match="down"):
        await way(fallback, raising(OSError("down")))


@every_way
@pytest.mark.parametrize("value", [None, 0, "", (), LookupError("as a value")])
async def test_any_value_is_an_answer(way: Way, value: object) -> None:
    assert await way(Fallback(value, on=OSError), raising(OSError())) is value


@every_way
async def test_for_chosen_errors_and_no_others(way: Way) -> None:
    fallback = Fallback("cached", on=(OSError, ValueError))
    for error in (OSError(), ConnectionError(), TimeoutError(), ValueError()):
        assert await way(fallback, raising(error)) == "cached"
    for other in (KeyError("no"), CircuitOpenError("open"), KeyboardInterrupt("stop")):
        with pytest.raises(type(other)) as raised:
            await way(fallback, raising(other))
        assert raised.value is other


@every_way
async def test_a_function_gets_the_error_and_the_arguments(way: Way) -> None:
    down = OSError("down")

    def standing_in(error: Exception, sku: str, *, currency: str = "EUR") -> str:
        assert error is down
        return f"{sku} in {currency}"

    async def standing_in_later(error: Exception, sku: str, *, currency: str = "EUR") -> str:
        await anyio.sleep(1)
        return standing_in(error, sku, currency=currency)

    for function in (
        standing_in,
        standing_in_later,
        partial(standing_in),
        lambda *args, **kwargs: standing_in_later(*args, **kwargs),
    ):
        fallback = Fallback(function, on=OSError)
        assert await way(fallback, raising(down), "pear") == "pear in EUR"
        assert await way(fallback, raising(down), "pear", currency="USD") == "pear in USD"


@every_way
async def test_a_class_is_a_function(way: Way) -> None:
    @dataclass
    class Apology:
        error: Exception
        sku: str

    down = OSError("down")
    assert await way(Fallback(Apology, on=OSError), raising(down), "pear") == Apology(down, "pear")


@every_way
async def test_what_a_source_raises_is_raised_and_says_what_it_came_from(way: Way) -> None:
    down = OSError("down")

    def broken(error: Exception) -> str:
        raise ZeroDivisionError

    fallback = Fallback(broken, "never", on=OSError)
    with pytest.raises(ZeroDivisionError) as raised:
        await way(fallback, raising(down))
    assert raised.value.__context__ is down
    assert fallback.snapshot() == FallbackSnapshot(name="fallback", answered=(0, 0), unanswered=0, remembered=0)


# -- the last good answer


async def test_the_last_good_answer_is_kept_per_arguments_for_its_time() -> None:
    clock, dependency = ManualClock(), ScriptedDependency("one", "two", OSError("down"))
    price = Fallback(LastGood(max_age=60), on=OSError, clock=clock)(dependency.__call__)
    assert [await price("pear"), await price("pear", currency="USD")] == ["one", "two"]
    clock.advance(60)
    assert [await price("pear"), await price("pear", currency="USD")] == ["one", "two"]
    for args in (("plum",), ()):
        with pytest.raises(OSError, match="down"):
            await price(*args)
    clock.advance(0.1)
    with pytest.raises(OSError, match="down"):
        await price("pear")


@every_way
async def test_a_newer_good_answer_replaces_it(way: Way) -> None:
    dependency = ScriptedDependency("one", "two", OSError("down"))
    fallback = Fallback(LastGood(), on=OSError)
    price = fallback(dependency.__call__) if way is decorated else partial(fallback.call, dependency)
    assert [await price(), await price(), await price()] == ["one", "two", "two"]
    assert fallback.snapshot() == FallbackSnapshot(name="fallback", answered=(1,), unanswered=0, remembered=1)


async def test_functions_are_told_apart() -> None:
    fallback = Fallback(LastGood(), on=OSError)
    pears, plums = ScriptedDependency("pears", OSError()), ScriptedDependency("plums", OSError())
    pears_price, plums_price = fallback(pears.__call__), fallback(plums.__call__)
    for _ in range(2):
        assert [await pears_price(), await plums_price()] == ["pears", "plums"]
    others = ScriptedDependency("others", OSError())
    for _ in range(2):
        assert await fallback.call(others) == "others"
    with pytest.raises(OSError):
        await fallback.call(raising(OSError()))


async def test_through_other_policies_the_function_is_still_told() -> None:
    pipeline = Fallback(LastGood(), on=OSError) | Timeout(5) | CircuitBreaker("inside")
    pears, plums = ScriptedDependency("pears", OSError()), ScriptedDependency("plums", OSError())
    for _ in range(2):
        assert [await pipeline.call(pears, 1), await pipeline.call(plums, 1)] == ["pears", "plums"]


async def test_sources_see_the_users_own_arguments_whatever_stands_between() -> None:
    def standing_in(error: Exception, *args: Any, **kwargs: Any) -> object:
        return args, kwargs

    fallback = Fallback(standing_in, on=OSError)
    inner = Timeout(5) | CircuitBreaker("inside")
    price = raising(OSError())
    expected = (("pear",), {"currency": "USD"})
    assert await (fallback | inner).call(price, "pear", currency="USD") == expected
    assert await (fallback | inner)(price.__call__)("pear", currency="USD") == expected
    assert await fallback(inner.call)(price, "pear", currency="USD") == expected
    remembering = Fallback(LastGood(), standing_in, on=OSError)
    answering = ScriptedDependency("good", OSError())
    guarded: Any = remembering(inner.call)
    assert [await guarded(answering, "pear"), await guarded(answering, "pear")] == ["good", "good"]
    assert await guarded(answering, "plum") == (("plum",), {})


class NoHash:
    def __hash__(self) -> int:
        raise ValueError("no hash today")


@every_way
@pytest.mark.parametrize("argument", [[1, 2], NoHash()])
async def test_arguments_that_cannot_be_hashed_are_not_remembered(way: Way, argument: object) -> None:
    fallback = Fallback(LastGood(), on=OSError)
    assert await way(fallback, ScriptedDependency("good"), argument) == "good"
    with pytest.raises(OSError):
        await way(fallback, raising(OSError()), argument)
    assert fallback.snapshot().remembered == 0


def test_threads_may_meet_in_a_memory() -> None:
    memory = Memory(LastGood(max_size=2), lambda: 0.0)

    async def fn() -> None: ...

    class Slow(int):
        """Its comparison lets other threads in."""

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return int(self) == other

    wrong: list[object] = []

    def use(seed: int) -> None:
        try:
            for step in range(2000):
                number = (step * seed) % 5
                memory.keep(fn, (Slow(number),), {}, number)
                found = memory.recall(fn, (Slow(number),), {})
                if found is not _NOTHING and found != number:
                    wrong.append(found)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(memory) <= 2


Step = tuple[str, int, int]
STEPS = st.lists(st.tuples(st.sampled_from(["keep", "recall", "wait"]), st.integers(0, 5), st.integers(0, 9)), max_size=60)


@given(STEPS, st.integers(1, 4), st.integers(1, 20))
def test_a_memory_is_as_the_model(steps: list[Step], max_size: int, max_age: int) -> None:
    """The model: all that was ever kept or recalled, newest last; of that, the last few."""
    clock = ManualClock()
    memory = Memory(LastGood(max_age, max_size=max_size), clock)
    model: OrderedDict[int, tuple[int, float]] = OrderedDict()

    async def fn() -> None: ...

    for what, key, number in steps:
        if what == "wait":
            clock.advance(number)
        elif what == "keep":
            memory.keep(fn, (), {"key": key}, number)
            model.pop(key, None)
            model[key] = number, clock.now
            while len(model) > max_size:
                del model[next(iter(model))]
        else:
            expected: object = _NOTHING
            if key in model:
                result, kept_at = model.pop(key)
                if clock.now - kept_at <= max_age:
                    model[key] = result, kept_at
                    expected = result
            assert memory.recall(fn, (), {"key": key}) == expected
        assert len(memory) == len(model)


async def test_a_result_that_was_renewed_is_not_the_oldest() -> None:
    fallback = Fallback(LastGood(max_size=2), on=OSError)
    dependency = ScriptedDependency(*["good"] * 5, OSError())
    for argument in (0, 1, 2, 1, 3):
        await fallback.call(dependency, argument)
    assert [await fallback.call(dependency, argument) for argument in (1, 3)] == ["good", "good"]
    with pytest.raises(OSError):
        await fallback.call(dependency, 2)


# -- several


@every_way
async def test_sources_are_asked_in_turn_until_one_answers(way: Way, clock: Clock) -> None:
    asked: list[str] = []

    def first(error: Exception) -> str:
        asked.append("first")
        raise ConnectionError("the mirror too")

    async def second(error: Exception) -> str:
        asked.append("second")
        return "second"

    fallback = Fallback(LastGood(), first, second, "never", on=OSError, name="price", clock=clock)
    events: list[Event] = []
    fallback.subscribe(events.append)
    assert await way(fallback, raising(OSError("down"))) == "second"
    assert asked == ["first", "second"]
    (event,) = events
    assert isinstance(event, FellBack)
    assert (event.name, event.source, event.at) == ("price", 3, clock())
    assert event.failure == FailureSummary("OSError", "down", clock())
    assert fallback.snapshot() == FallbackSnapshot(name="price", answered=(0, 0, 1, 0), unanswered=0, remembered=0)


@every_way
async def test_where_none_has_an_answer_the_original_error_is_raised_as_itself(way: Way) -> None:
    cause, down = ValueError("cause"), OSError("down")
    down.__cause__ = cause
    mirror, other = ConnectionError("the mirror too"), ConnectionError("and the other")

    def first(error: Exception) -> str:
        raise mirror

    async def second(error: Exception) -> str:
        await checkpoint()
        raise other

    fallback = Fallback(first, LastGood(), second, LastGood(), on=OSError)
    events: list[Event] = []
    fallback.subscribe(events.append)
    with pytest.raises(OSError, match="down") as raised:
        await way(fallback, raising(down))
    assert raised.value is down
    assert down.__cause__ is cause
    assert down.__context__ is other
    assert other.__context__ is mirror
    assert mirror.__context__ is None
    assert events == []
    assert fallback.snapshot() == FallbackSnapshot(name="fallback", answered=(0, 0, 0, 0), unanswered=1, remembered=0)


@every_way
async def test_nothing_remembered_and_nothing_else_leaves_the_error_as_it_was(way: Way) -> None:
    earlier, down = ValueError("earlier"), OSError("down")
    down.__context__ = earlier
    with pytest.raises(OSError, match="down") as raised:
        await way(Fallback(LastGood(), on=OSError), raising(down))
    assert raised.value is down
    assert down.__context__ is earlier


class Refused(RefusedError):
    pass


KINDS = ["answers", "refuses", "breaks", "answers later", "refuses later", "forgot"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), st.booleans())
def test_any_chain_is_as_the_model(kinds: list[str], value_last: bool) -> None:
    original = Refused("original")

    def source(kind: str, place: int) -> object:
        def now(error: Exception) -> object:
            assert error is original
            if "refuses" in kind:
                raise Refused(f"source {place}")
            if kind == "breaks":
                raise ZeroDivisionError(place)
            return place

        async def later(error: Exception) -> object:
            await anyio.lowlevel.checkpoint()
            return now(error)

        return LastGood() if kind == "forgot" else later if "later" in kind else now

    sources = [source(kind, place) for place, kind in enumerate(kinds)] + ["value"] * value_last
    fallback = Fallback[Any](*sources)
    deciding = next((place for place, kind in enumerate(kinds) if kind == "breaks" or "answers" in kind), None)

    async def main() -> object:
        try:
            return await fallback.call(raising(original))
        except (Refused, ZeroDivisionError) as error:
            return error

    outcome, told = asyncio.run(main()), fallback.snapshot()
    answered = [0] * len(sources)
    if deciding is not None and kinds[deciding] == "breaks":
        assert isinstance(outcome, ZeroDivisionError)
        assert outcome.args == (deciding,)
    elif deciding is not None or value_last:
        assert outcome == ("value" if deciding is None else deciding)
        answered[-1 if deciding is None else deciding] = 1
    else:
        assert outcome is original
    assert (told.answered, told.unanswered) == (tuple(answered), int(outcome is original))


# -- cancellation


@every_way
@pytest.mark.parametrize("on", [Exception, (OSError, TimeoutError)])
async def test_a_cancellation_is_never_answered(way: Way, on: Any) -> None:
    fallback = Fallback("never", on=on)
    answers: list[object] = []
    with anyio.move_on_after(1) as scope:
        answers.append(await way(fallback, anyio.sleep_forever))
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        answers.append(await Timeout(1).call(way, fallback, anyio.sleep_forever))
    assert answers == []
    assert await way(fallback | Timeout(1), anyio.sleep_forever) == "never"


@every_way
async def test_a_cancellation_at_any_step_leaves_nothing_behind(way: Way) -> None:
    """While the function runs, between, and while the sources run."""
    completed = []
    for cancel_at in range(16):
        fallback = Fallback(partial(steps, fail=True), steps, on=OSError)
        outcome: list[object] = []

        async def victim(scope: anyio.CancelScope, fallback: Fallback[Any] = fallback, outcome: list[object] = outcome) -> None:
            with scope:
                outcome.append(await way(fallback, partial(steps, OSError("down"), fail=True)))

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(victim, scope)
            for _ in range(cancel_at):
                await checkpoint()
            scope.cancel()
        completed.append(outcome == ["stood in"])
        assert sum(fallback.snapshot().answered) == len(outcome)
    assert not completed[0]
    assert completed[-1]


async def steps(error: Exception, *args: object, fail: bool = False) -> str:
    for _ in range(3):
        await checkpoint()
    if fail:
        raise OSError("down")
    return "stood in"


async def test_a_native_cancellation_passes(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        return
    task = asyncio.create_task(called(Fallback("never", on=Exception), anyio.sleep_forever))
    await checkpoint()
    await checkpoint()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_group_with_a_cancellation_in_it_passes() -> None:
    async def several() -> None:
        raise BaseExceptionGroup("several", [OSError(), KeyboardInterrupt()])

    with pytest.raises(BaseExceptionGroup):
        await Fallback("never", on=(OSError, Exception)).call(several)


# -- what there is to see


async def test_nobody_listening_makes_no_difference() -> None:
    fallback = Fallback("cached", on=OSError)
    price = fallback(raising(OSError("down")).__call__)
    assert await price() == "cached"
    events: list[Event] = []
    unsubscribe = fallback.subscribe(events.append)
    assert await price() == "cached"
    unsubscribe()
    assert await price() == "cached"
    assert [type(event) for event in events] == [FellBack]
    assert fallback.snapshot().answered == (3,)


@pytest.mark.parametrize(
    ("on", "words", "hides"),
    [
        (RefusedError, "RefusedError", False),
        ((OSError, CircuitOpenError), "OSError or CircuitOpenError", False),
        (Exception, "Exception", True),
        ((OSError, Exception), "OSError or Exception", True),
    ],
)
def test_in_words(on: Any, words: str, hides: bool) -> None:
    fallback = Fallback(None, on=on, name="price")
    assert fallback.traits == Traits(kind="fallback", words=f"fallback 'price' (in place of {words})", hides=hides)
    assert fallback.traits.name == "fallback 'price'"
    assert repr(fallback) == "<Fallback 'price'>"
    assert bool((fallback | Timeout(5)).lint()) == hides


# -- settings, signatures, loops


@pytest.mark.parametrize("on", [KeyboardInterrupt, "OSError", (OSError, 5), None, BaseException, ((OSError,),), OSError()])
def test_only_exceptions_can_be_stood_in_for(on: Any) -> None:
    with pytest.raises(TypeError, match="on must be an exception type or a tuple of them, not "):
        Fallback("cached", on=on)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"on must be an exception type or a tuple of at least one, not \(\)"):
        Fallback("cached", on=())
    with pytest.raises(ValueError, match=r"on must be an exception type or a tuple of at least one, not \(\)"):
        CircuitBreaker("plain").with_fallback("cached", on=())
    with pytest.raises(ValueError, match="sources must be one or more"):
        Fallback()
    for sources in ((5, 6), (len, 5, LastGood()), (LastGood(), 5, len)):
        with pytest.raises(ValueError, match="sources must have nothing after a value: 5 always answers"):
            Fallback(*sources)
    with pytest.raises(ValueError, match="name must not be empty"):
        Fallback(None, name="")


async def test_a_decorated_function_keeps_its_face() -> None:
    class Shop:
        @Fallback(None, on=OSError)
        async def price(self, sku: str, *, currency: str = "EUR") -> str:
            """What it costs."""
            if sku == "broken":
                raise OSError
            return f"{sku} in {currency}"

    assert (Shop.price.__name__, Shop.price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(Shop.price).parameters) == ["self", "sku", "currency"]
    assert await Shop().price("pear", currency="USD") == "pear in USD"
    assert await Shop().price("broken") is None


@every_way
def test_one_serves_both_backends_and_many_loops_in_turn(way: Way) -> None:
    async def later(error: Exception) -> str:
        await anyio.sleep(1)
        return "later"

    fallback = Fallback(LastGood(), later, on=OSError)

    async def use() -> None:
        assert await way(fallback, ScriptedDependency(Answer(OSError(), after=1))) == "later"

    for _ in range(2):
        for backend in virtual.BACKENDS:
            virtual.run(backend, use)
    assert fallback.snapshot().answered == (0, 4)
