"""purgatory: failures in a row, breakers by name in a factory; refuses with OpenedState, one instance for all refusals."""

from typing import Any

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from . import Made, Observer, Peer


def plain(failures: int, open_for: float, trials: int) -> Made:
    factory = AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=open_for)
    block = "async with await breaker.get_breaker('peer'):\n    await fn()"

    async def state() -> object:
        return (await factory.get_breaker("peer")).context.state

    return Made(factory, factory("peer"), block=block, state=state)


def full(minimum_calls: int) -> Made:
    return plain(minimum_calls, 30.0, 1)


def observed(observer: Observer, failures: int, open_for: float) -> Made:
    made = plain(failures, open_for, 1)

    def told(name: str, kind: str, event: Any) -> None:
        if kind == "state_changed":
            observer({"opened": "open", "half-opened": "half_open"}.get(event.state, event.state))

    made.breaker.add_listener(told)
    return made


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
    observed=observed,
)
