"""Hedge: a second call when the first is slow; the first success wins, and nothing is left of the others."""

import inspect
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from math import inf, nan
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError
from aiobreaker.budget import RetryBudget
from aiobreaker.core.quantiles import Quantile
from aiobreaker.errors import BulkheadFullError
from aiobreaker.events import Event
from aiobreaker.policies.events import Hedged, HedgeWon
from aiobreaker.policies.hedge import Hedge, HedgeSnapshot

from .. import virtual

Clock = Callable[[], float]


class Backend:
    """Each attempt takes its time, then returns or raises; the last step repeats. It knows who is inside."""

    def __init__(self, *script: tuple[float, object]) -> None:
        self._script = script
        self.started: list[float] = []
        self.running = 0
        self.cancelled: list[int] = []

    async def __call__(self) -> object:
        number = len(self.started)
        after, outcome = self._script[min(number, len(self._script) - 1)]
        self.started.append(anyio.current_time())
        self.running += 1
        try:
            if after:
                await anyio.sleep(after)
        except BaseException:
            self.cancelled.append(number + 1)
            raise
        finally:
            self.running -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


async def timed(call: Coroutine[Any, Any, object]) -> tuple[object, float]:
    began = anyio.current_time()
    result = await call
    return result, anyio.current_time() - began


def since(backend: Backend, began: float) -> list[Any]:
    return [pytest.approx(start - began) for start in backend.started]


# -- who wins


