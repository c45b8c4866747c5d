"""For tests of code that uses the library: a clock, a scripted dependency, recorded events, forced states, chaos."""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite
from random import Random
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import anyio

from .breaker import CircuitBreaker
from .core import checks
from .core.eras import State
from .events import Event
from .policies.events import ChaosMade
from .policy import NamedPolicy, Policy

if TYPE_CHECKING:
    from .lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "Answer",
    "Chaos",
    "ChaosSnapshot",
    "ManualClock",
    "ScriptedDependency",
    "VirtualTimeLoop",
    "in_state",
    "record_events",
]


class ManualClock:
    """A clock that moves only when told to: `CircuitBreaker(..., clock=ManualClock())`."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = checks.number("now", now, "a number of seconds")

    def __call__(self) -> float:
        """Seconds, as they were last set."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds (ValueError if below 0)."""
        self.now += checks.wait("seconds", seconds)


@dataclass(frozen=True, slots=True)
class Answer:
    """A step of a script: return `value`, or raise it if it is an exception, `after` so many seconds (infinity: never)."""

    value: object = None
    after: float = 0.0

    def __post_init__(self) -> None:
        checks.wait("after", self.after)


class ScriptedDependency:
    """An async function that does what its script says, step by step; the last step repeats.

    A step is an `Answer`, an exception (raised), or any other value (returned). `calls` are the arguments it was called with,
    `running` and `most_running` how many calls are and were inside at once.

        dependency = ScriptedDependency("fine", OSError("down"), Answer("slow", after=3.0), Answer(after=inf))
    """

    def __init__(self, *script: object) -> None:
        if not script:
            raise ValueError("a script needs at least one step")
        self._script: Sequence[Answer] = [step if isinstance(step, Answer) else Answer(step) for step in script]
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.running = 0
        self.most_running = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do the next step."""
        step = self._script[min(len(self.calls), len(self._script) - 1)]
        self.calls.append((args, kwargs))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await (anyio.sleep_forever() if step.after == inf else anyio.sleep(step.after))
        finally:
            self.running -= 1
        if isinstance(step.value, BaseException) or (isinstance(step.value, type) and issubclass(step.value, BaseException)):
            raise step.value
        return step.value


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosSnapshot:
    """How many calls a chaos policy has seen, and how many of them it has delayed, hung, made fail, or answered otherwise."""

    calls: int
    delayed: int
    hung: int
    failed: int
    replaced: int


_Maker = Callable[[], Exception]


class Chaos(NamedPolicy[Any]):
    """Disturbs calls by chance: put it innermost, in the place of the dependency's own troubles.

        chaos = Chaos(latency=(0.1, 0.5), failure=0.2, error=ConnectionError, hang=0.01, seed=7)
        pipeline = Retry(on=OSError) | breaker | Timeout(2.0) | chaos

    What becomes of a call is drawn when it begins. First it waits for its latency. Then it hangs (until it is cancelled), or it
    fails, in both cases without the function being called; or the function is called, and its result may be replaced.

    The same seed gives the same sequence: call number n is disturbed in the same way in every run, and a change to one setting
    (more failures, say) leaves what is drawn for the others as it was. Calls while it is not `enabled` draw nothing.

    Args:
        latency: seconds that are added, a (low, high) pair to draw them from evenly, or a function of a random generator
            (`lambda random: random.expovariate(10)`).
        latency_rate: for which fraction of calls.
        failure: the fraction of calls that fail, 0 to 1; or fractions by error, `{ConnectionError: 0.1, TimeoutError: 0.05}`.
        error: what they fail with, if `failure` is a number: an exception type, or a function without arguments that makes one.
            So are the errors of a mapping. Every failure gets a new one.
        hang: the fraction of calls that hang.
        outcome: a function of the result whose answer takes its place; it may raise.
        outcome_rate: for which fraction of the calls that succeed.
        seed: an int or a string; None: another sequence in every run.
        enabled: whether it does anything. This can be set at any time; calls that have begun go on as they were drawn.
        name: what events and errors call it.
        clock: seconds, steadily rising; dates the events.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = (
        "_chances",
        "_counts",
        "_enabled",
        "_failures",
        "_hang",
        "_latency",
        "_latency_rate",
        "_outcome",
        "_outcome_rate",
    )

    def __init__(
        self,
        *,
        latency: float | tuple[float, float] | Callable[[Random], float] = 0.0,
        latency_rate: float = 1.0,
        failure: float | Mapping[Any, float] = 0.0,
        error: type[Exception] | _Maker | None = None,
        hang: float = 0.0,
        outcome: Callable[[Any], object] | None = None,
        outcome_rate: float = 1.0,
        seed: int | str | None = None,
        enabled: bool = True,
        name: str = "chaos",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        self._latency = _latency(latency)
        self._latency_rate = _rate("latency_rate", latency_rate)
        self._failures = _failures(failure, error, f"injected by {name!r}")
        self._hang = _rate("hang", hang)
        if not (outcome is None or callable(outcome)):
            raise TypeError(f"outcome must be a function of the result, not {outcome!r}")
        self._outcome = outcome
        self._outcome_rate = _rate("outcome_rate", outcome_rate)
        if isinstance(seed, bool) or not isinstance(seed, int | str | None):
            raise TypeError(f"seed must be a whole number, a string or None, not {seed!r}")
        kinds = ("delay", "latency", "hang", "failure", "outcome")
        self._chances = {kind: Random(None if seed is None else f"{kind} {seed!r}") for kind in kinds}
        self._counts: dict[str, int] = dict.fromkeys(("calls", "delayed", "hung", "failed", "replaced"), 0)
        self.enabled = enabled

    @property
    def enabled(self) -> bool:
        """Whether it does anything to the calls that begin now."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled must be True or False, not {enabled!r}")
        self._enabled = enabled

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function, or do what the chance of this call says.

        Raises:
            Exception: an error that was asked for.
        """
        self._counts["calls"] += 1
        if not self._enabled:
            return await fn(*args, **kwargs)
        seconds, hangs, failing, replaced = self._drawn()
        if seconds:
            self._make("delayed", f"latency of {seconds:.3g} s")
            await anyio.sleep(seconds)
        if hangs:
            self._make("hung", "hang")
            await anyio.sleep_forever()
        if failing is not None:
            error = failing()
            if not isinstance(error, Exception):
                raise TypeError(f"error must be a function that makes an exception, not {error!r}")
            self._make("failed", f"failure: {type(error).__name__}")
            raise error
        result = await fn(*args, **kwargs)
        if self._outcome is None or not replaced:
            return result
        self._make("replaced", "outcome")
        return self._outcome(result)

    def _drawn(self) -> tuple[float, bool, _Maker | None, bool]:
        """What becomes of a call. Everything is drawn for every call, so that the sequences do not depend on one another."""
        chances = self._chances
        delayed = chances["delay"].random() < self._latency_rate
        seconds = _duration(self._latency(chances["latency"]))
        hangs = chances["hang"].random() < self._hang
        draw = chances["failure"].random()
        failing = next((make for make, below in self._failures if draw < below), None)
        replaced = chances["outcome"].random() < self._outcome_rate
        return seconds if delayed else 0.0, hangs, failing, replaced

    def _make(self, count: str, what: str) -> None:
        self._counts[count] += 1
        self._tell(ChaosMade, what=what)

    def snapshot(self) -> ChaosSnapshot:
        """One look at it, as a value that does not change."""
        return ChaosSnapshot(**self._counts)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from .lint import Traits

        failures = self._failures[-1][1] if self._failures else 0.0
        rates = {"hang": self._hang, "fail": failures, "get another result": self._outcome_rate if self._outcome else 0.0}
        words = ", ".join(f"{rate:.3g} of calls {what}" for what, rate in rates.items() if rate)
        return Traits(kind="chaos", words=f"chaos {self.name!r} ({words or 'no more than latency'})")


def _rate(argument: str, value: object) -> float:
    allowed = "a fraction from 0 to 1"
    rate = checks.number(argument, value, allowed)
    if not 0 <= rate <= 1:
        raise ValueError(f"{argument} must be {allowed}, not {value!r}")
    return rate


def _duration(value: object) -> float:
    allowed = "a finite number of seconds, 0 or more, a (low, high) pair of them, or a function of a random generator"
    seconds = checks.number("latency", value, allowed)
    if not (seconds >= 0 and isfinite(seconds)):
        raise ValueError(f"latency must be {allowed}, not {value!r}")
    return seconds


def _latency(latency: object) -> Callable[[Random], float]:
    if callable(latency):
        return cast("Callable[[Random], float]", latency)
    if not isinstance(latency, tuple):
        seconds = _duration(latency)
        return lambda _: seconds
    if len(latency) != 2 or _duration(latency[0]) > _duration(latency[1]):
        raise ValueError(f"latency must be a (low, high) pair of seconds, not {latency!r}")
    low, high = latency
    return lambda random: random.uniform(low, high)


def _failures(failure: object, error: object, message: str) -> list[tuple[_Maker, float]]:
    """How to make each error, and up to which draw it comes; the fractions are added up in their order."""
    if not isinstance(failure, Mapping):
        rate = _rate("failure", failure)
        maker = _maker(ConnectionError if error is None else error, message)
        return [(maker, rate)] if rate else []
    if error is not None:
        raise ValueError(f"error must be left out when failure names the errors, not {error!r}")
    makers: list[tuple[_Maker, float]] = []
    total = 0.0
    for kind, rate in failure.items():
        total += _rate("failure", rate)
        makers.append((_maker(kind, message), total))
    if total > 1 + 1e-9:
        raise ValueError(f"failure must be fractions that add up to at most 1, not {total:.3g}")
    return makers


def _maker(error: object, message: str) -> _Maker:
    allowed = "an exception type that takes a message, or a function without arguments that makes an exception"
    if not callable(error) or (isinstance(error, type) and not issubclass(error, Exception)):
        raise TypeError(f"error must be {allowed}, not {error!r}")
    if not isinstance(error, type):
        return cast("_Maker", error)
    try:
        error(message)
    except Exception as reason:
        raise TypeError(f"error must be {allowed}, not {error!r}: {reason}") from reason
    return lambda: error(message)


@contextmanager
def record_events(policy: Policy[Any], *, calls: bool = False) -> Generator[list[Event]]:
    """The events of a breaker, another policy or a pipeline during a block, as a list that grows."""
    events: list[Event] = []
    unsubscribe = policy.subscribe(events.append, calls=calls)
    try:
        yield events
    finally:
        unsubscribe()


@contextmanager
def in_state(breaker: CircuitBreaker, state: State) -> Generator[CircuitBreaker]:
    """The breaker in this state for a block; afterwards it is closed, with fresh counts."""
    orders: dict[State, Callable[[], None]] = {
        State.CLOSED: breaker.reset,
        State.OPEN: breaker.open,
        State.HALF_OPEN: breaker.half_open,
        State.FORCED_OPEN: breaker.force_open,
        State.DISABLED: breaker.disable,
        State.METRICS_ONLY: breaker.metrics_only,
    }
    breaker.reset()
    orders[State(state)]()
    try:
        yield breaker
    finally:
        breaker.reset()


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in which waiting takes no time: when nothing is ready, its clock jumps to the next timer.

    For trio use `trio.testing.MockClock(autojump_threshold=0)`. In both, give breakers `clock=anyio.current_time`. Not for
    tests with real sockets or threads.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


_PATIENCE = 5.0  # real seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            ready = super().select(0)
            if not ready and timeout > 0:
                self._jump(timeout)
            return ready
        ready = super().select(_PATIENCE)
        if not ready:
            raise RuntimeError("every task waits for something, and no timer will bring it")
        return ready
