"""Events come in order, never wait, never hurt the observed, and a slow reader learns what it has lost."""

import logging
from collections.abc import Callable

import anyio
import pytest

from aiobreaker import (
    CallFinished,
    CallRefused,
    Cause,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Event,
    EventsLost,
    Outcome,
    State,
    StateChanged,
    Trials,
    TrialsForfeited,
)
from aiobreaker.testing import Answer, ScriptedDependency, record_events

Clock = Callable[[], float]


def flip(breaker: CircuitBreaker, times: int) -> None:
    for turn in range(times):
        breaker.reset() if turn % 2 else breaker.force_open()


async def test_a_transition_tells_everything(clock: Clock) -> None:
    breaker = CircuitBreaker("told", trip=ConsecutiveFailures(2), open_for=10, clock=clock)
    with record_events(breaker) as events:
        for _ in range(2):
            with pytest.raises(OSError):
                await breaker.call(ScriptedDependency(OSError("down")))
        await anyio.sleep(10)
        await breaker.call(ScriptedDependency("fine"))
    changes = [event for event in events if isinstance(event, StateChanged)]
    assert [(change.seq, change.old, change.new, change.cause) for change in changes] == [
        (1, State.CLOSED, State.OPEN, Cause.TRIPPED),
        (2, State.OPEN, State.HALF_OPEN, Cause.DUE),
        (3, State.HALF_OPEN, State.CLOSED, Cause.RECOVERED),
    ]
    opened = changes[0]
    assert (opened.name, opened.open_for, opened.attempt) == ("told", 10.0, 0)
    assert [(reading.count, reading.met) for reading in opened.readings] == [(2, True)], "as it stood before it was reset"
    assert changes[1].at - opened.at == 10.0
    assert opened.time > 1e9
    assert changes[2].reason == "1 of 1 trials succeeded (1 required)"


async def test_call_events_are_for_those_who_ask(clock: Clock) -> None:
    breaker = CircuitBreaker("calls", trip=ConsecutiveFailures(1), trials=Trials(lease=5), clock=clock, ignore=KeyError)
    with record_events(breaker) as transitions, record_events(breaker, calls=True) as everything:
        await breaker.call(ScriptedDependency(Answer("fine", after=2.0)))
        with pytest.raises(KeyError):
            await breaker.call(ScriptedDependency(KeyError()))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(breaker.call, ScriptedDependency(Answer("late", after=1.0)))
            await anyio.sleep(0.5)
            with pytest.raises(OSError):
                await breaker.call(ScriptedDependency(OSError("down")))
        with pytest.raises(CircuitOpenError):
            await breaker.call(ScriptedDependency("never"))
        breaker.half_open()
        await breaker.call(ScriptedDependency(Answer("too long", after=6.0)))
    calls = [event for event in everything if isinstance(event, CallFinished)]
    assert [(call.outcome, call.elapsed, call.trial, call.late) for call in calls] == [
        (Outcome.SUCCESS, 2.0, False, False),
        (Outcome.IGNORED, 0.0, False, False),
        (Outcome.FAILURE, 0.0, False, False),
        (Outcome.SUCCESS, 1.0, False, True),
        (Outcome.SUCCESS, 6.0, True, True),
    ]
    assert str(calls[2].failure) == "OSError: down"
    refused = [event for event in everything if isinstance(event, CallRefused)]
    assert [(refusal.state, refusal.retry_after) for refusal in refused] == [(State.OPEN, 29.5)]
    assert [event.seq for event in everything] == list(range(1, len(everything) + 1))
    assert [type(event) for event in transitions] == [StateChanged, StateChanged, TrialsForfeited, StateChanged]
    assert breaker._gate.circuit.door.era is None


async def test_without_call_observers_guards_pass_by_themselves_again() -> None:
    breaker = CircuitBreaker("quiet")
    unsubscribe = breaker.subscribe(lambda event: None, calls=True)
    assert breaker._gate.circuit.door.era is None
    unsubscribe()
    unsubscribe()
    assert breaker._gate.circuit.door.era is not None


async def test_a_call_that_began_before_anybody_asked_has_no_length() -> None:
    breaker = CircuitBreaker("before")
    ended: list[Event] = []

    @breaker
    async def guarded() -> None:
        breaker.subscribe(ended.append, calls=True)
        raise OSError

    with pytest.raises(OSError):
        await guarded()
    assert isinstance(ended[0], CallFinished)
    assert ended[0].elapsed is None


async def test_an_observer_that_raises_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker("rude observer")
    heard: list[Event] = []

    def rude(event: Event) -> None:
        raise ZeroDivisionError

    breaker.subscribe(rude)
    breaker.subscribe(heard.append)
    with caplog.at_level(logging.ERROR, "aiobreaker"):
        breaker.force_open()
    assert len(heard) == 1
    assert "an observer of 'rude observer' raised" in caplog.text


async def test_the_same_observer_may_come_twice_and_leave_once() -> None:
    breaker = CircuitBreaker("twice")
    heard: list[Event] = []
    leave = breaker.subscribe(heard.append)
    breaker.subscribe(heard.append)
    leave()
    breaker.force_open()
    assert len(heard) == 1
    with pytest.raises(TypeError, match="observer must be a function of one event, not 5"):
        breaker.subscribe(5)  # type: ignore[arg-type]


