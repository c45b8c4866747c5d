"""AdaptiveLimit: as many calls at once as the dependency can take without queueing, found from how long they take."""

import random as random_numbers
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, Self, TypeVar

import anyio

from ..begun import ENDED
from ..core.limits import AIMD, Algorithm, Gradient2, Meter, Vegas
from ..core.outcomes import ErrorRule, Judge, Outcome, ResultRule
from ..errors import LimitReachedError, RefusedError
from ..lines import Line
from ..locking import LOCK, begins_anew_after_forks
from ..policy import Function, NamedPolicy
from .events import GuardRefused, LimitChanged

if TYPE_CHECKING:  # loaded when they are first used
    import anyio.lowlevel  # noqa: TC004

    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

_YIELD_MASK = 63  # every 64th refusal gives way to the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimitSnapshot:
    """One look at an adaptive limit: how many calls it allows at once, how many run and wait, how many it ever refused.

    `estimate` is the limit before rounding; `no_load` is how many seconds a call takes if none waits for another, as far as the
    algorithm knows (Gradient2: the long average; Vegas: the shortest time; AIMD does not ask); `recent` is the time of the
    newest sample. Both are None until there is one.
    """

    name: str
    limit: int
    running: int
    waiting: int
    refused: int
    estimate: float
    no_load: float | None
    recent: float | None


