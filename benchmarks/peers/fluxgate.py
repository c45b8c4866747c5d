"""fluxgate: count and time windows, slow calls, failures in a row; refuses with CallNotPermittedError. Written for asyncio."""

from typing import Any

from fluxgate import AsyncCircuitBreaker, CallNotPermittedError
from fluxgate.permits import All
from fluxgate.retries import Cooldown
from fluxgate.trackers import TypeOf
from fluxgate.trippers import Closed, FailureRate, FailureStreak, HalfOpened, MinRequests, SlowRate
from fluxgate.windows import CountWindow, TimeWindow

from . import Made, Observer, Peer


def _made(breaker: AsyncCircuitBreaker) -> Made:
    return Made(breaker, breaker, call="await breaker.call(fn)", state=lambda: breaker.info().state, close=breaker.reset)


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(_in_a_row(failures, open_for, trials))


def _in_a_row(failures: int, open_for: float, trials: int, **settings: Any) -> AsyncCircuitBreaker:
    return AsyncCircuitBreaker(
        tripper=(Closed() & FailureStreak(failures)) | (HalfOpened() & FailureStreak(1)),
        retry=Cooldown(open_for),
        permit=All(),
        max_half_open_calls=trials,
        **settings,
    )


def full(minimum_calls: int) -> Made:
    rates = FailureRate(0.5) | SlowRate(0.5, threshold=60.0)
    return _made(AsyncCircuitBreaker(window=CountWindow(100), tripper=MinRequests(minimum_calls) & rates, permit=All()))


def slow(slower_than: float, minimum_calls: int) -> Made:
    return _made(AsyncCircuitBreaker(tripper=MinRequests(minimum_calls) & SlowRate(0.5, threshold=slower_than), permit=All()))


def only(kind: type[Exception], failures: int) -> Made:
    return _made(_in_a_row(failures, 30.0, 1, tracker=TypeOf(kind)))


def recent(seconds: int, minimum_calls: int) -> Made:
    tripper = MinRequests(minimum_calls) & FailureRate(0.5)
    return _made(AsyncCircuitBreaker(window=TimeWindow(seconds), tripper=tripper, permit=All()))


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    return _made(_in_a_row(failures, open_for, 1, listeners=(lambda signal: observer(signal.new_state),)))


PEER = Peer(
    distribution="fluxgate",
    counts="failure rate and slow calls, last 100 calls",
    cannot=(
        "trials are limited at once, not in number: the first success closes, and who came meanwhile waits and then runs",
        "no block",
        "asyncio only: under trio every change of state raises",
    ),
    refusals=(CallNotPermittedError,),
    trio=False,
    plain=plain,
    full=full,
    limits_trials=True,
    slow=slow,
    only=only,
    recent=recent,
    observed=observed,
)
