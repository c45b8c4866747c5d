"""Failures that are only noted at first: beside an obvious model that keeps every call, nobody can tell the difference.

Law: a picture is taken only now and then, because taking one counts what was noted.
"""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobreaker import CircuitBreaker, CircuitOpenError, FailureSummary, Outcome, State
from aiobreaker.core.circuit import Rules
from aiobreaker.core.conditions import (
    Condition,
    ConsecutiveFailures,
    FailureCount,
    FailureRate,
    SlowCallRate,
    any_of,
)
from aiobreaker.core.eras import Trials
from aiobreaker.core.schedules import Fixed
from aiobreaker.core.windows import LastCalls, LastSeconds, Window
from aiobreaker.testing import ManualClock

from .core.circuit_model import CircuitModel
from .core.records import Call
from .core.strategies import RATES, examples


class DownError(Exception):
    """The dependency failed."""


class NeutralError(Exception):
    """It says nothing about the dependency."""


class OddError(Exception):
    """It is nobody's failure."""


class WordlessError(DownError):
    def __str__(self) -> str:
        raise ValueError("no words")


class TalkingError(DownError):
    """Does something with the breaker when it is asked for its words for the first time."""

    def __init__(self, talk: Callable[[], object]) -> None:
        self.talk: Callable[[], object] | None = talk

    def __str__(self) -> str:
        talk, self.talk = self.talk, None
        if talk is not None:
            talk()
        return "long story"


class Do(NamedTuple):
    """A call that takes so many seconds and ends in this way; `inside` happens before, or when it is asked for its words."""

    way: str
    end: str
    seconds: float = 0.0
    inside: tuple[Any, ...] = ()


class Burst(NamedTuple):
    """The same call again and again."""

    call: Do
    times: int


class Wait(NamedTuple):
    seconds: float


class Order(NamedTuple):
    state: State


class Look(NamedTuple):
    """A picture is taken."""


class Reconfigure(NamedTuple):
    rules: Rules


ENDS = {
    "fine": Outcome.SUCCESS,
    "down": Outcome.FAILURE,
    "new type": Outcome.FAILURE,
    "wordless": Outcome.FAILURE,
    "talking": Outcome.FAILURE,
    "neutral": Outcome.IGNORED,
    "odd": Outcome.SUCCESS,
    "cancelled": Outcome.CANCELLED,
}
ORDERS = {State.CLOSED: "reset", State.FORCED_OPEN: "force_open", State.DISABLED: "disable", State.METRICS_ONLY: "metrics_only"}
WAYS = ("decorated", "decorated now", "call", "guard")