class AdaptiveLimit(NamedPolicy[Never]):
    """Limits how many calls run at once, and finds the limit by itself: while calls take longer than they should, it falls.

        search = AdaptiveLimit()
        search = AdaptiveLimit(Vegas(max_limit=50), max_waiters=100, max_wait=0.5)

    Algorithms are `Gradient2`, `Vegas` and `AIMD`, after Netflix's concurrency-limits. What a call's end means:

    * It returned: the time that it took is measured.
    * It failed with an error in `failure_on`: it was dropped, which the project describes as turned down by a limit over there
      or timed out. Which errors say that is for the caller to name; without being told, `TimeoutError` is sure.
    * Anything else is ignored: another error (it may have come sooner or later than an answer would have), a cancellation, and
      what a guard inside refused (`RefusedError`, which is no word of the dependency).

    The time spent waiting for a place is not measured. Who is waiting comes before who arrives, in the order of arrival within
    an event loop. Calls that are cancelled leave at once, whether they wait or run.

    A timeout inside makes drops; one outside makes cancellations, which nobody learns from. A retry inside would be measured
    with its delays.

    Args:
        algorithm: how the limit is found. The settings may be shared, what is learned is not.
        max_waiters: how many callers may wait for a place.
        max_wait: for how many seconds each of them may.
        failure_on: the exceptions that mean a dropped call: types, or a function of the exception.
        failure_if: a function of the result that says whether it means the same, as a response with status 429 or 503 does.
        name: what errors and events call it.
        clock: a monotonic clock, in seconds.
        random: draws a number from 0 to below 1.

    Raises:
        LimitReachedError: (from calls) there was no place; the function did not run.
    """

    __slots__ = ("_algorithm", "_judge", "_line", "_max_wait", "_meter", "_refused")

    def __init__(
        self,
        algorithm: Algorithm = Gradient2(),  # noqa: B008 - it is frozen
        *,
        max_waiters: int = 0,
        max_wait: float = inf,
        failure_on: ErrorRule = TimeoutError,
        failure_if: ResultRule | None = None,
        name: str = "adaptive limit",
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_numbers.random,
    ) -> None:
        super().__init__(name, clock)
        if not isinstance(algorithm, Gradient2 | Vegas | AIMD):
            raise TypeError(f"algorithm must be a Gradient2, a Vegas or an AIMD, not {algorithm!r}")
        if not callable(random):
            raise TypeError(f"random must be a function without arguments that returns a number below 1, not {random!r}")
        self._algorithm = algorithm
        self._judge = Judge(failure_on, RefusedError, failure_if)
        self._line = Line(max_waiters)
        self._max_wait = self._line.allows("max_wait", max_wait)
        self._meter = Meter(algorithm, random)
        self._refused = 0
        begins_anew_after_forks(self)

    # From reading `running` to writing it nothing is called: there CPython does not switch threads. The same holds for what is
    # written in a window. A call leaves the meter that it entered. No place depends on the clock, which may raise: it is read
    # before a place is taken and after it has been given back.

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, once there is a place.

        Raises:
            LimitReachedError: there was none; the function did not run.
        """
        meter, line, clock = self._meter, self._line, self._clock
        began = clock()
        if not line.waiting and (running := meter.running + 1) <= meter.limit:
            meter.running = running
        else:
            meter, running, began = await self._enter()
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))  # type: ignore[call-arg]
        except BaseException as error:
            self._broke(meter, began, running, error)
            raise
        meter.running -= 1
        if line.waiting:
            line.move()
        now = clock()
        window = meter.window
        if now < window.until and self._judge.failure_if is None:
            window.timed += 1
            window.time += now - began
            if running > window.most:
                window.most = running
        else:
            self._returned(meter, began, now, running, result)
        return result

    def _around(self, fn: Function) -> Function:
        line, clock, plain = self._line, self._clock, self._judge.failure_if is None

        async def limited(*args: Any, **kwargs: Any) -> Any:
            meter = self._meter
            began = clock()
            if not line.waiting and (running := meter.running + 1) <= meter.limit:
                meter.running = running
            else:
                meter, running, began = await self._enter()
            try:
                result = await (fn(*args, **kwargs) if kwargs else fn(*args))
            except BaseException as error:
                self._broke(meter, began, running, error)
                raise
            meter.running -= 1
            if line.waiting:
                line.move()
            now = clock()
            window = meter.window
            if plain and now < window.until:
                window.timed += 1
                window.time += now - began
                if running > window.most:
                    window.most = running
            else:
                self._returned(meter, began, now, running, result)
            return result

        return limited

    def guard(self) -> "LimitedBlock":
        """A guarded block: `async with limit.guard() as call: ...`. Entering raises LimitReachedError."""
        block = LimitedBlock()  # without an `__init__`, which would be slower
        block._limit = self
        block._meter = block._verdict = None
        block._used = False
        return block

    # -- off the fast path

    async def _enter(self) -> tuple[Meter, int, float]:
        """Take a place now or when there is one; the answer is where, how many run, and when. Or raise LimitReachedError."""
        if self._line.present() or self._take_place():
            why = await self._line.wait(self._take_place, self._max_wait)
            if why is not None:
                raise await self._refusal(why)
        meter = self._meter
        try:
            return meter, meter.running, self._clock()
        except BaseException:
            self._leave(meter)
            raise

    def _take_place(self) -> float:
        """As a line asks for it: 0 if there was a place, else for how long there is none, which nobody knows."""
        meter = self._meter
        if (running := meter.running + 1) <= meter.limit:
            meter.running = running
            return 0.0
        return inf

    async def _refusal(self, why: str) -> LimitReachedError:
        with LOCK:
            self._refused += 1
            give_way = not self._refused & _YIELD_MASK
        reason = f"{self._meter.running} calls are running, {self._meter.limit} are allowed now, and {why}"
        self._tell(GuardRefused, reason=reason, retry_after=None)
        if give_way:
            await anyio.lowlevel.checkpoint()
        return LimitReachedError(self.name, reason)

    def _broke(self, meter: Meter, began: float, running: int, error: BaseException) -> None:
        """The call has ended with an error."""
        self._leave(meter)
        if self._judge.error(error) is Outcome.FAILURE:
            self._learn(meter, began, self._clock(), running, True)

    def _returned(self, meter: Meter, began: float, now: float, running: int, result: object) -> None:
        """The call has returned, and left already."""
        self._learn(meter, began, now, running, self._judge.fails(result))

    def _leave(self, meter: Meter) -> None:
        meter.running -= 1
        if self._line.waiting:
            self._line.move()

    def _learn(self, meter: Meter, began: float, now: float, running: int, dropped: bool) -> None:
        with LOCK:
            old = meter.limit
            meter.take(now, now - began, running, dropped)
            new = meter.limit
        if new == old:
            return
        if new > old:
            self._line.move()
        self._tell(LimitChanged, old=old, new=new)

    def _begin_as_child(self) -> None:
        """After a fork: what runs in the parent does not run here, and leaves nothing here."""
        self._meter = self._meter.without_calls()

    # -- what there is to see

    def snapshot(self) -> AdaptiveLimitSnapshot:
        """One look at it."""
        with LOCK:
            meter = self._meter
            estimate = meter.estimate
            return AdaptiveLimitSnapshot(
                name=self.name,
                limit=meter.limit,
                running=meter.running,
                waiting=self._line.waiting,
                refused=self._refused,
                estimate=estimate.value,
                no_load=estimate.no_load or None,
                recent=estimate.recent or None,
            )

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        settings = self._algorithm
        least, most, found_by = settings.min_limit, settings.max_limit, type(settings).__name__
        words = f"adaptive limit {self.name!r} ({least} to {most} calls at once, found by {found_by})"
        max_wait = self._max_wait if self._line.max_waiters else 0.0
        return Traits(kind="limit", words=words, max_wait=max_wait, per_attempt=True)


class LimitedBlock:
    """A guarded block: `async with limit.guard() as call: ...`. Its end is measured, an exception is judged.

    Inside, `call.failure()` (it was dropped) and `call.ignore()` decide otherwise, and `call.check(result)` judges a result.
    """

    __slots__ = ("_began", "_limit", "_meter", "_running", "_used", "_verdict")

    _limit: AdaptiveLimit
    _meter: Meter | None  # while the block runs
    _used: bool
    _verdict: Outcome | None
    _began: float
    _running: int

    async def __aenter__(self) -> Self:
        if self._used:
            raise RuntimeError("this guard has been used; every block needs its own: async with limit.guard()")
        self._used = True
        limit = self._limit
        meter = limit._meter
        clock = limit._clock
        self._began = clock()
        if not limit._line.waiting and (running := meter.running + 1) <= meter.limit:
            meter.running = running
        else:
            meter, running, self._began = await limit._enter()
        self._meter = meter
        self._running = running
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        limit, meter = self._limit, self._meter
        assert meter is not None
        self._meter = None
        if error is not None or self._verdict is not None:
            self._settle(meter, error)
            return ENDED
        meter.running -= 1
        if limit._line.waiting:
            limit._line.move()
        clock = limit._clock
        now = clock()
        window = meter.window
        if now < window.until:
            window.timed += 1
            window.time += now - self._began
            if self._running > window.most:
                window.most = self._running
        else:
            limit._learn(meter, self._began, now, self._running, False)
        return ENDED

    def _settle(self, meter: Meter, error: BaseException | None) -> None:
        limit, verdict = self._limit, self._verdict
        if verdict is None and error is not None:
            limit._broke(meter, self._began, self._running, error)
            return
        limit._leave(meter)
        if verdict is not Outcome.IGNORED:
            limit._learn(meter, self._began, limit._clock(), self._running, verdict is Outcome.FAILURE)

    def failure(self) -> None:
        """The call was dropped, whatever the end of the block looks like."""
        self._decide("failure", Outcome.FAILURE)

    def ignore(self) -> None:
        """The call says nothing about the dependency."""
        self._decide("ignore", Outcome.IGNORED)

    def check(self, result: T) -> T:
        """Judge a result by `failure_if`, and give it back."""
        self._decide("check", Outcome.IGNORED)  # which stands if the rule raises
        self._decide("check", Outcome.FAILURE if self._limit._judge.fails(result) else Outcome.SUCCESS)
        return result

    def _decide(self, what: str, verdict: Outcome) -> None:
        if self._meter is None:
            raise RuntimeError(f"{what}() belongs inside the guarded block")
        self._verdict = verdict
