"""One stream for the events of all breakers, present and future; it costs nothing while nobody listens."""

import logging
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import anyio
import pytest

from aiobreaker import (
    BreakerRegistry,
    CallFinished,
    CircuitBreaker,
    Event,
    EventsLost,
    RegistryGrown,
    State,
    StateChanged,
)

from .stage import Factory, alive, fail

End = Callable[[], None]


def told(events: list[Event]) -> list[tuple[str, State]]:
    return [(event.name[-1], event.new) for event in events if isinstance(event, StateChanged)]


def hub_is_quiet(breaker: CircuitBreaker) -> bool:
    hub = breaker._gate.hub
    return not (hub.wanted or hub.wants_calls or hub.audience) and breaker._gate.circuit.door.era is not None


async def test_a_stream_joins_the_breakers_present_and_future(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    present = registry["a"]
    async with registry.events() as events:
        present.force_open()
        registry["b"].disable()
        present.reset()
        seen = [await anext(events) for _ in range(3)]
    assert told(seen) == [("a", State.FORCED_OPEN), ("b", State.DISABLED), ("a", State.CLOSED)]
    assert [event.seq for event in seen] == [1, 1, 2]
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_events_of_calls_are_for_those_who_ask(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    registry["a"]
    transitions: list[Event] = []
    end = registry.subscribe(transitions.append)
    async with registry.events(calls=True) as events:
        for key in "ab":
            with pytest.raises(OSError, match="down"):
                await registry[key].call(fail)
        seen = [await anext(events) for _ in range(4)]
    end()
    assert [type(event) for event in seen] == [CallFinished, StateChanged] * 2
    assert transitions == seen[1::2]
    assert [event.name[-1] for event in seen] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("calls", [False, True])
async def test_without_listeners_no_event_is_made_and_guards_pass_by_themselves(calls: bool, factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    early = registry["early"]
    assert hub_is_quiet(early)
    async with registry.events(calls=calls):
        late = registry["late"]
        end = registry.subscribe(print, calls=calls)
        for breaker in (early, late):
            assert breaker._gate.hub.wanted
            assert breaker._gate.hub.wants_calls is calls
    assert not hub_is_quiet(early)
    end()
    end()
    assert hub_is_quiet(early)
    assert hub_is_quiet(late)
    for breaker in (early, late, registry["later"]):
        breaker.force_open()
        breaker.reset()
        assert breaker._gate.hub.seq == 0


async def test_who_listens_to_one_breaker_hears_no_less_for_it(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    breaker = registry["a"]
    own: list[Event] = []
    end_own = breaker.subscribe(own.append, calls=True)
    end = registry.subscribe(print, calls=True)
    end()
    await breaker.call(anyio.sleep, 0)
    assert [type(event) for event in own] == [CallFinished]
    joined: list[Event] = []
    registry.subscribe(joined.append, calls=True)
    end_own()
    await breaker.call(anyio.sleep, 0)
    assert [type(event) for event in joined] == [CallFinished]


async def test_a_slow_reader_loses_the_oldest_and_is_told(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    async with registry.events(buffer=3) as events:
        for key in range(10):
            registry[key].open()
        lost = await anext(events)
        assert isinstance(lost, EventsLost)
        assert (lost.count, lost.name) == (7, "")
        assert told([await anext(events) for _ in range(3)]) == [(key, State.OPEN) for key in "789"]
        assert events.lost == 7
    assert registry.events_lost == 7
    assert registry["0"].snapshot().events_lost == 0, "no stream of its own has lost any"


async def test_readers_in_several_tasks_get_every_breakers_events_in_order(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    seen: list[list[Event]] = [[], []]

    async def read(mine: list[Event]) -> None:
        async with registry.events(buffer=1_000) as events:
            async for event in events:
                mine.append(event)
                if len(mine) == 300:
                    return

    async with anyio.create_task_group() as tasks:
        for mine in seen:
            tasks.start_soon(read, mine)
        await anyio.wait_all_tasks_blocked()
        for turn in range(300):
            breaker = registry[turn % 7]
            breaker.force_open() if breaker.state is State.CLOSED else breaker.reset()
            if not turn % 50:
                await anyio.sleep(0)
    assert seen[0] == seen[1]
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in seen[0]:
        numbers[event.name].append(event.seq)
    assert len(numbers) == 7
    assert all(later == earlier + 1 for each in numbers.values() for earlier, later in pairwise(each))


@pytest.mark.parametrize("calls", [False, True])
async def test_a_reader_keeps_nothing_alive(calls: bool, factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    async with registry.events(calls=calls):
        for key in range(5):
            registry[key]
        assert alive(registry) == {4}


@pytest.mark.parametrize("calls", [False, True])
async def test_what_had_gone_and_is_held_is_heard_too(calls: bool, factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    held = registry["a"]
    registry["b"]
    assert list(registry) == ["b"]
    async with registry.events(calls=calls) as events:
        await held.call(anyio.sleep, 0)
        if calls:
            assert isinstance(await anext(events), CallFinished)
        assert "a" not in registry, "being heard is no use"
        held.force_open()
        assert told([await anext(events)]) == [("a", State.FORCED_OPEN)]
    assert held._gate.hub.wants_calls is False


async def test_what_had_gone_and_opened_while_nobody_listened_is_heard_afterwards(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=1)
    held = registry["a"]
    registry["b"]
    held.force_open()
    async with registry.events() as events:
        held.reset()
        assert told([await anext(events)]) == [("a", State.CLOSED)]


def test_nothing_of_a_new_breaker_is_missed() -> None:
    """Somebody comes, or is there already, at the very moment in which a new breaker becomes known."""

    class Key:
        def __hash__(self) -> int:
            if made and not heard:
                heard.append(made[-1]._gate.hub.wants_calls)
                ends.append(registry.subscribe(print, calls=True))
            return 1

    def make(key: Key) -> CircuitBreaker:
        made.append(CircuitBreaker("new"))
        return made[-1]

    made: list[CircuitBreaker] = []
    heard: list[bool] = []
    ends: list[End] = []
    registry = BreakerRegistry(make)
    first = registry[Key()]
    assert heard == [False]
    assert first._gate.hub.wants_calls is True
    made.clear()
    heard.clear()
    assert registry[Key()] is not first
    assert heard == [True]
    assert len(ends) == 2
    for end in ends:
        end()
    assert {registry[key]._gate.hub.wants_calls for key in registry} == {False}


def test_an_observer_may_ask_the_registry(factory: Factory) -> None:
    registry = BreakerRegistry(factory, max_size=2)
    sizes: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, RegistryGrown):
            sizes.append(event.size)
            if event.size < 20:
                for key in range(event.size):
                    registry[f"{event.size} {key}"].open()
        elif isinstance(event, StateChanged) and event.new is State.OPEN:
            assert registry[event.name.removeprefix("breaker of ")].state is State.OPEN
            assert event.name.removeprefix("breaker of ") in registry.snapshot()

    registry.subscribe(observe)
    for key in "abc":
        registry[key].open()
    assert sizes == [3, 6, 12, 24]
    assert len(registry) == 3 + 3 + 6 + 12


def test_an_observer_that_raises_is_logged_and_breaks_nothing(factory: Factory, caplog: pytest.LogCaptureFixture) -> None:
    registry = BreakerRegistry(factory, max_size=1)

    def raises(event: Event) -> None:
        raise ValueError("my own fault")

    registry.subscribe(raises)
    with caplog.at_level(logging.ERROR, "aiobreaker"):
        registry["a"].open()
        registry["b"]
    assert caplog.text.count("ValueError: my own fault") == 2


def test_bad_use_is_named(factory: Factory) -> None:
    registry = BreakerRegistry(factory)
    with pytest.raises(ValueError, match="buffer must be a whole number, 1 or more, not 0"):
        registry.events(buffer=0)
    with pytest.raises(TypeError, match="observer must be a function of one event, not 5"):
        registry.subscribe(5)  # type: ignore[arg-type]
