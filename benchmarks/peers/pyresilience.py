"""pyresilience: failures in a row, or a count window with slow calls; refuses with CircuitOpenError."""

from functools import partial
from typing import Any

from pyresilience import (
    CircuitBreakerConfig,
    CircuitOpenError,
    ResilienceConfig,
    ResilienceRegistry,
    health_check,
    resilient,
)

from . import Made, Observer, Peer


def _made(**settings: Any) -> Made:
    config = CircuitBreakerConfig(**settings)
    return Made(config, partial(_decorate, config))


def _decorate(config: CircuitBreakerConfig, fn: Any) -> Any:
    return resilient(circuit_breaker=config)(fn)


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(failure_threshold=failures, recovery_timeout=open_for, success_threshold=trials)


def full(minimum_calls: int) -> Made:
    return _made(sliding_window_size=100, minimum_calls=minimum_calls, slow_call_duration=60.0, slow_call_rate_threshold=0.5)


def slow(slower_than: float, minimum_calls: int) -> Made:
    return _made(
        sliding_window_size=100, minimum_calls=minimum_calls, slow_call_duration=slower_than, slow_call_rate_threshold=0.5
    )


def only(kind: type[Exception], failures: int) -> Made:
    return _made(failure_threshold=failures, error_types=(kind,))


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    registry = ResilienceRegistry()
    config = CircuitBreakerConfig(failure_threshold=failures, recovery_timeout=open_for, success_threshold=1)

    def told(event: Any) -> None:
        kind, _, state = event.event_type.value.partition("_")
        if kind == "circuit":
            observer(state)

    registry.register("peer", ResilienceConfig(circuit_breaker=config, listeners=[told]))
    return Made(config, registry.decorator("peer"), state=lambda: health_check(registry)["peer"]["circuit_breaker"]["state"])


PEER = Peer(
    distribution="pyresilience",
    counts="failure rate and slow calls, last 100 calls",
    cannot=(
        "no limit of trials: every caller passes while it is half-open",
        "no time window",
        "every decorated function has a breaker of its own, unless a registry has them share one; no call and no block",
    ),
    refusals=(CircuitOpenError,),
    trio=True,
    plain=plain,
    full=full,
    slow=slow,
    only=only,
    observed=observed,
)
