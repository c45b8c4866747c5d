"""The older project of this name, 1.2.0: failures in a row; refuses with CircuitBreakerError. Never installed beside ours."""

from datetime import timedelta
from importlib import import_module, metadata
from typing import Any

from . import Made, Observer, Peer

if not metadata.version("aiobreaker").startswith("1."):
    raise ImportError("the aiobreaker that is installed here is another project")

_older: Any = import_module("aiobreaker")


def plain(failures: int, open_for: float, trials: int) -> Made:
    breaker = _older.CircuitBreaker(fail_max=failures, timeout_duration=timedelta(seconds=open_for))
    return Made(
        breaker,
        breaker,
        call="await breaker.call_async(fn)",
        state=lambda: breaker.current_state.name,
        close=breaker.close,
    )


def full(minimum_calls: int) -> Made:
    return plain(minimum_calls, 30.0, 1)


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    class Listener(_older.CircuitBreakerListener):  # type: ignore[misc]
        def state_change(self, breaker: Any, old: Any, new: Any) -> None:
            observer(new.state.name.lower())

    made = plain(failures, open_for, 1)
    made.breaker.add_listener(Listener())
    return made


def retry_after(refusal: Any) -> float | None:
    remaining = refusal.time_remaining
    return None if remaining is None else float(remaining.total_seconds())


PEER = Peer(
    distribution="aiobreaker",
    counts="failures in a row",
    cannot=(
        "no limit of trials: every caller passes while it is half-open, and one success closes",
        "no window, no slow calls, no block",
        "the call that trips it raises its refusal in place of the call's own error",
    ),
    refusals=(_older.CircuitBreakerError,),
    trio=True,
    plain=plain,
    full=full,
    observed=observed,
    retry_after=retry_after,
)
