"""The eras: one life of a state each, with everything that is counted in it. A call belongs to the era that admitted it.

An era that lets every call pass is itself the permit of all its calls, so that a guarded call allocates nothing. Elsewhere
each call has a `Permit` of its own. Both show the same thresholds, at which a guard must stop and ask.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import ClassVar, NamedTuple

from . import checks
from .conditions import Condition, slow_after
from .slots import Slots
from .tallies import Noted, Reading, SlowTally, Tally, tally
from .windows import LONG_AGO

FAR = 2**30 - 1
"""A horizon so far ahead is looked at again when it is reached. CPython compares integers up to this one fastest."""


_MOST_NOTED = 64  # failures, before they are counted in any case


class State(StrEnum):
    """What the circuit does with calls."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


@dataclass(frozen=True, slots=True)
class Trials:
    """How a half-open circuit finds out whether the dependency is back.

    At most `concurrent` trial calls run at once and at most `count` verdicts are wanted; `required` successes (default: all)
    close the circuit, and it re-opens as soon as they cannot be reached. A trial that has not ended `lease` seconds after it
    began (default: the open time, at least 30) counts as failed and loses its slot. After `max_inconclusive` trials without
    a verdict (default: twice `count`) the circuit re-opens.
    """

    count: int = 1
    concurrent: int = 1
    required: int | None = None
    lease: float | None = None
    max_inconclusive: int | None = None

    def __post_init__(self) -> None:
        checks.count("count", self.count)
        checks.count("concurrent", self.concurrent, at_most=self.count)
        if self.required is not None:
            checks.count("required", self.required, at_most=self.count)
        if self.lease is not None:
            checks.seconds("lease", self.lease)
        if self.max_inconclusive is not None:
            checks.count("max_inconclusive", self.max_inconclusive)

    @property
    def successes_to_close(self) -> int:
        """How many trials must succeed."""
        return self.count if self.required is None else self.required

    @property
    def neutral_to_open(self) -> int:
        """How many trials may end without a verdict."""
        return 2 * self.count if self.max_inconclusive is None else self.max_inconclusive


class Totals(NamedTuple):
    """How many calls ended in which way."""

    successes: int = 0
    failures: int = 0
    ignored: int = 0
    cancelled: int = 0
    late: int = 0
    refused: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Era:
    """What every era counts. `n` is the number of recorded outcomes; a guard adds a plain success to it by itself.

    The thresholds: `horizon`, the number of the first call that must be looked at; `slow_after` and `watch_at`, for calls that
    are slow; `roll_at`, when a window moves on; `spare`, how many failures away one is that must be looked at.
    """

    __slots__ = (
        "cancelled",
        "failures",
        "horizon",
        "ignored",
        "late",
        "n",
        "reason",
        "refused",
        "roll_at",
        "since",
        "slow_after",
        "spare",
        "started",
        "state",
        "until",
        "watch_at",
    )

    def __init__(self, state: State, since: float, reason: str, until: float = LONG_AGO) -> None:
        self.state = state
        self.since = since
        self.reason = reason
        self.until = until
        self.started = self.n = self.failures = self.ignored = self.cancelled = self.late = self.refused = 0
        self.close_to_guards()

    def close_to_guards(self) -> None:
        """From now on every guard of a call of this era stops and asks."""
        self.horizon: float = 0
        self.spare = 0
        self.slow_after: float = -1.0
        self.roll_at: float = LONG_AGO
        self.watch_at: float = LONG_AGO

    @property
    def in_flight(self) -> int:
        """How many of its calls have not ended."""
        return max(0, self.started - self.n - self.ignored - self.cancelled - self.late)

    def catch_up(self) -> None:
        """Nothing is left to be counted where guards count nothing by themselves."""

    @property
    def totals(self) -> Totals:
        """How its calls have ended so far."""
        self.catch_up()
        return Totals(self.n - self.failures, self.failures, self.ignored, self.cancelled, self.late, self.refused)


_NOTHING_NOTED: Noted = {}  # what an era begins with: it gets a dictionary of its own at the first call that is looked at


