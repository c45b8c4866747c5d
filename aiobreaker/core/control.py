"""The states of a circuit, what there is to know of them, and every transition: by hand, and as the law asks for it.

A transition begins a new era. What the end of a call means for it is decided in `circuit.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TypeVar

from .conditions import Condition, slow_after
from .eras import Door, Era, Flowing, HalfOpen, State, Stopped, Totals, Trials
from .schedules import Schedule, jittered
from .tallies import Reading
from .transitions import Cause, Forfeit, Transition
from .windows import LONG_AGO

K = TypeVar("K")

_NONE_YET = Totals()
_NO_MOVES: Mapping[tuple[State, State], int] = {}
_NO_REFUSALS: Mapping[State, int] = {}

LEAST_LEASE = 30.0  # seconds; the default lease of a trial is never shorter


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that the machine goes by, checked elsewhere."""

    conditions: tuple[Condition, ...]
    schedule: Schedule
    jitter: float
    trials: Trials

    @property
    def slow_after(self) -> float:
        """From how many seconds on a call is slow; infinity when no condition asks."""
        return slow_after(self.conditions)


class Controlled:
    """A circuit as it is told what to do.

    `draw` gives random numbers in [0, 1); `log` collects what happened until the shell takes it.
    With `personal`, every call needs a permit of its own; with `watched`, every refusal must be told.
    """

    __slots__ = (
        "_draw",
        "_found",
        "_holds",
        "_past",
        "_refusals",
        "_stragglers",
        "door",
        "era",
        "log",
        "moves",
        "personal",
        "rules",
        "watched",
    )

    def __init__(self, rules: Rules, now: float, draw: Callable[[], float]) -> None:
        self.rules = rules
        self.era: Era = Flowing(State.CLOSED, now, "new", rules.conditions)
        self.door = Door()
        self.personal = self.watched = False
        self.log: tuple[Transition | Forfeit, ...] = ()
        self.moves = _NO_MOVES
        self._draw = draw
        self._past = _NONE_YET
        self._refusals = _NO_REFUSALS
        self._stragglers = 0
        self._holds: tuple[object, ...] = ()
        self._found: Era = self.era
        self.open_door()

    # -- what there is to know

    @property
    def in_flight(self) -> int:
        """How many admitted calls have not ended, of this era and of earlier ones."""
        return self.stragglers + self.era.in_flight

    @property
    def stragglers(self) -> int:
        """How many calls of earlier eras have not ended."""
        return max(0, self._stragglers)

    def holds(self, hold: object) -> bool:
        """Whether this hold is in force."""
        return hold in self._holds

    @property
    def totals(self) -> Totals:
        """How all calls so far have ended."""
        return self._past if self.era.state is State.DISABLED else self._past.plus(self.era.totals)

    @property
    def transitions(self) -> int:
        """How often the state has changed so far."""
        return sum(self.moves.values())

    @property
    def refusals(self) -> Mapping[State, int]:
        """How many calls each state has refused so far."""
        return _plus(self._refusals, self.era.state, self.era.refused) if self.era.refused else self._refusals

    def readings(self, now: float) -> tuple[Reading, ...]:
        """Every condition as it stands; none in an era that counts nothing."""
        era = self.era
        if not isinstance(era, Flowing):
            return ()
        if era.flights is not None:
            era.age(now)
            era.watch_at = LONG_AGO  # the next call looks what follows from it
        return era.readings(now)

    def retry_after(self, now: float) -> float | None:
        """Seconds until time alone could admit a call; None when it could not, or when calls pass anyway."""
        if self.era.state not in (State.OPEN, State.HALF_OPEN):
            return None
        return 0.0 if self.wants_trial(now) else max(0.0, self.next_change() - now)

    def next_change(self) -> float:
        """When time alone could next admit a call: the end of the open time, or of the first lease."""
        return self.era.slots.next_expiry if isinstance(self.era, HalfOpen) else max(self.era.until, self.era.since)

    def wants_trial(self, now: float) -> bool:
        """Whether a call that asks now would be a trial."""
        era = self.era
        if isinstance(era, HalfOpen):
            return not era.why
        return era.state is State.OPEN and now >= era.until

    # -- orders

    def open(self, now: float, duration: float | None, reason: str) -> None:
        """Open by hand, for so long or for as long as the schedule says."""
        if self.era.state is State.OPEN and duration is None and now < self.era.until:
            return
        self._holds = ()
        attempt = self.era.attempt + 1 if isinstance(self.era, HalfOpen) else 0
        self._open(now, Cause.MANUAL, reason, attempt, duration)

    def half_open(self, now: float, cause: Cause = Cause.MANUAL, reason: str = "by hand") -> None:
        """Begin a round of trials."""
        era = self.era
        if era.state is State.HALF_OPEN:
            return
        self._holds = ()
        attempt = era.attempt if isinstance(era, Stopped) else 0
        lease = self.rules.trials.lease
        if lease is None:
            open_time = era.until - era.since if era.state is State.OPEN else self.rules.schedule.seconds(attempt)
            lease = max(open_time, LEAST_LEASE)
        self._begin(HalfOpen(now, reason, self.rules.trials, lease, attempt), cause, reason)

    def force_open(self, now: float, reason: str) -> None:
        """Refuse everything until told otherwise."""
        self._holds = ()
        self._begin(Stopped(State.FORCED_OPEN, now, reason, inf, 0), Cause.MANUAL, reason)

    def let_flow(self, now: float, state: State, reason: str) -> None:
        """Let calls pass: CLOSED, DISABLED or METRICS_ONLY, each with fresh counts."""
        self._holds = ()
        conditions = () if state is State.DISABLED else self.rules.conditions
        self._begin(Flowing(state, now, reason, conditions), Cause.MANUAL, reason)

    def hold(self, now: float, reason: str) -> object:
        """Refuse everything until this hold, and every other one, is released."""
        hold = object()
        holds = (*self._holds, hold)
        if len(holds) == 1:
            self._found = self.era
            self.force_open(now, reason)
        self._holds = holds
        return hold

    def release(self, hold: object, now: float) -> None:
        """End a hold. After the last one the circuit is as it was found; an order given meanwhile stands."""
        if hold not in self._holds:
            return
        self._holds = tuple(each for each in self._holds if each is not hold)
        if self._holds:
            return
        found, reason = self._found, "the hold was released"
        if isinstance(found, Flowing):
            self.let_flow(now, found.state, reason)
        elif found.state is State.FORCED_OPEN:
            self.force_open(now, found.reason)
        else:
            assert isinstance(found, Stopped | HalfOpen)
            until = now if isinstance(found, HalfOpen) else max(found.until, now)
            self._begin(Stopped(State.OPEN, now, reason, until, found.attempt), Cause.MANUAL, reason, until - now)

    def forget_calls(self) -> None:
        """Nothing is in flight any more: the process has forked, and this is the child."""
        era = self.era
        era.started = era.n + era.ignored + era.cancelled + era.late
        self._stragglers = 0

    # -- transitions

    def _open_time(self, attempt: int) -> float:
        return jittered(self.rules.schedule.seconds(attempt), self.rules.jitter, self._draw())

    def _open(self, now: float, cause: Cause, reason: str, attempt: int, duration: float | None = None) -> None:
        open_for = self.rules.schedule.seconds(attempt) if duration is None else duration
        try:
            open_for = self._open_time(attempt) if duration is None else duration
        finally:  # also if the random numbers raise: what has been decided is done
            self._begin(Stopped(State.OPEN, now, reason, now + open_for, attempt), cause, reason, open_for)

    def _begin(self, era: Era, cause: Cause, reason: str, open_for: float | None = None) -> None:
        old = self.era
        if era.state is not old.state:
            attempt = era.attempt if isinstance(era, Stopped) else 0
            readings = self.readings(era.since)
            self.log += (Transition(old.state, era.state, cause, reason, era.since, readings, open_for, attempt),)
            self.moves = _plus(self.moves, (old.state, era.state), 1)
        self.door.close()
        old.close_to_guards()
        self._refusals = self.refusals
        self.era = era
        self._stragglers += old.in_flight
        if old.state is not State.DISABLED:
            self._past = self._past.plus(old.totals)
        self.open_door()

    def open_door(self) -> None:
        """Show the guards the era, if calls pass in it without asking."""
        era, door = self.era, self.door
        door.close()
        if isinstance(era, Flowing):
            if self.watched:
                era.horizon = 0  # those that are running are told of too
            if not self.personal:
                door.era = era
                door.shared = era if era.flights is None else None
        elif isinstance(era, Stopped | HalfOpen) and not self.watched:
            door.stop = era


def _plus(counts: Mapping[K, int], key: K, more: int) -> Mapping[K, int]:
    """Counts that have grown, as a new mapping: the old one may be everybody's."""
    return {**counts, key: counts.get(key, 0) + more}
