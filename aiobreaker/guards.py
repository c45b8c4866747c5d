"""The ways in: decorator, call, block, token. The one room where speed comes before brevity.

The decorators' variants stand side by side, one for each shape of settings; a test holds each against `judged`, the plain
one, which is right for all of them. In each of them the same: no await between admission and call; a plain success is one
addition and one comparison; everything else is the gate's. From reading a counter to writing it nothing is called: there
CPython does not switch threads, so none of them loses a count.
"""

import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

from .begun import ENDED
from .core import checks
from .core.eras import Permit
from .core.outcomes import Outcome
from .gate import Gate, Pass
from .settings import Shape
from .streams import Lifeline, guard_generator
from .waiting import admit_patiently, admit_slowly

P = ParamSpec("P")
T = TypeVar("T")
Function = Callable[..., Any]


# -- decorators


def guard_function(gate: Gate, fn: Any) -> Any:
    """The guarded form of an async function, an async generator function, or a static or class method of them."""
    if isinstance(fn, staticmethod | classmethod):
        return type(fn)(guard_function(gate, fn.__func__))
    if inspect.isasyncgenfunction(fn):
        return wraps(fn)(guard_generator(gate, fn))
    if inspect.iscoroutinefunction(fn):
        return wraps(fn)(_VARIANTS[gate.settings.shape](gate, fn))
    raise TypeError(f"only async functions and async generator functions can be decorated, not {fn!r}; see call() for others")


def _plain(gate: Gate, fn: Function) -> Function:
    door, clock = gate.circuit.door, gate.clock

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era: Any = door.era
        if era is None:
            if (now := clock()) < (stop := door.stop).until:
                raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
            era = gate.admit() or await admit_slowly(gate)
        else:
            era.started += 1
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except BaseException as error:
            gate.broke(era, error)
            raise
        n = era.n + 1
        if n < era.horizon:
            era.n = n
        else:
            gate.returned(era, result)
        return result

    return guarded


def _timed(gate: Gate, fn: Function) -> Function:
    door, clock = gate.circuit.door, gate.clock

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era: Any = door.era
        if era is None:
            if (now := clock()) < (stop := door.stop).until:
                raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
            era = gate.admit() or await admit_slowly(gate)
        else:
            era.started += 1
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except BaseException as error:
            gate.broke(era, error)
            raise
        if clock() < era.roll_at and (n := era.n + 1) < era.horizon:
            era.n = n
        else:
            gate.returned(era, result)
        return result

    return guarded


def _slow(gate: Gate, fn: Function) -> Function:
    door, clock = gate.circuit.door, gate.clock

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era: Any = door.era
        if era is None:
            if (now := clock()) < (stop := door.stop).until:
                raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
            era = gate.admit() or await admit_slowly(gate)
        else:
            era.started += 1
        began = clock()
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except BaseException as error:
            gate.broke(era, error, began)
            raise
        now = clock()
        n = era.n + 1
        if n < era.horizon and now < era.roll_at and now - began < era.slow_after:
            era.n = n
            return result
        gate.returned(era, result, began)
        return result

    return guarded


def _in_flight(gate: Gate, fn: Function) -> Function:
    door, clock = gate.circuit.door, gate.clock

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        era: Any = door.era
        if era is None or began >= era.watch_at:
            if began < (stop := door.stop).until:
                raise gate.refusal(stop, began) or await gate.refusal_slowly(stop, began)
            era = gate.admit() or await admit_slowly(gate)
            ticket = era.ticket
        else:
            era.started = ticket = era.started + 1
            if era.flights is not None:
                era.flights[ticket] = began
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except BaseException as error:
            gate.broke(era if isinstance(era, Permit) else Permit(era, began, ticket), error)
            raise
        now = clock()
        if (
            now - began < era.slow_after
            and now < era.roll_at
            and now < era.watch_at
            and (flights := era.flights) is not None
            and flights.pop(ticket, None) is not None
            and (n := era.n + 1) < era.horizon
        ):
            era.n = n
        else:
            gate.returned(era if isinstance(era, Permit) else Permit(era, began, ticket), result)
        return result

    return guarded


def _judged(gate: Gate, fn: Function) -> Function:
    door, clock = gate.circuit.door, gate.clock

    async def guarded(*args: Any, **kwargs: Any) -> Any:
        era: Any = door.shared
        if era is None:
            if (now := clock()) < (stop := door.stop).until:
                raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
            era = gate.admit() or await admit_slowly(gate)
        else:
            era.started += 1
        began = clock()
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except BaseException as error:
            gate.broke(era, error, began)
            raise
        gate.returned(era, result, began)
        return result

    return guarded


_VARIANTS = {
    Shape.PLAIN: _plain,
    Shape.TIMED: _timed,
    Shape.SLOW: _slow,
    Shape.IN_FLIGHT: _in_flight,
    Shape.JUDGED: _judged,
}


# -- call


class Gated(Protocol):
    """What has a gate: a breaker."""

    _gate: Gate


