"""What those around a guard can learn from its refusals. Law: a group is a refusal only if it is made of nothing else."""

from collections.abc import Sequence
from math import inf, isfinite

from .core.backoff import leaves
from .core.eras import State
from .deadlines import remaining
from .errors import CircuitOpenError, RefusedError

_NOBODY_KNOWS = 1.0
"""Seconds between attempts while nobody knows: the circuit is held open by hand, or trials may decide at any time."""


def apart(error: BaseException) -> tuple[list[RefusedError], list[BaseException]]:
    """The refusals that an error, or a group of errors, is made of, and the other errors in it."""
    refusals: list[RefusedError] = []
    others: list[BaseException] = []
    for leaf in leaves(error):
        if isinstance(leaf, RefusedError):
            refusals.append(leaf)
        else:
            others.append(leaf)
    return refusals, others


def longest_hint(refusals: Sequence[RefusedError]) -> float | None:
    """The most seconds that any of them tells its caller to wait; None if nobody knows."""
    hints = map(_hint, refusals)
    return max((hint for hint in hints if hint is not None and isfinite(hint)), default=None)


def seconds_to_wait(refusals: Sequence[RefusedError]) -> float:
    """After how many seconds another attempt is worth while, for all of them; a second while nobody knows."""
    return max(map(_seconds_to_wait, refusals))


def seconds_left() -> float:
    """Seconds until the deadline around the call; infinity in a thread without an event loop, where no deadline is seen."""
    try:
        return remaining()
    except RuntimeError:
        return inf


def _seconds_to_wait(refusal: RefusedError) -> float:
    hint = _hint(refusal)
    if hint is None or hint <= 0:
        return _NOBODY_KNOWS
    deciding = isinstance(refusal, CircuitOpenError) and refusal.state is State.HALF_OPEN
    return min(hint, _NOBODY_KNOWS) if deciding else hint


def _hint(refusal: RefusedError) -> float | None:
    hint: float | None = getattr(refusal, "retry_after", None)
    return hint