class Flowing(Era):
    """An era in which every call passes: CLOSED, METRICS_ONLY, DISABLED (the last without conditions).

    `flights` holds the start of every running call by its ticket, oldest first, if a condition counts calls in flight. `noted`
    holds the failures that guards have numbered by themselves, and that nobody has counted yet.
    """

    __slots__ = ("_levels", "_watchers", "flights", "noted", "quiet_until", "tallies")

    def __init__(self, state: State, since: float, reason: str, conditions: tuple[Condition, ...]) -> None:
        super().__init__(state, since, reason)
        self.quiet_until = LONG_AGO
        self.noted = _NOTHING_NOTED
        self.flights: dict[int, float] | None = None
        self._levels: tuple[dict[int, float], ...] = ()
        self.count_for(tuple(tally(condition) for condition in conditions))

    def count_for(self, tallies: tuple[Tally, ...]) -> None:
        """Count for these from now on. Calls in flight are known from the start of the first that asks for them."""
        self.tallies = tallies
        watchers = [each for each in tallies if isinstance(each, SlowTally) and each.condition.count_in_flight]
        self._watchers = tuple(sorted(watchers, key=lambda each: each.condition.slower_than))
        running = {ticket: began for level in self._levels for ticket, began in level.items()}
        if watchers or running:
            self._levels = (dict(sorted(running.items())), *({} for _ in watchers))
        self.flights = self._levels[0] if watchers else None
        self.look_ahead()
        self.watch_at = LONG_AGO if watchers else inf
        self.slow_after = slow_after(each.condition for each in tallies)

    def catch_up(self) -> None:
        """Count the failures that have only been noted."""
        while self.noted:
            none: Noted = {}
            noted, self.noted = self.noted, none
            self._count(noted)

    def _count(self, noted: Noted) -> None:
        self.failures += len(noted)
        for each in self.tallies:
            each.hand_over(noted)

    def look_ahead(self, now: float = LONG_AGO) -> Tally | None:
        """Work out when the verdict could next change. The answer is a tally whose condition is met, `now` if given."""
        while True:
            self.catch_up()
            for each in self.tallies:
                each.expire(self.n, now)
            number, met = self.n, None
            ahead: float = FAR if number < FAR else inf
            spare = _MOST_NOTED
            for each in self.tallies:
                horizon = each.horizon(number)
                if horizon <= number:
                    met = met or each
                ahead = min(ahead, horizon)
                spare = min(spare, each.patience(number))
            soon = min((each.memory.roll_at for each in self.tallies), default=inf)
            allowed = self._allowed(spare)
            self.horizon, self.roll_at = ahead, soon
            if not self.noted:  # else another thread has noted a failure meanwhile, and this must not allow for more
                self.spare = allowed
                return met

    def _allowed(self, spare: int) -> int:
        watched = self.flights is not None or self.quiet_until != LONG_AGO
        return 0 if watched or self.noted is _NOTHING_NOTED else spare

    def record(self, failed: bool, now: float, elapsed: float) -> Tally | None:
        """Count a success or failure, and look ahead in the same go."""
        none: Noted = {}  # made beforehand: between the next two lines nothing happens, so that all noted numbers are lower
        noted, self.noted = self.noted, none
        self.n = number = self.n + 1
        self.failures += failed
        if noted:
            self._count(noted)
        met: Tally | None = None
        ahead: float = FAR if number < FAR else inf
        soon, spare = inf, _MOST_NOTED
        for each in self.tallies:
            horizon = each.record(number, now, failed, elapsed)
            if horizon <= number:
                met = met or each
            elif horizon < ahead:
                ahead = horizon
            patience = each.patience(number)
            if patience < spare:
                spare = patience
            if each.memory.roll_at < soon:
                soon = each.memory.roll_at
        allowed = self._allowed(spare)
        self.horizon, self.roll_at = ahead, soon
        if self.noted:
            return self.look_ahead(now)
        self.spare = allowed
        return met

    def age(self, now: float) -> None:
        """Count the running calls that have become slow by now. Only where calls in flight count."""
        self.watch_at = inf
        for level, watcher in enumerate(self._watchers):
            young, old = self._levels[level], self._levels[level + 1]
            self.watch_at = min(self.watch_at, now + watcher.condition.slower_than)
            while young:
                ticket, began = _first(young)
                if now - began < watcher.condition.slower_than:
                    self.watch_at = min(self.watch_at, began + watcher.condition.slower_than)
                    break
                if young.pop(ticket, None) is not None:
                    old[ticket] = began
        self._count_aged()

    def take_off(self, now: float) -> int:
        """A call begins; the number is its ticket."""
        self.started += 1
        if self.flights is not None:
            self.flights[self.started] = now
        return self.started

    def land(self, ticket: int) -> None:
        """The call with this ticket is no longer in flight."""
        for level in self._levels:
            if level.pop(ticket, None) is not None and level is not self.flights:
                self._count_aged()

    def _count_aged(self) -> None:
        aged = 0
        for watcher, old in zip(reversed(self._watchers), reversed(self._levels), strict=False):
            aged += len(old)
            watcher.aged = aged

    def readings(self, now: float) -> tuple[Reading, ...]:
        """Every condition as it stands."""
        self.catch_up()
        return tuple(each.reading(self.n, now) for each in self.tallies)


