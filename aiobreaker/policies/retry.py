"""Retry: makes a call again when it failed, after a while, a few times, as long as time and budget allow.

Law: no attempt runs while an error is handled, so an error that is raised in the end is the last one, as it was raised. Whether
there is another attempt is decided in one synchronous step, before the wait.
"""

import inspect
import random as _random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar

import anyio

from ..attempts import Attempts
from ..budget import RetryBudget
from ..core import checks
from ..core.backoff import REASONS, Backoff, Delays, Jitter, Reason, Retryable, leaves, obstacle
from ..core.outcomes import ErrorRule, ResultRule
from ..core.schedules import Exponential
from ..deadlines import remaining
from ..errors import FailureSummary, RefusedError
from ..policy import Function, NamedPolicy
from ..settings import Hint, hinted_delay
from .events import GaveUp, Retrying

if TYPE_CHECKING:
    from ..lint import Traits

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySnapshot:
    """What a retry has done so far.

    `calls` are first attempts, `retries` further ones. `recovered` calls succeeded after all; `gave_up` says how many did not,
    by what ended them. Neither counts calls that ended with an error that is not retried.
    """

    name: str
    calls: int
    retries: int
    recovered: int
    gave_up: Mapping[Reason, int]


class Retry(NamedPolicy[Never]):
    """Makes a call again when it failed: for functions that may run more than once for one call.

        retry = Retry(on=(OSError, TimeoutError), attempts=4)

        @retry
        async def fetch(url): ...

        async for attempt in retry:
            with attempt:
                return await fetch_from(mirrors[attempt.number - 1])

    In a block, `attempt.check(result)` judges a result by `retry_if`; see there.

    When there is no further attempt, the last error is raised as itself, or the last result returned as it is. An exception
    group is retried if every error in it is. Cancellation, and whatever else is no `Exception`, is never retried.

    It gives up at once rather than wait past a deadline around it (see `remaining`). A refusal by another guard
    (`RefusedError`) is never retried, whatever `on` says, unless `wait_when_refused`.

    Args:
        on: which errors are retried: exception types, or a function of the exception. There is no default.
        attempts: how many times the call is made at most, the first one included (infinity allowed).
        total_time: for how many seconds after the beginning of the first attempt further ones may begin. It does not end one.
        backoff: how long to wait before a further attempt, as `Exponential`, `Decorrelated`, `Fixed` or `Steps`; as a number of
            seconds; as an iterable of them, such as a list; or as a function that makes one. The end of an iterable ends the
            retrying; `Steps` repeats its last.
        jitter: "full" draws each delay from 0 to what the back-off says, so that callers who failed together do not return
            together; a fraction moves it by up to that much of itself either way, 0 not at all. By default full for
            `Exponential`, and 0 for delays that were spelt out.
        retry_if: a function of the result that says whether it is as bad as an error.
        retry_after: a function of the error or bad result that gives a server's own hint: seconds, the text of a Retry-After
            header, or None. The wait is never shorter than the hint.
        max_retry_after: how many seconds of such a hint are believed.
        wait_when_refused: whether a refusal is retried, after its own `retry_after`, or the back-off if that is unknown. It
            counts as an attempt.
        budget: allows further attempts as long as they are few beside the first ones. To be shared.
        name: what it is called in events.
        clock: seconds, steadily rising, for `total_time` and events.
        random: random numbers in [0, 1), for the back-off.

    The default, exponential back-off with full jitter, is after Marc Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015: clients that compete do the least work with it.

    Raises:
        ValueError, TypeError: a setting is not what it may be.
    """

    __slots__ = (
        "_attempts",
        "_backoff",
        "_budget",
        "_calls",
        "_draw",
        "_gave_up",
        "_hint",
        "_max_retry_after",
        "_recovered",
        "_retries",
        "_retry_if",
        "_retryable",
        "_timed",
        "_total_time",
    )

    def __init__(
        self,
        on: ErrorRule,
        *,
        attempts: float = 3,
        total_time: float = inf,
        backoff: Delays = Exponential(0.1, factor=2, maximum=30),  # noqa: B008 - it cannot change
        jitter: Jitter = None,
        retry_if: ResultRule | None = None,
        retry_after: Hint | None = None,
        max_retry_after: float = 300.0,
        wait_when_refused: bool = False,
        budget: RetryBudget | None = None,
        name: str = "retry",
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        super().__init__(name, clock)
        for argument, function in (("retry_if", retry_if), ("retry_after", retry_after)):
            if function is not None and not callable(function):
                raise TypeError(f"{argument} must be a function or None, not {function!r}")
            check_is_not_async(argument, function)
        if not callable(random):
            raise TypeError(f"random must be a function without arguments that returns a number, not {random!r}")
        if not isinstance(wait_when_refused, bool):
            raise TypeError(f"wait_when_refused must be True or False, not {wait_when_refused!r}")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"budget must be a RetryBudget or None, not {budget!r}")
        check_retried_errors(on, refusals=wait_when_refused)
        always, never = ((RefusedError,), ()) if wait_when_refused else ((), (RefusedError,))
        self._retryable = Retryable(on, always=always, never=never)
        self._attempts = inf if attempts == inf else checks.count("attempts", attempts)
        self._total_time = checks.wait("total_time", total_time)
        self._timed = self._total_time < inf
        self._backoff = Backoff(backoff, jitter)
        self._retry_if = retry_if
        self._hint = retry_after
        self._max_retry_after = checks.seconds("max_retry_after", max_retry_after)
        self._budget = budget
        self._draw = random
        self._calls = self._retries = self._recovered = 0
        self._gave_up: dict[Reason, int] = dict.fromkeys(REASONS, 0)

    async def call(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function and await what it returns, several times if need be.

        Raises:
            Exception: what the last attempt has raised.
        """
        function: Callable[..., Awaitable[T]] = fn
        self._calls += 1
        if self._budget is not None:
            self._budget.deposit()
        began = self._clock() if self._timed or self._hub is not None else None
        try:
            result = await (function(*args, **kwargs) if kwargs else function(*args))
        except Exception as error:
            course = Course(self, began)
            if (delay := course.failed(error)) is None:
                raise
        else:
            if self._retry_if is None or not self._retry_if(result):
                return result
            course = Course(self, began)
            if (delay := course.disappointed(result)) is None:
                return result
        last: T = await course.run(delay, fn, args, kwargs)
        return last

    def _around(self, fn: Function) -> Function:
        plain = self._retry_if is None and self._budget is None and not self._timed
        return _plain(self, fn) if plain else _thorough(self, fn)

    def __aiter__(self) -> Attempts:
        """The attempts at one block: `async for attempt in retry: with attempt: ...`."""
        return Attempts(self._begin)

    def _begin(self) -> "Course":
        self._calls += 1
        if self._budget is not None:
            self._budget.deposit()
        return Course(self, self._clock() if self._timed or self._hub is not None else None)

    @property
    def traits(self) -> "Traits":
        """What `Pipeline.explain` and `Pipeline.lint` know of it."""
        from ..lint import Traits

        words = f"up to {self._attempts:g} attempts" if self._attempts < inf else "any number of attempts"
        if self._attempts == 1:
            words = "1 attempt"
        if self._timed:
            words += f" within {self._total_time:g} s"
        return Traits(kind="retry", words=f"retry {self.name!r} ({words})", attempts=self._attempts, seconds=self._total_time)

    def snapshot(self) -> RetrySnapshot:
        """One look at it, as a value that does not change."""
        return RetrySnapshot(
            name=self.name,
            calls=self._calls,
            retries=self._retries,
            recovered=self._recovered,
            gave_up=MappingProxyType(dict(self._gave_up)),
        )


def check_retried_errors(on: ErrorRule, *, refusals: bool = False) -> None:
    """That `on` is a rule, and names something that is retried (ValueError): otherwise it would silently do nothing."""
    Retryable(on)
    check_is_not_async("on", on)
    types = on if isinstance(on, tuple) else (on,)
    kinds = [each for each in types if isinstance(each, type)]
    if refusals or len(kinds) < len(types):
        return
    never = (RefusedError, BaseExceptionGroup)
    if not any(each is BaseException or (issubclass(each, Exception) and not issubclass(each, never)) for each in kinds):
        raise ValueError(
            f"on must be exception types or a function of the exception, not {on!r}: nothing of that is ever retried "
            "(refusals are with wait_when_refused=True, exception groups by the errors in them)"
        )


def check_is_not_async(argument: str, function: object) -> None:
    """TypeError for an async function: its answer, a coroutine, would always count as true."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{argument} must not be an async function, and {function!r} is one")


