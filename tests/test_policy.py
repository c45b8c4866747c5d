"""A policy of one's own needs `call` only; decorators keep what they decorate; `target` finds the function that is meant."""

import inspect
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Never, ParamSpec, TypeVar

import anyio
import pytest

from aiobreaker import CircuitBreaker, Event
from aiobreaker.lint import Traits
from aiobreaker.locking import LOCK
from aiobreaker.loops import BACKLOG
from aiobreaker.policies.events import TimedOut
from aiobreaker.policy import NamedPolicy, Pipeline, Policy, target
from aiobreaker.testing import ManualClock

P = ParamSpec("P")
T = TypeVar("T")


class Minimal(Policy[Never]):
    """What a user writes: `call`, and nothing else."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.calls.append((fn, args, kwargs))
        return await fn(*args, **kwargs)

    async def fetch(self, sku: str) -> str:
        return sku


class Telling(NamedPolicy[Never]):
    """Tells of every call."""

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._tell(TimedOut, after=1.0)
        return await fn(*args, **kwargs)

    def tell(self) -> None:
        self._tell(TimedOut, after=1.0)


class Swift(Policy[Never]):
    """Has a faster way for the decorator."""

    ways: list[str]

    def __init__(self) -> None:
        self.ways = []

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.ways.append("call")
        return await fn(*args, **kwargs)

    def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def swift(*args: Any, **kwargs: Any) -> Any:
            self.ways.append("around")
            return await fn(*args, **kwargs)

        return swift


async def price(sku: str, *, currency: str = "EUR") -> str:
    """What it costs."""
    return f"{sku} in {currency}"


GUARDS: dict[str, Callable[[], Policy[Any]]] = {
    "minimal": Minimal,
    "swift": Swift,
    "named": lambda: Telling("telling"),
    "breaker": lambda: CircuitBreaker("breaker"),
    "pipeline": lambda: Minimal() | CircuitBreaker("breaker") | Swift(),
}


@pytest.fixture(params=GUARDS)
def guard(request: pytest.FixtureRequest) -> Policy[Any]:
    return GUARDS[request.param]()


# -- one's own


async def test_a_policy_of_ones_own_needs_call_only() -> None:
    policy = Minimal()
    assert await policy.call(price, "pear", currency="USD") == "pear in USD"
    assert await policy(price)("pear", currency="USD") == "pear in USD"
    assert policy.calls == [(price, ("pear",), {"currency": "USD"})] * 2
    assert repr(policy) == "<Minimal>"
    assert policy.traits == Traits(kind="other", words="<Minimal>")
    assert policy.snapshot() is None
    end = policy.subscribe(print)
    end()
    end()


def test_a_policy_needs_call() -> None:
    class Unfinished(Policy[Never]):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()  # type: ignore[abstract]


async def test_a_new_call_is_not_bypassed_by_an_older_and_faster_way() -> None:
    class Changed(Swift):
        async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
            self.ways.append("changed")
            return await super().call(fn, *args, **kwargs)

    class FasterAgain(Changed):
        def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
            return Swift._around(self, fn)

    class Renamed(Swift):
        pass

    for kind, ways in ((Changed, ["changed", "call"]), (FasterAgain, ["around"]), (Renamed, ["around"])):
        policy = kind()
        assert await policy(price)("pear") == "pear in EUR"
        assert policy.ways == ways


async def test_a_call_that_is_mixed_in_is_not_bypassed_either() -> None:
    class Loud(Policy[Never]):
        async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
            shouts.append("loud")
            return await super().call(fn, *args, **kwargs)  # type: ignore[safe-super]

    class LoudSwift(Loud, Swift):
        pass

    shouts: list[str] = []
    policy = LoudSwift()
    await policy(price)("pear")
    assert (shouts, policy.ways) == (["loud"], ["call"])


# -- the decorator


async def test_a_decorated_function_is_like_itself(guard: Policy[Any]) -> None:
    guarded = guard(price)
    assert guarded.__name__ == "price"
    assert guarded.__qualname__ == "price"
    assert guarded.__doc__ == "What it costs."
    assert guarded.__module__ == __name__
    assert inspect.signature(guarded) == inspect.signature(price)
    assert inspect.iscoroutinefunction(guarded)
    assert inspect.unwrap(guarded) is price
    assert await guarded("pear", currency="USD") == "pear in USD"


async def test_methods_of_all_kinds_can_be_decorated(guard: Policy[Any]) -> None:
    class Shop:
        @guard
        async def method(self, sku: str) -> tuple[object, str]:
            return self, sku

        @guard
        @classmethod
        async def of_class(cls, sku: str) -> tuple[object, str]:
            return cls, sku

        @classmethod
        @guard
        async def of_class_inside(cls, sku: str) -> tuple[object, str]:
            return cls, sku

        @guard
        @staticmethod
        async def static(sku: str) -> str:
            return sku

        @staticmethod
        @guard
        async def static_inside(sku: str) -> str:
            return sku

    class Market(Shop):
        pass

    shop = Market()
    assert await shop.method("pear") == (shop, "pear")
    assert await shop.of_class("pear") == await Market.of_class_inside("pear") == (Market, "pear")
    assert await shop.static("pear") == await Market.static_inside("pear") == "pear"
    for function in (shop.method, shop.of_class, Market.of_class_inside, shop.static, Market.static_inside):
        assert inspect.iscoroutinefunction(function)
        assert list(inspect.signature(function).parameters) == ["sku"]


async def test_what_is_no_async_function_cannot_be_decorated(guard: Policy[Any]) -> None:
    class Callee:
        async def __call__(self) -> None: ...

    def plain() -> None: ...

    for thing in (plain, Callee(), 5, None, Callee, staticmethod(plain)):
        with pytest.raises(TypeError, match=r"only async functions .*can be decorated, not .*; see call\(\) for others"):
            guard(thing)  # type: ignore[arg-type]


@pytest.mark.parametrize("guard", [Minimal(), Pipeline(CircuitBreaker("alone"))], ids=["policy", "pipeline"])
def test_async_generator_functions_are_for_circuit_breakers(guard: Policy[Any]) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(
        TypeError, match=r"only circuit breakers can decorate async generator functions; .*cannot decorate <fun"
    ):
        guard(numbers)  # type: ignore[arg-type]


async def test_a_partial_of_an_async_function_can_be_decorated() -> None:
    guarded = Minimal()(partial(price, currency="USD"))
    assert await guarded("pear") == "pear in USD"
    assert list(inspect.signature(guarded).parameters) == ["sku", "currency"]


async def test_a_policy_that_steps_aside_leaves_the_function_as_it_is() -> None:
    class Aside(Minimal):
        def _around(self, fn: Callable[..., Any]) -> Callable[..., Any]:
            return fn

    async def alone() -> int:
        return 5

    assert Aside()(alone) is alone
    assert inspect.unwrap((Minimal() | Aside())(alone)) is alone
    assert await (Aside() | Aside())(alone)() == 5


async def test_arguments_may_have_any_name(guard: Policy[Any]) -> None:
    async def takes(**named: object) -> dict[str, object]:
        return named

    names = dict.fromkeys(["self", "fn", "policy", "args", "kwargs", "call", "outer", "inner", "gate", "clock", "name"], 1)
    assert await guard.call(takes, **names) == names
    assert await guard(takes)(**names) == names


async def test_errors_pass_as_themselves(guard: Policy[Any]) -> None:
    async def fail() -> None:
        raise error

    for error in (OSError("down"), ExceptionGroup("two", [OSError(), ValueError()])):
        for way in (partial(guard.call, fail), guard(fail)):
            with pytest.raises(type(error)) as caught:
                await way()
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (None, None)


async def test_call_takes_whatever_returns_an_awaitable(guard: Policy[Any]) -> None:
    class Later:
        def __init__(self, value: str) -> None:
            self.value = value

        def __await__(self) -> Any:
            yield from anyio.lowlevel.checkpoint().__await__()
            return self.value

    class Callee:
        async def __call__(self, value: str) -> str:
            return value

    functions: list[Callable[[str], Awaitable[str]]] = [price, Later, Callee(), lambda sku: price(sku), Minimal().fetch]
    for function in functions:
        assert (await guard.call(function, "pear")).startswith("pear")


# -- names and events


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": 5}, "name must be a string, not 5"),
        ({"name": ""}, "name must not be empty"),
        ({"name": "bad", "clock": 5}, "clock must be a function without arguments that returns a number, not 5"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Telling(**settings)


def test_only_functions_can_observe() -> None:
    for policy in (Minimal(), Telling("telling"), Minimal() | Telling("telling")):
        with pytest.raises(TypeError, match="observer must be a function of one event, not 5"):
            policy.subscribe(5)  # type: ignore[arg-type]


def test_a_named_policy_says_its_name() -> None:
    policy = Telling("prices")
    assert (policy.name, repr(policy)) == ("prices", "<Telling 'prices'>")


def test_without_an_audience_no_event_is_made_and_no_clock_is_read() -> None:
    def broken() -> float:
        raise AssertionError

    policy = Telling("alone", broken)
    policy.tell()
    assert policy._hub is None
    policy.subscribe(print)()
    policy.tell()
    assert policy._hub is not None
    assert policy._hub.seq == 0


async def test_events_are_numbered_stamped_and_in_order() -> None:
    clock = ManualClock(5.0)
    policy = Telling("stamped", clock)
    heard: list[Event] = []
    end = policy.subscribe(heard.append)
    async with policy.events() as events:
        for _ in range(3):
            policy.tell()
            clock.advance(1)
        read = [await anext(events) for _ in range(3)]
    end()
    policy.tell()
    assert heard == read
    assert [(event.name, event.seq, event.at) for event in heard] == [("stamped", seq, seq + 4.0) for seq in (1, 2, 3)]
    assert all(isinstance(event, TimedOut) and event.after == 1.0 and event.time > 1e9 for event in heard)


async def test_observers_that_raise_do_not_raise_into_the_call(caplog: pytest.LogCaptureFixture) -> None:
    def rude(event: Event) -> None:
        raise ZeroDivisionError

    policy = Telling("rude")
    heard: list[Event] = []
    policy.subscribe(rude)
    policy.subscribe(heard.append, calls=True)
    with caplog.at_level(logging.ERROR, "aiobreaker"):
        assert await policy.call(price, "pear") == "pear in EUR"
    assert len(heard) == 1
    assert "an observer of 'rude' raised" in caplog.text


def test_what_an_observer_makes_happen_is_told_afterwards() -> None:
    policy = Telling("echo")
    first: list[int] = []
    second: list[int] = []

    def echo(event: Event) -> None:
        first.append(event.seq)
        if event.seq < 3:
            policy.tell()

    policy.subscribe(echo)
    policy.subscribe(lambda event: second.append(event.seq))
    policy.tell()
    assert first == second == [1, 2, 3]


def test_an_observer_may_end_itself_and_bring_in_another() -> None:
    policy = Telling("relay")
    heard: list[str] = []

    def first(event: Event) -> None:
        heard.append("first")
        end()
        policy.subscribe(lambda event: heard.append("second"))

    end = policy.subscribe(first)
    policy.tell()
    policy.tell()
    assert heard == ["first", "second"]


def test_what_a_finaliser_tells_in_the_middle_of_a_transition_is_told_after_it() -> None:
    policy = Telling("finalised")
    heard: list[bool] = []
    policy.subscribe(lambda event: heard.append(LOCK._is_owned()))  # type: ignore[attr-defined]
    with LOCK:
        policy.tell()
        assert heard == []
    policy.tell()
    assert heard == [False, False]
    with LOCK:
        policy.tell()
    BACKLOG.catch_up()
    assert heard == [False] * 3


def test_numbers_stay_exact_over_threads() -> None:
    policy = Telling("shared")
    heard: list[int] = []
    policy.subscribe(lambda event: heard.append(event.seq))

    def tell() -> None:
        for _ in range(500):
            policy.tell()

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert heard == list(range(1, 2001))


# -- target


def found(policy: Policy[Any], fn: Callable[..., Awaitable[Any]], *args: Any) -> tuple[Any, ...]:
    """What the innermost of these policies finds out, and the outermost."""
    seen: list[tuple[Any, ...]] = []

    class Looking(Policy[Never]):
        async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
            seen.append(target(fn, args))
            return await fn(*args, **kwargs)

    async def run() -> None:
        await (Looking() | policy | Looking()).call(fn, *args)

    anyio.run(run)
    outermost, innermost = seen
    assert outermost == innermost
    return outermost


class OverridesCall(Pipeline[Any]):
    async def call(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
        return await super().call(fn, *args, **kwargs)


class CallsBase(Minimal):
    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        base: Any = super().call
        answer: T = await Minimal().call(base, fn, *args, **kwargs)
        return answer


@pytest.mark.parametrize(
    "policy",
    [
        Minimal(),
        CircuitBreaker("between"),
        Minimal() | (CircuitBreaker("between") | Telling("told")),
        OverridesCall(Minimal(), CircuitBreaker("between")),
        CallsBase(),
    ],
    ids=["policy", "breaker", "nested", "subclass of Pipeline", "call of a base class"],
)
def test_the_target_is_what_the_user_gave(policy: Policy[Any]) -> None:
    own = Minimal()
    assert found(policy, price, "pear") == (price, ("pear",))
    assert found(policy, own.fetch, "pear") == (own.fetch, ("pear",)), "another method of a policy"
    half = partial(price, currency="USD")
    assert found(policy, half, "pear") == (half, ("pear",))
    assert found(policy, own.call, price, "pear") == (price, ("pear",)), "a policy called by hand"


def test_the_call_of_a_base_class_is_seen_through() -> None:
    policy = CallsBase()
    assert target(super(CallsBase, policy).call, (price, "pear")) == (price, ("pear",))


def test_target_leaves_alone_what_is_no_call() -> None:
    class Service:
        async def call(self, fn: object) -> None: ...

        @classmethod
        async def made(cls, fn: object) -> None: ...

    class Alias(Minimal):
        also = Minimal.call

    service = Service()
    policy = Minimal()
    assert target(service.call, (price,)) == (service.call, (price,))
    assert target(Service.made, (price,)) == (Service.made, (price,))
    assert target(policy.call, ()) == (policy.call, ())
    assert target(policy, (price,)) == (policy, (price,))
    assert target(Alias().also, (price, 1)) == (price, (1,)), "the same function by another name"
    assert target(len, ("pear",)) == (len, ("pear",))