async def call(self: Gated, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call the function and await what it returns, guarded.

    Raises:
        CircuitOpenError: the call was refused; the function did not run.
    """
    gate = self._gate
    clock = gate.clock  # a name first: CPython calls what stands in a slot the slow way
    era: Any = gate.circuit.door.shared
    if era is None:
        if (now := clock()) < (stop := gate.circuit.door.stop).until:
            raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
        era = gate.admit() or await admit_slowly(gate)
    else:
        era.started += 1
    began = clock()
    try:
        result = await fn(*args, **kwargs)
    except BaseException as error:
        gate.broke(era, error, began)
        raise
    now = clock()
    if now - began < era.slow_after and now < era.roll_at and not gate.judges and (n := era.n + 1) < era.horizon:
        era.n = n
    else:
        gate.returned(era, result, began)
    return result


# -- block and token


_ENTERING = object()

Verdict = tuple[Outcome, object, float | None]


class _Decided(Permit):
    """Stands in for what a block holds, once its verdict is known."""

    __slots__ = ("permit", "verdict")

    def __init__(self, permit: Pass, verdict: Verdict) -> None:
        self.permit = permit
        self.verdict = verdict


class Guard:
    """A guarded block: `async with breaker.guard() as call: ...`. Its end is a success, an exception is judged.

    Inside, `call.failure()` and `call.ignore()` decide otherwise, and `call.check(result)` judges a result.
    """

    __slots__ = ("_began", "_gate", "_pass")

    _gate: Gate
    _pass: Any  # a Pass while the block runs, else None
    _began: float

    async def __aenter__(self) -> Self:
        gate = self._gate
        era: Any = gate.circuit.door.shared
        if era is None or self._pass is not None:
            era = await self._enter()
        else:
            era.started += 1
        self._pass = era
        clock = gate.clock
        self._began = clock()
        return self

    async def _enter(self) -> Permit:
        gate = self._gate
        if self._pass is not None:
            raise RuntimeError("this guard is in use; every block needs its own: async with breaker.guard()")
        max_wait = self._patience()
        if not max_wait and (now := gate.clock()) < (stop := gate.circuit.door.stop).until:
            raise gate.refusal(stop, now) or await gate.refusal_slowly(stop, now)
        self._pass = _ENTERING
        try:
            return await admit_patiently(gate, max_wait)
        finally:
            self._pass = None

    def _patience(self) -> float:
        return 0.0

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        era = self._pass
        self._pass = None
        if error is None:
            clock = self._gate.clock
            now = clock()
            n = era.n + 1
            if n < era.horizon and now < era.roll_at and now - self._began < era.slow_after:
                era.n = n
                return ENDED
        self._settle(era, error)
        return ENDED

    def _settle(self, era: Any, error: BaseException | None) -> None:
        if isinstance(era, _Decided):
            self._gate.settle(era.permit, *era.verdict, self._began)
        elif error is not None:
            self._gate.broke(era, error, self._began)
        else:
            self._gate.succeeded(era, self._began)

    def failure(self, reason: object = "the caller said so") -> None:
        """The call has failed, whatever the end of the block looks like."""
        self._decide("failure", (Outcome.FAILURE, reason, None))

    def ignore(self) -> None:
        """The call says nothing about the dependency."""
        self._decide("ignore", (Outcome.IGNORED, None, None))

    def check(self, result: T) -> T:
        """Judge a result by the breaker's rules (`failure_if`, `retry_after`), and give it back."""
        self._decide("check", (Outcome.IGNORED, None, None))  # which stands if a rule raises
        failed, hint = self._gate.verdict(result)
        self._decide("check", (Outcome.FAILURE if failed else Outcome.SUCCESS, result, hint))
        return result

    def _decide(self, what: str, verdict: Verdict) -> None:
        held = self._pass
        if held is None or held is _ENTERING:
            raise RuntimeError(f"{what}() belongs inside the guarded block")
        self._pass = _Decided(held.permit if isinstance(held, _Decided) else held, verdict)


class _PatientGuard(Guard):
    __slots__ = ("_max_wait",)

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait

    def _patience(self) -> float:
        return self._max_wait


_AT_ONCE = 0.0


def guard(self: Gated, max_wait: float = _AT_ONCE) -> Guard:
    """A guarded block: `async with breaker.guard() as call: ...`.

    `max_wait` is for how many seconds to wait for admission; 0 refuses at once. Entering raises CircuitOpenError.
    """
    # not by keyword only, compared by identity, and no `__init__`: each of them would be slower
    block = Guard() if max_wait is _AT_ONCE else _PatientGuard(checks.wait("max_wait", max_wait))
    block._gate = self._gate
    block._pass = None
    return block


class HeldPermit(Lifeline):
    """One admitted call, in the caller's hand. It settles once, by the first of these; what comes after does nothing.

    A permit that is thrown away unsettled gives its slot back, and warns.
    """

    __slots__ = ("settled",)

    def __init__(self, gate: Gate, permit: Permit) -> None:
        super().__init__(gate, permit)
        self.settled = False

    def success(self) -> None:
        """The call has succeeded."""
        self._settle(Outcome.SUCCESS)

    def failure(self, error: object = "the caller said so") -> None:
        """The call has failed; the error or reason becomes the breaker's last failure."""
        self._settle(Outcome.FAILURE, error)

    def ignore(self) -> None:
        """The call says nothing about the dependency."""
        self._settle(Outcome.IGNORED)

    def check(self, result: T) -> T:
        """Judge a result by the breaker's rules, settle accordingly, and give it back."""
        self.settled = True
        self._gate.returned(self._permit, result)
        return result

    def _settle(self, outcome: Outcome, subject: object = None) -> None:
        self.settled = True
        self._gate.settle(self._permit, outcome, subject)

    def __del__(self) -> None:
        if not self.settled:
            super().__del__()
            words = f"a permit of circuit breaker {self._gate.name!r} was never settled"
            warnings.warn(words, ResourceWarning, stacklevel=2, source=self)