# -- decorators: the plain one has the least to do, the other can do everything


def _plain(policy: Retry, fn: Function) -> Function:
    clock = policy._clock

    async def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        began = None if policy._hub is None else clock()
        try:
            return await (fn(*args, **kwargs) if kwargs else fn(*args))
        except Exception as error:
            course = Course(policy, began)
            if (delay := course.failed(error)) is None:
                raise
        return await course.run(delay, fn, args, kwargs)

    return retried


def _thorough(policy: Retry, fn: Function) -> Function:
    clock, timed, retry_if = policy._clock, policy._timed, policy._retry_if
    deposit = None if policy._budget is None else policy._budget.deposit

    async def retried(*args: Any, **kwargs: Any) -> Any:
        policy._calls += 1
        if deposit is not None:
            deposit()
        began = clock() if timed or policy._hub is not None else None
        try:
            result = await (fn(*args, **kwargs) if kwargs else fn(*args))
        except Exception as error:
            course = Course(policy, began)
            if (delay := course.failed(error)) is None:
                raise
        else:
            if retry_if is None or not retry_if(result):
                return result
            course = Course(policy, began)
            if (delay := course.disappointed(result)) is None:
                return result
        return await course.run(delay, fn, args, kwargs)

    return retried


# -- what goes on once an attempt has failed


