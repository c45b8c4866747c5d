"""What metrics say of breakers, read only when somebody collects: one row for each name, and one for all names beyond a limit.

Law: of the counts in a row none ever goes down, whichever breakers are evicted, come back, or share a name; nothing is counted
twice; and reading keeps no breaker alive.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary

from .breaker import CircuitBreaker, Snapshot
from .core import checks
from .core.eras import State, Totals
from .locking import LOCK
from .registry import BreakerRegistry

Source = CircuitBreaker | BreakerRegistry[Any]
"""What can be observed."""

OTHER: Final = "other"
"""The name of the row for all breakers whose names came too late for one of their own."""

_Counts = Counter[Hashable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What there is to say of all breakers of one name: of one breaker, as a rule.

    Counts are those since the beginning, and never go down: `totals` by outcome; `refusals` by the state that refused (their
    sum is `totals.refused`); `moves`, the transitions by (old, new) state; `events_lost` by slow readers of the streams. What
    any circuit may come to by itself is there from the beginning, as 0: a rate needs a value to rise from.

    The rest is as it stands now. `states` says how many of the breakers are in each state; all states are there. `in_flight`
    and `waiting` are calls, of all breakers together. The fractions `failure_rate` and `slow_rate`, the seconds until a call
    could be admitted (`retry_after`) and the seconds for which it has been open or forced open (`open_for`, 0 in other states)
    are the highest of any of them, and None where no breaker has any.
    """

    name: str
    totals: Totals
    refusals: Mapping[State, int]
    moves: Mapping[tuple[State, State], int]
    events_lost: int
    states: Mapping[State, int]
    in_flight: int
    waiting: int
    failure_rate: float | None
    slow_rate: float | None
    retry_after: float | None
    open_for: float | None


class Observed:
    """Breakers and registries, as rows for metrics: `Observed(payments, registry).rows()`.

    Of a registry it sees every breaker that is alive: those that are kept, and those that have gone and are held elsewhere. A
    breaker that has gone for good leaves its counts behind, as they were at the last reading, and its successor goes on from
    there. What it counted between that reading and its end is lost.

    The first `max_series` names have rows of their own, for good; all that come later share the row `other`, and so does a
    breaker of that name. So there are never more than `max_series` + 1 rows, however many keys come and go. Breakers that are
    given by themselves come before those of registries.

    Args:
        sources: circuit breakers and breaker registries, at least one. The breakers of registries are not kept alive.
        max_series: how many names get a row of their own.

    Raises:
        TypeError, ValueError: an argument cannot be; the message names it, its value, and what is allowed.
    """

    __slots__ = ("_accounts", "_breakers", "_last", "_max_series", "_registries")

    def __init__(self, *sources: Source, max_series: int = 100) -> None:
        if not sources:
            raise ValueError("sources must be at least one circuit breaker or breaker registry")
        for source in sources:
            if not isinstance(source, CircuitBreaker | BreakerRegistry):
                raise TypeError(f"sources must be circuit breakers and breaker registries, not {source!r}")
        self._breakers = [source for source in sources if isinstance(source, CircuitBreaker)]
        self._registries = [source for source in sources if isinstance(source, BreakerRegistry)]
        self._max_series = checks.count("max_series", max_series)
        self._accounts: dict[str, _Counts] = {}
        self._last: WeakKeyDictionary[CircuitBreaker, _Counts] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Observed of {len(self._breakers)} breakers and {len(self._registries)} registries>"

    @property
    def has_registries(self) -> bool:
        """Whether there is a registry among the sources."""
        return bool(self._registries)

    @property
    def events_lost(self) -> int:
        """How many events slow readers of the registries' own streams have lost: they are of no single breaker."""
        return sum({id(registry): registry.events_lost for registry in self._registries}.values())

    def rows(self) -> Sequence[Row]:
        """One look at everything: a row for each name ever seen, the earliest first, `other` last if there is one.

        It makes no breaker, is no request for any, and may be called in any thread.
        """
        groups: dict[str, list[Snapshot]] = {name: [] for name in list(self._accounts)}
        for breaker in self._alive():
            seen, last = breaker.snapshot(), self._last.setdefault(breaker, Counter())
            with LOCK:
                name = self._row_name(seen.name)
                _book(self._accounts[name], last, seen)
            groups.setdefault(name, []).append(seen)
        return [self._row(name, groups[name]) for name in sorted(groups, key=OTHER.__eq__)]

    def _alive(self) -> Iterable[CircuitBreaker]:
        """Every breaker that there is, once."""
        breakers = {id(breaker): breaker for breaker in self._breakers}
        for registry in self._registries:
            entries = [reference() for reference in registry._entries.valuerefs()]
            breakers.update((id(entry.breaker), entry.breaker) for entry in entries if entry is not None)
        return breakers.values()

    def _row_name(self, name: str) -> str:
        """The row for breakers of this name, made if there is none."""
        if name not in self._accounts:
            own = len(self._accounts) - (OTHER in self._accounts)
            name = name if own < self._max_series else OTHER
            self._accounts.setdefault(name, Counter())
        return name

    def _row(self, name: str, seen: list[Snapshot]) -> Row:
        with LOCK:
            account = self._accounts[name].copy()
        refusals = {state: account[state] for state in _REFUSALS}
        moves = {move: account[move] for move in _MOVES}
        moves.update({(key[0], key[1]): count for key, count in account.items() if isinstance(key, tuple)})
        return Row(
            name=name,
            totals=Totals(**{outcome: account[outcome] for outcome in _OUTCOMES}, refused=sum(refusals.values())),
            refusals=MappingProxyType(refusals),
            moves=MappingProxyType(moves),
            events_lost=account["events_lost"],
            states=MappingProxyType({state: sum(each.state is state for each in seen) for state in State}),
            in_flight=sum(each.in_flight for each in seen),
            waiting=sum(each.waiting for each in seen),
            failure_rate=_highest(each.failure_rate for each in seen),
            slow_rate=_highest(each.slow_rate for each in seen),
            retry_after=_highest(each.retry_after for each in seen),
            open_for=_highest(each.at - each.since if each.state in _REFUSING else 0.0 for each in seen),
        )


_OUTCOMES: Final = ("successes", "failures", "ignored", "cancelled", "late")
_REFUSALS: Final = (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN)
_REFUSING: Final = (State.OPEN, State.FORCED_OPEN)
_MOVES: Final = (
    (State.CLOSED, State.OPEN),
    (State.OPEN, State.HALF_OPEN),
    (State.HALF_OPEN, State.OPEN),
    (State.HALF_OPEN, State.CLOSED),
)


def _book(account: _Counts, last: _Counts, seen: Snapshot) -> None:
    """Add what a breaker has counted since it was last read. Under the lock.

    A count that seems to have gone down (a call is being counted in another thread, or that thread was faster with a later
    reading) waits until it has come up again.
    """
    for key, count in _counts(seen):
        if count > last[key]:
            account[key] += count - last[key]
            last[key] = count


def _counts(seen: Snapshot) -> Iterator[tuple[Hashable, int]]:
    """Every count of a breaker, by outcome, by state that refused, by transition."""
    yield from zip(_OUTCOMES, seen.totals, strict=False)
    yield from seen.refusals.items()
    yield from seen.moves.items()
    yield "events_lost", seen.events_lost


def _highest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
