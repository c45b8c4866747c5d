"""Everything a caller may catch.

    AiobreakerError
    └── RefusedError                the guarded function never ran
        ├── CircuitOpenError        a circuit breaker refused the call
        └── ShortageError           a guard of our own had no room; it says nothing about the dependency
            ├── BulkheadFullError   too many calls at once
            ├── LimitReachedError   more calls at once than an adaptive limit allows now
            ├── RateLimitedError    too many calls per second
            └── ThrottledError      refused by chance, because the dependency refuses so many

None of them is a client library's error: SDKs retry those. A refusal is always a fresh instance and keeps no other
exception alive; the failure behind it is told as a summary.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from .core.eras import State

_LONGEST_MESSAGE = 200


def told(error: BaseException) -> str:
    """The message of an exception, shortened."""
    try:
        return str(error)[:_LONGEST_MESSAGE]
    except Exception:  # somebody's __str__ must not break the guarded call
        return "(no text: its __str__ raised)"


def _shown(result: object) -> str:
    try:
        return repr(result)[:_LONGEST_MESSAGE]
    except Exception:
        return "(no text: its __repr__ raised)"


class FailureSummary(NamedTuple):
    """A failure without its traceback: the type's name, the message (shortened), and when, on the breaker's clock.

    A result that counts as a failure has the type "result".
    """

    type: str
    message: str
    at: float

    @classmethod
    def of(cls, subject: object, at: float) -> "FailureSummary":
        """The summary of an exception, or of a result that counts as a failure."""
        if isinstance(subject, BaseException):
            return cls(type(subject).__name__, told(subject), at)
        return cls("result", _shown(subject), at)

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class AiobreakerError(Exception):
    """The root of this library's errors."""

    __slots__ = ()


class RefusedError(AiobreakerError):
    """A guard refused the call. The guarded function never ran."""

    __slots__ = ()


class CircuitOpenError(RefusedError):
    """A circuit breaker refused the call.

    `retry_after` is the number of seconds after which a call could be admitted, None if nobody knows; `reason` says in words
    why the circuit refuses; `last_failure` is a summary of the newest failure it has seen. Only the name is needed to make one
    by hand, and all are given by place.
    """

    __slots__ = ()  # everything is in `args`, and there is no `__init__`: refusals are many, and both take time

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            state: State = State.OPEN,
            reason: str = "",
            retry_after: float | None = None,
            last_failure: FailureSummary | None = None,
            /,
        ) -> None: ...

    def _given(self, place: int, otherwise: Any) -> Any:
        return self.args[place] if place < len(self.args) else otherwise

    @property
    def name(self) -> str:
        """What the breaker is called."""
        name: str = self._given(0, "")
        return name

    @property
    def state(self) -> State:
        """What the circuit did with calls at that moment."""
        state: State = self._given(1, State.OPEN)
        return state

    @property
    def reason(self) -> str:
        """Why it refuses, in words."""
        reason: str = self._given(2, "")
        return reason

    @property
    def retry_after(self) -> float | None:
        """After how many seconds a call could be admitted; None if nobody knows."""
        seconds: float | None = self._given(3, None)
        return seconds

    @property
    def last_failure(self) -> FailureSummary | None:
        """The newest failure that the breaker has seen."""
        failure: FailureSummary | None = self._given(4, None)
        return failure

    def __str__(self) -> str:
        words = f"circuit breaker {self.name!r} is {self.state.value.replace('_', ' ')}"
        if self.reason:
            words += f": {self.reason}"
        if self.retry_after is not None:
            words += f"; retry after {self.retry_after:.3g} s"
        return words


class ShortageError(RefusedError):
    """A guard had no room for the call. This is no fault of the dependency: circuit breakers ignore it.

    `name` is what the guard is called, `reason` says why in words, and `retry_after` is the number of seconds after which a
    call could pass, None if nobody knows.
    """

    def __init__(self, name: str, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(name, reason, retry_after)
        self.name = name
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        words = f"{self.name}: {self.reason}" if self.reason else self.name
        return words if self.retry_after is None else f"{words}; retry after {self.retry_after:.3g} s"


class BulkheadFullError(ShortageError):
    """A bulkhead has as many calls inside, and waiting, as it takes."""


class LimitReachedError(ShortageError):
    """As many calls are running as an adaptive limit allows at the moment."""


class RateLimitedError(ShortageError):
    """The call came sooner than the rate allows."""


class ThrottledError(ShortageError):
    """Refused by chance, with a probability that grows with the share of calls that the dependency turns down."""
