"""What happened, as it happened: calls, outages, transitions. All moments are on the one monotonic clock of the breaker."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from ..core.eras import State
from ..events import Event, EventsLost, StateChanged
from .clock import now
from .plot import Fault, Plot


class Ending(StrEnum):
    """How a call ended for its caller."""

    FINE = "fine"
    SLOW = "slow"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that has ended."""

    number: int
    sent_at: float
    ended_at: float
    ending: Ending

    @property
    def took(self) -> float:
        """Seconds that its caller waited."""
        return self.ended_at - self.sent_at


@dataclass(slots=True)
class Outage:
    """One outage: when the service broke and was mended, and when the breaker knew."""

    fault: Fault
    broken_at: float
    mended_at: float | None = None
    detected_at: float | None = None
    recovered_at: float | None = None

    @property
    def time_to_detect(self) -> float | None:
        """Seconds from breaking to OPEN."""
        return None if self.detected_at is None else self.detected_at - self.broken_at

    @property
    def time_to_recover(self) -> float | None:
        """Seconds from mending to CLOSED."""
        return None if self.recovered_at is None or self.mended_at is None else self.recovered_at - self.mended_at

    def touches(self, call: Call) -> bool:
        """Whether the call was under way at any time between the breaking and the recovery."""
        return call.ended_at >= self.broken_at and (self.recovered_at is None or call.sent_at < self.recovered_at)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the story: who did what, so many seconds after the beginning. `state` is what the circuit has come to."""

    at: float
    who: str
    what: str
    state: State | None = None
    broken: bool = False


@dataclass(slots=True)
class Record:
    """Everything about one run. `tell` is called with every new line of the story."""

    plot: Plot
    seed: int
    backend: str
    tell: Callable[[Entry], object]
    began_at: float = field(default_factory=now)
    ended_at: float | None = None
    interrupted_by: int | None = None
    calls: list[Call] = field(default_factory=list[Call])
    endings: Counter[Ending] = field(default_factory=Counter[Ending])
    service_url: str | None = None
    sent: int = 0
    reached: set[int] = field(default_factory=set[int])
    outages: list[Outage] = field(default_factory=list[Outage])
    events: list[StateChanged] = field(default_factory=list[StateChanged])
    story: list[Entry] = field(default_factory=list[Entry])

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning to now, or to the end."""
        return (now() if self.ended_at is None else self.ended_at) - self.began_at

    @property
    def outage(self) -> Outage | None:
        """The newest outage."""
        return self.outages[-1] if self.outages else None

    def note(self, who: str, what: str, at: float | None = None, *, state: State | None = None, broken: bool = False) -> None:
        """Add a line to the story."""
        entry = Entry((now() if at is None else at) - self.began_at, who, what, state, broken)
        self.story.append(entry)
        self.tell(entry)

    def call_ended(self, call: Call) -> None:
        """Keep a call."""
        self.calls.append(call)
        self.endings[call.ending] += 1

    def breaks(self, fault: Fault) -> None:
        """The service is being broken now."""
        self.outages.append(Outage(fault, now()))
        self.note("service", fault.told, self.outages[-1].broken_at, broken=True)

    def mended(self) -> None:
        """The service is well again. A circuit that has closed by now has found out before us."""
        if self.outage is not None:
            self.outage.mended_at = min(now(), self.outage.recovered_at or inf)
            self.note("service", "is well again", self.outage.mended_at)

    def saw(self, event: Event) -> None:
        """Keep what the breaker tells."""
        if isinstance(event, EventsLost):
            self.note("circuit", f"{event.count} events lost", event.at)
        if not isinstance(event, StateChanged):
            return
        self.events.append(event)
        outage = self.outage
        if outage is not None and event.new is State.OPEN and outage.detected_at is None:
            outage.detected_at = event.at
        elif outage is not None and event.new is State.CLOSED and outage.recovered_at is None:
            outage.recovered_at = event.at
        self.note("circuit", f"{_words(event.old)} -> {_words(event.new)}: {event.reason}", event.at, state=event.new)


def _words(state: State) -> str:
    return state.value.replace("_", "-")
