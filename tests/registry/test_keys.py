"""A registry makes one breaker for each key, and no user code runs under the lock while it does."""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from math import nan
from typing import Any

import pytest

from aiobreaker import BreakerRegistry, CircuitBreaker, Event, State
from aiobreaker.locking import LOCK, interrupted
from aiobreaker.testing import ManualClock

from .stage import DAY, Factory, alive


def test_a_breaker_is_made_once_for_each_key_and_named_by_the_factory(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    assert registry["a"] is registry["a"]
    assert registry["b"] is not registry["a"]
    assert registry[1] is registry[1.0]
    assert factory.keys == ["a", "b", 1]
    assert registry["b"].name == "breaker of b"
    assert repr(registry) == "<BreakerRegistry of 3 breakers, at most 1024>"


def test_looking_makes_nothing_and_is_no_request(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=2)
    assert "a" not in registry
    assert (len(registry), list(registry), dict(registry.snapshot())) == (0, [], {})
    assert factory.keys == []
    registry["a"], registry["b"]
    assert "a" in registry
    assert list(registry) == list(registry.snapshot()) == ["a", "b"]
    registry["c"]
    assert list(registry) == ["b", "c"]
    assert "a" not in registry


def test_keys_must_be_hashable(factory: Factory) -> None:
    registry: BreakerRegistry[Any] = BreakerRegistry(factory)
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        registry[[]]
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        assert [] in registry
    assert factory.keys == []


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"factory": 5}, TypeError, "factory must be a function of a key that returns a CircuitBreaker, not 5"),
        ({"max_size": 0}, ValueError, "max_size must be a whole number, 1 or more, not 0"),
        ({"max_size": True}, TypeError, "max_size must be a whole number, 1 or more, not True"),
        ({"max_size": 10.0}, TypeError, "max_size must be a whole number, 1 or more, not 10.0"),
        ({"idle_for": 0}, ValueError, r"idle_for must be a number of seconds above 0 \(infinity allowed\), not 0"),
        ({"idle_for": -1.0}, ValueError, "idle_for must be .*, not -1.0"),
        ({"idle_for": nan}, ValueError, "idle_for must be .*, not nan"),
        ({"idle_for": "600"}, TypeError, "idle_for must be .*, not '600'"),
        ({"clock": 5.0}, TypeError, "clock must be a function without arguments that returns a number, not 5.0"),
    ],
)
def test_settings_are_checked_at_once(settings: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        BreakerRegistry(**{"factory": Factory(), **settings})


# -- the factory


def test_what_the_factory_raises_leaves_nothing_behind(factory: Factory) -> None:
    errors: list[Exception] = [KeyError("no such tenant"), OSError("no configuration")]

    def make(key: str) -> CircuitBreaker:
        if errors:
            raise errors.pop()
        return factory(key)

    registry = BreakerRegistry(make)
    with pytest.raises(OSError, match="no configuration"):
        registry["a"]
    with pytest.raises(KeyError, match="no such tenant"):
        registry["a"]
    assert len(registry) == 0
    assert registry["a"].name == "breaker of a"


def test_a_factory_must_return_a_breaker() -> None:
    registry = BreakerRegistry(str)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="factory must return a CircuitBreaker, not 'a'"):
        registry["a"]
    assert len(registry) == 0


def test_a_breaker_has_one_key() -> None:
    breaker = CircuitBreaker("shared")
    asked: list[str] = []

    def make(key: str) -> CircuitBreaker:
        asked.append(key)
        return breaker if key in "ab" else CircuitBreaker(key)

    registry = BreakerRegistry(make, max_size=1)
    assert registry["a"] is breaker
    for other in (registry, BreakerRegistry(make)):
        with pytest.raises(ValueError, match="a new breaker for key 'b'; <CircuitBreaker 'shared' closed> has a key already"):
            other["b"]
    assert list(registry) == ["a"]
    registry["c"]
    assert alive(registry) == {"a", "c"}
    assert registry["a"] is breaker
    assert asked == ["a", "b", "b", "c"]


def test_a_factory_that_asks_for_its_own_key_is_told(factory: Factory) -> None:
    def make(key: str) -> CircuitBreaker:
        return registry[key] if key == "a" else factory(key)

    registry = BreakerRegistry(make)
    with pytest.raises(RuntimeError, match="key 'a' was asked for in the course of making the breaker for it"):
        registry["a"]
    assert registry["b"].name == "breaker of b"
    assert list(registry) == ["b"]


