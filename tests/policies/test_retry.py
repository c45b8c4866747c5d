"""Retry around calls: which are made again and how often, what comes out in the end, and what is told of it."""

import gc
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from math import inf, nan
from typing import Any

import anyio
import pytest

from aiobreaker import CircuitBreaker, CircuitOpenError, ConsecutiveFailures
from aiobreaker.budget import RetryBudget
from aiobreaker.core.backoff import REASONS
from aiobreaker.events import Event
from aiobreaker.policies.events import GaveUp, Retrying
from aiobreaker.policies.retry import Retry
from aiobreaker.testing import ManualClock, ScriptedDependency

Clock = Callable[[], float]
Way = Callable[[Retry, Callable[..., Awaitable[Any]]], Awaitable[Any]]


async def called(retry: Retry, fn: Callable[..., Awaitable[Any]]) -> Any:
    return await retry.call(fn)


async def decorated(retry: Retry, fn: Callable[..., Awaitable[Any]]) -> Any:
    @retry
    async def function() -> Any:
        return await fn()

    return await function()


async def thoroughly_decorated(retry: Retry, fn: Callable[..., Awaitable[Any]]) -> Any:
    """Through the decorator that can do everything, which must do the same where there is little to do."""
    from aiobreaker.policies.retry import _thorough

    return await _thorough(retry, fn)()  # type: ignore[arg-type]


async def as_block(retry: Retry, fn: Callable[..., Awaitable[Any]]) -> Any:
    async for attempt in retry:
        with attempt:
            return attempt.check(await fn())
    raise AssertionError


@pytest.fixture(params=[called, decorated, thoroughly_decorated, as_block])
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


def gave_up(retry: Retry) -> dict[str, int]:
    return {str(reason): times for reason, times in retry.snapshot().gave_up.items() if times}


# -- what is made again


async def test_a_success_is_left_alone(way: Way) -> None:
    retry, dependency = Retry(OSError), ScriptedDependency("fine")
    assert await way(retry, dependency) == "fine"
    assert len(dependency.calls) == 1
    assert (retry.snapshot().calls, retry.snapshot().retries, retry.snapshot().recovered) == (1, 0, 0)


async def test_it_succeeds_in_the_end(way: Way) -> None:
    retry, dependency = Retry(OSError, attempts=4), ScriptedDependency(OSError(1), OSError(2), "fine")
    assert await way(retry, dependency) == "fine"
    assert len(dependency.calls) == 3
    assert (retry.snapshot().calls, retry.snapshot().retries, retry.snapshot().recovered) == (1, 2, 1)
    assert gave_up(retry) == {}


async def test_the_last_error_is_raised_as_itself(way: Way) -> None:
    errors = [OSError(number) for number in range(5)]
    retry, dependency = Retry(OSError, attempts=3), ScriptedDependency(*errors)
    with pytest.raises(OSError) as raised:
        await way(retry, dependency)
    assert raised.value is errors[2]
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None
    assert not hasattr(raised.value, "__notes__")
    assert len(dependency.calls) == 3
    assert gave_up(retry) == {"attempts": 1}
    assert retry.snapshot().recovered == 0


async def test_no_line_is_twice_in_its_traceback(way: Way) -> None:
    with pytest.raises(OSError) as raised:
        await way(Retry(OSError, attempts=2), ScriptedDependency(OSError(1), OSError(2)))
    lines = [(entry.path, entry.lineno) for entry in raised.traceback]
    assert len(lines) == len(set(lines))


async def test_an_error_that_is_not_listed_is_raised_at_once(way: Way) -> None:
    retry, dependency = Retry(OSError), ScriptedDependency(OSError(), ValueError("mine"), "fine")
    with pytest.raises(ValueError, match="mine"):
        await way(retry, dependency)
    assert len(dependency.calls) == 2
    assert gave_up(retry) == {}, "it had not come to that"


async def test_one_attempt_is_no_retry(way: Way) -> None:
    retry, dependency = Retry(OSError, attempts=1), ScriptedDependency(OSError(), "fine")
    events: list[Event] = []
    retry.subscribe(events.append)
    with pytest.raises(OSError):
        await way(retry, dependency)
    assert len(dependency.calls) == 1
    assert gave_up(retry) == {}
    assert events == []


async def test_any_number_of_attempts(way: Way) -> None:
    retry = Retry(OSError, attempts=inf, backoff=0)
    assert await way(retry, ScriptedDependency(*[OSError()] * 500, "fine")) == "fine"
    assert retry.snapshot().retries == 500


async def test_a_function_of_the_error_decides(way: Way) -> None:
    retry = Retry(lambda error: "again" in str(error))
    dependency = ScriptedDependency(OSError("again"), ValueError("once again"), OSError("enough"))
    with pytest.raises(OSError, match="enough"):
        await way(retry, dependency)
    assert len(dependency.calls) == 3