def _first(flights: dict[int, float]) -> tuple[int, float]:
    """The oldest of them. Guards in other threads take theirs out at any moment."""
    while True:
        try:
            return next(iter(flights.items()), (0, inf))
        except RuntimeError:  # changed while we looked: look again
            continue


class Stopped(Era):
    """An era in which no call passes: OPEN until its time is over, or FORCED_OPEN. `why` is what refused callers are told."""

    __slots__ = ("attempt", "why")

    def __init__(self, state: State, since: float, reason: str, until: float, attempt: int) -> None:
        super().__init__(state, since, reason, until)
        self.attempt = attempt
        self.why = reason


class Door:
    """Where guards look first: the era, while every call may pass without asking; else None.

    `era` is for the guards made for these very settings, `shared` for those that only read the clock before and after. `stop`
    is the era in which no call passes `until` some time, unless something happens first, and nobody has to be told of refusals;
    else one whose time is over.
    """

    __slots__ = ("era", "shared", "stop")

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """From now on every guard asks."""
        self.era: Flowing | None = None
        self.shared: Flowing | None = None
        self.stop: Stopped | HalfOpen = _NO_STOP


_NO_STOP = Stopped(State.OPEN, LONG_AGO, "", LONG_AGO, 0)


class HalfOpen(Era):
    """An era of trials: `passed` and `failed` verdicts, `inconclusive` trials without one.

    While no further trial is admitted, `until` is when the first lease ends, and `why` says in words why not.
    """

    __slots__ = ("attempt", "failed", "inconclusive", "passed", "slots", "trials", "why")

    def __init__(self, since: float, reason: str, trials: Trials, lease: float, attempt: int) -> None:
        super().__init__(State.HALF_OPEN, since, reason)
        self.trials = trials
        self.attempt = attempt
        self.slots = Slots(trials.concurrent, lease)
        self.passed = self.failed = self.inconclusive = 0
        self.why = ""

    def look_at_slots(self) -> None:
        """See whether one more trial may begin. To be called after whatever changes that."""
        if not self.wants_trials:
            self.why = "as many trials are running as verdicts are wanted"
        elif self.slots.taken >= self.slots.limit:
            self.why = f"all trial slots are taken ({self.slots.limit} at once)"
        else:
            self.why = ""
        self.until = self.slots.next_expiry if self.why else LONG_AGO

    @property
    def wants_trials(self) -> bool:
        """Whether one more trial could still bring a verdict that is wanted."""
        return self.passed + self.failed + self.slots.taken < self.trials.count


class Permit:
    """One admitted call of its own. It settles once; what comes after that is ignored.

    `above` is the permit for the same call of the breaker that stands above this one.
    """

    __slots__ = ("above", "answered", "began", "era", "settled", "ticket")

    n: ClassVar[int] = 0
    horizon: ClassVar[float] = 0
    spare: ClassVar[int] = 0
    slow_after: ClassVar[float] = -1.0
    roll_at: ClassVar[float] = LONG_AGO

    def __init__(self, era: Era, began: float, ticket: int = 0) -> None:
        self.era = era
        self.began = began
        self.answered: float | None = None
        self.ticket = ticket
        self.settled = False
        self.above: Permit | None = None


class Refusal(NamedTuple):
    """Why a call was not admitted, and after how many seconds one could be (None: nobody knows)."""

    state: State
    reason: str
    retry_after: float | None