def test_a_factory_that_asks_for_its_own_key_again_and_again_is_told_each_time(factory: Factory) -> None:
    def make(key: str) -> CircuitBreaker:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="key 'a' was asked for in the course of making"):
                registry[key]
        return factory(key)

    registry = BreakerRegistry(make)
    registry["a"]
    assert factory.keys == ["a"]


def test_a_factory_may_ask_for_other_keys(factory: Factory) -> None:
    def make(key: str) -> CircuitBreaker:
        if key[1:]:
            registry[key[1:]]
        return factory(key)

    registry = BreakerRegistry(make)
    registry["abc"]
    assert factory.keys == list(registry) == ["c", "bc", "abc"]


# -- pictures


def test_a_snapshot_changes_nothing(factory: Factory) -> None:
    clock = ManualClock()
    factory.clock = clock
    registry = BreakerRegistry(factory, clock=clock)
    for key in range(1024):
        registry[key]
    registry[7].open(1)
    clock.advance(DAY)
    before = registry.snapshot()
    assert registry.snapshot() == before
    assert list(before) == list(registry) == [*range(7), *range(8, 1024), 7]
    assert before[7].state is State.OPEN
    assert before[7].retry_after == 0.0
    assert before[1].totals == (0, 0, 0, 0, 0, 0)


def test_a_snapshot_is_frozen(factory: Factory) -> None:
    registry: BreakerRegistry[str] = BreakerRegistry(factory, max_size=2)
    registry["a"]
    picture: Any = registry.snapshot()
    for key in picture:
        registry[key + "more"].open()
    for key in registry:
        registry[key + "yet more"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        picture["b"] = picture["a"]
    with pytest.raises(FrozenInstanceError):
        picture["a"].calls = 5
    assert list(picture) == ["a"]


# -- no user code under the lock, and users who come while it is held


class Touchy:
    """A key that collides with all others, and must not be asked under the lock."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        assert not interrupted()
        return 1

    def __eq__(self, other: object) -> bool:
        assert not interrupted()
        return isinstance(other, Touchy) and self.number == other.number

    def __repr__(self) -> str:
        assert not interrupted()
        return f"Touchy({self.number})"


def test_no_user_code_runs_under_the_lock(factory: Factory) -> None:
    ran: list[str] = []

    def clock() -> float:
        assert not interrupted()
        ran.append("clock")
        return len(ran) * 1.0

    def make(key: Touchy) -> CircuitBreaker:
        assert not interrupted()
        ran.append("factory")
        return CircuitBreaker("touchy", clock=clock)

    def observe(event: Event) -> None:
        assert not interrupted()
        ran.append("observer")

    registry = BreakerRegistry(make, max_size=5, idle_for=50.0, clock=clock)
    registry.subscribe(observe, calls=True)
    gc.collect()
    gc.disable()  # which may strike anywhere
    try:
        for number in range(40):
            registry[Touchy(number % 20)].open()
            registry[Touchy(number % 15)].reset()
            assert Touchy(number % 15) in registry
            assert len(registry.snapshot()) == len(list(registry)) == len(registry)
    finally:
        gc.enable()
    assert set(ran) == {"clock", "factory", "observer"}


def test_who_asks_while_the_lock_is_held_gets_a_breaker_that_is_kept(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=2)
    registry["a"], registry["b"]
    with LOCK:  # as a finaliser or a signal may find it
        assert registry["a"] is registry["a"]
        made = registry["c"]
    assert list(registry) == ["a", "b"]
    assert registry["c"] is made
    assert list(registry) == ["a", "c"]


class Finaliser:
    def __init__(self, end: Callable[[], object]) -> None:
        self._end = end

    def __del__(self) -> None:
        self._end()


def test_a_finaliser_may_ask_in_the_middle_of_anything(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=3)
    asked: list[int] = []

    def ask() -> None:
        asked.append(len(asked) % 7)
        with suppress(RuntimeError):  # in the middle of making that very breaker
            registry[asked[-1]]

    def litter() -> None:
        loop: list[object] = [Finaliser(ask)]
        loop.append(loop)

    usual = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    try:
        for number in range(2_000):
            litter()
            registry[number % 5]
    finally:
        gc.set_threshold(*usual)
    gc.collect()
    assert len(asked) == 2_000
    registry["last"]
    assert len(registry) == 3
    assert len(set(registry)) == 3
