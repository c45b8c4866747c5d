"""One stream of all policies: every event once, in order, exactly as long as somebody listens; nothing is left afterwards."""

import gc
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Never, ParamSpec, TypeVar

import anyio
import pytest

from aiobreaker import CallFinished, CircuitBreaker, Event, EventsLost, State, StateChanged
from aiobreaker.policies.events import TimedOut
from aiobreaker.policy import NamedPolicy, Pipeline, Policy
from aiobreaker.testing import ManualClock

from .loops.stage import in_loops, in_threads

P = ParamSpec("P")
T = TypeVar("T")


class Telling(NamedPolicy[Never]):
    """Tells of every call."""

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.tell()
        return await fn(*args, **kwargs)

    def tell(self) -> None:
        self._tell(TimedOut, after=1.0)

    @property
    def audience(self) -> int:
        return 0 if self._hub is None else self._hub.audience


def audience(breaker: CircuitBreaker) -> int:
    return breaker._gate.hub.audience


async def fine() -> str:
    await anyio.lowlevel.checkpoint()
    return "fine"


def names(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.name, event.seq) for event in events]


async def test_one_stream_of_all_policies() -> None:
    a, breaker, b = Telling("a"), CircuitBreaker("breaker"), Telling("b")
    pipeline = a | breaker | b
    heard: list[Event] = []
    end = pipeline.subscribe(heard.append)
    async with pipeline.events() as events:
        await pipeline.call(fine)
        breaker.disable()
        await pipeline(fine)()
        read = [await anext(events) for _ in range(5)]
    end()
    await pipeline.call(fine)
    breaker.reset()
    assert names(heard) == [("a", 1), ("b", 1), ("breaker", 1), ("a", 2), ("b", 2)]
    assert read == heard


async def test_events_of_single_calls_are_for_those_who_ask() -> None:
    a, breaker = Telling("a"), CircuitBreaker("breaker")
    pipeline = a | breaker
    few: list[Event] = []
    all_of_them: list[Event] = []
    ends = [pipeline.subscribe(few.append), pipeline.subscribe(all_of_them.append, calls=True)]
    async with pipeline.events(calls=True) as events:
        await pipeline.call(fine)
        breaker.force_open()
        read = [await anext(events) for _ in range(3)]
    assert [type(event) for event in few] == [TimedOut, StateChanged]
    assert [type(event) for event in all_of_them] == [TimedOut, CallFinished, StateChanged]
    assert read == all_of_them
    ends[1]()
    assert breaker._gate._brisk
    breaker.reset()
    assert len(few) == 3


async def test_policies_are_listened_to_exactly_as_long_as_somebody_listens() -> None:
    a, breaker = Telling("a"), CircuitBreaker("breaker")
    pipeline = a | breaker
    waiting = pipeline.events(calls=True)
    assert (a._hub, audience(breaker)) == (None, 0), "a stream that is not open hears nothing"
    assert breaker._gate._brisk
    ends = [pipeline.subscribe(lambda event: None), pipeline.subscribe(lambda event: None)]
    for _ in range(2):
        async with waiting:
            assert (a.audience, audience(breaker)) == (3, 3)
            assert not breaker._gate._brisk
        assert (a.audience, audience(breaker)) == (2, 2)
        assert breaker._gate._brisk
    for left, end in ((1, ends[0]), (0, ends[1])):
        end()
        end()
        assert (a.audience, audience(breaker)) == (left, left)


async def test_a_stream_ends_with_its_block_and_can_be_opened_again() -> None:
    a = Telling("a")
    stream = Pipeline(a).events()
    async with stream:
        a.tell()
    a.tell()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    async with stream:
        a.tell()
        assert (await anext(stream)).seq == 2, "the one between was told to nobody, and has no number"


async def test_a_slow_reader_of_a_pipeline_learns_what_it_has_lost() -> None:
    a, b = Telling("a"), Telling("b")
    async with (a | b).events(buffer=2) as events:
        for _ in range(3):
            a.tell()
            b.tell()
        lost = await anext(events)
        assert isinstance(lost, EventsLost)
        assert (lost.name, lost.count, events.lost) == ("", 4, 4)
        assert names([await anext(events) for _ in range(2)]) == [("a", 3), ("b", 3)]
    with pytest.raises(ValueError, match="buffer must be a whole number, 1 or more, not 0"):
        Pipeline(a).events(buffer=0)


def test_the_same_policy_twice_is_told_once() -> None:
    a, breaker = Telling("a"), CircuitBreaker("breaker")
    pipeline = a | breaker | a | breaker
    heard: list[Event] = []
    end = pipeline.subscribe(heard.append, calls=True)
    breaker.disable()
    a.tell()
    assert names(heard) == [("breaker", 1), ("a", 1)]
    end()
    assert (a.audience, audience(breaker)) == (0, 0)