@pytest.mark.parametrize(
    ("script", "answer", "after", "attempts", "cancelled"),
    [
        ([(0, "first")], "first", 0, 1, []),
        ([(0.5, "first")], "first", 0.5, 1, []),
        ([(5, "first"), (1, "second")], "second", 2, 2, [1]),
        ([(1.5, "first"), (1, "second")], "first", 1.5, 2, [2]),
        ([(5, "first"), (0, "second")], "second", 1, 2, [1]),
        ([(2, OSError("first")), (3, "second")], "second", 4, 2, []),
        ([(5, "first"), (1, OSError("second"))], "first", 5, 2, []),
        ([(9, "first"), (9, "second"), (1, "third")], "third", 3, 3, [1, 2]),
        ([(1.5, OSError("first")), (9, "second"), (1, "third")], "third", 3, 3, [2]),
    ],
)
async def test_the_first_success_wins_and_the_others_are_cancelled_and_awaited(
    script: list[tuple[float, object]],
    answer: object,
    after: float,
    attempts: int,
    cancelled: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiobreaker")
    backend = Backend(*script)
    hedge = Hedge(1.0, attempts=max(2, attempts))
    assert await timed(hedge.call(backend)) == (answer, pytest.approx(after))
    assert (len(backend.started), backend.running, sorted(backend.cancelled)) == (attempts, 0, cancelled)
    assert caplog.records == []  # to be cancelled is no news


async def test_each_attempt_follows_a_delay_after_the_one_before_up_to_the_most() -> None:
    backend = Backend((100, "slow"))
    began = anyio.current_time()
    assert await Hedge(2.0, attempts=4).call(backend) == "slow"
    assert since(backend, began) == [0, 2, 4, 6]


async def test_a_delay_of_nothing_and_of_infinity() -> None:
    backend = Backend((1, "one"))
    assert await timed(Hedge(0, attempts=3).call(backend)) == ("one", 1)
    assert len(backend.started) == 3
    backend = Backend((1000, "one"))
    assert await timed(Hedge(inf).call(backend)) == ("one", 1000)
    assert len(backend.started) == 1


async def test_two_that_answer_at_the_same_moment_are_one_answer() -> None:
    for length in (1 - 1e-12, 1.0, 1 + 1e-12):
        backend = Backend((2, "first"), (length, "second"))
        assert await timed(Hedge(1.0).call(backend)) in [(winner, pytest.approx(2)) for winner in ("first", "second")]
        assert (len(backend.started), backend.running) == (2, 0)


async def test_a_loser_that_cannot_be_cancelled_is_awaited_and_its_result_is_dropped() -> None:
    numbers = iter([1, 2])

    async def stubborn() -> int:
        number = next(numbers)
        if number == 1:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
        return number

    hedge = Hedge(1.0)
    assert await timed(hedge.call(stubborn)) == (2, 10)
    assert hedge.snapshot().wins == (0, 1)


# -- failures


async def test_if_all_fail_the_error_of_the_first_is_raised_as_itself_with_notes() -> None:
    first, second = OSError("one"), ValueError("two")
    for script in ([(3, first), (1, second)], [(1.5, first), (2, second)]):
        backend = Backend(*script)
        with pytest.raises(OSError, match="one") as raised:
            await Hedge(1.0, name="quotes").call(backend)
        assert raised.value is first
        assert first.__notes__ == ["quotes: attempt 2 failed too: ValueError: two"]
        assert len(backend.started) == 2


async def test_the_causes_of_an_error_are_left_as_they_are() -> None:
    async def fails(after: float, how: type[Exception]) -> None:
        await anyio.sleep(after)
        try:
            raise KeyError
        except KeyError as error:
            raise how from error

    for after in (0, 2):
        with pytest.raises(OSError) as raised:
            await Hedge(1.0).call(fails, after, OSError)
        assert isinstance(raised.value.__cause__, KeyError)
        assert raised.value.__context__ is raised.value.__cause__
        assert not hasattr(raised.value, "__notes__") or after


async def test_the_same_error_twice_needs_no_note() -> None:
    error = OSError()
    with pytest.raises(OSError):
        await Hedge(1.0).call(Backend((2, error)))
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("after", [0, 0.5])
async def test_a_failure_before_the_delay_is_the_failure_of_the_call(after: float) -> None:
    backend = Backend((after, OSError()), (0, "second"))
    began = anyio.current_time()
    with pytest.raises(OSError):
        await Hedge(1.0).call(backend)
    assert (len(backend.started), anyio.current_time() - began) == (1, pytest.approx(after))


@pytest.mark.parametrize("after", [0, 0.5])
async def test_errors_that_start_the_next_attempt_at_once(after: float) -> None:
    hedge = Hedge(1.0, attempts=4, next_on=(OSError, KeyError))
    backend = Backend((after, OSError()), (after, KeyError()), (2.5, "third"), (2, "fourth"))
    began = anyio.current_time()
    events: list[Event] = []
    hedge.subscribe(events.append)
    assert await hedge.call(backend) == "third"
    assert since(backend, began) == [0, after, 2 * after, 2 * after + 1]
    told = [(event.attempt, event.delay) for event in events if isinstance(event, Hedged)]
    assert told == [(2, 0.0), (3, 0.0), (4, 1.0)]

    backend = Backend((after, OSError()), (after, ValueError()), (0, "third"))
    with pytest.raises(OSError):
        await hedge.call(backend)
    assert len(backend.started) == 2


async def test_an_extra_attempt_that_fails_starts_the_next_at_once_too() -> None:
    backend = Backend((9, "first"), (0.25, OSError()), (9, "third"), (1, "fourth"))
    began = anyio.current_time()
    assert await Hedge(1.0, attempts=4, next_on=OSError).call(backend) == "fourth"
    assert since(backend, began) == [0, 1, 1.25, 2.25]
    assert backend.running == 0


async def test_errors_use_up_the_attempts() -> None:
    backend = Backend((0.5, OSError()))
    with pytest.raises(OSError):
        await Hedge(1.0, attempts=3, next_on=OSError).call(backend)
    assert len(backend.started) == 3


async def test_a_refusal_is_a_failure_of_its_attempt_and_starts_none_at_once() -> None:
    refusal = BulkheadFullError("pool")
    backend = Backend((5, "first"), (0, refusal), (1, "third"))
    began = anyio.current_time()
    assert await Hedge(1.0, attempts=3, next_on=Exception).call(backend) == "third"
    assert since(backend, began) == [0, 1, 2]

    breaker = CircuitBreaker("down")
    breaker.force_open()
    backend = Backend((0, "never"))
    hedge = Hedge(1.0, next_on=Exception)
    with pytest.raises(CircuitOpenError):
        await (hedge | breaker).call(backend)
    assert (backend.started, breaker.snapshot().totals.refused, hedge.snapshot().hedged) == ([], 1, 0)


@pytest.mark.parametrize("script", [[(0, SystemExit(3))], [(0.5, SystemExit(3))], [(9, "first"), (0.5, SystemExit(3))]])
async def test_what_is_no_exception_gets_out_as_itself_at_once(script: list[tuple[float, object]]) -> None:
    backend = Backend(*script)
    began = anyio.current_time()
    with pytest.raises(SystemExit) as raised:
        await Hedge(1.0, next_on=Exception).call(backend)
    assert raised.value is script[-1][1]
    assert anyio.current_time() - began == pytest.approx(sum(after for after, _ in script[-1:]) + len(script) - 1)
    assert backend.running == 0


async def test_a_loser_that_is_no_exception_gets_out_although_another_has_won() -> None:
    async def call() -> str:
        if next(numbers) == 2:
            return "won"
        try:
            await anyio.sleep(9)
        finally:
            raise KeyboardInterrupt

    numbers = iter([1, 2])
    with pytest.raises(KeyboardInterrupt):
        await Hedge(1.0).call(call)


async def test_what_an_observer_interrupts_gets_out_without_a_group() -> None:
    class Interruption(BaseException):
        pass

    def interrupt(event: Event) -> None:
        raise Interruption

    hedge = Hedge(1.0)
    hedge.subscribe(interrupt)
    backend = Backend((9, "first"))
    with pytest.raises(Interruption):
        await hedge.call(backend)
    assert backend.running == 0


async def test_what_a_loser_raises_after_the_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def call() -> int:
        number = next(numbers)
        try:
            await anyio.sleep(10 / number**3)
        finally:
            if number == 1:
                raise OSError("while it cleaned up")
        return number

    numbers = iter([1, 2])
    with caplog.at_level(logging.INFO, "aiobreaker"):
        assert await Hedge(1.0, name="quotes").call(call) == 2
    (record,) = caplog.records
    assert record.getMessage() == "attempt 1 of 'quotes' raised when another had won"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "while it cleaned up"


async def test_a_call_that_cannot_be_made_raises_as_it_does_without() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        await Hedge(1.0).call(anyio.sleep)  # type: ignore[call-arg]


# -- budget and deadline


async def test_without_budget_there_are_no_extra_attempts(clock: Clock) -> None:
    budget = RetryBudget(0.5, minimum_per_second=0, window=1000, clock=clock)
    hedge = Hedge(1.0, attempts=3, budget=budget, clock=clock)
    backend = Backend((3, "slow"))
    counts = []
    for _ in range(6):
        assert await hedge.call(backend) == "slow"
        counts.append(len(backend.started))
    extra = [now - before - 1 for before, now in zip([0, *counts], counts, strict=False)]
    assert extra == [0, 1, 0, 1, 0, 1]
    seen = hedge.snapshot()
    assert (seen.calls, seen.hedged, seen.unaffordable) == (6, 3, 6)
    assert budget.snapshot().first_calls == 6


async def test_an_error_starts_nothing_without_budget() -> None:
    backend = Backend((0, OSError()))
    hedge = Hedge(1.0, budget=RetryBudget(0.01, minimum_per_second=0), next_on=OSError)
    with pytest.raises(OSError):
        await hedge.call(backend)
    assert (len(backend.started), hedge.snapshot().unaffordable) == (1, 1)


async def test_nothing_is_started_past_a_deadline(anyio_backend_name: str) -> None:
    starts = []

    async def ignores_it() -> None:
        starts.append(anyio.current_time())
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1.5)
        raise OSError

    with pytest.raises(OSError), anyio.move_on_after(0.75):
        await Hedge(1.0, attempts=5, next_on=OSError).call(ignores_it)
    assert len(starts) == 1


