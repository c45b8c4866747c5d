"""The time line as plain data: what ended in which slice of time, and how service and circuit stood then."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from ..core.eras import State
from .plot import Fault
from .record import Ending, Record


@dataclass(slots=True)
class Slice:
    """One slice of time. `state` is the most telling one that the circuit had in it; both are None in what is to come."""

    endings: Counter[Ending] = field(default_factory=Counter[Ending])
    fault: Fault | None = None
    state: State | None = None

    def stack(self, height: int, most: int) -> list[Ending]:
        """From the bottom up, `height` cells for `most` calls. Whatever occurred at all has a cell."""
        cells = {ending: max(1, round(n * height / most)) for ending in Ending if (n := self.endings[ending])}
        while sum(cells.values()) > height:
            cells[max(cells, key=lambda ending: cells[ending])] -= 1
        return [ending for ending, n in cells.items() for _ in range(n)]


def slices(record: Record, count: int) -> list[Slice]:
    """The whole run, planned or longer, in so many slices."""
    elapsed = record.elapsed
    span = max(record.plot.duration, elapsed)
    found = [Slice() for _ in range(count)]

    def at(moment: float) -> int:
        return min(count - 1, max(0, int((moment - record.began_at) / span * count)))

    now = record.began_at + elapsed
    for call in record.calls:
        found[at(call.ended_at)].endings[call.ending] += 1
    for outage in record.outages:
        for each in found[at(outage.broken_at) : at(outage.mended_at or now) + 1]:
            each.fault = outage.fault
    changes = [(record.began_at, State.CLOSED), *((event.at, event.new) for event in record.events), (now, State.CLOSED)]
    for (since, state), (until, _) in pairwise(changes):
        for each in found[at(since) : at(until) + 1]:
            each.state = _more_telling(each.state, state)
    return found


def _more_telling(one: State | None, other: State) -> State:
    order = [None, State.CLOSED, State.OPEN, State.HALF_OPEN]
    return max(one or State.CLOSED, other, key=order.index)
