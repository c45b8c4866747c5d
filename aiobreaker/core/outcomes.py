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


Types = tuple[type[BaseException], ...]


def _split(argument: str, rule: object) -> tuple[Types, Callable[[BaseException], bool] | None]:
    """A rule as exception types and as a function; one of the two is empty."""
    if callable(rule) and not isinstance(rule, type):
        return (), cast("Callable[[BaseException], bool]", rule)
    types = rule if isinstance(rule, tuple) else (rule,)
    for member in types:
        if not (isinstance(member, type) and issubclass(member, BaseException)):
            raise TypeError(f"{argument} must be exception types or a function of the exception, not {member!r}")
    return cast("Types", types), None


class Judge:
    """The rules by which one guard judges. `word` is what its settings call a failure: `<word>_on` and `<word>_if`."""

    __slots__ = ("_fails", "_failure_types", "_ignored_types", "_ignores", "failure_if")

    def __init__(
        self, failure_on: ErrorRule, ignore: ErrorRule, failure_if: ResultRule | None, *, word: str = "failure"
    ) -> None:
        if failure_if is not None and not callable(failure_if):
            raise TypeError(f"{word}_if must be a function of the result, not {failure_if!r}")
        self._failure_types, self._fails = _split(f"{word}_on", failure_on)
        self._ignored_types, self._ignores = _split("ignore", ignore)
        self.failure_if = failure_if

    def fails(self, result: object) -> bool:
        """Whether a result is a failure: `failure_if` says so."""
        return self.failure_if is not None and bool(self.failure_if(result))

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

    def is_plain_failure(self, error: BaseException) -> bool:
        """A quick look that is sure: of this one, and of all of its type. False only means that it is not."""
        return (
            all(type(rule) is type for rule in (*self._failure_types, *self._ignored_types))  # others may look at the instance
            and isinstance(error, self._failure_types)
            and not isinstance(error, self._ignored_types)
            and self._ignores is None
            and isinstance(error, Exception)
            and not isinstance(error, BaseExceptionGroup)
        )

    def _leaf(self, error: BaseException, cancelled: type[BaseException] | tuple[()]) -> Outcome:
        if not isinstance(error, Exception):
            return Outcome.CANCELLED if isinstance(error, cancelled) else Outcome.IGNORED
        if isinstance(error, self._ignored_types) or (self._ignores is not None and self._ignores(error)):
            return Outcome.IGNORED
        failed = isinstance(error, self._failure_types) or (self._fails is not None and self._fails(error))
        return Outcome.FAILURE if failed else Outcome.SUCCESS


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
