"""The ways in: what they accept, what they hand on, and that the fast ones count exactly as the plain one does."""

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any

import anyio
import pytest

from aiobreaker import (
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRate,
    LastCalls,
    LastSeconds,
    SlowCallRate,
    Snapshot,
    State,
    Totals,
)
from aiobreaker.settings import Shape
from aiobreaker.testing import Answer, ScriptedDependency, in_state

Clock = Callable[[], float]

PLAIN = FailureRate(0.5, LastCalls(8), minimum_calls=4)
TIMED = FailureRate(0.5, LastSeconds(10), minimum_calls=4)
SLOW = SlowCallRate(0.5, slower_than=1.0, window=LastCalls(8), minimum_calls=4)
IN_FLIGHT = SlowCallRate(0.5, slower_than=1.0, window=LastSeconds(10), minimum_calls=4, count_in_flight=True)
SETTINGS: dict[Shape, dict[str, Any]] = {
    Shape.PLAIN: {"trip": PLAIN},
    Shape.TIMED: {"trip": TIMED},
    Shape.SLOW: {"trip": TIMED | SLOW},
    Shape.IN_FLIGHT: {"trip": PLAIN | IN_FLIGHT},
    Shape.JUDGED: {"trip": TIMED | SLOW, "failure_if": lambda result: result == "bad"},
}
every_shape = pytest.mark.parametrize("shape", list(Shape), ids=lambda shape: shape.name)


@every_shape
def test_each_shape_of_settings_has_its_variant(shape: Shape, clock: Clock) -> None:
    assert CircuitBreaker("shape", **SETTINGS[shape])._gate.settings.shape is shape


# -- what a decorator accepts, and keeps


async def test_a_decorated_function_keeps_what_it_is() -> None:
    breaker = CircuitBreaker("kept")

    @breaker
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        return f"{sku} in {currency}"

    assert inspect.iscoroutinefunction(price)
    assert (price.__name__, price.__doc__) == ("price", "What it costs.")
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    assert await price("pear", currency="USD") == "pear in USD"


class Shop:
    breaker = CircuitBreaker("shop")

    @breaker
    async def method(self, sku: str) -> tuple[object, str]:
        return self, sku

    @breaker
    @classmethod
    async def of_the_class(cls, sku: str) -> tuple[object, str]:
        return cls, sku

    @classmethod
    @breaker
    async def of_the_class_too(cls, sku: str) -> tuple[object, str]:
        return cls, sku

    @breaker
    @staticmethod
    async def static(sku: str) -> str:
        return sku

    @staticmethod
    @breaker
    async def static_too(sku: str) -> str:
        return sku

    @breaker
    async def stream(self, last: int) -> AsyncIterator[int]:
        for number in range(last):
            yield number


async def test_methods() -> None:
    shop = Shop()
    assert await shop.method("pear") == (shop, "pear")
    assert await Shop.of_the_class("pear") == (Shop, "pear")
    assert await shop.of_the_class_too("pear") == (Shop, "pear")
    assert await shop.static("pear") == await Shop.static_too("pear") == "pear"
    assert [number async for number in shop.stream(3)] == [0, 1, 2]
    with in_state(Shop.breaker, State.FORCED_OPEN):
        for refused in (shop.method, Shop.of_the_class, Shop.of_the_class_too, Shop.static, Shop.static_too):
            with pytest.raises(CircuitOpenError):
                await refused("pear")
        with pytest.raises(CircuitOpenError):
            await anext(aiter(shop.stream(3)))


async def test_a_partial_can_be_decorated() -> None:
    async def add(left: int, right: int) -> int:
        return left + right

    assert await CircuitBreaker("partial")(functools.partial(add, 1))(2) == 3


def sync() -> None: ...


def sync_generator() -> Any:
    yield 1


class AsyncCallable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "other",
    [sync, sync_generator, AsyncCallable(), AsyncCallable, 5, None, staticmethod(sync), "f"],
    ids=["function", "generator function", "callable object", "class", "number", "nothing", "static method", "string"],
)
def test_anything_else_is_a_type_error_at_decoration(other: Any) -> None:
    with pytest.raises(TypeError, match="only async functions and async generator functions can be decorated"):
        CircuitBreaker("typed")(other)


async def test_call_takes_anything_that_returns_an_awaitable() -> None:
    breaker = CircuitBreaker("any")
    assert await breaker.call(lambda answer: ScriptedDependency(answer)(), 5) == 5
    await breaker.call(AsyncCallable())


async def test_the_caller_gets_the_very_same_object() -> None:
    breaker = CircuitBreaker("same")
    result, error = object(), OSError("down")
    assert await breaker.call(ScriptedDependency(result)) is result
    with pytest.raises(OSError) as raised:
        await breaker.call(ScriptedDependency(error))
    assert raised.value is error


# -- every way in counts the same

Way = Callable[[CircuitBreaker, ScriptedDependency], Awaitable[object]]


async def decorated(breaker: CircuitBreaker, dependency: ScriptedDependency) -> object:
    @breaker
    async def guarded() -> object:
        return await dependency()

    return await guarded()


async def called(breaker: CircuitBreaker, dependency: ScriptedDependency) -> object:
    return await breaker.call(dependency)


async def block(breaker: CircuitBreaker, dependency: ScriptedDependency) -> object:
    async with breaker.guard() as call:
        return call.check(await dependency())


WAYS: list[Way] = [decorated, called, block]