def test_policies_that_are_equal_are_still_two() -> None:
    class Alike(Telling):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    one, two = Alike("one"), Alike("two")
    heard: list[Event] = []
    (one | two).subscribe(heard.append)
    one.tell()
    two.tell()
    assert names(heard) == [("one", 1), ("two", 1)]


def test_two_pipelines_may_share_a_policy() -> None:
    a, b, shared = Telling("a"), Telling("b"), Telling("shared")
    first, second = a | shared, b | shared
    heard_first: list[Event] = []
    heard_second: list[Event] = []
    end_first = first.subscribe(heard_first.append)
    end_second = second.subscribe(heard_second.append)
    for policy in (a, b, shared):
        policy.tell()
    end_first()
    shared.tell()
    end_second()
    shared.tell()
    assert names(heard_first) == [("a", 1), ("shared", 1)]
    assert names(heard_second) == [("b", 1), ("shared", 1), ("shared", 2)]


async def test_a_pipeline_inside_that_is_no_plain_one_is_heard_too() -> None:
    class Own(Pipeline[Any]):
        async def call(self, fn: Callable[..., Awaitable[Any]], /, *args: Any, **kwargs: Any) -> Any:
            return await super().call(fn, *args, **kwargs)

    a, b = Telling("a"), Telling("b")
    pipeline = a | Own(b)
    heard: list[Event] = []
    end = pipeline.subscribe(heard.append)
    await pipeline.call(fine)
    end()
    assert names(heard) == [("a", 1), ("b", 1)]
    assert (a.audience, b.audience) == (0, 0)


# -- an audience that changes


async def test_a_change_of_audience_loses_and_doubles_nothing() -> None:
    breaker = CircuitBreaker("breaker")
    pipeline = Telling("a") | breaker
    heard: list[Event] = []
    pipeline.subscribe(heard.append)
    later: list[Event] = []
    for _ in range(3):
        await pipeline.call(fine)
        end = pipeline.subscribe(later.append, calls=True)
        await pipeline.call(fine)
        breaker.disable()
        end()
        breaker.reset()
    assert [type(event) for event in heard] == [TimedOut, TimedOut, StateChanged, StateChanged] * 3
    assert [type(event) for event in later] == [TimedOut, CallFinished, StateChanged] * 3


@pytest.mark.parametrize("calls", [False, True])
def test_observers_that_come_and_go_inside_an_observer_lose_and_double_nothing(calls: bool) -> None:
    breaker, a = CircuitBreaker("breaker"), Telling("a")
    pipeline = breaker | a
    heard: list[Event] = []
    later: list[Event] = []
    visits = 0

    def relay(event: Event) -> None:
        nonlocal visits
        visits += 1
        end()
        ends.append(pipeline.subscribe(later.append, calls=calls))

    ends: list[Callable[[], None]] = []
    end = pipeline.subscribe(relay)
    pipeline.subscribe(heard.append)
    for _ in range(2):
        breaker.disable()
        a.tell()
        breaker.reset()
    assert visits == 1
    assert names(heard) == [("breaker", 1), ("a", 1), ("breaker", 2), ("breaker", 3), ("a", 2), ("breaker", 4)]
    after = names(later)
    assert len(after) == len(set(after)), "nothing twice"
    assert [name for name in after if name != ("breaker", 1)] == names(heard)[1:]


def test_an_observer_that_ends_another_ends_it_at_once() -> None:
    a = Telling("a")
    pipeline = Pipeline(a)
    heard: list[Event] = []
    pipeline.subscribe(lambda event: end())
    end = pipeline.subscribe(heard.append)
    a.tell()
    a.tell()
    assert heard == []


def test_an_observer_hears_one_event_at_a_time() -> None:
    a, breaker = Telling("a"), CircuitBreaker("breaker")
    heard: list[Event] = []
    depth = deepest = 0

    def give_orders(event: Event) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if isinstance(event, TimedOut):
            breaker.force_open()
        heard.append(event)
        depth -= 1

    (a | breaker).subscribe(give_orders)
    a.tell()
    assert names(heard) == [("a", 1), ("breaker", 1)]
    assert deepest == 1


def test_an_observer_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def rude(event: Event) -> None:
        raise ZeroDivisionError

    a = Telling("a")
    heard: list[Event] = []
    Pipeline(a).subscribe(rude)
    Pipeline(a).subscribe(heard.append)
    a.tell()
    assert len(heard) == 1
    assert "an observer of 'a' raised" in caplog.text


class Broken(Policy[Never]):
    """Cannot be listened to."""

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await fn(*args, **kwargs)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        raise ZeroDivisionError


async def test_if_one_policy_cannot_be_listened_to_none_is() -> None:
    a, b = Telling("a"), Telling("b")
    pipeline = a | Broken() | b
    with pytest.raises(ZeroDivisionError):
        pipeline.subscribe(print)
    with pytest.raises(ZeroDivisionError):
        async with pipeline.events():
            pass
    assert (a.audience, b.audience) == (0, 0)


