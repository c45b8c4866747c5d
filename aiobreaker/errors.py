"""Everything a caller may catch.

    AiobreakerError
    └── RefusedError            the guarded function never ran
        └── CircuitOpenError    a circuit breaker refused the call

None of them is a client library's error: SDKs retry those. A refusal is always a fresh instance and keeps no other
exception alive; the failure behind it is told as a summary.
"""

from typing import NamedTuple

from .core.eras import State

_LONGEST_MESSAGE = 200


def told(subject: object) -> tuple[str, str]:
    """Type and message of an exception, or of a result that counts as a failure."""
    try:
        if isinstance(subject, BaseException):
            return type(subject).__name__, str(subject)[:_LONGEST_MESSAGE]
        return "result", repr(subject)[:_LONGEST_MESSAGE]
    except Exception:  # somebody's __str__ must not break the guarded call
        return type(subject).__name__, "(no text: its __str__ raised)"


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
        return cls(*told(subject), at)

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
    why the circuit refuses; `last_failure` is a summary of the newest failure it has seen.
    """

    __slots__ = ("last_failure", "name", "reason", "retry_after", "state")

    def __init__(
        self,
        name: str,
        state: State = State.OPEN,
        reason: str = "",
        retry_after: float | None = None,
        last_failure: FailureSummary | None = None,
    ) -> None:
        self.name = name
        self.state = state
        self.reason = reason
        self.retry_after = retry_after
        self.last_failure = last_failure

    def __reduce__(self) -> tuple[type["CircuitOpenError"], tuple[object, ...]]:
        return type(self), (self.name, self.state, self.reason, self.retry_after, self.last_failure)

    def __str__(self) -> str:
        words = f"circuit breaker {self.name!r} is {self.state.value.replace('_', ' ')}"
        if self.reason:
            words += f": {self.reason}"
        if self.retry_after is not None:
            words += f"; retry after {self.retry_after:.3g} s"
        return words