class Course:
    """One call: how many attempts it has had, and what is planned. It keeps no error, only a summary for events."""

    __slots__ = ("_began", "_delays", "_policy", "attempts")

    def __init__(self, policy: Retry, began: float | None) -> None:
        self._policy = policy
        self._began = began
        self._delays: Iterator[float] | None = None
        self.attempts = 1

    async def run(self, delay: float, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make further attempts, the first of them after `delay` seconds."""
        again: float | None = delay
        result: Any = None
        while again is not None:
            await self.wait(again)
            try:
                result = await fn(*args, **kwargs)
            except Exception as error:
                again = self.failed(error)
                if again is None:
                    raise
            else:
                again = self.returned(result)
        return result

    async def wait(self, delay: float) -> None:
        """Wait until the next attempt, and begin it."""
        await anyio.sleep(delay)
        self.attempts += 1
        self._policy._retries += 1

    def retries(self, error: Exception) -> bool:
        """Whether the error is one that is retried."""
        return self._policy._retryable(error)

    def rejects(self, result: object) -> bool:
        """Whether the result is as bad as an error."""
        retry_if = self._policy._retry_if
        return retry_if is not None and bool(retry_if(result))

    def failed(self, error: Exception) -> float | None:
        """After how many seconds to try again; None if the error is to be raised."""
        if not self.retries(error):
            return None
        least, refused = 0.0, True
        for leaf in leaves(error):
            if isinstance(leaf, RefusedError):
                hint = hinted_delay(getattr(leaf, "retry_after", None), time.time())
            else:
                refused = False
                hint = self._hint(leaf)
            least = max(least, hint or 0.0)
        return self._again(error, least, exact=refused and least > 0)

    def returned(self, result: object) -> float | None:
        """After how many seconds to try again; None if the result is to be returned."""
        if self.rejects(result):
            return self.disappointed(result)
        self.succeeded()
        return None

    def disappointed(self, result: object) -> float | None:
        """The same for a result that is known to be bad."""
        return self._again(result, self._hint(result) or 0.0)

    def succeeded(self) -> None:
        """The last attempt was good."""
        if self.attempts > 1:
            self._policy._recovered += 1

    def _hint(self, subject: object) -> float | None:
        policy = self._policy
        hint = None if policy._hint is None else hinted_delay(policy._hint(subject), time.time())
        return None if hint is None else min(hint, policy._max_retry_after)

    def _again(self, subject: object, least: float, *, exact: bool = False) -> float | None:
        """Plan the next attempt, or give up; and tell. `least` is the shortest wait, or if `exact` the one."""
        policy = self._policy
        if policy._attempts == 1:
            return None
        plan = self._plan(least, exact)
        if isinstance(plan, str):
            policy._gave_up[plan] += 1
        if policy._hub is not None:
            self._tell(subject, plan)
        return None if isinstance(plan, str) else plan

    def _plan(self, least: float, exact: bool) -> float | Reason:
        policy = self._policy
        if self.attempts >= policy._attempts:
            return "attempts"
        delay = least
        if not exact:
            if self._delays is None:
                self._delays = policy._backoff.delays(policy._draw)
            usual = next(self._delays, None)
            if usual is None:
                return "backoff"
            delay = max(least, usual)
        elapsed = policy._clock() - self._began if policy._timed and self._began is not None else 0.0
        against = obstacle(delay=delay, elapsed=elapsed, total_time=policy._total_time, left=remaining())
        if against is not None:
            return against
        return delay if policy._budget is None or policy._budget.withdraw() else "budget"

    def _tell(self, subject: object, plan: float | Reason) -> None:
        policy = self._policy
        now = policy._clock()
        failure = FailureSummary.of(subject, now)
        if not isinstance(plan, str):
            policy._tell(Retrying, attempt=self.attempts, delay=plan, failure=failure)
            return
        elapsed = None if self._began is None else now - self._began
        policy._tell(GaveUp, attempts=self.attempts, elapsed=elapsed, reason=REASONS[plan], failure=failure)