def finish(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run what has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


class Beside:
    """A breaker and the model."""

    def __init__(self, rules: Rules, by_function: bool, cancelled: BaseException) -> None:
        self.clock = ManualClock()
        self.cancelled = cancelled
        self.talking = False
        self.model = CircuitModel(rules, 0.0, 0.5)
        self.breaker = CircuitBreaker(
            "noted",
            failure_on=(lambda error: isinstance(error, DownError)) if by_function else DownError,
            ignore=(lambda error: isinstance(error, NeutralError)) if by_function else NeutralError,
            clock=self.clock,
            **self.changes(rules),
        )
        self.decorated = self.breaker(self.work)
        self.last_failure: FailureSummary | None = None

    @staticmethod
    def changes(rules: Rules) -> dict[str, Any]:
        return {"trip": any_of(*rules.conditions), "open_for": rules.schedule, "trials": rules.trials}

    async def work(self, step: Do) -> None:
        self.wait(step.seconds)
        if step.end != "talking":
            self.take_all(step.inside)
        if step.end != "fine":
            raise self.error(step)

    def error(self, step: Do) -> BaseException:
        match step.end:
            case "new type":
                new: type[DownError] = type("NewError", (DownError,), {})
                return new("new")
            case "talking":
                return TalkingError(lambda: self.talk(step.inside))
            case "cancelled":
                return self.cancelled
        plain: dict[str, type[Exception]] = {
            "down": DownError,
            "neutral": NeutralError,
            "odd": OddError,
            "wordless": WordlessError,
        }
        return plain[step.end](step.end)

    async def go(self, step: Do) -> None:
        match step.way:
            case "decorated":
                await self.decorated(step)
            case "decorated now":
                await self.breaker(self.work)(step)
            case "call":
                await self.breaker.call(self.work, step)
            case "guard":
                async with self.breaker.guard():
                    await self.work(step)

    # -- the steps

    def talk(self, steps: tuple[Any, ...]) -> None:
        """In no time: a failure is one of the moment at which it came."""
        outer, self.talking = self.talking, True
        self.take_all(steps)
        self.talking = outer

    def wait(self, seconds: float) -> None:
        if not self.talking:
            self.clock.advance(seconds)

    def take_all(self, steps: tuple[Any, ...]) -> None:
        for step in steps:
            self.take(step)

    def take(self, step: Any) -> None:
        match step:
            case Do():
                self.call(step)
            case Burst(call, times):
                for _ in range(times):
                    if not self.call(call):
                        break  # or it would have to give way
            case Wait(seconds):
                self.wait(seconds)
            case Order(state):
                self.order(state)
            case Look():
                self.same()
            case Reconfigure(rules):
                self.breaker.reconfigure(**self.changes(rules))
                self.model.reconfigure(rules, self.clock())

    def call(self, step: Do) -> bool:
        """False if it was refused."""
        expected = self.model.start(self.clock())
        try:
            finish(self.go(step))
        except CircuitOpenError:
            assert not isinstance(expected, Call), "it should not have been refused"
            return False
        except (DownError, NeutralError, OddError):
            pass
        except BaseException as error:
            if error is not self.cancelled:
                raise
        assert isinstance(expected, Call), "it should have been refused"
        self.model.finish(expected, ENDS[step.end], self.clock())
        if ENDS[step.end] is Outcome.FAILURE:
            self.last_failure = self.summary(step)
        assert self.breaker.state is self.model.state
        return True

    def summary(self, step: Do) -> FailureSummary:
        kind, words = {
            "down": ("DownError", "down"),
            "new type": ("NewError", "new"),
            "wordless": ("WordlessError", "(no text: its __str__ raised)"),
            "talking": ("TalkingError", "long story"),
        }[step.end]
        return FailureSummary(kind, words, self.clock())

    def order(self, state: State) -> None:
        now = self.clock()
        if state is State.OPEN:
            self.breaker.open()
            self.model.open_by_hand(now)
        elif state is State.HALF_OPEN:
            self.breaker.half_open()
            self.model.half_open_by_hand(now)
        else:
            getattr(self.breaker, ORDERS[state])()
            self.model.put(state, now)

    def same(self) -> None:
        seen, model, now = self.breaker.snapshot(), self.model, self.clock()
        assert seen.state is model.state
        assert seen.in_flight == len(model.running)
        assert seen.totals == model.totals
        assert seen.readings == model.readings(now)
        assert seen.retry_after == model.retry_after(now)
        assert seen.last_failure == self.last_failure
        if seen.state is not State.DISABLED:
            assert (seen.calls, seen.failures) == (model.calls, model.failures)
        assert seen.transitions == len(model.transitions)


# -- plans

SECONDS = st.sampled_from([0.0] * 6 + [0.1, 0.5, 1.0])
windows: st.SearchStrategy[Window] = st.builds(LastCalls, st.integers(1, 30)) | st.builds(
    LastSeconds, st.sampled_from([1.0, 5.0]), st.integers(1, 5)
)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    kind = draw(st.sampled_from([ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate]))
    if kind is ConsecutiveFailures:
        return ConsecutiveFailures(draw(st.integers(1, 100)))
    window = draw(windows)
    number = draw(st.integers(1, window.size if isinstance(window, LastCalls) else 80))
    if kind is FailureCount:
        return FailureCount(number, window)
    if kind is FailureRate:
        return FailureRate(draw(RATES), window, minimum_calls=number)
    return SlowCallRate(draw(RATES), 0.5, window, minimum_calls=number)


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    trip = draw(st.lists(conditions(), min_size=1, max_size=3))
    return Rules(tuple(trip), Fixed(draw(st.sampled_from([0.5, 5.0]))), 0.0, Trials(draw(st.integers(1, 2))))


def calls(inside: st.SearchStrategy[tuple[Any, ...]]) -> st.SearchStrategy[Do]:
    ends = st.sampled_from(["fine"] * 4 + ["down"] * 8 + list(ENDS))
    return st.builds(Do, st.sampled_from(WAYS), ends, SECONDS, inside)


def steps(depth: int = 2) -> st.SearchStrategy[Any]:
    inside = st.just(()) if not depth else st.just(()) | st.lists(steps(depth - 1), max_size=3).map(tuple)
    usual: list[st.SearchStrategy[Any]] = [
        calls(st.just(())),
        calls(inside),
        st.builds(Burst, calls(st.just(())), st.sampled_from([2, 3, 5, 8, 13, 21, 70])),
        st.builds(Wait, st.sampled_from([0.1, 0.5, 1.0, 5.0])),
    ]
    rare: list[st.SearchStrategy[Any]] = [st.just(Look()), st.builds(Order, st.sampled_from(State))]
    if depth == 2:
        rare.append(st.builds(Reconfigure, rules()))
    return st.sampled_from(usual * 4 + rare).flatmap(lambda kind: kind)


async def play(rules: Rules, by_function: bool, plan: list[Any]) -> None:
    cancelled: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await checkpoint()
        except BaseException as error:
            cancelled = error
            raise
    assert cancelled is not None
    beside = Beside(rules, by_function, cancelled)
    beside.take_all(tuple(plan))
    beside.same()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nobody_can_tell_that_failures_are_only_noted(backend: str) -> None:
    @settings(max_examples=examples(500), deadline=None)
    @given(rules(), st.booleans(), st.lists(steps(), max_size=25))
    def run(rules: Rules, by_function: bool, plan: list[Any]) -> None:
        anyio.run(play, rules, by_function, plan, backend=backend)

    run()
