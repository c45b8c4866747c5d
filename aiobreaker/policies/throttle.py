"""Throttle: calls that the dependency would turn down anyway are not made, most of the time."""

import random as random_numbers
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, Self, TypeVar

import anyio

from ..begun import ENDED
from ..core.outcomes import ErrorRule, Judge, Outcome, ResultRule
from ..core.throttling import Acceptance
from ..errors import RefusedError, ThrottledError
from ..locking import LOCK
from ..policy import Function, NamedPolicy
from .events import GuardRefused

if TYPE_CHECKING:  # loaded when they are first used
    import anyio.lowlevel  # noqa: TC004

    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

_YIELD_MASK = 63  # every 64th refusal gives way to the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleSnapshot:
    """One look at a throttle. `requests` and `accepts` are those of its window, `refused` is how many calls it ever refused.

    `probability` is the one with which it would refuse a call now.
    """

    name: str
    requests: int
    accepts: int
    refused: int
    probability: float


class Throttle(NamedPolicy[Never]):
    """Client-side adaptive throttling: refuses a growing share of calls while the dependency turns calls down.

        search = Throttle(rejected_on=Overloaded)

    A call is refused with probability max(0, (requests - k x accepts) / (requests + 1)). Requests are the calls of the last
    `window` seconds, those that were refused here too; accepts are the ones that the dependency accepted. So a dependency that
    accepts at least every k-th call is left alone, and one that does not gets about k times as many calls as it accepts: enough
    to notice at once that it accepts more. The source is "Handling Overload" in Google's book Site Reliability Engineering.

    A call counts when its outcome is known, as a request and, perhaps, as accepted. Were it counted when it begins, calls that
    are running would look like calls that were turned down, and of the first two calls at once one would be refused half of the
    time. So what hangs is not noticed before it ends: put a `Timeout` inside.

    It is for overload, in which some calls are accepted. After an outage in which none was, about one call in a window gets
    through at first, and it takes up to ten windows until all do, with k = 1.1 several times as many. For outages there are
    circuit breakers; where they happen, choose a shorter window too.

    Neither accepted nor turned down, and no request at all, are calls that a guard inside refused (`ShortageError`,
    `CircuitOpenError`), and calls that were cancelled: the dependency has not spoken. That holds for a timeout outside, too.

    Args:
        k: how many calls it may get for each one that it accepts, 1 or more. With 2 it has to turn down one for each one that
            it accepts. With 1.1 it is one for ten; but some of what it could accept is not asked of it, and the throttle
            notices later that it is well again.
        window: for how many seconds calls count. They leave in slices of a sixtieth of it.
        rejected_on: the exceptions with which the dependency turns a call down: types, or a function of the exception. With
            other exceptions it has accepted the call.
        rejected_if: a function of the result that says whether it means the same, as a response with status 429 or 503 does.
        name: what errors and events call it.
        clock: a monotonic clock, in seconds.
        random: draws a number from 0 to below 1.

    Raises:
        ThrottledError: (from calls) the call was refused; the function did not run.
    """

    __slots__ = ("_acceptance", "_judge", "_random", "_refused")

    def __init__(
        self,
        k: float = 2.0,
        *,
        window: float = 120.0,
        rejected_on: ErrorRule = Exception,
        rejected_if: ResultRule | None = None,
        name: str = "throttle",
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        super().__init__(name, clock)
        if not callable(random):
            raise TypeError(f"random must be a function without arguments that returns a number below 1, not {random!r}")
        self._acceptance = Acceptance(k, window)
        self._judge = Judge(rejected_on, RefusedError, rejected_if, word="rejected")
        self._random = random
        self._refused = 0

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, unless it is refused.

        Raises:
            ThrottledError: it was refused; the function did not run.
        """
        acceptance = self._acceptance
        if acceptance.rejects:
            await self._enter()
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        except BaseException as error:
            self._settle(self._judge.error(error))
            raise
        clock = self._clock
        if clock() < acceptance.memory.roll_at and self._judge.failure_if is None:
            acceptance.requests += 1
        else:
            self._returned(result)
        return result

    def _around(self, fn: Function) -> Function:
        acceptance, memory, clock, judge = self._acceptance, self._acceptance.memory, self._clock, self._judge
        plain = judge.failure_if is None

        async def throttled(*args: Any, **kwargs: Any) -> Any:
            if acceptance.rejects:
                await self._enter()
            try:
                result = await (fn(*args, **kwargs) if kwargs else fn(*args))
            except BaseException as error:
                self._settle(judge.error(error))
                raise
            if plain and clock() < memory.roll_at:
                acceptance.requests += 1
            else:
                self._returned(result)
            return result

        return throttled

    def guard(self) -> "ThrottledBlock":
        """A guarded block: `async with throttle.guard() as call: ...`. Entering raises ThrottledError."""
        block = ThrottledBlock()  # without an `__init__`, which would be slower
        block._throttle = self
        block._inside = block._verdict = None
        return block

    # -- off the fast path

    async def _enter(self) -> None:
        """Let the call pass, or raise ThrottledError."""
        acceptance, now = self._acceptance, self._clock()
        with LOCK:
            requests, accepts = acceptance.counts(now)
            probability = acceptance.probability(now)
        if not probability or self._random() >= probability:
            return
        with LOCK:
            acceptance.reject(now)
            self._refused += 1
            give_way = not self._refused & _YIELD_MASK
        reason = f"of {requests} calls in the last {acceptance.window:g} s, {accepts} were accepted"
        self._tell(GuardRefused, reason=reason, retry_after=None)
        if give_way:
            await anyio.lowlevel.checkpoint()
        raise ThrottledError(self.name, reason)

    def _returned(self, result: object) -> None:
        self._settle(Outcome.FAILURE if self._judge.fails(result) else Outcome.SUCCESS)

    def _settle(self, outcome: Outcome) -> None:
        if outcome not in {Outcome.SUCCESS, Outcome.FAILURE}:
            return
        acceptance, now = self._acceptance, self._clock()
        with LOCK:
            if outcome is Outcome.SUCCESS:
                acceptance.accept(now)
            else:
                acceptance.reject(now)

    # -- what there is to see

    def snapshot(self) -> ThrottleSnapshot:
        """One look at it."""
        now = self._clock()
        with LOCK:
            requests, accepts = self._acceptance.counts(now)
            probability = self._acceptance.probability(now)
            refused = self._refused
        return ThrottleSnapshot(name=self.name, requests=requests, accepts=accepts, refused=refused, probability=probability)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        words = f"throttle {self.name!r} (refuses when fewer than 1 of {self._acceptance.k:g} calls are accepted)"
        return Traits(kind="limit", words=words, per_attempt=True)


class ThrottledBlock:
    """A guarded block: `async with throttle.guard() as call: ...`. Its end means accepted, an exception is judged.

    Inside, `call.reject()` and `call.ignore()` decide otherwise, and `call.check(result)` judges a result.
    """

    __slots__ = ("_inside", "_throttle", "_verdict")

    _throttle: Throttle
    _inside: bool | None  # None: not yet
    _verdict: Outcome | None

    async def __aenter__(self) -> Self:
        if self._inside is not None:
            raise RuntimeError("this guard has been used; every block needs its own: async with throttle.guard()")
        self._inside = False
        if self._throttle._acceptance.rejects:
            await self._throttle._enter()
        self._inside = True
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        self._inside = False
        throttle, verdict = self._throttle, self._verdict
        if verdict is not None:
            throttle._settle(verdict)
            return ENDED
        if error is not None:
            throttle._settle(throttle._judge.error(error))
            return ENDED
        acceptance, clock = throttle._acceptance, throttle._clock
        if clock() < acceptance.memory.roll_at:
            acceptance.requests += 1
        else:
            throttle._settle(Outcome.SUCCESS)
        return ENDED

    def reject(self) -> None:
        """The dependency has turned the call down, whatever the end of the block looks like."""
        self._decide("reject", Outcome.FAILURE)

    def ignore(self) -> None:
        """The call says nothing about the dependency."""
        self._decide("ignore", Outcome.IGNORED)

    def check(self, result: T) -> T:
        """Judge a result by `rejected_if`, and give it back."""
        self._decide("check", Outcome.IGNORED)  # which stands if the rule raises
        self._decide("check", Outcome.FAILURE if self._throttle._judge.fails(result) else Outcome.SUCCESS)
        return result

    def _decide(self, what: str, verdict: Outcome) -> None:
        if not self._inside:
            raise RuntimeError(f"{what}() belongs inside the guarded block")
        self._verdict = verdict