# -- cancellation


@pytest.mark.parametrize("at", [0.5, 1.5, 2.5])
async def test_a_deadline_around_it_cancels_and_awaits_all_attempts(at: float) -> None:
    backend = Backend((9, "slow"))
    began = anyio.current_time()
    with anyio.move_on_after(at) as scope:
        await Hedge(1.0, attempts=3).call(backend)
    assert scope.cancelled_caught
    assert anyio.current_time() - began == pytest.approx(at)
    assert len(backend.started) == len(backend.cancelled) == int(at) + 1


@pytest.mark.parametrize("at", [0.5, 1.5])
async def test_what_an_attempt_makes_of_the_cancellation_is_raised_as_itself(at: float) -> None:
    async def call() -> None:
        try:
            await anyio.sleep(9)
        finally:
            raise OSError("instead")

    with pytest.raises(OSError, match="instead"), anyio.move_on_after(at):
        await Hedge(1.0).call(call)


class Steps:
    """An attempt of a few steps that may be cancelled at each: the first hangs for longer than the second."""

    def __init__(self, lengths: tuple[int, ...], failing: bool) -> None:
        self._lengths = lengths
        self._failing = failing
        self.begun = self.ended = 0

    async def __call__(self) -> int:
        number = self.begun
        self.begun += 1
        try:
            with anyio.CancelScope():
                for _ in range(self._lengths[number]):
                    await anyio.lowlevel.checkpoint()
            if self._failing:
                raise OSError
            return number
        finally:
            self.ended += 1


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("lengths", [(6, 6), (12, 4), (12, 0), (4, 9), (1, 1)])
async def test_cancelled_at_every_step_it_leaves_nothing_running(lengths: tuple[int, ...], failing: bool) -> None:
    cancelled = 0
    for cancel_at in range(40):
        steps = Steps(lengths, failing)
        hedge = Hedge(0, next_on=OSError)
        outcome: list[object] = []

        async def victim(scope: anyio.CancelScope, hedge: Hedge = hedge, outcome: list[object] = outcome) -> None:
            with scope:
                try:
                    outcome.append(await hedge.call(steps))  # noqa: B023 - called in this turn
                except OSError as error:
                    outcome.append(error)
                except BaseException as error:
                    outcome.append(error)
                    raise

        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(victim, scope)
            for _ in range(cancel_at):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
        seen = hedge.snapshot()
        assert steps.begun == steps.ended == seen.calls + seen.hedged
        (result,) = outcome or [None] if cancel_at == 0 else outcome
        if isinstance(result, anyio.get_cancelled_exc_class()):
            cancelled += 1
            assert sum(seen.wins) == 0
        else:
            assert cancel_at == 0 or isinstance(result, OSError if failing else int)
            assert sum(seen.wins) == (not failing and seen.hedged)
    assert cancelled >= min(lengths)
    assert not isinstance(result, anyio.get_cancelled_exc_class())


