"""Hedge: a second call when the first is slow; the first success wins, and the others are cancelled and awaited.

Law: nothing is started in a hedge but in the task group of its call, and no call ends before that group has ended. What an
attempt raises is caught where it is raised, so the group itself never fails.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from math import inf
from sys import modules
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

import anyio

from ..begun import beginning, failed, rest
from ..budget import RetryBudget
from ..core import checks
from ..core.quantiles import Quantile, RunningQuantile
from ..deadlines import remaining
from ..errors import FailureSummary, RefusedError
from ..locking import LOCK
from ..policy import Function, NamedPolicy
from .events import Hedged, HedgeWon

if TYPE_CHECKING:  # anyio loads its parts when they are first used
    import anyio.lowlevel  # noqa: TC004
    from anyio.abc import TaskGroup

    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("aiobreaker")


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeSnapshot:
    """A hedge at one moment.

    `calls` is how many were made, `hedged` how many of them needed more than one attempt, and `wins` how many of these the
    first attempt has won, the second, and so on; those that are missing failed, were cancelled, or are running. `unaffordable`
    is how often the budget had nothing left for another attempt. `delay` is after how many seconds one is started now;
    infinity: never.
    """

    name: str
    calls: int
    hedged: int
    wins: tuple[int, ...]
    unaffordable: int
    delay: float


class Hedge(NamedPolicy[Never]):
    """When a call takes longer than `delay`, make it a second time, and take what succeeds first.

        quotes = Hedge(0.2) | Timeout(2.0)
        search = Hedge(Quantile(0.95, initial=0.5), budget=budget)

    **For idempotent calls only**: what is called may happen as often as there are attempts, at once, and may be cancelled
    half-way. A hedge is against slowness: it shortens the slowest answers for a few calls more (Dean and Barroso, "The Tail at
    Scale", Communications of the ACM 56, 2013: deferred to the 95th percentile, for 5 % more calls).

    - The first success wins. The other attempts are cancelled and awaited, then the result is given; what they still return or
      raise is dropped (and logged, level INFO, if they raise after another has won).
    - An attempt that fails does not end the call as long as others run: those may still win, and further ones start after the
      delay. When none is left running the call has failed; failures as such are for `Retry`, which backs off. With `next_on`,
      such an error starts the next attempt at once, as in Polly and gRPC, and the next delay counts from there.
    - If all fail, the error of the first attempt is raised, as it would be without a hedge; notes on it tell of the others'.
    - A refusal (`RefusedError`, of a breaker or a bulkhead inside) is a failure of its attempt. It starts none at once.
    - What is no `Exception` (`KeyboardInterrupt`) ends the call at once and is raised as itself. So is what an attempt raises
      in answer to the cancellation of the whole call. No exception groups come out.
    - No attempt is started past a deadline (`Deadline`, `Timeout`, `anyio.fail_after`). When the budget has nothing left, the
      call goes on with the attempts that run.

    The first attempt runs in the task of the caller and in its context; so does one that `next_on` starts after it. Others run
    in tasks of their own inside the same cancel scopes, each in a copy of the context as it was before the first attempt.

    With a `Quantile`, the delay is a quantile of how long first attempts take. Those that succeed count with their time. One
    that was hedged and then cancelled counts with the time it had run: it would have taken longer, and to leave it out would
    make the delay shorter and shorter. Failures do not count.

    Args:
        delay: seconds after which another attempt is started (0: at once; infinity: never), or a `Quantile` of recent calls.
        attempts: how many attempts are made of one call at most, the first included, from 2.
        budget: pays for every attempt but the first. One can be shared with retries and other hedges.
        next_on: the errors after which the next attempt is started at once; none by default.
        name: what events and notes call it.
        clock: seconds, steadily rising; measures the calls for a `Quantile`.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = ("_attempts", "_budget", "_calls", "_delay", "_hedged", "_latencies", "_next_on", "_unaffordable", "_wins")

    def __init__(
        self,
        delay: float | Quantile,
        *,
        attempts: int = 2,
        budget: RetryBudget | None = None,
        next_on: type[Exception] | tuple[type[Exception], ...] = (),
        name: str = "hedge",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, clock)
        self._latencies = RunningQuantile(delay) if isinstance(delay, Quantile) else None
        self._delay = _seconds(delay) if self._latencies is None else self._latencies.value
        self._attempts = checks.count("attempts", attempts, at_least=2)
        if not (budget is None or isinstance(budget, RetryBudget)):
            raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
        self._budget = budget
        self._next_on = checks.error_types("next_on", next_on)
        self._calls = 0
        self._hedged = 0
        self._wins = [0] * attempts
        self._unaffordable = 0

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function, and once more if it takes long; the first success is the answer.

        Raises:
            Exception: all attempts have failed; that of the first.
        """
        result: T = await self._run(fn, args, kwargs)
        return result

    def _around(self, fn: Function) -> Function:
        run = self._run

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await run(fn, args, kwargs)

        return guarded

    async def _run(self, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call. The first attempt is begun by hand: if it answers without waiting, there is no race to be held.

        It must be begun inside the task group, because it may enter cancel scopes, and these have to nest.
        """
        self._calls += 1
        if self._budget is not None:
            self._budget.deposit()
        latencies = self._latencies
        context = copy_context()
        began = 0.0 if latencies is None else self._clock()
        attempt = beginning(fn(*args, **kwargs) if kwargs else fn(*args))
        race = result = fatal = None
        first: Awaitable[Any] | None = None
        tasks = anyio.create_task_group()
        try:
            async with tasks:
                try:
                    waits_for = attempt.send(None)
                except StopIteration as answer:
                    result = answer.value
                except BaseException as error:
                    first = failed(error)
                else:
                    first = rest(attempt, waits_for)
                if first is not None:
                    race = _Race(self, (fn, args, kwargs), tasks, context, began)
                    await race.run(first)
        except BaseException as error:
            fatal = _as_itself(error, race)
            if fatal is error:
                raise
        if fatal is not None:
            try:
                raise fatal
            finally:
                del fatal, race  # they and the frame in its traceback would keep one another alive
        if race is not None:
            return race.outcome()
        if latencies is not None:
            self.learn(began)
        return result

    def learn(self, began: float) -> None:
        """A first attempt that began then has succeeded now, or has been cut off now."""
        assert self._latencies is not None
        taken = self._clock() - began
        with LOCK:
            self._delay = self._latencies.add(taken)

    def snapshot(self) -> HedgeSnapshot:
        """One look at it, as a value that does not change."""
        return HedgeSnapshot(
            name=self.name,
            calls=self._calls,
            hedged=self._hedged,
            wins=tuple(self._wins),
            unaffordable=self._unaffordable,
            delay=self._delay,
        )

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        settings = None if self._latencies is None else self._latencies.settings
        after = f"{self._delay:g} s" if settings is None else str(settings)
        words = f"hedge {self.name!r} (up to {self._attempts} attempts, the next one after {after})"
        delay = self._delay if settings is None else settings.minimum
        return Traits(kind="hedge", words=words, attempts=self._attempts, delay=delay)


class _Race:
    """The attempts of one call that run at once. Whatever is decided is decided without an await in between."""

    def __init__(
        self,
        policy: Hedge,
        call: tuple[Callable[..., Awaitable[Any]], tuple[Any, ...], dict[str, Any]],
        tasks: "TaskGroup",
        context: Context,
        began: float,
    ) -> None:
        self._policy = policy
        self._call = call
        self._tasks = tasks
        self._context = context
        self._began = began
        self._delay = policy._delay
        self._started = 1
        self._running = 1
        self._over = False
        self._winner = 0
        self._result: Any = None
        self._errors: dict[int, BaseException] = {}
        self.fatal: BaseException | None = None
        self._timer: Any = None  # of asyncio; where there are none, a task paces the attempts:
        self._pacing = False
        self._due = inf
        self._stopped: anyio.Event | None = None

    async def run(self, first: Awaitable[Any]) -> None:
        """The first attempt, in the task of the caller."""
        if type(first) is not CoroutineType:  # it waits for something
            self._set_timer()
        await self._attempt(1, first)

    async def _attempt(self, number: int, first: Awaitable[Any] | None = None) -> None:
        """Make this attempt, and in the same task those that errors start at once."""
        at_home = first is not None
        fn, args, kwargs = self._call
        while number:
            try:
                result = await (fn(*args, **kwargs) if first is None else first)
            except BaseException as error:
                if _is_cancellation(error, at_home):
                    self._cut_off(number)
                    raise
                first = None
                number = self._failed(number, error)
            else:
                return self._succeeded(number, result)
        return None

    def _succeeded(self, number: int, result: object) -> None:
        self._running -= 1
        if number == 1 and self._policy._latencies is not None:
            self._policy.learn(self._began)
        if not self._winner:
            self._winner, self._result = number, result
            self._stop()

    def _failed(self, number: int, error: BaseException) -> int:
        """Take note of an error. The answer is the number of the attempt that is made at once, 0 if none is."""
        self._running -= 1
        if not isinstance(error, Exception | anyio.get_cancelled_exc_class()) or (not self._winner and _cancelled()):
            self.fatal = self.fatal or error
            self._stop()
            return 0
        if self._winner:
            _log.info("attempt %d of %r raised when another had won", number, self._policy.name, exc_info=error)
            return 0
        self._errors[number] = error
        if isinstance(error, self._policy._next_on) and not isinstance(error, RefusedError):
            following = self._claim(0.0)
            if following:
                return following
        if not self._running:
            self._stop()
        return 0

    def _cut_off(self, number: int) -> None:
        """An attempt was cancelled, by the end of the race or of the whole call."""
        self._running -= 1
        if number == 1 and self._started > 1 and self._policy._latencies is not None:
            self._policy.learn(self._began)
        self._stop()

    def _stop(self) -> None:
        """Nothing more is started, and what runs is cancelled."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._stopped is not None:
            self._stopped.set()
        if self._running:
            self._tasks.cancel_scope.cancel()

    def _claim(self, delay: float) -> int:
        """The number of an attempt that is started now, 0 if none may be."""
        policy = self._policy
        if self._over or self._started == policy._attempts or remaining() <= 0:
            return 0
        if policy._budget is not None and not policy._budget.withdraw():
            policy._unaffordable += 1
            return 0
        self._running += 1
        self._started = number = self._started + 1
        if number == 2:
            policy._hedged += 1
        self._set_timer()
        policy._tell(Hedged, attempt=number, delay=delay)
        return number

    def _set_timer(self) -> None:
        """Let the next attempt follow after the delay from now, if there may be one."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = inf
        if self._started == self._policy._attempts or self._delay == inf:
            return
        call_later = getattr(anyio.lowlevel.current_token().native_token, "call_later", None)
        if call_later is not None:  # far cheaper than a task that sleeps
            self._timer = call_later(self._delay, self._start_extra, context=self._context)
            return
        self._due = anyio.current_time() + self._delay
        if not self._pacing:
            self._pacing = True
            self._stopped = self._stopped or anyio.Event()
            self._context.run(self._tasks.start_soon, self._pace, self._stopped)

    async def _pace(self, stopped: "anyio.Event") -> None:
        while not self._over and anyio.current_time() < self._due:
            with anyio.CancelScope(deadline=self._due):
                await stopped.wait()
        self._pacing = False
        await self._extra()

    def _start_extra(self) -> None:
        """Called by a timer of asyncio, outside of any task: there sniffio, if anyio asks it, has to be told what runs."""
        library = getattr(modules.get("sniffio"), "current_async_library_cvar", None)
        token = None if library is None else library.set("asyncio")
        try:
            self._tasks.start_soon(self._extra)
        finally:
            if library is not None:
                library.reset(token)

    async def _extra(self) -> None:
        await self._attempt(self._claim(self._delay))

    def outcome(self) -> object:
        """What has become of the call, when all attempts have ended."""
        policy, winner = self._policy, self._winner
        if self.fatal is not None or not winner:
            error = self.fatal or self._error()
            self.fatal = None
            self._errors.clear()
            try:
                raise error
            finally:
                del error  # it and the frame in its traceback would keep one another alive
        if self._started > 1:
            policy._wins[winner - 1] += 1
            policy._tell(HedgeWon, attempt=winner)
        return self._result

    def _error(self) -> BaseException:
        """The error of the first attempt, with notes on those of the others."""
        if not self._errors:  # somebody has cancelled a task of ours before it began
            return anyio.get_cancelled_exc_class()("an attempt was cancelled from outside")
        (_, first), *others = sorted(self._errors.items())
        for number, error in others:
            note = f"{self._policy.name}: attempt {number} failed too: {FailureSummary.of(error, 0.0)}"
            if error is not first and note not in getattr(first, "__notes__", ()):
                first.add_note(note)
        return first


def _cancelled() -> bool:
    return anyio.current_effective_deadline() == -inf


def _is_cancellation(error: BaseException, at_home: bool) -> bool:
    """Whether this ends the task. A child that is cancelled without its scope (asyncio's own way) has failed, and no more."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return at_home or _cancelled()
    return isinstance(error, GeneratorExit)


def _as_itself(error: BaseException, race: _Race | None) -> BaseException:
    """What is raised when the task group raises this."""
    if race is not None and race.fatal is not None:
        return race.fatal
    while isinstance(error, BaseExceptionGroup):  # not from an attempt: an interrupt between two lines, an observer
        error = error.exceptions[0]
    return error


def _seconds(delay: object) -> float:
    allowed = "a number of seconds, 0 or more (infinity allowed), or a Quantile"
    seconds = checks.number("delay", delay, allowed)
    if seconds < 0:
        raise ValueError(f"delay must be {allowed}, not {delay!r}")
    return seconds
