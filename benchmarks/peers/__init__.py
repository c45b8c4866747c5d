"""Other circuit breakers, each behind one small adapter, all in one form. What is not installed is left out."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

Function = Callable[..., Coroutine[Any, Any, Any]]
Observer = Callable[[str], object]  # told the new state: "closed", "open" or "half_open"

ADAPTERS = {
    "interlock-cb": "interlock_cb",
    "nopanic": "nopanic",
    "pyresilience": "pyresilience",
    "fluxgate": "fluxgate",
    "circuitbreaker": "circuitbreaker",
    "hyx": "hyx",
    "purgatory": "purgatory",
    "aiobreaker 1.2.0": "aiobreaker_1_2",
}


@dataclass(frozen=True)
class Made:
    """One breaker of a peer. `call` and `block` are statements with `breaker` and `fn`, as its users write them, if it can.

    `state` reads its state and `close` closes it by hand; either may have to be awaited.
    """

    breaker: Any
    decorate: Callable[[Any], Any]
    call: str | None = None
    block: str | None = None
    state: Callable[[], object] | None = None
    close: Callable[[], object] | None = None


@dataclass(frozen=True)
class Peer:
    """One other circuit breaker.

    `plain` makes one that opens after so many failures in a row, stays open for so many seconds, and closes after so many
    trials; it comes as near to that as the peer can. `full` makes one with everything that it counts, see `counts`, and does
    not judge before it has seen so many calls.

    The others are there if it can do that. `slow` makes one that counts calls of so many seconds or longer as slow, and opens
    at a half of them, of at least so many calls; `in_flight` the same, and counts those that are still running; `only` one
    that opens at so many failures of one type alone; `recent` one that opens at a half of the calls in the last so many
    seconds, of at least so many; `observed` a plain one with an observer. `retry_after` reads from a refusal after how many
    seconds a call could be admitted.
    """

    distribution: str
    counts: str
    cannot: tuple[str, ...]
    refusals: tuple[type[BaseException], ...]
    trio: bool
    plain: Callable[[int, float, int], Made]
    full: Callable[[int], Made]
    limits_trials: bool = False
    slow: Callable[[float, int], Made] | None = None
    in_flight: Callable[[float, int], Made] | None = None
    only: Callable[[type[Exception], int], Made] | None = None
    recent: Callable[[int, int], Made] | None = None
    observed: Callable[[Observer, int, float], Made] | None = None
    retry_after: Callable[[Any], float | None] | None = None

    @property
    def version(self) -> str:
        """Of the distribution that is installed."""
        return metadata.version(self.distribution)

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{self.distribution} {self.version}"

    def guard(self, fn: Function, *, failures: int, open_for: float, trials: int) -> Function:
        """The function in a plain breaker of its own, as a decorator makes it."""
        guarded: Function = self.plain(failures, open_for, trials).decorate(fn)
        return guarded


def installed() -> list[Peer]:
    """The peers that are there."""
    return [peer for name in ADAPTERS if (peer := find(name)) is not None]


def find(name: str) -> Peer | None:
    """One peer by its name in ADAPTERS; None if it is not installed."""
    try:
        peer: Peer = import_module(f"{__name__}.{ADAPTERS[name]}").PEER
    except ImportError:
        return None
    return peer
