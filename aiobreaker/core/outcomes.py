"""What a result or an exception means: success, failure, ignored, cancelled. Precedence: ignored, failure, success."""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, cast


class Outcome(StrEnum):
    """How a guarded call ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    CANCELLED = "cancelled"


ErrorRule = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
ResultRule = Callable[[Any], object]


def _matcher(argument: str, rule: object) -> Callable[[BaseException], bool]:
    if isinstance(rule, type):
        rule = (rule,)
    if isinstance(rule, tuple):
        for member in rule:
            if not (isinstance(member, type) and issubclass(member, BaseException)):
                raise TypeError(f"{argument} must be exception types or a function of the exception, not {member!r}")
        types = rule
        return lambda error: isinstance(error, types)
    if not callable(rule):
        raise TypeError(f"{argument} must be exception types or a function of the exception, not {rule!r}")
    return cast("Callable[[BaseException], bool]", rule)


class Judge:
    """The rules by which one breaker judges."""

    __slots__ = ("_fails", "_ignores", "failure_if")

    def __init__(self, failure_on: ErrorRule, ignore: ErrorRule, failure_if: ResultRule | None) -> None:
        if failure_if is not None and not callable(failure_if):
            raise TypeError(f"failure_if must be a function of the result, not {failure_if!r}")
        self._fails = _matcher("failure_on", failure_on)
        self._ignores = _matcher("ignore", ignore)
        self.failure_if = failure_if

    def result(self, result: object) -> Outcome:
        """A failure when `failure_if` says so, a success otherwise."""
        return Outcome.FAILURE if self.failure_if is not None and self.failure_if(result) else Outcome.SUCCESS

    def error(self, error: BaseException, cancelled: type[BaseException] | tuple[()] = ()) -> Outcome:
        """What an exception means; `cancelled` is what the running event loop cancels with.

        A group is judged by its leaves and never hides a failure: any failure makes it one; only cancellations make it
        cancelled; only cancelled and ignored ones, ignored.
        """
        if not isinstance(error, BaseExceptionGroup):
            return self._leaf(error, cancelled)
        outcomes = {self._leaf(leaf, cancelled) for leaf in _leaves(error)}
        for outcome in (Outcome.FAILURE, Outcome.SUCCESS, Outcome.IGNORED):
            if outcome in outcomes:
                return outcome
        return Outcome.CANCELLED

    def _leaf(self, error: BaseException, cancelled: type[BaseException] | tuple[()]) -> Outcome:
        if not isinstance(error, Exception):
            return Outcome.CANCELLED if isinstance(error, cancelled) else Outcome.IGNORED
        if self._ignores(error):
            return Outcome.IGNORED
        return Outcome.FAILURE if self._fails(error) else Outcome.SUCCESS


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