# -- where attempts run

WHERE: ContextVar[str] = ContextVar("WHERE")


async def test_the_first_attempt_runs_in_the_callers_task_and_context_and_the_others_in_copies() -> None:
    seen: list[tuple[str, bool]] = []
    home = anyio.get_current_task().id

    async def call() -> str:
        number = len(seen) + 1
        seen.append((WHERE.get(), anyio.get_current_task().id == home))
        WHERE.set(f"set by {number}")
        await anyio.sleep(9 if number < 3 else 1)
        return WHERE.get()

    WHERE.set("caller")
    assert await Hedge(1.0, attempts=3).call(call) == "set by 3"
    assert seen == [("caller", True), ("caller", False), ("caller", False)]
    assert WHERE.get() == "set by 1"


async def test_cancel_scopes_that_the_first_attempt_enters_before_it_waits_nest() -> None:
    async def call() -> str:
        with anyio.move_on_after(next(limits)):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 3)
                await anyio.sleep(3)
            return "in time"
        return "timed out"

    limits = iter([2.0, 9, 9, 2])
    assert await timed(Hedge(1.0).call(call)) == ("timed out", 2)
    limits = iter([9, 1.5])
    assert await timed(Hedge(1.0).call(call)) == ("timed out", 2.5)
    limits = iter([9, 9])
    assert await timed(Hedge(1.0).call(call)) == ("in time", 3)


async def test_an_attempt_may_catch_what_is_thrown_into_it_and_go_on() -> None:
    async def call() -> str:
        for _ in range(2):
            with anyio.move_on_after(0.25):
                await anyio.sleep(9)
        await anyio.lowlevel.checkpoint()
        return "went on"

    assert await timed(Hedge(1.0).call(call)) == ("went on", 0.5)


async def test_any_awaitable_can_be_called() -> None:
    class Ready:
        def __await__(self) -> Any:
            yield from anyio.sleep(0.5).__await__()
            return "ready"

    assert await Hedge(1.0).call(Ready) == "ready"


async def test_the_decorator_keeps_the_signature_and_hands_on_what_it_gets() -> None:
    @Hedge(1.0)
    async def price(sku: str, *, currency: str = "EUR") -> str:
        """What it costs."""
        if currency == "USD":
            await anyio.sleep(3)
        return f"{sku} in {currency}"

    assert price.__doc__ == "What it costs."
    assert list(inspect.signature(price).parameters) == ["sku", "currency"]
    assert await price("pear") == "pear in EUR"
    assert await price("pear", currency="USD") == "pear in USD"