async def test_a_group_is_made_again_if_all_of_it_is(way: Way) -> None:
    both = ExceptionGroup("", [OSError(), ExceptionGroup("", [TimeoutError()])])
    mixed = ExceptionGroup("", [OSError(), ValueError()])
    dependency = ScriptedDependency(both, mixed, "fine")
    with pytest.raises(ExceptionGroup) as raised:
        await way(Retry((OSError, TimeoutError)), dependency)
    assert raised.value is mixed
    assert len(dependency.calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), BaseExceptionGroup("", [OSError(), KeyboardInterrupt()])])
async def test_what_is_no_exception_is_never_made_again(way: Way, error: BaseException) -> None:
    dependency = ScriptedDependency(OSError(), Raise(error))
    retry = Retry(BaseException)
    with pytest.raises(BaseException) as raised:
        await way(retry, lambda: unpacked(dependency))
    assert raised.value is error
    assert len(dependency.calls) == 2


class Raise(Exception):
    """Carries what the script must not raise by itself."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def unpacked(dependency: ScriptedDependency) -> Any:
    try:
        return await dependency()
    except Raise as raised:
        error = raised.error
    raise error


async def test_a_function_that_raises_before_there_is_anything_to_await(way: Way) -> None:
    tries: list[int] = []

    def fetch() -> Awaitable[str]:
        tries.append(len(tries))
        if len(tries) < 3:
            raise OSError
        return ScriptedDependency("fine")()

    assert await way(Retry(OSError), fetch) == "fine"
    assert tries == [0, 1, 2]


async def test_arguments_are_handed_on_each_time() -> None:
    retry, dependency = Retry(OSError), ScriptedDependency(OSError(), OSError(), 5)

    @retry
    async def plain(*args: object, **kwargs: object) -> Any:
        return await dependency(*args, **kwargs)

    assert await plain(1, two=2) == 5
    assert await retry.call(dependency, 1, two=2) == 5
    assert dependency.calls == [((1,), {"two": 2})] * 4


# -- results


async def test_a_bad_result_is_asked_for_again(way: Way) -> None:
    retry = Retry(OSError, attempts=4, retry_if=lambda status: status >= 500)
    dependency = ScriptedDependency(503, OSError(), 500, 200)
    assert await way(retry, dependency) == 200
    assert (retry.snapshot().retries, retry.snapshot().recovered) == (3, 1)


async def test_the_last_bad_result_is_returned_as_it_is(way: Way) -> None:
    retry = Retry(OSError, attempts=2, retry_if=lambda answer: "bad" in answer)
    bad = [["bad", 1], ["bad", 2], ["bad", 3]]
    assert await way(retry, ScriptedDependency(*bad)) is bad[1]
    assert gave_up(retry) == {"attempts": 1}
    assert retry.snapshot().recovered == 0


async def test_a_single_attempt_returns_any_result(way: Way) -> None:
    retry = Retry(OSError, attempts=1, retry_if=lambda _: True)
    assert await way(retry, ScriptedDependency("bad")) == "bad"
    assert gave_up(retry) == {}


async def test_what_a_rule_raises_is_raised(way: Way) -> None:
    retry, dependency = Retry(OSError, retry_if=lambda result: result["no"]), ScriptedDependency(OSError(), "text")
    with pytest.raises(TypeError):
        await way(retry, dependency)
    assert len(dependency.calls) == 2


# -- what is told


async def test_events_of_a_call_that_recovers(way: Way, clock: Clock) -> None:
    retry = Retry(
        OSError, backoff=[1.0, 2.0, 4.0], attempts=5, retry_if=lambda result: result == "bad", name="mine", clock=clock
    )
    events: list[Event] = []
    retry.subscribe(events.append)
    began = anyio.current_time()
    await way(retry, ScriptedDependency(OSError("one"), "bad", "fine"))
    first, second = events
    assert isinstance(first, Retrying)
    assert isinstance(second, Retrying)
    assert (first.name, first.attempt, first.delay, str(first.failure)) == ("mine", 1, 1.0, "OSError: one")
    assert (second.attempt, second.delay, str(second.failure)) == (2, 2.0, "result: 'bad'")
    assert first.failure.at == first.at == began
    assert second.at == began + 1


async def test_events_of_a_call_that_is_given_up(way: Way, clock: Clock) -> None:
    retry = Retry(OSError, backoff=1.5, attempts=2, clock=clock)
    events: list[Event] = []
    retry.subscribe(events.append)
    with pytest.raises(OSError):
        await way(retry, ScriptedDependency(OSError("one"), OSError("two")))
    told = events[1]
    assert isinstance(told, GaveUp)
    assert (told.attempts, told.elapsed, told.reason) == (2, 1.5, REASONS["attempts"])
    assert str(told.failure) == "OSError: two"
    assert len(events) == 2


async def test_an_error_that_is_not_listed_ends_it_without_a_word(way: Way) -> None:
    retry = Retry(OSError)
    events: list[Event] = []
    retry.subscribe(events.append)
    with pytest.raises(ValueError):
        await way(retry, ScriptedDependency(OSError(), ValueError()))
    assert [type(event) for event in events] == [Retrying]


async def test_who_listens_from_the_middle_of_a_call_is_not_told_how_long_it_took(way: Way) -> None:
    retry = Retry(OSError, attempts=2)
    events: list[Event] = []

    async def fetch() -> None:
        if not events:
            retry.subscribe(events.append)
        raise OSError

    with pytest.raises(OSError):
        await way(retry, fetch)
    assert [(event.elapsed, event.attempts) for event in events if isinstance(event, GaveUp)] == [(None, 2)]


async def test_an_observer_that_raises_changes_nothing(way: Way) -> None:
    retry = Retry(OSError)

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    retry.subscribe(broken)
    assert await way(retry, ScriptedDependency(OSError(), "fine")) == "fine"


async def test_the_snapshot_does_not_change(way: Way) -> None:
    retry = Retry(OSError, attempts=2)
    seen = retry.snapshot()
    with pytest.raises(OSError):
        await way(retry, ScriptedDependency(OSError()))
    assert (seen.calls, seen.gave_up["attempts"]) == (0, 0)
    assert retry.snapshot().gave_up == {"attempts": 1, "backoff": 0, "total_time": 0, "deadline": 0, "budget": 0}
    with pytest.raises(FrozenInstanceError):
        seen.calls = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        seen.gave_up["attempts"] = 1  # type: ignore[index]


async def test_nothing_keeps_an_error_alive(way: Way) -> None:
    class Heavy(OSError):
        pass

    kept: list[weakref.ref[Heavy]] = []

    async def fetch() -> None:
        error = Heavy()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    retry = Retry(OSError)
    retry.subscribe(lambda event: None)
    gc.collect()
    gc.disable()
    try:
        with suppress(Heavy):
            await way(retry, fetch)
        assert len(kept) == 3
        assert [error() for error in kept] == [None] * 3
    finally:
        gc.enable()


# -- budget


async def test_a_budget_allows_few_retries_among_many_calls(way: Way) -> None:
    clock = ManualClock()
    budget = RetryBudget(0.5, minimum_per_second=0, clock=clock)
    retry, other = Retry(OSError, budget=budget, attempts=3), Retry(OSError, budget=budget, attempts=3)
    for _ in range(3):
        await way(other, ScriptedDependency("fine"))
    down = ScriptedDependency(OSError("down"))
    with pytest.raises(OSError):
        await way(retry, down)
    assert len(down.calls) == 3, "4 calls allow 2"
    with pytest.raises(OSError):
        await way(other, down)
    assert len(down.calls) == 4, "5 calls allow 2 as well"
    assert gave_up(retry) == {"attempts": 1}
    assert gave_up(other) == {"budget": 1}
    seen = budget.snapshot()
    assert (seen.first_calls, seen.extra_calls, seen.refused) == (5, 2, 1)


async def test_nothing_is_taken_from_the_budget_in_vain(way: Way) -> None:
    clock = ManualClock()
    budget = RetryBudget(1, clock=clock)
    with pytest.raises(OSError):
        await way(Retry(OSError, attempts=2, budget=budget), ScriptedDependency(OSError()))
    with pytest.raises(OSError):
        await way(Retry(OSError, total_time=1, backoff=2, budget=budget), ScriptedDependency(OSError()))
    with pytest.raises(ValueError):
        await way(Retry(OSError, budget=budget), ScriptedDependency(ValueError()))
    with anyio.fail_after(1), pytest.raises(OSError):
        await way(Retry(OSError, backoff=2, budget=budget), ScriptedDependency(OSError()))
    assert budget.snapshot().extra_calls == 1


# -- as a policy


def test_a_decorator_keeps_what_the_function_is() -> None:
    async def fetch(url: str, *, timeout: float = 1.0) -> bytes:
        """Get it."""
        return b""

    for retry in (Retry(OSError), Retry(OSError, total_time=5)):
        wrapped = retry(fetch)
        assert (wrapped.__name__, wrapped.__doc__) == ("fetch", "Get it.")
        assert inspect.signature(wrapped) == inspect.signature(fetch)
        assert inspect.iscoroutinefunction(wrapped)


async def test_methods_can_be_decorated() -> None:
    retry = Retry(OSError)

    class Client:
        tries = 0

        @retry
        async def fetch(self) -> int:
            self.tries += 1
            if self.tries < 3:
                raise OSError
            return self.tries

        @retry
        @staticmethod
        async def ping() -> str:
            return "pong"

    assert await Client().fetch() == 3
    assert await Client.ping() == "pong"


async def test_outside_of_a_breaker_it_stops_when_that_opens() -> None:
    breaker = CircuitBreaker("inside", trip=ConsecutiveFailures(2))
    retry, dependency = Retry(Exception, attempts=5), ScriptedDependency(OSError("down"))
    pipeline = retry | breaker

    @pipeline
    async def fetch() -> Any:
        return await dependency()

    for way_in in (fetch, lambda: pipeline.call(dependency)):
        breaker.reset()
        dependency.calls.clear()
        with pytest.raises(CircuitOpenError):
            await way_in()
        assert len(dependency.calls) == 2


def test_what_others_know_of_it() -> None:
    usual = Retry(OSError).traits
    assert (usual.kind, usual.attempts, usual.seconds, usual.words) == ("retry", 3, inf, "retry 'retry' (up to 3 attempts)")
    timed = Retry(OSError, attempts=inf, total_time=90, name="mine").traits
    assert (timed.attempts, timed.seconds, timed.words) == (inf, 90, "retry 'mine' (any number of attempts within 90 s)")
    assert Retry(OSError, attempts=1).traits.words == "retry 'retry' (1 attempt)"


def test_one_object_serves_loops_of_all_kinds_one_after_another() -> None:
    retry = Retry(OSError, backoff=0, total_time=1000)
    fetch = retry(ScriptedDependency.__call__)
    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(fetch, ScriptedDependency(OSError(), "fine"), backend=backend) == "fine"
        assert anyio.run(retry.call, ScriptedDependency(OSError(), "fine"), backend=backend) == "fine"
        assert anyio.run(as_block, retry, ScriptedDependency(OSError(), "fine"), backend=backend) == "fine"
    assert (retry.snapshot().calls, retry.snapshot().recovered) == (9, 9)


def test_one_object_serves_loops_at_once_and_loses_no_count() -> None:
    budget = RetryBudget(1, window=3600)
    retry = Retry(OSError, backoff=0, budget=budget)

    async def use() -> None:
        for _ in range(50):
            await retry.call(ScriptedDependency(OSError(), "fine"))

    threads = [threading.Thread(target=anyio.run, args=(use,), kwargs={"backend": name}) for name in ("asyncio", "trio") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen, spent = retry.snapshot(), budget.snapshot()
    assert (seen.calls, seen.retries, seen.recovered) == (200, 200, 200)
    assert (spent.first_calls, spent.extra_calls) == (200, 200)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"on": "OSError"}, TypeError, "on must be exception types or a function of the exception, not 'OSError'"),
        ({"on": (OSError, 5)}, TypeError, "on must be exception types or a function of the exception, not 5"),
        ({"attempts": 0}, ValueError, "attempts must be a whole number, 1 or more, not 0"),
        ({"attempts": 2.5}, TypeError, "attempts must be a whole number, 1 or more, not 2.5"),
        ({"attempts": True}, TypeError, "attempts must be a whole number, 1 or more, not True"),
        ({"attempts": nan}, TypeError, "attempts must be a whole number, 1 or more, not nan"),
        ({"total_time": -1}, ValueError, "total_time must be a number of seconds, 0 or more (infinity allowed), not -1"),
        ({"total_time": None}, TypeError, "total_time must be a number of seconds, 0 or more (infinity allowed), not None"),
        ({"backoff": -1}, ValueError, "backoff must be finite numbers of seconds, 0 or more, not -1"),
        ({"jitter": 2}, ValueError, "jitter must be a fraction, 0 or more and below 1, not 2"),
        ({"retry_if": 500}, TypeError, "retry_if must be a function or None, not 500"),
        ({"retry_after": 5.0}, TypeError, "retry_after must be a function or None, not 5.0"),
        ({"max_retry_after": 0}, ValueError, "max_retry_after must be a finite number of seconds above 0, not 0"),
        ({"wait_when_refused": 1}, TypeError, "wait_when_refused must be True or False, not 1"),
        ({"budget": 0.2}, TypeError, "budget must be a RetryBudget or None, not 0.2"),
        ({"random": 0.5}, TypeError, "random must be a function without arguments that returns a number, not 0.5"),
        ({"clock": 0.5}, TypeError, "clock must be a function without arguments that returns a number, not 0.5"),
        ({"name": ""}, ValueError, "name must not be empty, it is what errors and events call the policy"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        Retry(**{"on": OSError, **settings})
    assert str(raised.value) == message


def test_which_errors_are_retried_must_be_said() -> None:
    with pytest.raises(TypeError, match="on"):
        Retry()  # type: ignore[call-arg]


def test_async_generator_functions_cannot_be_retried() -> None:
    async def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match="async generator functions"):
        Retry(OSError)(items)
