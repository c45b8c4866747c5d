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
    why the circuit refuses; `last_failure` is a summary of the newest failure it has seen.
    """

    __slots__ = ()  # everything is in `args`, which costs nothing

    args: tuple[str, State, str, float | None, FailureSummary | None]

    def __init__(
        self,
        name: str,
        state: State = State.OPEN,
        reason: str = "",
        retry_after: float | None = None,
        last_failure: FailureSummary | None = None,
    ) -> None:
        super().__init__(name, state, reason, retry_after, last_failure)

    @property
    def name(self) -> str:
        """What the breaker is called."""
        return self.args[0]

    @property
    def state(self) -> State:
        """What the circuit did with calls at that moment."""
        return self.args[1]

    @property
    def reason(self) -> str:
        """Why it refuses, in words."""
        return self.args[2]

    @property
    def retry_after(self) -> float | None:
        """After how many seconds a call could be admitted; None if nobody knows."""
        return self.args[3]

    @property
    def last_failure(self) -> FailureSummary | None:
        """The newest failure that the breaker has seen."""
        return self.args[4]

    def __str__(self) -> str:
        words = f"circuit breaker {self.name!r} is {self.state.value.replace('_', ' ')}"
        if self.reason:
            words += f": {self.reason}"
        if self.retry_after is not None:
            words += f"; retry after {self.retry_after:.3g} s"
        return words


fresh_error = CircuitOpenError.__new__  # with all five arguments: no `__init__`, for refusals are many
