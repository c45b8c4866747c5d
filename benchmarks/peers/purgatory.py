"""purgatory: failures in a row, breakers by name in a factory; refuses with OpenedState, one instance for all refusals."""

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from . import Made, Peer


def plain(failures: int, open_for: float, trials: int) -> Made:
    factory = AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=open_for)
    block = "async with await breaker.get_breaker('peer'):\n    await fn()"
    return Made(factory, factory("peer"), block=block)


def full(minimum_calls: int) -> Made:
    return plain(minimum_calls, 30.0, 1)


PEER = Peer(
    distribution="purgatory",
    counts="failures in a row",
    cannot=(
        "no limit of trials: every caller passes while it is half-open, and one success closes",
        "no window, no slow calls",
        "one stored error is raised for all refusals, and its traceback grows with each",
    ),
    refusals=(OpenedState,),
    trio=True,
    plain=plain,
    full=full,
)