def test_a_dropped_call_closes_its_attempt() -> None:
    closed = []

    class Never:
        def __await__(self) -> Any:
            yield "something"

    async def call() -> None:
        try:
            await Never()
        finally:
            closed.append(True)

    async def never(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        coroutine = make()
        coroutine.send(None)
        with pytest.raises(RuntimeError):  # it would have to wait for its task group
            coroutine.close()

    anyio.run(never, lambda: Hedge(1.0).call(call))
    assert closed == [True]


# -- the running quantile


async def test_the_delay_follows_how_long_first_attempts_take(clock: Clock) -> None:
    hedge = Hedge(Quantile(0.5, initial=9.0, window=4), clock=clock)
    assert hedge.snapshot().delay == 9.0
    for seconds in (1, 2, 3, 4, 0):
        await hedge.call(anyio.sleep, seconds)
    assert hedge.snapshot().delay == 2.0

    @hedge
    async def at_once() -> None:
        pass

    await at_once()
    await at_once()
    assert hedge.snapshot().delay == 0.0


async def test_failures_do_not_count_and_losers_count_with_the_time_they_had(clock: Clock) -> None:
    hedge = Hedge(Quantile(0.5, initial=1.0, window=2), clock=clock)
    for script in ([(0.5, OSError())], [(0, OSError())], [(3, OSError()), (1, OSError())]):
        with pytest.raises(OSError):
            await hedge.call(Backend(*script))
    assert hedge.snapshot().delay == 1.0
    for _ in range(2):
        await hedge.call(Backend((9, "first"), (4, "second")))
    assert hedge.snapshot().delay == 5.0
    with anyio.move_on_after(7):
        await hedge.call(Backend((99, "slow")))
    with anyio.move_on_after(4):  # before the delay: it says nothing
        await hedge.call(Backend((99, "slow")))
    assert hedge.snapshot().delay == 5.0
    with anyio.move_on_after(7):
        await hedge.call(Backend((99, "slow")))
    assert hedge.snapshot().delay == 7.0


async def test_hedging_does_not_shorten_its_own_delay(clock: Clock) -> None:
    """Of 20 calls one takes long, and its hedge wins. Were it left out, the quantile would fall to what the others take."""
    hedge = Hedge(Quantile(0.95, initial=2.0, window=100), clock=clock)
    for number in range(600):
        await hedge.call(Backend((100, "slow") if number % 20 == 0 else (1 + number % 20 / 20, "first"), (0.5, "second")))
    assert hedge.snapshot().delay == pytest.approx(1.95)
    seen = hedge.snapshot()
    assert seen.wins[1] == 600 / 20
    assert seen.hedged <= 600 / 10  # some of those that take as long as the delay itself are hedged too


async def test_without_a_first_guess_nobody_is_hedged_until_something_is_known(clock: Clock) -> None:
    hedge = Hedge(Quantile(0.5), clock=clock)
    backend = Backend((5, "slow"))
    for _ in range(2):
        await hedge.call(backend)
    assert (hedge.snapshot().hedged, hedge.snapshot().delay) == (0, 5.0)


# -- what there is to see


async def test_events_and_snapshot(clock: Clock) -> None:
    hedge = Hedge(1.0, attempts=3, name="quotes", clock=clock)
    events: list[Event] = []
    end = hedge.subscribe(events.append)
    began = anyio.current_time()
    await hedge.call(Backend((0, "first")))
    await hedge.call(Backend((0.5, "first")))
    assert events == []
    await hedge.call(Backend((9, "first"), (9, "second"), (1, "third")))
    told = [(type(event), event.attempt, event.at - began) for event in events if isinstance(event, Hedged | HedgeWon)]
    assert told == [(Hedged, 2, 1.5), (Hedged, 3, 2.5), (HedgeWon, 3, 3.5)]
    assert {event.name for event in events} == {"quotes"}
    end()
    await hedge.call(Backend((1.5, "first"), (9, "second")))
    with pytest.raises(OSError):
        await hedge.call(Backend((1.5, OSError())))
    assert hedge.snapshot() == HedgeSnapshot(name="quotes", calls=5, hedged=3, wins=(1, 0, 1), unaffordable=0, delay=1.0)
    assert len(events) == 3


def test_what_a_pipeline_says_of_it() -> None:
    traits = Hedge(0.25, attempts=3, name="quotes").traits
    assert (traits.kind, traits.attempts, traits.delay) == ("hedge", 3, 0.25)
    assert traits.words == "hedge 'quotes' (up to 3 attempts, the next one after 0.25 s)"
    traits = Hedge(Quantile(0.9, minimum=0.1)).traits
    assert (traits.attempts, traits.delay) == (2, 0.1)
    assert traits.words == "hedge 'hedge' (up to 2 attempts, the next one after the 0.9 quantile of the last 500 calls)"


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (
            {"delay": -1},
            ValueError,
            r"delay must be a number of seconds, 0 or more \(infinity allowed\), or a Quantile, not -1",
        ),
        ({"delay": nan}, ValueError, "delay must be"),
        ({"delay": True}, TypeError, "delay must be"),
        ({"delay": "1"}, TypeError, "delay must be"),
        ({"attempts": 1}, ValueError, "attempts must be a whole number, 2 or more, not 1"),
        ({"attempts": 2.0}, TypeError, "attempts must be"),
        ({"budget": 0.2}, TypeError, "budget must be a RetryBudget or None, not 0.2"),
        ({"next_on": OSError()}, TypeError, "next_on must be an exception type or a tuple of them"),
        ({"next_on": (OSError, KeyboardInterrupt)}, TypeError, "next_on must be"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"clock": 5}, TypeError, "clock must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        Hedge(**{"delay": 1.0, **settings})


# -- one object, several loops; and a slow obvious model


def test_one_hedge_serves_several_loops_and_both_backends() -> None:
    hedge = Hedge(1.0)

    async def use() -> None:
        assert await timed(hedge.call(Backend((9, "first"), (1, "second")))) == ("second", 2)

    for _ in range(2):
        for backend in virtual.BACKENDS:
            virtual.run(backend, use)
    assert hedge.snapshot() == HedgeSnapshot(name="hedge", calls=4, hedged=4, wins=(0, 4), unaffordable=0, delay=1.0)


Attempt = tuple[float, bool, bool]  # how long, whether it succeeds, whether its error starts the next at once


def expected(script: list[Attempt], attempts: int) -> tuple[float, int, list[float]]:
    """When the call ends, who wins (0: nobody), and when each attempt starts: second by second."""
    starts, ends, failed, due, now = [0.0], {1: script[0][0]}, set[int](), 10.0, 0.0
    while True:
        now = min([*ends.values(), due if len(starts) < attempts else inf])
        if len(starts) < attempts and due == now:
            starts.append(now)
            ends[len(starts)] = now + script[len(starts) - 1][0]
            due = now + 10
            continue
        number = min(ends, key=lambda each: ends[each])
        del ends[number]
        _, succeeds, next_at_once = script[number - 1]
        if succeeds:
            return now, number, starts
        failed.add(number)
        if next_at_once and len(starts) < attempts:
            starts.append(now)
            ends[len(starts)] = now + script[len(starts) - 1][0]
            due = now + 10
        if not ends:
            return now, 0, starts


@given(
    script=st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans()), min_size=4, max_size=4),
    attempts=st.integers(2, 4),
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_does_what_the_model_does(backend: str, script: list[tuple[int, bool, bool]], attempts: int) -> None:
    """Lengths differ by fractions that cannot add up to the same moment, so that the order is always certain."""
    exact = [(length + (1 << number) / 64, good, again) for number, (length, good, again) in enumerate(script)]
    steps = [
        (length, number if good else (OSError if again else KeyError)(number))
        for number, (length, good, again) in enumerate(exact, 1)
    ]
    ends, winner, starts = expected(exact, attempts)

    async def use() -> None:
        backend, began = Backend(*steps), anyio.current_time()
        hedge = Hedge(10.0, attempts=attempts, next_on=OSError)
        try:
            result: object = await hedge.call(backend)
        except (OSError, KeyError) as error:
            result = 0 if error is steps[0][1] else error
        assert result == winner
        assert anyio.current_time() - began == pytest.approx(ends)
        assert since(backend, began) == starts
        assert backend.running == 0

    virtual.run(backend, use)
