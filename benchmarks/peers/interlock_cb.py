"""interlock-cb: count and time windows with slow calls; refuses with CircuitOpenError."""

from typing import Any

from interlock import CircuitBreaker, CircuitOpenError, Config, WindowType

from . import Made, Observer, Peer


class _Listener:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def on_state_change(self, *, name: str, old: Any, new: Any) -> None:
        self._observer(new.value)


def _made(config: Config, listener: _Listener | None = None) -> Made:
    breaker = CircuitBreaker(name="peer", config=config, listener=listener)
    return Made(
        breaker,
        breaker,
        call="await breaker.call_async(fn)",
        block="async with breaker:\n    await fn()",
        state=lambda: breaker.state.value,
        close=breaker.reset,
    )


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(_in_a_row(failures, open_for, trials))


def _in_a_row(failures: int, open_for: float, trials: int) -> Config:
    return Config(
        window_size=failures,
        minimum_number_of_calls=failures,
        failure_rate_threshold=1.0,
        wait_duration_in_open=open_for,
        permitted_calls_in_half_open=trials,
        max_concurrent_probes=trials,
    )


def full(minimum_calls: int) -> Made:
    return _made(Config(window_size=100, minimum_number_of_calls=minimum_calls, slow_call_rate_threshold=0.5))


def slow(slower_than: float, minimum_calls: int) -> Made:
    return _made(
        Config(minimum_number_of_calls=minimum_calls, slow_call_duration_threshold=slower_than, slow_call_rate_threshold=0.5)
    )


def recent(seconds: int, minimum_calls: int) -> Made:
    return _made(Config(window_type=WindowType.TIME_BASED, window_size=seconds, minimum_number_of_calls=minimum_calls))


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    return _made(_in_a_row(failures, open_for, 1), _Listener(observer))


PEER = Peer(
    distribution="interlock-cb",
    counts="failure rate and slow calls, last 100 calls",
    cannot=("failures in a row are a window that is no longer than they are, all of it failed",),
    refusals=(CircuitOpenError,),
    trio=True,
    plain=plain,
    full=full,
    limits_trials=True,
    slow=slow,
    recent=recent,
    observed=observed,
    retry_after=lambda refusal: refusal.retry_after,
)
