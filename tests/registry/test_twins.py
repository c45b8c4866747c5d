"""Whoever holds a breaker that has gone, or any part of it, holds the one that its key leads to."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, State

from .stage import Factory, alive, fail


def in_a_variable(breaker: CircuitBreaker) -> object:
    return breaker


def in_a_function(breaker: CircuitBreaker) -> object:
    return breaker(fail)


def in_a_guard_not_entered(breaker: CircuitBreaker) -> object:
    return breaker.guard()


def in_a_stream_not_entered(breaker: CircuitBreaker) -> object:
    return breaker.events()


def in_the_end_of_a_subscription(breaker: CircuitBreaker) -> object:
    unsubscribe = breaker.subscribe(print)
    unsubscribe()
    return unsubscribe


def in_a_call_not_begun(breaker: CircuitBreaker) -> object:
    return breaker.call(fail)


HOLDS = [
    in_a_variable,
    in_a_function,
    in_a_guard_not_entered,
    in_a_stream_not_entered,
    in_the_end_of_a_subscription,
    in_a_call_not_begun,
]


@pytest.mark.parametrize("hold", HOLDS)
def test_what_is_held_gets_no_twin(hold: Callable[[CircuitBreaker], object], factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    held: Any = hold(registry["a"])
    before = id(registry["a"])
    registry["b"]
    assert list(registry) == ["b"]
    assert alive(registry) == {"a", "b"}
    assert id(registry["a"]) == before
    registry["b"]
    if hold is in_a_call_not_begun:
        held.close()
    del held
    assert alive(registry) == {"b"}
    assert registry["a"].state is State.CLOSED
    assert factory.keys == ["a", "b", "a"]


async def test_what_had_gone_comes_back_when_it_opens(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    function = registry["a"](fail)
    registry["b"]
    assert list(registry) == ["b"]
    with pytest.raises(OSError, match="down"):
        await function()
    assert "a" in registry
    del function
    assert alive(registry) == {"a"}
    assert registry["a"].state is State.OPEN


@pytest.mark.parametrize("order", ["open", "half_open", "force_open", "disable", "metrics_only"])
def test_what_had_gone_comes_back_when_it_is_given_an_order(order: str, factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    breaker = registry["a"]
    registry["b"]
    breaker.reset()
    assert "a" not in registry
    getattr(breaker, order)()
    assert "a" in registry
    assert registry.snapshot()["a"].state is breaker.state


def test_what_had_gone_comes_back_when_it_is_observed(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    breaker = registry["a"]
    registry["b"]
    breaker.subscribe(print)
    assert "a" in registry


def test_what_has_gone_loses_its_counts() -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(CircuitBreaker, max_size=1)

    def calls() -> int:
        for _ in range(2):
            with pytest.raises(OSError, match="down"):
                anyio.run(registry["a"].call, fail)
        return registry["a"].snapshot().calls

    assert calls() == 2
    registry["b"]
    assert alive(registry) == {"b"}
    assert calls() == 2
