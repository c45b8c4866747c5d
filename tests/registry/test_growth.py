"""When nothing can go the registry grows, says so, and shrinks again; the price of a request stays the same all the while."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import BreakerRegistry, CircuitBreaker, Event, RegistryGrown, State
from aiobreaker.testing import ManualClock

from .stage import Factory, alive


def test_when_nothing_can_go_it_grows_and_says_so_and_shrinks_when_it_can(factory: Factory) -> None:
    clock = ManualClock(5.0)
    registry = BreakerRegistry(factory, max_size=4, clock=clock)
    told: list[Event] = []
    registry.subscribe(told.append)

    def grow(size: int) -> list[tuple[int, int]]:
        told.clear()
        for key in range(size):
            registry[key].open()
        return [(event.size, event.seq) for event in told if isinstance(event, RegistryGrown)]

    assert grow(16) == [(5, 1), (10, 2)], "at first, and when it has doubled"
    assert len(registry) == 16
    assert [(event.name, event.at, event.max_size) for event in told if isinstance(event, RegistryGrown)][:1] == [("", 5.0, 4)]
    assert grow(16) == [], "no news"
    for key in range(16):
        registry[key].reset()
    assert list(registry) == [12, 13, 14, 15]
    assert grow(5) == [(5, 3)], "another time"


def test_who_comes_late_is_told_at_the_next_request_for_a_new_key(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    for key in range(10):
        registry[key].open()
    told: list[Event] = []
    registry.subscribe(told.append)
    registry["new"]
    assert [event.size for event in told if isinstance(event, RegistryGrown)] == [11]


def test_it_shrinks_at_once_when_all_can_go(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=10)
    breakers = [registry[key] for key in range(100)]
    for breaker in breakers:
        breaker.open()
    for key in range(100):
        registry[key]
    for breaker in breakers:
        breaker.reset()
    registry["new"]
    assert len(registry) == 10
    breakers[5].open()
    assert list(registry)[-1] == 5


def test_among_many_that_cannot_go_the_one_that_can_is_found(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    breakers = [registry[key] for key in range(30)]
    for breaker in breakers:
        breaker.open()
    registry["new"]
    assert len(registry) == 31
    breakers[20].reset()
    for _ in range(8):
        registry["new"]
    assert set(registry) == {*range(30), "new"} - {20}


def test_what_can_go_again_need_not_go_at_once(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=2)
    breaker = registry["a"]
    breaker.open()
    registry["b"], registry["c"]
    breaker.reset()
    registry["c"]
    assert list(registry) == ["a", "c"]
    registry["d"]
    assert list(registry) == ["c", "d"], "it is the longest unused still"


@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["ask", "ask", "open", "reset"]), st.integers(0, 3))))
def test_at_random_what_may_not_go_stays_and_the_rest_is_bounded(steps: list[tuple[int, str, int]]) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(Factory(), max_size=3, idle_for=10, clock=clock)
    opened: set[int] = set()
    for key, order, pause in steps:
        clock.advance(pause)
        breaker = registry[key]
        if order == "open":
            breaker.open()
            opened.add(key)
        elif order == "reset":
            breaker.reset()
            opened.discard(key)
        keys = list(registry)
        assert opened <= set(keys)
        assert len(keys) == len(set(keys))
        assert len(keys) <= max(3, len(opened | {key}))
        assert {key for key, seen in registry.snapshot().items() if seen.state is State.OPEN} == opened


# -- the price


def test_a_great_many_keys_used_once_stay_within_the_size_at_a_price_that_does_not_grow(looks: list[object]) -> None:
    registry: BreakerRegistry[int] = BreakerRegistry(lambda key: CircuitBreaker("one of many"))
    for key in range(20_000):
        registry[key]
        assert len(registry) <= 1024
    assert len(looks) == 20_000 - 1024, "one look for each that went"
    assert list(registry) == list(range(20_000 - 1024, 20_000))
    assert len(alive(registry)) == 1024


def test_the_price_does_not_grow_when_nothing_can_go(looks: list[object], factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=10)
    most = 0
    for key in range(2_000):
        looks.clear()
        registry[key].open()
        most = max(most, len(looks))
    assert len(registry) == 2_000
    assert most <= 20
    looks.clear()
    for _ in range(100):
        registry[key]
    assert len(looks) <= 400
    for key in range(2_000):
        registry[key].reset()
        registry["one"]
    assert len(registry) == 10


def test_a_request_for_what_is_there_takes_the_short_way(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(factory, max_size=5, idle_for=60, clock=clock)
    for key in range(5):
        registry[key]
    monkeypatch.delattr(BreakerRegistry, "_tidy")
    for key in range(5):
        clock.advance(11)
        registry[key]
    with pytest.raises(AttributeError, match="_tidy"):
        registry["new"]


def test_no_request_lets_go_of_very_many_at_once(looks: list[object], factory: Factory) -> None:
    clock = ManualClock()
    registry = BreakerRegistry(factory, max_size=2_000, clock=clock)
    for key in range(2_000):
        registry[key]
    clock.advance(600)
    requests = 0
    while len(registry) > 1:
        looks.clear()
        registry["new"]
        requests += 1
        assert len(looks) <= 256
    assert requests <= 10