SCRIPTS: list[list[object]] = [
    ["fine"] * 12,
    ["fine", OSError("down")] * 4,
    ["fine", "fine", "fine", OSError("down"), OSError("down"), OSError("down"), "fine"],
    [Answer("late", after=1.0)] * 6,
    ["fine", Answer("late", after=2.0), Answer("quick", after=0.5)] * 5,
    ["bad", "fine", "bad", "fine", "bad"],
    [Answer("cancelled", after=inf)] * 5,
    [Answer("cancelled", after=inf), "fine", OSError("down")] * 3,
    [ExceptionGroup("several", [OSError("down")])] * 4,
    ["fine"] * 3 + [Answer("fine", after=4.0)] + ["fine", OSError("down"), OSError("down")],
]


async def play(breaker: CircuitBreaker, way: Way, script: list[object]) -> list[tuple[State, Totals, float | None]]:
    story = []
    for step in script:
        try:
            with anyio.move_on_after(1.5 if getattr(step, "after", 0) == inf else 10):
                await way(breaker, ScriptedDependency(step))
        except (OSError, ExceptionGroup, CircuitOpenError):
            pass
        seen: Snapshot = breaker.snapshot()
        assert seen.in_flight == 0
        story.append((seen.state, seen.totals, seen.failure_rate))
        await anyio.sleep(0.25)
    return story


@every_shape
@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_every_fast_way_counts_as_single_permits_do(shape: Shape, script: list[object], way: Way, clock: Clock) -> None:
    """With somebody watching single calls, each call has a permit of its own: the general way, right for every shape."""
    fast = CircuitBreaker("fast", open_for=2, clock=clock, **SETTINGS[shape])
    general = CircuitBreaker("general", open_for=2, clock=clock, **SETTINGS[shape])
    ended: list[object] = []
    general.subscribe(ended.append, calls=True)
    assert general._gate.circuit.door.era is None
    assert await play(fast, way, script) == await play(general, way, script)
    assert len(ended) >= len(script)


@every_shape
async def test_a_disabled_breaker_records_nothing(shape: Shape, clock: Clock) -> None:
    breaker = CircuitBreaker("disabled", clock=clock, **SETTINGS[shape])
    breaker.disable()
    for way in WAYS:
        for step in ("bad", "fine", Answer("late", after=3.0)):
            await way(breaker, ScriptedDependency(step))
        with pytest.raises(OSError, match="down"):
            await way(breaker, ScriptedDependency(OSError("down")))
    seen = breaker.snapshot()
    assert (seen.state, seen.totals, seen.readings, seen.in_flight) == (State.DISABLED, Totals(), (), 0)


# -- block


async def test_inside_a_block_the_caller_may_decide() -> None:
    breaker = CircuitBreaker("decided", trip=ConsecutiveFailures(2), failure_if=lambda status: status == 503)
    async with breaker.guard() as call:
        call.ignore()
    async with breaker.guard() as call:
        call.failure("looks wrong")
    with pytest.raises(OSError):
        async with breaker.guard() as call:
            call.ignore()
            raise OSError
    async with breaker.guard() as call:
        assert call.check(200) == 200
    async with breaker.guard():
        pass
    assert breaker.snapshot().totals == Totals(successes=2, failures=1, ignored=2)
    async with breaker.guard() as call:
        call.failure("looks wrong")
    async with breaker.guard() as call:
        call.check(503)
    with pytest.raises(CircuitOpenError) as refusal:
        async with breaker.guard():
            pytest.fail("the block of a refused call never runs")
    assert str(refusal.value.last_failure) == "result: 503"


async def test_a_rule_that_raises_inside_a_block_counts_nothing_twice() -> None:
    def broken(result: object) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker("broken rule", failure_if=broken)
    with pytest.raises(ZeroDivisionError):
        async with breaker.guard() as call:
            call.check(5)
    assert breaker.snapshot().totals == Totals(ignored=1)
    assert breaker.snapshot().in_flight == 0


async def test_one_guard_object_guards_one_block_at_a_time() -> None:
    guard = CircuitBreaker("once").guard()
    with pytest.raises(RuntimeError, match="belongs inside"):
        guard.check(1)
    async with guard:
        with pytest.raises(RuntimeError, match="every block needs its own"):
            await guard.__aenter__()
    async with guard:
        pass


# -- token


async def test_a_permit_settles_once() -> None:
    breaker = CircuitBreaker("token", trip=ConsecutiveFailures(1))
    permit = await breaker.acquire()
    assert not permit.settled
    permit.success()
    permit.failure()
    permit.ignore()
    assert permit.settled
    ignored = await breaker.acquire()
    ignored.ignore()
    assert breaker.snapshot().totals == Totals(successes=1, ignored=1)
    assert (await breaker.acquire()).check("result") == "result"
    (await breaker.acquire()).failure(OSError("down"))
    with pytest.raises(CircuitOpenError) as refusal:
        await breaker.acquire()
    assert str(refusal.value.last_failure) == "OSError: down"


async def test_a_permit_thrown_away_warns_and_gives_its_slot_back() -> None:
    breaker = CircuitBreaker("thrown away")
    breaker.half_open()
    with pytest.warns(ResourceWarning, match="'thrown away' was never settled"):
        await breaker.acquire()
    (await breaker.acquire()).success()
    assert breaker.state is State.CLOSED


@pytest.mark.anyio
async def test_a_subclass_with_a_call_of_its_own_decorates_with_it() -> None:
    class Doubling(CircuitBreaker):
        async def call(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return 2 * await super().call(fn, *args, **kwargs)

    breaker = Doubling("doubling")

    @breaker
    async def one() -> int:
        return 1

    assert await one() == 2
    assert breaker.snapshot().calls == 1
