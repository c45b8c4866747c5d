"""fluxgate: count and time windows, slow calls, failures in a row; refuses with CallNotPermittedError. Written for asyncio."""

from fluxgate import AsyncCircuitBreaker, CallNotPermittedError
from fluxgate.permits import All
from fluxgate.retries import Cooldown
from fluxgate.trippers import Closed, FailureRate, FailureStreak, HalfOpened, MinRequests, SlowRate
from fluxgate.windows import CountWindow

from . import Made, Peer


def _made(breaker: AsyncCircuitBreaker) -> Made:
    return Made(breaker, breaker, call="await breaker.call(fn)")


def plain(failures: int, open_for: float, trials: int) -> Made:
    return _made(
        AsyncCircuitBreaker(
            tripper=(Closed() & FailureStreak(failures)) | (HalfOpened() & FailureStreak(1)),
            retry=Cooldown(open_for),
            permit=All(),
            max_half_open_calls=trials,
        )
    )


def full(minimum_calls: int) -> Made:
    rates = FailureRate(0.5) | SlowRate(0.5, threshold=60.0)
    return _made(AsyncCircuitBreaker(window=CountWindow(100), tripper=MinRequests(minimum_calls) & rates, permit=All()))


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
)
