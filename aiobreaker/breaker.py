"""The circuit breaker: the public face of a gate. Settings, the ways in, control, and what there is to see."""

import random as _random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Never, ParamSpec, Protocol, TypeVar, Unpack, overload

from . import fallbacks, guards, waiting
from .core import checks
from .core.conditions import ConsecutiveFailures, FailureRate, SlowCallRate
from .core.eras import Door, State, Totals, Trials
from .core.outcomes import ErrorRule, ResultRule
from .core.schedules import Schedule
from .core.tallies import Reading
from .errors import CircuitOpenError, FailureSummary
from .events import Event, Reconfigured, StateChanged
from .fallbacks import LastGood
from .gate import Gate
from .guards import HeldPermit
from .hub import EventStream
from .locking import LOCK
from .policy import Policy
from .settings import Changes, Hint, Probe, Settings, Trip
from .streams import GuardedStream

if TYPE_CHECKING:
    from .lint import Traits

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")
F = TypeVar("F")

F_co = TypeVar("F_co", covariant=True)
Errors = type[Exception] | tuple[type[Exception], ...]

DEFAULT_TRIP = ConsecutiveFailures(5)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a breaker. Times are on its clock; rates are fractions, None without calls or without such a condition.

    `calls`, `failures` and `refused` are those of the state as it stands. From the beginning on count `totals`; `refusals`, by
    the state that refused; `transitions`, and `moves`, by the old and the new state; and `events_lost`, which streams of this
    breaker have dropped because their readers were too slow.
    """

    name: str
    state: State
    reason: str
    since: float
    at: float
    retry_after: float | None
    calls: int
    failures: int
    failure_rate: float | None
    slow_rate: float | None
    readings: tuple[Reading, ...]
    refused: int
    in_flight: int
    waiting: int
    totals: Totals
    refusals: Mapping[State, int]
    transitions: int
    moves: Mapping[tuple[State, State], int]
    events_lost: int
    last_failure: FailureSummary | None


class FallbackDecorator(Protocol[F_co]):
    """A decorator that keeps a function's arguments, and adds the fallback's type to its result."""

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T | F_co]]:
        """Guard this async function."""
        ...


class CircuitBreaker(Policy[Never]):
    """Guards the calls to one dependency. Made anywhere, at import time too; used from any number of event loops.

    With no settings at all, 5 consecutive failures open it for 30 seconds, then one trial call decides.

    Args:
        name: what errors, events and metrics call it.
        trip: the condition that opens it, or several joined by `|`.
        open_for: how long it stays open: seconds, or a schedule (`Steps`, `Exponential`) that grows with failed trials.
        jitter: the fraction by which the open time is spread, either way. Default: 0 for a number, 0.1 for a schedule.
        trials: how many trial calls decide whether it closes again, or a `Trials` that says more.
        failure_on: exception types, or a function of the exception, that are failures. All others are successes.
        ignore: exception types, or a function, that say nothing about the dependency. It comes before `failure_on`.
        failure_if: a function of the result that says whether it is a failure.
        retry_after: a function of the result or exception that reads the server's own hint from it: seconds, the text of a
            Retry-After header, or None. A hint opens the circuit for that long.
        max_retry_after: the most seconds that a hint is followed for.
        probe: an async function that asks the dependency whether it is back; then it decides in place of trial calls. It says
            no by raising or by returning False.
        max_waiters: how many callers may wait for admission at once.
        clock: monotonic seconds.
        random: random numbers in [0, 1), for the jitter.

    Raises:
        TypeError, ValueError: a setting that cannot be; the message names it, its value, and what is allowed.
    """

    __slots__ = ("__weakref__", "_gate")

    def __init__(
        self,
        name: str,
        *,
        trip: Trip = DEFAULT_TRIP,
        open_for: float | Schedule = 30.0,
        jitter: float | None = None,
        trials: int | Trials = 1,
        failure_on: ErrorRule = Exception,
        ignore: ErrorRule = (),
        failure_if: ResultRule | None = None,
        retry_after: Hint | None = None,
        max_retry_after: float = 300.0,
        probe: Probe | None = None,
        max_waiters: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        if not name:
            raise ValueError("name must not be empty, it is what errors and metrics call the breaker")
        for argument, function in (("clock", clock), ("random", random)):
            if not callable(function):
                raise TypeError(f"{argument} must be a function without arguments that returns a number, not {function!r}")
        settings = Settings(
            trip=trip,
            open_for=open_for,
            jitter=jitter,
            trials=trials,
            failure_on=failure_on,
            ignore=ignore,
            failure_if=failure_if,
            retry_after=retry_after,
            max_retry_after=max_retry_after,
            probe=probe,
            max_waiters=max_waiters,
        )
        self._gate = Gate(name, settings, clock, random)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r} {self.state.value}>"

    # -- the ways in

    @overload  # the ignore: a staticmethod is also callable, and comes first for that reason
    def __call__(self, fn: "staticmethod[P, T]", /) -> "staticmethod[P, T]": ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: "classmethod[S, P, T]", /) -> "classmethod[S, P, T]": ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[P, AsyncGenerator[T, S]], /) -> Callable[P, AsyncGenerator[T, S]]: ...
    @overload
    def __call__(self, fn: Callable[P, AsyncIterator[T]], /) -> Callable[P, AsyncIterator[T]]: ...

    def __call__(self, fn: Any, /) -> Any:
        """Guard an async function or an async generator function, as a decorator. It keeps its name and signature.

        Raises:
            TypeError: it is anything else.
        """
        if type(self).call is not CircuitBreaker.call:  # a subclass has its own
            return super().__call__(fn)
        return guards.guard_function(self._gate, fn)

    # in one frame each, not two
    call = guards.call  # pyright: ignore[reportAssignmentType]  # it asks for more of `self` than a policy has
    guard = guards.guard

    async def acquire(self, *, max_wait: float = 0.0) -> HeldPermit:
        """Admit one call, and leave it to the caller to say how it ends.

        `max_wait` is for how many seconds to wait for admission; 0 refuses at once. Those who wait are served in the order
        in which they came. A wait that must be in vain, because the circuit stays open for longer, is refused at once.

        Raises:
            CircuitOpenError: refused, at once or after waiting.
        """
        return HeldPermit(self._gate, await waiting.admit_patiently(self._gate, checks.wait("max_wait", max_wait)))

    def stream(
        self,
        source: AsyncIterable[T],
        *,
        max_wait: float = 0.0,
        first_item_timeout: float | None = None,
        stall_timeout: float | None = None,
    ) -> GuardedStream[T]:
        """A guarded async iterator: `async with breaker.stream(source) as items: async for item in items: ...`.

        `first_item_timeout` and `stall_timeout` are the most seconds until the first item, and between items. Exceeding one
        raises TimeoutError and is a failure.
        """
        return GuardedStream(self._gate, source, checks.wait("max_wait", max_wait), first_item_timeout, stall_timeout)

    @overload
    def with_fallback(self, fallback: LastGood, *, on: Errors = ...) -> "FallbackDecorator[Never]": ...
    @overload
    def with_fallback(self, fallback: Callable[..., Awaitable[F]], *, on: Errors = ...) -> "FallbackDecorator[F]": ...
    @overload
    def with_fallback(self, fallback: Callable[..., F], *, on: Errors = ...) -> "FallbackDecorator[F]": ...
    @overload
    def with_fallback(self, fallback: F, *, on: Errors = ...) -> "FallbackDecorator[F]": ...

    def with_fallback(self, fallback: Any, *, on: Errors = CircuitOpenError) -> Any:
        """A decorator that guards an async function, and answers in place of the errors in `on` (default: refusals).

        `fallback` is a value, or a function, sync or async, of the error and the call's own arguments, or `LastGood(...)`.
        """
        fallbacks.check_fallback_errors(on)

        def decorate(fn: Any) -> Any:
            return fallbacks.with_fallback(self(fn), fallback, on, self._gate.clock)

        return decorate

    # -- control

    def open(self, duration: float | None = None, *, reason: str = "opened by hand") -> None:
        """Open the circuit for so many seconds (default: as long as a trip would); then trials follow."""
        seconds = None if duration is None else checks.seconds("duration", duration)
        self._gate.command(lambda now: self._gate.circuit.open(now, seconds, reason))

    def half_open(self) -> None:
        """Begin a round of trials now. In a half-open circuit this does nothing."""
        self._gate.command(self._gate.circuit.half_open)

    def force_open(self, reason: str = "forced open") -> None:
        """Refuse every call until another order."""
        self._gate.command(lambda now: self._gate.circuit.force_open(now, reason))

    def disable(self) -> None:
        """Let every call pass and record nothing, until another order."""
        self._gate.command(lambda now: self._gate.circuit.let_flow(now, State.DISABLED, "disabled"))

    def metrics_only(self) -> None:
        """Let every call pass and record everything, until another order. What it would have done is a `WouldOpen` event."""
        self._gate.command(lambda now: self._gate.circuit.let_flow(now, State.METRICS_ONLY, "only measuring"))

    def reset(self) -> None:
        """Close the circuit, with fresh counts."""
        self._gate.command(lambda now: self._gate.circuit.let_flow(now, State.CLOSED, "reset"))

    @asynccontextmanager
    async def isolated(self, reason: str = "isolated", *, drain: bool = False) -> AsyncGenerator[None]:
        """Hold the circuit open for the length of a block, for maintenance; afterwards it is as it was found.

        Blocks may overlap: the last one that ends releases. With `drain`, the block begins when no admitted call is in flight
        any more. An order given meanwhile (`reset()`, say) ends the hold, and the wait.
        """
        circuit = self._gate.circuit
        hold = self._gate.hold(reason)
        try:
            if drain:
                await waiting.drain(self._gate, hold)
            yield
        finally:
            self._gate.command(lambda now: circuit.release(hold, now))

    def reconfigure(self, **changes: Unpack[Changes]) -> None:
        """Change settings in use. The state stays, and what was remembered, as far as it has a meaning under the new ones.

        An open time that has begun stays as it is. Functions decorated before a change that makes the breaker look at more
        (the clock, running calls, results) stay correct, but go the slower, general way.

        Raises:
            TypeError, ValueError: as for the constructor; nothing is changed then.
        """
        gate = self._gate
        settings, now = replace(gate.settings, **changes), gate.clock()
        with LOCK:
            if settings.shape is not gate.settings.shape:
                gate.circuit.door.close()
                gate.circuit.door = Door()
            gate.settings = settings
            gate.circuit.reconfigure(settings.rules, now)
            if gate.wanted:
                gate.hub.post(Reconfigured(changed=tuple(changes), **gate.hub.stamp(now)))
        gate.show_door()
        gate.command(lambda now: None)

    # -- what there is to see

    @property
    def name(self) -> str:
        """What errors, events and metrics call it."""
        return self._gate.name

    @property
    def state(self) -> State:
        """What the circuit does with calls. An open one whose time is over still reads OPEN, until a trial is admitted."""
        return self._gate.circuit.era.state

    def snapshot(self) -> Snapshot:
        """One look at everything."""
        gate, circuit = self._gate, self._gate.circuit
        now = gate.look()
        with LOCK:
            era = circuit.era
            readings = circuit.readings(now)
            recorded = era.state is not State.DISABLED
            return Snapshot(
                name=gate.name,
                state=era.state,
                reason=era.reason,
                since=era.since,
                at=now,
                retry_after=circuit.retry_after(now),
                calls=era.n if recorded else 0,
                failures=era.failures if recorded else 0,
                failure_rate=_rate(readings, FailureRate),
                slow_rate=_rate(readings, SlowCallRate),
                readings=readings,
                refused=era.refused,
                in_flight=circuit.in_flight,
                waiting=gate.waiting,
                totals=circuit.totals,
                refusals=dict(circuit.refusals),
                moves=dict(circuit.moves),
                transitions=circuit.transitions,
                events_lost=gate.hub.lost,
                last_failure=gate.last_failure,
            )

    def explain(self) -> str:
        """In words: what it does and why, and how far each condition is from tripping."""
        seen = self.snapshot()
        words = [f"{seen.name} is {seen.state.value.replace('_', ' ')} for {seen.at - seen.since:.3g} s: {seen.reason}."]
        if seen.retry_after is not None:
            words.append(f"A call could be admitted in {seen.retry_after:.3g} s.")
        for reading in seen.readings:
            short = "" if reading.enough_calls else "; not enough calls yet to judge"
            words.append(f"{reading}{short}.")
        if seen.last_failure is not None:
            words.append(f"The last failure was {seen.last_failure}, {seen.at - seen.last_failure.at:.3g} s ago.")
        return "\n".join(words)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from .lint import Traits

        settings = self._gate.settings
        open_for = settings.rules.schedule.seconds(0)
        words = f"circuit breaker {self.name!r} (opens for {open_for:g} s on {settings.trip})"
        return Traits(kind="breaker", words=words, open_for=open_for, slow_after=settings.rules.slow_after)

    def events(self, *, buffer: int = 256, calls: bool = False) -> EventStream:
        """The events from now on: `async with breaker.events() as events: async for event in events: ...`.

        A reader who falls more than `buffer` events behind loses the oldest, and gets an `EventsLost` that says how many. With
        `calls`, the events of single calls come too.
        """
        return EventStream(self._gate.hub, buffer, calls)

    def subscribe(self, observer: Callable[[Event], object], *, calls: bool = False) -> Callable[[], None]:
        """Call a function with every event, from inside whatever made it happen; what it raises is logged, not passed on.

        The answer is a function that ends it. With `calls`, the events of single calls come too.
        """
        return self._gate.hub.subscribe(observer, calls)

    async def wait_for(self, state: State) -> None:
        """Wait until the circuit is in this state, or has been for a moment."""
        async with self.events() as events:
            seen = self.state
            while seen is not state:
                event = await anext(events)
                seen = event.new if isinstance(event, StateChanged) else self.state


def _rate(readings: tuple[Reading, ...], kind: type[FailureRate | SlowCallRate]) -> float | None:
    return next((reading.rate for reading in readings if isinstance(reading.condition, kind)), None)
