"""interlock-cb: count and time windows with slow calls; refuses with CircuitOpenError."""

from interlock import CircuitBreaker, CircuitOpenError, Config

from . import Made, Peer


def _made(config: Config) -> Made:
    breaker = CircuitBreaker(name="peer", config=config)
    return Made(breaker, breaker, call="await breaker.call_async(fn)", block="async with breaker:\n    await fn()")


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(
        Config(
            window_size=failures,
            minimum_number_of_calls=failures,
            failure_rate_threshold=1.0,
            wait_duration_in_open=open_for,
            permitted_calls_in_half_open=trials,
        )
    )


def full(minimum_calls: int) -> Made:
    return _made(Config(window_size=100, minimum_number_of_calls=minimum_calls, slow_call_rate_threshold=0.5))


PEER = Peer(
    distribution="interlock-cb",
    counts="failure rate and slow calls, last 100 calls",
    cannot=("failures in a row are a window that is no longer than they are, all of it failed",),
    refusals=(CircuitOpenError,),
    trio=True,
    plain=plain,
    full=full,
)