async def test_an_observer_may_give_orders_and_order_is_kept() -> None:
    breaker = CircuitBreaker("ordered")
    heard: list[State] = []

    def reset_at_once(event: Event) -> None:
        if isinstance(event, StateChanged) and event.new is State.FORCED_OPEN:
            breaker.reset()

    breaker.subscribe(reset_at_once)
    breaker.subscribe(lambda event: heard.append(event.new) if isinstance(event, StateChanged) else None)
    breaker.force_open()
    assert heard == [State.FORCED_OPEN, State.CLOSED]


async def test_an_observer_interrupted_leaves_delivery_working() -> None:
    breaker = CircuitBreaker("interrupted")

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    leave = breaker.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    leave()
    with record_events(breaker) as events:
        breaker.reset()
    assert len(events) == 1


# -- streams


async def test_a_reader_gets_every_event_from_its_beginning_on() -> None:
    breaker = CircuitBreaker("read")
    flip(breaker, 4)
    async with breaker.events() as events:
        flip(breaker, 2)
        assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
        assert events.lost == 0


async def test_a_waiting_reader_is_woken() -> None:
    breaker = CircuitBreaker("woken")
    seen: list[list[int]] = [[], [], []]

    async def read(numbers: list[int]) -> None:
        async with breaker.events() as events:
            while len(numbers) < 4:
                numbers.append((await anext(events)).seq)

    async with anyio.create_task_group() as tasks:
        for numbers in seen:
            tasks.start_soon(read, numbers)
        await anyio.sleep(1)
        flip(breaker, 2)
        await anyio.sleep(1)
        flip(breaker, 2)
    assert seen == [[1, 2, 3, 4]] * 3


@pytest.mark.parametrize("buffer", [1, 3, 10])
async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(buffer: int) -> None:
    breaker = CircuitBreaker("slow reader")
    async with breaker.events(buffer=buffer) as slow, breaker.events(buffer=100) as patient:
        flip(breaker, 20)
        first = await anext(slow)
        assert isinstance(first, EventsLost)
        assert first.count == slow.lost == 20 - buffer
        assert first.seq == 20 - buffer
        assert [(await anext(slow)).seq for _ in range(buffer)] == list(range(21 - buffer, 21))
        assert [(await anext(patient)).seq for _ in range(20)] == list(range(1, 21))
        flip(breaker, 1)
        assert (await anext(slow)).seq == 21
    assert breaker.snapshot().events_lost == 20 - buffer


async def test_call_events_do_not_push_out_transitions() -> None:
    breaker = CircuitBreaker("apart")
    async with breaker.events(buffer=2) as transitions, breaker.events(buffer=2, calls=True) as everything:
        breaker.disable()
        breaker.reset()
        for _ in range(50):
            await breaker.call(ScriptedDependency("fine"))
        assert [(await anext(transitions)).seq for _ in range(2)] == [1, 2]
        assert isinstance(await anext(everything), EventsLost)
        assert everything.lost == 50
        everything_else = breaker.events(buffer=1)
        async with everything_else:
            breaker.disable()
            breaker.reset()
            await anext(everything_else)
        assert everything_else.lost == 1
    assert breaker.snapshot().events_lost == 51, "of all its readers together"


async def test_a_closed_stream_ends() -> None:
    breaker = CircuitBreaker("closed")
    stream = breaker.events()
    async with anyio.create_task_group() as tasks, stream:

        async def read() -> None:
            async for _ in stream:
                pass

        tasks.start_soon(read)
        await anyio.sleep(1)
        await stream.__aexit__(None, None, None)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert not breaker._gate.hub.wanted


async def test_bad_use_of_a_stream_is_named() -> None:
    breaker = CircuitBreaker("named")
    with pytest.raises(ValueError, match="buffer must be a whole number, 1 or more, not 0"):
        breaker.events(buffer=0)
    stream = breaker.events()
    async with stream:
        with pytest.raises(RuntimeError, match="open already"):
            await stream.__aenter__()


async def test_cancelling_a_reader_loses_nothing(clock: Clock) -> None:
    breaker = CircuitBreaker("cancelled", clock=clock)
    async with breaker.events() as events:
        with anyio.move_on_after(1):
            await anext(events)
        flip(breaker, 1)
        assert (await anext(events)).seq == 1


async def test_without_observers_no_event_is_made() -> None:
    breaker = CircuitBreaker("alone")
    flip(breaker, 10)
    assert breaker._gate.hub.seq == 0
    assert breaker.snapshot().transitions == 10


def test_an_observer_that_is_interrupted_costs_nobody_the_rest() -> None:
    breaker = CircuitBreaker("interrupted")
    heard: list[int] = []

    def observer(event: Event) -> None:
        heard.append(event.seq)
        if event.seq == 1:
            breaker.reset()
            breaker.disable()
        if event.seq == 2:
            raise KeyboardInterrupt

    breaker.subscribe(observer)
    with pytest.raises(KeyboardInterrupt):
        breaker.force_open()
    breaker.reset()
    assert heard == [1, 2, 3, 4]