def test_the_end_of_one_that_raises_still_ends_the_others() -> None:
    class Sticky(Broken):
        def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
            def end() -> None:
                raise ZeroDivisionError

            return end

    a, b = Telling("a"), Telling("b")
    end = (a | Sticky() | b).subscribe(id)
    with pytest.raises(ZeroDivisionError):
        end()
    assert (a.audience, b.audience) == (0, 0)
    end()


# -- what is left


def test_nothing_is_left_when_the_last_has_gone() -> None:
    shared = Telling("shared")
    breaker = CircuitBreaker("breaker")

    class Ear:
        def hear(self, event: Event) -> None: ...

    ear = Ear()
    pipeline = shared | breaker
    end = pipeline.subscribe(ear.hear, calls=True)
    gone: list[weakref.ref[Any]] = [weakref.ref(pipeline), weakref.ref(ear)]
    end()
    del pipeline, ear, end
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_a_pipeline_that_nobody_keeps_goes_and_its_observers_stay() -> None:
    shared = Telling("shared")
    heard: list[Event] = []
    pipeline = Telling("own") | shared
    end = pipeline.subscribe(heard.append)
    gone = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert gone() is None
    shared.tell()
    assert names(heard) == [("shared", 1)]
    end()
    shared.tell()
    assert len(heard) == 1
    assert shared.audience == 0


async def test_a_stream_of_a_pipeline_that_nobody_keeps_goes_on() -> None:
    a = Telling("a")
    async with (a | CircuitBreaker("breaker")).events() as events:
        gc.collect()
        a.tell()
        assert names([await anext(events)]) == [("a", 1)]
    assert a.audience == 0


# -- threads, loops, forks


@pytest.fixture
def hasty_threads() -> Any:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_from_many_threads_every_event_comes_once_and_in_order() -> None:
    a, breaker, b = Telling("a"), CircuitBreaker("breaker", clock=ManualClock()), Telling("b")
    pipeline = a | breaker | b
    heard: list[Event] = []
    inside = threading.Lock()

    def hear(event: Event) -> None:
        assert inside.acquire(blocking=False), "two at a time"
        heard.append(event)
        inside.release()

    end = pipeline.subscribe(hear, calls=True)

    async def caller() -> None:
        for _ in range(200):
            await pipeline.call(fine)

    def come_and_go() -> None:
        for _ in range(200):
            pipeline.subscribe(lambda event: None, calls=True)()
            pipeline.subscribe(lambda event: None)()

    in_threads(*in_loops(caller, caller, caller), come_and_go)
    end()
    assert len(heard) == 3 * 3 * 200
    for name in ("a", "breaker", "b"):
        assert [event.seq for event in heard if event.name == name] == list(range(1, 601))
    assert (a.audience, audience(breaker), b.audience) == (0, 0, 0)


@pytest.mark.usefixtures("hasty_threads")
def test_readers_in_other_threads_get_every_event_from_their_beginning_on() -> None:
    breaker = CircuitBreaker("breaker")
    pipeline = Telling("a") | breaker

    async def read() -> None:
        for _ in range(50):
            async with pipeline.events(calls=True) as events:
                await pipeline.call(fine)
                seen = [await anext(events)]
                while len({event.name for event in seen}) < 2:
                    seen.append(await anext(events))
                for name in ("a", "breaker"):
                    numbers = [event.seq for event in seen if event.name == name]
                    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    in_threads(*in_loops(read, read, read))
    assert audience(breaker) == 0


def test_a_pipeline_serves_loops_of_both_kinds_one_after_another() -> None:
    a = Telling("a")
    pipeline = a | CircuitBreaker("breaker")

    async def read() -> tuple[str, int]:
        async with pipeline.events() as events:
            await pipeline.call(fine)
            event = await anext(events)
            return event.name, event.seq

    seen = [anyio.run(read, backend=backend) for backend in ("asyncio", "trio", "asyncio")]
    assert seen == [("a", 1), ("a", 2), ("a", 3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forks beside threads
def test_a_child_that_is_made_in_the_middle_of_a_delivery_is_told_its_own_events() -> None:
    a, breaker = Telling("a"), CircuitBreaker("breaker")
    pipeline = a | breaker
    heard: list[tuple[str, int]] = []
    status: list[int] = []

    def fork(event: Event) -> None:
        heard.append((event.name, event.seq))
        if len(heard) > 1:
            return
        child = os.fork()
        if child:
            status.append(os.waitpid(child, 0)[1])
            return
        a.tell()
        breaker.force_open()
        os._exit(0 if heard == [("a", 1), ("a", 2), ("breaker", 1)] else 1)

    pipeline.subscribe(fork)
    a.tell()
    assert status == [0]
    assert heard == [("a", 1)]
    assert breaker.state is State.CLOSED
